//! A training set entity by entity, for where a sort brings the events and rows of each entity together: by entity, and within one by time.
//!
//! Only the state of the entity at hand is in memory, however many events it has, and a stretch of events may end anywhere. [`Pass`] says what
//! must be sorted by which columns; one pass for each way in which rows name entities. Views that cannot be divided take all their events as if
//! they were of one entity.

use std::fmt;
use std::sync::Arc;

use kilter_core::{EntityKey, Event, EventTime, SourceId, Value};
use kilter_features::{Engine, View};

use super::{Group, SetPlan, SpineRow};

/// What is read of one group of views.
#[derive(Clone, Debug)]
pub struct Pass {
    plan: Arc<SetPlan>,
    group: Group,
    feeds: Vec<Feed>,
}

/// The events of a source, by the columns that name their entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    pub source: SourceId,
    /// Empty: whatever they name, all go to one place.
    pub entity: Vec<usize>,
    /// Positions of the views' engines that take them.
    views: Vec<usize>,
}

impl Feed {
    /// Those of some views, each with the position of its engine and the columns of its entity.
    pub(crate) fn of<'a>(views: impl Iterator<Item = (usize, &'a View, &'a [usize])>) -> Vec<Feed> {
        let mut feeds: Vec<Feed> = Vec::new();
        for (engine, view, entity) in views {
            match feeds.iter_mut().find(|feed| feed.source == view.source() && feed.entity == entity) {
                Some(feed) if feed.views.contains(&engine) => {}
                Some(feed) => feed.views.push(engine),
                None => feeds.push(Feed { source: view.source(), entity: entity.to_vec(), views: vec![engine] }),
            }
        }
        feeds
    }

    /// The entity of one of its rows; none: it names none.
    pub(crate) fn key(&self, row: &[Value]) -> Option<EntityKey> {
        if self.entity.is_empty() { Some(ALL) } else { EntityKey::from_row(row, &self.entity) }
    }
}

/// The one entity that what cannot be divided is taken for.
const ALL: EntityKey = EntityKey::Bool(true);

impl SetPlan {
    /// What must be gone through, one pass after the other in any order.
    pub fn passes(self: &Arc<SetPlan>) -> Vec<Pass> {
        self.groups().into_iter().map(|group| Pass::new(Arc::clone(self), group)).collect()
    }
}

impl Pass {
    fn new(plan: Arc<SetPlan>, group: Group) -> Pass {
        let reaches = || group.reaches.iter().map(|r| &plan.reaches[*r]).enumerate();
        let feeds = match group.whole {
            // What a view needs lies in its own engine.
            true => Feed::of(reaches().flat_map(|(engine, reach)| reach.views_ref().map(move |view| (engine, view, [].as_slice())))),
            false => Feed::of(reaches().map(|(engine, reach)| (engine, &reach.view, reach.entity.as_slice()))),
        };
        Pass { plan, group, feeds }
    }

    pub fn feeds(&self) -> &[Feed] {
        &self.feeds
    }

    /// The columns of a spine row that name its entity.
    pub fn key(&self) -> &[usize] {
        &self.plan.reaches[self.group.reaches[0]].lookup.key
    }

    /// Whether all events and rows must come to one place.
    pub fn is_whole(&self) -> bool {
        self.group.whole
    }

    /// Positions of the views that are read, as [`SetPlan::join`] knows them.
    pub fn views(&self) -> &[usize] {
        &self.group.reaches
    }

    fn engines(&self) -> Vec<Engine> {
        self.group.reaches.iter().map(|r| Engine::new(self.plan.reaches[*r].views())).collect()
    }
}

/// What should have come before what came already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsorted {
    pub entity: String,
    pub before: EventTime,
    pub after: EventTime,
}

impl fmt::Display for Unsorted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "events and rows are not sorted: of entity {}, {} came before {}", self.entity, self.before, self.after)
    }
}

impl std::error::Error for Unsorted {}

/// The entity at hand.
#[derive(Default)]
pub(crate) struct Open {
    /// None: nothing came yet; inside, none: what names no entity.
    key: Option<Option<EntityKey>>,
    at: Option<EventTime>,
    events: u64,
}

impl Open {
    /// Goes on to a moment of an entity; whether it is another one than before.
    pub(crate) fn enter(&mut self, key: Option<EntityKey>, at: EventTime) -> Result<bool, Unsorted> {
        if self.key.as_ref() != Some(&key) {
            *self = Open { key: Some(key), at: Some(at), events: 0 };
            return Ok(true);
        }
        if let Some(before) = self.at.filter(|before| *before > at) {
            return Err(Unsorted { entity: key.map_or("(none)".into(), |key| key.to_string()), before, after: at });
        }
        self.at = Some(at);
        Ok(false)
    }

    /// Numbers the entity's events in their order, which is all that an offset tells of events of one entity.
    pub(crate) fn next_offset(&mut self) -> u64 {
        self.events += 1;
        self.events - 1
    }
}

/// One pass at work. Events and rows come by entity, and within one by the moment at which they are known or read.
pub struct Sweep {
    pass: Pass,
    open: Open,
    engines: Vec<Engine>,
    values: Vec<Value>,
}

impl Sweep {
    pub fn new(pass: Pass) -> Sweep {
        Sweep { pass, open: Open::default(), engines: Vec::new(), values: Vec::new() }
    }

    /// Takes in an event of a feed, known at a moment. Its offset does not matter: the order in which events come does.
    ///
    /// Errors: what came of the entity before is later.
    pub fn event(&mut self, feed: usize, known: EventTime, mut event: Event) -> Result<(), Unsorted> {
        let feed = &self.pass.feeds[feed];
        let Some(key) = feed.key(&event.row) else { return Ok(()) };
        if self.open.enter(Some(key), known)? {
            self.engines = self.pass.engines();
        }
        event.offset = self.open.next_offset();
        for view in &feed.views {
            self.engines[*view].update(&event);
        }
        Ok(())
    }

    /// Gives what is known of a row: for each view its position and the values used. A row that names no entity is given nothing.
    ///
    /// Errors: as [`Sweep::event`].
    pub fn row(&mut self, row: &SpineRow, mut give: impl FnMut(usize, &[Value])) -> Result<(), Unsorted> {
        let Some(key) = EntityKey::from_row(&row.row, self.pass.key()) else { return Ok(()) };
        if self.open.enter(Some(if self.pass.is_whole() { ALL } else { key }), row.time)? {
            self.engines = self.pass.engines();
        }
        for (view, engine) in self.pass.group.reaches.iter().zip(&mut self.engines) {
            self.pass.plan.reaches[*view].read(row, engine, &mut self.values);
            give(*view, &self.values);
        }
        Ok(())
    }
}
