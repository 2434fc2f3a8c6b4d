//! `kilter import`: what other programs stored, brought over.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::ValueEnum;
use indicatif::ProgressBar;
use kilter_tracking::{Clashes, Differences, ImportReport, MlflowImport, Tracking};

use super::{grouped, table};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    from: From,
}

#[derive(clap::Subcommand)]
enum From {
    /// Brings an MLflow tracking store over: experiments, runs, metrics, models, traces and artifacts.
    ///
    /// The source is only read, also while its server is at work. Ended at any time or run again, the same command brings what is not here yet. No server may
    /// have the folder of --data open meanwhile, unless the store is on PostgreSQL. Ends with 1 where what is here is not what is there.
    Mlflow(Mlflow),
}

#[derive(clap::Args)]
struct Mlflow {
    /// The SQLite file (`mlflow.db`, `sqlite:///mlflow.db`), the database of PostgreSQL (`postgresql://USER@HOST:PORT/NAME`, its password from the environment
    /// variable PGPASSWORD), or the folder of the file store (`mlruns`).
    #[arg(value_name = "PATH_OR_URI")]
    source: String,
    /// Folder to bring it to, as of `kilter tracking`; made where it is missing. That of a project is `tracking` in its data folder.
    #[arg(long, value_name = "FOLDER", default_value = "tracking")]
    data: PathBuf,
    /// Database of PostgreSQL to bring it to, as of `kilter tracking`; artifacts go to the folder. Else the environment variable KILTER_TRACKING_DATABASE.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Where artifacts are that the store says to be at `mlflow-artifacts:/`, that were moved, or that lie outside of the folder of the source; otherwise
    /// `mlartifacts` and `mlruns` beside the file are looked into. May be given more than once.
    #[arg(long, value_name = "FOLDER")]
    artifacts: Vec<PathBuf>,
    /// What happens to experiments and registered models whose names others have here already.
    #[arg(long, value_enum, default_value = "refuse")]
    clashes: OnClash,
    /// What happens to values that are here already and are others in the source: of tags, aliases, stages, states, artifact files
    /// and the like.
    #[arg(long, value_enum, default_value = "keep")]
    differences: OnDifference,
}

#[derive(Clone, Copy, ValueEnum)]
enum OnDifference {
    /// What is here stays; they are counted, and the command ends with 1.
    Keep,
    /// Those of the source are taken.
    Take,
}

#[derive(Clone, Copy, ValueEnum)]
enum OnClash {
    /// Nothing is brought over.
    Refuse,
    /// They are left out, with all that belongs to them.
    Skip,
    /// They become `NAME (imported)`.
    Rename,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let From::Mlflow(args) = args.from;
    let clashes = match args.clashes {
        OnClash::Refuse => Clashes::Refuse,
        OnClash::Skip => Clashes::Skip,
        OnClash::Rename => Clashes::Rename,
    };
    let differences = match args.differences {
        OnDifference::Keep => Differences::Keep,
        OnDifference::Take => Differences::Take,
    };
    if let Some(folder) = args.artifacts.iter().find(|folder| !folder.is_dir()) {
        anyhow::bail!("there is no folder {}\n  hint: --artifacts names what `mlflow-artifacts:/` is", folder.display());
    }
    let import = MlflowImport { source: args.source, artifacts: args.artifacts, clashes, differences };
    // Before anything is made for it.
    import.check().await.with_context(|| format!("cannot bring {} over", import.source_name()))?;
    let database = args.database.or_else(super::tracking::database_of_environment);
    let artifacts = super::tracking::artifacts_at(None, &Default::default());
    let tracking = Tracking::open_at(&args.data, database.as_deref(), artifacts.as_ref()).await;
    let tracking = tracking.with_context(|| match &database {
        Some(_) => "cannot open the tracking store".to_string(),
        None => format!("cannot open {}", args.data.display()),
    })?;
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    let done = tracking.import_mlflow(&import, |what, count| {
        bar.set_message(format!("{} {what}", grouped(count)));
        bar.tick();
    });
    let done = done.await;
    bar.finish_and_clear();
    tracking.close().await;
    let report = done.with_context(|| format!("cannot bring {} over", import.source_name()))?;
    print(&report);
    for what in &report.lacking {
        eprintln!("error: {what}");
    }
    if report.lines.iter().any(|line| line.missing() > 0) {
        eprintln!("error: not everything that is in the source is here\n  hint: it may have changed meanwhile: run the same command again");
    }
    let differing: u64 = report.lines.iter().map(|line| line.differing).sum();
    if differing > 0 {
        let hint = match args.differences {
            OnDifference::Keep => "`--differences take` takes those of the source",
            OnDifference::Take => "others here have their names, numbers or places: change these on one side",
        };
        eprintln!("error: left as they are here, with other values than in the source: {}\n  hint: {hint}", grouped(differing));
    }
    if !report.agrees() {
        return Ok(ExitCode::FAILURE);
    }
    let on = if database.is_some() { ", on the same database" } else { "" };
    println!("next: kilter tracking --data {}{on}", args.data.display());
    Ok(ExitCode::SUCCESS)
}

fn print(report: &ImportReport) {
    let mut lines = table(&["", "in the source", "here", "left out", "because"]);
    for line in &report.lines {
        let mut because: Vec<String> = line.left.iter().map(|(why, count)| format!("{}: {why}", grouped(*count))).collect();
        if line.missing() > 0 {
            because.push(format!("{} do not agree", grouped(line.missing())));
        }
        if line.differing > 0 {
            because.push(format!("{} have other values than in the source", grouped(line.differing)));
        }
        let left: u64 = line.left.iter().map(|(_, count)| count).sum();
        lines.add_row(vec![line.what.to_string(), grouped(line.source), grouped(line.here), grouped(left), because.join("\n")]);
    }
    println!("{lines}");
    for note in &report.notes {
        println!("note: {note}");
    }
}
