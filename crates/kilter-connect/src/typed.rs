//! One raw value against one declared type: the rules every codec shares.

use kilter_core::{CompactString, DataType, EventTime, Value};

use crate::error::FieldProblem;

/// A value as its format gives it, before its declared type is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Raw<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// A whole number above `i64::MAX`.
    Huge(u64),
    Float(f64),
    Text(&'a str),
    Time(EventTime),
    /// Bytes that are not UTF-8.
    Bytes,
    Array,
    Object,
}

/// How forgiving the rules are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// JSON has its own types: what is quoted is text.
    Json,
    /// Tables written by other tools: booleans may stand as 0 and 1, a missing number as NaN.
    Table,
}

/// Why a value is not of its declared type; the caller adds the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    pub code: &'static str,
    pub expected: &'static str,
    pub got: String,
    pub hint: Option<String>,
}

/// Whole numbers up to here are exact as floats; above, a float no longer says which integer was meant.
const EXACT: f64 = 9_007_199_254_740_992.0;

const TIME_HINT: &str = "send RFC 3339 such as 2026-01-31T10:00:00Z, or a number of seconds or milliseconds since 1970";

/// The value of declared type `declared` that `raw` stands for.
pub(crate) fn typed(raw: Raw<'_>, declared: DataType, rules: Rules) -> Result<Value, Mismatch> {
    Ok(match (declared, raw) {
        (_, Raw::Null) => Value::Null,
        (_, Raw::Float(x)) if x.is_nan() => Value::Null,
        (DataType::Bool, Raw::Bool(b)) => Value::Bool(b),
        (DataType::Bool, Raw::Int(n @ (0 | 1))) if rules == Rules::Table => Value::Bool(n == 1),
        (DataType::Int64, Raw::Int(n)) => Value::Int(n),
        (DataType::Int64, Raw::Float(x)) if x.fract() == 0.0 && x.abs() <= EXACT => Value::Int(x as i64),
        (DataType::Float64, Raw::Float(x)) if x.is_finite() => Value::Float(x),
        (DataType::Float64, Raw::Int(n)) => Value::Float(n as f64),
        (DataType::Float64, Raw::Huge(n)) => Value::Float(n as f64),
        (DataType::String, Raw::Text(s)) => Value::Text(CompactString::new(s)),
        (DataType::Timestamp, Raw::Time(t)) => Value::Time(t),
        (DataType::Timestamp, Raw::Int(n)) => Value::Time(EventTime::from_number(n)),
        (DataType::Timestamp, Raw::Float(x)) if x.is_finite() && x.abs() < 9e18 => Value::Time(time_from_float(x)),
        (DataType::Timestamp, Raw::Text(s)) => match EventTime::parse(s) {
            Some(t) => Value::Time(t),
            None => return Err(mismatch(declared, raw)),
        },
        _ => return Err(mismatch(declared, raw)),
    })
}

/// The value that `text` of a CSV cell stands for; an empty cell is null.
pub(crate) fn from_text(text: &str, declared: DataType) -> Result<Value, Mismatch> {
    if text.is_empty() {
        return Ok(Value::Null);
    }
    let trimmed = text.trim();
    let raw = match declared {
        // No column is declared a list or map: what stands there is refused as text.
        DataType::String | DataType::NumberList | DataType::TextList | DataType::NumberMap => Raw::Text(text),
        DataType::Bool => match trimmed {
            "true" | "True" | "TRUE" | "1" => Raw::Bool(true),
            "false" | "False" | "FALSE" | "0" => Raw::Bool(false),
            _ => Raw::Text(text),
        },
        DataType::Int64 | DataType::Float64 | DataType::Timestamp => number(trimmed).unwrap_or(Raw::Text(text)),
    };
    typed(raw, declared, Rules::Table).map_err(|mut m| {
        if matches!(raw, Raw::Text(_)) {
            m.hint = match declared {
                DataType::Bool => Some("a boolean is true, false, 1 or 0".into()),
                DataType::Timestamp => Some("write RFC 3339 such as 2026-01-31T10:00:00Z, or seconds since 1970".into()),
                _ if trimmed.contains(',') => Some("write numbers with a decimal point and no thousands separator".into()),
                _ => Some("an empty cell means null".into()),
            };
        }
        m
    })
}

/// The number written in a CSV cell; `nan` in any case is a missing one.
fn number(text: &str) -> Option<Raw<'_>> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'n' | 'N')) {
        return None;
    }
    if let Ok(n) = text.parse::<i64>() {
        return Some(Raw::Int(n));
    }
    if let Ok(n) = text.parse::<u64>() {
        return Some(Raw::Huge(n));
    }
    text.parse::<f64>().ok().filter(|x| x.is_finite() || x.is_nan()).map(Raw::Float)
}

/// Like [`EventTime::from_number`] for a number with a fraction, to the nearest microsecond.
fn time_from_float(x: f64) -> EventTime {
    let micros = match x.abs() {
        size if size < 1e11 => x * 1e6,
        size if size < 1e14 => x * 1e3,
        size if size < 1e17 => x,
        _ => x / 1e3,
    };
    EventTime(micros.round() as i64)
}

impl Mismatch {
    /// The complaint as the reader sees it: `amount: expected float64, got string "12"`.
    pub(crate) fn at(self, field: &str) -> FieldProblem {
        let Mismatch { code, expected, got, hint } = self;
        FieldProblem {
            field: field.to_owned(),
            code,
            message: format!("{field}: expected {expected}, got {got}"),
            expected: Some(expected.to_owned()),
            got: Some(got),
            hint,
        }
    }
}

/// The complaint about `raw` where `declared` was expected.
#[cold]
pub(crate) fn mismatch(declared: DataType, raw: Raw<'_>) -> Mismatch {
    let whole_but_too_large = |x: f64| x.fract() == 0.0 || x.is_infinite();
    let too_large = match raw {
        Raw::Huge(_) => declared != DataType::String && declared != DataType::Bool,
        Raw::Float(x) => match declared {
            DataType::Int64 => whole_but_too_large(x),
            DataType::Float64 | DataType::Timestamp => true,
            DataType::Bool | DataType::String | DataType::NumberList | DataType::TextList | DataType::NumberMap => false,
        },
        _ => false,
    };
    let hint = match (declared, raw) {
        (DataType::Int64, Raw::Huge(_) | Raw::Float(_)) if too_large => Some(
            "whole numbers go up to 9223372036854775807, with a decimal point up to 2^53; declare the column string for longer identifiers"
                .into(),
        ),
        (DataType::Int64, Raw::Float(_)) => Some("declare the column float64 if fractions are meant".into()),
        (DataType::Float64, Raw::Float(_)) => Some("leave it out or send null when there is no number".into()),
        (DataType::Int64 | DataType::Float64, Raw::Text(s)) if s.trim().parse::<f64>().is_ok() => Some("send numbers unquoted".into()),
        (DataType::Int64 | DataType::Float64, Raw::Text(s)) if s.trim().replace(',', ".").parse::<f64>().is_ok() => {
            Some("send numbers unquoted and with a decimal point".into())
        }
        (DataType::Bool, Raw::Text("true" | "false")) => Some("send true and false unquoted".into()),
        (DataType::Bool, _) => Some("send true or false".into()),
        (DataType::String, Raw::Int(_) | Raw::Huge(_) | Raw::Float(_) | Raw::Bool(_)) => Some("put it in quotes".into()),
        (DataType::Timestamp, _) => Some(TIME_HINT.into()),
        (_, Raw::Array | Raw::Object) => Some("a column holds one plain value; send nested data in a field that is not declared".into()),
        _ => None,
    };
    Mismatch { code: if too_large { "out_of_range" } else { "wrong_type" }, expected: declared.name(), got: describe(raw), hint }
}

fn describe(raw: Raw<'_>) -> String {
    match raw {
        Raw::Null => "null".into(),
        Raw::Bool(b) => b.to_string(),
        Raw::Int(n) => format!("number {n}"),
        Raw::Huge(n) => format!("number {n}"),
        Raw::Float(x) if x.abs() >= 1e15 => format!("number {x:e}"),
        Raw::Float(x) => format!("number {x}"),
        Raw::Time(t) => format!("time {t}"),
        Raw::Bytes => "bytes that are not UTF-8 text".into(),
        Raw::Array => "an array".into(),
        Raw::Object => "an object".into(),
        Raw::Text(s) => match s.char_indices().nth(40) {
            Some((cut, _)) => format!("string {:?}...", &s[..cut]),
            None => format!("string {s:?}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(declared: DataType, raw: Raw<'_>, expected: &str) {
        let shown = match typed(raw, declared, Rules::Json) {
            Ok(value) => format!("{value}"),
            Err(m) => format!("{}: {} {}", m.code, m.got, m.hint.unwrap_or_default()).trim_end().to_owned(),
        };
        assert_eq!(shown, expected, "{declared} from {raw:?}");
    }

    #[test]
    fn json_values_are_taken_only_for_what_they_are() {
        use DataType::*;
        check(Int64, Raw::Float(3.0), "3");
        check(Int64, Raw::Float(3.5), "wrong_type: number 3.5 declare the column float64 if fractions are meant");
        check(Int64, Raw::Text("3"), "wrong_type: string \"3\" send numbers unquoted");
        check(Float64, Raw::Text("12,5"), "wrong_type: string \"12,5\" send numbers unquoted and with a decimal point");
        check(Float64, Raw::Int(3), "3");
        check(Bool, Raw::Int(1), "wrong_type: number 1 send true or false");
        check(Bool, Raw::Text("true"), "wrong_type: string \"true\" send true and false unquoted");
        check(String, Raw::Int(7), "wrong_type: number 7 put it in quotes");
        check(Timestamp, Raw::Int(1_767_268_800_000), "2026-01-01T12:00:00Z");
        check(Timestamp, Raw::Float(1_767_268_800.25), "2026-01-01T12:00:00.25Z");
        check(Timestamp, Raw::Text("soon"), &format!("wrong_type: string \"soon\" {TIME_HINT}"));
        for too_large in [Raw::Huge(u64::MAX), Raw::Float(1e300), Raw::Float(-9.3e18)] {
            assert_eq!(typed(too_large, Int64, Rules::Json).map_err(|m| m.code), Err("out_of_range"), "{too_large:?}");
        }
    }

    #[test]
    fn csv_cells_are_read_as_other_tools_write_them() {
        use DataType::*;
        for (text, declared, expected) in [
            ("", String, Value::Null),
            ("007", String, Value::text("007")),
            ("7.0", Int64, Value::Int(7)),
            (" 7 ", Int64, Value::Int(7)),
            ("NaN", Float64, Value::Null),
            ("True", Bool, Value::Bool(true)),
            ("0", Bool, Value::Bool(false)),
            ("2026-01-01 12:00:00", Timestamp, Value::Time(EventTime(1_767_268_800_000_000))),
            ("1767268800", Timestamp, Value::Time(EventTime(1_767_268_800_000_000))),
        ] {
            assert_eq!(from_text(text, declared), Ok(expected), "{text:?} as {declared}");
        }
        for (text, declared) in
            [("x", Int64), ("1,5", Float64), ("inf", Float64), ("1e999", Float64), ("2", Bool), ("yes", Bool), ("7.5", Int64)]
        {
            assert!(from_text(text, declared).is_err(), "{text:?} as {declared}");
        }
    }
}
