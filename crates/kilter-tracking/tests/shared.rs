//! Two servers on one database of PostgreSQL. Where none is at hand (`crosscheck/with_postgres` starts one) nothing is tested, and that is said.

use crate::common;
use std::collections::BTreeSet;
use std::io::Write;

use kilter_tracking::{
    Batch, ErrorCode, Metric, NewExperiment, NewModelVersion, NewRun, NewWebhook, Pair, Query, Secret, Stage, Tracking, WebhookEvent,
};

/// Two that have the same database open; none: there is no PostgreSQL.
async fn two() -> Option<(tempfile::TempDir, Tracking, Tracking)> {
    if std::env::var_os(common::SERVER).is_none() {
        let _ = std::io::stdout().write_all(b"skipped: KILTER_TEST_POSTGRES names no server\n");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (common::open(dir.path()).await.unwrap(), common::open(dir.path()).await.unwrap());
    Some((dir, one, other))
}

fn pair(key: &str, value: &str) -> Pair {
    Pair { key: key.into(), value: value.into() }
}

fn point(key: &str, step: i64) -> Batch {
    Batch { metrics: vec![Metric { key: key.into(), value: step as f64, timestamp: step, step, ..Metric::default() }], ..Batch::default() }
}

async fn run_of(tracking: &Tracking, experiment: i64) -> String {
    tracking.create_run(NewRun { experiment, ..NewRun::default() }).await.unwrap().info.id
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_does_holds_for_the_other_at_once() {
    let Some((_dir, one, other)) = two().await else { return };
    let new = || NewExperiment { name: "e".into(), ..NewExperiment::default() };
    let experiment = one.create_experiment(new()).await.unwrap();
    assert_eq!(other.create_experiment(new()).await.unwrap_err().code, ErrorCode::ResourceAlreadyExists);
    let id = run_of(&one, experiment).await;
    // Both know the run and the name now.
    one.log(id.clone(), point("m", 1)).await.unwrap();
    other.log(id.clone(), point("m", 2)).await.unwrap();
    one.set_run_stage(id.clone(), Stage::Deleted).await.unwrap();
    let refused = other.log(id.clone(), point("m", 3)).await.unwrap_err();
    assert!(refused.message.contains("must be in the 'active' state"), "{refused}");
    other.set_run_stage(id.clone(), Stage::Active).await.unwrap();
    one.log(id.clone(), point("m", 3)).await.unwrap();
    other.set_experiment_stage(experiment, Stage::Deleted).await.unwrap();
    assert!(one.create_run(NewRun { experiment, ..NewRun::default() }).await.is_err());
    assert!(one.log(id.clone(), point("m", 4)).await.is_err());
    assert_eq!(one.run(&id).await.unwrap().metrics[0].step, 3);
    // A param has one value, whoever set it.
    other.set_experiment_stage(experiment, Stage::Active).await.unwrap();
    let param = |value: &str| Batch { params: vec![pair("p", value)], ..Batch::default() };
    one.log(id.clone(), param("1")).await.unwrap();
    assert!(other.log(id.clone(), param("2")).await.unwrap_err().message.contains("Changing param values"));
    other.log(id, param("1")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_done_twice_where_both_write_at_once() {
    let Some((_dir, one, other)) = two().await else { return };
    one.create_registered_model("m", "", Vec::new()).await.unwrap();
    let id = run_of(&other, 0).await;
    const EACH: i64 = 200;
    let writes = |tracking: Tracking, id: String, from: i64| async move {
        let mut versions = Vec::new();
        for at in 0..EACH {
            // Every one a name that nobody has used, which both may give a number at once.
            let name = format!("n{at}");
            let (logged, version) = tokio::join!(
                tracking.log(id.clone(), point(&name, from + at)),
                tracking.create_model_version(NewModelVersion {
                    name: "m".into(),
                    source: "s3://b/x".into(),
                    ..NewModelVersion::default()
                })
            );
            logged.unwrap();
            versions.push(version.unwrap().version);
        }
        versions
    };
    let (first, second) =
        tokio::join!(tokio::spawn(writes(one.clone(), id.clone(), 0)), tokio::spawn(writes(other.clone(), id.clone(), EACH)));
    let versions: Vec<i64> = first.unwrap().into_iter().chain(second.unwrap()).collect();
    assert_eq!(versions.iter().copied().collect::<BTreeSet<_>>(), (1..=2 * EACH).collect(), "each number once");
    for tracking in [&one, &other] {
        let run = tracking.run(&id).await.unwrap();
        assert_eq!(run.metrics.len(), EACH as usize);
        // Of the two points of each name the later one is the latest, whoever came first.
        assert!(run.metrics.iter().all(|m| m.step >= EACH), "{:?}", run.metrics);
        assert_eq!(tracking.metric_history(&id, "n7", None, None).await.unwrap().items.len(), 2);
    }
    let found = one.search_runs(&[0], &Query { filter: "metrics.n7 > 100".into(), max_results: 5, ..Query::default() }).await.unwrap();
    assert_eq!(found.items.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_was_away_is_used_again() {
    let Some((dir, one, other)) = two().await else { return };
    let id = run_of(&one, 0).await;
    one.run(&id).await.unwrap();
    let (server, name) = (std::env::var(common::SERVER).unwrap(), common::name(dir.path()));
    let cut = move || {
        let mut client = postgres::Client::connect(&format!("{server}/postgres"), postgres::NoTls).unwrap();
        let sql = "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1";
        client.query_one(sql, &[&name]).unwrap().get::<_, i64>(0)
    };
    assert!(tokio::task::spawn_blocking(cut).await.unwrap() >= 3, "two that write, and one that reads");
    // What was under way or comes over a dead connection is told to come again, and is done then.
    let mut refusals = 0;
    for tracking in [&one, &other] {
        // Nothing was under way: it is done over a new connection.
        tracking.log(id.clone(), point("m", 1)).await.unwrap();
        for _ in 0..100 {
            match tracking.run(&id).await {
                Ok(run) => {
                    assert_eq!(run.metrics.len(), 1);
                    break;
                }
                Err(e) => assert_eq!(e.code, ErrorCode::TemporarilyUnavailable, "{e}"),
            }
            refusals += 1;
        }
    }
    assert!(refusals < 10, "{refusals} refusals: connections are not made anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_of_any_characters_and_any_length_are_kept_and_found() {
    let Some((_dir, one, other)) = two().await else { return };
    let id = run_of(&one, 0).await;
    for (at, value) in ["a\0b", "\u{e000}", "100% _ \\ ' \" ?1 $1", &"ä".repeat(6000)].into_iter().enumerate() {
        one.log(id.clone(), Batch { params: vec![pair(&format!("p{at}"), value)], ..Batch::default() }).await.unwrap();
        assert_eq!(other.run(&id).await.unwrap().params[at].value, value);
    }
    one.log(id.clone(), Batch { tags: vec![pair("school", "École É 1"), pair("none", "I")], ..Batch::default() }).await.unwrap();
    let found = |filter: &str| Query { filter: filter.into(), max_results: 5, ..Query::default() };
    for filter in ["params.p2 LIKE '100\\% _ \\\\ %'", "params.p2 LIKE '100% \\ %'", "params.p2 ILIKE '%\" ?1 $1'"] {
        let there = other.search_runs(&[0], &found(filter)).await;
        let alike = one.search_runs(&[0], &found(filter)).await;
        assert_eq!(there.map(|p| p.items.len()), alike.map(|p| p.items.len()), "{filter}");
    }
    // Letters of ASCII are folded, others are not.
    for (filter, count) in
        [("tags.school ILIKE 'École É %'", 1), ("tags.school ILIKE 'ÉCOLE É _'", 1), ("tags.school ILIKE 'école é 1'", 0)]
    {
        assert_eq!(other.search_runs(&[0], &found(filter)).await.unwrap().items.len(), count, "{filter}");
    }
    assert_eq!(other.search_runs(&[0], &found("tags.none ILIKE 'i'")).await.unwrap().items.len(), 1);
    assert_eq!(other.search_runs(&[0], &found("params.p2 LIKE '100% \\ %'")).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn a_database_that_cannot_be_had_is_told_with_its_address_and_without_its_password() {
    let dir = tempfile::tempdir().unwrap();
    // Port 1 is nobody's.
    let error = Tracking::open_at(dir.path(), Some("postgresql://u:secret@127.0.0.1:1/d?sslmode=disable"), None).await.unwrap_err();
    assert!(error.message.contains("127.0.0.1") && error.message.contains("hint: "), "{error}");
    assert!(!error.message.contains("secret"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_is_attempted_by_one_server() {
    let Some((_dir, one, other)) = two().await else { return };
    let events = vec![WebhookEvent::of("registered_model", "created").unwrap()];
    let new = NewWebhook {
        name: "hook".into(),
        description: String::new(),
        url: "https://example.com/hook".into(),
        events,
        secret: Secret::new("hidden"),
        is_active: true,
    };
    one.create_webhook(new).await.unwrap();
    other.create_registered_model("m", "", Vec::new()).await.unwrap();
    let waiting = one.waiting_deliveries().await.unwrap();
    assert_eq!(waiting.len(), 1);
    let number = waiting[0].delivery;
    let (first, second) = tokio::join!(one.take_delivery(number), other.take_delivery(number));
    let taken = [first.unwrap(), second.unwrap()];
    assert_eq!(taken.iter().flatten().count(), 1, "{taken:?}");
    // It is put off by whoever has it, and is anybody's again.
    one.put_off_delivery(number, -1).await.unwrap();
    assert_eq!(other.take_delivery(number).await.unwrap().map(|d| d.attempts), Some(1));
    assert!(one.take_delivery(number).await.unwrap().is_none());
}
