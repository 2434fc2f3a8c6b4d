"""Preparation of columns as part of a model, and of texts before it."""

import json

import numpy as np
from sklearn.base import MetaEstimatorMixin, TransformerMixin, clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import check_is_fitted

from . import _native
from ._base import BinaryClassifier, Estimator, Learned, Regressor, _threads
from ._linear import LogisticRegression
from ._parameters import accepting

# The words of each step, and what it takes beside `columns`.
_STEPS = {
    "select": [],
    "impute": ["fill", "indicator"],
    "missing": [],
    "scale": ["by"],
    "power": [],
    "one_hot": ["most"],
    "ordinal": [],
    "frequency": [],
    "hash": ["buckets", "seed"],
    "target": ["smoothing", "folds"],
    "quantiles": ["bins"],
    "widths": ["bins"],
    "pca": ["components", "standardise"],
}
_NEEDED = {"one_hot": {"most": 20}, "target": {"smoothing": 10.0, "folds": 5}, "quantiles": {"bins": 10}, "widths": {"bins": 10}, "hash": {"buckets": 16}}


class PreparedModel(MetaEstimatorMixin, Learned):
    """A learner with steps of preparation before it that are fitted with it, kept in its model file, and seen through by ``explain``.

    What a model says of a derived column counts for the feature behind it, so that contributions are those of the features as they came. A score goes
    through the same steps with what they learned from the training rows.

    Parameters
    ----------
    estimator : a classifier of two classes or a regression of this package, default=None
        ``None`` is a ``LogisticRegression()``. Its settings by column, as ``monotonic_cst``, are those of the prepared columns.
    steps : list of str or dict, default=("impute", "scale")
        In order: a name, or a dict with ``step``, its name, ``columns``, a list of names or positions (all where it is left out), and its settings:

        - ``select``: hands on these columns and no others
        - ``impute``: ``fill`` is "median", "mean" or a number; with ``indicator`` a column ``NAME:missing`` is added
        - ``missing``: a column ``NAME:missing`` of 0 and 1
        - ``scale``: ``by`` is "standard" (mean, standard deviation) or "robust" (median, quartiles)
        - ``power``: Yeo and Johnson's transform, by the likeliest exponent
        - ``one_hot``: a column of 0 and 1 for each of the ``most`` (20) most frequent codes
        - ``ordinal``: the place of the code in ascending order; -1 where it is missing or new
        - ``frequency``: the share of the rows that have the code
        - ``hash``: ``buckets`` (16) columns of 1, -1 and 0 by the code's hash with ``seed``
        - ``target``: the mean label of the rows of the same code, each training row without its own fold; ``smoothing`` (10), ``folds`` (5)
        - ``quantiles``, ``widths``: the number of the bin of equal frequency, of equal width; ``bins`` (10)
        - ``pca``: the ``components`` directions of most variance, ``standardise`` (True) first

    Attributes
    ----------
    classes_ : array of the two classes, of a classifier
    prepared_names_ : names of the columns that the learner sees
    model_ : kilter.Model
    n_features_in_, feature_names_in_, report_

    Examples
    --------
    >>> import numpy as np
    >>> from kilter import LogisticRegression, PreparedModel
    >>> rng = np.random.default_rng(0)
    >>> X = np.column_stack([rng.integers(0, 12, size=500), rng.normal(size=500)])
    >>> y = (np.isin(X[:, 0], [2, 5, 7]) | (X[:, 1] > 1)).astype(int)
    >>> steps = [{"step": "one_hot", "columns": [0]}, "scale"]
    >>> model = PreparedModel(LogisticRegression(), steps=steps).fit(X, y)
    >>> bool(model.score(X, y) > LogisticRegression().fit(X, y).score(X, y))
    True
    >>> model.explain(X)[0].shape
    (500, 2)
    """

    def __init__(self, estimator=None, *, steps=("impute", "scale")):
        self.estimator = estimator
        self.steps = steps

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inner = self._inner().__sklearn_tags__()
        tags.estimator_type, tags.classifier_tags, tags.regressor_tags = inner.estimator_type, inner.classifier_tags, inner.regressor_tags
        tags.target_tags = inner.target_tags
        if tags.classifier_tags is not None:
            tags.classifier_tags.multi_class = False
        return tags

    def _inner(self):
        return LogisticRegression() if self.estimator is None else self.estimator

    def fit(self, X, y, sample_weight=None):
        """Fits the steps, one on what the one before makes of ``X`` (n_samples, n_features; NaN is missing), and the learner on what the last one makes."""
        learner = clone(self._inner())
        if not isinstance(learner, (BinaryClassifier, Regressor)) or isinstance(learner, MetaEstimatorMixin):
            raise TypeError(f"estimator is a {type(learner).__name__}, but must be a classifier or a regression of this package")
        # Of those that tell more classes apart, each class would need steps of its own.
        if hasattr(learner, "multi_class") and y is not None and type_of_target(y) == "multiclass":
            raise ValueError("Only binary classification is supported. The type of the target is multiclass.")
        learner._steps = self._told_steps
        self.estimator_ = learner.fit(X, y, sample_weight=sample_weight)
        del learner._steps
        self.model_ = learner.model_
        for name in ["n_features_in_", "feature_names_in_", "classes_"]:
            if hasattr(learner, name):
                setattr(self, name, getattr(learner, name))
            elif hasattr(self, name):
                delattr(self, name)
        return self

    def _told_steps(self, names):
        """The steps as JSON, with names for positions."""
        told = []
        for given in [self.steps] if isinstance(self.steps, (str, dict)) else self.steps:
            step = {"step": given} if isinstance(given, str) else dict(given)
            word = step.get("step")
            if word not in _STEPS:
                raise ValueError(f"step is {word!r}, but must be one of {', '.join(_STEPS)}")
            unknown = set(step) - {"step", "columns", *_STEPS[word]}
            if unknown:
                raise ValueError(f"step {word!r} has no setting {sorted(unknown)[0]!r}; it has {', '.join(['columns', *_STEPS[word]])}")
            chosen = step.get("columns", names if word in ("one_hot", "ordinal", "frequency", "hash", "target") else [])
            step["columns"] = [names[name] if isinstance(name, (int, np.integer)) else str(name) for name in chosen]
            if isinstance(step.get("fill"), (int, float)):
                step["fill"] = {"constant": float(step["fill"])}
            told.append({**_NEEDED.get(word, {}), **step})
        return json.dumps(told)

    def prepare(self, X):
        """What the steps make of the rows: what the learner sees, (n_samples, n_prepared)."""
        check_is_fitted(self)
        return self.model_.prepared(self._features(X))[1]

    @property
    def prepared_names_(self):
        """Names of the columns that the learner sees."""
        check_is_fitted(self, "model_")
        names, _ = self.model_.prepared(np.empty((0, self.n_features_in_)))
        return np.asarray(names, dtype=object)

    def predict(self, X):
        """What the learner predicts of the prepared rows: the likelier class, or a number."""
        check_is_fitted(self)
        return self.estimator_.predict(X)

    @available_if(lambda self: hasattr(self._inner(), "predict_proba"))
    def predict_proba(self, X):
        """Probabilities of the two classes, (n_samples, 2), columns in the order of ``classes_``."""
        check_is_fitted(self)
        return self.estimator_.predict_proba(X)

    @available_if(lambda self: hasattr(self._inner(), "decision_function"))
    def decision_function(self, X):
        """Log-odds of ``classes_[1]``, one a row."""
        check_is_fitted(self)
        return self.estimator_.decision_function(X)

    def score(self, X, y, sample_weight=None):
        """Accuracy of a classifier, R² of a regression."""
        check_is_fitted(self)
        return self.estimator_.score(X, y, sample_weight=sample_weight)


_HASHER_ALIASES = {"n_buckets": "n_features", "columns": "n_features", "seed": "random_state"}


class TextHasher(TransformerMixin, Estimator):
    """Texts as rows of numbers by the hashing trick: nothing is learned, no dictionary kept.

    Each word (or n-gram) falls into one of ``n_features`` columns with a sign, by FNV-1a of 64 bits over the seed and the UTF-8 bytes, mixed by
    MurmurHash3's finaliser. The same text gives the same row everywhere.

    Parameters
    ----------
    n_features : int, default=256
    analyzer : {"word", "char"}, default="word"
        Runs of letters, digits and underscores; or characters, where blanks that follow each other are one.
    ngram_range : (int, int), default=(1, 1)
        How many that stand next to each other are taken together, from and to.
    lowercase : bool, default=True
    alternate_sign : bool, default=True
        Add with the hash's sign, so that what falls together by chance cancels out on average.
    norm : {"l2", "l1"} or None, default="l2"
    random_state : int, default=0
        Seed of the hash.
    n_jobs : int or None, default=None

    Examples
    --------
    >>> from kilter import TextHasher
    >>> TextHasher(n_features=64).transform(["card payment", "payment by card", None]).shape
    (3, 64)
    """

    _aliases = _HASHER_ALIASES

    @accepting(_HASHER_ALIASES)
    def __init__(
        self,
        *,
        n_features=256,
        analyzer="word",
        ngram_range=(1, 1),
        lowercase=True,
        alternate_sign=True,
        norm="l2",
        random_state=0,
        n_jobs=None,
    ):
        self.n_features = n_features
        self.analyzer = analyzer
        self.ngram_range = ngram_range
        self.lowercase = lowercase
        self.alternate_sign = alternate_sign
        self.norm = norm
        self.random_state = random_state
        self.n_jobs = n_jobs

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.requires_fit = False
        return tags

    def fit(self, X=None, y=None):
        """Looks at the parameters only."""
        self._hash([])
        return self

    def transform(self, X):
        """One row a text, (n_samples, n_features); ``None`` is a text without words."""
        if isinstance(X, str):
            raise ValueError("X is one text, but must be a list or column of them")
        return self._hash([None if text is None else str(text) for text in X])

    def _hash(self, texts):
        pieces = {"word": "words", "char": "characters"}.get(self.analyzer)
        if pieces is None:
            raise ValueError(f"analyzer is {self.analyzer!r}, but must be 'word' or 'char'")
        if self.norm not in (None, "l1", "l2"):
            raise ValueError(f"norm is {self.norm!r}, but must be 'l1', 'l2' or None")
        shortest, longest = self.ngram_range
        told = {
            "columns": int(self.n_features),
            "seed": int(self.random_state),
            "by": pieces,
            "shortest": int(shortest),
            "longest": int(longest),
            "lowercase": bool(self.lowercase),
            "signed": bool(self.alternate_sign),
            "norm": self.norm or "none",
        }
        return _native.hash_texts(json.dumps(told), texts, threads=_threads(self.n_jobs))

    def get_feature_names_out(self, input_features=None):
        """``texthasher0`` and so on."""
        return np.asarray([f"texthasher{column}" for column in range(self.n_features)], dtype=object)
