"""Stores that MLflow's own client made, without a server, are brought over by `kilter import mlflow`: the client must then hear the same of both. Where
`crosscheck/with_postgres` is around, one of them is on PostgreSQL, and all come to PostgreSQL."""

import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"

from server import Server, database  # noqa: E402  Before the client, which reads its settings at once.

import mlflow  # noqa: E402
import pandas  # noqa: E402
from mlflow.entities import Metric, ViewType  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402

ROWS = pandas.DataFrame({"x": [0.0, 1.0, 2.0, 3.0]})


def until(holds, otherwise):
    for _ in range(300):
        if holds():
            return
        time.sleep(0.1)
    raise AssertionError(f"{otherwise}: waited 30 s")


def fill(client, is_database):
    """Something of everything, as users write it."""
    mlflow.set_experiment("churn")
    mlflow.set_experiment_tags({"team": "a"})
    with mlflow.start_run(run_name="first", tags={"k": "v"}) as run:
        mlflow.log_params({"trees": 300, "opt/lr": 0.1, "long": "x" * 3000})
        for step in range(30):
            mlflow.log_metrics({"loss": 1 / (step + 1), "val/acc": step / 30}, step=step)
        client.log_batch(run.info.run_id, metrics=[Metric("many", at * 0.1, 1000 + at, at) for at in range(1000)])
        mlflow.log_metric("nan", float("nan"))
        mlflow.log_metric("low", float("-inf"))
        mlflow.log_text("hällo", "notes/a b.txt")
        mlflow.log_dict({"a": [1, 2]}, "conf.json")
        mlflow.log_input(mlflow.data.from_pandas(ROWS, name="train"), context="training")
        model = LogisticRegression().fit(ROWS, [0, 0, 1, 1])
        info = mlflow.sklearn.log_model(model, name="clf", pip_requirements=[], serialization_format="cloudpickle", registered_model_name="clf")
        with mlflow.start_run(nested=True, run_name="1e5"):
            mlflow.set_tag("mlflow.note.content", "two\nlines: *bold*")
    second = mlflow.register_model(info.model_uri, "clf", tags={"q": "1"})
    client.set_registered_model_alias("clf", "champion", second.version)
    client.transition_model_version_stage("clf", "1", "Production")
    client.update_registered_model("clf", description="what it is for")
    client.set_registered_model_tag("clf", "t", "u")
    with mlflow.start_run(run_name="failed") as failed:
        mlflow.end_run("FAILED")
    client.delete_run(failed.info.run_id)
    gone = client.create_experiment("gone")
    client.create_run(gone, run_name="in it")
    client.delete_experiment(gone)
    mlflow.genai.register_prompt(name="greeting", template="Say {{what}}", tags={"for": "all"})
    # The client ties a prompt to its experiment in a thread of its own, which it does not wait for.
    prompts = lambda: client.search_registered_models("tags.`mlflow.prompt.is_prompt` = 'true'")  # noqa: E731
    until(lambda: all("_mlflow_experiment_ids" in prompt.tags for prompt in prompts()), "the client ties no prompt to its experiment")

    @mlflow.trace(span_type="AGENT")
    def agent(question):
        with mlflow.start_span("search", span_type="TOOL") as span:
            span.set_inputs({"q": question, "a": [1, 2.5, None]})
            span.set_outputs({"found": "a würd"})
            span.set_attribute("mlflow.chat.tokenUsage", {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7})
            span.set_attribute("mlflow.llm.cost", {"input_cost": 0.25, "output_cost": 0.5, "total_cost": 0.75})
            span.set_attribute("mlflow.llm.model", f"model for {question}")
            span.set_attribute("mlflow.llm.provider", "us")
            span.add_event(mlflow.entities.SpanEvent("seen", attributes={"n": 1}))
        if question == "bad":
            raise ValueError("as wanted")
        return {"answer": question}

    for question in ("one", "bad"):
        try:
            agent(question)
        except ValueError:
            pass
        mlflow.flush_trace_async_logging()
        trace = mlflow.get_last_active_trace_id()
        mlflow.set_trace_tag(trace, "k", question)
    feedback = mlflow.log_feedback(trace_id=trace, name="good", value=True, rationale="why")
    mlflow.log_expectation(trace_id=trace, name="want", value={"a": [1]})
    mlflow.override_feedback(trace_id=trace, assessment_id=feedback.assessment_id, value=0.25)
    if is_database:
        from mlflow.genai.datasets import create_dataset

        made = create_dataset(name="questions", experiment_id=[client.get_experiment_by_name("churn").experiment_id], tags={"v": "1"})
        made.merge_records([{"inputs": {"q": at}, "expectations": {"a": at}} for at in range(20)])


def number(value):
    """As a server answers it: what is no number is equal to itself, and infinity is the largest number."""
    return "nan" if math.isnan(value) else max(min(value, sys.float_info.max), -sys.float_info.max)


def files(client, run, path=""):
    found = {}
    for entry in client.list_artifacts(run, path):
        if entry.is_dir:
            found |= files(client, run, entry.path)
        else:
            with tempfile.TemporaryDirectory() as folder:
                found[entry.path] = Path(client.download_artifacts(run, entry.path, folder)).read_bytes()
    return found


def seen(uri, is_database):
    """Everything that the client is told at an address, but where files lie."""
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    client, told = mlflow.MlflowClient(uri, uri), {}
    for e in client.search_experiments(view_type=ViewType.ALL):
        told["experiment", e.name] = (e.experiment_id, e.lifecycle_stage, e.creation_time, dict(e.tags))
        for run in client.search_runs([e.experiment_id], run_view_type=ViewType.ALL, max_results=1000):
            info, id = run.info, run.info.run_id
            inputs = [(i.dataset.name, i.dataset.digest, i.dataset.source, i.dataset.schema, i.dataset.profile, {t.key: t.value for t in i.tags})
                      for i in run.inputs.dataset_inputs]
            outputs = [(o.model_id, o.step) for o in run.outputs.model_outputs] if run.outputs else []
            histories = {key: sorted({(m.timestamp, m.step, str(number(m.value))) for m in client.get_metric_history(id, key)}) for key in run.data.metrics}
            told["run", id] = (e.name, info.run_name, info.status, info.start_time, info.end_time, info.user_id, info.lifecycle_stage, run.data.params,
                               run.data.tags, {key: number(value) for key, value in run.data.metrics.items()}, inputs, outputs, histories)
            told["files", id] = files(client, id)
        for model in mlflow.search_logged_models(experiment_ids=[e.experiment_id], output_format="list"):
            of_model = sorted((m.key, str(number(m.value)), m.step, m.run_id) for m in model.metrics or [])
            told["logged", model.model_id] = (model.name, str(model.status), model.source_run_id, model.creation_timestamp, model.params, model.tags, of_model)
        for trace in mlflow.search_traces(locations=[e.experiment_id], return_type="list"):
            tags = {key: value for key, value in trace.info.tags.items() if key not in ("mlflow.artifactLocation", "mlflow.trace.spansLocation")}
            assessments = {a.assessment_id: (a.name, a.to_dictionary().get("feedback"), a.to_dictionary().get("expectation"), a.rationale, a.valid is not False, a.overrides,
                                             a.source.source_type, a.create_time_ms) for a in trace.info.assessments}
            spans = [(s.span_id, s.parent_id, s.name, s.span_type, s.start_time_ns, s.end_time_ns, str(s.status.status_code), s.inputs, s.outputs,
                      s.attributes.get("mlflow.chat.tokenUsage"), [(event.name, len(event.attributes)) for event in s.events]) for s in trace.data.spans]
            told["trace", trace.info.trace_id] = (trace.info.request_time, trace.info.execution_duration, str(trace.info.state), trace.info.request_preview,
                                                  trace.info.response_preview, tags, trace.info.trace_metadata, assessments, spans)
    for prompts in ("false", "true"):
        wanted = "tags.`mlflow.prompt.is_prompt` = 'true'" if prompts == "true" else None
        for model in client.search_registered_models(wanted):
            told["model", model.name] = (model.description or "", model.creation_timestamp, model.last_updated_timestamp, model.tags, {alias: str(version) for alias, version in model.aliases.items()})
            for v in client.search_model_versions(f"name = '{model.name}'") if prompts == "false" else []:
                told["version", v.name, str(v.version)] = (v.description or "", v.current_stage, v.run_id, v.tags, v.creation_timestamp)
    told["predicted"] = list(mlflow.sklearn.load_model("models:/clf@champion").predict(ROWS))
    prompt = mlflow.genai.load_prompt("prompts:/greeting/1")
    told["prompt"] = (prompt.template, prompt.tags, prompt.variables)
    if is_database:
        told["metrics"] = metrics(client, client.get_experiment_by_name("churn").experiment_id)
        from mlflow.genai.datasets import search_datasets

        for dataset in search_datasets(experiment_ids=[client.get_experiment_by_name("churn").experiment_id]):
            told["dataset", dataset.dataset_id] = (dataset.name, dataset.tags, sorted(str(row) for row in dataset.to_df()["inputs"]))
    return told


METRICS = (
    ("TRACES", "trace_count", ["COUNT"], ["trace_name", "trace_status"], []),
    ("TRACES", "trace_count", ["COUNT"], [], ["trace.status = 'OK'"]),
    ("TRACES", "trace_count", ["COUNT"], [], ["trace.tag.k = 'bad'"]),
    ("TRACES", "session_count", ["COUNT"], [], []),
    ("TRACES", "latency", ["AVG", "MIN", "MAX", 50.0, 99.9], ["trace_name"], []),
    ("TRACES", "input_tokens", ["SUM", "AVG", 25.0], [], []),
    ("TRACES", "cache_read_input_tokens", ["SUM"], [], []),
    ("SPANS", "span_count", ["COUNT"], ["span_name", "span_type", "span_status"], []),
    ("SPANS", "span_count", ["COUNT"], ["span_model_name", "span_model_provider"], ["span.name = 'search'"]),
    ("SPANS", "latency", ["MIN", "MAX", 75.0], ["span_name"], []),
    ("SPANS", "total_cost", ["SUM", "MAX"], ["span_model_provider"], []),
    ("ASSESSMENTS", "assessment_count", ["COUNT"], ["assessment_name", "assessment_value"], []),
    ("ASSESSMENTS", "assessment_value", ["AVG", 10.0], ["assessment_name"], ["assessment.type = 'feedback'"]),
)


def metrics(client, experiment):
    """What is told of traces, as a whole and by the hour."""
    from mlflow.entities.trace_metrics import AggregationType, MetricAggregation, MetricViewType

    store, told = client._tracking_client.store, {}
    for view, name, kinds, dimensions, filters in METRICS:
        asked = [MetricAggregation(AggregationType.PERCENTILE, kind) if isinstance(kind, float) else MetricAggregation(AggregationType(kind)) for kind in kinds]
        for step in ({}, {"time_interval_seconds": 3600, "start_time_ms": 0, "end_time_ms": 4 * 10**12}):
            points = store.query_trace_metrics([experiment], MetricViewType(view), name, asked, dimensions, filters, **step)
            told[view, name, str(dimensions), str(filters), bool(step)] = [
                (point.dimensions, {key: round(float(value), 9) for key, value in point.values.items()}) for point in points]
    return told


def check(kilter, folder, uri, source, is_database, *options):
    os.chdir(folder)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    fill(mlflow.MlflowClient(uri, uri), is_database)
    want = seen(uri, is_database)
    data = f"{folder}/tracking"
    target = database(data)
    environment = {**os.environ, "KILTER_TRACKING_DATABASE": target} if target else None
    for _ in range(2):
        command = [kilter, "import", "mlflow", source, "--data", data, *options]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, (done.stdout, done.stderr)
    print(done.stdout, end="")
    with Server(kilter, data) as server:
        got = seen(server.url, is_database)
    assert set(want) == set(got), set(want) ^ set(got)
    for key in want:
        assert want[key] == got[key], (key, want[key], got[key])
    kinds = sorted({key[0] if isinstance(key, tuple) else key for key in want})
    print(f"ok    import of {source.split('/')[-1]}: {len(want)} things are told alike ({', '.join(kinds)})", flush=True)


def main():
    kilter = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        check(kilter, folder, f"sqlite:///{folder}/mlflow.db", f"{folder}/mlflow.db", True)
        os.chdir("/")
    with tempfile.TemporaryDirectory() as folder:
        check(kilter, folder, f"file://{folder}/mlruns", f"{folder}/mlruns", False)
        os.chdir("/")
    with tempfile.TemporaryDirectory() as folder:
        if uri := database(f"{folder}/mlflow"):
            uri = uri.replace("postgresql://", "postgresql+psycopg2://")
            check(kilter, folder, uri, uri, True, "--artifacts", f"{folder}/mlruns")
            os.chdir("/")


main()
