//! What a fit may be given beside rows and parameters: rows to watch, trees to go on from, queries, an objective or a metric of one's own.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Gbdt, GbdtModel, Objective, Report};
use crate::{LearnError, TrainingSet};

/// How a fit differs from the plain one; see [`fit_by`](super::fit_by).
#[derive(Clone, Copy, Default)]
pub struct Course<'a> {
    /// Rows to watch the loss on, in the place of the last ones of the training set.
    pub validation: Option<&'a TrainingSet>,
    /// The earlier model whose trees are kept and added to.
    pub earlier: Option<&'a GbdtModel>,
    /// How many rows each query has, one after the other; for objectives that rank. Of the training set and of the rows to watch.
    pub queries: &'a [usize],
    pub validation_queries: &'a [usize],
    /// What stands behind [`Objective::Custom`].
    pub objective: Option<&'a dyn CustomObjective>,
    /// What is watched in the place of the objective's own loss.
    pub metric: Option<&'a dyn Metric>,
}

/// Rows as an objective or a metric sees them, in order.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// On the link's scale.
    pub margins: &'a [f64],
    pub labels: &'a [f64],
    /// 1 each where there are none.
    pub weights: Option<&'a [f64]>,
    /// Sizes of queries; empty where there are none.
    pub queries: &'a [usize],
}

impl Rows<'_> {
    pub fn weight(&self, row: usize) -> f64 {
        self.weights.map_or(1.0, |weights| weights[row])
    }
}

/// A loss by its derivatives, of all rows together.
pub trait CustomObjective: Sync {
    /// Writes the first and the second derivative of the loss by each row's margin, times the row's weight. Both must be finite and at most 1e30
    /// in size, the second not below 0.
    fn derivatives(&self, rows: Rows<'_>, out: &mut [[f64; 2]]) -> Result<(), LearnError>;

    /// The margin without trees.
    fn base(&self, _labels: &[f64], _weights: Option<&[f64]>) -> f64 {
        0.0
    }

    /// Largest sizes of both derivatives of a row of weight 1, where they are known beforehand. Then their words have one scale in all trees;
    /// otherwise that of a tree fits the largest of its round.
    fn limits(&self) -> Option<(f64, f64)> {
        None
    }
}

/// A figure of validation rows that tells when to stop.
pub trait Metric: Sync {
    fn measure(&self, rows: Rows<'_>) -> Result<Measured, LearnError>;
}

/// What a metric says of some rows. Name and direction must be the same every time.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub name: String,
    pub value: f64,
    pub higher_is_better: bool,
}

/// A metric over the rounds of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watched {
    pub name: String,
    pub higher_is_better: bool,
    /// On the validation rows after each tree.
    pub values: Vec<f64>,
}

impl Report {
    /// Takes up what a metric says after one more tree.
    pub(super) fn watch(&mut self, measured: Measured) -> Result<(), LearnError> {
        let Measured { name, value, higher_is_better } = measured;
        if value.is_nan() {
            return Err(LearnError::NoMetric { name });
        }
        let watched = self.metric.get_or_insert_with(|| Watched { name: name.clone(), higher_is_better, values: Vec::new() });
        if (&watched.name, watched.higher_is_better) != (&name, higher_is_better) {
            let found = format!("{name:?} after {:?}, or one of another direction", watched.name);
            return Err(LearnError::BadParameter { name: "metric", found, must: "one metric of one direction all the time" });
        }
        watched.values.push(value);
        Ok(())
    }

    /// The number of trees of this training that did best on the validation rows, the fewest of equals.
    pub(super) fn best(&self) -> Option<usize> {
        let first_lowest = |losses: &mut dyn Iterator<Item = f64>| {
            let lower = |best: Option<(usize, f64)>, (at, loss): (usize, f64)| match best {
                Some((_, lowest)) if lowest.total_cmp(&loss).is_le() => best,
                _ => Some((at + 1, loss)),
            };
            losses.enumerate().fold(None, lower).map(|(trees, _)| trees)
        };
        match &self.metric {
            Some(watched) if watched.higher_is_better => first_lowest(&mut watched.values.iter().map(|value| -value)),
            Some(watched) => first_lowest(&mut watched.values.iter().copied()),
            None => first_lowest(&mut self.validation_loss.iter().copied()),
        }
    }
}

/// Queries are there if the objective ranks, and then cover the rows. An objective of one's own may have them.
fn check_queries(set: &TrainingSet, queries: &[usize], parameters: &Gbdt, own: Option<&dyn CustomObjective>) -> Result<(), LearnError> {
    if parameters.objective.ranks() {
        return super::ranking::check(set, queries, parameters);
    }
    if queries.is_empty() {
        return Ok(());
    }
    match own {
        Some(_) => super::ranking::check_sizes(set, queries),
        None => {
            let must = "none with an objective that does not rank";
            Err(LearnError::BadParameter { name: "queries", found: "given".into(), must })
        }
    }
}

/// Rows of a set, and the queries they belong to.
#[derive(Clone)]
pub(super) struct Part<'a> {
    pub set: &'a TrainingSet,
    pub rows: Range<usize>,
    pub queries: &'a [usize],
}

impl<'a> Part<'a> {
    pub fn all(set: &'a TrainingSet, queries: &'a [usize]) -> Self {
        Part { set, rows: 0..set.rows(), queries }
    }
}

/// What trees are fitted to and where they start, of a course that has been checked.
#[derive(Clone, Copy, Default)]
pub(super) struct Goal<'a> {
    pub earlier: Option<&'a GbdtModel>,
    /// Where the objective is none of single rows.
    pub together: Option<&'a dyn CustomObjective>,
    pub metric: Option<&'a dyn Metric>,
}

impl<'a> Course<'a> {
    /// Whether the parts of the course belong to the rows and to each other.
    pub(super) fn check(&self, set: &TrainingSet, parameters: &Gbdt) -> Result<(), LearnError> {
        self.check_objective(set, parameters)?;
        if let Some(validation) = self.validation {
            check_queries(validation, self.validation_queries, parameters, self.objective)?;
        }
        let is_custom = matches!(parameters.objective, Objective::Custom { .. });
        if is_custom && parameters.early_stopping.is_some() && self.metric.is_none() {
            let must = "none with an objective of one's own, or given a metric to watch: derivatives tell no loss";
            return Err(LearnError::BadParameter { name: "early_stopping", found: "on".into(), must });
        }
        self.earlier.map_or(Ok(()), |earlier| super::resume::check(earlier, set, parameters))
    }

    /// Whether derivatives and queries are there where the objective needs them, and only there.
    pub(super) fn check_objective(&self, set: &TrainingSet, parameters: &Gbdt) -> Result<(), LearnError> {
        let is_custom = matches!(parameters.objective, Objective::Custom { .. });
        if is_custom != self.objective.is_some() {
            let (found, must) = match is_custom {
                true => ("custom".into(), "given together with its derivatives"),
                false => (format!("{:?}", parameters.objective), "custom where derivatives are given"),
            };
            return Err(LearnError::BadParameter { name: "objective", found, must });
        }
        check_queries(set, self.queries, parameters, self.objective)
    }

    /// The rows to learn from and those to watch: the course's own, or with early stopping the last ones.
    pub(super) fn parts(&self, set: &'a TrainingSet, parameters: &Gbdt) -> Result<(Part<'a>, Option<Part<'a>>), LearnError> {
        if let Some(validation) = self.validation {
            return Ok((Part::all(set, self.queries), Some(Part::all(validation, self.validation_queries))));
        }
        if parameters.early_stopping.is_none() {
            return Ok((Part::all(set, self.queries), None));
        }
        let rows = set.rows();
        let mut training = super::rows_before_validation(rows, parameters)?;
        let mut own = 0;
        if !self.queries.is_empty() {
            // A query is held out as a whole or not at all.
            let mut end = 0;
            let ends = self.queries.iter().map(|size| {
                end += size;
                end
            });
            own = ends.take_while(|&end| end <= training).count();
            training = self.queries[..own].iter().sum();
            if own == 0 {
                return Err(LearnError::EmptyValidation { rows, fraction: parameters.validation_fraction });
            }
        }
        let (queries, watched) = self.queries.split_at(own);
        Ok((Part { set, rows: 0..training, queries }, Some(Part { set, rows: training..rows, queries: watched })))
    }
}
