"""Two Kilter servers on one PostgreSQL and one folder of artifacts, driven by MLflow's client while either is killed again and again.

    with_postgres two_servers.py KILTER

What a client was told is done is there, once, whichever server it asks; versions have numbers of their own; a run that one server deleted is deleted for the other.
"""

import logging
import os
import random
import signal
import sys
import tempfile
import threading
import time

from server import Server

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

# What fails is made again here, by the other server; and a line for each version says nothing.
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
logging.getLogger("mlflow").setLevel(logging.WARNING)
WRITERS = 6
KILLS = 8
SEED = 20261127


class Doer(threading.Thread):
    """Logs by one server until it fails, then by the other; notes what it was told is done."""

    def __init__(self, number, servers, experiment):
        super().__init__()
        self.number, self.servers, self.experiment = number, servers, experiment
        self.points, self.versions, self.files, self.failures = {}, [], {}, 0
        self.run_id, self.error = None, None
        self.stop = threading.Event()

    def run(self):
        try:
            self.work()
        except Exception as error:  # noqa: BLE001
            self.error = error

    def work(self):
        at = self.number
        step = 0
        while not self.stop.is_set():
            client = MlflowClient(self.servers[at % 2].url)
            try:
                if self.run_id is None:
                    self.run_id = client.create_run(self.experiment, run_name=f"writer {self.number}").info.run_id
                client.log_metric(self.run_id, f"m{step % 7}", step, timestamp=step + 1, step=step)
                self.points[step] = f"m{step % 7}"
                if step % 5 == 0:
                    version = client.create_model_version("shared", f"s3://bucket/{self.number}/{step}")
                    self.versions.append((int(version.version), f"s3://bucket/{self.number}/{step}"))
                if step % 9 == 0:
                    name = f"{self.number}-{step}.txt"
                    mlflow.set_tracking_uri(self.servers[at % 2].url)
                    client.log_text(self.run_id, f"text {step}", name)
                    self.files[name] = f"text {step}"
                step += 1
            except (MlflowException, OSError):
                self.failures += 1
                at += 1
                time.sleep(0.05)


def main(kilter):
    random.seed(SEED)
    with tempfile.TemporaryDirectory() as folder, Server(kilter, folder) as one, Server(kilter, folder) as other:
        servers = [one, other]
        client = MlflowClient(one.url)
        experiment = client.create_experiment("shared")
        client.create_registered_model("shared")
        doers = [Doer(number, servers, experiment) for number in range(WRITERS)]
        for doer in doers:
            doer.start()
        for kill in range(KILLS):
            time.sleep(random.uniform(0.5, 1.5))
            server = servers[kill % 2]
            server.end(signal.SIGKILL)
            time.sleep(random.uniform(0, 0.5))
            server.start()
        for doer in doers:
            doer.stop.set()
        for doer in doers:
            doer.join(120)
            assert doer.error is None, doer.error
        points = 0
        for server in servers:
            client = MlflowClient(server.url)
            found = {int(v.version): v.source for v in client.search_model_versions("name = 'shared'", max_results=10_000)}
            told = [version for doer in doers for version in doer.versions]
            assert len({number for number, _ in told}) == len(told), "a number was given twice"
            assert all(found.get(number) == source for number, source in told), "a version that was told is not there"
            for doer in doers:
                for name in {*doer.points.values()}:
                    steps = [m.step for m in client.get_metric_history(doer.run_id, name)]
                    assert len(steps) == len(set(steps)), f"a point of {name} is there twice"
                    lost = {step for step, key in doer.points.items() if key == name} - set(steps)
                    assert not lost, f"acknowledged and lost: {sorted(lost)[:5]} of {name}"
                    points += len(steps)
                for name, text in doer.files.items():
                    mlflow.set_tracking_uri(server.url)
                    assert mlflow.artifacts.load_text(f"runs:/{doer.run_id}/{name}") == text
        client.delete_run(doers[0].run_id)
        try:
            MlflowClient(one.url).log_metric(doers[0].run_id, "late", 1)
            raise AssertionError("a run that the other server deleted was written to")
        except MlflowException as error:
            assert "must be in the 'active' state" in str(error), error
        failures = sum(doer.failures for doer in doers)
        assert failures > 0, "no kill was noticed"
        print(f"ok    two servers: {points // 2} points, {len(told)} versions, {KILLS} kills, {failures} requests that failed and were made again")


if __name__ == "__main__":
    main(sys.argv[1])
