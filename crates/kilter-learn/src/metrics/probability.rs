//! Metrics that take scores as probabilities.

use serde::{Deserialize, Serialize};

/// Mean negative log-likelihood in nats. Probabilities are kept 1e-15 away from 0 and 1, so one certain mistake costs 34.5 and not
/// infinity. NaN without rows.
pub fn log_loss(probabilities: &[f64], labels: &[f64]) -> f64 {
    mean(probabilities, labels, surprise)
}

/// [`log_loss`] where each row counts with its weight.
pub fn log_loss_weighted(probabilities: &[f64], labels: &[f64], weights: &[f64]) -> f64 {
    weighted_mean(probabilities, labels, weights, surprise)
}

/// Mean squared distance between probability and label. NaN without rows.
pub fn brier(probabilities: &[f64], labels: &[f64]) -> f64 {
    mean(probabilities, labels, squared)
}

/// [`brier`] where each row counts with its weight.
pub fn brier_weighted(probabilities: &[f64], labels: &[f64], weights: &[f64]) -> f64 {
    weighted_mean(probabilities, labels, weights, squared)
}

fn surprise(probability: f64, label: f64) -> f64 {
    let probability = probability.clamp(1e-15, 1.0 - 1e-15);
    if label == 1.0 { -libm::log(probability) } else { -libm::log1p(-probability) }
}

fn squared(probability: f64, label: f64) -> f64 {
    (probability - label) * (probability - label)
}

/// Rows with similar scores: what was promised and what came true.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationBin {
    /// Lowest and highest score in the bin.
    pub low: f64,
    pub high: f64,
    pub count: usize,
    pub mean_score: f64,
    /// Share of positives.
    pub observed: f64,
}

/// Cuts the rows into about `bins` equally large bins by score, from low to high. Equal scores share a bin, so there may be fewer.
pub fn calibration(scores: &[f64], labels: &[f64], bins: usize) -> Vec<CalibrationBin> {
    assert_eq!(scores.len(), labels.len(), "one score a label");
    let mut order: Vec<(f64, f64)> = scores.iter().copied().zip(labels.iter().copied()).collect();
    // Labels too, so that sums do not depend on the order of rows.
    order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut table = Vec::new();
    let mut start = 0;
    for bin in 1..=bins.max(1) {
        let mut end = (bin * order.len() / bins.max(1)).max(start);
        while end > start && end < order.len() && order[end].0 == order[end - 1].0 {
            end += 1;
        }
        let rows = &order[start..end];
        if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
            let count = rows.len() as f64;
            table.push(CalibrationBin {
                low: first.0,
                high: last.0,
                count: rows.len(),
                mean_score: rows.iter().map(|(score, _)| score).sum::<f64>() / count,
                observed: rows.iter().map(|(_, label)| label).sum::<f64>() / count,
            });
        }
        start = end;
    }
    table
}

pub(super) fn mean(probabilities: &[f64], labels: &[f64], loss: impl Fn(f64, f64) -> f64) -> f64 {
    assert_eq!(probabilities.len(), labels.len(), "one score a label");
    probabilities.iter().zip(labels).map(|(&probability, &label)| loss(probability, label)).sum::<f64>() / labels.len() as f64
}

pub(super) fn weighted_mean(probabilities: &[f64], labels: &[f64], weights: &[f64], loss: impl Fn(f64, f64) -> f64) -> f64 {
    assert_eq!(probabilities.len(), labels.len(), "one score a label");
    assert_eq!(weights.len(), labels.len(), "one weight a label");
    let sum: f64 = (0..labels.len()).map(|row| weights[row] * loss(probabilities[row], labels[row])).sum();
    sum / weights.iter().sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        let expected = -(f64::ln(0.9) + f64::ln(0.8)) / 2.0;
        assert!((log_loss(&[0.9, 0.2], &[1.0, 0.0]) - expected).abs() < 1e-15);
        assert!((log_loss(&[0.0], &[1.0]) - 34.538_776_394_910_684).abs() < 1e-9);
        assert!((brier(&[0.9, 0.2], &[1.0, 0.0]) - 0.025).abs() < 1e-15);
        assert!(log_loss(&[], &[]).is_nan());
        let repeated = (brier(&[0.9, 0.9, 0.2], &[1.0, 1.0, 0.0]), log_loss(&[0.9, 0.9, 0.2], &[1.0, 1.0, 0.0]));
        assert!((brier_weighted(&[0.9, 0.2], &[1.0, 0.0], &[2.0, 1.0]) - repeated.0).abs() < 1e-15);
        assert!((log_loss_weighted(&[0.9, 0.2], &[1.0, 0.0], &[2.0, 1.0]) - repeated.1).abs() < 1e-15);
    }

    #[test]
    fn bins_say_what_came_true() {
        let scores = [0.4, 0.1, 0.2, 0.3];
        let table = calibration(&scores, &[1.0, 0.0, 0.0, 1.0], 2);
        assert_eq!(table.len(), 2);
        assert_eq!((table[0].low, table[0].high, table[0].count, table[0].observed), (0.1, 0.2, 2, 0.0));
        assert_eq!((table[1].low, table[1].high, table[1].count, table[1].observed), (0.3, 0.4, 2, 1.0));
        assert_eq!(calibration(&[0.5; 9], &[1.0; 9], 3).len(), 1);
        assert!(calibration(&[], &[], 3).is_empty());
    }

    proptest! {
        #[test]
        fn bins_cover_every_row_once(pairs in prop::collection::vec((0i32..20, any::<bool>()), 0..80), bins in 0usize..12) {
            let (scores, labels): (Vec<f64>, Vec<f64>) =
                pairs.into_iter().map(|(score, label)| (f64::from(score), f64::from(u8::from(label)))).unzip();
            let table = calibration(&scores, &labels, bins);
            prop_assert!(table.len() <= bins.max(1));
            prop_assert_eq!(table.iter().map(|bin| bin.count).sum::<usize>(), scores.len());
            prop_assert!(table.windows(2).all(|pair| pair[0].high < pair[1].low));
            let positives: f64 = table.iter().map(|bin| bin.observed * bin.count as f64).sum();
            prop_assert!((positives - labels.iter().sum::<f64>()).abs() < 1e-9);
        }
    }
}
