//! Learners for streams: they take rows one by one, in the order they come, keep no row, and can be asked at any moment.
//!
//! What such a learner knows is its whole state: saved and loaded, it goes on learning to the same bits as if it had never stopped. The same rows
//! in the same order give the same model; in another order, another one. A row of weight 0 leaves no trace.
//!
//! [`prequential`] judges them as they are used: each row is first predicted, then learned from.

pub mod adwin;
pub mod logistic;
mod prequential;
mod spread;
pub mod tree;

use crate::{LearnError, Model, TrainingSet};

pub use prequential::{Prequential, Stretch, prequential};
use spread::Spread;

/// The greatest weight of a row: its square is a finite number.
const HEAVIEST: f64 = 1e100;

/// A learner that goes on learning. Labels are the numbers of the classes, from 0.
pub trait Online: Send + Sync {
    fn kind(&self) -> &'static str;

    /// Names of the features, in the order of a row.
    fn inputs(&self) -> &[String];

    /// How many classes there are, two or more.
    fn classes(&self) -> usize;

    /// Rows learned from so far, without those of weight 0.
    fn rows(&self) -> u64;

    /// Learns from a row whose label is a class and whose weight is a finite number above 0.
    fn take(&mut self, row: &[f64], class: usize, weight: f64);

    /// Fills one probability a class; they sum to 1.
    fn class_probabilities(&self, row: &[f64], out: &mut Vec<f64>);

    /// Fills the margins: the log-odds of class 1 where there are two; otherwise one a class, whose exponentials stand as the probabilities do.
    fn class_margins(&self, row: &[f64], out: &mut Vec<f64>);

    /// Why a row has one of its margins, by its place: base + sum of contributions = margin, to rounding.
    fn explain(&self, row: &[f64], output: usize, contributions: &mut Vec<f64>) -> f64;

    /// What has been learned so far, as a model of two classes; `None` where there are more.
    fn as_model(&self) -> Option<&dyn Model>;

    /// How much each input helped; comparable within a model only.
    fn importance(&self) -> Vec<f64>;

    /// The whole state as one checksummed file; see [`load_online`].
    fn to_bytes(&self) -> Vec<u8>;

    /// Parameters and what has been seen, for people and records.
    fn describe(&self) -> serde_json::Value;

    /// Learns from one row. What cannot be learned from is refused and changes nothing.
    ///
    /// # Panics
    /// When the row has another number of values than there are inputs.
    fn learn_one(&mut self, row: &[f64], label: f64, weight: f64) -> Result<(), LearnError> {
        assert_eq!(row.len(), self.inputs().len(), "a row must have one value an input");
        let at = usize::try_from(self.rows()).unwrap_or(usize::MAX);
        if !(0.0..=HEAVIEST).contains(&weight) {
            return Err(LearnError::BadWeight { row: at, value: weight });
        }
        let class = class_of(label, self.classes()).ok_or_else(|| bad_label(at, label, self.classes()))?;
        if weight > 0.0 {
            self.take(row, class, weight);
        }
        Ok(())
    }

    /// Learns from rows, one after the other. A set of which any row is refused changes nothing.
    fn learn(&mut self, set: &TrainingSet) -> Result<(), LearnError> {
        check(self, set)?;
        let mut row = Vec::with_capacity(set.matrix.columns());
        for r in (0..set.rows()).filter(|&r| set.weight(r) > 0.0) {
            set.matrix.row(r, &mut row);
            self.take(&row, set.labels[r] as usize, set.weight(r));
        }
        Ok(())
    }
}

/// Whether all rows of a set can be learned from.
fn check<T: Online + ?Sized>(learner: &T, set: &TrainingSet) -> Result<(), LearnError> {
    set.check()?;
    if set.matrix.names() != learner.inputs() {
        return Err(LearnError::OtherInputs { learned: learner.inputs().to_vec(), given: set.matrix.names().to_vec() });
    }
    if let Some(row) = (0..set.rows()).find(|&row| set.weight(row) > HEAVIEST) {
        return Err(LearnError::BadWeight { row, value: set.weight(row) });
    }
    match set.labels.iter().position(|&label| class_of(label, learner.classes()).is_none()) {
        Some(row) => Err(bad_label(row, set.labels[row], learner.classes())),
        None => Ok(()),
    }
}

fn bad_label(row: usize, value: f64, classes: usize) -> LearnError {
    let must = if classes == 2 { "0 or 1" } else { "the number of a class, from 0" };
    LearnError::BadLabel { row, value, must }
}

fn class_of(label: f64, classes: usize) -> Option<usize> {
    (label >= 0.0 && label < classes as f64 && label.fract() == 0.0).then_some(label as usize)
}

/// Whether a value takes part: NaN is missing, and so is what is infinite or so large that its square is.
fn is_there(value: f64) -> bool {
    value.abs() <= 1e100
}

/// Reads what [`Online::to_bytes`] wrote, to go on learning. Damaged, truncated or newer bytes, and models that cannot learn on, give an error.
pub fn load_online(bytes: &[u8]) -> Result<Box<dyn Online>, LearnError> {
    let sealed = crate::format::open(bytes)?;
    match sealed.kind.as_str() {
        logistic::KIND => Ok(Box::new(logistic::read_online(&sealed)?)),
        tree::KIND => Ok(Box::new(tree::read_online(&sealed)?)),
        _ => Err(LearnError::NotOnline { kind: sealed.kind }),
    }
}

/// A learner of nothing yet: its inputs and, for classes, their number are what it starts with.
fn check_start(inputs: &[String]) -> Result<(), LearnError> {
    if inputs.is_empty() { Err(LearnError::NoColumns) } else { Ok(()) }
}

/// One pass over a training set, as other learners are fitted.
fn fit<T: Online>(mut learner: T, set: &TrainingSet) -> Result<T, LearnError> {
    set.check()?;
    set.check_binary()?;
    set.check_classes(0..set.rows())?;
    learner.learn(set)?;
    Ok(learner)
}
