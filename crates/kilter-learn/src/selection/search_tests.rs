use std::cell::RefCell;

use super::*;
use crate::{Gbdt, Logistic};
use proptest::prelude::*;

fn space(entries: &[(&str, Setting)]) -> BTreeMap<String, Setting> {
    entries.iter().map(|(name, setting)| (name.to_string(), setting.clone())).collect()
}

fn range(from: f64, to: f64, log: bool, whole: bool) -> Setting {
    Setting::Between(Range { from, to, log, whole })
}

fn of(fits: usize, folds: usize) -> Search {
    let space = space(&[("x", range(0.0, 10.0, false, false)), ("kind", Setting::OneOf(vec![json!("good"), json!("bad")]))]);
    Search { space, budget: Budget { fits, folds }, seed: 5 }
}

/// Least at x = 3 and the good kind; every fold has a loss of its own on top.
fn bowl(settings: &Settings, fold: usize) -> Result<f64, LearnError> {
    let x = settings.get("x").and_then(Value::as_f64).unwrap_or(9.0);
    let kind = if settings.get("kind") == Some(&json!("bad")) { 4.0 } else { 0.0 };
    Ok((x - 3.0) * (x - 3.0) + kind + fold as f64)
}

#[test]
fn the_best_of_those_drawn_is_found_within_the_budget() {
    let found = search(&of(60, 3), bowl).unwrap();
    let settings = &found.best().settings;
    assert!((settings["x"].as_f64().unwrap() - 3.0).abs() < 0.5 && settings["kind"] == "good", "{settings:?}");
    // No one drawn would have been better.
    let best = found.trials.iter().map(|trial| bowl(&trial.settings, 0).unwrap()).fold(f64::INFINITY, f64::min);
    assert_eq!(bowl(settings, 0).unwrap(), best);
    assert_eq!(found, search(&of(60, 3), bowl).unwrap(), "the same seed, the same search");
    assert_ne!(found.best().settings, search(&Search { seed: 6, ..of(60, 3) }, bowl).unwrap().best().settings);
}

/// 27 candidates: 27, 9 and 3 of them, and each time the start.
#[test]
fn a_third_goes_on_from_fold_to_fold() {
    let calls = RefCell::new(vec![0; 3]);
    let found = search(&of(42, 3), |settings, fold| {
        calls.borrow_mut()[fold] += 1;
        bowl(settings, fold)
    })
    .unwrap();
    assert_eq!((found.trials.len(), found.fits, calls.into_inner()), (28, 42, vec![28, 10, 4]));
    let in_third: Vec<f64> = found.trials[1..].iter().filter(|t| t.losses.len() > 1).map(|t| t.losses[0]).collect();
    let out: Vec<f64> = found.trials[1..].iter().filter(|t| t.losses.len() == 1).map(|t| t.losses[0]).collect();
    assert!(in_third.len() == 9 && in_third.iter().all(|kept| out.iter().all(|gone| kept <= gone)));
    assert!(found.trials[0].settings.is_empty() && found.trials[0].losses.len() == 3);
}

#[test]
fn the_start_is_left_only_for_something_better() {
    assert_eq!(search(&of(20, 2), |_, fold| Ok(fold as f64)).unwrap().best, 0, "a tie");
    // Better in the first fold, worse on the whole.
    let fooled = |settings: &Settings, fold: usize| Ok(if settings.is_empty() { 1.0 } else { [0.5, 9.0][fold] });
    assert_eq!(search(&of(20, 2), fooled).unwrap().best, 0);
    let better = |settings: &Settings, _| Ok(if settings.is_empty() { 1.0 } else { 0.5 });
    assert_ne!(search(&of(20, 2), better).unwrap().best, 0);
}

#[test]
fn what_cannot_be_fitted_is_out_and_says_why() {
    let fails = |settings: &Settings, fold: usize| match settings.get("x").and_then(Value::as_f64) {
        Some(x) if x < 5.0 => Err(LearnError::OneClass { label: 0, rows: 7 }),
        Some(x) if x > 9.0 => Ok(f64::NAN),
        _ => bowl(settings, fold),
    };
    let found = search(&of(40, 2), fails).unwrap();
    assert!(found.best().settings["x"].as_f64().unwrap() >= 5.0);
    let why: Vec<&str> = found.trials.iter().filter_map(|trial| trial.failed.as_deref()).collect();
    assert!(why.iter().any(|w| w.contains("label 0")) && why.iter().all(|w| w.contains("label 0") || w.contains("NaN")), "{why:?}");
    let start_fails = search(&of(40, 2), |_, _| Err(LearnError::NoRows));
    assert_eq!(start_fails, Err(LearnError::NoRows));
}

#[test]
fn a_search_that_cannot_be_made_says_why() {
    let words = |what: &Search| search(what, bowl).unwrap_err().to_string();
    assert!(words(&of(3, 2)).contains("fits is 3") && words(&of(10, 0)).contains("folds") && words(&of(1 << 40, 2)).contains("100000"));
    for (setting, must) in [
        (Setting::OneOf(Vec::new()), "a list with a value"),
        (range(2.0, 1.0, false, false), "not below it"),
        (range(0.0, f64::INFINITY, false, false), "not below it"),
        (range(0.0, 1.0, true, false), "above 0"),
        (range(1.2, 1.8, false, true), "a whole number in it"),
    ] {
        let told = words(&Search { space: space(&[("leaves", setting)]), ..of(10, 2) });
        assert!(told.contains(must) && told.contains("leaves"), "{told}");
    }
}

/// Every end of the spaces that stand ready is a setting that the learner takes.
#[test]
fn spaces_that_stand_ready_fit_their_learners() {
    let learners: Vec<Learner> = ["gbdt", "forest", "explainable", "logistic", "scorecard", "linear", "isolation"]
        .map(|kind| serde_json::from_value(json!({ "kind": kind })).unwrap())
        .to_vec();
    let nothing = crate::TrainingSet::new(crate::Matrix::with_columns(vec!["x".into()]), Vec::new());
    for learner in learners {
        let space = default_space(&learner);
        assert!(!space.is_empty());
        for (name, setting) in space {
            setting.check().unwrap();
            for end in setting.ends() {
                let changed = learner.with(&Settings::from_iter([(name.clone(), end.clone())])).unwrap();
                assert!(!matches!(changed.fit(&nothing), Err(LearnError::BadParameter { .. })), "{name} = {end}");
            }
        }
    }
    let changed = Learner::Gbdt(Gbdt { seed: 11, ..Gbdt::default() }).with(&Settings::from_iter([("leaves".into(), json!(9))])).unwrap();
    assert_eq!(changed, Learner::Gbdt(Gbdt { seed: 11, leaves: 9, ..Gbdt::default() }));
    assert!(Learner::Logistic(Logistic::default()).with(&Settings::from_iter([("leaves".into(), json!(9))])).is_err());
}

proptest! {
    #[test]
    fn draws_stay_in_their_range_and_fits_in_the_budget(from in -50.0f64..50.0, width in 0.0f64..100.0, whole: bool, log: bool, fits in 2usize..200, folds in 1usize..6, seed: u64) {
        let from = if log { from.abs() + 0.5 } else { from };
        let setting = range(from, from + width, log, whole);
        prop_assume!(setting.check().is_ok());
        let what = Search { space: space(&[("x", setting)]), budget: Budget { fits, folds }, seed };
        let mut fitted = 0;
        let Ok(found) = search(&what, |settings, _| { fitted += 1; Ok(settings.get("x").and_then(Value::as_f64).unwrap_or(1e9)) }) else {
            prop_assert!(fits < 2 * folds);
            return Ok(());
        };
        prop_assert!(found.fits == fitted && fitted <= fits);
        // One more candidate would be over it.
        let more = (found.trials.len() - 1) + 1;
        let needed: usize = std::iter::successors(Some(more), |left| Some(left.div_ceil(3))).take(folds).map(|left| left + 1).sum();
        prop_assert!(needed > fits, "{needed} within {fits}");
        for trial in &found.trials[1..] {
            let x = trial.settings["x"].as_f64().unwrap();
            prop_assert!(from <= x && x <= from + width && (!whole || x.fract() == 0.0), "{x}");
        }
        let least = found.trials[1..].iter().map(|t| t.losses[0]).fold(f64::INFINITY, f64::min);
        prop_assert_eq!(found.best().losses[0], least);
    }
}
