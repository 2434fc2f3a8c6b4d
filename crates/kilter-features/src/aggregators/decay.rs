//! `count`, `sum` and `mean` over `decay H`: an event's weight halves with every H that has passed since it, and no event ever leaves.
//!
//! Forward decay (Cormode, Shkapenyuk, Srivastava and Xu, ICDE 2009) with the newest event as the landmark, which moves: weights only ever
//! shrink, so nothing overflows.

use kilter_core::{DataType, Value};

use super::{Bound, Fixed, Input, Ops, Reading, float, number};

pub(super) fn count() -> Bound {
    Bound::new("decayed", Ops::fixed::<Decayed<COUNT>>(), DataType::Float64).adds_floats().shaped()
}

pub(super) fn sum(t: Option<DataType>) -> Result<Bound, &'static str> {
    of::<SUM>(t)
}

pub(super) fn mean(t: Option<DataType>) -> Result<Bound, &'static str> {
    of::<MEAN>(t)
}

fn of<const WHAT: u8>(t: Option<DataType>) -> Result<Bound, &'static str> {
    match t {
        Some(t) if t.is_numeric() => Ok(Bound::new("decayed", Ops::fixed::<Decayed<WHAT>>(), DataType::Float64).adds_floats().shaped()),
        _ => Err("a number"),
    }
}

const COUNT: u8 = 0;
const SUM: u8 = 1;
const MEAN: u8 = 2;

/// Events, the newest event time, then the sums of weights and of weighted values as of that time. The one constant is the half-life in
/// microseconds.
struct Decayed<const WHAT: u8>;

fn weight(micros: i64, half_life: f64) -> f64 {
    libm::exp2(-(micros as f64) / half_life)
}

fn half_life(constants: &[f64]) -> f64 {
    constants.first().copied().unwrap_or(1.0)
}

impl<const WHAT: u8> Fixed for Decayed<WHAT> {
    const WORDS: usize = 4;

    fn update(state: &mut [u64], input: &Input<'_>) {
        let x = number(input.value);
        let (now, time) = (state[1] as i64, input.time.0);
        let (mut weights, mut total) = (f64::from_bits(state[2]), f64::from_bits(state[3]));
        let h = half_life(input.constants);
        if state[0] == 0 || time >= now {
            let fade = if state[0] == 0 { 0.0 } else { weight(time.saturating_sub(now), h) };
            (weights, total) = (weights * fade + 1.0, total * fade + x);
            state[1] = time as u64;
        } else {
            let late = weight(now.saturating_sub(time), h);
            (weights, total) = (weights + late, total + x * late);
        }
        state[0] = state[0].saturating_add(1);
        state[2] = weights.to_bits();
        state[3] = total.to_bits();
    }

    // There is one tile, over all time: nothing is ever merged into another but the empty state.
    fn merge(state: &mut [u64], later: &[u64]) {
        if later[0] != 0 {
            state.copy_from_slice(later);
        }
    }

    fn output(state: &[u64], reading: &Reading<'_>) -> Value {
        let (weights, total) = (f64::from_bits(state[2]), f64::from_bits(state[3]));
        // An event that lies after the moment of reading counts as one of that moment.
        let age = reading.at.0.saturating_sub(state[1] as i64).max(0);
        let fade = weight(age, half_life(reading.constants));
        match (state[0], WHAT) {
            (0, COUNT) => Value::Float(0.0),
            (0, _) => Value::Null,
            (_, COUNT) => float(weights * fade),
            (_, SUM) => float(total * fade),
            _ => float(total / weights),
        }
    }
}
