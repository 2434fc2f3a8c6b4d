//! Changelog fragments: `NNNN-slug.md`, one change each, so that parallel work does not collide.

use std::collections::BTreeMap;

use super::Law;
use super::decisions::is_slug;
use crate::house::{Breach, House};

pub const LAW: Law = Law { says: "changelog fragments are named NNNN-some-words.md, begin with their kind, and share no number", check };

const KINDS: [&str; 5] = ["added", "changed", "fixed", "removed", "breaking"];

fn check(house: &House) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut numbers: BTreeMap<&str, &str> = BTreeMap::new();
    for file in house.below("changelog.d", "").into_iter().filter(|f| *f != "changelog.d/README.md") {
        let name = file.rsplit('/').next().unwrap_or_default();
        let fits = name.split_once('-').filter(|(n, slug)| n.len() == 4 && n.bytes().all(|b| b.is_ascii_digit()) && is_slug(slug));
        match fits {
            None => breaches.push(Breach::new(file, "fragments are named NNNN-some-words.md")),
            Some((number, _)) => {
                if let Some(other) = numbers.insert(number, file) {
                    breaches.push(Breach::new(file, format!("has the number of {other}")));
                }
            }
        }
        if !begins_with_kind(&house.text(file).unwrap_or_default()) {
            breaches.push(Breach::new(file, format!("its first word is one of: {}", KINDS.join(", "))));
        }
    }
    breaches
}

fn begins_with_kind(text: &str) -> bool {
    text.split_once(':').is_some_and(|(kind, rest)| KINDS.contains(&kind) && !rest.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds() {
        super::super::hold(&LAW);
    }

    #[test]
    fn a_fragment_says_its_kind_first() {
        assert!(begins_with_kind("added: a thing\n"));
        assert!(!begins_with_kind("A thing: added\n") && !begins_with_kind("added:\n"));
    }
}
