//! `argmax(x, by)` and `argmin(x, by)`: x of the event whose `by` is largest or smallest; events where either is null are passed over. Of
//! equals the earliest by event time, then by arrival. Empty: null.

use kilter_core::{DataType, Value};

use super::extreme::rank;
use super::{Aggregator, Bound, Growing, Input, Ops, Reading, Takes, number, words};

pub(super) static ARGMIN: Aggregator =
    Aggregator::new(&["argmin"], Takes::ValueAndOrder, |t| bind(t, "argmin", Ops::growing::<Choice<false>>()));
pub(super) static ARGMAX: Aggregator =
    Aggregator::new(&["argmax"], Takes::ValueAndOrder, |t| bind(t, "argmax", Ops::growing::<Choice<true>>()));

fn bind(t: Option<DataType>, state: &'static str, ops: Ops) -> Result<Bound, &'static str> {
    t.filter(|t| words::list_type(*t).is_some()).map(|t| Bound::new(state, ops, t).ordered()).ok_or("a value of a column")
}

/// The rank of `by`, the event time, then x.
struct Choice<const MAX: bool>;

impl<const MAX: bool> Growing for Choice<MAX> {
    fn update(state: &mut Vec<u64>, input: &Input<'_>) {
        let rank = match input.other {
            Value::Int(i) => whole_rank::<MAX>(*i),
            Value::Time(t) => whole_rank::<MAX>(t.0),
            other => rank::<MAX>(number(other)),
        };
        let mut new = vec![rank, input.time.0 as u64];
        words::put(&mut new, input.value);
        Self::merge(state, &new, input.constants);
    }

    fn merge(state: &mut Vec<u64>, later: &[u64], _: &[f64]) {
        let better = match (state.as_slice(), later) {
            (_, []) => false,
            ([held, held_at, ..], [new, new_at, ..]) => new > held || (new == held && (*new_at as i64) < *held_at as i64),
            _ => true,
        };
        if better {
            state.clear();
            state.extend_from_slice(later);
        }
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        state.get(2..).map_or(Value::Null, words::get)
    }
}

/// A larger word is a better candidate.
fn whole_rank<const MAX: bool>(i: i64) -> u64 {
    let ascending = i as u64 ^ 1 << 63;
    if MAX { ascending } else { !ascending }
}
