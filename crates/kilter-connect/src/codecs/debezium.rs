//! The envelope in which Debezium and its kin send the change of a row: `{"before": .., "after": .., "op": .., "ts_ms": .., "source": ..}`, alone or as
//! the `payload` of a message with its schema.
//!
//! The row is `after`, of a delete `before`. Columns named `__op`, `__ts_ms` (`_us`, `_ns`) and `__source_NAME` take their values from the envelope, by the
//! names that Debezium's own flattening gives them. Messages that tell of no row are passed over: tombstones, heartbeats, bounds of
//! transactions, changes of a schema, logical messages.

use std::fmt;

use kilter_core::{CompactString, EventTime, Operation, Schema, Value};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::json::{CompactStr, ValueSeed};
use crate::error::FieldProblem;
use crate::operation;

/// What PostgreSQL's connector sends for a large value that the change left as it was.
const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// The fields that decide what a message is.
const READ: [&str; 6] = ["payload", "op", "before", "after", "source", "ts_ms"];

/// Columns that hold something of the envelope instead of the row.
pub(crate) struct Metadata {
    columns: Vec<(usize, From)>,
}

enum From {
    Envelope(String),
    Source(String),
}

/// The change of one row.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    /// The JSON object of the row.
    pub row: &'a str,
    pub operation: Operation,
    /// As the envelope has it.
    pub op: CompactString,
    /// When the database changed the row; else when the change was read.
    pub happened: Option<EventTime>,
    envelope: Fields<'a>,
    source: Fields<'a>,
}

/// Why a message is no change.
#[derive(Debug)]
pub(crate) enum Refused {
    Syntax(serde_json::Error),
    Problem(Box<FieldProblem>),
}

type Fields<'a> = Vec<(CompactString, &'a str)>;

/// Reads a message; none: it tells of no row.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<Change<'_>>, Refused> {
    let message: &RawValue = serde_json::from_slice(bytes).map_err(Refused::Syntax)?;
    let Some(mut envelope) = object(message.get(), "")? else { return Ok(None) };
    if let (Some(payload), None) = (find(&envelope, "payload"), find(&envelope, "op")) {
        match object(payload, "payload")? {
            Some(inner) => envelope = inner,
            None => return Ok(None),
        }
    }
    let op = match find(&envelope, "op").map(serde_json::from_str::<Option<CompactStr>>) {
        Some(Ok(Some(op))) => op.0,
        Some(Err(_)) => return refused("bad_envelope", "op", "op: an operation is a text", "c, r, u or d"),
        None | Some(Ok(None)) if tells_of_no_row(&envelope) => return Ok(None),
        None | Some(Ok(None)) => {
            let hint = "a change is {\"before\": .., \"after\": .., \"op\": .., \"source\": ..}; for flat rows leave `envelope` out and name their `operation`";
            return refused("bad_envelope", "op", "op: missing, so this is no change in Debezium's envelope", hint);
        }
    };
    if op == "m" {
        return Ok(None);
    }
    let mut problems = Vec::new();
    let operation = operation::parse(&Value::Text(op.clone()), "op", &mut problems);
    if let Some(problem) = problems.pop() {
        return Err(Refused::Problem(Box::new(problem)));
    }
    let row = row(&envelope, operation, &op)?;
    let source = match find(&envelope, "source") {
        Some(source) => object(source, "source")?.unwrap_or_default(),
        None => Vec::new(),
    };
    let happened =
        [&source, &envelope].into_iter().find_map(|fields| find(fields, "ts_ms")?.parse::<i64>().ok()).map(EventTime::from_number);
    Ok(Some(Change { row, operation, op, happened, envelope, source }))
}

impl Change<'_> {
    /// The field of the envelope that holds the row.
    pub(crate) fn row_name(&self) -> &'static str {
        row_name(self.operation)
    }
}

fn row_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Upsert => "after",
        Operation::Delete => "before",
    }
}

fn row<'a>(envelope: &Fields<'a>, operation: Operation, op: &str) -> Result<&'a str, Refused> {
    let name = row_name(operation);
    let row = find(envelope, name).unwrap_or("null");
    match (kind(row), operation) {
        ("an object", _) => Ok(row),
        ("null", Operation::Delete) => refused(
            "missing_key",
            name,
            "before: missing or null, so the row that was deleted is not known",
            "the table needs a primary key, or REPLICA IDENTITY FULL (PostgreSQL)",
        ),
        ("null", Operation::Upsert) => {
            refused("missing_row", name, format!("after: missing or null, and the operation is `{op}`"), "of a delete the operation is `d`")
        }
        ("a string", _) => {
            let hint = "MongoDB's documents come so: flatten them first with ExtractNewDocumentState, and leave `envelope` out";
            refused("bad_envelope", name, format!("{name}: expected an object, got a string"), hint)
        }
        (other, _) => refused("bad_envelope", name, format!("{name}: expected an object, got {other}"), "it holds the columns of the row"),
    }
}

/// Heartbeats have times only, bounds of transactions a status, changes of a schema the statement or the tables.
fn tells_of_no_row(envelope: &Fields<'_>) -> bool {
    let has = |name| find(envelope, name).is_some();
    let heartbeat = !envelope.is_empty() && envelope.iter().all(|(name, _)| matches!(name.as_str(), "ts_ms" | "ts_us" | "ts_ns"));
    let no_row = !has("before") && !has("after");
    heartbeat || (no_row && ((has("status") && has("id")) || has("ddl") || has("tableChanges")))
}

impl Metadata {
    pub(crate) fn of(schema: &Schema) -> Metadata {
        let columns = schema.names().enumerate().filter_map(|(column, name)| Some((column, From::parse(name)?)));
        Metadata { columns: columns.collect() }
    }

    /// Puts the envelope's part into the row, and takes out what the envelope does not carry.
    pub(crate) fn fill(&self, change: &Change<'_>, schema: &Schema, row: &mut [Value], problems: &mut Vec<FieldProblem>) {
        for (value, field) in row.iter_mut().zip(&schema.fields) {
            if !matches!(value, Value::Text(text) if text == UNAVAILABLE) {
                continue;
            }
            *value = Value::Null;
            if change.operation == Operation::Upsert {
                let message = format!("{}: the change does not carry this large value, which it left as it was", field.name);
                let problem = FieldProblem::new("unavailable_value", &field.name, message);
                problems.push(problem.hint("give the table REPLICA IDENTITY FULL, or leave the column out of the definitions"));
            }
        }
        for (column, from) in &self.columns {
            let field = &schema.fields[*column];
            problems.retain(|p| p.field != field.name);
            let found = match from {
                From::Envelope(name) => find(&change.envelope, name),
                From::Source(name) => find(&change.source, name),
            };
            row[*column] = Value::Null;
            let Some(text) = found else { continue };
            match ValueSeed(field.data_type).deserialize(&mut serde_json::Deserializer::from_str(text)) {
                Ok(Ok(value)) => row[*column] = value,
                Ok(Err(mismatch)) => problems.push(mismatch.at(&field.name)),
                Err(_) => problems.push(FieldProblem::new("malformed_json", &field.name, format!("{}: broken text", field.name))),
            }
        }
    }
}

/// Whether a column of that name holds something of the envelope.
pub(crate) fn is_metadata(column: &str) -> bool {
    From::parse(column).is_some()
}

impl From {
    fn parse(column: &str) -> Option<From> {
        match column.strip_prefix("__")? {
            name @ ("op" | "ts_ms" | "ts_us" | "ts_ns") => Some(From::Envelope(name.to_owned())),
            name => name.strip_prefix("source_").map(|name| From::Source(name.to_owned())),
        }
    }
}

fn refused<T>(code: &'static str, field: &str, message: impl Into<String>, hint: &str) -> Result<T, Refused> {
    Err(Refused::Problem(Box::new(FieldProblem::new(code, field, message).hint(hint))))
}

fn find<'a>(fields: &Fields<'a>, name: &str) -> Option<&'a str> {
    fields.iter().find(|(n, _)| n == name).map(|(_, text)| *text)
}

fn kind(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b'n') => "null",
        Some(b't' | b'f') => "a boolean",
        _ => "a number",
    }
}

/// The fields of a piece of JSON that must be an object; none for null.
fn object<'a>(json: &'a str, field: &str) -> Result<Option<Fields<'a>>, Refused> {
    match kind(json) {
        "an object" => {}
        "null" => return Ok(None),
        other => {
            let at = if field.is_empty() { String::new() } else { format!("{field}: ") };
            return refused(
                "bad_envelope",
                field,
                format!("{at}expected an object, got {other}"),
                "a change is an object with `op`, `before` and `after`",
            );
        }
    }
    let mut json = serde_json::Deserializer::from_str(json);
    let fields = json.deserialize_map(FieldsVisitor).map_err(Refused::Syntax)?;
    if let Some(name) = READ.into_iter().find(|name| fields.iter().filter(|(n, _)| n == name).nth(1).is_some()) {
        let message = format!("{name}: given twice in one object");
        return refused("duplicate_field", name, message, "send it once: which of the two is meant cannot be known");
    }
    Ok(Some(fields))
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some(CompactStr(name)) = map.next_key()? {
            let value: &'de RawValue = map.next_value()?;
            fields.push((name, value.get()));
        }
        Ok(fields)
    }
}
