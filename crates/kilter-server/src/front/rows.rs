//! A body of events, divided by the shards of its rows.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde_json::Value;

use crate::error::ApiError;

/// The rows of one shard.
#[derive(Debug, Default, PartialEq)]
pub struct Part {
    /// A JSON array.
    pub body: Vec<u8>,
    /// What the sender calls each of its rows: the index from 0 in an array, the line from 1 in NDJSON.
    pub rows: Vec<usize>,
}

/// Divides a body of JSON: an object, an array of objects, or NDJSON.
pub fn divide(body: &[u8], content_type: &str, shard: impl Fn(&Value) -> u32) -> Result<BTreeMap<u32, Part>, ApiError> {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let mut parts: BTreeMap<u32, Part> = BTreeMap::new();
    let mut put = |row: usize, value: &Value, text: &[u8]| {
        let part = parts.entry(shard(value)).or_default();
        part.body.push(if part.rows.is_empty() { b'[' } else { b',' });
        part.body.extend_from_slice(text);
        part.rows.push(row);
    };
    match kind.as_str() {
        "" | "application/json" => {
            let bad = |e: serde_json::Error| ApiError::new(StatusCode::BAD_REQUEST, "malformed_json", format!("malformed JSON: {e}"));
            match serde_json::from_slice(body).map_err(bad)? {
                Value::Array(rows) => rows.iter().enumerate().for_each(|(i, row)| put(i, row, row.to_string().as_bytes())),
                object => put(0, &object, body),
            }
        }
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => {
            for (i, line) in body.split(|b| *b == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty()) {
                match serde_json::from_slice::<Value>(line) {
                    Ok(value) => put(i + 1, &value, line),
                    // The shard that gets it tells what is wrong with it: it goes as a text, which is no object.
                    Err(_) => {
                        let text = Value::String(String::from_utf8_lossy(line).into_owned());
                        put(i + 1, &text, text.to_string().as_bytes());
                    }
                }
            }
        }
        other => {
            let message = format!("workers divide bodies of JSON and NDJSON by their rows, not `{other}`");
            let hint = "send NDJSON (`application/x-ndjson`), or produce the events into the source's topic";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_type", message).hint(hint.to_string()));
        }
    }
    parts.values_mut().for_each(|part| part.body.push(b']'));
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, content_type: &str, expected: &[(u32, &str, &[usize])]) {
        let shard = |row: &Value| row["k"].as_u64().unwrap_or(9) as u32;
        let found = divide(body.as_bytes(), content_type, shard).unwrap();
        let found: Vec<_> = found.iter().map(|(s, p)| (*s, std::str::from_utf8(&p.body).unwrap(), p.rows.as_slice())).collect();
        assert_eq!(found, expected, "{body}");
    }

    #[test]
    fn rows_go_to_their_shards_under_their_own_numbers() {
        check(r#"{"k":3,"x":1.50}"#, "application/json; charset=utf-8", &[(3, r#"[{"k":3,"x":1.50}]"#, &[0])]);
        check(r#"[{"k":2},{"k":1},{"k":2}]"#, "", &[(1, r#"[{"k":1}]"#, &[1]), (2, r#"[{"k":2},{"k":2}]"#, &[0, 2])]);
        let lines = "{\"k\":1}\n\n{\"k\":\n{\"k\":1}\n";
        check(lines, "application/x-ndjson", &[(1, r#"[{"k":1},{"k":1}]"#, &[1, 4]), (9, r#"["{\"k\":"]"#, &[3])]);
        check("[]", "application/json", &[]);
        assert!(divide(b"k\n1", "text/csv", |_| 0).is_err());
        assert!(divide(b"{", "application/json", |_| 0).is_err());
    }
}
