//! `kilter dead-letters`: what was turned away, and why.

use std::path::Path;

use crate::api::Api;
use crate::commands::{cell, table};

#[derive(clap::Args)]
pub struct Args {
    /// Only of this source.
    #[arg(long)]
    source: Option<String>,
    /// Only with this code, such as wrong_type or late.
    #[arg(long)]
    code: Option<String>,
    #[arg(long, default_value_t = 20)]
    limit: u32,
    /// With payloads, as JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<()> {
    let api = Api::open(dir).await?;
    let client = api.client.clone();
    let source = args.source.map(|s| format!("&source={s}")).unwrap_or_default();
    let code = args.code.map(|c| format!("&code={c}")).unwrap_or_default();
    let path = format!("/v1/dead-letters?limit={}{source}{code}", args.limit);
    let answer = tokio::task::spawn_blocking(move || client.get(&path)).await?;
    api.close().await?;
    let answer = answer?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    let mut out = table(&["offset", "at", "source", "code", "what is wrong", "hint"]);
    for l in answer["dead_letters"].as_array().into_iter().flatten() {
        out.add_row(["offset", "at", "source", "code", "detail", "hint"].map(|c| cell(&l[c])));
    }
    println!("{out}");
    Ok(())
}
