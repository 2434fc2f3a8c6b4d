//! The body of a request: one object, an array of objects, NDJSON or CSV.

use kilter_core::EventTime;

use crate::codecs::csv::CsvRows;
use crate::codecs::json::{JsonRows, Place, position, strip_bom, value_end};
use crate::error::Rejection;
use crate::format::{Decoded, Limits, RowFormat};

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
) -> Result<Vec<Result<Decoded, Rejection>>, Rejection> {
    let content_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let text = strip_bom(body);
    if text.trim_ascii().is_empty() {
        return Err(Rejection::new("empty_body", "the body is empty", b"", 0)
            .hint("send a JSON object, an array of objects or one object per line"));
    }
    match content_type.as_str() {
        "text/csv" | "application/csv" => csv(text, format, arrived, limits),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" | "application/jsonlines" => {
            lines(text, format, arrived, limits)
        }
        _ if text.trim_ascii_start().starts_with(b"[") => array(text, format, arrived, limits),
        _ if holds_lines_of_objects(text) => lines(text, format, arrived, limits),
        _ => object(text, format, arrived, limits),
    }
}

/// Whether the second line that is not empty begins an object: within one object a line begins with a name or a bracket that closes.
fn holds_lines_of_objects(text: &[u8]) -> bool {
    let mut lines = text.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let first = lines.next();
    first.is_some_and(|line| line.starts_with(b"{")) && lines.next().is_some_and(|line| line.starts_with(b"{"))
}

fn object(text: &[u8], format: &RowFormat, arrived: EventTime, limits: &Limits) -> Result<Vec<Result<Decoded, Rejection>>, Rejection> {
    match JsonRows::new(format, arrived, limits).decode(text, Place::Body(text, 0), 0) {
        Err(unreadable) if unreadable.code == "malformed_json" || unreadable.code == "not_an_object" => {
            Err(unreadable.hint("send a JSON object, an array of objects, or one object per line"))
        }
        row => Ok(vec![row]),
    }
}

fn array(text: &[u8], format: &RowFormat, arrived: EventTime, limits: &Limits) -> Result<Vec<Result<Decoded, Rejection>>, Rejection> {
    let mut rows = JsonRows::new(format, arrived, limits);
    let mut decoded = Vec::new();
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

fn lines(text: &[u8], format: &RowFormat, arrived: EventTime, limits: &Limits) -> Result<Vec<Result<Decoded, Rejection>>, Rejection> {
    let mut rows = JsonRows::new(format, arrived, limits);
    let ends = memchr::memchr_iter(b'\n', text);
    let mut decoded = Vec::with_capacity((ends.clone().count() + 1).min(limits.max_rows));
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

fn csv(text: &[u8], format: &RowFormat, arrived: EventTime, limits: &Limits) -> Result<Vec<Result<Decoded, Rejection>>, Rejection> {
    let mut rows =
        CsvRows::new(text, format, "body").map_err(|e| Rejection { hint: e.hint, ..Rejection::new(e.code, e.message, text, 0) })?;
    let mut decoded = Vec::new();
    while let Some(row) = rows.next_row(format, arrived) {
        if decoded.len() == limits.max_rows {
            return Err(too_many(limits));
        }
        decoded.push(row);
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
