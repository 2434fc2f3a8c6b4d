//! The checkout as the laws see it: tracked files, manifests, and the map in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use toml_edit::{DocumentMut, Item, TableLike};

pub const MAP: &str = "ARCHITECTURE.md";

pub struct House {
    pub root: PathBuf,
    /// Files tracked by git that are there, relative to the root, in order.
    pub files: BTreeSet<String>,
    pub workspace: DocumentMut,
    pub crates: Vec<Crate>,
    pub map: Map,
}

/// One crate as its manifest has it.
pub struct Crate {
    pub name: String,
    /// Relative to the root.
    pub folder: String,
    pub manifest: DocumentMut,
    pub dependencies: BTreeSet<String>,
    pub dev_dependencies: BTreeSet<String>,
}

/// The table of crates in ARCHITECTURE.md.
#[derive(Debug, Default, PartialEq)]
pub struct Map {
    pub rooms: BTreeMap<String, Room>,
    /// Third-party crates that tests of any crate may use.
    pub test_guests: BTreeSet<String>,
}

/// One row of the table.
#[derive(Debug, Default, PartialEq)]
pub struct Room {
    pub floor: u32,
    pub imports: BTreeSet<String>,
    pub guests: BTreeSet<String>,
}

/// One place that breaks a law.
#[derive(Debug, PartialEq, Eq)]
pub struct Breach {
    pub place: String,
    pub what: String,
}

impl Breach {
    pub fn new(place: impl Into<String>, what: impl Into<String>) -> Breach {
        Breach { place: place.into(), what: what.into() }
    }
}

impl std::fmt::Display for Breach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

impl House {
    /// The checkout that cargo runs this program in, else the one it was built in. Panics when it is no checkout of Kilter: there is nothing to judge then.
    pub fn open() -> House {
        // As cargo says it when it runs this: checkouts that share a target folder share the binary.
        let xtask = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
        let root = Path::new(&xtask).parent().expect("xtask lies in the workspace").to_path_buf();
        let files = tracked(&root);
        let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path} cannot be read: {e}"));
        let parse = |path: &str| read(path).parse::<DocumentMut>().unwrap_or_else(|e| panic!("{path}: {e}"));
        let crates = files
            .iter()
            .filter_map(|file| file.strip_suffix("/Cargo.toml"))
            .filter(|folder| *folder == "xtask" || folder.strip_prefix("crates/").is_some_and(|rest| !rest.contains('/')))
            .map(|folder| Crate::new(folder, parse(&format!("{folder}/Cargo.toml"))))
            .collect();
        House { workspace: parse("Cargo.toml"), crates, map: Map::parse(&read(MAP)), files, root }
    }

    /// The text of a tracked file; none when it is not text.
    pub fn text(&self, file: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(file)).ok()
    }

    /// Tracked files below a folder with an ending.
    pub fn below(&self, folder: &str, ending: &str) -> Vec<&str> {
        let inside = |file: &&str| file.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')) && file.ends_with(ending);
        self.files.iter().map(String::as_str).filter(inside).collect()
    }

    /// Whether git tracks this file, or something in this folder.
    pub fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        self.files.contains(path) || self.files.range(format!("{path}/")..).next().is_some_and(|f| f.starts_with(&format!("{path}/")))
    }

    /// The pure crates: the pipeline and all it rests on.
    pub fn spine(&self) -> Vec<&Crate> {
        let mut names = BTreeSet::from(["kilter-pipeline"]);
        let mut open = vec!["kilter-pipeline"];
        while let Some(name) = open.pop() {
            let imports = self.map.rooms.get(name).into_iter().flat_map(|room| &room.imports);
            open.extend(imports.map(String::as_str).filter(|import| names.insert(import)));
        }
        self.crates.iter().filter(|c| names.contains(c.name.as_str())).collect()
    }

    /// Whether a name is that of a crate of this workspace.
    pub fn is_own(&self, name: &str) -> bool {
        self.crates.iter().any(|c| c.name == name)
    }
}

impl Crate {
    fn new(folder: &str, manifest: DocumentMut) -> Crate {
        let name = manifest.get("package").and_then(|p| p.get("name")).and_then(Item::as_str).unwrap_or_default().to_string();
        let names = |section| tables(&manifest, section).into_iter().flat_map(|t| t.iter().map(|(name, _)| name.to_string())).collect();
        Crate {
            name,
            folder: folder.to_string(),
            dependencies: names("dependencies"),
            dev_dependencies: names("dev-dependencies"),
            manifest,
        }
    }

    pub fn manifest_path(&self) -> String {
        format!("{}/Cargo.toml", self.folder)
    }
}

/// The tables of one kind of dependency, those of single platforms too.
pub fn tables<'a>(manifest: &'a DocumentMut, section: &str) -> Vec<&'a dyn TableLike> {
    let platforms = manifest.get("target").and_then(Item::as_table_like);
    let of_platforms = platforms.into_iter().flat_map(|t| t.iter()).filter_map(|(_, platform)| platform.get(section));
    manifest.get(section).into_iter().chain(of_platforms).filter_map(Item::as_table_like).collect()
}

impl Map {
    /// Reads the table whose header begins with `crate` and `floor`. Names in it may leave out `kilter-`.
    pub fn parse(page: &str) -> Map {
        let mut map = Map::default();
        let rows = page
            .lines()
            .skip_while(|line| cells(line).first().map(String::as_str) != Some("crate"))
            .skip(2)
            .map_while(|line| line.starts_with('|').then(|| cells(line)));
        for row in rows {
            let [name, floor, _, imports, guests] = row.as_slice() else {
                panic!("{MAP}: a row of the table of crates has {} columns: {row:?}", row.len());
            };
            if name == "tests of any crate" {
                map.test_guests = names(guests).collect();
                continue;
            }
            let floor = floor.parse().unwrap_or_else(|_| panic!("{MAP}: floor `{floor}` of {name} is no number"));
            let imports = names(imports).map(|n| if n == "kilter" { n } else { format!("kilter-{n}") }).collect();
            map.rooms.insert(name.clone(), Room { floor, imports, guests: names(guests).collect() });
        }
        assert!(!map.rooms.is_empty(), "{MAP} has no table of crates");
        map
    }
}

fn cells(line: &str) -> Vec<String> {
    line.trim().trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_string()).collect()
}

fn names(cell: &str) -> impl Iterator<Item = String> {
    cell.split(',').map(|n| n.trim().to_string()).filter(|n| !n.is_empty() && n != "none")
}

/// What git tracks; all files but build output where there is no git, as in an unpacked archive.
fn tracked(root: &Path) -> BTreeSet<String> {
    let git = Command::new("git").arg("-C").arg(root).args(["ls-files", "-z"]).output();
    let listed = git.ok().filter(|out| out.status.success() && !out.stdout.is_empty());
    let files = match listed {
        Some(out) => String::from_utf8_lossy(&out.stdout).split('\0').filter(|f| !f.is_empty()).map(str::to_string).collect(),
        None => {
            let mut files = BTreeSet::new();
            walk(root, "", &mut files);
            files
        }
    };
    files.into_iter().filter(|f: &String| root.join(f).is_file()).collect()
}

fn walk(root: &Path, folder: &str, files: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        if entry.path().is_dir() {
            if !["target", "kilter-data", ".git", ".venv", "__pycache__"].contains(&name.as_str()) {
                walk(root, &path, files);
            }
        } else {
            files.insert(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_read_from_its_table_alone() {
        let page = "| law | check |\n|---|---|\n| a | b |\n\n\
                    | crate | floor | purpose | imports | third-party |\n|---|---|---|---|---|\n\
                    | `kilter-core` | 1 | words | none | serde, jiff |\n| kilter-x | 2 | y | core | none |\n\
                    | tests of any crate | | | | proptest |\n\nafter | it\n";
        let set = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<BTreeSet<_>>();
        let map = Map::parse(page);
        assert_eq!(map.test_guests, set(&["proptest"]));
        assert_eq!(map.rooms.len(), 2);
        assert_eq!(map.rooms["kilter-core"], Room { floor: 1, imports: set(&[]), guests: set(&["jiff", "serde"]) });
        assert_eq!(map.rooms["kilter-x"], Room { floor: 2, imports: set(&["kilter-core"]), guests: set(&[]) });
    }
}
