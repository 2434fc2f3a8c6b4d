//! `approx_distinct(x)`, also `distinct(x)`: how many different values. Empty: 0.
//!
//! Up to 128 values it is exact (their 64-bit hashes are kept); above, HyperLogLog with 4096 registers and the estimator of Ertl, "New
//! cardinality estimation algorithms for HyperLogLog sketches" (2017), standard error 1.6 %. Our own, since `datasketches` keeps an
//! estimate that depends on the order of arrival; here the state is a function of the set of values alone.

use kilter_core::{DataType, Value};

use super::{Aggregator, Bound, Growing, Input, Ops, Reading, Takes};
use crate::hash::{hash_bytes, hash_u64};

pub(super) static APPROX_DISTINCT: Aggregator = Aggregator::new(&["approx_distinct", "distinct"], Takes::Value, |_| {
    Ok(Bound::new("distinct", Ops::growing::<Distinct>(), DataType::Int64).estimate(0.016))
});

const EXACT: usize = 128;
/// Below this many it is cheaper to put each in its place than to walk through both sets.
const FEW: usize = 8;
const PRECISION: u32 = 12;
const REGISTERS: usize = 1 << PRECISION;
/// Eight registers to a word. The length of a state tells which kind it is.
const SKETCH_WORDS: usize = REGISTERS / 8;

/// Sorted hashes, or the registers of a sketch.
struct Distinct;

fn hash(value: &Value) -> u64 {
    match value {
        Value::Bool(b) => hash_u64(u64::from(*b)),
        Value::Int(i) => hash_u64(*i as u64),
        // 0.0 and -0.0 are equal, so they are one value.
        Value::Float(x) => hash_u64((x + 0.0).to_bits()),
        Value::Text(s) => hash_bytes(s.as_bytes()),
        Value::Time(t) => hash_u64(t.0 as u64),
        // Aggregates are never given a null or a collection.
        _ => 0,
    }
}

fn is_sketch(state: &[u64]) -> bool {
    state.len() >= SKETCH_WORDS
}

fn insert(state: &mut Vec<u64>, hash: u64) {
    if is_sketch(state) {
        return register(state, hash);
    }
    if let Err(place) = state.binary_search(&hash) {
        if state.len() < EXACT {
            state.insert(place, hash);
        } else {
            let mut sketch = sketch_of(state);
            register(&mut sketch, hash);
            *state = sketch;
        }
    }
}

fn sketch_of(hashes: &[u64]) -> Vec<u64> {
    let mut sketch = vec![0; SKETCH_WORDS];
    hashes.iter().for_each(|h| register(&mut sketch, *h));
    sketch
}

/// The top bits choose a register, which keeps the longest run of leading zeros seen in the rest, plus one.
fn register(sketch: &mut [u64], hash: u64) {
    let index = (hash >> (64 - PRECISION)) as usize;
    let rank = u64::from((hash << PRECISION).leading_zeros().min(64 - PRECISION) + 1);
    let (word, shift) = (index / 8, index % 8 * 8);
    let held = sketch[word] >> shift & 0xff;
    if rank > held {
        sketch[word] = sketch[word] & !(0xff << shift) | rank << shift;
    }
}

impl Growing for Distinct {
    const COMMUTES: bool = true;

    fn update(state: &mut Vec<u64>, input: &Input<'_>) {
        insert(state, hash(input.value));
    }

    fn merge(state: &mut Vec<u64>, later: &[u64], _: &[f64]) {
        match (is_sketch(state), is_sketch(later)) {
            (false, false) if later.len() >= FEW => {
                let mut both = Vec::with_capacity(state.len() + later.len());
                let (mut a, mut b) = (state.iter().peekable(), later.iter().peekable());
                while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
                    let next = **x.min(y);
                    a.next_if(|x| **x == next);
                    b.next_if(|y| **y == next);
                    both.push(next);
                }
                both.extend(a);
                both.extend(b);
                *state = if both.len() > EXACT { sketch_of(&both) } else { both };
            }
            (_, false) => later.iter().for_each(|h| insert(state, *h)),
            (false, true) => {
                let hashes = std::mem::replace(state, later.to_vec());
                hashes.iter().for_each(|h| register(state, *h));
            }
            (true, true) => {
                for (a, b) in state.iter_mut().zip(later) {
                    let (mine, theirs) = (a.to_le_bytes(), b.to_le_bytes());
                    *a = u64::from_le_bytes(std::array::from_fn(|i| mine[i].max(theirs[i])));
                }
            }
        }
    }

    fn output(state: &[u64], _: &Reading<'_>) -> Value {
        Value::Int(if is_sketch(state) { estimate(state) } else { state.len() as i64 })
    }
}

fn estimate(sketch: &[u64]) -> i64 {
    const Q: usize = 64 - PRECISION as usize;
    let mut counts = [0u32; Q + 2];
    for rank in sketch.iter().flat_map(|w| w.to_le_bytes()) {
        counts[usize::from(rank).min(Q + 1)] += 1;
    }
    let m = REGISTERS as f64;
    let mut z = m * tau(1.0 - f64::from(counts[Q + 1]) / m);
    for k in (1..=Q).rev() {
        z = 0.5 * (z + f64::from(counts[k]));
    }
    z += m * sigma(f64::from(counts[0]) / m);
    const HALF_OVER_LN_2: f64 = 0.721_347_520_444_481_7;
    let count = libm::round(HALF_OVER_LN_2 * m * m / z);
    if count.is_finite() { count as i64 } else { i64::MAX }
}

// The two correction series of the paper, for registers still at 0 and for saturated ones. Each ends when adding changes nothing.
fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = libm::sqrt(x);
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(n: i64) -> i64 {
        let mut state = Vec::new();
        for i in 0..n {
            insert(&mut state, hash(&Value::Int(i * 7)));
        }
        match Distinct::output(&state, &Reading { at: kilter_core::EventTime(0), constants: &[], span: None }) {
            Value::Int(i) => i,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn small_sets_are_exact_and_large_ones_within_five_percent() {
        for n in [0, 1, 5, 128] {
            assert_eq!(count(n), n);
        }
        for n in [129, 500, 3_000, 20_000, 300_000] {
            let error = (count(n) - n) as f64 / n as f64;
            assert!(error.abs() < 0.05, "{n}: {error}");
        }
    }

    #[test]
    fn order_and_grouping_leave_no_trace() {
        let hashes: Vec<u64> = (0..400u64).map(hash_u64).collect();
        let whole = hashes.iter().fold(Vec::new(), |mut s, h| {
            insert(&mut s, *h);
            s
        });
        for cut in [0, 1, 100, 128, 129, 300, 400] {
            let (left, right) = hashes.split_at(cut);
            let mut states = [right, left].map(|part| {
                part.iter().rev().fold(Vec::new(), |mut s, h| {
                    insert(&mut s, *h);
                    s
                })
            });
            let later = std::mem::take(&mut states[1]);
            Distinct::merge(&mut states[0], &later, &[]);
            assert_eq!(states[0], whole, "cut at {cut}");
        }
    }
}
