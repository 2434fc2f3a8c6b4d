//! Sources and sinks against the client library's own mock cluster: real sockets on loopback, no Java. What a mock cannot show (transactions, brokers that
//! die) is shown against real brokers by `crosscheck/kafka/run`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kilter_core::{Origin, Value};
use kilter_kafka::Running;
use kilter_pipeline::{Decision, Layout};
use kilter_runtime::{Record, Service, StartOptions, project};
use kilter_store::dead_letter::DeadLetterQuery;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{Offset, TopicPartitionList};

const DEFINITIONS: &str = r#"
[project]
name = "shop"
[kafka]
brokers = "BROKERS"
[source.payments]
connector = "kafka"
topic = "payments"
START
time = "at"
max_future = "none"
[source.payments.columns]
card = "int64"
at = "timestamp"
amount = { type = "float64", required = true }
[features.card]
source = "payments"
entity = "card"
[features.card.columns]
n = "count(*) over lifetime"
sum = "sum(amount) over lifetime"
[decision.limit]
on = "payments"
policy = [{ when = "amount > 90", outcome = "review" }, { outcome = "approve" }]
[sink.decisions]
from = "decision.limit"
topic = "decisions"
key = "card"
[sink.dead]
from = "dead_letters"
topic = "dead"
"#;

const PARTITIONS: i32 = 3;

struct Shop {
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
    dir: tempfile::TempDir,
    sent: usize,
}

impl Shop {
    fn new(start: &str) -> Shop {
        let cluster = MockCluster::new(1).unwrap();
        for (topic, partitions) in [("payments", PARTITIONS), ("decisions", 2), ("dead", 1)] {
            cluster.create_topic(topic, partitions, 1).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        let text = DEFINITIONS.replace("BROKERS", &cluster.bootstrap_servers()).replace("START", start);
        std::fs::write(dir.path().join("kilter.toml"), text).unwrap();
        let producer = ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
        Shop { cluster, producer, dir, sent: 0 }
    }

    /// Sends `n` payments; card and amount follow from the number.
    fn pay(&mut self, n: usize) {
        for i in self.sent..self.sent + n {
            let text = format!(r#"{{"card": {}, "at": "2026-03-01T00:00:00Z", "amount": {}}}"#, i % 7, i % 100);
            self.send(i as i32 % PARTITIONS, &text);
        }
        self.sent += n;
        self.producer.flush(Duration::from_secs(10)).unwrap();
    }

    fn send(&self, partition: i32, text: &str) {
        self.producer.send(BaseRecord::<(), str>::to("payments").partition(partition).payload(text)).map_err(|(e, _)| e).unwrap();
        self.producer.poll(Duration::ZERO);
    }

    async fn start(&self) -> (Arc<Service>, Running) {
        let project = project::load(self.dir.path()).unwrap_or_else(|report| panic!("{report}"));
        let service = Service::start(project, StartOptions { schedules: false, ..StartOptions::default() }).await.unwrap();
        let running = kilter_kafka::start(&service, json).unwrap();
        (service, running)
    }

    /// All records of a topic so far.
    fn read(&self, topic: &str) -> Vec<Read> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.cluster.bootstrap_servers())
            .set("group.id", "reader")
            .set("auto.offset.reset", "earliest")
            .create()
            .unwrap();
        let wait = Duration::from_secs(10);
        let partitions = consumer.fetch_metadata(Some(topic), wait).unwrap().topics()[0].partitions().len() as i32;
        let mut list = TopicPartitionList::new();
        let mut wanted = 0;
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
            wanted += consumer.fetch_watermarks(topic, partition, wait).unwrap().1;
        }
        consumer.assign(&list).unwrap();
        let mut found = Vec::new();
        while (found.len() as i64) < wanted {
            let message = consumer.poll(wait).expect("what the watermarks promise comes").unwrap();
            let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap();
            let header = |h: rdkafka::message::Header<'_, &[u8]>| (h.key.to_owned(), text(h.value));
            found.push(Read {
                origin: Origin { partition: message.partition() as u32, position: message.offset() as u64 },
                key: text(message.key()),
                value: serde_json::from_slice(message.payload().unwrap()).unwrap(),
                headers: message.headers().map(|h| h.iter().map(header).collect()).unwrap_or_default(),
            });
        }
        found
    }
}

struct Read {
    origin: Origin,
    key: String,
    value: serde_json::Value,
    headers: BTreeMap<String, String>,
}

fn json(decision: &Decision, layout: &Layout) -> Vec<u8> {
    let outcome = &layout.outcomes[decision.outcome];
    serde_json::to_vec(&serde_json::json!({ "offset": decision.offset, "outcome": outcome })).unwrap()
}

/// Waits for something that has to come.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited a minute for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn events(service: &Service) -> Vec<(Origin, i64, f64)> {
    let mut found = Vec::new();
    let data = &service.data;
    data.walk(&service.plan, 0, data.events.next_offset(), |_, record| {
        if let Record::Event(event) = record {
            let (Value::Int(card), Value::Float(amount)) = (&event.row[0], &event.row[2]) else { panic!("{event:?}") };
            found.push((event.origin.unwrap(), *card, *amount));
        }
        Ok(())
    })
    .unwrap();
    found
}

async fn end(service: Arc<Service>, orderly: bool) {
    if orderly {
        service.shutdown().await.unwrap();
    }
    let data = Arc::downgrade(&service.data);
    let dir = service.data.dir.clone();
    drop(service);
    let free = |log: &str| kilter_store::log::Log::open(dir.join(log), Default::default()).is_ok();
    let all_free = || ["events", "decisions", "dead-letters"].into_iter().all(free);
    until("the data folder to be let go", || data.strong_count() == 0 && all_free()).await;
}

/// Every record of the topic is in the log once, in the order of its partition, and in the features.
async fn check(shop: &Shop, service: &Arc<Service>) {
    let found = events(service);
    let paid = shop.read("payments");
    let by_place =
        |all: Vec<(Origin, i64, f64)>| -> BTreeMap<Origin, (i64, f64)> { all.into_iter().map(|(o, card, x)| (o, (card, x))).collect() };
    let number = |value: &serde_json::Value, name: &str| value[name].as_f64().unwrap();
    let sent = paid.iter().map(|r| (r.origin, number(&r.value, "card") as i64, number(&r.value, "amount"))).collect();
    assert_eq!(found.len(), paid.len(), "no record is in the log twice");
    assert_eq!(by_place(found.clone()), by_place(sent));
    for partition in 0..PARTITIONS as u32 {
        let positions: Vec<u64> = found.iter().map(|(o, ..)| *o).filter(|o| o.partition == partition).map(|o| o.position).collect();
        assert!(positions.is_sorted(), "partition {partition}");
    }
    let read = service.features(0, service.parse_key(0, "3").unwrap(), None).await.unwrap();
    let of_card: Vec<f64> = paid.iter().filter(|r| number(&r.value, "card") == 3.0).map(|r| number(&r.value, "amount")).collect();
    assert_eq!(read.values, [Value::Int(of_card.len() as i64), Value::Float(of_card.iter().sum())]);
}

/// All decisions so far have gone out.
async fn sunk(service: &Service) {
    let end = || service.data.decisions.next_offset();
    until("the sink", || service.status.sinks().get("decisions").is_some_and(|s| s.next == end())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_come_in_once_and_decisions_go_out_over_stops_of_every_kind() {
    let mut shop = Shop::new("");
    shop.pay(1000);
    for round in 0..4 {
        let (service, running) = shop.start().await;
        shop.pay(300);
        let wanted = shop.sent;
        until("all payments", || events(&service).len() >= wanted).await;
        check(&shop, &service).await;
        if round == 1 {
            service.snapshot().await.unwrap();
        }
        // Not every stop comes after the sinks are done, nor after a snapshot.
        if round % 2 == 0 {
            sunk(&service).await;
        }
        drop(running);
        end(service, round == 3).await;
    }
    let (service, running) = shop.start().await;
    check(&shop, &service).await;
    sunk(&service).await;
    let mut by_id = BTreeMap::new();
    for Read { key, value, headers, .. } in shop.read("decisions") {
        let id = headers["ce_id"].clone();
        assert_eq!(id, format!("limit-{}", value["offset"]));
        assert_eq!((headers["ce_type"].as_str(), headers["ce_source"].as_str()), ("kilter.decision", "/projects/shop/decisions/limit"));
        let before = by_id.insert(id, (key.clone(), value.clone()));
        assert!(before.is_none_or(|before| before == (key, value)), "what comes again is the same");
    }
    assert_eq!(by_id.len(), shop.sent, "every payment was decided on, and every decision went out");
    let reviews = by_id.values().filter(|(_, value)| value["outcome"] == "review").count();
    assert_eq!(reviews, (0..shop.sent).filter(|i| i % 100 > 90).count());
    let keys: BTreeSet<&str> = by_id.values().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, BTreeSet::from(["0", "1", "2", "3", "4", "5", "6"]));
    drop(running);
    end(service, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_goes_to_the_dead_letters_with_its_place_and_is_not_met_again() {
    let mut shop = Shop::new("");
    shop.pay(10);
    shop.send(1, "no json");
    shop.send(2, r#"{"card": 1, "at": "2026-03-01T00:00:00Z"}"#);
    shop.producer.send(BaseRecord::<(), [u8]>::to("payments").partition(0)).map_err(|(e, _)| e).unwrap();
    shop.pay(10);
    let letters =
        |service: &Service| service.data.dead_letters.list(&DeadLetterQuery { limit: 100, ..Default::default() }).unwrap().letters;
    let (service, running) = shop.start().await;
    until("the payments around", || events(&service).len() == 20).await;
    until("the letters", || letters(&service).len() == 3).await;
    let mut found: Vec<(String, String)> = letters(&service).into_iter().map(|(_, l)| (l.origin.unwrap(), l.code)).collect();
    found.sort();
    let place = |partition: usize| (0..10).filter(|i| i % 3 == partition).count();
    let expected = [(0, "no_value"), (1, "not_an_object"), (2, "missing_key")];
    assert_eq!(found, expected.map(|(partition, code)| (format!("{partition}@{}", place(partition)), code.to_owned())));
    until("the sink", || service.status.sinks().get("dead").is_some_and(|s| s.delivered == 3)).await;
    let dead = shop.read("dead");
    assert_eq!(dead.len(), 3);
    assert!(dead.iter().all(|d| d.key == "payments" && d.headers["ce_type"] == "kilter.dead_letter" && d.value["detail"].is_string()));
    drop(running);
    end(service, false).await;
    // Nothing has come since, and the poison is behind.
    let (service, running) = shop.start().await;
    shop.pay(1);
    until("one more", || events(&service).len() == 21).await;
    assert_eq!(letters(&service).len(), 3);
    drop(running);
    end(service, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn brokers_that_answer_with_errors_are_asked_again() {
    let mut shop = Shop::new("");
    shop.pay(100);
    let failures = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT];
    shop.cluster.request_errors(RDKafkaApiKey::Metadata, &[RDKafkaRespErr::RD_KAFKA_RESP_ERR__TRANSPORT]);
    shop.cluster.request_errors(RDKafkaApiKey::Fetch, &failures);
    shop.cluster.request_errors(RDKafkaApiKey::Produce, &failures);
    let (service, running) = shop.start().await;
    until("the payments", || events(&service).len() == 100).await;
    shop.cluster.broker_down(1).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    shop.cluster.broker_up(1).unwrap();
    shop.pay(100);
    // Whoever pays may have sent some twice, for want of an answer: what counts is what the topic holds.
    let paid = shop.read("payments").len();
    assert!(paid >= 200);
    until("the rest", || events(&service).len() >= paid).await;
    check(&shop, &service).await;
    sunk(&service).await;
    let ids: BTreeSet<String> = shop.read("decisions").into_iter().map(|r| r.headers["ce_id"].clone()).collect();
    assert_eq!(ids.len(), paid);
    drop(running);
    end(service, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_begins_at_the_end_keeps_to_where_it_began() {
    let mut shop = Shop::new("start = \"latest\"");
    shop.pay(50);
    let (service, running) = shop.start().await;
    until("the beginning to be noted", || service.data.events.next_offset() >= 2).await;
    drop(running);
    end(service, false).await;
    // What comes while nobody reads is not missed.
    shop.pay(30);
    let (service, running) = shop.start().await;
    until("what came meanwhile", || events(&service).len() == 30).await;
    drop(running);
    end(service, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_topic_begins_anew_and_a_topic_made_anew_is_told_of() {
    let mut shop = Shop::new("");
    shop.pay(60);
    let (service, running) = shop.start().await;
    until("the payments", || events(&service).len() == 60).await;
    drop(running);
    end(service, true).await;
    let rename = |dir: &Path, from: &str, to: &str| {
        let path = dir.join("kilter.toml");
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap().replace(from, to)).unwrap();
    };
    shop.cluster.create_topic("payments2", 1, 1).unwrap();
    rename(shop.dir.path(), "topic = \"payments\"", "topic = \"payments2\"");
    shop.producer
        .send(BaseRecord::<(), str>::to("payments2").payload(r#"{"card": 1, "at": "2026-03-01T00:00:00Z", "amount": 5}"#))
        .map_err(|(e, _)| e)
        .unwrap();
    let (service, running) = shop.start().await;
    until("the other topic's", || events(&service).len() == 61).await;
    assert_eq!(events(&service)[60].0, Origin { partition: 0, position: 0 });
    drop(running);
    end(service, true).await;
}

/// A repetition leaves no event, so only a word in the log tells that it was met: without it, it would count once its id is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_whose_id_was_seen_before_is_noted_as_met() {
    let shop = Shop::new("id = \"code\"");
    let path = shop.dir.path().join("kilter.toml");
    let text = std::fs::read_to_string(&path).unwrap().replace("card = \"int64\"", "card = \"int64\"\ncode = \"string\"");
    std::fs::write(&path, text).unwrap();
    for code in ["a", "b", "a"] {
        shop.send(0, &format!(r#"{{"card": 1, "code": "{code}", "at": "2026-03-01T00:00:00Z", "amount": 1}}"#));
    }
    shop.producer.flush(Duration::from_secs(10)).unwrap();
    let (service, running) = shop.start().await;
    let payments = service.source("payments").unwrap();
    until("all three", || service.sources()[0].received == 3).await;
    assert_eq!(service.sources()[0].events, 2);
    drop(running);
    end(service, false).await;
    let (service, running) = shop.start().await;
    drop(running);
    assert_eq!(service.attach(payments, "kafka:payments").await.unwrap()[&0], 3);
    end(service, true).await;
}

/// Where `[kafka]` is, a source may come later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_a_change_of_definitions_brings_is_read() {
    let mut shop = Shop::new("");
    let path = shop.dir.path().join("kilter.toml");
    let all = std::fs::read_to_string(&path).unwrap();
    let by_http = all.replace("connector = \"kafka\"\n", "").replace("topic = \"payments\"\n", "");
    std::fs::write(&path, by_http).unwrap();
    shop.pay(10);
    let (service, running) = shop.start().await;
    assert_eq!(service.sources()[0].events, 0);
    let refunds = "[source.refunds]\nconnector = \"kafka\"\ntopic = \"payments\"\ntime = \"arrival\"\ncolumns = { card = \"int64\" }\n\
                   [features.refund]\nsource = \"refunds\"\nentity = \"card\"\ncolumns = { n = \"count(*) over lifetime\" }\n";
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + refunds).unwrap();
    service.apply().await.unwrap();
    until("the new source's records", || {
        let sources = service.current().sources();
        sources.iter().find(|s| s.source == "refunds").is_some_and(|s| s.events == 10)
    })
    .await;
    drop(running);
    end(service, true).await;
}

/// A topic that is not there yet, and one that ends before what was read of it, keep no other from being read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_cannot_be_read_keeps_no_other_from_being_read() {
    let mut shop = Shop::new("");
    let more = "[source.refunds]\nconnector = \"kafka\"\ntopic = \"refunds\"\ntime = \"arrival\"\ncolumns = { card = \"int64\" }\n\
                [features.refund]\nsource = \"refunds\"\nentity = \"card\"\ncolumns = { n = \"count(*) over lifetime\" }\n";
    let path = shop.dir.path().join("kilter.toml");
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + more).unwrap();
    // Nothing may make it by asking for it.
    shop.cluster.topic_error("refunds", RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    shop.pay(40);
    let (service, running) = shop.start().await;
    let payments = service.source("payments").unwrap();
    let count = |source| {
        let all = service.sources();
        all.iter().find(|s| s.source == source).unwrap().events
    };
    until("the payments", || count("payments") == 40).await;
    assert_eq!(count("refunds"), 0);
    shop.cluster.topic_error("refunds", RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    shop.cluster.create_topic("refunds", 1, 1).ok();
    shop.producer.send(BaseRecord::<(), str>::to("refunds").payload(r#"{"card": 1}"#)).map_err(|(e, _)| e).unwrap();
    until("the refund", || count("refunds") == 1).await;
    // As if the topic had been made anew: more is known of it than it has.
    service.passed(payments, BTreeMap::from([(0, 1_000)])).await.unwrap();
    drop(running);
    end(service, true).await;
    let (service, running) = shop.start().await;
    shop.producer.send(BaseRecord::<(), str>::to("refunds").payload(r#"{"card": 2}"#)).map_err(|(e, _)| e).unwrap();
    let count = |source| {
        let all = service.sources();
        all.iter().find(|s| s.source == source).unwrap().events
    };
    until("the second refund", || count("refunds") == 2).await;
    assert_eq!(count("payments"), 40);
    drop(running);
    end(service, true).await;
}

/// Two sources of one topic come each as far as it comes: one that cannot be read is not moved by the other, and begins where it left off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sources_of_a_topic_keep_positions_of_their_own() {
    let mut shop = Shop::new("");
    shop.pay(40);
    let (service, running) = shop.start().await;
    until("the payments", || service.sources()[0].events == 40).await;
    drop(running);
    end(service, true).await;
    let second = "[source.refunds]\nconnector = \"kafka\"\ntopic = \"payments\"\npartition_by = \"card\"\ntime = \"arrival\"\ncolumns = { card = \"int64\" }\n\
                  [features.refund]\nsource = \"refunds\"\nentity = \"card\"\ncolumns = { n = \"count(*) over lifetime\" }\n";
    let path = shop.dir.path().join("kilter.toml");
    std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + second).unwrap();
    let (service, running) = shop.start().await;
    let count = |service: &Service, source: &str| service.sources().iter().find(|s| s.source == source).unwrap().events;
    until("all of them again, by the other source", || count(&service, "refunds") == 40).await;
    assert_eq!(count(&service, "payments"), 40);
    // As if one had more of the topic than there is: it is not read, and the other goes on.
    let payments = service.source("payments").unwrap();
    let known = service.attach(payments, "kafka:payments").await.unwrap();
    let beyond: BTreeMap<u32, u64> = known.keys().map(|partition| (*partition, 1000)).collect();
    service.passed(payments, beyond).await.unwrap();
    drop(running);
    end(service, true).await;
    let (service, running) = shop.start().await;
    shop.pay(20);
    until("the other goes on", || count(&service, "refunds") == 60).await;
    assert_eq!(count(&service, "payments"), 40);
    drop(running);
    end(service, true).await;
}
