//! A change of definitions in the middle of a log: what was carried and what was filled is what a fresh pipeline would have reached.

use std::sync::Arc;

use crate::common::*;
use kilter_core::{Offset, Span};
use kilter_pipeline::*;
use kilter_stats::Rng;
use proptest::prelude::*;

/// What a version of the model must have been trained on, to serve in this world.
fn meaning(world: &World, model: usize) -> String {
    let own_event = if model == RISK { world.include_self } else { !world.include_self };
    format!("{own_event} {:?}", world.views.map(|(hop, _)| hop))
}

/// Another world with some things as they were and some not.
fn changed(rng: &mut Rng, world: &World) -> World {
    let mut other = World { label: world.label, within: world.within, absent: world.absent, ..World::random(rng) };
    if rng.bernoulli(0.5) {
        other.include_self = world.include_self;
    }
    if rng.bernoulli(0.3) {
        other.within = minutes([30, 60, 120][rng.below(3) as usize]);
    }
    other.views = world.views.map(|(hop, lateness)| match rng.below(6) {
        0 => ([None, Some(minutes(1)), Some(minutes(7))][rng.below(3) as usize], lateness),
        1 => (hop, minutes(10 + rng.below(120) as i64)),
        _ => (hop, lateness),
    });
    other.monitors =
        world.monitors.iter().zip(&other.monitors).map(|(was, is)| if rng.bernoulli(0.6) { was } else { is }.clone()).collect();
    if rng.bernoulli(0.5) {
        other.monitors.rotate_left(1 + rng.below(3) as usize);
    }
    if rng.bernoulli(0.2) {
        other.monitors.truncate(2);
    }
    other
}

/// Runs the log as `world` sees it: a champion serves when its inputs mean the same, `wanted` leaves out models nobody asks for.
fn play(pipeline: &mut Pipeline, log: &[(Record, String)], until: usize, world: &World, wanted: impl Fn(usize) -> bool) -> Effects {
    let mut effects = Effects::default();
    for offset in pipeline.next_offset()..until as Offset {
        match &log[offset as usize] {
            (Record::Event(event), _) => {
                let outcome = pipeline.process(event);
                effects.decisions.extend(outcome.decisions);
                effects.readings.extend(outcome.readings.into_iter().map(|r| (offset, r)));
                effects.late.extend(outcome.late.then_some(offset));
            }
            (Record::Swap { model, version }, trained_on) => {
                if wanted(*model) && *trained_on == meaning(world, *model) {
                    pipeline.set_champion(*model, champion(*model, *version));
                }
                pipeline.skip(offset);
            }
        }
    }
    effects
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_changed_pipeline_is_the_fresh_one_to_the_bit(seed: u64, cut in 0usize..=100) {
        let mut rng = Rng::seeded(seed);
        let before = World::random(&mut rng);
        let after = changed(&mut rng, &before);
        let shape = Shape::random(&mut rng);
        let log: Vec<(Record, String)> = log(&mut rng, shape)
            .into_iter()
            .map(|record| {
                let model = if let Record::Swap { model, .. } = record { model } else { 0 };
                let world = [&before, &before, &after, &changed(&mut rng, &before)][rng.below(4) as usize].clone();
                (record, meaning(&world, model))
            })
            .collect();
        let cut = log.len() * cut / 100;
        let (old, new) = (before.plan(), after.plan());

        let mut serving = Pipeline::new(Arc::clone(&old));
        play(&mut serving, &log, cut, &before, |_| true);
        let change = Change::new(old, Arc::clone(&new), |was, is| meaning(&before, was) == meaning(&after, is));
        let mut filled = change.filler();
        if change.needs_log() {
            play(&mut filled, &log, cut, &after, |m| change.fills_model(m));
        }
        let mut whole = change.finish(serving, filled).unwrap_or_else(|_| panic!("the parts do not fit"));

        let mut fresh = Pipeline::new(new);
        play(&mut fresh, &log, cut, &after, |_| true);
        prop_assert_eq!(whole.now(), fresh.now());
        prop_assert!(whole.snapshot() == fresh.snapshot(), "snapshots differ at the swap");
        let effects = play(&mut whole, &log, log.len(), &after, |_| true);
        let expected = play(&mut fresh, &log, log.len(), &after, |_| true);
        expected.assert_same(&effects, fresh.plan());
        prop_assert!(whole.snapshot() == fresh.snapshot(), "snapshots differ at the end");
    }
}

#[test]
fn only_what_changed_is_filled() {
    let before = World { monitors: vec![MonitorPlan { name: "drift".into(), ..monitor(RISK, Signal::Psi) }], ..World::default() };
    let change = |after: &World| Change::new(before.plan(), after.plan(), |was, is| meaning(&before, was) == meaning(after, is));
    let same = change(&before);
    assert!(!same.needs_log() && same.filled_views().count() == 0);

    // Another lateness: one view is filled, and the monitor's decisions read it.
    let mut late = before.clone();
    late.views[2].1 = Span::MINUTE;
    let one = change(&late);
    assert!(one.needs_log() && !one.carries_view(2) && one.carries_view(0));
    assert!(one.carries_model(RISK) && !one.carries_monitor(0), "scores may differ, so the monitor's window does");
    let alone = Change::new(World::default().plan(), World { views: late.views, ..World::default() }.plan(), |_, _| true);
    assert_eq!(alone.filled_views().collect::<Vec<_>>(), [2], "without a monitor nothing else is read");
}

#[test]
fn parts_that_do_not_stand_at_one_place_are_given_back() {
    let mut after = World::default();
    after.views[0].0 = Some(minutes(2));
    let change = Change::new(World::default().plan(), after.plan(), |_, _| true);
    let mut serving = Pipeline::new(Arc::clone(change.old()));
    serving.process(&payment(at(1), 1, 1, 5.0));
    let before = serving.snapshot();
    let Err(misfit) = change.finish(serving, change.filler()) else { panic!("one has seen an event, the other none") };
    assert_eq!(misfit.old.snapshot(), before);
}
