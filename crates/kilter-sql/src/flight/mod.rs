//! Arrow Flight SQL: answers as columns, for ADBC and the drivers of JDBC and ODBC that speak it.
//!
//! A call is looked at from the outside in: [`connection`] asks who it is before anything of its body is read, [`calls`] does what it says. What it leaves behind,
//! prepared statements and statements that run, is in [`kept`].

mod calls;
mod columns;
mod connection;
mod facts;
mod kept;
mod status;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;

use crate::Engine;
pub use crate::door::Options;
use crate::listen::take_in;
use connection::House;

/// What clients call the protocol when they negotiate encryption (ALPN).
pub const PROTOCOL: &str = "h2";

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
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} for Arrow Flight SQL"))?;
        Ok(Server { listener, options, engine })
    }

    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Serves until it is dropped, and with it all connections.
    pub async fn run(self) {
        let house = Arc::new(House::new(Arc::clone(&self.engine), Arc::clone(&self.options.login), self.options.connections));
        let attend = |socket, waits| connection::attend(socket, self.options.tls.clone(), Arc::clone(&house), waits);
        take_in(self.listener, "Flight SQL", self.engine.threads().for_clients(), attend).await;
    }
}
