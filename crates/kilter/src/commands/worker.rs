//! `kilter worker`: one of several processes that share a project, until SIGTERM or Ctrl-C.

use std::path::{Path, PathBuf};

use kilter_kafka::{Worker, WorkerOptions};
use kilter_runtime::StartOptions;
use kilter_server::access::Access;

use super::up::StopSignal;
use crate::api::load;

#[derive(clap::Args)]
pub struct Args {
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: String,
    /// Address at which the other workers reach this one; left out: the one listened on.
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<String>,
    /// Listen on an address that other machines can reach. There must be a key, by `kilter key create`, and the same ones for all workers.
    #[arg(long)]
    allow_remote: bool,
    /// This worker's name, for good: under it, a worker that is started again within the session's timeout keeps its shards (static membership).
    #[arg(long, value_name = "NAME")]
    id: Option<String>,
    /// Folder for the shards' data, of this worker alone; left out: `NAME` under the project's data folder.
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
}

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<()> {
    // From here on a stop is an orderly one, however early it comes.
    let mut stop = StopSignal::listen()?;
    let project = load(dir)?;
    let access = Access::of_folder(project.data_dir())?;
    let options = kilter_server::ServeOptions {
        listen: args.listen,
        allow_remote: args.allow_remote,
        access,
        ..kilter_server::ServeOptions::default()
    };
    let listening = kilter_server::listen(options).await?;
    let address = args.advertise.unwrap_or_else(|| listening.address().to_string());
    let data = args.data.unwrap_or_else(|| project.data_dir().join(args.id.as_deref().unwrap_or("worker")));
    let name = project.plan.project.clone();
    let options = WorkerOptions { id: args.id, address, data, start: StartOptions::default() };
    let decision_json = kilter_server::decision_json;
    // Asks brokers, so on a thread that may wait.
    let mut worker = tokio::task::spawn_blocking(move || Worker::start(project, options, decision_json)).await??;
    let server = listening.of_worker(std::sync::Arc::clone(worker.shards()));
    println!("a worker of {name} is up on http://{} (shards at /v1/shards)", server.address());
    let end = async move {
        stop.wait().await;
        // Waits for threads, so on one of its own.
        let _ = tokio::task::spawn_blocking(move || worker.stop()).await;
    };
    server.run(end).await
}
