//! `kilter models import` and `kilter models export`: model files from elsewhere and for elsewhere, and what MLflow's clients logged.

use std::path::{Path, PathBuf};

use anyhow::Context;
use kilter_learn::exchange::Format;

use crate::api::{Api, Client};
use crate::commands::registry::versioned;
use crate::commands::{cell, judged, logged};

#[derive(clap::Subcommand)]
pub enum Task {
    /// Takes in a model that LightGBM, XGBoost, CatBoost, an ONNX converter or Kilter saved, as a version of one of the project's models.
    Import(ImportArgs),
    /// Writes a version's model file.
    Export(ExportArgs),
}

#[derive(clap::Args)]
pub struct ImportArgs {
    /// The model of the project that the file is to be a version of.
    model: String,
    /// The file: LightGBM's text, XGBoost's JSON or UBJSON, CatBoost's JSON, ONNX, or Kilter's own. Or a model that an MLflow client logged with this
    /// project, in the flavors lightgbm, xgboost and onnx: models:/NAME@ALIAS, models:/NAME/VERSION, models:/ID, runs:/RUN/PATH.
    file: PathBuf,
    /// Put the new version into service.
    #[arg(long, conflicts_with = "no_promote")]
    promote: bool,
    /// Leave the champion in service, as without this.
    #[arg(long)]
    no_promote: bool,
    /// Take the file's inputs in the order of the model's, whatever they are called there.
    #[arg(long)]
    by_position: bool,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct ExportArgs {
    /// The model's name, or `name@version`; the version in service otherwise.
    model: String,
    /// Where to write.
    file: PathBuf,
    /// As what; by the file's ending otherwise: `lightgbm` (.txt), `xgboost-json` (.json) and `onnx` for boosted trees, `onnx` for a forest or a
    /// logistic regression, `pmml` for a scorecard, `kilter` for every model.
    #[arg(long, value_parser = ["kilter", "lightgbm", "xgboost-json", "onnx", "pmml"])]
    format: Option<String>,
}

pub async fn run(dir: &Path, task: Task) -> anyhow::Result<()> {
    match task {
        Task::Import(args) => import(dir, args).await,
        Task::Export(args) => export(dir, args).await,
    }
}

async fn import(dir: &Path, args: ImportArgs) -> anyhow::Result<()> {
    let uri = args.file.to_str().filter(|name| logged::is_uri(name)).map(str::to_string);
    let bytes = match uri {
        Some(_) => Vec::new(),
        None => std::fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?,
    };
    let name = args.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (path, promote) = (format!("/v1/models/{}/versions", args.model), if args.promote { "always" } else { "never" });
    let by_position = args.by_position.to_string();
    let post = move |client: Client| {
        let (name, bytes) = match uri {
            Some(uri) => {
                let (file, bytes) = logged::fetch(&client, &uri)?;
                (format!("{uri} ({file})"), bytes)
            }
            None => (name, bytes),
        };
        client.post_file(&path, &[("file", &name), ("promote", promote), ("by_position", &by_position)], &bytes)
    };
    let report = ask(dir, post).await.with_context(|| format!("{} was not imported", args.file.display()))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    println!("{} version {} (run {})", cell(&report["model"]), cell(&report["version"]), cell(&report["run"]));
    let told = [&report["format"], &report["program_version"], &report["objective"]].map(cell);
    println!(
        "  from        {} ({})",
        cell(&report["file"]),
        told.iter().filter(|word| !word.is_empty()).cloned().collect::<Vec<_>>().join(", ")
    );
    println!("  sha256      {}", cell(&report["sha256"]));
    for note in report["notes"].as_array().into_iter().flatten() {
        println!("  note        {}", cell(note));
    }
    for (name, key) in [("recent  ", "recent"), ("champion", "champion")] {
        if let Some(figures) = judged(&report[key]) {
            println!("  {name}    {figures}");
        }
    }
    if !report["recent"].is_null() {
        println!("              the file may have learned from rows that it is judged on here");
    }
    println!("  drift       is measured against {} observations of the model's window", cell(&report["reference_rows"]));
    let verb = if report["promote"].as_bool() == Some(true) { "in service" } else { "not in service" };
    println!("  {verb}: {}", cell(&report["verdict"]));
    Ok(())
}

async fn export(dir: &Path, args: ExportArgs) -> anyhow::Result<()> {
    let (model, version) = versioned(&args.model)?;
    let by_name = || Format::by_file_name(&args.file.to_string_lossy()).map_or("kilter", Format::name).to_string();
    let format = args.format.clone().unwrap_or_else(by_name);
    let asked = format.clone();
    let (version, bytes) = ask(dir, move |client| {
        let version = match version {
            Some(version) => version,
            None => {
                let in_service = client.get(&format!("/v1/models/{model}"))?["in_service"].as_u64();
                let missing = || anyhow::anyhow!("model `{model}` has no version in service\n  hint: name one: {model}@1");
                in_service.ok_or_else(missing)? as u32
            }
        };
        let bytes = client.get_file(&format!("/v1/models/{model}/versions/{version}/file?format={asked}"))?;
        Ok((version, bytes))
    })
    .await?;
    // A file that is there already stays whole until the new one is.
    let mut partial = args.file.clone().into_os_string();
    partial.push(".partial");
    let written = std::fs::write(&partial, &bytes).and_then(|()| std::fs::rename(&partial, &args.file));
    written.with_context(|| format!("cannot write {}", args.file.display()))?;
    println!("version {version} written to {} ({} bytes, {})", args.file.display(), bytes.len(), format);
    Ok(())
}

/// Asks the project's server and closes what was opened for it.
async fn ask<T: Send + 'static>(dir: &Path, question: impl FnOnce(Client) -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<T> {
    let api = Api::open(dir).await?;
    let client = api.client.clone();
    let answer = tokio::task::spawn_blocking(move || question(client)).await?;
    api.close().await?;
    answer
}
