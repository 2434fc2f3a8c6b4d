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
    /// Models it read or made.
    pub models: Vec<RunModel>,
}

/// A run to be made.
#[derive(Debug, Clone, Default)]
pub struct NewRun {
    /// Its id, unique among all; none: one is made up.
    pub id: Option<String>,
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
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metric {
    /// The metric's name.
    pub key: String,
    /// Its value; not a number is kept, infinities become the largest number that is finite.
    pub value: f64,
    /// Milliseconds UTC.
    pub timestamp: i64,
    /// Where in the run.
    pub step: i64,
    /// The logged model that it is of as well.
    pub model_id: Option<String>,
    /// Name and digest of the data it was measured on; may be empty.
    pub dataset: (String, String),
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
    /// Which experiments or registered models may be found; none: all. It counts where these are looked for, or versions of models, or evaluation datasets.
    pub visible: Option<Visible>,
}

/// What may be found: as it is said of its number, or else of its name, or else as all others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Visible {
    /// Numbers, and whether what has them may be found.
    pub ids: Vec<(i64, bool)>,
    /// Names, and whether what has them may be found.
    pub names: Vec<(String, bool)>,
    /// Whether all others may.
    pub others: bool,
}

/// Some of what was looked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// What was found.
    pub items: Vec<T>,
    /// Gets the next page; none: there is none.
    pub next: Option<String>,
}

/// A model that a run logged.
#[derive(Debug, Clone, PartialEq)]
pub struct LoggedModel {
    /// Its id.
    pub id: String,
    /// The experiment it belongs to.
    pub experiment: i64,
    /// Its name.
    pub name: String,
    /// What kind of model it is; may be empty.
    pub model_type: String,
    /// The run that made it; may be empty.
    pub source_run: String,
    /// How far it is.
    pub status: ModelStatus,
    /// Milliseconds UTC.
    pub created: i64,
    /// Milliseconds UTC.
    pub updated: i64,
    /// Where its files are.
    pub artifact_uri: String,
    /// By name.
    pub params: Vec<Pair>,
    /// By name.
    pub tags: Vec<Pair>,
    /// The latest point of each metric and dataset, with the run that logged it.
    pub metrics: Vec<(Metric, String)>,
}

/// A model to be logged.
#[derive(Debug, Clone, Default)]
pub struct NewLoggedModel {
    /// The experiment it belongs to.
    pub experiment: i64,
    /// Its name; empty: one is made up.
    pub name: String,
    /// What kind of model it is; may be empty.
    pub model_type: String,
    /// The run that made it; may be empty.
    pub source_run: String,
    /// Params it begins with.
    pub params: Vec<Pair>,
    /// Tags it begins with.
    pub tags: Vec<Pair>,
}

/// How far a logged model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelStatus {
    /// Its files are on their way.
    Pending,
    /// Its files are there.
    Ready,
    /// Its files did not come.
    Failed,
}

impl ModelStatus {
    /// As it is stored and answered.
    pub fn as_str(self) -> &'static str {
        match self {
            ModelStatus::Pending => "LOGGED_MODEL_PENDING",
            ModelStatus::Ready => "LOGGED_MODEL_READY",
            ModelStatus::Failed => "LOGGED_MODEL_UPLOAD_FAILED",
        }
    }

    /// None for a word that names none.
    pub fn read(text: &str) -> Option<ModelStatus> {
        [ModelStatus::Pending, ModelStatus::Ready, ModelStatus::Failed].into_iter().find(|s| s.as_str() == text)
    }
}

/// A model that a run read or made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunModel {
    /// Its id.
    pub model_id: String,
    /// Where in the run.
    pub step: i64,
    /// Made, rather than read.
    pub is_output: bool,
}

/// What to sort logged models by.
#[derive(Debug, Clone)]
pub struct ModelOrder {
    /// `metrics.NAME`, or an attribute.
    pub field: String,
    /// The dataset that a metric is of; empty names leave it open.
    pub dataset: (String, String),
    /// From the greatest to the least.
    pub descending: bool,
}

/// A name in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredModel {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Milliseconds UTC.
    pub created: i64,
    /// Milliseconds UTC.
    pub updated: i64,
    /// By name.
    pub tags: Vec<Pair>,
    /// Alias and version.
    pub aliases: Vec<(String, i64)>,
    /// The newest version of each stage.
    pub latest: Vec<ModelVersion>,
}

/// A version of a registered model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelVersion {
    /// The registered model's name.
    pub name: String,
    /// Its number.
    pub version: i64,
    /// What it was made of.
    pub source: String,
    /// Where its files are.
    pub location: String,
    /// The run that made it; may be empty.
    pub run_id: String,
    /// A link to that run; may be empty.
    pub run_link: String,
    /// For people.
    pub description: String,
    /// `None`, `Staging`, `Production` or `Archived`.
    pub stage: String,
    /// Milliseconds UTC.
    pub created: i64,
    /// Milliseconds UTC.
    pub updated: i64,
    /// By name.
    pub tags: Vec<Pair>,
    /// Aliases that name it.
    pub aliases: Vec<String>,
}

/// A version of a registered model that is kept by whoever numbers its versions.
#[derive(Debug, Clone, Default)]
pub struct KeptVersion {
    /// The registered model's name.
    pub name: String,
    /// Its number.
    pub version: i64,
    /// Where its files are.
    pub source: String,
    /// The run that made it; may be empty.
    pub run_id: String,
    /// For people.
    pub description: String,
    /// Milliseconds UTC.
    pub created: i64,
    /// Tags it begins with.
    pub tags: Vec<Pair>,
}

/// A version to be made.
#[derive(Debug, Clone, Default)]
pub struct NewModelVersion {
    /// The registered model's name.
    pub name: String,
    /// What it is made of.
    pub source: String,
    /// The run that made it; may be empty.
    pub run_id: String,
    /// A link to that run; may be empty.
    pub run_link: String,
    /// The logged model it is; may be empty.
    pub model_id: String,
    /// For people.
    pub description: String,
    /// Tags it begins with.
    pub tags: Vec<Pair>,
}
