//! What the trees lower: a loss of margin and label, its first two derivatives, where boosting starts and what a leaf adds.
//!
//! Poisson, gamma and Tweedie are one family, that of deviances with variance mean^power under a logarithmic link (power 1, 2 and between).
//! With A = sum of y exp((1 - power) m) and B = sum of exp((2 - power) m), gradient and hessian are B - A and (2 - power) B + (power - 1) A,
//! so a leaf's best step follows from these sums alone: log(A / B) without a penalty. A Newton step would overshoot by far where the
//! rate is many times the prediction.

use serde::{Deserialize, Serialize};

use super::split::{Bounds, leaf_value};
use crate::math::{logit, margin_loss};
use crate::{LearnError, Link, TrainingSet};

/// The loss that is lowered, and with it what labels may be and what the margin means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Objective {
    /// Log loss. Labels are 0 and 1, or probabilities between them: a row of label 0.3 counts as 0.3 of a one and 0.7 of a zero.
    #[default]
    Binary,
    /// Squared error: the mean.
    SquaredError,
    /// Absolute error: the median.
    AbsoluteError,
    /// Squared error up to `delta` from the label, straight beyond: a mean that outliers do not pull.
    Huber { delta: f64 },
    /// Pinball loss: the quantile of this level.
    Quantile { level: f64 },
    /// Deviance of counts: labels from 0, logarithmic link.
    Poisson,
    /// Deviance of amounts: labels above 0, logarithmic link.
    Gamma,
    /// Deviance of sums of amounts, many of them 0: labels from 0, logarithmic link, variance mean^power with a power between 1 and 2.
    Tweedie { power: f64 },
    /// A class's part of the log loss of several classes; its margin means something beside those of the others only. Learned by `fit_classes`.
    Softmax,
    /// NDCG, by pairs of a query's rows of which one is among the first `truncation`. Labels are whole numbers, the better the higher. `normalise` evens out
    /// queries and near scores; `sigmoid` is the slope of the chance that a pair is the wrong way round. The margin is a score to rank by.
    LambdaRank { truncation: usize, normalise: bool, sigmoid: f64 },
    /// What a [`CustomObjective`](super::CustomObjective) says; the margin means what the link says.
    Custom { link: Link },
}

/// Beyond this a label's square and its sums leave the range in which they can be relied on.
const LARGEST_LABEL: f64 = 1e15;

/// Farthest a leaf of a logarithmic link steps: where all its labels are 0, the best step is without end.
const FARTHEST: f64 = 8.0;

impl Objective {
    pub(super) fn is_default(&self) -> bool {
        *self == Objective::default()
    }

    pub fn link(&self) -> Link {
        match self {
            Objective::Binary => Link::Logit,
            Objective::SquaredError
            | Objective::AbsoluteError
            | Objective::Huber { .. }
            | Objective::Quantile { .. }
            | Objective::Softmax
            | Objective::LambdaRank { .. } => Link::Identity,
            Objective::Custom { link } => *link,
            Objective::Poisson | Objective::Gamma | Objective::Tweedie { .. } => Link::Log,
        }
    }

    /// Whether rows are ranked within queries.
    pub(super) fn ranks(&self) -> bool {
        matches!(self, Objective::LambdaRank { .. })
    }

    /// Whether derivatives are those of all rows together and not of each by itself.
    pub(super) fn is_together(&self) -> bool {
        self.ranks() || matches!(self, Objective::Custom { .. })
    }

    /// Whether builds that know no categories know it.
    pub(super) fn is_plain(&self) -> bool {
        !self.is_together()
    }

    pub(super) fn check(&self) -> Result<(), LearnError> {
        let bad = |name, value: f64, must| Err(LearnError::BadParameter { name, found: value.to_string(), must });
        match *self {
            Objective::Huber { delta } if !(delta.is_finite() && delta > 0.0) => bad("huber.delta", delta, "finite and above 0"),
            Objective::Quantile { level } if !(level > 0.0 && level < 1.0) => bad("quantile.level", level, "between 0 and 1"),
            Objective::Tweedie { power } if !(power > 1.0 && power < 2.0) => bad("tweedie.power", power, "between 1 and 2"),
            Objective::LambdaRank { truncation: 0, .. } => bad("lambda_rank.truncation", 0.0, "at least 1"),
            Objective::LambdaRank { sigmoid, .. } if !(sigmoid.is_finite() && sigmoid > 0.0) => {
                bad("lambda_rank.sigmoid", sigmoid, "finite and above 0")
            }
            Objective::Custom { link: Link::Probability } => {
                let (name, found) = ("custom.link", "probability".into());
                Err(LearnError::BadParameter { name, found, must: "identity, logit or log: sums of leaves are no probabilities" })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_labels(&self, set: &TrainingSet) -> Result<(), LearnError> {
        let usable = |label: f64| label.abs() <= LARGEST_LABEL;
        match self {
            Objective::Binary | Objective::Softmax => {
                set.check_labels(|label| (0.0..=1.0).contains(&label), "0 or 1, or a probability between them")
            }
            Objective::Poisson | Objective::Tweedie { .. } => set.check_labels(|label| usable(label) && label >= 0.0, "0 to 1e15"),
            Objective::Gamma => set.check_labels(|label| (1e-15..=LARGEST_LABEL).contains(&label), "above 0, from 1e-15 to 1e15"),
            _ => set.check_labels(usable, "a number from -1e15 to 1e15"),
        }
    }

    /// The margin without trees that lowers the loss most, over rows of these labels and weights. Some weight must be above 0.
    pub(super) fn base(&self, labels: &[f64], weight: impl Fn(usize) -> f64) -> f64 {
        let mean = || {
            let (mut sum, mut total) = (0.0, 0.0);
            for (row, label) in labels.iter().enumerate() {
                sum += label * weight(row);
                total += weight(row);
            }
            sum / total
        };
        match *self {
            Objective::Binary | Objective::Softmax => logit(mean()),
            Objective::SquaredError => mean(),
            // Others say it themselves.
            Objective::LambdaRank { .. } | Objective::Custom { .. } => 0.0,
            // Squared error's start would lie far out where outliers are what one wants to be safe from.
            Objective::AbsoluteError | Objective::Huber { .. } => quantile(pairs(labels, weight), 0.5),
            Objective::Quantile { level } => quantile(pairs(labels, weight), level),
            Objective::Poisson | Objective::Gamma | Objective::Tweedie { .. } => libm::log(mean()),
        }
    }

    /// First and second derivative of the loss by the margin, before weights. Where the second is 0 or there is none, 1 stands for it.
    #[inline(always)]
    pub(super) fn derivatives(&self, margin: f64, label: f64) -> (f64, f64) {
        match *self {
            // Alone, a class is told from all others.
            Objective::Binary | Objective::Softmax => {
                let p = quick_sigmoid(margin);
                (p - label, p * (1.0 - p))
            }
            Objective::SquaredError => (margin - label, 1.0),
            // A row by itself has none.
            Objective::LambdaRank { .. } | Objective::Custom { .. } => (0.0, 0.0),
            Objective::Huber { delta } => ((margin - label).clamp(-delta, delta), 1.0),
            Objective::AbsoluteError => (slope(margin - label, 0.5), 1.0),
            Objective::Quantile { level } => (slope(margin - label, level), 1.0),
            Objective::Poisson => {
                let rate = libm::exp(margin);
                (rate - label, rate)
            }
            Objective::Gamma => {
                let ratio = label * libm::exp(-margin);
                (1.0 - ratio, ratio)
            }
            Objective::Tweedie { power } => {
                let (a, b) = (label * libm::exp((1.0 - power) * margin), libm::exp((2.0 - power) * margin));
                (b - a, (2.0 - power) * b + (power - 1.0) * a)
            }
        }
    }

    /// The second derivative is 1, whatever margin and label.
    pub(super) fn constant_hessian(&self) -> bool {
        matches!(self, Objective::SquaredError | Objective::Huber { .. } | Objective::AbsoluteError | Objective::Quantile { .. })
    }

    /// Largest sizes of both derivatives, where they are known beforehand.
    pub(super) fn limits(&self) -> Option<(f64, f64)> {
        match *self {
            Objective::Binary => Some((1.0, 0.25)),
            Objective::Huber { delta } => Some((delta, 1.0)),
            Objective::AbsoluteError => Some((0.5, 1.0)),
            Objective::Quantile { level } => Some((level.max(1.0 - level), 1.0)),
            _ => None,
        }
    }

    /// The loss of one row. Of the logarithmic links it is the deviance, 0 at a perfect fit.
    pub(super) fn loss(&self, margin: f64, label: f64) -> f64 {
        let off = margin - label;
        match *self {
            Objective::Binary | Objective::Softmax => margin_loss(margin, label),
            Objective::SquaredError => off * off,
            // A metric stands for it.
            Objective::LambdaRank { .. } | Objective::Custom { .. } => 0.0,
            Objective::Huber { delta } if off.abs() <= delta => 0.5 * off * off,
            Objective::Huber { delta } => delta * (off.abs() - 0.5 * delta),
            Objective::AbsoluteError => off.abs(),
            Objective::Quantile { level } => (off * (1.0 - level)).max(-off * level),
            Objective::Poisson => {
                let own = if label > 0.0 { label * (libm::log(label) - margin) } else { 0.0 };
                2.0 * (own - label + libm::exp(margin))
            }
            Objective::Gamma => {
                let ratio = libm::log(label) - margin;
                2.0 * (libm::exp(ratio) - 1.0 - ratio)
            }
            Objective::Tweedie { power } => {
                let (one, two) = (1.0 - power, 2.0 - power);
                let own = if label > 0.0 { libm::pow(label, two) / (one * two) } else { 0.0 };
                2.0 * (own - label * libm::exp(one * margin) / one + libm::exp(two * margin) / two)
            }
        }
    }

    /// The level whose residuals' quantile is a leaf's value; None where sums of derivatives give it.
    pub(super) fn leaf_quantile(&self) -> Option<f64> {
        match *self {
            Objective::AbsoluteError => Some(0.5),
            Objective::Quantile { level } => Some(level),
            _ => None,
        }
    }

    /// A leaf's value from the sums of its rows' derivatives.
    pub(super) fn leaf_value(&self, gradient: f64, hessian: f64, lambda: f64, bounds: Bounds) -> f64 {
        let power = match *self {
            Objective::Poisson => 1.0,
            Objective::Gamma => 2.0,
            Objective::Tweedie { power } => power,
            _ => return leaf_value(gradient, hessian + lambda, bounds),
        };
        deviance_step(gradient, hessian, lambda, power).max(bounds.low).min(bounds.high)
    }
}

/// The sigmoid to the last bits, without branches or calls, so that several rows go through it at once. Only additions, multiplications and one
/// division: the same bits on every machine.
#[inline(always)]
fn quick_sigmoid(margin: f64) -> f64 {
    let e = quick_exp(-margin.abs().min(700.0));
    (if margin >= 0.0 { 1.0 } else { e }) / (1.0 + e)
}

/// exp from -700 to 0, in the same way.
#[inline(always)]
pub(super) fn quick_exp(x: f64) -> f64 {
    // Added to a number below 2^51 it leaves the nearest whole number in the low bits.
    const WHOLE: f64 = 6_755_399_441_055_744.0;
    const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    let shifted = x * std::f64::consts::LOG2_E + WHOLE;
    let whole = shifted - WHOLE;
    let rest = (x - whole * LN_2_HIGH) - whole * LN_2_LOW;
    // Written out: a loop here would keep the compiler from taking several rows at once.
    let next = |sum: f64, factorial: f64| sum * rest + 1.0 / factorial;
    let sum = next(next(next(1.0 / 6_227_020_800.0, 479_001_600.0), 39_916_800.0), 3_628_800.0);
    let sum = next(next(next(next(next(sum, 362_880.0), 40_320.0), 5_040.0), 720.0), 120.0);
    let sum = next(next(next(next(next(sum, 24.0), 6.0), 2.0), 1.0), 1.0);
    sum * f64::from_bits((shifted.to_bits() << 52).wrapping_add(1.0f64.to_bits()))
}

/// Slope of the pinball loss. On the label itself none is preferred: rows that are met exactly pull nowhere.
#[inline(always)]
fn slope(off: f64, level: f64) -> f64 {
    if off > 0.0 {
        1.0 - level
    } else if off < 0.0 {
        -level
    } else {
        0.0
    }
}

/// The step w that lowers the leaf's deviance plus lambda w^2 / 2 most: where B e^((2 - p) w) - A e^((1 - p) w) + lambda w crosses 0.
fn deviance_step(gradient: f64, hessian: f64, lambda: f64, power: f64) -> f64 {
    // Rounding of the sums must not make a rate negative.
    let a = (hessian + (power - 2.0) * gradient).max(0.0);
    let b = (hessian + (power - 1.0) * gradient).max(0.0);
    let slope = |w: f64| b * libm::exp((2.0 - power) * w) - a * libm::exp((1.0 - power) * w) + lambda * w;
    if lambda == 0.0 && a > 0.0 && b > 0.0 {
        return (libm::log(a) - libm::log(b)).clamp(-FARTHEST, FARTHEST);
    }
    // The slope only rises, so halving finds its root to the last bits; leaves are few beside rows.
    let (mut low, mut high) = (-FARTHEST, FARTHEST);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if slope(middle) < 0.0 { low = middle } else { high = middle }
    }
    if a == 0.0 && b == 0.0 && lambda == 0.0 { 0.0 } else { 0.5 * (low + high) }
}

fn pairs(values: &[f64], weight: impl Fn(usize) -> f64) -> Vec<(f64, f64)> {
    values.iter().enumerate().map(|(row, &value)| (value, weight(row))).collect()
}

/// The smallest value at which the weight of the values up to it reaches the level's share of all weight; 0 without weight.
pub(super) fn quantile(mut values: Vec<(f64, f64)>, level: f64) -> f64 {
    values.retain(|&(_, weight)| weight > 0.0);
    values.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let total: f64 = values.iter().map(|&(_, weight)| weight).sum();
    let mut reached = 0.0;
    for &(value, weight) in &values {
        reached += weight;
        if reached >= level * total {
            return value;
        }
    }
    values.last().map_or(0.0, |&(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::super::split::UNBOUNDED;
    use super::*;

    const ALL: [Objective; 9] = [
        Objective::Binary,
        Objective::SquaredError,
        Objective::AbsoluteError,
        Objective::Huber { delta: 0.7 },
        Objective::Quantile { level: 0.2 },
        Objective::Poisson,
        Objective::Gamma,
        Objective::Tweedie { power: 1.1 },
        Objective::Tweedie { power: 1.8 },
    ];

    /// Half the loss where the loss is twice what the derivatives are of.
    fn factor(objective: Objective) -> f64 {
        match objective {
            Objective::Binary | Objective::Huber { .. } | Objective::Quantile { .. } => 1.0,
            _ => 0.5,
        }
    }

    #[test]
    fn derivatives_are_those_of_the_loss() {
        for objective in ALL {
            for (margin, label) in [(0.3, 0.9), (-1.2, 0.4), (1.4, 0.01), (0.05, 0.99)] {
                let (gradient, hessian) = objective.derivatives(margin, label);
                let loss = |m: f64| factor(objective) * objective.loss(m, label);
                let step = 1e-4;
                let slope = (loss(margin + step) - loss(margin - step)) / (2.0 * step);
                assert!((slope - gradient).abs() < 1e-6, "{objective:?} at {margin}, {label}: {slope} {gradient}");
                let curve = (loss(margin + step) - 2.0 * loss(margin) + loss(margin - step)) / (step * step);
                if !matches!(objective, Objective::AbsoluteError | Objective::Quantile { .. } | Objective::Huber { .. }) {
                    assert!((curve - hessian).abs() < 1e-5, "{objective:?} at {margin}, {label}: {curve} {hessian}");
                }
                if let Some((g, h)) = objective.limits() {
                    assert!(gradient.abs() <= g && hessian <= h);
                }
            }
        }
    }

    /// Base and leaf values against a search over a fine grid of the penalised loss.
    #[test]
    fn starts_and_steps_lower_the_loss_most() {
        let labels = [0.2, 0.9, 0.4, 0.4, 0.7, 0.05, 0.3];
        let weights = [1.0, 2.0, 0.5, 1.0, 3.0, 1.0, 0.25];
        let grid = || (-60_000..=60_000).map(|i| f64::from(i) * 1e-4);
        let best = |loss: &dyn Fn(f64) -> f64| grid().min_by(|a, b| loss(*a).total_cmp(&loss(*b))).unwrap();
        for objective in ALL {
            let total = |at: f64| (0..7).map(|i| weights[i] * factor(objective) * objective.loss(at, labels[i])).sum::<f64>();
            let base = objective.base(&labels, |row| weights[row]);
            if !matches!(objective, Objective::Huber { .. }) {
                assert!(total(base) <= total(best(&total)) + 1e-9, "{objective:?}: {base}");
            }
            if objective.link() != Link::Log {
                continue;
            }
            for (from, lambda) in [(-3.0, 0.0), (2.0, 0.0), (-3.0, 1.5), (0.5, 20.0)] {
                let (mut g, mut h) = (0.0, 0.0);
                for i in 0..7 {
                    let (gradient, hessian) = objective.derivatives(from, labels[i]);
                    (g, h) = (g + weights[i] * gradient, h + weights[i] * hessian);
                }
                let step = objective.leaf_value(g, h, lambda, UNBOUNDED);
                let expected = best(&|w| total(from + w) + 0.5 * lambda * w * w);
                assert!((step - expected).abs() < 1.1e-4, "{objective:?} from {from}, lambda {lambda}: {step} {expected}");
            }
        }
        // Nothing but zeros: as far as it goes, and no farther.
        assert_eq!(Objective::Poisson.leaf_value(1.0, 1.0, 0.0, UNBOUNDED).round(), -FARTHEST);
    }

    #[test]
    fn the_quick_sigmoid_is_the_sigmoid() {
        for i in -200_000..=200_000 {
            let margin = f64::from(i) * 1.7e-4;
            let (quick, exact) = (quick_sigmoid(margin), crate::math::sigmoid(margin));
            assert!((quick / exact - 1.0).abs() < 9e-16, "{margin}: {quick:e} {exact:e}");
        }
        for far in [650.0, 1e6, f64::INFINITY] {
            assert!(quick_sigmoid(far) == 1.0 && (0.0..1e-280).contains(&quick_sigmoid(-far)));
        }
    }

    #[test]
    fn quantiles_count_weight() {
        let one = |values: &[f64]| values.iter().map(|&v| (v, 1.0)).collect::<Vec<_>>();
        assert_eq!(quantile(one(&[3.0, 1.0, 2.0, 4.0]), 0.5), 2.0);
        assert_eq!(quantile(one(&[3.0, 1.0, 2.0, 4.0]), 0.51), 3.0);
        assert_eq!(quantile(vec![(5.0, 0.0), (1.0, 1.0), (2.0, 3.0)], 0.5), 2.0);
        assert_eq!(quantile(vec![(2.0, 3.0), (1.0, 3.0)], 0.5), quantile(one(&[1.0, 1.0, 1.0, 2.0, 2.0, 2.0]), 0.5));
        assert_eq!(quantile(vec![], 0.5), 0.0);
    }
}
