//! The register of learners: one file (or folder) each, one line here.

pub mod gbdt;
pub mod linear;
pub mod logistic;
pub mod scorecard;

use serde::{Deserialize, Serialize};

use crate::format::Sealed;
use crate::{LearnError, Model, TrainingSet, exchange};
use crate::{calibration, classes};

type Read = fn(&Sealed<'_>) -> Result<Box<dyn Model>, LearnError>;

/// How to read a model of each kind.
pub(crate) const KINDS: &[(&str, Read)] = &[
    (gbdt::KIND, gbdt::read),
    (linear::KIND, linear::read),
    (logistic::KIND, logistic::read),
    (scorecard::KIND, scorecard::read),
    (calibration::KIND, calibration::read),
    (classes::KIND, classes::refuse),
    (exchange::lightgbm::KIND, exchange::read),
    (exchange::xgboost::KIND, exchange::read),
];

/// A learner with its parameters, as a definition file names it: `{"kind": "gbdt", "trees": 200}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Learner {
    Gbdt(gbdt::Gbdt),
    Logistic(logistic::Logistic),
    Scorecard(scorecard::Scorecard),
}

impl Learner {
    pub fn fit(&self, training_set: &TrainingSet) -> Result<Box<dyn Model>, LearnError> {
        Ok(match self {
            Learner::Gbdt(parameters) => Box::new(gbdt::fit(training_set, parameters)?),
            Learner::Logistic(parameters) => Box::new(logistic::fit(training_set, parameters)?),
            Learner::Scorecard(parameters) => Box::new(scorecard::fit(training_set, parameters)?),
        })
    }
}
