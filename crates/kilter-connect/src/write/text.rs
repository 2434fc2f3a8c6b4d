//! CSV and NDJSON, row by row. Floats are written so that reading them gives the same bits, times as RFC 3339.

use std::io::{self, Write};

use kilter_core::{Schema, Value};

use crate::codecs::json::push_json_string;

pub(super) struct CsvWriter<W: Write> {
    writer: csv::Writer<W>,
    cell: String,
}

impl<W: Write> CsvWriter<W> {
    pub(super) fn create(out: W, columns: &Schema) -> io::Result<CsvWriter<W>> {
        let mut writer = csv::WriterBuilder::new().buffer_capacity(1 << 16).from_writer(out);
        writer.write_record(columns.names()).map_err(io_error)?;
        Ok(CsvWriter { writer, cell: String::new() })
    }

    pub(super) fn push(&mut self, row: &[Value]) -> io::Result<()> {
        for value in row {
            self.cell.clear();
            match value {
                Value::Null => {}
                Value::Text(text) => {
                    self.writer.write_field(text.as_str()).map_err(io_error)?;
                    continue;
                }
                other => push_plain(&mut self.cell, other),
            }
            self.writer.write_field(&self.cell).map_err(io_error)?;
        }
        self.writer.write_record(None::<&[u8]>).map_err(io_error)
    }

    pub(super) fn finish(self) -> io::Result<W> {
        self.writer.into_inner().map_err(|e| e.into_error())
    }
}

fn io_error(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(e) => e,
        other => io::Error::other(format!("{other:?}")),
    }
}

pub(super) struct NdjsonWriter<W: Write> {
    out: io::BufWriter<W>,
    /// `"name":` of each column.
    names: Vec<String>,
    line: String,
}

impl<W: Write> NdjsonWriter<W> {
    pub(super) fn create(out: W, columns: &Schema) -> NdjsonWriter<W> {
        let names = columns
            .names()
            .map(|name| {
                let mut text = String::new();
                push_json_string(&mut text, name);
                text + ":"
            })
            .collect();
        NdjsonWriter { out: io::BufWriter::with_capacity(1 << 16, out), names, line: String::new() }
    }

    pub(super) fn push(&mut self, row: &[Value]) -> io::Result<()> {
        self.line.clear();
        for (value, name) in row.iter().zip(&self.names) {
            self.line.push(if self.line.is_empty() { '{' } else { ',' });
            self.line.push_str(name);
            match value {
                Value::Null => self.line.push_str("null"),
                Value::Text(text) => push_json_string(&mut self.line, text),
                Value::Time(time) => push_json_string(&mut self.line, &time.to_string()),
                // JSON has no infinity.
                Value::Float(x) if !x.is_finite() => self.line.push_str("null"),
                plain => push_plain(&mut self.line, plain),
            }
        }
        self.line.push_str("}\n");
        self.out.write_all(self.line.as_bytes())
    }

    pub(super) fn finish(self) -> io::Result<W> {
        self.out.into_inner().map_err(|e| e.into_error())
    }
}

fn push_plain(to: &mut String, value: &Value) {
    use std::fmt::Write as _;
    // Writing to a string cannot fail. The debug form of a float has an exponent where it is long and reads back to the same bits.
    let _ = match value {
        Value::Float(x) => write!(to, "{x:?}"),
        // Numbers, texts and keys are always JSON.
        Value::List(_) | Value::Map(_) => write!(to, "{}", serde_json::to_string(value).unwrap_or_default()),
        other => write!(to, "{other}"),
    };
}
