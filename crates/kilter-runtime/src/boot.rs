//! A data folder that goes on from a state made elsewhere: of a history that was taken in by many machines and lies in no log of this one.
//!
//! The log begins at the offset that is the number of those events, and a snapshot stands there. All else is as after any other start.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use kilter_core::{EventTime, Offset};
use kilter_pipeline::Pipeline;
use kilter_pipeline::parts::{Assembly, SourceTotal};
use kilter_store::log::{Log, LogOptions};
use serde::Deserialize;

use crate::data::Data;
use crate::project::Project;
use crate::spine::connect;

/// The number under which the parts' head stands.
const HEAD: i32 = -1;
const FORMAT: u32 = 1;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Booted {
    /// Where the log begins.
    pub offset: Offset,
    /// The latest event time in the state.
    pub latest: Option<EventTime>,
    /// By view: the entities it knows.
    pub entities: Vec<(String, usize)>,
}

/// What `kilter.spark.backfill` says of the parts beside them.
#[derive(Deserialize)]
struct Head {
    format: u32,
    definitions: String,
    totals: BTreeMap<String, Total>,
}

#[derive(Deserialize)]
struct Total {
    events: u64,
    /// Microseconds.
    latest: Option<i64>,
}

/// Makes the project's data folder from the parts of a state in `from`: Parquet files. Interrupted, it can be run again.
///
/// # Errors
/// A folder that holds no parts, or not all of them once, or parts of other definitions; a data folder in which there is something.
pub async fn boot(project: &Project, from: &Path) -> anyhow::Result<Booted> {
    boot_of(project, parts_in(from)?).await.with_context(|| format!("from {}", from.display()))
}

/// The same of parts that are there already, each with the number of its pass; the head has the number -1.
///
/// # Errors
/// As [`boot`].
pub async fn boot_of(project: &Project, parts: impl Iterator<Item = anyhow::Result<(i32, Vec<u8>)>>) -> anyhow::Result<Booted> {
    let pipeline = assemble(project, parts)?;
    let offset = pipeline.next_offset();
    let dir = project.data_dir();
    let options = LogOptions { segment_bytes: project.settings.log.segment_bytes, first_offset: offset, ..LogOptions::default() };
    // Without its snapshot a log that begins at an offset does not start: nothing is taken for an empty project.
    let (log, _) = Log::open(dir.join("events"), options)?;
    let here = (log.start_offset(), log.next_offset());
    drop(log);
    let occupied =
        || format!("{} has events already\n  hint: name another folder as `data` in [server], or move this one away", dir.display());
    anyhow::ensure!(here == (offset, offset), occupied());
    let data = Data::open(project).await?;
    anyhow::ensure!(data.snapshots.list()?.is_empty() && data.decisions.next_offset() == 0, occupied());
    data.register(&project.plan)?;
    data.keep_definitions(project)?;
    data.note_in_force(&project.plan.hash)?;
    data.snapshots.write(offset, pipeline.now().map_or(i64::MIN, |t| t.0), &project.plan.hash, &pipeline.snapshot())?;
    let entities = pipeline.engine().stats().into_iter().map(|view| (view.view, view.entities)).collect();
    Ok(Booted { offset, latest: pipeline.now(), entities })
}

/// The pipeline that parts make.
fn assemble(project: &Project, parts: impl Iterator<Item = anyhow::Result<(i32, Vec<u8>)>>) -> anyhow::Result<Pipeline> {
    let plan = Arc::new(project.plan.clone());
    let mut assembly = Assembly::new(Arc::clone(&plan));
    let mut head = None;
    for part in parts {
        let (pass, bytes) = part?;
        if pass == HEAD {
            let read: Head = serde_json::from_slice(&bytes).context("what the parts are of cannot be read")?;
            check_head(&read, &plan.hash)?;
            anyhow::ensure!(head.replace(read).is_none(), "these are parts of two states");
        } else {
            assembly.add(usize::try_from(pass)?, &bytes)?;
        }
    }
    let head = head.context("nothing says what the parts are of\n  hint: files are missing")?;
    let mut totals = vec![SourceTotal::default(); plan.sources.len()];
    for (name, total) in head.totals {
        let source = plan.source(&name).with_context(|| format!("the definitions have no source `{name}`"))?;
        totals[usize::from(source.0)] = SourceTotal { events: total.events, latest: total.latest.map(EventTime) };
    }
    assembly.finish(&totals).context("parts are missing, or their source changed while they were made")
}

fn check_head(head: &Head, hash: &str) -> anyhow::Result<()> {
    anyhow::ensure!(head.format == FORMAT, "parts of format {} are not known to this program", head.format);
    anyhow::ensure!(
        head.definitions == hash,
        "these parts were made under other definitions (hash {}, here {})\n  hint: use the kilter.toml they were made with, and change it once the \
         project runs; or make them anew",
        crate::eras::short(&head.definitions),
        crate::eras::short(hash)
    );
    Ok(())
}

/// All parts in the files of a folder.
fn parts_in(from: &Path) -> anyhow::Result<impl Iterator<Item = anyhow::Result<(i32, Vec<u8>)>>> {
    let files = part_files(from)?.into_iter();
    Ok(files.flat_map(|path| {
        let (rows, error) = match kilter_connect::parts(&path) {
            Ok(rows) => (Some(rows), None),
            Err(e) => (None, Some(Err(connect(&e)))),
        };
        rows.into_iter().flatten().map(|part| part.map_err(|e| connect(&e))).chain(error)
    }))
}

/// In the order of their names; the order makes no difference.
fn part_files(from: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(from).with_context(|| format!("cannot read the folder {}", from.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // Spark leaves checksums and marks beside its files.
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(['.', '_']));
        if !hidden && path.extension().is_some_and(|e| e == "parquet") {
            files.push(path);
        }
    }
    anyhow::ensure!(
        !files.is_empty(),
        "{} holds no Parquet file\n  hint: name the folder that kilter.spark.backfill wrote",
        from.display()
    );
    files.sort();
    Ok(files)
}
