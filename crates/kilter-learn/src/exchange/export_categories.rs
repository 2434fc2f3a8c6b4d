//! What Kilter's trees ask of categories, as lists of them: LightGBM's trees have no other way.
//!
//! To LightGBM a listed category goes left, and all else goes right: other categories and missing values. Where Kilter sends these to the left,
//! the sides are exchanged; where it parts them, there is no such list.

use crate::gbdt::{Encoder, GbdtModel, Node, Tree};
use crate::{LearnError, Model};

/// Beyond this a list of bits would be mostly gaps.
const LARGEST: f64 = 1_048_575.0;

/// The categories that go left, or right where the sides are exchanged.
pub(super) struct Listed {
    categories: Vec<u32>,
    pub exchanged: bool,
}

/// What a node asks as a list; `None` of a node that asks for a number.
pub(super) fn listed(model: &GbdtModel, tree: &Tree, node: &Node) -> Result<Option<Listed>, LearnError> {
    let Some(encoder) = model.encoders().of(node.column as usize) else { return Ok(None) };
    let goes_left = |seen: f64| match tree.set(node) {
        Some(set) => set.holds(seen),
        None if seen.is_nan() => node.missing_left,
        None => seen <= node.threshold,
    };
    let exchanged = goes_left(encoder.unseen());
    if goes_left(encoder.encode(f64::NAN)) != exchanged {
        return refuse(
            model,
            encoder,
            "missing values one way and unseen categories another".into(),
            "give missing values a category of their own",
        );
    }
    let chosen = || encoder.categories().iter().filter(|&&(_, seen)| goes_left(seen) != exchanged).map(|&(category, _)| category);
    if let Some(odd) = chosen().find(|category| !(0.0..=LARGEST).contains(category)) {
        return refuse(model, encoder, format!("the category {odd}"), "number categories from 0, up to 1048575");
    }
    Ok(Some(Listed { categories: chosen().map(|category| category as u32).collect(), exchanged }))
}

fn refuse<T>(model: &GbdtModel, encoder: &Encoder, what: String, hint: &'static str) -> Result<T, LearnError> {
    let what = format!("it has no way to send {what}, as the model does by {:?}", model.inputs()[encoder.input]);
    Err(LearnError::Foreign { format: "LightGBM", at: String::new(), what, hint })
}

impl Listed {
    /// A bit for each category, in words of 32.
    pub fn words(&self) -> Vec<u32> {
        let mut words = vec![0; self.categories.last().map_or(1, |&last| last as usize / 32 + 1)];
        self.categories.iter().for_each(|&category| words[category as usize / 32] |= 1 << (category % 32));
        words
    }
}
