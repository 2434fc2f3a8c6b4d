//! Traces and what is known of them.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use kilter_tracking::otel::{Any, AnyValue, KeyValue, Span};
use kilter_tracking::{Error, OldTraces, Pair, Query, Result, Trace, TraceInfo, TraceState, Tracking};
use serde::{Serialize, Serializer};

use super::answer::{Answer, done, double, held, json, large};
use super::assessments::AssessmentJson;
use super::input::{Fields, Input, experiment_id};
use super::moment::{self, Span as Lasts, Time};
use super::scope::Readable;

pub const PAGE: usize = 100;
pub const MOST: i64 = 500;

#[derive(Serialize)]
struct One<'a> {
    trace: TraceJson<'a>,
}

#[derive(Serialize)]
struct TraceJson<'a> {
    trace_info: InfoJson<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    spans: Vec<SpanJson<'a>>,
}

#[derive(Serialize)]
struct Many<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    traces: Vec<TraceJson<'a>>,
}

#[derive(Serialize)]
struct Infos<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    trace_infos: Vec<InfoJson<'a>>,
}

/// A page of a search, of traces in either form.
#[derive(Serialize)]
pub struct Found<T> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub traces: Vec<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

#[derive(Serialize)]
struct Deleted {
    traces_deleted: u64,
}

#[derive(Serialize)]
struct InfoJson<'a> {
    trace_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_request_id: Option<&'a str>,
    trace_location: Location,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_preview: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_preview: Option<&'a str>,
    request_time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_duration: Option<Lasts>,
    state: &'static str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    trace_metadata: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    assessments: Vec<AssessmentJson<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
struct Location {
    r#type: &'static str,
    mlflow_experiment: OfExperiment,
}

#[derive(Serialize)]
struct OfExperiment {
    experiment_id: String,
}

impl<'a> From<&'a TraceInfo> for InfoJson<'a> {
    fn from(info: &'a TraceInfo) -> Self {
        let map = |pairs: &'a [Pair]| pairs.iter().map(|p| (p.key.as_str(), p.value.as_str())).collect();
        InfoJson {
            trace_id: &info.id,
            client_request_id: info.client_request_id.as_deref(),
            trace_location: Location {
                r#type: "MLFLOW_EXPERIMENT",
                mlflow_experiment: OfExperiment { experiment_id: info.experiment.to_string() },
            },
            request_preview: info.request_preview.as_deref(),
            response_preview: info.response_preview.as_deref(),
            request_time: Time(info.start_time),
            execution_duration: info.duration.map(Lasts),
            state: info.state.as_str(),
            trace_metadata: map(&info.metadata),
            assessments: info.assessments.iter().map(AssessmentJson::from).collect(),
            tags: map(&info.tags),
        }
    }
}

impl<'a> From<&'a Trace> for TraceJson<'a> {
    fn from(trace: &'a Trace) -> Self {
        TraceJson { trace_info: (&trace.info).into(), spans: trace.spans.iter().map(SpanJson::from).collect() }
    }
}

#[derive(Serialize)]
struct SpanJson<'a> {
    trace_id: Base64<'a>,
    span_id: Base64<'a>,
    #[serde(skip_serializing_if = "Base64::is_empty")]
    parent_span_id: Base64<'a>,
    name: &'a str,
    start_time_unix_nano: u64,
    #[serde(skip_serializing_if = "is_zero")]
    end_time_unix_nano: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attributes: Vec<KeyValueJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<EventJson<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    links: Vec<LinkJson<'a>>,
    status: StatusJson<'a>,
}

#[derive(Serialize)]
struct EventJson<'a> {
    time_unix_nano: u64,
    name: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attributes: Vec<KeyValueJson<'a>>,
}

#[derive(Serialize)]
struct LinkJson<'a> {
    trace_id: Base64<'a>,
    span_id: Base64<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attributes: Vec<KeyValueJson<'a>>,
}

#[derive(Serialize)]
struct StatusJson<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    message: &'a str,
    code: &'static str,
}

#[derive(Serialize)]
struct KeyValueJson<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<AnyJson<'a>>,
}

/// A value under the name of its kind.
#[derive(Serialize)]
enum AnyJson<'a> {
    #[serde(rename = "string_value")]
    Text(&'a str),
    #[serde(rename = "bool_value")]
    Bool(bool),
    #[serde(rename = "int_value")]
    Int(i64),
    #[serde(rename = "double_value", serialize_with = "double")]
    Double(f64),
    #[serde(rename = "array_value")]
    Array(ListJson<Element<'a>>),
    #[serde(rename = "kvlist_value")]
    Members(ListJson<KeyValueJson<'a>>),
    #[serde(rename = "bytes_value")]
    Bytes(Base64<'a>),
}

#[derive(Serialize)]
struct ListJson<T> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    values: Vec<T>,
}

/// A member of a list, which may have no value.
struct Element<'a>(Option<AnyJson<'a>>);

impl Serialize for Element<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(value) => value.serialize(s),
            None => super::answer::Nothing {}.serialize(s),
        }
    }
}

struct Base64<'a>(&'a [u8]);

impl Base64<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&base64::display::Base64Display::new(self.0, &base64::engine::general_purpose::STANDARD))
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn any(value: &AnyValue) -> Option<AnyJson<'_>> {
    Some(match value.value.as_ref()? {
        Any::Text(text) => AnyJson::Text(text),
        Any::Bool(flag) => AnyJson::Bool(*flag),
        Any::Int(n) => AnyJson::Int(*n),
        Any::Double(x) => AnyJson::Double(*x),
        Any::Array(list) => AnyJson::Array(ListJson { values: list.values.iter().map(|value| Element(any(value))).collect() }),
        Any::Members(list) => AnyJson::Members(ListJson { values: members(&list.values) }),
        Any::Bytes(bytes) => AnyJson::Bytes(Base64(bytes)),
    })
}

fn members(list: &[KeyValue]) -> Vec<KeyValueJson<'_>> {
    list.iter().map(|a| KeyValueJson { key: &a.key, value: a.value.as_ref().and_then(any) }).collect()
}

impl<'a> From<&'a Span> for SpanJson<'a> {
    fn from(span: &'a Span) -> Self {
        let (message, code) = span.status.as_ref().map_or(("", 0), |s| (s.message.as_str(), s.code));
        let code = match code {
            1 => "STATUS_CODE_OK",
            2 => "STATUS_CODE_ERROR",
            _ => "STATUS_CODE_UNSET",
        };
        let event = |e: &'a kilter_tracking::otel::Event| EventJson {
            time_unix_nano: e.time_unix_nano,
            name: &e.name,
            attributes: members(&e.attributes),
        };
        let link = |l: &'a kilter_tracking::otel::Link| LinkJson {
            trace_id: Base64(&l.trace_id),
            span_id: Base64(&l.span_id),
            attributes: members(&l.attributes),
        };
        SpanJson {
            trace_id: Base64(&span.trace_id),
            span_id: Base64(&span.span_id),
            parent_span_id: Base64(&span.parent_span_id),
            name: &span.name,
            start_time_unix_nano: span.start_time_unix_nano,
            end_time_unix_nano: span.end_time_unix_nano,
            attributes: members(&span.attributes),
            events: span.events.iter().map(event).collect(),
            links: span.links.iter().map(link).collect(),
            status: StatusJson { message, code },
        }
    }
}

fn info(info: &TraceInfo) -> Answer {
    Ok(json(&One { trace: TraceJson { trace_info: info.into(), spans: Vec::new() } }))
}

pub async fn start(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let f = f.need_object("trace")?;
    let f = f.need_object("trace_info")?;
    let location = f.need_object("trace_location")?;
    let experiment = location.need_object("mlflow_experiment")?.need_experiment("experiment_id")?;
    let id = f.need_text("trace_id")?;
    let owned = |name| f.text(name).map(|text| text.map(str::to_string));
    let assessments = f.objects("assessments")?;
    let new = TraceInfo {
        id: id.into(),
        experiment,
        state: TraceState::read(f.text("state")?.unwrap_or_default()),
        start_time: moment::time(&f, "request_time")?.unwrap_or_else(moment::now),
        duration: moment::duration(&f, "execution_duration")?,
        client_request_id: owned("client_request_id")?,
        request_preview: owned("request_preview")?,
        response_preview: owned("response_preview")?,
        tags: f.map("tags")?,
        metadata: f.map("trace_metadata")?,
        assessments: assessments.iter().map(|a| super::assessments::read(a, id)).collect::<Result<_>>()?,
    };
    info(&tracking.start_trace(new).await?)
}

pub async fn get_info(State(tracking): State<Tracking>, Path(id): Path<String>) -> Answer {
    info(&tracking.trace_info(&id).await?)
}

pub async fn get(State(tracking): State<Tracking>, input: Input) -> Answer {
    let place = tracking.place().await?;
    let trace = tracking.trace(input.fields().need_text("trace_id")?, &place).await?;
    large(move || held(place, json(&One { trace: (&trace).into() }))).await
}

pub async fn batch_get(State(tracking): State<Tracking>, readable: Readable, input: Input) -> Answer {
    let place = tracking.place().await?;
    let ids = readable.traces(ids(&input.fields(), "trace_ids")?).await?;
    let traces = tracking.traces(&ids, &place).await?;
    large(move || held(place, json(&Many { traces: traces.iter().map(TraceJson::from).collect() }))).await
}

pub async fn batch_get_infos(State(tracking): State<Tracking>, readable: Readable, input: Input) -> Answer {
    let ids = readable.traces(ids(&input.fields(), "trace_ids")?).await?;
    let infos = tracking.trace_infos(&ids).await?;
    large(move || json(&Infos { trace_infos: infos.iter().map(InfoJson::from).collect() })).await
}

pub fn ids(f: &Fields, name: &str) -> Result<Vec<String>> {
    Ok(f.texts(name)?.into_iter().map(str::to_string).collect())
}

pub async fn search(State(tracking): State<Tracking>, readable: Readable, input: Input) -> Answer {
    let f = input.fields();
    if !f.has("locations")? {
        return Err(f.missing("locations").into());
    }
    let mut experiments = Vec::new();
    for location in f.objects("locations")? {
        if location.has("mlflow_experiment")? {
            experiments.push(experiment_id(location.need_object("mlflow_experiment")?.need_text("experiment_id")?)?);
        }
    }
    let query = Query {
        filter: f.text("filter")?.unwrap_or_default().into(),
        order_by: ids(&f, "order_by")?,
        max_results: f.max_results(PAGE, MOST)?,
        page_token: f.text("page_token")?.map(str::to_string),
        ..Query::default()
    };
    let Some(experiments) = readable.experiments(experiments).await? else {
        return Ok(json(&Found::<InfoJson> { traces: Vec::new(), next_page_token: None }));
    };
    let page = tracking.search_traces(&experiments, &query).await?;
    large(move || json(&Found { traces: page.items.iter().map(InfoJson::from).collect(), next_page_token: page.next })).await
}

pub async fn set_tag(State(tracking): State<Tracking>, Path(id): Path<String>, input: Input) -> Answer {
    let f = input.fields();
    let tag = Pair { key: f.need_text("key")?.into(), value: f.text("value")?.unwrap_or_default().into() };
    tracking.set_trace_tag(id, tag).await?;
    done()
}

pub async fn delete_tag(State(tracking): State<Tracking>, Path(id): Path<String>, input: Input) -> Answer {
    tracking.delete_trace_tag(id, input.fields().need_text("key")?.into()).await?;
    done()
}

pub async fn delete(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let experiment = f.need_experiment("experiment_id")?;
    let named = ids(&f, "request_ids")?;
    let (before, most) = (f.integer("max_timestamp_millis")?, f.integer("max_traces")?);
    let which = match (before, named.is_empty()) {
        (None, true) => return Err(Error::invalid("Either `max_timestamp_millis` or `trace_ids` must be specified.").into()),
        (Some(_), false) => return Err(Error::invalid("Only one of `max_timestamp_millis` and `trace_ids` can be specified.").into()),
        (None, false) if most.is_some() => {
            return Err(Error::invalid("`max_traces` can't be specified if `trace_ids` is specified.").into());
        }
        (None, false) => OldTraces::Named(named),
        (Some(_), true) if most.is_some_and(|n| n < 1) => {
            return Err(Error::invalid("`max_traces` must be a positive integer.").into());
        }
        (Some(time), true) => OldTraces::Before(time, most),
    };
    Ok(json(&Deleted { traces_deleted: tracking.delete_traces(experiment, which).await? }))
}

pub async fn link_to_run(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    tracking.link_traces_to_run(ids(&f, "trace_ids")?, f.need_run()?.into()).await?;
    done()
}

pub async fn link_prompts(State(tracking): State<Tracking>, input: Input) -> Answer {
    let f = input.fields();
    let prompt = |p: &Fields| Ok(format!("{}/{}", p.need_text("name")?, p.need_text("version")?));
    let prompts = f.objects("prompt_versions")?.iter().map(prompt).collect::<Result<_>>()?;
    tracking.link_prompts(f.need_text("trace_id")?.into(), prompts).await?;
    done()
}
