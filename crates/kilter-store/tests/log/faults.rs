use crate::{all, open, small};
use kilter_store::log::{Log, LogError, LogFile, LogOptions, OsStorage, Storage};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::time::Duration;

/// A disk with a budget of bytes, short writes and failing flushes, on top of real files.
#[derive(Debug, Clone)]
struct Faulty(Arc<Faults>);

#[derive(Debug)]
struct Faults {
    space: AtomicI64,
    fail_flush: AtomicBool,
    fail_cut: AtomicBool,
    slow_flush: AtomicBool,
    flushing: AtomicI64,
    flushes: AtomicI64,
}

#[derive(Debug)]
struct FaultyFile(Box<dyn LogFile>, Arc<Faults>);

impl Faulty {
    fn new(space: i64) -> Self {
        Self(Arc::new(Faults {
            space: space.into(),
            fail_flush: false.into(),
            fail_cut: false.into(),
            slow_flush: false.into(),
            flushing: 0.into(),
            flushes: 0.into(),
        }))
    }

    fn options(&self) -> LogOptions {
        LogOptions { storage: Arc::new(self.clone()), ..small() }
    }

    fn wrap(&self, file: io::Result<Box<dyn LogFile>>) -> io::Result<Box<dyn LogFile>> {
        Ok(Box::new(FaultyFile(file?, Arc::clone(&self.0))))
    }
}

impl Storage for Faulty {
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        OsStorage.list(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        self.wrap(OsStorage.create(path))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        self.wrap(OsStorage.open(path))
    }
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn LogFile>> {
        OsStorage.open_read(path)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        OsStorage.remove(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsStorage.rename(from, to)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        OsStorage.sync_dir(dir)
    }
}

impl LogFile for FaultyFile {
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        let space = self.1.space.load(SeqCst);
        if space <= 0 {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        // At most 50 bytes a call, so that every longer write is a short one.
        let n = bytes.len().min(50).min(space as usize);
        self.1.space.fetch_sub(n as i64, SeqCst);
        self.0.write_at(&bytes[..n], position)
    }
    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        let n = into.len().min(33);
        self.0.read_at(&mut into[..n], position)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.1.fail_cut.load(SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        assert_eq!(self.1.flushing.fetch_add(1, SeqCst), 0, "two flushes at once");
        if self.1.slow_flush.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.1.flushes.fetch_add(1, SeqCst);
        self.1.flushing.fetch_sub(1, SeqCst);
        if self.1.fail_flush.load(SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }
}

#[test]
fn a_full_disk_at_any_byte_loses_no_earlier_record_and_appends_resume() {
    // From within the first record to well past two segment changes.
    for space in (40..5_200).step_by(13) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap());
        let disk = Faulty::new(space);
        let (log, _) = Log::open(dir.path(), disk.options()).unwrap();
        let mut written = Vec::new();
        let error = loop {
            let batch = [vec![written.len() as u8; 70], vec![written.len() as u8 + 1; 80]];
            match log.append(&batch) {
                Ok(_) => written.extend(batch),
                Err(error) => break error,
            }
        };
        assert!(error.is_disk_full(), "{error}");
        assert!(error.to_string().contains("hint: free space"), "{error}");
        assert!(log.append(&["still full"; 20]).unwrap_err().is_disk_full());
        assert_eq!(all(&log).into_iter().map(|r| r.1).collect::<Vec<_>>(), written);
        disk.0.space.store(i64::MAX, SeqCst);
        written.push(b"space again".to_vec());
        let range = log.append(&["space again"]).unwrap();
        assert_eq!(range.next, written.len() as u64);
        log.sync().unwrap();
        drop(log);
        let (log, recovery) = Log::open(dir.path(), small()).unwrap();
        assert_eq!(recovery.truncated_reason, None);
        assert_eq!(all(&log).into_iter().map(|r| r.1).collect::<Vec<_>>(), written);
    }
}

#[test]
fn a_failed_flush_ends_writing_and_every_waiter_hears_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Faulty::new(i64::MAX);
    let (log, _) = Log::open(dir.path(), disk.options()).unwrap();
    let kept = log.append(&["kept"]).unwrap();
    log.sync().unwrap();
    disk.0.slow_flush.store(true, SeqCst);
    disk.0.fail_flush.store(true, SeqCst);
    let lost = log.append(&["lost?"]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert!(matches!(log.wait_durable(lost.next), Err(LogError::Poisoned { .. }))));
        }
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            assert!(matches!(runtime.block_on(log.durable(lost.next)), Err(LogError::Poisoned { .. })));
        });
    });
    // The disk recovering does not matter: what the page cache holds is unknown.
    disk.0.fail_flush.store(false, SeqCst);
    let error = log.append(&["refused"]).unwrap_err();
    assert!(error.to_string().contains("takes no more writes"), "{error}");
    assert!(log.sync().is_err());
    log.wait_durable(kept.next).unwrap();
    assert_eq!(all(&log).len(), 2);
    drop(log);
    let (log, _) = Log::open(dir.path(), small()).unwrap();
    assert_eq!(all(&log)[0].1, b"kept");
    log.append(&["writes again"]).unwrap();
}

#[test]
fn a_partial_batch_that_cannot_be_removed_ends_writing() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Faulty::new(150);
    let (log, _) = Log::open(dir.path(), disk.options()).unwrap();
    log.append(&["kept"]).unwrap();
    log.sync().unwrap();
    disk.0.fail_cut.store(true, SeqCst);
    assert!(matches!(log.append(&[[1; 200]]), Err(LogError::Poisoned { .. })));
    disk.0.space.store(i64::MAX, SeqCst);
    assert!(matches!(log.append(&["refused"]), Err(LogError::Poisoned { .. })));
    drop(log);
    let (log, recovery) = Log::open(dir.path(), small()).unwrap();
    assert!(recovery.truncated_bytes > 0);
    assert_eq!(all(&log), [(0, b"kept".to_vec())]);
}

#[test]
fn appends_during_a_flush_share_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Faulty::new(i64::MAX);
    let options = LogOptions { segment_bytes: 1 << 20, ..disk.options() };
    let (log, _) = Log::open(dir.path(), options).unwrap();
    disk.0.slow_flush.store(true, SeqCst);
    let before = disk.0.flushes.load(SeqCst);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let range = log.append(&["x"]).unwrap();
                    log.wait_durable(range.next).unwrap();
                }
            });
        }
    });
    let flushes = disk.0.flushes.load(SeqCst) - before;
    assert!(flushes <= 25, "{flushes} flushes for 100 acknowledged appends");
}

const LIMITED_DIR: &str = "KILTER_TEST_LIMITED_DIR";

/// The same with the operating system's own refusal: a process whose files may not grow past 10 000 bytes.
#[test]
fn a_file_size_limit_of_the_system_is_a_full_disk() {
    if let Ok(dir) = std::env::var(LIMITED_DIR) {
        return with_limited_files(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::a_file_size_limit_of_the_system_is_a_full_disk", "--nocapture"])
        .env(LIMITED_DIR, dir.path())
        .output()
        .unwrap();
    let _ = io::stderr().write_all(&output.stderr);
    assert!(output.status.success());
    let log = open(dir.path());
    assert_eq!(all(&log).len() as u64, log.next_offset());
    assert_eq!(all(&log).last().unwrap().1, b"after");
}

fn with_limited_files(dir: &Path) {
    let set = |bytes: u64| {
        let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: plain calls of the C library with valid arguments.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
        }
    };
    let log = open(dir);
    set(10_000);
    let mut count = 0;
    let error = loop {
        match log.append(&[[7u8; 300], [8u8; 300]]) {
            Ok(_) => count += 2,
            Err(error) => break error,
        }
    };
    assert!(error.is_disk_full(), "{error}");
    assert_eq!(all(&log).len(), count);
    assert!(count > 20);
    set(libc::RLIM_INFINITY);
    let range = log.append(&["after"]).unwrap();
    assert_eq!(range.first, count as u64);
    log.sync().unwrap();
}
