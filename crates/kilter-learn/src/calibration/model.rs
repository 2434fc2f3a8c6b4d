//! A model with its calibration, as one model.

use serde::{Deserialize, Serialize};

use super::isotonic::Steps;
use super::{Bend, Calibration, Map, Method};
use crate::curve::Curve;
use crate::format::{Header, Sealed, Writer, seal};
use crate::math::logit;
use crate::metrics::{brier_weighted, expected_calibration_error, log_loss_weighted};
use crate::{LearnError, Link, Matrix, Model, TrainingSet, load};

pub(crate) const KIND: &str = "calibrated";

/// Fewer rows of either class than this say nothing about probabilities.
const MIN_OF_A_CLASS: usize = 10;
const ECE_BINS: usize = 10;

/// A model whose probability is calibrated. Margin, contributions and importance are the model's own.
pub struct Calibrated {
    model: Box<dyn Model>,
    calibration: Calibration,
    map: Map,
    report: Report,
}

/// How well probabilities fit some rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    pub brier: f64,
    /// Expected calibration error over ten bins of equal size.
    pub ece: f64,
    pub log_loss: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Report {
    rows: usize,
    positives: usize,
    /// Weighted share of positives.
    rate: f64,
    /// On the rows the curve was fitted to.
    before: Quality,
    after: Quality,
}

/// Fits a calibration on rows the model has not learned from.
pub fn calibrate(model: Box<dyn Model>, rows: &TrainingSet, calibration: &Calibration) -> Result<Calibrated, LearnError> {
    if let Some(rate) = calibration.target_rate
        && !(rate > 0.0 && rate < 1.0)
    {
        return Err(LearnError::BadParameter { name: "target_rate", found: rate.to_string(), must: "above 0 and below 1" });
    }
    if calibration.method == Method::PriorShift && calibration.target_rate.is_none() {
        return Err(LearnError::BadParameter { name: "target_rate", found: "not given".into(), must: "given with prior_shift" });
    }
    if model.kind() == KIND {
        return Err(LearnError::AlreadyCalibrated);
    }
    if !model.link().is_classifier() {
        return Err(LearnError::NoClassifier);
    }
    if model.inputs() != rows.matrix.names() {
        return Err(LearnError::DifferentColumns { training: model.inputs().to_vec(), validation: rows.matrix.names().to_vec() });
    }
    rows.check()?;
    rows.check_binary()?;
    let counts = |class: f64| (0..rows.rows()).filter(|&row| rows.labels[row] == class && rows.weight(row) > 0.0).count();
    let (negatives, positives) = (counts(0.0), counts(1.0));
    if negatives + positives < calibration.method.min_rows() || negatives.min(positives) < MIN_OF_A_CLASS {
        return Err(LearnError::TooFewToCalibrate {
            method: calibration.method.name(),
            rows: negatives + positives,
            positives,
            needed: calibration.method.min_rows(),
            needed_of_each: MIN_OF_A_CLASS,
        });
    }

    let margins: Vec<f64> = model.margins(&rows.matrix).into_iter().map(|margin| model.link().log_odds(margin)).collect();
    let weights: Vec<f64> = (0..rows.rows()).map(|row| rows.weight(row)).collect();
    let rate = super::mean(&rows.labels, &weights);
    let shift = calibration.target_rate.map_or(0.0, |target| logit(target) - logit(rate));
    let map = Map::fit(calibration.method, shift, &margins, &rows.labels, &weights);
    let quality = |probability: &dyn Fn(f64) -> f64| {
        let probabilities: Vec<f64> = margins.iter().map(|&margin| probability(margin)).collect();
        Quality {
            brier: brier_weighted(&probabilities, &rows.labels, &weights),
            ece: expected_calibration_error(&probabilities, &rows.labels, ECE_BINS),
            log_loss: log_loss_weighted(&probabilities, &rows.labels, &weights),
        }
    };
    let (before, after) = (quality(&crate::math::sigmoid), quality(&|margin| map.probability(margin)));
    let report = Report { rows: negatives + positives, positives, rate, before, after };
    Ok(Calibrated { model, calibration: *calibration, map, report })
}

impl Calibrated {
    /// The margin that gets this probability; `None` where none does, or many do since the curve is flat there.
    pub fn margin_of(&self, probability: f64) -> Option<f64> {
        let log_odds = self.map.invert(probability);
        if self.link() == Link::Probability { log_odds.map(crate::math::sigmoid) } else { log_odds }
    }
}

impl Model for Calibrated {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn inputs(&self) -> &[String] {
        self.model.inputs()
    }

    fn link(&self) -> Link {
        self.model.link()
    }

    fn margin(&self, row: &[f64]) -> f64 {
        self.model.margin(row)
    }

    fn margins(&self, matrix: &Matrix) -> Vec<f64> {
        self.model.margins(matrix)
    }

    fn probability_of(&self, margin: f64) -> f64 {
        self.map.probability(self.link().log_odds(margin))
    }

    fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        self.model.explain(row, contributions)
    }

    fn explain_against(&self, row: &[f64], reference: &Matrix, contributions: &mut Vec<f64>) -> Option<f64> {
        self.model.explain_against(row, reference, contributions)
    }

    fn explanations(&self, matrix: &Matrix) -> Vec<f64> {
        self.model.explanations(matrix)
    }

    fn interactions(&self, row: &[f64]) -> Option<Vec<f64>> {
        self.model.interactions(row)
    }

    fn uncalibrated(&self) -> Option<&dyn Model> {
        Some(self.model.as_ref())
    }

    fn categorical_inputs(&self) -> Vec<usize> {
        self.model.categorical_inputs()
    }

    fn unseen_categories(&self, row: &[f64]) -> usize {
        self.model.unseen_categories(row)
    }

    fn points(&self, row: &[f64]) -> Option<f64> {
        self.model.points(row)
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut body = Writer::default();
        self.map.write(&mut body);
        body.block(&self.model.to_bytes());
        let header =
            Header { kind: KIND.into(), inputs: self.inputs().to_vec(), parameters: self.calibration, report: self.report.clone() };
        seal(&header, body)
    }

    fn importance(&self) -> Vec<f64> {
        self.model.importance()
    }

    fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "kind": KIND,
            "inputs": self.inputs(),
            "calibration": {
                "method": self.calibration.method,
                "target_rate": self.calibration.target_rate,
                "curve": self.map.describe(),
                "on_rows_it_was_fitted_to": self.report,
            },
            "model": self.model.describe(),
        })
    }
}

impl Map {
    pub(super) fn write(&self, body: &mut Writer) {
        body.f64(self.shift);
        match &self.bend {
            Bend::Identity => body.u8(0),
            Bend::Platt(curve) | Bend::Beta(curve) => {
                body.u8(if matches!(self.bend, Bend::Platt(_)) { 1 } else { 2 });
                body.f64s(&curve.slopes);
                body.f64(curve.intercept);
            }
            Bend::Isotonic(steps) => {
                body.u8(3);
                body.u64(steps.margins.len() as u64);
                body.f64s(&steps.margins);
                body.f64s(&steps.probabilities);
            }
        }
    }

    pub(super) fn read(body: &mut crate::format::Reader<'_>) -> Result<Map, LearnError> {
        let shift = body.f64()?;
        let which = body.u8()?;
        let bend = match which {
            0 => Bend::Identity,
            1 | 2 => {
                let slopes = [body.f64()?, body.f64()?];
                let curve = Curve { slopes, intercept: body.f64()? };
                if !(curve.intercept.is_finite() && slopes.iter().all(|slope| slope.is_finite() && *slope >= 0.0)) {
                    return Err(LearnError::corrupt("a calibration curve is not finite or falls"));
                }
                if which == 1 { Bend::Platt(curve) } else { Bend::Beta(curve) }
            }
            3 => {
                let count = usize::try_from(body.u64()?).unwrap_or(usize::MAX);
                let steps = Steps { margins: body.f64s(count)?, probabilities: body.f64s(count)? };
                if !steps.is_sound() {
                    return Err(LearnError::corrupt("the steps of a calibration do not rise"));
                }
                Bend::Isotonic(steps)
            }
            _ => return Err(LearnError::corrupt(format!("calibration number {which} is not known"))),
        };
        if !shift.is_finite() {
            return Err(LearnError::corrupt("the shift of a calibration is not finite"));
        }
        Ok(Map { bend, shift })
    }

    pub(super) fn describe(&self) -> serde_json::Value {
        let bend = match &self.bend {
            Bend::Identity => serde_json::json!({}),
            Bend::Platt(curve) => serde_json::json!({ "slope": curve.slopes[0], "intercept": curve.intercept }),
            Bend::Beta(curve) => serde_json::json!({ "a": curve.slopes[0], "b": curve.slopes[1], "c": curve.intercept }),
            Bend::Isotonic(steps) => serde_json::json!({ "margins": steps.margins, "probabilities": steps.probabilities }),
        };
        serde_json::json!({ "bend": bend, "log_odds_shift": self.shift })
    }
}

/// What the curve is, and the file of the model beneath it.
pub(crate) fn parts(sealed: &Sealed<'_>) -> Result<(serde_json::Value, Vec<u8>), LearnError> {
    let mut body = sealed.body();
    let map = Map::read(&mut body)?;
    Ok((map.describe(), body.block()?.to_vec()))
}

pub(crate) fn read(sealed: &Sealed<'_>) -> Result<Box<dyn Model>, LearnError> {
    let Header { inputs, parameters, report, .. } = sealed.header::<Calibration, Report>()?;
    let mut body = sealed.body();
    let map = Map::read(&mut body)?;
    let inner = body.block()?;
    body.end()?;
    // Looked at before it is read: a file of calibrations within calibrations must not grow the stack.
    if crate::format::open(inner)?.kind == KIND {
        return Err(LearnError::corrupt("a calibration within a calibration"));
    }
    let model = load(inner)?;
    if !model.link().is_classifier() {
        return Err(LearnError::corrupt("a calibration of a model without a probability"));
    }
    if model.inputs() != inputs {
        return Err(LearnError::corrupt("the calibration and its model name other inputs"));
    }
    Ok(Box::new(Calibrated { model, calibration: parameters, map, report }))
}
