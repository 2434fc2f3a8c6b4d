//! `kilter decisions`: the newest ones, or one with everything behind it.

use std::path::Path;

use serde_json::Value;

use crate::api::Api;
use crate::commands::{cell, table};

#[derive(clap::Args)]
pub struct Args {
    /// One decision by its id, such as loan-12345.
    id: Option<String>,
    /// Only of this decision.
    #[arg(long)]
    decision: Option<String>,
    /// Only with this outcome.
    #[arg(long)]
    outcome: Option<String>,
    #[arg(long, default_value_t = 20)]
    limit: u32,
    #[arg(long)]
    json: bool,
}

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<()> {
    let api = Api::open(dir).await?;
    let client = api.client.clone();
    let path = match &args.id {
        Some(id) => format!("/v1/decisions/{id}"),
        None => {
            let decision = args.decision.map(|d| format!("&decision={d}")).unwrap_or_default();
            let outcome = args.outcome.map(|o| format!("&outcome={o}")).unwrap_or_default();
            format!("/v1/decisions?limit={}{decision}{outcome}", args.limit)
        }
    };
    let answer = tokio::task::spawn_blocking(move || client.get(&path)).await?;
    api.close().await?;
    let answer = answer?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else if args.id.is_some() {
        show(&answer);
    } else {
        let mut out = table(&["id", "time", "outcome", "score", "version", "strongest reasons"]);
        for d in answer["decisions"].as_array().into_iter().flatten() {
            out.add_row([
                cell(&d["decision_id"]),
                cell(&d["time"]),
                cell(&d["outcome"]),
                cell(&d["score"]),
                cell(&d["model_version"]),
                reasons(d, 2),
            ]);
        }
        println!("{out}");
    }
    Ok(())
}

fn reasons(decision: &Value, most: usize) -> String {
    let all = decision["reasons"].as_array().into_iter().flatten().take(most);
    all.map(|r| format!("{} = {}", cell(&r["feature"]), cell(&r["value"]))).collect::<Vec<_>>().join(", ")
}

fn show(d: &Value) {
    println!("{}: {}", cell(&d["decision_id"]), cell(&d["outcome"]));
    println!("  score    {} by {} version {}", cell(&d["score"]), cell(&d["model"]), cell(&d["model_version"]));
    println!("  rule     {}", cell(&d["rule"]));
    println!("  time     {}, as of offset {}", cell(&d["time"]), cell(&d["as_of_offset"]));
    println!("  reasons");
    for r in d["reasons"].as_array().into_iter().flatten() {
        println!("    {:<32} {:>14}   {:+.4} log-odds", cell(&r["feature"]), cell(&r["value"]), r["contribution"].as_f64().unwrap_or(0.0));
    }
    println!("  inputs");
    for (name, value) in d["inputs"].as_object().into_iter().flatten() {
        println!("    {name:<32} {:>14}", cell(value));
    }
}
