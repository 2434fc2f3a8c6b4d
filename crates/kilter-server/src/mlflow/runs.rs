//! Runs and what they log.

use axum::extract::State;
use kilter_tracking::{
    Batch, Dataset, DatasetInput, Error, Metric, NewRun, Pair, Query, Result, RunChange, RunModel, Stage, Status, Tracking,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::answer::{Answer, MetricJson, RunInfoJson, RunJson, done, json};
use super::input::{Fields, Input, Object, Plain, experiment_id, within};
use super::scope::Readable;

const MOST: i64 = 50_000;
const MOST_POINTS: i64 = 25_000;
const MOST_STEPS: i64 = 2_500;
const MOST_RUNS: usize = 100;
/// What the description of a model must have.
const MODEL: [&str; 4] = ["artifact_path", "flavors", "utc_time_created", "run_id"];

#[derive(Serialize)]
struct One<'a> {
    run: RunJson<'a>,
}

#[derive(Serialize)]
struct Updated<'a> {
    run_info: RunInfoJson<'a>,
}

#[derive(Serialize)]
struct Many<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    runs: Vec<RunJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

#[derive(Serialize)]
struct Points<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    metrics: Vec<MetricJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

#[derive(Serialize)]
struct PointsOfRuns<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    metrics: Vec<PointOfRun<'a>>,
}

#[derive(Serialize)]
struct PointOfRun<'a> {
    #[serde(flatten)]
    metric: MetricJson<'a>,
    run_id: &'a str,
}

impl<'a> From<&'a (String, Metric)> for PointOfRun<'a> {
    fn from((run_id, metric): &'a (String, Metric)) -> Self {
        PointOfRun { metric: metric.into(), run_id }
    }
}

pub async fn create(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let new = NewRun {
        id: None,
        experiment: f.experiment("experiment_id")?.unwrap_or(0),
        name: f.text("run_name")?.map(str::to_string),
        user: f.text("user_id")?.unwrap_or_default().into(),
        start_time: f.integer("start_time")?,
        tags: f.pairs("tags")?,
    };
    let run = tracking.create_run(new).await?;
    Ok(json(&One { run: RunJson::new(&run) }))
}

pub async fn get(State(tracking): State<Tracking>, input: Input) -> Answer {
    let run = tracking.run(input.fields().need_run()?).await?;
    Ok(json(&One { run: (&run).into() }))
}

pub async fn update(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let change = RunChange {
        // A word that names no status changes nothing, as with MLflow's server.
        status: f.text("status")?.and_then(Status::read),
        end_time: f.integer("end_time")?,
        name: f.text("run_name")?.map(str::to_string),
    };
    let info = tracking.update_run(f.need_run()?, change).await?;
    Ok(json(&Updated { run_info: (&info).into() }))
}

pub async fn delete(State(tracking): State<Tracking>, input: Input) -> Answer {
    tracking.set_run_stage(input.fields().need_text("run_id")?.into(), Stage::Deleted).await?;
    done()
}

pub async fn restore(State(tracking): State<Tracking>, input: Input) -> Answer {
    tracking.set_run_stage(input.fields().need_text("run_id")?.into(), Stage::Active).await?;
    done()
}

pub async fn search(State(tracking): State<Tracking>, readable: Readable, input: Input) -> Answer {
    let f = input.fields();
    let experiments = f.texts("experiment_ids")?.into_iter().map(experiment_id).collect::<Result<Vec<_>>>()?;
    let query = Query {
        filter: f.text("filter")?.unwrap_or_default().into(),
        order_by: f.texts("order_by")?.into_iter().map(str::to_string).collect(),
        view: f.view("run_view_type")?,
        max_results: f.max_results(1000, MOST)?,
        page_token: f.text("page_token")?.map(str::to_string),
        ..Query::default()
    };
    let Some(experiments) = readable.experiments(experiments).await? else {
        return Ok(json(&Many { runs: Vec::new(), next_page_token: None }));
    };
    let page = tracking.search_runs(&experiments, &query).await?;
    Ok(json(&Many { runs: page.items.iter().map(RunJson::from).collect(), next_page_token: page.next }))
}

pub async fn log_metric(State(tracking): State<Tracking>, input: Plain<PlainMetric>) -> Answer {
    match input {
        Plain::Typed(mut metric) => {
            let run_id = metric.run_id.take().or(metric.run_uuid.take());
            let run_id = run_id.ok_or_else(|| Input::default().fields().missing("run_id"))?;
            tracking.log(run_id.0, Batch { metrics: vec![metric.into()], ..Batch::default() }).await?;
            done()
        }
        Plain::Fields(input) => {
            let f = input.fields();
            log(&tracking, &f, Batch { metrics: vec![metric(&f)?], ..Batch::default() }).await
        }
    }
}

pub async fn log_param(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let param = Pair { key: f.need_text("key")?.into(), value: f.any_text("value")?.into() };
    log(&tracking, &f, Batch { params: vec![param], ..Batch::default() }).await
}

pub async fn set_tag(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let tag = Pair { key: f.need_text("key")?.into(), value: f.any_text("value")?.into() };
    log(&tracking, &f, Batch { tags: vec![tag], ..Batch::default() }).await
}

pub async fn log_batch(State(tracking): State<Tracking>, input: Plain<PlainBatch>) -> Answer {
    match input {
        Plain::Typed(PlainBatch { run_id, metrics, params, tags }) => {
            let pairs = |pairs: Vec<Object<PlainPair>>| pairs.into_iter().map(|Object(p)| Pair { key: p.key.0, value: p.value }).collect();
            let batch = Batch {
                metrics: metrics.into_iter().map(|Object(metric)| metric.into()).collect(),
                params: pairs(params),
                tags: pairs(tags),
            };
            tracking.log(run_id.0, batch).await?;
            done()
        }
        Plain::Fields(input) => {
            let f = input.fields();
            let metrics = f.objects("metrics")?.iter().map(metric).collect::<Result<_>>()?;
            log(&tracking, &f, Batch { metrics, params: f.pairs("params")?, tags: f.pairs("tags")? }).await
        }
    }
}

/// A batch as clients send it. What is otherwise in any way, and may be right all the same, is read field by field.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlainBatch {
    run_id: Named,
    #[serde(default)]
    metrics: Vec<Object<PlainMetric>>,
    #[serde(default)]
    params: Vec<Object<PlainPair>>,
    #[serde(default)]
    tags: Vec<Object<PlainPair>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlainMetric {
    /// Where it comes alone.
    run_id: Option<Named>,
    run_uuid: Option<Named>,
    key: Named,
    value: f64,
    timestamp: i64,
    #[serde(default)]
    step: i64,
    model_id: Option<Named>,
    dataset_name: Option<String>,
    dataset_digest: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainPair {
    key: Named,
    #[serde(default)]
    value: String,
}

/// A text that says something.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Named(String);

impl TryFrom<String> for Named {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Named, &'static str> {
        if text.is_empty() { Err("it is empty") } else { Ok(Named(text)) }
    }
}

impl From<PlainMetric> for Metric {
    fn from(plain: PlainMetric) -> Metric {
        Metric {
            key: plain.key.0,
            value: plain.value,
            timestamp: plain.timestamp,
            step: plain.step,
            model_id: plain.model_id.map(|id| id.0),
            dataset: (plain.dataset_name.unwrap_or_default(), plain.dataset_digest.unwrap_or_default()),
        }
    }
}

/// A model that a client of MLflow 2 has put beside its run: what of its description is kept with the run.
pub async fn log_model(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let text = f.need_text("model_json")?;
    let Ok(Value::Object(mut model)) = within("model_json", text) else {
        return Err(Error::invalid(format!("Malformed model info. \n {text} \n is not a valid JSON.")).into());
    };
    let missing: Vec<&str> = MODEL.into_iter().filter(|name| !model.contains_key(*name)).collect();
    if !missing.is_empty() {
        return Err(Error::invalid(format!("Model json is missing mandatory fields: {}", missing.join(", "))).into());
    }
    model.retain(|name, _| MODEL.contains(&name.as_str()) || name == "model_uuid");
    for flavor in model.get_mut("flavors").and_then(Value::as_object_mut).into_iter().flat_map(|flavors| flavors.values_mut()) {
        flavor.as_object_mut().map(|flavor| flavor.remove("config"));
    }
    tracking.note_model(f.need_run()?.into(), Value::Object(model)).await?;
    done()
}

async fn log(tracking: &Tracking, f: &Fields<'_>, batch: Batch) -> Answer {
    tracking.log(f.need_run()?.into(), batch).await?;
    done()
}

fn metric(f: &Fields) -> Result<Metric> {
    Ok(Metric {
        key: f.need_text("key")?.into(),
        value: f.need_double("value")?,
        timestamp: f.need_integer("timestamp")?,
        step: f.integer("step")?.unwrap_or(0),
        model_id: f.text("model_id")?.filter(|id| !id.is_empty()).map(str::to_string),
        dataset: (f.text("dataset_name")?.unwrap_or_default().into(), f.text("dataset_digest")?.unwrap_or_default().into()),
    })
}

pub async fn delete_tag(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    tracking.delete_tag(f.need_text("run_id")?.into(), f.need_text("key")?.into()).await?;
    done()
}

pub async fn log_inputs(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let read = |f: &Fields| {
        let d = f.need_object("dataset")?;
        let dataset = Dataset {
            name: d.need_text("name")?.into(),
            digest: d.need_text("digest")?.into(),
            source_type: d.need_text("source_type")?.into(),
            source: d.need_text("source")?.into(),
            schema: d.text("schema")?.map(str::to_string),
            profile: d.text("profile")?.map(str::to_string),
        };
        Ok(DatasetInput { tags: f.pairs("tags")?, dataset })
    };
    let inputs = f.objects("datasets")?.iter().map(read).collect::<Result<_>>()?;
    let run = f.need_text("run_id")?;
    let models = f.objects("models")?.iter().map(|m| model(m, false)).collect::<Result<_>>()?;
    tracking.log_inputs(run.into(), inputs).await?;
    tracking.log_models(run.into(), models).await?;
    done()
}

pub async fn outputs(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let models = f.objects("models")?.iter().map(|m| model(m, true)).collect::<Result<_>>()?;
    tracking.log_models(f.need_text("run_id")?.into(), models).await?;
    done()
}

fn model(f: &Fields, is_output: bool) -> Result<RunModel> {
    Ok(RunModel { model_id: f.need_text("model_id")?.into(), step: f.integer("step")?.unwrap_or(0), is_output })
}

pub async fn history(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let limit = f.integer("max_results")?.map(|_| f.max_results(0, MOST_POINTS)).transpose()?;
    let page = tracking.metric_history(f.need_run()?, f.need_text("metric_key")?, limit, f.text("page_token")?).await?;
    Ok(json(&Points { metrics: page.items.iter().map(MetricJson::from).collect(), next_page_token: page.next }))
}

/// The history of a metric in several runs.
pub async fn history_bulk(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let (runs, key) = (several(&f, "run_id")?, f.need_text("metric_key")?);
    let most = f.max_results(MOST_POINTS as usize, MOST_POINTS)?;
    let mut points = Vec::new();
    for run in runs {
        let page = tracking.metric_history(run, key, Some((most - points.len()).max(1)), None).await?;
        points.extend(page.items.into_iter().map(|m| (run.to_string(), m)));
        points.truncate(most);
    }
    Ok(json(&PointsOfRuns { metrics: points.iter().map(PointOfRun::from).collect() }))
}

/// The history of a metric in several runs, thinned out.
pub async fn history_bulk_interval(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let (runs, key) = (several(&f, "run_ids")?, f.need_text("metric_key")?);
    let steps = (f.integer("start_step")?.unwrap_or(i64::MIN), f.integer("end_step")?.unwrap_or(i64::MAX));
    if steps.0 > steps.1 {
        return Err(Error::invalid(format!(
            "end_step must be at least start_step. Found start_step={} and end_step={}.",
            steps.0, steps.1
        ))
        .into());
    }
    let most = f.max_results(MOST_STEPS as usize, MOST_STEPS)?;
    let points = tracking.metric_samples(&runs, key, steps, most).await?;
    Ok(json(&PointsOfRuns { metrics: points.iter().map(PointOfRun::from).collect() }))
}

fn several<'a>(f: &Fields<'a>, name: &str) -> Result<Vec<&'a str>> {
    let runs = f.texts(name)?;
    match runs.len() {
        0 => Err(f.missing(name)),
        1..=MOST_RUNS => Ok(runs),
        n => Err(Error::invalid(format!("'{name}' names {n} runs, {MOST_RUNS} are the most"))),
    }
}
