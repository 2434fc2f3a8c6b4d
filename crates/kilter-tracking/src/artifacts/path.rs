//! Paths of artifacts, which cannot leave the place of artifacts.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Bytes that one name may have, as file systems allow.
const NAME: usize = 255;
const DEPTH: usize = 64;
/// Bytes that one path may have: two of them and a folder are what file systems allow.
const LENGTH: usize = 1500;

/// A path below the folder of artifacts. One that exists has only parts that name something: it cannot climb.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArtifactPath(Vec<String>);

impl ArtifactPath {
    /// Reads a path whose URL encoding is gone; the empty one is the folder itself.
    ///
    /// # Errors
    /// What is absolute, climbs, or would climb for somebody who decodes once more.
    pub fn parse(text: &str) -> Result<ArtifactPath> {
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.is_empty() {
            return Ok(ArtifactPath::default());
        }
        let parts: Vec<String> = text.split('/').map(str::to_string).collect();
        if text.len() > LENGTH
            || parts.len() > DEPTH
            || !parts.iter().all(|part| names_a_file(part))
            || decoded(text).iter().any(|t| !t.split('/').all(names_a_file))
        {
            return Err(Error::invalid("Invalid path"));
        }
        Ok(ArtifactPath(parts))
    }

    /// A path below this one.
    pub fn join(&self, below: &ArtifactPath) -> ArtifactPath {
        ArtifactPath(self.0.iter().chain(&below.0).cloned().collect())
    }

    /// Whether it is the place `mlflow-artifacts:/a/b`, or one below or above it.
    pub fn touches(&self, location: &str) -> bool {
        !self.met(location).is_empty()
    }

    /// Whether it is the place `mlflow-artifacts:/a/b`, or one below it.
    pub fn is_within(&self, location: &str) -> bool {
        self.met(location).into_iter().any(|depth| depth <= self.0.len())
    }

    /// How deep the place is, for each reading of it that is on the same way as this path.
    fn met(&self, location: &str) -> Vec<usize> {
        let Some((_, rest)) = location.split_once(':').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("mlflow-artifacts")) else {
            return Vec::new();
        };
        // After two slashes a host comes first.
        let path = match rest.strip_prefix("//") {
            Some(after) => after.split_once('/').map_or("", |(_, path)| path),
            None => rest,
        };
        let forms = std::iter::once(path.to_string()).chain(decoded(path));
        let depth = |form: String| {
            let parts: Vec<&str> = form.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
            parts.iter().zip(&self.0).all(|(theirs, own)| theirs == own).then_some(parts.len())
        };
        forms.filter_map(depth).collect()
    }

    /// Whether it is the place of artifacts itself.
    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The last part.
    pub fn name(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    pub(super) fn below(&self, root: &Path) -> PathBuf {
        self.0.iter().fold(root.to_path_buf(), |path, part| path.join(part))
    }
}

impl std::fmt::Display for ArtifactPath {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

fn names_a_file(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && part.len() <= NAME && !part.contains(['/', '\\', '\0'])
}

/// What a text comes to when its URL encoding is taken away again and again.
fn decoded(text: &str) -> Vec<String> {
    let mut forms: Vec<String> = Vec::new();
    let mut bytes = text.as_bytes().to_vec();
    while let Some(next) = decode(&bytes) {
        forms.push(String::from_utf8_lossy(&next).into_owned());
        bytes = next;
    }
    forms
}

/// None where there is nothing to decode; what comes out is shorter.
pub(super) fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let digit = |at: usize| bytes.get(at).and_then(|b| (*b as char).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    (out.len() < bytes.len()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_knows_the_places_on_its_way() {
        for (location, within, touches) in [
            ("mlflow-artifacts:/a/b", true, true),
            ("mlflow-artifacts:/a/b c", true, true),
            ("mlflow-artifacts:/a/b%20c/", true, true),
            ("MLflow-Artifacts://host:5000//a/./b%2520c", true, true),
            ("mlflow-artifacts:/a/b c/d", true, true),
            ("mlflow-artifacts:/", true, true),
            ("mlflow-artifacts://a", true, true),
            ("mlflow-artifacts:/a/b c/d/e", false, true),
            ("mlflow-artifacts:/b", false, false),
            ("mlflow-artifacts:/a/b c/dd", false, false),
            ("s3://a/b c", false, false),
            ("/a", false, false),
        ] {
            let path = ArtifactPath::parse(if location.ends_with("/b") { "a/b/d" } else { "a/b c/d" }).unwrap();
            assert_eq!((path.is_within(location), path.touches(location)), (within, touches), "{location}");
            assert_eq!(ArtifactPath::default().touches(location), location.to_ascii_lowercase().starts_with("mlflow"), "{location}");
        }
    }

    #[test]
    fn no_form_of_climbing_is_a_path() {
        for bad in [
            "..",
            "../x",
            "a/../x",
            "/etc/passwd",
            "a//b",
            ".",
            "a/./b",
            "a\\b",
            "%2e%2e",
            "a/%2E%2e/b",
            "a%2f..%2fb",
            "%252e%252e/x",
            "a\0b",
        ] {
            assert!(ArtifactPath::parse(bad).is_err(), "{bad}");
        }
        assert!(ArtifactPath::parse(&"a/".repeat(60)).is_ok() && ArtifactPath::parse(&format!("{}/", "a".repeat(250)).repeat(20)).is_err());
        for good in ["a", "a/b.txt", "a/", "ä ö/ü", "100%", "a%zz", "...", "", "a%20b"] {
            assert!(ArtifactPath::parse(good).is_ok(), "{good}");
        }
    }

    proptest! {
        #[test]
        fn a_path_stays_below_its_root(text in "[a./%25eE\\\\\\x00 -]{0,24}") {
            if let Ok(path) = ArtifactPath::parse(&text) {
                let at = path.below(Path::new("/root-folder"));
                prop_assert!(at.starts_with("/root-folder"));
                prop_assert!(at.components().all(|c| !matches!(c, std::path::Component::ParentDir)));
            }
        }
    }
}
