//! Definitions tried on the past.

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use kilter_runtime::jobs::backtest::Stretch;
use kilter_runtime::{ServiceError, project};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{Answer, App};
use crate::error::{ApiError, ErrorBody};
use crate::input::Params;
use crate::routes::models::ACTOR;
use crate::wire::{self, Moment};

/// Largest text of definitions.
const TEXT: usize = 1024 * 1024;

/// What to try on which past.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body, which is read member by member to name every mistake")]
pub struct BacktestBody {
    /// The whole text of a `kilter.toml`.
    definitions: String,
    /// Only decisions on events of this time and later; left out: all.
    from: Option<Moment>,
    /// Only decisions on events before this time.
    to: Option<Moment>,
}

/// A backtest under way.
#[derive(Serialize, ToSchema)]
pub struct BacktestBegun {
    /// Its run; once that has finished, its file `backtest.json` tells what came of it.
    run: String,
}

/// Try definitions on the past
///
/// Runs the events of the past through other definitions, with the model versions that were in service then, and compares with what was decided. Changes
/// nothing. The answer comes at once; `/v1/runs/{id}` says when it is done, and its file `backtest.json` holds outcomes by decision and period, and the newest 500
/// decisions that come out otherwise.
#[utoipa::path(
    post, path = "/v1/backtests", tag = "project",
    request_body(content = BacktestBody, content_type = "application/json"),
    responses(
        (status = 202, description = "it has begun", body = BacktestBegun),
        (status = 400, description = "the body is wrong", body = ErrorBody),
        (status = 409, description = "another one is under way", body = ErrorBody),
        (status = 413, description = "the body is larger than 1 MiB", body = ErrorBody),
        (status = 422, description = "the definitions do not hold: `message` has the whole report", body = ErrorBody),
    )
)]
pub async fn post_backtest(State(app): State<App>, headers: HeaderMap, body: Body) -> Answer {
    let mut params = Params::of_body_within(&headers, body, TEXT, "it is the text of one kilter.toml").await?;
    let text = params.text("definitions");
    let stretch = Stretch { from: params.time("from"), to: params.time("to") };
    if text.is_none() {
        params.missing("definitions", "the whole text of a kilter.toml");
    }
    params.done()?;
    let text = text.unwrap_or_default();
    let check = move |service: &std::sync::Arc<kilter_runtime::Service>| {
        let checked = project::check_text(&text, project::FILE_NAME, &service.project.dir);
        checked.map_err(|report| ApiError::from(ServiceError::Definitions(report)))
    };
    let other = app.blocking(check).await?;
    let run = app.to_the_end(|service| async move { service.backtest(other, stretch, ACTOR).await }).await?;
    Ok(wire::json(StatusCode::ACCEPTED, &BacktestBegun { run }))
}

/// The definitions in force
///
/// As they are written, comments and all.
#[utoipa::path(
    get, path = "/v1/project/definitions", tag = "project",
    responses((status = 200, description = "the text", body = String, content_type = "application/toml"))
)]
pub async fn get_definitions(State(app): State<App>, params: Params) -> Answer {
    params.done()?;
    let mut response = Response::new(Body::from(app.service.project.toml_text.clone()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/toml"));
    Ok(response)
}
