//! `histogram(x, e1, e2, ...)`: how many values lie below e1, from e1 to below e2, and so on, and from the last edge up: one number more than
//! edges. Empty: zeros.

use kilter_core::{DataType, Value};

use super::{Aggregator, Bound, Constants, Growing, Input, Ops, Reading, Takes, number};

pub(super) static HISTOGRAM: Aggregator = Aggregator::new(&["histogram"], Takes::ValueAnd(Constants::Edges), |t| match t {
    Some(t) if t.is_numeric() => Ok(Bound::new("histogram", Ops::growing::<Histogram>(), DataType::NumberList).shaped()),
    _ => Err("a number"),
});

/// One count a bin, or no words at all.
struct Histogram;

fn bin(input: &Input<'_>) -> usize {
    let x = number(input.value);
    input.constants.partition_point(|edge| *edge <= x)
}

impl Growing for Histogram {
    const GROUP: bool = true;

    fn update(state: &mut Vec<u64>, input: &Input<'_>) {
        state.resize(input.constants.len() + 1, 0);
        state[bin(input)] += 1;
    }

    fn retract(state: &mut Vec<u64>, input: &Input<'_>) {
        if let Some(count) = state.get_mut(bin(input)) {
            *count = count.saturating_sub(1);
        }
        if state.iter().all(|count| *count == 0) {
            state.clear();
        }
    }

    fn merge(state: &mut Vec<u64>, later: &[u64], _: &[f64]) {
        state.resize(state.len().max(later.len()), 0);
        for (count, more) in state.iter_mut().zip(later) {
            *count = count.saturating_add(*more);
        }
    }

    fn output(state: &[u64], reading: &Reading<'_>) -> Value {
        let bins = reading.constants.len() + 1;
        Value::List((0..bins).map(|i| Value::Float(state.get(i).copied().unwrap_or(0) as f64)).collect())
    }
}
