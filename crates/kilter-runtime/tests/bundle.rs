//! A folder made of a bundle goes on as the one that the bundle was made of: to the byte of its next snapshot.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use kilter_core::{Clock, EventTime, Span};
use kilter_pipeline::Decision;
use kilter_runtime::audit::audit_all;
use kilter_runtime::bundle::{Bundles, Manifest, make, ready, unpack};
use kilter_runtime::journal::Agreed;
use kilter_runtime::lake::fill;
use kilter_runtime::project::{Project, Shard};
use kilter_runtime::{Service, StartOptions, project};
use kilter_store::dead_letter::DeadLetterQuery;
use kilter_store::log::{Log, LogOptions};
use proptest::prelude::*;
use tokio::runtime::Handle;

const DEFINITIONS: &str = r#"
[project]
name = "shop"
[kafka]
brokers = "127.0.0.1:1"
[workers]
key = "card"
shards = 4
snapshots = "1h"
[lake]
url = "lake"
records = 37
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
[features.card]
source = "payments"
entity = "card"
[features.card.columns]
count = "count(*) over 1d, lifetime"
sum = "sum(amount) over 1d"
largest = "max(amount) over 3h"
[decision.pay]
on = "payments"
policy = [{ when = "card.sum_1d > 3000", outcome = "review" }, { outcome = "accept" }]
"#;
const NUMBER: u32 = 3;
const CARDS: u64 = 5;

/// Stands still.
struct Noon;

impl Clock for Noon {
    fn now(&self) -> EventTime {
        EventTime(1_800_000_000_000_000)
    }
}

fn at(dir: &Path, folder: &str) -> Project {
    std::fs::write(dir.join("kilter.toml"), DEFINITIONS).unwrap();
    let mut project = project::load(dir).unwrap_or_else(|report| panic!("{report}"));
    // Small log files, so that a short log has several.
    project.settings.log.segment_bytes = 4096;
    Project { shard: Some(Shard { number: NUMBER, data: dir.join(folder) }), ..project }
}

async fn start(dir: &Path, folder: &str) -> Arc<Service> {
    let options = StartOptions { clock: Arc::new(Noon), schedules: false, ..StartOptions::default() };
    Service::start(at(dir, folder), options).await.unwrap()
}

/// Sends payments; each third is told again, each seventh is too late for every window, one is none at all.
async fn pay(service: &Service, range: std::ops::Range<u64>) {
    let source = service.source("payments").unwrap();
    for n in range {
        let payment = |n: u64| {
            let minutes = (n * 7) as i64 - if n % 7 == 6 { 6_000 } else { 0 };
            let time = EventTime(1_700_000_000_000_000) + Span(minutes * 60_000_000);
            format!(
                r#"{{"payment_id":"p{n}","card":{},"at":"{time}","amount":{}}}"#,
                n % CARDS,
                n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54
            )
        };
        let again = if n % 3 == 0 { format!("\n{}", payment(n / 2)) } else { String::new() };
        let nothing = if n % 11 == 0 { "\n{\"card\":1}" } else { "" };
        let body = payment(n) + &again + nothing;
        service.ingest(source, body.as_bytes(), Some("application/x-ndjson"), Instant::now()).await.unwrap();
    }
}

/// What can be seen of a shard from an offset on.
#[derive(Debug, PartialEq)]
struct Seen {
    decisions: Vec<Decision>,
    features: Vec<Vec<kilter_core::Value>>,
    letters: Vec<(u64, String, Option<u64>)>,
    snapshot: Vec<u8>,
}

async fn see(service: &Service, from: u64) -> Seen {
    let mut decisions: Vec<Decision> = service
        .decisions(None, 100_000, |_| true)
        .unwrap()
        .0
        .into_iter()
        .map(|found| found.decision)
        .filter(|d| d.offset >= from)
        .collect();
    decisions.reverse();
    let mut features = Vec::new();
    for card in 0..CARDS {
        features.push(service.features(0, service.parse_key(0, &card.to_string()).unwrap(), None).await.unwrap().values);
    }
    let query = DeadLetterQuery { limit: 100_000, ..DeadLetterQuery::default() };
    let letters = service.data.dead_letters.list(&query).unwrap().letters;
    let letters = letters.into_iter().map(|(at, letter)| (at, letter.code, letter.log_offset)).collect();
    let offset = service.snapshot().await.unwrap();
    let snapshot = service.data.snapshots.newest(offset, service.project.hash()).unwrap().snapshot.unwrap();
    assert_eq!(snapshot.offset, offset);
    Seen { decisions, features, letters, snapshot: snapshot.bytes }
}

/// Makes a bundle, and of it another folder, which gets what its journal would have: the rest of the log.
fn hand_over(service: &Arc<Service>, dir: &Path, runtime: &Handle) -> Manifest {
    let data = &service.data;
    data.events.sync().unwrap();
    fill(data, service.project.definitions.lake.as_ref().unwrap()).unwrap();
    let next_letter = data.dead_letters.log().next_offset();
    let mark = |_| Some(Agreed { position: 0, events: data.first_offset, dead_letters: next_letter });
    let ready = ready(service, 0, mark).unwrap().expect("a snapshot");
    let bundles = Bundles::of(&service.project).unwrap().unwrap();
    let made = make(service, &ready, &bundles, None, &AtomicBool::new(false)).unwrap();
    let found = bundles.list().unwrap();
    assert_eq!(found, [made]);
    let manifest = found.into_iter().next().unwrap();
    assert!(manifest.follows(&data.history.record(manifest.offset - 1).unwrap().unwrap()));
    unpack(&at(dir, "b"), &manifest, &bundles.fetch(&manifest, &AtomicBool::new(false)).unwrap(), ("note", b"here"), runtime).unwrap();
    assert_eq!(std::fs::read(dir.join("b/note")).unwrap(), b"here");
    let (log, _) = Log::open(dir.join("b/events"), LogOptions::default()).unwrap();
    assert_eq!((log.start_offset(), log.next_offset()), (manifest.offset, manifest.offset));
    for offset in manifest.offset..data.events.next_offset() {
        log.append(&[data.events.read(offset).unwrap().unwrap()]).unwrap();
    }
    manifest
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_folder_of_a_bundle_goes_on_as_the_one_it_was_made_of(before in 1..150_u64, between in 0..40_u64, after in 1..40_u64) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let one = runtime.block_on(async {
            let one = start(dir.path(), "a").await;
            pay(&one, 0..before).await;
            one.snapshot().await.unwrap();
            pay(&one, before..before + between).await;
            one
        });
        let manifest = hand_over(&one, dir.path(), runtime.handle());
        runtime.block_on(async {
            let other = start(dir.path(), "b").await;
            assert_eq!(see(&other, manifest.offset).await, see(&one, manifest.offset).await);
            // Ids of events before the bundle are among those that come again.
            for service in [&one, &other] {
                pay(service, before + between..before + between + after).await;
            }
            assert_eq!(see(&other, manifest.offset).await, see(&one, manifest.offset).await);
            assert_eq!(other.data.events.next_offset(), one.data.events.next_offset());
            let (data, plan) = (Arc::clone(&other.data), Arc::clone(&other.plan));
            let report = tokio::task::spawn_blocking(move || audit_all(&data, &plan, |_, _| {}).unwrap()).await.unwrap();
            assert_eq!((report.mismatches, report.checked > 0), (0, true), "{:?}", report.details);
            other.shutdown().await.unwrap();
            one.shutdown().await.unwrap();
        });
    }
}
