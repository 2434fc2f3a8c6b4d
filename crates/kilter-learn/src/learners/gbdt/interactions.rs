//! Groups of columns that may act on each other: a leaf's path holds columns of one group.
//!
//! What a path has asked for so far leaves the groups that hold all of it, and only their columns may split further. The columns that no group names
//! are one more group, as in scikit-learn.

use super::Gbdt;
use crate::LearnError;

#[derive(Debug)]
pub(super) struct Interactions {
    /// Whether each column is in each group.
    groups: Vec<Vec<bool>>,
}

/// The groups that hold all columns on a path.
pub(super) type Open = Vec<u32>;

impl Interactions {
    /// `None` when every column may act on every other.
    pub fn new(parameters: &Gbdt, names: &[String]) -> Result<Option<Self>, LearnError> {
        if parameters.interactions.is_empty() {
            return Ok(None);
        }
        let mut rest = vec![true; names.len()];
        let mut groups = Vec::new();
        for group in &parameters.interactions {
            let mut holds = vec![false; names.len()];
            for name in group {
                let unknown = || LearnError::UnknownColumn { parameter: "interactions", name: name.clone() };
                let column = names.iter().position(|known| known == name).ok_or_else(unknown)?;
                (holds[column], rest[column]) = (true, false);
            }
            groups.push(holds);
        }
        if rest.contains(&true) {
            groups.push(rest);
        }
        Ok(Some(Interactions { groups }))
    }

    /// Above any split.
    pub fn all(&self) -> Open {
        (0..self.groups.len() as u32).collect()
    }

    /// Below a split on a column.
    pub fn below(&self, open: &Open, column: usize) -> Open {
        open.iter().copied().filter(|&group| self.groups[group as usize][column]).collect()
    }

    /// Which columns may not split.
    pub fn left_out(&self, open: &Open) -> Vec<bool> {
        (0..self.groups[0].len()).map(|column| !open.iter().any(|&group| self.groups[group as usize][column])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Gbdt, fit};
    use super::*;
    use crate::Model;
    use crate::learners::gbdt::Child;
    use crate::matrix::tests::training_set;
    use kilter_stats::Rng;

    fn set() -> crate::TrainingSet {
        let mut rng = Rng::seeded(1);
        let rows: Vec<Vec<f64>> = (0..4_000)
            .map(|_| {
                let x: Vec<f64> = (0..5).map(|_| rng.normal()).collect();
                let margin = x[0] * x[1] + x[2] * x[3] + x[0] * x[2] + x[4] + 0.8 * (x[0] - x[1] + x[2] - x[3]);
                x.into_iter().chain([f64::from(u8::from(margin + rng.normal() > 0.0))]).collect()
            })
            .collect();
        training_set(&rows)
    }

    fn parameters(groups: &[&[usize]]) -> Gbdt {
        let name = |column: &usize| format!("x{column}");
        let interactions = groups.iter().map(|group| group.iter().map(name).collect()).collect();
        Gbdt { trees: 20, early_stopping: None, interactions, ..Gbdt::default() }
    }

    #[test]
    fn every_path_keeps_to_one_group() {
        for (given, groups) in [
            (vec![[0, 1].as_slice(), &[2, 3]], vec![[0, 1].as_slice(), &[2, 3], &[4]]),
            // Groups may share columns; what no group names is one more.
            (vec![&[0, 1, 2], &[2, 3]], vec![&[0, 1, 2], &[2, 3], &[4]]),
            (vec![&[1]], vec![&[1], &[0, 2, 3, 4]]),
        ] {
            for sampled in [1.0, 0.6] {
                let model = fit(&set(), &Gbdt { column_fraction: sampled, ..parameters(&given) }).unwrap();
                let mut used = [false; 5];
                for index in 0..model.trees() {
                    let tree = model.tree(index);
                    let mut open = vec![(tree.root(), Vec::new())];
                    while let Some((at, path)) = open.pop() {
                        let fits = |group: &&[usize]| path.iter().all(|column| group.contains(column));
                        assert!(groups.iter().any(fits), "the path {path:?} is in none of {groups:?}");
                        path.iter().for_each(|&column| used[column] = true);
                        if let Child::Node(node) = at {
                            let node = &tree.nodes[node];
                            let path: Vec<usize> = path.iter().copied().chain([node.column as usize]).collect();
                            open.extend([node.left(), node.right()].map(|child| (child, path.clone())));
                        }
                    }
                }
                assert_eq!(used, [true; 5]);
            }
        }
    }

    #[test]
    fn groups_that_share_nothing_add_up() {
        let model = fit(&set(), &parameters(&[&[0, 1], &[2, 3, 4]])).unwrap();
        let free = fit(&set(), &parameters(&[])).unwrap();
        let mut rng = Rng::seeded(2);
        let mut apart = 0.0f64;
        for _ in 0..300 {
            let [a, b]: [Vec<f64>; 2] = std::array::from_fn(|_| (0..5).map(|_| rng.normal()).collect());
            let mixed = |first: &[f64], second: &[f64]| [&first[..2], &second[2..]].concat();
            let of = |model: &dyn Model| model.margin(&a) + model.margin(&b) - model.margin(&mixed(&a, &b)) - model.margin(&mixed(&b, &a));
            assert!(of(&model).abs() < 1e-9);
            apart = apart.max(of(&free).abs());
        }
        assert!(apart > 0.5, "without groups they act on each other: {apart}");
    }

    #[test]
    fn an_unknown_column_is_named() {
        let error = fit(&set(), &Gbdt { interactions: vec![vec!["x9".into()]], ..Gbdt::default() }).unwrap_err();
        assert_eq!(error, LearnError::UnknownColumn { parameter: "interactions", name: "x9".into() });
        let empty = fit(&set(), &Gbdt { interactions: vec![vec![]], ..Gbdt::default() });
        assert!(matches!(empty, Err(LearnError::BadParameter { name: "interactions", .. })));
    }
}
