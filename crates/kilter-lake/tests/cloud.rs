//! The lake on object storage, spoken to over HTTP: a server that keeps objects in memory and knows of S3 what the lake needs.
#![cfg(feature = "cloud")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use kilter_core::record::encode;
use kilter_core::{DataType, Event, EventTime, Operation, Schema, SourceId, Value};
use kilter_lake::{Format, Lake, Limits, storage};

type Objects = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// One request on a connection of its own.
fn serve(mut stream: TcpStream, objects: &Objects) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let length = headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (status, answer) = act(&method, &target, &headers, body, &mut objects.lock().unwrap());
    let fields = "Connection: close\r\nETag: \"1\"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT";
    write!(stream, "HTTP/1.1 {status}\r\n{fields}\r\nContent-Length: {}\r\n", answer.0.len())?;
    if let Some(range) = answer.1 {
        write!(stream, "Content-Range: {range}\r\n")?;
    }
    write!(stream, "\r\n")?;
    stream.write_all(&answer.0)
}

type Reply = (&'static str, (Vec<u8>, Option<String>));

fn act(method: &str, target: &str, headers: &BTreeMap<String, String>, body: Vec<u8>, objects: &mut BTreeMap<String, Vec<u8>>) -> Reply {
    // Names in the target are escaped.
    let key = target.replace("%3D", "=");
    if let Some((_, query)) = target.split_once('?').filter(|(_, query)| query.contains("list-type=2")) {
        return ("200 OK", (listed(query, objects).into_bytes(), None));
    }
    match (method, objects.get(&key)) {
        ("PUT", Some(_)) if headers.get("if-none-match").is_some_and(|v| v == "*") => ("412 Precondition Failed", (Vec::new(), None)),
        ("PUT", _) => {
            objects.insert(key, body);
            ("200 OK", (Vec::new(), None))
        }
        ("GET", Some(object)) => match headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.split_once('-')) {
            Some((first, last)) => {
                let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
                let range = format!("bytes {first}-{last}/{}", object.len());
                ("206 Partial Content", (object[first..=last].to_vec(), Some(range)))
            }
            None => ("200 OK", (object.clone(), None)),
        },
        ("POST", _) if target.ends_with("?delete") => {
            let text = String::from_utf8(body).unwrap();
            let folder = target.trim_end_matches("?delete").to_owned();
            let mut answer = String::from("<DeleteResult>");
            for key in text.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()) {
                objects.remove(&format!("{}/{key}", folder.trim_end_matches('/')));
                answer += &format!("<Deleted><Key>{key}</Key></Deleted>");
            }
            ("200 OK", ((answer + "</DeleteResult>").into_bytes(), None))
        }
        _ => ("404 Not Found", (Vec::new(), None)),
    }
}

/// The objects right under a prefix.
fn listed(query: &str, objects: &BTreeMap<String, Vec<u8>>) -> String {
    let prefix = query.split('&').find_map(|pair| pair.strip_prefix("prefix=")).unwrap_or_default().replace("%2F", "/");
    let mut answer = String::from("<ListBucketResult><IsTruncated>false</IsTruncated>");
    for (key, object) in objects {
        let name = key.strip_prefix("/bucket/").unwrap_or_default();
        if name.strip_prefix(&prefix).is_some_and(|rest| !rest.contains('/')) {
            let size = object.len();
            answer += &format!(
                "<Contents><Key>{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>1</ETag><Size>{size}</Size></Contents>"
            );
        }
    }
    answer + "</ListBucketResult>"
}

fn event(n: u64) -> Vec<u8> {
    let time = EventTime(1_772_000_000_000_000 + n as i64 * 3_600_000_000);
    let row = vec![Value::Int(n as i64), Value::text("a")];
    let (source, operation) = (SourceId(0), Operation::Upsert);
    let event = Event { source, offset: n, time, arrived: time, id: None, operation, row, extra: None, origin: None };
    let mut out = Vec::new();
    encode(&event, 0, &mut out);
    out
}

fn fill(lake: &Lake, until: u64) -> anyhow::Result<()> {
    let schemas = |_| Some(("payments".to_owned(), Schema::new([("account", DataType::Int64), ("note", DataType::String)])));
    let limits = Limits { records: 20, bytes: 1 << 20 };
    while lake.append(0, until, limits, &mut |offset| Ok(Some(event(offset))), &schemas)?.is_some() {}
    Ok(())
}

#[test]
fn a_lake_on_object_storage_fills_compacts_and_reads_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let objects = Objects::default();
    let kept = Arc::clone(&objects);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let objects = Arc::clone(&kept);
            std::thread::spawn(move || serve(stream, &objects));
        }
    });
    let properties =
        [("aws_endpoint", endpoint.as_str()), ("aws_allow_http", "true"), ("aws_skip_signature", "true"), ("aws_region", "somewhere")];
    let properties = properties.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let place = || storage::open("s3://bucket/some/prefix", Path::new("."), &properties).unwrap();
    let open = || Lake::open(place(), 0, Format::Delta).unwrap();
    let lake = open();
    let second = open();
    fill(&lake, 100).unwrap();
    let error = format!("{:#}", fill(&second, 100).unwrap_err());
    assert!(error.contains("someone else writes to this lake"), "{error}");
    assert!(lake.compact("2026-02-27", 1 << 20).unwrap().into > 0);
    fill(&lake, 130).unwrap();
    let again = open();
    assert_eq!(again.state(), lake.state());
    let mut reader = again.reader(7);
    for offset in 7..130 {
        let (found, record) = reader.next_record().unwrap().unwrap();
        assert_eq!((found, record), (offset, event(offset).as_slice()));
    }
    assert!(reader.next_record().unwrap().is_none());
    assert_eq!(place().list("_kilter/00000").unwrap(), ["current.json"]);
    assert_eq!(place().list("_kilter/nowhere").unwrap(), [""; 0]);
    let files = objects.lock().unwrap().keys().filter(|key| key.ends_with(".parquet")).count();
    assert_eq!(files, again.state().files.len(), "what was compacted is gone: {:?}", objects.lock().unwrap().keys());
    assert!(objects.lock().unwrap().keys().any(|key| key.starts_with("/bucket/some/prefix/events/source=payments/date=2026-02-25/")));
}
