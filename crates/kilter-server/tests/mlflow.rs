//! MLflow's API over loopback: what its clients read in answers and refusals, beside a project and without one.

use std::net::SocketAddr;

use kilter_server::{ServeOptions, listen};
use kilter_tracking::Tracking;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const API: &str = "/api/2.0/mlflow";
const PROXY: &str = "/api/2.0/mlflow-artifacts/artifacts";

struct Server {
    runtime: Runtime,
    address: SocketAddr,
    agent: ureq::Agent,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
    dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (stop, stopped) = oneshot::channel();
        let bound = runtime.block_on(async {
            let listening = listen(ServeOptions { listen: "127.0.0.1:0".into(), ..ServeOptions::default() }).await.unwrap();
            listening.of_tracking(Tracking::open(dir.path()).await.unwrap())
        });
        let address = bound.address();
        let task = runtime.spawn(bound.run(async move {
            let _ = stopped.await;
        }));
        let agent = ureq::Agent::config_builder().http_status_as_error(false).max_idle_connections(0).build().new_agent();
        Server { runtime, address, agent, stop, task, dir }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn get(&self, path: &str) -> (u16, Value) {
        answer(self.agent.get(self.url(path)).call().unwrap())
    }

    fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.send(&format!("{API}{path}"), "application/json", &body.to_string())
    }

    fn send(&self, path: &str, content_type: &str, body: &str) -> (u16, Value) {
        answer(self.agent.post(self.url(path)).content_type(content_type).send(body).unwrap())
    }

    fn ok(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.post(path, body);
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    /// Checks the one shape of refusals and answers the words.
    fn refused(&self, path: &str, body: Value, status: u16, code: &str) -> String {
        let (got, answer) = self.post(path, body);
        assert_eq!((got, &answer["error_code"]), (status, &json!(code)), "{answer}");
        answer["message"].as_str().unwrap().to_string()
    }

    fn run(&self) -> String {
        self.ok("/runs/create", json!({"experimentId": "0", "startTime": "17"}))["run"]["info"]["run_id"].as_str().unwrap().to_string()
    }

    fn end(self) {
        let _ = self.stop.send(());
        self.runtime.block_on(self.task).unwrap().unwrap();
    }
}

fn answer(mut response: ureq::http::Response<ureq::Body>) -> (u16, Value) {
    let status = response.status().as_u16();
    let body = response.body_mut().read_to_vec().unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body))))
}

#[test]
fn bodies_that_would_take_all_memory_are_refused() {
    let server = Server::start();
    let (status, answer) = server.post("/experiments/search", json!({"x": vec![0; 200_000]}));
    assert_eq!((status, &answer["error_code"]), (400, &json!("INVALID_PARAMETER_VALUE")), "{answer}");
    let (status, _) = server.post("/experiments/search", json!({"x": "a".repeat(5 << 20)}));
    assert_eq!(status, 413);
    assert_eq!(server.post("/experiments/search", json!({"max_results": 10})).0, 200);
    let long = format!("{PROXY}/{}", "aaaaaaaa/".repeat(400));
    assert_eq!(server.get(&long).0, 400);
    server.end();
}

#[test]
fn a_run_logs_and_is_read_as_clients_expect() {
    let server = Server::start();
    let run = server.run();
    server.ok("/runs/log-metric", json!({"run_id": run, "key": "m", "value": 9, "timestamp": "5", "step": "3"}));
    server.ok("/runs/log-metric", json!({"run_uuid": run, "key": "n", "value": "NaN", "timestamp": 5}));
    server.ok("/runs/log-parameter", json!({"run_id": run, "key": "p", "value": ""}));
    server.ok("/runs/update", json!({"run_id": run, "status": "NOPE", "run_name": "r"}));
    let (_, got) = server.get(&format!("{API}/runs/get?run_id={run}"));
    let want = json!({
        "info": {"run_id": run, "run_uuid": run, "run_name": "r", "experiment_id": "0", "user_id": "", "status": "RUNNING", "start_time": 17,
            "artifact_uri": format!("mlflow-artifacts:/0/{run}/artifacts"), "lifecycle_stage": "active"},
        "data": {
            "metrics": [{"key": "m", "value": 9.0, "timestamp": 5, "step": 3}, {"key": "n", "value": "NaN", "timestamp": 5, "step": 0}],
            "params": [{"key": "p", "value": ""}],
            "tags": [{"key": "mlflow.runName", "value": "r"}],
        },
        "inputs": {}, "outputs": {},
    });
    assert_eq!(got["run"], want);
    // What is empty is left out.
    assert_eq!(server.ok("/runs/search", json!({"experiment_ids": ["0"], "filter": "metrics.m > 9"})), json!({}));
    let twice = server.ok("/experiments/search", json!({"max_results": 5}));
    assert_eq!(server.get("/ajax-api/2.0/mlflow/experiments/search?max_results=5"), (200, twice));
    server.end();
}

#[test]
fn refusals_are_in_mlflows_shape_and_words() {
    let server = Server::start();
    let run = server.run();
    let missing = "Missing value for required parameter 'name'. See the API docs for more information about request parameters.";
    assert_eq!(server.refused("/experiments/create", json!({}), 400, "INVALID_PARAMETER_VALUE"), missing);
    let (status, answer) = server.send(&format!("{API}/experiments/create"), "application/json", "not json");
    assert_eq!((status, answer["message"].as_str()), (400, Some(missing)));
    let (status, answer) = server.send(&format!("{API}/runs/log-metric"), "application/x-www-form-urlencoded", "a=b");
    assert_eq!((status, &answer["message"]), (400, &json!("Bad Request. Content-Type must be one of ['application/json'].")));
    let words = server.refused(
        "/runs/log-batch",
        json!({"run_id": run, "metrics": [{"key": "m", "timestamp": 1}]}),
        400,
        "INVALID_PARAMETER_VALUE",
    );
    assert!(words.contains("'metrics[0].value'"), "{words}");
    let words = server.refused(
        "/runs/log-metric",
        json!({"run_id": run, "key": "../a", "value": 1, "timestamp": 1}),
        400,
        "INVALID_PARAMETER_VALUE",
    );
    assert!(words.ends_with("This name would resolve to '../a'"), "{words}");
    server.refused("/runs/create", json!({"experiment_id": "99"}), 404, "RESOURCE_DOES_NOT_EXIST");
    server.refused("/runs/create", json!({"experiment_id": "abc"}), 400, "INVALID_PARAMETER_VALUE");
    server.refused("/runs/search", json!({"experiment_ids": ["0"], "max_results": 50_001}), 400, "INVALID_PARAMETER_VALUE");
    server.refused("/runs/search", json!({"experiment_ids": ["0"], "page_token": "!!"}), 400, "INVALID_PARAMETER_VALUE");
    server.refused("/gateway", json!({"name": "m"}), 404, "ENDPOINT_NOT_FOUND");
    server.refused("/registered-models/create", json!({"name": "a/b"}), 400, "INVALID_PARAMETER_VALUE");
    server.refused("/experiments/get", json!({}), 404, "ENDPOINT_NOT_FOUND");
    let foreign = server.agent.get(server.url("/health")).header("host", "evil.example").call().unwrap();
    assert_eq!(foreign.status().as_u16(), 403);
    server.end();
}

#[test]
fn a_file_is_read_in_ranges_of_one_version() {
    let server = Server::start();
    let run = server.run();
    let url = server.url(&format!("{PROXY}/0/{run}/artifacts/m.bin"));
    let put = |content: &[u8]| assert_eq!(server.agent.put(&url).send(content).unwrap().status().as_u16(), 200);
    let get = |headers: &[(&str, &str)]| {
        let asked = headers.iter().fold(server.agent.get(&url), |asked, (name, value)| asked.header(*name, *value));
        let mut answer = asked.call().unwrap();
        let told = |name: &str| answer.headers().get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
        let (status, range, tag, length) = (answer.status().as_u16(), told("content-range"), told("etag"), told("content-length"));
        assert_eq!(told("accept-ranges"), "bytes");
        let body = answer.body_mut().read_to_vec().unwrap();
        assert!(status == 304 || length == body.len().to_string(), "{status} {length}");
        (status, range, String::from_utf8(body).unwrap(), tag)
    };
    put(b"0123456789");
    let (status, range, body, tag) = get(&[]);
    assert_eq!((status, range.as_str(), body.as_str()), (200, "", "0123456789"));
    assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    for (asked, status, range, body) in [
        ("bytes=2-4", 206, "bytes 2-4/10", "234"),
        ("bytes=0-", 206, "bytes 0-9/10", "0123456789"),
        ("bytes=8-99", 206, "bytes 8-9/10", "89"),
        ("bytes=-3", 206, "bytes 7-9/10", "789"),
        ("bytes=-99", 206, "bytes 0-9/10", "0123456789"),
        ("bytes=1-2,5-6", 200, "", "0123456789"),
        ("bytes=4-2", 200, "", "0123456789"),
        ("pages=1-2", 200, "", "0123456789"),
    ] {
        let got = get(&[("Range", asked)]);
        assert_eq!((got.0, got.1.as_str(), got.2.as_str(), &got.3), (status, range, body, &tag), "{asked}");
        assert_eq!(get(&[("Range", asked), ("If-Range", &tag)]).0, status, "{asked}");
        assert_eq!(get(&[("Range", asked), ("If-Range", "\"another\"")]).2, "0123456789", "{asked}");
    }
    for beyond in ["bytes=10-", "bytes=10-11", "bytes=-0"] {
        let (status, range, body, _) = get(&[("Range", beyond)]);
        assert!(
            (status, range.as_str()) == (416, "bytes */10") && body.contains("INVALID_PARAMETER_VALUE"),
            "{beyond}: {status} {range} {body}"
        );
    }
    for known in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}"), "*".into()] {
        assert_eq!(get(&[("If-None-Match", &known)]), (304, String::new(), String::new(), tag.clone()), "{known}");
    }
    let head = server.agent.head(&url).call().unwrap();
    assert_eq!((head.status().as_u16(), head.headers()["content-length"].to_str().unwrap()), (200, "10"));
    put(b"9876543210");
    let (status, _, body, other) = get(&[("Range", "bytes=2-4"), ("If-Range", &tag)]);
    assert!(status == 200 && body == "9876543210" && other != tag, "a part of another file is of no use");
    assert_eq!(get(&[("If-None-Match", &tag)]).0, 200);
    put(b"");
    assert_eq!((get(&[]).0, get(&[("Range", "bytes=0-")]).1.as_str()), (200, "bytes */0"));
    server.end();
}

#[test]
fn a_folder_has_no_addresses_of_its_own_as_clients_expect_it_of_one() {
    let server = Server::start();
    let run = server.run();
    let api = "/api/2.0/mlflow-artifacts";
    let (_, info) = server.get("/api/3.0/mlflow/server-info");
    assert_eq!([&info["multipart_uploads_enabled"], &info["multipart_downloads_enabled"]], [false, false]);
    let (status, answer) = server.get(&format!("{api}/presigned/0/{run}/artifacts/m.bin"));
    assert_eq!((status, &answer["error_code"]), (501, &json!("NOT_IMPLEMENTED")), "{answer}");
    let send = |what: &str, body: Value| server.send(&format!("{api}/mpu/{what}/0/{run}/artifacts"), "application/json", &body.to_string());
    let part = json!({"part_number": 1, "etag": "e", "url": "u"});
    for (what, body) in [
        ("create", json!({"path": "/home/a/m.bin", "num_parts": 2})),
        ("complete", json!({"path": "C:\\a\\m.bin", "upload_id": "i", "parts": [part]})),
        ("abort", json!({"path": "m.bin", "upload_id": "i"})),
    ] {
        let (status, answer) = send(what, body);
        let message = answer["message"].as_str().unwrap();
        assert!(
            status == 501 && message.starts_with("Multipart upload is not supported for the current artifact repository"),
            "{what}: {answer}"
        );
    }
    for (what, body) in [
        ("create", json!({"num_parts": 2})),
        ("create", json!({"path": "/home/a/"})),
        ("create", json!({"path": "/home/.."})),
        ("create", json!({"path": "m.bin", "num_parts": -1})),
        ("create", json!({"path": "m.bin", "num_parts": 10_001})),
        ("complete", json!({"path": "m.bin", "upload_id": "i"})),
        ("complete", json!({"path": "m.bin", "upload_id": "i", "parts": [part, part]})),
        ("complete", json!({"path": "m.bin", "parts": [part]})),
        ("abort", json!({"path": "m.bin"})),
    ] {
        let (status, answer) = send(what, body.clone());
        assert_eq!((status, &answer["error_code"]), (400, &json!("INVALID_PARAMETER_VALUE")), "{what} {body}: {answer}");
    }
    let (status, answer) = server.send(&format!("{api}/mpu/create/0/..%2f..%2fx"), "application/json", r#"{"path": "m.bin"}"#);
    assert_eq!((status, &answer["error_code"]), (400, &json!("INVALID_PARAMETER_VALUE")), "{answer}");
    server.end();
}

#[test]
fn artifacts_stream_in_and_out_and_never_climb() {
    let server = Server::start();
    let run = server.run();
    let put = |path: &str, body: &[u8]| answer(server.agent.put(server.url(&format!("{PROXY}/{path}"))).send(body).unwrap());
    let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert_eq!(put(&format!("0/{run}/artifacts/d/a%20%C3%BC.bin"), &large).0, 200);
    assert_eq!(put(&format!("0/{run}/artifacts/page.html"), b"<p>").0, 200);
    let mut got = server.agent.get(server.url(&format!("{PROXY}/0/{run}/artifacts/d/a%20%C3%BC.bin"))).call().unwrap();
    assert!(got.body_mut().read_to_vec().unwrap() == large);
    let page = server.agent.get(server.url(&format!("{PROXY}/0/{run}/artifacts/page.html"))).call().unwrap();
    assert_eq!(page.headers()["content-disposition"], "attachment");
    assert_eq!(page.headers()["x-content-type-options"], "nosniff");
    let (_, listed) = server.get(&format!("{API}/artifacts/list?run_id={run}&path=d"));
    assert_eq!(listed["files"], json!([{"path": "d/a ü.bin", "is_dir": false, "file_size": 3_000_000}]));
    assert_eq!(server.get(&format!("{PROXY}?path=0/{run}/artifacts")).1["files"][0], json!({"path": "d", "is_dir": true}));
    assert_eq!(server.get(&format!("{PROXY}?path=nowhere")), (200, json!({})));
    for climbing in ["..%2f..%2fx", "..%2Ftracking.db", "%252e%252e/x", "a/%2e%2e/%2e%2e/x", "%2fetc/passwd", "a/..%5cx"] {
        let (status, answer) = put(climbing, b"x");
        assert_eq!((status, &answer["message"]), (400, &json!("Invalid path")), "{climbing}");
        assert_eq!(server.get(&format!("{PROXY}/{climbing}")).0, 400, "{climbing}");
    }
    assert_eq!(server.get(&format!("{API}/artifacts/list?run_id={run}&path=../x")).0, 400);
    for here in [".", "d/.", "./d"] {
        assert_eq!(server.get(&format!("{API}/artifacts/list?run_id={run}&path={here}")).0, 200, "{here}");
    }
    assert_eq!(server.get(&format!("{PROXY}/0/{run}/artifacts/nope")).1["error_code"], "RESOURCE_DOES_NOT_EXIST");
    let delete = answer(server.agent.delete(server.url(&format!("{PROXY}/0/{run}/artifacts/d"))).call().unwrap());
    assert_eq!(delete, (200, json!({})));
    assert_eq!(std::fs::read_dir(server.dir.path().join("uploads")).unwrap().count(), 0);
    server.end();
}

#[test]
fn models_are_registered_and_named_by_aliases() {
    let server = Server::start();
    let run = server.run();
    let new = json!({"experiment_id": "0", "name": "clf", "source_run_id": run, "params": [{"key": "a", "value": "1"}]});
    let model = server.ok("/logged-models", new)["model"].clone();
    let id = model["info"]["model_id"].as_str().unwrap();
    assert_eq!(model["info"]["artifact_uri"], format!("mlflow-artifacts:/0/models/{id}/artifacts"));
    let path = server.url(&format!("{API}/logged-models/{id}"));
    let ready = answer(server.agent.patch(&path).content_type("application/json").send(r#"{"status":"LOGGED_MODEL_READY"}"#).unwrap());
    assert_eq!(ready.1["model"]["info"]["status"], "LOGGED_MODEL_READY");
    server.ok("/runs/outputs", json!({"run_id": run, "models": [{"model_id": id, "step": "2"}]}));
    let (_, got) = server.get(&format!("{API}/runs/get?run_id={run}"));
    assert_eq!(got["run"]["outputs"], json!({"model_outputs": [{"model_id": id, "step": 2}]}));
    server.ok("/registered-models/create", json!({"name": "m"}));
    let version = server.ok("/model-versions/create", json!({"name": "m", "source": format!("models:/{id}")}))["model_version"].clone();
    assert_eq!((&version["version"], &version["run_id"], &version["current_stage"]), (&json!("1"), &json!(run), &json!("None")));
    assert!(version.get("aliases").is_none() && version.get("tags").is_none());
    server.ok("/registered-models/alias", json!({"name": "m", "alias": "best", "version": "1"}));
    let (_, named) = server.get(&format!("{API}/registered-models/alias?name=m&alias=best"));
    assert_eq!(named["model_version"]["aliases"], json!(["best"]));
    let (_, uri) = server.get(&format!("{API}/model-versions/get-download-uri?name=m&version=1"));
    assert_eq!(uri["artifact_uri"], format!("mlflow-artifacts:/0/models/{id}/artifacts"));
    assert_eq!(server.get(&format!("{API}/model-versions/get?name=m&version=x")).0, 400);
    assert_eq!(server.get(&format!("{API}/registered-models/search?max_results=1001")).0, 400);
    server.end();
}

const V3: &str = "/api/3.0/mlflow";

fn otlp(server: &Server, headers: &[(&str, &str)], body: &[u8]) -> (u16, Value) {
    let request = headers.iter().fold(server.agent.post(server.url("/v1/traces")), |r, (name, value)| r.header(*name, *value));
    answer(request.send(body).unwrap())
}

#[test]
fn spans_come_in_by_opentelemetrys_protocol_and_are_a_trace() {
    let server = Server::start();
    let (trace, experiment) = ("0102030405060708090a0b0c0d0e0f10", ("x-mlflow-experiment-id", "0"));
    let as_json = ("content-type", "application/json; charset=utf-8");
    let root = json!({"traceId": trace, "spanId": "00000000000000a1", "name": "root", "startTimeUnixNano": "1700000000000000000",
        "endTimeUnixNano": "1700000000250000000", "status": {"code": 1}, "attributes": [
            {"key": "mlflow.spanInputs", "value": {"stringValue": "{\"q\": 1}"}},
            {"key": "n", "value": {"arrayValue": {"values": [{"intValue": "2"}, {"doubleValue": 0.5}, {}]}}}]});
    let export = json!({"resourceSpans": [{"resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]},
        "scopeSpans": [{"spans": [root]}]}]})
    .to_string();
    assert_eq!(otlp(&server, &[as_json], export.as_bytes()).0, 422);
    let (status, refused) = otlp(&server, &[experiment, ("content-type", "text/plain")], b"{}");
    assert_eq!((status, refused["detail"].as_str().unwrap().split(':').next()), (400, Some("Invalid Content-Type")));
    assert_eq!(otlp(&server, &[experiment, as_json], b"{}"), (400, json!({"detail": "Invalid OpenTelemetry format - no spans found"})));
    assert_eq!(otlp(&server, &[("x-mlflow-experiment-id", "99"), as_json], export.as_bytes()).1["error_code"], "RESOURCE_DOES_NOT_EXIST");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, export.as_bytes()).unwrap();
    let gzip = ("content-encoding", "gzip");
    assert_eq!(otlp(&server, &[experiment, as_json, gzip], &packed.finish().unwrap()), (200, json!("")));
    assert_eq!(otlp(&server, &[experiment, as_json, gzip], b"nothing of the kind").0, 400);
    // A bomb: 40 MiB of spaces in some kilobytes.
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut bomb, &vec![b' '; 40 << 20]).unwrap();
    assert_eq!(otlp(&server, &[experiment, as_json, gzip], &bomb.finish().unwrap()).0, 413);
    // What is no span is left out, and said.
    let half = json!({"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": trace}, {"traceId": "aa".repeat(16), "spanId": "a1"}]}]}]})
        .to_string();
    let why = json!({"partialSuccess": {"rejectedSpans": "1", "errorMessage": "a span has no id of 8 bytes"}});
    assert_eq!(otlp(&server, &[experiment, as_json], half.as_bytes()), (200, why));
    assert_eq!(server.get(&format!("{V3}/traces/tr-{}", "aa".repeat(16))).0, 200);
    let none = json!({"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": trace}]}]}]}).to_string();
    assert_eq!(otlp(&server, &[experiment, as_json], none.as_bytes()), (422, json!({"detail": "a span has no id of 8 bytes"})));
    let (_, got) = server.get(&format!("{V3}/traces/get?trace_id=tr-{trace}"));
    let span = &got["trace"]["spans"][0];
    assert_eq!((&span["span_id"], &span["status"]), (&json!("AAAAAAAAAKE="), &json!({"code": "STATUS_CODE_OK"})));
    assert_eq!(
        span["attributes"][0],
        json!({"key": "mlflow.spanInputs", "value": {"kvlist_value": {"values": [{"key": "q", "value": {"int_value": 1}}]}}})
    );
    let list = json!({"array_value": {"values": [{"int_value": 2}, {"double_value": 0.5}, {}]}});
    assert_eq!(span["attributes"][1]["value"], list);
    let info = &got["trace"]["trace_info"];
    assert_eq!((&info["execution_duration"], &info["request_time"]), (&json!("0.250s"), &json!("2023-11-14T22:13:20Z")));
    assert_eq!((&info["tags"]["service.name"], &info["tags"]["mlflow.traceName"]), (&json!("shop"), &json!("root")));
    server.end();
}

#[test]
fn a_trace_is_made_assessed_searched_and_deleted() {
    let server = Server::start();
    let location = json!({"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}});
    let info = json!({"trace_id": "tr-1", "trace_location": location, "request_time": "2026-01-31T10:00:00.250Z", "execution_duration": "1.5s",
        "state": "OK", "tags": {"k": "v"}, "trace_metadata": {"mlflow.trace.session": "s"}});
    let post = |path: &str, body: Value| server.send(&format!("{V3}{path}"), "application/json", &body.to_string());
    let (status, made) = post("/traces", json!({"trace": {"traceInfo": info}}));
    let made = &made["trace"]["trace_info"];
    assert_eq!((status, &made["request_time"], &made["execution_duration"]), (200, &json!("2026-01-31T10:00:00.250Z"), &json!("1.500s")));
    assert_eq!(made["tags"], json!({"k": "v", "mlflow.artifactLocation": "mlflow-artifacts:/0/traces/tr-1/artifacts"}));
    let new = json!({"assessment": {"assessment_name": "ok", "source": {"source_type": "HUMAN", "source_id": "me"}, "feedback": {"value": true}}});
    let (_, said) = post("/traces/tr-1/assessments", new);
    let id = said["assessment"]["assessment_id"].as_str().unwrap();
    let path = format!("{V3}/traces/tr-1/assessments/{id}");
    let again = json!({"assessment": {"assessment_id": id, "assessment_name": "ok", "feedback": {"value": false}}});
    let (status, refused) = post("/traces/tr-1/assessments", again);
    assert_eq!((status, &refused["error_code"]), (400, &json!("RESOURCE_ALREADY_EXISTS")), "{refused}");
    let change = json!({"assessment": {"feedback": {"value": "no"}, "rationale": "why"}, "update_mask": "feedback,rationale"}).to_string();
    let (status, changed) = answer(server.agent.patch(server.url(&path)).content_type("application/json").send(change).unwrap());
    assert_eq!((status, &changed["assessment"]["feedback"], &changed["assessment"]["valid"]), (200, &json!({"value": "no"}), &json!(true)));
    assert_eq!(server.get(&path).1, changed);
    let wanted = json!({"serialized_value": {"serialization_format": "JSON_FORMAT", "value": "{\"a\": 1}"}});
    let (_, expected) = post("/traces/tr-1/assessments", json!({"assessment": {"assessment_name": "want", "expectation": wanted}}));
    assert_eq!(expected["assessment"]["expectation"], wanted);
    let (_, found) = post("/traces/search", json!({"locations": [location], "filter": "feedback.ok = 'no' AND tags.k = 'v'"}));
    assert_eq!(found["traces"][0]["assessments"].as_array().unwrap().len(), 2);
    assert_eq!(post("/traces/search", json!({"locations": [location], "filter": "tags.k = 'w'"})), (200, json!({})));
    assert_eq!(post("/traces/batchGetInfos", json!({"trace_ids": ["tr-1", "tr-2"]})).1["trace_infos"].as_array().unwrap().len(), 1);
    for (path, body) in [
        ("/traces", json!({})),
        ("/traces", json!({"trace": {"trace_info": {"trace_id": "tr-2", "trace_location": location, "request_time": "soon"}}})),
        ("/traces/tr-1/assessments", json!({"assessment": {"assessment_name": "x"}})),
        ("/traces/search", json!({})),
        ("/traces/search", json!({"locations": [location], "max_results": 501})),
        ("/traces/delete-traces", json!({"experiment_id": "0"})),
    ] {
        let (status, refused) = post(path, body);
        assert_eq!((status, &refused["error_code"]), (400, &json!("INVALID_PARAMETER_VALUE")), "{path}: {refused}");
    }
    let delete = answer(server.agent.delete(server.url(&path)).call().unwrap());
    assert_eq!((delete, server.get(&path).0), ((200, json!({})), 404));
    assert_eq!(post("/traces/delete-traces", json!({"experiment_id": "0", "request_ids": ["tr-1"]})), (200, json!({"traces_deleted": 1})));
    assert_eq!(server.get(&format!("{V3}/traces/tr-1")).1["error_code"], "RESOURCE_DOES_NOT_EXIST");
    server.end();
}

#[test]
fn metrics_of_traces_are_answered_as_mlflow_does() {
    let server = Server::start();
    let post = |path: &str, body: Value| server.send(&format!("{V3}{path}"), "application/json", &body.to_string());
    let location = json!({"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}});
    let info = json!({"trace_id": "tr-1", "trace_location": location, "request_time": "2026-01-31T10:00:20Z", "execution_duration": "1.5s",
        "state": "OK", "tags": {"mlflow.traceName": "agent"}});
    assert_eq!(post("/traces", json!({"trace": {"trace_info": info}})).0, 200);
    let ask = |view: &str, metric: &str, aggregations: Value| json!({"experiment_ids": ["0"], "view_type": view, "metric_name": metric, "aggregations": aggregations});
    // As it was recorded.
    let counted = json!({"data_points": [{"metric_name": "trace_count", "values": {"COUNT": 1.0}}]});
    assert_eq!(post("/traces/metrics", ask("TRACES", "trace_count", json!([{"aggregation_type": "COUNT"}]))), (200, counted));
    let mut steps =
        ask("TRACES", "latency", json!([{"aggregation_type": "AVG"}, {"aggregation_type": "PERCENTILE", "percentile_value": 99}]));
    steps["dimensions"] = json!(["trace_name"]);
    steps["time_interval_seconds"] = json!("60");
    steps["start_time_ms"] = json!("1769853600000");
    steps["end_time_ms"] = json!(1_769_853_700_000_i64);
    let point = json!({"metric_name": "latency", "dimensions": {"time_bucket": "2026-01-31T10:00:00+00:00", "trace_name": "agent"},
        "values": {"AVG": 1500.0, "P99.0": 1500.0}});
    assert_eq!(post("/traces/metrics", steps), (200, json!({"data_points": [point]})));
    assert_eq!(post("/traces/metrics", ask("SPANS", "latency", json!([{"aggregation_type": "AVG"}]))), (200, json!({})));
    for (asked, why) in [
        (json!({}), "Missing value for required parameter 'experiment_ids'"),
        (ask("TRACES", "trace_count", json!([])), "Missing value for required parameter 'aggregations'"),
        (ask("RUNS", "trace_count", json!([{"aggregation_type": "COUNT"}])), "'RUNS' is not a valid MetricViewType"),
        (ask("TRACES", "latency", json!([{"aggregation_type": "PERCENTILE"}])), "Percentile value is required"),
        (ask("TRACES", "latency", json!([{"aggregation_type": "AVG", "percentile_value": 5}])), "only allowed for PERCENTILE"),
        (ask("TRACES", "latency", json!([{"aggregation_type": "PERCENTILE", "percentile_value": 101}])), "between 0 and 100"),
    ] {
        let (status, refused) = post("/traces/metrics", asked);
        let words = refused["message"].as_str().unwrap_or_default();
        assert!(status == 400 && refused["error_code"] == "INVALID_PARAMETER_VALUE" && words.contains(why), "{refused}");
    }
    server.end();
}

#[test]
fn a_trace_is_begun_and_ended_as_clients_of_mlflow_2_do() {
    let server = Server::start();
    let pair = |key: &str, value: &str| json!({"key": key, "value": value});
    let begun = server.ok(
        "/traces",
        json!({"experiment_id": "0", "timestamp_ms": 1000, "request_metadata": [pair("in", "1")], "tags": [pair("mlflow.traceName", "f")]}),
    );
    let info = &begun["trace_info"];
    let id = info["request_id"].as_str().unwrap();
    assert_eq!((&info["status"], &info["timestamp_ms"], &info["execution_time_ms"]), (&json!("IN_PROGRESS"), &json!(1000), &json!(null)));
    let place = pair("mlflow.artifactLocation", &format!("mlflow-artifacts:/0/traces/{id}/artifacts"));
    assert_eq!(info["tags"], json!([place, pair("mlflow.traceName", "f")]));
    let end = |id: &str, body: Value| {
        let request = server.agent.patch(server.url(&format!("{API}/traces/{id}"))).content_type("application/json");
        answer(request.send(body.to_string()).unwrap())
    };
    let (status, ended) =
        end(id, json!({"timestamp_ms": 1250, "status": "ERROR", "request_metadata": [pair("out", "2")], "tags": [pair("k", "v")]}));
    let info = &ended["trace_info"];
    assert_eq!((status, &info["status"], &info["execution_time_ms"]), (200, &json!("ERROR"), &json!(250)), "{ended}");
    let names = |list: &Value| -> Vec<String> { list.as_array().unwrap().iter().map(|p| p["key"].as_str().unwrap().into()).collect() };
    assert_eq!(names(&info["request_metadata"]), ["in", "mlflow.trace.infoFinalized", "out"]);
    assert_eq!(names(&info["tags"]), ["k", "mlflow.artifactLocation", "mlflow.traceName"]);
    assert_eq!(server.get(&format!("{API}/traces/{id}/info")), (200, ended.clone()));
    let search = |rest: &str| server.get(&format!("{API}/traces?experiment_ids=0{rest}"));
    assert_eq!(search("&filter=status%20%3D%20%27ERROR%27"), (200, json!({"traces": [info]})));
    assert_eq!(search("&filter=status%20%3D%20%27OK%27"), (200, json!({})));
    server.ok("/traces", json!({"experiment_id": "0", "timestamp_ms": 3000}));
    let (_, page) = search("&max_results=1");
    assert_eq!(page["traces"][0]["timestamp_ms"], 3000);
    let (_, rest) = search(&format!("&max_results=1&page_token={}", page["next_page_token"].as_str().unwrap()));
    assert_eq!(rest, json!({"traces": [info]}));
    // Refused, all of them.
    assert_eq!(end("nothing", json!({"timestamp_ms": 1})).0, 404);
    assert_eq!(server.get(&format!("{API}/traces/nothing/info")).0, 404);
    assert_eq!(server.get(&format!("{API}/traces")).0, 400);
    assert_eq!(search("&max_results=501").0, 400);
    server.refused("/traces", json!({"experiment_id": "99", "timestamp_ms": 1}), 404, "RESOURCE_DOES_NOT_EXIST");
    assert_eq!(end(id, json!({"tags": [{"value": "v"}]})).0, 400);
    server.end();
}

#[test]
fn models_beside_a_run_are_noted_with_it() {
    let server = Server::start();
    let run = server.run();
    let model = |path: &str| {
        json!({"artifact_path": path, "run_id": run, "utc_time_created": "2026-01-01", "signature": {"inputs": "x".repeat(9000)},
            "flavors": {"sklearn": {"code": null, "config": {"a": 1}}}})
    };
    for path in ["a", "b"] {
        server.ok("/runs/log-model", json!({"run_id": run, "model_json": model(path).to_string()}));
    }
    let (_, got) = server.get(&format!("{API}/runs/get?run_id={run}"));
    let tags = got["run"]["data"]["tags"].as_array().unwrap();
    let noted = tags.iter().find(|tag| tag["key"] == "mlflow.log-model.history").unwrap();
    let noted: Value = serde_json::from_str(noted["value"].as_str().unwrap()).unwrap();
    let want = |path: &str| json!({"artifact_path": path, "run_id": run, "utc_time_created": "2026-01-01", "flavors": {"sklearn": {"code": null}}});
    assert_eq!(noted, json!([want("a"), want("b")]));
    let refused = |body: Value, status: u16, code: &str| server.refused("/runs/log-model", body, status, code);
    let words = refused(json!({"run_id": run, "model_json": "{"}), 400, "INVALID_PARAMETER_VALUE");
    assert!(words.contains("is not a valid JSON"), "{words}");
    let words = refused(json!({"run_id": run, "model_json": "{\"flavors\": {}}"}), 400, "INVALID_PARAMETER_VALUE");
    assert!(words.ends_with("missing mandatory fields: artifact_path, utc_time_created, run_id"), "{words}");
    refused(json!({"run_id": "0".repeat(32), "model_json": model("c").to_string()}), 404, "RESOURCE_DOES_NOT_EXIST");
    let long = json!({"run_id": run, "model_json": model(&"p".repeat(70_000)).to_string()});
    assert!(refused(long, 400, "INVALID_PARAMETER_VALUE").contains("more than 65536 bytes"));
    server.end();
}

#[test]
fn datasets_and_scorers_are_answered_as_clients_expect() {
    let server = Server::start();
    let post = |path: &str, body: Value| server.send(&format!("{V3}{path}"), "application/json", &body.to_string());
    let (_, made) = post("/datasets/create", json!({"name": "d", "experiment_ids": ["0"], "tags": "{\"v\": \"1\"}"}));
    let made = &made["dataset"];
    assert_eq!((&made["experiment_ids"], &made["tags"], made.get("schema")), (&json!(["0"]), &json!("{\"v\": \"1\"}"), None));
    let path = format!("/datasets/{}", made["dataset_id"].as_str().unwrap());
    let records =
        json!([{"inputs": {"q": 1}, "source": {"source_type": "HUMAN", "source_data": {}}}, {"inputs": {"q": 1}, "outputs": "o"}])
            .to_string();
    assert_eq!(post(&format!("{path}/records"), json!({"records": records})), (200, json!({"inserted_count": 1, "updated_count": 1})));
    let (_, got) = server.get(&format!("{V3}{path}/records?max_results=5"));
    let got: Value = serde_json::from_str(got["records"].as_str().unwrap()).unwrap();
    assert_eq!((&got[0]["inputs"], &got[0]["outputs"], &got[0]["source_type"]), (&json!({"q": 1}), &json!("o"), &json!("HUMAN")));
    assert_eq!(server.get(&format!("{V3}{path}/experiment-ids")).1, json!({"experiment_ids": ["0"]}));
    for bad in ["nothing", "{}", "[1]", r#"[{"inputs": 1}]"#] {
        let (status, refused) = post(&format!("{path}/records"), json!({"records": bad}));
        assert_eq!((status, &refused["error_code"]), (400, &json!("INVALID_PARAMETER_VALUE")), "{bad}");
    }
    let (_, scorer) = post("/scorers/register", json!({"experiment_id": "0", "name": "s", "serialized_scorer": "{}"}));
    assert_eq!((&scorer["version"], &scorer["experiment_id"]), (&json!(1), &json!("0")));
    let (_, listed) = server.get(&format!("{V3}/scorers/list?experiment_id=0"));
    assert_eq!((&listed["scorers"][0]["scorer_version"], &listed["scorers"][0]["experiment_id"]), (&json!(1), &json!(0)));
    assert_eq!(post("/scorers/register", json!({"experiment_id": "0", "name": "s", "serialized_scorer": "no"})).0, 400);
    assert_eq!(server.get(&format!("{V3}/scorers/get?experiment_id=0&name=none")).1["error_code"], "RESOURCE_DOES_NOT_EXIST");
    server.end();
}

#[test]
fn the_server_says_what_it_is() {
    let server = Server::start();
    assert_eq!(server.get("/health"), (200, json!("OK")));
    assert_eq!(server.get("/version"), (200, json!("3.17.2")));
    assert_eq!(server.get("/api/3.0/mlflow/server-info").1["store_type"], "SqlStore");
    server.end();
}
