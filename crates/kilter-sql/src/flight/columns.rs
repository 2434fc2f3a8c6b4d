//! Columns as clients are told of them: types that every implementation of Arrow has, and the same in what was announced and in what comes.

use std::sync::Arc;

use arrow_flight::{IpcMessage, SchemaAsIpc};
use bytes::Bytes;
use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::arrow::ipc::root_as_message;
use datafusion::arrow::ipc::writer::IpcWriteOptions;
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::error::{INTERNAL, Result, SqlError, TOO_MUCH, UNSUPPORTED};

/// Bytes of a column of one batch.
const MOST: u64 = 256 << 20;

/// What a column is told to be: no views, which are new, and no dictionaries, which readers would have to follow over the stream.
fn plain(data_type: &DataType) -> DataType {
    let inner = |field: &FieldRef| Arc::new(field.as_ref().clone().with_data_type(plain(field.data_type())));
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => plain(values),
        DataType::RunEndEncoded(_, values) => plain(values.data_type()),
        DataType::List(item) | DataType::ListView(item) => DataType::List(inner(item)),
        DataType::LargeList(item) | DataType::LargeListView(item) => DataType::LargeList(inner(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(inner(item), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => DataType::Decimal128(*precision, *scale),
        other => other.clone(),
    }
}

/// The schema that clients are told.
pub fn told(schema: &Schema) -> SchemaRef {
    let field = |field: &FieldRef| Field::new(field.name(), plain(field.data_type()), true).with_metadata(field.metadata().clone());
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

/// Rows as they were announced.
///
/// # Errors
/// When they are others.
pub fn as_told(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let failed = |e: datafusion::arrow::error::ArrowError| SqlError::new(INTERNAL, format!("the rows are not what was announced: {e}"));
    let column = |(array, field): (&ArrayRef, &FieldRef)| {
        if array.data_type() == field.data_type() {
            return Ok(Arc::clone(array));
        }
        if let Some(bytes) = unfolded(array).filter(|bytes| *bytes > MOST) {
            let message =
                format!("column \"{}\" would take {bytes} bytes for the rows of one batch; they are {MOST} at most", field.name());
            return Err(SqlError::new(TOO_MUCH, message));
        }
        cast(array, field.data_type()).map_err(failed)
    };
    let columns = batch.columns().iter().zip(schema.fields()).map(column).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(failed)
}

/// Bytes of a column whose values share theirs, once each has its own; none: they have their own.
fn unfolded(array: &ArrayRef) -> Option<u64> {
    match array.data_type() {
        DataType::Utf8View => Some(array.as_string_view().lengths().map(u64::from).sum()),
        DataType::BinaryView => Some(array.as_binary_view().lengths().map(u64::from).sum()),
        _ => None,
    }
}

/// Whether a parameter may be of a type: one whose values take no more memory than the bytes that they come in, whatever those say.
pub fn is_taken(data_type: &DataType) -> bool {
    let is_flat = |one: &DataType| {
        one.is_primitive()
            || matches!(one, DataType::Boolean | DataType::Utf8 | DataType::LargeUtf8 | DataType::Binary | DataType::LargeBinary)
    };
    match data_type {
        DataType::List(item) | DataType::LargeList(item) => is_flat(item.data_type()),
        DataType::Dictionary(_, values) => is_flat(values),
        DataType::Null | DataType::Utf8View | DataType::BinaryView => true,
        one => is_flat(one),
    }
}

/// Refuses a message whose bytes are not the values themselves: how long they would become, or how often they are taken in hand, it says as it likes.
///
/// # Errors
/// When it is compressed, or goes on with what came before, or makes no sense.
pub fn are_values(header: &[u8]) -> Result<()> {
    let failed = |e| SqlError::new("08P01", format!("the parameters make no sense: {e}"));
    let message = root_as_message(header).map_err(failed)?;
    let dictionary = message.header_as_dictionary_batch();
    if dictionary.is_some_and(|batch| batch.isDelta()) {
        return Err(SqlError::new(UNSUPPORTED, "a dictionary of parameters comes at once").hint("send the values themselves"));
    }
    let dictionary = dictionary.and_then(|batch| batch.data());
    let compression = message.header_as_record_batch().or(dictionary).and_then(|batch| batch.compression());
    match compression {
        None => Ok(()),
        Some(_) => Err(SqlError::new(UNSUPPORTED, "parameters are not taken compressed").hint("they are small: send them as they are")),
    }
}

/// A schema as bytes.
///
/// # Errors
/// When it cannot be written.
pub fn bytes(schema: &Schema) -> Result<Bytes> {
    let written = IpcMessage::try_from(SchemaAsIpc::new(schema, &IpcWriteOptions::default()));
    written.map(|IpcMessage(bytes)| bytes).map_err(|e| SqlError::new(INTERNAL, format!("a schema cannot be written: {e}")))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{DictionaryArray, Int64Array, StringViewArray};
    use datafusion::arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn rows_come_as_they_were_announced() {
        let views: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a"), None]));
        let words: ArrayRef = Arc::new(vec!["x", "y"].into_iter().collect::<DictionaryArray<Int32Type>>());
        let batch =
            RecordBatch::try_from_iter([("v", views), ("w", words), ("n", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)]).unwrap();
        let schema = told(&batch.schema());
        let types: Vec<&DataType> = schema.fields().iter().map(|field| field.data_type()).collect();
        assert_eq!(types, [&DataType::Utf8, &DataType::Utf8, &DataType::Int64]);
        let batch = as_told(&batch, &schema).unwrap();
        assert_eq!(batch.schema(), schema);
        assert_eq!(batch.column(1).as_string::<i32>().value(1), "y");
    }
}
