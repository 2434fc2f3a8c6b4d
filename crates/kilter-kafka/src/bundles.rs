//! Bundles of the shards that are here, and folders made of bundles: see `kilter_runtime::bundle`. The journal is shortened to what follows the older one kept.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use kilter_runtime::bundle::{self, Bundles, Contents, Manifest};
use kilter_runtime::journal::Agreed;
use kilter_runtime::project::Project;
use kilter_runtime::{BundleStatus, Service};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;

use crate::client::{self, Backoff, Logged, PATIENCE, Settings, lock};
use crate::journal::{NOTE_FILE, Reading};

/// How often it is looked whether a bundle may go out.
const STEP: Duration = Duration::from_secs(1);
/// Marks that are held at most.
const MARKS: usize = 4096;

/// Places where a shard's journal and its logs stand together, oldest first: from one of them before a snapshot on, the journal has everything behind the snapshot.
#[derive(Default)]
pub struct Marks(Mutex<Vec<Agreed>>);

impl Marks {
    pub fn add(&self, agreed: Agreed) {
        let mut marks = lock(&self.0);
        if marks.len() >= MARKS {
            // Older ones lie further and further apart.
            let mut odd = false;
            marks.retain(|_| {
                odd = !odd;
                odd
            });
        }
        marks.push(agreed);
    }

    /// The last one before the record at an offset.
    fn before(&self, offset: u64) -> Option<Agreed> {
        lock(&self.0).iter().rev().find(|mark| mark.events < offset).copied()
    }
}

/// The journal of a shard that is here.
pub struct Journal<'a> {
    pub settings: &'a Settings,
    pub topic: &'a str,
    pub shard: u32,
    pub runtime: &'a Handle,
}

/// What came of a look at whether a bundle is due.
enum Outcome {
    Nothing,
    Made(Manifest),
    /// One is due, and something has to happen first.
    Waits(String),
}

/// Keeps a shard's bundles up to date until told to stop.
pub fn keep(service: &Service, marks: &Marks, journal: &Journal<'_>, stopping: &AtomicBool) {
    let mut newest = None;
    let mut backoff = Backoff::new();
    while !stopping.load(Ordering::Acquire) {
        let (failed, waits) = match next(service, marks, &mut newest, stopping) {
            Ok(Outcome::Waits(why)) => (None, Some(why)),
            Ok(Outcome::Nothing) => (None, None),
            Ok(Outcome::Made(made)) => {
                tracing::info!(shard = journal.shard, offset = made.offset, bytes = made.bytes(), "a bundle of the shard is in the lake");
                newest = Some(made);
                (journal.shorten(service).err(), None)
            }
            Err(e) => (Some(e), None),
        };
        service.status.set_bundle(BundleStatus {
            offset: newest.as_ref().map(|newest| newest.offset),
            made: newest.as_ref().map(|newest| newest.made),
            bytes: newest.as_ref().map_or(0, Manifest::bytes),
            problem: failed.as_ref().map(|e| format!("{e:#}")).or(waits),
        });
        match failed {
            Some(e) if !stopping.load(Ordering::Acquire) => {
                tracing::warn!(shard = journal.shard, error = %format!("{e:#}"), again_in = ?backoff.next(), "a bundle of the shard cannot be kept");
                backoff.wait(stopping);
            }
            _ => {
                backoff.reset();
                let until = Instant::now() + STEP;
                while Instant::now() < until && !stopping.load(Ordering::Acquire) {
                    std::thread::sleep(Backoff::STEP);
                }
            }
        }
    }
}

/// Makes a bundle if one is due.
fn next(service: &Service, marks: &Marks, newest: &mut Option<Manifest>, stopping: &AtomicBool) -> anyhow::Result<Outcome> {
    let every = service.project.definitions.workers.as_ref().and_then(|workers| workers.snapshots);
    let (Some(every), Some(bundles)) = (every, Bundles::of(&service.project)?) else { return Ok(Outcome::Nothing) };
    if newest.is_none() {
        *newest = bundles.list()?.into_iter().next();
    }
    if newest.as_ref().is_some_and(|newest| service.clock().now() - newest.made < every) {
        return Ok(Outcome::Nothing);
    }
    let beyond = newest.as_ref().map_or(0, |newest| newest.offset);
    match bundle::ready(service, beyond, |offset| marks.before(offset)) {
        Ok(None) => Ok(Outcome::Nothing),
        Ok(Some(ready)) => Ok(Outcome::Made(bundle::make(service, &ready, &bundles, newest.as_ref(), stopping)?)),
        Err(e) => Ok(Outcome::Waits(format!("{e:#}"))),
    }
}

impl Journal<'_> {
    /// Removes older bundles, and the records of the journal that those which are kept do not need. While there is one bundle only, nothing goes.
    fn shorten(&self, service: &Service) -> anyhow::Result<()> {
        let Some(bundles) = Bundles::of(&service.project)? else { return Ok(()) };
        let kept = bundles.tidy().context("older bundles could not be removed")?;
        let [_, .., oldest] = kept.as_slice() else { return Ok(()) };
        let position = oldest.journal.position;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(self.topic, self.shard as i32, Offset::Offset(position as i64))?;
        let admin: AdminClient<Logged> = self.settings.config("journal").create_with_context(Logged).map_err(client::refused)?;
        let removed = self.runtime.block_on(admin.delete_records(&list, &AdminOptions::new().operation_timeout(Some(PATIENCE))));
        let outcome = removed.and_then(|list| list.elements().iter().try_for_each(|element| element.error()));
        outcome.with_context(|| format!("the journal could not be shortened: may this worker delete records of \"{}\"?", self.topic))
    }
}

/// Makes the shard's folder of the newest bundle that can be used, where there is one.
///
/// # Errors
/// A folder that cannot be written, brokers that do not answer.
pub fn make_folder(
    bundles: &Bundles,
    project: &Project,
    reading: &Reading,
    runtime: &Handle,
    stopping: &AtomicBool,
) -> anyhow::Result<bool> {
    for manifest in bundles.list()? {
        let contents = match fetch(bundles, &manifest, reading, stopping) {
            Ok(contents) => contents,
            Err(e) => {
                tracing::warn!(shard = reading.shard, offset = manifest.offset, error = %format!("{e:#}"), "a bundle is passed over");
                continue;
            }
        };
        bundle::unpack(project, &manifest, &contents, (NOTE_FILE, &serde_json::to_vec(&at(&manifest))?), runtime)?;
        tracing::info!(shard = reading.shard, offset = manifest.offset, bytes = manifest.bytes(), "the folder was made of a bundle");
        return Ok(true);
    }
    Ok(false)
}

/// Where a folder of a bundle agrees with the journal.
fn at(manifest: &Manifest) -> Agreed {
    Agreed { events: manifest.offset, ..manifest.journal }
}

/// A bundle's files, once the journal has the record before it.
fn fetch(bundles: &Bundles, manifest: &Manifest, reading: &Reading, stopping: &AtomicBool) -> anyhow::Result<Contents> {
    let position = manifest.journal.position;
    ensure!((reading.low..=reading.high).contains(&position), "the journal has {} to {}, not {position}", reading.low, reading.high);
    let last = manifest.offset - 1;
    let record = reading.record(position, last, stopping)?;
    ensure!(record.is_some_and(|record| manifest.follows(&record)), "record {last} of the journal is not the one that the bundle follows");
    bundles.fetch(manifest)
}
