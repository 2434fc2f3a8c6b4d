//! From observations to a judged model, and the rule that compares it with the champion.

mod common;

use std::sync::Arc;

use common::*;
use kilter_core::{EventTime, Span, Value};
use kilter_features::expr::compile;
use kilter_learn::calibration::Method;
use kilter_learn::metrics::{Evaluation, evaluate};
use kilter_learn::{Calibration, Gbdt, LearnError, Model, calibrate};
use kilter_pipeline::training::{TrainingError, judge, metric, promotion_slots, train};
use kilter_pipeline::{CalibrationPlan, Learner, ModelPlan, Observations, PROMOTION_METRICS, Range, promotion_scope};
use kilter_stats::Rng;
use proptest::prelude::*;

const END: EventTime = EventTime(i64::MAX);

fn some_rows(rng: &mut Rng, world: World) -> (ModelPlan, Observations, Vec<kilter_core::Event>) {
    let plan = world.plan();
    let grain = [Span(1), minutes(30)][rng.below(2) as usize];
    let events = history(rng, Shape { events: 200, pause: 10, late: 60, grain });
    let rows = rows(&plan, SIMPLE, &events);
    (plan.models[SIMPLE].clone(), rows, events)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_newest_matured_rows_judge_what_learned_from_the_older(seed: u64) {
        let mut rng = Rng::seeded(seed);
        let world = World { absent: Some(0.0), ..World::default() };
        let (mut plan, rows, events) = some_rows(&mut rng, world);
        plan.holdout = [0.0, 0.2, 0.5][rng.below(3) as usize];
        let as_of = events[100 + rng.below(100) as usize].time;
        let range = Range { from: events[rng.below(20) as usize].time, to: events[80 + rng.below(100) as usize].time };

        let mut matured: Vec<usize> =
            (0..rows.len()).filter(|&r| range.from <= rows.times[r] && rows.times[r] < range.to && rows.label(r, as_of).is_some()).collect();
        matured.sort_by_key(|&r| (rows.times[r], r));
        let held = (matured.len() as f64 * plan.holdout).floor() as usize;
        let (old, new) = matured.split_at(matured.len() - held);
        let set = |rows_: &[usize]| rows.training_set(rows_, as_of);
        let champion = champion(SIMPLE, 1).model;
        match train(&plan, &rows, range, as_of, Some(&champion)) {
            Ok(trained) => {
                let expected = plan.learner.fit(&set(old)).unwrap();
                prop_assert_eq!(trained.model.to_bytes(), expected.to_bytes());
                prop_assert_eq!((trained.train_rows, trained.holdout_rows, trained.train_positives), (old.len(), held, set(old).positives()));
                prop_assert_eq!(trained.trained, Range { from: rows.times[old[0]], to: rows.times[old[old.len() - 1]] });
                prop_assert!(new.iter().all(|&r| rows.times[r] >= trained.trained.to));
                let in_range = rows.times.iter().filter(|t| range.holds(**t)).count();
                prop_assert_eq!(trained.unmatured, in_range - matured.len());
                // NaN where one class is missing, so by their texts.
                let text = |e: Option<Evaluation>| format!("{e:?}");
                let judged = |model: &dyn kilter_learn::Model| (held > 0).then(|| judge(model, &set(new)));
                prop_assert_eq!(text(trained.holdout), text(judged(expected.as_ref())));
                prop_assert_eq!(text(trained.champion), text(judged(champion.as_ref())));
                prop_assert_eq!(&trained.reference.inputs, &plan.input_names());
                prop_assert!(trained.reference.references.iter().all(|r| r.sample().total() == old.len() as u64));
                prop_assert_eq!(trained.reference.references.len(), plan.inputs.len() + 1);
            }
            Err(TrainingError::TooFewRows { matured: n, needed, .. }) => prop_assert!(n == matured.len() && n < needed && needed == 10),
            Err(TrainingError::Learn(LearnError::OneClass { .. })) => prop_assert!([0, old.len()].contains(&set(old).positives())),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn the_fingerprint_tells_any_change_of_the_rows_used(seed: u64) {
        let mut rng = Rng::seeded(seed);
        let world = World { absent: Some(0.0), label: LabelBy::Payment, ..World::default() };
        let plan = world.plan();
        // Every payment has its own id and one report.
        let (mut payments, mut reports) = (Vec::new(), Vec::new());
        for i in 0..40 {
            payments.push(payment(at(i), i, rng.below(3) as i64, rng.uniform() * 50.0));
            reports.push(report(at(i + 60), i, 1, i % 3 == 0));
        }
        let fingerprint = |payments: &[kilter_core::Event], reports: &[kilter_core::Event]| {
            let mut events = [payments, reports].concat();
            events.sort_by_key(|e| e.time);
            train(&plan.models[SIMPLE], &rows(&plan, SIMPLE, &numbered(events)), EVER, END, None).unwrap().fingerprint
        };
        let first = fingerprint(&payments, &reports);
        prop_assert_eq!(&first, &fingerprint(&payments, &reports));
        let place = rng.below(40) as usize;
        let (mut other_payments, mut other_reports) = (payments.clone(), reports.clone());
        match rng.below(3) {
            0 => {
                let truth = matches!(other_reports[place].row[2], Value::Bool(true));
                other_reports[place].row[2] = Value::Bool(!truth);
            }
            1 => other_payments[place].row[AMOUNT] = Value::Float(77.0),
            _ => other_payments[place].time = other_payments[place].time + Span(1),
        }
        prop_assert_ne!(&first, &fingerprint(&other_payments, &other_reports));
    }
}

#[test]
fn a_calibration_learns_from_rows_between_those_of_the_learner_and_those_of_the_judge() {
    let mut rng = Rng::seeded(6);
    let world = World { absent: Some(0.0), label: LabelBy::Payment, ..World::default() };
    let plan = world.plan();
    let mut events = Vec::new();
    for i in 0..400 {
        let amount = rng.uniform() * 50.0;
        events.push(payment(at(i), i, rng.below(3) as i64, amount));
        events.push(report(at(i + 60), i, 1, rng.bernoulli(amount / 60.0)));
    }
    events.sort_by_key(|e| e.time);
    let rows = rows(&plan, SIMPLE, &numbered(events));
    let calibration = Calibration { method: Method::Platt, target_rate: None };
    let plan = ModelPlan { calibration: Some(CalibrationPlan { calibration, share: 0.5 }), holdout: 0.25, ..plan.models[SIMPLE].clone() };
    let trained = train(&plan, &rows, EVER, END, None).unwrap();
    let matured = rows.matured(EVER, END);
    let set = |part: std::ops::Range<usize>| rows.training_set(&matured[part], END);
    assert_eq!((trained.train_rows, trained.calibration_rows, trained.holdout_rows), (150, 150, 100));
    let learned = plan.learner.fit(&set(0..150)).unwrap();
    assert_eq!(format!("{:?}", trained.uncalibrated), format!("{:?}", Some(judge(learned.as_ref(), &set(300..400)))));
    let expected = calibrate(learned, &set(150..300), &calibration).unwrap();
    assert_eq!(trained.model.to_bytes(), expected.to_bytes());
    assert_eq!(format!("{:?}", trained.holdout), format!("{:?}", Some(judge(&expected, &set(300..400)))));
    // Fewer rows than a curve needs are an error, not a guess.
    let isotonic = Calibration { method: Method::Isotonic, target_rate: None };
    let greedy = ModelPlan { calibration: Some(CalibrationPlan { calibration: isotonic, share: 0.5 }), ..plan };
    let error = train(&greedy, &rows, EVER, END, None).err();
    assert!(matches!(error, Some(TrainingError::Learn(LearnError::TooFewToCalibrate { rows: 150, needed: 200, .. }))), "{error:?}");
}

#[test]
fn what_cannot_be_trained_says_why() {
    let (plan, rows, _) = some_rows(&mut Rng::seeded(3), World { absent: Some(0.0), ..World::default() });
    let all = rows.matured(EVER, END).len();
    let result = |plan: &ModelPlan, as_of| train(plan, &rows, EVER, as_of, None).err();
    let unlabelled = ModelPlan { label: None, ..plan.clone() };
    assert_eq!(result(&unlabelled, END), Some(TrainingError::NoLabel { model: "simple".into() }));
    let eager = ModelPlan { min_rows: all + 1, ..plan.clone() };
    let few = TrainingError::TooFewRows { model: "simple".into(), matured: all, unmatured: 0, needed: all + 1 };
    assert_eq!(result(&eager, END), Some(few.clone()));
    assert!(few.to_string().contains("lower `min_rows`"), "{few}");
    assert!(result(&ModelPlan { min_rows: all, ..plan.clone() }, END).is_none());
    let careless = ModelPlan { min_rows: 0, ..plan.clone() };
    let none = TrainingError::TooFewRows { model: "simple".into(), matured: 0, unmatured: rows.len(), needed: 2 };
    assert_eq!(result(&careless, EVER.from), Some(none));
}

#[test]
fn the_same_rows_give_the_same_model() {
    let (plan, rows, _) = some_rows(&mut Rng::seeded(4), World { absent: Some(0.0), ..World::default() });
    for learner in [plan.learner.clone(), Learner::Gbdt(Gbdt { trees: 5, min_leaf_rows: 3, early_stopping: None, ..Gbdt::default() })] {
        let plan = ModelPlan { learner, ..plan.clone() };
        let [a, b] = [(); 2].map(|()| train(&plan, &rows, EVER, END, None).unwrap());
        assert_eq!((a.model.to_bytes(), a.fingerprint, a.reference), (b.model.to_bytes(), b.fingerprint, b.reference));
    }
}

#[test]
fn a_row_scores_alike_in_a_matrix_and_alone() {
    let plan = World::default().plan();
    let rows = rows(&plan, RISK, &history(&mut Rng::seeded(5), Shape { events: 200, pause: 10, late: 60, grain: Span(1) }));
    for version in 1..=3 {
        let model = Arc::clone(&champion(RISK, version).model);
        let alone: Vec<f64> = (0..rows.len()).map(|r| model.probability(&row_of(&rows, r))).collect();
        assert!(same_bits(&model.probabilities(&rows.matrix), &alone));
    }
}

fn evaluation(auc: f64) -> Evaluation {
    Evaluation { auc, gini: 2.0 * auc - 1.0, ..evaluate(&[0.1, 0.9, 0.8], &[0.0, 1.0, 0.0]) }
}

/// Whether a promotion rule holds; none: it cannot be judged.
fn verdict(rule: &str, challenger: f64, champion: Option<f64>) -> Option<bool> {
    let champion = champion.map(evaluation);
    match compile(rule, &promotion_scope()).unwrap().eval(&promotion_slots(&evaluation(challenger), champion.as_ref())) {
        Value::Bool(holds) => Some(holds),
        Value::Null => None,
        other => panic!("{other}"),
    }
}

#[test]
fn a_promotion_rule_compares_with_the_champion() {
    let rule = "auc > champion.auc - 0.002";
    assert_eq!(verdict(rule, 0.8, Some(0.8019)), Some(true));
    assert_eq!(verdict(rule, 0.8, Some(0.8021)), Some(false));
    assert_eq!(verdict("champion.auc > auc", 0.8, Some(0.9)), Some(true), "the other side is not mistaken for this one");
    assert_eq!(verdict(rule, 0.8, None), None, "without a champion there is nothing to compare with");
    assert_eq!(verdict(rule, f64::NAN, Some(0.8)), None);
    assert_eq!(verdict("auc > 0.7 and rows >= 3 and positives = 1", 0.8, None), Some(true));
}

#[test]
fn every_promotion_metric_lies_at_its_slot() {
    let (scope, challenger, champion) = (promotion_scope(), evaluation(0.75), evaluation(0.5));
    let slots = promotion_slots(&challenger, Some(&champion));
    assert_eq!((slots.len(), scope.len()), (16, 16));
    for name in PROMOTION_METRICS {
        let at = |text: &str| compile(text, &scope).unwrap().eval(&slots);
        assert_eq!(at(name), Value::float(metric(&challenger, name)), "{name}");
        assert_eq!(at(&format!("champion.{name}")), Value::float(metric(&champion, name)), "champion.{name}");
        assert!(!metric(&challenger, name).is_nan(), "{name} is a metric");
    }
}
