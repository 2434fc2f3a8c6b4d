//! The databases that the store speaks to, SQLite and PostgreSQL, behind one way of saying things. Everything here blocks: it runs on the thread that writes
//! and on those that read.
//!
//! Statements name their values `?1`, `?2` and so on, and are written in words that both databases have; where they differ, [`Db::dialect`] tells them apart.

mod foreign;
mod postgres;
mod sql;
mod sqlite;

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
pub(crate) use foreign::{Foreign, Select};
pub(crate) use postgres::{SCHEMA, config, definition};
pub(crate) use sql::Sql;

/// Which words a database wants where the two differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

/// A connection to one of the databases.
#[derive(Debug)]
pub(crate) enum Db {
    Sqlite(sqlite::Connection),
    Postgres(Box<postgres::Connection>),
}

/// Where a database is.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A file of SQLite.
    File(PathBuf),
    Postgres(Box<::postgres::Config>),
}

/// What ends a statement.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// It has taken too long.
    pub until: Instant,
    /// Nobody waits for it any more.
    pub is_given_up: Arc<AtomicBool>,
}

impl Limits {
    pub fn are_over(&self) -> bool {
        self.is_given_up.load(Ordering::Relaxed) || Instant::now() > self.until
    }
}

/// A value that is bound to a statement.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Int(i64),
    Real(f64),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
}

/// Values for a statement, in order.
macro_rules! bind {
    ($($value:expr),* $(,)?) => { &[$($crate::db::Value::from($value)),*] };
}
pub(crate) use bind;

/// A row that a statement found.
pub(crate) enum Row<'a> {
    Sqlite(&'a rusqlite::Row<'a>),
    Postgres(&'a ::postgres::Row),
}

/// What can be read from a column.
pub(crate) trait Column: Sized {
    fn read(row: &Row<'_>, at: usize) -> Result<Self>;
}

/// What can be read from a whole row: one column, or a tuple of them.
pub(crate) trait FromRow: Sized {
    fn from_row(row: &Row<'_>) -> Result<Self>;
}

impl std::fmt::Display for Source {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::File(file) => file.display().fmt(to),
            Source::Postgres(config) => write!(to, "the database `{}`", config.get_dbname().unwrap_or_default()),
        }
    }
}

impl Source {
    /// A connection that writes.
    pub fn connect(&self) -> Result<Db> {
        match self {
            Source::File(file) => sqlite::Connection::open(file).map(Db::Sqlite),
            Source::Postgres(config) => Ok(Db::Postgres(Box::new(postgres::Connection::connect(config, None)?))),
        }
    }

    /// A connection that only reads, `reading` at a time.
    pub fn connect_to_read(&self, reading: Duration) -> Result<Db> {
        match self {
            Source::File(file) => sqlite::Connection::open_to_read(file).map(Db::Sqlite),
            Source::Postgres(config) => Ok(Db::Postgres(Box::new(postgres::Connection::connect(config, Some(reading))?))),
        }
    }
}

impl Row<'_> {
    pub fn get<T: Column>(&self, at: usize) -> Result<T> {
        T::read(self, at)
    }
}

impl Db {
    pub fn dialect(&self) -> Dialect {
        match self {
            Db::Sqlite(_) => Dialect::Sqlite,
            Db::Postgres(_) => Dialect::Postgres,
        }
    }

    /// From now on statements end where they are not wanted any more; none: all run to their end. Those of PostgreSQL are looked at between rows, and end by
    /// themselves after the time that their connection was given.
    pub fn limit(&mut self, limits: Option<Limits>) -> Result<()> {
        match self {
            Db::Sqlite(db) => db.limit(limits),
            Db::Postgres(db) => {
                db.limit(limits);
                Ok(())
            }
        }
    }

    /// Whether the database still answers.
    pub fn is_alive(&mut self) -> bool {
        match self {
            Db::Sqlite(_) => true,
            Db::Postgres(db) => db.is_alive(),
        }
    }

    /// Whether nothing can be said over it any more.
    pub fn is_closed(&self) -> bool {
        match self {
            Db::Sqlite(_) => false,
            Db::Postgres(db) => db.is_closed(),
        }
    }

    /// Runs a statement that comes again and is kept prepared; answers how many rows it changed.
    pub fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64> {
        self.change(sql, values, true)
    }

    /// Shows each row that such a statement finds.
    pub fn each(&mut self, sql: &str, values: &[Value<'_>], mut see: impl FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
        self.run(sql, values, true, &mut see)
    }

    /// All rows that such a statement finds.
    pub fn rows<T: FromRow>(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Vec<T>> {
        self.collect(sql, values, true)
    }

    /// The row that such a statement finds, if it finds one; of several, the first.
    pub fn optional<T: FromRow>(&mut self, sql: &str, values: &[Value<'_>]) -> Result<Option<T>> {
        let mut found = None;
        self.each(sql, values, |row| {
            if found.is_none() {
                found = Some(T::from_row(row)?);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The row that such a statement always finds.
    pub fn one<T: FromRow>(&mut self, sql: &str, values: &[Value<'_>]) -> Result<T> {
        self.optional(sql, values)?.ok_or_else(|| Error::internal(&format!("no row where there is always one: {sql}")))
    }

    /// Inserts rows. `into` is the statement up to its values, `conflict` what follows them. Two rows of one call must not be in conflict with each other.
    pub fn insert<'v, const N: usize>(&mut self, into: &str, conflict: &str, rows: impl IntoIterator<Item = [Value<'v>; N]>) -> Result<()> {
        match self {
            Db::Sqlite(db) => db.insert(into, conflict, rows),
            Db::Postgres(db) => db.insert(into, conflict, rows),
        }
    }

    /// Runs statements without values, one after the other.
    pub fn script(&mut self, sql: &str) -> Result<()> {
        match self {
            Db::Sqlite(db) => db.script(sql),
            Db::Postgres(db) => db.script(sql),
        }
    }

    fn change(&mut self, sql: &str, values: &[Value<'_>], is_kept: bool) -> Result<u64> {
        match self {
            Db::Sqlite(db) => db.execute(sql, values, is_kept),
            Db::Postgres(db) => db.execute(sql, values, is_kept),
        }
    }

    fn collect<T: FromRow>(&mut self, sql: &str, values: &[Value<'_>], is_kept: bool) -> Result<Vec<T>> {
        let mut rows = Vec::new();
        self.run(sql, values, is_kept, &mut |row| {
            rows.push(T::from_row(row)?);
            Ok(())
        })?;
        Ok(rows)
    }

    fn run(&mut self, sql: &str, values: &[Value<'_>], is_kept: bool, see: &mut dyn FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
        match self {
            Db::Sqlite(db) => db.each(sql, values, is_kept, see),
            Db::Postgres(db) => db.each(sql, values, is_kept, see),
        }
    }
}

/// A statement's text with `rows` rows of `columns` values each.
fn with_rows(into: &str, conflict: &str, columns: usize, rows: usize) -> String {
    let mut text = String::with_capacity(into.len() + conflict.len() + rows * columns * 6);
    text.push_str(into);
    text.push_str(" VALUES ");
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ", (" });
        for column in 0..columns {
            text.push_str(if column == 0 { "?" } else { ", ?" });
            text.push_str(&(row * columns + column + 1).to_string());
        }
        text.push(')');
    }
    text.push(' ');
    text.push_str(conflict);
    text
}

impl Value<'_> {
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Null => Value::Null,
            Value::Int(value) => Value::Int(value),
            Value::Real(value) => Value::Real(value),
            Value::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Value::Bytes(bytes) => Value::Bytes(Cow::Owned(bytes.into_owned())),
        }
    }
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Value::Int(value)
    }
}

impl From<&i64> for Value<'_> {
    fn from(value: &i64) -> Self {
        Value::Int(*value)
    }
}

/// As 1 or 0: both databases have whole numbers.
impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Value::Int(value.into())
    }
}

impl From<f64> for Value<'_> {
    fn from(value: f64) -> Self {
        Value::Real(value)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Value::Text(Cow::Borrowed(value))
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(value: &'a String) -> Self {
        Value::Text(Cow::Borrowed(value))
    }
}

impl From<String> for Value<'_> {
    fn from(value: String) -> Self {
        Value::Text(Cow::Owned(value))
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(value: &'a [u8]) -> Self {
        Value::Bytes(Cow::Borrowed(value))
    }
}

impl<'a> From<&'a Vec<u8>> for Value<'a> {
    fn from(value: &'a Vec<u8>) -> Self {
        Value::Bytes(Cow::Borrowed(value))
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

impl<'a> From<&'a Option<String>> for Value<'a> {
    fn from(value: &'a Option<String>) -> Self {
        value.as_deref().into()
    }
}

macro_rules! columns {
    ($($of:ty => $postgres:ty),*) => {
        $(impl Column for $of {
            fn read(row: &Row<'_>, at: usize) -> Result<Self> {
                match row {
                    Row::Sqlite(row) => Ok(row.get(at)?),
                    Row::Postgres(row) => Ok(row.try_get::<_, $postgres>(at)?.into()),
                }
            }
        }

        impl Column for Option<$of> {
            fn read(row: &Row<'_>, at: usize) -> Result<Self> {
                match row {
                    Row::Sqlite(row) => Ok(row.get(at)?),
                    Row::Postgres(row) => Ok(row.try_get::<_, Option<$postgres>>(at)?.map(Into::into)),
                }
            }
        })*
    };
}

columns!(i64 => postgres::Whole, f64 => f64, String => postgres::Text, Vec<u8> => Vec<u8>);

impl Column for bool {
    fn read(row: &Row<'_>, at: usize) -> Result<Self> {
        Ok(row.get::<i64>(at)? != 0)
    }
}

impl<T: Column> FromRow for T {
    fn from_row(row: &Row<'_>) -> Result<Self> {
        row.get(0)
    }
}

macro_rules! tuples {
    ($(($($name:ident $at:tt),*)),*) => {
        $(impl<$($name: Column),*> FromRow for ($($name,)*) {
            fn from_row(row: &Row<'_>) -> Result<Self> {
                Ok(($(row.get::<$name>($at)?,)*))
            }
        })*
    };
}

tuples!(
    (A 0, B 1),
    (A 0, B 1, C 2),
    (A 0, B 1, C 2, D 3),
    (A 0, B 1, C 2, D 3, E 4),
    (A 0, B 1, C 2, D 3, E 4, F 5),
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6),
    (A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7)
);

fn took_too_long() -> Error {
    let what = "the request took too long and was stopped\n  hint: ask for less at once, or by a narrower filter";
    Error::new(crate::error::ErrorCode::TemporarilyUnavailable, what)
}
