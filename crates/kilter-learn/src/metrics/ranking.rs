//! Metrics that look at the order of scores only.

use serde::{Deserialize, Serialize};

/// Area under the ROC curve: the chance that a positive scores above a negative, ties counting half. NaN with one class only.
pub fn auc(scores: &[f64], labels: &[f64]) -> f64 {
    auc_of(&steps(scores, labels, None))
}

/// [`auc`] where each row counts with its weight: weight 2 is the row twice.
pub fn auc_weighted(scores: &[f64], labels: &[f64], weights: &[f64]) -> f64 {
    auc_of(&steps(scores, labels, Some(weights)))
}

fn auc_of(steps: &[Step]) -> f64 {
    let (mut wins, mut positives_above) = (0.0, 0.0);
    for step in steps {
        wins += step.negatives * (positives_above + 0.5 * step.positives);
        positives_above += step.positives;
    }
    let (positives, negatives) = totals(steps);
    wins / (positives * negatives)
}

/// 2 AUC - 1.
pub fn gini(scores: &[f64], labels: &[f64]) -> f64 {
    2.0 * auc(scores, labels) - 1.0
}

/// Average precision: precision at each distinct score, weighted by the recall gained there (scikit-learn's definition). NaN without
/// positives.
pub fn average_precision(scores: &[f64], labels: &[f64]) -> f64 {
    average_precision_of(&steps(scores, labels, None))
}

/// [`average_precision`] where each row counts with its weight.
pub fn average_precision_weighted(scores: &[f64], labels: &[f64], weights: &[f64]) -> f64 {
    average_precision_of(&steps(scores, labels, Some(weights)))
}

fn average_precision_of(steps: &[Step]) -> f64 {
    let (positives, _) = totals(steps);
    let (mut hits, mut alarms, mut sum) = (0.0, 0.0, 0.0);
    for step in steps {
        hits += step.positives;
        alarms += step.positives + step.negatives;
        sum += step.positives * hits / alarms;
    }
    sum / positives
}

/// Largest distance between the score distributions of the classes, and where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct KolmogorovSmirnov {
    pub value: f64,
    /// Scores at or above it are called positive; the highest of equals.
    pub threshold: f64,
}

/// Kolmogorov-Smirnov statistic: the most that true positive rate can exceed false positive rate. Both fields are NaN with one class only.
pub fn ks(scores: &[f64], labels: &[f64]) -> KolmogorovSmirnov {
    ks_of(&steps(scores, labels, None))
}

/// [`ks`] where each row counts with its weight.
pub fn ks_weighted(scores: &[f64], labels: &[f64], weights: &[f64]) -> KolmogorovSmirnov {
    ks_of(&steps(scores, labels, Some(weights)))
}

fn ks_of(steps: &[Step]) -> KolmogorovSmirnov {
    let (positives, negatives) = totals(steps);
    let mut best = KolmogorovSmirnov { value: f64::NAN, threshold: f64::NAN };
    if positives == 0.0 || negatives == 0.0 {
        return best;
    }
    let (mut hits, mut false_alarms) = (0.0, 0.0);
    for step in steps {
        hits += step.positives;
        false_alarms += step.negatives;
        let value = hits / positives - false_alarms / negatives;
        if best.value.is_nan() || value > best.value {
            best = KolmogorovSmirnov { value, threshold: step.score };
        }
    }
    best
}

/// The weight of each class at one score.
pub(super) struct Step {
    pub score: f64,
    pub positives: f64,
    pub negatives: f64,
}

/// The distinct scores from high to low; rows of weight 0 are not there.
pub(super) fn steps(scores: &[f64], labels: &[f64], weights: Option<&[f64]>) -> Vec<Step> {
    assert_eq!(scores.len(), labels.len(), "one score a label");
    let mut order: Vec<(f64, f64, f64)> = match weights {
        None => scores.iter().zip(labels).map(|(&score, &label)| (score, label, 1.0)).collect(),
        Some(weights) => {
            assert_eq!(weights.len(), labels.len(), "one weight a label");
            let rows = scores.iter().zip(labels).zip(weights).map(|((&score, &label), &weight)| (score, label, weight));
            rows.filter(|(_, _, weight)| *weight > 0.0).collect()
        }
    };
    // Weights too, so that sums do not depend on the order of rows; without weights sums are of whole numbers.
    match weights {
        None => order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0)),
        Some(_) => order.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.2.total_cmp(&b.2))),
    }
    let sum = |ties: &[(f64, f64, f64)], class: f64| ties.iter().filter(|(_, label, _)| *label == class).map(|(_, _, weight)| weight).sum();
    let step = |ties: &[(f64, f64, f64)]| Step { score: ties[0].0, positives: sum(ties, 1.0), negatives: sum(ties, 0.0) };
    order.chunk_by(|a, b| a.0 == b.0).map(step).collect()
}

pub(super) fn totals(steps: &[Step]) -> (f64, f64) {
    steps.iter().fold((0.0, 0.0), |(positives, negatives), step| (positives + step.positives, negatives + step.negatives))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SCORES: [f64; 4] = [0.1, 0.4, 0.35, 0.8];
    const LABELS: [f64; 4] = [0.0, 0.0, 1.0, 1.0];

    #[test]
    fn known_values() {
        // The example of scikit-learn's documentation.
        assert_eq!(auc(&SCORES, &LABELS), 0.75);
        assert_eq!(gini(&SCORES, &LABELS), 0.5);
        assert!((average_precision(&SCORES, &LABELS) - (0.5 + 0.5 * 2.0 / 3.0)).abs() < 1e-12);
        assert_eq!(ks(&SCORES, &LABELS), KolmogorovSmirnov { value: 0.5, threshold: 0.8 });
        // All scores equal: nothing is ranked.
        assert_eq!(auc(&[0.5; 4], &LABELS), 0.5);
        assert_eq!(average_precision(&[0.5; 4], &LABELS), 0.5);
        assert_eq!(ks(&[0.5; 4], &LABELS).value, 0.0);
    }

    #[test]
    fn one_class_is_not_known() {
        for labels in [[0.0; 4], [1.0; 4]] {
            assert!(auc(&SCORES, &labels).is_nan() && ks(&SCORES, &labels).value.is_nan());
        }
        assert!(average_precision(&SCORES, &[0.0; 4]).is_nan());
        assert!(auc(&[], &[]).is_nan());
    }

    #[test]
    fn a_weight_is_the_row_so_often() {
        let weights = [3.0, 0.0, 2.0, 1.0];
        let rows: Vec<usize> = (0..4).flat_map(|row| std::iter::repeat_n(row, weights[row] as usize)).collect();
        let scores: Vec<f64> = rows.iter().map(|&row| SCORES[row]).collect();
        let labels: Vec<f64> = rows.iter().map(|&row| LABELS[row]).collect();
        assert_eq!(auc_weighted(&SCORES, &LABELS, &weights), auc(&scores, &labels));
        assert_eq!(average_precision_weighted(&SCORES, &LABELS, &weights), average_precision(&scores, &labels));
        assert_eq!(ks_weighted(&SCORES, &LABELS, &weights), ks(&scores, &labels));
    }

    fn pairs() -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
        prop::collection::vec((0i32..15, any::<bool>()), 2..60)
            .prop_map(|pairs| pairs.into_iter().map(|(score, label)| (f64::from(score), f64::from(u8::from(label)))).unzip())
    }

    proptest! {
        #[test]
        fn auc_equals_the_count_of_pairs((scores, labels) in pairs()) {
            let (mut wins, mut count) = (0.0, 0.0);
            for (i, j) in (0..scores.len()).flat_map(|i| (0..scores.len()).map(move |j| (i, j))) {
                if labels[i] == 1.0 && labels[j] == 0.0 {
                    count += 1.0;
                    wins += if scores[i] > scores[j] { 1.0 } else if scores[i] == scores[j] { 0.5 } else { 0.0 };
                }
            }
            prop_assume!(count > 0.0);
            prop_assert!((auc(&scores, &labels) - wins / count).abs() < 1e-12);
            let reversed: Vec<f64> = scores.iter().map(|score| -score).collect();
            prop_assert!((auc(&reversed, &labels) + wins / count - 1.0).abs() < 1e-12);
        }

        #[test]
        fn precision_and_ks_equal_their_definitions_at_every_threshold((scores, labels) in pairs()) {
            let positives: f64 = labels.iter().sum();
            let negatives = labels.len() as f64 - positives;
            prop_assume!(positives > 0.0 && negatives > 0.0);
            let (mut area, mut recall_before, mut largest) = (0.0, 0.0, f64::MIN);
            for threshold in (0..15).rev().map(f64::from) {
                let alarms = scores.iter().filter(|&&score| score >= threshold).count() as f64;
                let hits: f64 = scores.iter().zip(&labels).filter(|(score, _)| **score >= threshold).map(|(_, label)| label).sum();
                if alarms > 0.0 {
                    area += (hits / positives - recall_before) * hits / alarms;
                    recall_before = hits / positives;
                    largest = largest.max(hits / positives - (alarms - hits) / negatives);
                }
            }
            prop_assert!((average_precision(&scores, &labels) - area).abs() < 1e-12);
            prop_assert!((ks(&scores, &labels).value - largest).abs() < 1e-12);
        }
    }
}
