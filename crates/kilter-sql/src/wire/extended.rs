//! Prepared statements and portals: what is done about each message of the extended protocol.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::sink::{Sink, SinkExt};
use pgwire::api::portal::{Format, Portal};
use pgwire::api::query::{ExtendedQueryHandler, send_ready_for_query};
use pgwire::api::results::{DescribePortalResponse, DescribeStatementResponse, FieldInfo, Response};
use pgwire::api::stmt::{QueryParser, StoredStatement};
use pgwire::api::store::{Entry, PortalStore};
use pgwire::api::{ClientInfo, ClientPortalStore, DEFAULT_NAME, PgWireConnectionState, Type};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::extendedquery::{
    Bind, BindComplete, Close, CloseComplete, Describe, Execute, Parse, ParseComplete, PortalSuspended, Sync as PgSync,
    TARGET_TYPE_BYTE_PORTAL, TARGET_TYPE_BYTE_STATEMENT,
};
use pgwire::messages::response::{EmptyQueryResponse, TransactionStatus};

use super::handlers::{Asks, Done, cancel, canceled_by, is_possible};
use super::rows::{binary, fields};
use super::send::{complete, described, send};
use super::state::{Stmt, state, told};
use crate::encode::parameter;
use crate::engine::outdated;
use crate::error::{self, SqlError};
use crate::prepared::Prepared;

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
