//! Follows the decision log or the dead letters and writes what comes to a topic.
//!
//! A *cursor* says how far: the decisions on all events before it, or all dead letters before it, have been delivered. Only what nothing can take back is sent: a decision
//! once its event is settled. Kafka keeps the cursor as a committed offset of the group `GROUP.sink.NAME` (`GROUP.sink.NAME.SHARD` of one shard); a transactional sink
//! commits it in the same transaction as the records, which makes the two one. A copy lies in the data folder, for Kafka forgets offsets that are not renewed; the
//! further one counts.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kilter_core::{EventTime, SourceId};
use kilter_pipeline::decision::{Entry, decode};
use kilter_pipeline::{Layout, Plan};
use kilter_runtime::history::Records;
use kilter_runtime::project::{Delivery, Feed, SinkDef, key_text};
use kilter_runtime::{Decoder, Record, Service, SinkStatus};
use kilter_store::files::{prepare_dir, write_whole};
use kilter_store::log::{Log, LogReader};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;

use crate::DecisionJson;
use crate::client::{self, Backoff, Logged, PATIENCE, Settings};
use crate::outgoing::Producer;

/// Records that are acknowledged together at most.
const BATCH: usize = 1000;
/// Records of one transaction at most: each costs half a dozen requests, whatever is in it.
const TRANSACTION: usize = 10_000;
/// No batch is begun while so many records are under way.
const UNDER_WAY: usize = 10_000;
/// Events that are passed over one by one on the way to the next that is asked for.
const PASSED_OVER: u64 = 1000;
/// How long records may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(60);
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

/// One record on its way.
struct Outgoing {
    key: Vec<u8>,
    value: Vec<u8>,
    headers: OwnedHeaders,
}

/// Where a sink stands with its cluster.
struct Line<'a> {
    producer: Producer,
    /// Only ever asked for offsets; a member of no group.
    offsets: BaseConsumer<Logged>,
    /// What has been delivered.
    cursor: u64,
    /// What has been read and sent.
    sent: u64,
    reader: LogReader,
    /// The events that were decided on, where something of them is asked for.
    events: Option<Records<'a>>,
    /// The newest event that a key was taken of, and the key.
    key: Option<(u64, Vec<u8>)>,
    layouts: BTreeMap<u64, Arc<Layout>>,
    under_way: VecDeque<Batch>,
    /// Batches so far.
    batches: usize,
    noted: Instant,
}

/// Records that were sent together.
struct Batch {
    number: usize,
    records: usize,
    /// Where the cursor stands once they have arrived, and how far the followed log has then been delivered.
    cursor: u64,
    position: u64,
}

impl Line<'_> {
    fn has_room(&self) -> bool {
        self.under_way.iter().map(|batch| batch.records).sum::<usize>() < UNDER_WAY
    }
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
                    *status = SinkStatus { next: line.reader.next_offset(), end: self.log().next_offset(), problem: None, ..status.clone() }
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
    fn open(&self, runtime: &Handle) -> anyhow::Result<Line<'_>> {
        prepare_dir(self.file.parent().unwrap_or(Path::new(".")))?;
        let producer = Producer::new(&self.producer, runtime)?;
        let offsets: BaseConsumer<Logged> = self.consumer.create_with_context(Logged).map_err(client::refused)?;
        if client::partitions(offsets.client(), &self.def.topic)?.is_none() {
            self.make_topic(runtime)?;
        }
        if self.transactional() {
            // What an earlier producer of this sink left open is ended here, so the committed cursor stands still from now on.
            producer.library().init_transactions(PATIENCE).context("no transactions")?;
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
        let (reader, layouts, under_way) = (self.log().reader(position), BTreeMap::new(), VecDeque::new());
        Ok(Line {
            producer,
            offsets,
            cursor,
            sent: cursor,
            reader,
            events: None,
            key: None,
            layouts,
            under_way,
            batches: 0,
            noted: Instant::now(),
        })
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
    fn follow<'a>(&'a self, line: &mut Line<'a>, runtime: &Handle, stopping: &AtomicBool) -> anyhow::Result<()> {
        let mut appended = self.log().watch_appended();
        loop {
            let stop = stopping.load(Ordering::Acquire);
            let end = *appended.borrow_and_update();
            self.arrived(line)?;
            self.note(line, false)?;
            let has_room = line.has_room();
            if has_room && line.reader.next_offset() < end {
                self.deliver(line, end, runtime)?;
                continue;
            }
            if stop && line.under_way.is_empty() {
                return self.note(line, true);
            }
            runtime.block_on(async {
                tokio::select! {
                    _ = appended.changed(), if has_room => {}
                    () = line.producer.changed() => {}
                    // No more than a look at `stopping`.
                    () = tokio::time::sleep(Backoff::STEP) => {}
                }
            });
        }
    }

    /// Moves the cursor behind what has been acknowledged.
    fn arrived(&self, line: &mut Line<'_>) -> anyhow::Result<()> {
        while let Some(batch) = line.under_way.front() {
            if line.producer.arrived(batch.number).context("a record was not delivered")?.is_none() {
                break;
            }
            if let Some(batch) = line.under_way.pop_front() {
                self.delivered(line, &batch);
            }
        }
        Ok(())
    }

    fn delivered(&self, line: &mut Line<'_>, batch: &Batch) {
        line.cursor = batch.cursor;
        self.status(|status| {
            status.next = batch.position;
            status.end = self.log().next_offset();
            status.delivered += batch.records as u64;
        });
    }

    /// Sends one batch of what lies before `end`: at once, or as a transaction that is waited for.
    fn deliver<'a>(&'a self, line: &mut Line<'a>, end: u64, runtime: &Handle) -> anyhow::Result<()> {
        let (mut records, batch) = self.read(line, end)?;
        // Nothing leaves that a power failure could take back. Decisions follow from events, and come back with them.
        match self.feed {
            Feed::Decisions(_) if batch.cursor > line.sent => {
                runtime.block_on(self.service.data.settled(batch.cursor)).context("the event log could not be made durable")?;
            }
            Feed::DeadLetters => {
                let settled = self.service.data.dead_letters_settled(batch.position);
                runtime.block_on(settled).context("the dead letters could not be made durable")?;
            }
            _ => {}
        }
        let moves = batch.cursor > line.sent;
        line.sent = batch.cursor;
        if self.transactional() {
            if moves || batch.records > 0 {
                self.transaction(line, &mut records, &batch)?;
            }
            self.delivered(line, &batch);
            return Ok(());
        }
        self.send(line, &mut records, batch.number)?;
        line.under_way.push_back(batch);
        Ok(())
    }

    /// What of the followed log goes out as the next batch.
    fn read<'a>(&'a self, line: &mut Line<'a>, end: u64) -> anyhow::Result<(Vec<Outgoing>, Batch)> {
        // A change of definitions may have come meanwhile.
        let plan = Arc::clone(&self.service.current().plan);
        let decoder = self.service.data.decoder(&plan);
        let most = if self.transactional() { TRANSACTION } else { BATCH };
        let (mut records, mut cursor) = (Vec::new(), line.sent);
        // Of a batch that ends before what was read last, that is read again.
        let mut position = line.reader.next_offset();
        let mut reader = std::mem::replace(&mut line.reader, self.log().reader(position));
        while position < end {
            let Some((offset, bytes)) = reader.next_record()? else { break };
            let entry = match self.feed {
                Feed::Decisions(_) => self.decision(line, (&plan, &decoder), offset, bytes)?,
                Feed::DeadLetters => Some((offset + 1, self.dead_letter(offset, bytes)?)),
            };
            if let Some((after, outgoing)) = entry {
                // The decisions on one event stay together: the cursor has no place between them.
                if records.len() >= most && after > cursor {
                    reader = self.log().reader(offset);
                    break;
                }
                records.extend(outgoing);
                cursor = after;
            }
            position = offset + 1;
        }
        line.reader = reader;
        line.batches += 1;
        let batch = Batch { number: line.batches, records: records.len(), cursor, position };
        Ok((records, batch))
    }

    fn send(&self, line: &Line<'_>, records: &mut Vec<Outgoing>, batch: usize) -> anyhow::Result<()> {
        for Outgoing { key, value, headers } in records.drain(..) {
            // The timestamp is that of sending: by the event's time, retention would remove what is replayed of the past as soon as it is there.
            let record = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&self.def.topic, batch);
            line.producer.send(batch, record.key(&key).payload(&value).headers(headers)).context("a record could not be sent")?;
        }
        Ok(())
    }

    /// Records and cursor at once.
    fn transaction(&self, line: &Line<'_>, records: &mut Vec<Outgoing>, batch: &Batch) -> anyhow::Result<()> {
        let library = line.producer.library();
        library.begin_transaction().context("no transaction could be begun")?;
        self.send(line, records, batch.number)?;
        line.producer.wait(batch.number, ARRIVAL).context("a record was not delivered")?;
        let group = line.offsets.group_metadata().context("the consumer has no group")?;
        line.producer.send_offsets(self.place(batch.cursor)?, Arc::new(group))?;
        // Any failure, also one that leaves the outcome open, ends this producer: the next one fences it off and asks how far it is.
        library.commit_transaction(PATIENCE).context("the transaction was not committed")
    }

    /// Writes the cursor down, and tells it to Kafka where no transaction has.
    fn note(&self, line: &mut Line<'_>, now: bool) -> anyhow::Result<()> {
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
    fn decision<'a>(
        &'a self,
        line: &mut Line<'a>,
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
            Some(column) => self.key(line, column, reading, decision.offset)?,
            None => id.clone().into_bytes(),
        };
        let source = format!("/projects/{}/decisions/{}", self.service.project.plan.project, layout.decision);
        let value = (self.decision_json)(&decision, &layout);
        let headers = headers(&id, &source, "kilter.decision", decision.time);
        Ok(Some((after, Some(Outgoing { key, value, headers }))))
    }

    fn layout(&self, line: &mut Line<'_>, offset: u64) -> anyhow::Result<Arc<Layout>> {
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
    fn key<'a>(&'a self, line: &mut Line<'a>, column: &str, (plan, decoder): (&Plan, &Decoder), offset: u64) -> anyhow::Result<Vec<u8>> {
        if let Some((_, key)) = line.key.as_ref().filter(|(at, _)| *at == offset) {
            return Ok(key.clone());
        }
        let key = match self.event(line, offset)? {
            Some(bytes) => key_of(column, plan, decoder.decode(offset, &bytes).with_context(|| format!("event log, offset {offset}"))?),
            None => Vec::new(),
        };
        line.key = Some((offset, key.clone()));
        Ok(key)
    }

    /// An event that was decided on. They are asked for in order, so that one reader does.
    fn event<'a>(&'a self, line: &mut Line<'a>, offset: u64) -> anyhow::Result<Option<Vec<u8>>> {
        let mut events = line.events.take().filter(|events| (offset.saturating_sub(PASSED_OVER)..=offset).contains(&events.next_offset()));
        let reading = events.get_or_insert_with(|| self.service.data.history.records(offset));
        let mut found = None;
        while let Some((at, record)) = reading.next_record()? {
            if at >= offset {
                found = (at == offset).then(|| record.to_vec());
                break;
            }
        }
        line.events = events;
        Ok(found)
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

/// A column's value as text; nothing: it has none.
fn key_of(column: &str, plan: &Plan, record: Record) -> Vec<u8> {
    let Record::Event(event) = record else { return Vec::new() };
    let SourceId(source) = event.source;
    let place = plan.sources[usize::from(source)].schema.index(column);
    place.and_then(|place| key_text(&event.row[place])).map_or_else(Vec::new, |text| text.as_bytes().to_vec())
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
