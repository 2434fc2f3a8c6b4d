//! `streak(condition)`: for how many events up to the newest the condition has held without a break. Events are taken in the order of their
//! tiles and, within one, of arrival; those for which the condition is null are passed over. Empty: 0.

use kilter_core::{DataType, Value};

use super::{Aggregator, Bound, Fixed, Input, Ops, Reading, Takes, whole};

pub(super) static STREAK: Aggregator = Aggregator::new(&["streak"], Takes::Condition, |t| match t {
    Some(DataType::Bool) => Ok(Bound::new("streak", Ops::fixed::<Streak>(), DataType::Int64).ordered()),
    _ => Err("a condition, as in streak(amount < 0)"),
});

/// Events, and how many at the end of them the condition held for.
struct Streak;

impl Fixed for Streak {
    const WORDS: usize = 2;

    fn update(state: &mut [u64], input: &Input<'_>) {
        Self::merge(state, &[1, u64::from(*input.value == Value::Bool(true))]);
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        let unbroken = later[1] == later[0];
        state[1] = if unbroken { state[1].saturating_add(later[1]) } else { later[1] };
        state[0] = state[0].saturating_add(later[0]);
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        whole(state[1])
    }
}
