//! A running project, stopped and started in every way: the log alone decides what is true.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kilter_core::{EntityKey, EventTime, Value};
use kilter_runtime::audit::{audit_all, replay_one};
use kilter_runtime::jobs::train::Promotion;
use kilter_runtime::{Refusal, Service, ServiceError, StartOptions, project};
use kilter_store::metadata::ReadingFilter;

const DEFINITIONS: &str = r#"
[project]
name = "shop"
clock = "event"
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
amount = { type = "float64", required = true }
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
[monitor.drift]
model = "fraud"
signal = "psi"
above = 0.2
window = "6h"
every = "1h"
min_rows = 20
"#;

fn project(dir: &Path) -> project::Project {
    std::fs::write(dir.join("kilter.toml"), DEFINITIONS).unwrap();
    project::load(dir).unwrap_or_else(|report| panic!("{report}"))
}

async fn start(dir: &Path) -> Arc<Service> {
    Service::start(project(dir), StartOptions::default()).await.unwrap()
}

/// Ends the process's hold on the data without a snapshot or a word, as a crash would.
async fn crash(service: Arc<Service>) {
    let weak = Arc::downgrade(&service.data);
    let dir = service.data.dir.clone();
    drop(service);
    // The sequencer thread and the ticker let go within moments, and the logs once their last flush is done.
    let free = |log: &str| kilter_store::log::Log::open(dir.join(log), Default::default()).is_ok();
    for _ in 0..500 {
        if weak.strong_count() == 0 && ["events", "decisions", "dead-letters"].into_iter().all(free) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the data folder is still held");
}

fn payment(n: u64) -> String {
    let minute = n * 3;
    let amount = if n.is_multiple_of(7) { 900.0 + n as f64 % 13.0 } else { 10.0 + n as f64 % 50.0 };
    let at = EventTime(1_700_000_000_000_000) + kilter_core::Span(minute as i64 * 60_000_000);
    format!(r#"{{"payment_id":"p{n}","card":{},"at":"{at}","amount":{amount}}}"#, n % 5)
}

fn outcome(n: u64) -> String {
    let at = EventTime(1_700_000_000_000_000) + kilter_core::Span((n * 3 + 30) as i64 * 60_000_000);
    format!(r#"{{"payment_id":"p{n}","at":"{at}","fraud":{}}}"#, n.is_multiple_of(7))
}

async fn send(service: &Service, source: &str, rows: &[String]) -> kilter_runtime::IngestReport {
    let source = service.source(source).unwrap();
    service.ingest(source, rows.join("\n").as_bytes(), Some("application/x-ndjson"), Instant::now()).await.unwrap()
}

async fn play(service: &Service, range: std::ops::Range<u64>) {
    for n in range {
        send(service, "payments", &[payment(n)]).await;
        if n >= 10 {
            send(service, "outcomes", &[outcome(n - 10)]).await;
        }
    }
}

async fn features(service: &Service, card: i64) -> Vec<Value> {
    let at = EventTime(service.status.event_time.load(std::sync::atomic::Ordering::Relaxed));
    service.features(0, EntityKey::Int(card), Some(at)).await.unwrap().values
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_changes_nothing_and_every_decision_comes_out_again() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let steady = start(one.path()).await;
    play(&steady, 0..200).await;
    steady.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
    play(&steady, 200..300).await;

    let mut shaken = start(two.path()).await;
    for (step, range) in [(0, 0..77), (1, 77..200)] {
        play(&shaken, range).await;
        if step == 1 {
            shaken.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
            shaken.snapshot().await.unwrap();
        }
        crash(shaken).await;
        shaken = start(two.path()).await;
    }
    play(&shaken, 200..300).await;

    assert_eq!(steady.data.events.next_offset(), shaken.data.events.next_offset());
    for card in 0..5 {
        assert_eq!(features(&steady, card).await, features(&shaken, card).await, "card {card}");
    }
    let (a, _) = steady.decisions(None, 1000, |_| true).unwrap();
    let (b, _) = shaken.decisions(None, 1000, |_| true).unwrap();
    assert_eq!(a.len(), 300);
    assert_eq!(b.len(), 300);
    for (a, b) in a.iter().zip(&b) {
        assert_eq!(a.decision.difference(&b.decision, &a.layout), None);
    }
    assert!(a[0].decision.version == Some(1) && a[0].decision.score.is_some(), "the trained model is in service");

    let data = Arc::clone(&shaken.data);
    let plan = Arc::clone(&shaken.plan);
    let report = tokio::task::spawn_blocking(move || audit_all(&data, &plan, |_, _| {}).unwrap()).await.unwrap();
    assert_eq!((report.checked, report.mismatches), (300, 0), "{:?}", report.details);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loses_no_reading_of_a_monitor_and_doubles_none() {
    let kept = async |service: &Service| {
        // A snapshot has all readings before it written.
        service.snapshot().await.unwrap();
        let filter = ReadingFilter { monitor: "drift".into(), limit: 1000, ..ReadingFilter::default() };
        service.data.metadata.readings(&filter).await.unwrap()
    };
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let steady = start(one.path()).await;
    play(&steady, 0..200).await;
    steady.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
    play(&steady, 200..400).await;
    let expected = kept(&steady).await;
    assert!(expected.len() >= 3, "{expected:?}");
    assert!(expected.iter().all(|reading| reading.version == Some(1) && reading.subjects.len() == 6), "{expected:?}");

    let shaken = start(two.path()).await;
    play(&shaken, 0..200).await;
    shaken.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
    shaken.snapshot().await.unwrap();
    play(&shaken, 200..380).await;
    crash(shaken).await;
    let shaken = start(two.path()).await;
    play(&shaken, 380..400).await;
    assert_eq!(kept(&shaken).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_decision_is_replayed_from_a_snapshot_and_from_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path()).await;
    play(&service, 0..120).await;
    service.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
    service.snapshot().await.unwrap();
    play(&service, 120..140).await;
    let (newest, _) = service.decisions(None, 1, |_| true).unwrap();
    let id = kilter_pipeline::decision_id("pay", newest[0].decision.offset);
    let (data, plan) = (Arc::clone(&service.data), Arc::clone(&service.plan));
    tokio::task::spawn_blocking(move || {
        for full in [false, true] {
            let replayed = replay_one(&data, &plan, &id, full).unwrap();
            assert_eq!(replayed.difference, None);
            assert_eq!(replayed.from_offset == 0, full);
        }
        let unknown = replay_one(&data, &plan, "pay-999999", false).err().unwrap().to_string();
        assert!(unknown.contains("no decision `pay-999999`"), "{unknown}");
    })
    .await
    .unwrap();
    assert_eq!(service.recorded("pay-0").unwrap().decision.offset, 0, "found by halving, at either end");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_counts_once_even_across_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = start(dir.path()).await;
    let first = send(&service, "payments", &[payment(1), payment(2), payment(1)]).await;
    assert_eq!((first.accepted, first.duplicates), (2, 1));
    crash(service).await;
    service = start(dir.path()).await;
    let again = send(&service, "payments", &[payment(2), payment(3)]).await;
    assert_eq!((again.accepted, again.duplicates), (1, 1));
    let asked = service.decide(0, payment(3).as_bytes(), None, Instant::now(), false).await;
    assert_eq!(asked.unwrap_err(), ServiceError::Refused(Refusal::Duplicate { first: 2 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn late_and_bad_events_are_kept_with_their_reason() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path()).await;
    play(&service, 0..1000).await;
    let mut late = payment(1).replace("\"p1\"", "\"late\"");
    let report = send(&service, "payments", &[late.clone(), "{\"card\":1}".into(), "{oops".into()]).await;
    assert_eq!((report.accepted, report.late, report.rejected), (1, 1, 2));
    let letters = service.data.dead_letters.list(&kilter_store::dead_letter::DeadLetterQuery { limit: 10, ..Default::default() }).unwrap();
    let codes: Vec<&str> = letters.letters.iter().map(|(_, l)| l.code.as_str()).collect();
    assert!(codes.contains(&"late") && codes.contains(&"missing_time") || codes.contains(&"missing_key"), "{codes:?}");
    let letter = letters.letters.iter().find(|(_, l)| l.code == "late").map(|(_, l)| l).unwrap();
    assert!(letter.log_offset.is_some() && letter.payload.as_ref().unwrap().contains("late"));
    late.clear();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_brings_the_version_before_back_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = start(dir.path()).await;
    play(&service, 0..200).await;
    for _ in 0..2 {
        service.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
    }
    let (version, _) = service.rollback(0, "tester").await.unwrap();
    assert_eq!(version, 1);
    play(&service, 200..203).await;
    crash(service).await;
    service = start(dir.path()).await;
    play(&service, 203..205).await;
    let (newest, _) = service.decisions(None, 1, |_| true).unwrap();
    assert_eq!(newest[0].decision.version, Some(1));
    let alias = service.data.metadata.alias("fraud", "champion").await.unwrap();
    assert_eq!(alias.map(|a| a.version), Some(1));
    let none_left = service.rollback(0, "tester").await.unwrap_err();
    assert!(none_left.to_string().contains("no earlier version"), "{none_left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_checked_field_by_field_and_a_preview_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path()).await;
    play(&service, 0..5).await;
    let bad = service.decide(0, br#"{"payment_id":"x","card":"seven","amout":3}"#, None, Instant::now(), false).await;
    let Err(ServiceError::Fields(problems)) = bad else { panic!("{bad:?}") };
    let fields: Vec<&str> = problems.iter().map(|p| p.field.as_str()).collect();
    assert!(fields.contains(&"card") && fields.contains(&"amout") && fields.contains(&"amount"), "{problems:?}");
    let before = service.data.events.next_offset();
    let request = payment(6);
    let preview = service.decide(0, request.as_bytes(), None, Instant::now(), true).await.unwrap();
    assert!(!preview.recorded);
    assert_eq!(service.data.events.next_offset(), before);
    let made = service.decide(0, request.as_bytes(), None, Instant::now(), false).await.unwrap();
    assert_eq!(made.decision.inputs, preview.decision.inputs);
    assert_eq!(service.data.events.next_offset(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_on_events_that_a_power_failure_took_are_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path()).await;
    play(&service, 0..9).await;
    crash(service).await;
    // The event log loses its last two records, the decision log keeps all.
    let log = kilter_store::log::Log::open(dir.path().join("kilter-data/events"), Default::default()).unwrap().0;
    log.truncate_from(7).unwrap();
    drop(log);
    let service = start(dir.path()).await;
    let (left, _) = service.decisions(None, 100, |_| true).unwrap();
    assert_eq!(left.len(), 7);
    play(&service, 7..9).await;
    let (left, _) = service.decisions(None, 100, |_| true).unwrap();
    assert_eq!(left.len(), 9);
}

fn changed(dir: &Path, from: &str, to: &str) -> project::Project {
    let text = std::fs::read_to_string(dir.join("kilter.toml")).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(dir.join("kilter.toml"), text.replace(from, to)).unwrap();
    project::load(dir).unwrap_or_else(|report| panic!("{report}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn old_decisions_are_judged_by_the_definitions_of_their_day() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path()).await;
    play(&service, 0..120).await;
    service.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
    play(&service, 120..140).await;
    crash(service).await;

    let service = Service::start(changed(dir.path(), "score >= 0.5", "score >= 0.4"), StartOptions::default()).await.unwrap();
    play(&service, 140..150).await;
    let (data, plan) = (Arc::clone(&service.data), Arc::clone(&service.plan));
    let report = tokio::task::spawn_blocking(move || audit_all(&data, &plan, |_, _| {}).unwrap()).await.unwrap();
    assert_eq!((report.checked, report.mismatches, report.other_definitions), (10, 0, 140), "{:?}", report.details);
    let kept = service.data.definitions(&service.recorded("pay-0").unwrap().layout.definitions).unwrap();
    assert!(kept.contains("score >= 0.5"), "the old definitions are kept beside the data");
    let (newest, _) = service.decisions(None, 1, |_| true).unwrap();
    assert_eq!(newest[0].decision.version, Some(1), "a new threshold does not retire the model");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_inputs_mean_something_else_today_is_left_out_of_service() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path()).await;
    play(&service, 0..120).await;
    service.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
    crash(service).await;

    let project = changed(dir.path(), "sum(amount) over 1d", "sum(abs(amount)) over 1d");
    let service = Service::start(project, StartOptions::default()).await.unwrap();
    play(&service, 120..122).await;
    let (newest, _) = service.decisions(None, 1, |_| true).unwrap();
    assert_eq!(newest[0].decision.version, None, "the fallback decides until there is a model of these inputs");
    let refused = service.promote(0, 1, "test", "test").await.unwrap_err();
    assert!(refused.to_string().contains("other inputs"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_that_cannot_serve_leaves_the_registry_with_the_one_that_does() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path()).await;
    play(&service, 0..120).await;
    service.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
    crash(service).await;
    let project = changed(dir.path(), "mean(amount) over 1d", "mean(amount) over 2d");
    let service = Service::start(project, StartOptions::default()).await.unwrap();
    service.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
    service.rollback(0, "tester").await.unwrap_err();
    let alias = service.data.metadata.alias("fraud", "champion").await.unwrap();
    assert_eq!(alias.map(|a| a.version), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_event_is_buried_once_whatever_restarts_come() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = start(dir.path()).await;
    play(&service, 0..1000).await;
    send(&service, "payments", &[payment(1).replace("\"p1\"", "\"late\"")]).await;
    for _ in 0..2 {
        crash(service).await;
        service = start(dir.path()).await;
    }
    let query = kilter_store::dead_letter::DeadLetterQuery { limit: 10, code: Some("late".into()), ..Default::default() };
    assert_eq!(service.data.dead_letters.list(&query).unwrap().letters.len(), 1);
}
