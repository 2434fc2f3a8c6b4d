//! The lake: history as Parquet files by source and day, on a disk or on object storage, readable by anything that reads Parquet.
//!
//! ```text
//! events/source=transactions/date=2026-03-01/part-00000-{first}-{next}.parquet   events, a row each
//! _kilter/records/part-00000-{first}-{next}.parquet                              control records, what is left of erased events
//! _kilter/00000/...                                                              which files count: see `manifest`
//! ```
//! The lake takes in the records of an event log in batches, each a range of offsets. What a batch becomes is fixed before a file of it is written, and is a
//! function of its records; so a batch that was interrupted is made again as it was, under the same names, and nothing is there twice or left over.
//! [`Lake::reader`] gives back the records, to the byte. See `docs/decisions/0038-the-lake-is-the-log-in-columns.md`.

mod compact;
mod delta;
mod erase;
mod manifest;
mod merge;
mod reader;
pub mod storage;
mod table;
mod write;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;

pub use compact::Compacted;
pub use delta::DeltaTable;
pub use manifest::{Entry, File, Part, Plan, State};
pub use reader::Reader;
pub use storage::Storage;
pub use table::Table;
pub use write::{Appended, Limits, Schemas, Source};

use manifest::Manifest;
use table::Builder;

/// What a lake is to other programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Parquet files in folders by source and day.
    #[default]
    Parquet,
    /// The same files, and of each source a Delta Lake table of them.
    Delta,
}

/// A lake opened by the one process that holds the log of its shard, or by others to be read.
pub struct Lake {
    storage: Arc<dyn Storage>,
    manifest: Manifest,
    /// Another process may write to it.
    others: bool,
    /// Whether Delta tables are kept beside the files.
    delta: bool,
    state: Mutex<Arc<State>>,
    /// One change at a time.
    changing: Mutex<Unsettled>,
}

impl Lake {
    /// Opens the lake, and finishes what the newest entry left to be deleted.
    ///
    /// # Errors
    /// Storage that does not answer; a manifest that is damaged or of a newer form.
    pub fn open(storage: Arc<dyn Storage>, shard: u32, format: Format) -> anyhow::Result<Arc<Lake>> {
        let manifest = Manifest { shard };
        let (state, newest) = manifest.load(&*storage).context("the lake cannot be opened")?;
        let lake = Lake {
            storage,
            manifest,
            others: false,
            delta: format == Format::Delta,
            state: Mutex::new(Arc::new(state)),
            changing: Mutex::new(Unsettled { entry: newest, counts: true }),
        };
        lake.settle(&mut lock(&lake.changing)).context("the lake cannot be opened")?;
        Ok(Arc::new(lake))
    }

    /// Opens what another process writes, to be read and nothing else.
    ///
    /// # Errors
    /// As [`Lake::open`].
    pub fn watch(storage: Arc<dyn Storage>, shard: u32) -> anyhow::Result<Arc<Lake>> {
        let manifest = Manifest { shard };
        let (state, _) = manifest.load(&*storage).context("the lake cannot be opened")?;
        let (state, changing) = (Mutex::new(Arc::new(state)), Mutex::default());
        Ok(Arc::new(Lake { storage, manifest, others: true, delta: false, state, changing }))
    }

    /// Whether files have come or gone since the entry with this number.
    pub(crate) fn has_moved_on(&self, number: u64) -> anyhow::Result<bool> {
        if self.others {
            let (state, _) = self.manifest.load(&*self.storage)?;
            *lock(&self.state) = Arc::new(state);
        }
        Ok(self.state().number > number)
    }

    /// What is in the lake at this moment.
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&lock(&self.state))
    }

    /// The records from `from` on that are in the lake now.
    pub fn reader(self: &Arc<Self>, from: u64) -> Reader {
        Reader::new(self, from)
    }

    /// What the next entry was to do when the work was interrupted.
    pub(crate) fn planned(&self) -> anyhow::Result<Option<Plan>> {
        self.manifest.planned(&*self.storage, &self.state())
    }

    /// The lock under which a change is made. What was under way is finished, but for a batch and an erasure, which need more than the lake.
    fn begin(&self) -> anyhow::Result<Changing<'_>> {
        let mut changing = lock(&self.changing);
        self.settle(&mut changing)?;
        match self.planned()? {
            Some(Plan::Compact { files }) => self.merge(&mut changing, files)?,
            Some(Plan::Expire { before }) => self.drop_before(&mut changing, before).map(|_| ())?,
            Some(Plan::Append { .. } | Plan::Erase { .. }) | None => {}
        }
        Ok(changing)
    }

    /// The same, where nothing else may be under way.
    fn begin_alone(&self) -> anyhow::Result<Changing<'_>> {
        let changing = self.begin()?;
        if let Some(plan) = self.planned()? {
            anyhow::bail!("{plan:?} is under way in the lake, and has to be finished first");
        }
        Ok(changing)
    }

    /// Lets the newest entry count, and does what follows from it.
    fn settle(&self, changing: &mut Unsettled) -> anyhow::Result<()> {
        if let Some(entry) = &changing.entry {
            if !changing.counts {
                let after = self.manifest.commit(&*self.storage, &self.state(), entry)?;
                *lock(&self.state) = Arc::new(after);
                changing.counts = true;
            }
            self.manifest.settle(&*self.storage, &self.state(), entry)?;
        }
        *changing = Unsettled::default();
        Ok(())
    }

    /// Fixes a plan, does its work, and lets it count.
    fn carry_out(&self, changing: &mut Unsettled, plan: &Plan, work: impl FnOnce(&State) -> anyhow::Result<Entry>) -> anyhow::Result<()> {
        let state = self.state();
        self.manifest.plan(&*self.storage, &state, plan)?;
        let entry = work(&state)?;
        *changing = Unsettled { entry: Some(entry), counts: false };
        self.settle(changing)
    }

    /// The next entry, to be filled.
    fn entry(&self, state: &State, plan: Plan) -> Entry {
        Entry { delta: self.delta.then(Default::default), ..Entry::new(state, plan) }
    }

    /// Puts a finished file of an entry in its place, which is none that has been taken.
    fn put(&self, state: &State, entry: &mut Entry, builder: Builder, first: u64, next: u64) -> anyhow::Result<()> {
        let folder = match &builder.table.part {
            Part::Events { source, date, .. } => format!("events/source={source}/date={date}"),
            Part::Records => "_kilter/records".into(),
        };
        let name = format!("{folder}/part-{:05}-{first:020}-{next:020}", self.manifest.shard);
        let mut path = format!("{name}.parquet");
        if state.files.iter().any(|f| f.path == path) {
            path = format!("{name}-{}.parquet", state.number + 1);
        }
        if let (Some(delta), Part::Events { source, .. }) = (&mut entry.delta, &builder.table.part) {
            delta.insert(source.clone(), builder.table.file_columns());
        }
        let (file, bytes) = builder.finish(path, first, next)?;
        self.storage.put(&file.path, &bytes)?;
        entry.add.push(file);
        Ok(())
    }
}

/// An entry whose files are written, while a request of its commit or of what follows may have failed: these are made again.
#[derive(Default)]
struct Unsettled {
    entry: Option<Entry>,
    /// The commit has been answered.
    counts: bool,
}

/// The right to change the lake.
type Changing<'a> = MutexGuard<'a, Unsettled>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
