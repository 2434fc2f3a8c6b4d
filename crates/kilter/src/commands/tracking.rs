//! `kilter tracking`: what MLflow's clients log to, until SIGTERM or Ctrl-C.

use std::path::PathBuf;

use anyhow::Context;
use kilter_server::access::Access;
use kilter_tracking::Tracking;

use super::up::StopSignal;

#[derive(clap::Args)]
pub struct Args {
    /// Folder for experiments, runs and artifacts; made where it is missing.
    #[arg(long, value_name = "FOLDER", default_value = "tracking")]
    data: PathBuf,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5000")]
    listen: String,
    /// Listen on an address that other machines can reach. There must be a key, by `kilter key create --data FOLDER`.
    #[arg(long)]
    allow_remote: bool,
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    // From here on a stop is an orderly one, however early it comes.
    let mut stop = StopSignal::listen()?;
    let options = kilter_server::ServeOptions {
        listen: args.listen,
        allow_remote: args.allow_remote,
        access: Access::of_folder(&args.data)?,
        ..kilter_server::ServeOptions::default()
    };
    let listening = kilter_server::listen(options).await?;
    let tracking = Tracking::open(&args.data).await.with_context(|| format!("cannot open {}", args.data.display()))?;
    let server = listening.of_tracking(tracking);
    println!("a tracking server is up on http://{} (data in {})", server.address(), args.data.display());
    server.run(async move { stop.wait().await }).await
}
