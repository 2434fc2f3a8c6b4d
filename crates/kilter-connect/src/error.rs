//! What can be wrong with a field, a row and a file; each with a hint.

use std::fmt;

use kilter_core::Origin;
use serde::Serialize;

/// One wrong field of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldProblem {
    /// The field's name; empty when the whole object is at fault.
    pub field: String,
    /// Stable short code: `wrong_type`, `out_of_range`, `missing_key`, `missing_time`, `absurd_time`, `future_time`, `unknown_field`, `duplicate_field`,
    /// `bad_id`, `too_deep`, `too_many_fields`, `malformed_json`, `not_an_object`; of changes `unknown_operation`, `truncate`, `bad_envelope`,
    /// `missing_row`, `unavailable_value`.
    pub code: &'static str,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub got: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A row that is not let in, with its own text so that it can be mended and sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rejection {
    /// A code of [`FieldProblem`], or of the row or body as a whole: `empty_body`, `too_many_rows`, `row_too_long`, `wrong_column_count`,
    /// `not_utf8`, `no_value`, `bad_header`, `wrong_format`, `unreadable_file` (the file ends here: a disk error or damage); of records with a schema
    /// `not_framed`, `unknown_schema`, `bad_schema`, `undecodable`; of topics that workers share `wrong_partition`: it is not where its key belongs.
    pub code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<Box<str>>,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The row as it came, at most [`Rejection::MAX_PAYLOAD`] bytes, bytes that are not UTF-8 replaced.
    pub payload: Box<str>,
    /// `payload` is base64 of bytes that are no text.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub payload_base64: bool,
    /// Which row: its index from 0 in a JSON array or Parquet file, its line from 1 in NDJSON and CSV.
    pub row: usize,
    /// Where it stood in the partitioned stream it was read from.
    #[serde(skip)]
    pub origin: Option<Box<Origin>>,
}

/// A file that cannot be read at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectError {
    /// Stable short code: `file_not_found`, `unreadable_file`, `unknown_format`, `wrong_format`, `bad_header`, `missing_column`, `column_type`, `not_parquet`.
    pub code: &'static str,
    pub message: String,
    pub hint: Option<String>,
}

impl FieldProblem {
    pub(crate) fn new(code: &'static str, field: &str, message: impl Into<String>) -> FieldProblem {
        FieldProblem { field: field.to_owned(), code, message: message.into(), expected: None, got: None, hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> FieldProblem {
        self.hint = Some(hint.into());
        self
    }
}

impl Rejection {
    /// The longest payload kept, in bytes.
    pub const MAX_PAYLOAD: usize = 64 * 1024;

    pub(crate) fn new(code: &'static str, message: impl Into<String>, payload: &[u8], row: usize) -> Rejection {
        Rejection {
            code,
            field: None,
            message: message.into(),
            hint: None,
            payload: bounded(payload).into(),
            payload_base64: false,
            row,
            origin: None,
        }
    }

    /// Of a message that its reader has found something against, text or not.
    pub fn of_message(code: &'static str, message: impl Into<String>, payload: &[u8]) -> Rejection {
        match std::str::from_utf8(payload) {
            Ok(_) => Rejection::new(code, message, payload, 0),
            Err(_) => Rejection::of_bytes(code, message, payload),
        }
    }

    /// Of a message that is no text: its bytes are kept as base64, as many as that leaves room for.
    pub fn of_bytes(code: &'static str, message: impl Into<String>, payload: &[u8]) -> Rejection {
        let kept = &payload[..payload.len().min(Rejection::MAX_PAYLOAD / 4 * 3)];
        Rejection { payload: base64(kept).into(), payload_base64: true, ..Rejection::new(code, message, b"", 0) }
    }

    /// What the sender can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Rejection {
        self.hint = Some(hint.into());
        self
    }

    /// A rejection tells of the first problem in full and names the fields of the others.
    pub(crate) fn from_problems(problems: Vec<FieldProblem>, payload: &[u8], row: usize) -> Rejection {
        let others: Vec<&str> = problems.iter().skip(1).map(|p| p.field.as_str()).collect();
        let also = match others.len() {
            0 => String::new(),
            1 => format!(" (also wrong: {})", others[0]),
            n => format!(" (also {n} more wrong: {})", kilter_core::list(others)),
        };
        let Some(first) = problems.into_iter().next() else {
            return Rejection::new("malformed_json", "the row is not readable", payload, row);
        };
        Rejection {
            code: first.code,
            field: (!first.field.is_empty()).then(|| first.field.into()),
            message: first.message + &also,
            hint: first.hint,
            payload: bounded(payload).into(),
            payload_base64: false,
            row,
            origin: None,
        }
    }
}

/// Bytes as text by the standard alphabet of RFC 4648, with padding.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let n = group.iter().fold(0u32, |n, byte| (n << 8) | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let sextet = (n >> (18 - 6 * place)) & 63;
            text.push(if place <= group.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    text
}

/// At most [`Rejection::MAX_PAYLOAD`] bytes as text, cut between characters.
fn bounded(payload: &[u8]) -> String {
    let cut = &payload[..payload.len().min(Rejection::MAX_PAYLOAD)];
    let mut text = String::from_utf8_lossy(cut).into_owned();
    // A replacement character is longer than the byte it stands for.
    if text.len() > Rejection::MAX_PAYLOAD {
        text.truncate(text.floor_char_boundary(Rejection::MAX_PAYLOAD));
    }
    text
}

impl ConnectError {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> ConnectError {
        ConnectError { code, message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> ConnectError {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, &self.message, self.hint.as_deref())
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, &self.message, self.hint.as_deref())
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, &self.message, self.hint.as_deref())
    }
}

impl std::error::Error for FieldProblem {}
impl std::error::Error for Rejection {}
impl std::error::Error for ConnectError {}

fn show(f: &mut fmt::Formatter<'_>, message: &str, hint: Option<&str>) -> fmt::Result {
    match hint {
        Some(hint) => write!(f, "{message} ({hint})"),
        None => f.write_str(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        // RFC 4648, section 10.
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0, 255, 254, 253]), "AP/+/Q==");
    }

    #[test]
    fn bytes_that_are_no_text_are_kept_within_the_limit() {
        let rejection = Rejection::of_bytes("undecodable", "no", &vec![7; 1 << 20]);
        assert!(rejection.payload_base64 && rejection.payload.len() == Rejection::MAX_PAYLOAD && !rejection.payload.contains('='));
    }
}
