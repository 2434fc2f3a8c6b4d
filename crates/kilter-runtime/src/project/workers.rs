//! `[workers]`: a project whose entities several processes share.

use std::path::PathBuf;

use kilter_core::{DataType, Offset, Problem, list};
use kilter_pipeline::{ClockMode, Plan};
use schemars::JsonSchema;
use serde::Serialize;

use super::definitions::{Connector, Definitions, Named, Word, is_default};
use super::document::{At, Document, join};
use super::lake::LakeFormat;
use super::reader::Reader;

/// Offsets of one shard's log begin at its number times two to the power of this, so that no two shards share one, and all are exact in JSON.
const SHARD_BITS: u32 = 40;
/// Shards at most: offsets stay below 2^53.
const MOST_SHARDS: i64 = 1 << 13;

/// Several processes (`kilter worker`) that share a project's shards: each is one partition of every topic, with a log and a state of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct WorkersDef {
    /// The column of every source that says which shard an event belongs to. It is the key of the topics' records, as text.
    pub key: String,
    /// How many shards there are: the number of partitions of every topic that is read. Never changes.
    #[schemars(range(min = 1, max = 8192))]
    pub shards: u32,
    /// How the producers of those topics choose a record's partition by its key.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(default)]
    pub partitioner: Partitioner,
    /// Copies of each partition of the topics that the workers make for themselves; left out: as the brokers are set.
    pub replication: Option<u32>,
}

/// From a record's key to its partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Partitioner {
    /// As Kafka's own Java client does, and librdkafka with `partitioner=murmur2_random`.
    #[default]
    Murmur2,
    /// As librdkafka and the clients built on it (Python, Go, .NET) do unless told otherwise.
    Crc32,
}

impl Word for Partitioner {
    const WHAT: &'static str = "partitioner";
    const WORDS: &'static [(&'static str, Self)] = &[("murmur2", Partitioner::Murmur2), ("crc32", Partitioner::Crc32)];
}

/// The part of a project that one log holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    pub number: u32,
    /// The folder of its data.
    pub data: PathBuf,
}

impl Shard {
    /// Offset of the first record of its log.
    pub fn first_offset(&self) -> Offset {
        Offset::from(self.number) << SHARD_BITS
    }

    /// The shard whose log has this offset.
    pub fn of_offset(offset: Offset) -> Option<u32> {
        u32::try_from(offset >> SHARD_BITS).ok()
    }
}

pub(super) fn read(mut t: Reader<'_>) -> Option<WorkersDef> {
    t.require("key", "the column that the topics' records are keyed by: `key = \"account_id\"`");
    t.require("shards", "the number of partitions of the topics: `shards = 12`");
    let key = t.text("key");
    let shards = t.integer("shards", 1, MOST_SHARDS).map(|n| n as u32);
    let partitioner = t.word("partitioner").unwrap_or_default();
    let replication = t.integer("replication", 1, 100).map(|n| n as u32);
    t.finish();
    Some(WorkersDef { key: key?, shards: shards?, partitioner, replication })
}

/// What one shard must be able to do alone: every event, view and decision belongs to one key.
pub(super) fn check(document: &Document<'_>, definitions: &Definitions, plan: &Plan) {
    let Some(workers) = &definitions.workers else { return };
    let error = |path: &str, code, message: String, hint: &str| {
        document.error(At::Key(path), Problem::new(code, message).hint(hint.to_owned()));
    };
    if definitions.kafka.is_none() {
        error("workers", "missing", "workers share what they read from Kafka".into(), "add [kafka] with `brokers = \"127.0.0.1:9092\"`");
    }
    for (name, source) in definitions.source.iter() {
        let path = join("source", name);
        if source.connector == Connector::File {
            let hint = "load the file into a topic, or run the project as one process without [workers]";
            error(&path, "misplaced", format!("source \"{name}\" reads a file, which several workers cannot share"), hint);
        }
        match source.columns.get(&workers.key).map(|column| column.data_type) {
            Some(DataType::String | DataType::Int64 | DataType::Bool) => {}
            Some(other) => {
                let message = format!("column `{}` of source \"{name}\" is a {}, which keys no record", workers.key, other.name());
                error(&path, "wrong_type", message, "let `key` of [workers] be a string, int64 or bool");
            }
            None => {
                let message = format!("source \"{name}\" has no column `{}`, by which the workers share events", workers.key);
                error(&path, "missing", message, "give every source that column, or run the project as one process without [workers]");
            }
        }
    }
    if document.has_errors() {
        return;
    }
    for view in &plan.views {
        if !view.entity().contains(&workers.key) {
            let message = format!(
                "the entities of view \"{}\" ({}) lie in more than one shard",
                view.name(),
                list(view.entity().iter().map(String::as_str))
            );
            let hint = format!("add `{}` to its entity, or run the project as one process without [workers]", workers.key);
            error(&join("features", view.name()), "spread", message, &hint);
        }
    }
    if document.has_errors() {
        return;
    }
    let elsewhere = |keys: &Named<Vec<String>>| {
        let other = |(view, columns): (&str, &Vec<String>)| {
            let entity = &definitions.features.get(view)?.entity;
            let place = entity.iter().position(|column| *column == workers.key)?;
            columns.get(place).filter(|column| **column != workers.key).map(|_| view.to_owned())
        };
        keys.iter().find_map(other)
    };
    let hint = format!("look it up by `{}`, or run the project as one process without [workers]", workers.key);
    let views = definitions.features.iter().map(|(name, def)| ("features", name, &def.keys));
    let models = definitions.model.iter().map(|(name, def)| ("model", name, &def.keys));
    let decisions = definitions.decision.iter().map(|(name, def)| ("decision", name, &def.keys));
    for (section, name, keys) in views.chain(models).chain(decisions) {
        if let Some(view) = elsewhere(keys) {
            let message = format!("`{section}.{name}` reads view \"{view}\" by another key, whose features may lie with another worker");
            error(&join(section, name), "spread", message, &hint);
        }
    }
    let hint = "several workers write it: leave `format` out, or run the project as one process without [workers]";
    if definitions.lake.as_ref().is_some_and(|lake| lake.format == LakeFormat::Delta) {
        error("lake.format", "misplaced", "a Delta table has one writer".into(), hint);
    }
    for schedule in &plan.schedules {
        let path = join("schedule", &schedule.name);
        if plan.clock == ClockMode::Event {
            let hint = "leave `clock` of [project] out, or run the project as one process without [workers]";
            error(&path, "misplaced", "workers train by the machine's clock: each shard has a stream's time of its own".into(), hint);
        }
        if definitions.lake.is_none() {
            let message = format!("`schedule.{}` needs the events of all shards, which only a lake has", schedule.name);
            error(&path, "missing", message, "add [lake] with a `url` that every worker reaches");
        }
        if let Some(message) = label_elsewhere(definitions, workers, &plan.models[schedule.model].name) {
            error(&path, "spread", message, &format!("let `on` of its label name `{}` too", workers.key));
        }
    }
    if let Some(monitor) = plan.monitors.iter().find(|m| m.retrain) {
        let message = format!("`monitor.{}` would train for what it sees in one shard", monitor.name);
        error(&join("monitor", &monitor.name), "misplaced", message, "leave \"retrain\" out of `then`, and train by a schedule");
    }
}

/// Why a model's rows and their labels may lie in different shards.
fn label_elsewhere(definitions: &Definitions, workers: &WorkersDef, model: &str) -> Option<String> {
    let label = definitions.model.get(model)?.label.as_ref()?;
    let by_key = label.on.iter().any(|(observation, label)| *observation == workers.key && *label == workers.key);
    (!by_key)
        .then(|| format!("the labels of model \"{model}\" are not joined by `{}`, and may lie in another shard than its rows", workers.key))
}
