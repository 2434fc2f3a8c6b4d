//! Shares, their differences and ratios, and means, each with an interval that holds for few rows too.
//!
//! A share is known by two counts: how often, of how many.

use kilter_stats::{Moments, normal_quantile};

use super::Interval;

/// How often something was so, of how many rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub hits: u64,
    pub rows: u64,
}

impl Share {
    /// NaN without rows.
    pub fn value(self) -> f64 {
        self.hits as f64 / self.rows as f64
    }

    /// Wilson's interval (1927, without continuity correction): within 0 and 1, and not empty where nothing or all was so. NaN without rows.
    pub fn interval(self, confidence: f64) -> Interval {
        let (n, value, z) = (self.rows as f64, self.value(), reach(confidence));
        let middle = (value + z * z / (2.0 * n)) / (1.0 + z * z / n);
        let half = z / (1.0 + z * z / n) * libm::sqrt(value * (1.0 - value) / n + z * z / (4.0 * n * n));
        // By its formula the edge is there exactly; by its rounding next to it.
        let low = if self.hits == 0 { 0.0 } else { (middle - half).max(0.0) };
        let high = if self.hits == self.rows { 1.0 } else { (middle + half).min(1.0) };
        let interval = Interval { value, standard_error: libm::sqrt(value * (1.0 - value) / n), low, high };
        if self.rows == 0 { UNKNOWN } else { interval }
    }

    /// This share less another one of other rows, with Newcombe's interval (1998, his method 10: of both Wilson intervals). NaN where either has no rows.
    pub fn less(self, other: Share, confidence: f64) -> Interval {
        let (a, b) = (self.interval(confidence), other.interval(confidence));
        let value = a.value - b.value;
        let far = |x: f64, y: f64| libm::sqrt(x * x + y * y);
        Interval {
            value,
            standard_error: far(a.standard_error, b.standard_error),
            low: value - far(a.value - a.low, b.high - b.value),
            high: value + far(a.high - a.value, b.value - b.low),
        }
    }

    /// This share as a multiple of another one of other rows, with the interval of its logarithm (Katz et al. 1978). The bounds are NaN where either never came
    /// up, the value is where the other one did not.
    pub fn over(self, other: Share, confidence: f64) -> Interval {
        if self.rows == 0 || other.rows == 0 || other.hits == 0 {
            return UNKNOWN;
        }
        let value = self.value() / other.value();
        let part = |share: Share| 1.0 / share.hits as f64 - 1.0 / share.rows as f64;
        let of_logarithm = libm::sqrt(part(self) + part(other));
        let factor = libm::exp(reach(confidence) * of_logarithm);
        let bounds = if self.hits == 0 { UNKNOWN } else { Interval { low: value / factor, high: value * factor, ..UNKNOWN } };
        Interval { value, standard_error: value * of_logarithm, ..bounds }
    }
}

/// The mean with its normal interval. Of one value the bounds are not known, of none nothing.
pub fn mean_interval(values: impl IntoIterator<Item = f64>, confidence: f64) -> Interval {
    let mut moments = Moments::default();
    values.into_iter().for_each(|value| moments.add(value));
    let value = moments.mean().unwrap_or(f64::NAN);
    let standard_error = moments.variance().map_or(f64::NAN, |variance| libm::sqrt(variance / moments.count as f64));
    let reach = reach(confidence) * standard_error;
    Interval { value, standard_error, low: value - reach, high: value + reach }
}

/// So many standard errors to either side.
pub(super) fn reach(confidence: f64) -> f64 {
    normal_quantile(0.5 + 0.5 * confidence)
}

pub(super) const UNKNOWN: Interval = Interval { value: f64::NAN, standard_error: f64::NAN, low: f64::NAN, high: f64::NAN };

#[cfg(test)]
mod tests {
    use super::*;
    use kilter_stats::Rng;

    fn share(hits: u64, rows: u64) -> Share {
        Share { hits, rows }
    }

    fn near(found: f64, published: f64) -> bool {
        (found - published).abs() < 0.5e-4
    }

    /// Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17 (1998), table I, method 3.
    #[test]
    fn wilsons_intervals_are_the_published_ones() {
        for (hits, rows, low, high) in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
        {
            let found = share(hits, rows).interval(0.95);
            assert!(near(found.low, low) && near(found.high, high), "{hits} of {rows}: {found:?}");
            let other = share(rows - hits, rows).interval(0.95);
            assert!((other.low + found.high - 1.0).abs() < 1e-12 && (other.high + found.low - 1.0).abs() < 1e-12);
        }
        assert!(share(0, 0).interval(0.95).low.is_nan());
    }

    /// Newcombe, Interval estimation for the difference between independent proportions, Statistics in Medicine 17 (1998), table II, method 10.
    #[test]
    fn differences_are_the_published_ones() {
        for (a, b, low, high) in [
            (share(56, 70), share(48, 80), 0.0524, 0.3339),
            (share(9, 10), share(3, 10), 0.1705, 0.8090),
            (share(10, 10), share(0, 20), 0.6791, 1.0),
            (share(10, 10), share(0, 10), 0.6075, 1.0),
        ] {
            let found = a.less(b, 0.95);
            assert!(near(found.low, low) && near(found.high, high), "{a:?} {b:?}: {found:?}");
        }
        assert!(share(1, 2).less(share(0, 0), 0.95).value.is_nan());
    }

    #[test]
    fn a_ratio_has_an_interval_where_both_came_up() {
        // By hand: ln(0.75) -+ 1.959964 * sqrt(1/30 - 1/100 + 1/40 - 1/100).
        let found = share(30, 100).over(share(40, 100), 0.95);
        let far = 1.959_963_985 * libm::sqrt(1.0 / 30.0 - 0.01 + 0.025 - 0.01);
        assert!((found.value - 0.75).abs() < 1e-12 && (libm::log(found.low) - (libm::log(0.75) - far)).abs() < 1e-9, "{found:?}");
        assert!((found.low * found.high - 0.75 * 0.75).abs() < 1e-12);
        let none = share(0, 9).over(share(4, 10), 0.95);
        assert!(none.value == 0.0 && none.low.is_nan() && none.high.is_nan());
        assert!(share(3, 9).over(share(0, 10), 0.95).value.is_nan() && share(0, 0).over(share(1, 2), 0.95).value.is_nan());
    }

    /// How often the interval of a statistic holds the truth.
    fn held(draw: impl Fn(&mut Rng) -> Interval, truth: f64) -> usize {
        let mut rng = Rng::seeded(5);
        (0..1000).filter(|_| Some(draw(&mut rng)).is_some_and(|found| found.low <= truth && truth <= found.high)).count()
    }

    #[test]
    fn ninety_five_of_a_hundred_intervals_hold_the_truth() {
        let drawn = |rng: &mut Rng, rows: u64, rate: f64| share((0..rows).filter(|_| rng.bernoulli(rate)).count() as u64, rows);
        let wilson = held(|rng| drawn(rng, 60, 0.1).interval(0.95), 0.1);
        let less = held(|rng| drawn(rng, 80, 0.4).less(drawn(rng, 50, 0.3), 0.95), 0.1);
        let over = held(|rng| drawn(rng, 200, 0.3).over(drawn(rng, 300, 0.4), 0.95), 0.75);
        let mean = held(|rng| mean_interval((0..100).map(|_| rng.exponential(0.5)).collect::<Vec<_>>(), 0.95), 2.0);
        for count in [wilson, less, over, mean] {
            assert!((925..=975).contains(&count), "{wilson} {less} {over} {mean}");
        }
    }
}
