//! The body of a request: one object, an array of objects, NDJSON or CSV.

use kilter_core::EventTime;

use crate::codecs::csv::CsvRows;
use crate::codecs::json::{JsonRows, Place, position, strip_bom, value_end};
use crate::error::Rejection;
use crate::format::{Decoded, Limits, OperationOf, RowFormat};

/// What a body holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Body {
    pub rows: Vec<Result<Decoded, Rejection>>,
    /// Messages that tell of no row, passed over: tombstones, heartbeats and the like, in an envelope only.
    pub ignored: u64,
}

impl Body {
    fn push(&mut self, row: Result<Option<Decoded>, Rejection>) {
        match row.transpose() {
            Some(row) => self.rows.push(row),
            None => self.ignored += 1,
        }
    }

    fn len(&self) -> usize {
        self.rows.len() + self.ignored as usize
    }
}

/// Decodes every row of a body; one bad row does not spoil the others.
///
/// `content_type` tells NDJSON (`application/x-ndjson`, `application/jsonl`) and CSV (`text/csv`) apart; any other, such as the one curl sends by
/// itself, is taken for JSON. Several objects on lines of their own are read as NDJSON whatever the content type.
///
/// # Errors
/// One rejection for the whole body when it is empty, is not JSON as a whole, or holds more rows than the limit: then no row was taken.
pub fn decode_body(
    body: &[u8],
    content_type: Option<&str>,
    format: &RowFormat,
    arrived: EventTime,
    limits: &Limits,
) -> Result<Body, Rejection> {
    let content_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let text = strip_bom(body);
    if text.trim_ascii().is_empty() {
        return Err(Rejection::new("empty_body", "the body is empty", b"", 0)
            .hint("send a JSON object, an array of objects or one object per line"));
    }
    let is_enveloped = format.operation == OperationOf::Debezium;
    match content_type.as_str() {
        "text/csv" | "application/csv" if is_enveloped => {
            let message = format!("source `{}` takes changes in Debezium's envelope, which is JSON", format.source);
            Err(Rejection::new("wrong_format", message, text, 0).hint("send application/json or application/x-ndjson"))
        }
        "text/csv" | "application/csv" => csv(text, format, arrived, limits),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" | "application/jsonlines" => {
            lines(text, format, arrived, limits)
        }
        _ if text.trim_ascii_start().starts_with(b"[") => array(text, format, arrived, limits),
        _ if holds_lines_of_objects(text, is_enveloped) => lines(text, format, arrived, limits),
        _ => object(text, format, arrived, limits),
    }
}

/// Decodes the message of a stream that holds one event: a JSON object, or a change in an envelope. `None`: it tells of no row.
pub fn decode_message(message: &[u8], format: &RowFormat, arrived: EventTime, limits: &Limits) -> Result<Option<Decoded>, Rejection> {
    let text = strip_bom(message);
    if text.trim_ascii().is_empty() {
        // Debezium sends one after each delete, so that the topic can be compacted.
        if format.operation == OperationOf::Debezium {
            return Ok(None);
        }
        let hint = "a tombstone means something in an envelope only: `envelope = \"debezium\"`";
        return Err(Rejection::new("no_value", "the message has no value", b"", 0).hint(hint));
    }
    JsonRows::new(format, arrived, limits).decode(text, Place::Body(text, 0), 0)
}

/// Whether the second line that is not empty begins an object: within one object a line begins with a name or a bracket that closes. Among
/// messages in an envelope a line may also be a tombstone.
fn holds_lines_of_objects(text: &[u8], is_enveloped: bool) -> bool {
    let mut lines = text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let begins = |line: &[u8]| line.starts_with(b"{") || (is_enveloped && line == b"null");
    lines.next().is_some_and(begins) && lines.next().is_some_and(begins)
}

fn object(text: &[u8], format: &RowFormat, arrived: EventTime, limits: &Limits) -> Result<Body, Rejection> {
    match JsonRows::new(format, arrived, limits).decode(text, Place::Body(text, 0), 0) {
        Err(unreadable) if unreadable.field.is_none() && matches!(unreadable.code, "malformed_json" | "not_an_object") => {
            Err(unreadable.hint("send a JSON object, an array of objects, or one object per line"))
        }
        row => {
            let mut decoded = Body::default();
            decoded.push(row);
            Ok(decoded)
        }
    }
}

fn array(text: &[u8], format: &RowFormat, arrived: EventTime, limits: &Limits) -> Result<Body, Rejection> {
    let mut rows = JsonRows::new(format, arrived, limits);
    let mut decoded = Body::default();
    for element in Elements::new(text) {
        let (start, end) = element?;
        if decoded.len() == limits.max_rows {
            return Err(too_many(limits));
        }
        let row = decoded.len();
        decoded.push(rows.decode(&text[start..end], Place::Body(text, start), row));
    }
    Ok(decoded)
}

fn lines(text: &[u8], format: &RowFormat, arrived: EventTime, limits: &Limits) -> Result<Body, Rejection> {
    let mut rows = JsonRows::new(format, arrived, limits);
    let ends = memchr::memchr_iter(b'\n', text);
    let mut decoded = Body::default();
    decoded.rows.reserve((ends.clone().count() + 1).min(limits.max_rows));
    let mut start = 0;
    for (line, end) in ends.chain([text.len()]).enumerate() {
        let bytes = &text[start..end];
        if !bytes.trim_ascii().is_empty() {
            if decoded.len() == limits.max_rows {
                return Err(too_many(limits));
            }
            decoded.push(rows.decode(bytes, Place::Body(text, start), line + 1));
        }
        start = end + 1;
    }
    Ok(decoded)
}

fn csv(text: &[u8], format: &RowFormat, arrived: EventTime, limits: &Limits) -> Result<Body, Rejection> {
    let mut rows =
        CsvRows::new(text, format, "body").map_err(|e| Rejection { hint: e.hint, ..Rejection::new(e.code, e.message, text, 0) })?;
    let mut decoded = Body::default();
    while let Some(row) = rows.next_row(format, arrived) {
        if decoded.len() == limits.max_rows {
            return Err(too_many(limits));
        }
        decoded.push(row.map(Some));
    }
    Ok(decoded)
}

fn too_many(limits: &Limits) -> Rejection {
    Rejection::new("too_many_rows", format!("more than {} rows in one body", limits.max_rows), b"", limits.max_rows)
        .hint("send it in smaller parts")
}

/// The places of the elements of a JSON array, found by brackets and quotes alone; ends with an error where the array is not one.
pub(crate) struct Elements<'a> {
    text: &'a [u8],
    pub(crate) at: usize,
    state: State,
    row: usize,
}

enum State {
    Start,
    Between,
    End,
}

impl<'a> Elements<'a> {
    pub(crate) fn new(text: &'a [u8]) -> Elements<'a> {
        Elements { text, at: 0, state: State::Start, row: 0 }
    }

    /// Goes on from where an earlier walk over the same text stood.
    pub(crate) fn resume(text: &'a [u8], at: usize, row: usize) -> Elements<'a> {
        Elements { text, at, state: if row == 0 { State::Start } else { State::Between }, row }
    }

    fn skip_space(&mut self) -> Option<u8> {
        while let Some(&byte) = self.text.get(self.at) {
            if !byte.is_ascii_whitespace() {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    fn fail(&mut self, what: &str) -> Option<Result<(usize, usize), Rejection>> {
        self.state = State::End;
        let place = position(self.text, self.at);
        let rejection = Rejection::new("malformed_json", format!("malformed JSON at {place}: {what}"), self.text, self.row);
        Some(Err(rejection.hint("send an array of objects, or one object per line")))
    }

    fn close(&mut self) -> Option<Result<(usize, usize), Rejection>> {
        self.at += 1;
        match self.skip_space() {
            None => {
                self.state = State::End;
                None
            }
            Some(_) => self.fail("text after the end of the array"),
        }
    }
}

impl Iterator for Elements<'_> {
    type Item = Result<(usize, usize), Rejection>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.state {
            State::End => return None,
            State::Start => {
                match self.skip_space() {
                    Some(b'[') => self.at += 1,
                    _ => return self.fail("expected `[`"),
                }
                if self.skip_space() == Some(b']') {
                    return self.close();
                }
            }
            State::Between => match self.skip_space() {
                Some(b',') => self.at += 1,
                Some(b']') => return self.close(),
                Some(_) => return self.fail("expected `,` or `]`"),
                None => return self.fail("the array is not closed"),
            },
        }
        match self.skip_space() {
            None => return self.fail("the array is not closed"),
            Some(b',' | b']' | b'}') => return self.fail("expected a value"),
            Some(_) => {}
        }
        let start = self.at;
        match value_end(self.text, start) {
            Some(end) => {
                self.at = end;
                self.state = State::Between;
                self.row += 1;
                Some(Ok((start, end)))
            }
            None => self.fail("the array or a value in it is not closed"),
        }
    }
}
