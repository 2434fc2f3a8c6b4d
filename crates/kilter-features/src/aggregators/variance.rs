//! `variance(x)`, also `var(x)`, and `stddev(x)` of a sample (divisor n - 1). Null below two rows.

use kilter_core::{DataType, Value};
use kilter_stats::Moments;

use super::{Aggregator, Bound, Fixed, Input, Ops, Reading, Takes, float, number};

pub(super) static VARIANCE: Aggregator = Aggregator::new(&["variance", "var"], Takes::Value, |t| bind(t, Ops::fixed::<Spread<false>>()));
pub(super) static STDDEV: Aggregator = Aggregator::new(&["stddev"], Takes::Value, |t| bind(t, Ops::fixed::<Spread<true>>()));

fn bind(t: Option<DataType>, ops: Ops) -> Result<Bound, &'static str> {
    match t {
        Some(t) if t.is_numeric() => Ok(Bound::new("moments", ops, DataType::Float64).adds_floats()),
        _ => Err("a number"),
    }
}

/// Count, mean and squared deviations.
struct Spread<const ROOT: bool>;

pub(super) fn load(state: &[u64]) -> Moments {
    Moments { count: state[0], mean: f64::from_bits(state[1]), m2: f64::from_bits(state[2]) }
}

pub(super) fn store(state: &mut [u64], m: Moments) {
    state[0] = m.count;
    state[1] = m.mean.to_bits();
    state[2] = m.m2.to_bits();
}

impl<const ROOT: bool> Fixed for Spread<ROOT> {
    const WORDS: usize = 3;

    fn update(state: &mut [u64], input: &Input<'_>) {
        let mut moments = load(state);
        moments.add(number(input.value));
        store(state, moments);
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        let mut moments = load(state);
        moments.merge(&load(later));
        store(state, moments);
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        let moments = load(state);
        let spread = if ROOT { moments.stddev() } else { moments.variance() };
        spread.map_or(Value::Null, float)
    }
}
