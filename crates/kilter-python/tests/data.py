import numpy as np


def classes(rows=2_000, columns=5, seed=0):
    """Rows with some values missing, and labels that two columns and their product decide, with noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, columns))
    margin = X[:, 0] - 0.5 * X[:, 1] + X[:, 0] * X[:, 2]
    y = (rng.uniform(size=rows) < 1 / (1 + np.exp(-2 * margin))).astype(int)
    X[rng.uniform(size=X.shape) < 0.05] = np.nan
    return X, y
