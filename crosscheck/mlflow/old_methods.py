"""Every public method of the 2.x line of MLflow's client against `kilter tracking`, but those that this client has for no server but Databricks'."""

import sys
import tempfile
from pathlib import Path

from server import Noted, Server, refused  # Before the client, which reads its settings at once.

import matplotlib
import mlflow
import numpy
import pandas
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType
from mlflow.entities.assessment import AssessmentSource, Feedback

matplotlib.use("agg")
from matplotlib import figure  # noqa: E402

NOT_OPEN = {
    "log_assessment": lambda client: client.log_assessment("tr-1", "good", AssessmentSource("HUMAN", "me"), feedback=Feedback(True)),
    "update_assessment": lambda client: client.update_assessment("tr-1", "a-1", feedback=Feedback(True)),
    "delete_assessment": lambda client: client.delete_assessment("tr-1", "a-1"),
}


def runs(client, _):
    id = client.create_experiment("methods", tags={"a": "1"})
    client.set_experiment_tag(id, "b", "2")
    client.rename_experiment(id, "renamed")
    client.delete_experiment(id)
    assert [e.experiment_id for e in client.search_experiments(ViewType.DELETED_ONLY)] == [id]
    client.restore_experiment(id)
    found = client.get_experiment(id)
    assert (found.name, found.tags) == ("renamed", {"a": "1", "b": "2"}) and client.get_experiment_by_name("renamed").experiment_id == id, found
    parent = client.create_run(id, start_time=5, run_name="parent").info.run_id
    child = client.create_run(id, tags={"mlflow.parentRunId": parent}).info.run_id
    assert client.get_parent_run(child).info.run_id == parent
    client.log_metric(child, "m", 1.5, timestamp=10, step=3)
    client.log_param(child, "p", 1)
    client.set_tag(child, "gone", "x")
    client.delete_tag(child, "gone")
    client.log_batch(child, [Metric("m", 2.5, 11, 4)], [Param("q", "1")], [RunTag("t", "2")])
    client.log_inputs(child, [DatasetInput(Dataset("data", "d1", "local", "here"), [InputTag("mlflow.data.context", "train")])])
    client.update_run(child, name="child")
    client.set_terminated(child, "KILLED", 12)
    run = client.get_run(child)
    assert (run.info.run_name, run.info.status, run.info.end_time, run.data.metrics, run.data.params) == ("child", "KILLED", 12, {"m": 2.5}, {"p": "1", "q": "1"})
    assert run.data.tags["t"] == "2" and "gone" not in run.data.tags and run.inputs.dataset_inputs[0].dataset.name == "data"
    assert [(m.value, m.timestamp, m.step) for m in client.get_metric_history(child, "m")] == [(1.5, 10, 3), (2.5, 11, 4)]
    client.delete_run(child)
    assert [r.info.run_id for r in client.search_runs([id])] == [parent]
    client.restore_run(child)
    assert [r.info.run_id for r in client.search_runs([id], "metrics.m > 2")] == [child]


def artifacts(client, folder):
    experiment = client.create_experiment("artifacts")
    run = client.create_run(experiment).info.run_id
    (folder / "tree").mkdir()
    (folder / "tree/a.txt").write_text("a")
    client.log_artifact(run, str(folder / "tree/a.txt"), "one")
    client.log_artifacts(run, str(folder / "tree"), "all")
    client.log_text(run, "words", "text.txt")
    client.log_dict(run, {"a": [1]}, "dict.json")
    drawn = figure.Figure()
    drawn.subplots().plot([1, 2])
    client.log_figure(run, drawn, "figure.png")
    client.log_image(run, numpy.zeros((4, 5, 3), dtype=numpy.uint8), "image.png")
    for at in (1, 2):
        client.log_table(run, pandas.DataFrame({"at": [at]}), "table.json")
    names = {"one", "all", "text.txt", "dict.json", "figure.png", "image.png", "table.json"}
    assert {file.path for file in client.list_artifacts(run)} == names
    root = Path(client.download_artifacts(run, "", str(folder)))
    assert (root / "all/a.txt").read_text() == "a" and (root / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert list(client.load_table(experiment, "table.json")["at"]) == [1, 2]


def registry(client, _):
    made = client.create_registered_model("m", {"a": "1"}, "words")
    assert (made.name, made.tags, made.description) == ("m", {"a": "1"}, "words")
    run = client.create_run("0").info
    source = run.artifact_uri + "/model"
    client.create_model_version("m", source, run.run_id, {"x": "1", "gone": "1"}, description="first")
    client.create_model_version("m", source, run.run_id)
    client.delete_model_version_tag("m", "1", "gone")
    client.set_model_version_tag("m", "1", "y", "2")
    client.update_model_version("m", "1", "mended")
    kept = client.get_model_version("m", "1")
    assert (kept.tags, kept.description, kept.source, kept.run_id) == ({"x": "1", "y": "2"}, "mended", source, run.run_id), kept
    assert client.get_model_version_download_uri("m", "1") == source
    assert client.get_model_version_stages("m", "1") == ["None", "Staging", "Production", "Archived"]
    client.transition_model_version_stage("m", "2", "Production")
    assert [v.version for v in client.get_latest_versions("m", ["Production"])] == ["2"]
    client.set_registered_model_alias("m", "best", "1")
    assert client.get_model_version_by_alias("m", "best").version == "1"
    client.delete_registered_model_alias("m", "best")
    client.set_registered_model_tag("m", "b", "2")
    client.delete_registered_model_tag("m", "a")
    client.update_registered_model("m", "other words")
    client.rename_registered_model("m", "n")
    kept = client.get_registered_model("n")
    assert (kept.tags, kept.description, kept.aliases) == ({"b": "2"}, "other words", {}), kept
    assert client.copy_model_version("models:/n/2", "copied").name == "copied"
    assert [m.name for m in client.search_registered_models("name = 'n'")] == ["n"]
    client.delete_model_version("n", "2")
    assert [v.version for v in client.search_model_versions("name = 'n'")] == ["1"]
    client.delete_registered_model("n")
    refused("RESOURCE_DOES_NOT_EXIST", lambda: client.get_registered_model("n"))


def prompts(client, _):
    first = client.register_prompt("greet", "Hello {{name}}", "first", {"x": "1"})
    client.register_prompt("greet", "Hi {{name}}")
    assert (int(first.version), first.variables) == (1, {"name"}), first
    client.set_prompt_alias("greet", "best", 1)
    assert client.load_prompt("prompts:/greet@best").template == "Hello {{name}}" and client.load_prompt("greet", 2).format(name="A") == "Hi A"
    assert client.parse_prompt_uri("prompts:/greet@best") == ("greet", "1")
    run = client.create_run("0").info.run_id
    client.log_prompt(run, "prompts:/greet/1")
    assert [(p.name, int(p.version)) for p in client.list_logged_prompts(run)] == [("greet", 1)]
    client.detach_prompt_from_run(run, "prompts:/greet/1")
    assert client.list_logged_prompts(run) == []
    client.delete_prompt_alias("greet", "best")
    client.delete_prompt("greet", 2)
    # The client drops the server's code from what it says of prompts.
    assert "RESOURCE_DOES_NOT_EXIST" in refused("INTERNAL_ERROR", lambda: client.load_prompt("greet", 2))


def traces(client, _):
    experiment = client.create_experiment("traces")
    root = client.start_trace("root", "AGENT", {"q": 1}, {"a": "1"}, {"t": "1"}, experiment)
    child = client.start_span("child", root.request_id, root.span_id, "TOOL", {"x": [1]})
    client.end_span(root.request_id, child.span_id, {"y": 2}, status="ERROR")
    client.end_trace(root.request_id, {"answer": 3})
    trace = client.get_trace(root.request_id)
    assert (trace.info.status, trace.info.tags["t"], trace.data.request, trace.data.response) == ("OK", "1", '{"q": 1}', '{"answer": 3}'), trace
    assert [(s.name, s.inputs, s.outputs) for s in trace.data.spans] == [("root", {"q": 1}, {"answer": 3}), ("child", {"x": [1]}, {"y": 2})]
    client.set_trace_tag(root.request_id, "k", "v")
    assert [t.info.request_id for t in client.search_traces([experiment], "tags.k = 'v'")] == [root.request_id]
    client.delete_trace_tag(root.request_id, "k")
    assert client.search_traces([experiment], "tags.k = 'v'") == []
    assert client.delete_traces(experiment, request_ids=[root.request_id]) == 1 and client.search_traces([experiment]) == []


def main():
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as data, Server(sys.argv[1], data) as server:
        mlflow.set_tracking_uri(server.url)
        client = Noted(mlflow.MlflowClient())
        assert client.tracking_uri == server.url
        for check in (runs, artifacts, registry, prompts, traces):
            check(client, Path(folder))
        assert client.uncalled() == set(NOT_OPEN), f"methods that are not called here: {sorted(client.uncalled())}"
        for name, call in NOT_OPEN.items():
            assert "only available for Databricks" in refused("INTERNAL_ERROR", lambda: call(client.client)), name
        print(f"ok    {len(client.called)} public methods of MlflowClient {mlflow.__version__} are called, {len(NOT_OPEN)} are for Databricks alone")


main()
