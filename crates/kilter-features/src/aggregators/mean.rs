//! `mean(x)`, also `avg(x)`: the total over the count, from the states of `sum`. Empty: null.

use kilter_core::{DataType, Value};

use super::sum::{self, SumFloat, SumInt};
use super::{Aggregator, Bound, Fixed, Input, Ops, Reading, Takes, decay, float};

pub(super) static MEAN: Aggregator = Aggregator::new(&["mean", "avg"], Takes::Value, |t| match t {
    Some(DataType::Int64) => Ok(Bound::new("total_int", Ops::fixed::<MeanInt>(), DataType::Float64)),
    Some(DataType::Float64) => Ok(Bound::new("total_float", Ops::fixed::<MeanFloat>(), DataType::Float64).adds_floats()),
    _ => Err("a number"),
})
.with_decay(decay::mean);

/// Exact, so the mean does not depend on order.
struct MeanInt;

impl Fixed for MeanInt {
    const WORDS: usize = SumInt::WORDS;
    const GROUP: bool = true;

    fn update(state: &mut [u64], input: &Input<'_>) {
        SumInt::update(state, input);
    }

    fn retract(state: &mut [u64], input: &Input<'_>) {
        SumInt::retract(state, input);
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        SumInt::merge(state, later);
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        if state[0] == 0 { Value::Null } else { float(sum::total(state) as f64 / state[0] as f64) }
    }
}

struct MeanFloat;

impl Fixed for MeanFloat {
    const WORDS: usize = SumFloat::WORDS;

    fn update(state: &mut [u64], input: &Input<'_>) {
        SumFloat::update(state, input);
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        SumFloat::merge(state, later);
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        if state[0] == 0 { Value::Null } else { float(f64::from_bits(state[1]) / state[0] as f64) }
    }
}
