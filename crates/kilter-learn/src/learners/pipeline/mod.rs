//! Preparation as part of a model: steps that are fitted to the training rows, and the model that learns from what they make, in one file.
//!
//! Each step makes new columns of old ones, each of exactly one, so that what a model says of a derived column is what it says of the input
//! behind it: contributions are summed by input, and stay exact. A score goes through the same steps as training did, with what they
//! learned then. All values are `f64`, with NaN for missing; categories are codes.
//!
//! The one step that looks at labels, [`Step::Target`], gives each training row the value that the rows of the other folds have for its
//! category, so that no row sees its own label.
//!
//! `columns` is what a step has become once it is fitted, `model` scores and explains.

mod columns;
mod model;

use serde::{Deserialize, Serialize};

use crate::{LearnError, Matrix, Model, TrainingSet};

use columns::{Column, Layer, Map};
pub use model::PipelineModel;
pub(crate) use model::read;

pub const KIND: &str = "pipeline";

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
            Step::Impute { .. } | Step::Scale { .. } => Ok(()),
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
            | Step::Quantiles { columns, .. } => columns,
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
                Step::Select { .. } => {}
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
