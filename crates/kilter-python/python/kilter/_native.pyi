from os import PathLike
from typing import Any, Callable, Iterable, Literal, Mapping, Protocol, Sequence

import numpy as np
from numpy.typing import NDArray

VERSION: str

class ArrowTable(Protocol):
    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...

Table = NDArray[np.float64] | NDArray[np.float32] | ArrowTable
Row = tuple[float | None, ...] | list[float | None] | NDArray[np.float64] | Mapping[str, float | None]
Format = Literal["kilter", "lightgbm", "xgboost-json", "onnx", "pmml"]
Rows = tuple[Table, NDArray[np.float64], NDArray[np.float64] | None]

Derivatives = Callable[..., tuple[NDArray[np.float64], NDArray[np.float64]]]

def fit(
    learner: str,
    rows: Rows,
    *,
    names: Sequence[str] | None = None,
    validation: Rows | None = None,
    threads: int | None = None,
    init_model: Model | None = None,
    objective: Derivatives | None = None,
    metric: Callable[..., tuple[str, float, bool]] | None = None,
    groups: Sequence[int] | None = None,
    validation_groups: Sequence[int] | None = None,
) -> Model: ...

def refit(
    model: Model,
    rows: Rows,
    decay_rate: float,
    *,
    objective: Derivatives | None = None,
    groups: Sequence[int] | None = None,
    threads: int | None = None,
) -> Model: ...

def ndcg(
    scores: NDArray[np.float64], labels: NDArray[np.float64], groups: Sequence[int], at: int, *, label_gain: Sequence[float] | None = None
) -> float: ...

def calibrate(model: Model, calibration: str, rows: Rows, *, may_be_few: bool = False) -> Model | None: ...

def fit_batches(
    learner: str,
    batches: Iterable[Rows],
    names: Sequence[str],
    rows: int,
    *,
    scratch: str | None = None,
    threads: int | None = None,
) -> Model: ...

def fit_classes(
    learner: str,
    rows: Rows,
    classes: Sequence[str],
    link: Literal["softmax", "one_vs_all"],
    *,
    names: Sequence[str] | None = None,
    validation: Rows | None = None,
    threads: int | None = None,
    init_model: ClassModel | None = None,
) -> ClassModel: ...

class ClassModel:
    link: Literal["softmax", "one_vs_all"]
    inputs: list[str]
    classes: list[str]
    @classmethod
    def load(cls, path: str | PathLike[str]) -> ClassModel: ...
    @classmethod
    def from_bytes(cls, data: bytes) -> ClassModel: ...
    def save(self, path: str | PathLike[str]) -> None: ...
    def to_bytes(self) -> bytes: ...
    def describe_json(self) -> str: ...
    def importance(self) -> NDArray[np.float64]: ...
    def margins(self, data: Table, *, threads: int | None = None) -> NDArray[np.float64]: ...
    def probabilities(self, data: Table, *, threads: int | None = None) -> NDArray[np.float64]: ...
    def explain(self, data: Table, *, threads: int | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]: ...
    def score_one(self, row: Row) -> NDArray[np.float64]: ...
    def __reduce__(self) -> tuple[Any, tuple[bytes]]: ...

class Model:
    kind: str
    link: Literal["logit", "identity", "log", "probability"]
    inputs: list[str]
    @classmethod
    def load(cls, path: str | PathLike[str]) -> Model: ...
    @classmethod
    def from_bytes(cls, data: bytes) -> Model: ...
    def save(self, path: str | PathLike[str], *, format: Format = "kilter") -> None: ...
    def to_bytes(self, *, format: Format = "kilter") -> bytes: ...
    def to_lightgbm(self) -> str: ...
    def describe_json(self) -> str: ...
    def importance(self) -> NDArray[np.float64]: ...
    def margins(self, data: Table, *, threads: int | None = None) -> NDArray[np.float64]: ...
    def predictions(self, data: Table, *, threads: int | None = None) -> NDArray[np.float64]: ...
    def points(self, data: Table, *, threads: int | None = None) -> NDArray[np.float64]: ...
    def probabilities(self, data: Table, *, threads: int | None = None) -> NDArray[np.float64]: ...
    def explain(
        self, data: Table, *, reference: Table | None = None, threads: int | None = None
    ) -> tuple[NDArray[np.float64], float]: ...
    def interactions(self, data: Table, *, threads: int | None = None) -> tuple[NDArray[np.float64], float]: ...
    def partial_dependence(
        self, data: Table, *inputs: str | int, points: int = 20, on: Literal["prediction", "margin"] = "prediction"
    ) -> tuple[NDArray[np.float64], ...]: ...
    def accumulated_effects(
        self, data: Table, input: str | int, *, steps: int = 20, on: Literal["prediction", "margin"] = "prediction"
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.uint64]]: ...
    def permutation_importance(
        self,
        data: Table,
        labels: NDArray[np.float64],
        *,
        groups: Sequence[Sequence[str | int]] | None = None,
        repeats: int = 5,
        seed: int = 7,
        loss: Literal["log_loss", "brier", "auc", "squared_error", "absolute_error"] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]: ...
    def score_one(self, row: Row) -> float: ...
    def explain_one(self, row: Row, top: int = 4) -> tuple[float, list[tuple[str, float]]]: ...
    def __reduce__(self) -> tuple[Any, tuple[bytes]]: ...
