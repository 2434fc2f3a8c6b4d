//! `count(*)` rows, `count(x)` rows where x is not null. Empty: 0.

use kilter_core::{DataType, Value};

use super::{Aggregator, Bound, Equality, Fixed, Input, Ops, Reading, Takes};

pub(super) static COUNT: Aggregator = Aggregator {
    names: &["count"],
    takes: Takes::StarOrValue,
    bind: |_| {
        Ok(Bound {
            state: "count",
            ops: Ops::fixed::<Count>(),
            result: DataType::Int64,
            equality: Equality::Bitwise,
            order_sensitive: false,
            error: 0.0,
        })
    },
};

struct Count;

impl Fixed for Count {
    const WORDS: usize = 1;

    fn update(state: &mut [u64], _: &Input<'_>) {
        state[0] += 1;
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        state[0] = state[0].saturating_add(later[0]);
    }

    fn output(state: &[u64], _: &Reading) -> Value {
        Value::Int(i64::try_from(state[0]).unwrap_or(i64::MAX))
    }
}
