//! A policy that is tried on the past says what a project that had it all the time decided; one that is published is in force and in the file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kilter_core::{EventTime, Span};
use kilter_pipeline::policy_test::Comparison;
use kilter_runtime::jobs::apply::Phase;
use kilter_runtime::jobs::policy::{COMPARISON, PolicyRequest};
use kilter_runtime::jobs::train::Promotion;
use kilter_runtime::project::RuleDef;
use kilter_runtime::{Service, ServiceError, StartOptions, project};

const DEFINITIONS: &str = r#"
[project]
name = "shop"
clock = "event"
[source.payments]
time = "at"
id = "payment_id"
lateness = "1h"
max_future = "none"
columns = { payment_id = "string", card = "int64", at = "timestamp", amount = "float64" }
[source.outcomes]
time = "at"
max_future = "none"
columns = { payment_id = "string", at = "timestamp", fraud = "bool" }
[features.card]
source = "payments"
entity = "card"
columns = { count = "count(*) over 1d", sum = "sum(amount) over 1d" }
[model.fraud]
on = "payments"
learner = "gbdt"
params = { trees = 10, leaves = 7, min_leaf_rows = 5 }
inputs = ["card.*", "payments.amount"]
label = { source = "outcomes", value = "fraud", on = "payment_id", within = "1h" }
min_rows = 50

# What is asked of every payment.
[decision.pay]
model = "fraud"
policy = POLICY # a person looks at the rest
fallback = "accept"
reasons = 2
"#;

const IN_FORCE: &str = r#"[{ when = "score >= 0.5", outcome = "block" }, { outcome = "accept" }]"#;
const BEFORE: u64 = 600;
const ALL: u64 = 900;

async fn start(dir: &Path, policy: &str) -> Arc<Service> {
    std::fs::write(dir.join("kilter.toml"), DEFINITIONS.replace("POLICY", policy)).unwrap();
    let project = project::load(dir).unwrap_or_else(|report| panic!("{report}"));
    Service::start(project, StartOptions::default()).await.unwrap()
}

/// A number from 0 to 1 that `n` decides.
fn dice(n: u64) -> f64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z >> 11) as f64 / (1u64 << 53) as f64
}

fn at(minutes: u64) -> EventTime {
    EventTime(1_700_000_000_000_000) + Span(minutes as i64 * 60_000_000)
}

fn amount(n: u64) -> f64 {
    (dice(n) * 1000.0).round()
}

fn is_fraud(n: u64) -> bool {
    dice(n + 1_000_000) < 0.05 + 0.8 * amount(n) / 1000.0
}

async fn send(service: &Service, source: &str, rows: Vec<String>) {
    let source = service.source(source).unwrap();
    let report = service.ingest(source, rows.join("\n").as_bytes(), Some("application/x-ndjson"), Instant::now()).await.unwrap();
    assert_eq!(report.accepted, rows.len() as u64);
}

/// Payments every three minutes, what came of each half an hour later (of every ninth nothing is known), and a model after the first part.
async fn play(service: &Arc<Service>) {
    for from in (0..ALL).step_by(10) {
        if from == BEFORE {
            service.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
            service.snapshot().await.unwrap();
        }
        let payment = |n: u64| format!(r#"{{"payment_id":"p{n}","card":{},"at":"{}","amount":{}}}"#, n % 7, at(n * 3), amount(n));
        let outcome = |n: u64| format!(r#"{{"payment_id":"p{n}","at":"{}","fraud":{}}}"#, at(n * 3 + 30), is_fraud(n));
        send(service, "payments", (from..from + 10).map(payment).collect()).await;
        send(service, "outcomes", (from..from + 10).filter(|n| !n.is_multiple_of(9)).map(outcome).collect()).await;
    }
}

fn rule(when: &str, outcome: &str) -> RuleDef {
    RuleDef { when: Some(when).filter(|w| !w.is_empty()).map(str::to_string), outcome: outcome.to_string() }
}

fn stricter() -> Vec<RuleDef> {
    vec![rule("score >= 0.5 and amount > 700", "block"), rule("card.sum_1d > 33000 and amount > 300", "review"), rule("", "accept")]
}

fn request(policy: Vec<RuleDef>) -> PolicyRequest {
    PolicyRequest { decision: 0, policy, from: None, to: None, trigger: "test".into() }
}

/// Outcome by decision id, as recorded.
fn recorded(service: &Service) -> BTreeMap<u64, (EventTime, String)> {
    let (made, _) = service.decisions(None, 100_000, |_| true).unwrap();
    made.iter().map(|r| (r.decision.offset, (r.decision.time, r.layout.outcomes[r.decision.outcome].clone()))).collect()
}

fn moves(comparison: &Comparison) -> BTreeMap<(String, String), u64> {
    comparison.moves.iter().map(|m| ((m.before.clone(), m.after.clone()), m.cases)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_says_what_a_project_with_that_policy_decided() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let service = start(dir.path(), IN_FORCE).await;
    play(&service).await;
    let report = service.test_policy(request(stricter())).await.unwrap();
    let twin = start(other.path(), &report.toml).await;
    play(&twin).await;

    let (before, after) = (recorded(&service), recorded(&twin));
    assert_eq!(before.len() as u64, ALL);
    let mut expected: BTreeMap<(String, String), u64> = BTreeMap::new();
    for (offset, (_, outcome)) in &before {
        *expected.entry((outcome.clone(), after[offset].1.clone())).or_default() += 1;
    }
    let told = &report.comparison;
    assert_eq!(moves(told), expected);
    assert!(expected.len() > 3, "several kinds of change come up: {expected:?}");
    assert_eq!((told.cases, told.changed), (ALL, expected.iter().filter(|((a, b), _)| a != b).map(|(_, n)| n).sum()));
    for example in &told.examples {
        let offset: u64 = example.decision_id.strip_prefix("pay-").unwrap().parse().unwrap();
        assert_eq!((&before[&offset].1, &after[&offset].1), (&example.before, &example.after));
        assert_eq!(before[&offset].0, example.time);
    }
    // Each line's cases, and those of the fallback while there was no model.
    assert_eq!(told.after.iter().map(|r| r.cases).sum::<u64>(), ALL);
    assert_eq!(told.after.last().map(|r| (r.when.clone(), r.outcome.as_str(), r.cases)), Some((None, "accept", BEFORE)));
    // The periods add up.
    let sum = |pick: fn(&kilter_pipeline::policy_test::Period) -> u64| told.periods.iter().map(pick).sum::<u64>();
    assert_eq!((sum(|p| p.cases), sum(|p| p.changed)), (ALL, told.changed));
    for (at, outcome) in told.outcomes.iter().enumerate() {
        assert_eq!(told.periods.iter().map(|p| p.before[at]).sum::<u64>(), outcome.before);
        assert_eq!(told.periods.iter().map(|p| p.after[at]).sum::<u64>(), outcome.after);
    }
    assert!(told.periods.windows(2).all(|p| p[0].to <= p[1].from), "periods are in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_the_cases_is_told_by_outcome() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path(), IN_FORCE).await;
    play(&service).await;
    let report = service.test_policy(request(stricter())).await.unwrap();
    let made = recorded(&service);
    // Payments come in tens, with nine or ten outcomes after each ten: the n-th decision is of payment n.
    let number: BTreeMap<u64, u64> = made.keys().enumerate().map(|(n, offset)| (*offset, n as u64)).collect();
    let end = at((ALL - 1) * 3 + 30);
    let known = |n: u64| !n.is_multiple_of(9) && at(n * 3) + Span::HOUR <= end;
    for outcome in &report.comparison.outcomes {
        let of: Vec<u64> = made.iter().filter(|(_, (_, o))| *o == outcome.outcome).map(|(offset, _)| number[offset]).collect();
        let labelled: Vec<u64> = of.iter().copied().filter(|n| known(*n)).collect();
        assert_eq!((outcome.before, outcome.before_truth.labelled), (of.len() as u64, labelled.len() as u64), "{}", outcome.outcome);
        let positives = labelled.iter().filter(|n| is_fraud(**n)).count() as f64;
        let mean = outcome.before_truth.mean_label.map(|mean| (mean * labelled.len() as f64 - positives).abs() < 1e-9);
        assert_eq!(mean, (!labelled.is_empty()).then_some(true));
    }
    for example in &report.comparison.examples {
        let n = number[&example.decision_id.strip_prefix("pay-").unwrap().parse().unwrap()];
        assert_eq!(example.label, known(n).then(|| f64::from(u8::from(is_fraud(n)))), "payment {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stretch_of_time_is_the_same_stretch_of_the_whole_and_the_same_policy_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path(), IN_FORCE).await;
    play(&service).await;
    let (from, to) = (at(2_000), at(2_300));
    // Its state is that of the snapshot.
    let part = PolicyRequest { from: Some(from), to: Some(to), ..request(stricter()) };
    let part = service.test_policy(part).await.unwrap().comparison;
    let whole = service.test_policy(request(stricter())).await.unwrap();
    assert_eq!(part.cases, recorded(&service).values().filter(|(time, _)| (from..to).contains(time)).count() as u64);
    assert!(part.first >= Some(from) && part.last < Some(to) && part.changed > 0 && part.changed < whole.comparison.changed);

    let same = service.test_policy(request(vec![rule("score >= 0.5", "block"), rule("", "accept")])).await.unwrap();
    assert_eq!((same.comparison.cases, same.comparison.changed, same.comparison.examples.len()), (ALL, 0, 0));

    // A run keeps what was told.
    let kept = service.data.artifacts.get_named(&whole.run, COMPARISON).unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&kept).unwrap(), serde_json::to_value(&whole.comparison).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_policy_is_in_force_and_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path(), IN_FORCE).await;
    play(&service).await;
    let file = dir.path().join("kilter.toml");
    let text = || std::fs::read_to_string(&file).unwrap();
    let before = text();

    let wrong = vec![rule("scoer >= 0.6", "block"), rule("", "accept")];
    assert!(matches!(service.publish_policy(0, wrong).await, Err(ServiceError::Definitions(report)) if report.errors() > 0));
    let same = vec![rule("score >= 0.5", "block"), rule("", "accept")];
    assert!(matches!(service.publish_policy(0, same).await, Err(ServiceError::Conflict(_))));
    std::fs::write(&file, before.replace("min_rows = 50", "min_rows = 60")).unwrap();
    let Err(ServiceError::Conflict(why)) = service.publish_policy(0, stricter()).await else { panic!("the file has other changes") };
    assert!(why.contains("changes that are not in force"), "{why}");
    std::fs::write(&file, &before).unwrap();

    service.publish_policy(0, stricter()).await.unwrap();
    let end = Instant::now() + Duration::from_secs(120);
    while service.current().project.hash() == service.project.hash() {
        let applying = service.status.applying();
        assert!(applying.as_ref().is_none_or(|a| a.phase != Phase::Failed) && Instant::now() < end, "{applying:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let after = text();
    assert!(after.contains("# What is asked of every payment.") && after.contains("# a person looks at the rest"), "{after}");
    assert!(after.contains("{ when = \"score >= 0.5 and amount > 700\", outcome = \"block\" },\n"), "{after}");
    let now = service.current();
    let rules: Vec<_> = now.project.definitions.decision.get("pay").unwrap().policy.clone();
    assert_eq!(rules, stricter());
    // What was tried before is what is in force now.
    assert_eq!(now.test_policy(request(stricter())).await.unwrap().comparison.changed, 0);
}
