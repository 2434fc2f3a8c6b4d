//! Which records belong to an entity, what a crash at each step leaves, and what a replay may put down to an erasure.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kilter_core::{EntityKey, EventTime, Stub, Value};
use kilter_pipeline::decision::{Entry, decode};
use kilter_store::dead_letter::{DeadLetterOptions, DeadLetters};
use kilter_store::log::{Log, LogOptions};
use kilter_store::metadata::{MonitorReading, NewRun, ReadingFilter, RunKind};

use super::{Journal, Key, Request, begin, complete, files_with, find, finish, verify};
use crate::audit::{audit_all, replay_one};
use crate::data::Data;
use crate::history::History;
use crate::jobs::backtest::BACKTEST_FILE;
use crate::jobs::curves::CURVES_FILE;
use crate::jobs::policy::COMPARISON;
use crate::project::{self, Project};
use crate::service::{Service, StartOptions};

const DEFINITIONS: &str = r#"
[project]
name = "bank"
clock = "event"
[source.payments]
time = "at"
id = "payment_id"
max_future = "none"
[source.payments.columns]
payment_id = "string"
customer = "int64"
merchant = "string"
at = "timestamp"
amount = "float64"
[source.outcomes]
time = "at"
max_future = "none"
[source.outcomes.columns]
payment_id = "string"
at = "timestamp"
fraud = "bool"
[source.loans]
time = "at"
key = "loan_id"
operation = "op"
max_future = "none"
[source.loans.columns]
loan_id = "int64"
customer = "int64"
amount = "float64"
at = "timestamp"
[source.shops]
time = "at"
max_future = "none"
[source.shops.columns]
merchant = "int64"
at = "timestamp"
[features.customer]
source = "payments"
entity = "customer"
columns = { n = "count(*)" }
[features.merchant]
source = "payments"
entity = "merchant"
columns = { n = "count(*)", hour = "count(*) over 1h" }
[features.loan]
source = "loans"
entity = "customer"
columns = { owed = { value = "sum(amount)", default = 0 } }
[model.fraud]
on = "payments"
learner = "logistic"
inputs = ["customer.n", "merchant.n", "merchant.hour_1h"]
label = { source = "outcomes", value = "fraud", on = "payment_id", within = "1h" }
[decision.pay]
on = "payments"
policy = [{ when = "customer.n > 3 or merchant.n > 5", outcome = "block" }, { outcome = "accept" }]
[decision.scored]
model = "fraud"
policy = [{ when = "score > 0.5", outcome = "block" }, { outcome = "accept" }]
fallback = "accept"
"#;

fn project(dir: &Path) -> Project {
    std::fs::write(dir.join("kilter.toml"), DEFINITIONS).unwrap();
    project::load(dir).unwrap_or_else(|report| panic!("{report}"))
}

fn payment(n: i64, id: &str, customer: i64, merchant: &str) -> String {
    format!(r#"{{"payment_id":"{id}","customer":{customer},"merchant":"{merchant}","at":{},"amount":1}}"#, 1_700_000_000 + n * 60)
}

fn other(n: i64, rest: &str) -> String {
    format!(r#"{{"at":{},{rest}}}"#, 1_700_000_000 + n * 60)
}

/// A stopped project: events of customers 42 and 7, in the order of the log.
async fn filled(dir: &Path) -> Project {
    let service = Service::start(project(dir), StartOptions::default()).await.unwrap();
    let events = [
        ("payments", payment(0, "a", 42, "m")),
        ("payments", payment(1, "b", 7, "m")),
        ("payments", payment(2, "both", 42, "n")),
        ("payments", payment(3, "both2", 7, "n")),
        ("outcomes", other(4, r#""payment_id":"a","fraud":false"#)),
        ("outcomes", other(5, r#""payment_id":"b","fraud":true"#)),
        ("loans", other(6, r#""loan_id":1,"customer":42,"amount":10,"op":"c""#)),
        ("loans", other(7, r#""loan_id":2,"customer":42,"amount":20,"op":"c""#)),
        ("loans", other(8, r#""loan_id":2,"customer":7,"amount":20,"op":"u""#)),
        ("loans", other(9, r#""loan_id":1,"op":"d""#)),
        ("loans", other(10, r#""loan_id":2,"amount":30,"op":"d""#)),
        ("payments", payment(11, "c", 7, "m")),
        ("payments", payment(12, "d", 8, "q")),
    ];
    for (source, body) in events {
        let source = service.source(source).unwrap();
        let report = service.ingest(source, body.as_bytes(), Some("application/json"), Instant::now()).await.unwrap();
        assert_eq!(report.accepted, 1, "{body}: {report:?}");
    }
    for body in [r#"{"payment_id":"x","customer":42,"amount":"much"}"#, r#"{"payment_id":"x","customer":7,"amount":"much"}"#] {
        let source = service.source("payments").unwrap();
        let report = service.ingest(source, body.as_bytes(), Some("application/json"), Instant::now()).await.unwrap();
        assert_eq!(report.rejected, 1, "{report:?}");
    }
    service.snapshot().await.unwrap();
    stop(service).await;
    project(dir)
}

async fn stop(service: Arc<Service>) {
    service.shutdown().await.unwrap();
    let (weak, dir) = (Arc::downgrade(&service.data), service.data.dir.clone());
    // Its files come and go until then, under the hands of who copies the folder.
    service.data.metadata.close().await;
    drop(service);
    for _ in 0..1000 {
        if weak.strong_count() == 0 && Log::open(dir.join("dead-letters"), LogOptions::default()).is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the data folder is still held");
}

fn request(column: &str, value: &str) -> Request {
    Request { keys: vec![Key { column: column.into(), value: value.into() }], ..Request::default() }
}

const NOW: EventTime = EventTime(1_700_100_000_000_000);

async fn found(project: &Project, request: Request) -> (Data, Request, Journal) {
    let data = Data::open(project).await.unwrap();
    let project = project.clone();
    let found = tokio::task::spawn_blocking(move || {
        let journal = find(&data, &project, &request, NOW).unwrap();
        (data, request, journal)
    });
    found.await.unwrap()
}

fn offsets(pieces: &[super::Piece]) -> Vec<u64> {
    pieces.iter().map(|p| p.offset).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_an_entity_is_found_and_what_it_shares_stays() {
    let dir = tempfile::tempdir().unwrap();
    let project = filled(dir.path()).await;
    let (data, _, journal) = found(&project, request("customer", "42")).await;
    let proof = journal.proof;
    // Two payments; the label of one; both loans' beginnings; the end of loan 1, which only says which row. The end of loan 2 tells of
    // customer 7's as well.
    assert_eq!(offsets(&proof.events), [0, 2, 4, 6, 7, 9], "{:?}", proof.counts);
    assert_eq!((proof.counts.linked_events, proof.counts.shared_keys, proof.counts.decisions), (2, 1, 4));
    assert_eq!(proof.dead_letters.len(), 1);
    let text = serde_json::to_string(&proof).unwrap();
    assert!(!text.contains("\"42\"") && !text.contains("\"a\""), "a proof holds no value: {text}");
    drop(data);
    let (_data, _, journal) = found(&project, request("merchant", "m")).await;
    assert_eq!(offsets(&journal.proof.events), [0, 1, 4, 5, 11]);
}

/// Ends the work at each step as a crash would; whoever opens the folder next finishes it.
#[tokio::test(flavor = "multi_thread")]
async fn cut_short_at_any_step_the_next_start_finishes_it() {
    let full = tempfile::tempdir().unwrap();
    filled(full.path()).await;
    let mut steps = Vec::new();
    for stop_at in 0.. {
        let dir = tempfile::tempdir().unwrap();
        copy(&full.path().join("kilter-data"), &dir.path().join("kilter-data"));
        let project = project(dir.path());
        let (data, request, journal) = found(&project, request("merchant", "m")).await;
        let path = begin(data, &request, journal, NOW).await.unwrap();
        let mut told = Vec::new();
        let folder = project.data_dir();
        {
            let open = |name: &str| Log::open(folder.join(name), LogOptions::default()).unwrap().0;
            let (events, decisions) = (open("events"), open("decisions"));
            let letters = DeadLetters::open(folder.join("dead-letters"), DeadLetterOptions::default()).unwrap().0;
            let history = History::new(Arc::new(events), &project);
            let outcome = finish(&folder, &history, &decisions, &letters, |step| {
                told.push(step.to_string());
                anyhow::ensure!(told.len() <= stop_at, "the power is gone");
                Ok(())
            });
            let outcome = outcome.await;
            assert_eq!(outcome.is_err(), told.len() > stop_at, "{outcome:?}");
        }
        let proof = complete(&project, &path, &request.keys).await.unwrap();
        assert_eq!(proof.counts.events, 5);
        let check = proof.check.clone().unwrap();
        assert!(check.is_clean(), "stopped at {stop_at}: {check:?}");
        let data = Data::open(&project).await.unwrap();
        assert!(Journal::open(&data.dir).unwrap().is_none());
        assert_eq!(verify(&data, &proof, &[]).unwrap().events_searched, 14, "one control record, however often it was tried");
        for piece in &proof.events {
            let stub = Stub::decode(&data.events.read(piece.offset).unwrap().unwrap()).unwrap();
            assert_eq!(stub.map(|s| format!("{:016x}", s.erasure)).as_deref(), Some(proof.erasure.as_str()));
        }
        data.metadata.close().await;
        drop(data);
        let service = Service::start(project.clone(), StartOptions::default()).await.unwrap();
        let n = |view: &str, key: EntityKey| {
            let (service, view) = (Arc::clone(&service), service.view(view).unwrap());
            async move { service.features(view, key, None).await.unwrap().values[0].clone() }
        };
        assert_eq!(n("merchant", EntityKey::Text("m".into())).await, Value::Int(0));
        assert_eq!(n("merchant", EntityKey::Text("n".into())).await, Value::Int(2));
        assert_eq!(n("customer", EntityKey::Int(7)).await, Value::Int(1));
        stop(service).await;
        if told.len() <= stop_at {
            steps = told;
            break;
        }
    }
    assert_eq!(
        steps,
        ["events", "decisions", "dead letters", "snapshots", "state", "columns", "control record", "metadata", "check", "proof", "end"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_puts_down_to_an_erasure_only_what_can_come_from_it() {
    let dir = tempfile::tempdir().unwrap();
    let project = filled(dir.path()).await;
    let (data, request, journal) = found(&project, request("customer", "42")).await;
    let path = begin(data, &request, journal, NOW).await.unwrap();
    complete(&project, &path, &request.keys).await.unwrap();
    let data = Arc::new(Data::open(&project).await.unwrap());
    let plan = Arc::new(project.plan.clone());
    let report = audit(&data, &plan).await;
    // 7 paid at `m` and `n` after 42; 8 paid at `q`, where 42 never was.
    assert_eq!((report.checked, report.mismatches, report.erased), (8, 0, 4), "{report:?}");
    let details: Vec<&str> = report.inputs_erased_details.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(details, ["scored-1", "scored-3", "scored-11"], "{report:?}");
    let replayed = replay(&data, &plan, "scored-1").await.unwrap();
    assert!(replayed.inputs_erased && replayed.difference.is_some_and(|d| d.contains("merchant.n")));
    let replayed = replay(&data, &plan, "scored-12").await.unwrap();
    assert!(!replayed.inputs_erased && replayed.difference.is_none());
    let gone = replay(&data, &plan, "scored-0").await.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(gone.contains("was erased"), "{gone}");

    // Someone has changed what the record says about 7's own payments, which nobody else's can have touched.
    let position = position_of(&data, "scored", 11);
    let changed = data.decisions.rewrite(&[position], |_, bytes| {
        let Ok(Entry::Decision(layout, mut decision)) = decode(bytes) else { return None };
        decision.inputs[0] += 1.0;
        let mut out = Vec::new();
        decision.encode(layout, &mut out);
        Some(out)
    });
    assert_eq!(changed.unwrap(), 1);
    let report = audit(&data, &plan).await;
    assert_eq!((report.mismatches, report.inputs_erased), (1, 2), "{report:?}");
    assert!(report.details[0].1.contains("customer.n"), "{report:?}");
    let replayed = replay(&data, &plan, "scored-11").await.unwrap();
    assert!(!replayed.inputs_erased && replayed.difference.is_some());
}

/// An event from far ahead made others late; without it they count. That is no difference of anyone's doing.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_late_by_an_erased_event_is_put_down_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(project(dir.path()), StartOptions::default()).await.unwrap();
    let source = service.source("payments").unwrap();
    let days_ahead = 10 * 1440;
    for (n, id, merchant) in [(0, "a", "z"), (days_ahead, "b", "far"), (1, "c", "z"), (2, "d", "z"), (3, "e", "y")] {
        let body = payment(n, id, 8, merchant);
        service.ingest(source, body.as_bytes(), Some("application/json"), Instant::now()).await.unwrap();
    }
    stop(service).await;
    let project = project(dir.path());
    let (data, request, journal) = found(&project, request("merchant", "far")).await;
    let path = begin(data, &request, journal, NOW).await.unwrap();
    complete(&project, &path, &request.keys).await.unwrap();
    let data = Arc::new(Data::open(&project).await.unwrap());
    let plan = Arc::new(project.plan.clone());
    let report = audit(&data, &plan).await;
    assert_eq!(report.mismatches, 0, "{report:?}");
    // In the merchant's own view nobody but `far` was touched, were it not for the clock.
    let replayed = replay(&data, &plan, "scored-3").await.unwrap();
    let (old, again) = (&replayed.recorded.decision.inputs, replayed.again.unwrap().inputs);
    assert!(replayed.inputs_erased && old[2] < again[2], "{old:?} against {again:?}");
    let clean = replay(&data, &plan, "scored-0").await.unwrap();
    assert!(clean.difference.is_none());
}

/// Shops that count the regular customers among their visitors.
const READING: &str = r#"
[project]
name = "bank"
clock = "event"
[source.payments]
time = "at"
max_future = "none"
columns = { customer = "int64", at = "timestamp" }
[source.visits]
time = "at"
id = "visit"
max_future = "none"
columns = { visit = "string", shop = "string", buyer = "int64", at = "timestamp" }
[source.outcomes]
time = "at"
max_future = "none"
columns = { visit = "string", good = "bool", at = "timestamp" }
[source.notes]
time = "at"
max_future = "none"
columns = { at = "timestamp" }
[features.customer]
source = "payments"
entity = "customer"
columns = { n = "count(*)" }
[features.shop]
source = "visits"
entity = "shop"
keys = { customer = "buyer" }
columns = { regulars = "count(*) where customer.n > 1" }
[model.regulars]
on = "visits"
learner = "logistic"
inputs = ["shop.regulars"]
label = { source = "outcomes", value = "good", on = "visit", within = "1h" }
[decision.seat]
on = "visits"
policy = [{ when = "shop.regulars > 0", outcome = "front" }, { outcome = "back" }]
"#;

pub(super) fn reading_project(dir: &Path) -> Project {
    std::fs::write(dir.join("kilter.toml"), READING).unwrap();
    project::load(dir).unwrap_or_else(|report| panic!("{report}"))
}

/// The visits of 42 stay, for they name a buyer; what the shop has read of customer 42 at them does not come out again.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_had_read_of_the_entity_is_put_down_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let service = Service::start(reading_project(dir.path()), StartOptions::default()).await.unwrap();
    let visit = |n: i64, shop: &str, buyer: i64| other(n, &format!(r#""visit":"v{n}","shop":"{shop}","buyer":{buyer}"#));
    let events = [
        ("payments", other(0, r#""customer":42"#)),
        ("payments", other(1, r#""customer":42"#)),
        ("payments", other(2, r#""customer":7"#)),
        ("visits", visit(3, "s", 42)),
        ("visits", visit(4, "s", 7)),
        ("visits", visit(5, "t", 7)),
        ("visits", visit(6, "t", 7)),
    ];
    for (source, body) in events {
        let source = service.source(source).unwrap();
        let report = service.ingest(source, body.as_bytes(), Some("application/json"), Instant::now()).await.unwrap();
        assert_eq!(report.accepted, 1, "{body}: {report:?}");
    }
    stop(service).await;
    let project = reading_project(dir.path());
    let (data, request, journal) = found(&project, request("customer", "42")).await;
    assert!(journal.proof.not_reached.iter().any(|what| what.contains("column `buyer`")), "{:?}", journal.proof.not_reached);
    let path = begin(data, &request, journal, NOW).await.unwrap();
    complete(&project, &path, &request.keys).await.unwrap();
    let data = Arc::new(Data::open(&project).await.unwrap());
    let report = audit(&data, &Arc::new(project.plan.clone())).await;
    assert_eq!((report.checked, report.mismatches, report.erased), (4, 0, 0), "{report:?}");
    assert_eq!(report.inputs_erased_details.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["seat-4"], "{report:?}");
}

async fn audit(data: &Arc<Data>, plan: &Arc<kilter_pipeline::Plan>) -> crate::audit::AuditReport {
    let (data, plan) = (Arc::clone(data), Arc::clone(plan));
    tokio::task::spawn_blocking(move || audit_all(&data, &plan, |_, _| {}).unwrap()).await.unwrap()
}

async fn replay(data: &Arc<Data>, plan: &Arc<kilter_pipeline::Plan>, id: &'static str) -> anyhow::Result<crate::audit::Replayed> {
    let (data, plan) = (Arc::clone(data), Arc::clone(plan));
    tokio::task::spawn_blocking(move || replay_one(&data, &plan, id, true)).await?
}

fn position_of(data: &Data, name: &str, offset: u64) -> u64 {
    let layout_of = |at: u64| match decode(&data.decisions.read(at).unwrap().unwrap()).unwrap() {
        Entry::Layout(layout) => layout.decision,
        other => panic!("{other:?}"),
    };
    (0..data.decisions.next_offset())
        .find(|at| {
            let entry = decode(&data.decisions.read(*at).unwrap().unwrap()).unwrap();
            matches!(entry, Entry::Decision(layout, d) if d.offset == offset && layout_of(layout) == name)
        })
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_counted_up_of_the_entity_goes_too() {
    let dir = tempfile::tempdir().unwrap();
    let project = filled(dir.path()).await;
    let data = Data::open(&project).await.unwrap();
    let seen = MonitorReading { monitor: "drift".into(), at: 1, ..MonitorReading::default() };
    data.metadata.keep_readings(&[seen]).await.unwrap();
    let mut runs = Vec::new();
    // The one event of 8 is the last, at 12.
    for params in [vec![("until_offset", "12")], vec![("until_offset", "13")], vec![("until_offset", "12"), ("until_offsets", "12 90")]] {
        let run = NewRun {
            kind: RunKind::Train,
            name: "train".into(),
            model: None,
            started_at: runs.len() as i64,
            definition_hash: None,
            data_fingerprint: None,
            seed: None,
        };
        let id = data.metadata.start_run(&run).await.unwrap();
        let params = params.into_iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        data.metadata.log_params(&id, &params).await.unwrap();
        for file in [CURVES_FILE, COMPARISON, BACKTEST_FILE] {
            data.artifacts.put_named(&id, file, format!("{id} {file}").as_bytes()).unwrap();
        }
        runs.push(id);
    }
    data.metadata.close().await;
    drop(data);
    let (data, request, journal) = found(&project, request("customer", "8")).await;
    let path = begin(data, &request, journal, NOW).await.unwrap();
    let proof = complete(&project, &path, &request.keys).await.unwrap();
    assert_eq!((offsets(&proof.events), proof.counts.readings, proof.counts.evaluations), (vec![12], 1, 6));
    let data = Data::open(&project).await.unwrap();
    for file in [CURVES_FILE, COMPARISON, BACKTEST_FILE] {
        assert_eq!(data.artifacts.runs_with(file).unwrap(), runs[..1], "{file}");
    }
    let filter = ReadingFilter { monitor: "drift".into(), limit: 9, ..ReadingFilter::default() };
    assert_eq!(data.metadata.readings(&filter).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_remembered_unless_they_are_to_be_forgotten_and_free_texts_are_redacted() {
    for forget_ids in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let project = filled(dir.path()).await;
        let now = EventTime(std::time::UNIX_EPOCH.elapsed().unwrap().as_micros() as i64);
        let data = Data::open(&project).await.unwrap();
        // Long enough that shortening it leaves pages free, which still hold it until the file is written anew.
        data.metadata.set_meta("note", &"because of merchant-47-of-the-note; ".repeat(1000)).await.unwrap();
        data.metadata.close().await;
        drop(data);
        // The key of a merchant is in the note too; the payments are few.
        let service = Service::start(project.clone(), StartOptions::default()).await.unwrap();
        let body = payment(20, "e", 9, "merchant-47-of-the-note");
        let source = service.source("payments").unwrap();
        service.ingest(source, body.as_bytes(), Some("application/json"), Instant::now()).await.unwrap();
        stop(service).await;
        let (data, request, mut journal) = found(&project, Request { forget_ids, ..request("merchant", "merchant-47-of-the-note") }).await;
        if !forget_ids {
            journal.keep_ids_since.values_mut().for_each(|since| *since = now.0 - 3_600_000_000);
        }
        let path = begin(data, &request, journal, NOW).await.unwrap();
        let proof = complete(&project, &path, &request.keys).await.unwrap();
        assert_eq!((proof.counts.metadata_rows, proof.counts.events), (1, 1));
        assert_eq!(files_with(&project.data_dir(), &["merchant-47-of-the-note"]).unwrap(), Vec::<String>::new());
        let service = Service::start(project, StartOptions::default()).await.unwrap();
        let report = service.ingest(source, body.as_bytes(), Some("application/json"), Instant::now()).await.unwrap();
        assert_eq!((report.accepted, report.duplicates), if forget_ids { (1, 0) } else { (0, 1) });
        stop(service).await;
    }
}

/// An interrupted training set holds what it has read.
#[tokio::test(flavor = "multi_thread")]
async fn a_training_set_begun_before_an_erasure_does_not_go_on_after_it() {
    use crate::jobs::training_set::{Features, Limits, Mode, Pick, Request as Rows, Spine, write};
    let dir = tempfile::tempdir().unwrap();
    let project = filled(dir.path()).await;
    let service = Service::start(project.clone(), StartOptions::default()).await.unwrap();
    let many: Vec<String> = (0..5_000).map(|n| payment(100 + n, &format!("m{n}"), 7, "m")).collect();
    let source = service.source("payments").unwrap();
    let sent = service.ingest(source, many.join("\n").as_bytes(), Some("application/x-ndjson"), Instant::now()).await.unwrap();
    assert_eq!(sent.accepted, 5_000);
    stop(service).await;
    let out = dir.path().join("rows.csv");
    let rows = move |restart| Rows {
        out: out.clone(),
        format: crate::TableFormat::parse("csv").unwrap(),
        spine: Spine::Events { source: "payments".into(), pick: Pick { condition: None, from: None, to: None, sample: None } },
        mode: Mode::Replay,
        features: Features::Default,
        keys: Vec::new(),
        include_self: None,
        threads: 1,
        overwrite: false,
        restart,
        limits: Limits { part_every: std::time::Duration::ZERO, part_records: 1, ..Limits::default() },
    };
    let make = |data: Data, request: Rows, cut_off: bool| {
        let project = project.clone();
        tokio::task::spawn_blocking(move || {
            let mut told = |_: &_| {
                if cut_off {
                    std::panic::resume_unwind(Box::new("cut off"));
                }
            };
            let run = std::panic::AssertUnwindSafe(|| write(&data, &project, &request, &mut told).map(|r| r.counts.rows));
            std::panic::catch_unwind(run).ok()
        })
    };
    let open = || Data::open(&project);
    assert!(make(open().await.unwrap(), rows(false), true).await.unwrap().is_none(), "cut off");
    assert!(dir.path().join("rows.csv.partial/manifest.json").exists());
    let (data, request, journal) = found(&project, request("customer", "42")).await;
    let path = begin(data, &request, journal, NOW).await.unwrap();
    complete(&project, &path, &request.keys).await.unwrap();
    let refused = make(open().await.unwrap(), rows(false), false).await.unwrap().unwrap().unwrap_err().to_string();
    assert!(refused.contains("begun before something was erased") && refused.contains("--restart"), "{refused}");
    assert_eq!(make(open().await.unwrap(), rows(true), false).await.unwrap().unwrap().unwrap(), 5_004, "payments of 7 and 8");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap().path()) {
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &target);
        } else {
            std::fs::copy(&entry, &target).unwrap();
        }
    }
}
