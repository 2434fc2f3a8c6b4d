"""Learning from rows that do not fit into memory."""

import json
import os

import numpy as np
from sklearn.utils.validation import column_or_1d, validate_data

from . import _native


class Batched:
    """What boosting adds to its ``fit``. Subclasses say what a batch's labels and weights are."""

    def fit_batches(self, batches, *, scratch=None):
        """Learns from rows that do not fit into memory, two bytes a value.

        The model is the one that ``fit`` gives of all rows at once, to the last bit.

        Parameters
        ----------
        batches : iterable of (X, y) or (X, y, sample_weight)
            It is iterated three times and must give the same rows each time, in time order: a list, or an object whose ``__iter__``
            begins anew. ``X`` is an array or a data frame, of the same columns in each batch. Of a classifier ``y`` is 0 or 1.
        scratch : path or None, default=None
            Folder for a file of so many bytes, which is gone afterwards; None: they are in memory. Beside it some 50 bytes a row are.
        """
        if callable(getattr(self, "loss", None)):
            raise ValueError("a loss of your own is not learned from batches")
        if iter(batches) is batches:
            raise TypeError("batches can be iterated once only\n  hint: give a list, or an object whose __iter__ begins anew")
        rows = 0
        for batch in batches:
            rows += len(self._prepared(batch, first=rows == 0)[1])
        if rows == 0:
            raise ValueError("batches have no rows")
        names = getattr(self, "feature_names_in_", [f"x{column}" for column in range(self.n_features_in_)])
        self.model_ = _native.fit_batches(
            json.dumps(self._learner(self.n_features_in_)),
            _Prepared(self, batches),
            list(names),
            rows,
            scratch=None if scratch is None else os.fspath(scratch),
            threads=self._n_threads(),
        )
        return self

    def _prepared(self, batch, first=False):
        """The batch's rows that weigh something, as the native learner takes them."""
        X, y, *weight = batch
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_all_finite=False, ensure_min_samples=0, reset=first)
        y = column_or_1d(y)
        if len(y) != len(X):
            raise ValueError(f"a batch has {len(X)} rows, and {len(y)} labels")
        y = self._batch_labels(y)
        weights = self._batch_weights(X, y, *(weight or [None]))
        rows = (X, y, weights)
        if weights is None or (weights > 0).all():
            return rows
        return tuple(np.ascontiguousarray(part[weights > 0]) for part in rows)


class _Prepared:
    def __init__(self, estimator, batches):
        self._estimator = estimator
        self._batches = batches

    def __iter__(self):
        return map(self._estimator._prepared, self._batches)
