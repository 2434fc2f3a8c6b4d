//! The engine: views kept up to date by one event at a time, read at any moment.
//!
//! The only truth about values is the formula of docs/reference/windows.md. What is physically kept (pruned tiles, forgotten entities) is
//! never visible in a value or a snapshot: both look only at tiles the formula still admits.

mod entity;
mod snapshot;

use hashbrown::HashTable;
use kilter_core::{EntityKey, Event, EventTime, SourceId, Span, Value};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::hash::BuildHasher;

use crate::aggregators::{Input, MAX_WORDS, Reading};
use crate::view::{LevelPlan, Output, Place, Plan, Shared, View};

use entity::{Entity, Tiles};
pub use snapshot::RestoreError;

/// Fixed, so that a run can be repeated down to its memory accesses; map order never reaches an output.
fn hash(key: &EntityKey) -> u64 {
    foldhash::fast::FixedState::with_seed(0x6b69_6c74_6572).hash_one(key)
}

/// Views and their state.
pub struct Engine {
    views: Vec<View>,
    states: Vec<ViewState>,
    /// Largest event time so far, by source; none: no event yet.
    watermarks: Vec<Option<EventTime>>,
}

/// What became of one event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Views over the event's source.
    pub views: usize,
    /// Views that took it in.
    pub applied: usize,
    /// Views for which it came after all its windows had passed.
    pub late: usize,
    /// Views whose entity it does not name.
    pub no_key: usize,
    /// Views whose filter it does not pass.
    pub filtered: usize,
}

/// The size and the losses of one view. Sizes are estimates that depend on when old tiles happen to be swept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViewStats {
    pub view: String,
    pub entities: usize,
    pub tiles: usize,
    pub state_bytes: usize,
    pub late: u64,
    pub no_key: u64,
    pub filtered: u64,
}

#[derive(Default)]
struct ViewState {
    /// Places in `entities`.
    index: HashTable<u32>,
    entities: Vec<Entity>,
    /// The next entity to look at for tiles that have passed.
    sweep: usize,
    late: u64,
    no_key: u64,
    filtered: u64,
}

impl Engine {
    pub fn new(views: Vec<View>) -> Engine {
        let states = views.iter().map(|_| ViewState::default()).collect();
        Engine { views, states, watermarks: Vec::new() }
    }

    pub fn views(&self) -> &[View] {
        &self.views
    }

    /// The position of a view.
    pub fn view(&self, name: &str) -> Option<usize> {
        self.views.iter().position(|v| v.name() == name)
    }

    /// The largest event time among the source's events so far.
    pub fn watermark(&self, source: SourceId) -> Option<EventTime> {
        self.watermarks.get(usize::from(source.0)).copied().flatten()
    }

    /// Takes in the next event of the log.
    pub fn update(&mut self, event: &Event) -> Update {
        let source = usize::from(event.source.0);
        if self.watermarks.len() <= source {
            self.watermarks.resize(source + 1, None);
        }
        let watermark = self.watermarks[source].map_or(event.time, |w| w.max(event.time));
        self.watermarks[source] = Some(watermark);

        let mut update = Update::default();
        for (view, state) in self.views.iter().zip(&mut self.states) {
            if view.plan.source == event.source {
                update.views += 1;
                state.update(&view.plan, event, watermark, &mut update);
            }
        }
        update
    }

    /// Appends one value per feature of the view, as of `at`. An unknown entity has empty windows.
    ///
    /// `view` is a position in [`Engine::views`]; another number appends nothing.
    pub fn read(&mut self, view: usize, key: &EntityKey, at: EventTime, out: &mut Vec<Value>) {
        let (Some(View { plan }), Some(state)) = (self.views.get(view), self.states.get_mut(view)) else { return };
        let watermark = self.watermarks.get(usize::from(plan.source.0)).copied().flatten();
        let start = out.len();
        out.resize(start + plan.features.len(), Value::Null);
        let out = &mut out[start..];
        let entity = state.find(key).map(|i| &state.entities[i]);
        for group in &plan.groups {
            let (level, tiles, range) = match group.window {
                None => (&plan.lifetime, entity.map(|e| &e.lifetime), 0..1),
                Some((level, window)) => {
                    let tiles = entity.map(|e| &e.levels[level]);
                    let level = &plan.levels[level];
                    let oldest = oldest_tile(at, window, level.hop).max(bound(watermark, window, plan.lateness, level.hop));
                    let newest = at.0.div_euclid(level.hop);
                    (level, tiles, tiles.map_or(0..0, |t| t.range(oldest, newest)))
                }
            };
            for output in &group.outputs {
                out[output.feature] = value(output, level, tiles, range.clone(), at);
            }
        }
    }

    pub fn stats(&self) -> Vec<ViewStats> {
        self.views.iter().zip(&self.states).map(|(view, state)| state.stats(view)).collect()
    }
}

/// The tile that holds the start of a window read at `at`.
fn oldest_tile(at: EventTime, window: i64, hop: i64) -> i64 {
    at.0.saturating_sub(window).div_euclid(hop)
}

/// The oldest tile that the watermark still admits to a window.
fn bound(watermark: Option<EventTime>, window: i64, lateness: Span, hop: i64) -> i64 {
    match watermark {
        Some(w) => w.0.saturating_sub(window).saturating_sub(lateness.0).div_euclid(hop),
        None => i64::MIN,
    }
}

fn value(output: &Output, level: &LevelPlan, tiles: Option<&Tiles>, range: std::ops::Range<usize>, at: EventTime) -> Value {
    let reading = Reading { at, fraction: output.fraction };
    let value = match output.place {
        Place::Fixed { ops, offset } => {
            let mut state = [0; MAX_WORDS];
            let state = &mut state[..ops.words];
            if let Some(tiles) = tiles {
                (ops.fold)(state, tiles.words(level, range), level.stride, offset);
            }
            (ops.output)(state, &reading)
        }
        Place::Growing { ops, index } => match tiles {
            Some(tiles) if range.len() == 1 => (ops.output)(tiles.growing(level, range.start, index), &reading),
            Some(tiles) => {
                let mut state = Vec::new();
                for tile in range {
                    (ops.merge)(&mut state, tiles.growing(level, tile, index));
                }
                (ops.output)(&state, &reading)
            }
            None => (ops.output)(&[], &reading),
        },
    };
    match &output.default {
        Some(default) if value.is_null() => default.clone(),
        _ => value,
    }
}

impl ViewState {
    fn find(&self, key: &EntityKey) -> Option<usize> {
        self.index.find(hash(key), |&i| self.entities[i as usize].key == *key).map(|&i| i as usize)
    }

    fn find_or_add(&mut self, plan: &Plan, key: EntityKey) -> usize {
        use hashbrown::hash_table::Entry;
        let entities = &mut self.entities;
        match self.index.entry(hash(&key), |&i| entities[i as usize].key == key, |&i| hash(&entities[i as usize].key)) {
            Entry::Occupied(place) => *place.get() as usize,
            Entry::Vacant(place) => {
                place.insert(entities.len() as u32);
                entities.push(Entity::new(plan, key));
                entities.len() - 1
            }
        }
    }

    fn update(&mut self, plan: &Plan, event: &Event, watermark: EventTime, update: &mut Update) {
        if let Some(filter) = &plan.filter
            && !filter.holds(&event.row)
        {
            self.filtered += 1;
            update.filtered += 1;
            return;
        }
        let Some(key) = EntityKey::from_row(&event.row, &plan.entity_slots) else {
            self.no_key += 1;
            update.no_key += 1;
            return;
        };
        let bounds: SmallVec<[i64; 8]> = plan.levels.iter().map(|l| bound(Some(watermark), l.longest, plan.lateness, l.hop)).collect();
        let enters = |level: usize| event.time.0.div_euclid(plan.levels[level].hop) >= bounds[level];
        if plan.lifetime.is_empty() && !(0..plan.levels.len()).any(enters) {
            self.late += 1;
            update.late += 1;
            return;
        }
        update.applied += 1;
        let inputs = Inputs::new(&plan.shared, event);
        let before = self.entities.len();
        let place = self.find_or_add(plan, key);
        // A second look for a new entity: with one, the sweep would never come round while every event brings a new one.
        let looks = 1 + self.entities.len() - before;
        let entity = &mut self.entities[place];
        if !plan.lifetime.is_empty() {
            entity.lifetime.apply(&plan.lifetime, 0, i64::MIN, &inputs);
        }
        for (level, tiles) in entity.levels.iter_mut().enumerate() {
            if enters(level) {
                let plan = &plan.levels[level];
                tiles.apply(plan, event.time.0.div_euclid(plan.hop), bounds[level], &inputs);
            }
        }
        (0..looks).for_each(|_| self.sweep_one(plan, &bounds));
    }

    /// Looks at one more entity, so that those without events are forgotten too, at a bounded cost per event.
    fn sweep_one(&mut self, plan: &Plan, bounds: &[i64]) {
        if self.sweep >= self.entities.len() {
            self.sweep = 0;
        }
        let Some(entity) = self.entities.get_mut(self.sweep) else { return };
        for ((tiles, level), bound) in entity.levels.iter_mut().zip(&plan.levels).zip(bounds) {
            tiles.prune(level, *bound);
        }
        if plan.lifetime.is_empty() && entity.levels.iter().all(Tiles::is_empty) {
            self.remove(self.sweep);
        } else {
            self.sweep += 1;
        }
    }

    fn remove(&mut self, place: usize) {
        let entities = &self.entities;
        if let Ok(found) = self.index.find_entry(hash(&entities[place].key), |&i| i as usize == place) {
            found.remove();
        }
        let last = entities.len() - 1;
        if place != last
            && let Some(moved) = self.index.find_mut(hash(&entities[last].key), |&i| i as usize == last)
        {
            *moved = place as u32;
        }
        self.entities.swap_remove(place);
    }

    fn stats(&self, view: &View) -> ViewStats {
        let plan = &view.plan;
        ViewStats {
            view: plan.name.clone(),
            entities: self.entities.len(),
            tiles: self.entities.iter().flat_map(|e| e.levels.iter()).map(Tiles::len).sum(),
            state_bytes: self.entities.iter().map(Entity::bytes).sum::<usize>() + self.index.capacity() * 5,
            late: self.late,
            no_key: self.no_key,
            filtered: self.filtered,
        }
    }
}

/// What the columns' filters and arguments make of one event, computed once.
struct Inputs<'a> {
    time: EventTime,
    passed: SmallVec<[bool; 16]>,
    args: SmallVec<[Cow<'a, Value>; 8]>,
}

static PRESENT: Value = Value::Bool(true);

impl<'a> Inputs<'a> {
    fn new(shared: &'a Shared, event: &'a Event) -> Inputs<'a> {
        Inputs {
            time: event.time,
            passed: shared.filters.iter().map(|f| f.holds(&event.row)).collect(),
            args: shared
                .args
                .iter()
                .map(|a| match a.eval_ref(&event.row) {
                    // An infinity would stay in a sum for the whole window: it counts as missing.
                    value if matches!(*value, Value::Float(x) if !x.is_finite()) => Cow::Owned(Value::Null),
                    value => value,
                })
                .collect(),
        }
    }

    /// What a state with this filter and argument is given; none: nothing.
    fn get(&self, filter: Option<usize>, arg: Option<usize>) -> Option<Input<'_>> {
        if filter.is_some_and(|f| !self.passed[f]) {
            return None;
        }
        let value = match arg {
            None => &PRESENT,
            Some(a) if self.args[a].is_null() => return None,
            Some(a) => &*self.args[a],
        };
        Some(Input { time: self.time, value })
    }
}
