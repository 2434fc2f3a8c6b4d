//! What is in service in a project that several workers share: shard 0 says it in the topic `GROUP.control`, and the other shards follow.
//!
//! Whoever has shard 0 says it in the transaction that takes the swap of models into the shard's journal. So what the topic says is what shard 0 does, and a worker
//! that has lost shard 0 cannot say anything. The topic is compacted by keys: of each model it keeps the version in service, with its files.
//!
//! A message is of a kind of the journal: 2 a part of a file, under the key `MODEL/ROLE/PART`; or 4, under the key `MODEL`, the record of the swap as
//! the log of shard 0 has it. The files of a version come before it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail};
use kilter_runtime::{Control, Data, Refusal, Service, ServiceError};
use kilter_store::StoreError;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::client::{self, Backoff, Logged, Settings};
use crate::journal::{ARTIFACT, Parts, parts_of};

const SWAP: u8 = 4;

/// The topic in which shard 0 says what is in service.
pub fn topic(settings: &Settings) -> String {
    format!("{}.control", settings.group)
}

/// Key and value.
pub type Said = (String, Vec<u8>);

/// What is to be said of a record of shard 0's log, if it is a swap.
pub fn said_of(data: &Data, record: &[u8]) -> anyhow::Result<Vec<Said>> {
    let Some(Control::Champion { model, artifact, reference, .. }) = Control::decode(record)? else { return Ok(Vec::new()) };
    let mut said = Vec::new();
    for (role, hash) in [("model", artifact), ("reference", reference)] {
        let parts = parts_of(&hash, &data.artifact(&hash)?);
        said.extend((0..).zip(parts).map(|(part, message)| (format!("{model}/{role}/{part}"), message)));
    }
    said.push((model, [&[SWAP], record].concat()));
    Ok(said)
}

/// Puts into service what shard 0 has in service, until told to stop.
fn follow(settings: &Settings, service: &Service, stopping: &AtomicBool) {
    let mut backoff = Backoff::new();
    while let Err(e) = hear(settings, service, stopping) {
        tracing::warn!(error = %format!("{e:#}"), again_in = ?backoff.next(), "what shard 0 has in service is not heard");
        backoff.wait(stopping);
    }
}

/// Hears the topic from its start: what this shard has in service already is passed over. What failed is tried again by hearing it anew; only a version that can never
/// serve here is left at that.
fn hear(settings: &Settings, service: &Service, stopping: &AtomicBool) -> anyhow::Result<()> {
    let topic = topic(settings);
    let mut config = settings.config("control");
    config.set("group.id", format!("{topic}.reader")).set("enable.auto.commit", "false").set("isolation.level", "read_committed");
    config.set("auto.offset.reset", "earliest").set("enable.partition.eof", "true").set("fetch.wait.max.ms", "100");
    let consumer: BaseConsumer<Logged> = config.create_with_context(Logged).map_err(client::refused)?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 0, Offset::Beginning)?;
    consumer.assign(&list)?;
    let mut parts = Parts::default();
    let mut newest: BTreeMap<String, Control> = BTreeMap::new();
    while !stopping.load(Ordering::Acquire) {
        match consumer.poll(Backoff::STEP) {
            None => {}
            Some(Ok(message)) => match message.payload().and_then(<[u8]>::split_first) {
                Some((&ARTIFACT, part)) => {
                    if let Err(e) = parts.take(part, &service.data.artifacts) {
                        if matches!(e.downcast_ref(), Some(StoreError::Io { .. })) {
                            return Err(e.context("a model's file cannot be stored"));
                        }
                        // Of a version that is no longer in service the topic may have kept some parts only.
                        tracing::debug!(error = %e, "a file of an earlier version is passed over");
                    }
                }
                Some((&SWAP, record)) => {
                    let swap = Control::decode(record)?.context("a swap that is none")?;
                    if let Control::Champion { model, .. } = &swap {
                        newest.insert(model.clone(), swap);
                    }
                }
                _ => bail!("a message of another kind, at {}: was it written by a newer kilter?", message.offset()),
            },
            // Only what is newest counts.
            Some(Err(KafkaError::PartitionEOF(_))) => {
                let mut failed = None;
                for (model, swap) in std::mem::take(&mut newest) {
                    match service.follow(&swap) {
                        Ok(true) => tracing::info!(model, "in service as at shard 0"),
                        Ok(false) => {}
                        // The shard goes elsewhere.
                        Err(ServiceError::Refused(Refusal::Stopping)) => return Ok(()),
                        Err(e @ ServiceError::Model(_)) => {
                            tracing::error!(model, error = %e, "what shard 0 has in service cannot be in service here");
                        }
                        Err(e) => {
                            failed = Some(anyhow::Error::new(e).context(format!("model \"{model}\" is not in service as at shard 0")));
                        }
                    }
                }
                if let Some(e) = failed {
                    return Err(e);
                }
            }
            Some(Err(e)) if client::passes(&e) => {}
            Some(Err(e)) => return Err(anyhow::Error::new(e).context(format!("topic \"{topic}\" cannot be read"))),
        }
    }
    Ok(())
}

/// The thread that follows shard 0.
pub struct Following {
    stopping: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Following {
    /// # Errors
    /// No thread.
    pub fn start(settings: &Settings, service: &Arc<Service>) -> anyhow::Result<Following> {
        let stopping = Arc::new(AtomicBool::new(false));
        let (settings, service, told) = (settings.clone(), Arc::clone(service), Arc::clone(&stopping));
        let thread = std::thread::Builder::new().name("control".into()).spawn(move || follow(&settings, &service, &told));
        Ok(Following { stopping, thread: Some(thread.context("no thread to follow shard 0")?) })
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that follows shard 0 panicked");
        }
    }
}
