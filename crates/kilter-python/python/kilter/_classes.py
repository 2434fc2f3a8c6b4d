"""Classifiers of two classes or more."""

import json

import numpy as np
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from . import _native
from ._base import BinaryClassifier

_LINKS = {"softmax": "softmax", "multiclass": "softmax", "one_vs_rest": "one_vs_all", "ovr": "one_vs_all", "multiclassova": "one_vs_all"}


class Classifier(BinaryClassifier):
    """Learns from rows with two classes or more. Of two the model is that of the second, as everywhere; of more it is a ``kilter.ClassModel``."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = True
        return tags

    def _validate(self, X, y):
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32], ensure_all_finite=False)
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        if kind not in ("binary", "multiclass"):
            raise ValueError(f"y must be one class for each row; its type is {kind}")
        return X, y

    def _fit_native(self, rows, validation=None, **extras):
        if len(self.classes_) == 2:
            return super()._fit_native(rows, validation, **extras)
        given = {"objective": "loss", "metric": "eval_metric"}
        for extra, name in given.items():
            if extras.pop(extra, None) is not None:
                raise ValueError(f"{name} is a function of two classes, but there are {len(self.classes_)}")
        link = _LINKS.get(self.multi_class)
        if link is None:
            raise ValueError(f"multi_class is {self.multi_class!r}, but must be 'softmax' or 'one_vs_rest'")
        X, codes, weights = rows
        if weights is not None and (weights == 0).any():
            rows = tuple(np.ascontiguousarray(part[weights > 0]) for part in rows)
            lost = self.classes_[np.setdiff1d(codes, rows[1]).astype(int)]
            if len(lost):
                raise ValueError(f"the rows of the classes {lost.tolist()} all have weight 0")
        names = getattr(self, "feature_names_in_", None)
        self.model_ = _native.fit_classes(
            json.dumps(self._learner(X.shape[1])),
            rows,
            [str(name) for name in self.classes_],
            link,
            names=None if names is None else list(names),
            validation=validation,
            threads=self._n_threads(),
            **extras,
        )

    def decision_function(self, X):
        """Log-odds of ``classes_[1]``, one a row; of more than two classes a margin for each, (n_samples, n_classes)."""
        return super().decision_function(X)

    def predict_proba(self, X):
        """Probabilities of the classes, (n_samples, n_classes), columns in the order of ``classes_``."""
        check_is_fitted(self)
        if len(self.classes_) == 2:
            return super().predict_proba(X)
        return self.model_.probabilities(self._features(X), threads=self._n_threads())

    def predict(self, X):
        """The likeliest class of each row."""
        check_is_fitted(self)
        if len(self.classes_) == 2:
            return super().predict(X)
        return self.classes_[self.decision_function(X).argmax(axis=1)]

    def explain(self, X, reference=None, *, groups=None):
        """Exact Shapley values on the margin's scale.

        Returns ``(contributions, base)``: an array (n_samples, n_features) and a number, with ``base + contributions.sum(axis=1)`` equal to
        ``model_.margins(X)`` to rounding. Of more than two classes they are (n_samples, n_features, n_classes) and one base a class. ``groups``, a
        dict of lists of features by the group's name, adds up the contributions of each group: columns are then the groups, in the order of
        the dict, and after them the features that are in none.
        """
        if reference is not None and len(self.classes_) > 2:
            raise ValueError("contributions against reference rows are told of two classes only")
        return super().explain(X, reference, groups=groups)

    def score_one(self, row):
        """Probability of ``classes_[1]`` for one row: a tuple, list, float64 array, or a dict by feature name; ``None`` is missing.

        Of more than two classes it is an array of all their probabilities.
        """
        return super().score_one(row)
