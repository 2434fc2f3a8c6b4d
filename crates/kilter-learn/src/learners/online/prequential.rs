//! Judging a learner of a stream by what it would have said: each row is predicted first and learned from afterwards (predictive sequential, or
//! prequential, evaluation: Dawid 1984; Gama et al. 2013).

use serde::Serialize;

use super::{Online, check};
use crate::{LearnError, TrainingSet};

/// Probabilities nearer to 0 than this count as this far from it: one certain mistake must not be the whole loss.
const LEAST_PROBABILITY: f64 = 1e-15;

/// How a stream of rows was predicted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prequential {
    pub all: Stretch,
    /// The rows in pieces of one length, the last one perhaps shorter.
    pub stretches: Vec<Stretch>,
    /// One a class for each row, as told before the row was learned from.
    #[serde(skip)]
    pub probabilities: Vec<f64>,
}

/// Some rows that follow each other.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stretch {
    /// Without those of weight 0.
    pub rows: u64,
    pub weight: f64,
    /// Share of the weight whose likeliest class, the first of equals, is the row's.
    pub accuracy: f64,
    /// Accuracy of saying that the class is that of the newest label known: what a stream of labels that stay for a while gives away.
    pub accuracy_of_no_change: f64,
    /// Mean of the negative logarithm of the row's class's probability.
    pub log_loss: f64,
}

/// Sums, until a stretch ends.
impl Stretch {
    fn add(&mut self, weight: f64, right: bool, unchanged: bool, loss: f64) {
        let of = |holds: bool| if holds { weight } else { 0.0 };
        self.rows += 1;
        self.weight += weight;
        self.accuracy += of(right);
        self.accuracy_of_no_change += of(unchanged);
        self.log_loss += weight * loss;
    }

    fn as_means(&self) -> Stretch {
        let share = |sum: f64| if self.weight > 0.0 { sum / self.weight } else { 0.0 };
        Stretch {
            accuracy: share(self.accuracy),
            accuracy_of_no_change: share(self.accuracy_of_no_change),
            log_loss: share(self.log_loss),
            ..*self
        }
    }
}

/// Predicts and learns row by row, in their order. A row is learned from once `delay` more rows have been predicted: labels rarely come at once. In the
/// end all rows have been learned from. `stretch` is the length of the pieces that are judged by themselves.
pub fn prequential(learner: &mut dyn Online, rows: &TrainingSet, delay: usize, stretch: usize) -> Result<Prequential, LearnError> {
    check(learner, rows)?;
    if stretch == 0 {
        return Err(LearnError::BadParameter { name: "stretch", found: "0".into(), must: "1 row at least" });
    }
    let (mut row, mut told) = (Vec::new(), Vec::new());
    let mut learn = |learner: &mut dyn Online, r: usize| {
        rows.matrix.row(r, &mut row);
        if rows.weight(r) > 0.0 {
            learner.take(&row, rows.labels[r] as usize, rows.weight(r));
        }
    };
    let mut asked = Vec::new();
    let (mut all, mut piece) = (Stretch::default(), Stretch::default());
    let mut stretches = Vec::new();
    let mut probabilities = Vec::with_capacity(rows.rows() * learner.classes());
    for r in 0..rows.rows() {
        // What is known by now: labels of rows that lie more than the delay back.
        if let Some(known) = r.checked_sub(delay + 1) {
            learn(learner, known);
        }
        rows.matrix.row(r, &mut asked);
        learner.class_probabilities(&asked, &mut told);
        probabilities.extend_from_slice(&told);
        let class = rows.labels[r] as usize;
        let newest = r.checked_sub(delay + 1).map_or(0, |known| rows.labels[known] as usize);
        let loss = -libm::log(told[class].max(LEAST_PROBABILITY));
        if rows.weight(r) > 0.0 {
            for sums in [&mut all, &mut piece] {
                sums.add(rows.weight(r), likeliest(&told) == class, newest == class, loss);
            }
        }
        if (r + 1).is_multiple_of(stretch) || r + 1 == rows.rows() {
            stretches.push(std::mem::take(&mut piece).as_means());
        }
    }
    (rows.rows().saturating_sub(delay + 1)..rows.rows()).for_each(|r| learn(learner, r));
    Ok(Prequential { all: all.as_means(), stretches, probabilities })
}

fn likeliest(probabilities: &[f64]) -> usize {
    (1..probabilities.len()).fold(0, |best, class| if probabilities[class] > probabilities[best] { class } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learners::online::logistic::{OnlineLogistic, start};
    use crate::matrix::tests::training_set;

    #[test]
    fn each_row_is_predicted_by_what_was_known_then() {
        let labels = [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0];
        let set = training_set(&labels.iter().enumerate().map(|(r, &label)| vec![r as f64, label]).collect::<Vec<_>>());
        let set = TrainingSet { weights: Some(vec![1.0, 2.0, 1.0, 1.0, 0.0, 3.0, 1.0]), ..set };
        for delay in [0, 2, 100] {
            let mut learner = start(set.matrix.names(), &OnlineLogistic::default()).unwrap();
            let judged = prequential(&mut learner, &set, delay, 3).unwrap();
            // Each row by a learner made anew from the rows known then.
            let (mut right, mut loss, mut unchanged, mut weight) = (0.0, 0.0, 0.0, 0.0);
            for r in 0..7usize {
                let known = r.saturating_sub(delay);
                let mut fresh = start(set.matrix.names(), &OnlineLogistic::default()).unwrap();
                (0..known).for_each(|k| fresh.learn_one(&[k as f64], labels[k], set.weight(k)).unwrap());
                let mut told = Vec::new();
                fresh.class_probabilities(&[r as f64], &mut told);
                assert_eq!(told, judged.probabilities[2 * r..2 * r + 2]);
                let newest = if known > 0 { labels[known - 1] } else { 0.0 };
                right += set.weight(r) * f64::from(u8::from((told[1] > 0.5) == (labels[r] == 1.0)));
                unchanged += set.weight(r) * f64::from(u8::from(newest == labels[r]));
                loss -= set.weight(r) * told[labels[r] as usize].ln();
                weight += set.weight(r);
            }
            let all = &judged.all;
            assert_eq!((all.rows, all.weight, all.accuracy, all.accuracy_of_no_change), (6, 9.0, right / weight, unchanged / weight));
            assert!((all.log_loss - loss / weight).abs() < 1e-12);
            assert_eq!(judged.stretches.iter().map(|stretch| stretch.rows).collect::<Vec<_>>(), [3, 2, 1]);
            // In the end everything has been learned from, in order.
            let mut whole = start(set.matrix.names(), &OnlineLogistic::default()).unwrap();
            whole.learn(&set).unwrap();
            assert_eq!(Online::to_bytes(&learner), Online::to_bytes(&whole));
            assert!(matches!(prequential(&mut learner, &set, delay, 0), Err(LearnError::BadParameter { name: "stretch", .. })));
        }
    }
}
