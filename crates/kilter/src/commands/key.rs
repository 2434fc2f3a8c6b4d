//! `kilter key`: who may do what on a server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use kilter_core::{EventTime, Span};
use kilter_runtime::project::Project;
use kilter_server::access::keys::{self, FILE, Key, NewKey, Role};
use serde_json::json;

use crate::api::{load, visible};
use crate::commands::table;
use crate::sql::check_grants;

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
        #[arg(long, value_parser = role, required_unless_present_any = ["experiment", "model", "sql"])]
        role: Option<Role>,
        /// A role for one experiment, by its name or id, instead of `--role`; may be given several times. Without `--role` it has none elsewhere.
        #[arg(long, value_name = "NAME=ROLE", value_parser = named)]
        experiment: Vec<(String, Role)>,
        /// The same for one model, of the project or registered by MLflow's clients, by its name.
        #[arg(long, value_name = "NAME=ROLE", value_parser = named)]
        model: Vec<(String, Role)>,
        /// What it may see in SQL, instead of everything: a table, columns of it and rows of it, such as "events.payments (id, time, amount) WHERE country = 'DE'",
        /// "decisions", or "features.*" for all tables of a schema; may be given several times. Rows of several grants for one table count together.
        #[arg(long, value_name = "GRANT")]
        sql: Vec<String>,
        /// How long it is good for, such as 90d; left out: until it is revoked.
        #[arg(long, value_name = "TIME", value_parser = lasts)]
        expires: Option<Span>,
    },
    /// Lists the keys with what they may do.
    List {
        #[arg(long)]
        json: bool,
    },
    /// Changes what a key may see in SQL: a running server goes by it a second later.
    Sql {
        /// The name it was made with.
        name: String,
        /// All that it may see from now on, as `kilter key create --sql` takes it.
        #[arg(value_name = "GRANT", required_unless_present_any = ["by_role", "nothing"], conflicts_with_all = ["by_role", "nothing"])]
        grants: Vec<String>,
        /// Takes its grants away: with the role `read` everywhere it sees everything, else nothing.
        #[arg(long, conflicts_with = "nothing")]
        by_role: bool,
        /// Nothing, whatever its role.
        #[arg(long)]
        nothing: bool,
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

pub async fn run(dir: &Path, args: Args) -> anyhow::Result<()> {
    let (folder, project) = match args.data {
        Some(folder) => (folder, None),
        None => {
            let project = load(dir).context("keys are kept in the data folder\n  hint: `--data` names that of `kilter tracking`")?;
            (project.data_dir(), Some(project))
        }
    };
    match args.task {
        Task::Create { name, role, experiment, model, sql, expires } => {
            checked(project, &sql).await?;
            let new = NewKey {
                name: name.clone(),
                role: role.unwrap_or(Role::None),
                experiments: experiment.into_iter().collect(),
                models: model.into_iter().collect(),
                grants: (!sql.is_empty()).then_some(sql),
                lasts: expires,
            };
            let secret = keys::create(&folder, new)?;
            // Alone on standard output, so that a script can take it.
            println!("{secret}");
            eprintln!("key `{name}` is in {}, as a hash: it is shown this once", folder.join(FILE).display());
            Ok(())
        }
        Task::List { json } => list(&folder, json),
        Task::Sql { name, grants, by_role, nothing } => {
            checked(project, &grants).await?;
            let count = grants.len();
            keys::grant(&folder, &name, (!by_role).then_some(grants))?;
            match (by_role, nothing) {
                (true, _) => println!("key `{name}` sees in SQL what its role gives"),
                (_, true) => println!("key `{name}` sees nothing in SQL"),
                _ => println!("key `{name}` has {count} grant{}, and sees nothing else in SQL", if count == 1 { "" } else { "s" }),
            }
            Ok(())
        }
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

/// Holds grants against the project's tables, where it is known which they are.
async fn checked(project: Option<Project>, grants: &[String]) -> anyhow::Result<()> {
    if project.is_none() && !grants.is_empty() {
        eprintln!(
            "without the project, whose tables are not known here, only the text of grants is looked at: one that fits no table shows nothing"
        );
    }
    check_grants(project, grants).await
}

fn list(folder: &Path, as_json: bool) -> anyhow::Result<()> {
    let keys = keys::list(folder)?.unwrap_or_default();
    let time = |time: &EventTime| time.to_string();
    if as_json {
        let one = |key: &Key| {
            json!({
                "name": key.name, "role": key.role, "experiments": key.experiments, "models": key.models, "grants": key.grants.as_deref(),
                "created": time(&key.created), "expires": key.expires.as_ref().map(time),
            })
        };
        println!("{}", serde_json::to_string_pretty(&keys.iter().map(one).collect::<Vec<_>>())?);
        return Ok(());
    }
    let mut out = table(&["key", "role", "experiments", "models", "SQL", "made", "good until"]);
    for key in &keys {
        let until = key.expires.as_ref().map(time).unwrap_or_default();
        let sql = match key.grants.as_deref() {
            None => String::new(),
            Some([]) => "nothing".into(),
            Some(grants) => grants.iter().map(|grant| visible(grant)).collect::<Vec<_>>().join("\n"),
        };
        out.add_row([
            key.name.clone(),
            key.role.as_str().into(),
            listed(&key.experiments),
            listed(&key.models),
            sql,
            time(&key.created),
            until,
        ]);
    }
    println!("{out}");
    Ok(())
}
