//! A lake in a folder of the file system.
//!
//! A file is written in `_kilter/staging`, which Spark, DuckDB and pandas pass over, flushed, and moved to its place in one step. Several shards, of one process or of
//! several, write into one folder, and one of them may open it while another writes: each staged file has a name that nobody else has.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;

use super::Storage;

const STAGING: &str = "_kilter/staging";
/// What lies in the staging folder for so long is what an interrupted write left.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

/// Numbers what this process stages: workers have the lake of each of their shards open.
static STAGED: AtomicU64 = AtomicU64::new(0);

/// A folder as a lake's place.
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Opens the folder, and makes it if there is none. What an interrupted write left long ago is cleared away; what is young may be another worker's.
    pub fn open(root: &Path) -> anyhow::Result<Folder> {
        let staging = root.join(STAGING);
        let prepare = || -> std::io::Result<()> {
            fs::create_dir_all(&staging)?;
            for entry in fs::read_dir(&staging)? {
                let path = entry?.path();
                let age = || fs::metadata(&path).and_then(|m| m.modified()).ok()?.elapsed().ok();
                if age().is_some_and(|age| age > ABANDONED_AFTER) {
                    absent(fs::remove_file(&path))?;
                }
            }
            Ok(())
        };
        prepare().with_context(|| format!("the lake's folder {} cannot be used", root.display()))?;
        Ok(Folder { root: root.to_owned() })
    }

    /// A flushed file with these bytes, not yet in its place.
    fn stage(&self, bytes: &[u8]) -> std::io::Result<PathBuf> {
        // Processes on other machines may have the same id, and one that was killed may have had this one.
        let (path, mut file) = loop {
            let number = STAGED.fetch_add(1, Ordering::Relaxed);
            let path = self.root.join(STAGING).join(format!("{}-{number}", std::process::id()));
            match File::create_new(&path) {
                Ok(file) => break (path, file),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        };
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(path)
    }

    /// Writes a file and gives it its place by `place`.
    fn write(&self, path: &str, bytes: &[u8], place: impl FnOnce(&Path, &Path) -> std::io::Result<bool>) -> anyhow::Result<bool> {
        let to = self.root.join(path);
        let write = || -> std::io::Result<bool> {
            let parent = to.parent().unwrap_or(&self.root);
            let made = !parent.is_dir();
            if made {
                fs::create_dir_all(parent)?;
            }
            let placed = place(&self.stage(bytes)?, &to)?;
            File::open(parent)?.sync_all()?;
            if made {
                // New folders are entries of those above them.
                for above in parent.ancestors().skip(1).take_while(|a| a.starts_with(&self.root)) {
                    File::open(above)?.sync_all()?;
                }
            }
            Ok(placed)
        };
        write().with_context(|| format!("cannot write {}", to.display()))
    }
}

impl Storage for Folder {
    fn put(&self, path: &str, bytes: &[u8]) -> anyhow::Result<()> {
        self.write(path, bytes, |staged, to| fs::rename(staged, to).map(|()| true)).map(|_| ())
    }

    fn create(&self, path: &str, bytes: &[u8]) -> anyhow::Result<bool> {
        self.write(path, bytes, |staged, to| {
            // A second name is only given where there is no file of that name; a rename would take the place of one.
            let placed = match fs::hard_link(staged, to) {
                Ok(()) => true,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => false,
                Err(e) => return Err(e),
            };
            fs::remove_file(staged)?;
            Ok(placed)
        })
    }

    fn read(&self, path: &str) -> anyhow::Result<Option<Bytes>> {
        let from = self.root.join(path);
        absent(fs::read(&from).map(Bytes::from)).with_context(|| format!("cannot read {}", from.display()))
    }

    fn read_range(&self, path: &str, range: Range<u64>) -> anyhow::Result<Option<Bytes>> {
        let from = self.root.join(path);
        let read = || -> std::io::Result<Bytes> {
            let mut file = File::open(&from)?;
            file.seek(SeekFrom::Start(range.start))?;
            let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(std::io::Error::other)?];
            file.read_exact(&mut bytes)?;
            Ok(bytes.into())
        };
        absent(read()).with_context(|| format!("cannot read {}", from.display()))
    }

    fn delete(&self, path: &str) -> anyhow::Result<()> {
        let at = self.root.join(path);
        absent(fs::remove_file(&at)).with_context(|| format!("cannot remove {}", at.display()))?;
        Ok(())
    }

    fn list(&self, folder: &str) -> anyhow::Result<Vec<String>> {
        let at = self.root.join(folder);
        let names = || -> std::io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&at)? {
                let entry = entry?;
                if entry.file_type()?.is_file() {
                    names.push(entry.file_name().to_string_lossy().into_owned());
                }
            }
            names.sort_unstable();
            Ok(names)
        };
        Ok(absent(names()).with_context(|| format!("cannot list {}", at.display()))?.unwrap_or_default())
    }
}

fn absent<T>(result: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn several_write_into_one_folder_and_each_gets_its_own() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for shard in 0..4 {
                let root = dir.path();
                scope.spawn(move || {
                    for number in 0..50 {
                        let folder = Folder::open(root).unwrap();
                        let (path, bytes) = (format!("{shard}/{number}"), format!("{shard}-{number}"));
                        assert!(folder.create(&path, bytes.as_bytes()).unwrap());
                        folder.put(&format!("{shard}/newest"), bytes.as_bytes()).unwrap();
                        assert_eq!(folder.read(&path).unwrap().as_deref(), Some(bytes.as_bytes()));
                        assert_eq!(folder.read(&format!("{shard}/newest")).unwrap().as_deref(), Some(bytes.as_bytes()));
                    }
                });
            }
        });
    }

    #[test]
    fn files_are_placed_whole_or_not_at_all_and_leave_nothing_aside() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        assert!(folder.create("a/b.json", b"one").unwrap());
        assert!(!folder.create("a/b.json", b"two").unwrap());
        assert_eq!(folder.read("a/b.json").unwrap().as_deref(), Some(&b"one"[..]));
        folder.put("a/b.json", b"three").unwrap();
        assert_eq!(folder.read_range("a/b.json", 1..3).unwrap().as_deref(), Some(&b"hr"[..]));
        assert!(folder.read_range("a/b.json", 1..9).is_err(), "a file that is shorter is damaged, not absent");
        assert_eq!(folder.read_range("a/c.json", 0..1).unwrap(), None);
        assert_eq!(folder.list("a").unwrap(), ["b.json"]);
        assert_eq!(folder.list("b").unwrap(), [""; 0]);
        let staging = dir.path().join(STAGING);
        let aside = || fs::read_dir(&staging).unwrap().count();
        assert_eq!(aside(), 0);
        // As a kill leaves it, before the file had its place.
        fs::write(staging.join("7-0"), b"half").unwrap();
        drop(folder);
        let folder = Folder::open(dir.path()).unwrap();
        assert_eq!(aside(), 1, "it may be another worker's");
        let old = std::time::SystemTime::now() - 2 * ABANDONED_AFTER;
        File::options().write(true).open(staging.join("7-0")).unwrap().set_modified(old).unwrap();
        let folder = Folder::open(&folder.root).unwrap();
        assert_eq!(aside(), 0);
        folder.delete("a/b.json").unwrap();
        folder.delete("a/b.json").unwrap();
        assert_eq!(folder.read("a/b.json").unwrap(), None);
    }

    /// As the shards of one worker do, each of which has the lake open.
    #[test]
    fn several_write_at_once() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for shard in 0..4u8 {
                let root = dir.path();
                scope.spawn(move || {
                    let folder = Folder::open(root).unwrap();
                    for n in 0..50 {
                        let (path, bytes) = (format!("{shard}/{n}"), vec![shard; 10_000]);
                        assert!(folder.create(&path, &bytes).unwrap());
                        assert_eq!(folder.read(&path).unwrap().unwrap(), bytes);
                    }
                });
            }
        });
    }
}
