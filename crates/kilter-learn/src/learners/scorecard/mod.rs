//! Credit scorecards: each input is cut into bins, each bin gives points, and the sum of points is the score.
//!
//! Bins are those with the most information value within the limits (`binning.rs`); a logistic regression over the bins' weights of evidence
//! (WoE) gives the coefficients; points follow from the odds: `base_points` at `base_odds` negatives to one positive, `pdo` more points for
//! twice these odds. A higher score means fewer positives.
//!
//! Missing values and special values are bins of their own; where training had none, they count 0 WoE, which is the average. An input whose coefficient turns out
//! with the wrong sign (it repeats others) is left out, the worst first, so that a bin with more positives never gets more points.

mod binning;
mod columns;
mod model;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use binning::Shape;
pub(crate) use columns::Feature;
pub use model::ScorecardModel;
pub(crate) use model::{read, read_card};

use super::logistic::{self, Logistic};
use crate::{LearnError, Matrix, TrainingSet};
use columns::Binned;

pub const KIND: &str = "scorecard";

/// What points lost are counted from, for reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonsFrom {
    /// The best bin of the input: points below the maximum.
    Maximum,
    /// The mean over the training rows.
    Mean,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scorecard {
    /// Most bins of an input, not counting those for missing and special values.
    pub max_bins: usize,
    /// Least share of the input's plain values in a bin.
    pub min_share: f64,
    /// Parts of equal size that bins are merged from.
    pub prebins: usize,
    /// How the share of positives may move over the bins of an input.
    pub shape: Shape,
    /// The shape of single inputs.
    pub shapes: BTreeMap<String, Shape>,
    /// Bins by hand: upper bounds, each belonging to its bin. Limits and shape are not asked.
    pub cuts: BTreeMap<String, Vec<f64>>,
    /// Values that are codes and no quantities: each is a bin of its own.
    pub special: BTreeMap<String, Vec<f64>>,
    /// Inputs with less information value are left out.
    pub min_iv: f64,
    /// Penalty of the regression; see [`Logistic::l2`].
    pub l2: f64,
    /// Points that double the odds.
    pub pdo: f64,
    pub base_points: f64,
    /// Negatives to one positive at `base_points`.
    pub base_odds: f64,
    pub reasons: ReasonsFrom,
}

impl Default for Scorecard {
    fn default() -> Self {
        Scorecard {
            max_bins: 8,
            min_share: 0.05,
            prebins: 100,
            shape: Shape::Auto,
            shapes: BTreeMap::new(),
            cuts: BTreeMap::new(),
            special: BTreeMap::new(),
            min_iv: 0.02,
            l2: 1.0,
            pdo: 20.0,
            base_points: 600.0,
            base_odds: 50.0,
            reasons: ReasonsFrom::Maximum,
        }
    }
}

impl Scorecard {
    fn check(&self) -> Result<(), LearnError> {
        let bad = |name, found: String, must| Err(LearnError::BadParameter { name, found, must });
        if !(2..=50).contains(&self.max_bins) {
            return bad("max_bins", self.max_bins.to_string(), "between 2 and 50");
        }
        if !(0.0..=0.5).contains(&self.min_share) {
            return bad("min_share", self.min_share.to_string(), "between 0 and 0.5");
        }
        if !(2..=250).contains(&self.prebins) {
            return bad("prebins", self.prebins.to_string(), "between 2 and 250");
        }
        for (name, value) in [("min_iv", self.min_iv), ("l2", self.l2)] {
            if !(value.is_finite() && value >= 0.0) {
                return bad(name, value.to_string(), "finite and not below 0");
            }
        }
        for (name, value) in [("pdo", self.pdo), ("base_odds", self.base_odds)] {
            if !(value.is_finite() && value > 0.0) {
                return bad(name, value.to_string(), "finite and above 0");
            }
        }
        if !self.base_points.is_finite() {
            return bad("base_points", self.base_points.to_string(), "finite");
        }
        for cuts in self.cuts.values() {
            if cuts.len() > 250 || cuts.iter().any(|cut| !cut.is_finite()) || cuts.windows(2).any(|pair| pair[0] >= pair[1]) {
                return bad("cuts", format!("{cuts:?}"), "at most 250 finite numbers that rise");
            }
        }
        for special in self.special.values() {
            let twice = special.iter().enumerate().any(|(i, value)| special[..i].contains(value));
            if special.len() > 250 || twice || special.iter().any(|value| !value.is_finite()) {
                return bad("special", format!("{special:?}"), "at most 250 finite numbers, each once");
            }
        }
        Ok(())
    }

    fn check_names(&self, matrix: &Matrix) -> Result<(), LearnError> {
        let named = [
            ("shapes", self.shapes.keys().collect::<Vec<_>>()),
            ("cuts", self.cuts.keys().collect()),
            ("special", self.special.keys().collect()),
        ];
        for (parameter, names) in named {
            if let Some(name) = names.into_iter().find(|name| !matrix.names().contains(name)) {
                return Err(LearnError::UnknownColumn { parameter, name: name.clone() });
            }
        }
        Ok(())
    }

    fn factor(&self) -> f64 {
        self.pdo / core::f64::consts::LN_2
    }

    fn offset(&self) -> f64 {
        self.base_points - self.factor() * libm::log(self.base_odds)
    }

    fn shape_of(&self, name: &str) -> Shape {
        self.shapes.get(name).copied().unwrap_or(self.shape)
    }
}

/// Why an input has no points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct LeftOut {
    name: String,
    why: String,
}

/// How far rounded points are from the exact score, over the training rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rounding {
    largest_points: f64,
    mean_points: f64,
    /// Of the probability.
    largest_probability: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Report {
    rows: usize,
    positives: usize,
    converged: bool,
    log_loss: f64,
    rounding: Rounding,
    left_out: Vec<LeftOut>,
}

pub fn fit(training_set: &TrainingSet, parameters: &Scorecard) -> Result<ScorecardModel, LearnError> {
    parameters.check()?;
    training_set.check()?;
    training_set.check_binary()?;
    training_set.check_classes(0..training_set.rows())?;
    parameters.check_names(&training_set.matrix)?;
    let binned = columns::bin_all(training_set, parameters);
    let most = binned.iter().map(|column| column.feature.information).fold(0.0, f64::max);

    let mut left_out = Vec::new();
    let mut chosen = Vec::new();
    for (column, binned) in binned.iter().enumerate() {
        if binned.feature.information >= parameters.min_iv && binned.feature.filled_bins() > 1 {
            chosen.push(column);
        } else {
            let why = format!("information value {:.4} is below {}", binned.feature.information, parameters.min_iv);
            left_out.push(LeftOut { name: binned.feature.name.clone(), why });
        }
    }
    let regression = Logistic { l2: parameters.l2, ..Logistic::default() };
    let fitted = loop {
        if chosen.is_empty() {
            return Err(LearnError::NothingPredicts { columns: binned.len(), most, threshold: parameters.min_iv });
        }
        let fitted = logistic::fit(&evidence(training_set, &binned, &chosen), &regression)?;
        let coefficients = fitted.coefficients();
        // More evidence for a negative must mean fewer positives.
        let worst = (0..chosen.len()).max_by(|&a, &b| coefficients[a].total_cmp(&coefficients[b]));
        match worst.filter(|&at| coefficients[at] >= 0.0) {
            None => break fitted,
            Some(at) => {
                let why = format!("its coefficient is {:.4}, of the wrong sign: it repeats what other inputs tell", coefficients[at]);
                left_out.push(LeftOut { name: binned[chosen.remove(at)].feature.name.clone(), why });
            }
        }
    };
    let converged = fitted.converged();
    let coefficients = fitted.coefficients();
    let intercept = crate::Model::margin(&fitted, &vec![0.0; chosen.len()]);

    let share = 1.0 / chosen.len() as f64;
    let (factor, offset) = (parameters.factor(), parameters.offset());
    let (mut features, rows_bins): (Vec<Feature>, Vec<Vec<u16>>) =
        binned.into_iter().map(|Binned { feature, bins }| (feature, bins)).unzip();
    for (at, &column) in chosen.iter().enumerate() {
        let feature = &mut features[column];
        feature.coefficient = coefficients[at];
        for bin in &mut feature.bins {
            bin.points = libm::round((offset - factor * intercept) * share - factor * coefficients[at] * bin.woe);
        }
    }
    let mut model = ScorecardModel {
        inputs: training_set.matrix.names().to_vec(),
        parameters: parameters.clone(),
        report: Report {
            rows: training_set.rows(),
            positives: training_set.positives(),
            converged,
            log_loss: 0.0,
            rounding: Rounding::default(),
            left_out,
        },
        intercept,
        features,
    };
    model.look_back(training_set, &rows_bins);
    Ok(model)
}

/// The training set as weights of evidence of the chosen columns.
fn evidence(training_set: &TrainingSet, binned: &[Binned], chosen: &[usize]) -> TrainingSet {
    let mut matrix = Matrix::with_columns(chosen.iter().map(|&column| binned[column].feature.name.clone()).collect());
    let mut row = vec![0.0; chosen.len()];
    for at in 0..training_set.rows() {
        for (value, &column) in row.iter_mut().zip(chosen) {
            *value = binned[column].feature.bins[usize::from(binned[column].bins[at])].woe;
        }
        matrix.push_row(&row);
    }
    TrainingSet { matrix, labels: training_set.labels.clone(), weights: training_set.weights.clone() }
}

#[cfg(test)]
mod tests;
