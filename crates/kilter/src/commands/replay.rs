//! `kilter replay`: would the same events lead to the same decisions?

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use indicatif::ProgressBar;
use kilter_runtime::audit::{audit_log, recorded, replay_one};
use kilter_runtime::project::Project;
use kilter_runtime::{Data, audit::Replayed};

use crate::api::{is_locked, load};
use crate::commands::grouped;

#[derive(clap::Args)]
pub struct Args {
    /// The decision to replay, such as loan-12345.
    #[arg(required_unless_present = "all")]
    id: Option<String>,
    /// Replay every decision of the log.
    #[arg(long, conflicts_with = "id")]
    all: bool,
    /// Rebuild state from the start of the log, not from the newest snapshot before the decision.
    #[arg(long)]
    full: bool,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
}

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let project = load(dir)?;
    let data = Data::open(&project).await.map_err(|e| match is_locked(&e) {
        true => anyhow::anyhow!(
            "a running kilter has the project open\n  hint: ask it (POST /v1/decisions/ID/replay), or stop it for a replay of many decisions"
        ),
        false => e,
    })?;
    let data = Arc::new(data);
    tokio::task::spawn_blocking(move || if args.all { all(&data, &project, &args) } else { one(&data, &project, &args) }).await?
}

fn all(data: &Data, project: &Project, args: &Args) -> anyhow::Result<ExitCode> {
    let bar = if std::io::stderr().is_terminal() && !args.json { ProgressBar::new(1) } else { ProgressBar::hidden() };
    let started = Instant::now();
    let report = audit_log(data, project, |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!(
            "{} decisions replayed over {} events{} in {:.1} s: {} differ",
            grouped(report.checked),
            grouped(report.events),
            if report.definitions > 1 { format!(" under {} definitions, each of its day,", report.definitions) } else { String::new() },
            started.elapsed().as_secs_f64(),
            grouped(report.mismatches)
        );
        if report.other_definitions > 0 {
            println!("{} decisions were made under definitions that cannot be replayed:", grouped(report.other_definitions));
            report.not_replayable.iter().for_each(|reason| println!("  {reason}"));
        }
        for (id, difference) in &report.details {
            println!("  {id}: {difference}");
        }
        if report.inputs_erased > 0 {
            println!("{} cannot be reproduced: events behind their inputs were erased", grouped(report.inputs_erased));
            for (id, difference) in &report.inputs_erased_details {
                println!("  {id}: {difference}");
            }
        }
        if report.erased > 0 {
            println!("{} decisions were erased with their events", grouped(report.erased));
        }
    }
    Ok(if report.mismatches == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn one(data: &Data, project: &Project, args: &Args) -> anyhow::Result<ExitCode> {
    let id = args.id.as_deref().unwrap_or_default();
    let old = recorded(data, id)?;
    let own;
    // A decision is judged by the rules of its day.
    let plan = if old.layout.definitions == project.plan.hash {
        &project.plan
    } else {
        own = data.kept_project(&old.layout.definitions, &project.dir).with_context(|| format!("`{id}` cannot be replayed"))?;
        &own.plan
    };
    let replayed = replay_one(data, &Arc::new(plan.clone()), id, args.full)?;
    let outcome = match (&replayed.difference, replayed.inputs_erased) {
        (None, _) => ExitCode::SUCCESS,
        (Some(_), true) => ExitCode::from(3),
        (Some(_), false) => ExitCode::FAILURE,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&as_json(id, &replayed))?);
    } else {
        show(id, &replayed);
    }
    Ok(outcome)
}

fn as_json(id: &str, r: &Replayed) -> serde_json::Value {
    let layout = &r.recorded.layout;
    let side = |d: &kilter_pipeline::Decision| {
        let inputs: serde_json::Map<String, serde_json::Value> =
            layout.inputs.iter().cloned().zip(d.inputs.iter().map(|x| serde_json::json!(x))).collect();
        let reasons: Vec<_> = d
            .reasons
            .iter()
            .map(|r| serde_json::json!({ "feature": layout.reason(r, &d.inputs).0, "contribution": r.contribution }))
            .collect();
        serde_json::json!({
            "outcome": layout.outcomes.get(d.outcome), "score": d.score, "model_version": d.version, "inputs": inputs, "reasons": reasons,
        })
    };
    serde_json::json!({
        "id": id, "same": r.difference.is_none(), "difference": r.difference, "inputs_erased": r.inputs_erased, "from_offset": r.from_offset,
        "offset": r.event.offset, "time": r.event.time.to_string(),
        "recorded": side(&r.recorded.decision), "again": r.again.as_ref().map(side),
    })
}

fn show(id: &str, r: &Replayed) {
    let (layout, decision) = (&r.recorded.layout, &r.recorded.decision);
    println!("{id}: event at offset {}, {}", r.event.offset, r.event.time);
    println!("  state rebuilt from offset {}", r.from_offset);
    for (name, value) in &r.context {
        println!("    {name:<36} {value}");
    }
    let outcome = |d: &kilter_pipeline::Decision| layout.outcomes.get(d.outcome).cloned().unwrap_or_default();
    let score = |d: &kilter_pipeline::Decision| d.score.map_or("none".to_string(), |s| format!("{s:.17}"));
    println!("  recorded   {:<10} score {}  version {:?}", outcome(decision), score(decision), decision.version);
    if let Some(again) = &r.again {
        println!("  replayed   {:<10} score {}  version {:?}", outcome(again), score(again), again.version);
    }
    match &r.difference {
        None => println!("  the same to the last bit: inputs, score, outcome and reasons"),
        Some(difference) if r.inputs_erased => {
            println!("  CANNOT BE REPRODUCED: events behind its inputs were erased: {difference}");
        }
        Some(difference) => println!("  DIFFERS: {difference}"),
    }
}
