//! The sum of many trees, and how it is explained: what forests of all kinds have in common once they are grown.

use std::sync::OnceLock;

use super::gbdt::Explainer;
use super::gbdt::scoring::{Level, Plan};
use super::gbdt::tree::{Child, Forest as Walk, Tree};
use crate::format::{Reader, Writer};
use crate::{LearnError, Matrix, explain};

/// Trees walked side by side; of many rows at once, whose nodes stay in the nearer caches.
const GROUP: usize = 8;
/// Rows walked through one group before the next.
const BLOCK: usize = 256;
/// Tables for explanations are kept up to this many splits times columns. Beyond it each tree's are made anew for each call.
const MOST_KEPT: usize = 2_000_000;

#[derive(Debug)]
pub(super) struct Ensemble {
    pub trees: Vec<Tree>,
    inputs: usize,
    walks: Vec<Walk>,
    /// The faster way to the same bits; `None` for trees it has no room for.
    plan: Option<Plan>,
    /// Made at the first explanation; `None` for trees whose tables would be too large to keep.
    explainer: OnceLock<Option<Explainer>>,
}

impl Ensemble {
    pub fn new(trees: Vec<Tree>, inputs: usize) -> Self {
        let walks = trees.chunks(GROUP).map(Walk::new).collect();
        let plan = Plan::new(&trees, Level::best());
        Ensemble { trees, inputs, walks, plan, explainer: OnceLock::new() }
    }

    pub fn count(&self) -> f64 {
        self.trees.len() as f64
    }

    pub fn sum(&self, row: &[f64]) -> f64 {
        assert_eq!(row.len(), self.inputs, "a row must have one value an input");
        let planned = self.plan.as_ref().and_then(|plan| plan.margin(0.0, row));
        planned.unwrap_or_else(|| self.walks.iter().fold(0.0, |sum, walk| walk.sum(sum, row)))
    }

    /// Of all rows: the bits of [`sum`](Self::sum).
    pub fn sums(&self, matrix: &Matrix) -> Vec<f64> {
        assert_eq!(matrix.columns(), self.inputs, "a matrix must have one column an input");
        let mut sums = Vec::with_capacity(matrix.rows());
        if let Some(plan) = &self.plan {
            plan.margins(0.0, matrix, 0..matrix.rows(), &mut sums);
            return sums;
        }
        let width = matrix.columns();
        let mut rows = Vec::with_capacity(BLOCK * width);
        for start in (0..matrix.rows()).step_by(BLOCK) {
            let end = matrix.rows().min(start + BLOCK);
            rows.clear();
            rows.extend((start..end).flat_map(|row| (0..width).map(move |column| matrix.value(row, column))));
            sums.resize(end, 0.0);
            for walk in &self.walks {
                for (sum, row) in sums[start..].iter_mut().zip(rows.chunks_exact(width)) {
                    *sum = walk.sum(*sum, row);
                }
            }
        }
        sums
    }

    /// Exact path-dependent TreeSHAP of the sum; returns the mean sum over the rows that the trees were grown on. Trees of very many splits
    /// keep no tables for it, and take their time for each row.
    pub fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        assert_eq!(row.len(), self.inputs, "a row must have one value an input");
        let Some(explainer) = self.explainer() else {
            let (mut base, mut sums) = (0.0, vec![0.0; row.len()]);
            for tree in &self.trees {
                base += Explainer::new(std::slice::from_ref(tree)).explain(row, contributions);
                sums.iter_mut().zip(&*contributions).for_each(|(sum, contribution)| *sum += contribution);
            }
            *contributions = sums;
            return base;
        };
        explainer.explain(row, contributions)
    }

    /// For each row its contributions and then the base: the bits of [`explain`](Self::explain).
    pub fn explanations(&self, matrix: &Matrix) -> Vec<f64> {
        assert_eq!(matrix.columns(), self.inputs, "a matrix must have one column an input");
        let width = matrix.columns() + 1;
        let mut all = vec![0.0; matrix.rows() * width];
        let mut add = |explainer: &Explainer| {
            let mut rows = all.chunks_exact_mut(width);
            explainer.explain_rows(matrix, |contributions| {
                let values = contributions.chain(std::iter::once(explainer.base()));
                rows.next().into_iter().flatten().zip(values).for_each(|(to, value)| *to += value);
            });
        };
        match self.explainer() {
            Some(explainer) => add(explainer),
            None => self.trees.iter().for_each(|tree| add(&Explainer::new(std::slice::from_ref(tree)))),
        }
        all
    }

    /// Contributions to the sum against the rows of a reference population; returns their mean sum.
    pub fn explain_against(&self, row: &[f64], reference: &Matrix, contributions: &mut Vec<f64>) -> f64 {
        assert!(row.len() == self.inputs && reference.columns() == self.inputs, "rows must have one value an input");
        explain::of_trees(&self.trees, row, reference, contributions)
    }

    fn explainer(&self) -> Option<&Explainer> {
        let make = || {
            let splits: usize = self.trees.iter().map(|tree| tree.nodes.len()).sum();
            (splits * self.inputs <= MOST_KEPT).then(|| Explainer::new(&self.trees))
        };
        self.explainer.get_or_init(make).as_ref()
    }

    /// Total gain of the splits on each input.
    pub fn gains(&self) -> Vec<f64> {
        let mut gains = vec![0.0; self.inputs];
        for node in self.trees.iter().flat_map(|tree| &tree.nodes) {
            gains[node.column as usize] += node.gain;
        }
        gains
    }

    pub fn leaves(&self) -> usize {
        self.trees.iter().map(|tree| tree.leaves.len()).sum()
    }

    /// Whether neither byte codes nor tables for explanations are at hand.
    #[cfg(test)]
    pub fn goes_the_long_way(&self) -> bool {
        self.plan.is_none() && self.explainer().is_none()
    }

    pub fn write(&self, to: &mut Writer) {
        to.u32(self.trees.len() as u32);
        self.trees.iter().for_each(|tree| tree.write(to));
    }

    pub fn read(from: &mut Reader<'_>, inputs: usize) -> Result<Self, LearnError> {
        let count = from.u32()? as usize;
        from.room_for(count, 4)?;
        let trees = (0..count).map(|_| Tree::read(from, inputs)).collect::<Result<Vec<_>, _>>()?;
        if inputs == 0 || trees.is_empty() {
            return Err(LearnError::corrupt("it has no inputs or no trees"));
        }
        Ok(Ensemble::new(trees, inputs))
    }
}

/// Hangs a part of a growing tree under the left (true) or right side of a node, or makes it the root.
pub(super) fn link(tree: &mut Tree, parent: Option<(usize, bool)>, child: Child) {
    match parent {
        Some((node, true)) => tree.nodes[node].set_left(child),
        Some((node, false)) => tree.nodes[node].set_right(child),
        None => {}
    }
}
