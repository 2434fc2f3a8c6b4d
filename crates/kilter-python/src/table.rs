//! Tables from Python: a two-dimensional NumPy array, or anything with columns that speaks Arrow's C stream interface (pandas, Polars,
//! pyarrow, DuckDB). Nulls become NaN, which is what learners take for missing.

use arrow_array::cast::AsArray;
use arrow_array::ffi_stream::{ArrowArrayStreamReader, FFI_ArrowArrayStream};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, RecordBatchReader};
use kilter_learn::Matrix;
use numpy::{Element, PyReadonlyArray2};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use std::ffi::CStr;

use crate::value_error;

/// Columns as they came; an array has no names.
pub struct Table {
    names: Option<Vec<String>>,
    columns: Vec<Vec<f64>>,
    rows: usize,
}

impl FromPyObject<'_, '_> for Table {
    type Error = PyErr;

    fn extract(data: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        if data.hasattr("__arrow_c_stream__")? {
            return from_arrow(&data.call_method0("__arrow_c_stream__")?);
        }
        if let Ok(array) = data.extract::<PyReadonlyArray2<'_, f64>>() {
            return Ok(from_array(&array, |value| value));
        }
        if let Ok(array) = data.extract::<PyReadonlyArray2<'_, f32>>() {
            return Ok(from_array(&array, f64::from));
        }
        let kind = data.get_type().name()?;
        Err(PyTypeError::new_err(format!(
            "expected a two-dimensional array of float64 or float32, or a data frame that speaks Arrow, found {kind}\n  \
             hint: numpy.asarray(data, dtype=float)"
        )))
    }
}

impl Table {
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// For learning: under the given names, the table's own, or x0, x1, ...
    pub fn into_named(self, names: Option<Vec<String>>) -> PyResult<Matrix> {
        let width = self.columns.len();
        if let Some(found) = names.as_ref().map(Vec::len).filter(|&found| found != width) {
            return Err(PyValueError::new_err(format!("{found} names for {width} columns")));
        }
        let names = names.or(self.names).unwrap_or_else(|| (0..width).map(|column| format!("x{column}")).collect());
        Ok(Matrix::from_columns(names, self.columns))
    }

    /// For scoring: named columns are put in the model's order, and must be the model's; an array must have its width.
    pub fn arranged_for(self, inputs: &[String]) -> PyResult<Matrix> {
        let Some(names) = self.names else {
            if self.columns.len() != inputs.len() {
                let (found, wanted) = (self.columns.len(), inputs.len());
                return Err(PyValueError::new_err(format!("the table has {found} columns, the model takes {wanted}: {}", list(inputs))));
            }
            return Ok(Matrix::from_columns(inputs.to_vec(), self.columns));
        };
        let missing: Vec<_> = inputs.iter().filter(|input| !names.contains(input)).cloned().collect();
        let extra: Vec<_> = names.iter().filter(|name| !inputs.contains(name)).cloned().collect();
        let mut problems = Vec::new();
        if !missing.is_empty() {
            problems.push(format!("columns missing: {}", list(&missing)));
        }
        if !extra.is_empty() {
            problems.push(format!("columns the model does not know: {}", list(&extra)));
        }
        if !problems.is_empty() {
            return Err(PyValueError::new_err(format!("{}\n  hint: select the model's inputs by name", problems.join("; "))));
        }
        let mut columns: Vec<Option<Vec<f64>>> = self.columns.into_iter().map(Some).collect();
        let place = |input: &String| names.iter().position(|name| name == input).and_then(|at| columns[at].take());
        let ordered: Vec<Vec<f64>> = inputs.iter().filter_map(place).collect();
        if ordered.len() != inputs.len() || names.len() != inputs.len() {
            return Err(PyValueError::new_err("a column name stands twice in the table"));
        }
        Ok(Matrix::from_columns(inputs.to_vec(), ordered))
    }
}

fn list(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(10).map(|name| format!("{name:?}")).collect();
    let more = names.len().saturating_sub(10);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

fn from_array<T: Element + Copy>(array: &PyReadonlyArray2<'_, T>, value: impl Fn(T) -> f64) -> Table {
    let array = array.as_array();
    let columns = array.columns().into_iter().map(|column| column.iter().map(|&v| value(v)).collect()).collect();
    Table { names: None, columns, rows: array.nrows() }
}

/// Name of the capsule, as Arrow's PyCapsule interface has it.
const STREAM: &CStr = c"arrow_array_stream";

fn from_arrow(capsule: &Bound<'_, PyAny>) -> PyResult<Table> {
    let capsule = capsule.cast::<PyCapsule>()?;
    let stream = capsule.pointer_checked(Some(STREAM))?.cast::<FFI_ArrowArrayStream>();
    // SAFETY: a capsule of this name holds a stream by Arrow's PyCapsule interface; `from_raw` moves it out and marks the capsule's as released.
    let stream = unsafe { FFI_ArrowArrayStream::from_raw(stream.as_ptr()) };
    let reader = ArrowArrayStreamReader::try_new(stream).map_err(value_error)?;
    let names: Vec<String> = reader.schema().fields().iter().map(|field| field.name().clone()).collect();
    let mut table = Table { columns: vec![Vec::new(); names.len()], names: Some(names.clone()), rows: 0 };
    for batch in reader {
        let batch = batch.map_err(value_error)?;
        table.rows += batch.num_rows();
        for ((array, column), name) in batch.columns().iter().zip(&mut table.columns).zip(&names) {
            append(array, column).map_err(|kind| {
                PyTypeError::new_err(format!(
                    "column {name:?} holds {kind}, but learners take numbers and booleans\n  \
                     hint: turn times into durations in seconds, and texts into codes or indicator columns"
                ))
            })?;
        }
    }
    Ok(table)
}

/// Adds the values of one Arrow array, or says what type cannot be used.
fn append(array: &ArrayRef, column: &mut Vec<f64>) -> Result<(), String> {
    use arrow_array::types as t;
    type Append = fn(&ArrayRef, &mut Vec<f64>);
    fn primitive<T: ArrowPrimitiveType>(array: &ArrayRef, column: &mut Vec<f64>, value: impl Fn(T::Native) -> f64) {
        let array = array.as_primitive::<T>();
        if array.null_count() == 0 {
            column.extend(array.values().iter().map(|&v| value(v)));
        } else {
            column.extend(array.iter().map(|v| v.map_or(f64::NAN, &value)));
        }
    }
    let kind = array.data_type().to_string();
    let by_kind: &[(&str, Append)] = &[
        ("Float64", |a, c| primitive::<t::Float64Type>(a, c, |v| v)),
        ("Float32", |a, c| primitive::<t::Float32Type>(a, c, f64::from)),
        ("Float16", |a, c| primitive::<t::Float16Type>(a, c, f64::from)),
        ("Int64", |a, c| primitive::<t::Int64Type>(a, c, |v| v as f64)),
        ("Int32", |a, c| primitive::<t::Int32Type>(a, c, f64::from)),
        ("Int16", |a, c| primitive::<t::Int16Type>(a, c, f64::from)),
        ("Int8", |a, c| primitive::<t::Int8Type>(a, c, f64::from)),
        ("UInt64", |a, c| primitive::<t::UInt64Type>(a, c, |v| v as f64)),
        ("UInt32", |a, c| primitive::<t::UInt32Type>(a, c, f64::from)),
        ("UInt16", |a, c| primitive::<t::UInt16Type>(a, c, f64::from)),
        ("UInt8", |a, c| primitive::<t::UInt8Type>(a, c, f64::from)),
        ("Boolean", |a, c| c.extend(a.as_boolean().iter().map(|v| v.map_or(f64::NAN, |v| f64::from(u8::from(v)))))),
        ("Null", |a, c| c.extend(std::iter::repeat_n(f64::NAN, a.len()))),
    ];
    let (_, append) = by_kind.iter().find(|(name, _)| *name == kind).ok_or(kind)?;
    append(array, column);
    Ok(())
}
