//! Aggregates: one family per file, and the flat register [`ALL`].
//!
//! To add one: a file with its state, a static [`Aggregator`], and a line in [`ALL`]. The property tests of tests/oracle/ ask for a naive
//! twin of every name in the register, those of `laws.rs` check what it declares of itself.
//!
//! A state is either a few words (`Fixed`: sums, extremes) or a growing run of words (`Growing`: sketches, texts). Both start empty as
//! zeros or nothing, and are nothing but words, so that tiles lie side by side in memory and a snapshot copies them as they are.
//!
//! Two wrappers make more of them. [`by::By`] keeps a state per category. [`kept::Kept`] keeps the inputs themselves where an input must
//! be taken back and the state cannot do it: over a source whose rows change.

mod by;
mod choice;
mod count;
mod decay;
mod distinct;
mod extreme;
mod frequent;
mod gaps;
mod histogram;
mod kept;
#[cfg(test)]
mod laws;
mod mean;
mod pick;
mod quantile;
mod rate;
mod ratio;
mod recency;
mod row;
mod shape;
mod streak;
mod sum;
mod top;
mod trend;
mod variance;
pub(crate) mod words;
mod zscore;

use kilter_core::{DataType, EventTime, Offset, Value};

pub(crate) use by::{DEFAULT_MOST as DEFAULT_CATEGORIES, LIMIT as MAX_CATEGORIES};
pub(crate) use gaps::Bounds;

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
    /// A condition.
    Condition,
    /// The value wanted, and the number or time that chooses among them.
    ValueAndOrder,
    /// A value and constants.
    ValueAnd(Constants),
}

/// Constants behind the first argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Constants {
    /// One between 0 and 1.
    Fraction,
    /// How many: from 1 to 1000.
    Count,
    /// One to 100 ascending numbers.
    Edges,
}

/// Chooses the state for the type of the first argument (none: the aggregate has no argument); the error says what it needs.
type Bind = fn(Option<DataType>) -> Result<Bound, &'static str>;

/// One line of the register.
pub(crate) struct Aggregator {
    pub names: &'static [&'static str],
    pub takes: Takes,
    pub bind: Bind,
    /// The same with weights that halve in every half-life.
    pub decayed: Option<Bind>,
}

impl Aggregator {
    const fn new(names: &'static [&'static str], takes: Takes, bind: Bind) -> Aggregator {
        Aggregator { names, takes, bind, decayed: None }
    }

    const fn with_decay(mut self, decayed: Bind) -> Aggregator {
        self.decayed = Some(decayed);
        self
    }
}

/// An aggregate for one type of argument.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    /// Names the state: aggregates of one kind over the same expressions and filter share it.
    pub state: &'static str,
    pub ops: Ops,
    pub result: DataType,
    pub equality: Equality,
    /// Whether arrival order within a tile can change the value.
    pub order_sensitive: bool,
    /// Relative error of the value itself; 0 for exact ones.
    pub error: f64,
    /// Whether constants shape the state, so that only equal ones can share it.
    pub shaped: bool,
    /// Constants that the line does not name.
    pub constants: &'static [f64],
}

impl Bound {
    /// Exact, and the same bits in any order.
    fn new(state: &'static str, ops: Ops, result: DataType) -> Bound {
        let equality = Equality::Bitwise;
        Bound { state, ops, result, equality, order_sensitive: false, error: 0.0, shaped: false, constants: &[] }
    }

    /// Floats are added up: another order agrees closely, not to the bit.
    fn adds_floats(self) -> Bound {
        Bound { equality: Equality::Tolerance(1e-9), order_sensitive: true, ..self }
    }

    fn ordered(self) -> Bound {
        Bound { order_sensitive: true, ..self }
    }

    fn estimate(self, error: f64) -> Bound {
        Bound { error, ..self }
    }

    fn shaped(self) -> Bound {
        Bound { shaped: true, ..self }
    }
}

pub(crate) static ALL: &[&Aggregator] = &[
    &count::COUNT,
    &sum::SUM,
    &mean::MEAN,
    &extreme::MIN,
    &extreme::MAX,
    &variance::VARIANCE,
    &variance::STDDEV,
    &shape::SKEW,
    &shape::KURTOSIS,
    &pick::FIRST,
    &pick::LAST,
    &recency::FIRST_TIME,
    &recency::LAST_TIME,
    &recency::TIME_SINCE_LAST,
    &recency::TIME_SINCE_FIRST,
    &row::FIRST_K,
    &row::LAST_K,
    &top::TOP_K,
    &top::BOTTOM_K,
    &frequent::FREQUENT_K,
    &frequent::MODE,
    &distinct::APPROX_DISTINCT,
    &quantile::QUANTILE,
    &quantile::MEDIAN,
    &histogram::HISTOGRAM,
    &rate::RATE,
    &gaps::GAP_MEAN,
    &gaps::GAP_STDDEV,
    &streak::STREAK,
    &ratio::RATIO,
    &choice::ARGMIN,
    &choice::ARGMAX,
    &zscore::ZSCORE,
    &trend::TREND,
];

pub(crate) fn find(name: &str) -> Option<&'static Aggregator> {
    ALL.iter().copied().find(|a| a.names.contains(&name))
}

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().flat_map(|a| a.names.iter().copied())
}

/// One event as an aggregate sees it; no value is null.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    /// Names the event: no two have the same.
    pub offset: Offset,
    pub time: EventTime,
    pub value: &'a Value,
    /// The second argument, or the category; for others the first again.
    pub other: &'a Value,
    pub constants: &'a [f64],
}

/// What an output may depend on beside the state.
pub(crate) struct Reading<'a> {
    pub at: EventTime,
    pub constants: &'a [f64],
    /// The window's length; none: lifetime.
    pub span: Option<i64>,
}

/// A state of `WORDS` words. All zeros is the empty state.
pub(crate) trait Fixed: 'static {
    const WORDS: usize;
    /// Whether [`Fixed::retract`] leaves the very bits that were there before the update: the states are a group.
    const GROUP: bool = false;
    fn update(state: &mut [u64], input: &Input<'_>);
    /// Adds a later tile's state.
    fn merge(state: &mut [u64], later: &[u64]);
    fn output(state: &[u64], reading: &Reading<'_>) -> Value;

    /// Takes back an input that was added before.
    fn retract(_state: &mut [u64], _input: &Input<'_>) {}

    /// Merges the states found at `offset` of every `stride` words, first to last.
    fn fold(state: &mut [u64], words: &[u64], stride: usize, offset: usize) {
        for tile in words.chunks_exact(stride) {
            Self::merge(state, &tile[offset..offset + Self::WORDS]);
        }
    }
}

/// A state that grows. No words is the empty state.
pub(crate) trait Growing: 'static {
    const FOLD: Fold = Fold::All;
    /// Whether merging gives the same bits in any order and grouping, whatever the constants: parts of a window can then be merged ahead.
    const COMMUTES: bool = false;
    const GROUP: bool = false;
    fn update(state: &mut Vec<u64>, input: &Input<'_>);
    /// Adds a later tile's state.
    fn merge(state: &mut Vec<u64>, later: &[u64], constants: &[f64]);
    fn output(state: &[u64], reading: &Reading<'_>) -> Value;
    fn retract(_state: &mut Vec<u64>, _input: &Input<'_>) {}
}

/// Which tiles of a window a growing state has to look at.
#[derive(Clone, Copy, PartialEq, Debug)]
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
pub(crate) const MAX_WORDS: usize = 6;

#[derive(Clone, Copy)]
pub(crate) struct FixedOps {
    pub words: usize,
    pub group: bool,
    pub update: fn(&mut [u64], &Input<'_>),
    pub retract: fn(&mut [u64], &Input<'_>),
    pub fold: fn(&mut [u64], &[u64], usize, usize),
    pub output: fn(&[u64], &Reading<'_>) -> Value,
    kept: fn() -> GrowingOps,
    by: fn() -> GrowingOps,
}

#[derive(Clone, Copy)]
pub(crate) struct GrowingOps {
    pub fold: Fold,
    pub commutes: bool,
    pub group: bool,
    pub update: fn(&mut Vec<u64>, &Input<'_>),
    pub retract: fn(&mut Vec<u64>, &Input<'_>),
    pub merge: fn(&mut Vec<u64>, &[u64], &[f64]),
    pub output: fn(&[u64], &Reading<'_>) -> Value,
    /// None: every input can be taken back from this state.
    kept: Option<fn() -> GrowingOps>,
}

impl Ops {
    pub(crate) fn fixed<A: Fixed>() -> Ops {
        const { assert!(A::WORDS <= MAX_WORDS) };
        Ops::Fixed(FixedOps {
            words: A::WORDS,
            group: A::GROUP,
            update: A::update,
            retract: A::retract,
            fold: A::fold,
            output: A::output,
            kept: kept::of_fixed::<A>,
            by: GrowingOps::of::<by::By<A>>,
        })
    }

    pub(crate) fn growing<A: Growing>() -> Ops {
        Ops::Growing(GrowingOps::of::<A>())
    }

    /// The same aggregate in a state from which any input can be taken back.
    pub(crate) fn retractable(self) -> Ops {
        match self {
            Ops::Fixed(ops) if !ops.group => Ops::Growing((ops.kept)()),
            Ops::Growing(GrowingOps { kept: Some(kept), group: false, .. }) => Ops::Growing(kept()),
            group => group,
        }
    }

    /// The same aggregate for each category apart; none: its state does not allow it.
    pub(crate) fn by_category(self) -> Option<Ops> {
        match self {
            Ops::Fixed(ops) => Some(Ops::Growing((ops.by)())),
            Ops::Growing(_) => None,
        }
    }
}

impl GrowingOps {
    fn of<A: Growing>() -> GrowingOps {
        GrowingOps { kept: Some(kept::of_growing::<A>), ..GrowingOps::only::<A>() }
    }

    fn only<A: Growing>() -> GrowingOps {
        GrowingOps {
            fold: A::FOLD,
            commutes: A::COMMUTES,
            group: A::GROUP,
            update: A::update,
            retract: A::retract,
            merge: A::merge,
            output: A::output,
            kept: None,
        }
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

/// A count as an output.
fn whole(count: u64) -> Value {
    Value::Int(i64::try_from(count).unwrap_or(i64::MAX))
}
