//! Arrow's IPC file format (Feather version 2), uncompressed, so that a reader can map it into memory as it lies there.

use std::io::{self, Write};
use std::sync::Arc;

use arrow_array::builder::{
    ArrayBuilder, BooleanBuilder, Float64Builder, Int64Builder, ListBuilder, MapBuilder, MapFieldNames, StringBuilder,
    TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_ipc::writer::FileWriter;
use arrow_schema::{ArrowError, DataType as Arrow, Field as ArrowField, Schema as ArrowSchema, SchemaRef, TimeUnit};
use kilter_core::{DataType, Schema, Value};

/// A batch ends at so many rows or so many bytes of values, whatever comes first.
const BATCH_ROWS: usize = 64 * 1024;
const BATCH_BYTES: usize = 64 << 20;

const UTC: &str = "UTC";

pub(super) struct ArrowWriter<W: Write> {
    file: FileWriter<W>,
    held: ArrowRows,
}

/// Rows on their way to an Arrow table: int64, float64, utf8, bool, timestamps in microseconds (UTC), lists and maps, all nullable.
pub struct ArrowRows {
    schema: SchemaRef,
    columns: Vec<Column>,
    rows: usize,
    bytes: usize,
}

/// What is held of one column.
enum Column {
    Bools(BooleanBuilder),
    Whole(Int64Builder),
    Floats(Float64Builder),
    Texts(StringBuilder),
    Times(TimestampMicrosecondBuilder),
    NumberLists(ListBuilder<Float64Builder>),
    TextLists(ListBuilder<StringBuilder>),
    Maps(MapBuilder<StringBuilder, Float64Builder>),
}

impl<W: Write> ArrowWriter<W> {
    pub(super) fn create(out: W, columns: &Schema, metadata: &[(String, String)]) -> io::Result<ArrowWriter<W>> {
        let held = ArrowRows::new(columns, metadata);
        Ok(ArrowWriter { file: FileWriter::try_new(out, &held.schema).map_err(io_error)?, held })
    }

    pub(super) fn push(&mut self, row: &[Value]) -> io::Result<()> {
        self.held.push(row).map_err(io_error)?;
        if self.held.rows >= BATCH_ROWS || self.held.bytes >= BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let batch = self.held.take().map_err(io_error)?;
        self.file.write(&batch).map_err(io_error)
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        if self.held.rows > 0 {
            self.flush()?;
        }
        self.file.into_inner().map_err(io_error)
    }
}

impl ArrowRows {
    pub fn new(columns: &Schema, metadata: &[(String, String)]) -> ArrowRows {
        let fields: Vec<ArrowField> = columns.fields.iter().map(|f| ArrowField::new(&f.name, arrow_type(f.data_type), true)).collect();
        let schema = Arc::new(ArrowSchema::new_with_metadata(fields, metadata.iter().cloned().collect()));
        ArrowRows { schema, columns: columns.fields.iter().map(|f| Column::new(f.data_type)).collect(), rows: 0, bytes: 0 }
    }

    /// Adds a row, whose values are of the columns' types; one of another type counts as null.
    ///
    /// Errors: a column of more bytes than Arrow's offsets count.
    pub fn push(&mut self, row: &[Value]) -> Result<(), ArrowError> {
        for (column, value) in self.columns.iter_mut().zip(row) {
            self.bytes += column.push(value)?;
        }
        self.rows += 1;
        Ok(())
    }

    /// The rows so far, and begins anew.
    ///
    /// Errors: none that rows of one length could cause.
    pub fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let columns = self.columns.iter_mut().map(Column::take).collect();
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &RecordBatchOptions::new().with_row_count(Some(rows)))
    }
}

/// As Arrow's format has them; the builder has others unless told.
fn map_names() -> MapFieldNames {
    MapFieldNames { entry: "entries".into(), key: "key".into(), value: "value".into() }
}

fn arrow_type(data_type: DataType) -> Arrow {
    match data_type {
        DataType::Bool => Arrow::Boolean,
        DataType::Int64 => Arrow::Int64,
        DataType::Float64 => Arrow::Float64,
        DataType::String => Arrow::Utf8,
        DataType::Timestamp => Arrow::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
        DataType::NumberList => Arrow::new_list(Arrow::Float64, true),
        DataType::TextList => Arrow::new_list(Arrow::Utf8, true),
        // The names that the map builder gives.
        DataType::NumberMap => {
            let entry = vec![ArrowField::new("key", Arrow::Utf8, false), ArrowField::new("value", Arrow::Float64, true)];
            Arrow::Map(Arc::new(ArrowField::new("entries", Arrow::Struct(entry.into()), false)), false)
        }
    }
}

impl Column {
    fn new(data_type: DataType) -> Column {
        match data_type {
            DataType::Bool => Column::Bools(BooleanBuilder::new()),
            DataType::Int64 => Column::Whole(Int64Builder::new()),
            DataType::Float64 => Column::Floats(Float64Builder::new()),
            DataType::String => Column::Texts(StringBuilder::new()),
            DataType::Timestamp => Column::Times(TimestampMicrosecondBuilder::new().with_timezone(UTC)),
            DataType::NumberList => Column::NumberLists(ListBuilder::new(Float64Builder::new())),
            DataType::TextList => Column::TextLists(ListBuilder::new(StringBuilder::new())),
            DataType::NumberMap => Column::Maps(MapBuilder::new(Some(map_names()), StringBuilder::new(), Float64Builder::new())),
        }
    }

    /// Adds a value, whose type has been looked at; about how many bytes it takes.
    fn push(&mut self, value: &Value) -> Result<usize, ArrowError> {
        let mut bytes = 8;
        match (&mut *self, value) {
            (Column::Bools(held), Value::Bool(b)) => held.append_value(*b),
            (Column::Whole(held), Value::Int(n)) => held.append_value(*n),
            (Column::Floats(held), Value::Float(x)) => held.append_value(*x),
            (Column::Times(held), Value::Time(t)) => held.append_value(t.0),
            (Column::Texts(held), Value::Text(s)) => {
                bytes += s.len();
                held.append_value(s);
            }
            (Column::NumberLists(held), Value::List(items)) => {
                bytes += 8 * items.len();
                items.iter().for_each(|item| held.values().append_option(item.as_f64()));
                held.append(true);
            }
            (Column::TextLists(held), Value::List(items)) => {
                for item in items.iter() {
                    let text = if let Value::Text(text) = item { Some(text.as_str()) } else { None };
                    bytes += 8 + text.map_or(0, str::len);
                    held.values().append_option(text);
                }
                held.append(true);
            }
            (Column::Maps(held), Value::Map(entries)) => {
                for (key, number) in entries.iter() {
                    bytes += 16 + key.len();
                    held.keys().append_value(key);
                    held.values().append_value(*number);
                }
                held.append(true)?;
            }
            _ => self.push_null()?,
        }
        Ok(bytes)
    }

    fn push_null(&mut self) -> Result<(), ArrowError> {
        match self {
            Column::Bools(held) => held.append_null(),
            Column::Whole(held) => held.append_null(),
            Column::Floats(held) => held.append_null(),
            Column::Texts(held) => held.append_null(),
            Column::Times(held) => held.append_null(),
            Column::NumberLists(held) => held.append_null(),
            Column::TextLists(held) => held.append_null(),
            Column::Maps(held) => held.append(false)?,
        }
        Ok(())
    }

    fn take(&mut self) -> ArrayRef {
        let builder: &mut dyn ArrayBuilder = match self {
            Column::Bools(held) => held,
            Column::Whole(held) => held,
            Column::Floats(held) => held,
            Column::Texts(held) => held,
            Column::Times(held) => held,
            Column::NumberLists(held) => held,
            Column::TextLists(held) => held,
            Column::Maps(held) => held,
        };
        builder.finish()
    }
}

/// The error of the disk where it is one, so that a full disk is told as such.
fn io_error(error: ArrowError) -> io::Error {
    match error {
        ArrowError::IoError(_, io) => io,
        other => io::Error::other(other),
    }
}
