//! Feature services: one answer over several views.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use kilter_connect::FieldProblem;
use kilter_core::{DataType, Problem, Value};
use kilter_pipeline::ServicePlan;
use kilter_runtime::ServiceError;
use serde::Serialize;
use utoipa::ToSchema;

use super::features::{KEYS, Past};
use crate::app::{Answer, App, ok};
use crate::error::ErrorBody;
use crate::input::{DECIDE_BODY, Params, Segments};
use crate::wire::Moment;

/// What to ask a service.
#[derive(serde::Deserialize, ToSchema)]
#[allow(dead_code, reason = "describes the body, which is read member by member so that every mistake is named")]
pub struct ServiceQuery {
    /// One to 1000 questions: each an object with a value for every key of the service. Null: no entity.
    #[schema(example = json!([{ "customer_id": 4711, "merchant_id": "m17" }]))]
    keys: Vec<BTreeMap<String, serde_json::Value>>,
    /// Left out: now.
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<String>,
    /// `event-time`: all that is known now, as of `at`; `as-seen`: what the server would have answered when its clock showed `at`. Left
    /// out: `event-time`.
    mode: Option<String>,
    /// With `as-seen`, instead of `at`: what was known before this offset of the log.
    offset: Option<u64>,
    /// Whether each row says how fresh each feature is.
    freshness: Option<bool>,
    /// Left out: all of the service.
    #[schema(example = json!(["customer.turnover_7d"]))]
    features: Option<Vec<String>>,
}

/// A service's answers, all at one moment and after the same events.
#[derive(Serialize, ToSchema)]
pub struct ServiceTable<'a> {
    #[schema(example = "scoring")]
    service: &'a str,
    /// `event-time`: all that is known now, as of `at`; `as-seen`: what was known at an earlier place of the log.
    mode: &'static str,
    /// The moment of event time that was read at.
    at: Moment,
    /// Every event of the log before this offset has been taken into account.
    as_of_offset: u64,
    /// One per question, in their order.
    rows: Vec<ServiceAnswer<'a>>,
}

/// One question's features.
#[derive(Serialize, ToSchema)]
pub struct ServiceAnswer<'a> {
    /// As they were asked for.
    keys: serde_json::Value,
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    features: BTreeMap<&'a str, &'a Value>,
    /// By view: when the newest event happened that it took in of the entity; null: it knows nothing of it.
    #[schema(value_type = BTreeMap<String, Option<String>>)]
    last_event: BTreeMap<&'a str, Option<Moment>>,
    /// Features that are not what they were at `at`, or would have been: their windows have let go of a part since, or hold what came after.
    /// Left out: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<String>>)]
    incomplete: Vec<&'a str>,
    /// With `freshness`: when the newest event in each feature's window happened, to the beginning of its tile where a later one is known.
    /// Null: the window is empty, or the feature is computed from others.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>)]
    freshness: Option<BTreeMap<&'a str, Option<Moment>>>,
}

/// Features of a service
///
/// The features of several views for one or many questions, all as of one moment and one place of the log. A key that is missing, unknown or of
/// another type refuses the whole read, naming its place.
#[utoipa::path(
    post, path = "/v1/services/{service}", tag = "features",
    params(("service" = String, Path, description = "a feature service of the project")),
    request_body = ServiceQuery,
    responses(
        (status = 200, description = "a row for each question, in order", body = ServiceTable),
        (status = 400, description = "a member of the body is wrong", body = ErrorBody),
        (status = 404, description = "no such service", body = ErrorBody),
        (status = 409, description = "with `as-seen`: the place lies too far back, or a view was another then", body = ErrorBody),
        (status = 413, description = "the body is larger than 1 MiB", body = ErrorBody),
        (status = 422, description = "a key is missing, unknown or does not fit", body = ErrorBody),
    )
)]
pub async fn read_service(State(app): State<App>, Segments(name): Segments<String>, headers: HeaderMap, body: Body) -> Answer {
    let index = app.service.feature_service(&name)?;
    let plan = &app.service.plan.services[index];
    let names: Vec<&str> = plan.features.iter().map(|f| f.name.as_str()).collect();
    let mut params = Params::of_body_within(&headers, body, DECIDE_BODY, "ask less at once").await?;
    let questions = params.list("keys", KEYS);
    let past = Past::of(&mut params);
    let wanted = params.all_of("features", &names);
    if questions.is_none() {
        params.missing("keys", "an array of objects with the service's keys");
    }
    params.done()?;
    let questions = questions.unwrap_or_default();
    let mut problems = Vec::new();
    let keys: Vec<Vec<Value>> = questions.iter().enumerate().map(|(place, q)| question(plan, place, q, &mut problems)).collect();
    if !problems.is_empty() {
        return Err(ServiceError::Fields(problems).into());
    }
    let read = app.service.service_rows(index, &keys, past.at, past.seen).await?;
    let wanted = wanted.unwrap_or_else(|| (0..names.len()).collect());
    let views: Vec<&str> = plan.lookups.iter().map(|l| app.service.plan.views[l.view].name()).collect();
    let rows = questions.into_iter().zip(&read.rows).map(|(keys, row)| ServiceAnswer {
        keys,
        features: wanted.iter().map(|&f| (names[f], &row.values[f])).collect(),
        last_event: views.iter().copied().zip(row.last_events.iter().map(|last| last.map(Moment))).collect(),
        incomplete: wanted.iter().filter(|f| !row.complete[**f]).map(|f| names[*f]).collect(),
        freshness: past.freshness.then(|| wanted.iter().map(|&f| (names[f], row.newest[f].map(Moment))).collect()),
    });
    ok(&ServiceTable { service: &name, mode: past.mode(), at: Moment(read.at), as_of_offset: read.as_of_offset, rows: rows.collect() })
}

/// The values of the service's keys in an item of `keys`. Texts are read by the key's type, as in a path or on a command line.
fn question(plan: &ServicePlan, place: usize, item: &serde_json::Value, problems: &mut Vec<FieldProblem>) -> Vec<Value> {
    let known = || plan.keys.iter().map(|k| k.name.as_str());
    let mut wrong = |field: String, code, message: String, expected: Option<String>, got: Option<String>, hint: Option<String>| {
        problems.push(FieldProblem { field, code, message, expected, got, hint });
    };
    let serde_json::Value::Object(given) = item else {
        let field = format!("keys[{place}]");
        let expected = format!("an object with {}", kilter_core::list(known()));
        wrong(field.clone(), "wrong_type", format!("{field} is no object"), Some(expected), Some(item.to_string()), None);
        return Vec::new();
    };
    for name in given.keys().filter(|name| !known().any(|k| k == name.as_str())) {
        let problem = Problem::unknown("unknown_field", "key", name, known());
        wrong(format!("keys[{place}].{name}"), "unknown_field", problem.message, None, None, problem.hint);
    }
    let mut values = Vec::with_capacity(plan.keys.len());
    for key in &plan.keys {
        let field = format!("keys[{place}].{}", key.name);
        let Some(value) = given.get(&key.name) else {
            let hint = "null asks for no entity: the features of an empty history".to_string();
            wrong(field.clone(), "missing_key", format!("{field} is missing"), Some(key.data_type.to_string()), None, Some(hint));
            continue;
        };
        match key_value(key.data_type, value) {
            Some(value) => values.push(value),
            None => {
                let message = format!("{field}: `{value}` is no {}", key.data_type);
                wrong(field, "wrong_type", message, Some(key.data_type.to_string()), Some(value.to_string()), None);
            }
        }
    }
    values
}

fn key_value(data_type: DataType, value: &serde_json::Value) -> Option<Value> {
    use serde_json::Value as Json;
    match (data_type, value) {
        (_, Json::Null) => Some(Value::Null),
        (DataType::Int64, Json::Number(n)) => n.as_i64().map(Value::Int),
        (DataType::Int64, Json::String(text)) => text.parse().ok().map(Value::Int),
        (DataType::Bool, Json::Bool(b)) => Some(Value::Bool(*b)),
        (DataType::Bool, Json::String(text)) => text.parse().ok().map(Value::Bool),
        (DataType::String, Json::String(text)) => Some(Value::text(text)),
        (DataType::String, Json::Number(_) | Json::Bool(_)) => Some(Value::text(&value.to_string())),
        _ => None,
    }
}
