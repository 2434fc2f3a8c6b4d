//! Learners of streams as Python sees them: they go on learning, also between two predictions.

use std::path::PathBuf;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use kilter_learn::online::logistic::{self, OnlineLogistic};
use kilter_learn::online::tree::{self, HoeffdingTree};
use kilter_learn::online::{Online, load_online, prequential};
use kilter_learn::{Matrix, TrainingSet, load};
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyType};
use rayon::prelude::*;

use crate::model::{Model, Rows, set, take_row};
use crate::table::Table;
use crate::{threads, value_error};

/// Rows that one task scores.
const PIECE: usize = 1_024;

/// A learner of a stream with all it knows. Threads may ask it at the same time; while it learns they wait.
#[pyclass(frozen, module = "kilter")]
pub struct OnlineModel {
    learner: RwLock<Box<dyn Online>>,
    inputs: Vec<String>,
    /// The inputs as Python texts, for rows that come as dictionaries.
    names: Vec<Py<PyString>>,
    classes: usize,
}

/// How rows were predicted before they were learned from, as JSON, and the probabilities, one a class for each row.
type Judged<'py> = (String, Bound<'py, PyArray2<f64>>);

impl OnlineModel {
    fn of(py: Python<'_>, learner: Box<dyn Online>) -> Self {
        let (inputs, classes) = (learner.inputs().to_vec(), learner.classes());
        let names = inputs.iter().map(|name| PyString::new(py, name).unbind()).collect();
        OnlineModel { learner: RwLock::new(learner), inputs, names, classes }
    }

    fn read(&self) -> RwLockReadGuard<'_, Box<dyn Online>> {
        self.learner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Box<dyn Online>> {
        self.learner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Margins, and what explains them: one of two classes, one each of more.
    fn outputs(&self) -> usize {
        if self.classes == 2 { 1 } else { self.classes }
    }

    fn training_set(&self, (table, labels, weights): Rows<'_>) -> PyResult<TrainingSet> {
        Ok(set(table.arranged_for(&self.inputs)?, &labels, weights.as_ref()))
    }

    /// Calls `each` for all rows, in parallel, with the piece of the output that is theirs.
    fn over_rows(
        &self,
        py: Python<'_>,
        matrix: &Matrix,
        threads: Option<usize>,
        width: usize,
        each: impl Fn(&dyn Online, &[f64], &mut Vec<f64>, &mut [f64]) + Sync,
    ) -> PyResult<Vec<f64>> {
        py.detach(|| {
            // Until here no lock is held, and within it nothing waits for Python.
            let learner = self.read();
            let mut out = vec![0.0; matrix.rows() * width];
            let piece = |(index, out): (usize, &mut [f64])| {
                let (mut row, mut scratch) = (Vec::new(), Vec::new());
                for (r, out) in out.chunks_exact_mut(width).enumerate() {
                    matrix.row(index * PIECE + r, &mut row);
                    each(&**learner, &row, &mut scratch, out);
                }
            };
            threads::run(threads, matrix.rows(), || out.par_chunks_mut(PIECE * width).enumerate().for_each(piece))?;
            Ok(out)
        })
    }
}

#[pymethods]
impl OnlineModel {
    /// A learner that knows nothing yet. `learner` is JSON, such as `{"kind": "hoeffding_tree", "grace_period": 100}`; `inputs` are the names of the
    /// columns, `classes` how many classes there are: labels are their numbers, from 0.
    #[new]
    #[pyo3(signature = (learner, inputs, classes=2))]
    fn new(py: Python<'_>, learner: &str, inputs: Vec<String>, classes: usize) -> PyResult<Self> {
        let mut told: serde_json::Value = serde_json::from_str(learner).map_err(value_error)?;
        let kind = told.as_object_mut().and_then(|told| told.remove("kind")).unwrap_or_default();
        let learner: Box<dyn Online> = match kind.as_str() {
            Some(logistic::KIND) if classes != 2 => {
                return Err(PyValueError::new_err(format!("an online_logistic tells two classes apart, not {classes}")));
            }
            Some(logistic::KIND) => {
                let parameters: OnlineLogistic = serde_json::from_value(told).map_err(value_error)?;
                Box::new(logistic::start(&inputs, &parameters).map_err(value_error)?)
            }
            Some(tree::KIND) => {
                let parameters: HoeffdingTree = serde_json::from_value(told).map_err(value_error)?;
                Box::new(tree::start(&inputs, classes, &parameters).map_err(value_error)?)
            }
            _ => return Err(PyValueError::new_err(format!("kind is {kind}, but must be \"{}\" or \"{}\"", logistic::KIND, tree::KIND))),
        };
        Ok(OnlineModel::of(py, learner))
    }

    /// Reads a file of a learner of streams, to go on learning. Damaged, truncated or newer files are a ValueError, and so are other models.
    #[classmethod]
    fn load(_: &Bound<'_, PyType>, py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let bytes = std::fs::read(&path).map_err(|error| PyOSError::new_err(format!("{}: {error}", path.display())))?;
        let learner = load_online(&bytes).map_err(|error| PyValueError::new_err(format!("{}: {error}", path.display())))?;
        Ok(OnlineModel::of(py, learner))
    }

    /// Reads what `to_bytes` wrote.
    #[classmethod]
    fn from_bytes(_: &Bound<'_, PyType>, py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        Ok(OnlineModel::of(py, load_online(data).map_err(value_error)?))
    }

    /// Writes all it knows as one checksummed file; one that is there already stays whole until the new one is.
    fn save(&self, path: PathBuf) -> PyResult<()> {
        let mut partial = path.clone().into_os_string();
        partial.push(".partial");
        let bytes = self.read().to_bytes();
        let write = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, &path));
        write.map_err(|error| PyOSError::new_err(format!("{}: {error}", path.display())))
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.read().to_bytes())
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        Ok((slf.get_type().getattr("from_bytes")?, (slf.get().to_bytes(slf.py()),)))
    }

    fn __repr__(&self) -> String {
        let learner = self.read();
        format!("<kilter.OnlineModel {} of {} inputs after {} rows>", learner.kind(), self.inputs.len(), learner.rows())
    }

    #[getter]
    fn kind(&self) -> &'static str {
        self.read().kind()
    }

    /// Names of the inputs, in the order of a row.
    #[getter]
    fn inputs(&self) -> Vec<String> {
        self.inputs.clone()
    }

    /// How many classes there are.
    #[getter]
    fn classes(&self) -> usize {
        self.classes
    }

    /// Rows learned from so far, without those of weight 0.
    #[getter]
    fn rows(&self) -> u64 {
        self.read().rows()
    }

    /// Learns from rows, one after the other: (table, labels, weights or None). Rows of which any is refused change nothing.
    fn learn(&self, py: Python<'_>, rows: Rows<'_>) -> PyResult<()> {
        let rows = self.training_set(rows)?;
        py.detach(|| self.write().learn(&rows)).map_err(value_error)
    }

    /// Learns from one row: a tuple, list, float64 array, or a dict by name; `None` is missing. `label` is the number of its class.
    #[pyo3(signature = (row, label, weight=1.0))]
    fn learn_one(&self, row: &Bound<'_, PyAny>, label: f64, weight: f64) -> PyResult<()> {
        let mut values = Vec::with_capacity(self.names.len());
        take_row(&self.names, &self.inputs, row, &mut values)?;
        self.write().learn_one(&values, label, weight).map_err(value_error)
    }

    /// Predicts each row and then learns from it, once `delay` more rows have been predicted. Returns JSON (accuracy and log loss of all rows, and of each
    /// `stretch` of them) and the probabilities, (rows, classes), as they were told.
    #[pyo3(signature = (rows, *, delay=0, stretch=1000))]
    fn prequential<'py>(&self, py: Python<'py>, rows: Rows<'py>, delay: usize, stretch: usize) -> PyResult<Judged<'py>> {
        let rows = self.training_set(rows)?;
        let judged = py.detach(|| prequential(&mut **self.write(), &rows, delay, stretch)).map_err(value_error)?;
        let told = serde_json::to_string(&judged).map_err(value_error)?;
        let shape = [rows.rows(), self.classes];
        Ok((told, PyArray1::from_vec(py, judged.probabilities).reshape(shape)?))
    }

    /// What it knows now as a model of two classes, which does not change any more; a ValueError where there are more.
    fn model(&self, py: Python<'_>) -> PyResult<Model> {
        let bytes = self.read().to_bytes();
        Ok(Model::new(py, load(&bytes).map_err(value_error)?))
    }

    /// Parameters and what has been seen, as JSON.
    fn describe_json(&self) -> String {
        self.read().describe().to_string()
    }

    /// How much each input helped; comparable within a model only.
    fn importance<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        PyArray1::from_vec(py, self.read().importance())
    }

    /// Log-odds of class 1, one a row; of more than two classes one margin each, (rows, classes).
    #[pyo3(signature = (data, *, threads=None))]
    fn margins<'py>(&self, py: Python<'py>, data: Table, threads: Option<usize>) -> PyResult<Bound<'py, PyAny>> {
        let (matrix, width) = (data.arranged_for(&self.inputs)?, self.outputs());
        let out = self.over_rows(py, &matrix, threads, width, |learner, row, scratch, out| {
            learner.class_margins(row, scratch);
            out.copy_from_slice(scratch);
        })?;
        let flat = PyArray1::from_vec(py, out);
        if width == 1 { Ok(flat.into_any()) } else { Ok(flat.reshape([matrix.rows(), width])?.into_any()) }
    }

    /// Probabilities, (rows, classes); each row sums to 1.
    #[pyo3(signature = (data, *, threads=None))]
    fn probabilities<'py>(&self, py: Python<'py>, data: Table, threads: Option<usize>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let matrix = data.arranged_for(&self.inputs)?;
        let out = self.over_rows(py, &matrix, threads, self.classes, |learner, row, scratch, out| {
            learner.class_probabilities(row, scratch);
            out.copy_from_slice(scratch);
        })?;
        PyArray1::from_vec(py, out).reshape([matrix.rows(), self.classes])
    }

    /// What each input adds to the margins: (rows, inputs) and the base of each row; of more than two classes (rows, inputs, classes) and
    /// (rows, classes).
    #[pyo3(signature = (data, *, threads=None))]
    fn explain<'py>(&self, py: Python<'py>, data: Table, threads: Option<usize>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let matrix = data.arranged_for(&self.inputs)?;
        let (rows, inputs, outputs) = (matrix.rows(), self.inputs.len(), self.outputs());
        // A row's contributions of each output in turn, then the bases.
        let width = (inputs + 1) * outputs;
        let all = self.over_rows(py, &matrix, threads, width, |learner, row, scratch, out| {
            let (contributions, bases) = out.split_at_mut(inputs * outputs);
            for (of, base) in bases.iter_mut().enumerate() {
                *base = learner.explain(row, of, scratch);
                contributions.iter_mut().skip(of).step_by(outputs).zip(&*scratch).for_each(|(out, value)| *out = *value);
            }
        })?;
        let (mut contributions, mut bases) = (Vec::with_capacity(rows * inputs * outputs), Vec::with_capacity(rows * outputs));
        for row in all.chunks_exact(width) {
            contributions.extend_from_slice(&row[..inputs * outputs]);
            bases.extend_from_slice(&row[inputs * outputs..]);
        }
        let (contributions, bases) = (PyArray1::from_vec(py, contributions), PyArray1::from_vec(py, bases));
        if outputs == 1 {
            return Ok((contributions.reshape([rows, inputs])?.into_any(), bases.into_any()));
        }
        Ok((contributions.reshape([rows, inputs, outputs])?.into_any(), bases.reshape([rows, outputs])?.into_any()))
    }

    /// Probability of class 1 for one row: a tuple, list, float64 array, or a dict by name; `None` is missing. Of more than two classes an array of all
    /// their probabilities.
    fn score_one<'py>(&self, py: Python<'py>, row: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let mut values = Vec::with_capacity(self.names.len());
        take_row(&self.names, &self.inputs, row, &mut values)?;
        let mut out = Vec::new();
        self.read().class_probabilities(&values, &mut out);
        if self.classes == 2 { out[1].into_bound_py_any(py) } else { Ok(PyArray1::from_vec(py, out).into_any()) }
    }
}
