//! Looks for settings over rows in time order and judges what was chosen, beside the settings one starts from, on a later window: `bench/search`.
//!
//! ```text
//! search FOLDER '{"kind": "gbdt"}' FITS FOLDS       FOLDER has x_train.npy, y_train.npy, x_test.npy, y_test.npy of 32-bit floats
//! ```
#![allow(clippy::print_stdout, clippy::disallowed_methods, clippy::disallowed_types)]

use std::error::Error;
use std::time::Instant;

use kilter_learn::metrics::{self, Aim};
use kilter_learn::selection::{Budget, Search, Settings, TimeSplit, default_space, search, time_ordered};
use kilter_learn::{LearnError, Learner, Task, TrainingSet};
use npy::{labels, matrix};

mod npy;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, learner, fits, folds] = arguments.as_slice() else { return Err("search FOLDER LEARNER FITS FOLDS".into()) };
    let learner: Learner = serde_json::from_str(learner)?;
    let budget = Budget { fits: fits.parse()?, folds: folds.parse()? };
    let part = |name: &str| -> Result<TrainingSet, Box<dyn Error>> {
        Ok(TrainingSet::new(matrix(&format!("{folder}/x_{name}.npy"))?, labels(&format!("{folder}/y_{name}.npy"))?))
    };
    let (train, test) = (part("train")?, part("test")?);
    let mut splits = time_ordered(train.rows(), &TimeSplit::expanding(budget.folds))?;
    // The newest stretch first: it is the nearest to what comes.
    splits.reverse();
    let rows = |rows: &[usize]| {
        let chosen = rows.iter().map(|&row| train.labels[row]).collect();
        TrainingSet::new(train.matrix.select(rows), chosen)
    };
    let sets: Vec<_> = splits.iter().map(|fold| (rows(&fold.train), rows(&fold.test))).collect();
    let with = |settings: &Settings| {
        learner.with(settings).map_err(|e| LearnError::BadParameter { name: "space", found: e.to_string(), must: "settings" })
    };
    let what = Search { space: default_space(&learner), budget, seed: 7 };
    let started = Instant::now();
    let found = search(&what, |settings, fold| {
        let model = with(settings)?.fit(&sets[fold].0)?;
        Ok(loss(&learner, &model.predictions(&sets[fold].1.matrix), &sets[fold].1.labels))
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let later = |learner: &Learner| -> Result<serde_json::Value, LearnError> {
        let predictions = learner.fit(&train)?.predictions(&test.matrix);
        let mut told = serde_json::json!({ "loss": loss(learner, &predictions, &test.labels) });
        if learner.task() == Task::Classes {
            told["auc"] = metrics::auc(&predictions, &test.labels).into();
        }
        Ok(told)
    };
    let best = found.best();
    let told = serde_json::json!({
        "fits": found.fits, "candidates": found.trials.len() - 1, "seconds": seconds, "chosen": best.settings,
        "folds": { "declared": found.trials[0].mean_loss(), "chosen": best.mean_loss() },
        "later": { "declared": later(&learner)?, "chosen": later(&with(&best.settings)?)? },
    });
    println!("{told}");
    Ok(())
}

/// What the learner lowers.
fn loss(learner: &Learner, predictions: &[f64], labels: &[f64]) -> f64 {
    match learner.task() {
        Task::Classes => metrics::log_loss(predictions, labels),
        Task::Numbers(Aim::Mean) => metrics::rmse(predictions, labels),
        Task::Numbers(Aim::Quantile { level }) => metrics::pinball(predictions, labels, level),
        Task::Numbers(Aim::Deviance { power }) => metrics::deviance(predictions, labels, power),
        Task::Anomalies => -metrics::auc(predictions, labels),
    }
}
