//! `kilter boot`: a data folder that goes on from a state made elsewhere.

use std::path::{Path, PathBuf};

use kilter_runtime::boot;

use crate::api::load;
use crate::commands::grouped;

#[derive(clap::Args)]
pub struct Args {
    /// Folder with the parts of the state: Parquet files, as `kilter.spark.backfill` writes them.
    #[arg(long, value_name = "FOLDER")]
    from: PathBuf,
}

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<()> {
    let project = load(dir)?;
    let booted = boot::boot(&project, &args.from).await?;
    println!("the log begins at offset {}, behind the events of the state", grouped(booted.offset));
    if let Some(latest) = booted.latest {
        println!("the latest of them happened at {latest}");
    }
    for (view, entities) in booted.entities {
        println!("  {view}: {} entities", grouped(entities as u64));
    }
    for source in project.source_settings.iter().filter(|source| source.path.is_some()) {
        println!("note: source `{}` reads a file, from its start: it must hold only what the state does not", source.name);
    }
    println!("next: kilter up");
    Ok(())
}
