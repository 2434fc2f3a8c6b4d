//! Traces as clients of MLflow 2 keep them: begun and ended by a request each, their spans in a file beside the trace.

use axum::extract::{Path, State};
use kilter_tracking::{Pair, Query, TraceInfo, TraceState, Tracking};
use serde::Serialize;

use super::answer::{Answer, json, large};
use super::input::{Input, experiment_id};
use super::moment;
use super::scope::Readable;
use super::traces::{Found, MOST, PAGE, ids};

#[derive(Serialize)]
struct One<'a> {
    trace_info: InfoJson<'a>,
}

#[derive(Serialize)]
struct InfoJson<'a> {
    request_id: &'a str,
    experiment_id: String,
    timestamp_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_time_ms: Option<i64>,
    status: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    request_metadata: Vec<PairJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<PairJson<'a>>,
}

#[derive(Serialize)]
struct PairJson<'a> {
    key: &'a str,
    value: &'a str,
}

impl<'a> From<&'a TraceInfo> for InfoJson<'a> {
    fn from(info: &'a TraceInfo) -> Self {
        let pairs = |pairs: &'a [Pair]| pairs.iter().map(|p| PairJson { key: &p.key, value: &p.value }).collect();
        InfoJson {
            request_id: &info.id,
            experiment_id: info.experiment.to_string(),
            timestamp_ms: info.start_time,
            execution_time_ms: info.duration,
            status: match info.state {
                TraceState::Unspecified => "TRACE_STATUS_UNSPECIFIED",
                state => state.as_str(),
            },
            request_metadata: pairs(&info.metadata),
            tags: pairs(&info.tags),
        }
    }
}

fn one(info: &TraceInfo) -> Answer {
    Ok(json(&One { trace_info: info.into() }))
}

pub async fn start(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let time = f.integer("timestamp_ms")?.unwrap_or_else(moment::now);
    one(&tracking.begin_trace(f.need_experiment("experiment_id")?, time, f.pairs("request_metadata")?, f.pairs("tags")?).await?)
}

pub async fn end(State(tracking): State<Tracking>, Path(id): Path<String>, input: Input) -> Answer {
    let f = input.fields();
    let time = f.integer("timestamp_ms")?.unwrap_or_else(moment::now);
    let state = TraceState::read(f.text("status")?.unwrap_or_default());
    one(&tracking.end_trace(id, time, state, f.pairs("request_metadata")?, f.pairs("tags")?).await?)
}

pub async fn get_info(State(tracking): State<Tracking>, Path(id): Path<String>) -> Answer {
    one(&tracking.trace_info(&id).await?)
}

pub async fn search(State(tracking): State<Tracking>, readable: Readable, input: Input) -> Answer {
    let f = input.fields();
    if !f.has("experiment_ids")? {
        return Err(f.missing("experiment_ids").into());
    }
    let experiments = f.texts("experiment_ids")?.into_iter().map(experiment_id).collect::<Result<Vec<_>, _>>()?;
    let query = Query {
        filter: f.text("filter")?.unwrap_or_default().into(),
        order_by: ids(&f, "order_by")?,
        max_results: f.max_results(PAGE, MOST)?,
        page_token: f.text("page_token")?.filter(|token| !token.is_empty()).map(str::to_string),
        ..Query::default()
    };
    let Some(experiments) = readable.experiments(experiments).await? else {
        return Ok(json(&Found::<InfoJson> { traces: Vec::new(), next_page_token: None }));
    };
    let page = tracking.search_traces(&experiments, &query).await?;
    large(move || json(&Found { traces: page.items.iter().map(InfoJson::from).collect(), next_page_token: page.next })).await
}
