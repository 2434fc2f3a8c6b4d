//! Rolling backtest: train on a stretch of time, wait for the labels, test on the next stretch, step on.
//!
//! The protocol of the Fraud Detection Handbook (Le Borgne et al. 2022, chapter "Validation strategies"): train, delay, test, with
//! entities known to be positive by then left out of the test on request.

use std::collections::BTreeSet;

use kilter_core::{EntityKey, EventTime, Span};
use kilter_learn::metrics::{Scored, precision_at_top};
use kilter_learn::{LearnError, Learner};

use crate::{Figures, Observations, Range};

/// The shape of a rolling backtest.
#[derive(Clone, Debug)]
pub struct Rolling {
    pub train: Span,
    /// From the end of training to the start of the test: the time labels need.
    pub delay: Span,
    pub test: Span,
    pub step: Span,
    /// Start of the first training stretch, and the end of the last test at the latest.
    pub range: Range,
    /// Leave out of the test the groups with a positive label known by the start of the observation's day.
    pub exclude_known: bool,
    /// Precision among the k groups with the highest scores of each day.
    pub top: Option<usize>,
}

/// One stretch: what was trained on, what it was worth.
#[derive(Clone, Debug)]
pub struct Fold {
    pub train: Range,
    pub test: Range,
    pub train_rows: usize,
    pub train_positives: usize,
    pub excluded: usize,
    pub evaluation: Figures,
    /// Mean over days of the share of positives among the top k groups.
    pub top_precision: Option<f64>,
    pub scores: Vec<f64>,
    pub labels: Vec<f64>,
}

/// Runs every fold the range holds. Folds without both classes in training are skipped with their reason. A step of nothing makes one fold.
pub fn rolling(observations: &Observations, learner: &Learner, spec: &Rolling) -> Vec<Result<Fold, (Range, LearnError)>> {
    let mut folds = Vec::new();
    let mut start = spec.range.from;
    while start + spec.train + spec.delay + spec.test <= spec.range.to {
        let train = Range { from: start, to: start + spec.train };
        let test = Range { from: train.to + spec.delay, to: train.to + spec.delay + spec.test };
        folds.push(fold(observations, learner, spec, train, test).map_err(|e| (train, e)));
        // Also the way out where times end.
        if start + spec.step <= start {
            break;
        }
        start = start + spec.step;
    }
    folds
}

fn fold(observations: &Observations, learner: &Learner, spec: &Rolling, train: Range, test: Range) -> Result<Fold, LearnError> {
    // Labels as known when the test begins.
    let train_rows = observations.matured(train, test.from);
    let training_set = observations.training_set(&train_rows, test.from);
    let model = learner.fit(&training_set)?;

    // Judged by all that is known today; a row whose horizon still runs at the end of the log has no label to be judged by.
    let end = observations.seen().unwrap_or(test.from);
    let candidates = observations.matured(test, end);
    let all = candidates.len();
    let rows = if spec.exclude_known { without_known(observations, train, candidates) } else { candidates };
    let test_set = observations.training_set(&rows, end);
    let scores = model.predictions(&test_set.matrix);
    let evaluation = Figures::of(learner.task(), &scores, &test_set.labels);
    let top_precision = spec.top.map(|k| {
        let mut keys: Vec<&EntityKey> = rows.iter().filter_map(|&r| observations.group(r)).collect();
        keys.sort();
        keys.dedup();
        // A row without a group is nobody an analyst could look at.
        let daily: Vec<Scored> = rows
            .iter()
            .enumerate()
            .filter_map(|(i, &r)| {
                let key = keys.binary_search(&observations.group(r)?).ok()? as u64;
                Some(Scored { day: observations.times[r].bucket(Span::DAY), key, score: scores[i], label: test_set.labels[i] })
            })
            .collect();
        precision_at_top(&daily, k).precision
    });
    Ok(Fold {
        train,
        test,
        train_rows: train_rows.len(),
        train_positives: training_set.positives(),
        excluded: all - rows.len(),
        evaluation,
        top_precision,
        scores,
        labels: test_set.labels,
    })
}

/// Drops test rows of groups with a positive observation since training began whose label was known before the row's day.
fn without_known(observations: &Observations, train: Range, candidates: Vec<usize>) -> Vec<usize> {
    let within = observations.within().unwrap_or(Span::ZERO);
    let end = observations.seen().unwrap_or(train.from);
    let mut positives: Vec<usize> = (0..observations.len())
        .filter(|&r| observations.times[r] >= train.from && observations.label(r, end).is_some_and(|l| l > 0.0))
        .collect();
    positives.sort_by_key(|&r| observations.times[r]);
    let mut positives = positives.into_iter().peekable();
    let mut known: BTreeSet<&EntityKey> = BTreeSet::new();
    candidates
        .into_iter()
        .filter(|&row| {
            let day = EventTime(observations.times[row].bucket(Span::DAY) * Span::DAY.0);
            while let Some(p) = positives.next_if(|&p| observations.times[p] + within < day) {
                known.extend(observations.group(p));
            }
            observations.group(row).is_none_or(|g| !known.contains(g))
        })
        .collect()
}
