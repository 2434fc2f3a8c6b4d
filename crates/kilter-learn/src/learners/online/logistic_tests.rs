use super::*;
use crate::format::tests::check_damage_is_noticed;
use crate::learners::online::{load_online, prequential};
use crate::logistic::{self, Logistic};
use crate::matrix::tests::training_set;
use crate::{LearnError, load};
use kilter_stats::Rng;

/// Rows of a wide, a narrow and a useless column, with holes; labels by the first two, whose coefficients are turned round after so many rows.
fn stream(rows: usize, turn: usize, seed: u64) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let rows: Vec<Vec<f64>> = (0..rows)
        .map(|r| {
            let (a, b, c) = (rng.normal(), rng.normal(), rng.normal());
            let margin = if r < turn { 1.5 * a - b } else { b - 1.5 * a } - 0.5;
            let label = f64::from(u8::from(rng.bernoulli(sigmoid(margin))));
            let hole = rng.bernoulli(0.1);
            vec![1e4 + 100.0 * a, if hole { f64::NAN } else { 0.01 * b }, c, label]
        })
        .collect();
    training_set(&rows)
}

/// Algorithm 1 of the paper as it is written there, on rows standardised by mean and deviation computed anew from all rows so far.
fn by_the_paper(set: &TrainingSet, parameters: &OnlineLogistic) -> Vec<f64> {
    let OnlineLogistic { learning_rate: alpha, smoothing: beta, l1, l2, .. } = *parameters;
    let columns = set.matrix.columns();
    let (mut z, mut n) = (vec![0.0f64; columns + 1], vec![0.0f64; columns + 1]);
    let mut probabilities = Vec::new();
    for r in 0..set.rows() {
        let mut x = vec![1.0];
        for column in 0..columns {
            let seen: Vec<(f64, f64)> =
                (0..=r).map(|r| (set.matrix.value(r, column), set.weight(r))).filter(|(value, _)| value.is_finite()).collect();
            let total: f64 = seen.iter().map(|(_, weight)| weight).sum();
            let mean = seen.iter().map(|(value, weight)| value * weight).sum::<f64>() / total;
            let variance = seen.iter().map(|(value, weight)| weight * (value - mean) * (value - mean)).sum::<f64>() / total;
            let value = set.matrix.value(r, column);
            x.push(if value.is_finite() && variance > 0.0 { (value - mean) / variance.sqrt() } else { 0.0 });
        }
        let weight_of = |i: usize| {
            let (l1, l2) = if i == 0 { (0.0, 0.0) } else { (l1, l2) };
            if z[i].abs() <= l1 { 0.0 } else { -(z[i] - z[i].signum() * l1) / ((beta + n[i].sqrt()) / alpha + l2) }
        };
        let w: Vec<f64> = (0..=columns).map(weight_of).collect();
        let p = 1.0 / (1.0 + (-w.iter().zip(&x).map(|(w, x)| w * x).sum::<f64>()).exp());
        probabilities.push(p);
        for i in 0..=columns {
            let g = set.weight(r) * (p - set.labels[r]) * x[i];
            let sigma = ((n[i] + g * g).sqrt() - n[i].sqrt()) / alpha;
            z[i] += g - sigma * w[i];
            n[i] += g * g;
        }
    }
    let _ = probabilities.len();
    let weight_of = |i: usize| {
        let (l1, l2) = if i == 0 { (0.0, 0.0) } else { (l1, l2) };
        if z[i].abs() <= l1 { 0.0 } else { -(z[i] - z[i].signum() * l1) / ((beta + n[i].sqrt()) / alpha + l2) }
    };
    (0..=columns).map(weight_of).collect()
}

#[test]
fn coefficients_are_those_of_the_papers_algorithm() {
    let mut set = stream(400, 400, 1);
    set.weights = Some((0..400).map(|r| [0.5, 1.0, 3.0][r % 3]).collect());
    for parameters in [
        OnlineLogistic::default(),
        OnlineLogistic { learning_rate: 0.5, smoothing: 2.0, l1: 3.0, l2: 0.7, half_life: None },
        OnlineLogistic { l1: 1e6, ..OnlineLogistic::default() },
    ] {
        let model = fit(&set, &parameters).unwrap();
        let expected = by_the_paper(&set, &parameters);
        let found = [vec![model.intercept.value], model.standardised_coefficients()].concat();
        assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-9), "{found:?} {expected:?}");
        assert_eq!(parameters.l1 == 1e6, found[1..].iter().all(|beta| *beta == 0.0));
    }
}

#[test]
fn it_comes_near_what_all_rows_at_once_would_give() {
    let (set, unseen) = (stream(40_000, usize::MAX, 2), stream(10_000, usize::MAX, 3));
    let (online, batch) = (fit(&set, &OnlineLogistic::default()).unwrap(), logistic::fit(&set, &Logistic::default()).unwrap());
    let loss = |model: &dyn Model| {
        let margins = model.margins(&unseen.matrix);
        margins.iter().zip(&unseen.labels).map(|(&margin, &label)| margin_loss(margin, label)).sum::<f64>() / 10_000.0
    };
    assert!(loss(&online) < loss(&batch) + 5e-4, "{} {}", loss(&online), loss(&batch));
    // Raw coefficients are of the same size, though the columns are apart by four powers of ten.
    assert!((online.coefficients()[0] / batch.coefficients()[0] - 1.0).abs() < 0.1);
    assert!((online.coefficients()[1] / batch.coefficients()[1] - 1.0).abs() < 0.1);
}

#[test]
fn with_a_half_life_it_follows_a_stream_that_turns_round() {
    let set = stream(20_000, 10_000, 4);
    let loss_of = |half_life| {
        let mut learner = start(set.matrix.names(), &OnlineLogistic { half_life, ..OnlineLogistic::default() }).unwrap();
        let stretches = prequential(&mut learner, &set, 0, 5_000).unwrap().stretches;
        stretches.iter().map(|stretch| stretch.log_loss).collect::<Vec<_>>()
    };
    let (without, with) = (loss_of(None), loss_of(Some(500.0)));
    // Before the turn it costs little; after it, the one has soon come back to where it was, and the other has not.
    assert!(with[1] < without[1] + 0.01, "{with:?} {without:?}");
    assert!(with[2] < without[2] - 0.03 && with[3] < without[3] - 0.005, "{with:?} {without:?}");
}

#[test]
fn saved_and_loaded_it_goes_on_to_the_same_bytes() {
    for half_life in [None, Some(100.0)] {
        let set = stream(1_000, 500, 5);
        let mut at_once = start(set.matrix.names(), &OnlineLogistic { l1: 0.5, half_life, ..OnlineLogistic::default() }).unwrap();
        let mut resumed: Box<dyn Online> = Box::new(at_once.clone());
        at_once.learn(&set).unwrap();
        for first in (0..1_000).step_by(250) {
            resumed.learn(&set.slice(first..first + 250)).unwrap();
            resumed = load_online(&resumed.to_bytes()).unwrap();
        }
        assert_eq!(resumed.to_bytes(), Online::to_bytes(&at_once));
        let as_model = load(&resumed.to_bytes()).unwrap();
        assert_eq!(as_model.margin(&[1e4, 0.01, 0.0]).to_bits(), at_once.margin(&[1e4, 0.01, 0.0]).to_bits());
    }
}

#[test]
fn what_cannot_be_learned_from_changes_nothing() {
    let set = stream(50, 50, 6);
    let mut model = fit(&set, &OnlineLogistic::default()).unwrap();
    let before = Online::to_bytes(&model);
    let mut odd = set.clone();
    odd.labels[7] = 2.0;
    assert_eq!(model.learn(&odd), Err(LearnError::BadLabel { row: 7, value: 2.0, must: "0 or 1" }));
    assert!(matches!(model.learn_one(&[0.0; 3], f64::NAN, 1.0), Err(LearnError::BadLabel { row: 50, .. })));
    for weight in [-1.0, f64::NAN, f64::INFINITY, 1e200] {
        assert!(matches!(model.learn_one(&[0.0; 3], 1.0, weight), Err(LearnError::BadWeight { row: 50, .. })));
        let weights = Some([vec![1.0; 49], vec![weight]].concat());
        assert!(matches!(model.learn(&TrainingSet { weights, ..set.clone() }), Err(LearnError::BadWeight { row: 49, .. })));
    }
    let other = training_set(&[vec![1.0, 2.0, 0.0]]);
    assert!(matches!(model.learn(&other), Err(LearnError::OtherInputs { .. })));
    assert_eq!(model.learn_one(&[0.0; 3], 1.0, 0.0), Ok(()));
    assert_eq!(Online::to_bytes(&model), before);
    for (parameters, name) in [
        (OnlineLogistic { learning_rate: 0.0, ..OnlineLogistic::default() }, "learning_rate"),
        (OnlineLogistic { smoothing: f64::NAN, ..OnlineLogistic::default() }, "smoothing"),
        (OnlineLogistic { l1: -1.0, ..OnlineLogistic::default() }, "l1"),
        (OnlineLogistic { l2: f64::INFINITY, ..OnlineLogistic::default() }, "l2"),
        (OnlineLogistic { half_life: Some(0.5), ..OnlineLogistic::default() }, "half_life"),
    ] {
        assert!(matches!(start(set.matrix.names(), &parameters), Err(LearnError::BadParameter { name: found, .. }) if found == name));
    }
}

#[test]
fn one_wild_row_does_not_end_a_columns_learning() {
    let set = stream(5_000, usize::MAX, 7);
    let mut wild = set.clone();
    wild.matrix.fill(0, |r| if r == 100 { 1e90 } else { set.matrix.value(r, 0) });
    let model = fit(&wild, &OnlineLogistic { half_life: Some(20.0), ..OnlineLogistic::default() }).unwrap();
    assert!(model.standardised_coefficients()[0] > 0.3, "{:?}", model.standardised_coefficients());
    assert!(model.margin(&[1e99, f64::INFINITY, f64::NAN]).is_finite());
}

#[test]
fn damage_is_noticed() {
    check_damage_is_noticed(&fit(&stream(60, 60, 8), &OnlineLogistic::default()).unwrap());
}
