//! Decision records: numbered without gaps, each with the same four headings.

use super::Law;
use crate::house::{Breach, House};

pub const LAW: Law = Law { says: "decision records are numbered without gaps and say status, context, choice and price", check };

const FOLDER: &str = "docs/decisions";
const HEADINGS: [&str; 4] = ["## Status", "## Context", "## Choice", "## Price"];

fn check(house: &House) -> Vec<Breach> {
    let mut breaches = Vec::new();
    for (number, file) in house.below(FOLDER, "").into_iter().enumerate() {
        let name = file.rsplit('/').next().unwrap_or_default();
        let expected = format!("{:04}-", number + 1);
        if !name.starts_with(&expected) || !is_slug(&name[expected.len()..]) {
            breaches.push(Breach::new(file, format!("the next record is named {expected}some-words.md")));
        }
        breaches.extend(shape(&house.text(file).unwrap_or_default()).into_iter().map(|what| Breach::new(file, what)));
    }
    breaches
}

/// `some-words.md`.
pub fn is_slug(name: &str) -> bool {
    name.strip_suffix(".md").is_some_and(|s| !s.is_empty() && s.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'))
}

fn shape(text: &str) -> Vec<String> {
    let found: Vec<&str> = text.lines().filter(|l| l.starts_with("## ")).map(str::trim_end).collect();
    let mut wrong = Vec::new();
    if found != HEADINGS {
        wrong.push(format!("its headings are {found:?}, not {HEADINGS:?}"));
    }
    if !text.starts_with("# ") {
        wrong.push("it does not begin with a title".into());
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds() {
        super::super::hold(&LAW);
    }

    #[test]
    fn a_record_without_its_price_is_seen() {
        assert!(shape("# T\n## Status\nx\n## Context\n## Choice\n## Price\n").is_empty());
        assert_eq!(shape("## Status\n## Context\n## Choice\n").len(), 2);
        assert!(is_slug("window-formula-2.md") && !is_slug("Window.md") && !is_slug(".md"));
    }
}
