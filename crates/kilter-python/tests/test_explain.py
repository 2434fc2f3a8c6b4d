"""What `Model` tells of pairs of inputs, of dependence on an input and of importance, against plain NumPy."""

import kilter
import numpy as np
import pytest
from data import FOREIGN, amounts, classes

X, Y = classes()
LABELS = Y.astype(float)
MODEL = kilter.GradientBoostingClassifier(n_estimators=30, max_leaf_nodes=8).fit(X, Y).model_
AMOUNTS, PAID = amounts(500)
NUMBERS = kilter.GradientBoostingRegressor(n_estimators=20, loss="gamma").fit(AMOUNTS, PAID).model_


def with_value(rows, column, value):
    rows = rows.copy()
    rows[:, column] = value
    return rows


def test_interactions_are_symmetric_and_add_up_to_the_contributions():
    foreign = kilter.Model.load(FOREIGN / "lightgbm-4.7.0.txt")
    others = np.random.default_rng(0).normal(size=(50, len(foreign.inputs)))
    for model, rows in [(MODEL, X[:50]), (NUMBERS, AMOUNTS[:50]), (foreign, others)]:
        pairs, base = model.interactions(rows)
        contributions, same_base = model.explain(rows)
        assert base == same_base and pairs.shape == (50, rows.shape[1], rows.shape[1])
        np.testing.assert_allclose(pairs.sum(axis=2), contributions, atol=1e-9)
        np.testing.assert_allclose(pairs, pairs.transpose(0, 2, 1), atol=1e-9)
    # The labels come of the product of the first and the third column.
    strength = np.abs(MODEL.interactions(X[:200])[0]).mean(axis=0)
    np.fill_diagonal(strength, 0)
    assert set(np.unravel_index(strength.argmax(), strength.shape)) == {0, 2}


def test_models_without_interactions_say_so():
    line = kilter.LogisticRegression().fit(np.nan_to_num(X), Y).model_
    pairs, _ = line.interactions(np.nan_to_num(X[:5]))
    assert np.array_equal(pairs * (1 - np.eye(5)), np.zeros((5, 5, 5)))


@pytest.mark.parametrize("on, score", [("prediction", MODEL.probabilities), ("margin", MODEL.margins)])
def test_partial_dependence_is_a_mean_over_rows(on, score):
    places, means = MODEL.partial_dependence(X[:300], "x0", points=7, on=on)
    assert len(places) == 7 and np.nanmin(X[:300, 0]) == places[0]
    np.testing.assert_allclose(means, [score(with_value(X[:300], 0, value)).mean() for value in places])
    first, second, both = MODEL.partial_dependence(X[:300], "x2", 0, points=3, on=on)
    assert both.shape == (3, 3)
    expected = [[score(with_value(with_value(X[:300], 2, a), 0, b)).mean() for b in second] for a in first]
    np.testing.assert_allclose(both, expected)


def test_accumulated_effects_are_those_of_the_definition():
    column = AMOUNTS[:, 1]
    ends, effects, rows = NUMBERS.accumulated_effects(AMOUNTS, "x1", steps=6)
    step = np.clip(np.searchsorted(ends, column), 1, 6) - 1
    changes = NUMBERS.predictions(with_value(AMOUNTS, 1, ends[step + 1])) - NUMBERS.predictions(with_value(AMOUNTS, 1, ends[step]))
    expected = np.concatenate([[0], np.cumsum([changes[step == k].mean() for k in range(6)])])
    assert rows.tolist() == np.bincount(step, minlength=6).tolist()
    np.testing.assert_allclose(np.diff(effects), np.diff(expected))
    np.testing.assert_allclose((rows * (effects[1:] + effects[:-1]) / 2).sum(), 0, atol=1e-9)


def test_permutation_importance_finds_what_the_labels_hang_on():
    mean, deviation, rises = MODEL.permutation_importance(X, LABELS, repeats=4)
    assert rises.shape == (5, 4)
    np.testing.assert_allclose(mean, rises.mean(axis=1))
    np.testing.assert_allclose(deviation, rises.std(axis=1, ddof=1))
    assert mean[0] == mean.max() and mean[[0, 1, 2]].min() > 5 * np.abs(mean[[3, 4]]).max()
    together, _, _ = MODEL.permutation_importance(X, LABELS, groups=[["x0", "x2"], [1]], loss="auc")
    assert together[0] > together[1] > 0
    losses = [NUMBERS.permutation_importance(AMOUNTS, PAID, loss=loss)[0] for loss in (None, "squared_error", "absolute_error")]
    assert np.array_equal(losses[0], losses[1]) and not np.array_equal(losses[1], losses[2])


def test_what_cannot_be_asked_is_refused_in_words():
    with pytest.raises(KeyError, match="the model has no input \"y\"; its inputs are x0, x1"):
        MODEL.partial_dependence(X, "y")
    with pytest.raises(ValueError, match="3 inputs; one or two"):
        MODEL.partial_dependence(X, 0, 1, 2)
    with pytest.raises(ValueError, match="on is \"odds\"; \"prediction\" or \"margin\""):
        MODEL.accumulated_effects(X, 0, on="odds")
    with pytest.raises(ValueError, match="loss is \"auc\"; for this model it may be squared_error, absolute_error"):
        NUMBERS.permutation_importance(AMOUNTS, PAID, loss="auc")
    with pytest.raises(ValueError, match="3 labels for 500 rows"):
        NUMBERS.permutation_importance(AMOUNTS, PAID[:3])


def test_contributions_against_reference_rows():
    X, y = classes(1_500)
    model = kilter.GradientBoostingClassifier(n_estimators=20).fit(X, y)
    reference = X[:40]
    contributions, base = model.explain(X[:60], reference=reference)
    margins = model.model_.margins(X[:60])
    assert np.allclose(base + contributions.sum(axis=1), margins, atol=1e-9)
    assert base == pytest.approx(model.model_.margins(reference).mean(), abs=1e-9)
    # One reference row is the row itself: nothing sets it apart.
    alone, own = model.explain(X[:1], reference=X[:1])
    assert np.allclose(alone, 0) and own == pytest.approx(margins[0])
    line = kilter.LogisticRegression().fit(np.nan_to_num(X), y)
    filled = np.nan_to_num(X)
    contributions, _ = line.explain(filled[:5], reference=filled)
    expected = line.explain(filled[:5])[0] - line.explain(filled)[0].mean(axis=0)
    assert np.allclose(contributions, expected, atol=1e-9)
    with pytest.raises(ValueError, match="no rows"):
        model.model_.explain(X[:1], reference=X[:0])
    with pytest.raises(ValueError, match="columns"):
        model.model_.explain(X[:1], reference=X[:, :2])


def test_contributions_of_a_group_are_added_up():
    model = kilter.GradientBoostingClassifier(n_estimators=30).fit(X, Y)
    names = model.model_.inputs
    plain, base = model.explain(X[:50])
    grouped, same_base = model.explain(X[:50], groups={"ends": [names[0], 4], "middle": [2]})
    assert base == same_base
    expected = np.column_stack([plain[:, 0] + plain[:, 4], plain[:, 2], plain[:, 1], plain[:, 3]])
    np.testing.assert_array_equal(grouped, expected)
    several = kilter.GradientBoostingClassifier(n_estimators=10).fit(X, np.digitize(X[:, 1], [-0.5, 0.5]))
    assert several.explain(X[:5], groups={"all": range(5)})[0].shape == (5, 1, 3)
    for groups, words in [({"a": ["x9"]}, "no feature"), ({"a": [7]}, "no feature"), ({"a": [0], "b": [0]}, "its part to one")]:
        with pytest.raises(ValueError, match=words):
            model.explain(X[:5], groups=groups)
