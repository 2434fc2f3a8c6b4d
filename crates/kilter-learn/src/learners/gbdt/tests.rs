//! The learner as a whole: what it learns, what it promises, what it refuses.

use kilter_stats::Rng;

use super::boost;
use super::categories::Encoders;
use super::*;
use crate::format::tests::check_damage_is_noticed;
use crate::math::sigmoid;
use crate::matrix::tests::training_set;
use crate::metrics::auc;
use crate::{Learner, Logistic, Model, load};

/// Three useful columns with an interaction and a bend, one of them with missing values that tell something, and a useless one.
fn nonlinear(rows: usize, seed: u64) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let rows: Vec<Vec<f64>> = (0..rows)
        .map(|_| {
            let (a, b, c, noise) = (rng.normal(), rng.normal(), rng.exponential(1.0), rng.uniform());
            let missing = rng.bernoulli(0.15);
            let margin = 2.0 * a * b + if c > 1.5 { 1.5 } else { -0.5 } + if missing { 2.0 } else { 0.0 } - 1.0;
            vec![a, if missing { f64::NAN } else { b }, c, noise, f64::from(u8::from(rng.bernoulli(sigmoid(margin))))]
        })
        .collect();
    training_set(&rows)
}

fn quick() -> Gbdt {
    Gbdt { trees: 40, learning_rate: 0.1, early_stopping: None, ..Gbdt::default() }
}

fn scores(model: &dyn Model, set: &TrainingSet) -> Vec<f64> {
    let mut row = Vec::new();
    (0..set.rows())
        .map(|i| {
            set.matrix.row(i, &mut row);
            model.margin(&row)
        })
        .collect()
}

#[test]
fn learns_what_a_straight_line_cannot() {
    let (train, test) = (nonlinear(8000, 1), nonlinear(4000, 2));
    let trees = fit(&train, &quick()).unwrap();
    let line = crate::logistic::fit(&train, &Logistic::default()).unwrap();
    let (tree_auc, line_auc) = (auc(&scores(&trees, &test), &test.labels), auc(&scores(&line, &test), &test.labels));
    assert!(tree_auc > 0.82 && tree_auc > line_auc + 0.15, "trees {tree_auc}, line {line_auc}");
    let importance = trees.importance();
    assert!((0..3).all(|useful| importance[useful] > 2.0 * importance[3]), "{importance:?}");
    // Probabilities keep their promise on average.
    let promised: f64 = scores(&trees, &test).iter().map(|&margin| sigmoid(margin)).sum();
    assert!((promised / test.positives() as f64 - 1.0).abs() < 0.05);
}

#[test]
fn same_bytes_on_any_number_of_threads() {
    let mut set = nonlinear(90_000, 3);
    let mut rng = Rng::seeded(5);
    let parameters = [
        Gbdt { trees: 6, ..quick() },
        Gbdt { trees: 6, bagging_fraction: 0.7, column_fraction: 0.6, monotone: vec![0, 0, 1, 0], ..quick() },
        Gbdt { trees: 8, early_stopping: Some(3), learning_rate: 1.0, scale_positive: 3.0, ..quick() },
    ];
    for parameters in parameters {
        let bytes = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| fit(&set, &parameters).unwrap().to_bytes())
        };
        let one = bytes(1);
        assert!(one == bytes(2) && one == bytes(3) && one == bytes(8), "{parameters:?}");
        set.weights = Some((0..set.rows()).map(|_| rng.exponential(1.0)).collect());
    }
}

#[test]
fn a_loaded_model_scores_and_explains_bit_for_bit_alike() {
    let set = nonlinear(3000, 4);
    let model = fit(&set, &Gbdt { early_stopping: Some(10), ..quick() }).unwrap();
    let back = load(&model.to_bytes()).unwrap();
    assert_eq!(back.to_bytes(), model.to_bytes());
    assert_eq!((back.kind(), back.inputs(), back.describe()), (model.kind(), model.inputs(), model.describe()));
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&scores(back.as_ref(), &set)), bits(&scores(&model, &set)));
    let (mut row, mut a, mut b) = (Vec::new(), Vec::new(), Vec::new());
    for i in 0..200 {
        set.matrix.row(i, &mut row);
        let (base_a, base_b) = (model.explain(&row, &mut a), back.explain(&row, &mut b));
        assert_eq!((base_a.to_bits(), bits(&a)), (base_b.to_bits(), bits(&b)));
        assert!((base_a + a.iter().sum::<f64>() - model.margin(&row)).abs() < 1e-9);
    }
}

#[test]
fn the_base_of_explanations_is_the_mean_margin() {
    let set = nonlinear(3000, 4);
    let model = fit(&set, &quick()).unwrap();
    let all = scores(&model, &set);
    let base = model.explain(&[0.0; 4], &mut Vec::new());
    assert!((base - all.iter().sum::<f64>() / all.len() as f64).abs() < 1e-9);
}

#[test]
fn every_damaged_byte_is_noticed() {
    let set = nonlinear(300, 4);
    check_damage_is_noticed(&fit(&set, &Gbdt { trees: 2, leaves: 4, ..quick() }).unwrap());
}

#[test]
fn walking_a_row_equals_the_flat_forest() {
    let set = nonlinear(2000, 6);
    for trees in [1, 7, 8, 9, 20] {
        let model = fit(&set, &Gbdt { trees, ..quick() }).unwrap();
        let mut row = Vec::new();
        for i in 0..300 {
            set.matrix.row(i, &mut row);
            let mut margin = model.margin(&[f64::NAN; 4]) - model.margin(&[f64::NAN; 4]);
            for index in 0..model.trees() {
                let tree = model.tree(index);
                let mut at = tree.root();
                while let tree::Child::Node(node) = at {
                    let node = &tree.nodes[node];
                    at = if node.goes_left(row[node.column as usize]) { node.left() } else { node.right() };
                }
                if let tree::Child::Leaf(leaf) = at {
                    margin += tree.leaves[leaf];
                }
            }
            let base = model.describe()["base_margin"].as_f64().unwrap();
            assert!((base + margin - model.margin(&row)).abs() < 1e-12);
        }
    }
}

#[test]
fn constraints_hold_wherever_one_walks() {
    let set = nonlinear(6000, 7);
    for monotone in [vec![1, 0, -1, 1], vec![-1, -1, 1, 0]] {
        let parameters = Gbdt { monotone: monotone.clone(), min_leaf_rows: 1, lambda_l2: 0.0, bagging_fraction: 0.8, ..quick() };
        let model = fit(&set, &parameters).unwrap();
        let mut rng = Rng::seeded(8);
        for _ in 0..300 {
            let mut row: Vec<f64> = (0..4).map(|_| if rng.bernoulli(0.1) { f64::NAN } else { 2.0 * rng.normal() }).collect();
            for column in 0..4 {
                let kept = row[column];
                let walk = (-60..=60).map(|step| {
                    row[column] = f64::from(step) * 0.1;
                    f64::from(monotone[column]) * model.margin(&row)
                });
                let walk: Vec<f64> = walk.collect();
                assert!(walk.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12), "column {column} of {monotone:?}");
                row[column] = kept;
            }
        }
    }
}

#[test]
fn early_stopping_keeps_the_best_number_of_trees() {
    let set = nonlinear(3000, 9);
    let parameters = Gbdt { trees: 400, learning_rate: 0.3, early_stopping: Some(15), validation_fraction: 0.3, ..quick() };
    let model = fit(&set, &parameters).unwrap();
    let report = model.report();
    assert!(report.stopped_early && report.trees_grown == report.best_iteration + 15, "{report:?}");
    assert_eq!((model.trees(), report.rows, report.validation_rows), (report.best_iteration, 2100, 900));
    let best = report.validation_loss[report.best_iteration - 1];
    assert!(report.validation_loss.iter().all(|&loss| loss >= best));
    // The reported loss is that of the kept model on the last rows.
    let held_out = set.slice(2100..3000);
    let probabilities: Vec<f64> = scores(&model, &held_out).iter().map(|&margin| sigmoid(margin)).collect();
    assert!((crate::metrics::log_loss(&probabilities, &held_out.labels) - best).abs() < 1e-12);
    // A validation set of one's own does the same.
    let own = fit_with_validation(&set.slice(0..2100), &held_out, &parameters).unwrap();
    assert_eq!(own.to_bytes(), model.to_bytes());
    assert_eq!(model.describe()["report"]["best_iteration"], report.best_iteration);
}

#[test]
fn leaves_have_enough_rows_and_trees_their_limits() {
    let set = nonlinear(4000, 10);
    let model = fit(&set, &Gbdt { min_leaf_rows: 150, leaves: 12, max_depth: Some(4), ..quick() }).unwrap();
    for index in 0..model.trees() {
        let tree = model.tree(index);
        assert!(tree.leaf_rows.iter().all(|&rows| rows >= 150) && tree.leaves.len() <= 12 && tree.depth() <= 4);
        assert_eq!(tree.leaf_rows.iter().sum::<u32>(), 4000);
    }
}

#[test]
fn missing_values_follow_what_was_learned_or_the_larger_side() {
    // Missing means positive.
    let row = |value: f64, label: f64| vec![value, label];
    let rows: Vec<Vec<f64>> = (0..400)
        .map(|i| match i % 4 {
            0 => row(f64::NAN, 1.0),
            1 => row(5.0, f64::from(u8::from(i % 8 == 1))),
            _ => row(1.0, 0.0),
        })
        .collect();
    let model = fit(&training_set(&rows), &Gbdt { trees: 20, ..quick() }).unwrap();
    assert!(model.margin(&[f64::NAN]) > model.margin(&[5.0]) && model.margin(&[5.0]) > model.margin(&[1.0]));
    // None missing in training: the side with more rows, here the one of low values.
    let rows: Vec<Vec<f64>> = (0..400).map(|i| row(f64::from(i), f64::from(u8::from(i >= 300)))).collect();
    let model = fit(&training_set(&rows), &Gbdt { trees: 1, leaves: 2, ..quick() }).unwrap();
    assert_eq!(model.margin(&[f64::NAN]), model.margin(&[0.0]));
    let rows: Vec<Vec<f64>> = (0..400).map(|i| row(f64::from(i), f64::from(u8::from(i >= 100)))).collect();
    let model = fit(&training_set(&rows), &Gbdt { trees: 1, leaves: 2, ..quick() }).unwrap();
    assert_eq!(model.margin(&[f64::NAN]), model.margin(&[399.0]));
}

#[test]
fn weights_and_odd_columns() {
    let mut rng = Rng::seeded(12);
    let rows: Vec<Vec<f64>> = (0..2000)
        .map(|i| {
            let x = rng.normal();
            let odd = if i % 3 == 0 { f64::INFINITY } else { f64::NEG_INFINITY };
            vec![7.0, f64::NAN, odd, x, f64::from(u8::from(rng.bernoulli(sigmoid(x))))]
        })
        .collect();
    let set = training_set(&rows);
    let plain = fit(&set, &quick()).unwrap();
    assert_eq!(plain.importance()[..2], [0.0, 0.0]);
    // Rows without weight are as if absent from sums: labels turned around there change nothing learned about the rest.
    let mut weighted = set.clone();
    weighted.weights = Some((0..2000).map(|i| if i % 2 == 0 { 1e-3 } else { 0.0 }).collect());
    let mut turned = weighted.clone();
    (1..2000).step_by(2).for_each(|i| turned.labels[i] = 1.0 - turned.labels[i]);
    let light = Gbdt { lambda_l2: 0.0, min_child_hessian: 0.0, ..quick() };
    let (a, b) = (fit(&weighted, &light).unwrap(), fit(&turned, &light).unwrap());
    assert_eq!(scores(&a, &set), scores(&b, &set));
    // More weight on positives raises the score.
    let heavy = fit(&set, &Gbdt { scale_positive: 5.0, ..quick() }).unwrap();
    assert!(heavy.margin(&[7.0, f64::NAN, 0.0, 0.0]) > plain.margin(&[7.0, f64::NAN, 0.0, 0.0]) + 1.0);
}

#[test]
fn columns_that_tell_nothing_give_the_base_rate() {
    let rows: Vec<Vec<f64>> = (0..100).map(|i| vec![1.0, f64::from(u8::from(i % 4 == 0))]).collect();
    let model = fit(&training_set(&rows), &quick()).unwrap();
    assert_eq!(model.trees(), 0);
    assert!((model.probability(&[1.0]) - 0.25).abs() < 1e-12);
    let mut contributions = Vec::new();
    assert_eq!(model.explain(&[1.0], &mut contributions), model.margin(&[3.0]));
    assert_eq!(contributions, &[0.0]);
    assert_eq!(load(&model.to_bytes()).unwrap().margin(&[1.0]), model.margin(&[1.0]));
}

#[test]
fn nonsense_is_refused_with_its_name() {
    let set = nonlinear(200, 11);
    let name = |parameters: Gbdt| match fit(&set, &parameters) {
        Err(LearnError::BadParameter { name, .. }) => name,
        other => panic!("{:?}", other.map(|model| model.trees())),
    };
    assert_eq!(name(Gbdt { trees: 0, ..quick() }), "trees");
    assert_eq!(name(Gbdt { leaves: 1, ..quick() }), "leaves");
    assert_eq!(name(Gbdt { learning_rate: f64::NAN, ..quick() }), "learning_rate");
    assert_eq!(name(Gbdt { bins: 256, ..quick() }), "bins");
    assert_eq!(name(Gbdt { lambda_l2: -1.0, ..quick() }), "lambda_l2");
    assert_eq!(name(Gbdt { bagging_fraction: 0.0, ..quick() }), "bagging_fraction");
    assert_eq!(name(Gbdt { column_fraction: 1.1, ..quick() }), "column_fraction");
    assert_eq!(name(Gbdt { early_stopping: Some(5), validation_fraction: 1.0, ..quick() }), "validation_fraction");
    assert_eq!(name(Gbdt { scale_positive: 0.0, ..quick() }), "scale_positive");
    assert_eq!(name(Gbdt { monotone: vec![2, 0, 0, 0], ..quick() }), "monotone");
    assert_eq!(
        fit(&set, &Gbdt { monotone: vec![1], ..quick() }).err(),
        Some(LearnError::LengthMismatch { what: "monotone", expected: 4, found: 1 })
    );
    let one = TrainingSet { labels: vec![0.0; 200], ..set.clone() };
    assert_eq!(fit(&one, &quick()).err(), Some(LearnError::OneClass { label: 0, rows: 200 }));
    assert_eq!(fit(&set.slice(0..0), &quick()).err(), Some(LearnError::NoRows));
    let early = Gbdt { early_stopping: Some(5), ..quick() };
    assert_eq!(fit(&set.slice(0..1), &early).err(), Some(LearnError::EmptyValidation { rows: 1, fraction: 0.1 }));
    let renamed = training_set(&[vec![1.0, 0.0], vec![2.0, 1.0]]);
    assert!(matches!(fit_with_validation(&set, &renamed, &early), Err(LearnError::DifferentColumns { .. })));
}

#[test]
fn bins_of_few_rows_hold_eight_of_them() {
    let set = nonlinear(3_000, 5);
    for (rows, given, bins) in [(3_000, 255, 255), (2_040, 255, 255), (1_000, 255, 125), (1_000, 100, 100), (300, 255, 64), (40, 255, 40)] {
        let parameters = Gbdt { bins: given, ..quick() };
        let encoders = Encoders::learn(&set, 0..rows, &parameters).unwrap();
        let (_, cuts, _) = boost::prepare(&encoders, &set, 0..rows, &parameters, |input| input).unwrap();
        assert_eq!(usize::from(cuts[0].last_bin()), bins, "{rows} rows, {given} bins");
    }
}

/// Some columns of many lie in more tiles or fewer from tree to tree, and histograms are used again.
#[test]
fn some_of_many_columns_at_a_time() {
    let mut rng = Rng::seeded(8);
    let rows: Vec<Vec<f64>> = (0..400)
        .map(|_| {
            let mut row: Vec<f64> = (0..200).map(|_| rng.normal()).collect();
            row.push(f64::from(u8::from(row[3] + row[150] + rng.normal() > 0.0)));
            row
        })
        .collect();
    let model = fit(&training_set(&rows), &Gbdt { trees: 40, column_fraction: 0.3, early_stopping: None, ..Gbdt::default() }).unwrap();
    assert_eq!(model.trees(), 40);
}

#[test]
fn a_learner_is_named_in_a_definition() {
    let learner: Learner = serde_json::from_str(r#"{"kind": "gbdt", "trees": 3, "early_stopping": null}"#).unwrap();
    let model = learner.fit(&nonlinear(500, 1)).unwrap();
    assert_eq!((model.kind(), model.describe()["trees"].as_u64()), ("gbdt", Some(3)));
    assert!(serde_json::from_str::<Learner>(r#"{"kind": "gbdt", "tree": 3}"#).unwrap_err().to_string().contains("tree"));
    assert!(serde_json::from_str::<Learner>(r#"{"kind": "oracle"}"#).is_err());
    let line: Learner = serde_json::from_str(r#"{"kind": "logistic"}"#).unwrap();
    assert_eq!(line, Learner::Logistic(Logistic::default()));
}

#[test]
fn many_rows_at_once_have_the_bits_of_one_row() {
    let set = nonlinear(1500, 31);
    for leaves in [7, 31, 40, 300] {
        let model = fit(&set, &Gbdt { leaves, min_leaf_rows: 1, ..quick() }).unwrap();
        let alone = scores(&model, &set);
        let bits = |numbers: Vec<f64>| numbers.into_iter().map(f64::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(model.probabilities(&set.matrix)), bits(alone.iter().map(|&margin| sigmoid(margin)).collect()), "{leaves} leaves");
        assert_eq!(bits(model.margins(&set.matrix)), bits(alone), "{leaves} leaves");
    }
}
