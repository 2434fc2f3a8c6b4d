//! Changing the definitions while the project runs.

use axum::extract::State;
use axum::http::StatusCode;
use kilter_runtime::changes::ChangePlan;
use kilter_runtime::jobs::apply::{Applying, Phase};
use kilter_runtime::{ServiceError, project};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{Answer, App, ok};
use crate::error::{ApiError, ErrorBody};
use crate::input::Params;
use crate::wire;

/// How far an apply of changed definitions has come.
#[derive(Serialize, ToSchema)]
pub struct Apply {
    /// Hash of the definitions before.
    from: String,
    /// And after.
    to: String,
    /// `filling`: the log is read for what changed, and the old definitions serve. `done`: the new ones are in force. `failed`: nothing has
    /// changed.
    #[schema(example = "filling")]
    phase: &'static str,
    /// The log is read up to here ...
    offset: u64,
    /// ... of this.
    end: u64,
    seconds: f64,
    /// Decisions on events after this offset are made by the new definitions.
    swapped_at: Option<u64>,
    error: Option<String>,
}

impl From<Applying> for Apply {
    fn from(a: Applying) -> Self {
        Apply {
            from: a.from,
            to: a.to,
            phase: match a.phase {
                Phase::Filling => "filling",
                Phase::Done => "done",
                Phase::Failed => "failed",
            },
            offset: a.offset,
            end: a.end,
            seconds: a.seconds,
            swapped_at: a.swapped_at,
            error: a.error,
        }
    }
}

/// What the changed file would do
///
/// Compares the definitions file of the project's folder with the definitions in force: every object with its fate and what differs, what
/// must be filled from the log and how large it gets, versions that leave service, decisions that can be replayed. Changes nothing.
#[utoipa::path(
    get, path = "/v1/project/plan", tag = "project",
    params(("estimate" = Option<bool>, Query, description = "read the log for sizes and times; left out: true")),
    responses(
        (status = 200, description = "the plan", body = serde_json::Value),
        (status = 422, description = "the file does not hold: `message` has the whole report", body = ErrorBody),
    )
)]
pub async fn get_plan(State(app): State<App>, mut params: Params) -> Answer {
    let estimate = params.one_of("estimate", &["true", "false"]) != Some(1);
    params.done()?;
    let plan = app
        .blocking(move |service| {
            let new = project::load(&service.project.dir).map_err(ServiceError::Definitions)?;
            let old = &service.project;
            let plan = ChangePlan::of(old, &new).with_log(&service.data, old, &new, estimate, |_, _| {});
            plan.map_err(|e| ApiError::internal(&format!("planning a change: {e:#}")))
        })
        .await?;
    ok(&plan)
}

/// Take up the changed file
///
/// Checks the definitions file of the project's folder, fills from the log what has changed while the definitions in force go on serving,
/// and swaps between two events. The answer comes as soon as the filling has begun: `apply` of `/v1/status` says how far it is. What is
/// refused changes nothing.
#[utoipa::path(
    post, path = "/v1/project/apply", tag = "project",
    responses(
        (status = 202, description = "the filling has begun", body = Apply),
        (status = 409, description = "nothing to apply, another apply is under way, or a restart is needed: the message says why", body = ErrorBody),
        (status = 422, description = "the file does not hold: `message` has the whole report", body = ErrorBody),
    )
)]
pub async fn post_apply(State(app): State<App>, params: Params) -> Answer {
    params.done()?;
    let begun = app.to_the_end(|service| async move { service.apply().await }).await?;
    Ok(wire::json(StatusCode::ACCEPTED, &Apply::from(begun)))
}
