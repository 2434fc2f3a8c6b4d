//! PostgreSQL.

use std::collections::HashMap;
use std::error::Error as StdError;

use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::private::BytesMut;
use postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, Statement};

use super::{Row, Value, with_rows};
use crate::error::{Error, ErrorCode, Result};

/// Statements that are kept prepared; past it all are prepared anew.
const PREPARED: usize = 256;
/// Rows of one INSERT: a few sizes, so that the database has few statements to prepare and each batch needs few of them.
const ROWS: [usize; 4] = [1000, 100, 10, 1];

pub(crate) struct Connection {
    client: Client,
    prepared: HashMap<String, Statement>,
}

impl Connection {
    pub fn new(client: Client) -> Connection {
        Connection { client, prepared: HashMap::new() }
    }

    /// Whether nothing can be said over it any more.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    pub fn execute(&mut self, sql: &str, values: &[Value<'_>], is_kept: bool) -> Result<u64> {
        let statement = self.statement(sql, is_kept)?;
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
        Ok(self.client.execute(&statement, &values)?)
    }

    pub fn each(&mut self, sql: &str, values: &[Value<'_>], is_kept: bool, see: &mut dyn FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
        let statement = self.statement(sql, is_kept)?;
        let mut rows = self.client.query_raw(&statement, values)?;
        while let Some(row) = rows.next()? {
            see(&Row::Postgres(&row))?;
        }
        Ok(())
    }

    pub fn insert<'v, const N: usize>(&mut self, into: &str, conflict: &str, rows: impl IntoIterator<Item = [Value<'v>; N]>) -> Result<()> {
        let rows: Vec<[Value<'v>; N]> = rows.into_iter().collect();
        let mut rest = rows.as_slice();
        while let Some(size) = ROWS.into_iter().find(|size| *size <= rest.len()) {
            let (some, later) = rest.split_at(size);
            rest = later;
            self.execute(&with_rows(into, conflict, N, size), some.as_flattened(), true)?;
        }
        Ok(())
    }

    pub fn script(&mut self, sql: &str) -> Result<()> {
        Ok(self.client.batch_execute(sql)?)
    }

    fn statement(&mut self, sql: &str, is_kept: bool) -> Result<Statement> {
        if let Some(known) = self.prepared.get(sql) {
            return Ok(known.clone());
        }
        let statement = self.client.prepare(&numbered(sql))?;
        if is_kept {
            if self.prepared.len() >= PREPARED {
                self.prepared.clear();
            }
            self.prepared.insert(sql.to_string(), statement.clone());
        }
        Ok(statement)
    }
}

/// `?1` as `$1`; no text of ours has a question mark before a digit otherwise.
fn numbered(sql: &str) -> String {
    let mut text = String::with_capacity(sql.len());
    let mut rest = sql.chars().peekable();
    while let Some(c) = rest.next() {
        let is_value = c == '?' && rest.peek().is_some_and(char::is_ascii_digit);
        text.push(if is_value { '$' } else { c });
    }
    text
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self, of: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        match self {
            Value::Null => Ok(IsNull::Yes),
            Value::Int(value) => match *of {
                Type::INT2 => i16::try_from(*value)?.to_sql(of, out),
                Type::INT4 => i32::try_from(*value)?.to_sql(of, out),
                Type::FLOAT8 => (*value as f64).to_sql(of, out),
                Type::BOOL => (*value != 0).to_sql(of, out),
                _ => value.to_sql(of, out),
            },
            Value::Real(value) => value.to_sql(of, out),
            Value::Text(value) => value.as_ref().to_sql(of, out),
            Value::Bytes(value) => value.as_ref().to_sql(of, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A whole number of any width, or a truth.
pub(super) struct Whole(i64);

impl From<Whole> for i64 {
    fn from(whole: Whole) -> i64 {
        whole.0
    }
}

impl<'a> FromSql<'a> for Whole {
    fn from_sql(of: &Type, raw: &'a [u8]) -> Result<Whole, Box<dyn StdError + Sync + Send>> {
        Ok(Whole(match *of {
            Type::BOOL => bool::from_sql(of, raw)?.into(),
            Type::INT2 => i16::from_sql(of, raw)?.into(),
            Type::INT4 => i32::from_sql(of, raw)?.into(),
            _ => i64::from_sql(of, raw)?,
        }))
    }

    fn accepts(of: &Type) -> bool {
        matches!(*of, Type::BOOL | Type::INT2 | Type::INT4 | Type::INT8)
    }
}

impl From<postgres::Error> for Error {
    fn from(error: postgres::Error) -> Error {
        if error.code() == Some(&SqlState::QUERY_CANCELED) {
            tracing::warn!("a read of the tracking store took too long and was stopped");
            return super::took_too_long();
        }
        if error.is_closed() || error.code().is_some_and(|code| *code == SqlState::ADMIN_SHUTDOWN) {
            tracing::error!(%error, "the tracking store's database is away");
            return Error::new(ErrorCode::TemporarilyUnavailable, "the database is away; send again in a moment");
        }
        Error::internal(&error)
    }
}
