//! The routes, one file per subject.

mod access;
mod backtests;
mod changes;
mod dead_letters;
mod decide;
mod decisions;
mod drift;
mod evaluation;
mod events;
mod features;
mod health;
mod lake;
pub mod live;
mod metrics;
mod models;
mod monitors;
pub mod pages;
mod performance;
mod policies;
mod project;
mod runs;
mod services;
mod sources;
pub mod sql;
pub mod ui;
mod versions;

pub use decisions::decision_json;
pub use metrics::OPEN_METRICS;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::Host;

/// Every route with its description: what is served is what `/openapi.json` lists.
pub fn all() -> OpenApiRouter<Host> {
    OpenApiRouter::new()
        .routes(routes!(events::post_events))
        .routes(routes!(features::get_features))
        .routes(routes!(features::read_features))
        .routes(routes!(services::read_service))
        .routes(routes!(decide::post_decide))
        .routes(routes!(decisions::list_decisions))
        .routes(routes!(decisions::get_decision))
        .routes(routes!(decisions::replay_decision))
        .routes(routes!(policies::backtest_policy))
        .routes(routes!(policies::publish_policy))
        .routes(routes!(models::list_models))
        .routes(routes!(models::get_model))
        .routes(routes!(models::train_model))
        .routes(routes!(models::promote_model))
        .routes(routes!(models::roll_back_model))
        .routes(routes!(versions::import_version))
        .routes(routes!(versions::get_version_file))
        .routes(routes!(evaluation::get_evaluation))
        .routes(routes!(performance::get_performance))
        .routes(routes!(runs::list_runs))
        .routes(routes!(runs::get_run))
        .routes(routes!(runs::get_artifact))
        .routes(routes!(live::get_live))
        .routes(routes!(monitors::list_monitors))
        .routes(routes!(drift::get_history))
        .routes(routes!(drift::get_distributions))
        .routes(routes!(drift::get_reference))
        .routes(routes!(monitors::list_alerts))
        .routes(routes!(dead_letters::list_dead_letters))
        .routes(routes!(sql::list_tables))
        .routes(routes!(sql::post_sql))
        .routes(routes!(project::get_project))
        .routes(routes!(project::get_status))
        .routes(routes!(lake::get_lake))
        .routes(routes!(lake::compact_lake))
        .routes(routes!(backtests::get_definitions))
        .routes(routes!(backtests::post_backtest))
        .routes(routes!(changes::get_plan))
        .routes(routes!(changes::post_apply))
        .routes(routes!(access::get_access))
        .routes(routes!(health::get_health))
        .routes(routes!(health::get_ready))
        .routes(routes!(metrics::get_metrics))
        .routes(routes!(pages::get_openapi))
        .routes(routes!(pages::get_home))
}
