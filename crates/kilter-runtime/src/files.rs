//! Streams file sources into the log: merged by event time, as fast as they can be processed or at a multiple of real time.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kilter_connect::{ConnectError, Decoded, FileReader, Limits, Merge, Rejection, Total, open};
use kilter_core::{CompactString, EventTime, SourceId, Stub};

use crate::project::Project;
use crate::sequencer::CHUNK_ROWS;
use crate::service::{Enqueued, Service, ServiceError};

/// How fast files are streamed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    AsFastAsPossible,
    /// So many seconds of event time in a second.
    TimesReal(f64),
}

/// How far the streaming has come.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub rows: u64,
    pub accepted: u64,
    pub duplicates: u64,
    pub late: u64,
    pub rejected: u64,
    /// Messages that tell of no row: heartbeats, tombstones and the like.
    pub ignored: u64,
    /// Rows passed over because an earlier run has them in the log.
    pub resumed: u64,
    pub event_time: Option<EventTime>,
    /// Share of the files read, 0..1, where their size is known.
    pub share: f64,
}

/// Streams every file source of the project (or the named ones) to its end. Taken up where an earlier run stopped.
pub async fn stream(
    service: &Arc<Service>,
    only: &[SourceId],
    pace: Pace,
    mut progress: impl FnMut(&Progress),
) -> Result<Progress, ServiceError> {
    let project = &service.project;
    let sources: Vec<SourceId> = file_sources(project).into_iter().filter(|s| only.is_empty() || only.contains(s)).collect();
    let mut known = known(service, &sources)?;
    let mut readers = Vec::new();
    for source in &sources {
        readers.push(numbered(service, *source, known.remove(source).unwrap_or_default())?);
    }
    let mut done = Progress::default();
    let mut merge = Merge::new(readers);
    let mut batch: Vec<Result<Decoded, Rejection>> = Vec::with_capacity(CHUNK_ROWS);
    let mut batch_source = None;
    let mut started: Option<(Instant, EventTime)> = None;
    let mut pending = Pending::new();
    let mut shown = Instant::now();

    while let Some((reader, row)) = merge.next() {
        let source = sources[reader];
        done.rows += 1;
        if let (Pace::TimesReal(times), Ok(decoded)) = (pace, &row) {
            let (start, first) = *started.get_or_insert((Instant::now(), decoded.time));
            let due = start + Duration::from_secs_f64(((decoded.time - first).seconds() / times).max(0.0));
            if due > Instant::now() {
                send(service, &mut batch, batch_source, &mut pending).await?;
                drain(&mut pending, &mut done, 0).await?;
                tokio::time::sleep_until(due.into()).await;
            }
        }
        if let Ok(decoded) = &row {
            done.event_time = Some(decoded.time);
        }
        if batch_source.is_some_and(|s| s != source) || batch.len() == CHUNK_ROWS {
            send(service, &mut batch, batch_source, &mut pending).await?;
            drain(&mut pending, &mut done, IN_FLIGHT).await?;
        }
        batch_source = Some(source);
        batch.push(row);
        if shown.elapsed() > Duration::from_millis(200) {
            shown = Instant::now();
            done.share = share(merge.readers());
            progress(&done);
        }
    }
    send(service, &mut batch, batch_source, &mut pending).await?;
    drain(&mut pending, &mut done, 0).await?;
    if done.accepted > 0 {
        service.data.events.sync().map_err(|e| ServiceError::Failed(e.to_string()))?;
    }
    done.ignored = merge.readers().iter().map(|r| r.inner.ignored()).sum();
    done.resumed = merge.readers().iter().map(|r| r.passed).sum();
    done.share = 1.0;
    progress(&done);
    Ok(done)
}

/// Commands on their way to the sequencer at a time.
const IN_FLIGHT: usize = 8;

/// Answers that are still to come, in the order sent.
type Pending = VecDeque<Enqueued>;

async fn send(
    service: &Arc<Service>,
    batch: &mut Vec<Result<Decoded, Rejection>>,
    source: Option<SourceId>,
    pending: &mut Pending,
) -> Result<(), ServiceError> {
    let Some(source) = source.filter(|_| !batch.is_empty()) else { return Ok(()) };
    let rows = std::mem::replace(batch, Vec::with_capacity(CHUNK_ROWS));
    pending.push_back(service.enqueue(source, rows, service.clock().now(), Instant::now(), true).await?);
    Ok(())
}

async fn drain(pending: &mut Pending, done: &mut Progress, leave: usize) -> Result<(), ServiceError> {
    while pending.len() > leave {
        let Some(enqueued) = pending.pop_front() else { break };
        let report = enqueued.answer().await?;
        done.accepted += report.accepted;
        done.duplicates += report.duplicates;
        done.late += report.late;
        done.rejected += report.rejected;
    }
    Ok(())
}

fn share(readers: &[Numbered]) -> f64 {
    let (read, total) = readers.iter().fold((0.0, 0.0), |(read, total), r| {
        let size = match r.inner.total() {
            Total::Bytes(n) | Total::Rows(n) => n.max(1) as f64,
        };
        // Files of different units weigh the same.
        (read + r.inner.position() as f64 / size, total + 1.0)
    });
    if total == 0.0 { 1.0 } else { read / total }
}

/// Sources that are read from files.
pub fn file_sources(project: &Project) -> Vec<SourceId> {
    (0..project.plan.sources.len() as u16).map(SourceId).filter(|s| project.source_file(*s).is_some()).collect()
}

/// A file's rows with ids, so that a stopped run can be taken up: the source's own id column, or else the file's name and the row's number.
struct Numbered {
    inner: FileReader,
    file: String,
    row: u64,
    /// Ids that earlier runs brought into the log: such rows are passed over.
    known: Known,
    passed: u64,
    /// Rejected rows wait for the next good one: before one that is known, an earlier run has buried them.
    held: VecDeque<Rejection>,
    ready: VecDeque<Result<Decoded, Rejection>>,
}

/// What earlier runs have read of a source.
#[derive(Default)]
struct Known {
    /// Rows of each file whose rows have no ids of their own.
    rows: BTreeMap<String, u64>,
    /// Hashes of the ids that rows came with.
    ids: HashSet<u128>,
}

/// Rejected rows that may wait for the next good one; beyond that they are told of again rather than kept.
const HELD: usize = 10_000;

impl Known {
    fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.ids.is_empty()
    }
}

impl Iterator for Numbered {
    type Item = Result<Decoded, Rejection>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(item);
            }
            match self.inner.next() {
                Some(Ok(mut decoded)) => {
                    self.row += 1;
                    let known = match &decoded.id {
                        Some(id) => self.known.ids.contains(&crate::dedupe::hash(id)),
                        None => {
                            let id = format!("{}#{}", self.file, self.row);
                            // Of an erased row only the id's hash is left.
                            let known = self.known.rows.get(&self.file).is_some_and(|last| self.row <= *last)
                                || (!self.known.ids.is_empty() && self.known.ids.contains(&crate::dedupe::hash(&id)));
                            decoded.id = Some(CompactString::from(id));
                            known
                        }
                    };
                    if known {
                        self.passed += 1;
                        self.held.clear();
                    } else {
                        self.ready.extend(self.held.drain(..).map(Err));
                        self.ready.push_back(Ok(decoded));
                    }
                }
                Some(Err(rejection)) => {
                    self.row += 1;
                    if self.known.is_empty() {
                        return Some(Err(rejection));
                    }
                    if self.held.len() == HELD {
                        self.ready.extend(self.held.drain(..).map(Err));
                    }
                    self.held.push_back(rejection);
                }
                None if self.held.is_empty() => return None,
                None => self.ready.extend(self.held.drain(..).map(Err)),
            }
        }
    }
}

fn numbered(service: &Service, source: SourceId, known: Known) -> Result<Numbered, ServiceError> {
    let project = &service.project;
    let failed = |e: ConnectError| {
        let hint = e.hint.map(|h| format!("\n  hint: {h}")).unwrap_or_default();
        ServiceError::Failed(format!("source `{}`: {}{hint}", project.plan.sources[source.0 as usize].name, e.message))
    };
    let path = project.source_file(source).unwrap_or_default();
    let format = project.source_settings[source.0 as usize].file_format();
    // A file is history: its rows count as arrived now, and none of them is "in the future" of the stream.
    let inner = open(&path, format, service.format(source).as_ref().clone(), service.clock().now(), Limits::default()).map_err(failed)?;
    for note in inner.notes() {
        tracing::warn!("{note}");
    }
    // Within the project's folder by its place there, so that the folder may move.
    let file = path.strip_prefix(&project.dir).unwrap_or(&path).to_string_lossy().into_owned();
    Ok(Numbered { inner, file, row: 0, known, passed: 0, held: VecDeque::new(), ready: VecDeque::new() })
}

/// What the log has of each source, found by one walk over the headers.
fn known(service: &Service, sources: &[SourceId]) -> Result<BTreeMap<SourceId, Known>, ServiceError> {
    let failed = |e: &dyn std::fmt::Display| ServiceError::Failed(e.to_string());
    let decoder = service.data.decoder(&service.plan);
    let mut found: BTreeMap<SourceId, Known> = BTreeMap::new();
    let mut reader = service.data.history.all().map_err(|e| failed(&e))?;
    while let Some((_, bytes)) = reader.next_record().map_err(|e| failed(&e))? {
        let Some(header) = kilter_core::record::header(bytes).map_err(|e| failed(&e))? else {
            if let Some(stub) = Stub::decode(bytes).map_err(|e| failed(&e))?
                && let (Some(id), Some(source)) = (stub.id, decoder.source(stub.schema))
                && sources.contains(&source)
            {
                found.entry(source).or_default().ids.insert(id);
            }
            continue;
        };
        let (Some(id), Some(source)) = (header.id, decoder.source(header.schema)) else { continue };
        if !sources.contains(&source) {
            continue;
        }
        let entry = found.entry(source).or_default();
        let has_column = service.project.source_settings[source.0 as usize].id.is_some();
        let numbered = id.rsplit_once('#').and_then(|(file, row)| Some((file, row.parse::<u64>().ok()?)));
        match numbered.filter(|_| !has_column) {
            Some((file, row)) => {
                let last = entry.rows.entry(file.to_string()).or_default();
                *last = row.max(*last);
            }
            None => {
                entry.ids.insert(crate::dedupe::hash(id));
            }
        }
    }
    Ok(found)
}
