//! The register of laws: one file each, one line here.

mod arrows;
mod changelog;
mod decisions;
mod guests;
mod links;
mod manifests;
mod purity;
mod spine;
mod test_files;
mod top;
mod words;

use crate::house::{Breach, House};

pub struct Law {
    /// In one line, as a person would say it.
    pub says: &'static str,
    pub check: fn(&House) -> Vec<Breach>,
}

pub const ALL: &[Law] = &[
    arrows::LAW,
    guests::LAW,
    spine::LAW,
    purity::LAW,
    manifests::LAW,
    top::LAW,
    links::LAW,
    decisions::LAW,
    changelog::LAW,
    words::LAW,
    test_files::LAW,
];

/// Fails with every breach of a law.
#[cfg(test)]
fn hold(law: &Law) {
    let breaches: Vec<String> = (law.check)(&House::open()).iter().map(ToString::to_string).collect();
    assert!(breaches.is_empty(), "{}\n  {}", law.says, breaches.join("\n  "));
}
