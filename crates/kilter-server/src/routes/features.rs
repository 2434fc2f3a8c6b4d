//! Features of one entity, or of many at one moment.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use kilter_core::{EntityKey, Value};
use kilter_runtime::{Look, ServiceError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{Answer, App, ok};
use crate::error::{ApiError, ErrorBody};
use crate::input::{DECIDE_BODY, Params, Segments};
use crate::wire::Moment;

/// Most keys of one read.
const KEYS: usize = 1000;

/// The features of one entity at one moment.
#[derive(Serialize, ToSchema)]
pub struct Features<'a> {
    #[schema(example = "account")]
    view: &'a str,
    #[schema(example = "4711")]
    key: &'a str,
    at: Moment,
    /// Every event of the log before this offset has been taken into account.
    as_of_offset: u64,
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    features: BTreeMap<&'a str, &'a Value>,
    #[serde(flatten)]
    known: Known<'a>,
}

/// What is known about the values.
#[derive(Serialize, ToSchema)]
pub struct Known<'a> {
    /// When the newest event happened that the view took in of the entity; null: it knows nothing of it.
    last_event: Option<Moment>,
    /// Features that are not what they were at `at`, or would have been: their windows have let go of a part since, or hold what came after.
    /// Left out: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Option<Vec<String>>)]
    incomplete: Vec<&'a str>,
    /// With `freshness=true`: when the newest event in each feature's window happened, to the beginning of its tile where a later one is known.
    /// Null: the window is empty, or the feature is derived from others.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>)]
    freshness: Option<BTreeMap<&'a str, Option<Moment>>>,
}

impl<'a> Known<'a> {
    /// Of the features at these places.
    fn new(look: &Look, names: &[&'a str], wanted: &[usize], freshness: bool) -> Known<'a> {
        let newest = |f: &usize| (names[*f], look.newest.get(*f).copied().flatten().map(Moment));
        Known {
            last_event: look.last_event.map(Moment),
            incomplete: wanted.iter().filter(|f| look.complete.get(**f) == Some(&false)).map(|f| names[*f]).collect(),
            freshness: freshness.then(|| wanted.iter().map(newest).collect()),
        }
    }
}

/// Features of one entity
///
/// As of now, or of a moment that the windows still hold: those that do not are named in `incomplete`. Several key columns are separated by `|`.
#[utoipa::path(
    get, path = "/v1/features/{view}/{key}", tag = "features",
    params(
        ("view" = String, Path, description = "a feature view of the project"),
        ("key" = String, Path, description = "the entity, such as an account's number"),
        ("at" = Option<String>, Query, description = "a time, RFC 3339 or a number since 1970; left out: now"),
        ("freshness" = Option<bool>, Query, description = "how fresh each feature is"),
    ),
    responses(
        (status = 200, description = "the features; one never seen has the values of an empty history", body = Features),
        (status = 400, description = "no such time", body = ErrorBody),
        (status = 404, description = "no such view", body = ErrorBody),
        (status = 422, description = "the key does not fit the view's key columns", body = ErrorBody),
    )
)]
pub async fn get_features(State(app): State<App>, Segments((view, key)): Segments<(String, String)>, mut params: Params) -> Answer {
    let at = params.time("at");
    let freshness = params.flag("freshness");
    params.done()?;
    let index = app.service.view(&view)?;
    let entity = app.service.parse_key(index, &key)?;
    let read = app.service.features(index, entity, at).await?;
    let names: Vec<&str> = read.view.features().iter().map(|f| f.name.as_str()).collect();
    let all: Vec<usize> = (0..names.len()).collect();
    ok(&Features {
        view: &view,
        key: &key,
        at: Moment(read.at),
        as_of_offset: read.as_of_offset,
        known: Known::new(&read.look, &names, &all, freshness),
        features: names.into_iter().zip(&read.values).collect(),
    })
}

/// What to read of several entities.
#[derive(serde::Deserialize, ToSchema)]
#[allow(dead_code, reason = "describes the body, which is read member by member so that every mistake is named")]
pub struct FeatureQuery {
    /// One to 1000 entities: each a text, number or bool; of several key columns an array, or a text with `|` between them.
    #[schema(example = json!([4711, 4712]))]
    keys: Vec<serde_json::Value>,
    /// Left out: now.
    #[schema(value_type = Option<String>, format = DateTime)]
    at: Option<String>,
    /// Left out: all of the view.
    #[schema(example = json!(["turnover_7d"]))]
    features: Option<Vec<String>>,
    /// Whether each row says how fresh each feature is.
    freshness: Option<bool>,
}

/// The features of several entities, all at one moment and after the same events.
#[derive(Serialize, ToSchema)]
pub struct FeatureTable<'a> {
    #[schema(example = "account")]
    view: &'a str,
    at: Moment,
    /// Every event of the log before this offset has been taken into account.
    as_of_offset: u64,
    /// One per key, in the order of the keys.
    rows: Vec<FeatureRow<'a>>,
}

/// One entity's features.
#[derive(Serialize, ToSchema)]
pub struct FeatureRow<'a> {
    /// As it was asked for.
    key: serde_json::Value,
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    features: BTreeMap<&'a str, &'a Value>,
    #[serde(flatten)]
    known: Known<'a>,
}

/// Features of many entities
///
/// All as of one moment and one place of the log. A key that fits no entity refuses the whole read, naming its place.
#[utoipa::path(
    post, path = "/v1/features/{view}", tag = "features",
    params(("view" = String, Path, description = "a feature view of the project")),
    request_body = FeatureQuery,
    responses(
        (status = 200, description = "a row for each key, in order", body = FeatureTable),
        (status = 400, description = "a member of the body is wrong", body = ErrorBody),
        (status = 404, description = "no such view", body = ErrorBody),
        (status = 413, description = "the body is larger than 1 MiB", body = ErrorBody),
        (status = 422, description = "a key does not fit the view's key columns", body = ErrorBody),
    )
)]
pub async fn read_features(State(app): State<App>, Segments(view): Segments<String>, headers: HeaderMap, body: Body) -> Answer {
    let index = app.service.view(&view)?;
    let names: Vec<&str> = app.service.plan.views[index].features().iter().map(|f| f.name.as_str()).collect();
    let mut params = Params::of_body_within(&headers, body, DECIDE_BODY, "read fewer keys at once").await?;
    let keys = params.list("keys", KEYS);
    let at = params.time("at");
    let wanted = params.all_of("features", &names);
    let freshness = params.flag("freshness");
    if keys.is_none() {
        params.missing("keys", "an array of entities");
    }
    params.done()?;
    let keys = keys.unwrap_or_default();
    let entities = keys.iter().enumerate().map(|(place, key)| entity(&app, index, place, key)).collect::<Result<Vec<_>, _>>()?;
    let read = app.service.feature_rows(index, entities, at).await?;
    let wanted = wanted.unwrap_or_else(|| (0..names.len()).collect());
    let rows = keys.into_iter().zip(&read.rows).map(|(key, look)| FeatureRow {
        key,
        features: wanted.iter().filter_map(|&f| Some((names[f], look.values.get(f)?))).collect(),
        known: Known::new(look, &names, &wanted, freshness),
    });
    ok(&FeatureTable { view: &view, at: Moment(read.at), as_of_offset: read.as_of_offset, rows: rows.collect() })
}

/// The entity that an item of `keys` names.
fn entity(app: &App, view: usize, place: usize, key: &serde_json::Value) -> Result<EntityKey, ApiError> {
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(_) | serde_json::Value::Bool(_) => Some(value.to_string()),
        _ => None,
    };
    let parsed = match key {
        serde_json::Value::Array(parts) => {
            // An item that names nothing leaves too few parts.
            let parts: Vec<String> = parts.iter().map_while(text).collect();
            app.service.parse_key_parts(view, &parts.iter().map(String::as_str).collect::<Vec<_>>())
        }
        plain => text(plain).map_or_else(|| app.service.parse_key_parts(view, &[]), |text| app.service.parse_key(view, &text)),
    };
    let name = app.service.plan.views[view].name();
    parsed.map_err(|error| match error {
        ServiceError::Fields(problems) => {
            let field = format!("keys[{place}]");
            let named = problems.into_iter().map(|p| kilter_connect::FieldProblem {
                message: format!("{field}: `{key}` is no key of view `{name}`"),
                field: field.clone(),
                got: Some(key.to_string()),
                ..p
            });
            ServiceError::Fields(named.collect()).into()
        }
        other => other.into(),
    })
}
