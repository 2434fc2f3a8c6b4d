//! Sends transactions to a topic and watches what comes out of another one; prints a line of JSON. For `bench/kafka`.
//!
//! ```text
//! stopwatch fill BROKERS IN COUNT                   as fast as the cluster takes them
//! stopwatch drain BROKERS OUT COUNT                 until so many have come out
//! stopwatch latency BROKERS IN OUT RATE SECONDS     at a fixed rate: from the moment a transaction was due to the one its decision was seen
//! ```
//! The event time of a transaction is the moment it was due (open loop: a slow system makes none of them later), and every decision carries it, in the header `ce_time` or
//! as `time` of its JSON. Only what is committed is seen.

#![allow(clippy::print_stdout, reason = "its output is what it is for")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kilter_core::EventTime;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

const ACCOUNTS: u64 = 100_000;
/// Milliseconds for which transactions at a fixed rate are gathered, as a producer that is a service of its own would do; they count in every latency.
const LINGER: u64 = 5;
/// Seconds at the rate before anything is measured.
const WARM_UP: u64 = 5;
/// Nothing comes any more.
const SILENCE: Duration = Duration::from_secs(20);

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["fill", brokers, topic, count] => fill(brokers, topic, count.parse()?),
        ["drain", brokers, topic, count] => drain(brokers, topic, count.parse()?),
        ["latency", brokers, input, output, rate, seconds] => latency(brokers, input, output, rate.parse()?, seconds.parse()?),
        _ => Err("see the head of stopwatch.rs".into()),
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}

/// `linger`: for how many milliseconds records are gathered. Without any, each of them is a request, which keeps a broker busier than what is measured.
/// Five requests are on their way at most, as with Kafka's own client: more of them would wait at a broker that is behind as they are, rather than gather.
fn producer(brokers: &str, linger: u64) -> Outcome<BaseProducer> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("linger.ms", linger.to_string()).set("queue.buffering.max.messages", "1000000");
    Ok(config.set("compression.type", "none").set("max.in.flight.requests.per.connection", "5").create()?)
}

/// A transaction: account and amount follow from its number.
fn send(producer: &BaseProducer, topic: &str, number: u64, due: i64) -> Outcome<()> {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let (account, amount) = ((mixed >> 32) % ACCOUNTS, (mixed >> 8) % 1000);
    let key = account.to_string();
    let text = format!(r#"{{"account":{account},"at":"{}","amount":{amount},"number":{number}}}"#, EventTime(due));
    loop {
        match producer.send(BaseRecord::to(topic).key(&key).payload(&text)) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                producer.poll(Duration::from_millis(5));
            }
            Err((e, _)) => return Err(e.into()),
        }
    }
}

fn fill(brokers: &str, topic: &str, count: u64) -> Outcome<()> {
    let producer = producer(brokers, 5)?;
    // A topic that is asked for is made, where the broker makes topics.
    while producer.client().fetch_metadata(Some(topic), Duration::from_secs(10))?.topics()[0].partitions().is_empty() {
        std::thread::sleep(Duration::from_millis(100));
    }
    let begin = now() - count as i64;
    for number in 0..count {
        send(&producer, topic, number, begin + number as i64)?;
        if number % 1000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(120))?;
    println!("{}", serde_json::json!({ "sent": count }));
    Ok(())
}

/// A consumer of everything in a topic, from its start or from its end on.
fn consumer(brokers: &str, topic: &str, from: Offset) -> Outcome<BaseConsumer> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "stopwatch").set("isolation.level", "read_committed");
    config.set("enable.auto.commit", "false").set("fetch.wait.max.ms", "5").set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = config.create()?;
    let patience = Duration::from_secs(10);
    let metadata = consumer.fetch_metadata(Some(topic), patience)?;
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        let offset = match from {
            Offset::End => Offset::Offset(consumer.fetch_watermarks(topic, partition.id(), patience)?.1),
            other => other,
        };
        list.add_partition_offset(topic, partition.id(), offset)?;
    }
    consumer.assign(&list)?;
    Ok(consumer)
}

fn drain(brokers: &str, topic: &str, count: u64) -> Outcome<()> {
    let consumer = consumer(brokers, topic, Offset::Beginning)?;
    let began = Instant::now();
    let mut last = began;
    let mut seen = 0;
    while seen < count && last.elapsed() < SILENCE * 3 {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            message?;
            seen += 1;
            last = Instant::now();
        }
    }
    println!("{}", serde_json::json!({ "seen": seen, "seconds": began.elapsed().as_secs_f64() }));
    Ok(())
}

/// When the transaction of a decision was due.
fn due(message: &impl Message) -> Option<i64> {
    let header = message.headers().and_then(|headers| headers.iter().find(|h| h.key == "ce_time"));
    if let Some(value) = header.and_then(|h| h.value) {
        return EventTime::parse(std::str::from_utf8(value).ok()?).map(|t| t.0);
    }
    let body: serde_json::Value = serde_json::from_slice(message.payload()?).ok()?;
    EventTime::parse(body["time"].as_str()?).map(|t| t.0)
}

fn latency(brokers: &str, input: &str, output: &str, rate: u64, seconds: f64) -> Outcome<()> {
    let consumer = consumer(brokers, output, Offset::End)?;
    // For the consumer to find its place, and for the broker to have its code compiled.
    let warm_up = rate * WARM_UP;
    let count = (rate as f64 * seconds) as u64 + warm_up;
    let begin = now() + 1_000_000;
    let measured_from = begin + WARM_UP as i64 * 1_000_000;
    let sent = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&sent);
    let (brokers, input) = (brokers.to_owned(), input.to_owned());
    let sending = std::thread::spawn(move || -> Result<i64, String> {
        let producer = producer(&brokers, LINGER).map_err(|e| e.to_string())?;
        let mut late = 0;
        for number in 0..count {
            let due = begin + (number as i64 * 1_000_000) / rate as i64;
            let wait = due - now();
            if wait > 0 {
                producer.poll(Duration::ZERO);
                std::thread::sleep(Duration::from_micros(wait.min(1_000) as u64).min(Duration::from_micros((due - now()).max(0) as u64)));
            }
            late = late.max(now() - due);
            send(&producer, &input, number, due).map_err(|e| e.to_string())?;
        }
        producer.flush(Duration::from_secs(30)).map_err(|e| e.to_string())?;
        told.store(true, Ordering::Release);
        Ok(late)
    });
    let (mut seen, mut took) = (0, Vec::new());
    let mut last = Instant::now();
    while seen < count && !(sent.load(Ordering::Acquire) && last.elapsed() > SILENCE) {
        let Some(message) = consumer.poll(Duration::from_millis(20)) else { continue };
        let message = message?;
        let at = now();
        if let Some(due) = due(&message).filter(|due| *due >= begin) {
            seen += 1;
            last = Instant::now();
            if due >= measured_from {
                took.push(at - due);
            }
        }
    }
    let late = sending.join().map_err(|_| "the sender panicked")??;
    took.sort_unstable();
    let at = |share: f64| took.get(((took.len() as f64 * share) as usize).min(took.len().saturating_sub(1))).map(|t| *t as f64 / 1000.0);
    let result = serde_json::json!({
        "sent": count, "seen": seen, "measured": took.len(), "p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999), "max_ms": at(1.0),
        "sender_late_ms": late as f64 / 1000.0,
    });
    println!("{result}");
    Ok(())
}
