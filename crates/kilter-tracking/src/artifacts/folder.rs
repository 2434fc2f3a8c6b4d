//! Artifacts in a folder of a disk.

use std::hash::{BuildHasher, RandomState};
use std::io::{ErrorKind, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::fs;
use tokio::io::{AsyncRead, AsyncSeekExt, AsyncWriteExt, ReadBuf};

use super::{ArtifactFile, ArtifactPath, Entry, Span, absent};
use crate::error::{Error, ErrorCode, Result};

/// An upload to which nothing was written for so long is nobody's any more.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);
/// Bytes of a file that are in memory at once.
const PIECE: usize = 256 * 1024;

/// A folder with files, and one with those that are on their way in.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    /// Where uploads wait until they are whole: on the same disk, so that a rename ends them.
    uploads: PathBuf,
    /// Tells the uploads of this process from those of others that have the folder open.
    process: String,
    number: AtomicU64,
}

impl Folder {
    /// `is_alone`: no other process has the folder open.
    pub(super) async fn open(dir: &Path, is_alone: bool) -> Result<Folder> {
        let (root, uploads) = (dir.join("artifacts"), dir.join("uploads"));
        for folder in [&root, &uploads] {
            fs::create_dir_all(folder).await.map_err(|e| Error::internal(&e))?;
        }
        remove_parts(&uploads, if is_alone { Duration::ZERO } else { ABANDONED }).await.map_err(|e| Error::internal(&e))?;
        let process = format!("{:016x}", RandomState::new().hash_one(std::process::id()));
        Ok(Folder { root, uploads, process, number: AtomicU64::new(0) })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) async fn list(&self, path: &ArtifactPath) -> Result<Vec<Entry>> {
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
        Ok(entries)
    }

    pub(super) async fn read(&self, path: &ArtifactPath, span: Option<Span>) -> Result<ArtifactFile> {
        let mut file = match fs::File::open(path.below(&self.root)).await {
            Ok(file) => file,
            Err(e) if is_absent(&e) => return Err(absent(path)),
            Err(e) => return Err(Error::internal(&e)),
        };
        let meta = file.metadata().await.map_err(|e| Error::internal(&e))?;
        if !meta.is_file() {
            return Err(absent(path));
        }
        let size = meta.len();
        let range = span.map_or(Some(0..size), |span| span.within(size));
        let (start, left) = range.as_ref().map_or((0, 0), |range| (range.start, range.end - range.start));
        if start > 0 {
            file.seek(SeekFrom::Start(start)).await.map_err(|e| Error::internal(&e))?;
        }
        // A file is replaced by another one, and not written to.
        let tag = Some(format!("\"{:x}-{:x}-{:x}-{size:x}\"", meta.ino(), meta.mtime(), meta.mtime_nsec()));
        Ok(ArtifactFile { size, range, tag, content: super::Content::Folder(Content { file, left, piece: Vec::new() }) })
    }

    pub(super) async fn upload(&self, path: &ArtifactPath) -> Result<Upload> {
        let part = self.uploads.join(format!("{}-{}", self.process, self.number.fetch_add(1, Ordering::Relaxed)));
        let file = fs::File::create(&part).await.map_err(|e| Error::internal(&e))?;
        Ok(Upload { file, part: Some(part), to: path.below(&self.root) })
    }

    pub(super) async fn delete(&self, path: &ArtifactPath) -> Result<()> {
        let at = path.below(&self.root);
        let done = match fs::symlink_metadata(&at).await {
            Ok(meta) if meta.is_dir() => fs::remove_dir_all(&at).await,
            Ok(_) => fs::remove_file(&at).await,
            Err(e) => Err(e),
        };
        match done {
            Err(e) if is_absent(&e) => Err(absent(path)),
            done => done.map_err(|e| Error::internal(&e)),
        }
    }
}

/// What is read of a file, piece by piece.
#[derive(Debug)]
pub(super) struct Content {
    file: fs::File,
    left: u64,
    piece: Vec<u8>,
}

impl Content {
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<std::io::Result<Bytes>>> {
        let Content { file, left, piece } = self;
        if *left == 0 {
            return Poll::Ready(None);
        }
        let most = PIECE.min(usize::try_from(*left).unwrap_or(usize::MAX));
        piece.resize(most, 0);
        let mut buffer = ReadBuf::new(piece);
        Poll::Ready(Some(match std::task::ready!(Pin::new(file).poll_read(cx, &mut buffer)) {
            Err(e) => Err(e),
            Ok(()) if buffer.filled().is_empty() => Err(ErrorKind::UnexpectedEof.into()),
            Ok(()) => {
                *left -= buffer.filled().len() as u64;
                Ok(Bytes::copy_from_slice(buffer.filled()))
            }
        }))
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename)
}

#[derive(Debug)]
pub(super) struct Upload {
    file: fs::File,
    part: Option<PathBuf>,
    to: PathBuf,
}

impl Upload {
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).await.map_err(|e| Error::internal(&e))
    }

    pub(super) async fn finish(mut self) -> Result<()> {
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

    #[tokio::test]
    async fn a_server_that_starts_beside_another_leaves_its_uploads_alone() {
        let dir = tempfile::tempdir().unwrap();
        let left = |name: &str| {
            std::fs::create_dir_all(dir.path().join("uploads")).unwrap();
            std::fs::File::create(dir.path().join("uploads").join(name)).unwrap()
        };
        left("old").set_modified(std::time::SystemTime::now() - 2 * ABANDONED).unwrap();
        let one = Folder::open(dir.path(), false).await.unwrap();
        let path = |name: &str| ArtifactPath::parse(name).unwrap();
        let mut first = one.upload(&path("a")).await.unwrap();
        first.write(b"one").await.unwrap();
        let other = Folder::open(dir.path(), false).await.unwrap();
        let mut second = other.upload(&path("b")).await.unwrap();
        second.write(b"other").await.unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("uploads")).unwrap().count(), 2, "what is old is gone");
        first.finish().await.unwrap();
        second.finish().await.unwrap();
        assert_eq!((other.read(&path("a"), None).await.unwrap().size, one.read(&path("b"), None).await.unwrap().size), (3, 5));
        left("new");
        Folder::open(dir.path(), true).await.unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("uploads")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn an_upload_is_there_when_it_is_whole_and_leaves_nothing_when_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let artifacts = Folder::open(dir.path(), true).await.unwrap();
        let path = ArtifactPath::parse("0/run/artifacts/d/a.txt").unwrap();
        let mut upload = artifacts.upload(&path).await.unwrap();
        upload.write(b"hel").await.unwrap();
        assert!(artifacts.read(&path, None).await.is_err());
        drop(upload);
        assert_eq!(std::fs::read_dir(dir.path().join("uploads")).unwrap().count(), 0);
        let mut upload = artifacts.upload(&path).await.unwrap();
        upload.write(b"hello").await.unwrap();
        upload.finish().await.unwrap();
        assert_eq!(artifacts.read(&path, None).await.unwrap().size, 5);
        let folder = ArtifactPath::parse("0/run/artifacts").unwrap();
        assert_eq!(artifacts.list(&folder).await.unwrap(), [Entry { name: "d".into(), size: None }]);
        let inside = artifacts.upload(&path.join(&ArtifactPath::parse("x").unwrap())).await.unwrap();
        assert_eq!(inside.finish().await.unwrap_err().code, ErrorCode::InvalidParameterValue);
        artifacts.delete(&folder).await.unwrap();
        assert!(artifacts.list(&folder).await.unwrap().is_empty());
        assert_eq!(artifacts.delete(&folder).await.unwrap_err().code, ErrorCode::ResourceDoesNotExist);
    }
}
