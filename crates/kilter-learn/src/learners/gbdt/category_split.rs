//! The best set of categories to send one way.
//!
//! With gradients G and hessians H a category, the best two groups of categories are neighbours once these are sorted by G / H (Fisher 1958):
//! instead of all subsets, only the cuts of that one order need be tried. Few rows make that order a matter of chance, so G / H is drawn
//! towards 0 (`cat_smooth`), both sides of such a split pay more (`cat_l2`), a set holds at most so many categories, and a cut comes only after so many
//! rows more than the last (`min_group_rows`): LightGBM's rules (Ke et al. 2017). A column of few categories is tried one against the rest.
//! A missing value is a category like others.

use super::categories::BinSet;
use super::histogram::Sums;
use super::split::{Bounds, Rules};

/// How columns of categories are split.
#[derive(Clone, Copy, Debug)]
pub(super) struct CategoryRules<'a> {
    /// Which columns hold bins of categories.
    pub columns: &'a [bool],
    pub smooth: f64,
    pub l2: f64,
    pub most_in_set: usize,
    pub most_one_by_one: usize,
    pub min_group_rows: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct BestSet {
    pub score: f64,
    pub set: BinSet,
    pub left: Sums,
}

/// The set of the highest score above `beat`, the first of equals.
pub(super) fn best(
    rules: &Rules<'_>,
    categories: &CategoryRules<'_>,
    sums: &[Sums],
    total: &Sums,
    bounds: Bounds,
    beat: f64,
) -> Option<BestSet> {
    let last_bin = (sums.len() - 1) as u8;
    let there = |bin: &u8| sums[usize::from(*bin)].count > 0;
    let mut bins: Vec<u8> = (0..=last_bin).filter(there).collect();
    let mut search = Search { rules, total, bounds, beat, l2: 0.0, found: None };
    if usize::from(last_bin) <= categories.most_one_by_one {
        for &bin in &bins {
            search.consider(&[bin], sums[usize::from(bin)]);
        }
    } else {
        search.l2 = categories.l2;
        // Of what has fewer rows than this nothing is known that would last.
        bins.retain(|&bin| sums[usize::from(bin)].count as f64 >= categories.smooth);
        let slope = |bin: u8| {
            let sums = &sums[usize::from(bin)];
            rules.scale.gradient(sums) / (rules.scale.hessian(sums) + categories.smooth)
        };
        bins.sort_by(|&a, &b| slope(a).total_cmp(&slope(b)).then(a.cmp(&b)));
        search.cuts(&bins, sums, categories);
        bins.reverse();
        search.cuts(&bins, sums, categories);
    }
    let mut found = search.found?;
    // What the node did not see goes where most of its rows go.
    if 2 * found.left.count >= total.count {
        (0..=u8::MAX).filter(|bin| *bin > last_bin || !there(bin)).for_each(|bin| found.set.insert(bin));
    }
    Some(found)
}

struct Search<'a> {
    rules: &'a Rules<'a>,
    total: &'a Sums,
    bounds: Bounds,
    beat: f64,
    l2: f64,
    found: Option<BestSet>,
}

impl Search<'_> {
    /// Tries the first categories of an order against the rest.
    fn cuts(&mut self, order: &[u8], sums: &[Sums], categories: &CategoryRules<'_>) {
        let most = categories.most_in_set.min(order.len().div_ceil(2));
        let mut left = Sums::default();
        let mut since_last = 0;
        for (at, &bin) in order.iter().enumerate().take(most) {
            let own = &sums[usize::from(bin)];
            left = left.with(own);
            since_last += own.count;
            if self.total.count - left.count < categories.min_group_rows {
                break;
            }
            if since_last >= categories.min_group_rows && self.consider(&order[..=at], left) {
                since_last = 0;
            }
        }
    }

    /// Whether both sides are large enough; the split is kept if it is the best.
    fn consider(&mut self, bins: &[u8], left: Sums) -> bool {
        let Rules { min_rows, min_hessian, scale, .. } = *self.rules;
        let right = self.total.without(&left);
        if [&left, &right].iter().any(|side| side.count < min_rows || scale.hessian(side) < min_hessian) {
            return false;
        }
        let score = self.rules.side_score(&left, self.l2, self.bounds) + self.rules.side_score(&right, self.l2, self.bounds);
        if score > self.beat {
            self.beat = score;
            let mut set = BinSet::default();
            bins.iter().for_each(|&bin| set.insert(bin));
            self.found = Some(BestSet { score, set, left });
        }
        true
    }
}

#[cfg(test)]
#[path = "category_split_tests.rs"]
mod tests;
