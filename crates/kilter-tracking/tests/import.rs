//! A store of MLflow brought over: everything in it is found by the store's public face, whatever ended the import in between, and nothing that is no store is taken.

use crate::common;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use kilter_tracking::otel::{Any, AnyValue, KeyValue, Span};
use kilter_tracking::{
    ArtifactPath, AssessmentKind, Clashes, Differences, Error, ImportReport, MlflowImport, NewExperiment, NewModelVersion, NewRun, Pair,
    Query, Stage, Status, Trace, TraceState, Tracking, View,
};
use serde_json::json;

const SCHEMA: &str = include_str!("mlflow.sql");
const HEAD: &str = "INSERT INTO alembic_version VALUES ('dc11669786a5');";

struct Stores {
    dir: tempfile::TempDir,
    clashes: Clashes,
    differences: Differences,
    artifacts: Vec<PathBuf>,
    source: &'static str,
}

impl Stores {
    fn new(source: &'static str) -> Stores {
        Stores {
            dir: tempfile::tempdir().unwrap(),
            clashes: Clashes::Refuse,
            differences: Differences::Keep,
            artifacts: Vec::new(),
            source,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// Lets the database of MLflow run these statements.
    async fn sql(&self, sql: &str) {
        self.sql_in("mlflow.db", sql).await;
    }

    async fn sql_in(&self, file: &str, sql: &str) {
        let db = rusqlite::Connection::open(self.path(file)).unwrap();
        db.execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}")).unwrap();
    }

    async fn target(&self) -> Tracking {
        common::open(&self.path("tracking")).await.unwrap()
    }

    /// Lets the database of the target run these statements.
    async fn sql_in_target(&self, sqlite: &str, postgres: &str) {
        if std::env::var_os(common::SERVER).is_none() {
            return self.sql_in("tracking/tracking.db", sqlite).await;
        }
        let name = common::name(&self.path("tracking"));
        sql_in_server(&name, &format!("SET search_path = kilter; {postgres}")).await;
    }

    fn import(&self) -> MlflowImport {
        MlflowImport {
            source: self.path(self.source).to_str().unwrap().into(),
            artifacts: self.artifacts.clone(),
            clashes: self.clashes,
            differences: self.differences,
        }
    }

    async fn bring(&self, tracking: &Tracking) -> Result<ImportReport, Error> {
        tracking.import_mlflow(&self.import(), |_, _| {}).await
    }
}

/// Lets a database of PostgreSQL run statements.
async fn sql_in_server(name: &str, sql: &str) {
    let (url, sql) = (format!("{}/{name}", std::env::var(common::SERVER).unwrap()), sql.to_string());
    let run = move || postgres::Client::connect(&url, postgres::NoTls).unwrap().batch_execute(&sql).unwrap();
    tokio::task::spawn_blocking(run).await.unwrap();
}

fn pair(key: &str, value: &str) -> Pair {
    Pair { key: key.into(), value: value.into() }
}

fn query(filter: &str) -> Query {
    Query { filter: filter.into(), view: View::All, max_results: 1000, ..Query::default() }
}

/// What is here with another value than in the source.
fn differing(report: &ImportReport) -> Vec<(&'static str, u64)> {
    report.lines.iter().filter(|line| line.differing > 0).map(|line| (line.what, line.differing)).collect()
}

/// What was in the source, is here, and was left out.
fn counts(report: &ImportReport) -> BTreeMap<&'static str, (u64, u64, u64)> {
    report.lines.iter().map(|line| (line.what, (line.source, line.here, line.left.iter().map(|(_, n)| n).sum()))).collect()
}

async fn content(tracking: &Tracking, path: &str) -> Option<String> {
    let mut found = tracking.artifacts().read(&ArtifactPath::parse(path).unwrap(), None).await.ok()?;
    let mut text = Vec::new();
    while let Some(bytes) = found.next().await.unwrap() {
        text.extend_from_slice(&bytes);
    }
    Some(String::from_utf8(text).unwrap())
}

async fn history(tracking: &Tracking, run: &str, key: &str) -> Vec<(i64, i64, String)> {
    let page = tracking.metric_history(run, key, None, None).await.unwrap();
    page.items.iter().map(|m| (m.timestamp, m.step, m.value.to_string())).collect()
}

/// A database with a bit of everything.
async fn database(stores: &Stores) {
    stores.sql(&format!("{SCHEMA}{HEAD}{}", content_of_database(stores))).await;
}

fn content_of_database(stores: &Stores) -> String {
    stores.write("there/7/a/artifacts/model/MLmodel", "flavors");
    stores.write("there/7/models/m-1/artifacts/model.pkl", "pickled");
    stores.write("mlartifacts/0/b/artifacts/notes.txt", "of the server");
    let local = stores.path("there");
    let local = local.to_str().unwrap();
    format!(
        r#"
        INSERT INTO experiments VALUES (0, 'Default', 'default', 'mlflow-artifacts:/0', 'active', 10, 11);
        INSERT INTO experiments VALUES (7, 'churn', 'default', '{local}/7', 'active', 20, 21);
        INSERT INTO experiments VALUES (8, 'gone', 'default', 's3://bucket/8', 'deleted', 30, 31);
        INSERT INTO experiments VALUES (9, 'churn', 'team', 'mlflow-artifacts:/9', 'active', 40, 41);
        INSERT INTO experiment_tags VALUES ('k', 'v', 7), ('orphan', 'v', 99);
        INSERT INTO runs VALUES ('a', 'first', 'LOCAL', '', '', 'me', 'FINISHED', 100, 200, NULL, '', 'active', '{local}/7/a/artifacts', 7),
                                ('b', NULL, 'LOCAL', '', '', NULL, 'RUNNING', 101, NULL, 500, '', 'deleted', 'mlflow-artifacts:/0/b/artifacts', 0),
                                ('c', 'c', 'LOCAL', '', '', 'me', 'KILLED', 102, 103, NULL, '', 'deleted', 's3://bucket/8/c/artifacts', 8),
                                ('d', 'd', 'LOCAL', '', '', 'me', 'FINISHED', 1, 2, NULL, '', 'active', 'mlflow-artifacts:/9/d/artifacts', 9);
        INSERT INTO params VALUES ('p', '1', 'a'), ('long', '{long}', 'a'), ('p', '2', 'c'), ('p', '3', 'd');
        INSERT INTO tags VALUES ('mlflow.runName', 'named by a tag', 'b'), ('t', NULL, 'a'), ('mlflow.note.content', 'ä *note*', 'a');
        INSERT INTO metrics VALUES ('loss', 0.5, 1, 1, 0, 'a'), ('loss', 0.25, 2, 2, 0, 'a'), ('loss', 9, 3, 0, 0, 'a'), ('loss', 0, 4, 3, 1, 'a'),
                                   ('big', 1.7976931348623157e308, 1, 0, 0, 'a'), ('low', -1.7976931348623157e308, 1, 0, 0, 'a'), ('x', 7, 5, 0, 0, 'c'),
                                   ('x', 7, 5, 0, 0, 'nobody');
        INSERT INTO datasets VALUES ('ds', 7, 'train', 'd1', 'local', '{{}}', '{{"s": 1}}', NULL);
        INSERT INTO inputs VALUES ('i1', 'DATASET', 'ds', 'RUN', 'a', 0), ('i2', 'RUN_OUTPUT', 'a', 'MODEL_OUTPUT', 'm-1', 4),
                                  ('i3', 'RUN_INPUT', 'c', 'MODEL_INPUT', 'm-1', 0);
        INSERT INTO input_tags VALUES ('i1', 'mlflow.data.context', 'training');
        INSERT INTO logged_models VALUES ('m-1', 7, 'clf', '{local}/7/models/m-1/artifacts', 300, 301, 2, 'active', 'kind', 'a', NULL);
        INSERT INTO logged_model_params VALUES ('m-1', 7, 'depth', '3');
        INSERT INTO logged_model_tags VALUES ('m-1', 7, 'q', 'w');
        INSERT INTO logged_model_metrics VALUES ('m-1', 'acc', 1, 1, 0.5, 7, 'a', NULL, NULL, NULL), ('m-1', 'acc', 2, 2, 0.75, 7, 'a', NULL, NULL, NULL),
                                                ('m-1', 'acc', 3, 1, 0.25, 7, 'a', 'ds', 'train', 'd1');
        INSERT INTO registered_models VALUES ('default', 'clf', 400, 401, 'words'), ('default', 'prompt', 410, NULL, NULL), ('team', 'clf', 1, 1, NULL);
        INSERT INTO registered_model_tags VALUES ('default', 'prompt', 'mlflow.prompt.is_prompt', 'true'), ('team', 'clf', 'x', 'y');
        INSERT INTO model_versions VALUES
            ('default', 'clf', 1, 402, 403, 'v one', NULL, 'Production', 'models:/m-1', '{local}/7/models/m-1/artifacts', 'a', 'http://x', 'READY', NULL),
            ('default', 'clf', 3, 404, NULL, NULL, NULL, 'None', 'file://{local}/7/a/artifacts/model', NULL, 'a', NULL, 'READY', NULL),
            ('default', 'prompt', 1, 411, 412, NULL, NULL, NULL, 'prompt-template', NULL, NULL, NULL, 'READY', NULL);
        INSERT INTO model_version_tags VALUES ('default', 'prompt', 1, 'mlflow.prompt.text', 'Say {{{{x}}}}');
        INSERT INTO registered_model_aliases VALUES ('default', 'clf', 'champion', 3);
        INSERT INTO trace_info (request_id, experiment_id, timestamp_ms, execution_time_ms, status, request_preview, db_payload_generation, trace_name, total_tokens)
            VALUES ('tr-00000000000000000000000000000001', 7, 600, 50, 'OK', '{{"q": 1}}', 0, NULL, NULL), ('0123', 0, 601, NULL, 'IN_PROGRESS', NULL, 0, 'named', 7);
        INSERT INTO trace_tags VALUES ('mlflow.traceName', 'agent', 'tr-00000000000000000000000000000001'),
            ('mlflow.artifactLocation', '{local}/7/traces/tr-00000000000000000000000000000001/artifacts', 'tr-00000000000000000000000000000001');
        INSERT INTO trace_request_metadata VALUES ('mlflow.trace.session', 's', 'tr-00000000000000000000000000000001');
        INSERT INTO spans (trace_id, experiment_id, span_id, parent_span_id, name, type, status, start_time_unix_nano, end_time_unix_nano, content) VALUES
            ('tr-00000000000000000000000000000001', 7, '2', NULL, 'agent', 'AGENT', 'OK', 5, 9, '{{"trace_id": "AAAAAAAAAAAAAAAAAAAAAQ==", "span_id": "AAAAAAAAAAI=",
              "parent_span_id": null, "name": "agent", "start_time_unix_nano": 5, "end_time_unix_nano": 9, "status": {{"code": "STATUS_CODE_OK", "message": ""}},
              "attributes": {{"mlflow.spanType": "\"AGENT\"", "mlflow.spanInputs": "{{\"q\": 1}}"}}, "events": [], "links": []}}'),
            ('0123', 0, '3', NULL, 'step', 'TOOL', 'OK', 5, 9, '{{"trace_id": "AAAAAAAAAAAAAAAAAAAAAg==", "span_id": "AAAAAAAAAAM=", "parent_span_id": null,
              "name": "step", "start_time_unix_nano": 5, "end_time_unix_nano": 9, "status": {{"code": "STATUS_CODE_OK", "message": ""}}, "attributes": {{}}}}');
        INSERT INTO assessments (assessment_id, trace_id, name, assessment_type, value, created_timestamp, last_updated_timestamp, is_numeric_value, source_type,
                source_id, overrides, valid, assessment_metadata)
            VALUES ('a-1', 'tr-00000000000000000000000000000001', 'good', 'feedback', 'true', 700, 701, 0, 'HUMAN', 'me', NULL, 0, '{{"k": "v"}}'),
                   ('a-2', 'tr-00000000000000000000000000000001', 'want', 'expectation', '{{"a": [1]}}', 700, 702, 0, 'CODE', NULL, NULL, 1, NULL);
        INSERT INTO entity_associations VALUES ('e1', 'trace', 'tr-00000000000000000000000000000001', 'run', 'a', 1),
            ('e2', 'trace', 'tr-00000000000000000000000000000001', 'prompt_version', 'prompt/1', 1), ('e3', 'evaluation_dataset', 'd-1', 'experiment', '7', 1);
        INSERT INTO evaluation_datasets (dataset_id, workspace, name, digest, created_time, last_update_time) VALUES ('d-1', 'default', 'qs', 'x', 800, 801);
        INSERT INTO evaluation_dataset_tags VALUES ('d-1', 'v', '1');
        INSERT INTO evaluation_dataset_records (dataset_record_id, dataset_id, inputs, outputs, created_time, last_update_time, input_hash)
            VALUES ('dr-1', 'd-1', '{{"q": 1}}', '{{"mlflow_wrapped": "yes"}}', 1, 2, 'h');
        INSERT INTO scorers VALUES (7, 'manners', 's-1');
        INSERT INTO scorer_versions VALUES ('s-1', 1, 'polite', 900), ('s-1', 2, 'kind', 901);
        INSERT INTO webhooks (workspace, webhook_id, name, url, status) VALUES ('default', 'w', 'w', 'http://x', 'ACTIVE');
        "#,
        long = "x".repeat(7000)
    )
}

#[tokio::test]
async fn a_database_comes_over_with_everything_in_it() {
    let stores = Stores::new("mlflow.db");
    database(&stores).await;
    let before = fs::read(stores.path("mlflow.db")).unwrap();
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    assert!(report.agrees(), "{report:#?}");
    let counts = counts(&report);
    for (what, expected) in [
        ("experiments", (4, 3, 1)),
        ("tags of experiments", (2, 1, 1)),
        ("runs", (4, 3, 1)),
        ("params", (4, 3, 1)),
        ("tags of runs", (3, 3, 0)),
        ("points of metrics", (8, 7, 1)),
        ("datasets", (1, 1, 0)),
        ("inputs of runs", (1, 1, 0)),
        ("tags of inputs", (1, 1, 0)),
        ("models that runs read or made", (2, 2, 0)),
        ("logged models", (1, 1, 0)),
        ("points of logged models", (3, 2, 1)),
        ("registered models and prompts", (3, 2, 1)),
        ("tags of registered models", (2, 1, 1)),
        ("model versions", (3, 3, 0)),
        ("aliases", (1, 1, 0)),
        ("traces", (2, 2, 0)),
        ("spans", (2, 2, 0)),
        ("assessments", (2, 2, 0)),
        ("records of evaluation datasets", (1, 1, 0)),
        ("versions of scorers", (2, 2, 0)),
        ("artifact files", (3, 3, 0)),
    ] {
        assert_eq!(counts.get(what), Some(&expected), "{what}");
    }
    assert!(
        report.notes.iter().any(|note| note.contains("webhooks")) && report.notes.iter().any(|note| note.contains("stay at s3")),
        "{report:#?}"
    );
    assert_eq!(fs::read(stores.path("mlflow.db")).unwrap(), before, "the source was touched");

    let churn = tracking.experiment_by_name("churn").await.unwrap();
    assert_eq!(
        (churn.id, churn.created, churn.tags.as_slice(), churn.artifact_location.as_str()),
        (7, 20, &[pair("k", "v")][..], "mlflow-artifacts:/7")
    );
    let gone = tracking.experiment(8).await.unwrap();
    assert_eq!((gone.stage, gone.artifact_location.as_str()), (Stage::Deleted, "s3://bucket/8"));
    let a = tracking.run("a").await.unwrap();
    assert_eq!((a.info.name.as_str(), a.info.user.as_str(), a.info.status, a.info.end_time), ("first", "me", Status::Finished, Some(200)));
    assert_eq!(a.info.artifact_uri, "mlflow-artifacts:/7/a/artifacts");
    assert_eq!(a.params, [pair("long", &"x".repeat(7000)), pair("p", "1")]);
    assert_eq!(a.tags, [pair("mlflow.note.content", "ä *note*"), pair("t", "")]);
    assert!(a.metrics.iter().any(|m| m.key == "loss" && m.value.is_nan() && m.step == 3), "{:?}", a.metrics);
    assert_eq!(
        (a.datasets[0].dataset.digest.as_str(), a.datasets[0].tags.as_slice()),
        ("d1", &[pair("mlflow.data.context", "training")][..])
    );
    assert_eq!((a.models[0].model_id.as_str(), a.models[0].step, a.models[0].is_output), ("m-1", 4, true));
    let loss = ["0.5", "0.25", "9", "NaN"].into_iter().zip([(1, 1), (2, 2), (3, 0), (4, 3)]);
    assert_eq!(
        history(&tracking, "a", "loss").await,
        loss.map(|(value, (time, step))| (time, step, value.to_string())).collect::<Vec<_>>()
    );
    assert_eq!(history(&tracking, "a", "big").await[0].2, f64::MAX.to_string());
    let b = tracking.run_info("b").await.unwrap();
    assert_eq!((b.name.as_str(), b.stage, b.user.as_str(), b.end_time), ("named by a tag", Stage::Deleted, "", None));
    assert!(tracking.run("d").await.is_err(), "a run of an experiment that was left out");

    let model = tracking.logged_model("m-1").await.unwrap();
    assert_eq!(
        (model.source_run.as_str(), model.params.as_slice(), model.status.as_str()),
        ("a", &[pair("depth", "3")][..], "LOGGED_MODEL_READY")
    );
    assert_eq!(model.metrics.iter().map(|(m, _)| (m.value, m.dataset.0.as_str())).collect::<Vec<_>>(), [(0.75, ""), (0.25, "train")]);
    let version = tracking.version_by_alias("clf", "champion").await.unwrap();
    assert_eq!((version.version, version.source.as_str()), (3, "mlflow-artifacts:/7/a/artifacts/model"));
    let first = tracking.model_version("clf", 1).await.unwrap();
    assert_eq!(
        (first.stage.as_str(), first.source.as_str(), first.location.as_str()),
        ("Production", "models:/m-1", "mlflow-artifacts:/7/models/m-1/artifacts")
    );
    let prompt = tracking.model_version("prompt", 1).await.unwrap();
    assert_eq!((prompt.source.as_str(), prompt.tags.as_slice()), ("prompt-template", &[pair("mlflow.prompt.text", "Say {{x}}")][..]));
    assert_eq!(content(&tracking, "7/a/artifacts/model/MLmodel").await.unwrap(), "flavors");
    assert_eq!(content(&tracking, "7/models/m-1/artifacts/model.pkl").await.unwrap(), "pickled");
    assert_eq!(content(&tracking, "0/b/artifacts/notes.txt").await.unwrap(), "of the server");

    let trace = tracking.trace("tr-00000000000000000000000000000001", &tracking.place().await.unwrap()).await.unwrap();
    assert_eq!((trace.info.state, trace.info.start_time, trace.info.duration, trace.spans.len()), (TraceState::Ok, 600, Some(50), 1));
    assert!(
        trace
            .info
            .tags
            .contains(&pair("mlflow.artifactLocation", "mlflow-artifacts:/7/traces/tr-00000000000000000000000000000001/artifacts"))
    );
    let other = tracking.trace_info("0123").await.unwrap();
    assert_eq!(
        (other.tags, other.metadata),
        (vec![pair("mlflow.traceName", "named")], vec![pair("mlflow.trace.tokenUsage", "{\"total_tokens\": 7}")])
    );
    let said: Vec<_> = trace.info.assessments.iter().map(|a| (a.kind, a.value.clone(), a.is_valid)).collect();
    assert_eq!(said, [(AssessmentKind::Feedback, json!(true), false), (AssessmentKind::Expectation, json!({"a": [1]}), true)]);
    let found = tracking
        .search_traces(&[7], &query("span.type = 'AGENT' AND span.content LIKE '%\"q\": 1%' AND attributes.run_id = 'a'"))
        .await
        .unwrap();
    assert_eq!(found.items.len(), 1);
    assert_eq!(tracking.records("d-1", 10, None, &tracking.place().await.unwrap()).await.unwrap().items[0].outputs, Some(json!("yes")));
    assert_eq!(tracking.scorer(7, "manners", None).await.unwrap().serialized, "kind");
    assert_eq!(tracking.create_experiment(NewExperiment { name: "next".into(), ..NewExperiment::default() }).await.unwrap(), 9);
}

/// The statements that make the same database in PostgreSQL, with the types that MLflow's columns have there.
fn in_postgres(content: &str) -> String {
    let key =
        r"(?is),\s*(CONSTRAINT\s+\S+\s+)?FOREIGN\s+KEY\s*\([^)]*\)\s+REFERENCES\s+\S+\s+\([^)]*\)(\s+ON\s+(DELETE|UPDATE)\s+cascade)*";
    let schema = regex::Regex::new(key).unwrap().replace_all(SCHEMA, "");
    let schema = schema.replace("BOOLEAN", "SMALLINT").replace(", CHECK (is_nan IN (0, 1))", "");
    let truths = [("metrics", "is_nan"), ("assessments", "is_numeric_value"), ("assessments", "valid")].map(|(table, column)| {
        format!("ALTER TABLE {table} ALTER {column} DROP DEFAULT; ALTER TABLE {table} ALTER {column} TYPE BOOLEAN USING {column} <> 0;")
    });
    format!("SET search_path = public; {schema}{HEAD}{content}{}", truths.concat())
}

#[tokio::test]
async fn a_database_of_postgresql_comes_over_as_a_file_does() {
    let Ok(server) = std::env::var(common::SERVER) else { return };
    let mut stores = Stores::new("mlflow.db");
    database(&stores).await;
    stores.artifacts = vec![stores.path("there"), stores.path("mlartifacts")];
    let (tracking, other) = (stores.target().await, common::open(&stores.path("other")).await.unwrap());
    let want = stores.bring(&tracking).await.unwrap();
    // In the same database as the store that it comes to, whose tables have the same names.
    let name = common::name(&stores.path("other"));
    sql_in_server(&name, &in_postgres(&content_of_database(&stores))).await;
    let at = server.strip_prefix("postgresql://").unwrap();
    let import = MlflowImport { source: format!("postgresql+psycopg2://{at}/{name}?sslmode=disable"), ..stores.import() };
    import.check().await.unwrap();
    let bring = || other.import_mlflow(&import, |_, _| {});
    assert_eq!(bring().await.unwrap(), want);
    for run in ["a", "b", "c"] {
        // A metric that is no number is not equal to itself.
        let is_same = format!("{:?}", other.run(run).await.unwrap()) == format!("{:?}", tracking.run(run).await.unwrap());
        assert!(is_same, "{run}");
        assert_eq!(history(&other, run, "loss").await, history(&tracking, run, "loss").await);
    }
    let trace = "tr-00000000000000000000000000000001";
    let (there, here) = (tracking.trace_info(trace).await.unwrap(), other.trace_info(trace).await.unwrap());
    assert_eq!((here.tags, here.metadata, here.assessments), (there.tags, there.metadata, there.assessments));
    let place = other.place().await.unwrap();
    assert_eq!(other.trace(trace, &place).await.unwrap().spans, tracking.trace(trace, &place).await.unwrap().spans);
    assert_eq!(other.records("d-1", 10, None, &place).await.unwrap().items, tracking.records("d-1", 10, None, &place).await.unwrap().items);
    assert_eq!(other.logged_model("m-1").await.unwrap(), tracking.logged_model("m-1").await.unwrap());
    assert_eq!(content(&other, "7/a/artifacts/model/MLmodel").await.unwrap(), "flavors");

    // What is written while it is read is not seen, and comes the next time; pages are many.
    let many = "SET search_path = public; INSERT INTO metrics SELECT 'many', x, x, x, FALSE, 'a' FROM generate_series(1, 30000) x";
    sql_in_server(&name, many).await;
    let meanwhile = async {
        let later = "SET search_path = public; INSERT INTO params VALUES ('later', '1', 'a'); INSERT INTO metrics VALUES ('many', 0, 0, 0, FALSE, 'a')";
        sql_in_server(&name, later).await;
    };
    let (told, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let work = other.import_mlflow(&import, move |_, _| told.send(()).unwrap());
    let after = async {
        begun.recv().await;
        meanwhile.await;
    };
    let (report, ()) = tokio::join!(work, after);
    let report = report.unwrap();
    assert!(report.agrees() && counts(&report)["points of metrics"] == (30_008, 30_007, 1), "{report:#?}");
    assert_eq!(counts(&report)["params"], counts(&want)["params"]);
    let report = bring().await.unwrap();
    assert!(report.agrees() && counts(&report)["points of metrics"] == (30_009, 30_008, 1), "{report:#?}");
    assert!(other.run("a").await.unwrap().params.contains(&pair("later", "1")));
}

#[tokio::test]
async fn two_imports_into_one_database_come_one_after_the_other() {
    if std::env::var_os(common::SERVER).is_none() {
        return;
    }
    let stores = Stores::new("mlflow.db");
    database(&stores).await;
    let (one, other) = (stores.target().await, stores.target().await);
    let (first, second) = tokio::join!(stores.bring(&one), stores.bring(&other));
    assert_eq!(first.unwrap(), second.unwrap());
}

#[tokio::test]
async fn an_import_again_brings_what_is_new_and_nothing_twice() {
    let stores = Stores::new("mlflow.db");
    database(&stores).await;
    let tracking = stores.target().await;
    let first = stores.bring(&tracking).await.unwrap();
    assert_eq!(stores.bring(&tracking).await.unwrap(), first);
    stores.sql("INSERT INTO metrics VALUES ('loss', 0.125, 9, 9, 0, 'a'); INSERT INTO params VALUES ('new', '1', 'b'); UPDATE runs SET status = 'FAILED', end_time = 7 WHERE run_uuid = 'b'").await;
    stores.write("mlartifacts/0/b/artifacts/notes.txt", "it goes on");
    let again = stores.bring(&tracking).await.unwrap();
    assert!(again.agrees() && counts(&again)["points of metrics"] == (9, 8, 1), "{again:#?}");
    assert_eq!(history(&tracking, "a", "loss").await.len(), 5);
    let b = tracking.run("b").await.unwrap();
    assert_eq!((b.params.as_slice(), b.info.status, b.info.end_time), (&[pair("new", "1")][..], Status::Failed, Some(7)));
    assert_eq!(content(&tracking, "0/b/artifacts/notes.txt").await.unwrap(), "it goes on");
    assert_eq!(tracking.search_experiments(&query("")).await.unwrap().items.len(), 3);
}

#[tokio::test]
async fn an_import_that_was_ended_anywhere_goes_on_from_there() {
    let stores = Stores::new("mlflow.db");
    database(&stores).await;
    let many = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 100000)
                INSERT INTO metrics SELECT 'many', x * 0.5, x, x, 0, CASE WHEN x % 2 THEN 'a' ELSE 'c' END FROM n";
    stores.sql(many).await;
    for end in 0..6 {
        stores.sql(&format!("INSERT INTO params VALUES ('end {end}', '1', 'b')")).await;
        let tracking = stores.target().await;
        let (told, mut ended) = tokio::sync::mpsc::unbounded_channel();
        let import = stores.import();
        let work = tracking.import_mlflow(&import, move |_, _| told.send(()).unwrap());
        let stop = async {
            for _ in 0..=end {
                ended.recv().await;
            }
        };
        tokio::select! { biased; () = stop => {}, done = work => { done.unwrap(); } }
        tracking.close().await;
    }
    let tracking = stores.target().await;
    stores.sql("UPDATE runs SET status = 'FAILED', end_time = 7 WHERE run_uuid = 'b'").await;
    let report = stores.bring(&tracking).await.unwrap();
    assert!(report.agrees() && counts(&report)["points of metrics"] == (100_008, 100_007, 1), "{report:#?}");
    let b = tracking.run("b").await.unwrap();
    assert_eq!((b.params.len(), b.info.status, b.info.end_time), (6, Status::Failed, Some(7)), "what changed in what had come");
    assert_eq!(counts(&report)["spans"], (2, 2, 0));
    let mut points = Vec::new();
    let mut token = None;
    loop {
        let page = tracking.metric_history("a", "many", Some(20_000), token.as_deref()).await.unwrap();
        points.extend(page.items.iter().map(|m| (m.step, m.value)));
        match page.next {
            Some(next) => token = Some(next),
            None => break,
        }
    }
    assert_eq!(points, (1..=100_000).filter(|x| x % 2 == 1).map(|x| (x, x as f64 * 0.5)).collect::<Vec<_>>());
    let run = tracking.run("c").await.unwrap();
    assert!(run.metrics.iter().any(|m| m.key == "many" && m.step == 100_000), "{:?}", run.metrics);
}

#[tokio::test]
async fn a_source_that_changes_while_it_is_read_is_told() {
    let stores = Stores::new("mlflow.db");
    database(&stores).await;
    stores.sql("WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 100000) INSERT INTO metrics SELECT 'many', x, x, x, 0, 'a' FROM n").await;
    let tracking = stores.target().await;
    let (told, mut come) = tokio::sync::mpsc::unbounded_channel();
    let import = stores.import();
    let work = tracking.import_mlflow(&import, move |what, _| drop(told.send(what.to_string())));
    let change = async {
        while come.recv().await.is_some_and(|what| what == "artifact files") {}
        stores.sql("UPDATE runs SET status = 'FINISHED', end_time = 300 WHERE run_uuid = 'b'").await;
    };
    let (report, ()) = tokio::join!(work, change);
    let report = report.unwrap();
    assert!(!report.agrees() && report.lacking[0].contains("changed while it was read"), "{report:#?}");
    assert_eq!(tracking.run_info("b").await.unwrap().status, Status::Running);
    assert!(stores.bring(&tracking).await.unwrap().agrees());
    assert_eq!(tracking.run_info("b").await.unwrap().status, Status::Finished);
}

#[tokio::test]
async fn what_is_lost_on_the_way_is_told_and_comes_the_next_time() {
    let stores = Stores::new("mlflow.db");
    database(&stores).await;
    stores.target().await.close().await;
    let loses = "CREATE TRIGGER loses BEFORE INSERT ON metrics WHEN NEW.value = 0.25 BEGIN SELECT RAISE(IGNORE); END;
                 CREATE TRIGGER loses_too BEFORE INSERT ON spans BEGIN SELECT RAISE(IGNORE); END";
    let loses_there = "CREATE FUNCTION lose() RETURNS TRIGGER LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
                       CREATE TRIGGER loses BEFORE INSERT ON metrics FOR EACH ROW WHEN (NEW.value = 0.25) EXECUTE FUNCTION lose();
                       CREATE TRIGGER loses_too BEFORE INSERT ON spans FOR EACH ROW EXECUTE FUNCTION lose()";
    stores.sql_in_target(loses, loses_there).await;
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    let missing: Vec<_> = report.lines.iter().filter(|line| line.missing() > 0).map(|line| (line.what, line.missing())).collect();
    assert!(!report.agrees() && missing == [("points of metrics", 1), ("spans", 2)], "{report:#?}");
    tracking.close().await;
    stores
        .sql_in_target("DROP TRIGGER loses; DROP TRIGGER loses_too", "DROP TRIGGER loses ON metrics; DROP TRIGGER loses_too ON spans")
        .await;
    let tracking = stores.target().await;
    assert!(stores.bring(&tracking).await.unwrap().agrees());
    assert_eq!(history(&tracking, "a", "loss").await.len(), 4);
}

#[tokio::test]
async fn what_has_changed_since_it_came_is_told_and_taken_where_that_is_wished() {
    let mut stores = Stores::new("mlflow.db");
    database(&stores).await;
    let tracking = stores.target().await;
    assert!(stores.bring(&tracking).await.unwrap().agrees());
    let changes = "UPDATE registered_model_aliases SET version = 1; UPDATE model_versions SET current_stage = 'Archived' WHERE name = 'clf' AND version = 1;
        UPDATE model_versions SET description = 'new words', last_updated_time = 999 WHERE name = 'clf' AND version = 3;
        UPDATE runs SET lifecycle_stage = 'deleted', name = 'renamed' WHERE run_uuid = 'a'; UPDATE experiments SET lifecycle_stage = 'deleted', name = 'gone churn' WHERE experiment_id = 7;
        UPDATE tags SET value = 'now' WHERE key = 't'; UPDATE experiment_tags SET value = 'w'; UPDATE registered_models SET description = 'others' WHERE name = 'clf';
        UPDATE registered_model_tags SET value = 'false' WHERE name = 'prompt'; UPDATE model_version_tags SET value = 'Shout {x}';
        UPDATE logged_models SET lifecycle_stage = 'deleted'; UPDATE logged_model_tags SET tag_value = 'v';
        INSERT INTO trace_tags VALUES ('team', 'b', 'tr-00000000000000000000000000000001'); UPDATE assessments SET valid = 1, last_updated_timestamp = 800 WHERE assessment_id = 'a-1';
        UPDATE evaluation_dataset_tags SET value = '2'; UPDATE evaluation_dataset_records SET expectations = '{\"x\": 1}'";
    stores.sql(changes).await;
    let report = stores.bring(&tracking).await.unwrap();
    let expected = [
        ("experiments", 1),
        ("tags of experiments", 1),
        ("runs", 1),
        ("tags of runs", 1),
        ("logged models", 1),
        ("tags of logged models", 1),
        ("registered models and prompts", 1),
        ("tags of registered models", 1),
        ("model versions", 2),
        ("tags of model versions", 1),
        ("aliases", 1),
        ("assessments", 1),
        ("tags of evaluation datasets", 1),
        ("records of evaluation datasets", 1),
    ];
    assert!(!report.agrees() && differing(&report) == expected, "{report:#?}");
    assert_eq!(tracking.version_by_alias("clf", "champion").await.unwrap().version, 3, "what is here stays");

    stores.differences = Differences::Take;
    let report = stores.bring(&tracking).await.unwrap();
    assert!(report.agrees(), "{report:#?}");
    assert_eq!(tracking.version_by_alias("clf", "champion").await.unwrap().stage, "Archived");
    let third = tracking.model_version("clf", 3).await.unwrap();
    assert_eq!((third.description.as_str(), third.updated), ("new words", 999));
    let a = tracking.run("a").await.unwrap();
    assert_eq!((a.info.stage, a.info.name.as_str()), (Stage::Deleted, "renamed"));
    assert!(a.tags.contains(&pair("t", "now")) && tracking.create_run(NewRun { experiment: 7, ..NewRun::default() }).await.is_err());
    let churn = tracking.experiment(7).await.unwrap();
    assert_eq!((churn.name.as_str(), churn.stage, churn.tags), ("gone churn", Stage::Deleted, vec![pair("k", "w")]));
    assert_eq!(tracking.registered_model("clf").await.unwrap().description, "others");
    let trace = tracking.trace_info("tr-00000000000000000000000000000001").await.unwrap();
    assert!(trace.tags.contains(&pair("team", "b")) && trace.assessments.iter().any(|a| a.id == "a-1" && a.is_valid), "{trace:?}");
    assert!(tracking.records("d-1", 10, None, &tracking.place().await.unwrap()).await.unwrap().items[0].expectations.is_some());
    stores.differences = Differences::Keep;
    assert!(stores.bring(&tracking).await.unwrap().agrees());

    stores.sql("DELETE FROM registered_model_aliases").await;
    let report = stores.bring(&tracking).await.unwrap();
    assert!(report.notes.iter().any(|note| note.starts_with("aliases: 1 more")), "what is only here is told: {report:#?}");
}

#[tokio::test]
async fn a_version_of_another_origin_and_one_that_was_deleted_give_nothing_to_others() {
    let stores = Stores::new("mlflow.db");
    database(&stores).await;
    stores.sql("UPDATE model_versions SET current_stage = 'Deleted_Internal' WHERE name = 'clf' AND version = 3; INSERT INTO model_version_tags VALUES ('default', 'clf', 3, 'of', 'three')").await;
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    assert!(
        report.agrees() && counts(&report)["tags of model versions"] == (2, 1, 1) && counts(&report)["aliases"] == (1, 0, 1),
        "{report:#?}"
    );
    // The number of a version that was deleted there is not given to another one here.
    for number in [4, 5] {
        let new = NewModelVersion { name: "clf".into(), source: "mlflow-artifacts:/x".into(), ..NewModelVersion::default() };
        assert_eq!(tracking.create_model_version(new).await.unwrap().version, number);
    }
    assert!(tracking.model_version("clf", 3).await.is_err());
    assert!(tracking.model_version("clf", 4).await.unwrap().tags.is_empty(), "tags of a version that is gone");
    for table in ["model_versions", "model_version_tags", "registered_model_aliases"] {
        stores.sql(&format!("UPDATE {table} SET version = 4 WHERE name = 'clf' AND version = 3")).await;
    }
    stores.sql("UPDATE model_versions SET current_stage = 'None' WHERE name = 'clf'").await;
    let report = stores.bring(&tracking).await.unwrap();
    assert!(differing(&report).contains(&("model versions", 2)), "{report:#?}");
    let fourth = tracking.model_version("clf", 4).await.unwrap();
    assert!(fourth.tags.is_empty() && fourth.aliases.is_empty(), "tags and aliases of another version: {fourth:?}");
}

#[tokio::test]
async fn artifacts_that_are_not_found_or_not_to_be_read_are_told() {
    let mut stores = Stores::new("mlflow.db");
    database(&stores).await;
    fs::rename(stores.path("there"), stores.path("moved")).unwrap();
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    assert_eq!(counts(&report)["artifact files"], (1, 1, 0));
    assert!(
        !report.agrees() && report.lacking[0].contains("of 1 experiments are not there") && report.lacking[0].contains(": 7 ("),
        "{report:#?}"
    );
    let told = |report: &ImportReport, what: &str| report.notes.iter().any(|note| note.starts_with(what));
    assert!(
        told(&report, "the artifact folders of 1 of 2 runs were not found") && told(&report, "the artifact folders of 1 of 1 logged"),
        "{report:#?}"
    );

    fs::rename(stores.path("mlartifacts"), stores.path("kept")).unwrap();
    stores.artifacts = vec![stores.path("tracking")];
    let report = stores.bring(&tracking).await.unwrap();
    assert!(
        !report.agrees() && report.lacking[0].contains("of 2 experiments are not there"),
        "another folder than theirs was named: {report:#?}"
    );
    fs::create_dir(stores.path("nothing")).unwrap();
    stores.artifacts = vec![stores.path("nothing")];
    assert!(stores.bring(&tracking).await.unwrap().agrees(), "an empty folder says that there are none");
    stores.artifacts = vec![stores.path("moved"), stores.path("kept")];
    let report = stores.bring(&tracking).await.unwrap();
    assert!(
        report.agrees() && counts(&report)["artifact files"] == (3, 3, 0) && !told(&report, "the artifact folders of 1 of 2 runs"),
        "{report:#?}"
    );

    let other = tempfile::tempdir().unwrap();
    fs::create_dir_all(other.path().join("a")).unwrap();
    fs::write(other.path().join("a/id_ed25519"), "secret").unwrap();
    let at = fs::canonicalize(other.path()).unwrap();
    stores.sql(&format!("UPDATE runs SET artifact_uri = 'file://{}/a' WHERE run_uuid = 'b'", at.display())).await;
    fs::remove_dir_all(stores.path("kept/0")).unwrap();
    let report = stores.bring(&tracking).await.unwrap();
    assert!(!report.agrees() && report.lacking[0].contains(at.to_str().unwrap()), "{report:#?}");
    assert!(content(&tracking, "0/b/artifacts/id_ed25519").await.is_none(), "the source says what is read of this machine");
    stores.artifacts.push(at);
    assert!(stores.bring(&tracking).await.unwrap().agrees());
    assert_eq!(content(&tracking, "0/b/artifacts/id_ed25519").await.unwrap(), "secret");
}

#[tokio::test]
async fn runs_are_stored_while_the_files_of_others_are_copied_and_each_file_is_told() {
    let stores = Stores::new("mlflow.db");
    database(&stores).await;
    for run in 0..150 {
        stores.write(&format!("mlartifacts/0/r{run}/artifacts/file"), "content");
    }
    let runs = "WITH RECURSIVE n (x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM n WHERE x < 149) INSERT INTO runs
                SELECT 'r' || x, 'r', 'LOCAL', '', '', 'me', 'FINISHED', 1, 2, NULL, '', 'active', 'mlflow-artifacts:/0/r' || x || '/artifacts', 0 FROM n";
    stores.sql(runs).await;
    let tracking = stores.target().await;
    let told = std::sync::Mutex::new(Vec::new());
    let import = stores.import();
    let report = tracking.import_mlflow(&import, |what, count| told.lock().unwrap().push((what.to_string(), count))).await.unwrap();
    assert_eq!(counts(&report)["artifact files"], (153, 153, 0));
    let told = told.into_inner().unwrap();
    let files: Vec<u64> = told.iter().filter(|(what, _)| what == "artifact files").map(|(_, count)| *count).collect();
    assert_eq!(files, (1..=153).collect::<Vec<_>>());
    let first = told.iter().position(|(what, _)| what == "runs").unwrap();
    assert!(first <= 100, "{first} files came before the first runs were stored");
}

#[tokio::test]
async fn experiments_that_do_not_say_when_they_were_made_are_told_apart_by_their_runs() {
    let stores = Stores::new("mlflow.db");
    database(&stores).await;
    stores.sql("UPDATE experiments SET creation_time = NULL, last_update_time = NULL").await;
    let tracking = stores.target().await;
    for _ in 0..2 {
        assert!(stores.bring(&tracking).await.unwrap().agrees());
    }
    assert_eq!(tracking.search_experiments(&query("")).await.unwrap().items.len(), 3);
    let other = format!(
        "{SCHEMA}{HEAD} INSERT INTO experiments VALUES (3, 'churn', 'default', 'mlflow-artifacts:/3', 'active', NULL, NULL);
         INSERT INTO runs VALUES ('z', 'z', 'LOCAL', '', '', 'me', 'FINISHED', 1, 2, NULL, '', 'active', 'mlflow-artifacts:/3/z/artifacts', 3)"
    );
    stores.sql_in("other.db", &other).await;
    let import = MlflowImport { source: stores.path("other.db").to_str().unwrap().into(), ..stores.import() };
    let refused = tracking.import_mlflow(&import, |_, _| {}).await.unwrap_err().message;
    assert!(refused.contains("experiment `churn` (3 there) is experiment 7 here"), "{refused}");
    assert!(tracking.run("z").await.is_err());
    let import = MlflowImport { clashes: Clashes::Rename, ..import };
    for _ in 0..2 {
        tracking.import_mlflow(&import, |_, _| {}).await.unwrap();
        assert_eq!(tracking.run_info("z").await.unwrap().experiment, tracking.experiment_by_name("churn (imported)").await.unwrap().id);
    }
}

#[tokio::test]
async fn experiment_0_comes_with_its_name_and_stage() {
    let mut stores = Stores::new("mlflow.db");
    database(&stores).await;
    let renamed = "UPDATE experiments SET name = 'first', lifecycle_stage = 'deleted' WHERE experiment_id = 0;
                   INSERT INTO experiments VALUES (5, 'Default', 'default', 'mlflow-artifacts:/5', 'active', 50, 51)";
    stores.sql(renamed).await;
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    assert!(report.agrees(), "{report:#?}");
    let first = tracking.experiment(0).await.unwrap();
    assert_eq!((first.name.as_str(), first.stage, tracking.experiment_by_name("Default").await.unwrap().id), ("first", Stage::Deleted, 5));
    stores.sql("UPDATE experiments SET name = 'again', lifecycle_stage = 'active' WHERE experiment_id = 0").await;
    assert_eq!(differing(&stores.bring(&tracking).await.unwrap()), [("experiments", 1)]);
    stores.differences = Differences::Take;
    assert!(stores.bring(&tracking).await.unwrap().agrees());
    let first = tracking.experiment(0).await.unwrap();
    assert_eq!((first.name.as_str(), first.stage), ("again", Stage::Active));
}

#[tokio::test]
async fn names_that_are_taken_are_refused_left_out_or_changed() {
    let mut stores = Stores::new("mlflow.db");
    database(&stores).await;
    let tracking = stores.target().await;
    for _ in 0..7 {
        let name = format!("mine {}", tracking.search_experiments(&query("")).await.unwrap().items.len());
        tracking.create_experiment(NewExperiment { name, ..NewExperiment::default() }).await.unwrap();
    }
    let mine = tracking.create_experiment(NewExperiment { name: "churn".into(), ..NewExperiment::default() }).await.unwrap();
    let own = tracking.create_run(NewRun { experiment: mine, ..NewRun::default() }).await.unwrap().info.id;
    tracking.create_registered_model("clf", "mine", Vec::new()).await.unwrap();
    let refused = stores.bring(&tracking).await.unwrap_err().message;
    assert!(
        ["experiment `churn` (7 there) is experiment 8 here", "registered model `clf`", "--clashes rename"]
            .iter()
            .all(|w| refused.contains(w)),
        "{refused}"
    );
    assert!(tracking.run("a").await.is_err(), "nothing is brought over");

    stores.clashes = Clashes::Skip;
    let report = stores.bring(&tracking).await.unwrap();
    let left = counts(&report);
    assert!(report.agrees() && left["runs"] == (4, 2, 2) && left["registered models and prompts"] == (3, 1, 2), "{report:#?}");
    assert!(tracking.run("a").await.is_err() && tracking.run("c").await.unwrap().info.experiment == 9);
    assert!(report.notes.iter().any(|note| note.contains("experiment 8 (`gone`) is experiment 9 here")), "{report:#?}");

    stores.clashes = Clashes::Rename;
    stores.sql("INSERT INTO experiments VALUES (10, 'churn (imported)', 'default', 'mlflow-artifacts:/10', 'active', 70, 71)").await;
    for _ in 0..2 {
        let report = stores.bring(&tracking).await.unwrap();
        assert!(report.agrees() && counts(&report)["runs"] == (4, 3, 1), "{report:#?}");
    }
    assert_eq!(tracking.experiment_by_name("churn (imported)").await.unwrap().created, 70);
    let renamed = tracking.experiment_by_name("churn (imported 2)").await.unwrap();
    let a = tracking.run_info("a").await.unwrap();
    assert_eq!((a.experiment, a.artifact_uri), (renamed.id, format!("mlflow-artifacts:/{}/a/artifacts", renamed.id)));
    assert_eq!(content(&tracking, &format!("{}/a/artifacts/model/MLmodel", renamed.id)).await.unwrap(), "flavors");
    assert_eq!(tracking.version_by_alias("clf (imported)", "champion").await.unwrap().version, 3);
    assert_eq!(tracking.registered_model("clf").await.unwrap().description, "mine");
    assert_eq!(tracking.run_info(&own).await.unwrap().experiment, mine);
}

#[tokio::test]
async fn an_old_schema_is_read_a_newer_one_is_told_and_one_that_lacks_something_is_refused() {
    let stores = Stores::new("mlflow.db");
    database(&stores).await;
    let gone = [
        "logged_models",
        "logged_model_params",
        "logged_model_tags",
        "logged_model_metrics",
        "spans",
        "assessments",
        "entity_associations",
        "scorers",
    ];
    let drops: String = gone.iter().map(|table| format!("DROP TABLE {table};")).collect();
    let old = "DROP TABLE scorer_versions; DROP TABLE evaluation_datasets; DROP TABLE registered_model_aliases; ALTER TABLE inputs DROP COLUMN step; ALTER TABLE trace_info DROP COLUMN request_preview;
               UPDATE model_versions SET storage_location = NULL; UPDATE alembic_version SET version_num = '867495a8f9d4'";
    stores.sql(&format!("{drops}{old}")).await;
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    assert!(report.agrees() && counts(&report)["runs"] == (4, 3, 1), "{report:#?}");
    stores.sql("UPDATE alembic_version SET version_num = 'ffffffffffff'; CREATE TABLE news (x INTEGER)").await;
    let report = stores.bring(&tracking).await.unwrap();
    assert!(report.agrees() && report.notes.iter().any(|note| note.contains("ffffffffffff") && note.contains("newer")), "{report:#?}");
    stores.sql("DROP TABLE metrics; CREATE TABLE metrics (run_uuid TEXT, key TEXT, value REAL, timestamp INTEGER)").await;
    let refused = stores.bring(&tracking).await.unwrap_err().message;
    assert!(refused.contains("no column `step` in a table `metrics`"), "{refused}");
}

#[tokio::test]
async fn what_is_no_store_is_refused_in_words() {
    let stores = Stores::new("mlflow.db");
    let tracking = stores.target().await;
    let refused = async |source: &str| {
        let import = MlflowImport { source: source.into(), ..stores.import() };
        tracking.import_mlflow(&import, |_, _| {}).await.unwrap_err().message
    };
    let at = |path: &str| stores.path(path).to_str().unwrap().to_string();
    database(&stores).await;
    let options = MlflowImport { source: format!("sqlite:///{}?timeout=30", at("mlflow.db")), ..stores.import() };
    options.check().await.unwrap();
    fs::remove_file(stores.path("mlflow.db")).unwrap();
    stores.write("text", "this is no database");
    stores.write("empty/readme", "");
    assert!(refused(&at("missing.db")).await.contains("cannot read"));
    assert!(refused(&at("text")).await.contains("is not a tracking store of MLflow"));
    assert!(refused(&at("empty")).await.contains("is not a file store of MLflow"));
    stores.sql_in("other.db", "CREATE TABLE t (x)").await;
    assert!(refused(&format!("sqlite:///{}", at("other.db"))).await.contains("no table `alembic_version`"));
    for other in ["mysql+pymysql://user@host/mlflow", "mssql+pyodbc://user@host/mlflow"] {
        assert!(refused(other).await.contains("cannot be read\n  hint: copy its tables into an SQLite file"));
    }
    assert!(refused("postgresql+psycopg2://user@127.0.0.1:1/mlflow").await.contains("cannot connect to the database"));
    assert!(refused("http://127.0.0.1:5000").await.contains("a server is no source"));
    stores.sql(&format!("CREATE TABLE experiments (experiment_id INTEGER); CREATE TABLE alembic_version (version_num TEXT); {HEAD}")).await;
    let lacking = refused(&at("mlflow.db")).await;
    assert!(lacking.contains("no column `name`") && lacking.contains("mlflow db upgrade"), "{lacking}");
    assert_eq!(tracking.search_experiments(&query("")).await.unwrap().items.len(), 1);
}

/// What MLflow keeps of a trace beside its store.
const SPANS: &str = r#"{"spans": [{"name": "agent", "context": {"span_id": "0x0000000000000002", "trace_id": "0x00000000000000000000000000000001"}, "parent_id": null,
    "start_time": 5, "end_time": 9, "status_code": "OK", "status_message": "", "attributes": {"mlflow.spanType": "\"AGENT\""}, "events": []}]}"#;

/// A file store with a bit of everything.
fn folder(stores: &Stores) {
    let experiment = |id: &str, name: &str, stage: &str| {
        format!(
            "artifact_location: file:///moved/mlruns/{id}\ncreation_time: 5\nexperiment_id: '{id}'\nlast_update_time: 6\nlifecycle_stage: {stage}\nname: {name}\n"
        )
    };
    let run = |experiment: &str, id: &str, status: u8| {
        format!(
            "artifact_uri: file:///moved/mlruns/{experiment}/{id}/artifacts\nend_time: 200\nentry_point_name: ''\nexperiment_id: '{experiment}'\n\
             lifecycle_stage: active\nrun_id: {id}\nrun_name: 1e5\nrun_uuid: {id}\nsource_name: ''\nsource_type: 4\nsource_version: ''\nstart_time: 100\n\
             status: {status}\ntags: []\nuser_id: \"m\\xE9\"\n"
        )
    };
    let files = [
        ("mlruns/0/meta.yaml", experiment("0", "Default", "active")),
        ("mlruns/12/meta.yaml", experiment("12", "churn", "active")),
        ("mlruns/.trash/13/meta.yaml", experiment("13", "gone", "deleted")),
        ("mlruns/.trash/13/x1/meta.yaml", run("13", "x1", 5)),
        ("mlruns/12/tags/k", "v".into()),
        ("mlruns/12/a1/meta.yaml", run("12", "a1", 3)),
        ("mlruns/12/a1/tags/mlflow.note.content", "two\nlines".into()),
        ("mlruns/12/a1/params/opt/lr", "0.1".into()),
        ("mlruns/12/a1/metrics/val/loss", "1 0.5 1\n2 nan 2\n2 nan 2\n3 inf 3\n4 -inf\n1 0.5 1\nspoilt\n5 0.25 5 train d1\n".into()),
        ("mlruns/12/a1/artifacts/notes.txt", "found beside".into()),
        ("mlruns/12/a1/inputs/i/meta.yaml", "destination_id: a1\ndestination_type: RUN\nsource_id: ds\nsource_type: DATASET\ntags:\n  mlflow.data.context: training\n".into()),
        ("mlruns/12/a1/outputs/o/meta.yaml", "destination_id: m-1\ndestination_type: MODEL_OUTPUT\nsource_id: m-1\nsource_type: RUN_OUTPUT\nstep: 2\ntags: {}\n".into()),
        ("mlruns/12/datasets/ds/meta.yaml", "digest: d1\nname: train\nprofile: '{\"rows\": 2}'\nschema: null\nsource: '{}'\nsource_type: local\n".into()),
        ("mlruns/12/models/m-1/meta.yaml", "artifact_location: file:///moved/mlruns/12/models/m-1/artifacts\ncreation_timestamp: 7\nexperiment_id: '12'\nlast_updated_timestamp: 8\nlifecycle_stage: active\nmodel_id: m-1\nmodel_type: null\nname: clf\nsource_run_id: a1\nstatus: 2\nstatus_message: null\n".into()),
        ("mlruns/12/models/m-1/params/depth", "3".into()),
        ("mlruns/12/models/m-1/metrics/acc", "1 0.5 1 a1\n2 0.75 2 a1\n".into()),
        ("mlruns/12/models/m-1/artifacts/model.pkl", "pickled".into()),
        ("mlruns/12/traces/tr-1/trace_info.yaml", "execution_duration_ms: 30\nrequest_preview: '{\"q\": 1}'\nrequest_time: '2026-02-28T23:59:59.120Z'\nstate: OK\ntrace_id: tr-1\ntrace_location:\n  mlflow_experiment:\n    experiment_id: '12'\n  type: MLFLOW_EXPERIMENT\n".into()),
        ("mlruns/12/traces/tr-1/tags/mlflow.traceName", "agent".into()),
        ("mlruns/12/traces/tr-1/tags/mlflow.artifactLocation", "file:///moved/mlruns/12/traces/tr-1/artifacts".into()),
        ("mlruns/12/traces/tr-1/request_metadata/mlflow.sourceRun", "a1".into()),
        ("mlruns/12/traces/tr-1/artifacts/traces.json", SPANS.into()),
        ("mlruns/12/traces/tr-1/assessments/a-1.yaml", "assessment_id: a-1\nassessment_name: good\ncreate_time: '1970-01-01T00:00:01Z'\nfeedback:\n  value: 0.5\nlast_update_time: '1970-01-01T00:00:02Z'\nmetadata:\n  k: v\nsource:\n  source_id: me\n  source_type: HUMAN\ntrace_id: tr-1\nvalid: true\n".into()),
        ("mlruns/models/clf/meta.yaml", "creation_timestamp: 9\ndescription: words\nlast_updated_timestamp: 10\nname: clf\n".into()),
        ("mlruns/models/clf/tags/team", "a".into()),
        ("mlruns/models/clf/aliases/champion", "2".into()),
        ("mlruns/models/clf/version-2/meta.yaml", "creation_timestamp: 11\ncurrent_stage: Staging\ndescription: null\nlast_updated_timestamp: 12\nname: clf\nrun_id: a1\nrun_link: ''\nsource: file:///moved/mlruns/12/a1/artifacts/model\nstatus: READY\nstatus_message: null\nstorage_location: file:///moved/mlruns/12/a1/artifacts/model\nuser_id: null\nversion: 2\n".into()),
        ("mlruns/models/clf/version-2/tags/q", "w".into()),
    ];
    for (path, content) in files {
        stores.write(path, &content);
    }
}

#[tokio::test]
async fn a_file_store_comes_over_and_what_is_damaged_is_told() {
    let stores = Stores::new("mlruns");
    folder(&stores);
    stores.write("mlruns/12/b2/meta.yaml", "artifact_uri: [");
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    assert!(
        lacking(&report).starts_with("1 files and folders could not be read: ") && lacking(&report).contains("b2/meta.yaml is damaged")
    );
    for (what, expected) in [
        ("experiments", (3, 3, 0)),
        ("tags of experiments", (1, 1, 0)),
        ("runs", (3, 2, 1)),
        ("params", (1, 1, 0)),
        ("tags of runs", (1, 1, 0)),
        ("points of metrics", (8, 5, 3)),
        ("inputs of runs", (1, 1, 0)),
        ("tags of inputs", (1, 1, 0)),
        ("models that runs read or made", (1, 1, 0)),
        ("logged models", (1, 1, 0)),
        ("points of logged models", (2, 1, 1)),
        ("registered models and prompts", (1, 1, 0)),
        ("model versions", (1, 1, 0)),
        ("tags of model versions", (1, 1, 0)),
        ("aliases", (1, 1, 0)),
        ("traces", (1, 1, 0)),
        ("metadata of traces", (1, 1, 0)),
        ("spans", (1, 1, 0)),
        ("assessments", (1, 1, 0)),
        ("artifact files", (3, 3, 0)),
    ] {
        assert_eq!(counts(&report).get(what), Some(&expected), "{what}");
    }
    let runs = report.lines.iter().find(|line| line.what == "runs").unwrap();
    assert!(runs.left[0].0.contains("b2/meta.yaml is damaged"), "{runs:?}");
    let a = tracking.run("a1").await.unwrap();
    assert_eq!((a.info.name.as_str(), a.info.user.as_str(), a.info.status, a.info.experiment), ("1e5", "mé", Status::Finished, 12));
    assert_eq!((a.params.as_slice(), a.tags.as_slice()), (&[pair("opt/lr", "0.1")][..], &[pair("mlflow.note.content", "two\nlines")][..]));
    let values: Vec<String> =
        history(&tracking, "a1", "val/loss").await.into_iter().map(|(time, step, value)| format!("{time} {step} {value}")).collect();
    assert_eq!(values, ["1 1 0.5".into(), "2 2 NaN".into(), format!("3 3 {}", f64::MAX), format!("4 0 {}", f64::MIN), "5 5 0.25".into()]);
    assert_eq!((a.datasets[0].dataset.profile.as_deref(), a.models[0].step), (Some("{\"rows\": 2}"), 2));
    assert_eq!(tracking.run_info("x1").await.unwrap().status, Status::Killed);
    assert_eq!(tracking.experiment(13).await.unwrap().stage, Stage::Deleted);
    assert_eq!(tracking.logged_model("m-1").await.unwrap().metrics[0].0.value, 0.75);
    let version = tracking.version_by_alias("clf", "champion").await.unwrap();
    assert_eq!((version.stage.as_str(), version.source.as_str()), ("Staging", "mlflow-artifacts:/12/a1/artifacts/model"));
    assert_eq!(content(&tracking, "12/a1/artifacts/notes.txt").await.unwrap(), "found beside");
    assert_eq!(content(&tracking, "12/models/m-1/artifacts/model.pkl").await.unwrap(), "pickled");
    assert_eq!(content(&tracking, "12/traces/tr-1/artifacts/traces.json").await.unwrap(), SPANS);
    let Trace { info: trace, spans } = tracking.trace("tr-1", &tracking.place().await.unwrap()).await.unwrap();
    assert!(
        spans.len() == 1 && spans[0].name == "agent" && trace.tags.contains(&pair("mlflow.trace.spansLocation", "TRACKING_STORE")),
        "{trace:?}"
    );
    assert_eq!((trace.start_time, trace.duration, trace.assessments[0].value.clone()), (1_772_323_199_120, Some(30), json!(0.5)));
    assert_eq!((trace.assessments[0].created, trace.assessments[0].updated), (1000, 2000));
    let again = stores.bring(&tracking).await.unwrap();
    assert_eq!(again, report);
}

#[tokio::test]
async fn a_file_that_is_none_of_the_stores_is_left_out_and_a_link_is_not_followed() {
    use std::os::unix::fs::symlink;
    let stores = Stores::new("mlruns");
    folder(&stores);
    stores.write("outside/key", "secret");
    let spoilt = |path: &str| {
        stores.write(path, "");
        fs::write(stores.path(path), [b'1', b' ', 0xff, 0xfe, b'\n']).unwrap();
    };
    for path in ["tags/.DS_Store", "params/.DS_Store", "metrics/.DS_Store"] {
        spoilt(&format!("mlruns/12/a1/{path}"));
    }
    stores.write("mlruns/12/.ipynb_checkpoints/notes", "");
    spoilt("mlruns/14/meta.yaml");
    spoilt("mlruns/models/clf/tags/.DS_Store");
    stores.write("mlruns/14/lost/meta.yaml", "run_id: lost");
    symlink(stores.path("outside/key"), stores.path("mlruns/12/a1/tags/stolen")).unwrap();
    stores.write("mlruns/12/models/m-1/metrics/spoilt", "1 x\n");
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    let told = lacking(&report);
    assert!(told.contains("tags/stolen is a link or no file") && told.contains("14/meta.yaml is no UTF-8"), "{told}");
    assert!(told.starts_with("2 files and folders") && !told.contains("DS_Store"), "{told}");
    for (what, expected) in [
        ("experiments", (4, 3, 1)),
        ("runs", (4, 2, 2)),
        ("tags of runs", (3, 1, 2)),
        ("params", (2, 1, 1)),
        ("points of metrics", (9, 5, 4)),
        ("points of logged models", (3, 1, 2)),
        ("tags of registered models", (2, 1, 1)),
    ] {
        assert_eq!(counts(&report).get(what), Some(&expected), "{what}");
    }
    symlink(stores.path("outside"), stores.path("mlruns/12/linked")).unwrap();
    let refused = stores.bring(&tracking).await.unwrap_err().message;
    assert!(refused.contains("12/linked is a link") && refused.contains("hint: "), "{refused}");
}

#[tokio::test]
async fn what_cannot_be_read_of_a_file_store_is_lacking() {
    let stores = Stores::new("mlruns");
    folder(&stores);
    let damaged = [
        "12/b2/meta.yaml",
        "12/models/m-2/meta.yaml",
        "12/traces/tr-2/trace_info.yaml",
        "12/traces/tr-1/assessments/a-2.yaml",
        "models/other/meta.yaml",
        "models/clf/version-3/meta.yaml",
    ];
    for path in damaged {
        stores.write(&format!("mlruns/{path}"), "a: [");
    }
    fs::write(stores.path("mlruns/12/a1/params/spoilt"), [0xff]).unwrap();
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    assert!(lacking(&report).starts_with("7 files and folders could not be read"), "{report:#?}");
    for (what, expected) in
        [("runs", (3, 2, 1)), ("logged models", (2, 1, 1)), ("traces", (2, 1, 1)), ("params", (2, 1, 1)), ("model versions", (2, 1, 1))]
    {
        assert_eq!(counts(&report).get(what), Some(&expected), "{what}");
    }
    for path in damaged {
        fs::remove_file(stores.path(&format!("mlruns/{path}"))).unwrap();
    }
    fs::remove_file(stores.path("mlruns/12/a1/params/spoilt")).unwrap();
    let report = stores.bring(&tracking).await.unwrap();
    assert!(lacking(&report).starts_with("5 files") && lacking(&report).contains("No such file"), "folders that say nothing: {report:#?}");
}

#[tokio::test]
async fn an_experiment_whose_folder_cannot_be_looked_into_is_not_taken_for_none() {
    let stores = Stores::new("mlruns");
    folder(&stores);
    let meta = stores.path("mlruns/12/meta.yaml");
    fs::remove_file(&meta).unwrap();
    std::os::unix::fs::symlink(stores.path("gone"), &meta).unwrap();
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    assert!(lacking(&report).contains("12/meta.yaml is a link or no file") && counts(&report)["experiments"] == (3, 2, 1), "{report:#?}");

    use std::os::unix::fs::PermissionsExt;
    let experiment = stores.path("mlruns/.trash/13");
    fs::set_permissions(&experiment, fs::Permissions::from_mode(0o600)).unwrap();
    // Which may look into it all the same.
    let is_root = fs::symlink_metadata(experiment.join("meta.yaml")).is_ok();
    let refused = stores.bring(&tracking).await;
    fs::set_permissions(&experiment, fs::Permissions::from_mode(0o700)).unwrap();
    if !is_root {
        let refused = refused.unwrap_err().message;
        assert!(refused.contains("13/meta.yaml") && refused.contains("denied"), "{refused}");
    }
}

#[tokio::test]
async fn any_file_of_a_folder_that_is_written_to_while_it_is_read_is_told() {
    for path in [
        "12/a1/metrics/val/loss",
        "12/a1/tags/mlflow.note.content",
        "12/models/m-1/meta.yaml",
        "12/traces/tr-1/trace_info.yaml",
        "12/traces/tr-1/tags/new",
        "models/clf/meta.yaml",
        "models/clf/aliases/champion",
        "models/clf/version-2/tags/q",
        "12/tags/k",
    ] {
        let stores = Stores::new("mlruns");
        folder(&stores);
        let tracking = stores.target().await;
        let is_first = std::sync::atomic::AtomicBool::new(true);
        let import = stores.import();
        let report = tracking.import_mlflow(&import, |_, _| {
            if is_first.swap(false, std::sync::atomic::Ordering::Relaxed) {
                use std::io::Write;
                let mut file = fs::File::options().append(true).create(true).open(stores.path("mlruns").join(path)).unwrap();
                file.write_all(b"\n").unwrap();
            }
        });
        let report = report.await.unwrap();
        assert!(report.lacking.iter().any(|what| what.contains("changed while it was read")), "{path}: {report:#?}");
    }
}

#[tokio::test]
async fn ids_that_are_no_part_of_a_path_are_left_out() {
    let stores = Stores::new("mlflow.db");
    database(&stores).await;
    stores.write("secret", "");
    stores.write("mlartifacts/0/secret", "");
    let odd = "INSERT INTO runs VALUES ('..', 'e', 'LOCAL', '', '', 'me', 'FINISHED', 1, 2, NULL, '', 'active', 'mlflow-artifacts:/gone', 0),
                                       ('a/b', 'f', 'LOCAL', '', '', 'me', 'FINISHED', 1, 2, NULL, '', 'active', 'mlflow-artifacts:/gone', 7);
        INSERT INTO params VALUES ('p', '1', '..');
        INSERT INTO logged_models VALUES ('%2e%2e', 7, 'clf', 'mlflow-artifacts:/gone', 300, 301, 2, 'active', 'kind', 'a', NULL);
        INSERT INTO trace_info (request_id, experiment_id, timestamp_ms, status, db_payload_generation) VALUES ('../x', 0, 1, 'OK', 0)";
    stores.sql(odd).await;
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    assert!(report.agrees(), "{report:#?}");
    for (what, expected) in [("runs", (6, 3, 3)), ("params", (5, 3, 2)), ("logged models", (2, 1, 1)), ("traces", (3, 2, 1))] {
        assert_eq!(counts(&report).get(what), Some(&expected), "{what}");
    }

    let stores = Stores::new("mlruns");
    folder(&stores);
    let input = "mlruns/12/a1/inputs/i/meta.yaml";
    let meta = fs::read_to_string(stores.path(input)).unwrap();
    stores.write(input, &meta.replace("source_id: ds", "source_id: ../../12/datasets/ds"));
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    assert!(report.agrees() && counts(&report)["inputs of runs"] == (1, 0, 1), "{report:#?}");
}

#[tokio::test]
async fn what_a_folder_gets_behind_the_reader_is_counted_by_this_run_and_comes_with_the_next() {
    let stores = Stores::new("mlruns");
    folder(&stores);
    let meta = |id: &str, status: u8| {
        let meta = fs::read_to_string(stores.path("mlruns/12/a1/meta.yaml")).unwrap();
        meta.replace("a1", id).replace("status: 3", &format!("status: {status}"))
    };
    for run in 0..40 {
        stores.write(&format!("mlruns/12/r{run:02}/meta.yaml"), &meta(&format!("r{run:02}"), 1));
        stores.write(&format!("mlruns/12/r{run:02}/metrics/m"), &(0..1500).map(|at| format!("{at} {at} {at}\n")).collect::<String>());
    }
    let tracking = stores.target().await;
    let is_first = std::sync::atomic::AtomicBool::new(true);
    // Once so many points have come, the first runs have been read.
    let import = stores.import();
    let report = tracking.import_mlflow(&import, |what, count| {
        if what == "points of metrics" && count > 15_000 && is_first.swap(false, std::sync::atomic::Ordering::Relaxed) {
            stores.write("mlruns/12/0new/meta.yaml", &meta("0new", 3));
            stores.write("mlruns/12/r00/meta.yaml", &meta("r00", 3));
            stores.write("mlruns/12/r00/tags/late", "tag");
        }
    });
    let report = report.await.unwrap();
    let missing: Vec<_> = report.lines.iter().filter(|line| line.missing() > 0).map(|line| line.what).collect();
    assert!(missing.contains(&"runs") && report.lacking[0].contains("changed while it was read"), "{report:#?}");
    let report = stores.bring(&tracking).await.unwrap();
    assert!(report.agrees() && counts(&report)["runs"] == (43, 43, 0), "{report:#?}");
    assert_eq!(tracking.run_info("0new").await.unwrap().status, Status::Finished);
    let first = tracking.run("r00").await.unwrap();
    assert_eq!((first.info.status, first.tags), (Status::Finished, vec![pair("late", "tag")]));
}

#[tokio::test]
async fn two_experiments_of_one_name_are_told_apart() {
    let mut stores = Stores::new("mlruns");
    folder(&stores);
    let gone = fs::read_to_string(stores.path("mlruns/.trash/13/meta.yaml")).unwrap();
    stores.write("mlruns/.trash/13/meta.yaml", &gone.replace("name: gone", "name: churn"));
    let tracking = stores.target().await;
    let refused = stores.bring(&tracking).await.unwrap_err().message;
    assert!(refused.contains("experiment `churn` (13 there) is experiment 12 there"), "{refused}");
    stores.clashes = Clashes::Rename;
    for _ in 0..2 {
        assert!(stores.bring(&tracking).await.unwrap().agrees());
        let (first, second) = (tracking.experiment(12).await.unwrap(), tracking.experiment(13).await.unwrap());
        assert_eq!((first.name.as_str(), second.name.as_str()), ("churn", "churn (imported)"));
    }
}

#[tokio::test]
async fn a_file_store_that_was_left_in_the_middle_goes_on_with_the_next_run() {
    let stores = Stores::new("mlruns");
    folder(&stores);
    for run in 0..40 {
        let id = format!("r{run:02}");
        let meta = fs::read_to_string(stores.path("mlruns/12/a1/meta.yaml")).unwrap().replace("a1", &id);
        stores.write(&format!("mlruns/12/{id}/meta.yaml"), &meta);
        let points: String = (0..1500).map(|at| format!("{at} {at} {at}\n")).collect();
        stores.write(&format!("mlruns/12/{id}/metrics/m"), &points);
    }
    for end in 0..3 {
        let tracking = stores.target().await;
        let (told, mut ended) = tokio::sync::mpsc::unbounded_channel();
        let import = stores.import();
        let work = tracking.import_mlflow(&import, move |_, _| told.send(()).unwrap());
        let stop = async {
            for _ in 0..=end {
                ended.recv().await;
            }
        };
        tokio::select! { biased; () = stop => {}, done = work => { done.unwrap(); } }
        tracking.close().await;
    }
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    assert!(report.agrees(), "{report:#?}");
    assert_eq!((counts(&report)["runs"], counts(&report)["points of metrics"]), ((42, 42, 0), (60_008, 60_005, 3)));
    assert_eq!(history(&tracking, "r39", "m").await.len(), 1500);
}

#[tokio::test]
async fn what_cannot_be_read_of_artifacts_is_told_and_the_rest_comes() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let stores = Stores::new("mlflow.db");
    database(&stores).await;
    symlink(stores.path("loop"), stores.path("loop")).unwrap();
    let base = stores.path("");
    let changes = format!(
        "UPDATE runs SET artifact_uri = '{0}loop/artifacts' WHERE run_uuid = 'b'; UPDATE logged_models SET artifact_location = '{0}';
         INSERT INTO runs VALUES ('e', 'e', 'LOCAL', '', '', 'me', 'FINISHED', 1, 2, NULL, '', 'active', '{0}{1}', 7),
                                 ('f', 'f', 'LOCAL', '', '', 'me', 'FINISHED', 1, 2, NULL, '', 'active', '{0}tracking/artifacts', 7)",
        base.display(),
        "x".repeat(5000)
    );
    stores.sql(&changes).await;
    let (closed, secret) = (stores.path("there/7/a/artifacts/closed"), stores.path("there/7/a/artifacts/secret"));
    fs::create_dir(&closed).unwrap();
    fs::write(&secret, "").unwrap();
    for path in [&closed, &secret] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o0)).unwrap();
    }
    // Which may read these all the same.
    let is_root = fs::read_dir(&closed).is_ok();
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(!report.agrees() && report.lacking.len() == 1, "{report:#?}");
    let told = &report.lacking[0];
    assert!(told.starts_with(if is_root { "3 files" } else { "5 files" }), "{told}");
    assert!(told.contains("the source lies in it") && told.contains("the folder to bring it to") && told.contains("hint: "), "{told}");
    assert_eq!(counts(&report)["runs"], (6, 5, 1));
    assert_eq!(counts(&report)["artifact files"], if is_root { (3, 3, 0) } else { (3, 2, 1) });
    assert_eq!(content(&tracking, "0/b/artifacts/notes.txt").await.unwrap(), "of the server", "found by the layout");
    assert_eq!(content(&tracking, "7/a/artifacts/model/MLmodel").await.unwrap(), "flavors");
    assert!(content(&tracking, "7/models/m-1/artifacts/mlflow.db").await.is_none(), "the source is nobody's artifact");
}

#[tokio::test]
async fn a_file_of_what_is_finished_here_stays_unless_that_of_the_source_is_wished() {
    let mut stores = Stores::new("mlflow.db");
    database(&stores).await;
    let tracking = stores.target().await;
    assert!(stores.bring(&tracking).await.unwrap().agrees());
    stores.write("there/7/a/artifacts/model/MLmodel", "favours");
    fs::remove_file(stores.path("there/7/models/m-1/artifacts/model.pkl")).unwrap();
    stores.write("there/7/models/m-1/artifacts/model.pkl/part", "a folder where a file is");
    let report = stores.bring(&tracking).await.unwrap();
    assert!(!report.agrees() && differing(&report) == [("artifact files", 2)], "{report:#?}");
    assert_eq!(content(&tracking, "7/a/artifacts/model/MLmodel").await.unwrap(), "flavors");
    stores.differences = Differences::Take;
    let report = stores.bring(&tracking).await.unwrap();
    assert_eq!(differing(&report), [("artifact files", 1)], "{report:#?}");
    assert!(report.notes.iter().any(|note| note.starts_with("artifact files: values that were others")), "{report:#?}");
    assert_eq!(content(&tracking, "7/a/artifacts/model/MLmodel").await.unwrap(), "favours");
}

#[tokio::test]
async fn an_experiment_that_does_not_say_when_it_was_made_is_known_by_its_runs_whatever_its_name() {
    let stores = Stores::new("mlflow.db");
    database(&stores).await;
    stores.sql("INSERT INTO runs VALUES ('e', 'e', 'LOCAL', '', '', 'me', 'FINISHED', 1, 2, NULL, '', 'active', 'mlflow-artifacts:/7/e/artifacts', 7)").await;
    stores.sql("UPDATE experiments SET creation_time = NULL, last_update_time = NULL").await;
    let tracking = stores.target().await;
    assert!(stores.bring(&tracking).await.unwrap().agrees());
    stores.sql("UPDATE experiments SET name = 'leaving' WHERE experiment_id = 7").await;
    assert_eq!(differing(&stores.bring(&tracking).await.unwrap()), [("experiments", 1)]);
    assert_eq!(tracking.search_experiments(&query("")).await.unwrap().items.len(), 3);

    stores
        .sql("UPDATE experiments SET name = 'churn' WHERE experiment_id = 7; UPDATE runs SET experiment_id = 0 WHERE run_uuid = 'a'")
        .await;
    stores.write("there/7/a/artifacts/new.txt", "new");
    let report = stores.bring(&tracking).await.unwrap();
    assert!(differing(&report).contains(&("runs", 1)), "a run that lies in another experiment here: {report:#?}");
    assert_eq!(tracking.run_info("a").await.unwrap().experiment, 7);
    assert_eq!(content(&tracking, "7/a/artifacts/new.txt").await.unwrap(), "new", "where the run says that its artifacts are");
}

#[tokio::test]
async fn experiment_0_of_another_origin_keeps_what_it_is_and_takes_the_runs_in() {
    let mut stores = Stores::new("mlflow.db");
    database(&stores).await;
    stores.sql("UPDATE experiments SET name = 'theirs', lifecycle_stage = 'deleted' WHERE experiment_id = 0; INSERT INTO experiment_tags VALUES ('of', 'them', 0)").await;
    let tracking = stores.target().await;
    tracking.rename_experiment(0, "ours".into()).await.unwrap();
    for differences in [Differences::Keep, Differences::Take] {
        stores.differences = differences;
        let report = stores.bring(&tracking).await.unwrap();
        assert!(report.agrees() && report.notes.iter().filter(|note| note.contains("experiment 0 here")).count() == 1, "{report:#?}");
        let ours = tracking.experiment(0).await.unwrap();
        assert_eq!((ours.name.as_str(), ours.stage, ours.tags.len()), ("ours", Stage::Active, 0));
        assert_eq!(tracking.run_info("b").await.unwrap().experiment, 0);
    }
}

#[tokio::test]
async fn the_spans_of_a_trace_that_was_at_work_are_those_of_its_end() {
    let stores = Stores::new("mlflow.db");
    database(&stores).await;
    let span = |name: &str| {
        format!(
            r#"{{"trace_id": "AAAAAAAAAAAAAAAAAAAAAQ==", "span_id": "AAAAAAAAAAM=", "parent_span_id": null, "name": "{name}", "start_time_unix_nano": 5,
               "end_time_unix_nano": 9, "status": {{"code": "STATUS_CODE_OK", "message": ""}}, "attributes": {{}}, "events": [], "links": []}}"#
        )
    };
    stores.sql(&format!("UPDATE spans SET content = '{}' WHERE trace_id = '0123'", span("begun"))).await;
    let tracking = stores.target().await;
    stores.bring(&tracking).await.unwrap();
    let ended = format!(
        "UPDATE spans SET content = '{}' WHERE trace_id = '0123'; UPDATE trace_info SET status = 'OK', execution_time_ms = 9 WHERE request_id = '0123'",
        span("ended")
    );
    stores.sql(&ended).await;
    stores.bring(&tracking).await.unwrap();
    let trace = tracking.trace("0123", &tracking.place().await.unwrap()).await.unwrap();
    assert_eq!((trace.info.state, trace.spans.len(), trace.spans[0].name.as_str()), (TraceState::Ok, 1, "ended"));

    // An import that was ended between the trace and its spans.
    stores.sql(&format!("UPDATE spans SET content = '{}' WHERE trace_id = '0123'", span("later"))).await;
    stores.bring(&tracking).await.unwrap();
    let trace = tracking.trace("0123", &tracking.place().await.unwrap()).await.unwrap();
    assert_eq!(trace.spans[0].name, "ended", "spans of a finished trace stay");
    tracking.close().await;
    let ended = "CREATE TABLE import_seen (kind TEXT NOT NULL, id INTEGER NOT NULL, part INTEGER NOT NULL, PRIMARY KEY (kind, id, part)) WITHOUT ROWID;
                 INSERT INTO import_seen SELECT 'growing', id, 0 FROM traces WHERE trace_id = '0123'";
    let ended_there =
        "CREATE TABLE import_seen (kind TEXT NOT NULL, id BIGINT NOT NULL, part BIGINT NOT NULL, PRIMARY KEY (kind, id, part));
                       INSERT INTO import_seen SELECT 'growing', id, 0 FROM traces WHERE trace_id = '0123'";
    stores.sql_in_target(ended, ended_there).await;
    let tracking = stores.target().await;
    stores.bring(&tracking).await.unwrap();
    let trace = tracking.trace("0123", &tracking.place().await.unwrap()).await.unwrap();
    assert_eq!(trace.spans[0].name, "later");
}

#[tokio::test]
async fn a_trace_that_was_at_work_gets_its_name_times_usage_and_cost_with_its_end() {
    let mut stores = Stores::new("mlflow.db");
    database(&stores).await;
    let begun = "INSERT INTO trace_info (request_id, experiment_id, timestamp_ms, status, db_payload_generation) VALUES ('rows', 0, 1, 'IN_PROGRESS', 0);
        INSERT INTO trace_tags VALUES ('mlflow.traceName', 'begun', 'rows');
        INSERT INTO trace_request_metadata VALUES ('mlflow.trace.tokenUsage', '{\"total_tokens\": 1}', 'rows'), ('mlflow.trace.sizeStats', '{\"n\": 1}', 'rows')";
    stores.sql(begun).await;
    let tracking = stores.target().await;
    assert!(stores.bring(&tracking).await.unwrap().agrees());
    let ended = "UPDATE trace_info SET status = 'OK', execution_time_ms = 9, timestamp_ms = 590, trace_name = 'final', total_tokens = 70, session_id = 's-1',
                     total_cost = 0.5, client_request_id = 'c-1', request_preview = 'q', response_preview = 'a' WHERE request_id = '0123';
        UPDATE trace_info SET status = 'ERROR', timestamp_ms = 2 WHERE request_id = 'rows'; UPDATE trace_tags SET value = 'ended' WHERE request_id = 'rows';
        UPDATE trace_request_metadata SET value = '{\"total_tokens\": 2}' WHERE key = 'mlflow.trace.tokenUsage';
        UPDATE trace_request_metadata SET value = '{\"n\": 2}' WHERE key = 'mlflow.trace.sizeStats';
        INSERT INTO trace_request_metadata VALUES ('mlflow.trace.session', 's-2', 'rows'), ('mlflow.trace.tokenUsage', '{ \"total_tokens\": 70 }', '0123')";
    stores.sql(ended).await;
    for _ in 0..2 {
        let report = stores.bring(&tracking).await.unwrap();
        assert!(report.agrees(), "{report:#?}");
        let trace = tracking.trace_info("0123").await.unwrap();
        assert_eq!(
            (trace.state, trace.start_time, trace.duration, trace.client_request_id.as_deref()),
            (TraceState::Ok, 590, Some(9), Some("c-1"))
        );
        assert_eq!((trace.request_preview.as_deref(), trace.response_preview.as_deref()), (Some("q"), Some("a")));
        assert_eq!(trace.tags, [pair("mlflow.traceName", "final")]);
        let [cost, session, usage] = ["{\"total_cost\": 0.5}", "s-1", "{\"total_tokens\": 70}"];
        assert_eq!(
            trace.metadata,
            [pair("mlflow.trace.cost", cost), pair("mlflow.trace.session", session), pair("mlflow.trace.tokenUsage", usage)]
        );
        let rows = tracking.trace_info("rows").await.unwrap();
        assert_eq!((rows.state, rows.start_time, rows.tags), (TraceState::Error, 2, vec![pair("mlflow.traceName", "ended")]));
        let [stats, usage] = ["{\"n\": 2}", "{\"total_tokens\": 2}"];
        assert_eq!(
            rows.metadata,
            [pair("mlflow.trace.session", "s-2"), pair("mlflow.trace.sizeStats", stats), pair("mlflow.trace.tokenUsage", usage)]
        );
    }
    assert_eq!(tracking.search_traces(&[0], &query("attributes.name = 'final'")).await.unwrap().items.len(), 1);

    let later = "UPDATE trace_request_metadata SET value = 's-3' WHERE key = 'mlflow.trace.session' AND request_id = 'rows';
                 UPDATE trace_info SET trace_name = 'renamed' WHERE request_id = '0123'";
    stores.sql(later).await;
    let report = stores.bring(&tracking).await.unwrap();
    assert_eq!(differing(&report), [("tags of traces", 1), ("metadata of traces", 1)], "of a finished trace: {report:#?}");
    stores.differences = Differences::Take;
    assert!(stores.bring(&tracking).await.unwrap().agrees());
    assert!(tracking.trace_info("rows").await.unwrap().metadata.contains(&pair("mlflow.trace.session", "s-3")));
    assert_eq!(tracking.search_traces(&[0], &query("attributes.name = 'renamed'")).await.unwrap().items.len(), 1);
}

/// What lacks, in one text.
fn lacking(report: &ImportReport) -> String {
    assert!(!report.agrees(), "{report:#?}");
    report.lacking.join("\n")
}

#[tokio::test]
async fn links_and_names_that_are_not_served_lack_among_artifacts() {
    let stores = Stores::new("mlflow.db");
    database(&stores).await;
    stores.write("there/7/a/artifacts/%2e%2e/inside", "not counted");
    std::os::unix::fs::symlink("/etc/hosts", stores.path("there/7/a/artifacts/link")).unwrap();
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    let told = lacking(&report);
    assert!(told.starts_with("2 files and folders could not be read: "), "{told}");
    assert!(told.contains("link (it is a link or no file)") && told.contains("what lies in it is not counted"), "{told}");
    assert_eq!(counts(&report)["artifact files"], (5, 3, 2));
}

#[tokio::test]
async fn versions_of_folders_that_did_not_come_are_lacking() {
    let stores = Stores::new("mlflow.db");
    database(&stores).await;
    let versions = "INSERT INTO model_versions (workspace, name, version, creation_time, source, storage_location, current_stage) VALUES
        ('default', 'clf', 4, 1, '/somewhere/model', NULL, 'None'), ('default', 'clf', 5, 1, 's3://bucket/model', NULL, 'None'),
        ('default', 'clf', 6, 1, 'dummy-source', NULL, 'None')";
    stores.sql(versions).await;
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    assert!(
        lacking(&report).starts_with("1 addresses of model versions") && lacking(&report).contains(": /somewhere/model\n"),
        "{report:#?}"
    );
    assert_eq!(tracking.model_version("clf", 4).await.unwrap().source, "/somewhere/model");
}

#[tokio::test]
async fn runs_and_spans_that_did_not_come_as_they_will_be_are_told() {
    let stores = Stores::new("mlruns");
    folder(&stores);
    let meta = fs::read_to_string(stores.path("mlruns/12/a1/meta.yaml")).unwrap();
    stores.write("mlruns/12/a2/meta.yaml", &meta.replace("a1", "a2").replace("status: 3", "status: 1"));
    stores.write("mlruns/12/traces/tr-1/artifacts/traces.json", r#"{"spans": [{"name": "odd"}]}"#);
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    let told = |what: &str| report.notes.iter().any(|note| note.starts_with(what));
    assert!(report.agrees() && told("runs: 1 were not finished when they were read"), "{report:#?}");
    assert!(
        told("the spans of 1 traces stay in their files traces.json") && report.notes.iter().any(|note| note.contains(": tr-1 (it holds")),
        "{report:#?}"
    );
    stores.write("mlruns/12/traces/tr-1/artifacts/traces.json", &SPANS.replace("\"start_time\": 5", "\"start_time\": 5, \"x\": NaN"));
    let report = stores.bring(&tracking).await.unwrap();
    assert_eq!(counts(&report)["spans"], (1, 1, 0), "JSON of Python: {report:#?}");
}

#[tokio::test]
async fn spans_that_are_damaged_in_the_database_are_lacking() {
    let stores = Stores::new("mlflow.db");
    database(&stores).await;
    stores.sql("UPDATE spans SET content = 'no span' WHERE trace_id = '0123'").await;
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    assert_eq!((lacking(&report).as_str(), counts(&report)["spans"]), ("spans: 1 are damaged in the database and did not come", (2, 1, 1)));
}

#[tokio::test]
async fn spans_of_archived_traces_come_from_the_archive_and_lack_where_it_is_not_there() {
    use prost::Message;
    const TRACE: &str = "tr-00000000000000000000000000000001";
    let mut stores = Stores::new("mlflow.db");
    database(&stores).await;
    let archive = format!("{}/archive/7/traces/{TRACE}/artifacts", stores.dir.path().display());
    let archived = format!(
        "UPDATE spans SET content = '' WHERE trace_id = '{TRACE}';
         INSERT INTO trace_tags VALUES ('mlflow.trace.spansLocation', 'ARCHIVE_REPO', '{TRACE}'), ('mlflow.trace.archiveLocation', '{archive}', '{TRACE}')"
    );
    let before = Stores::new("mlflow.db");
    fs::copy(stores.path("mlflow.db"), before.path("mlflow.db")).unwrap();
    stores.sql(&archived).await;
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    assert!(lacking(&report).starts_with(&format!("spans of 1 archived traces did not come: {TRACE}\n")), "{report:#?}");
    assert_eq!(counts(&report)["spans"], (2, 1, 1));

    stores.write(&format!("archive/7/traces/{TRACE}/artifacts/traces.pb"), "no spans");
    let report = stores.bring(&tracking).await.unwrap();
    assert!(lacking(&report).contains("traces.pb (it holds something else than spans)"), "{report:#?}");

    let text = |text: &str| AnyValue { value: Some(Any::Text(text.into())) };
    let span = Span {
        trace_id: [vec![0; 15], vec![1]].concat(),
        span_id: [vec![0; 7], vec![2]].concat(),
        name: "agent".into(),
        start_time_unix_nano: 5,
        end_time_unix_nano: 9,
        attributes: vec![KeyValue { key: "mlflow.spanType".into(), value: Some(text("AGENT")) }],
        ..Span::default()
    };
    // Of a message, a field of bytes: `TracesData`, in it `ResourceSpans`, in it `ScopeSpans`.
    let field = |number: u8, content: Vec<u8>| [vec![number << 3 | 2, u8::try_from(content.len()).unwrap()], content].concat();
    let content = field(1, field(2, field(2, span.encode_to_vec())));
    fs::write(format!("{archive}/traces.pb"), content).unwrap();
    for _ in 0..2 {
        let report = stores.bring(&tracking).await.unwrap();
        assert!(report.agrees() && counts(&report)["spans"] == (2, 2, 0), "{report:#?}");
        let trace = tracking.trace(TRACE, &tracking.place().await.unwrap()).await.unwrap();
        assert_eq!((trace.spans.len(), trace.spans[0].name.as_str()), (1, "agent"));
        assert!(trace.info.tags.contains(&pair("mlflow.trace.spansLocation", "TRACKING_STORE")), "{trace:?}");
    }
    assert_eq!(tracking.search_traces(&[7], &query("span.type = 'AGENT'")).await.unwrap().items.len(), 1);

    let other = common::open(&stores.path("other")).await.unwrap();
    other.create_experiment(NewExperiment { name: "churn".into(), ..NewExperiment::default() }).await.unwrap();
    stores.clashes = Clashes::Skip;
    let report = stores.bring(&other).await.unwrap();
    let is_told = report.lacking.iter().any(|what| what.contains("archive"));
    assert!(!is_told && counts(&report)["spans"] == (2, 1, 1), "of an experiment that is left out: {report:#?}");

    // One that was archived after it had come.
    fs::remove_dir_all(stores.path("archive")).unwrap();
    stores.dir = before.dir;
    let tracking = stores.target().await;
    stores.bring(&tracking).await.unwrap();
    stores.sql(&archived).await;
    let report = stores.bring(&tracking).await.unwrap();
    assert!(report.lacking.iter().all(|what| !what.contains("archive")) && counts(&report)["spans"] == (2, 2, 0), "{report:#?}");
}

#[tokio::test]
async fn json_of_python_that_is_no_number_comes_over_and_what_is_damaged_is_lacking() {
    let stores = Stores::new("mlflow.db");
    database(&stores).await;
    let odd = r#"UPDATE evaluation_dataset_records SET inputs = '{"q": NaN, "t": "NaN"}', expectations = '{"x": [Infinity, -Infinity]}', outputs = '{"mlflow_wrapped": NaN}';
        UPDATE assessments SET value = '{"a": [NaN]}' WHERE assessment_id = 'a-2'; UPDATE assessments SET value = 'NaN' WHERE assessment_id = 'a-1';
        INSERT INTO evaluation_dataset_records (dataset_record_id, dataset_id, inputs, expectations, created_time, last_update_time, input_hash)
            VALUES ('dr-2', 'd-1', '{"q"', NULL, 1, 2, 'i'), ('dr-3', 'd-1', '{"q": 3}', '[1', 1, 2, 'j')"#;
    stores.sql(odd).await;
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    assert_eq!(lacking(&report), "records of evaluation datasets: 2 are damaged in the database and did not come");
    assert_eq!(counts(&report)["records of evaluation datasets"], (3, 1, 2));
    let records = tracking.records("d-1", 10, None, &tracking.place().await.unwrap()).await.unwrap().items;
    assert_eq!(json!(records[0].inputs), json!({"q": "NaN", "t": "NaN"}));
    assert_eq!((json!(records[0].expectations), records[0].outputs.clone()), (json!({"x": ["Infinity", "-Infinity"]}), Some(json!("NaN"))));
    let trace = tracking.trace_info("tr-00000000000000000000000000000001").await.unwrap();
    let said: Vec<_> = trace.assessments.iter().map(|a| (a.id.as_str(), a.value.clone())).collect();
    assert_eq!(said, [("a-1", json!("NaN")), ("a-2", json!({"a": ["NaN"]}))]);
}

#[tokio::test]
async fn spans_in_files_that_are_larger_together_than_what_is_stored_at_once_all_come() {
    let stores = Stores::new("mlruns");
    folder(&stores);
    let info = fs::read_to_string(stores.path("mlruns/12/traces/tr-1/trace_info.yaml")).unwrap();
    // What does not compress.
    let mut state = 1u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'A' + (state >> 59) as u8 % 26)
    });
    let noise: String = noise.take(19 << 20).collect();
    for trace in 0..4 {
        let at = format!("mlruns/12/traces/big-{trace}");
        stores.write(&format!("{at}/trace_info.yaml"), &info.replace("tr-1", &format!("big-{trace}")));
        stores.write(&format!("{at}/tags/mlflow.artifactLocation"), &format!("file:///moved/{at}/artifacts"));
        stores.write(&format!("{at}/artifacts/traces.json"), &SPANS.replace("\"\\\"AGENT\\\"\"", &format!("\"{noise}\"")));
    }
    let tracking = stores.target().await;
    let report = stores.bring(&tracking).await.unwrap();
    assert!(report.agrees() && counts(&report)["spans"] == (5, 5, 0), "{report:#?}");
}

#[tokio::test]
async fn a_registered_model_is_not_called_what_another_of_the_source_is() {
    let mut stores = Stores::new("mlflow.db");
    database(&stores).await;
    stores.sql("INSERT INTO registered_models VALUES ('default', 'clf (imported)', 400, 401, 'another')").await;
    let tracking = stores.target().await;
    tracking.create_registered_model("clf", "mine", Vec::new()).await.unwrap();
    stores.clashes = Clashes::Rename;
    for _ in 0..2 {
        assert!(stores.bring(&tracking).await.unwrap().agrees());
        assert_eq!(tracking.registered_model("clf (imported)").await.unwrap().description, "another");
        assert_eq!(tracking.version_by_alias("clf (imported 2)", "champion").await.unwrap().version, 3);
    }
}

#[tokio::test]
async fn a_folder_that_another_machine_writes_to_has_changed_by_its_own_clock() {
    let stores = Stores::new("mlruns");
    folder(&stores);
    let tracking = stores.target().await;
    let is_first = std::sync::atomic::AtomicBool::new(true);
    let import = stores.import();
    let report = tracking.import_mlflow(&import, |_, _| {
        if is_first.swap(false, std::sync::atomic::Ordering::Relaxed) {
            let meta = fs::File::options().append(true).open(stores.path("mlruns/12/a1/meta.yaml")).unwrap();
            meta.set_modified(std::time::UNIX_EPOCH).unwrap();
        }
    });
    let report = report.await.unwrap();
    assert!(report.lacking.iter().any(|what| what.contains("changed while it was read")), "{report:#?}");
}

#[tokio::test]
async fn a_model_that_is_made_here_meanwhile_is_not_taken_for_that_of_the_source() {
    let stores = Stores::new("mlflow.db");
    database(&stores).await;
    stores.sql("WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 100000) INSERT INTO metrics SELECT 'many', x, x, x, 0, 'a' FROM n").await;
    let tracking = stores.target().await;
    let (told, mut come) = tokio::sync::mpsc::unbounded_channel();
    let import = stores.import();
    let work = tracking.import_mlflow(&import, move |what, _| drop(told.send(what.to_string())));
    let make = async {
        come.recv().await;
        tracking.create_registered_model("clf", "mine", Vec::new()).await.unwrap();
    };
    let (report, ()) = tokio::join!(work, make);
    let counts = counts(&report.unwrap());
    assert_eq!((counts["registered models and prompts"], counts["model versions"], counts["aliases"]), ((3, 1, 2), (3, 1, 2), (1, 0, 1)));
    assert_eq!(tracking.registered_model("clf").await.unwrap().description, "mine");
    assert!(tracking.model_version("clf", 1).await.is_err(), "a version of the source's in a model that is another one");
}
