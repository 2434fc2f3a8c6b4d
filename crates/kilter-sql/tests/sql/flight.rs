//! Arrow Flight SQL, asked by the client that comes with the protocol's crate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any, Command,
    CommandGetDbSchemas, CommandGetExportedKeys, CommandGetPrimaryKeys, CommandGetTables, CommandGetXdbcTypeInfo,
    CommandPreparedStatementQuery, CommandStatementQuery, ProstMessageExt, SqlInfo, TicketStatementQuery,
};
use arrow_flight::{Action, CancelFlightInfoRequest, CancelFlightInfoResult, FlightData, FlightDescriptor, FlightInfo, IpcMessage, Ticket};
use bytes::Bytes;
use datafusion::arrow::array::{
    ArrayRef, AsArray, DictionaryArray, Int64Array, LargeBinaryArray, ListArray, RecordBatch, StringArray, StringViewBuilder,
    TimestampMicrosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Int32Type, Int64Type, Schema, UInt32Type};
use datafusion::arrow::ipc::CompressionType;
use datafusion::arrow::ipc::writer::IpcWriteOptions;
use datafusion::arrow::util::display::array_value_to_string;
use futures::{StreamExt, TryStreamExt};
use kilter_sql::Rights;
use kilter_sql::flight::{Options, Server};
use prost::Message;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, IntoRequest, Status};

use crate::shop::{self, BEGIN, PAYMENTS, Shop};
use crate::wire::Door;

type Client = FlightSqlServiceClient<Channel>;

async fn serve(shop: &Shop, key: Option<&'static str>, connections: usize) -> (SocketAddr, Arc<Door>) {
    let login = Door::new(key, Rights::Everything);
    let options = Options { address: "127.0.0.1:0".parse().unwrap(), login: Arc::clone(&login) as _, tls: None, connections };
    let server = Server::bind(Arc::clone(&shop.engine), options).await.unwrap();
    let address = server.address().unwrap();
    tokio::spawn(server.run());
    (address, login)
}

async fn connect(address: SocketAddr) -> Client {
    Client::new(Endpoint::new(format!("http://{address}")).unwrap().connect().await.unwrap())
}

/// With the key as a token.
async fn with(address: SocketAddr, key: &str) -> Client {
    let mut client = connect(address).await;
    client.set_token(key.into());
    client
}

fn status(e: FlightError) -> Status {
    match e {
        FlightError::Tonic(status) => *status,
        other => panic!("{other}"),
    }
}

/// The kind of an error and PostgreSQL's code for it.
fn kind(e: FlightError) -> (Code, String) {
    let status = status(e);
    let code = status.metadata().get("sqlstate").map(|code| code.to_str().unwrap().to_owned());
    (status.code(), code.unwrap_or_default())
}

fn the_ticket(info: &FlightInfo) -> Ticket {
    info.endpoint[0].ticket.clone().unwrap()
}

async fn fetch(client: &mut Client, info: &FlightInfo) -> Result<Vec<RecordBatch>, FlightError> {
    let announced = Schema::try_from(info.clone()).unwrap();
    let mut rows = client.do_get(the_ticket(info)).await?;
    let batches: Vec<RecordBatch> = (&mut rows).try_collect().await?;
    assert_eq!(rows.schema().unwrap().as_ref(), &announced, "what comes is what was announced");
    Ok(batches)
}

/// Rows as texts.
fn told(batches: &[RecordBatch]) -> String {
    let value = |array: &ArrayRef, row| {
        if array.is_null(row) || *array.data_type() == DataType::Null { "-".to_owned() } else { array_value_to_string(array, row).unwrap() }
    };
    let row = |batch: &RecordBatch, row| batch.columns().iter().map(|array| value(array, row)).collect::<Vec<_>>().join("|");
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(|i| row(batch, i)).collect::<Vec<_>>()).collect::<Vec<_>>().join("\n")
}

async fn ask(client: &mut Client, sql: &str) -> Result<String, FlightError> {
    let info = client.execute(sql.into(), None).await?;
    Ok(told(&fetch(client, &info).await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_answered_in_columns() {
    let shop = shop::open().await;
    let mut client = connect(serve(&shop, None, 5).await.0).await;
    assert_eq!(ask(&mut client, "select 1 + 1 as two, 'a', null, true").await.unwrap(), "2|a|-|true");
    let info = client.execute("select time, outcome, event_offset from decisions order by event_offset".into(), None).await.unwrap();
    let batches = fetch(&mut client, &info).await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>() as i64, PAYMENTS);
    let sum: i64 = batches.iter().map(|batch| batch.column(2).as_primitive::<Int64Type>().values().iter().sum::<i64>()).sum();
    assert_eq!(sum, PAYMENTS * (PAYMENTS - 1) / 2);
    let schema = batches[0].schema();
    assert!(matches!(schema.field(0).data_type(), DataType::Timestamp(_, Some(zone)) if zone.as_ref() == "UTC"));
    // Names are PostgreSQL's, and so is the catalogue.
    let info = client.execute("select count(*), max(score) from decisions".into(), None).await.unwrap();
    let schema = Schema::try_from(info).unwrap();
    assert_eq!(schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["count", "max"]);
    let sql = "select table_name from information_schema.tables where table_schema = 'events'";
    assert_eq!(ask(&mut client, sql).await.unwrap(), "payments");
    assert_eq!(ask(&mut client, "select version()").await.unwrap(), kilter_version());
    // No rows, and no columns of their own.
    assert_eq!(ask(&mut client, "select outcome from decisions where event_offset < 0").await.unwrap(), "");
}

fn kilter_version() -> String {
    format!("PostgreSQL 16.4 (Kilter {})", env!("CARGO_PKG_VERSION"))
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_the_other_protocol_says() {
    let shop = shop::open().await;
    let mut client = connect(serve(&shop, None, 5).await.0).await;
    for (sql, code, sqlstate) in [
        ("selec 1", Code::InvalidArgument, "42601"),
        ("", Code::InvalidArgument, "42601"),
        ("select outcom from decisions", Code::NotFound, "42703"),
        ("select * from nothing_like_it", Code::NotFound, "42P01"),
        ("select 1; select 2", Code::Unimplemented, "0A000"),
        ("set statement_timeout = 5", Code::Unimplemented, "0A000"),
        ("insert into decisions values (1)", Code::InvalidArgument, "25006"),
        ("create table x (y int)", Code::InvalidArgument, "25006"),
        ("select 1 / (event_offset - event_offset) from decisions", Code::InvalidArgument, "22012"),
    ] {
        let e = ask(&mut client, sql).await.unwrap_err();
        assert_eq!(kind(e), (code, sqlstate.to_owned()), "{sql}");
    }
    let words = status(ask(&mut client, "select outcom from decisions").await.unwrap_err()).message().to_owned();
    assert!(words.starts_with("column \"outcom\" does not exist") && words.contains("did you mean `outcome`?"), "{words}");
    // The size is looked at before the text is read, and before it is planned.
    let long = format!("select '{}'", "x".repeat(300 << 10));
    assert_eq!(kind(ask(&mut client, &long).await.unwrap_err()), (Code::InvalidArgument, "54001".into()));
    let many = format!("select 1{}", " + 1".repeat(5000));
    assert_eq!(kind(ask(&mut client, &many).await.unwrap_err()), (Code::InvalidArgument, "54001".into()));
    // What is larger than any statement is not even taken.
    let huge = format!("select '{}'", "x".repeat(1 << 20));
    assert_eq!(kind(ask(&mut client, &huge).await.unwrap_err()).0, Code::OutOfRange);
    assert_eq!(ask(&mut client, "select 1").await.unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_as_password_and_as_token_until_it_is_taken_away() {
    let shop = shop::open().await;
    let (address, door) = serve(&shop, Some("secret"), 5).await;
    // By the handshake, which gives a token for all that follows.
    let mut client = connect(address).await;
    client.handshake("somebody", "secret").await.unwrap();
    assert_eq!(ask(&mut client, "select current_user").await.unwrap(), "ada");
    let mut other = with(address, "secret").await;
    let info = other.execute("select 7".into(), None).await.unwrap();
    assert_eq!(told(&fetch(&mut other, &info).await.unwrap()), "7");
    // A wrong one ends its connection; a client comes back by another.
    let mut wrong = connect(address).await;
    let e = wrong.handshake("somebody", "guess").await.unwrap_err().to_string();
    assert!(e.contains("password authentication failed for user") && e.contains("somebody"), "{e}");
    for key in ["guess", "open", ""] {
        let e = ask(&mut with(address, key).await, "select 1").await.unwrap_err();
        assert_eq!(kind(e).0, Code::Unauthenticated, "{key}");
    }
    let e = ask(&mut connect(address).await, "select 1").await.unwrap_err();
    assert_eq!(kind(e), (Code::Unauthenticated, "28000".into()));
    let mut prepared = client.prepare("select 1".into(), None).await.unwrap();
    *door.rights.lock().unwrap() = None;
    assert_eq!(kind(prepared.execute().await.unwrap_err()).0, Code::Unauthenticated);
    // A ticket is no key.
    assert_eq!(kind(fetch(&mut other, &info).await.unwrap_err()).0, Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_sees_what_it_is_granted_from_the_next_call_on() {
    let shop = shop::open().await;
    let (address, door) = serve(&shop, Some("secret"), 5).await;
    let see = |grants: &[&str]| {
        *door.rights.lock().unwrap() = Some(Rights::Granted(grants.iter().map(|grant| (*grant).to_owned()).collect()));
    };
    let mut client = with(address, "secret").await;
    let whole = client.execute("select count(*) from payments".into(), None).await.unwrap();
    let mut counts = client.prepare("select count(*) from payments".into(), None).await.unwrap();
    let mut all = client.prepare("select * from payments".into(), None).await.unwrap();
    assert_eq!(told(&fetch(&mut client, &whole).await.unwrap()), PAYMENTS.to_string());

    see(&["events.payments (payment_id, _offset) WHERE _offset < 10"]);
    assert_eq!(ask(&mut client, "select count(*), max(_offset) from payments").await.unwrap(), "10|9");
    // A ticket of before asks anew, and so does what was prepared, as long as its columns are those that its client was told of.
    assert_eq!(told(&fetch(&mut client, &whole).await.unwrap()), "10");
    let info = counts.execute().await.unwrap();
    assert_eq!(told(&fetch(&mut client, &info).await.unwrap()), "10");
    assert_eq!(kind(all.execute().await.unwrap_err()), (Code::Unimplemented, "0A000".into()));
    for hidden in ["select amount from payments", "select * from decisions"] {
        assert_eq!(kind(ask(&mut client, hidden).await.unwrap_err()).0, Code::NotFound, "{hidden}");
    }
    // With parameters, what was bound is gone, and can be bound anew.
    let above = create(&mut client, "select count(*) from payments where _offset >= $1").await.prepared_statement_handle;
    let five = || row(vec![("0", Arc::new(Int64Array::from(vec![5])) as ArrayRef)]);
    let query = CommandPreparedStatementQuery { prepared_statement_handle: above.clone() };
    let ticket = || Ticket::new(query.as_any().encode_to_vec());
    put(&mut client, &above, five(), IpcWriteOptions::default()).await.unwrap();
    see(&["events.payments (payment_id, _offset) WHERE _offset < 8"]);
    assert_eq!(kind(client.do_get(ticket()).await.err().unwrap()).1, "0A000");
    put(&mut client, &above, five(), IpcWriteOptions::default()).await.unwrap();
    let rows: Vec<RecordBatch> = client.do_get(ticket()).await.unwrap().try_collect().await.unwrap();
    assert_eq!(told(&rows), "3");
    // What is long on its way meets the rights of when it comes.
    let (late, comes) = tokio::sync::oneshot::channel();
    let descriptor = FlightDescriptor::new_cmd(query.as_any().encode_to_vec());
    let builder = FlightDataEncoderBuilder::new().with_flight_descriptor(Some(descriptor)).with_schema(five().schema());
    let messages: Vec<FlightData> = builder.build(futures::stream::iter([Ok(five())])).try_collect().await.unwrap();
    let mut slow = with(address, "secret").await;
    let put = tokio::spawn(async move {
        let messages = futures::stream::iter(messages).enumerate().then({
            let comes = futures::FutureExt::shared(comes);
            move |(i, message)| {
                let comes = comes.clone();
                async move {
                    if i > 0 {
                        let _ = comes.await;
                    }
                    message
                }
            }
        });
        slow.do_put(messages).await.map(drop)
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    *door.rights.lock().unwrap() = None;
    late.send(()).unwrap();
    assert_eq!(kind(put.await.unwrap().unwrap_err()).0, Code::Unauthenticated);

    see(&["events.payments (payment_id, _offset) WHERE _offset < 10"]);
    let mut client = with(address, "secret").await;
    // The lists have what is granted, with the columns that are.
    let asked = CommandGetTables { include_schema: true, ..Default::default() };
    let info = client.get_tables(asked).await.unwrap();
    let tables = client.do_get(the_ticket(&info)).await.unwrap().try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(tables.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);
    let told_of = tables[0].column(4).as_binary::<i32>().value(0);
    let columns = Schema::try_from(IpcMessage(Bytes::copy_from_slice(told_of))).unwrap();
    assert_eq!(columns.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["_offset", "payment_id"]);

    see(&[]);
    assert_eq!(kind(fetch(&mut client, &whole).await.unwrap_err()), (Code::NotFound, "42P01".into()));
    assert_eq!(kind(counts.execute().await.unwrap_err()).0, Code::NotFound);
    assert_eq!(ask(&mut client, "select 1").await.unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_key_keeps_no_place() {
    let shop = shop::open().await;
    let (address, _) = serve(&shop, Some("secret"), 1).await;
    // They have said nothing yet, and go when too many of them wait.
    let mut waits = Vec::new();
    for _ in 0..100 {
        waits.push(connect(address).await);
    }
    for _ in 0..5 {
        assert_eq!(kind(ask(&mut with(address, "guess").await, "select 1").await.unwrap_err()).0, Code::Unauthenticated);
    }
    let mut client = with(address, "secret").await;
    assert_eq!(ask(&mut client, "select 1").await.unwrap(), "1");
    // There is room for one.
    assert_eq!(kind(ask(&mut with(address, "secret").await, "select 1").await.unwrap_err()), (Code::ResourceExhausted, "53300".into()));
    assert_eq!(ask(&mut client, "select 1").await.unwrap(), "1");
    drop((client, waits));
    // And again once it is gone.
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        match ask(&mut with(address, "secret").await, "select 1").await {
            Ok(one) => {
                assert_eq!(one, "1");
                break;
            }
            Err(e) => assert!(Instant::now() < until && kind(e).0 == Code::ResourceExhausted),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn row(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).unwrap()
}

async fn prepared(client: &mut Client, sql: &str, parameters: Option<RecordBatch>) -> Result<String, FlightError> {
    let mut statement = client.prepare(sql.into(), None).await?;
    if let Some(parameters) = parameters {
        statement.set_parameters(parameters).unwrap();
    }
    let info = statement.execute().await?;
    let rows = told(&fetch(client, &info).await?);
    statement.close().await?;
    Ok(rows)
}

fn ints(values: impl Into<Vec<i64>>) -> ArrayRef {
    Arc::new(Int64Array::from(values.into()))
}

fn texts(values: Vec<&str>) -> ArrayRef {
    Arc::new(StringArray::from(values))
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_questions_take_parameters() {
    let shop = shop::open().await;
    let mut client = connect(serve(&shop, None, 5).await.0).await;
    let client = &mut client;
    let statement = client.prepare("select event_offset from decisions where event_offset < $1 order by 1".into(), None).await.unwrap();
    assert_eq!(statement.parameter_schema().unwrap().field(0).data_type(), &DataType::Int64);
    assert_eq!(statement.dataset_schema().unwrap().field(0).name(), "event_offset");
    for sql in [
        "select event_offset from decisions where event_offset < $1 order by 1",
        "select event_offset from decisions where event_offset < ? order by 1",
    ] {
        assert_eq!(prepared(client, sql, Some(row(vec![("0", ints([3]))]))).await.unwrap(), "0\n1\n2", "{sql}");
    }
    // What a client says that a parameter is holds, and a text is what stands beside it.
    let three = || row(vec![("0", ints([41])), ("1", texts(vec!["x"])), ("2", texts(vec!["2"]))]);
    assert_eq!(prepared(client, "select ? + 1, ?, ?::int8 * 2", Some(three())).await.unwrap(), "42|x|4");
    let begin: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![BEGIN.0 + 90_000_000]).with_timezone("UTC"));
    let sql = "select count(*) from decisions where time < ?";
    assert_eq!(prepared(client, sql, Some(row(vec![("0", begin)]))).await.unwrap(), "2");
    assert_eq!(prepared(client, sql, Some(row(vec![("0", texts(vec!["2023-11-14 22:15:00Z"]))]))).await.unwrap(), "2");
    let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), Some(5), Some(9)])]));
    let sql = "select event_offset from decisions where event_offset = any($1) order by 1 limit $2";
    assert_eq!(prepared(client, sql, Some(row(vec![("0", list), ("1", ints([2]))]))).await.unwrap(), "1\n5");
    let null: ArrayRef = Arc::new(datafusion::arrow::array::NullArray::new(1));
    assert_eq!(prepared(client, "select coalesce($1::text, 'none')", Some(row(vec![("0", null)]))).await.unwrap(), "none");
    // Of the catalogue too.
    let sql = "select column_name from information_schema.columns where table_name = ? and column_name like ?";
    assert_eq!(prepared(client, sql, Some(row(vec![("0", texts(vec!["payments"])), ("1", texts(vec!["am%"]))]))).await.unwrap(), "amount");
    // Without parameters nothing has to be said, with them everything.
    assert_eq!(prepared(client, "select 5", None).await.unwrap(), "5");
    assert_eq!(kind(prepared(client, "select $1::int8", None).await.unwrap_err()), (Code::InvalidArgument, "08P01".into()));
    let two = row(vec![("0", ints([1])), ("1", ints([2]))]);
    assert_eq!(kind(prepared(client, "select $1::int8", Some(two)).await.unwrap_err()).1, "08P01");
    assert_eq!(kind(prepared(client, "select $1::int8", Some(row(vec![("0", ints([1, 2]))]))).await.unwrap_err()).1, "0A000");
    assert_eq!(kind(prepared(client, "select $1::int8 + 1", Some(row(vec![("0", texts(vec!["x"]))]))).await.unwrap_err()).1, "22P02");
    assert_eq!(kind(prepared(client, "select ? + $1", None).await.unwrap_err()).1, "42601");
}

/// What a client makes of a bound row is its own; what is taken of it says how long it is.
async fn put(client: &mut Client, handle: &Bytes, row: RecordBatch, options: IpcWriteOptions) -> Result<(), FlightError> {
    let query = CommandPreparedStatementQuery { prepared_statement_handle: handle.clone() };
    let descriptor = FlightDescriptor::new_cmd(query.as_any().encode_to_vec());
    let builder = FlightDataEncoderBuilder::new()
        .with_flight_descriptor(Some(descriptor))
        .with_options(options)
        .with_dictionary_handling(DictionaryHandling::Resend);
    let messages: Vec<FlightData> = builder.with_schema(row.schema()).build(futures::stream::iter([Ok(row)])).try_collect().await.unwrap();
    client.do_put(futures::stream::iter(messages)).await?.message().await?;
    Ok(())
}

async fn create(client: &mut Client, sql: &str) -> ActionCreatePreparedStatementResult {
    let body = ActionCreatePreparedStatementRequest { query: sql.into(), transaction_id: None };
    let action = Action { r#type: "CreatePreparedStatement".into(), body: body.as_any().encode_to_vec().into() };
    let made = client.do_action(action).await.unwrap().message().await.unwrap().unwrap();
    Any::decode(&*made.body).unwrap().unpack().unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_take_no_more_than_their_bytes() {
    let shop = shop::open().await;
    let mut client = connect(serve(&shop, None, 5).await.0).await;
    let client = &mut client;
    let handle = create(client, "select length($1::text)").await.prepared_statement_handle;
    let long = || row(vec![("0", texts(vec![&"x".repeat(2 << 20)]))]);
    put(client, &handle, long(), IpcWriteOptions::default()).await.unwrap();
    let rows: Vec<RecordBatch> = {
        let query = CommandPreparedStatementQuery { prepared_statement_handle: handle.clone() };
        client.do_get(Ticket::new(query.as_any().encode_to_vec())).await.unwrap().try_collect().await.unwrap()
    };
    assert_eq!(told(&rows), (2 << 20).to_string());
    let compressed = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME)).unwrap();
    assert_eq!(kind(put(client, &handle, long(), compressed).await.unwrap_err()).1, "0A000");
    let views: ArrayRef = Arc::new(ListArray::from_nested_iter::<StringViewBuilder, _, _, _>([Some(["a", "b"].map(Some))]));
    assert_eq!(kind(put(client, &handle, row(vec![("0", views)]), IpcWriteOptions::default()).await.unwrap_err()).1, "0A000");
    // Each place where it stands takes its bytes, and messages take theirs together.
    let often =
        create(client, "select length($1::text), length($1::text || ''), lower($1::text), upper($1::text)").await.prepared_statement_handle;
    let five = || row(vec![("0", texts(vec![&"x".repeat(5 << 20)]))]);
    assert_eq!(kind(put(client, &often, five(), IpcWriteOptions::default()).await.unwrap_err()).1, "54001");
    put(client, &often, long(), IpcWriteOptions::default()).await.unwrap();
    let words: DictionaryArray<Int32Type> = vec!["x".repeat(5 << 20).as_str()].into_iter().collect();
    let many = row(vec![("0", Arc::new(words.clone()) as ArrayRef), ("1", Arc::new(words) as ArrayRef)]);
    let pair = create(client, "select length($1::text), length($2::text)").await.prepared_statement_handle;
    assert_eq!(kind(put(client, &pair, many, IpcWriteOptions::default()).await.unwrap_err()).1, "54001");
    // Those with longer lengths become those that are counted.
    let long_bytes: ArrayRef = Arc::new(LargeBinaryArray::from(vec![Some(&b"ab"[..])]));
    let encoded = create(client, "select encode($1::bytea, 'hex')").await.prepared_statement_handle;
    put(client, &encoded, row(vec![("0", long_bytes)]), IpcWriteOptions::default()).await.unwrap();
    // More than a message may have.
    let huge = row(vec![("0", texts(vec![&"x".repeat(9 << 20)]))]);
    assert_eq!(kind(put(client, &handle, huge, IpcWriteOptions::default()).await.unwrap_err()).0, Code::OutOfRange);
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_questions_are_their_owners_and_can_be_forgotten() {
    let shop = shop::open().await;
    let (address, _) = serve(&shop, None, 5).await;
    let mut client = connect(address).await;
    let made = create(&mut client, "select 3").await;
    assert_eq!(Schema::try_from(IpcMessage(made.dataset_schema)).unwrap().fields().len(), 1);
    let handle = made.prepared_statement_handle;
    // By the same key it can be run from any connection, also without asking for a ticket first.
    let query = CommandPreparedStatementQuery { prepared_statement_handle: handle.clone() };
    let ticket = || Ticket::new(query.as_any().encode_to_vec());
    let rows: Vec<RecordBatch> = connect(address).await.do_get(ticket()).await.unwrap().try_collect().await.unwrap();
    assert_eq!(told(&rows), "3");
    let mut guessed = handle.to_vec();
    guessed[0] ^= 1;
    let guessed = CommandPreparedStatementQuery { prepared_statement_handle: guessed.into() };
    let unknown = client.do_get(Ticket::new(guessed.as_any().encode_to_vec())).await;
    assert_eq!(kind(unknown.err().unwrap()), (Code::NotFound, "26000".into()));
    // Another server of the same engine, where one needs a key, knows nothing of it.
    let (other, _) = serve(&shop, Some("secret"), 5).await;
    let unknown = with(other, "secret").await.do_get(ticket()).await;
    assert_eq!(kind(unknown.err().unwrap()).1, "26000");
    let body = ActionClosePreparedStatementRequest { prepared_statement_handle: handle };
    client.do_action(Action::new("ClosePreparedStatement", body.as_any().encode_to_vec())).await.unwrap();
    assert_eq!(kind(client.do_get(ticket()).await.err().unwrap()).1, "26000");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_their_columns_are_told() {
    let shop = shop::open().await;
    let mut client = connect(serve(&shop, None, 5).await.0).await;
    let client = &mut client;
    let info = client.get_catalogs().await.unwrap();
    assert_eq!(told(&fetch(client, &info).await.unwrap()), "shop");
    let info = client.get_db_schemas(CommandGetDbSchemas { catalog: None, db_schema_filter_pattern: Some("%e%s".into()) }).await.unwrap();
    assert_eq!(told(&fetch(client, &info).await.unwrap()), "shop|events\nshop|features");
    let info = client.get_table_types().await.unwrap();
    assert_eq!(told(&fetch(client, &info).await.unwrap()), "TABLE");
    let asked = CommandGetTables {
        catalog: Some("shop".into()),
        db_schema_filter_pattern: Some("events".into()),
        table_name_filter_pattern: Some("pay%".into()),
        table_types: vec!["TABLE".into()],
        include_schema: true,
    };
    let info = client.get_tables(asked.clone()).await.unwrap();
    let tables = fetch(client, &info).await.unwrap();
    assert_eq!(told(&[tables[0].project(&[0, 1, 2, 3]).unwrap()]), "shop|events|payments|TABLE");
    let schema = tables[0].column(4).as_binary::<i32>().value(0).to_vec();
    let schema = Schema::try_from(IpcMessage(schema.into())).unwrap();
    let amount = schema.field_with_name("amount").unwrap();
    assert_eq!((amount.data_type(), amount.metadata()["ARROW:FLIGHT:SQL:TYPE_NAME"].as_str()), (&DataType::Float64, "float8"));
    // The schema of a table and that of a question over it agree.
    let info = client.execute("select * from events.payments".into(), None).await.unwrap();
    let asked_for = Schema::try_from(info).unwrap();
    let names = |schema: &Schema| schema.fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect::<Vec<_>>();
    assert_eq!(names(&schema), names(&asked_for));
    let info = client.get_tables(CommandGetTables { table_types: vec!["VIEW".into()], ..asked }).await.unwrap();
    assert_eq!(told(&fetch(client, &info).await.unwrap()), "");
    let info =
        client.get_primary_keys(CommandGetPrimaryKeys { table: "decisions".into(), ..CommandGetPrimaryKeys::default() }).await.unwrap();
    assert_eq!(told(&fetch(client, &info).await.unwrap()), "");
    let info =
        client.get_exported_keys(CommandGetExportedKeys { table: "decisions".into(), ..CommandGetExportedKeys::default() }).await.unwrap();
    assert_eq!((told(&fetch(client, &info).await.unwrap()), Schema::try_from(info).unwrap().fields().len()), (String::new(), 13));
    let info = client.get_sql_info(vec![SqlInfo::FlightSqlServerName, SqlInfo::FlightSqlServerReadOnly]).await.unwrap();
    let facts = fetch(client, &info).await.unwrap();
    assert_eq!(facts[0].column(0).as_primitive::<UInt32Type>().values(), &[0, 3]);
    // Every number that the protocol has between 0 and 576.
    let info = client.get_sql_info(vec![]).await.unwrap();
    let facts = fetch(client, &info).await.unwrap();
    let known = (0..600).filter(|n| SqlInfo::try_from(*n).is_ok()).count();
    assert_eq!(facts[0].num_rows(), known);
    let info = client.get_xdbc_type_info(CommandGetXdbcTypeInfo { data_type: Some(-5) }).await.unwrap();
    let types = fetch(client, &info).await.unwrap();
    assert_eq!(types[0].column(0).as_string::<i32>().value(0), "int8");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_question_will_give_is_told_without_running_it() {
    let shop = shop::open().await;
    let mut client = connect(serve(&shop, None, 5).await.0).await;
    let query = CommandStatementQuery { query: "select outcome, count(*) from decisions group by 1".into(), transaction_id: None };
    let told = client.inner_mut().get_schema(FlightDescriptor::new_cmd(query.as_any().encode_to_vec()).into_request()).await.unwrap();
    let schema = Schema::try_from(told.into_inner()).unwrap();
    let types: Vec<&DataType> = schema.fields().iter().map(|field| field.data_type()).collect();
    assert_eq!(types, [&DataType::Utf8, &DataType::Int64]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written() {
    let shop = shop::open().await;
    let mut client = connect(serve(&shop, None, 5).await.0).await;
    let e = client.execute_update("delete from decisions".into(), None).await.unwrap_err();
    let refused = status(e);
    assert_eq!((refused.code(), refused.metadata().get("sqlstate").unwrap().to_str().unwrap()), (Code::InvalidArgument, "25006"));
    assert!(refused.message().contains("read-only"), "{}", refused.message());
    assert_eq!(kind(client.begin_transaction().await.unwrap_err()).1, "25006");
    assert_eq!(kind(client.execute("select 1".into(), Some("t".into())).await.unwrap_err()).1, "25006");
    // A question is no update.
    assert_eq!(kind(client.execute_update("select 1".into(), None).await.unwrap_err()).1, "42601");
}

const ENDLESS: &str = "select count(*) from generate_series(1, 1000000000000)";

#[tokio::test(flavor = "multi_thread")]
async fn a_question_ends_when_it_is_told_to() {
    let shop = shop::open().await;
    let (address, _) = serve(&shop, None, 5).await;
    let mut client = connect(address).await;
    let info = client.execute(ENDLESS.into(), None).await.unwrap();
    let cancel = |info: FlightInfo| Action::new("CancelFlightInfo", CancelFlightInfoRequest::new(info).encode_to_vec());
    // It has not begun.
    assert_eq!(kind(client.do_action(cancel(info.clone())).await.err().unwrap()).0, Code::NotFound);
    let (mut reads, read) = (connect(address).await, info.clone());
    let ended = tokio::spawn(async move { fetch(&mut reads, &read).await });
    // Told again until it has.
    let mut stopped = false;
    while !ended.is_finished() {
        if let Ok(mut result) = client.do_action(cancel(info.clone())).await {
            let result = CancelFlightInfoResult::decode(&*result.message().await.unwrap().unwrap().body).unwrap();
            assert_eq!(result.status, 1);
            stopped = true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(stopped);
    assert_eq!(kind(ended.await.unwrap().unwrap_err()), (Code::Cancelled, "57014".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_ends_when_nobody_reads_its_rows() {
    let shop = shop::open().await;
    let (address, _) = serve(&shop, None, 5).await;
    // More of them than may run at a time: each must make room for the next.
    for _ in 0..3 {
        let mut waits = Vec::new();
        for _ in 0..4 {
            let mut client = connect(address).await;
            waits.push(tokio::spawn(async move {
                for _ in 0..16 {
                    // Rows without end, of which the first are read.
                    let info = client.execute("select a.value from generate_series(1, 1000000000000) a".into(), None).await.unwrap();
                    let mut rows = client.do_get(the_ticket(&info)).await.unwrap();
                    assert!(rows.try_next().await.unwrap().unwrap().num_rows() > 0);
                }
            }));
        }
        for one in waits {
            one.await.unwrap();
        }
    }
    assert_eq!(ask(&mut connect(address).await, "select 1").await.unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_says_no_more_than_a_question() {
    let shop = shop::open().await;
    let mut client = connect(serve(&shop, None, 5).await.0).await;
    let info = client.execute("select 1".into(), None).await.unwrap();
    let Command::TicketStatementQuery(ticket) = Command::try_from(Any::decode(&*the_ticket(&info).ticket).unwrap()).unwrap() else {
        panic!("another kind of ticket")
    };
    let mut changed = ticket.statement_handle.to_vec();
    let last = changed.len() - 1;
    changed.splice(last.., *b"1; drop table decisions");
    for handle in [
        changed,
        Vec::new(),
        vec![0; 16],
        vec![0; 17],
        [&[0; 16][..], b"q\xff"].concat(),
        [&[0; 16][..], b"qdelete from decisions"].concat(),
    ] {
        let made = TicketStatementQuery { statement_handle: handle.clone().into() };
        let e = client.do_get(Ticket::new(made.as_any().encode_to_vec())).await.err().unwrap();
        assert!(["25006", "08P01", "0A000"].contains(&kind(e).1.as_str()), "{handle:?}");
    }
    for ticket in [&b""[..], b"nonsense", &[255; 100]] {
        let e = client.do_get(Ticket::new(ticket.to_vec())).await.err().unwrap();
        assert!([Code::InvalidArgument, Code::Unimplemented].contains(&kind(e).0), "{ticket:?}");
    }
    assert_eq!(told(&fetch(&mut client, &info).await.unwrap()), "1");
}
