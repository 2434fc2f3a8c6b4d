//! What goes out. Unset and empty fields are left out, as clients expect: an empty search is `{}`.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use kilter_tracking::{DatasetInput, Error, ErrorCode, Experiment, Metric, Pair, Place, Run, RunInfo};
use serde::{Serialize, Serializer};

use crate::wire;

/// What a handler answers.
pub type Answer = Result<Response, Refusal>;

/// A value as the answer.
pub fn json(value: &impl Serialize) -> Response {
    wire::json(StatusCode::OK, value)
}

/// An answer that may be long: it is written where no other request waits for it.
pub async fn large(write: impl FnOnce() -> Response + Send + 'static) -> Answer {
    tokio::task::spawn_blocking(write).await.map_err(|e| {
        tracing::error!(error = %e, "an answer could not be written");
        Refusal(Error::new(ErrorCode::InternalError, "the request failed inside kilter; its log says why"))
    })
}

/// An answer that is written, and the place that was held until then.
pub fn held(place: Place, answer: Response) -> Response {
    drop(place);
    answer
}

/// The answer of what only does something.
pub fn done() -> Answer {
    Ok(json(&Nothing {}))
}

#[derive(Serialize)]
pub struct Nothing {}

/// A refusal in MLflow's shape.
#[derive(Debug)]
pub struct Refusal(pub Error);

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal(error)
    }
}

#[derive(Serialize)]
struct RefusalJson<'a> {
    error_code: &'static str,
    message: &'a str,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Refusal(Error { code, message }) = self;
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = wire::json(status, &RefusalJson { error_code: code.as_str(), message: &message });
        if code == ErrorCode::TemporarilyUnavailable {
            response.headers_mut().insert(axum::http::header::RETRY_AFTER, axum::http::HeaderValue::from_static("1"));
        }
        response
    }
}

/// A number as JSON has it, and what JSON has no number for as a word.
pub fn double<S: Serializer>(value: &f64, s: S) -> Result<S::Ok, S::Error> {
    match *value {
        x if x.is_nan() => s.serialize_str("NaN"),
        f64::INFINITY => s.serialize_str("Infinity"),
        f64::NEG_INFINITY => s.serialize_str("-Infinity"),
        x => s.serialize_f64(x),
    }
}

/// A number that stands alone.
#[derive(Serialize)]
pub struct Double(#[serde(serialize_with = "double")] pub f64);

#[derive(Serialize)]
pub struct PairJson<'a> {
    key: &'a str,
    value: &'a str,
}

pub fn pairs(pairs: &[Pair]) -> Vec<PairJson<'_>> {
    pairs.iter().map(|p| PairJson { key: &p.key, value: &p.value }).collect()
}

#[derive(Serialize)]
pub struct ExperimentJson<'a> {
    experiment_id: String,
    name: &'a str,
    artifact_location: &'a str,
    lifecycle_stage: &'static str,
    last_update_time: i64,
    creation_time: i64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<PairJson<'a>>,
    workspace: &'static str,
}

impl<'a> From<&'a Experiment> for ExperimentJson<'a> {
    fn from(e: &'a Experiment) -> Self {
        ExperimentJson {
            experiment_id: e.id.to_string(),
            name: &e.name,
            artifact_location: &e.artifact_location,
            lifecycle_stage: e.stage.as_str(),
            last_update_time: e.updated,
            creation_time: e.created,
            tags: pairs(&e.tags),
            workspace: "default",
        }
    }
}

#[derive(Serialize)]
pub struct MetricJson<'a> {
    key: &'a str,
    #[serde(serialize_with = "double")]
    value: f64,
    timestamp: i64,
    step: i64,
}

impl<'a> From<&'a Metric> for MetricJson<'a> {
    fn from(m: &'a Metric) -> Self {
        MetricJson { key: &m.key, value: m.value, timestamp: m.timestamp, step: m.step }
    }
}

#[derive(Serialize)]
pub struct RunInfoJson<'a> {
    run_id: &'a str,
    run_uuid: &'a str,
    run_name: &'a str,
    experiment_id: String,
    user_id: &'a str,
    status: &'static str,
    start_time: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<i64>,
    artifact_uri: &'a str,
    lifecycle_stage: &'static str,
}

impl<'a> From<&'a RunInfo> for RunInfoJson<'a> {
    fn from(info: &'a RunInfo) -> Self {
        RunInfoJson {
            run_id: &info.id,
            run_uuid: &info.id,
            run_name: &info.name,
            experiment_id: info.experiment.to_string(),
            user_id: &info.user,
            status: info.status.as_str(),
            start_time: info.start_time,
            end_time: info.end_time,
            artifact_uri: &info.artifact_uri,
            lifecycle_stage: info.stage.as_str(),
        }
    }
}

#[derive(Serialize)]
pub struct RunJson<'a> {
    info: RunInfoJson<'a>,
    data: RunData<'a>,
    inputs: RunInputs<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outputs: Option<RunOutputs<'a>>,
}

#[derive(Serialize)]
struct RunData<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    metrics: Vec<MetricJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    params: Vec<PairJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<PairJson<'a>>,
}

#[derive(Serialize)]
struct RunInputs<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dataset_inputs: Vec<DatasetInputJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    model_inputs: Vec<ModelInput<'a>>,
}

#[derive(Serialize)]
struct ModelInput<'a> {
    model_id: &'a str,
}

#[derive(Serialize)]
struct RunOutputs<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    model_outputs: Vec<ModelOutput<'a>>,
}

#[derive(Serialize)]
struct ModelOutput<'a> {
    model_id: &'a str,
    step: i64,
}

#[derive(Serialize)]
struct DatasetInputJson<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<PairJson<'a>>,
    dataset: DatasetJson<'a>,
}

#[derive(Serialize)]
struct DatasetJson<'a> {
    name: &'a str,
    digest: &'a str,
    source_type: &'a str,
    source: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<&'a str>,
}

impl<'a> From<&'a DatasetInput> for DatasetInputJson<'a> {
    fn from(DatasetInput { tags, dataset: d }: &'a DatasetInput) -> Self {
        let dataset = DatasetJson {
            name: &d.name,
            digest: &d.digest,
            source_type: &d.source_type,
            source: &d.source,
            schema: d.schema.as_deref(),
            profile: d.profile.as_deref(),
        };
        DatasetInputJson { tags: pairs(tags), dataset }
    }
}

impl<'a> From<&'a Run> for RunJson<'a> {
    fn from(run: &'a Run) -> Self {
        let data =
            RunData { metrics: run.metrics.iter().map(MetricJson::from).collect(), params: pairs(&run.params), tags: pairs(&run.tags) };
        let (made, read): (Vec<_>, Vec<_>) = run.models.iter().partition(|m| m.is_output);
        let inputs = RunInputs {
            dataset_inputs: run.datasets.iter().map(DatasetInputJson::from).collect(),
            model_inputs: read.into_iter().map(|m| ModelInput { model_id: &m.model_id }).collect(),
        };
        let model_outputs = made.into_iter().map(|m| ModelOutput { model_id: &m.model_id, step: m.step }).collect();
        RunJson { info: (&run.info).into(), data, inputs, outputs: Some(RunOutputs { model_outputs }) }
    }
}

impl RunJson<'_> {
    /// As the creation of a run answers it: nothing can have come out yet.
    pub fn new(run: &Run) -> RunJson<'_> {
        RunJson { outputs: None, ..run.into() }
    }
}
