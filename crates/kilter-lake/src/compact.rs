//! Small files of a day that is over become one; days that are too old go.

use std::collections::BTreeMap;

use crate::manifest::{File, Part, Plan, State};
use crate::merge::Merge;
use crate::table::{Builder, Rows};
use crate::{Lake, Unsettled};

/// What a compaction came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Files that there are no more, and those that they have become.
    pub files: usize,
    pub into: usize,
}

impl Lake {
    /// Makes one file of several small ones, for days before `today` (`2026-03-01`), none of them larger than `target` bytes by what went in. Files of more than half of that
    /// stay, so that late events do not have a large file written again and again.
    ///
    /// # Errors
    /// Storage that does not answer, damage. What was done counts; the rest can be asked for again.
    pub fn compact(&self, today: &str, target: u64) -> anyhow::Result<Compacted> {
        let mut changing = self.begin_alone()?;
        let mut done = Compacted::default();
        while let Some(files) = candidates(&self.state(), today, target) {
            done.files += files.len();
            done.into += 1;
            self.merge(&mut changing, files)?;
        }
        Ok(done)
    }

    /// Makes one file of these.
    pub(crate) fn merge(&self, changing: &mut Unsettled, files: Vec<String>) -> anyhow::Result<()> {
        let plan = Plan::Compact { files: files.clone() };
        self.carry_out(changing, &plan, |state| {
            let mut entry = self.entry(state, plan.clone());
            let inputs: Vec<&File> = files.iter().filter_map(|path| state.files.iter().find(|f| f.path == *path)).collect();
            anyhow::ensure!(inputs.len() == files.len(), "a file to be compacted is not in the lake: {files:?}");
            let (Some(first), Some(next)) = (inputs.iter().map(|f| f.first).min(), inputs.iter().map(|f| f.next).max()) else {
                return Ok(entry);
            };
            let mut merge = Merge::default();
            for file in &inputs {
                merge.add(Rows::open(&self.storage, file, 0)?)?;
            }
            let Some(table) = merge.table().cloned() else { return Ok(entry) };
            let mut builder = Builder::new(table)?;
            while let Some((offset, record)) = merge.pop()? {
                builder.push(offset, &record)?;
            }
            self.put(state, &mut entry, builder, first, next)?;
            entry.remove = files.clone();
            Ok(entry)
        })
    }

    /// Takes the days before `before` (`2026-03-01`) out of the lake; the number of files.
    ///
    /// # Errors
    /// Storage that does not answer; it can be asked for again.
    pub fn expire(&self, before: &str) -> anyhow::Result<usize> {
        let mut changing = self.begin_alone()?;
        self.drop_before(&mut changing, before.to_owned())
    }

    /// Lets go of the days before this one.
    pub(crate) fn drop_before(&self, changing: &mut Unsettled, before: String) -> anyhow::Result<usize> {
        let state = self.state();
        let old: Vec<String> =
            state.files.iter().filter(|f| f.part.date().is_some_and(|date| date < before.as_str())).map(|f| f.path.clone()).collect();
        if old.is_empty() {
            return Ok(0);
        }
        let plan = Plan::Expire { before };
        let files = old.len();
        self.carry_out(changing, &plan, |state| {
            let mut entry = self.entry(state, plan.clone());
            entry.remove = old;
            Ok(entry)
        })?;
        Ok(files)
    }
}

/// Files of one part, neighbours by their offsets, that are small enough to become one.
fn candidates(state: &State, today: &str, target: u64) -> Option<Vec<String>> {
    let mut parts: BTreeMap<&Part, Vec<&File>> = BTreeMap::new();
    for file in state.files.iter().filter(|f| f.part.date().is_none_or(|date| date < today)) {
        parts.entry(&file.part).or_default().push(file);
    }
    parts.into_values().find_map(|mut files| {
        files.retain(|f| f.bytes <= target / 2);
        files.sort_by_key(|f| f.first);
        let mut run: Vec<&File> = Vec::new();
        for file in files {
            if run.iter().map(|f| f.bytes).sum::<u64>() + file.bytes > target {
                if run.len() > 1 {
                    break;
                }
                run.clear();
            }
            run.push(file);
        }
        (run.len() > 1).then(|| run.iter().map(|f| f.path.clone()).collect())
    })
}
