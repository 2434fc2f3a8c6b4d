//! A model as Python sees it, and learning one.

use std::path::PathBuf;
use std::sync::Arc;

use kilter_learn::{Calibration, Gbdt, LearnError, Learner, Link, Matrix, Model as Trained, TrainingSet, calibrate, exchange, gbdt, load};
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::{PyKeyError, PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple, PyType};
use rayon::prelude::*;

use crate::table::Table;
use crate::{threads, value_error};

/// Rows that one task scores.
const PIECE: usize = 1_024;

/// A trained model: immutable, safe to share between threads, the same bits for one row and for many.
#[pyclass(frozen, module = "kilter")]
pub struct Model {
    trained: Arc<dyn Trained>,
    /// The inputs as Python texts, for rows that come as dictionaries.
    names: Vec<Py<PyString>>,
}

pub(crate) type Labels<'py> = PyReadonlyArray1<'py, f64>;
/// A prediction, and names of inputs with their contributions.
type Explained = (f64, Vec<(Py<PyString>, f64)>);
pub(crate) type Rows<'py> = (Table, Labels<'py>, Option<Labels<'py>>);

/// Learns from a table, its labels and optional weights. `learner` is JSON, such as `{"kind": "gbdt", "trees": 200}`.
#[pyfunction]
#[pyo3(signature = (learner, rows, *, names=None, validation=None, threads=None))]
pub fn fit(
    py: Python<'_>,
    learner: &str,
    rows: Rows<'_>,
    names: Option<Vec<String>>,
    validation: Option<Rows<'_>>,
    threads: Option<usize>,
) -> PyResult<Model> {
    let learner: Learner = serde_json::from_str(learner).map_err(value_error)?;
    let training = training_set(rows, names)?;
    let validation = validation.map(|rows| training_set(rows, Some(training.matrix.names().to_vec()))).transpose()?;
    let rows = training.rows();
    let learn = || match (&learner, &validation) {
        (Learner::Gbdt(parameters), Some(validation)) => boosted(&training, validation, parameters),
        _ => learner.fit(&training),
    };
    let trained = py.detach(|| threads::run(threads, rows, learn))?.map_err(value_error)?;
    Ok(Model::new(py, trained))
}

/// The model with a calibration fitted to rows it has not learned from; `None` where they are too few for it. `calibration` is JSON, such as
/// `{"method": "platt"}`.
#[pyfunction]
#[pyo3(name = "calibrate", signature = (model, calibration, rows, *, may_be_few=false))]
pub fn calibrated(py: Python<'_>, model: &Model, calibration: &str, rows: Rows<'_>, may_be_few: bool) -> PyResult<Option<Model>> {
    let calibration: Calibration = serde_json::from_str(calibration).map_err(value_error)?;
    let (table, labels, weights) = rows;
    let matrix = table.arranged_for(model.trained.inputs())?;
    let rows = set(matrix, &labels, weights.as_ref());
    let own = load(&model.trained.to_bytes()).map_err(value_error)?;
    match py.detach(|| calibrate(own, &rows, &calibration)) {
        Ok(trained) => Ok(Some(Model::new(py, Box::new(trained)))),
        Err(LearnError::TooFewToCalibrate { .. } | LearnError::NoRows | LearnError::OneClass { .. }) if may_be_few => Ok(None),
        Err(error) => Err(value_error(error)),
    }
}

fn boosted(training: &TrainingSet, validation: &TrainingSet, parameters: &Gbdt) -> Result<Box<dyn Trained>, kilter_learn::LearnError> {
    Ok(Box::new(gbdt::fit_with_validation(training, validation, parameters)?))
}

pub(crate) fn training_set((table, labels, weights): Rows<'_>, names: Option<Vec<String>>) -> PyResult<TrainingSet> {
    Ok(set(table.into_named(names)?, &labels, weights.as_ref()))
}

fn set(matrix: Matrix, labels: &Labels<'_>, weights: Option<&Labels<'_>>) -> TrainingSet {
    let values = |array: &Labels<'_>| array.as_array().iter().copied().collect::<Vec<f64>>();
    TrainingSet { matrix, labels: values(labels), weights: weights.map(values) }
}

impl Model {
    fn new(py: Python<'_>, trained: Box<dyn Trained>) -> Self {
        let names = trained.inputs().iter().map(|name| PyString::new(py, name).unbind()).collect();
        Model { trained: Arc::from(trained), names }
    }

    fn must_have_a_probability(&self) -> PyResult<()> {
        if self.trained.link() == Link::Logit {
            return Ok(());
        }
        Err(PyValueError::new_err("the model predicts no probability\n  hint: `predictions` gives what it predicts"))
    }

    /// Calls `each` for pieces of rows, in parallel, with the piece of the output that belongs to them.
    fn over_rows(
        &self,
        py: Python<'_>,
        table: Table,
        threads: Option<usize>,
        width: usize,
        each: impl Fn(&dyn Trained, &[f64], &mut [f64]) + Sync,
    ) -> PyResult<Vec<f64>> {
        let matrix = table.arranged_for(self.trained.inputs())?;
        py.detach(|| {
            let mut out = vec![0.0; matrix.rows() * width];
            let piece = |matrix: &Matrix, first: usize, out: &mut [f64]| {
                let mut row = Vec::with_capacity(matrix.columns());
                for (index, out) in out.chunks_exact_mut(width).enumerate() {
                    matrix.row(first + index, &mut row);
                    each(&*self.trained, &row, out);
                }
            };
            threads::run(threads, matrix.rows(), || {
                out.par_chunks_mut(PIECE * width).enumerate().for_each(|(index, out)| piece(&matrix, index * PIECE, out));
            })?;
            Ok(out)
        })
    }

    /// One row's values in the model's order.
    fn row(&self, row: &Bound<'_, PyAny>, values: &mut Vec<f64>) -> PyResult<()> {
        take_row(&self.names, self.trained.inputs(), row, values)
    }
}

/// One row's values in the order of the inputs; `names` are these as Python's texts.
pub(crate) fn take_row(names: &[Py<PyString>], known: &[String], row: &Bound<'_, PyAny>, values: &mut Vec<f64>) -> PyResult<()> {
    let width = names.len();
    values.clear();
    if let Ok(tuple) = row.cast_exact::<PyTuple>() {
        tuple.iter_borrowed().try_for_each(|value| number(&value).map(|value| values.push(value)))?;
    } else if let Ok(list) = row.cast_exact::<PyList>() {
        list.iter().try_for_each(|value| number(&value).map(|value| values.push(value)))?;
    } else if let Ok(dict) = row.cast::<PyDict>() {
        for name in names {
            let name = name.bind(row.py());
            let value = dict.get_item(name)?.ok_or_else(|| PyKeyError::new_err(format!("the row has no {name}, which the model reads")))?;
            values.push(number(&value)?);
        }
        if dict.len() != width {
            let extra: Vec<String> = dict.keys().iter().map(|key| key.to_string()).filter(|key| !known.contains(key)).collect();
            return Err(PyValueError::new_err(format!("the row has what the model does not know: {}", extra.join(", "))));
        }
    } else if let Ok(array) = row.extract::<PyReadonlyArray1<'_, f64>>() {
        values.extend(array.as_array().iter());
    } else {
        let kind = row.get_type().name()?;
        return Err(PyTypeError::new_err(format!("a row is a tuple, a list, a dict by name or a float64 array, not {kind}")));
    }
    if values.len() != width {
        return Err(PyValueError::new_err(format!("the row has {} values, the model takes {width}", values.len())));
    }
    Ok(())
}

/// `None` is missing.
fn number(value: &Bound<'_, PyAny>) -> PyResult<f64> {
    if value.is_none() { Ok(f64::NAN) } else { value.extract() }
}

#[pymethods]
impl Model {
    /// Reads a model file: Kilter's own, LightGBM's text, or XGBoost's JSON or UBJSON. Damaged, truncated or newer files are a ValueError, and so is
    /// a model that could not be scored exactly.
    #[classmethod]
    fn load(_: &Bound<'_, PyType>, py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let bytes = std::fs::read(&path).map_err(|error| PyOSError::new_err(format!("{}: {error}", path.display())))?;
        let trained = exchange::open(&bytes).map_err(|error| PyValueError::new_err(format!("{}: {error}", path.display())))?;
        Ok(Model::new(py, trained))
    }

    /// Reads what `to_bytes` wrote, or the bytes of a file that `load` reads.
    #[classmethod]
    fn from_bytes(_: &Bound<'_, PyType>, py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        Ok(Model::new(py, exchange::open(data).map_err(value_error)?))
    }

    /// Writes the model as one checksummed file; one that is there already stays whole until the new one is.
    fn save(&self, path: PathBuf) -> PyResult<()> {
        let mut partial = path.clone().into_os_string();
        partial.push(".partial");
        let write = std::fs::write(&partial, self.trained.to_bytes()).and_then(|()| std::fs::rename(&partial, &path));
        write.map_err(|error| PyOSError::new_err(format!("{}: {error}", path.display())))
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.trained.to_bytes())
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        Ok((slf.get_type().getattr("from_bytes")?, (slf.get().to_bytes(slf.py()),)))
    }

    fn __repr__(&self) -> String {
        format!("<kilter.Model {} of {} inputs>", self.trained.kind(), self.names.len())
    }

    #[getter]
    fn kind(&self) -> &'static str {
        self.trained.kind()
    }

    /// What the margin stands for: `logit` (log-odds of a probability), `identity` (the prediction), `log` (its logarithm).
    #[getter]
    fn link(&self) -> &'static str {
        match self.trained.link() {
            Link::Logit => "logit",
            Link::Identity => "identity",
            Link::Log => "log",
        }
    }

    /// Names of the inputs, in the order of a row.
    #[getter]
    fn inputs(&self) -> Vec<String> {
        self.trained.inputs().to_vec()
    }

    /// Parameters and training report, as JSON.
    fn describe_json(&self) -> String {
        self.trained.describe().to_string()
    }

    /// How much each input helped in training; comparable within a model only.
    fn importance<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        PyArray1::from_vec(py, self.trained.importance())
    }

    /// The boosted trees as LightGBM's text, which it loads and scores to the same bits.
    fn to_lightgbm(&self) -> PyResult<String> {
        let text = exchange::export(&self.trained.to_bytes(), exchange::Format::LightGbm).map_err(value_error)?;
        String::from_utf8(text).map_err(value_error)
    }

    /// Margins, one a row: log-odds of the positive class for a classifier.
    #[pyo3(signature = (data, *, threads=None))]
    fn margins<'py>(&self, py: Python<'py>, data: Table, threads: Option<usize>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let out = self.over_rows(py, data, threads, 1, |model, row, out| out[0] = model.margin(row))?;
        Ok(PyArray1::from_vec(py, out))
    }

    /// Predictions, one a row: the probability of the positive class, or what a regression predicts.
    #[pyo3(signature = (data, *, threads=None))]
    fn predictions<'py>(&self, py: Python<'py>, data: Table, threads: Option<usize>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let out = self.over_rows(py, data, threads, 1, |model, row, out| out[0] = model.predict(row))?;
        Ok(PyArray1::from_vec(py, out))
    }

    /// Points of a scorecard, one a row; a ValueError for another model.
    #[pyo3(signature = (data, *, threads=None))]
    fn points<'py>(&self, py: Python<'py>, data: Table, threads: Option<usize>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        if self.trained.points(&vec![f64::NAN; self.names.len()]).is_none() {
            return Err(PyValueError::new_err(format!("a model of the kind {:?} gives no points, a scorecard does", self.trained.kind())));
        }
        let out = self.over_rows(py, data, threads, 1, |model, row, out| out[0] = model.points(row).unwrap_or(f64::NAN))?;
        Ok(PyArray1::from_vec(py, out))
    }

    /// Probability of the positive class, one a row; a ValueError for a regression.
    #[pyo3(signature = (data, *, threads=None))]
    fn probabilities<'py>(&self, py: Python<'py>, data: Table, threads: Option<usize>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        self.must_have_a_probability()?;
        let out = self.over_rows(py, data, threads, 1, |model, row, out| out[0] = model.probability(row))?;
        Ok(PyArray1::from_vec(py, out))
    }

    /// Exact Shapley values on the margin's scale, one row each, and the base value: base + sum of a row = its margin.
    #[pyo3(signature = (data, *, threads=None))]
    fn explain<'py>(&self, py: Python<'py>, data: Table, threads: Option<usize>) -> PyResult<(Bound<'py, PyArray2<f64>>, f64)> {
        let (rows, width) = (data.rows(), self.names.len());
        let out = self.over_rows(py, data, threads, width, |model, row, out| {
            let mut contributions = Vec::with_capacity(width);
            model.explain(row, &mut contributions);
            out.copy_from_slice(&contributions);
        })?;
        // The base does not depend on the row.
        let base = self.trained.explain(&vec![f64::NAN; width], &mut Vec::new());
        Ok((PyArray1::from_vec(py, out).reshape([rows, width])?, base))
    }

    /// Prediction for one row (a classifier's probability of the positive class): a tuple, list, float64 array, or a dict by name. `None` is missing.
    fn score_one(&self, row: &Bound<'_, PyAny>) -> PyResult<f64> {
        let mut values = Vec::with_capacity(self.names.len());
        self.row(row, &mut values)?;
        Ok(self.trained.predict(&values))
    }

    /// Prediction for one row, and the inputs that moved it most, each with its part of the margin, largest first.
    #[pyo3(signature = (row, top=4))]
    fn explain_one(&self, py: Python<'_>, row: &Bound<'_, PyAny>, top: usize) -> PyResult<Explained> {
        let mut values = Vec::with_capacity(self.names.len());
        self.row(row, &mut values)?;
        let mut contributions = Vec::with_capacity(self.names.len());
        self.trained.explain(&values, &mut contributions);
        let mut order: Vec<usize> = (0..contributions.len()).collect();
        order.sort_by(|&a, &b| contributions[b].abs().total_cmp(&contributions[a].abs()));
        let named = order.iter().take(top).map(|&at| (self.names[at].clone_ref(py), contributions[at])).collect();
        Ok((self.trained.predict(&values), named))
    }
}
