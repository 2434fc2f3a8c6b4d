//! Copies of shards that are with other workers: folders made of bundles and kept up to date by the journals, so that whoever takes a shard over has little left to read.
//!
//! A copy is a folder that nobody runs, and the one that is taken over: it agrees with what was committed to the journal, which is the truth whoever has the shard. A folder
//! that this worker has run once is read on like any other, and kept for its decisions and runs; one that was never anything but a copy is made anew of a newer bundle when
//! that saves time.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, TryLockError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kilter_core::{Offset, Span};
use kilter_runtime::bundle::{Bundles, Manifest};
use kilter_runtime::project::{Project, Shard};
use kilter_runtime::shards::{Place, Shards};
use kilter_store::files::{prepare_dir, write_whole};
use kilter_store::snapshot::{SnapshotOptions, Snapshots};
use tokio::runtime::Handle;

use crate::bundles;
use crate::client::{Backoff, Settings, lock};
use crate::journal::{Folder, Reach, Reader, Reading};

/// How often journals are read on.
const EVERY: Duration = Duration::from_secs(2);
/// How often it is written down how far a copy is: what is behind is read again after a stop.
const NOTE_EVERY: Duration = Duration::from_secs(10);
/// How often it is looked whether there is a newer bundle, at most.
const LOOK: Duration = Duration::from_secs(60);
/// After failures a shard is left alone for twice as long each time, from `EVERY` to this.
const LONGEST: Duration = Duration::from_secs(3600);
/// A failure is told of once it is not the first: a shard that has just left may still be in use.
const TOLD_FROM: Duration = Duration::from_secs(8);
/// Bytes of a bundle that cost to fetch and load about what one event costs to apply, roughly.
const BYTES_PER_EVENT: u64 = 3000;
/// In a folder that was never anything but a copy.
const COPY_FILE: &str = "copy";

/// The copies of a worker, by shard.
pub struct Copies(Vec<Slot>);

#[derive(Default)]
struct Slot {
    /// The shard is here, or comes: its folder is left alone.
    taken: AtomicBool,
    copy: Mutex<Option<Copy>>,
}

/// What copies are kept with.
pub struct Keeping<'a> {
    pub settings: &'a Settings,
    pub shards: &'a Shards,
    pub data: &'a Path,
    pub runtime: &'a Handle,
    /// How often there is a new bundle.
    pub bundles: Span,
}

struct Copy {
    project: Project,
    shard: Shard,
    bundles: Bundles,
    folder: Folder,
    /// How long the journal was when it was read last.
    read_to: u64,
    noted: Instant,
    looked: Instant,
}

/// What went wrong with a copy so far.
#[derive(Default)]
struct Trouble {
    /// When it is tried again, and how long was waited.
    again: Option<(Instant, Duration)>,
    /// The newest bundle that was tried: one that cannot be used is not fetched again and again.
    tried: Offset,
}

impl Copies {
    pub fn new(shards: u32) -> Copies {
        Copies((0..shards).map(|_| Slot::default()).collect())
    }

    /// Lets go of a shard's folder, until it is given back. Waits for it, but for a stop.
    pub fn take(&self, shard: u32, stopping: &AtomicBool) {
        let Some(slot) = self.0.get(shard as usize) else { return };
        slot.taken.store(true, Ordering::Release);
        while !stopping.load(Ordering::Acquire) {
            match slot.copy.try_lock() {
                Err(TryLockError::WouldBlock) => std::thread::sleep(Backoff::STEP / 10),
                Ok(mut copy) => return drop(copy.take()),
                Err(TryLockError::Poisoned(copy)) => return drop(copy.into_inner().take()),
            }
        }
    }

    /// The shard has left.
    pub fn give_back(&self, shard: u32) {
        if let Some(slot) = self.0.get(shard as usize) {
            slot.taken.store(false, Ordering::Release);
        }
    }

    /// No copy is worked on any longer than it must.
    pub fn leave(&self) {
        self.0.iter().for_each(|slot| slot.taken.store(true, Ordering::Release));
    }

    /// Keeps copies of all shards that others have until told to stop.
    pub fn keep(&self, with: &Keeping<'_>, stopping: &AtomicBool) {
        let mut reader = None;
        let mut troubles: Vec<Trouble> = self.0.iter().map(|_| Trouble::default()).collect();
        while !stopping.load(Ordering::Acquire) {
            let began = Instant::now();
            for (shard, (slot, trouble)) in (0..).zip(self.0.iter().zip(&mut troubles)) {
                let is_free = || !stopping.load(Ordering::Acquire) && !slot.taken.load(Ordering::Acquire);
                let is_there = matches!(with.shards.place(shard), Some(Place::There { .. }));
                if !is_there || !is_free() || trouble.again.is_some_and(|(at, _)| Instant::now() < at) {
                    continue;
                }
                let mut copy = lock(&slot.copy);
                // The shard may have come here while the lock was waited for.
                if !is_free() {
                    continue;
                }
                match with.keep(shard, &mut reader, &mut copy, &mut trouble.tried, &slot.taken) {
                    Ok(next) => {
                        trouble.again = None;
                        with.shards.set_copy(shard, Some(next));
                    }
                    Err(e) => {
                        (*copy, reader) = (None, None);
                        with.shards.set_copy(shard, None);
                        if is_free() {
                            let wait = trouble.again.map_or(EVERY, |(_, wait)| (2 * wait).min(LONGEST));
                            trouble.again = Some((Instant::now() + wait, wait));
                            if wait >= TOLD_FROM {
                                tracing::warn!(shard, error = %format!("{e:#}"), again_in = ?wait, "no copy of the shard can be kept");
                            }
                        }
                    }
                }
            }
            while began.elapsed() < EVERY && !stopping.load(Ordering::Acquire) {
                std::thread::sleep(Backoff::STEP);
            }
        }
    }
}

impl Keeping<'_> {
    /// Brings a copy up to date; gives its next offset.
    fn keep(
        &self,
        shard: u32,
        reader: &mut Option<Reader>,
        kept: &mut Option<Copy>,
        tried: &mut Offset,
        taken: &AtomicBool,
    ) -> anyhow::Result<Offset> {
        let reader = match reader {
            Some(reader) => reader,
            None => reader.insert(Reader::new(self.settings, "standby")?),
        };
        let reading = reader.of(shard)?;
        let is_new = kept.is_none();
        let mut copy = match kept.take() {
            Some(copy) => copy,
            None => self.open(shard)?,
        };
        let look = LOOK.min(Duration::from_micros(self.bundles.0.unsigned_abs()));
        if is_new || !copy.folder.is_reached(&reading) || copy.looked.elapsed() >= look {
            copy = copy.renewed(&reading, self.runtime, tried, taken)?;
        }
        if reading.high != copy.read_to && copy.folder.catch_up(&reading, &Reach { stopping: taken, grows: true })? {
            copy.read_to = reading.high;
        }
        if copy.noted.elapsed() >= NOTE_EVERY {
            copy.folder.note()?;
            copy.noted = Instant::now();
        }
        let next = copy.folder.next_offset();
        *kept = Some(copy);
        Ok(next)
    }

    fn open(&self, number: u32) -> anyhow::Result<Copy> {
        let shard = Shard { number, data: crate::worker::folder_of(self.data, number) };
        let project = Project { shard: Some(shard.clone()), ..Project::clone(&self.shards.project) };
        let bundles = Bundles::of(&project)?.context("the project keeps no bundles")?;
        std::fs::create_dir_all(&shard.data).with_context(|| format!("cannot make the data folder {}", shard.data.display()))?;
        prepare_dir(&shard.data)?;
        let folder = Folder::open(&project, &shard)?;
        if folder.is_empty() {
            write_whole(&shard.data.join(COPY_FILE), &[])?;
        }
        let now = Instant::now();
        Ok(Copy { project, shard, bundles, folder, read_to: 0, noted: now, looked: now })
    }
}

impl Copy {
    /// Made of a newer bundle, where there is no other way to go on, or where going on from what is here would take longer.
    fn renewed(mut self, reading: &Reading, runtime: &Handle, tried: &mut Offset, taken: &AtomicBool) -> anyhow::Result<Copy> {
        self.looked = Instant::now();
        let serves = self.folder.serves(reading);
        let is_copy = self.shard.data.join(COPY_FILE).exists();
        if serves && !is_copy {
            return Ok(self);
        }
        let (stands, before) = (stands(&self.shard)?, *tried);
        let wanted = |manifest: &Manifest| manifest.offset > before && (!serves || is_worth(manifest.offset, manifest.bytes(), stands));
        let listed = match self.bundles.list() {
            Err(e) if serves => {
                tracing::debug!(shard = self.shard.number, error = %format!("{e:#}"), "the copy goes on without a look at bundles");
                return Ok(self);
            }
            listed => listed?,
        };
        let Some(newest) = listed.iter().filter(|manifest| wanted(manifest)).map(|manifest| manifest.offset).max() else {
            return Ok(self);
        };
        let Copy { project, shard, bundles, folder, .. } = self;
        // Nothing of the folder is open while it is made anew.
        drop(folder);
        let made = bundles::make_folder(&bundles, &project, reading, wanted, runtime, taken);
        if !taken.load(Ordering::Acquire) {
            *tried = newest;
        }
        if made? {
            write_whole(&shard.data.join(COPY_FILE), &[])?;
        }
        let folder = Folder::open(&project, &shard)?;
        let now = Instant::now();
        Ok(Copy { project, shard, bundles, folder, read_to: 0, noted: now, looked: now })
    }
}

/// A folder is no mere copy any more: this worker has the shard.
pub fn own(folder: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(folder.join(COPY_FILE)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).with_context(|| format!("cannot change {}", folder.display())),
        _ => Ok(()),
    }
}

/// Whether a bundle is loaded sooner than the events between a snapshot and it are applied.
fn is_worth(offset: Offset, bytes: u64, stands: Offset) -> bool {
    offset.saturating_sub(stands).saturating_mul(BYTES_PER_EVENT) > bytes
}

/// Where the newest snapshot of a folder stands; else where its log may begin.
fn stands(shard: &Shard) -> anyhow::Result<Offset> {
    let snapshots = Snapshots::open(shard.data.join("snapshots"), SnapshotOptions::default())?;
    Ok(snapshots.list()?.iter().map(|snapshot| snapshot.offset).max().unwrap_or(shard.first_offset()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_fetched_when_that_saves_time() {
        // A gigabyte for a few events is not; nor is one that stands before what is here.
        assert!(!is_worth(1_000, 1 << 30, 0));
        assert!(is_worth(1_000_000, 1 << 30, 0));
        assert!(!is_worth(1_000_000, 1 << 30, 900_000));
        assert!(!is_worth(10, 1, 10) && !is_worth(9, 1, 10) && is_worth(11, 1, 10));
    }

    #[test]
    fn whoever_takes_a_shard_does_not_wait_beyond_a_stop() {
        let copies = Copies::new(1);
        let held = lock(&copies.0[0].copy);
        copies.take(0, &AtomicBool::new(true));
        assert!(copies.0[0].taken.load(Ordering::Acquire));
        drop(held);
        copies.take(0, &AtomicBool::new(false));
        copies.give_back(0);
        assert!(!copies.0[0].taken.load(Ordering::Acquire));
    }
}
