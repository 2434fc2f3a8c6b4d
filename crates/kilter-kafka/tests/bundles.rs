//! Workers without a folder, or with one that is too old, go on from a bundle in the lake.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::shop::{DEFINITIONS, SCORED, SHARDS, Shop, check, here, import_stump, stop, taken, until, versions};
use kilter_core::Value;
use kilter_kafka::Worker;
use kilter_pipeline::Decision;
use kilter_runtime::project::Shard;
use kilter_runtime::{BundleStatus, Service};
use kilter_store::dead_letter::DeadLetterQuery;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::Producer;

/// Bundles as often as there are snapshots, and payments with ids.
fn bundled(more: &str) -> Shop {
    Shop::of(&bundled_definitions(more))
}

fn bundled_definitions(more: &str) -> String {
    let lake = "[lake]\nurl = \"lake\"\nevery = \"1s\"\nrecords = 50\n";
    let definitions = DEFINITIONS
        .replace("shards = 3", "shards = 3\nsnapshots = \"1s\"")
        .replace("card = \"int64\"", "card = \"int64\"\nref = \"string\"");
    definitions.replace("topic = \"payments\"", "topic = \"payments\"\nid = \"ref\"") + lake + more
}

/// Where the newest bundle of each shard stands; 0: there is none.
fn offsets(worker: &Worker) -> BTreeMap<u32, u64> {
    here(worker).into_iter().map(|(shard, service)| (shard, bundle(&service).offset.unwrap_or(0))).collect()
}

fn bundle(service: &Service) -> BundleStatus {
    service.status.bundle().unwrap_or_default()
}

/// Pays on, at a pace, until something holds of every shard: a snapshot is looked at when an event comes.
async fn pay_until(shop: &mut Shop, worker: &Worker, what: &str, holds: impl Fn(u32, &Service) -> bool) {
    until("the shards", || here(worker).len() == SHARDS as usize).await;
    let began = Instant::now();
    loop {
        shop.pay(400);
        check(shop, &[worker]).await;
        if here(worker).iter().all(|(shard, service)| holds(*shard, service)) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(90), "waited for {what}");
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
}

/// Pays until every shard has a newer bundle.
async fn pay_for_bundles(shop: &mut Shop, worker: &Worker) -> BTreeMap<u32, u64> {
    until("the shards", || here(worker).len() == SHARDS as usize).await;
    let before = offsets(worker);
    pay_until(shop, worker, "bundles", |shard, service| bundle(service).offset.is_some_and(|offset| offset > before[&shard])).await;
    offsets(worker)
}

/// The offsets at which the logs of the shards begin.
fn starts(worker: &Worker) -> BTreeMap<u32, u64> {
    here(worker).into_iter().map(|(shard, service)| (shard, service.data.events.start_offset())).collect()
}

fn first_offset(shard: u32) -> u64 {
    Shard { number: shard, data: PathBuf::new() }.first_offset()
}

/// All decisions that the shards here know of.
fn decisions(worker: &Worker) -> BTreeMap<u64, Decision> {
    let of = |service: &Service| service.decisions(None, 100_000, |_| true).unwrap().0;
    here(worker).values().flat_map(|service| of(service)).map(|found| (found.decision.offset, found.decision)).collect()
}

/// The manifests of a shard's bundles, oldest first.
fn manifests(shop: &Shop, shard: u32) -> Vec<PathBuf> {
    let folder = shop.dir.path().join(format!("lake/_kilter/snapshots/{shard:05}"));
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    found.sort();
    found
}

fn read(path: &PathBuf) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The first part of the snapshot of a bundle.
fn snapshot_of(manifest: &PathBuf) -> PathBuf {
    manifest.with_file_name(read(manifest)["files"]["snapshot"][0]["path"].as_str().unwrap())
}

fn letters(worker: &Worker) -> Vec<String> {
    let query = || DeadLetterQuery { limit: 10, ..Default::default() };
    let of = |service: &Service| service.data.dead_letters.list(&query()).unwrap().letters;
    here(worker).values().flat_map(|service| of(service)).map(|(_, letter)| letter.code).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_without_a_folder_goes_on_from_a_bundle_as_one_that_has_read_everything() {
    let mut shop = bundled("");
    let shard = shop.workers.shard_of(&Value::Int(1)).unwrap();
    shop.send((shard + 1) % SHARDS, r#"{"card": 1, "at": "2026-03-01T00:00:00Z", "amount": 5}"#);
    let first = shop.worker("first").await;
    pay_for_bundles(&mut shop, &first).await;
    pay_for_bundles(&mut shop, &first).await;
    until("the dead letter to be told of", || shop.read("dead").len() == 1).await;
    shop.pay(70);
    check(&shop, &[&first]).await;
    let made = decisions(&first);
    stop(first).await;
    // Of the two that are kept the newer one is lost: what came between them is read from the journal.
    let kept: BTreeMap<u32, [PathBuf; 2]> =
        (0..SHARDS).map(|shard| (shard, manifests(&shop, shard).try_into().expect("two are kept"))).collect();
    let offset = |manifest: &PathBuf| read(manifest)["offset"].as_u64().unwrap();
    let [older, newer] = [0, 1].map(|age| kept.iter().map(|(shard, of)| (*shard, offset(&of[age]))).collect::<BTreeMap<u32, u64>>());
    kept.values().for_each(|[_, newer]| std::fs::remove_file(newer).unwrap());
    let second = shop.worker("second").await;
    shop.pay(30);
    check(&shop, &[&second]).await;
    assert_eq!(starts(&second), older);
    let known = decisions(&second);
    for (shard, first) in &older {
        let read_again: Vec<u64> = made.range(first..&first_offset(shard + 1)).map(|(offset, _)| *offset).collect();
        assert!(*first > first_offset(*shard) && read_again.iter().any(|offset| *offset < newer[shard]), "shard {shard}");
        assert!(read_again.iter().all(|offset| known.get(offset) == Some(&made[offset])), "shard {shard}");
    }
    assert_eq!(letters(&second), ["wrong_partition"]);
    // A payment that was counted before the bundle does not count again.
    let card = shop.workers.shard_of(&Value::Int(3)).unwrap();
    shop.send(card, r#"{"card": 3, "at": "2026-03-01T00:00:00Z", "amount": 3, "ref": "payment 3"}"#);
    shop.producer.flush(Duration::from_secs(10)).unwrap();
    let duplicates = || here(&second)[&card].status.duplicates.load(std::sync::atomic::Ordering::Relaxed);
    until("the repetition", || duplicates() == 1).await;
    check(&shop, &[&second]).await;
    stop(second).await;
    // Without bundles the journal is read, and says the same.
    std::fs::remove_dir_all(shop.dir.path().join("lake/_kilter/snapshots")).unwrap();
    let third = shop.worker("third").await;
    shop.pay(10);
    check(&shop, &[&third]).await;
    assert!(starts(&third).into_iter().all(|(shard, start)| start == first_offset(shard)));
    let all = decisions(&third);
    assert!(made.iter().all(|(offset, decision)| all.get(offset) == Some(decision)));
    assert!(known.iter().all(|(offset, decision)| all[offset] == *decision));
    assert_eq!(letters(&third), ["wrong_partition"]);
    assert_eq!(shop.read("dead").len(), 1);
    stop(third).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_that_kept_copies_takes_over_from_them() {
    let mut shop = Shop::of(&bundled_definitions("").replace("snapshots = \"1s\"", "snapshots = \"1s\"\nstandby = true"));
    let first = shop.worker("first").await;
    pay_for_bundles(&mut shop, &first).await;
    let second = shop.worker("second").await;
    until("the shards to be shared", || {
        let (first, second) = (here(&first).len(), here(&second).len());
        first > 0 && second > 0 && first + second == SHARDS as usize
    })
    .await;
    let pairs = [(&first, &second), (&second, &first)];
    let copy = |worker: &Worker, shard: u32| worker.shards().copies()[shard as usize];
    let ends = |worker: &Worker| -> BTreeMap<u32, u64> {
        here(worker).into_iter().map(|(shard, service)| (shard, service.data.events.next_offset())).collect()
    };
    // Copies come up to journals that do not stand still.
    let wanted = pairs.map(|(owner, _)| ends(owner));
    let began = Instant::now();
    let reached = |(owned, (_, other)): (&BTreeMap<u32, u64>, (&Worker, &Worker))| {
        owned.iter().all(|(shard, end)| copy(other, *shard).is_some_and(|next| next >= *end))
    };
    while !wanted.iter().zip(pairs).all(reached) {
        shop.pay(20);
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert!(began.elapsed() < Duration::from_secs(90), "waited for copies");
    }
    check(&shop, &[&first, &second]).await;
    for (owner, other) in pairs {
        until("copies", || ends(owner).iter().all(|(shard, end)| copy(other, *shard) == Some(*end))).await;
        assert!(here(owner).keys().all(|shard| copy(owner, *shard).is_none()));
    }
    let made: BTreeMap<u64, Decision> = decisions(&first).into_iter().chain(decisions(&second)).collect();
    // A worker without copies would read the journal from its start now.
    std::fs::remove_dir_all(shop.dir.path().join("lake/_kilter/snapshots")).unwrap();
    let moved: Vec<u32> = here(&first).into_keys().collect();
    stop(first).await;
    shop.pay(30);
    check(&shop, &[&second]).await;
    let starts = starts(&second);
    assert_eq!(second.shards().copies(), [None; SHARDS as usize]);
    let known = decisions(&second);
    for shard in moved {
        let of_shard = first_offset(shard)..first_offset(shard + 1);
        assert!(starts[&shard] > of_shard.start, "{starts:?}");
        let both: Vec<u64> = known.range(of_shard).map(|(offset, _)| *offset).filter(|offset| made.contains_key(offset)).collect();
        assert!(!both.is_empty() && both.iter().all(|offset| made[offset] == known[offset]), "shard {shard}");
    }
    // The first one comes back to folders of its own: they are read on, and keep the decisions that were made in them.
    let again = shop.worker("first").await;
    until("the shards to be shared", || here(&again).len() + here(&second).len() == SHARDS as usize && !here(&again).is_empty()).await;
    shop.pay(30);
    check(&shop, &[&again, &second]).await;
    stop(second).await;
    until("the shards", || here(&again).len() == SHARDS as usize).await;
    let back = decisions(&again);
    assert!(made.iter().all(|(offset, decision)| back.get(offset) == Some(decision)), "decisions are gone");
    stop(again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bundle_that_cannot_be_used_is_passed_over() {
    let mut shop = bundled("");
    let first = shop.worker("first").await;
    pay_for_bundles(&mut shop, &first).await;
    pay_for_bundles(&mut shop, &first).await;
    stop(first).await;
    let of_shard = |shard| -> [PathBuf; 2] { manifests(&shop, shard).try_into().expect("two are kept") };
    // One is damaged; of one the owner was killed before the manifest was there; one is of a newer form, and the one before it lacks a part.
    let (damaged, killed, newer) = (of_shard(0), of_shard(1), of_shard(2));
    let mut part = std::fs::read(snapshot_of(&damaged[1])).unwrap();
    part[100] ^= 1;
    std::fs::write(snapshot_of(&damaged[1]), part).unwrap();
    std::fs::remove_file(&killed[1]).unwrap();
    let mut manifest = read(&newer[1]);
    manifest["format"] = 99.into();
    std::fs::write(&newer[1], manifest.to_string()).unwrap();
    std::fs::remove_file(snapshot_of(&newer[0])).unwrap();
    let second = shop.worker("second").await;
    shop.pay(10);
    check(&shop, &[&second]).await;
    let offset = |manifest: &PathBuf| read(manifest)["offset"].as_u64().unwrap();
    assert_eq!(starts(&second), BTreeMap::from([(0, offset(&damaged[0])), (1, offset(&killed[0])), (2, first_offset(2))]));
    // What is of no use goes once there are two that are.
    pay_for_bundles(&mut shop, &second).await;
    pay_for_bundles(&mut shop, &second).await;
    for manifest in [&damaged[1], &damaged[0], &killed[0], &newer[1], &newer[0]] {
        assert!(!manifest.exists(), "{}", manifest.display());
    }
    // While the next one is made there are three for a moment.
    until("two of each shard to stay", || (0..SHARDS).all(|shard| manifests(&shop, shard).len() == 2)).await;
    stop(second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bundle_of_another_journal_is_not_believed() {
    let mut shop = bundled("");
    let first = shop.worker("first").await;
    pay_for_bundles(&mut shop, &first).await;
    stop(first).await;
    for shard in 0..SHARDS {
        for path in manifests(&shop, shard) {
            let mut manifest = read(&path);
            manifest["last"] = "0".repeat(64).into();
            std::fs::write(path, manifest.to_string()).unwrap();
        }
    }
    let second = shop.worker("second").await;
    shop.pay(10);
    check(&shop, &[&second]).await;
    assert!(starts(&second).into_iter().all(|(shard, start)| start == first_offset(shard)));
    stop(second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_sink_has_not_delivered_is_in_no_bundle() {
    let mut shop = bundled("[sink.slow]\nfrom = \"decision.limit\"\ntopic = \"slow\"\n");
    let worker = shop.worker("first").await;
    let missed = |_, service: &Service| bundle(service).problem.is_some_and(|problem| problem.contains("sink `slow` has not delivered"));
    pay_until(&mut shop, &worker, "the sink to be missed", missed).await;
    assert!(offsets(&worker).values().all(|offset| *offset == 0));
    shop.cluster.create_topic("slow", 1, 1).unwrap();
    until("bundles", || offsets(&worker).values().all(|offset| *offset > 0)).await;
    stop(worker).await;
    let next = shop.worker("next").await;
    shop.pay(10);
    check(&shop, &[&next]).await;
    until("the slow sink", || shop.read("slow").len() == shop.sent).await;
    stop(next).await;
}

/// The mock keeps five megabytes of a partition.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_folder_that_the_journal_does_not_reach_is_made_anew() {
    let mut shop = bundled("");
    shop.pay(60);
    let first = shop.worker("first").await;
    check(&shop, &[&first]).await;
    stop(first).await;
    let second = shop.worker("second").await;
    // Compression finds nothing in it.
    let mut seed = 1_u64;
    let mut noise = || -> String {
        std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b'a' + (seed >> 33) as u8 % 26)
        })
        .take(40_000)
        .collect()
    };
    let consumer: BaseConsumer = rdkafka::ClientConfig::new().set("bootstrap.servers", shop.cluster.bootstrap_servers()).create().unwrap();
    let low = |shard| consumer.fetch_watermarks("shop.journal", shard, Duration::from_secs(10)).unwrap().0;
    while (0..SHARDS as i32).any(|shard| low(shard) == 0) {
        shop.pay_with(60, &mut noise);
        until("payments", || taken(&[&second]) == shop.sent).await;
    }
    // Of all that came before, the journal may still lose something.
    let ends: BTreeMap<u32, u64> = here(&second).iter().map(|(shard, service)| (*shard, service.data.events.next_offset())).collect();
    pay_until(&mut shop, &second, "bundles", |shard, service| bundle(service).offset.is_some_and(|offset| offset > ends[&shard])).await;
    stop(second).await;
    let first = shop.worker("first").await;
    shop.pay(10);
    check(&shop, &[&first]).await;
    assert!(starts(&first).into_iter().all(|(shard, start)| start > first_offset(shard)));
    stop(first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_model_goes_with_a_bundle() {
    let mut shop = bundled(SCORED);
    let first = shop.worker("first").await;
    shop.pay(60);
    check(&shop, &[&first]).await;
    import_stump(&first).await;
    pay_for_bundles(&mut shop, &first).await;
    pay_for_bundles(&mut shop, &first).await;
    stop(first).await;
    let second = shop.worker("second").await;
    shop.pay(50);
    check(&shop, &[&second]).await;
    let made = versions(&second);
    assert!(made.len() >= 50 && made.iter().all(|version| *version == 1));
    for service in here(&second).values() {
        let champion = service.data.metadata.alias("risk", "champion").await.unwrap().unwrap();
        assert_eq!((champion.version, champion.spec.kind.as_str()), (1, "lightgbm"));
    }
    stop(second).await;
    // From its own snapshots.
    let second = shop.worker("second").await;
    shop.pay(10);
    check(&shop, &[&second]).await;
    assert!(versions(&second).iter().all(|version| *version == 1));
    stop(second).await;
}
