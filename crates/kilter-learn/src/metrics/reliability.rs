//! Whether probabilities mean what they say, in figures.

use kilter_stats::{Rng, chi_square_tail};
use serde::{Deserialize, Serialize};

use super::{CalibrationBin, brier, calibration};
use crate::curve::{Curve, Rows};
use crate::math::logit;

/// Expected calibration error: the mean distance between what bins of equal size by score promised and what came true. NaN without rows.
///
/// It depends on the number of bins and is above 0 by chance even for perfect probabilities; compare like with like.
pub fn expected_calibration_error(probabilities: &[f64], labels: &[f64], bins: usize) -> f64 {
    let distance = |bin: &CalibrationBin| bin.count as f64 * (bin.mean_score - bin.observed).abs();
    calibration(probabilities, labels, bins).iter().map(distance).sum::<f64>() / labels.len() as f64
}

/// What the expected calibration error of perfectly calibrated probabilities stays below in so many of one samples of this size: a larger one is more than chance.
/// By drawing what each bin comes to from a normal distribution, with a fixed seed. NaN without rows.
pub fn calibration_error_by_chance(probabilities: &[f64], bins: usize, confidence: f64) -> f64 {
    const DRAWN: usize = 1000;
    let mut sorted = probabilities.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    // Labels do not say where bins end.
    let table = calibration(&sorted, &vec![0.0; sorted.len()], bins);
    let mut start = 0;
    let spreads: Vec<f64> = (table.iter())
        .map(|bin| {
            let rows = &sorted[start..start + bin.count];
            start += bin.count;
            libm::sqrt(rows.iter().map(|p| p * (1.0 - p)).sum())
        })
        .collect();
    let mut rng = Rng::seeded(7);
    let mut drawn: Vec<f64> = (0..DRAWN).map(|_| spreads.iter().map(|spread| (spread * rng.normal()).abs()).sum()).collect();
    drawn.sort_unstable_by(f64::total_cmp);
    drawn[((DRAWN - 1) as f64 * confidence.clamp(0.0, 1.0)) as usize] / probabilities.len() as f64
}

/// The Brier score in parts (Murphy 1973): brier = reliability - resolution + uncertainty + within bins.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BrierSplit {
    pub brier: f64,
    /// Squared distance between promise and outcome: 0 is best.
    pub reliability: f64,
    /// How far the bins' outcomes lie from the overall rate: more is better.
    pub resolution: f64,
    /// That of always saying the overall rate.
    pub uncertainty: f64,
    /// What is left since scores within a bin differ (Stephenson et al. 2008).
    pub within_bins: f64,
}

/// Splits the Brier score over bins of equal size by score. NaN without rows.
pub fn brier_split(probabilities: &[f64], labels: &[f64], bins: usize) -> BrierSplit {
    let rows = labels.len() as f64;
    let rate = labels.iter().sum::<f64>() / rows;
    let table = calibration(probabilities, labels, bins);
    let mean = |part: &dyn Fn(&CalibrationBin) -> f64| table.iter().map(|bin| bin.count as f64 * part(bin)).sum::<f64>() / rows;
    let reliability = mean(&|bin| (bin.mean_score - bin.observed) * (bin.mean_score - bin.observed));
    let resolution = mean(&|bin| (bin.observed - rate) * (bin.observed - rate));
    let uncertainty = rate * (1.0 - rate);
    let brier = brier(probabilities, labels);
    BrierSplit { brier, reliability, resolution, uncertainty, within_bins: brier - (reliability - resolution + uncertainty) }
}

/// How probabilities would have to be bent, on the scale of log-odds, to fit what came true (Cox 1958).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recalibration {
    /// Calibration in the large: what is to be added to the log-odds, slope left at 1. Above 0: too few positives were promised.
    pub in_the_large: f64,
    /// Below 1: scores are too extreme, as of a model that has learned noise.
    pub slope: f64,
    /// Goes with `slope`.
    pub intercept: f64,
}

/// Logistic regression of what came true on the log-odds promised. NaN with one class only, or where no finite slope fits best.
pub fn recalibration(probabilities: &[f64], labels: &[f64]) -> Recalibration {
    assert_eq!(probabilities.len(), labels.len(), "one score a label");
    let unknown = Recalibration { in_the_large: f64::NAN, slope: f64::NAN, intercept: f64::NAN };
    let positives = labels.iter().filter(|&&label| label == 1.0).count();
    if positives == 0 || positives == labels.len() {
        return unknown;
    }
    let margins: Vec<f64> = probabilities.iter().map(|p| logit(p.clamp(1e-15, 1.0 - 1e-15))).collect();
    let rows = Rows { features: margins.iter().map(|&m| [m, 0.0]).collect(), targets: labels.to_vec(), weights: vec![1.0; labels.len()] };
    let shifted = Curve { slopes: [1.0, 0.0], intercept: 0.0 }.fit(&rows, [false, false]);
    let bent = Curve::default().fit(&rows, [true, false]);
    Recalibration {
        in_the_large: shifted.map_or(f64::NAN, |curve| curve.intercept),
        slope: bent.map_or(f64::NAN, |curve| curve.slopes[0]),
        intercept: bent.map_or(f64::NAN, |curve| curve.intercept),
    }
}

/// Result of [`hosmer_lemeshow`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct HosmerLemeshow {
    pub statistic: f64,
    pub degrees: usize,
    pub p_value: f64,
}

/// Hosmer and Lemeshow's test over groups of equal size by score, for rows the model has not learned from: as many degrees of freedom as
/// groups (with the rows it was fitted to, two fewer: see `fitted`). With many rows it refuses any model; read the table beside it.
pub fn hosmer_lemeshow(probabilities: &[f64], labels: &[f64], groups: usize, fitted: bool) -> HosmerLemeshow {
    let table = calibration(probabilities, labels, groups);
    let part = |bin: &CalibrationBin| {
        let distance = bin.observed - bin.mean_score;
        let spread = bin.mean_score * (1.0 - bin.mean_score);
        if distance == 0.0 { 0.0 } else { bin.count as f64 * distance * distance / spread }
    };
    let statistic = if table.is_empty() { f64::NAN } else { table.iter().map(part).sum() };
    let degrees = table.len().saturating_sub(if fitted { 2 } else { 0 });
    HosmerLemeshow { statistic, degrees, p_value: chi_square_tail(statistic, degrees as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::sigmoid;
    use kilter_stats::Rng;

    /// Scores whose log-odds are the truth's times `bend` plus `shift`.
    fn bent(rows: usize, bend: f64, shift: f64) -> (Vec<f64>, Vec<f64>) {
        let mut rng = Rng::seeded(3);
        (0..rows)
            .map(|_| {
                let margin = rng.normal() - 0.5;
                (sigmoid(bend * margin + shift), f64::from(u8::from(rng.bernoulli(sigmoid(margin)))))
            })
            .unzip()
    }

    #[test]
    fn honest_scores_pass_and_bent_ones_are_told_how() {
        let (scores, labels) = bent(20_000, 1.0, 0.0);
        let honest = recalibration(&scores, &labels);
        assert!((honest.slope - 1.0).abs() < 0.06 && honest.in_the_large.abs() < 0.05, "{honest:?}");
        assert!(hosmer_lemeshow(&scores, &labels, 10, false).p_value > 0.01);
        assert!(expected_calibration_error(&scores, &labels, 10) < 0.01);

        let (scores, labels) = bent(20_000, 2.0, 0.7);
        let wild = recalibration(&scores, &labels);
        assert!((wild.slope - 0.5).abs() < 0.03 && (wild.intercept + 0.35).abs() < 0.05, "{wild:?}");
        assert!(hosmer_lemeshow(&scores, &labels, 10, false).p_value < 1e-9);
        assert!(expected_calibration_error(&scores, &labels, 10) > 0.1);
    }

    #[test]
    fn an_error_by_chance_is_seldom_larger() {
        let mut rng = Rng::seeded(9);
        let mut below = 0;
        for _ in 0..400 {
            let scores: Vec<f64> = (0..500).map(|_| sigmoid(rng.normal() - 1.5)).collect();
            let labels: Vec<f64> = scores.iter().map(|p| f64::from(u8::from(rng.bernoulli(*p)))).collect();
            below += usize::from(expected_calibration_error(&scores, &labels, 10) <= calibration_error_by_chance(&scores, 10, 0.95));
        }
        assert!((368..=392).contains(&below), "{below} of 400");
        let (scores, labels) = bent(20_000, 2.0, 0.7);
        assert!(expected_calibration_error(&scores, &labels, 10) > 5.0 * calibration_error_by_chance(&scores, 10, 0.95));
        assert!(calibration_error_by_chance(&[], 10, 0.95).is_nan());
    }

    #[test]
    fn the_parts_of_brier_add_up() {
        let (scores, labels) = bent(999, 1.7, 0.1);
        for bins in [1, 7, 20, 999] {
            let split = brier_split(&scores, &labels, bins);
            let sum = split.reliability - split.resolution + split.uncertainty + split.within_bins;
            assert!((sum - split.brier).abs() < 1e-12);
        }
        // One bin a distinct score leaves nothing within bins.
        let coarse: Vec<f64> = scores.iter().map(|score| libm::round(score * 8.0) / 8.0).collect();
        assert!(brier_split(&coarse, &labels, 9_999).within_bins.abs() < 1e-12);
    }

    #[test]
    fn what_has_no_answer_is_nan() {
        assert!(recalibration(&[0.2, 0.3], &[1.0, 1.0]).slope.is_nan());
        // Separable: no finite slope is best.
        assert!(recalibration(&[0.2, 0.3, 0.8], &[0.0, 0.0, 1.0]).slope.is_nan());
        assert!(expected_calibration_error(&[], &[], 10).is_nan() && brier_split(&[], &[], 10).reliability.is_nan());
        assert!(hosmer_lemeshow(&[], &[], 10, false).p_value.is_nan());
        // A certain promise that was broken.
        assert_eq!(hosmer_lemeshow(&[0.0, 0.0], &[0.0, 1.0], 1, false).p_value, 0.0);
    }
}
