//! Objectives and metrics that are Python functions. They are called once a tree, by whichever thread learns, which holds the GIL for so long only.

use std::sync::{Mutex, PoisonError};

use kilter_learn::gbdt::{CustomObjective, Measured, Metric, Rows};
use kilter_learn::{LearnError, Link};
use numpy::{PyArray1, PyReadonlyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// A function of labels, what is predicted, weights and sizes of queries (`None` where there are none).
pub struct Own {
    function: Py<PyAny>,
    /// Margins are made what this link makes of them before the function sees them.
    seen_as: Link,
    raised: Mutex<Option<PyErr>>,
}

impl Own {
    pub fn new(function: Py<PyAny>, seen_as: Link) -> Self {
        Own { function, seen_as, raised: Mutex::default() }
    }

    /// The exception that ended the training, if it was the function's.
    pub fn raised(&self) -> Option<PyErr> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn call<T>(&self, rows: Rows<'_>, then: impl FnOnce(Bound<'_, PyAny>) -> PyResult<T>) -> Result<T, LearnError> {
        Python::attach(|py| {
            let seen = PyArray1::from_iter(py, rows.margins.iter().map(|&margin| self.seen_as.inverse(margin)));
            let weights = rows.weights.map(|weights| PyArray1::from_slice(py, weights));
            let queries = Some(rows.queries).filter(|queries| !queries.is_empty());
            let queries = queries.map(|queries| PyArray1::from_iter(py, queries.iter().map(|&size| size as i64)));
            let labels = PyArray1::from_slice(py, rows.labels);
            self.function.bind(py).call1((labels, seen, weights, queries)).and_then(then)
        })
        .map_err(|error| {
            let what = error.to_string();
            *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            LearnError::Failed { what }
        })
    }
}

impl CustomObjective for Own {
    fn derivatives(&self, rows: Rows<'_>, out: &mut [[f64; 2]]) -> Result<(), LearnError> {
        self.call(rows, |told| {
            let (gradients, hessians): (PyReadonlyArray1<'_, f64>, PyReadonlyArray1<'_, f64>) = told.extract()?;
            let (gradients, hessians) = (gradients.as_array(), hessians.as_array());
            if gradients.len() != out.len() || hessians.len() != out.len() {
                let (g, h, rows) = (gradients.len(), hessians.len(), out.len());
                return Err(PyValueError::new_err(format!("the objective gives {g} gradients and {h} hessians for {rows} rows")));
            }
            out.iter_mut().zip(gradients.iter().zip(hessians)).for_each(|(out, (&gradient, &hessian))| *out = [gradient, hessian]);
            Ok(())
        })
    }
}

impl Metric for Own {
    fn measure(&self, rows: Rows<'_>) -> Result<Measured, LearnError> {
        self.call(rows, |told| {
            let (name, value, higher_is_better) = told.extract()?;
            Ok(Measured { name, value, higher_is_better })
        })
    }
}
