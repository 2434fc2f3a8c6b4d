//! The schema `tracking`: what MLflow's clients logged.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use anyhow::Context;
use kilter_sql::{Cell, Column, Kind, Placed, Wanted};
use kilter_tracking::{
    Assessment, DatasetInput, ErrorCode, Experiment, Metric, ModelVersion, Page, Pair, Query, RegisteredModel, Result, Run, TraceInfo,
    Tracking, View,
};
use tokio::runtime::Handle;

use super::Logged;

/// Rows asked of the store at once.
const PAGE: usize = 500;
/// Points of a metric asked for at once.
const POINTS: usize = 10_000;

/// The tables; to be made where the runtime is that the store works on.
pub fn tables(logged: &Logged) -> Vec<Placed> {
    let with = With { logged: logged.clone(), runtime: Handle::current() };
    vec![
        experiments(&with),
        experiment_tags(&with),
        runs(&with),
        run_pairs(&with, "params", "Params of runs", |run| run.params),
        run_pairs(&with, "run_tags", "Tags of runs", |run| run.tags),
        metrics(&with),
        history(&with),
        datasets(&with),
        models(&with),
        model_tags(&with),
        model_aliases(&with),
        versions(&with),
        version_tags(&with),
        traces(&with),
        trace_pairs(&with, "trace_tags", "Tags of traces", |trace| trace.tags),
        trace_pairs(&with, "trace_metadata", "What clients said of traces beside tags", |trace| trace.metadata),
        assessments(&with),
    ]
}

/// What it takes to ask.
#[derive(Clone)]
struct With {
    logged: Logged,
    runtime: Handle,
}

type Each<'a, R> = &'a mut dyn FnMut(R) -> ControlFlow<()>;

/// A table whose rows are asked of the store.
fn table<R: 'static>(
    with: &With,
    name: &str,
    comment: &str,
    columns: Vec<Column<R>>,
    narrows: &'static [&'static str],
    list: impl Fn(&Asked<'_>, Each<'_, R>) -> anyhow::Result<()> + Send + Sync + 'static,
) -> Placed {
    let with = with.clone();
    let rows = move |wanted: &Wanted, row: Each<'_, R>| {
        let tracking =
            with.logged.0.get().cloned().context("the store of what MLflow's clients log is not open; the server's log says why")?;
        list(&Asked { tracking, runtime: &with.runtime, wanted }, row)
    };
    Placed::new("tracking", name, comment, columns, narrows, Box::new(rows))
}

/// A scan under way.
struct Asked<'a> {
    tracking: Tracking,
    runtime: &'a Handle,
    wanted: &'a Wanted,
}

impl Asked<'_> {
    fn wait<T>(&self, future: impl Future<Output = Result<T>>) -> anyhow::Result<T> {
        Ok(self.runtime.block_on(future)?)
    }

    /// What is not there any more is no row.
    fn found<T>(&self, future: impl Future<Output = Result<T>>) -> anyhow::Result<Option<T>> {
        match self.runtime.block_on(future) {
            Ok(found) => Ok(Some(found)),
            Err(e) if e.code == ErrorCode::ResourceDoesNotExist => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The texts that a column may have; none: any.
    fn texts(&self, column: &str) -> Option<&BTreeSet<String>> {
        self.wanted.bounds.texts(column)
    }

    /// Page by page, until enough is there.
    fn pages<T>(
        &self,
        order_by: &[&str],
        row: Each<'_, T>,
        search: impl Fn(&Query) -> anyhow::Result<Page<T>>,
    ) -> anyhow::Result<ControlFlow<()>> {
        let mut query =
            Query { view: View::All, order_by: order_by.iter().map(ToString::to_string).collect(), max_results: PAGE, ..Query::default() };
        loop {
            let page = search(&query)?;
            if page.items.into_iter().try_for_each(&mut *row).is_break() || !(self.wanted.is_wanted)() {
                return Ok(ControlFlow::Break(()));
            }
            query.page_token = page.next;
            if query.page_token.is_none() {
                return Ok(ControlFlow::Continue(()));
            }
        }
    }

    fn each_experiment(&self, row: Each<'_, Experiment>) -> anyhow::Result<()> {
        if let Some(ids) = self.wanted.bounds.numbers("experiment_id") {
            for id in ids {
                if let Some(experiment) = self.found(self.tracking.experiment(id))?
                    && row(experiment).is_break()
                {
                    break;
                }
            }
            return Ok(());
        }
        // What is logged meanwhile comes last.
        let _ = self.pages(&["creation_time ASC"], row, |query| self.wait(self.tracking.search_experiments(query)))?;
        Ok(())
    }

    /// The experiments that a condition names, or all. In parts: a search takes only so many.
    fn experiments(&self) -> anyhow::Result<Vec<Vec<i64>>> {
        let ids: Vec<i64> = match self.wanted.bounds.numbers("experiment_id") {
            Some(ids) => ids.into_iter().collect(),
            None => {
                let mut ids = Vec::new();
                self.each_experiment(&mut |experiment| {
                    ids.push(experiment.id);
                    ControlFlow::Continue(())
                })?;
                ids
            }
        };
        Ok(ids.chunks(1000).map(<[i64]>::to_vec).collect())
    }

    fn each_run(&self, row: Each<'_, Run>) -> anyhow::Result<()> {
        if let Some(ids) = self.texts("run_id") {
            for id in ids {
                if let Some(run) = self.found(self.tracking.run(id))?
                    && row(run).is_break()
                {
                    break;
                }
            }
            return Ok(());
        }
        for ids in self.experiments()? {
            let search = |query: &Query| self.wait(self.tracking.search_runs(&ids, query));
            if self.pages(&["attributes.start_time ASC"], row, search)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn each_trace(&self, row: Each<'_, TraceInfo>) -> anyhow::Result<()> {
        if let Some(ids) = self.texts("trace_id") {
            for id in ids {
                if let Some(trace) = self.found(self.tracking.trace_info(id))?
                    && row(trace).is_break()
                {
                    break;
                }
            }
            return Ok(());
        }
        for ids in self.experiments()? {
            let search = |query: &Query| self.wait(self.tracking.search_traces(&ids, query));
            if self.pages(&["timestamp ASC"], row, search)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn each_model(&self, row: Each<'_, RegisteredModel>) -> anyhow::Result<()> {
        if let Some(names) = self.texts("model") {
            for name in names {
                if let Some(model) = self.found(self.tracking.registered_model(name))?
                    && row(model).is_break()
                {
                    break;
                }
            }
            return Ok(());
        }
        let _ = self.pages(&["name ASC"], row, |query| self.wait(self.tracking.search_registered_models(query)))?;
        Ok(())
    }

    fn each_version(&self, row: Each<'_, ModelVersion>) -> anyhow::Result<()> {
        let search = |query: &Query| self.wait(self.tracking.search_model_versions(query));
        let _ = self.pages(&["creation_timestamp ASC"], row, search)?;
        Ok(())
    }
}

fn text<R: 'static>(name: &str, comment: &str, get: for<'a> fn(&'a R) -> &'a str) -> Column<R> {
    Column::new(name, Kind::Text, comment, move |row: &R| Cell::of(Some(get(row)).filter(|text| !text.is_empty()), Cell::text))
}

/// The same where no text at all is a text too.
fn value<R: 'static>(get: for<'a> fn(&'a R) -> &'a str) -> Column<R> {
    Column::new("value", Kind::Text, "The value", move |row: &R| Cell::text(get(row)))
}

fn int<R: 'static>(name: &str, comment: &str, get: fn(&R) -> i64) -> Column<R> {
    Column::new(name, Kind::Int, comment, move |row: &R| Cell::Int(get(row)))
}

fn float<R: 'static>(name: &str, comment: &str, get: fn(&R) -> f64) -> Column<R> {
    Column::new(name, Kind::Float, comment, move |row: &R| Cell::Float(get(row)))
}

/// Of milliseconds.
fn time<R: 'static>(name: &str, comment: &str, get: fn(&R) -> Option<i64>) -> Column<R> {
    Column::new(name, Kind::Time, comment, move |row: &R| Cell::of(get(row), |millis| Cell::Time(millis.saturating_mul(1000))))
}

/// What belongs to something named by `id`.
struct Part<T> {
    id: Arc<str>,
    experiment: i64,
    part: T,
}

fn each_part<T>(id: &str, experiment: i64, parts: Vec<T>, row: Each<'_, Part<T>>) -> ControlFlow<()> {
    let id: Arc<str> = id.into();
    parts.into_iter().try_for_each(|part| row(Part { id: Arc::clone(&id), experiment, part }))
}

const OF_EXPERIMENT: &[&str] = &["experiment_id"];
const OF_RUN: &[&str] = &["run_id", "experiment_id"];
const OF_TRACE: &[&str] = &["trace_id", "experiment_id"];
const OF_MODEL: &[&str] = &["model"];

fn experiments(with: &With) -> Placed {
    let columns = vec![
        int("experiment_id", "Its number", |e: &Experiment| e.id),
        text("name", "Its name", |e| &e.name),
        text("stage", "active or deleted", |e| e.stage.as_str()),
        time("created_at", "When it was made", |e| Some(e.created)),
        time("updated_at", "When it changed last", |e| Some(e.updated)),
        text("artifact_location", "Where the artifacts of its runs are", |e| &e.artifact_location),
    ];
    table(with, "experiments", "Experiments that MLflow's clients log to, oldest first", columns, OF_EXPERIMENT, |asked, row| {
        asked.each_experiment(row)
    })
}

fn experiment_tags(with: &With) -> Placed {
    let columns = vec![
        int("experiment_id", "As in `experiments`", |p: &Part<Pair>| p.experiment),
        text("key", "The name", |p| &p.part.key),
        value(|p| &p.part.value),
    ];
    table(with, "experiment_tags", "Tags of experiments", columns, OF_EXPERIMENT, |asked, row| {
        asked.each_experiment(&mut |e| each_part("", e.id, e.tags, row))
    })
}

fn runs(with: &With) -> Placed {
    let columns = vec![
        text("run_id", "Its id", |r: &Run| &r.info.id),
        int("experiment_id", "The experiment it belongs to", |r| r.info.experiment),
        text("name", "For people", |r| &r.info.name),
        text("user_name", "Whose it is", |r| &r.info.user),
        text("status", "RUNNING, SCHEDULED, FINISHED, FAILED or KILLED", |r| r.info.status.as_str()),
        text("stage", "active or deleted", |r| r.info.stage.as_str()),
        time("started_at", "When it began", |r| Some(r.info.start_time)),
        time("ended_at", "When it ended", |r| r.info.end_time),
        text("artifact_uri", "Where its artifacts are", |r| &r.info.artifact_uri),
    ];
    table(
        with,
        "runs",
        "Runs that MLflow's clients logged, and copies of the project's own, oldest first",
        columns,
        OF_RUN,
        |asked, row| asked.each_run(row),
    )
}

fn of_run<T: 'static>(more: Vec<Column<Part<T>>>) -> Vec<Column<Part<T>>> {
    let mut columns =
        vec![text("run_id", "As in `runs`", |p: &Part<T>| &*p.id), int("experiment_id", "As in `experiments`", |p: &Part<T>| p.experiment)];
    columns.extend(more);
    columns
}

fn pair() -> Vec<Column<Part<Pair>>> {
    vec![text("key", "The name", |p: &Part<Pair>| &p.part.key), value(|p| &p.part.value)]
}

fn run_pairs(with: &With, name: &str, comment: &str, of: fn(Run) -> Vec<Pair>) -> Placed {
    table(with, name, comment, of_run(pair()), OF_RUN, move |asked, row| {
        asked.each_run(&mut |run| {
            let (id, experiment) = (run.info.id.clone(), run.info.experiment);
            each_part(&id, experiment, of(run), row)
        })
    })
}

fn points() -> Vec<Column<Part<Metric>>> {
    of_run(vec![
        text("key", "The metric's name", |p: &Part<Metric>| &p.part.key),
        float("value", "Its value", |p| p.part.value),
        int("step", "Where in the run", |p| p.part.step),
        time("time", "When", |p| Some(p.part.timestamp)),
    ])
}

fn metrics(with: &With) -> Placed {
    table(with, "metrics", "The latest point of each metric of each run", points(), OF_RUN, |asked, row| {
        asked.each_run(&mut |run| each_part(&run.info.id, run.info.experiment, run.metrics, row))
    })
}

fn history(with: &With) -> Placed {
    const NARROWS: &[&str] = &["run_id", "experiment_id", "key"];
    table(with, "metric_history", "Every point of each metric of each run", points(), NARROWS, |asked, row| {
        let keys = asked.texts("key").cloned();
        let mut failed = None;
        asked.each_run(&mut |run| {
            let wanted = run.metrics.iter().map(|metric| &metric.key).filter(|key| keys.as_ref().is_none_or(|keys| keys.contains(*key)));
            for key in wanted {
                let mut token = None;
                loop {
                    let history = asked.tracking.metric_history(&run.info.id, key, Some(POINTS), token.as_deref());
                    let page = match asked.found(history) {
                        Ok(Some(page)) => page,
                        // The run is gone.
                        Ok(None) => return ControlFlow::Continue(()),
                        Err(e) => {
                            failed = Some(e);
                            return ControlFlow::Break(());
                        }
                    };
                    each_part(&run.info.id, run.info.experiment, page.items, row)?;
                    token = page.next;
                    if token.is_none() {
                        break;
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
        failed.map_or(Ok(()), Err)
    })
}

fn datasets(with: &With) -> Placed {
    let columns = of_run(vec![
        text("name", "Its name", |p: &Part<DatasetInput>| &p.part.dataset.name),
        text("digest", "Its digest", |p| &p.part.dataset.digest),
        text("source_type", "Where it is from: kind", |p| &p.part.dataset.source_type),
        text("source", "Where it is from: details, as JSON", |p| &p.part.dataset.source),
    ]);
    table(with, "datasets", "Data that runs read", columns, OF_RUN, |asked, row| {
        asked.each_run(&mut |run| each_part(&run.info.id, run.info.experiment, run.datasets, row))
    })
}

fn models(with: &With) -> Placed {
    let columns = vec![
        text("model", "Its name", |m: &RegisteredModel| &m.name),
        text("description", "For people", |m| &m.description),
        time("created_at", "When it was made", |m| Some(m.created)),
        time("updated_at", "When it changed last", |m| Some(m.updated)),
    ];
    table(with, "registered_models", "Registered models, by name; without prompts", columns, OF_MODEL, |asked, row| asked.each_model(row))
}

fn of_model<T: 'static>(more: Vec<Column<Part<T>>>) -> Vec<Column<Part<T>>> {
    let mut columns = vec![text("model", "As in `registered_models`", |p: &Part<T>| &*p.id)];
    columns.extend(more);
    columns
}

fn model_tags(with: &With) -> Placed {
    table(with, "registered_model_tags", "Tags of registered models", of_model(pair()), OF_MODEL, |asked, row| {
        asked.each_model(&mut |model| each_part(&model.name, 0, model.tags, row))
    })
}

fn model_aliases(with: &With) -> Placed {
    let columns = of_model(vec![
        text("alias", "The alias", |p: &Part<(String, i64)>| &p.part.0),
        int("version", "The version that has it", |p| p.part.1),
    ]);
    table(with, "registered_model_aliases", "Aliases of versions", columns, OF_MODEL, |asked, row| {
        asked.each_model(&mut |model| each_part(&model.name, 0, model.aliases, row))
    })
}

fn versions(with: &With) -> Placed {
    let columns = vec![
        text("model", "As in `registered_models`", |v: &ModelVersion| &v.name),
        int("version", "Its number", |v| v.version),
        text("run_id", "The run that made it", |v| &v.run_id),
        text("source", "What it was made of", |v| &v.source),
        text("stage", "None, Staging, Production or Archived", |v| &v.stage),
        text("description", "For people", |v| &v.description),
        time("created_at", "When it was made", |v| Some(v.created)),
        time("updated_at", "When it changed last", |v| Some(v.updated)),
    ];
    table(with, "model_versions", "Versions of registered models and prompts, oldest first", columns, &[], |asked, row| {
        asked.each_version(row)
    })
}

fn version_tags(with: &With) -> Placed {
    type Tag = (Arc<str>, i64, Pair);
    let columns = vec![
        text("model", "As in `model_versions`", |t: &Tag| &*t.0),
        int("version", "As in `model_versions`", |t| t.1),
        text("key", "The name", |t| &t.2.key),
        value(|t| &t.2.value),
    ];
    table(with, "model_version_tags", "Tags of versions", columns, &[], |asked, row| {
        asked.each_version(&mut |version| {
            let name: Arc<str> = version.name.into();
            version.tags.into_iter().try_for_each(|tag| row((Arc::clone(&name), version.version, tag)))
        })
    })
}

fn traces(with: &With) -> Placed {
    let optional = |name: &str, comment: &str, get: for<'a> fn(&'a TraceInfo) -> Option<&'a String>| {
        Column::new(name, Kind::Text, comment, move |t: &TraceInfo| Cell::of(get(t), |text| Cell::text(text)))
    };
    let columns = vec![
        text("trace_id", "Its id", |t: &TraceInfo| &t.id),
        int("experiment_id", "The experiment it belongs to", |t| t.experiment),
        optional("name", "Its name", |t| t.tags.iter().find(|tag| tag.key == "mlflow.traceName").map(|tag| &tag.value)),
        text("state", "OK, ERROR, IN_PROGRESS or STATE_UNSPECIFIED", |t| t.state.as_str()),
        time("started_at", "When it began", |t| Some(t.start_time)),
        Column::new("duration_seconds", Kind::Float, "How long it took", |t: &TraceInfo| {
            Cell::of(t.duration, |millis| Cell::Float(millis as f64 / 1000.0))
        }),
        optional("client_request_id", "The id that the client's own client gave", |t| t.client_request_id.as_ref()),
        optional("request", "What went in, shortened", |t| t.request_preview.as_ref()),
        optional("response", "What came out, shortened", |t| t.response_preview.as_ref()),
    ];
    table(with, "traces", "Traces, oldest first", columns, OF_TRACE, |asked, row| asked.each_trace(row))
}

fn of_trace<T: 'static>(more: Vec<Column<Part<T>>>) -> Vec<Column<Part<T>>> {
    let mut columns = vec![
        text("trace_id", "As in `traces`", |p: &Part<T>| &*p.id),
        int("experiment_id", "As in `experiments`", |p: &Part<T>| p.experiment),
    ];
    columns.extend(more);
    columns
}

fn trace_pairs(with: &With, name: &str, comment: &str, of: fn(TraceInfo) -> Vec<Pair>) -> Placed {
    table(with, name, comment, of_trace(pair()), OF_TRACE, move |asked, row| {
        asked.each_trace(&mut |trace| {
            let (id, experiment) = (trace.id.clone(), trace.experiment);
            each_part(&id, experiment, of(trace), row)
        })
    })
}

fn assessments(with: &With) -> Placed {
    let columns = of_trace(vec![
        text("assessment_id", "Its id", |p: &Part<Assessment>| &p.part.id),
        text("kind", "feedback, expectation or issue", |p| p.part.kind.as_str()),
        text("name", "What it is about", |p| &p.part.name),
        Column::new("value", Kind::Text, "As JSON", |p: &Part<Assessment>| Cell::owned(p.part.value.to_string())),
        text("source_type", "HUMAN, LLM_JUDGE or CODE", |p| &p.part.source_type),
        text("source_id", "Who", |p| &p.part.source_id),
        Column::new("rationale", Kind::Text, "Why", |p: &Part<Assessment>| Cell::of(p.part.rationale.as_deref(), Cell::text)),
        Column::new("valid", Kind::Bool, "Whether none stands in its place", |p: &Part<Assessment>| Cell::Bool(p.part.is_valid)),
        time("created_at", "When it was made", |p| Some(p.part.created)),
    ]);
    table(with, "assessments", "What was said of traces", columns, OF_TRACE, |asked, row| {
        asked.each_trace(&mut |trace| each_part(&trace.id, trace.experiment, trace.assessments, row))
    })
}

#[cfg(test)]
mod tests {
    use kilter_runtime::{Service, StartOptions, project};
    use kilter_sql::{Engine, Format, Limits, Rights, Session, Writer};
    use kilter_tracking::{Batch, NewExperiment, NewModelVersion, NewRun};

    use super::*;

    const DEFINITIONS: &str = "[project]\nname = \"shop\"\n[source.payments]\ntime = \"at\"\ncolumns = { at = \"timestamp\" }\n";
    /// More than are asked for at once.
    const RUNS: usize = PAGE + 20;

    struct Asker(Engine);

    impl Asker {
        async fn ask(&self, sql: &str) -> anyhow::Result<Vec<String>> {
            let session = Session::new("ada", "shop", Rights::Everything);
            let prepared = self.0.ask(sql, &session).await?;
            let mut answer = self.0.run(&prepared, &session, Vec::new(), None).await?;
            let mut lines = Vec::new();
            let mut writer = Writer::new(&mut lines, Format::Csv, &answer.schema, &prepared.names())?;
            while let Some(batch) = answer.next().await? {
                writer.write(&batch)?;
            }
            writer.finish()?;
            drop(writer);
            Ok(String::from_utf8(lines)?.lines().skip(1).map(str::to_owned).collect())
        }

        async fn check(&self, sql: &str, expected: &[&str]) {
            assert_eq!(self.ask(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:#}")), expected, "{sql}");
        }
    }

    async fn project(dir: &std::path::Path) -> Arc<Service> {
        std::fs::write(dir.join("kilter.toml"), DEFINITIONS).unwrap();
        let project = project::load(dir).unwrap_or_else(|report| panic!("{report}"));
        Service::start(project, StartOptions::default()).await.unwrap()
    }

    async fn log_runs(tracking: &Tracking) -> i64 {
        let experiment = tracking.create_experiment(NewExperiment { name: "ratings".into(), ..NewExperiment::default() }).await.unwrap();
        let mut logging = tokio::task::JoinSet::new();
        for n in 0..RUNS {
            let tracking = tracking.clone();
            logging.spawn(async move {
                let new = NewRun {
                    id: Some(format!("{n:032x}")),
                    experiment,
                    start_time: Some(1_700_000_000_000 + n as i64),
                    ..NewRun::default()
                };
                let run = tracking.create_run(new).await.unwrap();
                let point = |step: i64| Metric {
                    key: "auc".into(),
                    value: (n as i64 * 10 + step) as f64,
                    timestamp: step,
                    step,
                    ..Metric::default()
                };
                let params = vec![Pair { key: "trees".into(), value: n.to_string() }];
                tracking.log(run.info.id, Batch { metrics: vec![point(0), point(1)], params, ..Batch::default() }).await.unwrap();
            });
        }
        while let Some(logged) = logging.join_next().await {
            logged.unwrap();
        }
        experiment
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_clients_logged_is_in_tables() {
        let dir = tempfile::tempdir().unwrap();
        let service = project(dir.path()).await;
        let logged = Logged::default();
        let engine = Engine::new(Arc::clone(&service), Limits::default()).unwrap().with(tables(&logged));
        let asker = Asker(engine);
        let refused = asker.ask("select * from tracking.runs").await.unwrap_err();
        assert!(refused.to_string().contains("is not open"), "{refused:#}");

        let tracking = Tracking::open(dir.path().join("tracking")).await.unwrap();
        logged.set(Some(&tracking));
        let experiment = log_runs(&tracking).await;
        let tags = [("team", "a"), ("note", "")].map(|(key, value)| Pair { key: key.into(), value: value.into() });
        tracking.create_registered_model("rating", "Rates", tags.to_vec()).await.unwrap();
        let new = NewModelVersion {
            name: "rating".into(),
            source: format!("runs:/{:032x}/model", 7),
            run_id: format!("{:032x}", 7),
            ..NewModelVersion::default()
        };
        tracking.create_model_version(new).await.unwrap();
        tracking.set_alias("rating".into(), "champion".into(), 1).await.unwrap();

        let (count, last) = (RUNS.to_string(), RUNS - 1);
        asker.check("select count(*), count(distinct run_id) from tracking.runs", &[&format!("{count},{count}")]).await;
        asker
            .check(
                "select count(*), sum(value) from tracking.metrics where key = 'auc'",
                &[&format!("{count},{}.0", (0..RUNS).map(|n| n * 10 + 1).sum::<usize>())],
            )
            .await;
        asker.check("select count(*) from tracking.metric_history", &[&(2 * RUNS).to_string()]).await;
        let of_last = format!("select key, value, step from tracking.metric_history where run_id = '{last:032x}' order by step");
        asker.check(&of_last, &[&format!("auc,{}.0,0", last * 10), &format!("auc,{}.0,1", last * 10 + 1)]).await;
        asker.check(&format!("select count(*) from tracking.runs where run_id in ('{last:032x}', 'nothing')"), &["1"]).await;
        asker
            .check(&format!("select count(*) from tracking.params where experiment_id = {experiment} and cast(value as int) < 10"), &["10"])
            .await;
        asker.check("select count(*) from tracking.runs where experiment_id = 999", &["0"]).await;
        asker.check("select run_id from tracking.runs limit 1", &[&format!("{:032x}", 0)]).await;
        asker
            .check(
                "select e.name, count(*) from tracking.runs r join tracking.experiments e using (experiment_id) group by 1",
                &[&format!("ratings,{count}")],
            )
            .await;
        asker.check("select model, version, run_id from tracking.model_versions", &[&format!("rating,1,{:032x}", 7)]).await;
        asker
            .check(
                "select model, key, value from tracking.registered_model_tags where model = 'rating' and value <> ''",
                &["rating,team,a"],
            )
            .await;
        asker.check("select count(*) from tracking.registered_model_tags where model = 'rating' and value = ''", &["1"]).await;
        asker.check("select alias, version from tracking.registered_model_aliases", &["champion,1"]).await;
        for table in [
            "experiment_tags",
            "run_tags",
            "datasets",
            "registered_models",
            "model_version_tags",
            "traces",
            "trace_tags",
            "trace_metadata",
            "assessments",
        ] {
            asker.ask(&format!("select * from tracking.{table}")).await.unwrap_or_else(|e| panic!("{table}: {e:#}"));
        }
    }
}
