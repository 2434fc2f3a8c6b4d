//! Services: the features of customer, merchant and card in one answer, the same live, in decisions, in training sets, and as they were seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use kilter_core::{Clock, EventTime, Span, Value};
use kilter_runtime::as_seen::Seen;
use kilter_runtime::feature_service::ServiceRow;
use kilter_runtime::jobs::train::Promotion;
use kilter_runtime::jobs::training_set::{Features, Limits, Mode, Pick, Request, Spine, write};
use kilter_runtime::{Service, ServiceError, StartOptions, TableFormat, project};

const DEFINITIONS: &str = r#"
[project]
name = "shop"
clock = "event"
[source.payments]
time = "at"
id = "payment_id"
max_future = "none"
columns = { payment_id = "string", customer = "int64", card_no = "int64", shop = "string", at = "timestamp", amount = "float64", kind = "string" }
[source.outcomes]
time = "at"
max_future = "none"
columns = { payment_id = "string", at = "timestamp", fraud = "bool" }
[features.customer]
source = "payments"
entity = "customer"
columns = { n = "count(*) over 1h, 1d", sum = "sum(amount) over 1d", last_kind = "last(kind)" }
[features.merchant]
source = "payments"
entity = "shop"
columns = { mean = "mean(amount) over 1d" }
[features.card]
source = "payments"
entity = ["customer", "card_no"]
columns = { sum = "sum(amount) over 1d", dearest = "max(amount / merchant.mean_1d) over 1d" }
[service.scoring]
features = ["customer.*", "merchant.mean_1d", "card.dearest_1d", "share = card.sum_1d / customer.sum_1d"]
keys = { merchant = "merchant_id" }
description = "what a payment is judged by"
[model.fraud]
on = "payments"
params = { trees = 8, leaves = 4, min_leaf_rows = 5 }
inputs = ["customer.n_1h", "merchant.*", "card.*", "payments.amount"]
label = { source = "outcomes", value = "fraud", on = "payment_id", within = "1h" }
min_rows = 50
[decision.pay]
model = "fraud"
policy = [{ when = "score >= 0.5", outcome = "block" }, { outcome = "accept" }]
fallback = "accept"
"#;

const START: i64 = 1_700_000_000_000_000;

struct Hand(AtomicI64);

impl Clock for Hand {
    fn now(&self) -> EventTime {
        EventTime(self.0.load(Ordering::Relaxed))
    }
}

fn minute(n: i64) -> EventTime {
    EventTime(START) + Span(n * Span::MINUTE.0)
}

struct Shop {
    dir: tempfile::TempDir,
    service: Arc<Service>,
    clock: Arc<Hand>,
}

/// A payment's keys, as the service of `DEFINITIONS` takes them: customer, merchant, card.
fn keys(n: i64) -> Vec<Value> {
    vec![Value::Int(n % 7), Value::text(&format!("s{}", n % 3)), Value::Int(n % 2)]
}

fn payment(n: i64) -> String {
    let kind = if n % 5 == 0 { "null".to_string() } else { format!("\"k{}\"", n % 4) };
    format!(
        r#"{{"payment_id":"p{n}","customer":{},"card_no":{},"shop":"s{}","at":"{}","amount":{},"kind":{kind}}}"#,
        n % 7,
        n % 2,
        n % 3,
        minute(n),
        1.0 + (n * 97 % 1009) as f64 / 7.0,
    )
}

impl Shop {
    async fn open(definitions: &str) -> Shop {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kilter.toml"), definitions).unwrap();
        let project = project::load(dir.path()).unwrap_or_else(|report| panic!("{report}"));
        let clock = Arc::new(Hand(AtomicI64::new(START)));
        let options = StartOptions { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..StartOptions::default() };
        Shop { dir, service: Service::start(project, options).await.unwrap(), clock }
    }

    async fn send(&self, source: &str, n: i64, row: String) {
        self.clock.0.store(minute(n).0, Ordering::Relaxed);
        let source = self.service.source(source).unwrap();
        let report = self.service.ingest(source, row.as_bytes(), None, Instant::now()).await.unwrap();
        assert_eq!(report.rejected, 0, "{:?}", report.rejections);
    }

    async fn ask(&self, at: Option<EventTime>, n: i64, seen: Option<Seen>) -> (u64, ServiceRow) {
        let service = self.service.feature_service("scoring").unwrap();
        let mut read = self.service.service_rows(service, &[keys(n)], at, seen).await.unwrap();
        (read.as_of_offset, read.rows.remove(0))
    }

    fn table(&self, spine: Spine, mode: Mode, features: Features) -> Vec<Vec<String>> {
        let out = self.dir.path().join("set.csv");
        let limits = Limits { state: 60_000, buffer: 30_000, part_records: 100, part_every: Duration::ZERO };
        let request = Request {
            out: out.clone(),
            format: TableFormat::parse("csv").unwrap(),
            spine,
            mode,
            features,
            keys: Vec::new(),
            include_self: None,
            threads: 2,
            overwrite: true,
            restart: false,
            limits,
        };
        write(&self.service.data, &self.service.project, &request, &mut |_| {}).unwrap();
        std::fs::read_to_string(out).unwrap().lines().map(|line| line.split(',').map(str::to_owned).collect()).collect()
    }
}

fn list(lines: &[&str]) -> Features {
    Features::List(lines.iter().map(|line| (*line).to_string()).collect())
}

/// One column of a table, as what was read live.
fn holds(table: &[Vec<String>], name: &str, live: &[(u64, ServiceRow)], feature: usize) {
    let at = table[0].iter().position(|c| c == name).unwrap_or_else(|| panic!("no column {name} in {:?}", table[0]));
    let mut values = 0;
    for (row, (_, answer)) in table[1..].iter().zip(live) {
        let same = match &answer.values[feature] {
            Value::Null => row[at].is_empty(),
            Value::Float(x) => row[at].parse::<f64>().unwrap().to_bits() == x.to_bits(),
            // Inputs of models are numbers.
            Value::Int(n) => row[at].parse() == Ok(*n as f64),
            other => row[at] == other.to_string(),
        };
        assert!(same, "{name}: {} is not {:?}", row[at], answer.values[feature]);
        values += usize::from(!row[at].is_empty());
    }
    assert!(table.len() == live.len() + 1 && values > live.len() / 2, "{name}: {values} values");
}

const NAMES: [&str; 7] =
    ["customer.n_1h", "customer.n_1d", "customer.sum_1d", "customer.last_kind", "merchant.mean_1d", "card.dearest_1d", "share"];

#[tokio::test(flavor = "multi_thread")]
async fn one_answer_over_customer_merchant_and_card_is_the_same_live_recorded_and_in_training_sets() {
    let shop = Shop::open(
        &DEFINITIONS
            .replace(r#"["customer.n_1h", "merchant.*", "card.*", "payments.amount"]"#, r#"["scoring.*", "payments.amount"]"#)
            .replace(r#""customer.*", "#, r#""customer.n_1h", "customer.n_1d", "customer.sum_1d", "#),
    )
    .await;
    let names: Vec<&str> = NAMES.into_iter().filter(|name| *name != "customer.last_kind").collect();
    let mut live = Vec::new();
    for n in 0..600 {
        // What the decision will see: as of its event's time, before the event.
        live.push(shop.ask(Some(minute(n)), n, None).await);
        shop.send("payments", n, payment(n)).await;
        shop.send("outcomes", n, format!(r#"{{"payment_id":"p{n}","at":"{}","fraud":{}}}"#, minute(n), n % 3 == 0)).await;
        if n == 300 {
            shop.service.train(0, None, None, "test".into(), Promotion::Always).await.unwrap();
        }
    }
    let spine = || Spine::Decisions { decision: "pay".into(), pick: Pick::default() };
    let replayed = shop.table(spine(), Mode::Replay, Features::Model("fraud".into()));
    let recorded = shop.table(spine(), Mode::AsLogged, Features::Default);
    let listed = shop.table(spine(), Mode::Replay, list(&["scoring.*"]));
    // From the training on, the inputs were recorded.
    let late: Vec<_> = live[302..].to_vec();
    let tail = |table: &[Vec<String>]| -> Vec<Vec<String>> { std::iter::once(&table[0]).chain(&table[303..]).cloned().collect() };
    for (feature, name) in names.iter().enumerate() {
        holds(&replayed, name, &live, feature);
        holds(&listed, name, &live, feature);
        holds(&tail(&recorded), name, &late, feature);
    }
    assert!(recorded[400].iter().any(|cell| cell == "pay-799"), "the champion was in service: {:?}", recorded[400]);
    shop.service.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spine_finds_the_keys_by_the_names_that_the_service_gives_them() {
    let shop = Shop::open(DEFINITIONS).await;
    let (mut live, mut now) = (Vec::new(), Vec::new());
    let mut spine = "customer,merchant_id,card_no,time\n".to_string();
    for n in 0..200 {
        live.push(shop.ask(Some(minute(n)), n, None).await);
        now.push(shop.ask(None, n, None).await);
        shop.send("payments", n, payment(n)).await;
        spine.push_str(&format!("{},s{},{},{}\n", n % 7, n % 3, n % 2, minute(n)));
    }
    let path = shop.dir.path().join("spine.csv");
    std::fs::write(&path, spine).unwrap();
    let table = shop.table(Spine::File { path, time: None }, Mode::Replay, list(&["scoring.*"]));
    for (feature, name) in NAMES.iter().enumerate() {
        holds(&table, name, &live, feature);
    }
    // As it was seen: before each payment, a place of the log.
    for n in [1, 57, 199] {
        let (offset, then) = &now[n as usize];
        let (place, seen) = shop.ask(None, n, Some(Seen::Before(*offset))).await;
        let same = seen.values.iter().zip(&then.values).all(|(a, b)| a.same_bits(b));
        assert!(place == *offset && seen.last_events == then.last_events && same, "{n}: {seen:?} {then:?}");
    }
    shop.service.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_nobody_has_an_empty_history_and_the_others_their_own() {
    let shop = Shop::open(DEFINITIONS).await;
    for n in 0..20 {
        shop.send("payments", n, payment(n)).await;
    }
    let service = shop.service.feature_service("scoring").unwrap();
    let asked = [vec![Value::Null, Value::text("s1"), Value::Int(1)], vec![Value::Int(999), Value::text("s1"), Value::Int(1)]];
    let read = shop.service.service_rows(service, &asked, None, None).await.unwrap();
    // A composite key with a null in it names nothing either.
    assert_eq!(read.rows[0].values, read.rows[1].values);
    assert_eq!(read.rows[0].last_events, [None, read.rows[1].last_events[1], None]);
    assert_eq!((&read.rows[0].values[0], &read.rows[0].values[3]), (&Value::Int(0), &Value::Null));
    assert!(matches!(read.rows[0].values[4], Value::Float(_)), "{:?}", read.rows[0]);
    assert!(read.rows[0].last_events[1].is_some() && read.rows[0].complete.iter().all(|c| *c));
    let error = shop.service.feature_service("scorin").unwrap_err();
    assert!(matches!(&error, ServiceError::NotFound { hint: Some(hint), .. } if hint.contains("scoring")), "{error}");
    shop.service.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_added_answers_after_the_change_and_fills_nothing() {
    let without = &DEFINITIONS[..DEFINITIONS.find("[service.scoring]").unwrap()];
    let rest = &DEFINITIONS[DEFINITIONS.find("[model.fraud]").unwrap()..];
    let shop = Shop::open(&format!("{without}{rest}")).await;
    for n in 0..20 {
        shop.send("payments", n, payment(n)).await;
    }
    assert!(shop.service.feature_service("scoring").is_err());
    std::fs::write(shop.dir.path().join("kilter.toml"), DEFINITIONS).unwrap();
    let new = project::load(shop.dir.path()).unwrap();
    let plan = kilter_runtime::changes::ChangePlan::of(&shop.service.project, &new);
    let changed = plan.objects.iter().filter(|o| format!("{:?}", o.change) != "Unchanged");
    let told: Vec<_> = changed.map(|o| (format!("{:?}", o.kind), o.name.clone(), format!("{:?}", o.change))).collect();
    assert_eq!(told, [("Service".to_string(), "scoring".to_string(), "Added".to_string())]);
    shop.service.apply().await.unwrap();
    let mut now = shop.service.current();
    for _ in 0..500 {
        if now.plan.hash == new.plan.hash {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        now = shop.service.current();
    }
    let service = now.feature_service("scoring").unwrap();
    let read = now.service_rows(service, &[keys(3)], None, None).await.unwrap();
    assert!(read.rows[0].values[0] != Value::Null && read.rows[0].last_events.iter().all(Option::is_some), "{read:?}");
    shop.service.shutdown().await.unwrap();
}
