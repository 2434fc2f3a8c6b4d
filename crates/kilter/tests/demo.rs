//! The demo is the whole loop in one command: its figures hold together, and the same seed tells the same story.

use std::process::Command;

use crate::common::{Output, Project, kilter};
use serde_json::Value;

/// Runs the demo to its end in a folder that stays, and answers its figures and what lies in the folder.
fn played(customers: u32, days: u32, recession_day: u32) -> (Value, Project) {
    let project = Project::empty();
    let json = project.path("figures.json");
    let folder = project.path("lender");
    let numbers = [customers, days, recession_day].map(|n| n.to_string());
    let told = kilter(&[
        "demo",
        "--headless",
        "--json",
        json.to_str().unwrap(),
        "--dir",
        folder.to_str().unwrap(),
        "--customers",
        &numbers[0],
        "--days",
        &numbers[1],
        "--recession-day",
        &numbers[2],
    ])
    .ok();
    assert!(told.contains("replay") && told.contains("0 differ") && told.contains("figures written to"), "{told}");
    let figures = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    (figures, project)
}

/// A number at a path such as `auc.kilter`.
fn number(figures: &Value, path: &str) -> f64 {
    let value = path.split('.').fold(figures, |at, key| &at[key]);
    value.as_f64().unwrap_or_else(|| panic!("`{path}` is {value} in {figures:#}"))
}

fn check(figures: &Value) {
    let n = |path: &str| number(figures, path);
    assert!(n("events") > 1000.0 && n("events_per_second") > 10.0);
    for (p50, p99) in [("freshness_ms.p50", "freshness_ms.p99"), ("decision_latency_us.p50", "decision_latency_us.p99")] {
        assert!(0.0 < n(p50) && n(p50) <= n(p99), "{p50} {} {p99} {}", n(p50), n(p99));
    }
    assert!(n("freshness_ms.p99") < 60_000.0 && n("decision_latency_us.p99") < 60e6);
    let decided: f64 = ["approve", "review", "decline"].iter().map(|o| n(&format!("decisions.{o}"))).sum();
    assert!(decided > 100.0, "{figures:#}");
    assert_eq!(n("replay.checked"), decided, "every decision is replayed");
    assert_eq!(n("replay.mismatches"), 0.0);
    for auc in ["auc.kilter", "auc.nightly_batch"] {
        let value = figures["auc"][auc.split_once('.').unwrap().1].as_f64();
        assert!(value.is_none_or(|auc| (0.0..=1.0).contains(&auc)), "{auc}: {value:?}");
    }
    assert!(figures["drift"]["shift_at"].is_string() && figures["drift"].get("first_alarm_at").is_some(), "{figures:#}");
    for model in figures["models"].as_array().unwrap() {
        assert!(model["version"].is_u64() && model["alias"].is_string() && model["auc"].as_f64().is_some(), "{model}");
        assert!(model["trained_from"].as_str() < model["trained_to"].as_str(), "{model}");
    }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let (a, first) = played(300, 36, 30);
    let (b, second) = played(300, 36, 30);
    check(&a);
    check(&b);
    same_story((&a, &first), (&b, &second));
}

#[test]
#[ignore = "slow: a minute in a dev build"]
fn the_demo_trains_decides_and_sees_the_recession() {
    let (a, first) = played(600, 85, 60);
    check(&a);
    assert!(!a["models"].as_array().unwrap().is_empty(), "no model was trained: {a:#}");
    let champions = a["models"].as_array().unwrap().iter().filter(|m| m["alias"] == "champion").count();
    assert_eq!(champions, 1, "{a:#}");
    assert!(number(&a, "auc.kilter") > 0.55, "the models are better than a coin: {a:#}");
    assert_eq!(a["drift"]["shift_at"], "2025-03-02T00:00:00Z");
    assert!(a["drift"]["first_alarm_at"].as_str() >= a["drift"]["shift_at"].as_str(), "the recession is seen: {a:#}");
    let (b, second) = played(600, 85, 60);
    same_story((&a, &first), (&b, &second));
}

/// All but the timings.
fn same_story((a, first): (&Value, &Project), (b, second): (&Value, &Project)) {
    for figure in ["events", "applications", "decisions", "models", "auc", "losses", "drift", "replay"] {
        assert_eq!(a[figure], b[figure], "{figure}");
    }
    let of = |project: &Project, args: &[&str]| -> Value {
        let folder = project.path("lender");
        kilter(&[&["-C", folder.to_str().unwrap()], args].concat()).json()
    };
    let decisions = |project| of(project, &["decisions", "--json", "--limit", "1000"])["decisions"].clone();
    assert!(!decisions(first).as_array().unwrap().is_empty());
    assert_eq!(decisions(first), decisions(second));
    // The content hash of a model file says that it is the same to the last bit.
    let models = |project| -> Vec<(Value, Value)> {
        let model = of(project, &["models", "default_risk", "--json"]);
        model["versions"].as_array().unwrap().iter().map(|v| (v["version"].clone(), v["artifact"].clone())).collect()
    };
    assert_eq!(models(first), models(second));
    assert_eq!(models(first).len(), a["models"].as_array().unwrap().len(), "the figures tell of every version");
}

#[test]
fn with_serve_it_stays_up_and_its_pages_need_no_network() {
    let project = Project::empty();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kilter"));
    command.args(["demo", "--headless", "--serve", "--listen", "127.0.0.1:0", "--customers", "40", "--days", "5", "--dir"]);
    command.arg(project.path("lender"));
    let mut server = project.spawn(command).ready().unwrap();
    loop {
        let line = server.line();
        assert!(!line.is_empty(), "it ended\n{}", server.log());
        if line.contains("serving on") {
            break;
        }
    }
    let docs = server.get("/docs/");
    assert_eq!(docs.status, 200);
    assert!(docs.headers["content-type"].to_str().unwrap().starts_with("text/html"));
    let page = docs.text();
    let assets: Vec<&str> = page.split(['"', '\'']).filter(|t| t.ends_with(".js") || t.ends_with(".css")).collect();
    assert!(assets.len() >= 3, "{page}");
    for asset in assets {
        assert!(!asset.contains("//"), "`{asset}` is not on this machine");
        let path = asset.trim_start_matches("./").trim_start_matches('/');
        assert_eq!(server.get(&format!("/docs/{}", path.trim_start_matches("docs/"))).status, 200, "{asset}");
    }
    let described = server.get("/openapi.json").ok();
    assert!(described["paths"]["/v1/decide/loan"].is_object(), "the project's own decision is described");
    assert_eq!(server.get("/").status, 200);
    assert!(!server.decisions().is_empty());
    assert_eq!(server.stop().code, Some(0));
}

#[test]
fn what_makes_no_demo_is_told() {
    kilter(&["demo", "--headless", "--customers", "0"]).failed(1, &["a lender needs customers and days"]);
    kilter(&["demo", "--customers", "many"]).failed(2, &["many"]);
    let project = Project::empty();
    let folder = project.path("lender");
    let again = || -> Output { kilter(&["demo", "--headless", "--customers", "10", "--days", "3", "--dir", folder.to_str().unwrap()]) };
    again().ok();
    again().failed(1, &["holds the events of an earlier demo", "give --dir a new folder"]);
}

#[test]
fn a_demo_without_a_folder_leaves_nothing_behind() {
    let project = Project::empty();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kilter"));
    command.args(["demo", "--headless", "--customers", "10", "--days", "3"]).env("TMPDIR", project.dir());
    Output::of(command.output().unwrap()).ok();
    let left = std::fs::read_dir(project.dir()).unwrap().count();
    assert_eq!(left, 0, "files are left in the temporary folder");
}
