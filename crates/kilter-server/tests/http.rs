//! The real server over loopback, on a small project: what comes in, what goes out, and what is turned away and how.

mod dashboard;
mod sql;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kilter_core::{EventTime, Span};
use kilter_runtime::{Service, StartOptions, project};
use kilter_server::{ServeOptions, bind};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const DEFINITIONS: &str = r#"
[project]
name = "shop"
clock = "event"
[server]
max_body = "1MiB"
[source.payments]
time = "at"
id = "payment_id"
lateness = "1h"
dedupe = "1d"
max_future = "none"
[source.payments.columns]
payment_id = "string"
card = { type = "int64", required = true }
at = "timestamp"
amount = { type = "float64", required = true, description = "in euros" }
[source.orders]
time = "at"
max_future = "none"
[source.orders.columns]
at = "timestamp"
card = { type = "int64", required = true }
amount = "float64"
[source.accounts]
time = "__source_ts_ms"
key = "id"
envelope = "debezium"
max_future = "none"
[source.accounts.columns]
id = "int64"
owner = { type = "string", required = true }
__source_ts_ms = "timestamp"
[source.outcomes]
time = "at"
max_future = "none"
[source.outcomes.columns]
payment_id = { type = "string", required = true }
at = "timestamp"
fraud = "bool"
[features.card]
source = "payments"
entity = "card"
[features.card.columns]
count = "count(*) over 1h, 1d"
sum = "sum(amount) over 1d"
mean = "mean(amount) over 1d"
[service.overview]
features = ["card.count_1h", "card.sum_1d", "mean = card.sum_1d / card.count_1d"]
keys = { card = "card_no" }
[model.fraud]
on = "payments"
learner = "gbdt"
params = { trees = 20, leaves = 7, min_leaf_rows = 5 }
inputs = ["card.*", "payments.amount"]
label = { source = "outcomes", value = "fraud", on = "payment_id", within = "1h" }
min_rows = 50
[decision.pay]
model = "fraud"
policy = [{ when = "score >= 0.5", outcome = "block" }, { outcome = "accept" }]
reasons = 2
fallback = "accept"
[decision.strict]
on = "payments"
model = "fraud"
policy = [{ when = "score >= 0.5", outcome = "block" }, { outcome = "accept" }]
[schedule.retrain]
every = "300d"
train = "fraud"
promote_if = "auc > champion.auc - 1"
[monitor.drift]
model = "fraud"
signal = "psi"
above = 0.0001
window = "6h"
every = "1h"
min_rows = 20
[monitor.same]
kind = "self-check"
sample = 1.0
[monitor.quiet]
kind = "silence"
source = "payments"
"#;

/// The routes as promised in docs/reference/http.md.
const ROUTES: [(&str, &str); 45] = [
    ("post", "/v1/events/{source}"),
    ("get", "/v1/features/{view}/{key}"),
    ("post", "/v1/features/{view}"),
    ("post", "/v1/services/{service}"),
    ("post", "/v1/decide/{decision}"),
    ("get", "/v1/decisions"),
    ("get", "/v1/decisions/{id}"),
    ("post", "/v1/decisions/{id}/replay"),
    ("get", "/v1/sql/tables"),
    ("post", "/v1/sql"),
    ("get", "/v1/lake"),
    ("post", "/v1/lake/compact"),
    ("post", "/v1/policies/{decision}/backtest"),
    ("put", "/v1/policies/{decision}"),
    ("get", "/v1/models"),
    ("get", "/v1/models/{model}"),
    ("post", "/v1/models/{model}/train"),
    ("post", "/v1/models/{model}/promote"),
    ("post", "/v1/models/{model}/rollback"),
    ("post", "/v1/models/{model}/versions"),
    ("get", "/v1/models/{model}/versions/{version}/file"),
    ("get", "/v1/models/{model}/versions/{version}/reference"),
    ("get", "/v1/models/{model}/versions/{version}/evaluation"),
    ("get", "/v1/models/{model}/performance"),
    ("get", "/v1/runs"),
    ("get", "/v1/runs/{id}"),
    ("get", "/v1/runs/{id}/artifacts/{name}"),
    ("get", "/v1/live"),
    ("get", "/v1/monitors"),
    ("get", "/v1/monitors/{monitor}/history"),
    ("get", "/v1/monitors/{monitor}/distributions"),
    ("get", "/v1/alerts"),
    ("get", "/v1/dead-letters"),
    ("get", "/v1/project"),
    ("get", "/v1/project/definitions"),
    ("post", "/v1/backtests"),
    ("get", "/v1/project/plan"),
    ("post", "/v1/project/apply"),
    ("get", "/v1/status"),
    ("get", "/v1/access"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
    ("get", "/openapi.json"),
    ("get", "/"),
];

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

/// A server on a port and a folder of its own.
struct Server {
    runtime: Runtime,
    service: Arc<Service>,
    address: SocketAddr,
    agent: ureq::Agent,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<anyhow::Result<()>>,
    _dir: tempfile::TempDir,
}

struct Reply {
    status: u16,
    headers: ureq::http::HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    /// The value of a request that must have gone well.
    fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// Checks the one shape of refusals and answers (code, message, hint).
    fn refused(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        let error = self.json()["error"].clone();
        assert_eq!(error["code"], code, "{error}");
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{error}");
        error
    }
}

impl Server {
    fn start() -> Server {
        Server::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut ServeOptions)) -> Server {
        Server::at(tempfile::tempdir().unwrap(), change)
    }

    fn at(dir: tempfile::TempDir, change: impl FnOnce(&mut ServeOptions)) -> Server {
        std::fs::write(dir.path().join("kilter.toml"), DEFINITIONS).unwrap();
        let project = project::load(dir.path()).unwrap_or_else(|report| panic!("{report}"));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut options = ServeOptions { listen: "127.0.0.1:0".into(), ..ServeOptions::default() };
        change(&mut options);
        let (stop, stopped) = oneshot::channel();
        let (service, bound) = runtime.block_on(async {
            let service = Service::start(project, StartOptions::default()).await.unwrap();
            let bound = bind(Arc::clone(&service), options).await.unwrap();
            (service, bound)
        });
        let address = bound.address();
        let task = runtime.spawn(bound.run(async move {
            let _ = stopped.await;
        }));
        // A connection of its own for each request: after a refusal that did not wait for the body the server ends it, at a moment of its own.
        let agent = ureq::Agent::config_builder().http_status_as_error(false).max_idle_connections(0).build().new_agent();
        Server { runtime, service, address, agent, stop: Some(stop), task, _dir: dir }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn get(&self, path: &str) -> Reply {
        reply(self.agent.get(self.url(path)).call().unwrap())
    }

    fn post(&self, path: &str, content_type: &str, body: impl AsRef<[u8]>) -> Reply {
        reply(self.agent.post(self.url(path)).content_type(content_type).send(body.as_ref()).unwrap())
    }

    fn post_with(&self, path: &str, header: (&str, &str), body: &str) -> Reply {
        let request = self.agent.post(self.url(path)).content_type(JSON).header(header.0, header.1);
        reply(request.send(body).unwrap())
    }

    /// Plays part of the history: payments, and half an hour after each whether it was fraud.
    fn play(&self, range: std::ops::Range<u64>) {
        let payments: Vec<String> = range.clone().map(payment).collect();
        let outcomes: Vec<String> = range.map(outcome).collect();
        self.post("/v1/events/payments", NDJSON, payments.join("\n")).ok();
        self.post("/v1/events/outcomes", NDJSON, outcomes.join("\n")).ok();
    }

    fn offset(&self) -> u64 {
        self.service.data.events.next_offset()
    }

    /// Tells the server to stop and waits for its end.
    fn end(mut self) {
        let _ = self.stop.take().unwrap().send(());
        let Server { runtime, task, .. } = self;
        runtime.block_on(task).unwrap().unwrap();
    }
}

fn reply(mut response: ureq::http::Response<ureq::Body>) -> Reply {
    let body = response.body_mut().read_to_vec().unwrap();
    Reply { status: response.status().as_u16(), headers: response.headers().clone(), body }
}

fn at(minutes: i64) -> EventTime {
    EventTime(1_700_000_000_000_000) + Span(minutes * 60_000_000)
}

fn payment(n: u64) -> String {
    let amount = if n.is_multiple_of(7) { 900.0 + n as f64 % 13.0 } else { 10.0 + n as f64 % 50.0 };
    format!(r#"{{"payment_id":"p{n}","card":{},"at":"{}","amount":{amount}}}"#, n % 5, at(n as i64 * 3))
}

fn outcome(n: u64) -> String {
    format!(r#"{{"payment_id":"p{n}","at":"{}","fraud":{}}}"#, at(n as i64 * 3 + 30), n.is_multiple_of(7))
}

#[test]
fn events_come_in_as_json_ndjson_and_csv() {
    let server = Server::start();
    let report = server.post("/v1/events/payments", JSON, payment(0)).ok();
    assert_eq!((&report["accepted"], &report["next_offset"], &report["rejections"]), (&json!(1), &json!(1), &json!([])), "{report}");
    let report = server.post("/v1/events/payments", JSON, format!("[{},{}]", payment(1), payment(2))).ok();
    assert_eq!((&report["accepted"], &report["next_offset"]), (&json!(2), &json!(3)));
    let csv = format!("payment_id,card,at,amount\np3,3,{},12.5\np4,4,{},7\n", at(9), at(12));
    assert_eq!(server.post("/v1/events/payments", "text/csv", csv).ok()["accepted"], 2);

    // One bad row among good ones: named by its line, kept as a dead letter.
    let rows = [payment(5), r#"{"card": "x", "amount": 1}"#.to_string(), payment(6)].join("\n");
    let report = server.post("/v1/events/payments", NDJSON, rows).ok();
    assert_eq!((&report["accepted"], &report["rejected"]), (&json!(2), &json!(1)), "{report}");
    let rejection = &report["rejections"][0];
    assert_eq!((&rejection["row"], &rejection["code"], &rejection["field"]), (&json!(2), &json!("wrong_type"), &json!("card")));

    // All of it again: nothing counts twice.
    let report = server.post("/v1/events/payments", NDJSON, [payment(5), payment(6)].join("\n")).ok();
    assert_eq!((&report["accepted"], &report["duplicates"]), (&json!(0), &json!(2)), "{report}");
    assert_eq!(server.offset(), 7);
    assert_eq!(server.post("/v1/events/payments", JSON, "[]").ok()["accepted"], 0);
    server.end();
}

#[test]
fn decisions_go_on_where_the_store_of_mlflows_clients_cannot_be_opened() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("kilter-data")).unwrap();
    std::fs::write(dir.path().join("kilter-data/tracking"), "no folder").unwrap();
    let server = Server::at(dir, |_| ());
    server.play(0..3);
    let refused = server.get("/api/2.0/mlflow/experiments/get?experiment_id=0").json();
    assert_eq!(refused["error_code"], "ENDPOINT_NOT_FOUND");
    assert!(refused["message"].as_str().unwrap().contains("cannot be opened"), "{refused}");
    server.end();
}

#[test]
fn exports_of_spans_are_counted_and_take_no_place_of_a_decision() {
    let server = Server::with(|options| options.max_requests = 1);
    // Its body never comes: it keeps its place.
    let head = "POST /v1/traces HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nx-mlflow-experiment-id: 0\r\nContent-Length: 9\r\n\r\n";
    let begin = || {
        let mut export = TcpStream::connect(server.address).unwrap();
        export.write_all(head.as_bytes()).unwrap();
        export.set_nonblocking(true).unwrap();
        export
    };
    let mut export = begin();
    let began = Instant::now();
    while server.post("/v1/traces", JSON, "{}").status != 429 {
        // It came while the one that asks had the place, and was refused itself.
        if export.peek(&mut [0]).is_ok() {
            export = begin();
        }
        assert!(began.elapsed() < Duration::from_secs(60), "the export takes no place at all");
    }
    server.get("/v1/status").ok();
    drop(export);
    server.end();
}

#[test]
fn mlflows_clients_log_to_the_same_address() {
    let server = Server::start();
    let run = server.post("/api/2.0/mlflow/runs/create", JSON, "{}").ok();
    assert_eq!(run["run"]["info"]["experiment_id"], "0");
    assert_eq!(server.get("/api/2.0/mlflow/nothing").json()["error_code"], "ENDPOINT_NOT_FOUND");
    server.get("/v1/nothing").refused(404, "unknown_route");

    // The project's own runs are those of the experiment with its name, the same however often they are asked for.
    server.play(0..300);
    let trained = server.post("/v1/models/fraud/train", JSON, r#"{"promote": "never"}"#).ok();
    let deadline = Instant::now() + Duration::from_secs(60);
    let own = loop {
        let experiment = server.get("/api/2.0/mlflow/experiments/get-by-name?experiment_name=shop").json();
        let ids = json!({"experiment_ids": [experiment["experiment"]["experiment_id"]]}).to_string();
        let found = server.post("/api/2.0/mlflow/runs/search", JSON, &ids).json();
        // The copy goes on beside a request that did not wait for its end.
        if found["runs"][0]["info"]["status"] == "FINISHED" {
            assert_eq!(found, server.post("/api/2.0/mlflow/runs/search", JSON, &ids).ok());
            break found["runs"].clone();
        }
        assert!(Instant::now() < deadline, "{experiment} {found}");
        std::thread::sleep(Duration::from_millis(50));
    };
    let run = &own[0];
    assert_eq!(
        (own.as_array().unwrap().len(), &run["info"]["run_id"], &run["info"]["status"]),
        (1, &trained["run"], &json!("FINISHED")),
        "{own}"
    );
    let known = server.get(&format!("/v1/runs/{}", trained["run"].as_str().unwrap())).ok();
    let pairs =
        |list: &Value| -> Vec<(Value, Value)> { list.as_array().unwrap().iter().map(|p| (p["key"].clone(), p["value"].clone())).collect() };
    let of = |value: &Value| if value.is_null() { json!("NaN") } else { value.clone() };
    let as_pairs = |map: &Value| -> Vec<(Value, Value)> { map.as_object().unwrap().iter().map(|(k, v)| (json!(k), of(v))).collect() };
    assert_eq!(pairs(&run["data"]["params"]), as_pairs(&known["params"]));
    assert!(!pairs(&run["data"]["metrics"]).is_empty());
    assert_eq!(pairs(&run["data"]["metrics"]), as_pairs(&known["metrics"]));
    assert!(server.service.data.dir.join("tracking/tracking.db").exists());
    server.end();
}

/// Asks for the version behind an alias until it is this one: the copy that clients see may be a second old.
fn wait_for_alias(server: &Server, alias: &str, version: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = server.get(&format!("/api/2.0/mlflow/registered-models/alias?name=fraud&alias={alias}"));
        if answer.status == 200 && answer.json()["model_version"]["version"] == version {
            return answer.json()["model_version"].clone();
        }
        assert!(Instant::now() < deadline, "{}", answer.text());
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_projects_models_are_in_the_registry_that_clients_see() {
    let server = Server::start();
    server.play(0..200);
    let trained = server.post("/v1/models/fraud/train", JSON, r#"{"promote": "always"}"#).ok();
    let first = wait_for_alias(&server, "champion", "1");
    assert_eq!((&first["run_id"], &first["name"]), (&trained["run"], &json!("fraud")));
    let source = first["source"].as_str().unwrap();
    assert!(source.ends_with(&format!("/{}/artifacts/model", trained["run"].as_str().unwrap())), "{source}");
    let uri = server.get("/api/2.0/mlflow/model-versions/get-download-uri?name=fraud&version=1").ok();
    assert_eq!(uri["artifact_uri"], *source);

    // What MLflow loads.
    let listed = server.get(&format!("/api/2.0/mlflow/artifacts/list?run_id={}&path=model", trained["run"].as_str().unwrap())).ok();
    let names: Vec<&str> = listed["files"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    let wanted =
        ["MLmodel", "code", "conda.yaml", "input_example.json", "model.kltm", "python_env.yaml", "requirements.txt", "scores.json.gz"];
    assert_eq!(names, [&wanted.map(|name| format!("model/{name}"))[..], &["model/serving_input_example.json".to_string()]].concat());
    let proxy = format!("/api/2.0/mlflow-artifacts/artifacts/{}", source.trim_start_matches("mlflow-artifacts:/"));
    let described = server.get(&format!("{proxy}/MLmodel")).text();
    assert!(described.contains("loader_module: kilter_scores_1\n") && described.contains("payments.amount"), "{described}");
    let example = server.get(&format!("{proxy}/input_example.json")).ok();
    assert_eq!((example["columns"].as_array().unwrap().len(), example["data"][0].as_array().unwrap().len()), (5, 5), "{example}");
    let file = server.get("/v1/models/fraud/versions/1/file?format=kilter");
    assert_eq!(server.get(&format!("{proxy}/model.kltm")).body, file.body);

    // A promotion and the way back move the alias.
    server.post("/v1/models/fraud/versions?promote=always", "text/plain", STUMP).ok();
    let second = wait_for_alias(&server, "champion", "2");
    assert!(second["tags"].as_array().unwrap().contains(&json!({ "key": "kilter.kind", "value": "lightgbm" })), "{second}");
    server.post("/v1/models/fraud/rollback", JSON, "{}").ok();
    wait_for_alias(&server, "champion", "1");

    // What only the project does.
    let api = |path: &str| format!("/api/2.0/mlflow{path}");
    let post = |path: &str, body: Value| server.post(&api(path), JSON, body.to_string());
    let delete = |path: &str| reply(server.agent.delete(server.url(&api(path))).call().unwrap());
    let rename = json!({ "name": "fraud", "new_name": "other" });
    let stage = json!({ "name": "fraud", "version": "2", "stage": "Production", "archive_existing_versions": false });
    for (refused, hint) in [
        (post("/registered-models/alias", json!({ "name": "fraud", "alias": "champion", "version": "2" })), "kilter promote fraud@2"),
        (post("/registered-models/alias", json!({ "name": "fraud", "alias": "challenger", "version": "1" })), "kilter models fraud"),
        (delete("/registered-models/alias?name=fraud&alias=champion"), "kilter rollback fraud"),
        (post("/registered-models/rename", rename), "kilter apply"),
        (delete("/registered-models/delete?name=fraud"), "kilter models fraud"),
        (post("/model-versions/create", json!({ "name": "fraud", "source": source })), "kilter models import fraud"),
        (post("/model-versions/transition-stage", stage), "kilter promote fraud@2"),
        (delete("/model-versions/delete?name=fraud&version=1"), "kilter models fraud"),
    ] {
        assert_eq!((refused.status, &refused.json()["error_code"]), (403, &json!("PERMISSION_DENIED")), "{}", refused.text());
        let message = refused.json()["message"].as_str().unwrap().to_string();
        assert!(message.contains("model of the project") && message.contains(hint), "{message}");
    }
    assert_eq!(post("/registered-models/create", json!({ "name": "fraud" })).json()["error_code"], "RESOURCE_ALREADY_EXISTS");
    assert_eq!(server.get("/v1/models/fraud").ok()["in_service"], 1);

    // What is anybody's: other aliases, tags and words.
    post("/registered-models/alias", json!({ "name": "fraud", "alias": "best", "version": "2" })).ok();
    wait_for_alias(&server, "best", "2");
    post("/model-versions/set-tag", json!({ "name": "fraud", "version": "1", "key": "reviewed", "value": "yes" })).ok();
    delete("/registered-models/alias?name=fraud&alias=best").ok();
    wait_for_alias(&server, "champion", "1");
    server.end();
}

#[test]
fn a_registered_model_that_a_client_made_first_stays_the_clients() {
    let server = Server::start();
    let api = |path: &str| format!("/api/2.0/mlflow{path}");
    let post = |path: &str, body: Value| server.post(&api(path), JSON, body.to_string());
    post("/registered-models/create", json!({ "name": "fraud", "description": "mine" })).ok();
    server.play(0..200);
    server.post("/v1/models/fraud/versions?promote=always", "text/plain", STUMP).ok();
    let mine = server.get(&api("/registered-models/get?name=fraud")).ok()["registered_model"].clone();
    assert_eq!((&mine["description"], &mine["latest_versions"], &mine["aliases"]), (&json!("mine"), &Value::Null, &Value::Null), "{mine}");
    post("/model-versions/create", json!({ "name": "fraud", "source": "s3://bucket/model" })).ok();
    post("/registered-models/alias", json!({ "name": "fraud", "alias": "champion", "version": "1" })).ok();
    assert_eq!(server.get("/v1/models/fraud").ok()["in_service"], 1);
    // Out of the way, it gives room to the project's.
    post("/registered-models/rename", json!({ "name": "fraud", "new_name": "mine" })).ok();
    let own = wait_for_alias(&server, "champion", "1");
    assert!(own["source"].as_str().unwrap().starts_with("mlflow-artifacts:/"), "{own}");
    assert_eq!(server.get(&api("/registered-models/get?name=mine")).ok()["registered_model"]["description"], "mine");
    server.end();
}

#[test]
fn a_version_whose_file_is_gone_keeps_no_other_from_being_shown() {
    let server = Server::start();
    server.play(0..200);
    server.post("/v1/models/fraud/versions", "text/plain", STUMP).ok();
    server.post("/v1/models/fraud/train", JSON, r#"{"promote": "always"}"#).ok();
    let first = server.runtime.block_on(server.service.data.metadata.get_version("fraud", 1)).unwrap().unwrap();
    let hash = first.spec.artifact;
    std::fs::remove_file(server.service.data.dir.join("artifacts/blobs").join(&hash[..2]).join(&hash)).unwrap();
    wait_for_alias(&server, "champion", "2");
    for (version, files) in [(1, false), (2, true)] {
        let uri = server.get(&format!("/api/2.0/mlflow/model-versions/get-download-uri?name=fraud&version={version}")).ok();
        let path = uri["artifact_uri"].as_str().unwrap().trim_start_matches("mlflow-artifacts:/").to_string();
        let listed = server.get(&format!("/api/2.0/mlflow-artifacts/artifacts?path={path}")).ok();
        assert_eq!(listed["files"].is_array(), files, "{version}: {listed}");
    }
    server.end();
}

#[test]
fn events_that_cannot_be_used_are_told_why() {
    let server = Server::start();
    server.post("/v1/events/payments", JSON, "{\"card\": 1,").refused(400, "malformed_json");
    server.post("/v1/events/payments", JSON, "[{\"card\": 1}").refused(400, "malformed_json");
    let error = server.post("/v1/events/payments", JSON, "").refused(400, "empty_body");
    assert!(error["hint"].is_string());
    let error = server.post("/v1/events/paymnets", JSON, payment(0)).refused(404, "unknown_source");
    assert_eq!(error["hint"], "did you mean `payments`?");
    server.post("/v1/events/payments?dry=1", JSON, payment(0)).refused(400, "bad_parameter");

    let missing_key = server.post("/v1/events/payments", JSON, r#"{"amount": 1, "at": "2026-01-01"}"#);
    missing_key.refused(422, "all_rejected");
    assert_eq!(missing_key.json()["rejections"][0]["code"], "missing_key");
    let absurd = server.post("/v1/events/payments", JSON, r#"{"card": 1, "amount": 1, "at": "0001-01-01"}"#);
    absurd.refused(422, "all_rejected");
    assert_eq!(absurd.json()["rejections"][0]["code"], "absurd_time");
    assert_eq!(server.offset(), 0, "nothing of this is in the log");

    let letters = server.get("/v1/dead-letters?source=payments&limit=2").ok();
    assert_eq!(letters["dead_letters"][0]["code"], "absurd_time");
    assert!(letters["dead_letters"][0]["payload"].as_str().unwrap().contains("0001-01-01"));
    let next = letters["next"].as_u64().unwrap();
    let older = server.get(&format!("/v1/dead-letters?limit=100&before={next}")).ok();
    assert_eq!(older["dead_letters"].as_array().unwrap().len() as u64, next);
    assert_eq!(server.get("/v1/dead-letters?code=missing_key").ok()["dead_letters"].as_array().unwrap().len(), 1);
    server.get("/v1/dead-letters?source=nope").refused(404, "unknown_source");

    server.post("/v1/events/payments", JSON, format!("[{0},{0}]", payment(0))).ok();
    let status = server.get("/v1/status").ok();
    let payments = status["sources"].as_array().unwrap().iter().find(|s| s["source"] == "payments").unwrap();
    let away = json!({"absurd_time": 1, "empty_body": 1, "malformed_json": 2, "missing_key": 1});
    assert_eq!((&payments["turned_away"], &payments["duplicates"], &payments["events"]), (&away, &json!(1), &json!(1)), "{payments}");
    assert_eq!((&payments["received"], &payments["status"]), (&json!(7), &json!("active")), "{payments}");
    assert_eq!(status["sources"][0]["source"], "accounts");
    assert_eq!((&status["sources"][0]["status"], &status["sources"][0]["watermark"]), (&json!("waiting"), &Value::Null));
    let view = &status["state"][0];
    assert_eq!((&view["events"], &view["applied"], &view["filtered"]), (&json!(1), &json!(1), &json!(0)), "{view}");
    let text = server.get("/metrics").text();
    for line in [
        "kilter_source_events_total{source=\"payments\"} 1",
        "kilter_source_left_out_total{source=\"payments\",reason=\"missing_key\"} 1",
        "kilter_source_left_out_total{source=\"payments\",reason=\"duplicate\"} 1",
        "kilter_source_idle{source=\"payments\"} 0",
        "kilter_source_watermark_seconds{source=\"payments\"} ",
        "kilter_view_events_total{view=\"card\",outcome=\"applied\"} 1",
        "kilter_view_events_total{view=\"card\",outcome=\"late\"} 0",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    server.end();
}

#[test]
fn changes_of_a_table_come_in_and_what_tells_of_no_row_is_counted() {
    let server = Server::start();
    let change = json!({ "before": null, "after": { "id": 1, "owner": "ann" }, "op": "c", "source": { "ts_ms": 1_767_225_600_000_i64 } });
    let delete = json!({ "before": { "id": 1 }, "after": null, "op": "d", "source": { "ts_ms": 1_767_225_601_000_i64 } });
    let report = server.post("/v1/events/accounts", JSON, json!([change, { "payload": delete }, null, { "ts_ms": 1 }]).to_string()).ok();
    assert_eq!((&report["accepted"], &report["ignored"], &report["rejected"]), (&json!(2), &json!(2), &json!(0)), "{report}");
    // A heartbeat alone is no failure, and a report of plain rows does not speak of such things.
    let quiet = server.post("/v1/events/accounts", JSON, r#"{"ts_ms":1767225600000}"#).ok();
    assert_eq!((&quiet["accepted"], &quiet["ignored"], &quiet["next_offset"]), (&json!(0), &json!(1), &json!(null)), "{quiet}");
    assert_eq!(server.post("/v1/events/payments", JSON, payment(1)).ok().get("ignored"), None);
    let truncate = server.post("/v1/events/accounts", JSON, r#"{"op":"t","source":{}}"#);
    assert_eq!(truncate.json()["rejections"][0]["code"], "truncate");
    server.post("/v1/events/accounts", "text/csv", "id,owner\n1,ann\n").refused(400, "wrong_format");
    assert_eq!(named(&server.get("/v1/project").ok()["sources"], "accounts")["key"], json!(["id"]));
    server.end();
}

#[test]
fn a_body_that_is_too_large_is_refused_before_it_is_read() {
    let server = Server::start();
    let started = Instant::now();
    let error = server.post("/v1/events/payments", NDJSON, vec![b' '; 100 << 20]).refused(413, "body_too_large");
    assert!(error["message"].as_str().unwrap().contains("1048576") && error["hint"].as_str().unwrap().contains("NDJSON"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());

    // By its announced length alone.
    let head = "POST /v1/events/payments HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\nConnection: close\r\n\r\n";
    assert!(raw(&server, head.as_bytes()).starts_with("HTTP/1.1 413"));
    // Without an announced length: as soon as it has grown too long.
    let mut chunked =
        b"POST /v1/events/payments HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n".to_vec();
    chunked.extend(format!("{:x}\r\n", 2 << 20).bytes());
    chunked.extend(vec![b' '; 2 << 20]);
    chunked.extend(b"\r\n0\r\n\r\n");
    assert!(raw(&server, &chunked).starts_with("HTTP/1.1 413"));
    server.post("/v1/decide/pay", JSON, vec![b' '; 2 << 20]).refused(413, "body_too_large");
    server.post("/v1/models/fraud/promote", JSON, vec![b' '; 100_000]).refused(413, "body_too_large");
    server.end();
}

/// Sends bytes and reads the head of the answer.
fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut head = [0; 64];
    let n = stream.read(&mut head).unwrap();
    String::from_utf8_lossy(&head[..n]).into_owned()
}

#[test]
fn features_of_many_entities_are_read_at_one_moment() {
    let server = Server::start();
    server.play(0..20);
    let body = json!({ "keys": [0, "1", 999, 0], "at": at(57).to_string(), "features": ["sum_1d", "count_1d"] });
    let read = server.post("/v1/features/card", JSON, body.to_string()).ok();
    assert_eq!((&read["view"], &read["as_of_offset"], &read["at"]), (&json!("card"), &json!(40), &json!(at(57).to_string())), "{read}");
    let rows = read["rows"].as_array().unwrap();
    assert_eq!(rows.iter().map(|r| r["key"].clone()).collect::<Vec<_>>(), [json!(0), json!("1"), json!(999), json!(0)]);
    assert_eq!(rows[0]["features"].as_object().unwrap().len(), 2);
    for (row, key) in rows.iter().zip(["0", "1", "999", "0"]) {
        let single = server.get(&format!("/v1/features/card/{key}?at={}", at(57))).ok();
        for name in ["sum_1d", "count_1d"] {
            assert_eq!(row["features"][name], single["features"][name], "{key} {name}");
        }
    }
    let all = server.post("/v1/features/card", JSON, r#"{"keys": [0]}"#).ok();
    assert_eq!(all["rows"][0]["features"].as_object().unwrap().len(), 4);

    // How fresh it is, and what is no longer what it was.
    let moment = |minutes: i64| json!(at(minutes).to_string());
    assert_eq!((&rows[0]["last_event"], &rows[2]["last_event"]), (&moment(45), &json!(null)));
    assert!(rows.iter().all(|row| row.get("incomplete").is_none() && row.get("freshness").is_none()), "{read}");
    let past = json!({ "keys": [0], "at": at(-2 * 24 * 60).to_string(), "features": ["sum_1d", "count_1h"], "freshness": true });
    let past = &server.post("/v1/features/card", JSON, past.to_string()).ok()["rows"][0];
    assert_eq!((&past["incomplete"], &past["freshness"]), (&json!(["sum_1d", "count_1h"]), &json!({ "sum_1d": null, "count_1h": null })));
    let single = server.get(&format!("/v1/features/card/0?at={}&freshness=true", at(57))).ok();
    assert_eq!((&single["last_event"], &single["freshness"]["count_1h"]), (&moment(45), &moment(45)), "{single}");
    server.get("/v1/features/card/0?freshness=perhaps").refused(400, "bad_parameter");

    let refused = |body: Value, status, code: &str| server.post("/v1/features/card", JSON, body.to_string()).refused(status, code);
    let error = refused(json!({ "keys": [1, "zero"] }), 422, "invalid_request");
    assert_eq!((&error["fields"][0]["field"], &error["fields"][0]["expected"]), (&json!("keys[1]"), &json!("int64")));
    for bad in [json!(null), json!({}), json!([1, 2]), json!([null]), json!(1.5)] {
        refused(json!({ "keys": [bad] }), 422, "invalid_request");
    }
    assert_eq!(refused(json!({}), 400, "invalid_request")["fields"][0]["code"], "missing_field");
    assert_eq!(refused(json!({ "keys": [] }), 400, "invalid_request")["fields"][0]["expected"], "1 to 1000 items");
    refused(json!({ "keys": vec![1; 1001] }), 400, "invalid_request");
    assert_eq!(server.post("/v1/features/card", JSON, json!({ "keys": vec![1; 1000] }).to_string()).ok()["rows"][999]["key"], 1);
    let error = refused(json!({ "keys": [1], "features": ["cuont_1d"] }), 400, "invalid_request");
    assert_eq!(error["fields"][0]["hint"], "did you mean `count_1d`?");
    refused(json!({ "keys": [1], "at": "yesterday" }), 400, "invalid_request");
    refused(json!({ "keys": [1], "kyes": 1 }), 400, "invalid_request");
    server.post("/v1/features/card", JSON, "[").refused(400, "malformed_json");
    server.post("/v1/features/card", JSON, format!("{{\"keys\": [{}1]}}", " ".repeat(1 << 20))).refused(413, "body_too_large");
    assert_eq!(server.post("/v1/features/crad", JSON, r#"{"keys": [1]}"#).refused(404, "unknown_view")["hint"], "did you mean `card`?");
    server.end();
}

#[test]
fn a_service_answers_questions_by_the_names_of_its_keys() {
    let server = Server::start();
    server.play(0..20);
    let ask = |body: Value| server.post("/v1/services/overview", JSON, body.to_string());
    let read =
        ask(json!({ "keys": [{ "card_no": 0 }, { "card_no": "1" }, { "card_no": 999 }, { "card_no": null }], "at": at(57).to_string() }))
            .ok();
    assert_eq!((&read["service"], &read["mode"], &read["as_of_offset"]), (&json!("overview"), &json!("event-time"), &json!(40)), "{read}");
    let rows = read["rows"].as_array().unwrap();
    for (row, key) in rows.iter().zip(["0", "1", "999"]) {
        let single = server.get(&format!("/v1/features/card/{key}?at={}", at(57))).ok();
        for name in ["count_1h", "sum_1d"] {
            assert_eq!(row["features"][format!("card.{name}")], single["features"][name], "{key} {name}");
        }
        assert_eq!(
            (&row["features"]["mean"], &row["last_event"]["card"]),
            (&single["features"]["mean_1d"], &single["last_event"]),
            "{row}"
        );
    }
    assert_eq!((&rows[3]["features"], &rows[3]["last_event"]), (&rows[2]["features"], &json!({ "card": null })));
    let fresh =
        ask(json!({ "keys": [{ "card_no": 0 }], "at": at(57).to_string(), "freshness": true, "features": ["mean", "card.sum_1d"] })).ok();
    assert_eq!(fresh["rows"][0]["freshness"], json!({ "mean": null, "card.sum_1d": at(45).to_string() }), "{fresh}");
    assert_eq!(fresh["rows"][0]["features"].as_object().unwrap().len(), 2);
    let past = ask(json!({ "keys": [{ "card_no": 0 }], "at": at(-2 * 24 * 60).to_string() })).ok();
    assert_eq!(past["rows"][0]["incomplete"], json!(["card.count_1h", "card.sum_1d", "mean"]));
    let seen = ask(json!({ "keys": [{ "card_no": 0 }], "mode": "as-seen", "offset": 40 })).ok();
    let live = ask(json!({ "keys": [{ "card_no": 0 }] })).ok();
    assert_eq!((&seen["mode"], &seen["rows"]), (&json!("as-seen"), &live["rows"]), "{seen}");

    let fields = |body: Value| {
        let error = ask(body).refused(422, "invalid_request");
        let of = |f: &Value| format!("{} {}", f["field"].as_str().unwrap(), f["code"].as_str().unwrap());
        error["fields"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(fields(json!({ "keys": [{ "card_no": 1 }, { "card": 1 }] })), ["keys[1].card unknown_field", "keys[1].card_no missing_key"]);
    assert_eq!(fields(json!({ "keys": [{ "card_no": "one" }, 7] })), ["keys[0].card_no wrong_type", "keys[1] wrong_type"]);
    ask(json!({})).refused(400, "invalid_request");
    ask(json!({ "keys": [{ "card_no": 1 }], "offset": 3 })).refused(400, "invalid_request");
    let error = server.post("/v1/services/overveiw", JSON, r#"{"keys": [{}]}"#).refused(404, "unknown_service");
    assert!(error["hint"].as_str().unwrap().contains("overview"), "{error}");
    let project = server.get("/v1/project").ok();
    assert_eq!(project["services"][0]["keys"], json!({ "card_no": "int64" }), "{project}");
    assert_eq!(project["services"][0]["features"][2], json!({ "name": "mean", "type": "float64", "value": "card.sum_1d / card.count_1d" }));
    let page = server.get("/openapi.json").ok();
    assert!(page["paths"]["/v1/services/overview"]["post"].is_object());
    server.end();
}

#[test]
fn features_of_an_entity_are_read_as_of_a_time() {
    let server = Server::start();
    server.play(0..20);
    let read = server.get(&format!("/v1/features/card/0?at={}", at(57))).ok();
    assert_eq!((&read["view"], &read["key"], &read["as_of_offset"]), (&json!("card"), &json!("0"), &json!(40)), "{read}");
    assert_eq!((&read["features"]["count_1d"], &read["features"]["count_1h"]), (&json!(4), &json!(4)), "{read}");
    assert_eq!(read["at"], at(57).to_string());
    assert_eq!(server.get("/v1/features/card/999").ok()["features"]["count_1d"], 0);

    let error = server.get("/v1/features/card/zero").refused(422, "invalid_request");
    assert_eq!((&error["fields"][0]["field"], &error["fields"][0]["expected"]), (&json!("card"), &json!("int64")));
    let error = server.get("/v1/features/card/1?at=yesterday").refused(400, "bad_parameter");
    assert_eq!(error["fields"][0]["field"], "at");
    server.get("/v1/features/card/1?at=99999-01-01").refused(400, "bad_parameter");
    assert_eq!(server.get("/v1/features/crad/1").refused(404, "unknown_view")["hint"], "did you mean `card`?");
    server.get("/v1/features/card/%ff").refused(400, "bad_path");

    // How fresh, and whether whole.
    assert_eq!(
        (&read["mode"], &read["last_event"], &read["incomplete"]),
        (&json!("event-time"), &json!(at(45).to_string()), &Value::Null),
        "{read}"
    );
    assert_eq!(read["watermark"], at(57).to_string());
    let live = server.get("/v1/features/card/0?freshness=true").ok();
    assert_eq!(live["freshness"]["count_1h"], at(45).to_string());
    server.play(20..600);
    let past = server.get(&format!("/v1/features/card/0?at={}", at(57))).ok();
    assert_eq!(past["incomplete"], json!(["count_1h", "count_1d", "sum_1d", "mean_1d"]), "{past}");
    let table = json!({ "keys": [0], "at": at(57).to_string(), "features": ["count_1h"], "freshness": false }).to_string();
    let table = server.post("/v1/features/card", JSON, table).ok();
    assert_eq!(table["rows"][0]["incomplete"], json!(["count_1h"]), "{table}");
    assert_eq!(table["rows"][0]["freshness"], Value::Null);

    // As it was seen: by the place in the log, and by the server's clock.
    let seen = server.get("/v1/features/card/0?mode=as-seen&offset=40&freshness=true").ok();
    assert_eq!((&seen["mode"], &seen["at"], &seen["incomplete"]), (&json!("as-seen"), &live["at"], &Value::Null), "{seen}");
    for part in ["features", "last_event", "freshness", "watermark", "as_of_offset"] {
        assert_eq!(seen[part], live[part], "{part}");
    }
    let body = json!({ "keys": [0], "mode": "as-seen", "at": "2000-01-01T00:00:00Z" }).to_string();
    let before = server.post("/v1/features/card", JSON, body).ok();
    assert_eq!((&before["as_of_offset"], &before["rows"][0]["features"]["count_1d"]), (&json!(0), &json!(0)), "{before}");
    server.get("/v1/features/card/0?mode=as-seen&offset=99999").refused(409, "conflict");
    let error = server.get("/v1/features/card/0?mode=seen").refused(400, "bad_parameter");
    assert_eq!(error["fields"][0]["field"], "mode");
    server.get("/v1/features/card/0?mode=as-seen").refused(400, "bad_parameter");
    server.get("/v1/features/card/0?offset=4").refused(400, "bad_parameter");
    server.get(&format!("/v1/features/card/0?mode=as-seen&offset=4&at={}", at(57))).refused(400, "bad_parameter");
    server.get("/v1/features/card/0?freshness=perhaps").refused(400, "bad_parameter");
    server.end();
}

#[test]
fn a_request_is_decided_once_however_often_it_is_sent() {
    let server = Server::start();
    let request = r#"{"card": 1, "amount": 20, "at": "2026-01-01T10:00:00Z"}"#;
    let first = server.post_with("/v1/decide/pay", ("Idempotency-Key", "k-1"), request);
    let decided = first.ok();
    assert_eq!((&decided["decision_id"], &decided["outcome"], &decided["recorded"]), (&json!("pay-0"), &json!("accept"), &json!(true)));
    // The fallback: no model yet, so no score, no version, no rule.
    assert_eq!((&decided["score"], &decided["model_version"], &decided["rule"]), (&Value::Null, &Value::Null, &Value::Null), "{decided}");
    assert_eq!((&decided["time"], &decided["model"]), (&json!("2026-01-01T10:00:00Z"), &json!("fraud")));
    assert_eq!(first.header("idempotency-replayed"), "");

    let again = server.post_with("/v1/decide/pay", ("Idempotency-Key", "k-1"), r#"{"card": 1, "amount": 9999}"#);
    assert_eq!((again.ok(), again.header("idempotency-replayed")), (decided, "true"));
    assert_eq!(server.offset(), 1);
    // The source's own id does the same.
    let own = server.post("/v1/decide/pay", JSON, payment(1)).ok();
    assert_eq!(server.post("/v1/decide/pay", JSON, payment(1)).ok()["decision_id"], own["decision_id"]);
    let error = server.post_with("/v1/decide/pay", ("Idempotency-Key", &"k".repeat(1025)), request).refused(422, "invalid_request");
    assert_eq!(error["fields"][0]["field"], "Idempotency-Key");
    // `strict` decides on the same events and has nothing on this one: no model, no fallback.
    server.post_with("/v1/decide/strict", ("Idempotency-Key", "k-1"), request).refused(409, "duplicate");
    server.end();
}

#[test]
fn the_same_request_from_many_at_once_is_decided_once() {
    let server = Server::start();
    for round in 0..20 {
        let body = format!(r#"{{"card": 1, "amount": {round}, "at": "2026-01-01T10:00:00Z"}}"#);
        let ids: std::collections::BTreeSet<String> = std::thread::scope(|scope| {
            let ask =
                || server.post_with("/v1/decide/pay", ("Idempotency-Key", &format!("r{round}")), &body).ok()["decision_id"].to_string();
            let asked: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            asked.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(ids.into_iter().collect::<Vec<_>>(), [format!("\"pay-{round}\"")]);
    }
    assert_eq!(server.offset(), 20);
    server.end();
}

#[test]
fn a_preview_writes_nothing() {
    let server = Server::start();
    server.play(0..10);
    let before = (server.offset(), server.service.data.decisions.next_offset());
    let preview = server.post("/v1/decide/pay?preview=true", JSON, payment(11)).ok();
    assert_eq!((&preview["recorded"], &preview["decision_id"], &preview["outcome"]), (&json!(false), &Value::Null, &json!("accept")));
    assert_eq!((server.offset(), server.service.data.decisions.next_offset()), before);
    let recorded = server.post("/v1/decide/pay?preview=false", JSON, payment(11)).ok();
    assert_eq!(recorded["recorded"], true, "the preview did not use up the id");
    server.post("/v1/decide/pay?preview=maybe", JSON, payment(12)).refused(400, "bad_parameter");
    server.end();
}

#[test]
fn a_wrong_request_names_every_wrong_field() {
    let server = Server::start();
    let error = server.post("/v1/decide/pay", JSON, r#"{"card": "one", "amuont": 3, "at": "soon"}"#).refused(422, "invalid_request");
    let fields: Vec<&str> = error["fields"].as_array().unwrap().iter().map(|f| f["field"].as_str().unwrap()).collect();
    for field in ["card", "amuont", "at", "amount"] {
        assert!(fields.contains(&field), "{field} is missing in {error}");
    }
    let unknown = error["fields"].as_array().unwrap().iter().find(|f| f["field"] == "amuont").unwrap();
    assert!(unknown["hint"].as_str().unwrap().contains("amount"), "{unknown}");
    server.post("/v1/decide/pay", JSON, r#"{"amount": 3}"#).refused(422, "invalid_request");
    server.post("/v1/decide/pay", JSON, r#"{"card": 1, "amount": 3, "at": 99999999999999999}"#).refused(422, "invalid_request");
    server.post("/v1/decide/pay", JSON, r#"{"card": 1, "amount": 3, "at": "9999-01-01"}"#).refused(422, "invalid_request");
    server.post("/v1/decide/pay", JSON, "{").refused(400, "malformed_json");
    server.post("/v1/decide/pay", JSON, "[1]").refused(400, "not_an_object");
    server.post("/v1/decide/pay", JSON, "").refused(400, "empty_body");
    assert_eq!(server.post("/v1/decide/pya", JSON, "{}").refused(404, "unknown_decision")["hint"], "did you mean `pay`?");
    let error = server.post("/v1/decide/strict", JSON, payment(2)).refused(409, "no_model");
    assert!(error["hint"].as_str().unwrap().contains("kilter train fraud"), "{error}");
    server.end();
}

#[test]
fn a_model_is_trained_promoted_used_rolled_back_and_every_decision_replays() {
    let server = Server::start();
    assert_eq!(server.get("/v1/models/fraud").ok()["in_service"], Value::Null);
    let error = server.post("/v1/models/fraud/train", JSON, "").refused(409, "conflict");
    assert!(error["message"].as_str().unwrap().contains("empty"), "{error}");
    server.play(0..20);
    let error = server.post("/v1/models/fraud/train", JSON, "{}").refused(409, "conflict");
    assert!(error["message"].as_str().unwrap().contains("50 are needed"), "{error}");
    server.post("/v1/models/fraud/rollback", JSON, "").refused(409, "conflict");

    server.play(20..300);
    let one = server.post("/v1/models/fraud/train", JSON, r#"{"promote": "never"}"#).ok();
    assert_eq!((&one["version"], &one["promote"], &one["model"]), (&json!(1), &json!(false), &json!("fraud")), "{one}");
    assert!(one["holdout"]["auc"].as_f64().unwrap() > 0.9 && one["train_rows"].as_u64().unwrap() > 100, "{one}");
    let served = server.post("/v1/models/fraud/promote", JSON, r#"{"version": 1, "reason": "first"}"#).ok();
    assert_eq!((&served["version"], &served["offset"]), (&json!(1), &json!(600)));

    let risky = server.post("/v1/decide/pay", JSON, payment(301)).ok();
    assert_eq!(
        (&risky["outcome"], &risky["model_version"], &risky["rule"]),
        (&json!("block"), &json!(1), &json!("score >= 0.5")),
        "{risky}"
    );
    assert!((1..=2).contains(&risky["reasons"].as_array().unwrap().len()), "{risky}");
    assert_eq!(risky["reasons"][0]["feature"], "payments.amount");
    assert!(risky["reasons"][0]["value"].as_f64().unwrap() > 899.0);
    assert_eq!(server.post("/v1/decide/strict", JSON, payment(302)).ok()["outcome"], "accept");

    let two = server.post("/v1/models/fraud/train", JSON, r#"{"promote": "rule", "to": "2023-11-15T09:00:00Z"}"#).ok();
    assert_eq!((&two["version"], &two["promote"]), (&json!(2), &json!(true)), "{two}");
    assert!(two["champion"]["auc"].is_number());
    assert_eq!(server.post("/v1/decide/pay", JSON, payment(308)).ok()["model_version"], 2);
    let back = server.post("/v1/models/fraud/rollback", JSON, "").ok();
    assert_eq!(back["version"], 1);
    let last = server.post("/v1/decide/pay", JSON, payment(315)).ok();
    assert_eq!(last["model_version"], 1);

    let model = server.get("/v1/models/fraud").ok();
    assert_eq!((&model["in_service"], &model["latest"], &model["aliases"]["challenger"]), (&json!(1), &json!(2), &json!(2)), "{model}");
    assert_eq!((model["versions"].as_array().unwrap().len(), &model["versions"][0]["version"]), (2, &json!(2)));
    assert_eq!(model["versions"][1]["aliases"], json!(["champion"]));
    assert!(model["history"].as_array().unwrap().iter().any(|h| h["is_rollback"] == true), "{model}");
    assert_eq!(server.get("/v1/models").ok()["models"][0]["in_service"], 1);

    replays(&server, &risky, &last);
    lists_decisions(&server);
    runs(&server, one["run"].as_str().unwrap());
    watches(&server);
    refuses_wrong_management(&server);
    tries_policies(&server);
    tells_performance(&server);
    server.end();
}

fn replays(server: &Server, first: &Value, last: &Value) {
    for decided in [first, last] {
        let id = decided["decision_id"].as_str().unwrap();
        let replay = server.post(&format!("/v1/decisions/{id}/replay"), JSON, "").ok();
        assert_eq!((&replay["same"], &replay["difference"], &replay["id"]), (&json!(true), &Value::Null, &json!(id)), "{replay}");
        assert_eq!(replay["recorded"], replay["again"]);
        assert_eq!(replay["recorded"]["score"], decided["score"]);
        assert!(replay["context"]["amount"].is_number() && replay["context"]["card.count_1d"].is_number(), "{replay}");
        let full = server.get(&format!("/v1/decisions/{id}")).ok();
        assert_eq!(full, replay["recorded"]);
        assert_eq!(full["inputs"].as_object().unwrap().len(), 5, "{full}");
    }
    let error = server.post("/v1/decisions/pay-99999/replay", JSON, "").refused(404, "unknown_decision");
    assert!(error["hint"].is_string());
    server.get("/v1/decisions/nonsense").refused(404, "unknown_decision");
}

fn lists_decisions(server: &Server) {
    let page = server.get("/v1/decisions?decision=pay&limit=2").ok();
    let decisions = page["decisions"].as_array().unwrap();
    assert_eq!((decisions.len(), &decisions[0]["model_version"]), (2, &json!(1)), "{page}");
    let older = server.get(&format!("/v1/decisions?decision=pay&limit=2&before={}", page["next"])).ok();
    assert!(older["decisions"][0]["as_of_offset"].as_u64() < decisions[1]["as_of_offset"].as_u64(), "{older}");
    let blocked = server.get("/v1/decisions?outcome=block&limit=1000").ok();
    assert!(blocked["decisions"].as_array().unwrap().iter().all(|d| d["outcome"] == "block"));
    let error = server.get("/v1/decisions?outcome=blokc").refused(400, "bad_parameter");
    assert_eq!(error["fields"][0]["hint"], "did you mean `block`?");
    server.get("/v1/decisions?decision=nope").refused(404, "unknown_decision");
    for query in ["limit=0", "limit=1001", "limit=x", "before=-1", "colour=red", "limit=1&limit=2"] {
        server.get(&format!("/v1/decisions?{query}")).refused(400, "bad_parameter");
    }
}

fn runs(server: &Server, id: &str) {
    let runs = server.get("/v1/runs?kind=train&status=finished&model=fraud&limit=1").ok();
    assert_eq!((runs["runs"].as_array().unwrap().len(), &runs["next"]), (1, &json!(1)), "{runs}");
    assert_eq!(server.get("/v1/runs?status=failed").ok()["runs"].as_array().unwrap().len(), 1);
    assert_eq!(server.get("/v1/runs?kind=tarin").refused(400, "bad_parameter")["fields"][0]["hint"], "did you mean `train`?");
    let run = server.get(&format!("/v1/runs/{id}")).ok();
    assert!(run["metrics"]["auc"].is_number() && !run["params"].as_object().unwrap().is_empty(), "{run}");
    let names: Vec<&str> = run["artifacts"].as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"model.kltm") && names.contains(&"evaluation.json"), "{names:?}");
    let file = server.get(&format!("/v1/runs/{id}/artifacts/evaluation.json"));
    assert_eq!((file.header("content-type"), file.header("x-content-type-options")), (JSON, "nosniff"));
    assert!(file.ok()["calibration"].is_array());
    let model = server.get(&format!("/v1/runs/{id}/artifacts/model.kltm"));
    assert_eq!((model.header("content-type"), model.header("content-disposition")), ("application/octet-stream", "attachment"));
    server.get("/v1/runs/nope").refused(404, "unknown_run");
    server.get(&format!("/v1/runs/{id}/artifacts/nope")).refused(404, "not_found");
    server.get(&format!("/v1/runs/{id}/artifacts/..%2F..%2Fkilter.db")).refused(400, "bad_path");
}

fn watches(server: &Server) {
    // Enough decisions on the model in service for a reading or more.
    server.play(320..420);
    let monitors = server.get("/v1/monitors").ok();
    let drift = &monitors["monitors"][0];
    assert_eq!(
        (&drift["name"], &drift["signal"], &drift["state"], &drift["every"]),
        (&json!("drift"), &json!("psi"), &json!("alert"), &json!("1h")),
        "{drift}"
    );
    let state = server.runtime.block_on(server.service.watch("same")).unwrap();
    assert!(!state.alert, "{state:?}");
    let monitors = server.get("/v1/monitors").ok();
    let [quiet, same] = ["quiet", "same"].map(|name| named(&monitors["watches"], name));
    assert_eq!((&quiet["kind"], &quiet["source"], &quiet["threshold"]), (&json!("silence"), &json!("payments"), &json!(300.0)), "{quiet}");
    assert_eq!((&same["kind"], &same["state"], &same["value"]), (&json!("self-check"), &json!("ok"), &json!(0.0)), "{same}");
    let view = &same["check"]["totals"][0];
    assert_eq!((&view["view"], &view["missing"], &view["extra"], &view["mismatches"]), (&json!("card"), &json!(0), &json!(0), &json!({})));
    assert!(view["entities"].as_u64() > Some(0), "{same}");
    let alerts = server.get("/v1/alerts?monitor=drift&limit=1").ok();
    assert_eq!(alerts["alerts"][0]["monitor"], "drift");
    assert_eq!(server.get("/v1/alerts?since=2200-01-01").ok()["alerts"], json!([]));
    server.get("/v1/alerts?since=never").refused(400, "bad_parameter");

    let project = server.get("/v1/project").ok();
    assert_eq!(
        (&project["name"], &project["clock"], &project["definitions"]),
        (&json!("shop"), &json!("event"), &json!(server.service.plan.hash))
    );
    assert_eq!(
        named(&named(&project["sources"], "payments")["columns"], "amount"),
        json!({"name": "amount", "type": "float64", "required": true, "personal_data": false, "description": "in euros"})
    );
    assert_eq!(project["decisions"][0]["policy"][0], json!({"when": "score >= 0.5", "outcome": "block"}));
    assert!(project["schedules"][0]["next"].is_string() && project["views"][0]["features"].as_array().unwrap().len() == 4, "{project}");

    let status = server.get("/v1/status").ok();
    assert_eq!((&status["events"], &status["ready"]), (&json!(804), &json!(true)), "{status}");
    assert!(status["decisions"]["pay"]["block"].as_u64() > Some(0) && status["decide"]["count"].as_u64() == Some(4), "{status}");
    assert!(status["freshness"]["p99_us"].as_u64() > Some(0) && status["event_time"].is_string());

    let metrics = server.get("/metrics");
    assert!(metrics.header("content-type").starts_with("application/openmetrics-text"));
    let text = metrics.text();
    for line in [
        "kilter_events_total 804",
        "kilter_duplicates_total 0",
        "kilter_decisions_total{decision=\"pay\",outcome=\"block\"} ",
        "kilter_model_version{model=\"fraud\"} 1",
        "kilter_decide_quantile_seconds{quantile=\"0.99\"} ",
        "kilter_decide_seconds_bucket{le=\"+Inf\"} 4",
        "kilter_decide_seconds_count 4",
        "kilter_freshness_seconds_bucket{le=\"0.001\"} ",
        "kilter_http_requests_total{route=\"/v1/decide/{decision}\",status=\"200\"} 4",
        "kilter_http_request_duration_seconds_bucket{le=\"0.001\",route=\"/v1/decide/{decision}\"} ",
        "kilter_monitor_value{monitor=\"drift\",model=\"fraud\",signal=\"psi\"} ",
        "kilter_log_next_offset ",
        "kilter_watch_alert{monitor=\"same\"} 0",
        "kilter_self_check_entities_total{monitor=\"same\",view=\"card\",version=\"",
        "kilter_view_largest_entity_bytes{view=\"",
        "kilter_view_busiest_entity_share{view=\"",
        "kilter_webhook_deliveries_total{outcome=\"given_up\"} 0",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    assert!(!text.contains("route=\"/v1/lake\""), "a route that nobody called has rows");
}

/// The member of a list with that name.
fn named(list: &Value, name: &str) -> Value {
    list.as_array().unwrap().iter().find(|member| member["name"] == name).unwrap_or_else(|| panic!("no {name} in {list}")).clone()
}

/// Cases are compared; what is wrong with a policy is named by rule.
fn tries_policies(server: &Server) {
    let path = "/v1/policies/pay/backtest";
    let told = server
        .post(path, JSON, r#"{"policy": [{"when": "score >= 0.5 and payments.amount > 0", "outcome": "block"}, {"outcome": "accept"}]}"#)
        .ok();
    assert_eq!((&told["decision"], &told["changed"]), (&json!("pay"), &json!(0)), "{told}");
    assert!(told["cases"].as_u64() > Some(0) && told["toml"].as_str().unwrap().contains("outcome = \"block\""), "{told}");
    let kept = server.get(&format!("/v1/runs/{}/artifacts/comparison.json", told["run"].as_str().unwrap())).ok();
    for (name, value) in kept.as_object().unwrap() {
        assert_eq!(value, &told[name], "{name} is kept as it was told");
    }
    let error = server
        .post(path, JSON, r#"{"policy": [{"when": "scoer > 1", "outcome": "block"}, {"outcome": "accept"}]}"#)
        .refused(422, "bad_policy");
    let field = &error["fields"][0];
    assert!(field["message"].as_str().unwrap().contains("scoer") && field["hint"].as_str().unwrap().contains("score"), "{error}");
    let error = server.post(
        path,
        JSON,
        r#"{"policy": [{"wehn": "true", "outcome": "x"}, {"when": ""}, 7], "from": "2027-01-01", "to": "2026-01-01"}"#,
    );
    let error = error.refused(400, "invalid_request");
    let fields: Vec<&str> = error["fields"].as_array().unwrap().iter().map(|f| f["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["policy[0]", "policy[1]", "policy[2]", "to"], "{error}");
    server.post(path, JSON, "{}").refused(400, "invalid_request");
    server.post("/v1/policies/nothing/backtest", JSON, r#"{"policy": [{"outcome": "x"}]}"#).refused(404, "unknown_decision");
}

/// What is told has the members that the description has, at every depth.
fn tells_performance(server: &Server) {
    let path = "/v1/models/fraud/performance";
    let told = server.get(&format!("{path}?decision=pay&by=hour&segment=payments.amount")).ok();
    assert_eq!(
        (&told["model"], &told["decision"], &told["by"], &told["horizon"]),
        (&json!("fraud"), &json!("pay"), &json!("hour"), &json!("1h"))
    );
    let count = |list: &Value| list.as_array().unwrap().iter().map(|part| part["decisions"].as_u64().unwrap()).sum::<u64>();
    let all = told["total"]["decisions"].as_u64().unwrap();
    assert!(
        all > 0 && count(&told["cohorts"]) == all && count(&told["segment"]["groups"]) == all && count(&told["versions"]) == all,
        "{told}"
    );
    assert!(told["total"]["realised"]["auc"]["value"].is_number() && told["total"]["estimated"]["auc"]["low"].is_number(), "{told}");
    let document = server.get("/openapi.json").ok();
    let described = &document["paths"]["/v1/models/{model}/performance"]["get"]["responses"]["200"]["content"][JSON]["schema"];
    conforms(&document, described, &told, "performance");

    let error = server.get(path).refused(400, "bad_parameter");
    assert!(error["fields"][0]["field"] == "decision" && error["message"].as_str().is_some(), "{error}");
    let wrong = "decision=pay&by=year&good_label=2&version=0&from=2026-01-02&to=2026-01-01&reference=x&colour=red";
    let error = server.get(&format!("{path}?{wrong}")).refused(400, "bad_parameter");
    let mut fields: Vec<&str> = error["fields"].as_array().unwrap().iter().map(|f| f["field"].as_str().unwrap()).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["by", "colour", "good_label", "segment", "to", "version"], "{error}");
    server.get("/v1/models/nothing/performance").refused(404, "unknown_model");
    server.get(&format!("{path}?decision=nothing")).refused(404, "unknown_decision");
    let error = server.get(&format!("{path}?decision=pay&segment=amuont")).refused(404, "unknown_segment");
    assert_eq!(error["hint"], "did you mean `amount`?");
    server.get(&format!("{path}?decision=pay&segment=card&reference=nobody")).refused(404, "unknown_group");
    server.get(&format!("{path}?decision=pay&favourable=accept,nothing")).refused(404, "unknown_outcome");
    server.get(&format!("{path}?decision=pay&segment=at")).refused(409, "conflict");
}

fn conforms(document: &Value, schema: &Value, value: &Value, place: &str) {
    let schema = resolved(document, schema);
    if let Some(either) = schema["oneOf"].as_array() {
        let of = either.iter().find(|one| (one["type"] == "null") == value.is_null());
        return conforms(document, of.unwrap_or_else(|| panic!("{place}: {value}")), value, place);
    }
    match value {
        Value::Object(members) => {
            let described = described(document, &schema);
            let names = |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<std::collections::BTreeSet<_>>();
            assert_eq!(names(members), names(&described), "{place}");
            members.iter().for_each(|(name, value)| conforms(document, &described[name], value, &format!("{place}.{name}")));
        }
        Value::Array(items) => items.iter().for_each(|item| conforms(document, &schema["items"], item, &format!("{place}[]"))),
        _ => {
            let kind = match value {
                Value::Null => "null",
                Value::Bool(_) => "boolean",
                Value::String(_) => "string",
                Value::Number(n) if n.is_f64() => "number",
                _ => "integer",
            };
            let allowed: Vec<&Value> = schema["type"].as_array().map_or_else(|| vec![&schema["type"]], |types| types.iter().collect());
            let fits = allowed.iter().any(|one| **one == kind || (kind == "integer" && **one == "number"));
            assert!(fits, "{place}: {value} against {schema}");
        }
    }
}

fn resolved(document: &Value, schema: &Value) -> Value {
    match schema["$ref"].as_str() {
        Some(place) => document.pointer(place.trim_start_matches('#')).unwrap_or_else(|| panic!("{place} is missing")).clone(),
        None => schema.clone(),
    }
}

/// The members of an object and of those that it is made of.
fn described(document: &Value, schema: &Value) -> serde_json::Map<String, Value> {
    let schema = resolved(document, schema);
    let mut all = schema["properties"].as_object().cloned().unwrap_or_default();
    for part in schema["allOf"].as_array().into_iter().flatten() {
        all.extend(described(document, part));
    }
    all
}

fn refuses_wrong_management(server: &Server) {
    let wrong = |path: &str, body: &str, field: &str| {
        let error = server.post(path, JSON, body).refused(400, "invalid_request");
        assert_eq!(error["fields"][0]["field"], field, "{error}");
    };
    wrong("/v1/models/fraud/train", r#"{"from": "soon"}"#, "from");
    wrong("/v1/models/fraud/train", r#"{"promote": "perhaps"}"#, "promote");
    wrong("/v1/models/fraud/train", r#"{"form": "2026-01-01"}"#, "form");
    wrong("/v1/models/fraud/promote", r#"{"version": "one"}"#, "version");
    wrong("/v1/models/fraud/promote", r#"{"version": 0}"#, "version");
    wrong("/v1/models/fraud/promote", "{}", "version");
    server.post("/v1/models/fraud/promote", JSON, "{").refused(400, "malformed_json");
    server.post("/v1/models/fraud/promote", JSON, "1").refused(400, "not_an_object");
    server.post("/v1/models/fraud/promote", JSON, r#"{"version": 9}"#).refused(404, "unknown_version");
    assert_eq!(server.post("/v1/models/frud/train", JSON, "").refused(404, "unknown_model")["hint"], "did you mean `fraud`?");
    server.get("/v1/models/frud").refused(404, "unknown_model");
}

#[test]
fn what_is_nowhere_is_refused_in_the_same_shape() {
    let server = Server::start();
    let error = server.get("/v1/decision").refused(404, "unknown_route");
    assert_eq!(error["hint"], "did you mean `/v1/decisions`?");
    server.get("/nowhere/at/all").refused(404, "unknown_route");
    let wrong = server.get("/v1/decide/pay");
    wrong.refused(405, "wrong_method");
    assert_eq!(wrong.header("allow"), "POST");

    let id = server.get("/healthz").header("x-request-id").to_string();
    assert!(!id.is_empty() && id != server.get("/healthz").header("x-request-id"));
    let mine = reply(server.agent.get(server.url("/nope")).header("x-request-id", "mine-1").call().unwrap());
    assert_eq!((mine.status, mine.header("x-request-id")), (404, "mine-1"));

    // A web page must not borrow the rights of the browser's machine.
    let foreign = reply(server.agent.get(server.url("/v1/status")).header("origin", "https://evil.example").call().unwrap());
    foreign.refused(403, "foreign_origin");
    let rebound = reply(server.agent.get(server.url("/v1/status")).header("host", "evil.example").call().unwrap());
    rebound.refused(403, "foreign_host");
    let own = format!("http://{}", server.address);
    reply(server.agent.get(server.url("/v1/status")).header("origin", &own).call().unwrap()).ok();
    server.end();
}

#[test]
fn the_description_lists_every_route_and_the_projects_own_fields() {
    let server = Server::start();
    let document = server.get("/openapi.json").ok();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    let paths = document["paths"].as_object().unwrap();
    for (method, path) in ROUTES {
        let operation = &paths.get(path).unwrap_or_else(|| panic!("{path} is not described"))[method];
        assert!(operation["summary"].is_string() && operation["responses"].is_object(), "{method} {path}: {operation}");
        assert!(["200", "202"].iter().any(|done| operation["responses"][done].is_object()), "{method} {path}");
        let error = &operation["responses"]["default"]["content"]["application/json"]["schema"]["$ref"];
        assert_eq!(error, "#/components/schemas/ErrorBody", "{method} {path}");
    }
    let known: Vec<&str> = ROUTES.iter().map(|(_, path)| *path).collect();
    let own: Vec<&String> = paths.keys().filter(|p| !known.contains(&p.as_str())).collect();
    assert_eq!(
        own,
        [
            "/v1/decide/pay",
            "/v1/decide/strict",
            "/v1/events/accounts",
            "/v1/events/orders",
            "/v1/events/outcomes",
            "/v1/events/payments",
            "/v1/features/card",
            "/v1/features/card/{key}",
            "/v1/services/overview",
        ]
    );
    let request = &paths["/v1/decide/pay"]["post"]["requestBody"]["content"]["application/json"]["schema"];
    assert_eq!(request["properties"]["amount"], json!({"type": "number", "format": "double", "description": "in euros"}));
    assert_eq!(request["required"], json!(["card", "amount"]));
    let decided = &paths["/v1/decide/pay"]["post"]["responses"]["200"]["content"]["application/json"]["schema"]["allOf"];
    assert_eq!(decided[1]["properties"]["outcome"]["enum"], json!(["block", "accept"]));
    // Every reference leads somewhere.
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(references.len() > 40);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    // What the document shows as an example is accepted.
    let example = request["example"].to_string();
    server.post("/v1/decide/pay?preview=true", JSON, example).ok();
    let change = &paths["/v1/events/accounts"]["post"]["requestBody"]["content"]["application/json"];
    let row = &change["schema"]["oneOf"][0]["properties"]["after"]["oneOf"][0];
    assert_eq!((row["required"].clone(), row["properties"].get("__source_ts_ms")), (json!(["id", "owner"]), None));
    assert_eq!(server.post("/v1/events/accounts", JSON, change["example"].to_string()).ok()["accepted"], 1);
    server.end();
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member.as_str().filter(|_| name == "$ref") {
                    Some(reference) => found.push(reference.to_string()),
                    None => collect_references(member, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
        _ => {}
    }
}

#[test]
fn pages_for_people_need_no_internet() {
    let server = Server::start();
    let home = server.get("/");
    assert!(home.header("content-type").starts_with("text/html") && home.text().contains("/docs"), "{}", home.text());
    let docs = server.get("/docs/");
    assert_eq!(docs.status, 200);
    assert!(docs.text().contains("swagger-ui") && !docs.text().contains("https://"), "{}", docs.text());
    assert!(server.get("/docs/swagger-initializer.js").text().contains("/openapi.json"));
    assert_eq!(server.get("/docs/swagger-ui.css").header("content-type"), "text/css");
    assert_eq!(server.get("/healthz").ok()["status"], "ok");
    assert_eq!(server.get("/readyz").ok()["status"], "ready");
    server.service.status.log_refused();
    server.get("/readyz").refused(503, "log_broken");
    server.end();
}

#[test]
fn stopping_says_so_first_finishes_what_is_open_and_leaves_a_snapshot() {
    let mut server = Server::with(|o| o.drain_delay = Duration::from_millis(700));
    server.play(0..30);
    // A request whose body is still on its way when the server is told to stop.
    let body = payment(31);
    let mut open = TcpStream::connect(server.address).unwrap();
    let head = format!("POST /v1/decide/pay HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    open.write_all(head.as_bytes()).unwrap();
    open.write_all(&body.as_bytes()[..10]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let _ = server.stop.take().unwrap().send(());
    std::thread::sleep(Duration::from_millis(100));
    server.get("/readyz").refused(503, "draining");
    assert_eq!(server.get("/healthz").status, 200);
    server.post("/v1/decide/pay", JSON, payment(32)).ok();
    std::thread::sleep(Duration::from_millis(800));
    assert!(TcpStream::connect(server.address).is_err(), "no new connections");
    open.write_all(&body.as_bytes()[10..]).unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"outcome\":\"accept\""), "{answer}");
    let snapshots = Arc::clone(&server.service.data.snapshots);
    let Server { runtime, task, service, .. } = server;
    runtime.block_on(task).unwrap().unwrap();
    let newest = snapshots.newest(u64::MAX, &service.plan.hash).unwrap().snapshot.unwrap();
    assert_eq!(newest.offset, 62);
}

#[test]
fn slow_and_stuck_clients_are_cut_off() {
    let server = Server::with(|o| {
        o.header_timeout = Duration::from_millis(300);
        o.request_timeout = Duration::from_millis(300);
    });
    let mut slow = TcpStream::connect(server.address).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHo").unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(!answer.contains("200 OK"), "{answer}");
    // The head is complete, the body never comes.
    let head = b"POST /v1/decide/pay HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n";
    assert!(raw(&server, head).starts_with("HTTP/1.1 503"));
    server.end();
}

#[test]
fn other_machines_are_not_served_unless_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kilter.toml"), DEFINITIONS).unwrap();
    let project = project::load(dir.path()).unwrap_or_else(|report| panic!("{report}"));
    let runtime = Runtime::new().unwrap();
    runtime.block_on(async {
        let service = Service::start(project, StartOptions::default()).await.unwrap();
        let open = |listen: &str, allow_remote| ServeOptions { listen: listen.into(), allow_remote, ..ServeOptions::default() };
        let refused = bind(Arc::clone(&service), open("0.0.0.0:0", false)).await.err().unwrap().to_string();
        assert!(refused.contains("other machines can reach it") && refused.contains("hint"), "{refused}");
        let bound = bind(Arc::clone(&service), open("localhost:0", false)).await.unwrap();
        let taken = bind(Arc::clone(&service), open(&bound.address().to_string(), false)).await.err().unwrap();
        assert!(format!("{taken:#}").contains("another process may hold the port"), "{taken:#}");
        assert!(bind(Arc::clone(&service), open("here", false)).await.is_err());
        service.shutdown().await.unwrap();
    });
}

/// Not a check but a measurement: `cargo test --release -p kilter-server -- --ignored --nocapture latency`.
#[test]
#[ignore = "a measurement"]
fn latency_of_decide_over_loopback() {
    let server = Server::start();
    server.play(0..300);
    server.post("/v1/models/fraud/train", JSON, r#"{"promote": "always"}"#).ok();
    let body = |n: u64| payment(1000 + n);
    let mut took: Vec<Duration> = Vec::new();
    for n in 0..20_000 {
        let body = body(n);
        let started = Instant::now();
        server.post("/v1/decide/pay", JSON, body).ok();
        took.push(started.elapsed());
    }
    took.drain(..1000);
    took.sort();
    let inside = server.service.status.decide.percentiles();
    let figure = |q: f64| took[(took.len() as f64 * q) as usize];
    std::io::stderr()
        .write_all(format!("p50 {:?} p99 {:?} p99.9 {:?}; inside {inside:?}\n", figure(0.5), figure(0.99), figure(0.999)).as_bytes())
        .unwrap();
    server.end();
}

/// One split on the amount, as LightGBM writes it.
const STUMP: &str = "tree\n\
version=v4\n\
num_class=1\n\
num_tree_per_iteration=1\n\
max_feature_idx=4\n\
objective=binary sigmoid:1\n\
feature_names=card.count_1h card.count_1d card.sum_1d card.mean_1d payments.amount\n\
\n\
Tree=0\n\
num_leaves=2\n\
num_cat=0\n\
split_feature=4\n\
split_gain=10\n\
threshold=899.5\n\
decision_type=8\n\
left_child=-1\n\
right_child=-2\n\
leaf_value=-3 2\n\
leaf_count=600 100\n\
internal_count=700\n\
is_linear=0\n\
\n\
end of trees\n\
";

#[test]
fn a_model_from_elsewhere_comes_in_and_decides() {
    let server = Server::start();
    server.play(0..200);
    let waits = server.post("/v1/models/fraud/versions?file=stump.txt", "application/octet-stream", STUMP).ok();
    assert_eq!((&waits["version"], &waits["promote"], &waits["kind"]), (&json!(1), &json!(false), &json!("lightgbm")), "{waits}");
    assert_eq!(waits["sha256"], "14e0bef4b6f7503b8c243a34dccedb80e716f4b0c9289f46fbd839c9f7a058ed");
    assert_eq!((&waits["format"], &waits["program_version"], &waits["file"]), (&json!("lightgbm"), &json!("v4"), &json!("stump.txt")));
    assert_eq!(waits["reference_rows"], 200);
    assert!(waits["recent"]["auc"].as_f64().unwrap() > 0.9, "{waits}");
    assert_eq!(server.get("/v1/models/fraud").ok()["in_service"], Value::Null, "nobody asked for it to be promoted");
    let takes_over = server.post("/v1/models/fraud/versions?promote=always", "text/plain", STUMP).ok();
    assert_eq!((&takes_over["version"], &takes_over["promote"]), (&json!(2), &json!(true)), "{takes_over}");
    let model = server.get("/v1/models/fraud").ok();
    assert_eq!((&model["in_service"], &model["versions"][0]["trained_from"]), (&json!(2), &Value::Null), "{model}");

    // At the stream's own time: a clock that leaps is a tick of the schedule, which trains.
    let made = server.post("/v1/decide/pay", JSON, payment(203).replace("\"p203\"", "\"asked\"")).ok();
    assert_eq!((&made["outcome"], &made["model_version"]), (&json!("block"), &json!(2)), "{made}");
    assert_eq!(made["score"].as_f64().unwrap(), 1.0 / (1.0 + (-2.0f64).exp()));
    let mean = (-3.0 * 6.0 + 2.0) / 7.0;
    assert_eq!((&made["reasons"][0]["feature"], made["reasons"].as_array().unwrap().len()), (&json!("payments.amount"), 1), "{made}");
    assert!((made["reasons"][0]["contribution"].as_f64().unwrap() - (2.0 - mean)).abs() < 1e-9, "{made}");
    let replayed = server.post(&format!("/v1/decisions/{}/replay", made["decision_id"].as_str().unwrap()), JSON, "").ok();
    assert_eq!(replayed["same"], true, "{replayed}");

    let run = server.get(&format!("/v1/runs/{}", takes_over["run"].as_str().unwrap())).ok();
    assert_eq!((&run["kind"], &run["status"]), (&json!("import"), &json!("finished")), "{run}");
    assert_eq!((&run["params"]["file"], &run["params"]["sha256"]), (&json!("a request's body"), &waits["sha256"]), "{run}");
    let original = server.get(&format!("/v1/runs/{}/artifacts/original.txt", run["id"].as_str().unwrap()));
    assert_eq!(original.text(), STUMP);
    assert_eq!(server.get("/v1/runs?kind=import").ok()["runs"].as_array().unwrap().len(), 2);
    let file = server.get("/v1/models/fraud/versions/2/file");
    assert_eq!((file.status, &file.body[..4]), (200, b"KLTM".as_slice()));
    let again = server.post("/v1/models/fraud/versions?file=own.kltm", "application/octet-stream", &file.body).ok();
    assert_eq!((&again["format"], &again["kind"]), (&json!("kilter"), &json!("lightgbm")), "{again}");
    server.end();
}

#[test]
fn a_model_file_that_cannot_be_used_is_told_why() {
    let server = Server::start();
    let post = |path: &str, body: &str| server.post(path, "application/octet-stream", body);
    let own = "/v1/models/fraud/versions";
    let error = post(own, "no model at all").refused(422, "bad_model");
    assert!(
        error["message"].as_str().unwrap().contains("no Kilter model") && error["hint"].as_str().unwrap().contains("save_model"),
        "{error}"
    );
    let error = post(own, &STUMP.replace("card.count_1h", "card.count")).refused(422, "bad_model");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("it lacks `card.count_1h`; the model does not have `card.count`"), "{error}");
    let error = post(own, &STUMP.replace("card.count_1h card.count_1d", "card.count_1d card.count_1h")).refused(422, "bad_model");
    assert!(
        error["message"].as_str().unwrap().contains("another order") && error["hint"].as_str().unwrap().contains("card.sum_1d"),
        "{error}"
    );
    post(own, &STUMP.replace("binary sigmoid:1", "regression")).refused(422, "bad_model");
    post(own, "").refused(400, "empty_body");
    post("/v1/models/fruad/versions", STUMP).refused(404, "unknown_model");
    let error = post(&format!("{own}?promote=rule"), STUMP).refused(400, "bad_parameter");
    assert!(error["message"].as_str().unwrap().contains("never"), "{error}");
    post(&format!("{own}?flie=x"), STUMP).refused(400, "bad_parameter");
    post(&format!("{own}?file={}", "x".repeat(300)), STUMP).refused(400, "bad_parameter");
    assert_eq!(server.get("/v1/models/fraud").ok()["latest"], Value::Null);
    server.get("/v1/models/fraud/versions/7/file").refused(404, "unknown_version");
    server.get("/v1/models/fraud/versions/x/file").refused(400, "bad_path");
    post(own, STUMP).ok();
    server.get("/v1/models/fraud/versions/1/file?format=h5").refused(400, "bad_parameter");
    let error = server.get("/v1/models/fraud/versions/1/file?format=lightgbm").refused(422, "bad_model");
    assert!(error["hint"].as_str().unwrap().contains("original"), "{error}");
    server.end();
}
