//! `kilter erase`: an entity leaves the log and everything computed of it; a record of proof stays.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kilter_core::Clock;
use kilter_runtime::erase::{self, Check, FEWEST_BYTES, Key, Proof, Request};
use kilter_runtime::project::Project;
use kilter_runtime::{Data, SystemClock};

use crate::api::{is_locked, load};
use crate::commands::{grouped, table};

/// Nothing to erase, or not all of it gone.
const NOT_AS_WISHED: u8 = 3;
/// Offsets shown; all are in the proof.
const LISTED: usize = 20;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  kilter erase --entity customer=42 --dry-run
  kilter erase --entity customer=42 --reason \"request 2026-17\"
  kilter erase --entity customer=c-42 --entity client_id=c-42 --source payments --source calls
  kilter erase --verify kilter-data/erasures/9f2c6c1e0b7d4a55.json

Ends with 0 when it is done, or when --verify finds nothing; with 3 when there is nothing to erase, or --verify finds something.
More: docs/guide/erasing.md")]
pub struct Args {
    /// The entity: a column and its value. Several times for an entity that other columns name too.
    #[arg(long, value_name = "COLUMN=VALUE", value_parser = Key::parse, required_unless_present = "verify")]
    entity: Vec<Key>,
    /// Only events of this source; may be given several times. All sources with such a column when left out.
    #[arg(long, value_name = "SOURCE", conflicts_with = "verify")]
    source: Vec<String>,
    /// Why, for the record of proof. Not the entity's name.
    #[arg(long, value_name = "TEXT", conflicts_with = "verify")]
    reason: Option<String>,
    /// Show what would be erased; change nothing.
    #[arg(long, conflicts_with = "verify")]
    dry_run: bool,
    /// Forget the ids of erased events too: the same event sent again is then new.
    #[arg(long, conflicts_with = "verify")]
    forget_ids: bool,
    /// Where the record of proof goes; a file in the data folder's `erasures` when left out.
    #[arg(long, value_name = "FILE", conflicts_with = "verify")]
    proof: Option<PathBuf>,
    /// Search again by a record of proof. With --entity every byte of the data folder is searched for it as well.
    #[arg(long, value_name = "PROOF")]
    verify: Option<PathBuf>,
    /// The record of proof, or what the search found, as JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let project = load(dir)?;
    if !project.data_dir().join("events").is_dir() {
        anyhow::bail!("there is no data in {}: nothing to erase", project.data_dir().display());
    }
    let data = open(&project).await?;
    for repair in &data.repairs {
        eprintln!("note: {repair}");
    }
    match args.verify.clone() {
        Some(path) => verify(data, &path, args).await,
        None => erase(data, project, args).await,
    }
}

async fn open(project: &Project) -> anyhow::Result<Data> {
    Data::open(project).await.map_err(|e| match is_locked(&e) {
        true => anyhow::anyhow!("a running kilter has the project open\n  hint: stop it first; erasing rewrites the log under it"),
        false => e,
    })
}

async fn erase(data: Data, project: Project, args: Args) -> anyhow::Result<ExitCode> {
    let Args { entity: keys, source: sources, reason, dry_run, forget_ids, proof, json, .. } = args;
    let request = Request { keys, sources, reason, forget_ids, proof };
    let now = SystemClock.now();
    let (data, project, request, journal) = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        let journal = erase::find(&data, &project, &request, now)?;
        Ok((data, project, request, journal))
    })
    .await??;
    let counts = &journal.proof.counts;
    if counts.events + counts.dead_letters == 0 {
        println!("nothing found: no event and no dead letter {}", of(&request));
        return Ok(ExitCode::from(NOT_AS_WISHED));
    }
    if dry_run {
        match json {
            true => println!("{}", serde_json::to_string_pretty(&journal.proof)?),
            false => {
                show(&journal.proof);
                println!("nothing was changed (--dry-run)");
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let path = erase::begin(data, &request, journal, now).await?;
    let proof = erase::complete(&project, &path, &request.keys).await?;
    let clean = proof.check.as_ref().is_some_and(Check::is_clean);
    match json {
        true => println!("{}", serde_json::to_string_pretty(&proof)?),
        false => {
            show(&proof);
            if let Some(check) = &proof.check {
                let counts = &proof.counts;
                println!("dropped to be computed again: {} snapshots, {} state files", counts.snapshots, counts.state_files);
                println!("dropped: {} buckets of monitors, {} files of runs that told of single rows", counts.readings, counts.evaluations);
                show_check(check, &request.keys);
            }
            println!("record of proof: {}", path.display());
        }
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::from(NOT_AS_WISHED) })
}

async fn verify(data: Data, path: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let proof = Proof::read(path)?;
    let Args { entity: keys, json, .. } = args;
    let (check, keys) = tokio::task::spawn_blocking(move || erase::verify(&data, &proof, &keys).map(|check| (check, keys))).await??;
    match json {
        true => println!("{}", serde_json::to_string_pretty(&check)?),
        false => show_check(&check, &keys),
    }
    Ok(if check.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(NOT_AS_WISHED) })
}

fn of(request: &Request) -> String {
    let keys: Vec<String> = request.keys.iter().map(|k| format!("{}={}", k.column, k.value)).collect();
    let sources = if request.sources.is_empty() { String::new() } else { format!(" in {}", request.sources.join(", ")) };
    format!("has {}{sources}", keys.join(" or "))
}

fn show(proof: &Proof) {
    let counts = &proof.counts;
    let mut out = table(&["place", "records"]);
    for (source, n) in &counts.by_source {
        out.add_row([format!("events of {source}"), grouped(*n)]);
    }
    out.add_row(["decisions on them".to_string(), grouped(counts.decisions)]);
    out.add_row(["dead letters".to_string(), grouped(counts.dead_letters)]);
    println!("{out}");
    if counts.linked_events > 0 {
        println!("of the events {} name only a record of the entity: labels, changes of a row", grouped(counts.linked_events));
    }
    if counts.shared_keys > 0 {
        println!("{} keys of such records are others' too: what is told of them stays", grouped(counts.shared_keys));
    }
    let offsets: Vec<String> = proof.events.iter().take(LISTED).map(|p| p.offset.to_string()).collect();
    let more = if proof.events.len() > LISTED { ", ..." } else { "" };
    println!("offsets in the event log: {}{more}", offsets.join(", "));
    for model in &proof.models {
        let aliases = if model.aliases.is_empty() { String::new() } else { format!(" ({})", model.aliases.join(", ")) };
        println!(
            "model {} version {}{aliases} may have learned from it: trained on {} to {}; `kilter train {}` makes another",
            model.model,
            model.version,
            model.trained_from.as_deref().unwrap_or("the start"),
            model.trained_to.as_deref().unwrap_or("an unknown end"),
            model.model
        );
    }
    println!("not reached:");
    proof.not_reached.iter().for_each(|what| println!("  {what}"));
}

fn show_check(check: &Check, keys: &[Key]) {
    let found = check.found_events + check.found_decisions + check.found_dead_letters + check.not_stubs;
    println!(
        "searched {} events, {} decisions, {} dead letters: {}",
        grouped(check.events_searched),
        grouped(check.decisions_searched),
        grouped(check.dead_letters_searched),
        if found == 0 { "nothing found".to_string() } else { format!("FOUND {} records", grouped(found)) }
    );
    if check.not_stubs > 0 {
        println!("{} erased records are back: the log was changed since", grouped(check.not_stubs));
    }
    if check.newer_events + check.newer_dead_letters > 0 {
        println!(
            "{} events and {} dead letters came after the erasure: a new beginning",
            grouped(check.newer_events),
            grouped(check.newer_dead_letters)
        );
    }
    if check.bytes_searched {
        match check.files.is_empty() {
            true => println!("searched every byte of the data folder for the key: nothing found"),
            false => println!("the key stands in: {}", check.files.join(", ")),
        }
    } else if keys.iter().all(|k| k.value.len() >= FEWEST_BYTES) && !keys.is_empty() {
        println!("other sources may hold the key: the data folder was not searched byte by byte");
    } else if !keys.is_empty() {
        println!("a key of fewer than {FEWEST_BYTES} characters is not searched for byte by byte: it would be found everywhere");
    }
}
