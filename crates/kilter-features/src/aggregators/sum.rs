//! `sum(x)`: integers exactly, floats in arrival order. Empty: null. A sum of integers beyond int64 is null.

use kilter_core::{DataType, Value};

use super::{Aggregator, Bound, Fixed, Input, Ops, Reading, Takes, decay, float, number};

pub(super) static SUM: Aggregator = Aggregator::new(&["sum"], Takes::Value, |t| match t {
    Some(DataType::Int64) => Ok(Bound::new("total_int", Ops::fixed::<SumInt>(), DataType::Int64)),
    Some(DataType::Float64) => Ok(Bound::new("total_float", Ops::fixed::<SumFloat>(), DataType::Float64).adds_floats()),
    _ => Err("a number"),
})
.with_decay(decay::sum);

/// Count, then the total as i128 (low word first): no order of adding can overflow on the way.
pub(super) struct SumInt;

pub(super) fn total(state: &[u64]) -> i128 {
    (u128::from(state[1]) | u128::from(state[2]) << 64) as i128
}

fn set_total(state: &mut [u64], total: i128) {
    state[1] = total as u64;
    state[2] = (total >> 64) as u64;
}

impl Fixed for SumInt {
    const WORDS: usize = 3;
    const GROUP: bool = true;

    fn update(state: &mut [u64], input: &Input<'_>) {
        if let Value::Int(i) = input.value {
            state[0] += 1;
            let sum = total(state).wrapping_add(i128::from(*i));
            set_total(state, sum);
        }
    }

    fn retract(state: &mut [u64], input: &Input<'_>) {
        if let Value::Int(i) = input.value {
            state[0] = state[0].saturating_sub(1);
            let sum = total(state).wrapping_sub(i128::from(*i));
            set_total(state, sum);
        }
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        state[0] = state[0].saturating_add(later[0]);
        let sum = total(state).wrapping_add(total(later));
        set_total(state, sum);
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        match state[0] {
            0 => Value::Null,
            _ => i64::try_from(total(state)).map_or(Value::Null, Value::Int),
        }
    }
}

/// Count and running total.
pub(super) struct SumFloat;

impl Fixed for SumFloat {
    const WORDS: usize = 2;

    fn update(state: &mut [u64], input: &Input<'_>) {
        state[0] += 1;
        state[1] = (f64::from_bits(state[1]) + number(input.value)).to_bits();
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        state[0] = state[0].saturating_add(later[0]);
        state[1] = (f64::from_bits(state[1]) + f64::from_bits(later[1])).to_bits();
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        if state[0] == 0 { Value::Null } else { float(f64::from_bits(state[1])) }
    }
}
