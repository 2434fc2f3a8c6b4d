//! Is it alive, and may it be sent requests?

use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{Answer, App, ok};
use crate::error::{ApiError, ErrorBody};

/// All is well.
#[derive(Serialize, ToSchema)]
pub struct Health {
    /// `ok` or `ready`.
    #[schema(example = "ok")]
    status: &'static str,
}

/// Alive
#[utoipa::path(
    get, path = "/healthz", tag = "operations",
    responses((status = 200, description = "the process is alive", body = Health))
)]
pub async fn get_health() -> Answer {
    ok(&Health { status: "ok" })
}

/// Ready
#[utoipa::path(
    get, path = "/readyz", tag = "operations",
    responses(
        (status = 200, description = "send requests", body = Health),
        (status = 503, description = "send none: shutting down (`draining`), or the log refuses writes (`log_broken`)", body = ErrorBody),
    )
)]
pub async fn get_ready(State(app): State<App>) -> Answer {
    let refuse = |code: &'static str, message: &str| Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, message));
    if app.is_draining() {
        return refuse("draining", "kilter is shutting down");
    }
    if app.service.status.is_log_broken() {
        return refuse("log_broken", "a log refused a write within the last five seconds");
    }
    ok(&Health { status: "ready" })
}
