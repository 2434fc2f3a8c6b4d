use kilter_stats::Rng;

use super::*;
use crate::Model;
use crate::format::tests::check_damage_is_noticed;
use crate::math::sigmoid;
use crate::matrix::tests::training_set;
use crate::{Logistic, load, logistic};

/// `columns` noisy columns of which the first three make the label, with holes in the second.
fn rows(count: usize, columns: usize, label: impl Fn(f64, &mut Rng) -> f64) -> TrainingSet {
    let mut rng = Rng::seeded(11);
    let rows: Vec<Vec<f64>> = (0..count)
        .map(|i| {
            let shared = rng.normal();
            let mut row: Vec<f64> = (0..columns).map(|c| 3.0 * c as f64 + rng.normal() + 0.5 * shared).collect();
            let margin = 0.8 * row[0] - 1.5 * (row[1] - 3.0) + 0.4 * (row[2] - 6.0);
            if i % 10 == 0 {
                row[1] = f64::NAN;
            }
            row.push(label(margin, &mut rng));
            row
        })
        .collect();
    training_set(&rows)
}

fn numbers(count: usize, columns: usize) -> TrainingSet {
    rows(count, columns, |margin, rng| 10.0 + margin + 0.5 * rng.normal())
}

/// The conditions of Karush, Kuhn and Tucker: at the least cost, the slope of the smooth part is `-l1 * sign` where a coefficient is not zero, between
/// `-l1` and `l1` where it is, and zero for the intercept. Computed from the model's margins alone.
fn check_optimal(set: &TrainingSet, line: &Coefficients, l1: f64, l2: f64, slope: impl Fn(f64, f64) -> f64) {
    let mut row = Vec::new();
    let mut gradient = vec![0.0; line.means.len() + 1];
    for r in 0..set.rows() {
        set.matrix.row(r, &mut row);
        let error = set.weight(r) * slope(line.margin(&row), set.labels[r]);
        for (column, value) in row.iter().enumerate() {
            gradient[column] += error * coefficients::standardised(*value, line.means[column], line.scales[column]);
        }
        gradient[line.means.len()] += error;
    }
    let allowed = 1e-6 * set.rows() as f64;
    assert!(gradient.pop().unwrap().abs() < allowed, "the intercept is not at its best");
    for (column, (gradient, beta)) in gradient.iter().zip(&line.standardised).enumerate() {
        let gradient = gradient + l2 * beta;
        match *beta == 0.0 {
            true => assert!(gradient.abs() <= l1 + allowed, "column {column} wants in: {gradient}"),
            false => assert!((gradient + l1 * beta.signum()).abs() < allowed, "column {column}: {gradient} at {beta}"),
        }
    }
}

#[test]
fn every_penalty_leads_to_the_least_cost() {
    let (amounts, classes) = (numbers(600, 8), rows(600, 8, |margin, rng| f64::from(u8::from(rng.bernoulli(sigmoid(margin))))));
    for (l1, l2) in [(0.0, 0.0), (0.0, 5.0), (20.0, 0.0), (60.0, 3.0), (1e5, 0.0), (1.0, 1e-3)] {
        let model = fit(&amounts, &Linear { l1, l2, ..Linear::default() }).unwrap();
        assert!(model.converged());
        check_optimal(&amounts, &model.line, l1, l2, |margin, label| margin - label);
        let model = logistic::fit(&classes, &Logistic { l1, l2, ..Logistic::default() }).unwrap();
        assert!(model.converged());
        check_optimal(&classes, &model.line, l1, l2, |margin, label| sigmoid(margin) - label);
    }
}

#[test]
fn an_l1_penalty_leaves_out_what_does_not_help() {
    let set = numbers(600, 8);
    let zeros = |l1| fit(&set, &Linear { l1, l2: 0.0, ..Linear::default() }).unwrap().coefficients().iter().filter(|b| **b == 0.0).count();
    assert_eq!(zeros(0.0), 0);
    assert!(zeros(60.0) >= 3 && zeros(60.0) <= 5, "{}", zeros(60.0));
    // With everything left out, the mean remains.
    let mean = set.labels.iter().sum::<f64>() / 600.0;
    let nothing = fit(&set, &Linear { l1: 1e6, ..Linear::default() }).unwrap();
    assert_eq!(zeros(1e6), 8);
    assert!((nothing.margin(&[1e3; 8]) - mean).abs() < 1e-9);
}

#[test]
fn a_straight_line_is_found_again() {
    let set = training_set(&(0..50).map(|i| vec![f64::from(i), 7.0, 2.0 - 0.25 * f64::from(i)]).collect::<Vec<_>>());
    let model = fit(&set, &Linear { l2: 0.0, ..Linear::default() }).unwrap();
    assert_eq!(model.link(), Link::Identity);
    assert!((model.coefficients()[0] + 0.25).abs() < 1e-12 && model.coefficients()[1] == 0.0);
    assert!((model.predict(&[1000.0, 7.0]) + 248.0).abs() < 1e-9);
    let mut contributions = Vec::new();
    let base = model.explain(&[3.0, f64::NAN], &mut contributions);
    assert!((base + contributions.iter().sum::<f64>() - 1.25).abs() < 1e-12);
}

#[test]
fn weights_equal_repetition() {
    let set = numbers(300, 4);
    let twice: Vec<usize> = (0..300).flat_map(|row| if row < 100 { vec![row, row] } else { vec![row] }).collect();
    let repeated = TrainingSet::new(set.matrix.select(&twice), twice.iter().map(|&row| set.labels[row]).collect());
    let weighted = TrainingSet { weights: Some((0..300).map(|row| if row < 100 { 2.0 } else { 1.0 }).collect()), ..set };
    for l1 in [0.0, 20.0] {
        let model = |set| fit(set, &Linear { l1, ..Linear::default() }).unwrap().margin(&[0.3, -1.0, 6.0, f64::NAN]);
        assert!((model(&repeated) - model(&weighted)).abs() < 1e-9);
    }
}

#[test]
fn same_bytes_on_any_number_of_threads_and_after_loading() {
    let set = numbers(20_000, 5);
    let parameters = Linear { l1: 10.0, ..Linear::default() };
    let bytes = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| fit(&set, &parameters).unwrap().to_bytes())
    };
    assert!(bytes(1) == bytes(2) && bytes(1) == bytes(8));
    let model = fit(&set, &parameters).unwrap();
    let back = load(&model.to_bytes()).unwrap();
    assert_eq!((back.to_bytes(), back.describe()), (model.to_bytes(), model.describe()));
    assert_eq!(back.margin(&[0.1; 5]).to_bits(), model.margin(&[0.1; 5]).to_bits());
    check_damage_is_noticed(&model);
}

#[test]
fn duplicate_constant_and_infinite_columns_are_harmless() {
    let mut rng = Rng::seeded(8);
    let rows: Vec<Vec<f64>> = (0..500)
        .map(|i| {
            let x = rng.normal();
            vec![x, x, 5e9, f64::NAN, if i == 7 { f64::INFINITY } else { x }, 1e6 * x + rng.normal()]
        })
        .collect();
    for (l1, l2) in [(0.0, 0.0), (0.0, 1.0), (1e4, 0.0)] {
        let model = fit(&training_set(&rows), &Linear { l1, l2, ..Linear::default() }).unwrap();
        let coefficients = model.coefficients();
        assert!(coefficients.iter().all(|beta| beta.is_finite()), "{coefficients:?}");
        assert_eq!((coefficients[2], coefficients[3]), (0.0, 0.0));
        assert!(model.predict(&[f64::NEG_INFINITY; 5]).is_finite());
    }
}

#[test]
fn nonsense_is_refused() {
    let set = numbers(50, 3);
    let refused = |set: &TrainingSet, parameters| fit(set, &parameters).err();
    for (parameters, name) in [
        (Linear { l1: -1.0, ..Linear::default() }, "l1"),
        (Linear { l2: f64::NAN, ..Linear::default() }, "l2"),
        (Linear { max_iterations: 0, ..Linear::default() }, "max_iterations"),
        (Linear { tolerance: 0.0, ..Linear::default() }, "tolerance"),
    ] {
        assert!(matches!(refused(&set, parameters), Some(LearnError::BadParameter { name: found, .. }) if found == name));
    }
    let labelled = |label: f64| TrainingSet { labels: vec![label; 50], ..set.clone() };
    assert!(matches!(refused(&labelled(f64::INFINITY), Linear::default()), Some(LearnError::BadLabel { row: 0, .. })));
    let weightless = TrainingSet { weights: Some(vec![0.0; 50]), ..set.clone() };
    assert!(matches!(refused(&weightless, Linear::default()), Some(LearnError::BadWeight { .. })));
    // All labels alike are a mean to be learned, not an error.
    assert!((fit(&labelled(4.0), &Linear::default()).unwrap().predict(&[0.0; 3]) - 4.0).abs() < 1e-12);
}
