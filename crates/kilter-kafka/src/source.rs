//! Reads the topics of all sources into the event log.
//!
//! One thread holds one consumer with every partition assigned by hand; the log says where each is taken up, so that nothing depends on what Kafka remembers of
//! the group. It is told the positions all the same, a little later, for whoever looks at the lag from outside.
//!
//! A worker reads one partition of each topic; of a source with a `partition_by`, of the topic that `repartition` makes of it.
//!
//! Whatever goes wrong ends a *stretch*: what is under way is forgotten, the sequencer is asked again how far it is, and reading goes on from there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use kilter_connect::{Decoded, OperationOf, Rejection, RowFormat, TimeOf};
use kilter_core::{EventTime, Origin, SourceId, Value};
use kilter_runtime::project::{Connector, Project, Start, WorkersDef};
use kilter_runtime::{CHUNK_ROWS, Enqueued, PartitionStatus, Positions, Service};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::statistics::Statistics;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::runtime::Handle;

use crate::client::{self, Backoff, Logged, PATIENCE, Settings, lock};
use crate::formats::{Decoder, Frame, Missing, Registry, Unframed};
use crate::reader::{self, Desk, Inbox, Orders};
use crate::repartition;

/// Chunks on their way to the sequencer at a time.
const IN_FLIGHT: usize = 8;
/// How often positions are told to Kafka, and records that left no event are noted in the log.
const NOTE_EVERY: Duration = Duration::from_secs(5);
/// How often new partitions are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The same while a topic is waited for.
const LOOK_EVERY_WAITING: Duration = Duration::from_secs(5);
const MISPLACED_HINT: &str =
    "produce it with the column's text as the key, and say how the producer chooses partitions with `partitioner` of [workers]";
/// A stretch of this length went well, whatever ended it.
const LONG: Duration = Duration::from_secs(30);

/// The library's consumer.
#[derive(Clone)]
pub struct Consumer {
    library: Arc<BaseConsumer<Ends>>,
    /// Tells Kafka how far everything is. Of a worker it is one without partitions: while positions are on their way, the library begins to read no others.
    positions: Arc<BaseConsumer<Ends>>,
    /// Where the shards of a worker ask for their partitions.
    desk: Option<Desk>,
    group: String,
    /// For topics that may be shortened.
    admin: ClientConfig,
}

/// Keeps the end of every partition, as the library last heard of it.
#[derive(Default)]
struct Ends {
    ends: Mutex<BTreeMap<(String, u32), u64>>,
}

impl ClientContext for Ends {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        client::error(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        let mut ends = lock(&self.ends);
        for (topic, of) in statistics.topics {
            for (partition, of) in of.partitions {
                if let (Ok(partition), Ok(end)) = (u32::try_from(partition), u64::try_from(of.hi_offset)) {
                    ends.insert((topic.clone(), partition), end);
                }
            }
        }
    }
}

impl ConsumerContext for Ends {}

impl Consumer {
    pub fn new(settings: &Settings) -> anyhow::Result<Consumer> {
        let library = Arc::new(Consumer::settings(settings).create_with_context(Ends::default()).map_err(client::refused)?);
        let positions = Arc::clone(&library);
        Ok(Consumer { library, positions, desk: None, group: settings.group.clone(), admin: settings.config("source") })
    }

    fn settings(settings: &Settings) -> ClientConfig {
        let mut config = settings.config("source");
        config
            .set("group.id", &settings.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // A position that is not there any more is told of, never jumped over unseen.
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("statistics.interval.ms", "1000");
        // Records are wanted as soon as they are there; one partition of which many wait keeps the others for a moment only.
        client::usual(&mut config, &[("fetch.wait.max.ms", "100"), ("fetch.queue.backoff.ms", "20")]);
        config
    }

    /// One that several stretches may use at a time, while [`Consumer::hand_out`] runs.
    pub fn shared(settings: &Settings) -> anyhow::Result<(Consumer, Orders)> {
        let (desk, orders) = Desk::new();
        let positions = Consumer::settings(settings).create_with_context(Ends::default()).map_err(client::refused)?;
        Ok((Consumer { positions: Arc::new(positions), desk: Some(desk), ..Consumer::new(settings)? }, orders))
    }

    pub fn hand_out(&self, orders: &Orders, stopping: &AtomicBool) {
        // What becomes of positions is heard here, and nothing else.
        let heard = || {
            if let Some(Err(e)) = self.positions.poll(Duration::ZERO) {
                tracing::debug!(error = %e, "Kafka");
            }
        };
        reader::hand_out(&self.library, orders, heard, stopping);
    }

    fn feed(&self, assignment: TopicPartitionList) -> anyhow::Result<Feed<'_>> {
        match &self.desk {
            Some(desk) => Ok(Feed::Handed(desk.assign(assignment)?)),
            None => {
                self.library.assign(&assignment).context("the partitions could not be assigned")?;
                Ok(Feed::Own(&self.library))
            }
        }
    }
}

/// Where a stretch takes its records from. Dropped: nothing is assigned any more.
enum Feed<'a> {
    Own(&'a BaseConsumer<Ends>),
    Handed(Inbox),
}

impl Drop for Feed<'_> {
    fn drop(&mut self) {
        if let Feed::Own(library) = self {
            let _ = library.unassign();
        }
    }
}

/// What is needed of a record.
struct Received<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    payload: Option<&'a [u8]>,
    millis: Option<i64>,
}

impl<'a> Received<'a> {
    fn of(message: &'a impl Message) -> Received<'a> {
        Received {
            topic: message.topic(),
            partition: message.partition(),
            offset: message.offset(),
            payload: message.payload(),
            millis: message.timestamp().to_millis(),
        }
    }
}

/// One source and its topic.
struct Topic {
    source: SourceId,
    name: String,
    topic: String,
    start: Start,
    format: Arc<RowFormat>,
    /// Or why there is none.
    decoder: Result<Decoder, String>,
    /// Ids of schemas that were noted since the stretch began.
    noted_schemas: BTreeSet<u32>,
    /// The one partition to read, of so many; none: all of them.
    share: Option<Share>,
    /// The topic is one that workers bring records to for their shards.
    brought: bool,
}

/// What of every topic belongs to this process's shard.
#[derive(Clone)]
struct Share {
    shard: u32,
    workers: WorkersDef,
    /// The key, and its place in the source's rows.
    column: String,
    key: usize,
}

/// What outlives a stretch: the schemas that are known, and those that are waited for.
pub struct Formats {
    registry: Option<Arc<Registry>>,
    /// By source: the schema that could not be asked for.
    awaited: BTreeMap<String, u32>,
}

impl Formats {
    pub fn new(registry: Option<Arc<Registry>>) -> Formats {
        Formats { registry, awaited: BTreeMap::new() }
    }

    /// Why the records of a topic cannot be read; none: they can, as far as is known.
    fn problem(&mut self, topic: &Topic) -> Option<String> {
        if let Err(problem) = &topic.decoder {
            return Some(problem.clone());
        }
        let (registry, id) = (self.registry.as_ref()?, self.awaited.get(&topic.name)?);
        if let Err(Missing::Down(reason)) = registry.schema(*id) {
            return Some(reason);
        }
        self.awaited.remove(&topic.name);
        None
    }
}

/// Reads until told to stop.
pub fn run(consumer: &Consumer, mut formats: Formats, service: &Arc<Service>, runtime: &Handle, stopping: &AtomicBool) {
    let mut backoff = Backoff::new();
    while !stopping.load(Ordering::Acquire) {
        let began = Instant::now();
        // After a change of definitions the sources are those of the new ones.
        let service = service.current();
        match Stretch::begin(consumer, &mut formats, &service, runtime).and_then(|mut stretch| stretch.run(stopping)) {
            Ok(()) => backoff.reset(),
            Err(e) => {
                if began.elapsed() > LONG {
                    backoff.reset();
                }
                tracing::warn!(error = %format!("{e:#}"), again_in = ?backoff.next(), "reading from Kafka was cut short");
                backoff.wait(stopping);
            }
        }
    }
}

/// Rows of one source that go to the sequencer together.
#[derive(Default)]
struct Chunk {
    rows: Vec<Result<Decoded, Rejection>>,
    next: Positions,
    /// Records that leave no event.
    eventless: bool,
    received: Option<Instant>,
}

/// A chunk that is on its way.
struct Sent {
    topic: usize,
    next: Positions,
    eventless: bool,
    answer: Enqueued,
}

struct Stretch<'a> {
    consumer: &'a Consumer,
    feed: Feed<'a>,
    formats: &'a mut Formats,
    service: &'a Arc<Service>,
    runtime: &'a Handle,
    topics: Vec<Topic>,
    /// The sources of a topic.
    by_topic: BTreeMap<String, Vec<usize>>,
    chunks: Vec<Chunk>,
    sent: VecDeque<Sent>,
    /// By topic: everything before these positions is in the log or among the dead letters.
    done: Vec<Positions>,
    /// What of it records without events have brought, and the log does not say.
    unsaid: Vec<bool>,
    /// The log is sure to have everything up to here once it is durable up to this offset.
    durable: u64,
    /// For topics that hold only what has not been taken yet.
    admin: Option<AdminClient<Logged>>,
    noted: Instant,
    looked: Instant,
    partitions: usize,
    /// A topic is not there, or cannot be read on.
    waited_for: bool,
}

impl<'a> Stretch<'a> {
    /// Assigns every partition of every topic, each from where the log ends.
    fn begin(
        consumer: &'a Consumer,
        formats: &'a mut Formats,
        service: &'a Arc<Service>,
        runtime: &'a Handle,
    ) -> anyhow::Result<Stretch<'a>> {
        let library = &*consumer.library;
        let project = &service.project;
        let topics: Vec<Topic> = project
            .source_settings
            .iter()
            .enumerate()
            .filter(|(_, settings)| settings.connector == Connector::Kafka)
            .filter_map(|(place, settings)| {
                let source = SourceId(place as u16);
                let def = project.definitions.source.get(&settings.name)?;
                let name = settings.name.clone();
                let brought = project.shard.is_some() && def.partition_by.is_some();
                let (topic, start) = match brought {
                    true => (repartition::topic(&consumer.group, &name), Start::Earliest),
                    false => (def.topic.clone()?, def.start),
                };
                let decoder = Decoder::new(def, formats.registry.as_ref(), &project.dir);
                let (format, noted_schemas) = (Arc::clone(service.format(source)), BTreeSet::new());
                let share = share(project, &format);
                Some(Topic { source, name, topic, start, format, decoder, noted_schemas, share, brought })
            })
            .collect();
        // Two sources of a topic may have come differently far.
        let mut from: BTreeMap<(&str, u32), u64> = BTreeMap::new();
        let mut done = Vec::new();
        let mut waited_for = false;
        for topic in &topics {
            let known = runtime.block_on(service.attach(topic.source, &format!("kafka:{}", topic.topic)))?;
            // One topic that cannot be read keeps no other from being read.
            let found = match formats.problem(topic) {
                Some(problem) => Err(problem),
                None => positions(library, topic, &known)?,
            };
            service.status.set_source_problem(&topic.name, found.as_ref().err().cloned());
            let positions = match found {
                Ok(positions) => positions,
                Err(problem) => {
                    tracing::warn!(source = topic.name, topic = topic.topic, problem, "the topic is not read yet; it is waited for");
                    waited_for = true;
                    done.push(Positions::new());
                    continue;
                }
            };
            if positions.keys().any(|partition| !known.contains_key(partition)) {
                // Where a new partition is begun is decided once.
                runtime.block_on(service.passed(topic.source, positions.clone()))?;
            }
            for (partition, next) in &positions {
                from.entry((&topic.topic, *partition)).and_modify(|first| *first = (*first).min(*next)).or_insert(*next);
            }
            done.push(positions);
        }
        let mut assignment = TopicPartitionList::new();
        for ((topic, partition), next) in from {
            assignment.add_partition_offset(topic, partition as i32, Offset::Offset(next as i64))?;
        }
        let feed = consumer.feed(assignment)?;
        let now = Instant::now();
        let brought = topics.iter().any(|topic| topic.brought);
        let admin = brought.then(|| consumer.admin.create_with_context(Logged).map_err(client::refused)).transpose()?;
        let mut by_topic: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (place, topic) in topics.iter().enumerate() {
            by_topic.entry(topic.topic.clone()).or_default().push(place);
        }
        let partitions = done.iter().map(Positions::len).sum();
        Ok(Stretch {
            consumer,
            feed,
            admin,
            formats,
            service,
            runtime,
            by_topic,
            chunks: topics.iter().map(|_| Chunk::default()).collect(),
            sent: VecDeque::new(),
            unsaid: vec![false; topics.len()],
            topics,
            done,
            durable: service.data.events.next_offset(),
            noted: now,
            looked: now,
            partitions,
            waited_for,
        })
    }

    /// Reads until told to stop, until the definitions change, or until something goes wrong.
    fn run(&mut self, stopping: &AtomicBool) -> anyhow::Result<()> {
        while !stopping.load(Ordering::Acquire) && Arc::ptr_eq(&self.service.current(), self.service) {
            // What is there already is taken together; nothing waits for more to come.
            let (mut taken, mut patience) = (0, Backoff::STEP);
            while taken < CHUNK_ROWS && self.poll(patience)? {
                (taken, patience) = (taken + 1, Duration::ZERO);
            }
            self.send()?;
            self.settle(if taken == 0 { 0 } else { IN_FLIGHT })?;
            if self.noted.elapsed() >= NOTE_EVERY {
                self.note()?;
            }
            let look_every = if self.waited_for { LOOK_EVERY_WAITING } else { LOOK_EVERY };
            if self.looked.elapsed() >= look_every && self.has_more_partitions()? {
                break;
            }
        }
        self.settle(0)?;
        self.note()
    }

    /// Whether something came.
    fn poll(&mut self, patience: Duration) -> anyhow::Result<bool> {
        let polled = match &self.feed {
            Feed::Own(library) => {
                let library: &'a BaseConsumer<Ends> = library;
                library.poll(patience).map(|polled| polled.map(|message| self.take(&Received::of(&message))))
            }
            Feed::Handed(inbox) => {
                let polled = inbox.poll(patience);
                polled.map(|polled| polled.map(|message| self.take(&Received::of(&message))))
            }
        };
        match polled {
            None => return Ok(false),
            Some(Ok(taken)) => taken?,
            Some(Err(e)) if client::passes(&e) => tracing::debug!(error = %e, "Kafka"),
            Some(Err(e)) => return Err(anyhow::Error::new(e)),
        }
        Ok(true)
    }

    /// Puts one record into the chunk of each source that reads its topic.
    fn take(&mut self, message: &Received<'_>) -> anyhow::Result<()> {
        let (Ok(partition), Ok(position)) = (u32::try_from(message.partition), u64::try_from(message.offset)) else { return Ok(()) };
        let origin = Origin { partition, position };
        for i in 0..self.by_topic.get(message.topic).map_or(0, Vec::len) {
            let place = self.by_topic[message.topic][i];
            // Another source of the topic may have fallen behind, or be waited for.
            if self.done[place].get(&partition).is_some_and(|next| *next <= position) {
                self.take_for(place, origin, message)?;
            }
        }
        Ok(())
    }

    fn take_for(&mut self, place: usize, origin: Origin, message: &Received<'_>) -> anyhow::Result<()> {
        let Origin { partition, position } = origin;
        let payload = message.payload;
        let frame = self.frame(place, payload)?;
        let format = &self.topics[place].format;
        let now = self.service.clock().now();
        // A source that goes by the time of arrival goes by the record's own, which is the same whenever it is read.
        let arrived = match (&format.time, message.millis) {
            (TimeOf::Arrival, Some(millis)) => EventTime(millis.saturating_mul(1000)),
            _ => now,
        };
        let decoder = self.topics[place].decoder.as_ref().map_err(|problem| anyhow::anyhow!("{problem}"))?;
        let decoded = frame.and_then(|frame| decoder.decode(payload, frame.as_ref(), format, arrived));
        let decoded = decoded.and_then(|row| self.topics[place].placed(row, origin, payload));
        let chunk = &mut self.chunks[place];
        chunk.received.get_or_insert_with(Instant::now);
        chunk.next.insert(partition, position + 1);
        match decoded {
            Ok(Some(mut row)) => {
                row.origin = Some(origin);
                chunk.rows.push(Ok(row));
            }
            Ok(None) => chunk.eventless = true,
            Err(mut rejection) => {
                rejection.origin = Some(Box::new(origin));
                chunk.rows.push(Err(rejection));
                chunk.eventless = true;
            }
        }
        Ok(())
    }

    /// What a record says of its schema, which is noted when it is met for the first time. A schema that cannot be asked for ends the stretch: its topic is not
    /// read before it can.
    fn frame(&mut self, place: usize, payload: Option<&[u8]>) -> anyhow::Result<Result<Option<Frame>, Rejection>> {
        let topic = &mut self.topics[place];
        let decoder = topic.decoder.as_ref().map_err(|problem| anyhow::anyhow!("{problem}"))?;
        let frame = match decoder.frame(payload) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(Ok(None)),
            Err(Unframed::Rejected(rejection)) => return Ok(Err(rejection)),
            Err(Unframed::Down(id, reason)) => {
                self.formats.awaited.insert(topic.name.clone(), id);
                return Err(anyhow::anyhow!("source `{}`: schema {id} is needed: {reason}", topic.name));
            }
        };
        let id = frame.known.id;
        if !topic.noted_schemas.contains(&id) {
            let fields = frame.shape(topic.format.operation == OperationOf::Debezium).told();
            self.runtime.block_on(self.service.met_schema(&topic.name, id, &fields))?;
            topic.noted_schemas.insert(id);
        }
        Ok(Ok(Some(frame)))
    }

    /// Hands the chunks to the sequencer.
    fn send(&mut self) -> anyhow::Result<()> {
        for (topic, chunk) in self.chunks.iter_mut().enumerate().filter(|(_, chunk)| !chunk.next.is_empty()) {
            let Chunk { rows, next, eventless, received } = std::mem::take(chunk);
            let source = self.topics[topic].source;
            let received = received.unwrap_or_else(Instant::now);
            let answer = self.runtime.block_on(self.service.enqueue(source, rows, self.service.clock().now(), received, true))?;
            self.sent.push_back(Sent { topic, next, eventless, answer });
        }
        Ok(())
    }

    /// Takes note of what has been taken in, until at most `leave` chunks are on their way.
    fn settle(&mut self, leave: usize) -> anyhow::Result<()> {
        while self.sent.len() > leave {
            let Some(Sent { topic, next, eventless, answer }) = self.sent.pop_front() else { break };
            let report = self.runtime.block_on(answer.answer()).with_context(|| format!("source `{}`", self.topics[topic].name))?;
            self.done[topic].extend(next);
            // Of one whose id was seen before the log does not tell that it was met.
            self.unsaid[topic] |= eventless || report.duplicates > 0;
            self.durable = self.durable.max(report.next_offset.unwrap_or(0));
        }
        Ok(())
    }

    /// Says how far everything is: to the log where it does not know, to Kafka, and to whoever asks for the status.
    fn note(&mut self) -> anyhow::Result<()> {
        self.noted = Instant::now();
        if self.unsaid.contains(&true) {
            // What was passed over must not be forgotten by a power failure that leaves the record that says so.
            self.service.data.dead_letters.log().sync().context("the dead letters could not be made durable")?;
        }
        for place in 0..self.topics.len() {
            if std::mem::take(&mut self.unsaid[place]) {
                self.runtime.block_on(self.service.passed(self.topics[place].source, self.done[place].clone()))?;
                // What was just said must not be forgotten either, nor the dead letters before it.
                self.durable = self.durable.max(self.service.data.events.next_offset());
            }
        }
        let mut list = TopicPartitionList::new();
        let ends = lock(&self.consumer.library.context().ends).clone();
        for (topic, done) in self.topics.iter().zip(&self.done) {
            for (&partition, &next) in done {
                list.add_partition_offset(&topic.topic, partition as i32, Offset::Offset(next as i64))?;
                let end = ends.get(&(topic.topic.clone(), partition)).copied().unwrap_or(next).max(next);
                self.service.status.set_partition(&topic.name, partition, PartitionStatus { next, end });
            }
        }
        self.runtime.block_on(self.service.data.settled(self.durable)).context("the event log could not be made durable")?;
        // For those who look from outside; if it fails, nothing is lost.
        if let Err(e) = self.consumer.positions.commit(&list, CommitMode::Async) {
            tracing::debug!(error = %e, "positions could not be told to Kafka");
        }
        Ok(())
    }

    fn has_more_partitions(&mut self) -> anyhow::Result<bool> {
        self.looked = Instant::now();
        self.shorten()?;
        let mut found = 0;
        for (topic, readers) in &self.by_topic {
            let there = client::partitions(self.consumer.library.client(), topic)?.map_or(0, |p| p.len());
            found += readers.len() * if self.service.project.shard.is_some() { there.min(1) } else { there };
        }
        Ok(found > self.partitions)
    }

    /// Takes away what was read of the topics that are there for this alone: it is in the log, and nothing can take it back.
    fn shorten(&mut self) -> anyhow::Result<()> {
        if self.admin.is_none() {
            return Ok(());
        }
        self.note()?;
        let mut list = TopicPartitionList::new();
        for (topic, done) in self.topics.iter().zip(&self.done).filter(|(topic, _)| topic.brought) {
            for (&partition, &next) in done {
                list.add_partition_offset(&topic.topic, partition as i32, Offset::Offset(next as i64))?;
            }
        }
        if let Some(admin) = &self.admin {
            let removed = self.runtime.block_on(admin.delete_records(&list, &AdminOptions::new().operation_timeout(Some(PATIENCE))));
            if let Err(e) = removed.and_then(|list| list.elements().iter().try_for_each(|element| element.error())) {
                tracing::warn!(error = %e, "what was read of the workers' own topics could not be deleted, and stays");
            }
        }
        Ok(())
    }
}

impl Topic {
    /// Turns a row away that lies in another partition than its key belongs to.
    fn placed(&self, row: Option<Decoded>, origin: Origin, payload: Option<&[u8]>) -> Result<Option<Decoded>, Rejection> {
        let misplaced = self.share.as_ref().zip(row.as_ref()).and_then(|(share, row)| share.misplaced(&row.row, origin));
        match misplaced {
            None => Ok(row),
            Some(message) => Err(Rejection::of_message("wrong_partition", message, payload.unwrap_or_default()).hint(MISPLACED_HINT)),
        }
    }
}

/// None: this process has all partitions.
fn share(project: &Project, format: &RowFormat) -> Option<Share> {
    let shard = project.shard.as_ref()?.number;
    let workers = project.definitions.workers.clone()?;
    let column = project.definitions.shard_key(&format.source)?.to_owned();
    let key = format.schema.index(&column)?;
    Some(Share { shard, workers, column, key })
}

impl Share {
    /// Why an event cannot be of this shard; none: it is.
    fn misplaced(&self, row: &[Value], origin: Origin) -> Option<String> {
        let Share { workers, column, key, .. } = self;
        match workers.shard_of(&row[*key]) {
            Some(shard) if shard == self.shard => None,
            Some(shard) => Some(format!("`{column}` {} belongs to partition {shard} and lay in {}", row[*key], origin.partition)),
            None => Some(format!("`{column}` is null, and says no shard")),
        }
    }
}

/// Where each partition of a topic is taken up; else why it is not there or cannot be read on.
fn positions(consumer: &BaseConsumer<Ends>, topic: &Topic, known: &Positions) -> anyhow::Result<Result<Positions, String>> {
    let Some(partitions) = client::partitions(consumer.client(), &topic.topic)? else {
        return Ok(Err(format!("there is no topic \"{}\"", topic.topic)));
    };
    let partitions = match &topic.share {
        None => partitions,
        Some(share) if partitions.len() == share.workers.shards as usize => vec![share.shard],
        Some(share) => {
            return Ok(Err(format!(
                "it has {} partitions, and `shards` of [workers] is {}: give every topic as many partitions as there are shards",
                partitions.len(),
                share.workers.shards
            )));
        }
    };
    let mut positions = Positions::new();
    let mut by_time = TopicPartitionList::new();
    for partition in partitions {
        let (low, high) = consumer
            .fetch_watermarks(&topic.topic, partition as i32, PATIENCE)
            .with_context(|| format!("no broker tells where partition {partition} of \"{}\" begins", topic.topic))?;
        let (low, high) = (low.max(0) as u64, high.max(0) as u64);
        let next = match (known.get(&partition), topic.start) {
            (Some(&next), _) if next > high => {
                tracing::error!(
                    source = topic.name,
                    topic = topic.topic,
                    partition,
                    read_up_to = next,
                    ends_at = high,
                    "more was read from the topic than it has: it was deleted and made anew, or is another. It is not read\n  \
                     hint: it holds other events under the old offsets: give it another name, or read it by a new source"
                );
                return Ok(Err(format!(
                    "partition {partition} of topic \"{}\" ends at {high}, and was read up to {next}: the topic was made anew",
                    topic.topic
                )));
            }
            (Some(&next), _) if next < low => {
                tracing::error!(
                    source = topic.name,
                    partition,
                    lost = low - next,
                    "Kafka has removed records that were not read yet: they are passed over"
                );
                low
            }
            (Some(&next), _) => next,
            (None, Start::Earliest) => low,
            (None, Start::Latest) => high,
            (None, Start::At(time)) => {
                by_time.add_partition_offset(&topic.topic, partition as i32, Offset::Offset(time.0.div_euclid(1000)))?;
                high
            }
        };
        positions.insert(partition, next);
    }
    if by_time.count() > 0 {
        let found = consumer.offsets_for_times(by_time, PATIENCE).context("no broker tells which records have that timestamp")?;
        for element in found.elements() {
            // None is so late: then from the end on.
            if let (Ok(partition), Offset::Offset(offset)) = (u32::try_from(element.partition()), element.offset())
                && let Ok(offset) = u64::try_from(offset)
            {
                positions.insert(partition, offset);
            }
        }
    }
    Ok(Ok(positions))
}
