//! JSON objects straight into the slots of a row: no tree is built for declared columns.
//!
//! [`plain`] takes the rows that nearly all are; the general reader here takes every row and tells what is wrong with it.
//! A wrong value does not end the reading of its object, so that all problems of one object are known at its end; only text that is not JSON does.

mod plain;

use std::fmt;

use kilter_core::{CompactString, DataType, EventTime, Schema, Value};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::debezium::{self, Metadata, Refused};
use crate::error::{FieldProblem, Rejection};
use crate::format::{Decoded, EVENT_ID_FIELD, Limits, OperationOf, RowFormat, Unchecked, UnknownFields, missing};
use crate::typed::{Mismatch, Raw, Rules, typed};

/// What [`decode_object`] read.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// One value per field of the schema.
    pub row: Vec<Value>,
    /// Fields the schema does not name, as a JSON object.
    pub extra: Option<Box<str>>,
}

/// Reads one JSON object by a schema and reports every problem in it at once, missing fields (`missing_field`) included.
pub fn decode_object(
    bytes: &[u8],
    schema: &Schema,
    required: &[usize],
    unknown: UnknownFields,
    limits: &Limits,
) -> Result<Object, Vec<FieldProblem>> {
    let mut slots = Slots::new(schema, unknown, false, None, limits);
    if let Err(problem) = slots.read(strip_bom(bytes)) {
        return Err(vec![problem.field_problem(bytes)]);
    }
    let Unchecked { row, extra, mut problems, .. } = slots.take();
    for &column in required {
        if row.get(column).is_none_or(Value::is_null) {
            let name = schema.fields.get(column).map_or("", |f| f.name.as_str());
            if !problems.iter().any(|p| p.field == name) {
                let expected = schema.fields.get(column).map(|f| f.data_type.name().to_owned());
                problems.push(FieldProblem { expected, ..missing(name, "missing_field") });
            }
        }
    }
    if problems.is_empty() { Ok(Object { row, extra }) } else { Err(problems) }
}

/// Reads rows of one source, one after the other; scratch space is kept between rows.
pub(crate) struct JsonRows<'f> {
    format: &'f RowFormat,
    arrived: EventTime,
    slots: Slots<'f>,
    /// What the envelope gives to the row, where the format has one.
    metadata: Option<Metadata>,
}

impl<'f> JsonRows<'f> {
    pub(crate) fn new(format: &'f RowFormat, arrived: EventTime, limits: &Limits) -> JsonRows<'f> {
        let operation = match &format.operation {
            OperationOf::Field(name) => Some(name.as_str()),
            OperationOf::Nothing | OperationOf::Column(_) | OperationOf::Debezium => None,
        };
        let metadata = (format.operation == OperationOf::Debezium).then(|| Metadata::of(&format.schema));
        let slots = Slots::new(&format.schema, format.unknown, format.reads_event_id(), operation, limits);
        JsonRows { format, arrived, slots, metadata }
    }

    /// Decodes one object; none: a message that tells of no row. `place`: where it lies, to tell the place of a mistake.
    pub(crate) fn decode(&mut self, bytes: &[u8], place: Place<'_>, row: usize) -> Result<Option<Decoded>, Rejection> {
        let read = match self.metadata {
            Some(_) => match self.open_envelope(bytes, place, row)? {
                Some(read) => read,
                None => return Ok(None),
            },
            None => {
                self.slots.read(bytes).map_err(|problem| problem.rejection(bytes, place, row))?;
                self.slots.take()
            }
        };
        let decoded = self.format.finish(read, self.arrived);
        decoded.map(Some).map_err(|faulty| Rejection::from_problems(faulty.problems, bytes, row))
    }

    fn open_envelope(&mut self, bytes: &[u8], place: Place<'_>, row: usize) -> Result<Option<Unchecked>, Rejection> {
        let of_problem = |problem: FieldProblem| Rejection::from_problems(vec![problem], bytes, row);
        let change = match debezium::read(bytes) {
            Ok(Some(change)) => change,
            Ok(None) => return Ok(None),
            Err(Refused::Syntax(_)) if bytes.trim_ascii().is_empty() => return Err(Unreadable::Empty.rejection(bytes, place, row)),
            Err(Refused::Syntax(e)) => return Err(Unreadable::Syntax(e).rejection(bytes, place, row)),
            Err(Refused::Problem(problem)) => return Err(of_problem(*problem)),
        };
        // The text was found to be JSON; only an escape that is no character can still be wrong. Its place is counted from the row's start.
        if let Err(broken) = self.slots.read(change.row.as_bytes()) {
            let problem = broken.field_problem(change.row.as_bytes());
            let (field, message) = (change.row_name().to_owned(), format!("{}: {}", change.row_name(), problem.message));
            return Err(of_problem(FieldProblem { field, message, ..problem }));
        }
        let mut read = self.slots.take();
        if let Some(metadata) = &self.metadata {
            metadata.fill(&change, &self.format.schema, &mut read.row, &mut read.problems);
        }
        read.operation = Value::Text(change.op);
        read.happened = change.happened;
        Ok(Some(read))
    }
}

/// Where an object lies, to tell the place of a mistake in the text as the sender knows it.
#[derive(Clone, Copy)]
pub(crate) enum Place<'a> {
    /// At this byte of a body.
    Body(&'a [u8], usize),
    /// At this line of a file (from 1).
    Line(usize),
}

/// Text that is not a JSON object.
pub(crate) enum Unreadable {
    /// Not an object but this.
    Kind(&'static str),
    Empty,
    Syntax(serde_json::Error),
}

impl Unreadable {
    fn field_problem(&self, bytes: &[u8]) -> FieldProblem {
        match self {
            Unreadable::Kind(kind) => FieldProblem::new("not_an_object", "", format!("expected a JSON object, got {kind}")),
            Unreadable::Empty => FieldProblem::new("empty_body", "", "expected a JSON object, got nothing"),
            Unreadable::Syntax(e) => FieldProblem::new("malformed_json", "", malformed(e, bytes, Place::Body(bytes, 0))),
        }
    }

    pub(crate) fn rejection(&self, bytes: &[u8], place: Place<'_>, row: usize) -> Rejection {
        match self {
            Unreadable::Kind(kind) => Rejection::new("not_an_object", format!("expected a JSON object, got {kind}"), bytes, row)
                .hint("an event is an object such as {\"amount\": 12.5}"),
            Unreadable::Empty => Rejection::new("not_an_object", "expected a JSON object, got nothing", bytes, row),
            Unreadable::Syntax(e) => Rejection::new("malformed_json", malformed(e, bytes, place), bytes, row),
        }
    }
}

/// "malformed JSON at line 3, column 9 (byte 41): expected ..." with the place counted in the text the sender knows.
fn malformed(error: &serde_json::Error, bytes: &[u8], place: Place<'_>) -> String {
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    // The parser counts lines and columns from 1; column 0 is the line break itself.
    let line_start = line_start(bytes, error.line());
    let offset = (line_start + error.column().saturating_sub(1)).min(bytes.len());
    match place {
        Place::Body(whole, start) => {
            let at = start + offset;
            format!("malformed JSON at {}: {reason}", position(whole, at))
        }
        Place::Line(line) => format!("malformed JSON at line {}, column {}: {reason}", line + error.line() - 1, error.column().max(1)),
    }
}

/// "line 3, column 9 (byte 41)": line and column from 1, byte from 0.
pub(crate) fn position(whole: &[u8], at: usize) -> String {
    let before = &whole[..at.min(whole.len())];
    let line = memchr::memchr_iter(b'\n', before).count() + 1;
    let column = before.len() - memchr::memrchr(b'\n', before).map_or(0, |i| i + 1) + 1;
    format!("line {line}, column {column} (byte {at})")
}

fn line_start(bytes: &[u8], line: usize) -> usize {
    match line {
        0 | 1 => 0,
        n => memchr::memchr_iter(b'\n', bytes).nth(n - 2).map_or(bytes.len(), |i| i + 1),
    }
}

pub(crate) fn strip_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// The row being filled.
struct Slots<'f> {
    schema: &'f Schema,
    unknown: UnknownFields,
    reads_event_id: bool,
    /// The field that tells the operation, where no column does.
    operation_field: Option<&'f str>,
    max_depth: usize,
    max_fields: usize,
    row: Vec<Value>,
    seen: Vec<bool>,
    event_id: Option<Value>,
    operation: Option<Value>,
    /// Undeclared fields as the inside of a JSON object, and their names to tell duplicates.
    extra: String,
    strangers: Vec<CompactString>,
    problems: Vec<FieldProblem>,
    /// The column after the one read last: senders mostly keep the schema's order.
    expected: usize,
    fields: usize,
}

impl<'f> Slots<'f> {
    fn new(
        schema: &'f Schema,
        unknown: UnknownFields,
        reads_event_id: bool,
        operation_field: Option<&'f str>,
        limits: &Limits,
    ) -> Slots<'f> {
        Slots {
            schema,
            unknown,
            reads_event_id,
            operation_field,
            max_depth: limits.max_depth,
            max_fields: limits.max_fields,
            row: Vec::new(),
            seen: Vec::new(),
            event_id: None,
            operation: None,
            extra: String::new(),
            strangers: Vec::new(),
            problems: Vec::new(),
            expected: 0,
            fields: 0,
        }
    }

    fn read(&mut self, bytes: &[u8]) -> Result<(), Unreadable> {
        self.clear();
        if self.read_plain(bytes) {
            return Ok(());
        }
        self.clear();
        self.read_any(bytes)
    }

    fn clear(&mut self) {
        let width = self.schema.len();
        self.row.clear();
        self.row.resize(width, Value::Null);
        self.seen.clear();
        self.seen.resize(width, false);
        self.event_id = None;
        self.operation = None;
        self.extra.clear();
        self.strangers.clear();
        self.problems.clear();
        (self.expected, self.fields) = (0, 0);
    }

    fn read_any(&mut self, bytes: &[u8]) -> Result<(), Unreadable> {
        match bytes.iter().find(|b| !b.is_ascii_whitespace()) {
            Some(b'{') => {}
            Some(b'[') => return Err(Unreadable::Kind("an array")),
            Some(b'"') => return Err(Unreadable::Kind("a string")),
            Some(b'-' | b'0'..=b'9') => return Err(Unreadable::Kind("a number")),
            Some(b't' | b'f') => return Err(Unreadable::Kind("a boolean")),
            Some(b'n') => return Err(Unreadable::Kind("null")),
            Some(_) => return Err(Unreadable::Kind("text that is not JSON")),
            None => return Err(Unreadable::Empty),
        }
        let mut json = serde_json::Deserializer::from_slice(bytes);
        json.deserialize_map(&mut *self).and_then(|()| json.end()).map_err(Unreadable::Syntax)
    }

    fn take(&mut self) -> Unchecked {
        Unchecked {
            row: std::mem::take(&mut self.row),
            event_id: self.event_id.take().unwrap_or_default(),
            operation: self.operation.take().unwrap_or_default(),
            happened: None,
            extra: (!self.extra.is_empty()).then(|| ["{", &self.extra, "}"].concat().into_boxed_str()),
            problems: std::mem::take(&mut self.problems),
        }
    }

    fn column(&mut self, name: &str) -> Option<usize> {
        let fields = &self.schema.fields;
        let found = match fields.get(self.expected) {
            Some(field) if field.name == name => Some(self.expected),
            _ => fields.iter().position(|f| f.name == name),
        };
        if let Some(column) = found {
            self.expected = column + 1;
        }
        found
    }

    #[cold]
    fn problem(&mut self, code: &'static str, field: &str, message: String, hint: Option<String>) {
        self.problems.push(FieldProblem { hint, ..FieldProblem::new(code, field, message) });
    }

    #[cold]
    fn duplicate(&mut self, field: &str) {
        let message = format!("{field}: given twice in one object");
        self.problem("duplicate_field", field, message, Some("send it once: which of the two is meant cannot be known".into()));
    }

    fn stranger<'de, A: MapAccess<'de>>(&mut self, name: CompactString, map: &mut A) -> Result<(), A::Error> {
        if self.strangers.contains(&name) {
            map.next_value::<IgnoredAny>()?;
            self.duplicate(&name);
            return Ok(());
        }
        match self.unknown {
            UnknownFields::Ignore => {
                map.next_value::<IgnoredAny>()?;
                return Ok(());
            }
            UnknownFields::Reject => {
                map.next_value::<IgnoredAny>()?;
                let hint = match kilter_core::nearest(&name, self.schema.names()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("fields known here: {}", kilter_core::list(self.schema.names())),
                };
                self.problem("unknown_field", &name, format!("{name}: no such field"), Some(hint));
            }
            UnknownFields::Keep => {
                let value: &RawValue = map.next_value()?;
                // The row itself is the first level.
                if depth(value.get()) + 1 > self.max_depth {
                    let message = format!("{name}: nested deeper than {} levels", self.max_depth);
                    self.problem("too_deep", &name, message, Some("flatten it, or send it as text".into()));
                } else if !can_be_read_again(value.get()) {
                    let message = format!("{name}: holds a number beyond float64 or an escape that is no character");
                    self.problem(
                        "unreadable_value",
                        &name,
                        message,
                        Some("send it as plain text, or set `unknown = \"ignore\"` on the source".into()),
                    );
                } else {
                    if !self.extra.is_empty() {
                        self.extra.push(',');
                    }
                    push_json_string(&mut self.extra, &name);
                    self.extra.push(':');
                    self.extra.push_str(value.get());
                }
            }
        }
        self.strangers.push(name);
        Ok(())
    }
}

pub(crate) fn push_json_string(out: &mut String, text: &str) {
    // Writing to memory and serialising a string cannot fail.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

/// Whether a value that is well formed can be kept: skipping over JSON does not notice half a surrogate pair (`\ud83d`) or `1e400`, reading it does,
/// and one such value would hide all others kept beside the row.
fn can_be_read_again(json: &str) -> bool {
    let exponent = |pair: &[u8]| pair[0].is_ascii_digit() && matches!(pair[1], b'e' | b'E');
    let doubtful = json.len() > 300 || json.contains("\\u") || json.as_bytes().windows(2).any(exponent);
    !doubtful || serde_json::from_str::<serde_json::Value>(json).is_ok()
}

/// Levels of arrays and objects in a piece of JSON text.
fn depth(json: &str) -> usize {
    let bytes = json.as_bytes();
    let (mut level, mut deepest, mut at) = (0usize, 0, 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'{' | b'[' => {
                level += 1;
                deepest = deepest.max(level);
            }
            b'}' | b']' => level = level.saturating_sub(1),
            b'"' => at = string_end(bytes, at).unwrap_or(bytes.len()),
            _ => {}
        }
        at += 1;
    }
    deepest
}

/// The position of the closing quote of the string that opens at `open`.
fn string_end(bytes: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        let found = at + memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[found] == b'"' {
            return Some(found);
        }
        at = found + 2;
    }
}

/// The position after the value that begins at `start`: for objects and arrays the matching bracket, for others the next separator. None when
/// the text ends within it. Only brackets and quotes are looked at; the parser judges the rest.
pub(crate) fn value_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut level = 0usize;
    let mut at = start;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => at = string_end(bytes, at)?,
            b'{' | b'[' => level += 1,
            b'}' | b']' if level == 0 => return Some(at),
            b'}' | b']' => {
                level -= 1;
                if level == 0 {
                    return Some(at + 1);
                }
            }
            b',' if level == 0 => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

impl<'de> Visitor<'de> for &mut Slots<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(KeySeed(self))? {
            self.fields += 1;
            if self.fields > self.max_fields {
                map.next_value::<IgnoredAny>()?;
                if self.fields == self.max_fields + 1 {
                    let message = format!("more than {} fields in one object", self.max_fields);
                    self.problem("too_many_fields", "", message, None);
                }
                continue;
            }
            match key {
                Key::Column(column) => {
                    let field = &self.schema.fields[column];
                    let value = map.next_value_seed(ValueSeed(field.data_type))?;
                    if self.seen[column] {
                        self.duplicate(&field.name);
                        continue;
                    }
                    self.seen[column] = true;
                    match value {
                        Ok(value) => self.row[column] = value,
                        Err(mismatch) => self.problems.push(mismatch.at(&field.name)),
                    }
                }
                Key::EventId => {
                    // A string or a whole number; what else it may not be, `finish` says.
                    let value = map.next_value_seed(IdSeed)?;
                    if self.event_id.is_some() {
                        self.duplicate(EVENT_ID_FIELD);
                    }
                    match value {
                        Ok(value) => self.event_id = Some(value),
                        Err(got) => {
                            self.event_id = Some(Value::Null);
                            let message = format!("{EVENT_ID_FIELD}: an event id is a string or a whole number, got {got}");
                            self.problem("bad_id", EVENT_ID_FIELD, message, None);
                        }
                    }
                }
                Key::Operation(name) => {
                    let value = map.next_value_seed(ValueSeed(DataType::String))?;
                    if self.operation.is_some() {
                        self.duplicate(name);
                        continue;
                    }
                    self.operation = Some(value.unwrap_or_else(|mismatch| {
                        self.problems.push(mismatch.at(name));
                        Value::Null
                    }));
                }
                Key::Stranger(name) => self.stranger(name, &mut map)?,
            }
        }
        Ok(())
    }
}

enum Key<'f> {
    Column(usize),
    EventId,
    Operation(&'f str),
    Stranger(CompactString),
}

struct KeySeed<'a, 'f>(&'a mut Slots<'f>);

impl<'de, 'f> DeserializeSeed<'de> for KeySeed<'_, 'f> {
    type Value = Key<'f>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Key<'f>, D::Error> {
        d.deserialize_str(self)
    }
}

impl<'f> Visitor<'_> for KeySeed<'_, 'f> {
    type Value = Key<'f>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Key<'f>, E> {
        Ok(match (self.0.column(name), self.0.operation_field) {
            (Some(column), _) => Key::Column(column),
            (None, Some(field)) if field == name => Key::Operation(field),
            (None, _) if self.0.reads_event_id && name == EVENT_ID_FIELD => Key::EventId,
            (None, _) => Key::Stranger(CompactString::new(name)),
        })
    }
}

/// Reads one plain value by its declared type; a mismatch is a result, not an error, so that reading goes on.
pub(crate) struct ValueSeed(pub DataType);

impl<'de> DeserializeSeed<'de> for ValueSeed {
    type Value = Result<Value, Mismatch>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed {
    type Value = Result<Value, Mismatch>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(typed(Raw::Null, self.0, Rules::Json))
    }

    fn visit_bool<E>(self, b: bool) -> Result<Self::Value, E> {
        Ok(typed(Raw::Bool(b), self.0, Rules::Json))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Self::Value, E> {
        Ok(typed(Raw::Int(n), self.0, Rules::Json))
    }

    fn visit_u64<E>(self, n: u64) -> Result<Self::Value, E> {
        Ok(typed(i64::try_from(n).map_or(Raw::Huge(n), Raw::Int), self.0, Rules::Json))
    }

    fn visit_f64<E>(self, x: f64) -> Result<Self::Value, E> {
        Ok(typed(Raw::Float(x), self.0, Rules::Json))
    }

    fn visit_str<E>(self, s: &str) -> Result<Self::Value, E> {
        Ok(typed(Raw::Text(s), self.0, Rules::Json))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(typed(Raw::Array, self.0, Rules::Json))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(typed(Raw::Object, self.0, Rules::Json))
    }
}

/// Reads a client's id: text or a whole number or null, else what it was.
struct IdSeed;

impl<'de> DeserializeSeed<'de> for IdSeed {
    type Value = Result<Value, String>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        let raw: &RawValue = serde::Deserialize::deserialize(d)?;
        let text = raw.get();
        Ok(match text.as_bytes().first() {
            Some(b'n') => Ok(Value::Null),
            // The raw text was checked by the parser, escapes included.
            Some(b'"') => serde_json::from_str::<CompactStr>(text).map(|s| Value::Text(s.0)).map_err(|_| "broken text".to_owned()),
            Some(b'-' | b'0'..=b'9') => text.parse::<i64>().map(Value::Int).map_err(|_| format!("number {text}")),
            Some(b'{') => Err("an object".into()),
            Some(b'[') => Err("an array".into()),
            _ => Err(text.to_owned()),
        })
    }
}

pub(crate) struct CompactStr(pub CompactString);

impl<'de> serde::Deserialize<'de> for CompactStr {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<CompactStr, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = CompactStr;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }
            fn visit_str<E>(self, s: &str) -> Result<CompactStr, E> {
                Ok(CompactStr(CompactString::new(s)))
            }
        }
        d.deserialize_str(Text)
    }
}
