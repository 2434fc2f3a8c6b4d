//! The UTC calendar on integers: the proleptic Gregorian rules and nothing else (no zones, no leap seconds).

use kilter_core::{EventTime, Span};

/// Year, month 1..=12, day 1..=31.
pub(super) struct Date {
    pub year: i64,
    pub month: i64,
    pub day: i64,
}

/// Days since 1970-01-01.
pub(super) fn days(t: EventTime) -> i64 {
    t.0.div_euclid(Span::DAY.0)
}

/// Microseconds since midnight.
pub(super) fn time_of_day(t: EventTime) -> i64 {
    t.0.rem_euclid(Span::DAY.0)
}

// Both from Howard Hinnant, "chrono-compatible low-level date algorithms": years start in March so that leap days come last.
pub(super) fn date(days: i64) -> Date {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Date { year, month, day: day_of_year - (153 * from_march + 2) / 5 + 1 }
}

pub(super) fn days_from(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let from_march = (month + 9) % 12;
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Monday 1 to Sunday 7.
pub(super) fn iso_weekday(days: i64) -> i64 {
    (days + 3).rem_euclid(7) + 1
}

/// A unit that times can be cut down to.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
}

impl Unit {
    pub(super) const NAMES: [(&'static str, Unit); 8] = [
        ("second", Unit::Second),
        ("minute", Unit::Minute),
        ("hour", Unit::Hour),
        ("day", Unit::Day),
        ("week", Unit::Week),
        ("month", Unit::Month),
        ("quarter", Unit::Quarter),
        ("year", Unit::Year),
    ];
}

/// The start of the unit that holds `t`; none only where it would leave the range of times.
pub(super) fn truncate(unit: Unit, t: EventTime) -> Option<EventTime> {
    let down = |step: i64| t.0.div_euclid(step).checked_mul(step);
    let at_day = |days: i64| days.checked_mul(Span::DAY.0);
    let d = days(t);
    match unit {
        Unit::Second => down(Span::SECOND.0),
        Unit::Minute => down(Span::MINUTE.0),
        Unit::Hour => down(Span::HOUR.0),
        Unit::Day => down(Span::DAY.0),
        Unit::Week => at_day(d - (iso_weekday(d) - 1)),
        Unit::Month => at_day(days_from(date(d).year, date(d).month, 1)),
        Unit::Quarter => at_day(days_from(date(d).year, (date(d).month - 1) / 3 * 3 + 1, 1)),
        Unit::Year => at_day(days_from(date(d).year, 1, 1)),
    }
    .map(EventTime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_agree_with_jiff_and_return() {
        for days in (-30_000..106_000).step_by(7).chain(-800..800) {
            let d = date(days);
            let civil = EventTime(days * Span::DAY.0).civil();
            assert_eq!((d.year, d.month, d.day), (civil.year().into(), civil.month().into(), civil.day().into()));
            assert_eq!(days_from(d.year, d.month, d.day), days);
            assert_eq!(iso_weekday(days), i64::from(civil.weekday().to_monday_one_offset()));
        }
    }
}
