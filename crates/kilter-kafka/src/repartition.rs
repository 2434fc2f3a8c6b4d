//! Brings the records of topics that are keyed otherwise to the shards of their column.
//!
//! A source with a `partition_by` is not read from its topic by the shards, but from a topic that the workers make of it: the same records, each in the partition of
//! its column's value. Every worker is a member of the group `GROUP.repartition.SOURCE` and sends on what lies in its share of the topic's partitions, the records and how
//! far it has come in one transaction. So each record comes once, whichever worker sends it and whenever one of them dies; who has been replaced is fenced off by the
//! generation of the group (KIP-447).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use kilter_connect::RowFormat;
use kilter_core::EventTime;
use kilter_runtime::project::{Project, SourceDef, Start, WorkersDef, key_text};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message as _, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseRecord, Producer as _};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::runtime::Handle;

use crate::client::{self, Backoff, PATIENCE, Settings, lock};
use crate::formats::{self, Decoder, Registry, Unframed};
use crate::outgoing::Producer;

/// Records of one transaction at most.
const TRANSACTION: usize = 5000;
/// How long records may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(60);

/// The topic that the records of a source are brought to.
pub fn topic(group: &str, source: &str) -> String {
    format!("{group}.repartition.{source}")
}

/// The sources whose records go through such a topic.
pub fn sources(project: &Project) -> impl Iterator<Item = (&str, &SourceDef)> {
    formats::sources(project).filter(|(_, def)| def.partition_by.is_some())
}

/// What one worker sends on of one source.
pub struct Bringing {
    source: String,
    start: Start,
    from: String,
    to: String,
    workers: WorkersDef,
    /// Place of the key in the source's rows.
    key: usize,
    format: RowFormat,
    decoder: Decoder,
    consumer: ClientConfig,
    producer: ClientConfig,
}

/// This worker among those of the group.
struct Membership {
    start: Start,
    state: Mutex<Member>,
}

#[derive(Default)]
struct Member {
    /// What was read is not this worker's to send any more.
    revoked: bool,
    /// As what it is a member, since it was last given partitions. Asked for later it might say that it is none: then nobody would be fenced off.
    identity: Option<Arc<ConsumerGroupMetadata>>,
    /// Where partitions are begun that the group has no position of: decided once, with the first transaction.
    begun: Option<TopicPartitionList>,
    problem: Option<anyhow::Error>,
}

impl ClientContext for Membership {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        client::error(&error, reason);
    }
}

impl ConsumerContext for Membership {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, given: &mut TopicPartitionList) {
        let mut state = lock(&self.state);
        *state = Member { revoked: true, ..Member::default() };
        let outcome = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.place(consumer, given).and_then(|(places, begun)| {
                consumer.assign(&places)?;
                state.identity = consumer.group_metadata().map(Arc::new);
                state.begun = Some(begun).filter(|begun| begun.count() > 0);
                Ok(())
            }),
            _ => consumer.unassign().map_err(anyhow::Error::new),
        };
        state.problem = outcome.err();
    }
}

impl Membership {
    /// Where each of the partitions is read from, and those of them that the group has no position of.
    fn place(&self, consumer: &BaseConsumer<Self>, given: &TopicPartitionList) -> anyhow::Result<(TopicPartitionList, TopicPartitionList)> {
        let committed = consumer.committed_offsets(given.clone(), PATIENCE).context("no broker tells how far the group has come")?;
        let (mut places, mut begun) = (TopicPartitionList::new(), TopicPartitionList::new());
        for element in committed.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            let ends = consumer.fetch_watermarks(topic, partition, PATIENCE);
            let (low, high) = ends.with_context(|| format!("no broker tells where partition {partition} of \"{topic}\" begins"))?;
            let next = match element.offset() {
                Offset::Offset(next) if next > high => {
                    tracing::error!(
                        topic,
                        partition,
                        read_up_to = next,
                        ends_at = high,
                        "more was read from the topic than it has: it was made anew, and is not read"
                    );
                    continue;
                }
                Offset::Offset(next) if next < low => {
                    tracing::error!(
                        topic,
                        partition,
                        lost = low - next,
                        "Kafka has removed records that were not brought to their shards: they are passed over"
                    );
                    low
                }
                Offset::Offset(next) => next,
                _ => {
                    let next = self.first(consumer, topic, partition, (low, high))?;
                    begun.add_partition_offset(topic, partition, Offset::Offset(next))?;
                    next
                }
            };
            places.add_partition_offset(topic, partition, Offset::Offset(next))?;
        }
        Ok((places, begun))
    }

    fn first(&self, consumer: &BaseConsumer<Self>, topic: &str, partition: i32, (low, high): (i64, i64)) -> anyhow::Result<i64> {
        match self.start {
            Start::Earliest => Ok(low),
            Start::Latest => Ok(high),
            Start::At(time) => {
                let mut asked = TopicPartitionList::new();
                asked.add_partition_offset(topic, partition, Offset::Offset(time.0.div_euclid(1000)))?;
                let found = consumer.offsets_for_times(asked, PATIENCE).context("no broker tells which records have that timestamp")?;
                // None is so late: then from the end on.
                let offset = found.elements().first().map(|element| element.offset());
                Ok(if let Some(Offset::Offset(offset)) = offset { offset } else { high })
            }
        }
    }
}

impl Bringing {
    /// `worker`: the name under which this process writes.
    pub fn new(
        settings: &Settings,
        project: &Project,
        (name, def): (&str, &SourceDef),
        registry: Option<&Arc<Registry>>,
        worker: &str,
    ) -> anyhow::Result<Bringing> {
        let topic = topic(&settings.group, name);
        let workers = project.definitions.workers.clone().context("the project has no [workers]")?;
        let format = project.plan.source(name).and_then(|source| project.row_format(source));
        let format = format.with_context(|| format!("there is no source `{name}`"))?;
        let column = def.partition_by.as_deref().unwrap_or(&workers.key);
        let key = format.schema.index(column).with_context(|| format!("source `{name}` has no column `{column}`"))?;
        let decoder = Decoder::new(def, registry, &project.dir).map_err(|problem| anyhow::anyhow!("source `{name}`: {problem}"))?;
        let purpose = format!("repartition-{name}");
        let mut consumer = settings.config(&purpose);
        // With all partitions of a member going at once, what it has read and not sent on can be forgotten.
        consumer.set("group.protocol", "classic").set("partition.assignment.strategy", "roundrobin");
        consumer.set("group.id", &topic).set("enable.auto.commit", "false").set("isolation.level", "read_committed");
        // A position that is not there any more is told of, never jumped over unseen.
        consumer.set("auto.offset.reset", "error");
        client::usual(&mut consumer, &[("session.timeout.ms", "10000"), ("fetch.wait.max.ms", "100")]);
        let mut producer = settings.config(&purpose);
        producer.set("transactional.id", format!("{topic}.{worker}")).set("linger.ms", "1");
        producer.set("message.max.bytes", client::LARGEST_MESSAGE);
        client::usual(&mut producer, &[("compression.type", "zstd"), ("transaction.timeout.ms", "10000"), ("message.timeout.ms", "10000")]);
        let from = def.topic.clone().with_context(|| format!("source `{name}` has no topic"))?;
        Ok(Bringing { source: name.to_owned(), start: def.start, from, to: topic, workers, key, format, decoder, consumer, producer })
    }

    /// Sends records on until told to stop.
    pub fn run(&self, runtime: &Handle, stopping: &AtomicBool) {
        let mut backoff = Backoff::new();
        while !stopping.load(Ordering::Acquire) {
            if let Err(e) = self.stretch(runtime, stopping, &mut backoff) {
                tracing::warn!(source = self.source, error = %format!("{e:#}"), again_in = ?backoff.next(), "records are not brought to their shards");
                backoff.wait(stopping);
            }
        }
    }

    /// Sends on until something goes wrong. Then a new producer fences off what was left open, and how far the topic has come is asked for anew.
    fn stretch(&self, runtime: &Handle, stopping: &AtomicBool, backoff: &mut Backoff) -> anyhow::Result<()> {
        let producer = Producer::new(&self.producer, runtime)?;
        producer.library().init_transactions(PATIENCE).context("no transactions")?;
        let consumer: BaseConsumer<Membership> =
            self.consumer.create_with_context(Membership { start: self.start, state: Mutex::default() }).map_err(client::refused)?;
        consumer.subscribe(&[&self.from]).context("the group could not be joined")?;
        let mut transactions = 0;
        while !stopping.load(Ordering::Acquire) {
            let read = self.read(&consumer)?;
            let mut state = lock(&consumer.context().state);
            let Some(identity) = &state.identity else { continue };
            let mut positions = state.begun.clone().unwrap_or_default();
            behind(&read, &mut positions)?;
            if positions.count() == 0 {
                continue;
            }
            let brought = self.bring(&read)?;
            transactions += 1;
            let library = producer.library();
            library.begin_transaction().context("no transaction could be begun")?;
            for record in &brought {
                producer.send(transactions, record.outgoing(&self.to)).context("a record could not be sent")?;
            }
            producer.wait(transactions, ARRIVAL).context("a record was not delivered")?;
            producer.send_offsets(positions, Arc::clone(identity))?;
            library.commit_transaction(PATIENCE).context("the transaction was not committed")?;
            state.begun = None;
            backoff.reset();
        }
        Ok(())
    }

    /// What is there; nothing waits for more to come.
    fn read(&self, consumer: &BaseConsumer<Membership>) -> anyhow::Result<Vec<OwnedMessage>> {
        let mut read = Vec::new();
        let mut patience = Backoff::STEP;
        while read.len() < TRANSACTION {
            let polled = consumer.poll(patience);
            let mut state = lock(&consumer.context().state);
            if let Some(problem) = state.problem.take() {
                return Err(problem);
            }
            if std::mem::take(&mut state.revoked) {
                read.clear();
            }
            drop(state);
            match polled {
                None => break,
                Some(Ok(message)) => read.push(message.detach()),
                Some(Err(e)) if client::passes(&e) => tracing::debug!(error = %e, "Kafka"),
                Some(Err(e)) => return Err(anyhow::Error::new(e).context(format!("topic \"{}\"", self.from))),
            }
            patience = Duration::ZERO;
        }
        Ok(read)
    }

    /// Each record with the shard that it belongs to.
    fn bring<'a>(&self, read: &'a [OwnedMessage]) -> anyhow::Result<Vec<Brought<'a>>> {
        let mut brought = Vec::new();
        for message in read {
            let payload = message.payload();
            let arrived = EventTime(message.timestamp().to_millis().unwrap_or(0).saturating_mul(1000));
            let row = match self.decoder.frame(payload) {
                Ok(frame) => self.decoder.decode(payload, frame.as_ref(), &self.format, arrived),
                Err(Unframed::Rejected(rejection)) => Err(rejection),
                Err(Unframed::Down(id, reason)) => anyhow::bail!("schema {id} is needed: {reason}"),
            };
            let key = match &row {
                // It tells of no row.
                Ok(None) => continue,
                Ok(Some(row)) => key_text(&row.row[self.key]).map(|text| text.into_owned()),
                Err(_) => None,
            };
            let shard = row.ok().flatten().and_then(|row| self.workers.shard_of(&row.row[self.key]));
            // What belongs to no shard is turned away by any of them.
            let shard = shard.unwrap_or(message.partition().unsigned_abs() % self.workers.shards);
            brought.push(Brought { shard, key, message });
        }
        Ok(brought)
    }
}

/// A record on its way to a shard.
struct Brought<'a> {
    shard: u32,
    key: Option<String>,
    message: &'a OwnedMessage,
}

impl Brought<'_> {
    /// As it was, but for the key.
    fn outgoing<'a>(&'a self, topic: &'a str) -> BaseRecord<'a, str, [u8], usize> {
        let mut record = BaseRecord::with_opaque_to(topic, 0).partition(self.shard as i32);
        record.key = self.key.as_deref();
        record.payload = self.message.payload();
        record.timestamp = self.message.timestamp().to_millis();
        record.headers = self
            .message
            .headers()
            .map(|headers| headers.iter().fold(OwnedHeaders::new_with_capacity(headers.count()), |all, header| all.insert(header)));
        record
    }
}

/// Moves the positions behind the records.
fn behind(read: &[OwnedMessage], positions: &mut TopicPartitionList) -> anyhow::Result<()> {
    for message in read {
        let next = Offset::Offset(message.offset() + 1);
        match positions.find_partition(message.topic(), message.partition()) {
            Some(mut of) => of.set_offset(next)?,
            None => positions.add_partition_offset(message.topic(), message.partition(), next)?,
        }
    }
    Ok(())
}
