//! Which definitions the log has run under, and where one gave way to the next.
//!
//! The control records in the log are the truth. `definitions/in-force` only says it for a log without any such record.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use kilter_core::Offset;
use kilter_pipeline::{Pipeline, Plan};
use kilter_store::snapshot::SnapshotInfo;

use crate::backfill::Backfill;
use crate::catalog::Control;
use crate::data::Data;
use crate::project::{self, Project};

const IN_FORCE: &str = "in-force";

/// One change of definitions: from this offset on, the log was decided on by other rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    pub offset: Offset,
    pub from: String,
    pub to: String,
}

/// The definitions that the end of the log was decided on by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    pub hash: String,
    /// The newest known change: no decision before it is made again. 0: none is known.
    pub since: Offset,
}

impl Data {
    /// The changes of definitions recorded between two offsets.
    pub fn swaps(&self, from: Offset, until: Offset) -> anyhow::Result<Vec<Swap>> {
        let mut found = Vec::new();
        let mut reader = self.records(from);
        while let Some((offset, bytes)) = reader.next_record()? {
            if offset >= until {
                break;
            }
            if let Some(Control::Definitions { from, to }) =
                Control::decode(bytes).with_context(|| format!("event log, offset {offset}"))?
            {
                found.push(Swap { offset, from, to });
            }
        }
        Ok(found)
    }

    /// The definitions in force at the end of the log; none: nothing says which.
    pub fn in_force(&self) -> anyhow::Result<Option<InForce>> {
        let end = self.events.next_offset();
        // A snapshot names the definitions it was made under, so only the log behind the newest one need be read.
        let newest = self.snapshots.list()?.into_iter().filter(|s| s.offset <= end).max_by_key(|s| s.offset);
        let from = match &newest {
            Some(newest) => newest.offset,
            None => self.history.start()?,
        };
        if let Some(swap) = self.swaps(from, end)?.pop() {
            return Ok(Some(InForce { hash: swap.to, since: swap.offset }));
        }
        let said = || std::fs::read_to_string(self.dir.join("definitions").join(IN_FORCE)).ok();
        let hash = newest.map(|s| s.definition_hash).or_else(|| said().map(|s| s.trim().to_string()));
        Ok(hash.map(|hash| InForce { hash, since: 0 }))
    }

    /// Says beside the log which definitions are in force.
    pub fn note_in_force(&self, hash: &str) -> anyhow::Result<()> {
        let path = self.dir.join("definitions").join(IN_FORCE);
        let new = path.with_extension("new");
        std::fs::write(&new, hash)?;
        std::fs::rename(new, path)?;
        Ok(())
    }

    /// Definitions that this data has run under, as the program reads them today; `dir` is the project's folder.
    pub fn kept_project(&self, hash: &str, dir: &Path) -> anyhow::Result<Project> {
        let text = self.definitions(hash).with_context(|| format!("the definitions {} are not kept in the data folder", short(hash)))?;
        let kept = project::check_text(&text, "kilter.toml (as kept)", dir)
            .map_err(|report| anyhow::anyhow!("the definitions {} no longer hold\n\n{report}", short(hash)))?;
        anyhow::ensure!(kept.plan.hash == hash, "the definitions {} mean something else to this program", short(hash));
        Ok(kept)
    }

    pub fn kept_plan(&self, hash: &str) -> anyhow::Result<Arc<Plan>> {
        Ok(Arc::new(self.kept_project(hash, &self.dir)?.plan))
    }

    /// The state from the newest fitting snapshot made under other definitions: views that are the same go on, the rest is filled from
    /// the log. None: there is none of which anything could be kept.
    pub(crate) fn state_of_others(&self, plan: &Arc<Plan>, fits: impl Fn(&SnapshotInfo) -> bool) -> anyhow::Result<Option<Pipeline>> {
        let mut others: Vec<SnapshotInfo> =
            self.snapshots.list()?.into_iter().filter(|s| s.definition_hash != plan.hash && s.offset > 0 && fits(s)).collect();
        others.sort_by_key(|s| std::cmp::Reverse(s.offset));
        for info in others.into_iter().take(OTHERS_TRIED) {
            let Ok(old) = self.kept_plan(&info.definition_hash) else { continue };
            let mut backfill = Backfill::new(Arc::clone(&old), Arc::clone(plan));
            if !(0..plan.views.len()).any(|v| backfill.change().carries_view(v)) {
                continue;
            }
            let Some(state) = self.restored(&old, self.snapshots.newest(info.offset, &info.definition_hash)?) else { continue };
            let at = state.next_offset();
            tracing::info!(
                offset = at,
                from = short(&old.hash),
                to = short(&plan.hash),
                "state of other definitions taken up, the rest is filled"
            );
            backfill.advance(self, at, |_| true)?;
            match backfill.finish(state) {
                Ok(pipeline) => return Ok(Some(pipeline)),
                Err(_) => tracing::warn!(offset = at, "a snapshot of other definitions does not fit; it is passed over"),
            }
        }
        Ok(None)
    }
}

/// Snapshots of other definitions looked at before the log is read from its start.
const OTHERS_TRIED: usize = 3;

/// The part of a hash that people read.
pub fn short(hash: &str) -> &str {
    &hash[..hash.len().min(12)]
}
