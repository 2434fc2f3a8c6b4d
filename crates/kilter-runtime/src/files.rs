//! Streams file sources into the log: merged by event time, as fast as they can be processed or at a multiple of real time.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kilter_connect::{ConnectError, Decoded, FileReader, Limits, Merge, Rejection, Total, open};
use kilter_core::{CompactString, EventTime, SourceId};

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
    let known = last_ids(service, &sources)?;
    let mut readers = Vec::new();
    for source in &sources {
        readers.push(numbered(service, *source, known.get(source).cloned())?);
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
    pending.push_back(service.enqueue(source, rows, service.clock().now(), Instant::now()).await?);
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

/// A file's rows with ids: the source's own id column, or else the row's number, so that a stopped run can be taken up.
struct Numbered {
    inner: FileReader,
    row: u64,
    /// Id of the last row that an earlier run brought into the log; rows up to it are passed over.
    after: Option<CompactString>,
    passed: u64,
}

impl Iterator for Numbered {
    type Item = Result<Decoded, Rejection>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let mut item = self.inner.next()?;
            self.row += 1;
            if let Ok(decoded) = &mut item {
                let id = decoded.id.get_or_insert_with(|| CompactString::new(format!("row-{}", self.row)));
                if let Some(after) = &self.after {
                    self.passed += 1;
                    if id == after {
                        self.after = None;
                    }
                    continue;
                }
            } else if self.after.is_some() {
                // Its dead letter was written by the earlier run.
                continue;
            }
            return Some(item);
        }
    }
}

fn numbered(service: &Service, source: SourceId, after: Option<CompactString>) -> Result<Numbered, ServiceError> {
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
    Ok(Numbered { inner, row: 0, after, passed: 0 })
}

/// The id of the newest event of each source in the log, found by one walk over the headers.
fn last_ids(service: &Service, sources: &[SourceId]) -> Result<BTreeMap<SourceId, CompactString>, ServiceError> {
    let failed = |e: &dyn std::fmt::Display| ServiceError::Failed(e.to_string());
    let decoder = service.data.decoder(&service.plan);
    let mut found: BTreeMap<SourceId, CompactString> = BTreeMap::new();
    let mut reader = service.data.events.reader(service.data.events.start_offset());
    while let Some((_, bytes)) = reader.next_record().map_err(|e| failed(&e))? {
        if let Some(header) = kilter_core::record::header(bytes).map_err(|e| failed(&e))?
            && let (Some(id), Some(source)) = (header.id, decoder.source(header.schema))
            && sources.contains(&source)
        {
            found.insert(source, CompactString::new(id));
        }
    }
    Ok(found)
}
