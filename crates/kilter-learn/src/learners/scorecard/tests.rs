//! Scorecards on data whose truth is known; the search for bins has its own tests.

use kilter_stats::Rng;

use super::*;
use crate::format::tests::check_damage_is_noticed;
use crate::math::{logit, sigmoid};
use crate::matrix::tests::training_set;
use crate::metrics::auc;
use crate::{Model, load};

/// x0 lowers the risk, x1 is worst in the middle, x2 is noise, x3 is missing where the risk is high, x4 repeats x0.
fn applicants(rows: usize, seed: u64) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let rows: Vec<Vec<f64>> = (0..rows)
        .map(|_| {
            let (income, age, noise) = (rng.normal(), 18.0 + 60.0 * rng.uniform(), rng.normal());
            let hidden = rng.bernoulli(0.2);
            let margin = -1.5 - income - 0.004 * (age - 48.0) * (age - 48.0) + if hidden { 1.5 } else { 0.0 };
            let code = if hidden {
                f64::NAN
            } else if rng.bernoulli(0.1) {
                -1.0
            } else {
                10.0 * rng.uniform()
            };
            vec![income, age, noise, code, income + 0.05 * rng.normal(), f64::from(u8::from(rng.bernoulli(sigmoid(margin))))]
        })
        .collect();
    training_set(&rows)
}

fn parameters() -> Scorecard {
    Scorecard { shapes: [("x1".to_owned(), Shape::Peak)].into(), special: [("x3".to_owned(), vec![-1.0])].into(), ..Scorecard::default() }
}

fn row(set: &TrainingSet, at: usize) -> Vec<f64> {
    let mut row = Vec::new();
    set.matrix.row(at, &mut row);
    row
}

#[test]
fn ranks_as_the_truth_does_and_leaves_out_what_is_noise() {
    let (train, test) = (applicants(20_000, 1), applicants(20_000, 2));
    let model = fit(&train, &parameters()).unwrap();
    let scores: Vec<f64> = (0..test.rows()).map(|at| model.margin(&row(&test, at))).collect();
    let area = auc(&scores, &test.labels);
    assert!(area > 0.8, "{area}");
    let left_out: Vec<&str> = model.report.left_out.iter().map(|l| l.name.as_str()).collect();
    assert!(left_out.contains(&"x2"), "{left_out:?}");
    assert!(model.report.converged);
    assert_eq!(model.features[0].shape, Some(Shape::Decreasing));
    let mean = (0..test.rows()).map(|at| model.probability(&row(&test, at))).sum::<f64>() / test.rows() as f64;
    assert!((mean - test.positives() as f64 / test.rows() as f64).abs() < 0.01);
}

#[test]
fn points_double_the_odds_and_rounding_is_told() {
    let set = applicants(5000, 1);
    let model = fit(&set, &Scorecard { pdo: 40.0, base_points: 500.0, base_odds: 20.0, ..parameters() }).unwrap();
    let (mut largest, mut largest_probability) = (0.0f64, 0.0f64);
    for at in 0..set.rows() {
        let row = row(&set, at);
        let exact = model.exact_points(&row);
        // Odds of 20 negatives to one positive are 500 points, 40 to one are 540.
        let odds = libm::exp(-model.margin(&row));
        assert!((exact - (500.0 + 40.0 * libm::log2(odds / 20.0))).abs() < 1e-9);
        let points = model.points(&row).unwrap();
        assert_eq!(points, libm::round(points));
        largest = largest.max((points - exact).abs());
        let by_points = 1.0 / (1.0 + 20.0 * libm::exp2((points - 500.0) / 40.0));
        largest_probability = largest_probability.max((by_points - model.probability(&row)).abs());
    }
    let rounding = &model.report.rounding;
    assert!((rounding.largest_points - largest).abs() < 1e-9 && (rounding.largest_probability - largest_probability).abs() < 1e-12);
    // Half a point for each input at most.
    assert!(largest > 0.0 && largest <= 0.5 * 5.0);
}

#[test]
fn a_bin_with_more_positives_never_gets_more_points() {
    let model = fit(&applicants(5000, 3), &parameters()).unwrap();
    assert!(model.used_features().len() >= 3);
    for feature in model.used_features() {
        assert!(feature.coefficient < 0.0);
        for a in &feature.bins {
            for b in &feature.bins {
                assert!(a.woe > b.woe || a.points <= b.points, "{}", feature.name);
            }
        }
    }
    // The copy and the original cannot both have the right sign unless they share the work; a reversed one is named.
    let mut set = applicants(3000, 4);
    let reversed: Vec<Vec<f64>> = (0..set.rows())
        .map(|at| {
            let row = row(&set, at);
            vec![row[0], row[0] + 3.0 * row[2], set.labels[at]]
        })
        .collect();
    set = training_set(&reversed);
    set.labels = (0..set.rows()).map(|at| f64::from(u8::from(sigmoid(-2.0 * row(&set, at)[0]) > 0.7 || at % 7 == 0))).collect();
    let model = fit(&set, &Scorecard::default()).unwrap();
    assert!(model.features.iter().all(|feature| feature.coefficient <= 0.0));
}

#[test]
fn reasons_are_points_lost_and_add_up() {
    let set = applicants(5000, 1);
    for from in [ReasonsFrom::Maximum, ReasonsFrom::Mean] {
        let model = fit(&set, &Scorecard { reasons: from, ..parameters() }).unwrap();
        let mut contributions = Vec::new();
        let mut sums = vec![0.0; 5];
        for at in 0..set.rows() {
            let row = row(&set, at);
            let base = model.explain(&row, &mut contributions);
            assert!((base + contributions.iter().sum::<f64>() - model.margin(&row)).abs() < 1e-9);
            if from == ReasonsFrom::Maximum {
                assert!(contributions.iter().all(|&lost| lost >= 0.0));
            }
            sums.iter_mut().zip(&contributions).for_each(|(sum, lost)| *sum += lost);
        }
        if from == ReasonsFrom::Mean {
            assert!(sums.iter().all(|sum| sum.abs() < 1e-6), "{sums:?}");
        }
    }
}

#[test]
fn missing_and_special_values_are_bins_and_unknown_ones_are_average() {
    let model = fit(&applicants(20_000, 1), &parameters()).unwrap();
    let feature = &model.features[3];
    assert_eq!(feature.label(feature.bins.len() - 1), "missing");
    assert_eq!(feature.label(feature.bins.len() - 2), "= -1");
    let missing = feature.bins[feature.bins.len() - 1];
    assert!(missing.woe < -0.5, "missing goes with risk: {missing:?}");
    assert_eq!(feature.bin_of(-1.0), feature.bins.len() - 2);
    // Income was never missing: nothing is known, nothing is added.
    let known = [0.4, 40.0, 0.0, 5.0, 0.4];
    let income = &model.features[0];
    let without = model.margin(&[f64::NAN, 40.0, 0.0, 5.0, 0.4]);
    let own = income.coefficient * income.bins[income.bin_of(0.4)].woe;
    assert!((model.margin(&known) - own - without).abs() < 1e-12);
}

#[test]
fn cuts_by_hand_are_taken_as_they_are() {
    let by_hand = Scorecard { cuts: [("x1".to_owned(), vec![25.0, 35.0, 60.0])].into(), ..parameters() };
    let model = fit(&applicants(5000, 1), &by_hand).unwrap();
    let labels: Vec<String> = (0..5).map(|bin| model.features[1].label(bin)).collect();
    assert_eq!(labels, ["<= 25", "> 25, <= 35", "> 35, <= 60", "> 60", "missing"]);
    assert_eq!((model.features[1].shape, model.features[1].bin_of(35.0), model.features[1].bin_of(35.1)), (None, 1, 2));
    assert!(model.table().iter().any(|line| line.contains("> 25, <= 35")), "{:#?}", model.table());
}

#[test]
fn bins_keep_their_share_and_their_number() {
    let set = applicants(3000, 1);
    for (max_bins, min_share) in [(2, 0.05), (4, 0.2), (10, 0.02)] {
        let model = fit(&set, &Scorecard { max_bins, min_share, ..parameters() }).unwrap();
        for feature in &model.features {
            assert!(feature.cuts.len() < max_bins);
            let plain = &feature.bins[..=feature.cuts.len()];
            let rows: f64 = plain.iter().map(|bin| bin.counts.total()).sum();
            assert!(plain.iter().all(|bin| bin.counts.total() >= min_share * rows - 1e-9), "{}", feature.name);
        }
    }
}

#[test]
fn one_input_without_penalty_says_the_rate_of_its_bins() {
    let set = applicants(4000, 1);
    let only = Scorecard { l2: 0.0, min_share: 0.1, ..Scorecard::default() };
    let single: Vec<Vec<f64>> = (0..set.rows()).map(|at| vec![set.matrix.value(at, 0), set.labels[at]]).collect();
    let model = fit(&training_set(&single), &only).unwrap();
    let feature = &model.features[0];
    assert!((feature.coefficient + 1.0).abs() < 1e-6, "WoE alone needs no other coefficient: {}", feature.coefficient);
    for bin in feature.bins.iter().filter(|bin| bin.counts.total() > 0.0) {
        let rate = bin.counts.positives / bin.counts.total();
        assert!((model.intercept + feature.coefficient * bin.woe - logit(rate)).abs() < 1e-6);
    }
}

#[test]
fn weights_equal_repetition_and_order_does_not_matter() {
    let set = applicants(600, 6);
    let twice: Vec<usize> = (0..600).flat_map(|at| if at % 3 == 0 { vec![at, at] } else { vec![at] }).rev().collect();
    let repeated = TrainingSet::new(set.matrix.select(&twice), twice.iter().map(|&at| set.labels[at]).collect());
    let weighted = TrainingSet { weights: Some((0..600).map(|at| if at % 3 == 0 { 2.0 } else { 1.0 }).collect()), ..set };
    let (a, b) = (fit(&repeated, &parameters()).unwrap(), fit(&weighted, &parameters()).unwrap());
    for (left, right) in a.features.iter().zip(&b.features) {
        assert_eq!((&left.cuts, left.shape), (&right.cuts, right.shape));
        assert!((left.coefficient - right.coefficient).abs() < 1e-6);
    }
}

#[test]
fn same_bytes_on_any_number_of_threads_and_after_loading() {
    let set = applicants(5000, 1);
    let bytes = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| fit(&set, &parameters()).unwrap().to_bytes())
    };
    assert!(bytes(1) == bytes(2) && bytes(1) == bytes(8));
    let model = fit(&set, &parameters()).unwrap();
    let back = load(&model.to_bytes()).unwrap();
    assert_eq!((back.to_bytes(), back.describe()), (model.to_bytes(), model.describe()));
    let row = [0.3, f64::NAN, f64::INFINITY, -1.0, -7.0];
    assert_eq!((back.margin(&row).to_bits(), back.points(&row)), (model.margin(&row).to_bits(), model.points(&row)));
    let small: Vec<Vec<f64>> = (0..60).map(|i| vec![f64::from(i % 3), f64::from(u8::from(i % 7 < i % 3))]).collect();
    check_damage_is_noticed(&fit(&training_set(&small), &Scorecard::default()).unwrap());
}

#[test]
fn infinite_constant_and_missing_columns_are_harmless() {
    let mut rng = Rng::seeded(9);
    let rows: Vec<Vec<f64>> = (0..500)
        .map(|i| {
            let x = rng.normal();
            let odd = if i % 5 == 0 {
                f64::INFINITY
            } else if i % 7 == 0 {
                f64::NEG_INFINITY
            } else {
                x
            };
            vec![x, odd, 4.0, f64::NAN, f64::from(u8::from(rng.bernoulli(sigmoid(2.0 * x))))]
        })
        .collect();
    let model = fit(&training_set(&rows), &Scorecard::default()).unwrap();
    assert_eq!((model.features[2].coefficient, model.features[3].coefficient), (0.0, 0.0));
    assert!(model.features[1].cuts.iter().all(|cut| cut.is_finite()));
    assert!(model.margin(&[f64::NEG_INFINITY, f64::INFINITY, f64::NAN, 1.0]).is_finite());
}

#[test]
fn nonsense_is_refused() {
    let set = applicants(500, 1);
    let name_of = |parameters: Scorecard| match fit(&set, &parameters) {
        Err(LearnError::BadParameter { name, .. }) => name,
        other => panic!("{other:?}"),
    };
    assert_eq!(name_of(Scorecard { max_bins: 1, ..parameters() }), "max_bins");
    assert_eq!(name_of(Scorecard { pdo: 0.0, ..parameters() }), "pdo");
    assert_eq!(name_of(Scorecard { cuts: [("x0".to_owned(), vec![2.0, 1.0])].into(), ..parameters() }), "cuts");
    assert_eq!(name_of(Scorecard { special: [("x0".to_owned(), vec![1.0, 1.0])].into(), ..parameters() }), "special");
    let stranger = fit(&set, &Scorecard { shapes: [("age".to_owned(), Shape::Peak)].into(), ..parameters() });
    assert_eq!(stranger, Err(LearnError::UnknownColumn { parameter: "shapes", name: "age".to_owned() }));
    let hopeless = fit(&set, &Scorecard { min_iv: 99.0, ..parameters() });
    assert!(matches!(&hopeless, Err(e @ LearnError::NothingPredicts { columns: 5, .. }) if e.to_string().contains("lower min_iv")));
    let one = TrainingSet { labels: vec![1.0; 500], ..set.clone() };
    assert_eq!(fit(&one, &parameters()).err(), Some(LearnError::OneClass { label: 1, rows: 500 }));
}
