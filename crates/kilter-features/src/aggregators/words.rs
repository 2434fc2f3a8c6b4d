//! Values as words: a header with the type in its low three bits and the length in bytes above, then the bytes.

use kilter_core::{DataType, EventTime, Value};

const BOOL: u64 = 0;
const INT: u64 = 1;
const FLOAT: u64 = 2;
const TIME: u64 = 3;
const TEXT: u64 = 4;
/// A header alone.
const NULL: u64 = 5;

/// Appends a value. Values of one type compare by their words as equal exactly when they are the same to the bit.
pub(crate) fn put(out: &mut Vec<u64>, value: &Value) {
    match value {
        Value::Bool(b) => out.extend([BOOL, u64::from(*b)]),
        Value::Int(i) => out.extend([INT, *i as u64]),
        Value::Float(x) => out.extend([FLOAT, x.to_bits()]),
        Value::Time(t) => out.extend([TIME, t.0 as u64]),
        Value::Text(text) => {
            out.push(TEXT | (text.len() as u64) << 3);
            out.extend(text.as_bytes().chunks(8).map(|chunk| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_le_bytes(word)
            }));
        }
        // Aggregates are never given a collection.
        _ => out.push(NULL),
    }
}

/// How many words the value at the start of `words` takes.
pub(crate) fn len(words: &[u64]) -> usize {
    match words.first() {
        None => 0,
        Some(header) if header & 7 == NULL => 1,
        Some(header) if header & 7 == TEXT => (1 + ((header >> 3) as usize).div_ceil(8)).min(words.len()),
        Some(_) => 2.min(words.len()),
    }
}

/// Whether `words` ends before the value at its start does.
pub(crate) fn is_cut(words: &[u64]) -> bool {
    match words.first() {
        None => true,
        Some(header) if header & 7 == NULL => false,
        Some(header) if header & 7 == TEXT => words.len() - 1 < ((header >> 3) as usize).div_ceil(8),
        Some(_) => words.len() < 2,
    }
}

/// The value at the start of `words`.
pub(crate) fn get(words: &[u64]) -> Value {
    let (Some(header), Some(rest)) = (words.first(), words.get(1..len(words))) else { return Value::Null };
    let first = rest.first().copied().unwrap_or(0);
    match header & 7 {
        BOOL => Value::Bool(first != 0),
        INT => Value::Int(first as i64),
        FLOAT => Value::float(f64::from_bits(first)),
        TIME => Value::Time(EventTime(first as i64)),
        NULL => Value::Null,
        _ => {
            let mut bytes: Vec<u8> = rest.iter().flat_map(|w| w.to_le_bytes()).collect();
            bytes.truncate((header >> 3) as usize);
            std::str::from_utf8(&bytes).map_or(Value::Null, Value::text)
        }
    }
}

/// The type of a list of such values: numbers and truths as numbers, texts and times as texts.
pub(crate) fn list_type(of: DataType) -> Option<DataType> {
    match of {
        DataType::Bool | DataType::Int64 | DataType::Float64 => Some(DataType::NumberList),
        DataType::String | DataType::Timestamp => Some(DataType::TextList),
        _ => None,
    }
}

/// The list of values, as [`list_type`] has it.
pub(crate) fn list(values: impl Iterator<Item = Value>) -> Value {
    let items = values.map(|value| match value {
        Value::Text(_) => value,
        Value::Time(t) => Value::text(&t.to_string()),
        number => Value::Float(number.as_f64().unwrap_or(0.0)),
    });
    Value::List(items.collect())
}

/// A run of entries, each `head` words followed by a value: where each starts and ends.
pub(crate) fn entries(state: &[u64], head: usize) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        let value = state.get(start + head..).filter(|v| !v.is_empty())?;
        at = start + head + len(value);
        Some(start..at)
    })
}
