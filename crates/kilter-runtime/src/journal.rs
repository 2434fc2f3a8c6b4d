//! How a data folder and its shard's journal agree.
//!
//! A worker that takes a shard over makes its folder agree with the journal first. Records that the journal has otherwise were never answered for; whatever was computed
//! of them goes.

use std::path::Path;

use anyhow::Context as _;
use kilter_core::Offset;
use kilter_store::log::{Log, LogOptions};
use kilter_store::snapshot::{SnapshotOptions, Snapshots};
use serde::{Deserialize, Serialize};

use crate::sequencer::trim_orphans;

/// Up to where folder and journal are known to agree. It may lag: what is behind is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// Next position of the journal's partition.
    pub position: u64,
    /// Next offset of the event log.
    pub events: Offset,
    /// Next offset of the dead letters.
    pub dead_letters: u64,
}

/// Takes away decisions on events at or after `offset`, and states that have seen one. The folder is nobody else's meanwhile.
///
/// # Errors
/// A file cannot be removed or a log cannot be opened; the call may be repeated.
pub fn forget_from(dir: &Path, offset: Offset) -> anyhow::Result<()> {
    let (decisions, _) = Log::open(dir.join("decisions"), LogOptions::default())?;
    trim_orphans(&decisions, offset)?;
    let snapshots = Snapshots::open(dir.join("snapshots"), SnapshotOptions::default())?;
    for snapshot in snapshots.list()?.into_iter().filter(|s| s.offset > offset) {
        std::fs::remove_file(&snapshot.path).with_context(|| format!("cannot remove {}", snapshot.path.display()))?;
    }
    // State beyond memory stands at one offset, which only its opening tells; the log has everything.
    Ok(kilter_store::state::remove(&dir.join("state"))?)
}
