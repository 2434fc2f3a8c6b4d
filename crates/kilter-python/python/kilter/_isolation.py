"""Isolation forests."""

import numpy as np
from sklearn.base import OutlierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ._base import Learned
from ._parameters import accepting

_ALIASES = {
    "n_trees": "n_estimators",
    "num_trees": "n_estimators",
    "sample_size": "max_samples",
    "sample": "max_samples",
    "seed": "random_state",
    "random_seed": "random_state",
    "num_threads": "n_jobs",
    "nthread": "n_jobs",
}


class IsolationForest(OutlierMixin, Learned):
    """Finds rows that are unlike the others, without labels: those that random cuts soon part from them.

    Missing values (NaN) are taken as they are. ``explain`` says which features part a row from the others, as parts of the logarithm of its anomaly
    score. The same rows, parameters and seed give the same model, to the last bit, on any number of threads.

    Parameters
    ----------
    n_estimators : int, default=100
        Trees to grow.
    max_samples : int, default=256
        Rows that each tree draws, without replacement; all of them where there are fewer.
    contamination : "auto" or float, default="auto"
        Share of the training rows that are outliers, above 0 and up to 0.5; ``"auto"`` draws the line at the score of a row like any other, 0.5.
    random_state : int, RandomState or None, default=None
        ``None`` is a fixed seed: training is repeatable unless told otherwise.
    n_jobs : int or None, default=None
        Threads. ``None``: one for small data, else all cores.

    Attributes
    ----------
    offset_ : where the line is drawn in what ``score_samples`` gives
    model_ : kilter.Model, whose predictions are anomaly scores: near 1 for an anomaly, about 0.5 for a row like any other
    n_features_in_, feature_names_in_, report_

    Examples
    --------
    >>> import numpy as np
    >>> from kilter import IsolationForest
    >>> X = np.random.default_rng(0).normal(size=(500, 2))
    >>> IsolationForest().fit(X).predict([[0.0, 0.0], [9.0, 9.0]])
    array([ 1, -1])
    """

    _aliases = _ALIASES

    @accepting(_ALIASES)
    def __init__(self, *, n_estimators=100, max_samples=256, contamination="auto", random_state=None, n_jobs=None):
        self.n_estimators = n_estimators
        self.max_samples = max_samples
        self.contamination = contamination
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, X, y=None):
        """Learns from ``X`` (n_samples, n_features; NaN is missing). ``y`` is not looked at."""
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_all_finite=False, ensure_min_samples=2)
        share = self.contamination
        if share != "auto" and not 0 < share <= 0.5:
            raise ValueError(f"contamination is {share!r}, but must be 'auto' or a share above 0 and up to 0.5")
        self._fit_native((X, np.zeros(len(X)), None))
        self.offset_ = -0.5 if share == "auto" else float(np.percentile(self._scores(X), 100.0 * share))
        return self

    def _learner(self, columns):
        return {"kind": "isolation", "trees": self.n_estimators, "sample": self.max_samples, "seed": self._seed()}

    def _scores(self, X):
        return -self.model_.predictions(X, threads=self._n_threads())

    def score_samples(self, X):
        """The anomaly score of each row, negated as in scikit-learn: the lower, the more unlike the others."""
        check_is_fitted(self)
        return self._scores(self._features(X))

    def decision_function(self, X):
        """``score_samples`` from ``offset_`` on: below 0 are outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """-1 for outliers, 1 for the others."""
        return np.where(self.decision_function(X) < 0, -1, 1)
