//! What is done about each call.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionCancelQueryResult, ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest,
    ActionCreatePreparedStatementResult, Any, Command, DoPutPreparedStatementResult, ProstMessageExt, TicketStatementQuery,
};
use arrow_flight::{
    Action, ActionType, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, Criteria, Empty, FlightData, FlightDescriptor,
    FlightEndpoint, FlightInfo, HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use bytes::Bytes;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use pgwire::api::Type;
use prost::Message;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::connection::{Caller, caller};
use super::kept::{Id, Owner, Room, Running, Statements, Waiting, id};
use super::{columns, facts};
use crate::answer::Answer;
use crate::encode::{arrow_type, parameter, pg_type};
use crate::engine::{Engine, outdated};
use crate::error::{READ_ONLY, Result, SYNTAX, SqlError, TOO_COMPLEX, UNSUPPORTED};
use crate::prepared::Prepared;

/// How long parameters may take to arrive, and how many clients may send some at a time.
const ARRIVAL: Duration = Duration::from_secs(30);
const ARRIVING: usize = 8;
/// Bytes of parameters.
const PARAMETERS: usize = 8 << 20;
/// A text that is asked as its ticket is brought is understood once more where other definitions came in between.
const TURNS: usize = 2;
/// About how many bytes of rows a message has.
const MESSAGE: usize = 1 << 20;

const CREATE_PREPARED: &str = "CreatePreparedStatement";
const CLOSE_PREPARED: &str = "ClosePreparedStatement";
const CANCEL: &str = "CancelFlightInfo";
const CANCEL_QUERY: &str = "CancelQuery";
const CLOSE_SESSION: &str = "CloseSession";
/// What can be done besides asking.
const ACTIONS: [(&str, &str); 5] = [
    (CREATE_PREPARED, "Prepares a question: ActionCreatePreparedStatementRequest, answered by ActionCreatePreparedStatementResult"),
    (CLOSE_PREPARED, "Forgets a prepared question: ActionClosePreparedStatementRequest"),
    (CANCEL, "Stops a question that runs: CancelFlightInfoRequest, answered by CancelFlightInfoResult"),
    (CANCEL_QUERY, "The same as older clients say it: ActionCancelQueryRequest, answered by ActionCancelQueryResult"),
    (CLOSE_SESSION, "Ends a session, of which nothing is kept: CloseSessionRequest, answered by CloseSessionResult"),
];
/// `CloseSessionResult { status: CLOSED }`, which the crate of the protocol does not have.
const CLOSED: &[u8] = &[8, 1];

/// A ticket that asks for the rows of a question: a number to stop it by, and the question. A question says nothing that whoever brings the ticket could not ask.
const QUESTION: u8 = b'q';
/// The same for a prepared question, by its number.
const PREPARED: u8 = b'p';

type Sent<T> = Pin<Box<dyn Stream<Item = std::result::Result<T, Status>> + Send>>;
type Told<T> = std::result::Result<Response<T>, Status>;

/// Answers calls.
pub struct Calls {
    engine: Arc<Engine>,
    statements: Statements<Waiting>,
    running: Arc<Running>,
    arriving: Semaphore,
}

fn invalid(what: impl std::fmt::Display) -> Status {
    SqlError::new("08P01", format!("the request makes no sense: {what}")).into()
}

fn read_only(what: &str) -> Status {
    SqlError::read_only(what).into()
}

fn command(bytes: &[u8]) -> std::result::Result<Command, Status> {
    Command::try_from(Any::decode(bytes).map_err(invalid)?).map_err(invalid)
}

/// What an action says, as it is packed into a message for anything.
fn packed<M: ProstMessageExt>(action: &Action) -> std::result::Result<M, Status> {
    let unpacked = Any::decode(&*action.body).map_err(invalid)?.unpack().map_err(invalid)?;
    unpacked.ok_or_else(|| invalid(format!("{} wants {}", action.r#type, M::type_url())))
}

fn outside_of_transactions(transaction: Option<&Bytes>) -> Result<()> {
    match transaction.is_none_or(|id| id.is_empty()) {
        true => Ok(()),
        false => Err(SqlError::new(READ_ONLY, "there are no transactions: everything is read only").hint("ask without one")),
    }
}

/// A ticket cut into its parts.
fn parts(handle: &[u8]) -> Option<(Id, u8, &[u8])> {
    let (id, rest) = handle.split_first_chunk()?;
    let (kind, rest) = rest.split_first()?;
    Some((*id, *kind, rest))
}

fn ticket(kind: u8, what: &[u8]) -> Result<Ticket> {
    let handle = [&id()?[..], &[kind], what].concat();
    Ok(Ticket::new(TicketStatementQuery { statement_handle: handle.into() }.as_any().encode_to_vec()))
}

impl Calls {
    pub fn new(engine: Arc<Engine>) -> Calls {
        let (statements, running) = (Statements::new(Room::default()), Arc::default());
        Calls { engine, statements, running, arriving: Semaphore::new(ARRIVING) }
    }

    /// What the rows of a command will be, and what to fetch them by.
    async fn announced(&self, asked: &Bytes, caller: &Caller) -> std::result::Result<(SchemaRef, Ticket), Status> {
        match command(asked)? {
            Command::CommandStatementQuery(query) => {
                outside_of_transactions(query.transaction_id.as_ref())?;
                let prepared = self.engine.ask(&query.query, &caller.session).await?;
                Ok((columns::told(&prepared.schema()), ticket(QUESTION, query.query.as_bytes())?))
            }
            Command::CommandPreparedStatementQuery(query) => {
                let (id, waiting) = self.waiting(&query.prepared_statement_handle, caller).await?;
                let (prepared, _) = to_run(waiting)?;
                Ok((columns::told(&prepared.schema()), ticket(PREPARED, &id)?))
            }
            other => {
                let batch = self.known(other, caller).await?;
                Ok((batch.schema(), Ticket::new(asked.clone())))
            }
        }
    }

    /// What is known without asking for rows.
    async fn known(&self, asked: Command, caller: &Caller) -> std::result::Result<RecordBatch, Status> {
        match asked {
            Command::CommandStatementSubstraitPlan(_) => {
                Err(SqlError::new(UNSUPPORTED, "plans of Substrait are not run").hint("ask in SQL").into())
            }
            asked => Ok(facts::answer(&self.engine, &caller.session.rights, asked).await?),
        }
    }

    /// Rows as they come. The statement ends when its stream is dropped.
    async fn rows(&self, handle: &[u8], caller: Caller) -> Result<Sent<FlightData>> {
        let unknown = || SqlError::new("08P01", "the ticket makes no sense").hint("ask for one: GetFlightInfo");
        let (id, kind, what) = parts(handle).ok_or_else(unknown)?;
        let mut run = self.running.begin(id, caller.owner)?;
        let begun = run.unless_stopped(async {
            let mut turns = 0;
            loop {
                turns += 1;
                let (prepared, parameters) = match kind {
                    QUESTION => {
                        let text = std::str::from_utf8(what).map_err(|_| unknown())?;
                        (self.engine.ask(text, &caller.session).await?, Vec::new())
                    }
                    PREPARED => to_run(self.waiting(what, &caller).await?.1)?,
                    _ => return Err(unknown()),
                };
                let holds = || self.engine.still_holds(&prepared, &caller.session.rights);
                match self.engine.run(&prepared, &caller.session, parameters, None).await {
                    Err(_) if kind == QUESTION && turns < TURNS && !holds() => {}
                    begun => return Ok((columns::told(&prepared.schema()), begun?)),
                }
            }
        });
        let (schema, answer): (SchemaRef, Answer) = begun.await?;
        let told = Arc::clone(&schema);
        let batches = stream::try_unfold((answer, run), move |(mut answer, mut run)| {
            let told = Arc::clone(&told);
            async move {
                let next = run.unless_stopped(answer.next()).await;
                let batch = next.and_then(|batch| batch.map(|batch| columns::as_told(&batch, &told)).transpose());
                match batch {
                    Ok(batch) => Ok(batch.map(|batch| (batch, (answer, run)))),
                    Err(e) => Err(FlightError::Tonic(Box::new(e.into()))),
                }
            }
        });
        // Columns are put into messages where they were made, and not on the threads that take calls.
        Ok(self.engine.threads().stream(sent(schema, batches)))
    }

    /// A prepared statement as it is understood by now: what its caller may see may have changed.
    async fn waiting(&self, handle: &[u8], caller: &Caller) -> Result<(Id, Waiting)> {
        let (id, waiting) = self.statements.get(handle, caller.owner)?;
        Ok((id, self.renewed(id, waiting, caller).await?))
    }

    async fn renewed(&self, id: Id, waiting: Waiting, caller: &Caller) -> Result<Waiting> {
        let holds = |prepared: &Prepared| self.engine.still_holds(prepared, &caller.session.rights);
        if holds(&waiting.prepared) && waiting.bound.as_ref().is_none_or(|(prepared, _)| holds(prepared)) {
            return Ok(waiting);
        }
        let prepared = self.engine.prepare(waiting.statement.clone(), &caller.session, &[]).await?;
        if waiting.bound.is_some() || !prepared.is_like(&waiting.prepared)? {
            // The client has been told of other columns, or what it gave has gone with the plan.
            return Err(outdated());
        }
        let waiting = Waiting { prepared, ..waiting };
        let size = waiting.size();
        self.statements.put(id, caller.owner, waiting.clone(), size)?;
        Ok(waiting)
    }

    async fn prepare(&self, query: ActionCreatePreparedStatementRequest, caller: &Caller) -> Result<ActionCreatePreparedStatementResult> {
        outside_of_transactions(query.transaction_id.as_ref())?;
        let text = query.query.len();
        let statement = self.engine.question(query.query).await?;
        let prepared = self.engine.prepare(statement.clone(), &caller.session, &[]).await?;
        let parameters = prepared.parameters()?;
        let dataset_schema = columns::bytes(&columns::told(&prepared.schema()))?;
        let field = |(i, told): (usize, &Type)| Field::new(format!("${}", i + 1), arrow_type(told), true);
        let parameter_schema = columns::bytes(&Schema::new(parameters.iter().enumerate().map(field).collect::<Vec<_>>()))?;
        let id = id()?;
        let waiting = Waiting { statement, prepared, parameters, bound: None, given: 0, text };
        let size = waiting.size();
        self.statements.put(id, caller.owner, waiting, size)?;
        Ok(ActionCreatePreparedStatementResult { prepared_statement_handle: id.to_vec().into(), dataset_schema, parameter_schema })
    }

    /// Gives a prepared statement its parameters: the one row that comes.
    async fn bind(
        &self,
        handle: &Bytes,
        messages: impl Stream<Item = std::result::Result<FlightData, Status>> + Send + 'static,
        caller: &Caller,
    ) -> std::result::Result<(), Status> {
        let (id, waiting) = self.statements.get(handle, caller.owner)?;
        let wanted = waiting.parameters.clone();
        let values = self.engine.threads().run(self.engine.until(), async move {
            Ok(match row(messages).await {
                Ok(row) => row.map(|row| values(&row, &wanted)).transpose().map(Option::unwrap_or_default).map_err(Status::from),
                Err(status) => Err(status),
            })
        });
        let values = values.await??;
        // What it was given before does not matter, and the key may have gone while these were on their way.
        let caller = &caller.clone().now()?;
        let waiting = self.renewed(id, Waiting { bound: None, given: 0, ..waiting }, caller).await?;
        let (declared, values): (Vec<Option<Type>>, Vec<ScalarValue>) = values.into_iter().unzip();
        must_match(values.len(), waiting.parameters.len())?;
        let (bound, given) = match values.is_empty() {
            true => (None, 0),
            false => {
                let statement = waiting.statement.clone();
                let (prepared, values, given) = self.engine.bind(statement, &caller.session, &declared, values).await?;
                (Some((prepared, values)), given)
            }
        };
        let waiting = Waiting { bound, given, ..waiting };
        let size = waiting.size();
        self.statements.put(id, caller.owner, waiting, size)?;
        Ok(())
    }

    /// Stops the statements that a description has tickets for.
    fn cancel(&self, info: Option<FlightInfo>, owner: Owner) -> std::result::Result<(), Status> {
        let tickets = info.into_iter().flat_map(|info| info.endpoint).filter_map(|endpoint| endpoint.ticket);
        let mut has_stopped = false;
        for ticket in tickets {
            if let Command::TicketStatementQuery(ticket) = command(&ticket.ticket)?
                && let Some((id, ..)) = parts(&ticket.statement_handle)
            {
                has_stopped |= self.running.stop(id, owner);
            }
        }
        // As the protocol wants it of what is over, or has not begun.
        if has_stopped { Ok(()) } else { Err(Status::not_found("no question of this description runs")) }
    }
}

/// The row that messages bring.
async fn row(
    messages: impl Stream<Item = std::result::Result<FlightData, Status>> + Send + 'static,
) -> std::result::Result<Option<RecordBatch>, Status> {
    let mut bytes = 0;
    let checked = messages.map(move |message| {
        let message = message?;
        bytes += message.data_header.len() + message.data_body.len();
        if bytes > PARAMETERS {
            return Err(SqlError::new(TOO_COMPLEX, format!("parameters have at most {PARAMETERS} bytes")).into());
        }
        columns::are_values(&message.data_header).map_err(Status::from)?;
        Ok(message)
    });
    let mut batches = FlightRecordBatchStream::new_from_flight_data(checked.map_err(|e: Status| FlightError::from(e)));
    let mut row: Option<RecordBatch> = None;
    while let Some(batch) = batches.try_next().await.map_err(unread)? {
        if batch.num_rows() + row.as_ref().map_or(0, RecordBatch::num_rows) > 1 {
            let e = SqlError::new(UNSUPPORTED, "a question takes one row of parameters at a time");
            return Err(e.hint("for a list of values: `column = ANY($1)` and an array").into());
        }
        if batch.num_rows() == 1 {
            row = Some(batch);
        }
    }
    Ok(row)
}

/// Why messages are no rows.
fn unread(e: FlightError) -> Status {
    match e {
        FlightError::Tonic(status) => *status,
        other => invalid(other),
    }
}

fn must_match(given: usize, wanted: usize) -> Result<()> {
    match given == wanted {
        true => Ok(()),
        false => {
            let message = format!("bind message supplies {given} parameters, but prepared statement requires {wanted}");
            Err(SqlError::new("08P01", message))
        }
    }
}

/// What of a statement is to be run.
fn to_run(waiting: Waiting) -> Result<(Prepared, Vec<ScalarValue>)> {
    match waiting.bound {
        Some(bound) => Ok(bound),
        None => must_match(0, waiting.parameters.len()).map(|()| (waiting.prepared, Vec::new())),
    }
}

/// Each parameter, and what its client says that it is. A text stands for whatever the question wants there.
fn values(row: &RecordBatch, wanted: &[Type]) -> Result<Vec<(Option<Type>, ScalarValue)>> {
    must_match(row.num_columns(), wanted.len())?;
    let one = |(column, wanted): (&datafusion::arrow::array::ArrayRef, &Type)| {
        if !columns::is_taken(column.data_type()) {
            return Err(SqlError::new(UNSUPPORTED, format!("a parameter cannot be of type {}", column.data_type())));
        }
        let mut value = ScalarValue::try_from_array(column, 0)?;
        while let ScalarValue::Dictionary(_, inner) = value {
            value = *inner;
        }
        // What is counted has the bytes that the others have.
        value = match value {
            ScalarValue::LargeBinary(bytes) | ScalarValue::BinaryView(bytes) => ScalarValue::Binary(bytes),
            ScalarValue::LargeList(list) => {
                let item = list.value_type();
                ScalarValue::LargeList(list).cast_to(&DataType::List(Arc::new(Field::new_list_field(item, true))))?
            }
            value => value,
        };
        if let ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text) = value {
            return Ok((None, parameter(text.as_deref().map(str::as_bytes), wanted, false)?));
        }
        let declared = (value != ScalarValue::Null).then(|| pg_type(&value.data_type()));
        Ok((declared, value))
    };
    row.columns().iter().zip(wanted).map(one).collect()
}

/// Rows on their way out, first what they are.
fn sent(
    schema: SchemaRef,
    batches: impl Stream<Item = std::result::Result<RecordBatch, FlightError>> + Send + 'static,
) -> Sent<FlightData> {
    let encoded = FlightDataEncoderBuilder::new().with_schema(schema).with_max_flight_data_size(MESSAGE).build(batches);
    encoded.map_err(Status::from).boxed()
}

fn one<T: Send + 'static>(it: T) -> Sent<T> {
    stream::iter([Ok(it)]).boxed()
}

#[async_trait]
impl FlightService for Calls {
    type HandshakeStream = Sent<HandshakeResponse>;
    type ListFlightsStream = Sent<FlightInfo>;
    type DoGetStream = Sent<FlightData>;
    type DoPutStream = Sent<PutResult>;
    type DoExchangeStream = Sent<FlightData>;
    type DoActionStream = Sent<arrow_flight::Result>;
    type ListActionsStream = Sent<ActionType>;

    /// Who gets here has been let in already; what opens the door again is the key itself, so nothing has to be kept of it.
    async fn handshake(&self, request: Request<Streaming<HandshakeRequest>>) -> Told<Self::HandshakeStream> {
        let token = caller(&request)?.token;
        let bearer = format!("Bearer {token}").parse().map_err(invalid)?;
        let mut response = Response::new(one(HandshakeResponse { protocol_version: 0, payload: token.into() }));
        response.metadata_mut().insert("authorization", bearer);
        Ok(response)
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Told<Self::ListFlightsStream> {
        Ok(Response::new(stream::empty().boxed()))
    }

    async fn get_flight_info(&self, request: Request<FlightDescriptor>) -> Told<FlightInfo> {
        let caller = caller(&request)?;
        let descriptor = request.into_inner();
        let (schema, ticket) = self.announced(&descriptor.cmd, &caller).await?;
        let info = FlightInfo::new().try_with_schema(&schema).map_err(invalid)?;
        // No location: this server, by whatever address it was asked.
        let info = info.with_endpoint(FlightEndpoint::new().with_ticket(ticket)).with_descriptor(descriptor);
        Ok(Response::new(info.with_total_records(-1).with_total_bytes(-1).with_ordered(true)))
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Told<PollInfo> {
        Err(Status::unimplemented("rows are there at once: GetFlightInfo"))
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Told<SchemaResult> {
        let caller = caller(&request)?;
        let (schema, _) = self.announced(&request.into_inner().cmd, &caller).await?;
        Ok(Response::new(SchemaResult { schema: columns::bytes(&schema)? }))
    }

    async fn do_get(&self, request: Request<Ticket>) -> Told<Self::DoGetStream> {
        let caller = caller(&request)?;
        let rows = match command(&request.into_inner().ticket)? {
            Command::TicketStatementQuery(ticket) => self.rows(&ticket.statement_handle, caller).await?,
            Command::CommandPreparedStatementQuery(query) => {
                let handle = [&id()?[..], &[PREPARED], &query.prepared_statement_handle].concat();
                self.rows(&handle, caller).await?
            }
            other => {
                let batch = self.known(other, &caller).await?;
                sent(batch.schema(), stream::iter([Ok(batch)]))
            }
        };
        Ok(Response::new(rows))
    }

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Told<Self::DoPutStream> {
        let caller = caller(&request)?;
        let mut messages = request.into_inner();
        let put = async {
            let Ok(_arrives) = self.arriving.acquire().await else { return Err(Status::unavailable("the server ends")) };
            let first = messages.message().await?.ok_or_else(|| invalid("there is no message"))?;
            let Some(descriptor) = first.flight_descriptor.clone() else {
                return Err(invalid("the first message does not say what it is for"));
            };
            match command(&descriptor.cmd)? {
                Command::CommandPreparedStatementQuery(query) => {
                    let handle = query.prepared_statement_handle;
                    let rows = stream::iter([Ok(first)]).chain(messages);
                    self.bind(&handle, rows, &caller).await?;
                    let result = DoPutPreparedStatementResult { prepared_statement_handle: Some(handle) };
                    Ok(one(PutResult { app_metadata: result.encode_to_vec().into() }))
                }
                Command::CommandStatementUpdate(update) => {
                    // What would write is told what it is.
                    self.engine.question(update.query).await?;
                    Err(SqlError::new(SYNTAX, "this is a question, and no update").hint("execute it as a query").into())
                }
                Command::CommandPreparedStatementUpdate(_) => {
                    Err(SqlError::new(SYNTAX, "what was prepared is a question, and no update").hint("execute it as a query").into())
                }
                Command::CommandStatementIngest(_) => Err(read_only("bulk ingestion")),
                other => Err(SqlError::new(UNSUPPORTED, format!("nothing is put by {}", other.type_url())).into()),
            }
        };
        let late = |_| Status::deadline_exceeded(format!("the parameters did not arrive within {} seconds", ARRIVAL.as_secs()));
        Ok(Response::new(timeout(ARRIVAL, put).await.map_err(late)??))
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Told<Self::DoExchangeStream> {
        Err(Status::unimplemented("nothing is exchanged here: DoGet"))
    }

    async fn do_action(&self, request: Request<Action>) -> Told<Self::DoActionStream> {
        let caller = caller(&request)?;
        let action = request.into_inner();
        let body: Bytes = match action.r#type.as_str() {
            CREATE_PREPARED => self.prepare(packed(&action)?, &caller).await?.as_any().encode_to_vec().into(),
            CLOSE_PREPARED => {
                let request: ActionClosePreparedStatementRequest = packed(&action)?;
                self.statements.remove(&request.prepared_statement_handle, caller.owner);
                return Ok(Response::new(stream::empty().boxed()));
            }
            CANCEL => {
                let request = CancelFlightInfoRequest::decode(&*action.body).map_err(invalid)?;
                self.cancel(request.info, caller.owner)?;
                CancelFlightInfoResult::new(CancelStatus::Cancelled).encode_to_vec().into()
            }
            CANCEL_QUERY => {
                let request: ActionCancelQueryRequest = packed(&action)?;
                self.cancel(Some(FlightInfo::decode(&*request.info).map_err(invalid)?), caller.owner)?;
                // Cancelled.
                ActionCancelQueryResult { result: 1 }.as_any().encode_to_vec().into()
            }
            CLOSE_SESSION => Bytes::from_static(CLOSED),
            "BeginTransaction" | "EndTransaction" | "BeginSavepoint" | "EndSavepoint" => return Err(read_only(&action.r#type)),
            other => {
                return Err(SqlError::new(UNSUPPORTED, format!("there is no action `{other}`"))
                    .hint("ListActions tells which there are")
                    .into());
            }
        };
        Ok(Response::new(one(arrow_flight::Result { body })))
    }

    async fn list_actions(&self, _: Request<Empty>) -> Told<Self::ListActionsStream> {
        let action = |(name, description): (&str, &str)| Ok(ActionType { r#type: name.into(), description: description.into() });
        Ok(Response::new(stream::iter(ACTIONS.map(action)).boxed()))
    }
}
