//! Decisions out: the route that is measured. One struct, serialised straight to bytes.

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use kilter_pipeline::{Decision, Layout};
use kilter_runtime::{Refusal, ServiceError};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::app::{Answer, App, ok};
use crate::error::{ApiError, ErrorBody, FieldError};
use crate::input::{DECIDE_BODY, Params, Received, Segments, read};
use crate::wire::Moment;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A decision and why.
#[derive(Serialize, ToSchema)]
pub struct Decided<'a> {
    /// The decision's name and the offset of the event it was made on; null for a preview.
    #[schema(value_type = Option<String>, example = "loan-12345")]
    decision_id: Option<DecisionId<'a>>,
    #[schema(example = "loan")]
    decision: &'a str,
    #[schema(example = "approve")]
    outcome: &'a str,
    /// Probability; null without a model.
    #[schema(example = 0.042)]
    score: Option<f64>,
    model: Option<&'a str>,
    /// Null without a model, or when the fallback decided.
    model_version: Option<u32>,
    /// What pushed the score up the most, strongest first.
    #[schema(value_type = Vec<Reason>)]
    reasons: Reasons<'a>,
    /// The offset of the event decided on: everything before it in the log was known.
    as_of_offset: u64,
    time: Moment,
    /// The policy's rule that decided, in its own words; null when the fallback did.
    #[schema(example = "score >= 0.08")]
    rule: Option<&'a str>,
    /// False for a preview.
    recorded: bool,
}

/// The part of an input, or of a group of inputs, in a score.
#[derive(Serialize, ToSchema)]
pub struct Reason<'a> {
    /// The input, or the group under `reason_groups`.
    #[schema(example = "overdrafts_30d")]
    feature: &'a str,
    /// What the model saw; null where missing, and for a group.
    #[schema(value_type = Option<f64>)]
    value: f64,
    /// Added to the margin (log-odds, of most models) by this input, against the training data's mean prediction; of a group the sum of its inputs.
    contribution: f64,
}

pub struct DecisionId<'a> {
    pub name: &'a str,
    pub offset: u64,
}

impl Serialize for DecisionId<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{}-{}", self.name, self.offset))
    }
}

pub struct Reasons<'a> {
    pub decision: &'a Decision,
    pub layout: &'a Layout,
}

impl Serialize for Reasons<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.decision.reasons.iter().map(|reason| {
            let (feature, value) = self.layout.reason(reason, &self.decision.inputs);
            Reason { feature, value: value.unwrap_or(f64::NAN), contribution: reason.contribution }
        }))
    }
}

impl<'a> Decided<'a> {
    pub fn new(decision: &'a Decision, layout: &'a Layout, recorded: bool) -> Decided<'a> {
        Decided {
            decision_id: recorded.then_some(DecisionId { name: &layout.decision, offset: decision.offset }),
            decision: &layout.decision,
            outcome: layout.outcomes.get(decision.outcome).map_or("", String::as_str),
            score: decision.score,
            model: layout.model.as_deref(),
            model_version: decision.version,
            reasons: Reasons { decision, layout },
            as_of_offset: decision.offset,
            time: Moment(decision.time),
            rule: decision.rule.and_then(|r| layout.rules.get(r)).map(String::as_str),
            recorded,
        }
    }
}

/// Decide
///
/// Takes in one event of the decision's source and answers with the decision on it, written to the log before the answer is sent. With an
/// `Idempotency-Key` (or an event id of the source's own) a repeated request is answered with the first decision again. A preview
/// decides as of now and writes nothing.
#[utoipa::path(
    post, path = "/v1/decide/{decision}", tag = "decisions",
    params(
        ("decision" = String, Path, description = "a decision of the project"),
        ("preview" = Option<bool>, Query, description = "decide, but write nothing"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 1024 bytes; names this request for good"),
    ),
    request_body(content = serde_json::Value, content_type = "application/json", description = "the fields of one event"),
    responses(
        (status = 200, description = "the decision", body = Decided,
            headers(("Idempotency-Replayed" = bool, description = "there when this is an earlier decision again"))),
        (status = 400, description = "the body is no JSON object", body = ErrorBody),
        (status = 404, description = "no such decision", body = ErrorBody),
        (status = 409, description = "no model in service and no fallback (`no_model`), no rule holds (`undecided`), or the id \
            belongs to an event without a decision (`duplicate`)", body = ErrorBody),
        (status = 413, description = "the body is too large", body = ErrorBody),
        (status = 422, description = "fields are wrong: all of them are named", body = ErrorBody),
        (status = 429, description = "more requests wait than can be processed; see `Retry-After`", body = ErrorBody),
        (status = 503, description = "the log does not take records", body = ErrorBody),
        (status = 507, description = "the disk is full", body = ErrorBody),
    )
)]
pub async fn post_decide(
    Received(received): Received,
    State(app): State<App>,
    Segments(name): Segments<String>,
    mut params: Params,
    request: Request,
) -> Answer {
    let preview = params.flag("preview");
    params.done()?;
    let decision = app.service.decision(&name)?;
    let (parts, body) = request.into_parts();
    let key = parts.headers.get(IDEMPOTENCY_KEY).map(|v| v.to_str()).transpose().map_err(|_| not_text())?;
    let limit = DECIDE_BODY.min(app.service.project.settings.server.max_body_bytes);
    let body = read(&parts.headers, body, limit, "a request holds the fields of one decision and nothing else").await?;
    match app.service.decide(decision, &body, key, received, preview).await {
        Ok(decided) => ok(&Decided::new(&decided.decision, &decided.layout, decided.recorded)),
        Err(ServiceError::Refused(Refusal::Duplicate { first })) => again(&app, name, first).await,
        Err(e) => Err(e.into()),
    }
}

/// The decision that the first event with this id led to.
async fn again(app: &App, name: String, first: u64) -> Answer {
    let found = app
        .blocking(move |service| match service.recorded(&kilter_pipeline::decision_id(&name, first)) {
            // Taken, but its record is still on the way (or the event came in without a decision).
            Err(ServiceError::NotFound { .. }) => Err(Refusal::Duplicate { first }.into()),
            found => Ok(found?),
        })
        .await?;
    let mut response = ok(&Decided::new(&found.decision, &found.layout, true))?;
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

fn not_text() -> ApiError {
    let field = FieldError {
        field: "Idempotency-Key".into(),
        code: "bad_id".into(),
        message: "the Idempotency-Key header holds characters other than printable ASCII".into(),
        expected: None,
        got: None,
        hint: None,
    };
    ApiError::wrong_fields(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", vec![field])
}
