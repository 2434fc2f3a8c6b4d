"""Training sets and states of histories that one machine cannot hold: the engine of ``kilter`` inside Spark's executors.

Needs Spark 3.5 or newer with pyarrow 14 or newer, and this package on every executor: ``pip install "kilter[spark]"``.
"""

import json
import os
import pathlib
from datetime import datetime, timezone

from . import _native

__all__ = ["backfill", "training_set"]

#: Columns of a record, see the native part.
_RECORD = [("key", "binary"), ("at", "bigint"), ("rank", "int"), ("tie", "bigint"), ("feed", "int"), ("record", "binary")]
_PART = [("pass", "int"), ("part", "binary")]
_SORT = [name for name, _ in _RECORD]
_TIE = "__kilter_order"
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
#: Types of Spark's that the engine has a type for.
_TYPES = {
    "boolean": "bool",
    "tinyint": "int64",
    "smallint": "int64",
    "int": "int64",
    "bigint": "int64",
    "float": "float64",
    "double": "float64",
    "string": "string",
    "timestamp": "timestamp",
}


def training_set(
    events,
    spine,
    project,
    *,
    columns=None,
    model=None,
    time=None,
    keys=None,
    lag="0s",
    lags=None,
    order=None,
    include_self=None,
    partitions=None,
):
    """The features of each row of a spine, as they were known at its moment: what ``kilter training-set --mode event-time`` makes.

    Parameters
    ----------
    events : dict of str to DataFrame
        The events of each source that a column needs, with the columns that the definitions give it.
    spine : DataFrame
        The rows: a timestamp, the keys of the views asked for, and whatever is to be carried along.
    project : path
        The project's folder, or its ``kilter.toml``. It is read here; executors need no file.
    columns : list of str, default=None
        As ``--features``: ``"account.*"``, ``"account.amount_14d"``, ``"burden = payment / account.income_14d"``. None: all features in reach.
    model : str, default=None
        The inputs of this model instead.
    time : str, default=None
        The column with the moment of a row. None: the only timestamp, else ``time``, ``event_time``, ``event_timestamp`` or ``timestamp``.
    keys : dict of str to str or list of str, default=None
        Which columns of the spine hold the key of a view, where the names differ.
    lag : str, default="0s"
        How long after its time an event is known: ``"5m"``.
    lags : dict of str to str, default=None
        The same for single sources.
    order : dict of str to str, default=None
        Column (a whole number) that orders the events of a source that happened in one instant. Without one they are ordered by their values.
    include_self : bool, default=None
        Whether what is known from the very instant of a row on counts at it. None: as the model says, else not.
    partitions : int, default=None
        Partitions of each shuffle. None: as Spark is configured.

    Returns
    -------
    DataFrame
        The spine's columns, then the features; its rows in any order.
    """
    functions = _functions()
    text = _definitions(project)
    known = {field.name: _TYPES.get(field.dataType.simpleString()) for field in spine.schema.fields}
    wish = {
        "columns": [(name, data_type) for name, data_type in known.items() if data_type],
        "time": time,
        "keys": [(view, [key] if isinstance(key, str) else list(key)) for view, key in (keys or {}).items()],
        "features": None if columns is None else list(columns),
        "model": model,
        "lag": lag,
        "lags": list((lags or {}).items()),
        "include_self": include_self,
    }
    given = (text, json.dumps(wish))
    try:
        plan = _native.TrainingPlan(*given)
    except ValueError as error:
        raise _with_columns_left_out(error, spine, known) from None
    passes = plan.passes()
    if not passes:
        raise ValueError('no column reads a feature view\n  hint: columns=["VIEW.*"]')
    _check_sources(events, {source for _, sources in passes for source in sources})

    row = [("spine", spine.schema)]
    rows = spine.select(functions.struct(*(functions.col(_quoted(name)) for name in spine.columns)).alias("spine"))
    rows = rows.withColumn("known", functions.lit(None).cast("binary"))
    for number, (divided, sources) in enumerate(passes):
        records = rows.mapInArrow(_Rows(given, number, [name for name, _ in wish["columns"]]), _schema(_RECORD + row + [("known", "binary")]))
        for feed, source in enumerate(sources):
            of_feed = _events(functions, plan, events, source, order, _Events(_native.TrainingPlan, given, (number, feed)))
            # An event of no entity changes no feature.
            of_feed = of_feed.where("key is not null") if divided else of_feed
            records = records.unionByName(of_feed, allowMissingColumns=True)
        last = number + 1 == len(passes)
        out = _schema(row + (plan.features() if last else [("known", "binary")]))
        rows = _sorted(records, divided, partitions).mapInArrow(_Sweep(given, number, last), out)
    return rows.select("spine.*", *(_quoted(name) for name, _ in plan.features()))


def backfill(events, project, output, *, as_of=None, order=None, partitions=None, mode="error"):
    """Writes the state that a project has after all events, for ``kilter boot --from OUTPUT``.

    Parameters
    ----------
    events : dict of str to DataFrame
        The events of each source, as for :func:`training_set`: of all sources that a view is over, and of others whose events are to be counted.
    project : path
        The project's folder, or its ``kilter.toml``.
    output : str
        Folder for the parts, by any address that Spark can write to.
    as_of : datetime or str, default=None
        Only events that happened before this moment; with a time zone. None: all.
    order, partitions
        As for :func:`training_set`.
    mode : {"error", "overwrite"}, default="error"
        What to do where the folder is there already.

    Returns
    -------
    dict
        Events and latest event time (or None) of each source that was given.
    """
    functions = _functions()
    if mode not in ("error", "overwrite"):
        raise ValueError(f'mode is "error" or "overwrite", not {mode!r}')
    given = (_definitions(project),)
    plan = _native.StatePlan(*given)
    passes = plan.passes()
    _check_sources(events, {source for _, sources in passes for source in sources})
    unknown = sorted(set(events) - set(plan.sources()))
    if unknown:
        raise ValueError(f"the definitions have no source {', '.join(unknown)}\n  hint: their sources are {', '.join(plan.sources())}")
    if not passes:
        raise ValueError("the definitions have no feature view, so there is no state to make")
    before = _micros(as_of)
    totals = {source: _total(functions, plan, events, source, given, before) for source in events}
    head = {
        "format": 1,
        "kilter": _native.VERSION,
        "definitions": plan.definitions,
        "as_of": before,
        "totals": {source: {"events": count, "latest": latest} for source, (count, latest) in totals.items()},
    }
    session = next(iter(events.values())).sparkSession
    parts = session.createDataFrame([(-1, json.dumps(head).encode())], _schema(_PART))
    for number, (divided, sources) in enumerate(passes):
        records = None
        for feed, source in enumerate(sources):
            task = _Events(_native.StatePlan, given, (number, feed, before))
            of_feed = _events(functions, plan, events, source, order, task)
            records = of_feed if records is None else records.unionByName(of_feed)
        parts = parts.union(_sorted(records, divided, partitions).mapInArrow(_Parts(given, number), _schema(_PART)))
    parts.write.mode(mode).parquet(os.fspath(output))
    return {
        source: {"events": count, "latest": None if latest is None else datetime.fromtimestamp(latest / 1e6, timezone.utc)}
        for source, (count, latest) in totals.items()
    }


def _functions():
    try:
        import pandas  # noqa: F401
        import pyarrow  # noqa: F401
        from pyspark.sql import functions
    except ModuleNotFoundError as error:
        message = f'kilter.spark needs PySpark with pandas and pyarrow, and there is no {error.name}: pip install "kilter[spark]"'
        raise ImportError(message) from error
    return functions


def _definitions(project):
    path = pathlib.Path(project)
    path = path / "kilter.toml" if path.is_dir() else path
    return path.read_text(encoding="utf-8")


def _schema(columns):
    """Columns with Spark's types, or with their names."""
    from pyspark.sql import types

    named = {
        "array<double>": types.ArrayType(types.DoubleType()),
        "array<string>": types.ArrayType(types.StringType()),
        "bigint": types.LongType(),
        "binary": types.BinaryType(),
        "boolean": types.BooleanType(),
        "double": types.DoubleType(),
        "int": types.IntegerType(),
        "map<string,double>": types.MapType(types.StringType(), types.DoubleType()),
        "string": types.StringType(),
        "timestamp": types.TimestampType(),
    }
    return types.StructType([types.StructField(name, named.get(of) if isinstance(of, str) else of) for name, of in columns])


def _quoted(name):
    return "`" + name.replace("`", "``") + "`"


def _micros(moment):
    if moment is None:
        return None
    moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    if moment.tzinfo is None:
        raise ValueError(f"as_of: {moment} has no time zone\n  hint: 2026-01-31T10:00:00+00:00")
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _with_columns_left_out(error, spine, known):
    left_out = [f"{field.name} ({field.dataType.simpleString()})" for field in spine.schema.fields if not known[field.name]]
    if not left_out:
        return error
    return ValueError(f"{error}\n  hint: columns of types that definitions do not know are only carried along: {', '.join(left_out)}; cast what is needed")


def _check_sources(events, needed):
    missing = sorted(needed - set(events))
    if missing:
        raise ValueError(f"the events of source {', '.join(missing)} are needed\n  hint: events={{\"{missing[0]}\": a data frame}}")


def _columns(functions, plan, events, source, order):
    """The columns of a source's data frame, and the one that orders events of one instant."""
    frame, wanted = events[source], plan.source_columns(source)
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        hint = f'frame.withColumn("{missing[0]}", lit(None)) where it is not known'
        raise ValueError(f"the data frame of source {source} has no column {', '.join(missing)}\n  hint: {hint}")
    ties = [functions.col(_quoted(order[source])).cast("bigint").alias(_TIE)] if order and source in order else []
    return frame.select(*(functions.col(_quoted(name)) for name in wanted), *ties)


def _events(functions, plan, events, source, order, task):
    return _columns(functions, plan, events, source, order).mapInArrow(task, _schema(_RECORD))


def _total(functions, plan, events, source, given, before):
    records = _events(functions, plan, events, source, None, _Times(given, source, before))
    count, latest = records.agg(functions.count("*"), functions.max("at")).first()
    return count, latest


def _sorted(records, divided, partitions):
    if not divided:
        records = records.repartition(1)
    elif partitions is None:
        records = records.repartition("key")
    else:
        records = records.repartition(partitions, "key")
    return records.sortWithinPartitions(*_SORT)


# What executors run, one instance for each task. They hold texts only, so that they can be sent; the plan is made of them anew.


class _Events:
    """From events to records."""

    def __init__(self, plan, given, place):
        self._plan, self._given, self._place = plan, given, place

    def __call__(self, batches):
        import pyarrow

        records = self._plan(*self._given).events(*self._place)
        for batch in batches:
            yield pyarrow.record_batch(records.take(batch))


class _Times:
    """From events to records that are only counted."""

    def __init__(self, given, source, before):
        self._given, self._source, self._before = given, source, before

    def __call__(self, batches):
        import pyarrow

        records = _native.StatePlan(*self._given).times(self._source, self._before)
        for batch in batches:
            yield pyarrow.record_batch(records.take(batch))


class _Rows:
    """From rows of the spine to records, which carry them along."""

    def __init__(self, given, number, columns):
        self._given, self._number, self._columns = given, number, columns

    def __call__(self, batches):
        import pyarrow

        records = _native.TrainingPlan(*self._given).rows(self._number)
        for batch in batches:
            spine = batch.column("spine")
            fields = dict(zip((field.name for field in spine.type), spine.flatten()))
            frame = pyarrow.RecordBatch.from_arrays([fields[name] for name in self._columns], names=self._columns)
            made = pyarrow.record_batch(records.take(frame))
            arrays = [*made.columns, spine, batch.column("known")]
            yield pyarrow.RecordBatch.from_arrays(arrays, names=[*made.schema.names, "spine", "known"])


class _Sweep:
    """From sorted records to what is known of the rows among them. Batches end anywhere: the entity at hand goes on in the next."""

    def __init__(self, given, number, last):
        self._given, self._number, self._last = given, number, last

    def __call__(self, batches):
        import pyarrow
        import pyarrow.compute

        sweep = _native.TrainingPlan(*self._given).sweep(self._number, self._last)
        for batch in batches:
            seen = pyarrow.record_batch(sweep.take(_only(batch, ["at", "feed", "record", "known"])))
            spine = batch.column("spine").filter(pyarrow.compute.equal(batch.column("feed"), -1))
            yield pyarrow.RecordBatch.from_arrays([spine, *seen.columns], names=["spine", *seen.schema.names])


class _Parts:
    """From sorted records to parts of a state."""

    #: Bytes of state from which on a part is written.
    SIZE = 16 << 20

    def __init__(self, given, number):
        self._given, self._number = given, number

    def __call__(self, batches):
        sweep = _native.StatePlan(*self._given).sweep(self._number, self.SIZE)
        came = 0
        for batch in batches:
            came += batch.num_rows
            yield from map(self._part, sweep.take(_only(batch, ["feed", "record"])))
        if came:
            yield self._part(sweep.finish())

    def _part(self, part):
        import pyarrow

        arrays = [pyarrow.array([self._number], pyarrow.int32()), pyarrow.array([part], pyarrow.binary())]
        return pyarrow.RecordBatch.from_arrays(arrays, names=["pass", "part"])


def _only(batch, names):
    import pyarrow

    return pyarrow.RecordBatch.from_arrays([batch.column(name) for name in names], names=names)
