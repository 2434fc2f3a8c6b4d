//! Parquet through the column readers, a batch of rows at a time; only the columns that are wanted are read.

use std::fs::File;

use kilter_core::{CompactString, DataType, EventTime, Schema, Span, Value};
use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type as Physical};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType as ParquetType, FixedLenByteArray, Int96};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use super::csv::{Target, targets};
use super::json::push_json_string;
use crate::encode::row_to_json;
use crate::error::{ConnectError, Rejection};
use crate::format::{Decoded, RowFormat, Unchecked, UnknownFields};
use crate::typed::{Mismatch, Raw, Rules, typed};

const BATCH: usize = 2048;

/// The rows of a Parquet file.
pub(crate) struct ParquetRows {
    reader: SerializedFileReader<File>,
    columns: Vec<Column>,
    /// Columns of the schema that the file lacks; they are null in every row.
    pub(crate) absent: Vec<usize>,
    /// Columns of the file that hold lists or types that have no plain value; they are left out.
    pub(crate) skipped: Vec<String>,
    open: Vec<ColumnReader>,
    next_group: usize,
    left_in_group: usize,
    at: usize,
    filled: usize,
    row: usize,
    total: u64,
    over: bool,
}

/// One column that is read, and its part of the current batch.
struct Column {
    name: String,
    leaf: usize,
    kind: Kind,
    target: Target,
    declared: DataType,
    max_level: i16,
    values: Vec<Value>,
    /// Values of the batch that are not of the declared type, by row of the batch, ascending.
    wrong: Vec<(usize, Mismatch)>,
    levels: Vec<i16>,
}

/// What the stored number or bytes mean.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plain,
    Unsigned,
    Text,
    /// Multiply by the first and divide by the second for microseconds.
    Time(i64, i64),
    /// Divide by ten to this power.
    Decimal(i32),
}

impl ParquetRows {
    pub(crate) fn new(file: File, format: &RowFormat, what: &str) -> Result<ParquetRows, ConnectError> {
        let reader = guarded(|| SerializedFileReader::new(file)).map_err(|e| not_parquet(what, &e))?;
        let descriptor = reader.metadata().file_metadata().schema_descr_ptr();
        let total = u64::try_from(reader.metadata().file_metadata().num_rows()).unwrap_or(0);
        let (mut names, mut leaves, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
        for (leaf, column) in descriptor.columns().iter().enumerate() {
            let name = column.path().string();
            match kind(column) {
                Some(kind) if column.max_rep_level() == 0 => {
                    names.push(name);
                    leaves.push((leaf, kind, column.physical_type(), column.max_def_level()));
                }
                _ if format.schema.index(&name).is_some() => {
                    let error = ConnectError::new(
                        "column_type",
                        format!("{what}: column `{name}` is a list or has a type that has no plain value"),
                    );
                    return Err(error.hint("flatten it in the file, or leave it out of the definitions"));
                }
                _ => skipped.push(name),
            }
        }
        if format.unknown == UnknownFields::Ignore {
            skipped.clear();
        }
        let (targets, absent) = targets(&names, format, what)?;
        let mut columns = Vec::new();
        for ((name, (leaf, kind, physical, max_level)), target) in names.into_iter().zip(leaves).zip(targets) {
            let declared = match &target {
                Target::Nowhere => continue,
                Target::Column(column) => format.schema.fields[*column].data_type,
                Target::EventId if natural(kind, physical) == DataType::Int64 => DataType::Int64,
                Target::EventId | Target::Operation => DataType::String,
                Target::Extra => natural(kind, physical),
            };
            let stored = natural(kind, physical);
            if !readable(stored, declared) {
                let error = ConnectError::new(
                    "column_type",
                    format!("{what}: column `{name}` is {stored} in the file and {declared} in the definitions"),
                );
                return Err(error.hint(format!("declare it {stored}")));
            }
            columns.push(Column { name, leaf, kind, target, declared, max_level, values: vec![], wrong: vec![], levels: vec![] });
        }
        Ok(ParquetRows {
            reader,
            columns,
            absent,
            skipped,
            open: vec![],
            next_group: 0,
            left_in_group: 0,
            at: 0,
            filled: 0,
            row: 0,
            total,
            over: false,
        })
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Rows given out so far.
    pub(crate) fn position(&self) -> u64 {
        self.row as u64
    }

    pub(crate) fn next_row(&mut self, format: &RowFormat, arrived: EventTime) -> Option<Result<Decoded, Rejection>> {
        if self.over {
            return None;
        }
        while self.at == self.filled {
            match guarded(|| self.fill()) {
                Ok(true) => {}
                Ok(false) => {
                    self.over = true;
                    return None;
                }
                Err(e) => {
                    self.over = true;
                    return Some(Err(Rejection::new(
                        "unreadable_file",
                        format!("reading stopped after row {}: {e}", self.row),
                        b"",
                        self.row,
                    )));
                }
            }
        }
        let (at, row) = (self.at, self.row);
        self.at += 1;
        self.row += 1;
        let mut read = Unchecked { row: vec![Value::Null; format.schema.len()], ..Unchecked::default() };
        let mut extra = String::new();
        for column in &mut self.columns {
            let value = std::mem::take(&mut column.values[at]);
            if !column.wrong.is_empty()
                && let Ok(found) = column.wrong.binary_search_by_key(&at, |(row, _)| *row)
            {
                read.problems.push(column.wrong[found].1.clone().at(&column.name));
            }
            match column.target {
                Target::Column(slot) => read.row[slot] = value,
                Target::EventId => read.event_id = value,
                Target::Operation => read.operation = value,
                Target::Extra => push_extra(&mut extra, &column.name, &value),
                Target::Nowhere => {}
            }
        }
        read.extra = (!extra.is_empty()).then(|| format!("{{{extra}}}").into_boxed_str());
        Some(format.finish(read, arrived).map_err(|faulty| {
            let payload = row_to_json(&format.schema, &faulty.row).to_string();
            Rejection::from_problems(faulty.problems, payload.as_bytes(), row)
        }))
    }

    /// Reads the next batch; false at the end of the file.
    fn fill(&mut self) -> Result<bool, ParquetError> {
        while self.left_in_group == 0 {
            if self.next_group == self.reader.num_row_groups() {
                return Ok(false);
            }
            let group = self.reader.get_row_group(self.next_group)?;
            self.next_group += 1;
            self.left_in_group = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
            self.open = self.columns.iter().map(|c| group.get_column_reader(c.leaf)).collect::<Result<_, _>>()?;
        }
        let n = self.left_in_group.min(BATCH);
        for (column, reader) in self.columns.iter_mut().zip(&mut self.open) {
            column.fill(reader, n)?;
        }
        self.left_in_group -= n;
        (self.at, self.filled) = (0, n);
        Ok(true)
    }
}

/// The columns of a Parquet file that hold plain values, with the types they would be declared as.
pub(crate) fn plain_columns(file: File, what: &str) -> Result<Schema, ConnectError> {
    let reader = guarded(|| SerializedFileReader::new(file)).map_err(|e| not_parquet(what, &e))?;
    let descriptor = reader.metadata().file_metadata().schema_descr_ptr();
    let plain = descriptor.columns().iter().filter(|c| c.max_rep_level() == 0);
    Ok(Schema::new(plain.filter_map(|c| Some((c.path().string(), natural(kind(c)?, c.physical_type()))))))
}

pub(crate) fn not_parquet(what: &str, error: &ParquetError) -> ConnectError {
    ConnectError::new("not_parquet", format!("{what}: not a readable Parquet file: {error}"))
        .hint("is the file complete, and is it Parquet?")
}

/// The parquet crate panics on some damaged files (an index out of range, an assertion); here that is an error like any other. What it left half
/// done is not looked at again: after an error the file is over.
pub(crate) fn guarded<T>(read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(ParquetError::General("the file is damaged".into())))
}

impl Column {
    fn fill(&mut self, reader: &mut ColumnReader, n: usize) -> Result<(), ParquetError> {
        let kind = self.kind;
        match reader {
            ColumnReader::BoolColumnReader(r) => self.fill_from(r, n, |b| Raw::Bool(*b)),
            ColumnReader::Int32ColumnReader(r) => self.fill_from(r, n, |x| match kind {
                Kind::Unsigned => Raw::Int(i64::from(*x as u32)),
                _ => whole(i64::from(*x), kind),
            }),
            ColumnReader::Int64ColumnReader(r) => self.fill_from(r, n, |x| match kind {
                Kind::Unsigned => i64::try_from(*x as u64).map_or(Raw::Huge(*x as u64), Raw::Int),
                _ => whole(*x, kind),
            }),
            ColumnReader::Int96ColumnReader(r) => self.fill_from(r, n, |x: &Int96| Raw::Time(EventTime(x.to_micros()))),
            ColumnReader::FloatColumnReader(r) => self.fill_from(r, n, |x| Raw::Float(f64::from(*x))),
            ColumnReader::DoubleColumnReader(r) => self.fill_from(r, n, |x| Raw::Float(*x)),
            ColumnReader::ByteArrayColumnReader(r) => self.fill_from(r, n, |x: &ByteArray| bytes(x.data(), kind)),
            ColumnReader::FixedLenByteArrayColumnReader(r) => self.fill_from(r, n, |x: &FixedLenByteArray| bytes(x.data(), kind)),
        }
    }

    fn fill_from<T: ParquetType>(
        &mut self,
        reader: &mut ColumnReaderImpl<T>,
        n: usize,
        raw: impl for<'a> Fn(&'a T::T) -> Raw<'a>,
    ) -> Result<(), ParquetError> {
        self.values.clear();
        self.wrong.clear();
        self.levels.clear();
        let mut stored: Vec<T::T> = Vec::with_capacity(n);
        let mut read = 0;
        while read < n {
            let (records, _, _) = reader.read_records(n - read, Some(&mut self.levels), None, &mut stored)?;
            if records == 0 {
                let message = format!("column `{}` ends {} rows before the others", self.name, n - read);
                return Err(ParquetError::EOF(message));
            }
            read += records;
        }
        let mut stored = stored.iter();
        for at in 0..n {
            // A column that may not be null carries no levels.
            let null = self.max_level > 0 && self.levels.get(at).is_none_or(|level| *level < self.max_level);
            let value = if null {
                Value::Null
            } else {
                let Some(value) = stored.next() else {
                    return Err(ParquetError::EOF(format!("column `{}` has fewer values than it says", self.name)));
                };
                typed(raw(value), self.declared, Rules::Table).unwrap_or_else(|mismatch| {
                    self.wrong.push((at, mismatch));
                    Value::Null
                })
            };
            self.values.push(value);
        }
        Ok(())
    }
}

fn whole<'a>(x: i64, kind: Kind) -> Raw<'a> {
    match kind {
        Kind::Time(multiply, divide) => Raw::Time(EventTime(x.saturating_mul(multiply).div_euclid(divide))),
        Kind::Decimal(scale) => Raw::Float(x as f64 / 10f64.powi(scale)),
        Kind::Plain | Kind::Unsigned | Kind::Text => Raw::Int(x),
    }
}

fn bytes(data: &[u8], kind: Kind) -> Raw<'_> {
    match kind {
        // Big-endian two's complement of any length.
        Kind::Decimal(scale) => {
            let negative = data.first().is_some_and(|b| b & 0x80 != 0);
            let magnitude = data.iter().fold(0.0, |sum, b| sum * 256.0 + f64::from(if negative { !b } else { *b }));
            Raw::Float(if negative { -(magnitude + 1.0) } else { magnitude } / 10f64.powi(scale))
        }
        _ => std::str::from_utf8(data).map_or(Raw::Bytes, Raw::Text),
    }
}

/// The meaning of a column's stored values; none where they have no plain value.
fn kind(column: &ColumnDescriptor) -> Option<Kind> {
    let unit = |unit: &TimeUnit| match unit {
        TimeUnit::MILLIS => Kind::Time(1_000, 1),
        TimeUnit::MICROS => Kind::Time(1, 1),
        TimeUnit::NANOS => Kind::Time(1, 1_000),
    };
    let physical = column.physical_type();
    let is_bytes = matches!(physical, Physical::BYTE_ARRAY | Physical::FIXED_LEN_BYTE_ARRAY);
    Some(match (column.logical_type_ref(), column.converted_type()) {
        (Some(LogicalType::Timestamp(t)), _) => unit(&t.unit),
        (Some(LogicalType::Date), _) | (None, ConvertedType::DATE) => Kind::Time(Span::DAY.0, 1),
        (Some(LogicalType::Decimal(d)), _) => Kind::Decimal(d.scale),
        (Some(LogicalType::Integer(i)), _) if !i.is_signed => Kind::Unsigned,
        (Some(LogicalType::Float16 | LogicalType::Uuid | LogicalType::Bson), _) => return None,
        (None, ConvertedType::TIMESTAMP_MILLIS) => Kind::Time(1_000, 1),
        (None, ConvertedType::TIMESTAMP_MICROS) => Kind::Time(1, 1),
        (None, ConvertedType::DECIMAL) => Kind::Decimal(column.type_scale()),
        (None, ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64) => Kind::Unsigned,
        (None, ConvertedType::INTERVAL | ConvertedType::BSON) => return None,
        _ if physical == Physical::INT96 => Kind::Time(1, 1),
        // Bytes without a note are mostly text of old writers; those that are not UTF-8 are rejected row by row.
        _ if is_bytes => Kind::Text,
        _ => Kind::Plain,
    })
}

/// The type a column would be declared as.
fn natural(kind: Kind, physical: Physical) -> DataType {
    match (kind, physical) {
        (Kind::Time(..), _) => DataType::Timestamp,
        (Kind::Decimal(_), _) => DataType::Float64,
        (Kind::Text, _) => DataType::String,
        (_, Physical::BOOLEAN) => DataType::Bool,
        (_, Physical::FLOAT | Physical::DOUBLE) => DataType::Float64,
        _ => DataType::Int64,
    }
}

/// Whether values stored as one type can be read as another, value by value.
fn readable(stored: DataType, declared: DataType) -> bool {
    use DataType::*;
    stored == declared
        || matches!((stored, declared), (Int64, Float64 | Timestamp | Bool) | (Float64, Int64 | Timestamp) | (String, Timestamp))
}

fn push_extra(extra: &mut String, name: &str, value: &Value) {
    let text = match value {
        Value::Null => return,
        Value::Text(s) => s.clone(),
        Value::Time(t) => CompactString::from(t.to_string()),
        plain => {
            comma(extra, name);
            extra.push_str(&serde_json::to_string(plain).unwrap_or_else(|_| "null".into()));
            return;
        }
    };
    comma(extra, name);
    push_json_string(extra, &text);
}

fn comma(extra: &mut String, name: &str) {
    if !extra.is_empty() {
        extra.push(',');
    }
    push_json_string(extra, name);
    extra.push(':');
}
