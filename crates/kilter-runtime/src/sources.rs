//! How each source is doing: what became of all it sent, how far its time has come, and whether it has gone silent.
//!
//! A silent source holds nothing back: every view goes by the watermark of its own source, and schedules, monitors and labels by the newest
//! event time of all of them. So being idle changes no result; it is told so that somebody may look.

use std::collections::BTreeMap;

use kilter_core::{EventTime, Span};

use crate::door::{DUPLICATE, LATE};
use crate::service::Service;
use crate::status::PartitionStatus;

/// Whether anything comes from a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// No event has come yet.
    Waiting,
    Active,
    /// Nothing for longer than its `idle_after`.
    Idle,
    /// The definitions do not name it any more.
    Undeclared,
}

impl Liveness {
    pub fn name(self) -> &'static str {
        match self {
            Liveness::Waiting => "waiting",
            Liveness::Active => "active",
            Liveness::Idle => "idle",
            Liveness::Undeclared => "undeclared",
        }
    }
}

/// One source, since the start of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceHealth {
    pub source: String,
    pub liveness: Liveness,
    /// All rows that came: those below together.
    pub received: u64,
    /// Those in the log.
    pub events: u64,
    /// Of the events: too late for every view over the source.
    pub late: u64,
    /// Left out because their id was seen before.
    pub duplicates: u64,
    /// Kept as dead letters, by code.
    pub turned_away: BTreeMap<String, u64>,
    pub watermark: Option<EventTime>,
    pub last_arrival: Option<EventTime>,
    /// Since the newest event arrived.
    pub silent: Option<Span>,
    /// Of the topic that it reads.
    pub partitions: BTreeMap<u32, PartitionStatus>,
    /// Why its topic is not read at present.
    pub problem: Option<String>,
}

impl Service {
    /// How each source is doing, in the order of the definitions, then those that only the counts know of.
    pub fn sources(&self) -> Vec<SourceHealth> {
        let counts = self.status.counts();
        let partitions = self.status.partitions();
        let mut problems = self.status.source_problems();
        let mut reasons = self.data.door.reasons();
        let now = self.clock().now();
        let mut found = Vec::new();
        for (source, settings) in self.plan.sources.iter().zip(&self.project.source_settings) {
            // The counts may be a batch ahead of these definitions, or behind.
            let place = counts.plan.as_ref().and_then(|plan| plan.source(&source.name)).map(|s| usize::from(s.0));
            let tally = place.and_then(|s| counts.sources.get(s)).copied().unwrap_or_default();
            let silent = tally.arrived.map(|at| (now - at).max(Span::ZERO));
            let health = SourceHealth {
                liveness: match (silent, settings.idle_after) {
                    (None, _) => Liveness::Waiting,
                    (Some(silent), Some(after)) if silent > after => Liveness::Idle,
                    _ => Liveness::Active,
                },
                watermark: place.and_then(|s| counts.watermarks.get(s)).copied().flatten(),
                last_arrival: tally.arrived,
                silent,
                problem: problems.remove(&source.name),
                partitions: partitions.iter().filter(|((name, _), _)| *name == source.name).map(|((_, n), s)| (*n, *s)).collect(),
                ..of(&source.name, tally.events, reasons.remove(&source.name).unwrap_or_default())
            };
            found.push(health);
        }
        found.extend(reasons.into_iter().map(|(source, reasons)| of(&source, 0, reasons)));
        found
    }
}

fn of(source: &str, events: u64, mut reasons: BTreeMap<String, u64>) -> SourceHealth {
    let duplicates = reasons.remove(DUPLICATE).unwrap_or(0);
    let late = reasons.remove(LATE).unwrap_or(0);
    SourceHealth {
        source: source.to_owned(),
        liveness: Liveness::Undeclared,
        received: events + duplicates + reasons.values().sum::<u64>(),
        events,
        late,
        duplicates,
        turned_away: reasons,
        watermark: None,
        last_arrival: None,
        silent: None,
        partitions: BTreeMap::new(),
        problem: None,
    }
}
