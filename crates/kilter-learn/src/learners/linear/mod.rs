//! Linear regression of a number: least squares, ridge (`l2`), lasso (`l1`) and elastic net (both).
//!
//! Columns are standardised inside the model, missing and infinite values count as the column's mean, a column without variation gets no
//! coefficient: as in [`logistic`](super::logistic), with which it shares the search for the least cost.

mod coefficients;
mod problem;

use serde::{Deserialize, Serialize};

pub(super) use coefficients::Coefficients;
pub(crate) use problem::solve_positive;
pub(super) use problem::{Loss, Patience, Penalty, minimise};

use crate::format::{Header, Sealed, seal};
use crate::{LearnError, Link, Model, TrainingSet, explain};

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

/// A fitted linear regression.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearModel {
    inputs: Vec<String>,
    parameters: Linear,
    report: Report,
    line: Coefficients,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Report {
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
    Ok(LinearModel { inputs, parameters: parameters.clone(), report, line: found.coefficients })
}

impl LinearModel {
    /// Whether the coefficients settled within the allowed iterations.
    pub fn converged(&self) -> bool {
        self.report.converged
    }

    /// Coefficients for raw values: of the label for each unit of the input.
    pub fn coefficients(&self) -> Vec<f64> {
        self.line.raw()
    }
}

impl Model for LinearModel {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn link(&self) -> Link {
        Link::Identity
    }

    fn margin(&self, row: &[f64]) -> f64 {
        self.line.margin(row)
    }

    fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        self.line.explain(row, contributions)
    }

    fn interactions(&self, row: &[f64]) -> Option<Vec<f64>> {
        Some(explain::no_interactions(self, row))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let header =
            Header { kind: KIND.into(), inputs: self.inputs.clone(), parameters: self.parameters.clone(), report: self.report.clone() };
        seal(&header, self.line.body())
    }

    fn importance(&self) -> Vec<f64> {
        self.line.importance()
    }

    fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "kind": KIND,
            "inputs": self.inputs,
            "parameters": self.parameters,
            "report": self.report,
            "intercept_at_means": self.line.intercept,
            "coefficients": self.coefficients(),
        })
    }
}

pub(crate) fn read(sealed: &Sealed<'_>) -> Result<Box<dyn Model>, LearnError> {
    let Header { inputs, parameters, report, .. } = sealed.header::<Linear, Report>()?;
    let line = Coefficients::read(sealed, inputs.len())?;
    Ok(Box::new(LinearModel { inputs, parameters, report, line }))
}

#[cfg(test)]
mod tests;
