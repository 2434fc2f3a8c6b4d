//! What Kilter keeps on disk: the event log and its siblings, keyed state and its snapshots, dead letters, runs and the model
//! registry, artifacts.

pub mod artifacts;
pub mod counts;
pub mod dead_letter;
mod error;
pub mod files;
pub mod log;
pub mod metadata;
pub mod snapshot;
pub mod state;
pub mod threads;

pub use error::StoreError;
