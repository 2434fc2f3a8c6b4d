//! A project that goes on from a state made elsewhere is the one that read all events itself.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kilter_core::{EntityKey, Event, EventTime, Operation, SourceId, Value};
use kilter_pipeline::parts::{StatePass, StateSweep};
use kilter_runtime::boot::boot_of;
use kilter_runtime::project::Project;
use kilter_runtime::{FeatureRows, Service, StartOptions, project};
use kilter_stats::Rng;

const DEFINITIONS: &str = r#"
[project]
name = "shop"
clock = "event"
[source.payments]
time = "at"
max_future = "none"
lateness = "10m"
[source.payments.columns]
card = "int64"
shop = "string"
at = "timestamp"
amount = "float64"
[features.card]
source = "payments"
entity = "card"
[features.card.columns]
n = "count(*) over 30m, 1d"
sum = "sum(amount) over 30m, lifetime"
last = "last(shop)"
[features.shop]
source = "payments"
entity = "shop"
[features.shop.columns]
mean = "mean(amount) over 1d"
"#;
const START: i64 = 1_700_000_000_000_000;

fn event(rng: &mut Rng, minute: i64) -> Event {
    let time = EventTime(START + minute * 60_000_000);
    let shop = Value::text(["a", "b"][rng.below(2) as usize]);
    let row = vec![Value::Int(rng.below(3) as i64), shop, Value::Time(time), Value::Float(rng.below(1000) as f64 / 7.0)];
    Event { source: SourceId(0), offset: 0, time, arrived: time, id: None, operation: Operation::Upsert, row, extra: None, origin: None }
}

fn line(event: &Event) -> String {
    let [Value::Int(card), Value::Text(shop), Value::Time(at), Value::Float(amount)] = event.row.as_slice() else { unreachable!() };
    format!(r#"{{"card":{card},"shop":"{shop}","at":"{at}","amount":{amount}}}"#)
}

/// Each pass by itself, each entity after the other.
fn parts(project: &Project, events: &[Event]) -> Vec<(i32, Vec<u8>)> {
    let latest = events.iter().map(|e| e.time.0).max();
    let totals = serde_json::json!({ "payments": { "events": events.len(), "latest": latest } });
    let head = serde_json::json!({ "format": 1, "definitions": project.plan.hash, "totals": totals });
    let mut parts = vec![(-1, head.to_string().into_bytes())];
    for (number, pass) in StatePass::all(&project.plan).into_iter().enumerate() {
        let entity = pass.feeds()[0].entity.clone();
        let mut sorted: Vec<&Event> = events.iter().collect();
        sorted.sort_by_key(|e| (EntityKey::from_row(&e.row, &entity), e.time));
        let mut sweep = StateSweep::new(pass, 1);
        for event in sorted {
            parts.extend(sweep.event(0, event.clone()).unwrap().map(|part| (number as i32, part)));
        }
        parts.push((number as i32, sweep.finish()));
    }
    parts
}

fn load(dir: &Path, text: &str) -> Project {
    std::fs::write(dir.join("kilter.toml"), text).unwrap();
    project::load(dir).unwrap_or_else(|report| panic!("{report}"))
}

async fn start(project: Project) -> Arc<Service> {
    Service::start(project, StartOptions { schedules: false, ..StartOptions::default() }).await.unwrap()
}

async fn stop(service: Arc<Service>) {
    service.shutdown().await.unwrap();
    let (weak, dir) = (Arc::downgrade(&service.data), service.data.dir.clone());
    drop(service);
    for _ in 0..1000 {
        if weak.strong_count() == 0 && kilter_store::log::Log::open(dir.join("events"), Default::default()).is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the data folder is still held");
}

async fn ingest(service: &Service, events: &[Event]) {
    let body: Vec<String> = events.iter().map(line).collect();
    service.ingest(SourceId(0), format!("[{}]", body.join(",")).as_bytes(), None, Instant::now()).await.unwrap();
}

async fn features(service: &Service, at: EventTime) -> Vec<Vec<Value>> {
    let values = |rows: FeatureRows| rows.rows.into_iter().map(|look| look.values.clone()).collect::<Vec<_>>();
    let cards = (0..4).map(EntityKey::Int).collect();
    let shops = ["a", "b"].map(|shop| EntityKey::Text(shop.into())).to_vec();
    let mut all = values(service.feature_rows(0, cards, Some(at)).await.unwrap());
    all.extend(values(service.feature_rows(1, shops, Some(at)).await.unwrap()));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booted_project_goes_on_as_one_that_read_everything() {
    for memory in ["", "[state]\nmemory = \"64MiB\"\n"] {
        let text = format!("{DEFINITIONS}{memory}");
        let (dirs, mut rng) = ([tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()], Rng::seeded(5));
        let events: Vec<Event> = (0..200).map(|minute| event(&mut rng, minute * 7)).collect();
        let (before, after) = events.split_at(120);
        let project = load(dirs[0].path(), &text);
        let booted = boot_of(&project, parts(&project, before).into_iter().map(Ok)).await.unwrap();
        assert_eq!((booted.offset, booted.latest), (120, Some(before[119].time)));
        assert_eq!(booted.entities, [("card".to_string(), 3), ("shop".to_string(), 2)]);

        let (mut live, whole) = (start(project).await, start(load(dirs[1].path(), &text)).await);
        ingest(&whole, before).await;
        assert_eq!(features(&live, before[119].time).await, features(&whole, before[119].time).await);
        for some in after.chunks(30) {
            ingest(&live, some).await;
            ingest(&whole, some).await;
            assert_eq!(features(&live, some[some.len() - 1].time).await, features(&whole, some[some.len() - 1].time).await);
            stop(live).await;
            live = start(load(dirs[0].path(), &text)).await;
        }
        assert_eq!(live.data.events.start_offset(), 120);
        assert_eq!(live.data.events.next_offset(), 200);
        stop(live).await;
        stop(whole).await;

        // What would need the history is refused: a view that changes.
        let changed = load(dirs[0].path(), &text.replace("mean(amount)", "max(amount)"));
        let refused = Service::start(changed, StartOptions { schedules: false, ..StartOptions::default() }).await.err().unwrap();
        assert!(format!("{refused:#}").contains("the history, which begins at offset 120"), "{refused:#}");
        // Boot once more, onto what is there.
        let project = load(dirs[0].path(), &text);
        let refused = boot_of(&project, parts(&project, before).into_iter().map(Ok)).await.unwrap_err();
        assert!(format!("{refused:#}").contains("has events already"), "{refused:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_do_not_fit_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::seeded(5);
    let events: Vec<Event> = (0..20).map(|minute| event(&mut rng, minute)).collect();
    let project = load(dir.path(), DEFINITIONS);
    let good = parts(&project, &events);
    let check = async |parts: Vec<(i32, Vec<u8>)>, expected: &str| {
        let refused = boot_of(&project, parts.into_iter().map(Ok)).await.unwrap_err();
        assert!(format!("{refused:#}").contains(expected), "{refused:#}");
        assert!(!project.data_dir().exists());
    };
    check(good[1..].to_vec(), "nothing says what the parts are of").await;
    check(good[..good.len() - 1].to_vec(), "was given").await;
    check([&good[..], &good[..1]].concat(), "parts of two states").await;
    check([&good[..], &good[1..2]].concat(), "came twice").await;
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let other = load(&other, &DEFINITIONS.replace("30m, 1d", "30m, 2d"));
    check(parts(&other, &events), "other definitions").await;
    boot_of(&project, good.into_iter().map(Ok)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_begins_in_the_middle_without_its_state_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng::seeded(5);
    let events: Vec<Event> = (0..20).map(|minute| event(&mut rng, minute)).collect();
    let project = load(dir.path(), DEFINITIONS);
    boot_of(&project, parts(&project, &events).into_iter().map(Ok)).await.unwrap();
    std::fs::remove_dir_all(project.data_dir().join("snapshots")).unwrap();
    let refused = Service::start(project, StartOptions { schedules: false, ..StartOptions::default() }).await.err().unwrap();
    assert!(format!("{refused:#}").contains("the history begins at offset 20"), "{refused:#}");
    // As after an interruption: it is run again.
    let project = load(dir.path(), DEFINITIONS);
    boot_of(&project, parts(&project, &events).into_iter().map(Ok)).await.unwrap();
}
