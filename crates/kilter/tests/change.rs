//! Definitions that change under a running server, seen from outside: the plan, the apply, kills around the swap.
#![allow(clippy::print_stderr, reason = "what was seen is told with --nocapture")]

use crate::common::{Dice, JSON, Project, SHOP, Server, at, eventually};
use serde_json::{Value, json};

fn payment(n: i64) -> String {
    let amount = if n % 7 == 0 { 900 + n % 13 } else { 10 + n % 50 };
    format!(r#"{{"payment_id":"p{n}","card":{},"at":"{}","amount":{amount}}}"#, n % 5, at(n * 60))
}

/// Payments from `from` on, in bodies of fifty.
fn play(server: &Server, range: std::ops::Range<i64>) {
    let rows: Vec<String> = range.map(payment).collect();
    for body in rows.chunks(50) {
        server.send("payments", body);
    }
}

fn edited(edits: &[(&str, &str)]) -> String {
    edits.iter().fold(SHOP.to_string(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    })
}

/// A view is added, a window too, and a threshold moves.
fn next() -> String {
    edited(&[("over 1h, 1d\"\nmean", "over 1h, 1d, 7d\"\nmean"), ("score >= 0.5", "score >= 0.4")])
        + "\n[features.size]\nsource = \"payments\"\nentity = [\"card\", \"amount_band\"]\ncolumns = { n = \"count(*) over 1d\" }\n"
}

/// `next` with a column for its view.
fn with_band() -> String {
    next().replace(
        "amount = { type = \"float64\", required = true }",
        "amount = { type = \"float64\", required = true }\namount_band = \"string\"",
    )
}

fn applied(server: &Server) -> Value {
    let mut now = Value::Null;
    eventually("the apply ends", || {
        now = server.get("/v1/status").ok()["apply"].clone();
        now["phase"] != "filling"
    });
    now
}

#[test]
fn a_plan_is_shown_beside_the_running_server_and_offline_and_then_applied() {
    let project = Project::new(SHOP);
    let nothing = project.kilter(&["plan"]).ok();
    assert!(nothing.contains("has run under no definitions yet"), "{nothing}");
    let server = project.up();
    play(&server, 0..200);
    assert!(project.kilter(&["plan", "--exit-code"]).ok().contains("no change"));

    project.write("kilter.toml", with_band());
    project.kilter(&["plan", "--exit-code"]).failed(2, &[]);
    let shown = project.kilter(&["plan"]).ok();
    for part in [
        "1 added, 5 changed, 0 dropped, 3 unchanged",
        "~ source payments",
        "columns.amount_band: added string",
        "+ payments_7d",
        "+ view size   filled from the log",
        "policy: score >= 0.5 -> block -> score >= 0.4 -> block",
        "the log is read from offset 0: 200 records",
        "pay",
    ] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
    let before = server.next_offset();
    let done = project.kilter(&["apply"]).ok();
    assert!(done.contains("are in force after offset 200"), "{done}");
    assert_eq!(server.next_offset(), before + 1, "the record of the change");
    let hashes = server.get("/v1/project").ok();
    let check = project.kilter(&["check", "--json"]).json();
    assert_eq!(hashes["objects"], check["objects"]);
    assert!(check["objects"].as_array().unwrap().iter().all(|o| o["hash"].as_str().is_some_and(|h| h.len() == 16)));
    assert_eq!(server.features("card", 1)["payments_7d"], json!(40), "filled from the log");
    let paths = server.get("/openapi.json").ok()["paths"].clone();
    assert!(paths["/v1/features/size/{key}"].is_object() && paths["/v1/project/apply"].is_object(), "{paths}");
    play(&server, 200..210);
    project.kilter(&["apply"]).failed(1, &["nothing to apply"]);

    project.write(
        "kilter.toml",
        edited(&[
            ("[source.visits]", "[source.calls]"),
            ("[source.visits.", "[source.calls."),
            ("source = \"visits\"", "source = \"calls\""),
        ]),
    );
    project.kilter(&["apply"]).failed(1, &["a restart is needed", "source `visits` is gone"]);
    project.write("kilter.toml", with_band().replace("sum(amount)", "sum(amuont)"));
    project.kilter(&["apply"]).failed(1, &["unknown column `amuont`", "did you mean `amount`?"]);
    server.post("/v1/project/apply", JSON, "").refused(422, "bad_definitions", &["amuont"]);
    play(&server, 210..220);
    server.stop().ok();

    project.write("kilter.toml", with_band());
    let offline = project.kilter(&["plan"]).ok();
    assert!(offline.contains("no change"), "{offline}");
    project.write("old.toml", SHOP);
    let against = project.kilter(&["plan", "--against", &project.path("old.toml").display().to_string(), "--json"]).json();
    assert_eq!((&against["changes"], against["objects"].as_array().unwrap().len() > 5), (&json!(true), true));
    let replayed = project.kilter(&["replay", "--all"]).ok();
    assert!(
        replayed.starts_with("220 decisions replayed") && replayed.contains("under 2 definitions") && replayed.contains(": 0 differ"),
        "{replayed}"
    );
    project.kilter(&["apply"]).failed(1, &["no running kilter answers"]);
}

/// Kills at any moment around the swap: before it the old definitions decide, after it the new ones, and nothing is lost or made twice.
#[test]
fn a_kill_around_the_swap_loses_nothing() {
    let mut dice = Dice(7);
    let (mut before, mut after) = (0, 0);
    for round in 0..8 {
        let project = Project::new(SHOP);
        let mut server = project.up();
        play(&server, 0..600);
        let old = server.get("/v1/status").ok()["definitions"].clone();
        project.write("kilter.toml", with_band());
        // Around the moment of the swap as it falls on this machine.
        server.kill_in(dice.millis(if round % 2 == 0 { 25 } else { 120 }));
        let mut sent = 600;
        let _ = server.try_post("/v1/project/apply", JSON, "");
        while let Ok(reply) = server.try_post("/v1/events/payments", JSON, payment(sent)) {
            if reply.status != 200 {
                break;
            }
            sent += 1;
        }
        server.kill();

        // The old file again: when the swap had not come, nothing has changed; when it had, this is one more change.
        // Killed between an event and its decision, which the next start makes up for: until then the replay misses that one.
        let log: serde_json::Value = serde_json::from_str(&project.kilter(&["replay", "--all", "--json"]).stdout).unwrap();
        let missing = log["details"].as_array().unwrap();
        assert!(missing.len() <= 1 && missing.iter().all(|m| m[1] == "the replay decides where the record has nothing"), "{log}");
        project.write("kilter.toml", if round % 4 < 2 { SHOP.to_string() } else { with_band() });
        let server = project.up();
        let decided = server.decisions();
        assert!(decided.len() >= sent as usize, "an event answered for has its decision");
        let offsets: std::collections::BTreeSet<u64> = decided.iter().filter_map(|d| d["as_of_offset"].as_u64()).collect();
        assert_eq!(offsets.len(), decided.len(), "no event is decided on twice");
        let records = server.next_offset() as usize - decided.len();
        if log["definitions"] == json!(1) {
            before += 1
        } else {
            after += 1
        }
        assert!(records <= 2, "a change is one record: {records}");
        play(&server, sent + 1..sent + 30);
        if server.get("/v1/status").ok()["definitions"] == old {
            server.post("/v1/project/apply", JSON, "").refused(409, "conflict", &["nothing to apply"]);
            project.write("kilter.toml", with_band());
            assert_eq!(server.post("/v1/project/apply", JSON, "").status, 202);
            assert_eq!(applied(&server)["phase"], "done");
        }
        play(&server, sent + 30..sent + 60);
        server.stop().ok();
        let replayed = project.kilter(&["replay", "--all", "--json"]).json();
        assert_eq!((&replayed["mismatches"], &replayed["other_definitions"]), (&json!(0), &json!(0)), "{replayed}");
    }
    eprintln!("killed before the swap {before} times, after it {after} times");
}

#[test]
fn a_server_goes_on_answering_while_the_log_is_read() {
    let project = Project::new(SHOP);
    let server = project.up();
    play(&server, 0..40_000);
    project.write("kilter.toml", with_band());
    let begun = server.post("/v1/project/apply", JSON, "");
    assert_eq!((begun.status, &begun.json()["phase"]), (202, &json!("filling")));
    let mut during = 0;
    let mut n = 40_000;
    while server.get("/v1/status").ok()["apply"]["phase"] == "filling" {
        play(&server, n..n + 5);
        n += 5;
        during += 1;
        let second = server.post("/v1/project/apply", JSON, "");
        // The first may have ended in between.
        if server.get("/v1/status").ok()["apply"]["phase"] == "filling" {
            second.refused(409, "conflict", &[]);
        }
    }
    assert!(during > 0, "the log of 40 000 events is not read within one answer");
    assert_eq!(applied(&server)["phase"], "done");
    assert!(applied(&server)["swapped_at"].as_u64().unwrap() >= 40_000);
    play(&server, n..n + 10);
    assert_eq!(server.features("card", 1)["total"].as_i64().unwrap(), (n + 10) / 5);
    server.stop().ok();
    assert_eq!(project.kilter(&["replay", "--all", "--json"]).json()["mismatches"], json!(0));
}
