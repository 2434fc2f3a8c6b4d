//! Around every request: an id, a place among those in work, a time limit, a panic caught, a line in the log, a count.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{HOST, HeaderName, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use kilter_core::nearest;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tower_http::catch_panic::CatchPanicLayer;

use crate::access::Caller;
use crate::app::{App, Host};
use crate::error::ApiError;
use crate::{mlflow, routes};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest request id taken over from a client.
const REQUEST_ID_BYTES: usize = 128;
/// Routes whose work takes as long as it takes.
const UNHURRIED: [&str; 6] = [
    "/v1/models/{model}/train",
    "/v1/models/{model}/versions",
    "/v1/models/{model}/performance",
    "/v1/decisions/{id}/replay",
    "/v1/project/plan",
    "/v1/sql",
];
/// Seconds.
const BUCKETS: [f64; 17] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// All routes with everything around them, `more` among them.
pub fn router(host: &Host, more: Router<Host>) -> Router {
    let (router, _) = routes::all().split_for_parts();
    router
        .merge(more)
        .merge(routes::pages::swagger())
        .merge(routes::ui::router())
        .fallback(nowhere)
        .method_not_allowed_fallback(wrong_method)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(host.clone(), observe))
        .with_state(host.clone())
}

async fn observe(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(&app, request.headers());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let path = route.is_none().then(|| request.uri().path().to_string());
    let mut key = None;
    let mut response = match admit(&app, &request, route.as_ref().map(MatchedPath::as_str)) {
        Ok((caller, _place)) => {
            key = caller.name().map(str::to_string);
            request.extensions_mut().insert(caller);
            let unhurried = route.as_ref().is_some_and(|r| UNHURRIED.contains(&r.as_str()) || mlflow::is_unhurried(r.as_str()));
            let limit = if unhurried { Duration::MAX } else { app.request_timeout };
            match tokio::time::timeout(limit, next.run(request)).await {
                Ok(response) => response,
                Err(_) => timed_out(limit).into_response(),
            }
        }
        Err(refusal) => *refusal,
    };
    let took = started.elapsed();
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    app.metrics.record(route, response.status(), took);
    tracing::debug!(
        request_id = id.to_str().unwrap_or_default(),
        %method,
        route,
        path,
        key,
        status = response.status().as_u16(),
        took_us = took.as_micros() as u64,
        "request"
    );
    response.headers_mut().insert(REQUEST_ID, id);
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

type Place<'a> = Option<tokio::sync::SemaphorePermit<'a>>;

/// On whose behalf the request runs, and a place among the requests in work; health and metrics answer even when all are taken.
fn admit<'a>(app: &'a App, request: &Request, route: Option<&str>) -> Result<(Caller, Place<'a>), Box<Response>> {
    if !app.allow_remote {
        guard(request.headers(), request.uri()).map_err(|refusal| Box::new(refusal.into_response()))?;
    }
    let caller = app.access.admit(request.method(), request.uri().path(), route, request.headers())?;
    // Uploads and exports may take long; they take no place of a decision.
    let path = request.uri().path();
    let places = match path {
        _ if mlflow::is_below(path) => &app.tracking_requests,
        _ if path.starts_with("/v1/") => &app.requests,
        _ => return Ok((caller, None)),
    };
    let place = places.try_acquire().map_err(|_| Box::new(slow_down().into_response()))?;
    Ok((caller, Some(place)))
}

pub fn slow_down() -> ApiError {
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "slow_down", "as many requests as allowed are in work; send again in a moment")
        .retry_after(1)
}

pub fn timed_out(limit: Duration) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", format!("no answer within {limit:?}"))
        .hint("an event or decision may still have been recorded: send again with the same id".to_string())
        .retry_after(1)
}

/// Without `--allow-remote`, being on this machine is the only right a caller has. A page of some web site in a browser on this
/// machine must not borrow it, neither by a request of its own nor through a name that it points at this address.
pub fn guard(headers: &HeaderMap, uri: &Uri) -> Result<(), ApiError> {
    let forbidden = |code: &'static str, message: String| {
        ApiError::new(StatusCode::FORBIDDEN, code, message)
            .hint("behind a proxy that decides who may call, start with `--allow-remote`".to_string())
    };
    let host = headers.get(HOST).and_then(|v| v.to_str().ok()).or(uri.authority().map(|a| a.as_str())).unwrap_or("localhost");
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(name, _)| name);
    let is_here = name.eq_ignore_ascii_case("localhost")
        || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if !is_here {
        return Err(forbidden("foreign_host", format!("kilter serves this machine only, not `{name}`")));
    }
    match headers.get(ORIGIN).map(|v| v.to_str().unwrap_or_default()) {
        Some(origin) if origin.strip_prefix("http://") != Some(host) => {
            Err(forbidden("foreign_origin", format!("pages of `{origin}` may not use this server")))
        }
        _ => Ok(()),
    }
}

fn request_id(app: &App, headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(REQUEST_ID).filter(|v| !v.is_empty() && v.len() <= REQUEST_ID_BYTES && v.to_str().is_ok());
    given.cloned().unwrap_or_else(|| HeaderValue::try_from(app.request_id()).unwrap_or(HeaderValue::from_static("none")))
}

async fn nowhere(State(app): State<App>, uri: Uri) -> ApiError {
    let path = uri.path();
    // The route whose text is closest: variable segments count as they stand, so only slips in the fixed part are mended.
    let near = nearest(path, app.metrics.routes()).map(|near| format!("did you mean `{near}`?"));
    let shown: String = path.chars().take(200).collect();
    ApiError::new(StatusCode::NOT_FOUND, "unknown_route", format!("there is nothing at `{shown}`"))
        .hint(near.or_else(|| Some("all routes are listed at /docs and in /openapi.json".into())))
}

async fn wrong_method(request: Request) -> ApiError {
    let message = format!("`{}` does not take {}", request.uri().path(), request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", message)
        .hint("the `Allow` header names the methods it takes; all routes are listed at /docs".to_string())
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let detail = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    ApiError::internal(&format!("panic: {detail}")).into_response()
}

/// Names and values of a metric's labels.
pub type Labels = Vec<(&'static str, String)>;

/// Counts and durations of requests by route; found by the route's text, without locks shared between routes.
pub struct HttpMetrics {
    requests: Family<Labels, Counter>,
    durations: Family<Labels, Histogram, fn() -> Histogram>,
    by_route: HashMap<String, RouteMetrics>,
}

struct RouteMetrics {
    /// Made by the first request: most servers never hear of most of the routes, and each has a row for every bucket.
    duration: OnceLock<Histogram>,
    by_status: Mutex<Vec<(u16, Counter)>>,
}

impl HttpMetrics {
    pub fn new(mut paths: Vec<String>) -> HttpMetrics {
        // Requests that match no route, and pages.
        paths.extend(["none".to_string(), "/docs".to_string(), "/docs/".to_string(), "/docs/{*rest}".to_string()]);
        paths.extend(routes::ui::PATHS.map(String::from));
        let requests = Family::default();
        let durations: Family<_, Histogram, fn() -> Histogram> = Family::new_with_constructor(|| Histogram::new(BUCKETS));
        let by_route =
            paths.into_iter().map(|route| (route, RouteMetrics { duration: OnceLock::new(), by_status: Mutex::default() })).collect();
        HttpMetrics { requests, durations, by_route }
    }

    fn record(&self, route: &str, status: StatusCode, took: Duration) {
        let Some(metrics) = self.by_route.get(route) else { return };
        let duration = metrics.duration.get_or_init(|| self.durations.get_or_create_owned(&vec![("route", route.to_string())]));
        duration.observe(took.as_secs_f64());
        let status = status.as_u16();
        let mut by_status = metrics.by_status.lock().unwrap_or_else(PoisonError::into_inner);
        match by_status.iter().find(|(s, _)| *s == status) {
            Some((_, counter)) => counter.inc(),
            None => {
                let labels = vec![("route", route.to_string()), ("status", status.to_string())];
                let counter = self.requests.get_or_create_owned(&labels);
                by_status.push((status, counter.clone()));
                counter.inc()
            }
        };
    }

    fn routes(&self) -> impl Iterator<Item = &str> {
        self.by_route.keys().map(String::as_str).filter(|r| r.starts_with('/'))
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register("kilter_http_requests", "Requests answered", self.requests.clone());
        let help = "From the head of a request to the head of its answer";
        registry.register_with_unit("kilter_http_request_duration", help, Unit::Seconds, self.durations.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_in_the_house_shape_and_keeps_its_words_to_itself() {
        let response = panicked(Box::new("the secret of the handler"));
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        let text = String::from_utf8_lossy(&body);
        assert!(text.starts_with(r#"{"error":{"code":"internal","message":"#) && !text.contains("secret"), "{text}");
    }

    #[test]
    fn only_this_machine_is_served_and_only_its_own_pages() {
        let check = |host: &'static str, origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static(host));
            if let Some(origin) = origin {
                headers.insert(ORIGIN, HeaderValue::from_static(origin));
            }
            guard(&headers, &Uri::from_static("/v1/status")).is_ok()
        };
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "127.9.9.9", "[::1]", "[::1]:8080"] {
            assert!(check(host, None), "{host}");
        }
        for host in ["kilter.example", "10.0.0.1:8080", "localhost.evil.example:8080", "[2001:db8::1]:80", ""] {
            assert!(!check(host, None), "{host}");
        }
        assert!(check("localhost:8080", Some("http://localhost:8080")));
        for origin in ["http://localhost:3000", "https://localhost:8080", "null", "http://evil.example"] {
            assert!(!check("localhost:8080", Some(origin)), "{origin}");
        }
    }
}
