//! Artifacts: the proxy that clients send files to and get them from, and what lies in the folder of a run.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::Frame;
use kilter_tracking::{ArtifactFile, ArtifactPath, Entry, Error, ErrorCode, Tracking};
use serde::Serialize;
use tokio::io::{AsyncRead, ReadBuf};

use super::answer::{Answer, done, json};
use super::input::Input;

/// Bytes of a file that are in memory at once.
const PIECE: usize = 256 * 1024;
/// How long an upload may bring nothing.
const PATIENCE: Duration = Duration::from_secs(60);
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

pub async fn download(State(tracking): State<Tracking>, Path(path): Path<String>) -> Answer {
    let path = ArtifactPath::parse(&path)?;
    let ArtifactFile { file, size } = tracking.artifacts().read(&path).await?;
    let mut response = Response::new(Body::new(FileBody { file, left: size, piece: vec![0; PIECE] }));
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type(path.name())));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Whoever sent it may have sent a page: it is never shown as one of this server.
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    Ok(response)
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
    file: tokio::fs::File,
    left: u64,
    piece: Vec<u8>,
}

impl HttpBody for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let FileBody { file, left, piece } = self.get_mut();
        if *left == 0 {
            return Poll::Ready(None);
        }
        let most = piece.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        let mut buffer = ReadBuf::new(&mut piece[..most]);
        match Pin::new(file).poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(e)) => Poll::Ready(Some(Err(e))),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
            Poll::Ready(Ok(())) => {
                *left -= buffer.filled().len() as u64;
                Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(buffer.filled())))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }
}
