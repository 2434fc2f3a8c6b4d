//! Features, model, policy and monitors as one pure step; training sets and backtests by replay of the same step.
//!
//! [`Pipeline::process`] is the step. [`Change`] leads from one plan to another over the same log. [`Observations`] gathers a model's training
//! rows by the same engine over the past; [`training_set`] reads features at any spine, [`parts`] makes state on many
//! machines.

pub mod backtest;
mod change;
mod context;
pub mod decision;
mod figures;
mod labelled;
mod labels;
mod monitor;
mod observations;
pub mod parts;
pub mod performance;
mod pipeline;
mod plan;
pub mod policy_test;
pub mod shadow;
mod tally;
pub mod training;
pub mod training_set;
mod waiting;

pub use change::{Change, Misfit, label_of};
pub use decision::{Decision, Layout, Reason};
pub use figures::{Figures, figure_names, judge, promotion_scope, promotion_slots, search_metrics};
pub use kilter_learn::Learner;
pub use labelled::{Label, Labelled};
pub use monitor::{DriftReference, MonitorState, Reading, SubjectReading};
pub use observations::{Feed, Freshness, Observations};
pub use pipeline::{Champion, Outcome, Pipeline, RestoreError};
pub use plan::*;
pub use tally::SourceTally;
