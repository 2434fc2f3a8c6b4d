//! The best split of one node, read off its histogram.
//!
//! The gain of a split is the second-order reduction of the loss (Chen and Guestrin 2016): the sum over both sides of G^2 / (H + lambda),
//! less that of the node. Missing values try both sides. Where a node saw none, they are sent to the side with more training rows.
//!
//! On a column with a direction the left value may not exceed the right one (or the reverse), and each side stays within bounds: those of the
//! node, which the "basic" method parts in the middle between the two values, or those of the leaves it is in [`Order`] with. Sums are whole
//! numbers, columns and bins go upwards and only a strictly larger gain wins, so ties always fall alike.

use super::MonotoneMethod;
use super::binned::{Cuts, MISSING};
use super::categories::BinSet;
use super::category_split::{self, BestSet, CategoryRules};
use super::groups::Interactions;
use super::histogram::{Histogram, Scale, Shape, Sums};
use super::order::Order;
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
    pub monotone_method: MonotoneMethod,
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
    /// What left and right would be worth.
    pub values: [f64; 2],
}

/// A node whose best split is asked for.
pub(super) struct Place<'a> {
    pub total: &'a Sums,
    pub bounds: Bounds,
    /// Columns that may not split it.
    pub barred: &'a [bool],
    /// The order it stands in with other leaves, and its number there.
    pub order: Option<(&'a Order<'a>, usize)>,
}

/// The best split on the columns of the shape that are not `barred`.
pub(super) fn best(rules: &Rules<'_>, histogram: &Histogram, shape: &Shape, place: &Place<'_>) -> Option<Split> {
    let &Place { total, bounds, barred, .. } = place;
    let floor = rules.min_gain + rules.side(total, bounds).score;
    let is_barred = |column: usize| barred.get(column).is_some_and(|&barred| barred);
    let is_categories = |column: usize| rules.categories.as_ref().is_some_and(|categories| categories.columns[column]);
    let column_sums = |column: usize| histogram.column(&rules.scale.fields, shape, column, rules.cuts[column].last_bin());
    let with_categories: Vec<bool>;
    let left_out = match rules.categories {
        None => barred,
        Some(_) => {
            with_categories = (0..rules.cuts.len()).map(|column| is_barred(column) || is_categories(column)).collect();
            &with_categories
        }
    };
    let found = thresholds::best(rules, histogram, shape, total, floor, left_out);
    let free = found.map(|Best { score, column, bin, missing_left, left }| {
        let missing = histogram.sums(&rules.scale.fields, shape, column, MISSING);
        let sides = if rules.monotone.is_empty() { None } else { place.sides(rules, column, &missing, missing_left) };
        let sides = sides.map_or([bounds; 2], |sides| sides[usize::from(bin)]);
        Candidate { score, column, bin, missing_left, set: None, left, sides }
    });
    let mut best = None;
    if rules.monotone.is_empty() || free.as_ref().is_none_or(|free| rules.keeps(free, total)) {
        // Bounds only make a split worse: where the best one without them keeps them, it is the best with them.
        best = free;
    } else {
        for &column in shape.columns.iter().filter(|&&column| !is_barred(column) && !is_categories(column)) {
            let beat = best.as_ref().map_or(floor, |best: &Candidate| best.score);
            let sums = column_sums(column);
            let missing = sums[usize::from(MISSING)];
            let found = rules.scan_column(missing, total, beat, |beat, missing_left| {
                let sides = place.sides(rules, column, &missing, missing_left);
                let sides = |bin: u8| sides.as_ref().map_or([bounds; 2], |sides| sides[usize::from(bin)]);
                rules.scan_constrained(&sums, column, total, sides, beat, missing_left)
            });
            best = found.or(best);
        }
    }
    if let Some(categories) = &rules.categories {
        for &column in shape.columns.iter().filter(|&&column| !is_barred(column) && is_categories(column)) {
            let beat = best.as_ref().map_or(floor, |best| best.score);
            let found = category_split::best(rules, categories, &column_sums(column), total, bounds, beat);
            let candidate = |BestSet { score, set, left }| {
                let missing_left = set.has(MISSING);
                Candidate { score, column, bin: 0, missing_left, set: Some(set), left, sides: [bounds; 2] }
            };
            best = found.map(candidate).or(best);
        }
    }
    best.map(|candidate| rules.split(candidate, total, bounds))
}

impl Place<'_> {
    /// Bounds of the two sides by bin, where a split's sides have bounds of their own.
    fn sides(&self, rules: &Rules<'_>, column: usize, missing: &Sums, missing_left: bool) -> Option<Vec<[Bounds; 2]>> {
        let (order, leaf) = self.order?;
        // Where there is none, it is not known yet to which side one would go.
        let none = missing.count == 0;
        order.bounds_of_sides(leaf, column, rules.cuts[column].last_bin(), [none || missing_left, none || !missing_left])
    }
}

/// A split under consideration; the score is the two sides' sum, before the node's own is taken off.
struct Candidate {
    score: f64,
    column: usize,
    bin: u8,
    missing_left: bool,
    set: Option<BinSet>,
    left: Sums,
    /// What the two sides must stay between.
    sides: [Bounds; 2],
}

struct Side {
    value: f64,
    score: f64,
}

impl<'a> Rules<'a> {
    /// The order of the leaves of a tree that is to be grown, where there is one.
    pub(super) fn order(&self) -> Option<Order<'a>> {
        let ordered = !self.monotone.is_empty() && self.monotone_method != MonotoneMethod::Basic;
        ordered.then(|| Order::new(self.monotone, self.monotone_method == MonotoneMethod::Advanced))
    }

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
        bounds_of: impl Fn(u8) -> [Bounds; 2],
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
            let sides = bounds_of(bin);
            let (left_side, right_side) = (self.side(&left, sides[0]), self.side(&right, sides[1]));
            if f64::from(self.monotone[column]) * (right_side.value - left_side.value) < 0.0 {
                continue;
            }
            let score = left_side.score + right_side.score;
            if score > beat {
                beat = score;
                found = Some(Candidate { score, column, bin, missing_left, set: None, left, sides });
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

    /// What a node gains by a threshold with these rows on its left; none where a side is too small or the direction is not kept.
    pub(super) fn gain_at(&self, column: usize, left: &Sums, total: &Sums, bounds: Bounds) -> Option<f64> {
        let right = total.without(left);
        let large_enough = |side: &Sums| side.count >= self.min_rows && self.scale.hessian(side) >= self.min_hessian;
        if !large_enough(left) || !large_enough(&right) {
            return None;
        }
        let (left, right) = (self.side(left, bounds), self.side(&right, bounds));
        let direction = self.monotone.get(column).copied().unwrap_or(0);
        let kept = direction == 0 || f64::from(direction) * (right.value - left.value) >= 0.0;
        kept.then(|| left.score + right.score - self.side(total, bounds).score)
    }

    /// The split of a node by a given threshold, under the same conditions.
    pub(super) fn split_at(&self, column: usize, bin: u8, missing_left: bool, left: Sums, total: &Sums, bounds: Bounds) -> Option<Split> {
        let score = self.gain_at(column, &left, total, bounds)? + self.side(total, bounds).score;
        Some(self.split(Candidate { score, column, bin, missing_left, set: None, left, sides: [bounds; 2] }, total, bounds))
    }

    /// Whether both sides' best values of all are allowed.
    fn keeps(&self, candidate: &Candidate, total: &Sums) -> bool {
        let [left, right] = [candidate.left, total.without(&candidate.left)].map(|side| self.side(&side, UNBOUNDED).value);
        let within = |value: f64, bounds: Bounds| bounds.low <= value && value <= bounds.high;
        let direction = self.monotone.get(candidate.column).copied().unwrap_or(0);
        f64::from(direction) * (right - left) >= 0.0 && within(left, candidate.sides[0]) && within(right, candidate.sides[1])
    }

    fn split(&self, candidate: Candidate, total: &Sums, bounds: Bounds) -> Split {
        let Candidate { score, column, bin, missing_left, set, left, sides } = candidate;
        let right = total.without(&left);
        let gain = score - self.side(total, bounds).score;
        let values = [self.side(&left, sides[0]).value, self.side(&right, sides[1]).value];
        let (mut left_bounds, mut right_bounds) = (bounds, bounds);
        let direction = self.monotone.get(column).copied().unwrap_or(0);
        if direction != 0 {
            let middle = 0.5 * values[0] + 0.5 * values[1];
            let (lower, upper) = if direction > 0 { (&mut left_bounds, &mut right_bounds) } else { (&mut right_bounds, &mut left_bounds) };
            lower.high = middle;
            upper.low = middle;
        }
        Split { gain, column, bin, missing_left, set, left, right, left_bounds, right_bounds, values }
    }
}

/// The value that lowers the loss most: -G / (H + lambda), kept within bounds.
pub(super) fn leaf_value(gradient: f64, curvature: f64, bounds: Bounds) -> f64 {
    let free = if curvature > 0.0 { -gradient / curvature } else { 0.0 };
    free.max(bounds.low).min(bounds.high)
}
