//! State beyond memory: many entities under a limit, loaded one by one, then used by Zipf's law, then taken up again after a restart.
//!
//! The engine and its store are those of the product, and so is when they write and let go (`Engine::relieve`);
//! there is no log and no HTTP.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use kilter_connect::{Decoded, Limits, decode_body};
use kilter_core::{EntityKey, Event, EventTime, Value};
use kilter_features::{ColdStore, Engine, Pressure};
use kilter_stats::Rng;
use kilter_store::state::{StateHead, StateOptions, StateStore, StateView, ViewCommit};
use serde_json::json;

use crate::generate::{MONTH_MS, account, event};
use crate::views::{SOURCE, format, view};
use crate::{Options, fail};

const BODY: u64 = 500;
const ARRIVED: EventTime = EventTime(1_769_904_000_000_000);
/// Of so many accounts one is counted beside, to see that nothing is lost.
const WATCHED: u64 = 49_999;

pub struct Shelf(pub StateView);

impl ColdStore for Shelf {
    fn get(&self, key: &[u8], found: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        self.0.get(key, found).map_err(|e| e.to_string())
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), String> {
        self.0.scan(each).map_err(|e| e.to_string())
    }
}

/// The engine's driver: what the sequencer is in the product.
struct Balance {
    store: Arc<StateStore>,
    hot: usize,
    writing: Option<Receiver<Vec<u64>>>,
    offset: u64,
    written_bytes: u64,
    waited: f64,
}

impl Balance {
    fn keep(&mut self, engine: &mut Engine) {
        loop {
            self.collect(engine, false);
            match engine.relieve(self.hot, self.writing.is_some()) {
                Pressure::None => return,
                Pressure::Write => return self.write(engine),
                Pressure::Wait => {
                    self.write(engine);
                    let start = Instant::now();
                    self.collect(engine, true);
                    self.waited += start.elapsed().as_secs_f64();
                }
            }
        }
    }

    fn write(&mut self, engine: &mut Engine) {
        self.collect(engine, false);
        if self.writing.is_some() {
            return;
        }
        let (tell, told) = channel();
        let (store, offset) = (Arc::clone(&self.store), self.offset);
        let changes = engine.changes();
        self.written_bytes += changes.views.iter().flat_map(|v| &v.put).map(|(k, f)| (k.len() + f.len()) as u64).sum::<u64>();
        std::thread::spawn(move || {
            let head = StateHead { offset, event_time: 0, definition_hash: "bench".into(), bytes: changes.head };
            let views = changes.views.into_iter().map(|c| ViewCommit {
                view: "account".into(),
                put: c.put,
                removed: c.removed,
                expired_at: c.watermark,
            });
            let expired = store.commit(&head, views.collect()).unwrap_or_else(|e| fail(&e.to_string()));
            drop(store);
            let _ = tell.send(expired);
        });
        self.writing = Some(told);
    }

    fn collect(&mut self, engine: &mut Engine, wait: bool) {
        let Some(told) = &self.writing else { return };
        let outcome = if wait { told.recv().ok() } else { told.try_recv().ok() };
        if let Some(expired) = outcome {
            self.writing = None;
            engine.written(|view| expired.get(view).copied().unwrap_or(0));
        }
    }
}

/// `path` is a folder that does not exist yet.
pub fn spill(path: &str, options: &Options) -> serde_json::Value {
    let path = Path::new(path);
    if path.exists() {
        fail(&format!("{} exists", path.display()));
    }
    let store_options = StateOptions::within(options.memory << 20);
    let open = || Arc::new(StateStore::open(path, &store_options).unwrap_or_else(|e| fail(&e.to_string())));
    let store = open();
    let shelf = |store: &StateStore| Box::new(Shelf(store.view("account").unwrap_or_else(|e| fail(&e.to_string()))));
    let mut engine = Engine::new(vec![view(&options.set)]);
    engine.attach(0, shelf(&store));
    let mut balance = Balance {
        store: Arc::clone(&store),
        hot: store_options.hot_bytes as usize,
        writing: None,

        offset: 0,
        written_bytes: 0,
        waited: 0.0,
    };
    let mut rng = Rng::seeded(options.seed);
    let mut watched: HashMap<i64, i64> = HashMap::new();
    let total = options.entities + options.events;
    let mut phase =
        |engine: &mut Engine, balance: &mut Balance, range: std::ops::Range<u64>, rank: &mut dyn FnMut(u64, &mut Rng) -> u64| {
            let (mut seconds, mut body) = (0.0, String::new());
            let (waited, written) = (balance.waited, balance.written_bytes);
            let began = Instant::now();
            for start in range.clone().step_by(BODY as usize) {
                body.clear();
                let mut line = String::new();
                for i in start..(start + BODY).min(range.end) {
                    let account = account(rank(i, &mut rng), options.entities);
                    if account % WATCHED == 0 {
                        *watched.entry(account as i64).or_default() += 1;
                    }
                    line.clear();
                    event(&mut line, account, rng.below(20_000), i * MONTH_MS / total, &mut rng);
                    body.push_str(&line);
                }
                let clock = Instant::now();
                let decoded = decode_body(body.as_bytes(), Some("application/x-ndjson"), &format(), ARRIVED, &Limits::default());
                for row in decoded.unwrap_or_else(|r| fail(&r.message)).rows {
                    let Decoded { row, time, id, operation, extra, origin } = row.unwrap_or_else(|r| fail(&r.message));
                    engine.update(&Event { source: SOURCE, offset: balance.offset, time, arrived: ARRIVED, id, operation, row, extra, origin });
                    balance.offset += 1;
                }
                balance.keep(engine);
                seconds += clock.elapsed().as_secs_f64();
                if let Some(failure) = engine.failure() {
                    fail(failure);
                }
                if options.progress && start % 1_000_000 < BODY {
                    eprintln!(
                        "{start} events, {:.0} s, {:.0} MiB resident, {:?}",
                        began.elapsed().as_secs_f64(),
                        high_water(),
                        engine.stats()[0].in_memory
                    );
                }
            }
            let events = range.end - range.start;
            json!({
                "events": events,
                "seconds": seconds,
                "per_second": events as f64 / seconds,
                "waited_for_disk_seconds": balance.waited - waited,
                "written_mib": (balance.written_bytes - written) >> 20,
            })
        };
    let loading = phase(&mut engine, &mut balance, 0..options.entities, &mut |i, _| i);
    let n = options.entities as f64;
    // Zipf's law with exponent 1, by the inverse of its smooth form: a table of so many ranks would not fit the limit.
    let mut zipf = |_: u64, rng: &mut Rng| ((rng.uniform() * (n + 1.0).ln()).exp() - 1.0).min(n - 1.0) as u64;
    let steady = phase(&mut engine, &mut balance, options.entities..total, &mut zipf);
    let entities = engine.stats()[0].entities;
    let in_memory = engine.stats()[0].in_memory;
    balance.collect(&mut engine, true);
    balance.write(&mut engine);
    balance.collect(&mut engine, true);
    let at = engine.watermark(SOURCE).unwrap_or_default();
    let high_water_mib = high_water();
    drop((engine, balance, store));

    // A restart, as far as the state goes.
    let clock = Instant::now();
    let store = open();
    let head = store.head().unwrap_or_else(|e| fail(&e.to_string())).unwrap_or_else(|| fail("no head"));
    let mut engine = Engine::resume(vec![view(&options.set)], &head.bytes).unwrap_or_else(|e| fail(&e.to_string()));
    engine.attach(0, shelf(&store));
    let mut out: Vec<Value> = Vec::new();
    let first = account(0, options.entities) as i64;
    engine.read(0, &EntityKey::Int(first), at, &mut out);
    let restart = clock.elapsed().as_secs_f64();
    let reads = |engine: &mut Engine, rng: &mut Rng, rank: &mut dyn FnMut(u64, &mut Rng) -> u64| {
        let mut nanos: Vec<u64> = (0..options.reads as u64)
            .map(|i| {
                let key = EntityKey::Int(account(rank(i, rng), options.entities) as i64);
                let mut out = Vec::new();
                let start = Instant::now();
                engine.read(0, &key, at, &mut out);
                start.elapsed().as_nanos() as u64
            })
            .collect();
        nanos.sort_unstable();
        let quantile = |q: f64| nanos[((nanos.len() - 1) as f64 * q) as usize] as f64 / 1e3;
        json!({ "p50_us": quantile(0.5), "p99_us": quantile(0.99), "p999_us": quantile(0.999) })
    };
    let cold = reads(&mut engine, &mut Rng::seeded(1), &mut |_, rng| rng.below(options.entities));
    let place = engine.views()[0].features().iter().position(|f| f.name == "n_30d").unwrap_or_else(|| fail("no count"));
    let mut wrong = 0;
    for (account, count) in &watched {
        out.clear();
        engine.read(0, &EntityKey::Int(*account), at, &mut out);
        wrong += usize::from(out[place] != Value::Int(*count));
    }
    json!({
        "entities": entities,
        "in_memory": in_memory,
        "limit_mib": options.memory,
        "high_water_mib": high_water_mib,
        "loading": loading,
        "zipf": steady,
        "store_mib": store.disk_bytes().unwrap_or(0) >> 20,
        "restart_seconds": restart,
        "cold_reads": cold,
        "accounts_checked": watched.len(),
        "accounts_wrong": wrong,
    })
}

/// The most that this process had in memory, in MiB.
pub fn high_water() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(f64::NAN) / 1024.0
}
