//! Event time and spans, both in integer microseconds: one unit everywhere, no floating point in any window.

use std::fmt;
use std::ops::{Add, Sub};

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// A point in time, microseconds since 1970-01-01T00:00:00Z. Negative before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventTime(pub i64);

/// A length of time in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(pub i64);

/// Hands the wall clock to code that may not read it by itself.
pub trait Clock: Send + Sync {
    /// The present moment.
    fn now(&self) -> EventTime;
}

impl EventTime {
    /// The earliest and latest times an event may carry (years 1900 and 2262): outside is a mistake of units.
    pub const EARLIEST: EventTime = EventTime(-2_208_988_800_000_000);
    pub const LATEST: EventTime = EventTime(9_214_646_400_000_000);

    /// Reads RFC 3339 (`2026-01-31T10:00:00Z`, any offset), a civil date-time taken as UTC (`2026-01-31 10:00:00`) or a date.
    pub fn parse(text: &str) -> Option<EventTime> {
        let text = text.trim();
        if let Ok(t) = text.parse::<jiff::Timestamp>() {
            return Some(EventTime(t.as_microsecond()));
        }
        let civil = text.parse::<DateTime>().or_else(|_| text.parse::<Date>().map(|d| d.at(0, 0, 0, 0))).ok()?;
        let zoned = civil.to_zoned(TimeZone::UTC).ok()?;
        Some(EventTime(zoned.timestamp().as_microsecond()))
    }

    /// A number of seconds, milliseconds, microseconds or nanoseconds since 1970, told apart by magnitude:
    /// below 1e11 seconds, below 1e14 milliseconds, below 1e17 microseconds, else nanoseconds.
    pub fn from_number(n: i64) -> EventTime {
        let size = n.unsigned_abs();
        EventTime(match size {
            0..100_000_000_000 => n * 1_000_000,
            100_000_000_000..100_000_000_000_000 => n * 1_000,
            100_000_000_000_000..100_000_000_000_000_000 => n,
            _ => n / 1_000,
        })
    }

    /// The start of the bucket of length `hop` that holds this time; buckets are aligned to 1970-01-01T00:00:00Z.
    pub fn bucket(self, hop: Span) -> i64 {
        self.0.div_euclid(hop.0)
    }

    pub fn micros(self) -> i64 {
        self.0
    }

    /// The civil date and time in UTC.
    pub fn civil(self) -> DateTime {
        let t = jiff::Timestamp::from_microsecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        TimeZone::UTC.to_datetime(t)
    }
}

impl fmt::Display for EventTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(t) => write!(f, "{t}"),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl Span {
    pub const ZERO: Span = Span(0);
    pub const SECOND: Span = Span(1_000_000);
    pub const MINUTE: Span = Span(60 * Span::SECOND.0);
    pub const HOUR: Span = Span(60 * Span::MINUTE.0);
    pub const DAY: Span = Span(24 * Span::HOUR.0);

    const UNITS: [(&str, i64); 8] = [
        ("us", 1),
        ("ms", 1_000),
        ("s", Span::SECOND.0),
        ("min", Span::MINUTE.0),
        ("m", Span::MINUTE.0),
        ("h", Span::HOUR.0),
        ("d", Span::DAY.0),
        ("w", 7 * Span::DAY.0),
    ];

    /// Reads `90s`, `5m`, `1h`, `7d`, `2w`, and sums such as `1d12h`. A bare number is refused: a unit is never guessed.
    pub fn parse(text: &str) -> Option<Span> {
        let mut rest = text.trim();
        let mut total = 0i64;
        if rest.is_empty() {
            return None;
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit())?;
            let n: i64 = rest[..digits].parse().ok()?;
            rest = &rest[digits..];
            let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
            let unit = &rest[..letters];
            let size = Span::UNITS.iter().find(|(name, _)| *name == unit)?.1;
            rest = &rest[letters..];
            total = total.checked_add(n.checked_mul(size)?)?;
        }
        Some(Span(total))
    }

    pub fn micros(self) -> i64 {
        self.0
    }

    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl fmt::Display for Span {
    /// The shortest exact form with one unit: `7d`, `90s`, `1500ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, size) in [("d", Span::DAY.0), ("h", Span::HOUR.0), ("m", Span::MINUTE.0), ("s", Span::SECOND.0), ("ms", 1_000)] {
            if self.0 != 0 && self.0 % size == 0 {
                return write!(f, "{}{name}", self.0 / size);
            }
        }
        write!(f, "{}us", self.0)
    }
}

impl Add<Span> for EventTime {
    type Output = EventTime;
    fn add(self, span: Span) -> EventTime {
        EventTime(self.0.saturating_add(span.0))
    }
}

impl Sub<Span> for EventTime {
    type Output = EventTime;
    fn sub(self, span: Span) -> EventTime {
        EventTime(self.0.saturating_sub(span.0))
    }
}

impl Sub for EventTime {
    type Output = Span;
    fn sub(self, other: EventTime) -> Span {
        Span(self.0.saturating_sub(other.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_common_form() {
        let noon = EventTime(1_767_268_800_000_000);
        for text in ["2026-01-01T12:00:00Z", "2026-01-01T13:00:00+01:00", "2026-01-01 12:00:00", "2026-01-01T12:00:00.000000Z"] {
            assert_eq!(EventTime::parse(text), Some(noon), "{text}");
        }
        assert_eq!(EventTime::parse("2026-01-01"), Some(noon - Span(12 * Span::HOUR.0)));
        assert_eq!(EventTime::parse("tomorrow"), None);
        for n in [1_767_268_800, 1_767_268_800_000, 1_767_268_800_000_000, 1_767_268_800_000_000_000] {
            assert_eq!(EventTime::from_number(n), noon, "{n}");
        }
        assert_eq!(noon.to_string(), "2026-01-01T12:00:00Z");
    }

    #[test]
    fn spans_need_a_unit_and_print_as_written() {
        for (text, micros) in [("1s", 1_000_000), ("90s", 90_000_000), ("1d12h", 129_600_000_000), ("2w", 1_209_600_000_000)] {
            assert_eq!(Span::parse(text), Some(Span(micros)), "{text}");
        }
        for bad in ["", "7", "d", "7x", "7 d", "-1d", "99999999999999999d"] {
            assert_eq!(Span::parse(bad), None, "{bad}");
        }
        assert_eq!(Span::parse("7d").map(|s| s.to_string()).as_deref(), Some("7d"));
        assert_eq!(Span::parse("5m").map(|s| s.to_string()).as_deref(), Some("5m"));
    }

    #[test]
    fn buckets_before_1970_round_down() {
        assert_eq!(EventTime(-1).bucket(Span::SECOND), -1);
        assert_eq!(EventTime(0).bucket(Span::SECOND), 0);
    }
}
