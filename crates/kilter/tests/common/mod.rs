//! What the tests of the built program share: a project in a temporary folder, a server that can be killed, a client, dice.

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

pub const JSON: &str = "application/json";
pub const NDJSON: &str = "application/x-ndjson";

/// Longer than anything here takes on a busy machine: only a hang is told by it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Payments of cards, told to be fraud or not half an hour later, and visits beside them.
pub const SHOP: &str = r#"
[project]
name = "shop"
clock = "event"
[log]
segment = "1MiB"
[snapshot]
every = "100ms"
min_events = 100
[source.payments]
time = "at"
id = "payment_id"
lateness = "30d"
max_future = "none"
[source.payments.columns]
payment_id = "string"
card = { type = "int64", required = true }
at = "timestamp"
amount = { type = "float64", required = true }
[source.outcomes]
time = "at"
lateness = "30d"
max_future = "none"
[source.outcomes.columns]
payment_id = { type = "string", required = true }
at = "timestamp"
fraud = "bool"
[source.visits]
time = "at"
lateness = "30d"
max_future = "none"
[source.visits.columns]
card = { type = "int64", required = true }
at = "timestamp"
seconds = "int64"
[features.card]
source = "payments"
entity = "card"
[features.card.columns]
payments = "count(*) over 1h, 1d"
mean = "mean(amount) over 1d"
total = "count(*)"
spent = { value = "sum(amount)", default = 0 }
[features.visitor]
source = "visits"
entity = "card"
[features.visitor.columns]
visits = "count(*) over 1d"
total = "count(*)"
seconds = { value = "sum(seconds)", default = 0 }
[model.fraud]
on = "payments"
learner = "gbdt"
params = { trees = 20, leaves = 7, min_leaf_rows = 5 }
inputs = ["card.*", "visitor.*", "payments.amount"]
label = { source = "outcomes", value = "fraud", on = "payment_id", within = "1h" }
min_rows = 50
[decision.pay]
model = "fraud"
policy = [{ when = "score >= 0.5", outcome = "block" }, { outcome = "accept" }]
reasons = 2
fallback = "accept"
[monitor.drift]
model = "fraud"
signal = "psi"
above = 0.05
window = "6h"
every = "1h"
min_rows = 20
"#;

/// Midnight before the first event of every test: 2023-11-14.
const START_SECONDS: i64 = 1_699_920_000;

/// A time so many seconds after the start, as events carry it.
pub fn at(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let start = START_SECONDS / 86_400;
    let (year, month, day) = civil(start + days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Howard Hinnant's days-to-date.
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// SplitMix64.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 up to `n`, exclusive.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn millis(&mut self, most: usize) -> Duration {
        Duration::from_micros(self.below(most * 1000 + 1) as u64)
    }
}

/// A project folder that goes away with the test.
pub struct Project {
    folder: tempfile::TempDir,
}

impl Project {
    pub fn new(definitions: &str) -> Project {
        let project = Project::empty();
        project.write("kilter.toml", definitions);
        project
    }

    pub fn empty() -> Project {
        Project { folder: tempfile::Builder::new().prefix("kilter-test-").tempdir().unwrap() }
    }

    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// A folder or file of the data folder.
    pub fn data(&self, name: &str) -> PathBuf {
        self.dir().join("kilter-data").join(name)
    }

    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// The one segment file of a log, or its newest.
    pub fn segment(&self, log: &str) -> PathBuf {
        files(&self.data(log), ".klog").pop().unwrap_or_else(|| panic!("no segment in {log}"))
    }

    /// Runs a command on the project to its end.
    pub fn kilter(&self, args: &[&str]) -> Output {
        let mut all = vec!["-C", self.dir().to_str().unwrap()];
        all.extend(args);
        kilter(&all)
    }

    /// Starts the server and waits until it is ready.
    pub fn up(&self) -> Server {
        self.up_with(&["--listen", "127.0.0.1:0"])
    }

    pub fn up_with(&self, args: &[&str]) -> Server {
        match self.start(args).ready() {
            Ok(server) => server,
            Err(output) => panic!("kilter up ended with {:?}\n{}{}", output.code, output.stdout, output.stderr),
        }
    }

    /// Starts the server and does not wait.
    pub fn start(&self, args: &[&str]) -> Starting {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kilter"));
        command.arg("-C").arg(self.dir()).arg("up").args(args);
        self.spawn(command)
    }

    /// Starts a command that ends up being the server.
    pub fn spawn(&self, mut command: Command) -> Starting {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        // Outside the project: a full disk of the project must not swallow what the server says.
        let log = std::env::temp_dir().join(format!("kilter-test-{}-{}.log", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let stderr = std::fs::File::create(&log).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Starting { process: Process { child, stdout, log, killer: None } }
    }

    /// Runs `kilter up` that must not come up, and answers what it said.
    pub fn refused(&self) -> Output {
        match self.start(&["--listen", "127.0.0.1:0"]).ready() {
            Ok(server) => panic!("the server came up on {}", server.address),
            Err(output) => output,
        }
    }
}

/// Names in a folder with this ending, sorted.
pub fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir).map(|all| all.map(|e| e.unwrap().path()).collect()).unwrap_or_default();
    found.retain(|p| p.to_str().unwrap().ends_with(ending));
    found.sort();
    found
}

/// Runs the program to its end.
pub fn kilter(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kilter"));
    Output::of(command.args(args).stdin(Stdio::null()).output().unwrap())
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn of(output: std::process::Output) -> Output {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Output { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }

    /// What a command printed that must have gone well.
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    pub fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// Checks that it failed with this code and said all of this on stderr.
    pub fn failed(self, code: i32, parts: &[&str]) -> String {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is missing in:\n{}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        self.stderr
    }
}

/// A server process.
pub struct Process {
    child: Child,
    stdout: BufReader<ChildStdout>,
    log: PathBuf,
    killer: Option<JoinHandle<()>>,
}

impl Process {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn signal(&self, signal: i32) {
        // The process has not been waited for yet, so the number is still its own.
        unsafe { libc::kill(self.pid(), signal) };
    }

    fn wait(&mut self) -> Output {
        if let Some(killer) = self.killer.take() {
            killer.join().unwrap();
        }
        let started = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if started.elapsed() > PATIENCE => {
                    let _ = self.child.kill();
                    panic!("the server did not end\n{}", self.log());
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        let mut stdout = String::new();
        let _ = self.stdout.read_to_string(&mut stdout);
        Output { code: status.code(), stdout, stderr: self.log() }
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(killer) = self.killer.take() {
            let _ = killer.join();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.log);
    }
}

/// A server that may not be up yet.
pub struct Starting {
    process: Process,
}

impl Starting {
    /// Waits until it is ready, or has ended.
    pub fn ready(mut self) -> Result<Server, Output> {
        let mut said = String::new();
        let address = loop {
            let mut line = String::new();
            if self.process.stdout.read_line(&mut line).unwrap_or(0) == 0 {
                let output = self.process.wait();
                return Err(Output { stdout: said + &output.stdout, ..output });
            }
            if let Some((_, rest)) = line.split_once("http://") {
                let address: String = rest.chars().take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':')).collect();
                break address.parse::<SocketAddr>().unwrap_or_else(|e| panic!("{e} in {line}"));
            }
            said += &line;
        };
        let server = Server { agent: agent(), address, process: self.process };
        let ready = server.try_get("/readyz").map(|r| r.status);
        assert!(matches!(ready, Ok(200) | Err(_)), "/readyz answers {ready:?}\n{}", server.log());
        Ok(server)
    }

    /// SIGKILL before anyone has heard of it.
    pub fn kill_after(mut self, delay: Duration) {
        std::thread::sleep(delay);
        self.process.signal(libc::SIGKILL);
        self.process.wait();
    }
}

fn agent() -> ureq::Agent {
    // A connection of its own for each request: after a refusal that did not wait for the body the server ends it, at a moment of its own.
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).max_idle_connections(0);
    config.build().new_agent()
}

/// A server that is up.
pub struct Server {
    pub address: SocketAddr,
    agent: ureq::Agent,
    process: Process,
}

impl Server {
    pub fn client(&self) -> Client {
        Client { agent: agent(), address: self.address }
    }

    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The next line it prints.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.process.stdout.read_line(&mut line).unwrap();
        line
    }

    pub fn try_get(&self, path: &str) -> Result<Reply, ureq::Error> {
        Client { agent: self.agent.clone(), address: self.address }.try_get(path)
    }

    pub fn get(&self, path: &str) -> Reply {
        self.try_get(path).unwrap_or_else(|e| panic!("{path}: {e}\n{}", self.log()))
    }

    pub fn try_post(&self, path: &str, content_type: &str, body: impl AsRef<[u8]>) -> Result<Reply, ureq::Error> {
        Client { agent: self.agent.clone(), address: self.address }.try_post(path, content_type, body)
    }

    pub fn post(&self, path: &str, content_type: &str, body: impl AsRef<[u8]>) -> Reply {
        self.try_post(path, content_type, body).unwrap_or_else(|e| panic!("{path}: {e}\n{}", self.log()))
    }

    /// Sends rows that must all be taken in.
    pub fn send(&self, source: &str, rows: &[String]) -> Value {
        let report = self.post(&format!("/v1/events/{source}"), NDJSON, rows.join("\n")).ok();
        assert_eq!(report["accepted"], rows.len(), "{report}");
        report
    }

    pub fn next_offset(&self) -> u64 {
        self.get("/v1/status").ok()["next_offset"].as_u64().unwrap()
    }

    /// The features of an entity.
    pub fn features(&self, view: &str, key: i64) -> Value {
        self.get(&format!("/v1/features/{view}/{key}")).ok()["features"].clone()
    }

    /// All decisions there are, oldest first.
    pub fn decisions(&self) -> Vec<Value> {
        let mut all = Vec::new();
        let mut before = String::new();
        loop {
            let page = self.get(&format!("/v1/decisions?limit=1000{before}")).ok();
            all.extend(page["decisions"].as_array().unwrap().iter().cloned());
            match page["next"].as_u64() {
                Some(next) => before = format!("&before={next}"),
                None => break,
            }
        }
        all.reverse();
        all
    }

    /// SIGKILL in a while; requests go on until they fail.
    pub fn kill_in(&mut self, delay: Duration) {
        let pid = self.pid();
        self.process.killer = Some(std::thread::spawn(move || {
            std::thread::sleep(delay);
            // Whoever waits for the process joins this thread first: the number is still the server's.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }));
    }

    pub fn is_doomed(&self) -> bool {
        self.process.killer.is_some()
    }

    /// SIGKILL, now.
    pub fn kill(mut self) -> Output {
        self.process.signal(libc::SIGKILL);
        self.process.wait()
    }

    pub fn terminate(&self) {
        self.process.signal(libc::SIGTERM);
    }

    /// Waits for the end that something else has brought about.
    pub fn end(mut self) -> Output {
        self.process.wait()
    }

    /// SIGTERM, and the orderly end that must follow.
    pub fn stop(self) -> Output {
        self.terminate();
        let output = self.end();
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        output
    }
}

/// An HTTP client.
#[derive(Clone)]
pub struct Client {
    pub agent: ureq::Agent,
    pub address: SocketAddr,
}

impl Client {
    pub fn to(address: SocketAddr) -> Client {
        Client { agent: agent(), address }
    }

    pub fn try_get(&self, path: &str) -> Result<Reply, ureq::Error> {
        read(self.agent.get(format!("http://{}{path}", self.address)).call()?)
    }

    pub fn try_post(&self, path: &str, content_type: &str, body: impl AsRef<[u8]>) -> Result<Reply, ureq::Error> {
        read(self.agent.post(format!("http://{}{path}", self.address)).content_type(content_type).send(body.as_ref())?)
    }
}

fn read(mut response: ureq::http::Response<ureq::Body>) -> Result<Reply, ureq::Error> {
    let body = response.body_mut().with_config().limit(256 << 20).read_to_vec()?;
    Ok(Reply { status: response.status().as_u16(), headers: response.headers().clone(), body })
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The value of a request that must have gone well.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// Checks a refusal: its status, its code, and parts of what it tells, message and hint together.
    pub fn refused(&self, status: u16, code: &str, parts: &[&str]) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        let error = self.json()["error"].clone();
        assert_eq!(error["code"], code, "{error}");
        let told = format!("{}\n{}", error["message"].as_str().unwrap_or_default(), error["hint"].as_str().unwrap_or_default());
        for part in parts {
            assert!(told.contains(part), "`{part}` is missing in: {told}");
        }
        error
    }
}

/// A loopback port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits for something that comes about by itself.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}
