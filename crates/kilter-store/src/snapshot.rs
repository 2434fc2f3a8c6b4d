//! Snapshots of the keyed state, so that a restart replays minutes of the log and not years.
//!
//! A snapshot is never needed for correctness, only for speed: a damaged one is passed over for the next older one, and
//! with none at all the state is computed from the start of the log.
//!
//! ```text
//! file = "KILTSNAP"  version u32  offset u64  event time i64  payload length u64  hash length u32  definition hash
//!        blake3 of all the rest (32 bytes)  payload
//! ```

use crate::error::StoreError;
use crate::files;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const MAGIC: &[u8; 8] = b"KILTSNAP";
const VERSION: u32 = 1;
const FIXED_BYTES: usize = 40;
const CHECKSUM_BYTES: usize = 32;
const MAX_HASH_BYTES: usize = 256;
const SUFFIX: &str = ".snapshot";

/// A folder of snapshots.
#[derive(Debug)]
pub struct Snapshots {
    dir: PathBuf,
    options: SnapshotOptions,
    /// Held while writing and removing.
    writing: Mutex<()>,
}

/// How many snapshots are kept and how large one may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// The newest so many are kept, for a restart; at least 1.
    pub keep: usize,
    /// Of the older ones at most so many, for jobs that start in the past.
    pub keep_old: usize,
    /// Older ones are at least this far apart in event time, in microseconds.
    pub keep_spacing_micros: i64,
    /// Largest payload in bytes.
    pub max_bytes: u64,
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        Self { keep: 3, keep_old: 12, keep_spacing_micros: 7 * 24 * 3600 * 1_000_000, max_bytes: 64 << 30 }
    }
}

/// State as it was before the event at `offset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Log offset of the first event that is not in the state: where replay goes on.
    pub offset: u64,
    /// Event time reached, in microseconds UTC.
    pub event_time: i64,
    /// The state, as it was given.
    pub bytes: Vec<u8>,
}

/// A snapshot on disk, without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// See [`Snapshot::offset`].
    pub offset: u64,
    /// See [`Snapshot::event_time`].
    pub event_time: i64,
    /// Hash of the definitions that the state belongs to.
    pub definition_hash: String,
    /// Size of the payload in bytes.
    pub bytes: u64,
    /// The file.
    pub path: PathBuf,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotSearch {
    /// The newest intact snapshot that fits, if any.
    pub snapshot: Option<Snapshot>,
    /// Damaged files that were passed over, each with the reason.
    pub skipped: Vec<(PathBuf, String)>,
}

impl Snapshots {
    /// Opens the folder, creating it when there is none.
    ///
    /// Errors: [`StoreError::Io`].
    pub fn open(dir: impl Into<PathBuf>, options: SnapshotOptions) -> Result<Self, StoreError> {
        let dir = dir.into();
        files::prepare_dir(&dir)?;
        Ok(Self { dir, options, writing: Mutex::default() })
    }

    /// Stores a snapshot durably, then removes those no longer kept. `offset` is the first event not in the state,
    /// `event_time` in microseconds UTC.
    ///
    /// Errors: [`StoreError::TooLarge`], [`StoreError::BadName`] for a definition hash above 256 bytes, [`StoreError::Io`].
    pub fn write(&self, offset: u64, event_time: i64, definition_hash: &str, bytes: &[u8]) -> Result<SnapshotInfo, StoreError> {
        let limit = self.options.max_bytes;
        if bytes.len() as u64 > limit {
            return Err(StoreError::TooLarge { what: "snapshot (bytes)", size: bytes.len() as u64, limit });
        }
        if definition_hash.len() > MAX_HASH_BYTES {
            let name = definition_hash.to_owned();
            return Err(StoreError::BadName { what: "definition hash", name, rule: "at most 256 bytes" });
        }
        let mut head = Vec::with_capacity(FIXED_BYTES + definition_hash.len());
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&offset.to_le_bytes());
        head.extend_from_slice(&event_time.to_le_bytes());
        head.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        head.extend_from_slice(&(definition_hash.len() as u32).to_le_bytes());
        head.extend_from_slice(definition_hash.as_bytes());
        let checksum = checksum(&head, bytes);
        let path = self.dir.join(file_name(offset, definition_hash));
        let _guard = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        files::write_whole(&path, &[&head, &checksum, bytes])?;
        self.prune(definition_hash)?;
        let definition_hash = definition_hash.to_owned();
        Ok(SnapshotInfo { offset, event_time, definition_hash, bytes: bytes.len() as u64, path })
    }

    /// The newest snapshot of these definitions at or before `max_offset`.
    ///
    /// Errors: [`StoreError::Io`] when the folder cannot be read. A damaged file is no error, see [`SnapshotSearch`].
    pub fn newest(&self, max_offset: u64, definition_hash: &str) -> Result<SnapshotSearch, StoreError> {
        self.search(definition_hash, |info| info.offset <= max_offset)
    }

    /// The newest snapshot of these definitions whose event time is at or before `event_time` (microseconds UTC).
    ///
    /// Errors: as [`Snapshots::newest`].
    pub fn newest_before_time(&self, event_time: i64, definition_hash: &str) -> Result<SnapshotSearch, StoreError> {
        self.search(definition_hash, |info| info.event_time <= event_time)
    }

    /// All snapshots with a readable head, oldest first; payloads are not verified.
    ///
    /// Errors: [`StoreError::Io`].
    pub fn list(&self) -> Result<Vec<SnapshotInfo>, StoreError> {
        Ok(self.scan()?.into_iter().filter_map(|(_, head)| head.ok()).collect())
    }

    /// Every snapshot file by ascending offset, with its head or what is wrong with it.
    fn scan(&self) -> Result<Vec<(PathBuf, Head)>, StoreError> {
        let names = files::names(&self.dir)?;
        let paths = names.iter().filter(|n| n.ends_with(SUFFIX)).map(|n| self.dir.join(n));
        Ok(paths.map(|path| (path.clone(), read_head(&path).map(|(info, _)| info).and_then(check_name))).collect())
    }

    fn search(&self, definition_hash: &str, fits: impl Fn(&SnapshotInfo) -> bool) -> Result<SnapshotSearch, StoreError> {
        let mut found = SnapshotSearch::default();
        for (path, head) in self.scan()?.into_iter().rev() {
            let loaded = match head {
                Ok(info) if info.definition_hash != definition_hash || !fits(&info) => continue,
                Ok(info) => load(&info),
                Err(reason) => Err(reason),
            };
            match loaded {
                Ok(snapshot) => {
                    found.snapshot = Some(snapshot);
                    break;
                }
                Err(reason) => {
                    tracing::warn!(path = %path.display(), reason, "passed over a damaged snapshot");
                    found.skipped.push((path, reason));
                }
            }
        }
        Ok(found)
    }

    fn prune(&self, definition_hash: &str) -> Result<(), StoreError> {
        let (current, others): (Vec<_>, Vec<_>) = self.list()?.into_iter().partition(|info| info.definition_hash == definition_hash);
        let keep = self.options.keep.max(1);
        let (old, _) = current.split_at(current.len().saturating_sub(keep));
        // Oldest first, so that a snapshot once kept for its distance stays kept.
        let mut kept: Vec<&SnapshotInfo> = Vec::new();
        for info in old {
            let far = |last: &&SnapshotInfo| info.event_time.saturating_sub(last.event_time) >= self.options.keep_spacing_micros;
            if kept.last().is_none_or(far) {
                kept.push(info);
            }
        }
        let kept = &kept[kept.len().saturating_sub(self.options.keep_old)..];
        let removed_old = old.iter().filter(|info| !kept.contains(info));
        // Snapshots of other definitions help only someone who goes back to them.
        let removed_others = &others[..others.len().saturating_sub(keep)];
        for info in removed_old.chain(removed_others) {
            fs::remove_file(&info.path).map_err(|e| StoreError::io("remove", &info.path, e))?;
        }
        Ok(())
    }
}

/// What a file says of itself, or what is wrong with it.
type Head = Result<SnapshotInfo, String>;

/// The same offset under two definitions is two files.
fn file_name(offset: u64, definition_hash: &str) -> String {
    let definition = blake3::hash(definition_hash.as_bytes()).to_hex();
    format!("{offset:020}-{}{SUFFIX}", &definition[..12])
}

/// A damaged head must not pass for a snapshot of another offset or of other definitions.
fn check_name(info: SnapshotInfo) -> Head {
    let expected = file_name(info.offset, &info.definition_hash);
    let named = info.path.file_name().is_some_and(|name| *name == *expected);
    if named { Ok(info) } else { Err("the file's name and head disagree".to_owned()) }
}

/// The head and the checksum that follows it.
fn read_head(path: &Path) -> Result<(SnapshotInfo, [u8; CHECKSUM_BYTES]), String> {
    let mut file = File::open(path).map_err(|e| format!("cannot be opened: {e}"))?;
    let len = file.metadata().map_err(|e| format!("cannot be measured: {e}"))?.len();
    let cut = |_| "the file is cut".to_owned();
    let mut fixed = [0; FIXED_BYTES];
    file.read_exact(&mut fixed).map_err(cut)?;
    if fixed[..8] != *MAGIC {
        return Err("the file does not start as a snapshot does".to_owned());
    }
    let version = u32::from_le_bytes(array(&fixed, 8));
    if version != VERSION {
        return Err(format!("snapshot format {version} is not known to this program"));
    }
    let bytes = u64::from_le_bytes(array(&fixed, 28));
    let hash_len = u32::from_le_bytes(array(&fixed, 36)) as usize;
    if hash_len > MAX_HASH_BYTES {
        return Err("the head is damaged".to_owned());
    }
    let mut hash = vec![0; hash_len];
    file.read_exact(&mut hash).map_err(cut)?;
    let mut checksum = [0; CHECKSUM_BYTES];
    file.read_exact(&mut checksum).map_err(cut)?;
    let expected = bytes.checked_add((FIXED_BYTES + hash_len + CHECKSUM_BYTES) as u64);
    if expected != Some(len) {
        return Err(format!("the file has {len} bytes, its head promises another length"));
    }
    let info = SnapshotInfo {
        offset: u64::from_le_bytes(array(&fixed, 12)),
        event_time: i64::from_le_bytes(array(&fixed, 20)),
        definition_hash: String::from_utf8(hash).map_err(|_| "the head is damaged".to_owned())?,
        bytes,
        path: path.to_owned(),
    };
    Ok((info, checksum))
}

fn load(info: &SnapshotInfo) -> Result<Snapshot, String> {
    let (_, expected) = read_head(&info.path)?;
    let mut bytes = fs::read(&info.path).map_err(|e| format!("cannot be read: {e}"))?;
    let head = FIXED_BYTES + info.definition_hash.len();
    let payload = bytes.get(head + CHECKSUM_BYTES..).ok_or("the file is cut")?;
    if checksum(&bytes[..head], payload) != expected {
        return Err("checksum differs".to_owned());
    }
    bytes.drain(..head + CHECKSUM_BYTES);
    Ok(Snapshot { offset: info.offset, event_time: info.event_time, bytes })
}

fn checksum(head: &[u8], payload: &[u8]) -> [u8; CHECKSUM_BYTES] {
    *blake3::Hasher::new().update(head).update(payload).finalize().as_bytes()
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    fn offsets(snapshots: &Snapshots) -> Vec<u64> {
        snapshots.list().unwrap().iter().map(|i| i.offset).collect()
    }

    #[test]
    fn the_newest_that_fits_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path(), SnapshotOptions::default()).unwrap();
        assert_eq!(snapshots.newest(u64::MAX, "v1").unwrap(), SnapshotSearch::default());
        for n in 1..=3 {
            snapshots.write(n * 10, n as i64 * HOUR, "v1", &[n as u8; 1000]).unwrap();
        }
        snapshots.write(40, 4 * HOUR, "v2", b"other definitions").unwrap();
        let newest = snapshots.newest(u64::MAX, "v1").unwrap();
        assert_eq!(newest.snapshot, Some(Snapshot { offset: 30, event_time: 3 * HOUR, bytes: vec![3; 1000] }));
        assert_eq!(newest.skipped, []);
        assert_eq!(snapshots.newest(29, "v1").unwrap().snapshot.unwrap().offset, 20);
        assert_eq!(snapshots.newest(9, "v1").unwrap().snapshot, None);
        assert_eq!(snapshots.newest_before_time(3 * HOUR - 1, "v1").unwrap().snapshot.unwrap().offset, 20);
        assert_eq!(snapshots.newest_before_time(3 * HOUR, "v1").unwrap().snapshot.unwrap().offset, 30);
        assert_eq!(snapshots.newest(u64::MAX, "v2").unwrap().snapshot.unwrap().bytes, b"other definitions");
        assert_eq!(snapshots.newest(u64::MAX, "v3").unwrap().snapshot, None);
    }

    #[test]
    fn any_damage_falls_back_to_the_next_older_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let snapshots = Snapshots::open(dir.path(), SnapshotOptions::default()).unwrap();
        snapshots.write(1, 1, "h", b"older").unwrap();
        let path = snapshots.write(2, 2, "h", b"newer").unwrap().path;
        let good = fs::read(&path).unwrap();
        let flipped = (0..good.len()).map(|at| {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            bad
        });
        let cut = (0..good.len()).map(|len| good[..len].to_vec());
        for bad in flipped.chain(cut) {
            fs::write(&path, &bad).unwrap();
            let found = snapshots.newest(10, "h").unwrap();
            assert_eq!(found.snapshot.unwrap().bytes, b"older");
            assert_eq!(found.skipped.len(), 1);
            assert_eq!(found.skipped[0].0, path);
        }
    }

    #[test]
    fn an_interrupted_write_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        for (name, hours) in [("a.snapshot.1.0.unfinished", 2), ("b.snapshot.1.1.unfinished", 0)] {
            let file = File::create(dir.path().join(name)).unwrap();
            let written = std::time::SystemTime::now() - std::time::Duration::from_secs(hours * 3600);
            file.set_modified(written).unwrap();
        }
        let snapshots = Snapshots::open(dir.path(), SnapshotOptions::default()).unwrap();
        // The young one may be another process's that is about to be finished.
        assert_eq!(files::names(dir.path()).unwrap(), ["b.snapshot.1.1.unfinished"]);
        assert_eq!(snapshots.newest(10, "h").unwrap(), SnapshotSearch::default());
    }

    #[test]
    fn the_newest_and_some_spaced_older_ones_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let options = SnapshotOptions { keep: 2, keep_old: 3, keep_spacing_micros: 10 * HOUR, ..Default::default() };
        let snapshots = Snapshots::open(dir.path(), options).unwrap();
        for n in 0..=25 {
            snapshots.write(n, n as i64 * HOUR, "h", b"").unwrap();
        }
        assert_eq!(offsets(&snapshots), [0, 10, 20, 24, 25]);
        for n in 26..=45 {
            snapshots.write(n, n as i64 * HOUR, "h", b"").unwrap();
        }
        assert_eq!(offsets(&snapshots), [20, 30, 40, 44, 45]);
        for n in 46..=49 {
            snapshots.write(n, n as i64 * HOUR, "new definitions", b"").unwrap();
        }
        assert_eq!(offsets(&snapshots), [44, 45, 46, 48, 49]);
    }

    #[test]
    fn a_snapshot_above_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let options = SnapshotOptions { max_bytes: 10, ..Default::default() };
        let snapshots = Snapshots::open(dir.path(), options).unwrap();
        assert!(matches!(snapshots.write(1, 1, "h", &[0; 11]), Err(StoreError::TooLarge { size: 11, limit: 10, .. })));
        assert!(snapshots.write(1, 1, &"h".repeat(300), &[]).is_err());
        assert!(offsets(&snapshots).is_empty());
    }
}
