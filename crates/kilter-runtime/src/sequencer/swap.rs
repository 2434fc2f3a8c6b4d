//! Other definitions come into force, between two events.

use std::sync::Arc;
use std::time::Instant;

use kilter_connect::Decoded;
use kilter_core::record::encode;
use kilter_core::{Event, EventTime, Offset, SourceId};
use kilter_pipeline::{Pipeline, Plan};
use kilter_store::log::LogError;

use super::{Around, Command, Present, Refusal, Sequencer, first_arrived};
use crate::backfill::{Backfill, same_inputs};
use crate::catalog::{Control, Record};
use crate::data::Data;
use crate::dedupe::Dedupe;
use crate::eras::short;
use crate::ids;
use crate::status::lock;

/// The next definitions with all the state they need, filled beside the stream.
pub struct Candidate {
    plan: Arc<Plan>,
    backfill: Backfill,
    schema_numbers: Vec<u32>,
    dedupe: Dedupe,
    /// The next offset whose id is to be remembered.
    ids: Offset,
}

/// What became of a candidate.
pub enum Swapped {
    /// In force from this offset on.
    Done(Offset),
    /// The stream has run too far ahead: fill it up and ask again.
    Behind(Box<Candidate>),
    /// Nothing has changed.
    Refused(Refusal),
}

impl Candidate {
    /// `now` is the machine's time: ids older than the longest horizon are forgotten.
    pub fn new(data: &Data, old: Arc<Plan>, plan: Arc<Plan>, now: EventTime) -> anyhow::Result<Candidate> {
        let dedupe = Dedupe::new(plan.sources.iter().map(|s| s.dedupe).collect());
        Ok(Candidate {
            schema_numbers: data.register(&plan)?,
            ids: first_arrived(data, now - dedupe.longest(), data.events.next_offset())?,
            dedupe,
            backfill: Backfill::new(old, Arc::clone(&plan)),
            plan,
        })
    }

    /// Reads the log up to `until`. `progress` is told the offset reached; its `false` ends the reading early.
    pub fn advance(&mut self, data: &Data, until: Offset, progress: impl FnMut(Offset) -> bool) -> anyhow::Result<()> {
        self.backfill.advance(data, until, progress)?;
        self.ids = remember_ids(data, &self.plan, &mut self.dedupe, self.ids, until)?;
        Ok(())
    }

    /// Everything before this offset is in it.
    pub fn reached(&self) -> Offset {
        self.backfill.next_offset().map_or(self.ids, |next| next.min(self.ids))
    }
}

/// Remembers the ids of a stretch of the log; gives its end.
fn remember_ids(data: &Data, plan: &Plan, dedupe: &mut Dedupe, from: Offset, until: Offset) -> anyhow::Result<Offset> {
    ids::walk(data, plan, from, until, |id| {
        dedupe.check_hash(id.source.0, id.hash, id.arrived, id.offset);
    })?;
    dedupe.duplicates = 0;
    Ok(until.max(from))
}

impl Sequencer {
    /// The sequencer at the end of the log under `plan`. When the log ended under other definitions, these see it to its end and then
    /// give way as they would have in flight.
    pub(crate) fn start(data: Arc<Data>, plan: Arc<Plan>, around: Around) -> anyhow::Result<Sequencer> {
        let Some(in_force) = data.in_force()? else {
            data.note_in_force(&plan.hash)?;
            return Sequencer::recover(data, plan, around, 0, 0);
        };
        if in_force.hash == plan.hash {
            return Sequencer::recover(data, plan, around, in_force.since, in_force.since);
        }
        let old = match data.kept_plan(&in_force.hash) {
            Ok(old) => old,
            Err(e) => {
                tracing::warn!(error = %format!("{e:#}"), "the log is read from its start under the new definitions");
                // What monitors saw up to here, they saw under the old ones.
                let end = data.events.next_offset();
                let mut sequencer = Sequencer::recover(Arc::clone(&data), Arc::clone(&plan), around, in_force.since, end)?;
                sequencer.record_change(&in_force.hash, &plan.hash)?;
                return Ok(sequencer);
            }
        };
        let mut sequencer = Sequencer::recover(Arc::clone(&data), Arc::clone(&old), around, in_force.since, in_force.since)?;
        let mut candidate = Box::new(Candidate::new(&data, old, plan, sequencer.clock.now())?);
        candidate.advance(&data, data.events.next_offset(), |_| true)?;
        match sequencer.swap(candidate, u64::MAX) {
            Swapped::Done(_) => Ok(sequencer),
            Swapped::Refused(refusal) => Err(refusal.into()),
            Swapped::Behind(_) => unreachable!("nothing is too far behind"),
        }
    }

    /// Writes down that other definitions decide from here on; gives the record's place.
    fn record_change(&mut self, from: &str, to: &str) -> Result<Offset, LogError> {
        let mut bytes = Vec::new();
        Control::Definitions { from: from.into(), to: to.into() }.encode(&mut bytes);
        let place = self.data.events.append(&[bytes])?.first;
        self.since = place;
        self.readings_since = place;
        self.pipeline.skip(place);
        if let Err(e) = self.data.note_in_force(to) {
            tracing::warn!(error = %e, "the name of the definitions in force could not be noted; the log has it");
        }
        Ok(place)
    }

    /// Brings a candidate into force at the end of the log, if no more than `tail` records are missing from it. Nothing may be staged.
    pub(crate) fn swap(&mut self, mut candidate: Box<Candidate>, tail: u64) -> Swapped {
        let began = Instant::now();
        let here = self.pipeline.next_offset();
        if here.saturating_sub(candidate.reached()) > tail {
            return Swapped::Behind(candidate);
        }
        if let Some(refusal) = self.record_decisions() {
            return Swapped::Refused(refusal);
        }
        // What is handed out belongs to views that may be gone after this.
        self.settle_writing();
        let failed = |e: anyhow::Error| Swapped::Refused(Refusal::Other(format!("the definitions in force stay: {e:#}")));
        if !Arc::ptr_eq(candidate.backfill.change().old(), &self.plan) {
            return failed(anyhow::anyhow!("others have come into force meanwhile"));
        }
        let prepared = candidate.advance(&self.data, here, |_| true).and_then(|()| {
            // No recovery makes up decisions from before the record: all of them must be there when it is.
            self.data.decisions.sync()?;
            anyhow::ensure!(candidate.backfill.fits(&self.pipeline), "what was filled does not stand where the stream stands");
            Ok(())
        });
        if let Err(e) = prepared {
            return failed(e);
        }
        let Candidate { plan, mut backfill, schema_numbers, dedupe, .. } = *candidate;
        let mut place = here;
        if plan.hash != self.plan.hash {
            let was = self.plan.hash.clone();
            match self.record_change(&was, &plan.hash) {
                Ok(at) => {
                    place = at;
                    backfill.skip(at);
                }
                Err(e) => return Swapped::Refused(Refusal::from(&e)),
            }
        }
        let old = std::mem::replace(&mut self.pipeline, Pipeline::new(Arc::clone(&self.plan)));
        let Ok(pipeline) = backfill.finish(old) else { unreachable!("looked at before the record was written") };
        self.pipeline = pipeline;
        if let Some(tiers) = &self.data.state
            && let Err(e) = tiers.attach(&mut self.pipeline)
        {
            self.break_off(e.to_string());
        }
        let duplicates = self.dedupe.duplicates;
        self.dedupe = dedupe;
        self.dedupe.duplicates = duplicates;
        self.schema_numbers = schema_numbers;
        self.layouts = (0..plan.decisions.len()).map(|d| Arc::new(plan.layout(d))).collect();
        self.layout_offsets = vec![None; plan.decisions.len()];
        self.staged_now = self.pipeline.now();
        self.boundary = None;
        for wish in &mut self.requested {
            wish.model = plan.model(&self.plan.models[wish.model].name).unwrap_or(usize::MAX);
        }
        self.requested.retain(|wish| wish.model != usize::MAX);
        let from = std::mem::replace(&mut self.plan, plan);
        self.kept.only_of(&self.plan);
        self.consumed.under(&self.plan);
        if let Err(e) = self.reconcile_aliases() {
            tracing::error!(error = %e, "the registry could not follow the change of definitions");
        }
        *lock(&self.status.views) = self.pipeline.engine().stats();
        // So that a restart need not fill again what has just been filled.
        self.snapshot_beside();
        self.publish();
        let stood_ms = began.elapsed().as_millis() as u64;
        tracing::info!(from = short(&from.hash), to = short(&self.plan.hash), offset = place, stood_ms, "other definitions in force");
        Swapped::Done(place)
    }

    /// A command that was read under definitions no longer in force, told anew by the rules for old records: by names. One that has no
    /// place any more is answered.
    pub(super) fn told_anew(&self, under: &Plan, command: Command) -> Option<Command> {
        let gone = |what: &str, name: &str| {
            Refusal::Changed(format!("the definitions changed while the request was on its way, and {what} `{name}` is not what it was"))
        };
        let retold = |source: SourceId, rows: Vec<Decoded>, arrived: EventTime| {
            let name = &under.sources[usize::from(source.0)].name;
            self.retell(under, source, rows, arrived).ok_or_else(|| gone("source", name))
        };
        let decision_of = |decision: usize, row: Decoded, arrived: EventTime| {
            let was = &under.decisions[decision];
            let (source, mut rows) = retold(was.source, vec![row], arrived)?;
            let now = self.plan.decision(&was.name).filter(|d| self.plan.decisions[*d].source == source);
            now.zip(rows.pop()).ok_or_else(|| gone("decision", &was.name))
        };
        match command {
            Command::Ingest { source, rows, arrived, received, refused, reply } => match retold(source, rows, arrived) {
                Ok((source, rows)) => Some(Command::Ingest { source, rows, arrived, received, refused, reply }),
                Err(refusal) => {
                    let _ = refused.set(refusal.clone());
                    let _ = reply.send(Err(refusal));
                    None
                }
            },
            Command::Decide { decision, row, arrived, received, reply } => match decision_of(decision, row, arrived) {
                Ok((decision, row)) => Some(Command::Decide { decision, row, arrived, received, reply }),
                Err(refusal) => {
                    let _ = reply.send(Err(refusal));
                    None
                }
            },
            Command::Preview { decision, row, reply } => match decision_of(decision, row, EventTime(0)) {
                Ok((decision, row)) => Some(Command::Preview { decision, row, reply }),
                Err(refusal) => {
                    let _ = reply.send(Err(refusal));
                    None
                }
            },
            Command::Features { view, keys, at, in_passing, reply } => {
                let was = &under.views[view];
                match self.plan.view(was.name()).filter(|v| self.plan.views[*v].entity() == was.entity()) {
                    Some(view) => Some(Command::Features { view, keys, at, in_passing, reply }),
                    None => {
                        let _ = reply.send(Err(gone("feature view", was.name())));
                        None
                    }
                }
            }
            Command::Together { mut reads, at, reply } => {
                for (view, _) in &mut reads {
                    let Some(now) = self.same_view(under, *view) else {
                        let _ = reply.send(Err(gone("feature view", under.views[*view].name())));
                        return None;
                    };
                    *view = now;
                }
                Some(Command::Together { reads, at, reply })
            }
            // The place to go on from is one of the state that was.
            Command::Entities { view, before, most, reply } => match self.same_view(under, view).filter(|_| before == usize::MAX) {
                Some(view) => Some(Command::Entities { view, before, most, reply }),
                None => {
                    let _ = reply.send(Err(gone("feature view", under.views[view].name())));
                    None
                }
            },
            Command::Check { view, reply, .. } => {
                let _ = reply.send(Err(gone("feature view", under.views[view].name())));
                None
            }
            Command::SetChampion { model, version, reason, actor, reply } => {
                let name = &under.models[model].name;
                match self.plan.model(name) {
                    Some(model) => Some(Command::SetChampion { model, version, reason, actor, reply }),
                    None => {
                        let _ = reply.send(Err(gone("model", name)));
                        None
                    }
                }
            }
            Command::Present { model, reply } => match self.plan.model(&under.models[model].name) {
                // A champion of other inputs cannot be judged on rows of these.
                Some(now) if same_inputs(under, model, &self.plan, now) => Some(Command::Present { model: now, reply }),
                _ => {
                    let _ = reply.send(Present { next: self.pipeline.next_offset(), now: self.pipeline.now(), champion: None });
                    None
                }
            },
            Command::Attach { source, stream, reply } => match self.plan.source(&under.sources[usize::from(source.0)].name) {
                Some(source) => Some(Command::Attach { source, stream, reply }),
                None => {
                    let _ = reply.send(Err(gone("source", &under.sources[usize::from(source.0)].name)));
                    None
                }
            },
            Command::Passed { source, next, reply } => match self.plan.source(&under.sources[usize::from(source.0)].name) {
                Some(source) => Some(Command::Passed { source, next, reply }),
                None => {
                    let _ = reply.send(Err(gone("source", &under.sources[usize::from(source.0)].name)));
                    None
                }
            },
            other @ (Command::Snapshot { .. } | Command::Swap { .. } | Command::Stop { .. }) => Some(other),
        }
    }

    /// The view of that name, if whoever asks by the positions of the features it knew gets the same.
    fn same_view(&self, under: &Plan, view: usize) -> Option<usize> {
        let was = &under.views[view];
        let types = |v: &kilter_features::View| v.features().iter().map(|f| (f.name.clone(), f.data_type)).collect::<Vec<_>>();
        let same = |v: &usize| self.plan.views[*v].entity() == was.entity() && types(&self.plan.views[*v]) == types(was);
        self.plan.view(was.name()).filter(same)
    }

    /// Rows of a source as the log would give them back under the definitions in force; none: the source is gone.
    fn retell(&self, under: &Plan, source: SourceId, rows: Vec<Decoded>, arrived: EventTime) -> Option<(SourceId, Vec<Decoded>)> {
        let place = self.plan.source(&under.sources[usize::from(source.0)].name)?;
        // Known since those definitions came into force: nothing is written.
        let number = *self.data.register(under).ok()?.get(usize::from(source.0))?;
        let decoder = self.data.decoder(&self.plan);
        let mut bytes = Vec::new();
        let rows = rows.into_iter().map(|row| {
            let Decoded { row, time, id, operation, extra, origin } = row;
            let event = Event { source, offset: 0, time, arrived, id, operation, row, extra, origin };
            bytes.clear();
            encode(&event, number, &mut bytes);
            match decoder.decode(0, &bytes) {
                Ok(Record::Event(event)) => {
                    let Event { row, time, id, operation, extra, origin, .. } = event;
                    Some(Decoded { row, time, id, operation, extra, origin })
                }
                _ => None,
            }
        });
        Some((place, rows.collect::<Option<_>>()?))
    }
}
