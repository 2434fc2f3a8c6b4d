//! Looks whether the cluster answers and has what the definitions name.

use kilter_runtime::project::{Connector, Project};
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::client::{self, Logged, Settings};

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
}

impl Finding {
    /// Nothing stands in the way.
    pub fn is_sound(&self) -> bool {
        self.problem.is_none() || self.will_be_made
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
    let sources = project.definitions.source.iter().filter(|(_, s)| s.connector == Connector::Kafka);
    let sources = sources.filter_map(|(name, s)| Some((format!("source.{name}"), s.topic.clone()?, None)));
    let sinks = project.definitions.sink.iter().map(|(name, s)| (format!("sink.{name}"), s.topic.clone(), s.partitions));
    let shards = project.definitions.workers.as_ref().map(|workers| workers.shards as usize);
    let shared = |of: &str, partitions: usize| {
        let shards = shards.filter(|shards| of.starts_with("source.") && *shards != partitions)?;
        Some(format!("`shards` of [workers] is {shards}, and workers share topics of as many partitions only"))
    };
    sources
        .chain(sinks)
        .map(|(of, topic, made_with)| {
            let found = client::partitions(client.client(), &topic)?;
            let problem = match (&found, made_with) {
                (Some(found), _) => shared(&of, found.len()),
                (None, Some(n)) => Some(format!("not there yet; the sink makes it with {n} partitions")),
                (None, None) => Some("there is no such topic".to_owned()),
            };
            let will_be_made = found.is_none() && made_with.is_some();
            Ok(Finding { of, topic, partitions: found.map_or(0, |p| p.len()), problem, will_be_made })
        })
        .collect()
}
