//! Functions over lists and maps: one value out of many.

use std::borrow::Cow;

use kilter_core::Value;

use super::functions::{float, number, text};

type Args<'a, 'b> = &'a [Cow<'b, Value>];

fn items(v: &Value) -> &[Value] {
    match v {
        Value::List(items) => items,
        _ => &[],
    }
}

/// Characters of a string, elements of a list, entries of a map.
pub(super) fn length(a: Args<'_, '_>) -> Value {
    Value::Int(match &*a[0] {
        Value::List(items) => items.len() as i64,
        Value::Map(entries) => entries.len() as i64,
        other => text(other).chars().count() as i64,
    })
}

/// A part of a string, or an element of a list.
pub(super) fn contains(a: Args<'_, '_>) -> Value {
    Value::Bool(match (&*a[0], &*a[1]) {
        (Value::List(items), Value::Text(wanted)) => items.iter().any(|item| text(item) == wanted),
        (Value::List(items), wanted) => items.iter().any(|item| number(item) == number(wanted)),
        (whole, part) => text(whole).contains(text(part)),
    })
}

/// The n-th from the front, or from the end for a negative n.
pub(super) fn element(a: Args<'_, '_>) -> Value {
    let (items, Value::Int(n)) = (items(&a[0]), &*a[1]) else { return Value::Null };
    let from_its_side = n.unsigned_abs().checked_sub(1).and_then(|i| usize::try_from(i).ok());
    let found = match from_its_side {
        Some(i) if *n > 0 => items.get(i),
        Some(i) => items.iter().rev().nth(i),
        None => None,
    };
    found.cloned().unwrap_or_default()
}

pub(super) fn get(a: Args<'_, '_>) -> Value {
    let Value::Map(entries) = &*a[0] else { return Value::Null };
    match entries.binary_search_by(|(key, _)| key.as_str().cmp(text(&a[1]))) {
        Ok(at) => float(entries[at].1),
        Err(_) => Value::Null,
    }
}

/// From the first element to the last, so that the same list gives the same bits.
pub(super) fn sum(a: Args<'_, '_>) -> Value {
    fold(&a[0], |x, y| x + y)
}

pub(super) fn mean(a: Args<'_, '_>) -> Value {
    match sum(a) {
        Value::Float(sum) => float(sum / items(&a[0]).len() as f64),
        _ => Value::Null,
    }
}

pub(super) fn min(a: Args<'_, '_>) -> Value {
    fold(&a[0], f64::min)
}

pub(super) fn max(a: Args<'_, '_>) -> Value {
    fold(&a[0], f64::max)
}

/// Null for an empty list.
fn fold(list: &Value, join: fn(f64, f64) -> f64) -> Value {
    items(list).iter().map(number).reduce(join).map_or(Value::Null, float)
}
