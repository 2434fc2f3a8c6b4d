//! What the spine may never rest on, at any depth, and what may be nowhere at all.

use std::path::Path;
use std::process::Command;

use super::Law;
use crate::house::{Breach, House};

pub const LAW: Law = Law {
    says: "the spine rests on no async runtime, table format, database or Python; nothing but Kafka's TLS rests on a C crypto library",
    check,
};

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
/// Kafka's client knows no other TLS; behind the feature `kafka-tls`, which is off by default.
const ALLOWED: [(&str, &str); 1] = [("rdkafka-sys", "openssl-sys")];

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
    for (name, user) in unwanted(&house.text("Cargo.lock").unwrap_or_default()) {
        breaches.push(Breach::new("Cargo.lock", format!("{user} rests on {name}; take its ring or pure-Rust feature")));
    }
    breaches
}

/// Who rests on a C crypto library, but for what may.
fn unwanted(lock: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for package in lock.split("[[package]]").skip(1) {
        let user = package.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).unwrap_or_default();
        let uses = package.split_once("dependencies = [").map_or("", |(_, rest)| rest);
        for line in uses.lines().map(|line| line.trim().trim_matches([',', '"'])) {
            let used = line.split(' ').next().unwrap_or_default();
            if let Some(name) = NOWHERE.iter().find(|name| **name == used)
                && !ALLOWED.contains(&(user, name))
            {
                found.push((*name, user));
            }
        }
    }
    found
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
    fn a_c_library_is_found_wherever_it_is_used_but_where_it_may_be() {
        let lock = "[[package]]\nname = \"rdkafka-sys\"\ndependencies = [\n \"libc\",\n \"openssl-sys\",\n]\n\n\
                    [[package]]\nname = \"client\"\ndependencies = [\n \"openssl-sys 0.9.1\",\n]\n";
        assert_eq!(unwanted(lock), [("openssl-sys", "client")]);
    }

    #[test]
    fn the_tree_is_really_read() {
        let names = tree(&House::open().root).unwrap();
        assert!(["kilter-core", "kilter-pipeline", "sqlparser"].iter().all(|n| names.iter().any(|name| name == n)), "{names:?}");
    }
}
