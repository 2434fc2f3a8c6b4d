//! `gap_mean()` and `gap_stddev()`: mean and sample standard deviation, in seconds, of the time between one event and the next. Null below
//! two events, and below two gaps.
//!
//! The mean gap needs only the first and last event. Deviations need each gap: events are taken in the order of their tiles and, within one,
//! of arrival, and a gap is the distance of two neighbours whichever is later.

use kilter_core::{DataType, Value};
use kilter_stats::Moments;

use super::variance::{load, store};
use super::{Aggregator, Bound as Form, Fixed, Input, Ops, Reading, Takes, float};

pub(super) static GAP_MEAN: Aggregator =
    Aggregator::new(&["gap_mean"], Takes::Nothing, |_| Ok(Form::new("bounds", Ops::fixed::<Bounds>(), DataType::Float64)));
pub(super) static GAP_STDDEV: Aggregator =
    Aggregator::new(&["gap_stddev"], Takes::Nothing, |_| Ok(Form::new("gaps", Ops::fixed::<Gaps>(), DataType::Float64).adds_floats()));

/// Count, earliest and latest event time.
pub(crate) struct Bounds;

impl Fixed for Bounds {
    const WORDS: usize = 3;

    fn update(state: &mut [u64], input: &Input<'_>) {
        let time = input.time.0 as u64;
        Self::merge(state, &[1, time, time]);
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        if later[0] == 0 {
            return;
        }
        if state[0] == 0 {
            state.copy_from_slice(later);
            return;
        }
        state[0] = state[0].saturating_add(later[0]);
        state[1] = (state[1] as i64).min(later[1] as i64) as u64;
        state[2] = (state[2] as i64).max(later[2] as i64) as u64;
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        match state[0] {
            0 | 1 => Value::Null,
            n => float((state[2] as i64).saturating_sub(state[1] as i64) as f64 / 1e6 / (n - 1) as f64),
        }
    }
}

/// Events, the time of the first and of the last in order, then the moments of the gaps between them: their mean and squared deviations
/// (their number is one less than that of the events).
struct Gaps;

fn moments(state: &[u64]) -> Moments {
    load(&[state[0].saturating_sub(1), state[3], state[4]])
}

impl Fixed for Gaps {
    const WORDS: usize = 5;

    fn update(state: &mut [u64], input: &Input<'_>) {
        let time = input.time.0 as u64;
        Self::merge(state, &[1, time, time, 0, 0]);
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        if later[0] == 0 {
            return;
        }
        if state[0] == 0 {
            state.copy_from_slice(later);
            return;
        }
        let mut gaps = moments(state);
        gaps.add((later[1] as i64).abs_diff(state[2] as i64) as f64 / 1e6);
        gaps.merge(&moments(later));
        let mut words = [0; 3];
        store(&mut words, gaps);
        state[0] = state[0].saturating_add(later[0]);
        state[2] = later[2];
        state[3..].copy_from_slice(&words[1..]);
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        moments(state).stddev().map_or(Value::Null, float)
    }
}
