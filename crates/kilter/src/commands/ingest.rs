//! `kilter ingest`: file sources into the log and through the pipeline.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use kilter_core::SourceId;
use kilter_runtime::files::{Pace, Progress, file_sources, stream};
use kilter_runtime::{Service, ServiceError, StartOptions};

use crate::api::load;
use crate::commands::grouped;

#[derive(clap::Args)]
pub struct Args {
    /// Only these sources; all file sources otherwise.
    sources: Vec<String>,
    /// Read a source from another file than the definitions name; may be given several times.
    #[arg(long, value_name = "SOURCE=FILE", value_parser = source_path)]
    path: Vec<(String, PathBuf)>,
    /// Replay at so many times real time instead of as fast as possible.
    #[arg(long, value_name = "N")]
    speed: Option<f64>,
    /// The closing figures as JSON.
    #[arg(long)]
    json: bool,
}

fn source_path(text: &str) -> Result<(String, PathBuf), String> {
    let (source, path) = text.split_once('=').ok_or("write SOURCE=FILE")?;
    Ok((source.to_string(), PathBuf::from(path)))
}

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<()> {
    if let Some(speed) = args.speed {
        anyhow::ensure!(speed > 0.0 && speed.is_finite(), "--speed must be above 0, not {speed}");
    }
    let mut project = load(dir)?;
    for (name, path) in &args.path {
        let source = project.plan.source(name).filter(|s| project.source_file(*s).is_some());
        let source = source.ok_or_else(|| anyhow::anyhow!("the project has no file source `{name}`"))?;
        let here = std::path::absolute(path).with_context(|| format!("`{}` is no path", path.display()))?;
        project.set_source_file(source, here);
    }
    let known = file_sources(&project);
    anyhow::ensure!(
        !known.is_empty(),
        "the project has no file sources\n  hint: give a source `connector = \"file\"` and a `path`, or push events to POST /v1/events/SOURCE"
    );
    let service = Service::start(project, StartOptions::default()).await?;
    let mut only: Vec<SourceId> = Vec::new();
    for name in &args.sources {
        let source = service.source(name).map_err(|e| match &e {
            ServiceError::NotFound { hint: Some(hint), .. } => anyhow::anyhow!("{e}\n  hint: {hint}"),
            _ => e.into(),
        })?;
        anyhow::ensure!(known.contains(&source), "source `{name}` is not read from a file");
        only.push(source);
    }
    let bar = if std::io::stderr().is_terminal() && !args.json { ProgressBar::new(1000) } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("{bar:40} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
    let started = Instant::now();
    let pace = args.speed.map_or(Pace::AsFastAsPossible, Pace::TimesReal);
    let done = stream(&service, &only, pace, |p: &Progress| {
        bar.set_position((p.share * 1000.0) as u64);
        let rate = p.accepted as f64 / started.elapsed().as_secs_f64();
        let at = p.event_time.map(|t| t.to_string()).unwrap_or_default();
        bar.set_message(format!("{} events, {} a second, at {at}", grouped(p.accepted), grouped(rate as u64)));
    })
    .await?;
    bar.finish_and_clear();
    let seconds = started.elapsed().as_secs_f64();
    let decisions: u64 = service.status.decisions().values().sum();
    service.shutdown().await?;
    let rate = done.accepted as f64 / seconds;
    if args.json {
        let figures = serde_json::json!({
            "rows": done.rows, "accepted": done.accepted, "duplicates": done.duplicates, "late": done.late,
            "rejected": done.rejected, "ignored": done.ignored, "resumed": done.resumed, "decisions": decisions,
            "seconds": seconds, "events_per_second": rate,
        });
        println!("{}", serde_json::to_string_pretty(&figures)?);
        return Ok(());
    }
    println!("{} events in {seconds:.1} s ({} a second), {} decisions", grouped(done.accepted), grouped(rate as u64), grouped(decisions));
    for (n, what) in [
        (done.resumed, "were in the log already"),
        (done.duplicates, "duplicates"),
        (done.late, "too late for any window (kept in the log, listed by `kilter dead-letters`)"),
        (done.rejected, "rejected (listed by `kilter dead-letters`)"),
        (done.ignored, "messages that tell of no row (heartbeats, tombstones and the like)"),
    ] {
        if n > 0 {
            println!("{} {what}", grouped(n));
        }
    }
    Ok(())
}
