//! What holds for models of oblivious trees; that each level is the best there is, `oracle_tests` says.

use kilter_stats::Rng;

use super::super::{Gbdt, GbdtModel, Growth, MonotoneMethod, fit, fit_classes};
use crate::learners::gbdt::tree::{Child, Tree};
use crate::matrix::tests::training_set;
use crate::{ClassLink, LearnError, Model, TrainingSet, load, metrics};

fn rows(count: usize, seed: u64) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let row = |_| {
        let x = [rng.normal(), rng.normal(), rng.exponential(1.0), rng.below(30) as f64];
        let missing = rng.bernoulli(0.15);
        let margin = 2.0 * x[0] * x[1] + if x[2] > 1.0 { 1.5 } else { -0.5 } + if missing { 1.5 } else { 0.0 } + (3.0 * x[3]).sin();
        vec![x[0], if missing { f64::NAN } else { x[1] }, x[2], x[3], f64::from(u8::from(margin + rng.normal() > 0.5))]
    };
    training_set(&(0..count).map(row).collect::<Vec<_>>())
}

fn quick() -> Gbdt {
    Gbdt { trees: 40, learning_rate: 0.1, leaves: 64, growth: Growth::Oblivious, early_stopping: None, ..Gbdt::default() }
}

/// Different splits of a tree.
fn splits(tree: &Tree) -> usize {
    let mut found: Vec<(u32, u64, bool)> =
        tree.nodes.iter().map(|node| (node.column, node.threshold.to_bits(), node.missing_left)).collect();
    found.sort_unstable();
    found.dedup();
    found.len()
}

fn loss(model: &GbdtModel, set: &TrainingSet) -> f64 {
    metrics::log_loss(&model.probabilities(&set.matrix), &set.labels)
}

#[test]
fn trees_ask_few_questions_and_learn() {
    let (train, test) = (rows(8_000, 1), rows(4_000, 2));
    let model = fit(&train, &quick()).unwrap();
    assert_eq!(model.trees(), 40);
    for index in 0..40 {
        let tree = model.tree(index);
        // A level is one question, and adds to a leaf's depth at most one.
        assert!(tree.depth() <= splits(tree) && splits(tree) <= 6 && tree.leaves.len() <= 64, "{} questions", splits(tree));
        assert!(tree.leaf_rows.iter().all(|&rows| rows >= 20));
    }
    assert!((0..40).any(|index| model.tree(index).leaves.len() > 32));
    let leaf_wise = fit(&train, &Gbdt { growth: Growth::LeafWise, leaves: 31, ..quick() }).unwrap();
    let stumps = fit(&train, &Gbdt { leaves: 2, ..quick() }).unwrap();
    let [own, other, least] = [&model, &leaf_wise, &stumps].map(|model| loss(model, &test));
    assert!(own < 0.95 * least && own < 1.05 * other, "{own}, leaf by leaf {other}, of two leaves {least}");
    // A tree of two leaves is the same either way.
    let same = fit(&train, &Gbdt { leaves: 2, growth: Growth::LeafWise, ..quick() }).unwrap();
    assert_eq!(stumps.margins(&test.matrix), same.margins(&test.matrix));
}

#[test]
fn they_are_trees_like_others() {
    let set = rows(3_000, 3);
    let parameters = Gbdt { categorical: vec!["x3".into()], interactions: vec![vec!["x0".into(), "x1".into()]], ..quick() };
    let model = fit(&set, &parameters).unwrap();
    assert!((0..model.trees()).all(|index| !model.tree(index).has_sets()), "categories are mean labels");
    let back = load(&model.to_bytes()).unwrap();
    let (mut row, mut contributions) = (Vec::new(), Vec::new());
    for r in 0..200 {
        set.matrix.row(r, &mut row);
        assert_eq!(back.margin(&row).to_bits(), model.margin(&row).to_bits());
        let base = model.explain(&row, &mut contributions);
        assert!((base + contributions.iter().sum::<f64>() - model.margin(&row)).abs() < 1e-9);
    }
    for index in 0..model.trees() {
        let tree = model.tree(index);
        let mut open = vec![(tree.root(), [false; 2])];
        while let Some((at, mut groups)) = open.pop() {
            assert!(groups != [true; 2], "a path of both groups");
            if let Child::Node(node) = at {
                let node = &tree.nodes[node];
                groups[usize::from(node.column > 1)] = true;
                open.extend([node.left(), node.right()].map(|child| (child, groups)));
            }
        }
    }
    let parameters = &Gbdt { bagging_fraction: 0.7, column_fraction: 0.6, ..parameters };
    let big = rows(50_000, 4);
    let bytes = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| fit(&big, &Gbdt { trees: 5, ..parameters.clone() }).unwrap().to_bytes())
    };
    assert!(bytes(1) == bytes(2) && bytes(1) == bytes(8));
}

#[test]
fn they_keep_directions() {
    let set = rows(4_000, 5);
    for method in [MonotoneMethod::Basic, MonotoneMethod::Intermediate, MonotoneMethod::Advanced] {
        let parameters = Gbdt { monotone: vec![1, -1, 1, 0], monotone_method: method, min_leaf_rows: 3, ..quick() };
        let model = fit(&set, &parameters).unwrap();
        assert!(model.report().certificate.as_ref().is_some_and(|seen| seen.splits > model.trees()), "{method:?}");
        assert!(loss(&model, &set) < 0.6, "{method:?}: {}", loss(&model, &set));
    }
}

#[test]
fn several_classes_take_no_categories_by_sets() {
    let mut set = rows(2_000, 6);
    set.labels = (0..2_000).map(|row| f64::from(row % 3)).collect();
    let classes: Vec<String> = ["a", "b", "c"].map(String::from).to_vec();
    let fit = |categorical: Vec<String>, link| fit_classes(&set, &classes, link, &Gbdt { categorical, trees: 3, ..quick() });
    let refused = fit(vec!["x3".into()], ClassLink::Softmax).err().unwrap();
    assert!(matches!(refused, LearnError::BadParameter { name: "categorical", .. }), "{refused}");
    assert!(fit(vec!["x3".into()], ClassLink::OneVsAll).is_ok() && fit(Vec::new(), ClassLink::Softmax).is_ok());
}
