//! Tables out: typed rows to Parquet, Arrow, CSV and NDJSON, a bounded number of them in memory.

mod arrow;
mod parquet;
mod text;

use std::io::{self, Write};

use kilter_core::{Schema, Value};

pub use self::arrow::ArrowRows;
use self::arrow::ArrowWriter;
use self::parquet::ParquetWriter;
use self::text::{CsvWriter, NdjsonWriter};

/// The formats a table can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFormat {
    Parquet,
    /// Arrow's IPC file format, which is also Feather version 2.
    Arrow,
    Csv,
    Ndjson,
}

impl TableFormat {
    pub const ALL: [TableFormat; 4] = [TableFormat::Parquet, TableFormat::Arrow, TableFormat::Csv, TableFormat::Ndjson];

    pub fn name(self) -> &'static str {
        match self {
            TableFormat::Parquet => "parquet",
            TableFormat::Arrow => "arrow",
            TableFormat::Csv => "csv",
            TableFormat::Ndjson => "ndjson",
        }
    }

    /// The format of that name, or of a file with that extension (`jsonl`, `pq`, `feather` and `ipc` too).
    pub fn parse(name: &str) -> Option<TableFormat> {
        match name.to_ascii_lowercase().as_str() {
            "parquet" | "pq" => Some(TableFormat::Parquet),
            "arrow" | "feather" | "ipc" => Some(TableFormat::Arrow),
            "csv" => Some(TableFormat::Csv),
            "ndjson" | "jsonl" => Some(TableFormat::Ndjson),
            _ => None,
        }
    }
}

/// A table being written. The same rows give the same bytes.
pub struct TableWriter<W: Write + Send> {
    columns: Schema,
    form: Form<W>,
}

enum Form<W: Write + Send> {
    Parquet(Box<ParquetWriter<W>>),
    Arrow(Box<ArrowWriter<W>>),
    Csv(Box<CsvWriter<W>>),
    Ndjson(NdjsonWriter<W>),
}

impl<W: Write + Send> TableWriter<W> {
    /// Begins a table. `metadata` goes into the file where its format has a place for it: in Parquet and Arrow.
    pub fn create(out: W, format: TableFormat, columns: &Schema, metadata: &[(String, String)]) -> io::Result<TableWriter<W>> {
        let form = match format {
            TableFormat::Parquet => Form::Parquet(Box::new(ParquetWriter::create(out, columns, metadata)?)),
            TableFormat::Arrow => Form::Arrow(Box::new(ArrowWriter::create(out, columns, metadata)?)),
            TableFormat::Csv => Form::Csv(Box::new(CsvWriter::create(out, columns)?)),
            TableFormat::Ndjson => Form::Ndjson(NdjsonWriter::create(out, columns)),
        };
        Ok(TableWriter { columns: columns.clone(), form })
    }

    /// Adds a row: one value per column, of its type or null.
    ///
    /// # Errors
    /// Of the disk; `InvalidInput` for a row of another shape.
    pub fn push(&mut self, row: &[Value]) -> io::Result<()> {
        if row.len() != self.columns.len() {
            let message = format!("a row of {} values in a table of {} columns", row.len(), self.columns.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        for (value, field) in row.iter().zip(&self.columns.fields) {
            if !value.is_null() && !value.fits(field.data_type) {
                let message = format!("column `{}` is {}, got `{value}`", field.name, field.data_type);
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
        }
        match &mut self.form {
            Form::Parquet(writer) => writer.push(row),
            Form::Arrow(writer) => writer.push(row),
            Form::Csv(writer) => writer.push(row),
            Form::Ndjson(writer) => writer.push(row),
        }
    }

    /// Writes what is still held and the file's end.
    pub fn finish(self) -> io::Result<W> {
        match self.form {
            Form::Parquet(writer) => writer.finish(),
            Form::Arrow(writer) => writer.finish(),
            Form::Csv(writer) => writer.finish(),
            Form::Ndjson(writer) => writer.finish(),
        }
    }
}
