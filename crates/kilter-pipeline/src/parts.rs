//! The state of a long history, made in parts by many machines and put together on one.
//!
//! Each part holds all there is of some entities. [`StatePass`] says which events must be brought together by which columns, [`StateSweep`] takes
//! them in, entity after entity, and gives parts; [`Assembly`] makes the pipeline of all parts: the one that had taken in all events itself, in
//! the order of their times, but for what models, monitors and ids would have remembered.

use std::fmt;
use std::sync::Arc;

use kilter_core::record::Cursor;
use kilter_core::{Event, EventTime, Offset};
use kilter_features::{Engine, View};

use crate::training_set::{Feed, Open, Unsorted, cannot_be_divided};
use crate::{Pipeline, Plan};

/// Views whose state is made of the same events, brought together in the same way.
#[derive(Clone, Debug)]
pub struct StatePass {
    /// Positions in the plan, and the views themselves.
    places: Vec<usize>,
    views: Vec<View>,
    feeds: Vec<Feed>,
    whole: bool,
}

impl StatePass {
    /// All that a plan's state takes, one after the other in any order.
    pub fn all(plan: &Plan) -> Vec<StatePass> {
        let entity = |v: &usize| {
            let view = &plan.views[*v];
            let schema = &plan.sources[usize::from(view.source().0)].schema;
            view.entity().iter().filter_map(|column| schema.index(column)).collect::<Vec<usize>>()
        };
        let undivided = plan.with_needs((0..plan.views.len()).filter(|v| cannot_be_divided(&plan.views[*v])));
        let mut groups: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
        for v in (0..plan.views.len()).filter(|v| !undivided.contains(v)) {
            let same = |(views, key): &&mut (Vec<usize>, Vec<usize>)| {
                plan.views[views[0]].source() == plan.views[v].source() && *key == entity(&v)
            };
            match groups.iter_mut().find(same) {
                Some((views, _)) => views.push(v),
                None => groups.push((vec![v], entity(&v))),
            }
        }
        let whole = (!undivided.is_empty()).then_some((undivided, Vec::new()));
        whole.into_iter().chain(groups).map(|(places, entity)| StatePass::new(plan, places, &entity)).collect()
    }

    /// Without columns for an entity: undivided.
    fn new(plan: &Plan, places: Vec<usize>, entity: &[usize]) -> StatePass {
        let views: Vec<View> = places.iter().map(|v| plan.views[*v].clone()).collect();
        let feeds = Feed::of(views.iter().map(|view| (0, view, entity)));
        StatePass { places, views, feeds, whole: entity.is_empty() }
    }

    pub fn feeds(&self) -> &[Feed] {
        &self.feeds
    }

    /// Whether all events must come to one place.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    fn engine(&self) -> Engine {
        Engine::new(self.views.clone())
    }
}

/// One pass at work. Events come by entity, and within one in the order of their times; what names no entity comes too, and is counted.
pub struct StateSweep {
    pass: StatePass,
    open: Open,
    /// Of the entity at hand.
    engine: Engine,
    /// Of those before it, since the last part.
    closed: Engine,
    bytes: usize,
    most: usize,
}

impl StateSweep {
    /// `most`: bytes of state from which on a part is given.
    pub fn new(pass: StatePass, most: usize) -> StateSweep {
        StateSweep { open: Open::default(), engine: pass.engine(), closed: pass.engine(), bytes: 0, most, pass }
    }

    /// Takes in an event of a feed; gives a part when there is enough for one. The event's offset does not matter.
    ///
    /// Errors: what came of the entity before is later.
    pub fn event(&mut self, feed: usize, mut event: Event) -> Result<Option<Vec<u8>>, Unsorted> {
        let mut part = None;
        if self.open.enter(self.pass.feeds[feed].key(&event.row), event.time)? {
            self.close();
            part = (self.bytes >= self.most).then(|| self.part());
        }
        event.offset = self.open.next_offset();
        self.engine.update(&event);
        Ok(part)
    }

    /// The last part.
    pub fn finish(mut self) -> Vec<u8> {
        self.close();
        self.part()
    }

    fn close(&mut self) {
        let mut engine = std::mem::replace(&mut self.engine, self.pass.engine());
        self.bytes += engine.stats().iter().map(|view| view.state_bytes).sum::<usize>();
        for view in 0..self.pass.views.len() {
            let source = self.pass.views[view].source();
            if let Some(time) = engine.watermark(source) {
                self.closed.advance(source, time);
            }
            // Entities come one after the other, so that no two engines hold the same.
            let _ = self.closed.absorb(view, &mut engine, view);
        }
    }

    /// How many events each view applied, then its state.
    fn part(&mut self) -> Vec<u8> {
        let engine = std::mem::replace(&mut self.closed, self.pass.engine());
        self.bytes = 0;
        let mut bytes: Vec<u8> = engine.counts().flat_map(|counts| counts.applied.to_le_bytes()).collect();
        engine.snapshot(&mut bytes);
        bytes
    }
}

/// Why parts make no state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartError(pub String);

impl fmt::Display for PartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PartError {}

/// What there was of a source, counted beside the parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceTotal {
    pub events: u64,
    /// The latest event time; none: there was no event.
    pub latest: Option<EventTime>,
}

/// Parts on their way to a pipeline.
pub struct Assembly {
    plan: Arc<Plan>,
    passes: Vec<StatePass>,
    engine: Engine,
}

impl Assembly {
    pub fn new(plan: Arc<Plan>) -> Assembly {
        Assembly { passes: StatePass::all(&plan), engine: Engine::new(plan.views.clone()), plan }
    }

    /// Takes a part of a pass, by its position among [`StatePass::all`].
    ///
    /// Errors: a damaged part, one of other definitions, or one whose entities came with another part.
    pub fn add(&mut self, pass: usize, part: &[u8]) -> Result<(), PartError> {
        let error = |e: &dyn fmt::Display| PartError(format!("a part of pass {pass} cannot be used: {e}"));
        let of = self.passes.get(pass).ok_or_else(|| error(&"the definitions have no such pass"))?;
        let mut cursor = Cursor::new(part);
        let applied = of.views.iter().map(|_| cursor.u64()).collect::<Result<Vec<u64>, _>>().map_err(|e| error(&e.detail))?;
        let mut engine = Engine::restore(of.views.clone(), cursor.rest).map_err(|e| error(&e))?;
        engine.resume_counts(&applied);
        for (from, to) in of.places.iter().enumerate() {
            self.engine.absorb(*to, &mut engine, from).map_err(|e| error(&e))?;
        }
        Ok(())
    }

    /// The pipeline after all events, at the offset that is their number. `totals`: by source.
    ///
    /// Errors: a view was not given each event of its source once, so parts are missing or too many.
    pub fn finish(mut self, totals: &[SourceTotal]) -> Result<Pipeline, PartError> {
        for (view, counts) in self.plan.views.iter().zip(self.engine.counts()) {
            let source = usize::from(view.source().0);
            let (had, want) = (counts.events(), totals.get(source).map_or(0, |total| total.events));
            if had != want {
                let name = &self.plan.sources[source].name;
                return Err(PartError(format!("view `{}` was given {had} events, and source `{name}` has {want}", view.name())));
            }
        }
        for (source, total) in totals.iter().enumerate() {
            if let Some(latest) = total.latest {
                self.engine.advance(kilter_core::SourceId(source as u16), latest);
            }
        }
        let mut pipeline = Pipeline::with_engine(self.plan, self.engine);
        pipeline.next = totals.iter().map(|total| total.events).sum::<Offset>();
        pipeline.now = totals.iter().filter_map(|total| total.latest).max();
        for (tally, total) in pipeline.tally.iter_mut().zip(totals) {
            tally.events = total.events;
        }
        Ok(pipeline)
    }
}
