//! Parquet through the column writers, a row group at a time: its columns are held until it is full.

use std::io::{self, Write};
use std::mem::take;
use std::sync::Arc;

use kilter_core::{DataType, Schema, Value};
use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::{Type, TypePtr};

/// A row group ends at so many rows or so many bytes of values, whatever comes first.
const GROUP_ROWS: usize = 128 * 1024;
const GROUP_BYTES: usize = 64 << 20;

pub(super) struct ParquetWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
    columns: Vec<Column>,
    rows: usize,
    bytes: usize,
}

/// What is held of one column. A null has a level of 0 and no value.
struct Column {
    levels: Vec<i16>,
    values: Values,
}

enum Values {
    Bools(Vec<bool>),
    Whole(Vec<i64>),
    Floats(Vec<f64>),
    Texts(Vec<ByteArray>),
}

impl<W: Write + Send> ParquetWriter<W> {
    pub(super) fn create(out: W, columns: &Schema, metadata: &[(String, String)]) -> io::Result<ParquetWriter<W>> {
        let pairs = metadata.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone())).collect();
        let properties = WriterProperties::builder()
            .set_created_by(concat!("kilter ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).map_err(io_error)?))
            .set_key_value_metadata(Some(pairs))
            .build();
        let file = SerializedFileWriter::new(out, schema(columns).map_err(io_error)?, Arc::new(properties)).map_err(io_error)?;
        let columns = columns.fields.iter().map(|f| Column::new(f.data_type)).collect();
        Ok(ParquetWriter { file, columns, rows: 0, bytes: 0 })
    }

    pub(super) fn push(&mut self, row: &[Value]) -> io::Result<()> {
        for (column, value) in self.columns.iter_mut().zip(row) {
            self.bytes += column.push(value);
        }
        self.rows += 1;
        if self.rows >= GROUP_ROWS || self.bytes >= GROUP_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        (self.rows, self.bytes) = (0, 0);
        let mut group = self.file.next_row_group().map_err(io_error)?;
        for column in &mut self.columns {
            if let Some(writer) = group.next_column().map_err(io_error)? {
                column.write(writer).map_err(io_error)?;
            }
        }
        group.close().map(|_| ()).map_err(io_error)
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        if self.rows > 0 {
            self.flush()?;
        }
        self.file.into_inner().map_err(io_error)
    }
}

fn schema(columns: &Schema) -> Result<TypePtr, ParquetError> {
    let fields = columns.fields.iter().map(|field| {
        let (physical, logical) = match field.data_type {
            DataType::Bool => (Physical::BOOLEAN, None),
            DataType::Int64 => (Physical::INT64, None),
            DataType::Float64 => (Physical::DOUBLE, None),
            DataType::String => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            // Lists and maps as JSON texts.
            DataType::NumberList | DataType::TextList | DataType::NumberMap => (Physical::BYTE_ARRAY, Some(LogicalType::Json)),
            DataType::Timestamp => (Physical::INT64, Some(LogicalType::timestamp(true, parquet::basic::TimeUnit::MICROS))),
        };
        let column = Type::primitive_type_builder(&field.name, physical).with_repetition(Repetition::OPTIONAL);
        column.with_logical_type(logical).build().map(Arc::new)
    });
    let fields = fields.collect::<Result<Vec<_>, _>>()?;
    Type::group_type_builder("schema").with_fields(fields).build().map(Arc::new)
}

impl Column {
    fn new(data_type: DataType) -> Column {
        let values = match data_type {
            DataType::Bool => Values::Bools(Vec::new()),
            DataType::Int64 | DataType::Timestamp => Values::Whole(Vec::new()),
            DataType::Float64 => Values::Floats(Vec::new()),
            DataType::String | DataType::NumberList | DataType::TextList | DataType::NumberMap => Values::Texts(Vec::new()),
        };
        Column { levels: Vec::new(), values }
    }

    /// Adds a value, whose type has been looked at; how many bytes it takes.
    fn push(&mut self, value: &Value) -> usize {
        match (&mut self.values, value) {
            (Values::Bools(held), Value::Bool(b)) => held.push(*b),
            (Values::Whole(held), Value::Int(n)) => held.push(*n),
            (Values::Whole(held), Value::Time(t)) => held.push(t.0),
            (Values::Floats(held), Value::Float(x)) => held.push(*x),
            (Values::Texts(held), Value::Text(s)) => held.push(ByteArray::from(s.as_bytes().to_vec())),
            (Values::Texts(held), Value::List(_) | Value::Map(_)) => {
                // Numbers, texts and keys are always JSON.
                let json = serde_json::to_vec(value).unwrap_or_default();
                let bytes = 50 + json.len();
                held.push(ByteArray::from(json));
                self.levels.push(1);
                return bytes;
            }
            _ => {
                self.levels.push(0);
                return 2;
            }
        }
        self.levels.push(1);
        2 + match value {
            Value::Text(s) => 48 + s.len(),
            _ => 8,
        }
    }

    fn write(&mut self, mut writer: SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        let levels = take(&mut self.levels);
        match &mut self.values {
            Values::Bools(held) => writer.typed::<BoolType>().write_batch(&take(held), Some(&levels), None)?,
            Values::Whole(held) => writer.typed::<Int64Type>().write_batch(&take(held), Some(&levels), None)?,
            Values::Floats(held) => writer.typed::<DoubleType>().write_batch(&take(held), Some(&levels), None)?,
            Values::Texts(held) => writer.typed::<ByteArrayType>().write_batch(&take(held), Some(&levels), None)?,
        };
        writer.close()
    }
}

/// The error of the disk where it is one, so that a full disk is told as such.
fn io_error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(inner) => match inner.downcast::<io::Error>() {
            Ok(io) => *io,
            Err(other) => io::Error::other(other),
        },
        other => io::Error::other(other),
    }
}
