//! The engine against the formulas of docs/reference/windows.md, computed from all events kept in arrival order.
//!
//! The twin shares nothing with the engine but the parsing of expressions and the calendar: windows, filters, ties, nulls and every aggregate
//! are written again in the plainest way. Random histories then say whether both agree, whether a restart or a sweep leaves a trace, and
//! whether two engines over one log hold the same bits.

#[path = "../common/mod.rs"]
mod common;
mod random;
mod tiers;
mod twin;

use std::cell::Cell;

use common::view;
use kilter_core::{EntityKey, Event, EventTime, SourceId, Span, Value};
use kilter_features::{Engine, LookupSpec, RestoreError, View, ViewSpec};
use kilter_stats::Rng;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use random::{Line, SECOND, TestView, Window, history, moments, test_view};
use twin::{agrees, events_of_entity, key_of, naive};

fn engine(views: &[TestView]) -> Engine {
    Engine::new(views.iter().enumerate().map(|(i, v)| view(&v.spec(i))).collect())
}

/// The same, and behind them a view that reads the first of them at each of its events.
fn engine_with_reader(views: &[TestView]) -> Engine {
    let mut all: Vec<View> = views.iter().enumerate().map(|(i, v)| view(&v.spec(i))).collect();
    let lines = all[0].features().iter().take(3).map(|f| format!("count(*) where view_0.{} is not null over 61s, 1h", f.name));
    let columns = lines.enumerate().map(|(i, line)| common::column(&format!("seen{i}"), &line)).collect();
    let key = views[0].entity.iter().map(|name| common::schema().index(name).unwrap()).collect();
    let lookups = vec![LookupSpec { view: all[0].clone(), key }];
    let spec = ViewSpec { columns, lookups, ..ViewSpec::new("reader", SourceId(0), common::schema(), &["kind"], Span(100 * SECOND)) };
    all.push(view(&spec));
    Engine::new(all)
}

/// What an event may have changed: the views of [`engine_with_reader`], each with the entity that the event names.
fn named(views: &[TestView], event: &Event) -> Vec<(usize, EntityKey)> {
    let of_tests = views.iter().enumerate().filter_map(|(v, test_view)| Some((v, key_of(test_view, &event.row)?)));
    let kind = common::schema().index("kind").and_then(|slot| EntityKey::from_value(&event.row[slot]));
    of_tests.chain(kind.map(|kind| (views.len(), kind))).collect()
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

/// Plays a history and compares every feature at some of its moments with the formula. Returns how many values that were.
fn compare(views: &[TestView], events: &[Event], moments: &[i64], every: usize) -> Result<u64, TestCaseError> {
    let mut engine = engine(views);
    let mut compared = 0;
    for n in 0..events.len() {
        engine.update(&events[n]);
        if n % every != 0 && n + 1 != events.len() {
            continue;
        }
        for (v, test_view) in views.iter().enumerate() {
            let log: Vec<&Event> = events[..=n].iter().filter(|e| e.source == test_view.source).collect();
            let key = key_of(test_view, &events[n].row).unwrap_or(EntityKey::Int(77));
            for q in moments.iter().map(|m| EventTime(events[n].time.0 + m)) {
                let got = read(&mut engine, v, &key, q);
                let watermark = log.iter().map(|e| e.time.0).max().unwrap_or(q.0);
                let own = events_of_entity(test_view, &log, &key, q);
                let features = engine.views()[v].features();
                let lines = test_view.lines.iter().flat_map(|l| l.of_each_window().into_iter().map(move |w| (l, w)));
                prop_assert_eq!(got.len(), features.len());
                compared += got.len() as u64;
                for ((feature, (line, window)), got) in features.iter().zip(lines).zip(&got) {
                    let (want, scale) = naive(test_view, line, &window, &own, watermark, q);
                    prop_assert!(got.fits(feature.data_type), "{} is {got:?}", feature.text);
                    prop_assert!(
                        agrees(feature, got, &want, scale),
                        "{} = {} over {} of {key} at {q} after {n}: engine {got}, formula {want}",
                        feature.name,
                        feature.text,
                        feature.over
                    );
                }
            }
        }
    }
    Ok(compared)
}

/// This many cases, or as many as `PROPTEST_CASES` asks for, for long runs.
fn cases(otherwise: u32) -> ProptestConfig {
    let asked = ProptestConfig::default().cases;
    let usual = 256;
    ProptestConfig { cases: if asked == usual { otherwise } else { asked }, max_shrink_iters: 4_000, ..ProptestConfig::default() }
}

/// One part of the cases, with histories of less than `most` events. Says at the end how many there were.
#[allow(clippy::print_stdout, reason = "the number of cases is what a long run is asked for")]
fn the_engine_is_the_formula(part: &'static str, most: usize) {
    let config = ProptestConfig { source_file: Some(file!()), test_name: Some(part), ..cases(1_500) };
    let (ran, compared) = (Cell::new(0), Cell::new(0));
    let input = (prop::collection::vec(test_view(), 1..4), history(most), moments(), 1usize..9);
    let result = TestRunner::new(config).run(&input, |(views, events, moments, every)| {
        compared.set(compared.get() + compare(&views, &events, &moments, every)?);
        ran.set(ran.get() + 1);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("after {} cases that agree: {failure}", ran.get());
    }
    println!("{part}: {} random cases, {} values compared", ran.get(), compared.get());
}

// Four parts, which run beside each other. The long ones have entities that go over from events to tiles.
#[test]
fn the_engine_is_the_formula_in_short_histories() {
    the_engine_is_the_formula("short histories", 60);
}

#[test]
fn the_engine_is_the_formula_in_more_short_histories() {
    the_engine_is_the_formula("more short histories", 60);
}

#[test]
fn the_engine_is_the_formula_in_long_histories() {
    the_engine_is_the_formula("long histories", 180);
}

#[test]
fn the_engine_is_the_formula_in_more_long_histories() {
    the_engine_is_the_formula("more long histories", 180);
}

proptest! {
    #![proptest_config(cases(3_000))]

    #[test]
    fn a_restart_leaves_no_trace(
        views in prop::collection::vec(test_view(), 1..4),
        events in history(120),
        cut in 0usize..120,
        moments in moments(),
    ) {
        let cut = cut.min(events.len());
        let mut undisturbed = engine_with_reader(&views);
        let mut replayed = engine_with_reader(&views);
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
            for (v, key) in named(&views, event) {
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
        "skew",
        "skewness",
        "kurtosis",
        "first_time",
        "last_time",
        "time_since_first",
        "first_k",
        "last_k",
        "top_k",
        "bottom_k",
        "frequent_k",
        "mode",
        "distinct",
        "median",
        "histogram",
        "rate",
        "gap_mean",
        "gap_stddev",
        "streak",
        "ratio",
        "argmin",
        "argmax",
        "zscore",
        "trend",
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
        other: None,
        constants: if aggregate == "quantile" { vec![0.9] } else { vec![] },
        by: None,
        filter: None,
        windows: vec![Window::Sliding(61 * SECOND), Window::Sliding(600 * SECOND), Window::Exact(300 * SECOND)],
        hop: None,
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
    let test_view = TestView {
        lines,
        entity: vec!["k".into()],
        filter: None,
        hop: Some(Span(SECOND)),
        lateness: Span(30 * SECOND),
        source: SourceId(0),
        ttl: None,
        key: None,
    };
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
                let watermark = log.iter().map(|e| e.time.0).max().unwrap_or(q.0);
                let own = events_of_entity(&test_view, &log, &key, q);
                let features = engine.views()[0].features().to_vec();
                let of = test_view.lines.iter().flat_map(|l| l.of_each_window().into_iter().map(move |w| (l, w)));
                for ((feature, (line, window)), got) in features.iter().zip(of).zip(&got) {
                    let (want, scale) = naive(&test_view, line, &window, &own, watermark, q);
                    assert!(agrees(feature, got, &want, scale), "{} at {q} after {i}: engine {got}, formula {want}", feature.name);
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
