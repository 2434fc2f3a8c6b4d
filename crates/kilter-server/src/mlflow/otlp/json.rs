//! An export as JSON, read straight into spans: ids are hexadecimal, and whole numbers of 64 bits may be texts.

use std::fmt;

use kilter_tracking::otel::{Any, AnyValue, ArrayValue, Event, KeyValue, KeyValueList, Link, Sent, Span, SpanStatus};
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::super::input::values;
use super::{MALFORMED, NOTHING, SPANS, TOO_MANY, VALUES};

pub fn read(body: &[u8]) -> Result<Vec<Sent>, &'static str> {
    // Each attribute is at least two of what is counted.
    if values(body) > 2 * VALUES {
        return Err(TOO_MANY);
    }
    let export: Export = serde_json::from_slice(body).map_err(|_| MALFORMED)?;
    let sent: Vec<Sent> = export.resource_spans.unwrap_or_default().into_iter().map(Sent::from).collect();
    match sent.iter().map(|sent| sent.spans.len()).sum() {
        0 if sent.is_empty() => Err(NOTHING),
        0..=SPANS => Ok(sent),
        _ => Err(TOO_MANY),
    }
}

// Null is as good as nothing everywhere.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Export {
    resource_spans: Option<Vec<ResourceSpans>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans {
    resource: Option<Resource>,
    scope_spans: Option<Vec<ScopeSpans>>,
}

#[derive(Deserialize)]
struct Resource {
    attributes: Option<Vec<Attribute>>,
}

#[derive(Deserialize)]
struct ScopeSpans {
    spans: Option<Vec<SpanJson>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpanJson {
    trace_id: Option<Id>,
    span_id: Option<Id>,
    trace_state: Option<String>,
    parent_span_id: Option<Id>,
    name: Option<String>,
    kind: Option<SpanKind>,
    start_time_unix_nano: Option<Nanos>,
    end_time_unix_nano: Option<Nanos>,
    attributes: Option<Vec<Attribute>>,
    events: Option<Vec<EventJson>>,
    links: Option<Vec<LinkJson>>,
    status: Option<StatusJson>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventJson {
    time_unix_nano: Option<Nanos>,
    name: Option<String>,
    attributes: Option<Vec<Attribute>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LinkJson {
    trace_id: Option<Id>,
    span_id: Option<Id>,
    attributes: Option<Vec<Attribute>>,
}

#[derive(Deserialize)]
struct StatusJson {
    message: Option<String>,
    code: Option<Code>,
}

#[derive(Deserialize)]
struct Attribute {
    key: Option<String>,
    value: Option<AnyJson>,
}

#[derive(Deserialize)]
struct Values<T> {
    values: Option<Vec<T>>,
}

#[derive(Default, Deserialize)]
#[serde(try_from = "String")]
struct Id(Vec<u8>);

#[derive(Default, Deserialize)]
#[serde(try_from = "Scalar")]
struct Nanos(u64);

#[derive(Default, Deserialize)]
#[serde(try_from = "Scalar")]
struct SpanKind(i32);

#[derive(Default, Deserialize)]
#[serde(try_from = "Scalar")]
struct Code(i32);

#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Unsigned(u64),
    Int(i64),
    Double(f64),
    Text(String),
}

/// A value under the name of its kind; a name that is not known is no value.
struct AnyJson(AnyValue);

impl TryFrom<String> for Id {
    type Error = &'static str;

    fn try_from(digits: String) -> Result<Id, &'static str> {
        if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
            return Err(MALFORMED);
        }
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| MALFORMED);
        (0..digits.len()).step_by(2).map(byte).collect::<Result<_, _>>().map(Id)
    }
}

impl TryFrom<Scalar> for Nanos {
    type Error = &'static str;

    fn try_from(scalar: Scalar) -> Result<Nanos, &'static str> {
        match scalar {
            Scalar::Unsigned(n) => Ok(Nanos(n)),
            Scalar::Text(text) => text.parse().map(Nanos).map_err(|_| MALFORMED),
            Scalar::Int(_) | Scalar::Double(_) => Err(MALFORMED),
        }
    }
}

impl TryFrom<Scalar> for SpanKind {
    type Error = &'static str;

    fn try_from(scalar: Scalar) -> Result<SpanKind, &'static str> {
        scalar.code("SPAN_KIND_", &["UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"]).map(SpanKind)
    }
}

impl TryFrom<Scalar> for Code {
    type Error = &'static str;

    fn try_from(scalar: Scalar) -> Result<Code, &'static str> {
        scalar.code("STATUS_CODE_", &["UNSET", "OK", "ERROR"]).map(Code)
    }
}

impl Scalar {
    /// An enumerator by its number or its name.
    fn code(self, prefix: &str, names: &[&str]) -> Result<i32, &'static str> {
        match self {
            Scalar::Unsigned(n) => i32::try_from(n).map_err(|_| MALFORMED),
            Scalar::Int(n) => i32::try_from(n).map_err(|_| MALFORMED),
            Scalar::Text(name) => {
                let at = name.strip_prefix(prefix).and_then(|short| names.iter().position(|known| *known == short));
                at.map(|at| at as i32).ok_or(MALFORMED)
            }
            Scalar::Double(_) => Err(MALFORMED),
        }
    }
}

impl<'de> Deserialize<'de> for AnyJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<AnyJson, D::Error> {
        deserializer.deserialize_map(OfKind)
    }
}

struct OfKind;

impl<'de> Visitor<'de> for OfKind {
    type Value = AnyJson;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value under the name of its kind")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<AnyJson, M::Error> {
        let malformed = || M::Error::custom(MALFORMED);
        let mut value = None;
        while let Some(kind) = map.next_key::<String>()? {
            value = Some(match kind.as_str() {
                "stringValue" => Any::Text(map.next_value()?),
                "boolValue" => Any::Bool(map.next_value()?),
                "intValue" => Any::Int(match map.next_value()? {
                    Scalar::Int(n) => n,
                    Scalar::Unsigned(n) => i64::try_from(n).map_err(|_| malformed())?,
                    Scalar::Text(text) => text.parse().map_err(|_| malformed())?,
                    Scalar::Double(_) => return Err(malformed()),
                }),
                "doubleValue" => Any::Double(match map.next_value()? {
                    Scalar::Double(x) => x,
                    Scalar::Int(n) => n as f64,
                    Scalar::Unsigned(n) => n as f64,
                    Scalar::Text(text) => text.parse().map_err(|_| malformed())?,
                }),
                "arrayValue" => {
                    let list: Values<AnyJson> = map.next_value()?;
                    Any::Array(ArrayValue { values: list.values.unwrap_or_default().into_iter().map(|value| value.0).collect() })
                }
                "kvlistValue" => Any::Members(KeyValueList { values: attributes(map.next_value::<Values<Attribute>>()?.values) }),
                "bytesValue" => {
                    let text: String = map.next_value()?;
                    let read = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text);
                    Any::Bytes(read.map_err(|_| malformed())?)
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            });
        }
        Ok(AnyJson(AnyValue { value }))
    }
}

fn attributes(list: Option<Vec<Attribute>>) -> Vec<KeyValue> {
    let member = |a: Attribute| KeyValue { key: a.key.unwrap_or_default(), value: a.value.map(|value| value.0) };
    list.unwrap_or_default().into_iter().map(member).collect()
}

impl From<ResourceSpans> for Sent {
    fn from(of: ResourceSpans) -> Sent {
        let spans = of.scope_spans.into_iter().flatten().flat_map(|scope| scope.spans.unwrap_or_default());
        Sent { resource: attributes(of.resource.and_then(|r| r.attributes)), spans: spans.map(Span::from).collect() }
    }
}

impl From<SpanJson> for Span {
    fn from(s: SpanJson) -> Span {
        let event = |e: EventJson| Event {
            time_unix_nano: e.time_unix_nano.unwrap_or_default().0,
            name: e.name.unwrap_or_default(),
            attributes: attributes(e.attributes),
        };
        let link = |l: LinkJson| Link {
            trace_id: l.trace_id.unwrap_or_default().0,
            span_id: l.span_id.unwrap_or_default().0,
            attributes: attributes(l.attributes),
        };
        let status = |s: StatusJson| SpanStatus { message: s.message.unwrap_or_default(), code: s.code.unwrap_or_default().0 };
        Span {
            trace_id: s.trace_id.unwrap_or_default().0,
            span_id: s.span_id.unwrap_or_default().0,
            trace_state: s.trace_state.unwrap_or_default(),
            parent_span_id: s.parent_span_id.unwrap_or_default().0,
            name: s.name.unwrap_or_default(),
            kind: s.kind.unwrap_or_default().0,
            start_time_unix_nano: s.start_time_unix_nano.unwrap_or_default().0,
            end_time_unix_nano: s.end_time_unix_nano.unwrap_or_default().0,
            attributes: attributes(s.attributes),
            events: s.events.into_iter().flatten().map(event).collect(),
            links: s.links.into_iter().flatten().map(link).collect(),
            status: s.status.map(status),
        }
    }
}
