//! `frequent_k(x, k)`: the k most frequent values as texts, the most frequent first; `mode(x)`: the most frequent one. Of equally frequent
//! values the smaller one comes first (numbers by size, texts by their bytes).
//!
//! Exact up to 256 different values. Beyond, the summary of Misra and Gries (1982), merged after Agarwal et al., "Mergeable summaries"
//! (PODS 2012): every count is too low by at most n / 257 for n values, so whatever is more frequent than that is among those kept.

use std::cmp::Ordering;

use kilter_core::{DataType, Value};

use super::row::most;
use super::{Aggregator, Bound, Constants, Equality, Growing, Input, Ops, Reading, Takes, words};

pub(super) static FREQUENT_K: Aggregator = Aggregator::new(&["frequent_k"], Takes::ValueAnd(Constants::Count), |t| {
    countable(t)?;
    Ok(Bound { equality: Equality::Distribution, ..Bound::new("frequent", Ops::growing::<Frequent<true>>(), DataType::TextList).ordered() })
});
pub(super) static MODE: Aggregator = Aggregator::new(&["mode"], Takes::Value, |t| {
    let result = countable(t)?;
    Ok(Bound { equality: Equality::Distribution, ..Bound::new("frequent", Ops::growing::<Frequent<false>>(), result).ordered() })
});

fn countable(t: Option<DataType>) -> Result<DataType, &'static str> {
    match t {
        Some(t @ (DataType::String | DataType::Int64 | DataType::Bool)) => Ok(t),
        _ => Err("a string, an int64 or a bool"),
    }
}

/// Counters kept.
const COUNTERS: usize = 256;

/// Entries of a count and a value, by value.
struct Frequent<const LIST: bool>;

fn order(a: &[u64], b: &[u64]) -> Ordering {
    match (words::get(a), words::get(b)) {
        (Value::Text(a), Value::Text(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Value::Int(a), Value::Int(b)) => a.cmp(&b),
        _ => a.cmp(b),
    }
}

fn add(state: &mut Vec<u64>, count: u64, value: &[u64]) {
    let (mut place, mut found) = (0, None);
    for range in words::entries(state, 1) {
        // Equal words are equal values; their order takes decoding.
        if state[range.start + 1..range.end] == *value {
            found = Some(range.start);
            break;
        }
        if order(&state[range.start + 1..range.end], value) == Ordering::Greater {
            break;
        }
        place = range.end;
    }
    match found {
        Some(held) => state[held] = state[held].saturating_add(count),
        None => drop(state.splice(place..place, std::iter::once(count).chain(value.iter().copied()))),
    }
}

/// Takes the largest count that may go from every counter, so that at most [`COUNTERS`] are left.
fn reduce(state: &mut Vec<u64>) {
    let mut counts: Vec<u64> = words::entries(state, 1).map(|range| state[range.start]).collect();
    if counts.len() <= COUNTERS {
        return;
    }
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let gone = counts[COUNTERS];
    let mut left = Vec::with_capacity(state.len());
    for range in words::entries(state, 1).filter(|range| state[range.start] > gone) {
        left.push(state[range.start] - gone);
        left.extend_from_slice(&state[range.start + 1..range.end]);
    }
    *state = left;
}

impl<const LIST: bool> Growing for Frequent<LIST> {
    fn update(state: &mut Vec<u64>, input: &Input<'_>) {
        let mut value = Vec::new();
        words::put(&mut value, input.value);
        add(state, 1, &value);
        reduce(state);
    }

    fn merge(state: &mut Vec<u64>, later: &[u64], _: &[f64]) {
        for range in words::entries(later, 1) {
            add(state, later[range.start], &later[range.start + 1..range.end]);
        }
        reduce(state);
    }

    fn output(state: &[u64], reading: &Reading<'_>) -> Value {
        let mut found: Vec<_> = words::entries(state, 1).collect();
        // Stable: values of one count stay in their order.
        found.sort_by_key(|range| std::cmp::Reverse(state[range.start]));
        let mut values = found.into_iter().map(|range| words::get(&state[range.start + 1..range.end]));
        match LIST {
            true => Value::List(values.take(most(reading.constants)).map(|v| Value::text(&v.to_string())).collect()),
            false => values.next().unwrap_or_default(),
        }
    }
}
