"""Gradient-boosted decision trees."""

import numpy as np

from ._base import BinaryClassifier
from ._parameters import accepting

_ALIASES = {
    "max_iter": "n_estimators",
    "n_iter": "n_estimators",
    "num_iterations": "n_estimators",
    "num_boost_round": "n_estimators",
    "num_round": "n_estimators",
    "num_trees": "n_estimators",
    "eta": "learning_rate",
    "shrinkage_rate": "learning_rate",
    "num_leaves": "max_leaf_nodes",
    "max_leaves": "max_leaf_nodes",
    "min_child_samples": "min_samples_leaf",
    "min_data_in_leaf": "min_samples_leaf",
    "min_sum_hessian_in_leaf": "min_child_weight",
    "min_sum_hessian": "min_child_weight",
    "lambda_l2": "l2_regularization",
    "reg_lambda": "l2_regularization",
    "min_split_gain": "min_gain_to_split",
    "max_bin": "max_bins",
    "bagging_fraction": "subsample",
    "colsample_bytree": "max_features",
    "feature_fraction": "max_features",
    "monotone_constraints": "monotonic_cst",
    "early_stopping_round": "n_iter_no_change",
    "early_stopping_rounds": "n_iter_no_change",
    "seed": "random_state",
    "random_seed": "random_state",
    "num_threads": "n_jobs",
    "nthread": "n_jobs",
}


class GradientBoostingClassifier(BinaryClassifier):
    """Histogram-based, leaf-wise gradient boosting for two classes: the ``gbdt`` of Kilter's definitions.

    The same rows, parameters and seed give the same model, to the last bit, on any number of threads. Missing values (NaN) learn a side
    at every split. LightGBM's names of parameters are accepted as well.

    Parameters
    ----------
    n_estimators : int, default=100
        Most trees to grow.
    learning_rate : float, default=0.1
    max_leaf_nodes : int, default=31
        Most leaves of a tree.
    max_depth : int or None, default=None
        Most splits between root and leaf.
    min_samples_leaf : int, default=20
        Fewest training rows in a leaf.
    min_child_weight : float, default=1e-3
        Smallest sum of hessians in a leaf.
    l2_regularization : float, default=1.0
        Pulls leaf values towards zero.
    min_gain_to_split : float, default=1e-6
    max_bins : int, default=255
        Bins a column is cut into, beside the one for missing values.
    subsample : float, default=1.0
        Share of rows each tree sees.
    max_features : float, default=1.0
        Share of columns each tree sees.
    monotonic_cst : array of -1, 0, 1, or dict by feature name, default=None
        The score must not rise (-1) or not fall (1) as the feature rises.
    class_weight : dict or "balanced" or None, default=None
    early_stopping : bool, default=False
        Stop when the validation loss has not fallen for ``n_iter_no_change`` trees, and keep the best number of them. Without an
        ``eval_set`` the last ``validation_fraction`` of the rows are held out, so rows should be in time order.
    n_iter_no_change : int, default=50
    validation_fraction : float, default=0.1
    random_state : int, RandomState or None, default=None
        ``None`` is a fixed seed: training is repeatable unless told otherwise.
    n_jobs : int or None, default=None
        Threads. ``None``: one for small data, else all cores.

    Attributes
    ----------
    classes_ : array of the two classes
    model_ : kilter.Model, what ``save`` writes and the Kilter program serves
    n_features_in_, feature_names_in_, feature_importances_, report_

    Examples
    --------
    >>> import numpy as np
    >>> from kilter import GradientBoostingClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 3))
    >>> y = np.where(X[:, 0] * X[:, 1] > 0, "yes", "no")
    >>> model = GradientBoostingClassifier(n_estimators=50).fit(X, y)
    >>> model.predict([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0]])
    array(['yes', 'no'], dtype='<U3')
    """

    _aliases = _ALIASES

    @accepting(_ALIASES)
    def __init__(
        self,
        *,
        n_estimators=100,
        learning_rate=0.1,
        max_leaf_nodes=31,
        max_depth=None,
        min_samples_leaf=20,
        min_child_weight=1e-3,
        l2_regularization=1.0,
        min_gain_to_split=1e-6,
        max_bins=255,
        subsample=1.0,
        max_features=1.0,
        monotonic_cst=None,
        class_weight=None,
        early_stopping=False,
        n_iter_no_change=50,
        validation_fraction=0.1,
        random_state=None,
        n_jobs=None
    ):
        self.n_estimators = n_estimators
        self.learning_rate = learning_rate
        self.max_leaf_nodes = max_leaf_nodes
        self.max_depth = max_depth
        self.min_samples_leaf = min_samples_leaf
        self.min_child_weight = min_child_weight
        self.l2_regularization = l2_regularization
        self.min_gain_to_split = min_gain_to_split
        self.max_bins = max_bins
        self.subsample = subsample
        self.max_features = max_features
        self.monotonic_cst = monotonic_cst
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.n_iter_no_change = n_iter_no_change
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _learner(self, columns):
        return {
            "kind": "gbdt",
            "trees": self.n_estimators,
            "leaves": self.max_leaf_nodes,
            "max_depth": self.max_depth,
            "learning_rate": self.learning_rate,
            "min_leaf_rows": self.min_samples_leaf,
            "min_child_hessian": self.min_child_weight,
            "lambda_l2": self.l2_regularization,
            "min_gain": self.min_gain_to_split,
            "bins": self.max_bins,
            "bagging_fraction": self.subsample,
            "column_fraction": self.max_features,
            "early_stopping": self.n_iter_no_change if self.early_stopping else None,
            "validation_fraction": self.validation_fraction,
            "seed": self._seed(),
            "monotone": self._monotone(columns),
        }

    def _monotone(self, columns):
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

    @property
    def feature_importances_(self):
        """Gain of the splits on each feature, as shares of 1."""
        gain = self.model_.importance()
        total = gain.sum()
        return gain / total if total > 0 else np.zeros_like(gain)

    @property
    def n_estimators_(self):
        """Trees in the model."""
        return self.report_["trees"]
