//! Calibrations on rows whose truth is known, and what they keep of the model.

use kilter_stats::Rng;

use super::*;
use crate::format::tests::check_damage_is_noticed;
use crate::math::sigmoid;
use crate::matrix::tests::training_set;
use crate::metrics::{auc, expected_calibration_error, log_loss};
use crate::{LearnError, Logistic, Model, TrainingSet, load, logistic};

/// A model that knows the order but is sure of itself by `bend`, and new rows. The truth is `sigmoid(x - 1)`.
fn overconfident(rows: usize, seed: u64) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let rows: Vec<Vec<f64>> = (0..rows)
        .map(|_| {
            let x = 1.5 * rng.normal();
            vec![x, f64::from(u8::from(rng.bernoulli(sigmoid(x - 1.0))))]
        })
        .collect();
    training_set(&rows)
}

/// Trained where the labels were a sharp step, so its log-odds are several times too large.
fn model() -> Box<dyn Model> {
    let mut rng = Rng::seeded(2);
    let rows: Vec<Vec<f64>> = (0..2000)
        .map(|_| {
            let x = 1.5 * rng.normal();
            vec![x, f64::from(u8::from(rng.bernoulli(sigmoid(4.0 * x + 1.0))))]
        })
        .collect();
    Box::new(logistic::fit(&training_set(&rows), &Logistic::default()).unwrap())
}

fn plain(method: Method) -> Calibration {
    Calibration { method, target_rate: None }
}

fn probabilities(model: &dyn Model, set: &TrainingSet) -> Vec<f64> {
    (0..set.rows()).map(|row| model.probability(&[set.matrix.value(row, 0)])).collect()
}

#[test]
fn probabilities_come_true_on_new_rows_and_the_margin_stays() {
    let fresh = overconfident(20_000, 9);
    let before = model();
    let wrong = expected_calibration_error(&probabilities(before.as_ref(), &fresh), &fresh.labels, 10);
    assert!(wrong > 0.15, "{wrong}");
    for method in [Method::Platt, Method::Isotonic, Method::Beta] {
        let calibrated = calibrate(model(), &overconfident(4000, 5), &plain(method)).unwrap();
        let after = probabilities(&calibrated, &fresh);
        let error = expected_calibration_error(&after, &fresh.labels, 10);
        assert!(error < 0.02, "{method:?}: {error}");
        assert!(log_loss(&after, &fresh.labels) < log_loss(&probabilities(before.as_ref(), &fresh), &fresh.labels) - 0.1);
        assert!((auc(&after, &fresh.labels) - auc(&probabilities(before.as_ref(), &fresh), &fresh.labels)).abs() < 0.002);
        let (mut own, mut inner) = (Vec::new(), Vec::new());
        assert_eq!(calibrated.explain(&[0.3], &mut own), before.explain(&[0.3], &mut inner));
        assert_eq!((calibrated.margin(&[0.3]), own), (before.margin(&[0.3]), inner));
    }
}

#[test]
fn the_curves_find_the_numbers_that_made_the_rows() {
    // The truth is x - 1 and the margin a line over x, so Platt has the exact answer and beta has it among its curves.
    let calibrated = calibrate(model(), &overconfident(100_000, 5), &plain(Method::Platt)).unwrap();
    for x in [-3.0, 0.0, 1.0, 4.0] {
        assert!((logit(calibrated.probability(&[x])) - (x - 1.0)).abs() < 0.1, "{x}");
    }
    // An honest model stays as it is: a = b = 1, c = 0 is the identity.
    let set = overconfident(100_000, 6);
    let honest = Box::new(logistic::fit(&set, &Logistic::default()).unwrap());
    let beta = calibrate(honest, &overconfident(100_000, 7), &plain(Method::Beta)).unwrap();
    let curve = &beta.describe()["calibration"]["curve"]["bend"];
    let near = |name: &str, value: f64| (curve[name].as_f64().unwrap() - value).abs() < 0.08;
    assert!(near("a", 1.0) && near("b", 1.0) && near("c", 0.0), "{curve}");
}

#[test]
fn probabilities_never_fall_and_can_be_inverted() {
    for (method, target_rate) in [
        (Method::Platt, None),
        (Method::Isotonic, None),
        (Method::Beta, Some(0.02)),
        (Method::PriorShift, Some(0.1)),
        (Method::Isotonic, Some(0.6)),
    ] {
        let calibrated = calibrate(model(), &overconfident(3000, 5), &Calibration { method, target_rate }).unwrap();
        let mut last = 0.0;
        let mut inverted = 0;
        for i in -400..400 {
            let x = f64::from(i) * 0.02;
            let probability = calibrated.probability(&[x]);
            assert!((0.0..=1.0).contains(&probability) && probability >= last, "{method:?} at {x}");
            last = probability;
            if let Some(margin) = calibrated.margin_of(probability) {
                inverted += 1;
                assert!((margin - calibrated.margin(&[x])).abs() < 1e-4 * (1.0 + margin.abs()), "{method:?} at {x}");
            }
        }
        // A step curve rises between rows only.
        let least = if method == Method::Isotonic { 0 } else { 700 };
        assert!(inverted > least, "{method:?}: {inverted}");
    }
}

#[test]
fn a_model_that_ranks_backwards_gets_the_base_rate_and_is_not_turned_round() {
    let mut set = overconfident(2000, 5);
    set.labels.iter_mut().for_each(|label| *label = 1.0 - *label);
    let rate = set.positives() as f64 / 2000.0;
    for method in [Method::Platt, Method::Beta, Method::Isotonic] {
        let calibrated = calibrate(model(), &set, &plain(method)).unwrap();
        // The ends alone may keep a step or two.
        assert!((calibrated.probability(&[0.0]) - rate).abs() < 0.02, "{method:?}");
        assert!(calibrated.probability(&[1.0]) >= calibrated.probability(&[-1.0]));
    }
}

#[test]
fn a_target_rate_is_met_and_odds_keep_their_ratio() {
    let set = overconfident(5000, 5);
    let rate = set.positives() as f64 / 5000.0;
    for method in [Method::PriorShift, Method::Platt, Method::Isotonic] {
        let shifted = calibrate(model(), &set, &Calibration { method, target_rate: Some(0.05) }).unwrap();
        let shift = logit(0.05) - logit(rate);
        for x in [-0.5, 0.2, 1.1] {
            let before = match method {
                Method::PriorShift => model().probability(&[x]),
                _ => calibrate(model(), &set, &plain(method)).unwrap().probability(&[x]),
            };
            assert!((logit(shifted.probability(&[x])) - logit(before) - shift).abs() < 1e-9, "{method:?} at {x}");
        }
    }
}

#[test]
fn weights_equal_repetition() {
    let set = overconfident(400, 5);
    let twice: Vec<usize> = (0..400).flat_map(|row| if row % 3 == 0 { vec![row, row] } else { vec![row] }).collect();
    let repeated = TrainingSet::new(set.matrix.select(&twice), twice.iter().map(|&row| set.labels[row]).collect());
    let weighted = TrainingSet { weights: Some((0..400).map(|row| if row % 3 == 0 { 2.0 } else { 1.0 }).collect()), ..set };
    for method in [Method::Platt, Method::Beta] {
        let of = |set| calibrate(model(), set, &plain(method)).unwrap().probability(&[0.4]);
        assert!((of(&repeated) - of(&weighted)).abs() < 1e-9, "{method:?}");
    }
}

#[test]
fn separable_rows_give_a_finite_curve() {
    let rows: Vec<Vec<f64>> = (0..100).map(|i| vec![f64::from(i) - 49.5, f64::from(u8::from(i >= 50))]).collect();
    for method in [Method::Platt, Method::Beta] {
        let calibrated = calibrate(model(), &training_set(&rows), &plain(method)).unwrap();
        let (low, high) = (calibrated.probability(&[-49.5]), calibrated.probability(&[49.5]));
        assert!(low > 0.0 && low < 0.05 && high > 0.95 && high < 1.0, "{method:?}: {low} {high}");
    }
}

#[test]
fn a_file_brings_the_same_model_back_and_damage_is_noticed() {
    for method in [Method::Platt, Method::Isotonic, Method::Beta, Method::PriorShift] {
        let calibrated = calibrate(model(), &overconfident(300, 5), &Calibration { method, target_rate: Some(0.2) }).unwrap();
        let back = load(&calibrated.to_bytes()).unwrap();
        assert_eq!((back.kind(), back.to_bytes(), back.describe()), ("calibrated", calibrated.to_bytes(), calibrated.describe()));
        for x in [-2.0, 0.1, f64::NAN, 3.3] {
            assert_eq!(back.probability(&[x]).to_bits(), calibrated.probability(&[x]).to_bits());
        }
        assert_eq!(back.uncalibrated().unwrap().to_bytes(), model().to_bytes());
    }
    check_damage_is_noticed(&calibrate(model(), &overconfident(300, 5), &plain(Method::Platt)).unwrap());
    let mut small = overconfident(300, 5);
    small.labels.iter_mut().enumerate().for_each(|(row, label)| *label = f64::from(u8::from(row % 2 == 0)));
    check_damage_is_noticed(&calibrate(model(), &small, &plain(Method::Isotonic)).unwrap());
}

#[test]
fn what_cannot_be_calibrated_says_why() {
    let error = |set: &TrainingSet, calibration: Calibration| calibrate(model(), set, &calibration).err().unwrap();
    let few = error(&overconfident(60, 5), plain(Method::Isotonic));
    assert!(matches!(few, LearnError::TooFewToCalibrate { rows: 60, needed: 200, .. }));
    assert!(few.to_string().contains("isotonic has 60 rows") && few.to_string().contains("hint: "), "{few}");
    let one_class = TrainingSet { labels: vec![0.0; 500], ..overconfident(500, 5) };
    assert!(matches!(error(&one_class, plain(Method::Platt)), LearnError::TooFewToCalibrate { positives: 0, .. }));
    let wild = Calibration { method: Method::Platt, target_rate: Some(1.0) };
    assert!(matches!(error(&overconfident(500, 5), wild), LearnError::BadParameter { name: "target_rate", .. }));
    assert!(matches!(error(&overconfident(500, 5), plain(Method::PriorShift)), LearnError::BadParameter { name: "target_rate", .. }));
    let twice = calibrate(model(), &overconfident(500, 5), &plain(Method::Platt)).unwrap();
    assert_eq!(calibrate(Box::new(twice), &overconfident(500, 5), &plain(Method::Beta)).err(), Some(LearnError::AlreadyCalibrated));
}
