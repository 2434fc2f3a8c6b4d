//! What is done about a client's commands, and each message of the simple protocol.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::channel::oneshot;
use futures::sink::{Sink, SinkExt};
use pgwire::api::cancel::DefaultCancelHandler;
use pgwire::api::portal::Format;
use pgwire::api::query::{SimpleQueryHandler, send_ready_for_query};
use pgwire::api::results::Response;
use pgwire::api::stmt::StoredStatement;
use pgwire::api::store::PortalStore;
use pgwire::api::{ClientInfo, ClientPortalStore, ConnectionHandle, ConnectionManager, PgWireConnectionState, Type};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::{EmptyQueryResponse, TransactionStatus};
use pgwire::messages::simplequery::Query;
use pgwire::messages::startup::ParameterStatus;
use tokio::sync::{Mutex, Semaphore};

use super::Login;
use super::login::Door;
use super::rows::{Rows, binary};
use super::send::{complete, copy, described, pass, send};
use super::state::{Stmt, state};
use crate::command::{self, Command, CopyFormat};
use crate::engine::{Engine, outdated};
use crate::error::{self, SqlError};
use crate::prepared::Prepared;
use crate::session::Session;

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
    pub engine: Arc<Engine>,
    login: Arc<dyn Login>,
}

/// What a statement came to.
pub enum Done {
    Rows(Rows, &'static str),
    /// Rows of a cursor: its name, how many at most, and whether they are only passed over.
    Fetch(String, (Rows, bool), usize, bool),
    Copy(Rows, CopyFormat),
    Tag(String),
    /// A setting that clients follow, and the tag.
    Set(&'static str, ParameterStatus),
}

/// Told when somebody wants the statement to end.
pub async fn cancel<C: ClientInfo>(client: &C) -> PgWireResult<oneshot::Receiver<()>> {
    let missing = || PgWireError::from(SqlError::new("08P01", "nobody has logged in"));
    let handle = client.session_extensions().get::<Arc<ConnectionHandle>>().ok_or_else(missing)?;
    Ok(handle.start_query().await)
}

/// Waits for something, or for somebody to say that it is not wanted any more.
pub async fn canceled_by<T>(task: impl Future<Output = error::Result<T>> + Unpin, cancel: &mut oneshot::Receiver<()>) -> error::Result<T> {
    match futures::future::select(task, cancel).await {
        futures::future::Either::Left((done, _)) => done,
        futures::future::Either::Right(_) => Err(SqlError::new(error::CANCELED, "canceling statement due to user request")),
    }
}

impl Asks {
    /// The session of a client that may still ask, with what it may see by now.
    pub async fn session<C: ClientInfo>(&self, client: &C) -> PgWireResult<Session> {
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
    pub async fn prepare(&self, command: &Command, session: &Session, declared: &[Option<Type>]) -> error::Result<Option<Prepared>> {
        match command {
            Command::Ask(statement) | Command::Declare { statement, .. } | Command::Copy { statement, .. } => {
                self.engine.prepare(statement.clone(), session, declared).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// A prepared statement as it is understood by now, after what its client may see has changed.
    pub async fn renewed<C>(&self, client: &mut C, statement: Arc<StoredStatement<Stmt>>) -> PgWireResult<Arc<StoredStatement<Stmt>>>
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
        let Some(now) = now.map(|now| now.is_like(before).map(|alike| alike.then_some(now))).transpose()?.flatten() else {
            // The client has been told of other columns.
            return Err(outdated().into());
        };
        let stmt = Stmt { command: command.clone(), prepared: Some(now) };
        let renewed = Arc::new(StoredStatement::new(statement.id.clone(), stmt, statement.parameter_types.clone()));
        client.portal_store().put_statement(Arc::clone(&renewed));
        Ok(renewed)
    }

    /// Forgets what a command tells to forget of what drivers keep.
    pub async fn forget<C: ClientInfo + ClientPortalStore>(client: &C, command: &Command) -> PgWireResult<()>
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
    pub async fn perform<C>(
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
    pub async fn serve<C>(
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
    pub async fn columns<C: ClientInfo>(&self, client: &C, stmt: &Stmt) -> PgWireResult<Option<Vec<(String, Type)>>> {
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
pub fn is_possible<C: ClientInfo>(client: &C, command: &Command) -> error::Result<()> {
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
