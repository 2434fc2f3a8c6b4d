//! A name for what the definitions mean.
//!
//! Two files with the same hash give the same results over the same log. Comments, blanks, the order of sections and of keys, and whatever
//! only people, the server or the door look at do not enter; the order of columns does, for it is the order of a model's inputs.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::definitions::{Definitions, Named};

/// Keys that change where events come from or what people read, never what a given log leads to.
const WITHOUT_EFFECT: [&str; 15] = [
    "description",
    "owner",
    "personal_data",
    "connector",
    "path",
    "format",
    "topic",
    "start",
    "partition_by",
    "schema",
    "message",
    "unknown",
    "max_future",
    "idle_after",
    "required",
];

/// Hex of a BLAKE3 hash over the canonical JSON.
pub(super) fn of(definitions: &Definitions) -> String {
    let mut meaning = json!({
        "clock": plain(&definitions.project.clock),
        "source": section(&definitions.source, |def| columns(&def.columns)),
        "features": section(&definitions.features, |def| {
            let derived = Some(&def.derived).filter(|d| !d.is_empty()).and_then(columns);
            columns(&def.columns).map(|own| derived.map_or(own.clone(), |derived| json!([own, derived])))
        }),
        "model": section(&definitions.model, |_| None),
        "decision": section(&definitions.decision, |_| None),
        "schedule": section(&definitions.schedule, |_| None),
        "monitor": section(&definitions.monitor, |_| None),
    });
    // They change no result, but are taken up and told of like all others.
    if !definitions.watch.is_empty() {
        meaning["watch"] = section(&definitions.watch, |_| None);
    }
    if !definitions.service.is_empty() {
        meaning["service"] = section(&definitions.service, |_| None);
    }
    blake3::hash(written(&meaning).as_bytes()).to_hex().to_string()
}

/// JSON with its keys in order.
pub(super) fn written(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

/// What of a source only the door and people look at.
pub(super) fn door<T: Serialize>(item: &T) -> Value {
    match serde_json::to_value(item).unwrap_or_default() {
        Value::Object(map) => {
            let kept = |(key, value): &(String, Value)| !value.is_null() && WITHOUT_EFFECT.contains(&key.as_str());
            Value::Object(map.into_iter().filter(kept).collect::<Map<_, _>>())
        }
        other => other,
    }
}

/// A section as a table by name; `columns` gives the ordered form of a table whose order has a meaning.
fn section<T: Serialize>(named: &Named<T>, columns: impl Fn(&T) -> Option<Value>) -> Value {
    let entry = |(name, def): (&str, &T)| {
        let mut value = plain(def);
        if let (Value::Object(map), Some(columns)) = (&mut value, columns(def)) {
            map.insert("columns".to_owned(), columns);
        }
        (name.to_owned(), value)
    };
    Value::Object(named.iter().map(entry).collect())
}

pub(super) fn columns<T: Serialize>(columns: &Named<T>) -> Option<Value> {
    Some(Value::Array(columns.iter().map(|(name, def)| json!([name, plain(def)])).collect()))
}

/// As JSON, without what has no effect and what is left out.
pub(super) fn plain<T: Serialize>(item: &T) -> Value {
    // Nothing in the definitions can fail to be JSON: keys are texts and numbers are finite.
    match serde_json::to_value(item).unwrap_or_default() {
        Value::Object(map) => {
            let kept = |(key, value): &(String, Value)| !value.is_null() && !WITHOUT_EFFECT.contains(&key.as_str());
            Value::Object(map.into_iter().filter(kept).collect::<Map<_, _>>())
        }
        other => other,
    }
}

/// Writes JSON with keys in order, whatever order the map type of this build keeps.
fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}
