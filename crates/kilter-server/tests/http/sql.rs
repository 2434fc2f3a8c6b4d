//! Questions in SQL, with an engine of the tests: what the server makes of its answers, and what it does when clients are slow, many or gone.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kilter_server::access::Sight;
use kilter_server::sql::{Answer, Column, Described, Form, Later, Question, Refusal, Sql, Table};
use serde_json::{Value, json};

use super::{JSON, Reply, Server, raw, reply};

/// Bytes of each piece of an answer without end.
const PIECE: usize = 64 << 10;

/// Answers a few words of its own.
#[derive(Debug, Default)]
struct Fake {
    asked: Mutex<Vec<Question>>,
    counted: Arc<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    begun: AtomicUsize,
    pieces: AtomicUsize,
    ended: AtomicUsize,
}

struct Told {
    columns: Vec<Column>,
    text: String,
    form: Form,
    left: usize,
    counted: Arc<Counted>,
}

fn refusal(sqlstate: &'static str, message: &str) -> Refusal {
    Refusal { sqlstate, message: message.into(), hint: None, position: None }
}

impl Sql for Fake {
    fn tables(&self, sight: Sight) -> Later<'_, Vec<Table>> {
        assert_eq!(sight, Sight::Everything, "no keys are wanted");
        let column = Described { name: "card".into(), data_type: "int8".into(), comment: "of whom".into() };
        let tables =
            vec![Table { schema: "events".into(), name: "payments".into(), comment: "what was paid".into(), columns: vec![column] }];
        Box::pin(async move { Ok(tables) })
    }

    fn ask(&self, question: Question) -> Later<'_, Box<dyn Answer>> {
        Box::pin(async move {
            self.asked.lock().unwrap().push(question.clone());
            match question.text.as_str() {
                "selec" => {
                    let position = Some(3);
                    return Err(Refusal { hint: Some("did you mean SELECT?".into()), position, ..refusal("42601", "syntax error") });
                }
                "insert" => return Err(refusal("25006", "it only reads")),
                "hidden" => return Err(refusal("42501", "not for this key")),
                "slow" => return Err(refusal("57014", "its time is up")),
                "large" => return Err(refusal("53200", "it wants more memory than it may have")),
                "full" => return Err(refusal("53000", "there is no place for it")),
                "broken" => return Err(refusal("XX000", "it ended badly")),
                _ => {}
            }
            self.counted.begun.fetch_add(1, Ordering::SeqCst);
            let columns = vec![Column { name: "n".into(), data_type: "int8".into() }];
            let left = question.limit.unwrap_or(usize::MAX);
            let told: Box<dyn Answer> =
                Box::new(Told { columns, text: question.text, form: question.form, left, counted: Arc::clone(&self.counted) });
            Ok(told)
        })
    }
}

impl Answer for Told {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn next(&mut self) -> Later<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            let piece = self.counted.pieces.fetch_add(1, Ordering::SeqCst);
            match self.text.as_str() {
                "wait" => std::future::pending().await,
                "endless" => return Ok(Some(vec![b'x'; PIECE])),
                "fails" if piece > 0 => return Err(refusal("22012", "division by zero")),
                "nothing" => return Ok(None),
                _ => {}
            }
            // Five rows, two at a time.
            let total: usize = self.text.parse().unwrap_or(5);
            let first = (piece * 2).min(total).min(self.left);
            let last = (first + 2).min(total).min(self.left);
            let line = |n: usize| match self.form {
                Form::Arrays => format!("[{n}]\n"),
                Form::Csv => format!("{n}\n"),
                Form::Ndjson => format!("{{\"n\":{n}}}\n"),
                Form::Arrow => format!("arrow {n};"),
            };
            Ok((first < last).then(|| (first..last).map(line).collect::<String>().into_bytes()))
        })
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.counted.ended.fetch_add(1, Ordering::SeqCst);
    }
}

fn serve() -> (Server, Arc<Fake>) {
    let fake = Arc::new(Fake::default());
    let server = Server::with(|options| options.sql = Some(Arc::clone(&fake) as Arc<dyn Sql>));
    (server, fake)
}

fn ask(server: &Server, question: &Value) -> Reply {
    server.post("/v1/sql", JSON, question.to_string())
}

/// Waits for what must come.
fn until(what: &str, is: impl Fn() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < Duration::from_secs(60), "it does not come: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks and reads nothing.
fn begin(server: &Server, query: &str, accept: &str) -> TcpStream {
    let body = json!({ "query": query }).to_string();
    let mut stream = TcpStream::connect(server.address).unwrap();
    let head = format!("POST /v1/sql HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    stream
}

#[test]
fn a_server_without_an_engine_says_how_to_get_one() {
    let server = Server::start();
    let error = ask(&server, &json!({ "query": "select 1" })).refused(501, "no_sql");
    assert!(error["hint"].as_str().unwrap().contains("--features sql"), "{error}");
    server.get("/v1/sql/tables").refused(501, "no_sql");
    server.end();
}

#[test]
fn a_small_answer_is_one_object() {
    let (server, fake) = serve();
    let tables = server.get("/v1/sql/tables").ok();
    let column = json!({ "name": "card", "type": "int8", "comment": "of whom" });
    assert_eq!(tables, json!({ "tables": [{ "schema": "events", "name": "payments", "comment": "what was paid", "columns": [column] }] }));

    let answer = ask(&server, &json!({ "query": "5" })).ok();
    assert_eq!(answer["columns"], json!([{ "name": "n", "type": "int8" }]));
    assert_eq!((&answer["rows"], &answer["truncated"]), (&json!([[0], [1], [2], [3], [4]]), &json!(false)), "{answer}");
    assert!(answer["seconds"].as_f64() > Some(0.0), "{answer}");
    assert_eq!(fake.asked.lock().unwrap()[0].limit, Some(1001), "one more than are told");
    fake.counted.pieces.store(0, Ordering::SeqCst);
    let answer = ask(&server, &json!({ "query": "5", "limit": 3, "seconds": 1.5 })).ok();
    assert_eq!((&answer["rows"], &answer["truncated"]), (&json!([[0], [1], [2]]), &json!(true)), "{answer}");
    assert_eq!(fake.asked.lock().unwrap()[1].time, Some(Duration::from_millis(1500)));
    let answer = ask(&server, &json!({ "query": "nothing" })).ok();
    assert_eq!((&answer["rows"], &answer["truncated"]), (&json!([]), &json!(false)), "{answer}");
    assert_eq!(fake.counted.ended.load(Ordering::SeqCst), 3, "nothing is left of them");
    server.end();
}

#[test]
fn all_rows_come_as_a_stream_in_the_format_asked_for() {
    let (server, fake) = serve();
    for (accept, content_type, body) in [
        ("text/csv", "text/csv; charset=utf-8", "0\n1\n2\n3\n4\n"),
        ("application/x-ndjson", "application/x-ndjson", "{\"n\":0}\n{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n{\"n\":4}\n"),
        ("application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.stream", "arrow 0;arrow 1;arrow 2;arrow 3;arrow 4;"),
    ] {
        fake.counted.pieces.store(0, Ordering::SeqCst);
        let told = server.post_with("/v1/sql", ("accept", accept), r#"{"query": "5"}"#);
        assert_eq!((told.status, told.header("content-type"), told.text().as_str()), (200, content_type, body));
        assert_eq!(fake.asked.lock().unwrap().pop().unwrap().limit, None);
    }
    fake.counted.pieces.store(0, Ordering::SeqCst);
    let told = server.post_with("/v1/sql", ("accept", "text/csv"), r#"{"query": "5", "limit": 200000}"#);
    assert_eq!((told.status, told.text().as_str()), (200, "0\n1\n2\n3\n4\n"));
    assert_eq!(server.post_with("/v1/sql", ("accept", "text/csv"), r#"{"query": "nothing"}"#).text(), "");

    // What fails before the first row is a refusal, what fails later is no whole answer.
    server.post_with("/v1/sql", ("accept", "text/csv"), r#"{"query": "selec"}"#).refused(400, "bad_sql");
    fake.counted.pieces.store(0, Ordering::SeqCst);
    let request = server.agent.post(server.url("/v1/sql")).content_type(JSON).header("accept", "text/csv");
    let mut response = request.send(r#"{"query": "fails"}"#).unwrap();
    assert_eq!(response.status().as_u16(), 200);
    response.body_mut().read_to_vec().expect_err("it was cut off");
    server.end();
}

#[test]
fn what_cannot_be_answered_is_told_why() {
    let (server, _) = serve();
    let error = ask(&server, &json!({ "query": "selec" })).refused(400, "bad_sql");
    assert_eq!(
        (&error["sqlstate"], &error["position"], &error["hint"]),
        (&json!("42601"), &json!(3), &json!("did you mean SELECT?")),
        "{error}"
    );
    for (query, status, code, sqlstate) in [
        ("insert", 400, "read_only", "25006"),
        ("hidden", 403, "forbidden", "42501"),
        ("slow", 503, "timeout", "57014"),
        ("large", 503, "out_of_memory", "53200"),
        ("full", 429, "slow_down", "53000"),
        ("broken", 500, "internal", "XX000"),
    ] {
        let error = ask(&server, &json!({ "query": query })).refused(status, code);
        assert_eq!((&error["sqlstate"], error.get("position")), (&json!(sqlstate), None), "{error}");
    }
    let error = ask(&server, &json!({ "query": "", "limit": 0, "seconds": -1, "sql": "select 1" })).refused(400, "invalid_request");
    let fields: Vec<&str> = error["fields"].as_array().unwrap().iter().map(|field| field["field"].as_str().unwrap()).collect();
    assert_eq!(fields, ["query", "limit", "seconds", "sql"], "{error}");
    ask(&server, &json!({ "limit": 5 })).refused(400, "invalid_request");
    ask(&server, &json!({ "query": "5", "limit": 100_001 })).refused(400, "invalid_request");
    server.post("/v1/sql", JSON, "select 1").refused(400, "malformed_json");
    server.post("/v1/sql", JSON, vec![b' '; 300 << 10]).refused(413, "body_too_large");
    server.get("/v1/sql").refused(405, "wrong_method");
    server.end();
}

#[test]
fn eight_questions_at_a_time_are_answered_and_a_client_that_goes_leaves_its_place() {
    let (server, fake) = serve();
    let waiting: Vec<TcpStream> =
        (0..8).map(|n| begin(&server, "wait", if n % 2 == 0 { "application/json" } else { "text/csv" })).collect();
    until("eight questions", || fake.counted.begun.load(Ordering::SeqCst) == 8);
    let refused = ask(&server, &json!({ "query": "5" }));
    refused.refused(429, "slow_down");
    assert_eq!(refused.header("retry-after"), "1");
    assert_eq!(server.get("/v1/sql/tables").status, 200);
    drop(waiting);
    until("their end", || fake.counted.ended.load(Ordering::SeqCst) == 8);
    until("a place", || ask(&server, &json!({ "query": "5" })).status == 200);
    server.end();
}

#[test]
fn a_stream_is_made_as_it_is_taken_and_ends_with_its_client() {
    let (server, fake) = serve();
    let made = || fake.counted.pieces.load(Ordering::SeqCst) * PIECE;
    let mut slow = begin(&server, "endless", "text/csv");
    slow.read_exact(&mut vec![0; 4 * PIECE]).unwrap();
    // It stands still once the buffers of the connection are full.
    let before = Mutex::new((0, Instant::now()));
    until("a standstill", || {
        let mut before = before.lock().unwrap();
        if before.0 != made() {
            *before = (made(), Instant::now());
        }
        before.1.elapsed() > Duration::from_millis(500)
    });
    assert!(made() < 64 << 20, "{} bytes for a client that takes nothing", made());
    assert_eq!(fake.counted.ended.load(Ordering::SeqCst), 0);
    let stood = made();
    slow.read_exact(&mut vec![0; 32 << 20]).unwrap();
    assert!(made() > stood, "it goes on");
    drop(slow);
    until("its end", || fake.counted.ended.load(Ordering::SeqCst) == 1);
    server.end();
}

#[test]
fn a_question_that_does_not_come_is_not_waited_for() {
    let fake = Arc::new(Fake::default());
    let server = Server::with(|options| {
        options.sql = Some(fake);
        options.request_timeout = Duration::from_millis(300);
    });
    assert!(raw(&server, b"POST /v1/sql HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n").starts_with("HTTP/1.1 503"));
    let request = server.agent.get(server.url("/v1/sql/tables"));
    assert_eq!(reply(request.call().unwrap()).status, 200);
    server.end();
}
