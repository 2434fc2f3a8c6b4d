//! The ids of events that are still remembered: from the log, and of events before its first record from a file that a bundle brought, for to ask the lake would mean
//! to read all events of that time.

use std::path::Path;

use anyhow::{Context, ensure};
use kilter_core::{EventTime, Offset, SourceId, Span, Stub};
use kilter_pipeline::Plan;
use serde::{Deserialize, Serialize};

use crate::data::Data;
use crate::dedupe;
use crate::sequencer::{first_arrived, first_arrived_from};

/// The file's name in a data folder.
pub(crate) const FILE: &str = "ids";

/// A remembered id: source (2 bytes), hash (16), arrival (8), offset (8), little endian.
const ENTRY: usize = 34;

/// The first line of the file; the entries follow, in the order of their offsets.
#[derive(Serialize, Deserialize)]
struct Head {
    /// All ids before this offset ...
    until: Offset,
    /// ... that arrived at or after this moment.
    since: EventTime,
    sources: Vec<String>,
}

/// An id, of which only the hash is kept.
pub(crate) struct Remembered {
    pub source: SourceId,
    pub hash: u128,
    pub arrived: EventTime,
    pub offset: Offset,
}

/// The ids of the events before `until` that arrived at or after `since`, as the file of a folder whose log begins at `until`.
pub(crate) fn collected(data: &Data, plan: &Plan, since: EventTime, until: Offset) -> anyhow::Result<Vec<u8>> {
    let head = Head { until, since, sources: plan.sources.iter().map(|s| s.name.clone()).collect() };
    let mut file = serde_json::to_vec(&head)?;
    file.push(b'\n');
    each(data, plan, since, until, |id| {
        file.extend_from_slice(&id.source.0.to_le_bytes());
        file.extend_from_slice(&id.hash.to_le_bytes());
        file.extend_from_slice(&id.arrived.0.to_le_bytes());
        file.extend_from_slice(&id.offset.to_le_bytes());
    })?;
    Ok(file)
}

/// Visits the ids of the events before `until` that arrived at or after `since`, in the order of their offsets.
pub(crate) fn each(data: &Data, plan: &Plan, since: EventTime, until: Offset, mut visit: impl FnMut(Remembered)) -> anyhow::Result<()> {
    let start = data.events.start_offset();
    let from = match before(&data.dir, start, since)? {
        Some((head, entries)) => {
            let sources: Vec<Option<SourceId>> = head.sources.iter().map(|name| plan.source(name)).collect();
            for entry in entries.chunks_exact(ENTRY) {
                let (number, hash, arrived, offset) = parsed(entry)?;
                if let Some(source) = sources.get(number).copied().flatten()
                    && arrived >= since
                {
                    visit(Remembered { source, hash, arrived, offset });
                }
            }
            first_arrived_from(data, start, since, until)?
        }
        None => first_arrived(data, since, until)?,
    };
    walk(data, plan, from, until, visit)
}

/// Visits the ids of a stretch of the log.
pub(crate) fn walk(data: &Data, plan: &Plan, from: Offset, until: Offset, mut visit: impl FnMut(Remembered)) -> anyhow::Result<()> {
    let decoder = data.decoder(plan);
    let remembered = |schema| decoder.source(schema).filter(|source| plan.sources[usize::from(source.0)].dedupe > Span::ZERO);
    let mut reader = data.records(from);
    while let Some((offset, bytes)) = reader.next_record()? {
        if offset >= until {
            break;
        }
        if let Some(header) = kilter_core::record::header(bytes)? {
            if let (Some(id), Some(source)) = (header.id, remembered(header.schema)) {
                visit(Remembered { source, hash: dedupe::hash(id), arrived: header.arrived, offset });
            }
        } else if let Some(stub) = Stub::decode(bytes)?
            && let (Some(hash), Some(source)) = (stub.id, remembered(stub.schema))
        {
            visit(Remembered { source, hash, arrived: stub.arrived, offset });
        }
    }
    Ok(())
}

/// What the folder's file has; none: there is none that tells of all ids since then, up to where the log begins.
fn before(dir: &Path, log_start: Offset, since: EventTime) -> anyhow::Result<Option<(Head, Vec<u8>)>> {
    let path = dir.join(FILE);
    let mut bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(anyhow::Error::new(e).context(format!("cannot read {}", path.display()))),
    };
    let split = || -> anyhow::Result<(Head, usize)> {
        let end = bytes.iter().position(|b| *b == b'\n').context("it has no first line")?;
        ensure!((bytes.len() - end - 1).is_multiple_of(ENTRY), "it is cut short");
        Ok((serde_json::from_slice(&bytes[..end])?, end + 1))
    };
    let (head, from) = split().with_context(|| format!("{} is damaged", path.display()))?;
    bytes.drain(..from);
    Ok((head.until == log_start && head.since <= since).then_some((head, bytes)))
}

fn parsed(entry: &[u8]) -> anyhow::Result<(usize, u128, EventTime, Offset)> {
    let (source, rest) = entry.split_first_chunk().context("no source")?;
    let (hash, rest) = rest.split_first_chunk().context("no hash")?;
    let (arrived, rest) = rest.split_first_chunk().context("no arrival")?;
    let offset = rest.first_chunk().context("no offset")?;
    let number = usize::from(u16::from_le_bytes(*source));
    Ok((number, u128::from_le_bytes(*hash), EventTime(i64::from_le_bytes(*arrived)), u64::from_le_bytes(*offset)))
}
