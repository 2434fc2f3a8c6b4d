//! The command line's way to a project: through its HTTP API, of the server that runs already or of one started for the moment.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kilter_runtime::project::{self, Project};
use kilter_runtime::{Service, StartOptions};
use kilter_server::access::Access;
use kilter_store::log::LogError;
use serde_json::Value;

/// Reads a project or fails with the whole report.
pub fn load(dir: &Path) -> anyhow::Result<Project> {
    project::load(dir).map_err(|report| anyhow::anyhow!("the definitions do not hold\n\n{report}"))
}

/// The key that is sent to a running server.
const KEY: &str = "KILTER_API_KEY";

/// How long a question in SQL may take beside a stream, and where nobody else has the project open.
const QUESTION: Duration = Duration::from_secs(60);
const QUESTION_ALONE: Duration = Duration::from_secs(3600);

/// An HTTP client for one server.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    base: String,
    /// The header that says whose requests these are.
    key: Option<String>,
}

/// A project's API within reach.
pub struct Api {
    pub client: Client,
    /// The service, when it runs in this process.
    local: Option<Server>,
}

/// A server in this process.
pub struct Server {
    pub address: SocketAddr,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
    stop: tokio::sync::oneshot::Sender<()>,
}

impl Server {
    /// Drains, takes a snapshot and ends the service.
    pub async fn stop(self) -> anyhow::Result<()> {
        // The server may have ended by itself: then there is nothing to tell it.
        let _ = self.stop.send(());
        self.task.await?
    }
}

impl Client {
    /// Sends the key of the environment, where there is one.
    pub fn new(address: SocketAddr) -> Client {
        Client::with_key(address, key_of_environment())
    }

    /// Sends no key.
    pub fn without_key(address: SocketAddr) -> Client {
        Client::with_key(address, None)
    }

    /// A server anywhere, asked with this key or that of the environment.
    pub fn of_url(url: &str, key: Option<String>) -> anyhow::Result<Client> {
        let is_url = ["http://", "https://"].iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|host| !host.is_empty()));
        anyhow::ensure!(is_url, "`{url}` is no address of a server\n  hint: write it like http://127.0.0.1:8080");
        let key = match (key, key_of_environment()) {
            (Some(key), _) => Some(key),
            (None, Some(_)) if !keeps_secrets(url) => anyhow::bail!(
                "the key in {KEY} is not sent to {url}, where everybody on the way can read it\n  hint: ask by https, or say with --key which key it may have"
            ),
            (None, key) => key,
        };
        Ok(Client::with_base(url.trim_end_matches('/').to_string(), key))
    }

    fn with_key(address: SocketAddr, key: Option<String>) -> Client {
        Client::with_base(format!("http://{address}"), key)
    }

    fn with_base(base: String, key: Option<String>) -> Client {
        // A proxy of the environment would be told the key.
        let config = ureq::Agent::config_builder().proxy(None);
        let agent = config.http_status_as_error(false).timeout_connect(Some(Duration::from_secs(5))).build().new_agent();
        Client { agent, base, key: key.map(|key| format!("Bearer {}", key.trim())) }
    }

    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        let request = self.signed(self.agent.get(format!("{}{path}", self.base)));
        read(request.call().with_context(|| format!("asking {}", self.base))?)
    }

    /// Whether a server answers. It wants no key for that, and is told none.
    pub fn is_healthy(&self) -> anyhow::Result<()> {
        let request = self.agent.get(format!("{}/healthz", self.base));
        read(request.call().with_context(|| format!("asking {}", self.base))?).map(drop)
    }

    fn signed<T>(&self, request: ureq::RequestBuilder<T>) -> ureq::RequestBuilder<T> {
        match &self.key {
            Some(key) => request.header("authorization", key),
            None => request,
        }
    }

    pub fn post(&self, path: &str, body: &[u8]) -> anyhow::Result<Value> {
        let request = self.signed(self.agent.post(format!("{}{path}", self.base))).content_type("application/json");
        read(request.send(body).with_context(|| format!("asking {}", self.base))?)
    }

    /// Sends a file as the body, with parameters of the query.
    pub fn post_file(&self, path: &str, query: &[(&str, &str)], bytes: &[u8]) -> anyhow::Result<Value> {
        let request = self.signed(self.agent.post(format!("{}{path}", self.base))).query_pairs(query.iter().copied());
        let response = request.content_type("application/octet-stream").send(bytes).with_context(|| format!("asking {}", self.base))?;
        read(response)
    }

    /// The body as it is.
    pub fn get_file(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let request = self.signed(self.agent.get(format!("{}{path}", self.base)));
        let mut response = request.call().with_context(|| format!("asking {}", self.base))?;
        if !response.status().is_success() {
            read(response)?;
            anyhow::bail!("the server gave neither a file nor a reason");
        }
        Ok(response.body_mut().with_config().limit(1 << 30).read_to_vec()?)
    }

    /// The body of the answer as it comes, in the format asked for.
    pub fn post_for(&self, path: &str, accept: &str, body: &[u8]) -> anyhow::Result<impl Read + use<>> {
        let request =
            self.signed(self.agent.post(format!("{}{path}", self.base))).content_type("application/json").header("accept", accept);
        let response = request.send(body).with_context(|| format!("asking {}", self.base))?;
        if !response.status().is_success() {
            read(response)?;
            anyhow::bail!("the server gave neither an answer nor a reason");
        }
        Ok(response.into_body().into_reader())
    }

    /// The status and raw body, for callers that count rather than read.
    pub fn post_raw(&self, path: &str, content_type: &str, body: &[u8]) -> anyhow::Result<(u16, Vec<u8>)> {
        let request = self.signed(self.agent.post(format!("{}{path}", self.base)));
        let mut response = request.content_type(content_type).send(body)?;
        let status = response.status().as_u16();
        Ok((status, response.body_mut().read_to_vec()?))
    }
}

/// Whether what is sent there is encrypted, or stays on this machine.
fn keeps_secrets(url: &str) -> bool {
    let is_here = |host: &str| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    url.starts_with("https://") || url.parse::<ureq::http::Uri>().is_ok_and(|uri| uri.host().is_some_and(is_here))
}

/// A text for a terminal: what would tell it to do something, or to write backwards, is told instead.
pub fn visible(text: &str) -> String {
    let acts = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().fold(String::new(), |mut shown, c| {
        match acts(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
        shown
    })
}

fn key_of_environment() -> Option<String> {
    std::env::var(KEY).ok().filter(|key| !key.is_empty())
}

fn read(mut response: ureq::http::Response<ureq::Body>) -> anyhow::Result<Value> {
    let status = response.status();
    let bytes = response.body_mut().with_config().limit(256 << 20).read_to_vec()?;
    let value: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    if status.is_success() {
        return Ok(value);
    }
    // MLflow's routes tell the message without anything around it.
    let error = if value["error"].is_object() { &value["error"] } else { &value };
    let message = error["message"].as_str().unwrap_or("the server gave no reason");
    let message = match error["position"].as_u64() {
        Some(position) => format!("{message} (at character {position})"),
        None => message.to_string(),
    };
    // It may repeat what somebody else has sent.
    let message = visible(&message);
    match error["hint"].as_str().map(visible) {
        Some(hint) => anyhow::bail!("{message}\n  hint: {hint}"),
        None => anyhow::bail!("{message} ({status})"),
    }
}

impl Api {
    /// Asks the server that has the project open, or opens the project here for as long as needed.
    pub async fn open(dir: &Path) -> anyhow::Result<Api> {
        let project = load(dir)?;
        let listen = project.settings.server.listen.clone();
        let data = project.data_dir();
        anyhow::ensure!(
            project.definitions.workers.is_none() || data.join("events").is_dir(),
            "the project is for workers, and was never run as one process here\n  hint: ask a worker at the address that `kilter worker` printed: /v1/shards, \
             /v1/shards/0/status; `kilter up` runs the project as one process"
        );
        match Service::start(project, StartOptions { schedules: false, ..StartOptions::default() }).await {
            Ok(service) => {
                // Others on this machine are not to use what is open for a moment.
                let (access, key) = Access::of_this_process()?;
                let server = serve_to(&service, "127.0.0.1:0", access, QUESTION_ALONE).await?;
                Ok(Api { client: Client::with_key(server.address, Some(key)), local: Some(server) })
            }
            Err(e) if is_locked(&e) => {
                // The server that holds the project has written down where it listens.
                let listen = std::fs::read_to_string(data.join(ADDRESS_FILE)).unwrap_or(listen);
                let address = listen.trim().parse().with_context(|| format!("`{listen}` is no address"))?;
                let client = Client::new(address);
                client
                    .is_healthy()
                    .with_context(|| format!("another process has the project open, but its server does not answer on {listen}"))?;
                Ok(Api { client, local: None })
            }
            Err(e) => Err(e),
        }
    }

    /// Closes what was opened, with a snapshot.
    pub async fn close(self) -> anyhow::Result<()> {
        match self.local {
            Some(server) => server.stop().await,
            None => Ok(()),
        }
    }
}

/// Serves a project in this process until told to stop.
pub async fn serve(service: &Arc<Service>, listen: &str) -> anyhow::Result<Server> {
    serve_to(service, listen, Access::of_folder(&service.data.dir)?, QUESTION).await
}

async fn serve_to(service: &Arc<Service>, listen: &str, access: Access, question: Duration) -> anyhow::Result<Server> {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let logged = crate::sql::Logged::default();
    let sql = crate::sql::engine(service, question, &logged)?;
    let options = kilter_server::ServeOptions { listen: listen.to_string(), access, sql, ..kilter_server::ServeOptions::default() };
    let bound = kilter_server::bind(Arc::clone(service), options).await?;
    logged.set(bound.tracking());
    let address = bound.address();
    let task = tokio::spawn(bound.run(async move {
        let _ = stopped.await;
    }));
    Ok(Server { address, task, stop })
}

/// Where `kilter up` writes down the address it listens on, in the data folder.
pub const ADDRESS_FILE: &str = "server.address";

/// Whether the data folder is in use by another process.
pub fn is_locked(e: &anyhow::Error) -> bool {
    e.chain().any(|cause| matches!(cause.downcast_ref::<LogError>(), Some(LogError::Locked { .. })))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    /// The head of the one request that `ask` sends, in lower case.
    fn sent(ask: impl FnOnce(SocketAddr)) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}").unwrap();
            String::from_utf8(head).unwrap().to_ascii_lowercase()
        });
        ask(address);
        server.join().unwrap()
    }

    #[test]
    fn the_key_of_the_environment_goes_to_nobody_in_clear() {
        for url in ["https://x.example", "http://127.0.0.1:8080", "http://localhost/", "http://[::1]:80"] {
            assert!(keeps_secrets(url), "{url}");
        }
        for url in ["http://x.example", "http://127.0.0.1.example", "http://127.0.0.1@x.example", "http://10.0.0.1:8080"] {
            assert!(!keeps_secrets(url), "{url}");
        }
    }

    #[test]
    fn a_message_tells_a_terminal_nothing_to_do() {
        assert_eq!(visible("a\u{1b}]0;b\u{7}\nc\u{202e}d\u{2066}ü"), "a\\u{1b}]0;b\\u{7}\nc\\u{202e}d\\u{2066}ü");
    }

    #[test]
    fn the_key_goes_along_but_not_where_none_is_wanted() {
        let client = |address, key: Option<&str>| Client::with_key(address, key.map(str::to_string));
        let asked = sent(|address| drop(client(address, Some("secret")).get("/v1/status").unwrap()));
        assert!(asked.contains("authorization: bearer secret"), "{asked}");
        let healthy = sent(|address| client(address, Some("secret")).is_healthy().unwrap());
        assert!(healthy.starts_with("get /healthz ") && !healthy.contains("secret"), "{healthy}");
        let without = sent(|address| drop(Client::without_key(address).get("/v1/status").unwrap()));
        assert!(!without.contains("authorization"), "{without}");
    }
}
