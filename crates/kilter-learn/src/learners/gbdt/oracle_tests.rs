//! Whole trees against a search over all thresholds and sides by direct sums.
//!
//! Labels and weights are such that gradients lose nothing when they become words, and there are as many bins as values: what is found must be
//! the best there is, to the last digits.

use kilter_stats::Rng;

use super::*;
use crate::Matrix;
use crate::learners::gbdt::tree::Child;

struct Case {
    columns: Vec<Vec<f64>>,
    gradients: Vec<f64>,
    hessians: Vec<f64>,
    parameters: Gbdt,
}

#[derive(Clone, Copy, Debug, Default)]
struct Side {
    gradient: f64,
    hessian: f64,
    rows: usize,
}

impl Case {
    fn side(&self, rows: impl Iterator<Item = usize>) -> Side {
        rows.fold(Side::default(), |side, row| Side {
            gradient: side.gradient + self.gradients[row],
            hessian: side.hessian + self.hessians[row],
            rows: side.rows + 1,
        })
    }

    fn value(&self, side: &Side) -> f64 {
        -side.gradient / (side.hessian + self.parameters.lambda_l2)
    }

    fn score(&self, side: &Side) -> f64 {
        side.gradient * side.gradient / (side.hessian + self.parameters.lambda_l2)
    }

    /// What a split of these rows gains; none where a side is too small or a constraint is broken.
    fn gain(&self, column: usize, left: &Side, right: &Side, all: &Side) -> Option<f64> {
        let Gbdt { min_leaf_rows, min_child_hessian, .. } = self.parameters;
        let large_enough =
            |side: &Side| side.rows >= min_leaf_rows && side.hessian >= min_child_hessian && side.hessian + self.parameters.lambda_l2 > 0.0;
        let direction = f64::from(self.parameters.monotone.get(column).copied().unwrap_or(0));
        let ordered = direction * (self.value(right) - self.value(left)) >= 0.0;
        (large_enough(left) && large_enough(right) && ordered).then(|| self.score(left) + self.score(right) - self.score(all))
    }

    /// The most that any threshold of any column gains, with the missing on either side.
    fn best_gain(&self, rows: &[usize]) -> f64 {
        let all = self.side(rows.iter().copied());
        let mut best = 0.0f64;
        for (column, values) in self.columns.iter().enumerate() {
            let mut thresholds: Vec<f64> = rows.iter().map(|&row| values[row]).filter(|value| !value.is_nan()).collect();
            thresholds.sort_by(f64::total_cmp);
            thresholds.dedup();
            for &threshold in &thresholds {
                for missing_left in [false, true] {
                    let goes_left = |row: &usize| values[*row] <= threshold || values[*row].is_nan() && missing_left;
                    let left = self.side(rows.iter().copied().filter(goes_left));
                    let right = self.side(rows.iter().copied().filter(|row| !goes_left(row)));
                    best = best.max(self.gain(column, &left, &right, &all).unwrap_or(0.0));
                }
            }
        }
        best
    }

    /// Every node of the tree is the best split of its rows, was the best of those open when it was made, and leaves have their values.
    fn check(&self, model: &GbdtModel, turn: usize) -> usize {
        let rows: Vec<usize> = (0..self.gradients.len()).collect();
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()));
        if model.trees() == 0 {
            assert!(self.best_gain(&rows) <= self.parameters.min_gain + 1e-9, "turn {turn}");
            return 0;
        }
        let tree = model.tree(0);
        // Bounds that constraints lay on children are not looked at here.
        let deep = self.parameters.monotone.iter().all(|&direction| direction == 0);
        let mut open: Vec<(Child, Vec<usize>)> = vec![(tree.root(), rows)];
        for (index, node) in tree.nodes.iter().enumerate() {
            let at = open.iter().position(|(child, _)| *child == Child::Node(index)).unwrap();
            let gains: Vec<f64> = if deep || index == 0 { open.iter().map(|(_, rows)| self.best_gain(rows)).collect() } else { vec![] };
            let (_, rows) = open.swap_remove(at);
            let values = &self.columns[node.column as usize];
            let (left, right): (Vec<usize>, Vec<usize>) = rows.iter().partition(|&&row| node.goes_left(values[row]));
            let sides = (self.side(left.iter().copied()), self.side(right.iter().copied()));
            let gain = self.gain(node.column as usize, &sides.0, &sides.1, &self.side(rows.iter().copied()));
            assert!(gain.is_some_and(|gain| close(gain, node.gain)), "turn {turn}: {gain:?} instead of {}", node.gain);
            assert!(
                gains.iter().all(|&other| other <= node.gain + 1e-9 * (1.0 + other)),
                "turn {turn}, node {index}: {gains:?}, {}",
                node.gain
            );
            open.extend([(node.left(), left), (node.right(), right)]);
            if !deep {
                break;
            }
        }
        for (child, rows) in &open {
            let Child::Leaf(leaf) = *child else { continue };
            let side = self.side(rows.iter().copied());
            assert_eq!(tree.leaf_rows[leaf] as usize, side.rows);
            if deep {
                assert!(close(tree.leaves[leaf], self.parameters.learning_rate * self.value(&side)), "turn {turn}, leaf {leaf}");
                let full = tree.leaves.len() == self.parameters.leaves;
                assert!(full || self.best_gain(rows) <= self.parameters.min_gain + 1e-9, "turn {turn}, leaf {leaf}");
            }
        }
        tree.nodes.len()
    }
}

impl Case {
    fn gain_at(&self, rows: &[usize], (column, threshold, missing_left): (usize, f64, bool)) -> Option<f64> {
        let values = &self.columns[column];
        let (left, right): (Vec<usize>, Vec<usize>) =
            rows.iter().partition(|&&row| values[row] <= threshold || values[row].is_nan() && missing_left);
        self.gain(column, &self.side(left.into_iter()), &self.side(right.into_iter()), &self.side(rows.iter().copied()))
    }

    /// What a level's split gains over all leaves, each by the definition: nothing where a side is too small.
    fn gain_of_level(&self, open: &[(Child, Vec<usize>)], split: (usize, f64, bool)) -> f64 {
        open.iter().map(|(_, rows)| self.gain_at(rows, split).unwrap_or(0.0)).sum()
    }

    /// Every level of an oblivious tree is the best there is for its leaves, made in all of them that may be split so; returns how many levels there are.
    fn check_levels(&self, model: &GbdtModel, turn: usize) -> usize {
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()));
        let no_tree = Tree { leaves: vec![0.0], leaf_rows: vec![1], ..Tree::default() };
        let tree = if model.trees() == 0 { &no_tree } else { model.tree(0) };
        let mut open = vec![(tree.root(), (0..self.gradients.len()).collect::<Vec<usize>>())];
        for level in 0.. {
            let mut best = 0.0f64;
            for (column, values) in self.columns.iter().enumerate() {
                let mut thresholds: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
                thresholds.sort_by(f64::total_cmp);
                thresholds.dedup();
                for threshold in thresholds {
                    for missing_left in [false, true] {
                        best = best.max(self.gain_of_level(&open, (column, threshold, missing_left)));
                    }
                }
            }
            let node = |child: &Child| match *child {
                Child::Node(node) => Some(&tree.nodes[node]),
                Child::Leaf(_) => None,
            };
            let of_node = |node: &Node| (node.column as usize, node.threshold, node.missing_left);
            // Nodes of leaves that take no part may be those of a later level.
            let made = open.iter().filter_map(|(child, _)| node(child).map(of_node)).find(|&split| {
                let everywhere =
                    |(child, rows): &(Child, Vec<usize>)| self.gain_at(rows, split).is_none() || node(child).map(of_node) == Some(split);
                open.iter().all(everywhere) && close(self.gain_of_level(&open, split), best)
            });
            let Some(split) = made else {
                assert!(
                    open.iter().all(|(child, _)| node(child).is_none()),
                    "turn {turn}, level {level}: no split of a level gains {best}"
                );
                let full = level == (self.parameters.leaves.ilog2() as usize).min(self.parameters.max_depth.unwrap_or(usize::MAX));
                assert!(full || best <= self.parameters.min_gain + 1e-9, "turn {turn}: a level more would gain {best}");
                if model.trees() > 0 {
                    for (child, rows) in &open {
                        let Child::Leaf(leaf) = *child else { continue };
                        let side = self.side(rows.iter().copied());
                        assert_eq!(tree.leaf_rows[leaf] as usize, side.rows);
                        assert!(close(tree.leaves[leaf], self.parameters.learning_rate * self.value(&side)), "turn {turn}, leaf {leaf}");
                    }
                }
                return level;
            };
            assert!(level < self.parameters.leaves.ilog2() as usize, "turn {turn}: too many levels");
            let mut below = Vec::new();
            for (child, rows) in open {
                let gain = self.gain_at(&rows, split);
                let (Some(gain), Some(node)) = (gain, node(&child)) else {
                    below.push((child, rows));
                    continue;
                };
                assert!(close(gain, node.gain), "turn {turn}: {gain} instead of {}", node.gain);
                let values = &self.columns[split.0];
                let (left, right) = rows.iter().partition(|&&row| node.goes_left(values[row]));
                below.extend([(node.left(), left), (node.right(), right)]);
            }
            open = below;
        }
        unreachable!("levels end")
    }
}

/// Values with ties, in some columns with missing ones.
fn column(rng: &mut Rng, rows: usize) -> Vec<f64> {
    let distinct = [2, 5, 40, 250][rng.below(4) as usize];
    let missing = [0.0, 0.0, 0.1, 0.6][rng.below(4) as usize];
    (0..rows).map(|_| if rng.bernoulli(missing) { f64::NAN } else { rng.below(distinct) as f64 * 0.5 - 3.0 }).collect()
}

/// Weights of quarters up to 2, as many in all as rows.
fn weights(rng: &mut Rng, rows: usize) -> Vec<f64> {
    let mut weights = vec![1.0; rows];
    for _ in 0..rows {
        let (from, to) = (rng.below(rows as u64) as usize, rng.below(rows as u64) as usize);
        if weights[from] > 0.25 && weights[to] < 2.0 && from != to {
            weights[from] -= 0.25;
            weights[to] += 0.25;
        }
    }
    weights
}

fn check(turn: usize, rng: &mut Rng, rows: usize, binary: bool, growth: Growth) -> usize {
    let width = 1 + rng.below(if rows > 1000 { 3 } else { 11 }) as usize;
    let columns: Vec<Vec<f64>> = (0..width).map(|_| column(rng, rows)).collect();
    let mut given = rng.bernoulli(0.5).then(|| weights(rng, rows));
    let mut labels: Vec<f64> = (0..rows).map(|_| rng.below(4) as f64).collect();
    if binary {
        // Rows in pairs of both classes with one weight: every probability is a half.
        labels = (0..rows).map(|row| (row % 2) as f64).collect();
        if let Some(weights) = &mut given {
            (0..rows / 2).for_each(|pair| weights[2 * pair + 1] = weights[2 * pair]);
        }
    }
    let of_row = |row: usize| given.as_ref().map_or(1.0, |weights| weights[row]);
    let mean = (0..rows).map(|row| of_row(row) * labels[row]).sum::<f64>() / (0..rows).map(of_row).sum::<f64>();
    let parameters = Gbdt {
        objective: if binary { Objective::Binary } else { Objective::SquaredError },
        trees: 1,
        growth,
        leaves: 2 + rng.below(if growth == Growth::Oblivious { 40 } else { 12 }) as usize,
        max_depth: Some(3).filter(|_| growth == Growth::Oblivious && rng.bernoulli(0.3)),
        learning_rate: 0.5,
        min_leaf_rows: 1 + rng.below(6) as usize,
        min_child_hessian: [0.0, 1e-3, 2.0][rng.below(3) as usize],
        lambda_l2: [0.0, 1.0, 0.3][rng.below(3) as usize],
        min_gain: [1e-6, 0.01][rng.below(2) as usize],
        early_stopping: None,
        monotone: if growth == Growth::LeafWise && rng.bernoulli(0.2) {
            (0..width).map(|_| rng.below(3) as i8 - 1).collect()
        } else {
            vec![]
        },
        ..Gbdt::default()
    };
    let case = Case {
        gradients: (0..rows).map(|row| of_row(row) * (mean - labels[row])).collect(),
        hessians: (0..rows).map(|row| of_row(row) * if binary { 0.25 } else { 1.0 }).collect(),
        parameters: parameters.clone(),
        columns: columns.clone(),
    };
    let names = (0..width).map(|column| format!("x{column}")).collect();
    let set = TrainingSet { matrix: Matrix::from_columns(names, columns), labels, weights: given };
    let model = fit(&set, &parameters).unwrap();
    match growth {
        Growth::LeafWise => case.check(&model, turn),
        Growth::Oblivious => case.check_levels(&model, turn),
    }
}

#[test]
fn every_split_is_the_best_there_is() {
    let mut rng = Rng::seeded(1);
    let splits: usize = (0..300).map(|turn| check(turn, &mut rng, 64, turn % 2 == 0, Growth::LeafWise)).sum();
    assert!(splits > 800, "{splits}");
}

/// More rows than a packed histogram holds.
#[test]
fn every_split_of_many_rows_is_the_best_there_is() {
    let mut rng = Rng::seeded(2);
    let splits: usize = (0..6).map(|turn| check(turn, &mut rng, 8_192, true, Growth::LeafWise)).sum();
    assert!(splits > 15, "{splits}");
}

#[test]
fn every_level_is_the_best_there_is() {
    let mut rng = Rng::seeded(3);
    let levels: usize = (0..300).map(|turn| check(turn, &mut rng, 64, turn % 2 == 0, Growth::Oblivious)).sum();
    assert!(levels > 500, "{levels}");
    let levels: usize = (0..6).map(|turn| check(turn, &mut rng, 8_192, true, Growth::Oblivious)).sum();
    assert!(levels > 6, "{levels}");
}
