use super::leaf::Leaf;
use super::*;
use crate::format::tests::check_damage_is_noticed;
use crate::learners::online::{load_online, prequential};
use crate::load;
use crate::matrix::tests::training_set;
use kilter_stats::Rng;

/// SEA concepts (Street & Kim 2001): of three columns between 0 and 10 the first two decide, label 1 where their sum is up to a threshold that
/// changes with each stretch of rows; a tenth of the labels is wrong.
fn sea(thresholds: &[f64], rows_of_each: usize, seed: u64) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let mut rows = Vec::new();
    for threshold in thresholds {
        for _ in 0..rows_of_each {
            let row: Vec<f64> = (0..3).map(|_| 10.0 * rng.uniform()).collect();
            let label = (row[0] + row[1] <= *threshold) != rng.bernoulli(0.1);
            rows.push(vec![row[0], row[1], row[2], f64::from(u8::from(label))]);
        }
    }
    training_set(&rows)
}

/// Labels by a corner of the plane, turned round after so many rows; a twentieth is wrong.
fn turning(rows: usize, turn: usize, seed: u64) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let rows: Vec<Vec<f64>> = (0..rows)
        .map(|r| {
            let (x, y) = (rng.normal(), rng.normal());
            let up = x > 0.0 && y > -0.5;
            vec![x, y, f64::from(u8::from((up == (r < turn)) != rng.bernoulli(0.05)))]
        })
        .collect();
    training_set(&rows)
}

/// Three classes by two columns, one useless; with holes.
fn three_classes(rows: usize, seed: u64) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let rows: Vec<Vec<f64>> = (0..rows)
        .map(|_| {
            let class = rng.below(3);
            let hole = rng.bernoulli(0.1);
            let x = [-3.0, 0.0, 3.0][class as usize] + rng.normal();
            vec![if hole { f64::NAN } else { x }, (class == 1) as u8 as f64 + 0.3 * rng.normal(), rng.normal(), class as f64]
        })
        .collect();
    training_set(&rows)
}

fn learned(set: &TrainingSet, classes: usize, parameters: &HoeffdingTree) -> HoeffdingTreeModel {
    let mut tree = start(set.matrix.names(), classes, parameters).unwrap();
    tree.learn(set).unwrap();
    tree
}

fn plain() -> HoeffdingTree {
    HoeffdingTree { drift_delta: None, ..HoeffdingTree::default() }
}

/// Of each class the values of a column, with their weights.
fn by_class(set: &TrainingSet, column: usize, classes: usize) -> Vec<Vec<(f64, f64)>> {
    let rows = |class: usize| (0..set.rows()).filter(move |&r| set.labels[r] == class as f64);
    let values = |class| rows(class).map(|r| (set.matrix.value(r, column), set.weight(r))).filter(|(value, _)| !value.is_nan()).collect();
    (0..classes).map(values).collect()
}

fn moments(values: &[(f64, f64)]) -> (f64, f64, f64) {
    let weight: f64 = values.iter().map(|(_, weight)| weight).sum();
    let mean = values.iter().map(|(value, weight)| value * weight).sum::<f64>() / weight;
    (weight, mean, values.iter().map(|(value, weight)| weight * (value - mean).powi(2)).sum::<f64>() / weight)
}

/// The normal distribution function by Simpson's rule.
fn normal_up_to(z: f64) -> f64 {
    let (from, steps) = (-12.0, 4_000);
    let h = (z - from) / f64::from(steps);
    let density = |x: f64| (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let inner: f64 = (1..steps).map(|i| (if i % 2 == 1 { 4.0 } else { 2.0 }) * density(from + h * f64::from(i))).sum();
    (density(from) + inner + density(z)) * h / 3.0
}

#[test]
fn splits_tell_what_the_definition_says() {
    let mut set = three_classes(500, 1);
    set.weights = Some((0..500).map(|r| [1.0, 2.0, 0.5][r % 3]).collect());
    let mut leaf = Leaf::empty(3, 3);
    let mut row = Vec::new();
    for r in 0..500 {
        set.matrix.row(r, &mut row);
        leaf.observe(&row, set.labels[r] as usize, set.weight(r));
    }
    let seen: f64 = (0..500).map(|r| set.weight(r)).sum();
    let entropy = |weights: &[f64]| {
        let total: f64 = weights.iter().sum();
        weights.iter().map(|w| if *w > 0.0 { -(w / total) * (w / total).log2() } else { 0.0 }).sum::<f64>()
    };
    let candidates: Vec<_> = leaf.candidates().collect();
    assert_eq!(candidates.len(), 3);
    for candidate in candidates {
        let values = by_class(&set, candidate.column, 3);
        let all: Vec<f64> = values.iter().flatten().map(|(value, _)| *value).collect();
        let (least, most) = all.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &x| (low.min(x), high.max(x)));
        let there: Vec<f64> = values.iter().map(|values| moments(values).0).collect();
        let present: f64 = there.iter().sum();
        let gain = |threshold: f64| {
            let left = |values: &Vec<(f64, f64)>| {
                let (weight, mean, variance) = moments(values);
                let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &(x, _)| (low.min(x), high.max(x)));
                if threshold < low {
                    0.0
                } else if threshold >= high {
                    weight
                } else {
                    weight * normal_up_to((threshold - mean) / variance.sqrt())
                }
            };
            let left: Vec<f64> = values.iter().map(left).collect();
            let right: Vec<f64> = there.iter().zip(&left).map(|(all, left)| all - left).collect();
            let share = left.iter().sum::<f64>() / present;
            let gain = (entropy(&there) - share * entropy(&left) - (1.0 - share) * entropy(&right)) * present / seen;
            if (0.01..=0.99).contains(&share) { gain } else { f64::NEG_INFINITY }
        };
        let best = (1..=10).map(|i| least + (most - least) * f64::from(i) / 11.0).max_by(|a, b| gain(*a).total_cmp(&gain(*b))).unwrap();
        assert!((candidate.threshold - best).abs() < 1e-12, "column {}", candidate.column);
        assert!((candidate.gain - gain(best)).abs() < 1e-6, "{} {}", candidate.gain, gain(best));
        // All weight seen is on one side or the other, that of missing values too.
        assert!((candidate.sides.iter().flatten().sum::<f64>() - seen).abs() < 1e-9);
    }
}

#[test]
fn a_leaf_answers_by_bayes_rule_with_normal_densities() {
    let set = three_classes(300, 2);
    let tree = learned(&set, 3, &HoeffdingTree { grace_period: 1e9, leaf_prediction: LeafPrediction::NaiveBayes, ..plain() });
    let node::Part::Leaf(leaf) = &tree.root.part else { panic!("it has split") };
    let limit = ((leaf.bayes_right + 1.0) / (300.0 - leaf.bayes_right + 1.0)).ln();
    assert!(limit > 1.0);
    let (mut found, mut damped) = (Vec::new(), 0);
    for row in [[0.5, 0.4, 0.1], [-2.0, f64::NAN, 0.0], [f64::NAN, f64::INFINITY, f64::NAN]] {
        tree.class_probabilities(&row, &mut found);
        let densities: Vec<f64> = (0..3)
            .map(|class| {
                let present = row.iter().enumerate().filter(|(_, value)| value.is_finite());
                let log = present.map(|(column, value)| {
                    let (_, mean, variance) = moments(&by_class(&set, column, 3)[class]);
                    -(value - mean).powi(2) / (2.0 * variance) - 0.5 * variance.ln()
                });
                log.sum::<f64>()
            })
            .collect();
        let mean = densities.iter().sum::<f64>() / 3.0;
        let most = densities.iter().map(|density| (density - mean).abs()).fold(0.0, f64::max);
        damped += usize::from(most > limit);
        let joint = |class: usize| {
            let count = set.labels.iter().filter(|&&label| label == class as f64).count() as f64;
            (count + 1.0) / 303.0 * ((densities[class] - mean) * if most > limit { limit / most } else { 1.0 }).exp()
        };
        let total: f64 = (0..3).map(joint).sum();
        assert!((0..3).all(|class| (found[class] - joint(class) / total).abs() < 1e-9), "{found:?} {densities:?}");
    }
    assert!(damped == 1, "{damped} of three");
}

#[test]
fn it_learns_what_a_tree_can_say_and_nothing_from_noise() {
    let (set, unseen) = (sea(&[8.0], 60_000, 3), sea(&[8.0], 10_000, 4));
    let accuracy = |tree: &HoeffdingTreeModel| {
        let margins = Model::margins(tree, &unseen.matrix);
        margins.iter().zip(&unseen.labels).filter(|(margin, label)| (**margin > 0.0) == (**label == 1.0)).count() as f64 / 10_000.0
    };
    for prediction in [LeafPrediction::Majority, LeafPrediction::NaiveBayes, LeafPrediction::Adaptive] {
        let tree = learned(&set, 2, &HoeffdingTree { leaf_prediction: prediction, ..HoeffdingTree::default() });
        // A tenth of the labels is wrong: nothing does better than 0.9.
        assert!(accuracy(&tree) > 0.85, "{prediction:?}: {}", accuracy(&tree));
        assert_eq!(tree.switches(), 0);
        let importance = Online::importance(&tree);
        assert!(importance[0] > 5.0 * importance[2] && importance[1] > 5.0 * importance[2], "{importance:?}");
    }
    let mut noise = set;
    let mut rng = Rng::seeded(5);
    noise.labels.iter_mut().for_each(|label| *label = rng.below(2) as f64);
    assert_eq!(learned(&noise, 2, &HoeffdingTree::default()).leaves(), 1);
}

#[test]
fn it_grows_anew_where_the_stream_has_turned_round() {
    let set = turning(40_000, 20_000, 6);
    let judged = |parameters: &HoeffdingTree| {
        let mut tree = start(set.matrix.names(), 2, parameters).unwrap();
        let stretches = prequential(&mut tree, &set, 0, 5_000).unwrap().stretches;
        (tree.switches(), stretches[3].accuracy, stretches[7].accuracy)
    };
    let (switches, before, after) = judged(&HoeffdingTree::default());
    assert!(switches >= 1 && before > 0.85 && after > before - 0.03, "{switches} switches, {before} then {after}");
    let (switches, before, after) = judged(&plain());
    assert!(switches == 0 && before > 0.85 && after < before - 0.1, "a tree that never adapts: {before} then {after}");
}

#[test]
fn saved_and_loaded_it_goes_on_to_the_same_bytes() {
    let set = turning(16_000, 6_000, 7);
    let mut at_once = start(set.matrix.names(), 2, &HoeffdingTree::default()).unwrap();
    let mut resumed: Box<dyn Online> = Box::new(at_once.clone());
    at_once.learn(&set).unwrap();
    let mut alternates = 0;
    for first in (0..16_000).step_by(500) {
        resumed.learn(&set.slice(first..first + 500)).unwrap();
        let report = resumed.describe();
        let number = |name: &str| report["report"][name].as_u64().unwrap();
        alternates += usize::from(number("begun") > number("switched") + number("dropped"));
        resumed = load_online(&resumed.to_bytes()).unwrap();
    }
    assert!(alternates > 0, "none was saved with an alternate under way");
    assert_eq!(resumed.to_bytes(), Online::to_bytes(&at_once));
    let back = load(&resumed.to_bytes()).unwrap();
    assert_eq!(back.margin(&[0.3, 0.1]).to_bits(), at_once.margin(&[0.3, 0.1]).to_bits());
}

#[test]
fn reasons_add_up_for_two_classes_and_for_more() {
    let (two, three) = (turning(9_000, 4_000, 8), three_classes(9_000, 9));
    for (set, classes) in [(&two, 2), (&three, 3)] {
        for prediction in [LeafPrediction::Majority, LeafPrediction::Adaptive, LeafPrediction::NaiveBayes] {
            let tree = learned(set, classes, &HoeffdingTree { leaf_prediction: prediction, ..HoeffdingTree::default() });
            assert!(tree.root.depth() > 0);
            let (mut row, mut margins, mut contributions, mut probabilities) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            for r in 0..300 {
                set.matrix.row(r, &mut row);
                if r % 7 == 0 {
                    row[r % 2] = [f64::NAN, f64::INFINITY, 1e99, -1e300][r % 4];
                }
                tree.class_margins(&row, &mut margins);
                assert_eq!(margins.len(), if classes == 2 { 1 } else { 3 });
                for (of, margin) in margins.iter().enumerate() {
                    let base = Online::explain(&tree, &row, of, &mut contributions);
                    assert!((base + contributions.iter().sum::<f64>() - margin).abs() < 1e-9 * (1.0 + margin.abs()));
                }
                tree.class_probabilities(&row, &mut probabilities);
                assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                match classes {
                    2 => assert_eq!(probabilities[1], crate::math::sigmoid(margins[0])),
                    _ => assert!((probabilities[1].ln() - probabilities[0].ln() - margins[1] + margins[0]).abs() < 1e-9),
                }
            }
        }
    }
}

#[test]
fn limits_hold() {
    let set = turning(30_000, 10_000, 10);
    let small = learned(&set, 2, &HoeffdingTree { max_leaves: 4, ..HoeffdingTree::default() });
    assert!(small.leaves() <= 4 && small.leaves() == small.root.leaves());
    let flat = learned(&set, 2, &HoeffdingTree { max_depth: 2, ..HoeffdingTree::default() });
    assert_eq!(flat.root.depth(), 1);
    let whole = learned(&set, 2, &HoeffdingTree::default());
    assert_eq!(whole.leaves(), whole.root.leaves());
}

#[test]
fn a_tree_of_three_classes_is_no_model_of_one_output() {
    let tree = learned(&three_classes(500, 11), 3, &HoeffdingTree::default());
    assert!(tree.as_model().is_none());
    assert_eq!(load(&Online::to_bytes(&tree)).err(), Some(LearnError::SeveralClasses { classes: 3 }));
    assert!(matches!(start(Online::inputs(&tree), 1, &plain()), Err(LearnError::BadParameter { name: "classes", .. })));
    let mut tree = tree;
    assert!(matches!(tree.learn_one(&[0.0; 3], 3.0, 1.0), Err(LearnError::BadLabel { value: 3.0, .. })));
}

#[test]
fn damage_is_noticed() {
    let quick = HoeffdingTree { grace_period: 50.0, tau: 1.0, delta: 0.01, ..HoeffdingTree::default() };
    let tree = learned(&turning(600, 600, 12), 2, &quick);
    assert!((2..5).contains(&tree.leaves()), "{}", tree.leaves());
    check_damage_is_noticed(&tree);
}

#[test]
fn nonsense_is_refused() {
    let names = ["x".to_string()];
    for (parameters, name) in [
        (HoeffdingTree { grace_period: 0.0, ..plain() }, "grace_period"),
        (HoeffdingTree { delta: 1.0, ..plain() }, "delta"),
        (HoeffdingTree { tau: f64::NAN, ..plain() }, "tau"),
        (HoeffdingTree { max_depth: 0, ..plain() }, "max_depth"),
        (HoeffdingTree { max_leaves: 0, ..plain() }, "max_leaves"),
        (HoeffdingTree { drift_delta: Some(0.0), ..plain() }, "drift_delta"),
        (HoeffdingTree { drift_window: 0, ..plain() }, "drift_window"),
        (HoeffdingTree { switch_significance: 1.0, ..plain() }, "switch_significance"),
    ] {
        assert!(matches!(start(&names, 2, &parameters), Err(LearnError::BadParameter { name: found, .. }) if found == name), "{name}");
    }
    assert_eq!(start(&[], 2, &plain()).err(), Some(LearnError::NoColumns));
}
