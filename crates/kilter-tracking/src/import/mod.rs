//! Brings a store of MLflow over into this one: its database or its `mlruns` folder, which are only read.
//!
//! A reader sends rows in pages, in an order in which everything comes after what it belongs to. The files that belong to them are copied, then the rows are
//! stored in one transaction. Whatever ends the process, the next import begins anew and finds what is here: what comes twice is there once. A place to go on
//! from is not kept, because the source may have changed before it.

mod database;
mod folder;
mod json;
mod mlmodel;
mod places;
mod rows;
mod span;
mod yaml;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::artifacts::ArtifactPath;
use crate::error::{Error, ErrorCode, Result};
use crate::model::Experiment;
use crate::store::{Coming, Plan, Tracking};
use crate::trace::{ReadySpan, key, ready_alone};
use database::Database;
use folder::Folder;
pub use mlmodel::flavors;
use places::{Found, Places};
pub(crate) use places::{Place, own};
pub(crate) use rows::{Kind, Owned, Point, Read, Rows, Tally};

/// Pages that are read ahead.
const AHEAD: usize = 4;
/// What the rows of one transaction weigh.
const TRANSACTION: usize = 20_000;
/// Bytes of a file of spans that is looked into.
const SPANS: u64 = 64 << 20;
/// Bytes of spans from files that are stored at once.
const TOGETHER: usize = 32 << 20;
/// The tag of a trace that says where its spans were archived.
const ARCHIVE: &str = "mlflow.trace.archiveLocation";
/// Folders that a report names.
const NAMED: usize = 5;
/// Why something is left out whose id would be a part of a path.
const NO_PART: &str = "its id is no part of a path";
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

/// What happens to a value that is here and is another one in the source: of a tag, an alias, a stage and the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Differences {
    /// What is here stays, and the report says so.
    #[default]
    Keep,
    /// That of the source is taken.
    Take,
}

/// What is to be brought over.
#[derive(Debug, Clone)]
pub struct MlflowImport {
    /// MLflow's database, as a file, `sqlite:///FILE` or `postgresql://USER:PASSWORD@HOST/NAME`, or the folder of its file store.
    pub source: String,
    /// Where `mlflow-artifacts:/` lies, where artifacts are looked for that are not where they were, and what may be read beside the folder of the source.
    pub artifacts: Vec<PathBuf>,
    /// What happens to names that are taken.
    pub clashes: Clashes,
    /// What happens to values that are not the same.
    pub differences: Differences,
}

impl MlflowImport {
    /// Looks whether the source is one.
    ///
    /// # Errors
    /// When it is not, or cannot be read.
    pub async fn check(&self) -> Result<()> {
        Source::open(&self.source).await.map(drop)
    }

    /// The source without a password that is in it.
    pub fn source_name(&self) -> String {
        let Some((scheme, rest)) = self.source.split_once("://") else { return self.source.clone() };
        // As those who connect read it: a password ends at an `@` and may have a `?` in it, and the value of an option may have an `@`.
        let has_login = rest.find([':', '@', '/', '?']).is_some_and(|at| rest[at..].starts_with([':', '@']));
        let from = rest.find('@').filter(|_| has_login).unwrap_or(0);
        let is_option = |option: &str| !option.split('=').next().unwrap_or_default().contains('@');
        let options = rest[from..].match_indices('?').map(|(at, _)| from + at).find(|at| rest[at + 1..].split('&').all(is_option));
        let (at, options) = options.map_or((rest, ""), |at| (&rest[..at], &rest[at + 1..]));
        let at = match at.rsplit_once('@') {
            Some((login, place)) => format!("{}@{place}", login.split(':').next().unwrap_or_default()),
            None => at.to_string(),
        };
        let options: Vec<&str> = options.split('&').filter(|option| !option.is_empty() && !option.starts_with("password=")).collect();
        format!("{scheme}://{at}{}{}", if options.is_empty() { "" } else { "?" }, options.join("&"))
    }
}

/// What came of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportReport {
    /// One line for each kind of thing of which there is any.
    pub lines: Vec<ImportLine>,
    /// What a person should know beside it.
    pub notes: Vec<String>,
    /// What lacks, beside what the lines say.
    pub lacking: Vec<String>,
}

impl ImportReport {
    /// Whether everything in the source is here as it is there, or was left out for a reason.
    pub fn agrees(&self) -> bool {
        self.lacking.is_empty() && self.lines.iter().all(|line| line.missing() == 0 && line.differing == 0)
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
    /// How much of what is here has another value than in the source.
    pub differing: u64,
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
    /// or written: what was brought stays, and the next import brings the rest.
    pub async fn import_mlflow(&self, import: &MlflowImport, told: impl Fn(&str, u64) + Send + Sync) -> Result<ImportReport> {
        let _alone = self.lock_imports().await?;
        let mut source = Source::open(&import.source).await?;
        let (artifacts, here) = (import.artifacts.clone(), self.artifacts().folder().map(Path::to_path_buf));
        let places = source.ask(move |store| store.places(&artifacts, here.as_deref())).await?;
        let (experiments, left) = source.ask(Store::experiments).await?;
        let count = experiments.len() as u64;
        let locations: Vec<(i64, String)> = experiments.iter().map(|e| (e.id, e.artifact_location.clone())).collect();
        let mut runs = HashMap::new();
        for experiment in experiments.iter().filter(|e| e.created <= 0) {
            let id = experiment.id;
            runs.insert(id, source.ask(move |store| store.runs_of(id)).await?);
        }
        let models = source.ask(Store::models).await?;
        let coming = Coming { experiments, runs, models, clashes: import.clashes, differences: import.differences };
        let (plan, mut tally) = self.begin_import(coming).await?;
        tally.read(Kind::Experiments, count);
        tally.left(Kind::Experiments, "another one here has its name", count - plan.experiments.len() as u64);
        for rows in left {
            match rows {
                Rows::Left(kind, why, rows) => {
                    tally.read(kind, rows);
                    tally.left(kind, &why, rows);
                }
                Rows::Unreadable(kind, path, why) => tally.unread(kind, &path, &why),
                _ => {}
            }
        }
        let plan = Arc::new(plan);
        let (sender, mut pages) = mpsc::channel(AHEAD);
        let reading = tokio::task::spawn_blocking(move || source.send(&sender));
        while let Some(rows) = pages.recv().await {
            let mut together = vec![rows?];
            while together.iter().map(Rows::weight).sum::<usize>() < TRANSACTION
                && let Ok(rows) = pages.try_recv()
            {
                together.push(rows?);
            }
            let kind = together.iter().map(Rows::kind).max().unwrap_or(Kind::Runs);
            let mut brought = Vec::with_capacity(together.len());
            for mut rows in together {
                refuse_ids(&mut rows, &mut tally);
                tally.at_work(&rows);
                let with_spans = self.copy_artifacts(&rows, &plan, &places, &mut tally, &told).await?;
                brought.push(rows);
                // What archives have is here before the rows that say it is there.
                if !with_spans.is_empty() {
                    tally = self.bring(std::mem::take(&mut brought), tally, plan.clone()).await?;
                    tally = self.bring_file_spans(with_spans, tally, &plan).await?;
                }
            }
            if !brought.is_empty() {
                tally = self.bring(brought, tally, plan.clone()).await?;
            }
            told(kind.name(), tally.read.get(&kind).copied().unwrap_or_default());
        }
        let mut source = reading.await.map_err(|e| Error::internal(&e))?;
        let mut counts: BTreeMap<Kind, u64> = tally.read.clone();
        let counted = source.ask(move |store| store.counts(&mut tally).map(|counts| (counts, tally))).await?;
        let mut tally = counted.1;
        for (kind, rows) in counted.0 {
            counts.entry(kind).and_modify(|read| *read = rows.max(*read)).or_insert(rows);
        }
        let mut nowhere = Vec::new();
        for (id, location) in &locations {
            let place = Place::read(location);
            if let Place::Elsewhere(scheme) = &place {
                tally.note(format!("artifacts of experiments stay at {scheme}: clients read and write them there"));
            }
            let is_alike = |other: &str| std::mem::discriminant(&Place::read(other)) == std::mem::discriminant(&place);
            let (all, gone) = tally.looked.get(id).copied().unwrap_or_default();
            if all > 0 && all == gone {
                let alike: Vec<i64> = locations.iter().filter(|(_, other)| is_alike(other)).map(|(id, _)| *id).collect();
                nowhere.extend((!places.has(&place, *id, &alike)).then(|| format!("{id} ({location})")));
            }
        }
        let mut report = report(&counts, &tally, &self.imported().await?, source.is_unknown().as_deref());
        report.lacking = lacking(&tally, &nowhere);
        if source.ask(Store::has_changed).await? {
            report.lacking.push(
                "the source changed while it was read\n  hint: run the same command again, at last when its server has stopped".into(),
            );
        }
        self.end_import().await?;
        Ok(report)
    }

    /// Copies the files of runs, models and traces: before their rows are stored, which say that they are there. Answers the files in which spans of traces lie.
    async fn copy_artifacts(
        &self,
        rows: &Rows,
        plan: &Plan,
        places: &Places,
        tally: &mut Tally,
        told: &(impl Fn(&str, u64) + Send + Sync),
    ) -> Result<Vec<(String, SpanFile)>> {
        // Traces whose spans come as rows.
        let mut stored = HashSet::new();
        let mut spans = Vec::new();
        let mut folders: Vec<(i64, &str, &str, String)> = Vec::new();
        match rows {
            Rows::Runs(runs) => {
                folders.extend(runs.iter().map(|run| (run.experiment, run.artifact_uri.as_str(), run.id.as_str(), run.id.clone())))
            }
            Rows::LoggedModels(models) => {
                folders
                    .extend(models.iter().map(|(m, _)| (m.experiment, m.artifact_uri.as_str(), m.id.as_str(), format!("models/{}", m.id))));
            }
            Rows::Traces(traces) => {
                for trace in traces {
                    let place = trace.tags.iter().find(|tag| tag.key == key::ARTIFACTS).map(|tag| tag.value.as_str());
                    if trace.tags.iter().any(|tag| tag.key == key::SPANS) {
                        stored.insert(trace.id.as_str());
                    }
                    folders.extend(place.map(|place| (trace.experiment, place, trace.id.as_str(), format!("traces/{}", trace.id))));
                    let is_coming = plan.experiments.contains_key(&trace.experiment);
                    let archive = trace.tags.iter().find(|tag| tag.key == ARCHIVE && is_coming).map(|tag| Place::read(&tag.value));
                    match archive.map(|place| places.find(&place, &format!("{}/traces/{}/artifacts", trace.experiment, trace.id))) {
                        Some(Found::Folder(folder)) => spans.push((trace.id.clone(), SpanFile::Archive(folder.join("traces.pb")))),
                        Some(Found::Outside(folder)) => {
                            tally.outside.insert(folder.display().to_string());
                        }
                        _ => {}
                    }
                }
            }
            _ => return Ok(spans),
        }
        let kind = rows.kind();
        let owners = self.owners(kind, folders.iter().map(|(_, _, id, _)| id.to_string()).collect()).await?;
        for (experiment, uri, id, layout) in folders {
            let (place, owner) = (Place::read(uri), owners.get(id));
            let Some(planned) = plan.experiments.get(&experiment).filter(|_| place.moves()) else { continue };
            let own = owner.map_or_else(|| own(&format!("{planned}/{layout}/artifacts")), |owner| owner.artifacts.clone());
            let Place::Own(to) = Place::read(&own) else {
                tally.note(format!("{}: their artifacts are elsewhere here than the source says, and were not compared", kind.name()));
                continue;
            };
            let found = places.find(&place, &format!("{experiment}/{layout}/artifacts"));
            for (all, gone) in [tally.folders.entry(kind).or_default(), tally.looked.entry(experiment).or_default()] {
                *all += 1;
                *gone += u64::from(found == Found::Nowhere);
            }
            match (found, ArtifactPath::parse(&to)) {
                (Found::Folder(folder), Ok(to)) => {
                    let differences = owner.is_some_and(|owner| owner.is_finished).then_some(plan.differences);
                    places::copy(self.artifacts(), &folder, &to, differences, tally, told).await?;
                    if kind == Kind::Traces && !stored.contains(id) {
                        spans.push((id.to_string(), SpanFile::Json(folder.join("traces.json"))));
                    }
                }
                (Found::Folder(folder), Err(_)) => tally.unreadable(&folder, &format!("{to} is no path that is served")),
                (Found::Unreadable(folder, why), _) => tally.unreadable(&folder, &why),
                (Found::Outside(folder), _) => {
                    tally.outside.insert(folder.display().to_string());
                }
                (Found::Nowhere, _) => {}
            }
        }
        Ok(spans)
    }

    /// Stores the spans that lie in files, not all at once: each of the files may be large.
    async fn bring_file_spans(&self, files: Vec<(String, SpanFile)>, mut tally: Tally, plan: &Arc<Plan>) -> Result<Tally> {
        let (mut together, mut bytes) = (Vec::new(), 0);
        for (trace, file) in files {
            let spans = match (file.spans(&trace), &file) {
                (Ok(None), _) => continue,
                (Ok(Some(spans)), _) => spans,
                (Err(why), SpanFile::Json(_)) => {
                    tally.in_files.insert(trace, why);
                    continue;
                }
                (Err(why), SpanFile::Archive(path)) => {
                    tally.unreadable(path, &why);
                    continue;
                }
            };
            bytes += spans.iter().map(|span| span.content.len()).sum::<usize>();
            if let SpanFile::Archive(_) = file {
                tally.unpacked.insert(trace.clone());
                together.push(Rows::ArchivedSpans(trace, spans));
            } else {
                together.push(Rows::FileSpans(trace, spans));
            }
            if bytes > TOGETHER {
                (tally, bytes) = (self.bring(std::mem::take(&mut together), tally, plan.clone()).await?, 0);
            }
        }
        if together.is_empty() { Ok(tally) } else { self.bring(together, tally, plan.clone()).await }
    }
}

/// Leaves out what has an id that folders cannot be called by: it says where files are copied from and to.
fn refuse_ids(rows: &mut Rows, tally: &mut Tally) {
    let (kind, all) = (rows.kind(), rows.len());
    match rows {
        Rows::Runs(runs) => runs.retain(|run| is_one_part(&run.id)),
        Rows::LoggedModels(models) => models.retain(|(model, _)| is_one_part(&model.id)),
        Rows::Traces(traces) => traces.retain(|trace| is_one_part(&trace.id)),
        _ => {}
    }
    let left = (all - rows.len()) as u64;
    tally.read(kind, left);
    tally.left(kind, NO_PART, left);
}

fn is_one_part(id: &str) -> bool {
    !id.is_empty() && !id.contains('/') && ArtifactPath::parse(id).is_ok()
}

/// A file with the spans of a trace.
enum SpanFile {
    /// Among its artifacts: where it cannot be read it is left to the client, which reads it from there.
    Json(PathBuf),
    /// In an archive, which stays behind.
    Archive(PathBuf),
}

impl SpanFile {
    /// None where there is no file, or no span in it; otherwise what keeps it from being read.
    fn spans(&self, trace: &str) -> std::result::Result<Option<Vec<ReadySpan>>, String> {
        let (SpanFile::Json(file) | SpanFile::Archive(file)) = self;
        let bytes = match std::fs::symlink_metadata(file) {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Ok(found) if !found.is_file() => return Err("it is a link or no file".into()),
            Ok(found) if found.len() > SPANS => return Err(format!("it has {} bytes, more than {SPANS}", found.len())),
            found => found.and_then(|_| std::fs::read(file)).map_err(|e| e.to_string())?,
        };
        let read = match self {
            SpanFile::Json(_) => std::str::from_utf8(&bytes).ok().and_then(span::read_file),
            SpanFile::Archive(_) => span::read_archive(&bytes),
        };
        let ready = |span| ready_alone(trace, span).map_err(|e| e.message);
        let spans: Vec<ReadySpan> =
            read.ok_or("it holds something else than spans")?.into_iter().map(ready).collect::<std::result::Result<_, _>>()?;
        Ok((!spans.is_empty()).then_some(spans))
    }
}

fn report(counts: &BTreeMap<Kind, u64>, tally: &Tally, here: &BTreeMap<Kind, u64>, unknown: Option<&str>) -> ImportReport {
    let (mut lines, mut notes) = (Vec::new(), Vec::new());
    notes.extend(tally.notes.iter().map(|(note, times)| if *times > 1 { format!("{note} ({times})") } else { note.clone() }));
    for (kind, what) in Kind::ALL {
        let source = counts.get(&kind).copied().unwrap_or_default();
        let left = tally.left.iter().filter(|((of, _), _)| *of == kind).map(|((_, why), rows)| (why.clone(), *rows)).collect();
        // Of what was read: what else is here stands for nothing that was not.
        let expected = tally.read.get(&kind).copied().unwrap_or_default().saturating_sub(tally.all_left(kind));
        let all = if kind == Kind::Files { tally.files } else { here.get(&kind).copied().unwrap_or_default() };
        // Traces have tags and metadata that their rows make.
        if all > expected && !matches!(kind, Kind::TraceTags | Kind::TraceMetadata) {
            notes.push(format!("{what}: {} more are here than came, made here or deleted there since", all - expected));
        }
        if source > 0 {
            let differing = tally.differing.get(&kind).copied().unwrap_or_default();
            lines.push(ImportLine { what, source, here: all.min(expected), differing, left });
        }
    }
    for (kind, (all, gone)) in tally.folders.iter().filter(|(_, (_, gone))| *gone > 0) {
        let what = kind.name();
        notes.push(format!(
            "the artifact folders of {gone} of {all} {what} were not found; where they have artifacts, name the folder of these with --artifacts"
        ));
    }
    for (kind, rows) in &tally.at_work {
        notes.push(format!(
            "{}: {rows} were not finished when they were read; run the same command again once the server has stopped",
            kind.name()
        ));
    }
    if !tally.in_files.is_empty() {
        let why: Vec<String> = tally.in_files.iter().take(NAMED + 1).map(|(trace, why)| format!("{trace} ({why})")).collect();
        notes.push(format!(
            "the spans of {} traces stay in their files traces.json, which clients read and no search finds: {}",
            tally.in_files.len(),
            named(why.iter().map(String::as_str))
        ));
    }
    if let Some(schema) = unknown {
        notes.push(format!(
            "the schema of the database ({schema}) is newer than MLflow 3.17, which this release knows: what was added since is not brought over"
        ));
    }
    ImportReport { lines, notes, lacking: Vec::new() }
}

/// What lacks beside what was counted. It may be that a run has none, but not that nothing of an experiment is found, nor anything beside it.
fn lacking(tally: &Tally, nowhere: &[String]) -> Vec<String> {
    let mut lacking = Vec::new();
    if !nowhere.is_empty() {
        lacking.push(format!(
            "the folders that the source names for artifacts of {} experiments are not there, nor those of their runs: {}\n  hint: name the folder that holds them with --artifacts; an empty one where there are none",
            nowhere.len(),
            named(nowhere.iter().map(String::as_str))
        ));
    }
    if !tally.outside.is_empty() {
        lacking.push(format!(
            "{} folders of artifacts lie outside of the folder of the source and were not read: {}\n  hint: name what may be read with --artifacts, more than once where it is in several places",
            tally.outside.len(),
            named(tally.outside.iter().map(String::as_str))
        ));
    }
    if !tally.unreadable.is_empty() {
        // Some reasons name the file.
        let named_once = |(path, why): (&String, &String)| if why.contains(path) { why.clone() } else { format!("{path} ({why})") };
        let why: Vec<String> = tally.unreadable.iter().take(NAMED + 1).map(named_once).collect();
        lacking.push(format!(
            "{} files and folders could not be read: {}\n  hint: the same command brings them once they can be",
            tally.unreadable.len(),
            named(why.iter().map(String::as_str))
        ));
    }
    if !tally.kept.is_empty() {
        lacking.push(format!(
            "{} addresses of model versions name folders that lie below no run or model that is here, and did not come: {}\n  hint: `mlflow.register_model` with what lies there makes versions that have their files here",
            tally.kept.len(),
            named(tally.kept.iter().map(String::as_str))
        ));
    }
    if !tally.archived.is_empty() {
        lacking.push(format!(
            "spans of {} archived traces did not come: {}\n  hint: name the folder of the archive with --artifacts where it is on this machine",
            tally.archived.len(),
            named(tally.archived.iter().map(String::as_str))
        ));
    }
    for (kind, rows) in &tally.damaged {
        lacking.push(format!("{}: {rows} are damaged in the database and did not come", kind.name()));
    }
    lacking
}

/// The first of them.
fn named<'a>(mut all: impl Iterator<Item = &'a str>) -> String {
    let first: Vec<&str> = all.by_ref().take(NAMED).collect();
    format!("{}{}", first.join(", "), if all.next().is_some() { ", …" } else { "" })
}

/// A store of MLflow that is open to be read, where that keeps nobody waiting.
struct Source(Option<Store>);

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(store) = self.0.take() {
            // Ending a connection to PostgreSQL blocks, which tasks must not.
            std::thread::spawn(move || drop(store));
        }
    }
}

impl Source {
    async fn open(source: &str) -> Result<Source> {
        let source = source.to_string();
        let opened = tokio::task::spawn_blocking(move || Store::open(&source)).await;
        Ok(Source(Some(opened.map_err(|e| Error::internal(&e))??)))
    }

    async fn ask<T: Send + 'static>(&mut self, what: impl FnOnce(&mut Store) -> Result<T> + Send + 'static) -> Result<T> {
        let mut store = self.0.take().ok_or_else(|| Error::internal(&"the source is asked after it failed"))?;
        let asked = tokio::task::spawn_blocking(move || {
            let answer = what(&mut store);
            (store, answer)
        });
        let (store, answer) = asked.await.map_err(|e| Error::internal(&e))?;
        self.0 = Some(store);
        answer
    }

    /// Reads everything. It blocks.
    fn send(mut self, to: &mpsc::Sender<Result<Rows>>) -> Source {
        let sent = match &mut self.0 {
            Some(Store::Folder(folder, _)) => folder.send(to),
            Some(Store::Database(database, _)) => database.send(to),
            None => Ok(()),
        };
        if let Err(error) = sent {
            let _ = to.blocking_send(Err(error));
        }
        self
    }

    fn is_unknown(&self) -> Option<String> {
        match &self.0 {
            Some(Store::Database(database, _)) => database.is_unknown.clone(),
            _ => None,
        }
    }
}

/// What is read, which blocks, and where it lies if it is on this machine.
enum Store {
    Database(Box<Database>, Option<PathBuf>),
    Folder(Folder, PathBuf),
}

impl Store {
    fn open(source: &str) -> Result<Store> {
        let refuse = |why: String| Err(Error::new(ErrorCode::InvalidParameterValue, why));
        let path = match source.split_once("://") {
            Some((scheme, rest)) if scheme == "sqlite" || scheme.starts_with("sqlite+") => {
                // Behind a question mark stand options of the driver.
                let path = rest.split_once('?').map_or(rest, |(path, _)| path);
                path.strip_prefix('/').unwrap_or(path).to_string()
            }
            // Behind a plus stands the driver.
            Some((scheme, rest)) if matches!(scheme.split('+').next(), Some("postgresql" | "postgres")) => {
                return Ok(Store::Database(Box::new(Database::connect(&format!("postgresql://{rest}"))?), None));
            }
            Some(("file", rest)) => match Place::read(&format!("file://{rest}")) {
                Place::Local(path) => path,
                _ => rest.to_string(),
            },
            Some(("http" | "https", _)) => {
                return refuse("a server is no source\n  hint: name its database or its mlruns folder; it may go on running".into());
            }
            Some((scheme, _)) => {
                return refuse(format!(
                    "databases of {scheme} cannot be read\n  hint: copy its tables into an SQLite file that `mlflow db upgrade sqlite:///FILE` made, and import that file"
                ));
            }
            None => source.to_string(),
        };
        let path = match std::fs::canonicalize(&path) {
            Ok(path) => path,
            Err(e) => return refuse(format!("cannot read {path}: {e}")),
        };
        if path.is_dir() {
            return Ok(Store::Folder(Folder::open(&path)?, path));
        }
        Ok(Store::Database(Box::new(Database::open(&path)?), Some(path)))
    }

    fn places(&self, artifacts: &[PathBuf], here: Option<&Path>) -> Result<Places> {
        let path = match self {
            Store::Database(_, path) => path.clone(),
            Store::Folder(_, path) => Some(path.clone()),
        };
        let base = path.as_deref().and_then(Path::parent).unwrap_or(Path::new("/")).to_path_buf();
        let mut allowed = Vec::with_capacity(artifacts.len() + 1);
        for folder in artifacts {
            let real = std::fs::canonicalize(folder);
            allowed.push(real.map_err(|e| Error::invalid(format!("cannot read {}: {e}", folder.display())))?);
        }
        let named = allowed.clone();
        let mut roots = allowed.clone();
        match self {
            Store::Folder(_, path) => {
                roots.extend([path.clone(), path.join(".trash")]);
                allowed.push(path.clone());
            }
            // Where MLflow's server puts them unless it is told otherwise.
            Store::Database(_, Some(_)) => {
                roots.extend(["mlartifacts", "mlruns"].map(|folder| base.join(folder)));
                allowed.push(base.clone());
            }
            Store::Database(_, None) => {}
        }
        let here = here.map(std::fs::canonicalize).transpose().map_err(|e| Error::internal(&e))?;
        let data = here.map(|here| here.parent().unwrap_or(&here).to_path_buf());
        Ok(Places { base, roots, allowed, named, source: path, data })
    }

    fn experiments(&mut self) -> Result<(Vec<Experiment>, Vec<Rows>)> {
        match self {
            Store::Folder(folder, _) => folder.experiments(),
            Store::Database(database, _) => database.experiments(),
        }
    }

    fn models(&mut self) -> Result<Names> {
        match self {
            Store::Folder(folder, _) => folder.models(),
            Store::Database(database, _) => database.models(),
        }
    }

    fn runs_of(&mut self, experiment: i64) -> Result<Vec<String>> {
        match self {
            Store::Folder(folder, _) => folder.runs_of(experiment),
            Store::Database(database, _) => database.runs_of(experiment),
        }
    }

    /// How much there is by the source's own count.
    fn counts(&mut self, tally: &mut Tally) -> Result<Vec<(Kind, u64)>> {
        match self {
            Store::Folder(folder, _) => folder.counts(),
            Store::Database(database, _) => database.counts(tally),
        }
    }

    /// Whether somebody wrote to it since it was opened, and what was read is of before and after.
    fn has_changed(&mut self) -> Result<bool> {
        match self {
            Store::Folder(folder, _) => folder.has_changed(),
            Store::Database(database, _) => database.has_changed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_named_without_its_password() {
        for (source, name) in [
            ("mlruns", "mlruns"),
            ("postgresql://u:p@ss@h:1/d?password=x&sslmode=disable", "postgresql://u@h:1/d?sslmode=disable"),
            ("postgresql://u:p?ss@h/d", "postgresql://u@h/d"),
            ("postgresql://u:p?a=b@h/d", "postgresql://u@h/d"),
            ("postgresql://h/d?password=p@s&x&", "postgresql://h/d?x"),
            ("postgresql://u:p?s&s@h/d?sslmode=disable", "postgresql://u@h/d?sslmode=disable"),
            ("postgresql://u@h/d?sslmode=disable&password=p@s?s", "postgresql://u@h/d?sslmode=disable"),
            ("postgresql+psycopg2://u@h/d", "postgresql+psycopg2://u@h/d"),
            ("http://u:p@h", "http://u@h"),
        ] {
            let import =
                MlflowImport { source: source.into(), artifacts: Vec::new(), clashes: Clashes::Refuse, differences: Differences::Keep };
            assert_eq!(import.source_name(), name);
        }
    }

    #[test]
    fn what_is_only_here_stands_for_nothing_that_was_not_read() {
        let mut tally = Tally::default();
        tally.read(Kind::Params, 2);
        let report = report(&[(Kind::Params, 3)].into(), &tally, &[(Kind::Params, 3)].into(), None);
        assert_eq!((report.lines[0].here, report.lines[0].missing()), (2, 1));
        assert!(report.notes[0].starts_with("params: 1 more"), "{report:?}");
    }
}
