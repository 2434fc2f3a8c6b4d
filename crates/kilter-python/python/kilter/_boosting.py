"""Gradient-boosted decision trees."""

from difflib import get_close_matches

import numpy as np
from sklearn.utils.validation import check_is_fitted

from . import _native, _own
from ._base import Regressor
from ._batches import Batched
from ._classes import Classifier
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
    "grow_policy": "growth",
    "bagging_fraction": "subsample",
    "data_sample_strategy": "sampling",
    "sampling_method": "sampling",
    "colsample_bytree": "max_features",
    "feature_fraction": "max_features",
    "monotone_constraints": "monotonic_cst",
    "monotone_constraints_method": "monotonic_method",
    "categorical_feature": "categorical_features",
    "cat_features": "categorical_features",
    "interaction_constraints": "interaction_cst",
    "min_data_per_group": "min_group_rows",
    "early_stopping_round": "n_iter_no_change",
    "early_stopping_rounds": "n_iter_no_change",
    "seed": "random_state",
    "random_seed": "random_state",
    "num_threads": "n_jobs",
    "nthread": "n_jobs",
}


_CLASSIFIER_ALIASES = _ALIASES | {"objective": "loss"}

# Words of parameters, with those of other programs for the same.
_WORDS = {
    "growth": {"leaf_wise": "leaf_wise", "oblivious": "oblivious", "Lossguide": "leaf_wise", "lossguide": "leaf_wise", "SymmetricTree": "oblivious"},
    "sampling": {"uniform": "uniform", "mvs": "mvs", "goss": "goss", "bagging": "uniform", "gradient_based": "mvs"},
    "monotonic_method": {word: word for word in ("basic", "intermediate", "advanced")},
}


class _Boosting:
    """What the two have in common: the names of parameters and what becomes of them."""

    _aliases = _ALIASES

    def _objective(self):
        """The loss, as the native learner names it."""
        raise NotImplementedError

    def fit(self, X, y, sample_weight=None, *, eval_set=None, eval_metric=None, init_model=None):
        """Learns from ``X`` (n_samples, n_features; NaN is missing) and ``y``.

        ``eval_set=(X, y)`` or ``(X, y, sample_weight)``: rows to watch the loss on; with early stopping they decide when to stop.
        ``eval_metric``: a function of ``y``, what is predicted and, if it takes three arguments, the weights, that gives
        ``(name, value, is_higher_better)``; it is watched in the place of the loss. It sees probabilities of ``classes_[1]`` or predictions, with
        a loss of your own margins.
        ``init_model``: a fitted estimator or its ``model_``, whose trees are kept; ``n_estimators`` more are added, which learn what is left.
        """
        return self._fit(X, y, sample_weight, eval_set, **self._extras(eval_metric, init_model))

    def _extras(self, eval_metric, init_model):
        loss = getattr(self, "loss", None)
        return {
            "objective": _own.objective(loss) if callable(loss) else None,
            "metric": None if eval_metric is None else _own.metric(eval_metric),
            "init_model": _earlier(init_model),
        }

    def refit(self, X, y, sample_weight=None, *, decay_rate=0.9):
        """Learns the values of the leaves anew from other rows, and keeps the splits.

        A leaf becomes ``decay_rate`` times its value plus the rest times what these rows make of it, tree by tree; one that no row reaches
        keeps its value. Returns the estimator with another ``model_``. Of more than two classes a model cannot be refitted.
        """
        check_is_fitted(self)
        if not isinstance(self.model_, _native.Model):
            raise ValueError("a model of more than two classes cannot be refitted: fit it anew, or one class against the rest")
        return self._refit(self._validation((X, y, sample_weight), "y"), decay_rate)

    def _refit(self, rows, decay_rate, groups=None):
        loss = getattr(self, "loss", None)
        self.model_ = _native.refit(
            self.model_,
            rows,
            decay_rate,
            objective=_own.objective(loss) if callable(loss) else None,
            groups=groups,
            threads=self._n_threads(),
        )
        return self

    def _learner(self, columns):
        return {
            "kind": "gbdt",
            "objective": self._objective(),
            "trees": self.n_estimators,
            "growth": self._word("growth"),
            "leaves": self.max_leaf_nodes,
            "max_depth": self.max_depth,
            "learning_rate": self.learning_rate,
            "min_leaf_rows": self.min_samples_leaf,
            "min_child_hessian": self.min_child_weight,
            "lambda_l2": self.l2_regularization,
            "min_gain": self.min_gain_to_split,
            "bins": self.max_bins,
            "bagging_fraction": self.subsample,
            "sampling": self._word("sampling"),
            "column_fraction": self.max_features,
            "early_stopping": self.n_iter_no_change if self.early_stopping else None,
            "validation_fraction": self.validation_fraction,
            "seed": self._seed(),
            "monotone": self._monotone(columns),
            "monotone_method": self._word("monotonic_method"),
            "categorical": self._categorical(columns),
            "interactions": self._interactions(columns),
            "cat_smooth": self.cat_smooth,
            "cat_l2": self.cat_l2,
            "max_cat_threshold": self.max_cat_threshold,
            "max_cat_to_onehot": self.max_cat_to_onehot,
            "min_group_rows": self.min_group_rows,
            "max_cat_groups": self.max_cat_groups,
        }

    def _word(self, parameter):
        given, words = getattr(self, parameter), _WORDS[parameter]
        if given not in words:
            own = list(dict.fromkeys(words.values()))
            raise ValueError(f"{parameter} is {given!r}, but must be {', '.join(map(repr, own[:-1]))} or {own[-1]!r}")
        return words[given]

    def _categorical(self, columns):
        given = self.categorical_features
        if given is None:
            return []
        given = np.atleast_1d(np.asarray(given))
        if given.dtype.kind == "b":
            if given.shape != (columns,):
                raise ValueError(f"categorical_features is a mask of {given.size} features, but X has {columns}")
            given = np.flatnonzero(given)
        return self._named("categorical_features", given.tolist(), columns)

    def _named(self, parameter, given, columns):
        """Names of features that are given by names or positions, in the order of the features."""
        names = list(getattr(self, "feature_names_in_", [f"x{column}" for column in range(columns)]))
        by_position = lambda at: isinstance(at, (int, np.integer)) and -columns <= at < columns
        unknown = [at for at in given if at not in names and not by_position(at)]
        if unknown:
            raise ValueError(f"{parameter} names features that X does not have: {unknown}; it has {columns}")
        chosen = {names.index(at) if at in names else at % columns for at in given}
        return [names[at] for at in sorted(chosen)]

    def _interactions(self, columns):
        given = self.interaction_cst
        if given is None:
            return []
        if isinstance(given, str):
            groups = {"no_interactions": [[a] for a in range(columns)], "pairwise": [[a, b] for b in range(columns) for a in range(b)]}
            if given not in groups:
                raise ValueError(f"interaction_cst is {given!r}, but must be 'no_interactions', 'pairwise' or groups of features")
            given = groups[given]
        return [self._named("interaction_cst", list(group), columns) for group in given]

    @property
    def feature_importances_(self):
        """Gain of the splits on each feature, as shares of 1."""
        return self._importance_shares()

    @property
    def n_estimators_(self):
        """Trees in the model; of more than two classes, those of the class with the most."""
        report = self.report_
        return max(member["trees"] for member in report.get("members", [report]))


def _earlier(init_model):
    """The native model of what ``init_model`` is given as."""
    model = getattr(init_model, "model_", init_model)
    if model is None or isinstance(model, (_native.Model, _native.ClassModel)):
        return model
    raise TypeError(f"init_model must be a fitted estimator or a kilter.Model, not {type(init_model).__name__}")


class GradientBoostingClassifier(Batched, _Boosting, Classifier):
    """Histogram-based, leaf-wise gradient boosting for two classes (the ``gbdt`` of Kilter's definitions) or several.

    The same rows, parameters and seed give the same model, to the last bit, on any number of threads. Missing values (NaN) learn a side
    at every split. LightGBM's names of parameters are accepted as well.

    Parameters
    ----------
    loss : "log_loss" or a function, default="log_loss"
        A function of two classes: it takes the classes' numbers 0 and 1, the margins (log-odds) and, if it takes three arguments, the weights,
        and gives the first and second derivative of the loss by each margin. Without the third argument Kilter multiplies both by the weights.
    multi_class : {"softmax", "one_vs_rest"}, default="softmax"
        Of more than two classes: one tree a class and round, on what all of them say together, or a model of each class against the rest.
    n_estimators : int, default=100
        Most trees to grow, of each class where there are more than two.
    learning_rate : float, default=0.1
    growth : {"leaf_wise", "oblivious"}, default="leaf_wise"
        Split the leaf that gains most next, or all leaves of a level by the same question, as CatBoost does. Categories are then read as
        their mean labels.
    max_leaf_nodes : int, default=31
        Most leaves of a tree. Of an oblivious tree they say how many levels it has: 4 with 31, 6 with 64.
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
        Most bins a column is cut into, beside the one for missing values. Of fewer than 2 040 rows so many that eight rows
        lie in each, but not fewer than 64 for that.
    subsample : float, default=1.0
        Share of rows each tree sees.
    sampling : {"uniform", "mvs", "goss"}, default="uniform"
        How these rows are chosen, with a ``subsample`` below 1: all with the same chance; the more they matter to the gains of splits
        (minimal variance); those of the largest gradients, two thirds of them, and others at random. Rows that were less likely count more.
    max_features : float, default=1.0
        Share of columns each tree sees.
    monotonic_cst : array of -1, 0, 1, or dict by feature name, default=None
        The score must not rise (-1) or not fall (1) as the feature rises. Two classes only.
    monotonic_method : {"basic", "intermediate", "advanced"}, default="intermediate"
        How far ``monotonic_cst`` holds trees back, which keep it in any case: the middle between a split's values parts all leaves below;
        a leaf keeps to the values of the leaves that a row could change to; each side of a split that is looked for does.
    interaction_cst : groups of names or positions, "pairwise", "no_interactions" or None, default=None
        Features that may act on each other: the path to a leaf holds features of one group. Those that no group names are one more.
    categorical_features : list of names or positions, or a mask, default=None
        Features that are categories: whole numbers that are names and no quantities. They are split by sets of them, or where there are more
        than ``max_cat_groups``, by their mean label. An unseen category counts as one of the rarest, or as missing.
    cat_smooth : float, default=10.0
        Pulls what is known of a category towards what is known of all.
    cat_l2 : float, default=10.0
        Added to ``l2_regularization`` where sets of categories are compared.
    max_cat_threshold : int, default=32
        Most categories in the set of a split.
    max_cat_to_onehot : int, default=4
        A feature of at most so many categories is split one against the rest.
    min_group_rows : int, default=100
        Fewest rows between one set of categories that is tried and the next.
    max_cat_groups : int, default=254
        A feature of more categories is read as their mean labels.
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
    classes_ : array of the classes
    model_ : kilter.Model, what ``save`` writes and the Kilter program serves; of more than two classes a kilter.ClassModel
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

    _aliases = _CLASSIFIER_ALIASES

    @accepting(_CLASSIFIER_ALIASES)
    def __init__(
        self,
        *,
        loss="log_loss",
        multi_class="softmax",
        n_estimators=100,
        learning_rate=0.1,
        growth="leaf_wise",
        max_leaf_nodes=31,
        max_depth=None,
        min_samples_leaf=20,
        min_child_weight=1e-3,
        l2_regularization=1.0,
        min_gain_to_split=1e-6,
        max_bins=255,
        subsample=1.0,
        sampling="uniform",
        max_features=1.0,
        monotonic_cst=None,
        monotonic_method="intermediate",
        interaction_cst=None,
        categorical_features=None,
        cat_smooth=10.0,
        cat_l2=10.0,
        max_cat_threshold=32,
        max_cat_to_onehot=4,
        min_group_rows=100,
        max_cat_groups=254,
        class_weight=None,
        early_stopping=False,
        n_iter_no_change=50,
        validation_fraction=0.1,
        random_state=None,
        n_jobs=None
    ):
        self.loss = loss
        self.multi_class = multi_class
        self.n_estimators = n_estimators
        self.learning_rate = learning_rate
        self.growth = growth
        self.max_leaf_nodes = max_leaf_nodes
        self.max_depth = max_depth
        self.min_samples_leaf = min_samples_leaf
        self.min_child_weight = min_child_weight
        self.l2_regularization = l2_regularization
        self.min_gain_to_split = min_gain_to_split
        self.max_bins = max_bins
        self.subsample = subsample
        self.sampling = sampling
        self.max_features = max_features
        self.monotonic_cst = monotonic_cst
        self.monotonic_method = monotonic_method
        self.interaction_cst = interaction_cst
        self.categorical_features = categorical_features
        self.cat_smooth = cat_smooth
        self.cat_l2 = cat_l2
        self.max_cat_threshold = max_cat_threshold
        self.max_cat_to_onehot = max_cat_to_onehot
        self.min_group_rows = min_group_rows
        self.max_cat_groups = max_cat_groups
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.n_iter_no_change = n_iter_no_change
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.n_jobs = n_jobs

    def _objective(self):
        if callable(self.loss):
            return {"custom": {"link": "logit"}}
        if self.loss not in ("log_loss", "binary"):
            raise ValueError(f"loss is {self.loss!r}, but must be 'log_loss' or a function of labels and margins")
        return "binary"

    def _batch_labels(self, y):
        self.classes_ = np.array([0, 1])
        if not np.isin(y, self.classes_).all():
            raise ValueError("y of batches must be 0 or 1 for each row\n  hint: y == name gives that of a class")
        return y.astype(np.float64)

    def _batch_weights(self, X, y, sample_weight):
        if isinstance(self.class_weight, str):
            raise ValueError("class_weight of batches must be a dict of weights: what is balanced is known after the last of them only")
        return self._weights(X, y.astype(int), sample_weight)


_LOSSES = {
    "squared_error": "squared_error",
    "absolute_error": "absolute_error",
    "huber": "huber",
    "quantile": "quantile",
    "poisson": "poisson",
    "gamma": "gamma",
    "tweedie": "tweedie",
    "cross_entropy": "binary",
    # LightGBM's and other names of the same.
    "regression": "squared_error",
    "regression_l2": "squared_error",
    "l2": "squared_error",
    "mse": "squared_error",
    "mean_squared_error": "squared_error",
    "regression_l1": "absolute_error",
    "l1": "absolute_error",
    "mae": "absolute_error",
    "mean_absolute_error": "absolute_error",
    "xentropy": "binary",
}

_REGRESSOR_ALIASES = _ALIASES | {"objective": "loss", "tweedie_variance_power": "tweedie_power"}


class GradientBoostingRegressor(Batched, _Boosting, Regressor):
    """Histogram-based, leaf-wise gradient boosting for a mean, a median, a quantile, a count or an amount.

    The same rows, parameters and seed give the same model, to the last bit, on any number of threads. Missing values (NaN) learn a side
    at every split. LightGBM's names of parameters and losses are accepted as well, but for ``alpha``, which means two things there:
    ``quantile`` and ``delta`` are its parts.

    Parameters
    ----------
    loss : str or a function, default="squared_error"
        ``"squared_error"`` (the mean), ``"absolute_error"`` (the median), ``"huber"`` (a mean that outliers do not pull), ``"quantile"``,
        and with a logarithmic link ``"poisson"`` (counts), ``"gamma"`` (amounts above 0) and ``"tweedie"`` (sums of amounts, many of them 0).
        ``"cross_entropy"`` learns probabilities from labels between 0 and 1, each so much of a yes.
        A function takes ``y``, the margins and, if it takes three arguments, the weights, and gives the first and second derivative of the loss by
        each margin; without the third argument Kilter multiplies both by the weights. Its margins start at 0 and are the prediction, or what its
        attribute ``link`` says: ``"identity"``, ``"log"``.
    quantile : float, default=0.5
        The level of ``loss="quantile"``, between 0 and 1.
    delta : float, default=1.0
        How far from ``y`` the loss of ``"huber"`` is square.
    tweedie_power : float, default=1.5
        The variance of ``loss="tweedie"`` is mean ** tweedie_power; between 1 and 2.
    n_estimators : int, default=100
        Most trees to grow.
    learning_rate : float, default=0.1
    growth : {"leaf_wise", "oblivious"}, default="leaf_wise"
        Split the leaf that gains most next, or all leaves of a level by the same question, as CatBoost does. Categories are then read as
        their mean labels.
    max_leaf_nodes : int, default=31
        Most leaves of a tree. Of an oblivious tree they say how many levels it has: 4 with 31, 6 with 64.
    max_depth : int or None, default=None
        Most splits between root and leaf.
    min_samples_leaf : int, default=20
        Fewest training rows in a leaf.
    min_child_weight : float, default=1e-3
        Smallest sum of hessians in a leaf.
    l2_regularization : float, default=1.0
        Pulls leaf values towards zero, but for medians and quantiles.
    min_gain_to_split : float, default=1e-6
    max_bins : int, default=255
        Most bins a column is cut into, beside the one for missing values. Of fewer than 2 040 rows so many that eight rows
        lie in each, but not fewer than 64 for that.
    subsample : float, default=1.0
        Share of rows each tree sees.
    sampling : {"uniform", "mvs", "goss"}, default="uniform"
        How these rows are chosen, with a ``subsample`` below 1: all with the same chance; the more they matter to the gains of splits
        (minimal variance); those of the largest gradients, two thirds of them, and others at random. Rows that were less likely count more.
    max_features : float, default=1.0
        Share of columns each tree sees.
    monotonic_cst : array of -1, 0, 1, or dict by feature name, default=None
        The prediction must not rise (-1) or not fall (1) as the feature rises.
    monotonic_method : {"basic", "intermediate", "advanced"}, default="intermediate"
        How far ``monotonic_cst`` holds trees back, which keep it in any case: the middle between a split's values parts all leaves below;
        a leaf keeps to the values of the leaves that a row could change to; each side of a split that is looked for does.
    interaction_cst : groups of names or positions, "pairwise", "no_interactions" or None, default=None
        Features that may act on each other: the path to a leaf holds features of one group. Those that no group names are one more.
    categorical_features : list of names or positions, or a mask, default=None
        Features that are categories: whole numbers that are names and no quantities. They are split by sets of them, or where there are more
        than ``max_cat_groups``, by their mean label. An unseen category counts as one of the rarest, or as missing.
    cat_smooth : float, default=10.0
        Pulls what is known of a category towards what is known of all.
    cat_l2 : float, default=10.0
        Added to ``l2_regularization`` where sets of categories are compared.
    max_cat_threshold : int, default=32
        Most categories in the set of a split.
    max_cat_to_onehot : int, default=4
        A feature of at most so many categories is split one against the rest.
    min_group_rows : int, default=100
        Fewest rows between one set of categories that is tried and the next.
    max_cat_groups : int, default=254
        A feature of more categories is read as their mean labels.
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
    model_ : kilter.Model
    n_features_in_, feature_names_in_, feature_importances_, report_

    Examples
    --------
    >>> import numpy as np
    >>> from kilter import GradientBoostingRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(size=(1000, 2))
    >>> y = 10 * X[:, 0] + rng.exponential(size=1000)
    >>> low, high = (GradientBoostingRegressor(loss="quantile", quantile=q).fit(X, y) for q in (0.1, 0.9))
    >>> bool(0.7 < np.mean((low.predict(X) <= y) & (y <= high.predict(X))) < 0.9)
    True
    """

    _aliases = _REGRESSOR_ALIASES

    @accepting(_REGRESSOR_ALIASES)
    def __init__(
        self,
        *,
        loss="squared_error",
        quantile=0.5,
        delta=1.0,
        tweedie_power=1.5,
        n_estimators=100,
        learning_rate=0.1,
        growth="leaf_wise",
        max_leaf_nodes=31,
        max_depth=None,
        min_samples_leaf=20,
        min_child_weight=1e-3,
        l2_regularization=1.0,
        min_gain_to_split=1e-6,
        max_bins=255,
        subsample=1.0,
        sampling="uniform",
        max_features=1.0,
        monotonic_cst=None,
        monotonic_method="intermediate",
        interaction_cst=None,
        categorical_features=None,
        cat_smooth=10.0,
        cat_l2=10.0,
        max_cat_threshold=32,
        max_cat_to_onehot=4,
        min_group_rows=100,
        max_cat_groups=254,
        early_stopping=False,
        n_iter_no_change=50,
        validation_fraction=0.1,
        random_state=None,
        n_jobs=None
    ):
        self.loss = loss
        self.quantile = quantile
        self.delta = delta
        self.tweedie_power = tweedie_power
        self.n_estimators = n_estimators
        self.learning_rate = learning_rate
        self.growth = growth
        self.max_leaf_nodes = max_leaf_nodes
        self.max_depth = max_depth
        self.min_samples_leaf = min_samples_leaf
        self.min_child_weight = min_child_weight
        self.l2_regularization = l2_regularization
        self.min_gain_to_split = min_gain_to_split
        self.max_bins = max_bins
        self.subsample = subsample
        self.sampling = sampling
        self.max_features = max_features
        self.monotonic_cst = monotonic_cst
        self.monotonic_method = monotonic_method
        self.interaction_cst = interaction_cst
        self.categorical_features = categorical_features
        self.cat_smooth = cat_smooth
        self.cat_l2 = cat_l2
        self.max_cat_threshold = max_cat_threshold
        self.max_cat_to_onehot = max_cat_to_onehot
        self.min_group_rows = min_group_rows
        self.max_cat_groups = max_cat_groups
        self.early_stopping = early_stopping
        self.n_iter_no_change = n_iter_no_change
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.n_jobs = n_jobs

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = self.loss in ("poisson", "gamma", "tweedie")
        return tags

    def _batch_labels(self, y):
        return y.astype(np.float64)

    def _batch_weights(self, X, y, sample_weight):
        return self._weights(X, sample_weight)

    def _objective(self):
        loss = "custom" if callable(self.loss) else _LOSSES.get(self.loss)
        if loss is None:
            near = get_close_matches(str(self.loss), _LOSSES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(list(_LOSSES)[:8])}"
            raise ValueError(f"loss is {self.loss!r}; {hint}")
        own = {"huber": ("delta", 1.0, "delta"), "quantile": ("quantile", 0.5, "level"), "tweedie": ("tweedie_power", 1.5, "power")}
        for other, (name, default, _) in own.items():
            if other != loss and getattr(self, name) != default:
                raise ValueError(f"{name} is {getattr(self, name)}, but it belongs to loss={other!r}, and loss is {self.loss!r}")
        if loss == "custom":
            return {"custom": {"link": getattr(self.loss, "link", "identity")}}
        if loss not in own:
            return loss
        name, _, inner = own[loss]
        return {loss: {inner: getattr(self, name)}}
