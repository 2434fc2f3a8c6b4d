use crate::{all, segments, small};
use kilter_store::log::{Log, LogError, LogFile, LogOptions, OsStorage, Storage};
use proptest::prelude::*;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

/// A disk that fails every operation after so many, as for a process that is killed there.
#[derive(Debug, Clone)]
struct Dying(Arc<AtomicI64>);

#[derive(Debug)]
struct DyingFile(Box<dyn LogFile>, Dying);

impl Dying {
    fn spend(&self) -> io::Result<()> {
        if self.0.fetch_sub(1, SeqCst) > 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
    }

    fn wrap(&self, file: io::Result<Box<dyn LogFile>>) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(DyingFile(file?, self.clone())))
    }
}

impl Storage for Dying {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        OsStorage.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        self.spend()?;
        self.wrap(OsStorage.create(path))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        self.wrap(OsStorage.open(path))
    }
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        self.wrap(OsStorage.open_read(path))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.spend()?;
        OsStorage.remove(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.spend()?;
        OsStorage.rename(from, to)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.spend()?;
        OsStorage.sync_dir(dir)
    }
}

impl LogFile for DyingFile {
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.1.spend()?;
        self.0.write_at(bytes, position)
    }
    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        self.0.read_at(into, position)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.1.spend()?;
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.spend()?;
        self.0.sync_data()
    }
}

fn record(n: u64) -> Vec<u8> {
    format!("record {n} {}", "x".repeat(n as usize % 90)).into_bytes()
}

fn filled(dir: &Path, options: LogOptions, records: u64) -> Log {
    let log = Log::open(dir, options).unwrap().0;
    for n in 0..records {
        log.append(&[record(n)]).unwrap();
    }
    log
}

/// What the log holds after these offsets were rewritten.
fn expected(records: u64, offsets: &[u64]) -> Vec<(u64, Vec<u8>)> {
    (0..records).map(|n| (n, if offsets.contains(&n) { b"gone".to_vec() } else { record(n) })).collect()
}

fn gone(_: u64, payload: &[u8]) -> Option<Vec<u8>> {
    (payload != b"gone").then(|| b"gone".to_vec())
}

#[test]
fn records_are_replaced_in_sealed_segments_and_in_the_one_being_written() {
    let dir = tempfile::tempdir().unwrap();
    let log = filled(dir.path(), small(), 200);
    assert!(segments(dir.path()).len() > 3);
    let untouched = fs::read(&segments(dir.path())[1]).unwrap();
    let mut follower = log.reader(0);
    for n in 0..5 {
        assert_eq!(follower.next_record().unwrap(), Some((n, &record(n)[..])));
    }
    // The first segment, one in the middle, the one being written; an offset past the end is none.
    let offsets = [0, 7, 110, 198, 199, 5_000];
    assert_eq!(log.rewrite(&offsets, gone).unwrap(), 5);
    assert_eq!(all(&log), expected(200, &offsets));
    assert_eq!(log.durable_offset(), 200);
    assert_eq!(follower.next_record().unwrap(), Some((5, &record(5)[..])), "a reader goes on where it was");
    assert_eq!(follower.next_record().unwrap(), Some((6, &record(6)[..])));
    assert_eq!(follower.next_record().unwrap(), Some((7, &b"gone"[..])));
    assert_eq!(log.read(198).unwrap().unwrap(), &b"gone"[..]);
    assert_eq!(fs::read(&segments(dir.path())[1]).unwrap(), untouched, "a segment without such a record is not touched");
    for path in segments(dir.path()) {
        let text = String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        assert!([0, 7, 110, 198, 199].iter().all(|n| !text.contains(&format!("record {n} "))));
    }
    // Nothing is left to do, and nothing is written for it.
    assert_eq!(log.rewrite(&offsets, gone).unwrap(), 0);
    let range = log.append(&[record(200)]).unwrap();
    assert_eq!(range.first, 200);
    log.sync().unwrap();
    drop(log);
    let (log, recovery) = Log::open(dir.path(), small()).unwrap();
    assert_eq!((recovery.truncated_bytes, recovery.next_offset), (0, 201));
    assert_eq!(all(&log), expected(201, &offsets));
    assert!(fs::read_dir(dir.path()).unwrap().all(|e| !e.unwrap().file_name().to_string_lossy().ends_with(".new")));
}

#[test]
fn a_damaged_segment_is_refused_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path(), small(), 100));
    let first = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&first).unwrap();
    bytes[60] ^= 1;
    fs::write(&first, &bytes).unwrap();
    let log = Log::open(dir.path(), small()).unwrap().0;
    assert!(matches!(log.rewrite(&[0, 3], gone), Err(LogError::Corrupt { .. })));
    assert_eq!(fs::read(&first).unwrap(), bytes);
    assert_eq!(log.rewrite(&[99], gone).unwrap(), 1, "another segment can still be rewritten");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    /// Killed after any number of operations on the disk, the log opens with each segment old or new, and doing it again ends it.
    #[test]
    fn cut_short_anywhere_each_segment_is_old_or_new_and_a_repetition_completes(
        picks in prop::collection::btree_set(0u64..150, 1..20), dies_after in 0i64..40, stays_open in any::<bool>(),
    ) {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let dying = Dying(Arc::new(i64::MAX.into()));
        let options = LogOptions { storage: Arc::new(dying.clone()), ..small() };
        let mut log = filled(dir.path(), options.clone(), 150);
        log.sync().unwrap();
        let offsets: Vec<u64> = picks.into_iter().collect();
        dying.0.store(dies_after, SeqCst);
        let outcome = log.rewrite(&offsets, gone);
        dying.0.store(i64::MAX, SeqCst);
        if outcome.is_err() && !stays_open {
            drop(log);
            log = Log::open(dir.path(), options.clone()).unwrap().0;
        }
        let (old, new) = (expected(150, &[]), expected(150, &offsets));
        let now = all(&log);
        prop_assert_eq!(now.len(), 150);
        for (at, record) in now.iter().enumerate() {
            prop_assert!(*record == old[at] || *record == new[at]);
        }
        match log.rewrite(&offsets, gone) {
            Ok(_) => {}
            // A flush that failed ends all writing until the log is opened again.
            Err(LogError::Poisoned { .. }) => {
                drop(log);
                log = Log::open(dir.path(), options.clone()).unwrap().0;
                log.rewrite(&offsets, gone).unwrap();
            }
            Err(e) => prop_assert!(false, "{}", e),
        }
        prop_assert_eq!(&all(&log), &new);
        log.append(&[b"after".to_vec()]).unwrap();
        drop(log);
        let log = Log::open(dir.path(), options).unwrap().0;
        prop_assert_eq!(log.next_offset(), 151);
        prop_assert_eq!(&all(&log)[..150], &new[..]);
    }
}
