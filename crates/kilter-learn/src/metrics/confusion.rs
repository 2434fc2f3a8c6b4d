//! What comes of calling rows one class or another: counts of truths and calls, and the figures made of them.

use serde::Serialize;

/// How the rows of each class were called: weights of rows, by truth and call.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Confusion {
    /// By truth, then by call.
    pub counts: Vec<Vec<f64>>,
}

/// Figures of one class against all others. NaN where it never came up, or never was called.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OfClass {
    /// Share of the calls that were right.
    pub precision: f64,
    /// Share of the class that was called so: the true positive rate.
    pub recall: f64,
    /// Share of the others that were not called so: the true negative rate.
    pub specificity: f64,
    /// Harmonic mean of precision and recall; 0 where the class came up or was called, and never both.
    pub f1: f64,
    /// Rows of the class.
    pub support: f64,
}

impl Confusion {
    /// Rows with a score of `threshold` and above are called positive; class 1 is the positive one.
    pub fn at(threshold: f64, scores: &[f64], labels: &[f64], weights: Option<&[f64]>) -> Confusion {
        let calls: Vec<usize> = scores.iter().map(|&score| usize::from(score >= threshold)).collect();
        let truths: Vec<usize> = labels.iter().map(|&label| usize::from(label == 1.0)).collect();
        Confusion::of(&calls, &truths, 2, weights)
    }

    /// Calls and truths by number of their class.
    pub fn of(calls: &[usize], truths: &[usize], classes: usize, weights: Option<&[f64]>) -> Confusion {
        assert_eq!(calls.len(), truths.len(), "one call a row");
        assert!(weights.is_none_or(|weights| weights.len() == truths.len()), "one weight a row");
        let mut counts = vec![vec![0.0; classes]; classes];
        for (row, (&call, &truth)) in calls.iter().zip(truths).enumerate() {
            counts[truth][call] += weights.map_or(1.0, |weights| weights[row]);
        }
        Confusion { counts }
    }

    fn total(&self) -> f64 {
        self.counts.iter().flatten().sum()
    }

    fn right(&self) -> f64 {
        (0..self.counts.len()).map(|class| self.counts[class][class]).sum()
    }

    fn truths(&self) -> Vec<f64> {
        self.counts.iter().map(|row| row.iter().sum()).collect()
    }

    fn calls(&self) -> Vec<f64> {
        (0..self.counts.len()).map(|call| self.counts.iter().map(|row| row[call]).sum()).collect()
    }

    /// Share of rows called right.
    pub fn accuracy(&self) -> f64 {
        self.right() / self.total()
    }

    /// Mean recall of the classes that came up.
    pub fn balanced_accuracy(&self) -> f64 {
        mean(self.classes().into_iter().map(|class| class.recall).filter(|recall| !recall.is_nan()))
    }

    /// Of every class against all others.
    pub fn classes(&self) -> Vec<OfClass> {
        let (truths, calls, total) = (self.truths(), self.calls(), self.total());
        let of = |class: usize| {
            let hits = self.counts[class][class];
            OfClass {
                precision: hits / calls[class],
                recall: hits / truths[class],
                specificity: (total - truths[class] - calls[class] + hits) / (total - truths[class]),
                f1: 2.0 * hits / (truths[class] + calls[class]),
                support: truths[class],
            }
        };
        (0..self.counts.len()).map(of).collect()
    }

    /// F-beta of one class: recall counts `beta` times as much as precision.
    pub fn f_beta(&self, class: usize, beta: f64) -> f64 {
        let (hits, square) = (self.counts[class][class], beta * beta);
        (1.0 + square) * hits / (square * self.truths()[class] + self.calls()[class])
    }

    /// Mean F1 of the classes that came up or were called.
    pub fn macro_f1(&self) -> f64 {
        mean(self.classes().into_iter().map(|class| class.f1).filter(|f1| !f1.is_nan()))
    }

    /// Correlation of calls and truths: 1 all right, 0 no better than chance. NaN where all calls, or all truths, are one class.
    pub fn matthews(&self) -> f64 {
        let (truths, calls, total) = (self.truths(), self.calls(), self.total());
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let spread = |counts: &[f64]| total * total - product(counts, counts);
        (self.right() * total - product(&truths, &calls)) / libm::sqrt(spread(&truths) * spread(&calls))
    }

    /// Cohen's kappa: how much of the agreement that chance does not give was reached.
    pub fn kappa(&self) -> f64 {
        let (truths, calls, total) = (self.truths(), self.calls(), self.total());
        let by_chance: f64 = truths.iter().zip(&calls).map(|(a, b)| a * b).sum::<f64>() / (total * total);
        (self.accuracy() - by_chance) / (1.0 - by_chance)
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    sum / count
}

#[cfg(test)]
#[path = "confusion_tests.rs"]
mod tests;
