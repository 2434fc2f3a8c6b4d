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
        Value::List(items) => items.iter().map(value_to_json).collect(),
        Value::Map(entries) => serde_json::Value::Object(entries.iter().map(|(k, x)| (k.to_string(), (*x).into())).collect()),
    }
}

#[cfg(test)]
mod tests {
    use kilter_core::{DataType, EventTime};

    use super::*;

    /// One form for all: what stands in a dead letter is what the API would show.
    #[test]
    fn a_value_has_one_json_form() {
        let values = [
            Value::Null,
            Value::Bool(true),
            Value::Int(-7),
            Value::Float(2.5),
            Value::Float(f64::INFINITY),
            Value::text("a \"b\""),
            Value::Time(EventTime(1_767_268_800_000_000)),
            Value::numbers([1.0, 2.5]),
            Value::texts(["x", ""]),
            Value::map([("k", 1.0), ("a", 0.5)]),
        ];
        let schema = Schema::new((0..values.len()).map(|i| (format!("c{i}"), DataType::Bool)));
        let row = row_to_json(&schema, &values);
        for (i, value) in values.iter().enumerate() {
            assert_eq!(row[format!("c{i}")], serde_json::to_value(value).unwrap());
        }
    }
}
