//! What `kilter up` takes for PostgreSQL's protocol.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::ensure;
use kilter_runtime::Service;
use kilter_server::access::{Access, Exchange, Reader};
use kilter_server::sql::Sql;
use kilter_sql::wire::{self, Identity, Login, Scram};
use kilter_sql::{Engine, Limits, Rights};

use super::engine::{rights, shared};
use super::{Logged, tracking};

/// Clients of PostgreSQL's protocol at a time.
const CONNECTIONS: usize = 100;

/// How PostgreSQL's protocol is served.
#[derive(clap::Args)]
pub struct ServeArgs {
    /// Address to answer PostgreSQL's protocol on, such as 127.0.0.1:5432. The password is a key that may ask in SQL, where there are keys.
    #[arg(long, value_name = "ADDRESS")]
    postgres: Option<SocketAddr>,
    /// The certificate for it, in PEM. Without one keys are taken from this machine only.
    #[arg(long, value_name = "FILE", requires = "postgres_key")]
    postgres_certificate: Option<PathBuf>,
    /// The certificate's private key, in PEM.
    #[arg(long, value_name = "FILE", requires = "postgres_certificate")]
    postgres_key: Option<PathBuf>,
}

/// Keys as passwords.
struct Keys(Access);

impl Login for Keys {
    fn is_open(&self) -> bool {
        self.0.is_open()
    }

    fn admit(&self, password: &str) -> Option<Identity> {
        self.0.reader(password).map(identity)
    }

    fn scram(&self, user: &str) -> Option<Box<dyn Scram>> {
        Some(Box::new(Proof(self.0.exchange(user)?, self.0.clone())))
    }

    fn rights(&self, who: Option<&Identity>) -> Option<Rights> {
        let reader = who.map(|who| Reader { name: who.name.clone(), hash: who.hash });
        self.0.sight(reader.as_ref()).map(rights)
    }
}

fn identity(Reader { name, hash }: Reader) -> Identity {
    Identity { name, hash }
}

/// A key that is proved.
struct Proof(Exchange, Access);

impl Scram for Proof {
    fn first(&mut self, message: &str) -> Option<String> {
        self.0.first(message)
    }

    fn last(&mut self, message: &str) -> Option<(String, Identity)> {
        let proved = self.0.last(message).map(|(answer, reader)| (answer, identity(reader)));
        if proved.is_none() {
            self.1.refused_reader();
        }
        proved
    }
}

/// A server of PostgreSQL's protocol, which ends when this is dropped.
pub struct Served(tokio::task::JoinHandle<()>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Most servers are never asked; one that is, is asked again.
fn keep(engine: &Arc<Engine>) {
    if let Err(error) = engine.keep() {
        tracing::warn!(%error, "columns are not written down");
    }
}

/// An engine for the HTTP server, which serves PostgreSQL's protocol as well where that is asked for.
pub async fn serve(
    service: &Arc<Service>,
    access: Access,
    logged: &Logged,
    args: ServeArgs,
) -> anyhow::Result<(Option<Arc<dyn Sql>>, Option<Served>)> {
    let engine = Arc::new(Engine::new(Arc::clone(service), Limits::default())?.with(tracking::tables(logged)));
    let Some(address) = args.postgres else { return Ok((Some(shared(engine, keep)), None)) };
    let sql = shared(Arc::clone(&engine), |_| ());
    let tls = match (&args.postgres_certificate, &args.postgres_key) {
        (Some(certificate), Some(key)) => Some(wire::tls(certificate, key)?),
        _ => None,
    };
    ensure!(
        address.ip().is_loopback() || (access.has_keys() && tls.is_some()),
        "{address} can be reached from other machines: that wants a key and a certificate\n  hint: `kilter key create NAME --role read`, and \
         --postgres-certificate with --postgres-key"
    );
    keep(&engine);
    let options = wire::Options { address, login: Arc::new(Keys(access)), tls, connections: CONNECTIONS };
    let server = wire::Server::bind(engine, options).await?;
    println!("answers PostgreSQL's protocol on {}, database {}", server.address()?, service.plan.project);
    Ok((Some(sql), Some(Served(tokio::spawn(server.run())))))
}
