//! What of a data folder follows from records of the event log, and is given up with them.
//!
//! A worker that takes a shard over makes its folder agree with the shard's journal first. Records that the journal has otherwise were never answered for;
//! whatever was computed of them goes.

use std::path::Path;

use anyhow::Context as _;
use kilter_core::Offset;
use kilter_store::log::{Log, LogOptions};
use kilter_store::snapshot::{SnapshotOptions, Snapshots};

use crate::sequencer::trim_orphans;

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
