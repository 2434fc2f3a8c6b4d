//! Databases of other programs, which are only read.

use std::error::Error as StdError;
use std::path::Path;
use std::time::Duration;

use postgres::fallible_iterator::FallibleIterator;
use postgres::types::{FromSql, Type};
use postgres::{Client, Config};
use rusqlite::OpenFlags;
use rusqlite::types::ValueRef;

use super::postgres::{Whole, client, in_full, numbered};
use super::{Dialect, Value};
use crate::error::Result as Outcome;

/// How long its server may keep a page from being read.
const BUSY: Duration = Duration::from_secs(60);
/// One state is read, for as long as it takes.
const SNAPSHOT: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0;
    BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
    SET LOCAL cursor_tuple_fraction = 1";

/// A database of another program: a file of SQLite, of which each statement reads by itself, or one of PostgreSQL, of which all read one state. What fails is
/// told as the database says it.
pub(crate) enum Foreign {
    Sqlite(rusqlite::Connection),
    Postgres(Box<Client>),
}

type Row = Vec<Value<'static>>;
type Result<T> = std::result::Result<T, String>;

/// Rows of one table `t`.
pub(crate) struct Select<'a> {
    pub columns: &'a str,
    pub table: &'a str,
    pub join: &'a str,
    pub filter: &'a str,
}

impl Foreign {
    pub fn open(file: &Path) -> Result<Foreign> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = rusqlite::Connection::open_with_flags(file, flags).and_then(|db| db.busy_timeout(BUSY).map(|()| db));
        opened.map(Foreign::Sqlite).map_err(|e| e.to_string())
    }

    pub fn connect(config: &Config) -> Outcome<Foreign> {
        let mut client = client(config)?;
        client.batch_execute(SNAPSHOT)?;
        Ok(Foreign::Postgres(Box::new(client)))
    }

    pub fn dialect(&self) -> Dialect {
        match self {
            Foreign::Sqlite(_) => Dialect::Sqlite,
            Foreign::Postgres(_) => Dialect::Postgres,
        }
    }

    /// All rows that a statement finds.
    pub fn rows(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        match self {
            Foreign::Sqlite(db) => of_sqlite(db, sql, values).map_err(|e| e.to_string()),
            Foreign::Postgres(client) => of_postgres(client, sql, values).map_err(|e| in_full(&e)),
        }
    }

    /// Shows all rows, `page` at a time, until `see` wants no more. Nobody is kept from writing meanwhile.
    pub fn pages(&mut self, of: &Select<'_>, page: i64, mut see: impl FnMut(Vec<Row>) -> bool) -> Result<()> {
        let Select { columns, table, join, filter } = of;
        match self {
            Foreign::Sqlite(db) => {
                let sql = format!(
                    "SELECT {columns}, t.rowid FROM {table} t {join} WHERE t.rowid > ?1 AND {filter} ORDER BY t.rowid LIMIT {page}"
                );
                let mut last = Value::Int(i64::MIN);
                loop {
                    let mut rows = of_sqlite(db, &sql, &[last]).map_err(|e| e.to_string())?;
                    let Some(end) = rows.iter_mut().filter_map(Vec::pop).last() else { return Ok(()) };
                    last = end;
                    if !see(rows) {
                        return Ok(());
                    }
                }
            }
            Foreign::Postgres(client) => {
                let told = |e: postgres::Error| in_full(&e);
                let sql = format!("DECLARE pages NO SCROLL CURSOR FOR SELECT {columns} FROM {table} t {join} WHERE {filter}");
                client.batch_execute(&sql).map_err(told)?;
                loop {
                    let rows = of_postgres(client, &format!("FETCH {page} FROM pages"), &[]).map_err(told)?;
                    if rows.is_empty() || !see(rows) {
                        return client.batch_execute("CLOSE pages").map_err(told);
                    }
                }
            }
        }
    }
}

fn of_sqlite(db: &rusqlite::Connection, sql: &str, values: &[Value<'_>]) -> rusqlite::Result<Vec<Row>> {
    let mut statement = db.prepare(sql)?;
    let columns = statement.column_count();
    let (mut found, mut rows) = (statement.query(rusqlite::params_from_iter(values))?, Vec::new());
    while let Some(row) = found.next()? {
        rows.push((0..columns).map(|at| row.get_ref(at).map(of_ref)).collect::<rusqlite::Result<Row>>()?);
    }
    Ok(rows)
}

fn of_ref(value: ValueRef<'_>) -> Value<'static> {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(value) => Value::Int(value),
        ValueRef::Real(value) => Value::Real(value),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8(bytes.to_vec()).map_or(Value::Null, Value::from),
    }
}

fn of_postgres(client: &mut Client, sql: &str, values: &[Value<'_>]) -> std::result::Result<Vec<Row>, postgres::Error> {
    let statement = client.prepare(&numbered(sql))?;
    let (mut found, mut rows) = (client.query_raw(&statement, values)?, Vec::new());
    while let Some(row) = found.next()? {
        let value = |at| row.try_get::<_, Any>(at).map(|any| any.0);
        rows.push((0..row.len()).map(value).collect::<std::result::Result<Row, _>>()?);
    }
    Ok(rows)
}

/// A value of any of the types that are read. Texts are as they are: those of this store are escaped in its own tables only.
struct Any(Value<'static>);

impl<'a> FromSql<'a> for Any {
    fn from_sql(of: &Type, raw: &'a [u8]) -> std::result::Result<Any, Box<dyn StdError + Sync + Send>> {
        Ok(Any(match *of {
            _ if Whole::accepts(of) => Value::Int(Whole::from_sql(of, raw)?.into()),
            Type::FLOAT4 => Value::Real(f32::from_sql(of, raw)?.into()),
            Type::FLOAT8 => Value::Real(f64::from_sql(of, raw)?),
            // One byte says how it is written.
            Type::JSONB => Value::from(std::str::from_utf8(raw.get(1..).unwrap_or_default())?.to_string()),
            Type::JSON => Value::from(std::str::from_utf8(raw)?.to_string()),
            _ => Value::from(String::from_sql(of, raw)?),
        }))
    }

    fn from_sql_null(_: &Type) -> std::result::Result<Any, Box<dyn StdError + Sync + Send>> {
        Ok(Any(Value::Null))
    }

    fn accepts(of: &Type) -> bool {
        Whole::accepts(of) || String::accepts(of) || matches!(*of, Type::FLOAT4 | Type::FLOAT8 | Type::JSON | Type::JSONB)
    }
}
