//! The key of an entity: an integer, a text, or several values together.

use std::fmt;

use compact_str::CompactString;
use serde::{Serialize, Serializer};

use crate::Value;

/// Names one entity of a view. Null is no key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntityKey {
    Int(i64),
    Text(CompactString),
    Bool(bool),
    Composite(Box<[EntityKey]>),
}

impl EntityKey {
    /// The key held by one value; none for null, and for floats, times, lists and maps, which name nothing.
    pub fn from_value(value: &Value) -> Option<EntityKey> {
        match value {
            Value::Int(i) => Some(EntityKey::Int(*i)),
            Value::Text(s) => Some(EntityKey::Text(s.clone())),
            Value::Bool(b) => Some(EntityKey::Bool(*b)),
            Value::Null | Value::Float(_) | Value::Time(_) | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// The key held by the given columns of a row; none when any of them is null.
    pub fn from_row(row: &[Value], columns: &[usize]) -> Option<EntityKey> {
        match columns {
            [one] => EntityKey::from_value(row.get(*one)?),
            many => many
                .iter()
                .map(|&c| EntityKey::from_value(row.get(c)?))
                .collect::<Option<Vec<_>>>()
                .map(|keys| EntityKey::Composite(keys.into())),
        }
    }
}

impl fmt::Display for EntityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntityKey::Int(i) => write!(f, "{i}"),
            EntityKey::Text(s) => f.write_str(s),
            EntityKey::Bool(b) => write!(f, "{b}"),
            EntityKey::Composite(keys) => {
                for (i, key) in keys.iter().enumerate() {
                    if i > 0 {
                        f.write_str("|")?;
                    }
                    write!(f, "{key}")?;
                }
                Ok(())
            }
        }
    }
}

impl Serialize for EntityKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            EntityKey::Int(i) => s.serialize_i64(*i),
            EntityKey::Text(t) => s.serialize_str(t),
            EntityKey::Bool(b) => s.serialize_bool(*b),
            EntityKey::Composite(keys) => s.collect_seq(keys.iter()),
        }
    }
}
