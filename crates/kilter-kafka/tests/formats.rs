//! Sources whose records have a schema, against the client library's mock cluster and a schema registry of a few routes, both on loopback.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kilter_core::{Operation, Value};
use kilter_kafka::Running;
use kilter_runtime::{Record, Service, StartOptions, project};
use kilter_store::dead_letter::{DeadLetter, DeadLetterQuery};
use kilter_store::metadata::AlertFilter;
use rdkafka::config::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};

/// A registry: what its routes answer, and whether it answers at all.
struct Registry {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    answers: Mutex<BTreeMap<String, String>>,
    asked: AtomicUsize,
    down: AtomicBool,
}

impl Registry {
    fn new() -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, shared) = (stream.unwrap(), Arc::clone(&own));
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Registry { url, shared }
    }

    fn add(&self, id: u32, kind: &str, schema: &str, references: &[(&str, &str)]) {
        let references: Vec<_> =
            references.iter().map(|(name, subject)| serde_json::json!({ "name": name, "subject": subject, "version": 1 })).collect();
        let mut answer = serde_json::json!({ "id": id, "version": id, "schema": schema, "references": references });
        // Of Avro it says nothing.
        if kind != "AVRO" {
            answer["schemaType"] = kind.into();
        }
        self.shared.answers.lock().unwrap().insert(format!("/schemas/ids/{id}"), answer.to_string());
    }

    fn put(&self, path: &str, id: u32) {
        let answer = self.shared.answers.lock().unwrap()[&format!("/schemas/ids/{id}")].clone();
        self.shared.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }

    fn set_down(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        loop {
            let mut first = String::new();
            let mut who = None;
            if reader.read_line(&mut first).unwrap_or(0) == 0 {
                return;
            }
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                if let Some(value) =
                    line.to_ascii_lowercase().strip_prefix("authorization:").map(|_| line["authorization:".len()..].trim().to_owned())
                {
                    who = Some(value);
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            self.asked.fetch_add(1, Ordering::SeqCst);
            let path = first.split(' ').nth(1).unwrap();
            let unknown = r#"{"error_code": 40403, "message": "Schema not found"}"#.to_owned();
            let (status, body) = match self.answers.lock().unwrap().get(path) {
                _ if self.down.load(Ordering::SeqCst) => ("503 Service Unavailable", "try again".to_owned()),
                // registrar:secret
                _ if who.as_deref() != Some("Basic cmVnaXN0cmFyOnNlY3JldA==") => {
                    ("401 Unauthorized", r#"{"error_code": 401, "message": "Unauthorized"}"#.to_owned())
                }
                Some(answer) => ("200 OK", answer.clone()),
                None => ("404 Not Found", unknown),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/vnd.schemaregistry.v1+json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            if reader.get_mut().write_all((head + &body).as_bytes()).is_err() {
                return;
            }
        }
    }
}

const DEFINITIONS: &str = r#"
[project]
name = "shop"
[kafka]
brokers = "BROKERS"
schema_registry = { url = "REGISTRY", username = "registrar", password = "secret" }
[source.payments]
connector = "kafka"
topic = "payments"
FORMAT
time = "at"
max_future = "none"
[source.payments.columns]
card = "int64"
at = "timestamp"
amount = "float64"
note = "string"
[source.clicks]
connector = "kafka"
topic = "clicks"
time = "arrival"
columns = { card = "int64" }
[features.card]
source = "payments"
entity = "card"
[features.card.columns]
sum = "sum(amount) over lifetime"
"#;

struct Shop {
    cluster: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
    registry: Registry,
    dir: tempfile::TempDir,
}

impl Shop {
    fn new(format: &str) -> Shop {
        let cluster = MockCluster::new(1).unwrap();
        for topic in ["payments", "clicks"] {
            cluster.create_topic(topic, 1, 1).unwrap();
        }
        let registry = Registry::new();
        let dir = tempfile::tempdir().unwrap();
        let text =
            DEFINITIONS.replace("BROKERS", &cluster.bootstrap_servers()).replace("REGISTRY", &registry.url).replace("FORMAT", format);
        std::fs::write(dir.path().join("kilter.toml"), text).unwrap();
        let producer = ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create().unwrap();
        Shop { cluster, producer, registry, dir }
    }

    fn send(&self, topic: &str, payload: Option<&[u8]>) {
        let record = BaseRecord::<(), [u8]>::to(topic).partition(0);
        let record = match payload {
            Some(payload) => record.payload(payload),
            None => record,
        };
        self.producer.send(record).map_err(|(e, _)| e).unwrap();
        self.producer.flush(Duration::from_secs(10)).unwrap();
    }

    async fn start(&self) -> (Arc<Service>, Running) {
        let project = project::load(self.dir.path()).unwrap_or_else(|report| panic!("{report}"));
        let service = Service::start(project, StartOptions { schedules: false, ..StartOptions::default() }).await.unwrap();
        let running = kilter_kafka::start(&service, |_, _| Vec::new()).unwrap();
        (service, running)
    }
}

fn framed(id: u32, body: &[u8]) -> Vec<u8> {
    [&[0], &id.to_be_bytes()[..], body].concat()
}

/// Waits for something that has to come.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited a minute for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn count(service: &Service, source: &str) -> u64 {
    service.sources().iter().find(|s| s.source == source).unwrap().events
}

fn problem(service: &Service, source: &str) -> Option<String> {
    service.sources().into_iter().find(|s| s.source == source).unwrap().problem
}

fn rows(service: &Service) -> Vec<(Vec<Value>, Operation)> {
    let mut found = Vec::new();
    let data = &service.data;
    data.walk(&service.plan, 0, data.events.next_offset(), |_, record| {
        if let Record::Event(event) = record {
            found.push((event.row.clone(), event.operation));
        }
        Ok(())
    })
    .unwrap();
    found
}

fn letters(service: &Service) -> Vec<DeadLetter> {
    let page = service.data.dead_letters.list(&DeadLetterQuery { limit: 100, ..Default::default() }).unwrap();
    let mut letters: Vec<DeadLetter> = page.letters.into_iter().map(|(_, letter)| letter).collect();
    letters.sort_by(|a, b| a.origin.cmp(&b.origin));
    letters
}

async fn alerts(service: &Service) -> Vec<String> {
    let filter = AlertFilter { monitor: Some("incoming schema".into()), ..AlertFilter::default() };
    let found = service.data.metadata.list_alerts(&filter).await.unwrap();
    found.into_iter().map(|a| format!("{}: {}", a.alert.subject, a.alert.detail)).collect()
}

async fn end(service: Arc<Service>) {
    service.shutdown().await.unwrap();
    let data = Arc::downgrade(&service.data);
    let dir = service.data.dir.clone();
    drop(service);
    let free = |log: &str| kilter_store::log::Log::open(dir.join(log), Default::default()).is_ok();
    until("the data folder to be let go", || data.strong_count() == 0 && ["events", "decisions", "dead-letters"].into_iter().all(free))
        .await;
}

const AVRO: &str = r#"{"type": "record", "name": "Payment", "fields": [{"name": "card", "type": "long"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}, {"name": "amount", "type": "double"}, {"name": "note", "type": ["null", "string"]}]}"#;
/// The amount is a decimal, the note is gone, and there is a fee.
const AVRO_LATER: &str = r#"{"type": "record", "name": "Payment", "fields": [{"name": "card", "type": "int"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}}, {"name": "fee", "type": "double"}]}"#;
const PROTO: &str = r#"syntax = "proto3"; package shop; import "google/protobuf/timestamp.proto"; import "shop/extra.proto";
    message Refund { int64 card = 1; } message Payment { int64 card = 1; google.protobuf.Timestamp at = 2; double amount = 3; optional string note = 4; Extra extra = 5; }"#;
const EXTRA: &str = "syntax = \"proto3\"; package shop; message Extra { string of = 1; }";
const JSON: &str =
    r#"{"type": "object", "properties": {"card": {"type": "integer"}, "at": {"type": "string"}, "amount": {"type": "number"}}}"#;

fn zigzag(n: i64) -> Vec<u8> {
    let mut n = ((n << 1) ^ (n >> 63)) as u64;
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

fn varint(n: u64) -> Vec<u8> {
    let mut n = n;
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

/// 2026-03-01T00:00:00Z in seconds.
const AT: i64 = 1_772_323_200;

fn time() -> Value {
    Value::Time(kilter_core::EventTime(AT * 1_000_000))
}

fn avro(card: i64, amount: f64, note: &str) -> Vec<u8> {
    let note = match note {
        "" => vec![0],
        note => [&[2], &zigzag(note.len() as i64)[..], note.as_bytes()].concat(),
    };
    [&zigzag(card)[..], &zigzag(AT * 1000), &amount.to_le_bytes(), &note].concat()
}

fn avro_later(card: i64, cents: i16) -> Vec<u8> {
    [&zigzag(card)[..], &zigzag(AT * 1_000_000), &[4], &cents.to_be_bytes(), &1.0f64.to_le_bytes()].concat()
}

/// The second message of its file.
fn protobuf(card: u64, amount: f64, note: &str) -> Vec<u8> {
    let at = [&[8][..], &varint(AT as u64)].concat();
    [
        &[2, 2, 8][..],
        &varint(card),
        &[0x12, at.len() as u8],
        &at,
        &[0x19],
        &amount.to_le_bytes(),
        &[0x22, note.len() as u8],
        note.as_bytes(),
    ]
    .concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn avro_by_the_registry_through_a_change_of_its_schema_that_is_told_of_once() {
    let shop = Shop::new("format = \"avro\"");
    shop.registry.add(7, "AVRO", AVRO, &[]);
    shop.registry.add(300, "AVRO", AVRO_LATER, &[]);
    shop.send("payments", Some(&framed(7, &avro(1, 2.5, "x"))));
    shop.send("payments", Some(&framed(7, &avro(2, -1.0, ""))));
    let (service, running) = shop.start().await;
    until("the first two", || count(&service, "payments") == 2).await;
    assert_eq!(rows(&service)[0].0, [Value::Int(1), time(), Value::Float(2.5), Value::text("x")]);
    assert_eq!(rows(&service)[1].0, [Value::Int(2), time(), Value::Float(-1.0), Value::Null]);
    assert!(alerts(&service).await.is_empty(), "the first schema is no change");
    shop.send("payments", Some(&framed(300, &avro_later(1, 1250))));
    shop.send("payments", Some(&framed(7, &avro(3, 1.0, "y"))));
    shop.send("payments", Some(&framed(300, &avro_later(1, -50))));
    until("the later ones", || count(&service, "payments") == 5).await;
    assert_eq!(rows(&service)[2].0, [Value::Int(1), time(), Value::Float(12.5), Value::Null]);
    let told = "payments: schema 300 after schema 7: added: fee (double); removed: note (string or null); \
                retyped: amount (double, now decimal(9, 2)), at (timestamp-millis, now timestamp-micros), card (long, now int); \
                declared columns touched: amount, at, card, note";
    assert_eq!(alerts(&service).await, [told]);
    assert_eq!(shop.registry.asked(), 2, "each schema is asked for once");
    drop(running);
    end(service).await;
    let (service, running) = shop.start().await;
    shop.send("payments", Some(&framed(300, &avro_later(1, 100))));
    until("one after a restart", || count(&service, "payments") == 6).await;
    assert_eq!(alerts(&service).await, [told], "it is told of once");
    assert_eq!(problem(&service, "payments"), None);
    let read = service.features(0, service.parse_key(0, "1").unwrap(), None).await.unwrap();
    assert_eq!(read.values, [Value::Float(2.5 + 12.5 - 0.5 + 1.0)]);
    drop(running);
    end(service).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn protobuf_by_the_registry_with_what_it_imports() {
    let shop = Shop::new("format = \"protobuf\"");
    shop.registry.add(4, "PROTOBUF", EXTRA, &[]);
    shop.registry.put("/subjects/shop%2Fextra/versions/1", 4);
    shop.registry.add(5, "PROTOBUF", PROTO, &[("shop/extra.proto", "shop/extra")]);
    shop.send("payments", Some(&framed(5, &protobuf(9, 3.5, "n"))));
    // The first message of the file has no `at`.
    shop.send("payments", Some(&framed(5, &[0, 8, 1])));
    shop.send("payments", Some(&framed(5, &[2, 6, 8, 1])));
    let (service, running) = shop.start().await;
    until("the payment and the letters", || count(&service, "payments") == 1 && letters(&service).len() == 2).await;
    assert_eq!(rows(&service)[0].0, [Value::Int(9), time(), Value::Float(3.5), Value::text("n")]);
    let codes: Vec<_> = letters(&service).into_iter().map(|l| (l.code, l.origin.unwrap(), l.payload_base64)).collect();
    assert_eq!(codes, [("missing_time".into(), "0@1".into(), false), ("unknown_schema".into(), "0@2".into(), true)]);
    drop(running);
    end(service).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_by_the_registry() {
    let shop = Shop::new("format = \"json_schema\"");
    shop.registry.add(1, "JSON", JSON, &[]);
    let json = br#"{"card": 4, "at": "2026-03-01T00:00:00Z", "amount": 1.5, "other": [1]}"#;
    shop.send("payments", Some(&framed(1, json)));
    shop.send("payments", Some(json));
    let (service, running) = shop.start().await;
    until("the payment and the letter", || count(&service, "payments") == 1 && letters(&service).len() == 1).await;
    assert_eq!(rows(&service)[0].0, [Value::Int(4), time(), Value::Float(1.5), Value::Null]);
    let letter = letters(&service).remove(0);
    assert_eq!((letter.code.as_str(), letter.payload_base64), ("not_framed", true));
    assert!(letter.hint.unwrap().contains("plain JSON"));
    drop(running);
    end(service).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_down_is_waited_for_and_holds_up_no_other_topic() {
    let shop = Shop::new("format = \"avro\"");
    shop.registry.set_down(true);
    for card in 0..20 {
        shop.send("payments", Some(&framed(7, &avro(card, 1.0, ""))));
    }
    let (service, running) = shop.start().await;
    until("the reason", || problem(&service, "payments").is_some()).await;
    let reason = problem(&service, "payments").unwrap();
    assert!(reason.contains(&shop.registry.url) && reason.contains("503"), "{reason}");
    shop.send("clicks", Some(br#"{"card": 1}"#));
    until("another topic's record", || count(&service, "clicks") == 1).await;
    assert_eq!((count(&service, "payments"), letters(&service).len()), (0, 0), "what waits is neither lost nor buried");
    // It is back before it knows its schemas again.
    shop.registry.set_down(false);
    until("its first word", || problem(&service, "payments").is_some_and(|reason| reason.contains("Schema not found"))).await;
    shop.registry.add(7, "AVRO", AVRO, &[]);
    until("the payments", || count(&service, "payments") == 20).await;
    assert_eq!((problem(&service, "payments"), letters(&service).len()), (None, 0));
    drop(running);
    end(service).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_decoded_is_a_dead_letter_with_its_bytes_and_holds_nothing_up() {
    let shop = Shop::new("format = \"avro\"");
    shop.registry.add(7, "AVRO", AVRO, &[]);
    shop.registry.add(8, "PROTOBUF", EXTRA, &[]);
    shop.registry.add(9, "AVRO", "{\"type\": \"mystery\"}", &[]);
    shop.send("payments", Some(b"\x01rubbish"));
    shop.send("payments", Some(&framed(1_000_000, &avro(1, 1.0, ""))));
    shop.send("payments", Some(&framed(8, b"\0")));
    shop.send("payments", Some(&framed(9, b"\0")));
    shop.send("payments", Some(&framed(7, &avro(1, 1.0, "note")[..20])));
    shop.send("payments", Some(&framed(1_000_000, &avro(1, 1.0, ""))));
    shop.send("payments", None);
    shop.send("payments", Some(&framed(7, &avro(1, 1.0, ""))));
    let (service, running) = shop.start().await;
    until("the one behind them", || count(&service, "payments") == 1).await;
    until("the letters", || letters(&service).len() == 7).await;
    let found: Vec<_> = letters(&service).into_iter().map(|l| (l.origin.unwrap(), l.code)).collect();
    let codes = ["not_framed", "unknown_schema", "wrong_format", "bad_schema", "undecodable", "unknown_schema", "no_value"];
    let expected: Vec<_> = codes.into_iter().enumerate().map(|(at, code)| (format!("0@{at}"), code.to_owned())).collect();
    assert_eq!(found, expected);
    let first = letters(&service).remove(0);
    assert_eq!((first.payload.as_deref(), first.payload_base64), (Some("AXJ1YmJpc2g="), true));
    assert_eq!(shop.registry.asked(), 4, "an id that there is not is not asked for again at once");
    drop(running);
    end(service).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debeziums_envelope_in_avro_makes_and_deletes_rows() {
    let row = r#"{"type": "record", "name": "Value", "fields": [{"name": "card", "type": "long"},
        {"name": "at", "type": {"type": "long", "connect.version": 1, "connect.name": "io.debezium.time.MicroTimestamp"}},
        {"name": "amount", "type": ["null", "double"]}]}"#;
    let envelope = format!(
        r#"{{"type": "record", "name": "Envelope", "namespace": "db.payments", "fields": [{{"name": "before", "type": ["null", {row}]}},
        {{"name": "after", "type": ["null", "Value"]}}, {{"name": "op", "type": "string"}}, {{"name": "ts_ms", "type": ["null", "long"]}}]}}"#
    );
    let shop = Shop::new("format = \"avro\"\nkey = \"card\"\nenvelope = \"debezium\"");
    shop.registry.add(7, "AVRO", &envelope, &[]);
    let row = [&zigzag(5)[..], &zigzag(AT * 1_000_000), &[2], &8.0f64.to_le_bytes()].concat();
    let tail = |op: &[u8]| [&[2], op, &[2], &zigzag(AT * 1000)[..]].concat();
    shop.send("payments", Some(&framed(7, &[&[0, 2][..], &row, &tail(b"c")].concat())));
    shop.send("payments", Some(&framed(7, &[&[2][..], &row, &[0], &tail(b"d")].concat())));
    // The tombstone that follows a delete.
    shop.send("payments", None);
    let (service, running) = shop.start().await;
    until("the two changes", || count(&service, "payments") == 2).await;
    let read = service.features(0, service.parse_key(0, "5").unwrap(), None).await.unwrap();
    assert!(matches!(read.values[0], Value::Null | Value::Float(0.0)), "the row is taken away again: {:?}", read.values);
    let expected = vec![Value::Int(5), time(), Value::Float(8.0), Value::Null];
    assert_eq!(rows(&service), [(expected.clone(), Operation::Upsert), (expected, Operation::Delete)]);
    assert_eq!(letters(&service).len(), 0);
    drop(running);
    end(service).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bare_records_are_read_by_the_schema_in_a_file() {
    let shop = Shop::new("format = \"avro\"\nschema = \"schemas/payment.avsc\"");
    let path = shop.dir.path().join("schemas/payment.avsc");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "{").unwrap();
    let project = project::load(shop.dir.path()).unwrap_or_else(|report| panic!("{report}"));
    let service = Service::start(project, StartOptions { schedules: false, ..StartOptions::default() }).await.unwrap();
    let refused = kilter_kafka::start(&service, |_, _| Vec::new()).err().expect("a start needs the schema").to_string();
    assert!(refused.starts_with("source `payments`: schema schemas/payment.avsc: the schema is not JSON"), "{refused}");
    end(service).await;
    std::fs::write(&path, AVRO).unwrap();
    shop.send("payments", Some(&avro(6, 0.5, "bare")));
    shop.send("payments", Some(&framed(7, &avro(6, 0.5, "framed"))));
    let (service, running) = shop.start().await;
    until("the payment and the letter", || count(&service, "payments") == 1 && letters(&service).len() == 1).await;
    assert_eq!(rows(&service)[0].0, [Value::Int(6), time(), Value::Float(0.5), Value::text("bare")]);
    let letter = letters(&service).remove(0);
    assert_eq!(letter.code, "undecodable");
    assert!(letter.hint.unwrap().contains("it may be framed"));
    assert_eq!(shop.registry.asked(), 0);
    drop(running);
    end(service).await;
}

/// What `formats/make_framed.py` had Confluent's own serializers write and register.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_confluents_serializers_are_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/framed.json");
    let made: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let bytes = |hex: &str| (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect::<Vec<u8>>();
    for format in ["avro", "json_schema", "protobuf"] {
        let shop = Shop::new(&format!("format = \"{format}\""));
        for (path, answer) in made["answers"].as_object().unwrap() {
            shop.registry.shared.answers.lock().unwrap().insert(path.clone(), answer.to_string());
        }
        let of_format = made["records"].as_array().unwrap().iter().filter(|record| record["format"] == format);
        let sent: Vec<Vec<u8>> = of_format.map(|record| bytes(record["hex"].as_str().unwrap())).collect();
        sent.iter().for_each(|record| shop.send("payments", Some(record)));
        let (service, running) = shop.start().await;
        until(format, || count(&service, "payments") == 1 && letters(&service).len() == sent.len() - 1).await;
        assert_eq!(rows(&service)[0].0, [Value::Int(7), time(), Value::Float(2.5), Value::text("x")], "{format}");
        // Other messages of the same schema have no time: they could be read, and say so.
        assert!(letters(&service).iter().all(|letter| letter.code == "missing_time" && !letter.payload_base64));
        drop(running);
        end(service).await;
    }
}

fn load(dir: &Path) -> project::Project {
    project::load(dir).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn a_check_compares_the_columns_with_the_newest_schema() {
    let shop = Shop::new("format = \"avro\"");
    let schema = |shop: &Shop| {
        let found = kilter_kafka::check(&load(shop.dir.path())).unwrap();
        let payments = found.into_iter().find(|f| f.of == "source.payments").unwrap();
        let sound = payments.is_sound();
        (payments.schema.unwrap(), sound)
    };
    let (found, sound) = schema(&shop);
    assert!(found.schema.contains("which the registry does not have") && sound, "{found:?}");
    shop.registry.add(7, "AVRO", AVRO, &[]);
    shop.registry.put("/subjects/payments-value/versions/latest", 7);
    let (found, sound) = schema(&shop);
    assert_eq!((found.schema.as_str(), found.missing.len(), found.problems.len()), ("avro schema 7, version 7 of payments-value", 0, 0));
    assert!(sound);
    let changed = AVRO.replace("\"note\"", "\"notes\"").replace("\"double\"", "\"boolean\"").replace("\"card\"", "\"cards\"");
    shop.registry.add(8, "AVRO", &changed, &[]);
    shop.registry.put("/subjects/payments-value/versions/latest", 8);
    let (found, sound) = schema(&shop);
    assert_eq!(found.missing, ["card (did you mean `cards`?)", "note (did you mean `notes`?)"]);
    assert_eq!(found.problems, ["column `amount` is float64, and the schema's field is boolean"]);
    assert!(!sound);
    shop.registry.add(9, "JSON", JSON, &[]);
    shop.registry.put("/subjects/payments-value/versions/latest", 9);
    assert_eq!(schema(&shop).0.problems, ["the source's format is \"avro\""]);
    let text = std::fs::read_to_string(shop.dir.path().join("kilter.toml")).unwrap();
    std::fs::write(shop.dir.path().join("kilter.toml"), text.replace("\"avro\"", "\"protobuf\"")).unwrap();
    shop.registry.add(4, "PROTOBUF", EXTRA, &[]);
    shop.registry.put("/subjects/shop%2Fextra/versions/1", 4);
    shop.registry.add(10, "PROTOBUF", PROTO, &[("shop/extra.proto", "shop/extra")]);
    shop.registry.put("/subjects/payments-value/versions/latest", 10);
    let (found, sound) = schema(&shop);
    assert_eq!(found.schema, "protobuf schema 10, version 10 of payments-value, message shop.Payment", "it is the second of its file");
    assert!(found.missing.is_empty() && sound, "{found:?}");
    shop.registry.set_down(true);
    let (found, sound) = schema(&shop);
    assert!(found.problems[0].contains("503") && !sound, "{found:?}");
    let clicks = kilter_kafka::check(&load(shop.dir.path())).unwrap().into_iter().find(|f| f.of == "source.clicks").unwrap();
    assert_eq!(clicks.schema, None, "plain JSON has none");
    assert_eq!(shop.cluster.bootstrap_servers().split(',').count(), 1);
}
