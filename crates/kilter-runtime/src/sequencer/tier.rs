//! State beyond memory: when what has changed is written, and when what is written leaves memory.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Instant;

use kilter_features::Pressure;

use super::{Refusal, Sequencer, TicketReply};
use crate::status::{Status, lock};

/// The writing under way.
#[derive(Default)]
pub(super) struct Tier {
    writing: Option<Receiver<anyhow::Result<Vec<u64>>>>,
    /// When the entities were last counted.
    counted: Option<Instant>,
}

impl Sequencer {
    /// Keeps the state in memory within its bounds. Called between batches.
    pub(super) fn balance(&mut self) {
        let Some(hot) = self.data.state.as_ref().map(|s| s.hot) else { return };
        loop {
            self.collect(false);
            match self.pipeline.engine_mut().relieve(hot, self.tier.writing.is_some()) {
                Pressure::None => return,
                Pressure::Write => return self.write_state(),
                Pressure::Wait => {
                    self.write_state();
                    if self.tier.writing.is_none() {
                        return;
                    }
                    self.collect(true);
                }
            }
        }
    }

    /// Hands what has changed to a thread that writes it, unless one still writes.
    pub(super) fn write_state(&mut self) {
        if let Err(e) = self.begin_writing() {
            tracing::error!(error = %e, "the state is not written now; recovery will read more of the log");
        }
    }

    fn begin_writing(&mut self) -> anyhow::Result<()> {
        self.collect(false);
        // What is written takes all decisions before it for recorded.
        if self.tier.writing.is_some() || !self.pending.is_empty() || self.data.state.is_none() {
            return Ok(());
        }
        // Nor may it be ahead of the readings. Once handed out it has to be written, so that comes first.
        self.kept.settle()?;
        let (tell, told) = channel();
        let names: Vec<String> = self.plan.views.iter().map(|v| v.state_name()).collect();
        let changes = self.pipeline.changes();
        let (offset, now) = (self.pipeline.next_offset(), self.pipeline.now());
        self.last_snapshot = (Instant::now(), offset);
        let (data, hash) = (Arc::clone(&self.data), self.plan.hash.clone());
        let write = move || {
            // The state must never be ahead of what the log is sure to have, nor the decisions it takes for recorded.
            data.events.sync()?;
            data.decisions.sync()?;
            let Some(tiers) = &data.state else { return Ok(Vec::new()) };
            let expired = tiers.write(&names, offset, now.map_or(i64::MIN, |t| t.0), &hash, changes)?;
            tiers.retain(&names)?;
            Ok(expired)
        };
        let spawned = std::thread::Builder::new().name("state".into()).spawn(move || {
            // Nobody may be listening any more.
            let _ = tell.send(write());
        });
        match spawned {
            Ok(_) => {
                self.tier.writing = Some(told);
                self.restate_all();
            }
            // What was handed out counts as unwritten for ever: what comes next must not build on it.
            Err(e) => self.break_off(format!("no thread to write the state: {e}")),
        }
        Ok(())
    }

    /// The same, and waits for it.
    pub(super) fn write_state_now(&mut self) -> anyhow::Result<()> {
        self.collect(true);
        self.begin_writing()?;
        self.collect(true);
        match &self.broken {
            Some(reason) => Err(anyhow::anyhow!("{reason}")),
            None => Ok(()),
        }
    }

    /// Waits for a writing under way.
    pub(super) fn settle_writing(&mut self) {
        self.collect(true);
    }

    /// Takes note of a writing that has ended.
    fn collect(&mut self, wait: bool) {
        let Some(told) = &self.tier.writing else { return };
        let outcome = match wait {
            true => told.recv().map_err(|_| TryRecvError::Disconnected),
            false => told.try_recv(),
        };
        match outcome {
            Err(TryRecvError::Empty) => {}
            Ok(Ok(expired)) => {
                self.tier.writing = None;
                self.pipeline.engine_mut().written(|view| expired.get(view).copied().unwrap_or(0));
                Status::add(&self.status.snapshots, 1);
                // Counting walks over all entities in memory.
                if self.tier.counted.is_none_or(|at| at.elapsed() >= self.rhythm.every) {
                    self.tier.counted = Some(Instant::now());
                    *lock(&self.status.views) = self.pipeline.engine().stats();
                }
            }
            Ok(Err(e)) => self.break_off(format!("{e:#}")),
            Err(TryRecvError::Disconnected) => self.break_off("the thread that wrote the state has ended".into()),
        }
    }

    /// The state can no longer be trusted: whoever waits is told, and nothing more is taken. All events are in the log.
    pub(super) fn break_off(&mut self, reason: String) {
        self.tier.writing = None;
        if self.broken.is_some() {
            return;
        }
        tracing::error!(reason, "the state cannot be kept; all events are in the log: start again");
        self.pending.clear();
        let refusal = Refusal::Other(format!("the state cannot be kept: {reason}"));
        for ticket in self.tickets.iter_mut() {
            ticket.error = Some(refusal.clone());
            if let TicketReply::Ingest { refused, .. } = &ticket.reply {
                let _ = refused.set(refusal.clone());
            }
        }
        self.broken = Some(reason);
    }

    /// A refusal when what was just read cannot be trusted.
    pub(super) fn whole_answer(&self) -> Result<(), Refusal> {
        match self.pipeline.engine().failure() {
            Some(reason) => Err(Refusal::Other(format!("the state cannot be read: {reason}"))),
            None => Ok(()),
        }
    }

    /// An error once the state cannot be kept.
    pub(super) fn whole(&self) -> anyhow::Result<()> {
        match &self.broken {
            Some(reason) => Err(anyhow::anyhow!("the state cannot be kept: {reason}")),
            None => Ok(()),
        }
    }
}
