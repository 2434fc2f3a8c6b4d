//! The state of one entity: a sparse row of tiles per level, and one tile for its lifetime.

use std::ops::Range;

use kilter_core::EntityKey;

use super::Inputs;
use crate::view::{LevelPlan, Plan};

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
        (self.index.capacity() + self.words.capacity()) * 8 + self.growing.capacity() * size_of::<Vec<u64>>() + growing
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
        self.index.insert(place, tile);
        let at = place * level.stride;
        self.words.splice(at..at, std::iter::repeat_n(0, level.stride));
        let at = place * level.growing.len();
        self.growing.splice(at..at, std::iter::repeat_n(Vec::new(), level.growing.len()));
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
    pub(super) fn prune(&mut self, level: &LevelPlan, bound: i64) {
        if self.index.first().is_some_and(|t| *t < bound) {
            let gone = self.index.partition_point(|t| *t < bound);
            self.index.drain(..gone);
            self.words.drain(..gone * level.stride);
            self.growing.drain(..gone * level.growing.len());
        }
    }

    /// Drops them only once they are half of all: moving the rest forward then costs a constant per tile.
    fn prune_lazily(&mut self, level: &LevelPlan, bound: i64) {
        if self.index.get(self.index.len() / 2).is_some_and(|t| *t < bound) {
            self.prune(level, bound);
        }
    }
}
