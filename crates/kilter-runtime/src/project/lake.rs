//! `[lake]`, and what it has to do with `[log]` and the sources.

use std::collections::BTreeMap;

use kilter_core::{Problem, Span};
use schemars::JsonSchema;
use serde::Serialize;

use super::definitions::{Definitions, Size, SizeText, SpanText, Word, is_default, span};
use super::document::{At, Document};
use super::kafka::texts;
use super::reader::Reader;

/// The lake: history as Parquet files on a disk or on object storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct LakeDef {
    /// Where it lies: a folder (relative to the project's folder, or `file:///...`), `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.
    pub url: String,
    /// What it is to other programs.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(default)]
    pub format: LakeFormat,
    /// Settings of the object storage by the names of the crate `object_store`, such as `aws_region`. `${NAME}` in a value is the environment variable NAME.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(default)]
    pub properties: BTreeMap<String, String>,
    /// Longest time that a record waits before it is taken into the lake.
    #[serde(serialize_with = "span")]
    #[schemars(with = "SpanText", default = "defaults::every")]
    pub every: Span,
    /// Most records of one batch; so many are taken in at once, without waiting.
    #[schemars(range(min = 1), default = "defaults::records")]
    pub records: u64,
    /// Size up to which files of a day that is over are made one.
    #[schemars(with = "SizeText", default = "defaults::compact")]
    pub compact: Size,
    /// Days of event time older than this are taken out of the lake; left out: none are.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_span")]
    #[schemars(with = "Option<SpanText>")]
    pub retention: Option<Span>,
}

/// What a lake is to other programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LakeFormat {
    /// Parquet files in folders by source and day.
    #[default]
    Parquet,
    /// The same files, and of each source a Delta Lake table of them.
    Delta,
}

impl Word for LakeFormat {
    const WHAT: &'static str = "format";
    const WORDS: &'static [(&'static str, Self)] = &[("parquet", LakeFormat::Parquet), ("delta", LakeFormat::Delta)];
}

pub(super) mod defaults {
    use super::{Size, Span};

    pub fn every() -> Span {
        Span::HOUR
    }
    pub fn records() -> u64 {
        500_000
    }
    pub fn compact() -> Size {
        Size(128 << 20)
    }
}

pub(super) fn maybe_span<S: serde::Serializer>(value: &Option<Span>, s: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => span(value, s),
        None => s.serialize_none(),
    }
}

/// Kinds of places, by the beginning of the URL.
const KINDS: [&str; 8] = ["file", "s3", "s3a", "gs", "az", "azure", "abfs", "abfss"];

pub(super) fn read_lake(mut t: Reader<'_>) -> Option<LakeDef> {
    t.require("url", "where it lies: `url = \"s3://bucket/prefix\"`, or a folder");
    let url = t.text("url");
    if let Some(url) = &url {
        let known = url.split_once("://").is_none_or(|(kind, _)| KINDS.contains(&kind));
        if url.is_empty() || !known {
            let problem = Problem::new("bad_address", format!("\"{url}\" is no place for a lake"));
            t.wrong("url", problem.hint("a folder, or \"s3://bucket/prefix\", \"gs://bucket/prefix\", \"az://container/prefix\""));
        }
    }
    let format = t.word("format").unwrap_or_default();
    let properties = texts(&mut t);
    let every = t.span("every").unwrap_or_else(defaults::every);
    let records = t.integer("records", 1, 100_000_000).map_or_else(defaults::records, |n| n as u64);
    let compact = t.size("compact").unwrap_or_else(defaults::compact);
    let retention = t.span("retention");
    t.finish();
    Some(LakeDef { url: url?, format, properties, every, records, compact, retention })
}

/// What rests on more than one section.
pub(super) fn check(document: &Document<'_>, definitions: &Definitions) {
    let Some(_) = definitions.log.retention else { return };
    if definitions.lake.is_none() {
        let problem = Problem::new("missing", "the log may only be shortened where a lake keeps what goes");
        document.error(At::Key("log.retention"), problem.hint("add [lake] with a `url`, or leave `retention` out"));
    }
}
