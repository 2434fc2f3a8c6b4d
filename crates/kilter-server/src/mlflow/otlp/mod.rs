//! `POST /v1/traces`: spans by OpenTelemetry's protocol, as protobuf or as JSON, compressed or not. Refusals are FastAPI's, which answers this at MLflow's.

mod json;
mod protobuf;

use std::collections::BTreeSet;
use std::io::Read;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use kilter_tracking::otel::Sent;
use kilter_tracking::{Error, ErrorCode, Logged, Tracking};
use prost::Message;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::answer::Refusal;
use super::input::{experiment_id, in_turn};
use super::scope::Scope;
use crate::access::keys::Role;
use crate::wire;

/// Bytes of one request at most, before and after they are decompressed.
const BODY: usize = 32 * 1024 * 1024;
/// Spans of one request at most.
const SPANS: usize = 20_000;
/// Attributes, events, links and values within them, of all spans of one request.
const VALUES: usize = 400_000;
/// Requests whose spans are in memory at a time, and how long others wait before they are told to come again.
static WORKING: Semaphore = Semaphore::const_new(8);
const PATIENCE: Duration = Duration::from_secs(5);
pub const EXPERIMENT: &str = "x-mlflow-experiment-id";
pub const RUN: &str = "x-mlflow-run-id";
const PROTOBUF: &str = "application/x-protobuf";

const MALFORMED: &str = "Invalid OpenTelemetry format";
const NOTHING: &str = "Invalid OpenTelemetry format - no spans found";
const TOO_MANY: &str = "more than 20000 spans, or 400000 attributes and other values, at once; send fewer spans at once";

pub async fn export(State(tracking): State<Tracking>, request: Request) -> Response {
    take(&tracking, request).await.unwrap_or_else(|refusal| *refusal)
}

async fn take(tracking: &Tracking, request: Request) -> Result<Response, Box<Response>> {
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
    let experiment = experiment_id(experiment).map_err(told)?;
    let read = in_turn(&parts.headers, body, BODY, "send fewer spans at once").await;
    let (body, _large) = read.map_err(|e| Box::new(e.into_response()))?;
    let place = place(&WORKING, PATIENCE).await.map_err(told)?;
    let encoding = header(CONTENT_ENCODING.as_str()).unwrap_or_default().to_ascii_lowercase();
    // The place goes along: the work goes on where the request is given up.
    let work = move || (decoded(body, &encoding, is_json), place);
    let (sent, place) = tokio::task::spawn_blocking(work).await.map_err(failed)?;
    let sent = sent?;
    if sent.iter().all(|sent| sent.spans.is_empty()) {
        return Ok(taken(is_json, Logged::default()));
    }
    if let Some(scope) = Scope::of(&parts.extensions, tracking, Role::Write).map_err(told)? {
        // What comes in may belong to traces that are elsewhere.
        let spans = sent.iter().flat_map(|sent| &sent.spans);
        let ids: BTreeSet<String> = spans.map(|span| trace_id(&span.trace_id)).collect();
        scope.traces(&ids.into_iter().collect::<Vec<_>>()).await.map_err(told)?;
    }
    let (tracking, run) = (tracking.clone(), header(RUN).map(str::to_string));
    let storing = tokio::spawn(async move {
        let _place = place;
        tracking.log_spans(experiment, sent, run).await
    });
    let logged = storing.await.map_err(failed)?.map_err(told)?;
    match &logged.why {
        // Nothing is stored: what a span lacks is said in this protocol's shape, all else in MLflow's.
        Some(why) if logged.stored == 0 && why.starts_with("a span") => Err(refuse(StatusCode::UNPROCESSABLE_ENTITY, json!(why))),
        Some(why) if logged.stored == 0 => Err(told(Error::invalid(why))),
        _ => Ok(taken(is_json, logged)),
    }
}

/// As a trace of these bytes is called.
fn trace_id(bytes: &[u8]) -> String {
    bytes.iter().fold("tr-".to_string(), |id, byte| id + &format!("{byte:02x}"))
}

fn failed(error: tokio::task::JoinError) -> Box<Response> {
    tracing::error!(%error, "spans could not be taken");
    told(Error::new(ErrorCode::InternalError, "the request failed inside kilter; its log says why"))
}

async fn place(places: &Semaphore, patience: Duration) -> Result<SemaphorePermit<'_>, Error> {
    let place = tokio::time::timeout(patience, places.acquire()).await;
    let busy = || Error::new(ErrorCode::TemporarilyUnavailable, "more spans come in than can be stored; send again in a moment");
    place.ok().and_then(Result::ok).ok_or_else(busy)
}

#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

/// What is said of spans that are stored, and of those beside them that are not. An empty message is no bytes, as MLflow's server answers JSON as well.
fn taken(is_json: bool, logged: Logged) -> Response {
    let partial = logged.why.map(|why| PartialSuccess { rejected_spans: logged.refused as i64, error_message: why });
    if let Some(partial) = partial.as_ref().filter(|_| is_json) {
        let partial = json!({"rejectedSpans": partial.rejected_spans.to_string(), "errorMessage": partial.error_message});
        return wire::json(StatusCode::OK, &json!({ "partialSuccess": partial }));
    }
    let mut response = Response::new(Body::from(Answer { partial_success: partial }.encode_to_vec()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROTOBUF));
    response
}

fn told(error: Error) -> Box<Response> {
    Box::new(Refusal(error).into_response())
}

fn refuse(status: StatusCode, detail: Value) -> Box<Response> {
    Box::new(wire::json(status, &json!({ "detail": detail })))
}

fn bad(message: &str) -> Box<Response> {
    refuse(StatusCode::BAD_REQUEST, json!(message))
}

fn decoded(body: Bytes, encoding: &str, is_json: bool) -> Result<Vec<Sent>, Box<Response>> {
    let body = decompressed(body, encoding)?;
    if is_json { json::read(&body) } else { protobuf::read(body) }.map_err(bad)
}

fn decompressed(body: Bytes, encoding: &str) -> Result<Bytes, Box<Response>> {
    let whole = |reader: &mut dyn Read| {
        let mut bytes = Vec::new();
        let done = reader.take(BODY as u64 + 1).read_to_end(&mut bytes);
        done.map(|_| bytes).map_err(|_| bad(&format!("Failed to decompress {encoding} payload")))
    };
    let bytes = match encoding {
        "identity" | "" => return Ok(body),
        "gzip" => whole(&mut flate2::read::MultiGzDecoder::new(body.as_ref()))?,
        // By the standard with a head of zlib, and by some senders without.
        "deflate" => whole(&mut flate2::read::ZlibDecoder::new(body.as_ref()))
            .or_else(|_| whole(&mut flate2::read::DeflateDecoder::new(body.as_ref())))?,
        _ => return Err(bad(&format!("Unsupported Content-Encoding: {encoding}"))),
    };
    if bytes.len() > BODY {
        let message = format!("the body is larger than {BODY} bytes; send fewer spans at once");
        return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, json!(message)));
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_and_protobuf_are_the_same_spans() {
        let one = json!({"traceId": "0102030405060708090a0b0c0d0e0f10", "spanId": "0102030405060708", "parentSpanId": "0a00000000000000", "name": "n",
            "kind": "SPAN_KIND_SERVER", "startTimeUnixNano": "17", "endTimeUnixNano": 18, "status": {"code": "STATUS_CODE_ERROR", "message": "m"},
            "attributes": [{"key": "a", "value": {"kvlistValue": {"values": [{"key": "i", "value": {"intValue": "-3"}}]}}}, {"key": "none"},
                {"key": "x", "value": {"doubleValue": "NaN"}}, {"key": "y", "value": {"doubleValue": 2}}, {"key": "z", "value": {"bytesValue": "AQI="}}],
            "events": [{"timeUnixNano": 1, "name": "e", "attributes": [{"key": "b", "value": {"arrayValue": {"values": [{"boolValue": true}, {}]}}}]}],
            "links": [{"traceId": "01", "spanId": "02"}], "flags": 257, "droppedEventsCount": null});
        let scope = json!({"scope": {"name": "s"}, "spans": [one]});
        let resource = json!({"attributes": [{"key": "r", "value": {"stringValue": "v", "new": [1]}}]});
        let export = json!({"resourceSpans": [{"resource": resource, "scopeSpans": [scope, {}], "schemaUrl": ""}, {"resource": null}]});
        let read = json::read(export.to_string().as_bytes()).unwrap();
        let span = &read[0].spans[0];
        assert_eq!((span.status.as_ref().unwrap().code, span.kind, span.parent_span_id[0], span.attributes.len()), (2, 2, 10, 5));
        assert_eq!((span.links[0].trace_id.as_slice(), span.events[0].name.as_str(), span.start_time_unix_nano), (&[1][..], "e", 17));
        // What is not a number equals nothing.
        let shown = |sent: &[Sent]| format!("{sent:?}");
        assert_eq!(shown(&protobuf::read(protobuf::written(&read)).unwrap()), shown(&read));
    }

    #[test]
    fn what_is_no_export_is_refused() {
        for bad in [
            "",
            "[1]",
            "{}",
            r#"{"resourceSpans": 1}"#,
            r#"{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xyz"}]}]}]}"#,
            r#"{"resourceSpans": [{"scopeSpans": [{"spans": [{"attributes": [{"value": {"intValue": true}}]}]}]}]}"#,
        ] {
            assert!(json::read(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(protobuf::read(Bytes::new()), Err(NOTHING));
        assert_eq!(protobuf::read(Bytes::from_static(b"\x0a\xff")), Err(MALFORMED));
    }

    #[test]
    fn what_is_much_more_in_memory_than_on_the_wire_is_counted_before_it_is_read() {
        let within = |field: u8, bytes: &[u8]| {
            let mut message = vec![field << 3 | 2];
            prost::encoding::encode_varint(bytes.len() as u64, &mut message);
            [message.as_slice(), bytes].concat()
        };
        let export = |span: &[u8]| -> Bytes { within(1, &within(2, span)).into() };
        let of = |field: u8, count: usize| export(&within(2, &[field << 3 | 2, 0].repeat(count)));
        for (field, what) in [(9, "attributes"), (11, "events"), (13, "links")] {
            assert!(protobuf::read(of(field, 1000)).is_ok(), "{what}");
            assert_eq!(protobuf::read(of(field, VALUES)), Err(TOO_MANY), "{what}");
        }
        // An attribute that is a list of many values of no bytes.
        let list = within(9, &within(2, &within(5, &[0x0a, 0].repeat(VALUES))));
        assert_eq!(protobuf::read(export(&within(2, &list))), Err(TOO_MANY));
        assert_eq!(protobuf::read(export(&[0x12, 0].repeat(SPANS + 1))), Err(TOO_MANY));
        let deep = (0..200).fold(Vec::new(), |inner, _| within(1, &within(5, &inner)));
        assert_eq!(protobuf::read(export(&within(2, &within(9, &within(2, &deep))))), Err(MALFORMED));
        for many in [format!("[{}{{}}]", "{},".repeat(SPANS)), format!(r#"[{{"attributes": [{}{{}}]}}]"#, "{},".repeat(VALUES))] {
            let export = format!(r#"{{"resourceSpans": [{{"scopeSpans": [{{"spans": {many}}}]}}]}}"#);
            assert_eq!(json::read(export.as_bytes()), Err(TOO_MANY));
        }
    }

    #[tokio::test]
    async fn who_finds_no_place_is_told_to_come_again() {
        let places = Semaphore::new(1);
        let held = place(&places, Duration::ZERO).await.unwrap();
        let refused = place(&places, Duration::ZERO).await.unwrap_err();
        assert_eq!((refused.code, refused.code.status()), (ErrorCode::TemporarilyUnavailable, 503));
        drop(held);
        assert!(place(&places, Duration::ZERO).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_stored_in_part_is_said_in_the_shape_of_the_request() {
        let logged = Logged { stored: 1, refused: 2, why: Some("why".into()) };
        let body = async |response: Response| axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
        let as_json: Value = serde_json::from_slice(&body(taken(true, logged.clone())).await).unwrap();
        assert_eq!(as_json, json!({"partialSuccess": {"rejectedSpans": "2", "errorMessage": "why"}}));
        assert_eq!(body(taken(false, logged)).await.as_ref(), b"\x0a\x07\x08\x02\x12\x03why");
        assert!(body(taken(false, Logged { stored: 1, ..Logged::default() })).await.is_empty());
    }
}
