//! The state of one entity: a sparse row of tiles per level, and one tile for its lifetime.
//!
//! A window is folded in blocks of tiles aligned to multiples of the level's block: each block from its oldest tile on, then the blocks. That
//! order is a function of the window alone, so a block's fold can be kept and used again without a bit of difference.

use std::ops::Range;

use kilter_core::{EntityKey, EventTime};
use smallvec::SmallVec;

use super::Inputs;
use crate::aggregators::{Bounds, Fixed, FixedOps, MAX_WORDS};
use crate::view::{LevelPlan, Plan};

/// Below this many tiles in a window, keeping folds of blocks costs more than it saves.
pub(super) const CACHE_FROM: usize = 48;

pub(super) struct Entity {
    pub key: EntityKey,
    /// Its newest event.
    pub last: EventTime,
    pub levels: Box<[Tiles]>,
    /// At most the one tile 0.
    pub lifetime: Tiles,
}

impl Entity {
    pub(super) fn new(plan: &Plan, key: EntityKey, last: EventTime) -> Entity {
        Entity { key, last, levels: plan.levels.iter().map(|_| Tiles::default()).collect(), lifetime: Tiles::default() }
    }

    pub(super) fn bytes(&self) -> usize {
        let key = match &self.key {
            EntityKey::Composite(parts) => parts.len() * size_of::<EntityKey>(),
            EntityKey::Text(text) if text.is_heap_allocated() => text.capacity(),
            _ => 0,
        };
        size_of::<Entity>() + key + self.lifetime.bytes() + self.levels.iter().map(|t| size_of::<Tiles>() + t.bytes()).sum::<usize>()
    }
}

/// Tiles in ascending order, their states side by side. Tiles without events do not exist.
#[derive(Clone, Default)]
pub(super) struct Tiles {
    index: Vec<i64>,
    words: Vec<u64>,
    growing: Vec<Vec<u64>>,
    blocks: Option<Box<Blocks>>,
}

/// The folds of the first blocks of a row: every tile before `end` is in one of them. Kept only for rows that are read.
#[derive(Clone, Default)]
struct Blocks {
    number: Vec<i64>,
    words: Vec<u64>,
    end: i64,
}

impl Tiles {
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Whether any tile is at or after `bound`.
    pub(super) fn reaches(&self, bound: i64) -> bool {
        self.index.last().is_some_and(|t| *t >= bound)
    }

    pub(super) fn bytes(&self) -> usize {
        let growing: usize = self.growing.iter().map(|g| g.capacity() * 8).sum();
        let blocks = self.blocks.as_ref().map_or(0, |b| size_of::<Blocks>() + (b.number.capacity() + b.words.capacity()) * 8);
        blocks + (self.index.capacity() + self.words.capacity()) * 8 + self.growing.capacity() * size_of::<Vec<u64>>() + growing
    }

    /// The positions of the tiles from `oldest` to `newest`, both included.
    pub(super) fn range(&self, oldest: i64, newest: i64) -> Range<usize> {
        let start = self.index.partition_point(|t| *t < oldest);
        let end = self.index.partition_point(|t| *t <= newest);
        start..end.max(start)
    }

    pub(super) fn words(&self, level: &LevelPlan, tiles: Range<usize>) -> &[u64] {
        self.words.get(tiles.start * level.stride..tiles.end * level.stride).unwrap_or(&[])
    }

    pub(super) fn growing(&self, level: &LevelPlan, tile: usize, index: usize) -> &[u64] {
        self.growing.get(tile * level.growing.len() + index).map_or(&[], Vec::as_slice)
    }

    /// Adds an event to its tile. Tiles before `bound` have passed and are dropped when a new one opens.
    pub(super) fn apply(&mut self, level: &LevelPlan, tile: i64, bound: i64, inputs: &Inputs<'_>) {
        if let Some(most) = level.latest() {
            return self.apply_latest(level, tile, most, inputs);
        }
        let place = match self.index.last() {
            Some(last) if *last == tile => self.index.len() - 1,
            _ => match self.index.binary_search(&tile) {
                Ok(place) => place,
                Err(_) => {
                    self.prune_lazily(level, bound);
                    self.open(level, self.index.partition_point(|t| *t < tile), tile)
                }
            },
        };
        self.touch(level, tile);
        self.add(level, place, inputs);
    }

    /// Gives an event a tile of its own behind those that are not later, and drops the oldest when that is one too many.
    fn apply_latest(&mut self, level: &LevelPlan, time: i64, most: usize, inputs: &Inputs<'_>) {
        if !inputs.passes(level.filter) {
            return;
        }
        let mut place = self.index.partition_point(|t| *t <= time);
        if self.index.len() >= most {
            if place == 0 {
                return;
            }
            self.index.remove(0);
            self.words.drain(..level.stride);
            self.growing.drain(..level.growing.len());
            place -= 1;
        }
        let place = self.open(level, place, time);
        self.add(level, place, inputs);
    }

    fn add(&mut self, level: &LevelPlan, place: usize, inputs: &Inputs<'_>) {
        let words = &mut self.words[place * level.stride..(place + 1) * level.stride];
        for state in &level.fixed {
            if let Some(input) = inputs.get(&state.feed) {
                (state.ops.update)(&mut words[state.offset..state.offset + state.ops.words], &input);
            }
        }
        let growing = &mut self.growing[place * level.growing.len()..];
        for (state, held) in level.growing.iter().zip(growing) {
            if let Some(input) = inputs.get(&state.feed) {
                (state.ops.update)(held, &input);
            }
        }
    }

    /// Takes an event back from its tile, if the tile is still there.
    pub(super) fn retract(&mut self, level: &LevelPlan, tile: i64, inputs: &Inputs<'_>) {
        let Ok(place) = self.index.binary_search(&tile) else { return };
        self.touch(level, tile);
        let words = &mut self.words[place * level.stride..(place + 1) * level.stride];
        for state in &level.fixed {
            if let Some(input) = inputs.get(&state.feed) {
                (state.ops.retract)(&mut words[state.offset..state.offset + state.ops.words], &input);
            }
        }
        let growing = &mut self.growing[place * level.growing.len()..];
        for (state, held) in level.growing.iter().zip(growing) {
            if let Some(input) = inputs.get(&state.feed) {
                (state.ops.retract)(held, &input);
            }
        }
    }

    /// Forgets the kept fold of a tile's block and of all later ones.
    fn touch(&mut self, level: &LevelPlan, tile: i64) {
        if let Some(blocks) = &mut self.blocks
            && tile < blocks.end
        {
            blocks.truncate(level, tile.div_euclid(level.block));
        }
    }

    /// Where in `range` the last session begins: after the last gap longer than `gap`. `at` is the moment of reading.
    pub(super) fn session(&self, level: &LevelPlan, range: Range<usize>, gap: i64, at: i64) -> Range<usize> {
        let Some(offset) = level.bounds else { return range };
        let times = |place: usize| {
            let bounds = &self.words[place * level.stride + offset..][..Bounds::WORDS];
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

    fn open(&mut self, level: &LevelPlan, place: usize, tile: i64) -> usize {
        let (words, growing) = (place * level.stride, place * level.growing.len());
        let newest = place == self.index.len();
        self.index.insert(place, tile);
        self.words.resize(self.words.len() + level.stride, 0);
        self.growing.resize_with(self.growing.len() + level.growing.len(), Vec::new);
        if !newest {
            self.words[words..].rotate_right(level.stride);
            self.growing[growing..].rotate_right(level.growing.len());
        }
        place
    }

    /// Appends a tile as a snapshot holds it; tiles come in ascending order.
    pub(super) fn push(&mut self, tile: i64, words: impl Iterator<Item = u64>, growing: impl Iterator<Item = Vec<u64>>) {
        self.index.push(tile);
        self.words.extend(words);
        self.growing.extend(growing);
    }

    pub(super) fn iter<'a>(&'a self, level: &'a LevelPlan, bound: i64) -> impl Iterator<Item = (i64, &'a [u64], &'a [Vec<u64>])> {
        let from = self.index.partition_point(|t| *t < bound);
        let growing = level.growing.len();
        (from..self.index.len()).map(move |i| (self.index[i], self.words(level, i..i + 1), &self.growing[i * growing..(i + 1) * growing]))
    }

    /// Drops tiles that have passed.
    fn prune(&mut self, level: &LevelPlan, bound: i64) {
        if self.index.first().is_some_and(|t| *t < bound) {
            let gone = self.index.partition_point(|t| *t < bound);
            if gone == self.index.len() {
                // Give the memory back: an entity may live on by its lifetime features alone.
                *self = Tiles::default();
                return;
            }
            self.index.drain(..gone);
            self.words.drain(..gone * level.stride);
            self.growing.drain(..gone * level.growing.len());
            self.prune_blocks(level, bound);
        }
    }

    /// Forgets blocks that have passed, and folds anew the one that `bound` cuts.
    fn prune_blocks(&mut self, level: &LevelPlan, bound: i64) {
        let Some(mut blocks) = self.blocks.take() else { return };
        let first = self.index.first().map_or(i64::MAX, |t| t.div_euclid(level.block));
        let gone = blocks.number.partition_point(|b| *b < first);
        blocks.number.drain(..gone);
        blocks.words.drain(..gone * level.stride);
        if blocks.number.first() == Some(&bound.div_euclid(level.block)) {
            let end = self.index.partition_point(|t| t.div_euclid(level.block) <= first);
            self.fold_block(level, 0..end, &mut blocks.words[..level.stride]);
        }
        if !blocks.number.is_empty() {
            self.blocks = Some(blocks);
        }
    }

    /// Folds all blocks but the newest, which is still filling, so that [`Tiles::fold`] can use them.
    pub(super) fn fold_blocks(&mut self, level: &LevelPlan) {
        let (Some(first), Some(last)) = (self.index.first(), self.index.last()) else { return };
        let newest = last.div_euclid(level.block);
        let mut blocks = match self.blocks.take() {
            Some(blocks) => blocks,
            None => Box::new(Blocks { end: first.div_euclid(level.block) * level.block, ..Blocks::default() }),
        };
        if blocks.end < newest * level.block {
            let mut start = self.index.partition_point(|t| *t < blocks.end);
            while self.index[start].div_euclid(level.block) < newest {
                let number = self.index[start].div_euclid(level.block);
                let end = start + self.index[start..].partition_point(|t| t.div_euclid(level.block) == number);
                let at = blocks.words.len();
                blocks.number.push(number);
                blocks.words.resize(at + level.stride, 0);
                self.fold_block(level, start..end, &mut blocks.words[at..]);
                start = end;
            }
            blocks.end = newest * level.block;
        }
        self.blocks = Some(blocks);
    }

    fn fold_block(&self, level: &LevelPlan, tiles: Range<usize>, out: &mut [u64]) {
        out.fill(0);
        for state in &level.fixed {
            let out = &mut out[state.offset..state.offset + state.ops.words];
            (state.ops.fold)(out, self.words(level, tiles.clone()), level.stride, state.offset);
        }
    }

    /// How to fold the tiles of `range`.
    pub(super) fn steps(&self, level: &LevelPlan, range: Range<usize>, cached: bool) -> Steps {
        let mut steps = Steps::default();
        if range.is_empty() {
            return steps;
        }
        if level.block == 0 {
            steps.tail.push(range);
            return steps;
        }
        let block = |i: usize| self.index[i].div_euclid(level.block);
        let mut at = range.start;
        if let Some(blocks) = self.blocks.as_ref().filter(|_| cached) {
            // The head: the rest of a block that the window cuts.
            if at > 0 && block(at - 1) == block(at) {
                let end = at + self.index[at..range.end].partition_point(|t| t.div_euclid(level.block) == block(at));
                steps.head.push(at..end);
                at = end;
            }
            // Whole blocks: up to the last that ends within the range.
            if at < range.end {
                let cut = range.end < self.index.len() && block(range.end) == block(range.end - 1);
                let until = if cut { block(range.end - 1) } else { block(range.end - 1) + 1 };
                let until = until.min(blocks.end.div_euclid(level.block));
                let first = blocks.number.partition_point(|b| *b < block(at));
                let last = blocks.number.partition_point(|b| *b < until);
                if first < last {
                    steps.blocks = first..last;
                    at += self.index[at..range.end].partition_point(|t| t.div_euclid(level.block) < until);
                }
            }
        }
        while at < range.end {
            let end = at + self.index[at..range.end].iter().take_while(|t| t.div_euclid(level.block) == block(at)).count();
            steps.tail.push(at..end);
            at = end;
        }
        steps
    }

    /// The fold of one fixed state over a window.
    pub(super) fn fold(&self, level: &LevelPlan, steps: &Steps, ops: &FixedOps, offset: usize, state: &mut [u64]) {
        let one = |tiles: &Range<usize>, state: &mut [u64]| {
            let mut block = [0; MAX_WORDS];
            let block = &mut block[..ops.words];
            (ops.fold)(block, self.words(level, tiles.clone()), level.stride, offset);
            (ops.fold)(state, block, ops.words, 0);
        };
        steps.head.iter().for_each(|tiles| one(tiles, state));
        if let Some(blocks) = &self.blocks {
            let words = &blocks.words[steps.blocks.start * level.stride..steps.blocks.end * level.stride];
            (ops.fold)(state, words, level.stride, offset);
        }
        steps.tail.iter().for_each(|tiles| one(tiles, state));
    }

    /// Drops them only once they are half of all: moving the rest forward then costs a constant per tile.
    pub(super) fn prune_lazily(&mut self, level: &LevelPlan, bound: i64) {
        if self.index.get(self.index.len() / 2).is_some_and(|t| *t < bound) {
            self.prune(level, bound);
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

impl Blocks {
    /// Forgets the block of this number and all later ones.
    fn truncate(&mut self, level: &LevelPlan, number: i64) {
        let keep = self.number.partition_point(|b| *b < number);
        self.number.truncate(keep);
        self.words.truncate(keep * level.stride);
        self.end = number * level.block;
    }
}
