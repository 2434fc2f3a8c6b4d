//! Calibration of several classes, fitted on rows that the model has not learned from and kept with it.
//!
//! Temperature scaling (Guo et al. 2017) has one number: every log probability is divided by it, and the probabilities are made to sum to 1 again. It makes
//! a model surer or less sure, never turns the order of two classes round, and is right with few rows. The other methods calibrate each class
//! against all others, as with two classes, and make the results sum to 1 (Zadrozny and Elkan 2002): for many rows, and models that are too
//! sure of some classes and not of others.

use serde::{Deserialize, Serialize};

use super::{Map, Method};
use crate::classes::ClassModel;
use crate::format::{Reader, Writer};
use crate::math::logit;
use crate::{LearnError, TrainingSet};

/// How the probabilities of several classes are bent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassMethod {
    /// One number for all classes.
    Temperature,
    /// Each class against the others.
    Platt,
    Isotonic,
    Beta,
}

const MIN_OF_A_CLASS: usize = 10;
/// Log probabilities reach no further: a class that is all but impossible can still be made likelier.
const LEAST: f64 = 1e-15;

impl ClassMethod {
    pub const ALL: [(&'static str, ClassMethod); 4] = [
        ("temperature", ClassMethod::Temperature),
        ("platt", ClassMethod::Platt),
        ("isotonic", ClassMethod::Isotonic),
        ("beta", ClassMethod::Beta),
    ];

    pub fn name(self) -> &'static str {
        ClassMethod::ALL.iter().find(|(_, method)| *method == self).map_or("", |(name, _)| name)
    }

    /// The method for one class against the others; none: all at once.
    fn of_one(self) -> Option<Method> {
        match self {
            ClassMethod::Temperature => None,
            ClassMethod::Platt => Some(Method::Platt),
            ClassMethod::Isotonic => Some(Method::Isotonic),
            ClassMethod::Beta => Some(Method::Beta),
        }
    }

    pub fn min_rows(self) -> usize {
        self.of_one().map_or(50, Method::min_rows)
    }
}

/// A fitted map from probabilities to probabilities.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClassMap {
    method: ClassMethod,
    bend: Bend,
    report: Report,
}

#[derive(Clone, Debug, PartialEq)]
enum Bend {
    /// What log probabilities are multiplied by: one over the temperature.
    Sharpness(f64),
    OneVsRest(Vec<Map>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Report {
    rows: usize,
    /// On the rows it was fitted to.
    before: ClassQuality,
    after: ClassQuality,
}

/// How well the probabilities of several classes fit some rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassQuality {
    /// In nats.
    pub log_loss: f64,
    /// Mean squared distance of all classes' probabilities from what came true.
    pub brier: f64,
}

/// Fits a calibration on rows that the model has not learned from; labels are numbers of classes.
pub fn calibrate_classes(model: ClassModel, rows: &TrainingSet, method: ClassMethod) -> Result<ClassModel, LearnError> {
    if model.calibration().is_some() {
        return Err(LearnError::AlreadyCalibrated);
    }
    if model.inputs() != rows.matrix.names() {
        return Err(LearnError::DifferentColumns { training: model.inputs().to_vec(), validation: rows.matrix.names().to_vec() });
    }
    rows.check()?;
    let classes = model.classes().len();
    rows.check_labels(|label| label >= 0.0 && label < classes as f64 && label == libm::trunc(label), "the number of a class, from 0 on")?;
    let mut counts = vec![0usize; classes];
    (0..rows.rows()).filter(|&row| rows.weight(row) > 0.0).for_each(|row| counts[rows.labels[row] as usize] += 1);
    let (counted, rarest) = (counts.iter().sum::<usize>(), counts.iter().copied().min().unwrap_or(0));
    let needed_of_each = if method.of_one().is_some() { MIN_OF_A_CLASS } else { 0 };
    if counted < method.min_rows() || rarest < needed_of_each {
        let needed = method.min_rows();
        return Err(LearnError::TooFewToCalibrate { method: method.name(), rows: counted, positives: rarest, needed, needed_of_each });
    }

    let probabilities = model.all_probabilities(&rows.matrix);
    let weights: Vec<f64> = (0..rows.rows()).map(|row| rows.weight(row)).collect();
    let bend = match method.of_one() {
        None => Bend::Sharpness(sharpness(&probabilities, classes, &rows.labels, &weights)),
        Some(method) => {
            let of_class = |class: usize| {
                let margins: Vec<f64> = probabilities.iter().skip(class).step_by(classes).map(|&p| log_odds(p)).collect();
                let labels: Vec<f64> = rows.labels.iter().map(|&label| f64::from(u8::from(label == class as f64))).collect();
                Map::fit(method, 0.0, &margins, &labels, &weights)
            };
            Bend::OneVsRest((0..classes).map(of_class).collect())
        }
    };
    let before = quality(&probabilities, classes, &rows.labels, &weights);
    let mut bent = probabilities;
    bent.chunks_exact_mut(classes).for_each(|row| bend.apply(row));
    let report = Report { rows: counted, before, after: quality(&bent, classes, &rows.labels, &weights) };
    Ok(model.with_calibration(ClassMap { method, bend, report }))
}

fn log_odds(probability: f64) -> f64 {
    logit(probability.clamp(LEAST, 1.0 - LEAST))
}

fn quality(probabilities: &[f64], classes: usize, labels: &[f64], weights: &[f64]) -> ClassQuality {
    let (mut log_loss, mut brier, mut total) = (0.0, 0.0, 0.0);
    for (row, of_row) in probabilities.chunks_exact(classes).enumerate() {
        let own = labels[row] as usize;
        log_loss -= weights[row] * libm::log(of_row[own].max(LEAST));
        let squared = |(class, p): (usize, &f64)| (p - f64::from(u8::from(class == own))) * (p - f64::from(u8::from(class == own)));
        brier += weights[row] * of_row.iter().enumerate().map(squared).sum::<f64>();
        total += weights[row];
    }
    ClassQuality { log_loss: log_loss / total, brier: brier / total }
}

/// The factor of log probabilities with the least log loss, which is convex in it: where its slope is 0, found by halving.
fn sharpness(probabilities: &[f64], classes: usize, labels: &[f64], weights: &[f64]) -> f64 {
    let logs: Vec<f64> = probabilities.iter().map(|p| libm::log(p.max(LEAST))).collect();
    let slope = |factor: f64| -> f64 {
        let of_row = |(row, logs): (usize, &[f64])| {
            let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let (mut sum, mut mean) = (0.0, 0.0);
            for log in logs {
                let share = libm::exp(factor * (log - most));
                sum += share;
                mean += share * log;
            }
            weights[row] * (mean / sum - logs[labels[row] as usize])
        };
        logs.chunks_exact(classes).enumerate().map(of_row).sum()
    };
    // Rows without a mistake ask for a factor without end, and coin tosses for none: a temperature between 0.02 and 50 is as far as rows can say.
    let (mut low, mut high) = (0.02, 50.0);
    if slope(low) >= 0.0 {
        return low;
    }
    if slope(high) <= 0.0 {
        return high;
    }
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if slope(middle) < 0.0 { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

impl Bend {
    fn apply(&self, probabilities: &mut [f64]) {
        match self {
            Bend::Sharpness(factor) => {
                probabilities.iter_mut().for_each(|p| *p = factor * libm::log(p.max(LEAST)));
                let most = probabilities.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                probabilities.iter_mut().for_each(|log| *log = libm::exp(*log - most));
            }
            Bend::OneVsRest(maps) => probabilities.iter_mut().zip(maps).for_each(|(p, map)| *p = map.probability(log_odds(*p))),
        }
        let (total, even) = (probabilities.iter().sum::<f64>(), 1.0 / probabilities.len() as f64);
        // Where every class is all but impossible, none is likelier than another.
        probabilities.iter_mut().for_each(|share| *share = if total > 0.0 { *share / total } else { even });
    }
}

impl ClassMap {
    pub fn apply(&self, probabilities: &mut [f64]) {
        self.bend.apply(probabilities);
    }

    pub fn method(&self) -> ClassMethod {
        self.method
    }

    pub fn describe(&self) -> serde_json::Value {
        let curve = match &self.bend {
            Bend::Sharpness(factor) => serde_json::json!({ "temperature": 1.0 / factor }),
            Bend::OneVsRest(maps) => serde_json::json!({ "one_vs_rest": maps.iter().map(Map::describe).collect::<Vec<_>>() }),
        };
        serde_json::json!({ "method": self.method, "curve": curve, "on_rows_it_was_fitted_to": self.report })
    }

    pub fn write(&self, body: &mut Writer) {
        match &self.bend {
            Bend::Sharpness(factor) => body.f64(*factor),
            Bend::OneVsRest(maps) => maps.iter().for_each(|map| map.write(body)),
        }
        // Plain numbers: serialising them cannot fail.
        body.block(&serde_json::to_vec(&self.report).unwrap_or_default());
    }

    pub fn read(method: ClassMethod, classes: usize, body: &mut Reader<'_>) -> Result<ClassMap, LearnError> {
        let bend = match method.of_one() {
            None => {
                let factor = body.f64()?;
                if !(factor.is_finite() && factor > 0.0) {
                    return Err(LearnError::corrupt("a temperature that is not above 0"));
                }
                Bend::Sharpness(factor)
            }
            Some(_) => Bend::OneVsRest((0..classes).map(|_| Map::read(body)).collect::<Result<_, _>>()?),
        };
        let report = serde_json::from_slice(body.block()?).map_err(|e| LearnError::corrupt(format!("the report of a calibration: {e}")))?;
        Ok(ClassMap { method, bend, report })
    }
}

#[cfg(test)]
#[path = "classes_tests.rs"]
mod tests;
