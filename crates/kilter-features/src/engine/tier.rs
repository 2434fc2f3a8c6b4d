//! State beyond memory. The entities in use are held in memory, the *hot* ones; a store that the engine is given holds the last written form
//! of all, and entities that are not in use are dropped from memory once the store has them.
//!
//! The driver writes: [`Engine::changes`] hands out what has changed since the last time together with the rest of the state, to be
//! committed as one; [`Engine::written`] says that it is, and only then may [`Engine::evict`] drop what was among it. So what the store
//! has is always the whole state at one position of the log, and an entity is never in neither place.
//!
//! Values do not tell where an entity was: its written form is that of a snapshot.

use std::collections::BTreeSet;

use kilter_core::record::Cursor;
use kilter_core::{EntityKey, EventTime};

use super::entity::Entity;
use super::snapshot::{entity_from_bytes, head_of, key_bytes, put_entity, resumed};
use super::{Engine, Look, RestoreError, ViewState, alive, hash};
use crate::view::{Periods, Plan, View};

/// The written entities of one view.
pub trait ColdStore: Send {
    /// The last written form of an entity, handed to `found`. The error says what went wrong, for people.
    fn get(&self, key: &[u8], found: &mut dyn FnMut(&[u8])) -> Result<(), String>;
    /// All entities as key and form, in any order.
    fn scan(&self, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), String>;
}

/// What has changed since the last time, to be written as one.
#[derive(Debug, Default)]
pub struct Changes {
    /// By position of the view, for views that have a store.
    pub views: Vec<ViewChanges>,
    /// All state but the entities of these views, for [`Engine::resume`].
    pub head: Vec<u8>,
}

/// What the driver has to do to keep the hot entities within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    None,
    /// Write what has changed, beside the stream.
    Write,
    /// Write, unless that is under way, and let the stream wait for it.
    Wait,
}

/// What has changed is to be written when it is this part of what may be in memory, so that there is always something that may leave it.
const WRITE_AT: usize = 16;

/// What has changed in one view.
#[derive(Debug, Default)]
pub struct ViewChanges {
    pub view: usize,
    /// Key and form of each entity. A form begins with its expiry, see [`expiry`].
    pub put: Vec<(Vec<u8>, Vec<u8>)>,
    pub removed: Vec<Vec<u8>>,
    /// Written forms whose expiry lies before this watermark can be dropped.
    pub watermark: i64,
}

/// The watermark in microseconds from which nothing of a written entity can be seen any more.
pub fn expiry(form: &[u8]) -> i64 {
    form.first_chunk::<8>().map_or(i64::MAX, |bytes| i64::from_le_bytes(*bytes))
}

/// The entity that a key of the store stands for; none: it is damaged.
pub fn stored_key(bytes: &[u8]) -> Option<EntityKey> {
    super::snapshot::key_from_bytes(bytes).ok()
}

/// One view's store, and what it lacks.
pub(super) struct Cold {
    store: Box<dyn ColdStore>,
    /// Entities of the store that are no more, to be told with the next changes; and told with changes that are not written yet.
    removed: BTreeSet<Vec<u8>>,
    removing: BTreeSet<Vec<u8>>,
    /// Places of entities that have changed, among others.
    changed: Vec<u32>,
    /// The last changes handed out, and the last that are written.
    round: u32,
    written: u32,
    /// The next entity to look at for eviction.
    hand: usize,
    /// Bytes of hot entities.
    bytes: usize,
    /// Nothing was ever written to the store.
    empty: bool,
    /// Entities in the store, about.
    stored: u64,
    /// Reading the store failed.
    pub failure: Option<String>,
}

/// Where an entity stands between memory and store.
#[derive(Clone, Copy, Default)]
pub(super) struct Tier {
    /// Changed since it was last handed out.
    changed: bool,
    /// The store has, or is about to have, a form of it.
    stored: bool,
    /// Looked at since the hand came by.
    used: bool,
    /// The changes that it was last part of.
    round: u32,
    bytes: u32,
}

impl Engine {
    /// Gives a view a store, which has to be empty or that of the state resumed.
    pub fn attach(&mut self, view: usize, store: Box<dyn ColdStore>) {
        let Some(state) = self.states.get_mut(view) else { return };
        let mut cold = Cold {
            store,
            removed: BTreeSet::new(),
            removing: BTreeSet::new(),
            changed: Vec::new(),
            round: 0,
            written: 0,
            hand: 0,
            bytes: 0,
            empty: state.stored_before.is_none(),
            stored: state.stored_before.unwrap_or(0),
            failure: None,
        };
        for (place, entity) in state.entities.iter_mut().enumerate() {
            entity.tier = Tier { changed: true, bytes: entity.bytes() as u32, ..Tier::default() };
            cold.bytes += entity.bytes();
            cold.changed.push(place as u32);
        }
        state.cold = Some(cold);
    }

    /// The state that [`Changes::head`] is the head of, to be completed by [`Engine::attach`]. No entity is read before it is asked for.
    pub fn resume(views: Vec<View>, head: &[u8]) -> Result<Engine, RestoreError> {
        resumed(views, head)
    }

    /// Whether a view has a store.
    pub fn has_store(&self, view: usize) -> bool {
        self.states.get(view).is_some_and(|s| s.cold.is_some())
    }

    /// Why the state can no longer be read; what was answered since is worth nothing. The log has everything: start again.
    pub fn failure(&self) -> Option<&str> {
        self.states.iter().find_map(|s| s.cold.as_ref()?.failure.as_deref())
    }

    /// Bytes that the hot entities of views with a store take.
    pub fn hot_bytes(&self) -> usize {
        self.states.iter().filter_map(|s| Some(s.cold.as_ref()?.bytes + s.index.capacity() * 5)).sum()
    }

    /// Of [`Engine::hot_bytes`], about how many are not written yet.
    pub fn changed_bytes(&self) -> usize {
        let share = |s: &ViewState| Some(s.cold.as_ref()?.bytes / s.entities.len().max(1) * s.cold.as_ref()?.changed.len());
        self.states.iter().filter_map(share).sum()
    }

    /// What has changed since the last changes. The last must be written, see [`Engine::written`].
    pub fn changes(&mut self) -> Changes {
        let mut views = Vec::new();
        for (v, (View { plan }, state)) in self.views.iter().zip(&mut self.states).enumerate() {
            let watermark = self.watermarks.get(usize::from(plan.source.0)).copied().flatten();
            if state.cold.is_some() {
                views.push(ViewChanges { view: v, ..state.changes(plan, watermark) });
            }
        }
        Changes { views, head: head_of(self) }
    }

    /// The last changes are written; `expired` says how many written forms of a view were dropped in passing.
    pub fn written(&mut self, mut expired: impl FnMut(usize) -> u64) {
        self.exhausted = false;
        for (view, state) in self.states.iter_mut().enumerate() {
            if let Some(cold) = &mut state.cold {
                cold.written = cold.round;
                cold.removing.clear();
                cold.stored = cold.stored.saturating_sub(expired(view));
            }
        }
    }

    /// Lets go of entities while the hot ones take more than `most` bytes, and says what else the driver has to do. `writing`: changes handed out
    /// are on their way.
    pub fn relieve(&mut self, most: usize, writing: bool) -> Pressure {
        if self.hot_bytes() > most && !self.exhausted {
            self.exhausted = !self.evict(most - most / 16);
        }
        let (hot, changed) = (self.hot_bytes(), self.changed_bytes());
        if hot > most + most / 4 && (writing || changed > 0) {
            Pressure::Wait
        } else if !writing && changed > most / WRITE_AT {
            Pressure::Write
        } else {
            Pressure::None
        }
    }

    /// Reads like [`Engine::look`] for whoever goes through all entities: what only the store has does not stay in memory, and what is there
    /// does not count as used.
    pub fn look_in_passing(&mut self, view: usize, key: &EntityKey, at: EventTime) -> Option<Look> {
        let used = self.states.get(view)?.is_used(key);
        let look = self.look(view, key, at);
        self.states[view].passed(key, used);
        look
    }

    /// Drops entities that are not in use and are written, until the hot ones take at most `most` bytes. Returns whether they do.
    pub fn evict(&mut self, most: usize) -> bool {
        for v in 0..self.states.len() {
            let over = self.hot_bytes().saturating_sub(most);
            if over == 0 {
                return true;
            }
            self.states[v].evict(over);
            self.states[v].shrink();
        }
        self.hot_bytes() <= most
    }
}

impl ViewState {
    /// Entities in memory and in the store, about.
    pub(super) fn count(&self) -> usize {
        let Some(cold) = &self.cold else { return self.entities.len() };
        let hot = self.entities.iter().filter(|e| !e.tier.stored).count();
        hot + cold.stored as usize
    }

    pub(super) fn stored(&self) -> u64 {
        self.cold.as_ref().map_or(0, |cold| cold.stored)
    }

    /// Takes an entity into memory, if the store has it.
    pub(super) fn load(&mut self, plan: &Plan, key: &EntityKey) -> Option<usize> {
        let cold = self.cold.as_mut()?;
        if cold.empty {
            return None;
        }
        let name = key_bytes(key);
        if cold.removed.contains(&name) || cold.removing.contains(&name) {
            return None;
        }
        let mut found = None;
        if let Err(e) = cold.store.get(&name, &mut |form| found = Some(entity_from_bytes(plan, key.clone(), form))) {
            cold.failure = Some(e);
            return None;
        }
        let mut entity = match found? {
            Ok(entity) => entity,
            Err(e) => {
                cold.failure = Some(format!("entity {key} of view {}: {e}", plan.name));
                return None;
            }
        };
        let bytes = entity.bytes();
        entity.tier = Tier { stored: true, used: true, round: cold.written, bytes: bytes as u32, ..Tier::default() };
        cold.bytes += bytes;
        let place = self.entities.len();
        let entities = &self.entities;
        self.index.insert_unique(hash(key), place as u32, |&i| hash(&entities[i as usize].key));
        self.entities.push(entity);
        Some(place)
    }

    /// Whether an entity counts as used; none: it is not in memory.
    fn is_used(&self, key: &EntityKey) -> Option<bool> {
        let place = self.index.find(hash(key), |&i| self.entities[i as usize].key == *key)?;
        Some(self.entities[*place as usize].tier.used)
    }

    /// Undoes what a look at an entity did; `used` is as [`ViewState::is_used`] said before.
    fn passed(&mut self, key: &EntityKey, used: Option<bool>) {
        let Some(cold) = &mut self.cold else { return };
        let entities = &self.entities;
        let Some(&place) = self.index.find(hash(key), |&i| entities[i as usize].key == *key) else { return };
        let tier = &mut self.entities[place as usize].tier;
        match used {
            Some(used) => tier.used = used,
            None => {
                cold.bytes = cold.bytes.saturating_sub(tier.bytes as usize);
                self.take_out(place as usize);
            }
        }
    }

    /// Notes that an entity is looked at.
    pub(super) fn used(&mut self, place: usize) {
        if self.cold.is_some() {
            self.entities[place].tier.used = true;
        }
    }

    /// Notes that an entity has changed.
    pub(super) fn changed(&mut self, place: usize) {
        let Some(cold) = &mut self.cold else { return };
        let entity = &mut self.entities[place];
        if !entity.tier.changed {
            entity.tier.changed = true;
            cold.changed.push(place as u32);
            cold.resize(entity);
        }
    }

    /// Notes that a new entity has come.
    pub(super) fn added(&mut self, place: usize) {
        let Some(cold) = &mut self.cold else { return };
        let entity = &mut self.entities[place];
        // Its removal, if not handed out yet, is overtaken: the store will have the new one.
        let stored = cold.removed.remove(&key_bytes(&entity.key));
        entity.tier = Tier { stored, ..Tier::default() };
        cold.stored += u64::from(stored);
    }

    /// Notes that an entity goes for good. What comes to its place is among the changed again if it was.
    pub(super) fn removed(&mut self, place: usize) {
        let Some(cold) = &mut self.cold else { return };
        let entity = &self.entities[place];
        cold.bytes = cold.bytes.saturating_sub(entity.tier.bytes as usize);
        if entity.tier.stored {
            cold.removed.insert(key_bytes(&entity.key));
            cold.stored = cold.stored.saturating_sub(1);
        }
    }

    /// Notes that the last entity has moved to `place`.
    pub(super) fn moved(&mut self, place: usize) {
        if let Some(cold) = &mut self.cold
            && self.entities.get(place).is_some_and(|e| e.tier.changed)
        {
            cold.changed.push(place as u32);
        }
    }

    fn changes(&mut self, plan: &Plan, watermark: Option<kilter_core::EventTime>) -> ViewChanges {
        let mut out = ViewChanges { watermark: watermark.map_or(i64::MIN, |w| w.0), ..ViewChanges::default() };
        let Some(watermark) = watermark else { return out };
        let bounds = self.bounds(plan, watermark);
        let Some(cold) = &mut self.cold else { return out };
        cold.round += 1;
        cold.empty = false;
        for place in std::mem::take(&mut cold.changed) {
            let Some(entity) = self.entities.get_mut(place as usize).filter(|e| e.tier.changed) else { continue };
            entity.tier.changed = false;
            entity.tier.round = cold.round;
            cold.resize(entity);
            if alive(plan, entity, watermark, &bounds, &mut self.periods) {
                let mut form = expires(plan, entity, &mut self.periods).to_le_bytes().to_vec();
                put_entity(&mut form, plan, entity, &bounds, &mut self.periods);
                out.put.push((key_bytes(&entity.key), form));
                cold.stored += u64::from(!entity.tier.stored);
                entity.tier.stored = true;
            } else if entity.tier.stored {
                out.removed.push(key_bytes(&entity.key));
                cold.stored = cold.stored.saturating_sub(1);
                entity.tier.stored = false;
            }
        }
        out.removed.extend(cold.removed.iter().cloned());
        cold.removing = std::mem::take(&mut cold.removed);
        out
    }

    fn evict(&mut self, mut over: usize) {
        // Once round to let go of what is no longer in use, and once more for what was.
        for _ in 0..2 * self.entities.len() {
            let Some(cold) = &mut self.cold else { return };
            if over == 0 || self.entities.is_empty() {
                return;
            }
            if cold.hand >= self.entities.len() {
                cold.hand = 0;
            }
            let hand = cold.hand;
            let tier = &mut self.entities[hand].tier;
            if tier.used {
                tier.used = false;
                cold.hand += 1;
            } else if tier.changed || !tier.stored || tier.round > cold.written {
                cold.hand += 1;
            } else {
                let bytes = tier.bytes as usize;
                cold.bytes = cold.bytes.saturating_sub(bytes);
                over = over.saturating_sub(bytes);
                self.take_out(hand);
            }
        }
    }

    /// Gives back the places of entities that have left, once they are most.
    fn shrink(&mut self) {
        if self.entities.len() * 4 < self.index.capacity() {
            let entities = &self.entities;
            self.index.shrink_to(entities.len() * 2, |&i| hash(&entities[i as usize].key));
        }
    }

    /// The entities of the store that are not in memory and alive.
    pub(super) fn cold_entities(&self, plan: &Plan) -> Vec<Entity> {
        let Some(cold) = &self.cold else { return Vec::new() };
        let mut found = Vec::new();
        // Reading all is for tests and tools; who reads on finds the failure.
        let _ = cold.store.scan(&mut |name, form| {
            if cold.removed.contains(name) || cold.removing.contains(name) {
                return;
            }
            if let Ok(key) = super::snapshot::key_from_bytes(name)
                && self.index.find(hash(&key), |&i| self.entities[i as usize].key == key).is_none()
                && let Ok(entity) = entity_from_bytes(plan, key, form)
            {
                found.push(entity);
            }
        });
        found
    }
}

impl Cold {
    fn resize(&mut self, entity: &mut Entity) {
        let bytes = entity.bytes();
        self.bytes = (self.bytes + bytes).saturating_sub(entity.tier.bytes as usize);
        entity.tier.bytes = bytes as u32;
    }
}

/// The watermark from which nothing of an entity can be seen any more, or a later one.
fn expires(plan: &Plan, entity: &Entity, periods: &mut [Periods]) -> i64 {
    let passed = match plan.ttl {
        Some(ttl) => (entity.last + ttl).0.saturating_add(1),
        None => {
            let levels = plan.levels.iter().zip(periods);
            let ends =
                levels.flat_map(|(l, periods)| l.extents.iter().map(|e| l.tiling.passed(*e, entity.last, periods)).collect::<Vec<_>>());
            ends.max().unwrap_or(i64::MAX)
        }
    };
    passed.saturating_add(plan.lateness.0)
}

/// A form's expiry, then its entity.
pub(super) fn form_of(form: &[u8]) -> Option<Cursor<'_>> {
    form.get(8..).map(Cursor::new)
}
