//! What a page points at is there: links between pages, paths in backticks, pages named in doc comments.

use std::path::{Component, Path};

use super::Law;
use crate::house::{Breach, House};

pub const LAW: Law = Law { says: "links and paths on pages, and pages named in the code, lead to tracked files", check };

fn check(house: &House) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for file in house.files.iter().filter(|f| f.ends_with(".md")) {
        let folder = Path::new(file).parent().unwrap_or(Path::new(""));
        for (line, text) in prose(&house.text(file).unwrap_or_default()) {
            let mut complain = |what| breaches.push(Breach::new(format!("{file}:{line}"), what));
            for target in links(&text) {
                match resolve(folder, &target) {
                    Some(path) if path.is_empty() || house.has(&path) => {}
                    _ => complain(format!("the link to `{target}` leads nowhere")),
                }
            }
            for path in paths(&text).into_iter().filter(|p| !house.has(p)) {
                complain(format!("`{path}` is not in the tree"));
            }
        }
    }
    for file in house.files.iter().filter(|f| f.ends_with(".rs")) {
        for (line, text) in house.text(file).unwrap_or_default().lines().enumerate() {
            for page in pages(text).into_iter().filter(|p| !house.has(p)) {
                breaches.push(Breach::new(format!("{file}:{}", line + 1), format!("names `{page}`, which is not in the tree")));
            }
        }
    }
    breaches
}

/// Lines outside code blocks, numbered from 1.
fn prose(page: &str) -> Vec<(usize, String)> {
    let mut in_block = false;
    let lines = page.lines().enumerate().filter(|(_, line)| {
        let fence = line.trim_start().starts_with("```");
        in_block ^= fence;
        !in_block && !fence
    });
    lines.map(|(at, line)| (at + 1, line.to_string())).collect()
}

/// Targets of `[text](target)` that lie in this repository, without their anchors.
fn links(line: &str) -> Vec<String> {
    let targets = line.match_indices("](").filter_map(|(at, _)| line[at + 2..].split_once(')').map(|(target, _)| target));
    targets
        .filter(|t| !t.contains("://") && !t.starts_with("mailto:"))
        .map(|t| t.split('#').next().unwrap_or_default().to_string())
        .collect()
}

/// A target as a path from the root; none when it leaves the repository.
fn resolve(folder: &Path, target: &str) -> Option<String> {
    if target.is_empty() {
        return Some(String::new());
    }
    let mut parts: Vec<String> = Vec::new();
    for part in folder.join(target).components() {
        match part {
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => drop(parts.pop()?),
            Component::CurDir => {}
            _ => return None,
        }
    }
    Some(parts.join("/"))
}

/// Paths from the root in backticks; with a placeholder in capitals, a star or a space it is not a path.
fn paths(line: &str) -> Vec<String> {
    const ROOTS: [&str; 8] = ["crates/", "docs/", "examples/", "xtask/", "bench/", "tests/", "changelog.d/", ".ci/"];
    let quoted = line.split('`').skip(1).step_by(2);
    quoted
        .filter(|q| ROOTS.iter().any(|root| q.starts_with(root)) && !q.contains(['*', ' ', '<', '{']) && !q.contains("NAME"))
        .map(str::to_string)
        .collect()
}

/// Pages under docs/ that a line of code names.
fn pages(line: &str) -> Vec<&str> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    line.match_indices("docs/")
        .filter(|(at, _)| !line[..*at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-'))
        .filter_map(|(at, _)| {
            let rest = &line[at..];
            let path = rest[..rest.find(|c| !is_path(c)).unwrap_or(rest.len())].trim_end_matches('.');
            path.ends_with(".md").then_some(path)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds() {
        super::super::hold(&LAW);
    }

    #[test]
    fn links_are_found_and_resolved() {
        assert_eq!(links("see [a](b.md#x), [web](https://x.org/y) and [here](#top)"), ["b.md", ""]);
        let from = Path::new("docs/guide");
        assert_eq!(resolve(from, "../reference/windows.md").as_deref(), Some("docs/reference/windows.md"));
        assert_eq!(resolve(from, "./semantics.md").as_deref(), Some("docs/guide/semantics.md"));
        assert_eq!(resolve(from, "../../../out.md"), None);
    }

    #[test]
    fn code_blocks_and_placeholders_are_free() {
        assert_eq!(prose("a\n```sh\n[x](y)\n```\nb"), [(1, "a".into()), (5, "b".into())]);
        assert_eq!(paths("in `crates/x/src/a.rs`, not `crates/*/src` nor `docs/decisions/NNNN-NAME`"), ["crates/x/src/a.rs"]);
        assert_eq!(pages("//! (docs/reference/windows.md holds it.)"), ["docs/reference/windows.md"]);
        assert_eq!(pages("include_str!(\"../../../docs/reference/windows.md\")"), ["docs/reference/windows.md"]);
    }
}
