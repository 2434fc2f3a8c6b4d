//! From observations to a judged model: the split in time, the fit, the comparison with the champion.

use std::sync::Arc;

use kilter_core::EventTime;
use kilter_learn::selection::{Searched, Settings, TimeSplit, search, time_ordered_at};
use kilter_learn::{LearnError, Learner, Matrix, Model, TrainingSet, calibrate};
use kilter_stats::Reference;

use crate::{DriftReference, Figures, ModelPlan, Observations, Range, SearchPlan, judge};

/// Bins of the drift reference.
pub const DRIFT_BINS: usize = 10;

/// A model with everything known about how it came to be.
pub struct Trained {
    pub model: Box<dyn Model>,
    pub reference: DriftReference,
    /// Event times of the rows it learned from.
    pub trained: Range,
    pub train_rows: usize,
    pub train_positives: usize,
    /// Rows that the calibration was fitted to, newer than those the learner saw and older than the held-out ones.
    pub calibration_rows: usize,
    pub holdout_rows: usize,
    /// The rows behind `holdout`; none where there are none.
    pub held_out: Option<HeldOut>,
    /// Matured rows that no model has learned from, the newest ones.
    pub holdout: Option<Figures>,
    /// The same rows by the probabilities before calibration; none where there is no calibration.
    pub uncalibrated: Option<Figures>,
    /// The champion on the same rows.
    pub champion: Option<Figures>,
    /// The settings that were tried, and the learner that came of it; none: nothing was looked for.
    pub searched: Option<(Searched, Learner)>,
    /// Observations in the window without a known label.
    pub unmatured: usize,
    /// Hash over inputs, labels and times of all rows used.
    pub fingerprint: String,
}

/// Rows that no model has learned from.
pub struct HeldOut {
    pub set: TrainingSet,
    /// Event times of the first and the last of them.
    pub times: Range,
}

/// Why no model came of it.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainingError {
    NoLabel {
        model: String,
    },
    TooFewRows {
        model: String,
        matured: usize,
        unmatured: usize,
        needed: usize,
    },
    /// Of a model that needs no labels.
    TooFewObservations {
        model: String,
        found: usize,
        needed: usize,
    },
    /// A search whose folds cannot be made, or that cannot fit the settings as they are declared.
    Search {
        folds: usize,
        rows: usize,
        error: LearnError,
    },
    Learn(LearnError),
}

impl std::fmt::Display for TrainingError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TrainingError::NoLabel { model } => write!(f, "model `{model}` has no label to learn from (add `label = {{ … }}`)"),
            TrainingError::TooFewRows { model, matured, unmatured, needed } => write!(
                f,
                "model `{model}` has {matured} observations with a matured label in the window, {needed} are needed; \
                 {unmatured} more wait for their label (lower `min_rows`, widen `window`, or wait)"
            ),
            TrainingError::TooFewObservations { model, found, needed } => write!(
                f,
                "model `{model}` has {found} observations in the window, {needed} are needed (lower `min_rows`, widen `window`, or wait)"
            ),
            TrainingError::Search { folds, rows, error } => write!(
                f,
                "the search for settings over {folds} folds of {rows} rows came to nothing: {error} (lower `folds` of `search`, or widen `window`)"
            ),
            TrainingError::Learn(e) => write!(f, "{e}"),
        }
    }
}

impl std::error::Error for TrainingError {}

/// Fits the plan's learner to the matured rows of `range` (without a label to all of them) and judges it on the newest part of them.
pub fn train(
    plan: &ModelPlan,
    observations: &Observations,
    range: Range,
    as_of: EventTime,
    champion: Option<&Arc<dyn Model>>,
) -> Result<Trained, TrainingError> {
    let task = plan.task();
    let rows = match &plan.label {
        Some(_) => observations.matured(range, as_of),
        None if task.needs_labels() => return Err(TrainingError::NoLabel { model: plan.name.clone() }),
        None => observations.within_range(range),
    };
    let in_range = observations.times.iter().filter(|t| range.holds(**t)).count();
    let unmatured = in_range - rows.len();
    let (model, needed) = (plan.name.clone(), plan.min_rows.max(2));
    if rows.len() < needed {
        return Err(match plan.label {
            Some(_) => TrainingError::TooFewRows { model, matured: rows.len(), unmatured, needed },
            None => TrainingError::TooFewObservations { model, found: rows.len(), needed },
        });
    }
    let held = ((rows.len() as f64) * plan.holdout) as usize;
    let (train_rows, holdout_rows) = rows.split_at(rows.len() - held);
    // A curve fitted to rows the learner has seen would believe its flattery; fitted to held-out rows it would flatter itself.
    let kept = plan.calibration.map_or(0, |c| ((train_rows.len() as f64) * c.share) as usize);
    let (fit_rows, calibration_rows) = train_rows.split_at(train_rows.len() - kept);
    let training_set = observations.training_set(fit_rows, as_of);
    let searched = match &plan.search {
        Some(own) => {
            let found = look_for_settings(plan, own, observations, fit_rows, as_of);
            Some(found.map_err(|error| TrainingError::Search { folds: own.search.budget.folds, rows: fit_rows.len(), error })?)
        }
        None => None,
    };
    let learner = searched.as_ref().map_or(&plan.learner, |(_, learner)| learner);
    let mut model = learner.fit(&training_set).map_err(TrainingError::Learn)?;
    if let Some(plan) = &plan.calibration {
        let newer = observations.training_set(calibration_rows, as_of);
        model = Box::new(calibrate(model, &newer, &plan.calibration).map_err(TrainingError::Learn)?);
    }

    let holdout_set = observations.training_set(holdout_rows, as_of);
    let judge = |model: &dyn Model| (held > 0).then(|| judge(task, model, &holdout_set));
    let holdout = judge(model.as_ref());
    let uncalibrated = model.uncalibrated().and_then(judge);
    let champion = champion.and_then(|c| judge(c.as_ref()));

    let holdout_times = holdout_rows
        .first()
        .zip(holdout_rows.last())
        .map(|(&first, &last)| Range { from: observations.times[first], to: observations.times[last] });
    let edge = |rows: &[usize], pick: fn(&[usize]) -> Option<&usize>| pick(rows).map(|&r| observations.times[r]);
    Ok(Trained {
        reference: drift_reference(model.as_ref(), &training_set.matrix),
        trained: Range {
            from: edge(train_rows, |r| r.first()).unwrap_or(range.from),
            to: edge(train_rows, |r| r.last()).unwrap_or(range.to),
        },
        train_rows: fit_rows.len(),
        calibration_rows: kept,
        train_positives: training_set.positives(),
        holdout_rows: held,
        holdout,
        uncalibrated,
        champion,
        searched,
        unmatured,
        fingerprint: fingerprint(observations, &rows, as_of),
        held_out: holdout_times.map(|times| HeldOut { set: holdout_set, times }),
        model,
    })
}

/// Settings are judged on stretches of the rows, the newest stretch first, by models of what was known when the stretch began.
fn look_for_settings(
    plan: &ModelPlan,
    own: &SearchPlan,
    observations: &Observations,
    rows: &[usize],
    as_of: EventTime,
) -> Result<(Searched, Learner), LearnError> {
    let times: Vec<i64> = rows.iter().map(|&row| observations.times[row].0).collect();
    let within = plan.label.as_ref().map_or(0, |label| label.within.0);
    let mut folds = time_ordered_at(&times, within, &TimeSplit::expanding(own.search.budget.folds))?;
    folds.reverse();
    let set = |places: &[usize]| {
        let chosen: Vec<usize> = places.iter().map(|&place| rows[place]).collect();
        observations.training_set(&chosen, as_of)
    };
    let sets: Vec<_> = folds.iter().map(|fold| (set(&fold.train), set(&fold.test))).collect();
    let with = |settings: &Settings| {
        let must = "settings of the learner";
        plan.learner.with(settings).map_err(|e| LearnError::BadParameter { name: "space", found: e.to_string(), must })
    };
    let searched = search(&own.search, |settings, fold| {
        let (training, test) = &sets[fold];
        let model = with(settings)?.fit(training)?;
        Ok(judge(plan.task(), model.as_ref(), test).loss(&own.metric))
    })?;
    let learner = with(&searched.best().settings)?;
    Ok((searched, learner))
}

/// What inputs and scores look like on some rows: those that the model learned from, where they are known.
pub fn drift_reference(model: &dyn Model, matrix: &Matrix) -> DriftReference {
    let mut references: Vec<Reference> = (0..matrix.columns()).map(|c| Reference::from_values(matrix.column(c), DRIFT_BINS)).collect();
    references.push(Reference::from_values(&model.predictions(matrix), DRIFT_BINS));
    DriftReference { inputs: matrix.names().to_vec(), references }
}

fn fingerprint(observations: &Observations, rows: &[usize], as_of: EventTime) -> String {
    let mut hash = blake3::Hasher::new();
    let mut row = Vec::new();
    for &r in rows {
        observations.matrix.row(r, &mut row);
        hash.update(&observations.times[r].0.to_le_bytes());
        hash.update(&observations.label(r, as_of).unwrap_or(f64::NAN).to_bits().to_le_bytes());
        for x in &row {
            hash.update(&x.to_bits().to_le_bytes());
        }
    }
    hash.finalize().to_hex()[..32].to_string()
}
