"""What `mlflow.pyfunc.load_model` runs for a model that Kilter trained: NumPy alone, where the model's numbers lie in scores.json.gz.

A model of another kind (a scorecard, an explainable or an isolation forest model, one that takes categories) is scored by the package `kilter`.
"""

import gzip
import json
import os

import numpy as np

FORM = 1
TINY = float(np.float32(1e-35))
LEAST_PROBABILITY = 1e-6


def _load_pyfunc(path):
    plain = os.path.join(path, "scores.json.gz")
    if not os.path.exists(plain):
        return PackagedModel(os.path.join(path, "model.kltm"))
    with gzip.open(plain, "rt", encoding="utf-8") as file:
        return PlainModel(json.load(file))


class PlainModel:
    """Scores rows by the numbers of a model."""

    def __init__(self, said):
        if said["form"] != FORM:
            raise ValueError(f"scores.json.gz has form {said['form']}, this page reads form {FORM}; load the model anew")
        self.said = said
        self.inputs = said["inputs"]
        self.trees = [Tree(tree) for tree in said.get("trees", ())]

    def predict(self, model_input, params=None):
        return self.predictions(self.margins(_rows(model_input, self.inputs)))

    def margins(self, rows):
        line, how = self.said.get("line"), self.said.get("sum")
        if line is not None:
            total = np.full(len(rows), line["intercept"])
            for at, (mean, scale, weight) in enumerate(zip(line["means"], line["scales"], line["standardised"])):
                value = rows[:, at]
                if scale > 0:
                    # A missing or infinite value counts as the mean.
                    total = total + weight * np.where(np.isfinite(value), (value - mean) / scale, 0.0)
        else:
            total = self._sums(rows, how)
        slope = how["output"]["log_odds"] if how and isinstance(how["output"], dict) else 1.0
        return total * slope

    def _sums(self, rows, how):
        """Leaves are added one after the other, at the width of the program that made the model: so the sum is its own to the bit."""
        with np.errstate(over="ignore"):
            if how["inputs"] == "single":
                rows = rows.astype(np.float32).astype(np.float64)
            elif how["inputs"] == "double_tiny_is_zero":
                rows = np.where(np.abs(rows) <= TINY, 0.0, rows)
            width = np.float32 if how["sum"] == "single" else np.float64
            total = np.full(len(rows), how["start"], dtype=width)
            for tree in self.trees:
                total = total + tree.leaves(rows).astype(width)
            total = total.astype(np.float64)
            if how["divisor"] != 1.0:
                total = (total / how["divisor"]).astype(width).astype(np.float64)
            offset = how.get("offset", 0.0)
            return (total + offset).astype(width).astype(np.float64) if offset else total

    def predictions(self, margins):
        link, calibration = self.said["link"], self.said.get("calibration")
        if calibration is not None:
            if link == "probability":
                margins = _logit(np.clip(margins, LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY))
            return _calibrated(margins, calibration)
        if link == "logit":
            return _sigmoid(margins)
        if link == "log":
            return np.exp(margins)
        return np.clip(margins, 0.0, 1.0) if link == "probability" else margins


class Tree:
    """A tree by columns; children below 0 are leaves, -1 the first."""

    def __init__(self, said):
        self.column = np.array(said["column"], dtype=np.int64)
        self.threshold = np.array([float(number) for number in said["threshold"]])
        self.at_most = np.array(said["at_most"], dtype=bool)
        self.missing = np.array(said["missing"], dtype=np.int64)
        self.left = np.array(said["left"], dtype=np.int64)
        self.right = np.array(said["right"], dtype=np.int64)
        self.leaf = np.array(said["leaf"], dtype=np.float64)

    def leaves(self, rows):
        at = np.full(len(rows), 0 if len(self.column) else -1, dtype=np.int64)
        walking = np.flatnonzero(at >= 0)
        while len(walking):
            node = at[walking]
            value, missing, threshold = rows[walking, self.column[node]], self.missing[node], self.threshold[node]
            absent = np.isnan(value)
            value = np.where(absent & (missing == 2), 0.0, value)
            left = np.where(self.at_most[node], value <= threshold, value < threshold)
            ruled = (absent & (missing != 2)) | ((missing >= 3) & (value == 0.0))
            left = np.where(ruled, (missing == 0) | (missing == 3), left)
            at[walking] = np.where(left, self.left[node], self.right[node])
            walking = walking[at[walking] >= 0]
        return self.leaf[-1 - at]


class PackagedModel:
    """Scores rows by the package `kilter`."""

    def __init__(self, path):
        try:
            import kilter
        except ImportError as error:
            raise ImportError("this kind of model is scored by the Python package of Kilter: pip install kilter") from error
        self.model = kilter.Model.load(path)
        self.inputs = self.model.inputs

    def predict(self, model_input, params=None):
        if hasattr(model_input, "columns"):
            _check_columns(model_input, self.inputs)
            if any(model_input[name].dtype.kind not in "biuf" for name in self.inputs):
                # The package reads texts of a frame as the categories that they are.
                return self.model.predictions(model_input[self.inputs])
        return self.model.predictions(np.ascontiguousarray(_rows(model_input, self.inputs)))


def _check_columns(frame, names):
    absent = [name for name in names if name not in frame.columns]
    if absent:
        raise ValueError(f"the model reads columns that are not there: {', '.join(absent)}")


def _rows(given, names):
    """The inputs as numbers, in the model's order; what is missing is NaN."""
    if hasattr(given, "columns"):
        _check_columns(given, names)
        return given[names].to_numpy(dtype=np.float64, na_value=np.nan)
    rows = np.asarray(given, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != len(names):
        raise ValueError(f"rows of {len(names)} numbers are wanted, in this order: {', '.join(names)}")
    return rows


def _sigmoid(margins):
    small = np.exp(-np.abs(margins))
    return np.where(margins >= 0, 1.0 / (1.0 + small), small / (1.0 + small))


def _logit(probabilities):
    return np.log(probabilities) - np.log1p(-probabilities)


def _softplus(x):
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def _calibrated(margins, said):
    bend, shift = said["bend"], said["log_odds_shift"]
    if "margins" in bend:
        bent = np.interp(margins, bend["margins"], bend["probabilities"])
        return bent if shift == 0.0 else _sigmoid(_logit(bent) + shift)
    if "slope" in bend:
        margins = bend["slope"] * margins + bend["intercept"]
    elif "a" in bend:
        margins = bend["a"] * -_softplus(-margins) + bend["b"] * _softplus(margins) + bend["c"]
    return _sigmoid(margins + shift)
