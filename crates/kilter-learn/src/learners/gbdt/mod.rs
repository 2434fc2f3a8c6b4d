//! Gradient-boosted decision trees: histogram-based, leaf-wise, for a yes or no, a mean, a quantile, a count or an amount.
//!
//! The method is that of XGBoost (Chen and Guestrin 2016) and LightGBM (Ke et al. 2017); sums are exact whole numbers, so the model's bytes
//! do not depend on the number of threads. Missing values (NaN) learn a side at every split. Where a split's training rows had no missing
//! value, a missing value later goes to the side with more training rows. Infinite values are ordinary extremes. Columns of categories are
//! split by sets of them, or by their mean label where they are many.
//!
//! Memory beside the training set: two bytes a value, about 30 bytes a row, and for each open leaf 2 KiB a column, 4 where leaves may have thousands of rows.
//!
//! `batches` is the way in for rows that do not fit into memory; `categories` says what trees see of a category, `binned` cuts columns into bins, `by_row` lays them by row. Each round, `gradients` rounds derivatives to
//! words, of which `sampling` takes some rows', `grow` or `levels` makes a tree: `summing` makes `histogram`s of its nodes, `split` finds the best cut among their `thresholds` and the best set
//! (`category_split`), `partition` parts the rows, `order` keeps declared directions. `boost` makes many trees, `multiclass` some for each class. `course` says what else a fit may be given:
//! `resume` goes on from an earlier model, `ranking` ranks within queries; `refit` learns leaf values anew. `scoring` scores, `shap` explains, `interactions`
//! explains pairs of columns. `simd` runs loops on the widest vectors there are.

mod batches;
pub(super) mod binned;
mod boost;
mod by_row;
mod categories;
mod category_split;
mod certificate;
mod course;
mod gradients;
mod groups;
mod grow;
mod histogram;
mod interactions;
mod levels;
mod model;
mod multiclass;
mod objective;
mod order;
mod partition;
mod ranking;
mod refit;
mod resume;
mod sampling;
pub(super) mod scoring;
mod shap;
mod simd;
mod split;
mod summing;
mod thresholds;
pub(super) mod tree;

use serde::{Deserialize, Serialize};

use crate::{LearnError, TrainingSet};

pub use batches::{Batches, Take, fit_batches, room};
pub(crate) use categories::Encoder;
pub use categories::category_of;
pub use certificate::Certificate;
pub use course::{Course, CustomObjective, Measured, Metric, Rows, Watched};
pub(crate) use grow::MAX_DEPTH;
pub(crate) use interactions::pairs;
pub use model::{GbdtModel, Report};
pub(crate) use model::{read, read_trees};
pub use multiclass::{fit_classes, fit_classes_by, fit_classes_with_validation};
pub use objective::Objective;
pub use ranking::Ndcg;
pub use refit::{Refit, refit, refit_by};
pub use scoring::Level;
pub(crate) use shap::{Explained, Explainer, Test};
pub(crate) use tree::{Child, Node, Tree};

pub const KIND: &str = "gbdt";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gbdt {
    /// The loss that is lowered. Left out of a file when it is log loss, so that definitions of before keep their hash.
    #[serde(skip_serializing_if = "Objective::is_default")]
    pub objective: Objective,
    /// Most trees to grow.
    pub trees: usize,
    /// How a tree grows.
    #[serde(skip_serializing_if = "Growth::is_default")]
    pub growth: Growth,
    /// Most leaves a tree may have. Of an oblivious tree they say how many levels it has: 4 with 31, 6 with 64.
    pub leaves: usize,
    /// Most splits between a tree's root and a leaf; at most 128 in any case.
    pub max_depth: Option<usize>,
    pub learning_rate: f64,
    /// Fewest training rows in a leaf.
    pub min_leaf_rows: usize,
    /// Smallest sum of hessians (weight x p x (1 - p) with log loss, weight with absolute and squared error and quantiles) in a leaf.
    pub min_child_hessian: f64,
    /// Pulls leaf values towards zero; but for medians and quantiles, which are those of the leaf's rows.
    pub lambda_l2: f64,
    /// Splits must lower the (doubled) loss by more than this.
    pub min_gain: f64,
    /// Most bins a column is cut into, 2 to 255, beside the one for missing values. Of fewer than 2 040 rows so many that eight rows lie in each, but
    /// not fewer than 64 for that.
    pub bins: usize,
    /// Share of rows each tree sees.
    pub bagging_fraction: f64,
    /// How these are chosen.
    #[serde(skip_serializing_if = "Sampling::is_default")]
    pub sampling: Sampling,
    /// Share of columns each tree sees.
    pub column_fraction: f64,
    /// Stop after this many trees without a lower validation loss, and keep the best number of trees.
    pub early_stopping: Option<usize>,
    /// Share of rows, the last ones in time order, held out of training for early stopping. Ignored without it, or with a validation set of
    /// one's own.
    pub validation_fraction: f64,
    pub seed: u64,
    /// -1, 0 or 1 for each column: the score must not rise, may do anything, must not fall as the value rises. Missing
    /// values are outside the order and free. Empty: no constraint.
    pub monotone: Vec<i8>,
    /// How far `monotone` holds leaves back.
    #[serde(skip_serializing_if = "MonotoneMethod::is_default")]
    pub monotone_method: MonotoneMethod,
    /// Groups of names of columns that may act on each other: a leaf's path holds columns of one group. Columns that no group names are one more. Empty:
    /// all may.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interactions: Vec<Vec<String>>,
    /// Weight of a positive row against a negative one, with log loss only. Other than 1 it shifts probabilities away from observed rates.
    pub scale_positive: f64,
    /// Names of the columns that hold categories: whole numbers that are names and no quantities.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub categorical: Vec<String>,
    /// Pulls what is known of a category towards what is known of all: so many rows more in its mean label, as much added to its sum of hessians where
    /// categories are sorted. A category with fewer rows in a node joins no set there.
    #[serde(skip_serializing_if = "is_ten")]
    pub cat_smooth: f64,
    /// Added to `lambda_l2` where sets of categories are compared.
    #[serde(skip_serializing_if = "is_ten")]
    pub cat_l2: f64,
    /// Most categories in the set of a split.
    #[serde(skip_serializing_if = "is::<32>")]
    pub max_cat_threshold: usize,
    /// A column of at most so many categories is split one against the rest.
    #[serde(skip_serializing_if = "is::<4>")]
    pub max_cat_to_onehot: usize,
    /// Fewest rows by which one set of categories of a node must differ from the next one tried, and that the other side must keep.
    #[serde(skip_serializing_if = "is::<100>")]
    pub min_group_rows: usize,
    /// A column of more categories is read as their mean labels instead of sets; at most 254.
    #[serde(skip_serializing_if = "is::<254>")]
    pub max_cat_groups: usize,
    /// What a label from 0 on is worth to a ranking. Empty: 2^label - 1, for labels up to 30.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub label_gain: Vec<f64>,
}

/// Which leaf is split next, and by what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Growth {
    /// The leaf that gains most, by its own best split.
    #[default]
    LeafWise,
    /// All leaves of a level, by the one split that gains most over all of them. Categories are read as their mean labels.
    Oblivious,
}

impl Growth {
    fn is_default(&self) -> bool {
        *self == Growth::default()
    }
}

/// How the rows that a tree sees are chosen, where it does not see all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// All with the same chance: bagging.
    #[default]
    Uniform,
    /// The more a row matters to the gains of splits, the greater its chance, and the less it counts when it is taken: minimal-variance sampling.
    Mvs,
    /// Those of the largest gradients, two thirds of the share, and others at random, which count more: gradient-based one-side sampling.
    Goss,
}

impl Sampling {
    fn is_default(&self) -> bool {
        *self == Sampling::default()
    }
}

/// How leaves are held to the declared directions. All methods keep them everywhere; they differ in how much better the trees could be without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MonotoneMethod {
    /// The middle between the two values of a split parts all leaves below it: the quickest, and the narrowest.
    Basic,
    /// A leaf keeps to the values of those leaves that a row could come from or go to by a change in such a column.
    #[default]
    Intermediate,
    /// So does each side of a split that is looked for.
    Advanced,
}

impl MonotoneMethod {
    fn is_default(&self) -> bool {
        *self == MonotoneMethod::default()
    }
}

fn is_ten(value: &f64) -> bool {
    *value == 10.0
}

fn is<const DEFAULT: usize>(value: &usize) -> bool {
    *value == DEFAULT
}

impl Default for Gbdt {
    fn default() -> Self {
        Gbdt {
            objective: Objective::Binary,
            trees: 300,
            growth: Growth::default(),
            leaves: 31,
            max_depth: None,
            learning_rate: 0.05,
            min_leaf_rows: 20,
            min_child_hessian: 1e-3,
            lambda_l2: 1.0,
            min_gain: 1e-6,
            bins: 255,
            bagging_fraction: 1.0,
            sampling: Sampling::default(),
            column_fraction: 1.0,
            early_stopping: Some(50),
            validation_fraction: 0.1,
            seed: 7,
            monotone: Vec::new(),
            monotone_method: MonotoneMethod::default(),
            interactions: Vec::new(),
            scale_positive: 1.0,
            categorical: Vec::new(),
            cat_smooth: 10.0,
            cat_l2: 10.0,
            max_cat_threshold: 32,
            max_cat_to_onehot: 4,
            min_group_rows: 100,
            max_cat_groups: categories::MOST_BINS,
            label_gain: Vec::new(),
        }
    }
}

/// Trains on the set. With `early_stopping`, its last rows are held out to judge when to stop.
pub fn fit(training_set: &TrainingSet, parameters: &Gbdt) -> Result<GbdtModel, LearnError> {
    fit_by(training_set, parameters, &Course::default())
}

/// How many rows are left to learn from when the last ones are held out.
fn rows_before_validation(rows: usize, parameters: &Gbdt) -> Result<usize, LearnError> {
    let fraction = parameters.validation_fraction;
    let held_out = libm::ceil(rows as f64 * fraction) as usize;
    if held_out == 0 || held_out >= rows {
        return Err(LearnError::EmptyValidation { rows, fraction });
    }
    Ok(rows - held_out)
}

fn check_same_columns(training: &TrainingSet, validation: &TrainingSet) -> Result<(), LearnError> {
    let (training, validation) = (training.matrix.names(), validation.matrix.names());
    if training == validation {
        return Ok(());
    }
    Err(LearnError::DifferentColumns { training: training.to_vec(), validation: validation.to_vec() })
}

/// Trains on one set and follows the loss on another; stops early if the parameters say so.
pub fn fit_with_validation(training: &TrainingSet, validation: &TrainingSet, parameters: &Gbdt) -> Result<GbdtModel, LearnError> {
    fit_by(training, parameters, &Course { validation: Some(validation), ..Course::default() })
}

/// Trains on the set along a course: from an earlier model, with queries, by an objective or a metric of one's own.
pub fn fit_by(training_set: &TrainingSet, parameters: &Gbdt, course: &Course<'_>) -> Result<GbdtModel, LearnError> {
    parameters.check_one_output()?;
    parameters.check(training_set.matrix.columns())?;
    for set in std::iter::once(training_set).chain(course.validation) {
        set.check()?;
        parameters.objective.check_labels(set)?;
        check_same_columns(training_set, set)?;
    }
    course.check(training_set, parameters)?;
    let (training, validation) = course.parts(training_set, parameters)?;
    let lambdas = ranking::LambdaRank::new(parameters, &training_set.labels[training.rows.clone()], training.queries);
    let ndcg = lambdas.as_ref().map(|lambdas| lambdas.metric(parameters));
    let goal = course::Goal {
        earlier: course.earlier,
        together: course.objective.or(lambdas.as_ref().map(|lambdas| lambdas as &dyn CustomObjective)),
        metric: course.metric.or(ndcg.as_ref().map(|ndcg| ndcg as &dyn Metric)),
    };
    boost::boost(training, validation, parameters, &goal)
}

impl Gbdt {
    /// Whether a model of these parameters is what earlier builds know.
    fn is_plain(&self) -> bool {
        let known = self.monotone_method.is_default() && self.growth.is_default() && self.sampling.is_default();
        known && self.categorical.is_empty() && self.interactions.is_empty() && self.objective.is_plain()
    }

    fn check_one_output(&self) -> Result<(), LearnError> {
        if self.objective != Objective::Softmax {
            return Ok(());
        }
        let must =
            "one of a single output: several classes are learned by the library and the Python package, and no project decides by them yet";
        Err(LearnError::BadParameter { name: "objective", found: "softmax".into(), must })
    }

    /// Whether a column of so many categories is read as their mean labels.
    fn has_statistics(&self, categories: usize) -> bool {
        // Of several classes there is no one mean label. The best set of categories is another for every leaf of a level.
        let wanted = categories > self.max_cat_groups || self.growth == Growth::Oblivious;
        wanted && self.objective != Objective::Softmax
    }

    fn check(&self, columns: usize) -> Result<(), LearnError> {
        let require = |holds: bool, name, found: String, must| {
            if holds { Ok(()) } else { Err(LearnError::BadParameter { name, found, must }) }
        };
        let number = |value: f64| value.to_string();
        let share = |value: f64| value > 0.0 && value <= 1.0;
        let at_least_zero = |value: f64| value.is_finite() && value >= 0.0;
        let above_zero = |value: f64| value.is_finite() && value > 0.0;
        require((1..=100_000).contains(&self.trees), "trees", self.trees.to_string(), "1 to 100000")?;
        require((2..=65_536).contains(&self.leaves), "leaves", self.leaves.to_string(), "2 to 65536")?;
        require(self.max_depth != Some(0), "max_depth", "0".into(), "at least 1, or none")?;
        require(share(self.learning_rate), "learning_rate", number(self.learning_rate), "above 0, up to 1")?;
        require(self.min_leaf_rows >= 1, "min_leaf_rows", "0".into(), "at least 1")?;
        require(at_least_zero(self.min_child_hessian), "min_child_hessian", number(self.min_child_hessian), "finite and not below 0")?;
        require(at_least_zero(self.lambda_l2), "lambda_l2", number(self.lambda_l2), "finite and not below 0")?;
        require(at_least_zero(self.min_gain), "min_gain", number(self.min_gain), "finite and not below 0")?;
        require((2..=255).contains(&self.bins), "bins", self.bins.to_string(), "2 to 255")?;
        require(share(self.bagging_fraction), "bagging_fraction", number(self.bagging_fraction), "above 0, up to 1")?;
        require(share(self.column_fraction), "column_fraction", number(self.column_fraction), "above 0, up to 1")?;
        require(self.early_stopping != Some(0), "early_stopping", "0".into(), "at least 1 round, or none")?;
        let fraction = self.validation_fraction;
        let fraction_used = self.early_stopping.is_some();
        require(!fraction_used || (fraction > 0.0 && fraction < 1.0), "validation_fraction", number(fraction), "between 0 and 1")?;
        require(above_zero(self.scale_positive), "scale_positive", number(self.scale_positive), "finite and above 0")?;
        self.objective.check()?;
        let scale_used = self.objective.is_default() || self.scale_positive == 1.0;
        require(scale_used, "scale_positive", number(self.scale_positive), "1 with an objective that has no positive rows")?;
        let usable_gains = self.label_gain.iter().all(|&gain| at_least_zero(gain)) && self.label_gain.is_sorted();
        require(usable_gains, "label_gain", format!("{:?}", self.label_gain), "finite, not below 0 and not falling")?;
        require(
            self.label_gain.is_empty() || self.objective.ranks(),
            "label_gain",
            "given".into(),
            "none with an objective that does not rank",
        )?;
        let monotone = format!("{:?}", self.monotone);
        require(self.monotone.iter().all(|direction| (-1..=1).contains(direction)), "monotone", monotone, "-1, 0 or 1 for each column")?;
        require(at_least_zero(self.cat_smooth), "cat_smooth", number(self.cat_smooth), "finite and not below 0")?;
        require(at_least_zero(self.cat_l2), "cat_l2", number(self.cat_l2), "finite and not below 0")?;
        require((1..=255).contains(&self.max_cat_threshold), "max_cat_threshold", self.max_cat_threshold.to_string(), "1 to 255")?;
        require(self.min_group_rows >= 1, "min_group_rows", "0".into(), "at least 1")?;
        require(!self.interactions.iter().any(Vec::is_empty), "interactions", "a group of nothing".into(), "groups of one column or more")?;
        let groups = self.max_cat_groups;
        require(groups <= categories::MOST_BINS, "max_cat_groups", groups.to_string(), "at most 254")?;
        match self.monotone.len() {
            0 => Ok(()),
            found if found == columns => Ok(()),
            found => Err(LearnError::LengthMismatch { what: "monotone", expected: columns, found }),
        }
    }
}

/// Reads boosted trees from what [`Model::to_bytes`](crate::Model::to_bytes) wrote of them.
pub fn open(bytes: &[u8]) -> Result<GbdtModel, LearnError> {
    let sealed = crate::format::open(bytes)?;
    match sealed.kind == KIND {
        true => read_trees(&sealed),
        false => Err(LearnError::UnknownKind { kind: sealed.kind.clone() }),
    }
}

#[cfg(test)]
mod category_model_tests;
#[cfg(test)]
mod course_tests;
#[cfg(test)]
mod objective_tests;
#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod resume_tests;
#[cfg(test)]
mod tests;
