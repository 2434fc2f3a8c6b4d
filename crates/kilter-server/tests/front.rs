//! Two workers over loopback that share two shards: a request to either reaches the shard of its key.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use kilter_core::Value as Key;
use kilter_runtime::project::{Project, Shard, check_text};
use kilter_runtime::shards::Shards;
use kilter_runtime::{Service, StartOptions};
use kilter_server::access::Access;
use kilter_server::access::keys::{self, NewKey, Role};
use kilter_server::{Listening, ServeOptions, listen};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

const DEFINITIONS: &str = r#"
[project]
name = "shop"
[kafka]
brokers = "127.0.0.1:1"
[workers]
key = "card"
shards = 2
[source.payments]
time = "at"
max_future = "none"
[source.payments.columns]
card = { type = "int64", required = true }
at = "timestamp"
amount = { type = "float64", required = true }
[features.card]
source = "payments"
entity = "card"
columns = { n = "count(*) over lifetime" }
[source.outcomes]
time = "at"
columns = { card = "int64", at = "timestamp", fraud = "bool" }
[model.risk]
on = "payments"
inputs = ["payments.amount"]
label = { source = "outcomes", value = "fraud", on = "card", within = "1h" }
[decision.limit]
on = "payments"
policy = [{ when = "amount > 90", outcome = "review" }, { outcome = "approve" }]
"#;

struct Worker {
    address: SocketAddr,
    shards: Arc<Shards>,
    stop: Option<oneshot::Sender<()>>,
}

/// Shard 0 is with the first of two workers, shard 1 with the second.
struct Pair {
    runtime: Runtime,
    workers: [Worker; 2],
    _dir: tempfile::TempDir,
}

impl Pair {
    fn start() -> Pair {
        Pair::with(Access::default)
    }

    /// Each worker reads the keys for itself.
    fn with(access: impl Fn() -> Access) -> Pair {
        let runtime = Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let project = check_text(DEFINITIONS, "kilter.toml", dir.path()).unwrap_or_else(|report| panic!("{report}"));
        let workers = runtime.block_on(async {
            let first = Worker::start(&project, "first", access()).await;
            let second = Worker::start(&project, "second", access()).await;
            for (number, worker) in [&first, &second].into_iter().enumerate() {
                let data = dir.path().join(format!("shard-{number}"));
                let shard = Some(Shard { number: number as u32, data });
                let service = Service::start(Project { shard, ..project.clone() }, StartOptions::default()).await.unwrap();
                worker.shards.set(number as u32, Some(service));
            }
            [first, second]
        });
        let pair = Pair { runtime, workers, _dir: dir };
        for worker in &pair.workers {
            for (number, owner) in pair.workers.iter().enumerate() {
                worker.shards.hear(number as u32, owner.shards.worker.clone(), owner.address.to_string());
            }
        }
        pair
    }

    /// Asks a worker; `body` is sent where there is one.
    fn ask(&self, worker: usize, path: &str, body: Option<(&str, &str)>) -> (u16, String) {
        self.ask_with("", worker, path, body)
    }

    fn ask_with(&self, key: &str, worker: usize, path: &str, body: Option<(&str, &str)>) -> (u16, String) {
        let url = format!("http://{}{path}", self.workers[worker].address);
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let key = format!("Bearer {key}");
        let response = match body {
            None => agent.get(url).header("authorization", key).call(),
            Some((content_type, body)) => agent.post(url).header("authorization", key).header("content-type", content_type).send(body),
        };
        let mut response = response.unwrap();
        (response.status().as_u16(), response.body_mut().read_to_string().unwrap())
    }

    fn json(&self, worker: usize, path: &str, body: Option<&Value>) -> (u16, Value) {
        let text = body.map(Value::to_string);
        let (status, said) = self.ask(worker, path, text.as_deref().map(|text| ("application/json", text)));
        (status, serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}")))
    }

    /// A card of each shard.
    fn cards(&self) -> [i64; 2] {
        let of = |shard| (0..).find(|card| self.workers[0].shards.of_key(&Key::Int(*card)) == Some(shard)).unwrap();
        [of(0), of(1)]
    }
}

impl Worker {
    async fn start(project: &Project, name: &str, access: Access) -> Worker {
        let listening: Listening = listen(ServeOptions { listen: "127.0.0.1:0".into(), access, ..ServeOptions::default() }).await.unwrap();
        let address = listening.address();
        let workers = project.definitions.workers.clone().unwrap();
        let shards = Arc::new(Shards::new(Arc::new(project.clone()), workers, name.into()));
        let server = listening.of_worker(Arc::clone(&shards));
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Worker { address, shards, stop: Some(stop) }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.stop.take().map(|stop| stop.send(()));
            for shard in 0..2 {
                worker.shards.set(shard, None);
            }
        }
        let _ = &self.runtime;
    }
}

fn payment(card: i64, amount: f64) -> Value {
    json!({ "card": card, "at": "2026-03-01T00:00:00Z", "amount": amount })
}

#[test]
fn any_worker_answers_for_any_entity() {
    let pair = Pair::start();
    for (shard, card) in pair.cards().into_iter().enumerate() {
        for worker in 0..2 {
            let (status, decided) = pair.json(worker, "/v1/decide/limit", Some(&payment(card, 95.0)));
            assert_eq!((status, &decided["outcome"]), (200, &json!("review")), "{decided}");
            let offset = decided["as_of_offset"].as_u64().unwrap();
            assert_eq!(Shard::of_offset(offset), Some(shard as u32));
            let id = decided["decision_id"].as_str().unwrap();
            for asked in 0..2 {
                let (status, found) = pair.json(asked, &format!("/v1/decisions/{id}"), None);
                assert_eq!((status, &found["decision_id"]), (200, &decided["decision_id"]), "{found}");
                let (status, replayed) = pair.json(asked, &format!("/v1/decisions/{id}/replay"), Some(&json!({})));
                assert_eq!(status, 200, "{replayed}");
            }
        }
        for worker in 0..2 {
            let (status, read) = pair.json(worker, &format!("/v1/features/card/{card}"), None);
            assert_eq!((status, &read["features"]["n"]), (200, &json!(2)), "{read}");
            let (status, read) = pair.json(worker, &format!("/v1/shards/{shard}/features/card/{card}?freshness=true"), None);
            assert_eq!((status, &read["features"]["n"]), (200, &json!(2)), "{read}");
            let other = 1 - shard;
            let (_, read) = pair.json(worker, &format!("/v1/shards/{other}/features/card/{card}"), None);
            assert_eq!(read["features"]["n"], json!(0), "the other shard knows nothing of it");
        }
    }
    pair.workers[1].shards.set_copy(0, Some(7));
    let (status, listed) = pair.json(1, "/v1/shards", None);
    assert_eq!(status, 200);
    let at = |shard: usize| (listed["shards"][shard]["worker"].clone(), listed["shards"][shard]["here"].clone());
    assert_eq!((at(0), at(1)), ((json!("first"), json!(false)), (json!("second"), json!(true))));
    let copy = |shard: usize| listed["shards"][shard]["standby_offset"].clone();
    assert_eq!((copy(0), copy(1)), (json!(7), json!(null)));
    let (_, metrics) = pair.ask(0, "/metrics", None);
    assert!(metrics.contains("kilter_events_total{shard=\"0\"} 2"), "{metrics}");
    let (_, metrics) = pair.ask(0, "/v1/shards/1/metrics", None);
    assert!(metrics.contains("kilter_events_total 2"), "{metrics}");
}

#[test]
fn rows_go_to_their_shards_and_what_is_wrong_is_said_by_row() {
    let pair = Pair::start();
    let [zero, one] = pair.cards();
    let rows =
        json!([payment(zero, 1.0), payment(one, 2.0), { "card": one, "at": "2026-03-01T00:00:00Z" }, payment(one, 3.0), { "amount": 1 }]);
    let (status, report) = pair.json(0, "/v1/events/payments", Some(&rows));
    assert_eq!((status, &report["accepted"], &report["rejected"]), (200, &json!(3), &json!(2)), "{report}");
    let rejected: Vec<u64> = report["rejections"].as_array().unwrap().iter().map(|r| r["row"].as_u64().unwrap()).collect();
    assert_eq!(rejected, [2, 4]);
    let lines = format!("{}\n{}\nnonsense\n", payment(zero, 1.0), payment(one, 2.0));
    let (status, report) = pair.ask(1, "/v1/events/payments", Some(("application/x-ndjson", &lines)));
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((status, &report["accepted"], &report["rejections"][0]["row"]), (200, &json!(2), &json!(3)), "{report}");
    for (card, n) in [(zero, 2), (one, 3)] {
        let (_, read) = pair.json(0, &format!("/v1/features/card/{card}"), None);
        assert_eq!(read["features"]["n"], json!(n));
    }
    let (status, said) = pair.ask(0, "/v1/events/payments", Some(("text/csv", "card,amount\n1,2\n")));
    assert_eq!(status, 415, "{said}");
    let (status, said) = pair.json(0, "/v1/events/payments", Some(&json!([{ "card": one }])));
    assert_eq!((status, &said["error"]["code"]), (422, &json!("all_rejected")));
    let (status, said) = pair.json(0, "/v1/events/nothing", Some(&payment(one, 1.0)));
    assert_eq!((status, &said["error"]["code"]), (404, &json!("unknown_source")));
}

#[test]
fn a_shard_that_is_away_is_said_to_be_and_no_request_goes_in_circles() {
    let pair = Pair::start();
    let [_, one] = pair.cards();
    let second = pair.workers[1].shards.place(1);
    assert!(second.is_some());
    assert_eq!(pair.ask(0, "/readyz", None).0, 200);
    // Each believes that the other has shard 1.
    let Some(kilter_runtime::shards::Place::Here(kept)) = second else { panic!("shard 1 is with the second worker") };
    pair.workers[1].shards.set(1, None);
    pair.workers[1].shards.hear(1, "first".into(), pair.workers[0].address.to_string());
    for worker in 0..2 {
        let (status, said) = pair.json(worker, "/v1/decide/limit", Some(&payment(one, 1.0)));
        assert_eq!((status, &said["error"]["code"]), (503, &json!("shard_away")), "{said}");
    }
    // A worker that is gone.
    pair.workers[0].shards.hear(1, "third".into(), "127.0.0.1:1".into());
    let (status, said) = pair.json(0, &format!("/v1/features/card/{one}"), None);
    assert_eq!((status, &said["error"]["code"]), (503, &json!("shard_away")), "{said}");
    pair.workers[0].shards.hear(1, "first".into(), "nowhere".into());
    assert_eq!(pair.ask(0, "/readyz", None).0, 503);
    assert_eq!(pair.ask(0, "/healthz", None).0, 200);
    pair.workers[1].shards.set(1, Some(kept));
    let (status, said) = pair.json(0, "/v1/shards/7/status", None);
    assert_eq!((status, &said["error"]["code"]), (404, &json!("unknown_shard")), "{said}");
    let (status, said) = pair.json(0, "/v1/runs", None);
    assert_eq!((status, &said["error"]["code"]), (404, &json!("unknown_route")), "{said}");
    // What is about models is asked of any worker and done at shard 0.
    for (path, why) in [("/v1/models/risk/train", "the event log is empty"), ("/v1/shards/1/models/risk/train", "done at shard 0")] {
        let (status, said) = pair.json(1, path, Some(&json!({})));
        assert_eq!((status, &said["error"]["code"]), (409, &json!("conflict")), "{said}");
        assert!(said["error"]["message"].as_str().unwrap().contains(why), "{said}");
    }
    let foreign = ureq::get(format!("http://{}/v1/shards", pair.workers[0].address)).header("host", "evil.example").call();
    assert!(matches!(foreign, Err(ureq::Error::StatusCode(403))));
}

#[test]
fn what_is_told_live_of_a_shard_elsewhere_ends_with_the_worker_that_passes_it_on() {
    let mut pair = Pair::start();
    let url = format!("http://{}/v1/shards/1/live", pair.workers[0].address);
    let mut told = ureq::get(url).call().unwrap().into_body().into_reader();
    assert!(told.read(&mut [0; 64]).unwrap() > 0);
    let _ = pair.workers[0].stop.take().unwrap().send(());
    let (end, ended) = mpsc::channel();
    std::thread::spawn(move || end.send(std::io::copy(&mut told, &mut std::io::sink()).is_ok()));
    assert_eq!(ended.recv_timeout(Duration::from_secs(120)), Ok(true), "it ends by itself, and is not cut off");
    assert_eq!(pair.ask(1, "/readyz", None).0, 200, "the other goes on");
}

#[test]
fn a_key_goes_along_to_the_worker_that_answers_and_is_looked_at_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let keys: Vec<(Role, String)> = Role::ALL
        .map(|(role, word)| {
            let new = NewKey { name: word.into(), role, experiments: BTreeMap::new(), models: BTreeMap::new(), grants: None, lasts: None };
            (role, keys::create(dir.path(), new).unwrap())
        })
        .into();
    let pair = Pair::with(|| Access::of_folder(dir.path()).unwrap());
    let [zero, one] = pair.cards();
    let both = json!([payment(zero, 1.0), payment(one, 1.0)]).to_string();
    let (zero, one, nothing) = (payment(zero, 1.0).to_string(), payment(one, 1.0).to_string(), "{}".to_string());
    // At the worker itself and by way of the other, which has shard 0 or 1.
    for worker in 0..2 {
        for (path, body, wanted) in [
            ("/v1/shards", None, Role::Read),
            ("/metrics", None, Role::Read),
            ("/v1/features/card/1", None, Role::Read),
            ("/v1/shards/0/status", None, Role::Read),
            ("/v1/shards/1/status", None, Role::Read),
            ("/v1/shards/1/metrics", None, Role::Read),
            ("/v1/decide/limit", Some(&zero), Role::Write),
            ("/v1/decide/limit", Some(&one), Role::Write),
            ("/v1/events/payments", Some(&both), Role::Write),
            ("/v1/shards/0/events/payments", Some(&zero), Role::Write),
            ("/v1/shards/1/decide/limit", Some(&one), Role::Write),
            ("/v1/models/risk/train", Some(&nothing), Role::Manage),
            ("/v1/shards/0/models/risk/promote", Some(&nothing), Role::Manage),
            ("/v1/shards/1/project/apply", Some(&nothing), Role::Manage),
        ] {
            let body = body.map(|body| ("application/json", body.as_str()));
            assert_eq!(pair.ask(worker, path, body).0, 401, "{path}");
            for (role, key) in &keys {
                let (status, said) = pair.ask_with(key, worker, path, body);
                assert_eq!(status == 403, *role < wanted, "{path} by worker {worker} with {role:?}: {status} {said}");
                assert_ne!(status, 401, "{path} by worker {worker} with {role:?}: {said}");
            }
        }
        for open in ["/healthz", "/readyz"] {
            assert_eq!(pair.ask(worker, open, None).0, 200, "{open}");
        }
        // A header that says it was let in elsewhere lets nobody in.
        let url = format!("http://{}/v1/shards/0/status", pair.workers[worker].address);
        let forged = ureq::get(url).header("kilter-forwarded", "first").call();
        assert!(matches!(forged, Err(ureq::Error::StatusCode(401))));
    }
    let read = &keys[1].1;
    let (_, figures) = pair.ask_with(read, 0, "/metrics", None);
    assert!(figures.contains("kilter_access_refused_total{reason=\"malformed\"}"), "{figures}");
    assert!(figures.contains("kilter_events_total{shard=\"0\"}"), "{figures}");
}
