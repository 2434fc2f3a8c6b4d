//! The boosting loop: gradients, a tree, new scores, until the trees are grown or the validation loss stops falling.

use std::ops::Range;

use kilter_stats::Rng;
use rayon::prelude::*;

use super::binned::{self, Binned};
use super::grow::{Grower, Grown, MAX_DEPTH};
use super::histogram::{Entry, MAX_ROWS, Scale, row_noise};
use super::split::{Rules, leaf_value};
use super::tree::Tree;
use super::{Gbdt, GbdtModel, Report};
use crate::math::{logit, margin_loss, sigmoid};
use crate::{LearnError, TrainingSet};

/// Rows handled as one block; float sums are added block by block in order, so the thread count cannot change a bit.
const BLOCK: usize = 8192;

pub(super) fn boost(
    training_set: &TrainingSet,
    rows: Range<usize>,
    validation: Option<(&TrainingSet, Range<usize>)>,
    parameters: &Gbdt,
) -> Result<GbdtModel, LearnError> {
    training_set.check_classes(rows.clone())?;
    if rows.len() > MAX_ROWS {
        return Err(LearnError::TooManyRows { rows: rows.len(), limit: MAX_ROWS });
    }
    let matrix = &training_set.matrix;
    let cuts = binned::cut(matrix, rows.clone(), parameters.bins, parameters.seed);
    let mut training = Scored::new(training_set, rows.clone(), &cuts, parameters);
    let base = training.base_margin();
    training.scores.fill(base);
    let mut validation = validation.map(|(set, rows)| Scored::new(set, rows, &cuts, parameters));
    if let Some(validation) = &mut validation {
        validation.scores.fill(base);
    }
    let mut report = Report {
        rows: training.labels.len(),
        positives: training.positives(),
        validation_rows: validation.as_ref().map_or(0, |set| set.labels.len()),
        validation_positives: validation.as_ref().map_or(0, Scored::positives),
        ..Report::default()
    };

    let largest_weight = training.weights.as_ref().map_or(1.0, |weights| weights.iter().copied().fold(0.0, f64::max));
    let rules = Rules {
        lambda: parameters.lambda_l2,
        min_rows: parameters.min_leaf_rows as u64,
        min_hessian: parameters.min_child_hessian,
        min_gain: parameters.min_gain,
        scale: Scale::fitting(largest_weight, largest_weight * 0.25),
        cuts: &cuts,
        monotone: if parameters.monotone.iter().all(|&direction| direction == 0) { &[] } else { &parameters.monotone },
    };
    let max_depth = parameters.max_depth.unwrap_or(MAX_DEPTH).min(MAX_DEPTH);
    let binned = &training.binned;
    let mut grower = Grower::new(binned, parameters.leaves, max_depth);
    let mut gradients = vec![[0.0f32; 2]; training.labels.len()];
    let mut entries: Vec<Entry> = Vec::new();
    let mut trees: Vec<Tree> = Vec::new();
    let seeds = Rng::seeded(parameters.seed);

    for round in 0..parameters.trees {
        let mut rng = seeds.fork(round as u64);
        let (noise_seed, bag_seed) = (rng.next_u64(), rng.next_u64());
        let bag = (parameters.bagging_fraction < 1.0).then_some(Bag { seed: bag_seed, fraction: parameters.bagging_fraction });
        let columns = choose_columns(binned.width, parameters.column_fraction, &mut rng);
        let sampled = bag.is_some() || columns.len() < binned.width;
        grower.set_columns(columns);
        compute_gradients(&training, &mut gradients, &mut entries, &rules.scale, noise_seed);
        if let Some(bag) = &bag {
            entries.retain(|entry| bag.has(entry.row()));
        }
        if entries.is_empty() {
            continue;
        }
        let mut grown = grower.grow(&mut entries, &rules);
        if grown.tree.nodes.is_empty() {
            // Nothing is left to learn; with sampling, another sample may still find something.
            if sampled { continue } else { break }
        }
        set_leaf_values(&mut grown, &entries, &gradients, parameters);
        add_leaf_values(&mut training.scores, &grown, &entries);
        if let Some(bag) = &bag {
            let outside = |row: usize| !bag.has(row);
            add_tree(&mut training.scores, binned, &grown, outside);
        }
        if let Some(validation) = &mut validation {
            add_tree(&mut validation.scores, &validation.binned, &grown, |_| true);
            report.validation_log_loss.push(validation.loss());
        }
        trees.push(grown.tree);
        let since_best = trees.len() - best_iteration(&report.validation_log_loss).unwrap_or(trees.len());
        if parameters.early_stopping.is_some_and(|rounds| since_best >= rounds) {
            report.stopped_early = true;
            break;
        }
    }
    report.trees_grown = trees.len();
    if parameters.early_stopping.is_some()
        && let Some(best) = best_iteration(&report.validation_log_loss)
    {
        trees.truncate(best);
    }
    report.best_iteration = trees.len();
    Ok(GbdtModel::new(matrix.names().to_vec(), parameters.clone(), report, base, trees))
}

/// Number of trees with the lowest validation loss, the fewest of equals.
fn best_iteration(losses: &[f64]) -> Option<usize> {
    losses.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).map(|(index, _)| index + 1)
}

/// Rows with their bins, labels and current scores.
struct Scored<'a> {
    binned: Binned,
    labels: &'a [f64],
    /// Row weight times class weight; `None` when all are 1.
    weights: Option<Vec<f64>>,
    scores: Vec<f64>,
}

impl<'a> Scored<'a> {
    fn new(set: &'a TrainingSet, rows: Range<usize>, cuts: &[binned::Cuts], parameters: &Gbdt) -> Self {
        let weigh = |row: usize| set.weight(row) * if set.labels[row] == 1.0 { parameters.scale_positive } else { 1.0 };
        let weighted = set.weights.is_some() || parameters.scale_positive != 1.0;
        Scored {
            binned: Binned::new(&set.matrix, rows.clone(), cuts),
            labels: &set.labels[rows.clone()],
            weights: weighted.then(|| rows.clone().map(weigh).collect()),
            scores: vec![0.0; rows.len()],
        }
    }

    fn weight(&self, row: usize) -> f64 {
        self.weights.as_ref().map_or(1.0, |weights| weights[row])
    }

    fn positives(&self) -> usize {
        self.labels.iter().filter(|&&label| label == 1.0).count()
    }

    /// Log-odds of the weighted share of positives.
    fn base_margin(&self) -> f64 {
        let (mut positive, mut total) = (0.0, 0.0);
        for (row, label) in self.labels.iter().enumerate() {
            positive += label * self.weight(row);
            total += self.weight(row);
        }
        logit(positive / total)
    }

    /// Weighted mean log loss of the current scores.
    fn loss(&self) -> f64 {
        let block = |start: usize| {
            let rows = start..(start + BLOCK).min(self.labels.len());
            rows.fold((0.0, 0.0), |(loss, total), row| {
                let weight = self.weight(row);
                (loss + weight * margin_loss(self.scores[row], self.labels[row]), total + weight)
            })
        };
        let blocks: Vec<(f64, f64)> = starts(self.labels.len()).into_par_iter().map(block).collect();
        let (loss, total) = blocks.iter().fold((0.0, 0.0), |(loss, total), block| (loss + block.0, total + block.1));
        if total > 0.0 { loss / total } else { 0.0 }
    }
}

fn starts(rows: usize) -> Vec<usize> {
    (0..rows).step_by(BLOCK).collect()
}

/// The rows one tree sees, chosen by counting and not by drawing, so the order of work does not matter.
struct Bag {
    seed: u64,
    fraction: f64,
}

impl Bag {
    fn has(&self, row: usize) -> bool {
        f64::from(row_noise(self.seed, row as u32)) < self.fraction * 4_294_967_296.0
    }
}

fn choose_columns(width: usize, fraction: f64, rng: &mut Rng) -> Vec<usize> {
    let mut columns: Vec<usize> = (0..width).collect();
    let wanted = (libm::ceil(width as f64 * fraction) as usize).clamp(1, width);
    if wanted < width {
        rng.shuffle(&mut columns);
        columns.truncate(wanted);
        columns.sort_unstable();
    }
    columns
}

/// First and second derivatives of the log loss at the current scores: as floats for leaf values, as words for histograms.
fn compute_gradients(training: &Scored<'_>, gradients: &mut [[f32; 2]], entries: &mut Vec<Entry>, scale: &Scale, noise_seed: u64) {
    entries.resize(training.labels.len(), Entry::default());
    let blocks = gradients.par_chunks_mut(BLOCK).zip(entries.par_chunks_mut(BLOCK)).enumerate();
    blocks.for_each(|(block, (gradients, entries))| {
        let first = block * BLOCK;
        for i in 0..gradients.len() {
            let row = first + i;
            let weight = training.weight(row);
            let probability = sigmoid(training.scores[row]);
            let (g, h) = (weight * (probability - training.labels[row]), weight * probability * (1.0 - probability));
            gradients[i] = [g as f32, h as f32];
            let (g, h) = scale.words(g, h, row_noise(noise_seed, row as u32));
            entries[i] = Entry::new(row as u32, g, h);
        }
    });
}

/// Leaf values from the float gradients, summed in row order within each leaf.
fn set_leaf_values(grown: &mut Grown, entries: &[Entry], gradients: &[[f32; 2]], parameters: &Gbdt) {
    let value = |leaf: &super::grow::GrownLeaf| {
        let (mut gradient, mut hessian) = (0.0, 0.0);
        for entry in &entries[leaf.start..][..leaf.rows] {
            let [g, h] = gradients[entry.row()];
            gradient += f64::from(g);
            hessian += f64::from(h);
        }
        parameters.learning_rate * leaf_value(gradient, hessian + parameters.lambda_l2, leaf.bounds)
    };
    grown.tree.leaves = grown.leaves.par_iter().map(value).collect();
}

fn add_leaf_values(scores: &mut [f64], grown: &Grown, entries: &[Entry]) {
    for (leaf, value) in grown.leaves.iter().zip(&grown.tree.leaves) {
        for entry in &entries[leaf.start..][..leaf.rows] {
            scores[entry.row()] += value;
        }
    }
}

/// Adds the tree's values to the scores of the wanted rows by walking it.
fn add_tree(scores: &mut [f64], binned: &Binned, grown: &Grown, wanted: impl Fn(usize) -> bool + Sync) {
    scores.par_chunks_mut(BLOCK).enumerate().for_each(|(block, scores)| {
        for (row, score) in (block * BLOCK..).zip(scores) {
            if wanted(row) {
                *score += grown.tree.leaves[grown.tree.leaf_of_bins(&grown.bins, binned.row(row))];
            }
        }
    });
}
