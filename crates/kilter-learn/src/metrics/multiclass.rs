//! Figures of probabilities of several classes.
//!
//! `probabilities` hold one a class for each row, row by row; labels are numbers of classes, from 0 on. Rows count with their weights, or 1 each.

use serde::Serialize;

use super::{Confusion, auc, auc_weighted};

/// How a model of several classes did on some rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassesEvaluation {
    pub rows: usize,
    /// In nats.
    pub log_loss: f64,
    /// Mean over the rows of the squared distance from what came true, over all classes.
    pub brier: f64,
    pub accuracy: f64,
    pub balanced_accuracy: f64,
    pub macro_f1: f64,
    pub matthews: f64,
    /// Mean over the classes that came up of the area under the curve of each against all others.
    pub macro_auc: f64,
    pub confusion: Confusion,
}

/// Judges the probabilities of several classes by what came true.
pub fn evaluate_classes(probabilities: &[f64], labels: &[f64], classes: usize, weights: Option<&[f64]>) -> ClassesEvaluation {
    check(probabilities, labels, classes);
    let likeliest = |row: &[f64]| (1..classes).fold(0, |best, class| if row[class] > row[best] { class } else { best });
    let calls: Vec<usize> = probabilities.chunks_exact(classes).map(likeliest).collect();
    let truths: Vec<usize> = labels.iter().map(|&label| label as usize).collect();
    let confusion = Confusion::of(&calls, &truths, classes, weights);
    ClassesEvaluation {
        rows: labels.len(),
        log_loss: log_loss_of_classes(probabilities, labels, classes, weights),
        brier: brier_of_classes(probabilities, labels, classes, weights),
        accuracy: confusion.accuracy(),
        balanced_accuracy: confusion.balanced_accuracy(),
        macro_f1: confusion.macro_f1(),
        matthews: confusion.matthews(),
        macro_auc: macro_auc(probabilities, labels, classes, weights),
        confusion,
    }
}

/// Mean negative log-likelihood in nats; probabilities are kept 1e-15 away from 0.
pub fn log_loss_of_classes(probabilities: &[f64], labels: &[f64], classes: usize, weights: Option<&[f64]>) -> f64 {
    mean_of_rows(probabilities, labels, classes, weights, |row, own| -libm::log(row[own].clamp(1e-15, 1.0)))
}

/// Mean squared distance from what came true, summed over the classes.
pub fn brier_of_classes(probabilities: &[f64], labels: &[f64], classes: usize, weights: Option<&[f64]>) -> f64 {
    mean_of_rows(probabilities, labels, classes, weights, |row, own| {
        let squared = |(class, p): (usize, &f64)| if class == own { (p - 1.0) * (p - 1.0) } else { p * p };
        row.iter().enumerate().map(squared).sum()
    })
}

/// Share of rows whose class is among the `k` likeliest; of equally likely ones the first ones count as likelier.
pub fn top_k_accuracy(probabilities: &[f64], labels: &[f64], classes: usize, k: usize, weights: Option<&[f64]>) -> f64 {
    mean_of_rows(probabilities, labels, classes, weights, |row, own| {
        let before = |(class, p): (usize, &f64)| *p > row[own] || *p == row[own] && class < own;
        f64::from(u8::from(row.iter().enumerate().filter(|&other| before(other)).count() < k))
    })
}

/// Mean over the classes that came up of the area under the curve of each against all others (one-vs-rest). NaN where fewer than two came up.
pub fn macro_auc(probabilities: &[f64], labels: &[f64], classes: usize, weights: Option<&[f64]>) -> f64 {
    check(probabilities, labels, classes);
    let of_class = |class: usize| {
        let scores: Vec<f64> = probabilities.iter().skip(class).step_by(classes).copied().collect();
        let own: Vec<f64> = labels.iter().map(|&label| f64::from(u8::from(label == class as f64))).collect();
        weights.map_or_else(|| auc(&scores, &own), |weights| auc_weighted(&scores, &own, weights))
    };
    let areas: Vec<f64> = (0..classes).map(of_class).filter(|area| !area.is_nan()).collect();
    areas.iter().sum::<f64>() / areas.len() as f64
}

fn check(probabilities: &[f64], labels: &[f64], classes: usize) {
    assert_eq!(probabilities.len(), labels.len() * classes, "one probability a class for each label");
}

fn mean_of_rows(
    probabilities: &[f64],
    labels: &[f64],
    classes: usize,
    weights: Option<&[f64]>,
    figure: impl Fn(&[f64], usize) -> f64,
) -> f64 {
    check(probabilities, labels, classes);
    assert!(weights.is_none_or(|weights| weights.len() == labels.len()), "one weight a label");
    let weight = |row: usize| weights.map_or(1.0, |weights| weights[row]);
    let (mut sum, mut total) = (0.0, 0.0);
    for (row, of_row) in probabilities.chunks_exact(classes).enumerate() {
        sum += weight(row) * figure(of_row, labels[row] as usize);
        total += weight(row);
    }
    sum / total
}
