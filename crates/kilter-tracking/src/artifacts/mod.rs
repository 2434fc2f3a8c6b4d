//! Artifacts: files in a folder or on object storage. One is there when it is whole, and never in part.

#[cfg(feature = "cloud")]
mod cloud;
mod folder;
mod path;
#[cfg(feature = "cloud")]
mod sign;

use std::future::poll_fn;
use std::ops::Range;
use std::path::Path;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::error::{Error, ErrorCode, Result};
use folder::Folder;
pub use path::ArtifactPath;

/// Parts that an upload may have, as the storages allow.
const PARTS: usize = 10_000;

/// What lies in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Bytes of a file; none: a folder.
    pub size: Option<u64>,
}

/// A place for artifacts other than the store's own folder.
#[derive(Clone)]
pub struct ArtifactsAt {
    /// `file:///folder`, or with the feature `cloud` also `s3://`, `gs://` and `az://`, with a prefix.
    pub url: String,
    /// What the storage wants to know, by the names of the variables that the crate `object_store` reads: `AWS_REGION`, `AWS_ENDPOINT_URL`, ... Others
    /// may be among them.
    pub properties: Vec<(String, String)>,
    /// No signed address of the storage is handed out.
    pub by_proxy: bool,
}

impl std::fmt::Debug for ArtifactsAt {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        // There are keys among the properties.
        f.debug_struct("ArtifactsAt").field("url", &self.url).field("by_proxy", &self.by_proxy).finish_non_exhaustive()
    }
}

/// The artifacts of a server.
#[derive(Debug)]
pub struct Artifacts(Kind);

#[derive(Debug)]
enum Kind {
    Folder(Folder),
    #[cfg(feature = "cloud")]
    Cloud(cloud::Cloud),
}

/// Some of the bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// From this one on.
    From(u64),
    /// From the one to the other, both of them.
    Between(u64, u64),
    /// So many at the end.
    Last(u64),
}

impl Span {
    /// Where it lies in a file of this size; none: nowhere.
    fn within(self, size: u64) -> Option<Range<u64>> {
        let range = match self {
            Span::From(first) => first..size,
            Span::Between(first, last) => first..size.min(last.saturating_add(1)),
            Span::Last(count) => size.saturating_sub(count)..size,
        };
        (range.start < range.end).then_some(range)
    }
}

/// A file that is open to be read, or some bytes of it: those of one version, whatever happens to the file meanwhile.
#[derive(Debug)]
pub struct ArtifactFile {
    /// Bytes of the whole file.
    pub size: u64,
    /// Which of them are read; none: the file does not have those that were asked for.
    pub range: Option<Range<u64>>,
    /// Tells this version of the file from others, in quotes, if the storage says so.
    pub tag: Option<String>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Folder(folder::Content),
    #[cfg(feature = "cloud")]
    Cloud(cloud::Content),
}

impl ArtifactFile {
    /// The next bytes; none: that was all.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<std::io::Result<Bytes>>> {
        match &mut self.content {
            Content::Folder(content) => content.poll_next(cx),
            #[cfg(feature = "cloud")]
            Content::Cloud(content) => content.poll_next(cx),
        }
    }

    /// The next bytes; none: that was all.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_next(cx)).await.transpose()
    }
}

/// An upload whose parts a client brings to the storage itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedUpload {
    /// Its id.
    pub id: String,
    /// Where the parts go, in order.
    pub urls: Vec<String>,
}

/// Where a file may be read for some minutes, from the storage itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedFile {
    /// The address.
    pub url: String,
    /// Bytes of the file.
    pub size: u64,
}

impl Artifacts {
    /// Those in the store's own folder. `is_alone`: no other process has it open.
    pub(crate) async fn open(dir: &Path, is_alone: bool) -> Result<Artifacts> {
        Ok(Artifacts(Kind::Folder(Folder::open(dir, is_alone).await?)))
    }

    /// Those elsewhere.
    pub(crate) async fn open_at(at: &ArtifactsAt) -> Result<Artifacts> {
        let refuse = |hint: &str| Err(Error::invalid(format!("{} is no place for artifacts\n  hint: {hint}", at.url)));
        match at.url.split_once("://") {
            Some(("file", path)) if path.starts_with('/') => Artifacts::open(Path::new(path), false).await,
            Some(("file", _)) => refuse("a folder is named from the root on: file:///shared/artifacts"),
            Some(_) => elsewhere(at).await,
            None => refuse("write a URL: s3://bucket/prefix, gs://, az://, or file:///folder"),
        }
    }

    /// The folder in which they lie; none: they are on object storage.
    pub(crate) fn folder(&self) -> Option<&Path> {
        match &self.0 {
            Kind::Folder(folder) => Some(folder.root()),
            #[cfg(feature = "cloud")]
            Kind::Cloud(_) => None,
        }
    }

    /// What lies in a folder, by name; nothing where there is none.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn list(&self, path: &ArtifactPath) -> Result<Vec<Entry>> {
        let mut entries = match &self.0 {
            Kind::Folder(folder) => folder.list(path).await,
            #[cfg(feature = "cloud")]
            Kind::Cloud(cloud) => cloud.list(path).await,
        }?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Opens a file to be read, or those bytes of it that `span` says.
    ///
    /// # Errors
    /// When there is no such file, or the storage fails.
    pub async fn read(&self, path: &ArtifactPath, span: Option<Span>) -> Result<ArtifactFile> {
        match &self.0 {
            Kind::Folder(folder) => folder.read(path, span).await,
            #[cfg(feature = "cloud")]
            Kind::Cloud(cloud) => cloud.read(path, span).await,
        }
    }

    /// Begins a file; it is there once [`Upload::finish`] has answered, and never in part.
    ///
    /// # Errors
    /// For the folder itself, or when the storage fails.
    pub async fn upload(&self, path: &ArtifactPath) -> Result<Upload> {
        not_all(path)?;
        match &self.0 {
            Kind::Folder(folder) => folder.upload(path).await.map(|upload| Upload(UploadKind::Folder(upload))),
            #[cfg(feature = "cloud")]
            Kind::Cloud(cloud) => cloud.upload(path).map(|upload| Upload(UploadKind::Cloud(upload))),
        }
    }

    /// Deletes a file, or a folder with all that lies in it.
    ///
    /// # Errors
    /// When there is nothing of this name, and for the folder of all artifacts. When the storage fails, in which case some of a folder may be gone.
    pub async fn delete(&self, path: &ArtifactPath) -> Result<()> {
        not_all(path)?;
        match &self.0 {
            Kind::Folder(folder) => folder.delete(path).await,
            #[cfg(feature = "cloud")]
            Kind::Cloud(cloud) => cloud.delete(path).await,
        }
    }

    /// Whether [`Artifacts::sign_upload`] has something to answer.
    pub fn signs_uploads(&self) -> bool {
        match &self.0 {
            Kind::Folder(_) => false,
            #[cfg(feature = "cloud")]
            Kind::Cloud(cloud) => cloud.signs_uploads(),
        }
    }

    /// Whether [`Artifacts::sign_read`] has something to answer.
    pub fn signs_reads(&self) -> bool {
        match &self.0 {
            Kind::Folder(_) => false,
            #[cfg(feature = "cloud")]
            Kind::Cloud(cloud) => cloud.signs_reads(),
        }
    }

    /// Begins a file whose parts a client brings to the storage itself, at addresses that are good for an hour.
    ///
    /// # Errors
    /// Where clients do not reach the storage; for more parts than it takes; when it fails.
    pub async fn sign_upload(&self, path: &ArtifactPath, parts: usize) -> Result<SignedUpload> {
        not_all(path)?;
        if !(1..=PARTS).contains(&parts) {
            return Err(Error::invalid(format!("an upload has 1 to {PARTS} parts, not {parts}")));
        }
        match &self.0 {
            #[cfg(feature = "cloud")]
            Kind::Cloud(cloud) if cloud.signs_uploads() => cloud.sign_upload(path, parts).await,
            _ => Err(no_parts()),
        }
    }

    /// Puts the parts of such a file together: `tags` are what the storage answered to each, in order.
    ///
    /// # Errors
    /// As [`Artifacts::sign_upload`], and when parts lack.
    #[cfg_attr(not(feature = "cloud"), expect(unused_variables, reason = "only object storage signs"))]
    pub async fn finish_signed(&self, path: &ArtifactPath, id: &str, tags: Vec<String>) -> Result<()> {
        not_all(path)?;
        match &self.0 {
            #[cfg(feature = "cloud")]
            Kind::Cloud(cloud) if cloud.signs_uploads() => cloud.finish_signed(path, id, tags).await,
            _ => Err(no_parts()),
        }
    }

    /// Gives such a file up.
    ///
    /// # Errors
    /// As [`Artifacts::sign_upload`].
    #[cfg_attr(not(feature = "cloud"), expect(unused_variables, reason = "only object storage signs"))]
    pub async fn abort_signed(&self, path: &ArtifactPath, id: &str) -> Result<()> {
        not_all(path)?;
        match &self.0 {
            #[cfg(feature = "cloud")]
            Kind::Cloud(cloud) if cloud.signs_uploads() => cloud.abort_signed(path, id).await,
            _ => Err(no_parts()),
        }
    }

    /// Where a client may read a file from the storage itself, for five minutes.
    ///
    /// # Errors
    /// Where clients do not reach the storage; when there is no such file; when it fails.
    #[cfg_attr(not(feature = "cloud"), expect(unused_variables, reason = "only object storage signs"))]
    pub async fn sign_read(&self, path: &ArtifactPath) -> Result<SignedFile> {
        match &self.0 {
            #[cfg(feature = "cloud")]
            Kind::Cloud(cloud) if cloud.signs_reads() => cloud.sign_read(path).await,
            _ => Err(Error::new(ErrorCode::NotImplemented, "Multipart download is not supported for the current artifact repository")),
        }
    }
}

/// MLflow's client reads these words, and sends the file through the server then.
fn no_parts() -> Error {
    Error::new(ErrorCode::NotImplemented, "Multipart upload is not supported for the current artifact repository")
}

fn not_all(path: &ArtifactPath) -> Result<()> {
    if path.is_root() { Err(Error::invalid("Invalid path")) } else { Ok(()) }
}

fn absent(path: &ArtifactPath) -> Error {
    Error::missing(format!("No such artifact: '{path}'"))
}

#[cfg(feature = "cloud")]
async fn elsewhere(at: &ArtifactsAt) -> Result<Artifacts> {
    Ok(Artifacts(Kind::Cloud(cloud::Cloud::open(at).await?)))
}

#[cfg(not(feature = "cloud"))]
async fn elsewhere(at: &ArtifactsAt) -> Result<Artifacts> {
    let hint = "build it with `--features artifacts-cloud`, or name a folder: file:///shared/artifacts";
    Err(Error::new(ErrorCode::NotImplemented, format!("{}: this program was built without object storage\n  hint: {hint}", at.url)))
}

/// A file on its way in. Dropped before its end, nothing is left of it.
#[derive(Debug)]
pub struct Upload(UploadKind);

#[derive(Debug)]
enum UploadKind {
    Folder(folder::Upload),
    #[cfg(feature = "cloud")]
    Cloud(cloud::Upload),
}

impl Upload {
    /// Adds bytes.
    ///
    /// # Errors
    /// When the storage fails, or takes no file of this size.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.0 {
            UploadKind::Folder(upload) => upload.write(bytes).await,
            #[cfg(feature = "cloud")]
            UploadKind::Cloud(upload) => upload.write(bytes).await,
        }
    }

    /// Puts the whole file in the place of what was there.
    ///
    /// # Errors
    /// When a part of the path is a file or the whole is a folder, where the storage knows folders, or when it fails.
    pub async fn finish(self) -> Result<()> {
        match self.0 {
            UploadKind::Folder(upload) => upload.finish().await,
            #[cfg(feature = "cloud")]
            UploadKind::Cloud(upload) => upload.finish().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_cut_to_the_file_or_lies_nowhere() {
        for (span, size, range) in [
            (Span::From(0), 5, Some(0..5)),
            (Span::From(4), 5, Some(4..5)),
            (Span::From(5), 5, None),
            (Span::Between(1, 3), 5, Some(1..4)),
            (Span::Between(1, u64::MAX), 5, Some(1..5)),
            (Span::Between(5, 9), 5, None),
            (Span::Last(2), 5, Some(3..5)),
            (Span::Last(9), 5, Some(0..5)),
            (Span::Last(0), 5, None),
            (Span::From(0), 0, None),
            (Span::Last(1), 0, None),
        ] {
            assert_eq!(span.within(size), range, "{span:?} of {size}");
        }
    }

    #[tokio::test]
    async fn a_place_is_a_url_of_a_known_kind() {
        let dir = tempfile::tempdir().unwrap();
        let at = |url: String| ArtifactsAt { url, properties: Vec::new(), by_proxy: false };
        let folder = Artifacts::open_at(&at(format!("file://{}", dir.path().display()))).await.unwrap();
        let path = ArtifactPath::parse("a/b").unwrap();
        let mut upload = folder.upload(&path).await.unwrap();
        upload.write(b"hello").await.unwrap();
        upload.finish().await.unwrap();
        assert_eq!(std::fs::read(dir.path().join("artifacts/a/b")).unwrap(), b"hello");
        assert_eq!(folder.sign_read(&path).await.unwrap_err().code, ErrorCode::NotImplemented);
        assert_eq!(folder.sign_upload(&path, 1).await.unwrap_err(), no_parts());
        for url in ["shared", "/shared", "file://shared", "ftp://host/x", "http://host/x"] {
            let error = Artifacts::open_at(&at(url.into())).await.unwrap_err();
            assert!(error.message.contains(url) && error.message.contains("hint: "), "{error}");
        }
    }
}
