//! The state of one entity: a sparse row of tiles per level, and one tile for its lifetime.
//!
//! A window is folded in blocks of [`BLOCK`] tiles aligned to multiples of it: each block from its oldest tile on, then the blocks. That order
//! is a function of the window alone, so a block's fold can be kept and used again without a bit of difference.

use std::ops::Range;

use kilter_core::EntityKey;
use smallvec::SmallVec;

use super::Inputs;
use crate::aggregators::{FixedOps, MAX_WORDS};
use crate::view::{LevelPlan, Plan};

/// Tiles per block: near the root of the number of tiles of a long window, where head, blocks and tail cost alike.
const BLOCK: i64 = 16;

/// Below this many tiles in a window, keeping folds of blocks costs more than it saves.
pub(super) const CACHE_FROM: usize = 48;

pub(super) struct Entity {
    pub key: EntityKey,
    pub levels: Box<[Tiles]>,
    /// At most the one tile 0.
    pub lifetime: Tiles,
}

impl Entity {
    pub(super) fn new(plan: &Plan, key: EntityKey) -> Entity {
        Entity { key, levels: plan.levels.iter().map(|_| Tiles::default()).collect(), lifetime: Tiles::default() }
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
        let place = match self.index.last() {
            Some(last) if *last == tile => self.index.len() - 1,
            _ => match self.index.binary_search(&tile) {
                Ok(place) => place,
                Err(_) => {
                    self.prune_lazily(level, bound);
                    self.open(level, tile)
                }
            },
        };
        if let Some(blocks) = &mut self.blocks
            && tile < blocks.end
        {
            blocks.truncate(level, tile.div_euclid(BLOCK));
        }
        let words = &mut self.words[place * level.stride..(place + 1) * level.stride];
        for state in &level.fixed {
            if let Some(input) = inputs.get(state.filter, state.arg) {
                (state.ops.update)(&mut words[state.offset..state.offset + state.ops.words], &input);
            }
        }
        let growing = &mut self.growing[place * level.growing.len()..];
        for (state, held) in level.growing.iter().zip(growing) {
            if let Some(input) = inputs.get(state.filter, state.arg) {
                (state.ops.update)(held, &input);
            }
        }
    }

    fn open(&mut self, level: &LevelPlan, tile: i64) -> usize {
        let place = self.index.partition_point(|t| *t < tile);
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
        let first = self.index.first().map_or(i64::MAX, |t| t.div_euclid(BLOCK));
        let gone = blocks.number.partition_point(|b| *b < first);
        blocks.number.drain(..gone);
        blocks.words.drain(..gone * level.stride);
        if blocks.number.first() == Some(&bound.div_euclid(BLOCK)) {
            let end = self.index.partition_point(|t| t.div_euclid(BLOCK) <= first);
            self.fold_block(level, 0..end, &mut blocks.words[..level.stride]);
        }
        if !blocks.number.is_empty() {
            self.blocks = Some(blocks);
        }
    }

    /// Folds all blocks but the newest, which is still filling, so that [`Tiles::fold`] can use them.
    pub(super) fn fold_blocks(&mut self, level: &LevelPlan) {
        let (Some(first), Some(last)) = (self.index.first(), self.index.last()) else { return };
        let newest = last.div_euclid(BLOCK);
        let mut blocks = match self.blocks.take() {
            Some(blocks) => blocks,
            None => Box::new(Blocks { end: first.div_euclid(BLOCK) * BLOCK, ..Blocks::default() }),
        };
        if blocks.end < newest * BLOCK {
            let mut start = self.index.partition_point(|t| *t < blocks.end);
            while self.index[start].div_euclid(BLOCK) < newest {
                let number = self.index[start].div_euclid(BLOCK);
                let end = start + self.index[start..].partition_point(|t| t.div_euclid(BLOCK) == number);
                let at = blocks.words.len();
                blocks.number.push(number);
                blocks.words.resize(at + level.stride, 0);
                self.fold_block(level, start..end, &mut blocks.words[at..]);
                start = end;
            }
            blocks.end = newest * BLOCK;
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
    pub(super) fn steps(&self, range: Range<usize>, cached: bool) -> Steps {
        let mut steps = Steps::default();
        if range.is_empty() {
            return steps;
        }
        let block = |i: usize| self.index[i].div_euclid(BLOCK);
        let mut at = range.start;
        if let Some(blocks) = self.blocks.as_ref().filter(|_| cached) {
            // The head: the rest of a block that the window cuts.
            if at > 0 && block(at - 1) == block(at) {
                let end = at + self.index[at..range.end].partition_point(|t| t.div_euclid(BLOCK) == block(at));
                steps.head.push(at..end);
                at = end;
            }
            // Whole blocks: up to the last that ends within the range.
            if at < range.end {
                let cut = range.end < self.index.len() && block(range.end) == block(range.end - 1);
                let until = if cut { block(range.end - 1) } else { block(range.end - 1) + 1 };
                let until = until.min(blocks.end.div_euclid(BLOCK));
                let first = blocks.number.partition_point(|b| *b < block(at));
                let last = blocks.number.partition_point(|b| *b < until);
                if first < last {
                    steps.blocks = first..last;
                    at += self.index[at..range.end].partition_point(|t| t.div_euclid(BLOCK) < until);
                }
            }
        }
        while at < range.end {
            let end = at + self.index[at..range.end].iter().take_while(|t| t.div_euclid(BLOCK) == block(at)).count();
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
        self.end = number * BLOCK;
    }
}
