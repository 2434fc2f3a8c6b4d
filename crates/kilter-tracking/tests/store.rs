//! The store through its public face: what was logged is found again, by any filter and in any order, as a plain look at everything would find it.

use crate::common;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use kilter_tracking::{
    Batch, Dataset, DatasetInput, ErrorCode, KeptVersion, Metric, ModelOrder, NewExperiment, NewLoggedModel, NewModelVersion, NewRun, Pair,
    Query, Run, RunChange, RunModel, Stage, Status, Tracking, View,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

fn pair(key: &str, value: &str) -> Pair {
    Pair { key: key.into(), value: value.into() }
}

fn metric(key: &str, value: f64, timestamp: i64, step: i64) -> Metric {
    Metric { key: key.into(), value, timestamp, step, ..Metric::default() }
}

fn metrics(metrics: Vec<Metric>) -> Batch {
    Batch { metrics, ..Batch::default() }
}

async fn open() -> (tempfile::TempDir, Tracking) {
    let dir = tempfile::tempdir().unwrap();
    let tracking = common::open(dir.path()).await.unwrap();
    (dir, tracking)
}

async fn run_in(tracking: &Tracking, experiment: i64) -> String {
    tracking.create_run(NewRun { experiment, ..NewRun::default() }).await.unwrap().info.id
}

#[tokio::test]
async fn what_was_logged_is_there_after_opening_again_and_one_process_has_the_folder() {
    let (dir, tracking) = open().await;
    let id = run_in(&tracking, 0).await;
    let batch = Batch {
        metrics: vec![metric("a", f64::NAN, 1, 1), metric("a", 0.1 + 0.2, 2, 0), metric("b", f64::NEG_INFINITY, 1, 1)],
        params: vec![pair("p", "")],
        tags: vec![pair("t", "ä")],
    };
    tracking.log(id.clone(), batch).await.unwrap();
    let input = DatasetInput {
        tags: vec![pair("mlflow.data.context", "train")],
        dataset: Dataset { name: "d".into(), digest: "1".into(), source_type: "s".into(), source: "{}".into(), ..Dataset::default() },
    };
    tracking.log_inputs(id.clone(), vec![input.clone(), input.clone()]).await.unwrap();
    if std::env::var_os(common::SERVER).is_none() {
        assert!(common::open(dir.path()).await.unwrap_err().message.contains("another process"));
    }
    tracking.close().await;
    let late = tracking.log(id.clone(), metrics(vec![metric("a", 1., 1, 1)])).await.unwrap_err();
    assert_eq!(late.code, ErrorCode::TemporarilyUnavailable);
    let tracking = common::open(dir.path()).await.unwrap();
    let run = tracking.run(&id).await.unwrap();
    assert!(run.metrics[0].value.is_nan() && run.metrics[0].step == 1, "{:?}", run.metrics);
    assert_eq!(run.metrics[1].value, f64::MIN);
    assert_eq!(run.params, [pair("p", "")]);
    assert!(run.tags.contains(&pair("t", "ä")));
    assert_eq!(run.datasets, [input]);
    let history = tracking.metric_history(&id, "a", None, None).await.unwrap().items;
    assert_eq!(history[1].value.to_bits(), (0.1_f64 + 0.2).to_bits());
}

#[tokio::test]
async fn a_refused_batch_leaves_nothing_and_those_beside_it_everything() {
    let (_dir, tracking) = open().await;
    let id = run_in(&tracking, 0).await;
    tracking.log(id.clone(), Batch { params: vec![pair("p", "1")], ..Batch::default() }).await.unwrap();
    let changed = Batch { params: vec![pair("new", "x"), pair("p", "2")], ..metrics(vec![metric("m", 1., 1, 1)]) };
    let beside = |at| tracking.log(id.clone(), metrics(vec![metric("beside", 1., at, 0)]));
    let refused = tracking.log(id.clone(), changed);
    let (one, refused, two) = tokio::join!(beside(1), refused, beside(2));
    assert!(one.is_ok() && two.is_ok());
    assert!(refused.unwrap_err().message.contains("already logged with value='1'"));
    let run = tracking.run(&id).await.unwrap();
    assert_eq!((run.params, run.metrics.len()), (vec![pair("p", "1")], 1));
    assert_eq!(tracking.metric_history(&id, "beside", None, None).await.unwrap().items.len(), 2);
    assert!(tracking.metric_history(&id, "m", None, None).await.unwrap().items.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_lose_nothing() {
    let (_dir, tracking) = open().await;
    let id = run_in(&tracking, 0).await;
    let write = |task: i64| {
        let (tracking, id) = (tracking.clone(), id.clone());
        tokio::spawn(async move {
            for at in 0..25 {
                tracking.log(id.clone(), metrics(vec![metric("m", task as f64, at, task)])).await.unwrap();
            }
        })
    };
    for task in (0..16).map(write).collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(tracking.metric_history(&id, "m", None, None).await.unwrap().items.len(), 16 * 25);
    let latest = &tracking.run(&id).await.unwrap().metrics[0];
    assert_eq!((latest.step, latest.timestamp), (15, 24));
}

#[tokio::test]
async fn deleted_experiments_keep_their_name_and_their_runs_refuse_writes_until_restored() {
    let (_dir, tracking) = open().await;
    let new = NewExperiment { name: "e".into(), artifact_location: Some("s3://b/p".into()), tags: vec![pair("k", "v")] };
    let id = tracking.create_experiment(new.clone()).await.unwrap();
    let run = run_in(&tracking, id).await;
    assert_eq!(tracking.run(&run).await.unwrap().info.artifact_uri, format!("s3://b/p/{run}/artifacts"));
    tracking.set_experiment_stage(id, Stage::Deleted).await.unwrap();
    assert_eq!(tracking.create_experiment(new).await.unwrap_err().code, ErrorCode::ResourceAlreadyExists);
    assert_eq!(tracking.rename_experiment(id, "f".into()).await.unwrap_err().code, ErrorCode::InvalidState);
    let log = || tracking.log(run.clone(), metrics(vec![metric("m", 1., 1, 1)]));
    assert_eq!(log().await.unwrap_err().code, ErrorCode::InvalidParameterValue);
    assert!(tracking.create_run(NewRun { experiment: id, ..NewRun::default() }).await.is_err());
    tracking.set_experiment_stage(id, Stage::Active).await.unwrap();
    log().await.unwrap();
    tracking.set_run_stage(run.clone(), Stage::Deleted).await.unwrap();
    tracking.set_run_stage(run.clone(), Stage::Deleted).await.unwrap();
    assert!(log().await.is_err() && tracking.update_run(&run, RunChange::default()).await.is_err());
    tracking.set_run_stage(run.clone(), Stage::Active).await.unwrap();
    log().await.unwrap();
}

#[tokio::test]
async fn the_name_of_a_run_and_its_tag_are_one() {
    let (_dir, tracking) = open().await;
    let tag = |run: &Run| run.tags.iter().find(|t| t.key == "mlflow.runName").map(|t| t.value.clone()).unwrap();
    let tagged = NewRun { tags: vec![pair("mlflow.runName", "a")], ..NewRun::default() };
    let run = tracking.create_run(tagged.clone()).await.unwrap();
    assert_eq!((run.info.name.as_str(), tag(&run).as_str()), ("a", "a"));
    assert!(tracking.create_run(NewRun { name: Some("b".into()), ..tagged }).await.is_err());
    let change = RunChange { name: Some("c".into()), status: Some(Status::Finished), end_time: Some(5) };
    let info = tracking.update_run(&run.info.id, change).await.unwrap();
    assert_eq!((info.name.as_str(), info.status, info.end_time), ("c", Status::Finished, Some(5)));
    assert_eq!(tag(&tracking.run(&run.info.id).await.unwrap()), "c");
    let made_up = tracking.create_run(NewRun::default()).await.unwrap();
    assert_eq!(made_up.info.name.split('-').count(), 3);
    assert_eq!(tag(&made_up), made_up.info.name);
}

#[tokio::test]
async fn a_large_batch_is_stored_whole() {
    let (_dir, tracking) = open().await;
    let id = run_in(&tracking, 0).await;
    let points = |n: i64| metrics((0..n).map(|at| metric(if at % 3 == 0 { "a" } else { "b" }, at as f64, at, -at)).collect());
    tracking.log(id.clone(), points(987)).await.unwrap();
    tracking.log(id.clone(), points(1000)).await.unwrap();
    assert!(tracking.log(id.clone(), points(1001)).await.unwrap_err().message.contains("at most 1000 metrics"));
    let (mut seen, mut token) = (Vec::new(), None);
    loop {
        let page = tracking.metric_history(&id, "a", Some(50), token.as_deref()).await.unwrap();
        seen.extend(page.items.iter().map(|m| m.timestamp));
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..1000).step_by(3).collect::<Vec<i64>>());
    assert_eq!(tracking.run(&id).await.unwrap().metrics.iter().map(|m| m.step).collect::<Vec<_>>(), [0, -1]);
}

/// Numbers in a fixed disorder.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n
    }

    fn of<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())].clone()
    }
}

const KEYS: [&str; 3] = ["a", "b b", "c.d"];
const TEXTS: [&str; 7] = ["", "x", "X", "xy", "%", "it's", "a_b"];
const NUMBERS: [f64; 5] = [0., -1.5, 2., 1e300, f64::NAN];

async fn some_runs(dice: &mut Dice) -> (tempfile::TempDir, Tracking, Vec<Run>) {
    let (dir, tracking) = open().await;
    let mut runs = Vec::new();
    for _ in 0..80 {
        let new = NewRun {
            user: dice.of(&TEXTS).into(),
            start_time: Some(dice.below(20) as i64),
            name: Some(dice.of(&["n", "N", "m"]).into()),
            ..NewRun::default()
        };
        let id = tracking.create_run(new).await.unwrap().info.id;
        let mut batch = Batch::default();
        for key in KEYS {
            for _ in 0..dice.below(4) {
                batch.metrics.push(metric(key, dice.of(&NUMBERS), dice.below(3) as i64, dice.below(3) as i64));
            }
            if dice.below(2) == 0 {
                batch.params.push(pair(key, dice.of(&TEXTS)));
            }
            if dice.below(2) == 0 {
                batch.tags.push(pair(key, dice.of(&TEXTS)));
            }
        }
        // In two parts, so that later points meet earlier ones.
        let rest = batch.metrics.split_off(batch.metrics.len() / 2);
        let all: Vec<Metric> = batch.metrics.iter().chain(&rest).cloned().collect();
        tracking.log(id.clone(), batch).await.unwrap();
        tracking.log(id.clone(), metrics(rest)).await.unwrap();
        if dice.below(3) == 0 {
            tracking.update_run(&id, RunChange { end_time: Some(dice.below(9) as i64), ..RunChange::default() }).await.unwrap();
        }
        let run = tracking.run(&id).await.unwrap();
        assert_eq!(shown(&run.metrics), shown(&latest(&all)));
        runs.push(run);
    }
    (dir, tracking, runs)
}

/// Of each metric the point with the greatest (step, timestamp, value), what is not a number counting as a little more than nought.
fn latest(points: &[Metric]) -> Vec<Metric> {
    let rank = |m: &Metric| (m.step, m.timestamp, if m.value.is_nan() { 0. } else { m.value }, m.value.is_nan());
    let mut latest: BTreeMap<&str, &Metric> = BTreeMap::new();
    for point in points {
        let known = latest.entry(&point.key).or_insert(point);
        if rank(point).partial_cmp(&rank(known)) == Some(Ordering::Greater) {
            *known = point;
        }
    }
    latest.into_values().cloned().collect()
}

fn shown(metrics: &[Metric]) -> String {
    format!("{metrics:?}")
}

type Test = Box<dyn Fn(&Run) -> bool>;

/// A comparison as text and as a plain look at a run.
fn comparison(dice: &mut Dice) -> (String, Test) {
    let key = dice.of(&KEYS);
    let text = dice.of(&TEXTS);
    let quoted = format!("'{}'", text.replace('\'', "''"));
    let find = move |pairs: &[Pair]| pairs.iter().find(|p| p.key == key).map(|p| p.value.clone());
    let of = if dice.below(2) == 0 { "params" } else { "tags" };
    let belongings = move |run: &Run| find(if of == "params" { &run.params } else { &run.tags });
    match dice.below(4) {
        0 => {
            let (number, op) = (dice.of(&NUMBERS[..4]), dice.of(&["=", "!=", "<", "<=", ">", ">="]));
            let test = move |run: &Run| {
                let value = run.metrics.iter().find(|m| m.key == key).map(|m| m.value);
                value.is_some_and(|v| match op {
                    "=" => v == number,
                    "!=" => v != number,
                    "<" => v < number,
                    "<=" => v <= number,
                    ">" => v > number,
                    _ => v >= number,
                })
            };
            (format!("metrics.`{key}` {op} {number:?}"), Box::new(test))
        }
        1 => {
            let op = dice.of(&["=", "!=", "LIKE", "ILIKE"]);
            let test = move |run: &Run| belongings(run).is_some_and(|v| compare(&v, op, text));
            (format!("{of}.\"{key}\" {op} {quoted}"), Box::new(test))
        }
        2 if dice.below(2) == 0 => (format!("{of}.`{key}` IS NULL"), Box::new(move |run| belongings(run).is_none())),
        2 => (format!("{of}.`{key}` is not null"), Box::new(move |run| belongings(run).is_some())),
        _ if dice.below(2) == 0 => {
            let op = dice.of(&["=", "!=", "LIKE", "ILIKE"]);
            (format!("attributes.user_id {op} {quoted}"), Box::new(move |run| compare(&run.info.user, op, text)))
        }
        _ => {
            let at = dice.below(9) as i64;
            (format!("end_time >= {at}"), Box::new(move |run| run.info.end_time.is_some_and(|end| end >= at)))
        }
    }
}

fn compare(value: &str, op: &str, pattern: &str) -> bool {
    match op {
        "=" => value == pattern,
        "!=" => value != pattern,
        "LIKE" => like(value.as_bytes(), pattern.as_bytes()),
        _ => like(value.to_ascii_lowercase().as_bytes(), pattern.to_ascii_lowercase().as_bytes()),
    }
}

fn like(value: &[u8], pattern: &[u8]) -> bool {
    match (pattern.split_first(), value.split_first()) {
        (None, rest) => rest.is_none(),
        (Some((b'%', rest)), _) => (0..=value.len()).any(|at| like(&value[at..], rest)),
        (Some((b'_', rest)), Some((_, value))) => like(value, rest),
        (Some((p, rest)), Some((v, value))) => p == v && like(value, rest),
        (Some(_), None) => false,
    }
}

#[tokio::test]
async fn searches_find_what_a_plain_look_finds() {
    let mut dice = Dice(7);
    let (_dir, tracking, runs) = some_runs(&mut dice).await;
    let mut found = 0;
    for _ in 0..400 {
        let parts: Vec<(String, Test)> = (0..dice.below(4)).map(|_| comparison(&mut dice)).collect();
        let filter = parts.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>().join(" AND ");
        let mut want: Vec<&Run> = runs.iter().filter(|run| parts.iter().all(|(_, test)| test(run))).collect();
        want.sort_by(|a, b| b.info.start_time.cmp(&a.info.start_time).then_with(|| a.info.id.cmp(&b.info.id)));
        let page = tracking.search_runs(&[0], &Query { filter: filter.clone(), max_results: 1000, ..Query::default() }).await.unwrap();
        let ids = |runs: Vec<&Run>| runs.iter().map(|r| r.info.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(page.items.iter().collect()), ids(want), "{filter}");
        found += page.items.len();
    }
    assert!(found > 2000, "the filters are too narrow to say anything: {found}");
}

#[tokio::test]
async fn orders_put_what_is_missing_last_and_pages_cut_them_anywhere() {
    let mut dice = Dice(11);
    let (_dir, tracking, runs) = some_runs(&mut dice).await;
    for (descending, word) in [(false, "ASC"), (true, "DESC")] {
        for key in KEYS {
            for of in ["metrics", "params"] {
                let rank = |run: &Run| match of {
                    "metrics" => match run.metrics.iter().find(|m| m.key == key).map(|m| m.value) {
                        None => (2, 0., String::new()),
                        Some(v) if v.is_nan() => (1, 0., String::new()),
                        Some(v) => (0, v, String::new()),
                    },
                    _ => run.params.iter().find(|p| p.key == key).map_or((2, 0., String::new()), |p| (0, 0., p.value.clone())),
                };
                let mut want: Vec<&Run> = runs.iter().collect();
                want.sort_by(|a, b| {
                    let ((group_a, x, s), (group_b, y, t)) = (rank(a), rank(b));
                    let by_value = x.partial_cmp(&y).unwrap().then(s.cmp(&t));
                    group_a
                        .cmp(&group_b)
                        .then(if descending { by_value.reverse() } else { by_value })
                        .then(b.info.start_time.cmp(&a.info.start_time))
                        .then(a.info.id.cmp(&b.info.id))
                });
                let mut query = Query { order_by: vec![format!("{of}.`{key}` {word}")], max_results: 13, ..Query::default() };
                let mut got = Vec::new();
                loop {
                    let page = tracking.search_runs(&[0], &query).await.unwrap();
                    got.extend(page.items.iter().map(|r| r.info.id.clone()));
                    query.page_token = page.next;
                    if query.page_token.is_none() {
                        break;
                    }
                }
                assert_eq!(got, want.iter().map(|r| r.info.id.clone()).collect::<Vec<_>>(), "{:?}", query.order_by);
            }
        }
    }
    let first = tracking.search_runs(&[0], &Query { max_results: 1, ..Query::default() }).await.unwrap();
    let other = Query { max_results: 1, view: View::All, page_token: first.next, ..Query::default() };
    assert!(tracking.search_runs(&[0], &other).await.unwrap_err().message.contains("another query"));
}

#[tokio::test]
async fn experiments_are_searched_by_name_tag_and_number() {
    let (_dir, tracking) = open().await;
    for (at, name) in ["g-1", "G-2", "h"].into_iter().enumerate() {
        let tags = if at == 0 { vec![pair("k", "v")] } else { Vec::new() };
        tracking.create_experiment(NewExperiment { name: name.into(), tags, ..NewExperiment::default() }).await.unwrap();
    }
    tracking.set_experiment_stage(3, Stage::Deleted).await.unwrap();
    let names = async |filter: &str, order: &[&str], view| {
        let order_by = order.iter().map(|o| o.to_string()).collect();
        let query = Query { filter: filter.into(), order_by, view, max_results: 10, ..Query::default() };
        tracking.search_experiments(&query).await.unwrap().items.into_iter().map(|e| e.name).collect::<Vec<_>>()
    };
    assert_eq!(names("name LIKE 'g%'", &[], View::Active).await, ["g-1"]);
    assert_eq!(names("name ILIKE 'g%'", &["name DESC"], View::Active).await, ["g-1", "G-2"]);
    assert_eq!(names("tags.k = 'v'", &[], View::All).await, ["g-1"]);
    assert_eq!(names("tags.k IS NULL", &["experiment_id DESC"], View::Active).await, ["G-2", "Default"]);
    assert_eq!(names("", &[], View::Deleted).await, ["h"]);
    assert_eq!(names("experiment_id IN ('0', '2') AND creation_time > 5", &["experiment_id"], View::All).await, ["Default", "G-2"]);
}

const CHILD: &str = "KILTER_TRACKING_TEST_FOLDER";

/// Not a test of its own: what the next one kills.
#[tokio::test]
async fn writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let tracking = common::open(std::path::Path::new(&dir)).await.unwrap();
    let id = run_in(&tracking, 0).await;
    for at in 0.. {
        tracking.log(id.clone(), metrics(vec![metric("m", at as f64, at, at)])).await.unwrap();
        writeln!(std::io::stdout(), "acknowledged {id} {at}").unwrap();
    }
}

#[test]
fn what_was_acknowledged_outlives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::writes_until_it_is_killed", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut acknowledged = lines.filter_map(|line| {
            let (_, rest) = line.split_once("acknowledged ")?;
            let (id, at) = rest.split_once(' ')?;
            Some((id.to_string(), at.parse::<usize>().ok()?))
        });
        let (id, at) = acknowledged.nth(20 + 17 * round).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let tracking = common::open(dir.path()).await.unwrap();
            let history = tracking.metric_history(&id, "m", None, None).await.unwrap().items;
            assert!(history.len() > at, "{} points, {at} acknowledged", history.len());
            assert_eq!(tracking.run(&id).await.unwrap().metrics[0].step, history.len() as i64 - 1);
            tracking.close().await;
        });
    }
}

async fn version_of(tracking: &Tracking, source: &str, run_id: &str) -> kilter_tracking::Result<kilter_tracking::ModelVersion> {
    let new = NewModelVersion { name: "m".into(), source: source.into(), run_id: run_id.into(), ..NewModelVersion::default() };
    tracking.create_model_version(new).await
}

#[tokio::test]
async fn versions_count_up_aliases_move_and_what_is_deleted_is_gone() {
    let (_dir, tracking) = open().await;
    tracking.create_registered_model("m", "d", vec![pair("k", "v")]).await.unwrap();
    assert_eq!(tracking.create_registered_model("m", "", Vec::new()).await.unwrap_err().code, ErrorCode::ResourceAlreadyExists);
    for at in 1..=3 {
        assert_eq!(version_of(&tracking, "s3://b/x", "").await.unwrap().version, at);
    }
    let alias = |version| tracking.set_alias("m".into(), "best".into(), version);
    alias(1).await.unwrap();
    alias(3).await.unwrap();
    assert_eq!(tracking.version_by_alias("m", "best").await.unwrap().version, 3);
    assert_eq!(alias(9).await.unwrap_err().code, ErrorCode::ResourceDoesNotExist);
    for bad in ["latest", "LATEST", "v1", "V22", "a b", ""] {
        assert!(tracking.set_alias("m".into(), bad.into(), 1).await.is_err(), "{bad}");
    }
    tracking.set_version_stage("m", 1, "production", false).await.unwrap();
    tracking.set_version_stage("m", 2, "Production", true).await.unwrap();
    let stages: Vec<(i64, String)> =
        tracking.registered_model("m").await.unwrap().latest.into_iter().map(|v| (v.version, v.stage)).collect();
    assert_eq!(stages, [(1, "Archived".into()), (2, "Production".into()), (3, "None".into())]);
    assert!(tracking.set_version_stage("m", 2, "Archived", true).await.is_err());
    tracking.delete_model_version("m".into(), 3).await.unwrap();
    assert_eq!(tracking.version_by_alias("m", "best").await.unwrap_err().code, ErrorCode::InvalidParameterValue);
    // Its number is not given to another one.
    assert_eq!(version_of(&tracking, "s3://b/x", "").await.unwrap().version, 4);
    let query =
        Query { filter: "version_number >= 2".into(), order_by: vec!["version_number DESC".into()], max_results: 9, ..Query::default() };
    let found = tracking.search_model_versions(&query).await.unwrap().items;
    assert_eq!(found.iter().map(|v| v.version).collect::<Vec<_>>(), [4, 2]);
    tracking.update_registered_model("m", Some("n".into()), None).await.unwrap();
    assert_eq!(tracking.model_version("n", 2).await.unwrap().stage, "Production");
    tracking.delete_registered_model("n".into()).await.unwrap();
    assert!(tracking.model_version("n", 2).await.is_err());
}

#[tokio::test]
async fn a_source_is_below_what_is_named_with_it_and_never_climbs() {
    let (_dir, tracking) = open().await;
    tracking.create_registered_model("m", "", Vec::new()).await.unwrap();
    let (run, other) = (run_in(&tracking, 0).await, run_in(&tracking, 0).await);
    let own = format!("mlflow-artifacts:/0/{run}/artifacts");
    for (source, run_id, fits) in [
        (format!("{own}/model"), run.as_str(), true),
        (format!("{own}/model"), other.as_str(), false),
        (format!("{own}-else/model"), run.as_str(), false),
        (format!("runs:/{run}/model"), run.as_str(), true),
        (format!("runs:/{run}/model"), other.as_str(), false),
        ("s3://b/x".into(), "", true),
        ("s3://b/../x".into(), "", false),
        ("s3://b/%2e%2e/x".into(), "", false),
        ("s3://b/%252e%252e/x".into(), "", false),
        ("file:///etc/passwd".into(), run.as_str(), false),
        ("FILE:///etc/passwd".into(), "", false),
        ("/etc/passwd".into(), "", false),
        ("models:/m/1".into(), "", true),
        ("models:/m-nope".into(), "", false),
        // Of runs that are not here.
        ("s3://b/x".into(), "other", true),
        ("runs:/other/model".into(), "other", true),
        ("runs:/other/model".into(), "", false),
        (format!("{own}/model"), "other", false),
        ("/etc/passwd".into(), "other", false),
    ] {
        assert_eq!(version_of(&tracking, &source, run_id).await.is_ok(), fits, "{source} with {run_id}");
    }
    assert_eq!(tracking.model_version("m", 2).await.unwrap().location, format!("{own}/model"));
    assert_eq!(
        tracking
            .search_model_versions(&Query { filter: format!("run_id = '{run}'"), max_results: 9, ..Query::default() })
            .await
            .unwrap()
            .items
            .len(),
        2
    );
}

#[tokio::test]
async fn prompts_are_found_only_when_asked_for() {
    let (_dir, tracking) = open().await;
    tracking.create_registered_model("model", "", Vec::new()).await.unwrap();
    tracking.create_registered_model("prompt", "", vec![pair("mlflow.prompt.is_prompt", "true")]).await.unwrap();
    let names = async |filter: &str| {
        let query = Query { filter: filter.into(), max_results: 9, ..Query::default() };
        tracking.search_registered_models(&query).await.unwrap().items.into_iter().map(|m| m.name).collect::<Vec<_>>()
    };
    assert_eq!(names("").await, ["model"]);
    assert_eq!(names("tags.`mlflow.prompt.is_prompt` = 'true'").await, ["prompt"]);
    assert_eq!(names("tags.`mlflow.prompt.is_prompt` != 'true' AND name LIKE '%o%'").await, ["model"]);
}

#[tokio::test]
async fn a_logged_model_has_the_latest_of_its_metrics_by_dataset() {
    let (_dir, tracking) = open().await;
    let run = run_in(&tracking, 0).await;
    let make = async |name: &str| {
        let new = NewLoggedModel { name: name.into(), source_run: run.clone(), params: vec![pair("p", name)], ..NewLoggedModel::default() };
        tracking.create_logged_model(new).await.unwrap().id
    };
    let (a, b) = (make("a").await, make("b").await);
    let of = |model: &str, value, step, dataset: &str| Metric {
        model_id: Some(model.into()),
        dataset: (dataset.into(), "1".into()),
        ..metric("acc", value, 1, step)
    };
    let points = vec![of(&a, 0.5, 1, "x"), of(&a, 0.9, 0, "x"), of(&a, 0.1, 5, "y"), of(&b, 0.7, 1, "x")];
    tracking.log(run.clone(), metrics(points)).await.unwrap();
    let unknown = tracking.log(run.clone(), metrics(vec![of("m-nope", 1., 9, "x")])).await.unwrap_err();
    assert_eq!(unknown.code, ErrorCode::ResourceDoesNotExist);
    assert_eq!(tracking.metric_history(&run, "acc", None, None).await.unwrap().items.len(), 4);
    let known: Vec<f64> = tracking.logged_model(&a).await.unwrap().metrics.iter().map(|(m, _)| m.value).collect();
    assert_eq!(known, [0.5, 0.1]);
    let names = async |filter: &str, dataset: &str, descending| {
        let query = Query { filter: filter.into(), max_results: 9, ..Query::default() };
        let dataset = (dataset.to_string(), String::new());
        let order = ModelOrder { field: "metrics.acc".into(), dataset: dataset.clone(), descending };
        let datasets = if dataset.0.is_empty() { Vec::new() } else { vec![dataset] };
        let page = tracking.search_logged_models(&[0], &query, &[order], &datasets).await.unwrap();
        page.items.into_iter().map(|m| m.name).collect::<Vec<_>>()
    };
    assert_eq!(names("metrics.acc > 0.2", "x", true).await, ["b", "a"]);
    assert_eq!(names("metrics.acc < 0.2", "x", true).await, Vec::<String>::new());
    assert_eq!(names("metrics.acc < 0.2", "", true).await, ["a"]);
    assert_eq!(names("", "", false).await, ["a", "b"]);
    assert_eq!(names("", "y", false).await, ["a"]);
    assert_eq!(names("params.p = 'b'", "y", false).await, Vec::<String>::new());
    assert_eq!(names("params.p = 'b' AND attributes.name LIKE 'b%'", "", false).await, ["b"]);
    tracking.delete_logged_model(b.clone()).await.unwrap();
    assert!(tracking.logged_model(&b).await.is_err());
    tracking.log_models(run.clone(), vec![RunModel { model_id: a.clone(), step: 3, is_output: true }]).await.unwrap();
    assert_eq!(tracking.run(&run).await.unwrap().models, [RunModel { model_id: a, step: 3, is_output: true }]);
}

#[tokio::test]
async fn samples_keep_the_ends_of_every_run() {
    let (_dir, tracking) = open().await;
    let (long, short) = (run_in(&tracking, 0).await, run_in(&tracking, 0).await);
    tracking.log(long.clone(), metrics((0..1000).map(|at| metric("m", 0., at, at)).collect())).await.unwrap();
    tracking.log(short.clone(), metrics(vec![metric("m", 0., 0, 333), metric("m", 0., 0, 777)])).await.unwrap();
    let sample = async |steps, most| {
        let points = tracking.metric_samples(&[&long, &short, "nobody"], "m", steps, most).await.unwrap();
        points.into_iter().map(|(run, m)| (run == long, m.step)).collect::<Vec<_>>()
    };
    assert_eq!(sample((0, 2000), 2500).await.len(), 1002);
    let few = sample((0, 2000), 10).await;
    assert!((10..=16).contains(&few.len()), "{few:?}");
    for end in [(true, 0), (true, 999), (false, 333), (false, 777)] {
        assert!(few.contains(&end), "{end:?} is not in {few:?}");
    }
    assert_eq!(sample((5, 7), 10).await, [(true, 5), (true, 6), (true, 7)]);
}

/// Comparisons that are well formed or nearly so, of every kind of key, operator and value.
fn filter() -> impl Strategy<Value = String> {
    let keys: &[&str] = &[
        "run_id",
        "status",
        "user_id",
        "start_time",
        "end_time",
        "artifact_uri",
        "name",
        "experiment_id",
        "creation_time",
        "model_id",
        "model_type",
        "source_run_id",
        "creation_timestamp",
        "version_number",
        "source_path",
        "metrics.m",
        "params.p",
        "tags.t",
        "tags.`mlflow.prompt.is_prompt`",
        "datasets.name",
        "datasets.context",
        "attributes.name",
    ];
    let ops: &[&str] = &["=", "!=", "<", "<=", ">", ">=", "LIKE", "ILIKE", "IN", "NOT IN", "IS NULL", "IS NOT NULL"];
    let text = || prop_oneof![9 => "'[a%_\0é]{0,9}'", 1 => Just(format!("'{}'", "%a".repeat(250)))];
    let list = || {
        let short = prop::collection::vec("'[a%_]{0,3}'", 1..4).prop_map(|texts| format!("({})", texts.join(", ")));
        prop_oneof![9 => short, 1 => (900..1100_usize).prop_map(|n| format!("({})", vec!["'1'"; n].join(",")))]
    };
    let number = || prop::sample::select(vec!["1", "-1e308", "0.5"]).prop_map(str::to_string);
    let with = |ops: &'static [&'static str], value: BoxedStrategy<String>| {
        (prop::sample::select(ops), value).prop_map(|(op, value)| format!("{op} {value}"))
    };
    let any = prop_oneof![text(), list(), number(), Just(String::new()), Just("()".to_string())];
    let condition = prop_oneof![
        with(&ops[..2], text().boxed()),
        with(&ops[6..8], text().boxed()),
        with(&ops[..6], number().boxed()),
        with(&ops[8..10], list().boxed()),
        with(&ops[10..], Just(String::new()).boxed()),
        with(ops, any.boxed()),
    ];
    let comparison = (prop::sample::select(keys), condition).prop_map(|(key, condition)| format!("{key} {condition}"));
    prop::collection::vec(comparison, 1..3).prop_map(|comparisons| comparisons.join(" AND "))
}

#[test]
fn a_filter_is_answered_or_refused_and_never_fails_inside() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (_dir, tracking) = runtime.block_on(async {
        let (dir, tracking) = open().await;
        run_in(&tracking, 0).await;
        tracking.create_registered_model("m", "", vec![pair("t", "a")]).await.unwrap();
        version_of(&tracking, "s3://b/x", "").await.unwrap();
        tracking.create_logged_model(NewLoggedModel::default()).await.unwrap();
        (dir, tracking)
    });
    let datasets = vec![("d".to_string(), "1".to_string()); 3];
    let answered = std::cell::Cell::new(0);
    let mut runner = TestRunner::new(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() });
    let result = runner.run(&filter(), |filter| {
        runtime.block_on(async {
            let query = Query { filter: filter.clone(), max_results: 5, ..Query::default() };
            let errors = [
                tracking.search_runs(&[0], &query).await.err(),
                tracking.search_experiments(&query).await.err(),
                tracking.search_logged_models(&[0], &query, &[], &datasets).await.err(),
                tracking.search_registered_models(&query).await.err(),
                tracking.search_model_versions(&query).await.err(),
            ];
            for error in errors {
                match error {
                    None => answered.set(answered.get() + 1),
                    Some(e) => prop_assert_eq!(e.code, ErrorCode::InvalidParameterValue, "{}: {}", filter, e),
                }
            }
            Ok(())
        })
    });
    result.unwrap();
    assert!(answered.get() > 300, "{} answered: most filters are refused, which says little", answered.get());
}

#[tokio::test]
async fn samples_of_a_run_are_no_more_than_was_asked_for_even_at_one_step() {
    let (_dir, tracking) = open().await;
    let id = run_in(&tracking, 0).await;
    tracking.log(id.clone(), metrics((0..1000).map(|at| metric("m", at as f64, at, 0)).collect())).await.unwrap();
    for most in [1, 2, 7, 999, 1000, 2500] {
        let points = tracking.metric_samples(&[&id, &id, &id], "m", (0, 0), most).await.unwrap();
        let times: Vec<i64> = points.into_iter().map(|(_, m)| m.timestamp).collect();
        assert_eq!(times.len(), most.min(1000));
        assert!(times.is_sorted_by(|a, b| a < b) && times[0] == 0, "{times:?}");
        assert_eq!(times.last() == Some(&999), most > 1, "{times:?}");
    }
}

#[tokio::test]
async fn what_is_made_is_answered_as_it_is_read_afterwards() {
    let (_dir, tracking) = open().await;
    let tags = || vec![pair("b", "1"), pair("a", "ä"), pair("b", "2")];
    let model = tracking.create_registered_model("m", "words", tags()).await.unwrap();
    assert_eq!(tracking.registered_model("m").await.unwrap(), model);
    assert_eq!(model.tags, [pair("a", "ä"), pair("b", "2")]);
    let run = run_in(&tracking, 0).await;
    let new = NewModelVersion {
        name: "m".into(),
        source: format!("RUNS:/{run}/x"),
        run_id: run.clone(),
        run_link: "l".into(),
        description: "d".into(),
        tags: tags(),
        ..NewModelVersion::default()
    };
    let version = tracking.create_model_version(new).await.unwrap();
    assert_eq!(tracking.model_version("m", 1).await.unwrap(), version);
    assert_eq!(version.location, format!("mlflow-artifacts:/0/{run}/artifacts/x"));
    let many: Vec<Pair> = (0..250).map(|at| pair(&format!("k{at:03}"), "v")).collect();
    let new = NewLoggedModel {
        name: "l".into(),
        model_type: "t".into(),
        source_run: run,
        params: many.clone(),
        tags: tags(),
        ..NewLoggedModel::default()
    };
    let logged = tracking.create_logged_model(new).await.unwrap();
    assert_eq!(tracking.logged_model(&logged.id).await.unwrap(), logged);
    assert_eq!(logged.params, many);
}

#[tokio::test]
async fn a_version_has_its_own_tags_and_aliases() {
    let (_dir, tracking) = open().await;
    for name in ["m", "n"] {
        tracking.create_registered_model(name, "", Vec::new()).await.unwrap();
        for at in 1..=3 {
            let new = NewModelVersion {
                name: name.into(),
                source: "s3://b/x".into(),
                tags: vec![pair("of", &format!("{name}{at}"))],
                ..NewModelVersion::default()
            };
            tracking.create_model_version(new).await.unwrap();
            tracking.set_alias(name.into(), format!("a{at}"), at).await.unwrap();
        }
    }
    let found = tracking.search_model_versions(&Query { max_results: 9, ..Query::default() }).await.unwrap().items;
    assert_eq!(found.len(), 6);
    for version in found {
        assert_eq!(version.tags, [pair("of", &format!("{}{}", version.name, version.version))]);
        assert_eq!(version.aliases, [format!("a{}", version.version)]);
    }
    let found = tracking.version_by_alias("n", "a2").await.unwrap();
    assert_eq!((found.version, found.tags, found.aliases), (2, vec![pair("of", "n2")], vec!["a2".to_string()]));
    assert_eq!(tracking.version_by_alias("n", "none").await.unwrap_err().code, ErrorCode::InvalidParameterValue);
    assert_eq!(tracking.version_by_alias("none", "a2").await.unwrap_err().code, ErrorCode::ResourceDoesNotExist);
}

#[tokio::test]
async fn a_page_of_runs_ends_where_their_datasets_become_too_much() {
    let (_dir, tracking) = open().await;
    let input = |digest: &str| {
        let profile = Some("x".repeat(15 << 20));
        let dataset = Dataset { name: "d".into(), digest: digest.into(), source: "{}".into(), profile, ..Dataset::default() };
        vec![DatasetInput { tags: vec![pair("a", "1"), pair("b", "2")], dataset }]
    };
    let mut runs = Vec::new();
    for _ in 0..5 {
        runs.push(run_in(&tracking, 0).await);
        tracking.log_inputs(runs[runs.len() - 1].clone(), input("1")).await.unwrap();
    }
    let mut query = Query { max_results: 100, order_by: vec!["start_time".into()], ..Query::default() };
    let mut pages = Vec::new();
    loop {
        let page = tracking.search_runs(&[0], &query).await.unwrap();
        assert!(page.items.iter().all(|run| run.datasets == input("1")));
        pages.push(page.items.len());
        query.page_token = page.next;
        if query.page_token.is_none() {
            break;
        }
    }
    assert_eq!(pages, [4, 1]);
    for digest in ["2", "3", "4", "1"] {
        tracking.log_inputs(runs[0].clone(), input(digest)).await.unwrap();
    }
    let refused = tracking.log_inputs(runs[0].clone(), input("5")).await.unwrap_err();
    assert!(refused.code == ErrorCode::InvalidParameterValue && refused.message.contains("64 MiB"), "{refused}");
    assert_eq!(tracking.run(&runs[0]).await.unwrap().datasets.len(), 4);
}

#[tokio::test]
async fn lists_and_texts_of_a_request_have_limits() {
    let (_dir, tracking) = open().await;
    let id = run_in(&tracking, 0).await;
    tracking.create_registered_model("m", "", Vec::new()).await.unwrap();
    let pairs = |n: usize| (0..n).map(|at| pair(&format!("k{at}"), "v")).collect::<Vec<_>>();
    let long = "x".repeat(8001);
    let new = NewRun { tags: pairs(999), ..NewRun::default() };
    assert_eq!(tracking.create_run(new.clone()).await.unwrap().tags.len(), 1000);
    let models = |n: usize| vec![RunModel { model_id: "m-1".into(), step: 0, is_output: true }; n];
    tracking.log_models(id.clone(), models(1000)).await.unwrap();
    let inputs = vec![DatasetInput { tags: Vec::new(), dataset: Dataset::default() }; 1001];
    let version = NewModelVersion { name: "m".into(), source: "s3://b/x".into(), ..NewModelVersion::default() };
    let errors = [
        tracking.create_run(NewRun { tags: pairs(1001), ..NewRun::default() }).await.err(),
        tracking.create_run(NewRun { name: Some(long.clone()), ..NewRun::default() }).await.err(),
        tracking.create_run(NewRun { user: long.clone(), ..NewRun::default() }).await.err(),
        tracking.update_run(&id, RunChange { name: Some(long.clone()), ..RunChange::default() }).await.err(),
        tracking.log_models(id.clone(), models(1001)).await.err(),
        tracking.log_inputs(id.clone(), inputs).await.err(),
        tracking.create_logged_model(NewLoggedModel { params: pairs(1001), ..NewLoggedModel::default() }).await.err(),
        tracking.create_logged_model(NewLoggedModel { model_type: long.clone(), ..NewLoggedModel::default() }).await.err(),
        tracking.create_registered_model("n", "", pairs(1001)).await.err(),
        tracking.create_registered_model("n", &"x".repeat(100_001), Vec::new()).await.err(),
        tracking.create_model_version(NewModelVersion { tags: pairs(1001), ..version.clone() }).await.err(),
        tracking.create_model_version(NewModelVersion { source: format!("s3://{long}"), ..version.clone() }).await.err(),
        tracking.create_experiment(NewExperiment { name: "e".into(), tags: pairs(1001), ..NewExperiment::default() }).await.err(),
        tracking
            .create_experiment(NewExperiment {
                name: "e".into(),
                artifact_location: Some(format!("s3://{long}")),
                ..NewExperiment::default()
            })
            .await
            .err(),
    ];
    for (at, error) in errors.into_iter().enumerate() {
        assert_eq!(error.map(|e| e.code), Some(ErrorCode::InvalidParameterValue), "{at}");
    }
}

#[tokio::test]
async fn a_kept_model_has_the_versions_it_is_given_and_one_of_a_client_is_not_taken() {
    let (dir, tracking) = open().await;
    assert_eq!(tracking.keep_model("own", "what it is", vec![pair("k", "v")]).await.unwrap(), Some(0));
    let version = |number| KeptVersion {
        name: "own".into(),
        version: number,
        source: "mlflow-artifacts:/models/own".into(),
        ..KeptVersion::default()
    };
    for number in [3, 7, 3] {
        tracking.keep_version(version(number)).await.unwrap();
    }
    tracking.describe_version("own", 3, "a client's words".into()).await.unwrap();
    tracking.keep_version(KeptVersion { description: "other".into(), ..version(3) }).await.unwrap();
    assert_eq!(tracking.model_version("own", 3).await.unwrap().description, "a client's words");
    assert_eq!(tracking.model_version("own", 7).await.unwrap().location, "mlflow-artifacts:/models/own");
    let missing = tracking.keep_version(KeptVersion { name: "other".into(), ..version(1) }).await.unwrap_err();
    assert_eq!(missing.code, ErrorCode::ResourceDoesNotExist);

    tracking.create_registered_model("theirs", "", Vec::new()).await.unwrap();
    assert_eq!(tracking.keep_model("theirs", "", Vec::new()).await.unwrap(), None);
    tracking.close().await;
    let tracking = common::open(dir.path()).await.unwrap();
    assert_eq!(tracking.keep_model("own", "", Vec::new()).await.unwrap(), Some(7));
    assert_eq!((tracking.is_kept("own").await.unwrap(), tracking.is_kept("theirs").await.unwrap()), (true, false));
    // A number that is given again brings nothing of what it was.
    tracking.delete_registered_model("theirs".into()).await.unwrap();
    tracking.delete_registered_model("own".into()).await.unwrap();
    tracking.create_registered_model("own", "", Vec::new()).await.unwrap();
    assert!(!tracking.is_kept("own").await.unwrap());
}
