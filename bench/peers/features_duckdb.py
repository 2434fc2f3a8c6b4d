"""DuckDB, as a batch: the features of all accounts at one moment, once, from the file. One thread.

The windows are Kilter's to the tile, so the values can be compared: with a list of accounts their features are printed.
"""

import json
import sys

import duckdb

file, which, now_us, *accounts = sys.argv[1:]
now_us = int(now_us)
db = duckdb.connect()
db.execute("set threads = 1")
db.execute("set timezone = 'UTC'")
lines = []
for column, fold in (("n", "count(*)"), ("total", "sum(amount)"), ("low", "min(amount)"), ("high", "max(amount)"), ("last", "arg_max(amount, (t, row))"),
                     ("cards", "card"), ("card_total", "card_total"), ("merchants", "count(distinct merchant)"), ("median", "quantile_disc(amount, 0.5)")):
    if which == "a" and column in ("merchants", "median"):
        continue
    for name, window, hop in (("1h", 3600, 60), ("1d", 86_400, 300), ("30d", 30 * 86_400, 21_600)):
        oldest = (now_us - window * 1_000_000) // (hop * 1_000_000) * hop * 1_000_000
        condition = f"t >= {oldest}"
        if fold in ("card", "card_total"):
            line = f"{'count(*)' if fold == 'card' else 'sum(amount)'} filter (where {condition} and kind = 'card')"
        else:
            line = f"{fold} filter (where {condition})"
        lines.append(f"{line} as {column}_{name}")
db.execute(f"""
    create table features as select account_id, {", ".join(lines)} from (
        select account_id, merchant, amount, kind, epoch_us("at") as t, row_number() over () as row from read_json('{file}', format = 'newline_delimited',
        columns = {{account_id: 'bigint', merchant: 'varchar', amount: 'double', kind: 'varchar', "at": 'timestamp'}})) group by account_id""")
if accounts:
    rows = db.execute(f"select * from features where account_id in ({','.join(accounts)})").fetchall()
    print(json.dumps({str(row[0]): row[1:] for row in rows}))
