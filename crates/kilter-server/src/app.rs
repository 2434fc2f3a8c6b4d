//! What every handler can reach.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::FromRef;
use axum::response::Response;
use bytes::Bytes;
use kilter_runtime::{Service, ServiceError};
use tokio::sync::{Semaphore, watch};
use utoipa::openapi::OpenApi;

use crate::access::Access;
use crate::error::ApiError;
use crate::mlflow::Hooks;
use crate::observe::HttpMetrics;
use crate::routes::live::Live;
use crate::serve::ServeOptions;
use crate::sql::Sql;
use crate::{openapi, routes, wire};

/// Replays that may run at once: each reads the log from a snapshot on.
const REPLAYS: usize = 2;
/// Searches of the decision log that may run at once; others wait.
const SEARCHES: usize = 2;
/// Reports of how decisions turned out that are made at once: each reads the logs and holds what it read; others wait.
const REPORTS: usize = 1;

/// Whether the server is on its way to its end; clones share it.
#[derive(Clone, Default)]
pub struct Drain(Arc<watch::Sender<bool>>);

impl Drain {
    /// From now on `/readyz` answers 503, and what would go on for ever ends.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }

    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    pub async fn begun(&self) {
        // The sender lives as long as this.
        let _ = self.0.subscribe().wait_for(|begun| *begun).await;
    }
}

/// The state of the router; clones share it.
#[derive(Clone)]
pub struct Host(Arc<Shared>);

/// Handed to every handler: what all requests share, and the service under the definitions in force when the request came. A handler
/// works under these to its end, so that positions it has looked up mean what they meant.
#[derive(Clone)]
pub struct App {
    host: Host,
    pub service: Arc<Service>,
}

/// The one instance behind all clones of [`Host`].
pub struct Shared {
    newest: RwLock<Arc<Service>>,
    pub metrics: HttpMetrics,
    /// The routes' part of the OpenAPI document.
    routes: OpenApi,
    /// The whole document, ready to send, and the service that it describes.
    document: Mutex<Option<(Arc<Service>, Bytes)>>,
    pub allow_remote: bool,
    pub access: Access,
    pub request_timeout: Duration,
    /// Places for requests in work.
    pub requests: Semaphore,
    /// The same for MLflow's clients.
    pub tracking_requests: Semaphore,
    /// What delivers to webhooks, where there is a tracking store.
    pub hooks: Option<Hooks>,
    pub replays: Semaphore,
    pub searches: Semaphore,
    /// What answers in SQL, where the program has that, and places for questions.
    pub sql: Option<Arc<dyn Sql>>,
    pub questions: Arc<Semaphore>,
    pub reports: Arc<Semaphore>,
    pub drain: Drain,
    pub live: Live,
    request_ids: AtomicU64,
    request_prefix: String,
}

impl std::ops::Deref for Host {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.host
    }
}

impl FromRef<Host> for App {
    fn from_ref(host: &Host) -> App {
        App { service: host.service(), host: host.clone() }
    }
}

impl Host {
    /// `more`: routes beside the project's own.
    pub fn new(
        service: Arc<Service>,
        options: &ServeOptions,
        more: impl Iterator<Item = String>,
        hooks: Option<Hooks>,
        drain: Drain,
    ) -> Host {
        let (_, routes) = routes::all().split_for_parts();
        let paths = routes.paths.paths.keys().cloned().chain(more).collect();
        Host(Arc::new(Shared {
            metrics: HttpMetrics::new(paths),
            routes,
            document: Mutex::default(),
            allow_remote: options.allow_remote,
            access: options.access.clone(),
            request_timeout: options.request_timeout,
            requests: Semaphore::new(options.max_requests),
            tracking_requests: Semaphore::new(options.max_requests),
            hooks,
            replays: Semaphore::new(REPLAYS),
            searches: Semaphore::new(SEARCHES),
            sql: options.sql.clone(),
            questions: Arc::new(Semaphore::new(routes::sql::QUESTIONS)),
            reports: Arc::new(Semaphore::new(REPORTS)),
            drain,
            live: Live::default(),
            request_ids: AtomicU64::new(0),
            request_prefix: format!("{:x}", service.clock().now().0),
            newest: RwLock::new(service),
        }))
    }

    /// The service under the definitions in force.
    fn service(&self) -> Arc<Service> {
        let known = Arc::clone(&self.newest.read().unwrap_or_else(PoisonError::into_inner));
        let current = known.current();
        if !Arc::ptr_eq(&known, &current) {
            *self.newest.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&current);
        }
        current
    }
}

impl Shared {
    pub fn is_draining(&self) -> bool {
        self.drain.has_begun()
    }

    /// An id for a request that came without one; unique over restarts.
    pub fn request_id(&self) -> String {
        format!("{}-{}", self.request_prefix, self.request_ids.fetch_add(1, Ordering::Relaxed))
    }
}

impl App {
    /// The OpenAPI document of the definitions in force, made when they are first asked for.
    pub fn openapi(&self) -> Bytes {
        let mut known = self.document.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((of, bytes)) if Arc::ptr_eq(of, &self.service) => bytes.clone(),
            _ => {
                let bytes = openapi::document(self.routes.clone(), &self.service);
                *known = Some((Arc::clone(&self.service), bytes.clone()));
                bytes
            }
        }
    }

    /// Runs something that reads files outside the threads that serve requests.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Service>) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let service = Arc::clone(&self.service);
        joined(tokio::task::spawn_blocking(move || work(&service)).await)?
    }

    /// Runs something to its end even when the client goes away in the middle: half a promotion is worse than an unread answer.
    pub async fn to_the_end<T: Send + 'static, F>(&self, work: impl FnOnce(Arc<Service>) -> F) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, ServiceError>> + Send + 'static,
    {
        Ok(joined(tokio::spawn(work(Arc::clone(&self.service))).await)??)
    }
}

fn joined<T>(done: Result<T, tokio::task::JoinError>) -> Result<T, ApiError> {
    done.map_err(|e| ApiError::internal(&format!("a task of the request ended badly: {e}")))
}

/// What handlers answer.
pub type Answer = Result<Response, ApiError>;

/// A value as the answer.
pub fn ok(value: &impl serde::Serialize) -> Answer {
    Ok(wire::json(axum::http::StatusCode::OK, value))
}
