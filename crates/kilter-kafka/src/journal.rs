//! A shard's event log in Kafka: one partition of the journal topic, which outlives every worker.
//!
//! The worker that has a shard appends to the log on its own disk and *ships*: each stretch of the log goes to the journal in one transaction. Nothing that follows
//! from a record leaves the worker before the record is in the journal. A worker that takes a shard over fences its predecessor off by the transactional id that all
//! owners of the shard share, reads the journal to its end, and makes its folder agree. So there is one history of a shard, whoever has been its owner.
//!
//! A message is one kind byte and what follows it, numbers little endian:
//! - 0 records of the event log: offset of the first u64, then per record its length u32 and bytes;
//! - 1 the catalog that records from here on are read by, as its file;
//! - 2 a part of a file that records from here on name: the length of its hash u8, the hash, number of the part u32, of how many u32, bytes;
//! - 3 records of the dead letters, as 0.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kilter_runtime::bundle::Bundles;
use kilter_runtime::journal::{Agreed, forget_from};
use kilter_runtime::project::{Project, Shard};
use kilter_runtime::{CATALOG_FILE, Control, Data};
use kilter_store::artifacts::Artifacts;
use kilter_store::files::{prepare_dir, write_whole};
use kilter_store::log::{Log, LogOptions};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::bundles::{self, Marks};
use crate::client::{self, Backoff, Logged, PATIENCE, Settings};
use crate::control;
use crate::outgoing::Producer;
use crate::standby;

const RECORDS: u8 = 0;
const CATALOG: u8 = 1;
pub const ARTIFACT: u8 = 2;
const DEAD_LETTERS: u8 = 3;

/// Bytes of records in one message, about; a single record may be longer.
const MESSAGE: usize = 256 << 10;
/// Bytes of records in one transaction, about.
const TRANSACTION: usize = 8 << 20;
/// Records that are worth a transaction without waiting for more.
const ENOUGH: u64 = 1000;
/// Bytes of a file in one message.
const PART: usize = 512 << 10;
/// How often it is written down how far the journal agrees with the folder.
const NOTE_EVERY: Duration = Duration::from_secs(5);
/// Largest file that is taken from the journal.
const ARTIFACT_LIMIT: u64 = 1 << 30;
/// Where it is written down.
pub const NOTE_FILE: &str = "journal.json";

/// A shard whose journal is this process's to write.
pub struct Owned {
    topic: String,
    /// Where shard 0 says which models are in service.
    control: String,
    shard: u32,
    folder: PathBuf,
    producer: Producer,
    agreed: Agreed,
    marks: Arc<Marks>,
    /// Entries of the catalog that the journal has.
    catalog: usize,
    /// Transactions that were begun, which number what is sent.
    begun: Cell<usize>,
}

/// The topic that holds the journals of a project's shards.
pub fn topic(settings: &Settings) -> String {
    format!("{}.journal", settings.group)
}

/// Takes the journal of a shard over and makes the shard's folder agree with it. Whoever had it before cannot write to it any more.
///
/// # Errors
/// Brokers that do not answer, a folder that cannot be written, a journal that does not go on where the folder ends.
pub fn take_over(settings: &Settings, project: &Project, shard: &Shard, runtime: &Handle, stopping: &AtomicBool) -> anyhow::Result<Owned> {
    let topic = topic(settings);
    let purpose = format!("journal-{}", shard.number);
    let mut config = settings.config(&purpose);
    config.set("transactional.id", format!("{topic}.{}", shard.number)).set("linger.ms", "0");
    client::usual(&mut config, &[("compression.type", "zstd"), ("transaction.timeout.ms", "10000"), ("message.timeout.ms", "10000")]);
    config.set("message.max.bytes", client::LARGEST_MESSAGE);
    let producer = Producer::new(&config, runtime)?;
    producer.library().init_transactions(PATIENCE).context("the journal could not be taken over")?;
    std::fs::create_dir_all(&shard.data).with_context(|| format!("cannot make the data folder {}", shard.data.display()))?;
    prepare_dir(&shard.data)?;
    let reading = Reader::new(settings, &shard.number.to_string())?.of(shard.number)?;
    let mut folder = Folder::open(project, shard)?;
    standby::own(&shard.data)?;
    if !folder.serves(&reading) {
        let reaches = folder.is_reached(&reading);
        drop(folder);
        let made = Bundles::of(project).and_then(|bundles| {
            bundles.map_or(Ok(false), |bundles| bundles::make_folder(&bundles, project, &reading, |_| true, runtime, stopping))
        });
        match made {
            Err(e) if reaches => tracing::warn!(shard = shard.number, error = %format!("{e:#}"), "no bundle: the whole journal is read"),
            made => made.map(|_| ())?,
        }
        folder = Folder::open(project, shard)?;
    }
    folder.catch_up(&reading, &Reach { stopping, grows: false })?;
    // Behind the last record lie the marks of transactions, of which none is open any more.
    folder.agreed.position = folder.agreed.position.max(reading.high);
    folder.note()?;
    let agreed = folder.agreed;
    let marks = Arc::new(Marks::default());
    marks.add(agreed);
    Ok(Owned {
        topic,
        control: control::topic(settings),
        shard: shard.number,
        folder: shard.data.clone(),
        producer,
        agreed,
        marks,
        catalog: 0,
        begun: Cell::new(0),
    })
}

/// Reads journals, one at a time.
pub struct Reader {
    consumer: Arc<BaseConsumer<Logged>>,
    topic: String,
}

/// A shard's journal, to be read.
pub struct Reading {
    consumer: Arc<BaseConsumer<Logged>>,
    topic: String,
    pub shard: u32,
    /// Where it begins and ends.
    pub low: u64,
    pub high: u64,
}

impl Reader {
    pub fn new(settings: &Settings, purpose: &str) -> anyhow::Result<Reader> {
        let topic = topic(settings);
        let mut config = settings.config(&format!("journal-{purpose}"));
        config
            .set("group.id", format!("{topic}.reader"))
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            // The end of a journal is told once a broker has nothing for so long.
            .set("fetch.wait.max.ms", "50");
        Ok(Reader { consumer: Arc::new(config.create_with_context(Logged).map_err(client::refused)?), topic })
    }

    /// The journal of a shard, as long as it is now.
    pub fn of(&self, shard: u32) -> anyhow::Result<Reading> {
        let ends = self.consumer.fetch_watermarks(&self.topic, shard as i32, PATIENCE);
        let (low, high) = ends.with_context(|| format!("no broker tells where the journal of shard {shard} ends"))?;
        Ok(Reading { consumer: Arc::clone(&self.consumer), topic: self.topic.clone(), shard, low: low as u64, high: high as u64 })
    }
}

/// How far a journal is read.
pub struct Reach<'a> {
    pub stopping: &'a AtomicBool,
    /// Another worker appends to it meanwhile: it is read to where it ended when that was asked, for some seconds at most, and a stop leaves it at what was read. Else to its
    /// end, and a stop is an error.
    pub grows: bool,
}

impl Reading {
    /// Reads on from a position, until `each` says `false` or as far as `reach` goes. Gives the position behind what was read, and whether that was all.
    fn read(&self, from: u64, reach: &Reach<'_>, each: impl FnMut(&[u8]) -> anyhow::Result<bool>) -> anyhow::Result<(u64, bool)> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, self.shard as i32, Offset::Offset(from as i64))?;
        self.consumer.assign(&list)?;
        let reached = self.read_assigned(from, reach, each);
        self.consumer.unassign()?;
        reached
    }

    fn read_assigned(
        &self,
        from: u64,
        reach: &Reach<'_>,
        mut each: impl FnMut(&[u8]) -> anyhow::Result<bool>,
    ) -> anyhow::Result<(u64, bool)> {
        let (mut reached, began) = (from, Instant::now());
        loop {
            if reach.stopping.load(Ordering::Acquire) {
                if reach.grows {
                    return Ok((reached, false));
                }
                bail!("told to stop");
            }
            if reach.grows && began.elapsed() > PATIENCE {
                return Ok((reached, false));
            }
            match self.consumer.poll(Backoff::STEP) {
                None => {}
                Some(Ok(message)) if message.partition() != self.shard as i32 => {}
                Some(Ok(message)) => {
                    let goes_on = each(message.payload().unwrap_or_default())
                        .with_context(|| format!("journal of shard {}, position {}", self.shard, message.offset()))?;
                    reached = message.offset() as u64 + 1;
                    if !goes_on || reach.grows && reached >= self.high {
                        return Ok((reached, true));
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) if partition == self.shard as i32 => return Ok((reached, true)),
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(e)) if client::passes(&e) => {}
                Some(Err(e)) => return Err(anyhow::Error::new(e).context("the journal cannot be read")),
            }
        }
    }

    /// One record of the event log, which lies at or behind a position; none: it does not.
    pub fn record(&self, from: u64, offset: u64, stopping: &AtomicBool) -> anyhow::Result<Option<Vec<u8>>> {
        let mut found = None;
        self.read(from, &Reach { stopping, grows: false }, |message| {
            let Some(rest) = message.strip_prefix(&[RECORDS]) else { return Ok(true) };
            let (first, records) = unframed(rest)?;
            if let Some(at) = offset.checked_sub(first) {
                found = records.get(at as usize).map(|record| record.to_vec());
                return Ok(found.is_none());
            }
            Ok(false)
        })?;
        Ok(found)
    }
}

/// The logs of a folder that nobody runs.
pub struct Folder {
    dir: PathBuf,
    events: Log,
    dead_letters: Log,
    artifacts: Artifacts,
    parts: Parts,
    agreed: Agreed,
}

impl Folder {
    pub fn open(project: &Project, shard: &Shard) -> anyhow::Result<Folder> {
        let dir = shard.data.clone();
        let first_offset = shard.first_offset();
        let open = |name: &str, first_offset| {
            let options = LogOptions { first_offset, segment_bytes: project.settings.log.segment_bytes, ..LogOptions::default() };
            Log::open(dir.join(name), options).map(|(log, _)| log)
        };
        let (events, dead_letters) = (open("events", first_offset)?, open("dead-letters", 0)?);
        let path = dir.join(NOTE_FILE);
        let nothing = Agreed { position: 0, events: first_offset, dead_letters: 0 };
        let agreed = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => nothing,
            Err(e) => return Err(anyhow::Error::new(e).context(format!("cannot read {}", path.display()))),
        };
        // A power failure may have taken what was noted as agreed: then from the start.
        let whole = agreed.events <= events.next_offset() && agreed.dead_letters <= dead_letters.next_offset();
        let agreed = if whole { agreed } else { nothing };
        let artifacts = Artifacts::open(dir.join("artifacts"), ARTIFACT_LIMIT)?;
        Ok(Folder { dir, events, dead_letters, artifacts, parts: Parts::default(), agreed })
    }

    /// Whether no record has ever come here.
    pub fn is_empty(&self) -> bool {
        self.agreed.position == 0 && self.events.next_offset() == self.events.start_offset()
    }

    /// Whether the journal goes on where it ends.
    pub fn serves(&self, reading: &Reading) -> bool {
        !self.is_empty() && self.is_reached(reading)
    }

    /// Whether the journal still has what follows.
    pub fn is_reached(&self, reading: &Reading) -> bool {
        self.agreed.position >= reading.low
    }

    /// Up to which offset its event log is what the journal says.
    pub fn next_offset(&self) -> u64 {
        self.agreed.events
    }

    /// Writes down how far it agrees with the journal.
    pub fn note(&self) -> anyhow::Result<()> {
        // Not to be believed after a power failure unless the records are there as well.
        self.events.sync()?;
        self.dead_letters.sync()?;
        note(&self.dir, self.agreed)
    }

    /// Reads the journal from where it was known to agree as far as `reach` goes; says whether that was all.
    pub fn catch_up(&mut self, reading: &Reading, reach: &Reach<'_>) -> anyhow::Result<bool> {
        let from = self.agreed.position;
        if reading.low > from {
            bail!(
                "the journal of shard {} begins at {}, this folder needs it from {from} on, and there is no bundle to begin from\n  \
                 hint: without `snapshots` of [workers], the topic \"{}\" must keep its records: set retention.ms and retention.bytes to -1",
                reading.shard,
                reading.low,
                reading.topic
            );
        }
        let (reached, is_all) = reading.read(from, reach, |message| self.take(message).map(|()| true))?;
        self.agreed.position = reached;
        Ok(is_all)
    }

    fn take(&mut self, message: &[u8]) -> anyhow::Result<()> {
        let (kind, rest) = message.split_first().context("an empty message")?;
        match *kind {
            RECORDS => {
                let (first, records) = unframed(rest)?;
                let dir = &self.dir;
                let next = agree(&self.events, first, &records, |cut| {
                    tracing::warn!(offset = cut, "the shard went on elsewhere from here: what this folder has otherwise is cut off");
                    forget_from(dir, cut)
                })?;
                // What lies before a bundle is not looked at again.
                self.agreed.events = next.max(self.events.start_offset());
            }
            DEAD_LETTERS => {
                let (first, records) = unframed(rest)?;
                self.agreed.dead_letters = agree(&self.dead_letters, first, &records, |_| Ok(()))?;
            }
            CATALOG => self.take_catalog(rest)?,
            ARTIFACT => self.parts.take(rest, &self.artifacts)?,
            other => bail!("a message of kind {other}: was it written by a newer kilter?"),
        }
        Ok(())
    }

    fn take_catalog(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.dir.join(CATALOG_FILE);
        if std::fs::read(&path).is_ok_and(|own| own == bytes) {
            return Ok(());
        }
        // Records that are this folder's alone may mean something else by the other catalog.
        let agreed = self.agreed.events;
        if self.events.next_offset() > agreed {
            forget_from(&self.dir, agreed)?;
            self.events.truncate_from(agreed)?;
        }
        Ok(write_whole(&path, &[bytes])?)
    }
}

/// Files of which not all parts have come, by their hashes.
#[derive(Default)]
pub struct Parts(BTreeMap<String, Vec<u8>>);

impl Parts {
    /// Takes in a part; the last one makes the file.
    pub fn take(&mut self, rest: &[u8], artifacts: &Artifacts) -> anyhow::Result<()> {
        let cut_short = "a part of a file is cut short";
        let (len, rest) = rest.split_first().context(cut_short)?;
        let (hash, rest) = rest.split_at_checked(usize::from(*len)).context(cut_short)?;
        let (part, rest) = rest.split_first_chunk().context(cut_short)?;
        let (of, bytes) = rest.split_first_chunk().context(cut_short)?;
        let (part, of) = (u32::from_le_bytes(*part), u32::from_le_bytes(*of));
        let hash = std::str::from_utf8(hash)?.to_owned();
        let file = self.0.entry(hash.clone()).or_default();
        if part == 0 {
            file.clear();
        }
        file.extend_from_slice(bytes);
        if part + 1 == of {
            let bytes = self.0.remove(&hash).unwrap_or_default();
            let stored = artifacts.put(&bytes)?;
            if stored.as_str() != hash {
                bail!("a file that should have the hash {hash} has {}", stored.as_str());
            }
        }
        Ok(())
    }
}

/// Makes a log have these records from `first` on. Where it has others, it is cut off there, after `cut` was told. Gives the offset behind them.
fn agree(log: &Log, first: u64, records: &[&[u8]], cut: impl FnOnce(u64) -> anyhow::Result<()>) -> anyhow::Result<u64> {
    let (start, end) = (log.start_offset(), log.next_offset());
    if first > end {
        bail!("the records from {end} to {first} are missing");
    }
    let next = first + records.len() as u64;
    let mut differs = None;
    for (offset, record) in (first..).zip(records).skip_while(|(offset, _)| *offset < start).take_while(|(offset, _)| *offset < end) {
        if log.read(offset)?.is_none_or(|own| own != **record) {
            differs = Some(offset);
            break;
        }
    }
    if let Some(offset) = differs {
        cut(offset)?;
        log.truncate_from(offset)?;
    }
    let known = log.next_offset();
    if known < next {
        log.append(&records[(known - first) as usize..])?;
    }
    Ok(next)
}

fn note(folder: &Path, agreed: Agreed) -> anyhow::Result<()> {
    Ok(write_whole(&folder.join(NOTE_FILE), &[&serde_json::to_vec(&agreed)?])?)
}

fn framed(kind: u8, first: u64) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend_from_slice(&first.to_le_bytes());
    message
}

fn push(message: &mut Vec<u8>, record: &[u8]) {
    message.extend_from_slice(&(record.len() as u32).to_le_bytes());
    message.extend_from_slice(record);
}

fn unframed(bytes: &[u8]) -> anyhow::Result<(u64, Vec<&[u8]>)> {
    let (first, mut rest) = bytes.split_first_chunk().context("a message without an offset")?;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (len, after) = rest.split_first_chunk().context("a record without its length")?;
        let (record, after) = after.split_at_checked(u32::from_le_bytes(*len) as usize).context("a record that is cut short")?;
        records.push(record);
        rest = after;
    }
    Ok((u64::from_le_bytes(*first), records))
}

/// What goes to the journal in one transaction.
#[derive(Default)]
struct Stretch {
    messages: Vec<Vec<u8>>,
    bytes: usize,
}

impl Stretch {
    /// Records of a log from `from` up to `until`, as far as they fit. `each` may put messages before the record that it is told of.
    fn records(
        &mut self,
        kind: u8,
        log: &Log,
        from: u64,
        until: u64,
        mut each: impl FnMut(&mut Stretch, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<u64> {
        let mut reader = log.reader(from);
        let mut next = from;
        let mut message = framed(kind, from);
        let empty = message.len();
        while next < until && self.bytes < TRANSACTION {
            let Some((offset, bytes)) = reader.next_record()? else { break };
            // What a record names comes before it.
            each(self, bytes)?;
            if message.len() + bytes.len() > MESSAGE && message.len() > empty {
                self.messages.push(std::mem::replace(&mut message, framed(kind, offset)));
            }
            push(&mut message, bytes);
            self.bytes += bytes.len();
            next = offset + 1;
        }
        if message.len() > empty {
            self.messages.push(message);
        }
        Ok(next)
    }

    /// A file, in parts.
    fn file(&mut self, hash: &str, bytes: &[u8]) {
        self.messages.extend(parts_of(hash, bytes));
    }
}

/// The messages of a file.
pub fn parts_of(hash: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    let parts: Vec<&[u8]> = if bytes.is_empty() { vec![bytes] } else { bytes.chunks(PART).collect() };
    let message = |(i, part): (usize, &&[u8])| {
        let numbers = [(i as u32).to_le_bytes(), (parts.len() as u32).to_le_bytes()].concat();
        [&[ARTIFACT, hash.len() as u8], hash.as_bytes(), &numbers, part].concat()
    };
    parts.iter().enumerate().map(message).collect()
}

/// Why shipping ended.
#[derive(Debug)]
pub enum Ended {
    /// Told to stop, and everything has gone out.
    Stopped,
    /// Another worker has the shard now, or the outcome of a transaction is not known: whoever goes on must take the journal over anew.
    Lost(anyhow::Error),
}

impl Owned {
    /// Sends the log's records to the journal until told to stop; tells `shipped` how far it has come. Dropping `shipped` tells those who wait that it will not go on.
    /// Once `told` to let the shard go it tries no longer than it must. `pace` says how far apart small transactions are begun.
    pub fn ship(
        mut self,
        data: &Arc<Data>,
        shipped: watch::Sender<Agreed>,
        runtime: &Handle,
        pace: impl Fn() -> Duration,
        (told, stopping): (&AtomicBool, &AtomicBool),
    ) -> Ended {
        match self.run(data, &shipped, runtime, pace, (told, stopping)) {
            Ok(()) => Ended::Stopped,
            Err(e) => Ended::Lost(e),
        }
    }

    /// Up to where the logs are in the journal.
    pub fn shipped(&self) -> Agreed {
        self.agreed
    }

    /// The topic of the journal, and the places where it stands together with the logs.
    pub fn marks(&self) -> (String, Arc<Marks>) {
        (self.topic.clone(), Arc::clone(&self.marks))
    }

    /// Says something in another topic, as only the owner of the journal can.
    pub fn announce(&self, topic: &str, key: &str, value: &[u8], told: &AtomicBool) -> anyhow::Result<()> {
        let record = || BaseRecord::with_opaque_to(topic, 0).partition(self.shard as i32).key(key).payload(value);
        self.commit(told, |batch| self.producer.send(batch, record())).map(|_| ())
    }

    fn run(
        &mut self,
        data: &Data,
        shipped: &watch::Sender<Agreed>,
        runtime: &Handle,
        pace: impl Fn() -> Duration,
        (told, stopping): (&AtomicBool, &AtomicBool),
    ) -> anyhow::Result<()> {
        let mut appended = data.events.watch_appended();
        let mut noted = Instant::now();
        let mut sent: Option<Instant> = None;
        shipped.send_replace(self.agreed);
        loop {
            let stop = stopping.load(Ordering::Acquire);
            if let Some(sent) = sent.filter(|_| !stop && data.events.next_offset() < self.agreed.events + ENOUGH) {
                std::thread::sleep(pace().saturating_sub(sent.elapsed()));
            }
            let end = *appended.borrow_and_update();
            // Asked after the log: a record that speaks of a dead letter never goes out before it.
            let dead = data.dead_letters.log().next_offset();
            if self.agreed.events < end || self.agreed.dead_letters < dead {
                sent = Some(Instant::now());
                self.send(data, end, dead, told)?;
                shipped.send_replace(self.agreed);
            } else if stop {
                return self.write_down(data);
            } else {
                // A timeout is no more than a look at `stopping`.
                let _ = runtime.block_on(async { tokio::time::timeout(Backoff::STEP, appended.changed()).await });
            }
            if noted.elapsed() >= NOTE_EVERY {
                noted = Instant::now();
                self.write_down(data)?;
            }
        }
    }

    fn write_down(&self, data: &Data) -> anyhow::Result<()> {
        // Not to be believed after a power failure unless the records are there as well.
        data.events.sync()?;
        data.dead_letters.log().sync()?;
        note(&self.folder, self.agreed)
    }

    /// One transaction with what fits of the logs up to these offsets.
    fn send(&mut self, data: &Data, events: u64, dead_letters: u64, told: &AtomicBool) -> anyhow::Result<()> {
        let mut stretch = Stretch::default();
        if let Some((count, bytes)) = data.catalog_beyond(self.catalog) {
            stretch.messages.push([&[CATALOG], bytes.as_slice()].concat());
            self.catalog = count;
        }
        let dead = data.dead_letters.log();
        let from = self.agreed.dead_letters.max(dead.start_offset());
        let dead_next = stretch.records(DEAD_LETTERS, dead, from, dead_letters, |_, _| Ok(()))?;
        let mut next = self.agreed.events;
        let mut said = Vec::new();
        if dead_next >= dead_letters {
            next = stretch.records(RECORDS, &data.events, next, events, |stretch, bytes| {
                if let Some(Control::Champion { artifact, reference, .. }) = Control::decode(bytes)? {
                    for hash in [artifact, reference] {
                        stretch.file(&hash, &data.artifact(&hash)?);
                    }
                    if self.shard == 0 {
                        said.extend(control::said_of(data, bytes)?);
                    }
                }
                Ok(())
            })?;
        }
        let position = self.commit(told, |batch| {
            for message in &stretch.messages {
                let record = BaseRecord::<(), [u8], usize>::with_opaque_to(&self.topic, 0);
                self.producer.send(batch, record.partition(self.shard as i32).payload(message))?;
            }
            // Of another batch: where it comes to lie is no place of the journal.
            for (key, value) in &said {
                let record = BaseRecord::with_opaque_to(&self.control, 0);
                self.producer.send(batch + 1, record.partition(0).key(key.as_str()).payload(value.as_slice()))?;
            }
            Ok(())
        })?;
        self.agreed = Agreed { position, events: next, dead_letters: dead_next };
        self.marks.add(self.agreed);
        Ok(())
    }

    /// One transaction of what `produce` sends as the batch that it is told, or as the one after it. Gives the largest offset that one of the former's records came to lie at, and one.
    /// What fails is tried again until `told` to let the shard go.
    fn commit(&self, told: &AtomicBool, produce: impl Fn(usize) -> Result<(), KafkaError>) -> anyhow::Result<u64> {
        let producer = self.producer.library();
        loop {
            let batch = 2 * self.begun.get();
            self.begun.set(self.begun.get() + 1);
            producer.begin_transaction().context("no transaction could be begun")?;
            let arrived = |batch| self.producer.wait(batch, PATIENCE);
            let outcome = produce(batch).and_then(|()| arrived(batch + 1)).and_then(|_| arrived(batch)).and_then(|next| {
                self.to_the_end(|| producer.commit_transaction(PATIENCE))?;
                Ok(next)
            });
            match outcome {
                Ok(next) => return Ok(next),
                Err(KafkaError::Transaction(e)) if e.txn_requires_abort() => {
                    tracing::warn!(shard = self.shard, error = %e, "a transaction of the journal is begun anew");
                }
                // What was sent within the transaction failed; so will its commit, without harm.
                Err(KafkaError::MessageProduction(code))
                    if !matches!(code, RDKafkaErrorCode::Fenced | RDKafkaErrorCode::MessageSizeTooLarge)
                        && producer.client().fatal_error().is_none() =>
                {
                    tracing::warn!(shard = self.shard, error = %code, "a transaction of the journal is begun anew");
                }
                Err(e) => return Err(anyhow::Error::new(e).context("the journal is not this worker's any more, or cannot be reached")),
            }
            self.producer.give_up();
            self.to_the_end(|| producer.abort_transaction(PATIENCE)).context("a transaction could not be given up")?;
            if told.load(Ordering::Acquire) {
                // Whoever goes on reads the journal, and knows of nothing else.
                bail!("the journal takes nothing, and the shard goes elsewhere");
            }
            std::thread::sleep(Backoff::STEP);
        }
    }

    /// A step of a transaction may be asked for again as long as its outcome is only late.
    fn to_the_end(&self, step: impl Fn() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
        let began = Instant::now();
        loop {
            match step() {
                Err(KafkaError::Transaction(e)) if e.is_retriable() && began.elapsed() < 6 * PATIENCE => {
                    tracing::debug!(shard = self.shard, error = %e, "the journal's transaction is waited for");
                }
                outcome => return outcome,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(dir: &Path, records: &[&[u8]]) -> Log {
        let (log, _) = Log::open(dir, LogOptions { first_offset: 7 << 40, ..LogOptions::default() }).unwrap();
        log.append(records).unwrap();
        log
    }

    fn all(log: &Log) -> Vec<Vec<u8>> {
        (log.start_offset()..log.next_offset()).map(|at| log.read(at).unwrap().unwrap().to_vec()).collect()
    }

    /// Ships a log and takes it in beside another one; gives what that has then, and where it was cut.
    fn check(shipped: &[&[u8]], own: &[&[u8]], cut_at: Option<u64>) {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (from, to) = (log(dirs[0].path(), shipped), log(dirs[1].path(), own));
        let start = from.start_offset();
        let mut stretch = Stretch::default();
        let next = stretch.records(RECORDS, &from, start, from.next_offset(), |_, _| Ok(())).unwrap();
        assert_eq!(next, from.next_offset());
        let mut cut = None;
        for message in &stretch.messages {
            assert_eq!(message[0], RECORDS);
            let (first, records) = unframed(&message[1..]).unwrap();
            agree(&to, first, &records, |at| {
                cut = Some(at - start);
                Ok(())
            })
            .unwrap();
        }
        assert_eq!(cut, cut_at);
        let kept = all(&to);
        assert_eq!(kept[..shipped.len()], all(&from));
        assert_eq!(kept.len(), if cut_at.is_some() { shipped.len() } else { shipped.len().max(own.len()) });
    }

    #[test]
    fn a_log_becomes_what_the_journal_says_and_keeps_what_goes_beyond_it() {
        let long = vec![5; MESSAGE];
        check(&[b"a", b"", b"c"], &[], None);
        check(&[b"a", b"b", b"c"], &[b"a"], None);
        check(&[b"a", b"b"], &[b"a", b"b", b"own"], None);
        check(&[b"a", b"b"], &[b"a", b"x", b"own"], Some(1));
        check(&[b"a", &long, b"c", &long, b"e"], &[b"a", &long, b"c", b"x"], Some(3));
    }

    #[test]
    fn damage_is_told_and_gaps_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let log = log(dir.path(), &[b"a"]);
        let gap = agree(&log, log.next_offset() + 1, &[b"z".as_slice()], |_| Ok(())).unwrap_err();
        assert!(gap.to_string().contains("are missing"), "{gap}");
        let mut message = framed(RECORDS, 3);
        push(&mut message, b"record");
        assert_eq!(unframed(&message[1..]).unwrap(), (3, vec![b"record".as_slice()]));
        for cut in 1..message.len() {
            let short = unframed(&message[1..cut]);
            assert!(short.is_err() || cut == 9, "{cut}: {short:?}");
        }
    }

    #[test]
    fn a_file_comes_through_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(dir.path().join("from"), ARTIFACT_LIMIT).unwrap();
        let project = kilter_runtime::project::check_text("[project]\nname = \"p\"\n", "kilter.toml", dir.path()).unwrap();
        let shard = Shard { number: 0, data: dir.path().join("to") };
        let mut folder = Folder::open(&project, &shard).unwrap();
        for bytes in [vec![], vec![1; 10], (0..2 * PART + 5).map(|i| (i % 251) as u8).collect()] {
            let hash = artifacts.put(&bytes).unwrap();
            let mut stretch = Stretch::default();
            stretch.file(hash.as_str(), &bytes);
            for message in &stretch.messages {
                folder.take(message).unwrap();
            }
            assert_eq!(folder.artifacts.get(&hash).unwrap(), bytes);
        }
        let mut stretch = Stretch::default();
        stretch.file(artifacts.put(b"one").unwrap().as_str(), b"other");
        assert!(folder.take(&stretch.messages[0]).unwrap_err().to_string().contains("should have the hash"));
        assert!(folder.take(&[9, 1]).unwrap_err().to_string().contains("newer kilter"));
    }
}
