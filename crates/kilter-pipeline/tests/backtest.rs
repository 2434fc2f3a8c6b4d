//! The rolling backtest against the plainest reading of its protocol.

use crate::common;
use std::collections::{BTreeMap, BTreeSet};

use crate::common::*;
use kilter_core::{Event, EventTime, Span, Value};
use kilter_learn::{LearnError, Learner, Logistic};
use kilter_pipeline::backtest::{Rolling, rolling};
use kilter_pipeline::{Observations, Range};
use kilter_stats::Rng;
use proptest::prelude::*;

fn days(n: i64) -> Span {
    Span(n * Span::DAY.0)
}

fn day(n: i64) -> EventTime {
    EventTime(n * Span::DAY.0)
}

fn learner() -> Learner {
    Learner::Logistic(Logistic::default())
}

fn spec() -> Rolling {
    Rolling {
        train: days(4),
        delay: days(2),
        test: days(3),
        step: days(3),
        range: Range { from: day(0), to: day(24) },
        exclude_known: false,
        top: None,
    }
}

/// Some weeks of payments by a few cards, each reported on within two days; a third of the reports come on the last instant.
fn weeks(rng: &mut Rng, payments: i64, length: i64, absent: Option<f64>) -> (Vec<Event>, Observations) {
    let mut events = Vec::new();
    let cards = 3 + rng.below(20);
    let grain = minutes([1, 360][rng.below(2) as usize]);
    for id in 0..payments {
        let time = EventTime(EventTime(rng.below(length as u64 * Span::DAY.0 as u64) as i64).bucket(grain) * grain.0);
        let mut paid = payment(time, id, rng.below(cards) as i64, rng.pareto(10.0, 1.2));
        let Value::Float(amount) = paid.row[AMOUNT] else { unreachable!() };
        let fraud = rng.bernoulli(if amount > 30.0 { 0.4 } else { 0.05 });
        if rng.bernoulli(0.05) {
            paid.row[CARD] = Value::Null;
        }
        events.push(paid);
        if rng.bernoulli(0.9) {
            let after = if rng.bernoulli(0.3) { days(2) } else { minutes(rng.below(2880) as i64) };
            events.push(report(time + after, id, 0, fraud));
        }
    }
    events.sort_by_key(|e| e.time);
    let events = numbered(events);
    let plan = World { within: days(2), absent, ..World::default() }.plan();
    let rows = rows(&plan, SIMPLE, &events);
    (events, rows)
}

/// The Handbook's `get_train_test_set`, line by line over whole days: customers with a fraud in training, or on a day that is known about by
/// the day of the test, are left out.
fn handbook(rows: &Observations, train: Range, delay: i64, test: Range) -> Vec<usize> {
    let end = rows.seen().unwrap();
    let day_of = |r: usize| rows.times[r].bucket(Span::DAY);
    let frauds = |keep: &dyn Fn(usize) -> bool| -> BTreeSet<_> {
        (0..rows.len()).filter(|&r| keep(r) && rows.label(r, end) == Some(1.0)).filter_map(|r| rows.groups[r].clone()).collect()
    };
    let mut known = frauds(&|r| train.holds(rows.times[r]));
    let mut kept = Vec::new();
    for today in test.from.bucket(Span::DAY)..test.to.bucket(Span::DAY) {
        known.extend(frauds(&|r| day_of(r) == today - delay - 1));
        let of_day = (0..rows.len()).filter(|&r| day_of(r) == today && rows.label(r, end).is_some());
        kept.extend(of_day.filter(|&r| rows.groups[r].as_ref().is_none_or(|g| !known.contains(g))));
    }
    kept.sort_by_key(|&r| (rows.times[r], r));
    kept
}

/// The Handbook's card precision: each day the k best cards not found before; the share of them with a fraud that day.
fn card_precision(rows: &Observations, kept: &[usize], scores: &[f64], labels: &[f64], k: usize) -> f64 {
    let mut by_day: BTreeMap<i64, BTreeMap<_, (f64, bool)>> = BTreeMap::new();
    for (i, &r) in kept.iter().enumerate() {
        if let Some(group) = &rows.groups[r] {
            let best = by_day.entry(rows.times[r].bucket(Span::DAY)).or_default().entry(group).or_insert((f64::MIN, false));
            *best = (best.0.max(scores[i]), best.1 || labels[i] == 1.0);
        }
    }
    let (mut found, mut daily) = (BTreeSet::new(), Vec::new());
    for groups in by_day.values() {
        let mut ranked: Vec<_> = groups.iter().filter(|(g, _)| !found.contains(*g)).collect();
        ranked.sort_by(|a, b| b.1.0.total_cmp(&a.1.0).then(a.0.cmp(b.0)));
        let hits: Vec<_> = ranked.iter().take(k).filter(|(_, (_, fraud))| *fraud).map(|(g, _)| **g).collect();
        daily.push(hits.len() as f64 / k as f64);
        found.extend(hits);
    }
    daily.iter().sum::<f64>() / daily.len() as f64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn folds_are_those_of_the_handbook(seed: u64) {
        let mut rng = Rng::seeded(seed);
        let (payments, absent) = (100 + rng.below(400) as i64, rng.bernoulli(0.5).then_some(0.0));
        let (_, rows) = weeks(&mut rng, payments, 24, absent);
        let exclude_known = rng.bernoulli(0.6);
        // A delay shorter than the labels' horizon takes rows from the training; the Handbook has one number for both.
        let delay = if exclude_known { 2 } else { rng.below(4) as i64 };
        let step = 1 + rng.below(4) as i64;
        let top = Some(1 + rng.below(4) as usize);
        let spec = Rolling { exclude_known, top, delay: days(delay), step: days(step), ..spec() };
        let folds = rolling(&rows, &learner(), &spec);

        // Four days, the delay, three of test, until day 24.
        let starts: Vec<i64> = (0..=24 - 7 - delay).step_by(step as usize).collect();
        prop_assert_eq!(folds.len(), starts.len());
        for (fold, start) in folds.iter().zip(starts) {
            let train = Range { from: day(start), to: day(start + 4) };
            let test = Range { from: day(start + 4 + delay), to: day(start + 7 + delay) };
            let mut learned: Vec<usize> = (0..rows.len()).filter(|&r| train.holds(rows.times[r]) && rows.label(r, test.from).is_some()).collect();
            learned.sort_by_key(|&r| (rows.times[r], r));
            let set = rows.training_set(&learned, test.from);
            let fold = match fold {
                Ok(fold) => fold,
                Err((range, LearnError::OneClass { .. })) => {
                    prop_assert_eq!(*range, train);
                    prop_assert!([0, set.rows()].contains(&set.positives()));
                    continue;
                }
                Err((_, LearnError::NoRows)) => {
                    prop_assert_eq!(set.rows(), 0);
                    continue;
                }
                Err((_, other)) => panic!("{other}"),
            };
            prop_assert_eq!((fold.train, fold.test), (train, test));
            prop_assert_eq!((fold.train_rows, fold.train_positives), (set.rows(), set.positives()));

            let end = rows.seen().unwrap();
            let all = rows.matured(test, end);
            let kept = if spec.exclude_known { handbook(&rows, train, 2, test) } else { all.clone() };
            let judged = rows.training_set(&kept, end);
            let scores = learner().fit(&set).unwrap().probabilities(&judged.matrix);
            prop_assert_eq!(fold.excluded, all.len() - kept.len());
            prop_assert!(same_bits(&fold.scores, &scores) && fold.labels == judged.labels);
            let precision = card_precision(&rows, &kept, &scores, &judged.labels, spec.top.unwrap());
            prop_assert!(same_bits(&[fold.top_precision.unwrap()], &[precision]), "{:?} {}", fold.top_precision, precision);
        }
    }

    #[test]
    fn nothing_after_the_start_of_a_test_changes_what_is_learned(seed: u64) {
        let mut rng = Rng::seeded(seed);
        let (events, rows) = weeks(&mut rng, 200, 12, Some(0.0));
        let spec = Rolling { range: Range { from: day(0), to: day(9) }, ..spec() };
        // Everything from day 6 on is another story: other amounts, other reports.
        let (other, _) = weeks(&mut rng, 200, 12, Some(0.0));
        let changed = numbered(events.iter().filter(|e| e.time < day(6)).chain(other.iter().filter(|e| e.time >= day(6))).cloned());
        let plan = World { within: days(2), absent: Some(0.0), ..World::default() }.plan();
        let other_rows = common::rows(&plan, SIMPLE, &changed);
        let learned = |rows: &Observations| {
            let known = rows.matured(Range { from: day(0), to: day(4) }, day(6));
            let set = rows.training_set(&known, day(6));
            (format!("{set:?}"), rolling(rows, &learner(), &spec).first().map(|f| f.as_ref().map(|f| (f.train_rows, f.train_positives)).ok()))
        };
        prop_assert_eq!(learned(&rows), learned(&other_rows));
    }
}

#[test]
fn a_test_row_whose_horizon_runs_past_the_log_is_not_judged() {
    // Nine days of payments, the log ends there: those of the last two days may still turn bad.
    let (events, _) = weeks(&mut Rng::seeded(1), 300, 9, Some(0.0));
    let plan = World { within: days(2), absent: Some(0.0), ..World::default() }.plan();
    let events: Vec<Event> = events.into_iter().filter(|e| e.time < day(9)).collect();
    let rows = common::rows(&plan, SIMPLE, &events);
    let folds = rolling(&rows, &learner(), &spec_until(9));
    let fold = folds[0].as_ref().unwrap();
    let last = events.last().unwrap().time;
    let known = (0..rows.len()).filter(|&r| rows.times[r] >= day(6) && rows.times[r] + days(2) <= last).count();
    assert_eq!((folds.len(), fold.labels.len()), (1, known));
}

fn spec_until(end: i64) -> Rolling {
    Rolling { range: Range { from: day(0), to: day(end) }, ..spec() }
}

#[test]
fn a_fold_that_ends_with_the_range_is_the_last() {
    let (_, rows) = weeks(&mut Rng::seeded(2), 300, 24, None);
    let count = |spec: &Rolling| rolling(&rows, &learner(), spec).len();
    assert_eq!(count(&spec_until(9)), 1);
    assert_eq!(count(&Rolling { range: Range { from: day(0), to: day(9) - Span(1) }, ..spec() }), 0);
    assert_eq!(count(&spec_until(12)), 2);
    assert_eq!(count(&Rolling { step: Span::ZERO, ..spec_until(12) }), 1, "no step, no second fold");
    assert_eq!(count(&Rolling { range: Range { from: EventTime(i64::MAX), to: EventTime(i64::MAX) }, ..spec() }), 1, "where times end");
}

#[test]
fn without_a_grouping_column_nobody_is_known_and_nobody_ranked() {
    let plan = World { within: days(2), ..World::default() }.plan();
    let (events, grouped) = weeks(&mut Rng::seeded(3), 300, 24, None);
    let mut feed = kilter_pipeline::Feed::new(plan, SIMPLE, EVER, kilter_pipeline::Freshness::Live, None);
    events.iter().for_each(|e| feed.feed(e));
    let rows = feed.finish();
    let spec = Rolling { exclude_known: true, top: Some(3), ..spec_until(9) };
    let fold = rolling(&rows, &learner(), &spec).remove(0).unwrap();
    assert!(fold.excluded == 0 && fold.top_precision.unwrap().is_nan());
    assert!(rolling(&grouped, &learner(), &spec)[0].as_ref().unwrap().excluded > 0);
}
