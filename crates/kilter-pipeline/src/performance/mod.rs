//! How well the scores that were given turned out, by period and by part of the cases, and what is to be expected before labels are known.
//!
//! Nothing is scored anew: scores and outcomes are those of the decision log, labels are joined as those of training rows. Figures are computed from all scores and labels
//! of their cases and are exact, so what is held grows with the decisions looked at, up to a bound.

mod segment;
mod slice;

use std::collections::BTreeMap;
use std::sync::Arc;

use kilter_core::{Calendar, Event, EventTime, Span, Unit};
use kilter_learn::Task;
use serde::{Serialize, Serializer};

use crate::decision::ErasedDecision;
use crate::labels::{LabelJoin, known};
use crate::{Decision, LabelPlan, Layout, Plan, Range};
pub use segment::{Group, Segment};
use segment::{Shares, Values};
use slice::Cases;
pub use slice::{CalibrationError, CalibrationPoint, Estimated, Figure, OfOutcome, Realised, Slice};

/// Decisions looked at, at most; each takes some 200 bytes, most of it for the key that its label comes under.
const DECISIONS: usize = 2_000_000;
/// Label events kept at most, whether or not there is a decision that they are about; each takes some 150 bytes.
const LABEL_EVENTS: u64 = 5_000_000;
/// Cohorts told at most ...
const COHORTS: usize = 400;
/// ... and where their length is not asked for.
const USUAL_COHORTS: i64 = 60;

/// Which decisions are looked at, and what is kept of each.
#[derive(Clone, Debug)]
pub struct Question {
    /// Position in the plan's decisions; it has a model.
    pub decision: usize,
    pub range: Range,
    /// Only those that this version scored.
    pub version: Option<u32>,
    pub segment: Option<SegmentOf>,
}

/// What cases are told apart by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentOf {
    /// A column of the decision's source.
    Column(usize),
    /// An input of the model, by its name.
    Input(String),
}

/// How it is to be told.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// None: the shortest of which there are not too many.
    pub by: Option<By>,
    /// Outcomes that are good for whom a decision is about; empty: that of the policy's last line.
    pub favourable: Vec<String>,
    /// The label of a case that deserved it; none: the one that favourable outcomes go with by their scores.
    pub good_label: Option<bool>,
    /// The group that others are held against; none: the largest.
    pub reference: Option<String>,
}

/// The length of a cohort, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Hour,
    Day,
    /// From Monday on.
    Week,
    Month,
}

impl By {
    /// Ascending.
    pub const ALL: [(&'static str, By); 4] = [("hour", By::Hour), ("day", By::Day), ("week", By::Week), ("month", By::Month)];

    pub fn name(self) -> &'static str {
        By::ALL.iter().find(|(_, by)| *by == self).map_or("", |(name, _)| name)
    }

    fn unit(self) -> Unit {
        match self {
            By::Hour => Unit::Even(Span::HOUR),
            By::Day => Unit::Day,
            By::Week => Unit::Week,
            By::Month => Unit::Month,
        }
    }
}

/// Why there is no report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoReport {
    TooManyDecisions,
    TooManyLabelEvents,
    TooManyCohorts,
    /// Names of what there is.
    UnknownOutcome(String, Vec<String>),
    UnknownReference(String, Vec<String>),
    /// The segment has more values than are told apart.
    TooManyValues,
    /// Nobody waits for it any more.
    Unwanted,
}

impl std::fmt::Display for NoReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoReport::TooManyDecisions => write!(f, "there are more than {DECISIONS} decisions to look at"),
            NoReport::TooManyLabelEvents => write!(f, "there are more than {LABEL_EVENTS} label events in the stretch of time"),
            NoReport::TooManyCohorts => write!(f, "there are more than {COHORTS} cohorts of this length"),
            NoReport::UnknownOutcome(name, _) => write!(f, "there is no outcome `{name}`"),
            NoReport::UnknownReference(name, _) => write!(f, "there is no group `{name}`"),
            NoReport::TooManyValues => write!(f, "the segment has more than {} different texts", segment::TEXTS),
            NoReport::Unwanted => f.write_str("nobody waits for it any more"),
        }
    }
}

impl std::error::Error for NoReport {}

/// How a model's decisions turned out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub model: String,
    pub decision: String,
    /// `classes`, `numbers` or `anomalies`.
    pub task: &'static str,
    pub has_label: bool,
    pub horizon: Option<String>,
    /// The label of a case whose horizon ended without one.
    pub absent: Option<f64>,
    /// The method that makes the model's probabilities come true.
    pub calibration: Option<&'static str>,
    /// The newest event: what is known is known as of then.
    #[serde(serialize_with = "texts")]
    pub as_of: Option<EventTime>,
    pub by: &'static str,
    pub favourable: Vec<String>,
    /// None where labels are numbers.
    pub good_label: Option<u8>,
    /// In the order of every slice's outcomes.
    pub outcomes: Vec<String>,
    /// Of all in the range, also those of versions not asked for.
    pub versions: Vec<OfVersion>,
    pub left_out: LeftOut,
    pub total: Slice,
    /// Bins of as many cases each by score, of the total.
    pub calibration_curve: Vec<CalibrationPoint>,
    /// In order, those without a decision left out.
    pub cohorts: Vec<Cohort>,
    pub segment: Option<Segment>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Cohort {
    #[serde(serialize_with = "text")]
    pub from: EventTime,
    #[serde(serialize_with = "text")]
    pub to: EventTime,
    /// When the last horizon has ended.
    #[serde(serialize_with = "texts")]
    pub complete_at: Option<EventTime>,
    #[serde(flatten)]
    pub slice: Slice,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct OfVersion {
    /// None: decided without a model.
    pub version: Option<u32>,
    pub decisions: u64,
    #[serde(serialize_with = "text")]
    pub first: EventTime,
    #[serde(serialize_with = "text")]
    pub last: EventTime,
}

/// Recorded decisions of the range that are in no figure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    pub erased: u64,
    /// Made under this name with another model, or with one of another kind.
    pub other_model: u64,
    /// On events of a source that is no longer declared, or is no longer the decision's.
    pub without_event: u64,
}

/// Takes in the past of a decision.
pub struct Performance {
    plan: Arc<Plan>,
    question: Question,
    model: usize,
    join: Option<LabelJoin>,
    /// The layout of the last decision, and what its positions mean here.
    layout: Option<(Arc<Layout>, Vec<u16>, Option<usize>)>,
    outcomes: Vec<String>,
    times: Vec<EventTime>,
    /// NaN: none.
    labels: Vec<f64>,
    scores: Vec<f64>,
    outcome_of: Vec<u16>,
    values: Option<Values>,
    versions: BTreeMap<Option<u32>, OfVersion>,
    left_out: LeftOut,
    seen: Option<EventTime>,
}

/// The rows of a stretch of time.
struct Rows<'a> {
    range: Range,
    rows: &'a [u32],
}

impl Performance {
    /// None: the decision has no model.
    pub fn new(plan: Arc<Plan>, question: Question) -> Option<Performance> {
        let decision = &plan.decisions[question.decision];
        let model = decision.model?;
        let values = question.segment.as_ref().map(|segment| Values::new(segment, &plan.sources[usize::from(decision.source.0)].schema));
        Some(Performance {
            join: plan.models[model].label.clone().map(|label| LabelJoin::new(label, question.range)),
            outcomes: decision.outcomes.clone(),
            model,
            plan,
            question,
            layout: None,
            times: Vec::new(),
            labels: Vec::new(),
            scores: Vec::new(),
            outcome_of: Vec::new(),
            values,
            versions: BTreeMap::new(),
            left_out: LeftOut::default(),
            seen: None,
        })
    }

    /// Whether a recorded decision is one of those looked at.
    fn concerns(&self, layout: &Layout, time: EventTime) -> bool {
        layout.decision == self.plan.decisions[self.question.decision].name && self.question.range.holds(time)
    }

    /// Notes that time has come this far.
    pub fn reach(&mut self, time: EventTime) {
        self.seen = self.seen.max(Some(time));
    }

    /// Takes in a decision and the event that it was made on, before that event itself.
    ///
    /// # Errors
    /// When there are more decisions than are looked at.
    pub fn decision(&mut self, event: &Event, decision: &Decision, layout: &Arc<Layout>) -> Result<(), NoReport> {
        if !self.concerns(layout, decision.time) {
            return Ok(());
        }
        let own = &self.plan.decisions[self.question.decision];
        if event.source != own.source {
            self.left_out.without_event += 1;
            return Ok(());
        }
        let model = &self.plan.models[self.model];
        // A score that no probability is, is one of a model of that name that was of another kind.
        let is_of_another_kind = model.task() == Task::Classes && decision.score.is_some_and(|score| !(0.0..=1.0).contains(&score));
        if layout.model.as_ref() != Some(&model.name) || is_of_another_kind {
            self.left_out.other_model += 1;
            return Ok(());
        }
        let (version, time) = (decision.version, event.time);
        let of = self.versions.entry(version).or_insert(OfVersion { version, decisions: 0, first: time, last: time });
        (of.decisions, of.first, of.last) = (of.decisions + 1, of.first.min(time), of.last.max(time));
        if self.question.version.is_some_and(|wanted| version != Some(wanted)) {
            return Ok(());
        }
        if self.times.len() == DECISIONS {
            return Err(NoReport::TooManyDecisions);
        }
        let (outcome, input) = self.positions(layout, decision.outcome);
        self.times.push(time);
        self.labels.push(f64::NAN);
        self.scores.push(decision.score.unwrap_or(f64::NAN));
        self.outcome_of.push(outcome);
        if let Some(values) = &mut self.values {
            values.push(event, input.and_then(|input| decision.inputs.get(input).copied()));
        }
        if let Some(join) = &mut self.join {
            join.observe(event, &self.times, &mut self.labels);
        }
        Ok(())
    }

    /// The position of an outcome among all that came up, and of the segment among the inputs.
    fn positions(&mut self, layout: &Arc<Layout>, outcome: usize) -> (u16, Option<usize>) {
        let (_, outcomes, input) = match self.layout.take() {
            Some(known) if Arc::ptr_eq(&known.0, layout) => self.layout.insert(known),
            _ => {
                let mut place = |name: &String| {
                    let found = self.outcomes.iter().position(|known| known == name);
                    found.unwrap_or_else(|| {
                        self.outcomes.push(name.clone());
                        self.outcomes.len() - 1
                    }) as u16
                };
                let outcomes = layout.outcomes.iter().map(&mut place).collect();
                let input = match &self.question.segment {
                    Some(SegmentOf::Input(name)) => layout.inputs.iter().position(|input| input == name),
                    _ => None,
                };
                self.layout.insert((Arc::clone(layout), outcomes, input))
            }
        };
        (outcomes.get(outcome).copied().unwrap_or_default(), *input)
    }

    /// Counts a decision whose event is not at hand.
    pub fn without_event(&mut self, decision: &Decision, layout: &Layout) {
        self.left_out.without_event += u64::from(self.concerns(layout, decision.time));
    }

    /// Counts a decision that was erased.
    pub fn erased(&mut self, erased: &ErasedDecision, layout: &Layout) {
        self.left_out.erased += u64::from(self.concerns(layout, erased.time));
    }

    /// Takes in what may be a label.
    ///
    /// # Errors
    /// When there are more label events than are kept.
    pub fn label(&mut self, event: &Event) -> Result<(), NoReport> {
        let Some(join) = &mut self.join else { return Ok(()) };
        join.label(event, &self.times, &mut self.labels);
        if join.kept() > LABEL_EVENTS { Err(NoReport::TooManyLabelEvents) } else { Ok(()) }
    }

    /// The report, as long as somebody `wants` it.
    ///
    /// # Errors
    /// What was asked for is not there, or is too much.
    pub fn finish(mut self, shown: &Shown, wants: &dyn Fn() -> bool) -> Result<Report, NoReport> {
        // What goes with the keys is not needed any more.
        self.join = None;
        let plan = Arc::clone(&self.plan);
        let model = &plan.models[self.model];
        let label = model.label.as_ref();
        let favourable = self.favourable(&shown.favourable)?;
        let (labels, matured) = self.known_labels(label);
        let cases = Cases {
            task: model.task(),
            labels,
            matured,
            scores: std::mem::take(&mut self.scores),
            outcome_of: std::mem::take(&mut self.outcome_of),
            outcomes: self.outcomes.clone(),
        };
        let mut by_time: Vec<u32> = (0..self.times.len() as u32).collect();
        // The order of the log among equals, so that sums are the same each time.
        by_time.sort_by_key(|&row| self.times[row as usize]);

        let (by, periods) = self.periods(shown.by, &by_time)?;
        let slice = |rows: &[u32]| if wants() { Ok(cases.slice(rows)) } else { Err(NoReport::Unwanted) };
        let cohorts = periods.into_iter().map(|Rows { range: Range { from, to }, rows }| {
            let complete_at = label.map(|label| to + label.within);
            Ok(Cohort { from, to, complete_at, slice: slice(rows)? })
        });
        let cohorts = cohorts.collect::<Result<_, _>>()?;
        let good_label = match model.task() {
            Task::Numbers(_) => None,
            _ => Some(shown.good_label.unwrap_or_else(|| cases.favours_high_scores(&favourable))),
        };
        let segment = match (self.values.take(), &self.question.segment) {
            (Some(values), Some(of)) => {
                let shares = Shares { cases: &cases, favourable: &favourable, good_label: good_label.filter(|_| label.is_some()) };
                let (name, kind) = self.segment_name(of);
                Some(shares.segment(name, kind, values, &by_time, shown.reference.as_deref(), wants)?)
            }
            _ => None,
        };
        Ok(Report {
            model: model.name.clone(),
            decision: self.plan.decisions[self.question.decision].name.clone(),
            task: match model.task() {
                Task::Classes => "classes",
                Task::Numbers(_) => "numbers",
                Task::Anomalies => "anomalies",
            },
            has_label: label.is_some(),
            horizon: label.map(|label| label.within.to_string()),
            absent: label.and_then(|label| label.absent),
            calibration: model.calibration.map(|plan| plan.calibration.method.name()),
            as_of: self.seen,
            by: by.name(),
            favourable: favourable.iter().map(|at| self.outcomes[usize::from(*at)].clone()).collect(),
            good_label: good_label.map(u8::from),
            outcomes: self.outcomes,
            versions: self.versions.into_values().collect(),
            left_out: self.left_out,
            total: slice(&by_time)?,
            calibration_curve: cases.calibration_curve(&by_time),
            cohorts,
            segment,
        })
    }

    /// Positions of outcomes.
    fn favourable(&self, names: &[String]) -> Result<Vec<u16>, NoReport> {
        if names.is_empty() {
            let decision = &self.plan.decisions[self.question.decision];
            let last = decision.policy.last().map(|rule| rule.outcome).or(decision.fallback);
            return Ok(last.into_iter().map(|outcome| outcome as u16).collect());
        }
        let place = |name: &String| {
            let found = self.outcomes.iter().position(|known| known == name);
            found.map(|at| at as u16).ok_or_else(|| NoReport::UnknownOutcome(name.clone(), self.outcomes.clone()))
        };
        names.iter().map(place).collect()
    }

    /// The labels as known by now, and whose horizon has ended.
    fn known_labels(&mut self, label: Option<&LabelPlan>) -> (Vec<f64>, Vec<bool>) {
        let mut labels = std::mem::take(&mut self.labels);
        let matured = labels.iter_mut().zip(&self.times).map(|(value, time)| {
            let (Some(label), Some(seen)) = (label, self.seen) else { return false };
            let end = *time + label.within;
            let found = known(*value, end, label.absent, seen);
            *value = found.unwrap_or(f64::NAN);
            found.is_some() || end < seen
        });
        let matured = matured.collect();
        (labels, matured)
    }

    /// Rows, ascending by time, by the period that they lie in.
    fn periods<'a>(&self, by: Option<By>, by_time: &'a [u32]) -> Result<(By, Vec<Rows<'a>>), NoReport> {
        let time = |row: &u32| self.times[*row as usize];
        let calendar = |by: By| Calendar::new(by.unit(), "UTC").ok_or(NoReport::TooManyCohorts);
        let ends = by_time.first().zip(by_time.last()).map(|(first, last)| (time(first), time(last)));
        let fits = |by: By| {
            let count = |calendar: Calendar, (first, last)| calendar.period(last).number - calendar.period(first).number;
            calendar(by).map(|calendar| ends.is_none_or(|ends| count(calendar, ends) < USUAL_COHORTS))
        };
        let by = match by {
            Some(by) => by,
            None => {
                let mut found = By::Month;
                for (_, by) in By::ALL.into_iter().rev() {
                    if fits(by)? {
                        found = by;
                    }
                }
                found
            }
        };
        let calendar = calendar(by)?;
        let mut rest = by_time;
        let mut periods = Vec::new();
        while let Some(first) = rest.first() {
            let period = calendar.period(time(first));
            let (own, after) = rest.split_at(rest.partition_point(|row| time(row) < period.end));
            if periods.len() == COHORTS {
                return Err(NoReport::TooManyCohorts);
            }
            periods.push(Rows { range: Range { from: period.start, to: period.end }, rows: own });
            rest = after;
        }
        Ok((by, periods))
    }

    fn segment_name(&self, of: &SegmentOf) -> (String, &'static str) {
        match of {
            SegmentOf::Column(column) => {
                let source = &self.plan.sources[usize::from(self.plan.decisions[self.question.decision].source.0)];
                (format!("{}.{}", source.name, source.schema.fields[*column].name), "column")
            }
            SegmentOf::Input(name) => (name.clone(), "input"),
        }
    }
}

fn text<S: Serializer>(time: &EventTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

fn texts<S: Serializer>(time: &Option<EventTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}
