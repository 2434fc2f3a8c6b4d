//! Contributions are those of the definition, whatever the tree.

use super::*;
use crate::learners::gbdt::tree::Node;
use kilter_stats::Rng;

/// The definition: the tree's mean output when only the features of a coalition are known.
pub(crate) fn worth(tree: &Tree, row: &[f64], known: u32, at: Child) -> f64 {
    match at {
        Child::Leaf(leaf) => tree.leaves[leaf],
        Child::Node(index) => {
            let node = &tree.nodes[index];
            let (left, right) = (node.left(), node.right());
            if known >> node.column & 1 == 1 {
                worth(tree, row, known, if node.goes_left(row[node.column as usize]) { left } else { right })
            } else {
                let share = tree.rows(left) / f64::from(node.rows);
                share * worth(tree, row, known, left) + (1.0 - share) * worth(tree, row, known, right)
            }
        }
    }
}

/// Shapley values by enumeration of all coalitions.
fn shapley(tree: &Tree, row: &[f64]) -> Vec<f64> {
    let n = row.len();
    let factorial = |k: usize| (1..=k).map(|i| i as f64).product::<f64>();
    (0..n)
        .map(|feature| {
            let coalitions = (0..1u32 << n).filter(|known| known >> feature & 1 == 0);
            coalitions
                .map(|known| {
                    let size = known.count_ones() as usize;
                    let weight = factorial(size) * factorial(n - size - 1) / factorial(n);
                    weight * (worth(tree, row, known | 1 << feature, tree.root()) - worth(tree, row, known, tree.root()))
                })
                .sum()
        })
        .collect()
}

/// A random tree; `chain` makes every split hang on the one before.
pub(crate) fn random_tree(rng: &mut Rng, columns: usize, nodes: usize, chain: bool) -> Tree {
    let mut tree = Tree::default();
    tree.leaves.push(rng.normal());
    tree.leaf_rows.push(1 << 20);
    let mut parents: Vec<Option<(usize, bool)>> = vec![None];
    for node in 0..nodes {
        let leaf = if chain { tree.leaves.len() - 1 } else { rng.below(tree.leaves.len() as u64) as usize };
        let rows = tree.leaf_rows[leaf];
        if rows < 2 {
            continue;
        }
        let node = node.min(tree.nodes.len());
        let left_rows = if chain { 1 } else { 1 + rng.below(u64::from(rows) - 1) as u32 };
        let column = if chain { node % columns } else { rng.below(columns as u64) as usize };
        let mut split = Node::new(column, rng.normal(), rng.bernoulli(0.5), 1.0, rows);
        split.set_left(Child::Leaf(leaf));
        split.set_right(Child::Leaf(tree.leaves.len()));
        if let Some((parent, left)) = parents[leaf] {
            let parent = &mut tree.nodes[parent];
            if left { parent.set_left(Child::Node(node)) } else { parent.set_right(Child::Node(node)) }
        }
        tree.nodes.push(split);
        tree.leaf_rows[leaf] = left_rows;
        tree.leaf_rows.push(rows - left_rows);
        tree.leaves.push(rng.normal());
        parents[leaf] = Some((node, true));
        parents.push(Some((node, false)));
    }
    tree
}

fn output(tree: &Tree, row: &[f64]) -> f64 {
    worth(tree, row, u32::MAX, tree.root())
}

pub(crate) fn random_row(rng: &mut Rng, columns: usize) -> Vec<f64> {
    (0..columns).map(|_| if rng.bernoulli(0.2) { f64::NAN } else { rng.normal() }).collect()
}

#[test]
fn equals_the_definition_on_random_trees_with_missing_values_and_repeated_columns() {
    let mut rng = Rng::seeded(1);
    for round in 0..120 {
        let (columns, nodes) = (1 + round % 9, 1 + round % 31);
        let trees: Vec<Tree> = (0..3).map(|_| random_tree(&mut rng, columns, nodes, round % 4 == 0)).collect();
        let explainer = Explainer::new(&trees);
        let row = random_row(&mut rng, columns);
        let mut found = Vec::new();
        let base = explainer.explain(&row, &mut found);
        for (column, found) in found.iter().enumerate() {
            let expected: f64 = trees.iter().map(|tree| shapley(tree, &row)[column]).sum();
            assert!((found - expected).abs() < 1e-9, "column {column} of {columns}: {found} instead of {expected}");
        }
        let expected: f64 = trees.iter().map(|tree| worth(tree, &row, 0, tree.root())).sum();
        assert!((base - expected).abs() < 1e-9);
    }
}

/// The formula of one leaf after the other, its integral by the polynomial's coefficients: for trees too wide for all coalitions.
fn by_leaves(tree: &Tree, row: &[f64]) -> Vec<f64> {
    let mut found = vec![0.0; row.len()];
    let mut open = vec![(tree.root(), Vec::<(usize, f64, f64)>::new())];
    while let Some((at, path)) = open.pop() {
        match at {
            Child::Leaf(leaf) => {
                for (own, &(column, agrees, share)) in path.iter().enumerate() {
                    let mut polynomial = vec![1.0];
                    for (_, &(_, agrees, share)) in path.iter().enumerate().filter(|(other, _)| *other != own) {
                        let mut next = vec![0.0; polynomial.len() + 1];
                        for (power, coefficient) in polynomial.iter().enumerate() {
                            next[power] += coefficient * share;
                            next[power + 1] += coefficient * (agrees - share);
                        }
                        polynomial = next;
                    }
                    let integral: f64 = polynomial.iter().enumerate().map(|(power, c)| c / (power + 1) as f64).sum();
                    found[column] += tree.leaves[leaf] * (agrees - share) * integral;
                }
            }
            Child::Node(index) => {
                let node = &tree.nodes[index];
                let column = node.column as usize;
                for (child, goes) in [(node.left(), node.goes_left(row[column])), (node.right(), !node.goes_left(row[column]))] {
                    let mut path = path.clone();
                    let (agrees, share) = (f64::from(u8::from(goes)), tree.rows(child) / f64::from(node.rows));
                    match path.iter_mut().find(|(other, ..)| *other == column) {
                        Some((_, o, r)) => (*o, *r) = (*o * agrees, *r * share),
                        None => path.push((column, agrees, share)),
                    }
                    open.push((child, path));
                }
            }
        }
    }
    found
}

#[test]
fn equals_the_formula_on_trees_too_wide_for_all_coalitions() {
    let mut rng = Rng::seeded(8);
    let mut most_points = 0;
    for round in 0..60 {
        let (columns, nodes) = (4 + 5 * (round % 8), 10 + 7 * (round % 9));
        let trees: Vec<Tree> = (0..3).map(|_| random_tree(&mut rng, columns, nodes, round % 6 == 0)).collect();
        let row = random_row(&mut rng, columns);
        let (explainer, mut found) = (Explainer::new(&trees), Vec::new());
        explainer.explain(&row, &mut found);
        most_points = explainer.most_points.max(most_points);
        for (column, found) in found.iter().enumerate() {
            let expected: f64 = trees.iter().map(|tree| by_leaves(tree, &row)[column]).sum();
            assert!((found - expected).abs() < 1e-9, "column {column} of {columns}: {found} instead of {expected}");
        }
    }
    assert!(most_points >= 16, "{most_points}");
}

/// Random forests with 4 to 64 points, and rows for them.
fn forests(rng: &mut Rng) -> Vec<(Explainer, Matrix)> {
    [(1, 3), (6, 31), (14, 31), (30, 60), (60, 60), (120, 120)]
        .into_iter()
        .map(|(columns, nodes)| {
            let trees: Vec<Tree> = (0..5).map(|tree| random_tree(rng, columns, nodes, tree == 2)).collect();
            let mut matrix = Matrix::with_columns((0..columns).map(|i| format!("x{i}")).collect());
            (0..70).for_each(|_| matrix.push_row(&random_row(rng, columns)));
            (Explainer::new(&trees), matrix)
        })
        .collect()
}

fn bits(numbers: &[f64]) -> Vec<u64> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

#[test]
fn wide_registers_give_the_same_bits() {
    let mut row = Vec::new();
    let mut points = std::collections::BTreeSet::new();
    for (explainer, matrix) in forests(&mut Rng::seeded(6)) {
        points.extend(explainer.trees.iter().map(|tree| tree.points));
        for r in 0..matrix.rows() {
            matrix.row(r, &mut row);
            let collected = |how: &dyn Fn(&mut Scratch)| {
                let mut scratch = Scratch::default();
                scratch.fit(&explainer, row.len());
                how(&mut scratch);
                bits(&scratch.collected.iter().map(Lanes::sum).collect::<Vec<_>>())
            };
            let plain = collected(&|scratch| explainer.collect_anywhere(&row, row.len(), scratch));
            assert_eq!(collected(&|scratch| explainer.collect(&row, row.len(), scratch)), plain);
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") {
                // SAFETY: the processor has just been asked.
                assert_eq!(collected(&|scratch| unsafe { explainer.collect_avx2(&row, row.len(), scratch) }), plain);
            }
        }
    }
    assert_eq!(points.into_iter().collect::<Vec<_>>(), [4, 8, 16, 32, 64]);
}

#[test]
fn many_rows_in_any_parts_give_the_bits_of_one() {
    let (mut row, mut alone) = (Vec::new(), Vec::new());
    for (explainer, matrix) in forests(&mut Rng::seeded(7)) {
        for part in [1, 31, 32, 33, 70] {
            let mut told = Vec::new();
            for start in (0..matrix.rows()).step_by(part) {
                let some = matrix.slice(start..matrix.rows().min(start + part));
                explainer.explain_rows(&some, |found| told.push(found.collect::<Vec<f64>>()));
            }
            assert_eq!(told.len(), matrix.rows());
            for (r, found) in told.iter().enumerate() {
                matrix.row(r, &mut row);
                explainer.explain(&row, &mut alone);
                assert_eq!(bits(found), bits(&alone), "row {r}, {part} rows at a time");
            }
        }
    }
}

#[test]
fn one_split_by_hand() {
    // 3 of 4 rows go left: the mean is 0.75 * 1 + 0.25 * 5 = 2.
    let mut node = Node::new(0, 0.0, false, 1.0, 4);
    node.set_left(Child::Leaf(0));
    node.set_right(Child::Leaf(1));
    let tree = Tree { nodes: vec![node], leaves: vec![1.0, 5.0], leaf_rows: vec![3, 1], ..Tree::default() };
    let explainer = Explainer::new(&[tree]);
    for (value, expected) in [(-1.0, -1.0), (0.0, -1.0), (1.0, 3.0), (f64::NAN, 3.0)] {
        let mut found = Vec::new();
        assert!((explainer.explain(&[value, 9.0], &mut found) - 2.0).abs() < 1e-12);
        assert!((found[0] - expected).abs() < 1e-12 && found[1] == 0.0);
    }
}

#[test]
fn paths_of_many_distinct_columns_stay_exact() {
    // 8, 9, 16, 17, 32, 33, 64, 65 and 120 distinct columns on one path use 4 to 64 points.
    let mut rng = Rng::seeded(3);
    for columns in [8, 9, 16, 17, 32, 33, 64, 65, 120] {
        let mut tree = random_tree(&mut rng, columns, columns, true);
        // Gentle shares, so that the end of a long path still matters.
        for (i, rows) in tree.leaf_rows.iter_mut().enumerate() {
            *rows = 1 + (i % 3) as u32;
        }
        for index in (0..tree.nodes.len()).rev() {
            tree.nodes[index].rows = (tree.rows(tree.nodes[index].left()) + tree.rows(tree.nodes[index].right())) as u32;
        }
        let explainer = Explainer::new(std::slice::from_ref(&tree));
        let row: Vec<f64> = tree.nodes.iter().map(|node| node.threshold + 1.0).collect();
        let mut found = Vec::new();
        let base = explainer.explain(&row[..columns], &mut found);
        let sum = base + found.iter().sum::<f64>();
        let reached = tree.leaves[tree.leaves.len() - 1];
        assert!((sum - reached).abs() < 1e-9, "{columns} columns: {sum} instead of {reached}");
    }
    let (at, weights) = gauss_legendre(64);
    let moment: f64 = at.iter().zip(&weights).map(|(p, w)| w * libm::pow(*p, 127.0)).sum();
    assert!((moment - 1.0 / 128.0).abs() < 1e-14);
}

#[test]
fn contributions_add_up_on_large_random_forests() {
    let mut rng = Rng::seeded(2);
    for columns in [2, 30, 200] {
        let trees: Vec<Tree> = (0..20).map(|_| random_tree(&mut rng, columns, 60, false)).collect();
        let explainer = Explainer::new(&trees);
        for _ in 0..50 {
            let row = random_row(&mut rng, columns);
            let mut found = Vec::new();
            let sum = explainer.explain(&row, &mut found) + found.iter().sum::<f64>();
            let walked: f64 = trees
                .iter()
                .map(|tree| {
                    let mut at = tree.root();
                    loop {
                        match at {
                            Child::Leaf(leaf) => return tree.leaves[leaf],
                            Child::Node(index) => {
                                let node = &tree.nodes[index];
                                at = if node.goes_left(row[node.column as usize]) { node.left() } else { node.right() };
                            }
                        }
                    }
                })
                .sum();
            assert!((sum - walked).abs() < 1e-9);
            if columns < 32 {
                assert!((walked - trees.iter().map(|tree| output(tree, &row)).sum::<f64>()).abs() < 1e-9);
            }
        }
    }
}
