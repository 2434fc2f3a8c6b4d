//! PostgreSQL's wire protocol, for whatever speaks it: psql, drivers, and the tools that people look at data with.

mod connection;
mod handlers;
mod login;
mod rows;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context;
use pgwire::api::ConnectionManager;
use pgwire::tokio::tokio_rustls::TlsAcceptor;
use pgwire::tokio::tokio_rustls::rustls::pki_types::pem::PemObject;
use pgwire::tokio::tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use pgwire::tokio::tokio_rustls::rustls::{self, ServerConfig};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

use crate::{Engine, Rights};
use handlers::Handlers;

/// Who may ask.
pub trait Login: Send + Sync + 'static {
    /// Whether everybody may, without a password.
    fn is_open(&self) -> bool;
    /// A login by SCRAM-SHA-256 for a user; none: the user has nothing that could be proved, and is asked for the password itself.
    fn scram(&self, user: &str) -> Option<Box<dyn Scram>>;
    /// Whether a password opens the door, and to whom.
    fn admit(&self, password: &str) -> Option<Identity>;
    /// What somebody who came in may see by now, as it is asked before every statement; none: the door would not open any more. `who`: whom it let in; none:
    /// it was open to everybody then.
    fn rights(&self, who: Option<&Identity>) -> Option<Rights>;
}

/// The server's side of SCRAM-SHA-256.
pub trait Scram: Send {
    /// The answer to a client's first message; none: it makes no sense.
    fn first(&mut self, message: &str) -> Option<String>;
    /// The answer to its last, and who it is; none: that is not proved.
    fn last(&mut self, message: &str) -> Option<(String, Identity)>;
}

/// Whom a password stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    /// Tells it from another of that name.
    pub hash: [u8; 32],
}

/// Sockets that have not logged in, at a time.
const WAITING: usize = 64;
/// How long logging in may take, with all that comes before it.
const LOGIN: Duration = Duration::from_secs(30);

/// Where and for whom the protocol is served.
pub struct Options {
    pub address: SocketAddr,
    pub login: Arc<dyn Login>,
    /// The certificate and its key; none: nothing is encrypted, and passwords are taken from this machine only.
    pub tls: Option<TlsAcceptor>,
    /// Clients at a time.
    pub connections: usize,
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    options: Options,
    engine: Arc<Engine>,
}

/// Reads a certificate and its key, both in PEM.
///
/// # Errors
/// When they cannot be read, or do not belong together.
pub fn tls(certificate: &Path, key: &Path) -> anyhow::Result<TlsAcceptor> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("cannot read the certificate {}", certificate.display()))?;
    let private = PrivateKeyDer::from_pem_file(key).with_context(|| format!("cannot read the key {}", key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .context("the certificate and the key do not belong together")?;
    let mut config = config;
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl Server {
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(engine: Arc<Engine>, options: Options) -> anyhow::Result<Server> {
        let address = options.address;
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} for PostgreSQL's protocol"))?;
        Ok(Server { listener, options, engine })
    }

    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves until it is dropped, and with it all connections.
    pub async fn run(self) {
        let manager = Arc::new(ConnectionManager::new());
        let places = Arc::new(Semaphore::new(self.options.connections));
        let mut waiting: VecDeque<(Weak<()>, AbortHandle)> = VecDeque::new();
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(ended) = connections.join_next() => {
                    if let Err(e) = ended {
                        tracing::debug!(error = %e, "a connection by PostgreSQL's protocol ended badly");
                    }
                    continue;
                }
            };
            let socket = match accepted {
                Ok((socket, _)) => socket,
                Err(e) => {
                    tracing::warn!(error = %e, "a client could not be taken in");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            waiting.retain(|(waits, _)| waits.strong_count() > 0);
            // When too many knock at the door, who has knocked longest goes: descriptors are everybody's, and logging in takes no time.
            if waiting.len() >= WAITING
                && let Some((_, oldest)) = waiting.pop_front()
            {
                oldest.abort();
            }
            let waits = Arc::new(());
            let still_waits = Arc::downgrade(&waits);
            let handlers = Handlers::new(&self.engine, &self.options.login, &manager, &places);
            let tls = self.options.tls.clone();
            let task = connections.spawn(async move {
                if let Err(e) = connection::attend(socket, tls, &handlers, waits).await {
                    tracing::debug!(error = %e, "a client of PostgreSQL's protocol is gone");
                }
            });
            waiting.push_back((still_waits, task));
        }
    }
}
