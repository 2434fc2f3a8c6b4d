//! Connections that read, each for one reader at a time.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::db::{Db, Limits, Source};
use crate::error::{Error, ErrorCode, Result};

const READERS: u32 = 4;
/// What reads is stopped after so long: nobody waits for it any more, and it keeps a reader from others.
const READING: Duration = Duration::from_secs(20);
/// How long a request waits for a reader.
const ACQUIRE: Duration = Duration::from_secs(30);
/// A connection that was not used for so long is asked whether it is one.
const STILL: Duration = Duration::from_secs(5);
/// How long the end waits for what is still being read.
const CLOSING: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Readers {
    source: Source,
    places: Arc<Semaphore>,
    /// With when each was last used.
    idle: Arc<Mutex<Vec<(Instant, Db)>>>,
    reading: Duration,
}

/// Says that nobody waits any more.
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Readers {
    pub fn new(source: Source) -> Readers {
        Readers { source, places: Arc::new(Semaphore::new(READERS as usize)), idle: Arc::default(), reading: READING }
    }

    pub fn source(&self) -> &Source {
        &self.source
    }

    pub async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Db) -> Result<T> + Send + 'static,
    {
        let place = tokio::time::timeout(ACQUIRE, Arc::clone(&self.places).acquire_owned()).await;
        let place = place.map_err(|_| later("the store has more to read than it can; send again in a moment"))?;
        let place = place.map_err(|_| later("the store is shutting down"))?;
        let given_up = GivenUp(Arc::default());
        let limits = Limits { until: Instant::now() + self.reading, is_given_up: Arc::clone(&given_up.0) };
        let (source, idle, reading) = (self.source.clone(), Arc::clone(&self.idle), self.reading);
        let task = tokio::task::spawn_blocking(move || {
            let _place = place;
            let known = || idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut alive = None;
            while let Some((at, mut db)) = known() {
                // One that lay still for long may have lost its other end.
                if at.elapsed() < STILL || db.is_alive() {
                    alive = Some(db);
                    break;
                }
            }
            let mut db = alive.map_or_else(|| source.connect_to_read(reading), Ok)?;
            db.limit(Some(limits))?;
            // A connection in which something panicked is as good as before: it is in no transaction.
            let outcome = catch_unwind(AssertUnwindSafe(|| work(&mut db)));
            if db.limit(None).is_ok() && !db.is_closed() {
                idle.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), db));
            }
            outcome.unwrap_or_else(|panic| resume_unwind(panic))
        });
        task.await.map_err(|e| Error::internal(&e))?
    }

    /// Ends all; later reads are refused. What is still being read has some seconds to end: answers whether it did.
    pub async fn close(&self) -> bool {
        let all = tokio::time::timeout(CLOSING, self.places.acquire_many(READERS)).await;
        self.places.close();
        let _ = tokio::task::spawn_blocking({
            let idle = self.take_idle();
            move || drop(idle)
        })
        .await;
        all.is_ok()
    }

    fn take_idle(&self) -> Vec<(Instant, Db)> {
        std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        let idle = self.take_idle();
        if !idle.is_empty() {
            // Ending a connection to PostgreSQL blocks, which tasks must not.
            std::thread::spawn(move || drop(idle));
        }
    }
}

fn later(what: &str) -> Error {
    Error::new(ErrorCode::TemporarilyUnavailable, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::bind;

    const ENDLESS: &str = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n";

    fn readers(dir: &tempfile::TempDir) -> Readers {
        let source = Source::File(dir.path().join("some.db"));
        source.connect().unwrap().script("CREATE TABLE t (x BIGINT)").unwrap();
        Readers::new(source)
    }

    fn seven(db: &mut Db) -> Result<i64> {
        db.one("SELECT 7", bind![])
    }

    #[tokio::test]
    async fn what_takes_too_long_is_stopped_and_its_reader_reads_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut readers = readers(&dir);
        readers.reading = Duration::from_millis(100);
        for _ in 0..3 {
            let stopped = readers.read(|db| db.one::<i64>(ENDLESS, bind![])).await.unwrap_err();
            assert_eq!(stopped.code, ErrorCode::TemporarilyUnavailable, "{stopped}");
            assert_eq!(readers.read(seven).await.unwrap(), 7);
        }
        assert_eq!(readers.idle.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_ends_and_gives_its_reader_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut readers = readers(&dir);
        readers.reading = Duration::from_secs(3600);
        let (begun, has_begun) = std::sync::mpsc::channel();
        let endless = readers.read(move |db| {
            begun.send(()).unwrap();
            db.one::<i64>(ENDLESS, bind![])
        });
        tokio::select! {
            _ = endless => panic!("it has no end"),
            _ = tokio::task::spawn_blocking(move || has_begun.recv()) => {}
        }
        assert!(readers.close().await, "it goes on although nobody waits for it");
    }

    #[tokio::test]
    async fn a_panic_costs_no_reader() {
        let dir = tempfile::tempdir().unwrap();
        let readers = readers(&dir);
        for _ in 0..2 * READERS {
            assert_eq!(
                readers.read(|_| -> Result<()> { panic!("as the test wants it") }).await.unwrap_err().code,
                ErrorCode::InternalError
            );
        }
        assert_eq!(readers.read(seven).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn the_end_does_not_wait_for_a_reader_that_nobody_gives_back() {
        let dir = tempfile::tempdir().unwrap();
        let readers = readers(&dir);
        let _held = readers.places.acquire().await.unwrap();
        assert!(!readers.close().await);
        assert_eq!(readers.read(seven).await.unwrap_err().code, ErrorCode::TemporarilyUnavailable);
    }
}
