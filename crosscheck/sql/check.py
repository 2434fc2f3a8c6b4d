"""A project with a million decisions, a server that answers in SQL over TLS and with keys, and its clients (`clients.py`, `flight.py`). Called by `run`:
`check.py KILTER [CLIENT ...]`, the clients that are left out.
"""

import datetime
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import powerbi
import psycopg

HERE = Path(__file__).resolve().parent
BOARDS = HERE.parents[1] / "deploy" / "grafana"
# Decisions on payments; those on applications, which a model makes, are 6000 more.
PAYMENTS = int(os.environ.get("PAYMENTS", "1000000"))
APPLICATIONS = 3000
WAIT = 120
FIRST = 1_772_000_000
PROJECT = """
[project]
name = "lender"
clock = "event"
[source.payments]
connector = "file"
path = "payments.csv"
time = "at"
max_future = "none"
[source.payments.columns]
card = { type = "int64", required = true }
at = "timestamp"
amount = { type = "float64", required = true }
[source.applications]
connector = "file"
path = "applications.csv"
time = "at"
lateness = "30d"
max_future = "none"
[source.applications.columns]
code = { type = "string", required = true }
card = { type = "int64", required = true }
at = "timestamp"
amount = { type = "float64", required = true }
income = "float64"
[source.outcomes]
connector = "file"
path = "outcomes.csv"
time = "at"
lateness = "30d"
max_future = "none"
[source.outcomes.columns]
code = { type = "string", required = true }
at = "timestamp"
defaulted = "bool"
[features.card]
source = "applications"
entity = "card"
[features.card.columns]
applications = "count(*) over 7d"
asked = { value = "sum(amount) over 7d", default = 0 }
[model.risk]
on = "applications"
learner = "gbdt"
params = { trees = 20, leaves = 7, min_leaf_rows = 20 }
inputs = ["card.*", "applications.amount", "applications.income"]
label = { source = "outcomes", value = "defaulted", on = "code", within = "1d" }
window = "60d"
min_rows = 500
[decision.loan]
model = "risk"
policy = [{ when = "score >= 0.5", outcome = "decline" }, { when = "score >= 0.3", outcome = "review" }, { outcome = "approve" }]
fallback = "review"
[decision.limit]
on = "payments"
policy = [{ when = "amount > 900", outcome = "decline" }, { outcome = "approve" }]
[monitor.drift]
model = "risk"
signal = "psi"
above = 0.1
window = "2d"
every = "6h"
min_rows = 100
[monitor.quality]
model = "risk"
signal = "auc"
below = 0.9
window = "2d"
every = "6h"
min_rows = 50
"""


def at(seconds):
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def applications(folder, part, begin, richer):
    """Applications, one in two minutes, and how they ended an hour later: written as the files of this part."""
    dice = random.Random(part)
    with open(folder / f"applications{part}.csv", "w") as asked, open(folder / f"outcomes{part}.csv", "w") as ended:
        asked.write("code,card,at,amount,income\n")
        ended.write("code,at,defaulted\n")
        for n in range(APPLICATIONS):
            amount, income = dice.uniform(100, 9000), dice.uniform(500, 5000) * richer
            defaulted = dice.random() < min(0.9, amount / income / 6)
            asked.write(f"a{part}-{n},{dice.randrange(500)},{at(begin + n * 120)},{amount:.2f},{income:.2f}\n")
            ended.write(f"a{part}-{n},{at(begin + n * 120 + 3600)},{str(defaulted).lower()}\n")
    return begin + APPLICATIONS * 120 + 3600


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def timed(what, f):
    begun = time.monotonic()
    result = f()
    print(f"      {what} ({time.monotonic() - begun:.1f} s)", flush=True)
    return result


def fill(run, folder):
    """One model trained and put into service between two parts, of which the second has drifted; a row that cannot be used."""
    (folder / "kilter.toml").write_text(PROJECT)
    end = applications(folder, 1, FIRST, 1.0)
    end = applications(folder, 2, end + 86_400, 0.6)
    with open(folder / "payments.csv", "w") as out:
        out.write("card,at,amount\n")
        days = at(FIRST)[:11], at(FIRST + 86_400)[:11]
        clock = [f"{d}{h:02}:{m:02}:{s:02}Z" for d in days for h in range(24) for m in range(60) for s in range(60)]
        out.writelines(f"{n % 997},{clock[n * len(clock) // PAYMENTS]},{n * 37 % 1000}.5\n" for n in range(PAYMENTS))
        out.write(f"nobody,{at(end)},1\n")

    def parts(n):
        return ["--path", f"applications=applications{n}.csv", "--path", f"outcomes=outcomes{n}.csv"]

    run("ingest", "applications", "outcomes", *parts(1))
    run("train", "risk", "--promote")
    run("ingest", "applications", "outcomes", *parts(2))
    # What `kilter up` reads on: nothing more.
    for name in ("applications", "outcomes"):
        (folder / f"{name}.csv").write_text((folder / f"{name}1.csv").read_text().partition("\n")[0] + "\n")
    timed(f"kilter ingest of {PAYMENTS} payments", lambda: run("ingest", "payments"))
    # What the board shows happened then, or on this machine's clock a moment ago.
    now = time.time()
    return min(FIRST, now - 86_400), max(end, now + 60)


def certificates(folder):
    """A certificate for this machine, which is its own root, and another root, which vouches for nothing."""
    for name in ("server", "stranger"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext",
             "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt"],
            check=True, capture_output=True,
        )


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


def expanded(sql, begin, end, variables):
    """What Grafana makes of a panel's statement."""

    def text(seconds):
        return f"'{at(seconds)}'"

    macros = {
        "timeFilter": lambda column: f"{column} BETWEEN {text(begin)} AND {text(end)}",
        "timeGroup": lambda column, span: f"floor(extract(epoch from {column})/3600)*3600",
        "timeGroupAlias": lambda column, span: f'floor(extract(epoch from {column})/3600)*3600 AS "time"',
        "timeFrom": lambda *_: text(begin),
        "timeTo": lambda *_: text(end),
    }
    sql = sql.replace("$__interval", "1h")
    sql = re.sub(r"\$__(\w+)\(([^)]*)\)", lambda m: macros[m[1]](*(a.strip() for a in m[2].split(","))), sql)
    sql = re.sub(r"\$\{(\w+):sqlstring\}", lambda m: ", ".join(f"'{v}'" for v in variables[m[1]]), sql)
    assert "$" not in sql, f"not expanded: {sql}"
    return sql


def boards(connect, begin, end):
    """Every panel of the boards that ask in SQL has rows, and the columns that its form wants."""
    failures, count = [], 0
    for path in sorted(BOARDS.glob("*.json")):
        board = json.loads(path.read_text())
        if not any(p.get("datasource", {}).get("type") == "grafana-postgresql-datasource" for p in board["panels"]):
            continue
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids), f"{path.name}: two panels have one id"
        with connect() as c:

            def ask(place, sql, variables):
                try:
                    cursor = c.execute(expanded(sql, begin, end, variables))
                    return [d.name for d in cursor.description], cursor.fetchall()
                except psycopg.Error as e:
                    c.rollback()
                    failures.append(f"{place}: {e}")

            variables = {}
            for variable in board["templating"]["list"]:
                if variable["type"] == "query":
                    columns, rows = ask(f"{path.name}: {variable['name']}", variable["query"], variables) or ([], [])
                    variables[variable["name"]] = [r[0] for r in rows]
                    if not rows:
                        failures.append(f"{path.name}: ${variable['name']} has no values")
            # By default those that are called so.
            variables["approved"] = ["approve"]
            asked = [(panel["title"], t["rawSql"], t["format"]) for panel in board["panels"] for t in panel.get("targets", [])]
            asked += [(n["name"], n["rawQuery"], "annotation") for n in board["annotations"]["list"] if "rawQuery" in n]
            for title, sql, form in asked:
                count += 1
                place = f"{path.name}: {title}"
                columns, rows = ask(place, sql, variables) or ([], [])
                if columns and not rows:
                    failures.append(f"{place}: no rows")
                if columns and form != "table" and "time" not in columns:
                    failures.append(f"{place}: no column `time` among {columns}")
    assert not failures, "\n".join(failures)
    assert count, f"no board in {BOARDS} asks in SQL"
    return count


def main(kilter, *left_out):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)

        def run(*args):
            done = subprocess.run([kilter, "-C", folder, "--log", "error", *args], capture_output=True, text=True, cwd=folder)
            if done.returncode != 0:
                sys.exit(f"FAILED: kilter {' '.join(args)}: {done.stdout}{done.stderr}")
            return done.stdout

        begin, end = fill(run, folder)
        key = run("key", "create", "ada", "--role", "read").strip()
        certificates(folder)
        http, port, flight = free_port(), free_port(), free_port()
        with open(folder / "kilter.log", "w") as log:
            server = subprocess.Popen(
                [kilter, "-C", folder, "up", "--listen", f"127.0.0.1:{http}", "--postgres", f"127.0.0.1:{port}",
                 "--flight-sql", f"127.0.0.1:{flight}", "--sql-certificate", folder / "server.crt", "--sql-key", folder / "server.key"],
                stdout=log, stderr=subprocess.STDOUT,
            )
        try:
            timed("kilter up", lambda: answers(port, server))
            environment = {
                **os.environ, "CERTIFICATE": f"{folder}/server.crt", "OTHER_CERTIFICATE": f"{folder}/stranger.crt", "LEFT_OUT": " ".join(left_out), "TMPDIR": str(folder),
            }
            done = subprocess.run(
                [sys.executable, "-W", "ignore", HERE / "clients.py", "127.0.0.1", str(port), "ada", key, "lender", "public.decisions"], env=environment
            )
            address = f"host=127.0.0.1 port={port} user=ada password={key} dbname=lender sslmode=verify-full sslrootcert={folder}/server.crt"
            count = timed("what the board asks", lambda: boards(lambda: psycopg.connect(address), begin, end))
            print(f"{count} statements of boards answered")
            with psycopg.connect(address) as c:
                asked, visuals = timed("what Power BI's project asks", lambda: powerbi.check(c))
            print(f"{asked} statements of Power BI's project answered; what its {visuals} visuals show is in its model")
            with psycopg.connect(address) as c:
                environment["WHOLE"] = "{} {}".format(*c.execute("select count(*), sum(event_offset)::int8 from decisions").fetchone())
                rows = c.execute("select decision, count(*) from decisions group by 1 order by 1").fetchall()
            assert rows == [("limit", PAYMENTS), ("loan", 2 * APPLICATIONS)], rows
            by_flight = subprocess.run(
                [sys.executable, "-W", "ignore", HERE / "flight.py", "127.0.0.1", str(flight), "ada", key, "lender", "public.decisions"], env=environment
            )
            if done.returncode != 0 or by_flight.returncode != 0:
                print((folder / "kilter.log").read_text()[-2000:])
                sys.exit("FAILED: a client")
        except AssertionError as e:
            print((folder / "kilter.log").read_text()[-2000:])
            sys.exit(f"FAILED: {e}")
        finally:
            server.terminate()
            server.wait(60)


main(*sys.argv[1:])
