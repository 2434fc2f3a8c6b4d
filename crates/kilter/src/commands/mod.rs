//! One file per command.

pub mod apply;
pub mod backtest;
pub mod boot;
pub mod check;
pub mod dead_letters;
pub mod decisions;
pub mod erase;
pub mod exchange;
pub mod features;
pub mod generate;
pub mod import;
pub mod ingest;
pub mod key;
pub mod lake;
mod logged;
pub mod new;
pub mod plan;
pub mod registry;
pub mod repair;
pub mod replay;
pub mod sql;
pub mod status;
pub mod tracking;
pub mod train;
pub mod training_set;
pub mod up;
pub mod worker;

use comfy_table::{ContentArrangement, LineStyle, Table, TableStyle};
use kilter_core::EventTime;
use serde_json::Value;

/// A table as every command prints it: aligned columns, one line under the header.
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    let style = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));
    table.load_style(style).set_content_arrangement(ContentArrangement::Dynamic);
    if !header.is_empty() {
        table.set_header(header.to_vec());
    }
    table
}

/// A JSON value as a cell: text bare, floats with four digits, nothing for null.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        Value::Number(n) => match n.as_f64() {
            Some(x) if n.is_f64() => format!("{x:.4}"),
            _ => n.to_string(),
        },
        other => other.to_string(),
    }
}

/// What came of judging a model, in one line; none: it was not judged.
pub fn judged(figures: &Value) -> Option<String> {
    let known = |name: &str| figures[name].is_number();
    let told = |names: &[&str]| -> Vec<String> {
        let known = names.iter().filter(|name| known(name));
        known.map(|name| format!("{} {}", name.replace('_', " "), cell(&figures[*name]))).collect()
    };
    let mut parts = told(&["pinball", "coverage", "deviance", "rmse", "mae", "r2", "bias"]);
    if known("auc") {
        parts.push(format!("auc {} ({} to {})", cell(&figures["auc"]), cell(&figures["auc_low"]), cell(&figures["auc_high"])));
    }
    parts.extend(told(&["average_precision", "log_loss"]));
    if figures["ks"]["value"].is_number() {
        parts.push(format!("ks {}", cell(&figures["ks"]["value"])));
    }
    (!figures.is_null())
        .then(|| format!("{} rows: {}", cell(&figures["rows"]), if parts.is_empty() { "no label yet".into() } else { parts.join("  ") }))
}

/// The figure that a model's task is led by, such as `auc 0.7412`, out of a version's or a run's metrics.
pub fn lead_figure(metrics: &Value) -> String {
    let lead = ["auc", "pinball", "deviance", "rmse"].into_iter().find(|name| metrics[*name].is_number());
    lead.map_or(String::new(), |name| format!("{name} {}", cell(&metrics[name])))
}

/// Reads a time given on the command line.
pub fn parse_time(text: &str) -> Result<EventTime, String> {
    EventTime::parse(text).ok_or_else(|| format!("`{text}` is no time; write 2026-01-31 or 2026-01-31T10:00:00Z"))
}

/// Reads a span given on the command line.
pub fn parse_span(text: &str) -> Result<kilter_core::Span, String> {
    kilter_core::Span::parse(text)
        .filter(|s| s.0 > 0)
        .ok_or_else(|| format!("`{text}` is no span; write a number and a unit: 90s, 5m, 1h, 7d"))
}

/// Whole numbers with thin groups: 1 754 155.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}
