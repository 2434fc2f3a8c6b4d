//! `kilter status`: how the project is doing, and what became of all events.

use std::path::Path;

use serde_json::Value;

use crate::api::Api;
use crate::commands::{cell, grouped, table};

#[derive(clap::Args)]
pub struct Args {
    /// The answer as JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<()> {
    let api = Api::open(dir).await?;
    let client = api.client.clone();
    let answer = tokio::task::spawn_blocking(move || client.get("/v1/status")).await?;
    api.close().await?;
    let answer = answer?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    let count = |value: &Value| grouped(value.as_u64().unwrap_or(0));
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    println!("{}, at offset {}, event time {}", cell(&answer["project"]), cell(&answer["next_offset"]), cell(&answer["event_time"]));
    let columns = ["received", "events", "late", "duplicates"];
    let mut out = table(&["source", "status", "received", "events", "late", "duplicates", "turned away", "watermark", "silent"]);
    for s in list(&answer["sources"]) {
        let reasons = s["turned_away"].as_object().into_iter().flatten().map(|(code, n)| format!("{code} {}", count(n)));
        let reasons = reasons.collect::<Vec<_>>().join("\n");
        let silent = s["silent_seconds"].as_f64().map_or(String::new(), |x| kilter_core::Span((x as i64) * 1_000_000).to_string());
        let own = [cell(&s["source"]), cell(&s["status"])];
        let counts = columns.map(|c| count(&s[c]));
        out.add_row(own.into_iter().chain(counts).chain([reasons, cell(&s["watermark"]), silent]));
    }
    println!("\n{out}");
    for s in list(&answer["sources"]) {
        if let Some(problem) = s["problem"].as_str() {
            println!("source {} is not read: {problem}", cell(&s["source"]));
        }
    }
    let columns = ["events", "applied", "late", "no_key", "filtered", "retracted", "entities", "bytes"];
    let mut out = table(&["view", "events", "applied", "late", "no key", "filtered", "retracted", "entities", "bytes in memory"]);
    for v in list(&answer["state"]) {
        out.add_row([cell(&v["view"])].into_iter().chain(columns.map(|c| count(&v[c]))));
    }
    println!("\n{out}");
    Ok(())
}
