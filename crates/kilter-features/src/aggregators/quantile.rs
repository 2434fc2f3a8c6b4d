//! `quantile(x, p)`, and `median(x)` with p = 0.5: the value at rank floor(p (n - 1)), within 1 % of it. Empty: null.
//!
//! DDSketch (Masson, Rim and Lee, VLDB 2019): values fall into buckets whose borders grow by a constant factor, so a bucket's middle is within
//! 1 % of all it holds. Counts add up in any order to the same state. Magnitudes below 1e-12 count as 0. A state has one word per bucket in
//! use: values spread over six decimal orders need at most 700.

use std::cmp::Ordering;

use kilter_core::{DataType, Value};

use super::{Aggregator, Bound, Constants, Growing, Input, Ops, Reading, Takes, float, number};

pub(super) static QUANTILE: Aggregator = Aggregator::new(&["quantile"], Takes::ValueAnd(Constants::Fraction), bind);
pub(super) static MEDIAN: Aggregator =
    Aggregator::new(&["median"], Takes::Value, |t| bind(t).map(|bound| Bound { constants: &[0.5], ..bound }));

fn bind(t: Option<DataType>) -> Result<Bound, &'static str> {
    match t {
        Some(t) if t.is_numeric() => Ok(Bound::new("quantile", Ops::growing::<Quantile>(), DataType::Float64).estimate(ERROR)),
        _ => Err("a number"),
    }
}

const ERROR: f64 = 0.01;
const GAMMA: f64 = (1.0 + ERROR) / (1.0 - ERROR);
/// ln(GAMMA), written out: `libm` is not const.
const LN_GAMMA: f64 = 0.020_000_666_706_669_435;
const SMALLEST: f64 = 1e-12;

/// Words sorted by bucket: the bucket in the upper 20 bits, its count in the lower 44.
struct Quantile;

/// Below this many words it is cheaper to put each in its place than to walk through both states.
const FEW: usize = 8;
const COUNT_BITS: u32 = 44;
const MAX_COUNT: u64 = (1 << COUNT_BITS) - 1;
/// The bucket of zero. Buckets of larger values lie above, of smaller ones below.
const ZERO: i64 = 1 << 19;
/// Keeps the bucket of every positive float above zero: the smallest has index -1381.
const SHIFT: i64 = 2_000;

fn bucket(x: f64) -> u64 {
    let size = x.abs();
    let place = match size < SMALLEST {
        true => 0,
        false => libm::ceil(libm::log(size) / LN_GAMMA) as i64 + SHIFT,
    };
    (if x < 0.0 { ZERO - place } else { ZERO + place }) as u64
}

fn middle(bucket: u64) -> f64 {
    let place = bucket as i64 - ZERO;
    match place {
        0 => 0.0,
        _ => {
            let size = 2.0 * libm::exp((place.abs() - SHIFT) as f64 * LN_GAMMA) / (GAMMA + 1.0);
            if place < 0 { -size } else { size }
        }
    }
}

impl Growing for Quantile {
    const GROUP: bool = true;
    const COMMUTES: bool = true;

    fn update(state: &mut Vec<u64>, input: &Input<'_>) {
        add(state, bucket(number(input.value)) << COUNT_BITS | 1);
    }

    fn retract(state: &mut Vec<u64>, input: &Input<'_>) {
        let bucket = bucket(number(input.value));
        if let Ok(place) = state.binary_search_by_key(&bucket, |w| w >> COUNT_BITS) {
            match state[place] & MAX_COUNT {
                0 | 1 => drop(state.remove(place)),
                _ => state[place] -= 1,
            }
        }
    }

    fn merge(state: &mut Vec<u64>, later: &[u64], _: &[f64]) {
        if state.is_empty() {
            state.extend_from_slice(later);
        } else if later.len() < FEW {
            later.iter().for_each(|word| add(state, *word));
        } else {
            let held = std::mem::replace(state, Vec::with_capacity(state.len() + later.len()));
            let (mut held, mut later) = (held.iter().peekable(), later.iter().peekable());
            while let (Some(a), Some(b)) = (held.peek(), later.peek()) {
                match (**a >> COUNT_BITS).cmp(&(**b >> COUNT_BITS)) {
                    Ordering::Less => state.extend(held.next()),
                    Ordering::Greater => state.extend(later.next()),
                    Ordering::Equal => {
                        state.push(together(**a, **b));
                        held.next();
                        later.next();
                    }
                }
            }
            state.extend(held);
            state.extend(later);
        }
    }

    fn output(state: &[u64], reading: &Reading<'_>) -> Value {
        let count: u64 = state.iter().map(|w| w & MAX_COUNT).sum();
        if count == 0 {
            return Value::Null;
        }
        let rank = libm::floor(reading.constants.first().copied().unwrap_or(0.5) * (count - 1) as f64) as u64;
        let mut below = 0;
        for word in state {
            below += word & MAX_COUNT;
            if below > rank {
                return float(middle(word >> COUNT_BITS));
            }
        }
        Value::Null
    }
}

/// One bucket's counts added up.
fn together(a: u64, b: u64) -> u64 {
    a & !MAX_COUNT | ((a & MAX_COUNT) + (b & MAX_COUNT)).min(MAX_COUNT)
}

fn add(state: &mut Vec<u64>, word: u64) {
    match state.binary_search_by_key(&(word >> COUNT_BITS), |w| w >> COUNT_BITS) {
        Ok(place) => state[place] = together(state[place], word),
        Err(place) => state.insert(place, word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constant_is_the_logarithm() {
        assert_eq!(LN_GAMMA.to_bits(), libm::log(GAMMA).to_bits());
    }

    #[test]
    fn every_magnitude_is_within_one_percent() {
        for x in [1e-12, 3e-7, 0.5, 1.0, 1.01, 99.0, 123_456.0, 7e18, 1e300] {
            for x in [x, -x] {
                let back = middle(bucket(x));
                assert!(((back - x) / x).abs() <= 0.010_000_1, "{x} came back as {back}");
            }
        }
        assert_eq!(middle(bucket(0.0)), 0.0);
        assert_eq!(middle(bucket(-1e-13)), 0.0);
    }
}
