//! Brings a store of MLflow over into this one: its SQLite file or its `mlruns` folder, which are only read.
//!
//! A reader sends rows in pages, in an order in which everything comes after what it belongs to. The files that belong to them are copied, then the rows are
//! stored in one transaction with the place that was reached. Whatever ends the process, the next import goes on from there; what comes twice is there once.

mod database;
mod folder;
mod places;
mod rows;
mod span;
mod yaml;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::error::{Error, ErrorCode, Result};
use crate::model::Experiment;
use crate::store::{Brought, Plan, Tracking};
use crate::trace::{ReadySpan, key, ready_alone};
use database::Database;
use folder::Folder;
use places::Places;
pub(crate) use places::{Place, own};
use rows::Batch;
pub(crate) use rows::{Kind, Owned, Point, Position, Read, Rows, Tally};

/// Pages that are read ahead.
const AHEAD: usize = 4;
/// Rows of one transaction; spans and the like count as many, because they are large.
const TRANSACTION: usize = 20_000;
const LARGE: usize = 200;
/// Bytes of a file of spans that is looked into.
const SPANS: u64 = 64 << 20;
/// Why a point of a logged model is not kept.
const LATER: &str = "a later point of the same metric is kept";

/// Names of registered models, and when each was made in milliseconds UTC.
pub(crate) type Names = Vec<(String, i64)>;

/// What happens to an experiment or a registered model whose name is taken by another one here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Clashes {
    /// Nothing is brought over.
    #[default]
    Refuse,
    /// It is left out, with all that belongs to it.
    Skip,
    /// It gets another name.
    Rename,
}

/// What is to be brought over.
#[derive(Debug, Clone)]
pub struct MlflowImport {
    /// The file of MLflow's database, `sqlite:///FILE`, or the folder of its file store.
    pub source: String,
    /// Where `mlflow-artifacts:/` lies, and where artifacts are looked for that are not where they were.
    pub artifacts: Option<PathBuf>,
    /// What happens to names that are taken.
    pub clashes: Clashes,
}

/// What came of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportReport {
    /// One line for each kind of thing of which there is any.
    pub lines: Vec<ImportLine>,
    /// What a person should know beside it.
    pub notes: Vec<String>,
}

impl ImportReport {
    /// Whether everything in the source is here, or was left out for a reason.
    pub fn agrees(&self) -> bool {
        self.lines.iter().all(|line| line.missing() == 0)
    }
}

/// How much there was of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportLine {
    /// What.
    pub what: &'static str,
    /// How much is in the source.
    pub source: u64,
    /// How much of it is here.
    pub here: u64,
    /// How much was left out, and why.
    pub left: Vec<(String, u64)>,
}

impl ImportLine {
    /// How much of it is neither here nor was left out, or is here without being in the source.
    pub fn missing(&self) -> u64 {
        self.source.abs_diff(self.here + self.left.iter().map(|(_, rows)| rows).sum::<u64>())
    }
}

impl Tracking {
    /// Brings a store of MLflow over. `told` hears now and then what is being brought, and how much of it there was so far.
    ///
    /// # Errors
    /// When the source is none, or names in it are taken here and [`Clashes::Refuse`] is chosen: nothing was brought then. When something cannot be read
    /// or written: what was brought stays, and the next import goes on from there.
    pub async fn import_mlflow(&self, import: &MlflowImport, told: impl Fn(&str, u64) + Send) -> Result<ImportReport> {
        let mut source = Source::open(&import.source).await?;
        let places = source.places(import.artifacts.as_deref());
        let (experiments, left) = source.experiments().await?;
        let count = experiments.len() as u64;
        let locations: Vec<String> = experiments.iter().map(|e| e.artifact_location.clone()).collect();
        let models = source.models().await?;
        let name = source.name();
        let (plan, position, mut tally) = self.begin_import(name.clone(), experiments, models, import.clashes).await?;
        // These are looked at each time.
        tally.read.insert(Kind::Experiments, 0);
        tally.left.retain(|(kind, _), _| *kind != Kind::Experiments);
        tally.read(Kind::Experiments, count);
        tally.left(Kind::Experiments, "another one here has its name", count - plan.experiments.len() as u64);
        for rows in left {
            if let Rows::Left(kind, why, rows) = rows {
                tally.read(kind, rows);
                tally.left(kind, &why, rows);
            }
        }
        let plan = Arc::new(plan);
        let (sender, mut pages) = mpsc::channel(AHEAD);
        let reading = source.send(position, sender);
        while let Some(batch) = pages.recv().await {
            let mut together = vec![batch?];
            while together.iter().map(|batch| weight(&batch.rows)).sum::<usize>() < TRANSACTION
                && let Ok(batch) = pages.try_recv()
            {
                together.push(batch?);
            }
            let kind = together.iter().map(|batch| batch.rows.kind()).max().unwrap_or(Kind::Runs);
            let mut brought = Vec::with_capacity(together.len());
            for Batch { position, rows } in together {
                let (spans, files) = self.copy_artifacts(&rows, &plan, &places).await?;
                let rows = std::iter::once(rows).chain(spans).collect();
                brought.push(Brought { rows, files, position });
            }
            tally = self.bring(name.clone(), brought, tally, plan.clone()).await?;
            told(kind.name(), tally.read.get(&kind).copied().unwrap_or_default());
        }
        let mut source = reading.await.map_err(|e| Error::internal(&e))?;
        let mut counts: BTreeMap<Kind, u64> = tally.read.clone();
        counts.extend(source.counts(&mut tally).await?);
        for location in locations {
            if let Place::Elsewhere(scheme) = Place::read(&location) {
                tally.note(format!("artifacts of experiments stay at {scheme}: clients read and write them there"));
            }
        }
        let report = report(&counts, &tally, &self.imported().await?, source.is_unknown());
        self.end_import().await?;
        Ok(report)
    }

    /// Copies the files of runs, models and traces: before their rows are stored, which say that they are there. Answers the spans among them, and their count.
    async fn copy_artifacts(&self, rows: &Rows, plan: &Plan, places: &Places) -> Result<(Vec<Rows>, Tally)> {
        // Traces whose spans come as rows.
        let mut stored = HashSet::new();
        let (mut spans, mut tally) = (Vec::new(), Tally::default());
        let mut folders: Vec<(i64, &str, String)> = Vec::new();
        match rows {
            Rows::Runs(runs) => folders.extend(runs.iter().map(|run| (run.experiment, run.artifact_uri.as_str(), run.id.clone()))),
            Rows::LoggedModels(models) => {
                folders.extend(models.iter().map(|(m, _)| (m.experiment, m.artifact_uri.as_str(), format!("models/{}", m.id))));
            }
            Rows::Traces(traces) => {
                for trace in traces {
                    let place = trace.tags.iter().find(|tag| tag.key == key::ARTIFACTS).map(|tag| tag.value.as_str());
                    if trace.tags.iter().any(|tag| tag.key == key::SPANS) {
                        stored.insert(trace.id.clone());
                    }
                    folders.extend(place.map(|place| (trace.experiment, place, format!("traces/{}", trace.id))));
                }
            }
            _ => {}
        }
        for (experiment, uri, owner) in folders {
            let place = Place::read(uri);
            let Some(here) = plan.experiments.get(&experiment) else { continue };
            if !place.moves() {
                continue;
            }
            match places.find(&place, &format!("{experiment}/{owner}/artifacts")) {
                Some(folder) => {
                    places::copy(self.artifacts(), &folder, &format!("{here}/{owner}/artifacts"), &mut tally).await?;
                    if let Some(trace) = owner.strip_prefix("traces/").filter(|trace| !stored.contains(*trace)) {
                        spans.extend(spans_in(&folder, trace).map(|found| Rows::FileSpans(trace.into(), found)));
                    }
                }
                None if owner.starts_with("models/") => {
                    tally.note("the files of some logged models were not found: name their folder with --artifacts".into());
                }
                // A run or a trace without artifacts has no folder.
                None => {}
            }
        }
        Ok((spans, tally))
    }
}

/// The spans of a trace that lie in a file beside the store; one that cannot be read is left to the client, which reads it from among the artifacts.
fn spans_in(folder: &Path, trace_id: &str) -> Option<Vec<ReadySpan>> {
    let file = folder.join("traces.json");
    let is_fit = std::fs::metadata(&file).is_ok_and(|meta| meta.is_file() && meta.len() <= SPANS);
    let text = is_fit.then(|| std::fs::read_to_string(&file).ok())??;
    let spans: Option<Vec<ReadySpan>> = span::read_file(&text)?.into_iter().map(|span| ready_alone(trace_id, span).ok()).collect();
    spans.filter(|spans| !spans.is_empty())
}

fn weight(rows: &Rows) -> usize {
    let each = if matches!(rows, Rows::Spans(_) | Rows::Traces(_) | Rows::Datasets(_) | Rows::EvaluationRecords(_) | Rows::Scorers(_)) {
        LARGE
    } else {
        1
    };
    rows.len() * each + 1
}

fn report(counts: &BTreeMap<Kind, u64>, tally: &Tally, here: &BTreeMap<Kind, u64>, unknown: Option<&str>) -> ImportReport {
    let mut lines = Vec::new();
    for (kind, what) in Kind::ALL {
        let source = counts.get(&kind).copied().unwrap_or_default().max(tally.read.get(&kind).copied().unwrap_or_default());
        let left = tally.left.iter().filter(|((of, _), _)| *of == kind).map(|((_, why), rows)| (why.clone(), *rows)).collect();
        let expected = source.saturating_sub(tally.all_left(kind));
        // What was here before, or came by other ways, is no part of it.
        let here = if kind == Kind::Files { expected } else { here.get(&kind).copied().unwrap_or_default().min(expected) };
        if source > 0 {
            lines.push(ImportLine { what, source, here, left });
        }
    }
    let mut notes: Vec<String> =
        tally.notes.iter().map(|(note, times)| if *times > 1 { format!("{note} ({times})") } else { note.clone() }).collect();
    if let Some(schema) = unknown {
        notes.push(format!(
            "the schema of the database ({schema}) is newer than MLflow 3.17, which this release knows: what was added since is not brought over"
        ));
    }
    ImportReport { lines, notes }
}

/// A store of MLflow that is open to be read.
enum Source {
    Database(Database, PathBuf),
    Folder(Folder, PathBuf),
}

impl Source {
    async fn open(source: &str) -> Result<Source> {
        let refuse = |why: String| Err(Error::new(ErrorCode::InvalidParameterValue, why));
        let path = match source.split_once("://") {
            Some((scheme, rest)) if scheme == "sqlite" || scheme.starts_with("sqlite+") => {
                rest.strip_prefix('/').unwrap_or(rest).to_string()
            }
            Some(("file", rest)) => match Place::read(&format!("file://{rest}")) {
                Place::Local(path) => path,
                _ => rest.to_string(),
            },
            Some(("http" | "https", _)) => {
                return refuse(format!(
                    "{source} is a server, which is no source\n  hint: name its database file or its mlruns folder; it may go on running"
                ));
            }
            Some((scheme, _)) => {
                return refuse(format!(
                    "databases of {scheme} cannot be read yet\n  hint: copy its tables into an SQLite file that `mlflow db upgrade sqlite:///FILE` made, and import that file"
                ));
            }
            None => source.to_string(),
        };
        let path = match std::fs::canonicalize(&path) {
            Ok(path) => path,
            Err(e) => return refuse(format!("cannot read {path}: {e}")),
        };
        if path.is_dir() {
            return Ok(Source::Folder(Folder::open(&path)?, path));
        }
        Ok(Source::Database(Database::open(&path).await?, path))
    }

    fn name(&self) -> String {
        let (Source::Database(_, path) | Source::Folder(_, path)) = self;
        path.display().to_string()
    }

    fn places(&self, artifacts: Option<&Path>) -> Places {
        let (Source::Database(_, path) | Source::Folder(_, path)) = self;
        let base = path.parent().unwrap_or(Path::new("/")).to_path_buf();
        let mut roots: Vec<PathBuf> = artifacts.map(Path::to_path_buf).into_iter().collect();
        match self {
            Source::Folder(..) => roots.extend([path.clone(), path.join(".trash")]),
            // Where MLflow's server puts them unless it is told otherwise.
            Source::Database(..) => roots.extend(["mlartifacts", "mlruns"].map(|folder| base.join(folder))),
        }
        Places { base, roots }
    }

    async fn experiments(&mut self) -> Result<(Vec<Experiment>, Vec<Rows>)> {
        match self {
            Source::Folder(folder, _) => folder.experiments(),
            Source::Database(database, _) => database.experiments().await,
        }
    }

    async fn models(&mut self) -> Result<Names> {
        match self {
            Source::Folder(folder, _) => folder.models(),
            Source::Database(database, _) => database.models().await,
        }
    }

    /// Reads everything behind a position, beside whoever takes it.
    fn send(self, from: Position, to: mpsc::Sender<Result<Batch>>) -> tokio::task::JoinHandle<Source> {
        match self {
            Source::Folder(folder, path) => tokio::task::spawn_blocking(move || {
                if let Err(error) = folder.send(&from, &to) {
                    let _ = to.blocking_send(Err(error));
                }
                Source::Folder(folder, path)
            }),
            Source::Database(mut database, path) => tokio::spawn(async move {
                if let Err(error) = database.send(&from, &to).await {
                    let _ = to.send(Err(error)).await;
                }
                Source::Database(database, path)
            }),
        }
    }

    /// How much there is by the source's own count.
    async fn counts(&mut self, tally: &mut Tally) -> Result<Vec<(Kind, u64)>> {
        match self {
            Source::Folder(..) => Ok(Vec::new()),
            Source::Database(database, _) => database.counts(tally).await,
        }
    }

    fn is_unknown(&self) -> Option<&str> {
        match self {
            Source::Folder(..) => None,
            Source::Database(database, _) => database.is_unknown.as_deref(),
        }
    }
}
