//! One report of all general metrics.

use serde::Serialize;

use super::{CalibrationBin, Interval, KolmogorovSmirnov, Recalibration};
use super::{auc, auc_interval, average_precision, brier, calibration, expected_calibration_error, ks, log_loss, recalibration};

/// How a model did on some rows. Figures that the rows do not define are NaN (null in JSON).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    pub rows: usize,
    pub positives: usize,
    pub auc: f64,
    /// By DeLong, 95 %.
    pub auc_interval: Interval,
    pub average_precision: f64,
    /// In nats.
    pub log_loss: f64,
    pub brier: f64,
    pub ks: KolmogorovSmirnov,
    pub gini: f64,
    /// Expected calibration error over the bins below.
    pub ece: f64,
    pub recalibration: Recalibration,
    /// Ten bins of equal size by score.
    pub calibration: Vec<CalibrationBin>,
}

/// Judges probabilities by labels (0 or 1).
pub fn evaluate(probabilities: &[f64], labels: &[f64]) -> Evaluation {
    let auc = auc(probabilities, labels);
    Evaluation {
        rows: labels.len(),
        positives: labels.iter().filter(|&&label| label == 1.0).count(),
        auc,
        auc_interval: auc_interval(probabilities, labels, 0.95),
        average_precision: average_precision(probabilities, labels),
        log_loss: log_loss(probabilities, labels),
        brier: brier(probabilities, labels),
        ks: ks(probabilities, labels),
        gini: 2.0 * auc - 1.0,
        ece: expected_calibration_error(probabilities, labels, 10),
        recalibration: recalibration(probabilities, labels),
        calibration: calibration(probabilities, labels, 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_figures_are_null_in_json() {
        let json = serde_json::to_value(evaluate(&[0.2, 0.3], &[0.0, 0.0])).unwrap();
        assert!(json["auc"].is_null() && json["ks"]["value"].is_null());
        assert_eq!((json["rows"].as_u64(), json["positives"].as_u64()), (Some(2), Some(0)));
        assert!(json["brier"].as_f64().is_some());
    }
}
