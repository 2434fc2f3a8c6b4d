//! What every handler can reach.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use kilter_runtime::{Service, ServiceError};
use tokio::sync::Semaphore;

use crate::error::ApiError;
use crate::observe::HttpMetrics;
use crate::serve::ServeOptions;
use crate::{openapi, routes, wire};

/// Replays that may run at once: each reads the log from a snapshot on.
const REPLAYS: usize = 2;

/// Handed to every handler; clones share it.
#[derive(Clone)]
pub struct App(Arc<Shared>);

/// The one instance behind all clones of [`App`].
pub struct Shared {
    pub service: Arc<Service>,
    pub metrics: HttpMetrics,
    /// The OpenAPI document, ready to send.
    pub openapi: Bytes,
    pub allow_remote: bool,
    pub request_timeout: Duration,
    /// Places for requests in work.
    pub requests: Semaphore,
    pub replays: Semaphore,
    draining: AtomicBool,
    request_ids: AtomicU64,
    request_prefix: String,
}

impl std::ops::Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl App {
    pub fn new(service: Arc<Service>, options: &ServeOptions) -> App {
        let (_, document) = routes::all().split_for_parts();
        let paths = document.paths.paths.keys().cloned().collect();
        App(Arc::new(Shared {
            metrics: HttpMetrics::new(paths),
            openapi: openapi::document(document, &service),
            allow_remote: options.allow_remote,
            request_timeout: options.request_timeout,
            requests: Semaphore::new(options.max_requests),
            replays: Semaphore::new(REPLAYS),
            draining: AtomicBool::new(false),
            request_ids: AtomicU64::new(0),
            request_prefix: format!("{:x}", service.clock().now().0),
            service,
        }))
    }
}

impl Shared {
    /// From now on `/readyz` answers 503.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// An id for a request that came without one; unique over restarts.
    pub fn request_id(&self) -> String {
        format!("{}-{}", self.request_prefix, self.request_ids.fetch_add(1, Ordering::Relaxed))
    }

    /// Runs something that reads files outside the threads that serve requests.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Service) -> Result<T, ApiError> + Send + 'static,
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
