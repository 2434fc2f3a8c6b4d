"""What the regressor promises beyond scikit-learn's checks."""

import pickle

import kilter
import numpy as np
import pandas as pd
import pytest
from data import amounts
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import mean_absolute_error, mean_gamma_deviance, mean_pinball_loss, mean_poisson_deviance, mean_squared_error, mean_tweedie_deviance

# The loss as it is judged, and the peer that learns it, where scikit-learn has one.
JUDGES = {
    "squared_error": (mean_squared_error, "squared_error"),
    "absolute_error": (mean_absolute_error, "absolute_error"),
    "poisson": (mean_poisson_deviance, "poisson"),
    "gamma": (mean_gamma_deviance, "gamma"),
}


@pytest.mark.parametrize("loss", JUDGES)
def test_it_learns_as_well_as_a_peer(loss):
    (X, y), (X_test, y_test) = amounts(5_000, seed=1), amounts(5_000, seed=2)
    judge, peers_loss = JUDGES[loss]
    ours = judge(y_test, kilter.GradientBoostingRegressor(loss=loss).fit(X, y).predict(X_test))
    peers = judge(y_test, HistGradientBoostingRegressor(loss=peers_loss, early_stopping=False).fit(X, y).predict(X_test))
    mean = judge(y_test, np.full(len(y_test), y.mean()))
    assert ours < 0.8 * mean, (ours, mean)
    assert ours < 1.05 * peers, (ours, peers)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.9])
def test_quantiles_are_quantiles(level):
    (X, y), (X_test, y_test) = amounts(5_000, seed=1), amounts(5_000, seed=2)
    model = kilter.GradientBoostingRegressor(loss="quantile", quantile=level).fit(X, y)
    assert abs(np.mean(y_test <= model.predict(X_test)) - level) < 0.06
    loss = lambda predicted: mean_pinball_loss(y_test, predicted, alpha=level)
    assert loss(model.predict(X_test)) < 0.9 * loss(np.full(len(y_test), np.quantile(y, level)))


def test_each_loss_has_its_own_minimum():
    (X, y), (X_test, y_test) = amounts(5_000, seed=1), amounts(5_000, seed=2)
    outliers = y.copy()
    outliers[::50] *= 100
    fit = lambda y, **parameters: kilter.GradientBoostingRegressor(**parameters).fit(X, y).predict(X_test)
    error = lambda predicted: mean_absolute_error(y_test, predicted)
    assert error(fit(outliers, loss="huber", delta=1.0)) < 0.5 * error(fit(outliers))
    zeros = np.where(np.random.default_rng(5).random(len(y)) < 0.5, 0.0, y)
    by_power = lambda predicted: mean_tweedie_deviance(np.maximum(y_test, 0), predicted, power=1.5)
    predicted = fit(zeros, loss="tweedie", tweedie_power=1.5)
    assert (predicted > 0).all() and by_power(2 * predicted) < by_power(np.full(len(y_test), y_test.mean()))


def test_other_names_of_parameters_and_losses():
    model = kilter.GradientBoostingRegressor(objective="mae", num_leaves=7, reg_lambda=0.0)
    assert (model.loss, model.max_leaf_nodes, model.l2_regularization) == ("mae", 7, 0.0)
    X, y = amounts(500)
    same = kilter.GradientBoostingRegressor(loss="absolute_error", max_leaf_nodes=7, l2_regularization=0.0).fit(X, y)
    assert model.fit(X, y).model_.to_bytes() == same.model_.to_bytes()
    with pytest.raises(TypeError, match="no parameter 'alpha'"):
        kilter.GradientBoostingRegressor(alpha=0.9)


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"loss": "squared_eror"}, "did you mean 'squared_error'"),
        ({"loss": "quantile", "quantile": 1.5}, "quantile.level is 1.5"),
        ({"loss": "tweedie", "tweedie_power": 3}, "tweedie.power is 3"),
        ({"loss": "huber", "delta": 0}, "huber.delta is 0"),
        ({"quantile": 0.9}, "belongs to loss='quantile'"),
        ({"loss": "gamma"}, "labels must be above 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
    ],
)
def test_bad_parameters_are_told(parameters, message):
    X, y = amounts(200)
    with pytest.raises(ValueError, match=message):
        kilter.GradientBoostingRegressor(**parameters).fit(X, y - y.min())


def test_one_row_files_and_threads_change_no_bit(tmp_path):
    X, y = amounts(20_000)
    frame = pd.DataFrame(X, columns=list("abcd"))
    model, many = (kilter.GradientBoostingRegressor(loss="poisson", n_estimators=30, n_jobs=n).fit(frame, y) for n in (1, 4))
    assert model.model_.to_bytes() == many.model_.to_bytes()
    predicted = model.predict(frame)
    assert np.array_equal(predicted, many.predict(frame))
    assert [model.score_one(dict(zip("abcd", map(float, row)))) for row in X[:20]] == predicted[:20].tolist()
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict(frame), predicted)
    model.model_.save(tmp_path / "count.kltm")
    loaded = kilter.Model.load(tmp_path / "count.kltm")
    assert (loaded.link, loaded.inputs) == ("log", list("abcd"))
    assert np.array_equal(loaded.predictions(frame), predicted)
    with pytest.raises(ValueError, match="no probability.*\n.*predictions"):
        loaded.probabilities(frame)


@pytest.mark.parametrize("loss", ["squared_error", "gamma"])
def test_contributions_add_up_on_the_links_scale(loss):
    X, y = amounts()
    model = kilter.GradientBoostingRegressor(loss=loss, n_estimators=40).fit(X, y)
    contributions, base = model.explain(X)
    margins = base + contributions.sum(axis=1)
    np.testing.assert_allclose(np.exp(margins) if loss == "gamma" else margins, model.predict(X), rtol=1e-9)
    value, reasons = model.model_.explain_one(X[0], top=2)
    assert value == model.predict(X[:1])[0] and len(reasons) == 2


def test_weights_and_monotone_constraints_count():
    X, y = amounts(4_000)
    heavy = np.where(X[:, 0] > 0.5, 10.0, 1.0)
    model = kilter.GradientBoostingRegressor(n_estimators=60)
    near = X[:, 0] > 0.5
    error = lambda predicted: mean_squared_error(y[near], predicted[near])
    assert error(model.fit(X, y, sample_weight=heavy).predict(X)) < error(model.fit(X, y).predict(X))
    bound = kilter.GradientBoostingRegressor(n_estimators=60, monotonic_cst={"a": 1}).fit(pd.DataFrame(X, columns=list("abcd")), y)
    rows = np.repeat(X[:50], 40, axis=0)
    rows[:, 0] = np.tile(np.linspace(-1, 2, 40), 50)
    predicted = bound.predict(pd.DataFrame(rows, columns=list("abcd"))).reshape(50, 40)
    assert (np.diff(predicted, axis=1) >= 0).all()


def test_early_stopping_keeps_the_best_number_of_trees():
    (X, y), later = amounts(2_000, seed=1), amounts(2_000, seed=2)
    model = kilter.GradientBoostingRegressor(n_estimators=800, learning_rate=0.3, early_stopping=True, n_iter_no_change=10)
    model.fit(X, y, eval_set=later)
    losses = model.report_["report"]["validation_loss"]
    assert model.n_estimators_ == int(np.argmin(losses)) + 1 < 800


def test_labels_may_be_probabilities():
    X, y = amounts(4_000, seed=1)
    share = np.clip(y / y.max(), 0, 1)
    model = kilter.GradientBoostingRegressor(loss="cross_entropy", n_estimators=60).fit(X, share)
    assert model.model_.link == "logit" and abs(model.predict(X).mean() / share.mean() - 1) < 0.01
    assert np.corrcoef(model.predict(X), share)[0, 1] > 0.8
    # Of labels that are 0 and 1 it is the classifier.
    ones = (y > 2).astype(float)
    classifier = kilter.GradientBoostingClassifier(n_estimators=20).fit(X, ones)
    assert np.array_equal(kilter.GradientBoostingRegressor(loss="xentropy", n_estimators=20).fit(X, ones).predict(X), classifier.predict_proba(X)[:, 1])
    with pytest.raises(ValueError, match="labels must be 0 or 1, or a probability"):
        model.fit(X, y)
