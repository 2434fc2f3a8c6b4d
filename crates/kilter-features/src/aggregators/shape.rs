//! `skew(x)` and `kurtosis(x)`: the bias-corrected sample skewness G1 and excess kurtosis G2 (Joanes and Gill 1998), as pandas, DuckDB and
//! Excel have them. Null below 3 and 4 rows, and where all values are equal.
//!
//! Central moments are kept by Pébay's updates (Sandia report SAND2008-6212): no sums of powers that cancel.

use kilter_core::{DataType, Value};

use super::{Aggregator, Bound, Fixed, Input, Ops, Reading, Takes, float, number};

pub(super) static SKEW: Aggregator = Aggregator::new(&["skew", "skewness"], Takes::Value, |t| bind(t, Ops::fixed::<Shape<false>>()));
pub(super) static KURTOSIS: Aggregator = Aggregator::new(&["kurtosis"], Takes::Value, |t| bind(t, Ops::fixed::<Shape<true>>()));

fn bind(t: Option<DataType>, ops: Ops) -> Result<Bound, &'static str> {
    match t {
        Some(t) if t.is_numeric() => Ok(Bound::new("four_moments", ops, DataType::Float64).adds_floats()),
        _ => Err("a number"),
    }
}

/// Count, mean, and the sums of the second, third and fourth powers of deviations.
struct Shape<const FOURTH: bool>;

impl<const FOURTH: bool> Fixed for Shape<FOURTH> {
    const WORDS: usize = 5;

    fn update(state: &mut [u64], input: &Input<'_>) {
        Self::merge(state, &[1, number(input.value).to_bits(), 0, 0, 0]);
    }

    fn merge(state: &mut [u64], later: &[u64]) {
        if later[0] == 0 {
            return;
        }
        if state[0] == 0 {
            state.copy_from_slice(later);
            return;
        }
        let [mean_a, a2, a3, a4] = [1, 2, 3, 4].map(|i| f64::from_bits(state[i]));
        let [mean_b, b2, b3, b4] = [1, 2, 3, 4].map(|i| f64::from_bits(later[i]));
        let (na, nb) = (state[0] as f64, later[0] as f64);
        let n = na + nb;
        let d = mean_b - mean_a;
        let m2 = a2 + b2 + d * d * na * nb / n;
        let m3 = a3 + b3 + d * d * d * na * nb * (na - nb) / (n * n) + 3.0 * d * (na * b2 - nb * a2) / n;
        let m4 = a4
            + b4
            + d * d * d * d * na * nb * (na * na - na * nb + nb * nb) / (n * n * n)
            + 6.0 * d * d * (na * na * b2 + nb * nb * a2) / (n * n)
            + 4.0 * d * (na * b3 - nb * a3) / n;
        state[0] = state[0].saturating_add(later[0]);
        for (word, x) in state[1..].iter_mut().zip([mean_a + d * nb / n, m2, m3, m4]) {
            *word = x.to_bits();
        }
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        let n = state[0] as f64;
        let [m2, m3, m4] = [2, 3, 4].map(|i| f64::from_bits(state[i]));
        if state[0] < if FOURTH { 4 } else { 3 } || m2 <= 0.0 {
            return Value::Null;
        }
        float(match FOURTH {
            false => (n - 1.0).sqrt() * n / (n - 2.0) * m3 / (m2 * m2.sqrt()),
            true => {
                let g2 = n * m4 / (m2 * m2) - 3.0;
                (n - 1.0) / ((n - 2.0) * (n - 3.0)) * ((n + 1.0) * g2 + 6.0)
            }
        })
    }
}
