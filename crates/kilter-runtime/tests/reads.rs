//! Reads of the past: what the server would have answered then, to the bit, or a refusal that says why not.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use kilter_core::{Clock, EntityKey, EventTime, Offset, Value};
use kilter_runtime::as_seen::Seen;
use kilter_runtime::entities::EntityRow;
use kilter_runtime::{FeatureRows, Look, Service, ServiceError, StartOptions, project};

const DEFINITIONS: &str = r#"
[project]
name = "shop"
[snapshot]
keep = 100
[source.payments]
time = "at"
max_future = "none"
lateness = "10m"
[source.payments.columns]
card = "int64"
at = "timestamp"
amount = "float64"
[features.card]
source = "payments"
entity = "card"
[features.card.columns]
n = "count(*) over 30m, 1d"
sum = "sum(amount) over 30m, lifetime"
last = "last(amount) over last 3"
idle = "time_since_last()"
[features.card.derived]
mean = "sum / n_1d"
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

async fn start(dir: &Path, clock: &Hand) -> Arc<Service> {
    let project = project::load(dir).unwrap_or_else(|report| panic!("{report}"));
    let options = StartOptions { clock: Arc::new(clock.clone()), schedules: false, ..StartOptions::default() };
    Service::start(project, options).await.unwrap()
}

async fn stop(service: Arc<Service>) {
    service.shutdown().await.unwrap();
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

async fn apply(service: &Arc<Service>, text: &str) -> Arc<Service> {
    let was = service.plan.hash.clone();
    std::fs::write(service.project.dir.join("kilter.toml"), text).unwrap();
    service.apply().await.unwrap();
    for _ in 0..1000 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if service.current().plan.hash != was {
            return service.current();
        }
    }
    panic!("{:?}", service.status.applying());
}

fn keys() -> Vec<EntityKey> {
    (0..4).map(EntityKey::Int).collect()
}

/// A live answer with the clock's time at which it was given.
struct Answer {
    arrived: EventTime,
    live: FeatureRows,
}

fn same(a: &FeatureRows, b: &FeatureRows) -> bool {
    let rows = a.rows.iter().zip(&b.rows).all(|(a, b)| {
        a.values.iter().zip(&b.values).all(|(x, y)| x.same_bits(y)) && (a.last_event, &a.newest) == (b.last_event, &b.newest)
    });
    rows && (a.at, a.as_of_offset, a.watermark, a.rows.len()) == (b.at, b.as_of_offset, b.watermark, b.rows.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_seen_is_read_again_to_the_bit_across_snapshots_restarts_and_changes() {
    for seed in 1..=3 {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kilter.toml"), DEFINITIONS).unwrap();
        let clock = Hand(Arc::new(AtomicI64::new(START)));
        let mut service = start(dir.path(), &clock).await;
        let mut rng = kilter_stats::Rng::seeded(seed);
        let mut answers: Vec<Answer> = Vec::new();
        for step in 0..120 {
            clock.0.fetch_add(1 + rng.below(400 * SECOND as u64) as i64, Ordering::Relaxed);
            if rng.below(5) > 0 {
                let back = if rng.bernoulli(0.2) { rng.below(3000 * SECOND as u64) as i64 } else { 0 };
                let row = format!(
                    r#"{{"card":{},"at":"{}","amount":{}}}"#,
                    rng.below(3),
                    EventTime(clock.now().0 - back),
                    rng.below(1000) as f64 / 7.0
                );
                let source = service.source("payments").unwrap();
                service.ingest(source, row.as_bytes(), None, Instant::now()).await.unwrap();
            }
            let view = service.view("card").unwrap();
            let live = service.feature_rows(view, keys(), None).await.unwrap();
            assert!(live.rows.iter().all(|look| look.complete.iter().all(|c| *c)), "a read of the present is whole");
            answers.push(Answer { arrived: clock.now(), live });
            match step {
                30 | 90 => {
                    service.snapshot().await.unwrap();
                }
                50 => {
                    stop(service).await;
                    service = start(dir.path(), &clock).await;
                }
                // Another view changes: what `card` meant stays.
                70 => {
                    let more = "[features.more]\nsource = \"payments\"\nentity = \"card\"\n[features.more.columns]\nx = \"max(amount)\"\n";
                    service = apply(&service, &format!("{DEFINITIONS}{more}")).await;
                }
                _ => {}
            }
        }
        let view = service.view("card").unwrap();
        for (i, Answer { arrived, live }) in answers.iter().enumerate() {
            let seen = service.features_as_seen(view, keys(), Seen::Arrived(*arrived)).await.unwrap();
            // A record of changed definitions takes a place, too.
            let seen = FeatureRows { as_of_offset: if i <= 70 { seen.as_of_offset } else { live.as_of_offset }, ..seen };
            assert!(same(&seen, live), "seed {seed}, answer {i}: {seen:?}\n{live:?}");
            let reading = Arc::clone(&service);
            let arrived = Seen::Arrived(*arrived);
            let all = tokio::task::spawn_blocking(move || {
                let mut all = BTreeMap::new();
                let mut each = |row: EntityRow| {
                    assert!(all.insert(row.key, row.look).is_none());
                    ControlFlow::Continue(())
                };
                reading.each_as_seen(view, None, arrived, &|| true, &mut each).unwrap();
                all
            });
            let known: BTreeMap<EntityKey, Look> =
                keys().into_iter().zip(seen.rows.clone()).filter(|(_, look)| look.last_event.is_some()).collect();
            assert_eq!(all.await.unwrap(), known, "seed {seed}, answer {i}");
            let by_offset = service.features_as_seen(view, keys(), Seen::Before(live.as_of_offset)).await.unwrap();
            // By offset the clock is that of the newest arrival; time since the last event counts from there.
            let others = |rows: &FeatureRows| rows.rows.iter().map(|look| look.values[3].clone()).collect::<Vec<Value>>();
            assert_eq!(others(&by_offset), others(live), "seed {seed}, answer {i}");
        }
        stop(service).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_too_far_back_or_of_another_meaning_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let text = DEFINITIONS.replace("[snapshot]", "[server]\npast_records = 5\n[snapshot]");
    std::fs::write(dir.path().join("kilter.toml"), &text).unwrap();
    let clock = Hand(Arc::new(AtomicI64::new(START)));
    let service = start(dir.path(), &clock).await;
    let send = async |service: &Arc<Service>, n: i64| {
        for i in 0..n {
            let row = format!(r#"{{"card":1,"at":"{}","amount":{i}}}"#, clock.now());
            let source = service.source("payments").unwrap();
            service.ingest(source, row.as_bytes(), None, Instant::now()).await.unwrap();
            clock.0.fetch_add(SECOND, Ordering::Relaxed);
        }
    };
    let seen = async |service: &Arc<Service>, offset: Offset| {
        service.features_as_seen(service.view("card").unwrap(), vec![EntityKey::Int(1)], Seen::Before(offset)).await
    };
    let refused = |answer: Result<FeatureRows, ServiceError>, says: &str| match answer {
        Err(ServiceError::Conflict(detail)) => assert!(detail.contains(says), "{detail}"),
        other => panic!("{other:?}"),
    };
    send(&service, 8).await;
    assert_eq!(seen(&service, 5).await.unwrap().rows[0].values[0], Value::Int(5));
    refused(seen(&service, 6).await, "lies 6 records behind the nearest snapshot that is kept (at 0); at most 5 are read");
    refused(seen(&service, 9).await, "there is no offset 9");
    service.snapshot().await.unwrap();
    assert_eq!(seen(&service, 8).await.unwrap().rows[0].values[0], Value::Int(8));
    refused(seen(&service, 7).await, "past_records");
    // The view comes to mean something else: what was seen before cannot be read under it.
    let service = apply(&service, &text.replace("sum(amount) over 30m", "sum(abs(amount)) over 30m")).await;
    // The snapshot that a change leaves is written beside the stream.
    service.snapshot().await.unwrap();
    send(&service, 2).await;
    refused(seen(&service, 8).await, "view `card` was not what it is today");
    assert_eq!(seen(&service, 10).await.unwrap().rows[0].values[0], Value::Int(9));
    refused(seen(&service, 2).await, "newest change of definitions; at most 5");
    // A moment before the first event has no history, one after the last has all of it.
    let at = |t: i64| Seen::Arrived(EventTime(START + t * SECOND));
    let read = service.features_as_seen(service.view("card").unwrap(), vec![EntityKey::Int(1)], at(3600)).await.unwrap();
    assert_eq!((read.as_of_offset, read.rows[0].values[0].clone()), (11, Value::Int(0)), "half an hour after all of them");
}
