"""The 2.x line of MLflow's client against `kilter tracking`, by code as its users have it: autologging, the registry with its stages, traces in two steps."""

import json
import sys
import tempfile
import threading
from pathlib import Path

from server import Server, refused  # Before the client, which reads its settings at once.

import lightgbm
import mlflow
import numpy
import pandas
from sklearn.linear_model import LogisticRegression


def rows():
    random = numpy.random.default_rng(7)
    inputs = pandas.DataFrame(random.normal(size=(300, 3)), columns=list("abc"))
    return inputs, (inputs.a + inputs.b > 0).astype(int)


def learning(client):
    mlflow.set_experiment("old")
    inputs, label = rows()
    mlflow.sklearn.autolog()
    with mlflow.start_run() as run:
        fitted = LogisticRegression().fit(inputs, label)
    mlflow.sklearn.autolog(disable=True)
    data = client.get_run(run.info.run_id).data
    assert data.params["C"] == "1.0" and data.metrics["training_accuracy_score"] > 0.9, data
    loaded = mlflow.sklearn.load_model(f"runs:/{run.info.run_id}/model")
    assert (loaded.predict(inputs) == fitted.predict(inputs)).all()
    noted = json.loads(client.get_run(run.info.run_id).data.tags["mlflow.log-model.history"])
    assert [(model["artifact_path"], sorted(model["flavors"])) for model in noted] == [("model", ["python_function", "sklearn"])], noted
    mlflow.lightgbm.autolog()
    with mlflow.start_run() as boosted:
        data = lightgbm.Dataset(inputs, label)
        lightgbm.train({"objective": "binary", "verbose": -1}, data, num_boost_round=5, valid_sets=[data])
    mlflow.lightgbm.autolog(disable=True)
    assert client.get_run(boosted.info.run_id).data.params["objective"] == "binary"
    assert len(client.get_metric_history(boosted.info.run_id, "training-binary_logloss")) == 5
    registry(client, run.info.run_id, inputs, fitted)
    evaluation(client, run.info.run_id, inputs.assign(label=label))


def registry(client, run_id, inputs, fitted):
    made = mlflow.register_model(f"runs:/{run_id}/model", "churn")
    assert (int(made.version), made.current_stage) == (1, "None")
    client.transition_model_version_stage("churn", made.version, "Production")
    assert [v.version for v in client.get_latest_versions("churn", ["Production"])] == [made.version]
    client.set_registered_model_alias("churn", "champion", made.version)
    assert client.get_model_version_by_alias("churn", "champion").version == made.version
    for name in ("models:/churn@champion", "models:/churn/Production", "models:/churn/1"):
        assert (mlflow.pyfunc.load_model(name).predict(inputs) == fitted.predict(inputs)).all(), name
    client.update_model_version("churn", made.version, description="of the first run")
    client.set_model_version_tag("churn", made.version, "checked", "yes")
    found = client.search_model_versions(f"run_id = '{run_id}'")
    assert [(v.name, v.description, v.tags) for v in found] == [("churn", "of the first run", {"checked": "yes"})]
    assert [model.name for model in client.search_registered_models("name LIKE 'chu%'")] == ["churn"]
    client.delete_registered_model_alias("churn", "champion")
    refused("INVALID_PARAMETER_VALUE", lambda: client.get_model_version_by_alias("churn", "champion"))


def evaluation(client, run_id, data):
    with mlflow.start_run() as run:
        settings = {"log_model_explainability": False}
        result = mlflow.evaluate(f"runs:/{run_id}/model", data, targets="label", model_type="classifier", evaluator_config=settings)
    assert result.metrics["accuracy_score"] > 0.9
    assert client.get_run(run.info.run_id).data.metrics["accuracy_score"] == result.metrics["accuracy_score"]
    assert any(file.path.endswith(".png") for file in client.list_artifacts(run.info.run_id)), "plots are logged as well"


def parallel(client):
    experiment = client.create_experiment("parallel")

    def one():
        run = client.create_run(experiment)
        for step in range(20):
            client.log_metric(run.info.run_id, "m", step, step=step)
        client.set_terminated(run.info.run_id)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = mlflow.search_runs([experiment], "metrics.m > 18", order_by=["metrics.m DESC"])
    assert list(found.status) == ["FINISHED"] * 8, found


def artifacts(client):
    with mlflow.start_run() as run:
        mlflow.log_text("hello", "notes/a.txt")
        mlflow.log_dict({"a": 1}, "d.json")
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"notes", "d.json"}
    assert Path(client.download_artifacts(run.info.run_id, "notes/a.txt")).read_text() == "hello"


def traces(client):
    mlflow.set_experiment("traced")

    @mlflow.trace
    def answer(question):
        with mlflow.start_span("inner", span_type="LLM") as span:
            span.set_inputs({"question": question})
            span.set_outputs({"answer": 1})
        return "x"

    answer("why")
    experiment = client.get_experiment_by_name("traced").experiment_id
    [found] = client.search_traces([experiment], filter_string="status = 'OK'")
    assert [span.name for span in found.data.spans] == ["answer", "inner"], found
    assert found.data.spans[1].inputs == {"question": "why"} and found.info.execution_time_ms >= 0
    client.set_trace_tag(found.info.request_id, "k", "v")
    again = client.get_trace(found.info.request_id)
    assert (again.info.status, again.info.tags["k"], again.data.response) == ("OK", "v", '"x"'), again
    client.delete_trace_tag(found.info.request_id, "k")
    begun = client.start_trace("by hand", experiment_id=experiment, tags={"t": "1"})
    client.end_trace(begun.request_id, status="ERROR")
    assert {trace.info.status for trace in client.search_traces([experiment])} == {"OK", "ERROR"}
    assert client.delete_traces(experiment, request_ids=[begun.request_id]) == 1
    refused("RESOURCE_DOES_NOT_EXIST", lambda: client._tracking_client.get_trace_info(begun.request_id))


def main():
    with tempfile.TemporaryDirectory() as folder, Server(sys.argv[1], folder) as server:
        mlflow.set_tracking_uri(server.url)
        client = mlflow.MlflowClient()
        for check in (learning, parallel, artifacts, traces):
            check(client)
            print(f"ok    {check.__name__}, by {mlflow.__version__}", flush=True)


main()
