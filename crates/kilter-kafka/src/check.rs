//! Looks whether the cluster answers and has what the definitions name, and whether the columns can be read of the records' schemas.

use std::path::Path;
use std::sync::Arc;

use kilter_runtime::project::{Envelope, Project, SourceDef, SourceFormat};
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::client::{self, Logged, Settings};
use crate::formats::{self, Decoder, Missing, Registry, Shape};

/// What was found out about one topic.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The source or sink, such as `source.transactions`.
    pub of: String,
    pub topic: String,
    /// 0 where there is no such topic.
    pub partitions: usize,
    /// What is to be said of it.
    pub problem: Option<String>,
    /// The sink will make it.
    pub will_be_made: bool,
    /// Of a source whose records have a schema.
    pub schema: Option<SchemaFinding>,
}

/// What was found out about the schema of a topic's records.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct SchemaFinding {
    /// Which it is, such as `avro schema 7, version 3 of payments-value`.
    pub schema: String,
    /// Columns that it does not have, and that are null then.
    pub missing: Vec<String>,
    /// What keeps records of this schema from being read.
    pub problems: Vec<String>,
}

impl Finding {
    /// Nothing stands in the way.
    pub fn is_sound(&self) -> bool {
        let schema_is_sound = self.schema.as_ref().is_none_or(|schema| schema.problems.is_empty());
        (self.problem.is_none() || self.will_be_made) && schema_is_sound
    }
}

/// Asks the cluster for every topic that sources and sinks name.
///
/// # Errors
/// Settings that the client library does not take, or no broker that answers.
pub fn check(project: &Project) -> anyhow::Result<Vec<Finding>> {
    let Some(kafka) = &project.definitions.kafka else { return Ok(Vec::new()) };
    let settings = Settings::new(kafka, &project.plan.project)?;
    let client: BaseConsumer<Logged> = settings.config("check").create_with_context(Logged).map_err(client::refused)?;
    let registry = formats::registry(project)?;
    let schema = |def, topic: &str| schema(def, topic, registry.as_ref(), &project.dir);
    let sources = formats::sources(project);
    let sources = sources.filter_map(|(name, s)| Some((format!("source.{name}"), s.topic.clone()?, None, schema(s, s.topic.as_deref()?))));
    let sinks = project.definitions.sink.iter().map(|(name, s)| (format!("sink.{name}"), s.topic.clone(), s.partitions, None));
    let shards = project.definitions.workers.as_ref().map(|workers| workers.shards as usize);
    let shared = |of: &str, partitions: usize| {
        let source = of.strip_prefix("source.").and_then(|name| project.definitions.source.get(name))?;
        let shards = shards.filter(|shards| source.partition_by.is_none() && *shards != partitions)?;
        Some(format!(
            "`shards` of [workers] is {shards}, and workers share topics of as many partitions only, or bring their records to one: `partition_by`"
        ))
    };
    sources
        .chain(sinks)
        .map(|(of, topic, made_with, schema)| {
            let found = client::partitions(client.client(), &topic)?;
            let problem = match (&found, made_with) {
                (Some(found), _) => shared(&of, found.len()),
                (None, Some(n)) => Some(format!("not there yet; the sink makes it with {n} partitions")),
                (None, None) => Some("there is no such topic".to_owned()),
            };
            let will_be_made = found.is_none() && made_with.is_some();
            Ok(Finding { of, topic, partitions: found.map_or(0, |p| p.len()), problem, will_be_made, schema })
        })
        .collect()
}

/// Compares the columns with the schema of a file, or with the newest one that the registry has for the topic; none: records of JSON have none.
fn schema(def: &SourceDef, topic: &str, registry: Option<&Arc<Registry>>, dir: &Path) -> Option<SchemaFinding> {
    let format = def.format.and_then(SourceFormat::topic).unwrap_or_default();
    let is_enveloped = def.envelope == Some(Envelope::Debezium);
    let unreadable = |schema: String, problem| Some(SchemaFinding { schema, missing: Vec::new(), problems: vec![problem] });
    let of_file = format!("{} schema {}", format.word(), def.schema.as_deref().unwrap_or_default());
    match Decoder::new(def, registry, dir) {
        Err(problem) => return unreadable(of_file, problem),
        Ok(decoder) if def.schema.is_some() => {
            return decoder.shape(is_enveloped).map(|shape| compared(of_file, def, is_enveloped, &shape));
        }
        Ok(decoder) if !decoder.is_framed() => return None,
        Ok(_) => {}
    }
    let subject = format!("{topic}-value");
    match registry?.newest(topic) {
        // Producers may register it with their first record, or under another name.
        Err(Missing::Unknown(reason)) => {
            let schema = format!("{} schema of {subject}, which the registry does not have: {reason}", format.word());
            Some(SchemaFinding { schema, missing: Vec::new(), problems: Vec::new() })
        }
        Err(Missing::Down(reason)) => unreadable(format!("newest schema of {subject}"), reason),
        Ok(newest) => {
            let schema = format!("{} schema {}, version {} of {subject}", newest.known.format.word(), newest.known.id, newest.version);
            if newest.known.format != format {
                return unreadable(schema, format!("the source's format is \"{}\"", format.word()));
            }
            let shapes = match newest.known.shapes(is_enveloped) {
                Ok(shapes) => shapes,
                Err(problem) => return unreadable(schema, problem),
            };
            // Which message the records are they say themselves: the one that fits best is meant.
            let found = shapes.iter().map(|(message, shape)| {
                let of = if message.is_empty() { schema.clone() } else { format!("{schema}, message {message}") };
                compared(of, def, is_enveloped, shape)
            });
            found
                .min_by_key(|found| (found.problems.len(), found.missing.len()))
                .or_else(|| unreadable(schema, "it has no message".to_owned()))
        }
    }
}

fn compared(schema: String, def: &SourceDef, is_enveloped: bool, shape: &Shape) -> SchemaFinding {
    let mut found = SchemaFinding { schema, missing: Vec::new(), problems: Vec::new() };
    for (name, column) in def.columns.iter() {
        if is_enveloped && kilter_connect::OperationOf::Debezium.gives(name) {
            continue;
        }
        match shape.type_of(name) {
            Some((kind, _)) if kind.reads_as(column.data_type) => {}
            Some((_, told)) => found.problems.push(format!("column `{name}` is {}, and the schema's field is {told}", column.data_type)),
            None => {
                let near = kilter_core::nearest(name, shape.names()).map_or(String::new(), |near| format!(" (did you mean `{near}`?)"));
                let is_needed = column.required || def.key.iter().any(|key| key == name) || def.time.trim() == name;
                if is_needed {
                    found.problems.push(format!("column `{name}` is needed, and the schema has no such field{near}"));
                } else {
                    found.missing.push(format!("{name}{near}"));
                }
            }
        }
    }
    found
}
