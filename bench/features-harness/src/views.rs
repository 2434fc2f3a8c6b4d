//! The sets of features that are measured.

use kilter_connect::RowFormat;
use kilter_core::{DataType, Schema, SourceId, Span};
use kilter_features::{ColumnSpec, View, ViewSpec, compile_view};

use crate::fail;

pub const SOURCE: SourceId = SourceId(0);
const WINDOWS: &str = "1h, 1d, 30d";

/// count, sum, min, max and last: 7 columns, 21 features.
const A: [(&str, &str); 7] = [
    ("n", "count(*)"),
    ("total", "sum(amount)"),
    ("low", "min(amount)"),
    ("high", "max(amount)"),
    ("last", "last(amount)"),
    ("cards", "count(*) where kind = 'card'"),
    ("card_total", "sum(amount) where kind = 'card'"),
];
/// What makes set b of set a: 27 features.
const B: [(&str, &str); 2] = [("merchants", "approx_distinct(merchant)"), ("median", "quantile(amount, 0.5)")];
/// What makes the wide set of set a: 51 features.
const WIDE: [(&str, &str); 10] = [
    ("mean", "mean(amount)"),
    ("spread", "stddev(amount)"),
    ("first", "first(amount)"),
    ("idle", "time_since_last()"),
    ("cash", "sum(amount) where kind = 'cash'"),
    ("withdrawals", "count(*) where kind = 'withdrawal'"),
    ("largest_transfer", "max(amount) where kind = 'transfer'"),
    ("last_card", "last(amount) where kind = 'card'"),
    ("first_card", "first(amount) where kind = 'card'"),
    ("card_spread", "stddev(amount) where kind = 'card'"),
];

/// Columns as declared in a project; `note` is not declared, so it is kept beside the row, as is the default.
pub fn format() -> RowFormat {
    let schema = Schema::new([
        ("account_id", DataType::Int64),
        ("merchant", DataType::String),
        ("amount", DataType::Float64),
        ("kind", DataType::String),
        ("at", DataType::Timestamp),
    ]);
    let mut format = RowFormat::new("payments", schema).time_column("at");
    format.required = vec![0];
    format
}

pub fn view(set: &str) -> View {
    let columns: Vec<_> = match set {
        "a" => A.to_vec(),
        "b" => A.into_iter().chain(B).collect(),
        "wide" => A.into_iter().chain(WIDE).collect(),
        // As wide, six of the features sketches.
        "wide_b" => A.into_iter().chain(WIDE).take(15).chain(B).collect(),
        other => fail(&format!("unknown set {other}: a, b, wide or wide_b")),
    };
    let column =
        |(name, aggregate): (&str, &str)| ColumnSpec { name: name.into(), text: format!("{aggregate} over {WINDOWS}"), default: None };
    let spec = ViewSpec {
        columns: columns.into_iter().map(column).collect(),
        ..ViewSpec::new("account", SOURCE, format().schema, &["account_id"], Span::HOUR)
    };
    compile_view(&spec).unwrap_or_else(|problems| fail(&format!("{problems:?}")))
}
