//! A bundle of a shard that this process has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, bail, ensure};
use kilter_core::Offset;
use kilter_store::log::Log;
use kilter_store::snapshot::SnapshotInfo;

use super::{Bundles, CATALOG, Contents, DEAD_LETTERS, DEFINITIONS, FORMAT, IDS, MODEL, Manifest, SINK, SNAPSHOT, go_on, hash};
use crate::catalog::Control;
use crate::data::Data;
use crate::ids;
use crate::journal::Agreed;
use crate::project::{Connector, Feed};
use crate::service::Service;

/// Dead letters that go with a bundle at most, newest first: in number and in bytes.
const LETTERS: u64 = 10_000;
const LETTER_BYTES: usize = 16 << 20;

/// A snapshot that a bundle may be made of.
pub struct Ready {
    snapshot: SnapshotInfo,
    journal: Agreed,
}

/// The newest snapshot behind `beyond` that a bundle may be made of; none: there is none. `mark` gives a place before an offset where journal and logs stand together.
///
/// # Errors
/// Why the newest one may not go out yet.
pub fn ready(service: &Service, beyond: Offset, mark: impl Fn(Offset) -> Option<Agreed>) -> anyhow::Result<Option<Ready>> {
    let mut why = None;
    for snapshot in service.data.snapshots.list()?.into_iter().rev().take_while(|snapshot| snapshot.offset > beyond) {
        let Some(journal) = mark(snapshot.offset) else { continue };
        match settled(service, snapshot.offset, journal) {
            Ok(()) => return Ok(Some(Ready { snapshot, journal })),
            Err(e) => why = why.or(Some(e)),
        }
    }
    why.map_or(Ok(None), Err)
}

/// Nothing can take back the records before `offset`, and nothing that follows from them is still to be done.
fn settled(service: &Service, offset: Offset, journal: Agreed) -> anyhow::Result<()> {
    let data = &service.data;
    // Behind a snapshot it is written down how far each topic has been read; a start that does not find that would have to read the whole history.
    let topics = service.project.definitions.source.iter().filter(|(_, source)| source.connector == Connector::Kafka).count() as u64;
    ensure!(data.settled_offset() >= offset + topics, "the journal has not come to offset {offset} yet");
    let lake = data.history.lake()?.context("there is no lake")?.state();
    ensure!(lake.next >= offset, "the lake has the records before {}, and not yet those before {offset}", lake.next);
    let sinks = service.status.sinks();
    for (name, sink) in service.project.definitions.sink.iter() {
        let needed = match sink.feed() {
            Some(Feed::Decisions(_)) => service.decisions_from(offset)?,
            Some(Feed::DeadLetters) => journal.dead_letters,
            None => continue,
        };
        if sinks.get(name).is_none_or(|status| status.next < needed) {
            bail!("sink `{name}` has not delivered yet what came of the records before {offset}");
        }
    }
    Ok(())
}

/// Makes a bundle and puts it into the lake. `before` is the newest one that is there.
///
/// # Errors
/// Storage that does not answer, files that cannot be read, a stop.
pub fn make(
    service: &Arc<Service>,
    ready: &Ready,
    bundles: &Bundles,
    before: Option<&Manifest>,
    stopping: &AtomicBool,
) -> anyhow::Result<Manifest> {
    let (data, Ready { snapshot, journal }) = (&service.data, ready);
    let offset = snapshot.offset;
    let last = data.history.record(offset - 1)?.with_context(|| format!("record {} is nowhere", offset - 1))?;
    let found = data.snapshots.newest(offset, &snapshot.definition_hash)?.snapshot.filter(|found| found.offset == offset);
    let state = found.with_context(|| format!("the snapshot at {offset} cannot be read"))?;
    let text = data.definitions(&snapshot.definition_hash).context("the definitions of the snapshot are not kept in the data folder")?;
    let (_, catalog) = data.catalog_beyond(0).context("the catalog is empty")?;
    let plan = service.current().plan.clone();
    let longest = plan.sources.iter().map(|source| source.dedupe).max().unwrap_or_default();
    let now = service.clock().now();
    let log = data.dead_letters.log();
    let oldest_letter = log.start_offset().max(journal.dead_letters.saturating_sub(LETTERS));
    let (first_dead_letter, letters) = letters(log, oldest_letter, journal.dead_letters)?;
    let champions = champions(data, before, offset, stopping)?;
    go_on(stopping)?;
    let mut files = BTreeMap::from([
        (SNAPSHOT.to_owned(), state.bytes),
        (DEFINITIONS.to_owned(), text.into_bytes()),
        (CATALOG.to_owned(), catalog),
        (DEAD_LETTERS.to_owned(), letters),
        (IDS.to_owned(), ids::collected(data, &plan, now - longest, offset)?),
    ]);
    // All versions that ever served: those that the bundle before has are not even read.
    let mut there = BTreeMap::new();
    for champion in &champions {
        if let Control::Champion { artifact, reference, .. } = champion {
            for hash in [artifact, reference] {
                let name = format!("{MODEL}{hash}");
                if let Some(parts) = before.and_then(|before| before.files.get(&name)) {
                    there.insert(name, parts.clone());
                } else {
                    go_on(stopping)?;
                    files.insert(name, data.artifact(hash)?);
                }
            }
        }
    }
    for (name, _) in service.project.definitions.sink.iter() {
        // A sink that has nothing to tell yet has no cursor; Kafka has it as well.
        if let Ok(cursor) = std::fs::read(data.dir.join("sinks").join(format!("{name}.json"))) {
            files.insert(format!("{SINK}{name}"), cursor);
        }
    }
    let draft = Manifest {
        format: FORMAT,
        offset,
        last: hash(&last),
        journal: *journal,
        event_time: snapshot.event_time,
        definitions: snapshot.definition_hash.clone(),
        made: now,
        first_dead_letter,
        champions,
        files: there,
    };
    bundles.put(draft, Contents { files }, stopping)
}

/// The newest dead letters before `until`, from `from` on as far as they fit, each behind its length; and the first of them.
fn letters(log: &Log, from: u64, until: u64) -> anyhow::Result<(u64, Vec<u8>)> {
    let mut file = Vec::new();
    let mut lengths = Vec::new();
    let mut reader = log.reader(from);
    while reader.next_offset() < until
        && let Some((_, letter)) = reader.next_record()?
    {
        file.extend_from_slice(&(letter.len() as u32).to_le_bytes());
        file.extend_from_slice(letter);
        lengths.push(4 + letter.len());
    }
    let (mut first, mut cut) = (until - lengths.len() as u64, 0);
    for length in lengths {
        if file.len() - cut <= LETTER_BYTES {
            break;
        }
        cut += length;
        first += 1;
    }
    file.drain(..cut);
    Ok((first, file))
}

/// All model versions that were put into service before `offset`: those that the bundle before knows, and what the log says since.
fn champions(data: &Data, before: Option<&Manifest>, offset: Offset, stopping: &AtomicBool) -> anyhow::Result<Vec<Control>> {
    let (mut found, from) = match before.filter(|before| before.offset <= offset) {
        Some(before) => (before.champions.clone(), before.offset),
        None => (Vec::new(), data.history.start()?),
    };
    let mut reader = data.records(from);
    while let Some((at, bytes)) = reader.next_record()? {
        if at >= offset {
            break;
        }
        go_on(stopping)?;
        if let Some(control @ Control::Champion { .. }) = Control::decode(bytes).with_context(|| format!("event log, offset {at}"))?
            && !found.contains(&control)
        {
            found.push(control);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use kilter_store::log::LogOptions;

    use super::*;

    #[test]
    fn the_newest_letters_go_as_far_as_they_fit() {
        let dir = tempfile::tempdir().unwrap();
        let (log, _) = Log::open(dir.path(), LogOptions { first_offset: 7, ..LogOptions::default() }).unwrap();
        let large = vec![b'l'; LETTER_BYTES / 2];
        log.append(&[b"a".as_slice(), b"b", &large, b"", b"cc", b"d"]).unwrap();
        assert_eq!(letters(&log, 7, 7).unwrap(), (7, Vec::new()));
        assert_eq!(letters(&log, 10, 12).unwrap(), (10, b"\0\0\0\0\x02\0\0\0cc".to_vec()));
        assert_eq!(letters(&log, 7, 13).unwrap().0, 7);
        log.append(&[large]).unwrap();
        let (first, file) = letters(&log, 7, 14).unwrap();
        assert_eq!((first, file.len()), (10, 4 + 6 + 5 + 4 + LETTER_BYTES / 2));
    }
}
