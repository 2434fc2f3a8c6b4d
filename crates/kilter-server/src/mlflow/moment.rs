//! Times and durations as the JSON of protobuf has them: RFC 3339 and seconds with an `s`.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use kilter_core::EventTime;
use kilter_tracking::{Error, Result};
use serde::{Serialize, Serializer};

use super::input::Fields;

/// Milliseconds UTC.
pub struct Time(pub i64);

/// Milliseconds.
pub struct Span(pub i64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let seconds = EventTime(self.0.div_euclid(1000).saturating_mul(1_000_000)).to_string();
        let seconds = seconds.trim_end_matches('Z').split('.').next().unwrap_or_default().to_string();
        match self.0.rem_euclid(1000) {
            0 => write!(f, "{seconds}Z"),
            millis => write!(f, "{seconds}.{millis:03}Z"),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        match (self.0.unsigned_abs() / 1000, self.0.unsigned_abs() % 1000) {
            (seconds, 0) => write!(f, "{sign}{seconds}s"),
            (seconds, millis) => write!(f, "{sign}{seconds}.{millis:03}s"),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// A point in time, between the years 1900 and 2262.
pub fn time(f: &Fields, name: &str) -> Result<Option<i64>> {
    let Some(text) = f.text(name)? else { return Ok(None) };
    let read = EventTime::parse(text).filter(|t| (EventTime::EARLIEST..=EventTime::LATEST).contains(t));
    let wrong = || {
        Error::invalid(format!("Invalid value {text:?} for parameter '{name}' supplied: it must be a time such as 2026-01-31T10:00:00Z"))
    };
    read.map(|t| Some(t.0.div_euclid(1000))).ok_or_else(wrong)
}

/// A duration of at most a thousand years.
pub fn duration(f: &Fields, name: &str) -> Result<Option<i64>> {
    let Some(text) = f.text(name)? else { return Ok(None) };
    let seconds = text.strip_suffix('s').and_then(|t| t.parse::<f64>().ok()).filter(|x| x.abs() < 3.2e10);
    let wrong =
        || Error::invalid(format!("Invalid value {text:?} for parameter '{name}' supplied: it must be a duration such as \"0.250s\""));
    seconds.map(|x| Some((x * 1000.).round() as i64)).ok_or_else(wrong)
}

/// Milliseconds UTC.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_are_shown_where_there_are_any() {
        assert_eq!(Time(1_700_000_000_000).to_string(), "2023-11-14T22:13:20Z");
        assert_eq!(Time(1_700_000_000_005).to_string(), "2023-11-14T22:13:20.005Z");
        assert_eq!(Time(-1).to_string(), "1969-12-31T23:59:59.999Z");
        assert_eq!([Span(250), Span(5000), Span(-1)].map(|s| s.to_string()), ["0.250s", "5s", "-0.001s"]);
    }
}
