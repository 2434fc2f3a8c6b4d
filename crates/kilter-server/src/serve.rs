//! The socket: connections in, a bounded number of them, and an orderly end.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use kilter_runtime::Service;
use kilter_runtime::shards::Shards;
use kilter_tracking::{ArtifactsAt, Tracking};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::access::Access;
use crate::app::{Drain, Host};
use crate::mlflow::{Hooks, WebhookOptions};
use crate::sql::Sql;
use crate::{front, mlflow, observe};

/// The folder of the tracking store within a project's data.
const TRACKING: &str = "tracking";

/// Where to listen, and every limit of the server.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Address and port; port 0 takes a free one.
    pub listen: String,
    /// Listen on addresses that other machines can reach, for which there must be a key, and answer requests meant for any host.
    pub allow_remote: bool,
    /// Database of PostgreSQL in which the tracking store of a project lies; none: in its data folder.
    pub tracking_database: Option<String>,
    /// Where the artifacts of that store lie; none: in its folder.
    pub tracking_artifacts: Option<ArtifactsAt>,
    /// What answers questions in SQL; none: they are refused.
    pub sql: Option<Arc<dyn Sql>>,
    /// Who may do what.
    pub access: Access,
    /// A request's head must be complete within this, counted from the first moment the connection waits for it: idle
    /// connections end by it too.
    pub header_timeout: Duration,
    /// A request must be answered within this; training and replays are exempt.
    pub request_timeout: Duration,
    /// How long the server still takes connections after it was told to stop, so that a load balancer sees `/readyz` turn.
    pub drain_delay: Duration,
    /// How long open requests may take after that.
    pub drain_timeout: Duration,
    /// Open connections at most; others wait to be accepted.
    pub max_connections: usize,
    /// Requests in work at most; others are told to slow down.
    pub max_requests: usize,
    /// Where webhooks of the tracking server may go beside public addresses over https.
    pub webhooks: WebhookOptions,
}

impl Default for ServeOptions {
    fn default() -> Self {
        ServeOptions {
            listen: "127.0.0.1:8080".into(),
            allow_remote: false,
            tracking_database: None,
            tracking_artifacts: None,
            sql: None,
            access: Access::default(),
            header_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
            max_connections: 4096,
            max_requests: 1024,
            webhooks: WebhookOptions::default(),
        }
    }
}

/// An open port with nothing behind it yet.
pub struct Listening {
    listener: TcpListener,
    address: SocketAddr,
    options: ServeOptions,
}

/// A server with its port open and not yet served.
pub struct Bound {
    listener: TcpListener,
    address: SocketAddr,
    router: axum::Router,
    /// What is stopped at the end; none: whoever bound the port does so.
    project: Option<Arc<Service>>,
    drain: Drain,
    /// What MLflow's clients log to; it delivers to webhooks meanwhile, and is closed at the end.
    hooks: Option<Hooks>,
    options: ServeOptions,
}

/// Serves until `shutdown` resolves, then drains and stops the service with a snapshot.
///
/// # Errors
/// As [`bind`] and [`Bound::run`].
pub async fn serve(service: Arc<Service>, options: ServeOptions, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    bind(service, options).await?.run(shutdown).await
}

/// Opens the port.
///
/// # Errors
/// When the address cannot be had, or is one that other machines reach and [`ServeOptions::allow_remote`] is not set or no key is there.
pub async fn bind(service: Arc<Service>, options: ServeOptions) -> anyhow::Result<Bound> {
    let folder = service.data.dir.join(TRACKING);
    let (database, artifacts) = (options.tracking_database.clone(), options.tracking_artifacts.clone());
    let listening = listen(options).await?;
    // Nothing of the project's own depends on it: decisions go on without.
    let tracking = Tracking::open_at(&folder, database.as_deref(), artifacts.as_ref()).await;
    let tracking = tracking.map_err(|error| {
        tracing::error!(%error, folder = %folder.display(), "MLflow's clients are not answered: their store cannot be opened");
        error.to_string()
    });
    Ok(listening.of_project(service, tracking))
}

/// Opens the port, for those who must know it before they know what they serve.
///
/// # Errors
/// As [`bind`].
pub async fn listen(options: ServeOptions) -> anyhow::Result<Listening> {
    let listen = &options.listen;
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host(listen.as_str())
        .await
        .with_context(|| format!("`{listen}` is no address to listen on\n  hint: write it like 127.0.0.1:8080"))?
        .collect();
    if let Some(open) = addresses.iter().find(|a| !a.ip().is_loopback()) {
        let port = open.port();
        anyhow::ensure!(
            options.allow_remote,
            "will not listen on {open}: other machines can reach it\n  hint: listen on 127.0.0.1:{port}, or start with `--allow-remote`, \
             once `kilter key create` has made a key"
        );
        anyhow::ensure!(
            options.access.has_keys(),
            "will not listen on {open}: other machines can reach it, and no key that opens anything tells who may call\n  hint: \
             `kilter key create` makes one; or listen on 127.0.0.1:{port}, where none is needed"
        );
    }
    let listener = TcpListener::bind(addresses.as_slice())
        .await
        .with_context(|| format!("cannot listen on {listen}\n  hint: another process may hold the port; choose another with `--listen`"))?;
    let address = listener.local_addr()?;
    Ok(Listening { listener, address, options })
}

impl Listening {
    /// The address with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `tracking`: or why there is none.
    fn of_project(self, service: Arc<Service>, tracking: Result<Tracking, String>) -> Bound {
        let Listening { listener, address, options } = self;
        let drain = Drain::default();
        let hooks = tracking.map(|tracking| Hooks::new(tracking, options.webhooks.clone()));
        let host = Host::new(Arc::clone(&service), &options, mlflow::paths(), hooks.as_ref().ok().cloned(), drain.clone());
        let more = match &hooks {
            Ok(hooks) => mlflow::beside(hooks.clone(), Arc::clone(&service)),
            Err(reason) => mlflow::away(reason),
        };
        let router = observe::router(&host, more);
        Bound { listener, address, router, project: Some(service), drain, hooks: hooks.ok(), options }
    }

    /// The face of one worker among several; its shards are ended by whoever began them.
    pub fn of_worker(self, shards: Arc<Shards>) -> Bound {
        let Listening { listener, address, options } = self;
        let drain = Drain::default();
        let router = front::router(shards, &options, drain.clone());
        Bound { listener, address, router, project: None, drain, hooks: None, options }
    }

    /// A tracking server alone, without a project; the store is closed when it has stopped.
    pub fn of_tracking(self, tracking: Tracking) -> Bound {
        let Listening { listener, address, options } = self;
        let hooks = Hooks::new(tracking, options.webhooks.clone());
        let router = mlflow::alone(hooks.clone(), &options);
        Bound { listener, address, router, project: None, drain: Drain::default(), hooks: Some(hooks), options }
    }
}

impl Bound {
    /// The address with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The store of what MLflow's clients log; none: it could not be opened, or this is a worker.
    pub fn tracking(&self) -> Option<&Tracking> {
        self.hooks.as_ref().map(Hooks::tracking)
    }

    /// Serves until `shutdown` resolves. Then `/readyz` answers 503 at once, open requests finish, and the service is stopped with
    /// a snapshot.
    ///
    /// # Errors
    /// When the service cannot write its last snapshot; the log holds everything that was accepted all the same.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Bound { listener, address, router, project, drain, hooks, options } = self;
        let server = Server {
            router,
            http: http(&options),
            graceful: GracefulShutdown::new(),
            places: Arc::new(Semaphore::new(options.max_connections)),
            listener,
        };
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let delivering = hooks.clone().map(|hooks| tokio::spawn(async move { hooks.deliver_until(async { drop(ended.await) }).await }));
        tracing::info!(%address, "serving");
        server.accept_until(shutdown).await;
        drain.begin();
        tracing::info!(open = server.graceful.count(), "draining");
        if !options.drain_delay.is_zero() {
            server.accept_until(tokio::time::sleep(options.drain_delay)).await;
        }
        let Server { listener, graceful, .. } = server;
        drop(listener);
        let open = graceful.count();
        if tokio::time::timeout(options.drain_timeout, graceful.shutdown()).await.is_err() {
            tracing::warn!(open, waited = ?options.drain_timeout, "open requests cut off");
        }
        let stopped = match project {
            Some(service) => service.shutdown().await.context("stopping"),
            None => Ok(()),
        };
        drop(end);
        if let Some(delivering) = delivering {
            let _ = delivering.await;
        }
        if let Some(hooks) = hooks {
            hooks.tracking().close().await;
        }
        stopped?;
        tracing::info!("stopped");
        Ok(())
    }
}

fn http(options: &ServeOptions) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(options.header_timeout).max_headers(100);
    http
}

struct Server {
    listener: TcpListener,
    router: axum::Router,
    http: http1::Builder,
    graceful: GracefulShutdown,
    places: Arc<Semaphore>,
}

impl Server {
    async fn accept_until(&self, end: impl Future<Output = ()>) {
        let mut end = pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return,
                accepted = self.accept() => match accepted {
                    Ok((stream, place)) => self.take(stream, place),
                    Err(e) => {
                        // Out of file descriptors, or a client gone already: others may still be served in a moment.
                        tracing::warn!(error = %e, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                },
            }
        }
    }

    async fn accept(&self) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(std::io::Error::other)?;
        let (stream, _) = self.listener.accept().await?;
        // Answers are small and wait for nothing.
        stream.set_nodelay(true)?;
        Ok((stream, place))
    }

    fn take(&self, stream: TcpStream, place: OwnedSemaphorePermit) {
        let service = TowerToHyperService::new(self.router.clone());
        let connection = self.graceful.watch(self.http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "connection ended early");
            }
            drop(place);
        });
    }
}
