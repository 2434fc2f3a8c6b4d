//! Logistic regression that learns row by row: FTRL-proximal (McMahan et al. 2013), each coefficient with a learning rate of its own.
//!
//! Columns are standardised by their running mean and standard deviation, so that one learning rate and one penalty suit all of them, and callers
//! pass raw values. A missing value counts as the mean: it neither helps nor harms; so does an infinite one, or one beyond 1e100. What lies more than ten
//! standard deviations from the mean counts as ten: one wild row must not end a coefficient's learning.
//!
//! With `half_life`, older rows count less: mean and deviation follow the stream, and learning rates stay as high as the newer rows' gradients
//! ask for, while what is learned stays until newer rows speak against it.

use serde::{Deserialize, Serialize};

use super::{Online, Spread, check_start, is_there};
use crate::format::{Header, Sealed, Writer, seal};
use crate::math::{margin_loss, sigmoid};
use crate::{LearnError, Link, Model, TrainingSet, explain};

pub const KIND: &str = "online_logistic";

/// Standard deviations that a value is at most taken to be from the mean.
const FARTHEST: f64 = 10.0;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OnlineLogistic {
    /// The first step of a coefficient, as a share of its gradient; later ones shrink with the root of its squared gradients' sum (alpha).
    pub learning_rate: f64,
    /// Added to that root (beta): the greater, the smaller the first steps.
    pub smoothing: f64,
    /// Penalty on the sum of absolute standardised coefficients, beside the summed log loss: leaves out columns that do not help. The intercept is
    /// free.
    pub l1: f64,
    /// Penalty `l2 / 2 * sum of squared standardised coefficients`.
    pub l2: f64,
    /// After so much weight of newer rows a row counts half; `None`: all rows count alike for ever.
    pub half_life: Option<f64>,
}

impl Default for OnlineLogistic {
    fn default() -> Self {
        OnlineLogistic { learning_rate: 0.1, smoothing: 1.0, l1: 0.0, l2: 0.0, half_life: None }
    }
}

impl OnlineLogistic {
    fn check(&self) -> Result<(), LearnError> {
        let require = |holds: bool, name, found: f64, must| {
            if holds { Ok(()) } else { Err(LearnError::BadParameter { name, found: found.to_string(), must }) }
        };
        let within = |value: f64, least: f64, most: f64| value >= least && value <= most;
        require(within(self.learning_rate, 1e-9, 1e3), "learning_rate", self.learning_rate, "1e-9 to 1000")?;
        require(within(self.smoothing, 1e-6, 1e6), "smoothing", self.smoothing, "1e-6 to 1000000")?;
        require(within(self.l1, 0.0, 1e12), "l1", self.l1, "0 to 1e12")?;
        require(within(self.l2, 0.0, 1e12), "l2", self.l2, "0 to 1e12")?;
        let half_life = self.half_life.unwrap_or(1.0);
        require(within(half_life, 1.0, 1e15), "half_life", half_life, "1 to 1e15, or none")
    }
}

/// A logistic regression as far as it has learned.
#[derive(Clone, Debug, PartialEq)]
pub struct OnlineLogisticModel {
    inputs: Vec<String>,
    parameters: OnlineLogistic,
    report: Report,
    intercept: Coordinate,
    columns: Vec<Column>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Report {
    rows: u64,
    weight: f64,
    positive_weight: f64,
    /// Sum over the rows of the loss each had before it was learned from, times its weight.
    loss: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Column {
    spread: Spread,
    /// Of `spread`; 0 while there is none.
    deviation: f64,
    coordinate: Coordinate,
}

/// One coefficient of FTRL-proximal.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Coordinate {
    /// The gradients so far, less what the proximal terms hold the coefficient at.
    z: f64,
    /// Squared gradients so far.
    n: f64,
    /// The coefficient that `z` and `n` ask for.
    value: f64,
}

struct Penalty {
    l1: f64,
    l2: f64,
}

impl Coordinate {
    /// How firmly the coefficient is held where it is.
    fn firmness(&self, parameters: &OnlineLogistic, penalty: &Penalty) -> f64 {
        (parameters.smoothing + libm::sqrt(self.n)) / parameters.learning_rate + penalty.l2
    }

    fn settle(&mut self, parameters: &OnlineLogistic, penalty: &Penalty) {
        let beyond = self.z.abs() - penalty.l1;
        self.value = if beyond > 0.0 { -beyond.copysign(self.z) / self.firmness(parameters, penalty) } else { 0.0 };
    }

    fn step(&mut self, gradient: f64, parameters: &OnlineLogistic, penalty: &Penalty) {
        let squared = gradient * gradient;
        let sigma = (libm::sqrt(self.n + squared) - libm::sqrt(self.n)) / parameters.learning_rate;
        self.z += gradient - sigma * self.value;
        self.n += squared;
        self.settle(parameters, penalty);
    }

    /// The squared gradients count for less; the coefficient stays.
    fn fade(&mut self, keep: f64, parameters: &OnlineLogistic, penalty: &Penalty) {
        self.n *= keep;
        if self.value != 0.0 {
            self.z = -self.value * self.firmness(parameters, penalty) + penalty.l1.copysign(self.z);
        }
    }
}

impl Column {
    fn standardised(&self, value: f64) -> f64 {
        if self.deviation > 0.0 && is_there(value) { ((value - self.spread.mean) / self.deviation).clamp(-FARTHEST, FARTHEST) } else { 0.0 }
    }

    fn contribution(&self, value: f64) -> f64 {
        self.coordinate.value * self.standardised(value)
    }

    fn set_deviation(&mut self) {
        let deviation = libm::sqrt(self.spread.variance());
        // Rounding leaves a constant far from 0 a little spread that is none.
        self.deviation = if deviation > 1e-12 * self.spread.mean.abs() { deviation } else { 0.0 };
    }
}

/// Nothing learned yet: every probability is one half.
pub fn start(inputs: &[String], parameters: &OnlineLogistic) -> Result<OnlineLogisticModel, LearnError> {
    parameters.check()?;
    check_start(inputs)?;
    Ok(OnlineLogisticModel {
        inputs: inputs.to_vec(),
        parameters: parameters.clone(),
        report: Report::default(),
        intercept: Coordinate::default(),
        columns: vec![Column::default(); inputs.len()],
    })
}

/// One pass over the rows, in their order.
pub fn fit(training_set: &TrainingSet, parameters: &OnlineLogistic) -> Result<OnlineLogisticModel, LearnError> {
    super::fit(start(training_set.matrix.names(), parameters)?, training_set)
}

impl OnlineLogisticModel {
    /// Coefficients of the standardised columns.
    pub fn standardised_coefficients(&self) -> Vec<f64> {
        self.columns.iter().map(|column| column.coordinate.value).collect()
    }

    /// Coefficients for raw values: what the margin gains for each unit of the input.
    pub fn coefficients(&self) -> Vec<f64> {
        let raw = |column: &Column| if column.deviation > 0.0 { column.coordinate.value / column.deviation } else { 0.0 };
        self.columns.iter().map(raw).collect()
    }
}

impl Online for OnlineLogisticModel {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn classes(&self) -> usize {
        2
    }

    fn rows(&self) -> u64 {
        self.report.rows
    }

    fn take(&mut self, row: &[f64], class: usize, weight: f64) {
        let OnlineLogistic { l1, l2, half_life, .. } = self.parameters;
        let (parameters, penalty, free) = (&self.parameters, Penalty { l1, l2 }, Penalty { l1: 0.0, l2: 0.0 });
        let label = class as f64;
        let margin = self.margin(row);
        self.report.rows += 1;
        self.report.weight += weight;
        self.report.positive_weight += weight * label;
        self.report.loss += weight * margin_loss(margin, label);
        if let Some(half_life) = half_life {
            let keep = libm::exp2(-weight / half_life);
            self.intercept.fade(keep, parameters, &free);
            for column in &mut self.columns {
                column.spread.fade(keep);
                column.coordinate.fade(keep, parameters, &penalty);
            }
        }
        // The row's own values are part of the mean and the deviation that it is measured by.
        for (column, &value) in self.columns.iter_mut().zip(row) {
            if is_there(value) {
                column.spread.add(value, weight);
            }
            // Also without a value, after fading: what is computed from a state must be what is computed from it once it is loaded.
            column.set_deviation();
        }
        let margin =
            self.columns.iter().zip(row).fold(self.intercept.value, |margin, (column, &value)| margin + column.contribution(value));
        let gradient = weight * (sigmoid(margin) - label);
        self.intercept.step(gradient, parameters, &free);
        for (column, &value) in self.columns.iter_mut().zip(row) {
            let standardised = column.standardised(value);
            if standardised != 0.0 {
                column.coordinate.step(gradient * standardised, parameters, &penalty);
            }
        }
    }

    fn class_probabilities(&self, row: &[f64], out: &mut Vec<f64>) {
        let positive = self.probability(row);
        out.clear();
        out.extend([1.0 - positive, positive]);
    }

    fn class_margins(&self, row: &[f64], out: &mut Vec<f64>) {
        out.clear();
        out.push(self.margin(row));
    }

    fn explain(&self, row: &[f64], _: usize, contributions: &mut Vec<f64>) -> f64 {
        Model::explain(self, row, contributions)
    }

    fn as_model(&self) -> Option<&dyn Model> {
        Some(self)
    }

    fn importance(&self) -> Vec<f64> {
        Model::importance(self)
    }

    fn to_bytes(&self) -> Vec<u8> {
        Model::to_bytes(self)
    }

    fn describe(&self) -> serde_json::Value {
        Model::describe(self)
    }
}

impl Model for OnlineLogisticModel {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn link(&self) -> Link {
        Link::Logit
    }

    fn margin(&self, row: &[f64]) -> f64 {
        assert_eq!(row.len(), self.columns.len(), "a row must have one value an input");
        self.columns.iter().zip(row).fold(self.intercept.value, |margin, (column, &value)| margin + column.contribution(value))
    }

    /// The base is the margin of a row of means; a contribution is the coefficient times the distance from the mean.
    fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        assert_eq!(row.len(), self.columns.len(), "a row must have one value an input");
        contributions.clear();
        contributions.extend(self.columns.iter().zip(row).map(|(column, &value)| column.contribution(value)));
        self.intercept.value
    }

    fn interactions(&self, row: &[f64]) -> Option<Vec<f64>> {
        Some(explain::no_interactions(self, row))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut body = Writer::default();
        let coordinate = |body: &mut Writer, of: &Coordinate| body.f64s(&[of.z, of.n, of.value]);
        coordinate(&mut body, &self.intercept);
        for column in &self.columns {
            column.spread.write(&mut body);
            coordinate(&mut body, &column.coordinate);
        }
        let (inputs, parameters, report) = (self.inputs.clone(), self.parameters.clone(), self.report.clone());
        seal(&Header { kind: KIND.into(), inputs, parameters, report }, body)
    }

    /// Size of the standardised coefficient: what one standard deviation of the input moves the margin.
    fn importance(&self) -> Vec<f64> {
        self.columns.iter().map(|column| column.coordinate.value.abs()).collect()
    }

    fn describe(&self) -> serde_json::Value {
        let log_loss = if self.report.weight > 0.0 { self.report.loss / self.report.weight } else { 0.0 };
        serde_json::json!({
            "kind": KIND,
            "inputs": self.inputs,
            "parameters": self.parameters,
            "report": { "rows": self.report.rows, "weight": self.report.weight, "positive_weight": self.report.positive_weight, "log_loss": log_loss },
            "intercept_at_means": self.intercept.value,
            "coefficients": self.coefficients(),
        })
    }
}

pub(crate) fn read(sealed: &Sealed<'_>) -> Result<Box<dyn Model>, LearnError> {
    Ok(Box::new(read_online(sealed)?))
}

pub(super) fn read_online(sealed: &Sealed<'_>) -> Result<OnlineLogisticModel, LearnError> {
    let Header { inputs, parameters, report, .. } = sealed.header::<OnlineLogistic, Report>()?;
    parameters.check().map_err(|error| LearnError::corrupt(error.to_string()))?;
    let mut body = sealed.body();
    body.room_for(inputs.len() + 1, 24)?;
    let coordinate = |body: &mut crate::format::Reader<'_>| {
        let found = Coordinate { z: body.f64()?, n: body.f64()?, value: body.f64()? };
        let sound = found.z.is_finite() && found.n.is_finite() && found.n >= 0.0 && found.value.is_finite();
        if sound { Ok(found) } else { Err(LearnError::corrupt("a coefficient is not a finite number")) }
    };
    let intercept = coordinate(&mut body)?;
    let mut columns = Vec::with_capacity(inputs.len());
    for _ in 0..inputs.len() {
        let mut column = Column { spread: Spread::read(&mut body)?, deviation: 0.0, coordinate: coordinate(&mut body)? };
        column.set_deviation();
        columns.push(column);
    }
    body.end()?;
    Ok(OnlineLogisticModel { inputs, parameters, report, intercept, columns })
}

#[cfg(test)]
#[path = "logistic_tests.rs"]
mod tests;
