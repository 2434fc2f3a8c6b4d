//! Writes a training set: the features of every row of a spine, as they were known at its moment.
//!
//! ```text
//! names (spine) -> positions (spine) -> events and rows in order (steps) -> divided by entity, part after part read (work) -> one file (assemble)
//! ```
//! Memory holds the state of the parts at hand and bounded buffers. An interrupted job goes on after its last finished part, and gives the
//! same bytes.

mod assemble;
mod runs;
mod spill;
mod steps;
mod work;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use kilter_core::EventTime;

pub use crate::spine::*;
pub use assemble::Counts;

use crate::data::Data;
use crate::project::Project;
use crate::spine::{LogPlan, SpinePlan};
use steps::{FileFacts, Job, Position};
use work::Manifest;

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    pub counts: Counts,
    pub columns: usize,
    pub bytes: u64,
    /// Parts of the work that an earlier run had finished, of `parts`.
    pub resumed: usize,
    pub parts: usize,
    /// How often a part had to be divided because its state took more memory than there was.
    pub divided: u64,
    /// The log up to here, exclusive.
    pub until: u64,
    /// When the latest event of the log that was needed became known.
    pub known: Option<EventTime>,
    pub seconds: f64,
}

/// Where a job is: a name for it, how much is done of how much.
pub struct Progress {
    pub phase: &'static str,
    pub done: u64,
    pub total: u64,
}

/// Runs the job to its end, in the calling thread and `request.threads` others.
pub fn write(data: &Data, project: &Project, request: &Request, progress: &mut dyn FnMut(&Progress)) -> anyhow::Result<Report> {
    let started = Instant::now();
    check_places(request)?;
    write_here(data, project, request, progress, started).map_err(|error| {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let is_full = |e: &std::io::Error| matches!(e.kind(), StorageFull | QuotaExceeded | FileTooLarge);
        match error.chain().any(|cause| cause.downcast_ref().is_some_and(is_full)) {
            true => anyhow::anyhow!(
                "the disk of {} is full\n  hint: free some space and run the same command again: it goes on from the last finished part",
                request.out.display()
            ),
            false => error,
        }
    })
}

fn check_places(request: &Request) -> anyhow::Result<()> {
    let out = &request.out;
    anyhow::ensure!(request.threads > 0, "--threads must be at least 1");
    anyhow::ensure!(!out.is_dir(), "{} is a folder\n  hint: name a file", out.display());
    anyhow::ensure!(
        request.overwrite || !out.exists(),
        "{} is there already\n  hint: name another file, or replace it with --overwrite",
        out.display()
    );
    let folder = folder_of(out);
    anyhow::ensure!(folder.is_dir(), "there is no folder {}\n  hint: make it first", folder.display());
    match (&request.mode, &request.spine) {
        (Mode::AsLogged, Spine::Decisions { .. }) => {}
        (Mode::AsLogged, _) => {
            anyhow::bail!("--mode as-logged gives what was recorded with decisions, and needs them as its spine\n  hint: --decision NAME")
        }
        _ => {}
    }
    if let Spine::Events { pick, .. } | Spine::Decisions { pick, .. } = &request.spine
        && let Some(sample) = &pick.sample
    {
        anyhow::ensure!(sample.share > 0.0 && sample.share <= 1.0, "--sample is a share above 0 and up to 1, not {}", sample.share);
    }
    Ok(())
}

fn folder_of(out: &Path) -> &Path {
    out.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The folder of unfinished work beside a file.
pub fn partial_of(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn write_here(
    data: &Data,
    project: &Project,
    request: &Request,
    progress: &mut dyn FnMut(&Progress),
    started: Instant,
) -> anyhow::Result<Report> {
    let plan = &project.plan;
    let start = data.history.start()?;
    anyhow::ensure!(
        start == data.first_offset || matches!(request.mode, Mode::AsLogged),
        "the history begins at offset {start}: what came before is there as state only, and rows would lack it\n  hint: make the training set where \
         the whole history lies (kilter.spark), or use --mode as-logged"
    );
    let recorded = match (&request.mode, &request.spine) {
        (Mode::AsLogged, Spine::Decisions { decision, .. }) => steps::recorded_inputs(data, decision)?,
        _ => Vec::new(),
    };
    let resolved = crate::spine::resolve(plan, &request.spine, request.asked(), &recorded)?;
    let facts = match &resolved.spine {
        SpinePlan::File(file) => Some(steps::look_at(file)?),
        SpinePlan::Log(_) => None,
    };
    let made_of = made_of(project, request, &resolved, facts.as_ref());
    let partial = partial_of(&request.out);
    let found = work::enter(&partial, request.restart)?;
    let mut manifest = match found {
        Some(manifest) => {
            check_same(&manifest.made_of, &made_of, &partial)?;
            anyhow::ensure!(
                manifest.until <= data.events.next_offset(),
                "{} was begun over a longer log than this one\n  hint: begin anew with --restart",
                partial.display()
            );
            anyhow::ensure!(
                data.erased_since(manifest.until)?.is_none(),
                "{} was begun before something was erased from the log, and may still hold it\n  hint: begin anew with --restart, which removes it",
                partial.display()
            );
            manifest
        }
        None => {
            let manifest = Manifest { made_of: made_of.clone(), until: data.events.next_offset(), ..Manifest::default() };
            manifest.write(&partial)?;
            manifest
        }
    };
    let resumed = manifest.finished.len();
    let set = Arc::new(resolved.set);
    let job = Job {
        data,
        plan,
        set: Arc::clone(&set),
        spine: &resolved.spine,
        mode: &request.mode,
        lags: &resolved.lags,
        until: manifest.until,
        partial: partial.clone(),
        limits: request.limits,
    };
    if manifest.spine.is_none() {
        if manifest.sorted.is_none() {
            manifest.sorted = job.sort(facts.as_ref(), &mut |done, total| progress(&Progress { phase: "sorting", done, total }))?;
            manifest.write(&partial)?;
        }
        let total = match (&request.mode, &manifest.sorted) {
            (Mode::EventTime(_), Some(sorted)) => sorted.event_count,
            _ => manifest.until,
        };
        let mut told = |at: &Position| progress(&Progress { phase: "dividing", done: at.next, total });
        work::divide(&job, &mut manifest, &mut told)?;
    }
    if manifest.finished.len() < manifest.parts {
        let mut told = |done, total| progress(&Progress { phase: "reading", done: done as u64, total: total as u64 });
        work::read(&job, &mut manifest, request.threads, &mut told)?;
    }
    let metadata = metadata(&made_of, &manifest);
    let mut told = |rows, total| progress(&Progress { phase: "writing", done: rows, total });
    let counts = assemble::assemble(&set, &manifest, &partial, &request.out, request.format, &metadata, &mut told)?;
    work::clear(&partial)?;
    fs::remove_dir(&partial)?;
    Ok(Report {
        columns: set.columns.len(),
        bytes: fs::metadata(&request.out)?.len(),
        resumed,
        parts: manifest.parts,
        divided: manifest.divided,
        until: manifest.until,
        known: manifest.position.clock,
        seconds: started.elapsed().as_secs_f64(),
        counts,
    })
}

/// All that the rows and the unfinished work depend on, by names that a user knows.
fn made_of(project: &Project, request: &Request, resolved: &Resolved<SpinePlan>, facts: Option<&FileFacts>) -> BTreeMap<String, String> {
    let mode = match &request.mode {
        Mode::AsLogged => "as-logged".to_string(),
        Mode::Replay => "replay".to_string(),
        Mode::EventTime(_) => {
            let lags = project.plan.sources.iter().zip(&resolved.lags).map(|(source, lag)| format!("{}={lag}", source.name));
            format!("event-time, lags {}", lags.collect::<Vec<_>>().join(" "))
        }
    };
    let spine = match (&resolved.spine, facts) {
        (SpinePlan::File(file), Some(facts)) => {
            let name = file.path.file_name().unwrap_or(file.path.as_os_str()).to_string_lossy();
            format!("{} rows of {name} (blake3 {}), time `{}`", facts.rows, facts.hash, file.format.time_name)
        }
        (SpinePlan::File(file), None) => file.path.display().to_string(),
        (SpinePlan::Log(log), _) => of_log(project, log),
    };
    let keys = resolved.set.views().map(|(view, key)| format!("{} by columns {key:?}", view.name()));
    let features: serde_json::Map<String, serde_json::Value> =
        resolved.features.iter().map(|(name, text)| (name.clone(), text.as_str().into())).collect();
    BTreeMap::from([
        ("definitions".to_string(), project.plan.hash.clone()),
        ("mode".to_string(), mode),
        ("spine".to_string(), spine),
        ("keys".to_string(), keys.collect::<Vec<_>>().join(", ")),
        ("features".to_string(), serde_json::Value::Object(features).to_string()),
        (
            "spine_columns".to_string(),
            resolved.set.columns[..resolved.spine_columns].iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", "),
        ),
        ("include_self".to_string(), resolved.set.include_self.to_string()),
    ])
}

fn of_log(project: &Project, log: &LogPlan) -> String {
    let source = &project.plan.sources[usize::from(log.source.0)].name;
    let mut text = match &log.decision {
        Some(decision) => format!("decisions `{decision}` on events of `{source}`"),
        None => format!("events of `{source}`"),
    };
    if let Some(condition) = &log.condition {
        text.push_str(&format!(" where {condition}"));
    }
    for (word, time) in [("from", log.pick.from), ("to", log.pick.to)] {
        if let Some(time) = time {
            text.push_str(&format!(" {word} {time}"));
        }
    }
    if let Some(sample) = &log.pick.sample {
        let by = sample.by.as_deref().unwrap_or("event");
        text.push_str(&format!(", sample of {} by {by}, seed {}", sample.share, sample.seed));
    }
    text
}

fn check_same(then: &BTreeMap<String, String>, now: &BTreeMap<String, String>, partial: &Path) -> anyhow::Result<()> {
    let differs = now.iter().find(|(name, value)| then.get(*name) != Some(value));
    let Some((name, value)) = differs else { return Ok(()) };
    let before = then.get(name).map_or("nothing", String::as_str);
    anyhow::bail!(
        "{} holds an unfinished training set of another kind: {name} was {before}, now {value}\n  hint: run the command it was begun with to \
         finish it, or begin anew with --restart",
        partial.display()
    )
}

/// What the file says of itself.
fn metadata(made_of: &BTreeMap<String, String>, manifest: &Manifest) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = made_of.iter().map(|(name, value)| (format!("kilter.{name}"), value.clone())).collect();
    all.push(("kilter.log".into(), format!("offsets 0 to {}", manifest.until)));
    all.push(("kilter.version".into(), env!("CARGO_PKG_VERSION").into()));
    all
}
