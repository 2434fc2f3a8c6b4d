//! Calibration: from a model's margins to probabilities that come true as often as they say.
//!
//! Fitted on rows the model has not learned from and kept with the model, so that one call gives the calibrated probability. The margin stays
//! the model's own, and so do its contributions. No method turns an order round: of two margins the higher never gets the lower probability,
//! and where the rows ask for the opposite the curve is flat.

mod classes;
mod isotonic;
mod model;

use serde::{Deserialize, Serialize};

pub(crate) use classes::ClassMap;
pub use classes::{ClassMethod, ClassQuality, calibrate_classes};
pub use model::{Calibrated, Quality, calibrate};
pub(crate) use model::{KIND, parts, read};

use crate::curve::{Curve, Rows};
use crate::math::{logit, sigmoid};
use isotonic::Steps;

/// How margins are bent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// A line over the log-odds (Platt 2000, with his smoothed targets): two numbers, for few rows.
    Platt,
    /// The best rising step curve, by pool adjacent violators, with straight lines over the margin between steps: for many rows.
    Isotonic,
    /// Three numbers (Kull et al. 2017): bends each end by itself, and has the identity among its curves.
    Beta,
    /// Moves the share of positives to the target rate and bends nothing.
    PriorShift,
}

impl Method {
    pub const ALL: [(&'static str, Method); 4] =
        [("platt", Method::Platt), ("isotonic", Method::Isotonic), ("beta", Method::Beta), ("prior_shift", Method::PriorShift)];

    pub fn name(self) -> &'static str {
        Method::ALL.iter().find(|(_, method)| *method == self).map_or("", |(name, _)| name)
    }

    /// Fewer rows than this say too little for the method.
    pub fn min_rows(self) -> usize {
        match self {
            Method::Isotonic => 200,
            Method::Platt | Method::Beta | Method::PriorShift => 50,
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    pub method: Method,
    /// The share of positives where the model will be used, when it is another than that of the rows: odds are multiplied by
    /// (target odds / odds of the rows) after the method has done its work.
    pub target_rate: Option<f64>,
}

/// A fitted map from margins to probabilities.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Map {
    bend: Bend,
    /// Added to the log-odds at the end.
    shift: f64,
}

#[derive(Clone, Debug, PartialEq)]
enum Bend {
    Identity,
    Platt(Curve),
    Beta(Curve),
    Isotonic(Steps),
}

impl Map {
    fn fit(method: Method, shift: f64, margins: &[f64], labels: &[f64], weights: &[f64]) -> Map {
        let bend = match method {
            Method::Platt => Bend::Platt(rising(margins, labels, weights, platt_features)),
            Method::Beta => Bend::Beta(rising(margins, labels, weights, beta_features)),
            Method::Isotonic => Bend::Isotonic(Steps::fit(margins, labels, weights)),
            Method::PriorShift => Bend::Identity,
        };
        Map { bend, shift }
    }

    fn probability(&self, margin: f64) -> f64 {
        let bent = match &self.bend {
            Bend::Identity => return sigmoid(margin + self.shift),
            Bend::Platt(curve) => return sigmoid(curve.margin(platt_features(margin)) + self.shift),
            Bend::Beta(curve) => return sigmoid(curve.margin(beta_features(margin)) + self.shift),
            Bend::Isotonic(steps) => steps.at(margin),
        };
        if self.shift == 0.0 { bent } else { sigmoid(logit(bent) + self.shift) }
    }

    /// The margin that gets this probability; `None` where none does, or many do since the curve is flat there.
    fn invert(&self, probability: f64) -> Option<f64> {
        if !(probability > 0.0 && probability < 1.0) {
            return None;
        }
        let odds = logit(probability) - self.shift;
        match &self.bend {
            Bend::Identity => Some(odds),
            Bend::Platt(curve) => (curve.slopes[0] > 0.0).then(|| (odds - curve.intercept) / curve.slopes[0]),
            Bend::Beta(curve) => invert_beta(curve, odds),
            Bend::Isotonic(steps) => steps.invert(if self.shift == 0.0 { probability } else { sigmoid(odds) }),
        }
    }
}

fn platt_features(margin: f64) -> [f64; 2] {
    [margin, 0.0]
}

/// ln p and -ln(1 - p) of the model's probability p.
fn beta_features(margin: f64) -> [f64; 2] {
    [-softplus(-margin), softplus(margin)]
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + libm::log1p(libm::exp(-x.abs()))
}

/// The likeliest curve whose slopes are not negative. Of slopes that come out negative the worse one is held at 0, and the rest fitted again.
fn rising(margins: &[f64], labels: &[f64], weights: &[f64], features: fn(f64) -> [f64; 2]) -> Curve {
    let rows = Rows {
        features: margins.iter().map(|&margin| features(margin)).collect(),
        targets: smoothed(labels, weights),
        weights: weights.to_vec(),
    };
    let base = Curve { slopes: [0.0; 2], intercept: logit(mean(&rows.targets, weights)) };
    let mut free = [true, rows.features.iter().any(|x| x[1] != 0.0)];
    loop {
        // Smoothed targets have a finite optimum; should arithmetic fail to find it, the base rate is no lie.
        let curve = base.fit(&rows, free).unwrap_or(base);
        let worst = usize::from(curve.slopes[1] < curve.slopes[0]);
        if curve.slopes[worst] >= 0.0 {
            return curve;
        }
        free[worst] = false;
    }
}

/// Platt's targets: (positives + 1) / (positives + 2) and 1 / (negatives + 2), so that rows that can be told apart give a finite slope.
fn smoothed(labels: &[f64], weights: &[f64]) -> Vec<f64> {
    let of_class = |class: f64| labels.iter().zip(weights).filter(|(label, _)| **label == class).map(|(_, weight)| weight).sum::<f64>();
    let (high, low) = ((of_class(1.0) + 1.0) / (of_class(1.0) + 2.0), 1.0 / (of_class(0.0) + 2.0));
    labels.iter().map(|&label| if label == 1.0 { high } else { low }).collect()
}

fn mean(values: &[f64], weights: &[f64]) -> f64 {
    values.iter().zip(weights).map(|(value, weight)| value * weight).sum::<f64>() / weights.iter().sum::<f64>()
}

/// By halving: the curve rises without end on the sides whose slope is above 0.
fn invert_beta(curve: &Curve, odds: f64) -> Option<f64> {
    let at = |margin: f64| curve.margin(beta_features(margin));
    let (mut low, mut high) = (-1e6, 1e6);
    if !(at(low) < odds && odds < at(high)) {
        return None;
    }
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if at(middle) < odds { low = middle } else { high = middle }
    }
    Some(0.5 * (low + high))
}

#[cfg(test)]
mod tests;
