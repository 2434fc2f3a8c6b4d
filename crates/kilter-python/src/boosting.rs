//! Boosted trees that are given more than rows and parameters, and their leaves learned anew.

use kilter_learn::gbdt::{self, Course, CustomObjective, GbdtModel, Metric};
use kilter_learn::{Gbdt, LearnError, Link, Model as Trained, Objective, TrainingSet};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::model::{Labels, Model, Rows, set};
use crate::own::Own;
use crate::{threads, value_error};

/// What a fit may be given: an earlier model, Python functions, sizes of queries.
pub struct Extras {
    pub earlier: Option<GbdtModel>,
    objective: Option<Own>,
    metric: Option<Own>,
    groups: Vec<usize>,
    validation_groups: Vec<usize>,
}

impl Extras {
    pub fn new(
        parameters: &Gbdt,
        init_model: Option<&Bound<'_, Model>>,
        objective: Option<Py<PyAny>>,
        metric: Option<Py<PyAny>>,
        groups: [Option<Vec<usize>>; 2],
    ) -> PyResult<Self> {
        // As in LightGBM: of an objective of its own a function sees margins, of a built-in one predictions.
        let link = parameters.objective.link();
        let seen_as = if matches!(parameters.objective, Objective::Custom { .. }) { Link::Identity } else { link };
        let [groups, validation_groups] = groups.map(Option::unwrap_or_default);
        Ok(Extras {
            earlier: init_model.map(|model| boosted(model.get())).transpose()?,
            objective: objective.map(|function| Own::new(function, Link::Identity)),
            metric: metric.map(|function| Own::new(function, seen_as)),
            groups,
            validation_groups,
        })
    }

    pub fn fit(&self, set: &TrainingSet, validation: Option<&TrainingSet>, parameters: &Gbdt) -> Result<Box<dyn Trained>, LearnError> {
        let course = Course {
            validation,
            earlier: self.earlier.as_ref(),
            queries: &self.groups,
            validation_queries: &self.validation_groups,
            objective: self.objective.as_ref().map(|own| own as &dyn CustomObjective),
            metric: self.metric.as_ref().map(|own| own as &dyn Metric),
        };
        Ok(Box::new(gbdt::fit_by(set, parameters, &course)?))
    }

    /// The error in Python's terms: the exception of a function as it was raised.
    pub fn error(&self, error: LearnError) -> PyErr {
        let raised = self.objective.iter().chain(&self.metric).find_map(Own::raised);
        raised.unwrap_or_else(|| value_error(error))
    }
}

/// Its trees, if it has such.
pub fn boosted(model: &Model) -> PyResult<GbdtModel> {
    let trained = model.trained();
    if trained.kind() != gbdt::KIND {
        let kind = trained.kind();
        return Err(PyValueError::new_err(format!(
            "the model is of kind {kind:?}, but only Kilter's boosted trees (\"gbdt\") can be gone on with or refitted"
        )));
    }
    gbdt::open(&trained.to_bytes()).map_err(value_error)
}

/// The model with the values of its leaves drawn towards what these rows say; the splits stay. `objective` and `groups` as in the fit.
#[pyfunction]
#[pyo3(signature = (model, rows, decay_rate, *, objective=None, groups=None, threads=None))]
pub fn refit(
    py: Python<'_>,
    model: &Bound<'_, Model>,
    rows: Rows<'_>,
    decay_rate: f64,
    objective: Option<Py<PyAny>>,
    groups: Option<Vec<usize>>,
    threads: Option<usize>,
) -> PyResult<Model> {
    let boosted = boosted(model.get())?;
    let (table, labels, weights) = rows;
    let set = set(table.arranged_for(boosted.inputs())?, &labels, weights.as_ref());
    let extras = Extras::new(boosted.parameters(), None, objective, None, [groups, None])?;
    let course = Course {
        queries: &extras.groups,
        objective: extras.objective.as_ref().map(|own| own as &dyn CustomObjective),
        ..Course::default()
    };
    let learn = || gbdt::refit_by(&boosted, &set, decay_rate, &course);
    let refitted = py.detach(|| threads::run(threads, set.rows(), learn))?.map_err(|error| extras.error(error))?;
    Ok(Model::new(py, Box::new(refitted)))
}

/// Mean NDCG of the first `at` rows of each query. `label_gain` is what labels from 0 on are worth; without it 2^label - 1.
#[pyfunction]
#[pyo3(signature = (scores, labels, groups, at, *, label_gain=None))]
pub fn ndcg(scores: Labels<'_>, labels: Labels<'_>, groups: Vec<usize>, at: usize, label_gain: Option<Vec<f64>>) -> PyResult<f64> {
    let (scores, labels) = (scores.as_array().to_vec(), labels.as_array().to_vec());
    let total = groups.iter().fold(0usize, |total, &size| total.saturating_add(size));
    if scores.len() != labels.len() || total != labels.len() {
        let (scores, labels) = (scores.len(), labels.len());
        return Err(PyValueError::new_err(format!("{scores} scores and {labels} labels for {total} rows of all queries")));
    }
    let parameters = Gbdt { label_gain: label_gain.unwrap_or_default(), ..Gbdt::default() };
    let rows = gbdt::Rows { margins: &scores, labels: &labels, weights: None, queries: &groups };
    Ok(gbdt::Ndcg::new(at, &parameters).measure(rows).map_err(value_error)?.value)
}
