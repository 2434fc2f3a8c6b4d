//! Leaf values learned anew, against training and against sums written out.

use kilter_stats::Rng;

use super::super::{Objective, fit};
use super::*;
use crate::Link;
use crate::matrix::tests::training_set;

/// Amounts that grow with the first column and with a category, times a factor.
fn rows(count: usize, seed: u64, factor: f64) -> TrainingSet {
    let mut rng = Rng::seeded(seed);
    let row = |_| {
        let (a, b, kind) = (rng.uniform(), rng.normal(), rng.below(5) as f64);
        vec![a, if rng.bernoulli(0.1) { f64::NAN } else { b }, kind, factor * (1.0 + 3.0 * a + 0.5 * kind) * (0.2 * rng.normal()).exp()]
    };
    training_set(&(0..count).map(row).collect::<Vec<_>>())
}

fn as_classes(set: TrainingSet) -> TrainingSet {
    TrainingSet { labels: set.labels.iter().map(|&y| f64::from(u8::from(y > 3.5))).collect(), ..set }
}

const OBJECTIVES: [Objective; 7] = [
    Objective::Binary,
    Objective::SquaredError,
    Objective::AbsoluteError,
    Objective::Huber { delta: 1.0 },
    Objective::Quantile { level: 0.8 },
    Objective::Poisson,
    Objective::Gamma,
];

fn parameters(objective: Objective) -> Gbdt {
    let categorical = vec!["x2".to_string()];
    Gbdt { objective, trees: 12, learning_rate: 0.2, early_stopping: None, min_group_rows: 20, categorical, ..Gbdt::default() }
}

fn set_for(objective: Objective, set: TrainingSet) -> TrainingSet {
    if objective.link() == Link::Logit { as_classes(set) } else { set }
}

#[test]
fn the_rows_of_the_training_give_its_leaves_again() {
    for objective in OBJECTIVES {
        let set = set_for(objective, rows(1_500, 1, 1.0));
        let weights = (0..set.rows()).map(|row| 0.5 + (row % 4) as f64).collect();
        for set in [TrainingSet { weights: Some(weights), ..set.clone() }, set] {
            let model = fit(&set, &parameters(objective)).unwrap();
            let again = refit(&model, &set, 0.0).unwrap();
            assert_eq!(model.parts().0, again.parts().0, "{objective:?}");
            assert!(model.parts().1 == again.parts().1, "{objective:?}");
            let (left, back) = (refit(&model, &set, 1.0).unwrap(), super::super::open(&again.to_bytes()).unwrap());
            assert!(model.parts() == left.parts() && back.parts() == again.parts());
            assert_eq!(back.report().refit, Some(Refit { rows: 1_500, decay_rate: 0.0 }));
        }
    }
}

#[test]
fn a_leaf_is_drawn_towards_what_new_rows_say() {
    let (old, new) = (rows(1_500, 2, 1.0), rows(900, 3, 2.0));
    let parameters = Gbdt { categorical: Vec::new(), trees: 3, lambda_l2: 2.0, ..parameters(Objective::SquaredError) };
    let model = fit(&old, &parameters).unwrap();
    let decay = 0.7;
    let refitted = refit(&model, &new, decay).unwrap();
    // Written out: sums over the rows of each leaf, found by walking the nodes.
    let mean = new.labels.iter().sum::<f64>() / 900.0;
    let mut scores = vec![decay * model.parts().0 + (1.0 - decay) * mean; 900];
    for (tree, found) in model.parts().1.iter().zip(refitted.parts().1) {
        let leaf = |row: usize| {
            let mut at = tree.root();
            while let Child::Node(node) = at {
                let node = &tree.nodes[node];
                at = if node.goes_left(new.matrix.value(row, node.column as usize)) { node.left() } else { node.right() };
            }
            match at {
                Child::Leaf(leaf) => leaf,
                Child::Node(_) => unreachable!(),
            }
        };
        let of_row: Vec<usize> = (0..900).map(leaf).collect();
        for (leaf, (&before, &after)) in tree.leaves.iter().zip(&found.leaves).enumerate() {
            let own: Vec<f64> = (0..900).filter(|&row| of_row[row] == leaf).map(|row| new.labels[row] - scores[row]).collect();
            assert!(!own.is_empty());
            let expected = decay * before + (1.0 - decay) * 0.2 * own.iter().sum::<f64>() / (own.len() as f64 + 2.0);
            assert!((after - expected).abs() < 1e-6 * (1.0 + expected.abs()), "{after} {expected}");
        }
        (0..900).for_each(|row| scores[row] += found.leaves[of_row[row]]);
        assert!(tree.nodes == found.nodes && tree.leaf_rows == found.leaf_rows && tree.sets == found.sets);
    }
    // The whole way: the level that the new rows have.
    let all = refit(&model, &new, 0.0).unwrap().margins(&new.matrix).iter().sum::<f64>() / 900.0;
    assert!((all / mean - 1.0).abs() < 0.01, "{all} {mean}");
}

#[test]
fn a_leaf_without_new_rows_keeps_its_value() {
    let old = rows(1_500, 4, 1.0);
    let model = fit(&old, &Gbdt { monotone: vec![0, 0, 0], ..parameters(Objective::Gamma) }).unwrap();
    let low: Vec<usize> = (0..1_500).filter(|&row| old.matrix.value(row, 0) < 0.2).collect();
    let new = TrainingSet::new(old.matrix.select(&low), low.iter().map(|&row| 3.0 * old.labels[row]).collect());
    let refitted = refit(&model, &new, 0.3).unwrap();
    let (mut kept, mut moved) = (0, 0);
    for (tree, found) in model.parts().1.iter().zip(refitted.parts().1) {
        let reached: Vec<usize> = (0..new.rows())
            .map(|row| {
                let mut values = Vec::new();
                new.matrix.row(row, &mut values);
                model.encoders().encode(&mut values);
                tree.leaf_of_values(|column| values[column])
            })
            .collect();
        for leaf in 0..tree.leaves.len() {
            match reached.contains(&leaf) {
                true => moved += usize::from(tree.leaves[leaf] != found.leaves[leaf]),
                false => {
                    assert!((tree.leaves[leaf] - found.leaves[leaf]).abs() <= 1e-15 * tree.leaves[leaf].abs());
                    kept += 1;
                }
            }
        }
    }
    assert!(kept > 10 && moved > 10, "{kept} {moved}");
}

#[test]
fn directions_hold_whatever_the_new_rows_say() {
    for objective in OBJECTIVES {
        let set = set_for(objective, rows(2_000, 5, 1.0));
        let parameters = Gbdt { monotone: vec![1, -1, 0], ..parameters(objective) };
        let model = fit(&set, &parameters).unwrap();
        // The reverse of what was learned: every direction would turn round.
        let upside_down = {
            let most = set.labels.iter().copied().fold(0.0, f64::max);
            TrainingSet {
                labels: set
                    .labels
                    .iter()
                    .map(|y| 1e-9 + most - y)
                    .map(|y| if objective == Objective::Binary { y.round() } else { y })
                    .collect(),
                ..set.clone()
            }
        };
        for decay in [0.0, 0.5] {
            let refitted = refit(&model, &upside_down, decay).unwrap();
            assert!(refitted.report().certificate.as_ref().is_some_and(|certificate| certificate.splits > 0), "{objective:?}");
            assert_ne!(model.parts().1, refitted.parts().1);
            let walk: Vec<f64> = (0..200).map(|i| refitted.margin(&[f64::from(i) * 0.005, 0.3, 2.0])).collect();
            assert!(walk.windows(2).all(|pair| pair[0] <= pair[1]), "{objective:?}");
        }
    }
}

#[test]
fn same_bytes_on_any_number_of_threads() {
    let (old, new) = (rows(20_000, 6, 1.0), rows(20_000, 7, 1.5));
    let model = fit(&old, &parameters(Objective::Poisson)).unwrap();
    let bytes = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| refit(&model, &new, 0.5).unwrap().to_bytes())
    };
    let one = bytes(1);
    assert!(one == bytes(2) && one == bytes(8));
}

#[test]
fn what_cannot_be_refitted_is_refused() {
    let set = rows(300, 8, 1.0);
    let model = fit(&set, &parameters(Objective::Poisson)).unwrap();
    for decay in [-0.1, 1.1, f64::NAN] {
        assert!(matches!(refit(&model, &set, decay), Err(LearnError::BadParameter { name: "decay_rate", .. })));
    }
    let other = training_set(&[vec![1.0, 2.0, 3.0]]);
    assert!(matches!(refit(&model, &other, 0.5), Err(LearnError::DifferentInputs { .. })));
    let with = |labels: Vec<f64>| refit(&model, &TrainingSet { labels, ..set.clone() }, 0.5).err();
    assert!(matches!(with(vec![-1.0; 300]), Some(LearnError::BadLabel { .. })));
    assert_eq!(with(vec![0.0; 300]), Some(LearnError::AllZero { rows: 300 }));
}
