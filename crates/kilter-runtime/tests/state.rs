//! A project whose state may take only so much memory: the same answers, over restarts, changes of definitions and a lost store.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kilter_core::{EntityKey, EventTime, Span, Value};
use kilter_runtime::entities::EntityRow;
use kilter_runtime::jobs::apply::Phase;
use kilter_runtime::{Service, StartOptions, project};

const DEFINITIONS: &str = r#"
[project]
name = "shop"
clock = "event"
[snapshot]
every = "1ms"
min_events = 1
[source.payments]
time = "at"
lateness = "1h"
max_future = "none"
[source.payments.columns]
card = { type = "string", required = true }
at = "timestamp"
amount = { type = "float64", required = true }
[features.card]
source = "payments"
entity = "card"
[features.card.columns]
count = "count(*) over 1d, 30d"
sum = "sum(amount) over 1d, 30d"
largest = "max(amount) where amount > 3 over 30d"
kinds = "distinct(amount) over 30d"
ever = "count(*)"
"#;
const LIMIT: &str = "[state]\nmemory = \"1MiB\"\n";
const CARDS: u64 = 6_000;

fn load(dir: &Path, more: &str) -> project::Project {
    std::fs::write(dir.join("kilter.toml"), format!("{DEFINITIONS}{more}")).unwrap();
    project::load(dir).unwrap_or_else(|report| panic!("{report}"))
}

async fn start(dir: &Path, more: &str) -> Arc<Service> {
    Service::start(load(dir, more), StartOptions::default()).await.unwrap()
}

fn moment(n: u64) -> EventTime {
    EventTime(1_700_000_000_000_000) + Span((n * 2_000_000) as i64)
}

/// Most cards pay a few times, one in a hundred often.
async fn play(service: &Service, range: std::ops::Range<u64>) {
    let rows: Vec<String> = range
        .map(|n| {
            let card = if n.is_multiple_of(3) { n * 7 % (CARDS / 100) } else { n * 7_919 % CARDS };
            format!(r#"{{"card":"card-{card}","at":"{}","amount":{}}}"#, moment(n), n % 11)
        })
        .collect();
    let source = service.source("payments").unwrap();
    for part in rows.chunks(500) {
        let report = service.ingest(source, part.join("\n").as_bytes(), Some("application/x-ndjson"), Instant::now()).await.unwrap();
        assert_eq!(report.accepted, part.len() as u64);
    }
}

async fn features(service: &Service, n: u64) -> Vec<Vec<Value>> {
    let mut all = Vec::new();
    for card in (0..CARDS).step_by(37) {
        let key = EntityKey::Text(format!("card-{card}").into());
        all.push(service.features(service.view("card").unwrap(), key, Some(moment(n))).await.unwrap().values);
    }
    all
}

/// Entities, and those of them in memory, as of the last writing.
fn held(service: &Service) -> (usize, usize) {
    let views = service.status.views();
    (views[0].entities, views[0].in_memory)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_do_not_tell_where_the_state_is() {
    let (whole, limited) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = start(whole.path(), "").await;
    let mut two = start(limited.path(), LIMIT).await;
    for part in 0..4u64 {
        let range = part * 10_000..(part + 1) * 10_000;
        play(&one, range.clone()).await;
        play(&two, range.clone()).await;
        assert!(features(&one, range.end).await == features(&two, range.end).await);
        two.snapshot().await.unwrap();
        let (entities, in_memory) = held(&two);
        assert!(in_memory + 500 < entities, "{in_memory} of {entities} in memory");
        two.shutdown().await.unwrap();
        drop(two);
        two = start(limited.path(), LIMIT).await;
        // Nothing is read before it is asked for.
        assert!(held(&two).1 < 10, "{:?}", held(&two));
        assert!(features(&one, range.end).await == features(&two, range.end).await);
    }
    assert!(std::fs::read_dir(limited.path().join("kilter-data/snapshots")).unwrap().next().is_none(), "the store takes their place");
}

/// The card of each entity that the view tells of, with its values.
async fn all(service: &Arc<Service>) -> Vec<(String, Vec<Value>)> {
    let service = Arc::clone(service);
    let read = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        let mut each = |row: EntityRow| {
            all.push((row.key.to_string(), row.look.values));
            ControlFlow::Continue(())
        };
        service.each_entity(0, &mut each).unwrap();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    });
    read.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_entity_is_told_of_once_wherever_it_goes_meanwhile() {
    for more in ["", LIMIT] {
        let dir = tempfile::tempdir().unwrap();
        let service = start(dir.path(), more).await;
        play(&service, 0..20_000).await;
        let (cards, ()) = tokio::join!(all(&service), play(&service, 20_000..30_000));
        let names: Vec<&String> = cards.iter().map(|(card, _)| card).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "one comes twice");
        for card in (0..20_000u64).map(|n| if n.is_multiple_of(3) { n * 7 % (CARDS / 100) } else { n * 7_919 % CARDS }) {
            assert!(names.binary_search(&&format!("card-{card}")).is_ok(), "card-{card} is left out");
        }
        let cards = all(&service).await;
        if !more.is_empty() {
            service.snapshot().await.unwrap();
            let (entities, in_memory) = held(&service);
            assert!(in_memory + 500 < entities, "{in_memory} of {entities} in memory after all were read");
        }
        for (card, values) in cards.iter().step_by(97) {
            let one = service.features(0, EntityKey::Text(card.as_str().into()), None).await.unwrap();
            assert!(one.values == *values, "{card}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_definitions_a_lost_store_and_no_limit_lead_to_the_same() {
    let (whole, limited) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = start(whole.path(), "").await;
    let two = start(limited.path(), LIMIT).await;
    play(&one, 0..20_000).await;
    play(&two, 0..20_000).await;
    let answers = features(&one, 20_000).await;
    assert!(answers == features(&two, 20_000).await);

    // Another view comes in flight; the first keeps its entities where they are.
    let more =
        format!("{LIMIT}[features.all]\nsource = \"payments\"\nentity = \"card\"\n[features.all.columns]\nmean = \"mean(amount)\"\n");
    load(limited.path(), &more);
    two.apply().await.unwrap();
    while matches!(two.status.applying().unwrap().phase, Phase::Filling) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let next = two.current();
    drop(two);
    let two = next;
    assert_eq!(two.plan.views.len(), 2, "{:?}", two.status.applying().unwrap().error);
    assert!(answers == features(&two, 20_000).await);
    two.snapshot().await.unwrap();
    two.shutdown().await.unwrap();
    drop(two);

    let two = start(limited.path(), &more).await;
    assert!(answers == features(&two, 20_000).await);
    let key = EntityKey::Text("card-7".into());
    let mean = two.features(two.view("all").unwrap(), key, Some(moment(20_000))).await.unwrap().values;
    assert!(matches!(mean[0], Value::Float(_)), "{mean:?}");
    two.shutdown().await.unwrap();
    drop(two);

    // Bytes that are no store any more: the log has everything.
    let store = limited.path().join("kilter-data/state");
    for entry in std::fs::read_dir(&store).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::write(path, b"broken").unwrap();
        }
    }
    let two = start(limited.path(), LIMIT).await;
    assert!(answers == features(&two, 20_000).await);
    two.shutdown().await.unwrap();
    drop(two);

    let two = start(limited.path(), "").await;
    assert!(answers == features(&two, 20_000).await);
    assert!(!store.exists(), "a store that nobody keeps up to date would lie");
}

#[test]
fn little_memory_is_warned_of_and_nonsense_refused() {
    let dir = tempfile::tempdir().unwrap();
    let warnings = load(dir.path(), LIMIT).warnings;
    assert!(warnings.iter().any(|w| w.to_string().contains("little memory")), "{warnings:?}");
    for nonsense in ["memory = 5", "memory = \"much\"", "memory = \"0B\"", "disk = \"1GiB\""] {
        std::fs::write(dir.path().join("kilter.toml"), format!("{DEFINITIONS}[state]\n{nonsense}\n")).unwrap();
        let report = project::load(dir.path()).unwrap_err().to_string();
        assert!(report.contains("state"), "{report}");
    }
}
