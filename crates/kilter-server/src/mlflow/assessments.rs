//! What people and programs say of traces.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use kilter_tracking::{Assessment, AssessmentChange, AssessmentKind, Error, Result, Tracking};
use serde::Serialize;
use serde_json::{Value, json};

use super::answer::{Answer, done, json as answer};
use super::input::{Fields, Input, within};
use super::moment::{self, Time};

#[derive(Serialize)]
struct One<'a> {
    assessment: AssessmentJson<'a>,
}

#[derive(Serialize)]
pub struct AssessmentJson<'a> {
    assessment_id: &'a str,
    assessment_name: &'a str,
    trace_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    span_id: Option<&'a str>,
    source: Source<'a>,
    create_time: Time,
    last_update_time: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    feedback: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expectation: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issue: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rationale: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    overrides: Option<&'a str>,
    valid: bool,
}

#[derive(Serialize)]
struct Source<'a> {
    source_type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    source_id: &'a str,
}

impl<'a> From<&'a Assessment> for AssessmentJson<'a> {
    fn from(a: &'a Assessment) -> Self {
        let of = |kind, value: fn(&Assessment) -> Value| (a.kind == kind).then(|| value(a));
        AssessmentJson {
            assessment_id: &a.id,
            assessment_name: &a.name,
            trace_id: &a.trace,
            span_id: a.span_id.as_deref(),
            source: Source { source_type: &a.source_type, source_id: &a.source_id },
            create_time: Time(a.created),
            last_update_time: Time(a.updated),
            feedback: of(AssessmentKind::Feedback, feedback),
            expectation: of(AssessmentKind::Expectation, expectation),
            issue: of(AssessmentKind::Issue, |a| json!({ "issue_name": a.value })),
            rationale: a.rationale.as_deref(),
            metadata: &a.metadata,
            overrides: a.overrides.as_deref(),
            valid: a.is_valid,
        }
    }
}

fn feedback(a: &Assessment) -> Value {
    match &a.error {
        None => json!({ "value": a.value }),
        Some(error) => json!({ "value": a.value, "error": error }),
    }
}

/// Lists and objects go as text: protobuf's own values know no whole numbers.
fn expectation(a: &Assessment) -> Value {
    if !a.value.is_array() && !a.value.is_object() {
        return json!({ "value": a.value });
    }
    let text = kilter_tracking::otel::AnyValue::of_json(&a.value).map_or_else(|| a.value.to_string(), |value| value.to_json());
    json!({ "serialized_value": {"serialization_format": "JSON_FORMAT", "value": text} })
}

/// An assessment of the trace `trace_id`, which may leave the id out.
pub fn read(f: &Fields, trace_id: &str) -> Result<Assessment> {
    let owned = |name| f.text(name).map(|text| text.filter(|t| !t.is_empty()).map(str::to_string));
    let (kind, value, error) = value(f)?.ok_or_else(|| Error::invalid("Unknown assessment type: None"))?;
    let now = moment::now();
    let created = moment::time(f, "create_time")?.unwrap_or(now);
    let (source_type, source_id) = match f.has("source")? {
        false => ("SOURCE_TYPE_UNSPECIFIED", ""),
        true => {
            let source = f.need_object("source")?;
            (source.text("source_type")?.unwrap_or("SOURCE_TYPE_UNSPECIFIED"), source.text("source_id")?.unwrap_or_default())
        }
    };
    if !["SOURCE_TYPE_UNSPECIFIED", "HUMAN", "LLM_JUDGE", "AI_JUDGE", "CODE"].contains(&source_type) {
        return Err(Error::invalid(format!("Invalid assessment source type: {source_type}")));
    }
    Ok(Assessment {
        id: owned("assessment_id")?.unwrap_or_default(),
        trace: trace_id.into(),
        kind,
        name: f.need_text("assessment_name")?.into(),
        value,
        error,
        source_type: source_type.into(),
        source_id: source_id.into(),
        span_id: owned("span_id")?,
        rationale: owned("rationale")?,
        metadata: metadata(f)?,
        overrides: owned("overrides")?,
        is_valid: !f.has("valid")? || f.need_bool("valid")?,
        created,
        updated: moment::time(f, "last_update_time")?.unwrap_or(created),
    })
}

fn metadata(f: &Fields) -> Result<BTreeMap<String, String>> {
    Ok(f.map("metadata")?.into_iter().map(|p| (p.key, p.value)).collect())
}

/// Of which kind it is, the value, and why there is none.
fn value(f: &Fields) -> Result<Option<(AssessmentKind, Value, Option<Value>)>> {
    if f.has("feedback")? {
        let feedback = f.need_object("feedback")?;
        let error = feedback.any("error")?.filter(|e| e.is_object()).cloned();
        return Ok(Some((AssessmentKind::Feedback, feedback.any("value")?.cloned().unwrap_or(Value::Null), error)));
    }
    if f.has("expectation")? {
        let expectation = f.need_object("expectation")?;
        if !expectation.has("serialized_value")? {
            return Ok(Some((AssessmentKind::Expectation, expectation.any("value")?.cloned().unwrap_or(Value::Null), None)));
        }
        let serialized = expectation.need_object("serialized_value")?;
        let format = serialized.text("serialization_format")?.unwrap_or_default();
        if format != "JSON_FORMAT" {
            return Err(Error::invalid(format!("Unknown serialization format: {format}. Only JSON_FORMAT is supported.")));
        }
        let value = within("serialized_value", serialized.any_text("value")?)?;
        return Ok(Some((AssessmentKind::Expectation, value, None)));
    }
    if f.has("issue")? {
        let issue = f.need_object("issue")?.need_text("issue_name")?;
        return Ok(Some((AssessmentKind::Issue, Value::String(issue.into()), None)));
    }
    Ok(None)
}

fn one(assessment: &Assessment) -> Answer {
    Ok(answer(&One { assessment: assessment.into() }))
}

pub async fn create(State(tracking): State<Tracking>, Path(trace_id): Path<String>, input: Input) -> Answer {
    let f = input.fields();
    let new = read(&f.need_object("assessment")?, &trace_id)?;
    one(&tracking.create_assessment(new).await?)
}

pub async fn get(State(tracking): State<Tracking>, Path((trace_id, id)): Path<(String, String)>) -> Answer {
    one(&tracking.assessment(&trace_id, &id).await?)
}

/// What the mask names changes. A field mask is one text, in camelCase where it is written by protobuf.
pub async fn update(State(tracking): State<Tracking>, Path((trace_id, id)): Path<(String, String)>, input: Input) -> Answer {
    let f = input.fields();
    let a = f.need_object("assessment")?;
    let mut change = AssessmentChange::default();
    for path in f.need_text("update_mask")?.split(',') {
        match path {
            "assessment_name" | "assessmentName" => change.name = a.text("assessment_name")?.map(str::to_string),
            "feedback" | "expectation" => change.value = value(&a)?,
            "rationale" => change.rationale = a.text("rationale")?.map(str::to_string),
            "metadata" => change.metadata = metadata(&a)?,
            _ => {}
        }
    }
    one(&tracking.update_assessment(&trace_id, &id, change).await?)
}

pub async fn delete(State(tracking): State<Tracking>, Path((trace_id, id)): Path<(String, String)>) -> Answer {
    tracking.delete_assessment(trace_id, id).await?;
    done()
}
