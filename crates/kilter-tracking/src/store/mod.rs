//! The store: a file of SQLite or a database of PostgreSQL, written by one thread, read by several connections. All SQL is below this module.

mod assessments;
mod evaluation;
mod experiments;
mod import;
mod logged;
mod measure;
mod migrate;
mod plan;
mod readers;
mod registry;
mod runs;
mod scorers;
mod search;
mod spans;
mod trace_search;
mod traces;
mod webhooks;
mod writer;

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::artifacts::{Artifacts, ArtifactsAt};
use crate::db::{Db, Source, config};
use crate::error::{Error, ErrorCode, Result};
use crate::model::Pair;
pub(crate) use import::{Coming, Plan};
use readers::Readers;
use webhooks::Outbox;
use writer::{Job, Writer};

/// Requests that have spans in memory at a time, to look for something or to answer them.
const LOOKING: usize = 4;
/// How long a request waits for a place among those that read much.
const PATIENCE: Duration = Duration::from_secs(5);
/// Writes that wait for their turn at most; others are told to come again.
const QUEUE: usize = 4096;
/// The experiment of runs that name none; it is always there.
const DEFAULT_EXPERIMENT: i64 = 0;

/// One of the few who may have spans or records in memory at a time.
#[derive(Debug)]
pub struct Place(#[allow(dead_code, reason = "held, and given back when dropped")] OwnedSemaphorePermit);

/// Experiments, runs and artifacts, in one folder unless it is told otherwise. Clones share it.
#[derive(Debug, Clone)]
pub struct Tracking(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    readers: Readers,
    jobs: mpsc::Sender<Job>,
    writer: std::sync::Mutex<Option<JoinHandle<()>>>,
    artifacts: Artifacts,
    looking: Arc<Semaphore>,
    outbox: Arc<Outbox>,
    /// Keeps other processes out: what the writer has in memory must be what the file says.
    lock: Option<File>,
}

impl Tracking {
    /// Opens the folder, creating what is missing.
    ///
    /// # Errors
    /// When the folder cannot be written to, or its database is none or of a newer release.
    pub async fn open(dir: impl AsRef<Path>) -> Result<Tracking> {
        Tracking::open_at(dir, None, None).await
    }

    /// Opens the folder, and what lies elsewhere of what lies in it otherwise: `database`, `postgresql://USER:PASSWORD@HOST:PORT/NAME`, in whose schema
    /// `kilter` what is missing is created, and which several processes may have open; the place of artifacts, which they may share as well.
    ///
    /// # Errors
    /// When the database cannot be reached, or is none or of a newer release; when the folder cannot be written to; when artifacts cannot lie where they
    /// are to.
    pub async fn open_at(dir: impl AsRef<Path>, database: Option<&str>, artifacts: Option<&ArtifactsAt>) -> Result<Tracking> {
        let dir = dir.as_ref();
        let elsewhere = match artifacts {
            Some(at) => Some(Artifacts::open_at(at).await?),
            None => None,
        };
        let (source, lock) = match database {
            Some(url) => (Source::Postgres(Box::new(config(url)?)), None),
            None => (Source::File(dir.join("tracking.db")), Some(lock(dir)?)),
        };
        let artifacts = match elsewhere {
            Some(elsewhere) => elsewhere,
            None => Artifacts::open(dir, lock.is_some()).await?,
        };
        Tracking::start(source, lock, artifacts).await
    }

    async fn start(source: Source, lock: Option<File>, artifacts: Artifacts) -> Result<Tracking> {
        let readers = Readers::new(source.clone());
        let outbox = Arc::new(Outbox::default());
        let rung = Arc::clone(&outbox);
        let opened = tokio::task::spawn_blocking(move || {
            let mut db = source.connect()?;
            migrate::migrate(&mut db, &source)?;
            Ok::<_, Error>(Writer::new(db, source, rung))
        });
        let writer = opened.await.map_err(|e| Error::internal(&e))??;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = std::thread::Builder::new().name("tracking-writer".into()).spawn(move || writer.run(queue));
        let writer = std::sync::Mutex::new(Some(writer.map_err(|e| Error::internal(&e))?));
        let looking = Arc::new(Semaphore::new(LOOKING));
        Ok(Tracking(Arc::new(Shared { readers, jobs, writer, artifacts, looking, outbox, lock })))
    }

    fn source(&self) -> &Source {
        self.0.readers.source()
    }

    /// Whether others may have the same database open.
    fn is_shared(&self) -> bool {
        self.0.lock.is_none()
    }

    /// The files that runs left at this server.
    pub fn artifacts(&self) -> &Artifacts {
        &self.0.artifacts
    }

    /// Ends all connections once every write that was accepted is in the file; later ones are refused. What is still being read has some seconds to end.
    pub async fn close(&self) {
        let writer = self.0.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = self.0.jobs.send(Job::End).await;
            let _ = tokio::task::spawn_blocking(|| writer.join()).await;
        }
        if !self.0.readers.close().await {
            tracing::warn!("the tracking store was closed while something was being read");
        }
        // Closing the file is not enough: a process being started by this one may hold a copy of it for a moment.
        if let Some(lock) = &self.0.lock {
            let _ = lock.unlock();
        }
    }

    fn outbox(&self) -> &Outbox {
        &self.0.outbox
    }

    /// Reads with a connection, on a thread where that keeps nobody waiting. All that `work` reads has some seconds together, and it ends where nobody waits
    /// for the answer any more.
    async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Db) -> Result<T> + Send + 'static,
    {
        self.0.readers.read(work).await
    }

    /// Waits for a place among those that have spans or records in memory. It is held until the answer is written.
    ///
    /// # Errors
    /// When none gets free for some seconds.
    pub async fn place(&self) -> Result<Place> {
        let place = tokio::time::timeout(PATIENCE, Arc::clone(&self.0.looking).acquire_owned()).await;
        let busy =
            || Error::new(ErrorCode::TemporarilyUnavailable, "too many searches and readings of traces at once; send again in a moment");
        place.ok().and_then(std::result::Result::ok).map(Place).ok_or_else(busy)
    }
}

/// Pairs as they are once all are set: by name, of each name the last.
fn settled(pairs: Vec<Pair>) -> Vec<Pair> {
    let last: BTreeMap<String, String> = pairs.into_iter().map(|p| (p.key, p.value)).collect();
    last.into_iter().map(|(key, value)| Pair { key, value }).collect()
}

fn lock(dir: &Path) -> Result<File> {
    let refuse = |what: String, hint: &str| Error::new(ErrorCode::InternalError, format!("{what}\n  hint: {hint}"));
    let failed = |e: std::io::Error| refuse(format!("cannot lock {}: {e}", dir.display()), "check that the folder can be written to");
    std::fs::create_dir_all(dir).map_err(failed)?;
    let file = File::options().read(true).write(true).create(true).truncate(false).open(dir.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(e)) => Err(failed(e)),
        Err(TryLockError::WouldBlock) => {
            Err(refuse(format!("another process has {} open", dir.display()), "stop it, or choose another folder"))
        }
    }
}

/// Where artifacts of an experiment are that names no place of its own: the client asks the server it logs to.
fn own_location(experiment: i64) -> String {
    format!("mlflow-artifacts:/{experiment}")
}

/// Milliseconds UTC.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}
