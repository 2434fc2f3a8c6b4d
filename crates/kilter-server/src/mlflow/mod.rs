//! The tracking API of MLflow 3, for its unmodified clients: paths, JSON and refusals are MLflow's, the store is `kilter-tracking`.
//!
//! Everything under `/api` is answered under `/ajax-api` too, where MLflow's own pages ask.

mod answer;
mod artifacts;
mod assessments;
mod evaluation;
mod experiments;
mod hooks;
mod input;
mod logged;
mod measure;
mod moment;
mod old_traces;
mod otlp;
mod own;
mod package;
mod registry;
mod rules;
mod runs;
mod scope;
mod scorers;
mod traces;
mod webhooks;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, OriginalUri, Request, State};
use axum::http::header::X_CONTENT_TYPE_OPTIONS;
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, patch, post};
use kilter_runtime::Service;
use kilter_tracking::{Error, ErrorCode, Tracking};
use serde_json::json;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

use crate::access::Access;
use crate::app::Host;
use crate::observe;
use crate::routes::ui;
use crate::serve::ServeOptions;
use answer::Refusal;
pub use hooks::{Hooks, Network, WebhookOptions};
use own::Own;
pub use rules::rule;

/// The release of MLflow whose API this is. Clients read it, and hold back what an older server would not understand.
const LEVEL: &str = "3.17.2";
/// Where spans come in, by OpenTelemetry's protocol.
const OTLP: &str = "/v1/traces";
/// Where large bodies come and go, as slowly as the client's line is, and where the storage puts together what was sent to it in parts.
const UNHURRIED: [&str; 2] = ["2.0/mlflow-artifacts/artifacts/", "2.0/mlflow-artifacts/mpu/complete/"];

/// Every route below `/api`, each once.
fn routes() -> Vec<(&'static str, MethodRouter<Hooks>)> {
    vec![
        ("/2.0/mlflow/experiments/create", post(experiments::create)),
        ("/2.0/mlflow/experiments/get", get(experiments::get)),
        ("/2.0/mlflow/experiments/get-by-name", get(experiments::get_by_name)),
        ("/2.0/mlflow/experiments/search", get(experiments::search).post(experiments::search)),
        ("/2.0/mlflow/experiments/update", post(experiments::update)),
        ("/2.0/mlflow/experiments/delete", post(experiments::delete)),
        ("/2.0/mlflow/experiments/restore", post(experiments::restore)),
        ("/2.0/mlflow/experiments/set-experiment-tag", post(experiments::set_tag)),
        ("/2.0/mlflow/experiments/delete-experiment-tag", post(experiments::delete_tag)),
        ("/2.0/mlflow/runs/create", post(runs::create)),
        ("/2.0/mlflow/runs/get", get(runs::get)),
        ("/2.0/mlflow/runs/update", post(runs::update)),
        ("/2.0/mlflow/runs/delete", post(runs::delete)),
        ("/2.0/mlflow/runs/restore", post(runs::restore)),
        ("/2.0/mlflow/runs/search", post(runs::search)),
        ("/2.0/mlflow/runs/log-metric", post(runs::log_metric)),
        ("/2.0/mlflow/runs/log-parameter", post(runs::log_param)),
        ("/2.0/mlflow/runs/set-tag", post(runs::set_tag)),
        ("/2.0/mlflow/runs/delete-tag", post(runs::delete_tag)),
        ("/2.0/mlflow/runs/log-batch", post(runs::log_batch)),
        ("/2.0/mlflow/runs/log-inputs", post(runs::log_inputs)),
        ("/2.0/mlflow/metrics/get-history", get(runs::history)),
        ("/2.0/mlflow/metrics/get-history-bulk", get(runs::history_bulk)),
        ("/2.0/mlflow/metrics/get-history-bulk-interval", get(runs::history_bulk_interval)),
        ("/2.0/mlflow/artifacts/list", get(artifacts::list_of_run)),
        ("/2.0/mlflow-artifacts/artifacts", get(artifacts::list)),
        ("/2.0/mlflow-artifacts/artifacts/{*path}", get(artifacts::download).put(artifacts::upload).delete(artifacts::delete)),
        ("/2.0/mlflow-artifacts/mpu/create/{*path}", post(artifacts::begin_parts)),
        ("/2.0/mlflow-artifacts/mpu/complete/{*path}", post(artifacts::finish_parts)),
        ("/2.0/mlflow-artifacts/mpu/abort/{*path}", post(artifacts::abort_parts)),
        ("/2.0/mlflow-artifacts/presigned/{*path}", get(artifacts::presigned)),
        ("/2.0/mlflow/runs/outputs", post(runs::outputs)),
        ("/2.0/mlflow/runs/log-model", post(runs::log_model)),
        ("/2.0/mlflow/logged-models", post(logged::create)),
        ("/2.0/mlflow/logged-models/search", post(logged::search)),
        ("/2.0/mlflow/logged-models/{model_id}", get(logged::get).patch(logged::finish).delete(logged::delete)),
        ("/2.0/mlflow/logged-models/{model_id}/params", post(logged::log_params)),
        ("/2.0/mlflow/logged-models/{model_id}/tags", patch(logged::set_tags)),
        ("/2.0/mlflow/logged-models/{model_id}/tags/{tag_key}", delete(logged::delete_tag)),
        ("/2.0/mlflow/logged-models/{model_id}/artifacts/directories", get(logged::list)),
        ("/2.0/mlflow/registered-models/create", post(registry::create)),
        ("/2.0/mlflow/registered-models/rename", post(registry::rename)),
        ("/2.0/mlflow/registered-models/update", patch(registry::update)),
        ("/2.0/mlflow/registered-models/delete", delete(registry::delete)),
        ("/2.0/mlflow/registered-models/get", get(registry::get)),
        ("/2.0/mlflow/registered-models/search", get(registry::search)),
        ("/2.0/mlflow/registered-models/get-latest-versions", get(registry::latest).post(registry::latest)),
        ("/2.0/mlflow/registered-models/set-tag", post(registry::set_tag)),
        ("/2.0/mlflow/registered-models/delete-tag", delete(registry::delete_tag)),
        ("/2.0/mlflow/registered-models/alias", get(registry::by_alias).post(registry::set_alias).delete(registry::delete_alias)),
        ("/2.0/mlflow/model-versions/create", post(registry::create_version)),
        ("/2.0/mlflow/model-versions/update", patch(registry::update_version)),
        ("/2.0/mlflow/model-versions/transition-stage", post(registry::set_stage)),
        ("/2.0/mlflow/model-versions/delete", delete(registry::delete_version)),
        ("/2.0/mlflow/model-versions/get", get(registry::get_version)),
        ("/2.0/mlflow/model-versions/search", get(registry::search_versions)),
        ("/2.0/mlflow/model-versions/get-download-uri", get(registry::download_uri)),
        ("/2.0/mlflow/model-versions/set-tag", post(registry::set_version_tag)),
        ("/2.0/mlflow/model-versions/delete-tag", delete(registry::delete_version_tag)),
        ("/2.0/mlflow/webhooks", get(webhooks::list).post(webhooks::create)),
        ("/2.0/mlflow/webhooks/{webhook_id}", get(webhooks::get).patch(webhooks::update).delete(webhooks::delete)),
        ("/2.0/mlflow/webhooks/{webhook_id}/test", post(webhooks::test)),
        ("/3.0/mlflow/traces", post(traces::start)),
        ("/3.0/mlflow/traces/get", get(traces::get)),
        ("/3.0/mlflow/traces/batchGet", get(traces::batch_get)),
        ("/3.0/mlflow/traces/batchGetInfos", post(traces::batch_get_infos)),
        ("/3.0/mlflow/traces/search", post(traces::search)),
        ("/3.0/mlflow/traces/metrics", post(measure::traces)),
        ("/3.0/mlflow/traces/delete-traces", post(traces::delete)),
        ("/3.0/mlflow/traces/{trace_id}", get(traces::get_info)),
        ("/3.0/mlflow/traces/{trace_id}/tags", patch(traces::set_tag).delete(traces::delete_tag)),
        ("/3.0/mlflow/traces/{trace_id}/assessments", post(assessments::create)),
        (
            "/3.0/mlflow/traces/{trace_id}/assessments/{assessment_id}",
            get(assessments::get).patch(assessments::update).delete(assessments::delete),
        ),
        ("/2.0/mlflow/traces", get(old_traces::search).post(old_traces::start)),
        ("/2.0/mlflow/traces/{trace_id}", patch(old_traces::end)),
        ("/2.0/mlflow/traces/{trace_id}/info", get(old_traces::get_info)),
        ("/2.0/mlflow/traces/delete-traces", post(traces::delete)),
        ("/2.0/mlflow/traces/link-to-run", post(traces::link_to_run)),
        ("/2.0/mlflow/traces/link-prompts", post(traces::link_prompts)),
        ("/2.0/mlflow/traces/{trace_id}/tags", patch(traces::set_tag).delete(traces::delete_tag)),
        ("/3.0/mlflow/datasets/create", post(evaluation::create)),
        ("/3.0/mlflow/datasets/search", get(evaluation::search).post(evaluation::search)),
        ("/3.0/mlflow/datasets/{dataset_id}", get(evaluation::get).delete(evaluation::delete)),
        ("/3.0/mlflow/datasets/{dataset_id}/records", get(evaluation::records).post(evaluation::upsert).delete(evaluation::delete_records)),
        ("/3.0/mlflow/datasets/{dataset_id}/tags", patch(evaluation::set_tags)),
        ("/3.0/mlflow/datasets/{dataset_id}/tags/{key}", delete(evaluation::delete_tag)),
        ("/3.0/mlflow/datasets/{dataset_id}/experiment-ids", get(evaluation::experiment_ids)),
        ("/3.0/mlflow/datasets/{dataset_id}/add-experiments", post(evaluation::add_experiments)),
        ("/3.0/mlflow/datasets/{dataset_id}/remove-experiments", post(evaluation::remove_experiments)),
        ("/3.0/mlflow/scorers/register", post(scorers::register)),
        ("/3.0/mlflow/scorers/list", get(scorers::list)),
        ("/3.0/mlflow/scorers/versions", get(scorers::versions)),
        ("/3.0/mlflow/scorers/get", get(scorers::get)),
        ("/3.0/mlflow/scorers/delete", delete(scorers::delete)),
        ("/3.0/mlflow/scorers/online-configs", get(scorers::online_configs)),
        ("/3.0/mlflow/server-info", get(server_info)),
    ]
}

/// The routes, with nothing around them. Under what is no route of theirs below `/api`, MLflow's clients are told so in their own shape.
fn router<S: Clone + Send + Sync + 'static>(hooks: Hooks) -> Router<S> {
    let api = routes().into_iter().fold(Router::new(), |api, (path, method)| api.route(path, method));
    let api = api.fallback(nowhere).method_not_allowed_fallback(nowhere);
    Router::new()
        .nest("/api", api.clone())
        .nest("/ajax-api", api)
        .route("/health", get(|| async { "OK" }))
        .route("/version", get(|| async { LEVEL }))
        .route(OTLP, post(otlp::export))
        .layer(from_fn_with_state(hooks.tracking().clone(), scope::within))
        .with_state(hooks)
}

/// The routes beside a project, whose own runs and models they show.
pub fn beside(hooks: Hooks, service: Arc<Service>) -> Router<Host> {
    let own = Arc::new(Own::new(service, hooks.tracking().clone()));
    router(hooks).layer(from_fn_with_state(own, Own::refresh))
}

/// What clients are told whose store cannot be opened: for good, so that they do not ask again and again.
pub fn away<S: Clone + Send + Sync + 'static>(reason: &str) -> Router<S> {
    let message = format!("The tracking store of this project cannot be opened: {reason}");
    let refuse = move || std::future::ready(Refusal(Error::new(ErrorCode::EndpointNotFound, message.clone())));
    let api = Router::new().fallback(refuse);
    Router::new().nest("/api", api.clone()).nest("/ajax-api", api)
}

/// Whether a path is one that clients log to.
pub fn is_below(path: &str) -> bool {
    path.starts_with("/api/") || path.starts_with("/ajax-api/") || path == OTLP
}

/// The paths of all routes, as they are counted.
pub fn paths() -> impl Iterator<Item = String> {
    let below = |prefix: &'static str| routes().into_iter().map(move |(path, _)| format!("{prefix}{path}"));
    below("/api").chain(below("/ajax-api")).chain(["/health", "/version", OTLP].map(String::from))
}

/// Whether a request may take as long as it takes.
pub fn is_unhurried(path: &str) -> bool {
    path.strip_prefix("/api/").or(path.strip_prefix("/ajax-api/")).is_some_and(|rest| UNHURRIED.iter().any(|slow| rest.starts_with(slow)))
}

/// The routes as a server of their own.
pub fn alone(hooks: Hooks, options: &ServeOptions) -> Router {
    let door = Arc::new(Door {
        allow_remote: options.allow_remote,
        access: options.access.clone(),
        timeout: options.request_timeout,
        requests: Semaphore::new(options.max_requests),
    });
    let pages = ui::router().route("/", get(async |headers: HeaderMap| ui::home(&headers)));
    router(hooks).merge(pages).fallback(nowhere).layer(CatchPanicLayer::custom(panicked)).layer(from_fn_with_state(door, around))
}

struct Door {
    allow_remote: bool,
    access: Access,
    timeout: Duration,
    requests: Semaphore,
}

/// Guards the door, bounds the requests in work and the time of each.
async fn around(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response {
    if !door.allow_remote
        && let Err(refusal) = observe::guard(request.headers(), request.uri())
    {
        return refusal.into_response();
    }
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    match door.access.admit(request.method(), request.uri().path(), route, request.headers()) {
        Ok(caller) => drop(request.extensions_mut().insert(caller)),
        Err(refusal) => return *refusal,
    }
    let Ok(_place) = door.requests.try_acquire() else { return observe::slow_down().into_response() };
    let limit = if is_unhurried(request.uri().path()) { Duration::MAX } else { door.timeout };
    let mut response = match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => observe::timed_out(limit).into_response(),
    };
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A refusal in MLflow's shape.
pub fn refusal(error: Error) -> Response {
    Refusal(error).into_response()
}

async fn nowhere(method: Method, OriginalUri(uri): OriginalUri) -> Refusal {
    let path: String = uri.path().chars().take(200).collect();
    Refusal(Error::new(ErrorCode::EndpointNotFound, format!("Kilter's tracking server does not answer {method} {path}.")))
}

async fn server_info(State(tracking): State<Tracking>) -> Response {
    answer::json(&json!({
        "store_type": "SqlStore",
        "workspaces_enabled": false,
        "trace_archival_enabled": false,
        "multipart_uploads_enabled": tracking.artifacts().signs_uploads(),
        "multipart_downloads_enabled": tracking.artifacts().signs_reads(),
        "presigned_upload_run_id_supported": false,
        "presigned_upload_model_id_supported": false,
        "features_enabled": {"gateway": false},
    }))
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let words = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = words.unwrap_or("without words"), "request failed");
    Refusal(Error::new(ErrorCode::InternalError, "the request failed inside kilter; its log says why")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_lists_every_route() {
        let page = include_str!("../../../../docs/reference/mlflow.md");
        for (path, _) in routes() {
            let name = path.trim_start_matches("/2.0/mlflow-artifacts").trim_start_matches("/2.0/mlflow").trim_start_matches("/3.0/mlflow");
            assert!(page.contains(&format!("{name}`")), "docs/reference/mlflow.md does not name {path}");
        }
    }

    #[test]
    fn only_artifacts_may_take_their_time() {
        assert!(is_unhurried("/api/2.0/mlflow-artifacts/artifacts/a") && is_unhurried("/ajax-api/2.0/mlflow-artifacts/artifacts/{*path}"));
        assert!(is_unhurried("/api/2.0/mlflow-artifacts/mpu/complete/a") && !is_unhurried("/api/2.0/mlflow-artifacts/mpu/create/a"));
        assert!(!is_unhurried("/api/2.0/mlflow-artifacts/artifacts") && !is_unhurried("/v1/api/2.0/mlflow-artifacts/artifacts/a"));
    }
}
