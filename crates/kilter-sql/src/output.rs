//! Answers as tables in files and bodies.

use std::io::Write;

use datafusion::arrow::csv;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::ipc::writer::StreamWriter;
use datafusion::arrow::json;
use datafusion::arrow::record_batch::RecordBatch;
use std::sync::Arc;

use crate::encode::Columns;
use crate::error::{INTERNAL, Result, SqlError};

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Csv,
    /// One JSON object a line.
    Json,
    /// Arrow's stream of record batches.
    Arrow,
}

impl Format {
    /// Every format with its word.
    pub const ALL: [(Format, &'static str); 3] = [(Format::Csv, "csv"), (Format::Json, "json"), (Format::Arrow, "arrow")];

    /// The format of a word.
    pub fn parse(word: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|(_, known)| *known == word).map(|(format, _)| format)
    }

    /// What a body of it is called.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Csv => "text/csv; charset=utf-8",
            Format::Json => "application/x-ndjson",
            Format::Arrow => "application/vnd.apache.arrow.stream",
        }
    }
}

/// Writes batches one after the other.
pub struct Writer<W: Write>(Kind<W>, SchemaRef);

enum Kind<W: Write> {
    Csv(csv::Writer<W>),
    Json(json::LineDelimitedWriter<W>),
    Arrow(Box<StreamWriter<W>>),
}

fn failed(e: impl std::fmt::Display) -> SqlError {
    SqlError::new(INTERNAL, format!("the rows cannot be written: {e}"))
}

impl<W: Write> Writer<W> {
    /// Begins with the names of the columns, where the format has them at the beginning.
    ///
    /// # Errors
    /// When it cannot be written to, or the names cannot stand beside each other.
    pub fn new(out: W, format: Format, schema: &Schema, names: &[String]) -> Result<Writer<W>> {
        let fields: Vec<_> = schema.fields().iter().zip(names).map(|(field, name)| field.as_ref().clone().with_name(name)).collect();
        let schema = Arc::new(Schema::new(fields));
        let mut kind = match format {
            Format::Csv => Kind::Csv(csv::WriterBuilder::new().with_header(true).build(out)),
            Format::Json => Kind::Json(json::WriterBuilder::new().with_explicit_nulls(true).build(out)),
            Format::Arrow => Kind::Arrow(Box::new(StreamWriter::try_new(out, &schema).map_err(failed)?)),
        };
        if let Kind::Csv(writer) = &mut kind {
            // The names stand there even where no row follows.
            writer.write(&RecordBatch::new_empty(Arc::clone(&schema))).map_err(failed)?;
        }
        Ok(Writer(kind, schema))
    }

    /// # Errors
    /// When it cannot be written to.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let batch =
            batch.clone().with_schema(Arc::clone(&self.1)).or_else(|_| RecordBatch::try_new(Arc::clone(&self.1), batch.columns().to_vec()));
        let batch = batch.map_err(failed)?;
        match &mut self.0 {
            Kind::Csv(writer) => writer.write(&batch).map_err(failed),
            Kind::Json(writer) => writer.write(&batch).map_err(failed),
            Kind::Arrow(writer) => writer.write(&batch).map_err(failed),
        }
    }

    /// # Errors
    /// When it cannot be written to.
    pub fn finish(&mut self) -> Result<()> {
        match &mut self.0 {
            Kind::Csv(_) => Ok(()),
            Kind::Json(writer) => writer.finish().map_err(failed),
            Kind::Arrow(writer) => writer.finish().map_err(failed),
        }
    }
}

/// The rows of a batch as texts, for a table that people read; null is nothing.
///
/// # Errors
/// When a value cannot be told.
pub fn texts(batch: &RecordBatch) -> Result<Vec<Vec<Option<String>>>> {
    let columns = Columns::of(batch)?;
    Ok((0..batch.num_rows()).map(|row| (0..batch.num_columns()).map(|column| columns.text(column, row)).collect()).collect())
}
