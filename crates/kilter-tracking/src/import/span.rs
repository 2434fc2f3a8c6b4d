//! A span as MLflow stores it, as JSON, in each of the forms that it has had.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use serde_json::{Map, Value};

use super::json;
use crate::otel::{Any, AnyValue, Event, KeyValue, Link, Span, SpanStatus};

/// `TracesData` of OpenTelemetry, in which MLflow archives the spans of a trace.
#[derive(Clone, PartialEq, Message)]
struct Archive {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<OfResource>,
}

#[derive(Clone, PartialEq, Message)]
struct OfResource {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<OfScope>,
}

#[derive(Clone, PartialEq, Message)]
struct OfScope {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

/// None for what is no span.
pub(super) fn read(text: &str) -> Option<Span> {
    of_json(&json::read(text)?)
}

/// All spans of a file that MLflow kept beside its database: none where one is no span.
pub(super) fn read_file(text: &str) -> Option<Vec<Span>> {
    json::read(text)?["spans"].as_array()?.iter().map(of_json).collect()
}

/// All spans of a file in which MLflow archived a trace.
pub(super) fn read_archive(bytes: &[u8]) -> Option<Vec<Span>> {
    let resources = Archive::decode(bytes).ok()?.resources;
    Some(resources.into_iter().flat_map(|of| of.scopes).flat_map(|of| of.spans).collect())
}

fn of_json(json: &Value) -> Option<Span> {
    let context = json.get("context");
    let trace_id = context.map_or(&json["trace_id"], |context| &context["trace_id"]);
    let span_id = context.map_or(&json["span_id"], |context| &context["span_id"]);
    let parent = if context.is_some() { &json["parent_id"] } else { &json["parent_span_id"] };
    let nanos = |name: &str| json.get(name).and_then(whole).unwrap_or_default();
    let (start, end, event_time) = if context.is_some() {
        ("start_time", "end_time", "timestamp")
    } else {
        ("start_time_unix_nano", "end_time_unix_nano", "time_unix_nano")
    };
    let (code, message) = match json.get("status") {
        Some(status) => (status["code"].as_str(), status["message"].as_str()),
        None => (json["status_code"].as_str(), json["status_message"].as_str()),
    };
    let code = match code.unwrap_or_default().trim_start_matches("STATUS_CODE_") {
        "OK" => 1,
        "ERROR" => 2,
        _ => 0,
    };
    let list = |name: &str| json[name].as_array().map_or(&[][..], Vec::as_slice);
    let event = |event: &Value| Event {
        time_unix_nano: event.get(event_time).and_then(whole).unwrap_or_default(),
        name: event["name"].as_str().unwrap_or_default().into(),
        attributes: attributes(event["attributes"].as_object(), any),
    };
    let link = |link: &Value| {
        let trace_id = id(link["trace_id"].as_str()?, 16)?;
        Some(Link { trace_id, span_id: id(link["span_id"].as_str()?, 8)?, attributes: attributes(link["attributes"].as_object(), any) })
    };
    Some(Span {
        trace_id: id(trace_id.as_str()?, 16)?,
        span_id: id(span_id.as_str()?, 8)?,
        parent_span_id: parent.as_str().filter(|id| !id.is_empty()).map_or(Some(Vec::new()), |parent| id(parent, 8))?,
        name: json["name"].as_str().unwrap_or_default().into(),
        start_time_unix_nano: nanos(start),
        end_time_unix_nano: nanos(end),
        attributes: attributes(json["attributes"].as_object(), written),
        events: list("events").iter().map(event).collect(),
        links: list("links").iter().filter_map(link).collect(),
        status: Some(SpanStatus { message: message.unwrap_or_default().into(), code }),
        ..Span::default()
    })
}

fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// An id of so many bytes, in base64 or hexadecimal digits.
fn id(text: &str, bytes: usize) -> Option<Vec<u8>> {
    let digits = text.trim_start_matches("tr-").trim_start_matches("0x");
    if digits.len() == bytes * 2 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return (0..bytes).map(|at| u8::from_str_radix(&digits[at * 2..at * 2 + 2], 16).ok()).collect();
    }
    STANDARD.decode(text).ok().filter(|id| id.len() == bytes)
}

fn attributes(map: Option<&Map<String, Value>>, value: fn(&Value) -> AnyValue) -> Vec<KeyValue> {
    map.into_iter().flatten().map(|(key, of)| KeyValue { key: key.clone(), value: Some(value(of)) }).collect()
}

/// An attribute of a span is JSON within a text; one that is not was set by another program.
fn written(value: &Value) -> AnyValue {
    let json = value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    any(json.as_ref().unwrap_or(value))
}

fn any(json: &Value) -> AnyValue {
    AnyValue::of_json(json).unwrap_or_else(|| AnyValue { value: Some(Any::Text(json.to_string())) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_span_is_the_same_span() {
        let forms = [
            r#"{"trace_id": "AAAAAAAAAAAAAAAAAAAAAQ==", "span_id": "AAAAAAAAAAI=", "parent_span_id": "AAAAAAAAAAM=", "name": "a", "start_time_unix_nano": 5,
                "end_time_unix_nano": "9", "status": {"code": "STATUS_CODE_ERROR", "message": "no"}, "attributes": {"k": "{\"q\": [1, \"2\"]}", "t": "plain"},
                "events": [{"name": "e", "time_unix_nano": 6, "attributes": {"n": 1}}], "links": []}"#,
            r#"{"trace_id": "tr-00000000000000000000000000000001", "span_id": "0000000000000002", "parent_span_id": "0000000000000003", "name": "a",
                "start_time_unix_nano": 5, "end_time_unix_nano": 9, "status": {"code": "ERROR", "message": "no"},
                "attributes": {"k": "{\"q\": [1, \"2\"]}", "t": "plain"}, "events": [{"name": "e", "time_unix_nano": 6, "attributes": {"n": 1}}]}"#,
            r#"{"name": "a", "context": {"span_id": "0x0000000000000002", "trace_id": "0x00000000000000000000000000000001"}, "parent_id": "0x0000000000000003",
                "start_time": 5, "end_time": 9, "status_code": "ERROR", "status_message": "no", "attributes": {"k": "{\"q\": [1, \"2\"]}", "t": "plain"},
                "events": [{"name": "e", "timestamp": 6, "attributes": {"n": 1}}]}"#,
        ];
        let spans: Vec<Span> = forms.iter().map(|form| read(form).unwrap()).collect();
        assert_eq!((&spans[0], &spans[0]), (&spans[1], &spans[2]));
        let span = &spans[0];
        assert_eq!((span.span_id[7], span.parent_span_id[7], span.start_time_unix_nano, span.end_time_unix_nano), (2, 3, 5, 9));
        let values: Vec<String> = span.attributes.iter().map(|a| a.value.as_ref().unwrap().to_json()).collect();
        assert_eq!(values, [r#"{"q": [1, "2"]}"#, r#""plain""#]);
        for bad in ["", "[]", "{}", r#"{"trace_id": "x", "span_id": "AAAAAAAAAAI="}"#] {
            assert!(read(bad).is_none(), "{bad}");
        }
    }
}
