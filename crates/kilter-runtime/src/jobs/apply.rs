//! Takes up a changed definitions file while the old one serves: fill what is missing from the log, then swap between two events.

use std::sync::Arc;
use std::time::Instant;

use kilter_core::Offset;
use kilter_pipeline::Plan;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::data::Data;
use crate::project::{self, Project};
use crate::sequencer::{Call, Candidate, Command, Refusal, Swapped};
use crate::service::{Service, ServiceError};
use crate::status::lock;

/// Records that the sequencer reads itself at the swap, at most, as long as filling keeps up with the stream.
const TAIL: u64 = 4096;
/// Rounds of filling after which the sequencer reads more: each time twice as much, so that a fast stream cannot put the swap off for ever.
const ROUNDS: u32 = 20;

/// How far an apply has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The log is read for what changed; the old definitions serve.
    Filling,
    /// The new definitions are in force.
    Done,
    /// Nothing has changed.
    Failed,
}

/// The newest apply of this process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Applying {
    /// Hashes of the definitions before and after.
    pub from: String,
    pub to: String,
    pub phase: Phase,
    /// The log is read up to here ...
    pub offset: Offset,
    /// ... of this.
    pub end: Offset,
    pub seconds: f64,
    /// The record of the swap: decisions on later events are made by the new definitions.
    pub swapped_at: Option<Offset>,
    pub error: Option<String>,
}

/// Why new definitions cannot come into force while the process runs, each in one sentence.
pub fn needs_restart(old: &Project, new: &Project) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut other = |differs: bool, what: &str| {
        if differs {
            reasons.push(format!("{what} is taken up at a start only"));
        }
    };
    other(old.settings.server != new.settings.server || old.definitions.server.data != new.definitions.server.data, "[server]");
    other(old.settings.log != new.settings.log, "[log]");
    other(old.settings.snapshot != new.settings.snapshot, "[snapshot]");
    other(old.settings.state_memory != new.settings.state_memory, "[state]");
    other(old.definitions.lake != new.definitions.lake, "[lake]");
    other(old.definitions.kafka != new.definitions.kafka, "[kafka]");
    other(old.definitions.workers != new.definitions.workers, "[workers]");
    other(!old.definitions.sink.iter().eq(new.definitions.sink.iter()), "[sink]");
    other(old.plan.clock != new.plan.clock, "`clock`");
    for (place, source) in old.plan.sources.iter().enumerate() {
        let file = |project: &Project, place: usize| {
            let settings = &project.source_settings[place];
            settings.path.as_ref().map(|path| (path.clone(), settings.format))
        };
        match new.plan.source(&source.name) {
            None if file(old, place).is_none() => {
                reasons.push(format!("source `{}` is gone, and clients that post to it would be turned away", source.name));
            }
            None => reasons.push(format!("source `{}` is gone, and its file may be being read", source.name)),
            Some(now) if file(old, place) != file(new, usize::from(now.0)) => {
                reasons.push(format!("the file of source `{}` is opened at a start only", source.name));
            }
            Some(_) => {}
        }
    }
    for (place, source) in new.plan.sources.iter().enumerate() {
        if old.plan.source(&source.name).is_none() && new.source_settings[place].path.is_some() {
            reasons.push(format!("the file of the new source `{}` is opened at a start only", source.name));
        }
    }
    reasons
}

/// Checks the definitions file and begins to take it up in a thread of its own; `Status::apply` says how far it has come.
pub(crate) fn begin(service: &Arc<Service>) -> Result<Applying, ServiceError> {
    let service = service.current();
    let next = project::load(&service.project.dir).map_err(ServiceError::Definitions)?;
    let reasons = needs_restart(&service.project, &next);
    if !reasons.is_empty() {
        return Err(ServiceError::Conflict(format!("a restart is needed: {}", reasons.join("; "))));
    }
    if next.toml_text == service.project.toml_text {
        return Err(ServiceError::Conflict("nothing to apply: the definitions in the file are those in force".into()));
    }
    let applying = Applying {
        from: service.plan.hash.clone(),
        to: next.plan.hash.clone(),
        phase: Phase::Filling,
        offset: service.data.history.start()?,
        end: service.data.events.next_offset(),
        seconds: 0.0,
        swapped_at: None,
        error: None,
    };
    {
        let mut newest = lock(&service.status.apply);
        if newest.as_ref().is_some_and(|a| a.phase == Phase::Filling) {
            return Err(ServiceError::Conflict("definitions are being applied already; `/v1/status` says how far".into()));
        }
        // Another apply may have ended while the file was read: it is to be compared with what is in force now.
        if !Arc::ptr_eq(&service, &service.current()) {
            drop(newest);
            return begin(&service);
        }
        *newest = Some(applying.clone());
    }
    let job =
        Job { plan: Arc::new(next.plan.clone()), next, data: Arc::clone(&service.data), started: Instant::now(), service: service.reach() };
    let status = Arc::clone(&service.status);
    let spawned = std::thread::Builder::new().name("apply".into()).spawn(move || job.run());
    if let Err(e) = spawned {
        let error = format!("no thread for it: {e}");
        *lock(&status.apply) = Some(Applying { phase: Phase::Failed, error: Some(error.clone()), ..applying });
        return Err(ServiceError::Failed(error));
    }
    Ok(applying)
}

struct Job {
    /// Does not keep a stopped service alive.
    service: crate::service::Reach,
    data: Arc<Data>,
    next: Project,
    plan: Arc<Plan>,
    started: Instant,
}

impl Job {
    fn run(self) {
        let result = self.fill_and_swap();
        let Some(service) = self.service.current() else { return };
        match &result {
            Ok(offset) => tracing::info!(to = self.plan.hash, offset, "definitions applied"),
            Err(e) => tracing::warn!(to = self.plan.hash, error = %format!("{e:#}"), "definitions not applied: those in force stay"),
        }
        if let Some(newest) = lock(&service.status.apply).as_mut() {
            newest.seconds = self.started.elapsed().as_secs_f64();
            match result {
                Ok(offset) => (newest.phase, newest.swapped_at, newest.offset, newest.end) = (Phase::Done, Some(offset), offset, offset),
                Err(e) => (newest.phase, newest.error) = (Phase::Failed, Some(format!("{e:#}"))),
            }
        }
    }

    fn fill_and_swap(&self) -> anyhow::Result<Offset> {
        let gone = || anyhow::Error::from(Refusal::Stopping);
        let old = self.service.current().ok_or_else(gone)?;
        self.data.keep_definitions(&self.next)?;
        let mut candidate = Box::new(Candidate::new(&self.data, Arc::clone(&old.plan), Arc::clone(&self.plan), old.clock().now())?);
        drop(old);
        let mut tail = TAIL;
        for round in 0.. {
            let end = self.data.events.next_offset();
            candidate.advance(&self.data, end, |offset| self.tell(offset))?;
            if round > ROUNDS {
                tail = tail.saturating_mul(2);
            }
            if self.data.events.next_offset().saturating_sub(candidate.reached()) > tail {
                continue;
            }
            let service = self.service.current().ok_or_else(gone)?;
            let (reply, answer) = oneshot::channel();
            service.send_blocking(Call { under: Arc::clone(&self.plan), command: Command::Swap { candidate, tail, reply } })?;
            match answer.blocking_recv().map_err(|_| Refusal::Stopping)? {
                Swapped::Done(offset) => {
                    service.succeed(self.next.clone(), Arc::clone(&self.plan));
                    // In force all the same, and every event after it waits for the same log.
                    if let Err(e) = self.data.events.wait_durable(offset) {
                        tracing::error!(error = %e, "the record of the change is not yet durable");
                    }
                    return Ok(offset);
                }
                Swapped::Behind(left) => candidate = left,
                Swapped::Refused(refusal) => return Err(refusal.into()),
            }
        }
        Err(gone())
    }

    fn tell(&self, offset: Offset) -> bool {
        let Some(service) = self.service.current() else { return false };
        if let Some(newest) = lock(&service.status.apply).as_mut() {
            (newest.offset, newest.end) = (offset, self.data.events.next_offset());
            newest.seconds = self.started.elapsed().as_secs_f64();
        }
        true
    }
}
