//! One typed value of a column, a feature or a request field.

use std::fmt;
use std::sync::Arc;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::EventTime;

/// The types of values; the names are those used in `kilter.toml`. Columns hold the plain ones ([`DataType::COLUMNS`]), features any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataType {
    Bool,
    Int64,
    Float64,
    String,
    Timestamp,
    #[serde(rename = "list<float64>")]
    NumberList,
    #[serde(rename = "list<string>")]
    TextList,
    #[serde(rename = "map<string, float64>")]
    NumberMap,
}

/// A value or its absence. NaN never enters: the door turns it into `Null`.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(CompactString),
    Time(EventTime),
    /// All `Float` or all `Text`: see [`Value::numbers`] and [`Value::texts`].
    List(Arc<[Value]>),
    /// Ascending by key, each key once: see [`Value::map`].
    Map(Arc<[(CompactString, f64)]>),
}

impl DataType {
    pub const ALL: [DataType; 8] = [
        DataType::Bool,
        DataType::Int64,
        DataType::Float64,
        DataType::String,
        DataType::Timestamp,
        DataType::NumberList,
        DataType::TextList,
        DataType::NumberMap,
    ];

    /// The types a column of a source may have, and to which an expression may cast.
    pub const COLUMNS: [DataType; 5] = [DataType::Bool, DataType::Int64, DataType::Float64, DataType::String, DataType::Timestamp];

    pub fn name(self) -> &'static str {
        match self {
            DataType::Bool => "bool",
            DataType::Int64 => "int64",
            DataType::Float64 => "float64",
            DataType::String => "string",
            DataType::Timestamp => "timestamp",
            DataType::NumberList => "list<float64>",
            DataType::TextList => "list<string>",
            DataType::NumberMap => "map<string, float64>",
        }
    }

    pub fn parse(name: &str) -> Option<DataType> {
        DataType::ALL.into_iter().find(|t| t.name() == name)
    }

    pub fn is_numeric(self) -> bool {
        matches!(self, DataType::Int64 | DataType::Float64)
    }

    /// Whether values of this type hold several others: lists and maps.
    pub fn is_nested(self) -> bool {
        matches!(self, DataType::NumberList | DataType::TextList | DataType::NumberMap)
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Value {
    pub fn text(s: &str) -> Value {
        Value::Text(CompactString::new(s))
    }

    /// A float, with NaN turned into null.
    pub fn float(x: f64) -> Value {
        if x.is_nan() { Value::Null } else { Value::Float(x) }
    }

    /// A list of numbers. NaN is no number and is left out.
    pub fn numbers(numbers: impl IntoIterator<Item = f64>) -> Value {
        Value::List(numbers.into_iter().filter(|x| !x.is_nan()).map(Value::Float).collect())
    }

    /// A list of texts.
    pub fn texts<S: Into<CompactString>>(texts: impl IntoIterator<Item = S>) -> Value {
        Value::List(texts.into_iter().map(|s| Value::Text(s.into())).collect())
    }

    /// A map from text to number, in any order; of equal keys the last one counts. NaN is no number, its entry is left out.
    pub fn map<S: Into<CompactString>>(entries: impl IntoIterator<Item = (S, f64)>) -> Value {
        let entries = entries.into_iter().map(|(key, x)| (key.into(), x));
        let mut sorted: Vec<(CompactString, f64)> = entries.filter(|(_, x)| !x.is_nan()).collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        sorted.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1 = later.1;
            }
            same
        });
        Value::Map(sorted.into())
    }

    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The number a model sees: integers and booleans widened, null as NaN. Texts, times, lists and maps have none.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Null => Some(f64::NAN),
            Value::Bool(b) => Some(f64::from(u8::from(*b))),
            Value::Int(i) => Some(*i as f64),
            Value::Float(x) => Some(*x),
            Value::Text(_) | Value::Time(_) | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// The type; an empty list counts as one of numbers.
    pub fn data_type(&self) -> Option<DataType> {
        match self {
            Value::Null => None,
            Value::Bool(_) => Some(DataType::Bool),
            Value::Int(_) => Some(DataType::Int64),
            Value::Float(_) => Some(DataType::Float64),
            Value::Text(_) => Some(DataType::String),
            Value::Time(_) => Some(DataType::Timestamp),
            Value::List(items) => match items.first() {
                Some(Value::Text(_)) => Some(DataType::TextList),
                _ => Some(DataType::NumberList),
            },
            Value::Map(_) => Some(DataType::NumberMap),
        }
    }

    /// Whether a column or feature of this type may hold the value: null fits every type, an empty list both kinds of list.
    pub fn fits(&self, data_type: DataType) -> bool {
        match self {
            Value::Null => true,
            Value::List(items) if items.is_empty() => matches!(data_type, DataType::NumberList | DataType::TextList),
            other => other.data_type() == Some(data_type),
        }
    }

    /// Equal to the last bit: floats by their bit pattern, so that 0.0 and -0.0 differ. For audits.
    pub fn same_bits(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
            (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b.iter()).all(|(a, b)| a.same_bits(b)),
            (Value::Map(a), Value::Map(b)) => {
                a.len() == b.len() && a.iter().zip(b.iter()).all(|((k, x), (l, y))| k == l && x.to_bits() == y.to_bits())
            }
            _ => self == other,
        }
    }
}

/// Texts are bare by themselves and quoted inside a list or map.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(b) => write!(f, "{b}"),
            Value::Int(i) => write!(f, "{i}"),
            Value::Float(x) => write!(f, "{x}"),
            Value::Text(s) => f.write_str(s),
            Value::Time(t) => write!(f, "{t}"),
            Value::List(items) => {
                f.write_str("[")?;
                for (i, item) in items.iter().enumerate() {
                    f.write_str(if i > 0 { ", " } else { "" })?;
                    match item {
                        Value::Text(s) => write!(f, "{s:?}")?,
                        item => write!(f, "{item}")?,
                    }
                }
                f.write_str("]")
            }
            Value::Map(entries) => {
                f.write_str("{")?;
                for (i, (key, x)) in entries.iter().enumerate() {
                    write!(f, "{}{key:?}: {x}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str("}")
            }
        }
    }
}

/// JSON form: timestamps as RFC 3339 text, lists as arrays, maps as objects, infinities as null (JSON has none).
impl Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => s.serialize_none(),
            Value::Bool(b) => s.serialize_bool(*b),
            Value::Int(i) => s.serialize_i64(*i),
            Value::Float(x) => s.serialize_f64(*x),
            Value::Text(t) => s.serialize_str(t),
            Value::Time(t) => s.collect_str(t),
            Value::List(items) => s.collect_seq(items.iter()),
            Value::Map(entries) => s.collect_map(entries.iter().map(|(k, x)| (k, x))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_known_by_their_names() {
        for t in DataType::ALL {
            assert_eq!(DataType::parse(t.name()), Some(t));
            assert_eq!(serde_json::to_string(&t).unwrap(), format!("{:?}", t.name()), "the catalog and `kilter.toml` speak alike");
            assert_eq!(DataType::COLUMNS.contains(&t), !t.is_nested());
        }
        assert_eq!(DataType::parse("list"), None);
    }

    #[test]
    fn maps_are_in_order_and_lists_hold_no_nan() {
        let map = Value::map([("b", 2.0), ("a", 1.0), ("c", f64::NAN), ("b", 3.0), ("B", 0.5)]);
        assert_eq!(map.to_string(), r#"{"B": 0.5, "a": 1, "b": 3}"#);
        assert_eq!(Value::numbers([1.0, f64::NAN, 2.5]).to_string(), "[1, 2.5]");
        assert_eq!(Value::texts(["a", "b, c", "\""]).to_string(), r#"["a", "b, c", "\""]"#);
    }

    #[test]
    fn lists_and_maps_are_arrays_and_objects_in_json() {
        let json = |v: &Value| serde_json::to_string(v).unwrap();
        assert_eq!(json(&Value::numbers([1.0, -2.5])), "[1.0,-2.5]");
        assert_eq!(json(&Value::texts(["a", "\""])), r#"["a","\""]"#);
        assert_eq!(json(&Value::map([("b", 2.0), ("a", 1.0)])), r#"{"a":1.0,"b":2.0}"#);
        assert_eq!(json(&Value::numbers([])), "[]");
        assert_eq!(json(&Value::map::<&str>([])), "{}");
    }

    #[test]
    fn an_empty_list_fits_both_kinds_of_list() {
        let empty = Value::numbers([]);
        let fitting = |v: &Value| DataType::ALL.into_iter().filter(|t| v.fits(*t)).map(DataType::name).collect::<Vec<_>>().join(" ");
        assert_eq!(fitting(&empty), "list<float64> list<string>");
        assert_eq!(fitting(&Value::numbers([1.0])), "list<float64>");
        assert_eq!(fitting(&Value::texts(["x"])), "list<string>");
        assert_eq!(fitting(&Value::map::<&str>([])), "map<string, float64>");
        assert_eq!(fitting(&Value::Int(1)), "int64");
        assert!(DataType::ALL.into_iter().all(|t| Value::Null.fits(t)));
    }

    #[test]
    fn the_bits_of_a_list_and_of_a_map_are_those_of_their_numbers() {
        let numbers = |x| Value::numbers([1.0, x]);
        let map = |x| Value::map([("k", x)]);
        assert!(numbers(0.0).same_bits(&numbers(0.0)) && map(0.0).same_bits(&map(0.0)));
        assert!(numbers(0.0) == numbers(-0.0) && !numbers(0.0).same_bits(&numbers(-0.0)));
        assert!(map(0.0) == map(-0.0) && !map(0.0).same_bits(&map(-0.0)));
        assert!(!numbers(0.0).same_bits(&Value::numbers([1.0])));
        assert!(!map(1.0).same_bits(&Value::map([("l", 1.0)])));
        assert!(!map(1.0).same_bits(&Value::map([("k", 1.0), ("l", 1.0)])));
    }

    #[test]
    fn no_number_stands_for_a_list_or_a_map_and_they_make_no_row_larger() {
        assert_eq!(Value::numbers([1.0]).as_f64(), None);
        assert_eq!(Value::map([("k", 1.0)]).as_f64(), None);
        assert_eq!(size_of::<Value>(), size_of::<CompactString>());
    }
}
