//! Seeded randomness that is equal on every platform.
//!
//! The generator is xoshiro256++ (Blackman and Vigna 2019), its state filled from the seed by SplitMix64 (Steele et al. 2014).
//! Distributions use `libm`, so a seed names one data set for ever. Not for secrets.

/// A seeded generator.
#[derive(Clone, Debug, PartialEq)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    pub fn seeded(seed: u64) -> Self {
        let mut splitmix = seed;
        Rng { state: std::array::from_fn(|_| splitmix_next(&mut splitmix)) }
    }

    /// An independent generator for one named part of the work, so that drawing more in one part does not shift the others.
    pub fn fork(&self, part: u64) -> Self {
        let mut mixed = part;
        let salt = splitmix_next(&mut mixed);
        Rng::seeded(self.state[0] ^ self.state[3].rotate_left(32) ^ salt)
    }

    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in [0, 1), 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform whole number in 0..n without bias (Lemire 2019). `below(0)` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 {
            return 0;
        }
        let reject_below = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= reject_below {
                return (product >> 64) as u64;
            }
        }
    }

    pub fn bernoulli(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// Standard normal by Marsaglia's polar method; the second of each pair is thrown away, so a draw keeps no hidden state.
    pub fn normal(&mut self) -> f64 {
        loop {
            let (u, v) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let s = u * u + v * v;
            if s > 0.0 && s < 1.0 {
                return u * libm::sqrt(-2.0 * libm::log(s) / s);
            }
        }
    }

    /// Exponential with the given rate (mean 1 / rate).
    pub fn exponential(&mut self, rate: f64) -> f64 {
        -libm::log(1.0 - self.uniform()) / rate
    }

    /// Pareto with P(X > x) = (scale / x)^shape for x >= scale: amounts with a heavy tail.
    pub fn pareto(&mut self, scale: f64, shape: f64) -> f64 {
        scale * libm::pow(1.0 - self.uniform(), -1.0 / shape)
    }

    /// Poisson count. Multiplies uniforms below a mean of 30 (Knuth); above, sums independent halves, which is exact and needs no tables.
    /// A mean of zero, below zero or NaN gives 0.
    pub fn poisson(&mut self, mean: f64) -> u64 {
        if mean > 30.0 && mean.is_finite() {
            return self.poisson(mean * 0.5) + self.poisson(mean * 0.5);
        }
        if mean.is_nan() || mean <= 0.0 || mean.is_infinite() {
            return 0;
        }
        let limit = libm::exp(-mean);
        let (mut count, mut product) = (0, self.uniform());
        while product > limit {
            count += 1;
            product *= self.uniform();
        }
        count
    }

    /// Fisher-Yates shuffle in place.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

fn splitmix_next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Moments;

    fn check(name: &str, mean: f64, variance: f64, mut draw: impl FnMut(&mut Rng) -> f64) {
        let mut rng = Rng::seeded(11);
        let moments: Moments = (0..200_000).map(|_| draw(&mut rng)).collect();
        let error = 5.0 * libm::sqrt(variance / 200_000.0);
        assert!((moments.mean - mean).abs() < error, "{name}: mean {} instead of {mean}", moments.mean);
        let seen = moments.variance().unwrap();
        assert!((seen / variance - 1.0).abs() < 0.05, "{name}: variance {seen} instead of {variance}");
    }

    #[test]
    fn distributions_have_their_moments() {
        check("uniform", 0.5, 1.0 / 12.0, Rng::uniform);
        check("normal", 0.0, 1.0, Rng::normal);
        check("exponential", 0.5, 0.25, |r| r.exponential(2.0));
        check("bernoulli", 0.3, 0.21, |r| f64::from(u8::from(r.bernoulli(0.3))));
        check("poisson small", 3.5, 3.5, |r| r.poisson(3.5) as f64);
        check("poisson large", 250.0, 250.0, |r| r.poisson(250.0) as f64);
        check("pareto", 2.0 * 6.0 / 5.0, 4.0 * 6.0 / (25.0 * 4.0), |r| r.pareto(2.0, 6.0));
        check("below", 4.5, 99.0 / 12.0, |r| r.below(10) as f64);
    }

    #[test]
    fn a_seed_names_one_stream_for_ever() {
        // First outputs of SplitMix64 from 0 as published with the algorithm.
        let mut state = 0;
        assert_eq!(splitmix_next(&mut state), 0xe220_a839_7b1d_cdaf);
        assert_eq!(splitmix_next(&mut state), 0x6e78_9e6a_a1b9_65f4);
        // xoshiro256++ from the state 1, 2, 3, 4, as in the reference implementation's test vectors.
        let mut rng = Rng { state: [1, 2, 3, 4] };
        assert_eq!([rng.next_u64(), rng.next_u64(), rng.next_u64()], [41_943_041, 58_720_359, 3_588_806_011_781_223]);
        assert_ne!(Rng::seeded(1).fork(0), Rng::seeded(1).fork(1));
    }

    #[test]
    fn a_shuffle_is_a_permutation() {
        let mut items: Vec<u32> = (0..100).collect();
        Rng::seeded(3).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
        Rng::seeded(3).shuffle::<u8>(&mut []);
        assert_eq!([Rng::seeded(3).below(0), Rng::seeded(3).below(1), Rng::seeded(3).poisson(f64::NAN)], [0, 0, 0]);
    }
}
