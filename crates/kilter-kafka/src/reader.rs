//! Reads for the shards of a worker with one consumer.
//!
//! A consumer for each shard would ask the brokers for its one partition a thousand times a second where one asks for all of them at once. A thread of its own changes
//! what is assigned and hands on what comes, so that nothing of an earlier assignment reaches a later one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::Context as _;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::{Message as _, OwnedMessage};

use crate::client::{self, Backoff};

/// Bytes that wait for a shard, about, before nothing more is read for it, and up to which it must have come to be read for again.
const MOST_WAITING: usize = 16 << 20;
const RESUMED_AT: usize = 4 << 20;
/// Records that are handed on before orders are looked at.
const AT_ONCE: usize = 1000;
/// What a record takes beside key and payload, about.
const RECORD: usize = 200;

/// Where the shards ask for partitions.
#[derive(Clone)]
pub struct Desk {
    orders: Sender<Order>,
}

enum Order {
    Assign(TopicPartitionList, Route, Sender<KafkaResult<()>>),
    Unassign(TopicPartitionList),
}

/// Where the records of some partitions go.
#[derive(Clone)]
struct Route {
    records: Sender<KafkaResult<OwnedMessage>>,
    /// Bytes that wait there.
    waiting: Arc<AtomicUsize>,
}

/// What comes of the partitions that were asked for. Dropped: nothing more is read of them.
pub struct Inbox {
    desk: Desk,
    partitions: TopicPartitionList,
    records: Receiver<KafkaResult<OwnedMessage>>,
    waiting: Arc<AtomicUsize>,
    /// Where there are no partitions nobody else keeps the inbox open.
    _open: Option<Sender<KafkaResult<OwnedMessage>>>,
}

impl Desk {
    /// The desk, and what is asked for there: for [`hand_out`].
    pub fn new() -> (Desk, Orders) {
        let (orders, asked) = channel();
        (Desk { orders }, Orders(asked))
    }

    /// Partitions to be read, each from a position.
    pub fn assign(&self, partitions: TopicPartitionList) -> anyhow::Result<Inbox> {
        let (send, records) = channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        if partitions.count() == 0 {
            return Ok(Inbox { desk: self.clone(), partitions, records, waiting, _open: Some(send) });
        }
        let route = Route { records: send, waiting: Arc::clone(&waiting) };
        let (reply, answer) = channel();
        self.orders.send(Order::Assign(partitions.clone(), route, reply)).ok().context("the worker reads no more")?;
        answer.recv().context("the worker reads no more")?.context("the partitions could not be assigned")?;
        Ok(Inbox { desk: self.clone(), partitions, records, waiting, _open: None })
    }
}

impl Inbox {
    pub fn poll(&self, patience: Duration) -> Option<KafkaResult<OwnedMessage>> {
        let record = match self.records.recv_timeout(patience) {
            Ok(record) => record,
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => Err(KafkaError::Canceled),
        };
        if let Ok(record) = &record {
            self.waiting.fetch_sub(weight(record), Ordering::Relaxed);
        }
        Some(record)
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // Without a reader nothing is read.
        let _ = self.desk.orders.send(Order::Unassign(std::mem::take(&mut self.partitions)));
    }
}

fn weight(record: &OwnedMessage) -> usize {
    RECORD + record.payload().map_or(0, <[u8]>::len) + record.key().map_or(0, <[u8]>::len)
}

/// What is asked for at a desk.
pub struct Orders(Receiver<Order>);

/// Reads what is asked for and hands it on, until told to stop, and until nobody reads any more.
/// `each_time`: what else is to be done between two polls.
pub fn hand_out<C: ConsumerContext>(consumer: &BaseConsumer<C>, orders: &Orders, each_time: impl Fn(), stopping: &AtomicBool) {
    let mut routes = Routes { consumer, of: BTreeMap::new() };
    while !stopping.load(Ordering::Acquire) || !routes.of.is_empty() {
        if let Some((code, reason)) = consumer.client().fatal_error() {
            tracing::error!(error = %code, reason, "the worker reads no more: start it anew");
            return;
        }
        for order in orders.0.try_iter() {
            routes.follow(order);
        }
        each_time();
        // Whoever was paused should not have to wait once there is room.
        let mut patience = if routes.resume() { Backoff::STEP } else { Duration::from_millis(5) };
        for _ in 0..AT_ONCE {
            match consumer.poll(patience) {
                None => break,
                Some(Ok(record)) => routes.hand_on(record.detach()),
                Some(Err(e)) if client::passes(&e) => tracing::debug!(error = %e, "Kafka"),
                Some(Err(e)) => routes.tell(&e),
            }
            patience = Duration::ZERO;
        }
    }
}

struct Routes<'a, C: ConsumerContext> {
    consumer: &'a BaseConsumer<C>,
    /// By topic and partition: where it goes, and whether it is paused.
    of: BTreeMap<String, BTreeMap<i32, (Route, bool)>>,
}

impl<C: ConsumerContext> Routes<'_, C> {
    fn follow(&mut self, order: Order) {
        match order {
            Order::Assign(partitions, route, reply) => {
                let outcome = self.consumer.incremental_assign(&partitions);
                if outcome.is_ok() {
                    for element in partitions.elements() {
                        let of_topic = self.of.entry(element.topic().to_owned()).or_default();
                        of_topic.insert(element.partition(), (route.clone(), false));
                    }
                }
                // Whoever asked waits for it.
                let _ = reply.send(outcome);
            }
            Order::Unassign(partitions) => {
                let (mut known, mut paused) = (TopicPartitionList::new(), TopicPartitionList::new());
                for element in partitions.elements() {
                    let of_topic = self.of.get_mut(element.topic());
                    if let Some((_, is_paused)) = of_topic.and_then(|of_topic| of_topic.remove(&element.partition())) {
                        known.add_partition(element.topic(), element.partition());
                        if is_paused {
                            paused.add_partition(element.topic(), element.partition());
                        }
                    }
                }
                // The library remembers a pause beyond the assignment.
                if paused.count() > 0
                    && let Err(e) = self.consumer.resume(&paused)
                {
                    tracing::warn!(error = %e, "partitions may stay paused");
                }
                self.of.retain(|_, of_topic| !of_topic.is_empty());
                if known.count() > 0
                    && let Err(e) = self.consumer.incremental_unassign(&known)
                {
                    tracing::warn!(error = %e, "partitions are still read and not wanted");
                }
            }
        }
    }

    fn hand_on(&mut self, record: OwnedMessage) {
        let of_topic = self.of.get_mut(record.topic());
        let Some((route, paused)) = of_topic.and_then(|of_topic| of_topic.get_mut(&record.partition())) else { return };
        let waiting = weight(&record) + route.waiting.fetch_add(weight(&record), Ordering::Relaxed);
        if waiting > MOST_WAITING && !*paused {
            *paused = self.consumer.pause(&one(record.topic(), record.partition())).is_ok();
        }
        // An inbox that is gone has said so.
        let _ = route.records.send(Ok(record));
    }

    /// Reads again for those who have taken what waited. Whether nobody is paused any more.
    fn resume(&mut self) -> bool {
        let mut all = true;
        for (topic, of_topic) in &mut self.of {
            for (partition, (route, paused)) in of_topic {
                if *paused && route.waiting.load(Ordering::Relaxed) < RESUMED_AT {
                    *paused = self.consumer.resume(&one(topic, *partition)).is_err();
                }
                all &= !*paused;
            }
        }
        all
    }

    /// The library does not say whom an error is about.
    fn tell(&self, error: &KafkaError) {
        for (route, _) in self.of.values().flat_map(BTreeMap::values) {
            let _ = route.records.send(Err(error.clone()));
        }
    }
}

fn one(topic: &str, partition: i32) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition);
    list
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Instant;

    use rdkafka::Offset;
    use rdkafka::config::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};

    use super::*;

    const PARTITIONS: i32 = 9;

    struct Place {
        cluster: MockCluster<'static, DefaultProducerContext>,
        producer: BaseProducer,
    }

    impl Place {
        /// A topic with [`PARTITIONS`], of each of which the mock keeps five megabytes.
        fn new() -> Place {
            let cluster = MockCluster::new(1).unwrap();
            cluster.create_topic("t", PARTITIONS, 1).unwrap();
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", cluster.bootstrap_servers()).set("queue.buffering.max.kbytes", "200000");
            let producer = config.create().unwrap();
            Place { cluster, producer }
        }

        fn send(&self, partition: i32, payloads: impl IntoIterator<Item = Vec<u8>>) {
            for payload in payloads {
                self.producer.send(BaseRecord::<(), [u8]>::to("t").partition(partition).payload(&payload)).ok().unwrap();
                self.producer.poll(Duration::ZERO);
            }
            self.producer.flush(Duration::from_secs(60)).unwrap();
        }

        /// Runs `test` while the desk is open; what it has not given back by then is.
        fn with(&self, test: impl FnOnce(&Desk)) {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", self.cluster.bootstrap_servers()).set("group.id", "g").set("enable.auto.commit", "false");
            let consumer: BaseConsumer = config.create().unwrap();
            let (desk, orders) = Desk::new();
            let stopping = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let (consumer, told) = (&consumer, &stopping);
                scope.spawn(move || hand_out(consumer, &orders, || {}, told));
                let _stop = Stop(&stopping);
                test(&desk);
            });
        }
    }

    struct Stop<'a>(&'a AtomicBool);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }

    fn at(partition: i32, offset: i64) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset("t", partition, Offset::Offset(offset)).unwrap();
        list
    }

    /// So many records, which must come.
    fn next(inbox: &Inbox, count: usize) -> Vec<OwnedMessage> {
        (0..count).map(|i| inbox.poll(Duration::from_secs(60)).unwrap_or_else(|| panic!("record {i} does not come")).unwrap()).collect()
    }

    fn offsets(records: &[OwnedMessage]) -> Vec<i64> {
        records.iter().map(|record| record.offset()).collect()
    }

    #[test]
    fn each_gets_all_of_its_own_in_order() {
        let place = Place::new();
        let many = 3 * AT_ONCE + 7;
        for partition in [0, 1] {
            place.send(partition, (0..many).map(|i| format!("{partition} {i}").into_bytes()));
        }
        place.with(|desk| {
            let inboxes = [desk.assign(at(0, 0)).unwrap(), desk.assign(at(1, 5)).unwrap()];
            for (partition, inbox) in inboxes.iter().enumerate() {
                let from = [0, 5][partition];
                let records = next(inbox, many - from);
                assert_eq!(offsets(&records), (from as i64..many as i64).collect::<Vec<_>>());
                assert!(records.iter().all(|record| record.partition() == partition as i32));
                assert_eq!(records[0].payload(), Some(format!("{partition} {from}").as_bytes()));
                assert_eq!(inbox.waiting.load(Ordering::Relaxed), 0);
            }
        });
    }

    #[test]
    fn nothing_of_an_earlier_assignment_comes() {
        let place = Place::new();
        place.send(0, (0..5000_u32).map(|i| i.to_le_bytes().to_vec()));
        place.with(|desk| {
            for (from, taken) in [(0, 1500), (700, 1), (0, 3000), (4990, 10)] {
                let inbox = desk.assign(at(0, from)).unwrap();
                assert_eq!(offsets(&next(&inbox, taken)), (from..from + taken as i64).collect::<Vec<_>>());
            }
        });
    }

    #[test]
    fn who_does_not_read_keeps_nobody_else_from_it_and_takes_no_more_room() {
        let place = Place::new();
        let (large, count) = (500 << 10, 8);
        let quick_one = PARTITIONS - 1;
        let mut slow_ones = TopicPartitionList::new();
        for partition in 0..quick_one {
            place.send(partition, (0..count).map(|_| vec![7; large]));
            slow_ones.add_partition_offset("t", partition, Offset::Beginning).unwrap();
        }
        place.send(quick_one, (0..5000_u32).map(|i| i.to_le_bytes().to_vec()));
        place.with(|desk| {
            let slow = desk.assign(slow_ones).unwrap();
            let quick = desk.assign(at(quick_one, 0)).unwrap();
            next(&quick, 5000);
            fill(&slow);
            place.send(quick_one, (0..1000_u32).map(|i| i.to_le_bytes().to_vec()));
            next(&quick, 1000);
            // One record more of each partition tells that there is no room.
            assert!(slow.waiting.load(Ordering::Relaxed) <= MOST_WAITING + quick_one as usize * (RECORD + large));
            all_of_each(&next(&slow, quick_one as usize * count), count);
        });
    }

    #[test]
    fn whoever_comes_after_one_that_was_paused_reads_all() {
        let (large, count) = (500 << 10, 8);
        let place = Place::new();
        let mut all = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            place.send(partition, (0..count).map(|_| vec![7; large]));
            all.add_partition_offset("t", partition, Offset::Beginning).unwrap();
        }
        place.with(|desk| {
            for _ in 0..2 {
                fill(&desk.assign(all.clone()).unwrap());
            }
            all_of_each(&next(&desk.assign(all).unwrap(), PARTITIONS as usize * count), count);
        });
    }

    #[test]
    fn who_asks_for_nothing_waits() {
        Place::new().with(|desk| {
            let nothing = desk.assign(TopicPartitionList::new()).unwrap();
            assert!(nothing.poll(Duration::from_millis(10)).is_none());
        });
    }

    /// Waits until so much waits that nothing more is read.
    fn fill(inbox: &Inbox) {
        let until = Instant::now() + Duration::from_secs(60);
        while inbox.waiting.load(Ordering::Relaxed) <= MOST_WAITING {
            assert!(Instant::now() < until, "no more comes");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn all_of_each(records: &[OwnedMessage], count: usize) {
        let partitions: BTreeSet<i32> = records.iter().map(|record| record.partition()).collect();
        assert_eq!(records.len(), partitions.len() * count);
        for partition in partitions {
            let of_it: Vec<i64> = records.iter().filter(|record| record.partition() == partition).map(|record| record.offset()).collect();
            assert_eq!(of_it, (0..count as i64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_worker_that_has_stopped_says_so() {
        let (desk, orders) = Desk::new();
        drop(orders);
        assert!(desk.assign(at(0, 0)).err().unwrap().to_string().contains("reads no more"));
    }
}
