//! `LinearClassifier` and `LinearRegressor`.

use super::attributes::Attributes;
use super::read::Table;
use super::{Body, Found, labels};
use crate::LearnError;
use crate::exchange::ensemble::Output;
use crate::linear::Coefficients;

pub(super) fn classifier(place: &Attributes, table: Table) -> Result<Found, LearnError> {
    let (classes, note) = labels(place, "classlabels_ints", "classlabels_strings")?;
    let (coefficients, intercepts) = (place.floats("coefficients")?, place.floats("intercepts")?);
    let width = table.columns.len();
    let row = |at: usize| coefficients.get(at * width..(at + 1) * width);
    let intercept = |at: usize| intercepts.get(at).copied().unwrap_or(0.0);
    let (first, second) = match (classes, row(0), row(1)) {
        (2, Some(first), Some(second)) if coefficients.len() == 2 * width => (first, second),
        _ => {
            let what = format!("{} coefficients for {classes} classes and {width} columns", coefficients.len());
            return Err(place.refuse(what, "models of two classes can be imported, with a line for each of them"));
        }
    };
    let mirrored = first.iter().zip(second).all(|(a, b)| *a == -*b) && intercept(0) == -intercept(1);
    // The log-odds of the second class: its line, or what that is more than the first one.
    let less = match place.text("post_transform", "NONE")?.as_str() {
        "LOGISTIC" if mirrored => false,
        "SOFTMAX" => true,
        "LOGISTIC" => return Err(place.refuse("two lines that do not mirror each other, each with a probability of its own", "")),
        other => return Err(place.refuse(format!("post_transform `{other}`"), "LOGISTIC and SOFTMAX are read")),
    };
    let both = |second: f32, first: f32| if less { f64::from(second) - f64::from(first) } else { f64::from(second) };
    let raw: Vec<f64> = second.iter().zip(first).map(|(&second, &first)| both(second, first)).collect();
    found(place, table, &raw, both(intercept(1), intercept(0)), Output::LogOdds(1.0), note)
}

pub(super) fn regressor(place: &Attributes, table: Table) -> Result<Found, LearnError> {
    if place.int("targets", 1)? != 1 {
        return Err(place.refuse("a model of several outputs", "models with one output can be imported"));
    }
    let transform = place.text("post_transform", "NONE")?;
    if transform != "NONE" {
        return Err(place.refuse(format!("post_transform `{transform}`"), "NONE is read"));
    }
    let raw: Vec<f64> = place.floats("coefficients")?.into_iter().map(f64::from).collect();
    if raw.len() != table.columns.len() {
        return Err(place.fault(format!("{} coefficients for {} columns", raw.len(), table.columns.len())));
    }
    let intercept = place.floats("intercepts")?.first().copied().unwrap_or(0.0);
    found(place, table, &raw, f64::from(intercept), Output::Value, None)
}

/// The line over the graph's inputs. What is missing is filled where the graph fills it; elsewhere it counts as the number that is scaled to 0.
fn found(
    place: &Attributes,
    table: Table,
    raw: &[f64],
    mut intercept: f64,
    output: Output,
    note: Option<String>,
) -> Result<Found, LearnError> {
    let count = 1 + table.columns.iter().map(|column| column.input).max().unwrap_or(0);
    let mut line = Coefficients { intercept: 0.0, means: vec![0.0; count], scales: vec![0.0; count], standardised: vec![0.0; count] };
    let mut unfilled = false;
    for (column, &coefficient) in table.columns.iter().zip(raw) {
        let at = column.input;
        if line.scales[at] != 0.0 {
            return Err(place.refuse(format!("input {at} is read twice"), ""));
        }
        unfilled |= column.fill.is_none();
        // A missing value counts as the mean, so the mean is what it is filled with.
        let mean = column.fill.unwrap_or(column.offset);
        let coefficient = coefficient * column.scale;
        intercept += coefficient * (mean - column.offset);
        (line.means[at], line.scales[at], line.standardised[at]) = (mean, 1.0, coefficient);
    }
    line.intercept = intercept;
    let numbers = line.means.iter().chain(&line.standardised).chain(std::iter::once(&line.intercept));
    if !numbers.into_iter().all(|number| number.is_finite()) {
        return Err(place.fault("a coefficient that is no finite number"));
    }
    let mut notes: Vec<String> = note.into_iter().collect();
    if unfilled {
        notes.push("the original has no score where an input is missing: here it counts as its mean, or as 0 without a scaler".into());
    }
    let objective = format!("{} {}", place.operator(), place.text("post_transform", "NONE")?);
    Ok(Found { body: Body::Line(line), output, objective, notes })
}
