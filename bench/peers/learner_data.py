"""Writes a data set of `bench/learner` as arrays of 32-bit floats: learner_data.py NAME FOLDER DRAW [SOURCE]. Another draw has other rows, or others of them to learn from."""

import pathlib
import sys

import numpy as np

name, folder, seed = sys.argv[1], pathlib.Path(sys.argv[2]), 20260101 + int(sys.argv[3])
rng = np.random.default_rng(seed)


def sigmoid(margin):
    return 1 / (1 + np.exp(-margin))


def synth(rows):
    from sklearn.datasets import make_classification
    return make_classification(rows, 28, n_informative=16, n_redundant=6, n_clusters_per_class=4, class_sep=0.7, flip_y=0.05, random_state=seed)


def wide():
    """500 columns, of which ten in sums and products matter; a tenth of the values missing."""
    x = rng.normal(size=(25_000, 500)).astype("f4")
    y = rng.random(len(x)) < sigmoid(x[:, :5].sum(1) + x[:, 5] * x[:, 6] + x[:, 7] * x[:, 8] - np.abs(x[:, 9]))
    x[rng.random(x.shape) < 0.1] = np.nan
    return x, y


def categories():
    """Eight columns of category codes, 5 to 3000 levels of uneven weight, whose effects follow no order of the codes."""
    levels = [5, 12, 40, 100, 250, 600, 1500, 3000]
    x, margin = np.empty((300_000, 8), "f4"), np.zeros(300_000)
    for column, count in enumerate(levels):
        codes = rng.permutation(count)[np.minimum((count * rng.random(len(x)) ** 2).astype(int), count - 1)]
        margin += rng.normal(scale=0.6, size=count)[codes]
        x[:, column] = codes
    return x, rng.random(len(x)) < sigmoid(margin - 1)


def imbalanced():
    """Half a percent positives."""
    x = rng.normal(size=(550_000, 20)).astype("f4")
    return x, rng.random(len(x)) < sigmoid(1.2 * x[:, 0] + x[:, 1] * x[:, 2] - np.maximum(x[:, 3], 0) * 0.8 - 6.6)


def table(frame, label, drop=()):
    y = frame[label].to_numpy()
    return frame.drop(columns=[label, *drop]).to_numpy("f4"), y


def gmsc(source):
    import pandas
    frame = pandas.read_csv(source, index_col=0)
    return table(frame, "SeriousDlqin2yrs")


def uci(source):
    import pandas
    frame = pandas.read_parquet(source)
    return table(frame, next(c for c in frame.columns if c.lower().startswith("default")), [c for c in frame.columns if c.lower() == "id"])


makers = {"synth": lambda: synth(1_100_000), "small": lambda: synth(2_000), "wide": wide, "categories": categories, "imbalanced": imbalanced,
          "gmsc": lambda: gmsc(sys.argv[4]), "uci": lambda: uci(sys.argv[4])}
x, y = makers[name]()
x, y = np.ascontiguousarray(x, "f4"), np.asarray(y, "f4")
test = {"synth": 100_000, "small": 1_000}.get(name, len(x) // 5)
if name in ("gmsc", "uci"):
    order = rng.permutation(len(x))
    x, y = x[order], y[order]
folder.mkdir(parents=True, exist_ok=True)
for part, rows in (("train", slice(0, len(x) - test)), ("test", slice(len(x) - test, None))):
    np.save(folder / f"x_{part}.npy", x[rows])
    np.save(folder / f"y_{part}.npy", y[rows])
