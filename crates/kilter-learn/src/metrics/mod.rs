//! How good scores are, given what came true.
//!
//! `scores` and `labels` run in parallel, labels are 0 or 1 (but for predicted numbers), order does not matter. Slices of different length are a bug of the caller and
//! panic. A figure that the data do not define (AUC with one class only) is NaN, never 0.5 or 0: "not known" must not pass a threshold.
//! Scores must not be NaN themselves.

mod cards;
mod confusion;
mod curves;
mod evaluation;
mod gains;
mod intervals;
mod multiclass;
mod probability;
mod proportions;
mod queries;
mod ranking;
mod regression;
mod reliability;
mod segments;
mod unlabelled;

pub use cards::{Scored, TopKeys, precision_at_top};
pub use confusion::{Confusion, OfClass};
pub use curves::{CurvePoint, curve};
pub use evaluation::{Evaluation, evaluate};
pub use gains::{GainsRow, gains, h_measure};
pub use intervals::{AucComparison, Bootstrap, Interval, auc_interval, bootstrap, compare_aucs};
pub use multiclass::{ClassesEvaluation, brier_of_classes, evaluate_classes, log_loss_of_classes, macro_auc, top_k_accuracy};
pub use probability::{CalibrationBin, brier, brier_weighted, calibration, log_loss, log_loss_weighted};
pub use proportions::{Share, mean_interval};
pub(crate) use queries::ideal_dcg;
pub use queries::{discount, mean_average_precision, mean_reciprocal_rank, ndcg};
pub use ranking::{KolmogorovSmirnov, auc, auc_weighted, average_precision, average_precision_weighted, gini, ks, ks_weighted};
pub use regression::{
    Aim, RegressionEvaluation, coverage, deviance, deviance_weighted, evaluate_regression, mae, mae_weighted, median_absolute_error,
    pinball, pinball_weighted, r2, r2_weighted, rmse, rmse_weighted,
};
pub use reliability::{
    BrierSplit, HosmerLemeshow, Recalibration, brier_split, calibration_error_by_chance, expected_calibration_error, hosmer_lemeshow,
    recalibration,
};
pub use segments::{SegmentEvaluation, by_segment, evaluate_by_segment};
pub use unlabelled::{Expected, expected};
