//! What is done about each message of a client.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use futures::channel::oneshot;
use futures::sink::{Sink, SinkExt};
use pgwire::api::cancel::DefaultCancelHandler;
use pgwire::api::portal::{Format, Portal};
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler, send_ready_for_query};
use pgwire::api::results::{DescribePortalResponse, DescribeStatementResponse, FieldInfo, Response};
use pgwire::api::stmt::{QueryParser, StoredStatement};
use pgwire::api::store::{Entry, PortalStore};
use pgwire::api::{ClientInfo, ClientPortalStore, ConnectionHandle, ConnectionManager, DEFAULT_NAME, PgWireConnectionState, Type};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::copy::{CopyData, CopyDone, CopyOutResponse};
use pgwire::messages::data::RowDescription;
use pgwire::messages::extendedquery::{
    Bind, BindComplete, Close, CloseComplete, Describe, Execute, Parse, ParseComplete, PortalSuspended, Sync as PgSync,
    TARGET_TYPE_BYTE_PORTAL, TARGET_TYPE_BYTE_STATEMENT,
};
use pgwire::messages::response::{CommandComplete, EmptyQueryResponse, TransactionStatus};
use pgwire::messages::simplequery::Query;
use pgwire::messages::startup::ParameterStatus;
use tokio::sync::{Mutex, Semaphore};

use super::login::Door;
use super::rows::{Rows, binary, fields, is_name};
use super::{Identity, Login};
use crate::command::{self, Command, CopyFormat, CopyKind};
use crate::encode::parameter;
use crate::engine::{Engine, Prepared, outdated};
use crate::error::{self, SqlError};
use crate::session::Session;

/// What one client has made so far.
pub struct State {
    session: Session,
    /// Whom it let in; none: the door was open.
    who: Option<Identity>,
    /// Each with whether it outlives its transaction.
    cursors: HashMap<String, (Rows, bool)>,
    /// Portals that have rows left.
    portals: HashMap<String, Rows>,
    /// Portals that had rows left when what their client may see changed.
    gone: HashSet<String>,
    statements: Sizes,
    bound: Sizes,
}

/// Cursors and portals with rows left, of one client at a time.
const OPEN: usize = 32;
/// Prepared statements of one client at a time, and bytes of their texts and plans.
const STATEMENTS: (usize, usize) = (1000, 16 << 20);
/// Portals of one client at a time, and bytes of their parameters.
const PORTALS: (usize, usize) = (200, 16 << 20);

/// How large things with names are.
struct Sizes {
    what: &'static str,
    most: (usize, usize),
    sizes: HashMap<String, usize>,
}

impl Sizes {
    fn new(what: &'static str, most: (usize, usize)) -> Sizes {
        Sizes { what, most, sizes: HashMap::new() }
    }

    /// Takes one in, in place of what was called like it.
    fn add(&mut self, name: &str, size: usize) -> error::Result<()> {
        let old = self.sizes.remove(name);
        let bytes = self.sizes.values().sum::<usize>().saturating_add(size);
        if self.sizes.len() == self.most.0 || bytes > self.most.1 {
            let (count, bytes) = self.most;
            if let Some(old) = old {
                self.sizes.insert(name.to_owned(), old);
            }
            let message = format!("a client has at most {count} {}, of {bytes} bytes together", self.what);
            return Err(SqlError::new("53400", message).hint("close those that are not needed"));
        }
        self.sizes.insert(name.to_owned(), size);
        Ok(())
    }
}

impl State {
    pub fn new(session: Session, who: Option<Identity>) -> State {
        let (statements, bound) = (Sizes::new("prepared statements", STATEMENTS), Sizes::new("portals", PORTALS));
        State { session, who, cursors: HashMap::new(), portals: HashMap::new(), gone: HashSet::new(), statements, bound }
    }

    /// Whether one more may be open.
    fn has_room(&self) -> error::Result<()> {
        match self.cursors.len() + self.portals.len() < OPEN {
            true => Ok(()),
            false => {
                let message = format!("a client has at most {OPEN} cursors and portals with rows left");
                Err(SqlError::new("53000", message).hint("close some"))
            }
        }
    }
}

/// A statement that was parsed and waits to be run.
#[derive(Clone)]
pub struct Stmt {
    command: Command,
    prepared: Option<Prepared>,
}

/// Bytes of a text in an error: clients take messages of 30 000 bytes.
const TOLD: usize = 4096;

/// A text as it may stand in a message.
fn told(text: &str) -> String {
    let end = (0..=TOLD.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    let rest = if end < text.len() { "…" } else { "" };
    text[..end].replace('\0', "") + rest
}

impl From<SqlError> for PgWireError {
    fn from(e: SqlError) -> PgWireError {
        let mut info = ErrorInfo::new("ERROR".into(), e.code.into(), told(&e.message));
        info.severity_nonlocalized = Some("ERROR".into());
        info.hint = e.hint.as_deref().map(told);
        info.position = e.position.map(|position| position.to_string());
        PgWireError::UserError(Box::new(info))
    }
}

/// All handlers of one connection.
pub struct Handlers {
    pub asks: Arc<Asks>,
    pub door: Arc<Door>,
    pub cancel: Arc<DefaultCancelHandler>,
}

impl Handlers {
    pub fn new(engine: &Arc<Engine>, login: &Arc<dyn Login>, manager: &Arc<ConnectionManager>, places: &Arc<Semaphore>) -> Handlers {
        let (login, manager, places) = (Arc::clone(login), Arc::clone(manager), Arc::clone(places));
        let asks = Asks { engine: Arc::clone(engine), login: Arc::clone(&login) };
        let (database, proof) = (engine.database().to_owned(), Mutex::default());
        let door = Door { login, manager: Arc::clone(&manager), database, places, proof };
        Handlers { asks: Arc::new(asks), door: Arc::new(door), cancel: Arc::new(DefaultCancelHandler::new(manager)) }
    }
}

/// Runs statements.
#[derive(Clone)]
pub struct Asks {
    engine: Arc<Engine>,
    login: Arc<dyn Login>,
}

/// What a statement came to.
enum Done {
    Rows(Rows, &'static str),
    /// Rows of a cursor: its name, how many at most, and whether they are only passed over.
    Fetch(String, (Rows, bool), usize, bool),
    Copy(Rows, CopyFormat),
    Tag(String),
    /// A setting that clients follow, and the tag.
    Set(&'static str, ParameterStatus),
}

/// Whether somebody has logged in.
pub fn is_in<C: ClientInfo>(client: &C) -> bool {
    client.session_extensions().get::<Mutex<State>>().is_some()
}

fn state<C: ClientInfo>(client: &C) -> PgWireResult<Arc<Mutex<State>>> {
    let missing = || PgWireError::from(SqlError::new("08P01", "nobody has logged in"));
    client.session_extensions().get::<Mutex<State>>().ok_or_else(missing)
}

/// Told when somebody wants the statement to end.
async fn cancel<C: ClientInfo>(client: &C) -> PgWireResult<oneshot::Receiver<()>> {
    let missing = || PgWireError::from(SqlError::new("08P01", "nobody has logged in"));
    let handle = client.session_extensions().get::<Arc<ConnectionHandle>>().ok_or_else(missing)?;
    Ok(handle.start_query().await)
}

/// Waits for something, or for somebody to say that it is not wanted any more.
async fn canceled_by<T>(task: impl Future<Output = error::Result<T>> + Unpin, cancel: &mut oneshot::Receiver<()>) -> error::Result<T> {
    match futures::future::select(task, cancel).await {
        futures::future::Either::Left((done, _)) => done,
        futures::future::Either::Right(_) => Err(SqlError::new(error::CANCELED, "canceling statement due to user request")),
    }
}

fn complete(tag: impl Into<String>) -> PgWireBackendMessage {
    PgWireBackendMessage::CommandComplete(CommandComplete::new(tag.into()))
}

fn described(columns: &[(String, Type)], binary: &[bool]) -> PgWireBackendMessage {
    let fields = fields(columns, binary);
    PgWireBackendMessage::RowDescription(RowDescription::new(fields.iter().map(Into::into).collect()))
}

impl Asks {
    /// The session of a client that may still ask, with what it may see by now.
    async fn session<C: ClientInfo>(&self, client: &C) -> PgWireResult<Session> {
        let state = state(client)?;
        let mut state = state.lock().await;
        if let Some(rights) = self.login.rights(state.who.as_ref()) {
            if state.session.rights != rights {
                // Rows that are under way were found for who might see more, or other things.
                let portals: Vec<String> = state.portals.drain().map(|(name, _)| name).collect();
                state.gone.extend(portals);
                state.cursors.clear();
                state.session.rights = rights;
            }
            return Ok(state.session.clone());
        }
        let mut info = ErrorInfo::new("FATAL".into(), "57P01".into(), "the key of this connection opens nothing any more".into());
        info.hint = Some("connect with another: `kilter key create NAME --role read`, or --sql with what it is to see".into());
        Err(PgWireError::UserError(Box::new(info)))
    }

    /// Understands the question in a command, if there is one.
    async fn prepare(&self, command: &Command, session: &Session, declared: &[Option<Type>]) -> error::Result<Option<Prepared>> {
        match command {
            Command::Ask(statement) | Command::Declare { statement, .. } | Command::Copy { statement, .. } => {
                self.engine.prepare(Arc::clone(statement), session, declared).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// A prepared statement as it is understood by now, after what its client may see has changed.
    async fn renewed<C>(&self, client: &mut C, statement: Arc<StoredStatement<Stmt>>) -> PgWireResult<Arc<StoredStatement<Stmt>>>
    where
        C: ClientInfo + ClientPortalStore,
        C::PortalStore: PortalStore<Statement = Stmt>,
    {
        let session = self.session(client).await?;
        let Stmt { command, prepared: Some(before) } = &statement.statement else { return Ok(statement) };
        if self.engine.still_holds(before, &session.rights) {
            return Ok(statement);
        }
        let mut cancel = cancel(client).await?;
        let prepare = std::pin::pin!(self.prepare(command, &session, &statement.parameter_types));
        let now = canceled_by(prepare, &mut cancel).await?;
        let is_alike = |now: &Prepared| -> error::Result<bool> {
            Ok(now.names() == before.names() && now.types() == before.types() && now.parameters()? == before.parameters()?)
        };
        let Some(now) = now.map(|now| is_alike(&now).map(|alike| alike.then_some(now))).transpose()?.flatten() else {
            // The client has been told of other columns.
            return Err(outdated().into());
        };
        let stmt = Stmt { command: command.clone(), prepared: Some(now) };
        let renewed = Arc::new(StoredStatement::new(statement.id.clone(), stmt, statement.parameter_types.clone()));
        client.portal_store().put_statement(Arc::clone(&renewed));
        Ok(renewed)
    }

    /// Forgets what a command tells to forget of what drivers keep.
    async fn forget<C: ClientInfo + ClientPortalStore>(client: &C, command: &Command) -> PgWireResult<()>
    where
        C::PortalStore: PortalStore,
    {
        let state = state(client)?;
        let mut state = state.lock().await;
        let names: Vec<String> = match command {
            Command::Deallocate(Some(name)) => {
                if !state.statements.sizes.contains_key(name) {
                    return Err(SqlError::new("26000", format!("prepared statement \"{name}\" does not exist")).into());
                }
                vec![name.clone()]
            }
            Command::Deallocate(None) | Command::Discard => state.statements.sizes.keys().cloned().collect(),
            _ => return Ok(()),
        };
        for name in names {
            client.portal_store().rm_statement(&name);
            state.statements.sizes.remove(&name);
        }
        if let Command::Discard = command {
            client.portal_store().clear_portals();
            state.bound.sizes.clear();
        }
        Ok(())
    }

    /// Does what a command asks for, as far as no rows are sent.
    async fn perform<C>(
        &self,
        client: &mut C,
        command: &Command,
        prepared: Option<&Prepared>,
        parameters: Vec<datafusion::common::ScalarValue>,
        cancel: &mut oneshot::Receiver<()>,
    ) -> PgWireResult<Done>
    where
        C: ClientInfo,
    {
        let state = state(client)?;
        let mut state = state.lock().await;
        let tag = |tag: &str| Ok(Done::Tag(tag.to_owned()));
        is_possible(client, command)?;
        match command {
            Command::Ask(_) | Command::Copy { .. } | Command::Declare { .. } => {
                let prepared = prepared.ok_or_else(|| SqlError::new(error::INTERNAL, "the question was not understood"))?;
                if let Command::Declare { cursor, hold, .. } = command {
                    if !hold && client.transaction_status() == TransactionStatus::Idle {
                        return Err(SqlError::new("25P01", "DECLARE CURSOR can only be used in transaction blocks")
                            .hint("BEGIN, or WITH HOLD")
                            .into());
                    }
                    if state.cursors.contains_key(cursor) {
                        return Err(SqlError::new(error::DUPLICATE_CURSOR, format!("cursor \"{cursor}\" already exists")).into());
                    }
                    state.has_room()?;
                }
                let time = state.session.setting("statement_timeout").and_then(|text| span(&text));
                let answer = {
                    let run = std::pin::pin!(self.engine.run(prepared, &state.session, parameters, time));
                    canceled_by(run, cancel).await?
                };
                let rows = Rows::new(prepared, answer);
                match command {
                    Command::Declare { cursor, hold, .. } => {
                        state.cursors.insert(cursor.clone(), (rows, *hold));
                        tag("DECLARE CURSOR")
                    }
                    Command::Copy { format, .. } => Ok(Done::Copy(rows, format.clone())),
                    _ => Ok(Done::Rows(rows, "SELECT")),
                }
            }
            Command::Begin(words) => {
                client.set_transaction_status(TransactionStatus::Transaction);
                tag(words)
            }
            Command::End(words) => {
                let failed = client.transaction_status() == TransactionStatus::Error;
                client.set_transaction_status(TransactionStatus::Idle);
                state.cursors.retain(|_, (_, hold)| *hold);
                state.portals.clear();
                tag(if failed { "ROLLBACK" } else { words })
            }
            Command::Back => {
                if client.transaction_status() == TransactionStatus::Error {
                    client.set_transaction_status(TransactionStatus::Transaction);
                }
                tag("ROLLBACK")
            }
            Command::Nothing(words) => tag(words),
            Command::Set { name, value } => {
                let utf8 = value.to_lowercase().replace('-', "");
                if name == "client_encoding" && !["utf8", "unicode", "default"].contains(&utf8.as_str()) {
                    let message = format!("invalid value for parameter \"client_encoding\": \"{value}\"");
                    return Err(SqlError::new("22023", message).hint("everything is told in UTF8").into());
                }
                state.session.set(name, value)?;
                Ok(set("SET", &state.session))
            }
            Command::Reset(name) => {
                state.session.reset(name);
                Ok(set("RESET", &state.session))
            }
            Command::Discard => {
                state.session.reset("all");
                state.cursors.clear();
                state.portals.clear();
                Ok(set("DISCARD ALL", &state.session))
            }
            Command::Show(name) if name == "all" => {
                let rows: Vec<Vec<String>> =
                    state.session.settings().into_iter().map(|(name, value)| vec![name, value, String::new()]).collect();
                Ok(Done::Rows(Rows::fixed(&["name", "setting", "description"], &rows)?, "SHOW"))
            }
            Command::Show(name) => {
                let value = state.session.setting(name).ok_or_else(|| unknown_setting(name))?;
                Ok(Done::Rows(Rows::fixed(&[name.as_str()], &[vec![value]])?, "SHOW"))
            }
            Command::Fetch { cursor, rows, moves } => {
                let found = state.cursors.remove(cursor).ok_or_else(|| unknown_cursor(cursor))?;
                let most = match rows {
                    command::Rows::Next(rows) => *rows,
                    command::Rows::All => usize::MAX,
                };
                Ok(Done::Fetch(cursor.clone(), found, most, *moves))
            }
            Command::Close(Some(cursor)) => {
                state.cursors.remove(cursor).ok_or_else(|| unknown_cursor(cursor))?;
                tag("CLOSE CURSOR")
            }
            Command::Close(None) => {
                state.cursors.clear();
                tag("CLOSE CURSOR ALL")
            }
            Command::Deallocate(Some(_)) => tag("DEALLOCATE"),
            Command::Deallocate(None) => tag("DEALLOCATE ALL"),
        }
    }

    /// Does what a command asks for and sends what comes of it. `describe`: the columns are told of before their rows.
    async fn serve<C>(
        &self,
        client: &mut C,
        done: Done,
        format: &Format,
        describe: bool,
        cancel: &mut oneshot::Receiver<()>,
    ) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match done {
            Done::Tag(tag) => client.feed(complete(tag)).await?,
            Done::Set(tag, status) => {
                client.feed(PgWireBackendMessage::ParameterStatus(status)).await?;
                client.feed(complete(tag)).await?;
            }
            Done::Rows(mut rows, verb) => {
                let binary = binary(format, &rows.columns)?;
                if describe {
                    client.feed(described(&rows.columns, &binary)).await?;
                }
                let (sent, _) = send(client, &mut rows, &binary, usize::MAX, cancel).await?;
                let tag = if verb == "SHOW" { verb.to_owned() } else { format!("{verb} {sent}") };
                client.feed(complete(tag)).await?;
            }
            Done::Fetch(cursor, (mut rows, hold), most, moves) => {
                let binary = binary(format, &rows.columns)?;
                if describe && !moves {
                    client.feed(described(&rows.columns, &binary)).await?;
                }
                let sent = match moves {
                    true => pass(&mut rows, most, cancel).await,
                    false => send(client, &mut rows, &binary, most, cancel).await.map(|(sent, _)| sent),
                };
                // It is there after a failure, too.
                state(client)?.lock().await.cursors.insert(cursor, (rows, hold));
                let sent = sent?;
                client.feed(complete(format!("{} {sent}", if moves { "MOVE" } else { "FETCH" }))).await?;
            }
            Done::Copy(mut rows, format) => {
                let sent = copy(client, &mut rows, format, cancel).await?;
                client.feed(complete(format!("COPY {sent}"))).await?;
            }
        }
        Ok(())
    }

    /// The columns that a statement gives; none: it gives no rows.
    async fn columns<C: ClientInfo>(&self, client: &C, stmt: &Stmt) -> PgWireResult<Option<Vec<(String, Type)>>> {
        let text = |name: &str| (name.to_owned(), Type::TEXT);
        Ok(match (&stmt.command, &stmt.prepared) {
            (Command::Ask(_), Some(prepared)) => Some(prepared.names().into_iter().zip(prepared.types()).collect()),
            (Command::Show(name), _) if name == "all" => Some(vec![text("name"), text("setting"), text("description")]),
            (Command::Show(name), _) => Some(vec![text(name)]),
            (Command::Fetch { cursor, moves: false, .. }, _) => {
                let state = state(client)?;
                let state = state.lock().await;
                let (rows, _) = state.cursors.get(cursor).ok_or_else(|| unknown_cursor(cursor))?;
                Some(rows.columns.as_ref().clone())
            }
            _ => None,
        })
    }
}

/// In a transaction that has failed there is nothing but its end.
fn is_possible<C: ClientInfo>(client: &C, command: &Command) -> error::Result<()> {
    let has_failed = client.transaction_status() == TransactionStatus::Error;
    match has_failed && !matches!(command, Command::End(_) | Command::Back) {
        true => {
            Err(SqlError::new(error::FAILED_TRANSACTION, "current transaction is aborted, commands ignored until end of transaction block"))
        }
        false => Ok(()),
    }
}

fn set(tag: &'static str, session: &Session) -> Done {
    let name = "application_name";
    Done::Set(tag, ParameterStatus::new(name.into(), session.setting(name).unwrap_or_default()))
}

fn unknown_cursor(cursor: &str) -> SqlError {
    SqlError::new(error::UNDEFINED_CURSOR, format!("cursor \"{cursor}\" does not exist"))
}

fn unknown_setting(name: &str) -> SqlError {
    SqlError::new(error::UNDEFINED_OBJECT, format!("unrecognized configuration parameter \"{name}\""))
}

/// A length of time as settings have it: milliseconds, or with a unit. None: no limit.
fn span(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.find(|x: char| !x.is_ascii_digit()).unwrap_or(text.len());
    let n: u64 = text[..digits].parse().ok().filter(|n| *n > 0)?;
    let unit = match text[digits..].trim() {
        "" | "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(n.saturating_mul(unit)))
}

/// Sends up to `most` rows; how many, and whether there may be more.
async fn send<C>(
    client: &mut C,
    rows: &mut Rows,
    binary: &[bool],
    most: usize,
    cancel: &mut oneshot::Receiver<()>,
) -> PgWireResult<(usize, bool)>
where
    C: Sink<PgWireBackendMessage> + Unpin + Send,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let mut sent = 0;
    while sent < most {
        let Some(row) = rows.row(binary, cancel).await? else { return Ok((sent, false)) };
        client.feed(PgWireBackendMessage::DataRow(row)).await?;
        sent += 1;
    }
    Ok((sent, true))
}

async fn pass(rows: &mut Rows, most: usize, cancel: &mut oneshot::Receiver<()>) -> PgWireResult<usize> {
    let mut passed = 0;
    while passed < most && rows.row(&[], cancel).await?.is_some() {
        passed += 1;
    }
    Ok(passed)
}

async fn copy<C>(client: &mut C, rows: &mut Rows, format: CopyFormat, cancel: &mut oneshot::Receiver<()>) -> PgWireResult<usize>
where
    C: Sink<PgWireBackendMessage> + Unpin + Send,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let width = rows.columns.len();
    let is_binary = format.kind == CopyKind::Binary;
    if is_binary && let Some((name, _)) = rows.columns.iter().find(|(_, told)| is_name(told)) {
        return Err(SqlError::new(error::UNSUPPORTED, format!("column \"{name}\" has no binary form here")).into());
    }
    let code = i16::from(is_binary);
    let response = CopyOutResponse::new(code as i8, width as i16, vec![code; width]);
    client.feed(PgWireBackendMessage::CopyOutResponse(response)).await?;
    let mut out = BytesMut::new();
    let mut sent = 0;
    if is_binary {
        out.put_slice(b"PGCOPY\n\xff\r\n\0");
        out.put_slice(&[0; 8]);
    }
    if format.header {
        let names = rows.columns.iter().map(|(name, _)| Some(name.clone())).collect();
        out.put_slice(line(&format, names).as_bytes());
    }
    loop {
        if is_binary {
            let start = out.len();
            out.put_i16(width as i16);
            if !rows.write(&vec![true; width], cancel, &mut out).await? {
                out.truncate(start);
                out.put_i16(-1);
                break;
            }
        } else {
            let Some(texts) = rows.texts(cancel).await? else { break };
            out.put_slice(line(&format, texts).as_bytes());
        }
        sent += 1;
        // Clients count on a message for each row.
        if !out.is_empty() {
            client.feed(PgWireBackendMessage::CopyData(CopyData::new(out.split().freeze()))).await?;
        }
    }
    if !out.is_empty() {
        client.feed(PgWireBackendMessage::CopyData(CopyData::new(Bytes::from(out)))).await?;
    }
    client.feed(PgWireBackendMessage::CopyDone(CopyDone::new())).await?;
    Ok(sent)
}

/// A row as COPY writes it.
fn line(format: &CopyFormat, texts: Vec<Option<String>>) -> String {
    let delimiter = format.delimiter.to_string();
    let text = |text: Option<String>| match (format.kind, text) {
        (_, None) => format.null.clone(),
        (CopyKind::Csv, Some(text)) => {
            // What null stands for is a text only in quotes.
            let is_plain = text != format.null && !text.contains(['"', '\n', '\r', format.delimiter]);
            if is_plain { text } else { format!("\"{}\"", text.replace('"', "\"\"")) }
        }
        (_, Some(text)) => {
            let escaped = text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r");
            if format.delimiter == '\t' { escaped } else { escaped.replace(format.delimiter, &format!("\\{delimiter}")) }
        }
    };
    texts.into_iter().map(text).collect::<Vec<_>>().join(&delimiter) + "\n"
}

#[async_trait]
impl SimpleQueryHandler for Asks {
    async fn on_query<C>(&self, client: &mut C, query: Query) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        client.set_state(PgWireConnectionState::QueryInProgress);
        self.session(client).await?;
        let mut cancel = cancel(client).await?;
        let commands = self.engine.parse(query.query).await?;
        if commands.is_empty() {
            client.feed(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new())).await?;
        }
        for command in commands {
            is_possible(client, &command)?;
            let session = self.session(client).await?;
            let prepare = std::pin::pin!(self.prepare(&command, &session, &[]));
            let prepared = canceled_by(prepare, &mut cancel).await?;
            let done = self.perform(client, &command, prepared.as_ref(), Vec::new(), &mut cancel).await?;
            Asks::forget(client, &command).await?;
            self.serve(client, done, &Format::UnifiedText, true, &mut cancel).await?;
        }
        client.set_state(PgWireConnectionState::ReadyForQuery);
        let status = client.transaction_status();
        send_ready_for_query(client, status).await
    }

    async fn do_query<C>(&self, _: &mut C, _: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        // All is done where the message is taken.
        Ok(Vec::new())
    }
}

#[async_trait]
impl QueryParser for Asks {
    type Statement = Stmt;

    async fn parse_sql<C>(&self, client: &C, sql: &str, declared: &[Option<Type>]) -> PgWireResult<Option<Stmt>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let session = self.session(client).await?;
        let mut cancel = cancel(client).await?;
        let mut commands = self.engine.parse(sql.to_owned()).await?;
        if commands.len() > 1 {
            return Err(SqlError::new(error::SYNTAX, "cannot insert multiple commands into a prepared statement").into());
        }
        let Some(command) = commands.pop() else { return Ok(None) };
        is_possible(client, &command)?;
        let prepared = {
            let prepare = std::pin::pin!(self.prepare(&command, &session, declared));
            canceled_by(prepare, &mut cancel).await?
        };
        Ok(Some(Stmt { command, prepared }))
    }

    fn get_parameter_types(&self, stmt: &Stmt) -> PgWireResult<Vec<Type>> {
        Ok(stmt.prepared.as_ref().map(Prepared::parameters).transpose()?.unwrap_or_default())
    }

    fn get_result_schema(&self, _: &Stmt, _: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        // Told where a statement or portal is described.
        Ok(Vec::new())
    }
}

/// The types of a statement's parameters: as its client says, or as the question tells.
fn parameter_types(statement: &StoredStatement<Stmt>) -> PgWireResult<Vec<Type>> {
    let told = statement.statement.prepared.as_ref().map(Prepared::parameters).transpose()?.unwrap_or_default();
    let count = told.len().max(statement.parameter_types.len());
    let one = |i: usize| {
        let said = statement.parameter_types.get(i).cloned().flatten().filter(|said| *said != Type::UNKNOWN);
        said.or_else(|| told.get(i).cloned()).unwrap_or(Type::TEXT)
    };
    Ok((0..count).map(one).collect())
}

#[async_trait]
impl ExtendedQueryHandler for Asks {
    type Statement = Stmt;
    type QueryParser = Asks;

    fn query_parser(&self) -> Arc<Asks> {
        Arc::new(self.clone())
    }

    async fn on_parse<C>(&self, client: &mut C, message: Parse) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Stmt>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.name.clone().unwrap_or_else(|| DEFAULT_NAME.to_owned());
        let text = message.query.len();
        state(client)?.lock().await.statements.add(&name, text)?;
        let mut parsed = StoredStatement::parse(client, &message, self.query_parser()).await;
        if let Ok(Some(statement)) = &parsed {
            let size = text.saturating_add(statement.statement.prepared.as_ref().map_or(0, Prepared::size));
            if let Err(e) = state(client)?.lock().await.statements.add(&name, size) {
                parsed = Err(e.into());
            }
        }
        match parsed {
            Ok(Some(statement)) => client.portal_store().put_statement(Arc::new(statement)),
            Ok(None) => client.portal_store().put_empty_statement(&name),
            Err(e) => {
                client.portal_store().rm_statement(&name);
                state(client)?.lock().await.statements.sizes.remove(&name);
                return Err(e);
            }
        }
        Ok(client.feed(PgWireBackendMessage::ParseComplete(ParseComplete::new())).await?)
    }

    async fn on_bind<C>(&self, client: &mut C, message: Bind) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Stmt>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let statement = message.statement_name.as_deref().unwrap_or(DEFAULT_NAME);
        let name = message.portal_name.as_deref().unwrap_or(DEFAULT_NAME);
        let Some(statement) = client.portal_store().get_statement(statement) else {
            return Err(PgWireError::StatementNotFound(told(statement)));
        };
        {
            let state = state(client)?;
            let mut state = state.lock().await;
            let size = message.parameters.iter().flatten().map(Bytes::len).sum::<usize>();
            state.bound.add(name, size)?;
            // What the last one of that name had left.
            state.portals.remove(name);
            state.gone.remove(name);
        }
        match statement {
            Entry::Value(statement) => {
                let renewed = self.renewed(client, statement).await;
                if renewed.is_err() {
                    // The last one of that name is gone, as it is when a new one takes its place.
                    client.portal_store().rm_portal(name);
                    state(client)?.lock().await.bound.sizes.remove(name);
                }
                let statement = renewed?;
                client.portal_store().put_portal(Arc::new(Portal::try_new(&message, statement)?));
            }
            Entry::Empty if message.parameters.is_empty() => client.portal_store().put_empty_portal(name),
            Entry::Empty => return Err(SqlError::new("08P01", "an empty statement has no parameters").into()),
        }
        Ok(client.feed(PgWireBackendMessage::BindComplete(BindComplete::new())).await?)
    }

    async fn on_close<C>(&self, client: &mut C, message: Close) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Stmt>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        {
            let state = state(client)?;
            let mut state = state.lock().await;
            match message.target_type {
                TARGET_TYPE_BYTE_STATEMENT => {
                    client.portal_store().rm_statement(name);
                    state.statements.sizes.remove(name);
                }
                TARGET_TYPE_BYTE_PORTAL => {
                    client.portal_store().rm_portal(name);
                    state.bound.sizes.remove(name);
                    state.portals.remove(name);
                    // A cursor is a portal, too.
                    state.cursors.remove(name);
                }
                _ => {}
            }
        }
        Ok(client.feed(PgWireBackendMessage::CloseComplete(CloseComplete::new())).await?)
    }

    async fn on_execute<C>(&self, client: &mut C, message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Stmt>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.name.clone().unwrap_or_else(|| DEFAULT_NAME.to_owned());
        let portal = match client.portal_store().get_portal(&name) {
            Some(Entry::Value(portal)) => portal,
            Some(Entry::Empty) => {
                client.feed(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new())).await?;
                return Ok(());
            }
            None => return Err(PgWireError::PortalNotFound(told(&name))),
        };
        let session = self.session(client).await?;
        let stmt = &portal.statement.statement;
        // Rows that it had left are gone, even if the client may see them again by now.
        let is_gone = state(client)?.lock().await.gone.contains(&name);
        if is_gone || stmt.prepared.as_ref().is_some_and(|prepared| !prepared.is_for(&session.rights)) {
            return Err(outdated().into());
        }
        client.set_state(PgWireConnectionState::QueryInProgress);
        let mut cancel = cancel(client).await?;
        let most = usize::try_from(message.max_rows).ok().filter(|rows| *rows > 0).unwrap_or(usize::MAX);
        let begun = {
            let begun = portal.state();
            let mut begun = begun.lock().await;
            std::mem::replace(&mut *begun, pgwire::api::portal::PortalExecutionState::Finished)
        };
        let is_new = matches!(begun, pgwire::api::portal::PortalExecutionState::Initial);
        let held = state(client)?.lock().await.portals.remove(&name);
        let done = match (is_new, held) {
            (true, _) => {
                let parameters = bound(&portal)?;
                let done = self.perform(client, &stmt.command, stmt.prepared.as_ref(), parameters, &mut cancel).await?;
                Asks::forget(client, &stmt.command).await?;
                done
            }
            (false, Some(rows)) => Done::Rows(rows, "SELECT"),
            (false, None) => Done::Tag("SELECT 0".into()),
        };
        match done {
            Done::Rows(mut rows, "SELECT") if most < usize::MAX => {
                let binary = binary(&portal.result_column_format, &rows.columns)?;
                let (sent, more) = send(client, &mut rows, &binary, most, &mut cancel).await?;
                if more {
                    let state = state(client)?;
                    let mut state = state.lock().await;
                    state.has_room()?;
                    state.portals.insert(name, rows);
                    drop(state);
                    client.feed(PgWireBackendMessage::PortalSuspended(PortalSuspended::new())).await?;
                } else {
                    client.feed(complete(format!("SELECT {sent}"))).await?;
                }
            }
            done => self.serve(client, done, &portal.result_column_format, false, &mut cancel).await?,
        }
        client.set_state(PgWireConnectionState::ReadyForQuery);
        Ok(())
    }

    async fn on_sync<C>(&self, client: &mut C, _: PgSync) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Stmt>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        // Portals live as long as their transaction, which ends here where none was begun.
        if client.transaction_status() == TransactionStatus::Idle {
            client.portal_store().clear_portals();
            if let Ok(state) = state(client) {
                let mut state = state.lock().await;
                state.portals.clear();
                state.gone.clear();
                state.bound.sizes.clear();
            }
        }
        let status = client.transaction_status();
        send_ready_for_query(client, status).await
    }

    async fn on_describe<C>(&self, client: &mut C, message: Describe) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Stmt>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        // A cursor is a portal, too.
        if message.target_type == b'P'
            && let Some(name) = &message.name
            && client.portal_store().get_portal(name).is_none()
        {
            let columns = state(client)?.lock().await.cursors.get(name).map(|(rows, _)| Arc::clone(&rows.columns));
            if let Some(columns) = columns {
                client.feed(described(&columns, &vec![false; columns.len()])).await?;
                return Ok(());
            }
        }
        self._on_describe(client, message).await
    }

    async fn do_describe_statement<C>(&self, client: &mut C, target: &StoredStatement<Stmt>) -> PgWireResult<DescribeStatementResponse>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Stmt>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let parameters = parameter_types(target)?;
        let columns = self.columns(client, &target.statement).await?.unwrap_or_default();
        Ok(DescribeStatementResponse::new(parameters, fields(&columns, &vec![false; columns.len()])))
    }

    async fn do_describe_portal<C>(&self, client: &mut C, target: &Portal<Stmt>) -> PgWireResult<DescribePortalResponse>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Stmt>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let columns = self.columns(client, &target.statement.statement).await?.unwrap_or_default();
        let binary = binary(&target.result_column_format, &columns)?;
        Ok(DescribePortalResponse::new(fields(&columns, &binary)))
    }

    async fn do_query<C>(&self, _: &mut C, _: &Portal<Stmt>, _: usize) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Stmt>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        // All is done where the message is taken.
        Ok(Response::EmptyQuery)
    }
}

/// The parameters of a portal.
fn bound(portal: &Portal<Stmt>) -> PgWireResult<Vec<datafusion::common::ScalarValue>> {
    let types = parameter_types(&portal.statement)?;
    if types.len() != portal.parameters.len() {
        let message =
            format!("bind message supplies {} parameters, but prepared statement requires {}", portal.parameters.len(), types.len());
        return Err(SqlError::new("08P01", message).into());
    }
    if let Format::Individual(formats) = &portal.parameter_format
        && formats.len() != types.len()
    {
        return Err(SqlError::new("08P01", "bind message has another number of formats than of parameters").into());
    }
    let one = |(i, (bytes, data_type)): (usize, (&Option<Bytes>, &Type))| {
        parameter(bytes.as_deref(), data_type, portal.parameter_format.is_binary(i)).map_err(PgWireError::from)
    };
    portal.parameters.iter().zip(&types).enumerate().map(one).collect()
}
