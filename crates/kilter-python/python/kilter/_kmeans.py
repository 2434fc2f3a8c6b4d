"""K-means."""

import numpy as np
from sklearn.base import ClusterMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from ._base import Learned
from ._parameters import accepting

_ALIASES = {"k": "n_clusters", "clusters": "n_clusters", "restarts": "n_init", "seed": "random_state", "random_seed": "random_state", "tolerance": "tol"}


class KMeans(ClusterMixin, Learned):
    """Centres such that rows are near to one of them, without labels: k-means++ and Lloyd's method, on standardised columns.

    A missing value (NaN) counts as its column's mean. ``explain`` says how far each feature takes a row from its centre; a row far from all centres is
    unlike those of training. The same rows, parameters and seed give the same model, to the last bit, on any number of threads.

    Parameters
    ----------
    n_clusters : int, default=8
    n_init : int, default=10
        Begins so many times with other centres and keeps the best end.
    max_iter : int, default=300
    tol : float, default=1e-4
        Stop when no centre moves by more than this, in standard deviations.
    standardise : bool, default=True
        Divide columns by their standard deviations first; scikit-learn's does not.
    random_state : int, RandomState or None, default=None
        ``None`` is a fixed seed: training is repeatable unless told otherwise.
    n_jobs : int or None, default=None

    Attributes
    ----------
    cluster_centers_ : array (n_clusters, n_features), in the units of the features
    labels_ : array, the segment of each training row
    inertia_ : sum of squared distances to the nearest centre, in standard deviations
    n_iter_ : steps that the best attempt took
    model_ : kilter.Model, whose predictions are distances to the nearest centre
    n_features_in_, feature_names_in_, report_

    Examples
    --------
    >>> from kilter import KMeans
    >>> model = KMeans(n_clusters=2).fit([[0.0, 1.0], [0.2, 1.1], [9.0, 5.0], [9.1, 5.2]])
    >>> first, _, last, _ = model.labels_
    >>> bool(first != last and model.predict([[8.0, 5.0]])[0] == last)
    True
    """

    _aliases = _ALIASES

    @accepting(_ALIASES)
    def __init__(self, *, n_clusters=8, n_init=10, max_iter=300, tol=1e-4, standardise=True, random_state=None, n_jobs=None):
        self.n_clusters = n_clusters
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.standardise = standardise
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, X, y=None, sample_weight=None):
        """Learns from ``X`` (n_samples, n_features; NaN is missing). ``y`` is not looked at."""
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_all_finite=False)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        self._fit_native((X, np.zeros(len(X)), weights))
        report = self.report_
        self.cluster_centers_ = np.array(report["centres"])
        self.inertia_ = report["report"]["inertia"]
        self.n_iter_ = report["report"]["iterations"]
        self.labels_ = self.model_.segments(X, threads=self._n_threads())
        return self

    def _learner(self, columns):
        return {
            "kind": "kmeans",
            "clusters": self.n_clusters,
            "restarts": self.n_init,
            "max_iterations": self.max_iter,
            "tolerance": self.tol,
            "standardise": bool(self.standardise),
            "seed": self._seed(),
        }

    def predict(self, X):
        """The segment of each row: the number of its nearest centre."""
        check_is_fitted(self)
        return self.model_.segments(self._features(X), threads=self._n_threads())

    def distances(self, X):
        """The distance of each row to its nearest centre, in standard deviations: large where the row is unlike those of training."""
        check_is_fitted(self)
        return self.model_.predictions(self._features(X), threads=self._n_threads())

    def score(self, X, y=None, sample_weight=None):
        """Minus the sum of squared distances, as in scikit-learn."""
        squares = self.distances(X) ** 2
        return -float(squares.sum() if sample_weight is None else squares @ np.asarray(sample_weight))
