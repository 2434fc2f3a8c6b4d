//! Every way of scoring gives the bits of a plain walk, on random forests and on rows made of their thresholds.

use kilter_stats::Rng;

use super::super::tree::{Forest, Node};
use super::*;

/// The levels this processor has.
fn levels() -> Vec<Level> {
    match Level::best() {
        Level::Avx512 => vec![Level::Portable, Level::Avx2, Level::Avx512],
        Level::Avx2 => vec![Level::Portable, Level::Avx2],
        Level::Portable => vec![Level::Portable],
    }
}

fn threshold(rng: &mut Rng) -> f64 {
    match rng.below(12) {
        0 => 0.0,
        1 => -0.0,
        2 => f64::INFINITY,
        3 => f64::NEG_INFINITY,
        4 => f64::MIN_POSITIVE,
        _ => rng.normal(),
    }
}

/// A tree of so many leaves, each split at a random leaf.
fn random_tree(rng: &mut Rng, columns: usize, leaves: usize) -> Tree {
    let mut tree = Tree { nodes: Vec::new(), leaves: vec![rng.normal()], leaf_rows: vec![1], ..Tree::default() };
    let mut above: Vec<Option<(usize, bool)>> = vec![None];
    for index in 0..leaves - 1 {
        let leaf = rng.below(tree.leaves.len() as u64) as usize;
        let mut node = Node::new(rng.below(columns as u64) as usize, threshold(rng), rng.bernoulli(0.5), 1.0, 2);
        node.set_left(Child::Leaf(leaf));
        node.set_right(Child::Leaf(tree.leaves.len()));
        if let Some((parent, left)) = above[leaf] {
            let parent: &mut Node = &mut tree.nodes[parent];
            if left { parent.set_left(Child::Node(index)) } else { parent.set_right(Child::Node(index)) }
        }
        tree.nodes.push(node);
        above[leaf] = Some((index, true));
        above.push(Some((index, false)));
        tree.leaves.push(rng.normal());
        tree.leaf_rows.push(1);
    }
    tree
}

fn value(rng: &mut Rng, trees: &[Tree]) -> f64 {
    let tree = &trees[rng.below(trees.len() as u64) as usize];
    let split = if tree.nodes.is_empty() { 0.5 } else { tree.nodes[rng.below(tree.nodes.len() as u64) as usize].threshold };
    match rng.below(9) {
        0 => f64::NAN,
        1 => f64::INFINITY,
        2 => f64::NEG_INFINITY,
        3 => -0.0,
        4 => split,
        5 => split.next_up(),
        6 => split.next_down(),
        7 => -f64::NAN,
        _ => rng.normal(),
    }
}

/// Scores rows in every way there is and compares with the walk; tells whether the forest had a plan and masks.
fn check(trees: &[Tree], columns: usize, rows: usize, rng: &mut Rng) -> (bool, bool) {
    let base = rng.normal();
    let mut matrix = Matrix::with_columns((0..columns).map(|i| format!("x{i}")).collect());
    let mut row = Vec::new();
    for _ in 0..rows {
        row.clear();
        row.extend((0..columns).map(|_| value(rng, trees)));
        matrix.push_row(&row);
    }
    let forest = Forest::new(trees);
    let mut walked = Vec::new();
    for r in 0..rows {
        matrix.row(r, &mut row);
        walked.push(forest.sum(base, &row).to_bits());
    }
    let mut had = (false, false);
    for level in levels() {
        let Some(plan) = Plan::new(trees, level) else { continue };
        had = (true, !plan.masks.is_empty());
        for chunk in [1, 63, 64, 65, rows.max(1)] {
            let mut found = Vec::new();
            for start in (0..rows).step_by(chunk) {
                plan.margins(base, &matrix, start..rows.min(start + chunk), &mut found);
            }
            assert!(found.iter().map(|f| f.to_bits()).eq(walked.iter().copied()), "{level:?}, {chunk} rows at a time");
        }
        for (r, &expected) in walked.iter().enumerate() {
            matrix.row(r, &mut row);
            let found = plan.margin(base, &row);
            assert_eq!(found.is_some(), level == Level::Avx512 && had.1, "{level:?}");
            assert!(found.is_none_or(|found| found.to_bits() == expected), "{level:?}, row {r} alone");
        }
    }
    had
}

#[test]
fn every_way_gives_the_bits_of_a_walk() {
    let mut rng = Rng::seeded(11);
    let shapes = [(1, 1, 1), (1, 1, 2), (3, 7, 31), (28, 9, 32), (28, 8, 33), (40, 5, 100), (300, 4, 256), (300, 3, 300)];
    let expected = [true, true, true, true, false, false, false, false];
    for ((columns, count, leaves), masks) in shapes.into_iter().zip(expected) {
        for _ in 0..6 {
            let trees: Vec<Tree> = (0..count).map(|_| random_tree(&mut rng, columns, leaves)).collect();
            assert_eq!(check(&trees, columns, 150, &mut rng), (leaves <= 256, masks), "{columns} columns, {count} trees of {leaves}");
        }
    }
    // Trees of unlike sizes, single leaves among them.
    for _ in 0..20 {
        let trees: Vec<Tree> = (0..7)
            .map(|_| {
                let leaves = 1 + rng.below(32) as usize;
                random_tree(&mut rng, 9, leaves)
            })
            .collect();
        assert_eq!(check(&trees, 9, 70, &mut rng), (true, true));
    }
}

#[test]
fn more_thresholds_than_a_byte_counts() {
    let mut rng = Rng::seeded(12);
    let trees: Vec<Tree> = (0..60).map(|_| random_tree(&mut rng, 1, 32)).collect();
    let plan = Plan::new(&trees, Level::Portable).unwrap();
    assert!(plan.columns.len() > 2, "{}", plan.columns.len());
    assert_eq!(check(&trees, 1, 300, &mut rng), (true, true));
}

#[test]
fn thresholds_that_fill_blocks_exactly() {
    for count in [1, 15, 16, 17, 32, 239, 240, 241, 253, 254] {
        let thresholds: Vec<f64> = (0..count).map(f64::from).collect();
        let column = Column::new((0, false), &thresholds);
        for at in 0..count {
            assert_eq!(column.code(f64::from(at)), at as u8, "{at} of {count}");
            assert_eq!(column.code(f64::from(at) + 0.5), at as u8 + 1, "above {at} of {count}");
        }
        assert_eq!((column.code(f64::INFINITY), column.code(f64::NAN)), (count as u8, 255));
    }
}

#[test]
fn a_forest_without_trees_is_its_base() {
    let matrix = {
        let mut matrix = Matrix::with_columns(vec!["x".into()]);
        matrix.push_row(&[1.0]);
        matrix
    };
    let mut found = Vec::new();
    Plan::new(&[], Level::best()).unwrap().margins(0.25, &matrix, 0..1, &mut found);
    assert_eq!(found, [0.25]);
}
