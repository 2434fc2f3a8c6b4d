"""MLflow's unmodified client against `kilter tracking`: what is logged is read back, found and downloaded."""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "true"
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "2"
os.environ["GIT_PYTHON_REFRESH"] = "quiet"

import mlflow  # noqa: E402
import pandas  # noqa: E402
from mlflow.entities import Metric, Param, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402

RECORDED = Path(__file__).resolve().parents[3] / "shared/peers/mlflow"


class Server:
    """`kilter tracking` on a folder, on a port that it finds itself and keeps."""

    def __init__(self, kilter, folder):
        self.kilter, self.folder, self.listen = kilter, folder, "127.0.0.1:0"
        self.start()

    def start(self):
        command = [self.kilter, "--log", "warn", "tracking", "--data", self.folder, "--listen", self.listen]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
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
            self.end(signal.SIGKILL)

    def ask(self, path, method="GET", body=None):
        request = urllib.request.Request(self.url + path, method=method, data=body)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


def refused(code, work):
    try:
        work()
    except MlflowException as error:
        assert error.error_code == code, (error.error_code, code, str(error))
        return str(error)
    raise AssertionError(f"was taken, not refused with {code}")


def runs(client, server):
    mlflow.set_experiment("runs")
    with mlflow.start_run(run_name="parent", tags={"team": "a"}) as run:
        mlflow.log_param("lr", 0.1)
        mlflow.log_params({"depth": 3, "long": "x" * 500})
        for step in range(1, 6):
            mlflow.log_metrics({"loss": 1 / step, "acc": step / 10}, step=step)
        mlflow.log_metric("loss", 9, step=0)
        mlflow.log_metric("nan", float("nan"))
        mlflow.log_metric("big", float("inf"))
        mlflow.set_tags({"stage": "dev", "mlflow.note.content": "a *note*"})
        mlflow.delete_tag("stage")
        mlflow.log_input(mlflow.data.from_pandas(pandas.DataFrame({"a": [1, 2]}), name="train"), context="training")
        with mlflow.start_run(nested=True, run_name="child"):
            mlflow.log_metric("c", 1)
        for step in range(50):
            mlflow.log_metric("later", step, step=step, synchronous=False)
    mlflow.flush_async_logging()
    got = client.get_run(run.info.run_id)
    assert (got.info.status, got.info.run_name) == ("FINISHED", "parent"), got.info
    assert got.data.params == {"lr": "0.1", "depth": "3", "long": "x" * 500}
    assert got.data.metrics["loss"] == 0.2 and math.isnan(got.data.metrics["nan"]) and got.data.metrics["big"] > 1e308
    assert "stage" not in got.data.tags and got.data.tags["team"] == "a"
    assert got.inputs.dataset_inputs[0].dataset.name == "train"
    assert sorted(m.step for m in client.get_metric_history(run.info.run_id, "loss")) == [0, 1, 2, 3, 4, 5]
    assert len(client.get_metric_history(run.info.run_id, "later")) == 50
    children = mlflow.search_runs(filter_string=f"tags.mlflow.parentRunId = '{run.info.run_id}'")
    assert list(children["tags.mlflow.runName"]) == ["child"]
    words = refused("INVALID_PARAMETER_VALUE", lambda: client.log_param(run.info.run_id, "lr", 0.2))
    assert "value='0.1'" in words and "'0.2'" in words, words
    refused("RESOURCE_DOES_NOT_EXIST", lambda: client.get_run("0" * 32))
    with mlflow.start_run(run_id=run.info.run_id):
        mlflow.log_metric("again", 1)
    assert client.get_run(run.info.run_id).data.metrics["again"] == 1


def batches(client, server):
    run = client.create_run(client.create_experiment("batches"))
    id = run.info.run_id
    metrics = [Metric(f"m{at % 7}", at, 1000 + at, at) for at in range(1000)]
    client.log_batch(id, metrics=metrics)
    client.log_batch(id, params=[Param(f"p{at}", str(at)) for at in range(100)], tags=[RunTag(f"t{at}", str(at)) for at in range(100)])
    data = client.get_run(id).data
    assert data.metrics == {f"m{at % 7}": at for at in range(993, 1000)}, data.metrics
    assert len(data.params) == 100 and data.tags["t99"] == "99"
    assert [m.value for m in client.get_metric_history(id, "m3")] == list(range(3, 1000, 7))
    client.log_batch(id, metrics=metrics)
    assert len(client.get_metric_history(id, "m3")) == len(range(3, 1000, 7)), "a batch that was sent twice counts once"


def searches(client, server):
    experiment = client.create_experiment("searches", tags={"k": "v"})
    for at in range(7):
        run = client.create_run(experiment, run_name=f"r{at}", tags={"t": "x" if at % 2 else "y"}, start_time=1000 + at)
        client.log_metric(run.info.run_id, "acc", at / 10)
        client.log_param(run.info.run_id, "p", at)

    def names(filter, **more):
        return [run.info.run_name for run in client.search_runs([experiment], filter, **more)]

    assert names("") == ["r6", "r5", "r4", "r3", "r2", "r1", "r0"]
    assert names("metrics.acc > 0.35", order_by=["metrics.acc ASC"]) == ["r4", "r5", "r6"]
    assert names("tags.t = 'y' and metrics.acc < 0.3") == ["r2", "r0"]
    assert names("attributes.run_name LIKE 'r%' AND start_time >= 1005") == ["r6", "r5"]
    assert names("run_name ILIKE 'R3'") == ["r3"] and names("params.p = '2'") == ["r2"]
    first = client.search_runs([experiment], max_results=4, order_by=["start_time ASC"])
    rest = client.search_runs([experiment], max_results=4, order_by=["start_time ASC"], page_token=first.token)
    assert [run.info.run_name for run in [*first, *rest]] == [f"r{at}" for at in range(7)] and not rest.token
    refused("INVALID_PARAMETER_VALUE", lambda: names("metrics.acc > 0.5 OR params.p = '1'"))
    id = first[0].info.run_id
    client.delete_run(id)
    assert len(names("")) == 6 and client.get_run(id).info.lifecycle_stage == "deleted"
    client.restore_run(id)
    assert len(names("")) == 7
    found = client.search_experiments(filter_string="name LIKE 'sea%' and tags.k = 'v'")
    assert [e.experiment_id for e in found] == [experiment]
    client.rename_experiment(experiment, "searched")
    client.delete_experiment(experiment)
    refused("RESOURCE_ALREADY_EXISTS", lambda: client.create_experiment("searched"))
    client.restore_experiment(experiment)
    assert client.get_experiment_by_name("searched").lifecycle_stage == "active"


def artifacts(client, server):
    mlflow.set_experiment("artifacts")
    with tempfile.TemporaryDirectory() as folder, mlflow.start_run() as run:
        mlflow.log_text("hello", "notes/a b ü.txt")
        mlflow.log_dict({"a": [1, 2]}, "conf.json")
        os.makedirs(f"{folder}/tree/deep")
        large = os.urandom(5_000_000)
        Path(f"{folder}/tree/deep/large.bin").write_bytes(large)
        Path(f"{folder}/tree/empty").write_bytes(b"")
        mlflow.log_artifacts(f"{folder}/tree", "tree")
        id = run.info.run_id
        assert [(f.path, f.is_dir) for f in client.list_artifacts(id)] == [("conf.json", False), ("notes", True), ("tree", True)]
        assert [(f.path, f.file_size) for f in client.list_artifacts(id, "tree/deep")] == [("tree/deep/large.bin", 5_000_000)]
        root = Path(client.download_artifacts(id, "", folder))
        assert (root / "notes/a b ü.txt").read_text() == "hello" and (root / "tree/deep/large.bin").read_bytes() == large
        assert mlflow.artifacts.load_dict(f"runs:/{id}/conf.json") == {"a": [1, 2]}
    proxy = "/api/2.0/mlflow-artifacts/artifacts/"
    for climbing in ["..%2f..%2fx", "%252e%252e/x", "a/..%5c../x", "/etc/passwd", "a/%2e%2e/%2e%2e/x"]:
        for method in ["GET", "PUT", "DELETE"]:
            status, body = server.ask(proxy + climbing, method, b"x" if method == "PUT" else None)
            assert status == 400 and b"INVALID_PARAMETER_VALUE" in body, (climbing, method, status, body)


def autolog(client, server):
    from sklearn.linear_model import LogisticRegression

    mlflow.set_experiment("autolog")
    mlflow.sklearn.autolog(log_models=False, silent=True)
    with mlflow.start_run() as run:
        LogisticRegression(C=0.5).fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1])
    mlflow.sklearn.autolog(disable=True)
    data = client.get_run(run.info.run_id).data
    assert data.params["C"] == "0.5" and data.metrics["training_accuracy_score"] == 1.0, data


def models(client, server):
    from sklearn.linear_model import LogisticRegression

    mlflow.set_experiment("models")
    rows = pandas.DataFrame({"x": [0.0, 1.0, 2.0, 3.0]})
    fitted = LogisticRegression().fit(rows, [0, 0, 1, 1])
    with mlflow.start_run() as run:
        info = mlflow.sklearn.log_model(
            fitted, name="clf", pip_requirements=[], serialization_format="cloudpickle", registered_model_name="clf"
        )
        mlflow.log_metric("acc", 0.9, model_id=info.model_id)
    assert list(mlflow.sklearn.load_model(info.model_uri).predict(rows)) == [0, 0, 1, 1]
    logged = mlflow.get_logged_model(info.model_id)
    assert (str(logged.status), logged.source_run_id, logged.metrics[0].value) == ("READY", run.info.run_id, 0.9)
    assert [m.model_id for m in mlflow.search_logged_models(filter_string="metrics.acc > 0.5", output_format="list")] == [info.model_id]
    assert mlflow.search_logged_models(filter_string="metrics.acc > 0.95", output_format="list") == []
    assert client.get_run(run.info.run_id).outputs.model_outputs[0].model_id == info.model_id
    client.set_registered_model_alias("clf", "champion", 1)
    assert list(mlflow.sklearn.load_model("models:/clf@champion").predict(rows)) == [0, 0, 1, 1]
    second = mlflow.register_model(info.model_uri, "clf", tags={"q": "1"})
    assert str(second.version) == "2" and second.tags == {"q": "1"}
    client.set_registered_model_alias("clf", "champion", 2)
    assert str(client.get_model_version_by_alias("clf", "champion").version) == "2"
    client.transition_model_version_stage("clf", "1", "Production")
    assert [str(v.version) for v in client.get_latest_versions("clf", ["Production"])] == ["1"]
    assert [str(v.version) for v in client.search_model_versions(f"run_id = '{run.info.run_id}'", order_by=["version_number ASC"])] == ["1", "2"]
    client.copy_model_version("models:/clf/1", "copied")
    assert [m.name for m in client.search_registered_models("name LIKE 'c%'")] == ["clf", "copied"]
    client.delete_model_version("clf", "2")
    refused("INVALID_PARAMETER_VALUE", lambda: client.get_model_version_by_alias("clf", "champion"))
    client.rename_registered_model("clf", "renamed")
    assert list(mlflow.sklearn.load_model("models:/renamed/1").predict(rows)) == [0, 0, 1, 1]
    client.delete_registered_model("renamed")
    refused("RESOURCE_DOES_NOT_EXIST", lambda: client.get_registered_model("renamed"))


def unknown_routes(client, server):
    status, body = server.ask("/api/2.0/mlflow/webhooks")
    assert status == 404 and json.loads(body)["error_code"] == "ENDPOINT_NOT_FOUND", (status, body)
    assert server.ask("/health") == (200, b"OK") and server.ask("/version")[1].startswith(b"3.")
    assert server.ask("/ajax-api/2.0/mlflow/experiments/get?experiment_id=0")[0] == 200


def kills(client, server):
    experiment = client.create_experiment("kills")
    for round in range(3):
        id = client.create_run(experiment).info.run_id
        for step in range(40):
            client.log_metric(id, "m", step, step=step)
        server.end(signal.SIGKILL)
        server.start()
        assert [m.step for m in client.get_metric_history(id, "m")] == list(range(40)), "what was acknowledged is gone"
    assert len(client.search_runs([experiment])) == 3


# Steps of the recorded conversations that are about what Kilter does not answer yet.
NOT_YET = ("trace", "otlp", "assessment", "expectation", "link to run", "dataset ", "scorer ", "webhook ")


def recorded(kilter):
    if not (RECORDED / "golden.py").exists():
        print(f"SKIPPED: recorded conversations with MLflow's server are not at hand ({RECORDED})")
        return
    sys.path.insert(0, str(RECORDED))
    import golden

    with tempfile.TemporaryDirectory() as folder, Server(kilter, folder) as server:
        golden.script()
        got = golden.play(server.url)
    want = {step["name"]: step for step in json.loads((RECORDED / "golden.json").read_text())}
    judged = [step for step in got if not step["name"].startswith(NOT_YET)]
    wrong = [(step["name"], difference) for step in judged if (difference := golden.same(want[step["name"]], step, False))]
    assert not wrong, wrong
    print(f"ok    {len(judged)} of {len(got)} recorded requests are of what is answered, and are answered alike")


def main():
    kilter = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder, Server(kilter, folder) as server:
        mlflow.set_tracking_uri(server.url)
        client = mlflow.MlflowClient()
        for check in (runs, batches, searches, artifacts, autolog, models, unknown_routes, kills):
            check(client, server)
            print(f"ok    {check.__name__}", flush=True)
        server.end(signal.SIGTERM)
        assert server.process.returncode == 0, server.process.returncode
    recorded(kilter)


main()
