"""The boards and alert rules of `deploy/` on a Prometheus that scrapes a server at work. Called by `run`."""

import json
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
# Of parts that the project of this check does not have, or of what has not happened in it.
MAY_BE_EMPTY = re.compile(r"kilter_(sink_\w+|lake_\w+|source_lag_records|access_refused_total|self_check_\w+|watch_\w+|monitor_\w+|model_version)")
WAIT = 120


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def http(url, body=None, content="application/json"):
    request = urllib.request.Request(url, data=body, headers={"Content-Type": content} if body is not None else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as e:
        return e.code, e.read()


def until(what, look):
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        try:
            if found := look():
                return found
        except OSError:
            pass
        time.sleep(0.2)
    sys.exit(f"FAILED: waited {WAIT} s for {what}")


def work(kilter):
    """Makes every kind of figure: events, a duplicate, a row that cannot be used, decisions, requests that are refused."""
    day = "2026-01-05T10:00:{:02}Z"
    rows = [{"transaction_id": f"t{n}", "account_id": n % 7, "booked_at": day.format(n), "amount": -40.0 - n, "kind": "withdrawal", "balance": 310.0} for n in range(60)]
    for row in [*rows, rows[0]]:
        http(f"{kilter}/v1/events/transactions", json.dumps(row).encode())
    http(f"{kilter}/v1/events/transactions", b'{"transaction_id": "odd", "account_id": "nobody"}')
    for n in range(20):
        http(f"{kilter}/v1/decide/loan", json.dumps({"application_id": f"a{n}", "account_id": n % 7, "amount": 1200.0, "months": 12, "payment": 118.0}).encode())
    http(f"{kilter}/v1/decide/nothing", b"{}")
    http(f"{kilter}/v1/status")


def expressions():
    """Every expression of the boards and rules, with where it stands."""
    for path in sorted((DEPLOY / "grafana").glob("*.json")):
        board = json.loads(path.read_text())
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids), f"{path.name}: two panels have one id"
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                # A board that asks in SQL is held against a server by `crosscheck/sql/run`.
                if "expr" in target:
                    yield f"{path.name}: {panel['title']}", target["expr"]
        for note in board["annotations"]["list"]:
            if "expr" in note:
                yield f"{path.name}: {note['name']}", note["expr"]
    for line in (DEPLOY / "prometheus" / "alerts.yml").read_text().splitlines():
        if line.strip().startswith("expr:"):
            yield "alerts.yml", line.split("expr:", 1)[1].strip()


def main(kilter, bin):
    failures = []
    checked = subprocess.run([f"{bin}/promtool", "check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")], capture_output=True, text=True)
    if checked.returncode != 0:
        sys.exit(f"FAILED: promtool: {checked.stdout}{checked.stderr}")

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        own, other = free_port(), free_port()
        subprocess.run([kilter, "new", str(folder / "lender"), "--template", "credit-risk"], check=True, capture_output=True)
        config = (DEPLOY / "prometheus" / "prometheus.yml").read_text().replace("127.0.0.1:8080", f"127.0.0.1:{own}").replace("5s", "1s")
        (folder / "prometheus.yml").write_text(config)
        (folder / "alerts.yml").write_text((DEPLOY / "prometheus" / "alerts.yml").read_text())
        logs = [open(folder / name, "w") for name in ("kilter.log", "prometheus.log")]
        servers = [
            subprocess.Popen([kilter, "-C", str(folder / "lender"), "up", "--listen", f"127.0.0.1:{own}"], stdout=logs[0], stderr=subprocess.STDOUT),
            subprocess.Popen(
                [f"{bin}/prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb", f"--web.listen-address=127.0.0.1:{other}"],
                stdout=logs[1], stderr=subprocess.STDOUT,
            ),
        ]
        try:
            lender, prometheus = f"http://127.0.0.1:{own}", f"http://127.0.0.1:{other}"

            def query(text):
                status, body = http(f"{prometheus}/api/v1/query?" + urllib.parse.urlencode({"query": text}))
                answer = json.loads(body)
                return answer["data"]["result"] if status == 200 else answer["error"]

            until("the server", lambda: http(f"{lender}/readyz")[0] == 200)
            until("Prometheus", lambda: http(f"{prometheus}/-/ready")[0] == 200)
            work(lender)
            # Rates want readings from before and after.
            until("a reading", lambda: query("kilter_decisions_total"))
            work(lender)
            until("rates", lambda: any(float(s["value"][1]) > 0 for s in query("rate(kilter_http_requests_total{route=\"/v1/status\"}[1m])")))

            text = http(f"{lender}/metrics")[1].decode()
            shown = set(re.findall(r"^# TYPE (\S+) ", text, re.M))
            named, count = set(), 0
            for place, expr in expressions():
                count += 1
                asked = expr.replace("$instance", ".*").replace("$__rate_interval", "1m").replace("$__interval", "1m")
                found = query(asked)
                if isinstance(found, str):
                    failures.append(f"{place}: {found}: {asked}")
                metrics = set(re.findall(r"\bkilter_\w+", re.sub(r'"[^"]*"', "", asked)))
                named |= metrics
                filtered = place == "alerts.yml" or re.search(r"[><]=? *\d|== *1", asked) or 'status=~"5' in asked
                if not found and not filtered and not any(MAY_BE_EMPTY.fullmatch(m) for m in metrics):
                    failures.append(f"{place}: nothing: {asked}")
            for metric in sorted(named):
                base = re.sub(r"_(total|bucket|sum|count)$", "", metric)
                if not {base, metric} & shown and not MAY_BE_EMPTY.fullmatch(metric):
                    failures.append(f"{metric} is not among the metrics of the server")
            rules = json.loads(http(f"{prometheus}/api/v1/rules")[1])["data"]["groups"][0]["rules"]
            failures += [f"rule {rule['name']}: {rule['lastError']}" for rule in rules if rule.get("lastError")]
            firing = {rule["name"] for rule in rules if rule["state"] in ("firing", "pending")}
            if "KilterUnusableRows" not in firing:
                until("the alert of a row that cannot be used", lambda: query('ALERTS{alertname="KilterUnusableRows"}'))
            if len(text) > 100_000:
                failures.append(f"a scrape is {len(text)} bytes")
        finally:
            for server in servers:
                server.terminate()
            for server in servers:
                server.wait(30)
        if failures:
            print((folder / "kilter.log").read_text()[-2000:])
            sys.exit("FAILED:\n" + "\n".join(failures))
        print(f"{count} expressions of boards and rules, {len(named)} metrics, a scrape of {len(text)} bytes: all answered by {subprocess.run([f'{bin}/prometheus', '--version'], capture_output=True, text=True).stdout.split(' (')[0]}")


main(*sys.argv[1:])
