//! `zscore(x)`: how many sample standard deviations the newest value lies above the mean of all values of the window, itself included. Null
//! below two values, and where all are equal.

use kilter_core::{DataType, Value};

use super::variance::{load, store};
use super::{Aggregator, Bound, Fixed, Input, Ops, Reading, Takes, float, number};

pub(super) static ZSCORE: Aggregator = Aggregator::new(&["zscore"], Takes::Value, |t| match t {
    Some(t) if t.is_numeric() => Ok(Bound::new("zscore", Ops::fixed::<ZScore>(), DataType::Float64).adds_floats()),
    _ => Err("a number"),
});

/// Count, mean and squared deviations; then the time of the newest value and the value.
struct ZScore;

impl Fixed for ZScore {
    const WORDS: usize = 5;

    fn update(state: &mut [u64], input: &Input<'_>) {
        let x = number(input.value).to_bits();
        Self::merge(state, &[1, x, 0, input.time.0 as u64, x]);
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        if later[0] == 0 {
            return;
        }
        if state[0] == 0 || later[3] as i64 >= state[3] as i64 {
            state[3] = later[3];
            state[4] = later[4];
        }
        let mut moments = load(state);
        moments.merge(&load(later));
        store(&mut state[..3], moments);
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        let moments = load(state);
        match moments.stddev() {
            Some(spread) if spread > 0.0 => float((f64::from_bits(state[4]) - moments.mean) / spread),
            _ => Value::Null,
        }
    }
}
