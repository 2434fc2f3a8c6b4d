//! The entities in memory, in pieces of one size: growing moves none of them, and memory grows by a piece and not by as much again.

use std::ops::{Index, IndexMut};

use super::entity::Entity;

const PIECE: usize = 1 << 10;

#[derive(Default)]
pub(super) struct Entities {
    /// All full but the last.
    pieces: Vec<Vec<Entity>>,
}

impl Entities {
    pub(super) fn len(&self) -> usize {
        match self.pieces.last() {
            None => 0,
            Some(last) => (self.pieces.len() - 1) * PIECE + last.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(super) fn push(&mut self, entity: Entity) {
        if self.pieces.last().is_none_or(|piece| piece.len() == PIECE) {
            // The first few grow as they need: most engines of tests hold a handful.
            let room = if self.pieces.is_empty() { 0 } else { PIECE };
            self.pieces.push(Vec::with_capacity(room));
        }
        if let Some(last) = self.pieces.last_mut() {
            last.push(entity);
        }
    }

    pub(super) fn last(&self) -> Option<&Entity> {
        self.pieces.last()?.last()
    }

    pub(super) fn get(&self, place: usize) -> Option<&Entity> {
        self.pieces.get(place / PIECE)?.get(place % PIECE)
    }

    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut Entity> {
        self.pieces.get_mut(place / PIECE)?.get_mut(place % PIECE)
    }

    /// Takes one out; the last comes to its place.
    pub(super) fn swap_remove(&mut self, place: usize) {
        let Some(last) = self.pieces.last_mut().and_then(Vec::pop) else { return };
        if self.pieces.last().is_some_and(Vec::is_empty) {
            self.pieces.pop();
        }
        if let Some(gone) = self.get_mut(place) {
            *gone = last;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entity> {
        self.pieces.iter().flatten()
    }

    /// Those from a place on.
    pub(super) fn iter_from(&self, place: usize) -> impl Iterator<Item = &Entity> {
        self.pieces.iter().skip(place / PIECE).flatten().skip(place % PIECE)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entity> {
        self.pieces.iter_mut().flatten()
    }
}

impl IntoIterator for Entities {
    type Item = Entity;
    type IntoIter = std::iter::Flatten<std::vec::IntoIter<Vec<Entity>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.pieces.into_iter().flatten()
    }
}

impl Index<usize> for Entities {
    type Output = Entity;

    fn index(&self, place: usize) -> &Entity {
        &self.pieces[place / PIECE][place % PIECE]
    }
}

impl IndexMut<usize> for Entities {
    fn index_mut(&mut self, place: usize) -> &mut Entity {
        &mut self.pieces[place / PIECE][place % PIECE]
    }
}
