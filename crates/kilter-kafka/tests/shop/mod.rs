//! A shop whose payments several workers share, on the client library's own mock cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kilter_core::Value;
use kilter_kafka::{Worker, WorkerOptions};
use kilter_pipeline::{Decision, Layout};
use kilter_runtime::jobs::import::ImportRequest;
use kilter_runtime::project::{Shard, WorkersDef};
use kilter_runtime::shards::Place;
use kilter_runtime::{Record, Service, StartOptions, project};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::{Offset, TopicPartitionList};

pub const DEFINITIONS: &str = r#"
[project]
name = "shop"
[snapshot]
every = "1s"
min_events = 100
[kafka]
brokers = "BROKERS"
properties = { "session.timeout.ms" = "6000", "heartbeat.interval.ms" = "500" }
[workers]
key = "card"
shards = 3
partitioner = "crc32"
[source.payments]
connector = "kafka"
topic = "payments"
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
policy = [{ when = "card.n >= 5", outcome = "review" }, { outcome = "approve" }]
[sink.decisions]
from = "decision.limit"
topic = "decisions"
key = "card"
[sink.dead]
from = "dead_letters"
topic = "dead"
"#;
pub const SHARDS: u32 = 3;
pub const CARDS: usize = 20;

pub struct Shop {
    pub cluster: MockCluster<'static, DefaultProducerContext>,
    pub producer: BaseProducer,
    pub dir: tempfile::TempDir,
    pub workers: WorkersDef,
    pub sent: usize,
}

impl Shop {
    pub fn new() -> Shop {
        Shop::of(DEFINITIONS)
    }

    /// With more definitions.
    pub fn with(more: &str) -> Shop {
        Shop::of(&(DEFINITIONS.to_owned() + more))
    }

    pub fn of(definitions: &str) -> Shop {
        let cluster = MockCluster::new(1).unwrap();
        // The mock makes no topics when asked to.
        for (topic, partitions) in
            [("payments", 3), ("decisions", 2), ("dead", 1), ("shop.journal", 3), ("shop.shards", 3), ("shop.control", 1)]
        {
            cluster.create_topic(topic, partitions, 1).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kilter.toml"), definitions.replace("BROKERS", &cluster.bootstrap_servers())).unwrap();
        let producer = ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
        let workers = project::load(dir.path()).unwrap_or_else(|report| panic!("{report}")).definitions.workers.unwrap();
        Shop { cluster, producer, dir, workers, sent: 0 }
    }

    /// Sends payments, each where its card belongs.
    pub fn pay(&mut self, n: usize) {
        self.pay_with(n, String::new);
    }

    /// Each with a note.
    pub fn pay_with(&mut self, n: usize, mut note: impl FnMut() -> String) {
        for i in self.sent..self.sent + n {
            let card = (i % CARDS) as i64;
            let shard = self.workers.shard_of(&Value::Int(card)).unwrap();
            let note = note();
            self.send(
                shard,
                &format!(r#"{{"card": {card}, "at": "2026-03-01T00:00:00Z", "amount": {i}, "ref": "payment {i}", "note": "{note}"}}"#),
            );
        }
        self.sent += n;
        self.producer.flush(Duration::from_secs(10)).unwrap();
    }

    pub fn send(&self, partition: u32, text: &str) {
        let record = BaseRecord::<(), str>::to("payments").partition(partition as i32).payload(text);
        self.producer.send(record).map_err(|(e, _)| e).unwrap();
        self.producer.poll(Duration::ZERO);
    }

    pub async fn worker(&self, name: &str) -> Worker {
        let project = project::load(self.dir.path()).unwrap_or_else(|report| panic!("{report}"));
        let start = StartOptions { schedules: false, ..StartOptions::default() };
        let options = WorkerOptions { id: None, address: format!("{name}:1"), data: self.folder(name), start };
        tokio::task::spawn_blocking(move || Worker::start(project, options, json)).await.unwrap().unwrap()
    }

    pub fn folder(&self, worker: &str) -> std::path::PathBuf {
        self.dir.path().join(worker)
    }

    /// The records of a topic so far, as key, id and value.
    pub fn read(&self, topic: &str) -> Vec<(String, String, serde_json::Value)> {
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
        let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap();
        let mut found = Vec::new();
        while (found.len() as i64) < wanted {
            let message = consumer.poll(wait).expect("what the watermarks promise comes").unwrap();
            let id = message.headers().and_then(|h| h.iter().find(|h| h.key == "ce_id").map(|h| text(h.value)));
            found.push((text(message.key()), id.unwrap_or_default(), serde_json::from_slice(message.payload().unwrap()).unwrap()));
        }
        found
    }
}

pub fn json(decision: &Decision, layout: &Layout) -> Vec<u8> {
    let outcome = &layout.outcomes[decision.outcome];
    serde_json::to_vec(&serde_json::json!({ "offset": decision.offset, "outcome": outcome })).unwrap()
}

pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(90), "waited for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The shards that a worker has.
pub fn here(worker: &Worker) -> BTreeMap<u32, Arc<Service>> {
    let places = (0..).zip(worker.shards().places());
    places.filter_map(|(shard, place)| if let Place::Here(service) = place { Some((shard, service)) } else { None }).collect()
}

pub fn events(service: &Service) -> usize {
    let mut found = 0;
    let data = &service.data;
    data.walk(&service.plan, data.first_offset, data.events.next_offset(), |_, record| {
        found += usize::from(matches!(record, Record::Event(_)));
        Ok(())
    })
    .unwrap();
    found
}

pub fn taken(workers: &[&Worker]) -> usize {
    workers.iter().flat_map(|worker| here(worker).into_values()).map(|service| events(&service)).sum()
}

pub async fn stop(mut worker: Worker) {
    tokio::task::spawn_blocking(move || worker.stop()).await.unwrap();
}

/// Every payment counts once, every decision went out, and is the one that a single thread makes.
pub async fn check(shop: &Shop, workers: &[&Worker]) {
    until("all payments", || taken(workers) >= shop.sent).await;
    let mut found: BTreeMap<u32, Arc<Service>> = BTreeMap::new();
    for worker in workers {
        for (shard, service) in here(worker) {
            assert!(found.insert(shard, service).is_none(), "shard {shard} is in two places");
        }
    }
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(taken(workers), shop.sent);
    for card in 0..CARDS {
        let shard = shop.workers.shard_of(&Value::Int(card as i64)).unwrap();
        let service = &found[&shard];
        let read = service.features(0, service.parse_key(0, &card.to_string()).unwrap(), None).await.unwrap();
        let of_card: Vec<f64> = (card..shop.sent).step_by(CARDS).map(|i| i as f64).collect();
        assert_eq!(read.values, [Value::Int(of_card.len() as i64), Value::Float(of_card.iter().sum())], "card {card}");
    }
    let out =
        |service: &Arc<Service>| service.status.sinks().get("decisions").is_some_and(|s| s.next == service.data.decisions.next_offset());
    until("the sinks", || found.values().all(out)).await;
    let mut by_id = BTreeMap::new();
    for (key, id, value) in shop.read("decisions") {
        let offset = value["offset"].as_u64().unwrap();
        assert_eq!(id, format!("limit-{offset}"));
        assert_eq!(Shard::of_offset(offset), shop.workers.shard_of(&Value::text(&key)));
        let before = by_id.insert(id, (key.clone(), value.clone()));
        assert!(before.is_none_or(|before| before == (key, value)), "what comes again is the same");
    }
    assert_eq!(by_id.len(), shop.sent);
    let reviews = by_id.values().filter(|(_, value)| value["outcome"] == "review").count();
    assert_eq!(reviews, shop.sent.saturating_sub(5 * CARDS), "the first five of each card are approved");
}

pub const SCORED: &str = r#"
[source.outcomes]
time = "at"
max_future = "none"
columns = { card = "int64", at = "timestamp", fraud = "bool" }
[model.risk]
on = "payments"
learner = "gbdt"
inputs = ["card.n", "payments.amount"]
label = { source = "outcomes", value = "fraud", on = "card", within = "1h" }
[decision.score]
model = "risk"
policy = [{ when = "score >= 0.5", outcome = "block" }, { outcome = "accept" }]
fallback = "accept"
"#;
/// Of LightGBM: payments over 90 are bad.
pub const STUMP: &str = "tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nmax_feature_idx=1\nobjective=binary sigmoid:1\n\
    feature_names=card.n payments.amount\n\nTree=0\nnum_leaves=2\nnum_cat=0\nsplit_feature=1\nsplit_gain=10\nthreshold=90.5\n\
    decision_type=8\nleft_child=-1\nright_child=-2\nleaf_value=-3 2\nleaf_count=600 100\ninternal_count=700\nis_linear=0\n\nend of trees\n";

/// The model version of every decision `score` that a worker's shards know of; 0 where the fallback decided.
pub fn versions(worker: &Worker) -> Vec<u32> {
    let of = |service: &Service| -> Vec<u32> {
        let (found, _) = service.decisions(None, 10_000, |d| d.layout.decision == "score").unwrap();
        found.iter().map(|d| d.decision.version.unwrap_or(0)).collect()
    };
    here(worker).values().flat_map(|service| of(service)).collect()
}

/// Imports the stump at shard 0, and waits until every shard has it in service.
pub async fn import_stump(worker: &Worker) {
    let (file, bytes, trigger) = ("stump.txt".into(), STUMP.as_bytes().to_vec(), "api".into());
    let request = ImportRequest { model: 0, file, bytes, by_position: false, promote: true, trigger };
    assert_eq!(here(worker)[&0].import(request).await.unwrap().version, 1);
    // Said by shard 0, and done by all.
    let began = Instant::now();
    for service in here(worker).values() {
        while service.data.metadata.alias("risk", "champion").await.unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(90), "waited for every shard");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
