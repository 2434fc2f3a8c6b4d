//! `[workers]`: a project whose entities several processes share.

use std::collections::BTreeSet;
use std::path::PathBuf;

use kilter_core::{DataType, Offset, Problem, SourceId, Span, list};
use kilter_features::expr::Expr;
use kilter_pipeline::{ClockMode, ContextPlan, Lookup, Plan};
use schemars::JsonSchema;
use serde::Serialize;

use super::definitions::{Connector, Definitions, SpanText, Word, is_default};
use super::document::{At, Document, join};
use super::lake::{LakeFormat, maybe_span};
use super::reader::Reader;

/// Offsets of one shard's log begin at its number times two to the power of this, so that no two shards share one, and all are exact in JSON.
const SHARD_BITS: u32 = 40;
/// Shards at most: offsets stay below 2^53.
const MOST_SHARDS: i64 = 1 << 13;

/// Several processes (`kilter worker`) that share a project's shards: each is one partition of every topic, with a log and a state of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct WorkersDef {
    /// The column that says which shard an event belongs to, of every source that has no `partition_by`. It is the key of the topics' records, as text.
    pub key: String,
    /// How many shards there are: the number of partitions of every topic that is read by `key`. Never changes.
    #[schemars(range(min = 1, max = 8192))]
    pub shards: u32,
    /// How the producers of those topics choose a record's partition by its key.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(default)]
    pub partitioner: Partitioner,
    /// Copies of each partition of the topics that the workers make for themselves; left out: as the brokers are set.
    pub replication: Option<u32>,
    /// How often each shard's snapshot goes into the lake, for a worker without a folder to go on from; left out: never, and such a worker reads the whole journal.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_span")]
    #[schemars(with = "Option<SpanText>")]
    pub snapshots: Option<Span>,
    /// Whether every worker keeps a copy of the shards that it does not have, made of their snapshots and kept up to date by the journal, to take one over sooner.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(default)]
    pub standby: bool,
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

impl Definitions {
    /// The column of a source that says which shard an event belongs to; none: the project has no workers, or no such source.
    pub fn shard_key(&self, source: &str) -> Option<&str> {
        let workers = self.workers.as_ref()?;
        Some(self.source.get(source)?.partition_by.as_deref().unwrap_or(&workers.key))
    }
}

pub(super) fn read(mut t: Reader<'_>) -> Option<WorkersDef> {
    t.require("key", "the column that the topics' records are keyed by: `key = \"account_id\"`");
    t.require("shards", "the number of partitions of the topics: `shards = 12`");
    let key = t.text("key");
    let shards = t.integer("shards", 1, MOST_SHARDS).map(|n| n as u32);
    let partitioner = t.word("partitioner").unwrap_or_default();
    let replication = t.integer("replication", 1, 100).map(|n| n as u32);
    let snapshots = t.span("snapshots");
    let standby = t.boolean("standby").unwrap_or_default();
    t.finish();
    Some(WorkersDef { key: key?, shards: shards?, partitioner, replication, snapshots, standby })
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
    if workers.snapshots.is_some() {
        if definitions.lake.is_none() {
            let message = "snapshots of shards lie in the lake, which alone has the events before them".into();
            error("workers.snapshots", "missing", message, "add [lake] with a `url`, or leave `snapshots` out");
        }
        if definitions.state.memory.is_some() {
            let message = "of state beyond memory there are no snapshots".into();
            error("workers.snapshots", "misplaced", message, "leave `memory` of [state] out, or `snapshots` here");
        }
    }
    if workers.standby && workers.snapshots.is_none() {
        let message = "a copy of a shard is made of its snapshots in the lake".into();
        error("workers.standby", "misplaced", message, "add `snapshots = \"10m\"` to [workers], or leave `standby` out");
    }
    let key_of = |source: &str| definitions.shard_key(source).unwrap_or(&workers.key);
    for (name, source) in definitions.source.iter() {
        let path = join("source", name);
        if source.connector == Connector::File {
            let hint = "load the file into a topic, or run the project as one process without [workers]";
            error(&path, "misplaced", format!("source \"{name}\" reads a file, which several workers cannot share"), hint);
        }
        let key = key_of(name);
        match source.columns.get(key).map(|column| column.data_type) {
            Some(DataType::String | DataType::Int64 | DataType::Bool) => {}
            Some(other) => {
                let message = format!("column `{key}` of source \"{name}\" is a {}, which keys no record", other.name());
                error(&path, "wrong_type", message, "let the column be a string, int64 or bool");
            }
            None => {
                let message = format!("source \"{name}\" has no column `{key}`, by which the workers share events");
                error(&path, "missing", message, "give it that column, or name another one of it as its `partition_by`");
            }
        }
    }
    if document.has_errors() {
        return;
    }
    let key_of = |source: SourceId| key_of(&plan.sources[usize::from(source.0)].name);
    for view in &plan.views {
        let key = key_of(view.source());
        if !view.entity().iter().any(|column| column == key) {
            let message = format!(
                "the entities of view \"{}\" ({}) lie in more than one shard",
                view.name(),
                list(view.entity().iter().map(String::as_str))
            );
            let hint = format!(
                "add `{key}` to its entity, read the topic by another source with `partition_by = \"{}\"`, or run the project as one process without [workers]",
                view.entity().first().map_or("", String::as_str)
            );
            error(&join("features", view.name()), "spread", message, &hint);
        }
    }
    if document.has_errors() {
        return;
    }
    // A view is read within a shard: by the key that brought the event there.
    let other_key = |source: SourceId, view: usize, columns: &[&str]| {
        let (view, own) = (&plan.views[view], key_of(source));
        let place = view.entity().iter().position(|column| column == key_of(view.source()));
        (place.and_then(|place| columns.get(place)) != Some(&own)).then(|| (view.name().to_owned(), own))
    };
    let mut spread = Vec::new();
    for view in &plan.views {
        let keys = definitions.features.get(view.name()).map(|def| &def.keys);
        for other in view.needs().filter_map(|name| plan.view(name)) {
            let columns = keys.and_then(|keys| keys.get(plan.views[other].name())).map_or(plan.views[other].entity(), Vec::as_slice);
            let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
            spread.extend(other_key(view.source(), other, &columns).map(|found| ("features", view.name(), found)));
        }
    }
    let mut contexts: Vec<(&str, &str, &ContextPlan, Vec<&Expr>)> = Vec::new();
    for model in &plan.models {
        contexts.push(("model", &model.name, &model.context, model.inputs.iter().map(|input| &input.expr).collect()));
    }
    for decision in &plan.decisions {
        contexts.push((
            "decision",
            &decision.name,
            &decision.context,
            decision.policy.iter().filter_map(|rule| rule.when.as_ref()).collect(),
        ));
    }
    for (section, name, context, used) in contexts {
        let schema = &plan.sources[usize::from(context.source.0)].schema;
        for lookup in used_lookups(context, &used) {
            let columns: Vec<&str> = lookup.key.iter().map(|column| schema.fields[*column].name.as_str()).collect();
            spread.extend(other_key(context.source, lookup.view, &columns).map(|found| (section, name, found)));
        }
    }
    for (section, name, (view, own)) in spread {
        let message = format!("`{section}.{name}` reads view \"{view}\" by another key, whose features may lie with another worker");
        let hint = format!("look it up by `{own}`, or run the project as one process without [workers]");
        error(&join(section, name), "spread", message, &hint);
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
        if let Some(message) = label_elsewhere(definitions, &plan.models[schedule.model].name) {
            let key = key_of(plan.models[schedule.model].context.source);
            error(&path, "spread", message, &format!("let `on` of its label name `{key}` too"));
        }
    }
    if let Some(monitor) = plan.monitors.iter().find(|m| m.retrain) {
        let message = format!("`monitor.{}` would train for what it sees in one shard", monitor.name);
        error(&join("monitor", &monitor.name), "misplaced", message, "leave \"retrain\" out of `then`, and train by a schedule");
    }
}

/// The lookups of which an expression uses something.
fn used_lookups<'a>(context: &'a ContextPlan, used: &[&Expr]) -> impl Iterator<Item = &'a Lookup> {
    let of = |slot: &usize| context.lookups.iter().rposition(|lookup| lookup.first_slot <= *slot);
    let slots = used.iter().flat_map(|expr| expr.slots()).filter(|slot| **slot < context.width);
    let used: BTreeSet<usize> = slots.filter_map(of).collect();
    used.into_iter().map(|lookup| &context.lookups[lookup])
}

/// Why a model's rows and their labels may lie in different shards.
fn label_elsewhere(definitions: &Definitions, model: &str) -> Option<String> {
    let def = definitions.model.get(model)?;
    let label = def.label.as_ref()?;
    let (own, of_label) = (definitions.shard_key(&def.on)?, definitions.shard_key(&label.source)?);
    let by_key = label.on.iter().any(|(observation, label)| observation == own && label == of_label);
    (!by_key).then(|| format!("the labels of model \"{model}\" are not joined by `{own}`, and may lie in another shard than its rows"))
}
