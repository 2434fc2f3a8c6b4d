//! The records of the event log, those that only the lake still has among them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, ensure};
use kilter_core::{Offset, Stub};
use kilter_lake::{Lake, Storage, storage};
use kilter_store::log::{Log, LogError, LogReader};

use crate::project::{LakeDef, LakeFormat, Project, filled};
use crate::status::lock;

/// The event log with what has gone from its beginning. The lake is opened when it is first needed: an object storage that does not answer keeps no project from starting.
pub struct History {
    log: Arc<Log>,
    /// Offset of the first record that the log ever had.
    first: Offset,
    lake: Option<Place>,
    opened: Mutex<Option<Arc<Lake>>>,
}

/// Where the lake lies.
struct Place {
    definition: LakeDef,
    base: PathBuf,
    /// The number of this log among those that write into one lake.
    shard: u32,
}

impl From<LakeFormat> for kilter_lake::Format {
    fn from(format: LakeFormat) -> Self {
        match format {
            LakeFormat::Parquet => kilter_lake::Format::Parquet,
            LakeFormat::Delta => kilter_lake::Format::Delta,
        }
    }
}

impl Place {
    fn storage(&self) -> anyhow::Result<Arc<dyn Storage>> {
        open_storage(&self.definition, &self.base)
    }
}

impl History {
    pub fn new(log: Arc<Log>, project: &Project) -> History {
        let shard = project.shard.as_ref().map_or(0, |shard| shard.number);
        let lake = project.definitions.lake.clone().map(|definition| Place { definition, base: project.dir.clone(), shard });
        History { log, first: project.first_offset(), lake, opened: Mutex::default() }
    }

    /// The event log alone, as far as it reaches back.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The lake; none: the project has none.
    ///
    /// # Errors
    /// It cannot be opened, or it was written from another log.
    pub fn lake(&self) -> anyhow::Result<Option<Arc<Lake>>> {
        let Some(place) = &self.lake else { return Ok(None) };
        let mut opened = lock(&self.opened);
        if let Some(lake) = &*opened {
            return Ok(Some(Arc::clone(lake)));
        }
        let definition = &place.definition;
        let lake = Lake::open(place.storage()?, place.shard, definition.format.into())?;
        self.fits(&lake).with_context(|| format!("the lake {} and this data folder do not belong together", definition.url))?;
        Ok(Some(Arc::clone(opened.insert(lake))))
    }

    /// What another log of the project has in the lake, to be read; none: the project has no lake.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn lake_of(&self, shard: u32) -> anyhow::Result<Option<Arc<Lake>>> {
        let Some(place) = &self.lake else { return Ok(None) };
        Lake::watch(place.storage()?, shard).map(Some)
    }

    /// Opens the lake anew when it is needed next: somebody else may have written to it.
    pub fn forget_lake(&self) {
        *lock(&self.opened) = None;
    }

    /// Whether a lake has been written from this log.
    fn fits(&self, lake: &Lake) -> anyhow::Result<()> {
        let state = lake.state();
        let (start, end) = (self.log.start_offset(), self.log.next_offset());
        if state.number == 0 {
            return Ok(());
        }
        ensure!(
            state.next <= end,
            "the lake has the records before {}, and the log ends at {end}\n  \
             hint: the data folder is new, or older than the lake (a backup?); give [lake] another `url` to begin anew",
            state.next
        );
        ensure!(
            start <= state.next,
            "the lake ends at {}, and the log begins at {start}: what lay between is in neither\n  hint: restore the lake from a copy",
            state.next
        );
        let newest = state.next.saturating_sub(1);
        if newest < start {
            return Ok(());
        }
        let record = self.log.read(newest)?.with_context(|| format!("the log has no record {newest}"))?;
        // What was erased is not known again.
        ensure!(
            Stub::decode(&record)?.is_some() || lake.ends_with(&record),
            "record {newest} of the lake is not the one in the log\n  hint: the lake belongs to another project; give [lake] another `url`"
        );
        Ok(())
    }

    /// Offset of the oldest record that is still somewhere.
    pub fn start(&self) -> anyhow::Result<Offset> {
        let start = self.log.start_offset();
        if start == self.first {
            return Ok(start);
        }
        let lake = self.lake()?.map(|lake| lake.state()).filter(|state| state.number > 0);
        Ok(lake.map_or(start, |state| state.first))
    }

    /// The records from `from` on.
    pub fn records(&self, from: Offset) -> Records<'_> {
        Records { history: self, past: None, log: self.log.reader(from), record: Vec::new() }
    }

    /// All records that are still somewhere.
    pub fn all(&self) -> anyhow::Result<Records<'_>> {
        Ok(self.records(self.start()?))
    }

    /// One record; none: it is nowhere.
    pub fn record(&self, offset: Offset) -> anyhow::Result<Option<Vec<u8>>> {
        if offset < self.log.start_offset() && offset < self.start()? {
            return Ok(None);
        }
        let mut records = self.records(offset);
        Ok(records.next_record()?.filter(|(found, _)| *found == offset).map(|(_, bytes)| bytes.to_vec()))
    }
}

/// A place in the history that moves forward record by record: through the lake as far as the log no longer reaches back, then through the log.
pub struct Records<'a> {
    history: &'a History,
    past: Option<kilter_lake::Reader>,
    log: LogReader,
    record: Vec<u8>,
}

impl Records<'_> {
    /// The next record, or none at the end of what is there so far. What has expired in the lake is passed over.
    ///
    /// # Errors
    /// Records that are neither in the lake nor in the log; damage; storage that does not answer.
    pub fn next_record(&mut self) -> anyhow::Result<Option<(Offset, &[u8])>> {
        Ok(self.advance()?.map(|offset| (offset, self.record.as_slice())))
    }

    /// Offset of the record that the next call gives, or of the next one that has not expired.
    pub fn next_offset(&self) -> Offset {
        self.past.as_ref().map_or_else(|| self.log.next_offset(), kilter_lake::Reader::next_offset)
    }

    fn advance(&mut self) -> anyhow::Result<Option<Offset>> {
        loop {
            if let Some(past) = &mut self.past {
                if let Some((offset, record)) = past.next_record()? {
                    keep(&mut self.record, record);
                    return Ok(Some(offset));
                }
                self.log = self.history.log.reader(past.next_offset());
                self.past = None;
            }
            match self.log.next_record() {
                Ok(None) => return Ok(None),
                Ok(Some((offset, record))) => {
                    keep(&mut self.record, record);
                    return Ok(Some(offset));
                }
                Err(LogError::OffsetGone { .. }) => {
                    let next = self.log.next_offset();
                    let lake = self.history.lake()?.filter(|lake| lake.state().next > next);
                    let lake = lake.with_context(|| format!("record {next} is no longer in the event log, and in no lake"))?;
                    self.past = Some(lake.reader(next));
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// The place that the lake lies in.
pub(crate) fn open_storage(lake: &LakeDef, base: &Path) -> anyhow::Result<Arc<dyn Storage>> {
    let properties = filled("lake", &lake.properties, |name| std::env::var(name).ok()).map_err(anyhow::Error::msg)?;
    storage::open(&lake.url, base, &properties)
}

fn keep(held: &mut Vec<u8>, record: &[u8]) {
    held.clear();
    held.extend_from_slice(record);
}
