//! Arrow record batches in and out, by Arrow's PyCapsule interface, and their values as the engine's.

use std::ffi::CStr;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi, to_ffi};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, RecordBatch, StructArray, types as t};
use arrow_schema::{DataType as Arrow, TimeUnit};
use kilter_core::{DataType, EventTime, Value};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::value_error;

const SCHEMA: &CStr = c"arrow_schema";
const ARRAY: &CStr = c"arrow_array";

/// A record batch of pyarrow's, or of anything that speaks `__arrow_c_array__`.
pub struct Batch(pub RecordBatch);

impl FromPyObject<'_, '_> for Batch {
    type Error = PyErr;

    fn extract(data: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let (schema, array): (Bound<'_, PyAny>, Bound<'_, PyAny>) = data.call_method0("__arrow_c_array__")?.extract()?;
        let schema = schema.cast::<PyCapsule>()?.pointer_checked(Some(SCHEMA))?.cast::<FFI_ArrowSchema>();
        let array = array.cast::<PyCapsule>()?.pointer_checked(Some(ARRAY))?.cast::<FFI_ArrowArray>();
        // SAFETY: capsules of these names hold an array and its schema by Arrow's PyCapsule interface; `from_raw` moves them out and marks the
        // capsules' as released.
        let data = unsafe {
            let schema = FFI_ArrowSchema::from_raw(schema.as_ptr());
            from_ffi(FFI_ArrowArray::from_raw(array.as_ptr()), &schema).map_err(value_error)?
        };
        if !matches!(data.data_type(), Arrow::Struct(_)) {
            return Err(PyTypeError::new_err(format!("expected a record batch, found {}", data.data_type())));
        }
        Ok(Batch(RecordBatch::from(StructArray::from(data))))
    }
}

/// A record batch on its way out: `pyarrow.record_batch(it)`.
#[pyclass(frozen)]
pub struct Given(RecordBatch);

impl Given {
    pub fn new(batch: RecordBatch) -> Given {
        Given(batch)
    }
}

#[pymethods]
impl Given {
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyCapsule>, Bound<'py, PyCapsule>)> {
        // A consumer may ask for other types; the interface lets a producer give its own.
        let _ = requested_schema;
        let (array, schema) = to_ffi(&StructArray::from(self.0.clone()).into_data()).map_err(value_error)?;
        Ok((PyCapsule::new_with_value(py, schema, SCHEMA)?, PyCapsule::new_with_value(py, array, ARRAY)?))
    }
}

/// The values of a column, as of a type.
///
/// # Errors
/// The column is of a type that does not hold such values.
pub fn values(name: &str, array: &ArrayRef, wanted: DataType) -> PyResult<Vec<Value>> {
    let whole = |value: i64| if wanted == DataType::Float64 { Value::Float(value as f64) } else { Value::Int(value) };
    let is_number = matches!(wanted, DataType::Int64 | DataType::Float64);
    Ok(match array.data_type() {
        Arrow::Null => vec![Value::Null; array.len()],
        Arrow::Boolean if wanted == DataType::Bool => array.as_boolean().iter().map(|b| b.map_or(Value::Null, Value::Bool)).collect(),
        Arrow::Int64 if is_number => primitive::<t::Int64Type>(array, whole),
        Arrow::Int32 if is_number => primitive::<t::Int32Type>(array, |n| whole(n.into())),
        Arrow::Int16 if is_number => primitive::<t::Int16Type>(array, |n| whole(n.into())),
        Arrow::Int8 if is_number => primitive::<t::Int8Type>(array, |n| whole(n.into())),
        Arrow::Float64 if wanted == DataType::Float64 => primitive::<t::Float64Type>(array, Value::float),
        Arrow::Float32 if wanted == DataType::Float64 => primitive::<t::Float32Type>(array, |x| Value::float(x.into())),
        Arrow::Utf8 if wanted == DataType::String => texts(array.as_string::<i32>().iter()),
        Arrow::LargeUtf8 if wanted == DataType::String => texts(array.as_string::<i64>().iter()),
        Arrow::Utf8View if wanted == DataType::String => texts(array.as_string_view().iter()),
        Arrow::Timestamp(TimeUnit::Microsecond, Some(_)) if wanted == DataType::Timestamp => {
            primitive::<t::TimestampMicrosecondType>(array, |micros| Value::Time(EventTime(micros)))
        }
        other => {
            return Err(PyValueError::new_err(format!(
                "column `{name}` is {other} in the data frame, and {wanted} in the definitions\n  hint: cast it: \
                 df.withColumn(\"{name}\", df[\"{name}\"].cast(\"{}\"))",
                spark_type(wanted)
            )));
        }
    })
}

fn primitive<T: ArrowPrimitiveType>(array: &ArrayRef, value: impl Fn(T::Native) -> Value) -> Vec<Value> {
    array.as_primitive::<T>().iter().map(|v| v.map_or(Value::Null, &value)).collect()
}

fn texts<'a>(texts: impl Iterator<Item = Option<&'a str>>) -> Vec<Value> {
    texts.map(|text| text.map_or(Value::Null, Value::text)).collect()
}

/// A type as Spark's DDL writes it.
pub fn spark_type(data_type: DataType) -> &'static str {
    match data_type {
        DataType::Bool => "boolean",
        DataType::Int64 => "bigint",
        DataType::Float64 => "double",
        DataType::String => "string",
        DataType::Timestamp => "timestamp",
        DataType::NumberList => "array<double>",
        DataType::TextList => "array<string>",
        DataType::NumberMap => "map<string,double>",
    }
}

/// A column of a batch by name.
pub fn column<'a>(batch: &'a RecordBatch, name: &str) -> PyResult<&'a ArrayRef> {
    batch.column_by_name(name).ok_or_else(|| {
        let names: Vec<&str> = batch.schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
        PyValueError::new_err(format!("the data frame has no column `{name}`\n  hint: its columns are {}", names.join(", ")))
    })
}

/// A batch of these columns, none of which may be null unless it says so.
pub fn batch(columns: Vec<(&str, ArrayRef, bool)>) -> PyResult<RecordBatch> {
    RecordBatch::try_from_iter_with_nullable(columns).map_err(value_error)
}

/// The bytes of a binary column.
pub fn binary(array: &ArrayRef) -> PyResult<Vec<Option<&[u8]>>> {
    match array.data_type() {
        Arrow::Binary => Ok(array.as_binary::<i32>().iter().collect()),
        Arrow::LargeBinary => Ok(array.as_binary::<i64>().iter().collect()),
        other => Err(PyTypeError::new_err(format!("expected bytes, found {other}"))),
    }
}

/// A shared column.
pub fn shared(array: impl Array + 'static) -> ArrayRef {
    Arc::new(array)
}
