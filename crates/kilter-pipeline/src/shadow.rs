//! A second opinion: the features of sampled entities, made from the log beside the live engine, and the difference between the two.
//!
//! A [`Shadow`] is fed every event of the log and keeps the entities of the sample only. Views that look others up and views over sources
//! whose rows change are kept whole: there an event of one entity may change another.

use std::hash::BuildHasher;
use std::sync::Arc;

use kilter_core::{EntityKey, Event, EventTime, Offset, SourceId, Value};
use kilter_features::{Engine, Look, View};

use crate::Plan;

/// Which entities are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample(u64);

impl Sample {
    /// `part` of all entities, from 0 to 1; which ones is a matter of their keys alone.
    pub fn of(part: f64) -> Sample {
        Sample((part.clamp(0.0, 1.0) * u64::MAX as f64) as u64)
    }

    /// Another hash than those by which entities are placed or shared out.
    pub fn holds(self, key: &EntityKey) -> bool {
        foldhash::fast::FixedState::with_seed(0x7361_6d70_6c65).hash_one(key) <= self.0
    }
}

/// The features of a sample of the entities of every view.
pub struct Shadow {
    plan: Arc<Plan>,
    sample: Sample,
    parts: Vec<Part>,
    next: Offset,
}

/// One view, the first of an engine of its own; behind it those it looks up.
struct Part {
    engine: Engine,
    source: SourceId,
    /// Where the entity stands in a row of the source.
    entity: Vec<usize>,
    /// Takes in all events.
    is_whole: bool,
    sources: Vec<SourceId>,
}

/// One entity's difference.
#[derive(Clone, Debug, PartialEq)]
pub enum Difference {
    /// The log knows the entity, the live engine does not.
    Missing,
    /// The live engine knows an entity that the log does not.
    Extra,
    /// Positions of the features whose values differ.
    Features(Vec<usize>),
}

impl Shadow {
    /// Knows nothing yet; to be fed the log from its start.
    pub fn new(plan: Arc<Plan>, sample: Sample) -> Shadow {
        let parts = (0..plan.views.len()).map(|v| Part::new(&plan, v)).collect();
        Shadow { plan, sample, parts, next: 0 }
    }

    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The next offset to be fed.
    pub fn next_offset(&self) -> Offset {
        self.next
    }

    /// Passes over a record that is no event.
    pub fn skip(&mut self, offset: Offset) {
        self.next = offset + 1;
    }

    /// Takes in the next event of the log.
    pub fn feed(&mut self, event: &Event) {
        self.next = event.offset + 1;
        for part in &mut self.parts {
            if !part.sources.contains(&event.source) {
                continue;
            }
            let is_kept = part.is_whole || EntityKey::from_row(&event.row, &part.entity).is_none_or(|key| self.sample.holds(&key));
            if is_kept {
                part.engine.update(event);
            } else if part.engine.watermark(part.source) < Some(event.time) {
                // An entity outside of the sample moves the source's time all the same.
                let blank = Event { row: vec![Value::Null; event.row.len()], id: None, extra: None, ..*event };
                part.engine.update(&blank);
            }
        }
    }

    /// At most `most` sampled entities of a view, from a place in an order of its own; and the place to go on from, 0 after the last.
    pub fn keys(&self, view: usize, from: usize, most: usize) -> (Vec<EntityKey>, usize) {
        let Some(part) = self.parts.get(view) else { return (Vec::new(), 0) };
        sampled(&part.engine, 0, self.sample, from, SCANNED, most)
    }

    /// What the log says of an entity.
    pub fn look(&mut self, view: usize, key: &EntityKey, at: EventTime) -> Look {
        let Some(part) = self.parts.get_mut(view) else { return Look::default() };
        part.engine.look(0, key, at).unwrap_or_default()
    }

    /// The difference between what the live engine answered and what the log says; none: they are the same to the bit.
    pub fn compare(&mut self, view: usize, key: &EntityKey, at: EventTime, live: &Look) -> Option<Difference> {
        let log = self.look(view, key, at);
        match (log.last_event, live.last_event) {
            (Some(_), None) => return Some(Difference::Missing),
            (None, Some(_)) => return Some(Difference::Extra),
            _ => {}
        }
        let differ = |f: &usize| match (log.values.get(*f), live.values.get(*f)) {
            (Some(a), Some(b)) => !a.same_bits(b),
            (a, b) => a.is_some() != b.is_some(),
        };
        let features: Vec<usize> = (0..log.values.len().max(live.values.len())).filter(differ).collect();
        (!features.is_empty()).then_some(Difference::Features(features))
    }
}

/// Entities looked at for ones of the sample in one go, at most.
pub const SCANNED: usize = 20_000;

/// Sampled entities of a view among at most `scanned` in memory, from a place on; and the place to go on from, 0 after the last.
pub fn sampled(engine: &Engine, view: usize, sample: Sample, from: usize, scanned: usize, most: usize) -> (Vec<EntityKey>, usize) {
    let mut found = Vec::new();
    let mut place = from;
    for key in engine.keys_in_memory(view, from).take(scanned) {
        if found.len() == most {
            return (found, place);
        }
        place += 1;
        if sample.holds(key) {
            found.push(key.clone());
        }
    }
    let is_over = place < from + scanned;
    (found, if is_over { 0 } else { place })
}

impl Part {
    fn new(plan: &Plan, view: usize) -> Part {
        let own = &plan.views[view];
        let views: Vec<View> = plan.with_needs([view]).into_iter().map(|v| plan.views[v].clone()).collect();
        let schema = &plan.sources[usize::from(own.source().0)].schema;
        Part {
            source: own.source(),
            entity: own.entity().iter().filter_map(|column| schema.index(column)).collect(),
            is_whole: views.len() > 1 || own.changes(),
            sources: views.iter().map(View::source).collect(),
            engine: Engine::new(views),
        }
    }
}
