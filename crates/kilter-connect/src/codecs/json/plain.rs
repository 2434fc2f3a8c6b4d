//! The rows that nearly all rows are: one flat object, texts without escapes, numbers without exponents, every value of its declared type.
//!
//! Read in one pass over the bytes, about twice as fast as through serde. Whatever else there is, faulty or only unusual, is left alone
//! here: then the whole object is read again by the general reader, which alone says what is wrong with it. The two agree on every row that
//! this one takes (a property test compares them).

use kilter_core::{CompactString, Value};

use super::Slots;
use crate::format::{EVENT_ID_FIELD, UnknownFields};
use crate::typed::{Raw, Rules, typed};

/// Whole numbers up to here are exact as floats, and so are the powers of ten below: their quotient is rounded once, to the nearest float.
const EXACT: u64 = 1 << 53;
const POWERS_OF_TEN: [f64; 23] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22];

impl Slots<'_> {
    /// Fills the row from a plain object. False: it is none, and what was filled in so far means nothing.
    pub(super) fn read_plain(&mut self, bytes: &[u8]) -> bool {
        std::str::from_utf8(bytes).is_ok_and(|text| self.plain_object(&mut Reader { text, at: 0 }).is_some())
    }

    /// None wherever the general reader has to be asked.
    fn plain_object(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        reader.expect(b'{')?;
        if reader.next()? == b'}' {
            return None;
        }
        loop {
            reader.expect(b'"')?;
            let name = reader.rest_of_text()?;
            reader.expect(b':')?;
            reader.next()?;
            let start = reader.at;
            let raw = reader.value()?;
            self.fields += 1;
            if self.fields > self.max_fields {
                return None;
            }
            match self.column(name) {
                Some(column) => {
                    if std::mem::replace(&mut self.seen[column], true) {
                        return None;
                    }
                    self.row[column] = typed(raw, self.schema.fields[column].data_type, Rules::Json).ok()?;
                }
                None if self.operation_field == Some(name) => return None,
                None if self.reads_event_id && name == EVENT_ID_FIELD => {
                    let id = match raw {
                        Raw::Null => Value::Null,
                        Raw::Int(n) => Value::Int(n),
                        Raw::Text(text) => Value::text(text),
                        _ => return None,
                    };
                    if self.event_id.replace(id).is_some() {
                        return None;
                    }
                }
                None => self.plain_stranger(name, &reader.text[start..reader.at])?,
            }
            match reader.next()? {
                b',' => reader.at += 1,
                b'}' => break,
                _ => return None,
            }
        }
        reader.at += 1;
        reader.next().is_none().then_some(())
    }

    fn plain_stranger(&mut self, name: &str, value: &str) -> Option<()> {
        match self.unknown {
            UnknownFields::Reject => return None,
            UnknownFields::Ignore => return Some(()),
            UnknownFields::Keep if self.max_depth == 0 || self.strangers.iter().any(|s| s == name) => return None,
            // A plain value has neither escape nor exponent: it can always be read again.
            UnknownFields::Keep => {}
        }
        if !self.extra.is_empty() {
            self.extra.push(',');
        }
        // A name without escapes is written as it came.
        for part in ["\"", name, "\":", value] {
            self.extra.push_str(part);
        }
        self.strangers.push(CompactString::new(name));
        Some(())
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// The next byte that is not white space, which stays to be read.
    fn next(&mut self) -> Option<u8> {
        loop {
            match self.peek()? {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                other => return Some(other),
            }
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then(|| self.at += 1)
    }

    fn value(&mut self) -> Option<Raw<'a>> {
        let word = |word: &str, raw| self.text.as_bytes()[self.at..].starts_with(word.as_bytes()).then_some((word.len(), raw));
        let (length, raw) = match self.peek()? {
            b'"' => {
                self.at += 1;
                return self.rest_of_text().map(Raw::Text);
            }
            b't' => word("true", Raw::Bool(true))?,
            b'f' => word("false", Raw::Bool(false))?,
            b'n' => word("null", Raw::Null)?,
            _ => return self.number(),
        };
        // What follows must end the value; the caller sees to that.
        self.at += length;
        Some(raw)
    }

    /// The text whose opening quote has been read. None: an escape, a control character, no end.
    fn rest_of_text(&mut self) -> Option<&'a str> {
        let bytes = &self.text.as_bytes()[self.at..];
        let mut length = 0;
        let stop = loop {
            match bytes[length..].first_chunk() {
                Some(word) => match first_special(u64::from_le_bytes(*word)) {
                    None => length += 8,
                    Some(place) => break length + place,
                },
                None => break length + bytes[length..].iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20))?,
            }
        };
        if bytes[stop] != b'"' {
            return None;
        }
        let text = &self.text[self.at..self.at + stop];
        self.at += stop + 1;
        Some(text)
    }

    fn digits(&mut self, mantissa: &mut u64) -> Option<usize> {
        let start = self.at;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            *mantissa = mantissa.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
            self.at += 1;
        }
        (self.at > start).then_some(self.at - start)
    }

    fn number(&mut self) -> Option<Raw<'a>> {
        let negative = self.peek()? == b'-';
        self.at += usize::from(negative);
        let leading_zero = self.peek()? == b'0';
        let mut mantissa = 0;
        let whole = self.digits(&mut mantissa)?;
        if leading_zero && whole > 1 {
            return None;
        }
        match self.peek() {
            Some(b'e' | b'E') => None,
            Some(b'.') => {
                self.at += 1;
                let places = self.digits(&mut mantissa)?;
                if mantissa > EXACT || matches!(self.peek(), Some(b'e' | b'E')) {
                    return None;
                }
                let size = mantissa as f64 / POWERS_OF_TEN.get(places)?;
                Some(Raw::Float(if negative { -size } else { size }))
            }
            // -0 is a float to the general reader.
            _ if negative && mantissa == 0 => None,
            _ => i64::try_from(mantissa).ok().map(|n| Raw::Int(if negative { -n } else { n })),
        }
    }
}

/// The position of the first of eight bytes that is a quote, a backslash or below a space.
fn first_special(word: u64) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // The lowest byte marked is always right; a borrow can only mark bytes above it wrongly.
    let below = |w: u64, limit: u64| w.wrapping_sub(ONES * limit) & !w & HIGH;
    let found = below(word, 0x20) | below(word ^ (ONES * u64::from(b'"')), 1) | below(word ^ (ONES * u64::from(b'\\')), 1);
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Limits;
    use kilter_core::{DataType, Schema};
    use proptest::prelude::*;

    type Read = (Vec<Value>, Value, Value, Option<Box<str>>);

    /// What each of the two readers makes of an object; none: nothing, or something with problems.
    fn both(text: &[u8], unknown: UnknownFields) -> (Option<Read>, Option<Read>) {
        let schema = Schema::new([
            ("id", DataType::Int64),
            ("at", DataType::Timestamp),
            ("x", DataType::Float64),
            ("s", DataType::String),
            ("b", DataType::Bool),
        ]);
        let read = |read: &dyn Fn(&mut Slots<'_>) -> bool| {
            let mut slots = Slots::new(&schema, unknown, true, Some("op"), &Limits { max_fields: 7, ..Limits::default() });
            slots.clear();
            let taken = read(&mut slots);
            let read = slots.take();
            (taken && read.problems.is_empty()).then_some((read.row, read.event_id, read.operation, read.extra))
        };
        (read(&|slots| slots.read_plain(text)), read(&|slots| slots.read_any(text).is_ok()))
    }

    #[test]
    fn plain_rows_are_taken_and_others_left() {
        for (text, plain) in [
            (r#"{"id":1,"at":"2026-01-01T00:00:00Z","x":-0.10,"s":"ä","b":true,"more":null}"#, true),
            (" {\r\n\t\"x\" : 12 , \"event_id\":\"a\", \"s\":null }\n", true),
            (r#"{"x":1e3}"#, false),
            (r#"{"x":-0}"#, false),
            (r#"{"s":"a\n"}"#, false),
            (r#"{"more":[1]}"#, false),
            (r#"{"x":9007199254740993.0}"#, false),
            ("{}", false),
        ] {
            let (fast, slow) = both(text.as_bytes(), UnknownFields::Keep);
            assert!(slow.is_some(), "{text}");
            assert_eq!(fast.is_some(), plain, "{text}");
        }
    }

    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<i64>().prop_map(|n| n.to_string()),
            any::<u64>().prop_map(|n| n.to_string()),
            (-100_000i64..100_000, 0u32..9).prop_map(|(n, digits)| format!("{n}.{:0width$}", n.unsigned_abs(), width = digits as usize)),
            any::<f64>().prop_filter("JSON has no others", |x| x.is_finite()).prop_map(|x| format!("{x:?}")),
            "[ -~äöü€😀]{0,20}".prop_map(|s| serde_json::to_string(&s).unwrap()),
            "[a-z ]{0,40}".prop_map(|s| format!("\"{s}\"")),
            (0i64..4_000_000_000_000_000).prop_map(|t| format!("\"{}\"", kilter_core::EventTime(t))),
            prop::sample::select(vec![
                "null",
                "true",
                "false",
                "01",
                "1.",
                "-",
                "-0",
                "-0.0",
                ".5",
                "tru",
                "nul",
                "[1,{}]",
                "{\"a\":\"}\"}",
                "\"",
                "\"\t\""
            ])
            .prop_map(str::to_owned),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]
        #[test]
        fn what_it_takes_the_general_reader_takes_alike(
            fields in prop::collection::vec((prop::sample::select(vec!["id", "at", "x", "s", "b", "event_id", "op", "more", "other", "a\\u0062"]), value()), 0..9),
            space in prop::sample::select(vec!["", " ", "\n", "\t\r", "\u{b}"]),
            damage in prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>())),
            unknown in prop::sample::select(vec![UnknownFields::Keep, UnknownFields::Ignore, UnknownFields::Reject]),
        ) {
            let inside: Vec<String> = fields.iter().map(|(name, value)| format!("{space}\"{name}\"{space}:{value}{space}")).collect();
            let mut text = format!("{{{}}}{space}", inside.join(",")).into_bytes();
            if let Some((place, byte)) = damage {
                let at = place.index(text.len());
                text[at] = byte;
            }
            let (fast, slow) = both(&text, unknown);
            if let Some(fast) = fast {
                let slow = slow.expect("the general reader refuses what the fast one takes");
                prop_assert!(fast.0.iter().zip(&slow.0).all(|(a, b)| a.same_bits(b)), "{:?} {:?}", fast.0, slow.0);
                prop_assert_eq!((fast.1, fast.2), (slow.1, slow.2));
            }
        }
    }
}
