//! The command `sql`: one question, one table. And what `kilter up` takes for the same by PostgreSQL's protocol.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use kilter_runtime::{Service, StartOptions};
use kilter_server::access::{Access, Exchange, Reader};
use kilter_sql::wire::{self, Identity, Login, Scram};
use kilter_sql::{Engine, Format, Limits, Session, Writer, texts};

use crate::api::{is_locked, load};
use crate::commands::table;

/// Rows of a table for people; files have all.
const ROWS: usize = 1000;
/// Clients of PostgreSQL's protocol at a time.
const CONNECTIONS: usize = 100;

#[derive(clap::Args)]
pub struct Args {
    /// The question, such as "SELECT outcome, count(*) FROM decisions GROUP BY outcome"; without one it is read from standard input.
    question: Option<String>,
    /// Read the question from a file.
    #[arg(long, value_name = "FILE", conflicts_with = "question")]
    file: Option<PathBuf>,
    /// table, csv, json (one object a line) or arrow (a stream of record batches).
    #[arg(long, default_value = "table")]
    format: String,
    /// How long it may take, in seconds.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

/// How PostgreSQL's protocol is served.
#[derive(clap::Args)]
pub struct ServeArgs {
    /// Address to answer PostgreSQL's protocol on, such as 127.0.0.1:5432. The password is a key that may read, where there are keys.
    #[arg(long, value_name = "ADDRESS")]
    postgres: Option<SocketAddr>,
    /// The certificate for it, in PEM. Without one keys are taken from this machine only.
    #[arg(long, value_name = "FILE", requires = "postgres_key")]
    postgres_certificate: Option<PathBuf>,
    /// The certificate's private key, in PEM.
    #[arg(long, value_name = "FILE", requires = "postgres_certificate")]
    postgres_key: Option<PathBuf>,
}

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<()> {
    let format = match args.format.as_str() {
        "table" => None,
        word => Some(Format::parse(word).with_context(|| {
            let words: Vec<&str> = Format::ALL.iter().map(|(_, word)| *word).collect();
            format!("`{word}` is no format\n  hint: table, {}", words.join(", "))
        })?),
    };
    let question = match (args.question, &args.file) {
        (Some(question), _) => question,
        (None, Some(file)) => std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
        (None, None) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            text
        }
    };
    let project = load(dir)?;
    let service = match Service::start(project, StartOptions { schedules: false, ..StartOptions::default() }).await {
        Ok(service) => service,
        Err(e) if is_locked(&e) => {
            return Err(e.context(
                "a server has the project open\n  hint: run it with `kilter up --postgres ADDRESS` and ask there, with psql for instance",
            ));
        }
        Err(e) => return Err(e),
    };
    let time = Duration::from_secs(args.seconds);
    let engine = Engine::new(Arc::clone(&service), Limits { time, ..Limits::default() })?;
    let answered = answer(&engine, &question, format).await;
    service.shutdown().await?;
    answered
}

async fn answer(engine: &Engine, question: &str, format: Option<Format>) -> anyhow::Result<()> {
    let session = Session::new("kilter", engine.database());
    let prepared = engine.ask(question, &session).await?;
    let mut answer = engine.run(&prepared, Vec::new(), None).await?;
    let names = prepared.names();
    let Some(format) = format else {
        let mut out = table(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let mut rows = 0;
        while let Some(batch) = answer.next().await? {
            for row in texts(&batch)?.into_iter().take(ROWS - rows.min(ROWS)) {
                out.add_row(row.into_iter().map(Option::unwrap_or_default));
            }
            rows += batch.num_rows();
            if rows > ROWS {
                break;
            }
        }
        println!("{out}");
        if rows > ROWS {
            eprintln!("these are the first {ROWS} rows; --format csv gives all");
        }
        return Ok(());
    };
    let mut out = std::io::stdout().lock();
    let mut writer = Writer::new(&mut out, format, &answer.schema, &names)?;
    while let Some(batch) = answer.next().await? {
        writer.write(&batch)?;
    }
    writer.finish()?;
    drop(writer);
    Ok(out.flush()?)
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

    fn still_admits(&self, who: Option<&Identity>) -> bool {
        let reader = who.map(|who| Reader { name: who.name.clone(), hash: who.hash });
        self.0.still_reads(reader.as_ref())
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

/// Serves PostgreSQL's protocol, where that is asked for.
pub async fn serve(service: &Arc<Service>, access: Access, args: ServeArgs) -> anyhow::Result<Option<Served>> {
    let Some(address) = args.postgres else { return Ok(None) };
    let tls = match (&args.postgres_certificate, &args.postgres_key) {
        (Some(certificate), Some(key)) => Some(wire::tls(certificate, key)?),
        _ => None,
    };
    ensure!(
        address.ip().is_loopback() || (access.has_keys() && tls.is_some()),
        "{address} can be reached from other machines: that wants a key and a certificate\n  hint: `kilter key create NAME --role read`, and \
         --postgres-certificate with --postgres-key"
    );
    let engine = Arc::new(Engine::new(Arc::clone(service), Limits::default())?);
    engine.keep()?;
    let options = wire::Options { address, login: Arc::new(Keys(access)), tls, connections: CONNECTIONS };
    let server = wire::Server::bind(engine, options).await?;
    println!("answers PostgreSQL's protocol on {}, database {}", server.address()?, service.plan.project);
    Ok(Some(Served(tokio::spawn(server.run()))))
}
