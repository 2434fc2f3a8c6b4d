//! `kilter plan`: what the changed definitions would do, before they do it.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use kilter_runtime::Data;
use kilter_runtime::changes::ChangePlan;
use kilter_runtime::eras::short;
use kilter_runtime::project::{self, Project};
use serde_json::Value;

use crate::api::{ADDRESS_FILE, Client, is_locked, load};
use crate::commands::{grouped, table};

#[derive(clap::Args)]
pub struct Args {
    /// Compare with this definitions file instead of the definitions that the data folder last ran under.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Leave out sizes and times: the log is not read for them.
    #[arg(long)]
    quick: bool,
    /// Also list what stays as it is.
    #[arg(short, long)]
    all: bool,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
    /// End with code 2 when results would change, 0 when not.
    #[arg(long)]
    exit_code: bool,
}

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<ExitCode> {
    let new = load(dir)?;
    let against = args.against.as_deref().map(|file| other(file, dir)).transpose()?;
    let plan = match plan(new, against, args.quick).await? {
        Planned::Plan(plan) => plan,
        Planned::NothingRan(data) => {
            let text = format!("{} has run under no definitions yet: there is nothing to compare with", data.display());
            println!("{}", if args.json { serde_json::json!({ "changes": false, "message": text }).to_string() } else { text });
            return Ok(ExitCode::SUCCESS);
        }
    };
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&plan)?),
        false => show(&plan, args.all),
    }
    let changes = plan["changes"].as_bool().unwrap_or(false);
    Ok(if args.exit_code && changes { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

enum Planned {
    Plan(Value),
    NothingRan(PathBuf),
}

fn other(file: &Path, dir: &Path) -> anyhow::Result<Project> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    project::check_text(&text, &file.display().to_string(), dir)
        .map_err(|report| anyhow::anyhow!("the definitions to compare with do not hold\n\n{report}"))
}

async fn plan(new: Project, against: Option<Project>, quick: bool) -> anyhow::Result<Planned> {
    let folder = new.data_dir();
    if !folder.join("events").is_dir() {
        // Without a log two files can still be compared.
        return match against {
            Some(old) => Ok(Planned::Plan(serde_json::to_value(ChangePlan::of(&old, &new))?)),
            None => Ok(Planned::NothingRan(folder)),
        };
    }
    let data = match Data::open(&new).await {
        Ok(data) => data,
        Err(e) if is_locked(&e) && against.is_none() => return Ok(Planned::Plan(asked(&folder, &new, quick).await?)),
        Err(e) if is_locked(&e) => {
            eprintln!("a running kilter has the log open: what the log would say (sizes, times, versions, decisions) is left out");
            let old = against.as_ref().unwrap_or(&new);
            return Ok(Planned::Plan(serde_json::to_value(ChangePlan::of(old, &new))?));
        }
        Err(e) => return Err(e),
    };
    let bar = bar();
    tokio::task::spawn_blocking(move || {
        let old = match against {
            Some(old) => old,
            None => match data.in_force()? {
                Some(in_force) if in_force.hash == new.plan.hash => {
                    // Two files with one hash give the same results; what else differs shows only in the text that ran.
                    data.kept_project(&in_force.hash, &new.dir).unwrap_or_else(|_| new.clone())
                }
                Some(in_force) => data.kept_project(&in_force.hash, &new.dir)?,
                None => return Ok(Planned::NothingRan(folder)),
            },
        };
        let plan = ChangePlan::of(&old, &new).with_log(&data, &old, &new, !quick, |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })?;
        bar.finish_and_clear();
        Ok(Planned::Plan(serde_json::to_value(plan)?))
    })
    .await?
}

/// The running server compares its project's file with what it runs.
async fn asked(folder: &Path, new: &Project, quick: bool) -> anyhow::Result<Value> {
    let listen = std::fs::read_to_string(folder.join(ADDRESS_FILE)).unwrap_or_else(|_| new.settings.server.listen.clone());
    let address = listen.trim().parse().with_context(|| format!("`{listen}` is no address"))?;
    let client = Client::new(address);
    tokio::task::spawn_blocking(move || client.get(&format!("/v1/project/plan?estimate={}", !quick))).await?
}

/// Progress on standard error, for people only.
pub fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} {bar:40} {percent}%  {human_pos} of {human_len} records  {elapsed}");
    ProgressBar::new(1).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message("reading the log")
}

fn show(plan: &Value, all: bool) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let (from, to) = (text(&plan["from"]), text(&plan["to"]));
    let list = |key: &str| plan[key].as_array().cloned().unwrap_or_default();
    let objects = list("objects");
    let of = |fate: &str| objects.iter().filter(|o| o["change"] == fate).count();
    if !plan["changes"].as_bool().unwrap_or(false) {
        println!("no change: results stay as they are (definitions {})", short(&to));
    } else {
        println!("definitions {} -> {}", short(&from), short(&to));
        println!("{} added, {} changed, {} dropped, {} unchanged\n", of("added"), of("changed"), of("dropped"), of("unchanged"));
    }
    let mark = |fate: &str| match fate {
        "added" => "+",
        "changed" => "~",
        "dropped" => "-",
        _ => " ",
    };
    for object in objects.iter().filter(|o| all || o["change"] != "unchanged" || o["backfill"] == true) {
        println!("{} {} {}{}", mark(&text(&object["change"])), text(&object["kind"]), text(&object["name"]), effect(object));
        for d in object["differences"].as_array().into_iter().flatten() {
            println!("      {}", difference(d, object));
        }
        for feature in object["features"].as_array().into_iter().flatten() {
            let fate = text(&feature["change"]);
            let differences: Vec<String> =
                feature["differences"].as_array().into_iter().flatten().map(|d| difference(d, feature)).collect();
            println!(
                "    {} {}{}{}",
                mark(&fate),
                text(&feature["name"]),
                if differences.is_empty() { "" } else { "   " },
                differences.join(", ")
            );
        }
    }
    let beside = list("beside");
    if !beside.is_empty() {
        println!("\nwithout effect on results:");
        beside.iter().for_each(|d| println!("      {}", difference(d, &Value::Null)));
    }
    show_backfill(&plan["backfill"]);
    show_decisions(&list("decisions"));
    let restart = list("restart");
    if !restart.is_empty() {
        println!("\n`kilter apply` would refuse; a restart takes the file up:");
        restart.iter().for_each(|reason| println!("  {}", text(reason)));
    }
}

/// What becomes of an object's state or version, in the rest of its line.
fn effect(object: &Value) -> String {
    let mut parts = Vec::new();
    match (object["kind"].as_str(), object["backfill"].as_bool(), object["change"].as_str()) {
        (_, _, Some("dropped")) => {}
        (Some("view" | "monitor"), Some(true), _) => parts.push("filled from the log".to_string()),
        (Some("view" | "monitor"), Some(false), Some("changed")) => parts.push("its state stays".to_string()),
        _ => {}
    }
    let state = &object["state"];
    if let (Some(entities), Some(each), Some(bytes)) =
        (state["entities"].as_u64(), state["bytes_per_entity"].as_u64(), state["bytes"].as_u64())
    {
        let sample = match state["one_in"].as_u64() {
            Some(1) | None => String::new(),
            Some(k) => format!(", from 1 entity in {}", grouped(k)),
        };
        parts.push(match entities {
            0 => "no event in the log names such an entity".to_string(),
            _ => format!("about {} ({} entities of {each} bytes{sample})", size(bytes), grouped(entities)),
        });
    }
    let champion = &object["champion"];
    if let Some(version) = champion["version"].as_u64() {
        if champion["stays"] == true {
            parts.push(format!("version {version} stays in service"));
        } else {
            let outcomes = champion["fallback"].as_object().into_iter().flatten().map(|(decision, outcome)| match outcome.as_str() {
                Some(outcome) => format!("`{decision}` answers {outcome}"),
                None => format!("`{decision}` decides nothing"),
            });
            let outcomes: Vec<String> = outcomes.collect();
            let name = object["name"].as_str().unwrap_or_default();
            parts.push(format!("version {version} LEAVES SERVICE: its inputs are not these"));
            parts.push(match outcomes.is_empty() {
                true => format!("train again with `kilter train {name}`"),
                false => format!("{} until `kilter train {name}`", outcomes.join(", ")),
            });
        }
    }
    if parts.is_empty() { String::new() } else { format!("   {}", parts.join("; ")) }
}

fn difference(d: &Value, object: &Value) -> String {
    let what = d["what"].as_str().unwrap_or_default();
    let is_hash = |v: &str| v.len() == 16 && v.chars().all(|c| c.is_ascii_hexdigit());
    match (d["old"].as_str(), d["new"].as_str()) {
        // What a thing rests on is told by a hash: the digits say nothing to people.
        (Some(old), Some(new)) if is_hash(old) && is_hash(new) => format!("{what}: changed"),
        (None, Some(new)) if is_hash(new) => format!("{what}: added"),
        (Some(old), None) if is_hash(old) => format!("{what}: gone"),
        (Some(old), Some(new)) => format!("{what}: {old} -> {new}"),
        (None, Some(new)) => format!("{what}: added {new}"),
        (Some(old), None) if old == "in another order" => format!("{}: {old}", if what.is_empty() { "all" } else { what }),
        (Some(old), None) => format!("{what}: dropped {old}"),
        (None, None) => object["name"].as_str().unwrap_or_default().to_string(),
    }
}

fn show_backfill(backfill: &Value) {
    if backfill.is_null() {
        return;
    }
    let number = |key: &str| backfill[key].as_u64().unwrap_or(0);
    let views: Vec<&str> = backfill["views"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    print!("\nthe log is read from offset {}: {} records, {}", number("from_offset"), grouped(number("events")), size(number("bytes")));
    if number("sampled") > 0 {
        let seconds = backfill["seconds"].as_f64().unwrap_or(0.0);
        print!(", {} (by the rate of the first {})", duration(seconds), grouped(number("sampled")));
    }
    println!("{}", if views.is_empty() { String::new() } else { format!("\n  for {}", views.join(", ")) });
}

fn show_decisions(decisions: &[Value]) {
    if decisions.is_empty() {
        return;
    }
    println!("\nrecorded decisions:");
    let mut rows = table(&["decision", "definitions", "recorded", "can be replayed"]);
    for d in decisions {
        let replayable = match d["reason"].as_str() {
            None => "yes".to_string(),
            Some(reason) => format!("no: {}", reason.lines().next().unwrap_or_default()),
        };
        let definitions = short(d["definitions"].as_str().unwrap_or_default()).to_string();
        rows.add_row([
            d["decision"].as_str().unwrap_or_default().to_string(),
            definitions,
            grouped(d["count"].as_u64().unwrap_or(0)),
            replayable,
        ]);
    }
    println!("{rows}");
}

fn size(bytes: u64) -> String {
    match bytes as f64 {
        b if b >= 1e9 => format!("{:.1} GB", b / 1e9),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b if b >= 1e3 => format!("{:.1} kB", b / 1e3),
        _ => format!("{bytes} bytes"),
    }
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => "less than a second".to_string(),
        s if s < 120.0 => format!("about {s:.0} s"),
        s if s < 7200.0 => format!("about {:.0} min", s / 60.0),
        s => format!("about {:.1} h", s / 3600.0),
    }
}
