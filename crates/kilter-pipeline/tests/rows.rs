//! Training rows are what the live path saw, labels what became known in time.

use std::sync::Arc;

use crate::common::*;
use kilter_core::{EntityKey, Event, EventTime, Offset, Operation, Span};
use kilter_features::Engine;
use kilter_pipeline::{Feed, Freshness, LabelPlan, Observations, Pipeline, Plan, Range};
use kilter_stats::Rng;
use proptest::prelude::*;

/// The label by its definition: of the label events of the key within the horizon, the last in the log.
fn naive_label(label: &LabelPlan, log: &[Event], observation: &Event, as_of: EventTime) -> Option<f64> {
    let end = observation.time + label.within;
    let key = EntityKey::from_row(&observation.row, &label.observation_key);
    let told = log
        .iter()
        .filter(|e| e.source == label.source && key.is_some() && EntityKey::from_row(&e.row, &label.label_key) == key)
        .filter(|e| observation.time <= e.time && e.time <= end)
        .filter_map(|e| match label.value.eval(&e.row) {
            kilter_core::Value::Bool(b) => Some(f64::from(u8::from(b))),
            _ => None,
        })
        .next_back();
    match told {
        Some(truth) => (end <= as_of).then_some(truth),
        None => label.absent.filter(|_| end < as_of),
    }
}

/// A log in which some rows go away again, right after their event or after later ones.
fn with_deletes(rng: &mut Rng, events: &[Event]) -> Vec<Event> {
    let mut all: Vec<Event> = Vec::new();
    for event in events {
        all.push(event.clone());
        if rng.bernoulli(0.3) {
            let gone = &events[rng.below(events.len() as u64) as usize];
            all.push(deleted(Event { time: event.time, ..gone.clone() }));
        }
    }
    numbered(all)
}

fn by_offset(events: &[Event], offset: Offset) -> &Event {
    &events[events.binary_search_by_key(&offset, |e| e.offset).unwrap()]
}

fn check_labels(plan: &Plan, model: usize, rows: &Observations, events: &[Event], as_of: EventTime) {
    let label = plan.models[model].label.as_ref().unwrap();
    for row in 0..rows.len() {
        let event = by_offset(events, rows.offsets[row]);
        assert_eq!(rows.label(row, as_of), naive_label(label, events, event, as_of), "row {row}, {event:?} as of {as_of}");
    }
}

fn some_time(rng: &mut Rng, events: &[Event]) -> EventTime {
    events[rng.below(events.len() as u64) as usize].time + minutes([-60, 0, 0, 30, 60][rng.below(5) as usize])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_deleted_row_is_neither_decided_on_nor_learned_from_nor_a_label(seed: u64) {
        let mut rng = Rng::seeded(seed);
        let plan = World::random(&mut rng).plan();
        let shape = Shape::random(&mut rng);
        let plain = events(&log(&mut rng, shape));
        let events = with_deletes(&mut rng, &plain);
        let upserts: Vec<Event> = events.iter().filter(|e| e.operation == Operation::Upsert).cloned().collect();
        let observed: Vec<Offset> = upserts.iter().filter(|e| e.source == PAYMENTS).map(|e| e.offset).collect();
        let mut pipeline = Pipeline::new(Arc::clone(&plan));
        let outcomes: Vec<_> = events.iter().map(|e| (e, pipeline.process(e))).collect();
        // The decision by rules alone has an answer to everything.
        let by_rules: Vec<Offset> =
            outcomes.iter().flat_map(|(_, o)| &o.decisions).filter(|d| plan.decisions[d.decision].model.is_none()).map(|d| d.offset).collect();
        prop_assert_eq!(&by_rules, &observed);
        prop_assert!(outcomes.iter().all(|(e, o)| e.operation == Operation::Upsert || o.decisions.is_empty()));
        for model in [RISK, SIMPLE] {
            for freshness in [Freshness::Live, Freshness::Batch(Span::HOUR)] {
                let rows = rows_in(&plan, model, &events, EVER, freshness);
                prop_assert_eq!(&rows.offsets, &observed);
                check_labels(&plan, model, &rows, &upserts, EventTime(i64::MAX));
            }
        }
    }

    #[test]
    fn rows_are_the_inputs_decided_with(seed: u64) {
        let mut rng = Rng::seeded(seed);
        let plan = World::random(&mut rng).plan();
        let shape = Shape::random(&mut rng);
        let log = log(&mut rng, shape);
        let events = events(&log);
        let effects = run(&mut Pipeline::new(Arc::clone(&plan)), &log, log.len());
        for model in [RISK, SIMPLE] {
            let rows = rows(&plan, model, &events);
            let observed: Vec<&Event> = events.iter().filter(|e| e.source == PAYMENTS).collect();
            prop_assert_eq!(&rows.offsets, &observed.iter().map(|e| e.offset).collect::<Vec<_>>());
            prop_assert_eq!(&rows.times, &observed.iter().map(|e| e.time).collect::<Vec<_>>());
            for decision in effects.decisions.iter().filter(|d| d.decision == model) {
                let row = rows.offsets.binary_search(&decision.offset).unwrap();
                prop_assert!(same_bits(&row_of(&rows, row), &decision.inputs), "{:?}", decision);
            }
            // A narrower range leaves rows out and changes none.
            let (a, b) = (some_time(&mut rng, &events), some_time(&mut rng, &events));
            let range = Range { from: a.min(b), to: a.max(b) };
            let part = rows_in(&plan, model, &events, range, Freshness::Live);
            let kept: Vec<usize> = (0..rows.len()).filter(|&r| range.from <= rows.times[r] && rows.times[r] < range.to).collect();
            prop_assert_eq!(&part.offsets, &kept.iter().map(|&r| rows.offsets[r]).collect::<Vec<_>>());
            let end = EventTime(i64::MAX);
            for (row, &whole) in kept.iter().enumerate() {
                prop_assert!(same_bits(&row_of(&part, row), &row_of(&rows, whole)));
                prop_assert_eq!(part.label(row, end), rows.label(whole, end));
            }
        }
    }

    #[test]
    fn labels_are_joined_by_key_within_the_horizon(seed: u64) {
        let mut rng = Rng::seeded(seed);
        let plan = World::random(&mut rng).plan();
        let shape = Shape::random(&mut rng);
        let mut events = history(&mut rng, shape);
        match rng.below(4) {
            // Files taken in one after the other: all reports before all payments, or after.
            0 => events.sort_by_key(|e| e.source == PAYMENTS),
            1 => events.sort_by_key(|e| e.source == REPORTS),
            _ => {}
        }
        let events = numbered(events);
        let rows = rows(&plan, RISK, &events);
        for as_of in [EventTime(i64::MAX), some_time(&mut rng, &events), some_time(&mut rng, &events)] {
            check_labels(&plan, RISK, &rows, &events, as_of);
            let range = Range { from: some_time(&mut rng, &events), to: some_time(&mut rng, &events) };
            let mut known: Vec<usize> = (0..rows.len())
                .filter(|&r| range.holds(rows.times[r]) && rows.label(r, as_of).is_some())
                .collect();
            known.sort_by_key(|&r| (rows.times[r], r));
            prop_assert_eq!(rows.matured(range, as_of), known);
        }
    }

    /// Logs that share the cards give together what one log of everything gives, but for rows whose own log does not know enough yet.
    #[test]
    fn logs_that_share_entities_give_the_rows_of_one(seed: u64) {
        let mut rng = Rng::seeded(seed);
        let plan = World { label: LabelBy::Card, ..World::random(&mut rng) }.plan();
        let shape = Shape::random(&mut rng);
        let mut events = history(&mut rng, shape);
        // Late or not is a matter of one log.
        events.sort_by_key(|e| e.time);
        let label = plan.models[SIMPLE].label.as_ref().unwrap();
        let logs = 1 + rng.below(4);
        let of = |event: &Event| {
            let column = if event.source == REPORTS { label.label_key[0] } else { CARD };
            match event.row.get(column) {
                Some(kilter_core::Value::Int(card)) => *card as u64 % logs,
                _ => 0,
            }
        };
        let events: Vec<Event> = numbered(events).into_iter().map(|e| Event { offset: e.offset + (of(&e) << 40), ..e }).collect();
        let whole = rows(&plan, SIMPLE, &events);
        let parts: Vec<Vec<Event>> = (0..logs).map(|log| events.iter().filter(|e| of(e) == log).cloned().collect()).collect();
        let joined = parts.iter().map(|part| rows(&plan, SIMPLE, part).settled()).reduce(Observations::joined).unwrap();
        for as_of in [EventTime(i64::MAX), some_time(&mut rng, &events)] {
            let known = |row: &usize| {
                let seen = parts[(whole.offsets[*row] >> 40) as usize].last().map_or(as_of, |e| e.time);
                whole.label(*row, seen.min(as_of)).is_some()
            };
            let mut expected: Vec<usize> = (0..whole.len()).filter(known).collect();
            expected.sort_by_key(|row| (whole.times[*row], whole.offsets[*row]));
            let found = joined.matured(EVER, as_of);
            let offsets = |rows: &Observations, places: &[usize]| places.iter().map(|row| rows.offsets[*row]).collect::<Vec<_>>();
            prop_assert_eq!(offsets(&joined, &found), offsets(&whole, &expected));
            for (one, other) in found.iter().zip(&expected) {
                prop_assert!(same_bits(&row_of(&joined, *one), &row_of(&whole, *other)));
                prop_assert_eq!(joined.label(*one, as_of), whole.label(*other, as_of));
                prop_assert_eq!(joined.group(*one), whole.group(*other));
            }
        }
    }

    #[test]
    fn batch_rows_know_nothing_from_their_boundary_on(seed: u64) {
        let mut rng = Rng::seeded(seed);
        let plan = World::random(&mut rng).plan();
        let shape = Shape::random(&mut rng);
        let events = history(&mut rng, shape);
        let every = minutes([60, 180, 360][rng.below(3) as usize]);
        let rows = rows_in(&plan, RISK, &events, EVER, Freshness::Batch(every));
        let model = &plan.models[RISK];
        let (mut slots, mut expected) = (Vec::new(), Vec::new());
        for row in 0..rows.len() {
            let place = rows.offsets[row] as usize;
            // The batch ran when the stream first passed the boundary it is at now, on what had arrived by then.
            let bucket = events[..=place].iter().map(|e| e.time.bucket(every)).max().unwrap();
            let ran = events.iter().position(|e| e.time.bucket(every) == bucket).unwrap();
            let mut engine = Engine::new(plan.views.clone());
            for event in &events[..ran] {
                prop_assert!(event.time < EventTime(bucket * every.0), "the job saw what came after");
                engine.update(event);
            }
            let own = EventTime(events[place].time.bucket(every) * every.0);
            let asked = Event { time: own - Span(1), ..events[place].clone() };
            model.context.fill(&asked, &mut engine, &mut slots);
            model.inputs(&slots, &mut expected);
            prop_assert!(same_bits(&row_of(&rows, row), &expected), "row {}", row);
        }
        check_labels(&plan, RISK, &rows, &events, EventTime(i64::MAX));
    }

    #[test]
    fn a_feed_taken_up_from_a_snapshot_gives_the_same_rows(seed: u64) {
        let mut rng = Rng::seeded(seed);
        let plan = World::random(&mut rng).plan();
        let shape = Shape::random(&mut rng);
        let log = log(&mut rng, shape);
        let events = events(&log);
        let mut pipeline = Pipeline::new(Arc::clone(&plan));
        run(&mut pipeline, &log, rng.below(log.len() as u64 + 1) as usize);
        let pipeline = Pipeline::restore(Arc::clone(&plan), &pipeline.snapshot(), |m, v| Ok(champion(m, v))).unwrap();
        let from = pipeline.now().map_or(EVER.from, |now| now + Span(1));
        let range = Range { from, ..EVER };
        for model in [RISK, SIMPLE] {
            let whole = rows_in(&plan, model, &events, range, Freshness::Live);
            let again = Pipeline::restore(Arc::clone(&plan), &pipeline.snapshot(), |m, v| Ok(champion(m, v))).unwrap();
            let next = again.next_offset();
            let mut feed = Feed::resume(again, model, range, Some(CARD));
            events.iter().filter(|e| e.offset >= next).for_each(|e| feed.feed(e));
            let resumed = feed.finish();
            prop_assert_eq!(&resumed.offsets, &whole.offsets);
            prop_assert_eq!(&resumed.groups, &whole.groups);
            for row in 0..whole.len() {
                prop_assert!(same_bits(&row_of(&resumed, row), &row_of(&whole, row)));
                for as_of in [EventTime(i64::MAX), some_time(&mut rng, &events)] {
                    prop_assert_eq!(resumed.label(row, as_of), whole.label(row, as_of));
                }
            }
        }
    }

    #[test]
    fn no_row_changes_by_what_comes_after_it(seed: u64) {
        let mut rng = Rng::seeded(seed);
        let plan = World::random(&mut rng).plan();
        let shape = Shape::random(&mut rng);
        let events = history(&mut rng, shape);
        let other = history(&mut rng, shape);
        let cut = rng.below(events.len() as u64 + 1) as usize;
        let changed = numbered(events[..cut].iter().chain(&other[cut..]).cloned());
        for freshness in [Freshness::Live, Freshness::Batch(minutes(60))] {
            let (a, b) = (rows_in(&plan, RISK, &events, EVER, freshness), rows_in(&plan, RISK, &changed, EVER, freshness));
            for row in (0..a.len()).take_while(|&r| a.offsets[r] < cut as Offset) {
                prop_assert!(same_bits(&row_of(&a, row), &row_of(&b, row)));
            }
        }
    }
}

/// Labels as of each minute given, of the only observation (payment 1 of card 1 at minute 0, horizon two hours).
fn check(world: World, others: &[Event], expected: &[(i64, Option<f64>)]) {
    let plan = world.plan();
    let events = numbered([payment(at(0), 1, 1, 5.0)].into_iter().chain(others.iter().cloned()));
    let rows = rows(&plan, RISK, &events);
    for (minute, label) in expected {
        assert_eq!(rows.label(0, at(*minute)), *label, "as of minute {minute}");
    }
}

#[test]
fn a_label_counts_up_to_the_last_instant_of_its_horizon() {
    check(World::default(), &[report(at(120), 1, 1, true)], &[(119, None), (120, Some(1.0)), (500, Some(1.0))]);
    check(World::default(), &[report(at(120) + Span(1), 1, 1, true)], &[(120, None), (500, None)]);
    check(World::default(), &[report(at(0), 1, 1, true)], &[(120, Some(1.0))]);
    check(World::default(), &[report(at(0) - Span(1), 1, 1, true)], &[(500, None)]);
}

#[test]
fn early_knowledge_waits_for_the_horizon() {
    check(World::default(), &[report(at(1), 1, 1, true)], &[(1, None), (119, None), (120, Some(1.0))]);
}

#[test]
fn absence_is_known_only_after_the_last_instant() {
    let world = World { absent: Some(0.0), ..World::default() };
    check(world, &[], &[(119, None), (120, None), (121, Some(0.0))]);
}

#[test]
fn of_several_labels_the_last_in_the_log_counts_whatever_its_time() {
    check(World::default(), &[report(at(60), 1, 1, true), report(at(30), 1, 1, false)], &[(120, Some(0.0))]);
}

#[test]
fn a_later_label_event_does_not_shut_out_a_late_one() {
    check(World::default(), &[report(at(200), 1, 1, false), report(at(100), 1, 1, true)], &[(200, Some(1.0))]);
}

#[test]
fn a_label_that_stands_before_its_observation_in_the_log_is_found() {
    let plan = World::default().plan();
    let events = numbered([report(at(10), 1, 1, true), report(at(20), 1, 1, false), payment(at(0), 1, 1, 5.0)]);
    let rows = rows(&plan, RISK, &events);
    assert_eq!(rows.label(0, at(120)), Some(0.0));
}

#[test]
fn a_late_observation_of_a_batch_stands_at_its_own_boundary() {
    let plan = World::default().plan();
    // Two payments in the hour before the late one's own boundary, one after it.
    let events = numbered([
        payment(at(30), 1, 1, 5.0),
        payment(at(40), 2, 1, 5.0),
        payment(at(70), 3, 1, 5.0),
        payment(at(130), 4, 1, 5.0),
        payment(at(65), 5, 1, 5.0),
    ]);
    let rows = rows_in(&plan, RISK, &events, EVER, Freshness::Batch(minutes(60)));
    assert_eq!((0..5).map(|r| rows.matrix.value(r, 1)).collect::<Vec<_>>(), [0.0, 0.0, 2.0, 1.0, 2.0]);
}
