//! What people ask of a whole model: interactions, dependence on an input, importance. The names and shapes are those of `Model`'s methods.

use kilter_learn::explain::{
    AccumulatedEffects, PermutationImportance, Permutations, accumulated_effects, grid, partial_dependence, permutation_importance,
};
use kilter_learn::{Link, Matrix, Model, metrics};
use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;

/// An input by its name or its position.
#[derive(FromPyObject)]
pub enum Input {
    Name(String),
    Position(usize),
}

impl Input {
    fn position(&self, inputs: &[String]) -> PyResult<usize> {
        let found = match self {
            Input::Name(name) => inputs.iter().position(|input| input == name),
            Input::Position(position) => Some(*position).filter(|&position| position < inputs.len()),
        };
        let told = || match self {
            Input::Name(name) => format!("{name:?}"),
            Input::Position(position) => format!("number {position}"),
        };
        found.ok_or_else(|| PyKeyError::new_err(format!("the model has no input {}; its inputs are {}", told(), inputs.join(", "))))
    }
}

pub fn positions(inputs: &[Input], model: &dyn Model) -> PyResult<Vec<usize>> {
    inputs.iter().map(|input| input.position(model.inputs())).collect()
}

/// What is looked at of a row: its margin, or its prediction.
#[derive(Clone, Copy, PartialEq)]
pub enum Scale {
    Margin,
    Prediction,
}

impl Scale {
    pub fn parse(text: &str) -> PyResult<Self> {
        match text {
            "margin" => Ok(Scale::Margin),
            "prediction" => Ok(Scale::Prediction),
            other => Err(PyValueError::new_err(format!("on is {other:?}; \"prediction\" or \"margin\""))),
        }
    }

    fn of_rows(self, model: &dyn Model, matrix: &Matrix) -> Vec<f64> {
        let margins = model.margins(matrix);
        match self {
            Scale::Margin => margins,
            Scale::Prediction => margins.into_iter().map(|margin| prediction(model, margin)).collect(),
        }
    }
}

/// What the model predicts of a row with this margin.
pub fn prediction(model: &dyn Model, margin: f64) -> f64 {
    match model.link() {
        Link::Logit => model.probability_of(margin),
        link => link.inverse(margin),
    }
}

/// Places of each input, and the mean at each of their combinations, the last input's fastest.
pub fn dependence(model: &dyn Model, matrix: &Matrix, inputs: &[usize], most: usize, on: Scale) -> (Vec<Vec<f64>>, Vec<f64>) {
    let grids: Vec<Vec<f64>> = inputs.iter().map(|&input| grid(matrix, input, most)).collect();
    let mut points = vec![Vec::new()];
    for grid in &grids {
        points = points.iter().flat_map(|point| grid.iter().map(move |&value| [&point[..], &[value]].concat())).collect();
    }
    let means = partial_dependence(matrix, inputs, &points, |matrix| on.of_rows(model, matrix));
    (grids, means)
}

pub fn effects(model: &dyn Model, matrix: &Matrix, input: usize, steps: usize, on: Scale) -> AccumulatedEffects {
    accumulated_effects(matrix, input, steps, |matrix| on.of_rows(model, matrix))
}

/// Of predictions and labels.
pub type Loss = fn(&[f64], &[f64]) -> f64;

/// A loss by its name; without one, what the model's kind is usually judged by.
pub fn loss(name: Option<&str>, model: &dyn Model) -> PyResult<Loss> {
    const LOSSES: [(&str, bool, Loss); 5] = [
        ("log_loss", true, metrics::log_loss),
        ("brier", true, metrics::brier),
        ("auc", true, |predictions, labels| 1.0 - metrics::auc(predictions, labels)),
        ("squared_error", false, |predictions, labels| mean(predictions, labels, |error| error * error)),
        ("absolute_error", false, |predictions, labels| mean(predictions, labels, f64::abs)),
    ];
    let classifies = model.link() == Link::Logit;
    let name = name.unwrap_or(if classifies { "log_loss" } else { "squared_error" });
    match LOSSES.iter().find(|(known, of_classifier, _)| *known == name && (classifies || !of_classifier)) {
        Some((.., loss)) => Ok(*loss),
        None => {
            let known: Vec<&str> =
                LOSSES.iter().filter(|(_, of_classifier, _)| classifies || !of_classifier).map(|(name, ..)| *name).collect();
            Err(PyValueError::new_err(format!("loss is {name:?}; for this model it may be {}", known.join(", "))))
        }
    }
}

fn mean(predictions: &[f64], labels: &[f64], of: impl Fn(f64) -> f64) -> f64 {
    predictions.iter().zip(labels).map(|(prediction, label)| of(prediction - label)).sum::<f64>() / labels.len() as f64
}

pub fn importance(
    model: &dyn Model,
    matrix: &Matrix,
    labels: &[f64],
    groups: &[Vec<usize>],
    settings: &Permutations,
    loss: Loss,
) -> Vec<PermutationImportance> {
    permutation_importance(matrix, groups, settings, |matrix| loss(&Scale::Prediction.of_rows(model, matrix), labels))
}
