"""Data frames by name, arrays by position, and what is wrong with either."""

import kilter
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from data import classes

X, Y = classes()
NAMES = ["age", "amount", "income", "months", "rate"]
MODEL = kilter.GradientBoostingClassifier(n_estimators=20).fit(pd.DataFrame(X, columns=NAMES), Y).model_
EXPECTED = MODEL.probabilities(X)


def nulls(column):
    return [None if np.isnan(value) else value for value in column]


FRAMES = {
    "pandas": lambda columns: pd.DataFrame(columns),
    "polars": lambda columns: pl.DataFrame(columns),
    "pyarrow": lambda columns: pa.table(columns),
    "pyarrow in pieces": lambda columns: pa.concat_tables([pa.table(columns).slice(0, 700), pa.table(columns).slice(700)]),
    "nulls": lambda columns: pa.table({name: pa.array(nulls(column)) for name, column in columns.items()}),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_are_read_by_name(kind):
    columns = {name: X[:, at].copy() for at, name in enumerate(NAMES)}
    assert np.array_equal(MODEL.probabilities(FRAMES[kind](columns)), EXPECTED)
    shuffled = {name: columns[name] for name in ["rate", "age", "months", "income", "amount"]}
    assert np.array_equal(MODEL.probabilities(FRAMES[kind](shuffled)), EXPECTED)


def test_arrays_of_any_layout():
    assert np.array_equal(MODEL.probabilities(np.asfortranarray(X)), EXPECTED)
    wide = np.zeros((len(X), 10))
    wide[:, ::2] = X
    assert np.array_equal(MODEL.probabilities(wide[:, ::2]), EXPECTED)
    assert np.array_equal(MODEL.probabilities(X[::-1]), EXPECTED[::-1])
    assert MODEL.probabilities(X[:0]).shape == (0,)


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64", "bool"])
def test_number_types(kind):
    small = np.abs(np.nan_to_num(X) * 3).astype(int) % 2
    columns = {name: pa.array(small[:, at].astype(kind)) for at, name in enumerate(NAMES)}
    assert np.array_equal(MODEL.probabilities(pa.table(columns)), MODEL.probabilities(small.astype(float)))


def frame(**other):
    columns = {name: X[:, at].copy() for at, name in enumerate(NAMES)} | other
    return pa.table({name: column for name, column in columns.items() if column is not None})


@pytest.mark.parametrize(
    "data, error, message",
    [
        (frame(age=None), ValueError, 'columns missing: "age"'),
        (frame(zodiac=X[:, 0].copy()), ValueError, 'columns the model does not know: "zodiac"'),
        (frame(age=["young"] * len(X)), TypeError, 'column "age" holds Utf8'),
        (frame(age=pa.array([0] * len(X), pa.timestamp("us"))), TypeError, '(?s)column "age" holds Timestamp.*durations'),
        (X[:, :3].copy(), ValueError, "3 columns, the model takes 5"),
        (X[:, 0].copy(), TypeError, "two-dimensional"),
        (np.zeros((4, 5), dtype=int), TypeError, "two-dimensional array of float64"),
        ("a text", TypeError, "found str"),
        (None, TypeError, "found NoneType"),
    ],
)
def test_what_does_not_fit_is_told(data, error, message):
    with pytest.raises(error, match=message):
        MODEL.probabilities(data)


@pytest.mark.parametrize(
    "row, error, message",
    [
        ((1.0, 2.0), ValueError, "2 values, the model takes 5"),
        ({"age": 1.0}, KeyError, "no amount"),
        ({name: 1.0 for name in [*NAMES, "zodiac"]}, ValueError, "does not know: zodiac"),
        (["a"] * 5, TypeError, "str"),
        ("abcde", TypeError, "not str"),
        (np.zeros((5, 1)), TypeError, "not ndarray"),
    ],
)
def test_rows_that_do_not_fit_are_told(row, error, message):
    with pytest.raises(error, match=message):
        MODEL.score_one(row)
