//! Runs and what they log.

use axum::extract::State;
use kilter_tracking::{Batch, Dataset, DatasetInput, Metric, NewRun, Pair, Query, Result, RunChange, Stage, Status, Tracking};
use serde::Serialize;

use super::answer::{Answer, MetricJson, RunInfoJson, RunJson, done, json};
use super::input::{Fields, Input, experiment_id};

const MOST: i64 = 50_000;
const MOST_POINTS: i64 = 25_000;

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

pub async fn create(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let new = NewRun {
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

pub async fn search(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let experiments = f.texts("experiment_ids")?.into_iter().map(experiment_id).collect::<Result<Vec<_>>>()?;
    let query = Query {
        filter: f.text("filter")?.unwrap_or_default().into(),
        order_by: f.texts("order_by")?.into_iter().map(str::to_string).collect(),
        view: f.view("run_view_type")?,
        max_results: f.max_results(1000, MOST)?,
        page_token: f.text("page_token")?.map(str::to_string),
    };
    let page = tracking.search_runs(&experiments, &query).await?;
    Ok(json(&Many { runs: page.items.iter().map(RunJson::from).collect(), next_page_token: page.next }))
}

pub async fn log_metric(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    log(&tracking, &f, Batch { metrics: vec![metric(&f)?], ..Batch::default() }).await
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

pub async fn log_batch(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let metrics = f.objects("metrics")?.iter().map(metric).collect::<Result<_>>()?;
    log(&tracking, &f, Batch { metrics, params: f.pairs("params")?, tags: f.pairs("tags")? }).await
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
    tracking.log_inputs(f.need_text("run_id")?.into(), inputs).await?;
    done()
}

pub async fn history(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let limit = f.integer("max_results")?.map(|_| f.max_results(0, MOST_POINTS)).transpose()?;
    let page = tracking.metric_history(f.need_run()?, f.need_text("metric_key")?, limit, f.text("page_token")?).await?;
    Ok(json(&Points { metrics: page.items.iter().map(MetricJson::from).collect(), next_page_token: page.next }))
}
