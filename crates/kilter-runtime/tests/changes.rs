//! Changes of a table's rows, from the door into the log and back out of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kilter_core::{Event, Operation, Value};

use kilter_runtime::files::{Pace, stream};
use kilter_runtime::{IngestReport, Record, Service, ServiceError, StartOptions, project};

const DEFINITIONS: &str = r#"
[project]
name = "bank"
clock = "event"
[source.accounts]
time = "__source_ts_ms"
key = "id"
envelope = "debezium"
max_future = "none"
columns = { id = "int64", owner = { type = "string", required = true }, balance = "float64", __source_ts_ms = "timestamp" }
[source.loans]
time = "at"
key = ["branch", "number"]
operation = "op"
max_future = "none"
columns = { branch = "string", number = "int64", at = "timestamp", amount = { type = "float64", required = true }, op = "string" }
[source.history]
connector = "file"
path = "history.ndjson"
time = "__source_ts_ms"
key = "id"
envelope = "debezium"
columns = { id = "int64", __source_ts_ms = "timestamp" }
[features.branch]
source = "loans"
entity = "branch"
columns = { loans = "count(*) over 1d" }
[features.owner]
source = "accounts"
entity = "owner"
time_zone = "Europe/Prague"
ttl = "3650d"
[features.owner.columns]
accounts = "count(*)"
largest = "max(balance) over lifetime, day"
opened = "last_k(id, 3) over 30d exact"
by_size = "sum(balance) by if(balance > 100, 'large', 'small')"
[features.owner.derived]
share = { value = "largest / get(by_size, 'large')", default = -1.0 }
last_id = "element(opened_30d_exact, -1)"
[features.past]
source = "history"
entity = "id"
columns = { n = "count(*)" }
[decision.loan]
on = "loans"
policy = [{ when = "amount > 100", outcome = "look" }, { outcome = "pay" }]
"#;

async fn start(dir: &Path) -> Arc<Service> {
    std::fs::write(dir.join("kilter.toml"), DEFINITIONS).unwrap();
    let project = project::load(dir).unwrap_or_else(|report| panic!("{report}"));
    Service::start(project, StartOptions::default()).await.unwrap()
}

async fn send(service: &Service, source: &str, body: &str) -> IngestReport {
    let source = service.source(source).unwrap();
    service.ingest(source, body.as_bytes(), None, Instant::now()).await.unwrap()
}

fn change(op: &str, before: &str, after: &str, ms: i64) -> String {
    format!(r#"{{"payload":{{"before":{before},"after":{after},"op":"{op}","ts_ms":{},"source":{{"ts_ms":{ms}}}}}}}"#, ms + 5)
}

fn logged(service: &Service) -> Vec<Event> {
    let decoder = service.data.decoder(&service.plan);
    let mut reader = service.data.events.reader(service.data.events.start_offset());
    let mut events = Vec::new();
    while let Some((offset, bytes)) = reader.next_record().unwrap() {
        if let Record::Event(event) = decoder.decode(offset, bytes).unwrap() {
            events.push(event);
        }
    }
    events
}

fn loan(number: i64, amount: &str, op: &str) -> String {
    format!(r#"{{"branch":"b","number":{number},"at":"2026-01-01T00:00:00Z","amount":{amount},"op":"{op}"}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_lie_in_the_log_with_their_operation_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path()).await;
    let body = [
        change("c", "null", r#"{"id":1,"owner":"ann","balance":2.5}"#, 1_767_225_600_000),
        "null".into(),
        r#"{"payload":{"ts_ms":1767225600000}}"#.into(),
        change("d", r#"{"id":1}"#, "null", 1_767_225_601_000),
        change("t", "null", "null", 1_767_225_602_000),
        change("u", "null", r#"{"id":null,"owner":"bob"}"#, 1_767_225_603_000),
    ];
    let report = send(&service, "accounts", &body.join("\n")).await;
    assert_eq!((report.accepted, report.ignored, report.rejected), (2, 2, 2), "{report:?}");
    assert_eq!(report.rejections.iter().map(|r| r.code).collect::<Vec<_>>(), ["truncate", "missing_key"]);
    let letters = service.data.dead_letters.list(&kilter_store::dead_letter::DeadLetterQuery { limit: 10, ..Default::default() }).unwrap();
    assert_eq!(letters.letters.len(), 2, "what tells of no row leaves no letter");

    let before = logged(&service);
    assert_eq!(before.iter().map(|e| e.operation).collect::<Vec<_>>(), [Operation::Upsert, Operation::Delete]);
    assert_eq!(
        (&before[1].row[0], &before[1].row[1], before[1].time),
        (&Value::Int(1), &Value::Null, before[0].time + kilter_core::Span::SECOND)
    );
    service.shutdown().await.unwrap();
    drop(service);
    let service = start(dir.path()).await;
    assert_eq!(logged(&service), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_is_not_decided_on() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path()).await;
    let report =
        send(&service, "loans", &[loan(1, "50", "c"), loan(1, "null", "d"), loan(2, "500", "u"), loan(2, "5", "D")].join("\n")).await;
    assert_eq!((report.accepted, report.rejected), (4, 0), "{report:?}");
    let (made, _) = service.decisions(None, 10, |_| true).unwrap();
    let mut offsets: Vec<u64> = made.iter().map(|d| d.decision.offset).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, [0, 2]);

    let asked = service.decide(0, loan(3, "50", "delete").as_bytes(), None, Instant::now(), false).await;
    let Err(ServiceError::Fields(problems)) = asked else { panic!("{asked:?}") };
    assert_eq!((problems[0].field.as_str(), problems[0].code), ("op", "delete"));
    assert_eq!(problems[0].hint.as_deref(), Some("send the delete to /v1/events/loans"));
    let asked = service.decide(0, loan(3, "50", "c").replace("\"b\"", "null").as_bytes(), None, Instant::now(), false).await;
    let Err(ServiceError::Fields(problems)) = asked else { panic!("{asked:?}") };
    assert_eq!((problems[0].field.as_str(), problems[0].code), ("branch", "missing_field"));
    service.decide(0, loan(3, "50", "c").as_bytes(), None, Instant::now(), false).await.unwrap();
    assert_eq!(logged(&service).len(), 5, "what was refused left no event");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_changes_is_streamed_and_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let lines = [
        change("r", "null", r#"{"id":1}"#, 1_767_225_600_000),
        r#"{"ts_ms":1}"#.into(),
        change("d", r#"{"id":1}"#, "null", 1_767_225_601_000),
        "null".into(),
    ];
    let path = dir.path().join("history.ndjson");
    std::fs::write(&path, lines[..2].join("\n") + "\n").unwrap();
    let service = start(dir.path()).await;
    let first = stream(&service, &[], Pace::AsFastAsPossible, |_| {}).await.unwrap();
    assert_eq!((first.accepted, first.ignored, first.rejected, first.resumed), (1, 1, 0, 0));
    std::fs::write(&path, lines.join("\n")).unwrap();
    let again = stream(&service, &[], Pace::AsFastAsPossible, |_| {}).await.unwrap();
    assert_eq!((again.accepted, again.ignored, again.rejected, again.resumed), (1, 2, 0, 1));
    assert_eq!(logged(&service).iter().map(|e| e.operation).collect::<Vec<_>>(), [Operation::Upsert, Operation::Delete]);
}

#[tokio::test(flavor = "multi_thread")]
async fn features_are_those_of_the_rows_that_stand() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path()).await;
    let row = |id: i64, owner: &str, balance: f64| format!(r#"{{"id":{id},"owner":"{owner}","balance":{balance}}}"#);
    let hour = 3_600_000;
    // Half past eleven at night in Prague: the next row but one lies in the next day there.
    let start_ms = 1_767_220_200_000;
    let body = [
        change("c", "null", &row(1, "ann", 50.0), start_ms),
        change("c", "null", &row(2, "ann", 400.0), start_ms + 1),
        change("c", "null", &row(3, "bob", 7.0), start_ms + 2),
        change("u", "null", &row(2, "ann", 200.0), start_ms + hour),
        change("u", "null", &row(3, "ann", 150.0), start_ms + hour + 1),
        change("d", &row(1, "ann", 50.0), "null", start_ms + hour + 2),
    ];
    let view = service.view("owner").unwrap();
    let read = async |service: &Service, owner: &str| {
        let read = service.features(view, kilter_core::EntityKey::Text(owner.into()), None).await.unwrap();
        let names = read.view.features().iter().map(|f| f.name.clone());
        let shown: Vec<String> = names.zip(&read.values).map(|(name, value)| format!("{name}={value}")).collect();
        shown.join(" ")
    };
    send(&service, "accounts", &body[..3].join("\n")).await;
    let ann = "accounts=2 largest=400 largest_day=400 opened_30d_exact=[1, 2] by_size={\"large\": 400, \"small\": 50} share=1 last_id=2";
    assert_eq!(read(&service, "ann").await, ann);
    assert_eq!(service.plan.views[view].features()[2].name, "largest_day");
    send(&service, "accounts", &body[3..].join("\n")).await;
    let ann = "accounts=2 largest=200 largest_day=200 opened_30d_exact=[2, 3] by_size={\"large\": 350} share=0.5714285714285714 last_id=3";
    let bob = "accounts=0 largest=null largest_day=null opened_30d_exact=[] by_size={} share=-1 last_id=null";
    assert_eq!((read(&service, "ann").await.as_str(), read(&service, "bob").await.as_str()), (ann, bob));
    service.shutdown().await.unwrap();
    drop(service);
    // From the snapshot and, without it, from the log.
    let service = start(dir.path()).await;
    assert_eq!((read(&service, "ann").await.as_str(), read(&service, "bob").await.as_str()), (ann, bob));
    let snapshots = service.data.dir.join("snapshots");
    service.shutdown().await.unwrap();
    drop(service);
    std::fs::remove_dir_all(snapshots).unwrap();
    let service = start(dir.path()).await;
    assert_eq!((read(&service, "ann").await.as_str(), read(&service, "bob").await.as_str()), (ann, bob));
}
