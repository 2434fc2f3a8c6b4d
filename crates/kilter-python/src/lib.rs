//! The Python package's native part: data in, a trained or loaded model, scores out. What people see of it lies in `python/kilter`.
//!
//! No OpenMP and no global thread pool: threads are started at the first use, and anew in a forked child (`threads`). Nothing holds the GIL
//! while it learns or scores more than one row.

mod batches;
mod boosting;
mod classes;
mod explain;
mod frame;
mod model;
mod online;
mod own;
mod shuffle;
mod table;
mod texts;
mod threads;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// What is wrong with data, parameters or a model file is a `ValueError`, in Kilter's words.
fn value_error(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

#[pymodule(name = "_native", gil_used = false)]
mod native {
    #[pymodule_export]
    use super::batches::fit_batches;
    #[pymodule_export]
    use super::boosting::{ndcg, refit};
    #[pymodule_export]
    use super::classes::{ClassModel, calibrated_classes, fit_classes};
    #[pymodule_export]
    use super::model::{Model, calibrated, fit};
    #[pymodule_export]
    use super::online::OnlineModel;
    #[pymodule_export]
    use super::shuffle::{StatePlan, TrainingPlan};
    #[pymodule_export]
    use super::texts::hash_texts;

    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
