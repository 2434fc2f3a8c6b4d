//! How good scores are before any label is known, if they mean what they say.
//!
//! A calibrated probability says how often its row will turn out positive, and with it what a metric is to be expected to come to: confidence-based performance
//! estimation (CBPE), as NannyML has it. Nothing of the truth goes in: where what was learned no longer holds, these figures do not tell. The bounds say where the metric lies
//! once the labels are known, if the scores are calibrated; they are not those of an unknown parameter.

use super::Interval;
use super::proportions::{UNKNOWN, reach};

/// What figures of so many rows are to be expected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    pub rows: usize,
    /// Of positives: the mean score.
    pub rate: Interval,
    /// Expected pairs in order by expected pairs; its spread by Hanley and McNeil (1982).
    pub auc: Interval,
    pub log_loss: Interval,
    pub brier: Interval,
}

/// What is to be expected of rows with these probabilities, each by itself. NaN without rows.
pub fn expected(probabilities: &[f64], confidence: f64) -> Expected {
    let mut sorted = probabilities.to_vec();
    // In one order, so that sums do not depend on that of the rows.
    sorted.sort_unstable_by(f64::total_cmp);
    let rows = sorted.len() as f64;
    // Of a figure that is a mean over rows: what each adds, and how that varies, by the row's two ends.
    let of_mean = |if_positive: &dyn Fn(f64) -> f64, if_negative: &dyn Fn(f64) -> f64| {
        let (mut sum, mut spread) = (0.0, 0.0);
        for &p in &sorted {
            let (positive, negative) = (if_positive(p), if_negative(p));
            sum += p * positive + (1.0 - p) * negative;
            spread += p * (1.0 - p) * (positive - negative) * (positive - negative);
        }
        around(sum / rows, libm::sqrt(spread) / rows, confidence)
    };
    let within = |p: f64| p.clamp(1e-15, 1.0 - 1e-15);
    Expected {
        rows: sorted.len(),
        rate: cut(of_mean(&|_| 1.0, &|_| 0.0)),
        auc: cut(expected_auc(&sorted, confidence)),
        log_loss: of_mean(&|p| -libm::log(within(p)), &|p| -libm::log1p(-within(p))),
        brier: cut(of_mean(&|p| (1.0 - p) * (1.0 - p), &|p| p * p)),
    }
}

/// Of ascending probabilities. NaN where no pair of a positive and a negative is to be expected.
fn expected_auc(sorted: &[f64], confidence: f64) -> Interval {
    let (mut wins, mut pairs, mut negatives_below) = (0.0, 0.0, 0.0);
    let negatives: f64 = sorted.iter().map(|p| 1.0 - p).sum();
    for ties in sorted.chunk_by(|a, b| a == b) {
        let (p, count) = (ties[0], ties.len() as f64);
        // No row is a pair with itself.
        wins += count * p * (negatives_below + 0.5 * (count - 1.0) * (1.0 - p));
        pairs += count * p * (negatives - (1.0 - p));
        negatives_below += count * (1.0 - p);
    }
    if pairs <= 0.0 {
        return UNKNOWN;
    }
    let value = (wins / pairs).clamp(0.0, 1.0);
    around(value, standard_error(value, sorted.len() as f64 - negatives, negatives), confidence)
}

/// How the area under the curve of so many positives and negatives varies, by Hanley and McNeil (1982).
fn standard_error(auc: f64, positives: f64, negatives: f64) -> f64 {
    let (q1, q2) = (auc / (2.0 - auc), 2.0 * auc * auc / (1.0 + auc));
    let more = |count: f64| (count - 1.0).max(0.0);
    let spread = auc * (1.0 - auc) + more(positives) * (q1 - auc * auc) + more(negatives) * (q2 - auc * auc);
    libm::sqrt(spread.max(0.0) / (positives * negatives))
}

fn around(value: f64, standard_error: f64, confidence: f64) -> Interval {
    let reach = reach(confidence) * standard_error;
    Interval { value, standard_error, low: value - reach, high: value + reach }
}

fn cut(interval: Interval) -> Interval {
    Interval { low: interval.low.clamp(0.0, 1.0), high: interval.high.clamp(0.0, 1.0), ..interval }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::sigmoid;
    use crate::metrics::{auc, brier, log_loss};
    use kilter_stats::Rng;
    use proptest::prelude::*;

    /// Every way in which labels may come, with its probability.
    fn outcomes(probabilities: &[f64]) -> impl Iterator<Item = (f64, Vec<f64>)> {
        (0..1_u32 << probabilities.len()).map(|bits| {
            let labels: Vec<f64> = (0..probabilities.len()).map(|row| f64::from(bits >> row & 1)).collect();
            let chance = probabilities.iter().zip(&labels).map(|(p, label)| if *label == 1.0 { *p } else { 1.0 - p }).product();
            (chance, labels)
        })
    }

    proptest! {
        #[test]
        fn every_figure_is_its_mean_over_all_that_may_come(tenths in prop::collection::vec(0_u32..=10, 1..9)) {
            let p: Vec<f64> = tenths.iter().map(|tenth| f64::from(*tenth) / 10.0).collect();
            let found = expected(&p, 0.95);
            let mean = |figure: &dyn Fn(&[f64]) -> f64| outcomes(&p).map(|(chance, labels)| chance * figure(&labels)).sum::<f64>();
            let rate = p.iter().sum::<f64>() / p.len() as f64;
            prop_assert!((found.rate.value - rate).abs() < 1e-12, "the rate is the mean score");
            prop_assert!((found.log_loss.value - mean(&|labels| log_loss(&p, labels))).abs() < 1e-9);
            prop_assert!((found.brier.value - mean(&|labels| brier(&p, labels))).abs() < 1e-12);
            let spread = libm::sqrt((mean(&|labels| brier(&p, labels) * brier(&p, labels)) - found.brier.value * found.brier.value).max(0.0));
            prop_assert!((found.brier.standard_error - spread).abs() < 1e-7, "{} {spread}", found.brier.standard_error);
            // Of pairs both sides are expected, since their ratio has no mean: with one class only there are none.
            let (mut wins, mut pairs) = (0.0, 0.0);
            for i in 0..p.len() {
                for j in (0..p.len()).filter(|j| *j != i) {
                    let chance = p[i] * (1.0 - p[j]);
                    pairs += chance;
                    wins += chance * if p[i] > p[j] { 1.0 } else if p[i] == p[j] { 0.5 } else { 0.0 };
                }
            }
            if pairs > 1e-9 {
                prop_assert!((found.auc.value - wins / pairs).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn of_calibrated_scores_ninety_five_of_a_hundred_come_true_within_the_bounds() {
        let mut rng = Rng::seeded(4);
        let mut held = [0; 4];
        let mut distance = 0.0;
        for _ in 0..500 {
            let scores: Vec<f64> = (0..800).map(|_| sigmoid(1.3 * rng.normal() - 1.5)).collect();
            let labels: Vec<f64> = scores.iter().map(|p| f64::from(u8::from(rng.bernoulli(*p)))).collect();
            let found = expected(&scores, 0.95);
            let rate = labels.iter().sum::<f64>() / labels.len() as f64;
            let real = [rate, auc(&scores, &labels), log_loss(&scores, &labels), brier(&scores, &labels)];
            for (place, (interval, real)) in [found.rate, found.auc, found.log_loss, found.brier].into_iter().zip(real).enumerate() {
                held[place] += usize::from(interval.low <= real && real <= interval.high);
            }
            distance += (found.auc.value - real[1]) / 500.0;
        }
        assert!(held.iter().all(|held| (460..=490).contains(held)), "{held:?} of 500");
        assert!(distance.abs() < 0.002, "it leans to neither side: {distance}");
    }

    #[test]
    fn without_rows_or_pairs_nothing_is_known() {
        let none = expected(&[], 0.95);
        assert!(none.rate.value.is_nan() && none.auc.value.is_nan() && none.brier.low.is_nan());
        assert!(expected(&[0.0, 0.0], 0.95).auc.value.is_nan() && expected(&[0.3], 0.95).auc.value.is_nan());
        let sure = expected(&[0.0, 1.0], 0.95);
        assert_eq!((sure.rate.value, sure.auc.value, sure.brier.value), (0.5, 1.0, 0.0));
    }
}
