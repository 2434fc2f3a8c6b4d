//! Monitors of the machinery: is a source silent, and are the features what the log says they are.
//!
//! A self-check keeps a second opinion ([`Shadow`]) of a sample of the entities. Each round reads the log from where the last one ended, asks
//! the live engine for some entities, reads on to the very offset at which it answered, and compares to the bit. It runs on a thread of its
//! own and rests three times as long as it works; the stream stands still for the looks at [`ASKED`] and a few more entities of each view.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kilter_core::{EventTime, Offset, Span};
use kilter_pipeline::shadow::{Difference, Sample, Shadow};
use kilter_store::metadata::NewAlert;
use kilter_store::threads;
use tokio::sync::oneshot;

use crate::catalog::{Control, Record};
use crate::project::{WatchKind, WatchPlan};
use crate::sequencer::{Call, Checked, Command, Refusal};
use crate::service::{Reach, Service, ServiceError};
use crate::status::{Status, lock};

/// Entities of each view that the live engine is asked for in a round; the next round goes on with others.
pub const ASKED: usize = 200;
/// Differences shown with their values.
const SHOWN: usize = 5;
/// Records read between two rests.
const STRETCH: u64 = 2048;
/// A rest is this many times as long as the work before it.
const REST: u32 = 3;

/// What a monitor of the machinery last saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WatchState {
    /// By the machine's clock; none: not yet.
    pub at: Option<EventTime>,
    pub alert: bool,
    /// Seconds of silence, or the largest part of the entities compared that differ.
    pub value: f64,
    /// When it was last alerted.
    pub alerted: Option<EventTime>,
    /// Of a self-check.
    pub check: Option<CheckReport>,
}

/// A round of a self-check, and all rounds since the start of the process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CheckReport {
    /// The last round ended here.
    pub offset: Offset,
    pub views: Vec<ViewCheck>,
    /// The first differences of the last round: view, entity, what differs.
    pub examples: Vec<(String, String, String)>,
    /// Since the start of the process, by view.
    pub totals: BTreeMap<String, ViewCheck>,
}

/// What was compared of a view.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ViewCheck {
    pub view: String,
    /// The same as long as the view means the same.
    pub version: String,
    pub entities: u64,
    /// The log knows them, the live engine does not.
    pub missing: u64,
    /// The other way round.
    pub extra: u64,
    /// By feature: entities whose values differ.
    pub mismatches: BTreeMap<String, u64>,
}

impl ViewCheck {
    /// The largest part that differs, and in what.
    pub fn worst(&self) -> (f64, String) {
        let kinds = [("missing", self.missing), ("extra", self.extra)];
        let features = self.mismatches.iter().map(|(name, n)| (name.as_str(), *n));
        let (what, n) = kinds.into_iter().chain(features).fold(("missing", 0), |worst, next| if next.1 > worst.1 { next } else { worst });
        let part = if self.entities == 0 { 0.0 } else { n as f64 / self.entities as f64 };
        (part, format!("{}.{what}", self.view))
    }

    fn add(&mut self, other: &ViewCheck) {
        // Counts of another meaning of the view are not carried on.
        if self.version != other.version {
            *self = ViewCheck { view: other.view.clone(), version: other.version.clone(), ..ViewCheck::default() };
        }
        self.entities += other.entities;
        self.missing += other.missing;
        self.extra += other.extra;
        for (feature, n) in &other.mismatches {
            *self.mismatches.entry(feature.clone()).or_default() += n;
        }
    }
}

/// Second opinions by monitor; whoever runs a round holds its own.
#[derive(Default)]
pub(crate) struct Shadows(Mutex<BTreeMap<String, Arc<Mutex<Option<Second>>>>>);

/// A second opinion and how far its rounds have come.
struct Second {
    shadow: Shadow,
    sample: Sample,
    /// By view: where to go on asking, and where the live engine goes on looking.
    places: Vec<(usize, usize)>,
}

/// Looks after the monitors of the machinery for as long as the service lives.
pub(crate) async fn run_watches(reach: Reach) {
    let mut due: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let Some(service) = reach.current() else { return };
        let names: Vec<&String> = service.project.watches.iter().map(|w| &w.name).collect();
        due.retain(|name, _| names.contains(&name));
        lock(&service.status.watches).retain(|name, _| names.contains(&name));
        for watch in &service.project.watches {
            let every = match watch.kind {
                WatchKind::Silence { .. } => Duration::ZERO,
                WatchKind::SelfCheck { every, .. } => Duration::from_micros(every.0.max(0) as u64),
            };
            if due.get(&watch.name).is_some_and(|due| Instant::now() < *due) {
                continue;
            }
            due.insert(watch.name.clone(), Instant::now() + every);
            // A long look of one must not keep the others waiting.
            let (service, name) = (Arc::clone(&service), watch.name.clone());
            tokio::spawn(async move {
                if let Err(e) = service.watch(&name).await {
                    tracing::warn!(monitor = name, error = %e, "the monitor could not look");
                }
            });
        }
    }
}

impl Service {
    /// Lets a monitor of the machinery look now.
    pub async fn watch(self: &Arc<Self>, name: &str) -> Result<WatchState, ServiceError> {
        let watch = self.project.watches.iter().find(|w| w.name == name).cloned();
        let watch = watch.ok_or_else(|| ServiceError::NotFound { what: "monitor", name: name.to_string(), hint: None })?;
        match watch.kind {
            WatchKind::Silence { source, after } => {
                let source = &self.plan.sources[usize::from(source.0)].name;
                let silent = self.sources().into_iter().find(|s| s.source == *source).and_then(|s| s.silent);
                // A source that never spoke cannot have fallen silent.
                let silent = silent.unwrap_or(Span::ZERO);
                let detail = format!("no event has come from source `{source}` for {}", coarse(silent));
                let seen = Seen { value: silent.0 as f64 / 1e6, limit: after.0 as f64 / 1e6, subject: source.clone(), detail, check: None };
                self.note(&watch, seen).await
            }
            WatchKind::SelfCheck { sample, above, .. } => {
                let service = Arc::clone(self);
                let own = Arc::clone(lock(&self.shadows().0).entry(watch.name.clone()).or_default());
                let round = tokio::task::spawn_blocking(move || {
                    let _computes = threads::computes_meanwhile();
                    let Ok(mut second) = own.try_lock() else {
                        return Err(ServiceError::Conflict("the round before is still under way".into()));
                    };
                    service.round(&mut second, Sample::of(sample))
                });
                let report = round.await.map_err(|e| ServiceError::Failed(format!("the self-check ended badly: {e}")))??;
                let none = (0.0, "none".to_string());
                let (value, subject) =
                    report.views.iter().map(ViewCheck::worst).fold(none, |worst, next| if next.0 > worst.0 { next } else { worst });
                let compared: u64 = report.views.iter().map(|v| v.entities).sum();
                let detail = format!("of {compared} entities compared with the log up to offset {}", report.offset);
                self.note(&watch, Seen { value, limit: above, subject, detail, check: Some(report) }).await
            }
        }
    }

    /// Publishes what a monitor saw, and raises an alert when it is past its limit.
    async fn note(&self, watch: &WatchPlan, seen: Seen) -> Result<WatchState, ServiceError> {
        let now = self.clock().now();
        let alert = seen.value > seen.limit;
        let before = lock(&self.status.watches).get(&watch.name).cloned().unwrap_or_default();
        let is_due = alert && (!before.alert || before.alerted.is_none_or(|at| at + watch.rest <= now));
        let check = seen.check.map(|mut report| {
            report.totals = before.check.map(|c| c.totals).unwrap_or_default();
            for view in &report.views {
                report.totals.entry(view.view.clone()).or_default().add(view);
            }
            report
        });
        let alerted = if is_due { Some(now) } else { before.alerted };
        let state = WatchState { at: Some(now), alert, value: seen.value, alerted, check };
        lock(&self.status.watches).insert(watch.name.clone(), state.clone());
        if is_due {
            tracing::warn!(monitor = watch.name, subject = seen.subject, value = seen.value, threshold = seen.limit, "monitor alert");
            let alert = NewAlert {
                at: now.0,
                monitor: watch.name.clone(),
                model: None,
                signal: watch.kind.name().to_string(),
                subject: seen.subject,
                value: seen.value,
                threshold: seen.limit,
                action: "alert".into(),
                detail: seen.detail,
            };
            self.data.metadata.insert_alert(&alert).await.map_err(anyhow::Error::from)?;
        }
        Ok(state)
    }

    /// One round of a self-check, on a thread that is not one of the runtime's.
    fn round(&self, second: &mut Option<Second>, sample: Sample) -> Result<CheckReport, ServiceError> {
        let start = self.data.history.start()?;
        if start > self.data.first_offset {
            return Err(ServiceError::Conflict(format!(
                "the history begins at offset {start}: without its start there is nothing to compare with"
            )));
        }
        // Other definitions, another sample: from the start.
        if second.as_ref().is_some_and(|s| !Arc::ptr_eq(s.shadow.plan(), &self.plan) || s.sample != sample) {
            *second = None;
        }
        let second = second.get_or_insert_with(|| Second {
            shadow: Shadow::new(Arc::clone(&self.plan), sample),
            sample,
            places: vec![(0, 0); self.plan.views.len()],
        });
        self.catch_up(&mut second.shadow, Status::get(&self.status.next_offset))?;
        let mut report = CheckReport::default();
        for (view, plan) in self.plan.views.iter().enumerate() {
            let (ask_from, look_from) = second.places[view];
            let (keys, ask_next) = second.shadow.keys(view, ask_from, ASKED);
            let (reply, answer) = oneshot::channel();
            let command = Command::Check { view, keys, sample, from: look_from, reply };
            self.send_blocking(Call { under: Arc::clone(&self.plan), command })?;
            let Checked { at, offset, rows, next } = answer.blocking_recv().map_err(|_| Refusal::Stopping)??;
            second.places[view] = (ask_next, next);
            self.catch_up(&mut second.shadow, offset)?;
            report.offset = offset;
            let version = plan.state_name().rsplit(' ').next().unwrap_or_default().to_string();
            let mut check = ViewCheck { view: plan.name().to_string(), version, entities: rows.len() as u64, ..ViewCheck::default() };
            for (key, live) in &rows {
                let Some(difference) = second.shadow.compare(view, key, at, live) else { continue };
                let shown = match &difference {
                    Difference::Missing => {
                        check.missing += 1;
                        "the live engine does not know it".to_string()
                    }
                    Difference::Extra => {
                        check.extra += 1;
                        "the log does not know it".to_string()
                    }
                    Difference::Features(features) => {
                        let names = features.iter().map(|f| plan.features()[*f].name.clone());
                        names.for_each(|name| *check.mismatches.entry(name).or_default() += 1);
                        let log = second.shadow.look(view, key, at);
                        let first = features[0];
                        let shown = |look: &kilter_features::Look| look.values.get(first).map_or("nothing".into(), |v| v.to_string());
                        format!("{}: live {}, by the log {}", plan.features()[first].name, shown(live), shown(&log))
                    }
                };
                if report.examples.len() < SHOWN {
                    report.examples.push((plan.name().to_string(), key.to_string(), shown));
                }
            }
            report.views.push(check);
        }
        Ok(report)
    }

    /// Reads the log up to an offset, at a quarter of the pace it could.
    fn catch_up(&self, shadow: &mut Shadow, until: Offset) -> Result<(), ServiceError> {
        let plan = Arc::clone(shadow.plan());
        let from = shadow.next_offset();
        let mut began = Instant::now();
        self.data.walk_while(&plan, from, until, |offset, record| {
            match record {
                Record::Event(event) => shadow.feed(&event),
                // None of them touches an entity.
                Record::Control(
                    Control::Champion { .. }
                    | Control::Trained { .. }
                    | Control::Consumed { .. }
                    | Control::Definitions { .. }
                    | Control::Erased(_),
                )
                | Record::Erased(_)
                | Record::Foreign => {
                    shadow.skip(offset);
                }
            }
            if offset % STRETCH == STRETCH - 1 {
                std::thread::sleep(began.elapsed() * REST);
                began = Instant::now();
                // A service that ends, or definitions that change, end the reading; the next round begins anew or goes on.
                return Ok(!self.is_over());
            }
            Ok(true)
        })?;
        if shadow.next_offset() < until {
            return Err(ServiceError::Conflict("the service ends, or other definitions have come into force".into()));
        }
        Ok(())
    }
}

/// What a monitor saw this time.
struct Seen {
    value: f64,
    limit: f64,
    subject: String,
    detail: String,
    check: Option<CheckReport>,
}

/// To the second.
fn coarse(span: Span) -> Span {
    Span(span.0 / 1_000_000 * 1_000_000)
}
