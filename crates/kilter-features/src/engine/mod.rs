//! The engine: views kept up to date by one event at a time, read at any moment.
//!
//! The only truth about values is the formula of docs/reference/windows.md. What is physically kept (pruned tiles, forgotten entities) is
//! never visible in a value or a snapshot: both look only at tiles the formula still admits.

mod carry;
mod entity;
mod snapshot;

use hashbrown::HashTable;
use kilter_core::{EntityKey, Event, EventTime, SourceId, Span, Value};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::hash::BuildHasher;

use crate::aggregators::{Fold, Input, MAX_WORDS, Reading};
use crate::view::{LevelPlan, Output, Place, Plan, Shared, View};

use entity::{CACHE_FROM, Entity, Steps, Tiles};
pub use snapshot::RestoreError;

/// Fixed, so that a run can be repeated down to its memory accesses; map order never reaches an output.
fn hash(key: &EntityKey) -> u64 {
    foldhash::fast::FixedState::with_seed(0x6b69_6c74_6572).hash_one(key)
}

/// A look at an idle entity is a few cache misses, as much as the event itself: one for every few events.
const EVENTS_PER_LOOK: u32 = 8;

/// Views and their state.
pub struct Engine {
    views: Vec<View>,
    states: Vec<ViewState>,
    /// Largest event time so far, by source; none: no event yet.
    watermarks: Vec<Option<EventTime>>,
    /// Windows with at least this many tiles are read through kept folds of blocks.
    cache_from: usize,
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
    /// Events taken in since the last look.
    unswept: u32,
    late: u64,
    no_key: u64,
    filtered: u64,
}

impl Engine {
    pub fn new(views: Vec<View>) -> Engine {
        let states = views.iter().map(|_| ViewState::default()).collect();
        Engine { views, states, watermarks: Vec::new(), cache_from: CACHE_FROM }
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
        let mut entity = state.find(key).map(|i| &mut state.entities[i]);
        for group in &plan.groups {
            let mut held = Held { level: &plan.lifetime, tiles: None, range: 0..1, steps: Steps::default() };
            match (group.window, &mut entity) {
                (Some((level, window)), entity) => {
                    held.level = &plan.levels[level];
                    let hop = held.level.hop;
                    if let Some(tiles) = entity.as_mut().map(|e| &mut e.levels[level]) {
                        let oldest = oldest_tile(at, window, hop).max(bound(watermark, window, plan.lateness, hop));
                        held.range = tiles.range(oldest, at.0.div_euclid(hop));
                        let cached = held.range.len() >= self.cache_from;
                        if cached {
                            tiles.fold_blocks(held.level);
                        }
                        held.steps = tiles.steps(held.range.clone(), cached);
                        held.tiles = Some(tiles);
                    }
                }
                (None, Some(entity)) if !entity.lifetime.is_empty() => {
                    held.steps = entity.lifetime.steps(0..1, false);
                    held.tiles = Some(&entity.lifetime);
                }
                (None, _) => {}
            }
            for output in &group.outputs {
                out[output.feature] = held.value(output, at);
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

/// The tiles that one window of one entity holds at the moment of reading.
struct Held<'a> {
    level: &'a LevelPlan,
    /// None: the entity is unknown.
    tiles: Option<&'a Tiles>,
    range: std::ops::Range<usize>,
    steps: Steps,
}

impl Held<'_> {
    fn value(&self, output: &Output, at: EventTime) -> Value {
        let reading = Reading { at, fraction: output.fraction };
        let value = match output.place {
            Place::Fixed { ops, offset } => {
                let mut state = [0; MAX_WORDS];
                let state = &mut state[..ops.words];
                if let Some(tiles) = self.tiles {
                    tiles.fold(self.level, &self.steps, &ops, offset, state);
                }
                (ops.output)(state, &reading)
            }
            Place::Growing { ops, index } => {
                let tiles = self.tiles;
                let mut states = self.range.clone().filter_map(|i| Some(tiles?.growing(self.level, i, index)).filter(|s| !s.is_empty()));
                match ops.fold {
                    Fold::Oldest => (ops.output)(states.next().unwrap_or(&[]), &reading),
                    Fold::Newest => (ops.output)(states.next_back().unwrap_or(&[]), &reading),
                    Fold::All => {
                        let first = states.next().unwrap_or(&[]);
                        match states.next() {
                            None => (ops.output)(first, &reading),
                            Some(second) => {
                                let mut state = first.to_vec();
                                (ops.merge)(&mut state, second);
                                states.for_each(|later| (ops.merge)(&mut state, later));
                                (ops.output)(&state, &reading)
                            }
                        }
                    }
                }
            }
        };
        match &output.default {
            Some(default) if value.is_null() => default.clone(),
            _ => value,
        }
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
        // Two looks for a new entity: with one, the sweep would never come round while every event brings a new one.
        self.unswept += if self.entities.len() > before { 2 * EVENTS_PER_LOOK } else { 1 };
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
        while self.unswept >= EVENTS_PER_LOOK {
            self.unswept -= EVENTS_PER_LOOK;
            self.sweep_one(plan, &bounds);
        }
    }

    /// Looks at one more entity, so that those without events are forgotten too, at a bounded cost per event.
    fn sweep_one(&mut self, plan: &Plan, bounds: &[i64]) {
        if self.sweep >= self.entities.len() {
            self.sweep = 0;
        }
        let Some(entity) = self.entities.get_mut(self.sweep) else { return };
        for ((tiles, level), bound) in entity.levels.iter_mut().zip(&plan.levels).zip(bounds) {
            tiles.prune_lazily(level, *bound);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ColumnSpec, ViewSpec, compile_view};
    use kilter_core::{DataType, Operation, Schema};
    use kilter_stats::Rng;
    use proptest::prelude::*;

    fn engine(cache_from: usize) -> Engine {
        let aggregates = ["sum(x)", "mean(x)", "stddev(x)", "min(x)", "count(x)", "last(x)", "first(x)", "time_since_last()", "last(s)"];
        let view = compile_view(&ViewSpec {
            name: "v".into(),
            source: SourceId(0),
            schema: Schema::new([("k", DataType::Int64), ("x", DataType::Float64), ("s", DataType::String)]),
            entity: vec!["k".into()],
            filter: None,
            columns: (0..aggregates.len())
                .map(|i| ColumnSpec { name: format!("f{i}"), text: format!("{} over 40s, 150s hop 1s", aggregates[i]), default: None })
                .collect(),
            hop: None,
            lateness: Span(20_000_000),
        });
        let mut engine = Engine::new(vec![view.unwrap()]);
        engine.cache_from = cache_from;
        engine
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn kept_folds_make_no_bit_of_difference(seed: u64, n in 1usize..700, every in 1u64..40, late in 0u64..200) {
            let mut rng = Rng::seeded(seed);
            let mut engines = [engine(0), engine(usize::MAX), engine(CACHE_FROM)];
            let mut now = -60_000_000i64;
            for _ in 0..n {
                now += rng.below(1_500_000) as i64;
                let back = if rng.bernoulli(0.1) { rng.below(late * 1_000_000 + 1) as i64 } else { 0 };
                let row = vec![Value::Int(rng.below(2) as i64), Value::Float(rng.uniform() * 100.0 - 30.0), Value::text("s")];
                let event = Event { source: SourceId(0), offset: 0, time: EventTime(now - back), arrived: EventTime(0), id: None, operation: Operation::Upsert, row, extra: None };
                engines.iter_mut().for_each(|e| { e.update(&event); });
                if rng.below(every) == 0 {
                    let at = EventTime(now + rng.below(200_000_000) as i64 - 100_000_000);
                    let values = engines.each_mut().map(|e| {
                        let mut out = Vec::new();
                        e.read(0, &EntityKey::Int(1), at, &mut out);
                        out
                    });
                    for other in &values[1..] {
                        prop_assert!(values[0].iter().zip(other).all(|(a, b)| a.same_bits(b)), "{:?}\n{:?}", values[0], other);
                    }
                }
            }
        }
    }
}
