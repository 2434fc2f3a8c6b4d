//! `kilter lake`: history as Parquet files.

use std::path::Path;

use serde_json::Value;

use crate::api::Api;
use crate::commands::{cell, grouped};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(clap::Subcommand)]
enum Task {
    /// Shows how far the lake has come and what it takes.
    Status {
        /// The answer as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Takes in what waits, makes large files of small ones, lets old days go and shortens the log, now.
    Compact {
        /// The answer as JSON.
        #[arg(long)]
        json: bool,
    },
}

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<()> {
    let api = Api::open(dir).await?;
    let client = api.client.clone();
    let (compact, json) = match args.task {
        Task::Status { json } => (false, json),
        Task::Compact { json } => (true, json),
    };
    let answer = tokio::task::spawn_blocking(move || match compact {
        true => client.post("/v1/lake/compact", b""),
        false => client.get("/v1/lake"),
    })
    .await?;
    api.close().await?;
    let answer = answer?;
    if json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
    } else if compact {
        told_of_work(&answer);
    } else {
        told_of_state(&answer);
    }
    Ok(())
}

fn count(value: &Value) -> String {
    grouped(value.as_u64().unwrap_or(0))
}

fn told_of_state(lake: &Value) {
    println!("in the lake: offsets {} to {}, {} wait", cell(&lake["first"]), cell(&lake["next"]), count(&lake["waiting"]));
    println!("files: {}, {} bytes", count(&lake["files"]), count(&lake["bytes"]));
    println!("the event log begins at offset {}", cell(&lake["log_start"]));
    if let Some(day) = lake["expired_before"].as_str() {
        println!("days before {day} were taken out");
    }
    if let Some(problem) = lake["problem"].as_str() {
        println!("nothing goes in: {problem}");
    }
}

fn told_of_work(work: &Value) {
    println!("records taken in: {}", count(&work["records"]));
    println!("files compacted: {} into {}, expired: {}", count(&work["compacted"]), count(&work["into"]), count(&work["expired"]));
    println!("the event log begins at offset {}", cell(&work["log_start"]));
}
