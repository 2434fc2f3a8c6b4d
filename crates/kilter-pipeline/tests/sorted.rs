//! Entity by entity, as a sort brings events together, comes out what one engine makes of all of them.

use std::convert::Infallible;
use std::sync::Arc;

use crate::common::*;
use kilter_core::{EntityKey, Event, EventTime, Operation, SourceId, Span, Value};
use kilter_features::expr::{Scope, compile};
use kilter_features::{ColumnSpec, Engine, LookupSpec, View, ViewSpec, compile_view};
use kilter_pipeline::parts::{Assembly, PartError, SourceTotal, StatePass, StateSweep};
use kilter_pipeline::training_set::{ByTime, From, OutColumn, SetPlan, SpineRow, Step, Sweep};
use kilter_pipeline::{ContextPlan, Lookup, Pipeline, Plan};
use kilter_stats::Rng;
use proptest::prelude::*;

/// The world with views that cannot be divided (reports that may change their card; payments looked up among logins), one of rows that change and
/// stay with their card, windows of other kinds, and one that forgets.
fn plan() -> Arc<Plan> {
    let mut plan = Plan::clone(&World::default().plan());
    let columns = |texts: &[(&str, &str)]| {
        texts.iter().map(|(name, text)| ColumnSpec { name: name.to_string(), text: text.to_string(), default: None }).collect()
    };
    let keyed = |name: &str, key: &[&str]| ViewSpec {
        key: key.iter().map(|k| k.to_string()).collect(),
        columns: columns(&[("n", "count(*) over 6h"), ("frauds", "count(*) where fraud"), ("newest", "last(fraud) over 3h")]),
        ..ViewSpec::new(name, REPORTS, schemas()[1].clone(), &["card"], Span::HOUR)
    };
    let login = plan.views[plan.view("login").unwrap()].clone();
    let shy = ViewSpec {
        columns: columns(&[("amount", "sum(amount) where login.failed_1h > 0 over 6h")]),
        lookups: vec![LookupSpec { view: login, key: vec![CARD] }],
        ..ViewSpec::new("shy", PAYMENTS, schemas()[0].clone(), &["card"], Span::HOUR)
    };
    let kinds = ViewSpec {
        columns: columns(&[
            ("median", "quantile(amount, 0.5) over 6h"),
            ("of", "distinct(merchant)"),
            ("three", "mean(amount) over last 3"),
            ("visit", "count(*) over session 30m"),
            ("since", "time_since_last()"),
        ]),
        ttl: Some(minutes(600)),
        ..ViewSpec::new("kinds", PAYMENTS, schemas()[0].clone(), &["card"], Span::HOUR)
    };
    let amount = ViewSpec {
        columns: columns(&[("first", "first(amount) over 6h")]),
        filter: Some("amount > 12".into()),
        ..ViewSpec::new("large", PAYMENTS, schemas()[0].clone(), &["merchant"], Span::HOUR)
    };
    let specs = [keyed("moving", &["id"]), keyed("staying", &["id", "card"]), shy, kinds, amount];
    plan.views.extend(specs.iter().map(|spec| compile_view(spec).unwrap()));
    Arc::new(plan)
}

/// A history in which rows go away, by the moment at which each event is known.
fn known(rng: &mut Rng, lags: [Span; 3]) -> Vec<(EventTime, Event)> {
    let shape = Shape::random(rng);
    let mut events = history(rng, shape);
    for event in events.iter_mut().filter(|e| e.source == REPORTS) {
        if rng.bernoulli(0.2) {
            event.operation = Operation::Delete;
        }
    }
    let mut known: Vec<(EventTime, Event)> = events.into_iter().map(|e| (e.time + lags[usize::from(e.source.0)], e)).collect();
    known.sort_by_key(|(known, event)| (*known, event.offset));
    known
}

/// All features of all views, at rows that hold a card and a merchant.
fn everything(plan: &Plan, include_self: bool) -> Arc<SetPlan> {
    let (mut scope, mut lookups, mut columns) = (Scope::new(), Vec::new(), Vec::new());
    for (name, field) in [("card", &schemas()[0].fields[CARD]), ("merchant", &schemas()[0].fields[MERCHANT])] {
        scope.add(Some("spine"), name, field.data_type);
    }
    for (position, view) in plan.views.iter().enumerate() {
        let key = view.entity().iter().map(|column| usize::from(column == "merchant")).collect();
        lookups.push(Lookup { view: position, key, first_slot: scope.len() });
        for f in view.features() {
            let slot = scope.len();
            scope.add(Some(view.name()), &f.name, f.data_type);
            let text = format!("{}.{}", view.name(), f.name);
            columns.push(OutColumn { name: text.clone(), data_type: f.data_type, from: From::Slot(slot) });
            // What is used of a view need not be its first features.
            if slot % 3 == 0 {
                columns.pop();
            } else if slot % 3 == 1 {
                let expr = compile(&format!("coalesce({text}, {text})"), &scope).unwrap();
                columns.push(OutColumn { name: format!("{text} again"), data_type: f.data_type, from: From::Expr(expr) });
            }
        }
    }
    let context = ContextPlan { source: PAYMENTS, width: scope.len(), lookups, scope };
    Arc::new(SetPlan::new(plan, &context, 2, columns, include_self))
}

fn rows(rng: &mut Rng, known: &[(EventTime, Event)]) -> Vec<SpineRow> {
    let mut rows: Vec<SpineRow> = (0..rng.below(40))
        .map(|number| {
            let time = known[rng.below(known.len() as u64) as usize].0 + minutes([-45, 0, 0, 0, 20, 700][rng.below(6) as usize]);
            let key = [Value::Int(rng.below(5) as i64), Value::text(["a", "b", "c|tb"][rng.below(3) as usize])];
            let row = key.map(|value| if rng.bernoulli(0.1) { Value::Null } else { value }).to_vec();
            SpineRow { number, time, row }
        })
        .collect();
    rows.sort_by_key(|row| row.time);
    rows
}

/// One engine of all views takes everything in, in order.
fn undivided(plan: &Plan, set: &SetPlan, known: &[(EventTime, Event)], rows: &[SpineRow]) -> Vec<Vec<Value>> {
    let mut engine = Engine::new(plan.views.clone());
    let events = known.iter().cloned().map(Ok::<_, Infallible>);
    let mut out = vec![Vec::new(); rows.len()];
    for step in ByTime::new(events, rows.iter().cloned().map(Ok), set.include_self) {
        match step.unwrap().0 {
            Step::Event(event) => {
                engine.update(&event);
            }
            Step::Row(row) => {
                let mut slots = row.row.clone();
                for (view, of) in plan.views.iter().enumerate() {
                    let key = of.entity().iter().map(|column| usize::from(column == "merchant")).collect();
                    Lookup { view, key, first_slot: 0 }.read(&row.row, row.time, &mut engine, &mut slots);
                }
                set.finish(&slots, &mut out[row.number as usize]);
            }
        }
    }
    out
}

/// By entity, then by moment; in one moment rows before events or behind them, events in the log's order.
fn sorted(set: &Arc<SetPlan>, known: &[(EventTime, Event)], rows: &[SpineRow], rng: &mut Rng) -> Vec<Vec<Value>> {
    enum Item<'a> {
        Event(usize, &'a Event),
        Row(&'a SpineRow),
    }
    let mut slots: Vec<Vec<Value>> = vec![Vec::new(); rows.len()];
    rows.iter().for_each(|row| set.start(row.row.clone(), &mut slots[row.number as usize]));
    let mut passes = set.passes();
    if rng.bernoulli(0.5) {
        passes.reverse();
    }
    for pass in passes {
        let key = |row: &[Value], columns: &[usize]| if pass.is_whole() { None } else { EntityKey::from_row(row, columns) };
        let mut items = Vec::new();
        for (f, feed) in pass.feeds().iter().enumerate() {
            let events = known.iter().filter(|(_, event)| event.source == feed.source);
            items.extend(events.map(|(at, e)| (key(&e.row, &feed.entity), *at, !set.include_self, e.offset, Item::Event(f, e))));
        }
        items.extend(rows.iter().map(|row| (key(&row.row, pass.key()), row.time, set.include_self, 0, Item::Row(row))));
        items.sort_by_key(|(key, at, behind, offset, _)| (key.clone(), *at, *behind, *offset));
        let mut sweep = Sweep::new(pass.clone());
        for (_, at, _, _, item) in items {
            match item {
                // The place in the log is no more than a place in an order.
                Item::Event(feed, event) => sweep.event(feed, at, Event { offset: 0, ..event.clone() }).unwrap(),
                Item::Row(row) => {
                    let slots = &mut slots[row.number as usize];
                    sweep.row(row, |view, values| set.join(view, values.iter().cloned(), slots)).unwrap();
                }
            }
        }
    }
    let finish = |slots: &Vec<Value>| {
        let mut out = Vec::new();
        set.finish(slots, &mut out);
        out
    };
    slots.iter().map(finish).collect()
}

/// Each pass goes to several places, by entity; their parts come in any order.
fn in_parts(plan: &Arc<Plan>, events: &[Event], places: u64, rng: &mut Rng) -> Vec<(usize, Vec<u8>)> {
    let mut parts = Vec::new();
    for (position, pass) in StatePass::all(plan).into_iter().enumerate() {
        let mut sent: Vec<Vec<(Option<EntityKey>, usize, &Event)>> = (0..places).map(|_| Vec::new()).collect();
        for (f, feed) in pass.feeds().iter().enumerate() {
            for event in events.iter().filter(|e| e.source == feed.source) {
                let key = if pass.is_whole() { None } else { EntityKey::from_row(&event.row, &feed.entity) };
                let place = key.as_ref().map_or(0, |key| key.to_string().bytes().map(u64::from).sum::<u64>() % places);
                sent[place as usize].push((key, f, event));
            }
        }
        for mut sent in sent {
            sent.sort_by_key(|(key, _, event)| (key.clone(), event.time, event.offset));
            let mut sweep = StateSweep::new(pass.clone(), [1, 2000, 1 << 20][rng.below(3) as usize]);
            for (_, feed, event) in sent {
                parts.extend(sweep.event(feed, event.clone()).unwrap().map(|part| (position, part)));
            }
            parts.push((position, sweep.finish()));
        }
    }
    rng.shuffle(&mut parts);
    parts
}

fn totals(plan: &Plan, events: &[Event]) -> Vec<SourceTotal> {
    let of = |source: usize| events.iter().filter(move |e| usize::from(e.source.0) == source);
    (0..plan.sources.len()).map(|s| SourceTotal { events: of(s).count() as u64, latest: of(s).map(|e| e.time).max() }).collect()
}

fn assembled(plan: &Arc<Plan>, parts: &[(usize, Vec<u8>)], totals: &[SourceTotal]) -> Result<Pipeline, PartError> {
    let mut assembly = Assembly::new(Arc::clone(plan));
    parts.iter().try_for_each(|(pass, part)| assembly.add(*pass, part))?;
    assembly.finish(totals)
}

/// Every feature of every entity there can be.
fn features(plan: &Plan, pipeline: &mut Pipeline, at: EventTime) -> Vec<Value> {
    let mut out = Vec::new();
    for card in 0..5 {
        for merchant in ["a", "b", "c|tb", "m"] {
            let row = [Value::Int(card), Value::text(merchant)];
            for (position, view) in plan.views.iter().enumerate() {
                let key: Vec<usize> = view.entity().iter().map(|column| usize::from(column == "merchant")).collect();
                out.extend(pipeline.features(position, &EntityKey::from_row(&row, &key).unwrap(), at));
            }
        }
    }
    out
}

fn same(a: &[Value], b: &[Value]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_bits(b))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_sweep_over_sorted_events_gives_the_rows_of_one_engine(seed: u64, include_self: bool) {
        let mut rng = Rng::seeded(seed);
        let plan = plan();
        let lags = [0, 1, 2].map(|_| [Span::ZERO, Span(1), minutes(10), minutes(90)][rng.below(4) as usize]);
        let known = known(&mut rng, lags);
        let rows = rows(&mut rng, &known);
        let set = everything(&plan, include_self);
        let got = sorted(&set, &known, &rows, &mut rng);
        let want = undivided(&plan, &set, &known, &rows);
        for (row, (got, want)) in got.iter().zip(&want).enumerate() {
            prop_assert!(same(got, want), "row {row}: {got:?} against {want:?}");
        }
    }

    #[test]
    fn parts_of_any_number_of_places_make_the_state_that_saw_everything(seed: u64, places in 1u64..5) {
        let mut rng = Rng::seeded(seed);
        let plan = plan();
        let events: Vec<Event> = known(&mut rng, [Span::ZERO; 3]).into_iter().map(|(_, event)| event).collect();
        // Numbers in the order of time, as a log has that took them in so.
        let events = numbered(events);
        let cut = rng.below(events.len() as u64) as usize;
        let mut whole = Pipeline::new(Arc::clone(&plan));
        events[..cut].iter().for_each(|event| { whole.process(event); });
        let parts = in_parts(&plan, &events[..cut], places, &mut rng);
        let mut booted = assembled(&plan, &parts, &totals(&plan, &events[..cut])).unwrap();

        prop_assert_eq!(booted.next_offset(), cut as u64);
        prop_assert_eq!(booted.now(), whole.now());
        prop_assert!(booted.engine().counts().eq(whole.engine().counts()));
        // It is taken up as any snapshot, and both go on the same.
        let bytes = booted.snapshot();
        booted = Pipeline::restore(Arc::clone(&plan), &bytes, |_, _| Err("none".into())).unwrap();
        for event in &events[cut..] {
            let at = event.time + minutes(rng.below(90) as i64);
            let (a, b) = (features(&plan, &mut booted, at), features(&plan, &mut whole, at));
            prop_assert!(same(&a, &b), "at {at}: {a:?} against {b:?}");
            booted.process(event);
            whole.process(event);
        }
    }
}

#[test]
fn parts_that_are_missing_or_come_twice_are_refused() {
    let plan = plan();
    let events = numbered((0..60).map(|i| payment(at(i), i, i % 7, 20.0)));
    let parts = in_parts(&plan, &events, 3, &mut Rng::seeded(1));
    let totals = totals(&plan, &events);
    assert!(assembled(&plan, &parts, &totals).is_ok());
    for gone in 0..parts.len() {
        let mut fewer = parts.clone();
        let (_, part) = fewer.remove(gone);
        let mut more = parts.clone();
        more.push(parts[gone].clone());
        // A place that no event came to gives an empty part, which makes no difference.
        let empty = StatePass::all(&plan).into_iter().any(|pass| StateSweep::new(pass, 1).finish() == part);
        assert_eq!(assembled(&plan, &fewer, &totals).is_err(), !empty);
        assert_eq!(assembled(&plan, &more, &totals).is_err(), !empty);
    }
    let mut other = Plan::clone(&plan);
    other.views.remove(0);
    assert!(assembled(&Arc::new(other), &parts, &totals).is_err());
    let mut damaged = parts.clone();
    damaged[0].1.pop();
    assert!(assembled(&plan, &damaged, &totals).is_err());
    assert!(assembled(&plan, &[(99, parts[0].1.clone())], &totals).is_err());
}

#[test]
fn what_is_not_sorted_is_refused() {
    let plan = plan();
    let pass = StatePass::all(&plan).into_iter().find(|pass| !pass.is_whole()).unwrap();
    let feed = pass.feeds().iter().position(|feed| feed.source == PAYMENTS).unwrap();
    let mut sweep = StateSweep::new(pass, 1 << 20);
    sweep.event(feed, payment(at(10), 1, 1, 1.0)).unwrap();
    sweep.event(feed, payment(at(5), 2, 2, 1.0)).unwrap();
    let error = sweep.event(feed, payment(at(4), 3, 2, 1.0)).unwrap_err();
    assert_eq!((error.entity.as_str(), error.before, error.after), ("2", at(5), at(4)));
}

/// What cannot be divided is known by its views.
#[test]
fn rows_that_stay_with_their_entity_can_be_divided() {
    let plan = plan();
    let of = |name: &str| -> View { plan.views[plan.view(name).unwrap()].clone() };
    assert!(of("moving").rows_move() && !of("staying").rows_move() && !of("card").rows_move());
    let whole: Vec<bool> = StatePass::all(&plan).iter().map(StatePass::is_whole).collect();
    assert_eq!(whole.iter().filter(|w| **w).count(), 1);
    let sources: Vec<SourceId> = StatePass::all(&plan)[0].feeds().iter().map(|feed| feed.source).collect();
    assert_eq!(sources, [REPORTS, PAYMENTS, LOGINS]);
}
