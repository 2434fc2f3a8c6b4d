//! Training sets: features as of each row of a *spine*, by the engine of the live path.
//!
//! A spine row names a moment and, in its columns, entities. [`SetPlan`] says what is read there; [`Shard`] keeps the state of one part of
//! the entities and reads them; [`ByTime`] and [`in_log_order`] say when: every row is read once the engine has seen what counts for it and
//! nothing else. The pieces that the shards give of one row meet again in [`SetPlan::join`].

use std::hash::BuildHasher;
use std::iter::Peekable;
use std::sync::Arc;

use kilter_core::{DataType, EntityKey, Event, EventTime, SourceId, Value};
use kilter_features::expr::Expr;
use kilter_features::{Engine, RestoreError, View};

use crate::{ContextPlan, Lookup, Plan};

/// What is read at each row of a spine.
#[derive(Clone, Debug)]
pub struct SetPlan {
    /// Columns of a row that the context calls its own, before all features; more may follow them (see [`SpineRow`]).
    own: usize,
    /// Slots of the context: its own columns and all features in reach.
    width: usize,
    /// Only the views that a column reads.
    reaches: Vec<Reach>,
    pub columns: Vec<OutColumn>,
    /// Whether what becomes known in a row's own instant counts at it; for a row that is an event of the log: whether that event does.
    pub include_self: bool,
}

/// One view and where a row's features of it go.
#[derive(Clone, Debug)]
struct Reach {
    view: View,
    /// The views that it reads, directly or not.
    needs: Vec<View>,
    /// Where the entity stands in the rows of the view's source.
    entity: Vec<usize>,
    /// Within an engine of this view, and behind it those it reads.
    lookup: Lookup,
    /// Positions in the view's features that a column reads, ascending.
    used: Vec<usize>,
}

/// A column of the training set.
#[derive(Clone, Debug)]
pub struct OutColumn {
    pub name: String,
    pub data_type: DataType,
    pub from: From,
}

/// Where a column comes from.
#[derive(Clone, Debug)]
pub enum From {
    /// A slot as it is.
    Slot(usize),
    /// An expression over the slots.
    Expr(Expr),
}

/// A moment to be read at.
#[derive(Clone, Debug, PartialEq)]
pub struct SpineRow {
    /// Its place in the training set, from 0.
    pub number: u64,
    pub time: EventTime,
    /// The columns of the context's source; after them any others, which take the slots after the features.
    pub row: Vec<Value>,
}

/// What comes next for every shard.
#[derive(Clone, Debug)]
pub enum Step {
    Event(Event),
    Row(SpineRow),
}

impl SetPlan {
    /// What `columns`, over the slots of `context` and the row's further columns after them, need of the project's views.
    pub fn new(plan: &Plan, context: &ContextPlan, own: usize, columns: Vec<OutColumn>, include_self: bool) -> SetPlan {
        let mut read: Vec<usize> = columns.iter().flat_map(|c| c.from.slots().iter().copied()).collect();
        read.sort_unstable();
        read.dedup();
        let reaches = context
            .lookups
            .iter()
            .filter_map(|lookup| {
                let view = &plan.views[lookup.view];
                let slots = lookup.first_slot..lookup.first_slot + view.features().len();
                let used: Vec<usize> = read.iter().filter(|s| slots.contains(s)).map(|s| s - lookup.first_slot).collect();
                let schema = &plan.sources[usize::from(view.source().0)].schema;
                let entity = view.entity().iter().filter_map(|column| schema.index(column)).collect();
                let needs: Vec<View> = plan.with_needs([lookup.view])[1..].iter().map(|v| plan.views[*v].clone()).collect();
                (!used.is_empty()).then(|| Reach { view: view.clone(), needs, entity, lookup: Lookup { view: 0, ..lookup.clone() }, used })
            })
            .collect();
        SetPlan { own, width: context.width, reaches, columns, include_self }
    }

    /// The views that are read, each with the columns of a spine row that hold its key.
    pub fn views(&self) -> impl Iterator<Item = (&View, &[usize])> {
        self.reaches.iter().map(|reach| (&reach.view, reach.lookup.key.as_slice()))
    }

    /// The sources whose events count for what is read.
    pub fn sources(&self) -> impl Iterator<Item = SourceId> {
        self.reaches.iter().flat_map(|reach| std::iter::once(&reach.view).chain(&reach.needs)).map(View::source)
    }

    /// How many values a shard gives for the view at this position.
    pub fn piece_len(&self, view: usize) -> Option<usize> {
        self.reaches.get(view).map(|reach| reach.used.len())
    }

    /// Starts the slots of a row: its columns in place, no features yet.
    pub fn start(&self, row: Vec<Value>, slots: &mut Vec<Value>) {
        slots.clear();
        slots.extend(row);
        let further = slots.split_off(self.own.min(slots.len()));
        slots.resize(self.width, Value::Null);
        slots.extend(further);
    }

    /// Puts the values that a shard gave for a view into their slots.
    pub fn join(&self, view: usize, values: impl IntoIterator<Item = Value>, slots: &mut [Value]) {
        let Some(reach) = self.reaches.get(view) else { return };
        for (feature, value) in reach.used.iter().zip(values) {
            slots[reach.lookup.first_slot + feature] = value;
        }
    }

    /// The row of the training set.
    pub fn finish(&self, slots: &[Value], out: &mut Vec<Value>) {
        out.clear();
        out.extend(self.columns.iter().map(|column| match &column.from {
            From::Slot(slot) => slots.get(*slot).cloned().unwrap_or_default(),
            From::Expr(expr) => expr.eval(slots),
        }));
    }
}

impl Reach {
    fn views(&self) -> Vec<View> {
        std::iter::once(&self.view).chain(&self.needs).cloned().collect()
    }
}

impl From {
    fn slots(&self) -> &[usize] {
        match self {
            From::Slot(slot) => std::slice::from_ref(slot),
            From::Expr(expr) => expr.slots(),
        }
    }
}

/// The state of a part of the entities of every view: those whose key falls to it. All shards are fed the same steps.
pub struct Shard {
    plan: Arc<SetPlan>,
    number: u64,
    of: u64,
    /// One per view: an event may fall to one shard for one view and to another for the next.
    engines: Vec<Engine>,
    values: Vec<Value>,
}

impl Shard {
    pub fn new(plan: Arc<SetPlan>, number: u64, of: u64) -> Shard {
        let engines = plan.reaches.iter().map(|reach| Engine::new(reach.views())).collect();
        Shard { plan, number, of, engines, values: Vec::new() }
    }

    /// Takes in the next event.
    pub fn feed(&mut self, event: &Event) {
        for (reach, engine) in self.plan.reaches.iter().zip(&mut self.engines) {
            if !reach.needs.is_empty() {
                // What it reads belongs to other entities: one shard has all of them, and the others nothing.
                if self.number == 0 {
                    engine.update(event);
                }
                continue;
            }
            if reach.view.source() != event.source {
                continue;
            }
            // A changing row may leave one entity for another: every shard has to see it go.
            if self.of == 1
                || reach.view.changes()
                || EntityKey::from_row(&event.row, &reach.entity).is_none_or(|key| owner(&key, self.of) == self.number)
            {
                engine.update(event);
            } else if engine.watermark(event.source) < Some(event.time) {
                // Another shard's entity moves the source's watermark all the same; a row that names no entity does nothing else.
                let blank = Event { row: vec![Value::Null; event.row.len()], id: None, extra: None, ..*event };
                engine.update(&blank);
            }
        }
    }

    /// Gives what this shard knows of a row: for each view whose entity falls to it, the view's position and the values used.
    pub fn read(&mut self, row: &SpineRow, mut give: impl FnMut(usize, &[Value])) {
        for (view, (reach, engine)) in self.plan.reaches.iter().zip(&mut self.engines).enumerate() {
            // A row that names no entity has no features: its slots stay null.
            let Some(key) = EntityKey::from_row(&row.row, &reach.lookup.key) else { continue };
            let owner = if reach.needs.is_empty() { owner(&key, self.of) } else { 0 };
            if self.of > 1 && owner != self.number {
                continue;
            }
            self.values.clear();
            reach.lookup.read(&row.row, row.time, engine, &mut self.values);
            for (to, from) in reach.used.iter().enumerate() {
                self.values.swap(to, *from);
            }
            give(view, &self.values[..reach.used.len()]);
        }
    }

    /// The whole state.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for engine in &self.engines {
            let start = bytes.len();
            bytes.extend_from_slice(&[0; 8]);
            engine.snapshot(&mut bytes);
            let length = (bytes.len() - start - 8) as u64;
            bytes[start..start + 8].copy_from_slice(&length.to_le_bytes());
        }
        bytes
    }

    /// Takes up a snapshot of the shard of this number, made under the same plan.
    pub fn restore(plan: Arc<SetPlan>, number: u64, of: u64, mut bytes: &[u8]) -> Result<Shard, RestoreError> {
        let mut engines = Vec::with_capacity(plan.reaches.len());
        for reach in &plan.reaches {
            let (length, rest) = bytes.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
            let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
            // Cut short, the engine is handed too little and says so.
            let (own, rest) = rest.split_at_checked(length).unwrap_or((&[], &[]));
            engines.push(Engine::restore(reach.views(), own)?);
            bytes = rest;
        }
        Ok(Shard { plan, number, of, engines, values: Vec::new() })
    }
}

/// The shard that an entity falls to. Another hash than the engine's own, whose table would else use a part of its places only.
fn owner(key: &EntityKey, of: u64) -> u64 {
    foldhash::fast::FixedState::with_seed(0x7368_6172_6473).hash_one(key) % of
}

/// The steps of an event of the log that is observed, or not: as the live path goes.
pub fn in_log_order(event: Event, row: Option<SpineRow>, include_self: bool) -> impl Iterator<Item = Step> {
    let (before, after) = if include_self { (None, row) } else { (row, None) };
    before.map(Step::Row).into_iter().chain([Step::Event(event)]).chain(after.map(Step::Row))
}

/// Rows by time among events by the moment each became known: a row comes once all that was known before its moment has come, and with
/// `include_self` what became known in the very moment too.
pub struct ByTime<E: Iterator, R: Iterator> {
    events: Peekable<E>,
    rows: Peekable<R>,
    include_self: bool,
}

impl<X, E, R> ByTime<E, R>
where
    E: Iterator<Item = Result<(EventTime, Event), X>>,
    R: Iterator<Item = Result<SpineRow, X>>,
{
    /// Both must come in the order of their times.
    pub fn new(events: E, rows: R, include_self: bool) -> ByTime<E, R> {
        ByTime { events: events.peekable(), rows: rows.peekable(), include_self }
    }

    /// Whether no event is left.
    pub fn events_are_over(&mut self) -> bool {
        self.events.peek().is_none()
    }
}

impl<X, E, R> Iterator for ByTime<E, R>
where
    E: Iterator<Item = Result<(EventTime, Event), X>>,
    R: Iterator<Item = Result<SpineRow, X>>,
{
    /// Beside the step, for an event, the moment it became known.
    type Item = Result<(Step, EventTime), X>;

    fn next(&mut self) -> Option<Self::Item> {
        let event_first = match (self.events.peek(), self.rows.peek()) {
            // Nothing is left to be read: later events change no row.
            (_, None) => return None,
            (None, Some(_)) => false,
            (Some(Err(_)), _) => true,
            (_, Some(Err(_))) => false,
            (Some(Ok((known, _))), Some(Ok(row))) => *known < row.time || (self.include_self && *known == row.time),
        };
        if event_first {
            return self.events.next().map(|event| event.map(|(known, event)| (Step::Event(event), known)));
        }
        let row = self.rows.next()?;
        Some(row.map(|row| {
            let time = row.time;
            (Step::Row(row), time)
        }))
    }
}
