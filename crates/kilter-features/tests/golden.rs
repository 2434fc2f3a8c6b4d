//! Snapshots of each version of the format, kept as files: what one version wrote is read, or refused by its number, for ever.

use crate::common::{event, schema, view};
use kilter_core::{EntityKey, Event, EventTime, Operation, SourceId, Span, Value};
use kilter_features::{ColumnSpec, Engine, RestoreError, View, ViewSpec};
use kilter_stats::Rng;

const SECOND: i64 = 1_000_000;
/// Written by this program.
const CURRENT: &[u8] = include_bytes!("golden/snapshot-v3.bin");
/// Written by a program from before; the log has to be read again.
const BEFORE: &[u8] = include_bytes!("golden/snapshot-v2.bin");

/// One view with a state of every form: fixed, growing, by category, kept events, tiles, lifetime, the newest n, and one over a changing
/// source.
fn views() -> Vec<View> {
    let column = |(name, text): &(&str, &str)| ColumnSpec { name: (*name).into(), text: (*text).into(), default: None };
    let of = |name: &str, lines: &[(&str, &str)]| ViewSpec {
        columns: lines.iter().map(column).collect(),
        ..ViewSpec::new(name, SourceId(0), schema(), &["k", "kind"], Span(60 * SECOND))
    };
    let lines = [
        ("n", "count(*) over 1m, 1h, lifetime"),
        ("sum", "sum(amount) where ok over 1h exact, day"),
        ("last", "last(kind) over 1h"),
        ("kinds", "approx_distinct(n) over 1h"),
        ("middle", "quantile(amount, 0.5) over 1h"),
        ("by", "sum(n) by kind over previous day"),
        ("newest", "mean(amount) where ok over last 3"),
        ("fading", "sum(amount) over decay 1h"),
    ];
    let rows = [("largest", "max(amount) over 1h"), ("total", "sum(n) over 1h")];
    vec![
        view(&of("everything", &lines)),
        view(&ViewSpec { key: vec!["n".into()], ..of("changing", &rows) }),
        view(&ViewSpec { ttl: Some(Span(600 * SECOND)), time_zone: Some("Europe/Prague".into()), ..of("forgetful", &lines[..2]) }),
    ]
}

fn engine() -> Engine {
    let mut rng = Rng::seeded(3);
    let mut engine = Engine::new(views());
    for i in 0..300i64 {
        let x = rng.next_u64();
        let row = vec![
            Value::Int(if x.is_multiple_of(3) { 0 } else { (x >> 8) as i64 % 30 }),
            Value::Float((x >> 16) as f64 / 1e12),
            Value::Int((x >> 20) as i64 % 50),
            Value::text(["a", "b", "a kind whose name is longer than three words"][(x >> 40) as usize % 3]),
            Value::Bool(x & 1 == 1),
            Value::Null,
        ];
        let operation = if x.is_multiple_of(17) { Operation::Delete } else { Operation::Upsert };
        let time = EventTime(1_700_000_000 * SECOND + i * 7 * SECOND - (x >> 50) as i64 % 50 * SECOND);
        engine.update(&Event { offset: i as u64, operation, ..event(time, row) });
    }
    engine
}

fn snapshot(engine: &Engine) -> Vec<u8> {
    let mut bytes = Vec::new();
    engine.snapshot(&mut bytes);
    bytes
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a test that writes its own file anew")]
fn the_format_is_what_it_was() {
    let bytes = snapshot(&engine());
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/snapshot-v3.bin"), &bytes).unwrap();
    }
    assert!(bytes == CURRENT, "the bytes of a snapshot have changed: give the format a new version, and keep the old file");
}

#[test]
fn what_was_written_is_read() {
    let mut read = Engine::restore(views(), CURRENT).unwrap();
    assert!(snapshot(&read) == CURRENT);
    let mut made = engine();
    for view in 0..3 {
        for k in 0..30 {
            for kind in ["a", "b", "a kind whose name is longer than three words"] {
                let key = EntityKey::Composite([EntityKey::Int(k), EntityKey::Text(kind.into())].into());
                let values = [&mut read, &mut made].map(|engine| {
                    let mut out = Vec::new();
                    engine.read(view, &key, EventTime(1_700_002_100 * SECOND), &mut out);
                    out
                });
                assert_eq!(values[0], values[1]);
            }
        }
    }
}

#[test]
fn earlier_formats_are_told_by_their_number() {
    assert_eq!(Engine::restore(views(), BEFORE).err(), Some(RestoreError::Version { found: 2 }));
}
