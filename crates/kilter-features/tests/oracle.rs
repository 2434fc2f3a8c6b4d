//! The engine against the formula of docs/reference/windows.md, computed from all events kept in arrival order.
//!
//! The twin below shares nothing with the engine but the parsing of expressions: windows, filters, ties, nulls and every aggregate are written
//! again in the plainest way. Random histories then say whether both agree, whether a restart or a sweep leaves a trace, and whether two
//! engines over one log hold the same bits.

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;

use common::{schema, view};
use kilter_core::{EntityKey, Event, EventTime, SourceId, Span, Value};
use kilter_features::expr::{Expr, Scope, compile};
use kilter_features::{ColumnSpec, Engine, Equality, FeatureInfo, RestoreError, ViewSpec};
use kilter_stats::Rng;
use proptest::prelude::*;

/// A line in parts, from which both the text for the engine and the twin's computation are made.
#[derive(Clone, Debug)]
struct Line {
    aggregate: &'static str,
    arg: Option<&'static str>,
    fraction: f64,
    filter: Option<&'static str>,
    /// Empty: lifetime.
    windows: Vec<Span>,
    hop: Option<Span>,
}

impl Line {
    fn text(&self) -> String {
        let args = match (self.aggregate, self.arg) {
            ("quantile", Some(x)) => format!("{x}, {}", self.fraction),
            ("time_since_last", _) => String::new(),
            (_, x) => x.unwrap_or("*").to_string(),
        };
        let mut text = format!("{}({args})", self.aggregate);
        if let Some(filter) = self.filter {
            text.push_str(&format!(" where {filter}"));
        }
        if !self.windows.is_empty() {
            let windows: Vec<String> = self.windows.iter().map(Span::to_string).collect();
            text.push_str(&format!(" over {}", windows.join(", ")));
            if let Some(hop) = self.hop {
                text.push_str(&format!(" hop {hop}"));
            }
        }
        text
    }
}

#[derive(Clone, Debug)]
struct TestView {
    lines: Vec<Line>,
    entity: Vec<String>,
    filter: Option<&'static str>,
    hop: Option<Span>,
    lateness: Span,
    source: SourceId,
}

impl TestView {
    fn spec(&self, number: usize) -> ViewSpec {
        ViewSpec {
            name: format!("view_{number}"),
            source: self.source,
            schema: schema(),
            entity: self.entity.clone(),
            filter: self.filter.map(str::to_string),
            columns: self
                .lines
                .iter()
                .enumerate()
                .map(|(i, line)| ColumnSpec { name: format!("f{i}"), text: line.text(), default: None })
                .collect(),
            hop: self.hop,
            lateness: self.lateness,
        }
    }
}

fn eval(text: &'static str, row: &[Value]) -> Value {
    thread_local! {
        static COMPILED: RefCell<BTreeMap<&'static str, Expr>> = RefCell::default();
    }
    COMPILED.with_borrow_mut(|compiled| {
        let expr = compiled.entry(text).or_insert_with(|| {
            let mut scope = Scope::new();
            for field in &schema().fields {
                scope.add(None, &field.name, field.data_type);
            }
            compile(text, &scope).unwrap()
        });
        expr.eval(row)
    })
}

fn holds(filter: Option<&'static str>, row: &[Value]) -> bool {
    filter.is_none_or(|f| eval(f, row) == Value::Bool(true))
}

/// The formula, read literally.
fn naive(view: &TestView, feature: &FeatureInfo, line: &Line, log: &[&Event], key: &EntityKey, q: EventTime) -> (Value, Vec<f64>) {
    let tile = |t: i64, h: i64| t.div_euclid(h);
    let watermark = log.iter().map(|e| e.time.0).max();
    let columns: Vec<usize> = view.entity.iter().map(|name| schema().index(name).unwrap()).collect();
    let chosen: Vec<&Event> = log
        .iter()
        .copied()
        .filter(|e| EntityKey::from_row(&e.row, &columns).as_ref() == Some(key))
        .filter(|e| holds(view.filter, &e.row) && holds(line.filter, &e.row))
        .filter(|e| match (feature.window, feature.hop, watermark) {
            (Some(w), Some(h), Some(wm)) => {
                let oldest = tile(q.0 - w.0, h.0).max(tile(wm - w.0 - view.lateness.0, h.0));
                (oldest..=tile(q.0, h.0)).contains(&tile(e.time.0, h.0))
            }
            _ => true,
        })
        .collect();
    let values: Vec<(EventTime, Value)> = chosen
        .iter()
        .map(|e| (e.time, line.arg.map_or(Value::Bool(true), |arg| eval(arg, &e.row))))
        .filter(|(_, v)| !v.is_null() && v.as_f64().is_none_or(f64::is_finite))
        .collect();
    let mut numbers: Vec<f64> = values.iter().filter_map(|(_, v)| v.as_f64()).collect();
    let whole = values.iter().all(|(_, v)| matches!(v, Value::Int(_)));
    let total: i128 = values.iter().map(|(_, v)| if let Value::Int(i) = v { i128::from(*i) } else { 0 }).sum();
    let n = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / n;
    let best = |wanted: std::cmp::Ordering| {
        let order = |a: &Value, b: &Value| match (a, b) {
            (Value::Float(a), Value::Float(b)) => a.total_cmp(b),
            (Value::Int(a), Value::Int(b)) => a.cmp(b),
            (Value::Time(a), Value::Time(b)) => a.cmp(b),
            _ => panic!("{a} beside {b}"),
        };
        values.iter().map(|(_, v)| v).cloned().reduce(|a, b| if order(&b, &a) == wanted { b } else { a }).unwrap_or_default()
    };
    let value = match line.aggregate {
        "count" => Value::Int(values.len() as i64),
        _ if values.is_empty() && line.aggregate != "approx_distinct" => Value::Null,
        "sum" if whole => i64::try_from(total).map_or(Value::Null, Value::Int),
        "mean" | "avg" if whole => Value::Float(total as f64 / n),
        "sum" => Value::Float(numbers.iter().sum()),
        "mean" | "avg" => Value::Float(mean),
        "min" => best(std::cmp::Ordering::Less),
        "max" => best(std::cmp::Ordering::Greater),
        "variance" | "var" | "stddev" if values.len() < 2 => Value::Null,
        "variance" | "var" => Value::Float(numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)),
        "stddev" => Value::Float((numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt()),
        "first" => values.iter().fold(&values[0], |a, b| if b.0 < a.0 { b } else { a }).1.clone(),
        "last" => values.iter().fold(&values[0], |a, b| if b.0 >= a.0 { b } else { a }).1.clone(),
        "time_since_last" => Value::Float((q.0 - values.iter().map(|(t, _)| t.0).max().unwrap()).max(0) as f64 / 1e6),
        "approx_distinct" => {
            let mut seen: Vec<String> = values.iter().map(|(_, v)| format!("{v:?}").replace("-0.0", "0.0")).collect();
            seen.sort();
            seen.dedup();
            Value::Int(seen.len() as i64)
        }
        "quantile" => {
            numbers.sort_by(f64::total_cmp);
            Value::Float(numbers[(line.fraction * (n - 1.0)).floor() as usize])
        }
        other => panic!("{other} has no naive twin"),
    };
    (value, numbers)
}

/// Whether the engine's value is the twin's, as closely as the aggregate promises.
fn agrees(feature: &FeatureInfo, got: &Value, want: &Value, numbers: &[f64]) -> bool {
    let (Value::Float(a), Value::Float(b)) = (got, want) else { return got == want };
    if feature.value_error > 0.0 {
        return (a - b).abs() <= b.abs() * feature.value_error * 1.000_001 + 1e-12;
    }
    match feature.class {
        Equality::Bitwise => a.to_bits() == b.to_bits(),
        Equality::Tolerance(relative) => {
            let size: f64 = numbers.iter().map(|x| x.abs()).sum();
            let scale = match feature.aggregate {
                "variance" => size * size,
                _ => size,
            };
            (a - b).abs() <= relative * scale.max(b.abs()) + 1e-12
        }
        Equality::Distribution => true,
    }
}

fn engine(views: &[TestView]) -> Engine {
    Engine::new(views.iter().enumerate().map(|(i, v)| view(&v.spec(i))).collect())
}

fn read(engine: &mut Engine, v: usize, key: &EntityKey, q: EventTime) -> Vec<Value> {
    let mut out = Vec::new();
    engine.read(v, key, q, &mut out);
    out
}

fn snapshot(engine: &Engine) -> Vec<u8> {
    let mut bytes = Vec::new();
    engine.snapshot(&mut bytes);
    bytes
}

fn same_bits(a: &[Value], b: &[Value]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_bits(b))
}

// ---- random definitions and histories ----

const SECOND: i64 = 1_000_000;

fn line() -> impl Strategy<Value = Line> {
    let number = prop::sample::select(vec!["amount", "n", "abs(amount)", "if(ok, n, null)", "amount * n", "coalesce(n, 0)"]);
    let any = prop::sample::select(vec!["amount", "n", "kind", "ok", "due", "lower(kind)"]);
    let ordered = prop::sample::select(vec!["amount", "n", "due", "-n"]);
    let call = prop_oneof![
        Just(("count", None)),
        any.clone().prop_map(|x| ("count", Some(x))),
        (prop::sample::select(vec!["sum", "mean", "avg", "variance", "var", "stddev", "quantile"]), number).prop_map(|(a, x)| (a, Some(x))),
        (prop::sample::select(vec!["min", "max"]), ordered).prop_map(|(a, x)| (a, Some(x))),
        (prop::sample::select(vec!["first", "last", "approx_distinct"]), any).prop_map(|(a, x)| (a, Some(x))),
        Just(("time_since_last", None)),
    ];
    let filter = prop::option::of(prop::sample::select(vec!["amount > 0", "kind = 'a'", "ok", "n is not null and not ok"]));
    let windows = prop_oneof![
        1 => Just(vec![]),
        6 => prop::collection::btree_set(prop::sample::select(vec![1i64, 5, 60, 61, 90, 600, 3_600, 7_200]), 1..4)
            .prop_map(|set| set.into_iter().map(|s| Span(s * SECOND)).collect()),
    ];
    (
        call,
        prop::sample::select(vec![0.0, 0.25, 0.5, 0.99, 1.0]),
        filter,
        windows,
        prop::option::weighted(0.3, prop::sample::select(vec![1i64, 7, 60])),
    )
        .prop_map(|((aggregate, arg), fraction, filter, windows, hop)| {
            let shortest = windows.iter().map(|w: &Span| w.0).min().unwrap_or(0);
            let hop = hop.map(|h| Span(h * SECOND)).filter(|h| h.0 <= shortest);
            Line { aggregate, arg, fraction, filter, windows, hop }
        })
}

fn test_view() -> impl Strategy<Value = TestView> {
    let entity = prop::sample::select(vec![vec!["k"], vec!["kind"], vec!["k", "kind"], vec!["ok"]]);
    let hop = prop::option::weighted(0.2, prop::sample::select(vec![1i64, 13, 300]));
    let lateness = prop::sample::select(vec![0i64, 3, 100, 86_400]);
    (
        prop::collection::vec(line(), 1..6),
        entity,
        prop::option::weighted(0.2, Just("amount is null or amount < 90")),
        hop,
        lateness,
        0u16..2,
    )
        .prop_map(|(lines, entity, filter, hop, lateness, source)| TestView {
            lines,
            entity: entity.into_iter().map(str::to_string).collect(),
            filter,
            hop: hop.map(|h| Span(h * SECOND)),
            lateness: Span(lateness * SECOND),
            source: SourceId(source),
        })
}

fn pick<T: Clone>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len() as u64) as usize].clone()
}

fn row(rng: &mut Rng) -> Vec<Value> {
    let mut column = |missing: f64, value: fn(&mut Rng) -> Value| if rng.bernoulli(missing) { Value::Null } else { value(rng) };
    vec![
        column(0.05, |r| Value::Int(r.below(3) as i64)),
        column(0.15, |r| {
            let uniform = r.uniform() * 200.0 - 100.0;
            Value::Float(pick(r, &[uniform, uniform, uniform, uniform.round(), 0.0, -0.0, f64::INFINITY, 1e15]))
        }),
        column(0.15, |r| {
            let small = r.below(100) as i64 - 50;
            Value::Int(pick(r, &[small, small, small, small, small, small, i64::MAX, i64::MIN]))
        }),
        column(0.15, |r| Value::text(pick(r, &["a", "B", "a longer text that does not fit in twenty-four bytes", ""]))),
        column(0.15, |r| Value::Bool(r.bernoulli(0.5))),
        column(0.15, |r| Value::Time(EventTime(r.below(10) as i64 - 5))),
    ]
}

/// The first `n` events of the history of a seed. The clock goes forward by seconds or minutes, events come late by seconds, minutes or a
/// day, some at the same instant, some twice.
fn events_of(seed: u64, n: usize) -> Vec<Event> {
    let mut rng = Rng::seeded(seed);
    let mut now = pick(&mut rng, &[0, -50 * SECOND, 1_767_268_800 * SECOND]);
    let mut events: Vec<Event> = Vec::new();
    while events.len() < n {
        if rng.bernoulli(0.05)
            && let Some(last) = events.last()
        {
            events.push(last.clone());
            continue;
        }
        let mut up_to = |seconds: i64| rng.below((seconds * SECOND) as u64) as i64;
        let (forward, back) = match up_to(14) / SECOND {
            0..6 => (up_to(3), 0),
            6..8 => (0, 0),
            8 | 9 => (0, up_to(20)),
            10 => (0, up_to(4_000)),
            11 => (up_to(200), 0),
            12 => (up_to(2_300), 0),
            _ => (0, 90_000 * SECOND),
        };
        now += forward;
        let source = SourceId(rng.below(2) as u16);
        events.push(Event { source, offset: events.len() as u64, ..common::event(EventTime(now - back), row(&mut rng)) });
    }
    events
}

fn history(most: usize) -> impl Strategy<Value = Vec<Event>> {
    (any::<u64>(), 1..most).prop_map(|(seed, n)| events_of(seed, n))
}

/// Where to read after an event: at its own time, at the watermark, in the past, in the future.
fn moments() -> impl Strategy<Value = Vec<i64>> {
    prop::collection::vec(prop_oneof![Just(0), -70 * SECOND..70 * SECOND, -8_000 * SECOND..8_000 * SECOND], 1..3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_is_the_formula(
        views in prop::collection::vec(test_view(), 1..4),
        events in history(60),
        moments in moments(),
        every in 1usize..9,
    ) {
        let mut engine = engine(&views);
        for n in 0..events.len() {
            engine.update(&events[n]);
            if n % every != 0 && n + 1 != events.len() {
                continue;
            }
            for (v, test_view) in views.iter().enumerate() {
                let log: Vec<&Event> = events[..=n].iter().filter(|e| e.source == test_view.source).collect();
                let columns: Vec<usize> = test_view.entity.iter().map(|c| schema().index(c).unwrap()).collect();
                let key = EntityKey::from_row(&events[n].row, &columns).unwrap_or(EntityKey::Int(77));
                for q in moments.iter().map(|m| EventTime(events[n].time.0 + m)) {
                    let got = read(&mut engine, v, &key, q);
                    let features = engine.views()[v].features().to_vec();
                    let lines = test_view.lines.iter().flat_map(|l| std::iter::repeat_n(l, l.windows.len().max(1)));
                    prop_assert_eq!(got.len(), features.len());
                    for ((feature, line), got) in features.iter().zip(lines).zip(&got) {
                        let (want, numbers) = naive(test_view, feature, line, &log, &key, q);
                        prop_assert!(got.is_null() || got.data_type() == Some(feature.data_type));
                        prop_assert!(
                            agrees(feature, got, &want, &numbers),
                            "{} = {} of {key} at {q} after {n}: engine {got}, formula {want}", feature.name, feature.text
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_restart_leaves_no_trace(
        views in prop::collection::vec(test_view(), 1..4),
        events in history(80),
        cut in 0usize..80,
        moments in moments(),
    ) {
        let cut = cut.min(events.len());
        let mut undisturbed = engine(&views);
        let mut replayed = engine(&views);
        events[..cut].iter().for_each(|e| { undisturbed.update(e); });
        events[..cut].iter().for_each(|e| { replayed.update(e); });
        let bytes = snapshot(&undisturbed);
        prop_assert_eq!(&bytes, &snapshot(&replayed));
        let mut restored = Engine::restore(undisturbed.views().to_vec(), &bytes).unwrap();
        prop_assert_eq!(&bytes, &snapshot(&restored));
        for event in &events[cut..] {
            let result = undisturbed.update(event);
            prop_assert_eq!(result, restored.update(event));
            prop_assert_eq!(result, replayed.update(event));
            for (v, test_view) in views.iter().enumerate() {
                let columns: Vec<usize> = test_view.entity.iter().map(|c| schema().index(c).unwrap()).collect();
                let Some(key) = EntityKey::from_row(&event.row, &columns) else { continue };
                for q in moments.iter().map(|m| EventTime(event.time.0 + m)) {
                    let values = read(&mut undisturbed, v, &key, q);
                    prop_assert!(same_bits(&values, &read(&mut restored, v, &key, q)));
                }
            }
        }
        // The third engine was never read: reading changes nothing either.
        prop_assert_eq!(snapshot(&undisturbed), snapshot(&restored));
        prop_assert_eq!(snapshot(&undisturbed), snapshot(&replayed));
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic(views in prop::collection::vec(test_view(), 1..3), events in history(20), at in 0usize..4_000, bit in 0u8..8) {
        let mut engine = engine(&views);
        events.iter().for_each(|e| { engine.update(e); });
        let bytes = snapshot(&engine);
        let mut broken = bytes.clone();
        let at = at % bytes.len();
        broken[at] ^= 1 << bit;
        prop_assert!(Engine::restore(engine.views().to_vec(), &broken).is_err());
        prop_assert!(Engine::restore(engine.views().to_vec(), &bytes[..at]).is_err());
    }
}

#[test]
fn every_aggregate_of_the_register_has_a_twin() {
    let known = [
        "count",
        "sum",
        "mean",
        "avg",
        "min",
        "max",
        "variance",
        "var",
        "stddev",
        "first",
        "last",
        "time_since_last",
        "approx_distinct",
        "quantile",
    ];
    for name in kilter_features::aggregate_names() {
        assert!(known.contains(&name), "{name} is not in the oracle");
    }
}

#[test]
fn a_long_dense_history_agrees_too() {
    let line = |aggregate, arg| Line {
        aggregate,
        arg: Some(arg),
        fraction: 0.9,
        filter: None,
        windows: vec![Span(61 * SECOND), Span(600 * SECOND)],
        hop: Some(Span(SECOND)),
    };
    let lines: Vec<Line> = [
        ("sum", "amount"),
        ("min", "amount"),
        ("max", "n"),
        ("last", "kind"),
        ("approx_distinct", "n"),
        ("quantile", "amount"),
        ("stddev", "amount"),
        ("count", "n"),
        ("first", "n"),
    ]
    .into_iter()
    .map(|(a, x)| line(a, x))
    .collect();
    let test_view = TestView { lines, entity: vec!["k".into()], filter: None, hop: None, lateness: Span(30 * SECOND), source: SourceId(0) };
    let mut engine = engine(std::slice::from_ref(&test_view));
    let mut rng = Rng::seeded(11);
    let mut events = Vec::new();
    for i in 0..3_000i64 {
        let late = if rng.bernoulli(0.1) { (rng.next_u64() % 60) as i64 * SECOND } else { 0 };
        let x = rng.next_u64();
        let row = vec![
            Value::Int(1),
            Value::Float((x % 100_000) as f64 / 7.0),
            Value::Int((x >> 20) as i64 % 100),
            Value::text(["a", "b"][(x >> 50) as usize % 2]),
            Value::Null,
            Value::Null,
        ];
        events.push(common::event(EventTime(i * SECOND / 2 - late), row));
        engine.update(&events[i as usize]);
        if i % 37 == 0 || i > 2_990 {
            let log: Vec<&Event> = events.iter().collect();
            let key = EntityKey::Int(1);
            for q in [events[i as usize].time, EventTime(i * SECOND / 2 - 10 * SECOND), EventTime(i * SECOND / 2 + 50 * SECOND)] {
                let got = read(&mut engine, 0, &key, q);
                let features = engine.views()[0].features().to_vec();
                let of = test_view.lines.iter().flat_map(|l| [l, l]);
                for ((feature, line), got) in features.iter().zip(of).zip(&got) {
                    let (want, numbers) = naive(&test_view, feature, line, &log, &key, q);
                    assert!(agrees(feature, got, &want, &numbers), "{} at {q} after {i}: engine {got}, formula {want}", feature.name);
                }
            }
        }
    }
}

#[test]
fn a_snapshot_is_refused_by_other_definitions() {
    let spec = common::spec(&[("n", "count(*) over 1m")]);
    let engine = Engine::new(vec![view(&spec)]);
    let bytes = snapshot(&engine);
    let restore = |spec: &ViewSpec| Engine::restore(vec![view(spec)], &bytes).err().map(|e| e.to_string());
    assert_eq!(restore(&spec), None);
    let mut other = spec.clone();
    other.columns[0].text = "count(*) over 2m".into();
    assert_eq!(restore(&other).as_deref(), Some("view `account` has changed since the snapshot was written"));
    other = spec.clone();
    other.name = "card".into();
    assert_eq!(restore(&other).as_deref(), Some("the snapshot holds views [account], the definitions name [card]"));
    // A column that no feature reads changes nothing.
    other = spec.clone();
    other.schema.fields.insert(0, kilter_core::Field { name: "new".into(), data_type: kilter_core::DataType::String });
    assert_eq!(restore(&other), None);
    assert_eq!(Engine::restore(vec![], b"something else").err(), Some(RestoreError::NotASnapshot));
}
