//! `kilter features read`: what is known of entities, now or at a moment of the past.

use std::path::Path;

use clap::Subcommand;
use kilter_core::EventTime;
use serde_json::{Value, json};

use crate::api::Api;
use crate::commands::{cell, parse_time, table};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows the features of one or several entities of a view.
    Read(Read),
}

#[derive(clap::Args)]
struct Read {
    /// The feature view.
    view: String,
    /// Entities, such as account numbers; of several key columns with `|` between them.
    #[arg(required = true, num_args = 1.., value_name = "KEY")]
    keys: Vec<String>,
    /// As of this time, now otherwise. A * marks what is no longer as it was then, its window having let go of a part since.
    #[arg(long, value_parser = parse_time)]
    at: Option<EventTime>,
    /// What the server would have answered when its clock showed `--at`, or before `--offset`.
    #[arg(long)]
    as_seen: bool,
    /// With `--as-seen`, instead of `--at`: what was known before this offset of the log.
    #[arg(long, requires = "as_seen", conflicts_with = "at")]
    offset: Option<u64>,
    /// Only these features, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    features: Vec<String>,
    /// The answer as JSON.
    #[arg(long)]
    json: bool,
}

fn is_incomplete(row: &Value, name: &str) -> bool {
    row["incomplete"].as_array().is_some_and(|names| names.iter().any(|n| n == name))
}

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<()> {
    let Command::Read(args) = args.command;
    let api = Api::open(dir).await?;
    let client = api.client.clone();
    let features = (!args.features.is_empty()).then_some(&args.features);
    let body = json!({
        "keys": args.keys,
        "at": args.at.map(|t| t.to_string()),
        "mode": args.as_seen.then_some("as-seen"),
        "offset": args.offset,
        "features": features,
    });
    let path = format!("/v1/features/{}", args.view);
    let answer = tokio::task::spawn_blocking(move || client.post(&path, body.to_string().as_bytes())).await?;
    api.close().await?;
    let answer = answer?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    println!("{} at {}, after the events before offset {}", args.view, cell(&answer["at"]), cell(&answer["as_of_offset"]));
    let rows = answer["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut header = vec!["feature"];
    header.extend(args.keys.iter().map(String::as_str));
    let mut out = table(&header);
    let names = rows.first().and_then(|row| row["features"].as_object()).into_iter().flat_map(|features| features.keys());
    for name in names {
        let values = rows.iter().map(|row| {
            let mark = if is_incomplete(row, name) { " *" } else { "" };
            match &row["features"][name] {
                Value::Null => format!("null{mark}"),
                value => format!("{}{mark}", cell(value)),
            }
        });
        out.add_row([name.clone()].into_iter().chain(values));
    }
    let last = rows.iter().map(|row| if row["last_event"].is_null() { "none".to_string() } else { cell(&row["last_event"]) });
    out.add_row(["(last event)".to_string()].into_iter().chain(last));
    println!("{out}");
    if rows.iter().any(|row| row["incomplete"].is_array()) {
        println!(
            "* not as it was then: the window has let go of a part of it since, or holds what came after; --as-seen reads what was known then"
        );
    }
    Ok(())
}
