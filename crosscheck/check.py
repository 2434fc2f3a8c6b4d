"""The same features by Kilter, DuckDB and Polars, row by row and column by column.

    check.py KILTER [DATA]

Generated events (disorder, equal instants, nulls, two changes of clocks) in two modes: by the events' own times, and in the order of the log. With
DATA also real events. Whole numbers, texts, times, extremes and counts have to be equal; what floats are summed for may differ by 1e-9 of the sum of
the magnitudes; the quantile by the 1 % it promises, the count of many distinct values by five of its standard errors.
"""

import datetime
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import polars as pl

import by_duckdb
import by_polars
from windows import AGGREGATES, BY_EVENTS, WINDOWS, ZONE

DAY = 86_400_000_000
PROJECT = """
[project]
name = "crosscheck"

[source.payments]
connector = "file"
path = "events.parquet"
time = "t"
lateness = "{lateness}"
max_future = "none"
[source.payments.columns]
seq = "int64"
t = "timestamp"
account = "int64"
amount = "float64"
n = "int64"
kind = "string"

[features.v]
source = "payments"
entity = "account"
time_zone = "{zone}"
[features.v.columns]
{columns}

[features.w]
source = "payments"
entity = "account"
[features.w.columns]
{by_events}
decay_n = "count(*) over decay 2d"
decay_sum = "sum(amount) over decay 2d"
decay_mean = "mean(amount) over decay 2d"
"""


def main():
    kilter, data = sys.argv[1], (sys.argv[2] if len(sys.argv) > 2 else "")
    with tempfile.TemporaryDirectory(prefix="kilter-crosscheck-") as folder:
        generated = pathlib.Path(folder) / "generated"
        generated.mkdir()
        events, spine = generate(20_000, 60, 2_500)
        total = check(kilter, generated, "generated events", events, spine)
        retail = pathlib.Path(data) / "uci-online-retail/online_retail.parquet"
        if data and retail.is_file():
            real = pathlib.Path(folder) / "real"
            real.mkdir()
            total += check(kilter, real, "UCI Online Retail", *online_retail(retail))
        else:
            print("SKIPPED: real events (UCI Online Retail): " + (f"no {retail}" if data else "no folder of data sets was given"))
    print(f"{total:,} values are equal")


def generate(count, accounts, rows):
    """Events in the order in which they arrive, up to two hours late, over four months with a change of clocks; and moments to read at."""
    rng = np.random.default_rng(20260329)
    begin = int(datetime.datetime(2026, 1, 10, tzinfo=datetime.timezone.utc).timestamp()) * 1_000_000
    happened = begin + rng.integers(0, 120 * DAY, count)
    # Bursts, so that short windows hold something; whole minutes, so that instants coincide.
    happened = np.where(rng.random(count) < 0.6, begin + rng.choice(120 * 24, count) * (DAY // 24) + rng.integers(0, 1_200_000_000, count), happened)
    happened = np.where(rng.random(count) < 0.3, happened // 60_000_000 * 60_000_000, happened)
    order = np.argsort(happened + rng.integers(0, 7_200_000_000, count), kind="stable")
    null = lambda values, share: pl.Series(values).to_frame("x").select(
        pl.when(pl.Series(rng.random(len(values)) >= share)).then(pl.col("x"))).to_series()
    events = pl.DataFrame({
        "seq": np.arange(count),
        "t": pl.Series(happened[order]).cast(pl.Datetime("us", "UTC")),
        "account": np.minimum(rng.zipf(1.3, count), accounts),
        "amount": null(np.round(rng.lognormal(3, 1.2, count), 2) * rng.choice([1, 1, 1, -1], count), 0.05),
        "n": null(rng.integers(-50, 400, count), 0.05),
        "kind": null(rng.choice(["card", "cash", "transfer", "", "refund"], count, p=[0.5, 0.2, 0.2, 0.05, 0.05]), 0.05),
    })
    at = begin + rng.integers(5 * DAY, 125 * DAY, rows)
    # Some at the instant of an event, some right behind it, some at the edge of a window or a day.
    some = happened[rng.integers(0, count, rows)]
    at = np.choose(rng.integers(0, 5, rows), [at, some, some + 1, some + DAY, at // DAY * DAY])
    spine = pl.DataFrame({"row": np.arange(rows), "account": rng.integers(1, 25, rows), "time": pl.Series(at).cast(pl.Datetime("us", "UTC"))})
    return events, spine


def online_retail(path):
    """Purchases of customers: amount of a line, its quantity and the country."""
    rng = np.random.default_rng(7)
    lines = pl.read_parquet(path).filter(pl.col("CustomerID").is_not_null())
    chosen = pl.Series(rng.choice(lines["CustomerID"].unique().sort().to_numpy(), 400, replace=False))
    events = lines.filter(pl.col("CustomerID").is_in(chosen.implode())).select(
        seq=pl.int_range(pl.len()),
        t=pl.col("InvoiceDate").dt.replace_time_zone("UTC"),
        account="CustomerID",
        amount=(pl.col("Quantity") * pl.col("UnitPrice")).cast(pl.Float64),
        n=pl.col("Quantity").cast(pl.Int64),
        kind=pl.col("Country").cast(pl.String),
    )
    picked = rng.integers(0, len(events), 1_500)
    at = events["t"].dt.timestamp("us").to_numpy()[picked] + np.choose(rng.integers(0, 3, 1_500), [np.zeros(1_500, int), rng.integers(0, 10 * DAY, 1_500), np.full(1_500, 1)])
    spine = pl.DataFrame({"row": np.arange(1_500), "account": events["account"].to_numpy()[picked], "time": pl.Series(at).cast(pl.Datetime("us", "UTC"))})
    return events, spine


def check(kilter, folder, title, events, spine):
    began = time.monotonic()
    events.write_parquet(folder / "events.parquet")
    spine.write_parquet(folder / "spine.parquet")
    # Lateness beyond the disorder, so that an event counts wherever it stands in the log.
    lines = lambda windows, without: "\n".join(
        f'{name} = "{text} over {", ".join(windows)}"' for name, (text, _) in AGGREGATES.items() if without not in text)
    columns, by_events = lines(WINDOWS, "no such text"), lines(BY_EVENTS, "where")
    (folder / "kilter.toml").write_text(PROJECT.format(lateness="3h", zone=ZONE, columns=columns, by_events=by_events))
    run(kilter, folder, "ingest")
    run(kilter, folder, "training-set", folder / "by_time.parquet", "--spine", folder / "spine.parquet", "--mode", "event-time")
    run(kilter, folder, "training-set", folder / "by_log.parquet", "--events", "payments", "--where", f"seq % {max(len(events) // 2_000, 1)} = 0")

    total = 0
    got = features_of(folder / "by_time.parquet")
    assert got["spine.row"].to_list() == spine["row"].to_list(), "rows are missing"
    total += compare(f"{title}, by time, DuckDB", got, by_duckdb.features(folder, "spine.parquet", "e.t < s.time"))
    total += compare(f"{title}, by time, Polars", got, by_polars.features(events, spine, pl.col("t") < pl.col("time")))
    got = features_of(folder / "by_log.parquet")
    rows = got.select(row="spine.seq", account="spine.account", time="spine.event.time", own="spine.seq")
    assert len(rows) > 1_000, f"only {len(rows)} events were read at"
    rows.write_parquet(folder / "rows.parquet")
    total += compare(f"{title}, by log, DuckDB", got, by_duckdb.features(folder, "rows.parquet", "e.seq < s.own"))
    total += compare(f"{title}, by log, Polars", got, by_polars.features(events, rows, pl.col("seq") < pl.col("own")))
    print(f"{title}: {len(events):,} events, {len(spine):,} + {len(rows):,} rows, {time.monotonic() - began:.0f} s")
    return total


def run(kilter, folder, *args):
    done = subprocess.run([kilter, "-C", str(folder), *map(str, args)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"kilter {' '.join(map(str, args))} failed:\n{done.stdout}{done.stderr}")


def features_of(file):
    """Features under their names alone, what stands before them marked as of the spine."""
    return pl.read_parquet(file).rename(lambda c: c[2:] if c.startswith(("v.", "w.")) else f"spine.{c}")


def compare(title, got, columns):
    """`columns`: name to (values, kind of equality, sizes of error). Fails with the first differences of each column."""
    compared, filled, wrong = 0, 0, []
    for name, (want, equality, size) in columns.items():
        if name not in got.columns:
            sys.exit(f"{title}: kilter has no column {name}; it has {got.columns}")
        values = got[name].dt.timestamp("us") if got[name].dtype.is_temporal() else got[name]
        assert len(values) == len(want), f"{name}: {len(values)} rows, {len(want)} expected"
        for row, (a, b, scale) in enumerate(zip(values.to_list(), want, size)):
            # Lists come as JSON.
            a = json.loads(a) if isinstance(a, bytes) else a
            compared += 1
            filled += b not in (None, 0, [])
            if not agree(a, b, equality, scale):
                wrong.append(f"{name} in row {row}: kilter {a!r}, expected {b!r}")
    if wrong:
        first = {w.split(" in row ")[0]: w for w in reversed(wrong)}
        sys.exit(f"{title}: {len(wrong)} of {compared} values differ\n" + "\n".join(sorted(first.values())))
    print(f"  {title}: {len(columns)} columns, {compared:,} values, {filled / compared:.0%} of them neither null, 0 nor empty: equal")
    assert filled > compared / 3, "the data says little"
    return compared


def agree(a, b, equality, scale):
    if a is None or b is None:
        return a is None and b is None
    if equality == "same":
        return a == b
    if not (math.isfinite(a) and math.isfinite(b)):
        return False
    if equality == "quantile":
        return abs(a - b) <= 0.01 * abs(b) * (1 + 1e-9) + 1e-12
    if equality == "sketch":
        return a == b if b <= 128 else abs(a - b) <= 5 * 0.016 * b
    return abs(a - b) <= 1e-9 * max(scale or 0.0, abs(b)) + 1e-9


if __name__ == "__main__":
    main()
