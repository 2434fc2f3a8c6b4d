//! How sure a metric is: DeLong's variance for the area under the curve, the bootstrap for anything else.

use kilter_stats::{Rng, normal_quantile, normal_tail};
use serde::{Deserialize, Serialize};

/// An estimate with its confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub value: f64,
    pub standard_error: f64,
    pub low: f64,
    pub high: f64,
}

/// Area under the ROC curve with DeLong's interval (DeLong et al. 1988, by mid-ranks as Sun and Xu 2014), cut off at 0 and 1.
///
/// NaN with fewer than two rows of either class. With no pair ranked wrongly the standard error is 0, which says more of the method than of
/// the model: few rows can do that by chance.
pub fn auc_interval(scores: &[f64], labels: &[f64], confidence: f64) -> Interval {
    let parts = Placements::of(scores, labels);
    let standard_error = libm::sqrt(variance(&parts.positives, &parts.positives) + variance(&parts.negatives, &parts.negatives));
    let value = mean(&parts.positives);
    let reach = normal_quantile(0.5 + 0.5 * confidence) * standard_error;
    Interval { value, standard_error, low: (value - reach).max(0.0), high: (value + reach).min(1.0) }.or_nan()
}

/// Result of [`compare_aucs`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AucComparison {
    /// The first model's area less the second's.
    pub difference: f64,
    pub standard_error: f64,
    pub z: f64,
    /// Two-sided. 1 when the two rank all rows alike.
    pub p_value: f64,
}

/// DeLong's test for two models on the same rows: whether their areas differ by more than chance.
pub fn compare_aucs(first: &[f64], second: &[f64], labels: &[f64]) -> AucComparison {
    let (a, b) = (Placements::of(first, labels), Placements::of(second, labels));
    let distance = |a: &[f64], b: &[f64]| variance(a, a) + variance(b, b) - 2.0 * variance(a, b);
    let standard_error = libm::sqrt((distance(&a.positives, &b.positives) + distance(&a.negatives, &b.negatives)).max(0.0));
    let difference = mean(&a.positives) - mean(&b.positives);
    let z = if difference == 0.0 { 0.0 } else { difference / standard_error };
    let p_value = (2.0 * normal_tail(z.abs())).min(1.0);
    AucComparison { difference, standard_error, z, p_value }
}

/// How a bootstrap draws.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    pub samples: usize,
    pub confidence: f64,
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Bootstrap { samples: 1000, confidence: 0.95, seed: 7 }
    }
}

/// Percentile interval of any statistic of rows, by drawing as many rows as there are with replacement. The statistic gets positions of rows.
///
/// Samples on which the statistic is NaN (one class only) are left out; when more than half are, the interval is not known.
pub fn bootstrap(rows: usize, settings: &Bootstrap, statistic: impl Fn(&[usize]) -> f64) -> Interval {
    let value = statistic(&(0..rows).collect::<Vec<_>>());
    let mut rng = Rng::seeded(settings.seed);
    let mut drawn = vec![0; rows];
    let mut found: Vec<f64> = (0..settings.samples)
        .map(|_| {
            drawn.iter_mut().for_each(|row| *row = rng.below(rows as u64) as usize);
            statistic(&drawn)
        })
        .filter(|found| !found.is_nan())
        .collect();
    if rows == 0 || found.len() < 2 || 2 * found.len() < settings.samples {
        return Interval { value, standard_error: f64::NAN, low: f64::NAN, high: f64::NAN };
    }
    found.sort_unstable_by(f64::total_cmp);
    let outside = 0.5 * (1.0 - settings.confidence);
    let middle = mean(&found);
    let spread = found.iter().map(|x| (x - middle) * (x - middle)).sum::<f64>() / (found.len() - 1) as f64;
    Interval { value, standard_error: libm::sqrt(spread), low: quantile(&found, outside), high: quantile(&found, 1.0 - outside) }
}

impl Interval {
    fn or_nan(self) -> Interval {
        let known = !self.standard_error.is_nan();
        if known { self } else { Interval { low: f64::NAN, high: f64::NAN, ..self } }
    }
}

/// For each positive the share of negatives below it, and for each negative the share of positives above it; ties count half.
struct Placements {
    positives: Vec<f64>,
    negatives: Vec<f64>,
}

impl Placements {
    fn of(scores: &[f64], labels: &[f64]) -> Placements {
        assert_eq!(scores.len(), labels.len(), "one score a label");
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_unstable_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(a.cmp(&b)));
        let positives = labels.iter().filter(|&&label| label == 1.0).count();
        let (all_positives, all_negatives) = (positives as f64, (labels.len() - positives) as f64);
        let mut share = vec![0.0; scores.len()];
        let (mut positives_below, mut negatives_below) = (0.0, 0.0);
        for ties in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
            let positives = ties.iter().filter(|&&row| labels[row] == 1.0).count() as f64;
            let negatives = ties.len() as f64 - positives;
            for &row in ties {
                share[row] = if labels[row] == 1.0 {
                    (negatives_below + 0.5 * negatives) / all_negatives
                } else {
                    (all_positives - positives_below - 0.5 * positives) / all_positives
                };
            }
            positives_below += positives;
            negatives_below += negatives;
        }
        // In the order of rows, so that two models' shares belong together.
        let of_class = |class: f64| (0..labels.len()).filter(|&row| labels[row] == class).map(|row| share[row]).collect();
        Placements { positives: of_class(1.0), negatives: of_class(0.0) }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Covariance of the means of two runs of values.
fn variance(a: &[f64], b: &[f64]) -> f64 {
    let (mean_a, mean_b) = (mean(a), mean(b));
    let sum: f64 = a.iter().zip(b).map(|(x, y)| (x - mean_a) * (y - mean_b)).sum();
    let count = a.len() as f64;
    if a.len() < 2 { f64::NAN } else { sum / (count - 1.0) / count }
}

/// Linear between the two nearest of sorted values.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let below = place as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::sigmoid;
    use crate::metrics::{auc, brier};

    fn sample(rng: &mut Rng, rows: usize) -> (Vec<f64>, Vec<f64>) {
        (0..rows)
            .map(|_| {
                let score = rng.normal();
                (score, f64::from(u8::from(rng.bernoulli(sigmoid(score - 1.0)))))
            })
            .unzip()
    }

    #[test]
    fn ninety_five_of_a_hundred_intervals_hold_the_truth() {
        let mut rng = Rng::seeded(11);
        let (scores, labels) = sample(&mut rng, 200_000);
        let truth = auc(&scores, &labels);
        let mut held = 0;
        for _ in 0..400 {
            let (scores, labels) = sample(&mut rng, 300);
            let interval = auc_interval(&scores, &labels, 0.95);
            assert!((interval.value - auc(&scores, &labels)).abs() < 1e-12);
            held += usize::from(interval.low <= truth && truth <= interval.high);
        }
        assert!((368..=392).contains(&held), "{held} of 400");
    }

    /// The readings of 109 scans, on a scale from 1 to 5, of Hanley and McNeil (1982); area, standard error and interval by DeLong as Stata's manual prints them
    /// (`roctab`).
    #[test]
    fn delongs_interval_is_the_published_one() {
        let (normal, abnormal) = ([33, 6, 6, 11, 2], [3, 2, 2, 11, 33]);
        let rows = |counts: [usize; 5], label: f64| {
            counts.into_iter().enumerate().flat_map(move |(rating, count)| std::iter::repeat_n((rating as f64 + 1.0, label), count))
        };
        let (scores, labels): (Vec<f64>, Vec<f64>) = rows(normal, 0.0).chain(rows(abnormal, 1.0)).unzip();
        let found = auc_interval(&scores, &labels, 0.95);
        let near = |found: f64, published: f64, digits: f64| (found - published).abs() < 0.5 * digits;
        assert!(near(found.value, 0.8932, 1e-4) && near(found.standard_error, 0.0307, 1e-4), "{found:?}");
        assert!(near(found.low, 0.83295, 1e-5) && near(found.high, 0.95339, 1e-5), "{found:?}");
    }

    #[test]
    fn delong_and_bootstrap_agree_on_the_spread() {
        let (scores, labels) = sample(&mut Rng::seeded(5), 500);
        let pick = |from: &[f64], rows: &[usize]| rows.iter().map(|&row| from[row]).collect::<Vec<_>>();
        let by_drawing = bootstrap(500, &Bootstrap::default(), |rows| auc(&pick(&scores, rows), &pick(&labels, rows)));
        let by_formula = auc_interval(&scores, &labels, 0.95);
        assert!((by_drawing.standard_error / by_formula.standard_error - 1.0).abs() < 0.1, "{by_drawing:?} {by_formula:?}");
        assert!((by_drawing.low - by_formula.low).abs() < 0.01 && (by_drawing.high - by_formula.high).abs() < 0.01);
        let again = bootstrap(500, &Bootstrap::default(), |rows| auc(&pick(&scores, rows), &pick(&labels, rows)));
        assert_eq!(again, by_drawing);
    }

    #[test]
    fn a_model_is_no_better_than_itself_and_better_than_noise() {
        let mut rng = Rng::seeded(8);
        let (scores, labels) = sample(&mut rng, 800);
        let noise: Vec<f64> = scores.iter().map(|_| rng.normal()).collect();
        let rescaled: Vec<f64> = scores.iter().map(|score| 3.0 * score - 1.0).collect();
        let same = compare_aucs(&scores, &rescaled, &labels);
        assert_eq!((same.difference, same.p_value), (0.0, 1.0));
        assert!(compare_aucs(&scores, &noise, &labels).p_value < 1e-6);
        // Under the null the p-value is uniform: about one in twenty is below 0.05.
        let mut small = 0;
        for _ in 0..400 {
            let (scores, labels) = sample(&mut rng, 200);
            let mut noisy = || scores.iter().map(|score| score + rng.normal()).collect::<Vec<_>>();
            small += usize::from(compare_aucs(&noisy(), &noisy(), &labels).p_value < 0.05);
        }
        assert!((8..=34).contains(&small), "{small} of 400");
    }

    #[test]
    fn too_few_rows_have_no_interval() {
        for labels in [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]] {
            let interval = auc_interval(&[0.1, 0.2, 0.3], &labels, 0.95);
            assert!(interval.standard_error.is_nan() && interval.low.is_nan() && interval.high.is_nan());
        }
        let alone = bootstrap(0, &Bootstrap::default(), |_| f64::NAN);
        assert!(alone.low.is_nan());
        let always = bootstrap(3, &Bootstrap { samples: 50, ..Bootstrap::default() }, |_| brier(&[0.5], &[1.0]));
        assert_eq!((always.low, always.high, always.standard_error), (0.25, 0.25, 0.0));
    }
}
