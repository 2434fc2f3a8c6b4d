//! Manifests: names, descriptions, versions in one place, and no dependency that nobody uses.

use toml_edit::{Item, TableLike};

use super::Law;
use crate::house::{Breach, Crate, House, tables};

pub const LAW: Law =
    Law { says: "manifests are tidy: folder = name, a description, versions in the workspace only, nothing unused", check };

const KINDS: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

fn check(house: &House) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for c in &house.crates {
        let mut breach = |what: String| breaches.push(Breach::new(c.manifest_path(), what));
        if c.folder.rsplit('/').next() != Some(c.name.as_str()) {
            breach(format!("the folder is not named {}", c.name));
        }
        let package = c.manifest.get("package").and_then(Item::as_table_like);
        if package.and_then(|p| p.get("description")).and_then(Item::as_str).is_none_or(str::is_empty) {
            breach("has no description".into());
        }
        for key in ["version", "edition", "rust-version", "license"] {
            if package.is_none_or(|p| !from_workspace(p, key)) {
                breach(format!("`{key}` is not taken from the workspace"));
            }
        }
        if c.manifest.get("lints").and_then(Item::as_table_like).is_none_or(|l| l.get("workspace").and_then(Item::as_bool) != Some(true)) {
            breach("does not take the workspace's lints".into());
        }
        for table in KINDS.iter().flat_map(|kind| tables(&c.manifest, kind)) {
            for (name, _) in table.iter().filter(|(name, _)| !from_workspace(table, name)) {
                breach(format!("`{name}` does not say `workspace = true`: its version and path belong to the root's Cargo.toml"));
            }
        }
        for name in unnamed(house, c) {
            breach(format!("`{name}` is named nowhere in the code"));
        }
    }
    breaches.extend(unused(house));
    breaches
}

fn from_workspace(table: &dyn TableLike, key: &str) -> bool {
    table.get(key).and_then(|item| item.get("workspace")).and_then(Item::as_bool) == Some(true)
}

/// Dependencies whose name the crate's code does not have.
fn unnamed<'a>(house: &House, c: &'a Crate) -> Vec<&'a String> {
    let texts = |folders: &[&str]| -> Vec<String> {
        let files = folders.iter().flat_map(|f| house.below(&format!("{}/{f}", c.folder), ".rs"));
        files.filter_map(|file| house.text(file)).collect()
    };
    let (own, all) = (texts(&["src"]), texts(&["src", "tests", "examples", "benches"]));
    let absent = |name: &String, texts: &[String]| !texts.iter().any(|t| t.contains(&name.replace('-', "_")));
    let of_code = c.dependencies.iter().filter(|name| absent(name, &own));
    of_code.chain(c.dev_dependencies.iter().filter(|name| absent(name, &all))).collect()
}

/// Entries of the workspace's list that no crate takes.
fn unused(house: &House) -> Vec<Breach> {
    let listed = house.workspace.get("workspace").and_then(|w| w.get("dependencies")).and_then(Item::as_table_like);
    let taken = |name: &str| house.crates.iter().any(|c| c.dependencies.contains(name) || c.dev_dependencies.contains(name));
    let names = listed.into_iter().flat_map(|t| t.iter()).map(|(name, _)| name).filter(|name| !taken(name));
    names.map(|name| Breach::new("Cargo.toml", format!("no crate uses `{name}` of [workspace.dependencies]"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use toml_edit::DocumentMut;

    #[test]
    fn holds() {
        super::super::hold(&LAW);
    }

    #[test]
    fn a_version_of_its_own_is_seen() {
        let text = "[dependencies]\na.workspace = true\nb = \"1\"\nc = { workspace = true, features = [\"x\"] }\n[target.'cfg(unix)'.dependencies]\nd = { path = \"../d\" }\n";
        let manifest: DocumentMut = text.parse().unwrap();
        let tables = tables(&manifest, "dependencies");
        let own: Vec<&str> = tables.iter().flat_map(|t| t.iter().map(|(n, _)| n).filter(|n| !from_workspace(*t, n))).collect();
        assert_eq!(own, ["b", "d"]);
    }
}
