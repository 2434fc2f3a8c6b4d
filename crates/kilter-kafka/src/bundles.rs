//! Bundles of the shards that are here, and folders made of bundles: see `kilter_runtime::bundle`. The journal is shortened to what follows the older one kept.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use kilter_core::Span;
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

/// The bundles of a shard as its owner knows them.
struct Known {
    bundles: Bundles,
    newest: Option<Manifest>,
}

/// What came of a look at whether a bundle is due.
enum Outcome {
    Nothing,
    Made,
    /// One is due, and something has to happen first.
    Waits(String),
}

/// Keeps a shard's bundles up to date until told to stop.
pub fn keep(service: &Arc<Service>, every: Span, marks: &Marks, journal: &Journal<'_>, stopping: &AtomicBool) {
    let (mut known, mut backoff) = (None, Backoff::new());
    while !stopping.load(Ordering::Acquire) {
        let (failed, waits) = match next(service, every, marks, &mut known, stopping) {
            Ok(Outcome::Waits(why)) => (None, Some(why)),
            Ok(Outcome::Nothing) => (None, None),
            Ok(Outcome::Made) => (known.as_ref().and_then(|known| journal.follow(known)), None),
            Err(e) => (Some(e), None),
        };
        let newest = known.as_ref().and_then(|known: &Known| known.newest.as_ref());
        service.status.set_bundle(BundleStatus {
            offset: newest.map(|newest| newest.offset),
            made: newest.map(|newest| newest.made),
            bytes: newest.map_or(0, Manifest::bytes),
            problem: failed.as_ref().map(|e| format!("{e:#}")).or(waits),
        });
        if let Some(e) = failed.filter(|_| !stopping.load(Ordering::Acquire)) {
            tracing::warn!(shard = journal.shard, error = %format!("{e:#}"), again_in = ?backoff.next(), "a bundle of the shard cannot be kept");
            backoff.wait(stopping);
        } else {
            backoff.reset();
            let until = Instant::now() + STEP;
            while Instant::now() < until && !stopping.load(Ordering::Acquire) {
                std::thread::sleep(Backoff::STEP);
            }
        }
    }
}

/// Makes a bundle if one is due.
fn next(service: &Arc<Service>, every: Span, marks: &Marks, known: &mut Option<Known>, stopping: &AtomicBool) -> anyhow::Result<Outcome> {
    let known = match known {
        Some(known) => known,
        None => {
            let bundles = Bundles::of(&service.project)?.context("the project keeps no bundles")?;
            let newest = bundles.list()?.into_iter().next();
            known.insert(Known { bundles, newest })
        }
    };
    let newest = known.newest.as_ref();
    if newest.is_some_and(|newest| service.clock().now() - newest.made < every) {
        return Ok(Outcome::Nothing);
    }
    // Positions rise with bundles: the journal is shortened by that of the older one.
    let mark = |offset| marks.before(offset).into_iter().chain(newest.map(|newest| newest.journal)).max_by_key(|mark| mark.position);
    match bundle::ready(service, newest.map_or(0, |newest| newest.offset), mark) {
        Ok(None) => Ok(Outcome::Nothing),
        Ok(Some(ready)) => {
            known.newest = Some(bundle::make(service, &ready, &known.bundles, newest, stopping)?);
            Ok(Outcome::Made)
        }
        Err(e) => Ok(Outcome::Waits(format!("{e:#}"))),
    }
}

impl Journal<'_> {
    /// What follows from a new bundle: older ones go, and what they needed of the journal. Gives what went wrong with bundles; the journal may stay as it is.
    fn follow(&self, known: &Known) -> Option<anyhow::Error> {
        if let Some(made) = &known.newest {
            tracing::info!(shard = self.shard, offset = made.offset, bytes = made.bytes(), "a bundle of the shard is in the lake");
        }
        let kept = match known.bundles.tidy() {
            Ok(kept) => kept,
            Err(e) => return Some(e.context("older bundles could not be removed")),
        };
        // While there is only one bundle, there must be something to fall back upon.
        if let [_, .., oldest] = kept.as_slice()
            && let Err(e) = self.shorten(oldest.journal.position)
        {
            tracing::warn!(shard = self.shard, error = %format!("{e:#}"), "the journal stays as long as it is");
        }
        None
    }

    /// Removes the records before a position.
    fn shorten(&self, position: u64) -> anyhow::Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(self.topic, self.shard as i32, Offset::Offset(position as i64))?;
        let admin: AdminClient<Logged> = self.settings.config("journal").create_with_context(Logged).map_err(client::refused)?;
        let removed = self.runtime.block_on(admin.delete_records(&list, &AdminOptions::new().operation_timeout(Some(PATIENCE))));
        let outcome = removed.and_then(|list| list.elements().iter().try_for_each(|element| element.error()));
        outcome.with_context(|| format!("no records of topic \"{}\" could be deleted", self.topic))
    }
}

/// Makes the shard's folder of the newest bundle that can be used and is `wanted`, where there is one.
///
/// # Errors
/// A folder that cannot be written, brokers that do not answer.
pub fn make_folder(
    bundles: &Bundles,
    project: &Project,
    reading: &Reading,
    wanted: impl Fn(&Manifest) -> bool,
    runtime: &Handle,
    stopping: &AtomicBool,
) -> anyhow::Result<bool> {
    for manifest in bundles.list()?.into_iter().filter(wanted) {
        let contents = match fetch(bundles, &manifest, reading, stopping) {
            Ok(contents) => contents,
            Err(e) if stopping.load(Ordering::Acquire) => return Err(e),
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
    bundles.fetch(manifest, stopping)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_stay_bounded_and_the_newest_before_an_offset_is_found() {
        let marks = Marks::default();
        for n in 0..20_000 {
            marks.add(Agreed { position: 3 * n, events: 2 * n, dead_letters: n });
        }
        assert!(lock(&marks.0).len() <= MARKS);
        assert_eq!(marks.before(0), None);
        assert_eq!(marks.before(1).unwrap().position, 0);
        let found = |offset| marks.before(offset).unwrap().events;
        assert_eq!([found(40_000), found(39_999), found(39_998)], [39_998, 39_998, 39_996]);
        assert!((1..40_000).all(|offset| found(offset) < offset && found(offset) + 600 >= offset));
    }
}
