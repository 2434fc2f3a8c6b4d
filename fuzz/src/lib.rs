//! What the targets share: columns and events to work on, and an allocator that refuses absurd requests.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use kilter_core::{DataType, Event, EventTime, Operation, Schema, SourceId, Span, Value};
use kilter_features::{ColdStore, ColumnSpec, Engine, View, ViewSpec, compile_view};
use kilter_learn::exchange::{self, Format, Opened};
use kilter_learn::{Model, load, load_classes};

/// No input here is longer than some kilobytes, so nothing has a reason to ask for more than this at once.
static MOST_AT_ONCE: AtomicUsize = AtomicUsize::new(64 << 20);

/// Sets another limit, for a target whose format says how much its writer needed.
pub fn allow_at_once(bytes: usize) {
    MOST_AT_ONCE.store(bytes, Ordering::Relaxed);
}

/// A model file of another program, in one of these formats: refused, or a model that scores, explains itself to its margin, and is saved as the
/// same bytes again; of several classes, for each of them.
pub fn foreign_model(data: &[u8], formats: &[Format]) {
    if !Format::of(data).is_some_and(|format| formats.contains(&format)) {
        return;
    }
    match exchange::open_any(data) {
        Ok(Opened::One(model)) => {
            let saved = load(&model.to_bytes()).expect("what was saved is read again");
            assert_eq!(model.to_bytes(), saved.to_bytes());
            one_model(model.as_ref(), saved.as_ref());
        }
        Ok(Opened::Classes(model)) => {
            let saved = load_classes(&model.to_bytes()).expect("what was saved is read again");
            assert_eq!(model.to_bytes(), saved.to_bytes());
            (0..model.classes().len()).for_each(|class| one_model(model.member(class), saved.member(class)));
        }
        Err(refused) => assert!(!refused.to_string().is_empty()),
    }
}

fn one_model(model: &dyn Model, saved: &dyn Model) {
    for value in [f64::NAN, 0.0, -0.5, 3.0, 1e300, f64::INFINITY] {
        let row = vec![value; model.inputs().len()];
        assert_eq!(model.margin(&row).to_bits(), saved.margin(&row).to_bits());
        let mut contributions = Vec::new();
        let sum = model.explain(&row, &mut contributions) + contributions.iter().sum::<f64>();
        // Leaves of 1e300 leave no nine digits below them.
        let largest = contributions.iter().fold(1.0f64, |largest, c| largest.max(c.abs()));
        assert!(
            !(sum - model.margin(&row)).is_finite() || (sum - model.margin(&row)).abs() <= 1e-6 * largest.max(model.margin(&row).abs())
        );
    }
}

/// A model file with the checksum its content asks for: without that, a change of a byte is all a fuzzer could ever find out.
pub fn with_model_checksum(content: &[u8]) -> Vec<u8> {
    let fnv1a = content.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    [content, &fnv1a.to_le_bytes()].concat()
}

/// Ends the process, as a finding, when one request is out of all proportion: damaged lengths must be checked before memory is asked for.
pub struct Bounded;

unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        bounded(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        bounded(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        bounded(size);
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

fn bounded(size: usize) {
    if size > MOST_AT_ONCE.load(Ordering::Relaxed) {
        eprintln!("{size} bytes asked for at once");
        std::process::abort();
    }
}

pub fn schema() -> Schema {
    Schema::new([
        ("k", DataType::Int64),
        ("at", DataType::Timestamp),
        ("amount", DataType::Float64),
        ("n", DataType::Int64),
        ("kind", DataType::String),
        ("ok", DataType::Bool),
    ])
}

/// Values that have been trouble elsewhere: extremes, nulls, the zero with a sign, texts of more than one byte a letter.
pub fn rows() -> Vec<Vec<Value>> {
    let time = |s: i64| Value::Time(EventTime(s * 1_000_000));
    let text = |s: &str| Value::text(s);
    vec![
        vec![Value::Int(1), time(1_767_225_600), Value::Float(12.5), Value::Int(7), text("card"), Value::Bool(true)],
        vec![Value::Int(1), time(1_767_225_660), Value::Float(-0.0), Value::Int(i64::MIN), text(""), Value::Bool(false)],
        vec![
            Value::Int(1),
            time(1_767_225_600),
            Value::Float(1e308),
            Value::Int(i64::MAX),
            text("žluťoučký kůň, a longer one"),
            Value::Null,
        ],
        vec![Value::Int(1), time(1_767_312_000), Value::Null, Value::Null, Value::Null, Value::Bool(true)],
        vec![Value::Int(1), Value::Time(EventTime::LATEST), Value::Float(1e-310), Value::Int(0), text("cash"), Value::Bool(true)],
        vec![Value::Int(1), Value::Time(EventTime::EARLIEST), Value::Float(3.0), Value::Int(-1), text("card"), Value::Bool(false)],
    ]
}

pub fn events() -> Vec<Event> {
    let event = |(i, row): (usize, Vec<Value>)| {
        let time = match row[1] {
            Value::Time(time) => time,
            _ => EventTime(0),
        };
        let operation = if i == 3 { Operation::Delete } else { Operation::Upsert };
        Event { source: SourceId(0), offset: i as u64, time, arrived: time, id: None, operation, row, extra: None, origin: None }
    };
    rows().into_iter().enumerate().map(event).collect()
}

pub fn spec() -> ViewSpec {
    ViewSpec { time_zone: Some("Europe/Prague".into()), ..ViewSpec::new("account", SourceId(0), schema(), &["k"], Span::DAY) }
}

pub fn column(name: &str, text: &str) -> ColumnSpec {
    ColumnSpec { name: name.into(), text: text.into(), default: None }
}

/// A view with every kind of window and of state, so that a snapshot has every kind of part.
pub fn full_view(changing: bool) -> View {
    let lines = [
        "count(*) over 1m, 1h exact, day, previous week, lifetime",
        "sum(amount) over 7d, decay 1d, tumbling 6h",
        "approx_distinct(kind) over 1h",
        "quantile(amount, 0.9) over 1h",
        "sum(amount) by kind over 1d",
        "first_k(kind, 3) over month",
        "frequent_k(kind, 2) over 1d",
        "argmax(kind, amount) over 1d",
        "last(kind) over 1d",
    ];
    let windows_by_events = ["mean(n) over last 3", "count(*) over session 30m"];
    let mut spec = spec();
    if changing {
        spec.key = vec!["n".into()];
    }
    let lines = lines.iter().chain(windows_by_events.iter().filter(|_| !changing));
    spec.columns = lines.enumerate().map(|(i, line)| column(&format!("f{i}"), line)).collect();
    compile_view(&spec).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// An engine over such a view that has taken in the first events.
pub fn engine(changing: bool, events_taken: usize) -> Engine {
    let mut engine = Engine::new(vec![full_view(changing)]);
    for event in events().iter().take(events_taken) {
        engine.update(event);
    }
    engine
}

/// A schema and a format for each way in which rows come in.
pub fn formats() -> Vec<kilter_connect::RowFormat> {
    use kilter_connect::{IdOf, OperationOf, RowFormat, UnknownFields};
    let plain = || RowFormat::new("payments", schema()).time_column("at");
    vec![
        RowFormat { required: vec![0], max_future: Some(Span::HOUR), ..plain() },
        RowFormat { unknown: UnknownFields::Reject, id: IdOf::Column(4), ..plain() },
        RowFormat { unknown: UnknownFields::Ignore, key: vec![0], operation: OperationOf::Field("op".into()), ..plain() },
        RowFormat { key: vec![0], operation: OperationOf::Debezium, ..plain() },
    ]
}

pub const ARRIVED: EventTime = EventTime(1_767_268_800_000_000);

/// A store whose every entity has the same written form.
pub struct OneForm(pub Vec<u8>);

impl ColdStore for OneForm {
    fn get(&self, _: &[u8], found: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        found(&self.0);
        Ok(())
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), String> {
        // The key of entity 1, as a value: its tag and eight bytes.
        each(&[3, 1, 0, 0, 0, 0, 0, 0, 0], &self.0);
        Ok(())
    }
}

/// Heads of state with a store, without their checksums, each with an entity's written form.
pub fn stored(changing: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for taken in 1..=events().len() {
        let mut engine = Engine::new(vec![full_view(changing)]);
        engine.attach(0, Box::new(OneForm(Vec::new())));
        for event in events().iter().take(taken) {
            engine.update(event);
        }
        let mut changes = engine.changes();
        if let Some((_, form)) = changes.views.first_mut().and_then(|v| v.put.pop()) {
            all.push((unsealed(&changes.head).to_vec(), form));
        }
    }
    all
}

/// An input of the fuzzer of snapshots that goes by the store.
pub fn stored_seed(changing: bool, head: &[u8], form: &[u8]) -> Vec<u8> {
    let mut seed = vec![2 | u8::from(changing)];
    seed.extend_from_slice(&(head.len() as u16).to_le_bytes());
    seed.extend_from_slice(head);
    seed.extend_from_slice(form);
    seed
}

/// A snapshot's bytes with the checksum that belongs to them, as crates/kilter-features/src/hash.rs computes it: a fuzzer that had to guess
/// checksums would never see what lies behind them.
pub fn sealed(bytes: &[u8]) -> Vec<u8> {
    const K0: u64 = 0x9e37_79b9_7f4a_7c15;
    const K1: u64 = 0xd6e8_feb8_6659_fd93;
    fn fold(a: u64) -> u64 {
        let product = u128::from(a) * u128::from(K1);
        product as u64 ^ (product >> 64) as u64
    }
    let mut h = K0 ^ bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        h = fold(h ^ u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
    }
    let mut word = [0; 8];
    word[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    h = fold(h ^ u64::from_le_bytes(word));
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^= h >> 31;
    [bytes, &h.to_le_bytes()].concat()
}

/// What [`sealed`] takes: the same without its checksum.
pub fn unsealed(snapshot: &[u8]) -> &[u8] {
    let body = &snapshot[..snapshot.len() - 8];
    assert!(sealed(body) == snapshot, "the checksum of snapshots is another one by now");
    body
}
