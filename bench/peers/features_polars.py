"""Polars, as a batch: the features of all accounts at one moment, once, from the file. One thread (POLARS_MAX_THREADS=1)."""

import sys
from datetime import datetime, timedelta, timezone

import polars as pl

file, which, now_us = sys.argv[1:4]
now = datetime.fromtimestamp(int(now_us) / 1e6, timezone.utc).replace(tzinfo=None)
schema = {"account_id": pl.Int64, "merchant": pl.String, "amount": pl.Float64, "kind": pl.String, "at": pl.String}
features = []
for name, window in (("1h", timedelta(hours=1)), ("1d", timedelta(days=1)), ("30d", timedelta(days=30))):
    inside = pl.col("at") >= now - window
    amount, card = pl.col("amount").filter(inside), inside & (pl.col("kind") == "card")
    columns = {"n": amount.len(), "total": amount.sum(), "low": amount.min(), "high": amount.max(),
               "last": amount.sort_by(pl.col("at").filter(inside)).last(), "cards": card.sum(), "card_total": pl.col("amount").filter(card).sum()}
    if which == "b":
        columns |= {"merchants": pl.col("merchant").filter(inside).n_unique(), "median": amount.quantile(0.5, "lower")}
    features += [column.alias(f"{key}_{name}") for key, column in columns.items()]
table = (pl.scan_ndjson(file, schema=schema)
         .with_columns(pl.col("at").str.to_datetime("%Y-%m-%dT%H:%M:%S%.3fZ", time_unit="us"))
         .group_by("account_id").agg(features).collect())
assert len(table)
