//! CSV with a header; columns are matched by name, an empty cell is null.

use std::io::Read;

use csv::ByteRecord;
use kilter_core::{EventTime, Value};

use super::json::push_json_string;
use crate::error::{ConnectError, FieldProblem, Rejection};
use crate::format::{Decoded, EVENT_ID_FIELD, IdOf, OperationOf, RowFormat, TimeOf, Unchecked, UnknownFields};
use crate::typed::from_text;

/// Where a column of the file goes.
pub(crate) enum Target {
    Column(usize),
    EventId,
    Operation,
    Extra,
    Nowhere,
}

/// Matches the columns of a table with the schema. Beside the targets: the schema's columns that the table lacks.
pub(crate) fn targets(names: &[String], format: &RowFormat, what: &str) -> Result<(Vec<Target>, Vec<usize>), ConnectError> {
    let mut taken = vec![false; format.schema.len()];
    let mut targets = Vec::with_capacity(names.len());
    for (at, name) in names.iter().enumerate() {
        if names[..at].contains(name) {
            return Err(
                ConnectError::new("bad_header", format!("{what}: column `{name}` appears twice")).hint("give every column its own name")
            );
        }
        targets.push(match format.schema.index(name) {
            Some(column) => {
                taken[column] = true;
                Target::Column(column)
            }
            None if format.operation.is_field(name) => Target::Operation,
            None if format.reads_event_id() && name == EVENT_ID_FIELD => Target::EventId,
            None => match format.unknown {
                UnknownFields::Keep => Target::Extra,
                UnknownFields::Ignore => Target::Nowhere,
                UnknownFields::Reject => {
                    let missing: Vec<&str> = format.schema.names().filter(|n| !names.iter().any(|m| m == n)).collect();
                    let hint = match kilter_core::nearest(name, missing.iter().copied()) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("columns of `{}`: {}", format.source, kilter_core::list(format.schema.names())),
                    };
                    return Err(
                        ConnectError::new("bad_header", format!("{what}: source `{}` has no column `{name}`", format.source)).hint(hint)
                    );
                }
            },
        });
    }
    let needed = |column: usize| {
        format.required.contains(&column)
            || format.key.contains(&column)
            || matches!(format.time, TimeOf::Column(c) if c == column)
            || format.id == IdOf::Column(column)
            || format.operation == OperationOf::Column(column)
    };
    let absent: Vec<usize> = (0..format.schema.len()).filter(|&c| !taken[c]).collect();
    let missing = absent.iter().find(|&&c| needed(c)).map(|&column| &format.schema.fields[column].name);
    // A table without it would make upserts of all its deletes.
    let operation = match &format.operation {
        OperationOf::Field(name) if !names.contains(name) => Some(name),
        _ => None,
    };
    if let Some(name) = missing.or(operation) {
        let hint = match kilter_core::nearest(name, names.iter().map(String::as_str)) {
            Some(near) => format!("the file has `{near}`: rename it, or the column in the definitions"),
            None => format!("columns of the file: {}", kilter_core::list(names.iter().map(String::as_str))),
        };
        return Err(
            ConnectError::new("missing_column", format!("{what}: no column `{name}`, which source `{}` needs", format.source)).hint(hint)
        );
    }
    Ok((targets, absent))
}

/// The rows of a CSV text.
pub(crate) struct CsvRows<R> {
    reader: csv::Reader<R>,
    targets: Vec<Target>,
    names: Vec<String>,
    /// Columns of the schema that the file lacks; they are null in every row.
    pub(crate) absent: Vec<usize>,
    record: ByteRecord,
    over: bool,
}

impl<R: Read> CsvRows<R> {
    pub(crate) fn new(input: R, format: &RowFormat, what: &str) -> Result<CsvRows<R>, ConnectError> {
        let mut reader = csv::ReaderBuilder::new().flexible(true).has_headers(false).buffer_capacity(1 << 16).from_reader(input);
        let mut record = ByteRecord::new();
        let read = reader.read_byte_record(&mut record).map_err(|e| ConnectError::new("unreadable_file", format!("{what}: {e}")))?;
        if !read {
            return Err(ConnectError::new("bad_header", format!("{what}: empty")).hint("the first line names the columns"));
        }
        let mut names = Vec::with_capacity(record.len());
        for (i, cell) in record.iter().enumerate() {
            let cell = if i == 0 { super::json::strip_bom(cell) } else { cell };
            let name =
                std::str::from_utf8(cell).map_err(|_| ConnectError::new("bad_header", format!("{what}: the header is not UTF-8 text")))?;
            names.push(name.trim().to_owned());
        }
        if let [only] = names.as_slice()
            && let Some(separator) = [';', '\t', '|'].into_iter().find(|s| only.contains(*s))
        {
            let error = ConnectError::new("bad_header", format!("{what}: the header has one column only, and {separator:?} in it"));
            return Err(error.hint("columns are separated by commas"));
        }
        let (targets, absent) = targets(&names, format, what)?;
        Ok(CsvRows { reader, targets, names, absent, record, over: false })
    }

    /// Bytes of the text read so far.
    pub(crate) fn position(&self) -> u64 {
        self.reader.position().byte()
    }

    pub(crate) fn next_row(&mut self, format: &RowFormat, arrived: EventTime) -> Option<Result<Decoded, Rejection>> {
        if self.over {
            return None;
        }
        match self.reader.read_byte_record(&mut self.record) {
            Ok(true) => {}
            Ok(false) => {
                self.over = true;
                return None;
            }
            Err(e) => {
                self.over = true;
                let line = self.reader.position().line() as usize;
                return Some(Err(Rejection::new("unreadable_file", format!("reading stopped: {e}"), b"", line)));
            }
        }
        let line = self.record.position().map_or(0, |p| p.line() as usize);
        Some(self.decode(line, format, arrived).map_err(|mut rejection| {
            rejection.row = line;
            rejection
        }))
    }

    fn decode(&self, line: usize, format: &RowFormat, arrived: EventTime) -> Result<Decoded, Rejection> {
        let record = &self.record;
        if record.len() != self.targets.len() {
            let message = format!("line {line}: {} cells where the header has {}", record.len(), self.targets.len());
            let rejection = Rejection::new("wrong_column_count", message, &self.payload(), line);
            return Err(rejection.hint("put a cell that holds a comma or a line break in double quotes"));
        }
        let mut read = Unchecked { row: vec![Value::Null; format.schema.len()], ..Unchecked::default() };
        let mut extra = String::new();
        for ((cell, target), name) in record.iter().zip(&self.targets).zip(&self.names) {
            let text = match (target, std::str::from_utf8(cell)) {
                (Target::Nowhere, _) => continue,
                (_, Ok(text)) => text,
                (_, Err(_)) => {
                    read.problems
                        .push(FieldProblem::new("not_utf8", name, format!("{name}: not UTF-8 text")).hint("save the file as UTF-8"));
                    continue;
                }
            };
            match target {
                Target::Column(column) => {
                    let field = &format.schema.fields[*column];
                    match from_text(text, field.data_type) {
                        Ok(value) => read.row[*column] = value,
                        Err(mismatch) => read.problems.push(mismatch.at(&field.name)),
                    }
                }
                Target::EventId if !text.is_empty() => read.event_id = Value::text(text),
                Target::Operation if !text.is_empty() => read.operation = Value::text(text),
                Target::Extra if !text.is_empty() => push_extra(&mut extra, name, text),
                Target::EventId | Target::Operation | Target::Extra | Target::Nowhere => {}
            }
        }
        read.extra = (!extra.is_empty()).then(|| format!("{{{extra}}}").into_boxed_str());
        format.finish(read, arrived).map_err(|faulty| Rejection::from_problems(faulty.problems, &self.payload(), line))
    }

    /// The record as one line of CSV.
    fn payload(&self) -> Vec<u8> {
        let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
        let written = writer.write_byte_record(&self.record);
        let mut bytes = writer.into_inner().unwrap_or_default();
        if written.is_err() {
            bytes.clear();
        }
        bytes.truncate(bytes.trim_ascii_end().len());
        bytes
    }
}

/// An undeclared cell as JSON: a number or boolean where it is written as JSON writes one, else text ("007" stays text).
fn push_extra(extra: &mut String, name: &str, text: &str) {
    if !extra.is_empty() {
        extra.push(',');
    }
    push_json_string(extra, name);
    extra.push(':');
    let plain = matches!(text, "true" | "false") || (text.len() <= 32 && text.parse::<serde_json::Number>().is_ok());
    if plain {
        extra.push_str(text);
    } else {
        push_json_string(extra, text);
    }
}
