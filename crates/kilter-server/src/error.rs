//! The one shape of every refusal: `{"error": {"code", "message", "hint"?, "fields"?}}`, of a question in SQL with `sqlstate` and `position`?.

use std::borrow::Cow;

use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use kilter_connect::FieldProblem;
use kilter_runtime::{Refusal, ServiceError};
use kilter_store::StoreError;
use kilter_store::metadata::MetadataError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::wire;

/// What every request that is not served is answered with.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

/// What is wrong, and what to do about it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// Stable and short, for programs.
    #[schema(value_type = String, example = "invalid_request")]
    pub code: Cow<'static, str>,
    /// For people.
    #[schema(example = "amount: expected a number, got \"lots\"")]
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Every field that is wrong, not only the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldError>,
    /// Of a question in SQL: PostgreSQL's code for what is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "42703")]
    pub sqlstate: Option<&'static str>,
    /// And where in its text, counted in characters from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<u32>,
}

/// One wrong field of a request.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FieldError {
    #[schema(example = "amount")]
    pub field: String,
    #[schema(value_type = String, example = "wrong_type")]
    pub code: Cow<'static, str>,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub got: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl From<FieldProblem> for FieldError {
    fn from(p: FieldProblem) -> Self {
        FieldError { field: p.field, code: p.code.into(), message: p.message, expected: p.expected, got: p.got, hint: p.hint }
    }
}

/// A refusal on its way to the client.
#[derive(Debug)]
pub struct ApiError(Box<Refused>);

#[derive(Debug)]
struct Refused {
    status: StatusCode,
    /// Seconds after which it is worth another try.
    retry_after: Option<u16>,
    detail: ErrorDetail,
}

impl ApiError {
    pub fn new(status: StatusCode, code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> ApiError {
        let detail =
            ErrorDetail { code: code.into(), message: message.into(), hint: None, fields: Vec::new(), sqlstate: None, position: None };
        ApiError(Box::new(Refused { status, retry_after: None, detail }))
    }

    pub fn hint(mut self, hint: impl Into<Option<String>>) -> ApiError {
        self.0.detail.hint = hint.into();
        self
    }

    pub fn fields(mut self, fields: Vec<FieldError>) -> ApiError {
        self.0.detail.fields = fields;
        self
    }

    pub fn of_sql(mut self, sqlstate: &'static str, position: Option<u32>) -> ApiError {
        self.0.detail.sqlstate = Some(sqlstate);
        self.0.detail.position = position;
        self
    }

    pub fn retry_after(mut self, seconds: u16) -> ApiError {
        self.0.retry_after = Some(seconds);
        self
    }

    /// Something of ours failed: the log of the program gets the detail, the client does not.
    pub fn internal(detail: &str) -> ApiError {
        tracing::error!(detail, "request failed");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request failed inside kilter; its log says why")
    }

    pub fn not_found(what: &str, name: &str, hint: impl Into<Option<String>>) -> ApiError {
        let kind = what.rsplit(' ').next().unwrap_or(what);
        ApiError::new(StatusCode::NOT_FOUND, format!("unknown_{kind}"), format!("there is no {what} `{name}`")).hint(hint)
    }

    /// Fields of a body or parameters of a query are wrong.
    pub fn wrong_fields(status: StatusCode, code: &'static str, fields: Vec<FieldError>) -> ApiError {
        let message = match fields.as_slice() {
            [one] => one.message.clone(),
            [first, rest @ ..] => format!("{} (and {} more wrong)", first.message, rest.len()),
            [] => "the request is wrong".to_string(),
        };
        ApiError::new(status, code, message).fields(fields)
    }

    fn of_fields(problems: Vec<FieldProblem>) -> ApiError {
        // Text that is no object at all has no fields to name.
        if let [one] = problems.as_slice()
            && matches!(one.code, "malformed_json" | "not_an_object" | "empty_body")
        {
            let hint = one.hint.clone().or_else(|| Some("send one JSON object".into()));
            return ApiError::new(StatusCode::BAD_REQUEST, one.code, one.message.clone()).hint(hint);
        }
        let fields = problems.into_iter().map(FieldError::from).collect();
        ApiError::wrong_fields(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", fields)
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        let message = refusal.to_string();
        match refusal {
            Refusal::Log { full: true, .. } => ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "disk_full", message)
                .hint("free space on the disk of the data folder; kilter goes on by itself then".to_string()),
            Refusal::Log { full: false, .. } => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "log_broken", message)
                .hint("look at kilter's own log (standard error), which has the cause".to_string()),
            Refusal::Duplicate { .. } => ApiError::new(StatusCode::CONFLICT, "duplicate", message)
                .hint("the first event with this id led to no decision: send the request under a new id".to_string()),
            Refusal::NoModel { model } => ApiError::new(StatusCode::CONFLICT, "no_model", message)
                .hint(format!("train it: `kilter train {model}`, or name a `fallback` in the definitions")),
            Refusal::Undecided => {
                ApiError::new(StatusCode::CONFLICT, "undecided", message).hint("end the policy with a rule that has no `when`".to_string())
            }
            Refusal::Changed(_) => ApiError::new(StatusCode::CONFLICT, "definitions_changed", message)
                .hint("`/v1/project` has the definitions in force".to_string()),
            Refusal::Other(_) => ApiError::new(StatusCode::CONFLICT, "refused", message),
            Refusal::Stopping => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", message).retry_after(5),
        }
    }
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> ApiError {
        let message = error.to_string();
        match error {
            ServiceError::Body(r) => {
                let status = if r.code == "too_many_rows" { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
                ApiError::new(status, r.code, r.message).hint(r.hint)
            }
            ServiceError::Fields(problems) => ApiError::of_fields(problems),
            ServiceError::Refused(refusal) => refusal.into(),
            ServiceError::SlowDown => ApiError::new(StatusCode::TOO_MANY_REQUESTS, "slow_down", message).retry_after(1),
            ServiceError::NotFound { what, name, hint } => ApiError::not_found(what, &name, hint),
            ServiceError::Definitions(_) => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_definitions", message)
                .hint("`kilter check` shows the same".to_string()),
            ServiceError::Model(detail) => {
                // The learners' crate writes what to do on a line of its own.
                let (problem, hint) = detail.split_once("\n  hint: ").unzip();
                ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_model", problem.unwrap_or(&detail)).hint(hint.map(str::to_string))
            }
            ServiceError::Conflict(detail) => ApiError::new(StatusCode::CONFLICT, "conflict", detail),
            ServiceError::Failed(detail) => ApiError::internal(&detail),
        }
    }
}

impl From<MetadataError> for ApiError {
    fn from(error: MetadataError) -> ApiError {
        match error {
            MetadataError::NotFound { what, hint } => {
                ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("{what} does not exist")).hint(hint.to_string())
            }
            MetadataError::Invalid { problem, hint } => ApiError::new(StatusCode::CONFLICT, "conflict", problem).hint(hint.to_string()),
            other => ApiError::internal(&other.to_string()),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        match error {
            StoreError::NotFound { what, hint } => {
                ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {what}")).hint(hint.to_string())
            }
            StoreError::BadName { what, name, rule } => {
                ApiError::new(StatusCode::BAD_REQUEST, "bad_path", format!("{what} `{name}` cannot be one")).hint(rule.to_string())
            }
            other => ApiError::internal(&other.to_string()),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Refused { status, retry_after, detail } = *self.0;
        let mut response = wire::json(status, &ErrorBody { error: detail });
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
