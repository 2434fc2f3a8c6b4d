//! The spine is a function of what it is handed: its sources name no clock, environment, file, thread, socket or randomly ordered map.
//!
//! `clippy.toml` of each spine crate says the same with types resolved; this scan also sees code that clippy is not run on, and that
//! the five files are there and alike.

use super::Law;
use crate::house::{Breach, House};

pub const LAW: Law =
    Law { says: "the spine names no clock, environment, file, thread, socket, unseeded randomness or randomly ordered map", check };

/// Paths, and what to do instead.
const BARRED: [(&str, &str); 10] = [
    ("SystemTime", "take a `kilter_core::Clock` or an `EventTime`"),
    ("Instant", "measure in the caller"),
    ("std::env", "take the value as an argument"),
    ("std::fs", "take the bytes as an argument"),
    ("std::net", "leave sockets to the rim"),
    ("std::process", "leave processes to the rim"),
    ("std::thread", "leave threads to the rim; rayon where order cannot change a bit"),
    ("thread_rng", "use a seeded `kilter_stats::Rng`"),
    ("getrandom", "use a seeded `kilter_stats::Rng`"),
    ("RandomState", "use `foldhash::fast::FixedState`"),
];

fn check(house: &House) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut lints: Option<String> = None;
    for c in house.spine() {
        for file in house.below(&format!("{}/src", c.folder), ".rs") {
            let text = house.text(file).unwrap_or_default();
            breaches.extend(scan(&text).into_iter().map(|(line, what)| Breach::new(format!("{file}:{line}"), what)));
        }
        let path = format!("{}/clippy.toml", c.folder);
        match house.files.contains(&path).then(|| house.text(&path)).flatten() {
            None => breaches.push(Breach::new(path, "every spine crate has one")),
            Some(text) if lints.as_ref().is_some_and(|first| *first != text) => {
                breaches.push(Breach::new(path, "differs from that of the other spine crates"))
            }
            Some(text) => lints = Some(text),
        }
    }
    breaches
}

/// Line and complaint of everything barred in a source text, comments left aside.
fn scan(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    // `use std::{collections::HashMap, env};` may run over lines: names are looked for in the whole statement.
    let mut import = String::new();
    for (at, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if !import.is_empty() || code.trim_start().starts_with("use std::") || code.trim_start().starts_with("pub use std::") {
            import.push_str(code.trim());
            if !code.contains(';') {
                continue;
            }
        }
        let statement = if import.is_empty() { code.to_string() } else { flatten(&std::mem::take(&mut import)) };
        let from_std = statement.contains("std::collections") && ["HashMap", "HashSet"].iter().any(|n| has_word(&statement, n));
        if from_std {
            found.push((at + 1, "a map of std is ordered at random: use a BTreeMap, or hashbrown with a fixed hasher".into()));
        }
        for (name, instead) in BARRED.iter().filter(|(name, _)| has_word(&statement, name)) {
            found.push((at + 1, format!("names {name}: {instead}")));
        }
    }
    found
}

/// `use std::{env, fs::File};` as `std::env std::fs::File`, one level deep: enough for a scan.
fn flatten(import: &str) -> String {
    let Some((head, list)) = import.split_once("std::{") else { return import.to_string() };
    list.trim_end_matches([';', '}', ' ']).split(',').fold(head.to_string(), |all, part| format!("{all} std::{}", part.trim()))
}

fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds() {
        super::super::hold(&LAW);
    }

    fn check(code: &str, lines: &[usize]) {
        assert_eq!(scan(code).iter().map(|(line, _)| *line).collect::<Vec<_>>(), lines, "{code}");
    }

    #[test]
    fn every_way_of_naming_is_seen() {
        check("let t = std::time::Instant::now();", &[1]);
        check("use std::{\n    env,\n    sync::Arc,\n};\nfn f() {}", &[4]);
        check("use std::collections::{BTreeMap, HashMap};", &[1]);
        check("let m = std::collections::HashSet::new();", &[1]);
        check("use std::fs::File;", &[1]);
        check("rand::thread_rng()", &[1]);
    }

    #[test]
    fn comments_neighbours_and_seeded_maps_are_free() {
        check("// an Instant in a comment\n//! std::fs\nlet x = 1; // std::env", &[]);
        check("fn instants(b: std::fmt::Formatter) {}", &[]);
        check("use hashbrown::HashMap;\nuse std::collections::BTreeMap;", &[]);
        check("const PAGE: &str = env!(\"CARGO_MANIFEST_DIR\");", &[]);
    }
}
