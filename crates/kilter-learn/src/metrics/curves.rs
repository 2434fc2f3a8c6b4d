//! What each threshold would reach: the points of the ROC curve and of precision over recall.

use serde::Serialize;

use super::ranking::{steps, totals};

/// What is reached by calling rows with this score and above positive.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CurvePoint {
    pub threshold: f64,
    /// Recall: the share of positives that is called so.
    pub true_positive_rate: f64,
    /// The share of negatives that is called positive.
    pub false_positive_rate: f64,
    /// The share of those called positive that is.
    pub precision: f64,
    /// The share of rows that is called positive.
    pub called: f64,
}

/// A point for each distinct score, from the highest down; without weights every row counts 1. Rates of a class that is not there are NaN.
pub fn curve(scores: &[f64], labels: &[f64], weights: Option<&[f64]>) -> Vec<CurvePoint> {
    let steps = steps(scores, labels, weights);
    let (positives, negatives) = totals(&steps);
    let (mut hits, mut false_alarms) = (0.0, 0.0);
    let points = steps.iter().map(|step| {
        hits += step.positives;
        false_alarms += step.negatives;
        CurvePoint {
            threshold: step.score,
            true_positive_rate: hits / positives,
            false_positive_rate: false_alarms / negatives,
            precision: hits / (hits + false_alarms),
            called: (hits + false_alarms) / (positives + negatives),
        }
    });
    points.collect()
}
