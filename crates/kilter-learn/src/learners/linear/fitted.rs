//! A fitted regression line as a [`Model`]: all that a logistic and a linear regression have in common once they are fitted.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Coefficients;
use crate::format::{Header, Sealed, seal};
use crate::{LearnError, Link, Matrix, Model, explain};

/// A regression by its parameters: under which name its models are stored, and what their margin stands for.
pub trait Regression: Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static {
    const KIND: &'static str;
    const LINK: Link;
    type Report: Training + Clone + Debug + PartialEq + Serialize + DeserializeOwned + Send + Sync;
}

/// How training went.
pub trait Training {
    fn converged(&self) -> bool;
}

/// A fitted regression.
#[derive(Clone, Debug, PartialEq)]
pub struct Line<R: Regression> {
    pub(in crate::learners) inputs: Vec<String>,
    pub(in crate::learners) parameters: R,
    pub(in crate::learners) report: R::Report,
    pub(crate) line: Coefficients,
}

impl<R: Regression> Line<R> {
    /// Whether the coefficients settled within the allowed iterations.
    pub fn converged(&self) -> bool {
        self.report.converged()
    }

    /// Coefficients for raw values: what the margin gains for each unit of the input.
    pub fn coefficients(&self) -> Vec<f64> {
        self.line.raw()
    }

    /// The margin of a row of zeros.
    pub fn intercept(&self) -> f64 {
        self.line.margin(&vec![0.0; self.inputs.len()])
    }
}

impl<R: Regression> Model for Line<R> {
    fn kind(&self) -> &'static str {
        R::KIND
    }

    fn inputs(&self) -> &[String] {
        &self.inputs
    }

    fn link(&self) -> Link {
        R::LINK
    }

    fn margin(&self, row: &[f64]) -> f64 {
        self.line.margin(row)
    }

    /// The base is the margin of a row of training means; a contribution is the coefficient times the distance from the mean.
    fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        self.line.explain(row, contributions)
    }

    fn explain_against(&self, row: &[f64], reference: &Matrix, contributions: &mut Vec<f64>) -> Option<f64> {
        Some(explain::of_pairs(self, row, reference, contributions))
    }

    fn interactions(&self, row: &[f64]) -> Option<Vec<f64>> {
        Some(explain::no_interactions(self, row))
    }

    fn to_bytes(&self) -> Vec<u8> {
        let header =
            Header { kind: R::KIND.into(), inputs: self.inputs.clone(), parameters: self.parameters.clone(), report: self.report.clone() };
        seal(&header, self.line.body())
    }

    /// Size of the standardised coefficient: what one standard deviation of the input moves the margin.
    fn importance(&self) -> Vec<f64> {
        self.line.importance()
    }

    fn describe(&self) -> serde_json::Value {
        serde_json::json!({
            "kind": R::KIND,
            "inputs": self.inputs,
            "parameters": self.parameters,
            "report": self.report,
            "intercept": self.intercept(),
            "intercept_at_means": self.line.intercept,
            "coefficients": self.coefficients(),
        })
    }
}

pub(crate) fn read<R: Regression>(sealed: &Sealed<'_>) -> Result<Box<dyn Model>, LearnError> {
    Ok(Box::new(read_line::<R>(sealed)?))
}

pub(crate) fn read_line<R: Regression>(sealed: &Sealed<'_>) -> Result<Line<R>, LearnError> {
    let Header { inputs, parameters, report, .. } = sealed.header::<R, R::Report>()?;
    let line = Coefficients::read(sealed, inputs.len())?;
    Ok(Line { inputs, parameters, report, line })
}
