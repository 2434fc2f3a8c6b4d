"""Calibrated probabilities."""

import json

import numpy as np
from sklearn.base import MetaEstimatorMixin, clone
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from . import _native
from ._base import BinaryClassifier
from ._boosting import GradientBoostingClassifier
from ._classes import Classifier
from ._parameters import accepting

_ALIASES = {"base_estimator": "estimator", "calibration_fraction": "share"}


class CalibratedModel(MetaEstimatorMixin, Classifier):
    """A classifier of Kilter whose probabilities come true: the ``calibration`` of Kilter's definitions.

    The learner sees the first rows, the curve is fitted to the last ``share`` of them, so rows should be in time order. Both are kept as one
    model, which the Kilter program serves.

    Parameters
    ----------
    estimator : a classifier of this package or a kilter.Model, default=None
        ``None`` is a ``GradientBoostingClassifier()``. A ``kilter.Model``, one loaded from LightGBM's or XGBoost's file included, is taken as it
        is: then all rows go into the curve.
    method : {"isotonic", "platt", "sigmoid", "beta", "prior_shift", "temperature"}, default="isotonic"
        ``"sigmoid"`` is scikit-learn's name of ``"platt"``. ``"prior_shift"`` moves probabilities to ``target_rate`` and bends nothing. Of more
        than two classes each is calibrated against all others, and their probabilities are made to sum to 1; ``"temperature"`` divides all log
        probabilities by one number instead, which is right with few rows and keeps the order of the classes.
    share : float, default=0.2
        Share of the rows that the curve is fitted to, the last ones.
    target_rate : float or None, default=None
        Share of ``classes_[1]`` where the model will be used, when it is another than that of the rows.
    few_rows : {"refuse", "leave"}, default="refuse"
        What to do with fewer than 50 rows to calibrate with (200 for ``"isotonic"``), or 10 of a class (but for ``"temperature"``): a ValueError, or the model is left as it
        was learned. ``calibrated_`` says which it is.

    Attributes
    ----------
    classes_ : array of the classes
    model_ : kilter.Model, of more than two classes a kilter.ClassModel
    estimator_ : the fitted classifier beneath, or the model
    calibrated_ : whether the probabilities are calibrated
    n_features_in_, feature_names_in_, report_

    Examples
    --------
    >>> import numpy as np
    >>> from kilter import CalibratedModel, GradientBoostingClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(4000, 2))
    >>> y = rng.uniform(size=4000) < 1 / (1 + np.exp(-X[:, 0]))
    >>> steep = GradientBoostingClassifier(n_estimators=400, min_samples_leaf=5)
    >>> calm = CalibratedModel(steep, method="platt").fit(X[:3000], y[:3000])
    >>> from sklearn.metrics import log_loss
    >>> loss = lambda model: log_loss(y[3000:], model.predict_proba(X[3000:]))
    >>> bool(loss(calm) < loss(steep.fit(X[:3000], y[:3000])))
    True
    """

    _aliases = _ALIASES

    @accepting(_ALIASES)
    def __init__(self, estimator=None, *, method="isotonic", share=0.2, target_rate=None, few_rows="refuse"):
        self.estimator = estimator
        self.method = method
        self.share = share
        self.target_rate = target_rate
        self.few_rows = few_rows

    def fit(self, X, y, sample_weight=None):
        """Learns from ``X`` (n_samples, n_features; NaN is missing) and ``y`` (two classes), and calibrates on the last rows."""
        given = X
        X, y = self._validate(X, y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError("y has one class only: there is nothing to tell apart")
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        first = 0 if isinstance(self.estimator, (_native.Model, _native.ClassModel)) else self._first(len(X))
        if first == 0:
            self.estimator_ = learned = self._as_it_is()
        else:
            named = _safe_indexing(given, np.arange(first)) if hasattr(self, "feature_names_in_") else X[:first]
            self.estimator_ = self._learn(named, y[:first], None if weights is None else weights[:first])
            learned = self.estimator_.model_
        rows = (np.ascontiguousarray(X[first:]), codes[first:].astype(np.float64), None if weights is None else weights[first:])
        if self.few_rows not in ("refuse", "leave"):
            raise ValueError(f"few_rows is {self.few_rows!r}, but must be 'refuse' or 'leave'")
        calibrated = self._calibrated(learned, rows)
        self.calibrated_ = calibrated is not None
        self.model_ = calibrated if self.calibrated_ else learned
        return self

    def _calibrated(self, learned, rows):
        method = {"sigmoid": "platt"}.get(self.method, self.method)
        may_be_few = self.few_rows == "leave"
        if isinstance(learned, _native.ClassModel):
            known = list(learned.classes)
            if len(known) != len(self.classes_):
                raise ValueError(f"the model tells {len(known)} classes apart, and y has {len(self.classes_)}: the rows that it learned from must have all")
            if self.target_rate is not None:
                raise ValueError("target_rate is of two classes; leave it out with more")
            return _native.calibrate_classes(learned, method, rows, may_be_few=may_be_few)
        if len(self.classes_) != 2:
            raise ValueError(f"the model tells two classes apart, and y has {len(self.classes_)}: the rows that it learned from must have all")
        if method == "temperature":
            raise ValueError("method 'temperature' is of more than two classes; of two take 'platt'")
        return _native.calibrate(learned, json.dumps({"method": method, "target_rate": self.target_rate}), rows, may_be_few=may_be_few)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = self._takes_several()
        return tags

    def _takes_several(self):
        return self.estimator is None or isinstance(self.estimator, (Classifier, _native.ClassModel))

    def _validate(self, X, y):
        return super()._validate(X, y) if self._takes_several() else BinaryClassifier._validate(self, X, y)

    def _first(self, rows):
        """Rows that the learner sees."""
        if not 0 < self.share < 1:
            raise ValueError(f"share is {self.share}, but must be between 0 and 1")
        return max(1, rows - int(rows * self.share))

    def _as_it_is(self):
        names = list(getattr(self, "feature_names_in_", self.estimator.inputs))
        if names != self.estimator.inputs:
            raise ValueError(f"X has the columns {names}, the model takes {self.estimator.inputs}, in this order")
        return self.estimator

    def _learn(self, X, y, weights):
        estimator = GradientBoostingClassifier() if self.estimator is None else clone(self.estimator)
        if not isinstance(estimator, BinaryClassifier) or isinstance(estimator, CalibratedModel):
            raise TypeError(f"estimator is a {type(estimator).__name__}, but must be a classifier of this package or a kilter.Model")
        return estimator.fit(X, y, sample_weight=weights)

    def decision_function(self, X):
        """Log-odds of the calibrated probability of ``classes_[1]``, one a row; of more than two classes the logarithm of each one's probability."""
        check_is_fitted(self)
        positive = self.model_.probabilities(self._features(X))
        if len(self.classes_) > 2:
            with np.errstate(divide="ignore"):
                return np.log(positive)
        with np.errstate(divide="ignore"):
            return np.log(positive) - np.log1p(-positive)
