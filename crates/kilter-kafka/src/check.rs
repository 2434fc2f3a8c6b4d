//! Looks whether the cluster answers and has what the definitions name.

use kilter_runtime::project::{Connector, Project};
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::client::{self, Logged, Settings};

/// What was found out about one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The source or sink, such as `source.transactions`.
    pub of: String,
    pub topic: String,
    /// The number of partitions, or what is wrong.
    pub partitions: Result<usize, String>,
}

/// Asks the cluster for every topic that sources and sinks name.
///
/// # Errors
/// Settings that the client library does not take, or no broker that answers.
pub fn check(project: &Project) -> anyhow::Result<Vec<Finding>> {
    let Some(kafka) = &project.definitions.kafka else { return Ok(Vec::new()) };
    let settings = Settings::new(kafka, &project.plan.project)?;
    let client: BaseConsumer<Logged> = settings.config("check").create_with_context(Logged).map_err(client::refused)?;
    let sources = project.definitions.source.iter().filter(|(_, s)| s.connector == Connector::Kafka);
    let sources = sources.filter_map(|(name, s)| Some((format!("source.{name}"), s.topic.clone()?, None)));
    let sinks = project.definitions.sink.iter().map(|(name, s)| (format!("sink.{name}"), s.topic.clone(), s.partitions));
    sources
        .chain(sinks)
        .map(|(of, topic, made_with)| {
            let partitions = match (client::partitions(client.client(), &topic)?, made_with) {
                (Some(found), _) => Ok(found.len()),
                (None, Some(_)) => Err("not there yet; the sink makes it".to_owned()),
                (None, None) => Err("there is no such topic".to_owned()),
            };
            Ok(Finding { of, topic, partitions })
        })
        .collect()
}
