//! `min(x)` and `max(x)` of numbers and times. Empty: null. -0.0 is below 0.0, so that the answer does not depend on order.

use kilter_core::{DataType, EventTime, Value};

use super::{Aggregator, Bound, Fixed, Input, Ops, Reading, Takes, number};

pub(super) static MIN: Aggregator = Aggregator::new(&["min"], Takes::Value, bind::<false>);
pub(super) static MAX: Aggregator = Aggregator::new(&["max"], Takes::Value, bind::<true>);

fn bind<const MAX: bool>(t: Option<DataType>) -> Result<Bound, &'static str> {
    let (kind, ops, result) = match t {
        Some(DataType::Float64) => (["min_float", "max_float"], Ops::fixed::<Floats<MAX>>(), DataType::Float64),
        Some(DataType::Int64) => (["min_int", "max_int"], Ops::fixed::<Whole<MAX, false>>(), DataType::Int64),
        Some(DataType::Timestamp) => (["min_time", "max_time"], Ops::fixed::<Whole<MAX, true>>(), DataType::Timestamp),
        _ => return Err("a number or a timestamp"),
    };
    Ok(Bound::new(kind[usize::from(MAX)], ops, result))
}

/// One word: the float's bits arranged so that a larger word is a better candidate. Finite floats never give 0, which means empty.
struct Floats<const MAX: bool>;

pub(super) fn rank<const MAX: bool>(x: f64) -> u64 {
    let bits = x.to_bits();
    let ascending = if bits >> 63 == 0 { bits | 1 << 63 } else { !bits };
    if MAX { ascending } else { !ascending }
}

pub(super) fn unrank<const MAX: bool>(rank: u64) -> f64 {
    let ascending = if MAX { rank } else { !rank };
    f64::from_bits(if ascending >> 63 == 1 { ascending & !(1 << 63) } else { !ascending })
}

impl<const MAX: bool> Fixed for Floats<MAX> {
    const WORDS: usize = 1;

    fn update(state: &mut [u64], input: &Input<'_>) {
        state[0] = state[0].max(rank::<MAX>(number(input.value)));
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        state[0] = state[0].max(later[0]);
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        if state[0] == 0 { Value::Null } else { Value::float(unrank::<MAX>(state[0])) }
    }
}

/// Whether there is a value, then the value.
struct Whole<const MAX: bool, const TIME: bool>;

impl<const MAX: bool, const TIME: bool> Fixed for Whole<MAX, TIME> {
    const WORDS: usize = 2;

    fn update(state: &mut [u64], input: &Input<'_>) {
        let value = match input.value {
            Value::Int(i) => *i,
            Value::Time(t) => t.0,
            _ => return,
        };
        Self::merge(state, &[1, value as u64]);
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        let (held, new) = (state[1] as i64, later[1] as i64);
        if later[0] != 0 && (state[0] == 0 || if MAX { new > held } else { new < held }) {
            state[0] = 1;
            state[1] = later[1];
        }
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        match (state[0], TIME) {
            (0, _) => Value::Null,
            (_, true) => Value::Time(EventTime(state[1] as i64)),
            (_, false) => Value::Int(state[1] as i64),
        }
    }
}
