//! Follows the decision log or the dead letters and writes what comes to a topic.
//!
//! A *cursor* says how far: the decisions on all events before it, or all dead letters before it, have been delivered. Only what nothing can take back is sent: a decision
//! once its event is settled. Kafka keeps the cursor as a committed offset of the group `GROUP.sink.NAME` (`GROUP.sink.NAME.SHARD` of one shard); a transactional sink
//! commits it in the same transaction as the records, which makes the two one. A copy lies in the data folder, for Kafka forgets offsets that are not renewed; the
//! further one counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kilter_core::{EventTime, SourceId};
use kilter_pipeline::decision::{Entry, decode};
use kilter_pipeline::{Layout, Plan};
use kilter_runtime::project::{Delivery, Feed, SinkDef, key_text};
use kilter_runtime::{Decoder, Record, Service, SinkStatus};
use kilter_store::files::{prepare_dir, write_whole};
use kilter_store::log::Log;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::runtime::Handle;

use crate::DecisionJson;
use crate::client::{self, Backoff, Logged, PATIENCE, Settings, lock};

/// Records delivered together at most: one transaction, or one wait for acknowledgements.
const BATCH: usize = 1000;
/// How often the cursor of an idempotent sink is told to Kafka and written down.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// One sink.
pub struct Sink {
    name: String,
    def: SinkDef,
    feed: Feed,
    service: Arc<Service>,
    producer: ClientConfig,
    consumer: ClientConfig,
    admin: ClientConfig,
    file: PathBuf,
    decision_json: DecisionJson,
}

/// Counts what was not delivered.
#[derive(Default)]
struct Deliveries {
    failed: AtomicU64,
    problem: Mutex<Option<String>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        client::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        client::error(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((e, _)) = result {
            self.failed.fetch_add(1, Ordering::Relaxed);
            *lock(&self.problem) = Some(e.to_string());
        }
    }
}

/// One record on its way.
struct Outgoing {
    key: Vec<u8>,
    value: Vec<u8>,
    headers: OwnedHeaders,
}

/// Where a sink stands with its cluster.
struct Line {
    producer: BaseProducer<Deliveries>,
    /// Only ever asked for offsets; a member of no group.
    offsets: BaseConsumer<Logged>,
    cursor: u64,
    /// Next position in the followed log.
    position: u64,
    layouts: BTreeMap<u64, Arc<Layout>>,
    noted: Instant,
}

impl Sink {
    pub fn new(
        service: &Arc<Service>,
        settings: &Settings,
        name: &str,
        def: &SinkDef,
        decision_json: DecisionJson,
    ) -> anyhow::Result<Sink> {
        let shard = service.project.shard.as_ref().map(|shard| format!(".{}", shard.number)).unwrap_or_default();
        let group = format!("{}.sink.{name}{shard}", settings.group);
        let purpose = format!("sink-{name}");
        let mut producer = settings.config(&purpose);
        producer.set("enable.idempotence", "true");
        client::usual(&mut producer, &[("linger.ms", "1"), ("compression.type", "zstd"), ("message.timeout.ms", "60000")]);
        if def.delivery == Delivery::Transactional {
            producer.set("transactional.id", &group);
        }
        let mut consumer = settings.config(&purpose);
        consumer.set("group.id", &group).set("enable.auto.commit", "false").set("isolation.level", "read_committed");
        let feed = def.feed().with_context(|| format!("sink `{name}` has nothing to take"))?;
        Ok(Sink {
            admin: settings.config(&purpose),
            file: service.project.data_dir().join("sinks").join(format!("{name}.json")),
            name: name.to_owned(),
            def: def.clone(),
            feed,
            service: Arc::clone(service),
            producer,
            consumer,
            decision_json,
        })
    }

    /// Writes until told to stop.
    pub fn run(self, runtime: &Handle, stopping: &AtomicBool) {
        let mut backoff = Backoff::new();
        while !stopping.load(Ordering::Acquire) {
            let outcome = self.open(runtime).and_then(|mut line| {
                backoff.reset();
                self.status(|status| {
                    *status = SinkStatus { next: line.position, end: self.log().next_offset(), problem: None, ..status.clone() }
                });
                self.follow(&mut line, runtime, stopping)
            });
            let Err(e) = outcome else { return };
            tracing::warn!(sink = self.name, error = %format!("{e:#}"), again_in = ?backoff.next(), "nothing is delivered");
            self.status(|status| status.problem = Some(format!("{e:#}")));
            backoff.wait(stopping);
        }
    }

    fn status(&self, change: impl FnOnce(&mut SinkStatus)) {
        self.service.status.change_sink(&self.name, change);
    }

    fn log(&self) -> &Log {
        match self.feed {
            Feed::Decisions(_) => &self.service.data.decisions,
            Feed::DeadLetters => self.service.data.dead_letters.log(),
        }
    }

    fn transactional(&self) -> bool {
        self.def.delivery == Delivery::Transactional
    }

    /// The topic made if it is to be, zombies fenced off, the cursor found.
    fn open(&self, runtime: &Handle) -> anyhow::Result<Line> {
        prepare_dir(self.file.parent().unwrap_or(Path::new(".")))?;
        let producer: BaseProducer<Deliveries> = self.producer.create_with_context(Deliveries::default()).map_err(client::refused)?;
        let offsets: BaseConsumer<Logged> = self.consumer.create_with_context(Logged).map_err(client::refused)?;
        if client::partitions(offsets.client(), &self.def.topic)?.is_none() {
            self.make_topic(runtime)?;
        }
        if self.transactional() {
            // What an earlier producer of this sink left open is ended here, so the committed cursor stands still from now on.
            producer.init_transactions(PATIENCE).context("no transactions")?;
        }
        let cursor = self.kept(&offsets)?;
        let data = &self.service.data;
        let (what, end) = match self.feed {
            Feed::Decisions(_) => ("event log", data.events.next_offset()),
            Feed::DeadLetters => ("dead letters", data.dead_letters.log().next_offset()),
        };
        if cursor > end {
            bail!(
                "sink `{}` has delivered up to offset {cursor} of the {what}, which ends at {end}\n  \
                 hint: the data folder is older than what was delivered from it (a backup?); give the sink another name to begin anew",
                self.name
            );
        }
        let position = match self.feed {
            Feed::Decisions(_) => self.service.decisions_from(cursor)?,
            Feed::DeadLetters => cursor.max(self.log().start_offset()),
        };
        Ok(Line { producer, offsets, cursor, position, layouts: BTreeMap::new(), noted: Instant::now() })
    }

    fn make_topic(&self, runtime: &Handle) -> anyhow::Result<()> {
        let Some(partitions) = self.def.partitions else {
            bail!("there is no topic \"{}\"\n  hint: make it, or let the sink do so: `partitions = 6`", self.def.topic);
        };
        let topic = client::Topic { name: &self.def.topic, partitions, replication: self.def.replication, settings: &[] };
        client::make_topic(&self.admin, &topic, runtime)
    }

    fn place(&self, cursor: u64) -> anyhow::Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.def.topic, 0, Offset::Offset(cursor as i64))?;
        Ok(list)
    }

    /// How far it has come, as Kafka and the data folder know it.
    fn kept(&self, offsets: &BaseConsumer<Logged>) -> anyhow::Result<u64> {
        let asked = offsets.committed_offsets(self.place(0)?, PATIENCE).context("no broker tells how far the sink has come")?;
        let committed = asked.elements().iter().find_map(|e| match e.offset() {
            Offset::Offset(offset) => u64::try_from(offset).ok(),
            _ => None,
        });
        let written = match std::fs::read(&self.file) {
            Ok(bytes) => Some(serde_json::from_slice::<Written>(&bytes).with_context(|| format!("{} is damaged", self.file.display()))?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(anyhow::Error::new(e).context(format!("cannot read {}", self.file.display()))),
        };
        let written = written.filter(|w| w.topic == self.def.topic).map(|w| w.next);
        Ok(committed.max(written).unwrap_or(0))
    }

    /// Sends what comes until told to stop.
    fn follow(&self, line: &mut Line, runtime: &Handle, stopping: &AtomicBool) -> anyhow::Result<()> {
        let mut appended = self.log().watch_appended();
        loop {
            let stop = stopping.load(Ordering::Acquire);
            let end = *appended.borrow_and_update();
            if line.position < end {
                self.deliver(line, end, runtime)?;
            } else if stop {
                return self.note(line, true);
            } else {
                self.note(line, false)?;
                // A timeout is no more than a look at `stopping`.
                let _ = runtime.block_on(async { tokio::time::timeout(Backoff::STEP, appended.changed()).await });
            }
        }
    }

    /// Sends one batch from the cursor on, and moves it.
    fn deliver(&self, line: &mut Line, end: u64, runtime: &Handle) -> anyhow::Result<()> {
        let log = self.log();
        // Nothing leaves that a power failure could take back; what follows from a journal cannot be taken back.
        if !self.service.data.has_journal() {
            runtime.block_on(log.durable(end)).context("the log could not be made durable")?;
        }
        let mut reader = log.reader(line.position);
        // A change of definitions may have come meanwhile.
        let plan = Arc::clone(&self.service.current().plan);
        let decoder = self.service.data.decoder(&plan);
        let (mut batch, mut next, mut cursor) = (Vec::new(), line.position, line.cursor);
        while next < end {
            let Some((offset, bytes)) = reader.next_record()? else { break };
            let entry = match self.feed {
                Feed::Decisions(_) => self.decision(line, (&plan, &decoder), offset, bytes)?,
                Feed::DeadLetters => Some((offset + 1, self.dead_letter(offset, bytes)?)),
            };
            if let Some((after, outgoing)) = entry {
                // The decisions on one event stay together: the cursor has no place between them.
                if batch.len() >= BATCH && after > cursor {
                    break;
                }
                batch.extend(outgoing);
                cursor = after;
            }
            next = offset + 1;
        }
        if matches!(self.feed, Feed::Decisions(_)) && cursor > line.cursor {
            runtime.block_on(self.service.data.settled(cursor)).context("the event log could not be made durable")?;
        }
        let delivered = batch.len() as u64;
        if delivered > 0 || (self.transactional() && cursor > line.cursor) {
            self.send(line, batch, cursor)?;
        }
        line.cursor = cursor;
        line.position = next;
        self.status(|status| {
            status.next = next;
            status.end = log.next_offset();
            status.delivered += delivered;
        });
        Ok(())
    }

    fn send(&self, line: &Line, batch: Vec<Outgoing>, cursor: u64) -> anyhow::Result<()> {
        let producer = &line.producer;
        let context = producer.context();
        context.failed.store(0, Ordering::Relaxed);
        if self.transactional() {
            producer.begin_transaction().context("no transaction could be begun")?;
        }
        let count = batch.len();
        for Outgoing { key, value, headers } in batch {
            // The timestamp is that of sending: by the event's time, retention would remove what is replayed of the past as soon as it is there.
            let mut record = BaseRecord::<[u8], [u8]>::to(&self.def.topic).key(&key).payload(&value).headers(headers);
            // A full queue empties while it is waited for.
            while let Err((e, back)) = producer.send(record) {
                if e.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    return Err(anyhow::Error::new(e).context("a record could not be sent"));
                }
                producer.poll(Backoff::STEP);
                record = back;
            }
            producer.poll(Duration::ZERO);
        }
        if self.transactional() {
            let group = line.offsets.group_metadata().context("the consumer has no group")?;
            producer.send_offsets_to_transaction(&self.place(cursor)?, &group, PATIENCE).context("the transaction's cursor")?;
            // Any failure, also one that leaves the outcome open, ends this producer: the next one fences it off and asks how far it is.
            producer.commit_transaction(PATIENCE).context("the transaction was not committed")?;
            return Ok(());
        }
        producer.flush(Duration::from_secs(60)).context("records were not acknowledged")?;
        let failed = context.failed.load(Ordering::Relaxed);
        if failed > 0 {
            let problem = lock(&context.problem).take().unwrap_or_default();
            bail!("{failed} of {count} records were not delivered: {problem}");
        }
        Ok(())
    }

    /// Writes the cursor down, and tells it to Kafka where no transaction has.
    fn note(&self, line: &mut Line, now: bool) -> anyhow::Result<()> {
        if !now && line.noted.elapsed() < NOTE_EVERY {
            return Ok(());
        }
        line.noted = Instant::now();
        let written = Written { topic: self.def.topic.clone(), next: line.cursor };
        let known = std::fs::read(&self.file).ok().and_then(|bytes| serde_json::from_slice::<Written>(&bytes).ok());
        if known.as_ref() == Some(&written) {
            return Ok(());
        }
        if !self.transactional() {
            line.offsets.commit(&self.place(line.cursor)?, CommitMode::Sync).context("Kafka did not take the cursor")?;
        }
        Ok(write_whole(&self.file, &[&serde_json::to_vec(&written)?])?)
    }

    /// Of one entry of the decision log the offset behind its event, and its record if it is a decision of this sink; none: it is no decision.
    fn decision(
        &self,
        line: &mut Line,
        reading: (&Plan, &Decoder),
        offset: u64,
        bytes: &[u8],
    ) -> anyhow::Result<Option<(u64, Option<Outgoing>)>> {
        let (layout, decision) = match decode(bytes).with_context(|| format!("decision log, offset {offset}"))? {
            Entry::Decision(layout, decision) => (layout, decision),
            Entry::Layout(layout) => {
                line.layouts.insert(offset, Arc::new(layout));
                return Ok(None);
            }
            Entry::Erased(_, erased) => return Ok(Some((erased.offset + 1, None))),
        };
        let after = decision.offset + 1;
        let layout = self.layout(line, layout)?;
        if let Feed::Decisions(Some(wanted)) = &self.feed
            && *wanted != layout.decision
        {
            return Ok(Some((after, None)));
        }
        let id = format!("{}-{}", layout.decision, decision.offset);
        let key = match &self.def.key {
            Some(column) => self.key(column, reading, decision.offset)?,
            None => id.clone().into_bytes(),
        };
        let source = format!("/projects/{}/decisions/{}", self.service.project.plan.project, layout.decision);
        let value = (self.decision_json)(&decision, &layout);
        let headers = headers(&id, &source, "kilter.decision", decision.time);
        Ok(Some((after, Some(Outgoing { key, value, headers }))))
    }

    fn layout(&self, line: &mut Line, offset: u64) -> anyhow::Result<Arc<Layout>> {
        if let Some(layout) = line.layouts.get(&offset) {
            return Ok(Arc::clone(layout));
        }
        let bytes = self.service.data.decisions.read(offset)?.with_context(|| format!("decision log: there is no layout at {offset}"))?;
        let Entry::Layout(layout) = decode(&bytes)? else { bail!("decision log: record {offset} is no layout") };
        let layout = Arc::new(layout);
        line.layouts.insert(offset, Arc::clone(&layout));
        Ok(layout)
    }

    /// The value of a column of the event that was decided on, as text.
    fn key(&self, column: &str, (plan, decoder): (&Plan, &Decoder), offset: u64) -> anyhow::Result<Vec<u8>> {
        let Some(bytes) = self.service.data.history.record(offset)? else { return Ok(Vec::new()) };
        let record = decoder.decode(offset, &bytes).with_context(|| format!("event log, offset {offset}"))?;
        let Record::Event(event) = record else { return Ok(Vec::new()) };
        let SourceId(source) = event.source;
        let place = plan.sources[usize::from(source)].schema.index(column);
        let text = place.and_then(|place| key_text(&event.row[place]));
        Ok(text.map_or_else(Vec::new, |text| text.as_bytes().to_vec()))
    }

    fn dead_letter(&self, offset: u64, bytes: &[u8]) -> anyhow::Result<Option<Outgoing>> {
        let letter: kilter_store::dead_letter::DeadLetter =
            serde_json::from_slice(bytes).with_context(|| format!("dead letters, offset {offset}"))?;
        let id = format!("dead-letter-{offset}");
        let source = format!("/projects/{}/dead-letters", self.service.project.plan.project);
        let time = EventTime(letter.at_micros);
        Ok(Some(Outgoing {
            key: letter.source.unwrap_or_default().into_bytes(),
            value: bytes.to_vec(),
            headers: headers(&id, &source, "kilter.dead_letter", time),
        }))
    }
}

/// The cursor in the data folder.
#[derive(PartialEq, serde::Serialize, serde::Deserialize)]
struct Written {
    topic: String,
    next: u64,
}

/// The attributes of a CloudEvent (version 1.0, Kafka protocol binding, binary content mode).
fn headers(id: &str, source: &str, kind: &str, time: EventTime) -> OwnedHeaders {
    let time = time.to_string();
    let all = [
        ("ce_specversion", "1.0"),
        ("ce_id", id),
        ("ce_source", source),
        ("ce_type", kind),
        ("ce_time", &time),
        ("content-type", "application/json"),
    ];
    all.into_iter()
        .fold(OwnedHeaders::new_with_capacity(all.len()), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }))
}
