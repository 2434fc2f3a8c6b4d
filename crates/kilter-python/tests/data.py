import pathlib

import numpy as np

# Files that LightGBM and XGBoost have written, each with rows and what its program made of them.
FOREIGN = pathlib.Path(__file__).parents[2] / "kilter-learn/tests/exchange"


def classes(rows=2_000, columns=5, seed=0):
    """Rows with some values missing, and labels that two columns and their product decide, with noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, columns))
    margin = X[:, 0] - 0.5 * X[:, 1] + X[:, 0] * X[:, 2]
    y = (rng.uniform(size=rows) < 1 / (1 + np.exp(-2 * margin))).astype(int)
    X[rng.uniform(size=X.shape) < 0.05] = np.nan
    return X, y


def amounts(rows=2_000, seed=0):
    """Rows without gaps, and amounts above 0 whose mean three columns decide, with noise that grows with it."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(size=(rows, 4))
    mean = np.exp(1.5 * X[:, 0] + X[:, 1] * X[:, 2])
    return X, mean * rng.gamma(4.0, 0.25, size=rows) + 1e-3
