//! A log whose beginning is in the lake only is the same log: record by record, for a training, a start, a replay and an erasure.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kilter_core::{EventTime, Span, Stub};
use kilter_runtime::audit::audit_all;
use kilter_runtime::erase::{self, Key, Request};
use kilter_runtime::jobs::train::Promotion;
use kilter_runtime::lake::{fill, tidy};
use kilter_runtime::project::{LakeDef, Project};
use kilter_runtime::{Control, Data, Record, Service, StartOptions, project};
use proptest::prelude::*;

const DEFINITIONS: &str = r#"
[project]
name = "shop"
clock = "event"
[log]
retention = "1us"
[lake]
url = "lake"
records = 400
[source.payments]
time = "at"
id = "payment_id"
lateness = "1h"
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
count = "count(*) over 1d, lifetime"
sum = "sum(amount) over 1d"
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
fallback = "accept"
"#;

/// Small log files, so that a short log has many.
fn project(dir: &Path) -> Project {
    std::fs::write(dir.join("kilter.toml"), DEFINITIONS).unwrap();
    let mut project = project::load(dir).unwrap_or_else(|report| panic!("{report}"));
    project.settings.log.segment_bytes = 2048;
    project
}

fn lake_of(project: &Project) -> LakeDef {
    project.definitions.lake.clone().unwrap()
}

async fn start(dir: &Path) -> Arc<Service> {
    Service::start(project(dir), StartOptions { schedules: false, ..StartOptions::default() }).await.unwrap()
}

async fn stop(service: Arc<Service>) {
    service.shutdown().await.unwrap();
    let (weak, dir) = (Arc::downgrade(&service.data), service.data.dir.clone());
    service.data.metadata.close().await;
    drop(service);
    let began = Instant::now();
    while weak.strong_count() > 0 || kilter_store::log::Log::open(dir.join("events"), Default::default()).is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "the data folder is not let go");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn at(minutes: u64) -> EventTime {
    EventTime(1_700_000_000_000_000) + Span(minutes as i64 * 60_000_000)
}

fn amount(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54
}

async fn play(service: &Service, range: std::ops::Range<u64>) {
    let payment = |n: u64| format!(r#"{{"payment_id":"p{n}","card":{},"at":"{}","amount":{},"more":{n}}}"#, n % 7, at(n * 3), amount(n));
    let outcome = |n: u64| format!(r#"{{"payment_id":"p{n}","at":"{}","fraud":{}}}"#, at(n * 3 + 30), amount(n) + n % 300 > 700);
    for n in range.step_by(10) {
        for (source, rows) in [("payments", (n..n + 10).map(payment).collect::<Vec<_>>()), ("outcomes", (n..n + 10).map(outcome).collect())]
        {
            let source = service.source(source).unwrap();
            let body = rows.join("\n");
            let report = service.ingest(source, body.as_bytes(), Some("application/x-ndjson"), Instant::now()).await.unwrap();
            assert_eq!(report.accepted, 10);
        }
    }
}

/// Fills the lake and removes everything from the log that may go.
async fn shorten(service: &Arc<Service>) {
    let service = Arc::clone(service);
    let shortened = tokio::task::spawn_blocking(move || {
        fill(&service.data, &lake_of(&service.project)).unwrap();
        let now = service.clock().now() + Span::DAY;
        tidy(&service.data, &service.project, now).unwrap().log_start
    });
    let start = shortened.await.unwrap();
    assert!(start > 1000, "the log begins at {start}");
}

async fn artifact(service: &Service, version: u32) -> String {
    service.data.metadata.get_version("fraud", version).await.unwrap().unwrap().spec.artifact
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shortened_log_trains_recovers_and_replays_as_the_whole_one() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path()).await;
    play(&service, 0..1200).await;
    service.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
    play(&service, 1200..1300).await;
    service.train(0, None, None, "test".into(), Promotion::Never).await.unwrap();
    let read = |service: &Arc<Service>| {
        let service = Arc::clone(service);
        async move { service.features(0, kilter_core::EntityKey::Int(3), None).await.unwrap().values }
    };
    let values = read(&service).await;
    service.snapshot().await.unwrap();
    shorten(&service).await;
    service.train(0, None, None, "test".into(), Promotion::Never).await.unwrap();
    assert_eq!(artifact(&service, 2).await, artifact(&service, 3).await, "the same bytes from the lake and the log's tail");
    assert_ne!(artifact(&service, 1).await, artifact(&service, 3).await, "other events make another model");
    let (data, plan) = (Arc::clone(&service.data), Arc::clone(&service.plan));
    let report = tokio::task::spawn_blocking(move || audit_all(&data, &plan, |_, _| {}).unwrap()).await.unwrap();
    assert_eq!((report.checked, report.mismatches), (1300, 0), "{:?}", report.details);
    stop(service).await;
    // Without a snapshot everything is computed anew, of which the lake has the larger part.
    std::fs::remove_dir_all(dir.path().join("kilter-data/snapshots")).unwrap();
    let service = start(dir.path()).await;
    assert_eq!(read(&service).await, values);
    stop(service).await;
    // A lake that is gone is missed, and nothing is made up.
    std::fs::rename(dir.path().join("lake"), dir.path().join("elsewhere")).unwrap();
    std::fs::remove_dir_all(dir.path().join("kilter-data/snapshots")).unwrap();
    let error = Service::start(project(dir.path()), StartOptions::default()).await.err().map(|e| format!("{e:#}")).unwrap_or_default();
    assert!(error.contains("there is no usable state of what came before\n  hint: a lake that was moved is put back"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_reaches_the_lake() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path()).await;
    play(&service, 0..700).await;
    service.snapshot().await.unwrap();
    shorten(&service).await;
    stop(service).await;
    let project = project(dir.path());
    let data = Data::open(&project).await.unwrap();
    let request = Request { keys: vec![Key { column: "card".into(), value: "3".into() }], ..Request::default() };
    let now = at(1_000_000);
    let (data, request, journal) = {
        let project = project.clone();
        let found = tokio::task::spawn_blocking(move || {
            let journal = erase::find(&data, &project, &request, now).unwrap();
            (data, request, journal)
        });
        found.await.unwrap()
    };
    let path = erase::begin(data, &request, journal, now).await.unwrap();
    let proof = erase::complete(&project, &path, &request.keys).await.unwrap();
    // A hundred payments, and their outcomes.
    assert_eq!(proof.counts.events, 200, "{:?}", proof.counts);
    let check = proof.check.clone().unwrap();
    assert!(check.is_clean() && check.events_searched > 1400, "{check:?}");
    assert!(proof.events.iter().all(|piece| piece.after.as_ref().is_some_and(|after| *after != piece.before)));
    let data = Data::open(&project).await.unwrap();
    assert!(data.events.start_offset() > 1000);
    let (mut events, mut stubs, mut last) = (0, 0, None);
    data.walk(&project.plan, 0, u64::MAX, |offset, record| {
        assert_eq!(offset, last.map_or(0, |last: u64| last + 1));
        last = Some(offset);
        match record {
            Record::Event(event) => {
                assert!(event.row[1] != kilter_core::Value::Int(3));
                events += 1;
            }
            Record::Erased(_) => stubs += 1,
            _ => {}
        }
        Ok(())
    })
    .unwrap();
    assert_eq!((events, stubs), (1200, 200));
}

/// A record of any kind.
fn record(kind: u8, n: u64, schemas: &[u32]) -> Vec<u8> {
    use kilter_core::{Event, Operation, Origin, SourceId, Value, record::encode};
    let mut out = Vec::new();
    match kind {
        0 | 1 => {
            let row = match kind {
                0 => vec![Value::text(&format!("p{n}")), Value::Int(n as i64), Value::Time(at(n)), Value::Float(n as f64 / 3.0)],
                _ => vec![Value::text("p"), Value::Null, Value::Bool(n.is_multiple_of(2))],
            };
            let time = at(n * 700);
            let event = Event {
                source: SourceId(0),
                offset: n,
                time,
                arrived: time,
                id: n.is_multiple_of(2).then(|| n.to_string().into()),
                operation: Operation::Upsert,
                row,
                extra: None,
                origin: n.is_multiple_of(3).then_some(Origin { partition: 1, position: n }),
            };
            encode(&event, schemas[usize::from(kind)], &mut out);
        }
        2 => Control::Trained { trigger: format!("t{n}"), now: at(n) }.encode(&mut out),
        _ => Stub { erasure: n, schema: schemas[0], time: at(n), arrived: at(n), origin: None, id: None }.encode(&mut out),
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn lake_and_log_together_are_the_whole_log(
        kinds in proptest::collection::vec(0u8..4, 50..400),
        steps in proptest::collection::vec((1u64..80, 0u64..400, any::<bool>()), 1..6),
        from in 0u64..400,
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let project = project(dir.path());
        let open = || runtime.block_on(Data::open(&project)).unwrap();
        let mut data = open();
        let numbers = data.register(&project.plan).unwrap();
        let schemas = ["payments", "outcomes"].map(|source| numbers[usize::from(project.plan.source(source).unwrap().0)]);
        let log: Vec<Vec<u8>> = kinds.iter().enumerate().map(|(n, kind)| record(*kind, n as u64, &schemas)).collect();
        let share = log.len().div_ceil(steps.len());
        for (part, (records, remove, reopen)) in log.chunks(share).zip(&steps) {
            for record in part {
                data.events.append(&[record]).unwrap();
            }
            data.events.sync().unwrap();
            fill(&data, &LakeDef { records: *records, ..lake_of(&project) }).unwrap();
            data.events.remove_before(*remove).unwrap();
            if *reopen {
                runtime.block_on(data.metadata.close());
                drop(data);
                data = open();
            }
            let so_far = &log[..data.events.next_offset() as usize];
            let mut expected = so_far.iter().enumerate().skip(from as usize);
            let mut reader = data.records(from);
            while let Some((offset, record)) = reader.next_record().unwrap() {
                prop_assert_eq!(expected.next(), Some((offset as usize, &record.to_vec())));
            }
            prop_assert_eq!(expected.next(), None);
            let some = from % data.events.next_offset();
            prop_assert_eq!(data.history.record(some).unwrap(), Some(log[some as usize].clone()));
        }
        runtime.block_on(data.metadata.close());
    }
}
