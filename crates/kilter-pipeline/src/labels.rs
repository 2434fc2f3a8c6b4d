//! Labels meet what they are about, whichever of the two comes first in the log.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use kilter_core::{EntityKey, Event, EventTime};

use crate::{LabelPlan, Range};

/// Gives labels to rows: of a training set, of decisions. Times and labels of the rows are the caller's; NaN: no label event so far.
pub(crate) struct LabelJoin {
    plan: LabelPlan,
    range: Range,
    met: HashMap<EntityKey, Met, FixedState>,
    seen: u64,
}

/// What meets under one key, both sides by time: neither has to come first, and late ones find their place.
#[derive(Default)]
struct Met {
    rows: Vec<u32>,
    /// Time, truth and how many label events came before it in the log.
    labels: Vec<(EventTime, f64, u64)>,
}

impl LabelJoin {
    /// For rows whose time lies in `range`.
    pub fn new(plan: LabelPlan, range: Range) -> LabelJoin {
        LabelJoin { plan, range, met: HashMap::default(), seen: 0 }
    }

    /// The newest row is of this event.
    pub fn observe(&mut self, event: &Event, times: &[EventTime], labels: &mut [f64]) {
        let Some(key) = EntityKey::from_row(&event.row, &self.plan.observation_key) else { return };
        let index = times.len() - 1;
        let met = self.met.entry(key).or_default();
        // Most keys have one row and one label, and there are many keys.
        met.rows.reserve_exact(usize::from(met.rows.is_empty()));
        met.rows.insert(met.rows.partition_point(|&r| times[r as usize] <= event.time), index as u32);
        // Label events that stand before their row in the log: few, unless the labels were taken in first.
        let from = met.labels.partition_point(|(t, ..)| *t < event.time);
        let to = met.labels.partition_point(|(t, ..)| *t <= event.time + self.plan.within);
        if let Some((_, truth, _)) = met.labels[from..to].iter().max_by_key(|(.., place)| *place) {
            labels[index] = *truth;
        }
    }

    /// Label events that are kept for rows to come.
    pub fn kept(&self) -> u64 {
        self.seen
    }

    /// Takes in what may be a label event.
    pub fn label(&mut self, event: &Event, times: &[EventTime], labels: &mut [f64]) {
        let plan = &self.plan;
        if plan.source != event.source {
            return;
        }
        let Some(key) = EntityKey::from_row(&event.row, &plan.label_key) else { return };
        let Some(truth) = plan.truth(event) else { return };
        // Rows lie in the range, so what does not reach into it is of none.
        if event.time < self.range.from || event.time > self.range.to + plan.within {
            return;
        }
        let met = self.met.entry(key).or_default();
        let from = met.rows.partition_point(|&r| times[r as usize] + plan.within < event.time);
        let to = met.rows.partition_point(|&r| times[r as usize] <= event.time);
        for &row in &met.rows[from..to] {
            labels[row as usize] = truth;
        }
        met.labels.reserve_exact(usize::from(met.labels.is_empty()));
        met.labels.insert(met.labels.partition_point(|(t, ..)| *t <= event.time), (event.time, truth, self.seen));
        self.seen += 1;
    }
}

/// A label as known at `as_of`, of a row whose horizon ends at `end`: none while the horizon runs. In its last instant an event may still
/// come: that there is none is known only after it.
pub(crate) fn known(label: f64, end: EventTime, absent: Option<f64>, as_of: EventTime) -> Option<f64> {
    if label.is_nan() { absent.filter(|_| end < as_of) } else { Some(label).filter(|_| end <= as_of) }
}
