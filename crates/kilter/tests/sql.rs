//! Questions in SQL, as a person, a script and an HTTP client ask them, beside a running server and without one.
#![cfg(feature = "sql")]

use crate::common;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::common::{JSON, Output, Project, SHOP, Server, at};
use serde_json::{Value, json};

const PAYMENTS: usize = 1500;
const BY_OUTCOME: &str = "SELECT outcome, count(*) AS n, count(score) AS scored FROM decisions GROUP BY outcome ORDER BY 1";

fn shop() -> Project {
    Project::new(SHOP)
}

/// One a minute.
fn fill(server: &Server) {
    let payment = |n: usize| format!(r#"{{"payment_id":"p{n}","card":{},"at":"{}","amount":12.5}}"#, n % 7, at(n as i64 * 60));
    let rows: Vec<String> = (0..PAYMENTS).filter(|n| *n != 3).map(payment).collect();
    server.send("payments", &rows);
    let odd = json!({ "payment_id": "p3, \"odd\"\u{1b}[2J", "card": 3, "at": at(180), "amount": 12.5 });
    server.send("payments", &[odd.to_string()]);
}

fn ask(server: &Server, question: &Value) -> common::Reply {
    server.post("/v1/sql", JSON, question.to_string())
}

/// Runs the command with this on its standard input.
fn piped(project: &Project, args: &[&str], input: &str) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kilter"));
    command.arg("-C").arg(project.dir()).arg("sql").args(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn the_server_answers_over_http() {
    let project = shop();
    let server = project.up_with(&["--listen", "127.0.0.1:0", "--postgres", "127.0.0.1:0"]);
    fill(&server);
    let tables = server.get("/v1/sql/tables").ok();
    let table = |schema: &str, name: &str| {
        let found = tables["tables"].as_array().unwrap().iter().find(|table| table["schema"] == schema && table["name"] == name);
        found.unwrap_or_else(|| panic!("no {schema}.{name} in {tables}")).clone()
    };
    let decisions = table("public", "decisions");
    assert!(!decisions["comment"].as_str().unwrap().is_empty(), "{decisions}");
    let types: Vec<(&str, &str)> =
        decisions["columns"].as_array().unwrap().iter().map(|c| (c["name"].as_str().unwrap(), c["type"].as_str().unwrap())).collect();
    for column in [("time", "timestamptz"), ("score", "float8"), ("outcome", "text"), ("event_offset", "int8")] {
        assert!(types.contains(&column), "{types:?}");
    }
    table("events", "payments");
    table("tracking", "runs");
    assert_eq!(ask(&server, &json!({ "query": "SELECT count(*) FROM tracking.runs" })).ok()["rows"], json!([[0]]));

    let query = "SELECT card, amount, amount > 1 AS much, at, NULL AS nothing, 9007199254740993 AS large, 'NaN'::float8 AS odd FROM payments ORDER BY at LIMIT 1";
    let answer = ask(&server, &json!({ "query": query })).ok();
    let names: Vec<&str> = answer["columns"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["card", "amount", "much", "at", "nothing", "large", "odd"], "{answer}");
    assert_eq!(answer["columns"][3]["type"], "timestamptz", "{answer}");
    assert_eq!(answer["rows"], json!([[0, 12.5, true, at(0), null, "9007199254740993", "NaN"]]), "{answer}");
    assert_eq!(answer["truncated"], false);
    let answer = ask(&server, &json!({ "query": "SELECT * FROM decisions", "limit": 7 })).ok();
    assert_eq!((answer["rows"].as_array().unwrap().len(), &answer["truncated"]), (7, &json!(true)));
    let answer = ask(&server, &json!({ "query": BY_OUTCOME })).ok();
    assert_eq!(answer["rows"], json!([["accept", PAYMENTS, 0]]), "{answer}");
    // What clients ask of the catalogue comes by another engine.
    let answer = ask(&server, &json!({ "query": "SELECT relname FROM pg_catalog.pg_class WHERE relname = 'decisions'" })).ok();
    assert_eq!(answer["rows"], json!([["decisions"]]), "{answer}");

    let csv = |body: &Value| {
        let request =
            server.client().agent.post(format!("http://{}/v1/sql", server.address)).content_type(JSON).header("accept", "text/csv");
        let mut response = request.send(body.to_string().as_bytes()).unwrap();
        assert_eq!(response.headers()["content-type"], "text/csv; charset=utf-8");
        response.body_mut().read_to_string().unwrap()
    };
    let all = csv(&json!({ "query": "SELECT payment_id, card FROM payments ORDER BY at" }));
    assert_eq!(all.lines().count(), PAYMENTS + 1, "with the names");
    assert!(all.starts_with("payment_id,card\np0,0\n"), "{}", &all[..60]);
    assert_eq!(csv(&json!({ "query": "SELECT payment_id FROM payments ORDER BY at", "limit": 2 })), "payment_id\np0\np1\n");
    assert_eq!(csv(&json!({ "query": "SELECT payment_id FROM payments WHERE card = 99" })), "payment_id\n");
    server.stop();
}

#[test]
fn what_is_wrong_with_a_statement_is_told_with_its_place_and_code() {
    let project = shop();
    let server = project.up();
    let refused = |query: &str, status: u16, code: &str, sqlstate: &str| {
        let reply = ask(&server, &json!({ "query": query }));
        let error = reply.json()["error"].clone();
        assert_eq!((reply.status, &error["code"], &error["sqlstate"]), (status, &json!(code), &json!(sqlstate)), "{query}: {error}");
        error
    };
    assert_eq!(refused("SELECT 'ü', (1,\n 2 FROM x", 400, "bad_sql", "42601")["position"], 20);
    assert!(refused("SELECT scor FROM decisions", 400, "bad_sql", "42703")["hint"].as_str().unwrap().contains("score"));
    assert_eq!(refused("SELECT nothing", 400, "bad_sql", "42703").get("hint"), None, "there is nothing to choose from");
    refused("SELECT * FROM nowhere", 400, "bad_sql", "42P01");
    refused("DELETE FROM decisions", 400, "read_only", "25006");
    refused("SELECT 1; SELECT 2", 400, "bad_sql", "0A000");
    refused("SELECT 1/0", 400, "bad_sql", "22012");
    let slow = "SELECT count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b, generate_series(1, 100000) c WHERE a.value + b.value + c.value = 7";
    let reply = ask(&server, &json!({ "query": slow, "seconds": 0.2 }));
    let error = reply.json()["error"].clone();
    assert_eq!((reply.status, &error["code"], &error["sqlstate"]), (503, &json!("timeout"), &json!("57014")), "{error}");
    server.stop();
}

#[test]
fn the_command_asks_the_running_server_and_without_one_the_folder() {
    let project = shop();
    let server = project.up();
    fill(&server);
    let check = |project: &Project| {
        let told = project.kilter(&["sql", BY_OUTCOME]).ok();
        let lines: Vec<&str> = told.lines().map(str::trim_end).collect();
        assert!(lines[0].contains("outcome") && lines[0].contains("scored"), "{told}");
        assert!(lines[2].contains("accept") && lines[2].contains("1500"), "{told}");
        // Numbers end where the heads of their columns do.
        assert!(lines[2].ends_with('0') && lines[2].chars().count() == lines[0].chars().count(), "{told}");
        assert!(told.contains("(1 row, 0."), "{told}");
        let told = project.kilter(&["sql", "SELECT payment_id FROM payments"]).ok();
        assert!(told.contains("(the first 1000 rows, ") && told.contains("--format csv has all"), "{told}");
        let told = project.kilter(&["sql", "SELECT payment_id FROM payments WHERE card = 3 ORDER BY at LIMIT 1"]).ok();
        assert!(told.contains("\\u{1b}[2J") && !told.contains('\u{1b}'), "a terminal is told nothing: {told}");

        let csv = project.kilter(&["sql", "--format", "csv", "SELECT payment_id, card FROM payments ORDER BY at"]).ok();
        assert_eq!(csv.lines().count(), PAYMENTS + 1);
        assert!(csv.contains("\"p3, \"\"odd\"\""), "{}", &csv[..100]);
        let json = project.kilter(&["sql", "--format", "json", "SELECT card, at FROM payments ORDER BY at LIMIT 2"]).ok();
        let rows: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((rows.len(), &rows[1]["card"]), (2, &json!(1)), "{json}");
        let arrow = piped(project, &["--format", "arrow"], "SELECT card FROM payments").stdout;
        assert!(arrow.starts_with(&[0xff; 4]) && arrow.ends_with(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]), "{} bytes", arrow.len());

        project.kilter(&["sql", "SELECT (1 FROM x"]).failed(1, &["syntax error", "(at character "]);
        project.kilter(&["sql", "DROP TABLE decisions"]).failed(1, &["read-only", "hint"]);
        project.kilter(&["sql", "--format", "xml", "SELECT 1"]).failed(1, &["`xml` is no format", "csv"]);
        csv
    };
    let beside = check(&project);
    server.stop();
    assert_eq!(check(&project), beside);
}

#[test]
fn statements_come_one_after_the_other_from_a_pipe_and_from_a_file() {
    let project = shop();
    let input = "\\d\n\\d events.payments\nSELECT ';' AS semicolon; SELECT 41 + 1 AS\n  answer;\n-- and the last one has none\nSELECT 'end' AS last";
    let told = Output::of(piped(&project, &[], input)).ok();
    for part in ["dead_letters", "events.payments: ", "timestamptz", "semicolon", "42", "end"] {
        assert!(told.contains(part), "{part} is missing in {told}");
    }
    assert_eq!(told.matches("(1 row, ").count(), 3, "{told}");
    assert!(!told.contains("kilter=>"), "nobody is there to be asked: {told}");

    project.write("questions.sql", "SELECT 1 AS a;\nSELECT nothing;\nSELECT 3 AS c;\n");
    let file = project.path("questions.sql");
    let output = project.kilter(&["sql", "--format", "csv", "--file", file.to_str().unwrap()]);
    assert_eq!(output.stdout, "a\n1\n", "what follows a mistake is not asked");
    output.failed(1, &["nothing"]);
    Output::of(piped(&project, &[], "\\x\n")).failed(1, &["there is no `\\x`"]);
    Output::of(piped(&project, &[], "\\d payment\n")).failed(1, &["there is no table `payment`", "did you mean `payments`?"]);
    assert_eq!(Output::of(piped(&project, &[], "\\q\nSELECT 1;\n")).ok(), "");
}

#[test]
fn a_server_elsewhere_is_asked_with_a_key() {
    let project = shop();
    let made = project.kilter(&["key", "create", "reader", "--role", "read"]).ok();
    let key = made.trim().to_string();
    let server = project.up();
    let url = format!("http://{}/", server.address);
    let elsewhere = Project::empty();
    let told = elsewhere.kilter(&["sql", "--url", &url, "--key", &key, "SELECT 40 + 2 AS answer, current_user AS me"]).ok();
    assert!(told.contains("42") && told.contains("reader"), "{told}");
    elsewhere.kilter(&["sql", "--url", &url, "SELECT 1"]).failed(1, &["key"]);
    elsewhere.kilter(&["sql", "--url", "kilter.example", "SELECT 1"]).failed(1, &["`kilter.example` is no address", "http://"]);
    elsewhere.kilter(&["sql", "--key", &key, "SELECT 1"]).failed(2, &["--url"]);
    server.stop();
}

#[test]
fn a_key_sees_in_sql_what_it_is_granted() {
    let project = shop();
    let germans = "events.payments (payment_id, card) WHERE card = 3";
    project.kilter(&["key", "create", "bi", "--sql", "events.payment"]).failed(1, &["events.payment", "did you mean `events.payments`?"]);
    project.kilter(&["key", "create", "bi", "--sql", "events.payments (pay"]).failed(1, &["syntax", "write it like"]);
    project.kilter(&["key", "create", "bi", "--sql", "events.payments WHERE amount"]).failed(1, &["true or false"]);
    assert!(!project.data("keys.json").exists(), "what is refused makes no key");
    let bi = project.kilter(&["key", "create", "bi", "--sql", germans, "--sql", "tracking.runs"]).ok().trim().to_string();
    let reader = project.kilter(&["key", "create", "reader", "--role", "read"]).ok().trim().to_string();
    let listed = project.kilter(&["key", "list"]).ok();
    assert!(listed.contains(germans) && listed.contains("tracking.runs"), "{listed}");
    assert_eq!(project.kilter(&["key", "list", "--json"]).json()[0]["grants"], json!([germans, "tracking.runs"]));

    let server = project.up_with(&["--listen", "127.0.0.1:0", "--postgres", "127.0.0.1:0"]);
    let url = format!("http://{}", server.address);
    let ask = |key: &str, question: &str| project.kilter(&["sql", "--url", &url, "--key", key, "--format", "csv", question]);
    let rows: Vec<String> =
        (0..50).map(|n: i64| format!(r#"{{"payment_id":"p{n}","card":{},"at":"{}","amount":12.5}}"#, n % 7, at(n * 60))).collect();
    let request = server.client().agent.post(format!("{url}/v1/events/payments")).header("authorization", format!("Bearer {reader}"));
    assert_eq!(request.content_type("application/x-ndjson").send(rows.join("\n")).unwrap().status().as_u16(), 403, "it only reads");
    let writer = project.kilter(&["key", "create", "writer", "--role", "write"]).ok().trim().to_string();
    common::eventually("a new key is known", || {
        let request = server.client().agent.post(format!("{url}/v1/events/payments")).header("authorization", format!("Bearer {writer}"));
        request.content_type("application/x-ndjson").send(rows.join("\n")).unwrap().status().as_u16() == 200
    });
    assert_eq!(ask(&reader, "SELECT count(*) FROM payments").ok(), "count\n50\n");
    assert_eq!(ask(&bi, "SELECT count(*) FROM payments").ok(), "count\n7\n");
    assert_eq!(ask(&bi, "SELECT * FROM payments ORDER BY 1 LIMIT 2").ok(), "payment_id,card\np10,3\np17,3\n");
    ask(&bi, "SELECT amount FROM payments").failed(1, &["column \"amount\" does not exist"]);
    ask(&bi, "SELECT * FROM decisions").failed(1, &["not found"]);
    ask(&bi, "EXPLAIN ANALYZE SELECT * FROM payments").failed(1, &["is not for keys with grants"]);
    let tables = server.client().agent.get(format!("{url}/v1/sql/tables")).header("authorization", format!("Bearer {bi}"));
    let tables: Value = serde_json::from_str(&tables.call().unwrap().body_mut().read_to_string().unwrap()).unwrap();
    let names: Vec<&Value> = tables["tables"].as_array().unwrap().iter().map(|table| &table["name"]).collect();
    assert_eq!(names, ["payments", "runs"], "{tables}");
    assert_eq!(tables["tables"][0]["columns"].as_array().unwrap().len(), 2, "{tables}");

    // Other grants, while the server runs.
    project.kilter(&["key", "sql", "bi", "decisions (amount)"]).failed(1, &["there is no column", "decisions"]);
    project.kilter(&["key", "sql", "bob", "decisions"]).failed(1, &["there is no key `bob`"]);
    project.kilter(&["key", "sql", "bi"]).failed(2, &["GRANT"]);
    project.kilter(&["key", "sql", "bi", "decisions", "--nothing"]).failed(2, &["cannot be used with"]);
    let told = project.kilter(&["key", "sql", "bi", "decisions (outcome)"]).ok();
    assert!(told.contains("has 1 grant,"), "{told}");
    common::eventually("other grants hold", || ask(&bi, "SELECT count(*) FROM decisions").stdout == "count\n50\n");
    ask(&bi, "SELECT * FROM payments").failed(1, &["not found"]);
    project.kilter(&["key", "sql", "bi", "--nothing"]).ok();
    common::eventually("no grant is left", || ask(&bi, "SELECT 1").stderr.contains("key `bi` has no grant"));
    project.kilter(&["key", "sql", "bi", "--by-role"]).ok();
    common::eventually("the role says no", || ask(&bi, "SELECT 1").stderr.contains("lacks the role `read`"));
    project.kilter(&["key", "sql", "reader", "labels"]).ok();
    common::eventually("a key that reads has grants", || ask(&reader, "SELECT * FROM payments").stderr.contains("not found"));
    project.kilter(&["key", "sql", "reader", "--by-role"]).ok();
    common::eventually("it sees everything again", || ask(&reader, "SELECT count(*) FROM payments").stdout == "count\n50\n");
    server.stop();
}
