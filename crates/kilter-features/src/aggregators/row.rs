//! `first_k(x, k)` and `last_k(x, k)`: the k earliest or latest values as a list in order of event time, the oldest first. Empty: an empty
//! list. Ties as `first` and `last` have them.

use kilter_core::Value;

use super::{Aggregator, Bound, Constants, Growing, Input, Ops, Reading, Takes, words};

pub(super) static FIRST_K: Aggregator = Aggregator::new(&["first_k"], Takes::ValueAnd(Constants::Count), |t| {
    let result = t.and_then(words::list_type).ok_or("a value")?;
    Ok(Bound::new("first_k", Ops::growing::<Row<false>>(), result).ordered().shaped())
});
pub(super) static LAST_K: Aggregator = Aggregator::new(&["last_k"], Takes::ValueAnd(Constants::Count), |t| {
    let result = t.and_then(words::list_type).ok_or("a value")?;
    Ok(Bound::new("last_k", Ops::growing::<Row<true>>(), result).ordered().shaped())
});

/// Entries of an event time and a value, by time and then arrival.
struct Row<const LAST: bool>;

pub(super) fn most(constants: &[f64]) -> usize {
    constants.first().map_or(1, |k| *k as usize)
}

/// Puts an entry behind all that are not later, and drops what is one too many.
fn insert<const LAST: bool>(state: &mut Vec<u64>, entry: &[u64], most: usize) {
    let time = entry[0] as i64;
    let (mut count, mut place) = (0, 0);
    for range in words::entries(state, 1) {
        count += 1;
        if state[range.start] as i64 <= time {
            place = range.end;
        }
    }
    if count == most && (if LAST { place == 0 } else { place == state.len() }) {
        return;
    }
    state.splice(place..place, entry.iter().copied());
    if count == most {
        let out = if LAST { words::entries(state, 1).next() } else { words::entries(state, 1).last() };
        if let Some(out) = out {
            state.drain(out);
        }
    }
}

impl<const LAST: bool> Growing for Row<LAST> {
    fn update(state: &mut Vec<u64>, input: &Input<'_>) {
        let mut entry = vec![input.time.0 as u64];
        words::put(&mut entry, input.value);
        insert::<LAST>(state, &entry, most(input.constants));
    }

    fn merge(state: &mut Vec<u64>, later: &[u64], constants: &[f64]) {
        for range in words::entries(later, 1) {
            insert::<LAST>(state, &later[range], most(constants));
        }
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        words::list(words::entries(state, 1).map(|range| words::get(&state[range.start + 1..range.end])))
    }
}
