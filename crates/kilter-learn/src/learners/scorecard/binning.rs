//! Optimal binning: of all ways to merge neighbouring parts of a column into bins, the one with the most information value.
//!
//! Exact, by dynamic programming over the last bin: the best way to end with bin i..=j takes the best way to end with some bin h..=i-1 that
//! bin i..=j may follow. With 100 parts that is a hundred thousand pairs of neighbouring bins for each number of bins.

use serde::{Deserialize, Serialize};

/// How the share of positives may move from bin to bin, from low to high values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Increasing or decreasing, whichever has more information.
    Auto,
    Increasing,
    Decreasing,
    /// Up, then down.
    Peak,
    /// Down, then up.
    Valley,
    /// No constraint.
    Any,
}

/// Weight of each class.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    pub negatives: f64,
    pub positives: f64,
}

impl Counts {
    pub fn add(&mut self, label: f64, weight: f64) {
        if label == 1.0 { self.positives += weight } else { self.negatives += weight }
    }

    pub fn total(&self) -> f64 {
        self.negatives + self.positives
    }

    /// Weight of evidence: ln(share of all negatives here / share of all positives here). Where a class is missing, half a row is added to
    /// both; without rows it is 0.
    pub fn woe(&self, all: &Counts) -> f64 {
        if self.total() == 0.0 {
            return 0.0;
        }
        let more = if self.negatives == 0.0 || self.positives == 0.0 { 0.5 } else { 0.0 };
        libm::log((self.negatives + more) / all.negatives) - libm::log((self.positives + more) / all.positives)
    }

    /// This bin's part of the information value.
    pub fn information(&self, all: &Counts) -> f64 {
        (self.negatives / all.negatives - self.positives / all.positives) * self.woe(all)
    }
}

/// What bins must keep.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub max_bins: usize,
    /// Least weight of a bin.
    pub min_weight: f64,
    pub shape: Shape,
}

/// A way to merge parts: the last part of each bin, and what it is worth.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Merge {
    pub ends: Vec<usize>,
    pub information: f64,
    /// Never `Auto`.
    pub shape: Shape,
}

#[derive(Clone, Copy, PartialEq)]
enum Move {
    Up,
    Down,
    Free,
}

/// The best merge; all parts in one bin where no other keeps the limits. A bin needs both classes.
pub(super) fn best_merge(parts: &[Counts], all: &Counts, limits: &Limits) -> Merge {
    let table = Table::of(parts, all, limits);
    let of =
        |shape: Shape, moves: &[Move]| table.best(moves, limits.max_bins).map(|(ends, information)| Merge { ends, information, shape });
    let best = match limits.shape {
        Shape::Auto => match (of(Shape::Increasing, &[Move::Up]), of(Shape::Decreasing, &[Move::Down])) {
            (Some(up), Some(down)) => Some(if down.information > up.information { down } else { up }),
            (up, down) => up.or(down),
        },
        Shape::Increasing => of(Shape::Increasing, &[Move::Up]),
        Shape::Decreasing => of(Shape::Decreasing, &[Move::Down]),
        Shape::Peak => of(Shape::Peak, &[Move::Up, Move::Down]),
        Shape::Valley => of(Shape::Valley, &[Move::Down, Move::Up]),
        Shape::Any => of(Shape::Any, &[Move::Free]),
    };
    let single = || {
        let sum = parts.iter().fold(Counts::default(), |sum, part| Counts {
            negatives: sum.negatives + part.negatives,
            positives: sum.positives + part.positives,
        });
        let shape = if limits.shape == Shape::Auto { Shape::Increasing } else { limits.shape };
        Merge { ends: vec![parts.len() - 1], information: sum.information(all), shape }
    };
    best.unwrap_or_else(single)
}

/// Counts and worth of every bin that keeps the limits by itself; bin i..=j lies at `i * parts + j`.
struct Table {
    parts: usize,
    counts: Vec<Counts>,
    /// `NEG_INFINITY` for a bin that is not allowed.
    worth: Vec<f64>,
}

impl Table {
    fn of(parts: &[Counts], all: &Counts, limits: &Limits) -> Table {
        let n = parts.len();
        let mut table = Table { parts: n, counts: vec![Counts::default(); n * n], worth: vec![f64::NEG_INFINITY; n * n] };
        for i in 0..n {
            let mut sum = Counts::default();
            for (j, part) in parts.iter().enumerate().skip(i) {
                sum.negatives += part.negatives;
                sum.positives += part.positives;
                table.counts[i * n + j] = sum;
                if sum.negatives > 0.0 && sum.positives > 0.0 && sum.total() >= limits.min_weight {
                    table.worth[i * n + j] = sum.information(all);
                }
            }
        }
        table
    }

    /// The best merge whose moves from bin to bin follow the given phases in order; a later phase need not be reached.
    fn best(&self, phases: &[Move], max_bins: usize) -> Option<(Vec<usize>, f64)> {
        let n = self.parts;
        // Of each layer (number of bins, phase): worth of the best merge of 0..=j that ends with bin i..=j, and where it came from.
        let mut layers: Vec<Vec<f64>> = Vec::new();
        let mut origins: Vec<Vec<(u32, u32)>> = Vec::new();
        for bins in 1..=max_bins.min(n) {
            let mut alive = false;
            for (phase, &direction) in phases.iter().enumerate() {
                let mut layer = vec![f64::NEG_INFINITY; n * n];
                let mut origin = vec![(0, 0); n * n];
                if bins == 1 {
                    if phase == 0 {
                        layer[..n].copy_from_slice(&self.worth[..n]);
                        alive = true;
                    }
                } else {
                    for before in phase.saturating_sub(1)..=phase {
                        let index = (bins - 2) * phases.len() + before;
                        alive |= self.extend(&layers[index], index, direction, &mut layer, &mut origin);
                    }
                }
                layers.push(layer);
                origins.push(origin);
            }
            if !alive {
                break;
            }
        }
        let ends_of = |layer: usize| (0..n).map(move |i| (layer, i * n + n - 1));
        let finals = || (0..layers.len()).flat_map(ends_of);
        let most = finals().map(|(layer, bin)| layers[layer][bin]).fold(f64::NEG_INFINITY, f64::max);
        if most == f64::NEG_INFINITY {
            return None;
        }
        // Layers come with few bins first: of equals the simplest.
        let (mut layer, mut bin) = finals().find(|&(layer, bin)| layers[layer][bin] >= most - 1e-12)?;
        let information = layers[layer][bin];
        let mut ends = vec![n - 1];
        while layer >= phases.len() && bin >= n {
            let (before, start) = origins[layer][bin];
            let first = bin / n;
            ends.push(first - 1);
            (layer, bin) = (before as usize, start as usize * n + first - 1);
        }
        ends.reverse();
        Some((ends, information))
    }

    /// Puts one more bin behind every merge of a layer; whether any could be.
    fn extend(&self, from: &[f64], index: usize, direction: Move, layer: &mut [f64], origin: &mut [(u32, u32)]) -> bool {
        let n = self.parts;
        let mut any = false;
        for i in 1..n {
            let before: Vec<(usize, f64)> =
                (0..i).map(|h| (h, from[h * n + i - 1])).filter(|(_, worth)| *worth > f64::NEG_INFINITY).collect();
            if before.is_empty() {
                continue;
            }
            for j in i..n {
                let bin = i * n + j;
                if self.worth[bin] == f64::NEG_INFINITY {
                    continue;
                }
                for &(h, worth) in &before {
                    let sum = worth + self.worth[bin];
                    if sum > layer[bin] && allowed(direction, &self.counts[h * n + i - 1], &self.counts[bin]) {
                        layer[bin] = sum;
                        origin[bin] = (index as u32, h as u32);
                        any = true;
                    }
                }
            }
        }
        any
    }
}

/// Whether the share of positives moves as it should, compared without division.
fn allowed(direction: Move, before: &Counts, after: &Counts) -> bool {
    let (left, right) = (before.positives * after.negatives, after.positives * before.negatives);
    match direction {
        Move::Up => left <= right,
        Move::Down => left >= right,
        Move::Free => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(parts: &[Counts]) -> Counts {
        parts.iter().fold(Counts::default(), |sum, part| Counts {
            negatives: sum.negatives + part.negatives,
            positives: sum.positives + part.positives,
        })
    }

    fn follows(shape: Shape, rates: &[f64]) -> bool {
        let up = |rates: &[f64]| rates.windows(2).all(|pair| pair[0] <= pair[1] + 1e-12);
        let down = |rates: &[f64]| rates.windows(2).all(|pair| pair[0] >= pair[1] - 1e-12);
        let turn = |first: &dyn Fn(&[f64]) -> bool, then: &dyn Fn(&[f64]) -> bool| {
            (0..rates.len()).any(|top| first(&rates[..=top]) && then(&rates[top..]))
        };
        match shape {
            Shape::Auto => up(rates) || down(rates),
            Shape::Increasing => up(rates),
            Shape::Decreasing => down(rates),
            Shape::Peak => turn(&up, &down),
            Shape::Valley => turn(&down, &up),
            Shape::Any => true,
        }
    }

    /// Looks at all 2^(parts - 1) merges.
    fn by_brute_force(parts: &[Counts], limits: &Limits) -> Option<f64> {
        let all = sum(parts);
        let mut best = None;
        for cuts in 0..1u32 << (parts.len() - 1) {
            let mut bins = Vec::new();
            let mut start = 0;
            for end in 0..parts.len() {
                if end == parts.len() - 1 || cuts >> end & 1 == 1 {
                    bins.push(sum(&parts[start..=end]));
                    start = end + 1;
                }
            }
            let rates: Vec<f64> = bins.iter().map(|bin| bin.positives / bin.total()).collect();
            let kept = bins.len() <= limits.max_bins
                && bins.iter().all(|bin| bin.negatives > 0.0 && bin.positives > 0.0 && bin.total() >= limits.min_weight)
                && follows(limits.shape, &rates);
            if kept {
                let worth: f64 = bins.iter().map(|bin| bin.information(&all)).sum();
                best = Some(worth.max(best.unwrap_or(f64::NEG_INFINITY)));
            }
        }
        best
    }

    const SHAPES: [Shape; 6] = [Shape::Auto, Shape::Increasing, Shape::Decreasing, Shape::Peak, Shape::Valley, Shape::Any];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn no_other_merge_is_worth_more(
            parts in prop::collection::vec((0u8..12, 0u8..12), 1..11),
            max_bins in 1usize..7, min_weight in 0u8..25, shape in 0usize..6,
        ) {
            let parts: Vec<Counts> =
                parts.iter().map(|&(n, p)| Counts { negatives: f64::from(n), positives: f64::from(p) }).collect();
            let all = sum(&parts);
            prop_assume!(all.negatives > 0.0 && all.positives > 0.0);
            let limits = Limits { max_bins, min_weight: f64::from(min_weight), shape: SHAPES[shape] };
            let merge = best_merge(&parts, &all, &limits);
            match by_brute_force(&parts, &limits) {
                Some(best) => prop_assert!((merge.information - best).abs() < 1e-9, "{merge:?} instead of {best}"),
                None => prop_assert_eq!(&merge.ends, &[parts.len() - 1]),
            }
            // What is told is what was done.
            let mut start = 0;
            let bins: Vec<Counts> = merge.ends.iter().map(|&end| { let bin = sum(&parts[start..=end]); start = end + 1; bin }).collect();
            prop_assert_eq!(merge.ends.last(), Some(&(parts.len() - 1)));
            let rates: Vec<f64> = bins.iter().map(|bin| bin.positives / bin.total()).collect();
            prop_assert!(follows(merge.shape, &rates) && merge.shape != Shape::Auto);
            prop_assert!((bins.iter().map(|bin| bin.information(&all)).sum::<f64>() - merge.information).abs() < 1e-9);
        }
    }

    #[test]
    fn evidence_is_the_logarithm_of_shares() {
        let all = Counts { negatives: 800.0, positives: 200.0 };
        let bin = Counts { negatives: 200.0, positives: 20.0 };
        assert!((bin.woe(&all) - f64::ln(2.5)).abs() < 1e-15);
        assert!((bin.information(&all) - 0.15 * f64::ln(2.5)).abs() < 1e-15);
        let pure = Counts { negatives: 10.0, positives: 0.0 };
        assert!((pure.woe(&all) - f64::ln(10.5 / 800.0 / (0.5 / 200.0))).abs() < 1e-14);
        assert_eq!(Counts::default().woe(&all), 0.0);
    }
}
