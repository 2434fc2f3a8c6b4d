//! What there is beside events and decisions: features now and then, labels, and what the definitions declare.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kilter_core::{EntityKey, EventTime, Span};
use kilter_runtime::{Service, StartOptions, project};
use kilter_sql::{Cell, Column, Engine, Kind, Placed, Rights, Session, Wanted};

use crate::shop::{self, BEGIN, Shop};

const DEFINITIONS: &str = r#"
[project]
name = "bank"
clock = "event"
[source.payments]
time = "at"
id = "payment_id"
max_future = "none"
columns = { payment_id = "string", card = "int64", country = "string", at = "timestamp", amount = "float64" }
[source.outcomes]
time = "at"
max_future = "none"
columns = { payment_id = "string", at = "timestamp", fraud = "bool" }
[features.card]
source = "payments"
entity = "card"
columns = { count = "count(*) over 1d", sum = "sum(amount) over 1d", last = "last(country) over 1d" }
[features.place]
source = "payments"
entity = ["card", "country"]
columns = { ever = "count(*)" }
[model.fraud]
on = "payments"
learner = "gbdt"
inputs = ["card.count_1d", "payments.amount"]
label = { source = "outcomes", value = "fraud", on = "payment_id", within = "1h" }
[decision.pay]
model = "fraud"
policy = [{ when = "score >= 0.5", outcome = "block" }, { outcome = "accept" }]
fallback = "accept"
"#;

const PAYMENTS: i64 = 3000;
const CARDS: i64 = 30;

struct Bank {
    shop: Shop,
    /// Where the log was half way, and what the features of cards were there.
    half: (u64, String),
}

fn at(minutes: i64) -> EventTime {
    BEGIN + Span(minutes * 60_000_000)
}

async fn send(service: &Service, source: &str, rows: Vec<String>) {
    let source = service.source(source).unwrap();
    let report = service.ingest(source, rows.join("\n").as_bytes(), Some("application/x-ndjson"), Instant::now()).await.unwrap();
    assert_eq!(report.rejected, 0, "{:?}", report.rejections.first());
}

/// A payment a minute. Of a third what became of them is told in time, of others too late.
async fn open() -> Bank {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kilter.toml"), DEFINITIONS).unwrap();
    let project = project::load(dir.path()).unwrap_or_else(|report| panic!("{report}"));
    let service = Service::start(project, StartOptions::default()).await.unwrap();
    let engine = Arc::new(Engine::new(Arc::clone(&service), shop::limits()).unwrap().with(vec![handed()]));
    let shop = Shop { engine, service: Arc::clone(&service), _dir: dir };
    let mut half = (0, String::new());
    for first in (0..PAYMENTS).step_by(100) {
        if first == PAYMENTS / 2 {
            half = (service.data.events.next_offset(), shop.ask(&cards("features.card")).await.unwrap());
        }
        let payment = |n: i64| {
            let country = if n % 4 == 0 { "de" } else { "fr" };
            let card = n % CARDS;
            format!(r#"{{"payment_id":"p{n}","card":{card},"country":"{country}","at":"{}","amount":{}}}"#, at(n), n % 100)
        };
        let outcome = |n: i64| {
            let later = match n % 3 {
                0 => 30,
                1 if n < 2000 => 90,
                _ => return None,
            };
            Some(format!(r#"{{"payment_id":"p{n}","at":"{}","fraud":{}}}"#, at(n + later), n % 6 == 0))
        };
        send(&service, "payments", (first..first + 100).map(payment).collect()).await;
        send(&service, "outcomes", (first..first + 100).filter_map(outcome).collect()).await;
    }
    Bank { shop, half }
}

fn cards(table: &str) -> String {
    format!("select card, count_1d, sum_1d, last_1d, _as_of, _as_of_offset, _last_event from {table} order by card")
}

/// A table that the program hands over.
fn handed() -> Placed {
    let columns = vec![Column::new("n", Kind::Int, "A number", |n: &i64| Cell::Int(*n))];
    let rows = |wanted: &Wanted, row: &mut dyn FnMut(i64) -> ControlFlow<()>| {
        let numbers = wanted.bounds.numbers("n").unwrap_or_else(|| (0..1_000_000).collect());
        assert!(numbers.len() < 10, "the condition did not come through");
        let _ = numbers.into_iter().try_for_each(row);
        Ok(())
    };
    Placed::new("tracking", "numbers", "Numbers", columns, &["n"], Box::new(rows))
}

#[tokio::test(flavor = "multi_thread")]
async fn features_are_those_that_a_decision_would_see_now() {
    let Bank { shop, .. } = open().await;
    let service = &shop.service;
    shop.check("select count(*), count(distinct card) from features.card", &format!("{CARDS},{CARDS}")).await;
    let all = shop.ask(&cards("features.card")).await.unwrap();
    for (card, line) in all.lines().enumerate() {
        let read = service.features(0, EntityKey::Int(card as i64), None).await.unwrap();
        let values: Vec<String> = read.values.iter().map(ToString::to_string).collect();
        let seen: Vec<&str> = line.split(',').collect();
        assert_eq!(seen[0], card.to_string());
        assert_eq!(
            (seen[1], seen[2].trim_end_matches(".0"), seen[3]),
            (&*values[0], values[1].trim_end_matches(".0"), &*values[2]),
            "{line}"
        );
    }
    for (condition, plain) in [
        ("card = 3", "card + 0 = 3"),
        ("card in (3, 17, 999)", "card + 0 in (3, 17, 999)"),
        ("card in (1, 3, 5, 7, 9, -1)", "card + 0 in (1, 3, 5, 7, 9)"),
        ("card > 3 and card <= 9", "card + 0 between 4 and 9"),
        ("card = 999", "false"),
    ] {
        let ask = |condition: &str| format!("select * from features.card where {condition} order by card");
        let expected = shop.ask(&ask(plain)).await.unwrap();
        shop.check(&ask(condition), &expected).await;
    }
    let ever = |condition: &str| format!("select card, country, ever from features.place where {condition} order by 1, 2");
    shop.check(&ever("card = 2 and country in ('de', 'fr', 'it')"), "2,de,50\n2,fr,50").await;
    shop.check(&ever("card || country = '2de'"), "2,de,50").await;
    shop.check("select count(*) from (select * from features.place limit 7)", "7").await;
    shop.refused("select * from card", "42P01").await;
}

/// What was read then is read again, whatever came since.
#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_mean_the_same_end_no_question() {
    let Bank { shop, .. } = open().await;
    let question = "select count(*) from features.card";
    let session = Session::new("ada", "shop", Rights::Everything);
    let prepared = shop.engine.ask(question, &session).await.unwrap();
    for definitions in [format!("# Only a comment.\n{DEFINITIONS}"), DEFINITIONS.to_owned()] {
        let before = shop.service.current();
        std::fs::write(before.project.dir.join("kilter.toml"), definitions).unwrap();
        before.apply().await.unwrap();
        while Arc::ptr_eq(&before.plan, &shop.service.current().plan) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        shop.check(question, &CARDS.to_string()).await;
        let mut answer = shop.engine.run(&prepared, &session, Vec::new(), None).await.unwrap();
        assert_eq!(answer.next().await.unwrap().unwrap().num_rows(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn features_as_they_were_are_what_was_read_then() {
    let Bank { shop, half: (half, then) } = open().await;
    let service = &shop.service;
    assert_eq!(then.lines().count(), CARDS as usize);
    shop.check(&cards(&format!("features_at('card', {half})")), &then).await;
    let now = shop.ask(&cards("features.card")).await.unwrap();
    assert_ne!(now, then);
    shop.check(&cards(&format!("features_at('card', {})", service.data.events.next_offset())), &now).await;
    shop.check(&cards("features_at('card', now() + interval '1 minute')"), &now).await;
    let one = |table: &str| format!("select card, sum_1d from {table}");
    let expected = shop.ask(&one("features.card where card = 4")).await.unwrap();
    for table in ["features_at('card', '4', now())", "features_at('card', 4, now())", "features_at('card', now()) where card = 4"] {
        shop.check(&one(table), &expected).await;
    }
    shop.check("select count(*) from features_at('card', '4', now()) where card = 5", "0").await;
    shop.check("select count(*) from features_at('card', TIMESTAMP '2020-01-01 00:00:00')", "0").await;
    shop.refused("select * from features_at('cart', now())", "42704").await;
    shop.refused("select * from features_at('card', 'x', now())", "42000").await;
    shop.refused("select * from features_at('card', 'yesterday')", "42000").await;
    shop.refused("select * from features_at('card')", "42000").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_what_trainings_learn_from() {
    let Bank { shop, .. } = open().await;
    // The newest event tells of payment 2997, half an hour after it.
    for _ in 0..2 {
        shop.check("select count(*), count(value), sum(value), count(told) from labels", "3000,990,495.0,1000").await;
        shop.check("select count(*) from labels where mature", "2968").await;
        for (condition, plain) in [
            ("time >= '2023-11-15 00:00:00'", "cast(time as text) >= '2023-11-15T00:00:00'"),
            ("event_offset < 2000 and event_offset > 1500", "event_offset + 0 between 1501 and 1999"),
            ("event_offset = 3", "event_offset + 0 = 3"),
            ("decision_id in ('pay-17', 'pay-3', 'pay-100000')", "decision_id || '' in ('pay-17', 'pay-3')"),
            ("decision = 'other'", "false"),
        ] {
            let ask = |condition: &str| format!("select count(*), sum(told), sum(value), min(event_offset) from labels where {condition}");
            let expected = shop.ask(&ask(plain)).await.unwrap();
            shop.check(&ask(condition), &expected).await;
        }
    }
    shop.check("select count(*) from labels l join decisions d on d.decision_id = l.decision_id and d.time = l.time", "3000").await;
    shop.check(
        "select p.payment_id, l.value, l.told from labels l join payments p on p._offset = l.event_offset order by p.at desc limit 4",
        "p2999,,\np2998,,\np2997,,0.0\np2996,,",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_definitions_declare_and_how_it_stands_is_told() {
    let Bank { shop, .. } = open().await;
    let service = &shop.service;
    shop.check(
        "select decision, line, rule, outcome, model from policies order by line",
        "pay,1,score >= 0.5,block,fraud\npay,2,,accept,fraud",
    )
    .await;
    shop.check(
        "select view, feature, \"window\", entity from feature_definitions where view = 'place' or feature = 'sum_1d'",
        "card,sum_1d,1d,card\nplace,ever,lifetime,\"card, country\"",
    )
    .await;
    shop.check("select definitions, current from definitions", &format!("{},true", service.plan.hash)).await;
    shop.check("select count(*) from definitions where text like '%[decision.pay]%'", "1").await;
    shop.check("select source, events, waiting from source_status order by 1", "outcomes,1667,\npayments,3000,").await;
    shop.check("select last_time = (select max(_time) from payments) as same from source_status where source = 'payments'", "true").await;
    for table in ["monitor_readings", "monitor_subjects", "aliases", "alias_changes", "source_partitions", "sinks", "lake_files"] {
        shop.check(&format!("select count(*) from {table}"), "0").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_handed_over_stand_beside_the_others() {
    let Bank { shop, .. } = open().await;
    shop.check("select n from tracking.numbers where n in (3, 1) order by n", "1\n3").await;
    shop.check(
        "select table_name from information_schema.tables where table_schema in ('features', 'tracking') order by 1",
        "card\nnumbers\nplace",
    )
    .await;
    shop.check("select 'tracking.numbers'::regclass::text", "numbers").await;
    shop.refused("select * from numbers", "42P01").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_table_can_be_granted_in_part() {
    let Bank { shop, half: (half, _) } = open().await;
    for (grant, question, whole) in [
        (
            "labels (decision_id, value, mature) WHERE value > 0 AND time < '2023-11-16'",
            "select count(*), count(value), min(decision_id) from labels",
            "select count(*), count(value), min(decision_id) from labels where value > 0 and time < '2023-11-16'",
        ),
        (
            "labels WHERE decision = 'pay' AND NOT mature",
            "select count(*), max(event_offset) from labels where event_offset > 5",
            "select count(*), max(event_offset) from labels where not mature and event_offset > 5",
        ),
        (
            "features.place (card, ever) WHERE country = 'de' AND card IN (2, 6, 7)",
            "select card, ever from features.place order by 1",
            "select card, ever from features.place where country = 'de' and card in (2, 6, 7) order by 1",
        ),
        (
            "features.place (country, ever) WHERE card < 6",
            "select country, count(*), sum(ever) from features_at('place', {half}) group by 1 order by 1",
            "select country, count(*), sum(ever) from features_at('place', {half}) where card < 6 group by 1 order by 1",
        ),
        (
            "decision_features (feature, value) WHERE event_offset < 500",
            "select feature, count(*), max(value) from decision_features group by 1 order by 1",
            "select feature, count(*), max(value) from decision_features where event_offset < 500 group by 1 order by 1",
        ),
        // The range of the grant goes down to the table, which insists on it.
        ("tracking.numbers WHERE n IN (3, 5, 1000)", "select sum(n) from tracking.numbers", "select 1008"),
        ("tracking.numbers WHERE n IN (3, 5, 1000)", "select sum(n) from tracking.numbers where n in (5, 7)", "select 5"),
        (
            "feature_definitions (feature) WHERE view = 'card'",
            "select count(*) from feature_definitions",
            "select count(*) from feature_definitions where view = 'card'",
        ),
    ] {
        let (question, whole) = (question.replace("{half}", &half.to_string()), whole.replace("{half}", &half.to_string()));
        let expected = shop.ask(&whole).await.unwrap_or_else(|e| panic!("{whole}: {e}"));
        assert!(!expected.starts_with("0,") && !expected.is_empty(), "{whole}: {expected}");
        let rights = Rights::Granted([grant.to_owned()].into());
        let answer = shop.ask_with(&rights, &question).await.unwrap_or_else(|e| panic!("{grant}: {question}: {e}"));
        assert_eq!(answer, expected, "{grant}: {question}");
        assert_eq!(shop.ask_with(&rights, "select * from decisions").await.map_err(|e| e.code), Err("42P01"));
    }
}
