"""Classifiers of streams: they learn row by row, and go on learning."""

import json

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from . import _native
from ._base import Learned
from ._parameters import accepting


class _OnlineClassifier(ClassifierMixin, Learned):
    """Learns from rows in the order in which they come."""

    _classes_at_most = None

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = self._classes_at_most is None
        return tags

    def fit(self, X, y, sample_weight=None):
        """Forgets what was learned and makes one pass over ``X`` (n_samples, n_features; NaN is missing) and ``y``, in their order."""
        X, y = self._rows(X, y, reset=True)
        classes = np.unique(y)
        weights = self._weights(X, sample_weight)
        if len(classes if weights is None else np.unique(y[weights > 0])) < 2:
            raise ValueError("y has one class only, counting rows whose weight is above 0: there is nothing to tell apart")
        self._start(classes)
        return self._take(X, y, weights)

    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Goes on learning from more rows. The first call must name all ``classes`` there will ever be."""
        first = not hasattr(self, "model_")
        if first and classes is None:
            raise ValueError("classes must be given in the first call of partial_fit: all classes that will ever come")
        X, y = self._rows(X, y, reset=first)
        weights = self._weights(X, sample_weight)
        if classes is not None:
            classes = np.unique(classes)
            if not first and not np.array_equal(classes, self.classes_):
                raise ValueError(f"classes are {classes.tolist()}, but those of the first call were {self.classes_.tolist()}")
        if first:
            if len(classes) < 2:
                raise ValueError("classes has one class only: there is nothing to tell apart")
            self._start(classes)
        return self._take(X, y, weights)

    def learn_one(self, row, label, weight=1.0):
        """Goes on learning from one row: a tuple, list, float64 array, or a dict by feature name; ``None`` is missing."""
        check_is_fitted(self)
        self.model_.learn_one(row, self._codes(np.asarray([label]))[0], weight)
        return self

    def prequential(self, X, y, sample_weight=None, *, classes=None, delay=0, stretch=1000):
        """Predicts each row and then learns from it, as a stream does; a learner that knows nothing yet begins here.

        Parameters
        ----------
        delay : int, default=0
            Rows that are predicted before a row's label is known and learned from.
        stretch : int, default=1000
            Rows of the pieces that are judged by themselves.

        Returns
        -------
        judged : dict
            ``all`` and ``stretches``: rows, weight, accuracy, log_loss, and accuracy_of_no_change, that of saying the newest label that was known.
        probabilities : array (n_samples, n_classes)
            As they were told before the row was learned from.
        """
        first = not hasattr(self, "model_")
        X, y = self._rows(X, y, reset=first)
        weights = self._weights(X, sample_weight)
        if first:
            self._start(np.unique(y if classes is None else classes))
        judged, probabilities = self.model_.prequential((X, self._codes(y), weights), delay=delay, stretch=stretch)
        return json.loads(judged), probabilities

    def _rows(self, X, y, reset):
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], ensure_all_finite=False, reset=reset)
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        if self._classes_at_most is not None and (kind != "binary" or len(np.unique(y)) > self._classes_at_most):
            raise ValueError(f"Only binary classification is supported. The type of the target is {kind}.")
        if kind not in ("binary", "multiclass"):
            raise ValueError(f"y must be one class for each row; its type is {kind}")
        return X, y

    def _weights(self, X, sample_weight):
        if sample_weight is None:
            return None
        return _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)

    def _start(self, classes):
        if self._classes_at_most is not None and len(classes) > self._classes_at_most:
            raise ValueError(f"Only binary classification is supported; there are {len(classes)} classes.")
        if len(classes) < 2:
            raise ValueError("there is one class only: there is nothing to tell apart")
        self.classes_ = classes
        inputs = [str(name) for name in getattr(self, "feature_names_in_", [f"x{column}" for column in range(self.n_features_in_)])]
        self.model_ = _native.OnlineModel(json.dumps(self._learner(len(inputs))), inputs, len(classes))

    def _codes(self, y):
        position = np.minimum(np.searchsorted(self.classes_, y), len(self.classes_) - 1)
        if not np.array_equal(self.classes_[position], np.asarray(y)):
            strange = np.setdiff1d(y, self.classes_).tolist()
            raise ValueError(f"y has the classes {strange}, which were not among those of the first call: {self.classes_.tolist()}")
        return position.astype(np.float64)

    def _take(self, X, y, weights):
        self.model_.learn((X, self._codes(y), weights))
        return self

    def decision_function(self, X):
        """Log-odds of ``classes_[1]``, one a row; of more than two classes a margin for each, (n_samples, n_classes)."""
        check_is_fitted(self)
        return self.model_.margins(self._features(X), threads=self._n_threads())

    def predict_proba(self, X):
        """Probabilities of the classes, (n_samples, n_classes), columns in the order of ``classes_``."""
        check_is_fitted(self)
        return self.model_.probabilities(self._features(X), threads=self._n_threads())

    def predict(self, X):
        """The likeliest class of each row."""
        margins = self.decision_function(X)
        return self.classes_[(margins > 0).astype(int) if margins.ndim == 1 else margins.argmax(axis=1)]

    def explain(self, X):
        """What each feature adds to the margin.

        Returns ``(contributions, bases)``: (n_samples, n_features) and one base a row, with ``bases + contributions.sum(axis=1)`` equal to
        ``decision_function(X)`` to rounding. Of more than two classes they are (n_samples, n_features, n_classes) and (n_samples, n_classes).
        """
        return super().explain(X)


_LOGISTIC_ALIASES = {"alpha": "learning_rate", "eta0": "learning_rate", "beta": "smoothing"}


class OnlineLogisticRegression(_OnlineClassifier):
    """Logistic regression that learns row by row (FTRL-proximal), each coefficient with a learning rate of its own.

    Columns are standardised by their running mean and standard deviation. A missing value counts as the mean. The same rows in the same order give
    the same model, to the last bit, however they are divided among calls of ``partial_fit``, and with saving and loading between.

    Parameters
    ----------
    learning_rate : float, default=0.1
        The first step of a coefficient, as a share of its gradient; later ones shrink with the root of its squared gradients' sum.
    smoothing : float, default=1.0
        Added to that root: the greater, the smaller the first steps.
    l1 : float, default=0.0
        Penalty on absolute standardised coefficients, beside the summed log loss: leaves out columns that do not help.
    l2 : float, default=0.0
        Penalty on half their squares.
    half_life : float or None, default=None
        After so many newer rows a row counts half: for streams that change. ``None``: all rows count alike for ever.
    n_jobs : int or None, default=None
        Threads of predictions.

    Attributes
    ----------
    classes_ : array of the two classes
    coef_ : array, what the log-odds gain for each unit of a column
    model_ : kilter.OnlineModel; its ``model()`` is a kilter.Model of what it knows now
    n_features_in_, feature_names_in_, report_

    Examples
    --------
    >>> import numpy as np
    >>> from kilter import OnlineLogisticRegression
    >>> X = np.random.default_rng(0).normal(size=(1000, 2))
    >>> y = (X[:, 0] > 0).astype(int)
    >>> model = OnlineLogisticRegression()
    >>> for first in range(0, 1000, 100):
    ...     model = model.partial_fit(X[first : first + 100], y[first : first + 100], classes=[0, 1])
    >>> model.predict([[-1.0, 0.0], [1.0, 0.0]])
    array([0, 1])
    """

    _aliases = _LOGISTIC_ALIASES
    _classes_at_most = 2

    @accepting(_LOGISTIC_ALIASES)
    def __init__(self, *, learning_rate=0.1, smoothing=1.0, l1=0.0, l2=0.0, half_life=None, n_jobs=None):
        self.learning_rate = learning_rate
        self.smoothing = smoothing
        self.l1 = l1
        self.l2 = l2
        self.half_life = half_life
        self.n_jobs = n_jobs

    def _learner(self, columns):
        names = ["learning_rate", "smoothing", "l1", "l2", "half_life"]
        return {"kind": "online_logistic", **{name: getattr(self, name) for name in names}}

    @property
    def coef_(self):
        """What the log-odds gain for each unit of a column."""
        return np.array(self.report_["coefficients"])


_TREE_ALIASES = {"split_confidence": "delta", "tie_threshold": "tau", "drift_window_threshold": "drift_window"}


class HoeffdingAdaptiveTreeClassifier(_OnlineClassifier):
    """A decision tree that grows row by row and grows anew where the stream has changed: a Hoeffding adaptive tree with ADWIN.

    A leaf splits once Hoeffding's bound says that no other column would do better. Every node watches its errors; where they have risen, an alternate
    tree grows and takes over once it errs less. ``explain`` follows the path: each split adds how it moves the odds, naive Bayes at
    the leaf what it takes from each value. A missing value goes where most rows went. The same rows in the same order give the same
    tree, to the last bit, however they are divided among calls of ``partial_fit``, and with saving and loading between.

    Parameters
    ----------
    grace_period : float, default=200
        Rows (their weight) between two looks for a split of a leaf.
    delta : float, default=1e-5
        How likely a split is another one than all rows still to come would choose.
    tau : float, default=0.05
        Below this bound columns count as equally good.
    max_depth : int, default=20
    max_leaves : int, default=1000
        Leaves of the tree and its alternates together.
    leaf_prediction : {"adaptive", "naive_bayes", "majority"}, default="adaptive"
        By naive Bayes, by the commonest class, or by whichever has been right more often at the leaf. River's ``"nba"``, ``"nb"`` and ``"mc"`` are
        accepted.
    drift_delta : float or None, default=0.002
        How likely steady errors are taken for risen ones. ``None``: a plain Hoeffding tree, which never adapts.
    drift_window : int, default=300
        Errors that both windows must have before an alternate is judged.
    switch_significance : float, default=0.05
        How likely an alternate takes over or goes without being better or worse.
    n_jobs : int or None, default=None
        Threads of predictions.

    Attributes
    ----------
    classes_ : array of the classes
    feature_importances_ : array, shares of the information that splits tell
    model_ : kilter.OnlineModel; its ``model()`` is a kilter.Model of what it knows now
    n_features_in_, feature_names_in_, report_

    Examples
    --------
    >>> import numpy as np
    >>> from kilter import HoeffdingAdaptiveTreeClassifier
    >>> X = np.random.default_rng(0).uniform(size=(4000, 2))
    >>> y = np.where(X[:, 0] > 0.5, "high", "low")
    >>> judged, probabilities = HoeffdingAdaptiveTreeClassifier().prequential(X, y)
    >>> judged["stretches"][-1]["accuracy"] > 0.95
    True
    """

    _aliases = _TREE_ALIASES

    @accepting(_TREE_ALIASES)
    def __init__(
        self,
        *,
        grace_period=200,
        delta=1e-5,
        tau=0.05,
        max_depth=20,
        max_leaves=1000,
        leaf_prediction="adaptive",
        drift_delta=0.002,
        drift_window=300,
        switch_significance=0.05,
        n_jobs=None,
    ):
        self.grace_period = grace_period
        self.delta = delta
        self.tau = tau
        self.max_depth = max_depth
        self.max_leaves = max_leaves
        self.leaf_prediction = leaf_prediction
        self.drift_delta = drift_delta
        self.drift_window = drift_window
        self.switch_significance = switch_significance
        self.n_jobs = n_jobs

    def _learner(self, columns):
        names = ["grace_period", "delta", "tau", "max_depth", "max_leaves", "drift_delta", "drift_window", "switch_significance"]
        prediction = {"nba": "adaptive", "nb": "naive_bayes", "mc": "majority"}.get(self.leaf_prediction, self.leaf_prediction)
        if prediction not in ("adaptive", "naive_bayes", "majority"):
            raise ValueError(f"leaf_prediction is {prediction!r}, but must be 'adaptive', 'naive_bayes' or 'majority'")
        return {"kind": "hoeffding_tree", "leaf_prediction": prediction, **{name: getattr(self, name) for name in names}}

    @property
    def feature_importances_(self):
        """Shares of the information about the class that each feature's splits tell, made or still to be made at the leaves."""
        check_is_fitted(self)
        return self._importance_shares()
