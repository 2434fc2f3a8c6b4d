//! The record of proof: what was erased, when and why, by offsets and hashes; never by value.

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::marks::Mark;

const FORMAT: u32 = 1;

/// The record of proof of one erasure, as it lies in its file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Proof {
    pub format: u32,
    /// The number that erased records carry, in hex.
    pub erasure: String,
    pub at: String,
    /// When everything was done; none: it is under way.
    pub finished: Option<String>,
    pub reason: Option<String>,
    /// Only events of these sources were to go; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    pub program: String,
    /// Key of all hashes here. Without it none of them can be compared with anything: to make the erasure anonymous, delete the proof.
    pub salt: String,
    /// Hash of the entity.
    pub entity: String,
    /// Where the entity's key, and the keys of records that belong to it, are looked for, as hashes.
    pub marks: Vec<Mark>,
    /// The ends of the event log and of the dead letters when the erasure was decided on.
    pub log_end: u64,
    pub letters_end: u64,
    pub counts: Counts,
    pub models: Vec<TouchedModel>,
    /// What an erasure cannot reach, and what was left on purpose.
    pub not_reached: Vec<String>,
    pub check: Option<Check>,
    pub events: Vec<Piece>,
    pub decisions: Vec<Piece>,
    pub dead_letters: Vec<Piece>,
}

/// How much was erased, by place.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counts {
    pub events: u64,
    /// Of these: belong to the entity by the key of one of its records (labels, later changes of a row).
    pub linked_events: u64,
    /// Events that could have been linked and stay, since others share their key.
    pub shared_keys: u64,
    pub by_source: std::collections::BTreeMap<String, u64>,
    pub decisions: u64,
    pub dead_letters: u64,
    /// Rows of the metadata whose free text was changed.
    pub metadata_rows: u64,
    pub snapshots: u64,
    pub state_files: u64,
    /// Buckets of monitors, of all entities.
    #[serde(default)]
    pub readings: u64,
    /// Files of runs that told of single rows, or of few, and were removed.
    #[serde(default)]
    pub evaluations: u64,
}

/// One erased record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    pub offset: u64,
    /// Salted hash of the record's bytes before, and of what is there now.
    pub before: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// A model version that may have learned from the entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TouchedModel {
    pub model: String,
    pub version: u32,
    pub trained_from: Option<String>,
    pub trained_to: Option<String>,
    /// `champion`, `challenger`.
    pub aliases: Vec<String>,
}

/// What a search for the entity found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub at: String,
    pub events_searched: u64,
    pub decisions_searched: u64,
    pub dead_letters_searched: u64,
    /// Of the erased records: not what the erasure left.
    pub not_stubs: u64,
    /// Events, decisions and dead letters of the entity from before the erasure.
    pub found_events: u64,
    pub found_decisions: u64,
    pub found_dead_letters: u64,
    /// Events that came after the erasure: a new beginning.
    pub newer_events: u64,
    pub newer_dead_letters: u64,
    /// Whether every byte of the data folder was searched for the entity's key as text: then the files that hold it.
    pub bytes_searched: bool,
    pub files: Vec<String>,
}

impl Check {
    /// Whether nothing from before the erasure is left.
    pub fn is_clean(&self) -> bool {
        self.not_stubs + self.found_events + self.found_decisions + self.found_dead_letters == 0
            && (self.files.is_empty() || self.newer_events + self.newer_dead_letters > 0)
    }
}

impl Proof {
    pub(super) fn new(number: u64, salt: &[u8; 32]) -> Proof {
        Proof {
            format: FORMAT,
            erasure: format!("{number:016x}"),
            at: String::new(),
            finished: None,
            reason: None,
            sources: Vec::new(),
            program: format!("kilter {}", env!("CARGO_PKG_VERSION")),
            salt: blake3::Hash::from(*salt).to_hex().to_string(),
            entity: String::new(),
            marks: Vec::new(),
            log_end: 0,
            letters_end: 0,
            counts: Counts::default(),
            models: Vec::new(),
            not_reached: Vec::new(),
            check: None,
            events: Vec::new(),
            decisions: Vec::new(),
            dead_letters: Vec::new(),
        }
    }

    /// Reads a proof from its file.
    pub fn read(path: &Path) -> anyhow::Result<Proof> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read the proof {}", path.display()))?;
        let proof: Proof =
            serde_json::from_slice(&bytes).with_context(|| format!("{} is no proof of an erasure, or is damaged", path.display()))?;
        anyhow::ensure!(
            proof.format == FORMAT,
            "{} has format {}, this program knows {FORMAT}\n  hint: use the kilter that wrote it, or a newer one",
            path.display(),
            proof.format
        );
        Ok(proof)
    }

    pub(super) fn number(&self) -> anyhow::Result<u64> {
        u64::from_str_radix(&self.erasure, 16).with_context(|| format!("`{}` is no number of an erasure", self.erasure))
    }

    pub(super) fn salt(&self) -> anyhow::Result<[u8; 32]> {
        Ok(*blake3::Hash::from_hex(&self.salt).context("the proof's salt is damaged")?.as_bytes())
    }
}
