//! Erasing an entity: from the log and from everything computed of it, with a record of proof.
//!
//! ```text
//! find (changes nothing) -> begin (the journal is durable) -> finish (logs, snapshots, state, control record, check, proof)
//! ```
//! [`begin`] only writes the journal: which records are to be replaced. Opening a data folder with a journal in it finishes the work
//! before anything else is done, so the first run and a run after a crash are the same code. Each step may be repeated.

mod find;
mod finish;
mod marks;
mod proof;
mod search;
mod taint;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use anyhow::Context;
use kilter_core::{EventTime, Offset};
use serde::{Deserialize, Serialize};

use crate::catalog::{Control, Erased};
use crate::data::Data;
use crate::project::Project;

pub use find::find;
pub(crate) use finish::finish;
pub use proof::{Check, Piece, Proof, TouchedModel};
pub use search::{FEWEST_BYTES, files_with, verify};
pub(crate) use taint::Taint;

/// What is to be erased and why.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The entity, as the columns that name it and their value; any of them.
    pub keys: Vec<Key>,
    /// Only events of these sources; all when empty.
    pub sources: Vec<String>,
    pub reason: Option<String>,
    /// Do not remember the ids of erased events: sent again, they are new.
    pub forget_ids: bool,
    /// Where the proof goes; none: the folder `erasures` of the data folder.
    pub proof: Option<PathBuf>,
}

/// One name of an entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub column: String,
    pub value: String,
}

impl Key {
    /// Reads `column=value`.
    pub fn parse(text: &str) -> Result<Key, String> {
        match text.split_once('=') {
            Some((column, value)) if !column.trim().is_empty() && !value.is_empty() => {
                Ok(Key { column: column.trim().to_string(), value: value.to_string() })
            }
            _ => Err(format!("`{text}` names no entity; write COLUMN=VALUE, such as customer=42")),
        }
    }
}

/// An erasure that has been decided on: what [`finish`] needs to know. Holds no value of the entity.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Journal {
    /// The proof as far as it is known before anything has changed.
    pub proof: Proof,
    /// Where it goes; none: into the data folder, which may lie elsewhere by then.
    pub path: Option<PathBuf>,
    /// By schema number: events that arrived at or after this time leave the hash of their id.
    keep_ids_since: std::collections::BTreeMap<u32, i64>,
}

const JOURNAL: &str = "erasure-under-way.json";
/// The folder of proofs in a data folder.
pub const PROOFS: &str = "erasures";

impl Journal {
    /// Where the proof goes.
    fn place(&self, dir: &Path) -> PathBuf {
        self.path.clone().unwrap_or_else(|| dir.join(PROOFS).join(format!("{}.json", self.proof.erasure)))
    }

    /// The erasure under way in a data folder.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Option<Journal>> {
        let path = dir.join(JOURNAL);
        match std::fs::read(&path) {
            Ok(bytes) => {
                let journal = serde_json::from_slice(&bytes);
                Ok(Some(journal.with_context(|| format!("{} is damaged, and with it the record of an erasure under way", path.display()))?))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(anyhow::anyhow!("cannot read {}: {e}", path.display())),
        }
    }
}

/// Decides on the erasure: from here on it is finished by whoever opens the data folder next. Returns where the proof will be.
pub async fn begin(data: Data, request: &Request, mut journal: Journal, now: EventTime) -> anyhow::Result<PathBuf> {
    if let Some(reason) = &request.reason {
        let named = request.keys.iter().find(|k| k.value.len() >= FEWEST_BYTES && reason.contains(&k.value));
        anyhow::ensure!(
            named.is_none(),
            "the reason names the entity, and would keep it\n  hint: refer to the request by a number or a date: --reason \"request 2026-17\""
        );
    }
    if let Some(path) = &request.proof {
        anyhow::ensure!(!path.exists(), "{} is there already\n  hint: give the proof another name", path.display());
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        anyhow::ensure!(parent.is_dir(), "there is no folder {} for the proof", parent.display());
        // The start that may have to finish the work does not know from where this was called.
        journal.path = Some(std::path::absolute(path)?);
    }
    // Without snapshots nothing else would say so.
    if let Some(in_force) = data.in_force()? {
        data.note_in_force(&in_force.hash)?;
    }
    for key in request.keys.iter().filter(|k| k.value.len() >= FEWEST_BYTES) {
        journal.proof.counts.metadata_rows += data.metadata.redact(&key.value, "[erased]").await?;
    }
    data.metadata.close().await;
    journal.proof.at = now.to_string();
    finish::write_whole(&data.dir.join(JOURNAL), &serde_json::to_vec(&journal)?)?;
    Ok(journal.place(&data.dir))
}

impl Data {
    /// An erasure recorded at or after an offset.
    pub fn erased_since(&self, offset: Offset) -> anyhow::Result<Option<Erased>> {
        let mut reader = self.records(offset.max(self.history.start()?));
        while let Some((_, bytes)) = reader.next_record()? {
            if let Some(Control::Erased(erased)) = Control::decode(bytes)? {
                return Ok(Some(erased));
            }
        }
        Ok(None)
    }
}

/// Finishes the erasure by opening the folder again, adds what a search of every byte shows, and reads the proof.
pub async fn complete(project: &Project, path: &Path, keys: &[Key]) -> anyhow::Result<Proof> {
    let data = Data::open(project).await?;
    let mut proof = Proof::read(path)?;
    data.metadata.close().await;
    let searched = search::bytes_of(&data.dir, &proof, keys)?;
    if let (Some(check), Some(files)) = (&mut proof.check, searched) {
        (check.bytes_searched, check.files) = (true, files);
        finish::write_whole(path, &serde_json::to_vec_pretty(&proof)?)?;
    }
    Ok(proof)
}
