//! The store: one file of SQLite, written by one task, read by several connections. All SQL is below this module.

mod assessments;
mod evaluation;
mod experiments;
mod import;
mod logged;
mod plan;
mod registry;
mod runs;
mod scorers;
mod search;
mod spans;
mod traces;
mod writer;

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Connection, QueryBuilder, Sqlite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::artifacts::Artifacts;
use crate::error::{Error, ErrorCode, Result};
use crate::model::Pair;
pub(crate) use import::{Coming, Plan};
use writer::{Job, Writer};

const READERS: u32 = 4;
/// Requests that have spans in memory at a time, to look for something or to answer them.
const LOOKING: usize = 4;
/// A statement that reads is stopped after so long: nobody waits for it any more, and it keeps a reader from others.
const READING: Duration = Duration::from_secs(20);
/// How long a request waits for a reader.
const ACQUIRE: Duration = Duration::from_secs(30);
/// How long a request waits for a place among those that read much.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a statement's time is looked at, in instructions of the database; one may be the comparison of a long text.
const INSTRUCTIONS: i32 = 1000;
/// How long the end waits for what is still being read.
const CLOSING: Duration = Duration::from_secs(5);
/// Writes that wait for their turn at most; others are told to come again.
const QUEUE: usize = 4096;
/// Another process may hold the file's lock for so long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Each runs once, in order; one that was released is never changed.
const MIGRATIONS: [&str; 5] = [
    include_str!("migrations/0001_runs.sql"),
    include_str!("migrations/0002_models.sql"),
    include_str!("migrations/0003_traces.sql"),
    include_str!("migrations/0004_evaluation.sql"),
    include_str!("migrations/0006_kept_models.sql"),
];
/// The experiment of runs that name none; it is always there.
const DEFAULT_EXPERIMENT: i64 = 0;

/// One of the few who may have spans or records in memory at a time.
#[derive(Debug)]
pub struct Place(#[allow(dead_code, reason = "held, and given back when dropped")] OwnedSemaphorePermit);

/// Experiments, runs and artifacts in one folder. Clones share it.
#[derive(Debug, Clone)]
pub struct Tracking(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    readers: SqlitePool,
    jobs: mpsc::Sender<Job>,
    writer: std::sync::Mutex<Option<JoinHandle<()>>>,
    artifacts: Artifacts,
    looking: Arc<Semaphore>,
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
        let readers = readers(READING).connect_with(options).await?;
        let (jobs, queue) = mpsc::channel(QUEUE);
        let writer = tokio::spawn(Writer::new(connection).run(queue));
        let (writer, looking) = (std::sync::Mutex::new(Some(writer)), Arc::new(Semaphore::new(LOOKING)));
        Ok(Tracking(Arc::new(Shared { readers, jobs, writer, artifacts, looking, lock })))
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
            let _ = writer.await;
        }
        if tokio::time::timeout(CLOSING, self.0.readers.close()).await.is_err() {
            tracing::warn!("the tracking store was closed while something was being read");
        }
        // Closing the file is not enough: a process being started by this one may hold a copy of it for a moment.
        let _ = self.0.lock.unlock();
    }

    fn readers(&self) -> &SqlitePool {
        &self.0.readers
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

    /// Rows of a statement that hardly comes again: it takes no place among those that are kept prepared.
    async fn rows(&self, mut sql: QueryBuilder<Sqlite>) -> Result<Vec<SqliteRow>> {
        Ok(sql.build().persistent(false).fetch_all(self.readers()).await?)
    }

    /// Numbers that such a statement finds.
    async fn numbers(&self, mut sql: QueryBuilder<Sqlite>) -> Result<Vec<i64>> {
        Ok(sql.build_query_scalar().persistent(false).fetch_all(self.readers()).await?)
    }
}

/// Connections that read. A reader is taken for one statement, whose time begins with that.
fn readers(limit: Duration) -> SqlitePoolOptions {
    let options = SqlitePoolOptions::new().max_connections(READERS).acquire_timeout(ACQUIRE);
    // Setting the limit speaks to the connection, which tests it as well.
    let options = options.test_before_acquire(false);
    let options = options.after_connect(move |connection, _| Box::pin(limit_statement(connection, limit)));
    options.before_acquire(move |connection, _| {
        Box::pin(async move {
            limit_statement(connection, limit).await?;
            Ok(true)
        })
    })
}

async fn limit_statement(connection: &mut SqliteConnection, limit: Duration) -> sqlx::Result<()> {
    let began = Instant::now();
    connection.lock_handle().await?.set_progress_handler(INSTRUCTIONS, move || began.elapsed() < limit);
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    const ENDLESS: &str = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n";

    #[tokio::test]
    async fn a_statement_that_takes_too_long_is_stopped_and_its_reader_reads_on() {
        let options = SqliteConnectOptions::new().in_memory(true);
        let pool = readers(Duration::from_millis(100)).max_connections(1).connect_with(options).await.unwrap();
        for _ in 0..3 {
            let stopped = Error::from(sqlx::query(ENDLESS).fetch_all(&pool).await.unwrap_err());
            assert_eq!(stopped.code, ErrorCode::TemporarilyUnavailable, "{stopped}");
            assert_eq!(sqlx::query_scalar::<_, i64>("SELECT 7").fetch_one(&pool).await.unwrap(), 7);
        }
        let abandoned = tokio::spawn({
            let pool = pool.clone();
            async move { sqlx::query(ENDLESS).fetch_all(&pool).await }
        });
        tokio::task::yield_now().await;
        abandoned.abort();
        assert_eq!(sqlx::query_scalar::<_, i64>("SELECT 7").fetch_one(&pool).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn the_end_does_not_wait_for_a_reader_that_nobody_gives_back() {
        let dir = tempfile::tempdir().unwrap();
        let tracking = Tracking::open(dir.path()).await.unwrap();
        let held = tracking.readers().acquire().await.unwrap();
        tracking.close().await;
        assert_eq!(Error::from(tracking.readers().acquire().await.unwrap_err()).code, ErrorCode::TemporarilyUnavailable);
        drop(held);
    }
}
