//! The best threshold of one column, all of them tried at once.
//!
//! Plain loops over arrays, which a compiler turns into vector instructions. They are compiled for every machine and once more for AVX2.
//! Each float operation stands for itself (none are fused or reordered), so both give the same bits.

use super::histogram::{Cell, Cells, Sums, add, unpack};
use super::split::Rules;

/// Loops go over whole vectors of this many bins.
const LANES: usize = 8;

/// Sums of a column's value bins, each with all bins below it. Of no use before `add_up`.
pub(super) struct Thresholds {
    /// The cells' two words apart, so that several bins load at once.
    words: [[u64; 256]; 2],
    bins: usize,
}

/// The best of one column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Best {
    pub score: f64,
    /// Rows in bins up to this one go left.
    pub bin: u8,
    pub left: Sums,
}

/// What the two sides are held against, as floats. Whole numbers below 2^53 and powers of two lose nothing.
struct Bar {
    gradient_unit: f64,
    hessian_unit: f64,
    gradient: f64,
    hessian: f64,
    rows: f64,
    lambda: f64,
    min_rows: f64,
    min_hessian: f64,
}

impl Thresholds {
    pub fn new() -> Self {
        Thresholds { words: [[0; 256]; 2], bins: 0 }
    }

    /// Takes up a column whose value bins are 1 to `last_bin`.
    pub fn add_up(&mut self, cells: &Cells, last_bin: u8) {
        self.bins = usize::from(last_bin);
        let mut below = [0; 2];
        for bin in 0..self.bins {
            add(&mut below, cells[bin + 1]);
            [self.words[0][bin], self.words[1][bin]] = below;
        }
        // The last vector's rest repeats the last threshold, which then never is the first of equals.
        for bin in self.bins..self.bins.next_multiple_of(LANES) {
            [self.words[0][bin], self.words[1][bin]] = below;
        }
    }

    /// The threshold of the highest score above `beat`, the lowest of equals, with `missing` added on the left.
    pub fn best(&self, rules: &Rules<'_>, total: &Sums, missing: Cell, beat: f64) -> Option<Best> {
        let bar = Bar {
            gradient_unit: rules.scale.gradient_unit,
            hessian_unit: rules.scale.hessian_unit,
            gradient: rules.scale.gradient(total),
            hessian: rules.scale.hessian(total),
            rows: total.count as f64,
            lambda: rules.lambda,
            min_rows: rules.min_rows as f64,
            min_hessian: rules.min_hessian,
        };
        let mut scores = [0.0; 256];
        let score = self.score(&bar, missing, &mut scores);
        if score > beat {
            let bin = scores[..self.bins].iter().position(|&other| other == score)?;
            let mut left = [self.words[0][bin], self.words[1][bin]];
            add(&mut left, missing);
            return Some(Best { score, bin: bin as u8 + 1, left: Sums::of(left) });
        }
        None
    }

    /// Scores every threshold, minus infinity where a side is too small; returns the highest.
    fn score(&self, bar: &Bar, missing: Cell, scores: &mut [f64; 256]) -> f64 {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the machine has AVX2, as was just asked.
            return unsafe { self.score_avx2(bar, missing, scores) };
        }
        self.score_anywhere(bar, missing, scores)
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn score_avx2(&self, bar: &Bar, missing: Cell, scores: &mut [f64; 256]) -> f64 {
        self.score_anywhere(bar, missing, scores)
    }

    #[inline(always)]
    fn score_anywhere(&self, bar: &Bar, missing: Cell, scores: &mut [f64; 256]) -> f64 {
        let mut highest = [f64::NEG_INFINITY; LANES];
        let used = self.bins.next_multiple_of(LANES);
        let ([first, second], scores) = (&self.words, &mut scores[..used]);
        let words = first[..used].chunks_exact(LANES).zip(second[..used].chunks_exact(LANES));
        for (scores, (first, second)) in scores.chunks_exact_mut(LANES).zip(words) {
            for lane in 0..LANES {
                let [g, h, rows] = unpack([first[lane].wrapping_add(missing[0]), second[lane].wrapping_add(missing[1])]);
                let (g, h) = (g * bar.gradient_unit, h * bar.hessian_unit);
                let (k, rest) = (bar.gradient - g, bar.hessian - h);
                let (a, b) = (h + bar.lambda, rest + bar.lambda);
                // Both fractions over one denominator: one division a bin instead of two.
                let score = (g * g * b + k * k * a) / (a * b);
                let enough_rows = (rows >= bar.min_rows) & (bar.rows - rows >= bar.min_rows);
                let enough_weight = (h >= bar.min_hessian) & (rest >= bar.min_hessian);
                let score = if enough_rows & enough_weight { score } else { f64::NEG_INFINITY };
                scores[lane] = score;
                highest[lane] = if score > highest[lane] { score } else { highest[lane] };
            }
        }
        highest.into_iter().fold(f64::NEG_INFINITY, |highest, score| if score > highest { score } else { highest })
    }
}

#[cfg(test)]
mod tests {
    use super::super::histogram::{Entry, Scale};
    use super::*;
    use kilter_stats::Rng;

    /// Threshold by threshold, as one would write it down.
    fn naive(cells: &Cells, last_bin: u8, rules: &Rules<'_>, total: &Sums, missing: Cell, mut beat: f64) -> Option<Best> {
        let (mut below, mut found) = (missing, None);
        for bin in 1..=last_bin {
            add(&mut below, cells[usize::from(bin)]);
            let left = Sums::of(below);
            let right = total.without(&left);
            let (h, rest) = (rules.scale.hessian(&left), rules.scale.hessian(&right));
            if left.count < rules.min_rows || right.count < rules.min_rows || h < rules.min_hessian || rest < rules.min_hessian {
                continue;
            }
            let (g, k) = (rules.scale.gradient(&left), rules.scale.gradient(&right));
            let (a, b) = (h + rules.lambda, rest + rules.lambda);
            let score = (g * g * b + k * k * a) / (a * b);
            if score > beat {
                beat = score;
                found = Some(Best { score, bin, left });
            }
        }
        found
    }

    #[test]
    fn all_at_once_finds_what_one_by_one_finds_to_the_bit() {
        let mut rng = Rng::seeded(1);
        let mut thresholds = Thresholds::new();
        let mut found = 0;
        for turn in 0..600 {
            let last_bin = if turn % 4 == 0 { 255 } else { 1 + rng.below(255) as u8 };
            let mut cells = [[0; 2]; 256];
            let rows = 1 + rng.below(2000);
            for _ in 0..rows {
                // Few different words make many equal scores.
                let (g, h) = if turn % 3 == 0 { (16_384, 4_096) } else { (rng.next_u64() as i16, rng.next_u64() as u16) };
                let g = if rng.bernoulli(0.5) { g } else { -(g.max(-32_767)) };
                add(&mut cells[rng.below(u64::from(last_bin) + 1) as usize], Entry::new(0, g, h).cell());
            }
            let total = super::super::histogram::total(&cells);
            let rules = Rules {
                lambda: [0.0, 1.0, 1e-3][turn % 3],
                min_rows: 1 + rng.below(20),
                min_hessian: [0.0, 1e-3, 2.0][turn % 3],
                min_gain: 0.0,
                scale: Scale::fitting(1.0, 0.25),
                cuts: &[],
                monotone: &[],
                categories: None,
                interactions: None,
            };
            thresholds.add_up(&cells, last_bin);
            for missing in [[0; 2], cells[0]] {
                let expected = naive(&cells, last_bin, &rules, &total, missing, 0.5);
                assert_eq!(thresholds.best(&rules, &total, missing, 0.5), expected, "turn {turn}");
                let bar = expected.map_or(0.0, |best| best.score);
                assert_eq!(thresholds.best(&rules, &total, missing, bar), naive(&cells, last_bin, &rules, &total, missing, bar));
                found += usize::from(expected.is_some());
            }
        }
        assert!(found > 500, "{found}");
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_machine_scores_the_same_bits() {
        if !std::arch::is_x86_feature_detected!("avx2") {
            return;
        }
        let mut rng = Rng::seeded(2);
        let mut thresholds = Thresholds::new();
        let cells: Cells = std::array::from_fn(|_| Entry::new(0, rng.next_u64() as i16, rng.next_u64() as u16).cell());
        thresholds.add_up(&cells, 254);
        let bar = Bar {
            gradient_unit: 1.0 / 16_384.0,
            hessian_unit: 1.0 / 131_072.0,
            gradient: 3.1,
            hessian: 64.2,
            rows: 256.0,
            lambda: 0.3,
            min_rows: 5.0,
            min_hessian: 1e-3,
        };
        let (mut wide, mut plain) = ([0.0; 256], [0.0; 256]);
        // SAFETY: the machine has AVX2, as was asked above.
        let highest = unsafe { thresholds.score_avx2(&bar, cells[0], &mut wide) };
        assert_eq!(highest.to_bits(), thresholds.score_anywhere(&bar, cells[0], &mut plain).to_bits());
        assert!(wide.iter().zip(&plain).all(|(a, b)| a.to_bits() == b.to_bits()) && highest > 0.0);
    }
}
