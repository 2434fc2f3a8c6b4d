//! Watches the model in service: drift of its inputs and score, and its quality once labels are known.
//!
//! Everything runs on event time in buckets of the monitor's rhythm, so that a replay raises the same alerts at the same events.
//! PSI compares the decisions of the window with the model's training rows, bin by bin (see `kilter_stats::Reference`).

use std::collections::VecDeque;

use kilter_core::{EntityKey, EventTime};
use kilter_learn::Task;
use kilter_learn::metrics::{self, Aim};
use kilter_stats::{Counts, Reference, psi};
use serde::{Deserialize, Serialize};

use crate::waiting::{Scored, Waiting};
use crate::{Decision, Figures, LabelPlan, ModelPlan, MonitorPlan, Signal};

/// What a model's inputs and scores looked like in training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftReference {
    pub inputs: Vec<String>,
    /// One per input, then one for the score.
    pub references: Vec<Reference>,
}

/// A monitor's value at the close of a bucket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// Position in `Plan::monitors`.
    pub monitor: usize,
    pub at: EventTime,
    /// The input (or `score`) that moved the most, or the metric's name.
    pub subject: String,
    pub value: f64,
    pub rows: u64,
    /// The threshold that was crossed, when one was.
    pub crossed: Option<f64>,
    /// Whether this crossing asks for a training: the first one, then after each rest while it lasts.
    pub retrain: bool,
    /// The version in service; not remembered.
    #[serde(skip)]
    pub version: Option<u32>,
    /// Everything that was looked at; not remembered.
    #[serde(skip)]
    pub subjects: Vec<SubjectReading>,
}

/// What a monitor saw of one input, of the score, or by its one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct SubjectReading {
    pub subject: String,
    pub value: f64,
    /// In the window, by bin of the reference; none for a metric.
    pub counts: Option<Counts>,
}

impl Reading {
    fn of(at: EventTime) -> Reading {
        Reading {
            monitor: 0,
            at,
            subject: String::new(),
            value: f64::NAN,
            rows: 0,
            crossed: None,
            retrain: false,
            version: None,
            subjects: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Bucket {
    index: i64,
    counts: Vec<Counts>,
    rows: u64,
}

/// The running state of one monitor.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MonitorState {
    /// Bucket in progress; none before the first event.
    current: Option<i64>,
    /// First decision counted under the reference in service.
    since: Option<EventTime>,
    drift: VecDeque<Bucket>,
    /// Decisions whose labels are not yet due.
    waiting: Waiting,
    /// Decisions with a matured label (score and truth), by the time it matured.
    matured: VecDeque<(EventTime, f64, f64)>,
    /// When the monitor last asked for a training.
    asked: Option<EventTime>,
    /// The last closed value.
    pub last: Option<Reading>,
}

/// A monitor remembers at most this many decisions that wait for a label; the oldest leave first.
const WAITING_LIMIT: usize = 1_000_000;

impl MonitorState {
    pub fn new() -> MonitorState {
        MonitorState::default()
    }

    /// Forgets the window of the model that has just left.
    pub fn model_changed(&mut self) {
        self.drift.clear();
        self.since = None;
    }

    /// Closes buckets that end at or before `now`; gives the value of the last one closed.
    pub fn advance(
        &mut self,
        plan: &MonitorPlan,
        index: usize,
        model: &ModelPlan,
        reference: Option<&DriftReference>,
        now: EventTime,
    ) -> Option<Reading> {
        let bucket = now.bucket(plan.every);
        match self.current {
            None => {
                self.current = Some(bucket);
                return None;
            }
            Some(current) if bucket <= current => return None,
            Some(_) => self.current = Some(bucket),
        }
        let at = EventTime(bucket * plan.every.0);
        let mut reading = match plan.signal {
            Signal::Psi => self.drift_value(plan, reference?, at)?,
            _ => self.quality_value(plan, model, model.label.as_ref()?, at)?,
        };
        reading.monitor = index;
        reading.crossed = match (plan.above, plan.below) {
            (Some(limit), _) if reading.value > limit => Some(limit),
            (_, Some(limit)) if reading.value < limit => Some(limit),
            _ => None,
        };
        let rested = self.asked.is_none_or(|asked| asked + plan.rest <= at);
        if plan.retrain && reading.crossed.is_some() && rested {
            reading.retrain = true;
            self.asked = Some(at);
        }
        let subjects = std::mem::take(&mut reading.subjects);
        self.last = Some(reading.clone());
        Some(Reading { subjects, ..reading })
    }

    fn drift_value(&mut self, plan: &MonitorPlan, reference: &DriftReference, at: EventTime) -> Option<Reading> {
        let first = (at - plan.window).bucket(plan.every);
        while self.drift.front().is_some_and(|b| b.index < first) {
            self.drift.pop_front();
        }
        // Half a window says nothing about the whole: a week without its weekend looks like drift.
        if self.since.is_none_or(|since| since.bucket(plan.every) > first) {
            return None;
        }
        let mut total: Vec<Counts> = reference.references.iter().map(Reference::counts).collect();
        let mut rows = 0;
        for bucket in &self.drift {
            rows += bucket.rows;
            for (sum, part) in total.iter_mut().zip(&bucket.counts) {
                sum.merge(part);
            }
        }
        if rows < plan.min_rows.max(1) {
            return None;
        }
        let names = reference.inputs.iter().map(String::as_str).chain(["score"]);
        let subjects: Vec<SubjectReading> = names
            .zip(reference.references.iter().zip(total))
            .map(|(name, (r, counts))| SubjectReading { subject: name.to_string(), value: psi(r, &counts), counts: Some(counts) })
            .collect();
        let (subject, value) = subjects
            .iter()
            .map(|s| (s.subject.as_str(), s.value))
            .fold(("score", f64::NEG_INFINITY), |worst, next| if next.1 > worst.1 { next } else { worst });
        let subject = subject.to_string();
        value.is_finite().then(|| Reading { subject, value, rows, subjects, ..Reading::of(at) })
    }

    fn quality_value(&mut self, plan: &MonitorPlan, model: &ModelPlan, label: &LabelPlan, at: EventTime) -> Option<Reading> {
        // An event at `at` itself may still come, and its label would count: a horizon must have ended before.
        while let Some(scored) = self.waiting.pop_before(at - label.within) {
            let due = scored.time + label.within;
            if let Some(truth) = scored.label.or(label.absent) {
                let place = self.matured.partition_point(|(t, _, _)| *t <= due);
                self.matured.insert(place, (due, scored.score, truth));
            }
        }
        while self.matured.front().is_some_and(|(t, _, _)| *t < at - plan.window) {
            self.matured.pop_front();
        }
        let rows = self.matured.len() as u64;
        if rows < plan.min_rows.max(1) {
            return None;
        }
        let (scores, labels): (Vec<f64>, Vec<f64>) = self.matured.iter().map(|(_, s, l)| (*s, *l)).unzip();
        let value = match plan.signal {
            Signal::Auc => metrics::auc(&scores, &labels),
            Signal::LogLoss => metrics::log_loss(&scores, &labels),
            Signal::Brier => metrics::brier(&scores, &labels),
            Signal::Psi => return None,
            of_numbers => {
                let aim = if let Task::Numbers(aim) = model.task() { aim } else { Aim::Mean };
                Figures::of(Task::Numbers(aim), &scores, &labels).get(of_numbers.name())
            }
        };
        let subject = plan.signal.name().to_string();
        let subjects = vec![SubjectReading { subject: subject.clone(), value, counts: None }];
        value.is_finite().then(|| Reading { subject, value, rows, subjects, ..Reading::of(at) })
    }

    /// Counts one decision of the watched model.
    pub fn observe(&mut self, plan: &MonitorPlan, reference: Option<&DriftReference>, key: Option<EntityKey>, decision: &Decision) {
        let Some(score) = decision.score else { return };
        match plan.signal {
            Signal::Psi => {
                let Some(reference) = reference else { return };
                // An event from behind counts in the bucket in progress: closed buckets do not change.
                let index = decision.time.bucket(plan.every).max(self.current.unwrap_or(i64::MIN));
                self.since.get_or_insert(decision.time.max(EventTime(index.saturating_mul(plan.every.0))));
                if self.drift.back().is_none_or(|b| b.index < index) {
                    let counts = reference.references.iter().map(Reference::counts).collect();
                    self.drift.push_back(Bucket { index, counts, rows: 0 });
                }
                if let Some(bucket) = self.drift.back_mut() {
                    bucket.rows += 1;
                    for (counts, value) in bucket.counts.iter_mut().zip(decision.inputs.iter().copied().chain([score])) {
                        counts.add(value);
                    }
                }
            }
            _ => {
                let Some(key) = key else { return };
                if self.waiting.len() == WAITING_LIMIT {
                    self.waiting.pop_before(EventTime(i64::MAX));
                }
                self.waiting.push(Scored { key: key_text(&key).into(), time: decision.time, score, label: None });
            }
        }
    }

    /// Joins one label event to the decisions that wait for it.
    pub fn label(&mut self, label: &LabelPlan, key: &EntityKey, at: EventTime, truth: f64) {
        self.waiting.label(&key_text(key).into(), at - label.within, at, truth);
    }
}

/// Different keys never meet: neither `i7` and `t7`, nor two composites whose texts hold the mark between them.
fn key_text(key: &EntityKey) -> String {
    match key {
        EntityKey::Int(i) => format!("i{i}"),
        EntityKey::Text(t) => format!("t{t}"),
        EntityKey::Bool(b) => format!("b{b}"),
        EntityKey::Composite(keys) => {
            let part = |key: &EntityKey| match key {
                EntityKey::Text(t) => format!("t{}:{t}", t.len()),
                other => key_text(other),
            };
            keys.iter().map(part).collect::<Vec<_>>().join("|")
        }
    }
}
