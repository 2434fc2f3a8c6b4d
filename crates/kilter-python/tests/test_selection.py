"""scikit-learn's own tools for choosing and combining models work with every estimator."""

import kilter
import numpy as np
import pandas as pd
import pytest
from data import amounts, classes
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.feature_selection import SelectFromModel
from sklearn.impute import SimpleImputer
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV, TimeSeriesSplit, cross_val_predict, cross_val_score, learning_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

CLASSIFIERS = [
    kilter.GradientBoostingClassifier(n_estimators=15),
    kilter.ExplainableBoostingClassifier(bags=2, max_rounds=300),
    kilter.RandomForestClassifier(n_estimators=15),
    kilter.ExtraTreesClassifier(n_estimators=15),
    kilter.LogisticRegression(),
    kilter.Scorecard(),
    kilter.CalibratedModel(kilter.LogisticRegression(), method="platt"),
]
REGRESSORS = [
    kilter.GradientBoostingRegressor(n_estimators=15),
    kilter.ExplainableBoostingRegressor(bags=2, max_rounds=300),
    kilter.RandomForestRegressor(n_estimators=15),
    kilter.ExtraTreesRegressor(n_estimators=15),
    kilter.LinearRegression(),
    kilter.Ridge(),
    kilter.ElasticNet(alpha=0.01),
]
X, Y = classes(1_500)
A, Z = amounts(1_500)
named = lambda estimator: type(estimator).__name__


@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=named)
def test_classifiers_are_cross_validated(estimator):
    scores = cross_val_score(estimator, X, Y, cv=3, scoring="roc_auc")
    assert scores.shape == (3,) and scores.min() > 0.65, scores
    later = cross_val_score(estimator, X, Y, cv=TimeSeriesSplit(2), scoring="neg_log_loss")
    assert np.isfinite(later).all()
    held_out = cross_val_predict(estimator, X, Y, cv=3, method="predict_proba")
    assert roc_auc_score(Y, held_out[:, 1]) > 0.65
    sizes, _, judged = learning_curve(estimator, X, Y, cv=2, train_sizes=[0.5, 1.0], shuffle=True, random_state=0)
    assert judged.shape == (len(sizes), 2) and np.isfinite(judged).all()


@pytest.mark.parametrize("estimator", REGRESSORS, ids=named)
def test_regressors_are_cross_validated(estimator):
    scores = cross_val_score(estimator, A, Z, cv=3)
    assert scores.min() > 0.3, scores
    logarithms = TransformedTargetRegressor(estimator, func=np.log, inverse_func=np.exp)
    assert cross_val_score(logarithms, A, Z, cv=2).min() > 0.15


@pytest.mark.parametrize(
    "estimator, grid",
    [
        (kilter.GradientBoostingClassifier(n_estimators=10), {"learning_rate": [0.001, 0.3], "max_leaf_nodes": [4, 8]}),
        (kilter.RandomForestClassifier(n_estimators=10), {"max_features": [1, "sqrt", None]}),
        (kilter.LogisticRegression(), {"C": [1e-6, 1.0], "l1_ratio": [0.0, 1.0]}),
        (kilter.Scorecard(), {"max_bins": [2, 8]}),
        (kilter.CalibratedModel(kilter.LogisticRegression(), method="platt"), {"estimator__C": [1e-6, 1.0], "share": [0.2, 0.4]}),
    ],
    ids=lambda value: named(value) if hasattr(value, "fit") else "",
)
def test_a_grid_finds_parameters(estimator, grid):
    search = GridSearchCV(estimator, grid, cv=2, scoring="neg_log_loss", n_jobs=1).fit(X, Y)
    assert set(search.best_params_) == set(grid)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert np.array_equal(search.predict_proba(X), search.best_estimator_.predict_proba(X))
    assert search.best_score_ == max(search.cv_results_["mean_test_score"])


def test_a_search_takes_other_names_of_parameters_and_processes():
    search = RandomizedSearchCV(kilter.GradientBoostingClassifier(n_estimators=5), {"num_leaves": [3, 9, 27]}, n_iter=2, cv=2, random_state=0, n_jobs=2)
    assert search.fit(X, Y).best_estimator_.max_leaf_nodes == search.best_params_["num_leaves"]


@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=named)
def test_pipelines_hand_over_arrays_and_frames(estimator):
    frame = pd.DataFrame(X, columns=list("abcde"))
    pipeline = make_pipeline(SimpleImputer(), StandardScaler(), clone(estimator)).fit(frame, Y)
    assert roc_auc_score(Y, pipeline.predict_proba(frame)[:, 1]) > 0.7
    by_name = make_column_transformer((SimpleImputer(), ["e", "a"]), remainder="passthrough", verbose_feature_names_out=False)
    pipeline = make_pipeline(by_name, clone(estimator)).set_output(transform="pandas").fit(frame, Y)
    assert list(pipeline[-1].feature_names_in_) == ["e", "a", "b", "c", "d"]
    assert pipeline[-1].model_.inputs == ["e", "a", "b", "c", "d"]
    assert np.array_equal(clone(pipeline).fit(frame, Y).predict_proba(frame), pipeline.predict_proba(frame))


@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=named)
@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
def test_scikit_learn_calibrates(estimator, method):
    calibrated = CalibratedClassifierCV(estimator, method=method, cv=2).fit(X, Y)
    probabilities = calibrated.predict_proba(X)
    assert np.isfinite(probabilities).all() and roc_auc_score(Y, probabilities[:, 1]) > 0.7


def test_models_are_combined():
    parts = [("trees", CLASSIFIERS[0]), ("forest", CLASSIFIERS[2]), ("line", CLASSIFIERS[4])]
    for combined in [VotingClassifier(parts, voting="soft"), StackingClassifier(parts, kilter.LogisticRegression(), cv=2)]:
        assert roc_auc_score(Y, combined.fit(X, Y).predict_proba(X)[:, 1]) > 0.75
    assert BaggingClassifier(kilter.LogisticRegression(), 3, random_state=0).fit(np.nan_to_num(X), Y).score(np.nan_to_num(X), Y) > 0.6


@pytest.mark.parametrize("estimator", [CLASSIFIERS[0], CLASSIFIERS[1], CLASSIFIERS[2]], ids=named)
def test_models_are_inspected(estimator):
    model = clone(estimator).fit(X, Y)
    importance = permutation_importance(model, X, Y, n_repeats=2, random_state=0).importances_mean
    assert importance.argmax() == 0
    curve = partial_dependence(model, np.nan_to_num(X), [0], grid_resolution=10)["average"][0]
    assert curve[-1] > curve[0]
    chosen = SelectFromModel(model, prefit=True, threshold="mean").get_support()
    assert chosen[0] and chosen.sum() < X.shape[1]
