//! `kilter tracking`: what MLflow's clients log to, until SIGTERM or Ctrl-C.

use std::path::PathBuf;

use anyhow::Context;
use kilter_server::access::Access;
use kilter_server::{Network, ServeOptions, WebhookOptions};
use kilter_tracking::{ArtifactsAt, Tracking};

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
    /// Where artifacts lie, `s3://BUCKET/PREFIX`, `gs://`, `az://` (a program built with `--features artifacts-cloud`) or `file:///FOLDER`, which several servers
    /// may share; else the environment variable KILTER_TRACKING_ARTIFACTS. Keys and other settings of the storage come from the environment, such as
    /// AWS_ACCESS_KEY_ID, AWS_REGION and AWS_ENDPOINT_URL. Without either, artifacts lie in the folder.
    #[arg(long, value_name = "URL")]
    artifacts: Option<String>,
    #[command(flatten)]
    by_proxy: ByProxy,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:5000")]
    listen: String,
    /// Listen on an address that other machines can reach. There must be a key, by `kilter key create --data FOLDER`.
    #[arg(long)]
    allow_remote: bool,
    #[command(flatten)]
    webhooks: Webhooks,
}

/// How clients reach artifacts on object storage.
#[derive(clap::Args, Default)]
pub struct ByProxy {
    /// Send all artifacts through this server: clients get no signed addresses of the storage, to which large files go in parts otherwise.
    #[arg(long)]
    artifacts_by_proxy: bool,
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
    let artifacts = artifacts_at(args.artifacts, &args.by_proxy);
    let opening = Tracking::open_at(&args.data, database.as_deref(), artifacts.as_ref());
    let tracking = opening.await.with_context(|| match (&database, &artifacts) {
        (None, None) => format!("cannot open {}", args.data.display()),
        _ => "cannot open the tracking store".into(),
    })?;
    let server = listening.of_tracking(tracking);
    let folder = args.data.display();
    let place = match (&database, &artifacts) {
        (None, None) => format!("data in {folder}"),
        (Some(_), None) => format!("artifacts in {folder}"),
        (None, Some(at)) => format!("data in {folder}, artifacts at {}", at.url),
        (Some(_), Some(at)) => format!("artifacts at {}", at.url),
    };
    println!("a tracking server is up on http://{} ({place})", server.address());
    server.run(async move { stop.wait().await }).await
}

/// Where the tracking store lies, if the environment says so.
pub fn database_of_environment() -> Option<String> {
    std::env::var("KILTER_TRACKING_DATABASE").ok().filter(|url| !url.is_empty())
}

/// Where artifacts lie, by a flag or else by the environment, which also has what the storage wants to know.
pub fn artifacts_at(flag: Option<String>, by_proxy: &ByProxy) -> Option<ArtifactsAt> {
    let url = flag.or_else(|| std::env::var("KILTER_TRACKING_ARTIFACTS").ok()).filter(|url| !url.is_empty())?;
    let properties = std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    Some(ArtifactsAt { url, properties: properties.collect(), by_proxy: by_proxy.artifacts_by_proxy })
}
