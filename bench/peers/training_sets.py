"""Features of the last hour to thirty days at each row of a spine, by range join: DuckDB, Polars, pandas. And the data for it.

    training_sets.py generate FOLDER EVENTS
    training_sets.py duckdb|polars|pandas FOLDER GIB
    training_sets.py mean FILE
"""

import sys

HOURS = {"1h": 1, "1d": 24, "7d": 168, "14d": 336, "30d": 720}
HOUR = 3_600_000_000


def generate(folder, events):
    """A hundred events for each user over sixty days, at random; rows at random in the second half."""
    import numpy as np
    import polars as pl

    rng, users, begin, span = np.random.default_rng(7), max(events // 100, 1), 1_767_225_600_000_000, 1440 * HOUR
    times = lambda n, start: pl.Series(np.sort(rng.integers(begin + start, begin + span, n))).cast(pl.Datetime("us", "UTC"))
    pl.DataFrame({
        "user": rng.integers(0, users, events),
        "at": times(events, 0),
        "amount": np.round(rng.lognormal(3, 1, events), 2),
        "kind": rng.choice(["card", "cash", "transfer"], events),
    }).write_parquet(f"{folder}/events.parquet", row_group_size=1_000_000)
    rows = events // 10
    pl.DataFrame({"row": np.arange(rows), "user": rng.integers(0, users, rows), "at": times(rows, span // 2)}).write_parquet(
        f"{folder}/spine.parquet", row_group_size=1_000_000)


def duckdb(folder, gib):
    import duckdb as db

    con = db.connect()
    # Room for what it holds beside its buffers.
    con.sql(f"set memory_limit = '{float(gib) * 0.8:.1f}GiB'; set temp_directory = '{folder}/duckdb.tmp'; set preserve_insertion_order = false")
    columns = []
    for name, hours in HOURS.items():
        near = f"e.at >= s.at - interval '{hours} hours'"
        for suffix, also in (("", ""), ("_card", " and e.kind = 'card'")):
            for column, what in (("n", "count(e.at)"), ("total", "sum(e.amount)"), ("mean", "avg(e.amount)"), ("high", "max(e.amount)")):
                columns.append(f"{what} filter ({near}{also}) as {column}{suffix}_{name}")
        columns.append(f"min(e.amount) filter ({near}) as low_{name}")
        columns.append(f"stddev_samp(e.amount) filter ({near}) as spread_{name}")
    con.sql(f"""copy (
        select s.row, any_value(s.user) as user, any_value(s.at) as at, {', '.join(columns)}
        from '{folder}/spine.parquet' s
        left join '{folder}/events.parquet' e on e.user = s.user and e.at < s.at and e.at >= s.at - interval '720 hours'
        group by s.row order by s.row
    ) to '{folder}/duckdb.parquet' (compression zstd)""")


def polars(folder, _):
    import polars as pl

    spine = pl.scan_parquet(f"{folder}/spine.parquet")
    events = pl.scan_parquet(f"{folder}/events.parquet").rename({"at": "happened"})
    columns = []
    for name, hours in HOURS.items():
        near = pl.col("age") <= pl.duration(hours=hours)
        for suffix, holds in (("", near), ("_card", near & (pl.col("kind") == "card"))):
            x = pl.col("amount").filter(holds)
            columns += [x.len().alias(f"n{suffix}_{name}"), x.sum().alias(f"total{suffix}_{name}"), x.mean().alias(f"mean{suffix}_{name}"),
                        x.max().alias(f"high{suffix}_{name}")]
        x = pl.col("amount").filter(near)
        columns += [x.min().alias(f"low_{name}"), x.std().alias(f"spread_{name}")]
    joined = (spine.join(events, on="user").with_columns(age=pl.col("at") - pl.col("happened"))
              .filter((pl.col("happened") < pl.col("at")) & (pl.col("age") <= pl.duration(hours=720))))
    features = joined.group_by("row").agg(columns)
    whole = spine.join(features, on="row", how="left").with_columns(pl.col("^n_.*$").fill_null(0)).sort("row")
    whole.collect(engine="streaming").write_parquet(f"{folder}/polars.parquet")


def pandas(folder, _):
    import pandas as pd

    spine, events = pd.read_parquet(f"{folder}/spine.parquet"), pd.read_parquet(f"{folder}/events.parquet")
    events["kind"] = events["kind"].astype("category")
    # Users in portions, so that the join of all with all of a user stays small.
    portions = []
    by_user = dict(list(events.rename(columns={"at": "happened"}).groupby(events["user"] // 1000)))
    for portion, rows in spine.groupby(spine["user"] // 1000):
        joined = rows.merge(by_user.get(portion, events.iloc[:0].rename(columns={"at": "happened"})), on="user")
        age = joined["at"] - joined["happened"]
        parts = []
        for name, hours in HOURS.items():
            near = joined[(age > pd.Timedelta(0)) & (age <= pd.Timedelta(hours=hours))]
            for suffix, held, what in (("", near, ["count", "sum", "mean", "max", "min", "std"]),
                                       ("_card", near[near["kind"] == "card"], ["count", "sum", "mean", "max"])):
                found = held.groupby("row")["amount"].agg(what)
                parts.append(found.rename(columns=lambda c: f"{'n' if c == 'count' else c}{suffix}_{name}"))
        portions.append(rows.set_index("row").join(pd.concat(parts, axis=1)))
    whole = pd.concat(portions).sort_index()
    counts = [c for c in whole if c.startswith("n_")]
    whole[counts] = whole[counts].fillna(0).astype("int64")
    whole.to_parquet(f"{folder}/pandas.parquet")


def mean(path):
    import polars as pl

    names = pl.read_parquet_schema(path)
    column = next(c for c in names if c.endswith("n_30d") and "mean" not in c)
    print(f"{pl.scan_parquet(path).select(pl.col(column).mean()).collect().item():.3f}")


if __name__ == "__main__":
    globals()[sys.argv[1]](*([sys.argv[2], int(sys.argv[3])] if sys.argv[1] == "generate" else sys.argv[2:]))
