//! The face of one worker among several: a request goes to the shard that its key belongs to, here or, once, to the worker that has it.
//!
//! Every shard has the whole API of a project, as if it were one of its own; what is about one entity needs no word about shards, the rest is asked of one of them
//! under `/v1/shards/{shard}/...`.

mod merge;
mod rows;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName};
use axum::http::request::Parts;
use axum::http::uri::{PathAndQuery, Uri};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use bytes::Bytes;
use hyper::service::Service as _;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use hyper_util::service::TowerToHyperService;
use kilter_core::Value;
use kilter_pipeline::parse_decision_id;
use kilter_runtime::Service;
use kilter_runtime::project::Shard;
use kilter_runtime::shards::{Place, Shards};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::app::{Answer, Drain, Host, ok};
use crate::error::ApiError;
use crate::input::{DECIDE_BODY, Segments, read};
use crate::routes::live::{EVENT_STREAM, UntilDrained};
use crate::serve::ServeOptions;
use crate::{observe, wire};

/// Names the worker that sent a request on: it goes no further.
const FORWARDED: HeaderName = HeaderName::from_static("kilter-forwarded");

/// What the handlers share.
#[derive(Clone)]
pub struct Front(Arc<Shared>);

struct Shared {
    shards: Arc<Shards>,
    options: ServeOptions,
    /// The API of every shard that is here.
    local: Mutex<BTreeMap<u32, Api>>,
    client: Client<HttpConnector, Body>,
    /// Places for requests in work.
    requests: Semaphore,
    drain: Drain,
}

/// The API of a shard that is here.
struct Api {
    of: Weak<Service>,
    router: TowerToHyperService<Router>,
}

/// The routes of a worker.
pub fn router(shards: Arc<Shards>, options: &ServeOptions, drain: Drain) -> Router {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(Duration::from_secs(2)));
    let front = Front(Arc::new(Shared {
        shards,
        options: options.clone(),
        local: Mutex::default(),
        client: Client::builder(TokioExecutor::new()).build(connector),
        requests: Semaphore::new(options.max_requests),
        drain,
    }));
    Router::new()
        .route("/v1/shards", get(list_shards))
        .route("/v1/shards/{shard}/{*rest}", any(of_shard))
        .route("/v1/decide/{decision}", post(decide))
        .route("/v1/events/{source}", post(events))
        .route("/v1/features/{view}/{key}", get(features))
        .route("/v1/decisions/{id}", get(decision))
        .route("/v1/decisions/{id}/replay", post(decision))
        .route("/v1/models/{model}/{*rest}", post(models))
        .route("/healthz", get(healthy))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(nowhere)
        .layer(from_fn_with_state(front.clone(), around))
        .with_state(front)
}

/// Guards the door, bounds the requests in work and the time of each.
async fn around(State(front): State<Front>, request: Request, next: Next) -> Response {
    if !front.0.options.allow_remote
        && let Err(refusal) = observe::guard(request.headers(), request.uri())
    {
        return refusal.into_response();
    }
    let path = request.uri().path();
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    if let Err(refusal) = front.0.options.access.admit(request.method(), path, route, request.headers()) {
        return *refusal;
    }
    let (counted, unhurried) = (path.starts_with("/v1/"), path.contains("/models/") || path.ends_with("/replay"));
    let Ok(_place) = front.0.requests.try_acquire_many(u32::from(counted)) else { return observe::slow_down().into_response() };
    let limit = if unhurried { Duration::MAX } else { front.0.options.request_timeout };
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => observe::timed_out(limit).into_response(),
    }
}

/// One shard, as this worker knows it.
#[derive(Serialize)]
struct ShardAt<'a> {
    shard: usize,
    /// Null: on its way from one worker to another.
    worker: Option<&'a str>,
    /// Null: here, or on its way.
    address: Option<&'a str>,
    here: bool,
    /// Of the shard's log; only of one that is here.
    next_offset: Option<u64>,
    /// Next offset of the copy that this worker keeps of a shard that is elsewhere.
    standby_offset: Option<u64>,
}

async fn list_shards(State(front): State<Front>) -> Answer {
    let (places, copies) = (front.0.shards.places(), front.0.shards.copies());
    let at = |(shard, (place, copy)): (usize, (_, &Option<u64>))| {
        let nobody = ShardAt { shard, worker: None, address: None, here: false, next_offset: None, standby_offset: *copy };
        match place {
            &Place::Nobody => nobody,
            Place::There { worker, address } => ShardAt { worker: Some(worker.as_str()), address: Some(address), ..nobody },
            Place::Here(service) => {
                let next_offset = Some(service.data.events.next_offset());
                ShardAt { worker: Some(&front.0.shards.worker), here: true, next_offset, ..nobody }
            }
        }
    };
    let shards: Vec<ShardAt> = places.iter().zip(&copies).enumerate().map(at).collect();
    ok(&serde_json::json!({ "worker": front.0.shards.worker, "key": front.0.shards.workers.key, "shards": shards }))
}

async fn of_shard(State(front): State<Front>, Segments((shard, rest)): Segments<(u32, String)>, request: Request) -> Answer {
    let (mut parts, body) = request.into_parts();
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let root = if matches!(rest.as_str(), "metrics" | "healthz" | "readyz" | "openapi.json" | "docs") { "" } else { "/v1" };
    // The path was taken apart with its escapes undone.
    let rest = parts.uri.path().splitn(5, '/').nth(4).unwrap_or(&rest).to_owned();
    let path = PathAndQuery::try_from(format!("{root}/{rest}{query}"));
    let path = path.map_err(|e| ApiError::new(StatusCode::BAD_REQUEST, "bad_path", e.to_string()))?;
    front
        .to_shard(shard, Sent::Anew { original: parts.uri.clone() }, {
            parts.uri = Uri::from(path);
            Request::from_parts(parts, body)
        })
        .await
}

async fn decide(State(front): State<Front>, Segments(name): Segments<String>, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let body = read(&parts.headers, body, DECIDE_BODY, "a request holds the fields of one decision and nothing else").await?;
    let fields = serde_json::from_slice::<serde_json::Value>(&body).ok();
    let plan = &front.0.shards.project.plan;
    let source = plan.decisions.iter().find(|d| d.name == name).map_or("", |d| &plan.sources[usize::from(d.source.0)].name);
    let key = front.0.shards.key_of(source);
    // A shard says what is wrong with a request that belongs to none.
    let shard = fields.as_ref().and_then(|fields| front.0.of_row(fields, key)).unwrap_or(0);
    front.to_shard(shard, Sent::AsItCame, Request::from_parts(parts, Body::from(body))).await
}

async fn features(State(front): State<Front>, Segments((view, key)): Segments<(String, String)>, request: Request) -> Answer {
    let plan = &front.0.shards.project.plan;
    let place = plan.view(&view).and_then(|at| {
        let view = &plan.views[at];
        let shard_key = front.0.shards.key_of(&plan.sources[usize::from(view.source().0)].name);
        view.entity().iter().position(|column| column == shard_key)
    });
    let key = place.map(|place| key.split('|').nth(place).unwrap_or(&key));
    let shard = key.and_then(|key| front.0.shards.of_key(&Value::text(key))).unwrap_or(0);
    front.to_shard(shard, Sent::AsItCame, request).await
}

async fn decision(State(front): State<Front>, request: Request) -> Answer {
    let id = request.uri().path().split('/').nth(3).unwrap_or_default();
    let shard = parse_decision_id(id).and_then(|(_, offset)| Shard::of_offset(offset)).filter(|s| *s < front.0.shards.workers.shards);
    front.to_shard(shard.unwrap_or(0), Sent::AsItCame, request).await
}

/// Rows go each to its own shard, and the answer is about all of them.
async fn events(State(front): State<Front>, Segments(source): Segments<String>, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let limit = front.0.shards.project.settings.server.max_body_bytes;
    let body = read(&parts.headers, body, limit, "send NDJSON in several parts, or raise `max_body` under [server]").await?;
    let content_type = parts.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let key = front.0.shards.key_of(&source);
    let divided = rows::divide(&body, content_type, |row| front.0.of_row(row, key).unwrap_or(0))?;
    let mut answers = Vec::new();
    for (shard, part) in divided {
        let mut headers = parts.headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.remove(axum::http::header::CONTENT_LENGTH);
        let request = rebuilt(&parts, headers, Bytes::from(part.body));
        let response = front.to_shard(shard, Sent::AsItCame, request).await?;
        let (head, bytes) = whole(response).await?;
        if !matches!(head, StatusCode::OK | StatusCode::UNPROCESSABLE_ENTITY) {
            return Ok(passed_on(head, bytes));
        }
        answers.push((part.rows, bytes));
    }
    merge::reports(&answers)
}

/// What changes the models of a project is done at shard 0, which all shards follow.
async fn models(State(front): State<Front>, request: Request) -> Answer {
    front.to_shard(0, Sent::AsItCame, request).await
}

async fn healthy() -> Answer {
    ok(&serde_json::json!({ "status": "ok" }))
}

/// A worker is ready once it knows a place for every shard: it can answer for any key, itself or by another.
async fn ready(State(front): State<Front>) -> Answer {
    let away = front.0.shards.places().iter().filter(|place| matches!(place, Place::Nobody)).count();
    if away > 0 {
        return Err(
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "shards_away", format!("{away} shards are with no worker yet")).retry_after(1)
        );
    }
    ok(&serde_json::json!({ "status": "ready" }))
}

/// The figures of the shards that are here, each with a label `shard`, and what was refused before it came to one.
async fn metrics(State(front): State<Front>, headers: HeaderMap) -> Answer {
    let mut texts = Vec::new();
    for (shard, place) in (0..).zip(front.0.shards.places()) {
        let Place::Here(service) = place else { continue };
        let mut request = Request::get("/metrics").body(Body::empty()).map_err(|e| ApiError::internal(&e.to_string()))?;
        // The shard looks at the key as well.
        request.headers_mut().extend(headers.get_all(AUTHORIZATION).iter().map(|key| (AUTHORIZATION, key.clone())));
        let (_, bytes) = whole(front.here(shard, &service, request).await?).await?;
        texts.push((Some(shard), String::from_utf8_lossy(&bytes).into_owned()));
    }
    let mut own = Registry::default();
    front.0.options.access.register(&mut own);
    let mut text = String::new();
    encode(&mut text, &own).map_err(|e| ApiError::internal(&format!("metrics: {e}")))?;
    texts.push((None, text));
    Ok(merge::metrics(&texts))
}

async fn nowhere(uri: Uri) -> ApiError {
    let shown: String = uri.path().chars().take(200).collect();
    ApiError::new(StatusCode::NOT_FOUND, "unknown_route", format!("no worker answers `{shown}` for all shards"))
        .hint("ask one of them: `/v1/shards` lists them, and `/v1/shards/0/...` is the API of shard 0".to_string())
}

/// How a request is sent on to another worker.
enum Sent {
    AsItCame,
    /// Its path was changed for the shard; another worker changes it itself.
    Anew {
        original: Uri,
    },
}

impl Front {
    async fn to_shard(&self, shard: u32, sent: Sent, request: Request) -> Answer {
        let Some(place) = self.0.shards.place(shard) else {
            return Err(ApiError::not_found("shard", &shard.to_string(), format!("there are {}", self.0.shards.workers.shards)));
        };
        match place {
            Place::Here(service) => self.here(shard, &service, request).await,
            Place::There { address, .. } if !request.headers().contains_key(FORWARDED) => self.there(shard, &address, sent, request).await,
            Place::There { worker, .. } => Err(away(shard).hint(format!("worker {worker} has it, as far as is known here"))),
            Place::Nobody => Err(away(shard).hint("it goes from one worker to another; send again in a moment".to_string())),
        }
    }

    async fn here(&self, shard: u32, service: &Arc<Service>, request: Request) -> Answer {
        let router = {
            let mut local = self.0.local.lock().unwrap_or_else(PoisonError::into_inner);
            let known = local.get(&shard).filter(|api| api.of.upgrade().is_some_and(|of| Arc::ptr_eq(&of, service)));
            match known {
                Some(api) => api.router.clone(),
                None => {
                    // Whom the request is meant for is checked already; what its key may do with this shard is not.
                    let access = self.0.options.access.counted_apart();
                    let options = ServeOptions { allow_remote: true, access, ..self.0.options.clone() };
                    let router = TowerToHyperService::new(observe::router(
                        &Host::new(Arc::clone(service), &options, std::iter::empty(), None, self.0.drain.clone()),
                        Router::new(),
                    ));
                    local.insert(shard, Api { of: Arc::downgrade(service), router: router.clone() });
                    router
                }
            }
        };
        // What this router found in the path is nothing to the other.
        let (mut parts, body) = request.into_parts();
        parts.extensions.clear();
        let answered = router.call(Request::from_parts(parts, body)).await;
        let Ok(response) = answered;
        Ok(response)
    }

    async fn there(&self, shard: u32, address: &str, sent: Sent, request: Request) -> Answer {
        let (mut parts, body) = request.into_parts();
        let original = match sent {
            Sent::AsItCame => parts.uri,
            Sent::Anew { original } => original,
        };
        let path = original.path_and_query().map_or("/", PathAndQuery::as_str);
        parts.uri =
            Uri::try_from(format!("http://{address}{path}")).map_err(|e| ApiError::internal(&format!("`{address}` is no address: {e}")))?;
        parts.headers.remove(HOST);
        let worker = HeaderValue::try_from(self.0.shards.worker.as_str()).unwrap_or(HeaderValue::from_static("worker"));
        parts.headers.insert(FORWARDED, worker);
        let answered = self.0.client.request(Request::from_parts(parts, body)).await;
        let drain = &self.0.drain;
        let passed_on = answered.map(|response| match response.headers().get(CONTENT_TYPE).is_some_and(|kind| *kind == EVENT_STREAM) {
            // It has no end of its own, and the other worker may go on.
            true => response.map(|body| Body::new(UntilDrained::new(Body::new(body), drain.clone()))),
            false => response.map(Body::new),
        });
        passed_on.map_err(|e| {
            tracing::debug!(shard, address, error = %e, "a request could not be sent on");
            away(shard).hint("the worker that had it does not answer; send again in a moment, with the same id".to_string())
        })
    }
}

fn away(shard: u32) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "shard_away", format!("shard {shard} is with no worker that can be reached"))
        .retry_after(1)
}

impl Shared {
    /// The shard of a row, by its key.
    fn of_row(&self, row: &serde_json::Value, key: &str) -> Option<u32> {
        let key = match row.get(key)? {
            serde_json::Value::String(text) => Value::text(text),
            serde_json::Value::Bool(b) => Value::Bool(*b),
            serde_json::Value::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(i), _) => Value::Int(i),
                (None, Some(x)) if x.fract() == 0.0 && x.abs() < 9e15 => Value::Int(x as i64),
                _ => return None,
            },
            _ => return None,
        };
        self.shards.of_key(&key)
    }
}

fn rebuilt(parts: &Parts, headers: HeaderMap, body: Bytes) -> Request {
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = Method::clone(&parts.method);
    *request.uri_mut() = parts.uri.clone();
    *request.headers_mut() = headers;
    request
}

async fn whole(response: Response) -> Result<(StatusCode, Bytes), ApiError> {
    let status = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await;
    Ok((status, bytes.map_err(|e| ApiError::internal(&format!("a shard's answer was cut short: {e}")))?))
}

/// The answer of one shard as the answer to all.
fn passed_on(status: StatusCode, bytes: Bytes) -> Response {
    let mut response = wire::json(status, &serde_json::Value::Null);
    *response.body_mut() = Body::from(bytes);
    response
}
