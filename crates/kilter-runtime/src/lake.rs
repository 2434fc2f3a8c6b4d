//! Takes the event log into the lake, batch by batch, keeps the lake tidy, and shortens the log by what is safe there.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use kilter_core::{EventTime, Offset, Schema, Span};
use kilter_lake::{Appended, Compacted, Lake, Limits};
use serde::Serialize;

use crate::catalog::Catalog;
use crate::data::Data;
use crate::history::History;
use crate::project::{LakeDef, Project};
use crate::sequencer::first_arrived_from;
use crate::service::Service;
use crate::status::lock;

/// A batch ends at so many bytes of records: they are held in memory, some three times over.
const BATCH_BYTES: u64 = 128 << 20;
/// How often it is looked whether something is due.
const STEP: Duration = Duration::from_millis(200);
const NO_LAKE: &str = "the project has no lake\n  hint: add [lake] with a `url`";
/// What is tried again waits so long at most.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How the lake stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LakeStatus {
    /// Records before this offset are in the lake.
    pub next: Offset,
    /// The first of them.
    pub first: Offset,
    pub files: u64,
    pub bytes: u64,
    /// Days of event time before this one have gone.
    pub expired_before: Option<String>,
    /// Why nothing goes into the lake at present.
    pub problem: Option<String>,
}

impl LakeStatus {
    fn of(lake: &Lake) -> LakeStatus {
        let state = lake.state();
        LakeStatus {
            next: state.next,
            first: state.first,
            files: state.files.len() as u64,
            bytes: state.files.iter().map(|f| f.bytes).sum(),
            expired_before: state.expired_before.clone(),
            problem: None,
        }
    }
}

/// What one round of tidying came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tidied {
    /// Small files that have become fewer larger ones.
    pub compacted: usize,
    pub into: usize,
    /// Files of days that were too old.
    pub expired: usize,
    /// The event log begins here now.
    pub log_start: Offset,
}

/// Takes in one more batch of what lies before `until`; none: there is nothing. For a thread that is not one of the async runtime's.
///
/// # Errors
/// Storage that does not answer; a lake that belongs to another log.
fn take_in(history: &History, catalog: &Catalog, until: Offset, records: u64) -> anyhow::Result<Option<Appended>> {
    let Some(lake) = history.lake()? else { return Ok(None) };
    let schemas: Vec<(String, Schema)> = catalog.schemas().map(|(source, columns)| (source.to_owned(), columns.clone())).collect();
    let log = history.log();
    let mut reader = None;
    let mut source = |offset: u64| {
        let reader = reader.get_or_insert_with(|| log.reader(offset));
        let found = reader.next_record()?;
        Ok(found.filter(|(at, _)| *at == offset).map(|(_, record)| record.to_vec()))
    };
    let limits = Limits { records, bytes: BATCH_BYTES };
    lake.append(log.start_offset(), until, limits, &mut source, &|number| schemas.get(number as usize).cloned())
}

/// Finishes a batch that was interrupted, as it was planned: what it writes must be the log as it is now.
pub(crate) fn finish_batch(history: &History, dir: &Path) -> anyhow::Result<()> {
    let Some(lake) = history.lake()? else { return Ok(()) };
    if lake.is_taking_in()? {
        let catalog = Catalog::open(dir, history.log().next_offset() == 0)?;
        take_in(history, &catalog, history.log().durable_offset(), u64::MAX)?;
    }
    Ok(())
}

/// Takes everything that is settled into the lake; the number of records.
///
/// # Errors
/// As for one batch; what was taken in counts.
pub fn fill(data: &Data, definition: &LakeDef) -> anyhow::Result<u64> {
    let mut records = 0;
    loop {
        // Schemas that come meanwhile are those of later records.
        let catalog = lock(&data.catalog).clone();
        let Some(appended) = take_in(&data.history, &catalog, data.settled_offset(), definition.records)? else { return Ok(records) };
        tracing::info!(next = appended.next, records = appended.records, files = appended.files, "taken into the lake");
        records += appended.records;
    }
}

/// Makes large files of small ones, lets old days go, and shortens the log.
///
/// # Errors
/// Storage that does not answer. What was done counts.
pub fn tidy(data: &Data, project: &Project, now: EventTime) -> anyhow::Result<Tidied> {
    let (Some(lake), Some(definition)) = (data.history.lake()?, &project.definitions.lake) else {
        anyhow::bail!(NO_LAKE);
    };
    let Compacted { files, into } = lake.compact(&day(now), definition.compact.0)?;
    let expired = definition.retention.map_or(Ok(0), |keep| lake.expire(&day(now - keep)))?;
    let log_start = shorten(data, &lake, project.settings.log.retention, now)?;
    Ok(Tidied { compacted: files, into, expired, log_start })
}

fn day(time: EventTime) -> String {
    time.civil().date().to_string()
}

/// Removes the log's files that are in the lake and old enough, as far as no start needs them; where the log begins now.
fn shorten(data: &Data, lake: &Lake, keep: Option<Span>, now: EventTime) -> anyhow::Result<Offset> {
    let start = data.events.start_offset();
    let Some(keep) = keep else { return Ok(start) };
    let end = lake.state().next.min(data.recovers_from()?);
    let old = first_arrived_from(data, start, now - keep, end.max(start))?;
    let shorter = data.events.remove_before(old.min(end))?;
    if shorter > start {
        tracing::info!(from = start, to = shorter, "the event log is shortened: its beginning is in the lake");
    }
    Ok(shorter)
}

/// The thread that fills the lake.
pub struct Filling {
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Starts taking the event log into the lake, where the project has one.
///
/// # Errors
/// No thread. Storage that does not answer is waited for.
pub fn start(service: &Arc<Service>) -> anyhow::Result<Option<Filling>> {
    let Some(definition) = service.project.definitions.lake.clone() else { return Ok(None) };
    let stopping = Arc::new(AtomicBool::new(false));
    let (service, stop) = (Arc::clone(service), Arc::clone(&stopping));
    let thread = std::thread::Builder::new().name("lake".into()).spawn(move || follow(&service, &definition, &stop));
    Ok(Some(Filling { stopping, thread: Some(thread.context("no thread for the lake")?) }))
}

/// Fills and tidies the lake as they fall due, until told to stop.
fn follow(service: &Service, definition: &LakeDef, stopping: &AtomicBool) {
    let every = Duration::from_micros(definition.every.0.unsigned_abs());
    let (mut filled, mut tidied) = (Instant::now(), None);
    let mut wait = STEP;
    while !stopping.load(Ordering::Acquire) {
        let outcome = round(service, definition, every, &mut filled, &mut tidied);
        match &outcome {
            Ok(()) => wait = STEP,
            Err(e) => {
                wait = (wait * 2).min(LONGEST_WAIT);
                tracing::warn!(error = %format!("{e:#}"), again_in = ?wait, "nothing goes into the lake");
                if service.data.has_journal() {
                    // The shard's owner before may have finished a last batch.
                    service.data.history.forget_lake();
                }
            }
        }
        note(service, outcome.err().map(|e| format!("{e:#}")));
        let until = Instant::now() + wait;
        while Instant::now() < until && !stopping.load(Ordering::Acquire) {
            std::thread::sleep(STEP.min(wait));
        }
    }
}

fn round(
    service: &Service,
    definition: &LakeDef,
    every: Duration,
    filled: &mut Instant,
    tidied: &mut Option<String>,
) -> anyhow::Result<()> {
    let data = &service.data;
    let Some(lake) = data.history.lake()? else { return Ok(()) };
    let waiting = data.settled_offset().saturating_sub(lake.state().next.max(data.events.start_offset()));
    if waiting >= definition.records || lake.is_taking_in()? || (waiting > 0 && filled.elapsed() >= every) {
        fill(data, definition)?;
        *filled = Instant::now();
        shorten(data, &lake, service.project.settings.log.retention, service.clock().now())?;
    }
    // Once a day is enough: only days that are over are looked at.
    let today = day(service.clock().now());
    if tidied.as_ref() != Some(&today) {
        tidy(data, &service.project, service.clock().now())?;
        *tidied = Some(today);
    }
    Ok(())
}

/// Tells the status how the lake stands.
fn note(service: &Service, problem: Option<String>) {
    let lake = service.data.history.lake().ok().flatten();
    let mut status = lake.map_or_else(|| service.status.lake().unwrap_or_default(), |lake| LakeStatus::of(&lake));
    status.problem = problem;
    service.status.set_lake(status);
}

/// Brings the status up to date.
///
/// # Errors
/// There is no lake; it cannot be opened.
pub fn look(service: &Service) -> anyhow::Result<()> {
    service.data.history.lake()?.context(NO_LAKE)?;
    let problem = service.status.lake().and_then(|lake| lake.problem);
    note(service, problem);
    Ok(())
}

/// Takes everything into the lake and tidies it, now: what a person asks for.
///
/// # Errors
/// As [`fill`] and [`tidy`].
pub fn fill_and_tidy(service: &Service) -> anyhow::Result<(u64, Tidied)> {
    let definition = service.project.definitions.lake.as_ref();
    let definition = definition.context(NO_LAKE)?;
    service.data.events.sync()?;
    let records = fill(&service.data, definition)?;
    let tidied = tidy(&service.data, &service.project, service.clock().now())?;
    note(service, None);
    Ok((records, tidied))
}

impl Filling {
    /// Ends it; a batch under way is finished.
    pub fn stop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that fills the lake panicked");
        }
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.stop();
    }
}
