//! PostgreSQL.

use std::borrow::Cow;
use std::collections::HashMap;
use std::error::Error as StdError;
use std::time::Duration;

use postgres::config::{Host, SslMode, TargetSessionAttrs};
use postgres::error::SqlState;
use postgres::fallible_iterator::FallibleIterator;
use postgres::types::private::BytesMut;
use postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, Config, NoTls, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Limits, Row, Value, with_rows};
use crate::error::{Error, ErrorCode, Result};

/// Statements that are kept prepared; past it all are prepared anew.
const PREPARED: usize = 256;
/// Rows of one INSERT: a few sizes, so that the database has few statements to prepare and each batch needs few of them.
const ROWS: [usize; 4] = [1000, 100, 10, 1];

/// How long a server is waited for that does not answer at all.
const CONNECTING: Duration = Duration::from_secs(10);
/// How long nothing is heard of the other end before it is asked, and how long what was sent may be without an answer.
const SILENCE: Duration = Duration::from_secs(30);
/// How long whoever writes waits for the others that do, and how long it may be still within a transaction before the database ends it.
const WAITING: Duration = Duration::from_secs(20);
/// Rows after which the time is looked at.
const SEEN: usize = 64;
/// Where the store's tables are: the database may have others of the same names, those of MLflow's own server for one.
pub(crate) const SCHEMA: &str = "kilter";

pub(crate) struct Connection {
    client: Client,
    prepared: HashMap<String, Statement>,
    limits: Option<Limits>,
    /// The server takes no writes: another one has to be found.
    is_useless: bool,
}

/// Reads where a database is.
///
/// # Errors
/// When the text says no such thing.
pub(crate) fn config(url: &str) -> Result<Config> {
    let wrong = |what: &str| {
        let hint = "write it like postgresql://user:password@host:5432/name?sslmode=require";
        Error::invalid(format!("this is no address of a database of PostgreSQL: {what}\n  hint: {hint}"))
    };
    if !url.starts_with("postgresql://") && !url.starts_with("postgres://") {
        return Err(wrong("it does not begin with postgresql://"));
    }
    let mut config: Config = url.parse().map_err(|e: postgres::Error| wrong(&in_full(&e)))?;
    if config.get_application_name().is_none() {
        config.application_name("kilter");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECTING);
    }
    // The defaults are two hours; a server that is gone without a word would keep the lock of whoever writes for as long.
    if config.get_keepalives_idle() == Config::new().get_keepalives_idle() {
        config.keepalives_idle(SILENCE);
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(SILENCE / 3);
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(3);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(SILENCE);
    }
    Ok(config)
}

/// A connection as the server makes it.
pub(super) fn client(config: &Config) -> Result<Client> {
    let cannot = |what: String| {
        let name = |host: &Host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(folder) => folder.display().to_string(),
        };
        let hosts: Vec<String> = config.get_hosts().iter().map(name).collect();
        let hint = "check that the server runs, and the address; a server whose certificate the system does not know wants SSL_CERT_FILE, or \
                    ?sslmode=disable where the way to it is safe";
        let message = format!("cannot connect to the database at {}: {what}\n  hint: {hint}", hosts.join(", "));
        Error::new(ErrorCode::TemporarilyUnavailable, message)
    };
    let client = if config.get_ssl_mode() == SslMode::Disable {
        config.connect(NoTls)
    } else {
        let (tls, _) =
            MakeRustlsConnect::with_native_certs().map_err(|e| cannot(format!("no certificates of authorities could be read: {e:?}")))?;
        config.connect(tls)
    };
    client.map_err(|e| cannot(in_full(&e)))
}

impl Connection {
    /// `reading`: the connection only reads, and each of its statements ends after so long.
    pub fn connect(config: &Config, reading: Option<Duration>) -> Result<Connection> {
        let mut config = config.clone();
        if reading.is_none() && config.get_target_session_attrs() == TargetSessionAttrs::Any {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let mut client = client(&config)?;
        let mut settings = format!("SET search_path = {SCHEMA};");
        settings.push_str(&match reading {
            Some(reading) => format!("SET statement_timeout = {}; SET default_transaction_read_only = on;", reading.as_millis()),
            None => format!("SET lock_timeout = {0}; SET idle_in_transaction_session_timeout = {0};", WAITING.as_millis()),
        });
        client.batch_execute(&settings)?;
        Ok(Connection { client, prepared: HashMap::new(), limits: None, is_useless: false })
    }

    /// Whether nothing can be said over it any more.
    pub fn is_closed(&self) -> bool {
        self.is_useless || self.client.is_closed()
    }

    /// Whether the server still answers.
    pub fn is_alive(&mut self) -> bool {
        !self.is_closed() && self.client.is_valid(Duration::from_secs(2)).is_ok()
    }

    /// From now on what is read ends where it is not wanted any more.
    pub fn limit(&mut self, limits: Option<Limits>) {
        self.limits = limits;
    }

    fn in_time(&self) -> Result<()> {
        if self.limits.as_ref().is_some_and(Limits::are_over) { Err(super::took_too_long()) } else { Ok(()) }
    }

    fn failed(&mut self, error: postgres::Error) -> Error {
        self.is_useless |= error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION);
        error.into()
    }

    pub fn execute(&mut self, sql: &str, values: &[Value<'_>], is_kept: bool) -> Result<u64> {
        let statement = self.statement(sql, is_kept)?;
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
        self.client.execute(&statement, &values).map_err(|e| self.failed(e))
    }

    pub fn each(&mut self, sql: &str, values: &[Value<'_>], is_kept: bool, see: &mut dyn FnMut(&Row<'_>) -> Result<()>) -> Result<()> {
        self.in_time()?;
        let statement = self.statement(sql, is_kept)?;
        let mut rows = self.client.query_raw(&statement, values)?;
        let mut seen = 0;
        while let Some(row) = rows.next()? {
            see(&Row::Postgres(&row))?;
            seen += 1;
            if seen % SEEN == 0 && self.limits.as_ref().is_some_and(Limits::are_over) {
                return Err(super::took_too_long());
            }
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
        self.client.batch_execute(sql).map_err(|e| self.failed(e))
    }

    fn statement(&mut self, sql: &str, is_kept: bool) -> Result<Statement> {
        if let Some(known) = self.prepared.get(sql) {
            return Ok(known.clone());
        }
        let statement = self.client.prepare(&numbered(sql)).map_err(|e| self.failed(e))?;
        if is_kept {
            if self.prepared.len() >= PREPARED {
                self.prepared.clear();
            }
            self.prepared.insert(sql.to_string(), statement.clone());
        }
        Ok(statement)
    }
}

/// An error with what is behind it: the first alone often says only that there was one.
pub(super) fn in_full(error: &dyn StdError) -> String {
    let (mut text, mut next) = (error.to_string(), error.source());
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

/// A definition of tables as PostgreSQL wants it: whole numbers of 64 bits, numbers that are given by the database, texts compared by their bytes.
pub(crate) fn definition(sqlite: &str) -> String {
    let numbered = "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY";
    let text = sqlite.replace("INTEGER PRIMARY KEY AUTOINCREMENT", numbered).replace("INTEGER PRIMARY KEY", numbered);
    let text = text.replace(" INTEGER ", " BIGINT ").replace(" BLOB ", " BYTEA ").replace(" WITHOUT ROWID", "");
    // An index of PostgreSQL takes 2 700 bytes of a row, and spans may be called by more than that.
    let text = text.replace("ON spans (trace, name, type, status, start_time, duration)", "ON spans (trace, start_time, id)");
    text.replace(" TEXT ", " TEXT COLLATE \"C\" ").replace(" TEXT,", " TEXT COLLATE \"C\",").replace(" TEXT\n", " TEXT COLLATE \"C\"\n")
}

/// `?1` as `$1`; no text of ours has a question mark before a digit otherwise.
pub(super) fn numbered(sql: &str) -> String {
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
            Value::Text(value) => escaped(value).to_sql(of, out),
            Value::Bytes(value) => value.as_ref().to_sql(of, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// Stands before what PostgreSQL's texts cannot hold; of those characters that mean nothing in Unicode.
const ESCAPE: char = '\u{e000}';

/// A text without NUL, which PostgreSQL has none of.
fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', ESCAPE]) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace(ESCAPE, "\u{e000}1").replace('\0', "\u{e000}0"))
}

/// A text that may have been stored so.
pub(super) struct Text(String);

impl From<Text> for String {
    fn from(text: Text) -> String {
        if text.0.contains(ESCAPE) { text.0.replace("\u{e000}0", "\0").replace("\u{e000}1", "\u{e000}") } else { text.0 }
    }
}

impl<'a> FromSql<'a> for Text {
    fn from_sql(of: &Type, raw: &'a [u8]) -> Result<Text, Box<dyn StdError + Sync + Send>> {
        String::from_sql(of, raw).map(Text)
    }

    fn accepts(of: &Type) -> bool {
        <String as FromSql>::accepts(of)
    }
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
        let is_io = |e: &(dyn StdError + 'static)| e.downcast_ref::<std::io::Error>().is_some();
        // What is over by itself: connections, what another transaction is in the way of, what there is too little of, an end by somebody else.
        let passes = |code: &SqlState| {
            ["08", "40", "53", "57"].iter().any(|class| code.code().starts_with(class))
                || [SqlState::LOCK_NOT_AVAILABLE, SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT, SqlState::READ_ONLY_SQL_TRANSACTION]
                    .contains(code)
        };
        if error.is_closed() || error.source().is_some_and(is_io) || error.code().is_some_and(passes) {
            tracing::error!(%error, "the tracking store's database is away");
            return Error::new(ErrorCode::TemporarilyUnavailable, "the database is away; send again in a moment");
        }
        Error::internal(&in_full(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_as_they_were() {
        for text in ["", "plain", "\0", "a\0b\0", "\u{e000}", "\u{e000}0", "\0\u{e000}1\0\u{e000}\u{e000}0"] {
            let stored = escaped(text).into_owned();
            assert!(!stored.contains('\0'));
            assert_eq!(String::from(Text(stored)), text);
        }
    }

    #[test]
    fn definitions_are_in_the_words_of_postgresql() {
        let table = "CREATE TABLE t (\n    id   INTEGER PRIMARY KEY AUTOINCREMENT,\n    name TEXT NOT NULL,\n    n    INTEGER NOT NULL,\n    body BLOB NOT NULL,\n    more TEXT\n) WITHOUT ROWID;";
        let want = "CREATE TABLE t (\n    id   BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,\n    name TEXT COLLATE \"C\" NOT NULL,\n    n    BIGINT NOT NULL,\n    body BYTEA NOT NULL,\n    more TEXT COLLATE \"C\"\n);";
        assert_eq!(definition(table), want);
    }

    #[test]
    fn an_address_that_is_none_is_refused_with_what_to_write() {
        for bad in ["", "localhost", "mysql://h/d", "postgresql://h:port/d", "postgresql://h/d?sslmode=perhaps"] {
            let error = config(bad).unwrap_err();
            assert!(error.message.contains("hint: write it like postgresql://"), "{bad}: {error}");
        }
        assert_eq!(config("postgres://u@h/d").unwrap().get_dbname(), Some("d"));
    }
}
