//! What a forest or an additive model predicts.

use serde::{Deserialize, Serialize};

use crate::{LearnError, TrainingSet};

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The probability of label 1.
    #[default]
    Binary,
    /// The mean of the labels.
    Mean,
}

impl Target {
    pub(super) fn is_default(&self) -> bool {
        *self == Target::default()
    }

    pub(super) fn check_labels(self, set: &TrainingSet) -> Result<(), LearnError> {
        match self {
            Target::Binary => set.check_binary().and_then(|()| set.check_classes(0..set.rows())),
            Target::Mean => {
                set.check_labels(|label| label.abs() <= 1e15, "a number from -1e15 to 1e15").and_then(|()| set.check_some_weight())
            }
        }
    }
}
