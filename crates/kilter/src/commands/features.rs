//! `kilter features`: what is known of entities, now or at a moment of the past.

use std::path::Path;

use clap::Subcommand;
use kilter_core::EventTime;
use serde_json::{Map, Value, json};

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
    /// Shows the features of a service: those of several views, for one or several questions.
    Service(Ask),
}

#[derive(clap::Args)]
struct Read {
    /// The feature view.
    view: String,
    /// Entities, such as account numbers; of several key columns with `|` between them.
    #[arg(required = true, num_args = 1.., value_name = "KEY")]
    keys: Vec<String>,
    #[command(flatten)]
    how: How,
}

#[derive(clap::Args)]
struct Ask {
    /// The service.
    service: String,
    /// Questions: a value for each key of the service, such as `customer_id=7,merchant_id=m17`. A key without a value asks for no entity.
    #[arg(required = true, num_args = 1.., value_name = "KEY=VALUE[,KEY=VALUE]", value_parser = question)]
    questions: Vec<Question>,
    #[command(flatten)]
    how: How,
}

#[derive(clap::Args)]
struct How {
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

/// As it was written, and as the server reads it.
#[derive(Clone)]
struct Question {
    text: String,
    keys: Map<String, Value>,
}

fn question(text: &str) -> Result<Question, String> {
    let mut keys = Map::new();
    for part in text.split(',') {
        let (name, value) = part.split_once('=').ok_or_else(|| format!("`{part}` is no KEY=VALUE"))?;
        let value = if value.is_empty() { Value::Null } else { json!(value) };
        if keys.insert(name.trim().to_owned(), value).is_some() {
            return Err(format!("`{}` is given twice", name.trim()));
        }
    }
    Ok(Question { text: text.to_owned(), keys })
}

fn is_incomplete(row: &Value, name: &str) -> bool {
    row["incomplete"].as_array().is_some_and(|names| names.iter().any(|n| n == name))
}

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Read(read) => show(dir, &format!("/v1/features/{}", read.view), &read.view, json!(read.keys), &read.keys, &read.how).await,
        Command::Service(ask) => {
            let keys: Vec<&Map<String, Value>> = ask.questions.iter().map(|q| &q.keys).collect();
            let header: Vec<String> = ask.questions.iter().map(|q| q.text.clone()).collect();
            show(dir, &format!("/v1/services/{}", ask.service), &ask.service, json!(keys), &header, &ask.how).await
        }
    }
}

/// Asks and prints one column for each entity or question.
async fn show(dir: &Path, path: &str, name: &str, keys: Value, columns: &[String], how: &How) -> anyhow::Result<()> {
    let api = Api::open(dir).await?;
    let client = api.client.clone();
    let features = (!how.features.is_empty()).then_some(&how.features);
    let body = json!({
        "keys": keys,
        "at": how.at.map(|t| t.to_string()),
        "mode": how.as_seen.then_some("as-seen"),
        "offset": how.offset,
        "features": features,
    });
    let path = path.to_owned();
    let answer = tokio::task::spawn_blocking(move || client.post(&path, body.to_string().as_bytes())).await?;
    api.close().await?;
    let answer = answer?;
    if how.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    println!("{name} at {}, after the events before offset {}", cell(&answer["at"]), cell(&answer["as_of_offset"]));
    let rows = answer["rows"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut header = vec!["feature"];
    header.extend(columns.iter().map(String::as_str));
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
    let or_none = |last: &Value| if last.is_null() { "none".to_string() } else { cell(last) };
    // Of a service: by view.
    let views: Vec<&String> = rows.first().and_then(|row| row["last_event"].as_object()).into_iter().flat_map(Map::keys).collect();
    for view in &views {
        let last = rows.iter().map(|row| or_none(&row["last_event"][view.as_str()]));
        out.add_row([format!("(last event of {view})")].into_iter().chain(last));
    }
    if views.is_empty() {
        out.add_row(["(last event)".to_string()].into_iter().chain(rows.iter().map(|row| or_none(&row["last_event"]))));
    }
    println!("{out}");
    if rows.iter().any(|row| row["incomplete"].is_array()) {
        println!(
            "* not as it was then: the window has let go of a part of it since, or holds what came after; --as-seen reads what was known then"
        );
    }
    Ok(())
}
