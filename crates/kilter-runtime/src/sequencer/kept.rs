//! Readings of monitors on their way to be kept: written beside the stream, and before any snapshot that is past them.

use std::sync::Arc;

use kilter_pipeline::{Plan, Reading};
use kilter_store::metadata::{MonitorReading, ReadingSubject};
use tokio::sync::{mpsc, oneshot};

use crate::data::Data;

/// Readings that may wait to be written; then the stream waits.
const WAITING: usize = 4096;
/// Readings that are written at once.
const TOGETHER: usize = 256;

enum Told {
    Reading(MonitorReading),
    /// All before it are written.
    Settle(oneshot::Sender<()>),
}

/// Takes readings in.
#[derive(Clone)]
pub(super) struct KeptReadings(mpsc::Sender<Told>);

impl KeptReadings {
    pub fn new(data: &Arc<Data>) -> KeptReadings {
        let (told, mut telling) = mpsc::channel(WAITING);
        let metadata = data.metadata.clone();
        data.spawn(async move {
            let mut together = Vec::with_capacity(TOGETHER);
            while telling.recv_many(&mut together, TOGETHER).await > 0 {
                let (mut readings, mut waiting) = (Vec::new(), Vec::new());
                for told in together.drain(..) {
                    match told {
                        Told::Reading(reading) => readings.push(reading),
                        Told::Settle(done) => waiting.push(done),
                    }
                }
                if !readings.is_empty()
                    && let Err(e) = metadata.keep_readings(&readings).await
                {
                    tracing::error!(error = %e, readings = readings.len(), "readings of monitors could not be kept");
                }
                for done in waiting {
                    // Whoever waited may have gone.
                    let _ = done.send(());
                }
            }
        });
        KeptReadings(told)
    }

    /// Keeps one; after the end of the runtime there is nobody to keep it.
    pub fn keep(&self, plan: &Plan, reading: &Reading) {
        let monitor = &plan.monitors[reading.monitor];
        let subjects = reading.subjects.iter().map(|s| ReadingSubject {
            subject: s.subject.clone(),
            value: s.value.is_finite().then_some(s.value),
            bins: s.counts.as_ref().map(|counts| counts.bins().to_vec()).unwrap_or_default(),
            missing: s.counts.as_ref().map_or(0, |counts| counts.missing()),
        });
        let kept = MonitorReading {
            monitor: monitor.name.clone(),
            at: reading.at.0,
            model: plan.models[monitor.model].name.clone(),
            version: reading.version,
            subject: reading.subject.clone(),
            value: reading.value,
            rows: reading.rows,
            above: monitor.above,
            below: monitor.below,
            crossed: reading.crossed.is_some(),
            subjects: subjects.collect(),
        };
        let _ = self.0.blocking_send(Told::Reading(kept));
    }

    /// Waits until all that came before is written.
    pub fn settle(&self) {
        let (done, settled) = oneshot::channel();
        if self.0.blocking_send(Told::Settle(done)).is_ok() {
            let _ = settled.blocking_recv();
        }
    }
}
