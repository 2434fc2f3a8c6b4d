//! Weight, mean and variance of weighted values in one pass (West 1979).

use crate::LearnError;
use crate::format::{Reader, Writer};

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Spread {
    pub weight: f64,
    pub mean: f64,
    /// Weighted sum of squared deviations from the mean.
    pub m2: f64,
}

impl Spread {
    pub fn add(&mut self, value: f64, weight: f64) {
        self.weight += weight;
        let delta = value - self.mean;
        self.mean += delta * (weight / self.weight);
        self.m2 += weight * delta * (value - self.mean);
    }

    /// All values so far count for this share of what they did.
    pub fn fade(&mut self, keep: f64) {
        self.weight *= keep;
        self.m2 *= keep;
    }

    /// Divided by the whole weight; 0 without values.
    pub fn variance(&self) -> f64 {
        if self.weight > 0.0 { self.m2 / self.weight } else { 0.0 }
    }

    pub fn write(&self, to: &mut Writer) {
        to.f64s(&[self.weight, self.mean, self.m2]);
    }

    pub fn read(from: &mut Reader<'_>) -> Result<Spread, LearnError> {
        let spread = Spread { weight: from.f64()?, mean: from.f64()?, m2: from.f64()? };
        let sound = [spread.weight, spread.m2].iter().all(|x| x.is_finite() && *x >= 0.0) && spread.mean.is_finite();
        if sound { Ok(spread) } else { Err(LearnError::corrupt("a mean or a variance that is none")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilter_stats::{Moments, Rng};

    #[test]
    fn a_weight_of_three_is_a_value_three_times_and_fading_is_a_smaller_weight() {
        let mut rng = Rng::seeded(1);
        let values: Vec<(f64, f64)> = (0..500).map(|_| (1e6 + rng.normal(), 1.0 + rng.below(3) as f64)).collect();
        let mut spread = Spread::default();
        values.iter().for_each(|&(value, weight)| spread.add(value, weight));
        let repeated: Moments = values.iter().flat_map(|&(value, weight)| std::iter::repeat_n(value, weight as usize)).collect();
        assert!((spread.weight - repeated.count as f64).abs() < 1e-9 && (spread.mean - repeated.mean).abs() < 1e-8);
        assert!((spread.m2 / repeated.m2 - 1.0).abs() < 1e-9);
        // Half-life of one value: the weights of the values are 1/8, 1/4, 1/2, 1.
        let mut fading = Spread::default();
        for value in [1.0, 5.0, 2.0, 8.0] {
            fading.fade(0.5);
            fading.add(value, 1.0);
        }
        let mut told = Spread::default();
        [(1.0, 0.125), (5.0, 0.25), (2.0, 0.5), (8.0, 1.0)].iter().for_each(|&(value, weight)| told.add(value, weight));
        assert!((fading.mean - told.mean).abs() < 1e-12 && (fading.variance() - told.variance()).abs() < 1e-12);
    }
}
