//! A data folder made of a bundle.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, ensure};
use kilter_store::files::{prepare_dir, write_whole};
use kilter_store::log::{Log, LogOptions};
use tokio::runtime::Handle;

use super::{CATALOG, Contents, DEAD_LETTERS, DEFINITIONS, IDS, MODEL, Manifest, SINK, SNAPSHOT};
use crate::catalog::CATALOG_FILE;
use crate::data::Data;
use crate::ids;
use crate::project::{Project, Shard};

/// Makes the folder of the project's shard anew: its log begins at the bundle's offset. What is there goes once the new one is whole, in one step, and is removed last:
/// interrupted, there is the old folder, the new one or none, never half of one. `also` is one more file that the folder gets, by its name.
///
/// # Errors
/// A folder that cannot be written, a bundle that lacks something.
pub fn unpack(project: &Project, manifest: &Manifest, contents: &Contents, also: (&str, &[u8]), runtime: &Handle) -> anyhow::Result<()> {
    let shard = project.shard.as_ref().context("the project has no shard")?;
    let folder = &shard.data;
    let (making, old) = (folder.with_extension("new"), folder.with_extension("old"));
    clear(&making)?;
    clear(&old)?;
    if let Err(e) = prepare(project, shard.number, manifest, contents, also, &making, runtime) {
        // What is half made would only take room.
        let _ = clear(&making);
        return Err(e);
    }
    if folder.exists() {
        fs::rename(folder, &old).with_context(|| format!("cannot put {} away", folder.display()))?;
    }
    fs::rename(&making, folder).with_context(|| format!("cannot make the data folder {}", folder.display()))?;
    let above = folder.parent().unwrap_or(Path::new("."));
    File::open(above)?.sync_all()?;
    clear(&old)
}

/// The new folder, whole and on the disk.
fn prepare(
    project: &Project,
    number: u32,
    manifest: &Manifest,
    contents: &Contents,
    also: (&str, &[u8]),
    making: &Path,
    runtime: &Handle,
) -> anyhow::Result<()> {
    prepare_dir(making)?;
    fill(project, manifest, contents, making)?;
    let making_of = Project { shard: Some(Shard { number, data: making.to_owned() }), ..project.clone() };
    let data = runtime.block_on(Data::open(&making_of))?;
    data.note_in_force(&manifest.definitions)?;
    data.snapshots.write(manifest.offset, manifest.event_time, &manifest.definitions, contents.file(SNAPSHOT)?)?;
    for champion in &manifest.champions {
        data.keep_version(champion, manifest.made)?;
    }
    data.wait(data.metadata.close());
    drop(data);
    write_whole(&making.join(also.0), &[also.1])?;
    Ok(File::open(making)?.sync_all()?)
}

/// Removes a folder, if it is there.
fn clear(folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

/// Everything that lies in the folder as files.
fn fill(project: &Project, manifest: &Manifest, contents: &Contents, folder: &Path) -> anyhow::Result<()> {
    let options = LogOptions { segment_bytes: project.settings.log.segment_bytes, ..LogOptions::default() };
    Log::open(folder.join("events"), LogOptions { first_offset: manifest.offset, ..options.clone() })?;
    let (letters, _) = Log::open(folder.join("dead-letters"), LogOptions { first_offset: manifest.first_dead_letter, ..options })?;
    letters.append(&unframed(contents.file(DEAD_LETTERS)?)?)?;
    letters.sync()?;
    ensure!(letters.next_offset() == manifest.journal.dead_letters, "the bundle has not the dead letters that it promises");
    write_whole(&folder.join(CATALOG_FILE), &[contents.file(CATALOG)?])?;
    write_whole(&folder.join(ids::FILE), &[contents.file(IDS)?])?;
    let definitions = folder.join("definitions");
    prepare_dir(&definitions)?;
    write_whole(&definitions.join(format!("{}.toml", manifest.definitions)), &[contents.file(DEFINITIONS)?])?;
    let sinks = folder.join("sinks");
    prepare_dir(&sinks)?;
    for (name, cursor) in contents.named(SINK) {
        write_whole(&sinks.join(format!("{name}.json")), &[cursor])?;
    }
    let artifacts = Data::artifacts_in(folder)?;
    for (hash, bytes) in contents.named(MODEL) {
        ensure!(artifacts.put(bytes)?.as_str() == hash, "the bundle's model file {hash} has another hash");
    }
    Ok(())
}

fn unframed(mut bytes: &[u8]) -> anyhow::Result<Vec<&[u8]>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let cut_short = "the bundle's dead letters are cut short";
        let (length, rest) = bytes.split_first_chunk().context(cut_short)?;
        let (record, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).context(cut_short)?;
        records.push(record);
        bytes = rest;
    }
    Ok(records)
}
