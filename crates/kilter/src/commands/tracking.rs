//! `kilter tracking`: what MLflow's clients log to, until SIGTERM or Ctrl-C.

use std::path::PathBuf;

use anyhow::Context;
use kilter_server::access::Access;
use kilter_server::{Network, ServeOptions, WebhookOptions};
use kilter_tracking::Tracking;

use super::up::StopSignal;

#[derive(clap::Args)]
pub struct Args {
    /// Folder for experiments, runs and artifacts; made where it is missing.
    #[arg(long, value_name = "FOLDER", default_value = "tracking")]
    data: PathBuf,
    /// Database of PostgreSQL for all but the artifacts, `postgresql://USER@HOST:PORT/NAME`, which several servers may share; else the environment variable
    /// KILTER_TRACKING_DATABASE, which does not show a password to whoever lists processes. Without either, a file of SQLite in the folder.
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5000")]
    listen: String,
    /// Listen on an address that other machines can reach. There must be a key, by `kilter key create --data FOLDER`.
    #[arg(long)]
    allow_remote: bool,
    #[command(flatten)]
    webhooks: Webhooks,
}

/// Where webhooks of MLflow's clients may go.
#[derive(clap::Args)]
pub struct Webhooks {
    /// Send webhooks of MLflow's clients over http too, where anybody on the way can read them.
    #[arg(long)]
    allow_http_webhooks: bool,
    /// Send webhooks of MLflow's clients to a network or address although it is not a public one, such as 10.0.0.0/8; may be given several times.
    #[arg(long, value_name = "NETWORK")]
    allow_webhooks_to: Vec<Network>,
}

impl From<Webhooks> for WebhookOptions {
    fn from(args: Webhooks) -> WebhookOptions {
        WebhookOptions { allow_http: args.allow_http_webhooks, networks: args.allow_webhooks_to }
    }
}

pub async fn run(args: Args) -> anyhow::Result<()> {
    // From here on a stop is an orderly one, however early it comes.
    let mut stop = StopSignal::listen()?;
    let webhooks = args.webhooks.into();
    let access = Access::of_folder(&args.data)?;
    let options = ServeOptions { listen: args.listen, allow_remote: args.allow_remote, access, webhooks, ..ServeOptions::default() };
    let listening = kilter_server::listen(options).await?;
    let database = args.database.or_else(database_of_environment);
    let tracking = match &database {
        Some(url) => Tracking::open_shared(&args.data, url).await.context("cannot open the tracking store")?,
        None => Tracking::open(&args.data).await.with_context(|| format!("cannot open {}", args.data.display()))?,
    };
    let server = listening.of_tracking(tracking);
    let place = if database.is_some() { "artifacts" } else { "data" };
    println!("a tracking server is up on http://{} ({place} in {})", server.address(), args.data.display());
    server.run(async move { stop.wait().await }).await
}

/// Where the tracking store lies, if the environment says so.
pub fn database_of_environment() -> Option<String> {
    std::env::var("KILTER_TRACKING_DATABASE").ok().filter(|url| !url.is_empty())
}
