//! How the rows of one source are to be read, and the checks every row passes whatever its codec.

use std::fmt;
use std::sync::Arc;

use kilter_core::record::MAX_ID_BYTES;
use kilter_core::{CompactString, EventTime, Operation, Origin, Schema, Span, Value};

use crate::codecs::debezium;
use crate::error::FieldProblem;
use crate::operation;

/// The field that carries a client's event id when the schema names no column for it.
pub const EVENT_ID_FIELD: &str = "event_id";

/// What becomes of fields the schema does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UnknownFields {
    /// Kept beside the row as JSON, so that a column declared later finds its history.
    #[default]
    Keep,
    Ignore,
    Reject,
}

/// Where the time of an event comes from.
#[derive(Clone)]
pub enum TimeOf {
    /// A column of type timestamp.
    Column(usize),
    /// The moment the row arrived.
    Arrival,
    /// Computed from the row. An integer result is read by [`EventTime::from_number`].
    Function(TimeFunction),
}

/// The time of an event from its row, compiled by the caller.
pub type TimeFunction = Arc<dyn Fn(&[Value]) -> Value + Send + Sync>;

/// Where the client's id of an event comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IdOf {
    /// The field [`EVENT_ID_FIELD`], which is then not an unknown field.
    #[default]
    Reserved,
    /// A column of type string or int64.
    Column(usize),
    Nothing,
}

/// Where it stands what an event does to the row of its key.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum OperationOf {
    /// Nowhere: every event is an upsert.
    #[default]
    Nothing,
    /// A column of type string.
    Column(usize),
    /// A field that is no column.
    Field(String),
    /// The row lies in the envelope of Debezium, which says it.
    Debezium,
}

impl OperationOf {
    /// Whether the column of that name takes its value from the envelope instead of the row.
    pub fn gives(&self, column: &str) -> bool {
        *self == OperationOf::Debezium && debezium::is_metadata(column)
    }

    /// The field the codecs hand in beside the row.
    pub(crate) fn is_field(&self, name: &str) -> bool {
        matches!(self, OperationOf::Field(field) if field == name)
    }
}

/// How to read the rows of one source.
#[derive(Clone, Debug)]
pub struct RowFormat {
    /// The source's name, for messages.
    pub source: String,
    pub schema: Schema,
    pub time: TimeOf,
    /// What to call the time in messages: the column's name or the expression's text.
    pub time_name: String,
    pub id: IdOf,
    /// Columns of the primary key, which may never be null; of a delete nothing else is asked for.
    pub key: Vec<usize>,
    pub operation: OperationOf,
    /// Columns that may not be null: entity keys and the like.
    pub required: Vec<usize>,
    pub unknown: UnknownFields,
    /// How far an event's time may lie after its arrival; none: no such limit.
    pub max_future: Option<Span>,
}

/// Limits on one body or file; beyond them a row or body is rejected, never cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows in one body. Files have no such limit.
    pub max_rows: usize,
    /// Nesting of arrays and objects in one row.
    pub max_depth: usize,
    /// Fields of one object, declared or not.
    pub max_fields: usize,
    /// Bytes of one line of an NDJSON file.
    pub max_line: usize,
}

/// A row that passed the door.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// One value per column of the schema.
    pub row: Vec<Value>,
    pub time: EventTime,
    pub id: Option<CompactString>,
    pub operation: Operation,
    /// Fields the schema does not name, as a JSON object.
    pub extra: Option<Box<str>>,
    /// Where it was read, if that has an order of its own; codecs do not know.
    pub origin: Option<Origin>,
}

/// A row as its codec read it, before the checks that hold for every row.
#[derive(Debug, Default)]
pub(crate) struct Unchecked {
    pub row: Vec<Value>,
    /// The field [`EVENT_ID_FIELD`], where the format reads it.
    pub event_id: Value,
    /// The operation, where no column holds it.
    pub operation: Value,
    /// When its envelope says that it happened: the time of a delete whose row tells none.
    pub happened: Option<EventTime>,
    pub extra: Option<Box<str>>,
    pub problems: Vec<FieldProblem>,
}

/// A row that did not pass, for its dead letter.
pub(crate) struct Faulty {
    pub problems: Vec<FieldProblem>,
    pub row: Vec<Value>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_rows: 100_000, max_depth: 64, max_fields: 4096, max_line: 16 << 20 }
    }
}

impl fmt::Debug for TimeOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TimeOf::Column(column) => write!(f, "Column({column})"),
            TimeOf::Arrival => f.write_str("Arrival"),
            TimeOf::Function(_) => f.write_str("Function(..)"),
        }
    }
}

impl RowFormat {
    /// Rows timed by their arrival, no column required, unknown fields kept; change what differs.
    pub fn new(source: impl Into<String>, schema: Schema) -> RowFormat {
        RowFormat {
            source: source.into(),
            schema,
            time: TimeOf::Arrival,
            time_name: "arrival".into(),
            id: IdOf::default(),
            key: Vec::new(),
            operation: OperationOf::default(),
            required: Vec::new(),
            unknown: UnknownFields::default(),
            max_future: None,
        }
    }

    /// Times events by the column of that name, when the schema has it.
    pub fn time_column(mut self, name: &str) -> RowFormat {
        if let Some(column) = self.schema.index(name) {
            self.time = TimeOf::Column(column);
            self.time_name = name.to_owned();
        }
        self
    }

    /// Makes an event of a row that was read elsewhere: its id and time, with the checks that hold for every row.
    ///
    /// # Errors
    /// All problems of the row: required columns that are null, a bad id, a time that is missing or absurd.
    pub fn complete(&self, row: Vec<Value>, arrived: EventTime) -> Result<Decoded, Vec<FieldProblem>> {
        self.finish(Unchecked { row, ..Unchecked::default() }, arrived).map_err(|faulty| faulty.problems)
    }

    /// The same of a row whose operation stands beside it, where no column holds it ([`OperationOf::Field`]).
    ///
    /// # Errors
    /// As [`RowFormat::complete`], and a word that is no operation.
    pub fn complete_change(&self, row: Vec<Value>, operation: Value, arrived: EventTime) -> Result<Decoded, Vec<FieldProblem>> {
        self.finish(Unchecked { row, operation, ..Unchecked::default() }, arrived).map_err(|faulty| faulty.problems)
    }

    pub(crate) fn reads_event_id(&self) -> bool {
        self.reserves_event_id() && self.schema.index(EVENT_ID_FIELD).is_none()
    }

    /// A row out of a table has no id beside its columns: a column of that name is the table's own, the same in every change of the row.
    fn reserves_event_id(&self) -> bool {
        self.id == IdOf::Reserved && self.operation != OperationOf::Debezium
    }

    /// Checks that hold for a whole row: the operation, required columns, the id, the time. Problems already found come back with the new ones.
    pub(crate) fn finish(&self, read: Unchecked, arrived: EventTime) -> Result<Decoded, Faulty> {
        let Unchecked { row, event_id, operation, happened, extra, mut problems } = read;
        let operation = match &self.operation {
            OperationOf::Nothing => Operation::Upsert,
            OperationOf::Column(column) => {
                let name = self.schema.fields.get(*column).map_or("", |f| f.name.as_str());
                operation::parse(row.get(*column).unwrap_or(&Value::Null), name, &mut problems)
            }
            OperationOf::Field(name) => operation::parse(&operation, name, &mut problems),
            OperationOf::Debezium => operation::parse(&operation, "op", &mut problems),
        };
        let needed = self.required.iter().filter(|c| operation == Operation::Upsert && !self.key.contains(c));
        let time_column = match self.time {
            TimeOf::Column(column) => Some(column),
            _ => None,
        };
        for &column in self.key.iter().chain(needed) {
            if Some(column) != time_column && row.get(column).is_none_or(Value::is_null) {
                let name = self.schema.fields.get(column).map_or("", |f| f.name.as_str());
                if !problems.iter().any(|p| p.field == name) {
                    problems.push(missing(name, "missing_key").hint(format!("source `{}` needs it in every row", self.source)));
                }
            }
        }
        let id = match self.id {
            IdOf::Nothing => None,
            IdOf::Reserved if !self.reserves_event_id() => None,
            IdOf::Reserved if self.reads_event_id() => id(&event_id, EVENT_ID_FIELD, &mut problems),
            IdOf::Reserved => self.id_of_column(&row, self.schema.index(EVENT_ID_FIELD).unwrap_or(usize::MAX), &mut problems),
            IdOf::Column(column) => self.id_of_column(&row, column, &mut problems),
        };
        let time = match (&self.time, problems.is_empty()) {
            // An expression over a row that is already known to be wrong would only add noise.
            (TimeOf::Function(_), false) => None,
            (TimeOf::Column(_), _) if problems.iter().any(|p| p.field == self.time_name) => None,
            _ => self.time_of(&row, arrived, happened.filter(|_| operation == Operation::Delete), &mut problems),
        };
        match time {
            Some(time) if problems.is_empty() => Ok(Decoded { row, time, id, operation, extra, origin: None }),
            _ => Err(Faulty { problems, row }),
        }
    }

    fn id_of_column(&self, row: &[Value], column: usize, problems: &mut Vec<FieldProblem>) -> Option<CompactString> {
        id(row.get(column)?, &self.schema.fields.get(column)?.name, problems)
    }

    /// `otherwise`: the time where the row tells none.
    fn time_of(
        &self,
        row: &[Value],
        arrived: EventTime,
        otherwise: Option<EventTime>,
        problems: &mut Vec<FieldProblem>,
    ) -> Option<EventTime> {
        let computed;
        let value = match &self.time {
            TimeOf::Arrival => return Some(arrived),
            TimeOf::Column(column) => row.get(*column).unwrap_or(&Value::Null),
            TimeOf::Function(function) => {
                computed = function(row);
                &computed
            }
        };
        let time = match (value, otherwise) {
            (Value::Time(time), _) => *time,
            (Value::Int(n), _) => EventTime::from_number(*n),
            (Value::Null, Some(time)) => time,
            (Value::Null, None) => {
                let hint = format!("every event of `{}` needs its time, RFC 3339 such as 2026-01-31T10:00:00Z", self.source);
                problems.push(missing(&self.time_name, "missing_time").hint(hint));
                return None;
            }
            (other, _) => {
                problems.push(FieldProblem::new("missing_time", &self.time_name, format!("{}: `{other}` is not a time", self.time_name)));
                return None;
            }
        };
        let latest = self.max_future.map_or(EventTime::LATEST, |span| (arrived + span).min(EventTime::LATEST));
        if !(EventTime::EARLIEST..=latest).contains(&time) {
            problems.push(self.absurd(time, latest, arrived));
            return None;
        }
        Some(time)
    }

    fn absurd(&self, time: EventTime, latest: EventTime, arrived: EventTime) -> FieldProblem {
        // A sender's clock that runs ahead is another matter than a time that never was.
        let is_ahead = latest < time && time <= EventTime::LATEST;
        let code = if is_ahead { "future_time" } else { "absurd_time" };
        let limit = if time < EventTime::EARLIEST {
            format!("before the earliest time allowed, {}", EventTime::EARLIEST)
        } else if latest == EventTime::LATEST {
            format!("after the latest time allowed, {latest}")
        } else {
            let ahead = self.max_future.unwrap_or_default();
            format!("{} after its arrival; at most {ahead} is allowed (latest {latest})", coarse(time - arrived))
        };
        let near = |t: i64| t.saturating_sub(arrived.0).saturating_abs() < 20 * 365 * Span::DAY.0;
        let hint = if near(time.0 / 1_000) {
            "it looks like milliseconds read as seconds: send RFC 3339 text or whole seconds".to_owned()
        } else if near(time.0 / 1_000_000) {
            "it looks like microseconds read as seconds: send RFC 3339 text or whole seconds".to_owned()
        } else if near(time.0.saturating_mul(1_000)) {
            "it looks like seconds read as milliseconds: send RFC 3339 text or whole seconds".to_owned()
        } else if time < EventTime::EARLIEST {
            "is it an empty date's default? send null or leave the row out".to_owned()
        } else if time - arrived <= Span(26 * Span::HOUR.0) {
            "the sender's clock or time zone may be off: add the offset to the time, such as +02:00, or raise `max_future`".to_owned()
        } else {
            "check the unit and the year; `max_future` of the source sets the limit".to_owned()
        };
        FieldProblem {
            expected: Some(format!("a time up to {latest}")),
            got: Some(time.to_string()),
            ..FieldProblem::new(code, &self.time_name, format!("{}: {time} is {limit}", self.time_name)).hint(hint)
        }
    }
}

pub(crate) fn missing(name: &str, code: &'static str) -> FieldProblem {
    FieldProblem { got: Some("nothing".into()), ..FieldProblem::new(code, name, format!("{name}: missing or null")) }
}

fn id(value: &Value, field: &str, problems: &mut Vec<FieldProblem>) -> Option<CompactString> {
    let problem = match value {
        Value::Null => return None,
        Value::Int(n) => return Some(CompactString::from(n.to_string())),
        Value::Text(text) if text.is_empty() => FieldProblem::new("bad_id", field, format!("{field}: an event id may not be empty"))
            .hint("send null or leave it out when there is none"),
        Value::Text(text) if text.len() > MAX_ID_BYTES => {
            let message = format!("{field}: an event id has at most {MAX_ID_BYTES} bytes, got {}", text.len());
            FieldProblem::new("bad_id", field, message).hint("send a hash of it instead")
        }
        Value::Text(text) => return Some(text.clone()),
        _ => FieldProblem::new("bad_id", field, format!("{field}: an event id is a string or a whole number, got {value}")),
    };
    problems.push(problem);
    None
}

/// A length of time in its largest whole unit: for people, not for arithmetic.
fn coarse(span: Span) -> Span {
    let unit = [Span::DAY, Span::HOUR, Span::MINUTE, Span::SECOND].into_iter().find(|u| span.0 >= u.0).unwrap_or(Span(1));
    Span(span.0 / unit.0 * unit.0)
}
