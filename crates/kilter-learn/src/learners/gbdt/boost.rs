//! The boosting loop: gradients, a tree, new scores, until the trees are grown or the validation loss stops falling.

use std::ops::Range;

use kilter_stats::Rng;
use rayon::prelude::*;

use super::binned::{self, Binned, Cuts};
use super::by_row::ByRow;
use super::categories::{Columns, Encoded, Encoders};
use super::category_split::CategoryRules;
use super::certificate::certify;
use super::gradients::{BLOCK, Gradients};
use super::groups::Interactions;
use super::grow::{Grower, Grown, GrownLeaf};
use super::histogram::{Entry, MAX_ROWS, Scale};
use super::objective::quantile;
use super::partition::route;
use super::sampling::Sampler;
use super::split::Rules;
use super::tree::Tree;
use super::{Gbdt, GbdtModel, Objective, Report, Sampling};
use crate::{LearnError, Link, TrainingSet};

pub(super) fn boost(
    training_set: &TrainingSet,
    rows: Range<usize>,
    validation: Option<(&TrainingSet, Range<usize>)>,
    parameters: &Gbdt,
) -> Result<GbdtModel, LearnError> {
    check_variety(training_set, rows.clone(), &parameters.objective)?;
    if rows.len() > MAX_ROWS {
        return Err(LearnError::TooManyRows { rows: rows.len(), limit: MAX_ROWS });
    }
    /// Values from which on several threads are asked for.
    const MANY: usize = 300_000;
    let boost = || boost_rows(training_set, rows.clone(), validation, parameters);
    // Beginning on one of the threads saves a change of threads at every piece of work.
    if rows.len() * training_set.matrix.columns() < MANY { boost() } else { rayon::join(boost, || ()).0 }
}

fn boost_rows(
    training_set: &TrainingSet,
    rows: Range<usize>,
    validation: Option<(&TrainingSet, Range<usize>)>,
    parameters: &Gbdt,
) -> Result<GbdtModel, LearnError> {
    let interactions = Interactions::new(parameters, training_set.matrix.names())?;
    let encoders = Encoders::learn(training_set, rows.clone(), parameters)?;
    let (encoded, cuts, is_categories) = prepare(&encoders, training_set, rows.clone(), parameters)?;
    let mut training = Scored::new(training_set, rows.clone(), &encoded, &cuts, parameters);
    let objective = parameters.objective;
    let base = objective.base(training.labels, |row| training.weight(row));
    training.scores.fill(base);
    let mut validation = validation.map(|(set, rows)| {
        let encoded = encoders.scored(&set.matrix, rows.clone());
        Scored::new(set, rows, &encoded, &cuts, parameters)
    });
    if let Some(validation) = &mut validation {
        validation.scores.fill(base);
    }
    let mut report = Report {
        rows: training.labels.len(),
        positives: training.positives(),
        validation_rows: validation.as_ref().map_or(0, |set| set.labels.len()),
        validation_positives: validation.as_ref().map_or(Some(0).filter(|_| objective.link() == Link::Logit), Scored::positives),
        ..Report::default()
    };

    let by_row = ByRow::new(&training.binned.by_column, |column| cuts[column].last_bin());
    let mut sampler = Sampler::new(parameters, rows.len())?;
    let mut gradients = Gradients::new(&training, sampler.as_ref().is_some_and(Sampler::weighs));
    let mut rules = Rules {
        lambda: parameters.lambda_l2,
        min_rows: parameters.min_leaf_rows as u64,
        min_hessian: parameters.min_child_hessian,
        min_gain: parameters.min_gain,
        scale: Scale::fitting(gradients.fields, 1.0, 1.0),
        cuts: &cuts,
        monotone: if parameters.monotone.iter().all(|&direction| direction == 0) { &[] } else { &parameters.monotone },
        monotone_method: parameters.monotone_method,
        categories: category_rules(parameters, &is_categories),
        interactions: interactions.as_ref(),
    };
    let mut grower = Grower::new(&by_row, &cuts, gradients.fields, rows.len(), parameters);
    let mut trees: Vec<Tree> = Vec::new();
    let seeds = Rng::seeded(parameters.seed);

    for round in 0..parameters.trees {
        let mut rng = seeds.fork(round as u64);
        let (noise_seed, sample_seed) = (rng.next_u64() as u32, rng.next_u64() as u32);
        let columns = choose_columns(cuts.len(), parameters.column_fraction, &mut rng);
        let sampled = sampler.is_some() || columns.len() < cuts.len();
        grower.set_columns(columns, &cuts);
        rules.scale = gradients.compute(&mut training, noise_seed);
        if let Some(sampler) = &mut sampler {
            rules.scale = sampler.draw(sample_seed, &mut gradients.entries, &mut gradients.floats, rules.scale);
        }
        if gradients.entries.is_empty() {
            continue;
        }
        let by_column = &training.binned.by_column;
        let mut grown = grower.grow(&mut gradients.entries, by_column, &rules);
        if grown.tree.nodes.is_empty() {
            // Nothing is left to learn; with sampling, another sample may still find something.
            if sampled { continue } else { break }
        }
        set_leaf_values(&mut grown, &gradients, &rules.scale, &training, parameters);
        let outside = sampler.as_ref().map(|sampler| |row: usize| !sampler.has(row));
        gradients.take_up(&grown, by_column, outside);
        if let Some(sampler) = sampler.as_mut().filter(|sampler| sampler.weighs()) {
            grown.tree.set_rows(gradients.rows_of_leaves());
            sampler.learn(&grown.tree.leaves, &grown.tree.leaf_rows, parameters.learning_rate);
        }
        if let Some(validation) = &mut validation {
            add_tree(&mut validation.scores, &validation.binned, &grown, |_| true);
            report.validation_loss.push(validation.loss());
        }
        trees.push(grown.tree);
        let since_best = trees.len() - best_iteration(&report.validation_loss).unwrap_or(trees.len());
        if parameters.early_stopping.is_some_and(|rounds| since_best >= rounds) {
            report.stopped_early = true;
            break;
        }
    }
    report.trees_grown = trees.len();
    if parameters.early_stopping.is_some()
        && let Some(best) = best_iteration(&report.validation_loss)
    {
        trees.truncate(best);
    }
    report.best_iteration = trees.len();
    report.certificate = certify(&trees, &parameters.monotone, training_set.matrix.names())?;
    Ok(GbdtModel::new(training_set.matrix.names().to_vec(), parameters.clone(), report, base, encoders, trees))
}

/// The training rows as trees see them, how their columns are cut, and which of them hold bins of categories.
pub(super) fn prepare<'a>(
    encoders: &Encoders,
    set: &'a TrainingSet,
    rows: Range<usize>,
    parameters: &Gbdt,
) -> Result<(Encoded<'a>, Vec<Cuts>, Vec<bool>), LearnError> {
    let encoded = encoders.training(set, rows, parameters);
    let mut cuts = binned::cut(&encoded, 0..encoded.rows(), parameters.bins, parameters.seed);
    let is_categories = encoders.sets(cuts.len());
    for encoder in encoders.iter() {
        if parameters.monotone.get(encoder.input).is_some_and(|&direction| direction != 0) {
            let name = &set.matrix.names()[encoder.input];
            return Err(LearnError::BadParameter {
                name: "monotone",
                found: format!("not 0 for {name:?}"),
                must: "0 for columns of categories",
            });
        }
        if let Some(bins) = encoder.bins {
            cuts[encoder.input] = Cuts::of_bins(bins);
        }
    }
    Ok((encoded, cuts, is_categories))
}

pub(super) fn category_rules<'a>(parameters: &Gbdt, columns: &'a [bool]) -> Option<CategoryRules<'a>> {
    columns.contains(&true).then_some(CategoryRules {
        columns,
        smooth: parameters.cat_smooth,
        l2: parameters.cat_l2,
        most_in_set: parameters.max_cat_threshold,
        most_one_by_one: parameters.max_cat_to_onehot,
        min_group_rows: parameters.min_group_rows as u64,
    })
}

/// Number of trees with the lowest validation loss, the fewest of equals.
pub(super) fn best_iteration(losses: &[f64]) -> Option<usize> {
    losses.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).map(|(index, _)| index + 1)
}

/// Rows with their bins, labels and current scores.
pub(super) struct Scored<'a> {
    binned: Binned,
    pub objective: Objective,
    pub labels: &'a [f64],
    /// Row weight times class weight; `None` when all are 1.
    pub weights: Option<Vec<f64>>,
    /// Of training rows without the newest tree, which `Gradients` adds when it goes over them anyway.
    pub scores: Vec<f64>,
}

impl<'a> Scored<'a> {
    fn new(set: &'a TrainingSet, rows: Range<usize>, encoded: &Encoded<'_>, cuts: &[Cuts], parameters: &Gbdt) -> Self {
        // A label between 0 and 1 is that much of a positive row.
        let class = |label: f64| if parameters.scale_positive == 1.0 { 1.0 } else { 1.0 + label * (parameters.scale_positive - 1.0) };
        let weigh = |row: usize| set.weight(row) * class(set.labels[row]);
        let weighted = set.weights.is_some() || parameters.scale_positive != 1.0;
        Scored {
            binned: Binned::new(encoded, 0..encoded.rows(), cuts),
            objective: parameters.objective,
            labels: &set.labels[rows.clone()],
            weights: weighted.then(|| rows.clone().map(weigh).collect()),
            scores: vec![0.0; rows.len()],
        }
    }

    fn weight(&self, row: usize) -> f64 {
        self.weights.as_ref().map_or(1.0, |weights| weights[row])
    }

    fn positives(&self) -> Option<usize> {
        (self.objective.link() == Link::Logit).then(|| self.labels.iter().filter(|&&label| label == 1.0).count())
    }

    /// Weighted mean loss of the current scores.
    fn loss(&self) -> f64 {
        let block = |start: usize| {
            let rows = start..(start + BLOCK).min(self.labels.len());
            rows.fold((0.0, 0.0), |(loss, total), row| {
                let weight = self.weight(row);
                (loss + weight * self.objective.loss(self.scores[row], self.labels[row]), total + weight)
            })
        };
        let starts: Vec<usize> = (0..self.labels.len()).step_by(BLOCK).collect();
        let blocks: Vec<(f64, f64)> =
            if starts.len() < 2 { starts.into_iter().map(block).collect() } else { starts.into_par_iter().map(block).collect() };
        let (loss, total) = blocks.iter().fold((0.0, 0.0), |(loss, total), block| (loss + block.0, total + block.1));
        if total > 0.0 { loss / total } else { 0.0 }
    }
}

pub(super) fn choose_columns(width: usize, fraction: f64, rng: &mut Rng) -> Vec<usize> {
    let mut columns: Vec<usize> = (0..width).collect();
    let wanted = (libm::ceil(width as f64 * fraction) as usize).clamp(1, width);
    if wanted < width {
        rng.shuffle(&mut columns);
        columns.truncate(wanted);
        columns.sort_unstable();
    }
    columns
}

/// There is something to learn: two classes, or a rate above 0 where its logarithm is predicted.
fn check_variety(set: &TrainingSet, rows: Range<usize>, objective: &Objective) -> Result<(), LearnError> {
    if objective.link() == Link::Logit {
        return set.check_classes(rows);
    }
    if !rows.clone().any(|row| set.weight(row) > 0.0) {
        return Err(LearnError::BadWeight { row: rows.start, value: 0.0 });
    }
    let zero = objective.link() == Link::Log && rows.clone().all(|row| set.labels[row] == 0.0 || set.weight(row) == 0.0);
    if zero { Err(LearnError::AllZero { rows: rows.len() }) } else { Ok(()) }
}

/// Leaf values from the sums of derivatives within each leaf, floats in row order; or the quantile of the leaf's residuals.
fn set_leaf_values(grown: &mut Grown<'_>, gradients: &Gradients, scale: &Scale, training: &Scored<'_>, parameters: &Gbdt) {
    let (objective, entries) = (training.objective, &gradients.entries);
    let weighted = parameters.sampling != Sampling::Uniform;
    let value = |leaf: &GrownLeaf| {
        let own = &entries[leaf.start..][..leaf.total.count as usize];
        if let Some(level) = objective.leaf_quantile() {
            let residual = |entry: &Entry| {
                let row = entry.row();
                // The hessian is 1, times what the row counts.
                let weight = if weighted { f64::from(gradients.floats[row][1]) } else { training.weight(row) };
                (training.labels[row] - training.scores[row], weight)
            };
            let residuals = own.iter().map(residual).collect();
            return parameters.learning_rate * quantile(residuals, level).max(leaf.bounds.low).min(leaf.bounds.high);
        }
        let (mut gradient, mut hessian) = (scale.gradient(&leaf.total), scale.hessian(&leaf.total));
        if !gradients.floats.is_empty() {
            (gradient, hessian) = (0.0, 0.0);
            for entry in own {
                let [g, h] = gradients.floats[entry.row()];
                gradient += f64::from(g);
                hessian += f64::from(h);
            }
        }
        parameters.learning_rate * objective.leaf_value(gradient, hessian, parameters.lambda_l2, leaf.bounds)
    };
    let few = entries.len() < BLOCK && objective.leaf_quantile().is_none();
    grown.tree.leaves = if few { grown.leaves.iter().map(value).collect() } else { grown.leaves.par_iter().map(value).collect() };
    if let Some(order) = &mut grown.order {
        order.settle(&mut grown.tree.leaves, parameters.learning_rate);
    }
}

/// Adds the tree's values to the scores of the wanted rows.
pub(super) fn add_tree(scores: &mut [f64], binned: &Binned, grown: &Grown<'_>, wanted: impl Fn(usize) -> bool + Sync) {
    let add = |(block, scores): (usize, &mut [f64])| {
        let first = block * BLOCK;
        let rows = (first..first + scores.len()).filter(|&row| wanted(row)).map(|row| row as u32).collect();
        route(grown, &binned.by_column, rows, |leaf, rows| {
            rows.iter().for_each(|&row| scores[row as usize - first] += grown.tree.leaves[leaf])
        });
    };
    if scores.len() < BLOCK { add((0, scores)) } else { scores.par_chunks_mut(BLOCK).enumerate().for_each(add) }
}
