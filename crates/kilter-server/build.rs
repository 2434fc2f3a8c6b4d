//! Takes the built dashboard (`ui/dist`, or the folder that KILTER_UI names) into the program. Without one the program builds all the same, and its
//! first page says how to get it: nobody needs Node to build Kilter.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() {
    println!("cargo:rerun-if-env-changed=KILTER_UI");
    let named = env::var_os("KILTER_UI").map(PathBuf::from);
    // As cargo says it when it runs this: checkouts that share a target folder share this program.
    let here = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).expect("cargo sets CARGO_MANIFEST_DIR");
    let root = here.join("../../ui");
    let dist = named.clone().unwrap_or_else(|| root.join("dist"));
    // Cargo runs this again each time when what it watches does not exist: then the folder is watched in which it would appear.
    if let Some(watched) = [dist.as_path(), root.as_path()].into_iter().find(|folder| folder.is_dir()) {
        println!("cargo:rerun-if-changed={}", watched.display());
    }
    println!("cargo:rerun-if-changed=build.rs");
    let mut files = Vec::new();
    if dist.is_dir() {
        gather(&dist, "", &mut files).unwrap_or_else(|e| panic!("cannot read the dashboard in {}: {e}", dist.display()));
    }
    let has_page = files.iter().any(|(name, _)| name == "index.html");
    if named.is_some() && !has_page {
        panic!("KILTER_UI names {}, which has no index.html.gz: `npm ci && npm run build` in ui/ makes one", dist.display());
    }
    files.sort();
    let mut code = String::from("&[\n");
    for (name, path) in files.iter().filter(|_| has_page) {
        writeln!(code, "    ({name:?}, include_bytes!({path:?})),").expect("a String takes any text");
    }
    code.push_str("]\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("ui.rs"), code).expect("cargo's output folder takes files");
}

/// Every compressed file below a folder: its name without `.gz`, relative to the first one, and where it lies.
fn gather(folder: &Path, below: &str, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            gather(&entry.path(), &format!("{name}/"), files)?;
        } else if let Some(name) = name.strip_suffix(".gz") {
            files.push((name.to_string(), entry.path().canonicalize()?));
        }
    }
    Ok(())
}
