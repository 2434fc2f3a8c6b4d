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

#[expect(clippy::large_enum_variant, reason = "there is one for each answer")]
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

/// The rows of a batch as arrays in JSON, one a line: numbers, booleans, null and texts; whole numbers beyond 2^53, NaN and infinities as texts, times by
/// RFC 3339. Once there are more than `most` bytes it breaks off, wherever in a row that is.
///
/// # Errors
/// When a value cannot be told.
pub fn arrays(batch: &RecordBatch, most: usize) -> Result<String> {
    let columns = Columns::of(batch)?;
    let mut out = String::new();
    for row in 0..batch.num_rows() {
        for column in 0..batch.num_columns() {
            out.push(if column == 0 { '[' } else { ',' });
            columns.json(column, row, &mut out);
            if out.len() > most {
                return Ok(out);
            }
        }
        out.push_str(if batch.num_columns() == 0 { "[]\n" } else { "]\n" });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{
        ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, NullArray, StringArray, TimestampMicrosecondArray,
    };

    use super::*;

    #[test]
    fn every_value_has_a_form_that_any_reader_of_json_takes_as_it_is() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("bool", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
            ("int", Arc::new(Int64Array::from(vec![1 << 53, (1 << 53) + 1, -5]))),
            ("float", Arc::new(Float64Array::from(vec![1.5, f64::NAN, f64::NEG_INFINITY]))),
            ("large", Arc::new(Float64Array::from(vec![1e300, -0.0, f64::INFINITY]))),
            (
                "decimal",
                Arc::new(Decimal128Array::from(vec![150, 12_345_678_901_234_567_890, -1]).with_precision_and_scale(38, 2).unwrap()),
            ),
            ("text", Arc::new(StringArray::from(vec![Some("a \"b\"\n\u{1}"), None, Some("")]))),
            ("time", Arc::new(TimestampMicrosecondArray::from(vec![Some(1_700_000_000_250_000), Some(-1), None]).with_timezone("UTC"))),
            ("local", Arc::new(TimestampMicrosecondArray::from(vec![Some(1_700_000_000_000_000), None, None]))),
            ("null", Arc::new(NullArray::new(3))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let text = arrays(&batch, usize::MAX).unwrap();
        assert_eq!(arrays(&batch, 5).unwrap(), "[true,9007199254740992");
        let expected = [
            r#"[true,9007199254740992,1.5,1e+300,1.50,"a \"b\"\n\u0001","2023-11-14T22:13:20.25Z","2023-11-14T22:13:20",null]"#,
            r#"[false,"9007199254740993","NaN",-0,"123456789012345678.90",null,"1969-12-31T23:59:59.999999Z",null,null]"#,
            r#"[null,-5,"-Infinity","Infinity",-0.01,"",null,null,null]"#,
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
        for line in text.lines() {
            serde_json::from_str::<Vec<serde_json::Value>>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        }
    }
}
