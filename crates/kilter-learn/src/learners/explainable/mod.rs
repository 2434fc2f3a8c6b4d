//! Explainable boosting: an additive model of single columns and of a few pairs (GA2M: Lou, Caruana, Gehrke 2012; Lou et al. 2013).
//!
//! ```text
//! margin = intercept + sum of f_i(column i) + sum of f_ij(column i, column j)
//! ```
//! Each f is a table over bins, grown by boosting one term after the other in turn with very small trees, so that none can explain what
//! belongs to another. Several bags do that on other rows each, stop by the rows they hold out, and are averaged. Which pairs are worth a
//! term, FAST (Lou et al. 2013) says: how much the four quadrants around the best crossing point take off what the columns leave
//! unexplained. At the end what a pair says of one of its columns alone is moved to that column's table (purified: Lengerich et al. 2020), and
//! every table has the mean 0 over the training rows, which makes contributions exact: a column's is its table's value and half of those
//! of its pairs, the Shapley value of the row against the training rows.
//!
//! A bag is one thread's work and bags are averaged in order: the model's bytes do not depend on the number of threads. A missing value has a
//! bin of its own; where training had none, it counts as average.
//!
//! `boost` grows the tables of a bag, `cuts` finds the trees, `pairs` chooses and purifies pairs, `model` scores and explains.

mod boost;
mod cuts;
mod model;
mod pairs;

use kilter_stats::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::gbdt::binned::{self, Binned};
use crate::math::logit;
use crate::{LearnError, TrainingSet};

pub use super::target::Target;
use boost::{Bag, Boosted, Term};
pub(crate) use model::read;
use model::{Column, Pair};
pub use model::{ExplainableModel, Report};

pub const KIND: &str = "explainable";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Explainable {
    /// Left out of a file when it is the probability of a class.
    #[serde(skip_serializing_if = "Target::is_default")]
    pub target: Target,
    /// Bins a column's table has, 2 to 255, beside the one for missing values.
    pub bins: usize,
    /// Bins a pair's table has for each of its columns, 2 to 64.
    pub pair_bins: usize,
    /// Most pairs of columns that get a term.
    pub pairs: usize,
    /// Models on other rows each, whose mean is taken.
    pub bags: usize,
    /// Share of rows a bag holds out to know when to stop.
    pub validation_fraction: f64,
    pub learning_rate: f64,
    /// Most times each term is grown.
    pub rounds: usize,
    /// Stop after this many rounds without a lower loss on the rows held out.
    pub early_stopping: usize,
    /// Most leaves of one tree on a column, 2 or 3.
    pub leaves: usize,
    /// Fewest rows in a leaf.
    pub min_leaf_rows: usize,
    pub seed: u64,
    /// -1, 0 or 1 for each column: the score must not rise, may do anything, must not fall as the value rises. Such a column gets no
    /// pairs, and missing values are outside its order. Empty: no constraint.
    pub monotone: Vec<i8>,
}

impl Default for Explainable {
    fn default() -> Self {
        Explainable {
            target: Target::Binary,
            bins: 255,
            pair_bins: 32,
            pairs: 10,
            bags: 8,
            validation_fraction: 0.15,
            learning_rate: 0.04,
            rounds: 5000,
            early_stopping: 50,
            leaves: 2,
            min_leaf_rows: 4,
            seed: 7,
            monotone: Vec::new(),
        }
    }
}

impl Explainable {
    fn check(&self, columns: usize) -> Result<(), LearnError> {
        let require = |holds: bool, name, found: String, must| {
            if holds { Ok(()) } else { Err(LearnError::BadParameter { name, found, must }) }
        };
        let (rate, fraction) = (self.learning_rate, self.validation_fraction);
        require((2..=255).contains(&self.bins), "bins", self.bins.to_string(), "2 to 255")?;
        require((2..=64).contains(&self.pair_bins), "pair_bins", self.pair_bins.to_string(), "2 to 64")?;
        require(self.pairs <= 10_000, "pairs", self.pairs.to_string(), "up to 10000")?;
        require((1..=100).contains(&self.bags), "bags", self.bags.to_string(), "1 to 100")?;
        require(fraction > 0.0 && fraction <= 0.5, "validation_fraction", fraction.to_string(), "above 0, up to 0.5")?;
        require(rate > 0.0 && rate <= 1.0, "learning_rate", rate.to_string(), "above 0, up to 1")?;
        require((1..=100_000).contains(&self.rounds), "rounds", self.rounds.to_string(), "1 to 100000")?;
        require(self.early_stopping >= 1, "early_stopping", "0".into(), "at least 1")?;
        require((2..=3).contains(&self.leaves), "leaves", self.leaves.to_string(), "2 or 3")?;
        require(self.min_leaf_rows >= 1, "min_leaf_rows", "0".into(), "at least 1")?;
        let monotone = format!("{:?}", self.monotone);
        require(self.monotone.iter().all(|direction| (-1..=1).contains(direction)), "monotone", monotone, "-1, 0 or 1 for each column")?;
        match self.monotone.len() {
            0 => Ok(()),
            found if found == columns => Ok(()),
            found => Err(LearnError::LengthMismatch { what: "monotone", expected: columns, found }),
        }
    }
}

/// Rows as the boosting sees them: those of some weight, with weights whose largest is 1.
struct Rows {
    target: Target,
    labels: Vec<f64>,
    weights: Vec<f64>,
    /// What every margin starts from.
    base: f64,
}

pub fn fit(training_set: &TrainingSet, parameters: &Explainable) -> Result<ExplainableModel, LearnError> {
    parameters.check(training_set.matrix.columns())?;
    training_set.check()?;
    parameters.target.check_labels(training_set)?;
    let kept: Vec<usize> = (0..training_set.rows()).filter(|&row| training_set.weight(row) > 0.0).collect();
    let matrix = if kept.len() < training_set.rows() { &training_set.matrix.select(&kept) } else { &training_set.matrix };
    let rows = Rows::new(training_set, &kept, parameters.target);
    let cuts = binned::cut(matrix, 0..matrix.rows(), parameters.bins, parameters.seed);
    let binned = Binned::new(matrix, 0..matrix.rows(), &cuts);
    let columns: Vec<Column> = (0..matrix.columns()).map(|c| Column::new(&binned.by_column[c], &cuts[c], &rows.weights)).collect();
    let terms: Vec<Term> = columns
        .iter()
        .enumerate()
        .filter(|(_, column)| column.varies())
        .map(|(c, column)| Term::of_column(c, &binned.by_column[c], column, parameters))
        .collect();

    let seeds = Rng::seeded(parameters.seed);
    let bags: Vec<Bag> = (0..parameters.bags)
        .map(|bag| Bag::draw(&rows, parameters.validation_fraction, &mut seeds.fork(bag as u64)))
        .collect::<Option<_>>()
        .ok_or(LearnError::EmptyValidation { rows: kept.len(), fraction: parameters.validation_fraction })?;
    let mains: Vec<Boosted> = bags.par_iter().map(|bag| boost::boost(bag, &rows, &terms, None, parameters)).collect();
    let mut model = Tables { intercept: rows.base, columns, pairs: Vec::new() };
    for (term, at) in terms.iter().zip(0..) {
        model.columns[term.columns[0]].values = boost::mean_of(mains.iter().map(|boosted| &boosted.tables[at]));
    }
    let chosen = pairs::choose(&model, &binned, &rows, parameters);
    let pair_terms: Vec<Term> = chosen.iter().map(|pair| Term::of_pair(pair, &model.columns, &binned, parameters)).collect();
    let boosted: Vec<Boosted> =
        bags.par_iter().zip(&mains).map(|(bag, mains)| boost::boost(bag, &rows, &pair_terms, Some((&terms, mains)), parameters)).collect();
    for (at, mut pair) in chosen.into_iter().enumerate() {
        pair.values = boost::mean_of(boosted.iter().map(|boosted| &boosted.tables[at]));
        model.pairs.push(pair);
    }
    model.purify(&binned, &rows.weights);
    let report = Report {
        rows: training_set.rows(),
        positives: (parameters.target == Target::Binary).then(|| training_set.positives()),
        rounds: mains.iter().map(|bag| bag.rounds).collect(),
        rounds_of_pairs: boosted.iter().map(|bag| bag.rounds).collect(),
        validation_loss: mean(boosted.iter().map(|bag| bag.loss)),
        validation_loss_without_pairs: mean(mains.iter().map(|bag| bag.loss)),
        weights: model.columns.iter().map(|column| column.spread()).collect(),
        pair_weights: model.pairs.iter().map(|pair| pair.spread()).collect(),
    };
    Ok(ExplainableModel::new(matrix.names().to_vec(), parameters.clone(), report, model))
}

/// The terms of a model while it is made, and after.
#[derive(Clone, Debug, PartialEq)]
struct Tables {
    intercept: f64,
    columns: Vec<Column>,
    pairs: Vec<Pair>,
}

impl Rows {
    fn new(set: &TrainingSet, kept: &[usize], target: Target) -> Self {
        let largest = kept.iter().map(|&row| set.weight(row)).fold(0.0, f64::max);
        let weights: Vec<f64> = kept.iter().map(|&row| set.weight(row) / largest).collect();
        let labels: Vec<f64> = kept.iter().map(|&row| set.labels[row]).collect();
        let total: f64 = weights.iter().sum();
        let mean: f64 = labels.iter().zip(&weights).map(|(label, weight)| label * (weight / total)).sum();
        Rows { target, labels, weights, base: if target == Target::Binary { logit(mean) } else { mean } }
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

#[cfg(test)]
mod tests;
