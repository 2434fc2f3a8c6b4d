//! The log as its users meet it: restarts, crashes, full disks, damage.

mod basics;
mod crash;
mod damage;
mod faults;
mod histories;
mod rewrite;
mod truncate;

use kilter_store::log::{Log, LogOptions};
use std::path::Path;

fn open(dir: &Path) -> Log {
    Log::open(dir, LogOptions::default()).expect("log opens").0
}

/// Small segments, so that a few records make several files.
fn small() -> LogOptions {
    LogOptions { segment_bytes: 2_000, ..LogOptions::default() }
}

fn all(log: &Log) -> Vec<(u64, Vec<u8>)> {
    log.reader(log.start_offset()).map(|r| r.expect("record is intact")).map(|(o, p)| (o, p.to_vec())).collect()
}

fn last_segment(dir: &Path) -> std::path::PathBuf {
    segments(dir).pop().expect("a segment exists")
}

fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).expect("folder is readable");
    let mut paths: Vec<_> = entries.map(|e| e.expect("entry").path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "klog"));
    paths.sort();
    paths
}
