//! Models that runs logged.

use axum::extract::{Path, State};
use kilter_tracking::{LoggedModel, Metric, ModelOrder, ModelStatus, NewLoggedModel, Query, Result, Tracking};
use serde::Serialize;

use super::answer::{Answer, PairJson, done, double, json, pairs};
use super::artifacts::list_below;
use super::input::{Input, experiment_id};
use super::scope::Readable;

const MOST: i64 = 1000;

#[derive(Serialize)]
struct One<'a> {
    model: ModelJson<'a>,
}

#[derive(Serialize)]
struct Many<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    models: Vec<ModelJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

#[derive(Serialize)]
struct ModelJson<'a> {
    info: InfoJson<'a>,
    data: DataJson<'a>,
}

#[derive(Serialize)]
struct InfoJson<'a> {
    model_id: &'a str,
    experiment_id: String,
    name: &'a str,
    creation_timestamp_ms: i64,
    last_updated_timestamp_ms: i64,
    artifact_uri: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    model_type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    source_run_id: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<PairJson<'a>>,
}

#[derive(Serialize)]
struct DataJson<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    params: Vec<PairJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    metrics: Vec<ModelMetric<'a>>,
}

#[derive(Serialize)]
struct ModelMetric<'a> {
    key: &'a str,
    #[serde(serialize_with = "double")]
    value: f64,
    timestamp: i64,
    step: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    dataset_name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    dataset_digest: &'a str,
    model_id: &'a str,
    run_id: &'a str,
}

impl<'a> From<&'a LoggedModel> for ModelJson<'a> {
    fn from(m: &'a LoggedModel) -> Self {
        let metric = |(metric, run): &'a (Metric, String)| ModelMetric {
            key: &metric.key,
            value: metric.value,
            timestamp: metric.timestamp,
            step: metric.step,
            dataset_name: &metric.dataset.0,
            dataset_digest: &metric.dataset.1,
            model_id: &m.id,
            run_id: run,
        };
        let info = InfoJson {
            model_id: &m.id,
            experiment_id: m.experiment.to_string(),
            name: &m.name,
            creation_timestamp_ms: m.created,
            last_updated_timestamp_ms: m.updated,
            artifact_uri: &m.artifact_uri,
            status: m.status.as_str(),
            model_type: &m.model_type,
            source_run_id: &m.source_run,
            tags: pairs(&m.tags),
        };
        ModelJson { info, data: DataJson { params: pairs(&m.params), metrics: m.metrics.iter().map(metric).collect() } }
    }
}

fn one(model: &LoggedModel) -> Answer {
    Ok(json(&One { model: model.into() }))
}

pub async fn create(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let new = NewLoggedModel {
        experiment: f.need_experiment("experiment_id")?,
        name: f.text("name")?.unwrap_or_default().into(),
        model_type: f.text("model_type")?.unwrap_or_default().into(),
        source_run: f.text("source_run_id")?.unwrap_or_default().into(),
        params: f.pairs("params")?,
        tags: f.pairs("tags")?,
    };
    one(&tracking.create_logged_model(new).await?)
}

pub async fn get(State(tracking): State<Tracking>, Path(id): Path<String>) -> Answer {
    one(&tracking.logged_model(&id).await?)
}

pub async fn finish(State(tracking): State<Tracking>, Path(id): Path<String>, input: Input) -> Answer {
    let status = ModelStatus::read(input.fields().need_text("status")?);
    one(&match status {
        Some(status) => tracking.finish_logged_model(&id, status).await?,
        // A word that names no status changes nothing.
        None => tracking.logged_model(&id).await?,
    })
}

pub async fn delete(State(tracking): State<Tracking>, Path(id): Path<String>) -> Answer {
    tracking.delete_logged_model(id).await?;
    done()
}

pub async fn set_tags(State(tracking): State<Tracking>, Path(id): Path<String>, input: Input) -> Answer {
    tracking.set_logged_model_tags(id, input.fields().pairs("tags")?).await?;
    done()
}

pub async fn log_params(State(tracking): State<Tracking>, Path(id): Path<String>, input: Input) -> Answer {
    tracking.log_logged_model_params(id, input.fields().pairs("params")?).await?;
    done()
}

pub async fn delete_tag(State(tracking): State<Tracking>, Path((id, key)): Path<(String, String)>) -> Answer {
    tracking.delete_logged_model_tag(id, key).await?;
    done()
}

pub async fn list(State(tracking): State<Tracking>, Path(id): Path<String>, input: Input) -> Answer {
    let root = tracking.logged_model(&id).await?.artifact_uri;
    list_below(&tracking, root, input.fields().text("artifact_directory_path")?.unwrap_or_default()).await
}

pub async fn search(State(tracking): State<Tracking>, readable: Readable, input: Input) -> Answer {
    let f = input.fields();
    let experiments = f.texts("experiment_ids")?.into_iter().map(experiment_id).collect::<Result<Vec<_>>>()?;
    let dataset = |f: &super::input::Fields| -> Result<(String, String)> {
        Ok((f.text("dataset_name")?.unwrap_or_default().into(), f.text("dataset_digest")?.unwrap_or_default().into()))
    };
    let orders = f.objects("order_by")?;
    let order = |o: &super::input::Fields| -> Result<ModelOrder> {
        let descending = o.has("ascending")? && !o.need_bool("ascending")?;
        Ok(ModelOrder { field: o.need_text("field_name")?.into(), dataset: dataset(o)?, descending })
    };
    let orders = orders.iter().map(order).collect::<Result<Vec<_>>>()?;
    let datasets = f.objects("datasets")?.iter().map(dataset).collect::<Result<Vec<_>>>()?;
    let query = Query {
        filter: f.text("filter")?.unwrap_or_default().into(),
        max_results: f.max_results(100, MOST)?,
        page_token: f.text("page_token")?.map(str::to_string),
        ..Query::default()
    };
    let Some(experiments) = readable.experiments(experiments).await? else {
        return Ok(json(&Many { models: Vec::new(), next_page_token: None }));
    };
    let page = tracking.search_logged_models(&experiments, &query, &orders, &datasets).await?;
    Ok(json(&Many { models: page.items.iter().map(ModelJson::from).collect(), next_page_token: page.next }))
}
