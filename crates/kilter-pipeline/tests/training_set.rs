//! Rows of a training set are what the live path saw, or what a plain look at the log says was known.

use std::convert::Infallible;
use std::sync::Arc;

use crate::common::*;
use kilter_core::{DataType, Event, EventTime, Span, Value};
use kilter_features::Engine;
use kilter_features::expr::{Scope, compile};
use kilter_pipeline::training_set::{ByTime, From, OutColumn, Part, Range, Router, SetPlan, SpineRow, Step, in_log_order};
use kilter_pipeline::{ContextPlan, Lookup, Pipeline, Plan};
use kilter_stats::Rng;
use proptest::prelude::*;

/// Works through the entities part by part, some parts divided further, and joins what the parts give.
fn collect(plan: &Arc<SetPlan>, steps: Vec<Step>, parts: u32, rng: &mut Rng) -> Vec<Vec<Value>> {
    enum Sent {
        Event(Event, Option<EventTime>),
        Row(SpineRow, Vec<Option<EventTime>>),
    }
    let mut router = Router::new(Arc::clone(plan), parts);
    let all = router.parts();
    let mut sent: Vec<Vec<Sent>> = all.iter().map(|_| Vec::new()).collect();
    let place = |part: Part| all.iter().position(|p| *p == part).unwrap();
    let mut rows: Vec<Vec<Value>> = Vec::new();
    for step in &steps {
        match step {
            Step::Event(event) => router.event(event, |part, before| sent[place(part)].push(Sent::Event(event.clone(), before))),
            Step::Row(row) => {
                let mut slots = Vec::new();
                plan.start(row.row.clone(), &mut slots);
                rows.resize(rows.len().max(row.number as usize + 1), Vec::new());
                rows[row.number as usize] = slots;
                router.row(row, |part, watermarks| {
                    // What is no key may be missing.
                    let mut sparse = vec![Value::Null; row.row.len()];
                    router.key(part.group).iter().for_each(|c| sparse[*c] = row.row[*c].clone());
                    sent[place(part)].push(Sent::Row(SpineRow { row: sparse, ..row.clone() }, watermarks.to_vec()));
                });
            }
        }
    }
    let mut given = Vec::new();
    for (part, sent) in all.iter().zip(&sent) {
        let mut ranges = vec![Range::ALL];
        while let Some(range) = ranges.pop() {
            if rng.bernoulli(0.3) && router.shard(*part, range).size().0 < 1 << 20 && ranges.len() < 8 && parts > 1 {
                ranges.extend(range.halves().unwrap());
                continue;
            }
            // A group that is not divided gives all for every range, the same each time.
            let mut shard = router.shard(*part, range);
            for one in sent {
                match one {
                    Sent::Event(event, before) => shard.feed(event, *before),
                    Sent::Row(row, watermarks) => shard.read(row, watermarks, |view, values| {
                        let seen = (row.number, view, values.to_vec());
                        if !given.contains(&seen) {
                            assert!(!given.iter().any(|(n, v, _)| (*n, *v) == (row.number, view)), "two parts hold one entity");
                            plan.join(view, values.iter().cloned(), &mut rows[row.number as usize]);
                            given.push(seen);
                        }
                    }),
                }
            }
        }
    }
    let finish = |slots: &Vec<Value>| {
        let mut out = Vec::new();
        plan.finish(slots, &mut out);
        out
    };
    rows.iter().map(finish).collect()
}

/// The inputs of a model as columns, beside one of the row's further columns.
fn inputs(plan: &Plan, model: usize) -> Arc<SetPlan> {
    let model = &plan.models[model];
    let mut columns = vec![OutColumn { name: "offset".into(), data_type: DataType::Int64, from: From::Slot(model.context.width) }];
    columns.extend(model.inputs.iter().map(|input| OutColumn {
        name: input.name.clone(),
        data_type: input.expr.data_type().unwrap(),
        from: From::Expr(input.expr.clone()),
    }));
    let own = schemas()[0].len();
    Arc::new(SetPlan::new(plan, &model.context, own, columns, model.include_self))
}

fn observed(event: &Event, number: u64) -> SpineRow {
    let mut row = event.row.clone();
    row.push(Value::Int(event.offset as i64));
    SpineRow { number, time: event.time, row }
}

fn assert_same(a: &[Vec<Value>], b: &[Vec<Value>]) {
    assert_eq!(a.len(), b.len());
    for (row, (a, b)) in a.iter().zip(b).enumerate() {
        assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_bits(b)), "row {row}: {a:?} against {b:?}");
    }
}

/// A spine of a file: card, merchant and a label under names of its own.
fn file_spine(plan: &Plan, include_self: bool) -> Arc<SetPlan> {
    let (mut scope, mut lookups) = (Scope::new(), Vec::new());
    for (name, data_type) in [("c", DataType::Int64), ("m", DataType::String), ("label", DataType::Bool)] {
        scope.add(Some("spine"), name, data_type);
    }
    for (view, key) in [(4, vec![0, 1]), (0, vec![0]), (1, vec![1]), (2, vec![0])] {
        lookups.push(Lookup { view, key, first_slot: scope.len() });
        for f in plan.views[view].features() {
            scope.add(Some(plan.views[view].name()), &f.name, f.data_type);
        }
    }
    let texts = ["card.n_1h", "pair.last_1h", "merchant.spread_6h", "login.failed_1h", "card.mean_6h * 2 + card.n_6h", "spine.label"];
    let columns = texts
        .map(|text| {
            let expr = compile(text, &scope).unwrap();
            OutColumn { name: text.into(), data_type: expr.data_type().unwrap(), from: From::Expr(expr) }
        })
        .to_vec();
    let context = ContextPlan { source: PAYMENTS, width: scope.len(), lookups, scope };
    Arc::new(SetPlan::new(plan, &context, 3, columns, include_self))
}

/// Rows in the order of their times, many at the very moment of an event.
fn spine_rows(rng: &mut Rng, events: &[Event]) -> Vec<SpineRow> {
    let mut times: Vec<EventTime> = (0..rng.below(40))
        .map(|_| events[rng.below(events.len() as u64) as usize].time + minutes([-45, -1, 0, 0, 0, 20, 500][rng.below(7) as usize]))
        .collect();
    times.sort();
    let maybe = |rng: &mut Rng, value: Value| if rng.bernoulli(0.1) { Value::Null } else { value };
    times
        .into_iter()
        .enumerate()
        .map(|(number, time)| {
            let card = Value::Int(rng.below(5) as i64);
            let merchant = Value::text(["a", "b", "c|tb"][rng.below(3) as usize]);
            let row = [card, merchant, Value::Bool(rng.bernoulli(0.5))].map(|value| maybe(rng, value)).to_vec();
            SpineRow { number: number as u64, time, row }
        })
        .collect()
}

/// Each row by itself: an engine that is given what counts for it, and read.
fn naive(plan: &Arc<SetPlan>, views: &Plan, events: &[(EventTime, Event)], rows: &[SpineRow]) -> Vec<Vec<Value>> {
    let mut out = Vec::new();
    for row in rows {
        let mut engine = Engine::new(views.views.clone());
        events.iter().filter(|(known, _)| if plan.include_self { *known <= row.time } else { *known < row.time }).for_each(|(_, event)| {
            engine.update(event);
        });
        let (mut slots, mut values) = (Vec::new(), Vec::new());
        plan.start(row.row.clone(), &mut slots);
        for (place, (view, key)) in plan.views().enumerate() {
            let index = views.view(view.name()).unwrap();
            let lookup = Lookup { view: index, key: key.to_vec(), first_slot: 0 };
            let mut read = Vec::new();
            lookup.read(&row.row, row.time, &mut engine, &mut read);
            // Which of them are used shows in the columns alone: all that are not used would be in nobody's slot.
            let used = used_features(plan, views, place);
            plan.join(place, used.into_iter().map(|f| read[f].clone()), &mut slots);
        }
        plan.finish(&slots, &mut values);
        out.push(values);
    }
    out
}

/// The features of a view that the file spine's columns read.
fn used_features(plan: &SetPlan, views: &Plan, place: usize) -> Vec<usize> {
    let (view, _) = plan.views().nth(place).unwrap();
    let texts: String = plan.columns.iter().map(|c| format!(" {} ", c.name)).collect();
    let view = &views.views[views.view(view.name()).unwrap()];
    (0..view.features().len()).filter(|&f| texts.contains(&format!(" {}.{} ", view.name(), view.features()[f].name))).collect()
}

fn steps<E, R>(events: E, rows: R, include_self: bool) -> Vec<Step>
where
    E: IntoIterator<Item = (EventTime, Event)>,
    R: IntoIterator<Item = SpineRow>,
{
    let events = events.into_iter().map(Ok::<_, Infallible>);
    ByTime::new(events, rows.into_iter().map(Ok), include_self).map(|step| step.unwrap().0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn replay_over_the_log_gives_what_was_decided_with(seed: u64, parts in 1u32..5) {
        let mut rng = Rng::seeded(seed);
        let plan = World::random(&mut rng).plan();
        let shape = Shape::random(&mut rng);
        let log = log(&mut rng, shape);
        let effects = run(&mut Pipeline::new(Arc::clone(&plan)), &log, log.len());
        for model in [RISK, SIMPLE] {
            let set = inputs(&plan, model);
            let (mut all, mut number) = (Vec::new(), 0);
            for event in events(&log) {
                let row = (event.source == PAYMENTS).then(|| observed(&event, number));
                number += u64::from(row.is_some());
                all.extend(in_log_order(event, row, set.include_self));
            }
            let rows = collect(&set, all, parts, &mut rng);
            for decision in effects.decisions.iter().filter(|d| d.decision == model) {
                let offset = Value::Int(decision.offset as i64);
                let row = rows.iter().find(|row| row[0] == offset).unwrap();
                let seen: Vec<f64> = row[1..].iter().map(|v| v.as_f64().unwrap()).collect();
                prop_assert!(same_bits(&seen, &decision.inputs), "{:?}", decision);
            }
        }
    }

    #[test]
    fn in_event_time_a_row_knows_what_happened_a_lag_before_it(seed: u64, parts in 1u32..4, include_self: bool) {
        let mut rng = Rng::seeded(seed);
        let plan = World::random(&mut rng).plan();
        let shape = Shape::random(&mut rng);
        let events = history(&mut rng, shape);
        let lags = [0, 1, 2].map(|_| [Span::ZERO, Span(1), minutes(10), minutes(90)][rng.below(4) as usize]);
        let mut known: Vec<(EventTime, Event)> = events.iter().map(|e| (e.time + lags[e.source.0 as usize], e.clone())).collect();
        known.sort_by_key(|(known, event)| (*known, event.offset));
        let rows = spine_rows(&mut rng, &events);
        let set = file_spine(&plan, include_self);
        let got = collect(&set, steps(known.clone(), rows.clone(), include_self), parts, &mut rng);
        assert_same(&got, &naive(&set, &plan, &known, &rows));
    }

    #[test]
    fn in_replay_a_row_of_a_file_knows_what_had_arrived_before_it(seed: u64, parts in 1u32..4, include_self: bool) {
        let mut rng = Rng::seeded(seed);
        let plan = World::random(&mut rng).plan();
        let shape = Shape::random(&mut rng);
        let mut events = history(&mut rng, shape);
        // Arrival runs behind the event times, and once in a while the clock was set back.
        let mut now = EventTime(i64::MIN);
        for event in &mut events {
            now = now.max(event.time + minutes(rng.below(30) as i64));
            event.arrived = if rng.bernoulli(0.1) { now - minutes(20) } else { now };
        }
        let mut clock = EventTime(i64::MIN);
        let arrived: Vec<(EventTime, Event)> = events
            .iter()
            .map(|e| {
                clock = clock.max(e.arrived);
                (clock, e.clone())
            })
            .collect();
        let rows = spine_rows(&mut rng, &events);
        let set = file_spine(&plan, include_self);
        let got = collect(&set, steps(arrived.clone(), rows.clone(), include_self), parts, &mut rng);
        assert_same(&got, &naive(&set, &plan, &arrived, &rows));
    }
}

#[test]
fn a_row_in_the_instant_of_an_event_counts_it_only_with_include_self() {
    let plan = World::default().plan();
    let events = numbered([payment(at(10), 1, 1, 5.0), payment(at(20), 2, 1, 5.0)]);
    let row = |minute| SpineRow { number: 0, time: at(minute), row: vec![Value::Int(1), Value::Null, Value::Null] };
    let count = |include_self, minute| {
        let set = file_spine(&plan, include_self);
        let known = events.iter().map(|e| (e.time, e.clone()));
        collect(&set, steps(known, [row(minute)], include_self), 1, &mut Rng::seeded(1))[0][0].clone()
    };
    assert_eq!([count(false, 10), count(true, 10)], [Value::Int(0), Value::Int(1)]);
    assert_eq!([count(false, 11), count(true, 11)], [Value::Int(1), Value::Int(1)]);
    assert_eq!([count(false, 20), count(true, 20)], [Value::Int(1), Value::Int(2)]);
}
