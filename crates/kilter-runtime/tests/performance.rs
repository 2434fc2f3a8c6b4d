//! What is told of a model's decisions is what a plain look at the payments, their outcomes and the recorded decisions says.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kilter_core::{EventTime, Span};
use kilter_pipeline::performance::{By, SegmentOf, Shown};
use kilter_runtime::jobs::performance::PerformanceRequest;
use kilter_runtime::jobs::train::Promotion;
use kilter_runtime::project::{Project, RuleDef};
use kilter_runtime::{Data, Refusal, Service, ServiceError, StartOptions, erase, project};
use serde_json::Value;

const DEFINITIONS: &str = r#"
[project]
name = "shop"
clock = "event"
[source.payments]
time = "at"
id = "payment_id"
lateness = "1d"
max_future = "none"
columns = { payment_id = "string", card = "int64", at = "timestamp", amount = "float64", region = "string", vip = "bool" }
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
inputs = ["card.*", "payments.amount", "place = payments.region"]
categorical = ["place"]
label = { source = "outcomes", value = "fraud", on = "payment_id", within = "1h"ABSENT }
min_rows = 50
[decision.pay]
model = "fraud"
policy = [{ when = "score >= 0.6", outcome = "block" }, { when = "score >= 0.4", outcome = "review" }, { outcome = "accept" }]
fallback = "accept"
"#;

const ALL: u64 = 720;
const TRAINED: [u64; 2] = [300, 500];
const HOUR: Span = Span::HOUR;

fn load(dir: &Path, absent: &str) -> Project {
    std::fs::write(dir.join("kilter.toml"), DEFINITIONS.replace("ABSENT", absent)).unwrap();
    project::load(dir).unwrap_or_else(|report| panic!("{report}"))
}

async fn start(dir: &Path, absent: &str) -> Arc<Service> {
    Service::start(load(dir, absent), StartOptions::default()).await.unwrap()
}

/// A number from 0 to 1 that `n` decides.
fn dice(n: u64) -> f64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z >> 11) as f64 / (1u64 << 53) as f64
}

fn minutes(minutes: i64) -> EventTime {
    // A Tuesday, at ten past ten in the evening.
    EventTime(1_700_000_000_000_000) + Span(minutes * 60_000_000)
}

/// Every seventeenth is told three hours late.
fn paid_at(n: u64) -> EventTime {
    minutes(n as i64 * 40 - if n % 17 == 3 { 180 } else { 0 })
}

fn amount(n: u64) -> f64 {
    (dice(n) * 1000.0).round()
}

fn region(n: u64) -> Option<&'static str> {
    Some(["north", "north", "south", "east", "west"][(dice(n + 7_000_000) * 5.0) as usize]).filter(|_| !n.is_multiple_of(31))
}

fn is_fraud(n: u64) -> bool {
    dice(n + 1_000_000) < 0.05 + 0.8 * amount(n) / 1000.0
}

/// What is said of payments, in the order of the log: payment, time, whether it was fraud, and before how many payments.
fn outcomes() -> Vec<(u64, EventTime, bool, u64)> {
    let mut all = Vec::new();
    for n in 0..ALL {
        let batch = n / 10 * 10;
        let after = |minutes: i64| paid_at(n) + Span(minutes * 60_000_000);
        match n {
            n if n % 9 == 0 => {}
            // Known before the payment is.
            n if n % 23 == 4 => all.push((n, after(5), is_fraud(n), batch)),
            // Too late to count.
            n if n % 11 == 7 => all.push((n, after(90), is_fraud(n), batch + 10)),
            // What is said last counts, whatever its time.
            n if n % 13 == 5 => {
                all.push((n, after(10), !is_fraud(n), batch + 10));
                all.push((n, after(30), is_fraud(n), batch + 10));
            }
            n if n % 13 == 6 => {
                all.push((n, after(30), is_fraud(n), batch + 10));
                all.push((n, after(10), !is_fraud(n), batch + 10));
            }
            // The last instant of the horizon.
            n if n % 13 == 7 => all.push((n, after(60), is_fraud(n), batch + 10)),
            n => all.push((n, after(30), is_fraud(n), batch + 10)),
        }
    }
    all
}

async fn send(service: &Service, source: &str, rows: Vec<String>) {
    let source = service.source(source).unwrap();
    let report = service.ingest(source, rows.join("\n").as_bytes(), Some("application/x-ndjson"), Instant::now()).await.unwrap();
    assert_eq!(report.accepted, rows.len() as u64);
}

fn payment(n: u64) -> String {
    let region = region(n).map_or("null".to_string(), |region| format!("\"{region}\""));
    format!(
        r#"{{"payment_id":"p{n}","card":{},"at":"{}","amount":{},"region":{region},"vip":{}}}"#,
        n % 7,
        paid_at(n),
        amount(n),
        n.is_multiple_of(4)
    )
}

async fn play(service: &Arc<Service>) {
    let said = |before: u64| outcomes().into_iter().filter(move |(.., batch)| *batch == before);
    for from in (0..=ALL).step_by(10) {
        let rows: Vec<String> =
            said(from).map(|(n, at, fraud, _)| format!(r#"{{"payment_id":"p{n}","at":"{at}","fraud":{fraud}}}"#)).collect();
        if !rows.is_empty() {
            send(service, "outcomes", rows).await;
        }
        if TRAINED.contains(&from) {
            service.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
            service.snapshot().await.unwrap();
        }
        if from < ALL {
            send(service, "payments", (from..from + 10).map(payment).collect()).await;
        }
    }
}

fn request(shown: Shown) -> PerformanceRequest {
    PerformanceRequest { decision: 0, from: None, to: None, version: None, segment: None, shown }
}

fn by_day() -> PerformanceRequest {
    request(Shown { by: Some(By::Day), ..Shown::default() })
}

fn told(service: &Service, request: &PerformanceRequest) -> Value {
    let told = service.performance(request, &|| true).unwrap_or_else(|e| panic!("{e}"));
    let report = serde_json::to_value(&told.report).unwrap();
    assert_eq!(report, serde_json::to_value(service.performance(request, &|| true).unwrap().report).unwrap(), "told twice alike");
    report
}

/// A decision, and all that is known of it.
#[derive(Clone, Debug)]
struct Case {
    n: u64,
    time: EventTime,
    score: Option<f64>,
    version: Option<u32>,
    outcome: String,
    label: Option<f64>,
    matured: bool,
}

/// The n-th decision is of payment n.
fn cases(service: &Service, absent: Option<f64>) -> Vec<Case> {
    let (mut made, _) = service.decisions(None, 100_000, |_| true).unwrap();
    made.reverse();
    assert_eq!(made.len() as u64, ALL);
    let all = outcomes();
    let seen = all.iter().map(|(_, at, ..)| *at).chain((0..ALL).map(paid_at)).max().unwrap();
    let mut in_order = all;
    // Stable: by batch, and within one as said.
    in_order.sort_by_key(|(.., batch)| *batch);
    let case = |(n, recorded): (usize, &kilter_runtime::Recorded)| {
        let (n, time) = (n as u64, paid_at(n as u64));
        assert_eq!(recorded.decision.time, time);
        let said = in_order.iter().rfind(|(of, at, ..)| *of == n && time <= *at && *at <= time + HOUR);
        let label = match said {
            Some((.., fraud, _)) => Some(f64::from(u8::from(*fraud))).filter(|_| time + HOUR <= seen),
            None => absent.filter(|_| time + HOUR < seen),
        };
        Case {
            n,
            time,
            score: recorded.decision.score,
            version: recorded.decision.version,
            outcome: recorded.layout.outcomes[recorded.decision.outcome].clone(),
            label,
            matured: label.is_some() || time + HOUR < seen,
        }
    };
    made.iter().enumerate().map(case).collect()
}

fn near(told: &Value, expected: f64) -> bool {
    told.as_f64().is_some_and(|told| (told - expected).abs() < 1e-9)
}

/// A share and Wilson's bounds: the proportions that are just so many standard errors away.
#[track_caller]
fn check_share(told: &Value, hits: usize, rows: usize) {
    if rows == 0 {
        return assert!(told.is_null(), "{told}");
    }
    let value = hits as f64 / rows as f64;
    assert!(near(&told["value"], value), "{told}: {hits} of {rows}");
    for (bound, edge) in [(&told["low"], hits == 0), (&told["high"], hits == rows)] {
        let bound = bound.as_f64().unwrap();
        let away = 1.959_963_984_540_054 * (bound * (1.0 - bound) / rows as f64).sqrt();
        assert!(edge && (bound == 0.0 || bound == 1.0) || ((value - bound).abs() - away).abs() < 1e-9, "{told}: {hits} of {rows}");
    }
}

/// Pairs in order by pairs, each counted with a weight.
fn pairs(scores: &[f64], weight: impl Fn(usize, usize) -> f64) -> f64 {
    let (mut won, mut all) = (0.0, 0.0);
    for i in 0..scores.len() {
        for j in (0..scores.len()).filter(|j| *j != i) {
            let weight = weight(i, j);
            all += weight;
            won += weight
                * if scores[i] > scores[j] {
                    1.0
                } else if scores[i] == scores[j] {
                    0.5
                } else {
                    0.0
                };
        }
    }
    won / all
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[track_caller]
fn check_estimate(told: &Value, scores: &[f64]) {
    if scores.is_empty() {
        return assert!(told.is_null(), "{told}");
    }
    assert_eq!(told["rows"], scores.len());
    assert!(near(&told["rate"]["value"], mean(scores)), "the estimated rate is the mean score: {told}");
    let area = pairs(scores, |i, j| scores[i] * (1.0 - scores[j]));
    assert!(area.is_nan() && told["auc"].is_null() || near(&told["auc"]["value"], area), "{told} {area}");
    let brier: Vec<f64> = scores.iter().map(|p| p * (1.0 - p)).collect();
    assert!(near(&told["brier"]["value"], mean(&brier)), "{told}");
    let loss: Vec<f64> = scores.iter().map(|p| -p * p.ln() - (1.0 - p) * (1.0 - p).ln()).collect();
    assert!(near(&told["log_loss"]["value"], mean(&loss)), "{told}");
}

#[track_caller]
fn check_slice(told: &Value, cases: &[&Case]) {
    let scores: Vec<f64> = cases.iter().filter_map(|case| case.score).collect();
    assert_eq!((&told["decisions"], &told["scored"]), (&cases.len().into(), &scores.len().into()), "{told}");
    assert_eq!(told["matured"], cases.iter().filter(|case| case.matured).count(), "{told}");
    assert_eq!(told["labelled"], cases.iter().filter(|case| case.label.is_some()).count(), "{told}");
    for (of, name) in told["outcomes"].as_array().unwrap().iter().zip(["block", "review", "accept"]) {
        let own: Vec<&Case> = cases.iter().copied().filter(|case| case.outcome == name).collect();
        let labels: Vec<f64> = own.iter().filter_map(|case| case.label).collect();
        assert_eq!((&of["outcome"], &of["decisions"], &of["labelled"]), (&name.into(), &own.len().into(), &labels.len().into()), "{told}");
        check_share(&of["share"], own.len(), cases.len());
        check_share(&of["rate"], labels.iter().filter(|label| **label == 1.0).count(), labels.len());
    }
    check_estimate(&told["estimated"], &scores);
    let (scores, labels): (Vec<f64>, Vec<f64>) = cases.iter().filter_map(|case| Some((case.score?, case.label?))).unzip();
    let realised = &told["realised"];
    if scores.is_empty() {
        return assert!(realised.is_null(), "{told}");
    }
    let positives = labels.iter().filter(|label| **label == 1.0).count();
    assert_eq!((&realised["rows"], &realised["positives"]), (&scores.len().into(), &positives.into()), "{told}");
    check_share(&realised["rate"], positives, labels.len());
    assert!(near(&realised["mean_score"], mean(&scores)), "{told}");
    let area = pairs(&scores, |i, j| labels[i] * (1.0 - labels[j]));
    assert!(area.is_nan() && realised["auc"].is_null() || near(&realised["auc"]["value"], area), "{told} {area}");
    let of_each = |loss: &dyn Fn(f64, f64) -> f64| scores.iter().zip(&labels).map(|(s, l)| loss(*s, *l)).collect::<Vec<f64>>();
    let loss = of_each(&|score, label| -(if label == 1.0 { score } else { 1.0 - score }).ln());
    let brier = of_each(&|score, label| (score - label) * (score - label));
    for (name, values) in [("log_loss", loss), ("brier", brier)] {
        let told = &realised[name];
        let value = mean(&values);
        assert!(near(&told["value"], value), "{name}: {told} against {value}");
        let squares: Vec<f64> = values.iter().map(|x| (x - value) * (x - value)).collect();
        let reach = 1.959_963_984_540_054 * (squares.iter().sum::<f64>() / (values.len() as f64 - 1.0) / values.len() as f64).sqrt();
        assert!(
            values.len() < 2 && told["low"].is_null() || near(&told["low"], value - reach) && near(&told["high"], value + reach),
            "{name}: {told}"
        );
    }
    check_estimate(&realised["expected"], &scores);
    assert!(realised["calibration_error"]["by_chance"].as_f64() > Some(0.0) && realised["rmse"].is_null(), "{told}");
}

fn with_label<'a>(cases: &[&'a Case], label: f64) -> Vec<&'a Case> {
    cases.iter().copied().filter(|case| case.label == Some(label)).collect()
}

fn of_day(time: EventTime) -> i64 {
    time.0.div_euclid(Span::DAY.0)
}

#[track_caller]
fn check_report(told: &Value, cases: &[&Case]) {
    check_slice(&told["total"], cases);
    let mut days: BTreeMap<i64, Vec<&Case>> = BTreeMap::new();
    let mut by_time = cases.to_vec();
    by_time.sort_by_key(|case| case.time);
    by_time.into_iter().for_each(|case| days.entry(of_day(case.time)).or_default().push(case));
    let cohorts = told["cohorts"].as_array().unwrap();
    assert_eq!(cohorts.len(), days.len());
    for (cohort, (day, own)) in cohorts.iter().zip(&days) {
        let at = |day: i64| EventTime(day * Span::DAY.0).to_string();
        assert_eq!((&cohort["from"], &cohort["to"]), (&at(*day).into(), &at(day + 1).into()));
        assert_eq!(cohort["complete_at"], (EventTime((day + 1) * Span::DAY.0) + HOUR).to_string());
        check_slice(cohort, own);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_cohort_is_what_a_plain_look_says() {
    for (text, absent) in [("", None), (", absent = 0", Some(0.0))] {
        let dir = tempfile::tempdir().unwrap();
        let service = start(dir.path(), text).await;
        play(&service).await;
        let cases = cases(&service, absent);
        let all: Vec<&Case> = cases.iter().collect();
        let report = told(&service, &by_day());
        check_report(&report, &all);
        assert!(report["cohorts"].as_array().unwrap().len() > 15);
        assert_eq!((&report["favourable"], &report["good_label"]), (&serde_json::json!(["accept"]), &0.into()));
        assert_eq!(
            (&report["task"], &report["horizon"], &report["absent"]),
            (&"classes".into(), &"1h".into(), &serde_json::to_value(absent).unwrap())
        );
        let (unlabelled, immature) =
            (all.iter().filter(|c| c.matured && c.label.is_none()).count(), all.iter().filter(|c| !c.matured).count());
        assert!((unlabelled == 0) == absent.is_some() && immature > 0, "{unlabelled} {immature}");

        let versions = report["versions"].as_array().unwrap();
        assert_eq!(versions.len(), 3, "{versions:?}");
        for of in versions {
            let version = of["version"].as_u64().map(|version| version as u32);
            let own = all.iter().filter(|case| case.version == version);
            assert_eq!(
                (of["decisions"].as_u64(), &of["first"]),
                (Some(own.clone().count() as u64), &own.map(|c| c.time).min().unwrap().to_string().into())
            );
        }
        // One version, a stretch of time that begins behind a snapshot, and both.
        let (from, to) = (minutes(515 * 40), minutes(650 * 40));
        let within = |case: &Case| (from..to).contains(&case.time);
        let second = PerformanceRequest { version: Some(2), ..by_day() };
        check_report(&told(&service, &second), &all.iter().copied().filter(|case| case.version == Some(2)).collect::<Vec<_>>());
        let part = PerformanceRequest { from: Some(from), to: Some(to), ..by_day() };
        check_report(&told(&service, &part), &all.iter().copied().filter(|case| within(case)).collect::<Vec<_>>());
        let both = PerformanceRequest { version: Some(1), ..part };
        assert_eq!(told(&service, &both)["total"]["decisions"], all.iter().filter(|c| within(c) && c.version == Some(1)).count());

        // The curve has every labelled case once, in order.
        let curve = report["calibration_curve"].as_array().unwrap();
        let counted: u64 = curve.iter().map(|bin| bin["count"].as_u64().unwrap()).sum();
        assert_eq!(counted, report["total"]["realised"]["rows"].as_u64().unwrap());
        assert!(curve.windows(2).all(|pair| pair[0]["high"].as_f64() < pair[1]["low"].as_f64()), "{curve:?}");
        let hits: f64 = curve.iter().map(|bin| bin["observed"]["value"].as_f64().unwrap() * bin["count"].as_f64().unwrap()).sum();
        assert!(near(&report["total"]["realised"]["positives"], hits));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_counted_and_held_against_one_another() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path(), "").await;
    play(&service).await;
    let cases = cases(&service, None);
    let segment = |name: &str, shown: Shown| {
        let segment = Some(service.segment_of(0, name).unwrap());
        told(&service, &PerformanceRequest { segment, ..request(shown) })["segment"].clone()
    };
    let by_region = segment("payments.region", Shown::default());
    assert_eq!(
        (&by_region["name"], &by_region["cut"], &by_region["reference"]),
        (&"payments.region".into(), &"value".into(), &"north".into())
    );
    assert_eq!(segment("region", Shown::default()), by_region);
    let groups = by_region["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 5, "four regions, and those without one");
    assert_eq!((&groups[0]["group"], &groups[4]["kind"]), (&"north".into(), &"missing".into()));
    let of = |name: &str| -> Vec<&Case> { cases.iter().filter(|case| region(case.n).unwrap_or("(missing)") == name).collect() };
    let accepted = |cases: &[&Case]| cases.iter().filter(|case| case.outcome == "accept").count();
    let reference = of("north");
    let mut rates = Vec::new();
    for group in groups {
        let own = of(group["group"].as_str().unwrap());
        check_slice(group, &own);
        check_share(&group["favourable"]["share"], accepted(&own), own.len());
        let ratio = accepted(&own) as f64 / own.len() as f64 / (accepted(&reference) as f64 / reference.len() as f64);
        assert!(near(&group["impact_ratio"]["value"], ratio), "{group}");
        assert_eq!(group["below_four_fifths"], ratio < 0.8);
        let (good, bad, good_of_reference) = (with_label(&own, 0.0), with_label(&own, 1.0), with_label(&reference, 0.0));
        check_share(&group["true_positive_rate"], accepted(&good), good.len());
        check_share(&group["false_positive_rate"], accepted(&bad), bad.len());
        let rate = |cases: &[&Case]| accepted(cases) as f64 / cases.len() as f64;
        assert!(near(&group["equal_opportunity"]["value"], rate(&good) - rate(&good_of_reference)), "{group}");
        assert_eq!((&group["few"], &group["few_labelled"]), (&(own.len() < 30).into(), &(good.len() < 30).into()), "{group}");
        if group["kind"] == "value" && good.len() >= 30 {
            rates.push(rate(&good));
        }
    }
    let spread = rates.iter().copied().fold(f64::MIN, f64::max) - rates.iter().copied().fold(f64::MAX, f64::min);
    assert!(near(&by_region["equal_opportunity_difference"], spread), "{by_region}");

    // Asked otherwise: another reference, another view of what is good.
    let shown = Shown {
        reference: Some("east".into()),
        favourable: vec!["review".into(), "block".into()],
        good_label: Some(true),
        ..Shown::default()
    };
    let turned = segment("region", shown);
    assert_eq!(turned["reference"], "east");
    for group in turned["groups"].as_array().unwrap() {
        let own = of(group["group"].as_str().unwrap());
        check_share(&group["favourable"]["share"], own.len() - accepted(&own), own.len());
        let good = with_label(&own, 1.0);
        check_share(&group["true_positive_rate"], good.len() - accepted(&good), good.len());
    }

    // Numbers with many values are cut, those with few are not; inputs are those of the recorded decision.
    for (name, cut, count) in [("amount", "range", 5), ("card", "value", 7), ("vip", "value", 2), ("card.sum_1d", "range", 5)] {
        let told = segment(name, Shown::default());
        let groups = told["groups"].as_array().unwrap();
        let plain = groups.iter().filter(|group| group["kind"] != "missing").count();
        assert_eq!((&told["cut"], plain), (&cut.into(), count), "{name}: {told}");
        assert_eq!(groups.iter().map(|group| group["decisions"].as_u64().unwrap()).sum::<u64>(), ALL, "{name}");
    }
    for group in segment("amount", Shown::default())["groups"].as_array().unwrap() {
        let (low, high) = (group["low"].as_f64().unwrap(), group["high"].as_f64().unwrap());
        check_slice(group, &cases.iter().filter(|case| (low..=high).contains(&amount(case.n))).collect::<Vec<_>>());
    }
    assert!(matches!(service.segment_of(0, "regoin"), Err(ServiceError::NotFound { hint: Some(hint), .. }) if hint.contains("region")));
    assert!(matches!(service.segment_of(0, "at"), Err(ServiceError::Conflict(_))));
    assert!(matches!(service.segment_of(0, "place"), Err(ServiceError::Conflict(why)) if why.contains("column")));
    assert_eq!(service.segment_of(0, "payments.amount"), Ok(SegmentOf::Column(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_told_is_refused_in_words_and_what_nobody_wants_ends() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path(), "").await;
    let empty = told(&service, &by_day());
    assert_eq!((&empty["total"]["decisions"], &empty["cohorts"], &empty["as_of"]), (&0.into(), &serde_json::json!([]), &Value::Null));
    play(&service).await;
    let refused = |shown: Shown| {
        let segment = Some(SegmentOf::Column(4));
        service.performance(&PerformanceRequest { segment, ..request(shown) }, &|| true).map(|_| ()).unwrap_err()
    };
    let outcome = refused(Shown { favourable: vec!["acept".into()], ..Shown::default() });
    assert!(matches!(&outcome, ServiceError::NotFound { what: "outcome", hint: Some(hint), .. } if hint.contains("accept")), "{outcome:?}");
    let group = refused(Shown { reference: Some("nroth".into()), ..Shown::default() });
    assert!(matches!(&group, ServiceError::NotFound { what: "group", hint: Some(hint), .. } if hint.contains("north")), "{group:?}");
    let cohorts = refused(Shown { by: Some(By::Hour), ..Shown::default() });
    assert!(matches!(&cohorts, ServiceError::Conflict(why) if why.contains("400") && why.contains("`by`")), "{cohorts:?}");
    // Twenty days in as short a length as fits.
    assert_eq!(told(&service, &request(Shown::default()))["by"], "day");
    let unwanted = service.performance(&by_day(), &|| false).map(|_| ()).unwrap_err();
    assert_eq!(unwanted, ServiceError::Refused(Refusal::Stopping));
}

#[tokio::test(flavor = "multi_thread")]
async fn decisions_of_other_definitions_are_counted_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path(), "").await;
    play(&service).await;
    let rule = |when: Option<&str>, outcome: &str| RuleDef { when: when.map(str::to_string), outcome: outcome.to_string() };
    service.publish_policy(0, vec![rule(Some("score >= 0.5"), "block"), rule(None, "allow")]).await.unwrap();
    let end = Instant::now() + Duration::from_secs(120);
    while service.current().project.hash() == service.project.hash() {
        assert!(Instant::now() < end, "{:?}", service.status.applying());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let now = service.current();
    send(&now, "payments", (ALL..ALL + 40).map(payment).collect()).await;
    let (made, _) = now.decisions(None, 100_000, |_| true).unwrap();
    let report = told(&now, &by_day());
    assert_eq!(report["outcomes"], serde_json::json!(["block", "allow", "accept", "review"]));
    for of in report["total"]["outcomes"].as_array().unwrap() {
        let own = made.iter().filter(|r| r.layout.outcomes[r.decision.outcome] == of["outcome"].as_str().unwrap());
        assert_eq!(of["decisions"].as_u64(), Some(own.count() as u64), "{of}");
    }
    assert_eq!((&report["favourable"], report["total"]["decisions"].as_u64()), (&serde_json::json!(["allow"]), Some(ALL + 40)));
}

#[tokio::test(flavor = "multi_thread")]
async fn erased_decisions_are_in_no_figure() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path(), "").await;
    play(&service).await;
    let cases = cases(&service, None);
    service.shutdown().await.unwrap();
    let weak = Arc::downgrade(&service.data);
    drop(service);
    let end = Instant::now() + Duration::from_secs(60);
    while weak.strong_count() > 0 {
        assert!(Instant::now() < end, "the data folder is still held");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let project = load(dir.path(), "");
    let request = erase::Request { keys: vec![erase::Key { column: "card".into(), value: "3".into() }], ..erase::Request::default() };
    let data = Data::open(&project).await.unwrap();
    let (of, asked) = (project.clone(), request.clone());
    let found = tokio::task::spawn_blocking(move || {
        let journal = erase::find(&data, &of, &asked, minutes(0)).unwrap();
        (data, journal)
    });
    let (data, journal) = found.await.unwrap();
    let path = erase::begin(data, &request, journal, minutes(0)).await.unwrap();
    erase::complete(&project, &path, &request.keys).await.unwrap();

    let service = start(dir.path(), "").await;
    let report = told(&service, &by_day());
    let left: Vec<&Case> = cases.iter().filter(|case| case.n % 7 != 3).collect();
    assert_eq!(report["left_out"], serde_json::json!({"erased": cases.len() - left.len(), "other_model": 0, "without_event": 0}));
    check_report(&report, &left);
}
