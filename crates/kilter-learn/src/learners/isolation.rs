//! Isolation forests, which need no labels: how soon chance parts a row from the others (Liu, Ting, Zhou 2008).
//!
//! Each tree sees a small sample of rows and parts it at thresholds drawn between the least and the greatest value of columns drawn at random,
//! until each row is alone or the depth is that of a balanced tree. A row that is soon alone is unlike the others:
//!
//! ```text
//! score = 2 ^ (-mean depth / depth that a search tree of the sample has on average)         about 0.5: like any other; near 1: an anomaly
//! ```
//! The margin is the score's natural logarithm, which is a sum over trees: contributions are exact Shapley values, and say which inputs
//! part the row from the others. A missing value goes to a side at random, the larger one more often; where a split's rows had none, to
//! the side with more rows. Infinite values are ordinary extremes.

use std::f64::consts::LN_2;

use kilter_stats::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::ensemble::{Ensemble, link};
use super::gbdt::Tree;
use super::gbdt::tree::{Child, Node};
use crate::format::{Header, Sealed, Writer, seal};
use crate::{LearnError, Link, Matrix, Model};

pub const KIND: &str = "isolation";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Isolation {
    pub trees: usize,
    /// Rows that each tree draws, without replacement; all of them where there are fewer.
    pub sample: usize,
    pub seed: u64,
}

impl Default for Isolation {
    fn default() -> Self {
        Isolation { trees: 100, sample: 256, seed: 7 }
    }
}

impl Isolation {
    fn check(&self) -> Result<(), LearnError> {
        let require = |holds: bool, name, found: usize, must| {
            if holds { Ok(()) } else { Err(LearnError::BadParameter { name, found: found.to_string(), must }) }
        };
        require((1..=10_000).contains(&self.trees), "trees", self.trees, "1 to 10000")?;
        require((2..=1 << 20).contains(&self.sample), "sample", self.sample, "2 to 1048576")
    }
}

/// A fitted isolation forest.
#[derive(Debug)]
pub struct IsolationModel {
    inputs: Vec<String>,
    parameters: Isolation,
    report: Report,
    /// Leaves hold depths.
    trees: Ensemble,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Report {
    rows: usize,
    /// Rows each tree drew.
    sample: usize,
}

/// Grows the trees on rows without labels.
pub fn fit(matrix: &Matrix, parameters: &Isolation) -> Result<IsolationModel, LearnError> {
    parameters.check()?;
    if matrix.columns() == 0 {
        return Err(LearnError::NoColumns);
    }
    let rows = matrix.rows();
    if rows < 2 {
        return Err(if rows == 0 { LearnError::NoRows } else { LearnError::TooFewRows { rows, needed: 2 } });
    }
    let sample = parameters.sample.min(rows);
    let seeds = Rng::seeded(parameters.seed);
    let trees: Vec<Tree> = (0..parameters.trees).into_par_iter().map(|tree| grow(matrix, sample, seeds.fork(tree as u64))).collect();
    let inputs = matrix.names().to_vec();
    let trees = Ensemble::new(trees, inputs.len());
    Ok(IsolationModel { inputs, parameters: parameters.clone(), report: Report { rows, sample }, trees })
}

/// The mean depth at which a search in a binary tree of so many rows ends without success, as the paper counts it.
fn usual_depth(rows: usize) -> f64 {
    const EULER: f64 = 0.577_215_664_901_532_9;
    match rows {
        0 | 1 => 0.0,
        2 => 1.0,
        n => {
            let n = n as f64;
            2.0 * (libm::log(n - 1.0) + EULER) - 2.0 * (n - 1.0) / n
        }
    }
}

/// Some different rows, in row order (Floyd's method, by a sorted list).
fn choose(rows: usize, sample: usize, rng: &mut Rng) -> Vec<usize> {
    let mut chosen = std::collections::BTreeSet::new();
    for last in rows - sample..rows {
        let row = rng.below(last as u64 + 1) as usize;
        if !chosen.insert(row) {
            chosen.insert(last);
        }
    }
    chosen.into_iter().collect()
}

fn grow(matrix: &Matrix, sample: usize, mut rng: Rng) -> Tree {
    let limit = (usize::BITS - (sample - 1).leading_zeros()) as usize;
    let mut tree = Tree::default();
    let mut open = vec![(choose(matrix.rows(), sample, &mut rng), 0, None)];
    while let Some((rows, depth, parent)) = open.pop() {
        let cut = if depth < limit && rows.len() > 1 { draw_cut(matrix, &rows, &mut rng) } else { None };
        let Some(Cut { column, threshold }) = cut else {
            let leaf = tree.leaves.len();
            link(&mut tree, parent, Child::Leaf(leaf));
            tree.leaves.push(depth as f64 + usual_depth(rows.len()));
            tree.leaf_rows.push(rows.len() as u32);
            continue;
        };
        let values = matrix.column(column);
        let (missing, present): (Vec<usize>, Vec<usize>) = rows.iter().partition(|&&row| values[row].is_nan());
        let (mut left, mut right): (Vec<usize>, Vec<usize>) = present.iter().partition(|&&row| values[row] <= threshold);
        let missing_left = match missing.is_empty() {
            true => left.len() >= right.len(),
            false => rng.below(present.len() as u64) < left.len() as u64,
        };
        let side = if missing_left { &mut left } else { &mut right };
        side.extend(&missing);
        side.sort_unstable();
        let node = tree.nodes.len();
        // How unevenly the rows are parted, as a share of the sample: where few are parted from many, something is learned.
        let gain = left.len().abs_diff(right.len()) as f64 / sample as f64;
        tree.nodes.push(Node::new(column, threshold, missing_left, gain, rows.len() as u32));
        link(&mut tree, parent, Child::Node(node));
        open.push((right, depth + 1, Some((node, false))));
        open.push((left, depth + 1, Some((node, true))));
    }
    tree
}

struct Cut {
    column: usize,
    /// Not below the least of the values, below the greatest.
    threshold: f64,
}

/// A threshold within a column drawn at random; `None` when all columns are the same in all rows.
fn draw_cut(matrix: &Matrix, rows: &[usize], rng: &mut Rng) -> Option<Cut> {
    let mut columns: Vec<usize> = (0..matrix.columns()).collect();
    while !columns.is_empty() {
        let column = columns.swap_remove(rng.below(columns.len() as u64) as usize);
        let present = rows.iter().map(|&row| matrix.column(column)[row]).filter(|value| !value.is_nan());
        let (low, high) = present.clone().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        // Without a value that can be parted from another, the next column is drawn.
        if low < high {
            let drawn = low + rng.uniform() * (high - low);
            // Between infinities there is no middle: any of the values but the greatest will do.
            let threshold = if drawn.is_finite() && drawn < high { drawn } else { below_the_greatest(present.collect(), rng) };
            return Some(Cut { column, threshold });
        }
    }
    None
}

fn below_the_greatest(mut values: Vec<f64>, rng: &mut Rng) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    // The two zeros are one value.
    values.dedup_by(|a, b| a == b);
    values[rng.below(values.len() as u64 - 1) as usize]
}

impl IsolationModel {
    /// From a sum of depths to the margin.
    fn unit(&self) -> f64 {
        -LN_2 / (self.trees.count() * usual_depth(self.report.sample))
    }

    fn in_units(&self, mut sums: Vec<f64>) -> Vec<f64> {
        let unit = self.unit();
        sums.iter_mut().for_each(|sum| *sum *= unit);
        sums
    }
}

impl Model for IsolationModel {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    /// The prediction is the anomaly score, above 0 and up to 1.
    fn link(&self) -> Link {
        Link::Log
    }

    fn margin(&self, row: &[f64]) -> f64 {
        self.trees.sum(row) * self.unit()
    }

    fn margins(&self, matrix: &Matrix) -> Vec<f64> {
        self.in_units(self.trees.sums(matrix))
    }

    /// Exact path-dependent TreeSHAP: which inputs part the row from the others, and by how much of the score's logarithm.
    fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        let (base, unit) = (self.trees.explain(row, contributions), self.unit());
        contributions.iter_mut().for_each(|contribution| *contribution *= unit);
        base * unit
    }

    fn explain_against(&self, row: &[f64], reference: &Matrix, contributions: &mut Vec<f64>) -> Option<f64> {
        let (base, unit) = (self.trees.explain_against(row, reference, contributions), self.unit());
        contributions.iter_mut().for_each(|contribution| *contribution *= unit);
        Some(base * unit)
    }

    fn explanations(&self, matrix: &Matrix) -> Vec<f64> {
        self.in_units(self.trees.explanations(matrix))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut body = Writer::default();
        self.trees.write(&mut body);
        let header =
            Header { kind: KIND.into(), inputs: self.inputs.clone(), parameters: self.parameters.clone(), report: self.report.clone() };
        seal(&header, body)
    }

    /// How often each input parts few rows from many.
    fn importance(&self) -> Vec<f64> {
        self.trees.gains()
    }

    fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "kind": KIND,
            "inputs": self.inputs,
            "parameters": self.parameters,
            "report": self.report,
            "leaves": self.trees.leaves(),
            "importance": self.importance(),
        })
    }
}

pub(crate) fn read(sealed: &Sealed<'_>) -> Result<Box<dyn Model>, LearnError> {
    let Header { inputs, parameters, report, .. } = sealed.header::<Isolation, Report>()?;
    let mut body = sealed.body();
    let trees = Ensemble::read(&mut body, inputs.len())?;
    body.end()?;
    let is_depth = |depth: &f64| (0.0..=1e6).contains(depth);
    if report.sample < 2 || !trees.trees.iter().flat_map(|tree| &tree.leaves).all(is_depth) {
        return Err(LearnError::corrupt("a leaf whose depth is not one, or a sample of one row"));
    }
    Ok(Box::new(IsolationModel { inputs, parameters, report, trees }))
}

#[cfg(test)]
#[path = "isolation_tests.rs"]
mod tests;
