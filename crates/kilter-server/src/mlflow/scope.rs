//! Roles for single experiments and registered models: what a request is about is found out before it is served.
//!
//! Only for keys that have such roles; of a search they get what they may read.

use axum::RequestExt;
use axum::extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use kilter_tracking::{ArtifactPath, Error, ErrorCode, Experiment, Result, Tracking, Visible};

use super::answer::Refusal;
use super::hooks::Hooks;
use super::input::{Fields, Input, experiment_id};
use super::otlp;
use super::rules::{self, Subject};
use crate::access::Caller;
use crate::access::keys::Role;

/// Things of one kind that a request may name; the handlers take fewer.
const NAMED: usize = 1000;
/// Traces that are looked up at once.
const TRACES: usize = 100;

/// Around the routes.
pub async fn within(State(tracking): State<Tracking>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    // What has no subject is open to all, or nothing is there.
    let named = route.and_then(|route| rules::named(request.method().as_str(), route.as_str()));
    let Some((role, subject)) = named else { return next.run(request).await };
    let scope = Scope::of(request.extensions(), &tracking, role);
    match scope {
        Ok(None) => next.run(request).await,
        Ok(Some(scope)) => match scope.check(subject, request).await {
            Ok(request) => next.run(request).await,
            Err(refusal) => *refusal,
        },
        Err(error) => *refused(error),
    }
}

/// What a key is allowed in single places.
#[derive(Clone)]
pub struct Scope {
    caller: Caller,
    tracking: Tracking,
    role: Role,
}

impl Scope {
    /// Of a request's key; none: it has the same role everywhere.
    pub fn of(request: &Extensions, tracking: &Tracking, role: Role) -> Result<Option<Scope>> {
        let passed = || Error::new(ErrorCode::InternalError, "the request came past the check of keys");
        let caller = request.get::<Caller>().ok_or_else(passed)?;
        Ok(caller.is_scoped().then(|| Scope { caller: caller.clone(), tracking: tracking.clone(), role }))
    }

    async fn check(&self, subject: Subject, mut request: Request) -> Result<Request, Box<Response>> {
        let params = request.extract_parts::<RawPathParams>().await.ok();
        let param = |name: &str| {
            let found = params.iter().flatten().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.to_string())
        };
        let (experiment, run) = (header(request.headers(), otlp::EXPERIMENT), header(request.headers(), otlp::RUN));
        let by_head = match (subject, param("trace_id")) {
            (Subject::Nothing | Subject::Own, _) => Some(Ok(())),
            (Subject::All, _) => Some(self.enough(self.caller.lowest_role(), || "all models".into())),
            (Subject::Trace, Some(id)) => Some(self.trace(&id).await),
            (Subject::Logged, _) => Some(self.logged(&param("model_id").unwrap_or_default()).await),
            (Subject::Dataset, _) => Some(self.dataset(&param("dataset_id").unwrap_or_default()).await),
            (Subject::File, _) => Some(self.file(&param("path").unwrap_or_default()).await),
            (Subject::Spans, _) => Some(self.export(experiment, run).await),
            _ => None,
        };
        if let Some(checked) = by_head {
            return checked.map(|()| request).map_err(refused);
        }
        let (input, request) = Input::peek(request).await.map_err(Box::new)?;
        self.fields(subject, &input.fields(), param("dataset_id")).await.map_err(refused)?;
        Ok(request)
    }

    async fn fields(&self, subject: Subject, f: &Fields<'_>, dataset: Option<String>) -> Result<()> {
        match subject {
            Subject::Experiment => self.experiment(f.need_experiment("experiment_id")?).await,
            Subject::ExperimentName => self.experiment_name(f.need_text("experiment_name")?).await,
            Subject::NewExperiment => {
                // Where files lie decides who may read them.
                if f.text("artifact_location")?.is_some_and(|place| place.starts_with("mlflow-artifacts:")) {
                    return Err(self.denied("a place of files of its own choice"));
                }
                self.experiment_name(f.need_text("name")?).await
            }
            Subject::RenamedExperiment => {
                self.experiment(f.need_experiment("experiment_id")?).await?;
                match f.text("new_name")?.filter(|name| !name.is_empty()) {
                    Some(name) => self.experiment_name(name).await,
                    None => Ok(()),
                }
            }
            Subject::Experiments => self.experiments(f).await,
            Subject::NewRun => self.experiment(f.experiment("experiment_id")?.unwrap_or(0)).await,
            Subject::Run => {
                self.run(f.need_run()?).await?;
                self.models_logged_to(f).await
            }
            Subject::Runs(field) => {
                for run in bounded(f.texts(field)?)? {
                    self.run(run).await?;
                }
                Ok(())
            }
            Subject::NewLogged => {
                self.experiment(f.need_experiment("experiment_id")?).await?;
                match f.text("source_run_id")?.filter(|run| !run.is_empty()) {
                    Some(run) => known(self.run(run).await),
                    None => Ok(()),
                }
            }
            Subject::Model => self.model(f.need_text("name")?),
            Subject::RenamedModel => {
                self.model(f.need_text("name")?)?;
                self.model(f.need_text("new_name")?)
            }
            Subject::NewVersion => {
                self.model(f.need_text("name")?)?;
                self.origin(f).await
            }
            Subject::NewTrace => {
                let info = f.need_object("trace")?;
                let info = info.need_object("trace_info")?;
                let place = info.need_object("trace_location")?.need_object("mlflow_experiment")?.need_experiment("experiment_id")?;
                self.experiment(place).await?;
                // It may be there already, elsewhere.
                known(self.trace(info.need_text("trace_id")?).await)
            }
            Subject::Trace => self.trace(f.need_text("trace_id")?).await,
            Subject::TracesAndRun => {
                self.run(f.need_run()?).await?;
                let ids: Vec<String> = bounded(f.texts("trace_ids")?)?.into_iter().map(str::to_string).collect();
                self.traces(&ids).await
            }
            Subject::DatasetAndExperiments => {
                self.dataset(&dataset.unwrap_or_default()).await?;
                self.experiments(f).await
            }
            Subject::Folder => self.file(f.text("path")?.unwrap_or_default()).await,
            // They are known by the head of the request.
            Subject::Nothing | Subject::All | Subject::Own | Subject::Logged | Subject::Dataset | Subject::File | Subject::Spans => Ok(()),
        }
    }

    fn denied(&self, what: &str) -> Error {
        Error::new(ErrorCode::PermissionDenied, self.caller.lacks(self.role, what))
    }

    fn enough(&self, role: Role, what: impl FnOnce() -> String) -> Result<()> {
        if role >= self.role { Ok(()) } else { Err(self.denied(&what())) }
    }

    fn role_of(&self, experiment: &Experiment) -> Role {
        let own = self.caller.role_for_experiment_id(experiment.id);
        own.or_else(|| self.caller.role_for_experiment_name(&experiment.name)).unwrap_or_else(|| self.caller.role())
    }

    async fn role_in(&self, id: i64) -> Result<Role> {
        if let Some(role) = self.caller.role_for_experiment_id(id) {
            return Ok(role);
        }
        match self.tracking.experiment(id).await {
            Ok(experiment) => Ok(self.role_of(&experiment)),
            Err(error) if error.code == ErrorCode::ResourceDoesNotExist => Ok(self.caller.role()),
            Err(error) => Err(error),
        }
    }

    async fn experiment(&self, id: i64) -> Result<()> {
        self.enough(self.role_in(id).await?, || format!("experiment {id}"))
    }

    /// An experiment that is there or is to be made.
    async fn experiment_name(&self, name: &str) -> Result<()> {
        let role = match self.tracking.experiment_by_name(name).await {
            Ok(experiment) => self.role_of(&experiment),
            Err(error) if error.code == ErrorCode::ResourceDoesNotExist => {
                self.caller.role_for_experiment_name(name).unwrap_or_else(|| self.caller.role())
            }
            Err(error) => return Err(error),
        };
        self.enough(role, || format!("experiment `{name}`"))
    }

    /// All that are named; where none is, everything is meant.
    async fn experiments(&self, f: &Fields<'_>) -> Result<()> {
        let mut ids = bounded(f.texts("experiment_ids")?)?.into_iter().map(experiment_id).collect::<Result<Vec<_>>>()?;
        ids.extend(f.experiment("experiment_id")?);
        if ids.is_empty() {
            return self.enough(self.caller.role(), || "what belongs to no experiment".into());
        }
        for id in ids {
            self.experiment(id).await?;
        }
        Ok(())
    }

    async fn run(&self, run: &str) -> Result<()> {
        let experiment = self.tracking.run_info(run).await?.experiment;
        self.enough(self.role_in(experiment).await?, || format!("the experiment of run {run}"))
    }

    /// Metrics and links may name models of other experiments than the run's.
    async fn models_logged_to(&self, f: &Fields<'_>) -> Result<()> {
        let mut models: Vec<&str> = f.text("model_id")?.into_iter().collect();
        for one in f.objects("metrics")?.iter().chain(&f.objects("models")?) {
            models.extend(one.text("model_id")?);
        }
        models.sort_unstable();
        models.dedup();
        for model in bounded(models)?.into_iter().filter(|model| !model.is_empty()) {
            known(self.logged(model).await)?;
        }
        Ok(())
    }

    async fn logged(&self, model: &str) -> Result<()> {
        let experiment = self.tracking.logged_model(model).await?.experiment;
        self.enough(self.role_in(experiment).await?, || format!("the experiment of model {model}"))
    }

    fn model(&self, name: &str) -> Result<()> {
        self.enough(self.caller.role_for_model(name), || format!("model `{name}`"))
    }

    /// What a version is made from is read: its location and its run are told with it.
    async fn origin(&self, f: &Fields<'_>) -> Result<()> {
        let reads = Scope { role: Role::Read, ..self.clone() };
        let text = |name: &str| f.text(name).map(Option::unwrap_or_default);
        let (source, run, logged) = (text("source")?, text("run_id")?, text("model_id")?);
        let (scheme, rest) = source.split_once(":/").unwrap_or_default();
        let (first, rest) =
            rest.trim_start_matches('/').split_once('/').map_or((rest.trim_start_matches('/'), None), |(a, b)| (a, Some(b)));
        let (mut runs, mut models) = (vec![run], vec![logged]);
        match scheme.to_ascii_lowercase().as_str() {
            "models" if rest.is_some() => reads.model(first)?,
            "models" => models.push(first),
            "runs" => runs.push(first),
            _ => {}
        }
        for run in runs.into_iter().filter(|run| !run.is_empty()) {
            known(reads.run(run).await)?;
        }
        for model in models.into_iter().filter(|model| !model.is_empty()) {
            known(reads.logged(model).await)?;
        }
        Ok(())
    }

    async fn trace(&self, id: &str) -> Result<()> {
        let experiment = self.tracking.trace_info(id).await?.experiment;
        self.enough(self.role_in(experiment).await?, || format!("the experiment of trace {id}"))
    }

    /// Those of some traces that are there.
    pub async fn traces(&self, ids: &[String]) -> Result<()> {
        for ids in ids.chunks(TRACES) {
            for info in self.tracking.trace_infos(ids).await? {
                self.enough(self.role_in(info.experiment).await?, || format!("the experiment of trace {}", info.id))?;
            }
        }
        Ok(())
    }

    /// One of its experiments is enough to read it; who changes it changes it for all.
    async fn dataset(&self, id: &str) -> Result<()> {
        let dataset = self.tracking.evaluation_dataset(id).await?;
        self.enough(self.role_of_dataset(&dataset.experiments).await?, || format!("the experiments of dataset {id}"))
    }

    async fn role_of_dataset(&self, experiments: &[i64]) -> Result<Role> {
        let mut roles = Vec::with_capacity(experiments.len());
        for id in experiments {
            roles.push(self.role_in(*id).await?);
        }
        let whole = if self.role == Role::Read { roles.into_iter().max() } else { roles.into_iter().min() };
        Ok(whole.unwrap_or_else(|| self.caller.role()))
    }

    /// Files of an experiment are in the folder of its number, or where it says. What lies in none of these may be anybody's.
    async fn file(&self, path: &str) -> Result<()> {
        let path = ArtifactPath::parse(path)?;
        let text = path.to_string();
        let folder = text.split('/').next().unwrap_or_default();
        let (mut roles, mut is_anybodys) = (Vec::new(), true);
        if let Some(id) = folder.parse::<i64>().ok().filter(|id| id.to_string() == folder) {
            roles.push(self.role_in(id).await?);
            is_anybodys = false;
        }
        let elsewhere = self.tracking.experiments_elsewhere().await?;
        for experiment in elsewhere.iter().filter(|e| path.touches(&e.artifact_location)) {
            roles.push(self.role_of(experiment));
            is_anybodys &= !path.is_within(&experiment.artifact_location);
        }
        let role = roles.into_iter().min().filter(|_| !is_anybodys).unwrap_or_else(|| self.caller.lowest_role());
        self.enough(role, || format!("the files in `{folder}`"))
    }

    async fn export(&self, experiment: Option<String>, run: Option<String>) -> Result<()> {
        // Without one the handler says what is missing.
        if let Some(experiment) = experiment.filter(|id| !id.is_empty()) {
            self.experiment(experiment_id(&experiment)?).await?;
        }
        match run.filter(|run| !run.is_empty()) {
            Some(run) => known(self.run(&run).await),
            None => Ok(()),
        }
    }
}

/// What of an answer a key may read: all of it, for one with the same role everywhere.
pub struct Readable(Option<Scope>);

impl FromRequestParts<Hooks> for Readable {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, hooks: &Hooks) -> Result<Readable, Response> {
        Scope::of(&parts.extensions, hooks.tracking(), Role::Read).map(Readable).map_err(|e| Refusal(e).into_response())
    }
}

impl Readable {
    /// The experiments that a search may look into; none: there were some, and none may be read.
    pub async fn experiments(&self, ids: Vec<i64>) -> Result<Option<Vec<i64>>> {
        let Some(scope) = &self.0 else { return Ok(Some(ids)) };
        let mut readable = Vec::with_capacity(ids.len());
        let named = !ids.is_empty();
        for id in bounded(ids)? {
            if scope.role_in(id).await? >= Role::Read {
                readable.push(id);
            }
        }
        Ok(Some(readable).filter(|readable| !named || !readable.is_empty()))
    }

    /// Which experiments a search may find; none: all.
    pub fn of_experiments(&self) -> Option<Visible> {
        let caller = &self.0.as_ref()?.caller;
        let mut visible = Visible { others: caller.role() >= Role::Read, ..Visible::default() };
        for (name, role) in caller.experiments() {
            let is_visible = *role >= Role::Read;
            match name.parse::<i64>() {
                // Not `01`, which would speak for experiment 1.
                Ok(id) if id.to_string() == *name && caller.role_for_experiment_id(id).is_some() => visible.ids.push((id, is_visible)),
                _ if caller.role_for_experiment_name(name).is_some() => visible.names.push((name.clone(), is_visible)),
                _ => {}
            }
        }
        Some(visible)
    }

    /// Which registered models a search may find; none: all.
    pub fn of_models(&self) -> Option<Visible> {
        let caller = &self.0.as_ref()?.caller;
        let names = caller.models().map(|(name, role)| (name.clone(), *role >= Role::Read)).collect();
        Some(Visible { ids: Vec::new(), names, others: caller.role() >= Role::Read })
    }

    /// Those of some traces that may be read.
    pub async fn traces(&self, ids: Vec<String>) -> Result<Vec<String>> {
        let Some(scope) = &self.0 else { return Ok(ids) };
        let mut hidden = Vec::new();
        for ids in bounded(ids.clone())?.chunks(TRACES) {
            for info in scope.tracking.trace_infos(ids).await? {
                if scope.role_in(info.experiment).await? < Role::Read {
                    hidden.push(info.id);
                }
            }
        }
        Ok(ids.into_iter().filter(|id| !hidden.contains(id)).collect())
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(|value| value.trim().to_string())
}

fn bounded<T>(named: Vec<T>) -> Result<Vec<T>> {
    if named.len() > NAMED {
        return Err(Error::invalid(format!(
            "a key with roles for single experiments may name {NAMED} things at once, not {}",
            named.len()
        )));
    }
    Ok(named)
}

/// What is not there is nobody's.
fn known(checked: Result<()>) -> Result<()> {
    checked.or_else(|error| if error.code == ErrorCode::ResourceDoesNotExist { Ok(()) } else { Err(error) })
}

fn refused(error: Error) -> Box<Response> {
    Box::new(Refusal(error).into_response())
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn_with_state;
    use axum::routing::any;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;
    use kilter_tracking::{NewExperiment, NewLoggedModel, NewModelVersion, NewRun, Pair, TraceInfo};
    use serde_json::json;

    use super::super::rules::RULES;
    use super::*;

    const TRACE: &str = "tr-0102030405060708090a0b0c0d0e0f10";

    /// A store in which everything is called `hidden`.
    struct Store {
        tracking: Tracking,
        body: String,
        experiment: i64,
        model: String,
        dataset: String,
        _dir: tempfile::TempDir,
    }

    impl Store {
        async fn make() -> Store {
            let dir = tempfile::tempdir().unwrap();
            let tracking = Tracking::open(dir.path()).await.unwrap();
            let name = || "hidden".to_string();
            let tags = || vec![Pair { key: "hidden".into(), value: "hidden".into() }];
            let mine = NewExperiment { name: "mine".into(), ..NewExperiment::default() };
            tracking.create_experiment(mine).await.unwrap();
            let experiment =
                tracking.create_experiment(NewExperiment { name: name(), tags: tags(), ..NewExperiment::default() }).await.unwrap();
            let new = NewRun { id: None, experiment, name: Some(name()), user: String::new(), start_time: Some(1), tags: tags() };
            let run = tracking.create_run(new).await.unwrap().info.id;
            let new = NewLoggedModel {
                experiment,
                name: name(),
                model_type: String::new(),
                source_run: run.clone(),
                params: Vec::new(),
                tags: tags(),
            };
            let model = tracking.create_logged_model(new).await.unwrap().id;
            let trace = TraceInfo { id: TRACE.into(), experiment, start_time: 1, tags: tags(), ..TraceInfo::default() };
            tracking.start_trace(trace).await.unwrap();
            let dataset = tracking.create_evaluation_dataset(name(), tags(), vec![experiment]).await.unwrap().id;
            tracking.create_registered_model("hidden", "", tags()).await.unwrap();
            let text = String::new;
            let version = NewModelVersion {
                name: name(),
                source: "s3://hidden/m".into(),
                run_id: run.clone(),
                run_link: text(),
                model_id: text(),
                description: text(),
                tags: tags(),
            };
            tracking.create_model_version(version).await.unwrap();
            let id = experiment.to_string();
            let place = json!({ "mlflow_experiment": { "experiment_id": id } });
            let body = json!({
                "experiment_id": id, "experiment_ids": [id], "experiment_name": "hidden", "name": "hidden", "new_name": "hidden2",
                "run_id": run, "run_ids": [run], "source_run_id": run, "metric_key": "m", "trace_id": TRACE, "trace_ids": [TRACE],
                "request_ids": [TRACE], "model_id": model, "path": id, "locations": [place],
                "trace": { "trace_info": { "trace_id": TRACE, "trace_location": place } },
                "version": "1", "alias": "a", "stage": "None", "key": "k", "value": "v",
                "view_type": "TRACES", "metric_name": "trace_count", "aggregations": [{ "aggregation_type": "COUNT" }],
            });
            Store { tracking, body: body.to_string(), experiment, model, dataset, _dir: dir }
        }

        fn request(&self, method: &str, path: &str, body: &str, caller: Caller) -> Request {
            let path = path.replace("{trace_id}", TRACE).replace("{model_id}", &self.model).replace("{dataset_id}", &self.dataset);
            let path = path.replace("{*path}", &format!("{}/hidden.txt", self.experiment)).replace(['{', '}'], "");
            let request = Request::builder().method(method).uri(format!("/api{path}")).header("content-type", "application/json");
            request.header(otlp::EXPERIMENT, self.experiment.to_string()).extension(caller).body(Body::from(body.to_owned())).unwrap()
        }
    }

    async fn answer(router: &TowerToHyperService<Router>, request: Request) -> (u16, String) {
        let response = router.call(request).await.unwrap();
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// The store's own routes, with nothing behind them but whether a request came through.
    fn gate(tracking: &Tracking) -> TowerToHyperService<Router> {
        let mut paths: Vec<&str> = RULES.iter().map(|(_, path, ..)| *path).collect();
        paths.dedup();
        paths.sort_unstable();
        paths.dedup();
        let gate = paths.into_iter().fold(Router::new(), |gate, path| gate.route(&format!("/api{path}"), any(async || "through")));
        TowerToHyperService::new(gate.layer(from_fn_with_state(tracking.clone(), within)))
    }

    #[tokio::test]
    async fn nothing_of_what_is_hidden_is_told_or_changed_by_any_route() {
        let store = Store::make().await;
        let api = TowerToHyperService::new(super::super::router::<()>(Hooks::new(store.tracking.clone(), Default::default())));
        let by_id = store.experiment.to_string();
        let strangers = [
            Caller::with(Role::None, &[("mine", Role::Manage)], &[("mine", Role::Manage)]),
            Caller::with(Role::Manage, &[("hidden", Role::None), ("hidden2", Role::None)], &[("hidden", Role::None)]),
            Caller::with(Role::Manage, &[(&by_id, Role::None), ("hidden", Role::Manage)], &[("hidden", Role::None)]),
        ];
        for (number, stranger) in strangers.into_iter().enumerate() {
            for (method, path, _, subject) in RULES {
                let (status, told) = answer(&api, store.request(method, path, &store.body, stranger.clone())).await;
                if method == "GET" && !matches!(subject, Subject::Nothing | Subject::Own) {
                    let (status, told) = answer(&api, store.request("HEAD", path, &store.body, stranger.clone())).await;
                    assert_eq!(status, 403, "HEAD {path} by {number}: {told}");
                }
                match subject {
                    Subject::Nothing => assert_eq!(status, 200, "{method} {path}: {told}"),
                    Subject::Own => {
                        assert!(status == 200 && !told.contains("hidden") && !told.contains(TRACE), "{method} {path}: {status} {told}")
                    }
                    _ => assert_eq!(status, 403, "{method} {path} by {number}: {told}"),
                }
            }
        }
        assert_eq!(store.tracking.experiment(store.experiment).await.unwrap().name, "hidden");
    }

    #[tokio::test]
    async fn who_has_the_role_there_gets_through_and_who_has_one_less_does_not() {
        let store = Store::make().await;
        let gate = gate(&store.tracking);
        for (method, path, role, subject) in RULES {
            if subject == Subject::All {
                for (has, elsewhere, status) in [(role, role, 200), (role, Role::None, 403), (Role::None, role, 403)] {
                    let caller = Caller::with(elsewhere, &[], &[("hidden", has)]);
                    let (got, told) = answer(&gate, store.request(method, path, &store.body, caller)).await;
                    assert_eq!(got, status, "{method} {path} with {has:?} and {elsewhere:?}: {told}");
                }
                continue;
            }
            let less = Role::ALL.into_iter().map(|(role, _)| role).take_while(|less| *less < role).last().unwrap();
            for (has, status) in [(role, 200), (less, if matches!(subject, Subject::Nothing | Subject::Own) { 200 } else { 403 })] {
                let names = [("hidden", has), ("hidden2", has)];
                let (got, told) = answer(&gate, store.request(method, path, &store.body, Caller::with(Role::None, &names, &names))).await;
                assert_eq!(got, status, "{method} {path} with {has:?}: {told}");
            }
        }
    }

    #[tokio::test]
    async fn a_second_thing_named_beside_the_first_is_looked_at_as_well() {
        let store = Store::make().await;
        let gate = gate(&store.tracking);
        let mine = store.tracking.experiment_by_name("mine").await.unwrap().id;
        let new = NewRun { id: None, experiment: mine, name: None, user: String::new(), start_time: Some(1), tags: Vec::new() };
        let run = store.tracking.create_run(new).await.unwrap().info.id;
        let caller = || Caller::with(Role::None, &[("mine", Role::Manage)], &[("mine", Role::Manage)]);
        let own = json!({ "experiment_id": mine.to_string(), "experiment_ids": [mine.to_string()], "run_id": run, "name": "mine", "trace_id": "tr-new" });
        let place = json!({ "mlflow_experiment": { "experiment_id": mine.to_string() } });
        for (path, more) in [
            ("/2.0/mlflow/runs/log-batch", json!({ "metrics": [{ "key": "m" }, { "key": "m", "model_id": store.model }] })),
            ("/2.0/mlflow/runs/log-metric", json!({ "model_id": store.model })),
            ("/2.0/mlflow/runs/log-inputs", json!({ "models": [{ "model_id": store.model }] })),
            ("/2.0/mlflow/runs/outputs", json!({ "models": [{ "modelId": store.model }] })),
            ("/2.0/mlflow/experiments/update", json!({ "new_name": "hidden" })),
            ("/2.0/mlflow/experiments/create", json!({ "artifact_location": "mlflow-artifacts:/2" })),
            ("/2.0/mlflow/registered-models/rename", json!({ "new_name": "hidden" })),
            ("/2.0/mlflow/traces/link-to-run", json!({ "trace_ids": [TRACE] })),
            ("/3.0/mlflow/traces", json!({ "trace": { "trace_info": { "trace_id": TRACE, "trace_location": place } } })),
            ("/3.0/mlflow/datasets/create", json!({ "experiment_ids": [mine.to_string(), store.experiment.to_string()] })),
            ("/2.0/mlflow/runs/set-tag", json!({ "runId": run })),
        ] {
            let mut body = own.clone();
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let (status, told) = answer(&gate, store.request("POST", path, &body.to_string(), caller())).await;
            let expected = if path.ends_with("set-tag") { 400 } else { 403 };
            assert_eq!(status, expected, "{path}: {told}");
        }
        let (status, _) = answer(&gate, store.request("POST", "/2.0/mlflow/runs/log-batch", &own.to_string(), caller())).await;
        assert_eq!(status, 200);
    }

    #[tokio::test]
    async fn a_version_is_made_only_from_what_may_be_read() {
        let store = Store::make().await;
        let gate = gate(&store.tracking);
        let fields: serde_json::Value = serde_json::from_str(&store.body).unwrap();
        let (run, model) = (fields["run_id"].as_str().unwrap(), &store.model);
        let sources = [
            json!({ "source": "models:/hidden/1" }),
            json!({ "source": "models:///hidden/1" }),
            json!({ "source": "MODELS:/hidden/1" }),
            json!({ "source": format!("models:/{model}") }),
            json!({ "source": format!("models://{model}") }),
            json!({ "source": format!("runs:/{run}/m") }),
            json!({ "source": format!("Runs:/{run}") }),
            json!({ "source": "s3://mine/m", "run_id": run }),
            json!({ "source": "s3://mine/m", "model_id": model }),
            json!({ "source": "s3://mine/m", "modelId": model }),
        ];
        let own = json!({ "name": "mine", "source": "s3://mine/m", "run_id": "of-another-server" });
        for (reads, status) in [(Role::None, 403), (Role::Read, 200)] {
            for source in sources.iter().chain([&own]) {
                let names = [("mine", Role::Write), ("hidden", reads)];
                let mut body = json!({ "name": "mine" });
                body.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
                let caller = Caller::with(Role::None, &names, &names);
                let (got, told) =
                    answer(&gate, store.request("POST", "/2.0/mlflow/model-versions/create", &body.to_string(), caller)).await;
                assert_eq!(got, if source == &own { 200 } else { status }, "{source} with {reads:?}: {told}");
            }
        }
    }

    #[tokio::test]
    async fn a_number_is_an_id_and_not_a_name() {
        let store = Store::make().await;
        let gate = gate(&store.tracking);
        let hidden = store.experiment.to_string();
        let new = NewExperiment { name: hidden.clone(), ..NewExperiment::default() };
        let named = store.tracking.create_experiment(new).await.unwrap().to_string();
        for (role, own, status) in [(Role::None, Role::Read, [200, 403]), (Role::Read, Role::None, [403, 200])] {
            for (id, status) in [&hidden, &named].into_iter().zip(status) {
                let caller = Caller::with(role, &[(&hidden, own)], &[]);
                let path = format!("/2.0/mlflow/experiments/get?experiment_id={id}");
                let (got, told) = answer(&gate, store.request("GET", &path, "", caller)).await;
                assert_eq!(got, status, "{id} with {role:?}: {told}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_not_written_as_an_id_is_a_name_to_searches_as_well() {
        let store = Store::make().await;
        let api = TowerToHyperService::new(super::super::router::<()>(Hooks::new(store.tracking.clone(), Default::default())));
        for name in ["-5", "+1", "-0"] {
            store.tracking.create_experiment(NewExperiment { name: name.into(), ..NewExperiment::default() }).await.unwrap();
        }
        let found = async |caller: Caller| {
            let (status, told) = answer(&api, store.request("GET", "/2.0/mlflow/experiments/search?max_results=9", "", caller)).await;
            assert_eq!(status, 200, "{told}");
            let told: serde_json::Value = serde_json::from_str(&told).unwrap();
            let names = told["experiments"].as_array().into_iter().flatten().map(|e| e["name"].as_str().unwrap().to_string());
            names.collect::<Vec<_>>()
        };
        for name in ["-5", "+1", "-0"] {
            assert_eq!(found(Caller::with(Role::None, &[(name, Role::Read)], &[])).await, [name]);
            let id = store.tracking.experiment_by_name(name).await.unwrap().id;
            let caller = Caller::with(Role::None, &[(name, Role::Read)], &[]);
            let (status, told) =
                answer(&api, store.request("GET", &format!("/2.0/mlflow/experiments/get?experiment_id={id}"), "", caller)).await;
            assert_eq!(status, 200, "{name}: {told}");
        }
        let id = store.experiment.to_string();
        assert!(found(Caller::with(Role::None, &[(&format!("0{id}"), Role::Read), (&id, Role::None)], &[])).await.is_empty());
    }

    #[tokio::test]
    async fn a_page_of_what_may_be_read_is_full() {
        let store = Store::make().await;
        for n in 0..6 {
            let name = if n % 2 == 0 { format!("open-{n}") } else { format!("hidden-{n}") };
            store.tracking.create_registered_model(&name, "", Vec::new()).await.unwrap();
        }
        let api = TowerToHyperService::new(super::super::router::<()>(Hooks::new(store.tracking.clone(), Default::default())));
        let open = [("open-0", Role::Read), ("open-2", Role::Read), ("open-4", Role::Read)];
        let ask = async |token: &str| {
            let caller = Caller::with(Role::None, &[], &open);
            let path = format!("/2.0/mlflow/registered-models/search?max_results=2{token}");
            let (status, told) = answer(&api, store.request("GET", &path, "", caller)).await;
            assert_eq!(status, 200, "{told}");
            let told: serde_json::Value = serde_json::from_str(&told).unwrap();
            let names: Vec<String> =
                told["registered_models"].as_array().into_iter().flatten().map(|m| m["name"].as_str().unwrap().into()).collect();
            (names, told["next_page_token"].as_str().map(str::to_string))
        };
        let (names, next) = ask("").await;
        assert_eq!(names, ["open-0", "open-2"]);
        let (names, next) = ask(&format!("&page_token={}", next.unwrap())).await;
        assert_eq!((names, next), (vec!["open-4".to_string()], None));
    }
}
