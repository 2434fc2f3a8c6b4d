//! Models, reports and other files of a run, stored once under the hash of their content.
//!
//! ```text
//! blobs/3f/3f9a...   content by blake3 hash
//! runs/<run>/<name>  a line with the hash and size of what the run calls by that name
//! ```
//! Hashes and names are checked before any path is made of them, so no request can reach outside the folder.

use crate::error::StoreError;
use crate::files;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

/// Names that one run may have.
const MAX_NAMES: usize = 10_000;
const NAME_RULE: &str = "use 1 to 8 parts joined by '/', each of 1 to 64 letters, digits, '.', '_', '-' and not starting with '.', at most 200 characters in all";
const RUN_RULE: &str = "use 1 to 64 letters, digits, '.', '_', '-', not starting with '.'";

/// A folder of artifacts.
#[derive(Debug)]
pub struct Artifacts {
    dir: PathBuf,
    max_bytes: u64,
}

/// The blake3 hash of an artifact's content, as 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArtifactHash(String);

/// A named artifact of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactEntry {
    /// The name within the run, with `/` between its parts.
    pub name: String,
    /// Content hash.
    pub hash: ArtifactHash,
    /// Size in bytes.
    pub bytes: u64,
}

impl Artifacts {
    /// Opens the folder, creating it when there is none. `max_bytes` limits one artifact.
    ///
    /// Errors: [`StoreError::Io`].
    pub fn open(dir: impl Into<PathBuf>, max_bytes: u64) -> Result<Self, StoreError> {
        let dir = dir.into();
        for sub in ["blobs", "runs"] {
            files::make_dir(&dir.join(sub))?;
        }
        for shard in files::names(&dir.join("blobs"))? {
            files::prepare_dir(&dir.join("blobs").join(shard))?;
        }
        Ok(Self { dir, max_bytes })
    }

    /// Stores the content durably and answers its hash; content that is already there is not written again.
    ///
    /// Errors: [`StoreError::TooLarge`], [`StoreError::Io`].
    pub fn put(&self, bytes: &[u8]) -> Result<ArtifactHash, StoreError> {
        if bytes.len() as u64 > self.max_bytes {
            return Err(StoreError::TooLarge { what: "artifact (bytes)", size: bytes.len() as u64, limit: self.max_bytes });
        }
        let hash = ArtifactHash(blake3::hash(bytes).to_hex().to_string());
        let path = self.blob_path(&hash);
        // Storing again repairs a file that was damaged.
        if fs::read(&path).is_ok_and(|stored| stored == bytes) {
            return Ok(hash);
        }
        if let Some(dir) = path.parent() {
            files::make_dir(dir)?;
        }
        files::write_whole(&path, &[bytes])?;
        Ok(hash)
    }

    /// The content, verified against its hash.
    ///
    /// Errors: [`StoreError::NotFound`], [`StoreError::Damaged`], [`StoreError::Io`].
    pub fn get(&self, hash: &ArtifactHash) -> Result<Vec<u8>, StoreError> {
        let path = self.blob_path(hash);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let hint = "the artifact was never stored here, or its file was removed";
                return Err(StoreError::NotFound { what: format!("artifact {hash}"), hint });
            }
            Err(e) => return Err(StoreError::io("read", &path, e)),
        };
        if blake3::hash(&bytes).to_hex().as_str() != hash.0 {
            return Err(StoreError::Damaged { path, detail: "content does not have the hash it is stored under".to_owned() });
        }
        Ok(bytes)
    }

    /// Stores the content and gives it a name within the run, replacing an earlier one of that name.
    ///
    /// Errors: [`StoreError::BadName`], [`StoreError::TooLarge`] (also above 10 000 names a run), [`StoreError::Io`].
    pub fn put_named(&self, run_id: &str, name: &str, bytes: &[u8]) -> Result<ArtifactEntry, StoreError> {
        let path = self.name_path(run_id, name)?;
        if let Some(dir) = path.parent() {
            files::make_dir(dir)?;
            let count = files::names(dir)?.len();
            if count >= MAX_NAMES && !path.exists() {
                return Err(StoreError::TooLarge { what: "run (artifacts)", size: count as u64 + 1, limit: MAX_NAMES as u64 });
            }
        }
        let hash = self.put(bytes)?;
        let entry = ArtifactEntry { name: name.to_owned(), hash, bytes: bytes.len() as u64 };
        files::write_whole(&path, &[format!("{} {}\n", entry.hash, entry.bytes).as_bytes()])?;
        Ok(entry)
    }

    /// The named artifacts of a run by name; none for a run that stored nothing.
    ///
    /// Errors: [`StoreError::BadName`], [`StoreError::Damaged`], [`StoreError::Io`].
    pub fn list(&self, run_id: &str) -> Result<Vec<ArtifactEntry>, StoreError> {
        let dir = self.run_dir(run_id)?;
        if !dir.exists() {
            return Ok(Vec::new());
        }
        let stored: Vec<_> = files::names(&dir)?.into_iter().filter_map(|file| file_to_name(&file)).collect();
        let mut entries = stored.iter().map(|name| self.entry(run_id, name)).collect::<Result<Vec<_>, _>>()?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The content that a run calls by that name.
    ///
    /// Errors: [`StoreError::BadName`] and those of [`Artifacts::get`].
    pub fn get_named(&self, run_id: &str, name: &str) -> Result<Vec<u8>, StoreError> {
        self.get(&self.entry(run_id, name)?.hash)
    }

    /// The runs that call something by this name, in order.
    ///
    /// Errors: [`StoreError::BadName`], [`StoreError::Io`].
    pub fn runs_with(&self, name: &str) -> Result<Vec<String>, StoreError> {
        let mut runs = Vec::new();
        for run in files::names(&self.dir.join("runs"))?.into_iter().filter(|run| is_part(run)) {
            if self.name_path(&run, name)?.exists() {
                runs.push(run);
            }
        }
        runs.sort_unstable();
        Ok(runs)
    }

    /// Takes away the name and the content behind it, also for whoever else names that content; what is not there is no error.
    ///
    /// Errors: [`StoreError::BadName`], [`StoreError::Damaged`], [`StoreError::Io`].
    pub fn remove_named(&self, run_id: &str, name: &str) -> Result<(), StoreError> {
        let entry = match self.entry(run_id, name) {
            Ok(entry) => entry,
            Err(StoreError::NotFound { .. }) => return Ok(()),
            Err(e) => return Err(e),
        };
        // The name goes last: until then it can be done again.
        for path in [self.blob_path(&entry.hash), self.name_path(run_id, name)?] {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(StoreError::io("remove", &path, e)),
                _ => {}
            }
            if let Some(dir) = path.parent() {
                fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| StoreError::io("sync", dir, e))?;
            }
        }
        Ok(())
    }

    fn entry(&self, run_id: &str, name: &str) -> Result<ArtifactEntry, StoreError> {
        let path = self.name_path(run_id, name)?;
        let line = match fs::read_to_string(&path) {
            Ok(line) => line,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let hint = "list the run's artifacts to see their names";
                return Err(StoreError::NotFound { what: format!("artifact {name:?} of run {run_id:?}"), hint });
            }
            Err(e) => return Err(StoreError::io("read", &path, e)),
        };
        let parsed = line.trim_end().split_once(' ').and_then(|(hash, bytes)| Some((hash.parse().ok()?, bytes.parse().ok()?)));
        let (hash, bytes) = parsed.ok_or_else(|| StoreError::Damaged { path, detail: "not a hash and a size".to_owned() })?;
        Ok(ArtifactEntry { name: name.to_owned(), hash, bytes })
    }

    fn blob_path(&self, hash: &ArtifactHash) -> PathBuf {
        self.dir.join("blobs").join(&hash.0[..2]).join(&hash.0)
    }

    fn run_dir(&self, run_id: &str) -> Result<PathBuf, StoreError> {
        if !is_part(run_id) {
            return Err(StoreError::BadName { what: "run id", name: run_id.to_owned(), rule: RUN_RULE });
        }
        Ok(self.dir.join("runs").join(run_id))
    }

    fn name_path(&self, run_id: &str, name: &str) -> Result<PathBuf, StoreError> {
        let parts = name.split('/');
        if name.len() > 200 || parts.clone().count() > 8 || !parts.clone().all(is_part) {
            return Err(StoreError::BadName { what: "artifact name", name: name.to_owned(), rule: NAME_RULE });
        }
        // One flat file, so that "a" and "a/b" can both exist.
        Ok(self.run_dir(run_id)?.join(name.replace('/', "%")))
    }
}

impl fmt::Display for ArtifactHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ArtifactHash {
    /// The 64 hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ArtifactHash {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for ArtifactHash {
    type Error = StoreError;

    fn try_from(text: String) -> Result<Self, StoreError> {
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self(text));
        }
        Err(StoreError::BadName { what: "artifact hash", name: text, rule: "an artifact hash is 64 lower-case hex digits" })
    }
}

impl From<ArtifactHash> for String {
    fn from(hash: ArtifactHash) -> Self {
        hash.0
    }
}

fn is_part(part: &str) -> bool {
    (1..=64).contains(&part.len())
        && !part.starts_with('.')
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The name stored in a file of that name; none for a file that is not ours.
fn file_to_name(file: &str) -> Option<String> {
    (!file.ends_with(".unfinished") && file.split('%').all(is_part)).then(|| file.replace('%', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifacts(dir: &tempfile::TempDir) -> Artifacts {
        Artifacts::open(dir.path(), 1_000).unwrap()
    }

    #[test]
    fn what_is_removed_is_gone_by_name_and_by_content() {
        let dir = tempfile::tempdir().unwrap();
        let store = artifacts(&dir);
        for run in ["b", "a"] {
            store.put_named(run, "curves.json", run.as_bytes()).unwrap();
            store.put_named(run, "model", b"model").unwrap();
        }
        assert_eq!(store.runs_with("curves.json").unwrap(), ["a", "b"]);
        let hash = store.list("a").unwrap()[0].hash.clone();
        store.remove_named("a", "curves.json").unwrap();
        store.remove_named("a", "curves.json").unwrap();
        assert!(matches!(store.get(&hash), Err(StoreError::NotFound { .. })));
        assert_eq!(store.runs_with("curves.json").unwrap(), ["b"]);
        assert_eq!(
            (store.get_named("a", "model").unwrap(), store.get_named("b", "curves.json").unwrap()),
            (b"model".to_vec(), b"b".to_vec())
        );
    }

    #[test]
    fn content_comes_back_by_hash_and_is_stored_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = artifacts(&dir);
        let hash = store.put(b"model").unwrap();
        assert_eq!(hash.as_str(), blake3::hash(b"model").to_hex().as_str());
        assert_eq!(store.put(b"model").unwrap(), hash);
        assert_eq!(store.get(&hash).unwrap(), b"model");
        let absent = ArtifactHash::from_str(&"0".repeat(64)).unwrap();
        assert!(matches!(store.get(&absent), Err(StoreError::NotFound { .. })));
    }

    #[test]
    fn damage_is_noticed_and_storing_again_repairs_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = artifacts(&dir);
        let hash = store.put(b"model").unwrap();
        fs::write(store.blob_path(&hash), b"mod3l").unwrap();
        assert!(matches!(store.get(&hash), Err(StoreError::Damaged { .. })));
        store.put(b"model").unwrap();
        assert_eq!(store.get(&hash).unwrap(), b"model");
    }

    #[test]
    fn a_run_lists_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let store = artifacts(&dir);
        assert_eq!(store.list("run1").unwrap(), []);
        store.put_named("run1", "model/weights.bin", b"weights").unwrap();
        store.put_named("run1", "model", b"not a folder").unwrap();
        store.put_named("run1", "model", b"replaced").unwrap();
        store.put_named("run2", "other", b"o").unwrap();
        let listed: Vec<_> = store.list("run1").unwrap().into_iter().map(|e| (e.name, e.bytes)).collect();
        assert_eq!(listed, [("model".to_owned(), 8), ("model/weights.bin".to_owned(), 7)]);
        assert_eq!(store.get_named("run1", "model").unwrap(), b"replaced");
        assert!(matches!(store.get_named("run1", "absent"), Err(StoreError::NotFound { .. })));
    }

    #[test]
    fn no_name_leaves_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let store = artifacts(&dir);
        let long = "x".repeat(65);
        let deep = ["a"; 9].join("/");
        for bad in ["", "..", "../x", "/etc/passwd", "a//b", "a/../b", "a/", ".hidden", "a\\b", "a%b", "a\0b", "é", &long, &deep] {
            assert!(matches!(store.put_named("run", bad, b""), Err(StoreError::BadName { .. })), "{bad:?}");
            assert!(store.get_named("run", bad).is_err());
            if bad != deep {
                assert!(matches!(store.list(bad), Err(StoreError::BadName { .. })), "{bad:?}");
            }
        }
        for bad in ["../../etc/passwd", "", &"A".repeat(64), &"é".repeat(32)] {
            assert!(ArtifactHash::from_str(bad).is_err());
            assert!(serde_json::from_value::<ArtifactHash>(serde_json::json!(bad)).is_err());
        }
    }

    #[test]
    fn an_artifact_above_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = artifacts(&dir).put_named("run", "big", &[0; 1_001]).unwrap_err();
        assert!(matches!(error, StoreError::TooLarge { size: 1_001, limit: 1_000, .. }));
        assert_eq!(artifacts(&dir).list("run").unwrap(), []);
    }
}
