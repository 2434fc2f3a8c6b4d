//! The definitions, resolved and compiled: everything `process` needs, with names turned into positions.
//!
//! A [`Plan`] is made by project loading from `kilter.toml` and never changes while a pipeline runs.

use std::sync::Arc;

use kilter_core::{DataType, Event, EventTime, Field, Offset, Schema, SourceId, Span};
use kilter_features::View;
use kilter_features::expr::{Expr, Scope};
use kilter_learn::selection::Search;
use kilter_learn::{Calibration, Learner, Task};

use crate::figures::figure_names;

/// All definitions of a project.
#[derive(Clone, Debug)]
pub struct Plan {
    pub project: String,
    /// Hash of the canonical definitions; state, decisions and models carry it.
    pub hash: String,
    /// Position = [`SourceId`].
    pub sources: Vec<SourcePlan>,
    pub views: Vec<View>,
    pub models: Vec<ModelPlan>,
    pub decisions: Vec<DecisionPlan>,
    pub monitors: Vec<MonitorPlan>,
    pub schedules: Vec<SchedulePlan>,
    pub services: Vec<ServicePlan>,
    pub clock: ClockMode,
}

/// What drives schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockMode {
    /// The machine's clock; jobs run beside the stream.
    Wall,
    /// The stream's own event time; a job holds the stream while it runs, so that a replay gives the same models at the same offsets.
    Event,
}

/// A named stream of typed events.
#[derive(Clone, Debug)]
pub struct SourcePlan {
    pub name: String,
    pub schema: Schema,
    /// How far behind the watermark an event may be and still enter every window.
    pub lateness: Span,
    /// How long a client-supplied event id is remembered.
    pub dedupe: Span,
    /// Columns of the primary key, where the events tell the changes of a table's rows: each replaces the row of its key, or takes it
    /// away. Empty: every event stands for itself.
    pub key: Vec<usize>,
}

/// The values in reach at an observation: the columns of its own row, then the features of every view whose key the row holds.
#[derive(Clone, Debug)]
pub struct ContextPlan {
    pub source: SourceId,
    pub lookups: Vec<Lookup>,
    /// Names of all slots: row columns (qualified by the source's name), then features (qualified by the view's name).
    pub scope: Scope,
    pub width: usize,
}

/// One read of a view: its features land in `width` slots from `first_slot` on.
#[derive(Clone, Debug)]
pub struct Lookup {
    pub view: usize,
    /// Columns of the observation's row that make the key.
    pub key: Vec<usize>,
    pub first_slot: usize,
}

/// A named list of features over one or several views, read together as of one moment.
#[derive(Clone, Debug)]
pub struct ServicePlan {
    pub name: String,
    /// What a reader names: the columns of all keys, each once.
    pub keys: Vec<Field>,
    /// `key` are positions in `keys`; the slots hold features only.
    pub lookups: Vec<Lookup>,
    pub features: Vec<ServiceFeature>,
    /// As written, for whoever takes the list over.
    pub lines: Vec<String>,
    /// Slots of all lookups.
    pub width: usize,
}

/// One value of a service's answer.
#[derive(Clone, Debug)]
pub struct ServiceFeature {
    pub name: String,
    pub text: String,
    /// Over the slots of the service's lookups.
    pub expr: Expr,
    pub data_type: DataType,
}

impl ServicePlan {
    /// The lookup whose features hold a slot.
    pub fn lookup_of(&self, slot: usize) -> Option<usize> {
        self.lookups.iter().rposition(|l| l.first_slot <= slot)
    }
}

/// An estimator and what it is trained on.
#[derive(Clone, Debug)]
pub struct ModelPlan {
    pub name: String,
    pub context: ContextPlan,
    /// Whether the observation's own event counts in the features read at it.
    pub include_self: bool,
    pub inputs: Vec<InputPlan>,
    pub learner: Learner,
    /// None: only for a learner that needs none, which then learns from every observation.
    pub label: Option<LabelPlan>,
    /// Length of the training window; none: all of the log.
    pub window: Option<Span>,
    /// What reasons are of; none: of single inputs.
    pub reasons: Option<ReasonPlan>,
    /// How probabilities are made to come true; none: they are the learner's own.
    pub calibration: Option<CalibrationPlan>,
    /// What a training looks for before it fits the model; none: the settings are as declared.
    pub search: Option<SearchPlan>,
    /// The newest part of the matured rows, kept out of training to judge on; 0..1.
    pub holdout: f64,
    /// Fewer matured rows than this: training is refused.
    pub min_rows: usize,
}

impl ModelPlan {
    pub fn task(&self) -> Task {
        self.learner.task()
    }

    /// The figures it is judged by; the first leads.
    pub fn figure_names(&self) -> &'static [&'static str] {
        figure_names(self.task(), self.label.is_some())
    }
}

/// A search for settings of the learner over the rows that it is then fitted to.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchPlan {
    pub search: Search,
    /// The figure to choose by.
    pub metric: String,
}

/// A calibration and the rows it is fitted to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CalibrationPlan {
    pub calibration: Calibration,
    /// The newest part of the training rows, which the learner does not see; 0..1.
    pub share: f64,
}

/// Reasons of groups of inputs, whose contributions are added up.
#[derive(Clone, Debug, PartialEq)]
pub struct ReasonPlan {
    /// Groups, and inputs that are in none.
    pub names: Vec<String>,
    /// By input its position in `names`.
    pub of_input: Arc<[usize]>,
}

/// One column of the model's matrix.
#[derive(Clone, Debug)]
pub struct InputPlan {
    pub name: String,
    pub text: String,
    /// Over the slots of the model's context; numeric or boolean, or a text that is a category.
    pub expr: Expr,
}

/// Where the truth comes from, and when it is known.
#[derive(Clone, Debug)]
pub struct LabelPlan {
    pub source: SourceId,
    /// Over the columns of the label source's row; boolean or 0/1, or a number.
    pub value: Expr,
    pub value_text: String,
    /// Whether labels are numbers, as a regression learns them, and not 0 and 1.
    pub is_number: bool,
    /// Key columns in the observation's row and, pairwise, in the label's row.
    pub observation_key: Vec<usize>,
    pub label_key: Vec<usize>,
    /// An observation is matured this long after its time; label events count when they happen within it.
    pub within: Span,
    /// The label of a matured observation without any label event; none: such rows are left out.
    pub absent: Option<f64>,
}

impl LabelPlan {
    /// What an event of the label source says, 0 or 1 or a finite number; none: nothing.
    pub fn truth(&self, event: &Event) -> Option<f64> {
        let value = self.value.eval(&event.row).as_f64()?;
        match self.is_number {
            true => Some(value).filter(|x| x.is_finite()),
            false => Some(value).filter(|x| !x.is_nan()).map(|x| f64::from(u8::from(x != 0.0))),
        }
    }
}

/// A model version and a policy, applied to every event of a source.
#[derive(Clone, Debug)]
pub struct DecisionPlan {
    pub name: String,
    pub source: SourceId,
    /// The model whose champion scores; none: rules alone.
    pub model: Option<usize>,
    pub context: ContextPlan,
    /// Slot of `score` in the policy's scope: `context.width`.
    pub policy: Vec<Rule>,
    /// All outcomes, in the policy's order, then the fallback if it is another; a decision holds a position in this list.
    pub outcomes: Vec<String>,
    /// Outcome while the model has no champion; none: no decision is made then.
    pub fallback: Option<usize>,
    /// At most this many reasons.
    pub reasons: usize,
    pub include_self: bool,
}

/// One line of a policy; the first whose condition is true decides.
#[derive(Clone, Debug)]
pub struct Rule {
    /// None: always.
    pub when: Option<Expr>,
    pub text: Option<String>,
    /// Position in [`DecisionPlan::outcomes`].
    pub outcome: usize,
}

/// A watched signal of a model in service.
#[derive(Clone, Debug)]
pub struct MonitorPlan {
    pub name: String,
    pub model: usize,
    pub signal: Signal,
    pub above: Option<f64>,
    pub below: Option<f64>,
    /// The signal is computed over this much of the newest past ...
    pub window: Span,
    /// ... once per this much event time.
    pub every: Span,
    /// Fewer rows in the window than this: no value, no alert.
    pub min_rows: u64,
    /// Whether an alert asks for a training, and how long after that it does not ask again.
    pub retrain: bool,
    pub rest: Span,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Population stability index of each input and of the score against the training reference; the largest counts.
    Psi,
    /// Of the decisions whose labels have matured.
    Auc,
    LogLoss,
    Brier,
    Rmse,
    Mae,
    /// Mean score less mean label.
    Bias,
    /// At the level of a quantile.
    Pinball,
    Coverage,
    /// Of an objective that has one.
    Deviance,
}

impl Signal {
    pub const ALL: [(&'static str, Signal); 10] = [
        ("psi", Signal::Psi),
        ("auc", Signal::Auc),
        ("log_loss", Signal::LogLoss),
        ("brier", Signal::Brier),
        ("rmse", Signal::Rmse),
        ("mae", Signal::Mae),
        ("bias", Signal::Bias),
        ("pinball", Signal::Pinball),
        ("coverage", Signal::Coverage),
        ("deviance", Signal::Deviance),
    ];

    pub fn name(self) -> &'static str {
        Signal::ALL.iter().find(|(_, s)| *s == self).map_or("", |(n, _)| n)
    }
}

/// When a model is trained by itself.
#[derive(Clone, Debug)]
pub struct SchedulePlan {
    pub name: String,
    pub when: When,
    pub model: usize,
    /// Over the `promotion_scope` of the model's figures; none: the challenger waits for a person.
    pub promote_if: Option<Expr>,
    pub promote_text: Option<String>,
}

/// The rhythm of a schedule.
#[derive(Clone, Debug)]
pub enum When {
    Every(Span),
    /// Five- or six-field cron expression, UTC.
    Cron(String),
}

impl Plan {
    pub fn source(&self, name: &str) -> Option<SourceId> {
        self.sources.iter().position(|s| s.name == name).map(|i| SourceId(i as u16))
    }

    pub fn model(&self, name: &str) -> Option<usize> {
        self.models.iter().position(|m| m.name == name)
    }

    pub fn decision(&self, name: &str) -> Option<usize> {
        self.decisions.iter().position(|d| d.name == name)
    }

    pub fn service(&self, name: &str) -> Option<usize> {
        self.services.iter().position(|s| s.name == name)
    }

    pub fn view(&self, name: &str) -> Option<usize> {
        self.views.iter().position(|v| v.name() == name)
    }

    /// These views and all that they read, directly or not, each once: those asked for first, in their order.
    pub fn with_needs(&self, views: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let mut all: Vec<usize> = Vec::new();
        for view in views {
            if !all.contains(&view) {
                all.push(view);
            }
        }
        let mut next = 0;
        while next < all.len() {
            for needed in self.views[all[next]].needs().filter_map(|name| self.view(name)) {
                if !all.contains(&needed) {
                    all.push(needed);
                }
            }
            next += 1;
        }
        all
    }
}

/// The name of the decision that one event of a log led to: `loan-12345` was made by decision `loan` at offset 12345.
pub fn decision_id(decision: &str, offset: Offset) -> String {
    format!("{decision}-{offset}")
}

/// The parts of a decision id.
pub fn parse_decision_id(id: &str) -> Option<(&str, Offset)> {
    let (decision, offset) = id.rsplit_once('-')?;
    Some((decision, offset.parse().ok()?))
}

/// A stretch of event time, from inclusive to exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub from: EventTime,
    pub to: EventTime,
}

impl Range {
    pub fn holds(&self, t: EventTime) -> bool {
        self.from <= t && t < self.to
    }
}
