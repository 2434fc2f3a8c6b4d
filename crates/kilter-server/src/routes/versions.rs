//! Model files: taken in from elsewhere, and given out.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use kilter_runtime::ModelFormat;
use kilter_runtime::jobs::import::{ImportReport, ImportRequest};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{Answer, App, ok};
use crate::error::{ApiError, ErrorBody};
use crate::input::{MODEL_BODY, Params, Segments, read};
use crate::routes::models::{ACTOR, Evaluation};

/// What came of an import.
#[derive(Serialize, ToSchema)]
pub struct Imported {
    run: String,
    model: String,
    version: u32,
    /// Whether it went into service.
    promote: bool,
    /// Why, or why not.
    verdict: String,
    /// Such as `lightgbm`, `xgboost`, `gbdt`.
    kind: &'static str,
    /// `kilter`, `lightgbm`, `xgboost-json`, `xgboost-ubj`, `catboost-json` or `onnx`.
    format: &'static str,
    file: String,
    bytes: u64,
    /// Of the file as it came.
    sha256: String,
    /// Version of the program or its format, where the file tells it.
    program_version: Option<String>,
    objective: Option<String>,
    /// What whoever uses the model should know.
    notes: Vec<String>,
    /// Observations of the model's window that drift is measured against.
    reference_rows: usize,
    /// On the newest rows whose label is known, those that a training would hold out; the model may have learned from them. Null without such rows.
    recent: Option<Evaluation>,
    /// The version in service on the same rows.
    champion: Option<Evaluation>,
}

impl From<ImportReport> for Imported {
    fn from(r: ImportReport) -> Self {
        Imported {
            run: r.run,
            model: r.model,
            version: r.version,
            promote: r.promote,
            verdict: r.verdict,
            kind: r.origin.kind,
            format: r.origin.format,
            file: r.origin.file,
            bytes: r.origin.bytes,
            sha256: r.origin.sha256,
            program_version: r.origin.version,
            objective: r.origin.objective,
            notes: r.origin.notes,
            reference_rows: r.reference_rows,
            recent: r.recent.map(Evaluation::from),
            champion: r.champion.map(Evaluation::from),
        }
    }
}

/// Import a model
///
/// The body is the file as LightGBM (text), XGBoost (JSON, UBJSON) or Kilter saved it. Its inputs must be those of the model, by name and in order.
/// It becomes the newest version, and goes into service if `promote` says so. It is done even when the client goes away.
#[utoipa::path(
    post, path = "/v1/models/{model}/versions", tag = "models",
    params(
        ("model" = String, Path, description = "a model of the project"),
        ("file" = Option<String>, Query, description = "what the file is called where it comes from, for the record"),
        ("promote" = Option<String>, Query, description = "`never` (default) or `always`"),
        ("by_position" = Option<bool>, Query, description = "take the file's inputs in the order of the model's, whatever they are called there"),
    ),
    request_body(content = String, content_type = "application/octet-stream", description = "the model file, at most 128 MiB"),
    responses(
        (status = 200, description = "a new version", body = Imported),
        (status = 400, description = "a parameter is wrong", body = ErrorBody),
        (status = 404, description = "no such model", body = ErrorBody),
        (status = 409, description = "a training or an import is under way", body = ErrorBody),
        (status = 413, description = "the file is too large", body = ErrorBody),
        (status = 422, description = "the file cannot be a version of this model: the message says what is missing or not supported", body = ErrorBody),
    )
)]
pub async fn import_version(State(app): State<App>, Segments(name): Segments<String>, mut params: Params, request: Request) -> Answer {
    let model = app.service.model(&name)?;
    let file = params.text("file").unwrap_or_else(|| "a request's body".into());
    let promote = params.one_of("promote", &["never", "always"]) == Some(1);
    let by_position = params.flag("by_position");
    if file.chars().count() > MOST_OF_A_NAME || file.chars().any(char::is_control) {
        params.refuse("file", "at most 255 characters, none of them a control character");
    }
    params.done()?;
    let (parts, body) = request.into_parts();
    // The route has no limit of time, for the work may take long; its body has the usual one.
    let body = read(&parts.headers, body, MODEL_BODY, "fewer or smaller trees, or XGBoost's UBJSON instead of JSON");
    let bytes = match tokio::time::timeout(app.request_timeout, body).await {
        Ok(read) => read?.to_vec(),
        Err(_) => {
            let message = format!("the file has not arrived within {:?}", app.request_timeout);
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", message).retry_after(1));
        }
    };
    if bytes.is_empty() {
        return Err(
            ApiError::new(StatusCode::BAD_REQUEST, "empty_body", "the body is empty").hint("send the model file as the body".to_string())
        );
    }
    let request = ImportRequest { model, file, bytes, by_position, promote, trigger: ACTOR.into() };
    let report = app.to_the_end(move |service| async move { service.import(request).await }).await?;
    ok(&Imported::from(report))
}

/// Characters of a file's name that are kept.
const MOST_OF_A_NAME: usize = 255;

/// The file of a version
///
/// Kilter's own, which any Kilter and its Python package load; boosted trees also as LightGBM's text, XGBoost's JSON or ONNX, a forest
/// and a logistic regression as ONNX, a scorecard as PMML.
#[utoipa::path(
    get, path = "/v1/models/{model}/versions/{version}/file", tag = "models",
    params(
        ("model" = String, Path, description = "a model of the project"),
        ("version" = u32, Path, description = "one of its versions"),
        ("format" = Option<String>, Query, description = "`kilter` (default), `lightgbm`, `xgboost-json`, `onnx` or `pmml`"),
    ),
    responses(
        (status = 200, description = "the file", content_type = "application/octet-stream"),
        (status = 400, description = "a parameter is wrong", body = ErrorBody),
        (status = 404, description = "no such model or version", body = ErrorBody),
        (status = 422, description = "the version cannot be written in this format", body = ErrorBody),
    )
)]
pub async fn get_version_file(State(app): State<App>, Segments((name, version)): Segments<(String, u32)>, mut params: Params) -> Answer {
    let model = app.service.model(&name)?;
    let names: Vec<&str> = std::iter::once("kilter").chain(ModelFormat::WRITTEN.iter().map(|format| format.name())).collect();
    let format = params.one_of("format", &names);
    params.done()?;
    let format = format.and_then(|at| at.checked_sub(1)).map(|at| ModelFormat::WRITTEN[at]);
    let bytes = app.blocking(move |service| Ok(service.model_file(model, version, format)?)).await?;
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    Ok(response)
}
