//! `rate()`: events per second over the window's length; over a lifetime, since its first event (at least one second). Empty: 0.

use kilter_core::{DataType, Value};

use super::{Aggregator, Bound, Fixed, Input, Ops, Reading, Takes, float};

pub(super) static RATE: Aggregator =
    Aggregator::new(&["rate"], Takes::Nothing, |_| Ok(Bound::new("rate", Ops::fixed::<Rate>(), DataType::Float64)));

/// Count, then the earliest event time.
struct Rate;

impl Fixed for Rate {
    const WORDS: usize = 2;

    fn update(state: &mut [u64], input: &Input<'_>) {
        Self::merge(state, &[1, input.time.0 as u64]);
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        if later[0] != 0 && (state[0] == 0 || (later[1] as i64) < state[1] as i64) {
            state[1] = later[1];
        }
        state[0] = state[0].saturating_add(later[0]);
    }

    fn output(state: &[u64], reading: &Reading<'_>) -> Value {
        let micros = reading.span.unwrap_or_else(|| reading.at.0.saturating_sub(state[1] as i64).max(1_000_000));
        if state[0] == 0 { Value::Float(0.0) } else { float(state[0] as f64 / (micros as f64 / 1e6)) }
    }
}
