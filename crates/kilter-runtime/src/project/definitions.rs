//! The shape of `kilter.toml`: what a person may write, with every default filled in.
//!
//! These structs are what the file says, names still being names; [`super::resolve`] turns them into a plan.
//! The JSON schema for editors and the hash of the definitions are both made from them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::watch::{AnyMonitor, WatchDef};
use kilter_core::{DataType, Span, Value};
use kilter_pipeline::{ClockMode, Signal};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::calibration::CalibrationDef;
use super::kafka::{KafkaDef, SinkDef, Start};
use super::lake::LakeDef;
use super::search::SearchDef;
use super::workers::WorkersDef;

/// All definitions of a Kilter project.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, title = "kilter.toml")]
pub struct Definitions {
    pub project: ProjectDef,
    #[schemars(default)]
    pub server: ServerDef,
    #[schemars(default)]
    pub log: LogDef,
    #[schemars(default)]
    pub snapshot: SnapshotDef,
    /// Where the state of the features is kept.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(default)]
    pub state: StateDef,
    /// The lake: history as Parquet files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lake: Option<LakeDef>,
    /// The Kafka cluster of sources and sinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaDef>,
    /// Several processes that share the topics' partitions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<WorkersDef>,
    /// Named streams of typed events.
    #[schemars(default)]
    pub source: Named<SourceDef>,
    /// Feature views: aggregates over one source's events per entity and window.
    #[schemars(default)]
    pub features: Named<FeaturesDef>,
    /// Named lists of features over one or several views, read together.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schemars(default)]
    pub service: Named<ServiceDef>,
    /// Estimators trained on point-in-time features and a delayed label.
    #[schemars(default)]
    pub model: Named<ModelDef>,
    /// A model and a policy: outcome, score and reasons for every event of a source.
    #[schemars(default)]
    pub decision: Named<DecisionDef>,
    /// Where decisions and dead letters go.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schemars(default)]
    pub sink: Named<SinkDef>,
    /// When a model is trained by itself.
    #[schemars(default)]
    pub schedule: Named<ScheduleDef>,
    /// Watched signals of a model in service, and of the machinery itself.
    #[schemars(default, with = "Named<AnyMonitor>")]
    pub monitor: Named<MonitorDef>,
    /// Those of the machinery, written under `monitor` too.
    #[serde(skip)]
    pub watch: Named<WatchDef>,
}

/// The project as a whole.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ProjectDef {
    /// Lower-case letters, digits, `-` and `_`.
    #[schemars(regex(pattern = "^[a-z][a-z0-9_-]*$"))]
    pub name: String,
    /// What drives schedules and monitors: the machine's clock, or the stream's own event time (replays, backtests, demos).
    #[schemars(default = "defaults::clock")]
    pub clock: Clock,
}

/// The HTTP server and where the project keeps its data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ServerDef {
    /// Address and port to listen on.
    #[schemars(default = "defaults::listen")]
    pub listen: String,
    /// Largest request body.
    #[schemars(with = "SizeText", default = "defaults::max_body")]
    pub max_body: Size,
    /// Folder of log, snapshots and registry, relative to the project's folder.
    #[schemars(default = "defaults::data")]
    pub data: String,
    /// Most records of the log that a read of the past as it was seen runs through behind a snapshot.
    #[schemars(default = "defaults::past_records")]
    pub past_records: u64,
}

/// The event log on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct LogDef {
    /// Size at which a log file is closed and the next one begins.
    #[schemars(with = "SizeText", default = "defaults::segment")]
    pub segment: Size,
    /// Log files whose records are all in the lake, and arrived longer ago than this, are removed; left out: none are.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "super::lake::maybe_span")]
    #[schemars(with = "Option<SpanText>")]
    pub retention: Option<Span>,
}

/// Snapshots of the state, so that a restart replays only what came after the last one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct SnapshotDef {
    /// Shortest time between two snapshots.
    #[serde(serialize_with = "span")]
    #[schemars(with = "SpanText", default = "defaults::snapshot_every")]
    pub every: Span,
    /// No snapshot before this many new events.
    #[schemars(default = "defaults::snapshot_min_events")]
    pub min_events: u64,
    /// Snapshots kept.
    #[schemars(range(min = 1), default = "defaults::snapshot_keep")]
    pub keep: u32,
}

/// The state of the features.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct StateDef {
    /// About how much memory the state may take. Entities that are not in use are then kept on disk only. Left out: all are in memory.
    #[schemars(with = "Option<SizeText>")]
    pub memory: Option<Size>,
}

/// A named stream of typed events.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct SourceDef {
    /// Where the events come from.
    #[schemars(default = "defaults::connector")]
    pub connector: Connector,
    /// The file to read, relative to the project's folder; only with the connector `file`.
    pub path: Option<String>,
    /// Form of the events: of a file told by its extension when left out, of a topic's records JSON.
    pub format: Option<SourceFormat>,
    /// The topic to read; only with the connector `kafka`.
    pub topic: Option<String>,
    /// The file with the schema of a topic's records, relative to the project's folder; left out: the schema registry has it.
    pub schema: Option<String>,
    /// With a `.proto` file as `schema`: the full name of the message that a record is.
    pub message: Option<String>,
    /// Where a partition is begun that was not read before; only with the connector `kafka`.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(default)]
    pub start: Start,
    /// The column that brings an event to its shard, where that is not the `key` of [workers] or the topic is keyed otherwise: workers send the topic's records on to a topic of their own
    /// that is keyed by it. Only with the connector `kafka`.
    pub partition_by: Option<String>,
    /// Event time: a timestamp column, or an SQL expression over the columns.
    pub time: String,
    /// Column that identifies an event: one that comes twice within `dedupe` counts once.
    pub id: Option<String>,
    /// Column of the primary key, or several, where events tell the changes of a table's rows: each replaces the row of its key or takes it away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Option<OneOrMore>")]
    pub key: Vec<String>,
    /// With `key`: the column or field that says what happened to the row; null is an upsert. Left out: every event is an upsert.
    pub operation: Option<String>,
    /// With `key`: the form in which the changes come.
    pub envelope: Option<Envelope>,
    /// Name and type of every column.
    pub columns: Named<ColumnDef>,
    /// How far behind the newest event an event may be and still enter every window.
    #[serde(serialize_with = "span")]
    #[schemars(with = "SpanText", default = "defaults::lateness")]
    pub lateness: Span,
    /// How long an event id is remembered.
    #[serde(serialize_with = "span")]
    #[schemars(with = "SpanText", default = "defaults::dedupe")]
    pub dedupe: Span,
    /// Events further than this ahead of the clock are refused; "none" accepts any.
    #[serde(serialize_with = "span_or_none")]
    #[schemars(with = "SpanOrNone", default = "defaults::max_future")]
    pub max_future: Option<Span>,
    /// A source from which nothing has come for this long is idle; "none": it never is.
    #[serde(serialize_with = "span_or_none")]
    #[schemars(with = "SpanOrNone", default = "defaults::idle_after")]
    pub idle_after: Option<Span>,
    /// What happens to fields that no column names.
    #[schemars(default = "defaults::unknown")]
    pub unknown: Unknown,
    /// Who answers for it.
    pub owner: Option<String>,
    /// For people.
    pub description: Option<String>,
}

/// One column of a source.
#[derive(Clone, Debug, Serialize)]
pub struct ColumnDef {
    #[serde(rename = "type")]
    pub data_type: DataType,
    /// An event without it is refused; the columns of the event time always are required.
    pub required: bool,
    /// Whether it is personal data.
    pub personal_data: bool,
    /// For people.
    pub description: Option<String>,
}

/// A feature view: aggregates over one source's events per entity and window.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct FeaturesDef {
    /// The source whose events are aggregated.
    pub source: String,
    /// Key column of what the features describe, or several that name it together.
    #[schemars(with = "OneOrMore")]
    pub entity: Vec<String>,
    /// Only events for which this SQL condition holds.
    #[serde(rename = "where")]
    pub filter: Option<String>,
    /// Step in which windows move; left out: chosen by window length.
    #[serde(serialize_with = "optional_span")]
    #[schemars(with = "Option<SpanText>")]
    pub hop: Option<Span>,
    /// An entity is forgotten this long after its newest event; left out: it is kept.
    #[serde(serialize_with = "optional_span")]
    #[schemars(with = "Option<SpanText>")]
    pub ttl: Option<Span>,
    /// Zone of calendar windows, such as `Europe/Prague`; left out: UTC.
    pub time_zone: Option<String>,
    /// The features: an aggregate over windows each.
    pub columns: Named<FeatureDef>,
    /// Features that are expressions over those of `columns` and over the derived ones before them.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schemars(default)]
    pub derived: Named<FeatureDef>,
    /// Column of `source` that holds another view's entity, where it is not called like the entity itself: for lines that read `view.feature`.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schemars(with = "BTreeMap<String, OneOrMore>", default)]
    pub keys: Named<Vec<String>>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// For people.
    pub description: Option<String>,
}

/// One column of a view: an aggregate, over one or several windows.
#[derive(Clone, Debug, Serialize)]
pub struct FeatureDef {
    /// Such as `sum(amount) where kind = 'rent' over 7d, 30d`.
    pub value: String,
    /// Stands in where the aggregate has no value.
    pub default: Option<Scalar>,
    /// Whether it is personal data; left out: when something it rests on is.
    pub personal_data: Option<bool>,
    /// For people.
    pub description: Option<String>,
}

/// A named list of features over one or several views: one answer as of one moment, for people, models and training sets.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ServiceDef {
    /// `view.*`, `view.feature`, or `name = expression` over features.
    #[schemars(length(min = 1))]
    pub features: Vec<String>,
    /// What a reader calls the key of a view, where it is not called like the view's entity.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schemars(with = "BTreeMap<String, OneOrMore>", default)]
    pub keys: Named<Vec<String>>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// For people.
    pub description: Option<String>,
}

/// An estimator trained on point-in-time features and a delayed label.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ModelDef {
    /// Source whose events are the observations: one row each.
    pub on: String,
    /// What is fitted.
    #[schemars(default = "defaults::learner")]
    pub learner: LearnerKind,
    /// Settings of the learner.
    #[schemars(with = "super::params::ParamsSchema", default)]
    pub params: BTreeMap<String, serde_json::Value>,
    /// `view.*`, `service.*`, `view.feature`, `source.column`, or `name = expression` over them.
    #[schemars(length(min = 1))]
    pub inputs: Vec<String>,
    /// Column of `on` that holds a view's entity, where it is not called like the entity itself.
    #[schemars(with = "BTreeMap<String, OneOrMore>", default)]
    pub keys: Named<Vec<String>>,
    /// Whether the observation's own event counts in the features read at it.
    #[schemars(default)]
    pub include_self: bool,
    /// Where the truth comes from, and when it is known; `isolation` can do without.
    pub label: Option<LabelDef>,
    /// Train on this much of the newest past; left out: on all of the log.
    #[serde(serialize_with = "optional_span")]
    #[schemars(with = "Option<SpanText>")]
    pub window: Option<Span>,
    /// How probabilities are made to come true: a method, or a table; left out: they are the learner's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationDef>,
    /// Inputs that give one reason together, by the name of the group: their names, in which `*` stands for any characters.
    #[serde(skip_serializing_if = "Named::is_empty")]
    #[schemars(with = "BTreeMap<String, OneOrMore>", default)]
    pub reason_groups: Named<Vec<String>>,
    /// A search for settings of the learner, part of every training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchDef>,
    /// The newest part of the rows, kept out of training to judge the model on.
    #[schemars(range(min = 0.0, max = 0.9), default = "defaults::holdout")]
    pub holdout: f64,
    /// Fewer rows with a known label than this: training is refused.
    #[schemars(default = "defaults::min_rows")]
    pub min_rows: u64,
    /// Start of the learner's random numbers.
    #[schemars(default = "defaults::seed")]
    pub seed: u64,
    /// Inputs whose growth may only raise or only lower the score.
    #[schemars(with = "MonotoneSchema", default)]
    pub monotone: Named<Direction>,
    /// Inputs that are categories: texts, or whole numbers that are names and no quantities.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub categorical: Vec<String>,
    /// Who answers for it.
    pub owner: Option<String>,
    /// For people.
    pub description: Option<String>,
}

/// Where the truth comes from, and when it is known.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct LabelDef {
    /// The source whose events tell the outcome.
    pub source: String,
    /// A column of it, or an SQL expression over its columns; boolean or 0/1, or a number where the learner predicts one.
    pub value: String,
    /// The column that observation and label event share, several of them, or `{ observation = "label" }` where the names differ.
    #[serde(serialize_with = "pairs")]
    #[schemars(with = "PairsSchema")]
    pub on: Vec<(String, String)>,
    /// A label counts when its event happens within this time after the observation, and is final after it.
    #[serde(serialize_with = "span")]
    #[schemars(with = "SpanText")]
    pub within: Span,
    /// The label when no event came in time; left out: such rows are not trained on.
    pub absent: Option<f64>,
}

/// A model and a policy: outcome, score and reasons for every event of a source.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct DecisionDef {
    /// Source whose events are decided; the model's when left out.
    pub on: Option<String>,
    /// The model whose champion gives `score`; left out: rules alone.
    pub model: Option<String>,
    /// Rules from top to bottom; the first whose `when` holds decides, and the last has none.
    #[schemars(length(min = 1))]
    pub policy: Vec<RuleDef>,
    /// Most reasons given with a decision.
    #[schemars(range(max = 32), default = "defaults::reasons")]
    pub reasons: usize,
    /// Outcome while the model has no champion; left out: nothing is decided then.
    pub fallback: Option<String>,
    /// Column of `on` that holds a view's entity; only without a model, which has its own.
    #[schemars(with = "BTreeMap<String, OneOrMore>", default)]
    pub keys: Named<Vec<String>>,
    /// Whether the event itself counts in the features read at it; only without a model, which has its own.
    #[schemars(default)]
    pub include_self: bool,
    /// Who answers for it.
    pub owner: Option<String>,
    /// For people.
    pub description: Option<String>,
}

/// One line of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct RuleDef {
    /// An SQL condition over `score`, the columns of the event and the features; left out: always.
    pub when: Option<String>,
    /// The word that is answered.
    pub outcome: String,
}

/// When a model is trained by itself: `every` or `cron`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ScheduleDef {
    /// Once in this time.
    #[serde(serialize_with = "optional_span")]
    #[schemars(with = "Option<SpanText>")]
    pub every: Option<Span>,
    /// A cron expression of five fields, or six with seconds; UTC.
    pub cron: Option<String>,
    /// The model to train.
    pub train: String,
    /// Condition over the new version's metrics and `champion.` metrics; left out: a person promotes.
    pub promote_if: Option<String>,
}

/// A watched signal of a model in service.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct MonitorDef {
    /// The model watched.
    pub model: String,
    /// What is measured.
    #[serde(serialize_with = "signal")]
    #[schemars(with = "SignalName")]
    pub signal: Signal,
    /// Alert when the signal is higher.
    pub above: Option<f64>,
    /// Alert when the signal is lower.
    pub below: Option<f64>,
    /// Computed over this much of the newest past.
    #[serde(serialize_with = "span")]
    #[schemars(with = "SpanText", default = "defaults::monitor_window")]
    pub window: Span,
    /// How often it is computed.
    #[serde(serialize_with = "span")]
    #[schemars(with = "SpanText", default = "defaults::monitor_every")]
    pub every: Span,
    /// Fewer decisions in the window than this: no value, no alert.
    #[schemars(default = "defaults::monitor_min_rows")]
    pub min_rows: u64,
    /// After an alert has asked for a training, the next one may do so this much later.
    #[serde(serialize_with = "span")]
    #[schemars(with = "SpanText", default = "defaults::monitor_rest")]
    pub rest: Span,
    /// What an alert sets off.
    #[schemars(default = "defaults::then")]
    pub then: Vec<Action>,
}

/// What drives schedules and monitors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    Wall,
    Event,
}

/// Where a source's events come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Connector {
    Http,
    File,
    Kafka,
}

/// Form of a file of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    Parquet,
    Csv,
    /// One JSON object per line.
    Ndjson,
    /// One JSON array of objects.
    Json,
}

/// Form of a topic's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TopicFormat {
    /// One JSON object.
    #[default]
    Json,
    /// Avro: framed as the schema registry has it, or bare by the file `schema`.
    Avro,
    /// Protocol Buffers: framed as the schema registry has it, or bare by the file `schema`.
    Protobuf,
    /// One JSON object, framed as the schema registry has it.
    JsonSchema,
}

impl TopicFormat {
    /// As it is written in the definitions.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, format)| *format == self).map_or("", |(word, _)| word)
    }
}

/// Form of a source's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum SourceFormat {
    /// With the connector `file`.
    File(FileFormat),
    /// With the connector `kafka`.
    Topic(TopicFormat),
}

impl SourceFormat {
    pub fn file(self) -> Option<FileFormat> {
        match self {
            SourceFormat::File(format) => Some(format),
            SourceFormat::Topic(_) => None,
        }
    }

    pub fn topic(self) -> Option<TopicFormat> {
        match self {
            SourceFormat::Topic(format) => Some(format),
            SourceFormat::File(_) => None,
        }
    }
}

/// The form in which changes of a table's rows come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Envelope {
    /// `{"before": .., "after": .., "op": .., "source": ..}`, alone or as `payload`.
    Debezium,
}

/// What happens to fields that no column names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// Kept beside the event, so that a column declared later finds its history.
    Keep,
    Ignore,
    /// The event is refused.
    Reject,
}

/// What is fitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LearnerKind {
    /// Gradient-boosted decision trees.
    Gbdt,
    /// A random forest, or extra trees.
    Forest,
    /// An additive model of single inputs and of pairs.
    Explainable,
    /// Logistic regression.
    Logistic,
    /// Bins with points.
    Scorecard,
    /// Linear regression of a number.
    Linear,
    /// An isolation forest, which finds anomalies without labels.
    Isolation,
}

/// Which way an input may move the score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Increasing,
    Decreasing,
}

/// What an alert sets off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Alert,
    Retrain,
}

/// A set of words a value may be one of.
pub(super) trait Word: Copy + 'static {
    /// What the words are, in complaints.
    const WHAT: &'static str;
    const WORDS: &'static [(&'static str, Self)];
}

impl Word for Clock {
    const WHAT: &'static str = "clock";
    const WORDS: &'static [(&'static str, Self)] = &[("wall", Clock::Wall), ("event", Clock::Event)];
}
impl Word for Connector {
    const WHAT: &'static str = "connector";
    const WORDS: &'static [(&'static str, Self)] = &[("http", Connector::Http), ("file", Connector::File), ("kafka", Connector::Kafka)];
}
impl Word for FileFormat {
    const WHAT: &'static str = "format";
    const WORDS: &'static [(&'static str, Self)] =
        &[("parquet", FileFormat::Parquet), ("csv", FileFormat::Csv), ("ndjson", FileFormat::Ndjson), ("json", FileFormat::Json)];
}
impl Word for TopicFormat {
    const WHAT: &'static str = "format";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("json", TopicFormat::Json),
        ("avro", TopicFormat::Avro),
        ("protobuf", TopicFormat::Protobuf),
        ("json_schema", TopicFormat::JsonSchema),
    ];
}
impl Word for Envelope {
    const WHAT: &'static str = "envelope";
    const WORDS: &'static [(&'static str, Self)] = &[("debezium", Envelope::Debezium)];
}
impl Word for Unknown {
    const WHAT: &'static str = "treatment of unknown fields";
    const WORDS: &'static [(&'static str, Self)] = &[("keep", Unknown::Keep), ("ignore", Unknown::Ignore), ("reject", Unknown::Reject)];
}
impl Word for LearnerKind {
    const WHAT: &'static str = "learner";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("gbdt", LearnerKind::Gbdt),
        ("forest", LearnerKind::Forest),
        ("explainable", LearnerKind::Explainable),
        ("logistic", LearnerKind::Logistic),
        ("scorecard", LearnerKind::Scorecard),
        ("linear", LearnerKind::Linear),
        ("isolation", LearnerKind::Isolation),
    ];
}
impl Word for Direction {
    const WHAT: &'static str = "direction";
    const WORDS: &'static [(&'static str, Self)] = &[("increasing", Direction::Increasing), ("decreasing", Direction::Decreasing)];
}
impl Word for Action {
    const WHAT: &'static str = "action";
    const WORDS: &'static [(&'static str, Self)] = &[("alert", Action::Alert), ("retrain", Action::Retrain)];
}
impl Word for Signal {
    const WHAT: &'static str = "signal";
    const WORDS: &'static [(&'static str, Self)] = &Signal::ALL;
}

impl From<Clock> for ClockMode {
    fn from(clock: Clock) -> ClockMode {
        match clock {
            Clock::Wall => ClockMode::Wall,
            Clock::Event => ClockMode::Event,
        }
    }
}

/// A value written in the file where any type may stand.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Scalar {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

impl Scalar {
    pub fn value(&self) -> Value {
        match self {
            Scalar::Bool(b) => Value::Bool(*b),
            Scalar::Int(i) => Value::Int(*i),
            Scalar::Float(x) => Value::float(*x),
            Scalar::Text(s) => Value::text(s),
        }
    }
}

/// Things by name, in the order in which the file defines them.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<T>(pub Vec<(String, T)>);

impl<T> Named<T> {
    pub fn get(&self, name: &str) -> Option<&T> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, item)| item)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.0.iter().map(|(name, item)| (name.as_str(), item))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> Default for Named<T> {
    fn default() -> Named<T> {
        Named(Vec::new())
    }
}

impl<T: Serialize> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(Some(self.0.len()))?;
        for (name, item) in &self.0 {
            map.serialize_entry(name, item)?;
        }
        map.end()
    }
}

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Named_{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        BTreeMap::<String, T>::json_schema(generator)
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    const UNITS: [(&'static str, u64); 7] =
        [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000), ("B", 1)];

    /// Reads `16MiB`, `1 GB`, `500KB`; a bare number is refused: a unit is never guessed.
    pub fn parse(text: &str) -> Option<Size> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let unit = text[digits..].trim_start();
        let size = Size::UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1;
        Some(Size(text[..digits].parse::<u64>().ok()?.checked_mul(size)?))
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (unit, size) = Size::UNITS.into_iter().find(|(_, size)| self.0 != 0 && self.0.is_multiple_of(*size)).unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / size)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// What holds when a key is left out.
pub(super) mod defaults {
    use super::*;

    pub fn clock() -> Clock {
        Clock::Wall
    }
    pub fn listen() -> String {
        "127.0.0.1:8080".into()
    }
    pub fn max_body() -> Size {
        Size(16 << 20)
    }
    pub fn data() -> String {
        "kilter-data".into()
    }
    pub fn past_records() -> u64 {
        1_000_000
    }
    pub fn segment() -> Size {
        Size(256 << 20)
    }
    pub fn snapshot_every() -> Span {
        Span::MINUTE
    }
    pub fn snapshot_min_events() -> u64 {
        100_000
    }
    pub fn snapshot_keep() -> u32 {
        3
    }
    pub fn connector() -> Connector {
        Connector::Http
    }
    pub fn lateness() -> Span {
        Span::HOUR
    }
    pub fn dedupe() -> Span {
        Span::DAY
    }
    pub fn max_future() -> Option<Span> {
        Some(Span::MINUTE)
    }
    pub fn idle_after() -> Option<Span> {
        Some(Span(5 * Span::MINUTE.0))
    }
    pub fn unknown() -> Unknown {
        Unknown::Keep
    }
    pub fn learner() -> LearnerKind {
        LearnerKind::Gbdt
    }
    pub fn holdout() -> f64 {
        0.2
    }
    pub fn min_rows() -> u64 {
        200
    }
    pub fn seed() -> u64 {
        7
    }
    pub fn reasons() -> usize {
        4
    }
    pub fn monitor_window() -> Span {
        Span(7 * Span::DAY.0)
    }
    pub fn monitor_every() -> Span {
        Span::DAY
    }
    pub fn monitor_rest() -> Span {
        Span(7 * Span::DAY.0)
    }

    pub fn monitor_min_rows() -> u64 {
        200
    }
    pub fn then() -> Vec<Action> {
        vec![Action::Alert]
    }
}

impl Default for ServerDef {
    fn default() -> ServerDef {
        ServerDef {
            listen: defaults::listen(),
            max_body: defaults::max_body(),
            data: defaults::data(),
            past_records: defaults::past_records(),
        }
    }
}

impl Default for LogDef {
    fn default() -> LogDef {
        LogDef { segment: defaults::segment(), retention: None }
    }
}

impl Default for SnapshotDef {
    fn default() -> SnapshotDef {
        SnapshotDef { every: defaults::snapshot_every(), min_events: defaults::snapshot_min_events(), keep: defaults::snapshot_keep() }
    }
}

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

pub(super) fn span<S: Serializer>(span: &Span, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(span)
}

pub(super) fn optional_span<S: Serializer>(span: &Option<Span>, s: S) -> Result<S::Ok, S::Error> {
    match span {
        Some(span) => s.collect_str(span),
        None => s.serialize_none(),
    }
}

fn span_or_none<S: Serializer>(span: &Option<Span>, s: S) -> Result<S::Ok, S::Error> {
    match span {
        Some(span) => s.collect_str(span),
        None => s.serialize_str("none"),
    }
}

fn signal<S: Serializer>(signal: &Signal, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(signal.name())
}

fn pairs<S: Serializer>(pairs: &[(String, String)], s: S) -> Result<S::Ok, S::Error> {
    s.collect_map(pairs.iter().map(|(a, b)| (a, b)))
}

/// Gives a written form its JSON schema.
macro_rules! written_as {
    ($($(#[$doc:meta])* $name:ident => $schema:tt;)*) => { $(
        $(#[$doc])*
        pub(super) struct $name;
        impl JsonSchema for $name {
            fn inline_schema() -> bool { true }
            fn schema_name() -> Cow<'static, str> { stringify!($name).into() }
            fn json_schema(_: &mut SchemaGenerator) -> Schema { json_schema!($schema) }
        }
    )* };
}

written_as! {
    SpanText => { "type": "string", "pattern": "^([0-9]+(us|ms|s|min|m|h|d|w))+$", "examples": ["90s", "1h", "7d"] };
    SpanOrNone => { "type": "string", "pattern": "^(none|([0-9]+(us|ms|s|min|m|h|d|w))+)$", "examples": ["60s", "none"] };
    SizeText => { "type": "string", "pattern": "^[0-9]+ ?([KMGkmg]i?)?[Bb]$", "examples": ["16MiB", "1GB"] };
    OneOrMore => { "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }] };
    SignalName => { "enum": ["psi", "auc", "log_loss", "brier", "rmse", "mae", "bias", "pinball", "coverage", "deviance"] };
    PairsSchema => { "anyOf": [
        { "type": "string" },
        { "type": "array", "items": { "type": "string" }, "minItems": 1 },
        { "type": "object", "additionalProperties": { "type": "string" }, "minProperties": 1 }
    ] };
    // `account.low = "decreasing"` in an inline table is a table in a table to TOML.
    MonotoneSchema => { "type": "object", "additionalProperties": { "anyOf": [
        { "enum": ["increasing", "decreasing"] },
        { "type": "object", "additionalProperties": { "enum": ["increasing", "decreasing"] } }
    ] } };
}

impl JsonSchema for ColumnDef {
    fn schema_name() -> Cow<'static, str> {
        "ColumnDef".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let types: Vec<&str> = DataType::COLUMNS.into_iter().map(DataType::name).collect();
        json_schema!({
            "description": "The type of a column, or a table that says more about it.",
            "anyOf": [{ "enum": types }, {
                "type": "object",
                "properties": {
                    "type": { "enum": types },
                    "required": { "description": "An event without it is refused.", "type": "boolean", "default": false },
                    "personal_data": { "description": "Whether it is personal data.", "type": "boolean", "default": false },
                    "description": { "description": "For people.", "type": "string" }
                },
                "required": ["type"],
                "additionalProperties": false
            }]
        })
    }
}

impl JsonSchema for FeatureDef {
    fn schema_name() -> Cow<'static, str> {
        "FeatureDef".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An aggregate over one or several windows, such as `sum(amount) where kind = 'rent' over 7d, 30d`.",
            "anyOf": [{ "type": "string" }, {
                "type": "object",
                "properties": {
                    "value": { "description": "The aggregate.", "type": "string" },
                    "default": { "description": "Stands in where the aggregate has no value.", "type": ["number", "boolean", "string"] },
                    "personal_data": { "description": "Whether it is personal data; left out: when something it rests on is.", "type": "boolean" },
                    "description": { "description": "For people.", "type": "string" }
                },
                "required": ["value"],
                "additionalProperties": false
            }]
        })
    }
}
