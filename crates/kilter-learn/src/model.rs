//! What every trained model can do, whatever learned it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{LearnError, Matrix, explain, format, learners};

/// How a margin becomes a number of the label's own kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// The margin is the log-odds of the positive class: a classifier.
    Logit,
    /// The margin is the prediction.
    Identity,
    /// The margin is the prediction's natural logarithm.
    Log,
    /// The margin is the probability of the positive class itself: a classifier too.
    Probability,
}

/// Probabilities nearer to 0 or 1 have the log-odds of this one: those of a forest can be 0 and 1, whose log-odds are without end.
const LEAST_PROBABILITY: f64 = 1e-6;

impl Link {
    pub fn inverse(self, margin: f64) -> f64 {
        match self {
            Link::Logit => crate::math::sigmoid(margin),
            Link::Identity | Link::Probability => margin,
            Link::Log => libm::exp(margin),
        }
    }

    /// Whether models of this link have a probability.
    pub fn is_classifier(self) -> bool {
        matches!(self, Link::Logit | Link::Probability)
    }

    /// A classifier's margin as log-odds.
    pub(crate) fn log_odds(self, margin: f64) -> f64 {
        match self {
            Link::Probability => crate::math::logit(margin.clamp(LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY)),
            _ => margin,
        }
    }
}

/// What a model says of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// On the link's scale.
    pub margin: f64,
    /// On the label's own scale: a probability (calibrated, where the model is), a mean, a quantile, an anomaly score.
    pub prediction: f64,
    /// Of a scorecard.
    pub points: Option<f64>,
}

/// The inputs that pushed a score up the most, and the space to find them in: kept from row to row, nothing is allocated.
///
/// With [`of_groups`](Reasons::of_groups) a reason is a group of inputs, and its contribution the sum of theirs: Shapley values of the inputs, added up.
/// (The Shapley value of the group as one player is another number where inputs of different groups act on each other; the sum keeps
/// base and contributions adding up to the margin, for groups and single inputs alike.)
#[derive(Clone, Debug, Default)]
pub struct Reasons {
    contributions: Vec<f64>,
    /// By input the number of its group, and the sums by group; none: every input is for itself.
    group_of: Option<Arc<[usize]>>,
    sums: Vec<f64>,
    strongest: Vec<(usize, f64)>,
}

impl Reasons {
    /// From here on reasons are of groups: by input the number of its group, from 0. None: of inputs.
    ///
    /// # Panics
    /// Scoring does, when there is another number of inputs.
    pub fn of_groups(&mut self, group_of: Option<&Arc<[usize]>>) {
        let same = match (&self.group_of, group_of) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (own, other) => own.is_none() && other.is_none(),
        };
        if !same {
            self.group_of = group_of.cloned();
        }
    }

    /// Positions of inputs (or numbers of groups) and their contributions, the strongest first; of equal ones the first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (usize, f64)> + '_ {
        self.strongest.iter().copied()
    }

    fn choose(&mut self, most: usize) {
        // Also where this row has fewer: a later one must find the room.
        self.strongest.reserve(most.min(self.contributions.len()));
        let mut contributions = &self.contributions;
        if let Some(group_of) = &self.group_of {
            assert_eq!(group_of.len(), self.contributions.len(), "every input has its group");
            self.sums.clear();
            self.sums.resize(group_of.iter().max().map_or(0, |most| most + 1), 0.0);
            group_of.iter().zip(&self.contributions).for_each(|(&group, contribution)| self.sums[group] += contribution);
            contributions = &self.sums;
        }
        for (input, &contribution) in contributions.iter().enumerate().filter(|(_, contribution)| **contribution > 0.0) {
            let place = self.strongest.partition_point(|&(_, stronger)| stronger >= contribution);
            if place < most {
                self.strongest.truncate(most - 1);
                self.strongest.insert(place, (input, contribution));
            }
        }
    }
}

/// A trained model of one output: a binary classifier, or a regression with another [`Link`]. Immutable: many threads may score with one at
/// the same time.
///
/// A row has one value for each of [`inputs`](Model::inputs), in that order, NaN meaning missing. A row of another length is a bug of the
/// caller and panics. Margins are on the link's scale; everything is deterministic to the bit, for one row or many, before and after saving.
pub trait Model: Send + Sync {
    /// Name of the learner in the register, such as `"gbdt"`.
    fn kind(&self) -> &'static str;

    /// Names of the features, in the order of a row.
    fn inputs(&self) -> &[String];

    /// What the margin stands for.
    fn link(&self) -> Link {
        Link::Logit
    }

    /// The sum of what the model learned, on the link's scale: log-odds of the positive class for most classifiers.
    fn margin(&self, row: &[f64]) -> f64;

    /// The prediction on the label's own scale: a probability, a mean, a quantile. A classifier's is its [`probability`](Model::probability).
    fn predict(&self, row: &[f64]) -> f64 {
        self.prediction_of(self.margin(row))
    }

    /// The prediction for a row with this margin: the bits of [`predict`](Model::predict).
    fn prediction_of(&self, margin: f64) -> f64 {
        if self.link().is_classifier() { self.probability_of(margin) } else { self.link().inverse(margin) }
    }

    /// The predictions of all rows of a matrix: the bits of [`predict`](Model::predict).
    fn predictions(&self, matrix: &Matrix) -> Vec<f64> {
        self.margins(matrix).into_iter().map(|margin| self.prediction_of(margin)).collect()
    }

    /// The margins of all rows of a matrix whose columns are the inputs: the bits of [`margin`](Model::margin), faster for many.
    fn margins(&self, matrix: &Matrix) -> Vec<f64> {
        let mut row = Vec::new();
        (0..matrix.rows())
            .map(|r| {
                matrix.row(r, &mut row);
                self.margin(&row)
            })
            .collect()
    }

    /// Probability of the positive class, of a row with this margin. What a model whose probability is another one overrides.
    ///
    /// # Panics
    /// When the model is no classifier: another kind of number must not pass for a probability.
    fn probability_of(&self, margin: f64) -> f64 {
        assert!(self.link().is_classifier(), "only a classifier has a probability");
        self.link().inverse(margin)
    }

    /// Probability of the positive class; see [`probability_of`](Model::probability_of).
    fn probability(&self, row: &[f64]) -> f64 {
        self.probability_of(self.margin(row))
    }

    /// The probabilities of all rows of a matrix: the bits of [`probability`](Model::probability).
    fn probabilities(&self, matrix: &Matrix) -> Vec<f64> {
        self.margins(matrix).into_iter().map(|margin| self.probability_of(margin)).collect()
    }

    /// All that a decision takes from a row, with at most so many reasons: the bits of the single calls, without computing anything twice.
    /// Allocates nothing once `reasons` and the thread have been used, and takes no lock.
    fn score(&self, row: &[f64], most: usize, reasons: &mut Reasons) -> Score {
        let margin = self.margin(row);
        reasons.strongest.clear();
        if most > 0 {
            self.explain(row, &mut reasons.contributions);
            reasons.choose(most);
        }
        Score { margin, prediction: self.prediction_of(margin), points: self.points(row) }
    }

    /// The model beneath a calibration, whose probabilities are as it learned them; `None` for a model that has none.
    fn uncalibrated(&self) -> Option<&dyn Model> {
        None
    }

    /// Positions of the inputs that are codes of categories: no numbers, though they come as such.
    fn categorical_inputs(&self) -> Vec<usize> {
        Vec::new()
    }

    /// How many inputs of a row hold categories that the model's training did not see. They count as its rarest ones, or as missing.
    fn unseen_categories(&self, _row: &[f64]) -> usize {
        0
    }

    /// The points of a scorecard; `None` for every other model.
    fn points(&self, _row: &[f64]) -> Option<f64> {
        None
    }

    /// The segment that the row belongs to, a number from 0; `None` for a model without segments.
    fn segment(&self, _row: &[f64]) -> Option<usize> {
        None
    }

    /// What a model's steps of preparation make of the rows: what its learner sees. `None` for a model without steps.
    fn prepared(&self, _matrix: &Matrix) -> Option<Matrix> {
        None
    }

    /// Fills one contribution (on the link's scale) for each input and returns the base value: base + sum of contributions = margin, to rounding
    /// (1e-9).
    fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64;

    /// The same against the rows of a reference population, whose mean margin is the base: see
    /// [`explain_against`](crate::explain::explain_against). `None` for a model that cannot tell.
    fn explain_against(&self, _row: &[f64], _reference: &Matrix, _contributions: &mut Vec<f64>) -> Option<f64> {
        None
    }

    /// For each row of a matrix its contributions and then its base: the bits of [`explain`](Model::explain), faster for many.
    fn explanations(&self, matrix: &Matrix) -> Vec<f64> {
        explain::row_by_row(self, matrix)
    }

    /// What pairs of inputs contribute together (SHAP interaction values), on the link's scale: a symmetric matrix row by row, in which a row adds
    /// up to the input's contribution and the diagonal is what the input contributes by itself. `None` for a model that cannot tell.
    fn interactions(&self, _row: &[f64]) -> Option<Vec<f64>> {
        None
    }

    /// The whole model as one checksummed file; see [`load`].
    fn to_bytes(&self) -> Vec<u8>;

    /// How much each input helped in training; comparable within a model only.
    fn importance(&self) -> Vec<f64>;

    /// Parameters and training report, for people and records.
    fn describe(&self) -> serde_json::Value;
}

/// Reads what [`Model::to_bytes`] wrote. Damaged, truncated or newer bytes give an error, never a panic and never a different model.
pub fn load(bytes: &[u8]) -> Result<Box<dyn Model>, LearnError> {
    let sealed = format::open(bytes)?;
    let (_, read) = learners::KINDS
        .iter()
        .find(|(kind, _)| *kind == sealed.kind)
        .ok_or_else(|| LearnError::UnknownKind { kind: sealed.kind.clone() })?;
    read(&sealed)
}
