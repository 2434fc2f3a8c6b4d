//! How soon state is there again, by its size: from a store (`[state] memory`) and from a snapshot.
//!
//! The state of so many entities is not computed event by event, which takes an hour: what the engine writes of [`PATTERNS`] accounts after their
//! events is written again under the keys of others until there is enough. Files are what they would be, but for the order of writing.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kilter_connect::{Decoded, Limits, decode_body};
use kilter_core::{EntityKey, Event, EventTime, Value};
use kilter_features::Engine;
use kilter_stats::Rng;
use kilter_store::snapshot::{SnapshotOptions, Snapshots};
use kilter_store::state::{StateHead, StateOptions, StateStore, ViewCommit};
use serde_json::json;

use crate::generate::{MONTH_MS, event};
use crate::spill::{Shelf, high_water};
use crate::views::{SOURCE, format, view};
use crate::{Options, fail};

const PATTERNS: u64 = 20_000;
const EVENTS_EACH: u64 = 40;
const ARRIVED: EventTime = EventTime(1_769_904_000_000_000);
const HASH: &str = "bench";

/// `path` is a folder that does not exist yet. `options.entities` in the store, `options.events` in the snapshot; 0: leave that out.
pub fn restart(path: &str, options: &Options) -> serde_json::Value {
    let path = Path::new(path);
    if path.exists() {
        fail(&format!("{} exists", path.display()));
    }
    let store = (options.entities > 1).then(|| from_store(&path.join("store"), options, options.entities));
    let snapshot = (options.events > 0).then(|| from_snapshot(path, options));
    json!({ "set": options.set, "store": store, "snapshot": snapshot })
}

fn from_store(path: &Path, options: &Options, entities: u64) -> serde_json::Value {
    let at = fill(path, options, entities);
    let clock = Instant::now();
    let (store, mut engine) = take_up(path, options);
    let opened = clock.elapsed().as_secs_f64();
    let first = read(&mut engine, 0, at);
    let seconds = clock.elapsed().as_secs_f64();
    // Copies of one account have its features.
    let wrong = (0..entities).step_by(99_991).filter(|&i| read(&mut engine, i, at) != read(&mut engine, i % PATTERNS, at)).count();
    let disk_mib = store.disk_bytes().unwrap_or(0) >> 20;
    drop((engine, store));
    // The snapshot may need the room.
    fs::remove_dir_all(path).unwrap_or_else(|e| fail(&e.to_string()));
    json!({
        "entities": entities,
        "disk_mib": disk_mib,
        "restart_seconds": seconds,
        "of_these_opening": opened,
        "first_answer_has_values": first.iter().any(|v| !v.is_null()),
        "wrong": wrong,
    })
}

fn from_snapshot(path: &Path, options: &Options) -> serde_json::Value {
    let at = fill(&path.join("before"), options, options.events);
    let snapshots = Snapshots::open(path.join("snapshots"), SnapshotOptions::default()).unwrap_or_else(|e| fail(&e.to_string()));
    let expected = {
        let (_store, mut engine) = take_up(&path.join("before"), options);
        let mut bytes = Vec::new();
        engine.snapshot(&mut bytes);
        snapshots.write(0, at.0, HASH, &bytes).unwrap_or_else(|e| fail(&e.to_string()));
        read(&mut engine, options.events - 1, at)
    };
    fs::remove_dir_all(path.join("before")).unwrap_or_else(|e| fail(&e.to_string()));
    let clock = Instant::now();
    let found = snapshots.newest(u64::MAX, HASH).unwrap_or_else(|e| fail(&e.to_string())).snapshot.unwrap_or_else(|| fail("no snapshot"));
    let read_in = clock.elapsed().as_secs_f64();
    let mut engine = Engine::restore(vec![view(&options.set)], &found.bytes).unwrap_or_else(|e| fail(&e.to_string()));
    let is_right = read(&mut engine, options.events - 1, at) == expected;
    let seconds = clock.elapsed().as_secs_f64();
    let stats = engine.stats().swap_remove(0);
    json!({
        "entities": stats.entities,
        "snapshot_mib": found.bytes.len() >> 20,
        "state_mib": stats.state_bytes >> 20,
        "restart_seconds": seconds,
        "of_these_reading_the_file": read_in,
        "is_right": is_right,
        "high_water_mib": high_water(),
    })
}

fn read(engine: &mut Engine, account: u64, at: EventTime) -> Vec<Value> {
    let mut out = Vec::new();
    engine.read(0, &EntityKey::Int(account as i64), at, &mut out);
    out
}

fn open(path: &Path, options: &Options) -> Arc<StateStore> {
    Arc::new(StateStore::open(path, &StateOptions::within(options.memory << 20)).unwrap_or_else(|e| fail(&e.to_string())))
}

fn shelf(store: &StateStore) -> Box<Shelf> {
    Box::new(Shelf(store.view("account").unwrap_or_else(|e| fail(&e.to_string()))))
}

/// As the product does at a start.
fn take_up(path: &Path, options: &Options) -> (Arc<StateStore>, Engine) {
    let store = open(path, options);
    let head = store.head().unwrap_or_else(|e| fail(&e.to_string())).unwrap_or_else(|| fail("no head"));
    let mut engine = Engine::resume(vec![view(&options.set)], &head.bytes).unwrap_or_else(|e| fail(&e.to_string()));
    engine.attach(0, shelf(&store));
    (store, engine)
}

/// A store of so many entities; returns the time of the newest event.
fn fill(path: &Path, options: &Options, entities: u64) -> EventTime {
    let store = open(path, options);
    let mut engine = Engine::new(vec![view(&options.set)]);
    engine.attach(0, shelf(&store));
    let mut rng = Rng::seeded(options.seed);
    let (mut body, mut line) = (String::new(), String::new());
    let total = PATTERNS * EVENTS_EACH;
    for start in (0..total).step_by(500) {
        body.clear();
        for i in start..start + 500 {
            line.clear();
            event(&mut line, rng.below(PATTERNS), rng.below(20_000), i * MONTH_MS / total, &mut rng);
            body.push_str(&line);
        }
        let decoded = decode_body(body.as_bytes(), Some("application/x-ndjson"), &format(), ARRIVED, &Limits::default());
        for row in decoded.unwrap_or_else(|r| fail(&r.message)).rows {
            let Decoded { row, time, id, operation, extra, origin } = row.unwrap_or_else(|r| fail(&r.message));
            engine.update(&Event { source: SOURCE, offset: 0, time, arrived: ARRIVED, id, operation, row, extra, origin });
        }
    }
    let at = engine.watermark(SOURCE).unwrap_or_default();
    let changes = engine.changes();
    let patterns = changes.views.into_iter().next().map(|v| v.put).unwrap_or_default();
    let mut copied = 0;
    while copied < entities {
        let mut put = Vec::with_capacity(patterns.len());
        for (key, form) in &patterns {
            let (head, number) = key.split_last_chunk::<8>().unwrap_or_else(|| fail("a key of another form"));
            let account = u64::from_le_bytes(*number);
            if account >= PATTERNS {
                fail("a key of another form");
            }
            if copied + account < entities {
                put.push(([head, &(copied + account).to_le_bytes()].concat(), form.clone()));
            }
        }
        copied += PATTERNS;
        let head = StateHead { offset: 0, event_time: at.0, definition_hash: HASH.into(), bytes: changes.head.clone() };
        let commit = ViewCommit { view: "account".into(), put, removed: Vec::new(), expired_at: i64::MIN };
        store.commit(&head, vec![commit]).unwrap_or_else(|e| fail(&e.to_string()));
        if options.progress && copied % 1_000_000 == 0 {
            eprintln!("{copied} entities, {} MiB", store.disk_bytes().unwrap_or(0) >> 20);
        }
    }
    at
}
