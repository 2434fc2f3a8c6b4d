//! Artifacts on S3, Google Cloud or Azure. An object is there with its last byte, under the name that its path is.

use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{ClientConfigKey, Error as StorageError, GetOptions, GetRange, MultipartUpload, ObjectStore, ObjectStoreExt as _};
use object_store::{ObjectStoreScheme, PutPayload, RetryConfig};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{ArtifactFile, ArtifactPath, ArtifactsAt, Entry, SignedFile, SignedUpload, Span, absent, sign};
use crate::error::{Error, ErrorCode, Result};

/// Bytes of a part: the storages want 5 MiB at least, and some of them all alike.
const PART: usize = 8 << 20;
/// Bytes of an upload that are in memory without a place among the large ones.
const SMALL: usize = 256 << 10;
/// Uploads above this size that are in memory at a time; the others wait.
const LARGE_ONES: usize = 64;
/// How long an upload waits for such a place.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that the name of an object may have.
const NAME: usize = 1024;
/// How long the storage may take for a request, with its body.
const REQUEST: &str = "300s";
/// How long the first look at the storage may take.
const LOOK: Duration = Duration::from_secs(10);
/// How often in a row a download goes on where it broke, and gets no byte.
const RESUMES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);
/// How long addresses are good that are handed out.
const SIGNED_READ: Duration = Duration::from_secs(300);
const SIGNED_PART: Duration = Duration::from_secs(3600);

/// A bucket or container, and a prefix in it.
#[derive(Debug)]
pub(super) struct Cloud {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// What it signs; none: everything goes through this server.
    signs: Option<Signs>,
    large: Arc<Semaphore>,
}

#[derive(Debug)]
enum Signs {
    S3(Arc<AmazonS3>),
    /// Addresses to read at, but none for parts.
    Google(Arc<GoogleCloudStorage>),
}

impl Cloud {
    /// # Errors
    /// A URL of no known kind, settings that make no sense, a bucket that is not there or not ours. One that cannot be reached may come back.
    pub(super) async fn open(at: &ArtifactsAt) -> Result<Cloud> {
        let mut cloud = Cloud::configured(at)?;
        let refuse = |why: String| Err(Error::invalid(format!("cannot use {} for artifacts: {why}", at.url)));
        let mut found = cloud.store.list(Some(&cloud.prefix));
        match tokio::time::timeout(LOOK, found.next()).await {
            Ok(Some(Err(error))) => match status(&error) {
                Some(404) => return refuse("there is no such bucket or container\n  hint: make it first".into()),
                Some(401 | 403) => {
                    let hint = "keys come from the environment, such as AWS_ACCESS_KEY_ID, and must allow to list";
                    return refuse(format!("{error}\n  hint: {hint}"));
                }
                _ => tracing::warn!(%error, url = at.url, "the storage of artifacts cannot be reached now"),
            },
            Err(_) => tracing::warn!(url = at.url, "the storage of artifacts does not answer now"),
            Ok(None | Some(Ok(_))) => {}
        }
        drop(found);
        // Not every key may sign, and clients are not to be sent where nobody lets them in.
        if let Some(signs) = &cloud.signs {
            let why = match tokio::time::timeout(LOOK, signs.url("GET", &cloud.prefix, SIGNED_READ)).await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("no answer".into()),
            };
            if let Some(why) = why {
                tracing::warn!(why, url = at.url, "all artifacts go through this server: no address of the storage can be signed");
                cloud.signs = None;
            }
        }
        Ok(cloud)
    }

    fn configured(at: &ArtifactsAt) -> Result<Cloud> {
        let no_place = |why: &dyn std::fmt::Display| {
            let hint = "write s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, or file:///folder";
            Error::invalid(format!("{} is no place for artifacts: {why}\n  hint: {hint}", at.url))
        };
        let refuse = |why: &dyn std::fmt::Display| {
            let hint = "keys and settings come from the environment, by the names that https://docs.rs/object_store has";
            Error::invalid(format!("cannot use {} for artifacts: {why}\n  hint: {hint}", at.url))
        };
        let parsed = at.url.parse().map_err(|e| no_place(&e))?;
        let (kind, prefix) = ObjectStoreScheme::parse(&parsed).map_err(|e| no_place(&e))?;
        let is_on =
            |name: &str, value: &str| at.properties.iter().any(|(key, v)| key.eq_ignore_ascii_case(name) && v.eq_ignore_ascii_case(value));
        let has = |name: &str| at.properties.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
        let retry = RetryConfig { max_retries: 5, retry_timeout: Duration::from_secs(60), ..RetryConfig::default() };
        let (store, signs): (Arc<dyn ObjectStore>, _) = match kind {
            ObjectStoreScheme::AmazonS3 => {
                let builder = AmazonS3Builder::new().with_config(AmazonS3ConfigKey::Client(ClientConfigKey::Timeout), REQUEST);
                let builder = settings(at, "AWS_").fold(builder, |builder, (key, value)| builder.with_config(key, value));
                let store = Arc::new(builder.with_url(&at.url).with_retry(retry).build().map_err(|e| refuse(&e))?);
                // What is encrypted with a key of its own wants that key in the headers of each request.
                let cannot = is_on("AWS_SKIP_SIGNATURE", "true") || has("AWS_SSE_CUSTOMER_KEY_BASE64");
                (store.clone(), (!cannot).then(|| Signs::S3(store)))
            }
            ObjectStoreScheme::MicrosoftAzure => {
                let builder = MicrosoftAzureBuilder::new().with_config(AzureConfigKey::Client(ClientConfigKey::Timeout), REQUEST);
                let builder = settings(at, "AZURE_").fold(builder, |builder, (key, value)| builder.with_config(key, value));
                let store = Arc::new(builder.with_url(&at.url).with_retry(retry).build().map_err(|e| refuse(&e))?);
                // The library signs a name as it stands in the address: where that is not the name itself, Azure lets nobody in.
                (store, None)
            }
            ObjectStoreScheme::GoogleCloudStorage => {
                let builder = GoogleCloudStorageBuilder::new().with_config(GoogleConfigKey::Client(ClientConfigKey::Timeout), REQUEST);
                let builder = settings(at, "GOOGLE_").fold(builder, |builder, (key, value)| builder.with_config(key, value));
                let store = Arc::new(builder.with_url(&at.url).with_retry(retry).build().map_err(|e| refuse(&e))?);
                (store.clone(), (!is_on("GOOGLE_SKIP_SIGNATURE", "true")).then(|| Signs::Google(store)))
            }
            _ => return Err(no_place(&"it is none of these kinds of storage")),
        };
        let signs = signs.filter(|_| !at.by_proxy);
        Ok(Cloud { store, prefix, signs, large: Arc::new(Semaphore::new(LARGE_ONES)) })
    }

    /// The object of a path; the parts of a path are those of its name, as they are.
    fn at(&self, path: &ArtifactPath) -> Result<Path> {
        let whole = if path.is_root() { self.prefix.to_string() } else { format!("{}/{path}", self.prefix) };
        if whole.len() > NAME {
            return Err(Error::invalid("Invalid path"));
        }
        Path::parse(whole).map_err(|_| Error::invalid("Invalid path"))
    }

    pub(super) async fn list(&self, path: &ArtifactPath) -> Result<Vec<Entry>> {
        let at = self.at(path)?;
        let found = self.store.list_with_delimiter(Some(&at)).await.map_err(failed)?;
        let below = |location: &Path| {
            let mut parts = location.prefix_match(&at)?;
            // What ends with a slash, as some programs mark folders, has the folder's own name here.
            parts.next().filter(|_| parts.next().is_none()).map(|part| part.as_ref().to_owned())
        };
        let folders = found.common_prefixes.iter().filter_map(|folder| Some(Entry { name: below(folder)?, size: None }));
        let files = found.objects.iter().filter_map(|object| Some(Entry { name: below(&object.location)?, size: Some(object.size) }));
        Ok(folders.chain(files).collect())
    }

    pub(super) async fn read(&self, path: &ArtifactPath, span: Option<Span>) -> Result<ArtifactFile> {
        let at = self.at(path)?;
        let asked = |e| match e {
            StorageError::NotFound { .. } => absent(path),
            e => failed(e),
        };
        let (meta, range, stream) = match span {
            None => {
                let got = self.store.get(&at).await.map_err(asked)?;
                (got.meta.clone(), Some(0..got.meta.size), Some(got.into_stream()))
            }
            Some(span) => {
                let meta = self.store.head(&at).await.map_err(asked)?;
                let range = span.within(meta.size);
                (meta, range, None)
            }
        };
        let left = range.clone().unwrap_or(0..0);
        let reading = Reading { store: self.store.clone(), at, tag: meta.e_tag.clone(), left, stream, failed: 0 };
        let content = stream::try_unfold(reading, |mut reading| async move {
            let bytes = reading.next().await?;
            Ok(bytes.map(|bytes| (bytes, reading)))
        });
        let content = super::Content::Cloud(Content(content.boxed()));
        Ok(ArtifactFile { size: meta.size, range, tag: meta.e_tag.filter(|tag| tag.ends_with('"')), content })
    }

    pub(super) fn upload(&self, path: &ArtifactPath) -> Result<Upload> {
        let (store, to, large) = (self.store.clone(), self.at(path)?, self.large.clone());
        Ok(Upload { store, to, large, place: None, buffer: Vec::new(), parts: 0, sent: None })
    }

    pub(super) async fn delete(&self, path: &ArtifactPath) -> Result<()> {
        let at = self.at(path)?;
        let mut found = 0;
        let below = self.store.list(Some(&at)).map_ok(|object| object.location).boxed();
        let mut gone = self.store.delete_stream(below);
        while let Some(one) = gone.next().await {
            match one {
                // Somebody else deletes it too.
                Ok(_) | Err(StorageError::NotFound { .. }) => found += 1,
                Err(e) => return Err(failed(e)),
            }
        }
        match self.store.head(&at).await {
            Ok(_) => self.store.delete(&at).await.map_err(failed),
            Err(StorageError::NotFound { .. }) if found > 0 => Ok(()),
            Err(StorageError::NotFound { .. }) => Err(absent(path)),
            Err(e) => Err(failed(e)),
        }
    }

    pub(super) fn signs_uploads(&self) -> bool {
        matches!(self.signs, Some(Signs::S3(_)))
    }

    pub(super) fn signs_reads(&self) -> bool {
        self.signs.is_some()
    }

    pub(super) async fn sign_read(&self, path: &ArtifactPath) -> Result<SignedFile> {
        let at = self.at(path)?;
        let meta = self.store.head(&at).await.map_err(|e| match e {
            StorageError::NotFound { .. } => absent(path),
            e => failed(e),
        })?;
        let url = self.signed("GET", &at, SIGNED_READ).await?;
        Ok(SignedFile { url, size: meta.size })
    }

    pub(super) async fn sign_upload(&self, path: &ArtifactPath, parts: usize) -> Result<SignedUpload> {
        let (at, store) = (self.at(path)?, self.takes_parts()?);
        let signed = self.signed("PUT", &at, SIGNED_PART).await?;
        let credential = store.credentials().get_credential().await.map_err(failed)?;
        let odd = || Error::internal(&"a signed address of S3 is not as it was expected");
        // Where nothing can be signed, no upload is begun either.
        sign::with_query(&signed, &credential.secret_key, &[]).ok_or_else(odd)?;
        let id = store.create_multipart(&at).await.map_err(failed)?;
        let upload = id.clone();
        // Thousands of them take a moment.
        let urls = tokio::task::spawn_blocking(move || {
            let part = |n: usize| {
                let more = [("partNumber", n.to_string()), ("uploadId", upload.clone())];
                sign::with_query(&signed, &credential.secret_key, &more)
            };
            (1..=parts).map(part).collect::<Option<Vec<_>>>()
        });
        match urls.await.map_err(|e| Error::internal(&e)).and_then(|urls| urls.ok_or_else(odd)) {
            Ok(urls) => Ok(SignedUpload { id, urls }),
            Err(error) => {
                if let Err(error) = store.abort_multipart(&at, &id).await {
                    tracing::warn!(%error, object = %at, "an upload that nobody knows of stays in the bucket");
                }
                Err(error)
            }
        }
    }

    pub(super) async fn finish_signed(&self, path: &ArtifactPath, id: &str, tags: Vec<String>) -> Result<()> {
        let parts = tags.into_iter().map(|content_id| PartId { content_id }).collect();
        self.takes_parts()?.complete_multipart(&self.at(path)?, &id.to_owned(), parts).await.map_err(unfinished)?;
        Ok(())
    }

    pub(super) async fn abort_signed(&self, path: &ArtifactPath, id: &str) -> Result<()> {
        self.takes_parts()?.abort_multipart(&self.at(path)?, &id.to_owned()).await.map_err(refused_upload)
    }

    fn takes_parts(&self) -> Result<&AmazonS3> {
        match &self.signs {
            Some(Signs::S3(store)) => Ok(store),
            _ => Err(super::no_parts()),
        }
    }

    async fn signed(&self, method: &str, at: &Path, good: Duration) -> Result<String> {
        let signs = self.signs.as_ref().ok_or_else(super::no_parts)?;
        signs.url(method, at, good).await.map_err(failed)
    }
}

impl Signs {
    async fn url(&self, method: &str, at: &Path, good: Duration) -> object_store::Result<String> {
        let signer: &dyn Signer = match self {
            Signs::S3(store) => store.as_ref(),
            Signs::Google(store) => store.as_ref(),
        };
        let unknown = |e| StorageError::Generic { store: "artifacts", source: Box::new(e) };
        signer.signed_url(method.parse().map_err(unknown)?, at, good).await.map(|url| url.to_string())
    }
}

/// The settings of one kind of storage among those that are there.
fn settings<'a, K: FromStr>(at: &'a ArtifactsAt, begins: &'static str) -> impl Iterator<Item = (K, &'a String)> {
    let ours = at.properties.iter().filter(move |(key, _)| key.get(..begins.len()).is_some_and(|start| start.eq_ignore_ascii_case(begins)));
    ours.filter_map(|(key, value)| Some((key.to_ascii_lowercase().parse().ok()?, value)))
}

fn failed(error: StorageError) -> Error {
    match error {
        StorageError::Precondition { .. } => Error::new(ErrorCode::TemporarilyUnavailable, "the file was replaced meanwhile; send again"),
        StorageError::InvalidPath { source } => {
            tracing::error!(%source, "the name of an object is no path, and its folder cannot be read");
            let hint = "delete it with the storage's own tools, or give it another name";
            Error::new(ErrorCode::InternalError, format!("there is an object whose name is no path: {source}\n  hint: {hint}"))
        }
        error => Error::internal(&error),
    }
}

/// The library asks again where an answer is lost. If that was the answer to a finished upload, none of its id is there any more.
fn unfinished(error: StorageError) -> Error {
    if status(&error) == Some(404) {
        Error::missing("There is no such upload. One that was put together already is gone as well: the file may be there, and whole.")
    } else {
        refused_upload(error)
    }
}

/// What a client sent of an upload is not what the storage has of it.
fn refused_upload(error: StorageError) -> Error {
    let is_refused = matches!(status(&error), Some(400 | 404));
    if is_refused {
        Error::missing("There is no such upload, or its parts are not all there, or too small for the storage.")
    } else {
        failed(error)
    }
}

/// The status that a refused request was answered with: of some requests the library keeps it in the words alone.
fn status(error: &StorageError) -> Option<u16> {
    match error {
        StorageError::NotFound { .. } => Some(404),
        StorageError::PermissionDenied { .. } => Some(403),
        StorageError::Unauthenticated { .. } => Some(401),
        StorageError::Generic { .. } => error.to_string().split_once("status code: ")?.1.get(..3)?.parse().ok(),
        _ => None,
    }
}

/// The content of an object, or of some of its bytes.
pub(super) struct Content(BoxStream<'static, std::io::Result<Bytes>>);

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Content")
    }
}

impl Content {
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<std::io::Result<Bytes>>> {
        self.0.poll_next_unpin(cx)
    }
}

/// How far an object is read. A broken request goes on where it broke, with the same version of the object.
struct Reading {
    store: Arc<dyn ObjectStore>,
    at: Path,
    tag: Option<String>,
    left: Range<u64>,
    stream: Option<BoxStream<'static, object_store::Result<Bytes>>>,
    /// Times in a row that nothing came.
    failed: u32,
}

impl Reading {
    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        while !self.left.is_empty() {
            let came = match &mut self.stream {
                Some(stream) => stream
                    .next()
                    .await
                    .unwrap_or_else(|| Err(StorageError::Generic { store: "artifacts", source: "the object ended before its end".into() })),
                None => {
                    let range = Some(GetRange::Bounded(self.left.clone()));
                    match self.store.get_opts(&self.at, GetOptions { range, if_match: self.tag.clone(), ..GetOptions::default() }).await {
                        Ok(got) => {
                            self.stream = Some(got.into_stream());
                            continue;
                        }
                        Err(e) => Err(e),
                    }
                }
            };
            match came {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => {
                    self.failed = 0;
                    self.left.start += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                Err(error) => {
                    self.stream = None;
                    self.failed += 1;
                    let is_final = matches!(error, StorageError::NotFound { .. } | StorageError::Precondition { .. });
                    if is_final || self.tag.is_none() || self.failed > RESUMES {
                        tracing::warn!(%error, object = %self.at, "a download broke off");
                        return Err(std::io::Error::other(error));
                    }
                    tokio::time::sleep(PAUSE * 2_u32.pow(self.failed - 1)).await;
                }
            }
        }
        Ok(None)
    }
}

/// An object on its way in: in memory until it is larger than a part.
#[derive(Debug)]
pub(super) struct Upload {
    store: Arc<dyn ObjectStore>,
    to: Path,
    large: Arc<Semaphore>,
    place: Option<OwnedSemaphorePermit>,
    buffer: Vec<u8>,
    parts: usize,
    /// What was sent of it; nobody sees it yet.
    sent: Option<Box<dyn MultipartUpload>>,
}

impl Upload {
    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        if self.place.is_none() && self.buffer.len() + bytes.len() > SMALL {
            let place = tokio::time::timeout(PATIENCE, self.large.clone().acquire_owned()).await;
            let busy = || Error::new(ErrorCode::TemporarilyUnavailable, "too many large uploads at once; send again in a moment");
            self.place = Some(place.ok().and_then(std::result::Result::ok).ok_or_else(busy)?);
        }
        while !bytes.is_empty() {
            if self.buffer.len() == PART {
                self.send().await?;
            }
            if self.parts == super::PARTS {
                let most = (PART * super::PARTS) >> 30;
                return Err(Error::invalid(format!(
                    "a file larger than {most} GiB does not go through this server: let the client send it in parts"
                )));
            }
            let (now, later) = bytes.split_at(bytes.len().min(PART - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<()> {
        let sent = match &mut self.sent {
            Some(sent) => sent,
            None => self.sent.insert(self.store.put_multipart(&self.to).await.map_err(failed_write)?),
        };
        sent.put_part(PutPayload::from(std::mem::take(&mut self.buffer))).await.map_err(failed_write)?;
        self.parts += 1;
        Ok(())
    }

    pub(super) async fn finish(mut self) -> Result<()> {
        if self.sent.is_none() {
            let whole = PutPayload::from(std::mem::take(&mut self.buffer));
            self.store.put(&self.to, whole).await.map_err(failed_write)?;
            return Ok(());
        }
        if !self.buffer.is_empty() {
            self.send().await?;
        }
        if let Some(sent) = &mut self.sent {
            sent.complete().await.map_err(failed_write)?;
        }
        self.sent = None;
        Ok(())
    }
}

/// A bucket that is gone is no mistake of the client's.
fn failed_write(error: StorageError) -> Error {
    Error::internal(&error)
}

impl Drop for Upload {
    fn drop(&mut self) {
        let (Some(mut sent), Ok(runtime)) = (self.sent.take(), tokio::runtime::Handle::try_current()) else { return };
        let (to, place) = (self.to.clone(), self.place.take());
        runtime.spawn(async move {
            if let Err(error) = sent.abort().await {
                tracing::warn!(%error, object = %to, "parts of a broken upload stay in the bucket, where nobody sees them");
            }
            drop(place);
        });
    }
}
