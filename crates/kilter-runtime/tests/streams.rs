//! Sources read from partitioned streams: what the log says of how far they are, and that nothing counts twice.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kilter_connect::{Decoded, Limits, decode_message};
use kilter_core::{EventTime, Origin, SourceId};
use kilter_runtime::erase::{Key, Request};
use kilter_runtime::{Control, Data, Positions, Record, Service, StartOptions, project};

const DEFINITIONS: &str = r#"
[project]
name = "shop"
[kafka]
brokers = "127.0.0.1:1"
[source.payments]
connector = "kafka"
topic = "payments"
time = "at"
max_future = "none"
id = "code"
[source.payments.columns]
code = "string"
card = "int64"
at = "timestamp"
[features.card]
source = "payments"
entity = "card"
columns = { n = "count(*) over lifetime" }
"#;

const SOURCE: SourceId = SourceId(0);

async fn start(dir: &Path) -> Arc<Service> {
    let project = project::load(dir).unwrap_or_else(|report| panic!("{report}"));
    Service::start(project, StartOptions { schedules: false, ..StartOptions::default() }).await.unwrap()
}

fn folder(more: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kilter.toml"), format!("{DEFINITIONS}{more}")).unwrap();
    dir
}

/// `orderly` or as a kill leaves it: without a last snapshot.
async fn end(service: Arc<Service>, orderly: bool) {
    if orderly {
        service.shutdown().await.unwrap();
    }
    let data = Arc::downgrade(&service.data);
    let dir = service.data.dir.clone();
    drop(service);
    let free = || kilter_store::log::Log::open(dir.join("events"), Default::default()).is_ok();
    let began = Instant::now();
    while data.strong_count() > 0 || !free() {
        assert!(began.elapsed() < Duration::from_secs(20), "the data folder is not let go");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn row(service: &Service, code: &str, partition: u32, position: u64) -> Decoded {
    let text = format!(r#"{{"code":"{code}","card":1,"at":"2026-01-01T00:00:00Z"}}"#);
    let decoded = decode_message(text.as_bytes(), service.format(SOURCE), EventTime(0), &Limits::default()).unwrap().unwrap();
    Decoded { origin: Some(Origin { partition, position }), ..decoded }
}

/// Takes in one record; gives whether it became an event.
async fn take(service: &Arc<Service>, code: &str, partition: u32, position: u64) -> bool {
    let rows = vec![Ok(row(service, code, partition, position))];
    let sent = service.enqueue(SOURCE, rows, service.clock().now(), Instant::now(), true).await.unwrap();
    sent.answer().await.unwrap().accepted == 1
}

fn positions<const N: usize>(all: [(u32, u64); N]) -> Positions {
    BTreeMap::from(all)
}

#[tokio::test]
async fn what_of_a_stream_was_taken_is_known_after_every_kind_of_stop() {
    for orderly in [false, true] {
        for snapshot in [false, true] {
            let dir = folder("");
            let service = start(dir.path()).await;
            assert_eq!(service.attach(SOURCE, "kafka:payments").await.unwrap(), positions([]));
            assert!(take(&service, "a", 0, 0).await);
            assert!(take(&service, "b", 1, 7).await);
            assert!(!take(&service, "other id, same record", 0, 0).await);
            assert!(!take(&service, "an earlier record", 1, 3).await, "what was passed over is passed over");
            assert!(!take(&service, "a", 2, 0).await, "the same id from elsewhere is the same event all the same");
            if snapshot {
                service.snapshot().await.unwrap();
            }
            assert!(take(&service, "c", 0, 1).await);
            service.passed(SOURCE, positions([(3, 40)])).await.unwrap();
            end(service, orderly).await;
            let service = start(dir.path()).await;
            let expected = positions([(0, 2), (1, 8), (3, 40)]);
            assert_eq!(service.attach(SOURCE, "kafka:payments").await.unwrap(), expected, "orderly {orderly}, snapshot {snapshot}");
            assert!(!take(&service, "c", 0, 1).await);
            assert!(!take(&service, "d", 3, 39).await);
            assert!(take(&service, "d", 3, 40).await);
            end(service, true).await;
        }
    }
}

#[tokio::test]
async fn positions_that_no_record_states_are_searched_for_in_the_whole_log() {
    // A snapshot taken before anything was attached: the log behind it knows one partition, the log before it another.
    let dir = folder("");
    let service = start(dir.path()).await;
    assert!(take(&service, "a", 0, 5).await);
    service.snapshot().await.unwrap();
    assert!(take(&service, "b", 1, 6).await);
    end(service, false).await;
    let service = start(dir.path()).await;
    // It has no name: a stream that has one is another, and begins anew.
    assert_eq!(service.attach(SOURCE, "kafka:payments").await.unwrap(), positions([]));
    assert!(take(&service, "c", 0, 0).await);
    service.snapshot().await.unwrap();
    end(service, false).await;
    let service = start(dir.path()).await;
    assert_eq!(service.attach(SOURCE, "kafka:payments").await.unwrap(), positions([(0, 1)]));
    assert_eq!(service.attach(SOURCE, "kafka:others").await.unwrap(), positions([]));
    assert!(take(&service, "d", 0, 0).await);
    end(service, true).await;
}

#[tokio::test]
async fn a_change_of_definitions_and_state_beyond_memory_keep_positions() {
    let dir = folder("[state]\nmemory = \"32MiB\"\n");
    let service = start(dir.path()).await;
    service.attach(SOURCE, "kafka:payments").await.unwrap();
    assert!(take(&service, "a", 0, 9).await);
    service.snapshot().await.unwrap();
    end(service, false).await;
    let text = std::fs::read_to_string(dir.path().join("kilter.toml")).unwrap();
    // Another source, by its name before this one.
    let more = "[source.accounts]\ntime = \"arrival\"\ncolumns = { id = \"int64\" }\n[features.account]\nsource = \"accounts\"\nentity = \"id\"\ncolumns = { n = \"count(*)\" }\n";
    std::fs::write(dir.path().join("kilter.toml"), text + more).unwrap();
    let service = start(dir.path()).await;
    let source = service.source("payments").unwrap();
    assert_ne!(source, SOURCE);
    assert_eq!(service.attach(source, "kafka:payments").await.unwrap(), positions([(0, 10)]));
    end(service, true).await;
}

#[tokio::test]
async fn a_source_that_comes_back_goes_on_where_it_was() {
    let dir = folder("");
    let service = start(dir.path()).await;
    service.attach(SOURCE, "kafka:payments").await.unwrap();
    assert!(take(&service, "a", 0, 9).await);
    end(service, false).await;
    let path = dir.path().join("kilter.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let others = text.replace("payments", "accounts");
    for definitions in [&others, &others, &text] {
        std::fs::write(&path, definitions).unwrap();
        // The old definitions cannot always be read: then the log is.
        std::fs::remove_dir_all(dir.path().join("kilter-data/definitions")).unwrap();
        let service = start(dir.path()).await;
        if definitions == &text {
            assert_eq!(service.attach(SOURCE, "kafka:payments").await.unwrap(), positions([(0, 10)]));
        }
        service.snapshot().await.unwrap();
        end(service, false).await;
    }
}

#[tokio::test]
async fn an_erased_record_is_not_read_again() {
    let dir = folder("");
    let service = start(dir.path()).await;
    service.attach(SOURCE, "kafka:payments").await.unwrap();
    assert!(take(&service, "a", 0, 3).await);
    end(service, false).await;
    let project = project::load(dir.path()).unwrap();
    let stub = |data: &Data| {
        let mut found = Vec::new();
        data.walk(&project.plan, 0, data.events.next_offset(), |_, record| {
            match record {
                Record::Erased(stub) => found.push(stub.origin),
                Record::Control(Control::Consumed { .. }) => {}
                Record::Event(event) => panic!("{event:?} is still there"),
                _ => {}
            }
            Ok(())
        })
        .unwrap();
        found
    };
    erase(dir.path()).await;
    let service = start(dir.path()).await;
    assert_eq!(stub(&service.data), [Some(Origin { partition: 0, position: 3 })]);
    assert_eq!(service.attach(SOURCE, "kafka:payments").await.unwrap(), positions([(0, 4)]));
    assert!(!take(&service, "a again", 0, 3).await);
    end(service, true).await;
}

/// Erases the one card there is.
async fn erase(dir: &Path) {
    let project = project::load(dir).unwrap();
    let keys = vec![Key { column: "card".into(), value: "1".into() }];
    let request = Request { keys: keys.clone(), ..Request::default() };
    let data = Data::open(&project).await.unwrap();
    let looked_in = project.clone();
    let found = tokio::task::spawn_blocking(move || {
        let journal = kilter_runtime::erase::find(&data, &looked_in, &request, EventTime(0)).unwrap();
        (data, request, journal)
    });
    let (data, request, journal) = found.await.unwrap();
    let path = kilter_runtime::erase::begin(data, &request, journal, EventTime(0)).await.unwrap();
    kilter_runtime::erase::complete(&project, &path, &keys).await.unwrap();
}
