"""What all estimators share: checking data, class labels, weights, prediction, explanation."""

import json

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, check_random_state, validate_data

from . import _native
from ._parameters import canonical


class Estimator(BaseEstimator):
    """Parameters that go by several names; ``_aliases`` maps the others to the own ones."""

    _aliases = {}

    def set_params(self, **params):
        nested = {name: value for name, value in params.items() if "__" in name}
        flat = {name: value for name, value in params.items() if "__" not in name}
        known = self._get_param_names()
        # What is unknown altogether is left to scikit-learn, which raises a ValueError here.
        own = canonical(type(self).__name__, {n: v for n, v in flat.items() if self._aliases.get(n, n) in known}, known, self._aliases)
        return super().set_params(**own, **{n: v for n, v in flat.items() if self._aliases.get(n, n) not in known}, **nested)


class Learned(Estimator):
    """An estimator that holds a native model once it is fitted. Subclasses say which learner."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _learner(self, columns):
        """The native learner's parameters, checked by it."""
        raise NotImplementedError

    def _fit_native(self, rows, validation=None, **extras):
        X, _, weights = rows
        if weights is not None and (weights == 0).any() and (weights > 0).any():
            # A row that weighs nothing is as one that is not there: it cuts no bins and fills no leaf.
            rows = tuple(np.ascontiguousarray(part[weights > 0]) for part in rows)
        names = list(getattr(self, "feature_names_in_", [f"x{column}" for column in range(X.shape[1])]))
        # A PreparedModel's, which come before its learner.
        steps = getattr(self, "_steps", None)
        self.model_ = _native.fit(
            json.dumps(self._learner(X.shape[1])),
            rows,
            names=names,
            validation=validation,
            threads=self._n_threads(),
            steps=None if steps is None else steps(names),
            **extras,
        )

    def _n_threads(self):
        return _threads(getattr(self, "n_jobs", None))

    def _features(self, X):
        return validate_data(self, X, dtype=[np.float64, np.float32], ensure_all_finite=False, reset=False)

    def explain(self, X, reference=None, *, groups=None):
        """Exact Shapley values on the margin's scale: log-odds for a classifier, the link's scale for a regression.

        Returns ``(contributions, base)``: an array (n_samples, n_features) and a number, with ``base + contributions.sum(axis=1)`` equal to
        ``model_.margins(X)`` to rounding. The base is the mean margin of the rows learned from, or of the rows of ``reference``, such as those
        that were accepted: then contributions are what sets a row apart from these. ``groups``, a dict of lists of features by the group's
        name, adds up the contributions of each group: columns are then the groups, in the order of the dict, and after them the features that
        are in none.
        """
        check_is_fitted(self)
        against = {} if reference is None else {"reference": self._features(reference)}
        contributions, base = self.model_.explain(self._features(X), threads=self._n_threads(), **against)
        return (contributions if groups is None else _grouped(contributions, groups, self.model_.inputs)), base

    def score_one(self, row):
        """Prediction for one row: a tuple, list, float64 array, or a dict by feature name; ``None`` is missing.

        Of a classifier it is the probability of ``classes_[1]``.
        """
        check_is_fitted(self)
        return self.model_.score_one(row)

    def _weights(self, X, sample_weight):
        if sample_weight is None:
            return None
        return _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)

    def _monotone(self, columns):
        """``monotonic_cst`` as -1, 0 or 1 for each column."""
        given = self.monotonic_cst
        if given is None:
            return []
        if not isinstance(given, dict):
            return [int(direction) for direction in given]
        names = list(getattr(self, "feature_names_in_", [f"x{column}" for column in range(columns)]))
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ValueError(f"monotonic_cst names features that X does not have: {unknown}")
        return [int(given.get(name, 0)) for name in names]

    def _importance_shares(self):
        """The model's importance of each feature, as shares of 1."""
        importance = self.model_.importance()
        total = importance.sum()
        return importance / total if total > 0 else np.zeros_like(importance)

    @property
    def report_(self):
        """Parameters and figures of the training, as a dict."""
        check_is_fitted(self)
        return json.loads(self.model_.describe_json())

    def _seed(self):
        state = self.random_state
        if state is None:
            return 7
        if isinstance(state, (int, np.integer)):
            return int(state) & 0xFFFFFFFFFFFFFFFF
        return int(check_random_state(state).randint(2**31))


class Regressor(RegressorMixin, Learned):
    """Learns a number from rows."""

    def fit(self, X, y, sample_weight=None, *, eval_set=None):
        """Learns from ``X`` (n_samples, n_features; NaN is missing) and numbers ``y``.

        ``eval_set=(X, y)`` or ``(X, y, sample_weight)``: rows to watch the loss on; with early stopping they decide when to stop.
        """
        return self._fit(X, y, sample_weight, eval_set)

    def _fit(self, X, y, sample_weight, eval_set, **extras):
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], ensure_all_finite=False, y_numeric=True)
        rows = (X, np.asarray(y, dtype=np.float64), self._weights(X, sample_weight))
        self._fit_native(rows, None if eval_set is None else self._validation(eval_set), **extras)
        return self

    def _validation(self, rows, name="eval_set"):
        X, y, *weight = rows
        X = self._features(X)
        return (X, np.asarray(y, dtype=np.float64), self._weights(X, *(weight or [None])))

    def predict(self, X):
        """What the loss asks for of each row: a mean, a median, a quantile."""
        check_is_fitted(self)
        return self.model_.predictions(self._features(X), threads=self._n_threads())


class BinaryClassifier(ClassifierMixin, Learned):
    """Learns from rows with two classes."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def fit(self, X, y, sample_weight=None, *, eval_set=None):
        """Learns from ``X`` (n_samples, n_features; NaN is missing) and ``y`` (two classes).

        ``eval_set=(X, y)`` or ``(X, y, sample_weight)``: rows to watch the loss on; with early stopping they decide when to stop.
        """
        return self._fit(X, y, sample_weight, eval_set)

    def _fit(self, X, y, sample_weight, eval_set, **extras):
        X, y = self._validate(X, y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        weights = self._weights(X, codes, sample_weight)
        seen = np.unique(codes if weights is None else codes[weights > 0])
        if len(seen) < 2:
            raise ValueError("y has one class only, counting rows whose weight is above 0: there is nothing to tell apart")
        rows = (X, codes.astype(np.float64), weights)
        self._fit_native(rows, None if eval_set is None else self._validation(eval_set), **extras)
        return self

    def _validate(self, X, y):
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], ensure_all_finite=False)
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        if kind != "binary":
            raise ValueError(f"Only binary classification is supported. The type of the target is {kind}.")
        return X, y

    def _validation(self, rows, name="eval_set"):
        X, y, *weight = rows
        X = self._features(X)
        position = np.searchsorted(self.classes_, y)
        codes = np.minimum(position, len(self.classes_) - 1)
        if not np.array_equal(self.classes_[codes], np.asarray(y)):
            raise ValueError(f"{name} has classes that the training rows do not have")
        return (X, codes.astype(np.float64), self._weights(X, codes, *(weight or [None])))

    def _weights(self, X, codes, sample_weight):
        weights = super()._weights(X, sample_weight)
        class_weight = getattr(self, "class_weight", None)
        if class_weight is not None:
            by_class = compute_sample_weight(class_weight, self.classes_[codes])
            weights = by_class if weights is None else weights * by_class
        return weights

    def decision_function(self, X):
        """Log-odds of ``classes_[1]``, one a row."""
        check_is_fitted(self)
        return self.model_.margins(self._features(X), threads=self._n_threads())

    def predict_proba(self, X):
        """Probabilities of the two classes, (n_samples, 2), columns in the order of ``classes_``."""
        check_is_fitted(self)
        positive = self.model_.probabilities(self._features(X), threads=self._n_threads())
        return np.column_stack([1.0 - positive, positive])

    def predict(self, X):
        """The likelier class of each row."""
        positive = self.decision_function(X) > 0
        return self.classes_[positive.astype(int)]


def _grouped(contributions, groups, names):
    """Contributions added up by group, then those of the features that are in none."""
    group_of = {}
    for group, members in groups.items():
        for member in [members] if isinstance(members, (str, int, np.integer)) else members:
            known = names.index(member) if member in names else member
            if isinstance(known, str) or not 0 <= known < len(names):
                raise ValueError(f"the group {group!r} has {member!r}, which is no feature; they are {names}")
            if group_of.setdefault(known, group) != group:
                raise ValueError(f"the feature {member!r} is in the groups {group_of[known]!r} and {group!r}; it gives its part to one")
    columns = [[at for at, own in group_of.items() if own == group] for group in groups]
    columns += [[at] for at in range(len(names)) if at not in group_of]
    return np.stack([contributions[:, members].sum(axis=1) for members in columns], axis=1)


def _threads(n_jobs):
    """scikit-learn's n_jobs: None lets the size of the data decide, -1 is all cores, -2 all but one."""
    if n_jobs is None:
        return None
    if n_jobs < 0:
        import os

        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores + 1 + n_jobs)
    if n_jobs == 0:
        raise ValueError("n_jobs is 0; give a number of threads, -1 for all cores, or None")
    return n_jobs
