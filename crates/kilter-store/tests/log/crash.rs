use crate::{all, small};
use kilter_store::log::{Log, LogOptions};
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const CRASH_DIR: &str = "KILTER_TEST_CRASH_DIR";
const ROUNDS: u64 = 30;

/// A child appends and acknowledges what is durable; it is killed at a random moment, thirty times over one log.
#[test]
fn every_acknowledged_record_outlives_kill_9_and_none_is_there_twice() {
    if let Ok(dir) = std::env::var(CRASH_DIR) {
        return append_until_killed(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::every_acknowledged_record_outlives_kill_9_and_none_is_there_twice", "--nocapture"])
            .env(CRASH_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.by_ref().map(Result::unwrap).find(|l| l.starts_with("ack ")).expect("child appends");
        let killer = std::thread::spawn(move || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            std::thread::sleep(Duration::from_micros(random >> 48));
            child.kill().unwrap();
            child.wait().unwrap();
            random
        });
        // The last line may be cut by the kill.
        let acks = std::iter::once(first).chain(lines.map_while(Result::ok));
        let numbers = acks.filter_map(|l| l.strip_prefix("ack ")?.strip_suffix('.')?.parse::<u64>().ok());
        acknowledged = numbers.fold(acknowledged, u64::max);
        random = killer.join().unwrap();

        let (log, recovery) = Log::open(dir.path(), small()).unwrap();
        let records = all(&log);
        assert!(records.len() as u64 >= acknowledged, "round {round}: {acknowledged} acknowledged, {recovery:?}");
        let distinct: HashSet<_> = records.iter().map(|r| &r.1).collect();
        assert_eq!(distinct.len(), records.len(), "round {round}: a record is there twice");
        for (offset, payload) in &records {
            assert!(payload.starts_with(format!("{offset}:").as_bytes()), "round {round}: record {offset}");
        }
    }
    assert!(acknowledged > ROUNDS);
}

fn append_until_killed(dir: &Path) {
    let options = LogOptions { segment_bytes: 200_000, ..small() };
    let (log, _) = Log::open(dir, options).unwrap();
    let mut out = std::io::stdout();
    // Ends by itself if the parent does not kill it.
    for round in 0..100_000u64 {
        let next = log.next_offset();
        let batch: Vec<_> = (0..1 + round % 9).map(|i| format!("{}:{}", next + i, "y".repeat((round % 500) as usize))).collect();
        let range = log.append(&batch).unwrap();
        log.wait_durable(range.next).unwrap();
        writeln!(out, "ack {}.", range.next).unwrap();
        out.flush().unwrap();
    }
}
