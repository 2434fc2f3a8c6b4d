"""Random forests and extra trees."""

import math

import numpy as np
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ._base import BinaryClassifier, Regressor
from ._parameters import accepting

_ALIASES = {
    "n_trees": "n_estimators",
    "num_trees": "n_estimators",
    "num_iterations": "n_estimators",
    "mtry": "max_features",
    "feature_fraction_bynode": "max_features",
    "colsample_bynode": "max_features",
    "min_node_size": "min_samples_leaf",
    "min_child_samples": "min_samples_leaf",
    "min_data_in_leaf": "min_samples_leaf",
    "sample_fraction": "max_samples",
    "bagging_fraction": "max_samples",
    "subsample": "max_samples",
    "max_bin": "max_bins",
    "seed": "random_state",
    "random_seed": "random_state",
    "num_threads": "n_jobs",
    "nthread": "n_jobs",
}


class _Forest:
    """What forests have in common: parameters, and what becomes of them."""

    _aliases = _ALIASES
    _thresholds = "best"

    def _learner(self, columns):
        return {
            "kind": "forest",
            "target": self._target,
            "thresholds": self._thresholds,
            "trees": self.n_estimators,
            "columns_per_split": self._columns_per_split(columns),
            "max_depth": self.max_depth,
            "min_leaf_rows": self.min_samples_leaf,
            "bootstrap": self.bootstrap,
            "draw_fraction": 1.0 if self.max_samples is None else float(self.max_samples),
            "bins": self.max_bins,
            "seed": self._seed(),
        }

    def _columns_per_split(self, columns):
        given = self.max_features
        if given is None:
            return columns
        if isinstance(given, str) and given in ("sqrt", "log2"):
            return max(1, int(getattr(math, given)(columns)))
        if isinstance(given, (int, np.integer)) and not isinstance(given, bool) and given >= 1:
            return min(int(given), columns)
        if isinstance(given, (float, np.floating)) and 0 < given <= 1:
            return max(1, int(given * columns))
        raise ValueError(f"max_features is {given!r}, but must be 'sqrt', 'log2', a number of columns, a share above 0 and up to 1, or None for all")

    @property
    def feature_importances_(self):
        """What the splits on each feature take off the squared error, as shares of 1."""
        return self._importance_shares()


class _ForestClassifier(_Forest, BinaryClassifier):
    _target = "binary"

    @available_if(lambda self: False)
    def decision_function(self, X):
        """There is none: a forest speaks in probabilities, which may be 0 and 1 and have no log-odds then."""

    def predict(self, X):
        """The likelier class of each row."""
        check_is_fitted(self)
        return self.classes_[(self.predict_proba(X)[:, 1] > 0.5).astype(int)]


class _ForestRegressor(_Forest, Regressor):
    _target = "mean"


class RandomForestClassifier(_ForestClassifier):
    """A random forest for two classes: the mean of trees grown on rows drawn with replacement.

    Missing values (NaN) go to the side that parts the rows better. The same rows, parameters and seed give the same model, to the last bit, on any
    number of threads. ``explain`` gives parts of the probability, not of log-odds. Other programs' names of parameters are accepted as well.

    Parameters
    ----------
    n_estimators : int, default=100
        Trees to grow.
    max_features : "sqrt", "log2", int, float or None, default="sqrt"
        Columns that each split chooses from: their number, a share of them, or all (``None``).
    max_depth : int or None, default=None
        Most splits between root and leaf.
    min_samples_leaf : int, default=5
        Fewest training rows in a leaf; scikit-learn's default is 1.
    bootstrap : bool, default=True
        Whether each tree draws rows of its own, with replacement. Then ``report_`` says how well the rows are predicted by the trees that did not
        see them.
    max_samples : float or None, default=None
        How many rows a tree draws, as a share of all; ``None`` is as many as there are.
    max_bins : int, default=255
        Bins a column is cut into, beside the one for missing values.
    class_weight : dict or "balanced" or None, default=None
    random_state : int, RandomState or None, default=None
        ``None`` is a fixed seed: training is repeatable unless told otherwise.
    n_jobs : int or None, default=None
        Threads. ``None``: one for small data, else all cores.

    Attributes
    ----------
    classes_ : array of the two classes
    model_ : kilter.Model
    n_features_in_, feature_names_in_, feature_importances_, report_

    Examples
    --------
    >>> import numpy as np
    >>> from kilter import RandomForestClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 3))
    >>> y = np.where(X[:, 0] * X[:, 1] > 0, "yes", "no")
    >>> RandomForestClassifier(n_estimators=50).fit(X, y).predict([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0]])
    array(['yes', 'no'], dtype='<U3')
    """

    @accepting(_ALIASES)
    def __init__(
        self,
        *,
        n_estimators=100,
        max_features="sqrt",
        max_depth=None,
        min_samples_leaf=5,
        bootstrap=True,
        max_samples=None,
        max_bins=255,
        class_weight=None,
        random_state=None,
        n_jobs=None
    ):
        self.n_estimators = n_estimators
        self.max_features = max_features
        self.max_depth = max_depth
        self.min_samples_leaf = min_samples_leaf
        self.bootstrap = bootstrap
        self.max_samples = max_samples
        self.max_bins = max_bins
        self.class_weight = class_weight
        self.random_state = random_state
        self.n_jobs = n_jobs


class RandomForestRegressor(_ForestRegressor):
    """A random forest for a mean: the mean of trees grown on rows drawn with replacement.

    Missing values (NaN) go to the side that parts the rows better. The same rows, parameters and seed give the same model, to the last bit, on any
    number of threads. Other programs' names of parameters are accepted as well.

    Parameters
    ----------
    n_estimators : int, default=100
        Trees to grow.
    max_features : "sqrt", "log2", int, float or None, default=1/3
        Columns that each split chooses from: their number, a share of them, or all (``None``).
    max_depth : int or None, default=None
        Most splits between root and leaf.
    min_samples_leaf : int, default=5
        Fewest training rows in a leaf; scikit-learn's default is 1.
    bootstrap : bool, default=True
        Whether each tree draws rows of its own, with replacement. Then ``report_`` says how well the rows are predicted by the trees that did not
        see them.
    max_samples : float or None, default=None
        How many rows a tree draws, as a share of all; ``None`` is as many as there are.
    max_bins : int, default=255
        Bins a column is cut into, beside the one for missing values.
    random_state : int, RandomState or None, default=None
        ``None`` is a fixed seed: training is repeatable unless told otherwise.
    n_jobs : int or None, default=None
        Threads. ``None``: one for small data, else all cores.

    Attributes
    ----------
    model_ : kilter.Model
    n_features_in_, feature_names_in_, feature_importances_, report_

    Examples
    --------
    >>> import numpy as np
    >>> from kilter import RandomForestRegressor
    >>> X = np.random.default_rng(0).uniform(size=(1000, 2))
    >>> model = RandomForestRegressor(n_estimators=50).fit(X, 10 * X[:, 0])
    >>> bool(abs(model.predict([[0.5, 0.5]])[0] - 5) < 0.5)
    True
    """

    @accepting(_ALIASES)
    def __init__(
        self,
        *,
        n_estimators=100,
        max_features=0.3333333333333333,
        max_depth=None,
        min_samples_leaf=5,
        bootstrap=True,
        max_samples=None,
        max_bins=255,
        random_state=None,
        n_jobs=None
    ):
        self.n_estimators = n_estimators
        self.max_features = max_features
        self.max_depth = max_depth
        self.min_samples_leaf = min_samples_leaf
        self.bootstrap = bootstrap
        self.max_samples = max_samples
        self.max_bins = max_bins
        self.random_state = random_state
        self.n_jobs = n_jobs


class ExtraTreesClassifier(_ForestClassifier):
    """Extra trees for two classes: the mean of trees whose thresholds are drawn at random.

    Missing values (NaN) go to the side that parts the rows better. The same rows, parameters and seed give the same model, to the last bit, on any
    number of threads. ``explain`` gives parts of the probability, not of log-odds. Other programs' names of parameters are accepted as well.

    Parameters
    ----------
    n_estimators : int, default=100
        Trees to grow.
    max_features : "sqrt", "log2", int, float or None, default="sqrt"
        Columns that each split chooses from: their number, a share of them, or all (``None``).
    max_depth : int or None, default=None
        Most splits between root and leaf.
    min_samples_leaf : int, default=5
        Fewest training rows in a leaf; scikit-learn's default is 1.
    bootstrap : bool, default=False
        Whether each tree draws rows of its own, with replacement. Then ``report_`` says how well the rows are predicted by the trees that did not
        see them.
    max_samples : float or None, default=None
        How many rows a tree draws, as a share of all; ``None`` is as many as there are.
    max_bins : int, default=255
        Bins a column is cut into, beside the one for missing values.
    class_weight : dict or "balanced" or None, default=None
    random_state : int, RandomState or None, default=None
        ``None`` is a fixed seed: training is repeatable unless told otherwise.
    n_jobs : int or None, default=None
        Threads. ``None``: one for small data, else all cores.

    Attributes
    ----------
    classes_ : array of the two classes
    model_ : kilter.Model
    n_features_in_, feature_names_in_, feature_importances_, report_

    Examples
    --------
    >>> import numpy as np
    >>> from kilter import ExtraTreesClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 3))
    >>> y = np.where(X[:, 0] * X[:, 1] > 0, "yes", "no")
    >>> ExtraTreesClassifier(n_estimators=50).fit(X, y).predict([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0]])
    array(['yes', 'no'], dtype='<U3')
    """

    _thresholds = "random"

    @accepting(_ALIASES)
    def __init__(
        self,
        *,
        n_estimators=100,
        max_features="sqrt",
        max_depth=None,
        min_samples_leaf=5,
        bootstrap=False,
        max_samples=None,
        max_bins=255,
        class_weight=None,
        random_state=None,
        n_jobs=None
    ):
        self.n_estimators = n_estimators
        self.max_features = max_features
        self.max_depth = max_depth
        self.min_samples_leaf = min_samples_leaf
        self.bootstrap = bootstrap
        self.max_samples = max_samples
        self.max_bins = max_bins
        self.class_weight = class_weight
        self.random_state = random_state
        self.n_jobs = n_jobs


class ExtraTreesRegressor(_ForestRegressor):
    """Extra trees for a mean: the mean of trees whose thresholds are drawn at random.

    Missing values (NaN) go to the side that parts the rows better. The same rows, parameters and seed give the same model, to the last bit, on any
    number of threads. Other programs' names of parameters are accepted as well.

    Parameters
    ----------
    n_estimators : int, default=100
        Trees to grow.
    max_features : "sqrt", "log2", int, float or None, default=1/3
        Columns that each split chooses from: their number, a share of them, or all (``None``).
    max_depth : int or None, default=None
        Most splits between root and leaf.
    min_samples_leaf : int, default=5
        Fewest training rows in a leaf; scikit-learn's default is 1.
    bootstrap : bool, default=False
        Whether each tree draws rows of its own, with replacement. Then ``report_`` says how well the rows are predicted by the trees that did not
        see them.
    max_samples : float or None, default=None
        How many rows a tree draws, as a share of all; ``None`` is as many as there are.
    max_bins : int, default=255
        Bins a column is cut into, beside the one for missing values.
    random_state : int, RandomState or None, default=None
        ``None`` is a fixed seed: training is repeatable unless told otherwise.
    n_jobs : int or None, default=None
        Threads. ``None``: one for small data, else all cores.

    Attributes
    ----------
    model_ : kilter.Model
    n_features_in_, feature_names_in_, feature_importances_, report_

    Examples
    --------
    >>> import numpy as np
    >>> from kilter import ExtraTreesRegressor
    >>> X = np.random.default_rng(0).uniform(size=(1000, 2))
    >>> model = ExtraTreesRegressor(n_estimators=50).fit(X, 10 * X[:, 0])
    >>> bool(abs(model.predict([[0.5, 0.5]])[0] - 5) < 0.5)
    True
    """

    _thresholds = "random"

    @accepting(_ALIASES)
    def __init__(
        self,
        *,
        n_estimators=100,
        max_features=0.3333333333333333,
        max_depth=None,
        min_samples_leaf=5,
        bootstrap=False,
        max_samples=None,
        max_bins=255,
        random_state=None,
        n_jobs=None
    ):
        self.n_estimators = n_estimators
        self.max_features = max_features
        self.max_depth = max_depth
        self.min_samples_leaf = min_samples_leaf
        self.bootstrap = bootstrap
        self.max_samples = max_samples
        self.max_bins = max_bins
        self.random_state = random_state
        self.n_jobs = n_jobs
