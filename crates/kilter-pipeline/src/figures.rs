//! How a model did, by the figures of its task, and the rules that compare two models by them.

use kilter_core::{DataType, Value};
use kilter_features::expr::Scope;
use kilter_learn::metrics::{Aim, Evaluation, RegressionEvaluation, evaluate, evaluate_regression};
use kilter_learn::{Model, Task, TrainingSet};
use serde::Serialize;

/// What came of judging a model on some rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Figures {
    /// Of probabilities; of anomaly scores those that go by order alone.
    Classes(Evaluation),
    Numbers(RegressionEvaluation),
}

/// The names that rules may use of a model of this task; the first of them leads where only one is told.
pub fn figure_names(task: Task, is_labelled: bool) -> &'static [&'static str] {
    match task {
        Task::Classes => &["auc", "average_precision", "log_loss", "brier", "ks", "gini", "rows", "positives"],
        Task::Numbers(Aim::Mean) => &["rmse", "mae", "median_absolute_error", "r2", "bias", "rows"],
        Task::Numbers(Aim::Quantile { .. }) => &["pinball", "coverage", "rmse", "mae", "median_absolute_error", "r2", "bias", "rows"],
        Task::Numbers(Aim::Deviance { .. }) => &["deviance", "rmse", "mae", "median_absolute_error", "r2", "bias", "rows"],
        Task::Anomalies if is_labelled => &["auc", "average_precision", "ks", "gini", "rows", "positives"],
        Task::Anomalies => &["rows"],
    }
}

/// The figures that settings may be chosen by, first the one that the learner itself lowers.
pub fn search_metrics(task: Task) -> &'static [&'static str] {
    match task {
        Task::Classes => &["log_loss", "brier", "auc", "average_precision", "ks", "gini"],
        Task::Numbers(Aim::Mean) => &["rmse", "mae", "median_absolute_error", "r2"],
        Task::Numbers(Aim::Quantile { .. }) => &["pinball"],
        Task::Numbers(Aim::Deviance { .. }) => &["deviance", "rmse", "mae", "median_absolute_error", "r2"],
        Task::Anomalies => &["auc", "average_precision", "ks", "gini"],
    }
}

/// Judges a model by the labels of some rows.
pub fn judge(task: Task, model: &dyn Model, set: &TrainingSet) -> Figures {
    Figures::of(task, &model.predictions(&set.matrix), &set.labels)
}

impl Figures {
    /// Rows without a label (NaN) judge no anomaly score; there are as many as there are.
    pub fn of(task: Task, predictions: &[f64], labels: &[f64]) -> Figures {
        match task {
            Task::Classes => Figures::Classes(evaluate(predictions, labels)),
            Task::Numbers(aim) => Figures::Numbers(evaluate_regression(predictions, labels, aim)),
            Task::Anomalies if labels.iter().any(|label| label.is_nan()) => {
                Figures::Classes(Evaluation { rows: labels.len(), ..evaluate(&[], &[]) })
            }
            // A score between 0 and 1 is no probability.
            Task::Anomalies => {
                let Evaluation { log_loss, brier, ece, recalibration, calibration, .. } = evaluate(&[], &[]);
                let ranking = evaluate(predictions, labels);
                Figures::Classes(Evaluation { log_loss, brier, ece, recalibration, calibration, ..ranking })
            }
        }
    }

    pub fn rows(&self) -> usize {
        match self {
            Figures::Classes(e) => e.rows,
            Figures::Numbers(e) => e.rows,
        }
    }

    pub fn classes(&self) -> Option<&Evaluation> {
        if let Figures::Classes(evaluation) = self { Some(evaluation) } else { None }
    }

    /// A figure of [`search_metrics`] as a loss: the lower the better.
    pub fn loss(&self, metric: &str) -> f64 {
        let is_gain = ["auc", "average_precision", "ks", "gini", "r2"].contains(&metric);
        if is_gain { -self.get(metric) } else { self.get(metric) }
    }

    /// One figure by name; NaN for one that it does not have.
    pub fn get(&self, name: &str) -> f64 {
        match self {
            Figures::Classes(e) => match name {
                "auc" => e.auc,
                "average_precision" => e.average_precision,
                "log_loss" => e.log_loss,
                "brier" => e.brier,
                "ks" => e.ks.value,
                "gini" => e.gini,
                "rows" => e.rows as f64,
                "positives" => e.positives as f64,
                _ => f64::NAN,
            },
            Figures::Numbers(e) => match name {
                "rmse" => e.rmse,
                "mae" => e.mae,
                "median_absolute_error" => e.median_absolute_error,
                "r2" => e.r2,
                "bias" => e.bias,
                "pinball" => e.pinball,
                "coverage" => e.coverage,
                "deviance" => e.deviance,
                "rows" => e.rows as f64,
                _ => f64::NAN,
            },
        }
    }
}

/// The names a promotion rule may use: a model's figures bare for the challenger, and as `champion.*`.
pub fn promotion_scope(names: &[&str]) -> Scope {
    let mut scope = Scope::new();
    for qualifier in [None, Some("champion")] {
        for name in names {
            scope.add(qualifier, name, DataType::Float64);
        }
    }
    scope
}

/// Figures as the slots of [`promotion_scope`]: challenger, then champion (null without one).
pub fn promotion_slots(names: &[&str], challenger: &Figures, champion: Option<&Figures>) -> Vec<Value> {
    let of = |figures: Option<&Figures>| names.iter().map(move |name| figures.map_or(f64::NAN, |f| f.get(name))).collect::<Vec<_>>();
    [Some(challenger), champion].into_iter().flat_map(of).map(Value::float).collect()
}
