"""Every public method of MLflow's client against `kilter tracking`: each is called and what it does is asserted, or it is named here as not there.

A method of the client that is neither called nor named fails the check, and so does a named one that answers after all.
"""

import io
import re
import sys
import tempfile
import urllib.parse
from pathlib import Path

from server import Noted, Server, refused  # Before the client, which reads its settings at once.

import matplotlib
import mlflow
import numpy
import pandas
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, LoggedModelOutput, Metric, Param, RunTag, ViewType

matplotlib.use("agg")
from matplotlib import figure  # noqa: E402

REFERENCE = Path(__file__).resolve().parents[2] / "docs/reference/mlflow.md"
# What the reference lists as not there: its words, the methods' names, and one of them called. The server has no such route.
NOT_THERE = {
    "workspaces": ("_workspaces?$", lambda client: client.get_workspace("team")),
    "MCP servers": ("_mcp_", lambda client: client.get_mcp_server("a/b")),
}
# What the client itself has for no server but Databricks'.
NOT_OPEN = {"unlink_traces_from_run": lambda client: client.unlink_traces_from_run(["tr-1"], "r")}


def experiments(client, _):
    id = client.create_experiment("methods", tags={"a": "1", "b": "2"})
    client.set_experiment_tag(id, "a", "3")
    client.delete_experiment_tag(id, "b")
    client.rename_experiment(id, "renamed")
    found = client.get_experiment(id)
    assert (found.name, found.tags, found.lifecycle_stage) == ("renamed", {"a": "3"}, "active"), found
    assert client.get_experiment_by_name("renamed").experiment_id == id and client.get_experiment_by_name("methods") is None
    client.delete_experiment(id)
    assert id not in [e.experiment_id for e in client.search_experiments()]
    assert [e.experiment_id for e in client.search_experiments(ViewType.DELETED_ONLY)] == [id]
    refused("INVALID_PARAMETER_VALUE", lambda: client.create_run(id))
    client.restore_experiment(id)
    assert [e.experiment_id for e in client.search_experiments(filter_string="tags.a = '3'")] == [id]


def runs(client, _):
    experiment = client.get_experiment_by_name("renamed").experiment_id
    parent = client.create_run(experiment, start_time=5, run_name="parent").info.run_id
    child = client.create_run(experiment, tags={"mlflow.parentRunId": parent, "t": "1"}).info.run_id
    assert client.get_parent_run(child).info.run_id == parent and client.get_parent_run(parent) is None
    client.log_metric(child, "m", 1.5, timestamp=10, step=3)
    client.log_param(child, "p", {"a": [1]})
    client.set_tag(child, "gone", "x")
    client.delete_tag(child, "gone")
    client.log_batch(child, [Metric("m", 2.5, 11, 4)], [Param("q", "1")], [RunTag("b", "2")])
    source = Dataset("data", "d1", "local", "here", schema="s", profile="p")
    model = client.create_logged_model(experiment).model_id
    client.log_inputs(child, [DatasetInput(source, [InputTag("mlflow.data.context", "train")])], [LoggedModelInput(model)])
    client.log_outputs(child, [LoggedModelOutput(model, 2)])
    client.update_run(child, status="FAILED", name="child")
    run = client.get_run(child)
    assert (run.info.status, run.info.run_name, run.data.metrics, run.data.params) == ("FAILED", "child", {"m": 2.5}, {"p": "{'a': [1]}", "q": "1"})
    assert {name: run.data.tags.get(name) for name in ("t", "b", "gone")} == {"t": "1", "b": "2", "gone": None}
    assert [(i.dataset.name, i.dataset.digest, i.tags[0].value) for i in run.inputs.dataset_inputs] == [("data", "d1", "train")]
    assert [m.model_id for m in run.inputs.model_inputs] == [model] and [(m.model_id, m.step) for m in run.outputs.model_outputs] == [(model, 2)]
    assert [(m.value, m.timestamp, m.step) for m in client.get_metric_history(child, "m")] == [(1.5, 10, 3), (2.5, 11, 4)]
    client.set_terminated(parent, end_time=9)
    run = client.get_run(parent).info
    assert (run.status, run.start_time, run.end_time) == ("FINISHED", 5, 9)
    client.delete_run(child)
    assert [r.info.run_id for r in client.search_runs([experiment])] == [parent]
    refused("INVALID_PARAMETER_VALUE", lambda: client.log_metric(child, "m", 1))
    client.restore_run(child)
    assert [r.info.run_id for r in client.search_runs([experiment], "metrics.m > 2 and tags.b = '2'")] == [child]


def artifacts(client, folder):
    experiment = client.get_experiment_by_name("renamed").experiment_id
    run = client.create_run(experiment).info.run_id
    (folder / "tree").mkdir()
    (folder / "tree/a.txt").write_text("a")
    client.log_artifact(run, str(folder / "tree/a.txt"), "one")
    client.log_artifacts(run, str(folder / "tree"), "all")
    client.log_text(run, "words", "text.txt")
    client.log_dict(run, {"a": [1]}, "dict.yaml")
    client.log_stream(run, io.BytesIO(b"x" * 100_000), "stream.bin")
    drawn = figure.Figure()
    drawn.subplots().plot([1, 2])
    client.log_figure(run, drawn, "figure.png")
    pixels = numpy.zeros((4, 5, 3), dtype=numpy.uint8)
    client.log_image(run, pixels, "image.png")
    client.log_image(run, pixels, key="seen", step=7, timestamp=3, synchronous=True)
    for at in (1, 2):
        client.log_table(run, pandas.DataFrame({"at": [at]}), "table.json")
    names = {"one", "all", "text.txt", "dict.yaml", "stream.bin", "figure.png", "image.png", "images", "table.json"}
    assert {file.path for file in client.list_artifacts(run)} == names
    assert [(file.path, file.file_size) for file in client.list_artifacts(run, "one")] == [("one/a.txt", 1)]
    images = [file.path for file in client.list_artifacts(run, "images")]
    assert len(images) == 2 and all(re.search("seen.*step.*7.*timestamp.*3", urllib.parse.unquote(path)) for path in images), images
    root = Path(client.download_artifacts(run, "", str(folder)))
    assert (root / "stream.bin").read_bytes() == b"x" * 100_000 and (root / "text.txt").read_text() == "words"
    assert (root / "all/a.txt").read_text() == "a" and (root / "dict.yaml").read_text() == "a:\n- 1\n"
    for name in ("figure.png", "image.png"):
        assert (root / name).read_bytes().startswith(b"\x89PNG"), name
    table = client.load_table(experiment, "table.json", extra_columns=["run_id"])
    assert list(table["at"]) == [1, 2] and list(table["run_id"]) == [run, run], table


def logged_models(client, folder):
    experiment = client.get_experiment_by_name("renamed").experiment_id
    run = client.create_run(experiment).info.run_id
    made = client.create_logged_model(experiment, "net", run, {"t": "1"}, {"p": "2"}, "tree")
    id = made.model_id
    assert (made.status, made.params, made.tags, made.model_type) == ("PENDING", {"p": "2"}, {"t": "1"}, "tree"), made
    client.log_model_params(id, {"q": "3"})
    client.set_logged_model_tags(id, {"u": 4, "gone": ""})
    client.delete_logged_model_tag(id, "gone")
    client.log_model_artifact(id, str(folder / "tree/a.txt"))
    client.log_model_artifacts(id, str(folder / "tree"), "deep")
    client.log_metric(run, "acc", 0.5, model_id=id, dataset_name="data", dataset_digest="d1")
    assert client.finalize_logged_model(id, "READY").status == "READY"
    kept = client.get_logged_model(id)
    assert (kept.name, kept.params, kept.tags, kept.source_run_id) == ("net", {"p": "2", "q": "3"}, {"t": "1", "u": "4"}, run), kept
    assert [(m.key, m.value, m.dataset_name) for m in kept.metrics] == [("acc", 0.5, "data")]
    assert [file.path for file in client.list_logged_model_artifacts(id)] == ["a.txt", "deep"]
    assert [file.path for file in client.list_logged_model_artifacts(id, "deep")] == ["deep/a.txt"]
    order = [{"field_name": "metrics.acc", "ascending": False}]
    where = [{"dataset_name": "data", "dataset_digest": "d1"}]
    assert [m.model_id for m in client.search_logged_models([experiment], "metrics.acc > 0.4", where, 5, order)] == [id]
    client.delete_logged_model(id)
    assert client.search_logged_models([experiment], "name = 'net'") == []
    refused("RESOURCE_DOES_NOT_EXIST", lambda: client.get_logged_model(id))


def registry(client, _):
    made = client.create_registered_model("m", {"a": 1}, "words")
    assert (made.name, made.tags, made.description, made.latest_versions) == ("m", {"a": "1"}, "words", [])
    refused("RESOURCE_ALREADY_EXISTS", lambda: client.create_registered_model("m"))
    run = client.create_run("0").info
    source = run.artifact_uri + "/model"
    first = client.create_model_version("m", source, run.run_id, {"x": 1, "gone": 1}, "http://link", "first")
    client.create_model_version("m", source, run.run_id)
    assert (str(first.version), first.tags, first.run_link, first.description) == ("1", {"x": "1", "gone": "1"}, "http://link", "first")
    client.delete_model_version_tag("m", "1", "gone")
    client.set_model_version_tag("m", "1", "y", 2)
    client.update_model_version("m", "1", "mended")
    kept = client.get_model_version("m", "1")
    assert (kept.tags, kept.description, kept.source, kept.run_id, kept.status) == ({"x": "1", "y": "2"}, "mended", source, run.run_id, "READY"), kept
    assert client.get_model_version_download_uri("m", "1") == source
    assert client.get_model_version_stages("m", "1") == ["None", "Staging", "Production", "Archived"]
    assert client.transition_model_version_stage("m", "1", "Production").current_stage == "Production"
    client.transition_model_version_stage("m", "2", "Production", archive_existing_versions=True)
    assert client.get_model_version("m", "1").current_stage == "Archived"
    assert [str(v.version) for v in client.get_latest_versions("m", ["Production"])] == ["2"]
    client.set_registered_model_alias("m", "best", "1")
    assert str(client.get_model_version_by_alias("m", "best").version) == "1"
    client.delete_registered_model_alias("m", "best")
    refused("INVALID_PARAMETER_VALUE", lambda: client.get_model_version_by_alias("m", "best"))
    client.set_registered_model_tag("m", "b", "2")
    client.delete_registered_model_tag("m", "a")
    client.update_registered_model("m", "other words")
    kept = client.get_registered_model("m")
    assert (kept.tags, kept.description, [str(v.version) for v in kept.latest_versions]) == ({"b": "2"}, "other words", ["1", "2"]), kept
    client.rename_registered_model("m", "n")
    assert [m.name for m in client.search_registered_models("tags.b = '2'")] == ["n"]
    copied = client.copy_model_version("models:/n/2", "copied")
    assert (copied.name, str(copied.version), copied.source) == ("copied", "1", "models:/n/2"), copied
    client.delete_model_version("n", "2")
    assert [str(v.version) for v in client.search_model_versions("name = 'n'")] == ["1"]
    client.delete_registered_model("n")
    refused("RESOURCE_DOES_NOT_EXIST", lambda: client.get_registered_model("n"))
    assert client.search_model_versions("name = 'n'") == []


def prompts(client, _):
    assert client.create_prompt("greet", "words", {"lang": "en"}).name == "greet"
    first = client.create_prompt_version("greet", "Hello {{name}}", "first", {"x": "1"})
    assert (first.version, first.template, first.variables) == (1, "Hello {{name}}", {"name"}), first
    second = client.register_prompt("greet", [{"role": "user", "content": "Hi {{name}}"}], "second", response_format={"type": "object"})
    assert (second.version, second.format(name="A")) == (2, [{"role": "user", "content": "Hi A"}]), second
    client.set_prompt_tag("greet", "team", "a")
    client.delete_prompt_tag("greet", "lang")
    kept = client.get_prompt("greet")
    assert (kept.description, {name: kept.tags.get(name) for name in ("team", "lang")}) == ("words", {"team": "a", "lang": None}), kept
    assert client.get_prompt("none") is None
    client.set_prompt_version_tag("greet", 1, "y", "2")
    client.delete_prompt_version_tag("greet", 1, "x")
    kept = client.get_prompt_version("greet", 1)
    assert (kept.template, kept.tags, kept.commit_message, kept.aliases) == ("Hello {{name}}", {"y": "2"}, "first", []), kept
    client.set_prompt_alias("greet", "best", 1)
    assert client.get_prompt_version_by_alias("greet", "best").version == 1
    assert client.load_prompt("prompts:/greet@best", cache_ttl_seconds=0).template == "Hello {{name}}"
    assert client.load_prompt("greet", 2).response_format == {"type": "object"} and client.load_prompt("greet", 9, allow_missing=True) is None
    assert client.parse_prompt_uri("prompts:/greet@best") == ("greet", "1") and client.parse_prompt_uri("prompts:/greet/2") == ("greet", "2")
    assert [p.name for p in client.search_prompts("name LIKE 'gr%'")] == ["greet"] and client.search_prompts("name = 'none'") == []
    assert [v.version for v in client.search_prompt_versions("greet")] == [2, 1]
    assert "greet" not in [m.name for m in client.search_registered_models()], "a prompt is no model"

    experiment = client.create_experiment("prompts")
    run = client.create_run(experiment).info.run_id
    model = client.create_logged_model(experiment).model_id
    client.link_prompt_version_to_run(run, "prompts:/greet/1")
    client.link_prompt_version_to_model("greet", "2", model)
    linked = [client.get_run(run).data.tags, client.get_logged_model(model).tags]
    assert ['"version": "1"' in linked[0]["mlflow.linkedPrompts"], '"version": "2"' in linked[1]["mlflow.linkedPrompts"]] == [True, True], linked
    client.set_prompt_version_tag("greet", 1, "mlflow.prompt.associatedRunIds", run)
    assert [(p.name, p.version) for p in client.list_logged_prompts(run)] == [("greet", 1)]
    client.detach_prompt_from_run(run, "prompts:/greet/1")
    assert client.list_logged_prompts(run) == []
    span = client.start_trace("asked", experiment_id=experiment)
    client.end_trace(span.trace_id)
    mlflow.flush_trace_async_logging()
    client.link_prompt_versions_to_trace([first, second], span.trace_id)
    assert [t.info.trace_id for t in client.search_traces(locations=[experiment], filter_string="prompt = 'greet/2'")] == [span.trace_id]

    client.delete_prompt_alias("greet", "best")
    refused("INVALID_PARAMETER_VALUE", lambda: client.get_prompt_version_by_alias("greet", "best"))
    client.delete_prompt_version("greet", "2")
    refused("RESOURCE_DOES_NOT_EXIST", lambda: client.get_prompt_version("greet", 2))
    client.delete_prompt("greet")
    assert client.get_prompt("greet") is None


def traces(client, _):
    experiment = client.create_experiment("traces")
    run = client.create_run(experiment).info.run_id
    root = client.start_trace("root", "AGENT", {"q": 1}, {"a": "1"}, {"t": "1"}, experiment)
    child = client.start_span("child", root.trace_id, root.span_id, "TOOL", {"x": [1]})
    client.end_span(root.trace_id, child.span_id, {"y": 2}, {"b": 1}, "ERROR")
    client.end_trace(root.trace_id, {"answer": 3}, status="OK")
    other = client.start_trace("other", experiment_id=experiment)
    client.end_trace(other.trace_id, status="ERROR")
    mlflow.flush_trace_async_logging()
    trace = client.get_trace(root.trace_id)
    assert (trace.info.state, trace.info.tags["t"], [s.name for s in trace.data.spans]) == ("OK", "1", ["root", "child"]), trace
    spans = {span.name: span for span in trace.data.spans}
    assert (spans["root"].inputs, spans["root"].outputs, spans["root"].attributes["a"]) == ({"q": 1}, {"answer": 3}, "1"), trace
    assert (spans["child"].inputs, spans["child"].outputs, spans["child"].status.status_code, spans["child"].parent_id) == (
        *({"x": [1]}, {"y": 2}, "ERROR"),
        root.span_id,
    )
    client.set_trace_tag(root.trace_id, "k", "v")
    assert [t.info.trace_id for t in client.search_traces([experiment], "tags.k = 'v'")] == [root.trace_id]
    client.delete_trace_tag(root.trace_id, "k")
    assert client.search_traces([experiment], "tags.k = 'v'") == []
    client.link_traces_to_run([root.trace_id], run)
    assert [t.info.trace_id for t in client.search_traces(locations=[experiment], run_id=run)] == [root.trace_id]
    assert [t.info.trace_id for t in client.search_traces([experiment], "attributes.status = 'ERROR'")] == [other.trace_id]
    assert client.delete_traces(experiment, trace_ids=[other.trace_id]) == 1
    assert [t.info.trace_id for t in client.search_traces([experiment])] == [root.trace_id]


def datasets(client, _):
    one, two = (client.create_experiment(name) for name in ("one", "two"))
    made = client.create_dataset("asked", one, {"t": "1", "gone": "1"})
    id = made.dataset_id
    client.set_dataset_tags(id, {"u": "2"})
    client.delete_dataset_tag(id, "gone")
    assert sorted(client.add_dataset_to_experiments(id, [two]).experiment_ids) == sorted([one, two])
    assert client.remove_dataset_from_experiments(id, [one]).experiment_ids == [two]
    kept = client.get_dataset(id)
    assert (kept.name, {name: kept.tags.get(name) for name in ("t", "u", "gone")}) == ("asked", {"t": "1", "u": "2", "gone": None}), kept
    assert [d.dataset_id for d in client.search_datasets([two], "tags.u = '2'")] == [id] and client.search_datasets([one]) == []
    client.delete_dataset(id)
    refused("RESOURCE_DOES_NOT_EXIST", lambda: client.get_dataset(id))


def every_method(client):
    public = {name for name in dir(mlflow.MlflowClient) if not name.startswith("_")}
    said = REFERENCE.read_text().split("## Not there yet")[1].split("\n## ")[0]
    named = set(NOT_OPEN)
    for words, (names, call) in NOT_THERE.items():
        assert words in said, f"{REFERENCE.name} no longer lists {words} as not there"
        group = {name for name in public if re.search(names, name)}
        assert group and not group & client.called, (words, group & client.called)
        refused("ENDPOINT_NOT_FOUND", lambda: call(client.client))
        named |= group
    for name, call in NOT_OPEN.items():
        try:
            call(client.client)
        except NotImplementedError:
            continue
        raise AssertionError(f"{name} is open after all")
    assert not client.called - public and not named & client.called, (client.called - public, named & client.called)
    unknown = client.uncalled() - named
    assert not unknown, f"methods that are neither called here nor named as not there: {sorted(unknown)}"
    print(f"ok    of {len(public)} public methods of MlflowClient {mlflow.__version__} {len(client.called)} are called, {len(public - client.called)} are named as not there")


# Webhooks may go to this machine.
HOOKS = ["--allow-http-webhooks", "--allow-webhooks-to", "127.0.0.1"]


def webhooks(client, _):
    made = client.create_webhook("told", "http://127.0.0.1:9/hook", ["registered_model.created"], "d", "a secret")
    id = made.webhook_id
    assert (made.name, made.url, made.description, str(made.status)) == ("told", "http://127.0.0.1:9/hook", "d", "ACTIVE"), made
    changed = client.update_webhook(id, name="renamed", status="DISABLED")
    assert (client.get_webhook(id).name, str(changed.status)) == ("renamed", "DISABLED")
    assert [w.webhook_id for w in client.list_webhooks()] == [id]
    assert not client.test_webhook(id).success, "nobody listens there"
    client.delete_webhook(id)
    refused("RESOURCE_DOES_NOT_EXIST", lambda: client.get_webhook(id))


def main():
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as data, Server(sys.argv[1], data, *HOOKS) as server:
        mlflow.set_tracking_uri(server.url)
        client = Noted(mlflow.MlflowClient())
        assert client.tracking_uri == server.url and client.get_workspace_store_uri() == server.url
        for check in (experiments, runs, artifacts, logged_models, registry, prompts, webhooks, traces, datasets):
            check(client, Path(folder))
            print(f"ok    methods of {check.__name__.replace('_', ' ')}", flush=True)
        every_method(client)


main()
