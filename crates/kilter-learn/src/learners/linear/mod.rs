//! Linear regression of a number: least squares, ridge (`l2`), lasso (`l1`) and elastic net (both).
//!
//! Columns are standardised inside the model, missing and infinite values count as the column's mean, a column without variation gets no
//! coefficient: as in [`logistic`](super::logistic), with which it shares the search for the least cost.

mod coefficients;
mod fitted;
mod problem;

use serde::{Deserialize, Serialize};

pub(crate) use coefficients::Coefficients;
pub use fitted::{Line, Regression, Training};
pub(crate) use fitted::{read, read_line};
pub(crate) use problem::solve_positive;
pub(super) use problem::{Loss, Patience, Penalty, minimise};

use crate::{LearnError, Link, TrainingSet};

pub const KIND: &str = "linear";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Linear {
    /// Penalty: `l1 * sum of absolute standardised coefficients` beside half the sum of squared errors (scikit-learn's `alpha * l1_ratio`, times
    /// the rows). The intercept is free.
    pub l1: f64,
    /// Penalty: `l2 / 2 * sum of squared standardised coefficients`.
    pub l2: f64,
    pub max_iterations: usize,
    /// Stop when no standardised coefficient moves by more than this.
    pub tolerance: f64,
}

impl Default for Linear {
    fn default() -> Self {
        Linear { l1: 0.0, l2: 1.0, max_iterations: 50, tolerance: 1e-8 }
    }
}

/// A fitted linear regression. Its coefficients are of the label for each unit of the input.
pub type LinearModel = Line<Linear>;

impl Regression for Linear {
    const KIND: &'static str = KIND;
    const LINK: Link = Link::Identity;
    type Report = Report;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    rows: usize,
    iterations: usize,
    converged: bool,
    mean_squared_error: f64,
}

pub fn fit(training_set: &TrainingSet, parameters: &Linear) -> Result<LinearModel, LearnError> {
    let Linear { l1, l2, max_iterations, tolerance } = *parameters;
    let (penalty, patience) = (Penalty { l1, l2 }, Patience { max_iterations, tolerance });
    penalty.check()?;
    patience.check()?;
    training_set.check()?;
    training_set.check_labels(f64::is_finite, "a finite number")?;
    training_set.check_some_weight()?;
    let found = minimise(training_set, Loss::Squared, penalty, patience);
    let report = Report {
        rows: training_set.rows(),
        iterations: found.iterations,
        converged: found.converged,
        mean_squared_error: 2.0 * found.mean_loss,
    };
    let inputs = training_set.matrix.names().to_vec();
    Ok(Line { inputs, parameters: parameters.clone(), report, line: found.coefficients })
}

impl Training for Report {
    fn converged(&self) -> bool {
        self.converged
    }
}

#[cfg(test)]
mod tests;
