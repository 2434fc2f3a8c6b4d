"""The lake as DuckDB, pandas, Spark and readers of Delta tables see it, against what went into the log."""

import argparse
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable
from pyspark.sql import SparkSession
from pyspark.sql import functions as f

PROJECT = """
[project]
name = "lender"
[server]
listen = "127.0.0.1:{port}"
[lake]
url = "lake"
format = "delta"
every = "50ms"
records = 500
compact = "{compact}"
[source.transactions]
time = "at"
id = "code"
max_future = "none"
[source.transactions.columns]
code = "string"
account = "int64"
at = "timestamp"
amount = "float64"
note = "string"
"""
# Seconds since 1970 of the first event; they lie within a week.
FIRST, WEEK = 1_772_000_000, 7 * 86_400


def event(n: int) -> dict:
    """The event number n."""
    dice = random.Random(n)
    at = FIRST + dice.randrange(WEEK)
    return {"code": f"c{n}", "account": n % 97, "at": at, "amount": n / 4 - 100, "note": None if n % 5 == 0 else f"né {n}"}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Kilter:
    """The program on a project of its own."""

    def __init__(self, program: str, folder: pathlib.Path):
        self.program, self.folder, self.port = program, folder, free_port()
        self.process = None

    def define(self, compact: str) -> None:
        (self.folder / "kilter.toml").write_text(PROJECT.format(port=self.port, compact=compact))

    def start(self) -> None:
        self.process = subprocess.Popen([self.program, "-C", self.folder, "--log", "error", "up"], stdout=subprocess.DEVNULL)
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5)
                return
            except OSError:
                assert self.process.poll() is None, "kilter ended by itself"
                time.sleep(0.05)
        raise AssertionError("kilter does not come up")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0

    def send(self, events: list[dict]) -> bool:
        """Whether they were taken; after a kill they are sent again, and their ids make them count once."""
        body = "\n".join(json.dumps(e) for e in events).encode()
        url = f"http://127.0.0.1:{self.port}/v1/events/transactions"
        request = urllib.request.Request(url, body, {"Content-Type": "application/x-ndjson"})
        try:
            answer = json.load(urllib.request.urlopen(request, timeout=30))
            assert answer["rejected"] == 0, answer
            return True
        except (OSError, ConnectionError, ValueError):
            return False

    def lake(self, *words: str) -> dict:
        return json.loads(subprocess.check_output([self.program, "-C", self.folder, "lake", *words, "--json"]))


def by_duckdb(table: pathlib.Path) -> list[tuple]:
    if not list(table.glob("date=*/*.parquet")):
        return []
    query = f"""SELECT _offset, code, account, epoch_us("at") // 1000000, amount, note, CAST("date" AS VARCHAR)
                FROM read_parquet('{table}/*/*.parquet', hive_partitioning = true)"""
    return duckdb.sql(query).fetchall()


def by_pandas(table: pathlib.Path) -> list[tuple]:
    if not list(table.glob("date=*/*.parquet")):
        return []
    return rows_of(ds.dataset(table, partitioning="hive").to_table())


def by_delta(table: pathlib.Path) -> list[tuple]:
    """What the Delta table's newest version has: whole batches."""
    if not list(table.glob("_delta_log/*.json")):
        return []
    return rows_of(pa.table(DeltaTable(str(table)).to_pyarrow_table()))


def rows_of(columns: pa.Table) -> list[tuple]:
    frame = columns.to_pandas()
    frame["note"] = frame["note"].astype(object).where(frame["note"].notna(), None)
    seconds = frame["at"].astype("int64") // 1_000_000
    return list(zip(frame["_offset"], frame["code"], frame["account"], seconds, frame["amount"], frame["note"], frame["date"].astype(str)))


def by_spark(spark: SparkSession, table: pathlib.Path) -> list[tuple]:
    if not list(table.glob("date=*/*.parquet")):
        return []
    # The listing is taken anew with each read.
    frame = spark.read.parquet(str(table))
    seconds = f.unix_timestamp("at")
    rows = frame.select("_offset", "code", "account", seconds, "amount", "note", f.date_format("date", "yyyy-MM-dd")).collect()
    return [tuple(row) for row in rows]


def hold(rows: list[tuple], reader: str, moment: str) -> set[str]:
    """Every row is the event it says it is, in the folder of its day, and is there once; the codes seen."""
    seen: dict[str, int] = {}
    for offset, code, account, at, amount, note, date in rows:
        want = event(int(code[1:]))
        day = time.strftime("%Y-%m-%d", time.gmtime(want["at"]))
        got = {"code": code, "account": account, "at": at, "amount": amount, "note": note}
        assert got == want and date == day, f"{reader}, {moment}: {got} in {date}, not {want} in {day}"
        assert code not in seen, f"{reader}, {moment}: {code} is there twice, at {seen[code]} and {offset}"
        seen[code] = offset
    offsets = set(seen.values())
    assert len(offsets) == len(seen), f"{reader}, {moment}: an offset is there twice"
    return set(seen)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        kilter = Kilter(options.program, pathlib.Path(folder))
        # Without compaction, in whose course one who reads all files there are may see a row twice.
        kilter.define("1B")
        table = kilter.folder / "lake/events/source=transactions"
        plans = kilter.folder / "lake/_kilter/00000/plan"
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
        builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").config("spark.ui.showConsoleProgress", "false")
        builder = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
        builder = builder.config("spark.sql.session.timeZone", "UTC").config("spark.sql.shuffle.partitions", "1")
        spark = builder.getOrCreate()
        spark.sparkContext.setLogLevel("ERROR")
        readers = {"DuckDB": by_duckdb, "pandas": by_pandas, "Delta": by_delta, "Spark": lambda table: by_spark(spark, table)}

        sent, killed, within, looks = 0, 0, 0, 0
        kills = sorted(dice.randrange(options.events) for _ in range(options.kills))
        kilter.start()
        while sent < options.events:
            batch = [event(n) for n in range(sent, min(sent + 250, options.events))]
            if kilter.send(batch):
                sent += len(batch)
            if killed < len(kills) and sent >= kills[killed]:
                killed += 1
                # Mostly in the middle of a batch: its plan is there until it is committed and settled.
                until = time.monotonic() + 3 * (dice.random() < 0.8)
                while time.monotonic() < until and not (plans.is_dir() and list(plans.iterdir())):
                    pass
                time.sleep(dice.random() * 0.02)
                kilter.kill()
                within += bool(plans.is_dir() and list(plans.iterdir()))
                for name, read in readers.items():
                    hold(read(table), name, f"after kill {killed}")
                kilter.start()
            elif sent % 2000 == 0:
                looks += 1
                for name in ("DuckDB", "pandas", "Delta"):
                    hold(readers[name](table), name, "during writing")
        print(f"{sent} events, {killed} kills, {within} of them in the middle of a batch, {looks} looks during writing")

        expected = {f"c{n}" for n in range(sent)}
        kilter.lake("compact")
        files = len(list(table.glob("date=*/*.parquet")))
        for name, read in readers.items():
            assert hold(read(table), name, "at the end") == expected, f"{name}: not all events are there"
        kilter.stop()
        kilter.define("128MiB")
        kilter.start()
        kilter.lake("compact")
        fewer = len(list(table.glob("date=*/*.parquet")))
        assert fewer < files, f"{files} files, and {fewer} after compaction"
        for name, read in readers.items():
            assert hold(read(table), name, "after compaction") == expected, f"{name}: not all events are there after compaction"
        state = kilter.lake("status")
        current = json.loads((kilter.folder / "lake/_kilter/00000/current.json").read_text())
        listed = [str(kilter.folder / "lake" / file["path"]) for file in current["files"] if file["holds"] == "events"]
        total = duckdb.sql(f"SELECT count(*), sum(amount) FROM read_parquet({listed})").fetchall()
        assert total == [(sent, sum(event(n)["amount"] for n in range(sent)))], total
        assert state["next"] == current["next"] and state["problem"] is None, state
        assert kilter.folder.joinpath("lake/_kilter/staging").is_dir()
        kilter.stop()
        spark.stop()
        print(f"DuckDB, pandas, Spark and a reader of Delta tables see all {sent} events once, in {files} files and in {fewer}")


if __name__ == "__main__":
    main()
