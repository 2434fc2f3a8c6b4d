//! Events in.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use kilter_connect::Rejection;
use kilter_runtime::IngestReport;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{Answer, App};
use crate::error::{ErrorBody, ErrorDetail};
use crate::input::{Params, Received, Segments, read};
use crate::wire;

/// What became of the rows of a body.
#[derive(Serialize, ToSchema)]
pub struct EventsReport {
    /// There when every row was rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorDetail>,
    /// Durable in the log, and their effect visible to the next decision.
    #[schema(example = 3)]
    accepted: u64,
    /// Left out: their id was seen before.
    duplicates: u64,
    /// Of the accepted: too late for every window; kept in the log and listed among the dead letters.
    late: u64,
    /// Messages of Debezium that tell of no row, passed over: heartbeats, tombstones and the like. Left out when there were none.
    #[serde(skip_serializing_if = "is_zero")]
    #[schema(required = false)]
    ignored: u64,
    /// Listed among the dead letters with their text.
    rejected: u64,
    /// The log is durable up to here, exclusive; null when nothing was accepted.
    next_offset: Option<u64>,
    /// The first 100 rejected rows.
    rejections: Vec<RowRejection>,
}

/// A row that was not let in.
#[derive(Serialize, ToSchema)]
pub struct RowRejection {
    /// Its index from 0 in a JSON array, its line from 1 in NDJSON and CSV.
    row: usize,
    #[schema(example = "wrong_type")]
    code: &'static str,
    field: Option<String>,
    message: String,
    hint: Option<String>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl From<Rejection> for RowRejection {
    fn from(r: Rejection) -> Self {
        RowRejection { row: r.row, code: r.code, field: r.field.map(String::from), message: r.message, hint: r.hint }
    }
}

impl From<IngestReport> for EventsReport {
    fn from(r: IngestReport) -> Self {
        let all_rejected = r.rejected > 0 && r.accepted + r.duplicates == 0;
        let error = all_rejected.then(|| ErrorDetail {
            code: "all_rejected".into(),
            message: format!("every row was rejected ({})", r.rejected),
            hint: Some("`rejections` says what is wrong with each".into()),
            fields: Vec::new(),
            sqlstate: None,
            position: None,
        });
        EventsReport {
            error,
            accepted: r.accepted,
            duplicates: r.duplicates,
            late: r.late,
            ignored: r.ignored,
            rejected: r.rejected,
            next_offset: r.next_offset,
            rejections: r.rejections.into_iter().map(RowRejection::from).collect(),
        }
    }
}

/// Send events
///
/// One JSON object, an array of objects, NDJSON (`application/x-ndjson`) or CSV (`text/csv`). One bad row does not spoil the
/// others. The answer comes once every accepted row is durable and its effect visible. The body may be as large as `max_body` of
/// the project's `[server]`.
#[utoipa::path(
    post, path = "/v1/events/{source}", tag = "events",
    params(("source" = String, Path, description = "a source of the project")),
    request_body(content(
        (serde_json::Value = "application/json"), (String = "application/x-ndjson"), (String = "text/csv")
    )),
    responses(
        (status = 200, description = "at least one row was accepted or known already", body = EventsReport),
        (status = 400, description = "the body as a whole cannot be read", body = ErrorBody),
        (status = 404, description = "no such source", body = ErrorBody),
        (status = 413, description = "the body is too large", body = ErrorBody),
        (status = 422, description = "every row was rejected", body = EventsReport),
        (status = 429, description = "more events wait than can be processed; see `Retry-After`", body = ErrorBody),
        (status = 503, description = "the log does not take records", body = ErrorBody),
        (status = 507, description = "the disk is full", body = ErrorBody),
    )
)]
pub async fn post_events(
    Received(received): Received,
    State(app): State<App>,
    Segments(source): Segments<String>,
    params: Params,
    request: Request,
) -> Answer {
    params.done()?;
    let source = app.service.source(&source)?;
    let (parts, body) = request.into_parts();
    let body = read(
        &parts.headers,
        body,
        app.service.project.settings.server.max_body_bytes,
        "send NDJSON in several parts, or raise `max_body` under [server]",
    )
    .await?;
    let content_type = parts.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let report = EventsReport::from(app.service.ingest(source, &body, content_type, received).await?);
    let status = if report.error.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    Ok(wire::json(status, &report))
}
