"""Requests that nobody should send, by the thousand: each is answered below 500, nothing outside the store is read or written, and the server stays small."""

import argparse
import base64
import collections
import gzip
import http.client
import json
import random
import signal
import socket
import tempfile
import urllib.parse
from pathlib import Path

from server import Server

SECRET = "what lies outside of the store"
# MiB that the server may have had at once.
MOST = 1024
# Of no kind that a field expects, or at the edge of it.
ODD = [
    None, True, 0, -1, 1e308, 2**63 - 1, -(2**63), 2**64 - 1, 2**70, "", "x", "\0", "\ud800", "\u202e\u0000\uffff", "é" * 300, "'", '"', "`", "%", "_",
    "a" * 9000, "0", "-1", "9" * 40, "NaN", "1e999", "{}", "[]", "[1]", '{"a":1}', [], {}, [None], [[]], [{}], {"a": {"b": [1]}}, ["0"], ["x"] * 300,
    "'; DROP TABLE runs; --", "' OR '1'='1", '" UNION SELECT 1 --', "1); ATTACH DATABASE 'x' AS y; --", "../../secret", "..\\..\\secret", "%2e%2e/secret",
    "/etc/passwd", "file:///etc/passwd", "a/../../b", "....//", "con", ".", "..", "a\nb", "${jndi:ldap://x}", "{{7*7}}", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z",
]
FILTERS = [
    "metrics.m > 1", "params.p = 'x'", "tags.t LIKE '%'", "attributes.status = 'RUNNING'", "run_id IN ('a', 'b')", "tags.`a b` ILIKE '_'", "start_time > 1e300",
    "name LIKE '%' OR 1 = 1", "metrics.m > 'x'", "params.`'` = '\\''", "tags.t RLIKE '(a+)+$'", "(", "'", "tags.", " AND ", "a = 1 AND", "metrics.m = NaN", "datasets.name = 'd'",
    "span.attributes.a RLIKE '.*'", "trace.text LIKE '%'", "feedback.ok > 1e308", "prompt = 'a/1'", "run_id != 'x'", "created_by LIKE 'x'", "tags.t = 'x' AND " * 300 + "a = 1",
    "name IN (" + ", ".join(["'x'"] * 2000) + ")", "name RLIKE '\\w{500}'", "x" * 100_000, "name = '" + "\\" * 5000 + "'",
]
ORDERS = [[], ["metrics.m DESC"], ["start_time"], ["params.p ASC", "tags.t"], ["x y z"], ["'"], ["name; DROP TABLE runs"], ["timestamp_ms DESC"] * 50, ["metrics.`m` DESC NULLS LAST"]]
LOCATION = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}
PAIRS = [{"key": "k", "value": "v"}]
V2, V3, FILES = "/api/2.0/mlflow", "/api/3.0/mlflow", "/api/2.0/mlflow-artifacts/artifacts"


class Sender:
    def __init__(self, server, seed, trap):
        self.random, self.server, self.trap = random.Random(seed), server, trap
        self.known = {"run": "0" * 32, "experiment": "0", "model": "m-x", "dataset": "d-x", "trace": "tr-1", "hook": "x", "made": 0}
        self.statuses = collections.Counter()
        self.connect()

    def connect(self):
        host, port = self.server.listen.rsplit(":", 1)
        self.connection = http.client.HTTPConnection(host, int(port), timeout=120)

    def any(self, choices):
        return self.random.choice(choices)

    def spoilt(self, value, share):
        if self.random.random() < share:
            return self.any(ODD)
        if isinstance(value, dict):
            return {key: self.spoilt(member, share) for key, member in value.items() if self.random.random() > 0.03}
        if isinstance(value, list):
            return [self.spoilt(member, share) for member in value for _ in range(self.any([1, 1, 1, 2]))]
        return value

    def search(self, **more):
        return {"filter": self.any(FILTERS), "order_by": self.any(ORDERS), "max_results": self.any([1, 5, 500, 50_000]), **more}

    def bodies(self):
        """One request of each kind, as a client sends it: method, path, fields."""
        k = self.known
        run, experiment, model, dataset, trace = k["run"], k["experiment"], k["model"], k["dataset"], k["trace"]
        k["made"] += 1
        name = f"n{k['made']}"
        inside = self.any(["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "2130706433", "0x7f.1", "127.1", "0", "0.0.0.0", "a@127.0.0.1"])
        hook = {"name": name, "url": f"{self.any(['https', 'http', 'HTTPS', 'file'])}://{inside}:{self.trap}/x", "events": [{"entity": "REGISTERED_MODEL", "action": "CREATED"}], "secret": "s"}
        metric = {"key": "m", "value": 1.5, "timestamp": 5, "step": 1}
        assessment = {"assessment_name": "ok", "source": {"source_type": "HUMAN", "source_id": "me"}, "feedback": {"value": self.any(ODD)}, "overrides": "", "metadata": {"a": "b"}}
        info = {"trace_id": trace, "trace_location": LOCATION, "request_time": "2026-01-31T10:00:00Z", "execution_duration": "0.250s", "state": "OK", "tags": {"k": "v"},
                "trace_metadata": {"a": "b"}, "assessments": [assessment], "request_preview": "q"}
        value = {self.any(["stringValue", "intValue", "doubleValue", "arrayValue", "kvlistValue", "bytesValue", "zz"]): self.any([*ODD, {"values": [{"stringValue": "x"}]}])}
        span = {"traceId": self.any(["01" * 16, "00", "ff" * 16]), "spanId": self.any(["a1" * 8, "a2"]), "parentSpanId": self.any(["", "a1" * 8]), "name": "s", "kind": 1,
                "startTimeUnixNano": self.any(["1", 0, "18446744073709551615"]), "endTimeUnixNano": "2", "status": {"code": self.any([0, 2, 99])},
                "attributes": [{"key": self.any(["mlflow.spanInputs", "mlflow.chat.tokenUsage", "mlflow.traceTag.x", "a"]), "value": value}]}
        return [
            ("POST", f"{V2}/experiments/create", {"name": name, "tags": PAIRS, "artifact_location": self.any(["", "s3://b/x", "../../secret", "file:///etc"])}),
            ("POST", f"{V2}/experiments/search", self.search(view_type="ALL")),
            ("GET", f"{V2}/experiments/get", {"experiment_id": experiment}),
            ("POST", f"{V2}/experiments/update", {"experiment_id": experiment, "new_name": name}),
            ("POST", f"{V2}/experiments/set-experiment-tag", {"experiment_id": experiment, "key": "k", "value": "v"}),
            ("POST", f"{V2}/runs/create", {"experiment_id": experiment, "start_time": 5, "run_name": name, "tags": PAIRS}),
            ("POST", f"{V2}/runs/log-metric", {"run_id": run, **metric}),
            ("POST", f"{V2}/runs/log-parameter", {"run_id": run, "key": name, "value": "v"}),
            ("POST", f"{V2}/runs/set-tag", {"run_id": run, "key": "k", "value": "v"}),
            ("POST", f"{V2}/runs/delete-tag", {"run_id": run, "key": "k"}),
            ("POST", f"{V2}/runs/log-batch", {"run_id": run, "metrics": [metric] * 3, "params": [{"key": name, "value": "1"}], "tags": PAIRS}),
            ("POST", f"{V2}/runs/log-inputs", {"run_id": run, "datasets": [{"tags": PAIRS, "dataset": {"name": "d", "digest": "1", "source_type": "x", "source": "y"}}]}),
            ("POST", f"{V2}/runs/log-model", {"run_id": run, "model_json": json.dumps({"artifact_path": "m", "flavors": {}, "utc_time_created": "", "run_id": run})}),
            ("POST", f"{V2}/runs/update", {"run_id": run, "status": "FINISHED", "end_time": 9, "run_name": name}),
            ("POST", f"{V2}/runs/search", self.search(experiment_ids=[experiment])),
            ("GET", f"{V2}/runs/get", {"run_id": run}),
            ("GET", f"{V2}/metrics/get-history", {"run_id": run, "metric_key": "m", "max_results": 5}),
            ("GET", f"{V2}/metrics/get-history-bulk-interval", {"run_ids": run, "metric_key": "m", "start_step": 0, "end_step": 9, "max_results": 5}),
            ("GET", f"{V2}/artifacts/list", {"run_id": run, "path": self.any(ODD[20:])}),
            ("POST", f"{V2}/logged-models", {"experiment_id": experiment, "name": name, "source_run_id": run, "params": PAIRS, "tags": PAIRS}),
            ("POST", f"{V2}/logged-models/search", self.search(experiment_ids=[experiment], datasets=[{"dataset_name": "d"}])),
            ("PATCH", f"{V2}/logged-models/{model}", {"status": "LOGGED_MODEL_READY"}),
            ("PATCH", f"{V2}/logged-models/{model}/tags", {"tags": PAIRS}),
            ("POST", f"{V2}/registered-models/create", {"name": name, "tags": PAIRS, "description": "d"}),
            ("POST", f"{V2}/registered-models/rename", {"name": "n1", "new_name": name}),
            ("GET", f"{V2}/registered-models/search", self.search()),
            ("POST", f"{V2}/registered-models/alias", {"name": "n1", "alias": "a", "version": "1"}),
            ("POST", f"{V2}/model-versions/create", {"name": "n1", "source": self.any(["runs:/x/m", "/etc/passwd", "file:///etc", "mlflow-artifacts:/../../x", "models:/m-x"]), "run_id": run}),
            ("GET", f"{V2}/model-versions/search", self.search()),
            ("POST", f"{V2}/model-versions/transition-stage", {"name": "n1", "version": "1", "stage": "Production", "archive_existing_versions": True}),
            ("GET", f"{V2}/model-versions/get-download-uri", {"name": "n1", "version": "1"}),
            ("POST", f"{V2}/traces", {"experiment_id": experiment, "timestamp_ms": 5, "tags": PAIRS, "request_metadata": PAIRS}),
            ("PATCH", f"{V2}/traces/{trace}", {"timestamp_ms": 9, "status": "OK", "tags": PAIRS}),
            ("GET", f"{V2}/traces", self.search(experiment_ids=[experiment])),
            ("POST", f"{V3}/traces", {"trace": {"trace_info": info}}),
            ("POST", f"{V3}/traces/search", self.search(locations=[LOCATION])),
            ("POST", f"{V3}/traces/batchGetInfos", {"trace_ids": [trace, "x"]}),
            ("GET", f"{V3}/traces/get", {"trace_id": trace}),
            ("POST", f"{V3}/traces/{trace}/assessments", {"assessment": assessment}),
            ("PATCH", f"{V3}/traces/{trace}/assessments/a-1", {"assessment": assessment, "update_mask": "feedback"}),
            ("PATCH", f"{V2}/traces/{trace}/tags", {"key": "a", "value": "b"}),
            ("POST", f"{V2}/traces/link-to-run", {"trace_ids": [trace], "run_id": run}),
            ("POST", f"{V2}/traces/link-prompts", {"trace_id": trace, "prompt_versions": [{"name": "a", "version": "1"}]}),
            ("POST", f"{V3}/traces/delete-traces", {"experiment_id": experiment, "request_ids": ["x"]}),
            ("POST", "/v1/traces", {"resourceSpans": [{"resource": {"attributes": [{"key": "a", "value": value}]}, "scopeSpans": [{"spans": [span, span]}]}]}),
            ("POST", f"{V3}/datasets/create", {"name": "d", "experiment_ids": ["0"], "tags": '{"v": 1}'}),
            ("POST", f"{V3}/datasets/search", self.search(experiment_ids=["0"], filter_string=self.any(FILTERS))),
            ("POST", f"{V3}/datasets/{dataset}/records", {"records": json.dumps(self.spoilt([{"inputs": {"q": self.any(ODD[:30])}, "outputs": 1, "expectations": {"a": 1}}], 0.1))}),
            ("GET", f"{V3}/datasets/{dataset}/records", {"max_results": 3}),
            ("POST", f"{V3}/scorers/register", {"experiment_id": "0", "name": "s", "serialized_scorer": "{}"}),
            ("GET", f"{V3}/scorers/list", {"experiment_id": "0"}),
            ("POST", f"{V2}/webhooks", hook),
            ("PATCH", f"{V2}/webhooks/{k['hook']}", {"url": hook["url"], "status": "ACTIVE", "description": "d"}),
            ("POST", f"{V2}/webhooks/{k['hook']}/test", {"event": hook["events"][0]}),
            ("GET", f"{V2}/webhooks", {"max_results": 5}),
        ]

    def climbing(self):
        """A path that would leave the artifacts."""
        up = self.any(["..", "%2e%2e", "%252e%252e", ".%2e", "..%2f..", "%c0%ae%c0%ae", "..%5c", "..;", "%00", ".", "~", "a%0a..", "%ef%bc%8e%ef%bc%8e"])
        between = self.any(["/", "%2f", "%5c", "//", "/./"])
        return between.join([self.any(["0", "x", ""]), *[up] * self.any([1, 3, 9]), self.any(["secret", "etc/passwd", "tracking.db", "lock", "", "secret/" * 300])])

    def request(self):
        method, path, fields = self.any(self.bodies())
        headers = {"Content-Type": "application/json", "x-mlflow-experiment-id": "0"}
        kind = self.random.random()
        if kind < 0.1:
            method, path, body = self.any(["GET", "PUT", "DELETE"]), f"{FILES}/{self.climbing()}", self.any([b"", b"x", b"y" * 100_000])
            if self.random.random() < 0.3:
                method, path, body = "GET", f"{FILES}?path={self.climbing()}", b""
        elif kind < 0.13:
            body = self.any([b"{", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"\0" * 1000, b'"' + b"a" * (3 << 20) + b'"', b"[" + b"1," * 300_000 + b"1]", b"x" * (6 << 20)])
        elif kind < 0.16:
            path = "/v1/traces"
            method, body = "POST", self.any([bytes(self.random.randrange(256) for _ in range(200)), gzip.compress(b"\0" * (50 << 20)), gzip.compress(b"[" * (1 << 20)), b"\x0a\xff\xff\xff\xff\x0f"])
            headers |= {"Content-Type": self.any(["application/x-protobuf", "application/json"]), "Content-Encoding": self.any(["gzip", "", "zstd", "br", "x" * 300])}
        else:
            share = self.any([0, 0.03, 0.15, 0.5])
            fields = self.spoilt(fields, share)
            if isinstance(fields, dict) and self.random.random() < 0.1:
                fields["page_token"] = self.any([*ODD[:12], base64.b64encode(b"\0" * 30).decode(), "-1"])
            body = json.dumps(fields).encode()
            if method == "GET":
                pairs = fields.items() if isinstance(fields, dict) else []
                text = lambda v: v if isinstance(v, str) else json.dumps(v)
                path += "?" + urllib.parse.urlencode([(key, text(member).encode("utf-8", "surrogatepass")) for key, v in pairs for member in (v if isinstance(v, list) else [v])])
                body = b""
        return method, path, body, headers

    def send(self):
        method, path, body, headers = self.request()
        if len(path) > 60_000:
            path = path[:60_000]
        try:
            self.connection.request(method, path, body, headers)
            answer = self.connection.getresponse()
            status, said = answer.status, answer.read()
        except (http.client.HTTPException, ConnectionError):
            # A body that is not taken may end the connection before it was sent whole.
            self.connect()
            self.statuses["ended"] += 1
            return
        self.statuses[status] += 1
        # A place of artifacts that this server does not read is told as such.
        assert status < 500 or status == 501 and b"NOT_IMPLEMENTED" in said, (status, method, path[:500], body[:1000], said[:500])
        assert SECRET.encode() not in said and b"root:x:" not in said, (method, path)
        if answer.getheader("connection") == "close":
            self.connect()
        if status == 200 and method == "POST":
            self.learn(path, said)

    def learn(self, path, said):
        """Ids that are there, so that requests get further than to what is missing."""
        for end, field, keys in (("/runs/create", "run", ("run", "info", "run_id")), ("/experiments/create", "experiment", ("experiment_id",)),
                                 ("/logged-models", "model", ("model", "info", "model_id")), ("/datasets/create", "dataset", ("dataset", "dataset_id")), ("/webhooks", "hook", ("webhook", "webhook_id"))):
            if path.endswith(end):
                value = json.loads(said)
                for key in keys:
                    value = value[key]
                self.known[field] = value


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def main():
    options = argparse.ArgumentParser()
    options.add_argument("kilter")
    options.add_argument("--requests", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        around = Path(folder) / "around"
        data = around / "in" / "data"
        data.mkdir(parents=True)
        for place in (around, around / "in"):
            (place / "secret").write_text(SECRET)
        (around / "in" / "tracking.db").write_text(SECRET)
        before = [name for name in files(around) if not name.startswith("in/data")]
        # Webhooks name it in all ways that lead to this machine; nobody may come.
        trap = socket.create_server(("127.0.0.1", 0))
        trap.setblocking(False)
        with Server(options.kilter, str(data)) as server:
            sender = Sender(server, options.seed, trap.getsockname()[1])
            for number in range(options.requests):
                try:
                    sender.send()
                except BaseException:
                    print(f"--seed {options.seed}, request {number}")
                    raise
            assert server.process.poll() is None, "the server has ended"
            status = Path(f"/proc/{server.process.pid}/status").read_text()
            peak = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) >> 10
            assert server.ask("/health")[0] == 200
            server.end(signal.SIGTERM)
            assert server.process.returncode == 0, server.process.returncode
        try:
            raise AssertionError(f"a webhook called {trap.accept()}")
        except BlockingIOError:
            trap.close()
        after = [name for name in files(around) if not name.startswith("in/data")]
        assert before == after, set(before) ^ set(after)
        assert all(path.read_text() == SECRET for path in (around / "secret", around / "in" / "secret", around / "in" / "tracking.db"))
        assert peak < MOST, f"{peak} MiB"
        answers = ", ".join(f"{status}: {count}" for status, count in sorted(sender.statuses.items(), key=str))
        print(f"ok    {options.requests} hostile requests, --seed {options.seed}: {answers}; at most {peak} MiB resident")


main()
