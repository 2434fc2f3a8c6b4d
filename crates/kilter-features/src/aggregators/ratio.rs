//! `ratio(condition)`: the share of events for which it holds, of those for which it is not null. Empty: null.

use kilter_core::{DataType, Value};

use super::{Aggregator, Bound, Fixed, Input, Ops, Reading, Takes, float};

pub(super) static RATIO: Aggregator = Aggregator::new(&["ratio"], Takes::Condition, |t| match t {
    Some(DataType::Bool) => Ok(Bound::new("ratio", Ops::fixed::<Ratio>(), DataType::Float64)),
    _ => Err("a condition, as in ratio(kind = 'card')"),
});

/// Events, and those for which it holds.
struct Ratio;

impl Fixed for Ratio {
    const WORDS: usize = 2;
    const GROUP: bool = true;

    fn update(state: &mut [u64], input: &Input<'_>) {
        Self::merge(state, &[1, u64::from(*input.value == Value::Bool(true))]);
    }

    fn retract(state: &mut [u64], input: &Input<'_>) {
        state[0] = state[0].saturating_sub(1);
        state[1] = state[1].saturating_sub(u64::from(*input.value == Value::Bool(true)));
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        state[0] = state[0].saturating_add(later[0]);
        state[1] = state[1].saturating_add(later[1]);
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        if state[0] == 0 { Value::Null } else { float(state[1] as f64 / state[0] as f64) }
    }
}
