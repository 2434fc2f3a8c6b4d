//! One typed value of a column, a feature or a request field.

use std::fmt;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::EventTime;

/// The types a column may have; the names are those used in `kilter.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataType {
    Bool,
    Int64,
    Float64,
    String,
    Timestamp,
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
}

impl DataType {
    pub const ALL: [DataType; 5] = [DataType::Bool, DataType::Int64, DataType::Float64, DataType::String, DataType::Timestamp];

    pub fn name(self) -> &'static str {
        match self {
            DataType::Bool => "bool",
            DataType::Int64 => "int64",
            DataType::Float64 => "float64",
            DataType::String => "string",
            DataType::Timestamp => "timestamp",
        }
    }

    pub fn parse(name: &str) -> Option<DataType> {
        DataType::ALL.into_iter().find(|t| t.name() == name)
    }

    pub fn is_numeric(self) -> bool {
        matches!(self, DataType::Int64 | DataType::Float64)
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

    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The number a model sees: integers and booleans widened, null as NaN. Text and times have none.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Null => Some(f64::NAN),
            Value::Bool(b) => Some(f64::from(u8::from(*b))),
            Value::Int(i) => Some(*i as f64),
            Value::Float(x) => Some(*x),
            Value::Text(_) | Value::Time(_) => None,
        }
    }

    pub fn data_type(&self) -> Option<DataType> {
        match self {
            Value::Null => None,
            Value::Bool(_) => Some(DataType::Bool),
            Value::Int(_) => Some(DataType::Int64),
            Value::Float(_) => Some(DataType::Float64),
            Value::Text(_) => Some(DataType::String),
            Value::Time(_) => Some(DataType::Timestamp),
        }
    }

    /// Equal to the last bit: floats by their bit pattern, so that 0.0 and -0.0 differ. For audits.
    pub fn same_bits(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
            _ => self == other,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(b) => write!(f, "{b}"),
            Value::Int(i) => write!(f, "{i}"),
            Value::Float(x) => write!(f, "{x}"),
            Value::Text(s) => f.write_str(s),
            Value::Time(t) => write!(f, "{t}"),
        }
    }
}

/// JSON form: timestamps as RFC 3339 text, infinities as null (JSON has none).
impl Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => s.serialize_none(),
            Value::Bool(b) => s.serialize_bool(*b),
            Value::Int(i) => s.serialize_i64(*i),
            Value::Float(x) => s.serialize_f64(*x),
            Value::Text(t) => s.serialize_str(t),
            Value::Time(t) => s.collect_str(t),
        }
    }
}
