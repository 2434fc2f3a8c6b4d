//! Definitions that change while events flow, at a restart, and back again: the state is always that of a fresh run over the whole log.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kilter_core::{EntityKey, EventTime, Span, Value};
use kilter_pipeline::Pipeline;
use kilter_runtime::audit::{AuditReport, audit_log, replay_one};
use kilter_runtime::changes::{ChangePlan, Fate};
use kilter_runtime::jobs::apply::Phase;
use kilter_runtime::jobs::train::Promotion;
use kilter_runtime::{Record, Refusal, Service, ServiceError, StartOptions, project};
use kilter_stats::Rng;
use kilter_store::metadata::{MonitorReading, ReadingFilter};

const DEFINITIONS: &str = r#"
[project]
name = "shop"
clock = "event"
[source.payments]
time = "at"
id = "payment_id"
max_future = "none"
[source.payments.columns]
payment_id = "string"
card = { type = "int64", required = true }
at = "timestamp"
amount = { type = "float64", required = true }
[source.outcomes]
time = "at"
max_future = "none"
[source.outcomes.columns]
payment_id = { type = "string", required = true }
at = "timestamp"
fraud = "bool"
[features.card]
source = "payments"
entity = "card"
[features.card.columns]
count = "count(*) over 1h, 1d"
sum = "sum(amount) over 1d"
[model.fraud]
on = "payments"
learner = "logistic"
inputs = ["card.count_1h", "card.sum_1d", "payments.amount"]
label = { source = "outcomes", value = "fraud", on = "payment_id", within = "1h" }
min_rows = 30
[decision.pay]
model = "fraud"
policy = [{ when = "score >= 0.5", outcome = "block" }, { outcome = "accept" }]
fallback = "accept"
[monitor.drift]
model = "fraud"
signal = "psi"
above = 0.2
window = "6h"
every = "1h"
min_rows = 10
"#;

/// A view that the definitions above do not have, with a column that comes with events as an undeclared field.
const SHOPS: &str = r#"
[features.shop]
source = "payments"
entity = "shop"
[features.shop.columns]
turnover = "sum(amount) over 12h"
regulars = "count(*) where card.count_1d > 3 over 12h"
"#;

fn write(dir: &Path, text: &str) -> project::Project {
    std::fs::write(dir.join("kilter.toml"), text).unwrap();
    project::load(dir).unwrap_or_else(|report| panic!("{report}"))
}

fn edited(edits: &[(&str, &str)]) -> String {
    edits.iter().fold(DEFINITIONS.to_string(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    })
}

async fn start(dir: &Path, text: &str) -> Arc<Service> {
    Service::start(write(dir, text), StartOptions::default()).await.unwrap()
}

/// Ends the process's hold on the data without a snapshot or a word, as a crash would.
async fn crash(service: Arc<Service>) {
    let weak = Arc::downgrade(&service.data);
    let dir = service.data.dir.clone();
    drop(service);
    let free = |log: &str| kilter_store::log::Log::open(dir.join(log), Default::default()).is_ok();
    for _ in 0..1000 {
        if weak.strong_count() == 0 && ["events", "decisions", "dead-letters"].into_iter().all(free) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the data folder is still held");
}

fn payment(n: u64) -> String {
    let at = EventTime(1_700_000_000_000_000) + Span(n as i64 * 180_000_000);
    let amount = if n.is_multiple_of(7) { 900 + n % 13 } else { 10 + n % 50 };
    format!(r#"{{"payment_id":"p{n}","card":{},"at":"{at}","amount":{amount},"shop":"s{}"}}"#, n % 5, n % 3)
}

fn outcome(n: u64) -> String {
    let at = EventTime(1_700_000_000_000_000) + Span((n as i64 * 180 + 1800) * 1_000_000);
    format!(r#"{{"payment_id":"p{n}","at":"{at}","fraud":{}}}"#, n.is_multiple_of(7) != n.is_multiple_of(11))
}

async fn send(service: &Service, source: &str, row: String) -> kilter_runtime::IngestReport {
    let source = service.source(source).unwrap();
    let sent = service.ingest(source, row.as_bytes(), Some("application/x-ndjson"), Instant::now()).await.unwrap();
    assert_eq!(sent.rejected, 0, "{:?}", sent.rejections);
    sent
}

async fn play(service: &Service, range: std::ops::Range<u64>) {
    for n in range {
        send(service, "payments", payment(n)).await;
        if n >= 10 {
            send(service, "outcomes", outcome(n - 10)).await;
        }
    }
}

async fn train(service: &Arc<Service>) {
    service.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
}

/// Writes the file and applies it; the service under the new definitions.
async fn apply(service: &Arc<Service>, text: &str) -> Arc<Service> {
    write(&service.project.dir, text);
    service.apply().await.unwrap();
    done(service).await
}

async fn done(service: &Arc<Service>) -> Arc<Service> {
    for _ in 0..3000 {
        let now = service.status.applying().unwrap();
        match now.phase {
            Phase::Filling => tokio::time::sleep(Duration::from_millis(2)).await,
            Phase::Done => return service.current(),
            Phase::Failed => panic!("{:?}", now.error),
        }
    }
    panic!("the apply does not end");
}

/// The live state, as the snapshot it writes now, against a fresh pipeline over the whole log.
async fn assert_as_fresh(service: &Arc<Service>) {
    let offset = service.snapshot().await.unwrap();
    let service = Arc::clone(service);
    tokio::task::spawn_blocking(move || {
        let live = service.data.snapshots.newest(offset, &service.plan.hash).unwrap().snapshot.unwrap();
        assert_eq!(live.offset, offset);
        let mut fresh = Pipeline::new(Arc::clone(&service.plan));
        service
            .data
            .walk(&service.plan, 0, offset, |at, record| {
                match record {
                    Record::Event(event) => drop(fresh.process(&event)),
                    Record::Control(control) => service.data.control(&mut fresh, at, &control)?,
                    Record::Foreign | Record::Erased(_) => fresh.skip(at),
                }
                Ok(())
            })
            .unwrap();
        assert!(live.bytes == fresh.snapshot(), "the live state is not that of a fresh run over the log");
    })
    .await
    .unwrap();
}

async fn audit(service: &Arc<Service>) -> AuditReport {
    let service = Arc::clone(service);
    let report = tokio::task::spawn_blocking(move || audit_log(&service.data, &service.project, |_, _| {}).unwrap()).await.unwrap();
    assert_eq!((report.mismatches, report.other_definitions), (0, 0), "{:?}", report.details);
    report
}

fn decisions(service: &Service) -> usize {
    service.decisions(None, 100_000, |_| true).unwrap().0.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn new_features_are_filled_and_swapped_in_while_events_flow() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path(), DEFINITIONS).await;
    play(&service, 0..120).await;
    train(&service).await;
    play(&service, 120..150).await;

    let text = edited(&[("amount = { type", "shop = \"string\"\namount = { type"), ("score >= 0.5", "score >= 0.4")]) + SHOPS;
    write(dir.path(), &text);
    let playing = {
        let service = Arc::clone(&service);
        tokio::spawn(async move { play(&service, 150..400).await })
    };
    service.apply().await.unwrap();
    let now = done(&service).await;
    // Who still holds the old service goes on as before: told anew by names.
    playing.await.unwrap();
    play(&now, 400..410).await;

    assert_ne!(now.plan.hash, service.plan.hash);
    assert_as_fresh(&now).await;
    let read = now.features(now.view("shop").unwrap(), EntityKey::Text("s1".into()), None).await.unwrap();
    assert!(read.values[0].as_f64().unwrap() > 0.0, "the field that was undeclared when it came has its history: {:?}", read.values);
    let report = audit(&now).await;
    assert_eq!((report.checked, report.definitions), (410, 2));
    let (newest, _) = now.decisions(None, 1, |_| true).unwrap();
    assert_eq!(newest[0].decision.version, Some(1), "the champion's inputs are what they were");
    let at = now.status.applying().unwrap().swapped_at.unwrap();
    let (all, _) = now.decisions(None, 1000, |_| true).unwrap();
    assert!(all.iter().all(|d| (d.decision.offset > at) == (d.layout.definitions == now.plan.hash)), "one offset parts the two");
    assert!(all.iter().any(|d| d.decision.offset < at) && all.iter().any(|d| d.decision.offset > at));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_applied_changes_nothing_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path(), DEFINITIONS).await;
    play(&service, 0..20).await;
    let refusal = |text: String| {
        let service = Arc::clone(&service);
        std::fs::write(dir.path().join("kilter.toml"), text).unwrap();
        async move { service.apply().await.unwrap_err() }
    };
    let broken = refusal(edited(&[("sum(amount)", "sum(amuont)")])).await;
    assert!(matches!(&broken, ServiceError::Definitions(_)) && broken.to_string().contains("did you mean `amount`?"), "{broken}");
    for (text, reason) in [
        (DEFINITIONS.to_string(), "nothing to apply"),
        (edited(&[("[source.payments]", "[server]\nlisten = \"127.0.0.1:1\"\n[source.payments]")]), "[server] is taken up at a start only"),
        (edited(&[("clock = \"event\"", "clock = \"wall\"")]), "`clock` is taken up at a start only"),
        (
            edited(&[
                ("[source.outcomes]\ntime", "[source.results]\ntime"),
                ("[source.outcomes.", "[source.results."),
                ("source = \"outcomes\"", "source = \"results\""),
            ]),
            "source `outcomes` is gone, and clients that post to it would be turned away",
        ),
    ] {
        let refused = refusal(text).await;
        assert!(matches!(&refused, ServiceError::Conflict(_)) && refused.to_string().contains(reason), "{refused}");
    }
    let end = service.data.events.next_offset();
    assert!(service.status.applying().is_none() && Arc::ptr_eq(&service.current(), &service));
    play(&service, 20..25).await;
    assert_eq!(service.data.swaps(0, end + 10).unwrap(), []);
    assert_eq!(audit(&service).await.checked, 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_around_the_swap_leaves_the_old_set_or_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = start(dir.path(), DEFINITIONS).await;
    play(&service, 0..120).await;
    train(&service).await;
    play(&service, 120..130).await;
    let next = edited(&[("over 1h, 1d", "over 1h, 1d, 2d"), ("0.5", "0.3")]);

    // Before: the definitions in force are the old ones, whatever has been filled.
    write(dir.path(), &next);
    service.apply().await.unwrap();
    let swapped = |service: &Service| service.data.swaps(0, u64::MAX).unwrap().len();
    crash(service).await;
    service = start(dir.path(), DEFINITIONS).await;
    let before = swapped(&service);
    play(&service, 130..140).await;
    assert_eq!(decisions(&service), 140);
    assert_as_fresh(&service).await;

    // After, without any snapshot under the new definitions: the record in the log says it.
    service = apply(&service, &next).await;
    assert_eq!(swapped(&service), before + 1);
    play(&service, 140..150).await;
    let hash = service.plan.hash.clone();
    crash(service).await;
    for info in std::fs::read_dir(dir.path().join("kilter-data/snapshots")).unwrap().flatten() {
        std::fs::remove_file(info.path()).unwrap();
    }
    service = start(dir.path(), &next).await;
    assert_eq!((service.plan.hash.as_str(), swapped(&service)), (hash.as_str(), before + 1), "no second change");
    assert_eq!(decisions(&service), 150);
    play(&service, 150..160).await;
    assert_as_fresh(&service).await;
    assert_eq!(audit(&service).await.checked, 160);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_another_file_keeps_the_state_that_means_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = start(dir.path(), DEFINITIONS).await;
    play(&service, 0..60).await;
    let made = decisions(&service);
    service.shutdown().await.unwrap();
    crash(service).await;

    // A decision that is new decides from now on, not on the past.
    let with_rules = edited(&[(
        "[monitor.drift]",
        "[decision.large]\non = \"payments\"\npolicy = [{ when = \"amount > 100 and card.count_1d > 3\", outcome = \"look\" }, { outcome = \"pass\" }]\n[monitor.drift]",
    )]);
    service = start(dir.path(), &with_rules).await;
    assert_eq!(decisions(&service), made);
    assert_as_fresh(&service).await;
    play(&service, 60..70).await;
    assert_eq!(decisions(&service), made + 20);

    // And back: the old snapshot's era is over, and nothing of the time between is decided again.
    crash(service).await;
    service = start(dir.path(), DEFINITIONS).await;
    play(&service, 70..80).await;
    assert_eq!(decisions(&service), made + 30);
    assert_as_fresh(&service).await;
    assert_eq!(audit(&service).await.checked, made as u64 + 30);
    assert_eq!(service.data.swaps(0, u64::MAX).unwrap().len(), 2);
}

/// All that the monitor saw and that is kept, newest first.
async fn readings(service: &Service) -> Vec<MonitorReading> {
    service.snapshot().await.unwrap();
    let filter = ReadingFilter { monitor: "drift".into(), limit: 10_000, counts: true, ..ReadingFilter::default() };
    service.data.metadata.readings(&filter).await.unwrap()
}

fn remove_files(folder: &Path, unless: &str) {
    for file in std::fs::read_dir(folder).unwrap().flatten().filter(|file| file.file_name() != unless) {
        std::fs::remove_file(file.path()).unwrap();
    }
}

/// With a monitor whose window is soon full.
fn watching(window: &str, above: &str) -> String {
    edited(&[("window = \"6h\"", &format!("window = \"{window}\"")), ("above = 0.2", &format!("above = {above}"))])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_monitors_saw_stays_as_the_definitions_of_its_time_had_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = start(dir.path(), &watching("2h", "0.2")).await;
    play(&service, 0..120).await;
    train(&service).await;
    play(&service, 120..200).await;
    let old = readings(&service).await;
    let hours = |reading: &MonitorReading| (reading.window / Span::HOUR.0, reading.every / Span::HOUR.0);
    assert!(old.len() >= 2 && old.iter().all(|reading| hours(reading) == (2, 1) && reading.above == Some(0.2)), "{old:?}");

    service = apply(&service, &watching("3h", "0.3")).await;
    play(&service, 200..280).await;
    let all = readings(&service).await;
    let (new, kept) = all.split_at(all.len() - old.len());
    assert!(!new.is_empty() && new.iter().all(|reading| hours(reading) == (3, 1) && reading.above == Some(0.3)), "{new:?}");
    assert_eq!(kept, old);

    // The definitions of then are not known any more, and the whole log is read under the next ones.
    crash(service).await;
    remove_files(&dir.path().join("kilter-data/snapshots"), "");
    remove_files(&dir.path().join("kilter-data/definitions"), "in-force");
    service = start(dir.path(), &watching("2h", "0.4")).await;
    assert_eq!(readings(&service).await, all, "what they say of the past replaces nothing");
    let (text, _) = DEFINITIONS.split_once("[monitor.drift]").unwrap();
    service = apply(&service, text).await;
    assert_eq!(readings(&service).await, [], "a monitor that is gone has no history");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_snapshot_is_past_what_monitors_saw_and_could_not_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path(), &watching("2h", "0.2")).await;
    play(&service, 0..120).await;
    train(&service).await;
    play(&service, 120..200).await;
    let before = readings(&service).await;
    service.data.metadata.close().await;
    play(&service, 200..260).await;
    let error = service.snapshot().await.unwrap_err().to_string();
    assert!(error.contains("readings of monitors could not be kept"), "{error}");
    crash(service).await;
    let service = start(dir.path(), &watching("2h", "0.2")).await;
    let after = readings(&service).await;
    assert!(!before.is_empty() && after.len() > before.len() && after.ends_with(&before), "{} after {}", after.len(), before.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_read_under_old_definitions_are_told_anew_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let old = start(dir.path(), DEFINITIONS).await;
    play(&old, 0..10).await;
    // Sources are numbered by name: a new one in front moves the others. A column comes in front, another decision replaces the old one.
    let text = edited(&[
        ("[source.payments]", "[source.accounts]\ntime = \"arrival\"\n[source.accounts.columns]\nid = \"int64\"\n[source.payments]"),
        ("payment_id = \"string\"\ncard", "shop = \"string\"\npayment_id = \"string\"\ncard"),
        ("[decision.pay]", "[decision.settle]"),
    ]);
    let new = apply(&old, &text).await;
    assert_ne!(old.source("payments").unwrap(), new.source("payments").unwrap());

    play(&old, 10..20).await;
    let read = old.features(0, EntityKey::Int(1), None).await.unwrap();
    assert_eq!((read.view.name(), &read.values[1]), ("card", &Value::Int(4)));
    let asked = old.decide(0, payment(20).as_bytes().to_vec().replace_shop().as_slice(), None, Instant::now(), false).await.unwrap_err();
    assert!(matches!(&asked, ServiceError::Refused(Refusal::Changed(why)) if why.contains("decision `pay`")), "{asked}");
    assert_as_fresh(&new).await;
    assert_eq!(audit(&new).await.checked, 20);
}

trait ReplaceShop {
    fn replace_shop(self) -> Vec<u8>;
}

impl ReplaceShop for Vec<u8> {
    /// A request may hold declared fields only.
    fn replace_shop(self) -> Vec<u8> {
        let text = String::from_utf8(self).unwrap();
        format!("{}}}", text.split(",\"shop\"").next().unwrap()).into_bytes()
    }
}

/// Random definitions over the two sources of this file.
fn random(rng: &mut Rng) -> String {
    let pick = |rng: &mut Rng, of: &[&str]| of[rng.below(of.len() as u64) as usize].to_string();
    let amount = pick(rng, &["float64", "float64", "int64"]);
    let lateness = pick(rng, &["1h", "1h", "10m"]);
    let shop = if rng.bernoulli(0.5) { "shop = \"string\"\n" } else { "" };
    let sum = pick(rng, &["sum(amount) over 1d", "sum(amount) over 1d hop 1h", "sum(amount * 2) over 1d"]);
    let counted = pick(rng, &["1h, 1d", "1h, 1d", "1d, 1h, 2d"]);
    let mut sections = vec![
        format!(
            "[source.payments]\ntime = \"at\"\nid = \"payment_id\"\nmax_future = \"none\"\nlateness = \"{lateness}\"\n[source.payments.columns]\n\
             payment_id = \"string\"\n{shop}card = \"int64\"\nat = \"timestamp\"\namount = \"{amount}\"\n"
        ),
        "[source.outcomes]\ntime = \"at\"\nmax_future = \"none\"\n[source.outcomes.columns]\npayment_id = \"string\"\nat = \"timestamp\"\nfraud = \"bool\"\n".into(),
        format!("[features.card]\nsource = \"payments\"\nentity = \"card\"\n[features.card.columns]\ncount = \"count(*) over {counted}\"\nsum = \"{sum}\"\n"),
        "[model.fraud]\non = \"payments\"\nlearner = \"logistic\"\ninputs = [\"card.count_1h\", \"card.sum_1d\", \"payments.amount\"]\n\
         label = { source = \"outcomes\", value = \"fraud\", on = \"payment_id\", within = \"1h\" }\nmin_rows = 30\n".into(),
    ];
    let threshold = pick(rng, &["0.5", "0.5", "0.2"]);
    sections.push(format!(
        "[decision.pay]\nmodel = \"fraud\"\npolicy = [{{ when = \"score >= {threshold}\", outcome = \"block\" }}, {{ outcome = \"accept\" }}]\nfallback = \"accept\"\n"
    ));
    for (name, signal) in [("drift", "psi"), ("quality", "auc")] {
        if rng.bernoulli(0.6) {
            let window = pick(rng, &["6h", "6h", "3h"]);
            sections.push(format!(
                "[monitor.{name}]\nmodel = \"fraud\"\nsignal = \"{signal}\"\nbelow = 0.01\nwindow = \"{window}\"\nevery = \"1h\"\nmin_rows = 5\n"
            ));
        }
    }
    if !shop.is_empty() && rng.bernoulli(0.7) {
        sections.push(SHOPS.to_string());
    }
    if rng.bernoulli(0.4) {
        sections
            .push("[features.late]\nsource = \"outcomes\"\nentity = \"payment_id\"\n[features.late.columns]\nseen = \"count(*)\"\n".into());
    }
    rng.shuffle(&mut sections);
    format!("[project]\nname = \"shop\"\nclock = \"event\"\n{}", sections.concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn any_chain_of_changes_leaves_the_state_of_a_fresh_run() {
    for seed in 0..10 {
        let mut rng = Rng::seeded(seed);
        let dir = tempfile::tempdir().unwrap();
        let mut texts: Vec<String> = (0..3).map(|_| random(&mut rng)).collect();
        // Back to the first, so that old snapshots and old champions come into question again.
        texts.push(texts[0].clone());
        let mut service = start(dir.path(), &texts[0]).await;
        let mut n = 0;
        for (step, text) in texts.iter().enumerate() {
            if step > 0 && project::check_text(text, "", dir.path()).unwrap().toml_text != service.project.toml_text {
                match rng.bernoulli(0.5) {
                    true => service = apply(&service, text).await,
                    false => {
                        if rng.bernoulli(0.5) {
                            service.snapshot().await.unwrap();
                        }
                        crash(service).await;
                        service = start(dir.path(), text).await;
                    }
                }
                assert_as_fresh(&service).await;
            }
            let until = n + 20 + rng.below(60);
            play(&service, n..until).await;
            n = until;
            if n > 50 && rng.bernoulli(0.6) {
                // Too little to learn from is no failure here.
                let _ = service.train(0, None, None, "test".into(), Promotion::Always).await;
            }
        }
        assert_as_fresh(&service).await;
        assert_eq!(audit(&service).await.checked, n, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_what_a_change_does() {
    let dir = tempfile::tempdir().unwrap();
    let service = start(dir.path(), DEFINITIONS).await;
    play(&service, 0..120).await;
    train(&service).await;
    let text = edited(&[
        ("shop\"\nclock", "shop\" # another comment\nclock"),
        ("sum(amount) over 1d", "sum(abs(amount)) over 1d"),
        ("amount = { type", "shop = \"string\"\namount = { type"),
        ("above = 0.2", "above = 0.3"),
    ]) + SHOPS;
    let new = project::check_text(&text, "kilter.toml", dir.path()).unwrap();
    let (data, old) = (Arc::clone(&service.data), Arc::clone(&service.project));
    let plan = tokio::task::spawn_blocking(move || ChangePlan::of(&old, &new).with_log(&data, &old, &new, true, |_, _| {}).unwrap())
        .await
        .unwrap();

    let object =
        |kind: &str, name: &str| plan.objects.iter().find(|o| format!("{:?}", o.kind).to_lowercase() == kind && o.name == name).unwrap();
    let card = object("view", "card");
    assert_eq!((card.change, card.backfill), (Fate::Changed, Some(true)));
    assert_eq!(card.features.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["sum_1d"], "the counts are as they were");
    let line = &card.features[0].differences[0];
    assert_eq!((line.old.as_deref(), line.new.as_deref()), (Some("sum(amount)"), Some("sum(abs(amount))")));
    let shop = object("view", "shop");
    assert_eq!((shop.change, shop.backfill), (Fate::Added, Some(true)));
    assert_eq!(shop.state.as_ref().map(|s| (s.entities, s.one_in)), Some((3, 1)));
    let fraud = object("model", "fraud");
    let champion = fraud.champion.as_ref().unwrap();
    assert_eq!((fraud.change, champion.version, champion.stays), (Fate::Changed, Some(1), false));
    assert_eq!(champion.fallback["pay"].as_deref(), Some("accept"));
    assert_eq!(object("source", "outcomes").change, Fate::Unchanged);
    assert_eq!(object("source", "payments").differences[0].what, "columns.shop");
    assert!(object("monitor", "drift").differences.iter().any(|d| d.what == "above"));
    let backfill = plan.backfill.as_ref().unwrap();
    assert_eq!(
        (backfill.from_offset, backfill.events, backfill.views.as_slice()),
        (0, service.data.events.next_offset(), &["card".to_string(), "shop".into()][..])
    );
    assert!(backfill.bytes > 0 && backfill.sampled == backfill.events && backfill.seconds > 0.0);
    assert_eq!(plan.decisions.iter().map(|d| (d.count, d.replayable)).collect::<Vec<_>>(), [(120, true)]);

    // Comments, descriptions and the order of sections have no meaning.
    let (features, rest) = DEFINITIONS.split_at(DEFINITIONS.find("[model.fraud]").unwrap());
    let (model, rest) = rest.split_at(rest.find("[decision.pay]").unwrap());
    let moved = format!("# moved\n{features}{rest}{model}").replace("entity = \"card\"", "entity = \"card\"\ndescription = \"cards\"");
    let same = ChangePlan::of(&service.project, &project::check_text(&moved, "kilter.toml", dir.path()).unwrap());
    assert!(!same.changes && same.objects.iter().all(|o| o.change == Fate::Unchanged));
    assert_eq!(same.beside.iter().map(|d| d.what.as_str()).collect::<Vec<_>>(), ["features.card.description"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_decision_is_replayed_by_the_rules_of_its_day_from_any_state() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = start(dir.path(), DEFINITIONS).await;
    play(&service, 0..50).await;
    service.snapshot().await.unwrap();
    service = apply(&service, &edited(&[("over 1h, 1d", "over 2h, 1d"), ("card.count_1h", "card.count_2h")])).await;
    play(&service, 50..60).await;
    let id = kilter_pipeline::decision_id("pay", service.recorded("pay-0").unwrap().decision.offset + 70);
    let hash = service.recorded(&id).unwrap().layout.definitions.clone();
    assert_ne!(hash, service.plan.hash);
    let data = Arc::clone(&service.data);
    tokio::task::spawn_blocking(move || {
        let plan = data.kept_plan(&hash).unwrap();
        for full in [false, true] {
            assert_eq!(replay_one(&data, &plan, &id, full).unwrap().difference, None);
        }
    })
    .await
    .unwrap();
}
