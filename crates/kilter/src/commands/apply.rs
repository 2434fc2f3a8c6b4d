//! `kilter apply`: the running server takes up the changed definitions without a stop.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use kilter_runtime::Data;
use kilter_runtime::eras::short;
use kilter_runtime::project::Project;
use serde_json::Value;

use crate::api::{ADDRESS_FILE, Client, is_locked, load};
use crate::commands::grouped;
use crate::commands::plan::bar;

#[derive(clap::Args)]
pub struct Args {
    /// Begin and do not wait for the end; `/v1/status` says how far it is.
    #[arg(long)]
    detach: bool,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
}

/// How often the server is asked how far it is.
const LOOK: Duration = Duration::from_millis(100);

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<()> {
    // What is wrong with the file is said before anybody is asked.
    let project = load(dir)?;
    let data = project.data_dir();
    let listen = std::fs::read_to_string(data.join(ADDRESS_FILE)).unwrap_or_else(|_| project.settings.server.listen.clone());
    let address: SocketAddr = listen.trim().parse().with_context(|| format!("`{listen}` is no address"))?;
    let client = if is_own(address, &project).await { Client::new(address) } else { Client::without_key(address) };
    tokio::task::spawn_blocking(move || {
        if let Err(e) = client.is_healthy() {
            anyhow::bail!(
                "no running kilter answers on {} ({e})\n  hint: `kilter up` takes up the changed file at its start; `kilter plan` shows \
                 what it will do",
                listen.trim()
            );
        }
        apply(&client, &args)
    })
    .await?
}

/// Whether who answers there may be told the key: this machine, or the server that has the project open. An address that a server left behind may be another
/// machine's by now.
async fn is_own(address: SocketAddr, project: &Project) -> bool {
    let is_held = async || project.data_dir().join("events").is_dir() && Data::open(project).await.is_err_and(|e| is_locked(&e));
    address.ip().is_loopback() || address.ip().is_unspecified() || is_held().await
}

fn apply(client: &Client, args: &Args) -> anyhow::Result<()> {
    let mut now = client.post("/v1/project/apply", b"")?;
    let bar = bar();
    while now["phase"] == "filling" && !args.detach {
        bar.set_length(now["end"].as_u64().unwrap_or(0));
        bar.set_position(now["offset"].as_u64().unwrap_or(0));
        std::thread::sleep(LOOK);
        now = client.get("/v1/status")?["apply"].clone();
    }
    bar.finish_and_clear();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&now)?);
    }
    let text = |key: &str| now[key].as_str().unwrap_or_default();
    match text("phase") {
        "failed" => anyhow::bail!("nothing has changed: {}", text("error")),
        _ if args.json => {}
        "filling" => println!("definitions {} are being filled; `/v1/status` says how far", short(text("to"))),
        _ => say_done(&now),
    }
    Ok(())
}

fn say_done(now: &Value) {
    let text = |key: &str| short(now[key].as_str().unwrap_or_default()).to_string();
    let seconds = now["seconds"].as_f64().unwrap_or(0.0);
    match text("from") == text("to") {
        true => println!("the file is taken up; results stay as they are (definitions {})", text("to")),
        false => println!(
            "definitions {} are in force after offset {}, in place of {}, after {seconds:.1} s",
            text("to"),
            grouped(now["swapped_at"].as_u64().unwrap_or(0)),
            text("from")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_key_goes_to_this_machine_and_to_the_server_that_has_the_project_open() {
        let dir = tempfile::tempdir().unwrap();
        let file = "[project]\nname = \"keys\"\n[source.clicks]\ntime = \"at\"\ncolumns = { at = \"timestamp\" }\n";
        std::fs::write(dir.path().join("kilter.toml"), file).unwrap();
        let project = load(dir.path()).unwrap();
        let is_own = async |address: &str| is_own(address.parse().unwrap(), &project).await;
        for here in ["127.0.0.1:8080", "[::1]:8080", "0.0.0.0:8080", "[::]:8080"] {
            assert!(is_own(here).await, "{here}");
        }
        let elsewhere = "192.0.2.1:8080";
        assert!(!is_own(elsewhere).await && !project.data_dir().exists(), "nothing was ever open there, and nothing is made");
        let data = Data::open(&project).await.unwrap();
        assert!(is_own(elsewhere).await, "a server holds the project, and wrote the address down");
        drop(data);
        assert!(!is_own(elsewhere).await, "the address was left behind");
    }
}
