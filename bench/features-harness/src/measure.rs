//! What is timed. The time counted is a thread's time on a core, so that other work on the machine blurs it least; beside it the wall's.

use std::fs;
use std::hash::Hasher;
use std::io::{BufRead, BufReader};
use std::time::Instant;

use kilter_connect::{Decoded, Limits, decode_body};
use kilter_core::{EntityKey, Event, EventTime, Value};
use kilter_features::Engine;
use kilter_stats::Rng;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::views::{SOURCE, format, view};
use crate::{Options, fail};

/// Events in one body, as a client that sends in batches would.
const BODY: usize = 500;
/// The arrival of all events: behind the last of them.
const ARRIVED: EventTime = EventTime(1_769_904_000_000_000);

/// The events of a file, partitioned and cut into bodies before any time is taken.
pub struct Input {
    partitions: Vec<Vec<Vec<u8>>>,
    events: usize,
    /// Accounts of events drawn at random.
    keys: Vec<i64>,
}

impl Input {
    pub fn read(path: &str, options: &Options) -> Input {
        let mut file = BufReader::with_capacity(1 << 20, fs::File::open(path).unwrap_or_else(|e| fail(&format!("{path}: {e}"))));
        let mut partitions = vec![Vec::new(); options.threads];
        let mut counts = vec![BODY; options.threads];
        let (mut events, mut keys, mut line) = (0, Vec::new(), Vec::new());
        let mut rng = Rng::seeded(options.seed);
        while options.limit == 0 || events < options.limit {
            line.clear();
            if file.read_until(b'\n', &mut line).unwrap_or_else(|e| fail(&format!("{path}: {e}"))) == 0 {
                break;
            }
            events += 1;
            let key = account(&line);
            if rng.below(20) == 0 {
                keys.push(key);
            }
            let part = partition(key, options.threads);
            if counts[part] == BODY {
                counts[part] = 0;
                partitions[part].push(Vec::with_capacity(BODY * line.len()));
            }
            counts[part] += 1;
            partitions[part].last_mut().unwrap_or_else(|| unreachable!("the line before made one")).extend_from_slice(&line);
        }
        Input { partitions, events, keys }
    }
}

/// The generator writes it first.
fn account(line: &[u8]) -> i64 {
    let digits = line.iter().skip("{\"account_id\":".len()).take_while(|b| b.is_ascii_digit());
    digits.fold(0, |n, b| n * 10 + i64::from(b - b'0'))
}

fn partition(key: i64, partitions: usize) -> usize {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write_i64(key);
    (hasher.finish() % partitions as u64) as usize
}

/// Seconds that a thread spent, over all its events and over their second half, when most entities are known.
#[derive(Clone, Copy, Default)]
struct Spent {
    decode: f64,
    engine: f64,
}

struct Worked {
    engine: Engine,
    all: Spent,
    second_half: Spent,
    second_half_events: usize,
}

/// `answers`: the entity's features are read after each of its events.
fn work(bodies: &[Vec<u8>], set: &str, answers: bool) -> Worked {
    let (format, limits) = (format(), Limits::default());
    let mut worked =
        Worked { engine: Engine::new(vec![view(set)]), all: Spent::default(), second_half: Spent::default(), second_half_events: 0 };
    let (mut offset, mut features) = (0, Vec::new());
    for (i, body) in bodies.iter().enumerate() {
        let start = cpu_seconds();
        let rows = decode_body(body, Some("application/x-ndjson"), &format, ARRIVED, &limits);
        let rows = rows.unwrap_or_else(|rejection| fail(&format!("a body was refused: {}", rejection.message))).rows;
        let decoded = cpu_seconds();
        let count = rows.len();
        for row in rows {
            let Decoded { row, time, id, operation, extra, origin } =
                row.unwrap_or_else(|rejection| fail(&format!("an event was refused: {}", rejection.message)));
            let event = Event { source: SOURCE, offset, time, arrived: ARRIVED, id, operation, row, extra, origin };
            worked.engine.update(&event);
            offset += 1;
            if answers && let Some(key) = EntityKey::from_value(&event.row[0]) {
                features.clear();
                worked.engine.read(0, &key, time, &mut features);
            }
        }
        let spent = Spent { decode: decoded - start, engine: cpu_seconds() - decoded };
        worked.all.add(spent);
        if i * 2 >= bodies.len() {
            worked.second_half.add(spent);
            worked.second_half_events += count;
        }
    }
    worked
}

impl Spent {
    fn add(&mut self, other: Spent) {
        self.decode += other.decode;
        self.engine += other.engine;
    }

    fn total(self) -> f64 {
        self.decode + self.engine
    }
}

pub fn run(input: Input, options: &Options) -> serde_json::Value {
    let before = resident();
    let start = Instant::now();
    let workers: Vec<Worked> = std::thread::scope(|scope| {
        let handles: Vec<_> = input.partitions.iter().map(|bodies| scope.spawn(|| work(bodies, &options.set, options.answers))).collect();
        handles.into_iter().map(|h| h.join().unwrap_or_else(|_| fail("a thread failed"))).collect()
    });
    let wall = start.elapsed().as_secs_f64();
    let grown = resident() - before;
    let stats: Vec<_> = workers.iter().flat_map(|w| w.engine.stats()).collect();
    let sum = |f: &dyn Fn(&Worked) -> f64| workers.iter().map(f).sum::<f64>();
    let (entities, tiles) = (stats.iter().map(|s| s.entities).sum::<usize>(), stats.iter().map(|s| s.tiles).sum::<usize>());
    let events = input.events as f64;
    json!({
        "events": input.events,
        "features": workers[0].engine.views()[0].features().len(),
        "wall_seconds": wall,
        "per_second": events / wall,
        "decode_us": sum(&|w| w.all.decode) * 1e6 / events,
        "engine_us": sum(&|w| w.all.engine) * 1e6 / events,
        "per_core": events / sum(&|w| w.all.total()),
        "per_core_second_half": sum(&|w| w.second_half_events as f64) / sum(&|w| w.second_half.total()),
        "engine_us_second_half": sum(&|w| w.second_half.engine) * 1e6 / sum(&|w| w.second_half_events as f64),
        "entities": entities,
        "tiles": tiles,
        "late": stats.iter().map(|s| s.late).sum::<u64>(),
        "state_bytes_an_entity": stats.iter().map(|s| s.state_bytes).sum::<usize>() as f64 / entities as f64,
        "resident_bytes_an_entity": grown / entities as f64,
    })
}

pub fn read(input: Input, options: &Options) -> serde_json::Value {
    let mut engine = work(&input.partitions[0], &options.set, false).engine;
    let at = engine.watermark(SOURCE).unwrap_or_default();
    let mut out: Vec<Value> = Vec::new();
    let mut nanos: Vec<u64> = Vec::with_capacity(options.reads);
    let mut rng = Rng::seeded(options.seed + 1);
    for _ in 0..options.reads {
        let key = EntityKey::Int(input.keys[rng.below(input.keys.len() as u64) as usize]);
        out.clear();
        let start = Instant::now();
        engine.read(0, &key, at, &mut out);
        nanos.push(start.elapsed().as_nanos() as u64);
    }
    let mean = nanos.iter().sum::<u64>() as f64 / nanos.len() as f64;
    nanos.sort_unstable();
    let quantile = |q: f64| nanos[((nanos.len() - 1) as f64 * q) as usize] as f64 / 1e3;
    json!({ "features": out.len(), "reads": nanos.len(), "mean_us": mean / 1e3, "p50_us": quantile(0.5), "p99_us": quantile(0.99), "p999_us": quantile(0.999) })
}

pub fn values(input: Input, options: &Options) -> serde_json::Value {
    let mut engine = work(&input.partitions[0], &options.set, false).engine;
    let at = engine.watermark(SOURCE).unwrap_or_default();
    let names: Vec<String> = engine.views()[0].features().iter().map(|f| f.name.clone()).collect();
    let mut rows = serde_json::Map::new();
    for key in &options.keys {
        let mut out = Vec::new();
        engine.read(0, &EntityKey::Int(*key), at, &mut out);
        rows.insert(key.to_string(), json!(out));
    }
    json!({ "at_us": at.0, "names": names, "rows": rows })
}

/// The time this thread was on a core.
fn cpu_seconds() -> f64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

/// Bytes of this process in memory.
fn resident() -> f64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok()).unwrap_or(f64::NAN) * rustix::param::page_size() as f64
}
