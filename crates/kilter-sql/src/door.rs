//! Who may ask, over whatever protocol, and how a server shows that it is itself.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use pgwire::tokio::tokio_rustls::TlsAcceptor;
use pgwire::tokio::tokio_rustls::rustls::pki_types::pem::PemObject;
use pgwire::tokio::tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use pgwire::tokio::tokio_rustls::rustls::{self, ServerConfig};

use crate::Rights;

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

/// Where and for whom a protocol is served.
pub struct Options {
    pub address: SocketAddr,
    pub login: Arc<dyn Login>,
    /// The certificate and its key; none: nothing is encrypted, and passwords are taken from this machine only.
    pub tls: Option<TlsAcceptor>,
    /// Clients at a time.
    pub connections: usize,
}

/// Reads a certificate and its key, both in PEM, for the protocol that clients call so when they negotiate (ALPN).
///
/// # Errors
/// When they cannot be read, or do not belong together.
pub fn tls(certificate: &Path, key: &Path, protocol: &str) -> anyhow::Result<TlsAcceptor> {
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
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
