//! The tiles of one level of one entity, and how a window is folded from them.
//!
//! A window is folded in blocks of tiles aligned to multiples of the level's block: each block from its oldest tile on, then the blocks. That
//! order is a function of the window alone, so a block's fold can be kept and used again without a bit of difference.

use std::borrow::Cow;
use std::ops::Range;

use smallvec::SmallVec;

use crate::aggregators::{Bounds, Fixed, FixedOps, Fold, GrowingOps, MAX_WORDS};
use crate::view::LevelPlan;

/// Below this many tiles in a window, keeping folds of blocks costs more than it saves.
pub(super) const CACHE_FROM: usize = 48;

/// Tiles in ascending order, each its number and then its states. Tiles without events do not exist.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub level: &'a LevelPlan,
    pub words: &'a [u64],
    pub growing: &'a [Vec<u64>],
    pub blocks: Option<&'a Blocks>,
}

/// The place of the first tile at or after `tile`, among `words` with `stride` to a tile.
pub(super) fn first_at_least(words: &[u64], stride: usize, tile: i64) -> usize {
    let (mut low, mut high) = (0, words.len() / stride);
    while low < high {
        let middle = (low + high) / 2;
        if (words[middle * stride] as i64) < tile { low = middle + 1 } else { high = middle }
    }
    low
}

impl<'a> Row<'a> {
    pub(super) fn len(&self) -> usize {
        self.words.len() / self.level.stride
    }

    pub(super) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The number of the tile at a place.
    pub(super) fn tile(&self, place: usize) -> i64 {
        self.words[place * self.level.stride] as i64
    }

    pub(super) fn first_at_least(&self, tile: i64) -> usize {
        first_at_least(self.words, self.level.stride, tile)
    }

    pub(super) fn first_after(&self, tile: i64) -> usize {
        tile.checked_add(1).map_or(self.len(), |next| self.first_at_least(next))
    }

    pub(super) fn find(&self, tile: i64) -> Option<usize> {
        let place = self.first_at_least(tile);
        (place < self.len() && self.tile(place) == tile).then_some(place)
    }

    /// The places of the tiles from `oldest` to `newest`, both included.
    pub(super) fn range(&self, oldest: i64, newest: i64) -> Range<usize> {
        let start = self.first_at_least(oldest);
        start..self.first_after(newest).max(start)
    }

    /// Numbers and states of the tiles at some places.
    pub(super) fn words(&self, tiles: Range<usize>) -> &'a [u64] {
        &self.words[tiles.start * self.level.stride..tiles.end * self.level.stride]
    }

    pub(super) fn growing(&self, tile: usize, index: usize) -> &'a [u64] {
        self.growing.get(tile * self.level.growing.len() + index).map_or(&[], Vec::as_slice)
    }

    fn block(&self, place: usize) -> i64 {
        self.tile(place).div_euclid(self.level.block)
    }

    /// The first place from `from` on whose block is not below `block`.
    fn first_of_block(&self, block: i64) -> usize {
        block.checked_mul(self.level.block).map_or(self.len(), |tile| self.first_at_least(tile))
    }

    /// Where in `range` the last session begins: after the last gap longer than `gap`. `at` is the moment of reading.
    pub(super) fn session(&self, range: Range<usize>, gap: i64, at: i64) -> Range<usize> {
        let Some(offset) = self.level.bounds else { return range };
        let times = |place: usize| {
            let bounds = &self.words[place * self.level.stride + offset..][..Bounds::WORDS];
            (bounds[1] as i64, bounds[2] as i64)
        };
        let (mut start, mut first) = (range.end, at);
        while start > range.start {
            let (earlier_first, earlier_last) = times(start - 1);
            if first.saturating_sub(earlier_last) > gap {
                break;
            }
            start -= 1;
            first = earlier_first;
        }
        start..range.end
    }

    /// How to fold the tiles of `range`.
    pub(super) fn steps(&self, range: Range<usize>, cached: bool) -> Steps {
        let mut steps = Steps::default();
        if range.is_empty() {
            return steps;
        }
        if self.level.block == 0 {
            steps.tail.push(range);
            return steps;
        }
        let mut at = range.start;
        if let Some(blocks) = self.blocks.filter(|_| cached) {
            // The head: the rest of a block that the window cuts.
            if at > 0 && self.block(at - 1) == self.block(at) {
                let end = self.first_of_block(self.block(at) + 1).min(range.end);
                steps.head.push(at..end);
                at = end;
            }
            // Whole blocks: up to the last that ends within the range.
            if at < range.end {
                let last = self.block(range.end - 1);
                let cut = range.end < self.len() && self.block(range.end) == last;
                let until = if cut { last } else { last + 1 }.min(blocks.end.div_euclid(self.level.block));
                let (first, last) = (blocks.first_at_least(self.level, self.block(at)), blocks.first_at_least(self.level, until));
                if first < last {
                    steps.blocks = first..last;
                    at = self.first_of_block(until).clamp(at, range.end);
                }
            }
        }
        while at < range.end {
            let block = self.block(at);
            let end = at + (at..range.end).take_while(|place| self.block(*place) == block).count();
            steps.tail.push(at..end);
            at = end;
        }
        steps
    }

    /// The fold of one fixed state over a window.
    pub(super) fn fold(&self, steps: &Steps, ops: &FixedOps, offset: usize, state: &mut [u64]) {
        let stride = self.level.stride;
        let one = |tiles: &Range<usize>, state: &mut [u64]| {
            let mut block = [0; MAX_WORDS];
            let block = &mut block[..ops.words];
            (ops.fold)(block, self.words(tiles.clone()), stride, offset);
            (ops.fold)(state, block, ops.words, 0);
        };
        steps.head.iter().for_each(|tiles| one(tiles, state));
        if let Some(blocks) = self.blocks {
            let words = &blocks.words[steps.blocks.start * stride..steps.blocks.end * stride];
            (ops.fold)(state, words, stride, offset);
        }
        steps.tail.iter().for_each(|tiles| one(tiles, state));
    }

    /// The merge of one growing state over a window, oldest tile first; where the order does not matter, by way of the kept blocks.
    pub(super) fn merge(&self, range: Range<usize>, steps: &Steps, ops: &GrowingOps, index: usize, constants: &[f64]) -> Cow<'a, [u64]> {
        let mut merged = Merged { state: Cow::Borrowed(&[]), ops, constants };
        match self.blocks.filter(|_| ops.commutes && !steps.blocks.is_empty()) {
            None => range.for_each(|tile| merged.add(self.growing(tile, index))),
            Some(blocks) => {
                let per = self.level.growing.len();
                steps.head.iter().cloned().flatten().for_each(|tile| merged.add(self.growing(tile, index)));
                steps.blocks.clone().for_each(|block| merged.add(&blocks.growing[block * per + index]));
                steps.tail.iter().cloned().flatten().for_each(|tile| merged.add(self.growing(tile, index)));
            }
        }
        merged.state
    }

    /// Appends the fold of a block: its number, then its states; and those growing states whose merge does not depend on order.
    fn fold_block(&self, number: i64, tiles: Range<usize>, out: &mut Vec<u64>, growing: &mut Vec<Vec<u64>>) {
        for (index, state) in self.level.growing.iter().enumerate() {
            let mut merged = Merged { state: Cow::Borrowed(&[]), ops: &state.ops, constants: &[] };
            if state.ops.commutes && state.ops.fold == Fold::All {
                tiles.clone().for_each(|tile| merged.add(self.growing(tile, index)));
            }
            growing.push(merged.state.into_owned());
        }
        let at = out.len();
        out.push(number as u64);
        out.resize(at + self.level.stride, 0);
        for state in &self.level.fixed {
            let out = &mut out[at + state.offset..at + state.offset + state.ops.words];
            (state.ops.fold)(out, self.words(tiles.clone()), self.level.stride, state.offset);
        }
    }
}

/// A growing state being merged; the first is taken as it lies.
struct Merged<'a, 'o> {
    state: Cow<'a, [u64]>,
    ops: &'o GrowingOps,
    constants: &'o [f64],
}

impl<'a> Merged<'a, '_> {
    fn add(&mut self, later: &'a [u64]) {
        if later.is_empty() {
            return;
        }
        match &mut self.state {
            Cow::Borrowed([]) => self.state = Cow::Borrowed(later),
            state => (self.ops.merge)(state.to_mut(), later, self.constants),
        }
    }
}

/// A window's tiles as parts of blocks before and after a run of whole blocks.
#[derive(Default)]
pub(super) struct Steps {
    head: SmallVec<[Range<usize>; 1]>,
    blocks: Range<usize>,
    tail: SmallVec<[Range<usize>; 8]>,
}

/// The folds of the first blocks of a row: every tile before `end` is in one of them. Kept only for rows that are read.
#[derive(Clone, Default)]
pub(super) struct Blocks {
    words: Vec<u64>,
    growing: Vec<Vec<u64>>,
    end: i64,
}

impl Blocks {
    pub(super) fn bytes(&self) -> usize {
        let growing: usize = self.growing.iter().map(|g| g.capacity() * 8).sum();
        self.words.capacity() * 8 + self.growing.capacity() * size_of::<Vec<u64>>() + growing
    }

    fn first_at_least(&self, level: &LevelPlan, number: i64) -> usize {
        first_at_least(&self.words, level.stride, number)
    }

    /// Forgets a tile's block and all later ones.
    pub(super) fn touch(&mut self, level: &LevelPlan, tile: i64) {
        if tile < self.end {
            let number = tile.div_euclid(level.block);
            let kept = self.first_at_least(level, number);
            self.words.truncate(kept * level.stride);
            self.growing.truncate(kept * level.growing.len());
            self.end = number * level.block;
        }
    }

    /// `kept`, or none yet, carried on up to the newest block of a row.
    pub(super) fn folded(kept: Option<Blocks>, row: &Row<'_>) -> Option<Blocks> {
        let last = row.len().checked_sub(1)?;
        let (block, newest) = (row.level.block, row.block(last));
        let mut blocks = kept.unwrap_or_else(|| Blocks { end: row.block(0) * block, ..Blocks::default() });
        if blocks.end < newest * block {
            let mut start = row.first_at_least(blocks.end);
            while row.block(start) < newest {
                let number = row.block(start);
                let end = row.first_of_block(number + 1);
                row.fold_block(number, start..end, &mut blocks.words, &mut blocks.growing);
                start = end;
            }
            blocks.end = newest * block;
        }
        Some(blocks)
    }

    /// Without the blocks that have passed, and with that folded anew which `bound` cuts. `row` has been pruned already.
    pub(super) fn pruned(mut self, row: &Row<'_>, bound: i64) -> Option<Blocks> {
        let stride = row.level.stride;
        let first = if row.is_empty() { i64::MAX } else { row.block(0) };
        let per = row.level.growing.len();
        let gone = self.first_at_least(row.level, first);
        self.words.drain(..gone * stride);
        self.growing.drain(..gone * per);
        if self.words.first().is_some_and(|number| *number as i64 == bound.div_euclid(row.level.block)) {
            let (mut folded, mut growing) = (Vec::with_capacity(stride), Vec::with_capacity(per));
            row.fold_block(first, 0..row.first_of_block(first + 1), &mut folded, &mut growing);
            self.words[..stride].copy_from_slice(&folded);
            self.growing.splice(..per, growing);
        }
        (!self.words.is_empty()).then_some(self)
    }
}
