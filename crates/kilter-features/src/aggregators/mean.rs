//! `mean(x)`, also `avg(x)`: the total over the count. Empty: null.

use kilter_core::{DataType, Value};

use super::{Aggregator, Bound, Equality, Fixed, Input, Ops, Reading, Takes, float, number, sum};

pub(super) static MEAN: Aggregator = Aggregator {
    names: &["mean", "avg"],
    takes: Takes::Value,
    bind: |t| {
        let (state, ops, equality) = match t {
            Some(DataType::Int64) => ("mean_int", Ops::fixed::<MeanInt>(), Equality::Bitwise),
            Some(DataType::Float64) => ("mean_float", Ops::fixed::<MeanFloat>(), Equality::Tolerance(1e-9)),
            _ => return Err("a number"),
        };
        Ok(Bound { state, ops, result: DataType::Float64, equality, order_sensitive: equality != Equality::Bitwise, error: 0.0 })
    },
};

/// The state of an integer sum: exact, so the mean does not depend on order.
struct MeanInt;

impl Fixed for MeanInt {
    const WORDS: usize = 3;

    fn update(state: &mut [u64], input: &Input<'_>) {
        if let Value::Int(i) = input.value {
            state[0] += 1;
            let total = sum::total(state).wrapping_add(i128::from(*i));
            sum::set_total(state, total);
        }
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        state[0] = state[0].saturating_add(later[0]);
        let total = sum::total(state).wrapping_add(sum::total(later));
        sum::set_total(state, total);
    }

    fn output(state: &[u64], _: &Reading) -> Value {
        if state[0] == 0 { Value::Null } else { float(sum::total(state) as f64 / state[0] as f64) }
    }
}

/// Count and running total.
struct MeanFloat;

impl Fixed for MeanFloat {
    const WORDS: usize = 2;

    fn update(state: &mut [u64], input: &Input<'_>) {
        state[0] += 1;
        state[1] = (f64::from_bits(state[1]) + number(input.value)).to_bits();
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        state[0] = state[0].saturating_add(later[0]);
        state[1] = (f64::from_bits(state[1]) + f64::from_bits(later[1])).to_bits();
    }

    fn output(state: &[u64], _: &Reading) -> Value {
        if state[0] == 0 { Value::Null } else { float(f64::from_bits(state[1]) / state[0] as f64) }
    }
}
