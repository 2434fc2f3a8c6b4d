//! `[kafka]`, what a source says of its topic, and `[sink.NAME]`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use kilter_core::{EventTime, Problem, list};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::definitions::{Connector, Definitions, OneOrMore, Word, is_default};
use super::document::{At, Document, join};
use super::reader::Reader;

/// The Kafka cluster that sources with the connector `kafka` and sinks speak to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct KafkaDef {
    /// `host:port` of one or more brokers to begin with.
    #[schemars(with = "OneOrMore")]
    pub brokers: Vec<String>,
    /// The consumer group under which positions are told to Kafka; left out: the project's name.
    pub group: Option<String>,
    /// Properties of the client library (librdkafka) by their own names, such as `security.protocol`. `${NAME}` in a value is the environment variable NAME.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(default)]
    pub properties: BTreeMap<String, String>,
}

/// Where a source begins with a partition that it has not read before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    #[default]
    Earliest,
    Latest,
    /// At the first record with this timestamp or a later one.
    At(EventTime),
}

/// Where something that Kilter makes goes: a Kafka topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct SinkDef {
    /// What goes there: `decision.NAME`, `decision.*` or `dead_letters`.
    pub from: String,
    /// The topic.
    pub topic: String,
    /// Column of the decision's source that is the records' key; left out: the decision's id.
    pub key: Option<String>,
    /// What a consumer can rely on.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(default)]
    pub delivery: Delivery,
    /// Partitions the topic is made with where it is not there; left out: it must be there.
    pub partitions: Option<u32>,
    /// Copies of each partition the topic is made with; left out: as the brokers are set.
    pub replication: Option<u32>,
    /// For people.
    pub description: Option<String>,
}

/// What a consumer of a sink's topic can rely on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Every record at least once; one that comes again has the same id and bytes. The lowest latency.
    #[default]
    Idempotent,
    /// Every record exactly once to consumers that read committed records only.
    Transactional,
}

impl Word for Delivery {
    const WHAT: &'static str = "delivery";
    const WORDS: &'static [(&'static str, Self)] = &[("idempotent", Delivery::Idempotent), ("transactional", Delivery::Transactional)];
}

/// What a sink is fed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feed {
    /// Decisions of this name; none: all of them.
    Decisions(Option<String>),
    DeadLetters,
}

impl SinkDef {
    /// None where the text names none of them.
    pub fn feed(&self) -> Option<Feed> {
        match self.from.as_str() {
            "dead_letters" => Some(Feed::DeadLetters),
            "decision.*" => Some(Feed::Decisions(None)),
            from => Some(Feed::Decisions(Some(from.strip_prefix("decision.")?.to_owned()))),
        }
    }
}

/// What a source says of its topic.
pub(super) struct Topic {
    pub topic: Option<String>,
    pub start: Start,
}

/// Reads the keys that only a source with the connector `kafka` may have.
pub(super) fn read_topic(t: &mut Reader<'_>, connector: Option<Connector>, knows_connector: bool) -> Topic {
    let topic = t.text("topic");
    let start = t.text("start");
    if connector == Some(Connector::Kafka) {
        t.require("topic", "the topic to read: `topic = \"transactions\"`");
        if let Some(topic) = &topic {
            check_topic(t, topic);
        }
    } else if knows_connector {
        for key in ["topic", "start"] {
            if t.has(key) {
                let problem = Problem::new("misplaced", format!("`{key}` is for the connector \"kafka\""));
                t.document.error(At::Key(&t.at(key)), problem.hint("add `connector = \"kafka\"`, or leave it out"));
            }
        }
    }
    let start = match start.as_deref() {
        None | Some("earliest") => Start::Earliest,
        Some("latest") => Start::Latest,
        Some(text) => match EventTime::parse(text) {
            Some(time) => Start::At(time),
            None => {
                let problem = Problem::new("bad_start", format!("\"{text}\" is no place in a topic"));
                t.wrong("start", problem.hint("\"earliest\", \"latest\", or a time such as \"2026-03-01T00:00:00Z\""));
                Start::Earliest
            }
        },
    };
    Topic { topic, start }
}

/// The names that brokers take.
fn check_topic(t: &Reader<'_>, topic: &str) {
    let fits = !topic.is_empty()
        && topic.len() <= 249
        && !matches!(topic, "." | "..")
        && topic.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if !fits {
        let problem = Problem::new("bad_name", format!("\"{topic}\" cannot name a topic"));
        t.wrong("topic", problem.hint("letters, digits, `.`, `_` and `-`, at most 249 of them"));
    }
}

pub(super) fn read_kafka(mut t: Reader<'_>) -> Option<KafkaDef> {
    t.require("brokers", "where to begin: `brokers = \"127.0.0.1:9092\"`, or a list");
    let brokers = t.one_or_more("brokers");
    let brokers: Option<Vec<String>> =
        brokers.map(|all| all.iter().flat_map(|b| b.split(',')).map(|b| b.trim().to_owned()).filter(|b| !b.is_empty()).collect());
    for broker in brokers.iter().flatten() {
        if broker.rsplit_once(':').is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err()) {
            let problem = Problem::new("bad_address", format!("\"{broker}\" is not a host with a port"));
            t.wrong("brokers", problem.hint("such as \"127.0.0.1:9092\""));
        }
    }
    let group = t.text("group");
    let mut properties = texts(&mut t);
    for own in OWN_PROPERTIES.iter().filter(|own| properties.remove(**own).is_some()) {
        let problem = Problem::new("misplaced", format!("Kilter sets `{own}` itself"));
        t.wrong(&format!("properties.{own}"), problem.hint("leave it out; positions and deliveries rest on it"));
    }
    t.finish();
    Some(KafkaDef { brokers: brokers?, group, properties })
}

/// The table `properties` of a client library, each value as a text.
pub(super) fn texts(t: &mut Reader<'_>) -> BTreeMap<String, String> {
    let mut properties = BTreeMap::new();
    for (name, value) in t.settings("properties").unwrap_or_default() {
        let text = match value {
            serde_json::Value::String(text) => text,
            // A dotted name is a table in a table to TOML.
            serde_json::Value::Object(_) => {
                let problem = Problem::new("wrong_type", format!("`properties.{name}` must be one value"));
                t.wrong(&format!("properties.{name}"), problem.hint("put dotted names in quotes: `\"security.protocol\" = \"SASL_SSL\"`"));
                continue;
            }
            other => other.to_string(),
        };
        properties.insert(name, text);
    }
    properties
}

/// What exactly-once rests on is not left to settings.
const OWN_PROPERTIES: [&str; 10] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "isolation.level",
    "enable.idempotence",
    "transactional.id",
    "enable.partition.eof",
];

pub(super) fn read_sink(mut t: Reader<'_>) -> Option<SinkDef> {
    t.require("from", "what goes there: `from = \"decision.loan\"`, \"decision.*\" or \"dead_letters\"");
    let from = t.text("from");
    t.require("topic", "where it goes: `topic = \"loan-decisions\"`");
    let topic = t.text("topic");
    if let Some(topic) = &topic {
        check_topic(&t, topic);
    }
    let key = t.text("key");
    let delivery = t.word("delivery").unwrap_or_default();
    let partitions = t.integer("partitions", 1, 100_000).map(|n| n as u32);
    let replication = t.integer("replication", 1, 100).map(|n| n as u32);
    if replication.is_some() && partitions.is_none() {
        let problem = Problem::new("missing", "copies are of partitions, and no `partitions` says that the topic may be made");
        t.document.error(At::Key(&t.at("replication")), problem.hint("add `partitions = 6`, or leave it out"));
    }
    let description = t.text("description");
    t.finish();
    Some(SinkDef { from: from?, topic: topic?, key, delivery, partitions, replication, description })
}

/// What rests on more than one section.
pub(super) fn check(document: &Document<'_>, definitions: &Definitions) {
    let sources = definitions.source.iter().filter(|(_, s)| s.topic.is_some()).map(|(name, _)| join("source", name));
    let sinks = definitions.sink.names().map(|name| join("sink", name));
    if definitions.kafka.is_none()
        && let Some(first) = sources.chain(sinks).next()
    {
        let problem = Problem::new("missing", format!("`{first}` speaks to Kafka, and the file does not say where it is"));
        document.error(At::Key(&first), problem.hint("add [kafka] with `brokers = \"127.0.0.1:9092\"`"));
    }
    let mut topics: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, source) in definitions.source.iter() {
        let Some(topic) = &source.topic else { continue };
        if let Some(other) = topics.insert(topic, name) {
            let problem = Problem::new("duplicate", format!("sources \"{other}\" and \"{name}\" read the same topic"));
            document.error(At::Value(&format!("source.{name}.topic")), problem.hint("one source a topic; feature views may share it"));
        }
    }
    for (name, sink) in definitions.sink.iter() {
        let path = format!("sink.{name}");
        let at_from = format!("{path}.from");
        if topics.contains_key(sink.topic.as_str()) {
            let problem = Problem::new("circle", format!("topic \"{}\" is read by source \"{}\"", sink.topic, topics[sink.topic.as_str()]));
            document.error(At::Value(&format!("{path}.topic")), problem.hint("let the sink write to a topic of its own"));
        }
        let names = || definitions.decision.names();
        let source = match sink.feed() {
            None => {
                let problem = Problem::new("bad_feed", format!("\"{}\" is nothing that a sink can take", sink.from));
                let feeds: Vec<String> = names().map(|n| format!("decision.{n}")).collect();
                let hint = format!("one of: {}", list(feeds.iter().map(String::as_str).chain(["decision.*", "dead_letters"])));
                document.error(At::Value(&at_from), problem.hint(hint));
                continue;
            }
            Some(Feed::Decisions(Some(decision))) => match definitions.decision.iter().find(|(n, _)| *n == decision) {
                Some((_, def)) => {
                    let of_model = || definitions.model.get(def.model.as_deref()?).map(|model| model.on.clone());
                    def.on.clone().or_else(of_model)
                }
                None => {
                    document.error(At::Value(&at_from), Problem::unknown("unknown_decision", "decision", &decision, names()));
                    continue;
                }
            },
            Some(_) => None,
        };
        if let Some(key) = &sink.key {
            let at = format!("{path}.key");
            let columns = source.and_then(|source| definitions.source.iter().find(|(n, _)| *n == source).map(|(_, s)| &s.columns));
            match columns {
                Some(columns) if columns.names().any(|c| c == key) => {}
                Some(columns) => document.error(At::Value(&at), Problem::unknown("unknown_column", "column", key, columns.names())),
                None => {
                    let problem = Problem::new("misplaced", "a key is a column of one decision's source");
                    document.error(At::Value(&at), problem.hint("name one decision under `from`, or leave `key` out"));
                }
            }
        }
    }
}

/// The properties of a section with the variables of the environment filled in; an error names the variable that is missing.
pub fn filled(
    section: &str,
    properties: &BTreeMap<String, String>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, String> {
    let fill = |name: &str, text: &str| -> Result<String, String> {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (variable_name, behind) =
                after.split_once('}').ok_or_else(|| format!("`{section}.properties.{name}`: `${{` without a `}}`"))?;
            let value = variable(variable_name).ok_or_else(|| {
                format!("`{section}.properties.{name}` asks for the environment variable {variable_name}, which is not set")
            })?;
            filled.push_str(before);
            filled.push_str(&value);
            rest = behind;
        }
        filled.push_str(rest);
        Ok(filled)
    };
    properties.iter().map(|(name, text)| Ok((name.clone(), fill(name, text)?))).collect()
}

impl Serialize for Start {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Start::Earliest => s.serialize_str("earliest"),
            Start::Latest => s.serialize_str("latest"),
            Start::At(time) => s.collect_str(time),
        }
    }
}

impl JsonSchema for Start {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Start".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "enum": ["earliest", "latest"] }, { "type": "string", "format": "date-time" }] })
    }
}
