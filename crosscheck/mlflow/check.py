"""MLflow's unmodified client against `kilter tracking`: what is logged is read back, found and downloaded."""

import http.server
import json
import math
import os
import signal
import sys
import tempfile
import threading
from datetime import datetime
from pathlib import Path

from server import Server, refused  # Before the client, which reads its settings at once.

import mlflow
import pandas
from mlflow.entities import Metric, Param, RunTag
from mlflow.entities.webhook import VALID_ENTITY_ACTIONS
from mlflow.webhooks import ModelVersionTagSetPayload
from mlflow.webhooks.constants import WEBHOOK_DELIVERY_ID_HEADER, WEBHOOK_SIGNATURE_HEADER, WEBHOOK_TIMESTAMP_HEADER
from mlflow.webhooks.delivery import _generate_hmac_signature

RECORDED = Path(__file__).resolve().parents[3] / "shared/peers/mlflow"


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


def boosted(client, server):
    import lightgbm
    import numpy

    mlflow.set_experiment("boosted")
    random = numpy.random.default_rng(7)
    rows = pandas.DataFrame(random.normal(size=(300, 3)), columns=list("abc"))
    label = (rows.a + rows.b > 0).astype(int)
    mlflow.lightgbm.autolog(silent=True)
    with mlflow.start_run() as run:
        data = lightgbm.Dataset(rows, label)
        booster = lightgbm.train({"objective": "binary", "verbose": -1}, data, num_boost_round=5, valid_sets=[data])
    mlflow.lightgbm.autolog(disable=True)
    got = client.get_run(run.info.run_id)
    assert got.data.params["objective"] == "binary" and got.data.params["num_boost_round"] == "5", got.data.params
    assert [m.step for m in client.get_metric_history(run.info.run_id, "training-binary_logloss")] == list(range(5))
    model = f"models:/{got.outputs.model_outputs[0].model_id}"
    assert (mlflow.lightgbm.load_model(model).predict(rows) == booster.predict(rows)).all()
    assert {"feature_importance_gain.json", "feature_importance_gain.png"} <= {f.path for f in client.list_artifacts(run.info.run_id)}


def parallel(client, server):
    """Runs of threads, each with a child, and of processes: each gets what it logged, and only that."""
    import subprocess
    from concurrent.futures import ThreadPoolExecutor

    experiment = mlflow.set_experiment("parallel").experiment_id

    def one(at):
        with mlflow.start_run(run_name=f"thread {at}", experiment_id=experiment) as run:
            for step in range(20):
                mlflow.log_metric("m", at * 100 + step, step=step)
            with mlflow.start_run(nested=True, experiment_id=experiment) as child:
                mlflow.log_param("at", at)
        return run.info.run_id, child.info.run_id

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(one, range(8)))
    words = "import mlflow, sys\nwith mlflow.start_run(run_name=sys.argv[1]): mlflow.log_metric('m', 1); mlflow.log_text('x', 'a.txt')"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": server.url, "MLFLOW_EXPERIMENT_ID": experiment}
    others = [subprocess.Popen([sys.executable, "-W", "ignore", "-c", words, f"process {at}"], env=environment, stdout=subprocess.DEVNULL) for at in range(3)]
    assert [other.wait(120) for other in others] == [0, 0, 0]
    for at, (run, child) in enumerate(made):
        assert [m.value for m in client.get_metric_history(run, "m")] == [at * 100 + step for step in range(20)]
        assert client.get_run(child).data.params == {"at": str(at)} and client.get_parent_run(child).info.run_id == run
    found = client.search_runs([experiment], "run_name LIKE 'process%'", order_by=["run_name"])
    assert [(run.info.run_name, run.info.status) for run in found] == [(f"process {at}", "FINISHED") for at in range(3)]
    assert len(client.search_runs([experiment])) == 19


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
    with mlflow.start_run() as judged:
        settings = {"log_model_explainability": False}
        data = rows.assign(label=[0, 0, 1, 1])
        result = mlflow.models.evaluate(info.model_uri, data, targets="label", model_type="classifier", evaluator_config=settings)
    got = client.get_run(judged.info.run_id)
    assert result.metrics["accuracy_score"] == 1.0 and got.data.metrics["accuracy_score"] == 1.0, got.data.metrics
    assert got.inputs.model_inputs[0].model_id == info.model_id and len(got.inputs.dataset_inputs) == 1
    assert "confusion_matrix.png" in {f.path for f in client.list_artifacts(judged.info.run_id)}
    assert "accuracy_score" in {m.key for m in mlflow.get_logged_model(info.model_id).metrics}
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


def traces(client, server):
    experiment = mlflow.set_experiment("traces").experiment_id

    @mlflow.trace(span_type="AGENT")
    def agent(question):
        with mlflow.start_span("search", span_type="TOOL") as span:
            span.set_inputs({"q": question, "a": [1, 2.5, None]})
            span.set_outputs({"found": "a würd"})
            span.set_attribute("model", "m-1")
            span.set_attribute("mlflow.chat.tokenUsage", {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7})
            span.add_event(mlflow.entities.SpanEvent("seen", attributes={"n": 1}))
        mlflow.update_current_trace(tags={"team": "a"}, metadata={"mlflow.trace.session": "s-1"})
        return "answer to " + question

    ids = []
    for question in ("one", "two"):
        agent(question)
        ids.append(mlflow.get_last_active_trace_id())
    mlflow.flush_trace_async_logging()
    trace = mlflow.get_trace(ids[0])
    assert [s.name for s in trace.data.spans] == ["agent", "search"] and trace.info.state == "OK", trace
    tool = trace.data.spans[1]
    assert tool.inputs == {"q": "one", "a": [1, 2.5, None]} and tool.outputs == {"found": "a würd"} and tool.events[0].name == "seen"
    assert trace.data.response == '"answer to one"' and json.loads(trace.info.request_preview) == {"question": "one"}
    assert trace.info.token_usage == {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}, trace.info.token_usage

    feedback = mlflow.log_feedback(trace_id=ids[0], name="good", value=True, rationale="why")
    mlflow.log_expectation(trace_id=ids[0], name="want", value={"a": [1]})
    better = mlflow.override_feedback(trace_id=ids[0], assessment_id=feedback.assessment_id, value=0.25)
    kept = mlflow.get_assessment(ids[0], better.assessment_id)
    assert (kept.feedback.value, kept.overrides) == (0.25, feedback.assessment_id), kept
    mlflow.set_trace_tag(ids[0], "k", "v")

    def found(filter, **more):
        got = mlflow.search_traces(locations=[experiment], filter_string=filter, return_type="list", **more)
        return sorted(ids.index(t.info.trace_id) for t in got)

    assert found("") == [0, 1] and found("", max_results=1) == [1]
    assert found("tags.k = 'v' AND tags.team = 'a' AND metadata.`mlflow.trace.session` = 's-1'") == [0]
    assert found("feedback.good > 0.2") == [0] and found("feedback.good = 'true'") == [] and found("expectation.want IS NULL") == [1]
    assert found("span.type = 'TOOL' AND span.name LIKE 'sea%'") == [0, 1] and found("span.type = 'TOOL' AND span.name = 'agent'") == []
    assert found("span.attributes.model = 'm-1' AND span.content LIKE '%\"two\"%'") == [1]
    assert found("trace.text LIKE '%würd%'") == [0, 1] and found("trace.name RLIKE '^ag'") == [0, 1]
    refused("INVALID_PARAMETER_VALUE", lambda: found("nothing.x = 1"))
    with mlflow.start_run() as run:
        agent("three")
    ids.append(mlflow.get_last_active_trace_id())
    mlflow.flush_trace_async_logging()
    assert found(f"attributes.run_id = '{run.info.run_id}'") == [2]
    mlflow.delete_assessment(ids[0], better.assessment_id)
    assert mlflow.get_assessment(ids[0], feedback.assessment_id).valid
    mlflow.delete_trace_tag(ids[0], "k")
    assert client.delete_traces(experiment, trace_ids=[ids[0]]) == 1 and found("") == [1, 2]


def decorated(client, server):
    """Functions of every kind under `mlflow.trace`: those that are awaited, those that yield, those that fail."""
    import asyncio

    experiment = mlflow.set_experiment("decorated").experiment_id

    @mlflow.trace(name="later", attributes={"a": 1})
    async def later(at):
        await asyncio.sleep(0)
        return at * 2

    @mlflow.trace
    async def all_of_them():
        return await asyncio.gather(*(later(at) for at in range(3)))

    @mlflow.trace(output_reducer=sum)
    def yields():
        yield from (1, 2, 3)

    @mlflow.trace
    def fails():
        raise ValueError("for a reason")

    assert asyncio.run(all_of_them()) == [0, 2, 4] and list(yields()) == [1, 2, 3]
    try:
        fails()
    except ValueError:
        pass
    mlflow.flush_trace_async_logging()
    found = {t.info.tags["mlflow.traceName"]: t for t in mlflow.search_traces(locations=[experiment], return_type="list")}
    assert sorted(found) == ["all_of_them", "fails", "yields"], found
    spans = found["all_of_them"].data.spans
    assert sorted((s.inputs["at"], s.outputs, s.attributes["a"]) for s in spans[1:]) == [(0, 0, 1), (1, 2, 1), (2, 4, 1)]
    assert {s.parent_id for s in spans[1:]} == {spans[0].span_id} and spans[0].outputs == [0, 2, 4]
    assert found["yields"].data.spans[0].outputs == 6 and len(found["yields"].data.spans[0].events) == 3
    failed = found["fails"]
    assert failed.info.state == "ERROR" and failed.data.spans[0].events[0].attributes["exception.message"] == "for a reason"


def openai(client, server):
    """OpenAI's client against a service of its kind: each call is a trace, with what was asked and answered, and its tokens."""
    import asyncio

    import openai as api
    from openai_api import Fake

    experiment = mlflow.set_experiment("openai").experiment_id
    mlflow.openai.autolog()
    with Fake() as url, mlflow.start_run() as run:
        settings = {"base_url": url, "api_key": "none", "max_retries": 0}
        asked = {"model": "m-1", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0.5}
        client_of_api = api.OpenAI(**settings)
        assert client_of_api.chat.completions.create(**asked).choices[0].message.content == "Hi there"
        streamed = client_of_api.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        assert "".join(chunk.choices[0].delta.content for chunk in streamed if chunk.choices) == "Hi there"
        asyncio.run(api.AsyncOpenAI(**settings).chat.completions.create(**asked))
        client_of_api.embeddings.create(model="e-1", input="a")
        try:
            client_of_api.chat.completions.create(**{**asked, "messages": [{"role": "user", "content": "fail"}]})
        except api.BadRequestError:
            pass
    mlflow.openai.autolog(disable=True)
    mlflow.flush_trace_async_logging()
    found = client.search_traces(locations=[experiment], run_id=run.info.run_id, order_by=["timestamp ASC"])
    assert [(t.data.spans[0].span_type, t.info.state) for t in found] == [("CHAT_MODEL", "OK")] * 3 + [("EMBEDDING", "OK"), ("CHAT_MODEL", "ERROR")], found
    for trace in found[:3]:
        span = trace.data.spans[0]
        assert span.inputs["messages"] == asked["messages"] and span.attributes["temperature"] == 0.5, span
        assert span.outputs["choices"][0]["message"]["content"] == "Hi there", span.outputs
        assert trace.info.token_usage == {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}, trace.info.token_usage
    assert len(found[1].data.spans[0].events) == 3, "one for each part of what was streamed"
    assert "no such model" in found[4].data.spans[0].events[0].attributes["exception.message"]
    names = mlflow.search_traces(locations=[experiment], filter_string="span.type = 'EMBEDDING'", return_type="list")
    assert [t.info.trace_id for t in names] == [found[3].info.trace_id]


def otlp(client, server):
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    experiment = client.create_experiment("otlp")
    for compression in (Compression.NoCompression, Compression.Gzip, Compression.Deflate):
        provider = TracerProvider(resource=Resource({"service.name": "shop"}))
        headers = {"x-mlflow-experiment-id": experiment}
        exporter = OTLPSpanExporter(endpoint=server.url + "/v1/traces", headers=headers, compression=compression)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracer = provider.get_tracer("check")
        with tracer.start_as_current_span("order", attributes={"how": compression.value, "n": [1, 2]}) as span:
            chat = {"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 2, "gen_ai.usage.output_tokens": 3}
            with tracer.start_as_current_span("pay", attributes=chat):
                pass
        provider.shutdown()
        trace = client.get_trace(f"tr-{span.context.trace_id:032x}")
        assert [s.name for s in trace.data.spans] == ["order", "pay"] and trace.info.state == "OK", trace
        assert trace.data.spans[0].attributes["how"] == compression.value and list(trace.data.spans[0].attributes["n"]) == [1, 2]
        assert trace.data.spans[1].span_type == "CHAT_MODEL" and trace.info.token_usage["total_tokens"] == 5, trace.info
        assert trace.info.tags["service.name"] == "shop" and trace.info.tags["mlflow.traceName"] == "order"
    assert len(mlflow.search_traces(locations=[experiment], filter_string="span.attributes.how = 'gzip'", return_type="list")) == 1


def evaluation(client, server):
    from mlflow.genai.datasets import create_dataset, delete_dataset, get_dataset, search_datasets
    from mlflow.genai.scorers import Guidelines, delete_scorer, get_scorer, list_scorers, scorer

    experiment = mlflow.set_experiment("evaluation").experiment_id
    made = create_dataset(name="questions", experiment_id=[experiment], tags={"v": "1"})
    made.merge_records([{"inputs": {"q": at}, "expectations": {"a": at}} for at in range(1200)])
    made.merge_records([{"inputs": {"q": 3}, "expectations": {"b": True}, "tags": {"hard": "yes"}}])
    rows = get_dataset(dataset_id=made.dataset_id).to_df()
    assert len(rows) == 1200 and [r for r in rows["expectations"] if "b" in r] == [{"a": 3, "b": True}]
    assert [d.name for d in search_datasets(experiment_ids=[experiment], filter_string="name LIKE 'quest%' AND tags.v = '1'")] == ["questions"]
    assert search_datasets(experiment_ids=[experiment], filter_string="tags.v = '2'") == []

    @scorer
    def same(outputs, expectations):
        return outputs == expectations["expected_response"]

    data = [{"inputs": {"q": q}, "expectations": {"expected_response": a}} for q, a in (("a", "A"), ("b", "X"))]
    result = mlflow.genai.evaluate(data=data, predict_fn=lambda q: q.upper(), scorers=[same])
    assert result.metrics["same/mean"] == 0.5, result.metrics
    assert len(mlflow.search_traces(run_id=result.run_id, return_type="list")) == 2
    delete_dataset(dataset_id=made.dataset_id)
    refused("RESOURCE_DOES_NOT_EXIST", lambda: get_dataset(dataset_id=made.dataset_id))
    for words in ("be polite", "be kind"):
        Guidelines(name="manners", guidelines=words).register(experiment_id=experiment)
    assert get_scorer(name="manners", experiment_id=experiment).guidelines == "be kind"
    assert get_scorer(name="manners", experiment_id=experiment, version=1).guidelines == "be polite"
    assert [s.name for s in list_scorers(experiment_id=experiment)] == ["manners"]
    delete_scorer(name="manners", experiment_id=experiment, version="all")
    assert list_scorers(experiment_id=experiment) == []


def unknown_routes(client, server):
    status, body = server.ask("/api/2.0/mlflow/gateway/routes")
    assert status == 404 and json.loads(body)["error_code"] == "ENDPOINT_NOT_FOUND", (status, body)
    assert server.ask("/health") == (200, b"OK") and server.ask("/version")[1].startswith(b"3.")
    assert server.ask("/ajax-api/2.0/mlflow/experiments/get?experiment_id=0")[0] == 200


def kills(client, server):
    experiment = client.create_experiment("kills")
    for round in range(3):
        id = client.create_run(experiment).info.run_id
        for step in range(40):
            client.log_metric(id, "m", step, step=step)
        span = client.start_trace("kept", experiment_id=experiment)
        client.end_trace(span.trace_id)
        mlflow.flush_trace_async_logging()
        server.end(signal.SIGKILL)
        server.start()
        assert [m.step for m in client.get_metric_history(id, "m")] == list(range(40)), "what was acknowledged is gone"
        assert client.get_trace(span.trace_id).info.state == "OK"
    assert len(client.search_runs([experiment])) == 3


class Receiver(http.server.ThreadingHTTPServer):
    """Takes what webhooks are told; the first `failures` requests are answered 503."""

    def __init__(self, failures=0):
        self.got, self.failures, self.came = [], failures, threading.Condition()
        super().__init__(("127.0.0.1", 0), Told)
        self.url = f"http://127.0.0.1:{self.server_port}/hook"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def wait_for(self, count):
        with self.came:
            assert self.came.wait_for(lambda: len(self.got) >= count, 120), self.got
            return list(self.got)


class Told(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        with self.server.came:
            fails = len(self.server.got) < self.server.failures
            self.server.got.append((self.headers, body))
            self.server.came.notify_all()
        self.send_response(503 if fails else 200)
        if fails:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(b"" if fails else b"thanks")

    def log_message(self, *_):
        pass


def webhooks(kilter):
    secret = "a secret of this check"

    def events(got):
        for headers, body in got:
            id, timestamp = headers[WEBHOOK_DELIVERY_ID_HEADER], headers[WEBHOOK_TIMESTAMP_HEADER]
            assert headers[WEBHOOK_SIGNATURE_HEADER] == _generate_hmac_signature(secret, id, timestamp, body), body
        told = [json.loads(body) for _, body in got]
        assert all(datetime.fromisoformat(one["timestamp"]).tzinfo for one in told)
        return [(f"{one['entity']}.{one['action']}", one["data"]) for one in told]

    every = [f"{entity}.{action}" for entity, actions in VALID_ENTITY_ACTIONS.items() for action in sorted(actions)]
    with tempfile.TemporaryDirectory() as folder:
        with Server(kilter, folder) as server:
            mlflow.set_tracking_uri(server.url)
            client = mlflow.MlflowClient()
            for url in ("http://example.com", "https://127.0.0.1/", "https://169.254.169.254/", "https://[::1]/", "https://localhost/", "ftp://x", " "):
                refused("INVALID_PARAMETER_VALUE", lambda: client.create_webhook("w", url, ["prompt.created"]))
            refused("RESOURCE_DOES_NOT_EXIST", lambda: client.get_webhook("nobody"))
        options = ("--allow-http-webhooks", "--allow-webhooks-to", "127.0.0.1")
        with Server(kilter, folder, *options) as server, Receiver() as receiver, Receiver(2) as slow:
            mlflow.set_tracking_uri(server.url)
            client = mlflow.MlflowClient()
            hook = client.create_webhook("w.1", receiver.url, every, description="d", secret=secret)
            assert (hook.name, hook.url, hook.description, str(hook.status)) == ("w.1", receiver.url, "d", "ACTIVE")
            assert {str(event) for event in hook.events} == set(every) and hook.secret is None
            assert client.get_webhook(hook.webhook_id).creation_timestamp == hook.creation_timestamp
            late = client.create_webhook("slow", slow.url, ["registered_model.created", "model_version.created"], secret=secret)
            off = client.create_webhook("off", receiver.url, every, status="DISABLED")
            assert [w.webhook_id for w in client.list_webhooks()] == [off.webhook_id, late.webhook_id, hook.webhook_id]
            first = client.list_webhooks(max_results=2)
            assert [w.webhook_id for w in client.list_webhooks(max_results=2, page_token=first.token)] == [hook.webhook_id]
            tested = client.test_webhook(hook.webhook_id, "model_version_tag.set")
            assert (tested.success, tested.response_status, tested.response_body) == (True, 200, "thanks"), tested
            (event, data), *_ = events(receiver.wait_for(1))
            assert (event, data) == ("model_version_tag.set", ModelVersionTagSetPayload.example())

            client.create_registered_model("m", tags={"a": "b"}, description="a model")
            client.create_model_version("m", "s3://bucket/m")
            client.set_model_version_tag("m", "1", "k", "v")
            client.delete_model_version_tag("m", "1", "k")
            client.set_registered_model_alias("m", "best", "1")
            client.delete_registered_model_alias("m", "best")
            got = events(receiver.wait_for(7))[1:]
            assert [event for event, _ in got] == [
                "registered_model.created", "model_version.created", "model_version_tag.set", "model_version_tag.deleted",
                "model_version_alias.created", "model_version_alias.deleted",
            ], got
            assert got[0][1] == {"name": "m", "tags": {"a": "b"}, "description": "a model"}, got[0]
            assert got[1][1] == {"name": "m", "version": "1", "source": "s3://bucket/m", "run_id": None, "tags": {}, "description": None}, got[1]
            assert got[4][1] == {"name": "m", "alias": "best", "version": "1"}
            assert [event for event, _ in events(slow.wait_for(4))] == ["registered_model.created"] * 3 + ["model_version.created"]

            mlflow.genai.register_prompt("p", "Hello {{name}}!", tags={"team": "x"})
            mlflow.genai.set_prompt_alias("p", "live", 1)
            client.set_prompt_version_tag("p", "1", "k", "v")
            client.delete_prompt_version_tag("p", "1", "k")
            mlflow.genai.delete_prompt_alias("p", "live")
            client.set_prompt_tag("p", "k", "v")
            client.delete_prompt_tag("p", "k")
            want = {
                "prompt.created", "prompt_version.created", "prompt_alias.created", "prompt_alias.deleted", "prompt_version_tag.set", "prompt_version_tag.deleted",
                "prompt_tag.set", "prompt_tag.deleted",
            }
            with receiver.came:
                assert receiver.came.wait_for(lambda: want <= {event for event, _ in events(receiver.got[7:])}, 120), events(receiver.got[7:])
            told = events(receiver.got[7:])
            assert all(event.startswith("prompt") for event, _ in told), told
            assert next(data for event, data in told if event == "prompt_version.created")["template"].strip('"') == "Hello {{name}}!", told

            changed = client.update_webhook(hook.webhook_id, name="w2", url=slow.url, events=["prompt.created"], status="DISABLED")
            assert (changed.name, changed.url, [str(e) for e in changed.events], str(changed.status)) == ("w2", slow.url, ["prompt.created"], "DISABLED")
            client.delete_webhook(hook.webhook_id)
            refused("RESOURCE_DOES_NOT_EXIST", lambda: client.get_webhook(hook.webhook_id))
            assert hook.webhook_id not in [w.webhook_id for w in client.list_webhooks()]
            # What is told after a kill is what happened before it.
            client.create_registered_model("last")
            server.end(signal.SIGKILL)
            server.start()
            data = [json.loads(body)["data"]["name"] for _, body in slow.wait_for(5)]
            assert data[4] == "last", data


# A step of the recorded conversations that Kilter answers otherwise: with the tags as they are stored.
OTHERWISE = ("trace start",)


def recorded(kilter):
    if not (RECORDED / "golden.py").exists():
        print(f"SKIPPED: recorded conversations with MLflow's server are not at hand ({RECORDED})")
        return
    sys.path.insert(0, str(RECORDED))
    import golden

    with tempfile.TemporaryDirectory() as folder, Server(kilter, folder, "--allow-http-webhooks") as server:
        golden.script()
        got = golden.play(server.url)
    want = {step["name"]: step for step in json.loads((RECORDED / "golden.json").read_text())}
    judged = [step for step in got if not step["name"].startswith(OTHERWISE)]
    wrong = [(step["name"], difference) for step in judged if (difference := golden.same(want[step["name"]], step, False))]
    assert not wrong, wrong
    print(f"ok    {len(judged)} of {len(got)} recorded requests are of what is answered, and are answered alike")


CHECKS = (runs, batches, searches, parallel, artifacts, autolog, boosted, models, traces, decorated, openai, otlp, evaluation, unknown_routes, kills)


def main():
    kilter = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder, Server(kilter, folder) as server:
        mlflow.set_tracking_uri(server.url)
        client = mlflow.MlflowClient()
        for check in CHECKS:
            check(client, server)
            print(f"ok    {check.__name__}", flush=True)
        server.end(signal.SIGTERM)
        assert server.process.returncode == 0, server.process.returncode
    webhooks(kilter)
    print("ok    webhooks", flush=True)
    recorded(kilter)


main()
