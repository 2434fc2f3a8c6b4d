//! How good scores are, given what came true.
//!
//! `scores` and `labels` run in parallel, labels are 0 or 1, order does not matter. Slices of different length are a bug of the caller and
//! panic. A figure that the data do not define (AUC with one class only) is NaN, never 0.5 or 0: "not known" must not pass a threshold.
//! Scores must not be NaN themselves.

mod cards;
mod evaluation;
mod probability;
mod ranking;

pub use cards::{Scored, TopKeys, precision_at_top};
pub use evaluation::{Evaluation, evaluate};
pub use probability::{CalibrationBin, brier, calibration, log_loss};
pub use ranking::{KolmogorovSmirnov, auc, average_precision, gini, ks};
