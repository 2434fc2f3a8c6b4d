//! What `kilter up` takes for PostgreSQL's protocol and Arrow Flight SQL.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::ensure;
use kilter_runtime::Service;
use kilter_server::access::{Access, Exchange, Reader};
use kilter_server::sql::Sql;
use kilter_sql::wire::{Identity, Login, Options, Scram};
use kilter_sql::{Engine, Limits, Rights, flight, tls, wire};
use tokio::task::JoinHandle;

use super::engine::{rights, shared};
use super::{Logged, tracking};

/// Clients of each protocol at a time.
const CONNECTIONS: usize = 100;

/// How the protocols are served.
#[derive(clap::Args)]
pub struct ServeArgs {
    /// Address to answer PostgreSQL's protocol on, such as 127.0.0.1:5432. The password is a key that may ask in SQL, where there are keys.
    #[arg(long, value_name = "ADDRESS")]
    postgres: Option<SocketAddr>,
    /// Address to answer Arrow Flight SQL on, such as 127.0.0.1:32010. The password, or the bearer token, is a key that may ask in SQL, where there are keys.
    #[arg(long, value_name = "ADDRESS")]
    flight_sql: Option<SocketAddr>,
    /// The certificate for both, in PEM. Without one keys are taken from this machine only.
    #[arg(long, visible_alias = "postgres-certificate", value_name = "FILE", requires = "sql_key")]
    sql_certificate: Option<PathBuf>,
    /// The certificate's private key, in PEM.
    #[arg(long, visible_alias = "postgres-key", value_name = "FILE", requires = "sql_certificate")]
    sql_key: Option<PathBuf>,
}

/// Keys as passwords; and what they come by, for the log.
struct Keys(Access, &'static str);

impl Login for Keys {
    fn is_open(&self) -> bool {
        self.0.is_open()
    }

    fn admit(&self, password: &str) -> Option<Identity> {
        self.0.reader(password, self.1).map(identity)
    }

    fn scram(&self, user: &str) -> Option<Box<dyn Scram>> {
        Some(Box::new(Proof(self.0.exchange(user)?, self.0.clone(), self.1)))
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
struct Proof(Exchange, Access, &'static str);

impl Scram for Proof {
    fn first(&mut self, message: &str) -> Option<String> {
        self.0.first(message)
    }

    fn last(&mut self, message: &str) -> Option<(String, Identity)> {
        let proved = self.0.last(message).map(|(answer, reader)| (answer, identity(reader)));
        if proved.is_none() {
            self.1.refused_reader(self.2);
        }
        proved
    }
}

/// Servers of the protocols, which end when this is dropped.
pub struct Served(Vec<JoinHandle<()>>);

impl Drop for Served {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

impl ServeArgs {
    /// How one of the protocols is served, which clients call so when they negotiate encryption.
    fn options(&self, address: SocketAddr, access: &Access, by: &'static str, protocol: &str) -> anyhow::Result<Options> {
        let tls = match (&self.sql_certificate, &self.sql_key) {
            (Some(certificate), Some(key)) => Some(tls(certificate, key, protocol)?),
            _ => None,
        };
        ensure!(
            address.ip().is_loopback() || (access.has_keys() && tls.is_some()),
            "{address} can be reached from other machines: that wants a key and a certificate\n  hint: `kilter key create NAME --role read`, and \
             --sql-certificate with --sql-key"
        );
        Ok(Options { address, login: Arc::new(Keys(access.clone(), by)), tls, connections: CONNECTIONS })
    }
}

/// An engine for the HTTP server, which serves the other protocols as well where that is asked for.
pub async fn serve(
    service: &Arc<Service>,
    access: &Access,
    logged: &Logged,
    args: ServeArgs,
) -> anyhow::Result<(Option<Arc<dyn Sql>>, Served)> {
    let engine = Arc::new(Engine::new(Arc::clone(service), Limits::default())?.with(tracking::tables(logged)));
    let (project, mut served) = (&service.plan.project, Served(Vec::new()));
    if let Some(address) = args.postgres {
        let options = args.options(address, access, "a connection by PostgreSQL's protocol", wire::PROTOCOL)?;
        let server = wire::Server::bind(Arc::clone(&engine), options).await?;
        println!("answers PostgreSQL's protocol on {}, database {project}", server.address()?);
        served.0.push(tokio::spawn(server.run()));
    }
    if let Some(address) = args.flight_sql {
        let options = args.options(address, access, "a call by Arrow Flight SQL", flight::PROTOCOL)?;
        let server = flight::Server::bind(Arc::clone(&engine), options).await?;
        println!("answers Arrow Flight SQL on {}", server.address()?);
        served.0.push(tokio::spawn(server.run()));
    }
    if served.0.is_empty() {
        // Most servers are never asked; one that is, is asked again.
        return Ok((Some(shared(engine, Engine::keep)), served));
    }
    engine.keep();
    Ok((Some(shared(engine, |_| ())), served))
}
