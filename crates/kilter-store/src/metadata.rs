//! Runs, model versions, alerts and small state, in one SQLite file.
//!
//! One connection writes, several read (WAL). The SQL keeps to what PostgreSQL also understands: `$1` parameters,
//! `ON CONFLICT`, sequence numbers allotted in the transaction. Times are microseconds UTC and given by the caller.

mod alerts;
mod error;
mod models;
mod owner;
mod readings;
mod runs;
mod schema;
mod scrub;
mod state;

pub use alerts::{Alert, AlertFilter, NewAlert};
pub use error::MetadataError;
pub use models::{AliasChange, AliasRecord, CHALLENGER, CHAMPION, ModelSummary, ModelVersion, NewModelVersion};
pub use readings::{MonitorReading, READINGS_KEPT, ReadingCounts, ReadingFilter, ReadingSubject};
pub use runs::{MetricPoint, NewRun, Run, RunFilter, RunKind, RunStatus};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, Transaction};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What metadata operations answer.
pub type Result<T, E = MetadataError> = std::result::Result<T, E>;

/// Another process may hold the write lock for so long before an operation fails.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two tries of what SQLite does not wait for itself.
const BUSY_PAUSE: Duration = Duration::from_millis(5);
const READERS: u32 = 4;
/// Rows that one list answers at most.
const MAX_ROWS: u32 = 10_000;

/// The metadata store. Cloning is cheap and shares the connections.
#[derive(Debug, Clone)]
pub struct Metadata {
    writer: SqlitePool,
    readers: SqlitePool,
    /// This process, as runs remember it.
    owner: String,
}

impl Metadata {
    /// Opens the file, creating it or bringing its schema up to date.
    ///
    /// Errors: [`MetadataError::NewerSchema`] for a file of a later release, [`MetadataError::Open`],
    /// [`MetadataError::Database`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let open_error = |source| MetadataError::Open { path: path.to_owned(), source };
        let writer = connect_writer(options.clone().journal_mode(SqliteJournalMode::Wal)).await.map_err(open_error)?;
        schema::migrate(&writer, path).await?;
        let readers = pool(READERS).connect_with(options).await.map_err(open_error)?;
        Ok(Self { writer, readers, owner: owner::this_process() })
    }

    /// A store that lives as long as this value and its clones.
    ///
    /// Errors: [`MetadataError::Open`].
    pub async fn in_memory() -> Result<Self> {
        let path = PathBuf::from(":memory:");
        let options = SqliteConnectOptions::new().in_memory(true).foreign_keys(true);
        // One connection is one database in memory, so that the same one has to write and read.
        let connected = pool(1).idle_timeout(None).max_lifetime(None).connect_with(options).await;
        let writer = connected.map_err(|source| MetadataError::Open { path: path.clone(), source })?;
        schema::migrate(&writer, &path).await?;
        Ok(Self { readers: writer.clone(), writer, owner: owner::this_process() })
    }

    /// Ends all connections; what was written is in the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// A transaction that holds the write lock from its start, so that it waits for other processes and never fails half
    /// way. While it lives, nothing may be read through the pools: in memory they are the same connection.
    async fn begin(&self) -> Result<Transaction<'_, Sqlite>> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }
}

/// The connection that writes. A new file becomes a WAL file here, once, and SQLite answers "busy" at once, without
/// waiting, to whoever asks for the same at that moment: so the wait is ours.
async fn connect_writer(options: SqliteConnectOptions) -> std::result::Result<SqlitePool, sqlx::Error> {
    let give_up = Instant::now() + BUSY_TIMEOUT;
    loop {
        match pool(1).connect_with(options.clone()).await {
            Err(error) if is_busy(&error) && Instant::now() < give_up => tokio::time::sleep(BUSY_PAUSE).await,
            connected => return connected,
        }
    }
}

/// SQLITE_BUSY, whatever extended code it comes with.
fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|e| e.code()).and_then(|code| code.parse::<u32>().ok());
    code.is_some_and(|code| code & 0xff == 5)
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(connections).acquire_timeout(Duration::from_secs(30))
}

/// Metric values as JSON text; what JSON has no number for is a string.
mod metrics_json {
    use serde_json::{Map, Value, json};
    use std::collections::BTreeMap;

    pub(super) fn encode(metrics: &BTreeMap<String, f64>) -> String {
        let value = |v: &f64| if v.is_finite() { json!(v) } else { json!(v.to_string()) };
        Value::Object(metrics.iter().map(|(k, v)| (k.clone(), value(v))).collect::<Map<_, _>>()).to_string()
    }

    pub(super) fn decode(text: &str) -> Option<BTreeMap<String, f64>> {
        let map: Map<String, Value> = serde_json::from_str(text).ok()?;
        let value = |v: Value| v.as_f64().or_else(|| v.as_str()?.parse().ok());
        map.into_iter().map(|(k, v)| Some((k, value(v)?))).collect()
    }
}
