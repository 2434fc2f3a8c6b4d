//! Bundles: what a worker without a folder needs to go on with a shard, in the lake.
//!
//! ```text
//! _kilter/snapshots/00003/{offset}-{token}.json      the manifest: the bundle is there from the moment that this file is
//! _kilter/snapshots/00003/{offset}-{token}.{part}    parts of its files
//! _kilter/snapshots/00003/model-{hash}.{part}        parts of model files, which later bundles share
//! ```
//! A bundle stands at an offset of the shard's log. It is made when everything before that offset is in the journal, in the lake and delivered, so it is the truth whoever
//! made it. See `docs/decisions/0040-bundles-in-the-lake.md`.

mod make;
mod unpack;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail, ensure};
use kilter_core::{EventTime, Offset};
use kilter_lake::Storage;
use serde::{Deserialize, Serialize};

use crate::catalog::Control;
use crate::history::open_storage;
use crate::journal::Agreed;
use crate::project::Project;

pub use make::{Ready, make, ready};
pub use unpack::unpack;

/// The form of the manifest that this program writes and reads.
const FORMAT: u32 = 1;
/// Bundles that are kept: the newest, and one to fall back upon.
const KEPT: usize = 2;
/// Bytes of one part at most: a request of its own.
const PART: usize = 64 << 20;

const SNAPSHOT: &str = "snapshot";
const CATALOG: &str = "catalog";
const DEFINITIONS: &str = "definitions";
const DEAD_LETTERS: &str = "dead-letters";
const IDS: &str = "ids";
/// Cursors of sinks, by the sink's name behind this.
const SINK: &str = "sink/";
/// Model files and what goes with them, by hash behind this.
const MODEL: &str = "model/";

/// What a bundle is and where its parts lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// The state is that before the record at this offset; the folder's log begins here.
    pub offset: Offset,
    /// Hash of the record before it, which the journal must have.
    last: String,
    /// Where the journal is read on: at or before the record at `offset`, and at the dead letters behind those in the bundle.
    pub journal: Agreed,
    /// Event time of the state, in microseconds.
    event_time: i64,
    /// Hash of the definitions that the state belongs to.
    definitions: String,
    /// When it was made.
    pub made: EventTime,
    /// The first dead letter in the bundle.
    first_dead_letter: u64,
    /// Every model version that was ever put into service before `offset`.
    champions: Vec<Control>,
    files: BTreeMap<String, Vec<Part>>,
}

/// A stretch of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    path: String,
    bytes: u64,
    hash: String,
}

/// The files of a bundle.
pub struct Contents {
    files: BTreeMap<String, Vec<u8>>,
}

/// The bundles of one shard.
pub struct Bundles {
    storage: Arc<dyn Storage>,
    folder: String,
}

impl Manifest {
    pub fn bytes(&self) -> u64 {
        self.files.values().flatten().map(|part| part.bytes).sum()
    }

    /// Whether this is the record before the bundle's offset.
    pub fn follows(&self, record: &[u8]) -> bool {
        self.last == hash(record)
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.files.values().flatten()
    }
}

impl Bundles {
    /// Where the bundles of the project's shard lie; none: it has none.
    ///
    /// # Errors
    /// An environment variable that is not set, a folder that cannot be used.
    pub fn of(project: &Project) -> anyhow::Result<Option<Bundles>> {
        let wanted = project.definitions.workers.as_ref().is_some_and(|workers| workers.snapshots.is_some());
        let (Some(shard), Some(lake), true) = (&project.shard, &project.definitions.lake, wanted) else { return Ok(None) };
        let storage = open_storage(lake, &project.dir)?;
        Ok(Some(Bundles { storage, folder: format!("_kilter/snapshots/{:05}", shard.number) }))
    }

    /// All bundles that can be read, newest first. Others are told of and passed over.
    ///
    /// # Errors
    /// Storage that does not answer.
    pub fn list(&self) -> anyhow::Result<Vec<Manifest>> {
        let mut found = Vec::new();
        for name in self.names()?.iter().rev().filter(|name| name.ends_with(".json")) {
            // It may have been removed since.
            let Some(bytes) = self.storage.read(&self.at(name))? else { continue };
            match parsed(name, &bytes) {
                Ok(manifest) => found.push(manifest),
                Err(e) => tracing::warn!(bundle = name, error = %format!("{e:#}"), "a bundle is passed over"),
            }
        }
        Ok(found)
    }

    /// The files of a bundle, checked.
    ///
    /// # Errors
    /// Parts that are missing or damaged, storage that does not answer, a stop.
    pub fn fetch(&self, manifest: &Manifest, stopping: &AtomicBool) -> anyhow::Result<Contents> {
        let mut files = BTreeMap::new();
        for (name, parts) in &manifest.files {
            let mut file = Vec::with_capacity(parts.iter().map(|part| part.bytes as usize).sum());
            for part in parts {
                go_on(stopping)?;
                let bytes = self.storage.read(&self.at(&part.path))?.with_context(|| format!("{} is missing", part.path))?;
                ensure!(hash(&bytes) == part.hash, "{} is damaged", part.path);
                file.extend_from_slice(&bytes);
            }
            files.insert(name.clone(), file);
        }
        Ok(Contents { files })
    }

    /// Puts a bundle beside the others. `draft` has only files whose parts are in the storage already.
    fn put(&self, draft: Manifest, contents: Contents, stopping: &AtomicBool) -> anyhow::Result<Manifest> {
        let mut manifest = draft;
        let stem = format!("{:020}-{:016x}", manifest.offset, RandomState::new().build_hasher().finish());
        let mut count = 0;
        for (name, file) in contents.files {
            let model = name.strip_prefix(MODEL);
            let mut parts = Vec::new();
            for bytes in file.chunks(PART) {
                go_on(stopping)?;
                let path = match model {
                    Some(hash) => format!("model-{hash}.{:04}", parts.len()),
                    None => format!("{stem}.{count:04}"),
                };
                count += 1;
                self.storage.put(&self.at(&path), bytes)?;
                parts.push(Part { path, bytes: bytes.len() as u64, hash: hash(bytes) });
            }
            manifest.files.insert(name, parts);
        }
        let name = format!("{stem}.json");
        if !self.storage.create(&self.at(&name), &serde_json::to_vec_pretty(&manifest)?)? {
            bail!("there is a bundle {name} already");
        }
        Ok(manifest)
    }

    /// Removes what is older than the bundles that are kept, and gives those, newest first.
    ///
    /// # Errors
    /// Storage that does not answer.
    pub fn tidy(&self) -> anyhow::Result<Vec<Manifest>> {
        let mut kept = self.list()?;
        kept.truncate(KEPT);
        let Some(oldest) = kept.last().filter(|_| kept.len() == KEPT) else { return Ok(kept) };
        let shared: BTreeSet<&str> = kept.iter().flat_map(Manifest::parts).map(|part| part.path.as_str()).collect();
        // An older bundle is gone with its manifest, so manifests go first; what an interrupted one left goes with the rest.
        let (manifests, parts): (Vec<String>, Vec<String>) = self.names()?.into_iter().partition(|name| name.ends_with(".json"));
        for name in manifests.iter().chain(&parts) {
            if offset_of(name).is_some_and(|offset| offset < oldest.offset) && !shared.contains(name.as_str()) {
                self.storage.delete(&self.at(name))?;
            }
        }
        Ok(kept)
    }

    fn names(&self) -> anyhow::Result<Vec<String>> {
        self.storage.list(&self.folder)
    }

    fn at(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }
}

impl Contents {
    fn file(&self, name: &str) -> anyhow::Result<&[u8]> {
        self.files.get(name).map(Vec::as_slice).with_context(|| format!("the bundle has no {name}"))
    }

    /// Files whose names begin so, each with what follows in its name.
    fn named<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.files.iter().filter_map(move |(name, bytes)| Some((name.strip_prefix(prefix)?, bytes.as_slice())))
    }
}

fn go_on(stopping: &AtomicBool) -> anyhow::Result<()> {
    ensure!(!stopping.load(Ordering::Acquire), "told to stop");
    Ok(())
}

/// The offset that a name begins with; none: it is of a model file, which all bundles share.
fn offset_of(name: &str) -> Option<Offset> {
    name.split_once('-')?.0.parse().ok()
}

fn parsed(name: &str, bytes: &[u8]) -> anyhow::Result<Manifest> {
    #[derive(Deserialize)]
    struct Form {
        format: u32,
    }
    let Form { format } = serde_json::from_slice(bytes).context("its manifest is damaged")?;
    ensure!(format == FORMAT, "it has format {format}: was it written by a newer kilter?");
    let manifest: Manifest = serde_json::from_slice(bytes).context("its manifest is damaged")?;
    ensure!(offset_of(name) == Some(manifest.offset), "its manifest says another offset than its name");
    Ok(manifest)
}

fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}
