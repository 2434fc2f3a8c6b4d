//! PostgreSQL's wire protocol, for whatever speaks it: psql, drivers, and the tools that people look at data with.

mod handlers;
mod login;
mod rows;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use pgwire::api::ConnectionManager;
use pgwire::tokio::tokio_rustls::TlsAcceptor;
use pgwire::tokio::tokio_rustls::rustls::pki_types::pem::PemObject;
use pgwire::tokio::tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use pgwire::tokio::tokio_rustls::rustls::{self, ServerConfig};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::Engine;
use handlers::Handlers;

/// Who may ask.
pub trait Login: Send + Sync + 'static {
    /// Whether everybody may, without a password.
    fn is_open(&self) -> bool;
    /// Whether a password opens the door; the name it stands for.
    fn admit(&self, password: &str) -> Option<String>;
}

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

    /// Serves until it is dropped.
    pub async fn run(self) {
        let manager = Arc::new(ConnectionManager::new());
        let places = Arc::new(Semaphore::new(self.options.connections));
        loop {
            let socket = match self.listener.accept().await {
                Ok((socket, _)) => socket,
                Err(e) => {
                    tracing::warn!(error = %e, "a client could not be taken in");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            // Rows go out when they are there.
            let _ = socket.set_nodelay(true);
            let place = Arc::clone(&places).try_acquire_owned().ok();
            let handlers = Handlers::new(&self.engine, &self.options.login, &manager, place.is_some());
            let tls = self.options.tls.clone();
            tokio::spawn(async move {
                let _place = place;
                if let Err(e) = pgwire::tokio::process_socket(socket, tls, Arc::new(handlers)).await {
                    tracing::debug!(error = %e, "a client of PostgreSQL's protocol is gone");
                }
            });
        }
    }
}
