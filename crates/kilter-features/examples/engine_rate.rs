//! How many events and reads a second one core takes: `cargo run --release -p kilter-features --example engine_rate`.
//!
//! 20 lines over 3 windows each (60 features), 1 000 and then 100 000 entities with skewed activity.
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "an example prints what it measures")]

use kilter_core::{DataType, EntityKey, Event, EventTime, Operation, Schema, SourceId, Span, Value};
use kilter_features::{ColumnSpec, Engine, ViewSpec, compile_view};
use kilter_stats::Rng;

fn main() {
    for (entities, events, spacing) in [(1_000u64, 1_000_000usize, 500_000i64), (100_000, 1_000_000, 500_000)] {
        let mut rng = Rng::seeded(1);
        let kinds = ["card", "cash", "transfer", "withdrawal"].map(Value::text);
        let log: Vec<Event> = (0..events)
            .map(|i| {
                let u = rng.uniform();
                Event {
                    source: SourceId(0),
                    offset: i as u64,
                    time: EventTime(1_767_268_800_000_000 + i as i64 * spacing - rng.below(20_000_000) as i64),
                    arrived: EventTime(0),
                    id: None,
                    operation: Operation::Upsert,
                    row: vec![
                        Value::Int((u * u * entities as f64) as i64),
                        Value::Float(rng.uniform() * 200.0 - 50.0),
                        kinds[rng.below(4) as usize].clone(),
                        Value::Float(rng.uniform() * 1_000.0),
                    ],
                    extra: None,
                    origin: None,
                }
            })
            .collect();
        let mut engine = Engine::new(vec![compile_view(&spec()).unwrap_or_else(|p| panic!("{p:?}"))]);
        let features = engine.views()[0].features().len();
        let start = cpu_seconds();
        for event in &log {
            engine.update(event);
        }
        let update = cpu_seconds() - start;
        let now = engine.watermark(SourceId(0)).unwrap_or_default();
        let mut out = Vec::new();
        let reads = 100_000;
        let mut time = |mean: &dyn Fn(&mut Rng) -> i64| {
            let start = cpu_seconds();
            for _ in 0..reads {
                out.clear();
                engine.read(0, &EntityKey::Int(mean(&mut rng)), now, &mut out);
            }
            (cpu_seconds() - start) / reads as f64 * 1e6
        };
        let any = time(&|rng| rng.below(entities) as i64);
        let busy = time(&|rng| rng.below(10) as i64);
        let start = cpu_seconds();
        let (mut both, mut at) = (engine.views().to_vec(), 0);
        let mut live = Engine::new(std::mem::take(&mut both));
        for event in &log[..events / 4] {
            live.update(event);
            out.clear();
            if let Some(key) = EntityKey::from_value(&event.row[0]) {
                live.read(0, &key, event.time, &mut out);
            }
            at += 1;
        }
        let scored = f64::from(at) / (cpu_seconds() - start);
        let stats = &engine.stats()[0];
        println!(
            "{entities} entities, {features} features: {:.0} events/s; read {any:.1} us (any entity), {busy:.1} us (busiest); {scored:.0} events/s with a read after each; {} tiles, {:.1} KB per entity",
            events as f64 / update,
            stats.tiles,
            stats.state_bytes as f64 / 1e3 / stats.entities as f64,
        );
    }
}

/// Time this process was on a core: other work on the machine does not blur it.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e9
}

fn spec() -> ViewSpec {
    let aggregates = [
        "count(*)",
        "sum(amount)",
        "min(amount)",
        "max(amount)",
        "last(amount)",
        "sum(abs(amount))",
        "min(balance)",
        "max(balance)",
        "last(kind)",
        "count(balance)",
    ];
    let columns = (0..20)
        .map(|i| {
            let filter = ["", " where kind = 'card'"][i / 10];
            let text = format!("{}{filter} over 1h, 1d, 7d", aggregates[i % 10]);
            ColumnSpec { name: format!("f{i}"), text, default: None }
        })
        .collect();
    let schema =
        Schema::new([("k", DataType::Int64), ("amount", DataType::Float64), ("kind", DataType::String), ("balance", DataType::Float64)]);
    ViewSpec { columns, ..ViewSpec::new("account", SourceId(0), schema, &["k"], Span::HOUR) }
}
