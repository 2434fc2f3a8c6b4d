//! Artifacts: files below one folder, under paths that cannot leave it.

use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::fs;
use tokio::io::AsyncWriteExt;

use crate::error::{Error, ErrorCode, Result};

/// Bytes that one name may have, as file systems allow.
const NAME: usize = 255;
const DEPTH: usize = 64;
/// Bytes that one path may have: two of them and a folder are what file systems allow.
const LENGTH: usize = 1500;

/// An upload to which nothing was written for so long is nobody's any more.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// A path below the folder of artifacts. One that exists has only parts that name something: it cannot climb.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArtifactPath(Vec<String>);

impl ArtifactPath {
    /// Reads a path whose URL encoding is gone; the empty one is the folder itself.
    ///
    /// # Errors
    /// What is absolute, climbs, or would climb for somebody who decodes once more.
    pub fn parse(text: &str) -> Result<ArtifactPath> {
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.is_empty() {
            return Ok(ArtifactPath::default());
        }
        let parts: Vec<String> = text.split('/').map(str::to_string).collect();
        if text.len() > LENGTH
            || parts.len() > DEPTH
            || !parts.iter().all(|part| names_a_file(part))
            || decoded(text).iter().any(|t| !t.split('/').all(names_a_file))
        {
            return Err(Error::invalid("Invalid path"));
        }
        Ok(ArtifactPath(parts))
    }

    /// A path below this one.
    pub fn join(&self, below: &ArtifactPath) -> ArtifactPath {
        ArtifactPath(self.0.iter().chain(&below.0).cloned().collect())
    }

    /// Whether it is the place `mlflow-artifacts:/a/b`, or one below or above it.
    pub fn touches(&self, location: &str) -> bool {
        !self.met(location).is_empty()
    }

    /// Whether it is the place `mlflow-artifacts:/a/b`, or one below it.
    pub fn is_within(&self, location: &str) -> bool {
        self.met(location).into_iter().any(|depth| depth <= self.0.len())
    }

    /// How deep the place is, for each reading of it that is on the same way as this path.
    fn met(&self, location: &str) -> Vec<usize> {
        let Some((_, rest)) = location.split_once(':').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("mlflow-artifacts")) else {
            return Vec::new();
        };
        // After two slashes a host comes first.
        let path = match rest.strip_prefix("//") {
            Some(after) => after.split_once('/').map_or("", |(_, path)| path),
            None => rest,
        };
        let forms = std::iter::once(path.to_string()).chain(decoded(path));
        let depth = |form: String| {
            let parts: Vec<&str> = form.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
            parts.iter().zip(&self.0).all(|(theirs, own)| theirs == own).then_some(parts.len())
        };
        forms.filter_map(depth).collect()
    }

    /// The last part.
    pub fn name(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    fn below(&self, root: &Path) -> PathBuf {
        self.0.iter().fold(root.to_path_buf(), |path, part| path.join(part))
    }
}

impl std::fmt::Display for ArtifactPath {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

fn names_a_file(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && part.len() <= NAME && !part.contains(['/', '\\', '\0'])
}

/// What a text comes to when its URL encoding is taken away again and again.
fn decoded(text: &str) -> Vec<String> {
    let mut forms: Vec<String> = Vec::new();
    let mut bytes = text.as_bytes().to_vec();
    while let Some(next) = decode(&bytes) {
        forms.push(String::from_utf8_lossy(&next).into_owned());
        bytes = next;
    }
    forms
}

/// None where there is nothing to decode; what comes out is shorter.
fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let digit = |at: usize| bytes.get(at).and_then(|b| (*b as char).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    (out.len() < bytes.len()).then_some(out)
}

/// What lies in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Bytes of a file; none: a folder.
    pub size: Option<u64>,
}

/// The artifacts of a server.
#[derive(Debug)]
pub struct Artifacts {
    root: PathBuf,
    /// Where uploads wait until they are whole: on the same disk, so that a rename ends them.
    uploads: PathBuf,
    /// Tells the uploads of this process from those of others that have the folder open.
    process: String,
    number: AtomicU64,
}

/// A file that is open to be read.
#[derive(Debug)]
pub struct ArtifactFile {
    /// Its content.
    pub file: fs::File,
    /// Its bytes.
    pub size: u64,
}

impl Artifacts {
    /// `is_alone`: no other process has the folder open.
    pub(crate) async fn open(dir: &Path, is_alone: bool) -> Result<Artifacts> {
        let (root, uploads) = (dir.join("artifacts"), dir.join("uploads"));
        for folder in [&root, &uploads] {
            fs::create_dir_all(folder).await.map_err(|e| Error::internal(&e))?;
        }
        remove_parts(&uploads, if is_alone { Duration::ZERO } else { ABANDONED }).await.map_err(|e| Error::internal(&e))?;
        let process = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        Ok(Artifacts { root, uploads, process, number: AtomicU64::new(0) })
    }

    /// Where they lie.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// What lies in a folder, by name; nothing where there is none.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn list(&self, path: &ArtifactPath) -> Result<Vec<Entry>> {
        let mut folder = match fs::read_dir(path.below(&self.root)).await {
            Ok(folder) => folder,
            Err(e) if is_absent(&e) => return Ok(Vec::new()),
            Err(e) => return Err(Error::internal(&e)),
        };
        let mut entries = Vec::new();
        while let Some(entry) = folder.next_entry().await.map_err(|e| Error::internal(&e))? {
            let Ok(meta) = entry.metadata().await else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            entries.push(Entry { name, size: meta.is_file().then_some(meta.len()) });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Opens a file to be read.
    ///
    /// # Errors
    /// When there is no such file.
    pub async fn read(&self, path: &ArtifactPath) -> Result<ArtifactFile> {
        let absent = || Error::missing(format!("No such artifact: '{path}'"));
        let file = match fs::File::open(path.below(&self.root)).await {
            Ok(file) => file,
            Err(e) if is_absent(&e) => return Err(absent()),
            Err(e) => return Err(Error::internal(&e)),
        };
        let meta = file.metadata().await.map_err(|e| Error::internal(&e))?;
        if meta.is_file() { Ok(ArtifactFile { file, size: meta.len() }) } else { Err(absent()) }
    }

    /// Begins a file; it is there once [`Upload::finish`] has answered, and never in part.
    ///
    /// # Errors
    /// For the folder itself, or when the disk fails.
    pub async fn upload(&self, path: &ArtifactPath) -> Result<Upload> {
        if path.0.is_empty() {
            return Err(Error::invalid("Invalid path"));
        }
        let part = self.uploads.join(format!("{}-{}", self.process, self.number.fetch_add(1, Ordering::Relaxed)));
        let file = fs::File::create(&part).await.map_err(|e| Error::internal(&e))?;
        Ok(Upload { file, part: Some(part), to: path.below(&self.root) })
    }

    /// Deletes a file, or a folder with all that lies in it.
    ///
    /// # Errors
    /// When there is nothing of this name, and for the folder of all artifacts.
    pub async fn delete(&self, path: &ArtifactPath) -> Result<()> {
        if path.0.is_empty() {
            return Err(Error::invalid("Invalid path"));
        }
        let at = path.below(&self.root);
        let done = match fs::symlink_metadata(&at).await {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&at).await,
            Ok(_) => fs::remove_file(&at).await,
            Err(e) => Err(e),
        };
        match done {
            Err(e) if is_absent(&e) => Err(Error::missing(format!("No such artifact: '{path}'"))),
            done => done.map_err(|e| Error::internal(&e)),
        }
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename)
}

/// A file on its way in. Dropped before its end, nothing is left of it.
#[derive(Debug)]
pub struct Upload {
    file: fs::File,
    part: Option<PathBuf>,
    to: PathBuf,
}

impl Upload {
    /// Adds bytes.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).await.map_err(|e| Error::internal(&e))
    }

    /// Puts the whole file in the place of what was there.
    ///
    /// # Errors
    /// When a part of the path is a file or the whole is a folder, or the disk fails.
    pub async fn finish(mut self) -> Result<()> {
        let Some(part) = &self.part else { return Ok(()) };
        let failed = |e: std::io::Error| match e.kind() {
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists | ErrorKind::IsADirectory | ErrorKind::DirectoryNotEmpty => {
                Error::new(ErrorCode::InvalidParameterValue, "Invalid path: a file or folder of that name is in the way")
            }
            ErrorKind::InvalidFilename => Error::invalid("Invalid path"),
            _ => Error::internal(&e),
        };
        self.file.flush().await.map_err(failed)?;
        self.file.sync_data().await.map_err(failed)?;
        if let Some(folder) = self.to.parent() {
            fs::create_dir_all(folder).await.map_err(failed)?;
        }
        fs::rename(part, &self.to).await.map_err(failed)?;
        self.part = None;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(part) = &self.part {
            let _ = std::fs::remove_file(part);
        }
    }
}

/// Removes what an earlier process left half done, and did not write to for so long.
async fn remove_parts(uploads: &Path, age: Duration) -> std::io::Result<()> {
    let mut parts = fs::read_dir(uploads).await?;
    while let Some(part) = parts.next_entry().await? {
        let written = part.metadata().await.and_then(|meta| meta.modified());
        let is_old = written.is_ok_and(|at| age.is_zero() || at.elapsed().is_ok_and(|since| since >= age));
        match if is_old { fs::remove_file(part.path()).await } else { Ok(()) } {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_knows_the_places_on_its_way() {
        for (location, within, touches) in [
            ("mlflow-artifacts:/a/b", true, true),
            ("mlflow-artifacts:/a/b c", true, true),
            ("mlflow-artifacts:/a/b%20c/", true, true),
            ("MLflow-Artifacts://host:5000//a/./b%2520c", true, true),
            ("mlflow-artifacts:/a/b c/d", true, true),
            ("mlflow-artifacts:/", true, true),
            ("mlflow-artifacts://a", true, true),
            ("mlflow-artifacts:/a/b c/d/e", false, true),
            ("mlflow-artifacts:/b", false, false),
            ("mlflow-artifacts:/a/b c/dd", false, false),
            ("s3://a/b c", false, false),
            ("/a", false, false),
        ] {
            let path = ArtifactPath::parse(if location.ends_with("/b") { "a/b/d" } else { "a/b c/d" }).unwrap();
            assert_eq!((path.is_within(location), path.touches(location)), (within, touches), "{location}");
            assert_eq!(ArtifactPath::default().touches(location), location.to_ascii_lowercase().starts_with("mlflow"), "{location}");
        }
    }

    #[test]
    fn no_form_of_climbing_is_a_path() {
        for bad in [
            "..",
            "../x",
            "a/../x",
            "/etc/passwd",
            "a//b",
            ".",
            "a/./b",
            "a\\b",
            "%2e%2e",
            "a/%2E%2e/b",
            "a%2f..%2fb",
            "%252e%252e/x",
            "a\0b",
        ] {
            assert!(ArtifactPath::parse(bad).is_err(), "{bad}");
        }
        assert!(ArtifactPath::parse(&"a/".repeat(60)).is_ok() && ArtifactPath::parse(&format!("{}/", "a".repeat(250)).repeat(20)).is_err());
        for good in ["a", "a/b.txt", "a/", "ä ö/ü", "100%", "a%zz", "...", "", "a%20b"] {
            assert!(ArtifactPath::parse(good).is_ok(), "{good}");
        }
    }

    proptest! {
        #[test]
        fn a_path_stays_below_its_root(text in "[a./%25eE\\\\\\x00 -]{0,24}") {
            if let Ok(path) = ArtifactPath::parse(&text) {
                let at = path.below(Path::new("/root-folder"));
                prop_assert!(at.starts_with("/root-folder"));
                prop_assert!(at.components().all(|c| !matches!(c, std::path::Component::ParentDir)));
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_starts_beside_another_leaves_its_uploads_alone() {
        let dir = tempfile::tempdir().unwrap();
        let left = |name: &str| {
            std::fs::create_dir_all(dir.path().join("uploads")).unwrap();
            std::fs::File::create(dir.path().join("uploads").join(name)).unwrap()
        };
        left("old").set_modified(std::time::SystemTime::now() - 2 * ABANDONED).unwrap();
        let one = Artifacts::open(dir.path(), false).await.unwrap();
        let path = |name: &str| ArtifactPath::parse(name).unwrap();
        let mut first = one.upload(&path("a")).await.unwrap();
        first.write(b"one").await.unwrap();
        let other = Artifacts::open(dir.path(), false).await.unwrap();
        let mut second = other.upload(&path("b")).await.unwrap();
        second.write(b"other").await.unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("uploads")).unwrap().count(), 2, "what is old is gone");
        first.finish().await.unwrap();
        second.finish().await.unwrap();
        assert_eq!((other.read(&path("a")).await.unwrap().size, one.read(&path("b")).await.unwrap().size), (3, 5));
        left("new");
        Artifacts::open(dir.path(), true).await.unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("uploads")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn an_upload_is_there_when_it_is_whole_and_leaves_nothing_when_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(dir.path(), true).await.unwrap();
        let path = ArtifactPath::parse("0/run/artifacts/d/a.txt").unwrap();
        let mut upload = artifacts.upload(&path).await.unwrap();
        upload.write(b"hel").await.unwrap();
        assert!(artifacts.read(&path).await.is_err());
        drop(upload);
        assert_eq!(std::fs::read_dir(dir.path().join("uploads")).unwrap().count(), 0);
        let mut upload = artifacts.upload(&path).await.unwrap();
        upload.write(b"hello").await.unwrap();
        upload.finish().await.unwrap();
        assert_eq!(artifacts.read(&path).await.unwrap().size, 5);
        let folder = ArtifactPath::parse("0/run/artifacts").unwrap();
        assert_eq!(artifacts.list(&folder).await.unwrap(), [Entry { name: "d".into(), size: None }]);
        let inside = artifacts.upload(&path.join(&ArtifactPath::parse("x").unwrap())).await.unwrap();
        assert_eq!(inside.finish().await.unwrap_err().code, ErrorCode::InvalidParameterValue);
        artifacts.delete(&folder).await.unwrap();
        assert!(artifacts.list(&folder).await.unwrap().is_empty());
        assert_eq!(artifacts.delete(&folder).await.unwrap_err().code, ErrorCode::ResourceDoesNotExist);
    }
}
