//! `[kafka]`, what a source says of its topic, and `[sink.NAME]`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use kilter_core::{EventTime, Problem, list};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::definitions::{Connector, Definitions, OneOrMore, SourceFormat, TopicFormat, Word, is_default};
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
    /// The schema registry that knows the schemas of framed records.
    pub schema_registry: Option<RegistryDef>,
}

/// A schema registry that speaks Confluent's REST interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct RegistryDef {
    /// Where it answers, such as `http://127.0.0.1:8081`. `${NAME}` here and in the values below is the environment variable NAME.
    pub url: String,
    /// Of a registry that asks for it: the user's name, or the key of an API.
    pub username: Option<String>,
    /// The user's password, or the secret of an API.
    pub password: Option<String>,
    /// A PEM file with the certificates that a registry's own must rest on, relative to the project's folder; left out: those of the web.
    pub ca: Option<String>,
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
    pub partition_by: Option<String>,
    pub schema: Option<String>,
    pub message: Option<String>,
}

/// Reads the keys that only a source with the connector `kafka` may have.
pub(super) fn read_topic(t: &mut Reader<'_>, connector: Option<Connector>, knows_connector: bool, format: TopicFormat) -> Topic {
    let topic = t.text("topic");
    let (start, partition_by) = (t.text("start"), t.text("partition_by"));
    let (schema, message) = (t.text("schema"), t.text("message"));
    if connector == Some(Connector::Kafka) {
        t.require("topic", "the topic to read: `topic = \"transactions\"`");
        if let Some(topic) = &topic {
            check_topic(t, topic);
        }
        check_schema(t, format);
    } else if knows_connector {
        for key in ["topic", "start", "partition_by", "schema", "message"] {
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
    Topic { topic, start, partition_by, schema, message }
}

/// A file with a schema goes with the formats whose records tell nothing without one, and of a `.proto` file it must be said which message is meant.
fn check_schema(t: &mut Reader<'_>, format: TopicFormat) {
    if t.has("schema") && !matches!(format, TopicFormat::Avro | TopicFormat::Protobuf) {
        let problem = Problem::new("misplaced", "`schema` is for the formats \"avro\" and \"protobuf\"");
        t.document.error(
            At::Key(&t.at("schema")),
            problem.hint("add `format = \"avro\"`, or leave it out: records of JSON name their fields themselves"),
        );
        return;
    }
    let is_proto_file = t.has("schema") && format == TopicFormat::Protobuf;
    if is_proto_file {
        t.require("message", "the message of the `.proto` file that a record is: `message = \"shop.Payment\"`");
    } else if t.has("message") {
        let problem = Problem::new("misplaced", "`message` says which message of a `.proto` file is meant, and no such file is named");
        t.document.error(
            At::Key(&t.at("message")),
            problem.hint("add `schema = \"FILE.proto\"`, or leave it out: framed records say themselves which message they are"),
        );
    }
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
    let schema_registry = t.table("schema_registry", "the schema registry").and_then(read_registry);
    t.finish();
    Some(KafkaDef { brokers: brokers?, group, properties, schema_registry })
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

fn read_registry(mut t: Reader<'_>) -> Option<RegistryDef> {
    t.require("url", "where it answers: `url = \"http://127.0.0.1:8081\"`");
    let url = t.text("url");
    let names_host = |url: &String| {
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        url.starts_with("${")
            || rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && !rest.contains(['@', ',', '?', '#', ' ']))
    };
    if let Some(url) = url.as_ref().filter(|url| !names_host(url)) {
        let problem = Problem::new("bad_address", format!("\"{url}\" is not the address of a schema registry"));
        t.wrong("url", problem.hint("one address such as \"http://127.0.0.1:8081\"; who asks goes under `username` and `password`"));
    }
    let (username, password, ca) = (t.text("username"), t.text("password"), t.text("ca"));
    for (given, other) in [("username", "password"), ("password", "username")] {
        if t.has(given) && !t.has(other) {
            let problem = Problem::new("missing", format!("`{given}` goes together with `{other}`"));
            t.document.error(At::Key(&t.at(given)), problem.hint("a registry is told both, or neither"));
        }
    }
    t.finish();
    Some(RegistryDef { url: url?, username, password, ca })
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
    for (name, source) in definitions.source.iter() {
        let format = source.format.and_then(SourceFormat::topic).unwrap_or_default();
        let has_registry = definitions.kafka.as_ref().is_none_or(|k| k.schema_registry.is_some());
        if format != TopicFormat::Json && source.schema.is_none() && !has_registry {
            let problem = Problem::new(
                "missing",
                format!("the records of source \"{name}\" are read by their schema, and nothing says where that is"),
            );
            let hint = match format {
                TopicFormat::JsonSchema => "add `schema_registry = { url = \"http://127.0.0.1:8081\" }` to [kafka]",
                _ => "add `schema_registry = { url = \"http://127.0.0.1:8081\" }` to [kafka], or name a file as `schema`",
            };
            document.error(At::Value(&format!("source.{name}.format")), problem.hint(hint));
        }
    }
    let mut topics: BTreeMap<&str, &str> = BTreeMap::new();
    let mut readers: BTreeMap<(&str, Option<&str>), &str> = BTreeMap::new();
    for (name, source) in definitions.source.iter() {
        if let Some(column) = source.partition_by.as_ref().filter(|column| source.columns.get(column).is_none()) {
            let problem = Problem::unknown("unknown_column", "column", column, source.columns.names());
            document.error(At::Value(&format!("source.{name}.partition_by")), problem);
        }
        let Some(topic) = &source.topic else { continue };
        topics.insert(topic, name);
        if let Some(other) = readers.insert((topic, source.partition_by.as_deref()), name) {
            let problem = Problem::new("duplicate", format!("sources \"{other}\" and \"{name}\" read the same topic"));
            let hint = "one source a topic; feature views may share it. Workers may read it a second time by another `partition_by`";
            document.error(At::Value(&format!("source.{name}.topic")), problem.hint(hint));
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
    let fill = |name: &str, text: &str| fill(&format!("{section}.properties.{name}"), text, &variable);
    properties.iter().map(|(name, text)| Ok((name.clone(), fill(name, text)?))).collect()
}

/// One such value, the key `at` of the definitions.
fn fill(at: &str, text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (variable_name, behind) = after.split_once('}').ok_or_else(|| format!("`{at}`: `${{` without a `}}`"))?;
        let value =
            variable(variable_name).ok_or_else(|| format!("`{at}` asks for the environment variable {variable_name}, which is not set"))?;
        filled.push_str(before);
        filled.push_str(&value);
        rest = behind;
    }
    filled.push_str(rest);
    Ok(filled)
}

impl RegistryDef {
    /// With the variables of the environment filled in; an error names the variable that is missing.
    pub fn filled(&self, variable: impl Fn(&str) -> Option<String>) -> Result<RegistryDef, String> {
        let optional = |key: &str, text: &Option<String>| text.as_ref().map(|text| fill(&registry_key(key), text, &variable)).transpose();
        Ok(RegistryDef {
            url: fill(&registry_key("url"), &self.url, &variable)?,
            username: optional("username", &self.username)?,
            password: optional("password", &self.password)?,
            ca: optional("ca", &self.ca)?,
        })
    }
}

fn registry_key(key: &str) -> String {
    format!("kafka.schema_registry.{key}")
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
