//! What Kilter keeps on disk: the event log and its siblings, keyed-state snapshots, dead letters, runs and the model
//! registry, artifacts.

pub mod log;
