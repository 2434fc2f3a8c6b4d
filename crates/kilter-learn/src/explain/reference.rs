//! Contributions against a reference population: what sets a row apart from rows that are declared, such as those that were accepted.
//!
//! A coalition of inputs is worth the mean margin of the reference rows with these inputs taken from the row (the interventional game: Janzing et al.
//! 2020, Lundberg et al. 2020). So contributions add up to the row's margin less the reference rows' mean one, and an input on which the model does not
//! depend has none, however it hangs together with others.
//!
//! Of trees the Shapley values are exact, and their cost that of walking each tree with the row and one reference row together: where both go the same
//! way there is one path; where they part, the path with the row's side needs the column in the coalition, the other one needs it out. A leaf that needs
//! p columns in and q out gives each of the p its value times (p - 1)! q! / (p + q)!, and takes p! (q - 1)! / (p + q)! from each of the q.
//!
//! Of models in which at most pairs of inputs act together they are exact, too: half of what an input adds to nothing, half of what it adds to all others.

use super::super::learners::gbdt::{Child, Explained, Test};
use crate::{LearnError, Matrix, Model};

/// Contributions of a row's inputs against the rows of a reference population, and the mean margin of these.
///
/// # Errors
/// No reference rows, other columns than the model's inputs, or a model that cannot tell.
pub fn explain_against(model: &dyn Model, row: &[f64], reference: &Matrix) -> Result<(Vec<f64>, f64), LearnError> {
    if reference.rows() == 0 {
        return Err(LearnError::NoRows);
    }
    if reference.names() != model.inputs() {
        return Err(LearnError::DifferentInputs { model: model.inputs().to_vec(), found: reference.names().to_vec() });
    }
    let mut contributions = Vec::new();
    let base = model.explain_against(row, reference, &mut contributions);
    base.map(|base| (contributions, base)).ok_or_else(|| LearnError::NoReference { kind: model.kind() })
}

/// Of a model in which at most two inputs act together.
pub(crate) fn of_pairs(model: &(impl Model + ?Sized), row: &[f64], reference: &Matrix, contributions: &mut Vec<f64>) -> f64 {
    contributions.clear();
    contributions.resize(row.len(), 0.0);
    let (own, mut given, mut other, mut base) = (model.margin(row), row.to_vec(), Vec::new(), 0.0);
    for r in 0..reference.rows() {
        reference.row(r, &mut other);
        let margin = model.margin(&other);
        base += margin;
        for input in 0..row.len() {
            let theirs = std::mem::replace(&mut other[input], row[input]);
            given[input] = theirs;
            contributions[input] += 0.5 * (model.margin(&other) - margin) + 0.5 * (own - model.margin(&given));
            (other[input], given[input]) = (theirs, row[input]);
        }
    }
    mean(contributions, base, reference.rows())
}

/// Of a sum of trees: fills in the sum's contributions and returns its mean over the reference rows.
pub(crate) fn of_trees<T: Explained>(trees: &[T], row: &[f64], reference: &Matrix, contributions: &mut Vec<f64>) -> f64 {
    contributions.clear();
    contributions.resize(row.len(), 0.0);
    let (mut other, mut base) = (Vec::new(), 0.0);
    for r in 0..reference.rows() {
        reference.row(r, &mut other);
        for tree in trees {
            let mut walk = Walk { tree, row, other: &other, inside: Vec::new(), outside: Vec::new(), contributions, base: 0.0 };
            walk.follow(tree.root());
            base += walk.base;
        }
    }
    mean(contributions, base, reference.rows())
}

fn mean(contributions: &mut [f64], base: f64, rows: usize) -> f64 {
    contributions.iter_mut().for_each(|contribution| *contribution /= rows as f64);
    base / rows as f64
}

/// A row and a reference row on their way through a tree.
struct Walk<'a, T> {
    tree: &'a T,
    row: &'a [f64],
    other: &'a [f64],
    /// Columns that the path needs in the coalition, and those that it needs out of it.
    inside: Vec<u32>,
    outside: Vec<u32>,
    contributions: &'a mut [f64],
    /// The value of the leaf that the reference row reaches.
    base: f64,
}

impl<T: Explained> Walk<'_, T> {
    fn follow(&mut self, at: Child) {
        let node = match at {
            Child::Leaf(leaf) => return self.take(self.tree.leaves()[leaf]),
            Child::Node(node) => node,
        };
        let (test, column) = (self.tree.test(node), self.tree.column(node));
        let side = |goes_left: bool| self.tree.children(node)[usize::from(!goes_left)];
        let (rows, others) = (side(test.goes_left(self.row)), side(test.goes_left(self.other)));
        if rows == others || self.inside.contains(&column) {
            return self.follow(rows);
        }
        if self.outside.contains(&column) {
            return self.follow(others);
        }
        self.inside.push(column);
        self.follow(rows);
        self.inside.pop();
        self.outside.push(column);
        self.follow(others);
        self.outside.pop();
    }

    fn take(&mut self, value: f64) {
        let (inside, outside) = (self.inside.len(), self.outside.len());
        if inside == 0 {
            self.base += value;
        }
        if inside + outside == 0 {
            return;
        }
        let ways = binomial(inside + outside, inside);
        for &column in &self.inside {
            self.contributions[column as usize] += value / (inside as f64 * ways);
        }
        for &column in &self.outside {
            self.contributions[column as usize] -= value / (outside as f64 * ways);
        }
    }
}

/// n over k; no tree is deep enough for it to overflow.
fn binomial(n: usize, k: usize) -> f64 {
    (1..=k.min(n - k)).fold(1.0, |product, i| product * (n + 1 - i) as f64 / i as f64)
}

#[cfg(test)]
#[path = "reference_tests.rs"]
mod tests;
