//! PostgreSQL's wire protocol, for whatever speaks it: psql, drivers, and the tools that people look at data with.

mod connection;
mod extended;
mod handlers;
mod login;
mod rows;
mod send;
mod state;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use pgwire::api::ConnectionManager;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::Engine;
pub use crate::door::{Identity, Login, Options, Scram};
use crate::listen::take_in;
use handlers::Handlers;

/// What clients call the protocol when they negotiate encryption (ALPN).
pub const PROTOCOL: &str = "postgresql";

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    options: Options,
    engine: Arc<Engine>,
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
        let attend = |socket, waits| {
            let handlers = Handlers::new(&self.engine, &self.options.login, &manager, &places);
            let tls = self.options.tls.clone();
            async move { connection::attend(socket, tls, &handlers, waits).await }
        };
        take_in(self.listener, "PostgreSQL", self.engine.threads().for_clients(), attend).await;
    }
}
