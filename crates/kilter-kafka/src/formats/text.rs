//! Values of other formats as JSON text, which one reader then binds to columns: so that types, undeclared fields, envelopes and refusals have one set of rules
//! whatever a record was written in.
//!
//! A value that JSON has no type for is written as what it means (a time as RFC 3339, a decimal as a number, bytes as base64), unless a column is declared that
//! takes another form of it without loss: a decimal as text, a time as the number it was written as.

use std::fmt::Write as _;

use kilter_connect::base64;
use kilter_core::{DataType, EventTime, Schema, Span};

/// What a value is of: that decides what is declared of it.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// The record is the row.
    Row(&'a Schema),
    /// The record is an envelope, and `before` and `after` are rows.
    Envelope(&'a Schema),
    /// The value of this column; none: of no column.
    Value(Option<DataType>),
}

impl<'a> Place<'a> {
    /// What the record's field of that name is.
    pub(super) fn field(self, name: &str) -> Place<'a> {
        match self {
            Place::Row(schema) => Place::Value(schema.index(name).map(|column| schema.fields[column].data_type)),
            Place::Envelope(schema) if matches!(name, "before" | "after") => Place::Row(schema),
            Place::Envelope(_) | Place::Value(_) => Place::Value(None),
        }
    }

    pub(super) fn is(self, declared: DataType) -> bool {
        matches!(self, Place::Value(Some(found)) if found == declared)
    }
}

/// A value that is too large or too deep to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TooMuch {
    Depth,
    Values,
    Bytes,
    Digits,
}

impl TooMuch {
    pub(super) fn message(self) -> String {
        match self {
            TooMuch::Depth => format!("nested deeper than {} levels", Text::MAX_DEPTH),
            TooMuch::Values => format!("more than {} values in one record", Text::MAX_VALUES),
            TooMuch::Bytes => format!("more than {} MiB of text", Text::MAX_BYTES >> 20),
            TooMuch::Digits => {
                format!("a decimal of more than {} bytes, or with more than {} decimal places", Text::MAX_DECIMAL, Text::MAX_SCALE)
            }
        }
    }
}

/// JSON text in the making.
pub(super) struct Text {
    out: Vec<u8>,
    depth: usize,
    values: usize,
}

impl Text {
    /// Levels of records, lists and maps in each other.
    pub(super) const MAX_DEPTH: usize = 64;
    /// A list of a billion nulls takes no more than a few bytes to write in Avro.
    pub(super) const MAX_VALUES: usize = 1 << 20;
    /// Names of fields and of enumerations are longer than what stands for them.
    const MAX_BYTES: usize = 64 << 20;
    const MAX_DECIMAL: usize = 256;
    const MAX_SCALE: usize = 512;

    pub(super) fn new() -> Text {
        Text { out: Vec::new(), depth: 0, values: 0 }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.out
    }

    /// Counts a value that is about to be written.
    pub(super) fn count(&mut self) -> Result<(), TooMuch> {
        self.values += 1;
        if self.values > Text::MAX_VALUES {
            return Err(TooMuch::Values);
        }
        if self.out.len() > Text::MAX_BYTES { Err(TooMuch::Bytes) } else { Ok(()) }
    }

    pub(super) fn open(&mut self, bracket: u8) -> Result<(), TooMuch> {
        self.depth += 1;
        if self.depth > Text::MAX_DEPTH {
            return Err(TooMuch::Depth);
        }
        self.out.push(bracket);
        Ok(())
    }

    pub(super) fn close(&mut self, bracket: u8) {
        self.depth -= 1;
        if self.out.last() == Some(&b',') {
            self.out.pop();
        }
        self.out.push(bracket);
    }

    /// After every element and every field; the last one is taken back.
    pub(super) fn comma(&mut self) {
        self.out.push(b',');
    }

    pub(super) fn key(&mut self, name: &str) {
        self.text(name);
        self.out.push(b':');
    }

    pub(super) fn null(&mut self) {
        self.out.extend_from_slice(b"null");
    }

    pub(super) fn bool(&mut self, b: bool) {
        self.out.extend_from_slice(if b { b"true" } else { b"false" });
    }

    pub(super) fn int(&mut self, n: i64) {
        self.plain(format_args!("{n}"));
    }

    pub(super) fn uint(&mut self, n: u64) {
        self.plain(format_args!("{n}"));
    }

    /// What is no number is null, as everywhere; what is infinite is a text, which no column of numbers takes.
    pub(super) fn float(&mut self, x: f64) {
        match x {
            x if x.is_nan() => self.null(),
            f64::INFINITY => self.text("Infinity"),
            f64::NEG_INFINITY => self.text("-Infinity"),
            // It keeps its point, and reads back to the last bit.
            x => self.plain(format_args!("{x:?}")),
        }
    }

    pub(super) fn text(&mut self, text: &str) {
        // Writing to memory and serialising a text cannot fail.
        serde_json::to_writer(&mut self.out, text).unwrap_or_default();
    }

    /// A name that has a number, of which a column of whole numbers takes the latter.
    pub(super) fn name(&mut self, name: &str, number: i32, place: Place<'_>) {
        if place.is(DataType::Int64) { self.int(i64::from(number)) } else { self.text(name) }
    }

    pub(super) fn empty(&mut self, brackets: &[u8; 2]) {
        self.out.extend_from_slice(brackets);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.text(&base64(bytes));
    }

    pub(super) fn date(&mut self, days: i32, place: Place<'_>) {
        if place.is(DataType::Int64) {
            return self.int(i64::from(days));
        }
        let midnight = EventTime(i64::from(days).saturating_mul(Span::DAY.0)).to_string();
        self.text(midnight.strip_suffix("T00:00:00Z").unwrap_or(&midnight));
    }

    /// `raw`: the number as it was written, of `per_second` units.
    pub(super) fn timestamp(&mut self, raw: i64, per_second: i64, local: bool, place: Place<'_>) {
        if place.is(DataType::Int64) {
            return self.int(raw);
        }
        // Beyond microseconds nothing can be declared: what is finer stays in no column, but beside the row it does.
        let (micros, nanos) = match per_second {
            1_000 => (raw.saturating_mul(1_000), 0),
            1_000_000 => (raw, 0),
            _ => (raw.div_euclid(1_000), raw.rem_euclid(1_000)),
        };
        let mut text = EventTime(micros).to_string();
        if nanos != 0
            && !place.is(DataType::Timestamp)
            && let Some(whole) = text.strip_suffix('Z')
        {
            let (seconds, fraction) = whole.split_once('.').unwrap_or((whole, ""));
            text = format!("{seconds}.{fraction:0<6}{nanos:03}Z");
        }
        self.text(if local && !place.is(DataType::Timestamp) { text.strip_suffix('Z').unwrap_or(&text) } else { &text });
    }

    /// A time of day.
    pub(super) fn time(&mut self, raw: i64, per_second: i64, place: Place<'_>) {
        let seconds = raw.div_euclid(per_second);
        if place.is(DataType::Int64) || !(0..86_400).contains(&seconds) {
            return self.int(raw);
        }
        let mut text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
        let fraction = raw.rem_euclid(per_second);
        if fraction != 0 {
            let width = per_second.ilog10() as usize;
            let _ = write!(text, ".{fraction:0width$}");
            text.truncate(text.trim_end_matches('0').len());
        }
        self.text(&text);
    }

    /// `unscaled`: a two's complement number, the highest byte first.
    pub(super) fn decimal(&mut self, unscaled: &[u8], scale: usize, place: Place<'_>) -> Result<(), TooMuch> {
        if unscaled.len() > Text::MAX_DECIMAL || scale > Text::MAX_SCALE {
            return Err(TooMuch::Digits);
        }
        let (negative, digits) = digits(unscaled);
        let digits = format!("{digits:0>width$}", width = scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        let sign = if negative { "-" } else { "" };
        // A column of whole numbers takes one however many places were written.
        let fraction = if place.is(DataType::Int64) { fraction.trim_end_matches('0') } else { fraction };
        let point = if fraction.is_empty() { "" } else { "." };
        let number = format!("{sign}{whole}{point}{fraction}");
        if place.is(DataType::String) {
            self.text(&number)
        } else {
            self.plain(format_args!("{number}"))
        }
        Ok(())
    }

    pub(super) fn uuid(&mut self, bytes: [u8; 16]) {
        let n = u128::from_be_bytes(bytes);
        let part = |shift: u32, mask: u128| (n >> shift) & mask;
        let text = format!(
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            part(96, 0xffff_ffff),
            part(80, 0xffff),
            part(64, 0xffff),
            part(48, 0xffff),
            part(0, 0xffff_ffff_ffff)
        );
        self.text(&text);
    }

    fn plain(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to memory cannot fail.
        let _ = std::io::Write::write_fmt(&mut self.out, text);
    }
}

/// The digits of a two's complement number of any length, and whether it is negative.
fn digits(unscaled: &[u8]) -> (bool, String) {
    let negative = unscaled.first().is_some_and(|b| b & 0x80 != 0);
    let mut magnitude: Vec<u8> = unscaled.to_vec();
    if negative {
        magnitude.iter_mut().for_each(|b| *b = !*b);
        for byte in magnitude.iter_mut().rev() {
            let (sum, carries) = byte.overflowing_add(1);
            *byte = sum;
            if !carries {
                break;
            }
        }
    }
    // Nine digits at a time, the lowest first.
    let mut parts = Vec::new();
    while magnitude.iter().any(|b| *b != 0) {
        let mut rest = 0u64;
        for byte in &mut magnitude {
            rest = (rest << 8) | u64::from(*byte);
            *byte = (rest / 1_000_000_000) as u8;
            rest %= 1_000_000_000;
        }
        parts.push(rest);
    }
    let mut text = parts.pop().map_or("0".to_owned(), |highest| highest.to_string());
    for part in parts.iter().rev() {
        let _ = write!(text, "{part:09}");
    }
    (negative && text != "0", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Text)) -> String {
        let mut text = Text::new();
        write(&mut text);
        String::from_utf8(text.into_bytes()).unwrap()
    }

    const FREE: Place<'static> = Place::Value(None);
    const INT: Place<'static> = Place::Value(Some(DataType::Int64));
    const STRING: Place<'static> = Place::Value(Some(DataType::String));
    const TIME: Place<'static> = Place::Value(Some(DataType::Timestamp));

    #[test]
    fn decimals_of_any_length_keep_their_places() {
        let of = |n: i128, scale, place| written(|t| t.decimal(&n.to_be_bytes(), scale, place).unwrap());
        assert_eq!(of(1250, 2, FREE), "12.50");
        assert_eq!(of(-5, 2, FREE), "-0.05");
        assert_eq!(of(0, 3, FREE), "0.000");
        assert_eq!(of(1250, 2, STRING), "\"12.50\"");
        assert_eq!(of(1200, 2, INT), "12");
        assert_eq!(of(1250, 2, INT), "12.5");
        for n in [i128::MAX, i128::MIN, -1, 1, 1_000_000_000, 999_999_999, -1_000_000_001] {
            assert_eq!(of(n, 0, FREE), n.to_string());
        }
        assert_eq!(written(|t| t.decimal(&[], 1, FREE).unwrap()), "0.0");
        let long = [&[1u8][..], &[0; 32]].concat();
        let two_to_256 = "115792089237316195423570985008687907853269984665640564039457584007913129639936";
        assert_eq!(written(|t| t.decimal(&long, 0, FREE).unwrap()), two_to_256);
        assert_eq!(Text::new().decimal(&[1; 300], 0, FREE), Err(TooMuch::Digits));
    }

    #[test]
    fn times_are_written_as_their_column_takes_them() {
        let at = 1_767_268_800_123_456_789;
        let nanos = |place| written(|t| t.timestamp(at, 1_000_000_000, false, place));
        assert_eq!(nanos(FREE), "\"2026-01-01T12:00:00.123456789Z\"");
        assert_eq!(nanos(TIME), "\"2026-01-01T12:00:00.123456Z\"");
        assert_eq!(nanos(INT), "1767268800123456789");
        assert_eq!(written(|t| t.timestamp(1_767_268_800_000, 1_000, true, STRING)), "\"2026-01-01T12:00:00\"");
        assert_eq!(written(|t| t.timestamp(1_767_268_800_000_000_001, 1_000_000_000, false, FREE)), "\"2026-01-01T12:00:00.000000001Z\"");
        assert_eq!(written(|t| t.date(20_454, FREE)), "\"2026-01-01\"");
        assert_eq!(written(|t| t.date(20_454, INT)), "20454");
        assert!(written(|t| t.date(i32::MAX, TIME)).ends_with("us\""), "beyond the calendar it is no time");
        assert_eq!(written(|t| t.time(45_296_500, 1_000, FREE)), "\"12:34:56.5\"");
        assert_eq!(written(|t| t.time(45_296_000_000, 1_000_000, FREE)), "\"12:34:56\"");
        assert_eq!(written(|t| t.uuid(*b"0123456789abcdef")), "\"30313233-3435-3637-3839-616263646566\"");
    }

    #[test]
    fn numbers_come_back_to_the_last_bit() {
        for x in [0.1, -0.0, 1.0, 5e-324, f64::MAX, 1e21, 123_456_789.123_456_79] {
            let text = written(|t| t.float(x));
            assert_eq!(serde_json::from_str::<f64>(&text).unwrap().to_bits(), x.to_bits(), "{text}");
            assert!(text.contains(['.', 'e']), "{text} is no whole number");
        }
        assert_eq!(written(|t| t.float(f64::NAN)), "null");
        assert_eq!(written(|t| t.float(f64::NEG_INFINITY)), "\"-Infinity\"");
    }
}
