//! Lambdarank (Burges 2010), as LightGBM has it: pairs of a query's rows push each other apart, each by how much their exchange would change NDCG.
//!
//! Rows are ranked by their scores, equal ones in their order. A pair counts if one of the two is among the first `truncation` rows and their gains
//! differ. With s = score of the upper row minus that of the lower one, its weight is
//! |gain difference| * (discount of the upper place - that of the lower) / best DCG there can be, and where the query is normalised, that divided by
//! 0.01 + s; the better row is pulled up by sigmoid * weight * the chance that a logistic model with this slope gives the pair the wrong way round. A
//! normalised query's derivatives are at last multiplied by log2(1 + sum) / sum of all these pulls, counted on both sides.

use std::ops::Range;

use rayon::prelude::*;

use super::course::{CustomObjective, Measured, Metric, Rows};
use super::objective::quick_exp;
use super::simd::{Level, for_every_level};
use super::{Gbdt, Objective};
use crate::metrics::{discount, ideal_dcg, ndcg};
use crate::{LearnError, TrainingSet};

/// Labels of the usual gains, 2^label - 1; the highest is this less 1.
const USUAL_LABELS: usize = 31;

/// Rows from which on a task is its own.
const TASK: usize = 4_096;

/// What a label is worth.
pub(super) fn gains(parameters: &Gbdt) -> Vec<f64> {
    match parameters.label_gain.is_empty() {
        true => (0..USUAL_LABELS as i32).map(|label| libm::ldexp(1.0, label) - 1.0).collect(),
        false => parameters.label_gain.clone(),
    }
}

/// Queries cover the rows, and every label has a gain.
pub(super) fn check(set: &TrainingSet, queries: &[usize], parameters: &Gbdt) -> Result<(), LearnError> {
    check_sizes(set, queries)?;
    let known = gains(parameters).len() as f64;
    let is_known = |label: f64| label >= 0.0 && label < known && label == libm::trunc(label);
    set.check_labels(is_known, "a whole number from 0 on that `label_gain` has an entry for (without it: 0 to 30)")
}

/// Queries cover the rows.
pub(super) fn check_sizes(set: &TrainingSet, queries: &[usize]) -> Result<(), LearnError> {
    let bad = |name, found: String, must| Err(LearnError::BadParameter { name, found, must });
    if queries.is_empty() {
        return bad("queries", "none".into(), "the sizes of the queries, which ranking is about");
    }
    if queries.contains(&0) {
        return bad("queries", "a query without rows".into(), "sizes of at least 1");
    }
    let total = queries.iter().fold(0usize, |total, &size| total.saturating_add(size));
    if total != set.rows() {
        return Err(LearnError::LengthMismatch { what: "rows of all queries", expected: set.rows(), found: total });
    }
    Ok(())
}

pub(super) struct LambdaRank {
    truncation: usize,
    normalise: bool,
    sigmoid: f64,
    /// Of each row.
    gains: Vec<f64>,
    /// Of each place.
    discounts: Vec<f64>,
    queries: Vec<Query>,
}

/// Its rows, and 1 / its best DCG, 0 where there is none.
type Query = (Range<usize>, f64);

impl LambdaRank {
    /// `None` for an objective that does not rank.
    pub fn new(parameters: &Gbdt, labels: &[f64], sizes: &[usize]) -> Option<Self> {
        let Objective::LambdaRank { truncation, normalise, sigmoid } = parameters.objective else { return None };
        let of_label = gains(parameters);
        let gains: Vec<f64> = labels.iter().map(|&label| of_label[label as usize]).collect();
        let mut start = 0;
        let queries = sizes.iter().map(|size| {
            let rows = start..start + size;
            start = rows.end;
            let best = ideal_dcg(&gains[rows.clone()], truncation);
            (rows, if best > 0.0 { 1.0 / best } else { 0.0 })
        });
        let queries = queries.collect();
        let longest = sizes.iter().copied().max().unwrap_or(0);
        Some(LambdaRank { truncation, normalise, sigmoid, gains, discounts: (0..longest).map(discount).collect(), queries })
    }

    /// What is watched where no other metric is given.
    pub fn metric(&self, parameters: &Gbdt) -> Ndcg {
        Ndcg::new(self.truncation, parameters)
    }

    fn query(&self, margins: &[f64], gains: &[f64], inverse_best: f64, own: &mut Scratch, out: &mut [[f64; 2]]) {
        let rows = margins.len();
        out.fill([0.0; 2]);
        if rows < 2 || inverse_best == 0.0 {
            return;
        }
        own.rank(margins, gains);
        let spread = own.margins[0] != own.margins[rows - 1];
        let slopes = Slopes { sigmoid: self.sigmoid, by_distance: self.normalise && spread, inverse_best };
        let mut total = 0.0;
        let level = Level::here();
        for place in 0..self.truncation.min(rows - 1) {
            let upper = Upper { margin: own.margins[place], gain: own.gains[place], discount: self.discounts[place] };
            let below = place + 1..rows;
            let lower = Lower {
                margins: &own.margins[below.clone()],
                gains: &own.gains[below.clone()],
                discounts: &self.discounts[below.clone()],
                pulls: &mut own.pulls[below.clone()],
                curvatures: &mut own.curvatures[below.clone()],
            };
            pairs(level, &slopes, &upper, lower);
            let [pull, size, curvature] = sums(&own.pulls[below.clone()], &own.curvatures[below.clone()]);
            own.derivatives[place][0] -= pull;
            own.derivatives[place][1] += curvature;
            for lower in below {
                own.derivatives[lower][0] += own.pulls[lower];
                own.derivatives[lower][1] += own.curvatures[lower];
            }
            total += 2.0 * size;
        }
        let factor = if self.normalise && total > 0.0 { libm::log2(1.0 + total) / total } else { 1.0 };
        for (&row, [gradient, hessian]) in own.order.iter().zip(&own.derivatives) {
            out[row] = [gradient * factor, hessian * factor];
        }
    }
}

impl CustomObjective for LambdaRank {
    fn derivatives(&self, rows: Rows<'_>, out: &mut [[f64; 2]]) -> Result<(), LearnError> {
        let mut tasks = Vec::new();
        let mut rest = out;
        let mut queries = &self.queries[..];
        while let Some((first, _)) = queries.first() {
            let start = first.start;
            let enough = queries.partition_point(|(own, _)| own.end - start < TASK).min(queries.len() - 1) + 1;
            let (own, later) = queries.split_at(enough);
            let (part, later_rows) = std::mem::take(&mut rest).split_at_mut(own[enough - 1].0.end - start);
            tasks.push((own, part));
            (queries, rest) = (later, later_rows);
        }
        let work = |(queries, mut out): (&[Query], &mut [[f64; 2]])| {
            let mut scratch = Scratch::default();
            for (own, inverse_best) in queries {
                let (part, later) = std::mem::take(&mut out).split_at_mut(own.len());
                self.query(&rows.margins[own.clone()], &self.gains[own.clone()], *inverse_best, &mut scratch, part);
                if let Some(weights) = rows.weights {
                    part.iter_mut().zip(&weights[own.clone()]).for_each(|([g, h], weight)| (*g, *h) = (*g * weight, *h * weight));
                }
                out = later;
            }
        };
        if tasks.len() < 2 {
            tasks.into_iter().for_each(work)
        } else {
            tasks.into_par_iter().for_each(work)
        }
        Ok(())
    }
}

/// A query's rows by rank, and what is worked out of them; kept from query to query.
#[derive(Default)]
struct Scratch {
    order: Vec<usize>,
    margins: Vec<f64>,
    gains: Vec<f64>,
    derivatives: Vec<[f64; 2]>,
    pulls: Vec<f64>,
    curvatures: Vec<f64>,
}

impl Scratch {
    fn rank(&mut self, margins: &[f64], gains: &[f64]) {
        self.order.clear();
        self.order.extend(0..margins.len());
        self.order.sort_unstable_by(|&a, &b| margins[b].total_cmp(&margins[a]).then(a.cmp(&b)));
        let ranked = |out: &mut Vec<f64>, values: &[f64]| {
            out.clear();
            out.extend(self.order.iter().map(|&row| values[row]));
        };
        ranked(&mut self.margins, margins);
        ranked(&mut self.gains, gains);
        self.derivatives.clear();
        self.derivatives.resize(margins.len(), [0.0; 2]);
        self.pulls.resize(margins.len(), 0.0);
        self.curvatures.resize(margins.len(), 0.0);
    }
}

struct Slopes {
    sigmoid: f64,
    by_distance: bool,
    inverse_best: f64,
}

struct Upper {
    margin: f64,
    gain: f64,
    discount: f64,
}

struct Lower<'a> {
    margins: &'a [f64],
    gains: &'a [f64],
    discounts: &'a [f64],
    pulls: &'a mut [f64],
    curvatures: &'a mut [f64],
}

for_every_level! {
    fn pairs(level, slopes: &Slopes, upper: &Upper, lower: Lower<'_>) = pairs_anywhere;
}

/// What one row and each row below it do to each other: the pull on the lower one, downwards above 0, and the second derivative of both.
#[inline(always)]
fn pairs_anywhere(slopes: &Slopes, upper: &Upper, lower: Lower<'_>) {
    let Slopes { sigmoid, by_distance, inverse_best } = *slopes;
    let count = lower.margins.len();
    let (margins, gains, discounts) = (lower.margins, &lower.gains[..count], &lower.discounts[..count]);
    let (pulls, curvatures) = (&mut lower.pulls[..count], &mut lower.curvatures[..count]);
    for at in 0..count {
        let distance = upper.margin - margins[at];
        let gap = upper.gain - gains[at];
        let odds = quick_exp(-(sigmoid * distance).min(700.0));
        let likely = 1.0 / (1.0 + odds);
        let weight = gap.abs() * (upper.discount - discounts[at]) * inverse_best / if by_distance { 0.01 + distance } else { 1.0 };
        // Without a gap there is no weight, on whichever side.
        let wrong = if gap > 0.0 { odds * likely } else { -likely };
        pulls[at] = sigmoid * weight * wrong;
        curvatures[at] = sigmoid * sigmoid * weight * odds * likely * likely;
    }
}

/// Sums of pulls, of their sizes, and of curvatures: in eight parts, so that several go at once and always in the same order.
fn sums(pulls: &[f64], curvatures: &[f64]) -> [f64; 3] {
    let mut parts = [[0.0; 8]; 3];
    for (pulls, curvatures) in pulls.chunks(8).zip(curvatures.chunks(8)) {
        for (lane, (pull, curvature)) in pulls.iter().zip(curvatures).enumerate() {
            parts[0][lane] += pull;
            parts[1][lane] += pull.abs();
            parts[2][lane] += curvature;
        }
    }
    parts.map(|part| part.iter().sum())
}

/// NDCG of the first `at` rows of each query, its mean over queries that have something to find; see [`metrics::ndcg`](crate::metrics::ndcg).
pub struct Ndcg {
    at: usize,
    gains: Vec<f64>,
}

impl Ndcg {
    /// With what the parameters say labels are worth.
    pub fn new(at: usize, parameters: &Gbdt) -> Self {
        Ndcg { at, gains: gains(parameters) }
    }
}

impl Metric for Ndcg {
    fn measure(&self, rows: Rows<'_>) -> Result<Measured, LearnError> {
        let gains: Vec<f64> = rows.labels.iter().map(|&label| self.gains.get(label as usize).copied().unwrap_or(0.0)).collect();
        let value = ndcg(rows.margins, &gains, rows.queries, self.at);
        Ok(Measured { name: format!("ndcg@{}", self.at), value, higher_is_better: true })
    }
}

#[cfg(test)]
#[path = "ranking_tests.rs"]
mod tests;
