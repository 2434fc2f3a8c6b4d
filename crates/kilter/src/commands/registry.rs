//! `kilter models`, `promote`, `rollback`, `runs`, `alerts`: what the registry holds.

use std::path::Path;

use serde_json::{Value, json};

use crate::api::Api;
use crate::commands::{cell, exchange, lead_figure, table};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ModelsArgs {
    #[command(subcommand)]
    task: Option<exchange::Task>,
    /// One model with all its versions.
    model: Option<String>,
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct PromoteArgs {
    /// The model's name, or `name@version`.
    model: String,
    /// The version; the newest one otherwise.
    #[arg(long)]
    version: Option<u32>,
    /// Why, for the record.
    #[arg(long, default_value = "by hand")]
    reason: String,
}

#[derive(clap::Args)]
pub struct RollbackArgs {
    model: String,
}

#[derive(clap::Args)]
pub struct RunsArgs {
    /// One run with its parameters, metrics and artifacts.
    run: Option<String>,
    /// Only of this model.
    #[arg(long)]
    model: Option<String>,
    #[arg(long, default_value_t = 20)]
    limit: u32,
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct AlertsArgs {
    #[arg(long, default_value_t = 20)]
    limit: u32,
    #[arg(long)]
    json: bool,
}

/// Asks one question and closes what was opened for it.
async fn get(dir: &Path, path: String) -> anyhow::Result<Value> {
    let api = Api::open(dir).await?;
    let client = api.client.clone();
    let answer = tokio::task::spawn_blocking(move || client.get(&path)).await?;
    api.close().await?;
    answer
}

async fn post(dir: &Path, path: String, body: Value) -> anyhow::Result<Value> {
    let api = Api::open(dir).await?;
    let client = api.client.clone();
    let answer = tokio::task::spawn_blocking(move || client.post(&path, body.to_string().as_bytes())).await?;
    api.close().await?;
    answer
}

fn rows<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

pub async fn models(dir: &Path, args: ModelsArgs) -> anyhow::Result<()> {
    if let Some(task) = args.task {
        return exchange::run(dir, task).await;
    }
    let Some(model) = args.model else {
        let answer = get(dir, "/v1/models".into()).await?;
        if args.json {
            println!("{}", serde_json::to_string_pretty(&answer)?);
            return Ok(());
        }
        let mut out = table(&["model", "latest", "champion", "challenger"]);
        for m in rows(&answer, "models") {
            out.add_row([cell(&m["model"]), cell(&m["latest"]), cell(&m["aliases"]["champion"]), cell(&m["aliases"]["challenger"])]);
        }
        println!("{out}");
        return Ok(());
    };
    let answer = get(dir, format!("/v1/models/{model}")).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    let mut out = table(&["version", "alias", "learner", "trained from", "to", "rows", "held out", "notes"]);
    for v in rows(&answer, "versions") {
        let aliases: Vec<String> = v["aliases"].as_array().into_iter().flatten().map(cell).collect();
        let m = &v["metrics"];
        out.add_row([
            cell(&v["version"]),
            aliases.join(", "),
            cell(&v["kind"]),
            day(&v["trained_from"]),
            day(&v["trained_to"]),
            m["train_rows"].as_f64().map(|n| n.to_string()).unwrap_or_default(),
            lead_figure(m),
            cell(&v["notes"]),
        ]);
    }
    println!("{out}");
    Ok(())
}

/// The date of a time.
fn day(value: &Value) -> String {
    cell(value).chars().take(10).collect()
}

/// `name` or `name@version`.
pub fn versioned(text: &str) -> anyhow::Result<(String, Option<u32>)> {
    let Some((model, version)) = text.split_once('@') else { return Ok((text.to_string(), None)) };
    let version = version.parse::<u32>().map_err(|_| anyhow::anyhow!("`{version}` is no version number"))?;
    Ok((model.to_string(), Some(version)))
}

pub async fn promote(dir: &Path, args: PromoteArgs) -> anyhow::Result<()> {
    let (model, named) = versioned(&args.model)?;
    let version = match args.version.or(named) {
        Some(version) => version,
        None => {
            let answer = get(dir, format!("/v1/models/{model}")).await?;
            let newest = rows(&answer, "versions").filter_map(|v| v["version"].as_u64()).max();
            newest.ok_or_else(|| anyhow::anyhow!("model `{model}` has no version yet\n  hint: kilter train {model}"))? as u32
        }
    };
    let answer = post(dir, format!("/v1/models/{model}/promote"), json!({ "version": version, "reason": args.reason })).await?;
    println!("{model} version {version} is champion from offset {}", cell(&answer["offset"]));
    Ok(())
}

pub async fn rollback(dir: &Path, args: RollbackArgs) -> anyhow::Result<()> {
    let answer = post(dir, format!("/v1/models/{}/rollback", args.model), json!({})).await?;
    println!("{} is back at version {} from offset {}", args.model, cell(&answer["version"]), cell(&answer["offset"]));
    Ok(())
}

pub async fn runs(dir: &Path, args: RunsArgs) -> anyhow::Result<()> {
    if let Some(run) = args.run {
        let answer = get(dir, format!("/v1/runs/{run}")).await?;
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    let model = args.model.map(|m| format!("&model={m}")).unwrap_or_default();
    let answer = get(dir, format!("/v1/runs?limit={}{model}", args.limit)).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    let mut out = table(&["run", "kind", "model", "status", "trigger", "figure", "started", "error"]);
    for r in rows(&answer, "runs") {
        out.add_row([
            cell(&r["id"]),
            cell(&r["kind"]),
            cell(&r["model"]),
            cell(&r["status"]),
            cell(&r["tags"]["trigger"]),
            lead_figure(&r["metrics"]),
            cell(&r["started_at"]),
            cell(&r["error"]),
        ]);
    }
    println!("{out}");
    Ok(())
}

pub async fn alerts(dir: &Path, args: AlertsArgs) -> anyhow::Result<()> {
    let answer = get(dir, format!("/v1/alerts?limit={}", args.limit)).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    let mut out = table(&["at", "monitor", "model", "signal", "subject", "value", "threshold", "action"]);
    for a in rows(&answer, "alerts") {
        let columns = ["at", "monitor", "model", "signal", "subject", "value", "threshold", "action"];
        out.add_row(columns.map(|c| cell(&a[c])));
    }
    println!("{out}");
    Ok(())
}
