use crate::{all, segments, small};
use kilter_store::log::{Log, LogError, LogFile, LogOptions, OsStorage, Storage};
use proptest::prelude::*;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::time::Duration;

const UNSYNCED: &str = "unsynced";

/// A disk whose power fails after some operations. Until they are flushed, a removed file and what a file was before it
/// was cut lie beside it as `<file>.unsynced`, and a power loss may bring them back.
#[derive(Debug, Clone)]
struct Power(Arc<AtomicI64>);

#[derive(Debug)]
struct PowerFile(Box<dyn LogFile>, Power, PathBuf);

impl Power {
    fn options(&self, segment_bytes: u64) -> LogOptions {
        LogOptions { segment_bytes, storage: Arc::new(self.clone()), ..LogOptions::default() }
    }

    fn spend(&self) -> io::Result<()> {
        if self.0.fetch_sub(1, SeqCst) > 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
    }

    fn wrap(&self, file: io::Result<Box<dyn LogFile>>, path: &Path) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(PowerFile(file?, self.clone(), path.to_owned())))
    }

    /// Back on after a loss, with or without what was not flushed.
    fn return_to(&self, dir: &Path, unsynced_lost: bool) {
        self.0.store(i64::MAX, SeqCst);
        for path in unsynced(dir) {
            if unsynced_lost {
                fs::rename(&path, path.with_extension("")).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
        }
    }
}

fn unsynced(dir: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    paths.filter(|p| p.extension().is_some_and(|e| e == UNSYNCED)).collect()
}

fn beside(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}.{UNSYNCED}", path.display()))
}

impl Storage for Power {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        OsStorage.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        self.spend()?;
        self.wrap(OsStorage.create(path), path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        self.wrap(OsStorage.open(path), path)
    }
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        self.wrap(OsStorage.open_read(path), path)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.spend()?;
        fs::rename(path, beside(path))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.spend()?;
        fs::rename(from, to)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.spend()?;
        // A file that exists was cut, not removed.
        unsynced(dir).into_iter().filter(|p| !p.with_extension("").exists()).try_for_each(fs::remove_file)
    }
}

impl LogFile for PowerFile {
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
        fs::copy(&self.2, beside(&self.2))?;
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.1.spend()?;
        let _ = fs::remove_file(beside(&self.2));
        self.0.sync_data()
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Vec<u8>>),
    Sync,
    Reopen,
    /// Removes whole segments before this share of the records.
    RemoveBefore(u64),
    /// Truncates to this share of the records.
    Truncate(u64),
    /// The same, but the power fails after so many operations.
    Lose {
        permille: u64,
        operations: i64,
        unsynced_lost: bool,
    },
    /// The same, but the disk answers errors for a while only, and the log stays open if it can.
    Fail {
        permille: u64,
        operations: i64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let record = prop::collection::vec(any::<u8>(), 0..120);
    prop_oneof![
        8 => prop::collection::vec(record, 0..12).prop_map(Step::Append),
        1 => Just(Step::Sync),
        1 => Just(Step::Reopen),
        1 => (0..=1000u64).prop_map(Step::RemoveBefore),
        3 => (0..=1000u64).prop_map(Step::Truncate),
        3 => (0..=1000u64, 0..9i64, any::<bool>())
            .prop_map(|(permille, operations, unsynced_lost)| Step::Lose { permille, operations, unsynced_lost }),
        2 => (0..=1000u64, 0..9i64).prop_map(|(permille, operations)| Step::Fail { permille, operations }),
    ]
}

/// What the log should hold: the records and the offset of the oldest one kept.
struct Model {
    records: Vec<Vec<u8>>,
    start: u64,
}

impl Model {
    fn at(&self, permille: u64) -> u64 {
        self.start + (self.records.len() as u64 - self.start) * permille / 1000
    }

    fn truncate(&mut self, offset: u64) {
        self.records.truncate(offset as usize);
    }

    fn check(&self, log: &Log) -> Result<(), TestCaseError> {
        let next = self.records.len() as u64;
        prop_assert_eq!((log.start_offset(), log.next_offset(), *log.watch_appended().borrow()), (self.start, next, next));
        prop_assert!(log.durable_offset() <= next);
        let expected: Vec<_> = (0..).zip(self.records.iter().cloned()).skip(self.start as usize).collect();
        prop_assert_eq!(&all(log), &expected);
        for at in [self.at(0), self.at(400), self.at(700)].into_iter().filter(|at| *at < next) {
            prop_assert_eq!(log.read(at).unwrap().unwrap(), &self.records[at as usize][..]);
        }
        prop_assert_eq!(log.read(next).unwrap(), None);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn truncations_leave_what_a_list_would_and_power_loss_between_their_steps_only_leaves_more(
        steps in prop::collection::vec(step(), 1..40), segment_bytes in 100..3_000u64,
    ) {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let power = Power(Arc::new(i64::MAX.into()));
        let options = power.options(segment_bytes);
        let mut model = Model { records: Vec::new(), start: 0 };
        let mut log = Log::open(dir.path(), options.clone()).unwrap().0;
        let mut follower = log.reader(0);
        for step in steps {
            let before = model.records.len() as u64;
            let mut reopen = false;
            match step {
                Step::Append(batch) => {
                    let range = log.append(&batch).unwrap();
                    prop_assert_eq!(range.first, before);
                    model.records.extend(batch);
                }
                Step::Sync => log.sync().unwrap(),
                Step::Reopen => reopen = true,
                Step::RemoveBefore(permille) => model.start = log.remove_before(model.at(permille)).unwrap(),
                Step::Truncate(permille) => {
                    let offset = model.at(permille);
                    prop_assert_eq!(log.truncate_from(offset).unwrap(), before - offset);
                    model.truncate(offset);
                    if offset < before {
                        prop_assert_eq!(log.durable_offset(), offset);
                    }
                }
                Step::Lose { permille, operations, unsynced_lost } => {
                    log.sync().unwrap();
                    let offset = model.at(permille);
                    power.0.store(operations, SeqCst);
                    let done = log.truncate_from(offset).is_ok();
                    drop(follower);
                    drop(log);
                    power.return_to(dir.path(), unsynced_lost);
                    log = Log::open(dir.path(), options.clone()).unwrap().0;
                    follower = log.reader(model.start);
                    let next = log.next_offset();
                    prop_assert!((offset..=before).contains(&next) && (next == offset || !done));
                    model.truncate(next);
                }
                Step::Fail { permille, operations } => {
                    log.sync().unwrap();
                    let offset = model.at(permille);
                    power.0.store(operations, SeqCst);
                    let outcome = log.truncate_from(offset);
                    power.return_to(dir.path(), false);
                    let next = log.next_offset();
                    prop_assert!((offset..=before).contains(&next) && (next == offset || outcome.is_err()));
                    model.truncate(next);
                    match outcome {
                        Ok(removed) => prop_assert_eq!(removed, before - offset),
                        // Whatever an error left can be truncated again, unless the disk must not be trusted any more.
                        Err(LogError::Io { .. }) => {
                            prop_assert_eq!(log.truncate_from(offset).unwrap(), next - offset);
                            model.truncate(offset);
                        }
                        Err(error) => {
                            prop_assert!(matches!(error, LogError::Poisoned { .. }), "{}", error);
                            prop_assert!(log.append(&["refused"]).is_err());
                            reopen = true;
                        }
                    }
                }
            }
            model.check(&log)?;
            if reopen {
                drop(follower);
                drop(log);
                let (opened, recovery) = Log::open(dir.path(), options.clone()).unwrap();
                prop_assert_eq!(recovery.truncated_reason, None);
                log = opened;
                follower = log.reader(model.start);
                model.check(&log)?;
            }
            if follower.next_offset() < model.start {
                follower = log.reader(model.start);
            }
            // One reader over all of it: it goes on where it stood, also when it stood past the new end for a while.
            while let Some((offset, payload)) = follower.next_record().unwrap() {
                prop_assert_eq!(Some(payload), model.records.get(offset as usize).map(|r| &r[..]));
            }
            prop_assert!(follower.next_offset() >= model.records.len() as u64);
        }
    }
}

#[test]
fn power_loss_after_every_single_operation_of_a_truncation_over_many_segments() {
    let records: Vec<Vec<u8>> = (0..60u8).map(|i| vec![i; 100]).collect();
    for (offset, unsynced_lost) in (0..60).step_by(7).flat_map(|offset| [(offset, false), (offset, true)]) {
        let mut finished = false;
        for operations in 0.. {
            let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
            let power = Power(Arc::new(i64::MAX.into()));
            let options = power.options(700);
            let (log, _) = Log::open(dir.path(), options.clone()).unwrap();
            records.iter().for_each(|r| assert!(log.append(&[r]).is_ok()));
            log.sync().unwrap();
            power.0.store(operations, SeqCst);
            finished |= log.truncate_from(offset).is_ok();
            drop(log);
            power.return_to(dir.path(), unsynced_lost);
            let (log, recovery) = Log::open(dir.path(), options).unwrap();
            assert_eq!(recovery.truncated_reason, None);
            let next = log.next_offset();
            assert!(next >= offset && (next == offset || !finished));
            assert_eq!(all(&log).into_iter().map(|r| r.1).collect::<Vec<_>>(), records[..next as usize]);
            assert_eq!(log.truncate_from(offset).unwrap(), next - offset);
            assert_eq!(log.append(&["on"]).unwrap().first, offset);
            if finished {
                break;
            }
        }
    }
}

#[test]
fn the_segment_cut_is_written_on() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), small()).unwrap();
    for i in 0..100u8 {
        log.append(&[[i; 90]]).unwrap();
    }
    assert!(segments(dir.path()).len() > 4);
    assert_eq!(log.truncate_from(3).unwrap(), 97);
    assert_eq!(log.durable_offset(), 3);
    assert_eq!(log.append(&["new"]).unwrap().first, 3);
    assert_eq!(segments(dir.path()).len(), 1);
    log.wait_durable(4).unwrap();
    assert_eq!(all(&log).last().unwrap(), &(3, b"new".to_vec()));
}

#[test]
fn past_the_end_nothing_happens_and_before_the_start_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), small()).unwrap();
    assert_eq!(log.truncate_from(0).unwrap(), 0);
    for i in 0..100u8 {
        log.append(&[[i; 90]]).unwrap();
    }
    assert_eq!(log.truncate_from(100).unwrap() + log.truncate_from(u64::MAX).unwrap(), 0);
    let start = log.remove_before(50).unwrap();
    assert!(matches!(log.truncate_from(start - 1), Err(LogError::OffsetGone { .. })));
    assert_eq!(all(&log).len() as u64, 100 - start);
    assert_eq!(log.truncate_from(start).unwrap(), 100 - start);
    assert_eq!((log.start_offset(), log.next_offset()), (start, start));
    drop(log);
    let (log, recovery) = Log::open(dir.path(), small()).unwrap();
    assert_eq!((log.start_offset(), recovery.next_offset, recovery.truncated_reason), (start, start, None));
}

#[test]
fn damage_after_the_cut_goes_with_it_and_damage_before_it_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), small()).unwrap();
    for i in 0..100u8 {
        log.append(&[[i; 90]]).unwrap();
    }
    log.sync().unwrap();
    // The record at 2, in the first of several segments.
    let path = segments(dir.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[28 + 2 * 102 + 50] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(log.truncate_from(5), Err(LogError::Corrupt { .. })));
    assert_eq!(log.next_offset(), 100);
    assert_eq!(log.truncate_from(2).unwrap(), 98);
    assert_eq!(all(&log).len(), 2);
}

#[test]
fn who_waits_for_a_removed_record_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = Log::open(dir.path(), small()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| log.wait_durable(10));
        let awaiting = scope.spawn(|| runtime.block_on(log.durable(10)));
        while !blocked.is_finished() || !awaiting.is_finished() {
            log.append(&["a", "b"]).unwrap();
            log.truncate_from(1).unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
        for outcome in [blocked.join().unwrap(), awaiting.join().unwrap()] {
            assert!(matches!(outcome, Err(LogError::Removed { offset: 9 })), "{outcome:?}");
        }
    });
}

#[test]
fn readers_meet_no_error_while_the_end_moves_to_and_fro() {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (log, _) = Log::open(dir.path(), small()).unwrap();
    let done = AtomicBool::new(false);
    let record = |offset: u64, round: u64| format!("{offset}:{}", "z".repeat((round * 37 % 150) as usize));
    let check = |offset: u64, payload: &[u8]| assert!(payload.starts_with(format!("{offset}:").as_bytes()));
    std::thread::scope(|scope| {
        for way in 0..3u64 {
            let (log, done) = (&log, &done);
            scope.spawn(move || {
                let mut reader = log.reader(0);
                while !done.load(SeqCst) {
                    match way {
                        0 => reader = log.reader(0),
                        1 => (0..60).for_each(|o| log.read(o).unwrap().iter().for_each(|p| check(o, p))),
                        _ => {}
                    }
                    while let Some((offset, payload)) = reader.next_record().unwrap() {
                        check(offset, payload);
                    }
                }
            });
        }
        for round in 0..400 {
            let next = log.next_offset();
            let batch: Vec<_> = (next..next + 1 + round % 40).map(|offset| record(offset, round)).collect();
            let next = log.append(&batch).unwrap().next;
            if round % 5 == 0 {
                log.wait_durable(next).unwrap();
            }
            if round % 3 > 0 {
                let offset = next.saturating_sub(round * 31 % 70);
                log.truncate_from(offset).unwrap();
                assert!(log.durable_offset() <= offset);
            }
        }
        done.store(true, SeqCst);
    });
    let stored = all(&log);
    drop(log);
    assert_eq!(all(&Log::open(dir.path(), small()).unwrap().0), stored);
}
