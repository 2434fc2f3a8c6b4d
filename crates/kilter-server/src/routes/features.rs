//! Features of one entity.

use std::collections::BTreeMap;

use axum::extract::State;
use kilter_core::Value;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::{Answer, App, ok};
use crate::error::ErrorBody;
use crate::input::{Params, Segments};
use crate::wire::Moment;

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
}

/// Features of one entity
///
/// As of now, or of a moment that the windows still hold. Several key columns are separated by `|`.
#[utoipa::path(
    get, path = "/v1/features/{view}/{key}", tag = "features",
    params(
        ("view" = String, Path, description = "a feature view of the project"),
        ("key" = String, Path, description = "the entity, such as an account's number"),
        ("at" = Option<String>, Query, description = "a time, RFC 3339 or a number since 1970; left out: now"),
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
    params.done()?;
    let index = app.service.view(&view)?;
    let entity = app.service.parse_key(index, &key)?;
    let read = app.service.features(index, entity, at).await?;
    let names = read.view.features().iter().map(|f| f.name.as_str());
    ok(&Features {
        view: &view,
        key: &key,
        at: Moment(read.at),
        as_of_offset: read.as_of_offset,
        features: names.zip(&read.values).collect(),
    })
}
