//! `count(*)` rows, `count(x)` rows where x is not null. Empty: 0.

use kilter_core::{DataType, Value};

use super::{Aggregator, Bound, Fixed, Input, Ops, Reading, Takes, decay, whole};

pub(super) static COUNT: Aggregator =
    Aggregator::new(&["count"], Takes::StarOrValue, |_| Ok(Bound::new("count", Ops::fixed::<Count>(), DataType::Int64)))
        .with_decay(|_| Ok(decay::count()));

struct Count;

impl Fixed for Count {
    const WORDS: usize = 1;
    const GROUP: bool = true;

    fn update(state: &mut [u64], _: &Input<'_>) {
        state[0] += 1;
    }

    fn retract(state: &mut [u64], _: &Input<'_>) {
        state[0] = state[0].saturating_sub(1);
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        state[0] = state[0].saturating_add(later[0]);
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        whole(state[0])
    }
}
