"""Models that a project trained are in the registry that MLflow's client sees, and `mlflow.pyfunc.load_model` scores what the project's own decisions scored.

The package `kilter` is not installed here: what scores is the code that lies with each model.
"""

import datetime
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"

from server import refused  # noqa: E402  Before the client, which reads its settings at once.

import mlflow  # noqa: E402
import numpy  # noqa: E402
import pandas  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402

# Sums and trees are the same to the bit; exp and log are those of another library.
TOLERANCE = 1e-12

DEFINITIONS = """
[project]
name = "shop"
[source.payments]
time = "at"
id = "payment_id"
max_future = "none"
columns = { payment_id = "string", card = "int64", at = "timestamp", amount = "float64", abroad = "bool" }
[source.outcomes]
time = "at"
max_future = "none"
columns = { payment_id = "string", at = "timestamp", fraud = "bool", loss = "float64" }
[features.card]
source = "payments"
entity = "card"
[features.card.columns]
count = "count(*) over 1h, 1d"
mean = "mean(amount) over 1h"
""" + "".join(
    f"""
[model.{name}]
on = "payments"
learner = "{learner}"
inputs = ["card.*", "payments.amount", "payments.abroad"]
label = {{ source = "outcomes", value = "{label}", on = "payment_id", within = "1h" }}
min_rows = 50
{more}
[decision.by_{name}]
model = "{name}"
policy = [{{ outcome = "accept" }}]
fallback = "accept"
"""
    for name, learner, label, more in [
        ("trees", "gbdt", "fraud", "params = { trees = 30, leaves = 7, min_leaf_rows = 5 }"),
        ("means", "gbdt", "loss", 'params = { trees = 30, leaves = 7, min_leaf_rows = 5, objective = "squared_error" }'),
        ("rates", "gbdt", "loss", 'params = { trees = 30, leaves = 7, min_leaf_rows = 5, objective = "poisson" }'),
        ("forest", "forest", "fraud", "params = { trees = 20 }"),
        ("line", "logistic", "fraud", ""),
        ("steps", "gbdt", "fraud", 'params = { trees = 10, leaves = 7, min_leaf_rows = 5 }\ncalibration = "isotonic"'),
        ("bent", "forest", "fraud", 'params = { trees = 20 }\ncalibration = "beta"'),
        ("shifted", "logistic", "fraud", 'calibration = { method = "platt", target_rate = 0.3 }'),
        ("card", "scorecard", "fraud", ""),
    ]
)
PLAIN = ["trees", "means", "rates", "forest", "line", "steps", "bent", "shifted"]


class Project:
    """`kilter up` on a project of its own."""

    def __init__(self, kilter, folder):
        self.kilter, self.folder = kilter, folder
        Path(folder, "kilter.toml").write_text(DEFINITIONS)
        command = [kilter, "--log", "warn", "-C", folder, "up", "--listen", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert "is up on http://" in line, line
        self.url = "http://" + line.split("http://")[1].split()[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.process.stdout.close()

    def ask(self, path, body=None, kind="application/json"):
        request = urllib.request.Request(self.url + path, data=body, headers={"content-type": kind})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error

    def run(self, *words):
        return subprocess.run([self.kilter, "-C", self.folder, *words], capture_output=True, text=True)

    def play(self, numbers):
        def at(minutes):
            return (datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(minutes=minutes)).isoformat()

        payments, outcomes = [], []
        for n in numbers:
            euros, dice = 10 + 900 * random.Random(n).random(), random.Random(1_000_000 + n).random()
            # The dearer the likelier, and never sure.
            bad = dice < 0.05 + euros / 1500 + 0.2 * (n % 3 == 0)
            amount = None if n % 31 == 0 else round(euros + n / 7, 3)
            payments.append({"payment_id": f"p{n}", "card": n % 5, "at": at(n * 3), "amount": amount, "abroad": n % 3 == 0})
            outcomes.append({"payment_id": f"p{n}", "at": at(n * 3 + 30), "fraud": bad, "loss": float((n * 37 % 11) + 20 * bad)})
        for source, rows in [("payments", payments), ("outcomes", outcomes)]:
            self.ask(f"/v1/events/{source}", "\n".join(map(json.dumps, rows)).encode(), "application/x-ndjson")


def until(what, wait=120):
    """What clients see may be a second old."""
    end = time.monotonic() + wait
    while True:
        try:
            if (found := what()) is not None:
                return found
        except mlflow.exceptions.MlflowException:
            pass
        assert time.monotonic() < end, what
        time.sleep(0.1)


def champion(client, name, version):
    def look():
        found = client.get_model_version_by_alias(name, "champion")
        return found if str(found.version) == str(version) else None

    return until(look)


def scored(project, name, version):
    """Rows and scores of the newest decisions of a model."""
    listed = project.ask(f"/v1/decisions?decision=by_{name}&limit=100")["decisions"]
    found = [project.ask(f"/v1/decisions/{one['decision_id']}") for one in listed]
    found = [one for one in found if one["model_version"] == version]
    assert len(found) >= 90, (name, len(found))
    return pandas.DataFrame([one["inputs"] for one in found]), numpy.array([one["score"] for one in found])


def check_scores(project, name, version, uri):
    rows, scores = scored(project, name, version)
    model = mlflow.pyfunc.load_model(uri)
    names = model.metadata.get_input_schema().input_names()
    types = {column.name: column.type.name for column in model.metadata.get_input_schema().inputs}
    assert set(names) == set(rows.columns), (names, rows.columns)
    # As a frame that has missing values holds its numbers.
    frame = rows.astype({column: "int64" if kind == "long" else "bool" if kind == "boolean" else "float64" for column, kind in types.items()})
    assert types["card.count_1d"] == "long" and types["payments.abroad"] == "boolean" and types["payments.amount"] == "double", types
    assert frame["payments.amount"].isna().any()
    # Columns in any order, and others beside them.
    got = model.predict(frame[names[::-1]].assign(other="x"))
    worst = numpy.max(numpy.abs(got - scores) / numpy.maximum(1e-300, numpy.abs(scores)))
    assert got.shape == scores.shape and worst <= TOLERANCE, (name, worst, got[:5], scores[:5])
    assert len(set(scores)) > 3, (name, "hardly any two scores differ", set(scores))
    assert model.predict(model.input_example).shape == (1,)
    return worst


def main():
    kilter = sys.argv[1]
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, Project(kilter, folder) as project:
        mlflow.set_tracking_uri(project.url)
        mlflow.set_registry_uri(project.url)
        client = mlflow.MlflowClient()
        project.play(range(1500))
        for name in [*PLAIN, "card"]:
            project.ask(f"/v1/models/{name}/train", b'{"promote": "always"}')
        project.play(range(1500, 1600))
        worst = 0.0
        for name in PLAIN:
            version = champion(client, name, 1)
            assert client.get_run(version.run_id).info.status == "FINISHED"
            worst = max(worst, check_scores(project, name, 1, f"models:/{name}@champion"))
        assert {model.name for model in client.search_registered_models()} == {*PLAIN, "card"}
        print(f"ok    models of a project, loaded by the client: {len(PLAIN)} kinds score as the decisions did, within {worst:.1e}", flush=True)

        # What needs the package says so, and loads where one is.
        champion(client, "card", 1)
        try:
            mlflow.pyfunc.load_model("models:/card@champion")
            raise AssertionError("a scorecard was loaded without the package")
        except ImportError as error:
            assert "pip install kilter" in str(error), error
        print("ok    a scorecard asks for the package kilter", flush=True)

        # Elsewhere than on this server: all that is needed is in the folder.
        copied = mlflow.artifacts.download_artifacts("models:/trees/1", dst_path=f"{folder}/copied")
        assert {"MLmodel", "scores.json.gz", "model.kltm", "requirements.txt"} <= set(os.listdir(copied)), os.listdir(copied)
        check_scores(project, "trees", 1, copied)

        # Promotions and rollbacks move the alias; the client's own attempts do not.
        project.ask("/v1/models/trees/train", b'{"promote": "never"}')
        until(lambda: client.get_model_version_by_alias("trees", "challenger").version == "2" or None)
        champion(client, "trees", 1)
        said = refused("PERMISSION_DENIED", lambda: client.set_registered_model_alias("trees", "champion", "2"))
        assert "kilter promote trees@2" in said, said
        done = project.run("promote", "trees@2")
        assert done.returncode == 0, done.stderr
        champion(client, "trees", 2)
        assert project.run("rollback", "trees").returncode == 0
        champion(client, "trees", 1)
        client.set_registered_model_alias("trees", "best", "2")
        client.set_model_version_tag("trees", "1", "reviewed", "yes")
        assert client.get_model_version_by_alias("trees", "best").version == "2"
        refused("PERMISSION_DENIED", lambda: client.delete_registered_model("trees"))
        print("ok    promotions move the alias, and a client's attempt to is told how", flush=True)

        # A model that a client registered goes into service, in the format of its own program.
        logged = Path(folder, "logged")
        logged.mkdir()
        assert project.run("models", "export", "trees@2", str(logged / "model.txt")).returncode == 0
        (logged / "model.txt").rename(logged / "model.lgb")
        flavor = {"data": "model.lgb", "model_class": "lightgbm.basic.Booster", "lgb_version": "4.6.0", "code": None}
        (logged / "MLmodel").write_text(json.dumps({"flavors": {"lightgbm": flavor}}))
        with mlflow.start_run(run_name="elsewhere") as run:
            mlflow.log_artifacts(str(logged), "model")
            sklearn_model = LogisticRegression().fit(pandas.DataFrame({"x": [0.0, 1.0]}), [0, 1])
            info = mlflow.sklearn.log_model(sklearn_model, "clf", pip_requirements=[], serialization_format="cloudpickle")
        version = mlflow.register_model(f"runs:/{run.info.run_id}/model", "candidate of ours")
        client.set_registered_model_alias("candidate of ours", "ready", version.version)
        done = project.run("models", "import", "trees", "models:/candidate of ours@ready", "--promote")
        assert done.returncode == 0 and "models:/candidate of ours@ready (model.lgb)" in done.stdout, (done.stdout, done.stderr)
        project.play(range(1600, 1700))
        champion(client, "trees", 3)
        worst = check_scores(project, "trees", 3, "models:/trees@champion")
        # Imported trees are added up at the width of their own programs.
        for at, ending in enumerate(["json", "onnx"]):
            file = str(Path(folder, f"trees.{ending}"))
            assert project.run("models", "export", "trees@1", file).returncode == 0
            done = project.run("models", "import", "trees", file, "--promote")
            assert done.returncode == 0, done.stderr
            project.play(range(1700 + 100 * at, 1800 + 100 * at))
            number = project.ask("/v1/models/trees")["in_service"]
            champion(client, "trees", number)
            worst = max(worst, check_scores(project, "trees", number, "models:/trees@champion"))
        for uri in (f"models:/candidate of ours/{version.version}", f"runs:/{run.info.run_id}/model", "models:/trees/2"):
            done = project.run("models", "import", "trees", uri)
            assert done.returncode == 0, (uri, done.stderr)
        for uri, word in [
            (info.model_uri, "skl2onnx.to_onnx"),
            ("models:/candidate of ours@gone", "alias gone not found"),
            ("models:/candidate of ours/7", "not found"),
            ("models:/nothing/1", "not found"),
            ("models:/candidate of ours/latest", "no version number"),
            (f"runs:/{run.info.run_id}/nothing", "MLmodel"),
        ]:
            done = project.run("models", "import", "trees", uri)
            assert done.returncode == 1 and word in done.stderr, (uri, done.returncode, done.stderr)
        print(f"ok    a registered LightGBM model is served, and what was imported is loaded, within {worst:.1e}; what cannot be is told the way", flush=True)


main()
