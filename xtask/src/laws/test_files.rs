//! Tests that run: where a manifest lists its test programs, each file of tests is one of them or a module of one.

use std::collections::BTreeSet;

use toml_edit::Item;

use super::Law;
use crate::house::{Breach, Crate, House};

pub const LAW: Law = Law { says: "no file of tests is passed over: each is a test program, or a module of one", check };

fn check(house: &House) -> Vec<Breach> {
    house
        .crates
        .iter()
        .flat_map(|c| passed_over(house, c))
        .map(|file| Breach::new(file, "is no test program, and no module of one"))
        .collect()
}

/// Files beside the listed test programs that none of them takes in. Where nothing is listed, cargo takes each file for a program.
fn passed_over(house: &House, c: &Crate) -> Vec<String> {
    let found_by_cargo = c.manifest.get("package").and_then(|p| p.get("autotests")).and_then(Item::as_bool).unwrap_or(true);
    if found_by_cargo {
        return Vec::new();
    }
    let folder = format!("{}/tests", c.folder);
    let listed = c.manifest.get("test").and_then(Item::as_array_of_tables);
    let programs: BTreeSet<String> =
        listed.into_iter().flatten().filter_map(|t| t.get("name")?.as_str()).map(|name| format!("{folder}/{name}.rs")).collect();
    let modules =
        programs.iter().filter_map(|program| house.text(program)).flat_map(|text| modules(&text)).map(|m| format!("{folder}/{m}.rs"));
    let taken: BTreeSet<String> = modules.chain(programs.iter().cloned()).collect();
    let beside = |file: &&str| file.strip_prefix(&folder).is_some_and(|name| name.matches('/').count() == 1);
    house.below(&folder, ".rs").into_iter().filter(beside).filter(|file| !taken.contains(*file)).map(str::to_string).collect()
}

/// The names in lines like `mod name;`.
fn modules(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).map(str::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds() {
        super::super::hold(&LAW);
    }

    #[test]
    fn a_file_that_no_program_names_is_seen() {
        let mut house = House::open();
        let c = house.crates.iter().position(|c| c.name == "kilter-runtime").unwrap();
        house.files.insert("crates/kilter-runtime/tests/forgotten.rs".into());
        house.files.insert("crates/kilter-runtime/tests/deeper/part.rs".into());
        assert_eq!(passed_over(&house, &house.crates[c]), ["crates/kilter-runtime/tests/forgotten.rs"]);
        assert_eq!(modules("//! mod no;\nmod one;\n// mod two;\nmod three;\nmod four {\n"), ["one", "three"]);
    }
}
