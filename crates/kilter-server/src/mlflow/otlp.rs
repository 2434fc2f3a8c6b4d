//! `POST /v1/traces`: spans by OpenTelemetry's protocol, as protobuf or as JSON, compressed or not. Refusals are FastAPI's, which answers this at MLflow's.

use std::io::Read;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use kilter_tracking::otel::{Any, AnyValue, ArrayValue, Event, KeyValue, KeyValueList, Link, Resource, Span, SpanStatus};
use kilter_tracking::{ErrorCode, Tracking};
use prost::Message;
use serde_json::{Map, Value, json};

use super::answer::Refusal;
use super::input::experiment_id;
use crate::input::read;
use crate::wire;

/// Bytes of one request at most, before and after they are decompressed.
const BODY: usize = 32 * 1024 * 1024;
/// Spans of one request at most.
const SPANS: usize = 20_000;
const EXPERIMENT: &str = "x-mlflow-experiment-id";
const RUN: &str = "x-mlflow-run-id";
const PROTOBUF: &str = "application/x-protobuf";

type Spans = Vec<(Span, Arc<[KeyValue]>)>;

pub async fn export(State(tracking): State<Tracking>, request: Request) -> Response {
    match take(&tracking, request).await {
        Ok(()) => {
            // An empty message is no bytes.
            let mut response = Response::new(axum::body::Body::empty());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
            response
        }
        Err(refusal) => *refusal,
    }
}

async fn take(tracking: &Tracking, request: Request) -> Result<(), Box<Response>> {
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim).filter(|v| !v.is_empty());
    let Some(experiment) = header(EXPERIMENT) else {
        let missing = json!([{"type": "missing", "loc": ["header", EXPERIMENT], "msg": "Field required", "input": null}]);
        return Err(refuse(StatusCode::UNPROCESSABLE_ENTITY, missing));
    };
    let sent = header(CONTENT_TYPE.as_str()).unwrap_or_default();
    let is_json = match sent.split(';').next().unwrap_or_default().trim() {
        PROTOBUF => false,
        "application/json" => true,
        _ => {
            let message = format!("Invalid Content-Type: {sent}. Expected: application/x-protobuf or application/json");
            return Err(bad(&message));
        }
    };
    let experiment = experiment_id(experiment).map_err(|e| Box::new(Refusal(e).into_response()))?;
    let body = read(&parts.headers, body, BODY, "send fewer spans at once").await.map_err(|e| Box::new(e.into_response()))?;
    let body = decompressed(&parts.headers, body)?;
    let spans = if is_json { of_json(&body) } else { of_protobuf(body) }.map_err(bad)?;
    if spans.is_empty() {
        return Ok(());
    }
    let logged = tracking.log_spans(experiment, spans, header(RUN).map(str::to_string)).await;
    logged.map(drop).map_err(|e| match e.code {
        // What a span lacks is said in this protocol's shape, all else in MLflow's.
        ErrorCode::InvalidParameterValue if e.message.starts_with("a span") => refuse(StatusCode::UNPROCESSABLE_ENTITY, json!(e.message)),
        _ => Box::new(Refusal(e).into_response()),
    })
}

fn refuse(status: StatusCode, detail: Value) -> Box<Response> {
    Box::new(wire::json(status, &json!({ "detail": detail })))
}

fn bad(message: &str) -> Box<Response> {
    refuse(StatusCode::BAD_REQUEST, json!(message))
}

fn decompressed(headers: &HeaderMap, body: Bytes) -> Result<Bytes, Box<Response>> {
    let Some(encoding) = headers.get(CONTENT_ENCODING) else { return Ok(body) };
    let encoding = encoding.to_str().unwrap_or_default().to_ascii_lowercase();
    let whole = |reader: &mut dyn Read| {
        let mut bytes = Vec::new();
        let done = reader.take(BODY as u64 + 1).read_to_end(&mut bytes);
        done.map(|_| bytes).map_err(|_| bad(&format!("Failed to decompress {encoding} payload")))
    };
    let bytes = match encoding.as_str() {
        "identity" | "" => return Ok(body),
        "gzip" => whole(&mut flate2::read::MultiGzDecoder::new(body.as_ref()))?,
        // By the standard with a head of zlib, and by some senders without.
        "deflate" => whole(&mut flate2::read::ZlibDecoder::new(body.as_ref()))
            .or_else(|_| whole(&mut flate2::read::DeflateDecoder::new(body.as_ref())))?,
        _ => return Err(bad(&format!("Unsupported Content-Encoding: {encoding}"))),
    };
    if bytes.len() > BODY {
        return Err(refuse(
            StatusCode::PAYLOAD_TOO_LARGE,
            json!(format!("the body is larger than {BODY} bytes; send fewer spans at once")),
        ));
    }
    Ok(bytes.into())
}

const MALFORMED: &str = "Invalid OpenTelemetry format";
const NOTHING: &str = "Invalid OpenTelemetry format - no spans found";
const TOO_MANY: &str = "more than 20000 spans at once";

// Each span is read on its own: two bytes on the wire can stand for a message of hundreds in memory, so their number is looked at first.
#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    resource_spans: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    scope_spans: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(bytes = "bytes", repeated, tag = "2")]
    spans: Vec<Bytes>,
}

fn of_protobuf(body: Bytes) -> Result<Spans, &'static str> {
    let export = Export::decode(body).map_err(|_| MALFORMED)?;
    if export.resource_spans.is_empty() {
        return Err(NOTHING);
    }
    let mut spans = Spans::new();
    for bytes in export.resource_spans {
        let of = ResourceSpans::decode(bytes).map_err(|_| MALFORMED)?;
        let resource: Arc<[KeyValue]> = of.resource.unwrap_or_default().attributes.into();
        for bytes in of.scope_spans {
            let scope = ScopeSpans::decode(bytes).map_err(|_| MALFORMED)?;
            if spans.len() + scope.spans.len() > SPANS {
                return Err(TOO_MANY);
            }
            for bytes in scope.spans {
                spans.push((Span::decode(bytes).map_err(|_| MALFORMED)?, Arc::clone(&resource)));
            }
        }
    }
    Ok(spans)
}

/// OpenTelemetry's JSON: ids are hexadecimal, and whole numbers of 64 bits may be texts.
fn of_json(body: &[u8]) -> Result<Spans, &'static str> {
    let Ok(Value::Object(export)) = serde_json::from_slice(body) else { return Err(MALFORMED) };
    let resources = list(&export, "resourceSpans")?;
    if resources.is_empty() {
        return Err(NOTHING);
    }
    let mut spans = Spans::new();
    for of in resources {
        let of = object(of)?;
        let resource: Arc<[KeyValue]> = match of.get("resource") {
            Some(Value::Object(resource)) => attributes(resource)?.into(),
            _ => Arc::default(),
        };
        for scope in list(of, "scopeSpans")? {
            let found = list(object(scope)?, "spans")?;
            if spans.len() + found.len() > SPANS {
                return Err(TOO_MANY);
            }
            for value in found {
                spans.push((span(object(value)?)?, Arc::clone(&resource)));
            }
        }
    }
    Ok(spans)
}

fn span(map: &Map<String, Value>) -> Result<Span, &'static str> {
    let event = |value: &Value| -> Result<Event, &'static str> {
        let map = object(value)?;
        Ok(Event { time_unix_nano: nanos(map, "timeUnixNano")?, name: text(map, "name")?, attributes: attributes(map)? })
    };
    let link = |value: &Value| -> Result<Link, &'static str> {
        let map = object(value)?;
        Ok(Link { trace_id: id(map, "traceId")?, span_id: id(map, "spanId")?, attributes: attributes(map)? })
    };
    let status = match map.get("status") {
        Some(Value::Object(status)) => {
            Some(SpanStatus { message: text(status, "message")?, code: code(status.get("code"), "STATUS_CODE_")? })
        }
        _ => None,
    };
    Ok(Span {
        trace_id: id(map, "traceId")?,
        span_id: id(map, "spanId")?,
        trace_state: text(map, "traceState")?,
        parent_span_id: id(map, "parentSpanId")?,
        name: text(map, "name")?,
        kind: code(map.get("kind"), "SPAN_KIND_")?,
        start_time_unix_nano: nanos(map, "startTimeUnixNano")?,
        end_time_unix_nano: nanos(map, "endTimeUnixNano")?,
        attributes: attributes(map)?,
        events: list(map, "events")?.iter().map(event).collect::<Result<_, _>>()?,
        links: list(map, "links")?.iter().map(link).collect::<Result<_, _>>()?,
        status,
    })
}

fn object(value: &Value) -> Result<&Map<String, Value>, &'static str> {
    value.as_object().ok_or(MALFORMED)
}

fn list<'a>(map: &'a Map<String, Value>, name: &str) -> Result<&'a [Value], &'static str> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(list)) => Ok(list),
        Some(_) => Err(MALFORMED),
    }
}

fn text(map: &Map<String, Value>, name: &str) -> Result<String, &'static str> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(MALFORMED),
    }
}

fn id(map: &Map<String, Value>, name: &str) -> Result<Vec<u8>, &'static str> {
    let digits = text(map, name)?;
    if digits.len() % 2 != 0 || !digits.is_ascii() {
        return Err(MALFORMED);
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| MALFORMED)).collect()
}

fn nanos(map: &Map<String, Value>, name: &str) -> Result<u64, &'static str> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(0),
        Some(Value::Number(n)) => n.as_u64().ok_or(MALFORMED),
        Some(Value::String(text)) => text.parse().map_err(|_| MALFORMED),
        Some(_) => Err(MALFORMED),
    }
}

/// An enumerator by its number or its name.
fn code(value: Option<&Value>, prefix: &str) -> Result<i32, &'static str> {
    const NAMES: [(&str, i32); 9] = [
        ("UNSPECIFIED", 0),
        ("UNSET", 0),
        ("OK", 1),
        ("INTERNAL", 1),
        ("ERROR", 2),
        ("SERVER", 2),
        ("CLIENT", 3),
        ("PRODUCER", 4),
        ("CONSUMER", 5),
    ];
    match value {
        None | Some(Value::Null) => Ok(0),
        Some(Value::Number(n)) => n.as_i64().and_then(|n| i32::try_from(n).ok()).ok_or(MALFORMED),
        Some(Value::String(name)) => {
            let short = name.strip_prefix(prefix).ok_or(MALFORMED)?;
            NAMES.iter().find(|(known, _)| *known == short).map(|(_, code)| *code).ok_or(MALFORMED)
        }
        Some(_) => Err(MALFORMED),
    }
}

fn attributes(map: &Map<String, Value>) -> Result<Vec<KeyValue>, &'static str> {
    key_values(list(map, "attributes")?)
}

fn key_values(list: &[Value]) -> Result<Vec<KeyValue>, &'static str> {
    let member = |value: &Value| -> Result<KeyValue, &'static str> {
        let map = object(value)?;
        Ok(KeyValue { key: text(map, "key")?, value: map.get("value").map(any).transpose()? })
    };
    list.iter().map(member).collect()
}

/// A value under the name of its kind; a name that is not known is no value.
fn any(value: &Value) -> Result<AnyValue, &'static str> {
    let Some((name, value)) = object(value)?.iter().next() else { return Ok(AnyValue::default()) };
    let value = match (name.as_str(), value) {
        ("stringValue", Value::String(text)) => Any::Text(text.clone()),
        ("boolValue", Value::Bool(flag)) => Any::Bool(*flag),
        ("intValue", Value::Number(n)) => Any::Int(n.as_i64().ok_or(MALFORMED)?),
        ("intValue", Value::String(text)) => Any::Int(text.parse().map_err(|_| MALFORMED)?),
        ("doubleValue", Value::Number(n)) => Any::Double(n.as_f64().ok_or(MALFORMED)?),
        ("doubleValue", Value::String(text)) => Any::Double(text.parse().map_err(|_| MALFORMED)?),
        ("arrayValue", Value::Object(map)) => {
            Any::Array(ArrayValue { values: list(map, "values")?.iter().map(any).collect::<Result<_, _>>()? })
        }
        ("kvlistValue", Value::Object(map)) => Any::Members(KeyValueList { values: key_values(list(map, "values")?)? }),
        ("bytesValue", Value::String(text)) => {
            let read = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text);
            Any::Bytes(read.map_err(|_| MALFORMED)?)
        }
        ("stringValue" | "boolValue" | "intValue" | "doubleValue" | "arrayValue" | "kvlistValue" | "bytesValue", _) => {
            return Err(MALFORMED);
        }
        _ => return Ok(AnyValue::default()),
    };
    Ok(AnyValue { value: Some(value) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_protobuf_are_the_same_spans() {
        let one = json!({"traceId": "0102030405060708090a0b0c0d0e0f10", "spanId": "0102030405060708", "parentSpanId": "0a00000000000000", "name": "n",
            "kind": "SPAN_KIND_SERVER", "startTimeUnixNano": "17", "endTimeUnixNano": 18, "status": {"code": "STATUS_CODE_ERROR", "message": "m"},
            "attributes": [{"key": "a", "value": {"kvlistValue": {"values": [{"key": "i", "value": {"intValue": "-3"}}]}}}, {"key": "none"}],
            "events": [{"timeUnixNano": 1, "name": "e", "attributes": [{"key": "b", "value": {"arrayValue": {"values": [{"boolValue": true}, {}]}}}]}]});
        let json = of_json(json!({"resourceSpans": [{"scopeSpans": [{"spans": [one]}]}]}).to_string().as_bytes()).unwrap();
        let scope = ScopeSpans { spans: vec![json[0].0.encode_to_vec().into()] };
        let of = ResourceSpans { resource: None, scope_spans: vec![scope.encode_to_vec().into()] };
        let export = Export { resource_spans: vec![of.encode_to_vec().into()] };
        assert_eq!(of_protobuf(export.encode_to_vec().into()).unwrap(), json);
        assert_eq!(json[0].0.status.as_ref().unwrap().code, 2);
    }

    #[test]
    fn what_is_no_export_is_refused() {
        for bad in ["", "[]", "{}", r#"{"resourceSpans": 1}"#, r#"{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xyz"}]}]}]}"#]
        {
            assert!(of_json(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(of_protobuf(Bytes::new()), Err(NOTHING));
        assert_eq!(of_protobuf(Bytes::from_static(b"\x0a\xff")), Err(MALFORMED));
        let many = ScopeSpans { spans: vec![Bytes::new(); SPANS + 1] };
        let of = ResourceSpans { resource: None, scope_spans: vec![many.encode_to_vec().into()] };
        let export = Export { resource_spans: vec![of.encode_to_vec().into()] };
        assert_eq!(of_protobuf(export.encode_to_vec().into()), Err(TOO_MANY));
    }
}
