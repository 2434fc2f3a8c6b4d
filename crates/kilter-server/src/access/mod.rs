//! Who may do what: the check before every request, by the key it brings and the role its route wants.

pub mod keys;
mod rules;
mod scram;

use std::fmt;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kilter_tracking::{Error, ErrorCode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::error::ApiError;
use crate::mlflow;
use crate::observe::Labels;
pub use keys::Sight;
use keys::{Key, Role};
pub(crate) use rules::Rule;
pub use scram::Exchange;

/// How long a change of the file may go unseen.
const LOOK: Duration = Duration::from_secs(1);
/// How often a refusal is told to the log; the others are counted.
const TELL: Duration = Duration::from_secs(1);
/// Longest header that is looked at.
const HEADER_BYTES: usize = 1024;
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What decides who may do what on a server; clones share it. By default everybody may do everything.
#[derive(Clone, Default)]
pub struct Access {
    keys: Arc<Keys>,
    refusals: Arc<Refusals>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("folder", &self.keys.folder).finish_non_exhaustive()
    }
}

impl Access {
    /// By the keys of a data folder; everybody may do everything as long as its file of keys was never seen.
    ///
    /// # Errors
    /// When there is a file that cannot be read.
    pub fn of_folder(folder: impl Into<PathBuf>) -> anyhow::Result<Access> {
        let folder = folder.into();
        let stamp = Stamp::of(&folder.join(keys::FILE));
        let known = keys::list(&folder)?.map(wanted);
        let known = Known { keys: known, stamp, failed: None };
        let keys = Keys { folder: Some(folder), known: RwLock::new(known), looked: Mutex::new(Instant::now()) };
        Ok(Access { keys: Arc::new(keys), refusals: Arc::default() })
    }

    /// By one key that is known to this process alone, which is answered as well.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn of_this_process() -> anyhow::Result<(Access, String)> {
        let (key, secret) = keys::of_this_process()?;
        let known = Known { keys: Some(wanted(vec![key])), ..Known::default() };
        let keys = Keys { known: RwLock::new(known), ..Keys::default() };
        Ok((Access { keys: Arc::new(keys), refusals: Arc::default() }, secret))
    }

    /// The same keys, with figures of its own.
    pub(crate) fn counted_apart(&self) -> Access {
        Access { keys: Arc::clone(&self.keys), refusals: Arc::default() }
    }

    /// Whether everybody may do everything.
    pub fn is_open(&self) -> bool {
        self.keys.known().is_none()
    }

    /// The key that may ask in SQL, for who asks by another way than HTTP; none: it may not, which is counted, and logged as what it came by.
    pub fn reader(&self, key: &str, by: &'static str) -> Option<Reader> {
        let known = self.keys.known()?;
        let refused = |reason, key| self.refusals.note(reason, key, by);
        match find(&known, key) {
            Ok(key) if key.sight().is_some() => Some(Reader { name: key.name.clone(), hash: *key.hash.as_bytes() }),
            Ok(key) => {
                refused(Reason::Role, Some(key));
                None
            }
            Err((reason, key)) => {
                refused(reason, key);
                None
            }
        }
    }

    /// A login by SCRAM-SHA-256 with the key of a name that may ask in SQL; none: there is no such key, or nothing that proves it.
    pub fn exchange(&self, name: &str) -> Option<Exchange> {
        let (known, now) = (self.keys.known()?, keys::now());
        let key = known.iter().find(|key| key.name == name && !key.is_expired(now))?;
        let verifier = key.scram.clone().filter(|_| key.sight().is_some())?;
        let reader = Reader { name: key.name.clone(), hash: *key.hash.as_bytes() };
        Exchange::new(verifier, reader).inspect_err(|e| tracing::warn!(error = %e, "nobody can log in by SCRAM")).ok()
    }

    /// Counts a login that came to nothing.
    pub fn refused_reader(&self, by: &'static str) {
        self.refusals.note(Reason::Unknown, None, by);
    }

    /// What a reader may see by now; none: it may not ask any more. `reader`: none of whoever came in while everybody might.
    pub fn sight(&self, reader: Option<&Reader>) -> Option<Sight> {
        let Some(known) = self.keys.known() else { return Some(Sight::Everything) };
        let reader = reader?;
        let now = keys::now();
        known.iter().find(|key| *key.hash.as_bytes() == reader.hash && !key.is_expired(now))?.sight()
    }

    /// Whether there is a key that opens anything.
    pub fn has_keys(&self) -> bool {
        let now = keys::now();
        let opens = |key: &Arc<Key>| !key.is_expired(now) && (key.sight().is_some() || key.roles().any(|role| role > Role::None));
        self.keys.known().is_some_and(|keys| keys.iter().any(opens))
    }

    /// All keys; none: no key is wanted.
    pub(crate) fn known(&self) -> Option<Wanted> {
        self.keys.known()
    }

    /// Whether a caller that was admitted would still be, for what goes on for long.
    pub(crate) fn still_admits(&self, caller: &Caller, role: Role) -> bool {
        let Some(known) = self.keys.known() else { return true };
        let now = keys::now();
        let is_own = |key: &Arc<Key>| caller.key().is_some_and(|own| own.hash == key.hash) && !key.is_expired(now) && key.role >= role;
        known.iter().any(is_own)
    }

    /// The check of a request's head. `route`: what its path was found to be; none: nothing is there.
    pub(crate) fn admit(&self, method: &Method, path: &str, route: Option<&str>, headers: &HeaderMap) -> Result<Caller, Box<Response>> {
        let Some(known) = self.keys.known() else { return Ok(Caller::default()) };
        let rule = route.map(|route| Rule::of(method, route));
        if rule == Some(Some(Rule::Open)) {
            return Ok(Caller::default());
        }
        let asked = || format!("{method} {}", route.unwrap_or("what is not there"));
        let refuse = |reason: Reason, message: String| Box::new(reason.response(path, message));
        let key = identify(&known, headers).map_err(|(reason, key)| {
            self.refusals.note(reason, key, &asked());
            refuse(reason, reason.words().into())
        })?;
        let caller = Caller(Some(Identified { key: Arc::clone(key), refusals: Arc::clone(&self.refusals) }));
        match rule {
            // Nothing is there, and whoever has a key is told so.
            None => Ok(caller),
            Some(Some(rule)) if caller.may(rule, path) => Ok(caller),
            Some(Some(Rule::Model(role))) => Err(refuse(Reason::Role, caller.lacks(role, &format!("model `{}`", model_in(path))))),
            Some(Some(Rule::Sql)) => Err(refuse(Reason::Role, caller.sees_nothing(&asked()))),
            Some(Some(rule)) => Err(refuse(Reason::Role, caller.lacks(rule.role(), &asked()))),
            Some(None) => {
                self.refusals.note(Reason::Role, Some(key), &asked());
                Err(refuse(Reason::Role, format!("{} is open to no key", asked())))
            }
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("kilter_access_refused", "Requests refused for their key, by reason", self.refusals.counts.clone());
    }
}

/// A key that may ask in SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// What it is called.
    pub name: String,
    /// Its hash, which tells it from another of that name.
    pub hash: [u8; 32],
}

/// On whose behalf a request runs: everybody's, where no keys are wanted.
#[derive(Clone, Default)]
pub(crate) struct Caller(Option<Identified>);

#[derive(Clone)]
struct Identified {
    key: Arc<Key>,
    refusals: Arc<Refusals>,
}

impl Caller {
    /// The key's name.
    pub fn name(&self) -> Option<&str> {
        self.key().map(|key| key.name.as_str())
    }

    pub fn key(&self) -> Option<&Key> {
        self.0.as_ref().map(|identified| identified.key.as_ref())
    }

    /// Whoever: no keys are wanted.
    #[cfg(test)]
    pub fn unrestricted() -> Caller {
        Caller::default()
    }

    /// By a key with these roles.
    #[cfg(test)]
    pub fn with(role: Role, experiments: &[(&str, Role)], models: &[(&str, Role)]) -> Caller {
        let roles = |named: &[(&str, Role)]| named.iter().map(|(name, role)| (name.to_string(), *role)).collect();
        let (key, _) = keys::of_this_process().unwrap_or_else(|e| panic!("{e}"));
        let key = Arc::new(Key { role, experiments: roles(experiments), models: roles(models), ..key });
        Caller(Some(Identified { key, refusals: Arc::default() }))
    }

    /// Whether it has other roles in single places.
    pub fn is_scoped(&self) -> bool {
        self.key().is_some_and(|key| !key.experiments.is_empty() || !key.models.is_empty())
    }

    /// The role for everything that has none of its own.
    pub fn role(&self) -> Role {
        self.key().map_or(Role::Manage, |key| key.role)
    }

    /// The lowest role that it has anywhere.
    pub fn lowest_role(&self) -> Role {
        self.key().and_then(|key| key.roles().min()).unwrap_or(Role::Manage)
    }

    /// The roles for single experiments, by name or id.
    pub fn experiments(&self) -> impl Iterator<Item = (&String, &Role)> {
        self.key().into_iter().flat_map(|key| &key.experiments)
    }

    /// The roles for single models, by name.
    pub fn models(&self) -> impl Iterator<Item = (&String, &Role)> {
        self.key().into_iter().flat_map(|key| &key.models)
    }

    /// The role for one experiment alone.
    pub fn role_for_experiment_id(&self, id: i64) -> Option<Role> {
        // `-5` can only be a name.
        self.key()?.experiments.get(&id.to_string()).copied().filter(|_| id >= 0)
    }

    /// The role for what has this name alone. A number names the experiment that has it as its id, and no other.
    pub fn role_for_experiment_name(&self, name: &str) -> Option<Role> {
        let is_id = name.bytes().all(|b| b.is_ascii_digit());
        self.key()?.experiments.get(name).copied().filter(|_| !is_id)
    }

    pub fn role_for_model(&self, name: &str) -> Role {
        self.key().and_then(|key| key.models.get(name).copied()).unwrap_or_else(|| self.role())
    }

    fn may(&self, rule: Rule, path: &str) -> bool {
        let Some(key) = self.key() else { return true };
        match rule {
            Rule::Open | Rule::Within => true,
            Rule::Whole(role) => key.role >= role,
            Rule::Named(role) => key.roles().any(|own| own >= role),
            Rule::Sql => key.sight().is_some(),
            Rule::Own => key.sight().is_some() || key.roles().any(|own| own > Role::None),
            // The name of a project's model has nothing to escape: what is escaped may be any.
            Rule::Model(role) if model_in(path).contains('%') => !self.is_scoped() && key.role >= role,
            Rule::Model(role) => self.role_for_model(model_in(path)) >= role,
        }
    }

    /// Its key, as it is known to who asks for long; none: no keys were wanted.
    pub fn reader(&self) -> Option<Reader> {
        self.key().map(|key| Reader { name: key.name.clone(), hash: *key.hash.as_bytes() })
    }

    /// Says why it may not ask in SQL, and counts it as refused.
    fn sees_nothing(&self, what: &str) -> String {
        match &self.0 {
            Some(Identified { key, refusals }) if key.grants.is_some() => {
                refusals.note(Reason::Role, Some(key), what);
                format!("key `{}` has no grant: {what} tells it nothing", key.name)
            }
            _ => self.lacks(Role::Read, &format!("{what}, where it counts for every experiment and model")),
        }
    }

    /// Says what is missing for something, and counts it as refused.
    pub fn lacks(&self, role: Role, what: &str) -> String {
        let Some(Identified { key, refusals }) = &self.0 else { return String::new() };
        refusals.note(Reason::Role, Some(key), what);
        format!("key `{}` lacks the role `{}` for {what}", key.name, role.as_str())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, ApiError> {
        parts.extensions.get().cloned().ok_or_else(|| ApiError::internal("a request came past the check of keys"))
    }
}

/// The name in `/v1/models/NAME/...`.
fn model_in(path: &str) -> &str {
    path.split('/').nth(3).unwrap_or_default()
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    NoKey,
    Malformed,
    Unknown,
    Expired,
    ForeignPage,
    Role,
}

impl Reason {
    /// As it is counted.
    fn label(self) -> &'static str {
        match self {
            Reason::NoKey => "no_key",
            Reason::Malformed => "malformed",
            Reason::Unknown => "unknown_key",
            Reason::Expired => "expired",
            Reason::ForeignPage => "foreign_page",
            Reason::Role => "role",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Reason::NoKey => "this server wants a key",
            Reason::Malformed => "the header Authorization is neither `Bearer KEY` nor Basic with a key as the password",
            Reason::Unknown => "the key is not known here",
            Reason::Expired => "the key has expired",
            Reason::ForeignPage => "a page of another site may not use the key that the browser keeps",
            Reason::Role => "the key lacks a role",
        }
    }

    fn hint(self) -> &'static str {
        match self {
            Reason::NoKey | Reason::Malformed => {
                "send `Authorization: Bearer KEY`; the command line sends KILTER_API_KEY, MLflow's clients MLFLOW_TRACKING_TOKEN"
            }
            Reason::Unknown | Reason::Expired => "whoever runs the server makes one with `kilter key create`",
            Reason::ForeignPage => "send the key as `Authorization: Bearer KEY`",
            Reason::Role => "whoever runs the server gives roles with `kilter key create`",
        }
    }

    /// The answer, in the shape of the API that was asked.
    fn response(self, path: &str, message: String) -> Response {
        let (status, code, error_code) = match self {
            Reason::Role => (StatusCode::FORBIDDEN, "forbidden", ErrorCode::PermissionDenied),
            Reason::ForeignPage => (StatusCode::FORBIDDEN, "foreign_origin", ErrorCode::PermissionDenied),
            _ => (StatusCode::UNAUTHORIZED, "unauthenticated", ErrorCode::Unauthenticated),
        };
        let mut response = if mlflow::is_below(path) {
            mlflow::refusal(Error::new(error_code, format!("{message}\n  hint: {}", self.hint())))
        } else {
            ApiError::new(status, code, message).hint(self.hint().to_string()).into_response()
        };
        if status == StatusCode::UNAUTHORIZED {
            let headers = response.headers_mut();
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"kilter\""));
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"kilter\", charset=\"UTF-8\""));
        }
        response
    }
}

/// The key that a request brings.
fn identify<'a>(known: &'a [Arc<Key>], headers: &HeaderMap) -> Result<&'a Arc<Key>, (Reason, Option<&'a Key>)> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (header, is_basic) = match (given.next(), given.next()) {
        (None, _) => return Err((Reason::NoKey, None)),
        (Some(header), None) if header.len() <= HEADER_BYTES => sent(header).ok_or((Reason::Malformed, None))?,
        _ => return Err((Reason::Malformed, None)),
    };
    if is_basic && is_foreign(headers) {
        return Err((Reason::ForeignPage, None));
    }
    find(known, &header)
}

/// The key of a text.
fn find<'a>(known: &'a [Arc<Key>], text: &str) -> Result<&'a Arc<Key>, (Reason, Option<&'a Key>)> {
    let hash = keys::hash_of_key(text).ok_or((Reason::Unknown, None))?;
    // The comparison of two hashes takes the same time wherever they differ, and none is left out.
    let found = known.iter().fold(None, |found, key| if key.hash == hash { Some(key) } else { found });
    let key = found.ok_or((Reason::Unknown, None))?;
    if key.is_expired(keys::now()) { Err((Reason::Expired, Some(key))) } else { Ok(key) }
}

/// What the header says to be the key, and whether by Basic: then its user is whatever the client wants.
fn sent(header: &HeaderValue) -> Option<(String, bool)> {
    let (scheme, rest) = header.to_str().ok()?.trim().split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some((rest.to_string(), false));
    }
    let pair = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(rest).ok())??;
    let pair = String::from_utf8(pair).ok()?;
    pair.split_once(':').map(|(_, password)| (password.to_string(), true))
}

/// Whether a browser sends the request for a page of another site: it would add the password that it keeps for this one.
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    match (text(FETCH_SITE), text(ORIGIN)) {
        (Some(site), _) => !matches!(site, "same-origin" | "none"),
        (None, Some(origin)) => origin.split_once("://").map(|(_, host)| host) != text(HOST),
        (None, None) => false,
    }
}

pub(crate) type Wanted = Arc<[Arc<Key>]>;

fn wanted(keys: Vec<Key>) -> Wanted {
    keys.into_iter().map(Arc::new).collect()
}

/// The keys as they were read last.
struct Keys {
    /// None: what is known never changes.
    folder: Option<PathBuf>,
    known: RwLock<Known>,
    looked: Mutex<Instant>,
}

#[derive(Default)]
struct Known {
    /// None: no keys are wanted.
    keys: Option<Wanted>,
    /// Of the file that was understood last; none: there was none.
    stamp: Option<Stamp>,
    /// Of the file that was not understood, which is tried again.
    failed: Option<Stamp>,
}

impl Default for Keys {
    fn default() -> Keys {
        Keys { folder: None, known: RwLock::default(), looked: Mutex::new(Instant::now()) }
    }
}

impl Keys {
    /// None: no keys are wanted.
    fn known(&self) -> Option<Wanted> {
        if let Some(folder) = &self.folder {
            self.look(folder);
        }
        self.known.read().unwrap_or_else(PoisonError::into_inner).keys.clone()
    }

    /// Reads the file again if it changed, or could not be read.
    fn look(&self, folder: &Path) {
        // Who finds another one looking goes on with what is known.
        let Ok(mut looked) = self.looked.try_lock() else { return };
        if looked.elapsed() < LOOK {
            return;
        }
        *looked = Instant::now();
        let path = folder.join(keys::FILE);
        // Before it is read: a change in between is seen next time.
        let stamp = Stamp::of(&path);
        {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            if known.failed.is_none() && known.stamp == stamp {
                return;
            }
        }
        let read = keys::read(folder);
        let was_read = read.is_ok();
        let read = read.and_then(|text| text.map(|text| keys::parse(folder, &text)).transpose());
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(Some(keys)) => {
                tracing::info!(keys = keys.len(), "the keys have changed");
                *known = Known { keys: Some(wanted(keys)), stamp, failed: None };
            }
            Ok(None) => {
                if known.keys.is_some() {
                    tracing::error!(path = %path.display(), "the file of keys is gone: no key opens anything");
                }
                *known = Known { keys: known.keys.as_ref().map(|_| wanted(Vec::new())), stamp, failed: None };
            }
            Err(error) => {
                let holds_on = was_read && known.keys.is_some();
                if !holds_on {
                    known.keys = Some(wanted(Vec::new()));
                }
                let failed = stamp.unwrap_or(Stamp::UNKNOWN);
                if known.failed.as_ref() != Some(&failed) {
                    let then = if holds_on { "the keys known so far hold on" } else { "no key opens anything" };
                    tracing::error!(error = %format!("{error:#}"), "the file of keys cannot be used: {then}");
                    known.failed = Some(failed);
                }
            }
        }
    }
}

/// By what a change of a file is seen: a new one is renamed to its place.
#[derive(PartialEq)]
struct Stamp([i64; 6]);

impl Stamp {
    /// Of a file that does not say.
    const UNKNOWN: Stamp = Stamp([0; 6]);

    /// None: there is no file.
    fn of(path: &Path) -> Option<Stamp> {
        match std::fs::metadata(path) {
            Ok(m) => Some(Stamp([m.ino() as i64, m.size() as i64, m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()])),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(_) => Some(Stamp::UNKNOWN),
        }
    }
}

/// Refused requests: counted all, told to the log at times.
#[derive(Default)]
struct Refusals {
    counts: Family<Labels, Counter>,
    /// When one was told, and how many were not since.
    told: Mutex<(Option<Instant>, u64)>,
}

impl Refusals {
    fn note(&self, reason: Reason, key: Option<&Key>, what: &str) {
        self.counts.get_or_create(&vec![("reason", reason.label().to_string())]).inc();
        let untold = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.0.is_some_and(|at| at.elapsed() < TELL) {
                told.1 += 1;
                return;
            }
            told.0 = Some(Instant::now());
            std::mem::take(&mut told.1)
        };
        let key = key.map(|key| key.name.as_str());
        tracing::warn!(reason = reason.label(), key, what, untold, "a request was refused for its key");
    }
}
