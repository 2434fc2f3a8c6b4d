//! What a learner's models say of a row, and with it what labels are and by which figures a model is judged.

use crate::learners::gbdt::Objective;
use crate::learners::{Learner, forest, isolation};
use crate::metrics::Aim;
use crate::{Link, Model};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Task {
    /// The probability of label 1; labels are 0 and 1.
    Classes,
    /// A number on the label's own scale.
    Numbers(Aim),
    /// How unlike the others a row is. Nothing is learned from labels; where there are some, they are 0 and 1 and only judge.
    Anomalies,
}

impl Task {
    /// Whether a model says what this task asks for: one of another task must not serve in its place.
    pub fn suits(self, model: &dyn Model) -> bool {
        let finds_anomalies = model.kind() == isolation::KIND;
        match self {
            Task::Classes => model.link().is_classifier(),
            Task::Numbers(_) => !model.link().is_classifier() && !finds_anomalies,
            Task::Anomalies => finds_anomalies,
        }
    }

    /// Whether labels are numbers, and not 0 and 1.
    pub fn has_numbers(self) -> bool {
        matches!(self, Task::Numbers(_))
    }

    pub fn needs_labels(self) -> bool {
        self != Task::Anomalies
    }

    /// What its models predict, in words.
    pub fn words(self) -> &'static str {
        match self {
            Task::Classes => "a probability",
            Task::Numbers(_) => "a number",
            Task::Anomalies => "an anomaly score",
        }
    }
}

impl Learner {
    pub fn task(&self) -> Task {
        let of = |target: forest::Target| match target {
            forest::Target::Binary => Task::Classes,
            forest::Target::Mean => Task::Numbers(Aim::Mean),
        };
        match self {
            Learner::Gbdt(parameters) => of_objective(parameters.objective),
            Learner::Forest(parameters) => of(parameters.target),
            Learner::Explainable(parameters) => of(parameters.target),
            Learner::Linear(_) => Task::Numbers(Aim::Mean),
            Learner::Logistic(_) | Learner::Scorecard(_) => Task::Classes,
            Learner::Isolation(_) => Task::Anomalies,
        }
    }
}

fn of_objective(objective: Objective) -> Task {
    let aim = match objective {
        Objective::AbsoluteError => Aim::Quantile { level: 0.5 },
        Objective::Quantile { level } => Aim::Quantile { level },
        Objective::Poisson => Aim::Deviance { power: 1.0 },
        Objective::Gamma => Aim::Deviance { power: 2.0 },
        Objective::Tweedie { power } => Aim::Deviance { power },
        other if other.link() == Link::Logit => return Task::Classes,
        _ => Aim::Mean,
    };
    Task::Numbers(aim)
}
