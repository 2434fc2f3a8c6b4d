//! Which files make up the lake: a sequence of entries, each the outcome of one plan.
//!
//! ```text
//! _kilter/00000/plan/{number}.json     what entry `number` is going to do, fixed before a file of it is written
//! _kilter/00000/log/{number}.json      the entry: it counts from the moment this file is there
//! _kilter/00000/current.json           all files that count, after the newest entry or the one before it
//! ```
//! Entries are numbered from 1 without gaps. One log of events writes one sequence; its number, the *shard*, is the folder's name.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail, ensure};
use kilter_core::Schema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::delta::{self, DeltaTable};
use crate::storage::Storage;

/// The form of the manifest that this program writes and reads.
const FORMAT: u32 = 1;

/// One Parquet file of the lake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Relative to the lake.
    pub path: String,
    /// What its rows are.
    #[serde(flatten)]
    pub part: Part,
    /// Its records have offsets in `first..next`; other files may hold others of that range.
    pub first: u64,
    pub next: u64,
    pub rows: u64,
    pub bytes: u64,
}

/// Records that lie in one file together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "holds", rename_all = "snake_case")]
pub enum Part {
    /// Events of one source and day (of their event time, in UTC), all of one schema.
    Events { source: String, date: String, schema: u32 },
    /// What is no event: control records and what is left of erased events.
    Records,
}

impl Part {
    /// The source of the events; none: they are of no source.
    pub fn source(&self) -> Option<&str> {
        match self {
            Part::Events { source, .. } => Some(source),
            Part::Records => None,
        }
    }

    /// The day of the events; none: it is not about days.
    pub fn date(&self) -> Option<&str> {
        match self {
            Part::Events { date, .. } => Some(date),
            Part::Records => None,
        }
    }
}

/// What an entry is going to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "plan", rename_all = "snake_case")]
pub enum Plan {
    /// The records `first..next` come in.
    Append { first: u64, next: u64 },
    /// These files become one.
    Compact { files: Vec<String> },
    /// The days before this one go.
    Expire { before: String },
    /// Some events make room for what is left of them.
    Erase { erasure: u64 },
}

/// What has been done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub format: u32,
    pub number: u64,
    #[serde(flatten)]
    pub plan: Plan,
    /// Hash of the record before `next` of an append: whether a log is the one that the lake was written from shows by it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last: Option<String>,
    /// With a Delta table: the columns of the files that come in, by source.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub delta: Option<BTreeMap<String, Schema>>,
    /// Files that count from here on; one with the path of an older one takes its place.
    pub add: Vec<File>,
    /// Paths of files that no longer count, and are deleted after this.
    pub remove: Vec<String>,
}

/// What the entries come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub format: u32,
    /// The newest entry; 0: there is none.
    pub number: u64,
    /// The records `first..next` have come in.
    pub first: u64,
    pub next: u64,
    /// Hash of the record before `next`.
    pub last: Option<String>,
    pub files: Vec<File>,
    /// Files that went by their age: records of their ranges may be missing.
    pub expired: Vec<File>,
    /// Days before this one have gone.
    pub expired_before: Option<String>,
    /// Delta tables, by source.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub tables: BTreeMap<String, DeltaTable>,
}

impl State {
    /// Takes in the next entry.
    fn apply(&mut self, entry: &Entry) -> anyhow::Result<()> {
        ensure!(entry.format == FORMAT, "manifest entry {} is of a newer form; was it written by a newer kilter?", entry.number);
        ensure!(entry.number == self.number + 1, "manifest entry {} follows {}", entry.number, self.number);
        if let Plan::Append { first, next } = entry.plan {
            if self.number == 0 {
                (self.first, self.next) = (first, first);
            }
            ensure!(first == self.next && first < next, "manifest entry {} appends {first}..{next} to {}", entry.number, self.next);
            self.next = next;
            self.last.clone_from(&entry.last);
        }
        let gone: BTreeSet<&str> = entry.remove.iter().map(String::as_str).chain(entry.add.iter().map(|f| f.path.as_str())).collect();
        let (removed, kept) = std::mem::take(&mut self.files).into_iter().partition(|f| gone.contains(f.path.as_str()));
        self.files = kept;
        if let Plan::Expire { before } = &entry.plan {
            self.expired.extend::<Vec<File>>(removed);
            self.expired_before = Some(before.clone());
        }
        self.files.extend(entry.add.iter().cloned());
        delta::apply(&mut self.tables, entry);
        (self.format, self.number) = (FORMAT, entry.number);
        Ok(())
    }

    /// Whether a record that is in no file went by its age.
    pub fn may_lack(&self, offset: u64) -> bool {
        self.expired.iter().any(|f| (f.first..f.next).contains(&offset))
    }
}

/// The manifest of one shard in its storage.
pub(crate) struct Manifest {
    pub shard: u32,
}

impl Manifest {
    fn folder(&self) -> String {
        format!("_kilter/{:05}", self.shard)
    }

    fn entry_path(&self, number: u64) -> String {
        format!("{}/log/{number:020}.json", self.folder())
    }

    fn plan_path(&self, number: u64) -> String {
        format!("{}/plan/{number:020}.json", self.folder())
    }

    fn current_path(&self) -> String {
        format!("{}/current.json", self.folder())
    }

    /// What the entries come to; with the newest one, whose files may still have to be deleted.
    pub fn load(&self, storage: &dyn Storage) -> anyhow::Result<(State, Option<Entry>)> {
        let mut state: State = read(storage, &self.current_path())?.unwrap_or_default();
        ensure!(state.format <= FORMAT, "the lake's manifest is of a newer form; was it written by a newer kilter?");
        let mut newest = None;
        if state.number > 0 {
            newest = read(storage, &self.entry_path(state.number))?;
        }
        while let Some(entry) = read::<Entry>(storage, &self.entry_path(state.number + 1))? {
            state.apply(&entry)?;
            newest = Some(entry);
        }
        Ok((state, newest))
    }

    /// The plan of the next entry, if it was fixed before.
    pub fn planned(&self, storage: &dyn Storage, state: &State) -> anyhow::Result<Option<Plan>> {
        read(storage, &self.plan_path(state.number + 1))
    }

    /// Fixes the plan of the next entry.
    pub fn plan(&self, storage: &dyn Storage, state: &State, plan: &Plan) -> anyhow::Result<()> {
        let path = self.plan_path(state.number + 1);
        let taken = self.entry_path(state.number + 1);
        ensure!(storage.read(&taken)?.is_none(), "{}", another_writer(&taken));
        if storage.create(&path, &serde_json::to_vec_pretty(plan)?)? {
            return Ok(());
        }
        let there: Plan = read(storage, &path)?.with_context(|| format!("{path} came and went"))?;
        if there != *plan {
            bail!("{}", another_writer(&path));
        }
        Ok(())
    }

    /// The state with one more entry, which counts when this returns.
    pub fn commit(&self, storage: &dyn Storage, state: &State, entry: &Entry) -> anyhow::Result<State> {
        let mut after = state.clone();
        after.apply(entry)?;
        let path = self.entry_path(entry.number);
        if !storage.create(&path, &serde_json::to_vec_pretty(entry)?)? {
            let there: Entry = read(storage, &path)?.with_context(|| format!("{path} came and went"))?;
            if there != *entry {
                bail!("{}", another_writer(&path));
            }
        }
        Ok(after)
    }

    /// What may be done once an entry counts, and is done again by the next start if need be: the list of files, Delta's commits, then the deletions.
    pub fn settle(&self, storage: &dyn Storage, state: &State, newest: &Entry) -> anyhow::Result<()> {
        storage.put(&self.current_path(), &serde_json::to_vec_pretty(state)?)?;
        for (path, commit) in delta::commits(state, newest) {
            let ours = storage.create(&path, &commit)? || storage.read(&path)?.is_some_and(|there| there == commit);
            ensure!(ours, "{}", another_writer(&path));
        }
        for path in &newest.remove {
            storage.delete(path)?;
        }
        storage.delete(&self.plan_path(newest.number))
    }
}

impl Entry {
    pub(crate) fn new(state: &State, plan: Plan) -> Entry {
        Entry { format: FORMAT, number: state.number + 1, plan, last: None, delta: None, add: Vec::new(), remove: Vec::new() }
    }
}

fn another_writer(path: &str) -> String {
    format!(
        "{path} is not what this process wrote: someone else writes to this lake\n  \
         hint: each project (and each worker's shard) has a lake of its own; give [lake] another `url`"
    )
}

fn read<T: DeserializeOwned>(storage: &dyn Storage, path: &str) -> anyhow::Result<Option<T>> {
    let Some(bytes) = storage.read(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).with_context(|| format!("{path} in the lake is damaged"))
}
