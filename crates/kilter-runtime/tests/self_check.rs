//! The self-check: silent while the engine is what the log says, whatever happens to both; and it finds what is not.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use kilter_core::{Clock, Event, EventTime, Operation, Value};
use kilter_pipeline::Pipeline;
use kilter_runtime::watch::{CheckReport, WatchState};
use kilter_runtime::{Data, Record, Service, StartOptions, project};
use kilter_store::metadata::AlertFilter;
use kilter_store::snapshot::{SnapshotOptions, Snapshots};

const DEFINITIONS: &str = r#"
[project]
name = "shop"
[source.payments]
time = "at"
max_future = "none"
lateness = "10m"
[source.payments.columns]
card = "int64"
at = "timestamp"
amount = "float64"
kind = "string"
[source.accounts]
time = "at"
max_future = "none"
key = "id"
operation = "op"
[source.accounts.columns]
id = "int64"
segment = "string"
limit_eur = "float64"
at = "timestamp"
[features.card]
source = "payments"
entity = "card"
where = "amount > -400"
[features.card.columns]
n = "count(*) over 5m, 1h"
sum = "sum(amount) over 1h, lifetime"
spread = "stddev(amount) over 1h"
last = "last(kind) over last 3"
gap = "count(*) over session 5m"
faded = "sum(amount) over decay 10m"
by = "sum(amount) by kind over 1h"
kinds = "approx_distinct(amount) over day"
[features.card.derived]
mean = "sum / n_1h"
[features.brief]
source = "payments"
entity = ["card", "kind"]
ttl = "20m"
[features.brief.columns]
n = "count(*)"
last = "last(amount)"
[features.segment]
source = "accounts"
entity = "segment"
[features.segment.columns]
n = "count(*)"
low = "min(limit_eur)"
[monitor.same]
kind = "self-check"
sample = SAMPLE
[monitor.quiet]
kind = "silence"
source = "payments"
after = "30m"
"#;

const SECOND: i64 = 1_000_000;
const START: i64 = 1_700_000_000 * SECOND;

#[derive(Clone)]
struct Hand(Arc<AtomicI64>);

impl Clock for Hand {
    fn now(&self) -> EventTime {
        EventTime(self.0.load(Ordering::Relaxed))
    }
}

fn hand() -> Hand {
    Hand(Arc::new(AtomicI64::new(START)))
}

fn write(dir: &Path, sample: &str, more: &str) {
    std::fs::write(dir.join("kilter.toml"), DEFINITIONS.replace("SAMPLE", sample) + more).unwrap();
}

async fn start(dir: &Path, clock: &Hand) -> Arc<Service> {
    let project = project::load(dir).unwrap_or_else(|report| panic!("{report}"));
    let options = StartOptions { clock: Arc::new(clock.clone()), schedules: false, ..StartOptions::default() };
    Service::start(project, options).await.unwrap()
}

async fn end(service: Arc<Service>, with_snapshot: bool) {
    if with_snapshot {
        service.shutdown().await.unwrap();
    }
    let weak = Arc::downgrade(&service.data);
    let dir = service.data.dir.clone();
    drop(service);
    let free = |log: &str| kilter_store::log::Log::open(dir.join(log), Default::default()).is_ok();
    for _ in 0..1000 {
        if weak.strong_count() == 0 && ["events", "decisions", "dead-letters"].into_iter().all(free) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the data folder is still held");
}

async fn apply(service: &Arc<Service>) -> Arc<Service> {
    let was = service.plan.hash.clone();
    service.apply().await.unwrap();
    for _ in 0..1000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if service.current().plan.hash != was {
            return service.current();
        }
    }
    panic!("{:?}", service.status.applying());
}

/// Payments with late ones among them, accounts that change and go.
async fn play(service: &Arc<Service>, clock: &Hand, rng: &mut kilter_stats::Rng, n: usize) {
    for _ in 0..n {
        clock.0.fetch_add(rng.below(60 * SECOND as u64) as i64, Ordering::Relaxed);
        let back = if rng.bernoulli(0.2) { rng.below(5400 * SECOND as u64) as i64 } else { 0 };
        let at = EventTime(clock.now().0 - back);
        let (source, row) = if rng.below(3) > 0 {
            let kind = ["\"card\"", "\"cash\"", "null"][rng.below(3) as usize];
            let amount = rng.below(10_000) as f64 / 7.0 - 500.0;
            ("payments", format!(r#"{{"card":{},"at":"{at}","amount":{amount},"kind":{kind}}}"#, rng.below(12)))
        } else {
            let op = if rng.below(4) == 0 { "d" } else { "u" };
            let (id, segment) = (rng.below(20), rng.below(4));
            ("accounts", format!(r#"{{"id":{id},"segment":"s{segment}","limit_eur":{},"at":"{at}","op":"{op}"}}"#, rng.below(1000)))
        };
        let id = service.source(source).unwrap();
        let report = service.ingest(id, row.as_bytes(), None, Instant::now()).await.unwrap();
        assert_eq!(report.accepted, 1, "{:?}", report.rejections);
    }
}

fn report(state: &WatchState) -> &CheckReport {
    state.check.as_ref().unwrap()
}

fn is_clean(state: &WatchState) -> bool {
    let clean = |v: &kilter_runtime::watch::ViewCheck| v.missing == 0 && v.extra == 0 && v.mismatches.is_empty();
    !state.alert && report(state).views.iter().all(clean) && report(state).examples.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stays_silent_through_restarts_changes_late_data_and_deletions() {
    let limited = "[state]\nmemory = \"64MiB\"\n";
    for (seed, sample, tier) in [(1, "1.0", ""), (2, "0.4", ""), (3, "1.0", limited)] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), sample, tier);
        let clock = hand();
        let mut rng = kilter_stats::Rng::seeded(seed);
        let mut service = start(dir.path(), &clock).await;
        let mut compared = 0;
        for step in 0..16 {
            play(&service, &clock, &mut rng, 40).await;
            let state = service.watch("same").await.unwrap();
            assert!(is_clean(&state), "seed {seed}, step {step}: {state:?}");
            assert_eq!(report(&state).offset, service.data.events.next_offset());
            compared += report(&state).views.iter().map(|v| v.entities).sum::<u64>();
            match step {
                3 => {
                    service.snapshot().await.unwrap();
                }
                5 | 12 => {
                    end(service, step == 5).await;
                    service = start(dir.path(), &clock).await;
                }
                8 => {
                    let more =
                        "[features.more]\nsource = \"payments\"\nentity = \"kind\"\n[features.more.columns]\nx = \"max(amount) over 2h\"\n";
                    write(dir.path(), sample, &format!("{more}{tier}"));
                    service = apply(&service).await;
                }
                _ => {}
            }
        }
        let state = service.watch("same").await.unwrap();
        assert_eq!(report(&state).views.len(), 4);
        assert!(compared > 16 * 4, "{compared}");
        let alerts = service.data.metadata.list_alerts(&AlertFilter::default()).await.unwrap();
        assert!(alerts.is_empty(), "{alerts:?}");
    }
}

/// A project whose newest snapshot, from which it starts, is not what the log says: `damage` makes of the pipeline at the end of the log
/// what was written.
async fn damaged(damage: impl Fn(&mut Pipeline, &mut dyn FnMut(Option<i64>) -> Pipeline)) -> (tempfile::TempDir, Hand, Arc<Service>) {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "1.0", "");
    let clock = hand();
    let service = start(dir.path(), &clock).await;
    play(&service, &clock, &mut kilter_stats::Rng::seeded(9), 200).await;
    assert!(is_clean(&service.watch("same").await.unwrap()));
    end(service, true).await;

    let project = project::load(dir.path()).unwrap();
    let plan = Arc::new(project.plan.clone());
    let data = Data::open(&project).await.unwrap();
    let until = data.events.next_offset();
    // The pipeline that has seen the log without one card.
    let mut without = |card: Option<i64>| {
        let mut pipeline = Pipeline::new(Arc::clone(&plan));
        data.walk(&plan, 0, until, |offset, record| {
            match record {
                Record::Event(e) if e.source.0 == 1 && card.is_some_and(|card| e.row[0] == Value::Int(card)) => pipeline.skip(offset),
                Record::Event(e) => drop(pipeline.process(&e)),
                _ => pipeline.skip(offset),
            }
            Ok(())
        })
        .unwrap();
        pipeline
    };
    let mut pipeline = without(None);
    damage(&mut pipeline, &mut without);
    let bytes = pipeline.snapshot();
    drop(data);
    let snapshots = Snapshots::open(dir.path().join("kilter-data/snapshots"), SnapshotOptions::default()).unwrap();
    snapshots.write(until, pipeline.now().unwrap().0, &plan.hash, &bytes).unwrap();
    for _ in 0..500 {
        if kilter_store::log::Log::open(dir.path().join("kilter-data/events"), Default::default()).is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let service = start(dir.path(), &clock).await;
    (dir, clock, service)
}

/// An event that is not in the log, at a card's newest moment.
fn made_up(pipeline: &mut Pipeline, card: i64) -> Event {
    let source = pipeline.plan().source("payments").unwrap();
    let view = pipeline.plan().view("card").unwrap();
    let known = pipeline.engine_mut().last_event(view, &kilter_core::EntityKey::Int(card));
    let time = known.or(pipeline.watermark(source)).unwrap();
    let schema = &pipeline.plan().sources[usize::from(source.0)].schema;
    let mut row = vec![Value::Null; schema.len()];
    row[schema.index("card").unwrap()] = Value::Int(card);
    row[schema.index("amount").unwrap()] = Value::Float(0.0);
    Event { source, offset: 0, time, arrived: time, id: None, operation: Operation::Upsert, row, extra: None, origin: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_finds_one_wrong_count_in_one_entity() {
    // One more event of no amount: sums stay, counts do not.
    let (_dir, clock, service) = damaged(|pipeline, _| {
        let event = made_up(pipeline, 7);
        pipeline.engine_mut().update(&event);
    })
    .await;
    let state = service.watch("same").await.unwrap();
    let card = report(&state).views.iter().find(|v| v.view == "card").unwrap();
    assert!(state.alert, "{state:?}");
    assert_eq!((card.entities >= 12, card.missing, card.extra), (true, 0, 0), "{card:?}");
    assert!(card.mismatches["n_1h"] >= 1 && !card.mismatches.contains_key("sum"), "{card:?}");
    assert!(card.mismatches.values().all(|n| *n <= 2), "asked for and found by itself: {card:?}");
    assert!(report(&state).views.iter().all(|v| v.view == "card" || v.mismatches.is_empty()));
    let (view, key, what) = &report(&state).examples[0];
    assert_eq!((view.as_str(), key.as_str()), ("card", "7"), "{what}");
    assert!(what.contains("live") && what.contains("by the log"), "{what}");
    // Told once while it lasts, again after its rest.
    let alerts = async || service.data.metadata.list_alerts(&AlertFilter::default()).await.unwrap();
    service.watch("same").await.unwrap();
    assert_eq!(alerts().await.len(), 1);
    clock.0.fetch_add(25 * 3600 * SECOND, Ordering::Relaxed);
    let state = service.watch("same").await.unwrap();
    let found = alerts().await;
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].alert.signal.as_str(), found[0].alert.model.as_deref()), ("self-check", None));
    assert!(found[0].alert.subject.starts_with("card."), "{:?}", found[0]);
    let card = report(&state).views.iter().find(|v| v.view == "card").unwrap();
    assert_eq!(report(&state).totals["card"].entities, 3 * card.entities);
    assert!(report(&state).totals["card"].mismatches["n_1h"] >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_finds_an_entity_too_many_and_one_too_few() {
    let (_dir, _, service) = damaged(|pipeline, _| {
        let event = made_up(pipeline, 999);
        pipeline.engine_mut().update(&event);
    })
    .await;
    let state = service.watch("same").await.unwrap();
    let card = report(&state).views.iter().find(|v| v.view == "card").unwrap().clone();
    assert_eq!((card.extra, card.missing, card.mismatches.len(), state.alert), (1, 0, 0, true), "{card:?}");
    assert_eq!(card.worst().1, "card.extra");

    let (_dir, _, service) = damaged(|pipeline, without| *pipeline = without(Some(3))).await;
    let state = service.watch("same").await.unwrap();
    let card = report(&state).views.iter().find(|v| v.view == "card").unwrap();
    assert_eq!((card.extra, card.missing, state.alert), (0, 1, true), "{card:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_falls_silent_is_told_of_once_in_a_while() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "1.0", "");
    let clock = hand();
    let service = start(dir.path(), &clock).await;
    assert!(!service.watch("quiet").await.unwrap().alert, "what never spoke has not fallen silent");
    play(&service, &clock, &mut kilter_stats::Rng::seeded(1), 20).await;
    assert!(!service.watch("quiet").await.unwrap().alert);
    clock.0.fetch_add(1900 * SECOND, Ordering::Relaxed);
    let alerts = async || service.data.metadata.list_alerts(&AlertFilter::default()).await.unwrap();
    for _ in 0..3 {
        assert!(service.watch("quiet").await.unwrap().alert);
    }
    let found = alerts().await;
    assert_eq!(found.len(), 1);
    let alert = &found[0].alert;
    assert_eq!((alert.signal.as_str(), alert.subject.as_str(), alert.threshold), ("silence", "payments", 1800.0));
    assert!(alert.detail.contains("no event has come from source `payments` for 19"), "{}", alert.detail);
    play(&service, &clock, &mut kilter_stats::Rng::seeded(1), 20).await;
    assert!(!service.watch("quiet").await.unwrap().alert, "it speaks again");
    clock.0.fetch_add(1900 * SECOND, Ordering::Relaxed);
    assert!(service.watch("quiet").await.unwrap().alert);
    assert_eq!(alerts().await.len(), 2, "silent anew, told anew");
    assert!(service.watch("other").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_looks_by_itself_and_takes_up_what_changes() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "1.0", "");
    let clock = hand();
    let project = project::load(dir.path()).unwrap();
    let service = Service::start(project, StartOptions { clock: Arc::new(clock.clone()), ..StartOptions::default() }).await.unwrap();
    play(&service, &clock, &mut kilter_stats::Rng::seeded(5), 50).await;
    let looked = async |service: &Service, name: &str| {
        for _ in 0..1000 {
            if let Some(state) = service.status.watches().remove(name) {
                return state;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("`{name}` does not look");
    };
    assert!(is_clean(&looked(&service, "same").await));
    assert!(!looked(&service, "quiet").await.alert);
    let text = std::fs::read_to_string(dir.path().join("kilter.toml")).unwrap();
    std::fs::write(dir.path().join("kilter.toml"), text.replace("[monitor.same]", "[monitor.again]")).unwrap();
    let service = apply(&service).await;
    assert!(is_clean(&looked(&service, "again").await));
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if !service.status.watches().contains_key("same") {
            return;
        }
    }
    panic!("a monitor that is gone is still shown");
}
