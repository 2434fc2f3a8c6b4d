//! How a version did on the rows that were held out when it was trained.

use axum::extract::State;
use axum::http::StatusCode;
use kilter_runtime::jobs::curves::CURVES_FILE;
use kilter_store::StoreError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{Answer, App, ok};
use crate::error::{ApiError, ErrorBody};
use crate::input::{Params, Segments};

/// How a version did.
#[derive(Serialize, ToSchema)]
pub struct VersionEvaluation<'a> {
    #[schema(example = "fraud")]
    model: &'a str,
    version: u32,
    /// The run that made it.
    run: &'a str,
    /// `roc` and `precision_recall` (at most 201 points), `calibration` and `gains` (at most 20 bins of as many rows), `thresholds` (at most 100, each with what
    /// is called right and wrong), `scores` and `residuals` (histograms), `importance`, and `shap`: what inputs contribute to the scores of at most 500 of the rows,
    /// on average and by value. What the task does not define is empty or null.
    #[schema(value_type = Object)]
    evaluation: serde_json::Value,
}

/// The evaluation of a version
///
/// Curves of the held-out rows and contributions of the inputs, as the version's training counted them.
#[utoipa::path(
    get, path = "/v1/models/{model}/versions/{version}/evaluation", tag = "models",
    params(
        ("model" = String, Path, description = "a model of the project"),
        ("version" = u32, Path, description = "one of its versions"),
    ),
    responses(
        (status = 200, description = "the evaluation", body = VersionEvaluation),
        (status = 404, description = "no such model or version, or one without an evaluation (`no_evaluation`)", body = ErrorBody),
    )
)]
pub async fn get_evaluation(State(app): State<App>, Segments((model, version)): Segments<(String, u32)>, params: Params) -> Answer {
    params.done()?;
    app.service.model(&model)?;
    let Some(found) = app.service.data.metadata.get_version(&model, version).await? else {
        return Err(ApiError::not_found("version", &format!("{model}@{version}"), format!("GET /v1/models/{model} lists them")));
    };
    let none = || {
        let message = format!("version {version} of model `{model}` has no evaluation: only trainings with held-out rows leave one");
        ApiError::new(StatusCode::NOT_FOUND, "no_evaluation", message)
            .hint(
                "none have versions that were imported, taken over from the log or from shard 0, or trained by earlier releases, nor those whose evaluation an \
                 erasure removed; train the model again"
                    .to_string(),
            )
    };
    let run = found.spec.run_id.ok_or_else(none)?;
    let kept = run.clone();
    let bytes = app.blocking(move |service| match service.data.artifacts.get_named(&kept, CURVES_FILE) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    });
    let bytes = bytes.await?.ok_or_else(none)?;
    let evaluation = serde_json::from_slice(&bytes).map_err(|e| ApiError::internal(&format!("{CURVES_FILE} of run {run}: {e}")))?;
    ok(&VersionEvaluation { model: &model, version, run: &run, evaluation })
}
