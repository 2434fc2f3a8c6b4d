//! Decisions that wait for their labels, found by time and by key.
//!
//! By event time, not by the order made: one late or early event must not hold up or outlive the rest.

use std::collections::{BTreeMap, BTreeSet};

use kilter_core::{CompactString, EventTime};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A score, and what is known of its truth.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Scored {
    pub key: CompactString,
    pub time: EventTime,
    pub score: f64,
    pub label: Option<f64>,
}

/// Snapshots hold the decisions in order; numbers and the index are made anew from them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiting {
    /// By time and, within one instant, in the order made.
    by_time: BTreeMap<(EventTime, u64), Scored>,
    by_key: BTreeSet<(CompactString, EventTime, u64)>,
    made: u64,
}

impl Waiting {
    pub fn len(&self) -> usize {
        self.by_time.len()
    }

    pub fn push(&mut self, scored: Scored) {
        self.by_key.insert((scored.key.clone(), scored.time, self.made));
        self.by_time.insert((scored.time, self.made), scored);
        self.made += 1;
    }

    /// The earliest decision, if it was made before `end`.
    pub fn pop_before(&mut self, end: EventTime) -> Option<Scored> {
        let first = self.by_time.first_entry().filter(|first| first.key().0 < end)?;
        let ((time, number), scored) = first.remove_entry();
        self.by_key.remove(&(scored.key.clone(), time, number));
        Some(scored)
    }

    /// Gives a truth to the decisions of a key between two times, both included; the last one given counts.
    pub fn label(&mut self, key: &CompactString, from: EventTime, to: EventTime, truth: f64) {
        for (_, time, number) in self.by_key.range((key.clone(), from, 0)..=(key.clone(), to, u64::MAX)) {
            if let Some(scored) = self.by_time.get_mut(&(*time, *number)) {
                scored.label = Some(truth);
            }
        }
    }
}

impl Serialize for Waiting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.by_time.values())
    }
}

impl<'de> Deserialize<'de> for Waiting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut waiting = Waiting::default();
        Vec::<Scored>::deserialize(deserializer)?.into_iter().for_each(|scored| waiting.push(scored));
        Ok(waiting)
    }
}
