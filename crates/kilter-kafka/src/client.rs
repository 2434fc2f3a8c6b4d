//! The client library's settings, and where its messages go.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kilter_runtime::project::{KafkaDef, filled};
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::runtime::Handle;

/// How long a question to the cluster may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Largest message, in bytes, of the topics that workers keep records of others in: one record, and a little.
pub const LARGEST_MESSAGE: &str = "68000000";

/// What every client of this project has in common.
#[derive(Clone, Debug)]
pub struct Settings {
    brokers: String,
    pub group: String,
    properties: BTreeMap<String, String>,
}

impl Settings {
    pub fn new(def: &KafkaDef, project: &str) -> anyhow::Result<Settings> {
        let properties = filled("kafka", &def.properties, |name| std::env::var(name).ok()).map_err(|e| anyhow::anyhow!("{e}"))?;
        Ok(Settings { brokers: def.brokers.join(","), group: def.group.clone().unwrap_or_else(|| project.to_owned()), properties })
    }

    /// A client for `purpose`, such as `source` or a sink's name.
    pub fn config(&self, purpose: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("client.id", format!("kilter-{}-{purpose}", self.group));
        config.set("bootstrap.servers", &self.brokers);
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config.set_log_level(RDKafkaLogLevel::Warning);
        config
    }
}

/// Settings as Kilter uses to have them, where the project's properties say nothing else.
pub fn usual(config: &mut ClientConfig, settings: &[(&str, &str)]) {
    for (key, value) in settings {
        if config.get(key).is_none() {
            config.set(*key, *value);
        }
    }
}

/// Says what of a setting the library does not take.
pub fn refused(error: KafkaError) -> anyhow::Error {
    match &error {
        KafkaError::ClientConfig(_, problem, name, value) => {
            let hidden = name.contains("password") || name.contains("secret") || name.contains("key.pem");
            let value = if hidden { "(hidden)" } else { value };
            anyhow::anyhow!(
                "[kafka]: the client library does not take `{name}` = \"{value}\": {problem}\n  \
                 hint: properties are librdkafka's; TLS and SCRAM need a kilter that is built with the feature `kafka-tls`"
            )
        }
        KafkaError::ClientCreation(problem) => anyhow::anyhow!("[kafka]: no client could be made of these properties: {problem}"),
        _ => anyhow::Error::new(error).context("[kafka]"),
    }
}

/// Sends the library's messages to the log.
#[derive(Clone, Default)]
pub struct Logged;

impl rdkafka::consumer::ConsumerContext for Logged {}

impl ClientContext for Logged {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self::error(&error, reason);
    }
}

/// One broker that cannot be reached is what others are for; none that can be is worth telling.
pub fn error(error: &KafkaError, reason: &str) {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::Resolve | RDKafkaErrorCode::PartitionEOF) => {
            tracing::debug!(error = %error, reason, "Kafka")
        }
        _ => tracing::warn!(error = %error, reason, "Kafka"),
    }
}

pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        // Brokers that come and go, and settings that one kind of client takes and another does not.
        _ if matches!(facility, "FAIL" | "REQTMOUT" | "CONFWARN") => tracing::debug!(facility, "Kafka: {message}"),
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::error!(facility, "Kafka: {message}");
        }
        RDKafkaLogLevel::Warning => tracing::warn!(facility, "Kafka: {message}"),
        _ => tracing::debug!(facility, "Kafka: {message}"),
    }
}

/// How long to wait before something that went wrong is tried again: longer each time.
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    const SHORTEST: Duration = Duration::from_millis(200);
    pub const LONGEST: Duration = Duration::from_secs(30);
    /// What a stop may have to wait.
    pub const STEP: Duration = Duration::from_millis(100);

    pub fn new() -> Self {
        Backoff { next: Backoff::SHORTEST }
    }

    /// It works again.
    pub fn reset(&mut self) {
        self.next = Backoff::SHORTEST;
    }

    /// The wait to come.
    pub fn next(&self) -> Duration {
        self.next
    }

    /// Waits, but for a stop.
    pub fn wait(&mut self, stopping: &AtomicBool) {
        let until = Instant::now() + self.next;
        while Instant::now() < until && !stopping.load(Ordering::Acquire) {
            std::thread::sleep(Backoff::STEP.min(until.saturating_duration_since(Instant::now())));
        }
        self.next = (2 * self.next).min(Backoff::LONGEST);
    }
}

/// A panic of another holder leaves what is kept here whole: go on with it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A topic that Kilter makes where it is not there.
pub struct Topic<'a> {
    pub name: &'a str,
    pub partitions: u32,
    /// None: as the brokers are set.
    pub replication: Option<u32>,
    pub settings: &'a [(&'a str, &'a str)],
}

/// Makes a topic.
pub fn make_topic(config: &ClientConfig, topic: &Topic<'_>, runtime: &Handle) -> anyhow::Result<()> {
    let &Topic { name, partitions, replication, settings } = topic;
    let admin: AdminClient<Logged> = config.create_with_context(Logged).map_err(refused)?;
    let replication = TopicReplication::Fixed(replication.map_or(-1, |n| n as i32));
    let wanted = settings.iter().fold(NewTopic::new(name, partitions as i32, replication), |topic, (key, value)| topic.set(key, value));
    let made = runtime.block_on(admin.create_topics([&wanted], &AdminOptions::new().operation_timeout(Some(PATIENCE))));
    for result in made.with_context(|| format!("topic \"{name}\" could not be made"))? {
        match result {
            Ok(_) => tracing::info!(topic = name, partitions, "topic made"),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(KafkaError::AdminOp(code)).with_context(|| format!("topic \"{topic}\" could not be made")),
        }
    }
    Ok(())
}

/// The number of partitions of a topic, which is made if it is not there. A broker that goes away meanwhile is tried again.
pub fn topic_made(config: &ClientConfig, topic: &Topic<'_>, runtime: &Handle) -> anyhow::Result<usize> {
    let asking: BaseConsumer<Logged> = config.create_with_context(Logged).map_err(refused)?;
    let until = Instant::now() + PATIENCE;
    let mut made = false;
    loop {
        let found = partitions(asking.client(), topic.name).and_then(|found| {
            if found.is_none() && !made {
                make_topic(config, topic, runtime)?;
                made = true;
            }
            Ok(found)
        });
        match found {
            Ok(Some(partitions)) => return Ok(partitions.len()),
            Err(e) if Instant::now() > until || !e.downcast_ref().is_some_and(is_transient) => return Err(e),
            Err(e) => tracing::debug!(error = %format!("{e:#}"), "a topic is asked for again"),
            // A broker may hear of it a moment later.
            Ok(None) if Instant::now() > until => bail!("topic \"{}\" was made and no broker tells of it", topic.name),
            Ok(None) => {}
        }
        std::thread::sleep(Backoff::STEP);
    }
}

/// Whether the same may go well a moment later: another broker leads by then.
fn is_transient(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, NotController, OperationTimedOut, RequestTimedOut, Resolve};
    let code = match error {
        KafkaError::AdminOp(code) => Some(*code),
        _ => error.rdkafka_error_code(),
    };
    matches!(code, Some(AllBrokersDown | BrokerTransportFailure | NotController | OperationTimedOut | RequestTimedOut | Resolve))
}

/// The partitions of a topic; none: there is no such topic.
pub fn partitions<C: ClientContext>(client: &rdkafka::client::Client<C>, topic: &str) -> anyhow::Result<Option<Vec<u32>>> {
    let metadata = client.fetch_metadata(Some(topic), PATIENCE).with_context(|| format!("no broker tells of topic \"{topic}\""))?;
    let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else { return Ok(None) };
    if found.error().is_some() || found.partitions().is_empty() {
        return Ok(None);
    }
    let mut partitions: Vec<u32> = found.partitions().iter().filter_map(|p| u32::try_from(p.id()).ok()).collect();
    partitions.sort_unstable();
    Ok(Some(partitions))
}

/// Whether the library goes on by itself.
pub fn passes(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut, Resolve};
    let code = error.rdkafka_error_code();
    matches!(code, Some(AllBrokersDown | BrokerTransportFailure | OperationTimedOut | Resolve))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_goes_away_is_told_from_one_that_refuses() {
        for (code, transient) in [
            (RDKafkaErrorCode::BrokerTransportFailure, true),
            (RDKafkaErrorCode::NotController, true),
            (RDKafkaErrorCode::PolicyViolation, false),
            (RDKafkaErrorCode::TopicAuthorizationFailed, false),
        ] {
            let error = anyhow::Error::new(KafkaError::AdminOp(code)).context("topic \"t\" could not be made");
            assert_eq!(error.downcast_ref().is_some_and(is_transient), transient, "{code}");
        }
    }
}
