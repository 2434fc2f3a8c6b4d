//! Datasets that models of language are judged by.

use axum::extract::{Path, State};
use kilter_tracking::{Error, EvaluationDataset, EvaluationRecord, Page, Pair, Query, Result, Tracking};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::answer::{Answer, done, held, json as answer, large};
use super::input::{Fields, Input, experiment_id, within};
use super::scope::Readable;

const MOST: i64 = 1000;
const RECORDS: usize = 1000;
const MOST_RECORDS: i64 = 50_000;

#[derive(Serialize)]
struct One<'a> {
    dataset: DatasetJson<'a>,
}

#[derive(Serialize)]
struct Many<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    datasets: Vec<DatasetJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

#[derive(Serialize)]
struct DatasetJson<'a> {
    dataset_id: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<String>,
    digest: &'a str,
    created_time: i64,
    last_update_time: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_updated_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    experiment_ids: Vec<String>,
}

#[derive(Serialize)]
struct Records {
    records: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

#[derive(Serialize)]
struct Upserted {
    inserted_count: i64,
    updated_count: i64,
}

#[derive(Serialize)]
struct Deleted {
    deleted_count: i64,
}

#[derive(Serialize)]
struct ExperimentIds {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    experiment_ids: Vec<String>,
}

#[derive(Serialize)]
struct RecordJson<'a> {
    dataset_record_id: &'a str,
    dataset_id: &'a str,
    inputs: &'a Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outputs: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expectations: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_type: Option<&'a str>,
    created_time: i64,
    last_update_time: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_updated_by: Option<&'a str>,
}

impl<'a> DatasetJson<'a> {
    fn new(d: &'a EvaluationDataset) -> DatasetJson<'a> {
        let tags: Map<String, Value> = d.tags.iter().map(|t| (t.key.clone(), json!(t.value))).collect();
        let tags = kilter_tracking::otel::AnyValue::of_json(&Value::Object(tags)).map(|value| value.to_json());
        DatasetJson {
            dataset_id: &d.id,
            name: &d.name,
            tags: tags.filter(|_| !d.tags.is_empty()),
            schema: d.schema.as_deref(),
            profile: (d.records > 0).then(|| format!("{{\"num_records\": {}}}", d.records)),
            digest: &d.digest,
            created_time: d.created,
            last_update_time: d.updated,
            created_by: d.created_by.as_deref(),
            last_updated_by: d.updated_by.as_deref(),
            // Asked for on their own, but of a dataset that was just made or moved.
            experiment_ids: Vec::new(),
        }
    }

    fn with_experiments(d: &'a EvaluationDataset) -> DatasetJson<'a> {
        DatasetJson { experiment_ids: ids(d), ..DatasetJson::new(d) }
    }
}

fn ids(d: &EvaluationDataset) -> Vec<String> {
    d.experiments.iter().map(i64::to_string).collect()
}

fn experiments(f: &Fields) -> Result<Vec<i64>> {
    f.texts("experiment_ids")?.into_iter().map(experiment_id).collect()
}

fn tags(f: &Fields) -> Result<Vec<Pair>> {
    if f.text("tags")?.is_none_or(str::is_empty) {
        return Ok(Vec::new());
    }
    let Value::Object(map) = within("tags", f.need_text("tags")?)? else {
        return Err(Error::invalid("Invalid value for parameter 'tags' supplied: it must be a JSON object"));
    };
    let text = |value: Value| if let Value::String(text) = value { text } else { value.to_string() };
    Ok(map.into_iter().map(|(key, value)| Pair { key, value: text(value) }).collect())
}

fn record(value: Value) -> Result<EvaluationRecord> {
    let wrong = |what: &str| Error::invalid(format!("Invalid value for parameter 'records' supplied: {what}"));
    let Value::Object(mut map) = value else { return Err(wrong("each record must be an object")) };
    let mut object = |name: &str| match map.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(_) => Err(wrong(&format!("'{name}' of a record must be an object"))),
    };
    let (inputs, expectations, tags) = (object("inputs")?, object("expectations")?, object("tags")?);
    let source = object("source")?.map(Value::Object);
    let outputs = map.remove("outputs").filter(|v| !v.is_null());
    Ok(EvaluationRecord { inputs: inputs.unwrap_or_default(), outputs, expectations, tags, source, ..EvaluationRecord::default() })
}

pub async fn create(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let dataset = tracking.create_evaluation_dataset(f.need_text("name")?.into(), tags(&f)?, experiments(&f)?).await?;
    Ok(answer(&One { dataset: DatasetJson::with_experiments(&dataset) }))
}

pub async fn get(State(tracking): State<Tracking>, Path(id): Path<String>) -> Answer {
    let dataset = tracking.evaluation_dataset(&id).await?;
    Ok(answer(&One { dataset: DatasetJson::new(&dataset) }))
}

pub async fn search(State(tracking): State<Tracking>, readable: Readable, input: Input) -> Answer {
    let f = input.fields();
    let query = Query {
        filter: f.text("filter_string")?.unwrap_or_default().into(),
        order_by: f.texts("order_by")?.into_iter().map(str::to_string).collect(),
        max_results: f.max_results(MOST as usize, MOST)?,
        page_token: f.text("page_token")?.map(str::to_string),
        visible: readable.of_experiments(),
        ..Query::default()
    };
    let Some(experiments) = readable.experiments(experiments(&f)?).await? else {
        return Ok(answer(&Many { datasets: Vec::new(), next_page_token: None }));
    };
    let page = tracking.search_evaluation_datasets(&experiments, &query).await?;
    large(move || answer(&Many { datasets: page.items.iter().map(DatasetJson::new).collect(), next_page_token: page.next })).await
}

pub async fn delete(State(tracking): State<Tracking>, Path(id): Path<String>) -> Answer {
    tracking.delete_evaluation_dataset(id).await?;
    done()
}

pub async fn set_tags(State(tracking): State<Tracking>, Path(id): Path<String>, input: Input) -> Answer {
    let f = input.fields();
    f.need_text("tags")?;
    tracking.set_evaluation_dataset_tags(id, tags(&f)?).await?;
    done()
}

pub async fn delete_tag(State(tracking): State<Tracking>, Path((id, key)): Path<(String, String)>) -> Answer {
    tracking.delete_evaluation_dataset_tag(id, key).await?;
    done()
}

pub async fn experiment_ids(State(tracking): State<Tracking>, Path(id): Path<String>) -> Answer {
    let dataset = tracking.evaluation_dataset(&id).await?;
    Ok(answer(&ExperimentIds { experiment_ids: ids(&dataset) }))
}

pub async fn add_experiments(State(tracking): State<Tracking>, Path(id): Path<String>, input: Input) -> Answer {
    let dataset = tracking.move_evaluation_dataset(&id, experiments(&input.fields())?, true).await?;
    Ok(answer(&One { dataset: DatasetJson::with_experiments(&dataset) }))
}

pub async fn remove_experiments(State(tracking): State<Tracking>, Path(id): Path<String>, input: Input) -> Answer {
    let dataset = tracking.move_evaluation_dataset(&id, experiments(&input.fields())?, false).await?;
    Ok(answer(&One { dataset: DatasetJson::with_experiments(&dataset) }))
}

pub async fn upsert(State(tracking): State<Tracking>, Path(id): Path<String>, input: Input) -> Answer {
    let Value::Array(records) = within("records", input.fields().need_text("records")?)? else {
        return Err(Error::invalid("Invalid value for parameter 'records' supplied: it must be a JSON list").into());
    };
    let records = records.into_iter().map(record).collect::<Result<_>>()?;
    let (inserted_count, updated_count) = tracking.upsert_records(id, records).await?;
    Ok(answer(&Upserted { inserted_count, updated_count }))
}

pub async fn records(State(tracking): State<Tracking>, Path(id): Path<String>, input: Input) -> Answer {
    let f = input.fields();
    let place = tracking.place().await?;
    let Page { items, next } = tracking.records(&id, f.max_results(RECORDS, MOST_RECORDS)?, f.text("page_token")?, &place).await?;
    large(move || {
        let json = |r: &EvaluationRecord| {
            let record = RecordJson {
                dataset_record_id: &r.id,
                dataset_id: &id,
                inputs: &r.inputs,
                outputs: r.outputs.as_ref(),
                expectations: r.expectations.as_ref(),
                tags: r.tags.as_ref(),
                source: r.source.as_ref(),
                source_type: r.source.as_ref().and_then(|s| s.get("source_type")?.as_str()),
                created_time: r.created,
                last_update_time: r.updated,
                created_by: r.created_by.as_deref(),
                last_updated_by: r.updated_by.as_deref(),
            };
            json!(record).to_string()
        };
        // One after the other: no second tree of all of them.
        let records: Vec<String> = items.iter().map(json).collect();
        held(place, answer(&Records { records: format!("[{}]", records.join(",")), next_page_token: next }))
    })
    .await
}

pub async fn delete_records(State(tracking): State<Tracking>, Path(id): Path<String>, input: Input) -> Answer {
    let ids = input.fields().texts("dataset_record_ids")?.into_iter().map(str::to_string).collect();
    Ok(answer(&Deleted { deleted_count: tracking.delete_records(id, ids).await? }))
}
