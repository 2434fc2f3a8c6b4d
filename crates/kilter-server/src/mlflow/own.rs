//! The project's own trainings, imports and backtests, shown to MLflow's clients as runs of an experiment with the project's name; and its models (`models.rs`).
//!
//! They are copied from the project's metadata when a client asks, a second old at most: a run at work by its name, one that has ended once and whole.

pub mod models;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use kilter_runtime::Service;
use kilter_store::metadata::{self, Metadata, RunFilter, RunStatus};
use kilter_tracking::{Batch, Error, ErrorCode, Metric, NewExperiment, NewRun, Pair, Result, RunChange, Stage, Status, Tracking};
use tokio::sync::Mutex;

use models::Models;

/// How old the copy may be; after a failure, and where it is not wanted, ever older up to the second.
const AGE: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// How long a request waits for the copy: the first one of a long history may take longer, and goes on meanwhile.
const WAIT: Duration = Duration::from_secs(2);
/// Runs that are read at once; at first, where few are new.
const PAGE: u32 = 100;
const FIRST_PAGE: u32 = 10;
/// What one batch takes of params and tags, and of metrics.
const PAIRS: usize = 100;
const POINTS: u32 = 1000;

/// The copy and how far it is.
pub struct Own {
    /// The one that there was at the start, which knows the one in force.
    service: Arc<Service>,
    project: String,
    metadata: Metadata,
    tracking: Tracking,
    state: Mutex<Copied>,
}

#[derive(Default)]
struct Copied {
    at: Option<Instant>,
    /// How old it may get.
    age: Duration,
    /// Runs that have ended and are copied whole.
    whole: HashSet<String>,
    /// Runs that were at work when they were looked at last.
    at_work: HashSet<String>,
    /// All runs have been gone through once.
    complete: bool,
    models: Models,
}

impl Copied {
    fn note(&mut self, run: &metadata::Run) {
        if run.status == RunStatus::Running {
            self.at_work.insert(run.id.clone());
        } else {
            self.at_work.remove(&run.id);
            self.whole.insert(run.id.clone());
        }
    }
}

impl Own {
    pub fn new(service: Arc<Service>, tracking: Tracking) -> Own {
        let (project, metadata) = (service.plan.project.clone(), service.data.metadata.clone());
        Own { service, project, metadata, tracking, state: Mutex::default() }
    }

    /// Around the routes: what is asked for is brought up to date first. Whatever fails here is told to the program's log, not to the client.
    pub async fn refresh(State(own): State<Arc<Own>>, request: Request, next: Next) -> Response {
        let path = request.uri().path();
        // All of the registry's, also what writes: it must find that a name is the project's.
        let parts = [
            "/runs/get",
            "/runs/search",
            "/experiments/get",
            "/experiments/search",
            "/metrics/",
            "/mlflow/artifacts/list",
            "/registered-models/",
            "/model-versions/",
        ];
        if parts.iter().any(|part| path.contains(part)) {
            // A task of its own: a client that goes away leaves nothing half done.
            let copying = tokio::spawn(async move {
                if let Err(error) = own.copy().await {
                    tracing::warn!(%error, "the project's own runs and models could not be copied for MLflow's clients");
                }
            });
            let _ = tokio::time::timeout(WAIT, copying).await;
        }
        next.run(request).await
    }

    async fn copy(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        if state.at.is_some_and(|at| at.elapsed() < state.age) {
            return Ok(());
        }
        let outcome = self.copy_all(&mut state).await;
        state.at = Some(Instant::now());
        state.age = if matches!(outcome, Ok(true)) { AGE } else { (2 * state.age).clamp(AGE, LONGEST) };
        outcome.map(drop)
    }

    /// Whether the runs are wanted.
    async fn copy_all(&self, state: &mut Copied) -> Result<bool> {
        let models = self.reserve(state).await?;
        let wanted = self.copy_runs(state).await?;
        self.copy_models(state, models).await?;
        Ok(wanted)
    }

    /// Whether they are wanted.
    async fn copy_runs(&self, state: &mut Copied) -> Result<bool> {
        let mut offset = 0;
        loop {
            let limit = if state.complete && offset == 0 { FIRST_PAGE } else { PAGE };
            let filter = RunFilter { limit, offset, ..RunFilter::default() };
            let page = self.metadata.list_runs(&filter).await.map_err(internal)?;
            let known = |run: &&metadata::Run| state.whole.contains(&run.id) || state.complete && state.at_work.contains(&run.id);
            let fresh: Vec<&metadata::Run> = page.iter().filter(|run| !known(run)).collect();
            // Newest first: once all have been gone through, there is nothing new behind a page that is copied whole.
            if page.is_empty() || (state.complete && fresh.is_empty()) {
                break;
            }
            let Some(experiment) = self.experiment().await? else { return Ok(false) };
            for run in fresh {
                self.copy_run(experiment, run).await?;
                state.note(run);
            }
            offset += limit;
        }
        // Those that are at work for long may be far behind the newest by now.
        for id in state.at_work.clone() {
            let Some(experiment) = self.experiment().await? else { return Ok(false) };
            if let Some(run) = self.metadata.get_run(&id).await.map_err(internal)? {
                self.copy_run(experiment, &run).await?;
                state.note(&run);
            }
        }
        state.complete = true;
        Ok(true)
    }

    /// The experiment with the project's name; none when somebody deleted it, which says that these runs are not wanted there.
    async fn experiment(&self) -> Result<Option<i64>> {
        let name = &self.project;
        match self.tracking.experiment_by_name(name).await {
            Ok(found) => Ok(Some(found.id).filter(|_| found.stage == Stage::Active)),
            Err(e) if e.code == ErrorCode::ResourceDoesNotExist => {
                let new = NewExperiment { name: name.clone(), ..NewExperiment::default() };
                self.tracking.create_experiment(new).await.map(Some)
            }
            Err(e) => Err(e),
        }
    }

    async fn copy_run(&self, experiment: i64, run: &metadata::Run) -> Result<()> {
        match self.tracking.run_info(&run.id).await {
            // Copied before, by an earlier process too, or deleted by somebody.
            Ok(known) if known.status != Status::Running || known.stage == Stage::Deleted => return Ok(()),
            Ok(_) => {}
            Err(e) if e.code == ErrorCode::ResourceDoesNotExist => {
                let new = NewRun {
                    id: Some(run.id.clone()),
                    experiment,
                    name: Some(run.name.clone()),
                    user: "kilter".into(),
                    start_time: Some(millis(run.started_at)),
                    tags: Vec::new(),
                };
                self.tracking.create_run(new).await?;
            }
            Err(e) => return Err(e),
        }
        // A param may still change, which clients' runs do not allow.
        if run.status == RunStatus::Running {
            return Ok(());
        }
        let pair = |(key, value): (&String, &String)| Pair { key: key.clone(), value: value.clone() };
        let params: Vec<Pair> = run.params.iter().map(pair).collect();
        for params in params.chunks(PAIRS) {
            self.log(&run.id, Batch { params: params.to_vec(), ..Batch::default() }).await?;
        }
        let mut tags: Vec<Pair> = run.tags.iter().map(pair).collect();
        let known = [
            ("kind", Some(format!("{:?}", run.kind).to_lowercase())),
            ("model", run.model.clone()),
            ("definitions", run.definition_hash.clone()),
            ("data", run.data_fingerprint.clone()),
            ("seed", run.seed.map(|seed| seed.to_string())),
            ("error", run.error.clone()),
        ];
        tags.extend(known.into_iter().filter_map(|(key, value)| Some(Pair { key: format!("kilter.{key}"), value: value? })));
        for tags in tags.chunks(PAIRS) {
            self.log(&run.id, Batch { tags: tags.to_vec(), ..Batch::default() }).await?;
        }
        for key in run.metrics.keys() {
            let metric = |p: &metadata::MetricPoint| Metric {
                key: p.key.clone(),
                value: p.value,
                timestamp: millis(p.at),
                step: p.step,
                ..Metric::default()
            };
            let mut after = None;
            loop {
                let points = self.metadata.metric_history(&run.id, key, after, POINTS).await.map_err(internal)?;
                let Some(last) = points.last() else { break };
                after = Some((last.step, last.at));
                self.log(&run.id, Batch { metrics: points.iter().map(metric).collect(), ..Batch::default() }).await?;
            }
        }
        let status = match run.status {
            RunStatus::Finished => Status::Finished,
            RunStatus::Failed => Status::Failed,
            RunStatus::Running | RunStatus::Killed => Status::Killed,
        };
        // Last, so that a run that is said to have ended is whole.
        let change = RunChange { status: Some(status), end_time: run.ended_at.map(millis), name: None };
        self.tracking.update_run(&run.id, change).await.map(drop)
    }

    /// Logs what MLflow's clients can have: a name that they cannot is left out alone.
    async fn log(&self, run: &str, batch: Batch) -> Result<()> {
        match self.tracking.log(run.to_string(), batch.clone()).await {
            Err(error) if error.code == ErrorCode::InvalidParameterValue => {}
            done => return done,
        }
        let params = batch.params.into_iter().map(|param| Batch { params: vec![param], ..Batch::default() });
        let tags = batch.tags.into_iter().map(|tag| Batch { tags: vec![tag], ..Batch::default() });
        let metrics = batch.metrics.into_iter().map(|metric| Batch { metrics: vec![metric], ..Batch::default() });
        for one in params.chain(tags).chain(metrics) {
            match self.tracking.log(run.to_string(), one).await {
                Err(error) if error.code == ErrorCode::InvalidParameterValue => {
                    tracing::warn!(run, %error, "a part of a run was not copied for MLflow's clients");
                }
                done => done?,
            }
        }
        Ok(())
    }
}

fn millis(micros: i64) -> i64 {
    micros.div_euclid(1000)
}

fn internal(error: metadata::MetadataError) -> Error {
    Error::new(ErrorCode::InternalError, error.to_string())
}
