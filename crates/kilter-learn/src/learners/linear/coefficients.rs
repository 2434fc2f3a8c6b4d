//! A linear predictor over standardised columns: what a logistic and a linear model have in common once they are fitted.

use serde::Serialize;

use crate::LearnError;
use crate::format::{Sealed, Writer};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Coefficients {
    /// The margin of a row of training means.
    pub intercept: f64,
    pub means: Vec<f64>,
    /// Standard deviations; 0 for a column without variation.
    pub scales: Vec<f64>,
    /// Coefficients of the standardised columns.
    pub standardised: Vec<f64>,
}

impl Coefficients {
    /// For raw values: what the margin gains for each unit of the input.
    pub fn raw(&self) -> Vec<f64> {
        self.standardised.iter().zip(&self.scales).map(|(beta, &scale)| if scale > 0.0 { beta / scale } else { 0.0 }).collect()
    }

    fn contribution(&self, column: usize, value: f64) -> f64 {
        self.standardised[column] * standardised(value, self.means[column], self.scales[column])
    }

    pub fn margin(&self, row: &[f64]) -> f64 {
        assert_eq!(row.len(), self.means.len(), "a row must have one value an input");
        row.iter().enumerate().fold(self.intercept, |margin, (column, &value)| margin + self.contribution(column, value))
    }

    /// The base is the margin of a row of training means; a contribution is the coefficient times the distance from the mean.
    pub fn explain(&self, row: &[f64], contributions: &mut Vec<f64>) -> f64 {
        assert_eq!(row.len(), self.means.len(), "a row must have one value an input");
        contributions.clear();
        contributions.extend(row.iter().enumerate().map(|(column, &value)| self.contribution(column, value)));
        self.intercept
    }

    /// What one standard deviation of each input moves.
    pub fn importance(&self) -> Vec<f64> {
        self.standardised.iter().map(|beta| beta.abs()).collect()
    }

    pub fn body(&self) -> Writer {
        let mut body = Writer::default();
        body.f64(self.intercept);
        body.f64s(&self.means);
        body.f64s(&self.scales);
        body.f64s(&self.standardised);
        body
    }

    pub fn read(sealed: &Sealed<'_>, inputs: usize) -> Result<Coefficients, LearnError> {
        let mut body = sealed.body();
        let intercept = body.f64()?;
        let (means, scales, standardised) = (body.f64s(inputs)?, body.f64s(inputs)?, body.f64s(inputs)?);
        body.end()?;
        if !std::iter::once(&intercept).chain(&means).chain(&scales).chain(&standardised).all(|value| value.is_finite()) {
            return Err(LearnError::corrupt("a coefficient is not a finite number"));
        }
        Ok(Coefficients { intercept, means, scales, standardised })
    }
}

/// A missing or infinite value counts as the mean.
pub(super) fn standardised(value: f64, mean: f64, scale: f64) -> f64 {
    if scale > 0.0 && value.is_finite() { (value - mean) / scale } else { 0.0 }
}
