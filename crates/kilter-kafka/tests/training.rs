//! Workers train one model on what all of them have seen, against the client library's own mock cluster: rows from the lake, one training of one tick, and every shard
//! decides by what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use kilter_core::{Clock, EventTime, Value};
use kilter_kafka::{Worker, WorkerOptions};
use kilter_pipeline::{Decision, Layout, Observations, Range, training};
use kilter_runtime::jobs::{shards, train};
use kilter_runtime::project::{Project, WorkersDef, check_text, load};
use kilter_runtime::shards::Place;
use kilter_runtime::{Service, StartOptions};
use kilter_store::metadata::{CHAMPION, RunFilter};
use rdkafka::config::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

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
[lake]
url = "lake"
every = "1s"
[source.payments]
connector = "kafka"
topic = "payments"
time = "at"
max_future = "none"
columns = { card = "int64", at = "timestamp", amount = "float64" }
[source.outcomes]
connector = "kafka"
topic = "outcomes"
time = "at"
max_future = "none"
columns = { card = "int64", at = "timestamp", fraud = "bool" }
[features.card]
source = "payments"
entity = "card"
[features.card.columns]
n = "count(*) over 1d"
sum = "sum(amount) over 2h"
[model.risk]
on = "payments"
learner = "gbdt"
params = { trees = 10, min_leaf_rows = 5 }
inputs = ["payments.amount", "card.*"]
label = { source = "outcomes", value = "fraud", on = "card", within = "10m", absent = false }
window = "7d"
min_rows = 100
[decision.score]
model = "risk"
policy = [{ when = "score >= 0.5", outcome = "block" }, { outcome = "accept" }]
fallback = "accept"
[schedule.nightly]
every = "1d"
train = "risk"
promote_if = "auc > 0"
"#;
const ALONE: [&str; 2] = ["[workers]\nkey = \"card\"\nshards = 3\npartitioner = \"crc32\"\n", "[lake]\nurl = \"lake\"\nevery = \"1s\"\n"];
const BEGIN: &str = "2026-03-01T00:00:00Z";
/// Called like their topics.
const SOURCES: [&str; 2] = ["payments", "outcomes"];
const SHARDS: u32 = 3;
const CARDS: i64 = 20;

/// A clock that stands still until it is told.
struct Hand(AtomicI64);

impl Clock for Hand {
    fn now(&self) -> EventTime {
        EventTime(self.0.load(Ordering::Acquire))
    }
}

struct Shop {
    _cluster: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
    dir: tempfile::TempDir,
    workers: WorkersDef,
    clock: Arc<Hand>,
    /// Source and row of everything that was sent, in order.
    sent: Vec<(usize, String)>,
    minutes: i64,
}

impl Shop {
    fn new() -> Shop {
        let cluster = MockCluster::new(1).unwrap();
        // The mock makes no topics when asked to.
        for (topic, partitions) in [("payments", 3), ("outcomes", 3), ("shop.journal", 3), ("shop.shards", 3), ("shop.control", 1)] {
            cluster.create_topic(topic, partitions, 1).unwrap();
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kilter.toml"), DEFINITIONS.replace("BROKERS", &cluster.bootstrap_servers())).unwrap();
        let producer = ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
        let workers = load(dir.path()).unwrap_or_else(|report| panic!("{report}")).definitions.workers.unwrap();
        let clock = Arc::new(Hand(AtomicI64::new(EventTime::parse("2026-03-02T12:00:00Z").unwrap().0)));
        Shop { _cluster: cluster, producer, dir, workers, clock, sent: Vec::new(), minutes: 0 }
    }

    /// One payment a minute, and the outcome of the large ones.
    fn pay(&mut self, n: i64) {
        let begin = EventTime::parse(BEGIN).unwrap().0;
        for i in self.minutes..self.minutes + n {
            let (card, amount) = (i % CARDS, (i * 37) % 101);
            let at = begin + i * 60_000_000;
            self.send(0, card, &format!(r#"{{"card": {card}, "at": "{}", "amount": {amount}}}"#, EventTime(at)));
            if amount > 70 && i % 11 != 0 {
                self.send(1, card, &format!(r#"{{"card": {card}, "at": "{}", "fraud": true}}"#, EventTime(at + 30_000_000)));
            }
        }
        self.minutes += n;
        self.producer.flush(Duration::from_secs(10)).unwrap();
    }

    fn send(&mut self, source: usize, card: i64, row: &str) {
        let shard = self.workers.shard_of(&Value::Int(card)).unwrap();
        let topic = SOURCES[source];
        self.producer.send(BaseRecord::<(), str>::to(topic).partition(shard as i32).payload(row)).map_err(|(e, _)| e).unwrap();
        self.producer.poll(Duration::ZERO);
        self.sent.push((source, row.to_owned()));
    }

    fn options(&self) -> StartOptions {
        StartOptions { clock: Arc::clone(&self.clock) as Arc<dyn Clock>, ..StartOptions::default() }
    }

    async fn worker(&self, name: &str) -> Worker {
        let project = load(self.dir.path()).unwrap_or_else(|report| panic!("{report}"));
        let options = WorkerOptions { id: None, address: format!("{name}:1"), data: self.dir.path().join(name), start: self.options() };
        tokio::task::spawn_blocking(move || Worker::start(project, options, json)).await.unwrap().unwrap()
    }

    /// The same events in one process, in the order in which they were sent.
    async fn alone(&self) -> Arc<Service> {
        let text = ALONE.iter().fold(DEFINITIONS.to_owned(), |text, part| {
            assert!(text.contains(part));
            text.replace(part, "")
        });
        let dir = self.dir.path().join("alone");
        let project: Project = check_text(&text.replace("BROKERS", "a:1"), "kilter.toml", &dir).unwrap_or_else(|report| panic!("{report}"));
        let service = Service::start(project, self.options()).await.unwrap();
        for (source, row) in &self.sent {
            let source = service.plan.source(SOURCES[*source]).unwrap();
            let taken = service.ingest(source, row.as_bytes(), None, Instant::now()).await.unwrap();
            assert_eq!((taken.accepted, taken.late), (1, 0), "{row}");
        }
        service
    }

    fn day(&self) {
        self.clock.0.fetch_add(86_400_000_000, Ordering::AcqRel);
    }
}

fn json(decision: &Decision, layout: &Layout) -> Vec<u8> {
    format!("{}-{}", layout.decision, decision.offset).into_bytes()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(90), "waited for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// All shards, with whichever worker they are.
fn here(workers: &[&Worker]) -> BTreeMap<u32, Arc<Service>> {
    let places = workers.iter().flat_map(|worker| (0..).zip(worker.shards().places()));
    places.filter_map(|(shard, place)| if let Place::Here(service) = place { Some((shard, service)) } else { None }).collect()
}

/// The model version of every decision on a payment after this minute; 0 where there was none yet.
fn versions(workers: &[&Worker], since: i64) -> Vec<u32> {
    let since = EventTime(EventTime::parse(BEGIN).unwrap().0 + since * 60_000_000);
    let of = |service: Arc<Service>| service.decisions(None, 10_000, |recorded| recorded.decision.time >= since).unwrap().0;
    here(workers).into_values().flat_map(of).map(|recorded| recorded.decision.version.unwrap_or(0)).collect()
}

/// Until all that was sent is decided, and in the lake.
async fn settle(shop: &Shop, workers: &[&Worker]) {
    until("every decision", || here(workers).len() == SHARDS as usize && versions(workers, 0).len() as i64 >= shop.minutes).await;
    let began = Instant::now();
    loop {
        let found = here(workers);
        let reached = found.get(&0).map(|first| shards::reached(&first.data.history, SHARDS).unwrap());
        let ends: Vec<u64> = found.values().map(|service| service.data.events.next_offset()).collect();
        if found.len() == SHARDS as usize && reached.as_ref() == Some(&ends) {
            return;
        }
        let lakes: Vec<_> = found.values().map(|service| service.status.lake()).collect();
        assert!(began.elapsed() < Duration::from_secs(90), "waited for the lake: {reached:?} of {ends:?}, {lakes:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Until two workers share the shards.
async fn both(workers: &[&Worker; 2]) {
    let shared = || {
        let [first, second] = workers.map(|worker| here(&[worker]).len());
        first > 0 && second > 0 && first + second == SHARDS as usize
    };
    until("shards with both", shared).await;
}

async fn stop(mut worker: Worker) {
    tokio::task::spawn_blocking(move || worker.stop()).await.unwrap();
}

/// Until the schedule has noticed what time it is.
async fn ticked(shop: &Shop, service: &Arc<Service>) {
    let began = Instant::now();
    while service.data.metadata.schedule_state("nightly").await.unwrap() != Some(shop.clock.now().0) {
        assert!(began.elapsed() < Duration::from_secs(90), "waited for a tick");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Until each shard has this version in service; the hash of its file.
async fn in_service(workers: &[&Worker], version: u32) -> String {
    let began = Instant::now();
    loop {
        let mut found = Vec::new();
        for service in here(workers).values() {
            found.push(service.data.metadata.alias("risk", CHAMPION).await.unwrap());
        }
        let files: BTreeSet<String> = found.iter().flatten().filter(|f| f.version == version).map(|f| f.spec.artifact.clone()).collect();
        if found.len() == SHARDS as usize && found.iter().flatten().filter(|f| f.version == version).count() == found.len() {
            assert_eq!(files.len(), 1, "one model");
            return files.into_iter().next().unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(90), "waited for version {version} in {found:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Rows with what is known of them, to the bit.
fn rows(observations: &Observations, as_of: EventTime) -> Vec<(EventTime, Vec<u64>, u64)> {
    let mut row = Vec::new();
    let matured = observations.matured(Range { from: EventTime::EARLIEST, to: EventTime(i64::MAX) }, as_of);
    let one = |place: usize| {
        observations.matrix.row(place, &mut row);
        let bits = row.iter().map(|x: &f64| x.to_bits()).collect();
        (observations.times[place], bits, observations.label(place, as_of).unwrap().to_bits())
    };
    matured.into_iter().map(one).collect()
}

async fn trainings(service: &Service) -> usize {
    service.data.metadata.list_runs(&RunFilter::default()).await.unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_shard_trains_for_all_on_the_rows_of_one_process() {
    let mut shop = Shop::new();
    shop.pay(600);
    let first = shop.worker("first").await;
    settle(&shop, &[&first]).await;
    let second = shop.worker("second").await;
    let workers = [&first, &second];
    both(&workers).await;
    settle(&shop, &workers).await;
    let leader = here(&workers)[&0].clone();
    ticked(&shop, &leader).await;
    assert_eq!(trainings(&leader).await, 0, "nothing is due yet");

    shop.day();
    ticked(&shop, &leader).await;
    let file = in_service(&workers, 1).await;
    let mut runs = 0;
    for service in here(&workers).values() {
        runs += trainings(service).await;
    }
    assert_eq!(runs, 1, "one training of one tick");
    let since = shop.minutes;
    shop.pay(60);
    settle(&shop, &workers).await;
    assert_eq!(versions(&workers, since), [1; 60]);
    assert_eq!(versions(&workers, 0).len(), 660, "each payment is decided once");

    // The same from the run's own words, and from one process.
    let run = leader.data.metadata.list_runs(&RunFilter::default()).await.unwrap().remove(0);
    let params = leader.data.metadata.get_run(&run.id).await.unwrap().unwrap().params;
    let ends: Vec<u64> = params["until_offsets"].split(' ').map(|end| end.parse().unwrap()).collect();
    let [from, to, as_of] = ["from", "to", "as_of"].map(|key| EventTime::parse(&params[key]).unwrap());
    let range = Range { from, to };
    let alone = shop.alone().await;
    let (plan, known) = (alone.plan.clone(), alone.data.clone());
    let again = {
        let leader = leader.clone();
        tokio::task::spawn_blocking(move || shards::observe(&leader.data.history, &leader.plan, 0, range, &ends).unwrap()).await.unwrap()
    };
    let whole = {
        let plan = plan.clone();
        let end = known.events.next_offset();
        tokio::task::spawn_blocking(move || train::observe(&known, &plan, 0, range, end).unwrap()).await.unwrap()
    };
    // A row counts as soon as its own shard has seen its horizon: the newest minutes of one process are not all there.
    let (again_rows, whole_rows) = (rows(&again, as_of), rows(&whole, as_of));
    let complete = again_rows.iter().map(|row| row.0).max().unwrap();
    assert!(again_rows.len() > 500, "{}", again_rows.len());
    let of_whole: Vec<_> =
        whole_rows.iter().filter(|row| again_rows.contains(row) || row.0 < EventTime(complete.0 - 40 * 60_000_000)).collect();
    assert_eq!(again_rows.len(), of_whole.len());
    for (one, other) in again_rows.iter().zip(of_whole) {
        assert_eq!(one, other);
    }
    let trained = training::train(&plan.models[0], &again, range, as_of, None).unwrap();
    assert_eq!(leader.data.artifact(&file).unwrap(), trained.model.to_bytes(), "the same model to the bit");
    drop((leader, alone));

    // Whoever has shard 0 next trains on; one that comes without a folder decides by what is in service.
    stop(first).await;
    let third = shop.worker("third").await;
    let workers = [&second, &third];
    both(&workers).await;
    settle(&shop, &workers).await;
    assert_eq!(in_service(&workers, 1).await, file);
    stop(second).await;
    let workers = [&third];
    settle(&shop, &workers).await;
    let leader = here(&workers)[&0].clone();
    ticked(&shop, &leader).await;
    shop.pay(300);
    settle(&shop, &workers).await;
    shop.day();
    ticked(&shop, &leader).await;
    assert_ne!(in_service(&workers, 2).await, file);
    let since = shop.minutes;
    shop.pay(40);
    settle(&shop, &workers).await;
    assert_eq!(versions(&workers, since), [2; 40]);

    // Back to the version before, which this registry has from the journal: said once, done by all.
    assert_eq!(leader.rollback(0, "test").await.unwrap().0, 1);
    assert_eq!(in_service(&workers, 1).await, file);
    for (shard, service) in here(&workers) {
        assert_eq!(service.leads(), shard == 0);
        assert_eq!(service.promote(0, 1, "test", "test").await.is_ok(), shard == 0);
    }
    drop(leader);
    stop(third).await;
}
