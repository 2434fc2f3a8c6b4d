"""Penalties of linear models, beside scikit-learn's."""

import kilter
import numpy as np
import pytest
import sklearn
from data import classes
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
