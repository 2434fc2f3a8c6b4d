//! `first_time()` and `last_time()`: when the earliest and the latest event happened; `time_since_first()` and `time_since_last()`: seconds
//! from them to the moment of reading, never below 0. Empty: null.

use kilter_core::{DataType, EventTime, Value};

use super::{Aggregator, Bound, Fixed, Input, Ops, Reading, Takes};

pub(super) static FIRST_TIME: Aggregator = Aggregator::new(&["first_time"], Takes::Nothing, |_| {
    Ok(Bound::new("earliest", Ops::fixed::<Moment<false, false>>(), DataType::Timestamp))
});
pub(super) static LAST_TIME: Aggregator =
    Aggregator::new(&["last_time"], Takes::Nothing, |_| Ok(Bound::new("latest", Ops::fixed::<Moment<true, false>>(), DataType::Timestamp)));
pub(super) static TIME_SINCE_FIRST: Aggregator = Aggregator::new(&["time_since_first"], Takes::Nothing, |_| {
    Ok(Bound::new("earliest", Ops::fixed::<Moment<false, true>>(), DataType::Float64))
});
pub(super) static TIME_SINCE_LAST: Aggregator = Aggregator::new(&["time_since_last"], Takes::Nothing, |_| {
    Ok(Bound::new("latest", Ops::fixed::<Moment<true, true>>(), DataType::Float64))
});

/// Whether there is an event, then its time.
struct Moment<const LATEST: bool, const SINCE: bool>;

impl<const LATEST: bool, const SINCE: bool> Fixed for Moment<LATEST, SINCE> {
    const WORDS: usize = 2;

    fn update(state: &mut [u64], input: &Input<'_>) {
        Self::merge(state, &[1, input.time.0 as u64]);
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        let (held, new) = (state[1] as i64, later[1] as i64);
        if later[0] != 0 && (state[0] == 0 || if LATEST { new > held } else { new < held }) {
            state.copy_from_slice(later);
        }
    }

    fn output(state: &[u64], reading: &Reading<'_>) -> Value {
        match (state[0], SINCE) {
            (0, _) => Value::Null,
            (_, true) => Value::Float(reading.at.0.saturating_sub(state[1] as i64).max(0) as f64 / 1e6),
            (_, false) => Value::Time(EventTime(state[1] as i64)),
        }
    }

    // The newest (oldest) tile that has an event has the latest (earliest).
    fn fold(state: &mut [u64], words: &[u64], stride: usize, offset: usize) {
        let mut tiles = words.chunks_exact(stride).map(|tile| &tile[offset..offset + Self::WORDS]);
        let found = if LATEST { tiles.rfind(|t| t[0] != 0) } else { tiles.find(|t| t[0] != 0) };
        if let Some(tile) = found {
            Self::merge(state, tile);
        }
    }
}
