from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, ClusterMixin, OutlierMixin, RegressorMixin, TransformerMixin

from ._native import ClassModel as ClassModel
from ._native import Model as Model
from ._native import OnlineModel as OnlineModel
from ._native import Row

__version__: str
__all__: list[str]

Directions = Sequence[int] | Mapping[str, int] | None
MaxFeatures = Literal["sqrt", "log2"] | int | float | None
Metric = Callable[..., tuple[str, float, bool]]
Shape = Literal["auto", "increasing", "decreasing", "peak", "valley", "any"]

class _Learned(BaseEstimator):
    model_: Model
    n_features_in_: int
    feature_names_in_: NDArray[Any]
    @property
    def report_(self) -> dict[str, Any]: ...
    def predict(self, X: Any) -> NDArray[Any]: ...
    def explain(
        self, X: Any, reference: Any = None, *, groups: Mapping[str, Sequence[str | int]] | None = None
    ) -> tuple[NDArray[np.float64], float]: ...
    def score_one(self, row: Row) -> float: ...

class _Probabilities(ClassifierMixin, _Learned):
    classes_: NDArray[Any]
    def fit(
        self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None, *, eval_set: tuple[Any, ...] | None = None
    ) -> Self: ...
    def predict_proba(self, X: Any) -> NDArray[np.float64]: ...

class _Classifier(_Probabilities):
    def decision_function(self, X: Any) -> NDArray[np.float64]: ...

class _Regressor(RegressorMixin, _Learned):
    def fit(
        self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None, *, eval_set: tuple[Any, ...] | None = None
    ) -> Self: ...

class _LinearRegressor(_Regressor):
    @property
    def coef_(self) -> NDArray[np.float64]: ...
    @property
    def intercept_(self) -> float: ...
    @property
    def n_iter_(self) -> int: ...

class GradientBoostingClassifier(ClassifierMixin, BaseEstimator):
    classes_: NDArray[Any]
    model_: Model | ClassModel
    n_features_in_: int
    feature_names_in_: NDArray[Any]
    @property
    def report_(self) -> dict[str, Any]: ...
    def fit(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        eval_set: tuple[Any, ...] | None = None,
        eval_metric: Metric | None = None,
        init_model: Any = None,
    ) -> Self: ...
    def fit_batches(self, batches: Iterable[tuple[Any, ...]], *, scratch: str | PathLike[str] | None = None) -> Self: ...
    def refit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None, *, decay_rate: float = 0.9) -> Self: ...
    def decision_function(self, X: Any) -> NDArray[np.float64]: ...
    def predict_proba(self, X: Any) -> NDArray[np.float64]: ...
    def predict(self, X: Any) -> NDArray[Any]: ...
    def explain(
        self, X: Any, reference: Any = None, *, groups: Mapping[str, Sequence[str | int]] | None = None
    ) -> tuple[NDArray[np.float64], float | NDArray[np.float64]]: ...
    def score_one(self, row: Row) -> float | NDArray[np.float64]: ...
    def __init__(
        self,
        *,
        loss: Literal["log_loss"] | str | Callable[..., Any] = "log_loss",
        multi_class: Literal["softmax", "one_vs_rest"] | str = "softmax",
        n_estimators: int = 100,
        learning_rate: float = 0.1,
        growth: Literal["leaf_wise", "oblivious"] | str = "leaf_wise",
        max_leaf_nodes: int = 31,
        max_depth: int | None = None,
        min_samples_leaf: int = 20,
        min_child_weight: float = 1e-3,
        l2_regularization: float = 1.0,
        min_gain_to_split: float = 1e-6,
        max_bins: int = 255,
        subsample: float = 1.0,
        sampling: Literal["uniform", "mvs", "goss"] | str = "uniform",
        max_features: float = 1.0,
        monotonic_cst: Directions = None,
        monotonic_method: Literal["basic", "intermediate", "advanced"] = "intermediate",
        interaction_cst: Sequence[Sequence[int | str]] | Literal["pairwise", "no_interactions"] | None = None,
        categorical_features: ArrayLike | None = None,
        cat_smooth: float = 10.0,
        cat_l2: float = 10.0,
        max_cat_threshold: int = 32,
        max_cat_to_onehot: int = 4,
        min_group_rows: int = 100,
        max_cat_groups: int = 254,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        early_stopping: bool = False,
        n_iter_no_change: int = 50,
        validation_fraction: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
    ) -> None: ...
    @property
    def feature_importances_(self) -> NDArray[np.float64]: ...
    @property
    def n_estimators_(self) -> int: ...

class GradientBoostingRanker(_Learned):
    def __init__(
        self,
        *,
        truncation_level: int = 30,
        normalize: bool = True,
        sigmoid: float = 1.0,
        label_gain: Sequence[float] | None = None,
        eval_at: int = 10,
        n_estimators: int = 100,
        learning_rate: float = 0.1,
        growth: Literal["leaf_wise", "oblivious"] | str = "leaf_wise",
        max_leaf_nodes: int = 31,
        max_depth: int | None = None,
        min_samples_leaf: int = 20,
        min_child_weight: float = 1e-3,
        l2_regularization: float = 1.0,
        min_gain_to_split: float = 1e-6,
        max_bins: int = 255,
        subsample: float = 1.0,
        sampling: Literal["uniform", "mvs", "goss"] | str = "uniform",
        max_features: float = 1.0,
        monotonic_cst: Directions = None,
        monotonic_method: Literal["basic", "intermediate", "advanced"] = "intermediate",
        interaction_cst: Sequence[Sequence[int | str]] | Literal["pairwise", "no_interactions"] | None = None,
        categorical_features: ArrayLike | None = None,
        cat_smooth: float = 10.0,
        cat_l2: float = 10.0,
        max_cat_threshold: int = 32,
        max_cat_to_onehot: int = 4,
        min_group_rows: int = 100,
        max_cat_groups: int = 254,
        early_stopping: bool = False,
        n_iter_no_change: int = 50,
        validation_fraction: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
    ) -> None: ...
    def fit(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        group: ArrayLike | None = None,
        qid: ArrayLike | None = None,
        eval_set: tuple[Any, ...] | None = None,
        eval_group: ArrayLike | None = None,
        eval_qid: ArrayLike | None = None,
        eval_metric: Metric | None = None,
        init_model: Any = None,
    ) -> Self: ...
    def refit(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        decay_rate: float = 0.9,
        group: ArrayLike | None = None,
        qid: ArrayLike | None = None,
    ) -> Self: ...
    def score(self, X: Any, y: ArrayLike, *, group: ArrayLike | None = None, qid: ArrayLike | None = None) -> float: ...
    @property
    def feature_importances_(self) -> NDArray[np.float64]: ...
    @property
    def n_estimators_(self) -> int: ...

class GradientBoostingRegressor(RegressorMixin, _Learned):
    def __init__(
        self,
        *,
        loss: Literal["squared_error", "absolute_error", "huber", "quantile", "poisson", "gamma", "tweedie", "cross_entropy"] 
        | str
        | Callable[..., Any] = "squared_error",
        quantile: float = 0.5,
        delta: float = 1.0,
        tweedie_power: float = 1.5,
        n_estimators: int = 100,
        learning_rate: float = 0.1,
        growth: Literal["leaf_wise", "oblivious"] | str = "leaf_wise",
        max_leaf_nodes: int = 31,
        max_depth: int | None = None,
        min_samples_leaf: int = 20,
        min_child_weight: float = 1e-3,
        l2_regularization: float = 1.0,
        min_gain_to_split: float = 1e-6,
        max_bins: int = 255,
        subsample: float = 1.0,
        sampling: Literal["uniform", "mvs", "goss"] | str = "uniform",
        max_features: float = 1.0,
        monotonic_cst: Directions = None,
        monotonic_method: Literal["basic", "intermediate", "advanced"] = "intermediate",
        interaction_cst: Sequence[Sequence[int | str]] | Literal["pairwise", "no_interactions"] | None = None,
        categorical_features: ArrayLike | None = None,
        cat_smooth: float = 10.0,
        cat_l2: float = 10.0,
        max_cat_threshold: int = 32,
        max_cat_to_onehot: int = 4,
        min_group_rows: int = 100,
        max_cat_groups: int = 254,
        early_stopping: bool = False,
        n_iter_no_change: int = 50,
        validation_fraction: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
    ) -> None: ...
    def fit(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        eval_set: tuple[Any, ...] | None = None,
        eval_metric: Metric | None = None,
        init_model: Any = None,
    ) -> Self: ...
    def fit_batches(self, batches: Iterable[tuple[Any, ...]], *, scratch: str | PathLike[str] | None = None) -> Self: ...
    def refit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None, *, decay_rate: float = 0.9) -> Self: ...
    @property
    def feature_importances_(self) -> NDArray[np.float64]: ...
    @property
    def n_estimators_(self) -> int: ...

class LogisticRegression(_Classifier):
    def __init__(
        self,
        *,
        C: float = 1.0,
        l1_ratio: float = 0.0,
        max_iter: int = 50,
        tol: float = 1e-8,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        n_jobs: int | None = None,
    ) -> None: ...
    @property
    def n_iter_(self) -> int: ...

class RandomForestClassifier(_Probabilities):
    def __init__(
        self,
        *,
        n_estimators: int = 100,
        max_features: MaxFeatures = "sqrt",
        max_depth: int | None = None,
        min_samples_leaf: int = 5,
        bootstrap: bool = True,
        max_samples: float | None = None,
        max_bins: int = 255,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
    ) -> None: ...
    @property
    def feature_importances_(self) -> NDArray[np.float64]: ...

class RandomForestRegressor(_Regressor):
    def __init__(
        self,
        *,
        n_estimators: int = 100,
        max_features: MaxFeatures = 0.3333333333333333,
        max_depth: int | None = None,
        min_samples_leaf: int = 5,
        bootstrap: bool = True,
        max_samples: float | None = None,
        max_bins: int = 255,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
    ) -> None: ...
    @property
    def feature_importances_(self) -> NDArray[np.float64]: ...

class ExtraTreesClassifier(_Probabilities):
    def __init__(
        self,
        *,
        n_estimators: int = 100,
        max_features: MaxFeatures = "sqrt",
        max_depth: int | None = None,
        min_samples_leaf: int = 5,
        bootstrap: bool = False,
        max_samples: float | None = None,
        max_bins: int = 255,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
    ) -> None: ...
    @property
    def feature_importances_(self) -> NDArray[np.float64]: ...

class ExtraTreesRegressor(_Regressor):
    def __init__(
        self,
        *,
        n_estimators: int = 100,
        max_features: MaxFeatures = 0.3333333333333333,
        max_depth: int | None = None,
        min_samples_leaf: int = 5,
        bootstrap: bool = False,
        max_samples: float | None = None,
        max_bins: int = 255,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
    ) -> None: ...
    @property
    def feature_importances_(self) -> NDArray[np.float64]: ...

class ExplainableBoostingClassifier(_Classifier):
    def __init__(
        self,
        *,
        pairs: int = 10,
        bags: int = 8,
        learning_rate: float = 0.04,
        max_rounds: int = 5000,
        n_iter_no_change: int = 50,
        validation_fraction: float = 0.15,
        max_leaf_nodes: int = 3,
        min_samples_leaf: int = 4,
        max_bins: int = 255,
        max_pair_bins: int = 32,
        monotonic_cst: Directions = None,
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
    ) -> None: ...
    @property
    def feature_importances_(self) -> NDArray[np.float64]: ...

class ExplainableBoostingRegressor(_Regressor):
    def __init__(
        self,
        *,
        pairs: int = 10,
        bags: int = 8,
        learning_rate: float = 0.04,
        max_rounds: int = 5000,
        n_iter_no_change: int = 50,
        validation_fraction: float = 0.15,
        max_leaf_nodes: int = 3,
        min_samples_leaf: int = 4,
        max_bins: int = 255,
        max_pair_bins: int = 32,
        monotonic_cst: Directions = None,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
    ) -> None: ...
    @property
    def feature_importances_(self) -> NDArray[np.float64]: ...

class IsolationForest(OutlierMixin, _Learned):
    offset_: float
    def __init__(
        self,
        *,
        n_estimators: int = 100,
        max_samples: int = 256,
        contamination: Literal["auto"] | float = "auto",
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
    ) -> None: ...
    def fit(self, X: Any, y: object = None) -> Self: ...
    def score_samples(self, X: Any) -> NDArray[np.float64]: ...
    def decision_function(self, X: Any) -> NDArray[np.float64]: ...

class LinearRegression(_LinearRegressor):
    def __init__(self, *, n_jobs: int | None = None) -> None: ...

class Ridge(_LinearRegressor):
    def __init__(self, *, alpha: float = 1.0, max_iter: int = 50, tol: float = 1e-8, n_jobs: int | None = None) -> None: ...

class ElasticNet(_LinearRegressor):
    def __init__(
        self, *, alpha: float = 1.0, l1_ratio: float = 0.5, max_iter: int = 1000, tol: float = 1e-8, n_jobs: int | None = None
    ) -> None: ...

class Scorecard(_Classifier):
    def __init__(
        self,
        *,
        max_bins: int = 8,
        min_share: float = 0.05,
        max_prebins: int = 100,
        shape: Shape = "auto",
        shapes: Mapping[str, Shape] | None = None,
        cuts: Mapping[str, Sequence[float]] | None = None,
        special: Mapping[str, Sequence[float]] | None = None,
        min_iv: float = 0.02,
        l2_regularization: float = 1.0,
        pdo: float = 20.0,
        base_points: float = 600.0,
        base_odds: float = 50.0,
        reasons: Literal["maximum", "mean"] = "maximum",
        class_weight: Mapping[Any, float] | Literal["balanced"] | None = None,
        n_jobs: int | None = None,
    ) -> None: ...
    def points(self, X: Any) -> NDArray[np.float64]: ...
    @property
    def table_(self) -> list[dict[str, Any]]: ...

class CalibratedModel(ClassifierMixin, _Learned):
    classes_: NDArray[Any]
    estimator_: _Probabilities | Model | ClassModel
    calibrated_: bool
    def __init__(
        self,
        estimator: _Probabilities | Model | ClassModel | None = None,
        *,
        method: Literal["isotonic", "platt", "sigmoid", "beta", "prior_shift", "temperature"] = "isotonic",
        share: float = 0.2,
        target_rate: float | None = None,
        few_rows: Literal["refuse", "leave"] = "refuse",
    ) -> None: ...
    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self: ...
    def decision_function(self, X: Any) -> NDArray[np.float64]: ...
    def predict_proba(self, X: Any) -> NDArray[np.float64]: ...

class KMeans(ClusterMixin, _Learned):
    cluster_centers_: NDArray[np.float64]
    labels_: NDArray[np.int64]
    inertia_: float
    n_iter_: int
    def __init__(
        self,
        *,
        n_clusters: int = 8,
        n_init: int = 10,
        max_iter: int = 300,
        tol: float = 1e-4,
        standardise: bool = True,
        random_state: int | np.random.RandomState | None = None,
        n_jobs: int | None = None,
    ) -> None: ...
    def fit(self, X: Any, y: object = None, sample_weight: ArrayLike | None = None) -> Self: ...
    def distances(self, X: Any) -> NDArray[np.float64]: ...
    def score(self, X: Any, y: object = None, sample_weight: ArrayLike | None = None) -> float: ...

class _Online(ClassifierMixin, BaseEstimator):
    classes_: NDArray[Any]
    model_: OnlineModel
    n_features_in_: int
    feature_names_in_: NDArray[Any]
    @property
    def report_(self) -> dict[str, Any]: ...
    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self: ...
    def partial_fit(
        self, X: Any, y: ArrayLike, classes: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self: ...
    def learn_one(self, row: Row, label: Any, weight: float = 1.0) -> Self: ...
    def prequential(
        self,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        classes: ArrayLike | None = None,
        delay: int = 0,
        stretch: int = 1000,
    ) -> tuple[dict[str, Any], NDArray[np.float64]]: ...
    def decision_function(self, X: Any) -> NDArray[np.float64]: ...
    def predict_proba(self, X: Any) -> NDArray[np.float64]: ...
    def predict(self, X: Any) -> NDArray[Any]: ...
    def explain(self, X: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
    def score_one(self, row: Row) -> float | NDArray[np.float64]: ...

class OnlineLogisticRegression(_Online):
    def __init__(
        self,
        *,
        learning_rate: float = 0.1,
        smoothing: float = 1.0,
        l1: float = 0.0,
        l2: float = 0.0,
        half_life: float | None = None,
        n_jobs: int | None = None,
    ) -> None: ...
    @property
    def coef_(self) -> NDArray[np.float64]: ...

class HoeffdingAdaptiveTreeClassifier(_Online):
    def __init__(
        self,
        *,
        grace_period: float = 200,
        delta: float = 1e-5,
        tau: float = 0.05,
        max_depth: int = 20,
        max_leaves: int = 1000,
        leaf_prediction: Literal["adaptive", "naive_bayes", "majority"] | str = "adaptive",
        drift_delta: float | None = 0.002,
        drift_window: int = 300,
        switch_significance: float = 0.05,
        n_jobs: int | None = None,
    ) -> None: ...
    @property
    def feature_importances_(self) -> NDArray[np.float64]: ...

class PreparedModel(_Learned):
    classes_: NDArray[Any]
    estimator_: _Probabilities | _Regressor
    def __init__(
        self, estimator: BaseEstimator | None = None, *, steps: Sequence[str | Mapping[str, Any]] = ("impute", "scale")
    ) -> None: ...
    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self: ...
    @property
    def prepared_names_(self) -> NDArray[Any]: ...
    def prepare(self, X: Any) -> NDArray[np.float64]: ...
    def predict_proba(self, X: Any) -> NDArray[np.float64]: ...
    def decision_function(self, X: Any) -> NDArray[np.float64]: ...
    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float: ...

class TextHasher(TransformerMixin, BaseEstimator):
    def __init__(
        self,
        *,
        n_features: int = 256,
        analyzer: Literal["word", "char"] = "word",
        ngram_range: tuple[int, int] = (1, 1),
        lowercase: bool = True,
        alternate_sign: bool = True,
        norm: Literal["l1", "l2"] | None = "l2",
        random_state: int = 0,
        n_jobs: int | None = None,
    ) -> None: ...
    def fit(self, X: object = None, y: object = None) -> Self: ...
    def transform(self, X: Any) -> NDArray[np.float64]: ...
    def get_feature_names_out(self, input_features: object = None) -> NDArray[Any]: ...
