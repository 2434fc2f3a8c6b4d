//! Models of every kind in service: learned with a calibration, as a scorecard, of numbers, of anomalies, or elsewhere. They decide with reasons, a restart leaves no
//! trace, and every decision comes out again to the last bit.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kilter_core::{EventTime, Span};
use kilter_learn::calibration::{Calibration, Method};
use kilter_learn::{Gbdt, Learner, Logistic, Model, TrainingSet, calibrate, exchange, load};
use kilter_pipeline::{Observations, Range};
use kilter_runtime::audit::audit_all;
use kilter_runtime::jobs::import::ImportRequest;
use kilter_runtime::jobs::train::{Promotion, observe};
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
[source.payments.columns]
payment_id = "string"
card = { type = "int64", required = true }
at = "timestamp"
amount = { type = "float64", required = true }
shop = "string"
[source.outcomes]
time = "at"
max_future = "none"
[source.outcomes.columns]
payment_id = { type = "string", required = true }
at = "timestamp"
fraud = "bool"
loss = "float64"
[features.card]
source = "payments"
entity = "card"
[features.card.columns]
count = "count(*) over 1d"
sum = "sum(amount) over 1d"
mean = "mean(amount) over 6h"
[model.fraud]
on = "payments"
LEARNER
inputs = ["card.*", "payments.amount"]
label = { source = "outcomes", value = "fraud", on = "payment_id", within = "1h" }
min_rows = 50
[decision.pay]
model = "fraud"
policy = [{ when = "score >= 0.5", outcome = "block" }, { outcome = "accept" }]
reasons = 3
fallback = "accept"
[monitor.drift]
model = "fraud"
signal = "psi"
above = 100
window = "6h"
every = "1h"
min_rows = 20
"#;

const GBDT: &str = "learner = \"gbdt\"\nparams = { trees = 20, leaves = 7, min_leaf_rows = 5 }";
/// Marks of a learner: the label is what was lost, or there is none.
const LOSS: &str = "# loss";
const UNLABELLED: &str = "# unlabelled";
const WATCHED: &str = r#"
[schedule.yearly]
every = "365d"
train = "fraud"
promote_if = "mae <= champion.mae * 1.5 and rows > 10"
[monitor.error]
model = "fraud"
signal = "mae"
above = 1
window = "6h"
every = "1h"
min_rows = 20
"#;

/// Payments played before a model comes, and after.
const BEFORE: u64 = 1_200;
const AFTER: u64 = 150;

async fn start(dir: &Path, learner: &str) -> Arc<Service> {
    let mut definitions = DEFINITIONS.replace("LEARNER", learner);
    if learner.contains("categorical") {
        definitions = definitions.replace("\"payments.amount\"]", "\"payments.amount\", \"payments.shop\"]");
    }
    if learner.contains(LOSS) {
        definitions = definitions.replace("value = \"fraud\"", "value = \"loss\"").replace("score >= 0.5", "score >= 150") + WATCHED;
    } else if learner.contains(UNLABELLED) {
        definitions = definitions.lines().filter(|line| !line.starts_with("label")).collect::<Vec<_>>().join("\n");
    }
    std::fs::write(dir.join("kilter.toml"), definitions).unwrap();
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

fn amount(n: u64) -> f64 {
    (dice(n) * 1000.0).round()
}

fn at(minutes: u64) -> EventTime {
    EventTime(1_700_000_000_000_000) + Span(minutes as i64 * 60_000_000)
}

/// A text as JSON, or null; some shops come up after training only.
fn shop(n: u64) -> String {
    let new = n >= BEFORE && n.is_multiple_of(5);
    if n.is_multiple_of(11) { "null".into() } else { format!("\"shop {}\"", if new { 100 + n % 3 } else { n % 6 }) }
}

fn payment(n: u64) -> String {
    format!(r#"{{"payment_id":"p{n}","card":{},"at":"{}","amount":{},"shop":{}}}"#, n % 7, at(n * 3), amount(n), shop(n))
}

/// The larger the amount, the likelier the fraud; never sure.
fn outcome(n: u64) -> String {
    let likely = 0.05 + 0.8 * amount(n) / 1000.0;
    let loss = (amount(n) * dice(n + 2_000_000)).round();
    format!(r#"{{"payment_id":"p{n}","at":"{}","fraud":{},"loss":{loss}}}"#, at(n * 3 + 30), dice(n + 1_000_000) < likely)
}

async fn send(service: &Service, source: &str, rows: Vec<String>) {
    let source = service.source(source).unwrap();
    let report = service.ingest(source, rows.join("\n").as_bytes(), Some("application/x-ndjson"), Instant::now()).await.unwrap();
    assert_eq!(report.accepted, rows.len() as u64);
}

async fn play(service: &Service, range: std::ops::Range<u64>) {
    // Outcomes before the payments that come half an hour later, as the watermark wants them.
    for n in range.step_by(10) {
        send(service, "payments", (n..n + 10).map(payment).collect()).await;
        send(service, "outcomes", (n..n + 10).map(outcome).collect()).await;
    }
}

/// The file of a version, loaded.
async fn version(service: &Arc<Service>, number: u32) -> Box<dyn Model> {
    let service = Arc::clone(service);
    let bytes = tokio::task::spawn_blocking(move || service.model_file(0, number, None).unwrap()).await.unwrap();
    load(&bytes).unwrap()
}

/// Every decision of version 1 is what its model makes of the recorded inputs, over a restart and in a replay.
async fn check_decides(dir: &Path, learner: &str, service: Arc<Service>, kind: &str) {
    play(&service, BEFORE..BEFORE + AFTER).await;
    let model = version(&service, 1).await;
    assert_eq!(model.kind(), kind);
    let (made, _) = service.decisions(None, AFTER as usize, |_| true).unwrap();
    assert_eq!(made.len(), AFTER as usize);
    let mut with_reasons = 0;
    for recorded in &made {
        let decision = &recorded.decision;
        assert_eq!(decision.version, Some(1));
        assert_eq!(decision.score.map(f64::to_bits), Some(model.predict(&decision.inputs).to_bits()));
        let mut contributions = Vec::new();
        let base = model.explain(&decision.inputs, &mut contributions);
        assert!((base + contributions.iter().sum::<f64>() - decision.margin).abs() < 1e-9);
        let strongest = contributions.iter().copied().fold(0.0, f64::max);
        assert_eq!(decision.reasons.first().map_or(0.0, |reason| reason.contribution), strongest);
        for reason in &decision.reasons {
            assert_eq!(reason.contribution.to_bits(), contributions[reason.input].to_bits());
        }
        with_reasons += usize::from(!decision.reasons.is_empty());
    }
    assert!(with_reasons > made.len() / 2, "{with_reasons} of {} have reasons", made.len());
    assert!(made.iter().any(|r| r.decision.outcome == 0) && made.iter().any(|r| r.decision.outcome == 1), "both outcomes come up");

    let asked = payment(BEFORE + AFTER);
    let before = service.decide(0, asked.as_bytes(), None, Instant::now(), true).await.unwrap().decision;
    service.shutdown().await.unwrap();
    drop(service);
    let service = start(dir, learner).await;
    let after = service.decide(0, asked.as_bytes(), None, Instant::now(), true).await.unwrap();
    assert_eq!(after.decision.difference(&before, &after.layout), None, "a restart changes nothing");
    let (again, _) = service.decisions(None, AFTER as usize, |_| true).unwrap();
    for (a, b) in made.iter().zip(&again) {
        assert_eq!(a.decision.difference(&b.decision, &a.layout), None);
    }
    let (data, plan) = (Arc::clone(&service.data), Arc::clone(&service.plan));
    let report = tokio::task::spawn_blocking(move || audit_all(&data, &plan, |_, _| {}).unwrap()).await.unwrap();
    assert_eq!((report.checked, report.mismatches), (BEFORE + AFTER, 0), "{:?}", report.details);
    // The folder is free for the next.
    service.shutdown().await.unwrap();
}

/// Trains under these definitions, and checks the version as it decides.
async fn check_trained(learner: &str, kind: &str) {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path(), learner).await;
    play(&service, 0..BEFORE).await;
    service.train(0, None, None, "test".into(), Promotion::Always).await.unwrap_or_else(|e| panic!("{learner}: {e}"));
    check_decides(dir.path(), learner, service, kind).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_calibrated_model_decides_and_is_replayed() {
    for calibration in ["\"platt\"", "\"isotonic\"", "\"beta\"", "{ method = \"prior_shift\", target_rate = 0.6 }"] {
        let calibration = match calibration.starts_with('"') {
            true => format!("{{ method = {calibration}, share = 0.4 }}"),
            false => calibration.to_string(),
        };
        check_trained(&format!("{GBDT}\ncalibration = {calibration}"), "calibrated").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_a_category_and_its_decisions_are_replayed() {
    let learner = format!("{GBDT}\ncategorical = [\"shop\"]");
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path(), &learner).await;
    play(&service, 0..BEFORE).await;
    service.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
    let model = version(&service, 1).await;
    assert_eq!(model.categorical_inputs().into_iter().map(|at| model.inputs()[at].as_str()).collect::<Vec<_>>(), ["payments.shop"]);
    check_decides(dir.path(), &learner, service, "gbdt").await;
    // What the decisions saw of shops, and how many of them training had not.
    let service = start(dir.path(), &learner).await;
    let (made, _) = service.decisions(None, AFTER as usize, |_| true).unwrap();
    let at = model.inputs().iter().position(|input| input == "payments.shop").unwrap();
    let seen: Vec<f64> = made.iter().map(|made| made.decision.inputs[at]).collect();
    let expected = [kilter_learn::category_of("shop 1"), kilter_learn::category_of("shop 101")];
    assert!(expected.iter().all(|category| seen.contains(category)) && seen.iter().any(|category| category.is_nan()));
    let unseen = made.iter().filter(|made| model.unseen_categories(&made.decision.inputs) == 1).count();
    assert!(unseen > 20 && unseen < seen.len() / 2, "{unseen} of {}", seen.len());
    check_trained(&format!("{GBDT}\ncategorical = [\"shop\"]\ncalibration = {{ method = \"platt\", share = 0.4 }}"), "calibrated").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scorecard_decides_and_is_replayed() {
    check_trained("learner = \"scorecard\"", "scorecard").await;
    check_trained("learner = \"scorecard\"\nparams = { reasons = \"mean\", special = { amount = [7] } }", "scorecard").await;
    check_trained("learner = \"scorecard\"\ncalibration = \"beta\"", "calibrated").await;
    check_trained("learner = \"logistic\"\ncalibration = \"platt\"", "calibrated").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_regression_decides_and_is_replayed() {
    let trees =
        |objective: &str| format!("{LOSS}\nlearner = \"gbdt\"\nparams = {{ trees = 20, min_leaf_rows = 5, objective = {objective} }}");
    for objective in ["\"squared_error\"", "{ huber = { delta = 50 } }", "{ quantile = { level = 0.6 } }", "{ tweedie = { power = 1.5 } }"]
    {
        check_trained(&trees(objective), "gbdt").await;
    }
    check_trained(&format!("{LOSS}\nlearner = \"linear\""), "linear").await;
    check_trained(&format!("{LOSS}\nlearner = \"forest\"\nparams = {{ target = \"mean\", trees = 20 }}"), "forest").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_isolation_forest_decides_with_and_without_labels() {
    check_trained(&format!("{UNLABELLED}\nlearner = \"isolation\""), "isolation").await;
    check_trained("learner = \"isolation\"\nparams = { trees = 50 }", "isolation").await;
}

/// Figures of numbers go into the run, the rule of promotion and the monitor.
#[tokio::test(flavor = "multi_thread")]
async fn a_regression_is_compared_and_watched_by_its_own_figures() {
    let dir = tempfile::tempdir().unwrap();
    let learner = format!("{LOSS}\nlearner = \"gbdt\"\nparams = {{ trees = 20, objective = {{ quantile = {{ level = 0.7 }} }} }}");
    let service = start(dir.path(), &learner).await;
    play(&service, 0..BEFORE).await;
    let first = service.train(0, None, None, "test".into(), Promotion::Rule(0)).await.unwrap();
    assert!(first.promote && first.verdict.contains("first version"), "{}", first.verdict);
    play(&service, BEFORE..BEFORE + 300).await;
    let second = service.train(0, None, None, "test".into(), Promotion::Rule(0)).await.unwrap();
    let (own, champion) = (second.holdout.unwrap(), second.champion.unwrap());
    assert_eq!(second.promote, own.get("mae") <= champion.get("mae") * 1.5 && own.rows() > 10, "{}", second.verdict);
    assert!(second.verdict.contains("pinball") && second.verdict.contains("champion's"), "{}", second.verdict);
    let coverage = own.get("coverage");
    assert!((0.5..0.9).contains(&coverage), "a quantile of level 0.7 covers {coverage}");
    let run = service.data.metadata.get_run(&second.run).await.unwrap().unwrap();
    for name in ["pinball", "coverage", "mae", "rmse", "bias", "mean_label", "champion.mae"] {
        assert!(run.metrics[name].is_finite(), "{name}: {:?}", run.metrics);
    }
    assert!(!run.metrics.contains_key("auc") && !run.metrics.contains_key("train_positives"), "{:?}", run.metrics);
    let readings = service.status.readings.lock().unwrap().clone();
    let last = readings.get("error").and_then(|r| r.values.back()).unwrap_or_else(|| panic!("the monitor has read nothing"));
    assert!(last.subject == "mae" && last.value > 10.0 && last.value < 500.0 && last.crossed == Some(1.0), "{last:?}");
}

/// The sum of the contributions of a group's inputs, under the group's name; a restart and a replay give the same.
#[tokio::test(flavor = "multi_thread")]
async fn reasons_of_groups_are_sums_and_are_replayed() {
    let learner = format!("{GBDT}\nreason_groups = {{ habits = \"card.*\" }}");
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path(), &learner).await;
    play(&service, 0..BEFORE).await;
    service.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
    play(&service, BEFORE..BEFORE + AFTER).await;
    let model = version(&service, 1).await;
    let (made, _) = service.decisions(None, AFTER as usize, |_| true).unwrap();
    let mut told = std::collections::BTreeMap::new();
    for recorded in &made {
        let decision = &recorded.decision;
        let mut contributions = Vec::new();
        model.explain(&decision.inputs, &mut contributions);
        let of_group = |name: &str| -> f64 {
            let inputs = model.inputs().iter().zip(&contributions);
            inputs.filter(|(input, _)| if name == "habits" { input.starts_with("card.") } else { *input == name }).map(|(_, c)| c).sum()
        };
        for reason in &decision.reasons {
            let (name, value) = recorded.layout.reason(reason, &decision.inputs);
            assert_eq!(reason.contribution.to_bits(), of_group(name).to_bits(), "{name}");
            assert_eq!(value.is_none(), name == "habits");
            *told.entry(name).or_insert(0) += 1;
        }
        let names = ["habits", "payments.amount"];
        assert_eq!(decision.reasons.len(), names.iter().filter(|name| of_group(name) > 0.0).count());
    }
    assert!(told["habits"] > 10 && told["payments.amount"] > 10 && told.len() == 2, "{told:?}");
    let (data, plan) = (Arc::clone(&service.data), Arc::clone(&service.plan));
    let report = tokio::task::spawn_blocking(move || audit_all(&data, &plan, |_, _| {}).unwrap()).await.unwrap();
    assert_eq!((report.checked, report.mismatches), (BEFORE + AFTER, 0), "{:?}", report.details);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_is_part_of_the_training_and_can_be_followed() {
    let search =
        "search = { fits = 14, folds = 2, space = { leaves = [2, 4, 16], learning_rate = { from = 0.02, to = 0.3, log = true } } }";
    let learner = format!("{GBDT}\n{search}");
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut trained = Vec::new();
    for dir in [&one, &two] {
        let service = start(dir.path(), &learner).await;
        play(&service, 0..BEFORE).await;
        let report = service.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
        let run = service.data.metadata.get_run(&report.run).await.unwrap().unwrap();
        let file = service.data.artifacts.get_named(&report.run, "search.json").unwrap();
        let model = version(&service, 1).await.to_bytes();
        trained.push((report.searched.clone().unwrap(), file.clone(), model));
        let searched = report.searched.unwrap();
        assert!(searched.fits <= 14 && searched.trials.len() > 5 && searched.trials[0].settings.is_empty());
        assert!(run.metrics["search.loss_of_chosen"] <= run.metrics["search.loss_as_declared"], "{:?}", run.metrics);
        assert_eq!((run.params["search.fits"].as_str(), run.params["search.metric"].as_str()), ("14", "log_loss"));
        for (name, value) in &searched.best().settings {
            assert_eq!(run.params[&format!("chosen.{name}")], value.to_string());
        }
        let points = service.data.metadata.metric_history(&report.run, "search.fold_0.loss", None, 100).await.unwrap();
        assert_eq!(points.len(), searched.trials.len(), "every trial is in the run");
        // The model has the settings that were chosen.
        let told = version(&service, 1).await.describe();
        for (name, value) in &searched.best().settings {
            assert_eq!(told["parameters"][name].as_f64(), value.as_f64(), "{name}");
        }
        if dir.path() == two.path() {
            check_decides(dir.path(), &learner, service, "gbdt").await;
        }
    }
    assert!(trained[0] == trained[1], "the same log, the same search");
}

/// A score that was a probability must not pass for a loss because the inputs are the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_predicts_something_else_does_not_serve() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path(), GBDT).await;
    play(&service, 0..BEFORE).await;
    service.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
    let asked = payment(BEFORE);
    let decide = async |service: &Arc<Service>| service.decide(0, asked.as_bytes(), None, Instant::now(), true).await.unwrap().decision;
    assert_eq!(decide(&service).await.version, Some(1));
    service.shutdown().await.unwrap();
    drop(service);
    let service = start(dir.path(), &format!("{LOSS}\nlearner = \"linear\"")).await;
    let fallen_back = decide(&service).await;
    assert_eq!((fallen_back.version, fallen_back.score), (None, None));
    let refused = service.promote(0, 1, "test", "test").await;
    assert!(refused.is_err_and(|e| e.to_string().contains("predict something else")));
    service.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
    let decision = decide(&service).await;
    assert!(decision.version == Some(2) && decision.score.is_some_and(|loss| loss > 10.0), "{decision:?}");
}

/// The observations of the model so far, as a training elsewhere would get them.
async fn observed(service: &Arc<Service>) -> TrainingSet {
    let service = Arc::clone(service);
    let work = move || {
        let until = service.data.events.next_offset();
        let now = at(BEFORE * 3);
        let observations: Observations = observe(&service.data, &service.plan, 0, Range { from: at(0), to: now }, until).unwrap();
        let rows = observations.matured(Range { from: at(0), to: now }, now);
        observations.training_set(&rows, now)
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn request(bytes: &[u8]) -> ImportRequest {
    ImportRequest { model: 0, file: "risk.bin".into(), bytes: bytes.to_vec(), by_position: false, promote: true, trigger: "test".into() }
}

/// Boosted trees for the rows, as LightGBM writes them.
fn lightgbm(rows: &TrainingSet) -> Vec<u8> {
    let parameters = Gbdt { trees: 20, leaves: 7, early_stopping: None, ..Gbdt::default() };
    exchange::export(&Learner::Gbdt(parameters).fit(rows).unwrap().to_bytes(), exchange::Format::LightGbm).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_model_decides_and_is_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path(), GBDT).await;
    play(&service, 0..BEFORE).await;
    let file = lightgbm(&observed(&service).await);
    let report = service.import(request(&file)).await.unwrap();
    assert_eq!((report.version, report.promote, report.origin.kind, report.origin.format), (1, true, "lightgbm", "lightgbm"));
    assert_eq!((report.origin.version.as_deref(), report.origin.objective.as_deref()), (Some("v4"), Some("binary sigmoid:1")));
    assert_eq!(report.reference_rows, BEFORE as usize);
    assert!(report.recent.unwrap().get("auc") > 0.6 && report.champion.is_none());
    let run = service.data.metadata.get_run(&report.run).await.unwrap().unwrap();
    assert!(run.metrics["recent.auc"] > 0.6 && !run.metrics.contains_key("auc"), "no held-out figure: {:?}", run.metrics);
    assert_eq!((run.kind.as_str(), run.params["file"].as_str(), run.params["sha256"].len()), ("import", "risk.bin", 64));
    assert_eq!(service.data.artifacts.get_named(&report.run, "original.txt").unwrap(), file);
    check_decides(dir.path(), GBDT, service, "lightgbm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_of_an_imported_model_is_measured_against_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path(), GBDT).await;
    play(&service, 0..BEFORE).await;
    service.import(request(&lightgbm(&observed(&service).await))).await.unwrap();
    // Six hours of payments and one more bucket.
    play(&service, BEFORE..BEFORE + 200).await;
    let readings = service.status.readings.lock().unwrap().clone();
    let last = readings.get("drift").and_then(|r| r.values.back()).unwrap_or_else(|| panic!("the monitor has read nothing"));
    assert!(last.value.is_finite() && last.rows >= 100, "{last:?}");
}

/// An import that must be refused with these words, leaving no version and no run.
async fn check_refused(service: &Arc<Service>, request: ImportRequest, parts: &[&str]) {
    let Err(ServiceError::Model(told)) = service.import(request).await else { panic!("it was taken, or refused for another reason") };
    for part in parts {
        assert!(told.contains(part), "`{part}` is not in: {told}");
    }
    assert!(service.data.metadata.versions("fraud").await.unwrap().is_empty());
    assert!(service.data.metadata.list_runs(&Default::default()).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_decide_here_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path(), GBDT).await;
    play(&service, 0..BEFORE).await;
    let rows = observed(&service).await;
    let text = String::from_utf8(lightgbm(&rows)).unwrap();
    let edited = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        request(text.replace(from, to).as_bytes())
    };
    let names = "card.count_1d card.sum_1d card.mean_6h payments.amount";
    check_refused(&service, edited(names, "card.sum_1d card.count_1d card.mean_6h payments.amount"), &["another order", "`card.sum_1d`"])
        .await;
    check_refused(&service, edited(names, "card.count_1d card.sum_1d card.mean payments.amount"), &["lacks `card.mean_6h`", "`card.mean`"])
        .await;
    check_refused(&service, edited(names, "Column_0 Column_1 Column_2 Column_3"), &["lacks", "--by-position"]).await;
    check_refused(&service, edited("objective=binary sigmoid:1", "objective=regression"), &["`regression`", "binary:logistic"]).await;
    check_refused(&service, edited("num_class=1", "num_class=3"), &["LightGBM model, line 3", "several outputs"]).await;
    check_refused(&service, request(b"PK\x03\x04 a pickle of something"), &["no Kilter model", "save_model"]).await;
    // Three columns of numbers and one of categories, under names of LightGBM's own.
    let categories = include_bytes!("../../kilter-learn/tests/exchange/lightgbm-4.7.0.txt");
    let by_position = |bytes: &[u8]| ImportRequest { by_position: true, ..request(bytes) };
    check_refused(&service, by_position(categories), &["categories of `payments.amount`", "hint"]).await;
    let logistic = Learner::Logistic(Logistic::default());
    let own = logistic.fit(&rows).unwrap().to_bytes();
    check_refused(&service, by_position(&own), &["Kilter's own have names"]).await;
    let columns = (0..3).map(|column| rows.matrix.column(column).to_vec()).collect();
    let three = kilter_learn::Matrix::from_columns(["a", "b", "c"].map(str::to_string).to_vec(), columns);
    let three = TrainingSet::new(three, rows.labels.clone());
    check_refused(&service, by_position(&lightgbm(&three)), &["3 inputs", "has 4"]).await;
    check_refused(&service, request(&logistic.fit(&three).unwrap().to_bytes()), &["lacks", "does not have `a`, `b`, `c`"]).await;

    let report = service.import(ImportRequest { promote: false, ..request(&own) }).await.unwrap();
    assert_eq!((report.version, report.promote, report.origin.format), (1, false, "kilter"));
    assert!(service.data.metadata.alias("fraud", "champion").await.unwrap().is_none(), "nobody asked for it to be promoted");
    let unnamed = text.replace(names, "Column_0 Column_1 Column_2 Column_3");
    assert_eq!(service.import(by_position(unnamed.as_bytes())).await.unwrap().version, 2);
    assert_eq!(version(&service, 2).await.inputs(), names.split(' ').collect::<Vec<_>>());
    // Calibrated elsewhere, it still says where it came from.
    let beta = Calibration { method: Method::Beta, target_rate: None };
    let calibrated = calibrate(exchange::open(text.as_bytes()).unwrap(), &rows, &beta).unwrap().to_bytes();
    let report = service.import(request(&calibrated)).await.unwrap();
    assert_eq!((report.version, report.origin.kind, report.origin.version.as_deref()), (3, "calibrated", Some("v4")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_comes_into_an_empty_log_and_out_as_it_came() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let service = start(one.path(), GBDT).await;
    play(&service, 0..BEFORE).await;
    service.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
    let (kept, read) = (Arc::clone(&service), Arc::clone(&service));
    let own = tokio::task::spawn_blocking(move || kept.model_file(0, 1, None).unwrap()).await.unwrap();
    let text = tokio::task::spawn_blocking(move || read.model_file(0, 1, Some(exchange::Format::LightGbm)).unwrap()).await.unwrap();

    let fresh = start(two.path(), GBDT).await;
    let report = fresh.import(request(&own)).await.unwrap();
    assert_eq!((report.reference_rows, report.recent.is_none(), report.origin.kind), (0, true, "gbdt"));
    fresh.import(request(&text)).await.unwrap();
    for number in [1, 2] {
        fresh.promote(0, number, "test", "test").await.unwrap();
        let id = BEFORE + 10 + u64::from(number);
        let asked = payment(id);
        let there = fresh.decide(0, asked.as_bytes(), None, Instant::now(), false).await.unwrap().decision;
        let model = version(&service, 1).await;
        assert_eq!((there.version, there.margin.to_bits()), (Some(number), model.margin(&there.inputs).to_bits()), "{}", number);
    }
    let kept = Arc::clone(&fresh);
    let refused = tokio::task::spawn_blocking(move || kept.model_file(0, 2, Some(exchange::Format::LightGbm))).await.unwrap();
    assert!(matches!(&refused, Err(ServiceError::Model(told)) if told.contains("\"lightgbm\"")), "{refused:?}");
    let kept = Arc::clone(&fresh);
    let unknown = tokio::task::spawn_blocking(move || kept.model_file(0, 9, None)).await.unwrap();
    assert!(matches!(&unknown, Err(ServiceError::NotFound { name, .. }) if name == "fraud@9"), "{unknown:?}");
}
