//! What is stored, as it is given and taken.

/// A tag or a param.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: String,
}

/// Whether something is in use or deleted; what is deleted can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// In use.
    Active,
    /// Deleted.
    Deleted,
}

impl Stage {
    /// As it is stored and answered.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Active => "active",
            Stage::Deleted => "deleted",
        }
    }

    pub(crate) fn read(text: &str) -> Stage {
        if text == "active" { Stage::Active } else { Stage::Deleted }
    }
}

/// Which of both a search looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum View {
    /// What is in use.
    #[default]
    Active,
    /// What is deleted.
    Deleted,
    /// Both.
    All,
}

/// An experiment: runs that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Experiment {
    /// Its number.
    pub id: i64,
    /// Its name, unique among all, deleted ones too.
    pub name: String,
    /// Where the artifacts of its runs are.
    pub artifact_location: String,
    /// In use or deleted.
    pub stage: Stage,
    /// Milliseconds UTC.
    pub created: i64,
    /// Milliseconds UTC.
    pub updated: i64,
    /// By name.
    pub tags: Vec<Pair>,
}

/// An experiment to be made.
#[derive(Debug, Clone, Default)]
pub struct NewExperiment {
    /// Its name.
    pub name: String,
    /// Where the artifacts of its runs will be; none: at this server.
    pub artifact_location: Option<String>,
    /// Tags it begins with.
    pub tags: Vec<Pair>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// At work.
    Running,
    /// Waits to be started.
    Scheduled,
    /// Done as intended.
    Finished,
    /// Ended with an error.
    Failed,
    /// Stopped.
    Killed,
}

impl Status {
    const ALL: [Status; 5] = [Status::Running, Status::Scheduled, Status::Finished, Status::Failed, Status::Killed];

    /// As it is stored and answered.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Running => "RUNNING",
            Status::Scheduled => "SCHEDULED",
            Status::Finished => "FINISHED",
            Status::Failed => "FAILED",
            Status::Killed => "KILLED",
        }
    }

    /// None for a word that names none.
    pub fn read(text: &str) -> Option<Status> {
        Status::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// A run without what it logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunInfo {
    /// Its id.
    pub id: String,
    /// The experiment it belongs to.
    pub experiment: i64,
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub user: String,
    /// How far it is.
    pub status: Status,
    /// In use or deleted.
    pub stage: Stage,
    /// Milliseconds UTC.
    pub start_time: i64,
    /// Milliseconds UTC.
    pub end_time: Option<i64>,
    /// Where its artifacts are.
    pub artifact_uri: String,
}

/// A run with what it logged.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The run itself.
    pub info: RunInfo,
    /// The latest point of each metric, by name.
    pub metrics: Vec<Metric>,
    /// By name.
    pub params: Vec<Pair>,
    /// By name.
    pub tags: Vec<Pair>,
    /// The data it read.
    pub datasets: Vec<DatasetInput>,
}

/// A run to be made.
#[derive(Debug, Clone, Default)]
pub struct NewRun {
    /// The experiment it belongs to.
    pub experiment: i64,
    /// Its name; none: that of the tag `mlflow.runName`, or one made up.
    pub name: Option<String>,
    /// Whose it is.
    pub user: String,
    /// Milliseconds UTC; none: now.
    pub start_time: Option<i64>,
    /// Tags it begins with.
    pub tags: Vec<Pair>,
}

/// What changes of a run; what is left out stays.
#[derive(Debug, Clone, Default)]
pub struct RunChange {
    /// How far it is.
    pub status: Option<Status>,
    /// Milliseconds UTC.
    pub end_time: Option<i64>,
    /// Its name, and with it the tag `mlflow.runName`.
    pub name: Option<String>,
}

/// One point of a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// The metric's name.
    pub key: String,
    /// Its value; not a number is kept, infinities become the largest number that is finite.
    pub value: f64,
    /// Milliseconds UTC.
    pub timestamp: i64,
    /// Where in the run.
    pub step: i64,
}

/// What is logged at once: all of it or nothing.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// Points of metrics.
    pub metrics: Vec<Metric>,
    /// Params; one that is there already must have the same value.
    pub params: Vec<Pair>,
    /// Tags; one that is there already gets the new value.
    pub tags: Vec<Pair>,
}

/// Data that a run read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetInput {
    /// What it was read for, and the like.
    pub tags: Vec<Pair>,
    /// The data.
    pub dataset: Dataset,
}

/// Data as MLflow describes it; one is known by name and digest.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dataset {
    /// Its name.
    pub name: String,
    /// Its digest.
    pub digest: String,
    /// Where it is from: kind.
    pub source_type: String,
    /// Where it is from: details, as JSON.
    pub source: String,
    /// Its schema, as JSON.
    pub schema: Option<String>,
    /// Its profile, as JSON.
    pub profile: Option<String>,
}

/// What to look for, in which order, and how much of it.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Comparisons joined by AND.
    pub filter: String,
    /// Keys, each with ASC or DESC behind it or not.
    pub order_by: Vec<String>,
    /// Which of the active and the deleted.
    pub view: View,
    /// So many at most.
    pub max_results: usize,
    /// Where the page before ended.
    pub page_token: Option<String>,
}

/// Some of what was looked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// What was found.
    pub items: Vec<T>,
    /// Gets the next page; none: there is none.
    pub next: Option<String>,
}
