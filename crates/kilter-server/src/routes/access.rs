//! Who asks, and who may.

use std::collections::BTreeMap;

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::access::Caller;
use crate::access::keys::{Key, Role};
use crate::app::{Answer, App, ok};
use crate::input::Params;
use crate::wire::Moment;

/// What the caller may do, and, for those who manage, who else may.
#[derive(Serialize, ToSchema)]
pub struct AccessOfCaller {
    /// Whether a key is wanted; without one everybody may do everything.
    wanted: bool,
    /// The name of the caller's key.
    #[schema(example = "team-a")]
    key: Option<String>,
    /// `none`, `read`, `write` or `manage`, where nothing else is said.
    #[schema(example = "manage")]
    role: &'static str,
    /// The role for single models instead.
    models: BTreeMap<String, &'static str>,
    /// And for single experiments.
    experiments: BTreeMap<String, &'static str>,
    /// What it may see in SQL, a grant each; null: everything, where it has `read` everywhere.
    #[schema(example = json!(["events.payments (id, time) WHERE country = 'DE'"]))]
    grants: Option<Vec<String>>,
    /// All keys, without what would open anything; null for those who do not manage.
    keys: Option<Vec<ListedKey>>,
}

/// A key, but for the key itself.
#[derive(Serialize, ToSchema)]
pub struct ListedKey {
    #[schema(example = "team-a")]
    name: String,
    role: &'static str,
    models: BTreeMap<String, &'static str>,
    experiments: BTreeMap<String, &'static str>,
    /// What it may see in SQL, a grant each; null: everything, where it has `read` everywhere.
    grants: Option<Vec<String>>,
    created: Moment,
    expires: Option<Moment>,
}

fn grants(key: &Key) -> Option<Vec<String>> {
    key.grants.as_ref().map(|grants| grants.to_vec())
}

fn words(roles: &BTreeMap<String, Role>) -> BTreeMap<String, &'static str> {
    roles.iter().map(|(name, role)| (name.clone(), role.as_str())).collect()
}

impl From<&Key> for ListedKey {
    fn from(key: &Key) -> Self {
        ListedKey {
            name: key.name.clone(),
            role: key.role.as_str(),
            models: words(&key.models),
            experiments: words(&key.experiments),
            grants: grants(key),
            created: Moment(key.created),
            expires: key.expires.map(Moment),
        }
    }
}

/// Who I am
///
/// The caller's key, roles and grants; with the role `manage` also all keys, as `kilter key list` has them.
#[utoipa::path(
    get, path = "/v1/access", tag = "operations",
    responses((status = 200, description = "the caller", body = AccessOfCaller))
)]
pub async fn get_access(State(app): State<App>, caller: Caller, params: Params) -> Answer {
    params.done()?;
    let own = caller.key();
    let known = app.access.known();
    let manages = caller.role() >= Role::Manage;
    ok(&AccessOfCaller {
        wanted: known.is_some(),
        key: caller.name().map(str::to_string),
        role: caller.role().as_str(),
        models: own.map(|key| words(&key.models)).unwrap_or_default(),
        experiments: own.map(|key| words(&key.experiments)).unwrap_or_default(),
        grants: own.and_then(grants),
        keys: known.filter(|_| manages).map(|keys| keys.iter().map(|key| ListedKey::from(key.as_ref())).collect()),
    })
}
