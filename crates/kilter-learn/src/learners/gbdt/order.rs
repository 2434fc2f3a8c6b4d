//! Which leaves of a growing tree must not be worth more than which others, and what that leaves each of them.
//!
//! Two leaves are in order where a row can pass from one to the other by a change in one column that has a direction: they part at a split on that
//! column, and some row's values in all other columns lead to both. It is what `certificate` walks over. The basic method forgets the rows: it keeps all
//! leaves of a split's sides apart by the middle of its two values. Here a leaf keeps to the values that the leaves in order with it have at the time
//! (Auguste, Malory and Smirnov 2020).
//!
//! All leaves together are in order at any time: a split's sides get values within the limits of the leaf, so nobody else has to move. That
//! narrows or widens the limits of others, whose best split has then to be found again; it is when their turn comes.

use super::binned::MISSING;
use super::categories::BinSet;
use super::split::{Bounds, Split, UNBOUNDED};

#[derive(Debug)]
pub(super) struct Order<'a> {
    /// -1, 0 or 1 a column.
    monotone: &'a [i8],
    /// Whether a split's sides keep to those leaves only that they themselves are in order with.
    by_side: bool,
    leaves: Vec<Place>,
}

/// A leaf.
#[derive(Debug, Default)]
struct Place {
    value: f64,
    /// Which bins reach it, by column; all of those that are not named.
    reach: Vec<(usize, BinSet)>,
    /// The leaves that must not be worth more than it, and those that must not be worth less; each with the column in which rows would change.
    below: Vec<(usize, usize)>,
    above: Vec<(usize, usize)>,
    /// Limits its best split was found under, and whether others have changed since.
    looked: Option<Bounds>,
    touched: bool,
}

impl Place {
    fn reach(&self, column: usize) -> BinSet {
        self.reach.iter().find(|(known, _)| *known == column).map_or(ALL, |(_, bins)| *bins)
    }
}

impl<'a> Order<'a> {
    /// A tree of one leaf.
    pub fn new(monotone: &'a [i8], by_side: bool) -> Self {
        Order { monotone, by_side, leaves: vec![Place::default()] }
    }

    /// What the leaf's value must stay between, as the others are now; its best split is about to be found.
    pub fn look(&mut self, leaf: usize) -> Bounds {
        let bounds = self.bounds(leaf);
        let place = &mut self.leaves[leaf];
        (place.looked, place.touched) = (Some(bounds), false);
        bounds
    }

    /// Whether the leaf's best split may be another than when it was found.
    pub fn has_changed(&self, leaf: usize) -> bool {
        let place = &self.leaves[leaf];
        place.touched && (self.by_side || place.looked != Some(self.bounds(leaf)))
    }

    pub fn bounds(&self, leaf: usize) -> Bounds {
        let mut bounds = UNBOUNDED;
        let place = &self.leaves[leaf];
        place.below.iter().for_each(|&(other, _)| bounds.keep(self.leaves[other].value, true));
        place.above.iter().for_each(|&(other, _)| bounds.keep(self.leaves[other].value, false));
        bounds
    }

    /// What the sides of a split must stay between, by its last bin on the left: `[left, right]`. `None` where that is the same for all of them.
    /// `missing` says whether a missing value may come to the left and to the right side.
    pub fn bounds_of_sides(&self, leaf: usize, column: usize, last_bin: u8, missing: [bool; 2]) -> Option<Vec<[Bounds; 2]>> {
        let place = &self.leaves[leaf];
        let narrow = |&(other, by): &(usize, usize)| by != column && self.leaves[other].reach(column) != ALL;
        if !self.by_side || !place.below.iter().chain(&place.above).any(narrow) {
            return None;
        }
        let own = place.reach(column);
        let mut bounds = vec![[UNBOUNDED; 2]; usize::from(last_bin) + 1];
        for (list, below) in [(&place.below, true), (&place.above, false)] {
            for &(other, by) in list {
                let Place { value, .. } = self.leaves[other];
                let shared = if by == column { ALL } else { own.and(&self.leaves[other].reach(column)) };
                let (first, last) = shared.ends();
                let has_missing = shared.has(MISSING);
                for (bin, [left, right]) in (0..=u8::MAX).zip(&mut bounds) {
                    if first <= bin || has_missing && missing[0] {
                        left.keep(value, below);
                    }
                    if last > bin || has_missing && missing[1] {
                        right.keep(value, below);
                    }
                }
            }
        }
        Some(bounds)
    }

    /// Parts a leaf: it becomes the left side, the right one is a new leaf with the next number.
    pub fn split(&mut self, leaf: usize, split: &Split) {
        let (column, new) = (split.column, self.leaves.len());
        let parent = std::mem::take(&mut self.leaves[leaf]);
        let left = split.set.unwrap_or_else(|| BinSet::up_to(split.bin, split.missing_left));
        let [mut left, mut right] = [(left, split.values[0]), (left.others(), split.values[1])].map(|(bins, value)| {
            let mut reach = parent.reach.clone();
            reach.retain(|&(known, _)| known != column);
            reach.push((column, parent.reach(column).and(&bins)));
            Place { value, reach, ..Place::default() }
        });
        for (list, below) in [(&parent.below, true), (&parent.above, false)] {
            for &(other, by) in list {
                let place = &mut self.leaves[other];
                place.touched = true;
                let reach = place.reach(column);
                let back = if below { &mut place.above } else { &mut place.below };
                back.retain(|&(known, _)| known != leaf);
                for (part, number) in [(&mut left, leaf), (&mut right, new)] {
                    if by == column || part.reach(column).meets(&reach) {
                        back.push((number, by));
                        if below { &mut part.below } else { &mut part.above }.push((other, by));
                    }
                }
            }
        }
        let direction = self.monotone[column];
        if direction != 0 {
            let (low, high) = if direction > 0 { ((&mut left, leaf), (&mut right, new)) } else { ((&mut right, new), (&mut left, leaf)) };
            low.0.above.push((high.1, column));
            high.0.below.push((low.1, column));
        }
        self.leaves[leaf] = left;
        self.leaves.push(right);
    }

    /// Gives leaves the values they would have of themselves, as far as the order lets them: each moves towards its own while the others stay, until
    /// none moves any more. Growth left values that are in order; what comes out is as well, times a rate.
    pub fn settle(&mut self, values: &mut [f64], rate: f64) {
        /// Most times each leaf moves.
        const ROUNDS: usize = 100;
        self.leaves.iter_mut().for_each(|place| place.value *= rate);
        for _ in 0..ROUNDS {
            let mut moved = false;
            for (leaf, own) in values.iter().enumerate() {
                let Bounds { low, high } = self.bounds(leaf);
                let value = own.max(low).min(high);
                moved |= value != self.leaves[leaf].value;
                self.leaves[leaf].value = value;
            }
            if !moved {
                break;
            }
        }
        values.iter_mut().zip(&self.leaves).for_each(|(value, place)| *value = place.value);
    }
}

impl Bounds {
    fn keep(&mut self, value: f64, below: bool) {
        if below { self.low = self.low.max(value) } else { self.high = self.high.min(value) }
    }
}

const ALL: BinSet = BinSet([u64::MAX; 4]);

impl BinSet {
    fn up_to(bin: u8, missing: bool) -> Self {
        let mut set = BinSet::default();
        (1..=bin).for_each(|bin| set.insert(bin));
        if missing {
            set.insert(MISSING);
        }
        set
    }

    fn others(&self) -> Self {
        BinSet(self.0.map(|word| !word))
    }

    fn and(&self, other: &BinSet) -> Self {
        BinSet(std::array::from_fn(|word| self.0[word] & other.0[word]))
    }

    fn meets(&self, other: &BinSet) -> bool {
        self.and(other) != BinSet::default()
    }

    /// Lowest and highest bin of a value; the highest and the lowest there could be where there is none.
    fn ends(&self) -> (u8, u8) {
        let mut bins = (1..=u8::MAX).filter(|&bin| self.has(bin));
        let first = bins.next();
        (first.unwrap_or(u8::MAX), bins.next_back().or(first).unwrap_or(0))
    }
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
