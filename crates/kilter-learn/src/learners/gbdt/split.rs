//! The best split of one node, read off its histogram.
//!
//! The gain of a split is the second-order reduction of the loss (Chen and Guestrin 2016): the sum over both sides of G^2 / (H + lambda),
//! less that of the node. Missing values try both sides. Where a node saw none, they are sent to the side with more training rows.
//!
//! Monotone constraints are LightGBM's "basic" method: on a constrained column the left value may not exceed the right one (or the
//! reverse), and each side's later values stay beyond the middle between the two. Sums are whole numbers, columns and bins go upwards and
//! only a strictly larger gain wins, so ties always fall alike.

use super::binned::{Cuts, MISSING};
use super::categories::BinSet;
use super::category_split::{self, BestSet, CategoryRules};
use super::histogram::{Histogram, Scale, Shape, Sums};
use super::interactions::Interactions;
use super::thresholds::{self, Best};

/// What a split must satisfy.
#[derive(Clone, Debug)]
pub(super) struct Rules<'a> {
    pub lambda: f64,
    pub min_rows: u64,
    pub min_hessian: f64,
    pub min_gain: f64,
    pub scale: Scale,
    pub cuts: &'a [Cuts],
    /// -1, 0 or 1 a column; empty when nothing is constrained.
    pub monotone: &'a [i8],
    /// Of columns that hold categories; none when there are none.
    pub categories: Option<CategoryRules<'a>>,
    /// Which columns may follow each other on a path; none when all may.
    pub interactions: Option<&'a Interactions>,
}

/// Where the values of a node's leaves must stay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bounds {
    pub low: f64,
    pub high: f64,
}

pub(super) const UNBOUNDED: Bounds = Bounds { low: f64::NEG_INFINITY, high: f64::INFINITY };

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Split {
    pub gain: f64,
    pub column: usize,
    /// Rows in bins up to this one go left.
    pub bin: u8,
    pub missing_left: bool,
    /// The bins whose rows go left, of a column of categories; `bin` then says nothing.
    pub set: Option<BinSet>,
    pub left: Sums,
    pub right: Sums,
    pub left_bounds: Bounds,
    pub right_bounds: Bounds,
}

/// The best split; columns that are `left_out` are passed over.
pub(super) fn best(
    rules: &Rules<'_>,
    histogram: &Histogram,
    shape: &Shape,
    total: &Sums,
    bounds: Bounds,
    left_out: &[bool],
) -> Option<Split> {
    let floor = rules.min_gain + rules.side(total, bounds).score;
    let mut best: Option<Candidate> = None;
    let is_categories = |column: usize| rules.categories.as_ref().is_some_and(|categories| categories.columns[column]);
    if rules.monotone.is_empty() {
        let no_numbers: Vec<bool>;
        let passed_over = match &rules.categories {
            None => left_out,
            Some(categories) => {
                let out = |(column, is): (usize, &bool)| *is || left_out.get(column).is_some_and(|&out| out);
                no_numbers = categories.columns.iter().enumerate().map(out).collect();
                &no_numbers
            }
        };
        best = thresholds::best(rules, histogram, shape, total, floor, passed_over)
            .map(|Best { score, column, bin, missing_left, left }| Candidate { score, column, bin, missing_left, set: None, left });
        if rules.categories.is_none() {
            return best.map(|candidate| rules.split(candidate, total, bounds));
        }
    }
    for &column in shape.columns.iter().filter(|&&column| !left_out.get(column).is_some_and(|&out| out)) {
        let beat = best.as_ref().map_or(floor, |best| best.score);
        if let Some(categories) = rules.categories.as_ref().filter(|_| is_categories(column)) {
            let last_bin = rules.cuts[column].last_bin();
            let sums = histogram.column(&rules.scale.fields, shape, column, last_bin);
            let found = category_split::best(rules, categories, &sums, total, bounds, beat);
            let found = found.map(|BestSet { score, set, left }| Candidate {
                score,
                column,
                bin: 0,
                missing_left: set.has(MISSING),
                set: Some(set),
                left,
            });
            best = found.or(best);
            continue;
        }
        if rules.monotone.is_empty() {
            continue;
        }
        let sums = histogram.column(&rules.scale.fields, shape, column, rules.cuts[column].last_bin());
        let found = rules.scan_column(sums[usize::from(MISSING)], total, beat, |beat, missing_left| {
            rules.scan_constrained(&sums, column, total, bounds, beat, missing_left)
        });
        best = found.or(best);
    }
    best.map(|candidate| rules.split(candidate, total, bounds))
}

/// A split under consideration; the score is the two sides' sum, before the node's own is taken off.
struct Candidate {
    score: f64,
    column: usize,
    bin: u8,
    missing_left: bool,
    set: Option<BinSet>,
    left: Sums,
}

struct Side {
    value: f64,
    score: f64,
}

impl Rules<'_> {
    /// The better of both sides for the missing; `scan` finds the best candidate above a score with one of them.
    fn scan_column(&self, missing: Sums, total: &Sums, beat: f64, scan: impl Fn(f64, bool) -> Option<Candidate>) -> Option<Candidate> {
        let right = scan(beat, false);
        if missing.count == 0 {
            return right.map(|found| Candidate { missing_left: 2 * found.left.count >= total.count, ..found });
        }
        let beat = right.as_ref().map_or(beat, |found| found.score);
        scan(beat, true).or(right)
    }

    /// Tries every threshold of a column with missing values on one side; the last threshold parts all values from the missing.
    fn scan_constrained(
        &self,
        sums: &[Sums],
        column: usize,
        total: &Sums,
        bounds: Bounds,
        mut beat: f64,
        missing_left: bool,
    ) -> Option<Candidate> {
        let mut found = None;
        let mut left = if missing_left { sums[usize::from(MISSING)] } else { Sums::default() };
        for (bin, own) in (1..=u8::MAX).zip(&sums[1..]) {
            if own.count == 0 {
                continue;
            }
            left = left.with(own);
            let right = total.without(&left);
            if left.count < self.min_rows || self.scale.hessian(&left) < self.min_hessian {
                continue;
            }
            if right.count < self.min_rows || self.scale.hessian(&right) < self.min_hessian {
                break;
            }
            let (left_side, right_side) = (self.side(&left, bounds), self.side(&right, bounds));
            if f64::from(self.monotone[column]) * (right_side.value - left_side.value) < 0.0 {
                continue;
            }
            let score = left_side.score + right_side.score;
            if score > beat {
                beat = score;
                found = Some(Candidate { score, column, bin, missing_left, set: None, left });
            }
        }
        found
    }

    /// Best allowed value of a node and how much it lowers the loss (doubled): -(2 G w + (H + lambda) w^2).
    fn side(&self, sums: &Sums, bounds: Bounds) -> Side {
        let (gradient, curvature) = (self.scale.gradient(sums), self.scale.hessian(sums) + self.lambda);
        let value = leaf_value(gradient, curvature, bounds);
        Side { value, score: -(2.0 * gradient * value + curvature * value * value) }
    }

    /// How much a side of these sums lowers the loss (doubled) at its best allowed value, where `more` is added to lambda.
    pub(super) fn side_score(&self, sums: &Sums, more: f64, bounds: Bounds) -> f64 {
        let (gradient, curvature) = (self.scale.gradient(sums), self.scale.hessian(sums) + self.lambda + more);
        let value = leaf_value(gradient, curvature, bounds);
        -(2.0 * gradient * value + curvature * value * value)
    }

    fn split(&self, candidate: Candidate, total: &Sums, bounds: Bounds) -> Split {
        let Candidate { score, column, bin, missing_left, set, left } = candidate;
        let right = total.without(&left);
        let gain = score - self.side(total, bounds).score;
        let (mut left_bounds, mut right_bounds) = (bounds, bounds);
        let direction = self.monotone.get(column).copied().unwrap_or(0);
        if direction != 0 {
            let middle = 0.5 * self.side(&left, bounds).value + 0.5 * self.side(&right, bounds).value;
            let (lower, upper) = if direction > 0 { (&mut left_bounds, &mut right_bounds) } else { (&mut right_bounds, &mut left_bounds) };
            lower.high = middle;
            upper.low = middle;
        }
        Split { gain, column, bin, missing_left, set, left, right, left_bounds, right_bounds }
    }
}

/// The value that lowers the loss most: -G / (H + lambda), kept within bounds.
pub(super) fn leaf_value(gradient: f64, curvature: f64, bounds: Bounds) -> f64 {
    let free = if curvature > 0.0 { -gradient / curvature } else { 0.0 };
    free.max(bounds.low).min(bounds.high)
}
