//! When schedules are due.

use croner::Cron;
use jiff::tz::TimeZone;
use kilter_core::EventTime;
use kilter_pipeline::When;

/// Whether a tick lies after `before` and not after `now`. Rhythms of the form `every` tick at multiples of their length since
/// 1970-01-01T00:00:00Z, so that a restart does not move them.
pub fn is_due(when: &When, before: EventTime, now: EventTime) -> bool {
    match when {
        When::Every(span) => before.bucket(*span) < now.bucket(*span),
        When::Cron(text) => next_cron(text, before).is_some_and(|next| next <= now),
    }
}

/// When a schedule is due next after `now`.
pub fn next(when: &When, now: EventTime) -> Option<EventTime> {
    match when {
        When::Every(span) => Some(EventTime((now.bucket(*span) + 1).saturating_mul(span.0))),
        When::Cron(text) => next_cron(text, now),
    }
}

/// The first moment a cron expression names after `after` (UTC).
pub fn next_cron(text: &str, after: EventTime) -> Option<EventTime> {
    let cron: Cron = text.parse().ok()?;
    let zoned = jiff::Timestamp::from_microsecond(after.0).ok()?.to_zoned(TimeZone::UTC);
    let next = cron.find_next_occurrence(&zoned, false).ok()?;
    Some(EventTime(next.timestamp().as_microsecond()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilter_core::Span;

    fn t(text: &str) -> EventTime {
        EventTime::parse(text).unwrap()
    }

    #[test]
    fn a_tick_is_due_once_when_time_crosses_it() {
        let weekly = When::Every(Span(7 * Span::DAY.0));
        assert!(!is_due(&weekly, t("2026-01-01T00:00:00Z"), t("2026-01-07T23:59:59Z")));
        assert!(is_due(&weekly, t("2026-01-07T23:59:59Z"), t("2026-01-08T00:00:00Z")));
        let monday = When::Cron("0 3 * * 1".into());
        assert!(!is_due(&monday, t("2026-01-05T03:00:00Z"), t("2026-01-12T02:59:59Z")));
        assert!(is_due(&monday, t("2026-01-05T03:00:00Z"), t("2026-01-12T03:00:00Z")));
    }
}
