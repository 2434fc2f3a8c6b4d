"""Random forests and extra trees beside scikit-learn's."""

import pickle

import kilter
import numpy as np
import pandas as pd
import pytest
import sklearn.ensemble
from data import amounts, classes
from sklearn.metrics import r2_score, roc_auc_score

CLASSIFIERS = ["RandomForestClassifier", "ExtraTreesClassifier"]
REGRESSORS = ["RandomForestRegressor", "ExtraTreesRegressor"]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_learn_as_well_as_scikit_learns(name):
    (X, y), (X_test, y_test) = classes(5_000, seed=1), classes(5_000, seed=2)
    auc = lambda model: roc_auc_score(y_test, model.fit(np.nan_to_num(X), y).predict_proba(np.nan_to_num(X_test))[:, 1])
    parameters = dict(n_estimators=100, min_samples_leaf=5, max_features="sqrt", random_state=0)
    ours, theirs = auc(getattr(kilter, name)(**parameters)), auc(getattr(sklearn.ensemble, name)(**parameters))
    assert ours > 0.8 and ours > theirs - 0.01, (ours, theirs)


@pytest.mark.parametrize("name", REGRESSORS)
def test_regressors_learn_as_well_as_scikit_learns(name):
    (X, y), (X_test, y_test) = amounts(4_000, seed=1), amounts(4_000, seed=2)
    score = lambda model: r2_score(y_test, model.fit(X, y).predict(X_test))
    parameters = dict(n_estimators=100, min_samples_leaf=5, max_features=0.5, random_state=0)
    ours, theirs = score(getattr(kilter, name)(**parameters)), score(getattr(sklearn.ensemble, name)(**parameters))
    assert ours > 0.4 and ours > theirs - 0.02, (ours, theirs)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_parts_are_of_the_probability(name):
    X, y = classes()
    model = getattr(kilter, name)(n_estimators=20).fit(X, y)
    contributions, base = model.explain(X)
    positive = model.predict_proba(X)[:, 1]
    np.testing.assert_allclose(base + contributions.sum(axis=1), positive, atol=1e-9)
    assert model.model_.link == "probability" and model.score_one(X[3]) == positive[3]
    assert not hasattr(model, "decision_function")
    assert np.array_equal(model.predict(X), model.classes_[(positive > 0.5).astype(int)])
    assert model.feature_importances_.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("name", [*CLASSIFIERS, *REGRESSORS])
def test_files_pickles_frames_and_threads_keep_every_bit(name, tmp_path):
    X, y = classes()
    frame = pd.DataFrame(X, columns=list("abcde"))
    fit = lambda n_jobs: getattr(kilter, name)(n_estimators=20, n_jobs=n_jobs).fit(frame, y)
    model = fit(1)
    assert fit(4).model_.to_bytes() == model.model_.to_bytes()
    expected = model.predict(frame)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict(frame), expected)
    model.model_.save(tmp_path / "forest.kltm")
    loaded = kilter.Model.load(tmp_path / "forest.kltm")
    assert np.array_equal(loaded.predictions(frame[list("edcba")]), model.model_.predictions(frame))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.rename(columns={"a": "z"}))


def test_rows_that_a_tree_has_not_drawn_judge_it():
    X, y = classes()
    assert kilter.RandomForestClassifier(n_estimators=20).fit(X, y).report_["report"]["out_of_bag"] is not None
    assert kilter.ExtraTreesClassifier(n_estimators=20).fit(X, y).report_["report"]["out_of_bag"] is None


def test_parameters_are_told():
    X, y = classes(300)
    assert kilter.RandomForestClassifier(mtry=2, n_trees=3, min_node_size=4).get_params()["max_features"] == 2
    for given in ["sqrt", "log2", 3, 0.5, 1.0, None, np.int64(2)]:
        kilter.RandomForestClassifier(n_estimators=2, max_features=given).fit(X, y)
    for given in ["root", 0, -1, 1.5, 0.0, True]:
        with pytest.raises(ValueError, match="max_features is .* share"):
            kilter.RandomForestClassifier(n_estimators=2, max_features=given).fit(X, y)
    with pytest.raises(ValueError, match="draw_fraction is 2"):
        kilter.RandomForestClassifier(max_samples=2.0).fit(X, y)
    with pytest.raises(TypeError, match="'max_feature'; did you mean 'max_features'"):
        kilter.RandomForestClassifier(max_feature=2)
