//! Several workers against the client library's own mock cluster, in one process. What a mock cannot show (transactions that are given up, zombies, brokers that
//! die) is shown against real brokers by `crosscheck/kafka/run KILTER workers`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kilter_core::Value;
use kilter_kafka::{Worker, WorkerOptions};
use kilter_pipeline::{Decision, Layout};
use kilter_runtime::jobs::import::ImportRequest;
use kilter_runtime::project::{Shard, WorkersDef};
use kilter_runtime::shards::Place;
use kilter_runtime::{Record, Service, StartOptions, project};
use kilter_store::dead_letter::DeadLetterQuery;
use kilter_store::log::{Log, LogOptions};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::{Offset, TopicPartitionList};

const DEFINITIONS: &str = r#"
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
const SHARDS: u32 = 3;
const CARDS: usize = 20;

struct Shop {
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
    dir: tempfile::TempDir,
    workers: WorkersDef,
    sent: usize,
}

impl Shop {
    fn new() -> Shop {
        Shop::with("")
    }

    /// With more definitions.
    fn with(more: &str) -> Shop {
        let cluster = MockCluster::new(1).unwrap();
        // The mock makes no topics when asked to.
        for (topic, partitions) in
            [("payments", 3), ("decisions", 2), ("dead", 1), ("shop.journal", 3), ("shop.shards", 3), ("shop.control", 1)]
        {
            cluster.create_topic(topic, partitions, 1).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kilter.toml"), DEFINITIONS.replace("BROKERS", &cluster.bootstrap_servers()) + more).unwrap();
        let producer = ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
        let workers = project::load(dir.path()).unwrap_or_else(|report| panic!("{report}")).definitions.workers.unwrap();
        Shop { cluster, producer, dir, workers, sent: 0 }
    }

    /// Sends payments, each where its card belongs.
    fn pay(&mut self, n: usize) {
        for i in self.sent..self.sent + n {
            let card = (i % CARDS) as i64;
            let shard = self.workers.shard_of(&Value::Int(card)).unwrap();
            self.send(shard, &format!(r#"{{"card": {card}, "at": "2026-03-01T00:00:00Z", "amount": {i}}}"#));
        }
        self.sent += n;
        self.producer.flush(Duration::from_secs(10)).unwrap();
    }

    fn send(&self, partition: u32, text: &str) {
        let record = BaseRecord::<(), str>::to("payments").partition(partition as i32).payload(text);
        self.producer.send(record).map_err(|(e, _)| e).unwrap();
        self.producer.poll(Duration::ZERO);
    }

    async fn worker(&self, name: &str) -> Worker {
        let project = project::load(self.dir.path()).unwrap_or_else(|report| panic!("{report}"));
        let start = StartOptions { schedules: false, ..StartOptions::default() };
        let options = WorkerOptions { id: None, address: format!("{name}:1"), data: self.folder(name), start };
        tokio::task::spawn_blocking(move || Worker::start(project, options, json)).await.unwrap().unwrap()
    }

    fn folder(&self, worker: &str) -> std::path::PathBuf {
        self.dir.path().join(worker)
    }

    /// The records of a topic so far, as key, id and value.
    fn read(&self, topic: &str) -> Vec<(String, String, serde_json::Value)> {
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

fn json(decision: &Decision, layout: &Layout) -> Vec<u8> {
    let outcome = &layout.outcomes[decision.outcome];
    serde_json::to_vec(&serde_json::json!({ "offset": decision.offset, "outcome": outcome })).unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(90), "waited for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The shards that a worker has.
fn here(worker: &Worker) -> BTreeMap<u32, Arc<Service>> {
    let places = (0..).zip(worker.shards().places());
    places.filter_map(|(shard, place)| if let Place::Here(service) = place { Some((shard, service)) } else { None }).collect()
}

fn events(service: &Service) -> usize {
    let mut found = 0;
    let data = &service.data;
    data.walk(&service.plan, data.first_offset, data.events.next_offset(), |_, record| {
        found += usize::from(matches!(record, Record::Event(_)));
        Ok(())
    })
    .unwrap();
    found
}

fn taken(workers: &[&Worker]) -> usize {
    workers.iter().flat_map(|worker| here(worker).into_values()).map(|service| events(&service)).sum()
}

async fn stop(mut worker: Worker) {
    tokio::task::spawn_blocking(move || worker.stop()).await.unwrap();
}

/// Every payment counts once, every decision went out, and is the one that a single thread makes.
async fn check(shop: &Shop, workers: &[&Worker]) {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn shards_go_from_worker_to_worker_and_nothing_is_lost_or_done_twice() {
    let mut shop = Shop::new();
    shop.pay(200);
    let first = shop.worker("first").await;
    check(&shop, &[&first]).await;
    let second = shop.worker("second").await;
    until("shards with both", || !here(&first).is_empty() && !here(&second).is_empty() && here(&first).len() + here(&second).len() == 3)
        .await;
    shop.pay(200);
    check(&shop, &[&first, &second]).await;
    let who = |worker: &Worker, shard| match worker.shards().place(shard) {
        Some(Place::Here(_)) => "here".to_owned(),
        Some(Place::There { address, .. }) => address,
        _ => "nobody".to_owned(),
    };
    let at_second: BTreeSet<u32> = here(&second).into_keys().collect();
    until("each to know the other", || {
        (0..SHARDS).all(|s| {
            let (one, other) = if at_second.contains(&s) { ("second:1", "here") } else { ("here", "first:1") };
            who(&first, s) == one && who(&second, s) == other
        })
    })
    .await;
    stop(first).await;
    shop.pay(100);
    check(&shop, &[&second]).await;
    // One that has no folder at all reads the journals.
    stop(second).await;
    let third = shop.worker("third").await;
    shop.pay(10);
    check(&shop, &[&third]).await;
    stop(third).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_folder_that_went_its_own_way_is_cut_back_to_the_journal() {
    let mut shop = Shop::new();
    shop.pay(100);
    let first = shop.worker("first").await;
    check(&shop, &[&first]).await;
    stop(first).await;
    // As if it had been killed with records that never left it, and a snapshot behind them.
    let folder = shop.folder("first").join("shard-00001");
    let forged = {
        let (log, _) = Log::open(folder.join("events"), LogOptions::default()).unwrap();
        let own = (log.start_offset()..log.next_offset()).filter_map(|at| log.read(at).unwrap()).find(|record| record[0] == 4).unwrap();
        log.append(&[own.clone(), own]).unwrap().first
    };
    let second = shop.worker("second").await;
    shop.pay(100);
    check(&shop, &[&second]).await;
    stop(second).await;
    let first = shop.worker("first").await;
    shop.pay(40);
    check(&shop, &[&first]).await;
    let service = here(&first)[&1].clone();
    assert!(service.data.events.next_offset() > forged);
    drop(service);
    stop(first).await;
}

const SCORED: &str = r#"
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
const STUMP: &str = "tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nmax_feature_idx=1\nobjective=binary sigmoid:1\n\
    feature_names=card.n payments.amount\n\nTree=0\nnum_leaves=2\nnum_cat=0\nsplit_feature=1\nsplit_gain=10\nthreshold=90.5\n\
    decision_type=8\nleft_child=-1\nright_child=-2\nleaf_value=-3 2\nleaf_count=600 100\ninternal_count=700\nis_linear=0\n\nend of trees\n";

/// The model version of every decision `score` that a worker's shards know of; 0 where the fallback decided.
fn versions(worker: &Worker) -> Vec<u32> {
    let of = |service: &Service| -> Vec<u32> {
        let (found, _) = service.decisions(None, 10_000, |d| d.layout.decision == "score").unwrap();
        found.iter().map(|d| d.decision.version.unwrap_or(0)).collect()
    };
    here(worker).values().flat_map(|service| of(service)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_model_goes_with_its_shard() {
    let mut shop = Shop::with(SCORED);
    shop.pay(60);
    let first = shop.worker("first").await;
    check(&shop, &[&first]).await;
    assert!(versions(&first).iter().all(|version| *version == 0));
    let (file, bytes, trigger) = ("stump.txt".into(), STUMP.as_bytes().to_vec(), "api".into());
    let request = ImportRequest { model: 0, file, bytes, by_position: false, promote: true, trigger };
    assert_eq!(here(&first)[&0].import(request).await.unwrap().version, 1);
    // Said by shard 0, and done by all.
    let began = Instant::now();
    for service in here(&first).values() {
        while service.data.metadata.alias("risk", "champion").await.unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(90), "waited for every shard");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    shop.pay(60);
    check(&shop, &[&first]).await;
    let scored = |worker: &Worker| versions(worker).iter().filter(|version| **version == 1).count();
    assert_eq!((scored(&first), versions(&first).len()), (60, 120));
    stop(first).await;
    // Without a folder: the file comes with the journal, and what is made anew is what was made before.
    let second = shop.worker("second").await;
    shop.pay(40);
    check(&shop, &[&second]).await;
    assert_eq!((scored(&second), versions(&second).len()), (100, 160));
    for service in here(&second).values() {
        let champion = service.data.metadata.alias("risk", "champion").await.unwrap().unwrap();
        assert_eq!((champion.version, champion.spec.kind.as_str()), (1, "lightgbm"));
    }
    stop(second).await;
    // From its own snapshots.
    let second = shop.worker("second").await;
    shop.pay(20);
    check(&shop, &[&second]).await;
    assert_eq!((scored(&second), versions(&second).len()), (120, 180));
    stop(second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_does_not_belong_where_it_lies_is_a_dead_letter() {
    let mut shop = Shop::new();
    shop.pay(30);
    let shard = shop.workers.shard_of(&Value::Int(1)).unwrap();
    let elsewhere = (shard + 1) % SHARDS;
    shop.send(elsewhere, r#"{"card": 1, "at": "2026-03-01T00:00:00Z", "amount": 5}"#);
    shop.send(shard, r#"{"at": "2026-03-01T00:00:00Z", "amount": 5}"#);
    shop.producer.flush(Duration::from_secs(10)).unwrap();
    let worker = shop.worker("first").await;
    check(&shop, &[&worker]).await;
    let letters = |worker: &Worker| -> Vec<(u32, String)> {
        let of = |service: &Service| service.data.dead_letters.list(&DeadLetterQuery { limit: 10, ..Default::default() }).unwrap().letters;
        here(worker).iter().flat_map(|(shard, service)| of(service).into_iter().map(|(_, letter)| (*shard, letter.code))).collect()
    };
    until("both letters", || letters(&worker).len() == 2).await;
    let found: BTreeSet<_> = letters(&worker).into_iter().collect();
    let missing = if found.contains(&(shard, "missing_key".to_owned())) { "missing_key" } else { "wrong_partition" };
    assert_eq!(found, BTreeSet::from([(elsewhere, "wrong_partition".to_owned()), (shard, missing.to_owned())]));
    until("both to be told of", || shop.read("dead").len() == 2).await;
    stop(worker).await;
    // Whoever has the shards next knows of them too, and does not tell them again.
    let next = shop.worker("next").await;
    shop.pay(10);
    check(&shop, &[&next]).await;
    assert_eq!(letters(&next).into_iter().collect::<BTreeSet<_>>(), found);
    assert_eq!(shop.read("dead").len(), 2);
    stop(next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_cannot_work_are_told_why() {
    let shop = Shop::new();
    let check = |from: &str, to: &str, expected: &str| {
        let text = DEFINITIONS.replace(from, to).replace("BROKERS", &shop.cluster.bootstrap_servers());
        let project = project::check_text(&text, "kilter.toml", Path::new("")).unwrap_or_else(|report| panic!("{report}"));
        let options = WorkerOptions { id: None, address: "a:1".into(), data: shop.folder("none"), start: StartOptions::default() };
        let handle = tokio::runtime::Handle::current();
        let started = std::thread::spawn(move || {
            let _inside = handle.enter();
            Worker::start(project, options, json).err().map(|e| format!("{e:#}"))
        });
        let said = started.join().unwrap().unwrap_or_default();
        assert!(said.contains(expected), "{said}");
    };
    check("shards = 3", "shards = 4", "topic \"shop.journal\" has 3 partitions, and there are 4 shards");
    check("[workers]\nkey = \"card\"\nshards = 3\npartitioner = \"crc32\"\n", "", "the project has no [workers]");
}
