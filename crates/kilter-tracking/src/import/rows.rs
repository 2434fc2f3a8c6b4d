//! What a store of MLflow holds, in the words of this one, on its way from the one to the other. Numbers of experiments and names of models are still the source's.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::evaluation::{EvaluationDataset, EvaluationRecord, Scorer};
use crate::model::{Dataset, LoggedModel, Metric, ModelVersion, Pair, RegisteredModel, RunInfo, RunModel, Stage, Status};
use crate::trace::{Assessment, ReadySpan, TraceInfo, TraceState};

/// What is counted by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Experiments,
    ExperimentTags,
    Runs,
    Params,
    Tags,
    Points,
    Datasets,
    Inputs,
    InputTags,
    RunModels,
    LoggedModels,
    LoggedParams,
    LoggedTags,
    LoggedPoints,
    Models,
    ModelTags,
    Versions,
    VersionTags,
    Aliases,
    Traces,
    TraceTags,
    TraceMetadata,
    Spans,
    Assessments,
    TraceRuns,
    TracePrompts,
    EvaluationDatasets,
    EvaluationTags,
    EvaluationExperiments,
    EvaluationRecords,
    Scorers,
    Files,
}

impl Kind {
    /// In the order of the table at the end, each with what it is called there.
    pub const ALL: [(Kind, &'static str); 32] = [
        (Kind::Experiments, "experiments"),
        (Kind::ExperimentTags, "tags of experiments"),
        (Kind::Runs, "runs"),
        (Kind::Params, "params"),
        (Kind::Tags, "tags of runs"),
        (Kind::Points, "points of metrics"),
        (Kind::Datasets, "datasets"),
        (Kind::Inputs, "inputs of runs"),
        (Kind::InputTags, "tags of inputs"),
        (Kind::RunModels, "models that runs read or made"),
        (Kind::LoggedModels, "logged models"),
        (Kind::LoggedParams, "params of logged models"),
        (Kind::LoggedTags, "tags of logged models"),
        (Kind::LoggedPoints, "points of logged models"),
        (Kind::Models, "registered models and prompts"),
        (Kind::ModelTags, "tags of registered models"),
        (Kind::Versions, "model versions"),
        (Kind::VersionTags, "tags of model versions"),
        (Kind::Aliases, "aliases"),
        (Kind::Traces, "traces"),
        (Kind::TraceTags, "tags of traces"),
        (Kind::TraceMetadata, "metadata of traces"),
        (Kind::Spans, "spans"),
        (Kind::Assessments, "assessments"),
        (Kind::TraceRuns, "links of traces to runs"),
        (Kind::TracePrompts, "links of traces to prompts"),
        (Kind::EvaluationDatasets, "evaluation datasets"),
        (Kind::EvaluationTags, "tags of evaluation datasets"),
        (Kind::EvaluationExperiments, "experiments of evaluation datasets"),
        (Kind::EvaluationRecords, "records of evaluation datasets"),
        (Kind::Scorers, "versions of scorers"),
        (Kind::Files, "artifact files"),
    ];

    pub fn name(self) -> &'static str {
        Kind::ALL[self as usize].1
    }
}

/// Rows that those with files, and those that are read by few, count as.
const LARGE: usize = 200;
/// Bytes that count as a row.
const BYTES: usize = 1 << 10;
/// Reasons that are told apart for one kind.
const REASONS: usize = 20;

/// A tag, param or the like, and whose it is.
#[derive(Debug)]
pub(crate) struct Owned {
    pub owner: String,
    pub pair: Pair,
}

/// A point of a run's metric.
#[derive(Debug)]
pub(crate) struct Point {
    pub run: String,
    pub key: String,
    pub timestamp: i64,
    pub step: i64,
    pub value: f64,
}

/// Which dataset a run read: by experiment, name and digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Read {
    pub run: String,
    pub experiment: i64,
    pub name: String,
    pub digest: String,
}

/// Rows of one kind.
#[derive(Debug)]
pub(crate) enum Rows {
    Runs(Vec<RunInfo>),
    Pairs(Kind, Vec<Owned>),
    Points(Vec<Point>),
    Datasets(Vec<(i64, Dataset)>),
    Inputs(Vec<Read>),
    InputTags(Vec<(Read, Pair)>),
    /// With the run's id.
    RunModels(Vec<(String, RunModel)>),
    LoggedModels(Vec<(LoggedModel, Stage)>),
    /// With the run's id; the model is named in the metric.
    LoggedPoints(Vec<(String, Metric)>),
    Models(Vec<RegisteredModel>),
    Versions(Vec<ModelVersion>),
    /// With the model's name and the version.
    VersionTags(Vec<(String, i64, Pair)>),
    /// Name, alias, version.
    Aliases(Vec<(String, String, i64)>),
    /// Of their tags, only those that the trace itself is made with.
    Traces(Vec<TraceInfo>),
    /// With the trace's id; none: its content was moved to an archive.
    Spans(Vec<(String, Option<ReadySpan>)>),
    /// Of traces whose spans lay in a file beside the database: here they are in it.
    FileSpans(String, Vec<ReadySpan>),
    /// Of traces whose spans lay in an archive, beside those without content in the database, which are counted.
    ArchivedSpans(String, Vec<ReadySpan>),
    Assessments(Vec<Assessment>),
    /// Trace and run.
    TraceRuns(Vec<(String, String)>),
    /// Trace and `name/version`.
    TracePrompts(Vec<(String, String)>),
    EvaluationDatasets(Vec<EvaluationDataset>),
    /// Dataset and experiment.
    EvaluationExperiments(Vec<(String, i64)>),
    /// With the dataset's id.
    EvaluationRecords(Vec<(String, EvaluationRecord)>),
    Scorers(Vec<Scorer>),
    /// What was found not to be usable, why, and how many there are.
    Left(Kind, String, u64),
    /// A file that cannot be read or is damaged, and why.
    Unreadable(Kind, PathBuf, String),
    /// What is damaged in the database, and how many there are.
    Damaged(Kind, u64),
    /// What was among the rows of an owner and is none of its own, why, and how many there are.
    Merged(Kind, String, &'static str, u64),
}

impl Rows {
    pub fn kind(&self) -> Kind {
        match self {
            Rows::Runs(_) => Kind::Runs,
            Rows::Pairs(kind, _) | Rows::Left(kind, ..) | Rows::Unreadable(kind, ..) | Rows::Damaged(kind, _) | Rows::Merged(kind, ..) => {
                *kind
            }
            Rows::Points(_) => Kind::Points,
            Rows::Datasets(_) => Kind::Datasets,
            Rows::Inputs(_) => Kind::Inputs,
            Rows::InputTags(_) => Kind::InputTags,
            Rows::RunModels(_) => Kind::RunModels,
            Rows::LoggedModels(_) => Kind::LoggedModels,
            Rows::LoggedPoints(_) => Kind::LoggedPoints,
            Rows::Models(_) => Kind::Models,
            Rows::Versions(_) => Kind::Versions,
            Rows::VersionTags(_) => Kind::VersionTags,
            Rows::Aliases(_) => Kind::Aliases,
            Rows::Traces(_) => Kind::Traces,
            Rows::Spans(_) | Rows::FileSpans(..) | Rows::ArchivedSpans(..) => Kind::Spans,
            Rows::Assessments(_) => Kind::Assessments,
            Rows::TraceRuns(_) => Kind::TraceRuns,
            Rows::TracePrompts(_) => Kind::TracePrompts,
            Rows::EvaluationDatasets(_) => Kind::EvaluationDatasets,
            Rows::EvaluationExperiments(_) => Kind::EvaluationExperiments,
            Rows::EvaluationRecords(_) => Kind::EvaluationRecords,
            Rows::Scorers(_) => Kind::Scorers,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Rows::Runs(rows) => rows.len(),
            Rows::Pairs(_, rows) => rows.len(),
            Rows::Points(rows) => rows.len(),
            Rows::Datasets(rows) => rows.len(),
            Rows::Inputs(rows) => rows.len(),
            Rows::InputTags(rows) => rows.len(),
            Rows::RunModels(rows) => rows.len(),
            Rows::LoggedModels(rows) => rows.len(),
            Rows::LoggedPoints(rows) => rows.len(),
            Rows::Models(rows) => rows.len(),
            Rows::Versions(rows) => rows.len(),
            Rows::VersionTags(rows) => rows.len(),
            Rows::Aliases(rows) => rows.len(),
            Rows::Traces(rows) => rows.len(),
            Rows::Spans(rows) => rows.len(),
            Rows::FileSpans(_, rows) => rows.len(),
            Rows::Assessments(rows) => rows.len(),
            Rows::TraceRuns(rows) | Rows::TracePrompts(rows) => rows.len(),
            Rows::EvaluationDatasets(rows) => rows.len(),
            Rows::EvaluationExperiments(rows) => rows.len(),
            Rows::EvaluationRecords(rows) => rows.len(),
            Rows::Scorers(rows) => rows.len(),
            Rows::ArchivedSpans(..) | Rows::Left(..) | Rows::Unreadable(..) | Rows::Damaged(..) | Rows::Merged(..) => 0,
        }
    }
}

impl Rows {
    /// How much they are to store: by their number, and those that are long by their bytes.
    pub fn weight(&self) -> usize {
        let pair = |pair: &Pair| pair.key.len() + pair.value.len();
        let bytes: usize = match self {
            Rows::Pairs(_, rows) => rows.iter().map(|of| pair(&of.pair)).sum(),
            Rows::InputTags(rows) => rows.iter().map(|(_, tag)| pair(tag)).sum(),
            Rows::VersionTags(rows) => rows.iter().map(|(.., tag)| pair(tag)).sum(),
            Rows::Models(rows) => rows.iter().map(|model| model.description.len()).sum(),
            Rows::Versions(rows) => rows.iter().map(|version| version.description.len()).sum(),
            Rows::Datasets(rows) => {
                rows.iter().map(|(_, of)| [&of.schema, &of.profile].into_iter().flatten().map(String::len).sum::<usize>()).sum()
            }
            Rows::Spans(rows) => rows.iter().filter_map(|(_, span)| span.as_ref()).map(|span| span.content.len()).sum(),
            Rows::Scorers(rows) => rows.iter().map(|scorer| scorer.serialized.len()).sum(),
            _ => 0,
        };
        let is_large = matches!(
            self,
            Rows::Runs(_)
                | Rows::LoggedModels(_)
                | Rows::Spans(_)
                | Rows::Traces(_)
                | Rows::Datasets(_)
                | Rows::EvaluationRecords(_)
                | Rows::Scorers(_)
        );
        self.len() * if is_large { LARGE } else { 1 } + bytes / BYTES + 1
    }
}

/// What has been counted so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tally {
    /// What was read.
    pub read: BTreeMap<Kind, u64>,
    /// What was not brought over, and why.
    pub left: BTreeMap<(Kind, String), u64>,
    /// What should be told, and how often it came up.
    pub notes: BTreeMap<String, u64>,
    /// What is here with another value than in the source, and stayed so.
    pub differing: BTreeMap<Kind, u64>,
    /// Artifact files that have come.
    pub files: u64,
    /// By what owns them, folders of artifacts that were looked for, and how many of these were not found.
    pub folders: BTreeMap<Kind, (u64, u64)>,
    /// By experiments of the source, the same of what belongs to each.
    pub looked: BTreeMap<i64, (u64, u64)>,
    /// Folders of artifacts that lie where nobody said that they may be read.
    pub outside: BTreeSet<String>,
    /// Files and folders that could not be read, and why.
    pub unreadable: BTreeMap<String, String>,
    /// What is damaged in the database.
    pub damaged: BTreeMap<Kind, u64>,
    /// Addresses of model versions that name something of the source's, which belongs to no run or model that is here.
    pub kept: BTreeSet<String>,
    /// Runs and traces that were not finished in the source.
    pub at_work: BTreeMap<Kind, u64>,
    /// Traces whose spans lie in an archive that was not read.
    pub archived: BTreeSet<String>,
    /// Traces whose spans came from an archive.
    pub unpacked: BTreeSet<String>,
    /// Traces whose spans stay in the file beside them, and why.
    pub in_files: BTreeMap<String, String>,
}

impl Tally {
    pub fn read(&mut self, kind: Kind, rows: u64) {
        *self.read.entry(kind).or_default() += rows;
    }

    pub fn left(&mut self, kind: Kind, why: &str, rows: u64) {
        if rows == 0 {
            return;
        }
        let known = self.left.keys().filter(|(of, _)| *of == kind).count();
        let reason = (kind, why.to_string());
        let reason = if known < REASONS || self.left.contains_key(&reason) { reason } else { (kind, "as those above".into()) };
        *self.left.entry(reason).or_default() += rows;
    }

    /// A file with one thing of this kind.
    pub fn unread(&mut self, kind: Kind, path: &Path, why: &str) {
        self.read(kind, 1);
        self.left(kind, why, 1);
        self.unreadable(path, why);
    }

    pub fn damaged(&mut self, kind: Kind, rows: u64) {
        self.read(kind, rows);
        self.left(kind, "what is stored cannot be read", rows);
        *self.damaged.entry(kind).or_default() += rows;
    }

    pub fn differ(&mut self, kind: Kind, rows: u64) {
        if rows > 0 {
            *self.differing.entry(kind).or_default() += rows;
        }
    }

    /// Values that were others here and were taken from the source.
    pub fn take(&mut self, kind: Kind, rows: u64) {
        if rows > 0 {
            *self.notes.entry(format!("{}: values that were others here were taken from the source", kind.name())).or_default() += rows;
        }
    }

    pub fn unreadable(&mut self, path: &Path, why: &str) {
        self.unreadable.insert(path.display().to_string(), why.into());
    }

    pub fn at_work(&mut self, rows: &Rows) {
        let count = match rows {
            Rows::Runs(runs) => runs.iter().filter(|run| matches!(run.status, Status::Running | Status::Scheduled)).count(),
            Rows::Traces(traces) => traces.iter().filter(|trace| trace.state == TraceState::InProgress).count(),
            _ => 0,
        };
        if count > 0 {
            *self.at_work.entry(rows.kind()).or_default() += count as u64;
        }
    }

    pub fn note(&mut self, what: String) {
        *self.notes.entry(what).or_default() += 1;
    }

    /// Everything of a kind that was left out.
    pub fn all_left(&self, kind: Kind) -> u64 {
        self.left.iter().filter(|((of, _), _)| *of == kind).map(|(_, rows)| rows).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_weigh_what_they_hold() {
        let tags = |bytes: usize| Rows::VersionTags(vec![("m".into(), 1, Pair { key: String::new(), value: "x".repeat(bytes) })]);
        assert_eq!((tags(10).weight(), tags(100 << 10).weight()), (2, 102));
        assert_eq!(Rows::Merged(Kind::Points, String::new(), "", 7).weight(), 1);
    }

    #[test]
    fn kinds_stand_in_order_and_reasons_are_added_up() {
        for (at, (kind, _)) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
        }
        let mut tally = Tally::default();
        tally.left(Kind::Points, "the same point twice", 2);
        tally.left(Kind::Points, "another", 1);
        tally.left(Kind::Runs, "no", 0);
        assert_eq!((tally.all_left(Kind::Points), tally.all_left(Kind::Runs)), (3, 0));
    }
}
