//! What became of each event that a decision's model is asked about: its label, as far as the log has it.

use kilter_core::{Event, EventTime, Offset, Operation, SourceId};

use crate::labels::{LabelJoin, known};
use crate::{LabelPlan, Range};

/// The labels of the events of one source in a stretch of time, for a model that learns from them.
pub struct Labelled {
    source: SourceId,
    range: Range,
    plan: LabelPlan,
    join: LabelJoin,
    offsets: Vec<Offset>,
    times: Vec<EventTime>,
    labels: Vec<f64>,
    held: usize,
}

/// One event's label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Label {
    pub offset: Offset,
    pub time: EventTime,
    /// When its horizon ends.
    pub matures: EventTime,
    /// What the newest label event said.
    pub told: Option<f64>,
    /// What a training takes; none while the horizon runs, or where nothing was said and that says nothing.
    pub value: Option<f64>,
}

impl Labelled {
    /// Of the events of `source` whose time lies in `range`.
    pub fn new(source: SourceId, plan: LabelPlan, range: Range) -> Labelled {
        let join = LabelJoin::new(plan.clone(), range);
        Labelled { source, range, plan, join, offsets: Vec::new(), times: Vec::new(), labels: Vec::new(), held: 0 }
    }

    /// The stretch of time in which events have a part in it.
    pub fn span(&self) -> Range {
        Range { from: self.range.from, to: self.range.to + self.plan.within }
    }

    /// Takes in the next event of the log; what lies outside of [`Labelled::span`] may be left out.
    pub fn feed(&mut self, event: &Event) {
        if event.operation != Operation::Upsert {
            return;
        }
        let is_asked_about = event.source == self.source && self.range.holds(event.time);
        self.held += usize::from(is_asked_about) + usize::from(event.source == self.plan.source);
        if is_asked_about {
            self.offsets.push(event.offset);
            self.times.push(event.time);
            self.labels.push(f64::NAN);
            self.join.observe(event, &self.times, &mut self.labels);
        }
        self.join.label(event, &self.times, &mut self.labels);
    }

    /// Events of either side that are held against each other; each takes some 150 bytes, and its key.
    pub fn held(&self) -> usize {
        self.held
    }

    /// No further event comes: lets go of all but the labels, which take 24 bytes each.
    pub fn close(&mut self) {
        self.join = LabelJoin::new(self.plan.clone(), self.range);
    }

    /// The labels as known at `as_of`, in the order of the log.
    pub fn labels(&self, as_of: EventTime) -> impl DoubleEndedIterator<Item = Label> + '_ {
        self.offsets.iter().zip(&self.times).zip(&self.labels).map(move |((offset, time), label)| {
            let matures = *time + self.plan.within;
            let told = Some(*label).filter(|x| !x.is_nan());
            Label { offset: *offset, time: *time, matures, told, value: known(*label, matures, self.plan.absent, as_of) }
        })
    }
}
