//! What the spine may never rest on, at any depth, and what may be nowhere at all.

use std::path::Path;
use std::process::Command;

use super::Law;
use crate::house::{Breach, House};

pub const LAW: Law =
    Law { says: "the spine rests on no async runtime, table format, database or Python; nothing rests on a C crypto library", check };

/// By beginning of the name.
const NEVER_IN_THE_SPINE: [&str; 14] = [
    "tokio",
    "async-std",
    "hyper",
    "axum",
    "tower",
    "reqwest",
    "ureq",
    "arrow",
    "parquet",
    "datafusion",
    "sqlx",
    "libsqlite3-sys",
    "pyo3",
    "rdkafka",
];
const NOWHERE: [&str; 4] = ["aws-lc-sys", "aws-lc-rs", "openssl-sys", "openssl"];

fn check(house: &House) -> Vec<Breach> {
    let mut breaches = Vec::new();
    match tree(&house.root) {
        Ok(names) => {
            for name in names.iter().filter(|n| NEVER_IN_THE_SPINE.iter().any(|heavy| n.starts_with(heavy))) {
                breaches.push(Breach::new(
                    "crates/kilter-pipeline/Cargo.toml",
                    format!("rests on {name} (`cargo tree -p kilter-pipeline -e normal -i {name}`)"),
                ));
            }
        }
        Err(problem) => breaches.push(Breach::new("cargo tree", problem)),
    }
    let lock = house.text("Cargo.lock").unwrap_or_default();
    for (line, text) in lock.lines().enumerate() {
        if let Some(name) = NOWHERE.iter().find(|n| text == format!("name = \"{n}\"")) {
            breaches.push(Breach::new(
                format!("Cargo.lock:{}", line + 1),
                format!("{name} is in the tree; take the dependency's ring or pure-Rust feature"),
            ));
        }
    }
    breaches
}

/// Names of all packages under the pipeline.
fn tree(root: &Path) -> Result<Vec<String>, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let run = |offline: &[&str]| {
        let mut command = Command::new(&cargo);
        command.current_dir(root).args(["tree", "-p", "kilter-pipeline", "-e", "normal", "--prefix", "none", "--locked"]).args(offline);
        command.output().map_err(|e| format!("{cargo} does not start: {e}"))
    };
    // Nothing is fetched where everything is there already, which is the usual case.
    let mut out = run(&["--offline"])?;
    if !out.status.success() {
        out = run(&[])?;
    }
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).trim().replace('\n', " "));
    }
    let mut names: Vec<String> = String::from_utf8_lossy(&out.stdout)
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|n| !n.is_empty())
        .map(str::to_string)
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds() {
        super::super::hold(&LAW);
    }

    #[test]
    fn the_tree_is_really_read() {
        let names = tree(&House::open().root).unwrap();
        assert!(["kilter-core", "kilter-pipeline", "sqlparser"].iter().all(|n| names.iter().any(|name| name == n)), "{names:?}");
    }
}
