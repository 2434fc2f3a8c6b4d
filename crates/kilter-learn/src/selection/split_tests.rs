use super::*;
use proptest::prelude::*;
use serde_json::Value;

fn numbers(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as usize).collect()
}

fn golden(name: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../tests/golden/splits.json")).unwrap();
    let cases = all[name].as_array().unwrap().clone();
    assert!(cases.len() >= 4, "{name}");
    cases
}

/// Test rows as scikit-learn has them; every other row is learned from.
fn check_tests(name: &str, split: impl Fn(&Value, usize) -> Result<Vec<Fold>, LearnError>) {
    for case in golden(name) {
        let folds = split(&case, case["folds"].as_u64().unwrap() as usize).unwrap();
        let expected: Vec<Vec<usize>> = case["found"].as_array().unwrap().iter().map(numbers).collect();
        assert_eq!(folds.iter().map(|fold| fold.test.clone()).collect::<Vec<_>>(), expected, "{name}: {case}");
        let rows = expected.iter().map(Vec::len).sum::<usize>();
        for Fold { train, test } in &folds {
            let mut all = [train.clone(), test.clone()].concat();
            all.sort_unstable();
            assert!(all == (0..rows).collect::<Vec<_>>() && train.is_sorted());
        }
    }
}

#[test]
fn folds_are_those_of_scikit_learn() {
    for case in golden("time") {
        let number = |name: &str| case[name].as_u64().map(|x| x as usize);
        let (rows, folds, gap) = (number("rows").unwrap(), number("folds").unwrap(), number("gap").unwrap());
        let split = TimeSplit { folds, gap, test_rows: number("test_rows"), window: number("window") };
        let expected: Vec<Fold> =
            case["found"].as_array().unwrap().iter().map(|fold| Fold { train: numbers(&fold[0]), test: numbers(&fold[1]) }).collect();
        assert_eq!(time_ordered(rows, &split).unwrap(), expected, "{case}");
    }
    check_tests("grouped", |case, folds| grouped(&numbers(&case["groups"]), folds));
    check_tests("stratified", |case, folds| stratified(&numbers(&case["classes"]), folds));
    check_tests("stratified_grouped", |case, folds| stratified_grouped(&numbers(&case["classes"]), &numbers(&case["groups"]), folds));
}

proptest! {
    #[test]
    fn nothing_is_learned_from_what_was_not_known(
        steps in prop::collection::vec(0i64..4, 8..120), folds in 1usize..5, embargo in 0i64..12, gap in 0usize..4, window in prop::option::of(1usize..30),
    ) {
        let times: Vec<i64> = steps.iter().scan(0, |time, step| { *time += step; Some(*time) }).collect();
        let split = TimeSplit { folds, gap, window, test_rows: None };
        let (Ok(plain), Ok(held)) = (time_ordered(times.len(), &split), time_ordered_at(&times, embargo, &split)) else { return Ok(()) };
        for (plain, held) in plain.iter().zip(&held) {
            prop_assert_eq!(&plain.test, &held.test);
            let start = times[held.test[0]];
            // All that may be learned from, and of it the newest.
            let known: Vec<usize> = (0..held.test[0] - gap).filter(|&row| times[row] + embargo < start).collect();
            let newest = window.map_or(&known[..], |window| &known[known.len().saturating_sub(window)..]);
            prop_assert_eq!(&held.train[..], newest);
        }
    }

    #[test]
    fn groups_are_in_one_test_and_every_row_in_one(groups in prop::collection::vec(0usize..9, 1..80), classes in prop::collection::vec(0usize..3, 80), folds in 2usize..5) {
        let classes = &classes[..groups.len()];
        for found in [grouped(&groups, folds), stratified_grouped(classes, &groups, folds)] {
            let Ok(found) = found else {
                let mut different = groups.clone();
                different.sort_unstable();
                different.dedup();
                prop_assert!(different.len() < folds);
                continue;
            };
            let mut tested: Vec<usize> = found.iter().flat_map(|fold| fold.test.clone()).collect();
            tested.sort_unstable();
            prop_assert_eq!(tested, (0..groups.len()).collect::<Vec<_>>());
            for fold in &found {
                prop_assert!(fold.test.iter().all(|&row| fold.train.iter().all(|&other| groups[row] != groups[other])));
            }
        }
    }
}

#[test]
fn what_cannot_be_split_says_why() {
    let words = |result: Result<Vec<Fold>, LearnError>| result.unwrap_err().to_string();
    assert!(words(time_ordered(3, &TimeSplit::expanding(4))).contains("fewer rows than folds"));
    assert!(words(time_ordered(10, &TimeSplit { gap: 6, ..TimeSplit::expanding(2) })).contains("before the first test stretch"));
    assert!(words(time_ordered(usize::MAX, &TimeSplit { test_rows: Some(usize::MAX), ..TimeSplit::expanding(2) })).contains("folds"));
    assert!(words(time_ordered(10, &TimeSplit { window: Some(0), ..TimeSplit::expanding(2) })).contains("window"));
    assert!(words(time_ordered(10, &TimeSplit::expanding(0))).contains("at least 1"));
    assert!(words(time_ordered_at(&[1, 2, 5, 4, 6], 0, &TimeSplit::expanding(2))).contains("row 3 before that of row 2"));
    assert!(words(grouped(&[1, 1, 1], 2)).contains("number of groups"));
    assert!(words(grouped(&[], 2)).contains("number of groups") && words(stratified(&[], 2)).contains("rarest class"));
    assert!(words(stratified(&[0, 0, 0, 1], 2)).contains("rarest class"));
    assert!(words(stratified_grouped(&[0, 1], &[0], 2)).contains("groups: 1 values for 2"));
}
