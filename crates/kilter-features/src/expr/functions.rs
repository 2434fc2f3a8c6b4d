//! The functions of expressions: one line each in [`FUNCTIONS`], which the compiler and the reference page read.
//!
//! All are strict (null in, null out) and pure. The few that are not strict, such as `coalesce`, are built by the compiler: see [`SPECIAL`].

use std::borrow::Cow;

use kilter_core::{CompactString, DataType, EventTime, Value};

use super::calendar::{self, Unit};
use super::lists;
use super::node::Eval;

/// What an argument must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Param {
    Number,
    Int,
    Text,
    Time,
    List,
    Numbers,
    Map,
    /// What has a length.
    Countable,
    /// What may contain something.
    Container,
    /// What the first argument, a `Container`, may contain.
    Content,
}

impl Param {
    /// Whether a value of type `t` will do, beside a first argument of type `first`.
    pub(crate) fn accepts(self, t: DataType, first: Option<DataType>) -> bool {
        match self {
            Param::Number => t.is_numeric(),
            Param::Int => t == DataType::Int64,
            Param::Text => t == DataType::String,
            Param::Time => t == DataType::Timestamp,
            Param::List => matches!(t, DataType::NumberList | DataType::TextList),
            Param::Numbers => t == DataType::NumberList,
            Param::Map => t == DataType::NumberMap,
            Param::Countable => t == DataType::String || t.is_nested(),
            Param::Container => matches!(t, DataType::String | DataType::NumberList | DataType::TextList),
            Param::Content => match first {
                Some(DataType::NumberList) => t.is_numeric(),
                _ => t == DataType::String,
            },
        }
    }

    pub(crate) fn needs(self, first: Option<DataType>) -> &'static str {
        match self {
            Param::Number => "a number",
            Param::Int => "an int64",
            Param::Text => "a string",
            Param::Time => "a timestamp",
            Param::List => "a list",
            Param::Numbers => "a list<float64>",
            Param::Map => "a map",
            Param::Countable => "a string, list or map",
            Param::Container => "a string or list",
            Param::Content if first == Some(DataType::NumberList) => "a number",
            Param::Content => "a string",
        }
    }
}

/// What comes out.
#[derive(Clone, Copy)]
pub(crate) enum Returns {
    /// The type of the first argument.
    Same,
    /// The type of what the first argument, a list, holds.
    Element,
    Is(DataType),
}

pub(crate) struct Function {
    pub name: &'static str,
    pub params: &'static [Param],
    /// How many of `params`, from the end, may be left out.
    pub optional: usize,
    pub returns: Returns,
    pub eval: Eval,
}

const fn function(name: &'static str, params: &'static [Param], returns: Returns, eval: Eval) -> Function {
    Function { name, params, optional: 0, returns, eval }
}

use DataType::{Bool, Float64, Int64, String as Str, Timestamp};
use Param::{Container, Content, Countable, Int, List, Map, Number, Numbers, Text, Time};
use Returns::{Element, Is, Same};

pub(crate) static FUNCTIONS: &[Function] = &[
    function("abs", &[Number], Same, |a| match *a[0] {
        Value::Int(i) => i.checked_abs().map_or(Value::Null, Value::Int),
        _ => float(number(&a[0]).abs()),
    }),
    function("ceil", &[Number], Same, |a| whole(&a[0], libm::ceil)),
    function("floor", &[Number], Same, |a| whole(&a[0], libm::floor)),
    Function { name: "round", params: &[Number, Int], optional: 1, returns: Same, eval: round },
    function("sign", &[Number], Same, |a| match *a[0] {
        Value::Int(i) => Value::Int(i.signum()),
        _ => match number(&a[0]) {
            x if x > 0.0 => Value::Float(1.0),
            x if x < 0.0 => Value::Float(-1.0),
            _ => Value::Float(0.0),
        },
    }),
    function("sqrt", &[Number], Is(Float64), |a| float(libm::sqrt(number(&a[0])))),
    function("exp", &[Number], Is(Float64), |a| float(libm::exp(number(&a[0])))),
    function("ln", &[Number], Is(Float64), |a| float(libm::log(number(&a[0])))),
    function("log10", &[Number], Is(Float64), |a| float(libm::log10(number(&a[0])))),
    function("power", &[Number, Number], Is(Float64), |a| float(libm::pow(number(&a[0]), number(&a[1])))),
    function("pow", &[Number, Number], Is(Float64), |a| float(libm::pow(number(&a[0]), number(&a[1])))),
    function("lower", &[Text], Is(Str), |a| Value::Text(CompactString::from(text(&a[0]).to_lowercase()))),
    function("upper", &[Text], Is(Str), |a| Value::Text(CompactString::from(text(&a[0]).to_uppercase()))),
    function("length", &[Countable], Is(Int64), lists::length),
    function("trim", &[Text], Is(Str), |a| Value::text(text(&a[0]).trim())),
    function("starts_with", &[Text, Text], Is(Bool), |a| Value::Bool(text(&a[0]).starts_with(text(&a[1])))),
    function("contains", &[Container, Content], Is(Bool), lists::contains),
    function("element", &[List, Int], Element, lists::element),
    function("get", &[Map, Text], Is(Float64), lists::get),
    function("list_sum", &[Numbers], Is(Float64), lists::sum),
    function("list_mean", &[Numbers], Is(Float64), lists::mean),
    function("list_min", &[Numbers], Is(Float64), lists::min),
    function("list_max", &[Numbers], Is(Float64), lists::max),
    function("year", &[Time], Is(Int64), |a| Value::Int(calendar::date(calendar::days(time(&a[0]))).year)),
    function("month", &[Time], Is(Int64), |a| Value::Int(calendar::date(calendar::days(time(&a[0]))).month)),
    function("day", &[Time], Is(Int64), |a| Value::Int(calendar::date(calendar::days(time(&a[0]))).day)),
    function("day_of_week", &[Time], Is(Int64), |a| Value::Int(calendar::iso_weekday(calendar::days(time(&a[0]))))),
    function("hour", &[Time], Is(Int64), |a| Value::Int(calendar::time_of_day(time(&a[0])) / 3_600_000_000)),
    function("minute", &[Time], Is(Int64), |a| Value::Int(calendar::time_of_day(time(&a[0])) / 60_000_000 % 60)),
    function("second", &[Time], Is(Int64), |a| Value::Int(calendar::time_of_day(time(&a[0])) / 1_000_000 % 60)),
    function("is_weekend", &[Time], Is(Bool), |a| Value::Bool(calendar::iso_weekday(calendar::days(time(&a[0]))) >= 6)),
    function("date_trunc", &[Text, Time], Is(Timestamp), |a| {
        let unit = Unit::NAMES.iter().find(|(name, _)| *name == text(&a[0]));
        unit.and_then(|(_, unit)| calendar::truncate(*unit, time(&a[1]))).map_or(Value::Null, Value::Time)
    }),
    function("epoch", &[Time], Is(Float64), |a| Value::Float(time(&a[0]).0 as f64 / 1e6)),
];

/// Functions that see nulls themselves.
pub(crate) const SPECIAL: &[&str] = &["coalesce", "nullif", "if", "least", "greatest"];

pub(crate) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|f| f.name == name)
}

pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|f| f.name).chain(SPECIAL.iter().copied())
}

/// Names of the units of `date_trunc`.
pub(crate) fn units() -> impl Iterator<Item = &'static str> {
    Unit::NAMES.iter().map(|(name, _)| *name)
}

/// A float result: infinities and NaN are no answers, so they are null.
pub(super) fn float(x: f64) -> Value {
    if x.is_finite() { Value::Float(x) } else { Value::Null }
}

pub(super) fn number(v: &Value) -> f64 {
    match v {
        Value::Int(i) => *i as f64,
        Value::Float(x) => *x,
        _ => f64::NAN,
    }
}

pub(super) fn text(v: &Value) -> &str {
    match v {
        Value::Text(s) => s,
        _ => "",
    }
}

pub(super) fn time(v: &Value) -> EventTime {
    match v {
        Value::Time(t) => *t,
        _ => EventTime(0),
    }
}

fn whole(v: &Value, f: fn(f64) -> f64) -> Value {
    match v {
        Value::Int(i) => Value::Int(*i),
        _ => float(f(number(v))),
    }
}

fn round(a: &[Cow<'_, Value>]) -> Value {
    let digits = match a.get(1).map(|d| &**d) {
        Some(Value::Int(d)) => (*d).clamp(-300, 300),
        _ => 0,
    };
    match *a[0] {
        Value::Int(i) if digits >= 0 => Value::Int(i),
        Value::Int(_) if digits < -18 => Value::Int(0),
        Value::Int(i) => {
            let step = 10i128.pow(digits.unsigned_abs() as u32);
            let half = if i < 0 { -step / 2 } else { step / 2 };
            i64::try_from((i128::from(i) + half) / step * step).map_or(Value::Null, Value::Int)
        }
        _ => {
            let x = number(&a[0]);
            let scale = libm::pow(10.0, digits as f64);
            let scaled = x * scale;
            // A number too large to have such digits is already round.
            if scaled.is_finite() { float(libm::round(scaled) / scale) } else { float(x) }
        }
    }
}
