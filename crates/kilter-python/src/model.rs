//! A model as Python sees it, and learning one.

use std::path::PathBuf;
use std::sync::Arc;

use kilter_learn::explain::{PermutationImportance, Permutations};
use kilter_learn::{
    Calibration, Gbdt, Isolation, LearnError, Learner, Linear, Link, Matrix, Model as Trained, TrainingSet, calibrate, exchange, gbdt,
    isolation, linear, load,
};
use numpy::{PyArray1, PyArray2, PyArray3, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::{PyKeyError, PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple, PyType};
use rayon::prelude::*;

use crate::explain::{self, Input, Scale};
use crate::table::Table;
use crate::{threads, value_error};

/// The name of Kilter's own model file among formats.
const OWN: &str = "kilter";

/// Rows that one task explains, and rows that one scores, many at a time.
const PIECE: usize = 1_024;
const LARGE_PIECE: usize = 8_192;

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
type Effects<'py> = (Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<usize>>);
/// Mean and deviation by group, and all by group and repeat.
type Importances<'py> = (Bound<'py, PyArray1<f64>>, Bound<'py, PyArray1<f64>>, Bound<'py, PyArray2<f64>>);
pub(crate) type Rows<'py> = (Table, Labels<'py>, Option<Labels<'py>>);

/// What to learn: a learner of Kilter's definitions, or one that they have no use for.
enum Lesson {
    Registered(Box<Learner>),
    Linear(Linear),
    Isolation(Isolation),
}

impl Lesson {
    fn of(json: &str) -> PyResult<Self> {
        let mut told: serde_json::Value = serde_json::from_str(json).map_err(value_error)?;
        let kind = told["kind"].as_str().unwrap_or_default().to_string();
        if ![linear::KIND, isolation::KIND].contains(&kind.as_str()) {
            return Ok(Lesson::Registered(serde_json::from_value(told).map_err(value_error)?));
        }
        told.as_object_mut().map(|told| told.remove("kind"));
        Ok(match kind == linear::KIND {
            true => Lesson::Linear(serde_json::from_value(told).map_err(value_error)?),
            false => Lesson::Isolation(serde_json::from_value(told).map_err(value_error)?),
        })
    }
}

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
    let learner = Lesson::of(learner)?;
    let training = training_set(rows, names)?;
    let validation = validation.map(|rows| training_set(rows, Some(training.matrix.names().to_vec()))).transpose()?;
    let rows = training.rows();
    let learn = || match (&learner, &validation) {
        (Lesson::Registered(learner), validation) => match (learner.as_ref(), validation) {
            (Learner::Gbdt(parameters), Some(validation)) => boosted(&training, validation, parameters),
            (learner, _) => learner.fit(&training),
        },
        // It looks at no labels.
        (Lesson::Isolation(parameters), _) => Ok(Box::new(isolation::fit(&training.matrix, parameters)?) as Box<dyn Trained>),
        (Lesson::Linear(parameters), _) => Ok(Box::new(linear::fit(&training, parameters)?) as Box<dyn Trained>),
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

pub(crate) fn set(matrix: Matrix, labels: &Labels<'_>, weights: Option<&Labels<'_>>) -> TrainingSet {
    let values = |array: &Labels<'_>| array.as_array().iter().copied().collect::<Vec<f64>>();
    TrainingSet { matrix, labels: values(labels), weights: weights.map(values) }
}

impl Model {
    fn new(py: Python<'_>, trained: Box<dyn Trained>) -> Self {
        let names = trained.inputs().iter().map(|name| PyString::new(py, name).unbind()).collect();
        Model { trained: Arc::from(trained), names }
    }

    fn bytes(&self, format: &str) -> PyResult<Vec<u8>> {
        let own = self.trained.to_bytes();
        if format == OWN {
            return Ok(own);
        }
        let written = exchange::Format::WRITTEN;
        let known = written.iter().find(|known| known.name() == format).ok_or_else(|| {
            let words: Vec<&str> = written.iter().map(|known| known.name()).collect();
            PyValueError::new_err(format!("format is {format:?}; there are {OWN}, {}", words.join(", ")))
        })?;
        exchange::export(&own, *known).map_err(value_error)
    }

    fn must_have_a_probability(&self) -> PyResult<()> {
        if self.trained.link().is_classifier() {
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

    /// The margins of all rows, and what is made of each.
    fn of_margins(&self, py: Python<'_>, table: Table, threads: Option<usize>, of: impl Fn(f64) -> f64 + Sync) -> PyResult<Vec<f64>> {
        let matrix = table.arranged_for(self.trained.inputs())?;
        py.detach(|| {
            let mut out = vec![0.0; matrix.rows()];
            let piece = |(index, out): (usize, &mut [f64])| {
                let first = index * LARGE_PIECE;
                let margins = self.trained.margins(&matrix.slice(first..first + out.len()));
                out.iter_mut().zip(margins).for_each(|(out, margin)| *out = of(margin));
            };
            threads::run(threads, matrix.rows(), || out.par_chunks_mut(LARGE_PIECE).enumerate().for_each(piece))?;
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
    } else if let Ok(array) = row.cast::<PyArray1<f64>>() {
        // SAFETY: the numbers are copied at once, and no Rust code of this process writes to arrays.
        values.extend(unsafe { array.as_array() }.iter());
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
    /// Reads a model file: Kilter's own, LightGBM's text, XGBoost's JSON or UBJSON, CatBoost's JSON, or ONNX. Damaged, truncated or newer files are
    /// a ValueError, and so is a model that could not be scored exactly.
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

    /// Writes the model as one file; one that is there already stays whole until the new one is. `format`: see `to_bytes`.
    #[pyo3(signature = (path, *, format="kilter"))]
    fn save(&self, path: PathBuf, format: &str) -> PyResult<()> {
        let bytes = self.bytes(format)?;
        let mut partial = path.clone().into_os_string();
        partial.push(".partial");
        let write = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, &path));
        write.map_err(|error| PyOSError::new_err(format!("{}: {error}", path.display())))
    }

    /// The model's file: `kilter`, its own and checksummed, for every model; `lightgbm`, `xgboost-json` or `onnx` for boosted trees, `onnx` for
    /// forests and regression lines, `pmml` for a scorecard.
    #[pyo3(signature = (*, format="kilter"))]
    fn to_bytes<'py>(&self, py: Python<'py>, format: &str) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.bytes(format)?))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        Ok((slf.get_type().getattr("from_bytes")?, (slf.get().to_bytes(slf.py(), OWN)?,)))
    }

    fn __repr__(&self) -> String {
        format!("<kilter.Model {} of {} inputs>", self.trained.kind(), self.names.len())
    }

    #[getter]
    fn kind(&self) -> &'static str {
        self.trained.kind()
    }

    /// What the margin stands for: `logit` (log-odds of a probability), `identity` (the prediction), `log` (its logarithm),
    /// `probability` (the probability itself).
    #[getter]
    fn link(&self) -> &'static str {
        match self.trained.link() {
            Link::Logit => "logit",
            Link::Identity => "identity",
            Link::Log => "log",
            Link::Probability => "probability",
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
        String::from_utf8(self.bytes(exchange::Format::LightGbm.name())?).map_err(value_error)
    }

    /// Margins, one a row: log-odds of the positive class for a classifier.
    #[pyo3(signature = (data, *, threads=None))]
    fn margins<'py>(&self, py: Python<'py>, data: Table, threads: Option<usize>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let out = self.of_margins(py, data, threads, |margin| margin)?;
        Ok(PyArray1::from_vec(py, out))
    }

    /// Predictions, one a row: the probability of the positive class, or what a regression predicts.
    #[pyo3(signature = (data, *, threads=None))]
    fn predictions<'py>(&self, py: Python<'py>, data: Table, threads: Option<usize>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let out = self.of_margins(py, data, threads, |margin| explain::prediction(&*self.trained, margin))?;
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
        let out = self.of_margins(py, data, threads, |margin| self.trained.probability_of(margin))?;
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

    /// What pairs of inputs contribute together (SHAP interaction values): an array (rows, inputs, inputs) and the base value. A matrix is symmetric, its rows
    /// add up to the contributions of `explain`, and its diagonal is what an input contributes by itself.
    #[pyo3(signature = (data, *, threads=None))]
    fn interactions<'py>(&self, py: Python<'py>, data: Table, threads: Option<usize>) -> PyResult<(Bound<'py, PyArray3<f64>>, f64)> {
        let (rows, width) = (data.rows(), self.names.len());
        let missing = vec![f64::NAN; width];
        if self.trained.interactions(&missing).is_none() {
            return Err(PyValueError::new_err(format!("a model of the kind {:?} does not tell interactions", self.trained.kind())));
        }
        let out = self.over_rows(py, data, threads, width * width, |model, row, out| {
            model.interactions(row).iter().for_each(|pairs| out.copy_from_slice(pairs));
        })?;
        let base = self.trained.explain(&missing, &mut Vec::new());
        Ok((PyArray1::from_vec(py, out).reshape([rows, width, width])?, base))
    }

    /// The mean prediction over the rows with the value put into all of them, at up to so many `points` of one input: (places, means).
    /// Of two inputs: (places of the first, of the second, means by both). `on`: "prediction" or "margin".
    #[pyo3(signature = (data, *inputs, points=20, on="prediction"))]
    fn partial_dependence<'py>(
        &self,
        py: Python<'py>,
        data: Table,
        inputs: Vec<Input>,
        points: usize,
        on: &str,
    ) -> PyResult<Bound<'py, PyTuple>> {
        if inputs.is_empty() || inputs.len() > 2 {
            return Err(PyValueError::new_err(format!("{} inputs; one or two can be looked at", inputs.len())));
        }
        let (inputs, on) = (explain::positions(&inputs, &*self.trained)?, Scale::parse(on)?);
        let matrix = data.arranged_for(self.trained.inputs())?;
        let (grids, means) = py.detach(|| explain::dependence(&*self.trained, &matrix, &inputs, points, on));
        let shape: Vec<usize> = grids.iter().map(Vec::len).collect();
        let means = PyArray1::from_vec(py, means).reshape(shape)?.into_any();
        PyTuple::new(py, grids.into_iter().map(|grid| PyArray1::from_vec(py, grid).into_any()).chain([means]).collect::<Vec<_>>())
    }

    /// Accumulated local effects of an input (Apley and Zhu 2020): (ends of the steps, effects there, rows of each step). Unlike partial dependence it makes
    /// up no rows that inputs which hang together never have. `on`: "prediction" or "margin".
    #[pyo3(signature = (data, input, *, steps=20, on="prediction"))]
    fn accumulated_effects<'py>(&self, py: Python<'py>, data: Table, input: Input, steps: usize, on: &str) -> PyResult<Effects<'py>> {
        let (inputs, on) = (explain::positions(&[input], &*self.trained)?, Scale::parse(on)?);
        let matrix = data.arranged_for(self.trained.inputs())?;
        let found = py.detach(|| explain::effects(&*self.trained, &matrix, inputs[0], steps, on));
        Ok((PyArray1::from_vec(py, found.at), PyArray1::from_vec(py, found.effects), PyArray1::from_vec(py, found.rows)))
    }

    /// How much the loss rises when an input's values are dealt out to the rows anew: (mean, standard deviation, all rises), by group and repeat. `groups`: lists of
    /// inputs that are shuffled together; each input alone when None. `loss`: "log_loss", "brier" or "auc" (its distance from 1) of a classifier,
    /// "squared_error", "absolute_error".
    #[pyo3(signature = (data, labels, *, groups=None, repeats=5, seed=7, loss=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn permutation_importance<'py>(
        &self,
        py: Python<'py>,
        data: Table,
        labels: Labels<'py>,
        groups: Option<Vec<Vec<Input>>>,
        repeats: usize,
        seed: u64,
        loss: Option<&str>,
    ) -> PyResult<Importances<'py>> {
        let model = &*self.trained;
        let groups = match groups {
            Some(groups) => groups.iter().map(|group| explain::positions(group, model)).collect::<PyResult<_>>()?,
            None => (0..self.names.len()).map(|input| vec![input]).collect::<Vec<_>>(),
        };
        let loss = explain::loss(loss, model)?;
        let matrix = data.arranged_for(model.inputs())?;
        let labels: Vec<f64> = labels.as_array().iter().copied().collect();
        if labels.len() != matrix.rows() || labels.is_empty() {
            return Err(PyValueError::new_err(format!("{} labels for {} rows", labels.len(), matrix.rows())));
        }
        if repeats == 0 {
            return Err(PyValueError::new_err("repeats is 0; at least 1"));
        }
        let settings = Permutations { repeats, seed };
        let found = py.detach(|| explain::importance(model, &matrix, &labels, &groups, &settings, loss));
        let of = |figure: fn(&PermutationImportance) -> f64| PyArray1::from_vec(py, found.iter().map(figure).collect());
        let rises = PyArray1::from_vec(py, found.iter().flat_map(|group| group.rises.iter().copied()).collect());
        Ok((of(PermutationImportance::mean), of(PermutationImportance::deviation), rises.reshape([groups.len(), repeats])?))
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
