//! What the tests of this crate share: small views and events.
#![allow(dead_code, reason = "each test binary uses a part")]

use kilter_core::{DataType, Event, EventTime, Operation, Schema, SourceId, Span, Value};
use kilter_features::{ColumnSpec, View, ViewSpec, compile_view};

pub fn schema() -> Schema {
    Schema::new([
        ("k", DataType::Int64),
        ("amount", DataType::Float64),
        ("n", DataType::Int64),
        ("kind", DataType::String),
        ("ok", DataType::Bool),
        ("due", DataType::Timestamp),
    ])
}

pub fn spec(columns: &[(&str, &str)]) -> ViewSpec {
    ViewSpec {
        columns: columns.iter().map(|(name, text)| column(name, text)).collect(),
        ..ViewSpec::new("account", SourceId(0), schema(), &["k"], Span::DAY)
    }
}

pub fn column(name: &str, text: &str) -> ColumnSpec {
    ColumnSpec { name: name.to_string(), text: text.to_string(), default: None }
}

pub fn view(spec: &ViewSpec) -> View {
    compile_view(spec).unwrap_or_else(|problems| panic!("{problems:?}"))
}

pub fn event(time: EventTime, row: Vec<Value>) -> Event {
    Event { source: SourceId(0), offset: 0, time, arrived: time, id: None, operation: Operation::Upsert, row, extra: None, origin: None }
}
