//! Against formulas, and against all there is to enumerate.

use kilter_stats::Rng;

use super::*;
use crate::{Gbdt, Logistic, Matrix, Objective, TrainingSet, gbdt, logistic};

fn matrix(columns: Vec<Vec<f64>>) -> Matrix {
    Matrix::from_columns((0..columns.len()).map(|column| format!("x{column}")).collect(), columns)
}

fn each(matrix: &Matrix, of_row: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut row = Vec::new();
    (0..matrix.rows())
        .map(|r| {
            matrix.row(r, &mut row);
            of_row(&row)
        })
        .collect()
}

fn near(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{found:?} instead of {expected:?}");
}

#[test]
fn places_are_quantiles_each_once_without_missing_values() {
    let mut values: Vec<f64> = (0..101).map(f64::from).rev().collect();
    values.push(f64::NAN);
    let numbers = matrix(vec![values, vec![3.0; 102], vec![f64::NAN; 102]]);
    assert_eq!(grid(&numbers, 0, 5), [0.0, 25.0, 50.0, 75.0, 100.0]);
    assert_eq!(grid(&numbers, 0, 1000).len(), 101);
    assert_eq!((grid(&numbers, 1, 9), grid(&numbers, 2, 9)), (vec![3.0], vec![]));
}

#[test]
fn partial_dependence_is_the_mean_over_rows_with_the_value_put_in() {
    let numbers = matrix(vec![vec![1.0, 2.0, 6.0], vec![5.0, f64::NAN, -2.0], vec![0.5, 1.0, 3.0]]);
    let predict = |row: &[f64]| row[0] * row[2] + if row[1].is_nan() { 100.0 } else { row[1] };
    let found = partial_dependence(&numbers, &[0], &[vec![2.0], vec![-1.0]], |m| each(m, predict));
    near(&found, &[3.0 + 103.0 / 3.0, -1.5 + 103.0 / 3.0]);
    let found = partial_dependence(&numbers, &[0, 1], &[vec![2.0, f64::NAN], vec![0.0, 7.0]], |m| each(m, predict));
    near(&found, &[103.0, 7.0]);
}

#[test]
fn accumulated_effects_are_those_of_the_input_alone_where_inputs_hang_together() {
    // The second column follows the first: a mean over made-up rows would give the first the product's whole range.
    let mut rng = Rng::seeded(3);
    let first: Vec<f64> = (0..4000).map(|_| rng.uniform()).collect();
    let second: Vec<f64> = first.iter().map(|x| x + 0.01 * rng.normal()).collect();
    let numbers = matrix(vec![first.clone(), second]);
    // Additive: exactly the centred function of the column, whatever the other one is.
    let found = accumulated_effects(&numbers, 0, 20, |m| each(m, |row| 3.0 * row[0] - 7.0 * row[1] * row[1]));
    let slopes = found.at.windows(2).zip(found.effects.windows(2)).map(|(at, effect)| (effect[1] - effect[0]) / (at[1] - at[0]));
    near(&slopes.collect::<Vec<f64>>(), &[3.0; 20]);
    assert_eq!(found.rows.iter().sum::<usize>(), 4000);
    let mean: f64 = found.rows.iter().enumerate().map(|(k, &n)| (found.effects[k] + found.effects[k + 1]) / 2.0 * n as f64).sum();
    assert!(mean.abs() < 1e-9);
    // x0 * x1 with x1 near x0 changes by about x0 for a change of x0: its effect is x0^2 / 2, and not x0 times the mean of x1.
    let found = accumulated_effects(&numbers, 0, 40, |m| each(m, |row| row[0] * row[1]));
    let rise = found.effects.last().unwrap() - found.effects[0];
    assert!((rise - 0.5).abs() < 0.01, "{rise}");
}

#[test]
fn accumulated_effects_by_the_definition_on_a_handful_of_rows() {
    let numbers = matrix(vec![vec![0.0, 1.0, 1.0, 4.0, f64::NAN, 2.0], vec![3.0, 5.0, -1.0, 2.0, 9.0, 1.0]]);
    let found = accumulated_effects(&numbers, 0, 2, |m| each(m, |row| row[0] * row[0] * row[1]));
    // Ends 0, 1, 4: to the first step belong 0, 1, 1 (changes by their second values), to the second 4 and 2 (by 15 times theirs).
    let (first, second) = ((3.0 + 5.0 - 1.0) / 3.0, 15.0 * (2.0 + 1.0) / 2.0);
    let mean = (3.0 * (first / 2.0) + 2.0 * (first + second / 2.0)) / 5.0;
    assert_eq!((found.at.clone(), found.rows.clone()), (vec![0.0, 1.0, 4.0], vec![3, 2]));
    near(&found.effects, &[-mean, first - mean, first + second - mean]);
    let constant = matrix(vec![vec![2.0; 4]]);
    let found = accumulated_effects(&constant, 0, 5, |m| each(m, |row| row[0]));
    assert_eq!(found, AccumulatedEffects { at: vec![2.0], effects: vec![0.0], rows: vec![] });
}

#[test]
fn shuffles_come_to_the_mean_over_all_orders() {
    let numbers = matrix(vec![vec![1.0, -2.0, 0.5, 4.0, 3.0], vec![2.0, 2.5, 0.0, -1.0, 1.0], vec![9.0, 8.0, 7.0, 6.0, 5.0]]);
    let labels = [1.0, 0.0, 2.0, 3.0, -1.0];
    let predict = |row: &[f64]| row[0] * row[1];
    let loss = |m: &Matrix| each(m, predict).iter().zip(labels).map(|(p, y)| (p - y) * (p - y)).sum::<f64>();
    let groups = [vec![0], vec![0, 1], vec![2]];
    let found = permutation_importance(&numbers, &groups, &Permutations { repeats: 20_000, seed: 1 }, loss);
    let mut orders = vec![vec![]];
    for _ in 0..5 {
        let longer =
            |order: &Vec<usize>| (0..5).filter(|next| !order.contains(next)).map(|next| [&order[..], &[next]].concat()).collect::<Vec<_>>();
        orders = orders.iter().flat_map(longer).collect();
    }
    assert_eq!(orders.len(), 120);
    for (group, found) in groups.iter().zip(&found) {
        let rises = orders.iter().map(|order| {
            let columns = (0..3).map(|c| (0..5).map(|r| numbers.value(if group.contains(&c) { order[r] } else { r }, c)).collect());
            loss(&matrix(columns.collect())) - loss(&numbers)
        });
        let expected = rises.sum::<f64>() / 120.0;
        let error = found.deviation() / 20_000f64.sqrt();
        assert!((found.mean() - expected).abs() <= 4.0 * error, "{group:?}: {} instead of {expected}", found.mean());
    }
    assert_eq!((found[2].mean(), found[2].deviation()), (0.0, 0.0), "an input that is not read");
    let alone = permutation_importance(&numbers, &groups[1..2], &Permutations { repeats: 20_000, seed: 1 }, loss);
    assert_eq!(alone[0], found[1], "a group's shuffles are its own");
}

#[test]
fn interactions_add_up_to_contributions_and_lie_where_the_data_have_them() {
    let mut rng = Rng::seeded(9);
    let columns: Vec<Vec<f64>> = (0..4).map(|_| (0..3000).map(|_| rng.normal()).collect()).collect();
    let outcome = |r: usize| 2.0 * columns[0][r] * columns[1][r] + columns[2][r];
    let numbers = TrainingSet::new(matrix(columns.clone()), (0..3000).map(outcome).collect());
    let set = TrainingSet { labels: numbers.labels.iter().map(|&label| f64::from(u8::from(label > 0.0))).collect(), ..numbers.clone() };
    let squared = Gbdt { objective: Objective::SquaredError, trees: 60, early_stopping: None, ..Gbdt::default() };
    let trees = gbdt::fit(&numbers, &squared).unwrap();
    let line = logistic::fit(&set, &Logistic::default()).unwrap();
    let (mut row, mut contributions, mut strength) = (Vec::new(), Vec::new(), [0.0; 16]);
    for model in [&trees as &dyn Model, &line] {
        for r in 0..40 {
            set.matrix.row(r, &mut row);
            let pairs = model.interactions(&row).unwrap();
            model.explain(&row, &mut contributions);
            for i in 0..4 {
                assert!((pairs[4 * i..][..4].iter().sum::<f64>() - contributions[i]).abs() < 1e-9);
                (0..4).for_each(|j| assert!((pairs[4 * i + j] - pairs[4 * j + i]).abs() < 1e-12));
            }
            if model.kind() == logistic::KIND {
                assert!((0..16).all(|at| at % 5 == 0 || pairs[at] == 0.0));
            } else {
                strength.iter_mut().zip(&pairs).for_each(|(strength, pair)| *strength += pair.abs());
            }
        }
    }
    let others = [2, 3, 6, 7, 11].map(|at| strength[at]);
    assert!(others.iter().all(|&other| strength[1] > 3.0 * other), "{strength:?}");
}
