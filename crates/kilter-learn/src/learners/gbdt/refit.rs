//! Leaf values learned anew from other rows: the trees keep their splits, each leaf moves towards what the new rows make of it.
//!
//! As LightGBM's `refit`: tree by tree, from the margins that the trees before it now give, a leaf becomes `decay_rate` times its value plus the rest times
//! the value that training would give it on the new rows. The base moves likewise. A leaf that no new row reaches keeps its value, for nothing was learned of
//! it (LightGBM's shrinks towards 0). Declared directions are kept: the values that a node's sides may take are bounded as they are in growing.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::binned::Binned;
use super::boost::{Scored, check_variety};
use super::categories::Columns;
use super::certificate::certify;
use super::course::{Course, Goal, Part};
use super::gradients::BLOCK;
use super::objective::quantile;
use super::ranking::LambdaRank;
use super::split::{Bounds, UNBOUNDED, leaf_value};
use super::tree::{Child, Tree};
use super::{CustomObjective, Gbdt, GbdtModel, resume};
use crate::{LearnError, Model, TrainingSet};

/// What is recorded of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refit {
    pub rows: usize,
    pub decay_rate: f64,
}

/// The model with leaf values drawn towards what these rows say: 0 takes only their word, 1 leaves everything as it is.
pub fn refit(model: &GbdtModel, set: &TrainingSet, decay_rate: f64) -> Result<GbdtModel, LearnError> {
    refit_by(model, set, decay_rate, &Course::default())
}

/// The same of a model that ranks or has an objective of one's own: the course gives the queries or the derivatives.
pub fn refit_by(model: &GbdtModel, set: &TrainingSet, decay_rate: f64, course: &Course<'_>) -> Result<GbdtModel, LearnError> {
    let parameters = model.parameters();
    parameters.check_one_output()?;
    if !(0.0..=1.0).contains(&decay_rate) {
        return Err(LearnError::BadParameter { name: "decay_rate", found: decay_rate.to_string(), must: "0 to 1" });
    }
    set.check()?;
    parameters.objective.check_labels(set)?;
    resume::check_inputs(model, set)?;
    course.check_objective(set, parameters)?;
    let part = Part::all(set, course.queries);
    check_variety(set, part.rows.clone(), &parameters.objective)?;
    let lambdas = LambdaRank::new(parameters, &set.labels, course.queries);
    let together = course.objective.or(lambdas.as_ref().map(|lambdas| lambdas as &dyn CustomObjective));
    let goal = Goal { together, ..Goal::default() };
    let encoded = model.encoders().scored(&set.matrix, part.rows.clone());
    // Without cuts there are no bins: trees are walked by values.
    let mut rows = Scored::new(&part, Binned::new(&encoded, 0..encoded.rows(), &[]), parameters, &goal);
    let draw = |old: f64, new: f64| decay_rate * old + (1.0 - decay_rate) * new;
    let (old_base, trees) = model.parts();
    let base = draw(old_base, rows.base());
    rows.start(base);

    let mut derivatives = vec![[0.0; 2]; set.rows()];
    let mut leaf_of = vec![0u32; set.rows()];
    let mut refitted = Vec::with_capacity(trees.len());
    for tree in trees {
        leaf_of.par_chunks_mut(BLOCK).enumerate().for_each(|(block, leaves)| {
            for (row, leaf) in (block * BLOCK..).zip(leaves) {
                *leaf = tree.leaf_of_values(|column| encoded.column(column)[row]) as u32;
            }
        });
        rows.derivatives(&mut derivatives)?;
        let values = values(tree, &leaf_of, &rows, &derivatives, parameters);
        let mut tree = tree.clone();
        tree.leaves.iter_mut().zip(values).for_each(|(leaf, value)| *leaf = draw(*leaf, value));
        rows.scores.iter_mut().zip(&leaf_of).for_each(|(score, &leaf)| *score += tree.leaves[leaf as usize]);
        refitted.push(tree);
    }
    let mut report = model.report().clone();
    report.refit = Some(Refit { rows: set.rows(), decay_rate });
    report.certificate = certify(&refitted, &parameters.monotone, model.inputs())?;
    Ok(GbdtModel::new(model.inputs().to_vec(), parameters.clone(), report, base, model.encoders().clone(), refitted))
}

/// What the rows make of each leaf, as training would.
fn values(tree: &Tree, leaf_of: &[u32], rows: &Scored<'_>, derivatives: &[[f64; 2]], parameters: &Gbdt) -> Vec<f64> {
    let objective = rows.objective;
    let mut sums = vec![Sums::default(); tree.leaves.len()];
    for (row, (&leaf, &[gradient, hessian])) in leaf_of.iter().zip(derivatives).enumerate() {
        // Rounded as in training, whose leaves a refit on the same rows finds again.
        sums[leaf as usize].add(f64::from(gradient as f32), f64::from(hessian as f32), usize::from(rows.weight(row) > 0.0));
    }
    let mut residuals = vec![Vec::new(); if objective.leaf_quantile().is_some() { sums.len() } else { 0 }];
    if !residuals.is_empty() {
        for (row, &leaf) in leaf_of.iter().enumerate() {
            residuals[leaf as usize].push((rows.labels[row] - rows.scores[row], rows.weight(row)));
        }
    }
    let bounds = bounds(tree, &sums, parameters);
    let rate = parameters.learning_rate;
    let value = |(leaf, sums): (usize, &Sums)| {
        let bounds = bounds[leaf];
        if sums.rows == 0 {
            return tree.leaves[leaf].max(rate * bounds.low).min(rate * bounds.high);
        }
        rate * match objective.leaf_quantile() {
            Some(level) => quantile(std::mem::take(&mut residuals[leaf]), level).max(bounds.low).min(bounds.high),
            None => objective.leaf_value(sums.gradient, sums.hessian, parameters.lambda_l2, bounds),
        }
    };
    sums.iter().enumerate().map(value).collect()
}

/// Sums over the new rows of a node or leaf.
#[derive(Clone, Copy, Default)]
struct Sums {
    gradient: f64,
    hessian: f64,
    rows: usize,
}

impl Sums {
    fn add(&mut self, gradient: f64, hessian: f64, rows: usize) {
        *self = Sums { gradient: self.gradient + gradient, hessian: self.hessian + hessian, rows: self.rows + rows };
    }
}

/// Where each leaf's value must stay, so that every side of a split on a directed column stays on its side of a middle.
fn bounds(tree: &Tree, leaves: &[Sums], parameters: &Gbdt) -> Vec<Bounds> {
    let mut of_leaf = vec![UNBOUNDED; leaves.len()];
    if parameters.monotone.iter().all(|&direction| direction == 0) {
        return of_leaf;
    }
    let mut nodes = vec![Sums::default(); tree.nodes.len()];
    let of = |nodes: &[Sums], child| match child {
        Child::Node(node) => nodes[node],
        Child::Leaf(leaf) => leaves[leaf],
    };
    // Children come after their parents.
    for (index, node) in tree.nodes.iter().enumerate().rev() {
        let [left, right] = [node.left(), node.right()].map(|child| of(&nodes, child));
        nodes[index] = left;
        nodes[index].add(right.gradient, right.hessian, right.rows);
    }
    let mut of_node = vec![UNBOUNDED; tree.nodes.len()];
    for (index, node) in tree.nodes.iter().enumerate() {
        let own = of_node[index];
        let (mut left, mut right) = (own, own);
        let direction = parameters.monotone[node.column as usize];
        if direction != 0 {
            let [a, b] = [node.left(), node.right()].map(|child| of(&nodes, child));
            let side = |sums: &Sums| leaf_value(sums.gradient, sums.hessian + parameters.lambda_l2, own);
            // A side that no row reaches has no say.
            let middle = match (a.rows, b.rows) {
                (_, 0) => side(&a),
                (0, _) => side(&b),
                _ => 0.5 * side(&a) + 0.5 * side(&b),
            };
            let (lower, upper) = if direction > 0 { (&mut left, &mut right) } else { (&mut right, &mut left) };
            lower.high = middle;
            upper.low = middle;
        }
        for (child, bounds) in [(node.left(), left), (node.right(), right)] {
            match child {
                Child::Node(node) => of_node[node] = bounds,
                Child::Leaf(leaf) => of_leaf[leaf] = bounds,
            }
        }
    }
    of_leaf
}

#[cfg(test)]
#[path = "refit_tests.rs"]
mod tests;
