//! Keys over loopback: who gets in where, and how the others are turned away.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use kilter_core::Span;
use kilter_runtime::{Service, StartOptions, project};
use kilter_server::access::keys::{self, FILE, NewKey, Role};
use kilter_server::access::{Access, Sight};
use kilter_server::{ServeOptions, bind, listen};
use kilter_tracking::Tracking;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const DEFINITIONS: &str = r#"
[project]
name = "shop"
[source.payments]
time = "at"
max_future = "none"
[source.payments.columns]
card = { type = "int64", required = true }
at = "timestamp"
amount = { type = "float64", required = true }
[features.card]
source = "payments"
entity = "card"
columns = { n = "count(*) over 1d" }
[service.overview]
features = ["card.n_1d"]
[source.outcomes]
time = "at"
columns = { card = "int64", at = "timestamp", fraud = "bool" }
[model.risk]
on = "payments"
inputs = ["payments.amount"]
label = { source = "outcomes", value = "fraud", on = "card", within = "1h" }
[decision.limit]
on = "payments"
policy = [{ when = "amount > 90", outcome = "review" }, { outcome = "approve" }]
"#;
const API: &str = "/api/2.0/mlflow";

struct Server {
    runtime: Runtime,
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
    dir: tempfile::TempDir,
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}{}", self.head, self.body))
    }
}

impl Server {
    /// A project's server; its keys are in `kilter-data`.
    fn of_project(make: impl FnOnce(&Path)) -> Server {
        Server::start(make, |dir, options| {
            Box::pin(async move {
                std::fs::write(dir.join("kilter.toml"), DEFINITIONS).unwrap();
                let project = project::load(&dir).unwrap_or_else(|report| panic!("{report}"));
                bind(Service::start(project, StartOptions::default()).await.unwrap(), options).await.unwrap()
            })
        })
    }

    fn of_tracking(make: impl FnOnce(&Path)) -> Server {
        Server::start(make, |dir, options| {
            Box::pin(async move {
                let listening = listen(options).await.unwrap();
                listening.of_tracking(Tracking::open(dir.join("kilter-data/tracking")).await.unwrap())
            })
        })
    }

    fn start<F>(make: impl FnOnce(&Path), bind: F) -> Server
    where
        F: FnOnce(std::path::PathBuf, ServeOptions) -> std::pin::Pin<Box<dyn Future<Output = kilter_server::Bound>>>,
    {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("kilter-data");
        std::fs::create_dir_all(&data).unwrap();
        make(&data);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let access = Access::of_folder(&data).unwrap();
        let options = ServeOptions { listen: "127.0.0.1:0".into(), access, ..ServeOptions::default() };
        let bound = runtime.block_on(bind(dir.path().to_path_buf(), options));
        let address = bound.address();
        let (stop, stopped) = oneshot::channel();
        let task = runtime.spawn(bound.run(async move {
            let _ = stopped.await;
        }));
        Server { runtime, address, stop, task, dir }
    }

    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("kilter-data")
    }

    /// Sends a request as it is written, and reads to the end of the answer.
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n", self.address, body.len());
        if !body.is_empty() {
            head.push_str("Content-Type: application/json\r\n");
        }
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
        reply(stream)
    }

    fn with_key(&self, key: &str, method: &str, path: &str, body: &str) -> Reply {
        self.send(method, path, &[("Authorization", &format!("Bearer {key}"))], body)
    }

    fn end(self) {
        let _ = self.stop.send(());
        self.runtime.block_on(self.task).unwrap().unwrap();
    }
}

fn reply(mut stream: TcpStream) -> Reply {
    let mut bytes = Vec::new();
    // The server may end the connection of a body that it did not read.
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text}"));
    Reply { status: head.split(' ').nth(1).unwrap().parse().unwrap(), head: head.to_ascii_lowercase(), body: body.into() }
}

fn key(data: &Path, name: &str, role: Role) -> String {
    let none = BTreeMap::new;
    keys::create(data, NewKey { name: name.into(), role, experiments: none(), models: none(), grants: None, lasts: None }).unwrap()
}

/// Asks until the answer is as wanted: the file of keys is looked at once a second.
fn until(what: &str, ask: impl Fn() -> u16, wanted: u16) {
    let began = Instant::now();
    while ask() != wanted {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}: {} and not {wanted}", ask());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

#[test]
fn without_keys_all_is_open_and_from_the_first_key_on_nothing_is() {
    for server in [Server::of_project(|_| ()), Server::of_tracking(|_| ())] {
        let path = format!("{API}/experiments/get?experiment_id=0");
        let status = |key: Option<&str>| match key {
            Some(key) => server.with_key(key, "GET", &path, "").status,
            None => server.send("GET", &path, &[], "").status,
        };
        assert_eq!(status(None), 200);
        let (first, second) = (key(&server.data(), "first", Role::Read), key(&server.data(), "second", Role::Read));
        until("a key is there", || status(None), 401);
        assert_eq!((status(Some(&first)), status(Some(&second))), (200, 200));
        keys::revoke(&server.data(), "first").unwrap();
        until("revoked", || status(Some(&first)), 401);
        assert_eq!(status(Some(&second)), 200);
        // A file that is none of keys takes nothing away and gives nothing.
        std::fs::write(server.data().join(FILE), "{").unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!((status(None), status(Some(&first)), status(Some(&second))), (401, 401, 200));
        // Nothing opens what was closed: neither the last key gone nor the file.
        std::fs::remove_file(server.data().join(FILE)).unwrap();
        until("the file is gone", || status(Some(&second)), 401);
        assert_eq!(status(None), 401);
        for open in ["/health", "/version"] {
            assert_eq!(server.send("GET", open, &[], "").status, 200, "{open}");
        }
        server.end();
    }
}

#[test]
fn a_first_file_of_keys_that_cannot_be_used_closes_what_was_open() {
    for is_folder in [false, true] {
        let server = Server::of_tracking(|_| ());
        let path = format!("{API}/experiments/get?experiment_id=0");
        assert_eq!(server.send("GET", &path, &[], "").status, 200);
        let file = server.data().join(FILE);
        // A folder is what nobody can read as a file, whoever runs this.
        if is_folder {
            std::fs::create_dir(&file).unwrap()
        } else {
            std::fs::write(&file, r#"{"keys": ["#).unwrap()
        }
        until("there is a file", || server.send("GET", &path, &[], "").status, 401);
        if is_folder {
            std::fs::remove_dir(&file).unwrap()
        } else {
            std::fs::remove_file(&file).unwrap()
        }
        let first = key(&server.data(), "first", Role::Read);
        until("it can be used", || server.with_key(&first, "GET", &path, "").status, 200);
        assert_eq!(server.send("GET", &path, &[], "").status, 401);
        server.end();
    }
}

#[test]
fn keys_of_a_file_that_cannot_be_read_any_more_open_nothing_until_it_can() {
    let mut secret = String::new();
    let server = Server::of_tracking(|data| secret = key(data, "ci", Role::Read));
    let ask = || server.with_key(&secret, "GET", &format!("{API}/experiments/get?experiment_id=0"), "").status;
    assert_eq!(ask(), 200);
    let (file, kept) = (server.data().join(FILE), server.data().join("kept"));
    std::fs::rename(&file, &kept).unwrap();
    std::fs::create_dir(&file).unwrap();
    until("a folder is in its place", ask, 401);
    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(&kept, &file).unwrap();
    until("it is back", ask, 200);
    server.end();
}

#[test]
fn a_key_comes_as_a_bearer_or_as_a_password() {
    let mut secret = String::new();
    let server = Server::of_project(|data| secret = key(data, "ci", Role::Read));
    let ask = |headers: &[(&str, &str)]| server.send("GET", "/v1/status", headers, "");
    let (bearer, lower) = (format!("Bearer {secret}"), format!("bearer  {secret}"));
    for good in [&bearer, &lower, &basic("ci", &secret), &basic("", &secret), &basic("somebody@example.com", &secret)] {
        assert_eq!(ask(&[("Authorization", good)]).status, 200, "{good}");
    }
    let wrong = format!("{}{}", &secret[..secret.len() - 1], if secret.ends_with('0') { '1' } else { '0' });
    let bad = [
        String::new(),
        "Bearer".into(),
        "Bearer ".into(),
        secret.clone(),
        format!("Token {secret}"),
        format!("Digest {secret}"),
        format!("Bearer {wrong}"),
        format!("Bearer {secret} {secret}"),
        format!("Bearer{secret}"),
        "Basic".into(),
        "Basic !!!!".into(),
        basic("ci", ""),
        basic("ci", &wrong),
        basic(&secret, ""),
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(&secret)),
        format!("Bearer {}", "a".repeat(8000)),
        format!("Bearer {secret}{}", "a".repeat(8000)),
        format!("Basic {}", "QQ==".repeat(2000)),
        "Bearer kilter_".into(),
    ];
    for bad in &bad {
        let refused = ask(&[("Authorization", bad)]);
        assert_eq!((refused.status, &refused.json()["error"]["code"]), (401, &json!("unauthenticated")), "{bad}");
        assert!(!refused.body.contains(&secret), "{bad}: {}", refused.body);
    }
    assert_eq!(ask(&[("Authorization", &bearer), ("Authorization", &bearer)]).status, 401, "two headers say two things");
    assert_eq!(ask(&[("X-Api-Key", &secret)]).status, 401);
    assert_eq!(server.send("GET", &format!("/v1/status?key={secret}"), &[], "").status, 401, "a key in the path would be in logs");

    // Each API refuses in its own shape.
    let refused = ask(&[]);
    let error = refused.json()["error"].clone();
    assert!(error["hint"].as_str().unwrap().contains("KILTER_API_KEY"), "{error}");
    assert!(
        refused.head.contains("www-authenticate: bearer realm=\"kilter\"") && refused.head.contains("www-authenticate: basic realm"),
        "{}",
        refused.head
    );
    for path in ["/api/2.0/mlflow/runs/search", "/ajax-api/2.0/mlflow/runs/search", "/v1/traces"] {
        let refused = server.send("POST", path, &[], "{}");
        assert_eq!((refused.status, &refused.json()["error_code"]), (401, &json!("UNAUTHENTICATED")), "{path}");
        assert!(refused.head.contains("www-authenticate"), "{path}");
        let refused = server.with_key(&secret, "POST", &path.replace("search", "create"), "{}");
        assert_eq!((refused.status, &refused.json()["error_code"]), (403, &json!("PERMISSION_DENIED")), "{path}: {}", refused.body);
        let message = refused.json()["message"].to_string();
        assert!(message.contains("`ci` lacks the role `write`"), "{message}");
    }
    // Where nothing is, a key is wanted too, and whoever has one is told so.
    assert_eq!((server.send("GET", "/nothing", &[], "").status, server.with_key(&secret, "GET", "/nothing", "").status), (401, 404));
    assert_eq!(server.with_key(&secret, "GET", "/api/2.0/mlflow/nothing", "").json()["error_code"], "ENDPOINT_NOT_FOUND");
    assert_eq!(server.with_key(&secret, "DELETE", "/v1/status", "").status, 403);
    server.end();
}

#[test]
fn a_page_of_another_site_gets_nothing_by_the_password_that_a_browser_keeps() {
    let mut secret = String::new();
    let server = Server::of_project(|data| secret = key(data, "me", Role::Manage));
    let ask = |headers: &[(&str, &str)]| server.send("GET", "/v1/status", headers, "").status;
    let (password, bearer) = (basic("", &secret), format!("Bearer {secret}"));
    for site in ["same-origin", "none"] {
        assert_eq!(ask(&[("Authorization", &password), ("Sec-Fetch-Site", site)]), 200, "{site}");
    }
    for site in ["cross-site", "same-site", ""] {
        assert_eq!(ask(&[("Authorization", &password), ("Sec-Fetch-Site", site)]), 403, "{site}");
    }
    // A page can send no such header by itself.
    assert_eq!(ask(&[("Authorization", &bearer), ("Sec-Fetch-Site", "cross-site")]), 200);
    // What was checked before keys were is checked still.
    assert_eq!(ask(&[("Authorization", &bearer), ("Origin", "http://evil.example")]), 403);
    assert_eq!(ask(&[("Authorization", &password), ("Origin", &format!("http://{}", server.address))]), 200);
    server.end();
}

#[test]
fn each_route_of_a_project_wants_its_role() {
    let mut secrets = Vec::new();
    let server = Server::of_project(|data| {
        secrets = Role::ALL.map(|(role, word)| (role, key(data, word, role))).into();
    });
    let manage = ["train", "promote", "rollback", "versions", "compact", "apply", "backtests", "definitions"];
    let document = server.with_key(&secrets[1].1, "GET", "/openapi.json", "").json();
    assert_eq!(document["components"]["securitySchemes"]["key"]["scheme"], "bearer");
    let mut seen = 0;
    for (route, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            seen += 1;
            // An answer without end is not waited for.
            let path = route.replace("{model}", "risk").replace("/v1/live", "/v1/live?decisions=x").replace(['{', '}'], "");
            let wanted = match method.as_str() {
                _ if ["/", "/healthz", "/readyz"].contains(&path.as_str()) => Role::None,
                "get" if route.ends_with("/definitions") => Role::Manage,
                "get" => Role::Read,
                "put" => Role::Manage,
                _ if route.ends_with("/backtest") => Role::Write,
                _ if route.contains("/events/") || route.contains("/decide/") => Role::Write,
                _ if manage.contains(&route.rsplit('/').next().unwrap()) => Role::Manage,
                _ => Role::Read,
            };
            for (role, secret) in &secrets {
                let method = method.to_uppercase();
                let answer = server.with_key(secret, &method, &path, if method == "GET" { "" } else { "{}" });
                assert_eq!(answer.status == 403, *role < wanted, "{method} {path} with {role:?}: {} {}", answer.status, answer.body);
                assert_ne!(answer.status, 401, "{method} {path}");
                let without = server.send(&method, &path, &[], "").status;
                assert_eq!(without == 401, wanted > Role::None, "{method} {path}");
            }
        }
    }
    assert!(seen > 30, "{seen}");
    // Pages too.
    for page in ["/docs", "/docs/", "/docs/swagger-ui.css"] {
        assert_eq!(server.send("GET", page, &[], "").status, 401, "{page}");
        assert!(server.send("GET", page, &[("Authorization", &basic("", &secrets[1].1))], "").status < 400, "{page}");
    }
    // The dashboard is files without data: it asks for a key itself.
    for page in ["/", "/ui", "/ui/", "/ui/decisions/loan-1"] {
        assert_ne!(server.send("GET", page, &[], "").status, 401, "{page}");
    }
    let figures = server.with_key(&secrets[1].1, "GET", "/metrics", "").body;
    for reason in ["no_key", "role"] {
        assert!(figures.contains(&format!("kilter_access_refused_total{{reason=\"{reason}\"}}")), "{figures}");
    }
    server.end();
}

#[test]
fn each_route_of_mlflows_clients_wants_its_role() {
    let mut secrets = Vec::new();
    let server = Server::of_tracking(|data| {
        secrets = Role::ALL.map(|(role, word)| (role, key(data, word, role))).into();
    });
    let reads =
        ["get", "search", "get-by-name", "list", "get-history", "batchGetInfos", "get-latest-versions", "info", "records", "server-info"];
    let manages = ["delete", "restore", "rename", "transition-stage", "delete-traces"];
    let check = |method: &str, path: &str, wanted: Role| {
        for (role, secret) in &secrets {
            let answer = server.with_key(secret, method, path, if method == "GET" { "" } else { "{}" });
            assert_eq!(answer.status == 403, *role < wanted, "{method} {path} with {role:?}: {} {}", answer.status, answer.body);
        }
        assert_eq!(server.send(method, path, &[], "").status, 401, "{method} {path}");
    };
    for (method, paths) in [
        (
            "GET",
            "experiments/get experiments/get-by-name experiments/search runs/get metrics/get-history artifacts/list model-versions/get registered-models/search",
        ),
        (
            "POST",
            "experiments/create experiments/update experiments/delete experiments/restore experiments/set-experiment-tag runs/create runs/update runs/delete \
                  runs/restore runs/search runs/log-metric runs/log-batch runs/set-tag runs/delete-tag registered-models/create registered-models/rename \
                  registered-models/get-latest-versions model-versions/create model-versions/transition-stage logged-models logged-models/search \
                  traces/delete-traces traces/link-to-run",
        ),
        ("DELETE", "registered-models/delete model-versions/delete"),
        ("PATCH", "model-versions/update"),
    ] {
        for path in paths.split_whitespace() {
            let last = path.rsplit('/').next().unwrap();
            let wanted = if reads.contains(&last) {
                Role::Read
            } else if manages.contains(&last) {
                Role::Manage
            } else {
                Role::Write
            };
            check(method, &format!("{API}/{path}"), wanted);
            check(method, &format!("/ajax-api/2.0/mlflow/{path}"), wanted);
        }
    }
    for (method, path, wanted) in [
        ("GET", "/api/2.0/mlflow/registered-models/alias", Role::Read),
        ("POST", "/api/2.0/mlflow/registered-models/alias", Role::Manage),
        ("DELETE", "/api/2.0/mlflow/registered-models/alias", Role::Manage),
        ("GET", "/api/2.0/mlflow-artifacts/artifacts/0/a", Role::Read),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/0/a", Role::Write),
        ("DELETE", "/api/2.0/mlflow-artifacts/artifacts/0/a", Role::Manage),
        ("GET", "/api/2.0/mlflow-artifacts/presigned/0/a", Role::Read),
        ("POST", "/api/2.0/mlflow-artifacts/mpu/create/0", Role::Write),
        ("POST", "/api/2.0/mlflow-artifacts/mpu/complete/0", Role::Write),
        ("POST", "/api/2.0/mlflow-artifacts/mpu/abort/0", Role::Write),
        ("DELETE", "/api/3.0/mlflow/traces/tr-1/assessments/a-1", Role::Write),
        ("DELETE", "/api/3.0/mlflow/datasets/d-1", Role::Manage),
        ("POST", "/v1/traces", Role::Write),
    ] {
        check(method, path, wanted);
    }
    server.end();
}

#[test]
fn a_huge_body_without_a_key_is_not_read() {
    let mut secret = String::new();
    let server = Server::of_project(|data| secret = key(data, "reader", Role::Read));
    for (path, authorization, status) in [
        ("/v1/events/payments", String::new(), 401),
        ("/api/2.0/mlflow-artifacts/artifacts/0/a", String::new(), 401),
        ("/v1/events/payments", format!("Authorization: Bearer {secret}\r\n"), 403),
    ] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        let method = if path.contains("artifacts") { "PUT" } else { "POST" };
        // Of the body nothing ever comes: whoever waits for it waits for good.
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{authorization}Content-Length: 1000000000000\r\n\r\n", server.address);
        stream.write_all(head.as_bytes()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut begin = [0; 12];
        stream.read_exact(&mut begin).unwrap();
        assert_eq!(String::from_utf8_lossy(&begin), format!("HTTP/1.1 {status}"), "{path}");
    }
    server.end();
}

#[test]
fn a_key_ends_when_it_was_told_to() {
    let mut secret = String::new();
    let server = Server::of_tracking(|data| {
        let none = BTreeMap::new;
        let lasts = Some(Span(1));
        secret = keys::create(
            data,
            NewKey { name: "short".into(), role: Role::Manage, experiments: none(), models: none(), grants: None, lasts },
        )
        .unwrap();
    });
    let refused = server.with_key(&secret, "GET", &format!("{API}/experiments/get?experiment_id=0"), "");
    assert_eq!(refused.status, 401);
    assert!(refused.json()["message"].as_str().unwrap().contains("has expired"), "{}", refused.body);
    server.end();
}

#[test]
fn what_is_told_live_ends_with_the_key() {
    let mut secret = String::new();
    let server = Server::of_project(|data| {
        secret = key(data, "reader", Role::Read);
        key(data, "other", Role::Manage);
    });
    let listen =
        format!("GET /v1/live HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nAuthorization: Bearer {secret}\r\n\r\n", server.address);
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(listen.as_bytes()).unwrap();
    assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
    keys::revoke(&server.data(), "reader").unwrap();
    // The end comes by itself.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    server.end();
}

#[test]
fn whoever_asks_is_told_what_it_may_do() {
    let (mut reader, mut manager) = (String::new(), String::new());
    let server = Server::of_project(|data| {
        reader = scoped(data, "reader", Role::Read, &[], &[("risk", Role::Manage)]);
        manager = key(data, "manager", Role::Manage);
    });
    let own = server.with_key(&reader, "GET", "/v1/access", "").json();
    assert_eq!(
        (&own["wanted"], &own["key"], &own["role"], &own["keys"]),
        (&json!(true), &json!("reader"), &json!("read"), &Value::Null),
        "{own}"
    );
    assert_eq!(own["models"], json!({"risk": "manage"}));
    let all = server.with_key(&manager, "GET", "/v1/access", "").json();
    let names: Vec<&str> = all["keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["reader", "manager"], "{all}");
    assert!(!all.to_string().contains("hash"), "{all}");
    server.end();
}

#[test]
fn other_machines_are_answered_only_where_there_is_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let open = |address: &str, allow_remote| {
        let access = Access::of_folder(dir.path())?;
        let options = ServeOptions { listen: address.into(), allow_remote, access, ..ServeOptions::default() };
        runtime.block_on(listen(options)).map(|_| ())
    };
    let refused = open("0.0.0.0:0", true).unwrap_err().to_string();
    assert!(refused.contains("no key") && refused.contains("kilter key create"), "{refused}");
    open("127.0.0.1:0", true).unwrap();
    let lasting = |name: &str, role, lasts| {
        let none = BTreeMap::new;
        keys::create(dir.path(), NewKey { name: name.into(), role, experiments: none(), models: none(), grants: None, lasts }).unwrap();
    };
    lasting("expired", Role::Manage, Some(Span(1)));
    lasting("useless", Role::None, None);
    assert!(open("0.0.0.0:0", true).is_err(), "a key that opens nothing is none");
    key(dir.path(), "one", Role::Read);
    let refused = open("0.0.0.0:0", false).unwrap_err().to_string();
    assert!(refused.contains("--allow-remote"), "{refused}");
    keys::revoke(dir.path(), "one").unwrap();
    assert!(open("0.0.0.0:0", true).is_err(), "a file without keys opens nothing");
    std::fs::write(dir.path().join(FILE), "{").unwrap();
    let refused = open("127.0.0.1:0", false).unwrap_err().to_string();
    assert!(refused.contains(FILE), "{refused}");
}

fn scoped(data: &Path, name: &str, role: Role, experiments: &[(&str, Role)], models: &[(&str, Role)]) -> String {
    let roles = |named: &[(&str, Role)]| named.iter().map(|(name, role)| (name.to_string(), *role)).collect();
    keys::create(
        data,
        NewKey { name: name.into(), role, experiments: roles(experiments), models: roles(models), grants: None, lasts: None },
    )
    .unwrap()
}

#[test]
fn a_role_for_one_experiment_holds_for_its_files_where_it_keeps_them_elsewhere() {
    let (mut all, mut without, mut only) = (String::new(), String::new(), String::new());
    let server = Server::of_tracking(|data| {
        all = key(data, "all", Role::Manage);
        without = scoped(data, "without", Role::Manage, &[("payroll", Role::None), ("bonus", Role::None)], &[]);
        only = scoped(data, "only", Role::None, &[("payroll", Role::Read)], &[]);
    });
    let proxy = "/api/2.0/mlflow-artifacts/artifacts";
    for (name, place) in
        [("payroll", "mlflow-artifacts:/hr/pay"), ("bonus", "mlflow-artifacts://host/hr%20b"), ("open", "mlflow-artifacts:/o")]
    {
        let body = json!({ "name": name, "artifact_location": place }).to_string();
        assert_eq!(server.with_key(&all, "POST", &format!("{API}/experiments/create"), &body).status, 200);
    }
    for path in ["hr/pay/r/a.txt", "hr%20b/a.txt", "o/a.txt", "0/a.txt", "models/a.txt"] {
        assert_eq!(server.with_key(&all, "PUT", &format!("{proxy}/{path}"), "x").status, 200, "{path}");
    }
    for (path, by_without, by_only) in [
        ("/hr/pay/r/a.txt", 403, 200),
        ("?path=hr/pay", 403, 200),
        ("?path=hr", 403, 403),
        ("?path=", 403, 403),
        ("/hr%20b/a.txt", 403, 403),
        ("?path=hr%20b", 403, 403),
        ("/o/a.txt", 200, 403),
        ("/0/a.txt", 200, 403),
        ("/models/a.txt", 403, 403),
    ] {
        for (who, key, status) in [("without", &without, by_without), ("only", &only, by_only)] {
            let got = server.with_key(key, "GET", &format!("{proxy}{path}"), "");
            assert_eq!(got.status, status, "{path} by {who}: {}", got.body);
        }
    }
    // Past the server as through it; a folder, which has no signed addresses, says so to whoever gets that far.
    let signed = "/api/2.0/mlflow-artifacts";
    for (folder, by_without, by_only) in
        [("hr/pay/r", 403, 501), ("hr", 403, 403), ("hr%20b", 403, 403), ("o", 501, 403), ("models", 403, 403)]
    {
        for (key, status) in [(&without, by_without), (&only, by_only)] {
            assert_eq!(server.with_key(key, "GET", &format!("{signed}/presigned/{folder}/a.txt"), "").status, status, "{folder}");
            let writes = if key == &only { 403 } else { status };
            for (what, more) in [("create", ""), ("complete", r#", "parts": [{"part_number": 1}]"#), ("abort", "")] {
                let body = format!(r#"{{"path": "/x/a.txt", "upload_id": "i"{more}}}"#);
                let got = server.with_key(key, "POST", &format!("{signed}/mpu/{what}/{folder}"), &body);
                assert_eq!(got.status, writes, "{what} in {folder}: {}", got.body);
            }
        }
    }
    assert_eq!(server.with_key(&only, "PUT", &format!("{proxy}/hr/pay/b.txt"), "x").status, 403);
    assert_eq!(server.with_key(&without, "DELETE", &format!("{proxy}/hr/pay/r/a.txt"), "").status, 403);
    server.end();
}

#[test]
fn a_role_for_one_model_of_the_project_holds_for_its_routes() {
    let (mut without, mut only) = (String::new(), String::new());
    let server = Server::of_project(|data| {
        without = scoped(data, "without", Role::Manage, &[], &[("risk", Role::None)]);
        only = scoped(data, "only", Role::None, &[], &[("risk", Role::Read)]);
    });
    let models = |key: &str| server.with_key(key, "GET", "/v1/models", "").json()["models"].as_array().unwrap().len();
    assert_eq!((models(&without), models(&only)), (0, 1));
    for (method, path) in [
        ("GET", "/v1/models/risk"),
        ("GET", "/v1/models/ri%73k"),
        ("POST", "/v1/models/risk/train"),
        ("POST", "/v1/models/%72isk/rollback"),
    ] {
        let refused = server.with_key(&without, method, path, "");
        assert_eq!(refused.status, 403, "{method} {path}: {}", refused.body);
    }
    assert_eq!(server.with_key(&without, "GET", "/v1/models/other", "").status, 404);
    assert_eq!(server.with_key(&only, "GET", "/v1/models/risk", "").status, 200);
    let refused = server.with_key(&only, "POST", "/v1/models/risk/train", "{}");
    assert!(refused.status == 403 && refused.body.contains("lacks the role `manage` for model `risk`"), "{}", refused.body);
    assert_eq!(server.with_key(&only, "GET", "/v1/status", "").status, 403);
    // What is found out of a request later is counted too.
    let counted = || {
        let figures = server.with_key(&without, "GET", "/metrics", "").body;
        let line = figures.lines().find_map(|line| line.strip_prefix("kilter_access_refused_total{reason=\"role\"} ").map(str::to_string));
        line.unwrap_or_else(|| panic!("{figures}")).parse::<u64>().unwrap()
    };
    let before = counted();
    assert_eq!(server.with_key(&without, "POST", &format!("{API}/registered-models/create"), r#"{"name": "risk"}"#).status, 403);
    assert_eq!(counted(), before + 1);
    server.end();
}

#[test]
fn a_key_that_may_not_read_everything_asks_nothing_in_sql() {
    let mut keys = Vec::new();
    let server = Server::of_project(|data| {
        keys.push((key(data, "reader", Role::Read), true));
        keys.push((scoped(data, "more", Role::Read, &[("churn", Role::Write)], &[]), true));
        keys.push((scoped(data, "dashboard", Role::Read, &[("payroll", Role::None)], &[]), false));
        keys.push((scoped(data, "no-model", Role::Manage, &[], &[("approve", Role::None)]), false));
    });
    let access = Access::of_folder(server.data()).unwrap();
    for (key, may) in &keys {
        // This server has no engine.
        let expected = if *may { 501 } else { 403 };
        for (method, path, body) in [("POST", "/v1/sql", r#"{"query":"SELECT 1"}"#), ("GET", "/v1/sql/tables", "")] {
            let reply = server.with_key(key, method, path, body);
            assert_eq!(reply.status, expected, "{path} {}", reply.json());
        }
        assert_eq!(access.reader(key, "a test").is_some(), *may);
    }
    server.end();
}

#[test]
fn a_key_with_grants_asks_in_sql_and_nothing_else() {
    let granted = |data: &Path, name: &str, role: Role, grants: &[&str]| {
        let none = BTreeMap::new;
        let grants = Some(grants.iter().map(|grant| (*grant).to_string()).collect());
        keys::create(data, NewKey { name: name.into(), role, experiments: none(), models: none(), grants, lasts: None }).unwrap()
    };
    let (mut bi, mut reader, mut nothing, mut boss) = (String::new(), String::new(), String::new(), String::new());
    let server = Server::of_project(|data| {
        bi = granted(data, "bi", Role::None, &["events.payments (card)"]);
        reader = granted(data, "reader", Role::Read, &["decisions"]);
        nothing = granted(data, "nothing", Role::Manage, &[]);
        boss = key(data, "boss", Role::Manage);
    });
    let asked = |key: &str, method: &str, path: &str| server.with_key(key, method, path, r#"{"query":"SELECT 1"}"#);
    let sql = [("POST", "/v1/sql"), ("GET", "/v1/sql/tables")];
    for (method, path) in sql {
        // This server has no engine.
        assert_eq!((asked(&bi, method, path).status, asked(&reader, method, path).status), (501, 501), "{path}");
        let refused = asked(&nothing, method, path);
        assert!(refused.status == 403 && refused.body.contains("key `nothing` has no grant"), "{}", refused.body);
    }
    // Its grants are for SQL alone.
    for (method, path) in [("GET", "/v1/status"), ("GET", "/v1/decisions"), ("POST", "/v1/decide/limit"), ("GET", "/openapi.json")] {
        assert_eq!(asked(&bi, method, path).status, 403, "{path}");
        assert_eq!(asked(&reader, method, path).status, if method == "GET" { 200 } else { 403 }, "{path}");
    }
    assert_eq!(server.with_key(&reader, "GET", "/v1/status", "").status, 200, "a role holds beside grants");
    // Who it is, it is told; what others may see, only who manages.
    let own = server.with_key(&bi, "GET", "/v1/access", "").json();
    assert_eq!((&own["key"], &own["role"], &own["grants"]), (&json!("bi"), &json!("none"), &json!(["events.payments (card)"])), "{own}");
    assert_eq!(own["keys"], Value::Null);
    let all = server.with_key(&boss, "GET", "/v1/access", "").json();
    assert_eq!(all["grants"], Value::Null, "{all}");
    let grants: Vec<&Value> = all["keys"].as_array().unwrap().iter().map(|key| &key["grants"]).collect();
    assert_eq!(grants, [&json!(["events.payments (card)"]), &json!(["decisions"]), &json!([]), &Value::Null]);

    // By another way than HTTP: who may come in, and what is seen by whom by now.
    let access = Access::of_folder(server.data()).unwrap();
    let see = |key: &str| access.reader(key, "a test").and_then(|reader| access.sight(Some(&reader)));
    assert_eq!(see(&bi), Some(Sight::Granted(["events.payments (card)".to_string()].into())));
    assert_eq!((see(&boss), see(&nothing)), (Some(Sight::Everything), None));
    assert!(access.exchange("bi").is_some() && access.exchange("nothing").is_none());
    let before = access.reader(&reader, "a test").unwrap();
    let eventually = |what: &str, is: &dyn Fn() -> bool| {
        let until = Instant::now() + Duration::from_secs(20);
        while !is() {
            assert!(Instant::now() < until, "it does not come: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    keys::grant(&server.data(), "reader", Some(vec!["labels".into()])).unwrap();
    eventually("other grants", &|| access.sight(Some(&before)) == Some(Sight::Granted(["labels".to_string()].into())));
    keys::grant(&server.data(), "reader", None).unwrap();
    eventually("none, with the role to read", &|| access.sight(Some(&before)) == Some(Sight::Everything));
    keys::grant(&server.data(), "reader", Some(Vec::new())).unwrap();
    eventually("nothing", &|| access.sight(Some(&before)).is_none());
    eventually("nothing over HTTP", &|| asked(&reader, "POST", "/v1/sql").status == 403);
    server.end();
}

#[test]
fn a_role_for_one_experiment_holds_for_its_files_and_its_spans() {
    let (mut all, mut mine) = (String::new(), String::new());
    let server = Server::of_tracking(|data| {
        all = key(data, "all", Role::Manage);
        mine = scoped(data, "mine", Role::None, &[("mine", Role::Write)], &[]);
    });
    let made =
        |key: &str, name: &str| server.with_key(key, "POST", &format!("{API}/experiments/create"), &json!({ "name": name }).to_string());
    assert_eq!(made(&mine, "hidden").status, 403);
    // As a client does it that finds no experiment of the name.
    let by_name = |name: &str| server.with_key(&mine, "GET", &format!("{API}/experiments/get-by-name?experiment_name={name}"), "").status;
    assert_eq!((by_name("mine"), by_name("hidden")), (404, 403));
    let id = |reply: Reply| reply.json()["experiment_id"].as_str().unwrap().to_string();
    let (hidden, own) = (id(made(&all, "hidden")), id(made(&mine, "mine")));
    let proxy = |path: &str| format!("/api/2.0/mlflow-artifacts/artifacts/{path}");
    assert_eq!(server.with_key(&all, "PUT", &proxy(&format!("{hidden}/a.txt")), "secret").status, 200);
    assert_eq!(server.with_key(&mine, "PUT", &proxy(&format!("{own}/a.txt")), "own").status, 200);
    assert_eq!(server.with_key(&mine, "GET", &proxy(&format!("{own}/a.txt")), "").body, "own");
    for path in [
        format!("{hidden}/a.txt"),
        format!("0{hidden}/a.txt"),
        format!("%3{hidden}/a.txt"),
        format!("{hidden}%2Fa.txt"),
        format!("{own}/../{hidden}/a.txt"),
        format!("{own}/%2e%2e/{hidden}/a.txt"),
        format!("./{hidden}/a.txt"),
        format!("/{hidden}/a.txt"),
        format!("%20{hidden}/a.txt"),
        "models/a.txt".into(),
    ] {
        let got = server.with_key(&mine, "GET", &proxy(&path), "");
        assert!([400, 403, 404].contains(&got.status) && !got.body.contains("secret"), "{path}: {} {}", got.status, got.body);
    }
    for (query, status) in [(format!("?path={hidden}"), 403), (String::new(), 403), (format!("?path={own}"), 200)] {
        assert_eq!(server.with_key(&mine, "GET", &format!("/api/2.0/mlflow-artifacts/artifacts{query}"), "").status, status, "{query}");
    }

    let export = |key: &str, experiment: &str, trace: &str, name: &str| {
        let span = json!({ "traceId": trace.repeat(16), "spanId": name.repeat(8), "name": "n", "startTimeUnixNano": "17", "endTimeUnixNano": "18" });
        let body = json!({ "resourceSpans": [{ "scopeSpans": [{ "spans": [span] }] }] }).to_string();
        let bearer = format!("Bearer {key}");
        server.send("POST", "/v1/traces", &[("Authorization", &bearer), ("x-mlflow-experiment-id", experiment)], &body)
    };
    assert_eq!(export(&all, &hidden, "0a", "01").status, 200);
    assert_eq!(export(&mine, &own, "0b", "01").status, 200);
    assert_eq!(export(&mine, &hidden, "0c", "01").status, 403);
    let refused = export(&mine, &own, "0a", "02");
    assert_eq!(
        (refused.status, &refused.json()["error_code"]),
        (403, &json!("PERMISSION_DENIED")),
        "a span for a trace that lies elsewhere"
    );
    let places: Vec<Value> = [&hidden, &own].into_iter().map(|id| json!({ "mlflow_experiment": { "experiment_id": id } })).collect();
    let search = json!({ "locations": places }).to_string();
    let found = server.with_key(&mine, "POST", "/api/3.0/mlflow/traces/search", &search).json();
    assert_eq!(found["traces"].as_array().unwrap().len(), 1, "{found}");
    let found = server.with_key(&mine, "GET", &format!("{API}/experiments/search?max_results=1"), "").json();
    assert_eq!(found["experiments"][0]["name"], "mine", "{found}");
    server.end();
}

#[test]
fn pages_of_searches_tell_nothing_of_what_is_hidden() {
    let (mut all, mut some, mut most) = (String::new(), String::new(), String::new());
    let server = Server::of_tracking(|data| {
        all = key(data, "all", Role::Manage);
        // An id goes before a name: 2 is `b`.
        some = scoped(
            data,
            "some",
            Role::None,
            &[("a", Role::Read), ("c", Role::Read), ("2", Role::None), ("b", Role::Read)],
            &[("m2", Role::Read)],
        );
        most = scoped(data, "most", Role::Read, &[("0", Role::None), ("b", Role::None)], &[("m1", Role::None), ("m3", Role::None)]);
    });
    let made = |path: &str, body: Value| assert_eq!(server.with_key(&all, "POST", path, &body.to_string()).status, 200, "{path}");
    for name in ["a", "b", "c", "d"] {
        made(&format!("{API}/experiments/create"), json!({ "name": name }));
    }
    for name in ["m1", "m2", "m3"] {
        made(&format!("{API}/registered-models/create"), json!({ "name": name }));
        made(&format!("{API}/model-versions/create"), json!({ "name": name, "source": "s3://b/x" }));
    }
    for (name, experiments) in [("of-a-and-b", json!(["1", "2"])), ("of-b", json!(["2"])), ("of-none", json!([]))] {
        made("/api/3.0/mlflow/datasets/create", json!({ "name": name, "experiment_ids": experiments }));
    }
    // Page by page, one thing each; the last page has no token.
    let paged = |key: &str, path: &str, what: &str| {
        let (mut names, mut token) = (Vec::new(), String::new());
        loop {
            let body = json!({ "max_results": 1, "page_token": token, "order_by": ["name ASC"] }).to_string();
            let reply = if path.contains("registered-models") || path.contains("model-versions") {
                server.with_key(key, "GET", &format!("{path}?max_results=1&page_token={token}&order_by=name%20ASC"), "")
            } else {
                server.with_key(key, "POST", path, &body)
            };
            let page = reply.json();
            let found = page[what].as_array().unwrap_or_else(|| panic!("an empty page in {path}: {page}"));
            names.extend(found.iter().map(|one| one["name"].as_str().unwrap().to_string()));
            match page["next_page_token"].as_str() {
                Some(next) => token = next.into(),
                None => return names.join(" "),
            }
        }
    };
    for (key, experiments, models, datasets) in [
        (&some, "a c", "m2", "of-a-and-b"),
        (&most, "a c d", "m2", "of-a-and-b of-none"),
        (&all, "Default a b c d", "m1 m2 m3", "of-a-and-b of-b of-none"),
    ] {
        assert_eq!(paged(key, &format!("{API}/experiments/search"), "experiments"), experiments);
        assert_eq!(paged(key, &format!("{API}/registered-models/search"), "registered_models"), models);
        assert_eq!(paged(key, &format!("{API}/model-versions/search"), "model_versions"), models);
        assert_eq!(paged(key, "/api/3.0/mlflow/datasets/search", "datasets"), datasets);
    }
    // A token counts what its own key may see.
    let token =
        |key: &str| server.with_key(key, "GET", &format!("{API}/experiments/search?max_results=1"), "").json()["next_page_token"].clone();
    let other = server.with_key(&some, "GET", &format!("{API}/experiments/search?page_token={}", token(&all).as_str().unwrap()), "");
    assert!(other.status == 400 && token(&some).as_str().unwrap().starts_with("1-"), "{}", other.body);
    server.end();
}
