//! Rows back to JSON, for showing and for dead letters.

use kilter_core::{Schema, Value};

/// The row as a JSON object: nulls kept, timestamps as RFC 3339 text. Values beyond the schema are left out.
pub fn row_to_json(schema: &Schema, row: &[Value]) -> serde_json::Value {
    let fields = schema.names().zip(row);
    serde_json::Value::Object(fields.map(|(name, value)| (name.to_owned(), value_to_json(value))).collect())
}

fn value_to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(b) => (*b).into(),
        Value::Int(n) => (*n).into(),
        // JSON has no infinity; `From` turns it into null.
        Value::Float(x) => (*x).into(),
        Value::Text(s) => s.as_str().into(),
        Value::Time(t) => t.to_string().into(),
    }
}
