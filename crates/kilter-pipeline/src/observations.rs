//! Training rows by replay: the engine of the live path, fed the past of the log, read at each observation.
//!
//! A row is point-in-time by construction: when it is read, the engine has seen no later event. Its label is joined from the
//! label source whichever of the two comes first in the log; a row is *matured* once its horizon has ended, and only then has a label.

use std::sync::Arc;

use kilter_core::{EntityKey, Event, EventTime, Offset, Operation, Span, Value};
use kilter_features::Engine;
use kilter_learn::{Matrix, TrainingSet};

use crate::labels::{LabelJoin, known};
use crate::{Lookup, ModelPlan, Pipeline, Plan, Range};

/// How fresh the features of a row are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Up to the event before the observation, as the live path has it.
    Live,
    /// As of the last full multiple of this span, as a nightly batch has it.
    Batch(Span),
}

/// Observations of one model with their inputs, in log order.
pub struct Observations {
    pub matrix: Matrix,
    pub times: Vec<EventTime>,
    pub offsets: Vec<Offset>,
    /// The value of the grouping column, when one was asked for.
    pub groups: Vec<Option<EntityKey>>,
    /// NaN: no label event so far.
    labels: Vec<f64>,
    within: Option<Span>,
    absent: Option<f64>,
    /// The latest event time fed; what happens later is not known here.
    seen: Option<EventTime>,
}

/// Feeds a log's events into [`Observations`].
pub struct Feed {
    plan: Arc<Plan>,
    model: ModelPlan,
    engine: Engine,
    range: Range,
    freshness: Freshness,
    group: Option<usize>,
    /// Events held back from the engine until their batch is due; empty when live.
    held: Vec<Event>,
    boundary: EventTime,
    join: Option<LabelJoin>,
    slots: Vec<Value>,
    row: Vec<f64>,
    out: Observations,
}

impl Feed {
    /// Rows for the observations of `model` whose time lies in `range`; `group` names a column of the observation to keep beside each row.
    pub fn new(plan: Arc<Plan>, model: usize, range: Range, freshness: Freshness, group: Option<usize>) -> Feed {
        let mut own = plan.models[model].clone();
        // Only the views the model reads are computed, and those that they read.
        let places = plan.with_needs(own.context.lookups.iter().map(|l| l.view));
        let views = places.iter().map(|view| plan.views[*view].clone()).collect();
        for lookup in &mut own.context.lookups {
            let place = places.iter().position(|v| *v == lookup.view).unwrap_or(usize::MAX);
            *lookup = Lookup { view: place, ..lookup.clone() };
        }
        Feed::with_engine(plan, own, Engine::new(views), range, freshness, group)
    }

    /// The same from a pipeline's state: its next event is the first to be fed.
    pub fn resume(pipeline: Pipeline, model: usize, range: Range, group: Option<usize>) -> Feed {
        let plan = Arc::clone(pipeline.plan());
        let own = plan.models[model].clone();
        Feed::with_engine(plan, own, pipeline.into_engine(), range, Freshness::Live, group)
    }

    fn with_engine(plan: Arc<Plan>, model: ModelPlan, engine: Engine, range: Range, freshness: Freshness, group: Option<usize>) -> Feed {
        let out = Observations {
            matrix: Matrix::with_columns(model.input_names()),
            times: Vec::new(),
            offsets: Vec::new(),
            groups: Vec::new(),
            labels: Vec::new(),
            within: model.label.as_ref().map(|l| l.within),
            absent: model.label.as_ref().and_then(|l| l.absent),
            seen: None,
        };
        let join = model.label.clone().map(|label| LabelJoin::new(label, range));
        Feed {
            plan,
            model,
            engine,
            range,
            freshness,
            group,
            held: Vec::new(),
            boundary: EventTime(i64::MIN),
            join,
            slots: Vec::new(),
            row: Vec::new(),
            out,
        }
    }

    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Takes the next event of the log.
    pub fn feed(&mut self, event: &Event) {
        self.out.seen = self.out.seen.max(Some(event.time));
        self.release_batch(event.time);
        let is_row = event.operation == Operation::Upsert;
        let observed = is_row && event.source == self.model.context.source && self.range.holds(event.time);
        if observed && !self.model.include_self {
            self.observe(event);
        }
        match self.freshness {
            Freshness::Live => {
                self.engine.update(event);
            }
            Freshness::Batch(_) => self.held.push(event.clone()),
        }
        if observed && self.model.include_self {
            self.observe(event);
        }
        if let Some(join) = self.join.as_mut().filter(|_| is_row) {
            join.label(event, &self.out.times, &mut self.out.labels);
        }
    }

    fn release_batch(&mut self, now: EventTime) {
        let Freshness::Batch(every) = self.freshness else { return };
        let boundary = start_of(now, every);
        if boundary > self.boundary {
            self.boundary = boundary;
            // A batch job takes all that had arrived before it ran. None of that happened after its boundary: such an event would
            // have moved the boundary itself.
            for event in self.held.drain(..) {
                self.engine.update(&event);
            }
        }
    }

    fn observe(&mut self, event: &Event) {
        match self.freshness {
            Freshness::Live => self.model.context.fill(event, &mut self.engine, &mut self.slots),
            Freshness::Batch(every) => {
                // Features stand as of the boundary before the observation, for a late one too; the request's own fields are fresh
                // in any design. One microsecond before the boundary lies in the last tile the batch has filled.
                let at = Event { time: start_of(event.time, every) - Span(1), ..event.clone() };
                self.model.context.fill(&at, &mut self.engine, &mut self.slots);
            }
        }
        self.model.inputs(&self.slots, &mut self.row);
        self.out.matrix.push_row(&self.row);
        self.out.times.push(event.time);
        self.out.offsets.push(event.offset);
        self.out.labels.push(f64::NAN);
        if let Some(group) = self.group {
            self.out.groups.push(event.row.get(group).and_then(EntityKey::from_value));
        }
        if let Some(join) = &mut self.join {
            join.observe(event, &self.out.times, &mut self.out.labels);
        }
    }

    pub fn finish(self) -> Observations {
        self.out
    }
}

impl Observations {
    pub fn len(&self) -> usize {
        self.times.len()
    }

    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Those of another log after these, for entities that lie in one of the logs only. Both are [`settled`](Observations::settled) before.
    pub fn joined(self, other: Observations) -> Observations {
        let mut all = self;
        let mut row = Vec::new();
        for index in 0..other.len() {
            other.matrix.row(index, &mut row);
            all.matrix.push_row(&row);
        }
        all.times.extend(other.times);
        all.offsets.extend(other.offsets);
        all.groups.extend(other.groups);
        all.labels.extend(other.labels);
        all.seen = all.seen.max(other.seen);
        all
    }

    /// Without the rows whose label may still come: a row stays only if its own log has seen its horizon to the end. What is known of time elsewhere, in another log
    /// or in the rest of this one, says nothing about it.
    pub fn settled(self) -> Observations {
        let (Some(seen), Some(_)) = (self.seen, self.within) else { return self };
        let rows: Vec<usize> = (0..self.len()).filter(|&row| self.label(row, seen).is_some()).collect();
        let of = |values: &[f64]| rows.iter().map(|&row| values[row]).collect();
        Observations {
            matrix: self.matrix.select(&rows),
            times: rows.iter().map(|&row| self.times[row]).collect(),
            offsets: rows.iter().map(|&row| self.offsets[row]).collect(),
            groups: rows.iter().filter_map(|&row| self.groups.get(row).cloned()).collect(),
            labels: of(&self.labels),
            ..self
        }
    }

    /// The value of a row's grouping column; none: it is null, or no column was asked for.
    pub fn group(&self, row: usize) -> Option<&EntityKey> {
        self.groups.get(row)?.as_ref()
    }

    /// How long after an observation its label is final.
    pub fn within(&self) -> Option<Span> {
        self.within
    }

    /// The latest event time fed: the last moment as of which anything can be said here.
    pub fn seen(&self) -> Option<EventTime> {
        self.seen
    }

    /// The label of a row as known at `as_of`: none while its horizon runs, none if no label event came and absence says nothing.
    pub fn label(&self, row: usize, as_of: EventTime) -> Option<f64> {
        known(self.labels[row], self.times[row] + self.within?, self.absent, as_of)
    }

    /// Rows in `range` whose label is known at `as_of`, by time.
    pub fn matured(&self, range: Range, as_of: EventTime) -> Vec<usize> {
        let mut rows: Vec<usize> = (0..self.len()).filter(|&r| range.holds(self.times[r]) && self.label(r, as_of).is_some()).collect();
        // Log order breaks ties, so the sort must be stable.
        rows.sort_by_key(|&r| self.times[r]);
        rows
    }

    /// All rows in `range`, by time, whatever is known of their labels.
    pub fn within_range(&self, range: Range) -> Vec<usize> {
        let mut rows: Vec<usize> = (0..self.len()).filter(|&r| range.holds(self.times[r])).collect();
        rows.sort_by_key(|&r| self.times[r]);
        rows
    }

    /// The training set of the given rows.
    pub fn training_set(&self, rows: &[usize], as_of: EventTime) -> TrainingSet {
        let labels = rows.iter().map(|&r| self.label(r, as_of).unwrap_or(f64::NAN)).collect();
        TrainingSet::new(self.matrix.select(rows), labels)
    }
}

/// The last full multiple of a span before or at a time.
fn start_of(time: EventTime, every: Span) -> EventTime {
    EventTime(time.bucket(every) * every.0)
}
