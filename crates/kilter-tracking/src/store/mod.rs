//! The store: one file of SQLite, written by one task, read by several connections. All SQL is below this module.

mod assessments;
mod evaluation;
mod experiments;
mod logged;
mod registry;
mod runs;
mod scorers;
mod search;
mod spans;
mod traces;
mod writer;

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::artifacts::Artifacts;
use crate::error::{Error, ErrorCode, Result};
use writer::{Job, Writer};

const READERS: u32 = 4;
/// Writes that wait for their turn at most; others are told to come again.
const QUEUE: usize = 4096;
/// Another process may hold the file's lock for so long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Each runs once, in order; one that was released is never changed.
const MIGRATIONS: [&str; 4] = [
    include_str!("migrations/0001_runs.sql"),
    include_str!("migrations/0002_models.sql"),
    include_str!("migrations/0003_traces.sql"),
    include_str!("migrations/0004_evaluation.sql"),
];
/// The experiment of runs that name none; it is always there.
const DEFAULT_EXPERIMENT: i64 = 0;

/// Experiments, runs and artifacts in one folder. Clones share it.
#[derive(Debug, Clone)]
pub struct Tracking(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    readers: SqlitePool,
    jobs: mpsc::Sender<Job>,
    writer: std::sync::Mutex<Option<JoinHandle<()>>>,
    artifacts: Artifacts,
    /// Keeps other processes out: what the writer has in memory must be what the file says.
    lock: File,
}

impl Tracking {
    /// Opens the folder, creating what is missing.
    ///
    /// # Errors
    /// When the folder cannot be written to, or its database is none or of a newer release.
    pub async fn open(dir: impl AsRef<Path>) -> Result<Tracking> {
        let dir = dir.as_ref();
        let lock = lock(dir)?;
        let artifacts = Artifacts::open(dir).await?;
        let file = dir.join("tracking.db");
        let options = SqliteConnectOptions::new()
            .filename(&file)
            .create_if_missing(true)
            // A commit that was acknowledged outlives a power failure.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("case_sensitive_like", "ON");
        let mut connection = SqliteConnection::connect_with(&options.clone().journal_mode(SqliteJournalMode::Wal)).await?;
        migrate(&mut connection, &file).await?;
        let readers = SqlitePoolOptions::new().max_connections(READERS).acquire_timeout(Duration::from_secs(30));
        let readers = readers.connect_with(options).await?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = tokio::spawn(Writer::new(connection).run(queue));
        Ok(Tracking(Arc::new(Shared { readers, jobs, writer: std::sync::Mutex::new(Some(writer)), artifacts, lock })))
    }

    /// The files that runs left at this server.
    pub fn artifacts(&self) -> &Artifacts {
        &self.0.artifacts
    }

    /// Ends all connections once every write that was accepted is in the file; later ones are refused.
    pub async fn close(&self) {
        let writer = self.0.writer.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = self.0.jobs.send(Job::End).await;
            let _ = writer.await;
        }
        self.0.readers.close().await;
        // Closing the file is not enough: a process being started by this one may hold a copy of it for a moment.
        let _ = self.0.lock.unlock();
    }

    fn readers(&self) -> &SqlitePool {
        &self.0.readers
    }
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

async fn migrate(connection: &mut SqliteConnection, file: &Path) -> Result<()> {
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *tx).await?;
    let known = MIGRATIONS.len();
    let Some(missing) = usize::try_from(version).ok().and_then(|done| MIGRATIONS.get(done..)) else {
        let error = format!(
            "{} has schema {version}, this program knows up to {known}\n  hint: use the kilter release that wrote it, or a newer one",
            file.display()
        );
        return Err(Error::new(ErrorCode::InternalError, error));
    };
    for migration in missing {
        sqlx::raw_sql(*migration).execute(&mut *tx).await?;
    }
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("PRAGMA user_version = {known}"))).execute(&mut *tx).await?;
    if version == 0 {
        let default =
            "INSERT INTO experiments (id, name, artifact_location, stage, created, updated) VALUES ($1, 'Default', $2, 'active', $3, $3)";
        let query = sqlx::query(default).bind(DEFAULT_EXPERIMENT).bind(own_location(DEFAULT_EXPERIMENT)).bind(now());
        query.execute(&mut *tx).await?;
    }
    Ok(tx.commit().await?)
}

/// Where artifacts of an experiment are that names no place of its own: the client asks the server it logs to.
fn own_location(experiment: i64) -> String {
    format!("mlflow-artifacts:/{experiment}")
}

/// Milliseconds UTC.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}
