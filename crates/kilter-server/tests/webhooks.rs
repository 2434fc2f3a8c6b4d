//! Webhooks over loopback: what a receiver gets, when it gets it again, and where nothing is sent.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kilter_server::{ServeOptions, WebhookOptions, listen};
use kilter_tracking::{NewWebhook, Secret, Tracking, WebhookEvent};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const API: &str = "/api/2.0/mlflow";

struct Server {
    runtime: Runtime,
    address: SocketAddr,
    agent: ureq::Agent,
    /// The same store, for a look into the outbox.
    tracking: Tracking,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

/// Sends over http and to loopback.
fn open() -> WebhookOptions {
    WebhookOptions { allow_http: true, networks: ["127.0.0.0/8", "::1"].map(|n| n.parse().unwrap()).to_vec() }
}

impl Server {
    fn start(dir: &Path, webhooks: WebhookOptions) -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (stop, stopped) = oneshot::channel();
        let (bound, tracking) = runtime.block_on(async {
            let options = ServeOptions { listen: "127.0.0.1:0".into(), webhooks, ..ServeOptions::default() };
            let (listening, tracking) = (listen(options).await.unwrap(), Tracking::open(dir).await.unwrap());
            (listening.of_tracking(tracking.clone()), tracking)
        });
        let address = bound.address();
        let task = runtime.spawn(bound.run(async move {
            let _ = stopped.await;
        }));
        let agent = ureq::Agent::config_builder().http_status_as_error(false).max_idle_connections(0).build().new_agent();
        Server { runtime, address, agent, tracking, stop, task }
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let request = ureq::http::Request::builder().method(method).uri(format!("http://{}{API}{path}", self.address));
        let request = request.header("content-type", "application/json").body(body.to_string()).unwrap();
        let request = self.agent.configure_request(request).allow_non_standard_methods(true).build();
        let mut response = self.agent.run(request).unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.body_mut().read_to_vec().unwrap()).unwrap())
    }

    fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method, path, &body);
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }

    fn hook(&self, url: &str, events: &[(&str, &str)], more: Value) -> String {
        let events: Vec<Value> = events.iter().map(|(entity, action)| json!({"entity": entity, "action": action})).collect();
        let mut body = json!({"name": "hook", "url": url, "events": events});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.ok("POST", "/webhooks", body)["webhook"]["webhook_id"].as_str().unwrap().to_string()
    }

    fn model(&self, name: &str) {
        self.ok("POST", "/registered-models/create", json!({"name": name}));
    }

    fn tag(&self, value: usize) {
        let tag = json!({"name": "m", "version": "1", "key": "k", "value": value.to_string()});
        self.ok("POST", "/model-versions/set-tag", tag);
    }

    fn wait_until_nothing_waits(&self) {
        wait(|| self.runtime.block_on(self.tracking.waiting_deliveries()).unwrap().is_empty());
    }

    fn end(self) {
        let _ = self.stop.send(());
        self.runtime.block_on(self.task).unwrap().unwrap();
    }
}

fn wait(mut seen: impl FnMut() -> bool) {
    let began = Instant::now();
    while !seen() {
        assert!(began.elapsed() < Duration::from_secs(120), "it did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One request as it came.
#[derive(Clone, Debug)]
struct Got {
    path: String,
    headers: HashMap<String, String>,
    body: String,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn is_signed_by(&self, secret: &str) -> bool {
        let (id, timestamp) = (self.header("x-mlflow-delivery-id"), self.header("x-mlflow-timestamp"));
        let mac = hmac(secret.as_bytes(), format!("{id}.{timestamp}.{}", self.body).as_bytes());
        self.header("x-mlflow-signature") == format!("v1,{}", STANDARD.encode(mac))
    }
}

/// HMAC by its definition (RFC 2104).
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let padded = |pad: u8| block.map(|b| b ^ pad);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().to_vec()
}

/// Takes requests, and answers each with the next of its answers, the last for ever.
struct Receiver {
    address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Receiver {
    fn start(answers: &[&str]) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let got: Arc<Mutex<Vec<Got>>> = Arc::default();
        let (into, answers) = (Arc::clone(&got), answers.iter().map(|a| a.to_string()).collect::<Vec<_>>());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = read(&stream) else { continue };
                let mut got = into.lock().unwrap();
                got.push(request);
                let answer = &answers[(got.len() - 1).min(answers.len() - 1)];
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Receiver { address, got }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    fn wait_for(&self, count: usize) -> Vec<Got> {
        wait(|| self.got().len() >= count);
        self.got()
    }
}

fn read(stream: &TcpStream) -> Option<Got> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_string();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some(Got { path, headers, body: String::from_utf8(body).unwrap() })
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

const OK: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const CREATED: [(&str, &str); 1] = [("REGISTERED_MODEL", "CREATED")];

#[test]
fn what_happens_is_told_signed_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (server, receiver) = (Server::start(dir.path(), open()), Receiver::start(&[OK]));
    let all =
        [("REGISTERED_MODEL", "CREATED"), ("MODEL_VERSION", "CREATED"), ("MODEL_VERSION_TAG", "SET"), ("MODEL_VERSION_ALIAS", "CREATED")];
    server.hook(&receiver.url("/hook?a=b"), &all, json!({"secret": "a secret"}));
    server.model("m");
    server.ok("POST", "/model-versions/create", json!({"name": "m", "source": "s3://bucket/m"}));
    for n in 0..20 {
        server.tag(n);
    }
    server.ok("POST", "/registered-models/alias", json!({"name": "m", "alias": "best", "version": "1"}));
    let got = receiver.wait_for(23);
    let told: Vec<String> =
        got.iter().map(|g| format!("{}.{}", g.json()["entity"].as_str().unwrap(), g.json()["action"].as_str().unwrap())).collect();
    let want = ["registered_model.created", "model_version.created"].into_iter();
    let want: Vec<&str> = want.chain(["model_version_tag.set"; 20]).chain(["model_version_alias.created"]).collect();
    assert_eq!(told, want);
    let tags: Vec<Value> = got[2..22].iter().map(|g| g.json()["data"]["value"].clone()).collect();
    assert_eq!(tags, (0..20).map(|n| json!(n.to_string())).collect::<Vec<_>>());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for one in &got {
        assert!(one.is_signed_by("a secret") && !one.is_signed_by("another"), "{one:?}");
        assert_eq!((one.path.as_str(), one.header("content-type")), ("/hook?a=b", "application/json"));
        let sent: u64 = one.header("x-mlflow-timestamp").parse().unwrap();
        assert!(now.abs_diff(sent) < 600, "{sent}");
        let time = one.json()["timestamp"].as_str().unwrap().to_string();
        assert!(time.ends_with("+00:00") && &time[10..11] == "T", "{time}");
    }
    let mut ids: Vec<&str> = got.iter().map(|g| g.header("x-mlflow-delivery-id")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 23);
    let first = got[0].json();
    assert_eq!(first["data"], json!({"name": "m", "tags": {}, "description": ""}));
    server.end();
}

#[test]
fn a_receiver_that_fails_is_asked_again_and_others_do_not_wait_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), open());
    let busy = answer("503 Service Unavailable", "retry-after: 1\r\n", "later");
    let broken = answer("500 Internal Server Error", "", "");
    let (slow, quick) = (Receiver::start(&[&busy, &broken, OK]), Receiver::start(&[OK]));
    server.hook(&slow.url("/"), &CREATED, json!({"secret": "s"}));
    server.hook(&quick.url("/"), &CREATED, json!({}));
    server.model("a");
    server.model("b");
    let got = slow.wait_for(4);
    let names: Vec<Value> = got.iter().map(|g| g.json()["data"]["name"].clone()).collect();
    assert_eq!(names, ["a", "a", "a", "b"]);
    let ids: Vec<&str> = got.iter().map(|g| g.header("x-mlflow-delivery-id")).collect();
    assert!(ids[0] == ids[1] && ids[1] == ids[2] && ids[2] != ids[3], "{ids:?}");
    // An attempt says when it is made, and is signed anew; what it says happened when it did.
    assert!(got.iter().all(|g| g.is_signed_by("s")) && got[0].body == got[2].body);
    let at = |n: usize| got[n].header("x-mlflow-timestamp").parse::<u64>().unwrap();
    assert!(at(2) > at(0));
    let got = quick.wait_for(2);
    assert_eq!((got.len(), got[0].header("x-mlflow-signature")), (2, ""));
    server.wait_until_nothing_waits();
    assert_eq!((slow.got().len(), quick.got().len()), (4, 2));
    server.end();
}

#[test]
fn nothing_follows_a_redirect_and_a_refusal_is_final() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), open());
    let elsewhere = Receiver::start(&[OK]);
    let moved = |status: &str| answer(status, &format!("location: {}\r\n", elsewhere.url("/secret")), "");
    let answers = [moved("302 Found"), moved("307 Temporary Redirect"), answer("404 Not Found", "", ""), OK.to_string()];
    let receiver = Receiver::start(&answers.each_ref().map(String::as_str));
    server.hook(&receiver.url("/"), &CREATED, json!({}));
    for name in ["a", "b", "c", "d"] {
        server.model(name);
    }
    server.wait_until_nothing_waits();
    let names: Vec<Value> = receiver.got().iter().map(|g| g.json()["data"]["name"].clone()).collect();
    assert_eq!((names, elsewhere.got().len()), (vec![json!("a"), json!("b"), json!("c"), json!("d")], 0));
    server.end();
}

#[test]
fn what_was_committed_before_an_end_is_delivered_after_it() {
    let (dir, receiver) = (tempfile::tempdir().unwrap(), Receiver::start(&[OK]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let copy = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let tracking = Tracking::open(dir.path()).await.unwrap();
        let new = NewWebhook {
            name: "hook".into(),
            description: String::new(),
            url: receiver.url("/"),
            events: vec![WebhookEvent::RegisteredModelCreated],
            secret: Secret::new("s"),
            is_active: true,
        };
        tracking.create_webhook(new).await.unwrap();
        tracking.create_registered_model("m", "", Vec::new()).await.unwrap();
        // As a kill leaves the files behind.
        for file in ["tracking.db", "tracking.db-wal"] {
            std::fs::copy(dir.path().join(file), copy.path().join(file)).unwrap();
        }
    });
    assert_eq!(receiver.got().len(), 0);
    let server = Server::start(copy.path(), open());
    let got = receiver.wait_for(1);
    assert!(got[0].is_signed_by("s"));
    server.wait_until_nothing_waits();
    server.end();
    // Delivered once: another start finds nothing to do.
    let server = Server::start(copy.path(), open());
    server.model("n");
    assert_eq!(receiver.wait_for(2)[1].json()["data"]["name"], "n");
    server.end();
}

#[test]
fn a_stop_does_not_wait_for_a_receiver_that_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), open());
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    server.hook(&format!("http://{}", silent.local_addr().unwrap()), &CREATED, json!({}));
    server.model("m");
    let (held, _) = silent.accept().unwrap();
    server.end();
    drop((held, silent));
    // It is still to be delivered.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let tracking = Tracking::open(dir.path()).await.unwrap();
        assert_eq!(tracking.waiting_deliveries().await.unwrap().len(), 1);
    });
}

#[test]
fn what_only_this_machine_reaches_is_not_called() {
    let (dir, receiver) = (tempfile::tempdir().unwrap(), Receiver::start(&[OK]));
    let here = receiver.url("/");
    // Registered while it was allowed.
    let server = Server::start(dir.path(), open());
    let id = server.hook(&here, &CREATED, json!({}));
    let secure = server.hook(&here.replace("http://", "https://"), &CREATED, json!({}));
    let named = server.hook(&here.replace("127.0.0.1", "localhost"), &CREATED, json!({}));
    server.end();
    for (options, words) in [
        (WebhookOptions::default(), "Invalid webhook URL scheme: 'http'. Allowed schemes are: https."),
        (WebhookOptions { allow_http: true, networks: Vec::new() }, "127.0.0.1 is not"),
        (WebhookOptions { allow_http: true, networks: vec!["10.0.0.0/8".parse().unwrap()] }, "127.0.0.1 is not"),
    ] {
        let server = Server::start(dir.path(), options.clone());
        let said = server.ok("POST", &format!("/webhooks/{id}/test"), json!({}));
        let message = said["result"]["error_message"].as_str().unwrap();
        let words = words.replace("127.0.0.1 is not", "must not resolve to a non-public IP address. '127.0.0.1' resolves to 127.0.0.1.");
        assert!(message.starts_with("Failed to test webhook: ") && message.contains(&words), "{message}");
        assert_eq!(said["result"]["success"], false);
        for id in [&secure, &named] {
            let said = server.ok("POST", &format!("/webhooks/{id}/test"), json!({}));
            let message = said["result"]["error_message"].as_str().unwrap();
            let is_refused = message.contains("must not resolve to a non-public IP address") || !options.allow_http;
            assert!(is_refused, "{message}");
        }
        server.model(&format!("m{}-{}", options.allow_http, options.networks.len()));
        server.wait_until_nothing_waits();
        let again = json!({"name": "x", "url": here, "events": [{"entity": "PROMPT", "action": "CREATED"}]});
        assert_eq!(server.call("POST", "/webhooks", &again).0, 400);
        assert_eq!(server.call("PATCH", &format!("/webhooks/{id}"), &json!({"url": "https://169.254.169.254/latest"})).0, 400);
        server.end();
    }
    assert_eq!(receiver.got().len(), 0);
}

#[test]
fn a_test_says_what_the_receiver_said() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), open());
    let long = "x".repeat(20_000);
    let answers = [
        answer("200 OK", "", "thanks"),
        answer("500 Oh", "", ""),
        answer("302 Found", "location: /x\r\n", ""),
        answer("200 OK", "", &long),
    ];
    let receiver = Receiver::start(&answers.each_ref().map(String::as_str));
    let id = server.hook(
        &receiver.url("/"),
        &[("PROMPT", "CREATED"), ("MODEL_VERSION", "CREATED")],
        json!({"secret": "s", "status": "DISABLED"}),
    );
    let test = |body: Value| server.ok("POST", &format!("/webhooks/{id}/test"), body)["result"].clone();
    assert_eq!(test(json!({})), json!({"success": true, "response_status": 200, "response_body": "thanks"}));
    let event = json!({"event": {"entity": "MODEL_VERSION_TAG", "action": "SET"}});
    assert_eq!(test(event), json!({"success": false, "response_status": 500, "response_body": ""}));
    assert_eq!(test(json!({}))["success"], false);
    assert_eq!(test(json!({}))["response_body"].as_str().unwrap().len(), 8 * 1024);
    let got = receiver.got();
    assert_eq!(
        got[0].json()["data"],
        json!({"name": "example_prompt", "tags": {"example_key": "example_value"}, "description": "An example prompt"})
    );
    assert_eq!(got[1].json()["data"], json!({"name": "example_model", "version": "1", "key": "example_key", "value": "example_value"}));
    assert!(got.iter().all(|g| g.is_signed_by("s")));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    server.ok("PATCH", &format!("/webhooks/{id}"), json!({"url": format!("http://{closed}/")}));
    let failed = test(json!({}));
    assert!(failed["error_message"].as_str().unwrap().starts_with("Failed to test webhook: "), "{failed}");
    let (status, answer) = server.call("POST", "/webhooks/nobody/test", &json!({}));
    assert_eq!((status, &answer["message"]), (404, &json!("Webhook with ID nobody not found.")));
    server.end();
}

#[test]
fn routes_answer_and_refuse_as_mlflows() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), WebhookOptions::default());
    let event = |entity: &str, action: &str| json!({"entity": entity, "action": action});
    let good = json!({"name": "w", "url": "https://1.1.1.1/x", "events": [event("MODEL_VERSION", "CREATED")], "secret": "hidden"});
    let made = server.ok("POST", "/webhooks", good.clone());
    let webhook = &made["webhook"];
    let (id, at) = (webhook["webhook_id"].as_str().unwrap(), &webhook["creation_timestamp"]);
    assert_eq!(id.len(), 36);
    let want = json!({"webhook": {
        "webhook_id": id, "name": "w", "url": "https://1.1.1.1/x", "events": [event("MODEL_VERSION", "CREATED")], "status": "ACTIVE",
        "creation_timestamp": at, "last_updated_timestamp": at,
    }});
    assert_eq!(made, want);
    assert_eq!(server.ok("GET", &format!("/webhooks/{id}"), json!({})), want);
    assert_eq!(server.ok("GET", "/webhooks?max_results=1", json!({}))["webhooks"], json!([webhook]));
    let change = json!({"status": "DISABLED", "description": "d", "name": "", "events": [], "secret": ""});
    let changed = server.ok("PATCH", &format!("/webhooks/{id}"), change)["webhook"].clone();
    assert_eq!((&changed["status"], &changed["description"], &changed["name"]), (&json!("DISABLED"), &json!("d"), &json!("w")));
    let numbers = json!({"events": [{"entity": 5, "action": 1}], "status": 1});
    let changed = server.ok("PATCH", &format!("/webhooks/{id}"), numbers)["webhook"].clone();
    assert_eq!((&changed["status"], &changed["events"]), (&json!("ACTIVE"), &json!([event("PROMPT", "CREATED")])));

    let missing = |name: &str| {
        format!("Missing value for required parameter '{name}'. See the API docs for more information about request parameters.")
    };
    for (field, value, words) in [
        ("name", json!(""), missing("name")),
        ("name", json!("a b"), "Webhook name 'a b' is invalid. It must start and end with a letter or digit, be less than 63".into()),
        ("url", Value::Null, missing("url")),
        ("url", json!("ftp://x"), "Invalid webhook URL scheme: 'ftp'. Allowed schemes are: https.".into()),
        (
            "url",
            json!("https://10.0.0.7"),
            "Webhook URL must not resolve to a non-public IP address. '10.0.0.7' resolves to 10.0.0.7.".into(),
        ),
        ("events", Value::Null, missing("events")),
        ("events", json!([]), "Webhook events must be a non-empty list of WebhookEvent objects: [].".into()),
        (
            "events",
            json!([event("MODEL_VERSION", "SET")]),
            "Invalid action 'set' for entity 'model_version'. Valid actions are: ['created']".into(),
        ),
        (
            "events",
            json!([event("MODEL", "SET")]),
            "Invalid value \"MODEL\" for parameter 'entity' supplied: it must be one of REGISTERED_MODEL, ".into(),
        ),
        ("events", json!([{"entity": "PROMPT"}]), missing("events[0].action")),
        ("events", json!(["prompt.created"]), "Invalid value \"prompt.created\" for parameter 'events[0]' supplied".into()),
        ("status", json!("PAUSED"), "Invalid value \"PAUSED\" for parameter 'status' supplied: it must be one of ACTIVE, DISABLED.".into()),
        ("secret", json!(7), "Invalid value 7 for parameter 'secret' supplied".into()),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let (status, answer) = server.call("POST", "/webhooks", &body);
        assert_eq!((status, &answer["error_code"]), (400, &json!("INVALID_PARAMETER_VALUE")), "{answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.starts_with(&words) && !message.contains("hidden"), "{message}");
    }
    assert_eq!(server.call("GET", "/webhooks?max_results=1001", &json!({})).1["message"], "max_results must be between 1 and 1000.");
    assert_eq!(server.ok("DELETE", &format!("/webhooks/{id}"), json!({})), json!({}));
    for (method, path) in [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/test")] {
        let (status, answer) = server.call(method, &format!("/webhooks/{id}{path}"), &json!({"url": "https://10.0.0.7"}));
        assert_eq!((status, &answer["error_code"]), (404, &json!("RESOURCE_DOES_NOT_EXIST")), "{method} {answer}");
    }
    assert_eq!(server.ok("GET", "/webhooks", json!({})), json!({}));
    server.end();
}
