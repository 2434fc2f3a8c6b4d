"""Explainable boosting."""

from ._base import BinaryClassifier, Regressor
from ._parameters import accepting

_ALIASES = {
    "interactions": "pairs",
    "outer_bags": "bags",
    "max_iter": "max_rounds",
    "n_estimators": "max_rounds",
    "early_stopping_rounds": "n_iter_no_change",
    "max_leaves": "max_leaf_nodes",
    "num_leaves": "max_leaf_nodes",
    "min_child_samples": "min_samples_leaf",
    "min_data_in_leaf": "min_samples_leaf",
    "max_bin": "max_bins",
    "max_interaction_bins": "max_pair_bins",
    "validation_size": "validation_fraction",
    "eta": "learning_rate",
    "monotone_constraints": "monotonic_cst",
    "seed": "random_state",
    "random_seed": "random_state",
    "num_threads": "n_jobs",
    "nthread": "n_jobs",
}


class _Explainable:
    """What the two have in common."""

    _aliases = _ALIASES

    def _learner(self, columns):
        return {
            "kind": "explainable",
            "target": self._target,
            "bins": self.max_bins,
            "pair_bins": self.max_pair_bins,
            "pairs": self.pairs,
            "bags": self.bags,
            "validation_fraction": self.validation_fraction,
            "learning_rate": self.learning_rate,
            "rounds": self.max_rounds,
            "early_stopping": self.n_iter_no_change,
            "leaves": self.max_leaf_nodes,
            "min_leaf_rows": self.min_samples_leaf,
            "seed": self._seed(),
            "monotone": self._monotone(columns),
        }

    def _fit_native(self, rows, validation=None):
        if len(rows[0]) < 2:
            raise ValueError("n_samples=1: some rows are held out to know when to stop, so there must be more than one")
        super()._fit_native(rows, validation)

    @property
    def feature_importances_(self):
        """How far each feature moves the margin in the mean, as shares of 1."""
        return self._importance_shares()


class ExplainableBoostingClassifier(_Explainable, BinaryClassifier):
    """An additive model for two classes: a table for each feature and for a few pairs of them, grown by boosting. The ``explainable`` of Kilter's
    definitions.

    What a feature does to the log-odds can be read from its table, and ``explain`` gives just that. Missing values (NaN) have a bin of their own.
    InterpretML's names of parameters are accepted as well.

    Parameters
    ----------
    pairs : int, default=10
        Most pairs of features that get a table.
    bags : int, default=8
        Models on other rows each, whose mean is taken.
    learning_rate : float, default=0.04
    max_rounds : int, default=5000
        Most times each table is grown.
    n_iter_no_change : int, default=50
        Stop after this many rounds without a lower loss on the rows that a bag holds out.
    validation_fraction : float, default=0.15
        Share of rows that a bag holds out.
    max_leaf_nodes : int, default=3
        Most leaves of one tree on a feature, 2 or 3.
    min_samples_leaf : int, default=4
        Fewest training rows in a leaf.
    max_bins : int, default=255
        Bins of a feature's table, beside the one for missing values.
    max_pair_bins : int, default=32
        Bins of a pair's table for each of its features.
    monotonic_cst : array of -1, 0, 1, or dict by feature name, default=None
        The score must not rise (-1) or not fall (1) as the feature rises. Such a feature is in no pair.
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
    >>> from kilter import ExplainableBoostingClassifier
    >>> X = np.random.default_rng(0).normal(size=(500, 2))
    >>> model = ExplainableBoostingClassifier(bags=2).fit(X, X[:, 0] > 0)
    >>> model.predict([[1.0, 0.0], [-1.0, 0.0]])
    array([ True, False])
    """

    _target = "binary"

    @accepting(_ALIASES)
    def __init__(
        self,
        *,
        pairs=10,
        bags=8,
        learning_rate=0.04,
        max_rounds=5000,
        n_iter_no_change=50,
        validation_fraction=0.15,
        max_leaf_nodes=3,
        min_samples_leaf=4,
        max_bins=255,
        max_pair_bins=32,
        monotonic_cst=None,
        class_weight=None,
        random_state=None,
        n_jobs=None
    ):
        self.pairs = pairs
        self.bags = bags
        self.learning_rate = learning_rate
        self.max_rounds = max_rounds
        self.n_iter_no_change = n_iter_no_change
        self.validation_fraction = validation_fraction
        self.max_leaf_nodes = max_leaf_nodes
        self.min_samples_leaf = min_samples_leaf
        self.max_bins = max_bins
        self.max_pair_bins = max_pair_bins
        self.monotonic_cst = monotonic_cst
        self.class_weight = class_weight
        self.random_state = random_state
        self.n_jobs = n_jobs


class ExplainableBoostingRegressor(_Explainable, Regressor):
    """An additive model for a mean: a table for each feature and for a few pairs of them, grown by boosting.

    What a feature does to the prediction can be read from its table, and ``explain`` gives just that. Missing values (NaN) have a bin of their own.
    InterpretML's names of parameters are accepted as well.

    Parameters
    ----------
    pairs : int, default=10
        Most pairs of features that get a table.
    bags : int, default=8
        Models on other rows each, whose mean is taken.
    learning_rate : float, default=0.04
    max_rounds : int, default=5000
        Most times each table is grown.
    n_iter_no_change : int, default=50
        Stop after this many rounds without a lower loss on the rows that a bag holds out.
    validation_fraction : float, default=0.15
        Share of rows that a bag holds out.
    max_leaf_nodes : int, default=3
        Most leaves of one tree on a feature, 2 or 3.
    min_samples_leaf : int, default=4
        Fewest training rows in a leaf.
    max_bins : int, default=255
        Bins of a feature's table, beside the one for missing values.
    max_pair_bins : int, default=32
        Bins of a pair's table for each of its features.
    monotonic_cst : array of -1, 0, 1, or dict by feature name, default=None
        The prediction must not rise (-1) or not fall (1) as the feature rises. Such a feature is in no pair.
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
    >>> from kilter import ExplainableBoostingRegressor
    >>> X = np.random.default_rng(0).uniform(size=(500, 2))
    >>> model = ExplainableBoostingRegressor(bags=2).fit(X, 10 * X[:, 0])
    >>> bool(abs(model.predict([[0.5, 0.5]])[0] - 5) < 0.5)
    True
    """

    _target = "mean"

    @accepting(_ALIASES)
    def __init__(
        self,
        *,
        pairs=10,
        bags=8,
        learning_rate=0.04,
        max_rounds=5000,
        n_iter_no_change=50,
        validation_fraction=0.15,
        max_leaf_nodes=3,
        min_samples_leaf=4,
        max_bins=255,
        max_pair_bins=32,
        monotonic_cst=None,
        random_state=None,
        n_jobs=None
    ):
        self.pairs = pairs
        self.bags = bags
        self.learning_rate = learning_rate
        self.max_rounds = max_rounds
        self.n_iter_no_change = n_iter_no_change
        self.validation_fraction = validation_fraction
        self.max_leaf_nodes = max_leaf_nodes
        self.min_samples_leaf = min_samples_leaf
        self.max_bins = max_bins
        self.max_pair_bins = max_pair_bins
        self.monotonic_cst = monotonic_cst
        self.random_state = random_state
        self.n_jobs = n_jobs
