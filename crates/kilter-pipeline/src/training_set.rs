//! Training sets: features as of each row of a *spine*, by the engine of the live path.
//!
//! A spine row names a moment and, in its columns, entities. [`SetPlan`] says what is read there; [`ByTime`] and [`in_log_order`] say when:
//! every row is read once the engine has seen what counts for it and nothing else. [`Router`] says which part of the entities a step
//! concerns, so that one part after the other can be worked through; [`Shard`] keeps the state of one part and reads it. The pieces that
//! the parts give of one row meet again in [`SetPlan::join`].

mod sweep;

use std::hash::BuildHasher;
use std::iter::Peekable;
use std::sync::Arc;

use kilter_core::{DataType, EntityKey, Event, EventTime, Operation, SourceId, Value};
use kilter_features::expr::Expr;
use kilter_features::{Engine, View};

use crate::{ContextPlan, Lookup, Plan};

pub(crate) use sweep::Open;
pub use sweep::{Feed, Pass, Sweep, Unsorted};

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
    /// Where the entity stands in the rows of the view's source, and how many columns those have.
    entity: Vec<usize>,
    width: usize,
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
                let width = schema.len();
                (!used.is_empty()).then(|| Reach {
                    view: view.clone(),
                    needs,
                    entity,
                    width,
                    lookup: Lookup { view: 0, ..lookup.clone() },
                    used,
                })
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

    fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for (position, reach) in self.reaches.iter().enumerate() {
            let whole = cannot_be_divided(&reach.view);
            let same = |group: &&mut Group| !whole && !group.whole && self.reaches[group.reaches[0]].lookup.key == reach.lookup.key;
            match groups.iter_mut().find(same) {
                Some(group) => group.reaches.push(position),
                None => groups.push(Group { reaches: vec![position], whole }),
            }
        }
        groups
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
    fn views_ref(&self) -> impl Iterator<Item = &View> {
        std::iter::once(&self.view).chain(&self.needs)
    }

    fn views(&self) -> Vec<View> {
        self.views_ref().cloned().collect()
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

/// Whether a view's entities must stay together: what it looks up belongs to other entities, or a changing row may leave one for another.
pub(crate) fn cannot_be_divided(view: &View) -> bool {
    view.needs().next().is_some() || view.rows_move()
}

/// Views whose entities are divided together, because a row names them by the same columns.
#[derive(Clone, Debug, PartialEq)]
struct Group {
    /// Positions in the plan's reaches.
    reaches: Vec<usize>,
    /// See [`cannot_be_divided`].
    whole: bool,
}

/// Tells for every step which parts of the entities it concerns.
pub struct Router {
    plan: Arc<SetPlan>,
    groups: Vec<Group>,
    /// Parts that a group is divided into.
    parts: u32,
    /// The largest event time so far, by source.
    watermarks: Vec<Option<EventTime>>,
}

impl Router {
    pub fn new(plan: Arc<SetPlan>, parts: u32) -> Router {
        let groups = plan.groups();
        Router { plan, groups, parts: parts.max(1), watermarks: Vec::new() }
    }

    /// All parts of all groups; those that cannot be divided first.
    pub fn parts(&self) -> Vec<Part> {
        let of = |(group, g): (usize, &Group)| {
            (0..if g.whole { 1 } else { self.parts }).map(move |number| Part { group, number }).collect::<Vec<_>>()
        };
        let (whole, divided): (Vec<_>, Vec<_>) = self.groups.iter().enumerate().partition(|(_, group)| group.whole);
        whole.into_iter().chain(divided).flat_map(of).collect()
    }

    /// Names the parts that take in an event. With one of the past goes what its source's watermark had come to: the part has not seen all of
    /// its events.
    pub fn event(&mut self, event: &Event, mut to: impl FnMut(Part, Option<EventTime>)) {
        let source = usize::from(event.source.0);
        if self.watermarks.len() <= source {
            self.watermarks.resize(source + 1, None);
        }
        let before = self.watermarks[source].filter(|w| *w > event.time);
        self.watermarks[source] = before.or(Some(event.time));
        for (group, g) in self.groups.iter().enumerate() {
            let reaches = g.reaches.iter().map(|r| &self.plan.reaches[*r]);
            if g.whole {
                if reaches.flat_map(Reach::views_ref).any(|view| view.source() == event.source) {
                    to(Part { group, number: 0 }, None);
                }
                continue;
            }
            // Views over one source mostly agree on where their entity stands; where they do not, each has a part of its own to tell.
            let mut told: Option<u32> = None;
            let mut others: Vec<u32> = Vec::new();
            for reach in reaches.filter(|reach| reach.view.source() == event.source) {
                let Some(key) = EntityKey::from_row(&event.row, &reach.entity) else { continue };
                let number = part_of(hash(&key), self.parts);
                if told.is_none() {
                    told = Some(number);
                } else if told != Some(number) && !others.contains(&number) {
                    others.push(number);
                }
            }
            told.into_iter().chain(others).for_each(|number| to(Part { group, number }, before));
        }
    }

    /// Names the parts that a row is read from, with the watermarks of all sources.
    pub fn row(&self, row: &SpineRow, mut to: impl FnMut(Part, &[Option<EventTime>])) {
        for (group, g) in self.groups.iter().enumerate() {
            // A row that names no entity has no features: its slots stay null.
            let Some(key) = EntityKey::from_row(&row.row, self.key(group)) else { continue };
            let number = if g.whole { 0 } else { part_of(hash(&key), self.parts) };
            to(Part { group, number }, &self.watermarks);
        }
    }

    /// The columns of a row that name the entities of a group.
    pub fn key(&self, group: usize) -> &[usize] {
        &self.plan.reaches[self.groups[group].reaches[0]].lookup.key
    }

    /// The state of a part's entities, of those whose hash lies in the range.
    pub fn shard(&self, part: Part, range: Range) -> Shard {
        let group = self.groups[part.group].clone();
        let engines = group.reaches.iter().map(|r| Engine::new(self.plan.reaches[*r].views())).collect();
        Shard { plan: Arc::clone(&self.plan), group, number: part.number, parts: self.parts, range, engines, values: Vec::new() }
    }
}

/// One part of the entities of a group of views.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Part {
    pub group: usize,
    pub number: u32,
}

/// Hashes of entities, by which a part is divided further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    from: u32,
    to: u32,
}

impl Range {
    pub const ALL: Range = Range { from: 0, to: u32::MAX };

    fn holds(&self, hash: u64) -> bool {
        (self.from..=self.to).contains(&(hash as u32))
    }

    /// None: there is nothing to divide.
    pub fn halves(&self) -> Option<[Range; 2]> {
        let middle = self.from + (self.to - self.from) / 2;
        (self.from < self.to).then_some([Range { from: self.from, to: middle }, Range { from: middle + 1, to: self.to }])
    }
}

/// The state of one part of the entities, or of some of them. It is fed what the [`Router`] names the part for.
pub struct Shard {
    plan: Arc<SetPlan>,
    group: Group,
    number: u32,
    parts: u32,
    range: Range,
    /// One per view: an event may fall to this part for one view and to another for the next.
    engines: Vec<Engine>,
    values: Vec<Value>,
}

impl Shard {
    /// Takes in an event; `before` is its source's watermark, where that is ahead of it.
    pub fn feed(&mut self, event: &Event, before: Option<EventTime>) {
        for (reach, engine) in self.group.reaches.iter().map(|r| &self.plan.reaches[*r]).zip(&mut self.engines) {
            if self.group.whole {
                engine.update(event);
                continue;
            }
            if reach.view.source() != event.source {
                continue;
            }
            let Some(hash) = EntityKey::from_row(&event.row, &reach.entity).map(|key| hash(&key)) else { continue };
            if part_of(hash, self.parts) == self.number && self.range.holds(hash) {
                reach.advance(engine, before);
                engine.update(event);
            }
        }
    }

    /// Gives what is known of a row whose entity is in the range: for each view its position and the values used. `watermarks` are those of all
    /// sources; a row needs no more columns than its key.
    pub fn read(&mut self, row: &SpineRow, watermarks: &[Option<EventTime>], mut give: impl FnMut(usize, &[Value])) {
        for (view, engine) in self.group.reaches.iter().zip(&mut self.engines) {
            let reach = &self.plan.reaches[*view];
            let Some(key) = EntityKey::from_row(&row.row, &reach.lookup.key) else { continue };
            if !self.group.whole {
                if !self.range.holds(hash(&key)) {
                    continue;
                }
                reach.advance(engine, watermarks.get(usize::from(reach.view.source().0)).copied().flatten());
            }
            reach.read(row, engine, &mut self.values);
            give(*view, &self.values);
        }
    }

    /// Bytes of state, about, and whether there would be less of it in a half of the range.
    pub fn size(&self) -> (usize, bool) {
        let stats = self.engines.iter().flat_map(Engine::stats);
        let (bytes, entities) = stats.fold((0, 0), |(bytes, most), view| (bytes + view.state_bytes, view.entities.max(most)));
        (bytes, !self.group.whole && entities > 1)
    }
}

impl Reach {
    /// The values that are used of the view, at a row.
    fn read(&self, row: &SpineRow, engine: &mut Engine, values: &mut Vec<Value>) {
        values.clear();
        self.lookup.read(&row.row, row.time, engine, values);
        for (to, from) in self.used.iter().enumerate() {
            values.swap(to, *from);
        }
        values.truncate(self.used.len());
    }

    /// Brings the source's watermark to what it was in the log: another part's entity moves it all the same. An event that names no entity does
    /// nothing else.
    fn advance(&self, engine: &mut Engine, watermark: Option<EventTime>) {
        let source = self.view.source();
        let Some(time) = watermark.filter(|w| engine.watermark(source) < Some(*w)) else { return };
        let row = vec![Value::Null; self.width];
        engine.update(&Event {
            source,
            offset: 0,
            time,
            arrived: time,
            id: None,
            operation: Operation::Upsert,
            row,
            extra: None,
            origin: None,
        });
    }
}

/// Another hash than the engine's own, whose table would else use a part of its places only.
fn hash(key: &EntityKey) -> u64 {
    foldhash::fast::FixedState::with_seed(0x7368_6172_6473).hash_one(key)
}

/// The upper half tells the part, the lower one the place in a part's range.
fn part_of(hash: u64, parts: u32) -> u32 {
    (hash >> 32) as u32 % parts
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
