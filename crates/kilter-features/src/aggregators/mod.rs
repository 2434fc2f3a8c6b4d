//! Aggregates: one family per file, and the flat register [`ALL`].
//!
//! To add one: a file with its state, a static [`Aggregator`], and a line in [`ALL`]. The property tests of tests/oracle.rs ask for a naive
//! twin of every name in the register.
//!
//! A state is either a few words (`Fixed`: sums, extremes) or a growing run of words (`Growing`: sketches, texts). Both start empty as
//! zeros or nothing, and are nothing but words, so that tiles lie side by side in memory and a snapshot copies them as they are.

mod count;
mod distinct;
mod extreme;
mod mean;
mod pick;
mod quantile;
mod recency;
mod sum;
mod variance;

use kilter_core::{DataType, EventTime, Value};

/// How closely a value recomputed in another order of merging agrees. The same log in the same order always gives the same bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Equality {
    /// To the last bit, in any order.
    Bitwise,
    /// Within this error relative to the sum of absolute values.
    Tolerance(f64),
    /// Within the stated error bound only.
    Distribution,
}

/// What stands between the parentheses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Takes {
    Nothing,
    Value,
    StarOrValue,
    /// A value and a constant fraction between 0 and 1.
    ValueAndFraction,
}

/// One line of the register.
pub(crate) struct Aggregator {
    pub names: &'static [&'static str],
    pub takes: Takes,
    /// Chooses the state for a type of argument (none: the aggregate has no argument); the error says what it needs.
    pub bind: fn(Option<DataType>) -> Result<Bound, &'static str>,
}

/// An aggregate for one type of argument.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    /// Names the state: aggregates of one kind over the same expression and filter share it.
    pub state: &'static str,
    pub ops: Ops,
    pub result: DataType,
    pub equality: Equality,
    /// Whether arrival order within a tile can change the value.
    pub order_sensitive: bool,
    /// Relative error of the value itself; 0 for exact ones.
    pub error: f64,
}

pub(crate) static ALL: &[&Aggregator] = &[
    &count::COUNT,
    &sum::SUM,
    &mean::MEAN,
    &extreme::MIN,
    &extreme::MAX,
    &variance::VARIANCE,
    &variance::STDDEV,
    &pick::FIRST,
    &pick::LAST,
    &recency::TIME_SINCE_LAST,
    &distinct::APPROX_DISTINCT,
    &quantile::QUANTILE,
];

pub(crate) fn find(name: &str) -> Option<&'static Aggregator> {
    ALL.iter().copied().find(|a| a.names.contains(&name))
}

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().flat_map(|a| a.names.iter().copied())
}

/// One event as an aggregate sees it; the value is never null.
pub(crate) struct Input<'a> {
    pub time: EventTime,
    pub value: &'a Value,
}

/// What an output may depend on beside the state.
pub(crate) struct Reading {
    pub at: EventTime,
    /// The fraction of `ValueAndFraction`.
    pub fraction: f64,
}

/// A state of `WORDS` words. All zeros is the empty state.
pub(crate) trait Fixed {
    const WORDS: usize;
    fn update(state: &mut [u64], input: &Input<'_>);
    /// Adds a later tile's state.
    fn merge(state: &mut [u64], later: &[u64]);
    fn output(state: &[u64], reading: &Reading) -> Value;

    /// Merges the states found at `offset` of every `stride` words, first to last.
    fn fold(state: &mut [u64], words: &[u64], stride: usize, offset: usize) {
        for tile in words.chunks_exact(stride) {
            Self::merge(state, &tile[offset..offset + Self::WORDS]);
        }
    }
}

/// A state that grows. No words is the empty state.
pub(crate) trait Growing {
    const FOLD: Fold = Fold::All;
    fn update(state: &mut Vec<u64>, input: &Input<'_>);
    /// Adds a later tile's state.
    fn merge(state: &mut Vec<u64>, later: &[u64]);
    fn output(state: &[u64], reading: &Reading) -> Value;
}

/// Which tiles of a window a growing state has to look at.
#[derive(Clone, Copy)]
pub(crate) enum Fold {
    All,
    /// The oldest that has something.
    Oldest,
    /// The newest that has something.
    Newest,
}

/// The functions of a state, chosen once when a view is compiled.
#[derive(Clone, Copy)]
pub(crate) enum Ops {
    Fixed(FixedOps),
    Growing(GrowingOps),
}

/// The most words of a fixed state.
pub(crate) const MAX_WORDS: usize = 4;

#[derive(Clone, Copy)]
pub(crate) struct FixedOps {
    pub words: usize,
    pub update: fn(&mut [u64], &Input<'_>),
    pub fold: fn(&mut [u64], &[u64], usize, usize),
    pub output: fn(&[u64], &Reading) -> Value,
}

#[derive(Clone, Copy)]
pub(crate) struct GrowingOps {
    pub fold: Fold,
    pub update: fn(&mut Vec<u64>, &Input<'_>),
    pub merge: fn(&mut Vec<u64>, &[u64]),
    pub output: fn(&[u64], &Reading) -> Value,
}

impl Ops {
    pub(crate) fn fixed<A: Fixed>() -> Ops {
        const { assert!(A::WORDS <= MAX_WORDS) };
        Ops::Fixed(FixedOps { words: A::WORDS, update: A::update, fold: A::fold, output: A::output })
    }

    pub(crate) fn growing<A: Growing>() -> Ops {
        Ops::Growing(GrowingOps { fold: A::FOLD, update: A::update, merge: A::merge, output: A::output })
    }
}

/// An output that is a float: infinities and NaN are no answers, so they are null.
fn float(x: f64) -> Value {
    if x.is_finite() { Value::Float(x) } else { Value::Null }
}

/// The number in a value of a numeric column.
fn number(value: &Value) -> f64 {
    match value {
        Value::Float(x) => *x,
        Value::Int(i) => *i as f64,
        _ => 0.0,
    }
}
