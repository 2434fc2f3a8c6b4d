//! Group commit: one thread that flushes whatever is not durable yet, one flush at a time.
//!
//! While a flush runs, further appends gather; the next flush makes all of them durable together. So the more callers
//! wait, the fewer flushes each of them costs. Records that nobody waits for linger a few milliseconds and are flushed
//! together: a flush costs more than writing the record did.

use super::Shared;
use super::error::LogError;
use crate::threads;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a record may stay in memory only when nobody waits for it to be durable.
const LINGER: Duration = Duration::from_millis(5);

/// What waiters wait for.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    /// All records before this offset are on disk.
    pub(super) durable: u64,
    /// The first failure; it ends all writing.
    pub(super) failed: Option<Arc<str>>,
    /// How often records were removed from the end.
    pub(super) truncations: u64,
    /// Where the last of those removals left the end.
    pub(super) cut_to: u64,
}

/// Why a wait ended without the records being durable.
#[derive(Debug)]
pub(super) enum Undurable {
    Failed(Arc<str>),
    Removed,
}

/// The hand-over between appenders, the committer thread and waiters.
#[derive(Debug)]
pub(super) struct Commit {
    work: Mutex<Work>,
    work_changed: Condvar,
    /// Held during every flush, so that there are never two at once.
    flush: Mutex<()>,
    pub(super) progress: watch::Sender<Progress>,
    waiters: Mutex<()>,
    progress_changed: Condvar,
}

#[derive(Debug, Default)]
struct Work {
    /// When the oldest record that no flush has been begun for was appended.
    pending: Option<Instant>,
    /// Somebody waits.
    urgent: bool,
    stopping: bool,
    idle: bool,
}

impl Commit {
    pub(super) fn new(durable: u64) -> Self {
        Self {
            work: Mutex::default(),
            work_changed: Condvar::new(),
            flush: Mutex::default(),
            progress: watch::Sender::new(Progress { durable, failed: None, truncations: 0, cut_to: durable }),
            waiters: Mutex::default(),
            progress_changed: Condvar::new(),
        }
    }

    /// Tells the committer that there is something to flush.
    pub(super) fn request(&self) {
        let mut work = lock(&self.work);
        work.pending.get_or_insert_with(Instant::now);
        if work.idle {
            work.idle = false;
            self.work_changed.notify_one();
        }
    }

    /// Tells the committer that somebody waits.
    pub(super) fn hurry(&self) {
        let mut work = lock(&self.work);
        if !work.urgent {
            work.urgent = true;
            self.work_changed.notify_one();
        }
    }

    pub(super) fn stop(&self) {
        lock(&self.work).stopping = true;
        self.work_changed.notify_one();
    }

    /// Exclusive right to flush.
    pub(super) fn flush_right(&self) -> MutexGuard<'_, ()> {
        lock(&self.flush)
    }

    pub(super) fn publish(&self, durable: u64) {
        self.update(|progress| progress.durable = progress.durable.max(durable));
    }

    /// Takes note that records were removed and that `next` is the new end. What was durable before it stays so.
    pub(super) fn truncated(&self, next: u64) {
        self.update(|progress| {
            progress.durable = progress.durable.min(next);
            progress.truncations += 1;
            progress.cut_to = next;
        });
    }

    pub(super) fn fail(&self, cause: &str) {
        self.update(|progress| {
            progress.failed.get_or_insert_with(|| cause.into());
        });
    }

    fn update(&self, change: impl FnOnce(&mut Progress)) {
        let guard = lock(&self.waiters);
        self.progress.send_modify(change);
        drop(guard);
        self.progress_changed.notify_all();
    }

    /// Blocks until everything before `offset` is durable, or cannot become so any more.
    pub(super) fn wait(&self, offset: u64) -> Result<(), Undurable> {
        self.hurry();
        let mut guard = lock(&self.waiters);
        let truncations = self.progress.borrow().truncations;
        loop {
            if let Some(done) = reached(&self.progress.borrow(), offset, truncations) {
                return done;
            }
            guard = self.progress_changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Whether `offset` is reached by a wait that began after so many truncations; durable records stay durable after a
/// failure.
pub(super) fn reached(progress: &Progress, offset: u64, truncations: u64) -> Option<Result<(), Undurable>> {
    if progress.durable >= offset {
        return Some(Ok(()));
    }
    if let Some(cause) = &progress.failed {
        return Some(Err(Undurable::Failed(Arc::clone(cause))));
    }
    (progress.truncations != truncations && offset > progress.cut_to).then_some(Err(Undurable::Removed))
}

/// Starts the committer; it ends after [`Commit::stop`] and a last flush.
pub(super) fn spawn(shared: Arc<Shared>) -> Result<JoinHandle<()>, LogError> {
    let dir = shared.dir.clone();
    let run = move || {
        threads::decides();
        while wait_for_work(&shared.commit) {
            // A failure is kept in the progress, where every waiter and writer meets it.
            if let Err(error) = shared.flush() {
                tracing::error!(dir = %shared.dir.display(), %error, "log cannot be flushed and takes no more writes");
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("kilter-log-commit".to_owned())
        .spawn(run)
        .map_err(|e| LogError::io("start the commit thread for", &dir, e))
}

/// False when stopped and nothing is left to flush.
fn wait_for_work(commit: &Commit) -> bool {
    let mut work = lock(&commit.work);
    loop {
        let Some(since) = work.pending else {
            if work.stopping {
                return false;
            }
            // Whoever waits for what is durable already is served by the last flush's news.
            work.urgent = false;
            work.idle = true;
            work = commit.work_changed.wait(work).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let left = LINGER.saturating_sub(since.elapsed());
        if work.urgent || work.stopping || left.is_zero() {
            work.pending = None;
            work.urgent = false;
            work.idle = false;
            return true;
        }
        work = commit.work_changed.wait_timeout(work, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
