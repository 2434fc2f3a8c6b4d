"""Features that are categories."""

import pickle

import kilter
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score


def shops(rows=6_000, categories=300, seed=0):
    """Two features of categories whose effects have no order, and a number."""
    effects = np.random.default_rng(9).normal(size=categories) * 1.5
    rng = np.random.default_rng(seed)
    shop, kind, x = rng.integers(0, categories, rows), rng.integers(0, 3, rows), rng.normal(size=rows)
    margin = effects[shop] + np.array([0.5, -0.5, 0.2])[kind] * x
    return np.column_stack([shop, kind, x]), (rng.uniform(size=rows) < 1 / (1 + np.exp(-margin))).astype(int)


@pytest.mark.parametrize("categories, groups", [(60, 254), (60, 0), (2_000, 254)])
def test_names_tell_more_than_numbers(categories, groups):
    (X, y), (X_test, y_test) = shops(20_000, categories), shops(8_000, categories, seed=1)
    auc = lambda model: roc_auc_score(y_test, model.fit(X, y).predict_proba(X_test)[:, 1])
    small = dict(n_estimators=30, max_leaf_nodes=8, max_cat_groups=groups)
    named = auc(kilter.GradientBoostingClassifier(categorical_features=[0, 1], **small))
    assert named > auc(kilter.GradientBoostingClassifier(**small)) + 0.02, named


def test_they_are_named_in_several_ways():
    X, y = shops()
    frame = pd.DataFrame(X, columns=["shop", "kind", "x"])
    model = lambda given, X: kilter.GradientBoostingClassifier(n_estimators=5, categorical_features=given).fit(X, y).model_.to_bytes()
    same = model([0, 1], frame)
    assert all(model(given, frame) == same for given in (["shop", "kind"], [True, True, False], np.array([1, 0]), [-3, -2]))
    assert kilter.GradientBoostingRegressor(cat_features=["shop"], min_data_per_group=7).min_group_rows == 7
    with pytest.raises(ValueError, match="'colour'"):
        model(["colour"], frame)
    with pytest.raises(ValueError, match="5"):
        model([5], frame)
    with pytest.raises(ValueError, match="mask of 1"):
        model([True], frame)


def test_odd_values_are_refused_in_training_and_unseen_later():
    X, y = shops()
    model = kilter.GradientBoostingClassifier(n_estimators=10, categorical_features=[0]).fit(X, y)
    unseen = [[value, 1.0, 0.5] for value in (5_000, -1, 0.5, np.inf)]
    assert len({model.score_one(row) for row in unseen}) == 1
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
    base = model.explain(X)
    assert np.allclose(base[0].sum(axis=1) + base[1], model.model_.margins(X))
    X[7, 0] = 2.5
    with pytest.raises(ValueError, match="row 7.*2.5.*whole number"):
        model.fit(X, y)


def test_groups_of_features_that_act_on_each_other():
    X, y = shops()
    frame = pd.DataFrame(X, columns=["shop", "kind", "x"])
    model = lambda given: kilter.GradientBoostingClassifier(n_estimators=10, categorical_features=["shop"], interaction_cst=given).fit(frame, y)
    alone = model("no_interactions").model_
    a, b = X[:50].copy(), X[50:100].copy()
    for column in range(3):
        # What one feature adds does not depend on the others.
        mixed_a, mixed_b = a.copy(), b.copy()
        mixed_a[:, column], mixed_b[:, column] = b[:, column], a[:, column]
        assert np.allclose(alone.margins(a) + alone.margins(b), alone.margins(mixed_a) + alone.margins(mixed_b), atol=1e-9)
    assert model([["shop"], ["kind"], ["x"]]).model_.to_bytes() == model([[0], [1], [2]]).model_.to_bytes() == alone.to_bytes()
    with pytest.raises(ValueError, match="'colour'"):
        model([["colour"]])
    with pytest.raises(ValueError, match="no_interactions"):
        model("none")
