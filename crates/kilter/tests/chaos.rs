//! Killed at any moment, the program forgets nothing it acknowledged, counts nothing twice, and decides as if nothing had happened.
#![allow(clippy::print_stderr, reason = "what was seen or passed over is told with --nocapture")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Client, Dice, JSON, NDJSON, Project, SHOP, Server, at, files, free_port};
use serde_json::{Value, json};

const SEED: u64 = 20_240_611;
const CARDS: usize = 40;

#[test]
fn ten_kills_leave_no_trace() {
    kills_leave_no_trace(10, 200, "");
}

/// So little that hardly an entity stays in memory.
const BEYOND_MEMORY: &str = "[state]\nmemory = \"48KiB\"\n";

#[test]
fn kills_leave_no_trace_in_state_beyond_memory() {
    kills_leave_no_trace(10, 200, BEYOND_MEMORY);
}

#[test]
#[ignore = "slow: a hundred kills take minutes"]
fn a_hundred_kills_leave_no_trace_in_state_beyond_memory() {
    kills_leave_no_trace(100, 1800, BEYOND_MEMORY);
}

#[test]
#[ignore = "slow: two hundred kills take a few minutes"]
fn two_hundred_kills_leave_no_trace() {
    kills_leave_no_trace(200, 3600, "");
}

/// One client sends the same requests to two projects, one of which is killed again and again. That one's definitions end in `more`.
fn kills_leave_no_trace(kills: usize, requests: usize, more: &str) {
    let story = Story::tell(requests, true);
    let calm = Project::new(SHOP);
    let undisturbed = play(&calm, &story, 0);
    let shaken = Project::new(&format!("{SHOP}{more}"));
    let started = Instant::now();
    let disturbed = play(&shaken, &story, kills);
    tell(&story, &disturbed, started.elapsed());
    assert!(disturbed.kills >= kills, "{} kills", disturbed.kills);

    let (one, two) = (undisturbed.server, disturbed.server);
    if !more.is_empty() {
        let held = |field: &str| -> u64 {
            two.get("/v1/status").ok()["state"].as_array().unwrap().iter().map(|view| view[field].as_u64().unwrap()).sum()
        };
        assert!(held("in_memory") < 2 * CARDS as u64, "{} in memory, so nothing was beyond it", held("in_memory"));
    }
    // Exactly the events sent and one change of the model in service.
    assert_eq!(one.next_offset(), story.events + 1);
    assert_eq!(two.next_offset(), story.events + 1, "each event is in the log once");
    for card in 0..CARDS as i64 {
        let (payments, visits) = (&story.payments[&card], &story.visits[&card]);
        for server in [&one, &two] {
            let features = server.features("card", card);
            assert_eq!((&features["total"], &features["spent"]), (&json!(payments.0), &json!(payments.1)), "payments of card {card}");
            let features = server.features("visitor", card);
            assert_eq!((&features["total"], &features["seconds"]), (&json!(visits.0), &json!(visits.1 as i64)), "visits of card {card}");
        }
        for view in ["card", "visitor"] {
            assert_eq!(one.features(view, card), two.features(view, card), "{view} {card}");
        }
    }

    let (calm_decisions, shaken_decisions) = (one.decisions(), two.decisions());
    assert_eq!(calm_decisions.len() as u64, story.payments.values().map(|p| p.0).sum::<u64>(), "one decision for each payment");
    assert_eq!(calm_decisions.len(), shaken_decisions.len(), "no decision is missing or doubled");
    for (a, b) in calm_decisions.iter().zip(&shaken_decisions) {
        assert_eq!(versionless(a), versionless(b));
    }
    let versions: Vec<&Value> = shaken_decisions.iter().map(|d| &d["model_version"]).collect();
    let swap = versions.iter().position(|v| !v.is_null()).expect("the trained model decides");
    assert!(swap > 50 && swap + 50 < versions.len(), "the swap lies in the middle, not at {swap}");
    assert!(versions[swap..].iter().all(|v| *v == versions[swap]), "one version, from one moment on");
    assert!(calm_decisions.iter().any(|d| d["outcome"] == "block"), "the model sees something");
    // Inputs are told with single decisions only: those made around a kill, and some others.
    let near_kill = disturbed.struck.iter().flat_map(|offset| offset.saturating_sub(5)..offset + 5);
    let some = (0..one.next_offset()).step_by(97);
    for offset in near_kill.chain(some) {
        let (a, b) = (one.get(&format!("/v1/decisions/pay-{offset}")), two.get(&format!("/v1/decisions/pay-{offset}")));
        assert_eq!(a.status, b.status, "decision at {offset}");
        assert_eq!(versionless(&a.json()), versionless(&b.json()), "decision at {offset}");
    }
    // What a client was told is what is in the record.
    let recorded: BTreeMap<&str, &Value> = shaken_decisions.iter().map(|d| (d["decision_id"].as_str().unwrap(), d)).collect();
    assert!(!disturbed.told.is_empty());
    for told in &disturbed.told {
        assert_eq!(Some(&told), recorded.get(told["decision_id"].as_str().unwrap()));
    }
    assert_eq!(alerts(&one), alerts(&two), "no alert is missing or doubled");
    assert_eq!(two.get("/v1/dead-letters").ok()["dead_letters"], json!([]));

    for (server, project) in [(one, &calm), (two, &shaken)] {
        server.stop();
        let report = project.kilter(&["replay", "--all", "--json"]).json();
        assert_eq!(report["mismatches"], 0, "{report}");
        assert_eq!(report["checked"], calm_decisions.len(), "{report}");
        assert_eq!(report["events"], story.events, "{report}");
    }
}

#[test]
fn kills_do_not_change_what_a_schedule_on_the_event_clock_trains() {
    let schedule = "[schedule.retrain]\nevery = \"6h\"\ntrain = \"fraud\"\npromote_if = \"auc > champion.auc - 1\"\n";
    let definitions = format!("{SHOP}{schedule}");
    let story = Story::tell(300, false);
    let (calm, shaken) = (Project::new(&definitions), Project::new(&definitions));
    let undisturbed = play(&calm, &story, 0);
    let started = Instant::now();
    let disturbed = play(&shaken, &story, 30);
    tell(&story, &disturbed, started.elapsed());
    // A kill between a promotion and the event that it came before makes the promotion happen twice: offsets may move, nothing else.
    let decisions = |server: &Server| -> Vec<Value> {
        let of = |d: &Value| json!([d["outcome"], d["score"], d["reasons"], d["time"], d["rule"], d["model_version"].is_null()]);
        server.decisions().iter().map(of).collect()
    };
    let (one, two) = (decisions(&undisturbed.server), decisions(&disturbed.server));
    assert_eq!(one.len(), two.len());
    for (n, (a, b)) in one.iter().zip(&two).enumerate() {
        assert_eq!(a, b, "decision {n}");
    }
    assert_eq!(alerts(&undisturbed.server), alerts(&disturbed.server), "no alert is missing or doubled");
    let versions = undisturbed.server.get("/v1/models/fraud").ok()["latest"].as_u64().unwrap();
    assert!(versions >= 3, "{versions} versions");
    disturbed.server.stop();
    assert_eq!(shaken.kilter(&["replay", "--all", "--json"]).json()["mismatches"], 0);
}

fn tell(story: &Story, played: &Played, took: Duration) {
    eprintln!(
        "{} events, {} requests sent again; {} kills under load, {} while starting; longest start {:?}, {:?} of {took:?} in starting",
        story.events, played.resent, played.kills, played.kills_in_start, played.longest_start, played.starting
    );
}

/// Which number the model got may differ: a training cut short leaves a gap.
fn versionless(decision: &Value) -> Value {
    let mut decision = decision.clone();
    if let Some(version) = decision.get_mut("model_version") {
        *version = Value::Null;
    }
    decision
}

fn alerts(server: &Server) -> Vec<Value> {
    let mut alerts = server.get("/v1/alerts?limit=1000").ok()["alerts"].as_array().unwrap().clone();
    for alert in &mut alerts {
        alert.as_object_mut().unwrap().remove("id");
    }
    alerts
}

/// What one client does, in order, and what must come of it.
struct Story {
    requests: Vec<Request>,
    events: u64,
    /// Count and sum for each card.
    payments: BTreeMap<i64, (u64, f64)>,
    visits: BTreeMap<i64, (u64, f64)>,
}

enum Request {
    Events { source: &'static str, rows: Vec<String> },
    Decide { payment: String },
    Train,
}

impl Story {
    /// So many requests; half-way a training, when wanted.
    fn tell(requests: usize, train: bool) -> Story {
        let mut dice = Dice(SEED);
        let cards = || (0..CARDS as i64).map(|card| (card, (0, 0.0))).collect();
        let mut story = Story { requests: Vec::new(), events: 0, payments: cards(), visits: cards() };
        let (mut told, mut visits) = (0, 0);
        // What happened with each payment so far.
        let mut frauds: Vec<bool> = Vec::new();
        while story.requests.len() < requests {
            if train && story.requests.len() == requests / 2 {
                story.requests.push(Request::Train);
            }
            // Mostly a few rows; now and then more than the server takes in one piece.
            let rows = if dice.below(100) == 0 { 500 + dice.below(700) } else { 1 + dice.below(8) };
            let request = match dice.below(10) {
                0..=2 => Request::Decide { payment: story.payment(&mut frauds, &mut dice) },
                3..=6 => Request::Events { source: "payments", rows: (0..rows).map(|_| story.payment(&mut frauds, &mut dice)).collect() },
                7 => Request::Events {
                    source: "visits",
                    rows: (0..rows)
                        .map(|_| {
                            visits += 1;
                            let (card, seconds) = (dice.below(CARDS) as i64, dice.below(900));
                            let sums = story.visits.get_mut(&card).unwrap();
                            *sums = (sums.0 + 1, sums.1 + seconds as f64);
                            let at = at(frauds.len() as i64 * 60);
                            json!({ "event_id": format!("v{visits}"), "card": card, "at": at, "seconds": seconds }).to_string()
                        })
                        .collect(),
                },
                _ => {
                    let from = told;
                    told = frauds.len().saturating_sub(30).max(told);
                    let outcome = |n: usize| {
                        let at = at(n as i64 * 60 + 1800);
                        json!({ "event_id": format!("o{n}"), "payment_id": format!("p{n}"), "at": at, "fraud": frauds[n] }).to_string()
                    };
                    Request::Events { source: "outcomes", rows: (from..told).map(outcome).collect() }
                }
            };
            story.events += match &request {
                Request::Events { rows, .. } if rows.is_empty() => continue,
                Request::Events { rows, .. } => rows.len() as u64,
                _ => 1,
            };
            story.requests.push(request);
        }
        story
    }

    fn payment(&mut self, frauds: &mut Vec<bool>, dice: &mut Dice) -> String {
        let n = frauds.len();
        let card = dice.below(CARDS) as i64;
        // Quarters add up exactly, in whatever order.
        let amount = if dice.below(8) == 0 { 900.0 } else { 10.0 } + dice.below(400) as f64 / 4.0;
        frauds.push(if amount > 900.0 { dice.below(5) > 0 } else { dice.below(30) == 0 });
        let sums = self.payments.get_mut(&card).unwrap();
        *sums = (sums.0 + 1, sums.1 + amount);
        json!({ "payment_id": format!("p{n}"), "card": card, "at": at(n as i64 * 60), "amount": amount }).to_string()
    }
}

struct Played {
    server: Server,
    /// Answers to decide calls.
    told: Vec<Value>,
    kills: usize,
    kills_in_start: usize,
    resent: usize,
    /// Ends of the log after each restart.
    struck: Vec<u64>,
    longest_start: Duration,
    starting: Duration,
}

/// Sends the story's requests one after another, each until it is answered, to a server that is killed so many times.
fn play(project: &Project, story: &Story, kills: usize) -> Played {
    let mut dice = Dice(SEED + 1);
    let mut played = Played {
        server: project.up(),
        told: Vec::new(),
        kills: 0,
        kills_in_start: 0,
        resent: 0,
        struck: Vec::new(),
        longest_start: Duration::ZERO,
        starting: Duration::ZERO,
    };
    // Everything before it was acknowledged.
    let mut acknowledged = 0;
    let mut next = 0;
    let mut again = false;
    let mut pause: usize = 0;
    while next < story.requests.len() || played.kills < kills {
        if played.kills < kills && !played.server.is_doomed() {
            if pause == 0 {
                let delay = dice.millis(60);
                played.server.kill_in(delay);
            }
            pause = pause.saturating_sub(1);
        }
        // When kills are left over at the end, the client sends old requests again: they must change nothing.
        let old = next == story.requests.len();
        let request = &story.requests[if old { dice.below(story.requests.len()) } else { next }];
        match send(&played.server, request, again || old, old) {
            Some(answer) => {
                let end = answer["next_offset"].as_u64().or(answer["as_of_offset"].as_u64().map(|o| o + 1)).unwrap_or(0);
                acknowledged = acknowledged.max(end);
                if !old {
                    if matches!(request, Request::Decide { .. }) {
                        played.told.push(answer);
                    }
                    next += 1;
                    again = false;
                }
            }
            None => {
                assert!(played.server.is_doomed(), "the server went away by itself\n{}", played.server.log());
                played.kills += 1;
                played.resent += 1;
                again = true;
                let left = story.requests.len() - next;
                pause = dice.below(1 + left / (kills - played.kills).max(1));
                let started = Instant::now();
                let (server, more) = restart(project, &mut dice);
                played.kills_in_start += more;
                std::mem::replace(&mut played.server, server).end();
                played.longest_start = played.longest_start.max(started.elapsed());
                played.starting += started.elapsed();
                let end = played.server.next_offset();
                assert!(end >= acknowledged, "acknowledged up to {acknowledged}, there after the restart up to {end}");
                played.struck.push(end);
            }
        }
    }
    played
}

/// Sends one request; no answer when the server has gone away meanwhile.
fn send(server: &Server, request: &Request, again: bool, old: bool) -> Option<Value> {
    match request {
        Request::Events { source, rows } => {
            let report = server.try_post(&format!("/v1/events/{source}"), NDJSON, rows.join("\n")).ok()?.ok();
            let (accepted, duplicates) = (report["accepted"].as_u64().unwrap(), report["duplicates"].as_u64().unwrap());
            assert_eq!(accepted + duplicates, rows.len() as u64, "{report}");
            assert!(again || duplicates == 0, "{duplicates} rows are known before they were ever sent: {report}");
            assert!(!old || accepted == 0, "rows acknowledged before are accepted again: {report}");
            assert_eq!((&report["late"], &report["rejected"]), (&json!(0), &json!(0)), "{report}");
            Some(report)
        }
        Request::Decide { payment } => {
            let reply = server.try_post("/v1/decide/pay", JSON, payment).ok()?;
            let known = reply.headers.contains_key("idempotency-replayed");
            assert!(again || !known, "a decision is known before it was asked for: {}", reply.text());
            assert!(!old || known, "a decision is made a second time: {}", reply.text());
            Some(reply.ok())
        }
        Request::Train => {
            // A careful client looks whether the training it heard nothing of has come to its end.
            let in_service = server.try_get("/v1/models/fraud").ok()?.ok()["in_service"].clone();
            if !in_service.is_null() {
                assert!(again, "a model is in service before it was trained");
                return Some(json!({ "version": in_service }));
            }
            Some(server.try_post("/v1/models/fraud/train", JSON, r#"{"promote":"always"}"#).ok()?.ok())
        }
    }
}

/// Starts the server again; now and then it is killed once more before it is up.
fn restart(project: &Project, dice: &mut Dice) -> (Server, usize) {
    let mut kills = 0;
    while dice.below(8) == 0 {
        project.start(&["--listen", "127.0.0.1:0"]).kill_after(dice.millis(100));
        kills += 1;
    }
    (project.up(), kills)
}

#[test]
fn clients_at_once_lose_nothing_and_double_nothing_through_fifteen_kills() {
    const CLIENTS: usize = 4;
    let project = Project::new(SHOP);
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let address: SocketAddr = listen.parse().unwrap();
    let enough = Arc::new(AtomicBool::new(false));
    let give_up = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (enough, give_up) = (Arc::clone(&enough), Arc::clone(&give_up));
            std::thread::spawn(move || batches(address, client, &enough, &give_up))
        })
        .collect();
    let mut dice = Dice(SEED + 2);
    let mut kills = 0;
    let server = loop {
        let server = project.up_with(&["--listen", &listen]);
        if kills >= 15 || clients.iter().any(|c| c.is_finished()) {
            enough.store(true, Ordering::Relaxed);
            break server;
        }
        std::thread::sleep(Duration::from_millis(40) + dice.millis(200));
        server.kill();
        kills += 1;
    };
    let sums: Vec<_> = clients.into_iter().map(|c| c.join().unwrap_or_else(|_| panic!("a client failed\n{}", server.log()))).collect();
    give_up.store(true, Ordering::Relaxed);
    assert_eq!(kills, 15, "a client gave up early");

    let mut events = 0;
    for (client, (count, sum)) in sums.into_iter().enumerate() {
        let features = server.features("card", client as i64);
        assert_eq!((&features["total"], &features["spent"]), (&json!(count), &json!(sum)), "client {client}");
        events += count;
    }
    assert_eq!(server.next_offset(), events);
    assert_eq!(server.decisions().len() as u64, events, "one decision for each payment");
    server.stop();
    let report = project.kilter(&["replay", "--all", "--json"]).json();
    assert_eq!((&report["mismatches"], &report["checked"]), (&json!(0), &json!(events)), "{report}");
}

/// One client's payments until there are enough, each request sent until it is answered. Answers how many there were and what they
/// add up to.
fn batches(address: SocketAddr, client: usize, enough: &AtomicBool, give_up: &AtomicBool) -> (u64, f64) {
    let http = Client::to(address);
    let mut dice = Dice(SEED + 10 + client as u64);
    let (mut count, mut sum) = (0, 0.0);
    for batch in 0.. {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        let rows: Vec<String> = (0..1 + dice.below(30))
            .map(|_| {
                let amount = dice.below(4000) as f64 / 4.0;
                (count, sum) = (count + 1, sum + amount);
                let id = format!("c{client}-{count}");
                json!({ "payment_id": id, "card": client, "at": at(batch as i64 * 60), "amount": amount }).to_string()
            })
            .collect();
        let decide = rows.len() == 1;
        let path = if decide { "/v1/decide/pay" } else { "/v1/events/payments" };
        loop {
            match http.try_post(path, if decide { JSON } else { NDJSON }, rows.join("\n")) {
                Ok(reply) => {
                    let answer = reply.ok();
                    let taken = answer["accepted"].as_u64().unwrap_or(0) + answer["duplicates"].as_u64().unwrap_or(0);
                    assert!(decide || taken == rows.len() as u64, "{answer}");
                    break;
                }
                Err(_) => {
                    assert!(!give_up.load(Ordering::Relaxed));
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        }
    }
    (count, sum)
}

#[test]
fn a_kill_while_the_snapshot_is_written_costs_nothing() {
    // Only the orderly end writes a snapshot here, and twenty thousand cards give it something to write.
    let project = Project::new(&SHOP.replace("every = \"100ms\"", "every = \"1h\""));
    let mut dice = Dice(SEED + 3);
    let mut server = project.up();
    let mut count = 0;
    let mut pay = |server: &Server, payments: i64| {
        let rows: Vec<String> = (count..count + payments)
            .map(|n| json!({ "payment_id": format!("p{n}"), "card": n % 20_000, "at": at(n), "amount": 1.0 }).to_string())
            .collect();
        server.send("payments", &rows);
        count += payments;
        count
    };
    pay(&server, 20_000);
    let mut struck = 0;
    for round in 0..10 {
        let sent = pay(&server, 50);
        server.terminate();
        std::thread::sleep(dice.millis(50));
        let output = server.kill();
        struck += usize::from(output.code.is_none());
        assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
        server = project.up();
        assert!(!server.log().contains("damaged"), "half a snapshot passes for one\n{}", server.log());
        assert_eq!(server.next_offset(), sent as u64, "round {round}");
        for card in [0, 777, 19_999] {
            let expected = (sent - card + 19_999) / 20_000;
            assert_eq!(server.features("card", card)["total"], expected, "round {round}, card {card}");
        }
    }
    eprintln!("{struck} of 10 kills struck before the orderly end was over");
    server.stop();
    assert!(!files(&project.data("snapshots"), ".snapshot").is_empty());
    assert_eq!(project.kilter(&["replay", "--all", "--json"]).json()["mismatches"], 0);
}

#[test]
fn a_kill_while_a_model_is_trained_leaves_the_old_one_or_the_new_one_in_service() {
    let project = Project::new(SHOP);
    let story = Story::tell(150, false);
    let mut server = project.up();
    for request in &story.requests {
        send(&server, request, false, false).unwrap();
    }
    const TRAIN: &str = r#"{"promote":"always"}"#;
    let started = Instant::now();
    server.post("/v1/models/fraud/train", JSON, TRAIN).ok();
    let takes = started.elapsed().as_millis() as usize;
    let mut dice = Dice(SEED + 4);
    let mut last = 1;
    for round in 0..8 {
        let before = server.get("/v1/models/fraud").ok()["in_service"].as_u64().unwrap();
        server.kill_in(dice.millis(takes * 5 / 4));
        let answer = server.try_post("/v1/models/fraud/train", JSON, TRAIN).ok().map(|r| r.ok());
        server.end();
        server = project.up();
        let model = server.get("/v1/models/fraud").ok();
        let now = model["in_service"].as_u64().unwrap();
        match answer {
            Some(answer) => assert_eq!(answer["version"], now, "an answered promotion holds"),
            None => assert!(now == before || now > last, "round {round}: version {now} out of nowhere: {model}"),
        }
        last = model["latest"].as_u64().unwrap();
        assert!(now <= last, "{model}");
        let runs = server.get("/v1/runs?limit=100").ok();
        let running = runs["runs"].as_array().unwrap().iter().filter(|r| r["status"] == "running").count();
        assert_eq!(running, 0, "a run that was cut short says so: {runs}");
        let n = 1_000_000 + round;
        let payment = json!({ "payment_id": format!("p{n}"), "card": 1, "at": at(n * 60), "amount": 950.0 }).to_string();
        let decided = server.post("/v1/decide/pay", JSON, payment).ok();
        assert_eq!(decided["model_version"], now, "the registry and the stream agree");
    }
    let trained = server.post("/v1/models/fraud/train", JSON, TRAIN).ok();
    assert_eq!(server.get("/v1/models/fraud").ok()["in_service"], trained["version"]);
    server.stop();
    assert_eq!(project.kilter(&["replay", "--all", "--json"]).json()["mismatches"], 0);
}

#[test]
fn a_retraining_that_a_monitor_asked_for_is_not_forgotten_by_a_kill() {
    // On the event clock the same events lead to the same trainings: a reading past its threshold holds the stream and trains.
    let slow = SHOP.replace("trees = 20", "trees = 400, early_stopping = false").replace("above = 0.05", "above = 0.000001");
    let definitions = slow.replace("min_rows = 20\n", "min_rows = 20\nthen = [\"retrain\"]\n");
    let story = Story::tell(150, false);
    let begin = || {
        let project = Project::new(&definitions);
        let server = project.up();
        for request in &story.requests {
            send(&server, request, false, false).unwrap();
        }
        server.post("/v1/models/fraud/train", JSON, r#"{"promote":"always"}"#).ok();
        (project, server)
    };
    let payment = |n: i64| {
        let at = at((story.events as i64 + n) * 60);
        json!({ "payment_id": format!("m{n}"), "card": n % 40, "at": at, "amount": 12.5 }).to_string()
    };
    let latest = |server: &Server| server.get("/v1/models/fraud").ok()["latest"].as_u64().unwrap();
    let trains = |server: &Server| {
        let runs = server.get("/v1/runs?limit=100").ok();
        runs["runs"].as_array().unwrap().iter().any(|run| run["status"] == "running")
    };

    let (_calm, server) = begin();
    let mut n = 0;
    loop {
        server.send("payments", &[payment(n)]);
        if latest(&server) == 2 {
            break;
        }
        n += 1;
        assert!(n < 500, "the monitor asks for nothing");
    }

    // The kill follows the sight of a running training; one that is over before it was seen is tried again.
    for _ in 0..5 {
        let (shaken, server) = begin();
        for n in 0..n {
            server.send("payments", &[payment(n)]);
        }
        let client = server.client();
        let row = payment(n);
        let asks = std::thread::spawn(move || client.try_post("/v1/events/payments", JSON, row).is_err());
        while !trains(&server) && !asks.is_finished() {}
        server.kill();
        let struck = asks.join().unwrap();
        let server = shaken.up();
        server.post("/v1/events/payments", JSON, payment(n)).ok();
        server.send("payments", &[payment(n + 1)]);
        assert_eq!(latest(&server), 2, "undisturbed, the same events have trained a second version by now");
        if struck {
            return;
        }
    }
    panic!("no kill struck within a training");
}

#[test]
fn sigterm_answers_what_is_under_way_and_leaves_a_snapshot() {
    let project = Project::new(&SHOP.replace("every = \"100ms\"", "every = \"1h\"").replace("trees = 20", "trees = 400"));
    let story = Story::tell(150, false);
    let server = project.up();
    for request in &story.requests {
        send(&server, request, false, false).unwrap();
    }
    // A body that is half here, and a training, when the signal comes.
    let row = json!({ "payment_id": "last", "card": 3, "at": at(9_000_000), "amount": 1.0 }).to_string();
    let mut half = TcpStream::connect(server.address).unwrap();
    let head = format!("POST /v1/events/payments HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", row.len());
    half.write_all(head.as_bytes()).unwrap();
    half.write_all(&row.as_bytes()[..10]).unwrap();
    let client = server.client();
    let training = std::thread::spawn(move || client.try_post("/v1/models/fraud/train", JSON, r#"{"promote":"always"}"#));
    std::thread::sleep(Duration::from_millis(150));
    server.terminate();
    std::thread::sleep(Duration::from_millis(150));
    let address = server.address;
    assert!(Client::to(address).try_get("/readyz").map_or(true, |r| r.status == 503), "nobody is sent here any more");
    half.write_all(&row.as_bytes()[10..]).unwrap();
    let mut answer = String::new();
    half.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"accepted\":1"), "{answer}");
    let trained = training.join().unwrap().unwrap().ok();
    assert_eq!(trained["version"], 1);
    let output = server.end();
    assert_eq!(output.code, Some(0), "{}", output.stderr);

    let end = story.events + 2;
    let newest = files(&project.data("snapshots"), ".snapshot").pop().expect("a snapshot");
    assert!(newest.file_name().unwrap().to_str().unwrap().starts_with(&format!("{end:020}-")), "{newest:?} is not of offset {end}");
    let server = project.up();
    assert_eq!(server.next_offset(), end);
    assert_eq!(server.get("/v1/models/fraud").ok()["in_service"], 1);
    server.stop();
}

#[test]
fn sigterm_as_soon_as_it_is_up_is_an_orderly_end_too() {
    let project = Project::new(SHOP);
    for round in 0..20 {
        let server = project.up();
        server.terminate();
        let output = server.end();
        assert_eq!(output.code, Some(0), "round {round}: it said that it is up and died of the signal\n{}", output.stderr);
    }
}

#[test]
fn a_terminal_interrupt_ends_it_in_order_too() {
    let project = Project::new(SHOP);
    let server = project.up();
    server.send("payments", &[json!({ "payment_id": "p", "card": 1, "at": at(0), "amount": 1.0 }).to_string()]);
    let done = Command::new("kill").args(["-INT", &server.pid().to_string()]).status().unwrap();
    assert!(done.success());
    assert_eq!(server.end().code, Some(0));
    assert_eq!(files(&project.data("snapshots"), ".snapshot").len(), 1);
}
