//! `top_k(x, k)` and `bottom_k(x, k)`: the k largest values from the largest down, or the k smallest from the smallest up. Empty: an empty
//! list. Equal values count as often as they occur.

use kilter_core::{DataType, Value};

use super::extreme::{rank, unrank};
use super::row::most;
use super::{Aggregator, Bound, Constants, Growing, Input, Ops, Reading, Takes, number};

pub(super) static TOP_K: Aggregator =
    Aggregator::new(&["top_k"], Takes::ValueAnd(Constants::Count), |t| bind(t, "top_k", Ops::growing::<Top<true>>()));
pub(super) static BOTTOM_K: Aggregator =
    Aggregator::new(&["bottom_k"], Takes::ValueAnd(Constants::Count), |t| bind(t, "bottom_k", Ops::growing::<Top<false>>()));

fn bind(t: Option<DataType>, state: &'static str, ops: Ops) -> Result<Bound, &'static str> {
    match t {
        Some(t) if t.is_numeric() => Ok(Bound::new(state, ops, DataType::NumberList).shaped()),
        _ => Err("a number"),
    }
}

/// Ranks of floats, the best first.
struct Top<const MAX: bool>;

fn insert(state: &mut Vec<u64>, rank: u64, most: usize) {
    let place = state.partition_point(|held| *held >= rank);
    if place < most {
        state.truncate(most - 1);
        state.insert(place, rank);
    }
}

impl<const MAX: bool> Growing for Top<MAX> {
    fn update(state: &mut Vec<u64>, input: &Input<'_>) {
        insert(state, rank::<MAX>(number(input.value)), most(input.constants));
    }

    fn merge(state: &mut Vec<u64>, later: &[u64], constants: &[f64]) {
        later.iter().for_each(|rank| insert(state, *rank, most(constants)));
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        Value::List(state.iter().map(|rank| Value::Float(unrank::<MAX>(*rank))).collect())
    }
}
