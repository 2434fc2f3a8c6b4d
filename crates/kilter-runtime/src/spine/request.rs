//! What is asked for, in names.

use std::path::PathBuf;

use kilter_connect::TableFormat;
use kilter_core::{EventTime, Span};

/// A training set to be written.
#[derive(Clone, Debug)]
pub struct Request {
    pub out: PathBuf,
    pub format: TableFormat,
    pub spine: Spine,
    pub mode: Mode,
    pub features: Features,
    /// Which columns of the spine hold the key of a view, where the names differ.
    pub keys: Vec<(String, Vec<String>)>,
    /// None: as the model or decision says, else false.
    pub include_self: Option<bool>,
    /// Worker threads, each with a part of the entities at a time.
    pub threads: usize,
    /// Whether a file that is there already may be replaced.
    pub overwrite: bool,
    /// Whether what an interrupted run left is thrown away.
    pub restart: bool,
    pub limits: Limits,
}

impl Request {
    pub fn asked(&self) -> Asked<'_> {
        Asked { mode: &self.mode, features: &self.features, keys: &self.keys, include_self: self.include_self }
    }
}

/// The columns after the spine's, and what counts for them.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub mode: &'a Mode,
    pub features: &'a Features,
    /// As in [`Request`].
    pub keys: &'a [(String, Vec<String>)],
    /// None: as the model or decision says, else false.
    pub include_self: Option<bool>,
}

/// The rows, before any feature.
#[derive(Clone, Debug)]
pub enum Spine {
    /// The rows of a CSV, NDJSON or Parquet file; `time` names the column of the moment.
    File { path: PathBuf, time: Option<String> },
    /// The events of a source.
    Events { source: String, pick: Pick },
    /// The events that a decision was made on, with what was decided.
    Decisions { decision: String, pick: Pick },
}

/// Which events of the log.
#[derive(Clone, Debug, Default)]
pub struct Pick {
    /// A condition over the event's columns.
    pub condition: Option<String>,
    pub from: Option<EventTime>,
    pub to: Option<EventTime>,
    pub sample: Option<Sample>,
}

/// A share of the events, the same with the same seed.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Above 0, at most 1.
    pub share: f64,
    pub seed: u64,
    /// All or none of the events with one value of this column; none: event by event.
    pub by: Option<String>,
}

/// What counts as known at a row.
#[derive(Clone, Debug)]
pub enum Mode {
    /// What the decision's record says the model saw.
    AsLogged,
    /// What had arrived.
    Replay,
    /// What had happened, by the events' own times, at least a lag before.
    EventTime(Lags),
}

/// How long after its time an event is known.
#[derive(Clone, Debug, Default)]
pub struct Lags {
    pub all: Span,
    pub by_source: Vec<(String, Span)>,
}

/// The columns after the spine's.
#[derive(Clone, Debug)]
pub enum Features {
    /// The inputs of the decision's model where the spine is a decision, else all features in reach.
    Default,
    /// `account.*`, `account.amount_14d`, `burden = payment / account.income_14d`, `scoring.*` of a service.
    List(Vec<String>),
    /// The inputs of a model.
    Model(String),
}

/// Bounds of memory, and how much work an interruption may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of state, by all threads together. Views whose entities cannot be told apart (with lookups, of changing rows) may take more.
    pub state: usize,
    /// Bytes of records held before they are written to disk, by all threads together; half as many once more while events are divided.
    pub buffer: usize,
    /// Entities are worked through in parts of about so many records of the log.
    pub part_records: u64,
    /// What is finished is kept for good no more often than this.
    pub part_every: std::time::Duration,
}

impl Limits {
    /// The least that a job makes do with.
    pub const LEAST: usize = 256 << 20;

    /// What a limit of memory is divided into: half is state, an eighth buffers, the rest is left to what reads and writes files, and to
    /// the allocator.
    pub fn of(memory: usize) -> Limits {
        Limits {
            state: memory / 2,
            buffer: (memory / 8).min(64 << 20),
            part_records: 32_768,
            part_every: std::time::Duration::from_secs(10),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::of(2 << 30)
    }
}
