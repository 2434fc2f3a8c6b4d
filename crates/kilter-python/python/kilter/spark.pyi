from datetime import datetime
from os import PathLike
from typing import Literal, Mapping, Sequence, TypedDict

from pyspark.sql import DataFrame

class Total(TypedDict):
    events: int
    latest: datetime | None

def training_set(
    events: Mapping[str, DataFrame],
    spine: DataFrame,
    project: str | PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    model: str | None = None,
    time: str | None = None,
    keys: Mapping[str, str | Sequence[str]] | None = None,
    lag: str = "0s",
    lags: Mapping[str, str] | None = None,
    order: Mapping[str, str] | None = None,
    include_self: bool | None = None,
    partitions: int | None = None,
) -> DataFrame: ...
def backfill(
    events: Mapping[str, DataFrame],
    project: str | PathLike[str],
    output: str | PathLike[str],
    *,
    as_of: datetime | str | None = None,
    order: Mapping[str, str] | None = None,
    partitions: int | None = None,
    mode: Literal["error", "overwrite"] = "error",
) -> dict[str, Total]: ...
