//! What a model does with its inputs, asked of any model over a set of rows: how predictions follow an input, and how much is lost without it.
//!
//! What a single decision owes to its inputs is [`Model::explain`], against rows of one's own choice [`explain_against`]; to pairs of them, [`Model::interactions`]. These here are for
//! people who judge a model, and take as long as scoring the rows many times over.

mod dependence;
mod permutation;
mod reference;

pub use dependence::{AccumulatedEffects, accumulated_effects, grid, partial_dependence};
pub use reference::explain_against;
pub(crate) use reference::{of_pairs, of_trees};

pub use permutation::{PermutationImportance, Permutations, permutation_importance};

use crate::{Matrix, Model};

/// For each row of a matrix its contributions and then its base, one row after the other.
pub(crate) fn row_by_row(model: &(impl Model + ?Sized), matrix: &Matrix) -> Vec<f64> {
    let (mut row, mut contributions) = (Vec::new(), Vec::new());
    let mut all = Vec::with_capacity(matrix.rows() * (matrix.columns() + 1));
    for r in 0..matrix.rows() {
        matrix.row(r, &mut row);
        let base = model.explain(&row, &mut contributions);
        all.extend_from_slice(&contributions);
        all.push(base);
    }
    all
}

/// The interactions of a model that has none: what each input contributes it contributes alone.
pub(crate) fn no_interactions(model: &(impl Model + ?Sized), row: &[f64]) -> Vec<f64> {
    with_own_parts(model, row, vec![0.0; row.len() * row.len()])
}

/// Fills in what each input contributes by itself: its contribution less its parts of all pairs.
pub(crate) fn with_own_parts(model: &(impl Model + ?Sized), row: &[f64], mut pairs: Vec<f64>) -> Vec<f64> {
    let mut contributions = Vec::with_capacity(row.len());
    model.explain(row, &mut contributions);
    for (input, contribution) in contributions.into_iter().enumerate() {
        let parts = &mut pairs[input * row.len()..][..row.len()];
        parts[input] = 0.0;
        parts[input] = contribution - parts.iter().sum::<f64>();
    }
    pairs
}

#[cfg(test)]
mod tests;
