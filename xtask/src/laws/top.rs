//! The root shows what the map says it shows.

use std::collections::BTreeSet;

use super::Law;
use crate::house::{Breach, House, MAP};

pub const LAW: Law = Law { says: "every folder and page at the root is named on the map", check };

/// What every checkout has, and nobody looks for on a map.
const UNREMARKABLE: [&str; 4] = [".gitignore", "Cargo.lock", "Cargo.toml", "rustfmt.toml"];

fn check(house: &House) -> Vec<Breach> {
    let page = house.text(MAP).unwrap_or_default();
    let tops: BTreeSet<String> = house
        .files
        .iter()
        .map(|file| file.split_once('/').map_or(file.clone(), |(top, _)| format!("{top}/")))
        .filter(|top| !UNREMARKABLE.contains(&top.as_str()) && top != MAP)
        .collect();
    tops.iter().filter(|top| !page.contains(top.as_str())).map(|top| Breach::new(MAP, format!("does not name `{top}`"))).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn holds() {
        super::super::hold(&super::LAW);
    }
}
