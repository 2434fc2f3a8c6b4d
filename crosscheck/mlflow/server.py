"""`kilter tracking` as a process, for checks by MLflow's clients. On PostgreSQL where `crosscheck/with_postgres` is around."""

import hashlib
import os
import signal
import subprocess
import urllib.error
import urllib.request

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "true"
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "2"
os.environ["GIT_PYTHON_REFRESH"] = "quiet"
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"

from mlflow.exceptions import MlflowException  # noqa: E402


def database(folder):
    """The address of a folder's database, which is made where it is missing; none where there is no PostgreSQL."""
    server = os.environ.get("KILTER_TEST_POSTGRES")
    if not server:
        return None
    name = "check_" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    made = subprocess.run(["createdb", "--maintenance-db", f"{server}/postgres", "--template", "template0", name], capture_output=True, text=True)
    assert made.returncode == 0 or "already exists" in made.stderr, made.stderr
    return f"{server}/{name}?sslmode=disable"


class Server:
    """`kilter tracking` on a folder, on a port that it finds itself and keeps."""

    def __init__(self, kilter, folder, *options):
        self.kilter, self.folder, self.options, self.listen = kilter, folder, options, "127.0.0.1:0"
        self.start()

    def start(self):
        command = [self.kilter, "--log", "warn", "tracking", "--data", self.folder, "--listen", self.listen, *self.options]
        url = database(self.folder)
        environment = {**os.environ, "KILTER_TRACKING_DATABASE": url} if url else None
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        line = self.process.stdout.readline()
        assert "is up on http://" in line, line
        self.listen = line.split("http://")[1].split()[0]
        self.url = f"http://{self.listen}"

    def end(self, how):
        self.process.send_signal(how)
        self.process.wait(60)
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.end(signal.SIGTERM)

    def ask(self, path, method="GET", body=None):
        request = urllib.request.Request(self.url + path, method=method, data=body)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


class Noted:
    """A client that remembers which of its methods were called."""

    def __init__(self, client):
        self.client, self.called = client, set()

    def __getattr__(self, name):
        self.called.add(name)
        return getattr(self.client, name)

    def uncalled(self):
        return {name for name in dir(type(self.client)) if not name.startswith("_")} - self.called


def refused(code, work):
    try:
        work()
    except MlflowException as error:
        assert error.error_code == code, (error.error_code, code, str(error))
        return str(error)
    raise AssertionError(f"was taken, not refused with {code}")
