"""Penalties of linear models, beside scikit-learn's."""

import kilter
import numpy as np
import pytest
import sklearn
from data import amounts, classes
from sklearn import linear_model
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5, 1.0])
def test_margins_are_those_of_scikit_learn_on_standardised_columns(l1_ratio):
    X, y = classes(2_000)
    X = np.nan_to_num(X)
    ours = kilter.LogisticRegression(C=0.02, l1_ratio=l1_ratio).fit(X, y)
    Z = StandardScaler().fit_transform(X)
    # From 1.8 on the ratio alone tells the penalty.
    penalty = {} if tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 8) else {"penalty": "elasticnet"}
    peers = LogisticRegression(C=0.02, l1_ratio=l1_ratio, solver="saga", max_iter=20_000, tol=1e-10, **penalty).fit(Z, y)
    np.testing.assert_allclose(ours.decision_function(X), peers.decision_function(Z), atol=1e-5)
    assert np.array_equal(ours.model_.importance() == 0, peers.coef_[0] == 0)


def test_an_l1_penalty_leaves_columns_out():
    X, y = classes(2_000)
    kept = lambda **parameters: np.count_nonzero(kilter.LogisticRegression(**parameters).fit(X, y).model_.importance())
    assert kept(C=0.001, l1_ratio=1.0) < kept(C=0.001) == X.shape[1]
    assert kept(C=1e-9, l1_ratio=1.0) == 0


@pytest.mark.parametrize("l1_ratio", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_0_and_1(l1_ratio):
    X, y = classes(100)
    with pytest.raises(ValueError, match="l1_ratio is .* between 0 and 1"):
        kilter.LogisticRegression(l1_ratio=l1_ratio).fit(X, y)


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (kilter.LinearRegression(), linear_model.LinearRegression()),
        (kilter.Ridge(alpha=100.0), linear_model.Ridge(alpha=100.0)),
        (kilter.ElasticNet(alpha=0.05, l1_ratio=0.3), linear_model.ElasticNet(alpha=0.05, l1_ratio=0.3, tol=1e-10, max_iter=10_000)),
        (kilter.ElasticNet(alpha=0.05, l1_ratio=1.0), linear_model.Lasso(alpha=0.05, tol=1e-10, max_iter=10_000)),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_regressions_predict_what_scikit_learn_predicts_on_standardised_columns(ours, theirs, weighted):
    X, y = amounts(1_000)
    weights = np.random.default_rng(3).integers(1, 4, size=len(y)).astype(float) if weighted else None
    scaler = StandardScaler().fit(X, sample_weight=weights)
    ours.fit(X, y, sample_weight=weights)
    theirs.fit(scaler.transform(X), y, sample_weight=weights)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(scaler.transform(X)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours.coef_, theirs.coef_ / scaler.scale_, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.intercept_ + X @ ours.coef_, ours.predict(X), rtol=1e-9)
    contributions, base = ours.explain(X)
    np.testing.assert_allclose(base + contributions.sum(axis=1), ours.predict(X), rtol=1e-9)


def test_parameters_of_regressions_are_told():
    X, y = amounts(100)
    assert kilter.Ridge(reg_lambda=3.0).alpha == 3.0
    for estimator, message in [
        (kilter.Ridge(alpha=-1.0), "alpha is -1.0, but must be a finite number not below 0"),
        (kilter.ElasticNet(alpha=float("inf")), "alpha is inf"),
        (kilter.ElasticNet(l1_ratio=2.0), "l1_ratio is 2.0"),
        (kilter.Ridge(tol=-1.0), "tolerance"),
    ]:
        with pytest.raises(ValueError, match=message):
            estimator.fit(X, y)
    with pytest.raises(TypeError, match="no parameter 'alpa'; did you mean 'alpha'"):
        kilter.Ridge(alpa=1.0)
