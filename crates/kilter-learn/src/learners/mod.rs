//! The register of learners: one file (or folder) each, one line here.

mod ensemble;
pub mod explainable;
pub mod forest;
pub mod gbdt;
pub mod isolation;
pub mod kmeans;
pub mod linear;
pub mod logistic;
pub mod online;
pub mod pipeline;
pub mod scorecard;
mod target;

use serde::{Deserialize, Serialize};

use crate::format::Sealed;
use crate::{LearnError, Model, TrainingSet, exchange};
use crate::{calibration, classes};

type Read = fn(&Sealed<'_>) -> Result<Box<dyn Model>, LearnError>;

/// How to read a model of each kind.
pub(crate) const KINDS: &[(&str, Read)] = &[
    (explainable::KIND, explainable::read),
    (forest::KIND, forest::read),
    (gbdt::KIND, gbdt::read),
    (isolation::KIND, isolation::read),
    (kmeans::KIND, kmeans::read),
    (linear::KIND, linear::read::<linear::Linear>),
    (logistic::KIND, linear::read::<logistic::Logistic>),
    (online::logistic::KIND, online::logistic::read),
    (online::tree::KIND, online::tree::read),
    (pipeline::KIND, pipeline::read),
    (scorecard::KIND, scorecard::read),
    (calibration::KIND, calibration::read),
    (classes::KIND, classes::refuse),
    (exchange::lightgbm::KIND, exchange::read),
    (exchange::xgboost::KIND, exchange::read),
    (exchange::catboost::KIND, exchange::read),
    (exchange::onnx::KIND, exchange::read),
    (exchange::onnx::LINE_KIND, exchange::read_line),
];

/// A learner with its parameters, as a definition file names it: `{"kind": "gbdt", "trees": 200}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Learner {
    Gbdt(gbdt::Gbdt),
    Forest(forest::Forest),
    Explainable(explainable::Explainable),
    Logistic(logistic::Logistic),
    Scorecard(scorecard::Scorecard),
    Linear(linear::Linear),
    Isolation(isolation::Isolation),
}

impl Learner {
    pub fn fit(&self, training_set: &TrainingSet) -> Result<Box<dyn Model>, LearnError> {
        Ok(match self {
            Learner::Gbdt(parameters) => Box::new(gbdt::fit(training_set, parameters)?),
            Learner::Explainable(parameters) => Box::new(explainable::fit(training_set, parameters)?),
            Learner::Forest(parameters) => Box::new(forest::fit(training_set, parameters)?),
            Learner::Logistic(parameters) => Box::new(logistic::fit(training_set, parameters)?),
            Learner::Scorecard(parameters) => Box::new(scorecard::fit(training_set, parameters)?),
            Learner::Linear(parameters) => Box::new(linear::fit(training_set, parameters)?),
            // Learns from rows alone.
            Learner::Isolation(parameters) => Box::new(isolation::fit(&training_set.matrix, parameters)?),
        })
    }
}
