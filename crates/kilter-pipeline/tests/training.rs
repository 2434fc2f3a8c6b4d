//! From observations to a judged model, and the rule that compares it with the champion.

use std::sync::Arc;

use crate::common::*;
use kilter_core::{EventTime, Span, Value};
use kilter_features::expr::{Scope, compile};
use kilter_learn::calibration::Method;
use kilter_learn::metrics::{Aim, Evaluation, evaluate};
use kilter_learn::selection::{Budget, Search, Setting};
use kilter_learn::{Calibration, Forest, Gbdt, Isolation, LearnError, Linear, Model, Objective, Task, calibrate, forest};
use kilter_pipeline::training::{TrainingError, train};
use kilter_pipeline::{
    CalibrationPlan, Figures, Learner, ModelPlan, Observations, Plan, Range, SearchPlan, figure_names, judge, promotion_scope,
    promotion_slots,
};
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
                let text = |e: Option<Figures>| format!("{e:?}");
                let judged = |model: &dyn kilter_learn::Model| (held > 0).then(|| judge(Task::Classes, model, &set(new)));
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
    assert_eq!(format!("{:?}", trained.uncalibrated), format!("{:?}", Some(judge(Task::Classes, learned.as_ref(), &set(300..400)))));
    let expected = calibrate(learned, &set(150..300), &calibration).unwrap();
    assert_eq!(trained.model.to_bytes(), expected.to_bytes());
    assert_eq!(format!("{:?}", trained.holdout), format!("{:?}", Some(judge(Task::Classes, &expected, &set(300..400)))));
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

fn evaluation(auc: f64) -> Figures {
    Figures::Classes(Evaluation { auc, gini: 2.0 * auc - 1.0, ..evaluate(&[0.1, 0.9, 0.8], &[0.0, 1.0, 0.0]) })
}

/// Whether a promotion rule holds; none: it cannot be judged.
fn verdict(rule: &str, challenger: f64, champion: Option<f64>) -> Option<bool> {
    let champion = champion.map(evaluation);
    let names = figure_names(Task::Classes, true);
    match compile(rule, &promotion_scope(names)).unwrap().eval(&promotion_slots(names, &evaluation(challenger), champion.as_ref())) {
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
fn every_figure_of_a_task_lies_at_its_slot() {
    let numbers = |aim| Task::Numbers(aim);
    let tasks =
        [Task::Classes, numbers(Aim::Mean), numbers(Aim::Quantile { level: 0.7 }), numbers(Aim::Deviance { power: 1.5 }), Task::Anomalies];
    for task in tasks {
        let names = figure_names(task, true);
        let labels = if task.has_numbers() { [0.5, 3.0, 2.0] } else { [0.0, 1.0, 0.0] };
        let judged = |predictions: [f64; 3]| Figures::of(task, &predictions, &labels);
        let (scope, challenger, champion) = (promotion_scope(names), judged([0.1, 0.7, 0.8]), judged([0.3, 0.2, 0.25]));
        let slots = promotion_slots(names, &challenger, Some(&champion));
        assert_eq!((slots.len(), scope.len()), (2 * names.len(), 2 * names.len()));
        for name in names {
            let at = |text: &str| compile(text, &scope).unwrap().eval(&slots);
            assert_eq!(at(name), Value::float(challenger.get(name)), "{name}");
            assert_eq!(at(&format!("champion.{name}")), Value::float(champion.get(name)), "champion.{name}");
            assert!(!challenger.get(name).is_nan(), "{task:?}: {name} is a figure");
        }
        assert!(challenger.get("nonsense").is_nan() && challenger.rows() == 3);
    }
}

/// A score that is no probability has no figures of one, and rows without labels judge nothing.
#[test]
fn anomaly_scores_are_judged_by_their_order_alone() {
    let (scores, labels) = ([0.4, 0.7, 0.5, 0.45], [0.0, 1.0, 1.0, 0.0]);
    let Figures::Classes(judged) = Figures::of(Task::Anomalies, &scores, &labels) else { panic!("no figures of classes") };
    assert_eq!((judged.auc, judged.rows, judged.positives), (1.0, 4, 2));
    assert!(judged.log_loss.is_nan() && judged.brier.is_nan() && judged.ece.is_nan() && judged.calibration.is_empty());
    let unknown = Figures::of(Task::Anomalies, &scores, &[f64::NAN; 4]);
    assert!(unknown.get("auc").is_nan() && unknown.rows() == 4 && figure_names(Task::Anomalies, false) == ["rows"]);
}

/// The label of a payment is its amount, told an hour later: what a regression sees is a number, and what it says comes near.
#[test]
fn a_regression_learns_numbers_and_is_judged_by_their_figures() {
    let mut rng = Rng::seeded(8);
    let mut plan = Plan::clone(&World { label: LabelBy::Itself, ..World::default() }.plan());
    let model = &mut plan.models[SIMPLE];
    let label = model.label.as_mut().unwrap();
    // As it stands the value is a condition over the amount; here it is the amount.
    let mut scope = Scope::new();
    for f in &schemas()[0].fields {
        scope.add(None, &f.name, f.data_type);
    }
    label.value = compile("amount", &scope).unwrap();
    label.is_number = true;
    let mut events = Vec::new();
    for i in 0..400 {
        events.push(payment(at(i), i, rng.below(3) as i64, rng.uniform() * 50.0));
    }
    let plan = Arc::new(plan);
    let rows = rows(&plan, SIMPLE, &numbered(events));
    let labels: Vec<f64> = rows.matured(EVER, END).iter().map(|&r| rows.label(r, END).unwrap()).collect();
    assert!(labels.len() > 300 && labels.iter().filter(|label| label.fract() != 0.0).count() > 290, "{labels:?}");
    let gbdt = |objective| Learner::Gbdt(Gbdt { objective, trees: 20, min_leaf_rows: 5, early_stopping: None, ..Gbdt::default() });
    let mean_forest = Forest { target: forest::Target::Mean, trees: 10, ..Forest::default() };
    let learners = [
        gbdt(Objective::SquaredError),
        gbdt(Objective::Huber { delta: 5.0 }),
        gbdt(Objective::Quantile { level: 0.8 }),
        gbdt(Objective::Poisson),
        Learner::Forest(mean_forest),
        Learner::Linear(Linear::default()),
    ];
    for learner in learners {
        let own = ModelPlan { learner, ..plan.models[SIMPLE].clone() };
        let trained = train(&own, &rows, EVER, END, None).unwrap();
        let Some(Figures::Numbers(judged)) = &trained.holdout else { panic!("{:?}", trained.holdout) };
        let matured = rows.matured(EVER, END);
        let held = rows.training_set(&matured[matured.len() - trained.holdout_rows..], END);
        let mut row = Vec::new();
        let by_hand = (0..held.rows()).map(|r| {
            held.matrix.row(r, &mut row);
            (trained.model.predict(&row) - held.labels[r]).abs()
        });
        assert!((judged.mae - by_hand.sum::<f64>() / held.rows() as f64).abs() < 1e-9);
        assert!(own.figure_names().iter().all(|name| !trained.holdout.as_ref().unwrap().get(name).is_nan()), "{judged:?}");
        // The reference of drift is of predictions.
        assert!(own.task().suits(trained.model.as_ref()) && trained.reference.references.last().unwrap().sample().total() > 0);
    }
    // Labels that are numbers are refused by a learner of classes, in words.
    let error = train(&plan.models[SIMPLE], &rows, EVER, END, None).err().unwrap().to_string();
    assert!(error.contains("0 or 1"), "{error}");
}

#[test]
fn an_isolation_forest_learns_from_rows_without_labels() {
    let (plan, rows, _) = some_rows(&mut Rng::seeded(9), World { absent: Some(0.0), ..World::default() });
    let learner = Learner::Isolation(Isolation { trees: 20, ..Isolation::default() });
    let labelled = ModelPlan { learner, ..plan };
    let unlabelled = ModelPlan { label: None, ..labelled.clone() };
    let trained = train(&unlabelled, &rows, EVER, END, None).unwrap();
    assert_eq!((trained.train_rows + trained.holdout_rows, trained.unmatured), (rows.len(), 0));
    assert_eq!(trained.holdout.unwrap().rows(), trained.holdout_rows);
    // With labels the newest of the rows that have one judge it.
    let judged = train(&labelled, &rows, EVER, END, None).unwrap().holdout.unwrap();
    assert!(judged.get("log_loss").is_nan() && judged.get("positives") >= 0.0);
    let eager = ModelPlan { min_rows: rows.len() + 1, ..unlabelled };
    let few = train(&eager, &rows, EVER, END, None).err().unwrap();
    assert_eq!(few, TrainingError::TooFewObservations { model: "simple".into(), found: rows.len(), needed: rows.len() + 1 });
}

/// Settings are judged on stretches of the rows that the model is then fitted to, by what was known when a stretch began; held-out rows take no part.
#[test]
fn a_search_learns_from_what_was_known_and_leaves_the_held_out_rows_alone() {
    let mut rng = Rng::seeded(12);
    let within = minutes(60);
    let plan = World { absent: Some(0.0), within, ..World::default() }.plan();
    let mut events = Vec::new();
    for i in 0..600 {
        let amount = rng.uniform() * 50.0;
        events.push(payment(at(i), i, rng.below(3) as i64, amount));
        events.push(report(at(i + 50), i, 1, rng.bernoulli(amount / 60.0)));
    }
    events.sort_by_key(|e| e.time);
    let rows = rows(&plan, SIMPLE, &numbered(events));
    let space = [("l2".to_string(), Setting::OneOf([0.01, 100.0, 1e6].map(|l2| l2.into()).to_vec()))].into();
    let budget = Budget { fits: 12, folds: 2 };
    let search = SearchPlan { search: Search { space, budget, seed: 3 }, metric: "auc".into() };
    let own = ModelPlan { search: Some(search), holdout: 0.25, ..plan.models[SIMPLE].clone() };
    let trained = train(&own, &rows, EVER, END, None).unwrap();
    let (searched, learner) = trained.searched.as_ref().unwrap();

    let matured = rows.matured(EVER, END);
    let fitted = &matured[..matured.len() - trained.holdout_rows];
    let third = fitted.len() / 3;
    for trial in &searched.trials {
        for (fold, loss) in trial.losses.iter().enumerate() {
            // The newest stretch first.
            let start = fitted.len() - (fold + 1) * third;
            let test = &fitted[start..start + third];
            let known: Vec<usize> = fitted.iter().copied().filter(|&r| rows.times[r] + within < rows.times[test[0]]).collect();
            assert!(known.len() < start - 50, "labels of the last hour are not known");
            let model = own.learner.with(&trial.settings).unwrap().fit(&rows.training_set(&known, END)).unwrap();
            let auc = judge(Task::Classes, model.as_ref(), &rows.training_set(test, END)).get("auc");
            assert_eq!(*loss, -auc);
        }
    }
    assert!(searched.trials.len() > 3 && searched.fits <= 12);
    let expected = learner.fit(&rows.training_set(fitted, END)).unwrap();
    assert_eq!(trained.model.to_bytes(), expected.to_bytes());
    assert_eq!(learner, &own.learner.with(&searched.best().settings).unwrap());
    // Too many folds for the rows: an error that says what to change.
    let eager = SearchPlan {
        search: Search { budget: Budget { fits: 2000, folds: 450 }, ..own.search.clone().unwrap().search },
        metric: "auc".into(),
    };
    let error = train(&ModelPlan { search: Some(eager), ..own }, &rows, EVER, END, None).err().unwrap().to_string();
    assert!(error.contains("450 folds") && error.contains("lower `folds`"), "{error}");
}
