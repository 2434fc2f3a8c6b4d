//! Gradient-boosted decision trees: histogram-based, leaf-wise, for a yes or no, a mean, a quantile, a count or an amount.
//!
//! The method is that of XGBoost (Chen and Guestrin 2016) and LightGBM (Ke et al. 2017); sums are exact whole numbers, so the model's bytes
//! do not depend on the number of threads. Missing values (NaN) learn a side at every split. Where a split's training rows had no missing
//! value, a missing value later goes to the side with more training rows. Infinite values are ordinary extremes.
//!
//! Memory beside the training set: two bytes a value, about 30 bytes a row, and for each open leaf 2 KiB a column, 4 where leaves may have thousands of rows.
//!
//! `binned` cuts columns into bins, `by_row` lays them by row. Each round, `gradients` rounds derivatives to words, `grow` makes a tree: `summing` makes
//! `histogram`s of its nodes, `split` finds the best cut among their `thresholds`, `partition` parts the rows. `boost` makes many trees. `scoring` scores, `shap`
//! explains. `simd` runs loops on the widest vectors there are.

mod binned;
mod boost;
mod by_row;
mod gradients;
mod grow;
mod histogram;
mod model;
mod objective;
mod partition;
mod scoring;
mod shap;
mod simd;
mod split;
mod summing;
mod thresholds;
mod tree;

use serde::{Deserialize, Serialize};

use crate::{LearnError, TrainingSet};

pub(crate) use grow::MAX_DEPTH;
pub use model::{GbdtModel, Report};
pub(crate) use model::{read, read_trees};
pub use objective::Objective;
pub(crate) use shap::{Explained, Explainer, Test};
pub(crate) use tree::{Child, Tree};

pub const KIND: &str = "gbdt";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gbdt {
    /// The loss that is lowered. Left out of a file when it is log loss, so that definitions of before keep their hash.
    #[serde(skip_serializing_if = "Objective::is_default")]
    pub objective: Objective,
    /// Most trees to grow.
    pub trees: usize,
    /// Most leaves a tree may have.
    pub leaves: usize,
    /// Most splits between a tree's root and a leaf; at most 128 in any case.
    pub max_depth: Option<usize>,
    pub learning_rate: f64,
    /// Fewest training rows in a leaf.
    pub min_leaf_rows: usize,
    /// Smallest sum of hessians (weight x p x (1 - p) with log loss, weight with absolute and squared error and quantiles) in a leaf.
    pub min_child_hessian: f64,
    /// Pulls leaf values towards zero; but for medians and quantiles, which are those of the leaf's rows.
    pub lambda_l2: f64,
    /// Splits must lower the (doubled) loss by more than this.
    pub min_gain: f64,
    /// Bins a column is cut into, 2 to 255, beside the one for missing values.
    pub bins: usize,
    /// Share of rows each tree sees.
    pub bagging_fraction: f64,
    /// Share of columns each tree sees.
    pub column_fraction: f64,
    /// Stop after this many trees without a lower validation loss, and keep the best number of trees.
    pub early_stopping: Option<usize>,
    /// Share of rows, the last ones in time order, held out of training for early stopping. Ignored without it, or with a validation set of
    /// one's own.
    pub validation_fraction: f64,
    pub seed: u64,
    /// -1, 0 or 1 for each column: the score must not rise, may do anything, must not fall as the value rises. Missing
    /// values are outside the order and free. Empty: no constraint.
    pub monotone: Vec<i8>,
    /// Weight of a positive row against a negative one, with log loss only. Other than 1 it shifts probabilities away from observed rates.
    pub scale_positive: f64,
}

impl Default for Gbdt {
    fn default() -> Self {
        Gbdt {
            objective: Objective::Binary,
            trees: 300,
            leaves: 31,
            max_depth: None,
            learning_rate: 0.05,
            min_leaf_rows: 20,
            min_child_hessian: 1e-3,
            lambda_l2: 1.0,
            min_gain: 1e-6,
            bins: 255,
            bagging_fraction: 1.0,
            column_fraction: 1.0,
            early_stopping: Some(50),
            validation_fraction: 0.1,
            seed: 7,
            monotone: Vec::new(),
            scale_positive: 1.0,
        }
    }
}

/// Trains on the set. With `early_stopping`, its last rows are held out to judge when to stop.
pub fn fit(training_set: &TrainingSet, parameters: &Gbdt) -> Result<GbdtModel, LearnError> {
    parameters.check(training_set.matrix.columns())?;
    training_set.check()?;
    parameters.objective.check_labels(training_set)?;
    let rows = training_set.rows();
    if parameters.early_stopping.is_none() {
        return boost::boost(training_set, 0..rows, None, parameters);
    }
    let fraction = parameters.validation_fraction;
    let held_out = libm::ceil(rows as f64 * fraction) as usize;
    if held_out == 0 || held_out >= rows {
        return Err(LearnError::EmptyValidation { rows, fraction });
    }
    boost::boost(training_set, 0..rows - held_out, Some((training_set, rows - held_out..rows)), parameters)
}

/// Trains on one set and follows the loss on another; stops early if the parameters say so.
pub fn fit_with_validation(training: &TrainingSet, validation: &TrainingSet, parameters: &Gbdt) -> Result<GbdtModel, LearnError> {
    parameters.check(training.matrix.columns())?;
    training.check()?;
    parameters.objective.check_labels(training)?;
    validation.check()?;
    parameters.objective.check_labels(validation)?;
    if training.matrix.names() != validation.matrix.names() {
        return Err(LearnError::DifferentColumns {
            training: training.matrix.names().to_vec(),
            validation: validation.matrix.names().to_vec(),
        });
    }
    boost::boost(training, 0..training.rows(), Some((validation, 0..validation.rows())), parameters)
}

impl Gbdt {
    fn check(&self, columns: usize) -> Result<(), LearnError> {
        let require = |holds: bool, name, found: String, must| {
            if holds { Ok(()) } else { Err(LearnError::BadParameter { name, found, must }) }
        };
        let number = |value: f64| value.to_string();
        let share = |value: f64| value > 0.0 && value <= 1.0;
        let at_least_zero = |value: f64| value.is_finite() && value >= 0.0;
        let above_zero = |value: f64| value.is_finite() && value > 0.0;
        require((1..=100_000).contains(&self.trees), "trees", self.trees.to_string(), "1 to 100000")?;
        require((2..=65_536).contains(&self.leaves), "leaves", self.leaves.to_string(), "2 to 65536")?;
        require(self.max_depth != Some(0), "max_depth", "0".into(), "at least 1, or none")?;
        require(share(self.learning_rate), "learning_rate", number(self.learning_rate), "above 0, up to 1")?;
        require(self.min_leaf_rows >= 1, "min_leaf_rows", "0".into(), "at least 1")?;
        require(at_least_zero(self.min_child_hessian), "min_child_hessian", number(self.min_child_hessian), "finite and not below 0")?;
        require(at_least_zero(self.lambda_l2), "lambda_l2", number(self.lambda_l2), "finite and not below 0")?;
        require(at_least_zero(self.min_gain), "min_gain", number(self.min_gain), "finite and not below 0")?;
        require((2..=255).contains(&self.bins), "bins", self.bins.to_string(), "2 to 255")?;
        require(share(self.bagging_fraction), "bagging_fraction", number(self.bagging_fraction), "above 0, up to 1")?;
        require(share(self.column_fraction), "column_fraction", number(self.column_fraction), "above 0, up to 1")?;
        require(self.early_stopping != Some(0), "early_stopping", "0".into(), "at least 1 round, or none")?;
        let fraction = self.validation_fraction;
        let fraction_used = self.early_stopping.is_some();
        require(!fraction_used || (fraction > 0.0 && fraction < 1.0), "validation_fraction", number(fraction), "between 0 and 1")?;
        require(above_zero(self.scale_positive), "scale_positive", number(self.scale_positive), "finite and above 0")?;
        self.objective.check()?;
        let scale_used = self.objective.is_default() || self.scale_positive == 1.0;
        require(scale_used, "scale_positive", number(self.scale_positive), "1 with an objective that has no positive rows")?;
        let monotone = format!("{:?}", self.monotone);
        require(self.monotone.iter().all(|direction| (-1..=1).contains(direction)), "monotone", monotone, "-1, 0 or 1 for each column")?;
        match self.monotone.len() {
            0 => Ok(()),
            found if found == columns => Ok(()),
            found => Err(LearnError::LengthMismatch { what: "monotone", expected: columns, found }),
        }
    }
}

#[cfg(test)]
mod objective_tests;
#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod tests;
