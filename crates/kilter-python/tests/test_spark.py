"""What Spark's executors run, without Spark: the same whatever batches the records come in. The cluster itself: crosscheck/spark/run."""

import json
import pickle
import random
import sys

import pytest

pa = pytest.importorskip("pyarrow")

from kilter import _native, spark  # noqa: E402

DEFINITIONS = """
[project]
name = "test"
[source.payments]
time = "at"
[source.payments.columns]
card = "int64"
shop = "string"
at = "timestamp"
amount = "float64"
[source.logins]
time = "to_timestamp(at_ms / 1000)"
[source.logins.columns]
card = "int64"
at_ms = "int64"
[features.card]
source = "payments"
entity = "card"
[features.card.columns]
all = "count(*)"
spent = "sum(amount) over 1h"
last = "last(shop) over 1d"
places = "distinct(shop)"
[features.shop]
source = "payments"
entity = "shop"
[features.shop.columns]
mean = "mean(amount) over 1d"
[features.login]
source = "logins"
entity = "card"
[features.login.columns]
all = "count(*)"
""".replace("to_timestamp(at_ms / 1000)", "at_ms")
TIME = pa.timestamp("us", "UTC")
SPINE = pa.schema([("id", pa.int64()), ("card", pa.int64()), ("shop", pa.string()), ("at", TIME), ("odd", pa.decimal128(9, 2))])
PAYMENTS = pa.schema([("card", pa.int32()), ("shop", pa.string()), ("at", TIME), ("amount", pa.float64()), ("__kilter_order", pa.int64())])
LOGINS = pa.schema([("card", pa.int64()), ("at_ms", pa.int64())])
KNOWN = [name for name in SPINE.names if name != "odd"]


def wish(**changed):
    types = {"id": "int64", "card": "int64", "shop": "string", "at": "timestamp"}
    plain = {"columns": list(types.items()), "time": None, "keys": [], "features": None, "model": None, "lag": "0s", "lags": [], "include_self": None}
    return (DEFINITIONS, json.dumps({**plain, **changed}))


def history(seed, count=300):
    rng = random.Random(seed)
    start = 1_770_000_000_000_000
    maybe = lambda value: None if rng.random() < 0.1 else value  # noqa: E731
    moment = lambda: start + rng.randint(0, 200) * 60_000_000  # noqa: E731
    card = lambda: maybe(0 if rng.random() < 0.5 else rng.randint(0, 5))  # noqa: E731
    payments = [
        {"card": card(), "shop": maybe(rng.choice("abc")), "at": moment(), "amount": maybe(round(rng.random() * 90, 2)), "__kilter_order": place}
        for place in range(count)
    ]
    logins = [{"card": card(), "at_ms": moment() // 1000} for _ in range(count // 2)]
    rows = [{"id": i, "card": card(), "shop": maybe(rng.choice("abcd")), "at": moment(), "odd": None} for i in range(80)]
    return payments, logins, rows


def table(rows, schema):
    return pa.Table.from_pylist(rows, schema=schema)


def cut(frame, rng):
    """The same rows in batches of any size, empty ones among them."""
    whole, at, batches = frame.combine_chunks().to_batches(), 0, []
    while whole and at < frame.num_rows:
        size = frame.num_rows if rng is None else rng.choice([0, 1, 2, 7, 50])
        batches.append(whole[0].slice(at, size))
        at += size
    return batches


def place(row):
    """As Spark sorts: nulls first."""
    return [(row[name] is not None, row[name] if row[name] is not None else 0) for name in spark._SORT]


def training_set(given, events, rows, rng=None, shuffle=None):
    """The passes as `training_set` makes them, on one machine."""
    plan = _native.TrainingPlan(*given)
    frame = pa.table({"spine": pa.chunked_array([table(rows, SPINE).to_struct_array().combine_chunks()]), "known": pa.nulls(len(rows), pa.binary())})
    passes = plan.passes()
    for number, (_, sources) in enumerate(passes):
        records = list(spark._Rows(given, number, KNOWN)(cut(frame, rng)))
        for feed, source in enumerate(sources):
            records += spark._Events(_native.TrainingPlan, given, (number, feed))(cut(events[source], rng))
        merged = pa.concat_tables([pa.Table.from_batches([batch]) for batch in records], promote_options="default")
        order = sorted(range(merged.num_rows), key=lambda at, told=merged.to_pylist(): place(told[at]))
        merged = (shuffle or (lambda merged: merged))(merged.take(order))
        swept = spark._Sweep(given, number, number + 1 == len(passes))(cut(merged, rng))
        frame = pa.Table.from_batches(list(swept))
    told = frame.to_pylist()
    return sorted(({**row.pop("spine"), **row} for row in told), key=lambda row: row["id"])


def test_any_cut_into_batches_gives_the_same_rows():
    for seed in range(12):
        payments, logins, rows = history(seed)
        events = {"payments": table(payments, PAYMENTS), "logins": table(logins, LOGINS)}
        given = wish(include_self=seed % 2 == 1)
        whole = training_set(given, events, rows)
        assert [row["id"] for row in whole] == list(range(len(rows)))
        for other in range(3):
            assert training_set(given, events, rows, random.Random(other)) == whole
        for row, asked in zip(whole, rows):
            assert {name: row[name] for name in asked} == {**asked, "at": row["at"]}
            if asked["card"] is None:
                assert row["card.all"] is None and row["login.all"] is None
                continue
            before = (lambda at: at <= asked["at"]) if seed % 2 else (lambda at: at < asked["at"])
            assert row["card.all"] == sum(e["card"] == asked["card"] and before(e["at"]) for e in payments)
            assert row["login.all"] == sum(e["card"] == asked["card"] and before(e["at_ms"] * 1000) for e in logins)


def test_a_lag_is_waited_for():
    payments = [{"card": 1, "shop": "a", "at": 1_770_000_000_000_000, "amount": 5.0, "__kilter_order": 0}]
    rows = [{"id": i, "card": 1, "shop": None, "at": 1_770_000_000_000_000 + i * 60_000_000, "odd": None} for i in range(3)]
    events = {"payments": table(payments, PAYMENTS), "logins": table([], LOGINS)}
    counts = lambda **changed: [row["card.all"] for row in training_set(wish(**changed), events, rows)]  # noqa: E731
    assert counts() == [0, 1, 1]
    assert counts(include_self=True) == [1, 1, 1]
    assert counts(lag="1m") == [0, 0, 1]
    assert counts(lags=[("payments", "1m")], include_self=True) == [0, 1, 1]


def test_records_that_are_not_sorted_are_refused():
    payments, logins, rows = history(3)
    events = {"payments": table(payments, PAYMENTS), "logins": table(logins, LOGINS)}
    backwards = lambda merged: merged.take(list(range(merged.num_rows))[::-1])  # noqa: E731
    with pytest.raises(ValueError, match="not sorted: of entity"):
        training_set(wish(), events, rows, shuffle=backwards)


def test_rows_that_cannot_be_used_are_told():
    take = lambda frame: list(spark._Events(_native.TrainingPlan, wish(), (0, 0))(frame.to_batches()))  # noqa: E731
    good = {"card": 1, "shop": "a", "at": 1_770_000_000_000_000, "amount": 5.0, "__kilter_order": 0}
    assert take(table([good], PAYMENTS))[0].num_rows == 1
    with pytest.raises(ValueError, match="source `payments`: a row cannot be used: at: missing or null\n  hint"):
        take(table([good, {**good, "at": None}], PAYMENTS))
    with pytest.raises(ValueError, match="column `amount` holds an infinity"):
        take(table([{**good, "amount": float("inf")}], PAYMENTS))
    with pytest.raises(ValueError, match="no column `shop`\n  hint: its columns are card, at"):
        take(table([good], PAYMENTS).drop_columns(["shop"]))
    text = table([good], PAYMENTS).set_column(3, "amount", pa.array(["5"]))
    with pytest.raises(ValueError, match='`amount` is Utf8 in the data frame, and float64 in the definitions\n  hint: cast it.*cast."double"'):
        take(text)
    with pytest.raises(ValueError, match="a row has no time"):
        rows = table([{"id": 1, "card": 1, "shop": None, "at": None, "odd": None}], SPINE)
        frame = pa.record_batch({"spine": rows.to_struct_array().combine_chunks(), "known": pa.nulls(1, pa.binary())})
        list(spark._Rows(wish(), 0, KNOWN)([frame]))


def test_what_is_asked_for_is_checked():
    with pytest.raises(ValueError, match="unknown column `card.sum`|card.sum"):
        _native.TrainingPlan(*wish(features=["card.sum"]))
    with pytest.raises(ValueError, match="lag: `soon` is no length of time"):
        _native.TrainingPlan(*wish(lag="soon"))
    with pytest.raises(ValueError, match="not both"):
        _native.TrainingPlan(*wish(features=["card.*"], model="m"))
    with pytest.raises(ValueError, match="error"):
        _native.TrainingPlan(DEFINITIONS + "\n[nonsense]\n", wish()[1])
    with pytest.raises(ValueError, match="unknown source `payment`"):
        _native.StatePlan(DEFINITIONS).times("payment")


def test_parts_count_every_event_and_take_those_before_a_moment():
    payments, _, _ = history(5)
    middle = sorted(event["at"] for event in payments)[150]
    given, frame = (DEFINITIONS,), table(payments, PAYMENTS)
    plan = _native.StatePlan(*given)
    for number, (divided, sources) in enumerate(plan.passes()):
        assert divided
        if sources != ["payments"]:
            continue
        records = pa.Table.from_batches(list(spark._Events(_native.StatePlan, given, (number, 0, middle))(frame.to_batches())))
        assert records.num_rows == sum(event["at"] < middle for event in payments)
        order = sorted(range(records.num_rows), key=lambda at, told=records.to_pylist(): place(told[at]))
        cuts = [[part for batch in spark._Parts(given, number)(cut(records.take(order), rng)) for part in batch.to_pylist()] for rng in (None, random.Random(1))]
        assert cuts[0] == cuts[1] and {part["pass"] for part in cuts[0]} == {number}


def test_tasks_can_be_sent_to_executors():
    for task in [spark._Events(_native.TrainingPlan, wish(), (0, 0)), spark._Sweep(wish(), 0, True), spark._Parts((DEFINITIONS,), 0)]:
        assert vars(pickle.loads(pickle.dumps(task))) == vars(task)


def test_without_spark_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(ImportError, match=r'pip install "kilter\[spark\]"'):
        spark.training_set({}, None, tmp_path)
