//! `kilter train`: one training on the past of the log.

use std::path::Path;

use kilter_core::EventTime;
use serde_json::json;

use crate::api::Api;
use crate::commands::{cell, judged, parse_time};

#[derive(clap::Args)]
pub struct Args {
    /// The model to train.
    model: String,
    /// Observations from this time on; the model's window otherwise.
    #[arg(long, value_parser = parse_time)]
    from: Option<EventTime>,
    /// Observations before this time; as late as labels have matured otherwise.
    #[arg(long, value_parser = parse_time)]
    to: Option<EventTime>,
    /// Put the new version into service whatever the comparison says.
    #[arg(long, conflicts_with = "no_promote")]
    promote: bool,
    /// Leave the champion in service whatever the comparison says.
    #[arg(long)]
    no_promote: bool,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<()> {
    let api = Api::open(dir).await?;
    let client = api.client.clone();
    let promote = match (args.promote, args.no_promote) {
        (true, _) => "always",
        (_, true) => "never",
        _ => "rule",
    };
    let body = json!({ "from": args.from.map(|t| t.to_string()), "to": args.to.map(|t| t.to_string()), "promote": promote });
    let path = format!("/v1/models/{}/train", args.model);
    let report = tokio::task::spawn_blocking(move || client.post(&path, body.to_string().as_bytes())).await?;
    api.close().await?;
    let report = report?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!("{} version {} (run {})", cell(&report["model"]), cell(&report["version"]), cell(&report["run"]));
    println!("  trained on  {} rows, {} to {}", cell(&report["train_rows"]), cell(&report["trained_from"]), cell(&report["trained_to"]));
    let searched = &report["searched"];
    if !searched.is_null() {
        let chosen: Vec<String> =
            searched["settings"].as_object().into_iter().flatten().map(|(name, value)| format!("{name} {}", cell(value))).collect();
        let chosen = if chosen.is_empty() { "the settings as declared".into() } else { chosen.join(", ") };
        println!(
            "  searched    {} fits: loss {} with {chosen}; {} as declared",
            cell(&searched["fits"]),
            cell(&searched["loss_of_chosen"]),
            cell(&searched["loss_as_declared"])
        );
    }
    for (name, key) in [("held out", "holdout"), ("champion", "champion")] {
        if let Some(figures) = judged(&report[key]) {
            println!("  {name}    {figures}");
        }
    }
    if report["unmatured"].as_u64().is_some_and(|n| n > 0) {
        println!("  left out    {} observations whose label is not known yet", cell(&report["unmatured"]));
    }
    let verb = if report["promote"].as_bool() == Some(true) { "in service" } else { "not in service" };
    println!("  {verb}: {}", cell(&report["verdict"]));
    Ok(())
}
