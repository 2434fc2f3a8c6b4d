//! Where a lake's files lie: a few requests, each of which happens wholly or not at all.

#[cfg(feature = "cloud")]
mod cloud;
mod folder;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

pub use folder::Folder;

/// What a lake asks of the place it lies in. Paths are relative to the lake, with `/`.
///
/// Every request is atomic for those who read at the same time, and durable when it returns.
pub trait Storage: Send + Sync {
    /// Puts a file where one may be already: who reads sees the old one or the new one.
    fn put(&self, path: &str, bytes: &[u8]) -> anyhow::Result<()>;

    /// Puts a file where none is; false: there is one, which stays as it is.
    fn create(&self, path: &str, bytes: &[u8]) -> anyhow::Result<bool>;

    /// A whole file; none: it is not there.
    fn read(&self, path: &str) -> anyhow::Result<Option<Bytes>>;

    /// Some bytes of a file; none: it is not there.
    fn read_range(&self, path: &str, range: Range<u64>) -> anyhow::Result<Option<Bytes>>;

    /// Takes a file away, if it is there.
    fn delete(&self, path: &str) -> anyhow::Result<()>;

    /// The names of the files in a folder, in order; none where there is no such folder.
    fn list(&self, folder: &str) -> anyhow::Result<Vec<String>>;
}

/// The place that a URL names: `file:///folder`, or a folder (relative to `base`); with the feature `cloud` also `s3://`, `gs://` and `az://`, with `properties`
/// by the names that the crate `object_store` gives them.
///
/// # Errors
/// A URL of another kind, properties that are not known, a folder that cannot be made.
pub fn open(url: &str, base: &Path, properties: &BTreeMap<String, String>) -> anyhow::Result<Arc<dyn Storage>> {
    match url.split_once("://") {
        None | Some(("file", _)) => {
            let path = url.strip_prefix("file://").unwrap_or(url);
            Ok(Arc::new(Folder::open(&base.join(path))?))
        }
        Some(_) => elsewhere(url, properties),
    }
}

#[cfg(feature = "cloud")]
fn elsewhere(url: &str, properties: &BTreeMap<String, String>) -> anyhow::Result<Arc<dyn Storage>> {
    Ok(Arc::new(cloud::Cloud::open(url, properties)?))
}

#[cfg(not(feature = "cloud"))]
fn elsewhere(url: &str, _: &BTreeMap<String, String>) -> anyhow::Result<Arc<dyn Storage>> {
    anyhow::bail!(
        "{url}: this program was built without object storage\n  hint: build it with `--features lake-cloud`, or use a folder: url = \"file:///...\""
    )
}
