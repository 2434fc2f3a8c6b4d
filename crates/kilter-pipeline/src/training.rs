//! From observations to a judged model: the split in time, the fit, the comparison with the champion.

use std::sync::Arc;

use kilter_core::EventTime;
use kilter_learn::metrics::{Evaluation, evaluate};
use kilter_learn::{LearnError, Matrix, Model, TrainingSet, calibrate};
use kilter_stats::Reference;

use crate::{DriftReference, ModelPlan, Observations, PROMOTION_METRICS, Range};

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
    /// Matured rows that no model has learned from, the newest ones.
    pub holdout: Option<Evaluation>,
    /// The same rows by the probabilities before calibration; none where there is no calibration.
    pub uncalibrated: Option<Evaluation>,
    /// The champion on the same rows.
    pub champion: Option<Evaluation>,
    /// Observations in the window without a known label.
    pub unmatured: usize,
    /// Hash over inputs, labels and times of all rows used.
    pub fingerprint: String,
}

/// Why no model came of it.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainingError {
    NoLabel { model: String },
    TooFewRows { model: String, matured: usize, unmatured: usize, needed: usize },
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
            TrainingError::Learn(e) => write!(f, "{e}"),
        }
    }
}

impl std::error::Error for TrainingError {}

/// Fits the plan's learner to the matured rows of `range` and judges it on the newest part of them.
pub fn train(
    plan: &ModelPlan,
    observations: &Observations,
    range: Range,
    as_of: EventTime,
    champion: Option<&Arc<dyn Model>>,
) -> Result<Trained, TrainingError> {
    if plan.label.is_none() {
        return Err(TrainingError::NoLabel { model: plan.name.clone() });
    }
    let rows = observations.matured(range, as_of);
    let in_range = observations.times.iter().filter(|t| range.holds(**t)).count();
    let unmatured = in_range - rows.len();
    if rows.len() < plan.min_rows.max(2) {
        return Err(TrainingError::TooFewRows { model: plan.name.clone(), matured: rows.len(), unmatured, needed: plan.min_rows.max(2) });
    }
    let held = ((rows.len() as f64) * plan.holdout) as usize;
    let (train_rows, holdout_rows) = rows.split_at(rows.len() - held);
    // A curve fitted to rows the learner has seen would believe its flattery; fitted to held-out rows it would flatter itself.
    let kept = plan.calibration.map_or(0, |c| ((train_rows.len() as f64) * c.share) as usize);
    let (fit_rows, calibration_rows) = train_rows.split_at(train_rows.len() - kept);
    let training_set = observations.training_set(fit_rows, as_of);
    let mut model = plan.learner.fit(&training_set).map_err(TrainingError::Learn)?;
    if let Some(plan) = &plan.calibration {
        let newer = observations.training_set(calibration_rows, as_of);
        model = Box::new(calibrate(model, &newer, &plan.calibration).map_err(TrainingError::Learn)?);
    }

    let holdout_set = observations.training_set(holdout_rows, as_of);
    let judge = |model: &dyn Model| (held > 0).then(|| evaluate(&model.probabilities(&holdout_set.matrix), &holdout_set.labels));
    let holdout = judge(model.as_ref());
    let uncalibrated = model.uncalibrated().and_then(judge);
    let champion = champion.and_then(|c| judge(c.as_ref()));

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
        unmatured,
        fingerprint: fingerprint(observations, &rows, as_of),
        model,
    })
}

/// What inputs and scores look like on some rows: those that the model learned from, where they are known.
pub fn drift_reference(model: &dyn Model, matrix: &Matrix) -> DriftReference {
    let mut references: Vec<Reference> = (0..matrix.columns()).map(|c| Reference::from_values(matrix.column(c), DRIFT_BINS)).collect();
    references.push(Reference::from_values(&model.probabilities(matrix), DRIFT_BINS));
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

/// An evaluation as the slots of `promotion_scope`: challenger, then champion (null without one).
pub fn promotion_slots(challenger: &Evaluation, champion: Option<&Evaluation>) -> Vec<kilter_core::Value> {
    [Some(challenger), champion]
        .into_iter()
        .flat_map(|e| PROMOTION_METRICS.map(|name| e.map_or(kilter_core::Value::Null, |e| kilter_core::Value::float(metric(e, name)))))
        .collect()
}

/// One metric of an evaluation by name; NaN for a name it does not have.
pub fn metric(evaluation: &Evaluation, name: &str) -> f64 {
    match name {
        "auc" => evaluation.auc,
        "average_precision" => evaluation.average_precision,
        "log_loss" => evaluation.log_loss,
        "brier" => evaluation.brier,
        "ks" => evaluation.ks.value,
        "gini" => evaluation.gini,
        "rows" => evaluation.rows as f64,
        "positives" => evaluation.positives as f64,
        _ => f64::NAN,
    }
}

/// The rows of a set that a model can be judged on, for callers that hold a set rather than observations.
pub fn judge(model: &dyn Model, set: &TrainingSet) -> Evaluation {
    evaluate(&model.probabilities(&set.matrix), &set.labels)
}
