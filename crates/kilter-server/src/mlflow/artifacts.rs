//! Artifacts: the proxy that clients send files to and get them from, and what lies in the folder of a run.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use kilter_tracking::{ArtifactFile, ArtifactPath, Entry, Error, ErrorCode, SignedFile, SignedUpload, Span, Tracking};
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::answer::{Answer, Refusal, done, json};
use super::input::{Fields, Input};

/// How long an upload may bring nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// Addresses of parts in an answer that is made and sent beside any number of others.
const FEW: usize = 100;
/// Places for answers with more, which are megabytes each.
static MANY: Semaphore = Semaphore::const_new(4);
/// What this server serves itself begins so.
pub const OWN: &str = "mlflow-artifacts:/";

#[derive(Serialize)]
struct Listing {
    #[serde(skip_serializing_if = "Option::is_none")]
    root_uri: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<FileInfo>,
}

#[derive(Serialize)]
struct FileInfo {
    path: String,
    is_dir: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_size: Option<u64>,
}

fn file_info(prefix: &str, entry: Entry) -> FileInfo {
    let path = if prefix.is_empty() { entry.name } else { format!("{prefix}/{}", entry.name) };
    FileInfo { path, is_dir: entry.size.is_none(), file_size: entry.size }
}

/// The folder that is to be listed: clients say `.` for the one where they are.
fn folder(path: &str) -> kilter_tracking::Result<ArtifactPath> {
    let named: Vec<&str> = path.split('/').filter(|part| *part != ".").collect();
    ArtifactPath::parse(&named.join("/"))
}

/// What lies in a folder of the proxy, by names alone.
pub async fn list(State(tracking): State<Tracking>, input: Input) -> Answer {
    let path = folder(input.fields().text("path")?.unwrap_or_default())?;
    let entries = tracking.artifacts().list(&path).await?;
    Ok(json(&Listing { root_uri: None, files: entries.into_iter().map(|e| file_info("", e)).collect() }))
}

/// What lies in a folder of a run, by paths below the run's own.
pub async fn list_of_run(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let root_uri = tracking.run_info(f.need_run()?).await?.artifact_uri;
    list_below(&tracking, root_uri, f.text("path")?.unwrap_or_default()).await
}

/// What lies in a folder below `root_uri`, by paths below that.
pub async fn list_below(tracking: &Tracking, root_uri: String, path: &str) -> Answer {
    let below = folder(path)?;
    let root = root_uri.strip_prefix(OWN).filter(|rest| !rest.starts_with('/')).ok_or_else(|| {
        Error::new(ErrorCode::NotImplemented, format!("these artifacts are at {root_uri}, which this server does not read"))
    })?;
    let entries = tracking.artifacts().list(&ArtifactPath::parse(root)?.join(&below)).await?;
    let prefix = below.to_string();
    let files = entries.into_iter().map(|e| file_info(&prefix, e)).collect();
    Ok(json(&Listing { root_uri: Some(root_uri), files }))
}

pub async fn download(State(tracking): State<Tracking>, Path(path): Path<String>, asked: HeaderMap) -> Answer {
    let path = ArtifactPath::parse(&path)?;
    let mut span = asked.get(RANGE).and_then(|value| span(value.to_str().ok()?));
    let mut file = tracking.artifacts().read(&path, span).await?;
    // Somebody who has a part of another version gets all of this one.
    if span.is_some() && asked.get(IF_RANGE).is_some_and(|wanted| wanted.to_str().ok() != file.tag.as_deref()) {
        span = None;
        file = tracking.artifacts().read(&path, span).await?;
    }
    let tag = file.tag.as_deref().and_then(|tag| HeaderValue::from_str(tag).ok());
    let mut response = if asked.get_all(IF_NONE_MATCH).iter().any(|known| names(known, &file)) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        content(path.name(), file, span.is_some())
    };
    let headers = response.headers_mut();
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.extend(tag.map(|tag| (ETAG, tag)));
    Ok(response)
}

/// The bytes of a file that were asked for, as an answer.
fn content(name: &str, file: ArtifactFile, is_part: bool) -> Response {
    let size = file.size;
    let Some(range) = file.range.clone() else {
        let mut response =
            Refusal(Error::invalid(format!("The file has {size} bytes, and none of those that were asked for"))).into_response();
        *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
        response.headers_mut().extend(HeaderValue::try_from(format!("bytes */{size}")).ok().map(|value| (CONTENT_RANGE, value)));
        return response;
    };
    let left = range.end - range.start;
    let mut response = Response::new(Body::new(FileBody { file, left }));
    if is_part {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let told = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        response.headers_mut().extend(HeaderValue::try_from(told).ok().map(|value| (CONTENT_RANGE, value)));
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(left));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(name)));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Whoever sent it may have sent a page: it is never shown as one of this server.
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    response
}

/// The bytes that a request asks for; none: all of them, as for several ranges and for what is none.
fn span(range: &str) -> Option<Span> {
    let (first, last) = range.strip_prefix("bytes=")?.trim().split_once('-')?;
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    match (first, last) {
        ("", last) => Some(Span::Last(number(last)?)),
        (first, "") => Some(Span::From(number(first)?)),
        (first, last) => Some(Span::Between(number(first)?, number(last)?)).filter(|span| matches!(span, Span::Between(a, b) if a <= b)),
    }
}

/// Whether a client has this version of the file: `If-None-Match` lists tags, or says `*`.
fn names(known: &HeaderValue, file: &ArtifactFile) -> bool {
    let listed = known.to_str().unwrap_or_default().split(',').map(|tag| tag.trim().trim_start_matches("W/"));
    file.tag.as_deref().is_some_and(|tag| listed.into_iter().any(|listed| listed == tag || listed == "*"))
}

pub async fn upload(State(tracking): State<Tracking>, Path(path): Path<String>, body: Body) -> Answer {
    let mut upload = tracking.artifacts().upload(&ArtifactPath::parse(&path)?).await?;
    let mut body = pin!(body);
    let mut next = async || tokio::time::timeout(PATIENCE, poll_fn(|cx| body.as_mut().poll_frame(cx))).await;
    while let Some(frame) = next().await.map_err(|_| Error::invalid("Nothing came for a minute: the upload was given up."))? {
        let frame = frame.map_err(|e| Error::invalid(format!("the body ended before it was complete: {e}")))?;
        if let Ok(bytes) = frame.into_data() {
            upload.write(&bytes).await?;
        }
    }
    upload.finish().await?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}

pub async fn delete(State(tracking): State<Tracking>, Path(path): Path<String>) -> Answer {
    tracking.artifacts().delete(&ArtifactPath::parse(&path)?).await?;
    done()
}

#[derive(Serialize)]
struct UploadInParts {
    upload_id: String,
    credentials: Vec<Credential>,
}

#[derive(Serialize)]
struct Credential {
    url: String,
    part_number: usize,
}

#[derive(Serialize)]
struct Presigned {
    url: String,
    headers: serde_json::Map<String, serde_json::Value>,
    file_size: u64,
}

/// The file of an upload in parts: the folder in the address, and the name of the file where the client has it, on whatever system.
fn file_in(folder: &str, f: &Fields<'_>) -> kilter_tracking::Result<ArtifactPath> {
    let name = f.need_text("path")?.rsplit(['/', '\\']).next().unwrap_or_default();
    let name = ArtifactPath::parse(name)?;
    if name.to_string().is_empty() {
        return Err(Error::invalid("Invalid path"));
    }
    Ok(ArtifactPath::parse(folder)?.join(&name))
}

/// Where a client sends the parts of a file.
pub async fn begin_parts(State(tracking): State<Tracking>, Path(folder): Path<String>, input: Input) -> Answer {
    let f = input.fields();
    let parts = f.integer("num_parts")?.unwrap_or(1);
    let parts = usize::try_from(parts).map_err(|_| Error::invalid(format!("`num_parts` is {parts}")))?;
    let place = if parts > FEW { MANY.acquire().await.ok() } else { None };
    let SignedUpload { id, urls } = tracking.artifacts().sign_upload(&file_in(&folder, &f)?, parts).await?;
    let credentials = (1..).zip(urls).map(|(part_number, url)| Credential { url, part_number }).collect();
    Ok(json(&UploadInParts { upload_id: id, credentials }).map(|whole| Body::new(PlacedBody { whole, _place: place })))
}

pub async fn finish_parts(State(tracking): State<Tracking>, Path(folder): Path<String>, input: Input) -> Answer {
    let f = input.fields();
    let mut parts = Vec::new();
    for part in f.objects("parts")? {
        parts.push((part.need_integer("part_number")?, part.text("etag")?.unwrap_or_default().to_owned()));
    }
    parts.sort();
    if parts.is_empty() || !parts.iter().zip(1..).all(|((number, _), expected)| *number == expected) {
        return Err(Error::invalid("`parts` are those of the upload, each once, from 1 on").into());
    }
    let tags = parts.into_iter().map(|(_, tag)| tag).collect();
    tracking.artifacts().finish_signed(&file_in(&folder, &f)?, f.any_text("upload_id")?, tags).await?;
    done()
}

pub async fn abort_parts(State(tracking): State<Tracking>, Path(folder): Path<String>, input: Input) -> Answer {
    let f = input.fields();
    tracking.artifacts().abort_signed(&file_in(&folder, &f)?, f.any_text("upload_id")?).await?;
    done()
}

/// Where a client reads a file from the storage itself.
pub async fn presigned(State(tracking): State<Tracking>, Path(path): Path<String>) -> Answer {
    let SignedFile { url, size } = tracking.artifacts().sign_read(&ArtifactPath::parse(&path)?).await?;
    Ok(json(&Presigned { url, headers: serde_json::Map::new(), file_size: size }))
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, ending)| ending) {
        "json" => "application/json",
        "txt" | "log" | "md" | "py" | "yaml" | "yml" | "toml" | "cfg" => "text/plain; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "html" => "text/html; charset=utf-8",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "svg" => "image/svg+xml",
        "pdf" => "application/pdf",
        _ if name == "MLmodel" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// A file as a body, piece by piece.
struct FileBody {
    file: ArtifactFile,
    left: u64,
}

impl HttpBody for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let FileBody { file, left } = self.get_mut();
        if *left == 0 {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(match std::task::ready!(file.poll_next(cx)) {
            Some(Ok(bytes)) => {
                *left = left.saturating_sub(bytes.len() as u64);
                Ok(Frame::data(bytes))
            }
            Some(Err(e)) => Err(e),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }
}

/// A body that has its place until it is sent.
struct PlacedBody {
    whole: Body,
    _place: Option<SemaphorePermit<'static>>,
}

impl HttpBody for PlacedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.get_mut().whole).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.whole.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.whole.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_one_span_or_is_passed_over() {
        for (range, wanted) in [
            ("bytes=0-", Some(Span::From(0))),
            ("bytes=3-7", Some(Span::Between(3, 7))),
            ("bytes=-5", Some(Span::Last(5))),
            ("bytes=7-3", None),
            ("bytes=0-1,4-5", None),
            ("bytes=-", None),
            ("bytes=+1-2", None),
            ("bytes=99999999999999999999-", None),
            ("lines=1-2", None),
            ("", None),
        ] {
            assert_eq!(span(range), wanted, "{range}");
        }
    }
}
