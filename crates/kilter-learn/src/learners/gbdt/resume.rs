//! Going on from an earlier model: its trees are kept, its margins are where the next tree starts from.
//!
//! What trees see of categories stays what the earlier model knows; columns of numbers are cut anew. Rounds are counted on from the earlier trees, so that
//! k trees and then m more, on the same rows by the same parameters, are the k + m trees of one fit to the bit, as long as each round grew a tree and no
//! column of categories is read as mean labels (a margin to start from knows a row's own label there, a training's does not).

use rayon::prelude::*;

use super::certificate::certify;
use super::course::Part;
use super::gradients::BLOCK;
use super::{Gbdt, GbdtModel};
use crate::{LearnError, Model, TrainingSet};

/// Whether trees fitted by these parameters can follow those of the earlier model.
pub(super) fn check(earlier: &GbdtModel, set: &TrainingSet, parameters: &Gbdt) -> Result<(), LearnError> {
    let bad = |name, found: String, must| Err(LearnError::BadParameter { name, found, must });
    check_inputs(earlier, set)?;
    let (was, is) = (earlier.parameters().objective, parameters.objective);
    if was.link() != is.link() {
        return bad("objective", format!("{is:?} after {was:?}"), "one whose margins mean the same as those of the earlier model");
    }
    let names = set.matrix.names();
    let own = earlier.categorical_inputs();
    let declared = |input: usize| parameters.categorical.contains(&names[input]);
    if (0..names.len()).any(|input| declared(input) != own.contains(&input)) {
        let found = format!("{:?}", parameters.categorical);
        return bad("categorical", found, "the columns that are categories to the earlier model");
    }
    if parameters.monotone.len() == names.len()
        && let Err(LearnError::NotMonotone { column, tree }) = certify(earlier.parts().1, &parameters.monotone, names)
    {
        let found = format!("not 0 for {column:?}, whose direction tree {tree} of the earlier model breaks");
        return bad("monotone", found, "a direction that the earlier trees keep");
    }
    Ok(())
}

/// Names and order of the columns are those of the model.
pub(super) fn check_inputs(model: &GbdtModel, set: &TrainingSet) -> Result<(), LearnError> {
    let (inputs, found) = (model.inputs(), set.matrix.names());
    if inputs == found { Ok(()) } else { Err(LearnError::DifferentInputs { model: inputs.to_vec(), found: found.to_vec() }) }
}

/// The model's margins of some rows, where scores start from.
pub(super) fn margins(model: &GbdtModel, part: &Part<'_>) -> Vec<f64> {
    let mut scores = vec![0.0; part.rows.len()];
    let blocks = scores.par_chunks_mut(BLOCK).enumerate();
    blocks.for_each(|(block, scores)| {
        let first = part.rows.start + block * BLOCK;
        scores.copy_from_slice(&model.margins_of(&part.set.matrix, first..first + scores.len()));
    });
    scores
}
