//! Points one kind of load at an HTTP server of this machine and prints one line of JSON with what came of it.
//!
//!   kilter-load closed URL --requests FILE --connections N --seconds S
//!   kilter-load open   URL --requests FILE --connections N --seconds S --rate R
//!   kilter-load probe  URL --requests FILE --seconds S --rate R
//!
//! closed: each connection sends its next request when it has the answer to the last: what the server can do at most.
//! open:   a request is due every 1/R seconds whatever the server does, and its latency counts from the moment it was due. A server
//!         that stalls is charged for everybody who had to wait meanwhile (no coordinated omission).
//! probe:  a request is sent when due, and from then on a second connection asks without pause until the answer shows its effect.
//!
//! FILE has one request a line: `/path<tab>body`, or a body alone, which goes to the URL's own path. `--lines N` puts N lines into one
//! NDJSON body. `--once` ends with the file instead of starting it anew. For probe a line is `/path<tab>body<tab>/get<tab>text in the answer`.
//!
//! One thread, so that it takes little from the server beside it.

mod http;
mod report;

use std::time::{Duration, Instant};

use http::{Connection, Target, format_get, format_post};
use report::Report;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

fn main() {
    let options = Options::parse(std::env::args().skip(1).collect());
    // Sleeps end when they should, not within the kernel's usual 50 us.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let report = match options.mode.as_str() {
        "closed" | "open" => drive(&options),
        "probe" => probe(&options),
        other => fail(&format!("unknown mode {other}: closed, open or probe")),
    };
    println!("{}", report.into_json());
}

struct Options {
    mode: String,
    target: Target,
    requests: String,
    connections: usize,
    duration: Duration,
    /// Requests a second; 0: closed loop.
    rate: f64,
    lines: usize,
    once: bool,
}

impl Options {
    fn parse(args: Vec<String>) -> Options {
        let [mode, url, rest @ ..] = args.as_slice() else { fail("usage: kilter-load closed|open|probe URL --requests FILE ...") };
        let mut options = Options {
            mode: mode.clone(),
            target: Target::parse(url).unwrap_or_else(|| fail("the URL must be http://127.0.0.1:PORT/path")),
            requests: String::new(),
            connections: 1,
            duration: Duration::from_secs(5),
            rate: 0.0,
            lines: 1,
            once: false,
        };
        let mut rest = rest.iter();
        while let Some(name) = rest.next() {
            if name == "--once" {
                options.once = true;
                continue;
            }
            let value = rest.next().unwrap_or_else(|| fail(&format!("{name} needs a value")));
            let number = || value.parse::<f64>().unwrap_or_else(|_| fail(&format!("{name}: `{value}` is no number")));
            match name.as_str() {
                "--requests" => options.requests = value.clone(),
                "--connections" => options.connections = number() as usize,
                "--seconds" => options.duration = Duration::from_secs_f64(number()),
                "--rate" => options.rate = number(),
                "--lines" => options.lines = number() as usize,
                _ => fail(&format!("unknown option {name}")),
            }
        }
        if (options.mode == "closed") == (options.rate > 0.0) {
            fail("closed takes no --rate, open and probe need one");
        }
        options
    }
}

/// Requests ready to be sent, each with the number of lines in it.
fn prepared(options: &Options) -> Vec<(Vec<u8>, u64)> {
    let text = std::fs::read_to_string(&options.requests).unwrap_or_else(|e| fail(&format!("{}: {e}", options.requests)));
    let lines: Vec<&str> = text.lines().collect();
    let kind = if options.lines > 1 { "application/x-ndjson" } else { "application/json" };
    let mut prepared = Vec::with_capacity(lines.len() / options.lines + 1);
    for group in lines.chunks(options.lines) {
        let (path, first) = group[0].split_once('\t').unwrap_or((&options.target.path, group[0]));
        let mut body = first.to_string();
        for line in &group[1..] {
            body.push('\n');
            body.push_str(line.rsplit('\t').next().unwrap_or(line));
        }
        prepared.push((format_post(&options.target, path, kind, &body), group.len() as u64));
    }
    if prepared.is_empty() {
        fail("the file holds no requests");
    }
    prepared
}

/// A request on its way.
struct Flight {
    due: Instant,
    lines: u64,
}

/// Closed and open loop: the same, but for the moment at which a request is due.
fn drive(options: &Options) -> Report {
    let requests = prepared(options);
    let mut connections: Vec<Connection> = (0..options.connections).map(|_| Connection::open(&options.target)).collect();
    let mut flights: Vec<Option<Flight>> = connections.iter().map(|_| None).collect();
    let mut report = Report::default();
    let interval = if options.rate > 0.0 { Duration::from_secs_f64(1.0 / options.rate) } else { Duration::ZERO };
    let start = Instant::now();
    let end = start + options.duration;
    let (mut next, mut idle): (usize, Vec<usize>) = (0, (0..connections.len()).rev().collect());
    loop {
        let now = Instant::now();
        let mut wait = end.saturating_duration_since(now);
        while let Some(&free) = idle.last() {
            let due = if options.rate > 0.0 { start + interval.mul_f64(next as f64) } else { now };
            if due >= end || (options.once && next >= requests.len()) {
                break;
            }
            if due > now {
                wait = due - now;
                break;
            }
            let (bytes, lines) = &requests[next % requests.len()];
            connections[free].send(bytes);
            flights[free] = Some(Flight { due, lines: *lines });
            idle.pop();
            next += 1;
        }
        let in_flight = flights.iter().any(Option::is_some);
        let all_sent = now >= end || (options.once && next >= requests.len());
        if all_sent && !in_flight {
            break;
        }
        // What was due is waited for after the end, but not for ever: the rest counts as failed.
        if now > end + Duration::from_secs(10) {
            report.failed += flights.iter().flatten().count() as u64;
            break;
        }
        let wait = if all_sent { Duration::from_millis(200) } else { wait };
        for at in answering(&connections, &flights, wait) {
            let Some(status) = connections[at].receive() else { continue };
            let Some(flight) = flights[at].take() else { continue };
            report.answered(status, flight.due.elapsed(), flight.lines);
            idle.push(at);
        }
    }
    // Requests that were due within the time and never got a connection.
    if options.rate > 0.0 && !options.once {
        report.unsent = ((options.duration.as_secs_f64() * options.rate) as u64).saturating_sub(next as u64);
    }
    report.seconds = start.elapsed().as_secs_f64();
    report
}

/// Sends one line's request when due and asks on a second connection until its effect shows. Acknowledgements are not waited for: an
/// event may show before it is durable, and the next one is due whatever happened to this.
fn probe(options: &Options) -> Report {
    let text = std::fs::read_to_string(&options.requests).unwrap_or_else(|e| fail(&format!("{}: {e}", options.requests)));
    let mut writers = Writers { target: &options.target, idle: Vec::new(), busy: Vec::new(), refused: 0 };
    let mut reader = Connection::open(&options.target);
    let mut report = Report::default();
    let interval = Duration::from_secs_f64(1.0 / options.rate);
    let start = Instant::now();
    for (nth, line) in text.lines().enumerate() {
        let due = start + interval.mul_f64(nth as f64);
        if due >= start + options.duration {
            break;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let parts: Vec<&str> = line.split('\t').collect();
        let [path, body, get, expected] = parts[..] else { fail("probe wants /path<tab>body<tab>/get<tab>text") };
        let ask = format_get(&options.target, get);
        writers.send(&format_post(&options.target, path, "application/json", body));
        loop {
            reader.send(&ask);
            let status = reader.wait();
            report.asked += 1;
            if status == 200 && memfind(reader.body(), expected.as_bytes()) {
                report.answered(status, due.elapsed(), 1);
                break;
            }
            if due.elapsed() > Duration::from_secs(10) {
                report.failed += 1;
                break;
            }
        }
    }
    report.refused = writers.finish();
    report.seconds = start.elapsed().as_secs_f64();
    report
}

/// Connections for requests whose answers are looked at later.
struct Writers<'a> {
    target: &'a Target,
    idle: Vec<Connection>,
    busy: Vec<Connection>,
    refused: u64,
}

impl Writers<'_> {
    fn send(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < self.busy.len() {
            match self.busy[at].receive() {
                Some(status) => {
                    self.refused += u64::from(status != 200);
                    self.idle.push(self.busy.swap_remove(at));
                }
                None => at += 1,
            }
        }
        let mut writer = self.idle.pop().unwrap_or_else(|| Connection::open(self.target));
        writer.send(bytes);
        self.busy.push(writer);
    }

    fn finish(mut self) -> u64 {
        self.busy.iter_mut().filter_map(|writer| (writer.wait() != 200).then_some(1)).sum::<u64>() + self.refused
    }
}

/// The connections with a request on their way that have something to read, after `wait` at most.
fn answering(connections: &[Connection], flights: &[Option<Flight>], wait: Duration) -> Vec<usize> {
    let mut waiting: Vec<usize> = (0..connections.len()).filter(|at| flights[*at].is_some()).collect();
    let mut fds: Vec<PollFd<'_>> = waiting.iter().map(|at| PollFd::new(connections[*at].stream(), PollFlags::IN)).collect();
    let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
    let _ = poll(&mut fds, Some(&timeout));
    let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
    waiting.retain(|_| ready.next() == Some(true));
    waiting
}

fn memfind(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|w| w == part)
}

fn fail(message: &str) -> ! {
    eprintln!("kilter-load: {message}");
    std::process::exit(2)
}
