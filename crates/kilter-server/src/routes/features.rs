//! Features of one entity, or of many at one moment.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use kilter_core::{EntityKey, EventTime, Value};
use kilter_runtime::as_seen::Seen;
use kilter_runtime::{FeatureRows, Look, ServiceError};
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{Answer, App, ok};
use crate::error::{ApiError, ErrorBody};
use crate::input::{DECIDE_BODY, Params, Segments};
use crate::wire::Moment;

/// Most keys of one read.
pub(super) const KEYS: usize = 1000;

/// The features of one entity at one moment.
#[derive(Serialize, ToSchema)]
pub struct Features<'a> {
    #[schema(example = "account")]
    view: &'a str,
    #[schema(example = "4711")]
    key: &'a str,
    #[serde(flatten)]
    head: Head,
    #[serde(flatten)]
    known: Known<'a>,
}

/// What an answer stands on.
#[derive(Serialize, ToSchema)]
pub struct Head {
    /// `event-time`: all that is known now, as of `at`; `as-seen`: what was known at an earlier place of the log.
    mode: &'static str,
    /// The moment of event time that was read at.
    at: Moment,
    /// Every event of the log before this offset has been taken into account.
    as_of_offset: u64,
    /// The newest event time of the view's source among them; null: there was none.
    watermark: Option<Moment>,
}

/// The features of one entity, and what is known about them.
#[derive(Serialize, ToSchema)]
pub struct Known<'a> {
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    features: BTreeMap<&'a str, &'a Value>,
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

const MODES: [&str; 2] = ["event-time", "as-seen"];

/// Which state is read, and at which moment.
pub(super) struct Past {
    pub at: Option<EventTime>,
    pub seen: Option<Seen>,
    pub freshness: bool,
}

impl Past {
    pub fn of(params: &mut Params) -> Past {
        let at = params.time("at");
        let mode = params.one_of("mode", &MODES).unwrap_or(0);
        let offset = params.number("offset", 0..=u64::MAX);
        let freshness = params.flag("freshness");
        let seen = match (mode, offset, at) {
            (0, None, _) => None,
            (0, Some(_), _) => {
                params.refuse("offset", "goes with mode `as-seen`; in mode `event-time` the moment is `at`");
                None
            }
            (_, Some(offset), None) => Some(Seen::Before(offset)),
            (_, None, Some(at)) => Some(Seen::Arrived(at)),
            (_, Some(_), Some(_)) => {
                params.refuse("offset", "mode `as-seen` takes `offset` or `at`, not both");
                None
            }
            (_, None, None) => {
                params.missing("at", "with mode `as-seen`: the moment of arrival, or `offset`");
                None
            }
        };
        Past { at, seen, freshness }
    }

    pub fn mode(&self) -> &'static str {
        MODES[usize::from(self.seen.is_some())]
    }

    async fn read(&self, app: &App, view: usize, keys: Vec<EntityKey>) -> Result<FeatureRows, ServiceError> {
        match self.seen {
            Some(seen) => app.service.features_as_seen(view, keys, seen).await,
            None => app.service.feature_rows(view, keys, self.at).await,
        }
    }

    fn head(&self, read: &FeatureRows) -> Head {
        Head { mode: self.mode(), at: Moment(read.at), as_of_offset: read.as_of_offset, watermark: read.watermark.map(Moment) }
    }

    fn known<'a>(&self, read: &'a FeatureRows, look: &'a Look, wanted: &[usize]) -> Known<'a> {
        let name = |f: usize| read.view.features()[f].name.as_str();
        let newest = |&f: &usize| (name(f), look.newest.get(f).copied().flatten().map(Moment));
        Known {
            last_event: look.last_event.map(Moment),
            features: wanted.iter().filter_map(|&f| Some((name(f), look.values.get(f)?))).collect(),
            incomplete: wanted.iter().filter(|f| look.complete.get(**f) == Some(&false)).map(|f| name(*f)).collect(),
            freshness: self.freshness.then(|| wanted.iter().map(newest).collect()),
        }
    }
}

/// Features of one entity
///
/// As of now, or of a moment of the past: by event time, as far as the windows still hold it (those that do not are named in `incomplete`), or as
/// the server saw it then. Several key columns are separated by `|`.
#[utoipa::path(
    get, path = "/v1/features/{view}/{key}", tag = "features",
    params(
        ("view" = String, Path, description = "a feature view of the project"),
        ("key" = String, Path, description = "the entity, such as an account's number"),
        ("at" = Option<String>, Query, description = "a time, RFC 3339 or a number since 1970; left out: now"),
        ("mode" = Option<String>, Query, description = "`event-time` (all that is known now, as of `at`) or `as-seen` (what the server would have answered when its clock showed `at`)"),
        ("offset" = Option<u64>, Query, description = "with `as-seen`, instead of `at`: what was known before this offset of the log"),
        ("freshness" = Option<bool>, Query, description = "how fresh each feature is"),
    ),
    responses(
        (status = 200, description = "the features; one never seen has the values of an empty history", body = Features),
        (status = 400, description = "no such time or mode", body = ErrorBody),
        (status = 404, description = "no such view", body = ErrorBody),
        (status = 409, description = "with `as-seen`: the place lies too far back, or the view was another then", body = ErrorBody),
        (status = 422, description = "the key does not fit the view's key columns", body = ErrorBody),
    )
)]
pub async fn get_features(State(app): State<App>, Segments((view, key)): Segments<(String, String)>, mut params: Params) -> Answer {
    let past = Past::of(&mut params);
    params.done()?;
    let index = app.service.view(&view)?;
    let entity = app.service.parse_key(index, &key)?;
    let read = past.read(&app, index, vec![entity]).await?;
    let wanted: Vec<usize> = (0..read.view.features().len()).collect();
    let Some(look) = read.rows.first() else { return Err(ApiError::internal("a read without an answer")) };
    ok(&Features { view: &view, key: &key, head: past.head(&read), known: past.known(&read, look, &wanted) })
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
    /// `event-time`: all that is known now, as of `at`; `as-seen`: what the server would have answered when its clock showed `at`. Left
    /// out: `event-time`.
    mode: Option<String>,
    /// With `as-seen`, instead of `at`: what was known before this offset of the log.
    offset: Option<u64>,
    /// Whether each row says how fresh each feature is.
    freshness: Option<bool>,
    /// Left out: all of the view.
    #[schema(example = json!(["turnover_7d"]))]
    features: Option<Vec<String>>,
}

/// The features of several entities, all at one moment and after the same events.
#[derive(Serialize, ToSchema)]
pub struct FeatureTable<'a> {
    #[schema(example = "account")]
    view: &'a str,
    #[serde(flatten)]
    head: Head,
    /// One per key, in the order of the keys.
    rows: Vec<FeatureRow<'a>>,
}

/// One entity's features.
#[derive(Serialize, ToSchema)]
pub struct FeatureRow<'a> {
    /// As it was asked for.
    key: serde_json::Value,
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
        (status = 409, description = "with `as-seen`: the place lies too far back, or the view was another then", body = ErrorBody),
        (status = 413, description = "the body is larger than 1 MiB", body = ErrorBody),
        (status = 422, description = "a key does not fit the view's key columns", body = ErrorBody),
    )
)]
pub async fn read_features(State(app): State<App>, Segments(view): Segments<String>, headers: HeaderMap, body: Body) -> Answer {
    let index = app.service.view(&view)?;
    let names: Vec<&str> = app.service.plan.views[index].features().iter().map(|f| f.name.as_str()).collect();
    let mut params = Params::of_body_within(&headers, body, DECIDE_BODY, "read fewer keys at once").await?;
    let keys = params.list("keys", KEYS);
    let past = Past::of(&mut params);
    let wanted = params.all_of("features", &names);
    if keys.is_none() {
        params.missing("keys", "an array of entities");
    }
    params.done()?;
    let keys = keys.unwrap_or_default();
    let entities = keys.iter().enumerate().map(|(place, key)| entity(&app, index, place, key)).collect::<Result<Vec<_>, _>>()?;
    let read = past.read(&app, index, entities).await?;
    let wanted = wanted.unwrap_or_else(|| (0..names.len()).collect());
    // The definitions may have changed on the way.
    let wanted: Vec<usize> =
        wanted.into_iter().filter_map(|f| read.view.features().iter().position(|info| info.name == names[f])).collect();
    let rows = keys.into_iter().zip(&read.rows).map(|(key, look)| FeatureRow { key, known: past.known(&read, look, &wanted) });
    ok(&FeatureTable { view: &view, head: past.head(&read), rows: rows.collect() })
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
