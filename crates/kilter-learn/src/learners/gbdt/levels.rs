//! Grows one tree level by level, all leaves by the same split: an oblivious or symmetric tree (Kohavi 1994; CatBoost's, Prokhorenkova et al. 2018).
//!
//! A level's split is the one that gains most over all leaves together. A leaf takes no part in it where one of its sides would be too small or
//! against a declared direction: it stays as it is, and may take part in the next. So every leaf has its rows, and a tree asks as many questions as
//! it has levels: few, which keeps it from learning noise.

use rayon::prelude::*;

use super::binned::MISSING;
use super::grow::{Grower, Growing, Leaf};
use super::histogram::{Entry, Histogram, Sums};
use super::split::Rules;

/// The split of a level.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Level {
    gain: f64,
    column: usize,
    bin: u8,
    missing_left: bool,
}

impl Grower<'_> {
    pub(super) fn grow_levels(&mut self, growing: &mut Growing<'_, '_>, entries: &mut [Entry], rules: &Rules<'_>) {
        let (root, histogram) = self.root(entries);
        growing.leaves.push(root);
        let mut groups = rules.interactions.map_or(Vec::new(), |interactions| interactions.all());
        // Of leaves that have rows enough to be split.
        let mut histograms = vec![Some(histogram)];
        let levels = self.max_depth.min(self.max_leaves.ilog2() as usize);
        for depth in 1..=levels {
            if let Some(order) = &growing.order {
                growing.leaves.iter_mut().for_each(|leaf| leaf.bounds = order.bounds(leaf.number));
            }
            let barred = rules.interactions.map_or(Vec::new(), |interactions| interactions.barred(&groups, rules.cuts.len()));
            let Some(level) = self.best_level(&growing.leaves, &histograms, rules, &barred) else { break };
            groups = rules.interactions.map_or(Vec::new(), |interactions| interactions.below(&groups, level.column));
            let mut parted = Vec::new();
            for number in 0..growing.leaves.len() {
                let Some(histogram) = histograms[number].take() else { continue };
                let leaf = &mut growing.leaves[number];
                if let Some(order) = &growing.order {
                    // Others of this level have new values by now.
                    leaf.bounds = order.bounds(number);
                }
                let left = self.left_of(&histogram, rules, &level);
                match rules.split_at(level.column, level.bin, level.missing_left, left, &leaf.total, leaf.bounds) {
                    None => histograms[number] = Some(histogram),
                    Some(split) => {
                        parted.push((number, growing.leaves.len(), histogram));
                        self.split(growing, entries, number, &split, rules);
                        histograms.push(None);
                    }
                }
            }
            if parted.is_empty() {
                break;
            }
            for (left, right, histogram) in parted {
                if depth == levels {
                    self.give_back(histogram);
                    continue;
                }
                let leaves = &growing.leaves;
                let [of_left, of_right] = self.histograms_below(entries, rules, histogram, &leaves[left], &leaves[right]);
                (histograms[left], histograms[right]) = (of_left, of_right);
            }
        }
        histograms.into_iter().flatten().for_each(|histogram| self.give_back(histogram));
    }

    /// The split of the highest gain; of equals the first by column, missing right before left, and bin.
    fn best_level(&self, leaves: &[Leaf], histograms: &[Option<Histogram>], rules: &Rules<'_>, barred: &[bool]) -> Option<Level> {
        let open: Vec<(&Leaf, &Histogram)> =
            leaves.iter().zip(histograms).filter_map(|(leaf, histogram)| Some((leaf, histogram.as_ref()?))).collect();
        let is_barred = |column: usize| barred.get(column).is_some_and(|&barred| barred);
        let columns: Vec<usize> = self.builder.shape.columns.iter().copied().filter(|&column| !is_barred(column)).collect();
        let of_column = |&column: &usize| self.best_of_column(column, &open, rules);
        /// Thresholds worth a second thread.
        const MANY: usize = 30_000;
        let thresholds: usize = columns.iter().map(|&column| usize::from(rules.cuts[column].last_bin())).sum();
        let found: Vec<Option<Level>> = if thresholds * open.len() >= MANY {
            columns.par_iter().map(of_column).collect()
        } else {
            columns.iter().map(of_column).collect()
        };
        let better = |best: Option<Level>, next: Level| best.filter(|best| best.gain >= next.gain).or(Some(next));
        found.into_iter().flatten().fold(None, better)
    }

    fn best_of_column(&self, column: usize, open: &[(&Leaf, &Histogram)], rules: &Rules<'_>) -> Option<Level> {
        let last_bin = rules.cuts[column].last_bin();
        // By side of the missing values and bin, over all leaves.
        let mut gains = [(); 2].map(|()| vec![0.0; usize::from(last_bin) + 1]);
        let mut rows = vec![0; usize::from(last_bin) + 1];
        let mut some_missing = false;
        for (leaf, histogram) in open {
            let sums = histogram.column(&rules.scale.fields, &self.builder.shape, column, last_bin);
            let missing = sums[usize::from(MISSING)];
            some_missing |= missing.count > 0;
            for (missing_left, gains) in [false, true].into_iter().zip(&mut gains) {
                let mut left = if missing_left { missing } else { Sums::default() };
                // Below all its values, a leaf may be parted from its missing ones where others are cut in earnest.
                let mut gain = rules.gain_at(column, &left, &leaf.total, leaf.bounds);
                for (bin, own) in sums.iter().enumerate().skip(1) {
                    if own.count > 0 {
                        left = left.with(own);
                        gain = rules.gain_at(column, &left, &leaf.total, leaf.bounds);
                    }
                    gains[bin] += gain.unwrap_or(0.0);
                    rows[bin] += if missing_left { 0 } else { left.count };
                }
            }
        }
        let all: u64 = open.iter().map(|(leaf, _)| leaf.total.count).sum();
        let mut best: Option<Level> = None;
        let sides = if some_missing { &gains[..] } else { &gains[..1] };
        for (gains, missing_left) in sides.iter().zip([false, true]) {
            for (bin, &gain) in gains.iter().enumerate().skip(1) {
                if gain > best.map_or(rules.min_gain, |best| best.gain) {
                    // Where there is none, a missing value goes where most rows go.
                    let missing_left = if some_missing { missing_left } else { 2 * rows[bin] >= all };
                    best = Some(Level { gain, column, bin: bin as u8, missing_left });
                }
            }
        }
        best
    }

    /// Sums of what a level's split sends left, of one leaf.
    fn left_of(&self, histogram: &Histogram, rules: &Rules<'_>, level: &Level) -> Sums {
        let sums = histogram.column(&rules.scale.fields, &self.builder.shape, level.column, level.bin);
        let missing = if level.missing_left { sums[usize::from(MISSING)] } else { Sums::default() };
        sums[1..].iter().fold(missing, |left, own| left.with(own))
    }
}

#[cfg(test)]
#[path = "levels_tests.rs"]
mod tests;
