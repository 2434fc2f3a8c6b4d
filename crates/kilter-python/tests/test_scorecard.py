"""Scorecards: points, reasons, bins by hand."""

import kilter
import numpy as np
import pandas as pd
import pytest
from data import classes
from sklearn.metrics import roc_auc_score


def frame(rows=3_000, seed=0):
    X, y = classes(rows, seed=seed)
    return pd.DataFrame(X, columns=list("abcde")), y


def test_points_follow_the_odds():
    X, y = frame()
    card = kilter.Scorecard(pdo=40, base_points=500, base_odds=10).fit(X, y)
    points, probability = card.points(X), card.predict_proba(X)[:, 1]
    odds = (1 - probability) / probability
    expected = 500 + 40 * np.log2(odds / 10)
    # Points are whole numbers, one rounding for each of the five features and the intercept.
    assert np.abs(points - expected).max() <= 3.5
    assert np.array_equal(points, np.round(points))
    assert roc_auc_score(y, -points) > 0.7
    assert np.corrcoef(points, card.decision_function(X))[0, 1] < -0.99


def test_the_table_adds_up_to_the_points():
    X, y = frame()
    card = kilter.Scorecard(max_bins=4, cuts={"a": [-0.5, 0.5]}, special={"b": [0.25]}, shapes={"c": "any"}).fit(X, y)
    by_name = {feature["name"]: feature for feature in card.table_}
    assert by_name["a"]["cuts"] == [-0.5, 0.5]
    assert all(len(feature["cuts"]) < 4 for feature in card.table_)
    assert sum(row["rows"] for row in by_name["a"]["bins"]) == len(X)
    rows = X.copy()
    step = lambda value: card.points(rows.assign(a=value))
    low, middle, high = step(-1.0), step(0.0), step(1.0)
    assert len(set(low - middle)) == 1 and low[0] > middle[0] > high[0], "a alone decides what a adds"
    # Nothing changes within a bin; a missing value has its own.
    assert np.array_equal(step(-0.5), low) and not np.array_equal(step(np.nan), low)


def test_reasons_are_points_below_the_best():
    X, y = frame()
    contributions, base = kilter.Scorecard().fit(X, y).explain(X)
    assert (contributions >= 0).all(), "log-odds that each feature costs against its best bin"
    from_mean, _ = kilter.Scorecard(reasons="mean").fit(X, y).explain(X)
    assert (from_mean < 0).any()


def test_a_card_without_anything_to_say_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="none of 3 inputs is left.*min_iv"):
        kilter.Scorecard(min_iv=5.0).fit(rng.normal(size=(500, 3)), rng.integers(0, 2, 500))


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"pdo": 0}, "pdo is 0"),
        ({"shape": "round"}, "round"),
        ({"shapes": {"zz": "peak"}}, "zz"),
        ({"cuts": {"a": [2, 1]}}, "cuts is"),
        ({"max_bins": 1}, "max_bins is 1"),
    ],
)
def test_bad_parameters_are_told(parameters, message):
    X, y = frame(300)
    with pytest.raises(ValueError, match=message):
        kilter.Scorecard(**parameters).fit(X, y)


def test_other_names_and_other_models():
    assert kilter.Scorecard(max_n_prebins=20, min_bin_size=0.1).get_params()["max_prebins"] == 20
    X, y = frame(500)
    with pytest.raises(ValueError, match='"logistic" gives no points'):
        kilter.LogisticRegression().fit(X, y).model_.points(X)
