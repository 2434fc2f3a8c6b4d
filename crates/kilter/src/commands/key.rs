//! `kilter key`: who may do what on a server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use kilter_core::{EventTime, Span};
use kilter_server::access::keys::{self, FILE, Key, NewKey, Role};
use serde_json::json;

use crate::api::load;
use crate::commands::table;

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    task: Task,
    /// The data folder of `kilter tracking`; left out: the project's.
    #[arg(long, global = true, value_name = "FOLDER")]
    data: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Task {
    /// Makes a key and prints it, this once. From the first one on the server answers nobody without a key.
    Create {
        /// What the key is called in the log, and when it is revoked.
        name: String,
        /// read: ask; write: send events, ask for decisions, log runs too; manage: change what is in service and take things away too.
        #[arg(long, value_parser = role, required_unless_present_any = ["experiment", "model"])]
        role: Option<Role>,
        /// A role for one experiment, by its name or id, instead of `--role`; may be given several times. Without `--role` it has none elsewhere.
        #[arg(long, value_name = "NAME=ROLE", value_parser = named)]
        experiment: Vec<(String, Role)>,
        /// The same for one model, of the project or registered by MLflow's clients, by its name.
        #[arg(long, value_name = "NAME=ROLE", value_parser = named)]
        model: Vec<(String, Role)>,
        /// How long it is good for, such as 90d; left out: until it is revoked.
        #[arg(long, value_name = "TIME", value_parser = lasts)]
        expires: Option<Span>,
    },
    /// Lists the keys with what they may do.
    List {
        #[arg(long)]
        json: bool,
    },
    /// Takes a key away: a running server refuses it a second later.
    Revoke {
        /// The name it was made with.
        name: String,
    },
}

fn role(word: &str) -> Result<Role, String> {
    Role::parse(word).ok_or_else(|| format!("the roles are {}", Role::ALL.map(|(_, word)| word).join(", ")))
}

fn named(text: &str) -> Result<(String, Role), String> {
    let (name, word) = text.rsplit_once('=').filter(|(name, _)| !name.is_empty()).ok_or("write it like NAME=read")?;
    Ok((name.into(), role(word)?))
}

/// `a=read, b=write`.
fn listed(roles: &BTreeMap<String, Role>) -> String {
    let of = |(name, role): (&String, &Role)| format!("{name}={}", role.as_str());
    roles.iter().map(of).collect::<Vec<_>>().join(", ")
}

fn lasts(text: &str) -> Result<Span, String> {
    Span::parse(text).filter(|span| span.0 > 0).ok_or_else(|| "write it like 90d, 12h, 30m".into())
}

pub fn run(dir: &Path, args: Args) -> anyhow::Result<()> {
    let folder = match args.data {
        Some(folder) => folder,
        None => load(dir).context("keys are kept in the data folder\n  hint: `--data` names that of `kilter tracking`")?.data_dir(),
    };
    match args.task {
        Task::Create { name, role, experiment, model, expires } => {
            let new = NewKey {
                name: name.clone(),
                role: role.unwrap_or(Role::None),
                experiments: experiment.into_iter().collect(),
                models: model.into_iter().collect(),
                lasts: expires,
            };
            let secret = keys::create(&folder, new)?;
            // Alone on standard output, so that a script can take it.
            println!("{secret}");
            eprintln!("key `{name}` is in {}, as a hash: it is shown this once", folder.join(FILE).display());
            Ok(())
        }
        Task::List { json } => list(&folder, json),
        Task::Revoke { name } => {
            let left = keys::revoke(&folder, &name)?;
            println!("key `{name}` is revoked");
            if left == 0 {
                println!(
                    "no key is left, and nobody gets in: without {} a server on loopback is open again, once it is started anew",
                    FILE
                );
            }
            Ok(())
        }
    }
}

fn list(folder: &Path, as_json: bool) -> anyhow::Result<()> {
    let keys = keys::list(folder)?.unwrap_or_default();
    let time = |time: &EventTime| time.to_string();
    if as_json {
        let one = |key: &Key| {
            json!({
                "name": key.name, "role": key.role, "experiments": key.experiments, "models": key.models,
                "created": time(&key.created), "expires": key.expires.as_ref().map(time),
            })
        };
        println!("{}", serde_json::to_string_pretty(&keys.iter().map(one).collect::<Vec<_>>())?);
        return Ok(());
    }
    let mut out = table(&["key", "role", "experiments", "models", "made", "good until"]);
    for key in &keys {
        let until = key.expires.as_ref().map(time).unwrap_or_default();
        out.add_row([key.name.clone(), key.role.as_str().into(), listed(&key.experiments), listed(&key.models), time(&key.created), until]);
    }
    println!("{out}");
    Ok(())
}
