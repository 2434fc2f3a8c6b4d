//! MLflow's file store, `mlruns/`: one folder for each experiment, and in it one for each run, model and trace, with a file for each tag, param and metric.

use std::collections::BTreeMap;
use std::fs::{self, FileType};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use super::database::logged_status;
use super::rows::{Kind, Owned, Point, Read, Rows};
use super::yaml::{self, Yaml, time};
use super::{LATER, NO_PART, Names, is_one_part, json};
use crate::error::{Error, Result};
use crate::model::{Dataset, Experiment, LoggedModel, Metric, ModelVersion, Pair, RegisteredModel, RunInfo, RunModel, Stage, Status};
use crate::trace::{Assessment, AssessmentKind, TraceInfo, TraceState, key};

const META: &str = "meta.yaml";
const REGISTRY: &str = "models";
const TRASH: &str = ".trash";
/// Folders of an experiment that are no runs.
const NO_RUNS: [&str; 4] = ["tags", "datasets", "models", "traces"];
/// Bytes of a tag, a param or the like at most.
const VALUE: u64 = 16 << 20;
const TRACE: &str = "trace_info.yaml";
const ARTIFACTS: &str = "artifacts";
/// Bytes of a line of a metric at most.
const LINE: u64 = 64 << 10;
const NO_POINT: &str = "its line is no point";
/// Points that are sent at once.
const POINTS: usize = 10_000;

/// The folder of a file store.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    path: PathBuf,
    /// Of what was there when it was opened.
    print: u64,
}

/// Nobody takes what is read any more, or something cannot be read.
enum Ended {
    Early,
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Ended {
        Ended::Failed(error)
    }
}

type Sent = std::result::Result<(), Ended>;
type Send = fn(i64, &Path, &Way) -> Sent;

impl Folder {
    /// # Errors
    /// When it holds no experiment and no registry of MLflow.
    pub fn open(path: &Path) -> Result<Folder> {
        let mut folder = Folder { path: path.to_path_buf(), print: 0 };
        let experiments = folder.experiment_folders()?;
        if experiments.is_empty() && folders(&path.join(REGISTRY))?.is_empty() {
            let why = "none of its folders has a meta.yaml of an experiment\n  hint: name the folder that holds folders such as `0`, mostly `mlruns`";
            return Err(Error::invalid(format!("{} is not a file store of MLflow: {why}", path.display())));
        }
        folder.print = folder.print()?;
        Ok(folder)
    }

    /// All experiments with their tags, and what was found not to be one.
    pub fn experiments(&self) -> Result<(Vec<Experiment>, Vec<Rows>)> {
        let (mut found, mut left) = (Vec::new(), Vec::new());
        for (name, folder) in self.experiment_folders()? {
            let read = match meta(&folder) {
                Ok(read) => read,
                Err(error) => {
                    left.push(Rows::Unreadable(Kind::Experiments, folder.join(META), first_line(&error)));
                    continue;
                }
            };
            match (name.parse(), read.text("experiment_id") == name) {
                (Ok(id), true) => found.push(Experiment {
                    id,
                    name: read.text("name"),
                    artifact_location: read.text("artifact_location"),
                    stage: Stage::read(&read.maybe("lifecycle_stage").unwrap_or_else(|| "active".into())),
                    created: read.int("creation_time").unwrap_or_default(),
                    updated: read.int("last_update_time").or(read.int("creation_time")).unwrap_or_default(),
                    tags: Vec::new(),
                }),
                (Err(_), _) => left.push(Rows::Left(Kind::Experiments, "its id is no number".into(), 1)),
                (_, false) => left.push(Rows::Left(Kind::Experiments, "its folder has another name than its id".into(), 1)),
            }
        }
        found.sort_by_key(|e| e.id);
        Ok((found, left))
    }

    /// Names of registered models, and when each was made.
    pub fn models(&self) -> Result<Names> {
        let folders = folders(&self.path.join(REGISTRY))?;
        Ok(folders
            .into_iter()
            .filter_map(|(_, folder)| meta(&folder).ok())
            .map(|m| (m.text("name"), m.int("creation_timestamp").unwrap_or_default()))
            .collect())
    }

    /// Ids of the runs of an experiment.
    pub fn runs_of(&self, experiment: i64) -> Result<Vec<String>> {
        let folders = self.experiment_folders()?;
        let folder = folders.into_iter().find(|(name, _)| *name == experiment.to_string());
        folder.map_or(Ok(Vec::new()), |(_, folder)| Ok(runs(&folder)?.into_iter().map(|(name, _)| name).collect()))
    }

    /// Sends everything. Ends early when nobody takes it any more.
    pub fn send(&self, to: &mpsc::Sender<Result<Rows>>) -> Result<()> {
        match self.send_all(&Way(to)) {
            Err(Ended::Failed(error)) => Err(error),
            _ => Ok(()),
        }
    }

    fn send_all(&self, way: &Way) -> Sent {
        for (name, folder) in self.experiment_folders()? {
            let Some(id) = number(&name, &folder) else {
                way.send(Rows::Left(Kind::Runs, "its experiment is not there".into(), runs(&folder)?.len() as u64))?;
                continue;
            };
            send_datasets(id, &folder.join("datasets"), way)?;
            for (_, run) in runs(&folder)? {
                send_run(id, &run, way)?;
            }
            for (what, send) in [("models", send_model as Send), ("traces", send_trace as Send)] {
                for (_, folder) in folders(&folder.join(what))? {
                    send(id, &folder, way)?;
                }
            }
            way.pairs(Kind::ExperimentTags, &name, way.values(Kind::ExperimentTags, &folder.join("tags"))?)?;
        }
        for (_, folder) in folders(&self.path.join(REGISTRY))? {
            send_registered(&folder, way)?;
        }
        Ok(())
    }

    /// How much there is, by a count of its own: what came in while the rest was sent is seen by it.
    pub fn counts(&self) -> Result<Vec<(Kind, u64)>> {
        let mut counts = BTreeMap::new();
        let mut add = |kind: Kind, rows: usize| *counts.entry(kind).or_insert(0) += rows as u64;
        let files = |folder: &Path, below: &str| files(&folder.join(below)).map(|files| files.len());
        for (name, folder) in self.experiment_folders()? {
            add(Kind::Experiments, 1);
            let is_known = number(&name, &folder).is_some();
            for (_, run) in runs(&folder)? {
                add(Kind::Runs, 1);
                if is_known && meta(&run).is_ok_and(|read| !run_id(&read).is_empty()) {
                    add(Kind::Tags, files(&run, "tags")?);
                    add(Kind::Params, files(&run, "params")?);
                    for (_, file) in self::files(&run.join("metrics"))? {
                        add(Kind::Points, lines(&file).map_or(1, Iterator::count));
                    }
                }
            }
            if !is_known {
                continue;
            }
            add(Kind::ExperimentTags, files(&folder, "tags")?);
            add(Kind::Datasets, folders(&folder.join("datasets"))?.len());
            for (_, model) in folders(&folder.join("models"))? {
                add(Kind::LoggedModels, 1);
                if meta(&model).is_ok() {
                    add(Kind::LoggedParams, files(&model, "params")?);
                    add(Kind::LoggedTags, files(&model, "tags")?);
                }
            }
            for (_, trace) in folders(&folder.join("traces"))? {
                add(Kind::Traces, 1);
                if yaml_file(&trace.join(TRACE)).is_ok() {
                    add(Kind::TraceTags, files(&trace, "tags")?);
                    add(Kind::TraceMetadata, files(&trace, "request_metadata")?);
                    add(Kind::Assessments, files(&trace, "assessments")?);
                }
            }
        }
        for (_, model) in folders(&self.path.join(REGISTRY))? {
            add(Kind::Models, 1);
            if meta(&model).is_err() {
                continue;
            }
            add(Kind::ModelTags, files(&model, "tags")?);
            add(Kind::Aliases, files(&model, "aliases")?);
            for (_, version) in versions(&model)? {
                add(Kind::Versions, 1);
                if meta(&version).is_ok() {
                    add(Kind::VersionTags, files(&version, "tags")?);
                }
            }
        }
        Ok(counts.into_iter().collect())
    }

    /// Whether anything in it but artifacts came, went or was written to since it was opened.
    pub fn has_changed(&self) -> Result<bool> {
        Ok(self.print()? != self.print)
    }

    /// Of all files but artifacts, and when each was written to by the clock of whoever wrote it, which may be another machine's.
    fn print(&self) -> Result<u64> {
        let mut hasher = DefaultHasher::new();
        let experiments = self.experiment_folders()?.into_iter().map(|(_, folder)| folder);
        let mut waiting: Vec<PathBuf> = experiments.chain([self.path.join(REGISTRY)]).collect();
        while let Some(folder) = waiting.pop() {
            let mut found = entries(&folder)?;
            found.sort_by(|(a, ..), (b, ..)| a.cmp(b));
            for (name, path, kind) in found {
                if kind.is_dir() {
                    waiting.extend((name != ARTIFACTS).then_some(path));
                } else {
                    let found = fs::symlink_metadata(&path).ok();
                    (path, found.map(|found| (found.len(), found.modified().ok()))).hash(&mut hasher);
                }
            }
        }
        Ok(hasher.finish())
    }

    /// By name, those in the trash too.
    fn experiment_folders(&self) -> Result<Vec<(String, PathBuf)>> {
        let mut found = folders(&self.path)?;
        found.retain(|(name, _)| name != REGISTRY && name != TRASH);
        found.extend(folders(&self.path.join(TRASH))?);
        let mut kept = Vec::with_capacity(found.len());
        for (name, folder) in found {
            if has_meta(&folder)? {
                kept.push((name, folder));
            }
        }
        kept.sort();
        Ok(kept)
    }
}

/// Where what is read goes.
struct Way<'a>(&'a mpsc::Sender<Result<Rows>>);

impl Way<'_> {
    fn send(&self, rows: Rows) -> Sent {
        self.0.blocking_send(Ok(rows)).map_err(|_| Ended::Early)
    }

    /// What a file says; one that cannot be read is told, and left out.
    fn whole<T>(&self, kind: Kind, file: &Path, read: Result<T>) -> std::result::Result<Option<T>, Ended> {
        match read {
            Ok(read) => Ok(Some(read)),
            // Such as a `.DS_Store` or a folder `.ipynb_checkpoints`: programs beside MLflow write them.
            Err(_) if is_hidden(file) || file.parent().is_some_and(is_hidden) => {
                self.send(Rows::Left(kind, "its name begins with a dot, and it is nothing of MLflow's".into(), 1)).map(|()| None)
            }
            Err(error) => self.send(Rows::Unreadable(kind, file.to_path_buf(), first_line(&error))).map(|()| None),
        }
    }

    fn yaml(&self, kind: Kind, file: &Path) -> std::result::Result<Option<Yaml>, Ended> {
        self.whole(kind, file, yaml_file(file))
    }

    fn meta(&self, kind: Kind, folder: &Path) -> std::result::Result<Option<Yaml>, Ended> {
        self.yaml(kind, &folder.join(META))
    }

    /// Files below a folder, whose path is a name and whose content is its value.
    fn values(&self, kind: Kind, folder: &Path) -> std::result::Result<Vec<Pair>, Ended> {
        let mut found = Vec::new();
        for (key, file) in files(folder)? {
            found.extend(self.whole(kind, &file, text(&file, VALUE))?.map(|value| Pair { key, value }));
        }
        Ok(found)
    }

    fn pairs(&self, kind: Kind, owner: &str, pairs: Vec<Pair>) -> Sent {
        if pairs.is_empty() {
            return Ok(());
        }
        self.send(Rows::Pairs(kind, pairs.into_iter().map(|pair| Owned { owner: owner.into(), pair }).collect()))
    }
}

fn send_datasets(experiment: i64, folder: &Path, way: &Way) -> Sent {
    for (_, folder) in folders(folder)? {
        if let Some(read) = way.meta(Kind::Datasets, &folder)? {
            let dataset = Dataset {
                name: read.text("name"),
                digest: read.text("digest"),
                source_type: read.text("source_type"),
                source: read.text("source"),
                schema: read.maybe("schema"),
                profile: read.maybe("profile"),
            };
            way.send(Rows::Datasets(vec![(experiment, dataset)]))?;
        }
    }
    Ok(())
}

fn send_run(experiment: i64, folder: &Path, way: &Way) -> Sent {
    let Some(read) = way.meta(Kind::Runs, folder)? else { return Ok(()) };
    let id = run_id(&read);
    if id.is_empty() {
        return way.send(Rows::Left(Kind::Runs, "its meta.yaml names no run".into(), 1));
    }
    let tags = way.values(Kind::Tags, &folder.join("tags"))?;
    let tagged = tags.iter().find(|t| t.key == "mlflow.runName").map(|t| t.value.clone());
    let status = read.text("status");
    let run = RunInfo {
        id: id.clone(),
        experiment,
        name: read.maybe("run_name").filter(|name| !name.is_empty()).or(tagged).unwrap_or_default(),
        user: read.text("user_id"),
        status: match status.as_str() {
            "2" => Status::Scheduled,
            "3" => Status::Finished,
            "4" => Status::Failed,
            "5" => Status::Killed,
            word => Status::read(word).unwrap_or(Status::Running),
        },
        stage: Stage::read(&read.maybe("lifecycle_stage").unwrap_or_else(|| "active".into())),
        start_time: read.int("start_time").unwrap_or_default(),
        end_time: read.int("end_time"),
        artifact_uri: read.text("artifact_uri"),
    };
    way.send(Rows::Runs(vec![run]))?;
    way.pairs(Kind::Tags, &id, tags)?;
    way.pairs(Kind::Params, &id, way.values(Kind::Params, &folder.join("params"))?)?;
    for (key, file) in files(&folder.join("metrics"))? {
        send_metric(&id, &key, &file, way)?;
    }
    send_inputs(experiment, &id, folder, way)
}

fn send_metric(run: &str, key: &str, file: &Path, way: &Way) -> Sent {
    let (mut points, mut hashes, mut spoilt) = (Vec::new(), Vec::new(), 0);
    let Some(read) = way.whole(Kind::Points, file, lines(file))? else { return Ok(()) };
    for line in read {
        let line = line?;
        let parts: Vec<&str> = line.split_whitespace().collect();
        let read = match parts.as_slice() {
            [time, value, rest @ ..] if matches!(rest.len(), 0 | 1 | 3) => {
                let step = rest.first().map_or(Some(0), |step| step.parse().ok());
                time.parse().ok().zip(value.parse::<f64>().ok()).zip(step)
            }
            _ => None,
        };
        let Some(((timestamp, value), step)) = read else {
            spoilt += 1;
            continue;
        };
        let mut hasher = DefaultHasher::new();
        // As they are stored: infinities are the largest number, and no number is any other.
        let stored = if value.is_nan() { u64::MAX } else { (value.clamp(f64::MIN, f64::MAX) + 0.).to_bits() };
        (timestamp, step, stored).hash(&mut hasher);
        hashes.push(hasher.finish());
        points.push(Point { run: run.into(), key: key.into(), timestamp, step, value });
        if points.len() == POINTS {
            way.send(Rows::Points(std::mem::take(&mut points)))?;
        }
    }
    way.send(Rows::Points(points))?;
    let all = hashes.len();
    hashes.sort_unstable();
    hashes.dedup();
    // These were read, and are one with another.
    let twice = (all - hashes.len()) as u64;
    way.send(Rows::Merged(Kind::Points, run.into(), "the same point stands there twice", twice))?;
    way.send(Rows::Left(Kind::Points, NO_POINT.into(), spoilt))
}

fn send_inputs(experiment: i64, run: &str, folder: &Path, way: &Way) -> Sent {
    let (mut inputs, mut tags, mut models) = (Vec::new(), Vec::new(), Vec::new());
    for (_, at) in folders(&folder.join("inputs"))? {
        let Some(read) = way.meta(Kind::Inputs, &at)? else { continue };
        let source = read.text("source_id");
        if read.text("source_type") == "MODEL" {
            models.push((run.to_string(), RunModel { model_id: source, step: 0, is_output: false }));
            continue;
        }
        if !is_one_part(&source) {
            way.send(Rows::Left(Kind::Inputs, NO_PART.into(), 1))?;
            continue;
        }
        let of = folder.parent().map(|experiment| experiment.join("datasets").join(&source)).unwrap_or_default();
        let Some(of) = way.meta(Kind::Inputs, &of)? else { continue };
        let input = Read { run: run.into(), experiment, name: of.text("name"), digest: of.text("digest") };
        for (key, value) in read.get("tags").map(Yaml::pairs).unwrap_or_default() {
            tags.push((input.clone(), Pair { key, value }));
        }
        inputs.push(input);
    }
    for (_, at) in folders(&folder.join("outputs"))? {
        let Some(read) = way.meta(Kind::RunModels, &at)? else { continue };
        let model_id = read.text("destination_id");
        models.push((run.to_string(), RunModel { model_id, step: read.int("step").unwrap_or_default(), is_output: true }));
    }
    for rows in [Rows::Inputs(inputs), Rows::InputTags(tags), Rows::RunModels(models)] {
        if rows.len() > 0 {
            way.send(rows)?;
        }
    }
    Ok(())
}

fn send_model(experiment: i64, folder: &Path, way: &Way) -> Sent {
    let Some(read) = way.meta(Kind::LoggedModels, folder)? else { return Ok(()) };
    let id = read.text("model_id");
    let created = read.int("creation_timestamp").unwrap_or_default();
    let model = LoggedModel {
        id: id.clone(),
        experiment,
        name: read.text("name"),
        model_type: read.text("model_type"),
        source_run: read.text("source_run_id"),
        status: logged_status(read.int("status").unwrap_or_default()),
        created,
        updated: read.int("last_updated_timestamp").unwrap_or(created),
        artifact_uri: read.text("artifact_location"),
        params: Vec::new(),
        tags: Vec::new(),
        metrics: Vec::new(),
    };
    let stage = Stage::read(&read.maybe("lifecycle_stage").unwrap_or_else(|| "active".into()));
    way.send(Rows::LoggedModels(vec![(model, stage)]))?;
    way.pairs(Kind::LoggedParams, &id, way.values(Kind::LoggedParams, &folder.join("params"))?)?;
    way.pairs(Kind::LoggedTags, &id, way.values(Kind::LoggedTags, &folder.join("tags"))?)?;
    let (mut points, mut kept, mut spoilt) = (Vec::new(), BTreeMap::new(), 0);
    for (key, file) in files(&folder.join("metrics"))? {
        let Some(read) = way.whole(Kind::LoggedPoints, &file, lines(&file))? else { continue };
        for line in read {
            let line = line?;
            let parts: Vec<&str> = line.split_whitespace().collect();
            let read = match parts.as_slice() {
                [time, value, step, run, dataset @ ..] => time
                    .parse()
                    .ok()
                    .zip(value.parse().ok())
                    .zip(step.parse().ok())
                    .map(|((time, value), step)| (time, value, step, run, dataset)),
                _ => None,
            };
            let Some((timestamp, value, step, run, dataset)) = read else {
                spoilt += 1;
                continue;
            };
            let dataset = (dataset.first().unwrap_or(&"").to_string(), dataset.get(1).unwrap_or(&"").to_string());
            *kept.entry((key.clone(), dataset.clone())).or_insert(0u64) += 1;
            points.push((run.to_string(), Metric { key: key.clone(), value, timestamp, step, model_id: Some(id.clone()), dataset }));
        }
    }
    let later = kept.values().map(|points| points - 1).sum();
    way.send(Rows::LoggedPoints(points))?;
    way.send(Rows::Left(Kind::LoggedPoints, NO_POINT.into(), spoilt))?;
    way.send(Rows::Merged(Kind::LoggedPoints, id, LATER, later))
}

fn send_trace(experiment: i64, folder: &Path, way: &Way) -> Sent {
    let Some(read) = way.yaml(Kind::Traces, &folder.join(TRACE))? else { return Ok(()) };
    let id = read.maybe("trace_id").unwrap_or_else(|| read.text("request_id"));
    let start = read.maybe("request_time").and_then(|text| time(&text)).or(read.int("timestamp_ms"));
    let tags = way.values(Kind::TraceTags, &folder.join("tags"))?;
    let trace = TraceInfo {
        id: id.clone(),
        experiment,
        state: TraceState::read(&read.maybe("state").unwrap_or_else(|| read.text("status"))),
        start_time: start.unwrap_or_default(),
        duration: read.int("execution_duration_ms").or(read.int("execution_time_ms")),
        client_request_id: read.maybe("client_request_id"),
        request_preview: read.maybe("request_preview"),
        response_preview: read.maybe("response_preview"),
        tags: tags.iter().filter(|t| matches!(t.key.as_str(), key::NAME | key::ARTIFACTS)).cloned().collect(),
        ..TraceInfo::default()
    };
    way.send(Rows::Traces(vec![trace]))?;
    way.pairs(Kind::TraceTags, &id, tags)?;
    way.pairs(Kind::TraceMetadata, &id, way.values(Kind::TraceMetadata, &folder.join("request_metadata"))?)?;
    let mut assessments = Vec::new();
    for (_, file) in files(&folder.join("assessments"))? {
        assessments.extend(way.yaml(Kind::Assessments, &file)?.map(|read| assessment(&id, &read)));
    }
    way.send(Rows::Assessments(assessments))
}

fn assessment(trace: &str, read: &Yaml) -> Assessment {
    let (kind, value) = match (read.get("expectation"), read.get("issue")) {
        (Some(expectation), _) => {
            let serialized = expectation.get("serialized_value").and_then(|s| json::read(&s.text("value")));
            (AssessmentKind::Expectation, serialized.or_else(|| Some(expectation.get("value")?.json())))
        }
        (_, Some(issue)) => (AssessmentKind::Issue, issue.get("issue_name").map(Yaml::json)),
        _ => (AssessmentKind::Feedback, read.get("feedback").and_then(|f| f.get("value")).map(Yaml::json)),
    };
    let at = |name: &str| read.maybe(name).and_then(|text| time(&text)).unwrap_or_default();
    let source = |name: &str| read.get("source").map(|s| s.text(name)).unwrap_or_default();
    Assessment {
        id: read.text("assessment_id"),
        trace: trace.into(),
        kind,
        name: read.text("assessment_name"),
        value: value.unwrap_or_default(),
        error: read.get("feedback").and_then(|f| f.get("error")).map(Yaml::json),
        source_type: source("source_type"),
        source_id: source("source_id"),
        span_id: read.maybe("span_id"),
        rationale: read.maybe("rationale"),
        metadata: read.get("metadata").map(Yaml::pairs).unwrap_or_default().into_iter().collect(),
        overrides: read.maybe("overrides"),
        is_valid: read.maybe("valid").as_deref() != Some("false"),
        created: at("create_time"),
        updated: at("last_update_time"),
    }
}

fn send_registered(folder: &Path, way: &Way) -> Sent {
    let Some(read) = way.meta(Kind::Models, folder)? else { return Ok(()) };
    let name = read.text("name");
    let created = read.int("creation_timestamp").unwrap_or_default();
    let model = RegisteredModel {
        name: name.clone(),
        description: read.text("description"),
        created,
        updated: read.int("last_updated_timestamp").unwrap_or(created),
        tags: Vec::new(),
        aliases: Vec::new(),
        latest: Vec::new(),
    };
    way.send(Rows::Models(vec![model]))?;
    way.pairs(Kind::ModelTags, &name, way.values(Kind::ModelTags, &folder.join("tags"))?)?;
    for (_, folder) in versions(folder)? {
        let Some(read) = way.meta(Kind::Versions, &folder)? else { continue };
        let (number, created) = (read.int("version").unwrap_or_default(), read.int("creation_timestamp").unwrap_or_default());
        let source = read.text("source");
        let version = ModelVersion {
            name: name.clone(),
            version: number,
            location: read.maybe("storage_location").filter(|place| !place.is_empty()).unwrap_or_else(|| source.clone()),
            source,
            run_id: read.text("run_id"),
            run_link: read.text("run_link"),
            description: read.text("description"),
            stage: read.maybe("current_stage").unwrap_or_else(|| "None".into()),
            created,
            updated: read.int("last_updated_timestamp").unwrap_or(created),
            tags: Vec::new(),
            aliases: Vec::new(),
        };
        way.send(Rows::Versions(vec![version]))?;
        let tags = way.values(Kind::VersionTags, &folder.join("tags"))?;
        way.send(Rows::VersionTags(tags.into_iter().map(|tag| (name.clone(), number, tag)).collect()))?;
    }
    let aliases = way.values(Kind::Aliases, &folder.join("aliases"))?;
    let alias = |pair: Pair| (name.clone(), pair.key, pair.value.trim().parse().unwrap_or_default());
    way.send(Rows::Aliases(aliases.into_iter().map(alias).collect()))
}

/// Whether a folder says what it is. One that cannot be looked into is not taken for one that says nothing.
fn has_meta(folder: &Path) -> Result<bool> {
    match fs::symlink_metadata(folder.join(META)) {
        Ok(found) => Ok(!found.is_dir()),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(failed(&folder.join(META), e)),
    }
}

fn is_hidden(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn meta(folder: &Path) -> Result<Yaml> {
    yaml_file(&folder.join(META))
}

fn yaml_file(file: &Path) -> Result<Yaml> {
    let refused = |why: String| Error::invalid(format!("{} is damaged: {why}\n  hint: mend it, or move its folder away", file.display()));
    match Yaml::read(&text(file, yaml::BYTES)?) {
        Ok(read @ Yaml::Map(_)) => Ok(read),
        Ok(_) => Err(refused("it holds no fields".into())),
        Err(why) => Err(refused(why)),
    }
}

fn text(file: &Path, most: u64) -> Result<String> {
    let size = size(file)?;
    if size > most {
        return Err(Error::invalid(format!("{} has {size} bytes, which is no value", file.display())));
    }
    let bytes = fs::read(file).map_err(|e| failed(file, e))?;
    String::from_utf8(bytes).map_err(|_| Error::invalid(format!("{} is no UTF-8", file.display())))
}

/// Bytes of a file that is one: a link may lead to what is no part of the store.
fn size(file: &Path) -> Result<u64> {
    let found = fs::symlink_metadata(file).map_err(|e| failed(file, e))?;
    if found.is_file() { Ok(found.len()) } else { Err(Error::invalid(format!("{} is a link or no file", file.display()))) }
}

/// The lines of a file that hold something; what is no UTF-8 in them is no number either, nor is one that is too long.
fn lines(file: &Path) -> Result<impl Iterator<Item = Result<String>>> {
    size(file)?;
    let mut from = BufReader::new(fs::File::open(file).map_err(|e| failed(file, e))?);
    let lines = std::iter::from_fn(move || line(&mut from).map_err(|e| failed(file, e)).transpose());
    Ok(lines.filter(|line| !line.as_ref().is_ok_and(|line| line.trim().is_empty())))
}

fn line(from: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let (mut line, mut is_long) = (Vec::new(), false);
    loop {
        let bytes = from.take(LINE).read_until(b'\n', &mut line)?;
        let is_end = bytes == 0 || line.ends_with(b"\n");
        if is_end {
            let is_none = bytes == 0 && line.is_empty() && !is_long;
            return Ok((!is_none).then(|| if is_long { "too long".into() } else { String::from_utf8_lossy(&line).into_owned() }));
        }
        if bytes as u64 == LINE {
            is_long = true;
            line.clear();
        }
    }
}

/// The number of an experiment whose folder is as it must be.
fn number(name: &str, folder: &Path) -> Option<i64> {
    name.parse().ok().filter(|_| meta(folder).is_ok_and(|read| read.text("experiment_id") == name))
}

fn run_id(read: &Yaml) -> String {
    read.maybe("run_id").unwrap_or_else(|| read.text("run_uuid"))
}

/// The folders of an experiment's runs.
fn runs(experiment: &Path) -> Result<Vec<(String, PathBuf)>> {
    Ok(folders(experiment)?.into_iter().filter(|(name, _)| !NO_RUNS.contains(&name.as_str())).collect())
}

/// The folders of a registered model's versions.
fn versions(model: &Path) -> Result<Vec<(String, PathBuf)>> {
    Ok(folders(model)?.into_iter().filter(|(name, _)| name.starts_with("version-")).collect())
}

/// Files below a folder by their path from there, in order; none where there is no folder.
fn files(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let (mut found, mut waiting) = (Vec::new(), vec![(String::new(), folder.to_path_buf())]);
    while let Some((below, folder)) = waiting.pop() {
        for (name, path, kind) in entries(&folder)? {
            let name = if below.is_empty() { name } else { format!("{below}/{name}") };
            if kind.is_dir() { waiting.push((name, path)) } else { found.push((name, path)) }
        }
    }
    found.sort();
    Ok(found)
}

/// Folders in a folder by name; none where there is no folder.
fn folders(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for (name, path, kind) in entries(folder)? {
        if kind.is_symlink() && path.is_dir() {
            return Err(link(&path));
        }
        if kind.is_dir() {
            found.push((name, path));
        }
    }
    found.sort();
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<(String, PathBuf, FileType)>> {
    if fs::symlink_metadata(folder).is_ok_and(|found| found.is_symlink()) {
        return Err(link(folder));
    }
    let read = match fs::read_dir(folder) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        read => read.map_err(|e| failed(folder, e))?,
    };
    let mut found = Vec::new();
    for entry in read {
        let entry = entry.map_err(|e| failed(folder, e))?;
        let kind = entry.file_type().map_err(|e| failed(folder, e))?;
        found.push((entry.file_name().to_string_lossy().into_owned(), entry.path(), kind));
    }
    Ok(found)
}

fn link(path: &Path) -> Error {
    let hint = "hint: links are not followed: put the folder that it leads to in its place, or move it away";
    Error::invalid(format!("{} is a link to a folder\n  {hint}", path.display()))
}

fn first_line(error: &Error) -> String {
    error.message.lines().next().unwrap_or_default().to_string()
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    Error::invalid(format!("cannot read {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_one_and_not_kept() {
        let long = "1 0.5 1 ".to_string() + &"x".repeat(3 * LINE as usize);
        for (text, expected) in [
            (format!("1 1 1\n{long}\n2 2 2"), vec!["1 1 1\n", "too long", "2 2 2"]),
            (long, vec!["too long"]),
            ("\n".into(), vec!["\n"]),
            (String::new(), vec![]),
        ] {
            let mut from = text.as_bytes();
            let lines: Vec<String> = std::iter::from_fn(|| line(&mut from).unwrap()).collect();
            assert_eq!(lines, expected);
        }
    }
}
