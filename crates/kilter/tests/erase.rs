//! An entity is erased from a project: what is left of it (nothing, byte for byte), what of the others (everything), what a replay says,
//! and what a kill in the middle leaves.

use crate::common;
use std::path::{Path, PathBuf};

use crate::common::{Dice, JSON, NDJSON, Project, Server, at, files};
use serde_json::{Value, json};

const KEY: &str = "ann-unmistakable-17";
/// Texts that only the erased entity's records hold.
const MARKERS: [&str; 6] = [KEY, "pay-of-ann-", "note-of-ann-", "page-of-ann-", "ann-late-", "ann-broken-"];

const BANK: &str = r#"
[project]
name = "bank"
clock = "event"
[log]
segment = "1MiB"
[snapshot]
every = "100ms"
min_events = 100
[source.payments]
time = "at"
id = "payment_id"
lateness = "1d"
max_future = "none"
[source.payments.columns]
payment_id = "string"
customer = { type = "string", required = true }
merchant = "int64"
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
customer = { type = "string", required = true }
at = "timestamp"
page = "string"
[source.calls]
time = "at"
lateness = "1h"
max_future = "none"
[source.calls.columns]
call_id = "string"
customer = { type = "string", required = true }
at = "timestamp"
[features.caller]
source = "calls"
entity = "customer"
columns = { calls = "count(*) over 1h" }
[features.customer]
source = "payments"
entity = "customer"
[features.customer.columns]
payments = "count(*) over 1h, 7d"
mean = "mean(amount) over 7d"
total = "count(*)"
[features.merchant]
source = "payments"
entity = "merchant"
[features.merchant.columns]
total = "count(*)"
largest = "max(amount)"
payers = "distinct(customer)"
[features.visitor]
source = "visits"
entity = "customer"
[features.visitor.columns]
total = "count(*)"
last_page = "last(page)"
[model.fraud]
on = "payments"
learner = "gbdt"
params = { trees = 10, leaves = 5, min_leaf_rows = 5 }
inputs = ["customer.payments_1h", "customer.payments_7d", "customer.mean_7d", "merchant.total", "merchant.largest", "payments.amount"]
label = { source = "outcomes", value = "fraud", on = "payment_id", within = "1h" }
min_rows = 50
[decision.pay]
model = "fraud"
policy = [{ when = "score >= 0.5", outcome = "block" }, { outcome = "accept" }]
reasons = 2
fallback = "accept"
[decision.own]
on = "payments"
policy = [{ when = "customer.payments_1h > 5", outcome = "block" }, { outcome = "accept" }]
"#;

fn is_ann(n: i64) -> bool {
    n % 9 == 4
}

fn customer(n: i64) -> String {
    if is_ann(n) { KEY.to_string() } else { format!("cust-{}", n % 7) }
}

fn payment_id(n: i64) -> String {
    if is_ann(n) { format!("pay-of-ann-{n}") } else { format!("p{n}") }
}

/// With an undeclared field, and long enough that there are several segments.
fn payment(n: i64) -> String {
    let note = if is_ann(n) { format!("note-of-ann-{n}") } else { format!("note {n} {}", "-".repeat(700)) };
    let amount = if n % 11 == 0 { 900 + n % 13 } else { 10 + n % 50 };
    format!(
        r#"{{"payment_id":"{}","customer":"{}","merchant":{},"at":"{}","amount":{amount},"note":"{note}"}}"#,
        payment_id(n),
        customer(n),
        n % 4,
        at(n * 60)
    )
}

fn outcome(n: i64) -> String {
    format!(r#"{{"payment_id":"{}","at":"{}","fraud":{}}}"#, payment_id(n), at(n * 60 + 1800), n % 11 == 0)
}

fn visit(n: i64) -> String {
    let page = if is_ann(n) { format!("page-of-ann-{n}") } else { format!("page {n}") };
    format!(r#"{{"customer":"{}","at":"{}","page":"{page}"}}"#, customer(n), at(n * 60))
}

/// The whole story of the project; `who` says whose events come.
fn play(server: &Server, count: i64, who: fn(i64) -> bool) {
    let numbers: Vec<i64> = (0..count).filter(|n| who(*n)).collect();
    for part in numbers.chunks(200) {
        server.send("payments", &part.iter().map(|n| payment(*n)).collect::<Vec<_>>());
        server.send("outcomes", &part.iter().map(|n| outcome(*n)).collect::<Vec<_>>());
        server.send("visits", &part.iter().map(|n| visit(*n)).collect::<Vec<_>>());
    }
}

/// What is turned away: of Ann in a field, in a row that cannot be read, and late; and of others.
fn bury(server: &Server) {
    for body in [
        format!(r#"{{"payment_id":"ann-broken-1","customer":"{KEY}","merchant":1,"at":"{}","amount":"much"}}"#, at(10)),
        format!(r#"{{"payment_id":"ann-broken-2","customer":"{KEY}","amount":"#),
        r#"{"payment_id":"other-broken","customer":"cust-1","amount":"#.to_string(),
        format!(r#"{{"payment_id":"other-broken","customer":"cust-2","merchant":1,"at":"{}","amount":"much"}}"#, at(10)),
    ] {
        server.post("/v1/events/payments", NDJSON, body);
    }
    assert_eq!(server.post("/v1/events/calls", NDJSON, calls(&["cust-3", KEY, "cust-4"])).ok()["late"], 2);
}

/// Calls of these, of which all but the first come late.
fn calls(who: &[&str]) -> String {
    let call = |(n, who): (usize, &&str)| {
        let id = if *who == KEY { "ann-late-1" } else { "call" };
        format!(r#"{{"call_id":"{id}","customer":"{who}","at":"{}"}}"#, at(if n == 0 { 100_000 } else { 60 }))
    };
    who.iter().enumerate().map(call).collect::<Vec<_>>().join("\n")
}

/// A project with 1800 of each, a model in service, decisions by it, dead letters, snapshots; stopped.
fn filled(definitions: &str) -> Project {
    let project = Project::new(definitions);
    let server = project.up();
    play(&server, 1800, |_| true);
    bury(&server);
    let trained = server.post("/v1/models/fraud/train", JSON, r#"{"promote":"always"}"#).ok();
    assert_eq!(trained["version"], 1, "{trained}");
    server.send("payments", &(1800..2000).map(payment).collect::<Vec<_>>());
    server.stop().ok();
    project
}

/// Every file of the data folder that holds one of the texts, byte for byte.
fn traces(project: &Project, texts: &[&str]) -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            if entry.is_dir() { walk(&entry, found) } else { found.push(entry) }
        }
    }
    let mut all = Vec::new();
    walk(&project.path("kilter-data"), &mut all);
    assert!(all.len() > 5);
    let mut found = Vec::new();
    for path in all {
        let bytes = std::fs::read(&path).unwrap();
        for text in texts {
            if bytes.windows(text.len()).any(|w| w == text.as_bytes()) {
                found.push(format!("{}: {text}", path.display()));
            }
        }
    }
    found
}

/// The features of all entities but the erased one.
fn others(server: &Server) -> Vec<Value> {
    let views =
        [("customer", (0..7).map(|c| format!("cust-{c}")).collect::<Vec<_>>()), ("merchant", (0..4).map(|m| m.to_string()).collect())];
    let visitors = ("visitor", (0..7).map(|c| format!("cust-{c}")).collect());
    let mut all = Vec::new();
    for (view, keys) in views.into_iter().chain([visitors]) {
        for key in keys {
            all.push(server.get(&format!("/v1/features/{view}/{key}")).ok()["features"].clone());
        }
    }
    all
}

fn erased_for_good(definitions: &str) {
    let project = filled(definitions);
    assert!(files(&project.data("events"), ".klog").len() > 1);
    for marker in MARKERS {
        assert!(!traces(&project, &[marker]).is_empty(), "{marker} must be there to be erased");
    }
    let server = project.up();
    let entity = format!("customer={KEY}");
    project.kilter(&["erase", "--entity", &entity]).failed(1, &["a running kilter has the project open", "stop it first"]);
    assert_eq!(server.get(&format!("/v1/features/customer/{KEY}")).ok()["features"]["total"], 222);
    let decided = server.decisions();
    server.stop().ok();

    let shown = project.kilter(&["erase", "--entity", &entity, "--dry-run"]).ok();
    assert!(shown.contains("nothing was changed") && shown.contains("fraud version 1 (challenger, champion)"), "{shown}");
    assert!(!traces(&project, &[KEY]).is_empty());

    let proof = project.kilter(&["erase", "--entity", &entity, "--reason", "request 2026-17", "--json"]).json();
    // The 222 payments of 2000, labels and visits of the first 1800, the late call.
    assert_eq!(proof["counts"]["by_source"], json!({ "calls": 1, "payments": 222, "outcomes": 200, "visits": 200 }), "{}", proof["counts"]);
    assert_eq!(proof["counts"]["linked_events"], 200, "labels are found by the payments they are about");
    assert_eq!((&proof["counts"]["decisions"], &proof["counts"]["dead_letters"]), (&json!(444), &json!(3)));
    assert_eq!((&proof["models"][0]["version"], &proof["reason"]), (&json!(1), &json!("request 2026-17")));
    assert_eq!((&proof["check"]["bytes_searched"], &proof["check"]["files"]), (&json!(true), &json!([])));
    let pieces = proof["events"].as_array().unwrap();
    assert_eq!(pieces.len(), 623);
    assert!(pieces.iter().all(|p| p["before"] != p["after"] && p["after"].as_str().is_some_and(|h| h.len() == 32)));
    assert_eq!(traces(&project, &MARKERS), Vec::<String>::new(), "no byte is left");
    let path = files(&project.data("erasures"), ".json").pop().unwrap();
    let path = path.to_str().unwrap();

    // Nothing more to erase, and the proof holds.
    let again = project.kilter(&["erase", "--entity", &entity]);
    assert!(again.code == Some(3) && again.stdout.contains("nothing found"), "{}{}", again.stdout, again.stderr);
    let checked = project.kilter(&["erase", "--verify", path]).ok();
    assert!(checked.contains("nothing found"), "{checked}");
    let checked = project.kilter(&["erase", "--verify", path, "--entity", &entity]).ok();
    assert!(checked.contains("searched every byte"), "{checked}");
    project.kilter(&["erase", "--verify", path, "--entity", "customer=cust-1"]).failed(1, &["about another entity"]);

    // The others are as in a project that has never heard of her.
    let server = project.up();
    let gone = server.get(&format!("/v1/features/customer/{KEY}")).ok()["features"].clone();
    assert_eq!((&gone["total"], &gone["mean_7d"]), (&json!(0), &Value::Null), "{gone}");
    let fresh = Project::new(definitions);
    let twin = fresh.up();
    play(&twin, 1800, |n| !is_ann(n));
    twin.post("/v1/events/calls", NDJSON, calls(&["cust-3", "cust-4"])).ok();
    twin.send("payments", &(1800..2000).filter(|n| !is_ann(*n)).map(payment).collect::<Vec<_>>());
    assert_eq!(others(&server), others(&twin));
    twin.stop().ok();

    // Their decisions stay as they were made; hers are gone but for their places.
    let left = server.decisions();
    let kept: std::collections::BTreeSet<&str> = left.iter().map(|d| d["decision_id"].as_str().unwrap()).collect();
    let of_others: Vec<Value> = decided.into_iter().filter(|d| kept.contains(d["decision_id"].as_str().unwrap())).collect();
    assert_eq!(left.len(), 4000 - 444);
    assert!(of_others == left);
    let offset = pieces[0]["offset"].as_u64().unwrap();
    server.get(&format!("/v1/decisions/pay-{offset}")).refused(404, "unknown_decision", &["its event was erased"]);
    let letters = server.get("/v1/dead-letters?limit=100").ok();
    assert_eq!(letters["dead_letters"].as_array().unwrap().len(), 6, "{letters}");

    // What she sends now is a new beginning; what she had sent before is still known.
    let known = server.post("/v1/events/payments", JSON, payment(1894)).ok();
    assert_eq!(known["duplicates"], 1, "{known}");
    server.send("visits", &[visit(2002)]);
    assert_eq!(server.get(&format!("/v1/features/visitor/{KEY}")).ok()["features"]["total"], 1);
    server.stop().ok();
    let newer = project.kilter(&["erase", "--verify", path, "--entity", &entity]).ok();
    assert!(newer.contains("1 events and 0 dead letters came after the erasure"), "{newer}");

    // A replay tells what was erased from what differs.
    let audit = project.kilter(&["replay", "--all", "--json"]).json();
    assert_eq!((&audit["mismatches"], &audit["erased"]), (&json!(0), &json!(444)), "{audit}");
    let touched = audit["inputs_erased"].as_u64().unwrap();
    assert_eq!(audit["checked"], 4000 - 444);
    assert!(touched > 1500 && touched < 2000 - 222, "decisions by merchant read her payments, decisions by customer do not: {touched}");
    let details = audit["inputs_erased_details"].as_array().unwrap();
    assert!(
        details.iter().all(|d| d[0].as_str().unwrap().starts_with("pay-") && d[1].as_str().unwrap().contains("input merchant.")),
        "{details:?}"
    );
    let id = details[0][0].as_str().unwrap();
    let one = project.kilter(&["replay", id]);
    assert!(one.code == Some(3) && one.stdout.contains("CANNOT BE REPRODUCED"), "{}{}", one.stdout, one.stderr);
    project.kilter(&["replay", &format!("pay-{offset}")]).failed(1, &["was erased"]);
}

#[test]
fn nothing_is_left_of_an_entity_and_all_of_the_others() {
    erased_for_good(BANK);
}

#[test]
fn nothing_is_left_in_state_beyond_memory() {
    erased_for_good(&format!("{BANK}\n[state]\nmemory = \"64MiB\"\n"));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap().path()) {
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &target);
        } else {
            std::fs::copy(&entry, &target).unwrap();
        }
    }
}

/// Killed at any moment, an erasure has not begun or is finished by the next start.
#[test]
fn a_kill_at_any_moment_leaves_it_undone_or_finished_by_the_next_start() {
    let full = filled(BANK);
    let entity = format!("customer={KEY}");
    let mut dice = Dice(11);
    let (mut undone, mut cut_short) = (0, 0);
    for round in 0..14 {
        let project = Project::new(BANK);
        copy(&full.path("kilter-data"), &project.path("kilter-data"));
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_kilter"));
        command.arg("-C").arg(project.dir()).args(["erase", "--entity", &entity]);
        let running = project.spawn(command);
        let started = std::time::Instant::now();
        let journal = project.data("erasure-under-way.json");
        // Some before it has begun; most at any of its steps.
        while round > 2 && !journal.exists() && started.elapsed() < common::PATIENCE {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        running.kill_after(dice.millis(if round > 2 { 150 } else { 20 }));
        let interrupted = journal.exists();
        cut_short += u32::from(interrupted);
        if round % 2 == 0 {
            project.up().stop().ok();
        } else {
            project.kilter(&["decisions", "--limit", "1"]).ok();
        }
        if !traces(&project, &[KEY]).is_empty() {
            undone += 1;
            assert!(!interrupted && !project.data("erasures").exists(), "half an erasure");
            project.kilter(&["erase", "--entity", &entity]).ok();
        }
        assert_eq!(traces(&project, &MARKERS), Vec::<String>::new());
        assert!(!project.data("erasure-under-way.json").exists());
        let path = files(&project.data("erasures"), ".json").pop().unwrap();
        project.kilter(&["erase", "--verify", path.to_str().unwrap(), "--entity", &entity]).ok();
        let audit = project.kilter(&["replay", "--all", "--json"]).json();
        assert_eq!((&audit["mismatches"], &audit["erased"]), (&json!(0), &json!(444)));
    }
    assert!(undone > 0 && cut_short > 4, "{undone} not begun, {cut_short} cut short");
}

#[test]
fn bad_requests_say_what_is_wrong_and_change_nothing() {
    let empty = Project::new(BANK);
    empty.kilter(&["erase", "--entity", "customer=x"]).failed(1, &["there is no data"]);
    let project = Project::new(BANK);
    let server = project.up();
    play(&server, 50, |_| true);
    server.stop().ok();
    let erase = |args: &[&str]| project.kilter(&[&["erase"], args].concat());
    erase(&[]).failed(2, &["--entity"]);
    erase(&["--entity", "customer"]).failed(2, &["`customer` names no entity", "COLUMN=VALUE"]);
    erase(&["--entity", "custmer=x"]).failed(1, &["no source has a column `custmer`", "did you mean `customer`?"]);
    erase(&["--entity", "customer=x", "--source", "payment"]).failed(1, &["there is no source `payment`", "did you mean `payments`?"]);
    erase(&["--entity", "customer=x", "--source", "outcomes"]).failed(1, &["source `outcomes` does not have a column `customer`"]);
    erase(&["--entity", "merchant=one"]).failed(1, &["column `merchant` of source `payments` holds int64", "`one` is none"]);
    erase(&["--entity", "amount=5"]).failed(1, &["float64", "name no entity"]);
    let none = erase(&["--entity", "customer=nobody"]);
    assert!(none.code == Some(3) && none.stdout.contains("nothing found: no event and no dead letter has customer=nobody"), "{none:?}");
    let entity = format!("customer={KEY}");
    erase(&["--entity", &entity, "--reason", &format!("{KEY} asked")]).failed(1, &["the reason names the entity"]);
    project.write("proof.json", "{}");
    let taken = project.path("proof.json").display().to_string();
    erase(&["--entity", &entity, "--proof", &taken]).failed(1, &["is there already"]);
    erase(&["--verify", &taken]).failed(1, &["is no proof of an erasure"]);
    erase(&["--verify", "/no/such/proof"]).failed(1, &["cannot read the proof"]);
    assert!(!traces(&project, &[KEY]).is_empty());

    // Only one source; the proof elsewhere; and then it is of no use for another project.
    let proof = project.path("visits.json").display().to_string();
    let done = erase(&["--entity", &entity, "--source", "visits", "--proof", &proof]);
    assert!(done.ok().contains("other sources may hold the key"));
    assert!(traces(&project, &["page-of-ann-"]).is_empty() && !traces(&project, &["pay-of-ann-"]).is_empty());
    let other = Project::new(BANK);
    let server = other.up();
    play(&server, 50, |_| true);
    server.stop().ok();
    other.kilter(&["erase", "--verify", &proof]).failed(1, &["no record of the erasure", "another project"]);
}

/// Rows of a file are known by their number: erased ones must not come in again.
#[test]
fn erased_rows_of_a_file_do_not_come_back() {
    let project = Project::new(
        r#"
[project]
name = "file"
[source.rows]
time = "at"
path = "rows.csv"
connector = "file"
max_future = "none"
[source.rows.columns]
who = "string"
at = "timestamp"
[features.who]
source = "rows"
entity = "who"
columns = { n = "count(*)" }
[decision.pass]
on = "rows"
policy = [{ outcome = "yes" }]
"#,
    );
    let rows: String = (0..40).map(|n| format!("{},{}\n", if n % 10 == 9 { "ann-in-a-file" } else { "bob" }, at(n * 60))).collect();
    project.write("rows.csv", format!("who,at\n{rows}"));
    project.kilter(&["ingest"]).ok();
    let backup = Project::empty();
    copy(&project.path("kilter-data"), &backup.path("kilter-data"));
    let proof = project.kilter(&["erase", "--entity", "who=ann-in-a-file", "--json"]).json();
    assert_eq!(proof["counts"]["events"], 4, "the last row too");
    assert!(proof["not_reached"].to_string().contains("rows.csv"), "{}", proof["not_reached"]);
    project.kilter(&["ingest"]).ok();
    assert!(traces(&project, &["ann-in-a-file"]).is_empty());
    let read = project.kilter(&["features", "read", "who", "bob", "ann-in-a-file", "--json"]).json();
    assert_eq!((&read["rows"][0]["features"]["n"], &read["rows"][1]["features"]["n"]), (&json!(36), &json!(0)), "{read}");

    // What comes back from a backup is found: decisions here, then the whole log.
    let path = files(&project.data("erasures"), ".json").pop().unwrap();
    let path = path.to_str().unwrap();
    project.kilter(&["erase", "--verify", path]).ok();
    let restore = |log: &str| {
        std::fs::remove_dir_all(project.data(log)).unwrap();
        copy(&backup.data(log), &project.data(log));
    };
    restore("decisions");
    let found = project.kilter(&["erase", "--verify", path]);
    assert!(found.code == Some(3) && found.stdout.contains("FOUND 4 records"), "{found:?}");
    restore("events");
    project.kilter(&["erase", "--verify", path]).failed(1, &["no record of the erasure", "restored from a backup", "erase again"]);
    project.kilter(&["erase", "--entity", "who=ann-in-a-file"]).ok();
    assert!(traces(&project, &["ann-in-a-file"]).is_empty());
}
