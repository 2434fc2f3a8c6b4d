//! SQLite.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{OpenFlags, Statement, ToSql};

use super::{Limits, Row, Value, with_rows};
use crate::error::{Error, ErrorCode, Result};

/// Another process may hold the file's lock for so long.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Statements that are kept prepared.
const PREPARED: usize = 256;
/// How often a statement's time is looked at, in instructions of the database; one may be the comparison of a long text.
const INSTRUCTIONS: i32 = 1000;

#[derive(Debug)]
pub(crate) struct Connection {
    of: rusqlite::Connection,
}

impl Connection {
    /// Opens the file that is written to, making it if it is not there.
    pub fn open(file: &Path) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Connection::of(rusqlite::Connection::open_with_flags(file, flags)?)
    }

    /// Opens the file that is only read.
    pub fn open_to_read(file: &Path) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Connection::of(rusqlite::Connection::open_with_flags(file, flags)?)
    }

    fn of(of: rusqlite::Connection) -> Result<Connection> {
        of.busy_timeout(BUSY_TIMEOUT)?;
        of.set_prepared_statement_cache_capacity(PREPARED);
        // A commit that was acknowledged outlives a power failure.
        of.pragma_update(None, "synchronous", "FULL")?;
        of.pragma_update(None, "case_sensitive_like", "ON")?;
        Ok(Connection { of })
    }

    /// From now on statements end where they are not wanted any more; none: all run to their end.
    pub fn limit(&self, limits: Option<Limits>) -> Result<()> {
        let stop = limits.map(|limits| move || limits.are_over());
        Ok(self.of.progress_handler(INSTRUCTIONS, stop)?)
    }

    pub fn execute(&self, sql: &str, values: &[Value<'_>], is_kept: bool) -> Result<u64> {
        let run = |statement: &mut Statement<'_>| -> Result<u64> {
            bind(statement, values)?;
            Ok(statement.raw_execute()? as u64)
        };
        if is_kept { run(&mut *self.of.prepare_cached(sql)?) } else { run(&mut self.of.prepare(sql)?) }
    }

    pub fn each(&self, sql: &str, values: &[Value<'_>], is_kept: bool, see: &mut dyn FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
        let mut run = |statement: &mut Statement<'_>| -> Result<()> {
            bind(statement, values)?;
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next()? {
                see(&Row::Sqlite(row))?;
            }
            Ok(())
        };
        if is_kept { run(&mut *self.of.prepare_cached(sql)?) } else { run(&mut self.of.prepare(sql)?) }
    }

    pub fn insert<'v, const N: usize>(&self, into: &str, conflict: &str, rows: impl IntoIterator<Item = [Value<'v>; N]>) -> Result<()> {
        let mut statement = self.of.prepare_cached(&with_rows(into, conflict, N, 1))?;
        for row in rows {
            bind(&mut statement, &row)?;
            statement.raw_execute()?;
        }
        Ok(())
    }

    pub fn script(&self, sql: &str) -> Result<()> {
        Ok(self.of.execute_batch(sql)?)
    }
}

fn bind(statement: &mut Statement<'_>, values: &[Value<'_>]) -> Result<()> {
    for (at, value) in values.iter().enumerate() {
        statement.raw_bind_parameter(at + 1, value)?;
    }
    Ok(())
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Int(value) => ValueRef::Integer(*value),
            Value::Real(value) => ValueRef::Real(*value),
            Value::Text(value) => ValueRef::Text(value.as_bytes()),
            Value::Bytes(value) => ValueRef::Blob(match value {
                Cow::Borrowed(bytes) => bytes,
                Cow::Owned(bytes) => bytes,
            }),
        }))
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Error {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::OperationInterrupted) => {
                tracing::warn!("a read of the tracking store took too long and was stopped");
                super::took_too_long()
            }
            Some(rusqlite::ErrorCode::DatabaseBusy) => {
                Error::new(ErrorCode::TemporarilyUnavailable, "another process holds the database; send again in a moment")
            }
            _ => Error::internal(&error),
        }
    }
}
