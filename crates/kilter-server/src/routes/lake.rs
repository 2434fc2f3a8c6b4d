//! The lake: how it stands, and taking in what waits.

use axum::extract::State;
use axum::http::StatusCode;
use kilter_runtime::BundleStatus;
use kilter_runtime::lake::{LakeStatus, Tidied, fill_and_tidy, look};
use prometheus_client::registry::Registry;
use serde::Serialize;
use utoipa::ToSchema;

use super::metrics::gauge;
use crate::app::{Answer, App, ok};
use crate::error::{ApiError, ErrorBody};
use crate::input::Params;
use crate::wire::Moment;

/// The lake, and how far it has come.
#[derive(Serialize, ToSchema)]
pub struct LakeState {
    /// Records before this offset are in the lake ...
    next: u64,
    /// ... from this one on.
    first: u64,
    /// The event log begins here: what lies before is in the lake only.
    log_start: u64,
    /// Records of the log that wait.
    waiting: u64,
    files: u64,
    bytes: u64,
    /// Days of event time before this one were taken out; null: none were.
    expired_before: Option<String>,
    /// Why nothing goes into the lake at present.
    problem: Option<String>,
}

impl LakeState {
    /// None: the project has no lake, or nothing is known of it yet.
    pub fn of(app: &App) -> Option<LakeState> {
        let LakeStatus { next, first, files, bytes, expired_before, problem } = app.service.status.lake()?;
        let events = &app.service.data.events;
        let (log_start, waiting) = (events.start_offset(), events.next_offset().saturating_sub(next.max(events.start_offset())));
        Some(LakeState { next, first, log_start, waiting, files, bytes, expired_before, problem })
    }
}

/// What of a worker's shard lies in the lake for a worker that has no folder to go on from.
#[derive(Serialize, ToSchema)]
pub struct BundleState {
    /// Where the newest one stands: it has the state before the record at this offset. Null: there is none yet.
    offset: Option<u64>,
    made: Option<Moment>,
    bytes: u64,
    /// Why there is no newer one though one is due.
    problem: Option<String>,
}

impl BundleState {
    /// None: the project keeps none, or nothing is known of them yet.
    pub fn of(app: &App) -> Option<BundleState> {
        let BundleStatus { offset, made, bytes, problem } = app.service.status.bundle()?;
        Some(BundleState { offset, made: made.map(Moment), bytes, problem })
    }
}

/// The lake
///
/// How far it has come and what it takes.
#[utoipa::path(
    get, path = "/v1/lake", tag = "project",
    responses(
        (status = 200, description = "the state of the lake", body = LakeState),
        (status = 409, description = "there is no lake, or it cannot be opened: the message says why", body = ErrorBody),
    )
)]
pub async fn get_lake(State(app): State<App>, params: Params) -> Answer {
    params.done()?;
    app.blocking(|service| look(service).map_err(refused)).await?;
    let state = LakeState::of(&app);
    ok(&state)
}

fn refused(error: anyhow::Error) -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "lake", format!("{error:#}"))
}

/// What was done with the lake.
#[derive(Serialize, ToSchema)]
pub struct LakeWork {
    /// Records taken in.
    records: u64,
    /// Small files that became fewer larger ones.
    compacted: usize,
    into: usize,
    /// Files of days that were too old.
    expired: usize,
    /// The event log begins here now.
    log_start: u64,
}

/// Take in, compact and shorten now
///
/// Takes everything that is durable into the lake, makes large files of small ones for days that are over, lets days go that are older than the lake's `retention`, and removes the files of the
/// event log that are in the lake and older than the log's `retention`.
#[utoipa::path(
    post, path = "/v1/lake/compact", tag = "project",
    responses(
        (status = 200, description = "what was done", body = LakeWork),
        (status = 409, description = "there is no lake, or it cannot be written: the message says why", body = ErrorBody),
    )
)]
pub async fn compact_lake(State(app): State<App>, params: Params) -> Answer {
    params.done()?;
    let work = app.blocking(|service| fill_and_tidy(service).map_err(refused)).await?;
    let (records, Tidied { compacted, into, expired, log_start }) = work;
    ok(&LakeWork { records, compacted, into, expired, log_start })
}

/// The same for Prometheus.
pub fn register(app: &App, r: &mut Registry) {
    if let Some(bundle) = BundleState::of(app) {
        gauge(r, "kilter_bundle_offset", "Where the newest bundle of the shard stands", bundle.offset.unwrap_or(0));
        gauge(r, "kilter_bundle_stuck", "1 while a bundle is due and something keeps it back", u64::from(bundle.problem.is_some()));
    }
    let Some(lake) = LakeState::of(app) else { return };
    let figures = [
        ("kilter_lake_next_offset", "Records of the event log before this are in the lake", lake.next),
        ("kilter_lake_waiting_records", "Records of the event log that are not in the lake yet", lake.waiting),
        ("kilter_lake_files", "Files of the lake", lake.files),
        ("kilter_lake_bytes", "Bytes of the lake's files", lake.bytes),
        ("kilter_lake_stuck", "1 while nothing goes into the lake because something is wrong", u64::from(lake.problem.is_some())),
    ];
    for (name, help, value) in figures {
        gauge(r, name, help, value);
    }
}
