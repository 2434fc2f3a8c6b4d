//! The little of YAML that MLflow writes, as text: which scalar is a number is for the reader of the field to say. PyYAML and this parser disagree about
//! what a bare `1e5` or `0o7` is, and MLflow has names of runs like these.

use std::collections::BTreeMap;
use std::fmt::Write;

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::Value;

/// Bytes of one file, and values within values, at most.
pub(super) const BYTES: u64 = 16 << 20;
const DEPTH: usize = 40;

/// A value of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Yaml {
    /// A scalar, and whether it stood there without quotes.
    Scalar(String, bool),
    List(Vec<Yaml>),
    Map(BTreeMap<String, Yaml>),
}

impl Yaml {
    /// The one document of a text.
    pub fn read(text: &str) -> Result<Yaml, String> {
        let mut parser = Parser::new_from_str(text);
        loop {
            let (event, span) = parser.next().ok_or("it ends too early")?.map_err(|e| e.to_string())?;
            match event {
                Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
                Event::StreamEnd => return Err("it is empty".into()),
                event => return Yaml::value(event, &mut parser, DEPTH).map_err(|why| format!("line {}: {why}", span.start.line())),
            }
        }
    }

    fn value<'a>(event: Event<'a>, parser: &mut Parser<'a, saphyr_parser::StrInput<'a>>, depth: usize) -> Result<Yaml, String> {
        let depth = depth.checked_sub(1).ok_or("it nests too deep")?;
        let next = |parser: &mut Parser<'a, _>| match parser.next() {
            Some(Ok((event, _))) => Ok(event),
            Some(Err(e)) => Err(e.to_string()),
            None => Err("it ends too early".to_string()),
        };
        match event {
            Event::Scalar(text, style, ..) => Ok(Yaml::Scalar(text.into_owned(), style == ScalarStyle::Plain)),
            Event::SequenceStart(..) => {
                let mut list = Vec::new();
                loop {
                    match next(parser)? {
                        Event::SequenceEnd => return Ok(Yaml::List(list)),
                        event => list.push(Yaml::value(event, parser, depth)?),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut map = BTreeMap::new();
                loop {
                    let key = match next(parser)? {
                        Event::MappingEnd => return Ok(Yaml::Map(map)),
                        Event::Scalar(key, ..) => key.into_owned(),
                        _ => return Err("a key is no text".into()),
                    };
                    let event = next(parser)?;
                    map.insert(key, Yaml::value(event, parser, depth)?);
                }
            }
            other => Err(format!("{other:?} is nothing that MLflow writes")),
        }
    }

    /// A field of a map; none where it is missing or null.
    pub fn get(&self, key: &str) -> Option<&Yaml> {
        let Yaml::Map(map) = self else { return None };
        map.get(key).filter(|value| !value.is_null())
    }

    /// The text of a field; empty where there is none.
    pub fn text(&self, key: &str) -> String {
        self.maybe(key).unwrap_or_default()
    }

    /// The text of a field.
    pub fn maybe(&self, key: &str) -> Option<String> {
        match self.get(key)? {
            Yaml::Scalar(text, _) => Some(text.clone()),
            other => Some(other.json().to_string()),
        }
    }

    /// The whole number of a field.
    pub fn int(&self, key: &str) -> Option<i64> {
        match self.get(key)? {
            Yaml::Scalar(text, _) => text.parse().ok(),
            _ => None,
        }
    }

    fn is_null(&self) -> bool {
        matches!(self, Yaml::Scalar(text, true) if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The same as JSON, where a value of any type is meant.
    pub fn json(&self) -> Value {
        match self {
            Yaml::List(list) => list.iter().map(Yaml::json).collect(),
            Yaml::Map(map) => map.iter().map(|(key, value)| (key.clone(), value.json())).collect(),
            Yaml::Scalar(..) if self.is_null() => Value::Null,
            Yaml::Scalar(text, true) => match text.as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                // As JSON of Python comes over.
                ".nan" => Value::from("NaN"),
                ".inf" => Value::from("Infinity"),
                "-.inf" => Value::from("-Infinity"),
                number => number
                    .parse::<i64>()
                    .map(Value::from)
                    .ok()
                    .or_else(|| number.parse().ok().filter(|number: &f64| number.is_finite()).map(Value::from))
                    .unwrap_or_else(|| Value::String(text.clone())),
            },
            Yaml::Scalar(text, false) => Value::String(text.clone()),
        }
    }

    /// Texts by texts.
    pub fn pairs(&self) -> Vec<(String, String)> {
        let Yaml::Map(map) = self else { return Vec::new() };
        map.keys().map(|key| (key.clone(), self.text(key))).collect()
    }
}

/// Milliseconds UTC of `2026-01-31T10:20:30.123Z`.
pub(super) fn time(text: &str) -> Option<i64> {
    let (date, rest) = text.split_once(['T', ' '])?;
    let clock = rest.strip_suffix('Z')?;
    let numbers = |text: &str, between: char| -> Option<Vec<i64>> { text.split(between).map(|n| n.parse().ok()).collect() };
    let (whole, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [year, month, day] = numbers(date, '-')?.try_into().ok()?;
    let [hour, minute, second] = numbers(whole, ':')?.try_into().ok()?;
    let mut thousandths = String::new();
    write!(thousandths, "{fraction:0<3}").ok()?;
    let milliseconds: i64 = thousandths.get(..3)?.parse().ok()?;
    let is_one = (0..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !is_one || !(0..24).contains(&hour) || !(0..60).contains(&minute) || !(0..=60).contains(&second) {
        return None;
    }
    // Days since 1970 of a civil date, years beginning in March.
    let (y, m) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let day_of_era = (y.rem_euclid(400)) * 365 + y.rem_euclid(400) / 4 - y.rem_euclid(400) / 100 + (153 * m + 2) / 5 + day - 1;
    let days = y.div_euclid(400) * 146_097 + day_of_era - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn scalars_keep_their_text_and_are_typed_only_where_that_is_meant() {
        let text = "artifact_location: file:///a b\nname: 1e5\nend: null\nlong: \"a\\n\\\n  \\ b\"\nrest: 'it''s\n\n  two'\nn: -3\nmap:\n  a: [true, 1.5, 'x', 7]\n";
        let read = Yaml::read(text).unwrap();
        assert_eq!((read.text("name").as_str(), read.text("artifact_location").as_str()), ("1e5", "file:///a b"));
        assert_eq!((read.get("end"), read.maybe("gone"), read.int("n")), (None, None, Some(-3)));
        assert_eq!((read.text("long").as_str(), read.text("rest").as_str()), ("a\n b", "it's\ntwo"));
        assert_eq!(read.get("map").unwrap().json(), json!({"a": [true, 1.5, "x", 7]}));
        let read = Yaml::read("[.nan, -.inf, .inf, nan, inf, 1e999, 1e3]").unwrap();
        assert_eq!(read.json(), json!(["NaN", "-Infinity", "Infinity", "nan", "inf", "1e999", 1000.0]), "what is no number is not lost");
    }

    #[test]
    fn what_mlflow_does_not_write_is_refused() {
        let deep = "[".repeat(60) + &"]".repeat(60);
        for bad in ["", "a: [1", "a: b: c", "a: &x 1\nb: *x", "? [a]\n: b", deep.as_str(), "a: \"x"] {
            assert!(Yaml::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_become_milliseconds() {
        assert_eq!(time("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(time("2026-02-28T23:59:59.12Z"), Some(1_772_323_199_120));
        assert_eq!(time("2024-02-29T12:00:00.123456Z"), Some(1_709_208_000_123));
        assert!(time("yesterday").is_none() && time("2026-1-1").is_none());
        for none in
            ["9223372036854775807-01-01T00:00:00Z", "2026-9223372036854775807-01T00:00:00Z", "2026-01-01T9223372036854775807:00:00Z"]
        {
            assert_eq!(time(none), None, "{none}");
        }
    }
}
