//! `trend(x)`: the slope per day of the least-squares line through x over event time. Null below two different times.
//!
//! Co-moments by the updates of Bennett et al., "Numerically stable, single-pass, parallel statistics algorithms" (2009).

use kilter_core::{DataType, Value};

use super::{Aggregator, Bound, Fixed, Input, Ops, Reading, Takes, float, number};

pub(super) static TREND: Aggregator = Aggregator::new(&["trend"], Takes::Value, |t| match t {
    Some(t) if t.is_numeric() => Ok(Bound::new("trend", Ops::fixed::<Trend>(), DataType::Float64).adds_floats()),
    _ => Err("a number"),
});

/// Count, an origin in time, the mean time in days from there, mean of x, squared deviations of time, products of both deviations. Times
/// are kept from an origin because days since 1970 would lose the microseconds.
struct Trend;

const DAY: f64 = 86_400e6;

impl Fixed for Trend {
    const WORDS: usize = 6;

    fn update(state: &mut [u64], input: &Input<'_>) {
        Self::merge(state, &[1, input.time.0 as u64, 0, number(input.value).to_bits(), 0, 0]);
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        if later[0] == 0 {
            return;
        }
        if state[0] == 0 {
            state.copy_from_slice(later);
            return;
        }
        let [ta, xa, tta, txa] = [2, 3, 4, 5].map(|i| f64::from_bits(state[i]));
        let [tb, xb, ttb, txb] = [2, 3, 4, 5].map(|i| f64::from_bits(later[i]));
        let between = (later[1] as i64).saturating_sub(state[1] as i64) as f64 / DAY;
        let (na, nb) = (state[0] as f64, later[0] as f64);
        let (dt, dx, both) = (between + (tb - ta), xb - xa, na * nb / (na + nb));
        state[0] = state[0].saturating_add(later[0]);
        let weight = nb / (na + nb);
        let new = [ta + dt * weight, xa + dx * weight, tta + ttb + dt * dt * both, txa + txb + dt * dx * both];
        for (word, x) in state[2..].iter_mut().zip(new) {
            *word = x.to_bits();
        }
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        match f64::from_bits(state[4]) {
            spread if spread > 0.0 => float(f64::from_bits(state[5]) / spread),
            _ => Value::Null,
        }
    }
}
