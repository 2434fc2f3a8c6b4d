//! Runs: what was trained, with what, and what came out.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use kilter_store::artifacts::ArtifactEntry;
use kilter_store::metadata::{RunFilter, RunKind, RunStatus};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{Answer, App, ok};
use crate::error::{ApiError, ErrorBody};
use crate::input::{Params, Segments};
use crate::wire::Moment;

const KINDS: [RunKind; 4] = [RunKind::Train, RunKind::Backtest, RunKind::Evaluate, RunKind::Import];
const STATUSES: [RunStatus; 4] = [RunStatus::Running, RunStatus::Finished, RunStatus::Failed, RunStatus::Killed];

/// Runs, newest first.
#[derive(Serialize, ToSchema)]
pub struct Runs {
    runs: Vec<Run>,
    /// Give it as `offset` for the next page; null at the end.
    next: Option<u64>,
}

/// One run.
#[derive(Serialize, ToSchema)]
pub struct Run {
    id: String,
    /// `train`, `backtest`, `evaluate` or `import`.
    #[schema(example = "train")]
    kind: &'static str,
    name: String,
    model: Option<String>,
    /// `running`, `finished`, `failed` or `killed`.
    #[schema(example = "finished")]
    status: &'static str,
    started_at: Moment,
    ended_at: Option<Moment>,
    params: BTreeMap<String, String>,
    #[schema(value_type = BTreeMap<String, Option<f64>>)]
    metrics: BTreeMap<String, f64>,
    tags: BTreeMap<String, String>,
    /// Hash of the definitions it used.
    definitions: Option<String>,
    /// Fingerprint of the rows it read.
    data_fingerprint: Option<String>,
    seed: Option<i64>,
    /// Why it failed.
    error: Option<String>,
}

/// One run with its files.
#[derive(Serialize, ToSchema)]
pub struct FullRun {
    #[serde(flatten)]
    run: Run,
    artifacts: Vec<Artifact>,
}

/// A file that a run left.
#[derive(Serialize, ToSchema)]
pub struct Artifact {
    #[schema(example = "evaluation.json")]
    name: String,
    /// Content hash.
    hash: String,
    bytes: u64,
}

impl From<kilter_store::metadata::Run> for Run {
    fn from(r: kilter_store::metadata::Run) -> Self {
        Run {
            id: r.id,
            kind: r.kind.as_str(),
            name: r.name,
            model: r.model,
            status: r.status.as_str(),
            started_at: Moment::micros(r.started_at),
            ended_at: r.ended_at.map(Moment::micros),
            params: r.params,
            metrics: r.metrics,
            tags: r.tags,
            definitions: r.definition_hash,
            data_fingerprint: r.data_fingerprint,
            seed: r.seed,
            error: r.error,
        }
    }
}

impl From<ArtifactEntry> for Artifact {
    fn from(e: ArtifactEntry) -> Self {
        Artifact { name: e.name, hash: e.hash.to_string(), bytes: e.bytes }
    }
}

/// List runs
#[utoipa::path(
    get, path = "/v1/runs", tag = "runs",
    params(
        ("kind" = Option<String>, Query, description = "`train`, `backtest`, `evaluate` or `import`"),
        ("model" = Option<String>, Query, description = "only those of this model"),
        ("status" = Option<String>, Query, description = "`running`, `finished`, `failed` or `killed`"),
        ("limit" = Option<u64>, Query, description = "1 to 1000; 50 when left out"),
        ("offset" = Option<u64>, Query, description = "pass over so many"),
    ),
    responses(
        (status = 200, description = "a page of runs, newest first", body = Runs),
        (status = 400, description = "a parameter is wrong", body = ErrorBody),
    )
)]
pub async fn list_runs(State(app): State<App>, mut params: Params) -> Answer {
    let kind = params.one_of("kind", &KINDS.map(RunKind::as_str)).map(|i| KINDS[i]);
    let status = params.one_of("status", &STATUSES.map(RunStatus::as_str)).map(|i| STATUSES[i]);
    let model = params.text("model");
    let limit = params.limit(50, 1000);
    let offset = params.number("offset", 0..=u64::from(u32::MAX)).unwrap_or(0);
    params.done()?;
    // One more than asked for tells whether there is another page.
    let filter = RunFilter { kind, model, status, limit: limit as u32 + 1, offset: offset as u32 };
    let mut found = app.service.data.metadata.list_runs(&filter).await?;
    let next = (found.len() > limit).then_some(offset + limit as u64);
    found.truncate(limit);
    ok(&Runs { runs: found.into_iter().map(Run::from).collect(), next })
}

/// One run
#[utoipa::path(
    get, path = "/v1/runs/{id}", tag = "runs",
    params(("id" = String, Path, description = "the run's id")),
    responses(
        (status = 200, description = "the run with its files", body = FullRun),
        (status = 404, description = "no such run", body = ErrorBody),
    )
)]
pub async fn get_run(State(app): State<App>, Segments(id): Segments<String>, params: Params) -> Answer {
    params.done()?;
    let run = run(&app, &id).await?;
    let entries = app.blocking(move |service| Ok(service.data.artifacts.list(&id)?)).await?;
    ok(&FullRun { run, artifacts: entries.into_iter().map(Artifact::from).collect() })
}

async fn run(app: &App, id: &str) -> Result<Run, ApiError> {
    let found = app.service.data.metadata.get_run(id).await?;
    found.map(Run::from).ok_or_else(|| ApiError::not_found("run", id, "GET /v1/runs lists them".to_string()))
}

/// A file of a run
#[utoipa::path(
    get, path = "/v1/runs/{id}/artifacts/{*name}", tag = "runs",
    params(
        ("id" = String, Path, description = "the run's id"),
        ("name" = String, Path, description = "the file's name; may hold `/`"),
    ),
    responses(
        (status = 200, description = "the file", content_type = "application/octet-stream"),
        (status = 400, description = "no name for a file", body = ErrorBody),
        (status = 404, description = "no such run or file", body = ErrorBody),
    )
)]
pub async fn get_artifact(State(app): State<App>, Segments((id, name)): Segments<(String, String)>, params: Params) -> Answer {
    params.done()?;
    run(&app, &id).await?;
    let content_type = content_type(&name);
    let bytes = app.blocking(move |service| Ok(service.data.artifacts.get_named(&id, &name)?)).await?;
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // A file of a run may come from anywhere: it is never shown as a page of this server.
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static(if inline(content_type) { "inline" } else { "attachment" }));
    Ok(response)
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "json" => "application/json",
        "txt" | "log" | "md" | "toml" => "text/plain; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "png" => "image/png",
        _ => "application/octet-stream",
    }
}

fn inline(content_type: &str) -> bool {
    content_type != "application/octet-stream"
}
