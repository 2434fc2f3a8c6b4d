//! Experiments, runs and traces as MLflow's clients know them: what is stored, how it is searched, where artifacts lie. No HTTP.
//!
//! [`Tracking`] is the store. Every write waits for the commit that holds it; writes that come at the same time share one.

mod artifacts;
mod db;
mod dialects;
mod error;
mod evaluation;
mod grammar;
mod import;
mod limits;
mod measure;
mod model;
pub mod otel;
mod page;
mod store;
mod trace;
mod webhook;

pub use artifacts::{ArtifactFile, ArtifactPath, Artifacts, ArtifactsAt, Entry, SignedFile, SignedUpload, Span, Upload};
pub use error::{Error, ErrorCode, Result};
pub use evaluation::{EvaluationDataset, EvaluationRecord, Scorer};
pub use import::{Clashes, Differences, ImportLine, ImportReport, MlflowImport, flavors};
pub use measure::{Aggregation, DataPoint, MetricsOf, TraceMetrics};
pub use model::{
    Batch, Dataset, DatasetInput, Experiment, KeptVersion, LoggedModel, Metric, ModelOrder, ModelStatus, ModelVersion, NewExperiment,
    NewLoggedModel, NewModelVersion, NewRun, Page, Pair, Query, RegisteredModel, Run, RunChange, RunInfo, RunModel, Stage, Status, View,
    Visible,
};
pub use store::{Place, Tracking};
pub use trace::{Assessment, AssessmentChange, AssessmentKind, Logged, OldTraces, Trace, TraceInfo, TraceState};
pub use webhook::{Delivery, NewWebhook, Secret, Waiting, Webhook, WebhookChange, WebhookEvent};
