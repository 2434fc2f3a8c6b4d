"""Going on from an earlier model, and learning its leaves anew."""

import pickle

import kilter
import numpy as np
import pandas as pd
import pytest
from data import amounts, classes


def bytes_of_trees(estimator, X):
    return estimator.decision_function(X) if hasattr(estimator, "decision_function") else estimator.model_.margins(X)


@pytest.mark.parametrize("sampling", [{}, {"subsample": 0.7, "max_features": 0.6}])
def test_some_trees_and_then_more_are_the_trees_of_one_fit(sampling):
    X, y = classes()
    of = lambda trees: kilter.GradientBoostingClassifier(n_estimators=trees, **sampling)
    whole, first = of(30).fit(X, y), of(12).fit(X, y)
    for earlier in (first, first.model_, pickle.loads(pickle.dumps(first)), kilter.Model.from_bytes(first.model_.to_bytes())):
        second = of(18).fit(X, y, init_model=earlier)
        assert np.array_equal(bytes_of_trees(second, X), bytes_of_trees(whole, X)) and second.n_estimators_ == 30
    assert second.report_["report"]["earlier_trees"] == 12
    three = np.digitize(np.nan_to_num(X[:, 0]), [-0.5, 0.5])
    whole, first = of(20).fit(X, three), of(8).fit(X, three)
    assert np.array_equal(of(12).fit(X, three, init_model=first).predict_proba(X), whole.predict_proba(X))


def test_regressions_go_on_with_new_rows():
    (X, y), (X_new, y_new) = amounts(seed=1), amounts(seed=2)
    model = kilter.GradientBoostingRegressor(loss="gamma", n_estimators=50)
    earlier = model.fit(X, y).model_
    error = lambda model: np.mean((np.log(model.predict(X_new)) - np.log(3 * y_new)) ** 2)
    before = error(model)
    later = kilter.GradientBoostingRegressor(loss="gamma", n_estimators=30).fit(X_new, 3 * y_new, init_model=earlier)
    assert error(later) < 0.25 * before and later.n_estimators_ == 80


def test_refit_follows_new_labels_and_keeps_the_splits():
    (X, y), (X_new, y_new) = amounts(seed=3), amounts(seed=4)
    frame = pd.DataFrame(X, columns=list("abcd"))
    fitted = lambda: kilter.GradientBoostingRegressor(n_estimators=40, monotonic_cst={"a": 1}).fit(frame, y)
    before = fitted().model_
    new = pd.DataFrame(X_new, columns=list("abcd"))
    error = lambda model: np.mean((model.predictions(new) - 2 * y_new) ** 2)
    errors = [error(fitted().refit(new, 2 * y_new, decay_rate=decay).model_) for decay in (1.0, 0.5, 0.0)]
    assert errors[0] == error(before) > 2 * errors[1] > 2 * errors[2]
    model = fitted().refit(new, 2 * y_new)
    report = model.report_["report"]
    assert report["refit"] == {"rows": len(new), "decay_rate": 0.9} and report["certificate"]["columns"] == 1
    assert before.describe_json() != model.model_.describe_json() and model.n_estimators_ == 40
    # On the rows of the fit and of one word, weights included, nothing moves.
    weight = 1.0 + (np.arange(len(y)) % 3)
    model = kilter.GradientBoostingClassifier(n_estimators=20).fit(X, y > 2, sample_weight=weight)
    margins = model.decision_function(X)
    assert np.array_equal(model.refit(X, y > 2, weight, decay_rate=0.0).decision_function(X), margins)


def test_what_does_not_fit_is_told():
    X, y = classes(300)
    frame = pd.DataFrame(X, columns=list("abcde"))
    model = kilter.GradientBoostingClassifier(n_estimators=3)
    earlier = kilter.GradientBoostingClassifier(n_estimators=3).fit(frame, y)
    with pytest.raises(ValueError, match="names and order must be equal"):
        model.fit(frame[list("bacde")], y, init_model=earlier)
    with pytest.raises(ValueError, match="margins mean the same"):
        kilter.GradientBoostingRegressor().fit(frame, y, init_model=earlier)
    with pytest.raises(ValueError, match='kind "logistic"'):
        model.fit(X, y, init_model=kilter.LogisticRegression().fit(X, y))
    with pytest.raises(TypeError, match="fitted estimator or a kilter.Model, not str"):
        model.fit(X, y, init_model="model.kltm")
    three = kilter.GradientBoostingClassifier(n_estimators=3).fit(X, np.arange(300) % 3)
    with pytest.raises(ValueError, match="more than two classes cannot be refitted"):
        three.refit(X, np.arange(300) % 3)
    with pytest.raises(TypeError):
        model.fit(X, y, init_model=three)
    with pytest.raises(ValueError, match="y has classes"):
        earlier.refit(frame, y + 1)
    with pytest.raises(ValueError, match="decay_rate is 2"):
        earlier.refit(frame, y, decay_rate=2.0)
