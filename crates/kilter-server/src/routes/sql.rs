//! Questions in SQL over HTTP: small answers as one JSON object, large ones as a stream in one of several formats.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::Frame;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use utoipa::ToSchema;

use crate::access::{Caller, Sight};
use crate::app::{Answer, App, ok};
use crate::error::{ApiError, ErrorBody};
use crate::input::Params;
use crate::observe::timed_out;
use crate::sql::{self, Column, Form, Question, ROW_BYTES, Refusal, Sql, Table};

/// Questions that may be in work at once.
pub const QUESTIONS: usize = 8;
/// Largest question.
const BODY: usize = 256 * 1024;
/// Rows of an answer that is one JSON object, where nothing is said, and at most.
const ROWS: u64 = 1000;
const MOST_ROWS: u64 = 100_000;
/// A client that takes nothing for so long is let go.
const PATIENCE: Duration = Duration::from_secs(30);

const CSV: &str = "text/csv";
const NDJSON: &str = "application/x-ndjson";
const ARROW: &str = "application/vnd.apache.arrow.stream";

/// What can be asked for.
#[derive(Serialize, ToSchema)]
pub struct SqlTables {
    tables: Vec<Table>,
}

/// A question.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body, which is read member by member to name every mistake")]
pub struct SqlQuestion {
    /// One statement that reads: SELECT, WITH, VALUES, TABLE or EXPLAIN.
    #[schema(example = "SELECT outcome, count(*) FROM decisions GROUP BY outcome")]
    query: String,
    /// Rows at most. As one JSON object 1 to 100 000, and 1000 when left out; a stream has all when it is left out.
    limit: Option<u64>,
    /// How long it may take, where that is less than the server allows.
    seconds: Option<f64>,
}

/// Rows of an answer, whose text is made where they are.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the answer, whose rows come as text")]
pub struct SqlRows {
    columns: Vec<Column>,
    /// A row is an array with a value for each column: a number, boolean, text or null. Times are RFC 3339 in UTC; whole numbers beyond 2^53, `NaN`, `Infinity` and
    /// `-Infinity` are texts.
    rows: Vec<Vec<Value>>,
    /// Whether there are more rows, beyond `limit` or 32 MiB.
    truncated: bool,
    /// How long it took.
    seconds: f64,
}

/// List tables
///
/// What questions in SQL can be about, with the types that PostgreSQL has for the columns. A key with grants is told of the tables and columns that they name.
#[utoipa::path(
    get, path = "/v1/sql/tables", tag = "sql",
    responses(
        (status = 200, description = "all tables", body = SqlTables),
        (status = 403, description = "the key may not ask in SQL, by its grants or roles", body = ErrorBody),
        (status = 501, description = "the server answers no SQL", body = ErrorBody),
    )
)]
pub async fn list_tables(State(app): State<App>, caller: Caller, params: Params) -> Answer {
    params.done()?;
    ok(&SqlTables { tables: engine(&app)?.tables(sight(&app, &caller)?).await? })
}

/// Ask in SQL
///
/// One statement in PostgreSQL's words that reads what the project keeps. The answer is one JSON object, or with `Accept: text/csv`, `application/x-ndjson` (an object
/// a line) or `application/vnd.apache.arrow.stream` a stream of all rows, which is made as it is taken and ends with the connection. A stream that fails in the
/// middle is cut off without its last chunk. To a key with grants nothing is there but the tables, columns and rows that they name. A refusal has the `sqlstate` that
/// PostgreSQL gives for it and, where it is known, the `position` in the text.
#[utoipa::path(
    post, path = "/v1/sql", tag = "sql",
    request_body(content = SqlQuestion, content_type = "application/json"),
    responses(
        (status = 200, description = "the rows", content(
            (SqlRows = "application/json"),
            (String = "text/csv"),
            (String = "application/x-ndjson"),
            (Vec<u8> = "application/vnd.apache.arrow.stream"),
        )),
        (status = 400, description = "the statement makes no sense (`bad_sql`) or would write (`read_only`), or the body is wrong", body = ErrorBody),
        (status = 403, description = "the key may not ask in SQL, or not this", body = ErrorBody),
        (status = 429, description = "8 questions are in work already", body = ErrorBody),
        (status = 501, description = "the server answers no SQL", body = ErrorBody),
        (status = 503, description = "its time was up, or it wanted more memory than it may have", body = ErrorBody),
    )
)]
pub async fn post_sql(State(app): State<App>, caller: Caller, params: Params, request: Request) -> Answer {
    params.done()?;
    let engine = engine(&app)?;
    let (parts, body) = request.into_parts();
    // The answer may take long; the question may not.
    let read = Params::of_body_within(&parts.headers, body, BODY, "one statement is a few lines; ask for many rows by joining a table");
    let members = tokio::time::timeout(app.request_timeout, read).await.map_err(|_| timed_out(app.request_timeout))??;
    let form = form(&parts.headers);
    let question = question(members, form, caller.name().map(str::to_string), sight(&app, &caller)?)?;
    let place = Arc::clone(&app.questions).try_acquire_owned().map_err(|_| busy())?;
    match form {
        Form::Arrays => rows(engine.as_ref(), question).await,
        Form::Csv => stream(engine.as_ref(), question, place, "text/csv; charset=utf-8").await,
        Form::Ndjson => stream(engine.as_ref(), question, place, NDJSON).await,
        Form::Arrow => stream(engine.as_ref(), question, place, ARROW).await,
    }
}

fn engine(app: &App) -> Result<&Arc<dyn Sql>, ApiError> {
    app.sql.as_ref().ok_or_else(|| {
        ApiError::new(StatusCode::NOT_IMPLEMENTED, "no_sql", "this server answers no SQL")
            .hint("`kilter up` of a program built with `--features sql` does; a worker does not".to_string())
    })
}

fn busy() -> ApiError {
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "slow_down", format!("{QUESTIONS} questions in SQL are in work already")).retry_after(1)
}

/// The first of the media types asked for that there is.
fn form(headers: &HeaderMap) -> Form {
    let asked = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let form_of = |asked: &str| match asked.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        CSV => Some(Form::Csv),
        NDJSON => Some(Form::Ndjson),
        ARROW => Some(Form::Arrow),
        "application/json" => Some(Form::Arrays),
        _ => None,
    };
    asked.into_iter().find_map(form_of).unwrap_or(Form::Arrays)
}

/// What the caller may see by now: the question may have been long on its way.
fn sight(app: &App, caller: &Caller) -> Result<Sight, ApiError> {
    let refused = || ApiError::new(StatusCode::FORBIDDEN, "forbidden", "the key may not ask in SQL any more");
    app.access.sight(caller.reader().as_ref()).ok_or_else(refused)
}

fn question(mut members: Params, form: Form, user: Option<String>, sight: Sight) -> Result<Question, ApiError> {
    let text = members.text("query");
    if text.is_none() {
        members.missing("query", "a text such as \"SELECT count(*) FROM decisions\"");
    }
    let limit = match form {
        Form::Arrays => members.number("limit", 1..=MOST_ROWS).or(Some(ROWS)),
        Form::Csv | Form::Ndjson | Form::Arrow => members.number("limit", 1..=u64::MAX),
    };
    let time = members.real("seconds").and_then(|seconds| {
        let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| !time.is_zero());
        if time.is_none() {
            members.refuse("seconds", "expected a number above 0");
        }
        time
    });
    members.done()?;
    let limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(Question { text: text.unwrap_or_default(), form, limit, time, user, sight })
}

/// The answer as one object.
async fn rows(engine: &dyn Sql, question: Question) -> Answer {
    let began = Instant::now();
    let limit = question.limit.unwrap_or(usize::MAX);
    // One more tells that there are more.
    let mut answer = engine.ask(Question { limit: Some(limit.saturating_add(1)), ..question }).await?;
    let mut rows = Rows { limit, ..Rows::default() };
    while let Some(lines) = answer.next().await? {
        if !rows.take(&lines) {
            break;
        }
    }
    let columns = serde_json::to_vec(answer.columns()).map_err(|e| ApiError::internal(&e.to_string()))?;
    let tail = format!("],\"truncated\":{},\"seconds\":{}}}", rows.truncated, began.elapsed().as_secs_f64());
    let body = [&b"{\"columns\":"[..], &columns, b",\"rows\":[", &rows.text, tail.as_bytes()].concat();
    Ok(answered("application/json", Body::from(body)))
}

/// Rows in the making, with commas between them.
#[derive(Default)]
struct Rows {
    text: Vec<u8>,
    count: usize,
    limit: usize,
    truncated: bool,
}

impl Rows {
    /// Takes up lines with a row each; false: there is no room for more.
    fn take(&mut self, lines: &[u8]) -> bool {
        // JSON has no line breaks but in its own escapes.
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if self.count == self.limit || self.text.len() + 1 + line.len() > ROW_BYTES {
                self.truncated = true;
                return false;
            }
            if self.count > 0 {
                self.text.push(b',');
            }
            self.text.extend_from_slice(line);
            self.count += 1;
        }
        true
    }
}

/// The answer piece by piece. What is wrong before the first of them is still told as a refusal.
async fn stream(engine: &dyn Sql, question: Question, place: OwnedSemaphorePermit, content_type: &'static str) -> Answer {
    let mut answer = engine.ask(question).await?;
    let first = answer.next().await?;
    let (out, pieces) = mpsc::channel(1);
    tokio::spawn(send(answer, first, out, place));
    Ok(answered(content_type, Body::new(Pieces(pieces))))
}

fn answered(content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

enum Piece {
    Bytes(Bytes),
    /// All was sent.
    End,
}

/// Sends an answer until its end, or until the client goes or takes nothing any more; the place is free then.
async fn send(mut answer: Box<dyn sql::Answer>, first: Option<Vec<u8>>, out: mpsc::Sender<Piece>, _place: OwnedSemaphorePermit) {
    let mut next = first;
    loop {
        let piece = next.map_or(Piece::End, |bytes| Piece::Bytes(bytes.into()));
        let is_end = matches!(piece, Piece::End);
        match tokio::time::timeout(PATIENCE, out.send(piece)).await {
            Ok(Ok(())) if !is_end => {}
            Ok(_) => return,
            Err(_) => {
                tracing::warn!(waited = ?PATIENCE, "an answer in SQL is cut off: its client takes nothing");
                return;
            }
        }
        let got = tokio::select! {
            () = out.closed() => return,
            got = answer.next() => got,
        };
        next = match got {
            Ok(bytes) => bytes,
            Err(refusal) => {
                tracing::warn!(sqlstate = refusal.sqlstate, error = refusal.message, "an answer in SQL is cut off");
                return;
            }
        };
    }
}

/// A body that is whole only if the end came.
struct Pieces(mpsc::Receiver<Piece>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(match ready!(self.get_mut().0.poll_recv(cx)) {
            Some(Piece::Bytes(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Piece::End) => None,
            None => Some(Err(io::ErrorKind::UnexpectedEof.into())),
        })
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        let Refusal { sqlstate, message, hint, position } = refusal;
        let (status, code) = match sqlstate {
            "25006" => (StatusCode::BAD_REQUEST, "read_only"),
            "42501" => (StatusCode::FORBIDDEN, "forbidden"),
            "53200" => (StatusCode::SERVICE_UNAVAILABLE, "out_of_memory"),
            full if full.starts_with("53") => (StatusCode::TOO_MANY_REQUESTS, "slow_down"),
            "57014" => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            inside if inside.starts_with("XX") => {
                tracing::error!(detail = message, "a question in SQL failed");
                (StatusCode::INTERNAL_SERVER_ERROR, "internal")
            }
            _ => (StatusCode::BAD_REQUEST, "bad_sql"),
        };
        ApiError::new(status, code, message).hint(hint).of_sql(sqlstate, position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_media_type_says_how_rows_are_written() {
        for (accept, wanted) in [
            ("*/*", Form::Arrays),
            ("text/html, text/csv;q=0.9", Form::Csv),
            ("Application/X-NDJSON", Form::Ndjson),
            ("application/vnd.apache.arrow.stream", Form::Arrow),
            ("application/json, text/csv", Form::Arrays),
            ("text/csvx", Form::Arrays),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(form(&headers), wanted, "{accept}");
        }
        assert_eq!(form(&HeaderMap::new()), Form::Arrays);
    }

    #[test]
    fn rows_end_at_the_limit_and_at_the_bytes_there_may_be() {
        let mut rows = Rows { limit: 3, ..Rows::default() };
        assert!(rows.take(b"[1]\n[2]\n") && rows.take(b"[3]\n"));
        assert!(!rows.truncated);
        assert!(!rows.take(b"[4]\n") && rows.truncated);
        assert_eq!(rows.text, b"[1],[2],[3]");
        let mut rows = Rows { limit: usize::MAX, ..Rows::default() };
        let line = vec![b'1'; ROW_BYTES / 2];
        assert!(rows.take(&line) && rows.take(b"\n") && !rows.take(&[line, b"\n[1]".to_vec()].concat()));
        assert!(rows.truncated && rows.text.len() <= ROW_BYTES);
    }
}
