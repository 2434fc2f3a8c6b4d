"""Keys that may see a part, asked for the rest by psql, psycopg, SQLAlchemy and ADBC for Arrow Flight SQL. Called by `run`: `rights.py KILTER`.

A project with payments of two countries. The key `bi` sees three columns of the German ones; `ada` sees everything, and says what `bi` must be told.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import adbc_driver_flightsql.dbapi as flight
import psycopg
import sqlalchemy
from adbc_driver_manager import AdbcStatusCode

WAIT = 120
PAYMENTS = 20_000
PROJECT = """
[project]
name = "shop"
[source.payments]
connector = "file"
path = "payments.csv"
time = "at"
max_future = "none"
[source.payments.columns]
code = "string"
country = "string"
at = "timestamp"
amount = { type = "float64", required = true }
[features.country]
source = "payments"
entity = "country"
columns = { all = "count(*)" }
[decision.limit]
on = "payments"
policy = [{ when = "amount > 900", outcome = "decline" }, { outcome = "approve" }]
"""
GRANT = "events.payments (code, at, _offset) WHERE country = 'DE'"
# What `bi` sees, for somebody who sees everything.
SHOWN = "with payments as (select code, at, _offset from events.payments where country = 'DE') "
DAY = "2026-01-0{}T{:02}:{:02}:{:02}Z"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def fill(run, folder):
    (folder / "kilter.toml").write_text(PROJECT)
    with open(folder / "payments.csv", "w") as out:
        out.write("code,country,at,amount\n")
        for n in range(PAYMENTS):
            country = "DE" if n % 3 == 0 else "FR"
            out.write(f"c{n},{country},{DAY.format(1 + n // 8640, n % 8640 // 360, n % 360 // 6, n % 6 * 10)},{n % 1000}.5\n")
    run("ingest", "payments")


def answers(port, server):
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        assert server.poll() is None, "kilter up ended by itself"
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
            return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"FAILED: no answer within {WAIT} s")


def eventually(what, holds):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError(f"it does not come: {what}")


def code(connection, sql):
    """The error that a statement ends with; none: it does not."""
    try:
        connection.execute(sql).fetchall()
    except psycopg.Error as e:
        connection.rollback()
        return e.sqlstate


def psql(address, *commands):
    arguments = [a for c in commands for a in ("-c", c)]
    done = subprocess.run(
        ["psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", address, *arguments], capture_output=True, text=True, timeout=60, env={**os.environ, "PAGER": "cat"}
    )
    return done.returncode, done.stdout + done.stderr


def by_psycopg(bi, ada):
    with psycopg.connect(bi) as part, psycopg.connect(ada) as whole:
        for sql in [
            "select count(*), min(code), max(_offset) from payments",
            "select code, at from payments order by _offset desc limit 3",
            "select date_trunc('day', at), count(*) from payments where at > '2026-01-01 12:00:00' group by 1 order by 1",
            "select count(*) from payments a join payments b on a._offset = b._offset + 3",
            "select code from payments where _offset between 10 and 20 order by code",
        ]:
            expected = whole.execute(SHOWN + sql).fetchall()
            for prepared in (False, True):
                for binary in (False, True):
                    with part.cursor(binary=binary) as cursor:
                        got = cursor.execute(sql, prepare=prepared).fetchall()
                        assert got == expected, f"{sql}: {got}, not {expected}"
        number = "cast(substr(code, 2) as bigint)"
        # c10 is French, c9 is German: an error tells of rows that are shown, and of no others.
        for shape in ["select count(*) from payments where 1 / ({} - {}) > -5", "select code from payments order by 1 / ({} - {}), 1 limit 1", "select sum(1 / ({} - {})) from payments"]:
            assert code(part, shape.format(number, 10)) is None and code(part, shape.format(number, 9)) == "22012", shape
        for sql, expected in [
            ("select amount from payments", "42703"),
            ("select count(*) from payments where country = 'FR'", "42703"),
            ("select code from payments order by amount", "42703"),
            ("select * from decisions", "42P01"),
            ("select * from public.definitions", "42P01"),
            ("select * from features.country", "42P01"),
            ("explain analyze select * from payments", "42501"),
            ("select * from nothing_like_it", "42P01"),
        ]:
            assert code(part, sql) == expected, f"{sql}: {code(part, sql)}"
        assert code(part, "select * from features_at('country', now())") == code(part, "select * from nothing_at('country', now())")
        assert part.execute("select count(*) from information_schema.columns where table_schema in ('public', 'events', 'features', 'tracking')").fetchone() == (3,)
        with part.cursor() as cursor, cursor.copy("copy payments to stdout") as rows:
            copied = sum(1 for _ in rows.rows())
        assert copied == whole.execute(SHOWN + "select count(*) from payments").fetchone()[0], copied
        with part.cursor(name="c") as cursor:
            cursor.execute("select code from payments order by _offset")
            assert cursor.fetchmany(2) == [("c0",), ("c3",)]


def by_psql(bi):
    out = psql(bi, "\\d", "\\dt *.*", "\\dv *.*")[1]
    assert "payments" in out and not any(name in out for name in ("decisions", "labels", "definitions", "dead_letters", "country")), out
    out = psql(bi, "\\d events.payments")[1]
    assert "code" in out and "amount" not in out and "country" not in out, out
    status, out = psql(bi, "\\d decisions")
    assert status != 0 or "Did not find any relation" in out, out
    status, out = psql(bi, "explain analyze select 1")
    assert status != 0 and "keys with grants" in out, out
    status, out = psql(bi, "\\copy (select * from payments order by _offset limit 2) to stdout csv header")
    assert status == 0 and out.splitlines()[0] == "_offset,code,at" and len(out.splitlines()) == 3, out


def by_sqlalchemy(bi):
    engine = sqlalchemy.create_engine(bi.replace("postgresql://", "postgresql+psycopg://"))
    inspector = sqlalchemy.inspect(engine)
    tables = {schema: inspector.get_table_names(schema=schema) + inspector.get_view_names(schema=schema) for schema in ("public", "events", "features", "tracking")}
    assert tables == {"public": [], "events": ["payments"], "features": [], "tracking": []}, tables
    assert [c["name"] for c in inspector.get_columns("payments", schema="events")] == ["_offset", "code", "at"]
    engine.dispose()


def by_flight(flight_port, keys, ada):
    def connect(user):
        return flight.connect(f"grpc://127.0.0.1:{flight_port}", db_kwargs={"username": user, "password": keys[user]}, autocommit=True)

    with connect("bi") as part, part.cursor() as cursor, psycopg.connect(ada) as whole:
        for sql in ["select count(*), min(code), max(_offset) from payments", "select code from payments where _offset between 10 and 20 order by code"]:
            expected = whole.execute(SHOWN + sql).fetchall()
            cursor.execute(sql)
            got = cursor.fetchall()
            assert got == expected, f"{sql}: {got}, not {expected}"
        cursor.execute("select count(*) from payments where _offset < ?", (10,))
        assert cursor.fetchone() == (4,)
        for hidden in ["select amount from payments", "select * from decisions", "select * from features_at('country', now())"]:
            try:
                cursor.execute(hidden)
            except flight.Error as e:
                assert e.status_code == AdbcStatusCode.NOT_FOUND, e
            else:
                raise AssertionError(f"answered: {hidden}")
        (catalog,) = part.adbc_get_objects(depth="columns").read_all().to_pylist()
        tables = [(s["db_schema_name"], t["table_name"], [c["column_name"] for c in t["table_columns"]]) for s in catalog["catalog_db_schemas"] for t in s["db_schema_tables"] or []]
        assert tables == [("events", "payments", ["_offset", "code", "at"])], tables


def changes(run, bi):
    """A connection that is open while what it may see changes."""
    count = "select count(*) from events.payments"
    with psycopg.connect(bi, prepare_threshold=0, autocommit=True) as part:
        german = part.execute(count).fetchone()[0]
        held = part.cursor(name="held", withhold=True)
        held.execute("select code from events.payments order by _offset")
        assert held.fetchone() == ("c0",)
        run("key", "sql", "bi", "events.payments (code, at, _offset) WHERE country = 'FR'")
        eventually("other rows", lambda: part.execute(count).fetchone()[0] == PAYMENTS - german)
        try:
            held.fetchone()
            raise AssertionError("a cursor goes on with rows that are not granted any more")
        except psycopg.errors.InvalidCursorName:
            pass
        run("key", "sql", "bi", "decisions (outcome)")
        eventually("no such table", lambda: code(part, count) == "42P01")
        assert part.execute("select outcome, count(*) from decisions group by 1 order by 1").fetchall()[0][0] == "approve"
        run("key", "sql", "bi", "--nothing")

        def ended():
            try:
                part.execute("select 1")
            except psycopg.OperationalError as e:
                return "opens nothing" in str(e) or part.closed
            return False

        eventually("the end of the connection", ended)


def main(kilter):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)

        def run(*args):
            done = subprocess.run([kilter, "-C", folder, "--log", "error", *args], capture_output=True, text=True, cwd=folder)
            if done.returncode != 0:
                sys.exit(f"FAILED: kilter {' '.join(args)}: {done.stdout}{done.stderr}")
            return done.stdout

        fill(run, folder)
        keys = {"bi": run("key", "create", "bi", "--sql", GRANT).strip(), "ada": run("key", "create", "ada", "--role", "read").strip()}
        http, port, flight_port = free_port(), free_port(), free_port()
        with open(folder / "kilter.log", "w") as log:
            server = subprocess.Popen(
                [kilter, "-C", folder, "up", "--listen", f"127.0.0.1:{http}", "--postgres", f"127.0.0.1:{port}", "--flight-sql", f"127.0.0.1:{flight_port}"], stdout=log, stderr=subprocess.STDOUT
            )
        try:
            answers(port, server)
            bi, ada = (f"postgresql://{user}:{keys[user]}@127.0.0.1:{port}/shop" for user in ("bi", "ada"))
            by_psycopg(bi, ada)
            if shutil.which("psql"):
                by_psql(bi)
            else:
                print("SKIPPED: rights as psql sees them: there is no psql")
            by_sqlalchemy(bi)
            by_flight(flight_port, keys, ada)
            changes(run, bi)
            print("rights to tables, columns and rows hold")
        except (AssertionError, psycopg.Error, flight.Error) as e:
            print((folder / "kilter.log").read_text()[-2000:])
            sys.exit(f"FAILED: {type(e).__name__}: {e}")
        finally:
            server.terminate()
            server.wait(60)


main(*sys.argv[1:])
