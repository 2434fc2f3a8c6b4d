//! `kilter up`: the project in operation, until SIGTERM or Ctrl-C.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use kilter_runtime::files::{Pace, file_sources, stream};
use kilter_runtime::project::Project;
use kilter_runtime::{Service, StartOptions};
use kilter_server::ServeOptions;
use kilter_server::access::Access;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::tracking::{ByProxy, Webhooks};
use crate::api::{ADDRESS_FILE, is_locked, load};

#[derive(clap::Args)]
pub struct Args {
    /// Address to listen on instead of the project's.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Listen on an address that other machines can reach. There must be a key, by `kilter key create`.
    #[arg(long)]
    allow_remote: bool,
    /// Database of PostgreSQL for what MLflow's clients log, `postgresql://USER@HOST:PORT/NAME`, which several servers may share; else the environment
    /// variable KILTER_TRACKING_DATABASE. Without either, a file of SQLite in the data folder.
    #[arg(long, value_name = "URL")]
    tracking_database: Option<String>,
    /// Where the files lie that MLflow's clients log, `s3://BUCKET/PREFIX`, `gs://`, `az://` (a program built with `--features artifacts-cloud`) or
    /// `file:///FOLDER`; else the environment variable KILTER_TRACKING_ARTIFACTS. Keys and other settings of the storage come from the environment, such as
    /// AWS_ACCESS_KEY_ID, AWS_REGION and AWS_ENDPOINT_URL. Without either, in the data folder.
    #[arg(long, value_name = "URL")]
    tracking_artifacts: Option<String>,
    #[command(flatten)]
    by_proxy: ByProxy,
    /// Leave the project's file sources alone.
    #[arg(long)]
    no_files: bool,
    /// Have the threads that decisions wait for run before everything else on this machine (Linux: SCHED_RR), so that heavy questions, training and other
    /// programs do not hold them up. This needs CAP_SYS_NICE, or a limit of real-time priority (`ulimit -r`) of 1 at least.
    #[arg(long)]
    pub real_time: bool,
    #[command(flatten)]
    webhooks: Webhooks,
    #[cfg(feature = "sql")]
    #[command(flatten)]
    sql: crate::sql::ServeArgs,
}

/// How long a server that was killed has to let go of the data folder: on a busy machine its threads end one after the other.
const LET_GO: Duration = Duration::from_secs(3);

async fn started(dir: &Path, mut project: Project) -> anyhow::Result<Arc<Service>> {
    let begun = Instant::now();
    loop {
        match Service::start(project, StartOptions::default()).await {
            Err(e) if is_locked(&e) && begun.elapsed() < LET_GO => tokio::time::sleep(Duration::from_millis(50)).await,
            started => return started,
        }
        project = load(dir)?;
    }
}

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<()> {
    // From here on a stop is an orderly one, however early it comes.
    let mut stop = StopSignal::listen()?;
    let project = load(dir)?;
    let listen = args.listen.unwrap_or_else(|| project.settings.server.listen.clone());
    let data = project.data_dir();
    let service = tokio::select! {
        service = started(dir, project) => service?,
        () = stop.wait() => return Ok(()),
    };
    let tracking_database = args.tracking_database.or_else(super::tracking::database_of_environment);
    let tracking_artifacts = super::tracking::artifacts_at(args.tracking_artifacts, &args.by_proxy);
    let (access, webhooks) = (Access::of_folder(&data)?, args.webhooks.into());
    #[cfg(feature = "sql")]
    let logged = crate::sql::Logged::default();
    #[cfg(feature = "sql")]
    let (sql, protocols) = crate::sql::serve(&service, &access, &logged, args.sql).await?;
    #[cfg(not(feature = "sql"))]
    let sql = None;
    let allow_remote = args.allow_remote;
    let options =
        ServeOptions { listen, allow_remote, access, tracking_database, tracking_artifacts, sql, webhooks, ..ServeOptions::default() };
    let server = kilter_server::bind(Arc::clone(&service), options).await?;
    #[cfg(feature = "sql")]
    logged.set(server.tracking());
    let address_file = data.join(ADDRESS_FILE);
    std::fs::write(&address_file, server.address().to_string()).with_context(|| format!("cannot write {}", address_file.display()))?;
    println!("{} is up on http://{} (docs at /docs)", service.plan.project, server.address());
    if !args.no_files && !file_sources(&service.project).is_empty() {
        let service = Arc::clone(&service);
        let runtime = tokio::runtime::Handle::current();
        // Decoding files is work for a thread of its own: the server answers meanwhile.
        std::thread::Builder::new().name("files".into()).spawn(move || {
            match runtime.block_on(stream(&service, &[], Pace::AsFastAsPossible, |_| {})) {
                Ok(done) => tracing::info!(rows = done.rows, accepted = done.accepted, rejected = done.rejected, "files are read"),
                Err(e) => tracing::error!(error = %e, "reading the file sources stopped"),
            }
        })?;
    }
    let mut kafka = kilter_kafka::start(&service, kilter_server::decision_json)?;
    let mut lake = kilter_runtime::lake::start(&service)?;
    let end = async move {
        stop.wait().await;
        #[cfg(feature = "sql")]
        drop(protocols);
        // Waits for threads, so on one of its own.
        let stopped = move || {
            kafka.stop();
            if let Some(lake) = &mut lake {
                lake.stop();
            }
        };
        let _ = tokio::task::spawn_blocking(stopped).await;
        // Whoever listens there next is not this server. Before the folder is free for another one, which writes its own.
        if let Err(error) = std::fs::remove_file(&address_file) {
            tracing::warn!(%error, path = %address_file.display(), "the file with the address stays behind");
        }
    };
    server.run(end).await
}

/// Ctrl-C and SIGTERM, noticed from the moment this exists.
pub struct StopSignal {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignal {
    pub fn listen() -> std::io::Result<StopSignal> {
        Ok(StopSignal { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Ends with the first of them.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
