//! Several classes: one tree a class and round on the gradients of the softmax's log loss, or one model a class against all others.
//!
//! All trees of a round see the probabilities that the rounds before it gave (Friedman 2001). The second derivative p (1 - p) knows nothing of the other
//! classes; K / (K - 1) times it is the curvature when all classes move at once, which is LightGBM's rule as well.

use std::ops::Range;

use kilter_stats::Rng;
use rayon::prelude::*;

use super::binned::{Binned, Cuts};
use super::boost;
use super::by_row::ByRow;
use super::categories::{Columns, Encoded, Encoders};
use super::course::{Goal, Part};
use super::gradients::BLOCK;
use super::groups::Interactions;
use super::grow::{Grower, Grown};
use super::histogram::{Entry, Fields, Scale, row_noise};
use super::objective::quick_exp;
use super::partition::route;
use super::sampling::Sampler;
use super::split::Rules;
use super::tree::Tree;
use super::{Gbdt, GbdtModel, Growth, Objective, Report, resume};
use crate::{ClassLink, ClassModel, LearnError, Model, TrainingSet};

/// Most classes that are learned at once.
const MOST_CLASSES: usize = 1000;

/// Trains a classifier whose labels are the numbers of the given classes, from 0 on. The objective is that of the link: log loss.
pub fn fit_classes(set: &TrainingSet, classes: &[String], link: ClassLink, parameters: &Gbdt) -> Result<ClassModel, LearnError> {
    fit_classes_by(set, None, classes, link, parameters, None)
}

/// Trains on one set and follows the loss on another; stops early if the parameters say so.
pub fn fit_classes_with_validation(
    training: &TrainingSet,
    validation: &TrainingSet,
    classes: &[String],
    link: ClassLink,
    parameters: &Gbdt,
) -> Result<ClassModel, LearnError> {
    fit_classes_by(training, Some(validation), classes, link, parameters, None)
}

/// The same, with or without rows to watch, and from an earlier model whose trees are kept and added to.
pub fn fit_classes_by(
    set: &TrainingSet,
    validation: Option<&TrainingSet>,
    classes: &[String],
    link: ClassLink,
    parameters: &Gbdt,
    earlier: Option<&ClassModel>,
) -> Result<ClassModel, LearnError> {
    let rows = check(set, classes.len(), parameters)?;
    let earlier = earlier.map(|earlier| members(earlier, set, classes, link, parameters)).transpose()?;
    if let Some(validation) = validation {
        let validation_rows = check(validation, classes.len(), parameters)?;
        super::check_same_columns(set, validation)?;
        return learn(set, 0..rows, Some((validation, 0..validation_rows)), classes, link, parameters, earlier.as_deref());
    }
    if parameters.early_stopping.is_none() {
        return learn(set, 0..rows, None, classes, link, parameters, earlier.as_deref());
    }
    let training = super::rows_before_validation(rows, parameters)?;
    learn(set, 0..training, Some((set, training..rows)), classes, link, parameters, earlier.as_deref())
}

/// The trees of each class of an earlier model, which must know the same classes in the same way.
fn members(
    earlier: &ClassModel,
    set: &TrainingSet,
    classes: &[String],
    link: ClassLink,
    parameters: &Gbdt,
) -> Result<Vec<GbdtModel>, LearnError> {
    if earlier.classes() != classes || earlier.link() != link {
        let found = format!("{classes:?} by {link:?} after {:?} by {:?}", earlier.classes(), earlier.link());
        return Err(LearnError::BadParameter { name: "classes", found, must: "those of the earlier model, in its order and of its link" });
    }
    let objective = if link == ClassLink::Softmax { Objective::Softmax } else { parameters.objective };
    let parameters = Gbdt { objective, ..parameters.clone() };
    let member = |class| {
        let member = super::open(&earlier.member(class).to_bytes())?;
        resume::check(&member, set, &parameters).map(|()| member)
    };
    (0..classes.len()).map(member).collect()
}

fn check(set: &TrainingSet, classes: usize, parameters: &Gbdt) -> Result<usize, LearnError> {
    let bad = |name, found: String, must| Err(LearnError::BadParameter { name, found, must });
    if !(2..=MOST_CLASSES).contains(&classes) {
        return bad("classes", classes.to_string(), "2 to 1000");
    }
    if !parameters.objective.is_default() {
        return bad("objective", format!("{:?}", parameters.objective), "log loss (binary) where classes are told apart");
    }
    if parameters.scale_positive != 1.0 {
        return bad("scale_positive", parameters.scale_positive.to_string(), "1 with several classes: give rows weights");
    }
    if parameters.monotone.iter().any(|&direction| direction != 0) {
        return bad("monotone", format!("{:?}", parameters.monotone), "0 with several classes, whose probabilities cannot all rise");
    }
    parameters.check(set.matrix.columns())?;
    set.check()?;
    set.check_labels(|label| label >= 0.0 && label < classes as f64 && label == libm::trunc(label), "the number of a class, from 0 on")?;
    Ok(set.rows())
}

type Validation<'a> = Option<(&'a TrainingSet, Range<usize>)>;

fn learn(
    set: &TrainingSet,
    rows: Range<usize>,
    validation: Validation<'_>,
    classes: &[String],
    link: ClassLink,
    parameters: &Gbdt,
    earlier: Option<&[GbdtModel]>,
) -> Result<ClassModel, LearnError> {
    for (class, name) in classes.iter().enumerate() {
        let there = |row: usize| set.labels[row] == class as f64 && set.weight(row) > 0.0;
        if !rows.clone().any(there) {
            return Err(LearnError::EmptyClass { class: name.clone(), rows: rows.len() });
        }
    }
    let members = match link {
        ClassLink::Softmax => boost(set, rows, validation, classes.len(), parameters, earlier)?,
        ClassLink::OneVsAll => {
            let (mut own, mut other) = (set.clone(), validation.map(|(set, rows)| (set.clone(), set, rows)));
            let against = |labels: &[f64], class: usize| labels.iter().map(|&label| f64::from(u8::from(label == class as f64))).collect();
            let learn = |class: usize| {
                own.labels = against(&set.labels, class);
                if let Some((other, validation, _)) = &mut other {
                    other.labels = against(&validation.labels, class);
                }
                let part = |set, rows: &Range<usize>| Part { set, rows: rows.clone(), queries: &[] };
                let goal = Goal { earlier: earlier.map(|members| &members[class]), ..Goal::default() };
                boost::boost(part(&own, &rows), other.as_ref().map(|(set, _, rows)| part(set, rows)), parameters, &goal)
            };
            (0..classes.len()).map(learn).collect::<Result<Vec<_>, _>>()?
        }
    };
    let members = members.into_iter().map(|member| Box::new(member) as Box<dyn Model>).collect();
    Ok(ClassModel::new(classes.to_vec(), link, members))
}

/// Rows with their bins, labels and the current scores of each class.
struct Scored<'a> {
    binned: Binned<'static>,
    labels: &'a [f64],
    weights: Option<&'a [f64]>,
    scores: Vec<Vec<f64>>,
}

impl<'a> Scored<'a> {
    fn new(
        set: &'a TrainingSet,
        rows: Range<usize>,
        encoded: &Encoded<'_>,
        cuts: &[Cuts],
        bases: &[f64],
        earlier: Option<&[GbdtModel]>,
    ) -> Self {
        let part = Part { set, rows: rows.clone(), queries: &[] };
        Scored {
            binned: Binned::new(encoded, 0..encoded.rows(), cuts),
            labels: &set.labels[rows.clone()],
            weights: set.weights.as_ref().map(|weights| &weights[rows.clone()]),
            scores: match earlier {
                Some(members) => members.iter().map(|member| resume::margins(member, &part)).collect(),
                None => bases.iter().map(|&base| vec![base; rows.len()]).collect(),
            },
        }
    }

    fn weight(&self, row: usize) -> f64 {
        self.weights.map_or(1.0, |weights| weights[row])
    }

    /// The probability of each class for each row: exp(score) as a share of the sum.
    fn probabilities(&self, out: &mut [Vec<f32>]) {
        let mut blocks: Vec<Vec<&mut [f32]>> = Vec::new();
        for class in out.iter_mut() {
            for (at, block) in class.chunks_mut(BLOCK).enumerate() {
                if at == blocks.len() {
                    blocks.push(Vec::new());
                }
                blocks[at].push(block);
            }
        }
        blocks.into_par_iter().enumerate().for_each(|(block, mut classes)| {
            let first = block * BLOCK;
            let rows = classes[0].len();
            let scores = |class: usize| &self.scores[class][first..first + rows];
            let mut most = scores(0).to_vec();
            for class in 1..classes.len() {
                most.iter_mut().zip(scores(class)).for_each(|(most, &score)| *most = most.max(score));
            }
            let mut totals = vec![0.0; rows];
            for (class, out) in classes.iter_mut().enumerate() {
                for row in 0..rows {
                    let e = quick_exp((scores(class)[row] - most[row]).max(-700.0));
                    totals[row] += e;
                    out[row] = e as f32;
                }
            }
            for out in &mut classes {
                out.iter_mut().zip(&totals).for_each(|(e, total)| *e = (f64::from(*e) / total) as f32);
            }
        });
    }

    /// Weighted mean log loss of the current scores.
    fn loss(&self) -> f64 {
        let block = |block: usize| {
            let rows = block * BLOCK..((block + 1) * BLOCK).min(self.labels.len());
            rows.fold((0.0, 0.0), |(loss, total), row| {
                let most = self.scores.iter().map(|scores| scores[row]).fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = self.scores.iter().map(|scores| libm::exp(scores[row] - most)).sum();
                let own = self.scores[self.labels[row] as usize][row];
                let weight = self.weight(row);
                (loss + weight * (libm::log(sum) + most - own), total + weight)
            })
        };
        let blocks: Vec<(f64, f64)> = (0..self.labels.len().div_ceil(BLOCK)).into_par_iter().map(block).collect();
        let (loss, total) = blocks.iter().fold((0.0, 0.0), |(loss, total), block| (loss + block.0, total + block.1));
        if total > 0.0 { loss / total } else { 0.0 }
    }
}

fn boost(
    set: &TrainingSet,
    rows: Range<usize>,
    validation: Validation<'_>,
    classes: usize,
    parameters: &Gbdt,
    earlier: Option<&[GbdtModel]>,
) -> Result<Vec<GbdtModel>, LearnError> {
    boost::check_count(rows.len())?;
    if parameters.growth == Growth::Oblivious && !parameters.categorical.is_empty() {
        let must = "empty where oblivious trees tell several classes apart: there is no one mean label to read categories by";
        return Err(LearnError::BadParameter { name: "categorical", found: format!("{:?}", parameters.categorical), must });
    }
    let parameters = &Gbdt { objective: Objective::Softmax, ..parameters.clone() };
    let encoders = match earlier {
        // All classes have the same.
        Some(members) => members[0].encoders().clone(),
        None => Encoders::learn(set, rows.clone(), parameters)?,
    };
    let (encoded, cuts, is_categories) = boost::prepare(&encoders, set, rows.clone(), parameters, |input| input)?;
    let interactions = Interactions::new(parameters, set.matrix.names())?;
    let mut weights = vec![0.0; classes];
    rows.clone().for_each(|row| weights[set.labels[row] as usize] += set.weight(row));
    let total: f64 = weights.iter().sum();
    let bases: Vec<f64> = match earlier {
        Some(members) => members.iter().map(|member| member.parts().0).collect(),
        None => weights.iter().map(|weight| libm::log(weight / total)).collect(),
    };
    let mut training = Scored::new(set, rows.clone(), &encoded, &cuts, &bases, earlier);
    let mut validation = validation.map(|(set, rows)| {
        let encoded = encoders.scored(&set.matrix, rows.clone());
        Scored::new(set, rows, &encoded, &cuts, &bases, earlier)
    });

    let curvature = classes as f64 / (classes as f64 - 1.0);
    let largest_weight = set.weights.as_ref().map_or(1.0, |weights| weights[rows].iter().copied().fold(0.0, f64::max));
    // Beside rare classes gradients are of very different sizes.
    let fields = Fields::FINE;
    let scale = Scale::fitting(fields, largest_weight, 0.25 * curvature * largest_weight);
    let mut rules = Rules {
        lambda: parameters.lambda_l2,
        min_rows: parameters.min_leaf_rows as u64,
        min_hessian: parameters.min_child_hessian,
        min_gain: parameters.min_gain,
        scale,
        cuts: &cuts,
        monotone: &[],
        monotone_method: parameters.monotone_method,
        categories: boost::category_rules(parameters, &is_categories),
        interactions: interactions.as_ref(),
    };
    let count = training.labels.len();
    let mut probabilities = vec![vec![0.0f32; count]; classes];
    let mut gradients = vec![[0.0f32; 2]; count];
    let mut entries: Vec<Entry> = Vec::new();
    let mut samplers = (0..classes).map(|_| Sampler::new(parameters, count)).collect::<Result<Vec<_>, _>>()?;
    let mut trees: Vec<Vec<Tree>> = match earlier {
        Some(members) => members.iter().map(|member| member.parts().1.to_vec()).collect(),
        None => vec![Vec::new(); classes],
    };
    let before: Vec<usize> = trees.iter().map(Vec::len).collect();
    let first_round = before.iter().copied().max().unwrap_or(0);
    // How many trees each class had after each round.
    let mut grown_by: Vec<Vec<usize>> = Vec::new();
    let mut losses: Vec<f64> = Vec::new();
    let mut stopped_early = false;
    let seeds = Rng::seeded(parameters.seed);
    // The grower reads the bins while scores change beside them.
    let binned = std::mem::replace(&mut training.binned, Binned { rows: 0, by_column: Vec::new() });
    let by_row = ByRow::new(&binned.by_column, |column| cuts[column].last_bin());
    let mut grower = Grower::new(&by_row, &cuts, fields, count, parameters);

    for round in first_round..first_round + parameters.trees {
        let mut rng = seeds.fork(round as u64);
        let sample_seed = rng.next_u64() as u32;
        training.probabilities(&mut probabilities);
        let mut any = false;
        let mut sampled = parameters.bagging_fraction < 1.0;
        for class in 0..classes {
            let noise_seed = rng.next_u64() as u32;
            let columns = boost::choose_columns(cuts.len(), parameters.column_fraction, &mut rng);
            sampled |= columns.len() < cuts.len();
            grower.set_columns(columns, &cuts);
            compute_gradients(&training, class, &probabilities[class], curvature, &scale, noise_seed, &mut gradients, &mut entries);
            let sampler = &mut samplers[class];
            if let Some(sampler) = sampler {
                rules.scale = sampler.draw(sample_seed, &mut entries, &mut gradients, scale);
            }
            if entries.is_empty() {
                continue;
            }
            let mut grown = grower.grow(&mut entries, &binned.by_column, &rules);
            if grown.tree.nodes.is_empty() {
                continue;
            }
            any = true;
            set_leaf_values(&mut grown, &entries, &gradients, parameters);
            add_leaf_values(&mut training.scores[class], &grown, &entries);
            if let Some(sampler) = sampler {
                boost::add_tree(&mut training.scores[class], &binned, &grown, |row| !sampler.has(row));
            }
            if let Some(sampler) = sampler.as_mut().filter(|sampler| sampler.weighs()) {
                let mut rows = vec![0; grown.leaves.len()];
                route(&grown, &binned.by_column, (0..count as u32).collect(), |leaf, own| rows[leaf] = own.len() as u32);
                grown.tree.set_rows(rows);
                sampler.learn(&grown.tree.leaves, &grown.tree.leaf_rows, parameters.learning_rate);
            }
            if let Some(validation) = &mut validation {
                boost::add_tree(&mut validation.scores[class], &validation.binned, &grown, |_| true);
            }
            trees[class].push(grown.tree);
        }
        if !any {
            // Nothing is left to learn; with sampling, another sample may still find something.
            if sampled { continue } else { break }
        }
        grown_by.push(trees.iter().map(Vec::len).collect());
        if let Some(validation) = &validation {
            losses.push(validation.loss());
        }
        let since_best = grown_by.len() - boost::best_iteration(&losses).unwrap_or(grown_by.len());
        if parameters.early_stopping.is_some_and(|rounds| since_best >= rounds) {
            stopped_early = true;
            break;
        }
    }
    let best = boost::best_iteration(&losses).filter(|_| parameters.early_stopping.is_some());
    let member = |(class, mut trees): (usize, Vec<Tree>)| {
        let trees_grown = trees.len() - before[class];
        if let Some(best) = best {
            trees.truncate(grown_by[best - 1][class]);
        }
        let own = |set: &Scored<'_>| set.labels.iter().filter(|&&label| label == class as f64).count();
        let report = Report {
            rows: count,
            positives: Some(own(&training)),
            validation_rows: validation.as_ref().map_or(0, |set| set.labels.len()),
            validation_positives: validation.as_ref().map_or(Some(0), |set| Some(own(set))),
            trees_grown,
            best_iteration: trees.len(),
            earlier_trees: before[class],
            stopped_early,
            validation_loss: losses.clone(),
            ..Report::default()
        };
        GbdtModel::new(set.matrix.names().to_vec(), parameters.clone(), report, bases[class], encoders.clone(), trees)
    };
    Ok(trees.into_iter().enumerate().map(member).collect())
}

/// First and second derivatives of the log loss by one class's score: as floats for leaf values, as words for histograms.
#[expect(clippy::too_many_arguments, reason = "what is read and where it goes")]
fn compute_gradients(
    training: &Scored<'_>,
    class: usize,
    probabilities: &[f32],
    curvature: f64,
    scale: &Scale,
    noise_seed: u32,
    gradients: &mut [[f32; 2]],
    entries: &mut Vec<Entry>,
) {
    entries.resize(gradients.len(), Entry::default());
    let blocks = gradients.par_chunks_mut(BLOCK).zip(entries.par_chunks_mut(BLOCK)).enumerate();
    blocks.for_each(|(block, (gradients, entries))| {
        for (i, (gradient, entry)) in gradients.iter_mut().zip(entries).enumerate() {
            let row = block * BLOCK + i;
            let (p, weight) = (f64::from(probabilities[row]), training.weight(row));
            let own = f64::from(u8::from(training.labels[row] == class as f64));
            let (g, h) = (weight * (p - own), weight * curvature * p * (1.0 - p));
            *gradient = [g as f32, h as f32];
            let (g, h) = scale.words(g, h, row_noise(noise_seed, row as u32));
            *entry = Entry::new(row as u32, g, h);
        }
    });
}

/// Leaf values from the float gradients, summed in row order within each leaf.
fn set_leaf_values(grown: &mut Grown<'_>, entries: &[Entry], gradients: &[[f32; 2]], parameters: &Gbdt) {
    let value = |leaf: &super::grow::GrownLeaf| {
        let add = |[g, h]: [f64; 2], entry: &Entry| {
            let [more_g, more_h] = gradients[entry.row()];
            [g + f64::from(more_g), h + f64::from(more_h)]
        };
        let [gradient, hessian] = entries[leaf.start..][..leaf.total.count as usize].iter().fold([0.0; 2], add);
        parameters.learning_rate * super::split::leaf_value(gradient, hessian + parameters.lambda_l2, leaf.bounds)
    };
    grown.tree.leaves = grown.leaves.par_iter().map(value).collect();
}

fn add_leaf_values(scores: &mut [f64], grown: &Grown<'_>, entries: &[Entry]) {
    for (leaf, value) in grown.leaves.iter().zip(&grown.tree.leaves) {
        for entry in &entries[leaf.start..][..leaf.total.count as usize] {
            scores[entry.row()] += value;
        }
    }
}

#[cfg(test)]
#[path = "multiclass_tests.rs"]
mod tests;
