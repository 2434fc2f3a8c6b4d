//! Random forests (Breiman 2001) and extra trees (Geurts, Ernst, Wehenkel 2006): the mean of many trees that are each grown on rows drawn
//! with replacement, or split at thresholds drawn at random, and look at a few columns only for each split.
//!
//! A classifier's margin is its probability: the mean over the trees of the share of positive rows in the row's leaf. So are its
//! contributions: exact Shapley values of that share. A regression's is the mean of the leaves' means.
//!
//! Columns are cut into bins as for boosted trees. A tree is grown by one thread, from what its number and the seed say, so the model's bytes
//! do not depend on the number of threads. Missing values (NaN) go to the side that parts the labels better; where a split's rows had none,
//! to the side with more rows. Infinite values are ordinary extremes.
//!
//! `grow` makes a tree, `scan` finds how a column parts a node's rows, `model` scores and explains.

mod grow;
mod model;
mod scan;

use kilter_stats::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::gbdt::MAX_DEPTH;
use super::gbdt::binned::{self, Binned};
use crate::{LearnError, TrainingSet, metrics};

pub use super::target::Target;
use grow::{Bag, Grower, Grown};
pub use model::{ForestModel, OutOfBag, Report};
pub(crate) use model::{read, read_forest};

pub const KIND: &str = "forest";

/// Which thresholds of a column a split chooses from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thresholds {
    /// All of them: a random forest.
    #[default]
    Best,
    /// One, drawn between the least and the greatest value of the node's rows: extra trees.
    Random,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Forest {
    /// Left out of a file when it is the probability of a class.
    #[serde(skip_serializing_if = "Target::is_default")]
    pub target: Target,
    pub trees: usize,
    pub thresholds: Thresholds,
    /// Columns looked at for each split; more if a node's rows are the same in all of them. None: for a class the root of their number, for a mean a third
    /// of it.
    pub columns_per_split: Option<usize>,
    /// Most splits between a tree's root and a leaf; at most 128 in any case.
    pub max_depth: Option<usize>,
    /// Fewest rows in a leaf; a row counts once, however often it was drawn.
    pub min_leaf_rows: usize,
    /// Whether each tree draws rows of its own, with replacement; else it sees each row once.
    pub bootstrap: bool,
    /// How many rows a tree draws, as a share of all.
    pub draw_fraction: f64,
    /// Bins a column is cut into, 2 to 255, beside the one for missing values.
    pub bins: usize,
    pub seed: u64,
}

impl Default for Forest {
    fn default() -> Self {
        Forest {
            target: Target::Binary,
            trees: 100,
            thresholds: Thresholds::Best,
            columns_per_split: None,
            max_depth: None,
            min_leaf_rows: 5,
            bootstrap: true,
            draw_fraction: 1.0,
            bins: 255,
            seed: 7,
        }
    }
}

impl Forest {
    fn check(&self) -> Result<(), LearnError> {
        let require = |holds: bool, name, found: String, must| {
            if holds { Ok(()) } else { Err(LearnError::BadParameter { name, found, must }) }
        };
        let share = self.draw_fraction;
        require((1..=10_000).contains(&self.trees), "trees", self.trees.to_string(), "1 to 10000")?;
        require(self.columns_per_split != Some(0), "columns_per_split", "0".into(), "at least 1, or none")?;
        require(self.max_depth != Some(0), "max_depth", "0".into(), "at least 1, or none")?;
        require(self.min_leaf_rows >= 1, "min_leaf_rows", "0".into(), "at least 1")?;
        require(share > 0.0 && share <= 1.0, "draw_fraction", share.to_string(), "above 0, up to 1")?;
        require((2..=255).contains(&self.bins), "bins", self.bins.to_string(), "2 to 255")
    }

    fn columns_per_split(&self, width: usize) -> usize {
        let own = match self.target {
            Target::Binary => libm::sqrt(width as f64) as usize,
            Target::Mean => width / 3,
        };
        self.columns_per_split.unwrap_or(own).clamp(1, width)
    }
}

/// Grows the trees and, where they drew their rows, judges each row by the trees that did not see it.
pub fn fit(training_set: &TrainingSet, parameters: &Forest) -> Result<ForestModel, LearnError> {
    parameters.check()?;
    training_set.check()?;
    parameters.target.check_labels(training_set)?;
    let (matrix, rows) = (&training_set.matrix, training_set.rows());
    if u32::try_from(rows).is_err() {
        return Err(LearnError::TooManyRows { rows, limit: u32::MAX as usize });
    }
    let cuts = binned::cut(matrix, 0..rows, parameters.bins, parameters.seed);
    let binned = Binned::new(matrix, 0..rows, &cuts);
    // Around their mean, sums of squares of numbers far from 0 keep their digits.
    let middle = if parameters.target == Target::Mean { mean(training_set) } else { 0.0 };
    let labels: Vec<f64> = training_set.labels.iter().map(|label| label - middle).collect();
    // As shares of the largest, so that no sum of them is without end.
    let largest = (0..rows).map(|row| training_set.weight(row)).fold(0.0, f64::max);
    let weights: Vec<f64> = (0..rows).map(|row| training_set.weight(row) / largest).collect();
    // Rows of no weight teach nothing.
    let rows_that_count: Vec<u32> = (0..rows as u32).filter(|&row| weights[row as usize] > 0.0).collect();
    let values = (parameters.thresholds == Thresholds::Random).then(|| scan::least_of_bins(matrix, &binned, &cuts));
    let grower = Grower {
        cuts: &cuts,
        binned: &binned,
        labels: &labels,
        weights: &weights,
        least_of_bins: values.as_deref(),
        middle,
        columns_per_split: parameters.columns_per_split(matrix.columns()),
        max_depth: parameters.max_depth.unwrap_or(MAX_DEPTH).min(MAX_DEPTH),
        min_leaf_rows: parameters.min_leaf_rows as f64,
    };
    let seeds = Rng::seeded(parameters.seed);
    let draws = parameters.bootstrap.then_some(libm::ceil(rows_that_count.len() as f64 * parameters.draw_fraction) as usize);
    let grow = |tree: usize| {
        let mut rng = seeds.fork(tree as u64);
        let bag = Bag::draw(&rows_that_count, draws, rows, &mut rng);
        grower.grow(bag, &mut rng)
    };
    let grown: Vec<Grown> = (0..parameters.trees).into_par_iter().map(grow).collect();
    let report = Report {
        rows,
        positives: (parameters.target == Target::Binary).then(|| training_set.positives()),
        out_of_bag: out_of_bag(training_set, &weights, parameters.target, &binned, &grown),
    };
    let trees = grown.into_iter().map(|grown| grown.tree).collect();
    Ok(ForestModel::new(matrix.names().to_vec(), parameters.clone(), report, trees))
}

fn mean(set: &TrainingSet) -> f64 {
    let weight: f64 = (0..set.rows()).map(|row| set.weight(row)).sum();
    set.labels.iter().enumerate().map(|(row, label)| label * (set.weight(row) / weight)).sum()
}

/// How well each row is predicted by the trees that did not draw it; `None` where all trees saw all rows.
fn out_of_bag(set: &TrainingSet, weights: &[f64], target: Target, binned: &Binned<'_>, grown: &[Grown]) -> Option<OutOfBag> {
    let predict = |row: usize| {
        let (mut sum, mut trees) = (0.0, 0u32);
        for grown in grown.iter().filter(|grown| !grown.has_seen(row)) {
            sum += grown.tree.leaves[grown.tree.leaf_of_bins(&grown.bins, |column| binned.by_column[column][row])];
            trees += 1;
        }
        (trees > 0 && weights[row] > 0.0).then(|| (row, sum / f64::from(trees)))
    };
    let found: Vec<(usize, f64)> = (0..set.rows()).into_par_iter().filter_map(predict).collect();
    let labels: Vec<f64> = found.iter().map(|&(row, _)| set.labels[row]).collect();
    let weights: Vec<f64> = found.iter().map(|&(row, _)| weights[row]).collect();
    let predictions: Vec<f64> = found.iter().map(|&(_, prediction)| prediction).collect();
    if found.is_empty() {
        return None;
    }
    let auc = Some(metrics::auc_weighted(&predictions, &labels, &weights)).filter(|auc| target == Target::Binary && auc.is_finite());
    Some(OutOfBag { rows: found.len(), mean_squared_error: metrics::brier_weighted(&predictions, &labels, &weights), auc })
}

#[cfg(test)]
mod tests;
