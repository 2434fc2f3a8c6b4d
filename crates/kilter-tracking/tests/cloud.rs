//! Artifacts on object storage, spoken to over HTTP: a server that keeps objects in memory, knows of S3 what artifacts need, and fails when it is told to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kilter_tracking::{ArtifactPath, Artifacts, ArtifactsAt, Clashes, Differences, Entry, Error, ErrorCode, MlflowImport, Span, Tracking};

/// Bytes of a part, as the crate sends them.
const PART: usize = 8 << 20;

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Vec<u8>>,
    /// Uploads in parts that are neither complete nor given up.
    uploads: BTreeMap<String, (String, BTreeMap<usize, Vec<u8>>)>,
    number: usize,
    /// What was asked.
    requests: Vec<String>,
    /// Requests that are refused, counted from the last [`Fake::refuse`] on.
    refused: BTreeSet<usize>,
    /// Answers with an object that break off in their middle.
    broken: usize,
    largest: usize,
}

#[derive(Clone)]
struct Fake {
    bucket: Arc<Mutex<Bucket>>,
    address: String,
}

struct Reply {
    status: &'static str,
    body: Vec<u8>,
    tag: String,
    range: Option<String>,
    breaks: bool,
}

impl Reply {
    fn of(status: &'static str, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, body: body.into(), tag: "\"0\"".into(), range: None, breaks: false }
    }
}

fn tag(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(bytes.len() as u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
    format!("\"{sum:016x}\"")
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        if bytes[at] == b'%' {
            out.push(u8::from_str_radix(&text[at + 1..at + 3], 16).unwrap());
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).unwrap()
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Vec<&'a str> {
    text.split(start).skip(1).filter_map(|rest| rest.split(end).next()).collect()
}

impl Bucket {
    fn act(&mut self, method: &str, target: &str, headers: &BTreeMap<String, String>, body: Vec<u8>) -> Reply {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query: BTreeMap<String, String> =
            query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decoded(k), decoded(v))).collect();
        let Some(key) = path.strip_prefix("/bucket").map(|key| decoded(key.trim_start_matches('/'))) else {
            return Reply::of("404 Not Found", "<Error><Code>NoSuchBucket</Code></Error>");
        };
        self.requests.push(format!("{method} {key} {}", query.keys().cloned().collect::<Vec<_>>().join(",")));
        self.largest = self.largest.max(body.len());
        if self.refused.contains(&self.requests.len()) {
            return Reply::of("403 Forbidden", "<Error><Code>AccessDenied</Code></Error>");
        }
        let upload = query.get("uploadId").cloned();
        match (method, upload) {
            ("GET", _) if query.contains_key("list-type") => Reply::of("200 OK", self.listed(&query)),
            ("POST", None) if query.contains_key("uploads") => {
                self.number += 1;
                let id = format!("up/{}+", self.number);
                self.uploads.insert(id.clone(), (key, BTreeMap::new()));
                Reply::of("200 OK", format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"))
            }
            ("POST", None) if query.contains_key("delete") => {
                let text = String::from_utf8(body).unwrap();
                let keys = between(&text, "<Key>", "</Key>");
                let gone: String = keys.iter().map(|key| format!("<Deleted><Key>{key}</Key></Deleted>")).collect();
                for key in keys {
                    self.objects.remove(key);
                }
                Reply::of("200 OK", format!("<DeleteResult>{gone}</DeleteResult>"))
            }
            (_, Some(id)) if self.uploads.get(&id).is_none_or(|(of, _)| *of != key) => {
                Reply::of("404 Not Found", "<Error><Code>NoSuchUpload</Code></Error>")
            }
            ("PUT", Some(id)) => {
                let tag = tag(&body);
                self.uploads.get_mut(&id).unwrap().1.insert(query["partNumber"].parse().unwrap(), body);
                Reply { tag, ..Reply::of("200 OK", "") }
            }
            ("POST", Some(id)) => {
                let text = String::from_utf8(body).unwrap().replace("&quot;", "\"");
                let parts = &self.uploads[&id].1;
                let wanted: Vec<_> = parts.iter().map(|(number, part)| (number.to_string(), tag(part))).collect();
                let named = between(&text, "<PartNumber>", "</PartNumber>").into_iter().zip(between(&text, "<ETag>", "</ETag>"));
                if named.map(|(number, tag)| (number.to_owned(), tag.to_owned())).collect::<Vec<_>>() != wanted {
                    return Reply::of("400 Bad Request", "<Error><Code>InvalidPart</Code></Error>");
                }
                let whole = parts.values().flatten().copied().collect();
                self.uploads.remove(&id);
                self.objects.insert(key, whole);
                Reply::of("200 OK", "<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>")
            }
            ("DELETE", Some(id)) => {
                self.uploads.remove(&id);
                Reply::of("204 No Content", "")
            }
            ("PUT", None) => {
                self.objects.insert(key, body);
                Reply::of("200 OK", "")
            }
            ("GET" | "HEAD", None) => {
                let Some(object) = self.objects.get(&key) else { return Reply::of("404 Not Found", "") };
                let tag = tag(object);
                if headers.get("if-match").is_some_and(|wanted| *wanted != tag) {
                    return Reply::of("412 Precondition Failed", "");
                }
                let (body, range) = match headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) {
                    Some((first, last)) => {
                        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
                        (object[first..=last].to_vec(), Some(format!("bytes {first}-{last}/{}", object.len())))
                    }
                    None => (object.clone(), None),
                };
                let breaks = self.broken > 0 && method == "GET";
                self.broken -= usize::from(breaks);
                Reply { status: if range.is_some() { "206 Partial Content" } else { "200 OK" }, body, tag, range, breaks }
            }
            _ => Reply::of("404 Not Found", ""),
        }
    }

    fn listed(&self, query: &BTreeMap<String, String>) -> String {
        let (prefix, folders_too) = (query.get("prefix").cloned().unwrap_or_default(), query.contains_key("delimiter"));
        let (mut files, mut folders) = (String::new(), BTreeSet::new());
        for (key, object) in &self.objects {
            let Some(rest) = key.strip_prefix(&prefix) else { continue };
            match rest.split_once('/').filter(|_| folders_too) {
                Some((folder, _)) => drop(folders.insert(format!("<CommonPrefixes><Prefix>{prefix}{folder}/</Prefix></CommonPrefixes>"))),
                None => {
                    let size = object.len();
                    files += &format!(
                        "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>1</ETag><Size>{size}</Size></Contents>"
                    );
                }
            }
        }
        let folders = folders.into_iter().collect::<String>();
        format!("<ListBucketResult><IsTruncated>false</IsTruncated>{files}{folders}</ListBucketResult>")
    }
}

/// One request on a connection of its own.
fn serve(mut stream: TcpStream, bucket: &Mutex<Bucket>) -> std::io::Result<()> {
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
    let mut body = vec![0; headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let Reply { status, body, tag, range, breaks } = bucket.lock().unwrap().act(&method, &target, &headers, body);
    let range = range.map(|range| format!("Content-Range: {range}\r\n")).unwrap_or_default();
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nETag: {tag}\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n{range}");
    write!(stream, "{head}Content-Length: {}\r\n\r\n", body.len())?;
    let sent = if breaks { body.len() / 2 } else { body.len() };
    if method == "HEAD" { Ok(()) } else { stream.write_all(&body[..sent]) }
}

impl Fake {
    fn start() -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let fake = Fake { bucket: Arc::default(), address: listener.local_addr().unwrap().to_string() };
        let bucket = fake.bucket.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let bucket = bucket.clone();
                std::thread::spawn(move || serve(stream, &bucket));
            }
        });
        fake
    }

    fn at(&self, url: &str) -> ArtifactsAt {
        let endpoint = format!("http://{}", self.address);
        let properties = [
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("BUCKET", "another"),
        ];
        ArtifactsAt { url: url.into(), properties: properties.map(|(k, v)| (k.into(), v.into())).to_vec(), by_proxy: false }
    }

    async fn open(&self, url: &str) -> Result<(Tracking, tempfile::TempDir), Error> {
        let dir = tempfile::tempdir().unwrap();
        Ok((Tracking::open_at(dir.path(), None, Some(&self.at(url))).await?, dir))
    }

    /// Refuses one of the requests that come now, or none.
    fn refuse(&self, request: usize) {
        let mut bucket = self.bucket.lock().unwrap();
        bucket.requests.clear();
        bucket.refused = BTreeSet::from([request]);
    }

    fn asked(&self) -> Vec<String> {
        self.bucket.lock().unwrap().requests.clone()
    }

    fn names(&self) -> Vec<String> {
        self.bucket.lock().unwrap().objects.keys().cloned().collect()
    }

    /// Waits until nothing is left of uploads.
    async fn settled(&self) {
        for _ in 0..1200 {
            if self.bucket.lock().unwrap().uploads.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("an upload is left: {:?}", self.asked());
    }

    /// A request of somebody who has nothing but an address.
    fn ask(&self, method: &str, url: &str, body: &[u8]) -> (String, String) {
        let target = url.strip_prefix("http://").unwrap().strip_prefix(self.address.as_str()).unwrap();
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "{method} {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n", self.address, body.len()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let tag = between(head, "ETag: ", "\r\n").first().map(|tag| tag.to_string()).unwrap_or_default();
        (tag, body.to_owned())
    }
}

fn path(text: &str) -> ArtifactPath {
    ArtifactPath::parse(text).unwrap()
}

/// Bytes that tell where they stand.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|n| (n / 251 + n % 251) as u8).collect()
}

async fn put(artifacts: &Artifacts, to: &str, content: &[u8]) -> Result<(), Error> {
    let mut upload = artifacts.upload(&path(to)).await?;
    for piece in content.chunks(300_000) {
        upload.write(piece).await?;
    }
    upload.finish().await
}

async fn get(artifacts: &Artifacts, from: &str, span: Option<Span>) -> std::io::Result<Vec<u8>> {
    let mut file = artifacts.read(&path(from), span).await.map_err(std::io::Error::other)?;
    let mut content = Vec::new();
    while let Some(bytes) = file.next().await? {
        content.extend_from_slice(&bytes);
    }
    Ok(content)
}

#[tokio::test]
async fn files_of_any_size_come_and_go_under_their_own_names() {
    let fake = Fake::start();
    let (tracking, _dir) = fake.open("s3://bucket/some/prefix").await.unwrap();
    let artifacts = tracking.artifacts();
    let large = bytes(2 * PART + 5);
    let names = ["0/r/artifacts/large.bin", "0/r/artifacts/d/ä 100%.txt", "0/r/artifacts/d/empty", "0/r/artifacts/dd"];
    for (name, content) in names.into_iter().zip([&large[..], b"hello", b"", &large[..PART]]) {
        put(artifacts, name, content).await.unwrap();
        assert_eq!(get(artifacts, name, None).await.unwrap(), content, "{name}");
    }
    let mut keys: Vec<String> = names.into_iter().map(|name| format!("some/prefix/{name}")).collect();
    keys.sort();
    assert_eq!(fake.names(), keys, "the object is called as the path is");
    assert_eq!(fake.bucket.lock().unwrap().largest, PART, "what is in memory is a part");
    fake.bucket.lock().unwrap().objects.insert("some/prefix/0/r/artifacts/d/".into(), Vec::new());
    let file = |name: &str, size| Entry { name: name.into(), size };
    let folder = artifacts.list(&path("0/r/artifacts")).await.unwrap();
    assert_eq!(folder, [file("d", None), file("dd", Some(PART as u64)), file("large.bin", Some(large.len() as u64))]);
    assert_eq!(artifacts.list(&path("0/r/artifacts/d")).await.unwrap(), [file("empty", Some(0)), file("ä 100%.txt", Some(5))]);
    assert_eq!(artifacts.list(&path("")).await.unwrap(), [file("0", None)]);
    assert_eq!(artifacts.list(&path("nowhere")).await.unwrap(), []);
    for (span, part) in [
        (Span::From(2 * PART as u64), &large[2 * PART..]),
        (Span::Between(PART as u64 - 2, PART as u64 + 1), &large[PART - 2..PART + 2]),
        (Span::Last(3), &large[2 * PART + 2..]),
        (Span::From(99 << 20), &[]),
    ] {
        assert_eq!(get(artifacts, names[0], Some(span)).await.unwrap(), part, "{span:?}");
    }
    let none = artifacts.read(&path(names[2]), Some(Span::From(0))).await.unwrap();
    assert_eq!((none.size, none.range), (0, None));
    let marker = "some/prefix/0/r/artifacts/d/";
    for _ in 0..2 {
        artifacts.delete(&path("0/r/artifacts/d")).await.unwrap();
        assert_eq!(
            fake.names(),
            [marker, "some/prefix/0/r/artifacts/dd", "some/prefix/0/r/artifacts/large.bin"],
            "another program's mark stays"
        );
        assert_eq!(artifacts.list(&path("0/r/artifacts")).await.unwrap()[0], file("d", None));
        assert_eq!(artifacts.list(&path("0/r/artifacts/d")).await.unwrap(), []);
    }
    fake.bucket.lock().unwrap().objects.remove(marker);
    for gone in ["0/r/artifacts/d", "0/r/artifacts/d/empty", "0/r"] {
        let expected = if gone == "0/r" { None } else { Some(ErrorCode::ResourceDoesNotExist) };
        assert_eq!(artifacts.delete(&path(gone)).await.err().map(|e| e.code), expected, "{gone}");
    }
    let missing = artifacts.read(&path("0/r"), None).await.unwrap_err();
    assert_eq!((missing.code, fake.names().len()), (ErrorCode::ResourceDoesNotExist, 0));
    assert!(artifacts.upload(&path(&format!("{}/", "a".repeat(200)).repeat(6))).await.is_err(), "S3 has no names so long");
}

#[tokio::test]
async fn an_upload_that_fails_anywhere_leaves_what_was_there_and_nothing_else() {
    let fake = Fake::start();
    let (tracking, _dir) = fake.open("s3://bucket").await.unwrap();
    let (artifacts, large) = (tracking.artifacts(), bytes(2 * PART + 5));
    put(artifacts, "m", b"old").await.unwrap();
    for content in [&large[..], &large[..PART + 1], &large[..9]] {
        for request in 1.. {
            fake.refuse(request);
            let done = put(artifacts, "m", content).await;
            fake.settled().await;
            let asked = fake.asked();
            fake.refuse(0);
            if done.is_ok() {
                assert!(asked.len() < request && request > 1, "{asked:?}");
                break;
            }
            assert_eq!(get(artifacts, "m", None).await.unwrap(), b"old", "{asked:?}");
            assert_eq!(fake.names(), ["m"]);
        }
        assert_eq!(get(artifacts, "m", None).await.unwrap(), content);
        put(artifacts, "m", b"old").await.unwrap();
    }
    let mut upload = artifacts.upload(&path("m")).await.unwrap();
    upload.write(&large).await.unwrap();
    assert_eq!(fake.bucket.lock().unwrap().uploads.len(), 1);
    drop(upload);
    fake.settled().await;
    assert_eq!(get(artifacts, "m", None).await.unwrap(), b"old");
}

#[tokio::test]
async fn a_deletion_that_fails_is_finished_by_the_next() {
    let fake = Fake::start();
    let (tracking, _dir) = fake.open("s3://bucket").await.unwrap();
    let artifacts = tracking.artifacts();
    for request in 1..6 {
        for name in ["r/a", "r/b/c", "rr"] {
            put(artifacts, name, b"x").await.unwrap();
        }
        fake.refuse(request);
        let done = artifacts.delete(&path("r")).await;
        fake.refuse(0);
        if done.is_err() {
            let again = artifacts.delete(&path("r")).await;
            assert!(again.is_ok() || again.unwrap_err().code == ErrorCode::ResourceDoesNotExist);
        }
        assert_eq!(fake.names(), ["rr"], "{request}");
    }
}

#[tokio::test]
async fn an_object_whose_name_is_no_path_is_named_where_it_is_in_the_way() {
    let fake = Fake::start();
    let (tracking, _dir) = fake.open("s3://bucket/p").await.unwrap();
    let artifacts = tracking.artifacts();
    put(artifacts, "r/a", b"x").await.unwrap();
    fake.bucket.lock().unwrap().objects.insert("p/r/odd//x".into(), Vec::new());
    assert_eq!(artifacts.list(&path("r")).await.unwrap().len(), 2, "of the folder around it there is nothing odd to tell");
    for error in [artifacts.list(&path("r/odd")).await.unwrap_err(), artifacts.delete(&path("r")).await.unwrap_err()] {
        assert!(error.code == ErrorCode::InternalError && error.message.contains("p/r/odd//"), "{error}");
    }
    assert_eq!(fake.names(), ["p/r/a", "p/r/odd//x"]);
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke_and_never_mixes_two_versions() {
    let fake = Fake::start();
    let (tracking, _dir) = fake.open("s3://bucket").await.unwrap();
    let (artifacts, one, other) = (tracking.artifacts(), bytes(3 << 20), vec![7; 3 << 20]);
    put(artifacts, "m", &one).await.unwrap();
    fake.bucket.lock().unwrap().broken = 3;
    assert!(get(artifacts, "m", None).await.unwrap() == one);
    fake.bucket.lock().unwrap().broken = 2;
    assert!(get(artifacts, "m", Some(Span::From(5))).await.unwrap() == one[5..]);
    assert_eq!(fake.bucket.lock().unwrap().broken, 0);
    fake.bucket.lock().unwrap().broken = 1;
    let mut file = artifacts.read(&path("m"), None).await.unwrap();
    fake.bucket.lock().unwrap().objects.insert("m".into(), other.clone());
    let mut came = Vec::new();
    let end = loop {
        match file.next().await {
            Ok(Some(bytes)) => came.extend_from_slice(&bytes),
            end => break end,
        }
    };
    assert!(end.is_err() && one.starts_with(&came) && came.len() < one.len(), "{} bytes, then {end:?}", came.len());
    assert!(get(artifacts, "m", None).await.unwrap() == other);
}

#[tokio::test]
async fn a_client_brings_and_reads_parts_itself() {
    let fake = Fake::start();
    let (tracking, _dir) = fake.open("s3://bucket/p").await.unwrap();
    let (artifacts, file) = (tracking.artifacts(), path("1/r/artifacts/a b.bin"));
    assert!(artifacts.signs_reads() && artifacts.signs_uploads());
    let upload = artifacts.sign_upload(&file, 3).await.unwrap();
    let tags: Vec<String> =
        upload.urls.iter().zip(["one,", "two,", "three"]).map(|(url, part)| fake.ask("PUT", url, part.as_bytes()).0).collect();
    assert!(artifacts.read(&file, None).await.is_err(), "it is not there before it is whole");
    let mut swapped = tags.clone();
    swapped.swap(0, 1);
    for (to, tags) in [(&file, &swapped), (&file, &tags[..2].to_vec()), (&path("1/r/artifacts/other"), &tags)] {
        let error = artifacts.finish_signed(to, &upload.id, tags.clone()).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::ResourceDoesNotExist, "{error}");
    }
    artifacts.finish_signed(&file, &upload.id, tags.clone()).await.unwrap();
    let again = artifacts.finish_signed(&file, &upload.id, tags).await.unwrap_err();
    assert!(again.code == ErrorCode::ResourceDoesNotExist && again.message.contains("the file may be there"), "{again}");
    let signed = artifacts.sign_read(&file).await.unwrap();
    assert_eq!((signed.size, fake.ask("GET", &signed.url, b"").1.as_str()), (13, "one,two,three"));
    assert!(signed.url.contains("X-Amz-Expires=300&") && upload.urls[2].contains("X-Amz-Expires=3600&"), "{signed:?}");
    let upload = artifacts.sign_upload(&file, 1).await.unwrap();
    fake.ask("PUT", &upload.urls[0], b"other");
    artifacts.abort_signed(&file, &upload.id).await.unwrap();
    assert_eq!(fake.bucket.lock().unwrap().uploads.len(), 0);
    assert_eq!(get(artifacts, "1/r/artifacts/a b.bin", None).await.unwrap(), b"one,two,three");
    assert_eq!(artifacts.sign_read(&path("nope")).await.unwrap_err().code, ErrorCode::ResourceDoesNotExist);
    assert_eq!(artifacts.sign_upload(&file, 10_000).await.unwrap().urls.len(), 10_000);
    for parts in [0, 10_001] {
        assert_eq!(artifacts.sign_upload(&file, parts).await.unwrap_err().code, ErrorCode::InvalidParameterValue);
    }
}

#[tokio::test]
async fn nothing_is_signed_where_all_goes_through_the_server_or_keys_are_not_used() {
    let fake = Fake::start();
    let mut unsigned = fake.at("s3://bucket");
    unsigned.properties.push(("AWS_SKIP_SIGNATURE".into(), "true".into()));
    for at in [ArtifactsAt { by_proxy: true, ..fake.at("s3://bucket") }, unsigned] {
        let dir = tempfile::tempdir().unwrap();
        let tracking = Tracking::open_at(dir.path(), None, Some(&at)).await.unwrap();
        let artifacts = tracking.artifacts();
        put(artifacts, "a", b"x").await.unwrap();
        assert!(!artifacts.signs_reads() && !artifacts.signs_uploads());
        assert_eq!(artifacts.sign_read(&path("a")).await.unwrap_err().code, ErrorCode::NotImplemented);
        let error = artifacts.sign_upload(&path("a"), 1).await.unwrap_err();
        assert!(error.message.starts_with("Multipart upload is not supported for the current artifact repository"), "{error}");
    }
}

#[tokio::test]
async fn a_bucket_that_is_not_there_or_not_ours_is_told_at_the_start() {
    let fake = Fake::start();
    let error = fake.open("s3://nowhere").await.map(drop).unwrap_err();
    assert!(error.message.contains("s3://nowhere") && error.message.contains("no such bucket"), "{error}");
    fake.refuse(1);
    let error = fake.open("s3://bucket").await.map(drop).unwrap_err();
    assert!(error.message.contains("AWS_ACCESS_KEY_ID") && !error.message.contains("secret"), "{error}");
    fake.open("s3://bucket").await.unwrap();
}

/// A file store of MLflow with one run that has these artifacts.
fn mlruns(dir: &Path, artifacts: &[(&str, &[u8])]) {
    let write = |name: &str, content: &[u8]| {
        let at = dir.join("mlruns/0").join(name);
        std::fs::create_dir_all(at.parent().unwrap()).unwrap();
        std::fs::write(at, content).unwrap();
    };
    write(
        "meta.yaml",
        b"artifact_location: mlflow-artifacts:/0\ncreation_time: 5\nexperiment_id: '0'\nlifecycle_stage: active\nname: Default\n",
    );
    write(
        "r1/meta.yaml",
        b"artifact_uri: mlflow-artifacts:/0/r1/artifacts\nend_time: 7\nexperiment_id: '0'\nlifecycle_stage: active\nrun_id: r1\nrun_name: a\n\
          start_time: 6\nstatus: 3\nuser_id: u\n",
    );
    for (name, content) in artifacts {
        write(&format!("r1/artifacts/{name}"), content);
    }
}

#[tokio::test]
async fn a_store_of_mlflow_brings_its_files_along_whichever_request_fails() {
    let from = tempfile::tempdir().unwrap();
    let large = bytes(PART + 3);
    mlruns(from.path(), &[("notes.txt", b"notes"), ("d/large.bin", &large)]);
    let source = from.path().join("mlruns").display().to_string();
    let import = |differences| MlflowImport { source: source.clone(), artifacts: Vec::new(), clashes: Clashes::Refuse, differences };
    let fake = Fake::start();
    let (tracking, _dir) = fake.open("s3://bucket/p").await.unwrap();
    let mut failures = 0;
    let report = loop {
        fake.refuse(failures + 1);
        match tracking.import_mlflow(&import(Differences::Keep), |_, _| ()).await {
            Ok(report) => break report,
            Err(_) => failures += 1,
        }
        fake.refuse(0);
        fake.settled().await;
    };
    fake.refuse(0);
    assert!(failures > 3 && report.agrees(), "{failures}: {report:?}");
    assert_eq!(fake.names(), ["p/0/r1/artifacts/d/large.bin", "p/0/r1/artifacts/notes.txt"]);
    assert!(get(tracking.artifacts(), "0/r1/artifacts/d/large.bin", None).await.unwrap() == large);
    put(tracking.artifacts(), "0/r1/artifacts/notes.txt", b"other").await.unwrap();
    for (differences, agrees, notes) in [(Differences::Keep, false, &b"other"[..]), (Differences::Take, true, b"notes")] {
        let report = tracking.import_mlflow(&import(differences), |_, _| ()).await.unwrap();
        assert_eq!(report.agrees(), agrees, "{report:?}");
        assert_eq!(get(tracking.artifacts(), "0/r1/artifacts/notes.txt", None).await.unwrap(), notes);
    }
}

#[tokio::test]
async fn a_file_whose_name_the_storage_does_not_take_is_left_out_and_told_and_the_rest_comes() {
    let from = tempfile::tempdir().unwrap();
    let long = format!("{}/long", vec!["a".repeat(200); 5].join("/"));
    mlruns(from.path(), &[("bell\u{7}", b"x"), (&long, b"x"), ("notes.txt", b"notes")]);
    let source = from.path().join("mlruns").display().to_string();
    let import = MlflowImport { source, artifacts: Vec::new(), clashes: Clashes::Refuse, differences: Differences::Keep };
    let fake = Fake::start();
    let (tracking, _dir) = fake.open("s3://bucket/p").await.unwrap();
    let report = tracking.import_mlflow(&import, |_, _| ()).await.unwrap();
    assert!(!report.agrees() && format!("{report:?}").matches("the storage does not take it").count() == 2, "{report:?}");
    assert_eq!(fake.names(), ["p/0/r1/artifacts/notes.txt"]);
}
