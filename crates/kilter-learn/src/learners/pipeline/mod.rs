//! Preparation as part of a model: steps that are fitted to the training rows, and the model that learns from what they make, in one file.
//!
//! Each step makes new columns of old ones, each of exactly one, so that what a model says of a derived column is what it says of the input
//! behind it: contributions are summed by input, and stay exact. Only principal components are made of several: what is said of one is shared out among its
//! columns by how far each moves it in the row. A score goes through the same steps as training did, with what they
//! learned then. All values are `f64`, with NaN for missing; categories are codes.
//!
//! The one step that looks at labels, [`Step::Target`], gives each training row the value that the rows of the other folds have for its
//! category, so that no row sees its own label.
//!
//! `columns` is what a step has become once it is fitted, `power` and `components` find exponents and directions, `model` scores and explains.

mod columns;
mod components;
mod model;
mod power;

use serde::{Deserialize, Serialize};

use crate::text::Hashing;
use crate::{LearnError, Matrix, Model, TrainingSet};

use columns::{Column, Layer, Map};
pub use model::PipelineModel;
pub(crate) use model::read;

pub const KIND: &str = "pipeline";

/// Columns among which principal components are looked for.
const MOST_COMPONENTS: usize = 500;

/// One step. `columns` names those it works on, without which it works on all; the others are handed on as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// Hands on these columns, in this order, and no others.
    Select { columns: Vec<String> },
    /// Puts a number where a value is missing or infinite. With `indicator`, a column `NAME:missing` of 0 and 1 stands at the end for each.
    Impute {
        #[serde(default)]
        columns: Vec<String>,
        #[serde(default)]
        fill: Fill,
        #[serde(default)]
        indicator: bool,
    },
    /// Takes off the middle and divides by the spread. A column without spread is only shifted.
    Scale {
        #[serde(default)]
        columns: Vec<String>,
        #[serde(default)]
        by: Scaling,
    },
    /// A column `NAME=CODE` of 0 and 1 for each of the most frequent codes, in place of the column. All others, and missing values, have none.
    OneHot { columns: Vec<String>, most: usize },
    /// The mean label of the rows of the same code, pulled towards the mean of all as `smoothing` rows of that mean would. A missing value is
    /// a code too; one that training had not gets the mean of all.
    Target { columns: Vec<String>, smoothing: f64, folds: usize },
    /// The number of the bin of equal frequency, from 0.
    Quantiles {
        #[serde(default)]
        columns: Vec<String>,
        bins: usize,
    },
    /// The number of the bin of equal width between the least and the greatest value, from 0.
    Widths {
        #[serde(default)]
        columns: Vec<String>,
        bins: usize,
    },
    /// A column `NAME:missing` at the end for each, 1 where the value is missing or infinite, else 0.
    Missing {
        #[serde(default)]
        columns: Vec<String>,
    },
    /// The place of the code among those of training in ascending order, from 0; -1 for missing values and for codes that training had not.
    Ordinal { columns: Vec<String> },
    /// The share of the rows that have the code, missing values too; 0 for codes that training had not.
    Frequency { columns: Vec<String> },
    /// `buckets` columns `NAME#BUCKET` in place of the column: 1 or -1 in the bucket that the code's hash falls into, else 0; all 0 where it is missing. For
    /// codes without number, unseen ones too; see [`Hashing`].
    Hash {
        columns: Vec<String>,
        buckets: u32,
        #[serde(default)]
        seed: u64,
    },
    /// Yeo and Johnson's power transform, by the exponent that makes the column likeliest to be normal.
    Power {
        #[serde(default)]
        columns: Vec<String>,
    },
    /// The directions of most variance, in place of the columns: `FIRST:pca1`, `FIRST:pca2` and so on at the end. A missing or infinite value counts as the
    /// mean.
    Pca {
        #[serde(default)]
        columns: Vec<String>,
        components: usize,
        /// Divide columns by their standard deviations first.
        #[serde(default = "yes")]
        standardise: bool,
    },
}

fn yes() -> bool {
    true
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fill {
    Mean,
    #[default]
    Median,
    Constant(f64),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// Mean and standard deviation.
    #[default]
    Standard,
    /// Median and the distance between the quartiles.
    Robust,
}

/// Fits the steps, one on what the one before makes of the rows, and then a model on what the last one makes.
pub fn fit(
    training_set: &TrainingSet,
    steps: &[Step],
    learn: impl FnOnce(&TrainingSet) -> Result<Box<dyn Model>, LearnError>,
) -> Result<PipelineModel, LearnError> {
    training_set.check()?;
    let mut set = training_set.clone();
    let mut layers = Vec::new();
    for step in steps {
        let (layer, matrix) = step.fit(&set)?;
        set.matrix = matrix;
        layers.push(layer);
    }
    let model = learn(&set)?;
    if model.kind() == KIND || model.kind() == crate::calibration::KIND {
        let must = "neither a pipeline, whose steps can be added to these, nor calibrated: calibrate the pipeline";
        return Err(LearnError::BadParameter { name: "learner", found: model.kind().into(), must });
    }
    Ok(PipelineModel::new(training_set.matrix.names().to_vec(), steps.to_vec(), layers, model))
}

impl Step {
    fn check(&self) -> Result<(), LearnError> {
        let require = |holds: bool, name, found: String, must| {
            if holds { Ok(()) } else { Err(LearnError::BadParameter { name, found, must }) }
        };
        match self {
            Step::Select { columns } => require(!columns.is_empty(), "select.columns", "empty".into(), "one name at least"),
            Step::Impute { fill: Fill::Constant(value), .. } => {
                require(value.is_finite(), "impute.fill", value.to_string(), "a finite number")
            }
            Step::Impute { .. } | Step::Scale { .. } | Step::Missing { .. } | Step::Ordinal { .. } | Step::Frequency { .. } => Ok(()),
            Step::Power { .. } => Ok(()),
            Step::Hash { buckets, .. } => require((1..=1 << 16).contains(buckets), "hash.buckets", buckets.to_string(), "1 to 65536"),
            Step::Pca { components, .. } => {
                require((1..=MOST_COMPONENTS).contains(components), "pca.components", components.to_string(), "1 to 500")
            }
            Step::Widths { bins, .. } => require((2..=1000).contains(bins), "widths.bins", bins.to_string(), "2 to 1000"),
            Step::OneHot { most, .. } => require((1..=1000).contains(most), "one_hot.most", most.to_string(), "1 to 1000"),
            Step::Target { smoothing, folds, .. } => {
                let sound = smoothing.is_finite() && *smoothing >= 0.0;
                require(sound, "target.smoothing", smoothing.to_string(), "finite and not below 0")?;
                require((2..=100).contains(folds), "target.folds", folds.to_string(), "2 to 100")
            }
            Step::Quantiles { bins, .. } => require((2..=1000).contains(bins), "quantiles.bins", bins.to_string(), "2 to 1000"),
        }
    }

    fn columns(&self) -> &[String] {
        match self {
            Step::Select { columns }
            | Step::Impute { columns, .. }
            | Step::Scale { columns, .. }
            | Step::OneHot { columns, .. }
            | Step::Target { columns, .. }
            | Step::Quantiles { columns, .. }
            | Step::Widths { columns, .. }
            | Step::Missing { columns }
            | Step::Ordinal { columns }
            | Step::Frequency { columns }
            | Step::Hash { columns, .. }
            | Step::Power { columns }
            | Step::Pca { columns, .. } => columns,
        }
    }

    /// The fitted step, and what it makes of the training rows.
    fn fit(&self, set: &TrainingSet) -> Result<(Layer, Matrix), LearnError> {
        self.check()?;
        let names = set.matrix.names();
        let position = |name: &String| {
            let unknown = || LearnError::UnknownColumn { parameter: "columns of a step", name: name.clone() };
            names.iter().position(|other| other == name).ok_or_else(unknown)
        };
        let chosen = self.columns().iter().map(position).collect::<Result<Vec<usize>, _>>()?;
        let chosen = if self.columns().is_empty() { (0..names.len()).collect() } else { chosen };
        let keep = |at: usize| Column { from: at, name: names[at].clone(), map: Map::Keep };
        if let Step::Select { .. } = self {
            return Layer::new(chosen.into_iter().map(keep).collect()).applied(&set.matrix);
        }
        if let Step::Pca { components, standardise, .. } = self {
            let found = chosen.len();
            if *components > found || found > MOST_COMPONENTS {
                let (name, found) = ("pca.components", format!("{components} of {found} columns"));
                return Err(LearnError::BadParameter { name, found, must: "not above the number of columns, of which there may be 500" });
            }
            set.check_some_weight()?;
            let mut columns: Vec<Column> = (0..names.len()).filter(|at| !chosen.contains(at)).map(keep).collect();
            let mixes = components::principal(set, &chosen, *components, *standardise);
            let name = |place: usize| format!("{}:pca{}", names[chosen[0]], place + 1);
            columns.extend(mixes.into_iter().enumerate().map(|(place, mix)| Column {
                from: chosen[0],
                name: name(place),
                map: Map::Mix(mix),
            }));
            return Layer::new(columns).applied(&set.matrix);
        }
        // In the column's place stands what is made of it; indicators come last.
        let (mut columns, mut indicators) = (Vec::new(), Vec::new());
        let mut out_of_fold = Vec::new();
        for (at, name) in names.iter().enumerate() {
            if !chosen.contains(&at) {
                columns.push(keep(at));
                continue;
            }
            let column = |map: Map| Column { from: at, name: name.clone(), map };
            match self {
                Step::Select { .. } | Step::Pca { .. } => {}
                Step::Missing { .. } => {
                    columns.push(keep(at));
                    indicators.push(Column { name: format!("{name}:missing"), ..column(Map::Missing) });
                }
                Step::Ordinal { .. } => columns.push(column(Map::codes(set, at, false))),
                Step::Frequency { .. } => columns.push(column(Map::codes(set, at, true))),
                Step::Hash { buckets, seed, .. } => {
                    let hashing = Hashing { seed: *seed, buckets: *buckets };
                    let bucket = |bucket| Column { name: format!("{name}#{bucket}"), ..column(Map::Bucket { hashing, bucket }) };
                    columns.extend((0..*buckets).map(bucket));
                }
                Step::Power { .. } => columns.push(column(Map::power(set, at))),
                Step::Impute { fill, indicator, .. } => {
                    columns.push(column(Map::fill(set, at, *fill)));
                    if *indicator {
                        indicators.push(Column { name: format!("{name}:missing"), ..column(Map::Missing) });
                    }
                }
                Step::Scale { by, .. } => columns.push(column(Map::scale(set, at, *by))),
                Step::OneHot { most, .. } => {
                    let codes = columns::most_frequent(set, at, *most).into_iter();
                    columns.extend(codes.map(|code| Column { name: format!("{name}={code}"), ..column(Map::Is(code)) }));
                }
                Step::Target { smoothing, folds, .. } => {
                    out_of_fold.push((columns.len(), columns::out_of_fold(set, at, *smoothing, *folds)));
                    columns.push(column(Map::target(set, at, *smoothing, |_| true)));
                }
                Step::Quantiles { bins, .. } => columns.push(column(Map::quantiles(set, at, *bins))),
                Step::Widths { bins, .. } => columns.push(column(Map::widths(set, at, *bins))),
            }
        }
        columns.append(&mut indicators);
        let (layer, matrix) = Layer::new(columns).applied(&set.matrix)?;
        if out_of_fold.is_empty() {
            return Ok((layer, matrix));
        }
        let mut values: Vec<Vec<f64>> = (0..matrix.columns()).map(|column| matrix.column(column).to_vec()).collect();
        out_of_fold.into_iter().for_each(|(column, own)| values[column] = own);
        Ok((layer, Matrix::from_columns(matrix.names().to_vec(), values)))
    }
}

#[cfg(test)]
mod tests;
