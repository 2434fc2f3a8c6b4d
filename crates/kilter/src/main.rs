//! The kilter program: commands, and the place where the parts are put together.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod api;
mod commands;
mod demo;
mod generate;
mod sql;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, anyhow};
use clap::{Parser, Subcommand};
use kilter_store::threads;
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Turns a stream of events into fresh, explained decisions, and keeps the model that makes them in kilter.
#[derive(Parser)]
#[command(name = "kilter", version, max_term_width = 110)]
struct Cli {
    /// The project's folder, with its kilter.toml.
    #[arg(short = 'C', long = "project", global = true, default_value = ".", value_name = "FOLDER")]
    project: PathBuf,
    /// What to log: error, warn, info, debug, or a filter such as `kilter_runtime=debug`. KILTER_LOG does the same.
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows the whole loop on a synthetic lender: events, features, models, decisions, drift, retraining.
    Demo(demo::Args),
    /// Makes a new project folder.
    New(commands::new::Args),
    /// Reads the definitions and shows everything that is wrong with them, or what they come to.
    Check(commands::check::Args),
    /// Shows what the changed definitions would do: added, changed and dropped, to be filled from the log, how large and how long.
    Plan(commands::plan::Args),
    /// Makes the running server take up the changed definitions without a stop.
    Apply(commands::apply::Args),
    /// Runs the project: HTTP server, file sources, schedules and monitors.
    Up(commands::up::Args),
    /// Runs one of several processes that share a project's entities over Kafka.
    Worker(commands::worker::Args),
    /// Runs a tracking server for MLflow's clients alone, without a project.
    Tracking(commands::tracking::Args),
    /// Makes, lists and revokes keys, by which the server tells who may do what.
    Key(commands::key::Args),
    /// Brings over what another program stored: `kilter import mlflow` an MLflow tracking store.
    Import(commands::import::Args),
    /// Makes the data folder of a project from a state made elsewhere, such as by `kilter.spark.backfill`.
    Boot(commands::boot::Args),
    /// Streams the project's file sources into the log and through the pipeline, then stops.
    Ingest(commands::ingest::Args),
    /// Shows how the project is doing: what became of all events, by source, view and reason.
    Status(commands::status::Args),
    /// Shows what is known of entities, now or at a moment of the past.
    Features(commands::features::Args),
    /// Trains a model on the past of the log.
    Train(commands::train::Args),
    /// Writes features as they were known at each row of a spine, for training elsewhere: Parquet, CSV, NDJSON.
    TrainingSet(commands::training_set::Args),
    /// Trains and tests a model on one stretch of time after another.
    Backtest(commands::backtest::Args),
    /// Lists models and their versions, takes in model files from elsewhere and gives them out.
    Models(commands::registry::ModelsArgs),
    /// Puts a model version into service.
    Promote(commands::registry::PromoteArgs),
    /// Goes back to the champion before this one.
    Rollback(commands::registry::RollbackArgs),
    /// Lists runs, or shows one with its parameters, metrics and artifacts.
    Runs(commands::registry::RunsArgs),
    /// Lists the newest decisions, or shows one with its reasons.
    Decisions(commands::decisions::Args),
    /// Answers questions in SQL about what the project keeps.
    Sql(commands::sql::Args),
    /// Rebuilds decisions from the log and compares them with their records, to the last bit.
    Replay(commands::replay::Args),
    /// Removes an entity from the log and from everything computed of it, with a record of proof.
    Erase(commands::erase::Args),
    /// Shows the lake, or takes in what waits and tidies it.
    Lake(commands::lake::Args),
    /// Sets damaged ends of the logs aside, so that a project whose log is refused can start again.
    Repair(commands::repair::Args),
    /// Lists events and bodies that were turned away, with the reason.
    DeadLetters(commands::dead_letters::Args),
    /// Lists what the monitors raised.
    Alerts(commands::registry::AlertsArgs),
    /// Writes synthetic data: a lender's events or card transactions.
    Generate(commands::generate::Args),
    /// Prints the JSON Schema of kilter.toml, for editors.
    Schema,
}

fn main() -> ExitCode {
    end_quietly_with_the_pipe();
    let cli = Cli::parse();
    start_logging(&cli);
    let done = runtime(matches!(&cli.command, Command::Up(args) if args.real_time)).and_then(|runtime| runtime.block_on(run(cli)));
    match done {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Threads for all that waits, which decisions go through, as they do through this one; `first`: they run before everything else.
fn runtime(first: bool) -> anyhow::Result<Runtime> {
    if first {
        let hint = "hint: start it with CAP_SYS_NICE (systemd: AmbientCapabilities=CAP_SYS_NICE) or a limit of real-time priority of 1 (LimitRTPRIO=1, ulimit -r 1)";
        threads::allow_running_first().map_err(|e| anyhow!("--real-time: this process may not use SCHED_RR: {e}\n  {hint}"))?;
    }
    threads::decides();
    let (workers, begun) = (std::thread::available_parallelism()?.get(), AtomicUsize::new(0));
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // The workers begin with the runtime; threads that begin later do work that may wait.
    runtime.worker_threads(workers).on_thread_start(move || {
        if begun.fetch_add(1, Ordering::Relaxed) < workers {
            threads::decides();
        } else {
            threads::anywhere();
        }
    });
    runtime.enable_all().build().context("cannot start")
}

/// `kilter decisions | head` closes the pipe while there is more to print: that is the reader's choice, not an error.
fn end_quietly_with_the_pipe() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to stdout") && text.contains("Broken pipe") {
            std::process::exit(0);
        }
        default(panic);
    }));
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let dir = cli.project;
    let done = match cli.command {
        Command::Demo(args) => demo::run(args).await,
        Command::New(args) => commands::new::run(args),
        Command::Check(args) => return commands::check::run(&dir, args),
        Command::Plan(args) => return commands::plan::run(&dir, args).await,
        Command::Apply(args) => commands::apply::run(&dir, args).await,
        Command::Up(args) => commands::up::run(&dir, args).await,
        Command::Worker(args) => commands::worker::run(&dir, args).await,
        Command::Tracking(args) => commands::tracking::run(args).await,
        Command::Key(args) => commands::key::run(&dir, args).await,
        Command::Import(args) => return commands::import::run(args).await,
        Command::Boot(args) => commands::boot::run(&dir, args).await,
        Command::Ingest(args) => commands::ingest::run(&dir, args).await,
        Command::Status(args) => commands::status::run(&dir, args).await,
        Command::Features(args) => commands::features::run(&dir, args).await,
        Command::Train(args) => commands::train::run(&dir, args).await,
        Command::TrainingSet(args) => commands::training_set::run(&dir, args).await,
        Command::Backtest(args) => commands::backtest::run(&dir, args).await,
        Command::Models(args) => commands::registry::models(&dir, args).await,
        Command::Promote(args) => commands::registry::promote(&dir, args).await,
        Command::Rollback(args) => commands::registry::rollback(&dir, args).await,
        Command::Runs(args) => commands::registry::runs(&dir, args).await,
        Command::Decisions(args) => commands::decisions::run(&dir, args).await,
        Command::Sql(args) => commands::sql::run(&dir, args).await,
        Command::Replay(args) => return commands::replay::run(&dir, args).await,
        Command::Lake(args) => commands::lake::run(&dir, args).await,
        Command::Erase(args) => return commands::erase::run(&dir, args).await,
        Command::Repair(args) => commands::repair::run(&dir, args),
        Command::DeadLetters(args) => commands::dead_letters::run(&dir, args).await,
        Command::Alerts(args) => commands::registry::alerts(&dir, args).await,
        Command::Generate(args) => commands::generate::run(args),
        Command::Schema => {
            println!("{}", serde_json::to_string_pretty(&kilter_runtime::project::json_schema())?);
            Ok(())
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn start_logging(cli: &Cli) {
    // Long-running commands tell what happens; the others speak through their output.
    let default = if matches!(cli.command, Command::Up(_) | Command::Worker(_) | Command::Tracking(_)) { "info" } else { "error" };
    let filter = cli.log.clone().or_else(|| std::env::var("KILTER_LOG").ok()).unwrap_or_else(|| default.into());
    let filter = tracing_subscriber::EnvFilter::try_new(&filter).unwrap_or_else(|e| {
        eprintln!("warning: log filter `{filter}` is not valid ({e}); using `{default}`");
        tracing_subscriber::EnvFilter::new(default)
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
