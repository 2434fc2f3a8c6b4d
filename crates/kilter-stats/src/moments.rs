//! Count, mean and variance of a stream in one pass, mergeable.
//!
//! Updates follow Welford (1962) and merges Chan, Golub and LeVeque (1979): the sum of squared deviations is carried instead of the sum of
//! squares, so a large mean does not eat the digits of a small variance. A merge equals adding the values one by one up to rounding, not
//! bit for bit; state that must replay bitwise has to see the same values and merges in the same order.

use serde::{Deserialize, Serialize};

/// Running count, mean and squared deviations of `f64` values.
///
/// The fields are public because they are the whole state: a snapshot stores the three numbers and restores them as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    pub count: u64,
    /// Mean of the values so far; 0 while there are none.
    pub mean: f64,
    /// Sum of squared deviations from the mean.
    pub m2: f64,
}

impl Moments {
    /// Adds one value. A NaN makes every later answer NaN: the caller decides what a missing value means before calling.
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        let delta = value - self.mean;
        self.mean += delta / self.count as f64;
        self.m2 += delta * (value - self.mean);
    }

    /// Adds all values that `other` has seen.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *other;
            return;
        }
        let (a, b) = (self.count as f64, other.count as f64);
        let delta = other.mean - self.mean;
        self.mean += delta * (b / (a + b));
        self.m2 += other.m2 + delta * delta * (a * b / (a + b));
        self.count += other.count;
    }

    /// Mean, or `None` before the first value.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then_some(self.mean)
    }

    /// Sample variance (divisor n - 1), or `None` with fewer than two values.
    pub fn variance(&self) -> Option<f64> {
        (self.count > 1).then(|| self.m2 / (self.count - 1) as f64)
    }

    /// Sample standard deviation, or `None` with fewer than two values.
    pub fn stddev(&self) -> Option<f64> {
        self.variance().map(libm::sqrt)
    }
}

impl FromIterator<f64> for Moments {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut moments = Moments::default();
        values.into_iter().for_each(|value| moments.add(value));
        moments
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_values() {
        let moments: Moments = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0].into_iter().collect();
        assert_eq!(moments.mean(), Some(5.0));
        assert_eq!(moments.variance(), Some(32.0 / 7.0));
        assert_eq!(Moments::default().mean(), None);
        assert_eq!([1.0].into_iter().collect::<Moments>().variance(), None);
    }

    #[test]
    fn a_large_mean_keeps_a_small_variance() {
        let moments: Moments = [1e9 + 4.0, 1e9 + 7.0, 1e9 + 13.0, 1e9 + 16.0].into_iter().collect();
        assert_eq!(moments.variance(), Some(30.0));
    }

    proptest! {
        #[test]
        fn merging_parts_equals_adding_all(values in prop::collection::vec(-1e3f64..1e3, 2..80), cut in 0usize..80) {
            let cut = cut.min(values.len());
            let mut left: Moments = values[..cut].iter().copied().collect();
            let right: Moments = values[cut..].iter().copied().collect();
            left.merge(&right);
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (values.len() - 1) as f64;
            prop_assert_eq!(left.count, values.len() as u64);
            prop_assert!((left.mean - mean).abs() < 1e-9);
            prop_assert!((left.variance().unwrap() - variance).abs() < 1e-6 * (1.0 + variance));
        }
    }
}
