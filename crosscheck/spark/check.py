"""One history, in a Spark cluster and through one `kilter`: see `run`."""

import argparse
import contextlib
import json
import math
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pyarrow.parquet as pq

import kilter.spark

DEFINITIONS = """
[project]
name = "spark"
clock = "event"
[server]
listen = "127.0.0.1:PORT"
[source.payments]
time = "at"
lateness = "2h"
max_future = "none"
[source.payments.columns]
card = "int64"
merchant = "string"
at = "timestamp"
amount = "float64"
cents = "int64"
[source.logins]
time = "at"
lateness = "2h"
max_future = "none"
[source.logins.columns]
card = "int64"
at = "timestamp"
ok = "bool"
[source.disputes]
time = "at"
key = ["id"]
operation = "op"
lateness = "2h"
max_future = "none"
[source.disputes.columns]
id = "int64"
card = "int64"
at = "timestamp"
sum = "float64"
op = "string"
[source.limits]
time = "at"
key = ["card", "kind"]
operation = "op"
lateness = "2h"
max_future = "none"
[source.limits.columns]
card = "int64"
kind = "string"
at = "timestamp"
most = "float64"
op = "string"

[features.card]
source = "payments"
entity = "card"
[features.card.columns]
n = "count(*) over 1h, 1d"
spent = "sum(amount) over 1d"
cents = "sum(cents) over 1h"
mean = "mean(amount)"
spread = "stddev(amount) over 1d"
middle = "quantile(amount, 0.5) over 1d"
where = "last(merchant)"
places = "distinct(merchant)"
visit = "count(*) over session 30m"
three = "mean(amount) over last 3"
kinds = "sum(amount) by merchant over 1d"
[features.merchant]
source = "payments"
entity = "merchant"
[features.merchant.columns]
mean = "mean(amount) over 1d"
largest = "max(amount) over 1h"
[features.pair]
source = "payments"
entity = ["card", "merchant"]
[features.pair.columns]
n = "count(*) over 1d"
first = "first(amount) over 1d"
[features.login]
source = "logins"
entity = "card"
[features.login.columns]
failed = "count(*) where not ok over 1h, 1d"
[features.dispute]
source = "disputes"
entity = "card"
[features.dispute.columns]
n = "count(*) over 1d"
sum = "sum(sum)"
[features.limit]
source = "limits"
entity = "card"
[features.limit.columns]
n = "count(*)"
most = "sum(most) over 7d"
[features.wary]
source = "payments"
entity = "card"
[features.wary.columns]
after_failure = "sum(amount) where login.failed_1h > 0 over 1d"
"""
START = datetime(2026, 3, 1, tzinfo=timezone.utc)
KEYS = {"card": ["card"], "merchant": ["merchant"], "pair": ["card", "merchant"], "login": ["card"], "dispute": ["card"], "limit": ["card"], "wary": ["card"]}
MERCHANTS = ["a", "b", "c|d", "d", "ž"]


def history(rng, count):
    """Events by source in bursts, as they arrive: late ones, several in one instant, hot cards, rows that change, move and go away."""
    runs, now, dispute = [], START, 0
    while sum(len(rows) for _, rows in runs) < count:
        source, rows = rng.choice(["payments", "payments", "payments", "logins", "disputes", "limits"]), []
        for _ in range(rng.randint(5, 60)):
            now += timedelta(seconds=rng.choice([0, 0, 1, 20, 90]))
            at = now - timedelta(minutes=rng.randint(1, 100)) if rng.random() < 0.15 else now
            card = 0 if rng.random() < 0.4 else int(rng.paretovariate(0.8)) % 200
            row = {"card": card if rng.random() > 0.03 else None, "at": at}
            if source == "payments":
                amount = round(rng.paretovariate(1.5) * 10, 2)
                row |= {"merchant": rng.choice(MERCHANTS), "amount": amount if rng.random() > 0.05 else None, "cents": round(amount * 100)}
            elif source == "logins":
                row |= {"ok": rng.random() < 0.6}
            elif source == "disputes":
                dispute += 1
                row |= {"id": rng.randint(max(0, dispute - 30), dispute), "sum": round(rng.random() * 90, 2), "op": "d" if rng.random() < 0.25 else "u"}
            else:
                row |= {"card": card, "kind": rng.choice("xy"), "most": float(rng.randint(1, 9)), "op": "delete" if rng.random() < 0.2 else "insert"}
            rows.append(row)
        runs.append((source, rows))
    place = 0
    for _, rows in runs:
        for row in rows:
            row["place"] = place
            place += 1
    return runs


SCHEMAS = {
    "payments": [("card", pa.int64()), ("merchant", pa.string()), ("amount", pa.float64()), ("cents", pa.int64())],
    "logins": [("card", pa.int64()), ("ok", pa.bool_())],
    "disputes": [("id", pa.int64()), ("card", pa.int64()), ("sum", pa.float64()), ("op", pa.string())],
    "limits": [("card", pa.int64()), ("kind", pa.string()), ("most", pa.float64()), ("op", pa.string())],
}


def write(folder, runs):
    """A Parquet file for each source, its rows in no order."""
    rng = random.Random(1)
    for source, columns in SCHEMAS.items():
        rows = [row for of, rows in runs if of == source for row in rows]
        rng.shuffle(rows)
        schema = pa.schema([*columns, ("at", pa.timestamp("us", "UTC")), ("place", pa.int64())])
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{source}.parquet")


class Project:
    """A project of its own, and the server on it."""

    def __init__(self, program, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.program, self.folder, self.url = program, folder, f"http://127.0.0.1:{port}"
        folder.mkdir()
        (folder / "kilter.toml").write_text(DEFINITIONS.replace("PORT", str(port)))

    def run(self, *arguments, fails=False):
        done = subprocess.run([self.program, "-C", self.folder, *map(str, arguments)], capture_output=True, text=True)
        assert (done.returncode != 0) == fails, f"kilter {arguments}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    @contextlib.contextmanager
    def up(self):
        with open(self.folder / "up.log", "w") as log:
            server = subprocess.Popen([self.program, "-C", self.folder, "up"], stdout=log, stderr=log)
            try:
                self._wait(server)
                yield
            finally:
                server.terminate()
                server.wait(60)

    def _wait(self, server):
        for _ in range(300):
            assert server.poll() is None, (self.folder / "up.log").read_text()
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                return self.ask("/v1/project")
            time.sleep(0.1)
        raise TimeoutError("kilter up does not answer")

    def ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def send(self, runs):
        for source, rows in runs:
            told = [{k: v.isoformat() if k == "at" else v for k, v in row.items() if k != "place"} for row in rows]
            self.ask(f"/v1/events/{source}", told)

    def features(self, at):
        """All features of all entities there can be."""
        pairs = [[card, merchant] for card in range(200) for merchant in MERCHANTS]
        keys = {"card": list(range(200)), "merchant": MERCHANTS, "pair": pairs}
        found = {}
        for view, columns in KEYS.items():
            wanted = keys["pair" if len(columns) == 2 else columns[0]]
            answer = self.ask(f"/v1/features/{view}", {"keys": wanted, "at": at.isoformat()})
            found[view] = [(row["key"], row["features"]) for row in answer["rows"]]
        return found


def spine(rng, runs):
    moments = [row["at"] for _, rows in runs for row in rows]
    rows = []
    for number in range(600):
        at = rng.choice(moments) + timedelta(minutes=rng.choice([0, 0, 0, 7, 300]))
        card = None if rng.random() < 0.05 else 0 if rng.random() < 0.4 else rng.randint(0, 199)
        rows.append({"number": number, "card": card, "merchant": rng.choice(MERCHANTS), "at": at, "label": rng.random() < 0.5})
    schema = pa.schema([("number", pa.int64()), ("card", pa.int64()), ("merchant", pa.string()), ("at", pa.timestamp("us", "UTC")), ("label", pa.bool_())])
    return pa.Table.from_pylist(rows, schema=schema)


def same(a, b):
    if isinstance(a, float) and isinstance(b, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    return a == b


def plain(value):
    """Maps and lists as one program and the other write them."""
    if isinstance(value, dict):
        return sorted(value.items())
    if isinstance(value, str) and value[:1] in "[{":
        with contextlib.suppress(ValueError):
            return plain(json.loads(value))
    return sorted(map(tuple, value)) if isinstance(value, list) and value and isinstance(value[0], tuple | list) else value


def compare_rows(want, got):
    assert len(want) == len(got) == 600, (len(want), len(got))
    assert set(want[0]) == set(got[0]), set(want[0]) ^ set(got[0])
    for a, b in zip(sorted(want, key=lambda row: row["number"]), sorted(got, key=lambda row: row["number"])):
        wrong = {name: (a[name], b[name]) for name in a if not same(plain(a[name]), plain(b[name]))}
        assert not wrong, f"row {a['number']}: one machine, Spark: {wrong}"


def in_time(runs, keep):
    """The events in the order of their times, in runs of one source."""
    events = [(row["at"], row["place"], source, row) for source, rows in runs for row in rows if keep(row["at"])]
    out = []
    for _, _, source, row in sorted(events, key=lambda event: event[:2]):
        if not out or out[-1][0] != source:
            out.append((source, []))
        out[-1][1].append(row)
    return out


def session():
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local-cluster[2,1,2048]").appName("kilter")
    settings = {
        "spark.executor.memory": "1g",
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "37",
        "spark.sql.session.timeZone": "America/New_York",
        "spark.ui.enabled": "false",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
    }
    for name, value in settings.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def check_training_set(spark, events, one, folder, rng, runs):
    rows = spine(rng, runs)
    pq.write_table(rows, folder / "spine.parquet")
    order = dict.fromkeys(events, "place")
    cases = {
        "everything": ([], {}),
        "lags, include_self, an expression": (
            ["--lag", "10m", "--lag", "logins=1h", "--include-self", "--features", "wary.*,limit.*,rate = card.spent_1d / card.n_1d,pair.first_1d,label2 = not label"],
            {"lag": "10m", "lags": {"logins": "1h"}, "include_self": True,
             "columns": ["wary.*", "limit.*", "rate = card.spent_1d / card.n_1d", "pair.first_1d", "label2 = not label"]},
        ),
        "one view that is divided": (["--features", "card.*"], {"columns": ["card.*"], "partitions": 3}),
    }
    for name, (arguments, wish) in cases.items():
        out = folder / "one.parquet"
        one.run("training-set", out, "--spine", folder / "spine.parquet", "--mode", "event-time", "--overwrite", *arguments)
        want = pq.read_table(out).to_pylist()
        began = time.monotonic()
        frame = kilter.spark.training_set(events, spark.read.parquet(str(folder / "spine.parquet")), one.folder, order=order, **wish)
        got = frame.toArrow().to_pylist()
        compare_rows(want, got)
        print(f"training set, {name}: {len(got)} rows of {len(got[0])} columns the same to the last bit ({time.monotonic() - began:.0f} s in Spark)")


def check_boot(spark, events, program, folder, runs):
    middle = START + (max(row["at"] for _, rows in runs for row in rows) - START) / 2
    before, after = in_time(runs, lambda at: at < middle), in_time(runs, lambda at: at >= middle)
    parts = folder / "parts"
    booted, whole = Project(program, folder / "booted"), Project(program, folder / "whole")
    began = time.monotonic()
    totals = kilter.spark.backfill(events, booted.folder, parts, as_of=middle, order=dict.fromkeys(events, "place"))
    count = sum(len(rows) for _, rows in before)
    assert sum(total["events"] for total in totals.values()) == count, totals
    print(f"state of {count} events in parts ({time.monotonic() - began:.0f} s in Spark)")
    check_damage(booted, parts, folder)
    print(booted.run("boot", "--from", parts).rstrip())
    assert "has events already" in whole_refused(booted, parts)

    with whole.up(), booted.up():
        whole.send(before)
        compared = 0
        for runs in [[], after[: len(after) // 2], after[len(after) // 2 :]]:
            whole.send(runs)
            booted.send(runs)
            at = max((row["at"] for _, rows in runs for row in rows), default=middle)
            want, got = whole.features(at), booted.features(at)
            for view in want:
                for a, b in zip(want[view], got[view]):
                    assert a == b, f"{view}: one that read everything: {a}, booted: {b}"
                    compared += len(a[1])
    # Once more from its own snapshot and log.
    with booted.up():
        assert booted.features(at) == got
    refused = booted.run("training-set", folder / "x.parquet", "--spine", folder / "spine.parquet", "--mode", "event-time", fails=True)
    assert "the history begins at offset" in refused, refused
    print(f"booted: {compared} features the same as of one that read all events itself, before and after {sum(len(r) for _, r in after)} more")


def check_damage(project, parts, folder):
    """Parts that are missing are missed."""
    fewer = folder / "fewer"
    for gone in sorted(parts.glob("*.parquet")):
        shutil.rmtree(fewer, ignore_errors=True)
        shutil.copytree(parts, fewer)
        if pq.read_metadata(gone).num_rows == 0:
            continue
        (fewer / gone.name).unlink()
        project.run("boot", "--from", fewer, fails=True)
        assert not (project.folder / "data" / "snapshots").exists()


def whole_refused(project, parts):
    return project.run("boot", "--from", parts, fails=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("kilter")
    parser.add_argument("--events", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    runs = history(rng, given.events)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        write(folder, runs)
        one = Project(given.kilter, folder / "one")
        with one.up():
            one.send(runs)
        spark = session()
        try:
            events = {source: spark.read.parquet(str(folder / f"{source}.parquet")) for source in SCHEMAS}
            check_training_set(spark, events, one, folder, rng, runs)
            check_boot(spark, events, given.kilter, folder, runs)
        finally:
            spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
