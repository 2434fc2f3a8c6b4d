//! A model of more than two classes as Python sees it, and learning one.

use std::path::PathBuf;
use std::sync::Arc;

use kilter_learn::calibration::{ClassMethod, calibrate_classes};
use kilter_learn::exchange::Opened;
use kilter_learn::{ClassLink, ClassModel as Trained, LearnError, Learner, Matrix, exchange, gbdt, load_classes};
use numpy::{PyArray1, PyArray2, PyArray3, PyArrayMethods};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyType};
use rayon::prelude::*;

use crate::model::{Rows, set, take_row, training_set};
use crate::table::Table;
use crate::{threads, value_error};

/// Rows that one task scores.
const PIECE: usize = 1_024;

/// A trained model of several classes: immutable, safe to share between threads, the same bits for one row and for many.
#[pyclass(frozen, module = "kilter")]
pub struct ClassModel {
    trained: Arc<Trained>,
    /// The inputs as Python texts, for rows that come as dictionaries.
    names: Vec<Py<PyString>>,
}

/// Learns to tell classes apart from a table, the rows' classes as numbers from 0 on, and optional weights. `learner` is JSON, such as
/// `{"kind": "gbdt", "trees": 200}`; `link` is `softmax` or `one_vs_all`.
#[pyfunction]
#[pyo3(signature = (learner, rows, classes, link, *, names=None, validation=None, threads=None, init_model=None))]
#[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
pub fn fit_classes(
    py: Python<'_>,
    learner: &str,
    rows: Rows<'_>,
    classes: Vec<String>,
    link: &str,
    names: Option<Vec<String>>,
    validation: Option<Rows<'_>>,
    threads: Option<usize>,
    init_model: Option<&Bound<'_, ClassModel>>,
) -> PyResult<ClassModel> {
    let Learner::Gbdt(parameters) = serde_json::from_str(learner).map_err(value_error)? else {
        return Err(PyValueError::new_err("only boosted trees (gbdt) tell more than two classes apart"));
    };
    let link = match link {
        "softmax" => ClassLink::Softmax,
        "one_vs_all" => ClassLink::OneVsAll,
        _ => return Err(PyValueError::new_err(format!("the link is {link:?}, but must be \"softmax\" or \"one_vs_all\""))),
    };
    let training = training_set(rows, names)?;
    let validation = validation.map(|rows| training_set(rows, Some(training.matrix.names().to_vec()))).transpose()?;
    let rows = training.rows();
    let earlier = init_model.map(|model| &*model.get().trained);
    let learn = || gbdt::fit_classes_by(&training, validation.as_ref(), &classes, link, &parameters, earlier);
    let trained = py.detach(|| threads::run(threads, rows, learn))?.map_err(value_error)?;
    Ok(ClassModel::new(py, trained))
}

/// Calibrates a model of several classes on rows that it has not seen; `None` when they are too few and may be. `method` is `temperature`, `platt`,
/// `isotonic` or `beta`.
#[pyfunction]
#[pyo3(name = "calibrate_classes", signature = (model, method, rows, *, may_be_few=false))]
pub fn calibrated_classes(
    py: Python<'_>,
    model: &ClassModel,
    method: &str,
    rows: Rows<'_>,
    may_be_few: bool,
) -> PyResult<Option<ClassModel>> {
    let known = ClassMethod::ALL.into_iter().find(|(name, _)| *name == method);
    let (_, method) = known.ok_or_else(|| {
        let words = ClassMethod::ALL.map(|(name, _)| name).join(", ");
        PyValueError::new_err(format!("method is {method:?}; of more than two classes there are {words}"))
    })?;
    let (table, labels, weights) = rows;
    let matrix = table.arranged_for(model.trained.inputs())?;
    let rows = set(matrix, &labels, weights.as_ref());
    let own = load_classes(&model.trained.to_bytes()).map_err(value_error)?;
    match py.detach(|| calibrate_classes(own, &rows, method)) {
        Ok(trained) => Ok(Some(ClassModel::new(py, trained))),
        Err(LearnError::TooFewToCalibrate { .. } | LearnError::NoRows) if may_be_few => Ok(None),
        Err(error) => Err(value_error(error)),
    }
}

impl ClassModel {
    fn new(py: Python<'_>, trained: Trained) -> Self {
        let names = trained.inputs().iter().map(|name| PyString::new(py, name).unbind()).collect();
        ClassModel { trained: Arc::new(trained), names }
    }

    fn open(py: Python<'_>, bytes: &[u8]) -> PyResult<Self> {
        match exchange::open_any(bytes).map_err(value_error)? {
            Opened::Classes(trained) => Ok(ClassModel::new(py, trained)),
            Opened::One(_) => Err(PyValueError::new_err("the model has one output\n  hint: kilter.Model reads it")),
        }
    }

    /// Calls `each` for pieces of rows, in parallel; it gives `width` numbers a row.
    fn over_rows(
        &self,
        py: Python<'_>,
        table: Table,
        threads: Option<usize>,
        width: usize,
        each: impl Fn(&Trained, &Matrix) -> Vec<f64> + Sync,
    ) -> PyResult<Vec<f64>> {
        let matrix = table.arranged_for(self.trained.inputs())?;
        py.detach(|| {
            let mut out = vec![0.0; matrix.rows() * width];
            threads::run(threads, matrix.rows(), || {
                out.par_chunks_mut(PIECE * width).enumerate().for_each(|(index, out)| {
                    let first = index * PIECE;
                    out.copy_from_slice(&each(&self.trained, &matrix.slice(first..first + out.len() / width)));
                });
            })?;
            Ok(out)
        })
    }
}

#[pymethods]
impl ClassModel {
    /// Reads a model file of several classes: Kilter's own, LightGBM's text, or XGBoost's JSON or UBJSON. Damaged, truncated or newer files are a
    /// ValueError, and so is a model of one output.
    #[classmethod]
    fn load(_: &Bound<'_, PyType>, py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let bytes = std::fs::read(&path).map_err(|error| PyOSError::new_err(format!("{}: {error}", path.display())))?;
        ClassModel::open(py, &bytes).map_err(|error| PyValueError::new_err(format!("{}: {}", path.display(), error.value(py))))
    }

    /// Reads what `to_bytes` wrote, or the bytes of a file that `load` reads.
    #[classmethod]
    fn from_bytes(_: &Bound<'_, PyType>, py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        ClassModel::open(py, data)
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
        format!("<kilter.ClassModel of {} classes and {} inputs>", self.trained.classes().len(), self.names.len())
    }

    /// How margins become probabilities: `softmax`, or `one_vs_all` (each the log-odds of its class, made to sum to 1).
    #[getter]
    fn link(&self) -> &'static str {
        match self.trained.link() {
            ClassLink::Softmax => "softmax",
            ClassLink::OneVsAll => "one_vs_all",
        }
    }

    /// Names of the inputs, in the order of a row.
    #[getter]
    fn inputs(&self) -> Vec<String> {
        self.trained.inputs().to_vec()
    }

    /// Names of the classes, in the order of all that is said of them.
    #[getter]
    fn classes(&self) -> Vec<String> {
        self.trained.classes().to_vec()
    }

    /// Parameters and training report of each class, as JSON.
    fn describe_json(&self) -> String {
        self.trained.describe().to_string()
    }

    /// How much each input helped in training; comparable within a model only.
    fn importance<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        PyArray1::from_vec(py, self.trained.importance())
    }

    /// Margins, (rows, classes).
    #[pyo3(signature = (data, *, threads=None))]
    fn margins<'py>(&self, py: Python<'py>, data: Table, threads: Option<usize>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let (rows, classes) = (data.rows(), self.trained.classes().len());
        let out = self.over_rows(py, data, threads, classes, Trained::all_margins)?;
        PyArray1::from_vec(py, out).reshape([rows, classes])
    }

    /// Probabilities, (rows, classes); each row sums to 1.
    #[pyo3(signature = (data, *, threads=None))]
    fn probabilities<'py>(&self, py: Python<'py>, data: Table, threads: Option<usize>) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let (rows, classes) = (data.rows(), self.trained.classes().len());
        let out = self.over_rows(py, data, threads, classes, Trained::all_probabilities)?;
        PyArray1::from_vec(py, out).reshape([rows, classes])
    }

    /// Exact Shapley values on the margins' scale, (rows, inputs, classes), and the classes' base values.
    #[pyo3(signature = (data, *, threads=None))]
    #[expect(clippy::type_complexity, reason = "two arrays")]
    fn explain<'py>(
        &self,
        py: Python<'py>,
        data: Table,
        threads: Option<usize>,
    ) -> PyResult<(Bound<'py, PyArray3<f64>>, Bound<'py, PyArray1<f64>>)> {
        let (rows, width, classes) = (data.rows(), self.names.len(), self.trained.classes().len());
        let out = self.over_rows(py, data, threads, width * classes, |model, matrix| {
            let mut all = vec![0.0; matrix.rows() * width * classes];
            for class in 0..classes {
                // A row's base follows its contributions.
                let explained = model.member(class).explanations(matrix);
                for (row, out) in explained.chunks_exact(width + 1).zip(all.chunks_exact_mut(width * classes)) {
                    out.iter_mut().skip(class).step_by(classes).zip(&row[..width]).for_each(|(out, value)| *out = *value);
                }
            }
            all
        })?;
        let row = vec![f64::NAN; width];
        let bases = (0..classes).map(|class| self.trained.explain(&row, class, &mut Vec::new())).collect();
        Ok((PyArray1::from_vec(py, out).reshape([rows, width, classes])?, PyArray1::from_vec(py, bases)))
    }

    /// The classes' probabilities for one row: a tuple, list, float64 array, or a dict by name. `None` is missing.
    fn score_one<'py>(&self, py: Python<'py>, row: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let mut values = Vec::with_capacity(self.names.len());
        take_row(&self.names, self.trained.inputs(), row, &mut values)?;
        let mut out = Vec::new();
        self.trained.probabilities(&values, &mut out);
        Ok(PyArray1::from_vec(py, out))
    }
}
