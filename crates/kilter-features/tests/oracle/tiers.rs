//! An engine whose entities are in memory by turns, beside one that has them all in memory; and one killed and started again from what was
//! written last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use kilter_features::{Changes, ColdStore, expiry};

use super::*;

/// Written entities by view and key, and the head they were written with.
#[derive(Default)]
struct Disk {
    views: BTreeMap<usize, BTreeMap<Vec<u8>, Vec<u8>>>,
    head: Vec<u8>,
    /// Events in the state that is written.
    events: usize,
    reads: usize,
}

struct Shelf(usize, Arc<Mutex<Disk>>);

impl ColdStore for Shelf {
    fn get(&self, key: &[u8], found: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        let mut disk = self.1.lock().unwrap();
        disk.reads += 1;
        if let Some(form) = disk.views.get(&self.0).and_then(|v| v.get(key)) {
            found(form);
        }
        Ok(())
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), String> {
        self.1.lock().unwrap().views.get(&self.0).into_iter().flatten().for_each(|(k, f)| each(k, f));
        Ok(())
    }
}

fn attach(engine: &mut Engine, disk: &Arc<Mutex<Disk>>) {
    for v in 0..engine.views().len() {
        engine.attach(v, Box::new(Shelf(v, Arc::clone(disk))));
    }
}

/// Writes changes as one, and drops what has passed: returns how many by view.
fn write(disk: &Arc<Mutex<Disk>>, changes: Changes, events: usize) -> Vec<u64> {
    let mut disk = disk.lock().unwrap();
    let mut expired = Vec::new();
    for change in changes.views {
        let shelf = disk.views.entry(change.view).or_default();
        change.removed.iter().for_each(|k| drop(shelf.remove(k)));
        shelf.extend(change.put);
        let before = shelf.len();
        shelf.retain(|_, form| expiry(form) > change.watermark);
        expired.push((before - shelf.len()) as u64);
    }
    disk.head = changes.head;
    disk.events = events;
    expired
}

proptest! {
    #![proptest_config(cases(1_500))]

    #[test]
    fn where_an_entity_lies_leaves_no_trace(
        views in prop::collection::vec(test_view(), 1..4),
        events in history(220),
        seed: u64,
        moments in moments(),
    ) {
        let mut rng = Rng::seeded(seed);
        let disk = Arc::new(Mutex::new(Disk::default()));
        let mut whole = engine_with_reader(&views);
        let mut tiered = engine_with_reader(&views);
        attach(&mut tiered, &disk);
        let mut in_flight = None;
        for (n, event) in events.iter().enumerate() {
            prop_assert_eq!(whole.update(event), tiered.update(event));
            match rng.below(12) {
                0 | 1 if in_flight.is_none() => in_flight = Some((tiered.changes(), n + 1)),
                2 | 3 => {
                    if let Some((changes, at)) = in_flight.take() {
                        let expired = write(&disk, changes, at);
                        tiered.written(|v| expired[v]);
                    }
                }
                4 | 5 => {
                    tiered.evict(rng.below(4_000) as usize);
                }
                6 if rng.bernoulli(0.3) => {
                    // Killed: what was not written is gone, and the log is read again from where the written state stands.
                    in_flight = None;
                    let (head, at) = { let disk = disk.lock().unwrap(); (disk.head.clone(), disk.events) };
                    tiered = match head.is_empty() {
                        true => engine_with_reader(&views),
                        false => Engine::resume(tiered.views().to_vec(), &head).unwrap(),
                    };
                    attach(&mut tiered, &disk);
                    events[at..=n].iter().for_each(|e| { tiered.update(e); });
                }
                _ => {}
            }
            for (v, key) in named(&views, event) {
                for q in moments.iter().map(|m| EventTime(event.time.0 + m)) {
                    let values = read(&mut whole, v, &key, q);
                    prop_assert!(same_bits(&values, &read(&mut tiered, v, &key, q)));
                    prop_assert_eq!(whole.last_event(v, &key), tiered.last_event(v, &key));
                }
            }
            prop_assert_eq!(tiered.failure(), None);
        }
        prop_assert!(snapshot(&whole) == snapshot(&tiered), "snapshots differ");
        let kept = |e: &Engine| e.stats().iter().map(|s| (s.late, s.no_key, s.filtered, s.retracted)).collect::<Vec<_>>();
        prop_assert_eq!(kept(&whole), kept(&tiered));
    }
}

#[test]
fn entities_do_leave_memory_and_come_back() {
    let disk = Arc::new(Mutex::new(Disk::default()));
    let mut engine = Engine::new(vec![view(&common::spec(&[("n", "count(*) over 1h"), ("total", "sum(amount)")]))]);
    attach(&mut engine, &disk);
    let row = |k: i64| vec![Value::Int(k), Value::Float(1.0), Value::Null, Value::Null, Value::Null, Value::Null];
    for i in 0..10_000 {
        engine.update(&common::event(EventTime(i * 1_000), row(i % 5_000)));
    }
    let before = engine.hot_bytes();
    assert!(!engine.evict(before / 10), "nothing is written yet, so nothing may go");
    let changes = engine.changes();
    assert!(!engine.evict(before / 10), "nor while it is being written");
    let expired = write(&disk, changes, 10_000);
    engine.written(|v| expired[v]);
    assert!(engine.evict(before / 4), "{} of {before} are left", engine.hot_bytes());
    assert_eq!(engine.stats()[0].entities, 5_000);
    let reads = disk.lock().unwrap().reads;
    for k in 0..5_000 {
        assert_eq!(read(&mut engine, 0, &EntityKey::Int(k), EventTime(10_000_000)), [Value::Int(2), Value::Float(2.0)]);
    }
    assert!(disk.lock().unwrap().reads > reads + 1_000);
}

#[test]
fn a_store_that_fails_is_told() {
    struct Broken;
    impl ColdStore for Broken {
        fn get(&self, _: &[u8], _: &mut dyn FnMut(&[u8])) -> Result<(), String> {
            Err("the disk is gone".into())
        }
        fn scan(&self, _: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), String> {
            Err("the disk is gone".into())
        }
    }
    struct Mad;
    impl ColdStore for Mad {
        fn get(&self, _: &[u8], found: &mut dyn FnMut(&[u8])) -> Result<(), String> {
            found(&[1, 2, 3]);
            Ok(())
        }
        fn scan(&self, _: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), String> {
            Ok(())
        }
    }
    let stores: [(Box<dyn ColdStore>, &str); 2] =
        [(Box::new(Broken), "the disk is gone"), (Box::new(Mad), "entity 9 of view account: the snapshot is damaged: cut short")];
    for (store, failure) in stores {
        let mut engine = Engine::new(vec![view(&common::spec(&[("n", "count(*) over 1h")]))]);
        engine.attach(0, store);
        let row = |k: i64| vec![Value::Int(k), Value::Null, Value::Null, Value::Null, Value::Null, Value::Null];
        engine.update(&common::event(EventTime(0), row(1)));
        engine.changes();
        engine.written(|_| 0);
        assert_eq!(engine.failure(), None);
        engine.update(&common::event(EventTime(0), row(9)));
        assert_eq!(engine.failure(), Some(failure));
    }
}
