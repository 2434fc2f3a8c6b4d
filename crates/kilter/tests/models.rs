//! `kilter models import` and `export` on a lender's project: files that LightGBM and XGBoost have written (`models/make.py`) decide, give reasons,
//! go through restarts and are replayed, with the server running and without.

use crate::common;
use std::path::PathBuf;

use crate::common::{Project, kilter};
use kilter_learn::{Model, exchange};
use serde_json::{Value, json};

const LENDER: &str = r#"
[project]
name = "bank"
clock = "event"
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
columns = { transaction_id = "string", account_id = "int64", booked_at = "timestamp", amount = "float64", balance = "float64" }
[source.applications]
connector = "file"
path = "applications.ndjson"
time = "applied_at"
id = "application_id"
lateness = "1d"
max_future = "none"
columns = { application_id = "string", account_id = "int64", applied_at = "timestamp", amount = "float64", payment = "float64" }
[source.repayments]
connector = "file"
path = "repayments.ndjson"
time = "observed_at"
lateness = "1d"
max_future = "none"
columns = { application_id = "string", observed_at = "timestamp", defaulted = "bool" }
[features.account]
source = "transactions"
entity = "account_id"
[features.account.columns]
bookings = "count(*) over 1d, 7d"
turnover = { value = "sum(abs(amount)) over 7d", default = 0 }
low = "min(balance) over 7d"
total = "count(*)"
[model.default_risk]
on = "applications"
inputs = ["account.*", "applications.amount", "applications.payment"]
label = { source = "repayments", value = "defaulted", on = "application_id", within = "21d" }
[decision.loan]
model = "default_risk"
policy = [{ when = "score >= 0.3", outcome = "decline" }, { outcome = "approve" }]
reasons = 3
fallback = "review"
"#;

fn lender() -> Project {
    let project = Project::new(LENDER);
    let out = project.dir().to_str().unwrap();
    kilter(&["generate", "lender", "--customers", "200", "--days", "30", "--out", out]).ok();
    project
}

fn file(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(name).to_str().unwrap().to_string()
}

/// The inputs of a decision as a row, in the model's order.
fn row(decision: &Value, model: &dyn Model) -> Vec<f64> {
    model.inputs().iter().map(|name| decision["inputs"][name].as_f64().unwrap_or(f64::NAN)).collect()
}

/// The newest decision, which must be of this version of the model, with the score and the reasons that the model gives by itself.
fn check_decided(project: &Project, version: u32, model: &dyn Model) -> String {
    let newest = project.kilter(&["decisions", "--json", "--limit", "1"]).json()["decisions"][0].clone();
    let id = newest["decision_id"].as_str().unwrap().to_string();
    let decision = project.kilter(&["decisions", &id, "--json"]).json();
    assert_eq!(decision["model_version"], version, "{decision}");
    let row = row(&decision, model);
    assert_eq!(decision["score"].as_f64().unwrap().to_bits(), model.probability(&row).to_bits(), "{decision}");
    let mut contributions = Vec::new();
    model.explain(&row, &mut contributions);
    let raised: Vec<f64> = contributions.into_iter().filter(|c| *c > 0.0).collect();
    let told = decision["reasons"].as_array().unwrap();
    assert_eq!(told.len(), raised.len().min(3), "{decision}");
    let strongest = raised.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    assert_eq!(told.first().and_then(|reason| reason["contribution"].as_f64()), Some(strongest).filter(|c| c.is_finite()), "{decision}");
    id
}

#[test]
fn models_of_other_programs_decide_here_and_are_replayed() {
    let project = lender();
    let all = std::fs::read_to_string(project.path("applications.ndjson")).unwrap();
    let applications: Vec<&str> = all.lines().collect();
    // Some applications come before the first model, some after each.
    let parts = applications.len() / 4;
    project.write("applications.ndjson", applications[..parts].join("\n") + "\n");
    project.kilter(&["ingest"]).ok();
    for (number, name) in (1..).zip(["lightgbm.txt", "xgboost.json", "xgboost.ubj"]) {
        let path = file(name);
        let told = project.kilter(&["models", "import", "default_risk", &path]).ok();
        assert!(told.contains(&format!("default_risk version {number}")) && told.contains("not in service: waits for a person"), "{told}");
        assert!(told.contains(name) && told.contains("sha256"), "{told}");
        project.kilter(&["promote", &format!("default_risk@{number}")]).ok();
        let part = number as usize * parts..(number as usize + 1) * parts;
        project.write("applications.ndjson", applications[..part.end].join("\n") + "\n");
        let done = project.kilter(&["ingest", "applications", "--json"]).json();
        assert_eq!(done["decisions"], parts, "{done}");
        let model = exchange::import(&std::fs::read(&path).unwrap()).unwrap();
        let id = check_decided(&project, number, &model);
        for full in [&["replay", &id, "--json"][..], &["replay", &id, "--full", "--json"]] {
            assert_eq!(project.kilter(full).json()["same"], true);
        }
    }
    let report = project.kilter(&["replay", "--all", "--json"]).json();
    assert_eq!((&report["checked"], &report["mismatches"]), (&json!(4 * parts), &json!(0)), "{report}");
    let shown = project.kilter(&["models", "default_risk"]).ok();
    assert!(shown.contains("xgboost") && shown.contains("imported from lightgbm.txt"), "{shown}");
    assert!(project.kilter(&["rollback", "default_risk"]).ok().contains("back at version 2"));
    let runs = project.kilter(&["runs", "--json"]).json();
    let params = &runs["runs"][1]["params"];
    assert_eq!((&params["format"], &params["version"]), (&json!("xgboost-json"), &json!("3.2.0")), "{runs}");
    assert_eq!((&params["file"], &runs["runs"][1]["kind"]), (&json!("xgboost.json"), &json!("import")), "{runs}");
}

#[test]
fn a_running_server_takes_a_model_in_and_gives_it_out() {
    let project = lender();
    project.kilter(&["ingest"]).ok();
    let server = project.up_with(&["--listen", "127.0.0.1:0", "--no-files"]);
    let told = project.kilter(&["models", "import", "default_risk", &file("lightgbm.txt"), "--promote"]).ok();
    assert!(told.contains("in service: promoted as asked: imported from lightgbm.txt"), "{told}");
    assert_eq!(server.get("/v1/models/default_risk").ok()["in_service"], 1);
    let asked = json!({ "application_id": "new", "account_id": 7, "amount": 9000.0, "payment": 480.0 });
    let made = server.post("/v1/decide/loan", common::JSON, asked.to_string()).ok();
    assert_eq!(made["model_version"], 1, "{made}");
    let id = made["decision_id"].as_str().unwrap().to_string();
    assert_eq!(server.post(&format!("/v1/decisions/{id}/replay"), common::JSON, "").ok()["same"], true);
    let (own, other) = (project.path("risk.kltm"), project.path("risk.txt"));
    let (own, other) = (own.to_str().unwrap(), other.to_str().unwrap());
    assert!(project.kilter(&["models", "export", "default_risk", own]).ok().contains("version 1 written"));
    project.kilter(&["models", "export", "default_risk", other, "--format", "lightgbm"]).failed(1, &["\"lightgbm\"", "original"]);
    // The ending tells the format, unless one is named.
    project.kilter(&["models", "export", "default_risk", "risk.onnx"]).failed(1, &["ONNX has no way", "\"lightgbm\""]);
    project.kilter(&["models", "export", "default_risk", own, "--format", "pmml"]).failed(1, &["PMML has no way"]);
    assert!(project.kilter(&["models", "export", "default_risk", other, "--format", "kilter"]).ok().contains(", kilter)"));
    project.kilter(&["models", "export", "default_risk@9", own]).failed(1, &["default_risk@9"]);
    server.stop();
    let model = exchange::import(&std::fs::read(file("lightgbm.txt")).unwrap()).unwrap();
    assert_eq!(check_decided(&project, 1, &model), id, "the decision is there after the restart");

    // The exported file decides in another project as it does in this one.
    let elsewhere = lender();
    let told = elsewhere.kilter(&["models", "import", "default_risk", own, "--promote", "--json"]).json();
    assert_eq!((&told["kind"], &told["format"], &told["file"]), (&json!("lightgbm"), &json!("kilter"), &json!("risk.kltm")), "{told}");
    elsewhere.kilter(&["ingest"]).ok();
    check_decided(&elsewhere, 1, &model);
    assert_eq!(elsewhere.kilter(&["replay", "--all", "--json"]).json()["mismatches"], 0);
}

#[test]
fn what_is_wrong_with_a_file_is_told_at_the_command_line() {
    let project = lender();
    let text = std::fs::read_to_string(file("lightgbm.txt")).unwrap();
    let import = |name: &str, bytes: &str, more: &[&str]| {
        project.write(name, bytes);
        let path = project.path(name);
        let mut args = vec!["models", "import", "default_risk", path.to_str().unwrap()];
        args.extend(more);
        project.kilter(&args)
    };
    let swapped = text.replace("account.bookings_1d account.bookings_7d", "account.bookings_7d account.bookings_1d");
    import("swapped.txt", &swapped, &[]).failed(1, &["swapped.txt was not imported", "another order", "hint", "`account.bookings_1d`"]);
    let names =
        "account.bookings_1d account.bookings_7d account.turnover_7d account.low_7d account.total applications.amount applications.payment";
    let unnamed: Vec<String> = (0..7).map(|at| format!("Column_{at}")).collect();
    let unnamed = text.replace(names, &unnamed.join(" "));
    assert_ne!(unnamed, text);
    import("unnamed.txt", &unnamed, &[]).failed(1, &["it lacks `account.bookings_1d`", "`Column_0`", "--by-position"]);
    assert!(import("unnamed.txt", &unnamed, &["--by-position"]).ok().contains("default_risk version 1"));
    import("cut.txt", &text[..text.len() / 3], &[]).failed(1, &["LightGBM model", "hint"]);
    import("mean.txt", &text.replace("binary sigmoid:1", "regression"), &[]).failed(1, &["objective `regression`", "binary:logistic"]);
    import("strange.txt", "nothing", &[]).failed(1, &["no Kilter model", "save_model"]);
    import("empty.txt", "", &[]).failed(1, &["the body is empty"]);
    import("x.txt", &text, &["--promote", "--no-promote"]).failed(2, &["--no-promote"]);
    project.kilter(&["models", "import", "default_risk", "nowhere.txt"]).failed(1, &["cannot read nowhere.txt"]);
    project.kilter(&["models", "import", "default_rsk", &file("lightgbm.txt")]).failed(1, &["did you mean `default_risk`?"]);
    project.kilter(&["models", "export", "default_risk", "x.kltm"]).failed(1, &["no version in service", "default_risk@1"]);
    project.kilter(&["models", "export", "default_risk@1", "/nowhere/at/all.kltm"]).failed(1, &["cannot write /nowhere/at/all.kltm"]);
    project.kilter(&["models", "export", "default_risk@x", "x.kltm"]).failed(1, &["`x` is no version number"]);
    assert_eq!(project.kilter(&["models", "--json"]).json()["models"][0]["latest"], 1, "what was refused is no version");
}
