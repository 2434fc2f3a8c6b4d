//! One of several processes that share a project: a member of a consumer group, for which Kafka says which shards are its own.
//!
//! The group subscribes to the topic `GROUP.shards`, which has a partition for each shard and nothing to read but who has it: whoever is assigned a partition takes the
//! shard's journal over (see `journal`), brings its folder up to date, says in the topic that it has the shard, and runs it like a project of its own: sources that read
//! one partition of each topic, sinks with cursors of their own. Before a partition goes to another member its shard is ended in order. Membership, the order of owners and
//! the fencing of those who do not know yet that they have been replaced are Kafka's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use kilter_core::Span;
use kilter_runtime::lake::Filling;
use kilter_runtime::project::{Delivery, Project, Shard};
use kilter_runtime::shards::Shards;
use kilter_runtime::{Service, StartOptions};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::bundles::{self, Journal};
use crate::client::{self, Backoff, Logged, Settings, lock};
use crate::control::{self, Following};
use crate::formats;
use crate::journal::{self, Ended, Owned};
use crate::repartition::{self, Bringing};
use crate::source::Consumer;
use crate::standby::{Copies, Keeping};
use crate::{DecisionJson, Running};

/// How a worker is started.
pub struct WorkerOptions {
    /// Its name, for good: a member that comes back under it within the session's timeout gets its shards again without a rebalance. None: it has none, and goes by its address.
    pub id: Option<String>,
    /// Where the other workers reach it.
    pub address: String,
    /// The folder of its shards' folders.
    pub data: PathBuf,
    pub start: StartOptions,
}

/// A member of the group, and the shards that it has.
pub struct Worker {
    shared: Arc<Shared>,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    shards: Arc<Shards>,
    settings: Settings,
    options: WorkerOptions,
    runtime: Handle,
    decision_json: DecisionJson,
    consumer: Consumer,
    running: Mutex<BTreeMap<u32, Share>>,
    copies: Copies,
}

/// The thread of a shard.
struct Share {
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Who has a shard, as the topic says it.
#[derive(serde::Serialize, serde::Deserialize)]
struct Ownership {
    shard: u32,
    worker: String,
    address: String,
}

/// The folder of a shard, among a worker's.
pub fn folder_of(data: &Path, shard: u32) -> PathBuf {
    data.join(format!("shard-{shard:05}"))
}

fn shards_topic(settings: &Settings) -> String {
    format!("{}.shards", settings.group)
}

impl Worker {
    /// Joins the group.
    ///
    /// # Errors
    /// The project has no [workers]; settings that the client library does not take; topics that cannot be made, or that have another number of partitions.
    pub fn start(project: Project, options: WorkerOptions, decision_json: DecisionJson) -> anyhow::Result<Worker> {
        let workers = project.definitions.workers.clone();
        let workers = workers.context("the project has no [workers]\n  hint: `kilter up` runs it as one process")?;
        let kafka = project.definitions.kafka.as_ref().context("the project has no [kafka]")?;
        let settings = Settings::new(kafka, &project.plan.project)?;
        let runtime = Handle::current();
        let replication = workers.replication;
        let whole = [
            ("cleanup.policy", "delete"),
            ("retention.ms", "-1"),
            ("retention.bytes", "-1"),
            ("max.message.bytes", client::LARGEST_MESSAGE),
        ];
        let compact = &[("cleanup.policy", "compact")][..];
        let mut topics = vec![
            (journal::topic(&settings), workers.shards, &whole[..]),
            (shards_topic(&settings), workers.shards, compact),
            (control::topic(&settings), 1, compact),
        ];
        // These are shortened by whoever has read them.
        let brought = repartition::sources(&project).map(|(source, _)| repartition::topic(&settings.group, source));
        topics.extend(brought.map(|topic| (topic, workers.shards, &whole[..])));
        for (topic, partitions, kept) in topics {
            let wanted = client::Topic { name: &topic, partitions, replication, settings: kept };
            let found = client::topic_made(&settings.config("worker"), &wanted, &runtime)?;
            if found != partitions as usize {
                bail!(
                    "topic \"{topic}\" has {found} partitions, and there are {} shards\n  hint: `shards` never changes; another `group` of [kafka] begins anew",
                    workers.shards
                );
            }
        }
        let name = options.id.clone().unwrap_or_else(|| options.address.clone());
        let registry = formats::registry(&project)?;
        let bringing = repartition::sources(&project).map(|source| Bringing::new(&settings, &project, source, registry.as_ref(), &name));
        let bringing = bringing.collect::<anyhow::Result<Vec<_>>>()?;
        let (copies, standby) = (Copies::new(workers.shards), workers.snapshots.filter(|_| workers.standby));
        let shards = Arc::new(Shards::new(Arc::new(project), workers, name));
        let (consumer, orders) = Consumer::shared(&settings)?;
        let shared = Arc::new(Shared { shards, settings, options, runtime, decision_json, consumer, running: Mutex::default(), copies });
        let stopping = Arc::new(AtomicBool::new(false));
        let member = shared.member()?;
        let listener = shared.listener()?;
        let mut worker = Worker { shared, stopping, threads: Vec::new() };
        worker.spawn("owners", move |shared, stopping| shared.listen(&listener, stopping))?;
        worker.spawn("kafka", move |shared, stopping| shared.consumer.hand_out(&orders, stopping))?;
        worker.spawn("member", move |shared, stopping| shared.be_member(member, stopping))?;
        if let Some(bundles) = standby {
            worker.spawn("standby", move |shared, stopping| shared.keep_copies(bundles, stopping))?;
        }
        for bringing in bringing {
            worker.spawn("repartition", move |shared, stopping| bringing.run(&shared.runtime, stopping))?;
        }
        Ok(worker)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce(&Arc<Shared>, &AtomicBool) + Send + 'static) -> anyhow::Result<()> {
        let (shared, stopping) = (Arc::clone(&self.shared), Arc::clone(&self.stopping));
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || run(&shared, &stopping));
        self.threads.push(thread.with_context(|| format!("no thread for {name}"))?);
        Ok(())
    }

    pub fn shards(&self) -> &Arc<Shards> {
        &self.shared.shards
    }

    /// Leaves the group; every shard is ended in order. Waits for it.
    pub fn stop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.shared.copies.leave();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the worker panicked");
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Begins and ends shards as the group gives and takes them.
struct Membership {
    shared: Arc<Shared>,
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
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        // The group waits with a partition until this returns.
        if let Rebalance::Revoke(list) = rebalance {
            self.shared.end(&numbers(list));
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = rebalance {
            // There is nothing to read: what the topic says is heard by another consumer.
            if let Err(e) = consumer.pause(list) {
                tracing::debug!(error = %e, "partitions could not be paused");
            }
            self.shared.begin(&numbers(list));
        }
    }
}

fn numbers(list: &TopicPartitionList) -> Vec<u32> {
    list.elements().iter().filter_map(|e| u32::try_from(e.partition()).ok()).collect()
}

impl Shared {
    fn member(self: &Arc<Self>) -> anyhow::Result<BaseConsumer<Membership>> {
        let mut config = self.settings.config("worker");
        config.set("group.id", format!("{}.workers", self.settings.group)).set("enable.auto.commit", "false");
        config.set("auto.offset.reset", "latest");
        // The newer protocol (KIP-848) assigns at the broker, a few partitions at a time.
        if config.get("group.protocol") != Some("consumer") {
            client::usual(&mut config, &[("partition.assignment.strategy", "cooperative-sticky"), ("session.timeout.ms", "10000")]);
        }
        if let Some(id) = &self.options.id {
            config.set("group.instance.id", id);
        }
        let consumer: BaseConsumer<Membership> =
            config.create_with_context(Membership { shared: Arc::clone(self) }).map_err(client::refused)?;
        consumer.subscribe(&[&shards_topic(&self.settings)]).context("the group could not be joined")?;
        Ok(consumer)
    }

    fn be_member(self: &Arc<Self>, mut consumer: BaseConsumer<Membership>, stopping: &AtomicBool) {
        let mut backoff = Backoff::new();
        while !stopping.load(Ordering::Acquire) {
            match consumer.poll(Backoff::STEP) {
                Some(Err(e)) if !client::passes(&e) => tracing::warn!(error = %e, "the group"),
                _ => {}
            }
            // Such as by the newer protocol, while the group still waits for the one that had this name and was killed.
            if let Some((code, reason)) = consumer.client().fatal_error() {
                tracing::warn!(error = %code, reason, again_in = ?backoff.next(), "the worker joins the group anew");
                self.end_all();
                backoff.wait(stopping);
                match self.member() {
                    Ok(anew) => consumer = anew,
                    Err(e) => tracing::warn!(error = %format!("{e:#}"), "the group could not be joined"),
                }
            }
        }
        self.end_all();
        consumer.unsubscribe();
        // Leaving is told to the broker when the consumer is dropped.
    }

    fn end_all(&self) {
        let all: Vec<u32> = lock(&self.running).keys().copied().collect();
        self.end(&all);
    }

    fn listener(&self) -> anyhow::Result<BaseConsumer<Logged>> {
        let mut config = self.settings.config("owners");
        config.set("group.id", format!("{}.listener", self.settings.group)).set("enable.auto.commit", "false");
        config.set("isolation.level", "read_committed").set("auto.offset.reset", "earliest").set("fetch.wait.max.ms", "100");
        let consumer: BaseConsumer<Logged> = config.create_with_context(Logged).map_err(client::refused)?;
        let topic = shards_topic(&self.settings);
        let mut list = TopicPartitionList::new();
        for shard in 0..self.shards.workers.shards {
            list.add_partition_offset(&topic, shard as i32, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        Ok(consumer)
    }

    /// Hears who has which shard.
    fn listen(&self, consumer: &BaseConsumer<Logged>, stopping: &AtomicBool) {
        while !stopping.load(Ordering::Acquire) {
            match consumer.poll(Backoff::STEP) {
                Some(Ok(message)) => match serde_json::from_slice(message.payload().unwrap_or_default()) {
                    Ok(Ownership { shard, worker, address }) => self.shards.hear(shard, worker, address),
                    Err(e) => tracing::warn!(error = %e, "a record of the shards' topic tells of no owner"),
                },
                Some(Err(e)) if !client::passes(&e) => tracing::warn!(error = %e, "who has which shard"),
                _ => {}
            }
        }
    }

    fn keep_copies(&self, bundles: Span, stopping: &AtomicBool) {
        let Shared { shards, settings, options, runtime, .. } = self;
        self.copies.keep(&Keeping { settings, shards, data: &options.data, runtime, bundles }, stopping);
    }

    fn begin(self: &Arc<Self>, shards: &[u32]) {
        for &shard in shards {
            let stopping = Arc::new(AtomicBool::new(false));
            let (shared, told) = (Arc::clone(self), Arc::clone(&stopping));
            let spawned = std::thread::Builder::new().name(format!("shard {shard}")).spawn(move || shared.keep(shard, &told));
            match spawned {
                Ok(thread) => {
                    let before = lock(&self.running).insert(shard, Share { stopping, thread });
                    debug_assert!(before.is_none(), "given twice");
                }
                Err(e) => tracing::error!(shard, error = %e, "no thread for the shard"),
            }
        }
    }

    /// Ends shards in order, all at a time, and waits for it.
    fn end(&self, shards: &[u32]) {
        let shares: Vec<Share> = {
            let mut running = lock(&self.running);
            shards.iter().filter_map(|shard| running.remove(shard)).collect()
        };
        for share in &shares {
            share.stopping.store(true, Ordering::Release);
        }
        for share in shares {
            if share.thread.join().is_err() {
                tracing::error!("the thread of a shard panicked");
            }
        }
    }

    /// Has a shard until told to stop, and takes it up again whatever goes wrong.
    fn keep(&self, shard: u32, stopping: &AtomicBool) {
        let mut backoff = Backoff::new();
        self.copies.take(shard, stopping);
        self.shards.set_copy(shard, None);
        while !stopping.load(Ordering::Acquire) {
            let began = std::time::Instant::now();
            let outcome = self.hold(shard, stopping);
            self.shards.set(shard, None);
            if let Err(e) = outcome
                && !stopping.load(Ordering::Acquire)
            {
                if began.elapsed() > Backoff::LONGEST {
                    backoff.reset();
                }
                tracing::warn!(shard, error = %format!("{e:#}"), again_in = ?backoff.next(), "the shard is taken up anew");
                backoff.wait(stopping);
            }
        }
        self.copies.give_back(shard);
    }

    /// How far apart the transactions of one shard's journal are begun, while there is little in each. A broker works for each of them about as long as for a thousand
    /// records; so up to twenty shards here together begin no more than two hundred a second, those of sinks counted in, which follow the journal's.
    fn pace(&self) -> Duration {
        let sinks = self.shards.project.definitions.sink.iter().filter(|(_, sink)| sink.delivery == Delivery::Transactional);
        let each = 1 + sinks.count();
        (Duration::from_millis(5) * (lock(&self.running).len() * each) as u32).min(Backoff::STEP)
    }

    /// Takes a shard over and runs it until told to stop, or until it is lost.
    fn hold(&self, number: u32, stopping: &AtomicBool) -> anyhow::Result<()> {
        let shard = Shard { number, data: folder_of(&self.options.data, number) };
        let project = Project { shard: Some(shard.clone()), ..Project::clone(&self.shards.project) };
        let owned = journal::take_over(&self.settings, &project, &shard, &self.runtime, stopping)?;
        let service = self.runtime.block_on(Service::start(project, self.options.start.clone()))?;
        let worker = self.shards.worker.clone();
        let ownership = Ownership { shard: number, worker, address: self.options.address.clone() };
        self.serve(&service, owned, &ownership, stopping)
    }

    fn serve(&self, service: &Arc<Service>, owned: Owned, ownership: &Ownership, stopping: &AtomicBool) -> anyhow::Result<()> {
        let number = ownership.shard;
        let (shipped, follow) = watch::channel(owned.shipped());
        service.data.follow_journal(follow.clone());
        owned.announce(&shards_topic(&self.settings), &number.to_string(), &serde_json::to_vec(ownership)?, stopping)?;
        let (last, ending) = (AtomicBool::new(false), AtomicBool::new(false));
        let (topic, marks) = owned.marks();
        let journal = Journal { settings: &self.settings, topic: &topic, shard: number, runtime: &self.runtime };
        std::thread::scope(|scope| -> anyhow::Result<()> {
            let shipping = std::thread::Builder::new()
                .name(format!("journal {number}"))
                .spawn_scoped(scope, || owned.ship(&service.data, shipped, &self.runtime, || self.pace(), (stopping, &last)))?;
            let running = crate::start_with(service, self.decision_json, Some(&self.consumer), &self.runtime);
            let running = running.and_then(|running| {
                let following = if service.leads() { None } else { Some(Following::start(&self.settings, service)?) };
                Ok((running, kilter_runtime::lake::start(service)?, following))
            });
            if running.is_ok() {
                if let Some(every) = self.shards.workers.snapshots {
                    let (marks, journal, ending) = (&marks, &journal, &ending);
                    let keeping = std::thread::Builder::new()
                        .name(format!("bundles {number}"))
                        .spawn_scoped(scope, move || bundles::keep(service, every, marks, journal, ending));
                    if let Err(e) = keeping {
                        tracing::error!(shard = number, error = %e, "no thread for the shard's bundles");
                    }
                }
                self.shards.set(number, Some(Arc::clone(service)));
                tracing::info!(shard = number, offset = service.data.events.next_offset(), "the shard is here");
                while !stopping.load(Ordering::Acquire) && !shipping.is_finished() {
                    std::thread::park_timeout(Backoff::STEP);
                }
                self.shards.set(number, None);
            }
            ending.store(true, Ordering::Release);
            let running = running.map(|(mut running, lake, following): (Running, Option<Filling>, Option<Following>)| {
                running.stop();
                drop((lake, following));
            });
            // With a snapshot; what it writes to the log goes out with the rest.
            let stopped = self.runtime.block_on(service.shutdown());
            last.store(true, Ordering::Release);
            let ended = shipping.join().unwrap_or_else(|_| Ended::Lost(anyhow::anyhow!("the thread of the journal panicked")));
            running?;
            match ended {
                Ended::Stopped => stopped.context("the shard did not end in order"),
                Ended::Lost(e) => Err(e),
            }
        })
    }
}
