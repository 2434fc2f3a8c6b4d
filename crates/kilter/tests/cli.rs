//! Every command, as a person or a script meets it: what it prints, what it ends with, and that it works beside a running server.
#![allow(clippy::print_stderr, reason = "what was seen or passed over is told with --nocapture")]

use crate::common;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Dice, Project, Server, eventually, free_port, kilter};
use serde_json::{Value, json};

/// A lender whose three sources are files.
const BANK: &str = r#"
[project]
name = "bank"
clock = "event"
[server]
listen = "127.0.0.1:PORT"
[log]
segment = "1MiB"
[snapshot]
every = "50ms"
min_events = 500
[source.transactions]
connector = "file"
path = "transactions.ndjson"
time = "booked_at"
id = "transaction_id"
lateness = "1d"
max_future = "none"
columns = { transaction_id = "string", account_id = "int64", booked_at = "timestamp", amount = "float64", kind = "string", balance = "float64" }
[source.applications]
connector = "file"
path = "applications.ndjson"
time = "applied_at"
id = "application_id"
lateness = "1d"
max_future = "none"
columns = { application_id = "string", account_id = "int64", applied_at = "timestamp", amount = "float64", months = "int64", payment = "float64" }
[source.repayments]
connector = "file"
path = "repayments.ndjson"
time = "observed_at"
lateness = "1d"
max_future = "none"
columns = { application_id = "string", account_id = "int64", observed_at = "timestamp", defaulted = "bool", lost = "float64" }
[features.account]
source = "transactions"
entity = "account_id"
[features.account.columns]
bookings = "count(*) over 1d, 7d"
turnover = { value = "sum(abs(amount)) over 7d", default = 0 }
low = "min(balance) over 7d"
total = "count(*)"
[features.history]
source = "repayments"
entity = "account_id"
[features.history.columns]
ended = "count(*)"
[service.overview]
features = ["account.total", "history.ended", "share = account.bookings_1d / account.bookings_7d"]
keys = { account = "customer", history = "customer" }
[model.default_risk]
on = "applications"
params = { trees = 30, leaves = 7 }
inputs = ["account.*", "applications.amount", "applications.payment"]
label = { source = "repayments", value = "defaulted", on = "application_id", within = "21d" }
min_rows = 100
[decision.loan]
model = "default_risk"
policy = [{ when = "score >= 0.2", outcome = "decline" }, { outcome = "approve" }]
fallback = "review"
[monitor.drift]
model = "default_risk"
signal = "psi"
above = 0.02
every = "1d"
min_rows = 20
"#;

/// Accounts of the lender; the newest have the largest numbers.
const CUSTOMERS: i64 = 300;

/// A project with the files of a small lender, nothing ingested yet.
fn bank() -> Project {
    bank_of(40)
}

fn bank_of(days: u32) -> Project {
    let project = Project::new(&BANK.replace("PORT", &free_port().to_string()));
    let out = project.dir().to_str().unwrap();
    kilter(&["generate", "lender", "--customers", &CUSTOMERS.to_string(), "--days", &days.to_string(), "--out", out]).ok();
    project
}

fn lines(path: &Path) -> u64 {
    std::fs::read_to_string(path).unwrap().lines().count() as u64
}

/// Rows of the three files.
fn rows(project: &Project) -> u64 {
    ["transactions", "applications", "repayments"].iter().map(|f| lines(&project.path(&format!("{f}.ndjson")))).sum()
}

/// The server on the address that the definitions name, where the commands look for it.
fn up(project: &Project) -> Server {
    project.up_with(&["--no-files"])
}

#[test]
fn from_files_to_a_model_in_service_and_back() {
    let project = bank();
    project.kilter(&["check", "--quiet"]).ok();
    let done = project.kilter(&["ingest", "--json"]).json();
    let applications = lines(&project.path("applications.ndjson"));
    assert_eq!((&done["accepted"], &done["rows"]), (&json!(rows(&project)), &json!(rows(&project))), "{done}");
    assert_eq!((&done["rejected"], &done["duplicates"], &done["late"]), (&json!(0), &json!(0), &json!(0)), "{done}");
    assert_eq!(done["decisions"], applications, "every application is decided on");

    let nothing = project.kilter(&["rollback", "default_risk"]).failed(1, &["no earlier version", "hint"]);
    assert!(!nothing.contains('{'), "{nothing}");
    let trained = project.kilter(&["train", "default_risk", "--json"]).json();
    assert_eq!((&trained["version"], &trained["promote"]), (&json!(1), &json!(true)), "the first version takes over: {trained}");
    let told = project.kilter(&["train", "default_risk", "--no-promote"]).ok();
    assert!(told.contains("default_risk version 2") && told.contains("not in service"), "{told}");
    let aliases = |project: &Project| project.kilter(&["models", "default_risk", "--json"]).json()["aliases"].clone();
    assert_eq!(aliases(&project)["champion"], 1);
    assert!(project.kilter(&["promote", "default_risk", "--reason", "a test"]).ok().contains("version 2 is champion from offset"));
    assert_eq!(aliases(&project)["champion"], 2);
    assert!(project.kilter(&["rollback", "default_risk"]).ok().contains("back at version 1"));
    assert_eq!(aliases(&project)["champion"], 1);
    project.kilter(&["promote", "default_risk@2"]).ok();
    project.kilter(&["promote", "default_risk@9"]).failed(1, &["default_risk@9"]);
    project.kilter(&["promote", "default_risk@x"]).failed(1, &["`x` is no version number"]);
    project.kilter(&["promote", "default_rsk"]).failed(1, &["default_rsk", "did you mean `default_risk`?"]);
    let history = project.kilter(&["models", "default_risk", "--json"]).json()["history"].clone();
    let champions: Vec<&Value> = history.as_array().unwrap().iter().filter(|h| h["alias"] == "champion").collect();
    assert_eq!(champions.len(), 4, "{history}");
    assert_eq!(champions[2]["reason"], "a test", "{history}");

    let all = project.kilter(&["models"]).ok();
    assert!(all.contains("default_risk") && all.contains("champion"), "{all}");
    let one = project.kilter(&["models", "default_risk"]).ok();
    assert!(one.contains("gbdt") && one.contains("champion"), "{one}");
    project.kilter(&["models", "nobody"]).failed(1, &["there is no model `nobody`"]);

    let runs = project.kilter(&["runs", "--json"]).json();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 2, "{runs}");
    let id = runs["runs"][0]["id"].as_str().unwrap();
    let run: Value = serde_json::from_str(&project.kilter(&["runs", id]).ok()).unwrap();
    assert_eq!((&run["status"], &run["model"]), (&json!("finished"), &json!("default_risk")));
    assert!(run["metrics"]["auc"].is_number() && !run["artifacts"].as_array().unwrap().is_empty(), "{run}");
    assert!(project.kilter(&["runs", "--model", "default_risk", "--limit", "1"]).ok().contains("finished"));
    project.kilter(&["runs", "nothing"]).failed(1, &["there is no run `nothing`"]);

    let decisions = project.kilter(&["decisions", "--json", "--limit", "5", "--outcome", "review"]).json();
    let id = decisions["decisions"][0]["decision_id"].as_str().unwrap().to_string();
    assert_eq!(decisions["decisions"].as_array().unwrap().len(), 5);
    let one = project.kilter(&["decisions", &id, "--json"]).json();
    assert!(one["inputs"]["account.bookings_7d"].is_number(), "{one}");
    assert!(project.kilter(&["decisions", &id]).ok().contains("account.bookings_7d"));
    assert!(project.kilter(&["decisions"]).ok().contains("loan-"));
    project.kilter(&["decisions", "loan-999999"]).failed(1, &["there is no decision `loan-999999`", "hint"]);
    project.kilter(&["decisions", "--outcome", "maybe"]).failed(1, &["maybe", "approve"]);

    let replayed = project.kilter(&["replay", &id, "--json"]).json();
    assert_eq!((&replayed["same"], &replayed["id"]), (&json!(true), &json!(id)));
    let full = project.kilter(&["replay", &id, "--full"]).ok();
    assert!(full.contains("state rebuilt from offset 0") && full.contains("the same to the last bit"), "{full}");
    let report = project.kilter(&["replay", "--all", "--json"]).json();
    assert_eq!((&report["checked"], &report["mismatches"]), (&json!(applications), &json!(0)), "{report}");
    assert!(project.kilter(&["replay", "--all"]).ok().contains("0 differ"));
    project.kilter(&["replay", "loan-999999"]).failed(1, &["no decision `loan-999999`", "kilter decisions"]);
    project.kilter(&["replay", "loan"]).failed(1, &["`loan` is no decision id"]);

    assert_eq!(project.kilter(&["dead-letters", "--json"]).json()["dead_letters"], json!([]));
    project.kilter(&["dead-letters", "--source", "nobody"]).failed(1, &["there is no source `nobody`"]);
    project.kilter(&["alerts"]).ok();
    assert!(project.kilter(&["alerts", "--json"]).json()["alerts"].is_array());
}

#[test]
fn a_backtest_walks_through_the_past_and_keeps_its_figures_as_a_run() {
    let project = bank_of(70);
    project.kilter(&["backtest", "default_risk"]).failed(1, &["no event of source `applications`", "kilter ingest"]);
    project.kilter(&["ingest"]).ok();
    let args = ["backtest", "default_risk", "--train", "5d", "--test", "5d", "--step", "5d", "--to", "2025-02-11", "--json"];
    let done = project.kilter(&args).json();
    let folds = done["folds"].as_array().unwrap();
    assert_eq!(folds.len(), 3, "5 days, 21 of delay and 5 again fit three times, five days apart, into 41: {done}");
    assert_eq!(folds[0]["train_from"], "2025-01-01T00:00:00Z");
    assert_eq!(folds[0]["test_from"], "2025-01-27T00:00:00Z");
    let run = project.kilter(&["runs", done["run"].as_str().unwrap()]).ok();
    assert!(run.contains("\"backtest\""), "{run}");
    let other = ["backtest", "default_risk", "--train", "5d", "--test", "5d", "--learner", "logistic", "--stale", "1d"];
    assert!(project.kilter(&other).ok().contains("folds"));
    project.kilter(&["backtest", "default_risk", "--train", "90d"]).failed(1, &["there is no room for 90d of training"]);
    project.kilter(&["backtest", "default_risk", "--learner", "forrest"]).failed(1, &["forrest", "did you mean `forest`?"]);
    project.kilter(&["backtest", "default_rsk"]).failed(1, &["default_rsk", "did you mean `default_risk`?"]);
    project.kilter(&["backtest", "default_risk", "--train", "soon"]).failed(2, &["`soon` is no span", "7d"]);
}

#[test]
fn an_observation_whose_label_is_not_final_yet_is_not_tested_on() {
    // Defaults show early, repayment is confirmed after 21 days: the newest 21 days hold nothing but defaults with a known label,
    // and a fold that tests on them is no test.
    let project = bank_of(70);
    project.kilter(&["ingest"]).ok();
    let args = ["backtest", "default_risk", "--train", "5d", "--test", "5d", "--step", "5d", "--json"];
    for fold in project.kilter(&args).json()["folds"].as_array().unwrap() {
        let (rows, positives) = (fold["evaluation"]["rows"].as_u64().unwrap_or(0), fold["evaluation"]["positives"].as_u64().unwrap_or(0));
        assert!(rows == 0 || positives < rows, "all {rows} test rows from {} on are defaults", fold["test_from"]);
    }
}

#[test]
fn while_a_server_has_the_project_open_commands_go_through_it() {
    let project = bank();
    project.kilter(&["ingest"]).ok();
    let server = up(&project);
    let before = server.next_offset();
    let trained = project.kilter(&["train", "default_risk", "--promote", "--json"]).json();
    assert_eq!(trained["promote"], true);
    assert_eq!(server.get("/v1/models/default_risk").ok()["in_service"], 1, "the server's own model changed");
    assert_eq!(server.next_offset(), before + 1);
    assert_eq!(project.kilter(&["models", "default_risk", "--json"]).json()["aliases"]["champion"], 1);
    project.kilter(&["train", "default_risk"]).ok();
    project.kilter(&["promote", "default_risk@2"]).ok();
    project.kilter(&["rollback", "default_risk"]).ok();
    assert_eq!(server.get("/v1/models/default_risk").ok()["in_service"], 1);
    for args in
        [&["decisions", "--json"][..], &["status", "--json"], &["runs", "--json"], &["dead-letters", "--json"], &["alerts", "--json"]]
    {
        project.kilter(args).json();
    }
    // Those that read the log themselves say what to do instead.
    project.kilter(&["replay", "--all"]).failed(1, &["a running kilter has the project open", "hint", "stop it"]);
    project.kilter(&["backtest", "default_risk"]).failed(1, &["a running kilter has the project open", "hint", "stop it"]);
    project.kilter(&["ingest"]).failed(1, &["in use by another process", "hint"]);
    project.start(&["--listen", "127.0.0.1:0"]).ready().err().expect("no second server").failed(1, &["in use by another process", "hint"]);
    assert_eq!(server.get("/healthz").status, 200, "the server took no harm");
    server.stop();
    project.kilter(&["models"]).ok();
}

#[test]
fn a_server_that_listens_elsewhere_than_the_definitions_say_is_found() {
    let project = bank();
    let _server = project.up_with(&["--no-files", "--listen", "127.0.0.1:0"]);
    project.kilter(&["models"]).ok();
}

#[test]
fn a_server_reads_the_files_of_its_project() {
    let project = bank();
    let server = project.up_with(&[]);
    let all = rows(&project);
    eventually("the end of the files", || server.next_offset() == all);
    server.stop();
    let server = project.up_with(&[]);
    eventually("the end of the files", || server.log().contains("files are read"));
    assert_eq!(server.next_offset(), all, "they are taken up where they were left");
    server.stop();
}

#[test]
fn an_ingest_that_is_killed_and_taken_up_again_comes_to_the_same() {
    let (calm, shaken) = (bank(), bank());
    calm.kilter(&["ingest"]).ok();
    let mut dice = Dice(11);
    let mut cut = 0;
    for _ in 0..15 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kilter"))
            .arg("-C")
            .arg(shaken.dir())
            .arg("ingest")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(60) + dice.millis(150));
        child.kill().unwrap();
        cut += usize::from(child.wait().unwrap().code().is_none());
    }
    let done = shaken.kilter(&["ingest", "--json"]).json();
    assert_eq!(done["rejected"], 0, "{done}");
    eprintln!("{cut} of 15 were cut short; the last one found {} rows in the log and added {}", done["resumed"], done["accepted"]);
    assert!(cut > 0, "no run was cut short");

    let (one, two) = (up(&calm), up(&shaken));
    assert_eq!(one.next_offset(), rows(&calm));
    assert_eq!(two.next_offset(), rows(&calm), "the log is as long as without the kills");
    for account in 0..CUSTOMERS {
        for view in ["account", "history"] {
            assert_eq!(one.features(view, account), two.features(view, account), "{view} {account}");
        }
    }
    assert_eq!(one.decisions(), two.decisions());
    two.stop();
    assert_eq!(shaken.kilter(&["replay", "--all", "--json"]).json()["mismatches"], 0);
}

#[test]
fn a_training_set_is_what_was_decided_with_and_the_same_after_kills() {
    let project = bank();
    project.kilter(&["ingest"]).ok();
    let applications = lines(&project.path("applications.ndjson"));
    let (seen, again) = (project.path("seen.csv"), project.path("again.csv"));
    let told = project.kilter(&["training-set", seen.to_str().unwrap(), "--decision", "loan", "--mode", "as-logged", "--json"]).json();
    assert_eq!((&told["rows"], &told["beyond_log"]), (&json!(applications), &json!(0)), "{told}");
    project.kilter(&["training-set", again.to_str().unwrap(), "--decision", "loan"]).ok();
    let table = |path: &Path| -> Vec<Vec<String>> {
        std::fs::read_to_string(path).unwrap().lines().map(|l| l.split(',').map(str::to_owned).collect()).collect()
    };
    let (seen, again) = (table(&seen), table(&again));
    assert_eq!((seen.len() as u64, &seen[0]), (applications + 1, &again[0]));
    for (a, b) in seen.iter().flatten().zip(again.iter().flatten()) {
        // Recorded inputs are floats.
        assert!(a == b || a.parse::<f64>().unwrap().to_bits() == b.parse::<f64>().unwrap().to_bits(), "{a} against {b}");
    }

    let labels: String = (0..4000).map(|n| format!("{},{},{}\n", n % CUSTOMERS, 1_700_000_000 + n * 977, n % 2)).collect();
    project.write("labels.csv", format!("account_id,time,label\n{labels}"));
    let args = |out: &str| {
        let spine = project.path("labels.csv");
        let out = project.path(out);
        let (out, spine) = (out.to_str().unwrap(), spine.to_str().unwrap());
        ["training-set", out, "--mode", "event-time", "--lag", "5m", "--spine", spine, "--time", "time"].map(str::to_owned)
    };
    let run = |args: &[String]| project.kilter(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let told = run(&args("calm.parquet")).ok();
    assert!(told.contains("4 000 rows"), "{told}");
    let mut dice = Dice(5);
    let mut cut = 0;
    for _ in 0..12 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kilter"));
        command.arg("-C").arg(project.dir()).args(args("shaken.parquet")).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20) + dice.millis(100));
        child.kill().unwrap();
        cut += usize::from(child.wait().unwrap().code().is_none());
        if project.path("shaken.parquet").exists() {
            break;
        }
    }
    eprintln!("{cut} runs were cut short");
    if !project.path("shaken.parquet").exists() {
        run(&args("shaken.parquet")).ok();
    }
    assert!(std::fs::read(project.path("calm.parquet")).unwrap() == std::fs::read(project.path("shaken.parquet")).unwrap());
    run(&args("calm.parquet")).failed(1, &["is there already", "--overwrite"]);
    let picked = project.path("picked.csv");
    let picked = ["training-set", picked.to_str().unwrap(), "--events", "applications", "--json"];
    let some = [&picked[..], &["--where", "amount > 1000", "--from", "2020-01-01", "--sample", "0.5"]].concat();
    let some = project.kilter(&some).json()["rows"].as_u64().unwrap();
    assert!(some > 0 && some < applications * 2 / 3, "{some} of {applications}");
    let none = project.kilter(&[&picked[..], &["--where", "amount > 1e12", "--overwrite"]].concat()).json();
    assert_eq!(none["rows"], 0, "{none}");
    project.kilter(&["training-set", "x.csv"]).failed(2, &["--spine", "--events", "--decision"]);
    project.kilter(&["training-set", "x.csv", "--events", "applications", "--decision", "loan"]).failed(2, &["cannot be used with"]);
    project.kilter(&["training-set", "x.csv", "--events", "applications", "--lag", "5m"]).failed(1, &["--mode event-time"]);
    project.kilter(&["training-set", "x.orc", "--events", "applications"]).failed(1, &["names no format", "--format"]);

    let server = up(&project);
    project.kilter(&["training-set", "x.csv", "--events", "applications"]).failed(1, &["a running kilter has the project open"]);
    let read = project.kilter(&["features", "read", "account", "1", "2", "--features", "total"]).ok();
    assert!(read.contains("total") && read.contains("after the events before offset"), "{read}");
    let read = project.kilter(&["features", "read", "account", "2", "--json"]).json();
    assert_eq!(read["rows"][0]["features"], server.get("/v1/features/account/2").ok()["features"]);
    assert!(read["rows"][0].get("last_event").is_some(), "{read}");
    let past = project.kilter(&["features", "read", "account", "2", "--at", "2001-01-01T00:00:00Z"]).ok();
    assert!(past.contains(" *") && past.contains("not as it was then") && past.contains("(last event)"), "{past}");
    let seen = project.kilter(&["features", "read", "account", "2", "--as-seen", "--offset", "0"]).ok();
    assert!(seen.contains("before offset 0") && seen.contains("none") && !seen.contains(" *"), "{seen}");
    project.kilter(&["features", "read", "account", "2", "--as-seen"]).failed(1, &["at"]);
    project.kilter(&["features", "read", "account", "2", "--offset", "3"]).failed(2, &["--as-seen"]);
    let asked = project.kilter(&["features", "service", "overview", "customer=2", "customer=", "--json"]).json();
    assert_eq!(asked["rows"][0]["features"]["account.total"], read["rows"][0]["features"]["total"], "{asked}");
    assert_eq!(asked["rows"][1]["last_event"], json!({ "account": null, "history": null }), "{asked}");
    let shown = project.kilter(&["features", "service", "overview", "customer=2"]).ok();
    assert!(shown.contains("customer=2") && shown.contains("(last event of history)"), "{shown}");
    project.kilter(&["features", "service", "overview", "costumer=2"]).failed(1, &["costumer"]);
    project.kilter(&["features", "service", "overview", "customer"]).failed(2, &["is no KEY=VALUE"]);
    project.kilter(&["features", "service", "overveiw", "customer=2"]).failed(1, &["there are: overview"]);
    project.kilter(&["features", "read", "acount", "2"]).failed(1, &["did you mean `account`?"]);
    project.kilter(&["features", "read", "account", "x"]).failed(1, &["is no key of view `account`"]);
    server.stop();
}

#[test]
fn speed_paces_the_files_by_their_own_time() {
    let project = bank();
    let start = "2025-01-01T00:00:00Z";
    let row = |n: u32| format!(r#"{{"transaction_id":"t{n}","account_id":1,"booked_at":"2025-01-01T00:00:{:02}Z","amount":1}}"#, n * 6);
    project.write("transactions.ndjson", (0..10).map(row).collect::<Vec<_>>().join("\n"));
    // 54 seconds of events, 27 times as fast.
    let started = Instant::now();
    let done = project.kilter(&["ingest", "transactions", "--speed", "27", "--json"]).json();
    let took = started.elapsed();
    assert_eq!(done["accepted"], 10, "{done} from {start}");
    assert!((1.9..60.0).contains(&took.as_secs_f64()), "{took:?}");
    project.kilter(&["ingest", "--speed", "0"]).failed(1, &["--speed must be above 0"]);
    project.kilter(&["ingest", "--speed", "fast"]).failed(2, &["fast"]);
}

#[test]
fn path_reads_a_source_from_another_file() {
    let project = bank();
    let text = std::fs::read_to_string(project.path("transactions.ndjson")).unwrap();
    let elsewhere = Project::empty();
    elsewhere.write("first.ndjson", text.lines().take(100).collect::<Vec<_>>().join("\n"));
    let given = format!("transactions={}", elsewhere.path("first.ndjson").display());
    let done = project.kilter(&["ingest", "transactions", "--path", &given, "--json"]).json();
    assert_eq!(done["accepted"], 100, "{done}");
    project.kilter(&["ingest", "--path", "nobody=x.ndjson"]).failed(1, &["no file source `nobody`"]);
    project.kilter(&["ingest", "--path", "transactions"]).failed(2, &["SOURCE=FILE"]);
    project.kilter(&["ingest", "nobody"]).failed(1, &["there is no source `nobody`"]);
}

#[test]
fn a_second_file_for_the_same_source_is_taken_in_as_well() {
    // Monday's file, then Tuesday's: nothing in the second has been seen before.
    let project = bank();
    let text = std::fs::read_to_string(project.path("transactions.ndjson")).unwrap();
    let part = |from: usize, rows: usize| text.lines().skip(from).take(rows).collect::<Vec<_>>().join("\n");
    project.write("monday.ndjson", part(0, 100));
    project.write("tuesday.ndjson", part(100, 50) + "\n{oops\n");
    let path = |day: &str| format!("transactions={}", project.path(&format!("{day}.ndjson")).display());
    project.kilter(&["ingest", "transactions", "--path", &path("monday")]).ok();
    let done = project.kilter(&["ingest", "transactions", "--path", &path("tuesday"), "--json"]).json();
    assert_eq!(done["accepted"], 50, "rows of another file are no rows of the first: {done}");
    assert_eq!(done["rejected"], 1, "and what cannot be read is told: {done}");
}

#[test]
fn a_second_file_of_rows_without_ids_is_taken_in_as_well() {
    let project = bank();
    let text = std::fs::read_to_string(project.path("repayments.ndjson")).unwrap();
    let part = |from: usize, rows: usize| text.lines().skip(from).take(rows).collect::<Vec<_>>().join("\n");
    project.write("monday.ndjson", part(0, 20));
    project.write("tuesday.ndjson", part(20, 10));
    let path = |day: &str| format!("repayments={}", project.path(&format!("{day}.ndjson")).display());
    project.kilter(&["ingest", "repayments", "--path", &path("monday")]).ok();
    let done = project.kilter(&["ingest", "repayments", "--path", &path("tuesday"), "--json"]).json();
    assert_eq!(done["accepted"], 10, "the first row of a file is not the first row of another: {done}");
}

#[test]
fn a_file_that_has_grown_is_read_on() {
    let project = bank();
    let text = std::fs::read_to_string(project.path("transactions.ndjson")).unwrap();
    let first = |rows: usize| text.lines().take(rows).map(|l| format!("{l}\n")).collect::<String>();
    project.write("transactions.ndjson", first(700));
    assert_eq!(project.kilter(&["ingest", "transactions", "--json"]).json()["accepted"], 700);
    project.write("transactions.ndjson", first(1000));
    let done = project.kilter(&["ingest", "transactions", "--json"]).json();
    assert_eq!((&done["accepted"], &done["resumed"]), (&json!(300), &json!(700)), "{done}");
}

#[test]
fn rows_that_cannot_be_used_are_listed_with_their_reason() {
    let project = bank();
    let good = r#"{"transaction_id":"t1","account_id":1,"booked_at":"2025-01-01T00:00:00Z","amount":1}"#;
    let wrong = r#"{"transaction_id":"t2","account_id":1,"booked_at":"2025-01-01T00:00:01Z","amount":"lots"}"#;
    project.write("transactions.ndjson", [good, wrong, "{oops"].join("\n"));
    let done = project.kilter(&["ingest", "transactions", "--json"]).json();
    assert_eq!((&done["accepted"], &done["rejected"]), (&json!(1), &json!(2)), "{done}");
    let letters = project.kilter(&["dead-letters", "--json"]).json();
    assert_eq!(letters["dead_letters"].as_array().unwrap().len(), 2);
    let one = project.kilter(&["dead-letters", "--source", "transactions", "--code", "wrong_type", "--json"]).json();
    assert_eq!(one["dead_letters"].as_array().unwrap().len(), 1, "{one}");
    assert!(one["dead_letters"][0]["payload"].as_str().unwrap().contains("lots"));
    let table = project.kilter(&["dead-letters"]).ok();
    assert!(table.contains("wrong_type") && table.contains("amount"), "{table}");
    let status = project.kilter(&["status", "--json"]).json();
    let source = status["sources"].as_array().unwrap().iter().find(|s| s["source"] == "transactions").unwrap();
    assert_eq!((&source["received"], &source["events"]), (&json!(3), &json!(1)), "{source}");
    assert_eq!(source["turned_away"], json!({ "wrong_type": 1, "malformed_json": 1 }), "{source}");
    let shown = project.kilter(&["status"]).ok();
    assert!(shown.contains("malformed_json 1") && shown.contains("active") && shown.contains("watermark"), "{shown}");
    let human = project.kilter(&["ingest", "transactions"]).ok();
    assert!(human.contains("0 events"), "{human}");
}

#[test]
fn new_makes_projects_that_hold() {
    let folder = Project::empty();
    for template in ["blank", "credit-risk", "card-fraud"] {
        let dir = folder.path(template);
        let dir = dir.to_str().unwrap();
        let told = kilter(&["new", dir, "--template", template]).ok();
        assert!(told.contains("kilter.toml") && told.contains("kilter -C"), "{told}");
        let told = kilter(&["-C", dir, "check"]).ok();
        assert!(told.contains("the definitions hold"), "{told}");
        let report = kilter(&["-C", dir, "check", "--json"]).json();
        assert_eq!(report["ok"], true, "{report}");
        kilter(&["new", dir]).failed(1, &["is not empty", "hint"]);
        let _: Value = serde_json::from_str(&std::fs::read_to_string(format!("{dir}/kilter.schema.json")).unwrap()).unwrap();
    }
    let dir = folder.path("x");
    kilter(&["new", dir.to_str().unwrap(), "--template", "credit-rsk"]).failed(1, &["credit-rsk", "did you mean `credit-risk`?"]);
    assert!(!dir.exists());
    kilter(&["new", folder.path("9 lives").to_str().unwrap()]).failed(1, &["cannot name a project", "hint"]);
}

#[test]
fn generated_data_are_the_same_for_the_same_seed() {
    let (one, two) = (Project::empty(), Project::empty());
    for project in [&one, &two] {
        let dir = project.dir().to_str().unwrap();
        kilter(&["generate", "lender", "--customers", "20", "--days", "10", "--seed", "3", "--out", dir]).ok();
        let csv = project.path("cards.csv");
        let csv = csv.to_str().unwrap();
        kilter(&["generate", "card-fraud", "--customers", "20", "--terminals", "30", "--days", "5", "--out", csv]).ok();
    }
    for file in ["transactions.ndjson", "applications.ndjson", "repayments.ndjson", "cards.csv"] {
        let (a, b) = (std::fs::read(one.path(file)).unwrap(), std::fs::read(two.path(file)).unwrap());
        assert!(!a.is_empty() || file == "repayments.ndjson");
        assert_eq!(a, b, "{file}");
    }
    kilter(&["generate", "card-fraud", "--out", "/nowhere/at/all.csv"]).failed(1, &["cannot write /nowhere/at/all.csv"]);
}

#[test]
fn the_schema_is_the_one_in_the_documents() {
    let printed: Value = serde_json::from_str(&kilter(&["schema"]).ok()).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/kilter.schema.json");
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(printed, kept, "docs/reference/kilter.schema.json is not what `kilter schema` prints");
}

#[test]
fn every_command_explains_itself() {
    let commands = listed(&kilter(&["--help"]).ok());
    assert!(commands.len() >= 17, "{commands:?}");
    for command in &commands {
        let text = kilter(&[command, "--help"]).ok();
        assert!(text.contains("Usage: kilter"), "{text}");
        for inner in listed(&text) {
            assert!(kilter(&[command, &inner, "--help"]).ok().contains("Usage: kilter"), "{command} {inner}");
        }
    }
    assert!(kilter(&["--version"]).ok().starts_with("kilter "));
    kilter(&["chek"]).failed(2, &["chek", "check"]);
    kilter(&[]).failed(2, &["Usage: kilter"]);
    kilter(&["-C", "/nowhere/at/all", "check"]).failed(1, &["there is no kilter.toml in /nowhere/at/all", "kilter new"]);
    kilter(&["-C", "/nowhere/at/all", "up"]).failed(1, &["there is no kilter.toml in /nowhere/at/all"]);
}

/// Names under `Commands:` of a help text.
fn listed(help: &str) -> Vec<String> {
    let all = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    all.filter_map(|l| l.split_whitespace().next()).filter(|c| *c != "help").map(str::to_string).collect()
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let project = bank();
    project.kilter(&["ingest"]).ok();
    let dir = project.dir().to_str().unwrap();
    let line = format!("set -o pipefail; {} -C {dir} decisions --limit 1000 --json | head -1", env!("CARGO_BIN_EXE_kilter"));
    let output = common::Output::of(Command::new("bash").args(["-c", &line]).output().unwrap());
    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
}

#[test]
fn a_tracking_server_needs_no_project_and_has_its_folder_alone() {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("experiments");
    let mut command = Command::new(env!("CARGO_BIN_EXE_kilter"));
    let mut server = command
        .args(["--log", "error", "tracking", "--listen", "127.0.0.1:0", "--data"])
        .arg(&data)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.split("http://").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_else(|| panic!("{line}"));
    let experiment = format!("http://{address}/api/2.0/mlflow/experiments/get?experiment_id=0");
    let answer: Value = serde_json::from_reader(ureq::get(&experiment).call().unwrap().into_body().into_reader()).unwrap();
    assert_eq!(answer["experiment"]["name"], "Default");
    let second = ["tracking", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()];
    kilter(&second).failed(1, &["another process has", "hint: stop it, or choose another folder"]);
    // SAFETY: the process is ours and has not been waited for.
    unsafe { libc::kill(server.id() as i32, libc::SIGTERM) };
    assert!(server.wait().unwrap().success());
}

#[test]
fn an_import_tells_what_came_and_refuses_what_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path).to_str().unwrap().to_string();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write(
        "mlruns/3/meta.yaml",
        "experiment_id: '3'\nname: churn\nlifecycle_stage: active\nartifact_location: file:///gone/3\ncreation_time: 5\n",
    );
    write(
        "mlruns/3/a/meta.yaml",
        "run_id: a\nrun_name: first\nstatus: 3\nstart_time: 1\nlifecycle_stage: active\nartifact_uri: file:///gone/3/a/artifacts\n",
    );
    write("mlruns/3/a/metrics/loss", "1 0.5 0\n2 0.25 1\n2 0.25 1\n");
    let import = |source: &str, more: &[&str]| {
        let data = at("tracking");
        let mut all = vec!["import", "mlflow", source, "--data", &data];
        all.extend(more);
        kilter(&all)
    };
    for _ in 0..2 {
        let told = import(&at("mlruns"), &[]).ok();
        let line = |what: &str| {
            let line = told.lines().find(|l| l.trim_start().starts_with(what)).unwrap_or_else(|| panic!("{what}: {told}"));
            line.split_whitespace().filter_map(|word| word.parse().ok()).take(3).collect::<Vec<u64>>()
        };
        assert_eq!((line("runs"), line("points of metrics")), (vec![1, 1, 0], vec![3, 2, 1]), "{told}");
        assert!(told.contains("next: kilter tracking --data"), "{told}");
    }
    write("mlruns/3/b/meta.yaml", "run_id: [");
    import(&at("mlruns"), &[]).failed(1, &["1 files and folders could not be read", "b/meta.yaml is damaged"]);
    std::fs::remove_dir_all(at("mlruns/3/b")).unwrap();
    write("mlruns/3/tags/k", "here");
    import(&at("mlruns"), &[]).ok();
    write("mlruns/3/tags/k", "there");
    import(&at("mlruns"), &[]).failed(1, &["with other values than in the source: 1", "--differences take"]);
    import(&at("mlruns"), &["--differences", "take"]).ok();
    import(&at("mlruns"), &[]).ok();
    import(&at("tracking"), &[]).failed(1, &["cannot bring", "is not a file store of MLflow", "hint: "]);
    kilter(&["import", "mlflow", &at("mlrums"), "--data", &at("new")]).failed(1, &["cannot read"]);
    assert!(!dir.path().join("new").exists(), "a mistyped source leaves nothing");
    import("mysql://user:secret@host/db", &[]).failed(1, &["cannot bring mysql://user@host/db over", "cannot be read", "hint: "]);
    import("postgresql://user:secret@127.0.0.1:1/db", &[]).failed(1, &["bring postgresql://user@127.0.0.1:1/db over", "cannot connect"]);
    import(&at("mlruns"), &["--artifacts", "/nowhere/at/all"]).failed(1, &["there is no folder /nowhere/at/all"]);
}

#[test]
fn a_running_server_is_asked_with_a_key_and_a_folder_is_opened_without() {
    let project = Project::new("[project]\nname = \"keys\"\n[source.clicks]\ntime = \"at\"\ncolumns = { at = \"timestamp\" }\n");
    let made = project.kilter(&["key", "create", "ops", "--role", "manage", "--expires", "90d"]);
    assert!(made.stderr.contains("shown this once"), "{}", made.stderr);
    let secret = made.ok().trim().to_string();
    assert!(secret.starts_with("kilter_") && secret.len() == 71, "{secret}");
    project.kilter(&["status"]).ok();
    let server = project.up();
    let address = project.data("server.address");
    assert_eq!(std::fs::read_to_string(&address).unwrap(), server.address.to_string());
    let with = |key: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kilter"));
        command.arg("-C").arg(project.dir()).arg("status").env("KILTER_API_KEY", key).stdin(Stdio::null());
        common::Output::of(command.output().unwrap())
    };
    project.kilter(&["status"]).failed(1, &["this server wants a key", "KILTER_API_KEY"]);
    project.kilter(&["apply"]).failed(1, &["this server wants a key"]);
    with(&secret).ok();
    let listed = project.kilter(&["key", "list"]).ok();
    assert!(listed.contains("ops") && listed.contains("manage") && !listed.contains(&secret), "{listed}");
    let one = project.kilter(&["key", "create", "team", "--experiment", "churn=write", "--model", "a=b=read"]).ok();
    let keys = project.kilter(&["key", "list", "--json"]).json();
    assert_eq!(
        (&keys[1]["role"], &keys[1]["experiments"]["churn"], &keys[1]["models"]["a=b"]),
        (&json!("none"), &json!("write"), &json!("read"))
    );
    eventually("a new key is known", || with(one.trim()).stderr.contains("lacks the role `read`"));
    project.kilter(&["key", "revoke", "ops"]).ok();
    eventually("a revoked key is not", || with(&secret).stderr.contains("the key is not known here"));
    assert!(!server.log().contains(&secret[7..]), "a key is in the log: {}", server.log());
    server.stop();
    assert!(!address.exists(), "whoever listens there next would be told the key");

    project.kilter(&["key", "revoke", "ops"]).failed(1, &["there is no key `ops`", "kilter key list"]);
    project.kilter(&["key", "create", "team", "--role", "read"]).failed(1, &["already", "kilter key revoke team"]);
    project.kilter(&["key", "create", "x"]).failed(2, &["--role"]);
    project.kilter(&["key", "create", "x", "--role", "all"]).failed(2, &["none, read, write, manage"]);
    project.kilter(&["key", "create", "x", "--experiment", "churn"]).failed(2, &["NAME=read"]);
    let data = project.path("tracking");
    kilter(&["key", "create", "x", "--role", "read", "--data", data.to_str().unwrap()]).ok();
    assert!(data.join("keys.json").is_file());
    kilter(&["tracking", "--data", data.to_str().unwrap(), "--listen", "0.0.0.0:0"]).failed(1, &["--allow-remote"]);
}

#[test]
#[cfg(not(feature = "sql"))]
fn a_program_without_sql_says_so() {
    let project = bank();
    let server = up(&project);
    project.kilter(&["sql", "SELECT 1"]).failed(1, &["this server answers no SQL", "--features sql"]);
    assert_eq!(server.get("/v1/sql/tables").status, 501);
    server.stop();
    project.kilter(&["sql", "SELECT 1"]).failed(1, &["this server answers no SQL", "--features sql"]);
}
