//! The engine: views kept up to date by one event at a time, read at any moment.
//!
//! The only truth about values is the formula of docs/reference/windows.md. What is physically kept (pruned tiles, forgotten entities) is
//! never visible in a value or a snapshot: both look only at tiles the formula still admits.

mod carry;
mod counts;
mod entities;
mod entity;
mod heavy;
mod look;
mod row;
mod snapshot;
mod table;
mod tier;

use hashbrown::HashTable;
use kilter_core::{EntityKey, Event, EventTime, Offset, Operation, SourceId, Value};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::hash::BuildHasher;
use std::sync::Arc;

use crate::aggregators::{Fold, Input, MAX_WORDS, Reading};
use crate::view::{Extent, Feed, Group, LevelPlan, Output, Periods, Place, Plan, Shared, View};

pub use carry::Unfit;
pub use counts::ViewCounts;
use entities::Entities;
use entity::Entity;
use heavy::Busiest;
pub use heavy::{Busy, Heavy};
use look::Known;
pub use look::Look;
use row::{CACHE_FROM, Row, Steps};
pub use snapshot::RestoreError;
use table::Table;
use tier::Cold;
pub use tier::{Changes, ColdStore, Pressure, ViewChanges, expiry, stored_key};

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
    /// By view: the row of the event at hand with what its lookups add; empty for views that look nothing up.
    extended: Vec<Vec<Value>>,
    /// Nothing more can leave memory until something is written.
    exhausted: bool,
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
    /// Views in which it replaced or took back an earlier row.
    pub retracted: usize,
}

/// The size and the losses of one view. Sizes are estimates that depend on when old tiles happen to be swept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ViewStats {
    pub view: String,
    /// In memory and on disk; with a store, about.
    pub entities: usize,
    /// Those in memory.
    pub in_memory: usize,
    /// Tiles and bytes of those in memory.
    pub tiles: usize,
    pub state_bytes: usize,
    pub late: u64,
    pub no_key: u64,
    pub filtered: u64,
    pub retracted: u64,
    /// Rows kept because the source's rows change.
    pub rows: usize,
    /// The entities in memory that take most bytes.
    pub heaviest: Vec<Heavy>,
    /// The entities that most of the events of late were of, since the engine was made.
    pub busiest: Vec<Busy>,
}

#[derive(Default)]
struct ViewState {
    /// Places in `entities`.
    index: HashTable<u32>,
    entities: Entities,
    /// The next entity to look at for tiles that have passed.
    sweep: usize,
    /// Events taken in since the last look.
    unswept: u32,
    /// Beside the snapshot: see [`Engine::resume_counts`].
    applied: u64,
    late: u64,
    no_key: u64,
    filtered: u64,
    retracted: u64,
    busiest: Busiest,
    /// The rows of a source whose rows change.
    table: Table,
    /// Calendar periods looked at last, by level.
    periods: Vec<Periods>,
    bounds: Bounds,
    /// Tiles of an entity that keeps events, made to be read.
    unfolded: Option<Entity>,
    /// Where entities are written to.
    cold: Option<Cold>,
    /// How many the store had, about, when the state was resumed; none: it was not.
    stored_before: Option<u64>,
    /// Places of the views looked up in, in the order of the plan's lookups.
    lookups: Vec<Option<usize>>,
}

/// The oldest tile of each level that a watermark still admits.
#[derive(Default)]
struct Bounds {
    oldest: SmallVec<[i64; 8]>,
    /// They hold for watermarks from `from` on and before `until`.
    from: i64,
    until: i64,
}

impl Bounds {
    fn at(&mut self, plan: &Plan, watermark: EventTime, periods: &mut [Periods]) -> SmallVec<[i64; 8]> {
        if watermark.0 < self.from || watermark.0 >= self.until {
            self.oldest = plan.levels.iter().zip(periods).map(|(l, periods)| l.bound(watermark, plan.lateness, periods)).collect();
            self.from = watermark.0;
            self.until = plan.levels.iter().map(|l| l.next_bound(watermark, plan.lateness)).min().unwrap_or(i64::MAX);
        }
        self.oldest.clone()
    }
}

impl Engine {
    /// An engine over these views. One that looks events up in others ([`View::needs`]) finds nothing there when they are missing.
    pub fn new(views: Vec<View>) -> Engine {
        let states = views
            .iter()
            .map(|view| ViewState {
                periods: vec![Periods::default(); view.plan.levels.len()],
                lookups: lookups(view, &views),
                ..ViewState::default()
            })
            .collect();
        let extended = views.iter().map(|_| Vec::new()).collect();
        Engine { views, states, watermarks: Vec::new(), cache_from: CACHE_FROM, extended, exhausted: false }
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
        // What is looked up is as it was before this event: no view has taken it in yet.
        self.look_up(event);
        let watermark = self.watermarks[source].map_or(event.time, |w| w.max(event.time));
        self.watermarks[source] = Some(watermark);

        let mut update = Update::default();
        for ((view, state), extended) in self.views.iter().zip(&mut self.states).zip(&self.extended) {
            if view.plan.source == event.source {
                update.views += 1;
                let row = if extended.is_empty() { &event.row } else { extended };
                state.update(&view.plan, event, row, watermark, &mut update);
            }
        }
        update
    }

    /// Extends the event's row for every view that looks up others.
    fn look_up(&mut self, event: &Event) {
        for v in 0..self.views.len() {
            let plan = &self.views[v].plan;
            if plan.source != event.source || !plan.lookups.iter().any(|l| l.used) {
                continue;
            }
            let plan = Arc::clone(plan);
            let mut row = std::mem::take(&mut self.extended[v]);
            row.clear();
            row.extend_from_slice(&event.row);
            row.resize(plan.lookups[0].first_slot, Value::Null);
            for (i, lookup) in plan.lookups.iter().enumerate() {
                let place = self.states[v].lookups[i].filter(|_| lookup.used);
                match (place, EntityKey::from_row(&event.row, &lookup.key)) {
                    (Some(place), Some(key)) => self.read(place, &key, event.time, &mut row),
                    _ => row.resize(row.len() + lookup.width, Value::Null),
                }
            }
            self.extended[v] = row;
        }
    }

    /// Appends one value per feature of the view, as of `at`. An unknown entity has empty windows.
    ///
    /// `view` is a position in [`Engine::views`]; another number appends nothing.
    pub fn read(&mut self, view: usize, key: &EntityKey, at: EventTime, out: &mut Vec<Value>) {
        let (Some(View { plan }), Some(state)) = (self.views.get(view), self.states.get_mut(view)) else { return };
        let watermark = self.watermarks.get(usize::from(plan.source.0)).copied().flatten();
        let start = out.len();
        out.resize(start + plan.features.len(), Value::Null);
        state.read(plan, key, at, watermark, self.cache_from, &mut out[start..], None);
    }

    /// When the newest event of an entity happened; none: the view knows nothing of it any more.
    pub fn last_event(&mut self, view: usize, key: &EntityKey) -> Option<EventTime> {
        let watermark = self.watermark(self.views.get(view)?.plan.source)?;
        let (plan, state) = (&self.views[view].plan, &mut self.states[view]);
        let place = state.find(plan, key)?;
        let bounds = state.bounds(plan, watermark);
        let entity = &state.entities[place];
        alive(plan, entity, watermark, &bounds, &mut state.periods).then_some(entity.last)
    }

    pub fn stats(&self) -> Vec<ViewStats> {
        self.views.iter().zip(&self.states).map(|(view, state)| state.stats(view)).collect()
    }
}

/// Where a view's lookups lie among `views`.
fn lookups(view: &View, views: &[View]) -> Vec<Option<usize>> {
    view.plan.lookups.iter().map(|l| views.iter().position(|v| v.name() == l.view)).collect()
}

/// The tiles that one window of one entity holds at the moment of reading.
struct Held<'a> {
    /// None: the entity is unknown.
    row: Option<Row<'a>>,
    range: std::ops::Range<usize>,
    steps: Steps,
    /// The window's length, where it has one.
    span: Option<i64>,
}

impl Held<'_> {
    fn value(&self, output: &Output, at: EventTime) -> Value {
        let reading = Reading { at, constants: &output.constants, span: self.span };
        let value = match output.place {
            Place::Fixed { ops, offset } => {
                let mut state = [0; MAX_WORDS];
                let state = &mut state[..ops.words];
                if let Some(row) = &self.row {
                    row.fold(&self.steps, &ops, offset, state);
                }
                (ops.output)(state, &reading)
            }
            Place::Growing { ops, index } => {
                let row = self.row;
                let mut states = self.range.clone().filter_map(|i| Some(row?.growing(i, index)).filter(|s| !s.is_empty()));
                match ops.fold {
                    Fold::Oldest => (ops.output)(states.next().unwrap_or(&[]), &reading),
                    Fold::Newest => (ops.output)(states.next_back().unwrap_or(&[]), &reading),
                    Fold::All => {
                        let merged = row.map(|row| row.merge(self.range.clone(), &self.steps, &ops, index, &output.constants));
                        (ops.output)(merged.as_deref().unwrap_or(&[]), &reading)
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

/// Finds the tiles that a group of features reads.
fn hold<'a>(
    plan: &'a Plan,
    group: &Group,
    entity: Option<&'a mut Entity>,
    periods: &mut [Periods],
    at: EventTime,
    watermark: Option<EventTime>,
    cache_from: usize,
) -> Held<'a> {
    let (level, periods) = (&plan.levels[group.level], &mut periods[group.level]);
    let mut held = Held { row: None, range: 0..0, steps: Steps::default(), span: level.tiling.span(group.extent, at, periods) };
    let Some(entity) = entity else { return held };
    let row = entity.row(plan, group.level);
    let (first, last) = level.tiling.tiles(group.extent, at, periods);
    let admitted = watermark.map_or(i64::MIN, |w| level.tiling.tiles(group.extent, w - plan.lateness, periods).0);
    held.range = row.range(first.max(admitted), last);
    match group.extent {
        Extent::Latest(n) => held.range.start = held.range.end.saturating_sub(n),
        Extent::Session { gap, .. } => held.range = row.session(held.range.clone(), gap, at.0),
        _ => {}
    }
    let cached = level.block > 0 && held.range.len() >= cache_from;
    if cached {
        entity.fold_blocks(plan, group.level);
    }
    let row = entity.row(plan, group.level);
    held.steps = row.steps(held.range.clone(), cached);
    held.row = Some(row);
    held
}

/// Whether an entity whose newest event is `last` is forgotten at a moment.
fn expired(plan: &Plan, last: EventTime, at: EventTime, watermark: Option<EventTime>) -> bool {
    let Some(ttl) = plan.ttl else { return false };
    let end = last + ttl;
    end < at || watermark.is_some_and(|w| end < w - plan.lateness)
}

/// Whether anything of an entity may still be seen: what has passed may or may not have been dropped yet.
fn alive(plan: &Plan, entity: &Entity, watermark: EventTime, bounds: &[i64], periods: &mut [Periods]) -> bool {
    match plan.ttl {
        // Its newest event decides when it begins anew, whether any window holds that event or not.
        Some(ttl) => entity.last + ttl >= watermark - plan.lateness,
        None => entity.is_alive(plan, bounds, periods),
    }
}

/// Whether a row of this time is still part of any window.
fn admitted(plan: &Plan, time: EventTime, bounds: &[i64], periods: &mut [Periods]) -> bool {
    plan.levels.iter().zip(periods).zip(bounds).any(|((l, periods), bound)| l.tiling.tile(time, periods) >= *bound)
}

impl ViewState {
    fn find(&mut self, plan: &Plan, key: &EntityKey) -> Option<usize> {
        match self.index.find(hash(key), |&i| self.entities[i as usize].key == *key) {
            Some(&place) => {
                self.used(place as usize);
                Some(place as usize)
            }
            None => self.load(plan, key),
        }
    }

    fn find_or_add(&mut self, plan: &Plan, key: EntityKey, time: EventTime) -> usize {
        if let Some(place) = self.find(plan, &key) {
            return place;
        }
        let place = self.entities.len();
        let entities = &self.entities;
        self.index.insert_unique(hash(&key), place as u32, |&i| hash(&entities[i as usize].key));
        self.entities.push(Entity::new(plan, key, time));
        self.added(place);
        place
    }

    /// `look` is told what is known of the values.
    #[allow(clippy::too_many_arguments, reason = "the parts of an engine and of a question")]
    fn read(
        &mut self,
        plan: &Plan,
        key: &EntityKey,
        at: EventTime,
        watermark: Option<EventTime>,
        cache_from: usize,
        out: &mut [Value],
        mut look: Option<&mut Known>,
    ) {
        // Without an event there is no entity, whatever a damaged state says.
        let place = watermark.and_then(|_| self.find(plan, key)).filter(|&place| !expired(plan, self.entities[place].last, at, watermark));
        let mut entity = place.map(|place| &mut self.entities[place]);
        let last = entity.as_deref().map(|e| e.last);
        if let (Some(few), Some(watermark)) = (entity.as_deref().filter(|e| e.kept_events().is_some()), watermark) {
            let bounds = self.bounds.at(plan, watermark, &mut self.periods);
            let unfolded = self.unfolded.get_or_insert_with(|| Entity::with_tiles(plan, EntityKey::Bool(false), at));
            unfolded.unfold_from(plan, few, &bounds);
            entity = Some(unfolded);
        }
        for group in &plan.groups {
            let held = hold(plan, group, entity.as_deref_mut(), &mut self.periods, at, watermark, cache_from);
            for output in &group.outputs {
                out[output.feature] = held.value(output, at);
            }
            if let Some(look) = &mut look {
                look.group(plan, group, &held, last, at, watermark, &mut self.periods);
            }
        }
        if let Some(look) = look {
            look.derived(plan);
        }
        let first = out.len() - plan.derived.len();
        for (i, derived) in plan.derived.iter().enumerate() {
            let value = match derived.expr.eval(&out[..first + i]) {
                Value::Float(x) if !x.is_finite() => Value::Null,
                value => value,
            };
            out[first + i] = match &derived.default {
                Some(default) if value.is_null() => default.clone(),
                _ => value,
            };
        }
    }

    fn update(&mut self, plan: &Plan, event: &Event, row: &[Value], watermark: EventTime, update: &mut Update) {
        let deleted = event.operation == Operation::Delete;
        let mut named = None;
        // Of a table whose rows the view no longer follows.
        if deleted && plan.key.is_none() {
            self.filtered += 1;
            update.filtered += 1;
            return;
        }
        if let Some(columns) = &plan.key {
            let Some(name) = EntityKey::from_row(row, columns) else {
                self.no_key += 1;
                update.no_key += 1;
                return;
            };
            if let Some((offset, time, old)) = self.table.take(&name) {
                let bounds = self.bounds(plan, watermark);
                // What no window holds any more may be swept already: it is as if it were not there.
                if admitted(plan, time, &bounds, &mut self.periods) {
                    let mut row = vec![Value::Null; plan.width];
                    plan.stored.iter().zip(old).for_each(|(slot, value)| row[*slot] = value);
                    self.retract(plan, offset, time, &row, &bounds);
                    self.retracted += 1;
                    update.retracted += 1;
                }
            }
            if deleted {
                self.applied += 1;
                update.applied += 1;
                return;
            }
            named = Some(name);
        }
        if self.apply(plan, event, row, watermark, update)
            && let Some(name) = named
        {
            let stored = plan.stored.iter().map(|slot| row.get(*slot).cloned().unwrap_or_default()).collect();
            self.table.put(name, event.offset, event.time, stored);
            let bounds = self.bounds(plan, watermark);
            let periods = &mut self.periods;
            self.table.sweep(|time| admitted(plan, time, &bounds, periods));
        }
    }

    fn bounds(&mut self, plan: &Plan, watermark: EventTime) -> SmallVec<[i64; 8]> {
        self.bounds.at(plan, watermark, &mut self.periods)
    }

    /// Adds a row; false: it is no part of the view.
    fn apply(&mut self, plan: &Plan, event: &Event, row: &[Value], watermark: EventTime, update: &mut Update) -> bool {
        let time = event.time;
        if let Some(filter) = &plan.filter
            && !filter.holds(row)
        {
            self.filtered += 1;
            update.filtered += 1;
            return false;
        }
        let Some(key) = EntityKey::from_row(row, &plan.entity_slots) else {
            self.no_key += 1;
            update.no_key += 1;
            return false;
        };
        let bounds = self.bounds(plan, watermark);
        let tiles: SmallVec<[i64; 8]> =
            plan.levels.iter().zip(&mut self.periods).map(|(l, periods)| l.tiling.tile(time, periods)).collect();
        if tiles.iter().zip(&bounds).all(|(tile, bound)| tile < bound) {
            self.late += 1;
            update.late += 1;
            return false;
        }
        self.applied += 1;
        update.applied += 1;
        self.busiest.take(&key);
        let inputs = Inputs::new(&plan.shared, event.offset, time, row);
        // A level of the newest n events that pass takes no other, and an entity of nothing else would never be forgotten.
        let enters = |(l, level): (usize, &LevelPlan)| tiles[l] >= bounds[l] && (level.latest().is_none() || inputs.passes(level.filter));
        if plan.ttl.is_none() && !plan.levels.iter().enumerate().any(enters) {
            return true;
        }
        let before = self.entities.len();
        let place = self.find_or_add(plan, key, time);
        // Two looks for a new entity: with one, the sweep would never come round while every event brings a new one.
        self.unswept += if self.entities.len() > before { 2 * EVENTS_PER_LOOK } else { 1 };
        let entity = &mut self.entities[place];
        // What would be forgotten if it were looked at is forgotten, so that when it is looked at leaves no trace.
        if expired(plan, entity.last, time, Some(watermark)) || !alive(plan, entity, watermark, &bounds, &mut self.periods) {
            entity.begin(plan, time);
        }
        entity.last = entity.last.max(time);
        entity.apply(plan, &tiles, &bounds, &inputs);
        self.changed(place);
        while self.unswept >= EVENTS_PER_LOOK {
            self.unswept -= EVENTS_PER_LOOK;
            self.sweep_one(plan, &bounds, watermark);
        }
        true
    }

    /// Takes a row back that was added before.
    fn retract(&mut self, plan: &Plan, offset: Offset, time: EventTime, row: &[Value], bounds: &[i64]) {
        let Some(place) = EntityKey::from_row(row, &plan.entity_slots).and_then(|key| self.find(plan, &key)) else { return };
        let inputs = Inputs::new(&plan.shared, offset, time, row);
        let tiles: SmallVec<[i64; 8]> =
            plan.levels.iter().zip(&mut self.periods).map(|(l, periods)| l.tiling.tile(time, periods)).collect();
        self.entities[place].retract(plan, &tiles, bounds, &inputs);
        self.changed(place);
    }

    /// Looks at one more entity, so that those without events are forgotten too, at a bounded cost per event.
    fn sweep_one(&mut self, plan: &Plan, bounds: &[i64], watermark: EventTime) {
        if self.sweep >= self.entities.len() {
            self.sweep = 0;
        }
        let Some(entity) = self.entities.get_mut(self.sweep) else { return };
        if alive(plan, entity, watermark, bounds, &mut self.periods) {
            entity.prune(plan, bounds, &mut self.periods);
            self.sweep += 1;
        } else {
            self.remove(self.sweep);
        }
    }

    fn remove(&mut self, place: usize) {
        self.removed(place);
        self.take_out(place);
    }

    /// Takes an entity out of memory.
    fn take_out(&mut self, place: usize) {
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
        self.moved(place);
    }

    fn stats(&self, view: &View) -> ViewStats {
        let plan = &view.plan;
        ViewStats {
            view: plan.name.clone(),
            entities: self.count(),
            in_memory: self.entities.len(),
            tiles: self.entities.iter().map(|e| e.tiles(plan)).sum(),
            state_bytes: self.entities.iter().map(Entity::bytes).sum::<usize>() + self.index.capacity() * 5 + self.table.bytes(),
            late: self.late,
            no_key: self.no_key,
            filtered: self.filtered,
            retracted: self.retracted,
            rows: self.table.len(),
            heaviest: heavy::heaviest(self.entities.iter().map(|e| (&e.key, e.bytes()))),
            busiest: self.busiest.told(),
        }
    }
}

/// What the columns' filters and arguments make of one event, computed once.
struct Inputs<'a> {
    offset: Offset,
    time: EventTime,
    passed: SmallVec<[bool; 16]>,
    args: SmallVec<[Cow<'a, Value>; 8]>,
}

static PRESENT: Value = Value::Bool(true);

impl<'a> Inputs<'a> {
    fn new(shared: &'a Shared, offset: Offset, time: EventTime, row: &'a [Value]) -> Inputs<'a> {
        Inputs {
            offset,
            time,
            passed: shared.filters.iter().map(|f| f.holds(row)).collect(),
            args: shared
                .args
                .iter()
                .map(|a| match a.eval_ref(row) {
                    // An infinity would stay in a sum for the whole window: it counts as missing.
                    value if matches!(*value, Value::Float(x) if !x.is_finite()) => Cow::Owned(Value::Null),
                    value => value,
                })
                .collect(),
        }
    }

    fn passes(&self, filter: Option<usize>) -> bool {
        filter.is_none_or(|f| self.passed[f])
    }

    /// What a state is given of the event; none: nothing.
    fn get<'f>(&'f self, feed: &'f Feed) -> Option<Input<'f>> {
        if !self.passes(feed.filter) {
            return None;
        }
        let value = |arg: Option<usize>| match arg {
            None => Some(&PRESENT),
            Some(a) => Some(&*self.args[a]).filter(|v| !v.is_null()),
        };
        let first = value(feed.arg)?;
        let other = if feed.other.is_some() { value(feed.other)? } else { first };
        Some(Input { offset: self.offset, time: self.time, value: first, other, constants: &feed.constants })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ColumnSpec, ViewSpec, compile_view};
    use kilter_core::{DataType, Operation, Schema, Span};
    use kilter_stats::Rng;
    use proptest::prelude::*;

    fn engine(cache_from: usize) -> Engine {
        let aggregates = [
            "sum(x)",
            "mean(x)",
            "stddev(x)",
            "min(x)",
            "count(x)",
            "last(x)",
            "first(x)",
            "time_since_last()",
            "last(s)",
            "distinct(x)",
            "quantile(x, 0.3)",
            "sum(x) by s",
        ];
        let schema = Schema::new([("k", DataType::Int64), ("x", DataType::Float64), ("s", DataType::String)]);
        let view = compile_view(&ViewSpec {
            columns: (0..aggregates.len())
                .map(|i| ColumnSpec { name: format!("f{i}"), text: format!("{} over 40s, 150s hop 1s", aggregates[i]), default: None })
                .collect(),
            ..ViewSpec::new("v", SourceId(0), schema, &["k"], Span(20_000_000))
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
                let event = Event { source: SourceId(0), offset: 0, time: EventTime(now - back), arrived: EventTime(0), id: None, operation: Operation::Upsert, row, extra: None, origin: None };
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
