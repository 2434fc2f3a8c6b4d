//! One log, one answer: online, replayed from the start, or taken up from a snapshot at any record.

use std::sync::Arc;

use crate::common::*;
use kilter_core::{EntityKey, EventTime, Span};
use kilter_pipeline::{Pipeline, RestoreError};
use kilter_stats::Rng;
use proptest::prelude::*;

fn restore(pipeline: &Pipeline) -> Pipeline {
    Pipeline::restore(Arc::clone(pipeline.plan()), &pipeline.snapshot(), |model, version| Ok(champion(model, version))).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn online_replay_and_restart_give_the_same_bits(seed: u64) {
        let mut rng = Rng::seeded(seed);
        let plan = World::random(&mut rng).plan();
        let shape = Shape::random(&mut rng);
        let log = log(&mut rng, shape);

        let mut online = Pipeline::new(Arc::clone(&plan));
        let cut = rng.below(log.len() as u64 + 1) as usize;
        let before = run(&mut online, &log, cut);
        let mut restored = restore(&online);
        prop_assert_eq!(restored.snapshot(), online.snapshot(), "a snapshot taken up is the same snapshot");

        // The first life goes on and is asked questions on the way; they must leave no trace.
        let mut effects = before;
        while (online.next_offset() as usize) < log.len() {
            let next = online.next_offset() as usize + 1;
            if let Record::Event(event) = &log[next - 1] && event.source == PAYMENTS {
                (0..3).for_each(|decision| drop(online.preview(decision, event)));
                online.features(0, &EntityKey::Int(rng.below(4) as i64), event.time + minutes(rng.below(500) as i64 - 250));
            }
            effects = effects.then(run(&mut online, &log, next));
        }

        let mut replayed = Pipeline::new(Arc::clone(&plan));
        let again = run(&mut replayed, &log, log.len());
        effects.assert_same(&again, &plan);
        prop_assert_eq!(replayed.snapshot(), online.snapshot());

        let rest = run(&mut restored, &log, log.len());
        let of_first = run(&mut Pipeline::new(Arc::clone(&plan)), &log, cut);
        effects.assert_same(&of_first.then(rest), &plan);
        prop_assert_eq!(restored.snapshot(), online.snapshot());
        prop_assert_eq!(restored.now(), online.now());
    }

    #[test]
    fn a_snapshot_cut_short_is_refused_and_never_panics(seed: u64, flip in 0usize..100) {
        let mut rng = Rng::seeded(seed);
        let plan = World::random(&mut rng).plan();
        let log = log(&mut rng, Shape { events: 30, pause: 15, late: 30, grain: Span(1) });
        let mut pipeline = Pipeline::new(Arc::clone(&plan));
        run(&mut pipeline, &log, log.len());
        let bytes = pipeline.snapshot();
        // A damaged snapshot may name a version that there never was.
        let known = |model, version| if (1..=3).contains(&version) { Ok(champion(model, version)) } else { Err(format!("no version {version}")) };
        let restore = |bytes: &[u8]| Pipeline::restore(Arc::clone(&plan), bytes, known);
        let cut = rng.below(bytes.len() as u64) as usize;
        prop_assert!(restore(&bytes[..cut]).is_err());
        // The side of a snapshot has no checksum (the file around it has): damage may pass, but only as a value.
        let mut damaged = bytes.clone();
        damaged[flip * (bytes.len() - 1) / 100] ^= 1 << rng.below(3);
        drop(restore(&damaged));
    }
}

#[test]
fn a_champion_that_cannot_be_loaded_stops_the_restore() {
    let plan = World::default().plan();
    let mut pipeline = Pipeline::new(Arc::clone(&plan));
    pipeline.set_champion(RISK, champion(RISK, 2));
    let result = Pipeline::restore(plan, &pipeline.snapshot(), |_, version| Err(format!("version {version} is gone")));
    assert_eq!(result.err(), Some(RestoreError("version 2 is gone".into())));
}

#[test]
fn without_a_champion_there_is_a_fallback_or_no_decision() {
    for fallback in [true, false] {
        let plan = World { fallback, ..World::default() }.plan();
        let mut pipeline = Pipeline::new(Arc::clone(&plan));
        let events = numbered([payment(at(0), 1, 1, 5.0), payment(at(1), 2, 1, 5.0)]);
        let names = |outcome: &kilter_pipeline::Outcome| -> Vec<(usize, String)> {
            outcome.decisions.iter().map(|d| (d.decision, plan.decisions[d.decision].outcomes[d.outcome].clone())).collect()
        };
        let first = pipeline.process(&events[0]);
        let pay = fallback.then(|| (0, "wait".to_string()));
        assert_eq!(names(&first), pay.into_iter().chain([(2, "ok".to_string())]).collect::<Vec<_>>());
        assert!(first.decisions.iter().all(|d| d.score.is_none() && d.version.is_none() && d.reasons.is_empty()));
        assert!(pipeline.set_champion(RISK, champion(RISK, 1)) && !pipeline.set_champion(RISK, champion(RISK, 1)));
        let second = pipeline.process(&events[1]);
        assert_eq!(second.decisions[0].version, Some(1));
        assert!(second.decisions[0].rule.is_some() && second.decisions[0].score.is_some());
    }
}

#[test]
fn a_decision_counts_its_own_event_only_when_asked_to() {
    for include_self in [false, true] {
        let plan = World { include_self, ..World::default() }.plan();
        let mut pipeline = Pipeline::new(plan);
        let n_1h = |pipeline: &mut Pipeline, event| pipeline.process(event).decisions.iter().find(|d| d.decision == 0).unwrap().inputs[1];
        let events = numbered([payment(at(0), 1, 1, 5.0), payment(at(1), 2, 1, 5.0), payment(at(90), 3, 1, 5.0)]);
        let seen: Vec<f64> = events.iter().map(|e| n_1h(&mut pipeline, e)).collect();
        let own = f64::from(u8::from(include_self));
        assert_eq!(seen, [own, 1.0 + own, own]);
    }
}

#[test]
fn an_event_too_late_for_every_window_is_decided_on_and_counted_late() {
    let plan = World::default().plan();
    let mut pipeline = Pipeline::new(plan);
    // Logins have windows of an hour and no lifetime feature; payments of a card have one, so they are never late.
    let login = |time| event(LOGINS, time, vec![kilter_core::Value::Int(1), kilter_core::Value::Bool(false)]);
    let events = numbered([login(at(1000)), login(at(100)), payment(at(1001), 1, 1, 5.0), payment(EventTime(0), 2, 1, 5.0)]);
    let outcomes: Vec<_> = events.iter().map(|e| pipeline.process(e)).collect();
    assert_eq!(outcomes.iter().map(|o| o.late).collect::<Vec<_>>(), [false, true, false, false]);
    assert_eq!((outcomes[3].decisions.len(), pipeline.now()), (2, Some(at(1001))));
}
