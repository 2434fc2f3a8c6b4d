//! What is known of the stretches of a log: records never change once they lie there, so what was seen once holds.

use std::collections::HashMap;
use std::ops::{Range, RangeInclusive};
use std::sync::{Mutex, PoisonError};

/// Records of one stretch, the least of which something is remembered.
pub const STRETCH: u64 = 4096;
/// Records of one piece, the least of which something is kept.
pub const PIECE: u64 = 16 * STRETCH;

/// Between which times, and at which events, the records of some stretch lie. A stretch without rows has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub times: (i64, i64),
    pub offsets: (i64, i64),
}

impl Span {
    /// Of no record.
    pub const EMPTY: Span = Span { times: (i64::MAX, i64::MIN), offsets: (i64::MAX, i64::MIN) };

    pub fn add(&mut self, time: i64, offset: u64) {
        let offset = offset as i64;
        self.join(Span { times: (time, time), offsets: (offset, offset) });
    }

    pub fn join(&mut self, other: Span) {
        let wider = |a: (i64, i64), b: (i64, i64)| (a.0.min(b.0), a.1.max(b.1));
        *self = Span { times: wider(self.times, other.times), offsets: wider(self.offsets, other.offsets) };
    }

    /// Whether a record of it may lie within both ranges.
    fn meets(&self, times: &RangeInclusive<i64>, offsets: &RangeInclusive<i64>) -> bool {
        let meets = |span: (i64, i64), range: &RangeInclusive<i64>| span.1 >= *range.start() && span.0 <= *range.end();
        meets(self.times, times) && meets(self.offsets, offsets)
    }

    /// Whether all of its records lie within the times.
    pub fn is_inside(&self, times: &RangeInclusive<i64>) -> bool {
        *times.start() <= self.times.0 && self.times.1 <= *times.end()
    }
}

/// A part of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub records: Range<u64>,
    /// Whether its records are there for good, and no other will be added.
    pub is_full: bool,
    /// Whether all its records are known to lie within the times asked for.
    pub is_inside: bool,
    /// Between which times its records lie, where that is known.
    pub times: Option<(i64, i64)>,
}

/// What was seen of a log's stretches.
#[derive(Default)]
pub struct Stretches(Mutex<HashMap<u64, Span>>);

impl Stretches {
    /// The stretches of these records of a log, newest first, without those known to lie outside of the ranges.
    pub fn of(&self, records: Range<u64>, times: &RangeInclusive<i64>, offsets: &RangeInclusive<i64>) -> Vec<Range<u64>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        let mut high = records.end;
        while high > records.start {
            let number = (high - 1) / STRETCH;
            let low = (number * STRETCH).max(records.start);
            if known.get(&number).is_none_or(|span| span.meets(times, offsets)) {
                found.push(low..high);
            }
            high = low;
        }
        found
    }

    /// The pieces of these records, newest first, without those known to lie outside: whole pieces, then at the log's end whole stretches, then what is left.
    /// `firm`: before this one, records may be taken away.
    pub fn pieces(&self, records: Range<u64>, firm: u64, times: &RangeInclusive<i64>, offsets: &RangeInclusive<i64>) -> Vec<Piece> {
        let mut found = Vec::new();
        let mut high = records.end;
        while high > records.start {
            let step = if high.is_multiple_of(PIECE) {
                PIECE
            } else if high.is_multiple_of(STRETCH) {
                STRETCH
            } else {
                high % STRETCH
            };
            let low = high.saturating_sub(step).max(records.start);
            let span = self.known(low..high);
            if span.is_none_or(|span| span.meets(times, offsets)) {
                let is_inside = *times == (i64::MIN..=i64::MAX) || span.is_some_and(|span| span.is_inside(times));
                found.push(Piece {
                    records: low..high,
                    is_full: high.is_multiple_of(STRETCH) && low >= firm,
                    is_inside,
                    times: span.map(|span| span.times),
                });
            }
            high = low;
        }
        found
    }

    /// What is known of whole stretches; none: not everything.
    pub fn known(&self, records: Range<u64>) -> Option<Span> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Span::EMPTY;
        for number in records.start / STRETCH..records.end.div_ceil(STRETCH) {
            all.join(*known.get(&number)?);
        }
        Some(all)
    }

    /// All records of a stretch were seen, and this is how they lie.
    pub fn remember(&self, records: Range<u64>, span: Span) {
        if records.start.is_multiple_of(STRETCH) && records.end.is_multiple_of(STRETCH) {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            for number in records.start / STRETCH..records.end / STRETCH {
                // What is known of one stretch by itself is narrower than what is told of many.
                known.entry(number).or_insert(span);
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "one range is one stretch")]
mod tests {
    use super::*;

    const ANY: RangeInclusive<i64> = i64::MIN..=i64::MAX;

    fn span(first: i64, last: i64) -> Span {
        Span { times: (first, last), offsets: (first * 10, last * 10) }
    }

    #[test]
    fn a_stretch_is_passed_over_once_it_is_known() {
        let stretches = Stretches::default();
        let all = stretches.of(10..2 * STRETCH + 5, &(0..=10), &ANY);
        assert_eq!(all, [2 * STRETCH..2 * STRETCH + 5, STRETCH..2 * STRETCH, 10..STRETCH]);
        stretches.remember(STRETCH..2 * STRETCH, span(20, 30));
        // Not the whole of its stretch.
        stretches.remember(10..STRETCH, span(20, 30));
        assert_eq!(stretches.of(10..2 * STRETCH, &(0..=10), &ANY), [10..STRETCH]);
        assert_eq!(stretches.of(10..2 * STRETCH, &(30..=40), &ANY).len(), 2);
        assert_eq!(stretches.of(10..2 * STRETCH, &ANY, &(0..=199)), [10..STRETCH]);
        // Without a row it meets nothing but a question for everything.
        stretches.remember(2 * STRETCH..3 * STRETCH, Span::EMPTY);
        assert_eq!(stretches.of(2 * STRETCH..3 * STRETCH, &(0..=100), &ANY), []);
    }

    #[test]
    fn pieces_are_large_but_at_the_end() {
        let stretches = Stretches::default();
        let cut = |records: Range<u64>, times| -> Vec<(Range<u64>, bool, bool)> {
            stretches.pieces(records, 100, times, &ANY).into_iter().map(|piece| (piece.records, piece.is_full, piece.is_inside)).collect()
        };
        let end = 2 * PIECE + STRETCH + 7;
        let expected =
            [(end - 7..end, false, true), (2 * PIECE..end - 7, true, true), (PIECE..2 * PIECE, true, true), (100..PIECE, true, true)];
        assert_eq!(cut(100..end, &ANY), expected);
        stretches.remember(PIECE..2 * PIECE, span(20, 30));
        stretches.remember(2 * PIECE..2 * PIECE + STRETCH, span(31, 40));
        assert_eq!(cut(PIECE..2 * PIECE + STRETCH, &(0..=10)), []);
        assert_eq!(
            cut(PIECE..2 * PIECE + STRETCH, &(25..=40)),
            [(2 * PIECE..2 * PIECE + STRETCH, true, true), (PIECE..2 * PIECE, true, false)]
        );
    }
}
