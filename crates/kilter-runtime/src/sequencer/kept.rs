//! Readings of monitors on their way to be kept: written beside the stream, and before any snapshot that is past them.

use std::collections::BTreeMap;
use std::sync::Arc;

use kilter_pipeline::{Plan, Reading};
use kilter_store::metadata::{Metadata, MetadataError, MonitorReading, READINGS_KEPT, ReadingCounts, ReadingSubject};
use tokio::sync::{mpsc, oneshot};

use crate::data::Data;

/// Readings that may wait to be written; then the stream waits.
const WAITING: usize = 4096;
/// Readings that are written at once.
const TOGETHER: usize = 256;

enum Told {
    Reading(MonitorReading),
    /// Monitors of other names are gone.
    Only(Vec<String>),
    /// Whether all before it are written.
    Settle(oneshot::Sender<Result<(), String>>),
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
            let mut unwritten = Unwritten::default();
            while telling.recv_many(&mut together, TOGETHER).await > 0 {
                let mut waiting = Vec::new();
                for told in together.drain(..) {
                    match told {
                        Told::Reading(reading) => unwritten.readings.push(reading),
                        Told::Only(monitors) => unwritten.only = Some(monitors),
                        Told::Settle(done) => waiting.push(done),
                    }
                }
                let written = unwritten.write(&metadata).await.map_err(|e| {
                    tracing::error!(error = %e, readings = unwritten.readings.len(), "readings of monitors could not be kept; tried again with the next");
                    e.to_string()
                });
                for done in waiting {
                    // Whoever waited may have gone.
                    let _ = done.send(written.clone());
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
            counts: s.counts.as_ref().map(|counts| ReadingCounts { bins: counts.bins().to_vec(), missing: counts.missing() }),
        });
        let kept = MonitorReading {
            monitor: monitor.name.clone(),
            at: reading.at.0,
            model: plan.models[monitor.model].name.clone(),
            version: reading.version,
            signal: monitor.signal.name().to_string(),
            window: monitor.window.0,
            every: monitor.every.0,
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

    /// What monitors saw that the definitions no longer name is forgotten.
    pub fn only_of(&self, plan: &Plan) {
        let monitors = plan.monitors.iter().map(|monitor| monitor.name.clone()).collect();
        let _ = self.0.blocking_send(Told::Only(monitors));
    }

    /// Waits until all that came before is written.
    ///
    /// # Errors
    /// Something of it is not; it is tried again.
    pub fn settle(&self) -> anyhow::Result<()> {
        let (done, settled) = oneshot::channel();
        let sent = self.0.blocking_send(Told::Settle(done)).is_ok();
        let outcome = sent.then(|| settled.blocking_recv().ok()).flatten();
        outcome.unwrap_or(Err("the runtime has ended".into())).map_err(|e| anyhow::anyhow!("readings of monitors could not be kept: {e}"))
    }
}

/// What is still to be written.
#[derive(Default)]
struct Unwritten {
    /// Oldest first.
    readings: Vec<MonitorReading>,
    only: Option<Vec<String>>,
}

impl Unwritten {
    async fn write(&mut self, metadata: &Metadata) -> Result<(), MetadataError> {
        if !self.readings.is_empty() {
            self.drop_surplus();
            metadata.keep_readings(&self.readings).await?;
            self.readings.clear();
        }
        if let Some(only) = &self.only {
            let names: Vec<&str> = only.iter().map(String::as_str).collect();
            metadata.forget_readings_but(&names).await?;
            self.only = None;
        }
        Ok(())
    }

    /// Of each monitor no more wait than would stay.
    fn drop_surplus(&mut self) {
        if self.readings.len() <= READINGS_KEPT as usize {
            return;
        }
        let mut newer: BTreeMap<String, u32> = BTreeMap::new();
        let mut kept: Vec<MonitorReading> = Vec::with_capacity(self.readings.len());
        for reading in std::mem::take(&mut self.readings).into_iter().rev() {
            let newer = newer.entry(reading.monitor.clone()).or_default();
            *newer += 1;
            if *newer <= READINGS_KEPT {
                kept.push(reading);
            }
        }
        kept.reverse();
        self.readings = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(monitor: &str, at: i64) -> MonitorReading {
        MonitorReading { monitor: monitor.into(), at, ..MonitorReading::default() }
    }

    #[tokio::test]
    async fn what_could_not_be_written_is_written_with_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kilter.db");
        let closed = Metadata::open(&path).await.unwrap();
        closed.close().await;
        let mut unwritten = Unwritten { readings: vec![reading("drift", 1)], only: Some(vec!["drift".into()]) };
        unwritten.write(&closed).await.unwrap_err();
        unwritten.readings.push(reading("drift", 2));
        unwritten.readings.push(reading("gone", 2));
        let open = Metadata::open(&path).await.unwrap();
        unwritten.write(&open).await.unwrap();
        assert!(unwritten.readings.is_empty() && unwritten.only.is_none());
        let filter = |monitor: &str| kilter_store::metadata::ReadingFilter { monitor: monitor.into(), limit: 9, ..Default::default() };
        assert_eq!(open.readings(&filter("drift")).await.unwrap().iter().map(|r| r.at).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(open.readings(&filter("gone")).await.unwrap(), []);
    }

    #[test]
    fn only_what_would_stay_waits() {
        let most = i64::from(READINGS_KEPT);
        let mut unwritten = Unwritten { readings: (0..most + 5).map(|at| reading("drift", at)).collect(), only: None };
        unwritten.readings.insert(0, reading("other", 1));
        unwritten.drop_surplus();
        assert_eq!((unwritten.readings.len() as i64, unwritten.readings[0].monitor.as_str()), (most + 1, "other"));
        assert_eq!((unwritten.readings[1].at, unwritten.readings[most as usize].at), (5, most + 4));
    }
}
