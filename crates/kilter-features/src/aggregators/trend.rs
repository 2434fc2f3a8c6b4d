//! `trend(x)`: the slope per day of the least-squares line through x over event time. Null below two different times.
//!
//! Co-moments by the updates of Bennett et al., "Numerically stable, single-pass, parallel statistics algorithms" (2009).

use kilter_core::{DataType, Value};

use super::{Aggregator, Bound, Fixed, Input, Ops, Reading, Takes, float, number};

pub(super) static TREND: Aggregator = Aggregator::new(&["trend"], Takes::Value, |t| match t {
    Some(t) if t.is_numeric() => Ok(Bound::new("trend", Ops::fixed::<Trend>(), DataType::Float64).adds_floats()),
    _ => Err("a number"),
});

/// Count, mean time in days, mean of x, squared deviations of time, products of both deviations.
struct Trend;

impl Fixed for Trend {
    const WORDS: usize = 5;

    fn update(state: &mut [u64], input: &Input<'_>) {
        let days = input.time.0 as f64 / 86_400e6;
        Self::merge(state, &[1, days.to_bits(), number(input.value).to_bits(), 0, 0]);
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        if later[0] == 0 {
            return;
        }
        if state[0] == 0 {
            state.copy_from_slice(later);
            return;
        }
        let [ta, xa, tta, txa] = [1, 2, 3, 4].map(|i| f64::from_bits(state[i]));
        let [tb, xb, ttb, txb] = [1, 2, 3, 4].map(|i| f64::from_bits(later[i]));
        let (na, nb) = (state[0] as f64, later[0] as f64);
        let (dt, dx, both) = (tb - ta, xb - xa, na * nb / (na + nb));
        state[0] = state[0].saturating_add(later[0]);
        let weight = nb / (na + nb);
        let new = [ta + dt * weight, xa + dx * weight, tta + ttb + dt * dt * both, txa + txb + dt * dx * both];
        for (word, x) in state[1..].iter_mut().zip(new) {
            *word = x.to_bits();
        }
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        match f64::from_bits(state[3]) {
            spread if spread > 0.0 => float(f64::from_bits(state[4]) / spread),
            _ => Value::Null,
        }
    }
}
