//! Whatever is sent, broken or taken away: the answer says what is wrong, where, and what to do, and nothing else suffers.
#![allow(clippy::print_stderr, reason = "what was seen or passed over is told with --nocapture")]

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::common::{JSON, NDJSON, Output, Project, SHOP, Server, at, eventually, files, kilter};
use serde_json::{Value, json};

fn payment(n: i64) -> String {
    json!({ "payment_id": format!("p{n}"), "card": n % 10, "at": at(n * 60), "amount": 2.5 }).to_string()
}

fn payments(range: std::ops::Range<i64>) -> Vec<String> {
    range.map(payment).collect()
}

/// How many payments the features have seen.
fn counted(server: &Server) -> u64 {
    (0..10).map(|card| server.features("card", card)["total"].as_u64().unwrap()).sum()
}

#[test]
fn a_body_that_cannot_be_read_is_told_where_and_why() {
    let project = Project::new(SHOP);
    let server = project.up();
    let post = |body: &str| server.post("/v1/events/payments", JSON, body);
    post("{oops").refused(400, "malformed_json", &["line 1, column 2", "send a JSON object"]);
    post("").refused(400, "empty_body", &["the body is empty", "send a JSON object"]);
    post(" \n ").refused(400, "empty_body", &["send a JSON object"]);
    post("\"text\"").refused(400, "not_an_object", &["got a string"]);
    server.post("/v1/events/payments", JSON, b"\xff\xfe{}").refused(400, "not_an_object", &["expected a JSON object"]);
    server.post("/v1/events/payments", "text/csv", "card;amount\n1;2\n").refused(400, "bad_header", &["at"]);
    let decide = |body: &str| server.post("/v1/decide/pay", JSON, body);
    decide("").refused(400, "empty_body", &["send one JSON object"]);
    decide("[]").refused(400, "not_an_object", &["send one JSON object"]);
    decide("{\"card\":").refused(400, "malformed_json", &["line 1"]);
    server.post("/v1/models/fraud/train", JSON, "{oops").refused(400, "malformed_json", &["send one JSON object"]);
    // A body without an end does not hold the others up.
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(server.next_offset(), 0, "nothing of it is in the log");
}

#[test]
fn a_row_that_does_not_fit_is_told_field_by_field_and_kept_as_a_dead_letter() {
    let project = Project::new(SHOP);
    let server = project.up();
    let rejected = |row: Value| {
        let reply = server.post("/v1/events/payments", JSON, row.to_string());
        reply.refused(422, "all_rejected", &["every row was rejected (1)", "`rejections` says what is wrong"]);
        let rejection = reply.json()["rejections"][0].clone();
        let told = format!("{} {}", rejection["message"].as_str().unwrap(), rejection["hint"].as_str().unwrap_or_default());
        (rejection["code"].as_str().unwrap().to_string(), rejection["field"].as_str().unwrap_or_default().to_string(), told)
    };
    let row = |field: &str, value: Value| {
        let mut row: Value = serde_json::from_str(&payment(1)).unwrap();
        row[field] = value;
        row
    };
    for (field, value, code, part) in [
        ("card", json!("seven"), "wrong_type", "expected int64, got string \"seven\""),
        ("amount", json!(true), "wrong_type", "expected float64"),
        ("amount", json!({ "of": 3 }), "wrong_type", "expected float64"),
        ("card", json!(1e20), "out_of_range", "9223372036854775807"),
        ("card", Value::Null, "missing_key", "source `payments` needs it"),
        ("at", Value::Null, "missing_time", "RFC 3339"),
        ("at", json!("9999-01-01T00:00:00Z"), "absurd_time", "after the latest time allowed"),
        ("at", json!("0001-01-01T00:00:00Z"), "absurd_time", "before the earliest time allowed"),
        ("at", json!(1e300), "out_of_range", "RFC 3339"),
    ] {
        let (got, named, told) = rejected(row(field, value.clone()));
        assert_eq!((got.as_str(), named.as_str()), (code, field), "{field} = {value}: {told}");
        assert!(told.contains(part), "`{part}` is missing in: {told}");
    }
    let (_, _, told) = rejected(json!({}));
    assert!(told.contains("card") && told.contains("at"), "all that is missing is told at once: {told}");

    // One bad row does not spoil the others.
    let body = [payment(1), "{oops".into(), payment(2)].join("\n");
    let report = server.post("/v1/events/payments", NDJSON, body).ok();
    assert_eq!((&report["accepted"], &report["rejected"], &report["rejections"][0]["row"]), (&json!(2), &json!(1), &json!(2)), "{report}");
    let letters = server.get("/v1/dead-letters?source=payments&code=malformed_json").ok();
    assert_eq!(letters["dead_letters"][0]["payload"], "{oops", "{letters}");
    let all = server.get("/v1/dead-letters").ok()["dead_letters"].as_array().unwrap().len();
    assert_eq!(all, 11, "each of them is kept");
}

#[test]
fn a_time_that_is_none_is_not_called_missing() {
    let project = Project::new(SHOP);
    let server = project.up();
    let row = json!({ "payment_id": "p", "card": 1, "at": "yesterday", "amount": 1 }).to_string();
    let rejection = server.post("/v1/events/payments", JSON, row).json()["rejections"][0].clone();
    assert_eq!(rejection["code"], "wrong_type", "the field is there, it holds no time: {rejection}");
}

#[test]
fn a_time_ahead_of_the_clock_is_refused_where_the_source_says_so() {
    let project = Project::new(&SHOP.replace("max_future = \"none\"", "max_future = \"1h\""));
    let server = project.up();
    let row = json!({ "payment_id": "p", "card": 1, "at": "2200-01-01T00:00:00Z", "amount": 1 }).to_string();
    let reply = server.post("/v1/events/payments", JSON, row);
    let rejection = reply.json()["rejections"][0].clone();
    assert_eq!((reply.status, &rejection["field"]), (422, &json!("at")), "{rejection}");
    assert_eq!(rejection["code"], "future_time");
    assert!(rejection["hint"].as_str().unwrap().contains("max_future"), "{rejection}");
}

#[test]
fn a_request_for_a_decision_is_told_everything_that_is_wrong_with_it() {
    let project = Project::new(SHOP);
    let server = project.up();
    let reply = server.post("/v1/decide/pay", JSON, r#"{"card":"seven","amuont":3}"#);
    let error = reply.refused(422, "invalid_request", &["card: expected int64", "2 more wrong"]);
    let field = |name: &str| error["fields"].as_array().unwrap().iter().find(|f| f["field"] == name).cloned().unwrap_or_default();
    assert_eq!(field("card")["code"], "wrong_type");
    assert_eq!(field("amuont")["hint"], "did you mean `amount`?");
    assert_eq!(field("amount")["code"], "missing_field");
    let late = json!({ "payment_id": "p", "card": 1, "at": "9999-01-01T00:00:00Z", "amount": 1 }).to_string();
    server.post("/v1/decide/pay", JSON, late).refused(422, "invalid_request", &["at"]);
    let long = "x".repeat(1025);
    let mut request = json!({ "payment_id": long, "card": 1, "at": at(0), "amount": 1 });
    server.post("/v1/decide/pay", JSON, request.to_string()).refused(422, "invalid_request", &["1024"]);
    request["payment_id"] = json!("short");
    server.post("/v1/decide/pay", JSON, request.to_string()).ok();
    assert_eq!(server.next_offset(), 1);
}

#[test]
fn what_is_not_there_is_answered_with_the_nearest_that_is() {
    let project = Project::new(SHOP);
    let server = project.up();
    server.post("/v1/events/payment", JSON, payment(1)).refused(404, "unknown_source", &["`payment`", "did you mean `payments`?"]);
    server.post("/v1/decide/pya", JSON, payment(1)).refused(404, "unknown_decision", &["`pya`", "did you mean `pay`?"]);
    server.post("/v1/models/frod/train", JSON, "{}").refused(404, "unknown_model", &["`frod`", "did you mean `fraud`?"]);
    server.get("/v1/models/nothing").refused(404, "unknown_model", &["there are: fraud"]);
    server.get("/v1/features/crad/1").refused(404, "unknown_view", &["`crad`", "did you mean `card`?"]);
    server.get("/v1/features/card/x").refused(422, "invalid_request", &["`x` is no key of view `card`"]);
    server.get("/v1/features/card/1?at=soon").refused(400, "bad_parameter", &["such as 2026-01-31T10:00:00Z"]);
    server.get("/v1/decisions/pay-9").refused(404, "unknown_decision", &["`pay-9`", "ids look like"]);
    server.get("/v1/runs/9").refused(404, "unknown_run", &["/v1/runs lists them"]);
    server.post("/v1/models/fraud/promote", JSON, r#"{"version":9}"#).refused(404, "unknown_version", &["fraud@9"]);
    server.post("/v1/models/fraud/train", JSON, "{}").refused(409, "conflict", &["the event log is empty"]);
    server.post("/v1/models/fraud/rollback", JSON, "{}").refused(409, "conflict", &["no earlier version"]);
    server.get("/v1/nothing").refused(404, "unknown_route", &["`/v1/nothing`", "/docs"]);
    server.get("/v1/decide/pay").refused(405, "wrong_method", &["`/v1/decide/pay` does not take GET"]);
    server.get("/v1/decisions?limt=3").refused(400, "bad_parameter", &["limt"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_hundred_megabytes_are_refused_at_once_and_not_held_in_memory() {
    let project = Project::new(SHOP);
    let server = project.up();
    let big = vec![b' '; 100 << 20];
    let before = peak_memory(server.pid());
    for (path, limit) in [("/v1/events/payments", "16777216"), ("/v1/decide/pay", "1048576"), ("/v1/models/fraud/train", "65536")] {
        let started = Instant::now();
        server.post(path, JSON, &big).refused(413, "body_too_large", &[limit, "bytes"]);
        assert!(started.elapsed().as_secs() < 20, "{path}: {:?}", started.elapsed());
    }
    let grown = peak_memory(server.pid()) - before;
    assert!(grown < 64 << 20, "memory grew by {} MiB", grown >> 20);
    let rows = "{}\n".repeat(100_001);
    server.post("/v1/events/payments", NDJSON, rows).refused(413, "too_many_rows", &["100"]);
    server.send("payments", &payments(0..10));
}

#[test]
fn the_hint_on_a_large_decision_request_helps() {
    // The limit of a decision's body is fixed: a larger `max_body` would not help.
    let project = Project::new(SHOP);
    let error = project.up().post("/v1/decide/pay", JSON, vec![b' '; 2 << 20]).refused(413, "body_too_large", &["1048576"]);
    assert!(!error["hint"].as_str().unwrap_or_default().contains("max_body"), "{error}");
}

/// The most memory a process has had, in bytes.
#[cfg(target_os = "linux")]
fn peak_memory(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Fills the disk through the API, frees it by `free`, and checks that nothing was lost on the way.
#[cfg(target_os = "linux")]
fn full_and_freed(server: &Server, free: impl FnOnce()) {
    let mut sent = 0;
    let refused = loop {
        assert!(sent < 200_000, "the disk does not get full");
        let reply = server.post("/v1/events/payments", NDJSON, payments(sent..sent + 1000).join("\n"));
        if reply.status != 200 {
            break reply;
        }
        sent += 1000;
    };
    refused.refused(507, "disk_full", &["no space", "free space", "goes on by itself"]);
    assert!(sent > 0, "the disk is full from the start");
    // What came before is there, is served, and is not made worse by trying again.
    let there = server.next_offset();
    assert!((sent as u64..sent as u64 + 1000).contains(&there), "{there} events of {sent} acknowledged ones and a cut off body");
    assert_eq!(counted(server), there);
    // What was taken of the refused body is its beginning: nothing was taken from behind the first row refused.
    if there > sent as u64 {
        let again = server.post("/v1/events/payments", NDJSON, payments(sent..there as _).join("\n")).ok();
        assert_eq!(again["duplicates"], there - sent as u64, "{again}");
    }
    let decided = server.post("/v1/decide/pay", JSON, payment(sent + 5000));
    assert!(matches!(decided.status, 200 | 507), "{}", decided.text());
    assert_eq!(server.get("/healthz").status, 200);

    free();
    let report = server.post("/v1/events/payments", NDJSON, payments(sent..sent + 1000).join("\n")).ok();
    assert_eq!(report["accepted"].as_u64().unwrap() + report["duplicates"].as_u64().unwrap(), 1000, "{report}");
    assert_eq!(server.get("/readyz").status, 200);
    server.post("/v1/decide/pay", JSON, payment(sent + 5000)).ok();
    let all = sent as u64 + 1001;
    assert_eq!((server.next_offset(), counted(server)), (all, all), "each event once");
    assert_eq!(server.decisions().len() as u64, all, "each decision once");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_told_and_got_over() {
    let project = Project::new(SHOP);
    let data = project.data("");
    std::fs::create_dir_all(&data).unwrap();
    // A disk of its own in a mount namespace of its own: it is gone with the process.
    let script = r#"mount -t tmpfs -o size=16m tmpfs "$0" && exec "$@""#;
    let Some(flags) = ["-m", "-Urm"].into_iter().find(|flags| {
        let done = Command::new("unshare").args([flags, "sh", "-c", script]).arg(&data).arg("true").output();
        done.is_ok_and(|d| d.status.success())
    }) else {
        eprintln!("SKIPPED: neither root nor user namespaces here, so no small disk can be made");
        return;
    };
    let mut command = Command::new("unshare");
    command.args([flags, "sh", "-c", script]).arg(&data).arg(env!("CARGO_BIN_EXE_kilter")).arg("-C").arg(project.dir());
    command.args(["up", "--listen", "127.0.0.1:0"]);
    let server = project.spawn(command).ready().unwrap();
    let inside = PathBuf::from(format!("/proc/{}/root{}", server.pid(), data.display()));
    let ballast = inside.join("ballast");
    std::fs::write(&ballast, vec![0; 11 << 20]).unwrap();
    full_and_freed(&server, || std::fs::remove_file(&ballast).unwrap());
    // The data outlive the little disk as a copy, and the copy replays.
    let copied = Command::new("cp").arg("-r").arg(inside.join(".")).arg(&data).status().unwrap();
    assert!(copied.success());
    server.stop();
    let report = project.kilter(&["replay", "--all", "--json"]).json();
    assert_eq!(report["mismatches"], 0, "{report}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_limit_on_file_sizes_counts_as_a_full_disk() {
    let project = Project::new(SHOP);
    let mut command = Command::new(env!("CARGO_BIN_EXE_kilter"));
    command.arg("-C").arg(project.dir()).args(["up", "--listen", "127.0.0.1:0"]);
    let limit = libc::rlimit { rlim_cur: 700 << 10, rlim_max: libc::RLIM_INFINITY };
    // Only calls that may be made between fork and exec.
    unsafe {
        command.pre_exec(move || {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            if libc::setrlimit(libc::RLIMIT_FSIZE, &limit) == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
    let server = project.spawn(command).ready().unwrap();
    let pid = server.pid();
    full_and_freed(&server, || {
        let none = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        let done = unsafe { libc::prlimit(pid, libc::RLIMIT_FSIZE, &none, std::ptr::null_mut()) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    });
    server.stop();
    assert_eq!(project.kilter(&["replay", "--all", "--json"]).json()["mismatches"], 0);
}

/// A project with so many payments in its log, ended in order.
fn stopped(count: i64) -> Project {
    let project = Project::new(SHOP);
    let server = project.up();
    for from in (0..count).step_by(5000) {
        server.send("payments", &payments(from..(from + 5000).min(count)));
    }
    server.stop();
    project
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

fn shorten(path: &Path, by: u64) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() - by).unwrap();
}

fn size(path: &Path) -> usize {
    std::fs::metadata(path).unwrap().len() as usize
}

#[test]
fn a_flipped_byte_in_the_log_is_refused_with_its_place() {
    for log in ["events", "decisions"] {
        let project = stopped(500);
        let segment = project.segment(log);
        let before = size(&segment);
        flip(&segment, before / 2);
        let told = project.refused().failed(1, &["log is damaged", segment.to_str().unwrap(), "byte ", "record ", "hint: ", "restore"]);
        assert!(!told.contains("SetAside"), "the remedy must be one that the reader of this message has:\n{told}");
        assert_eq!(size(&segment), before, "nothing was changed on disk");
        flip(&segment, before / 2);
        let server = project.up();
        assert_eq!(counted(&server), 500, "restored, it is whole again");
    }
}

#[test]
fn damage_in_an_older_segment_is_refused_with_its_place() {
    let project = stopped(20_000);
    let segments = files(&project.data("events"), ".klog");
    assert!(segments.len() > 1, "{segments:?}");
    let oldest = segments[0].to_str().unwrap();
    let whole = std::fs::read(oldest).unwrap();
    shorten(&segments[0], 100);
    project.refused().failed(1, &["log is damaged", oldest, "byte ", "hint: ", "restore this file"]);
    std::fs::write(oldest, &whole).unwrap();
    flip(&segments[0], whole.len() / 2);
    project.refused().failed(1, &["log is damaged", oldest, "byte ", "hint: ", "restore this file"]);
    std::fs::remove_file(oldest).unwrap();
    // Whole old segments may be removed on purpose, but not with the state that they made still to be read.
    std::fs::write(oldest, &whole).unwrap();
    assert_eq!(counted(&project.up()), 20_000);
}

#[test]
fn a_torn_tail_is_mended_and_reported() {
    for in_order in [true, false] {
        let project = Project::new(SHOP);
        let server = project.up();
        server.send("payments", &payments(0..300));
        if in_order {
            server.stop();
        } else {
            server.kill();
        }
        shorten(&project.segment("events"), 7);
        let server = project.up();
        let log = server.log();
        assert!(log.contains("interrupted write") && log.contains("events"), "{log}");
        assert_eq!((server.next_offset(), counted(&server)), (299, 299), "the last record is gone, and only it");
        assert_eq!(server.decisions().len(), 299, "no decision on an event that is not there");
        let report = server.post("/v1/events/payments", NDJSON, payments(0..300).join("\n")).ok();
        assert_eq!((&report["accepted"], &report["duplicates"]), (&json!(1), &json!(299)), "{report}");
        assert_eq!((counted(&server), server.decisions().len()), (300, 300));
        server.stop();
        assert_eq!(project.kilter(&["replay", "--all", "--json"]).json()["mismatches"], 0);
    }
}

#[test]
fn a_torn_tail_of_the_decision_log_is_made_up_for() {
    // A snapshot between the last answer and the kill would be ahead of what is torn off, as no interrupted write is.
    let project = Project::new(&SHOP.replace("every = \"100ms\"", "every = \"1h\""));
    let server = project.up();
    server.send("payments", &payments(0..300));
    server.kill();
    shorten(&project.segment("decisions"), 7);
    let server = project.up();
    assert!(server.log().contains("interrupted write"), "{}", server.log());
    assert_eq!(server.decisions().len(), 300, "the decision is made again");
    server.stop();
    assert_eq!(project.kilter(&["replay", "--all", "--json"]).json()["mismatches"], 0);
}

#[test]
fn a_decision_lost_from_behind_a_snapshot_is_reported_and_shown_by_the_replay() {
    // The orderly end had made it durable: no interrupted write took it, the disk or a hand did.
    let project = stopped(300);
    shorten(&project.segment("decisions"), 7);
    let server = project.up();
    assert!(server.log().contains("decisions") && server.log().contains("cut off"), "{}", server.log());
    assert_eq!(counted(&server), 300);
    server.kill();
    let output = project.kilter(&["replay", "--all", "--json"]);
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!((output.code, &report["mismatches"], &report["details"][0][0]), (Some(1), &json!(1), &json!("pay-299")), "{report}");
}

#[test]
fn without_its_catalog_the_log_is_not_guessed_at() {
    let project = stopped(100);
    let catalog = project.data("catalog.json");
    let text = std::fs::read(&catalog).unwrap();
    std::fs::write(&catalog, "[{").unwrap();
    project.refused().failed(1, &["catalog.json is damaged", "hint: restore it from a backup"]);
    std::fs::remove_file(&catalog).unwrap();
    // Columns have come and gone since: read by today's definitions, the old records would mean something else.
    project.write("kilter.toml", SHOP.replace("amount = {", "country = \"string\"\namount = {"));
    project.refused().failed(1, &["catalog.json", "hint", "restore"]);
    assert!(!catalog.exists(), "no new catalog is written over the old records");
    std::fs::write(&catalog, text).unwrap();
    assert_eq!(counted(&project.up()), 100);
}

#[test]
fn without_its_catalog_no_column_is_taken_for_another() {
    let with = |columns: &str| SHOP.replace("amount = { type = \"float64\", required = true }", columns);
    let project = Project::new(&with("amount = \"float64\"\nfee = \"float64\""));
    let server = project.up();
    let row = |n: i64| json!({ "payment_id": format!("p{n}"), "card": 1, "at": at(n), "amount": 100.0, "fee": 1.0 }).to_string();
    server.send("payments", &(0..10).map(row).collect::<Vec<_>>());
    server.kill();
    project.write("kilter.toml", with("fee = \"float64\"\namount = \"float64\""));
    let server = project.up();
    assert_eq!(server.features("card", 1)["spent"], 1000.0, "the order of columns may change");
    server.kill();
    std::fs::remove_file(project.data("catalog.json")).unwrap();
    match project.start(&["--listen", "127.0.0.1:0"]).ready() {
        Err(output) => {
            output.failed(1, &["catalog.json", "hint"]);
        }
        Ok(server) => {
            let spent = server.features("card", 1)["spent"].clone();
            panic!("it came up without its catalog, and finds {spent} spent where 1000 were");
        }
    }
}

#[test]
fn a_damaged_snapshot_is_passed_over_and_the_features_are_the_same() {
    let project = stopped(300);
    let features = |server: &Server| (0..10).map(|card| server.features("card", card)).collect::<Vec<_>>();
    let server = project.up();
    let before = features(&server);
    server.stop();
    for (n, damage) in [(0, "flip"), (1, "cut"), (2, "empty")] {
        let all = files(&project.data("snapshots"), ".snapshot");
        for snapshot in &all {
            match damage {
                "flip" => flip(snapshot, size(snapshot) / 2),
                "cut" => shorten(snapshot, 10),
                _ => std::fs::write(snapshot, "").unwrap(),
            }
        }
        assert!(!all.is_empty(), "round {n}");
        let server = project.up();
        assert!(server.log().contains("damaged snapshot"), "{damage}: {}", server.log());
        assert_eq!(features(&server), before, "{damage}");
        server.stop();
    }
    assert_eq!(project.kilter(&["replay", "--all", "--json"]).json()["mismatches"], 0);
}

#[test]
fn a_registry_that_is_none_is_told_by_its_name() {
    let project = stopped(10);
    for rest in files(&project.data(""), "kilter.db-wal").into_iter().chain(files(&project.data(""), "kilter.db-shm")) {
        std::fs::remove_file(rest).unwrap();
    }
    std::fs::write(project.data("kilter.db"), "this is no database".repeat(1000)).unwrap();
    project.refused().failed(1, &["kilter.db", "hint"]);
}

#[test]
fn a_port_or_a_folder_in_use_is_told() {
    let project = Project::new(SHOP);
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    let start = |args: &[&str]| project.start(args).ready().err().expect("it must not come up");
    start(&["--listen", &taken]).failed(1, &[&format!("cannot listen on {taken}"), "hint", "--listen"]);
    start(&["--listen", "0.0.0.0:0"]).failed(1, &["will not listen on 0.0.0.0:0", "hint", "--allow-remote", "kilter key create"]);
    start(&["--listen", "nonsense"]).failed(1, &["`nonsense` is no address", "127.0.0.1:8080"]);
    let server = project.up();
    start(&["--listen", "127.0.0.1:0"]).failed(1, &["in use by another process", "stop the other kilter process"]);
    assert_eq!(server.get("/readyz").status, 200);
}

#[test]
fn a_folder_that_cannot_be_written_is_told() {
    let project = Project::new(SHOP);
    project.write("kilter-data", "a file where the folder should be");
    project.refused().failed(1, &["kilter-data"]);
}

#[test]
fn all_mistakes_in_the_definitions_are_told_at_once_with_their_lines() {
    let project = Project::new(
        r#"[project]
name = "shop"
[server]
listn = "127.0.0.1:0"
[source.payments]
time = "at"
columns = { card = "int64", at = "timestamp", amount = "flot64" }
[features.card]
source = "payment"
entity = "card"
[features.card.columns]
n = "count(*) over 1h"
"#,
    );
    let told: &[&str] = &[
        "unknown key `listn`",
        "kilter.toml:4:1",
        "did you mean `listen`?",
        "unknown type `flot64`",
        "kilter.toml:7:56",
        "did you mean `float64`?",
        "unknown source `payment`",
        "kilter.toml:9:10",
        "did you mean `payments`?",
        "3 errors",
    ];
    project.kilter(&["check"]).failed(1, told);
    project.refused().failed(1, told);
    project.kilter(&["ingest"]).failed(1, told);
    let report = project.kilter(&["check", "--json"]);
    assert_eq!(report.code, Some(1));
    let report: Value = serde_json::from_str(&report.stdout).unwrap();
    let lines: Vec<u64> = report["problems"].as_array().unwrap().iter().map(|p| p["line"].as_u64().unwrap()).collect();
    assert_eq!((lines, &report["ok"]), (vec![4, 7, 9], &json!(false)));
    assert!(!project.data("").exists(), "definitions that do not hold leave no data");
    project.write("kilter.toml", "[project\nname = 3");
    project.kilter(&["check"]).failed(1, &["kilter.toml:1"]);
    project.write("kilter.toml", [0xff, 0xfe]);
    project.kilter(&["check"]).failed(1, &["kilter.toml"]);
    project.write("kilter.toml", "");
    project.kilter(&["check"]).failed(1, &["project"]);
}

#[test]
fn a_file_source_that_cannot_be_read_is_told_with_what_is_there() {
    let file = |name: &str| SHOP.replace("[source.payments]", &format!("[source.payments]\nconnector = \"file\"\npath = \"{name}\""));
    let project = Project::new(&file("paymnts.ndjson"));
    project.write("payments.ndjson", payment(1));
    let ingest = || project.kilter(&["ingest"]);
    ingest().failed(1, &["source `payments`", "paymnts.ndjson", "hint", "payments.ndjson"]);
    let server = project.up();
    eventually("the word of the missing file", || server.log().contains("paymnts.ndjson"));
    assert_eq!(server.get("/readyz").status, 200, "the rest goes on");
    server.stop();
    for (name, text, parts) in [
        ("broken.parquet", "hello", &["broken.parquet", "not a readable Parquet file", "hint"][..]),
        ("other.csv", "a,b\n1,2\n", &["no column `payment_id`", "columns of the file: a, b"]),
        ("data.xlsx", "hello", &["the name \"data.xlsx\" does not tell the form of the file", "add `format"]),
    ] {
        project.write("kilter.toml", file(name));
        project.write(name, text);
        let output: Output = ingest();
        output.failed(1, parts);
    }
    project.write("kilter.toml", file("folder.csv"));
    std::fs::create_dir(project.path("folder.csv")).unwrap();
    ingest().failed(1, &["is a folder", "name one file"]);
    project.write("kilter.toml", file("payments.ndjson"));
    assert_eq!(project.kilter(&["ingest", "--json"]).json()["accepted"], 1);
}

#[test]
fn what_is_written_to_a_log_file_has_no_colours() {
    let project = Project::new(SHOP);
    let server = project.up();
    let log = server.kill().stderr;
    assert!(log.contains("serving") && !log.contains('\u{1b}'), "stderr is a file here: {log:?}");
}

/// Questions about a project whose workers know the answers, and workers for which there is nothing to share.
#[test]
fn who_to_ask_about_a_project_of_workers_is_said() {
    let shared = "[project]\nname = \"shop\"\n[kafka]\nbrokers = \"127.0.0.1:1\"\n[workers]\nkey = \"card\"\nshards = 2\n\
                  [source.payments]\ntime = \"at\"\ncolumns = { card = \"int64\", at = \"timestamp\" }\n\
                  [features.card]\nsource = \"payments\"\nentity = \"card\"\ncolumns = { n = \"count(*) over 1d\" }\n";
    let project = Project::new(shared);
    for question in [&["status"][..], &["models"], &["decisions"]] {
        project.kilter(question).failed(1, &["the project is for workers", "/v1/shards"]);
    }
    assert!(!project.path("kilter-data").exists(), "a question leaves nothing behind");
    // Run as one process it answers as any other.
    project.up().stop();
    project.kilter(&["status"]).ok();
    Project::new(SHOP).kilter(&["worker"]).failed(1, &["the project has no [workers]", "`kilter up` runs it as one process"]);
}

#[test]
fn a_hint_names_only_commands_that_exist() {
    let help = kilter(&["--help"]).ok();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut unknown = Vec::new();
    let mut folders = vec![sources];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            if entry.is_dir() && entry.file_name().is_some_and(|n| n != "tests") {
                folders.push(entry);
            } else if entry.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&entry).unwrap();
                let named = text.split("`kilter ").skip(1).filter_map(|t| t.split(['`', ' ', '\n']).next());
                let commands =
                    named.filter(|c| !c.is_empty() && c.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !c.starts_with('-'));
                let missing = commands.filter(|c| !help.contains(&format!("\n  {c} ")));
                unknown.extend(missing.map(|c| format!("{}: kilter {c}", entry.display())));
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}
