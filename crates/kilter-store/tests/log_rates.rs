//! Rates of the log on this machine; run with `cargo test --profile dist -p kilter-store --test log_rates -- --ignored --nocapture`.

use kilter_store::log::{Log, LogOptions};
use std::io::Write;
use std::time::{Duration, Instant};

#[test]
#[ignore = "a measurement, not a check"]
fn rates() {
    let dir = tempfile::tempdir_in(std::env::var("KILTER_RATES_DIR").unwrap_or_else(|_| "/tmp".to_owned())).unwrap();
    let mut out = std::io::stderr();
    let count = 4_000_000u64;
    let payload = vec![b'x'; 150];
    let (log, _) = Log::open(dir.path(), LogOptions::default()).unwrap();
    let batch = vec![&payload[..]; 1_000];
    let start = Instant::now();
    for _ in 0..count / 1_000 {
        log.append(&batch).unwrap();
    }
    let appended = start.elapsed();
    log.sync().unwrap();
    let synced = start.elapsed();
    let rate = |n: u64, t: Duration| n as f64 / t.as_secs_f64() / 1e6;
    writeln!(out, "append 150 B x1000: {:.2} M/s, durable {:.2} M/s", rate(count, appended), rate(count, synced)).unwrap();
    let start = Instant::now();
    let mut reader = log.reader(0);
    let (mut n, mut bytes) = (0, 0);
    while let Some((_, p)) = reader.next_record().unwrap() {
        n += 1;
        bytes += p.len();
    }
    writeln!(out, "read: {:.2} M/s, {:.0} MB/s", rate(n, start.elapsed()), bytes as f64 / start.elapsed().as_secs_f64() / 1e6).unwrap();
    let start = Instant::now();
    for i in 0..20_000u64 {
        log.read(i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % count).unwrap().unwrap();
    }
    writeln!(out, "random read: {:.1} us", start.elapsed().as_secs_f64() / 20_000. * 1e6).unwrap();
    let start = Instant::now();
    for _ in 0..200_000u64 {
        log.append(&[&payload]).unwrap();
    }
    writeln!(out, "append one by one: {:.2} M/s", rate(200_000, start.elapsed())).unwrap();
    log.sync().unwrap();
    for threads in [1, 4, 16, 64, 256] {
        let each = 400 / threads.min(40);
        let start = Instant::now();
        std::thread::scope(|s| {
            for _ in 0..threads {
                s.spawn(|| {
                    for _ in 0..each {
                        let range = log.append(&[&payload]).unwrap();
                        log.wait_durable(range.next).unwrap();
                    }
                });
            }
        });
        let t = start.elapsed().as_secs_f64();
        writeln!(out, "{threads} waiters: {:.0} acks/s, {:.2} ms each", (threads * each) as f64 / t, t / each as f64 * 1e3).unwrap();
    }
    drop(log);
    let start = Instant::now();
    let (_, recovery) = Log::open(dir.path(), LogOptions::default()).unwrap();
    writeln!(out, "reopen: {:?} {recovery:?}", start.elapsed()).unwrap();
}
