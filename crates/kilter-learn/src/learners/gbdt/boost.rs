//! The boosting loop: gradients, a tree, new scores, until the trees are grown or the validation loss stops falling.

use std::ops::Range;

use kilter_stats::Rng;
use rayon::prelude::*;

use super::binned::{self, Binned, Cuts};
use super::by_row::ByRow;
use super::categories::{Columns, Encoded, Encoders};
use super::category_split::CategoryRules;
use super::certificate::certify;
use super::course::{CustomObjective, Goal, Part, Rows};
use super::gradients::{BLOCK, Gradients};
use super::groups::Interactions;
use super::grow::{Grower, Grown, GrownLeaf};
use super::histogram::{Entry, MAX_ROWS, Scale};
use super::objective::quantile;
use super::partition::route;
use super::sampling::Sampler;
use super::split::Rules;
use super::tree::Tree;
use super::{Gbdt, GbdtModel, Objective, Report, Sampling, resume};
use crate::{LearnError, Link, TrainingSet};

pub(super) fn boost(training: Part<'_>, validation: Option<Part<'_>>, parameters: &Gbdt, goal: &Goal<'_>) -> Result<GbdtModel, LearnError> {
    check(training.set, training.rows.clone(), parameters)?;
    let values = training.rows.len() * training.set.matrix.columns();
    on_threads(values, || boost_rows(training, validation, parameters, goal))
}

/// Whether there is something to learn, and not too much of it.
pub(super) fn check(set: &TrainingSet, rows: Range<usize>, parameters: &Gbdt) -> Result<(), LearnError> {
    check_count(rows.len())?;
    check_variety(set, rows, &parameters.objective)
}

/// More rows than a histogram can count are refused.
pub(super) fn check_count(rows: usize) -> Result<(), LearnError> {
    if rows > MAX_ROWS { Err(LearnError::TooManyRows { rows, limit: MAX_ROWS }) } else { Ok(()) }
}

/// Does what so many values are the matter of, with several threads where they pay.
pub(super) fn on_threads<T: Send>(values: usize, what: impl FnOnce() -> T + Send) -> T {
    const MANY: usize = 300_000;
    // Beginning on one of the threads saves a change of threads at every piece of work.
    if values < MANY { what() } else { rayon::join(what, || ()).0 }
}

fn boost_rows(training: Part<'_>, validation: Option<Part<'_>>, parameters: &Gbdt, goal: &Goal<'_>) -> Result<GbdtModel, LearnError> {
    let Part { set: training_set, rows, .. } = training.clone();
    let encoders = match goal.earlier {
        Some(earlier) => earlier.encoders().clone(),
        None => Encoders::learn(training_set, rows.clone(), parameters)?,
    };
    let (encoded, cuts, is_categories) = prepare(&encoders, training_set, rows, parameters, |input| input)?;
    let training = Scored::new(&training, Binned::new(&encoded, 0..encoded.rows(), &cuts), parameters, goal);
    let validation = validation.map(|part| {
        let encoded = encoders.scored(&part.set.matrix, part.rows.clone());
        Scored::new(&part, Binned::new(&encoded, 0..encoded.rows(), &cuts), parameters, goal)
    });
    let by_row = ByRow::new(&training.binned.by_column, |column| cuts[column].last_bin());
    let names = training_set.matrix.names();
    let ready = Ready { names, encoders, cuts: &cuts, is_categories: &is_categories, by_row: &by_row, training, validation };
    grow_trees(ready, parameters, goal)
}

/// All that trees are grown from: nothing but bins is known of the rows' values any more.
pub(super) struct Ready<'a> {
    pub names: &'a [String],
    pub encoders: Encoders,
    pub cuts: &'a [Cuts],
    /// Which columns hold bins of categories.
    pub is_categories: &'a [bool],
    pub by_row: &'a ByRow<'a>,
    pub training: Scored<'a>,
    pub validation: Option<Scored<'a>>,
}

pub(super) fn grow_trees(ready: Ready<'_>, parameters: &Gbdt, goal: &Goal<'_>) -> Result<GbdtModel, LearnError> {
    let Ready { names, encoders, cuts, is_categories, by_row, mut training, mut validation } = ready;
    let interactions = Interactions::new(parameters, names)?;
    let objective = parameters.objective;
    let base = goal.earlier.map_or_else(|| training.base(), |earlier| earlier.parts().0);
    training.start(base);
    if let Some(validation) = &mut validation {
        validation.start(base);
    }
    let earlier_trees = goal.earlier.map_or(&[][..], |earlier| earlier.parts().1);
    let mut report = Report {
        rows: training.labels.len(),
        positives: training.positives(),
        validation_rows: validation.as_ref().map_or(0, |set| set.labels.len()),
        earlier_trees: earlier_trees.len(),
        validation_positives: validation.as_ref().map_or(Some(0).filter(|_| objective.link() == Link::Logit), Scored::positives),
        ..Report::default()
    };

    let mut sampler = Sampler::new(parameters, training.labels.len())?;
    let mut gradients = Gradients::new(&training, sampler.as_ref().is_some_and(Sampler::weighs));
    let mut rules = Rules {
        lambda: parameters.lambda_l2,
        min_rows: parameters.min_leaf_rows as u64,
        min_hessian: parameters.min_child_hessian,
        min_gain: parameters.min_gain,
        scale: Scale::fitting(gradients.fields, 1.0, 1.0),
        cuts,
        monotone: if parameters.monotone.iter().all(|&direction| direction == 0) { &[] } else { &parameters.monotone },
        monotone_method: parameters.monotone_method,
        categories: category_rules(parameters, is_categories),
        interactions: interactions.as_ref(),
    };
    let mut grower = Grower::new(by_row, cuts, gradients.fields, training.labels.len(), parameters);
    let mut trees: Vec<Tree> = earlier_trees.to_vec();
    let seeds = Rng::seeded(parameters.seed);

    for round in earlier_trees.len()..earlier_trees.len() + parameters.trees {
        let mut rng = seeds.fork(round as u64);
        let (noise_seed, sample_seed) = (rng.next_u64() as u32, rng.next_u64() as u32);
        let columns = choose_columns(cuts.len(), parameters.column_fraction, &mut rng);
        let sampled = sampler.is_some() || columns.len() < cuts.len();
        grower.set_columns(columns, cuts);
        rules.scale = match goal.together {
            Some(_) => gradients.compute_together(&mut training, noise_seed)?,
            None => gradients.compute(&mut training, noise_seed),
        };
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
            match goal.metric {
                Some(metric) => report.watch(metric.measure(validation.rows())?)?,
                None if goal.together.is_some() => {}
                None => report.validation_loss.push(validation.loss()),
            }
        }
        trees.push(grown.tree);
        let grown = trees.len() - earlier_trees.len();
        let since_best = grown - report.best().unwrap_or(grown);
        if parameters.early_stopping.is_some_and(|rounds| since_best >= rounds) {
            report.stopped_early = true;
            break;
        }
    }
    report.trees_grown = trees.len() - earlier_trees.len();
    if parameters.early_stopping.is_some()
        && let Some(best) = report.best()
    {
        trees.truncate(earlier_trees.len() + best);
    }
    report.best_iteration = trees.len();
    report.certificate = certify(&trees, &parameters.monotone, names)?;
    Ok(GbdtModel::new(names.to_vec(), parameters.clone(), report, base, encoders, trees))
}

/// The training rows as trees see them, how their columns are cut, and which of them hold bins of categories. `number` is that of a column among all
/// inputs, where the set has some of them only.
pub(super) fn prepare<'a>(
    encoders: &Encoders,
    set: &'a TrainingSet,
    rows: Range<usize>,
    parameters: &Gbdt,
    number: impl Fn(usize) -> usize,
) -> Result<(Encoded<'a>, Vec<Cuts>, Vec<bool>), LearnError> {
    let encoded = encoders.training(set, rows, parameters, &number);
    let mut cuts = binned::cut(&encoded, 0..encoded.rows(), worthwhile_bins(encoded.rows(), parameters.bins), parameters.seed);
    let is_categories = encoders.sets(cuts.len());
    for encoder in encoders.iter() {
        if parameters.monotone.get(number(encoder.input)).is_some_and(|&direction| direction != 0) {
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

/// Bins of few rows cost as much as others and say less: so many that each holds eight rows on average, but not fewer than 64 for that.
pub(super) fn worthwhile_bins(rows: usize, bins: usize) -> usize {
    bins.min((rows / 8).max(64))
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
    binned: Binned<'a>,
    pub objective: Objective,
    /// In the place of the objective, where that is none of single rows.
    pub together: Option<&'a dyn CustomObjective>,
    pub labels: &'a [f64],
    queries: &'a [usize],
    /// Row weight times class weight; `None` when all are 1.
    pub weights: Option<Vec<f64>>,
    /// Of training rows without the newest tree, which `Gradients` adds when it goes over them anyway.
    pub scores: Vec<f64>,
}

impl<'a> Scored<'a> {
    pub fn new(part: &Part<'a>, binned: Binned<'a>, parameters: &Gbdt, goal: &Goal<'a>) -> Self {
        let Part { set, ref rows, queries } = *part;
        // A label between 0 and 1 is that much of a positive row.
        let class = |label: f64| if parameters.scale_positive == 1.0 { 1.0 } else { 1.0 + label * (parameters.scale_positive - 1.0) };
        let weigh = |row: usize| set.weight(row) * class(set.labels[row]);
        let weighted = set.weights.is_some() || parameters.scale_positive != 1.0;
        Scored {
            binned,
            objective: parameters.objective,
            together: goal.together,
            labels: &set.labels[rows.clone()],
            queries,
            weights: weighted.then(|| rows.clone().map(weigh).collect()),
            scores: goal.earlier.map_or_else(Vec::new, |earlier| resume::margins(earlier, part)),
        }
    }

    /// The margin that lowers the loss most, without trees.
    pub fn base(&self) -> f64 {
        match self.together {
            Some(objective) => objective.base(self.labels, self.weights.as_deref()),
            None => self.objective.base(self.labels, |row| self.weight(row)),
        }
    }

    /// Scores start from the base, where no earlier trees gave them a start.
    pub fn start(&mut self, base: f64) {
        self.scores.resize(self.labels.len(), base);
    }

    /// As an objective or a metric sees them.
    pub fn rows(&self) -> Rows<'_> {
        Rows { margins: &self.scores, labels: self.labels, weights: self.weights.as_deref(), queries: self.queries }
    }

    pub fn weight(&self, row: usize) -> f64 {
        self.weights.as_ref().map_or(1.0, |weights| weights[row])
    }

    /// Both derivatives of each row at its score, times its weight.
    pub fn derivatives(&self, out: &mut [[f64; 2]]) -> Result<(), LearnError> {
        if let Some(objective) = self.together {
            objective.derivatives(self.rows(), out)?;
            return check_derivatives(out);
        }
        out.par_chunks_mut(BLOCK).enumerate().for_each(|(block, out)| {
            for (row, out) in (block * BLOCK..).zip(out) {
                let (gradient, hessian) = self.objective.derivatives(self.scores[row], self.labels[row]);
                *out = [self.weight(row) * gradient, self.weight(row) * hessian];
            }
        });
        Ok(())
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

/// What an objective of all rows together says can be used.
fn check_derivatives(derivatives: &[[f64; 2]]) -> Result<(), LearnError> {
    /// Larger ones would leave the range of single floats, of which leaves are summed.
    const LARGEST: f64 = 1e30;
    let usable = |&[gradient, hessian]: &[f64; 2]| gradient.abs() <= LARGEST && (0.0..=LARGEST).contains(&hessian);
    match derivatives.iter().position(|derivatives| !usable(derivatives)) {
        Some(row) => Err(LearnError::BadDerivative { row, gradient: derivatives[row][0], hessian: derivatives[row][1] }),
        None => Ok(()),
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
pub(super) fn check_variety(set: &TrainingSet, rows: Range<usize>, objective: &Objective) -> Result<(), LearnError> {
    if objective.link() == Link::Logit && !objective.is_together() {
        return set.check_classes(rows);
    }
    if !rows.clone().any(|row| set.weight(row) > 0.0) {
        return Err(LearnError::BadWeight { row: rows.start, value: 0.0 });
    }
    let zero = objective.link() == Link::Log
        && !objective.is_together()
        && rows.clone().all(|row| set.labels[row] == 0.0 || set.weight(row) == 0.0);
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
pub(super) fn add_tree(scores: &mut [f64], binned: &Binned<'_>, grown: &Grown<'_>, wanted: impl Fn(usize) -> bool + Sync) {
    let add = |(block, scores): (usize, &mut [f64])| {
        let first = block * BLOCK;
        let rows = (first..first + scores.len()).filter(|&row| wanted(row)).map(|row| row as u32).collect();
        route(grown, &binned.by_column, rows, |leaf, rows| {
            rows.iter().for_each(|&row| scores[row as usize - first] += grown.tree.leaves[leaf])
        });
    };
    if scores.len() < BLOCK { add((0, scores)) } else { scores.par_chunks_mut(BLOCK).enumerate().for_each(add) }
}
