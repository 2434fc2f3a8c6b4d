//! Several workers against the client library's own mock cluster, in one process. What a mock cannot show (transactions that are given up, zombies, brokers that
//! die) is shown against real brokers by `crosscheck/kafka/run KILTER workers`.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::shop::{CARDS, DEFINITIONS, SCORED, SHARDS, Shop, check, here, import_stump, json, stop, taken, until, versions};
use kilter_core::Value;
use kilter_kafka::{Worker, WorkerOptions};
use kilter_runtime::shards::Place;
use kilter_runtime::{Service, StartOptions, project};
use kilter_store::dead_letter::DeadLetterQuery;
use kilter_store::log::{Log, LogOptions};
use rdkafka::producer::Producer;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_model_goes_with_its_shard() {
    let mut shop = Shop::with(SCORED);
    shop.pay(60);
    let first = shop.worker("first").await;
    check(&shop, &[&first]).await;
    assert!(versions(&first).iter().all(|version| *version == 0));
    import_stump(&first).await;
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

/// The same topic a second time, by another column than the one it is keyed by. A mock cluster forgets the positions of a transaction, so nobody is killed here.
const BY_SHOP: &str = r#"
[source.sales]
connector = "kafka"
topic = "payments"
partition_by = "shop"
time = "at"
max_future = "none"
columns = { shop = "string", at = "timestamp", amount = { type = "float64", required = true } }
[features.shop]
source = "sales"
entity = "shop"
columns = { n = "count(*) over lifetime", sum = "sum(amount) over lifetime" }
[decision.sale]
on = "sales"
policy = [{ when = "shop.n >= 3", outcome = "known" }, { outcome = "new" }]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn records_that_are_keyed_otherwise_are_brought_to_their_shards() {
    const SHOPS: usize = 7;
    let mut shop = Shop::with(BY_SHOP);
    shop.cluster.create_topic("shop.repartition.sales", SHARDS as i32, 1).unwrap();
    let mut sent = 0;
    let mut sell = |shop: &mut Shop, n: usize| {
        for i in sent..sent + n {
            let card = (i % CARDS) as i64;
            let text = format!(r#"{{"card": {card}, "shop": "s{}", "at": "2026-03-01T00:00:00Z", "amount": {i}}}"#, i % SHOPS);
            shop.send(shop.workers.shard_of(&Value::Int(card)).unwrap(), &text);
        }
        sent += n;
        shop.producer.flush(Duration::from_secs(10)).unwrap();
        sent
    };
    let by = shop.workers.clone();
    // Both sources have each of them, in the shard of the card and in that of the shop.
    let settled = async |workers: &[&Worker], sent: usize| {
        until("all events, twice", || taken(workers) >= 2 * sent).await;
        assert_eq!(taken(workers), 2 * sent);
        for which in 0..SHOPS {
            let name = format!("s{which}");
            let shard = by.shard_of(&Value::text(&name)).unwrap();
            let service = workers.iter().find_map(|worker| here(worker).remove(&shard)).unwrap();
            let view = service.plan.view("shop").unwrap();
            let read = service.features(view, service.parse_key(view, &name).unwrap(), None).await.unwrap();
            let of_shop: Vec<f64> = (which..sent).step_by(SHOPS).map(|i| i as f64).collect();
            assert_eq!(read.values, [Value::Int(of_shop.len() as i64), Value::Float(of_shop.iter().sum())], "{name}");
        }
    };
    let first = shop.worker("first").await;
    settled(&[&first], sell(&mut shop, 150)).await;
    settled(&[&first], sell(&mut shop, 100)).await;
    // What cannot be read, or says no shard, is a dead letter of both sources.
    shop.send(0, "{");
    shop.send(shop.workers.shard_of(&Value::Int(1)).unwrap(), r#"{"card": 1, "at": "2026-03-01T00:00:00Z", "amount": 5}"#);
    shop.producer.flush(Duration::from_secs(10)).unwrap();
    let letters = || -> BTreeSet<(String, String)> {
        let of = |service: &Service| service.data.dead_letters.list(&DeadLetterQuery { limit: 10, ..Default::default() }).unwrap().letters;
        let services: Vec<_> = here(&first).into_values().collect();
        services.iter().flat_map(|s| of(s)).map(|(_, letter)| (letter.source.unwrap_or_default(), letter.code)).collect()
    };
    until("three dead letters", || letters().len() == 3).await;
    let codes: Vec<(String, String)> = letters().into_iter().collect();
    let [(one, bad), (other, also_bad), (sales, null)] = &codes[..] else { panic!("{codes:?}") };
    assert_eq!([one.as_str(), other, sales], ["payments", "sales", "sales"], "{codes:?}");
    assert!(bad == also_bad && null != bad || bad == null, "{codes:?}");
    stop(first).await;
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
