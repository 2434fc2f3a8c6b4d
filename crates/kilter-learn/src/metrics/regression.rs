//! How good predicted numbers are.

use serde::Serialize;

use super::probability::{mean, weighted_mean};

/// What of a label's distribution is predicted, which says what it is to be judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Aim {
    #[default]
    Mean,
    /// The median at level 0.5.
    Quantile { level: f64 },
    /// The mean, where labels vary as mean^power: 1 for counts, 2 for amounts, between them for sums of amounts.
    Deviance { power: f64 },
}

/// How a regression did on some rows. Figures that the rows do not define are NaN (null in JSON).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RegressionEvaluation {
    pub rows: usize,
    pub rmse: f64,
    pub mae: f64,
    pub median_absolute_error: f64,
    /// Share of the labels' variance that is explained; below 0 where their mean would do better.
    pub r2: f64,
    /// Mean prediction less mean label.
    pub bias: f64,
    /// Mean pinball loss at the quantile's level; of a quantile only.
    pub pinball: f64,
    /// Share of labels that are not above their prediction, which a quantile's level promises; of a quantile only.
    pub coverage: f64,
    /// Mean deviance; of an aim that has one only.
    pub deviance: f64,
    pub mean_label: f64,
    pub mean_prediction: f64,
}

/// Judges predicted numbers by the labels.
pub fn evaluate_regression(predictions: &[f64], labels: &[f64], aim: Aim) -> RegressionEvaluation {
    let (mean_label, mean_prediction) = (mean(predictions, labels, |_, label| label), mean(predictions, labels, |found, _| found));
    let level = if let Aim::Quantile { level } = aim { Some(level) } else { None };
    RegressionEvaluation {
        rows: labels.len(),
        rmse: rmse(predictions, labels),
        mae: mae(predictions, labels),
        median_absolute_error: median_absolute_error(predictions, labels),
        r2: r2(predictions, labels),
        bias: mean_prediction - mean_label,
        pinball: level.map_or(f64::NAN, |level| pinball(predictions, labels, level)),
        coverage: level.map_or(f64::NAN, |_| coverage(predictions, labels)),
        deviance: if let Aim::Deviance { power } = aim { deviance(predictions, labels, power) } else { f64::NAN },
        mean_label,
        mean_prediction,
    }
}

/// Root of the mean squared error. NaN without rows.
pub fn rmse(predictions: &[f64], labels: &[f64]) -> f64 {
    libm::sqrt(mean(predictions, labels, squared))
}

/// [`rmse`] where each row counts with its weight.
pub fn rmse_weighted(predictions: &[f64], labels: &[f64], weights: &[f64]) -> f64 {
    libm::sqrt(weighted_mean(predictions, labels, weights, squared))
}

/// Mean absolute error. NaN without rows.
pub fn mae(predictions: &[f64], labels: &[f64]) -> f64 {
    mean(predictions, labels, |found, label| (found - label).abs())
}

/// [`mae`] where each row counts with its weight.
pub fn mae_weighted(predictions: &[f64], labels: &[f64], weights: &[f64]) -> f64 {
    weighted_mean(predictions, labels, weights, |found, label| (found - label).abs())
}

/// The median of absolute errors; of an even number of rows the mean of the middle two. NaN without rows.
pub fn median_absolute_error(predictions: &[f64], labels: &[f64]) -> f64 {
    assert_eq!(predictions.len(), labels.len(), "one prediction a label");
    let mut errors: Vec<f64> = predictions.iter().zip(labels).map(|(found, label)| (found - label).abs()).collect();
    errors.sort_unstable_by(f64::total_cmp);
    match errors.len() {
        0 => f64::NAN,
        n => 0.5 * (errors[(n - 1) / 2] + errors[n / 2]),
    }
}

/// One less the squared errors as a share of those of the labels' mean. NaN where labels do not vary.
pub fn r2(predictions: &[f64], labels: &[f64]) -> f64 {
    r2_weighted(predictions, labels, &vec![1.0; labels.len()])
}

/// [`r2`] where each row counts with its weight.
pub fn r2_weighted(predictions: &[f64], labels: &[f64], weights: &[f64]) -> f64 {
    let center = weighted_mean(predictions, labels, weights, |_, label| label);
    let spread = weighted_mean(predictions, labels, weights, |_, label| squared(center, label));
    if spread > 0.0 { 1.0 - weighted_mean(predictions, labels, weights, squared) / spread } else { f64::NAN }
}

/// Mean pinball loss: what a quantile of this level minimises. At 0.5 it is half of the mean absolute error. NaN without rows.
pub fn pinball(predictions: &[f64], labels: &[f64], level: f64) -> f64 {
    mean(predictions, labels, |found, label| pinball_of(found, label, level))
}

/// [`pinball`] where each row counts with its weight.
pub fn pinball_weighted(predictions: &[f64], labels: &[f64], weights: &[f64], level: f64) -> f64 {
    weighted_mean(predictions, labels, weights, |found, label| pinball_of(found, label, level))
}

/// Share of labels that are not above their prediction. NaN without rows.
pub fn coverage(predictions: &[f64], labels: &[f64]) -> f64 {
    mean(predictions, labels, |found, label| f64::from(u8::from(label <= found)))
}

/// Mean Tweedie deviance: 0 squared error, 1 Poisson's, 2 gamma's, between them that of sums of amounts. NaN where a prediction or a
/// label is one that the power does not allow.
pub fn deviance(predictions: &[f64], labels: &[f64], power: f64) -> f64 {
    mean(predictions, labels, |found, label| deviance_of(found, label, power))
}

/// [`deviance`] where each row counts with its weight.
pub fn deviance_weighted(predictions: &[f64], labels: &[f64], weights: &[f64], power: f64) -> f64 {
    weighted_mean(predictions, labels, weights, |found, label| deviance_of(found, label, power))
}

fn squared(found: f64, label: f64) -> f64 {
    (found - label) * (found - label)
}

fn pinball_of(found: f64, label: f64, level: f64) -> f64 {
    let short = label - found;
    (level * short).max((level - 1.0) * short)
}

fn deviance_of(found: f64, label: f64, power: f64) -> f64 {
    if power == 0.0 {
        return squared(found, label);
    }
    if !(found > 0.0 && label >= 0.0 && (label > 0.0 || power < 2.0)) {
        return f64::NAN;
    }
    if power == 1.0 {
        let own = if label > 0.0 { label * libm::log(label / found) } else { 0.0 };
        return 2.0 * (own - label + found);
    }
    if power == 2.0 {
        return 2.0 * (libm::log(found / label) + label / found - 1.0);
    }
    let (one, two) = (1.0 - power, 2.0 - power);
    let own = if label > 0.0 { libm::pow(label, two) / (one * two) } else { 0.0 };
    2.0 * (own - label * libm::pow(found, one) / one + libm::pow(found, two) / two)
}

#[cfg(test)]
#[path = "regression_tests.rs"]
mod tests;
