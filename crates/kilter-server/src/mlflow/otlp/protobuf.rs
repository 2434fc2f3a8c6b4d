//! An export as protobuf. Two bytes on the wire can stand for a message of hundreds in memory, so what is in it is counted before it is read.

use bytes::Bytes;
use kilter_tracking::otel::{Resource, Sent, Span};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::{MALFORMED, NOTHING, SPANS, TOO_MANY, VALUES};

/// Messages within messages at most; reading goes no deeper.
const DEPTH: usize = 100;

#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

pub fn read(body: Bytes) -> Result<Vec<Sent>, &'static str> {
    let mut left = Left { spans: SPANS, values: VALUES };
    left.count(Kind::Export, &body, DEPTH)?;
    let export = Export::decode(body).map_err(|_| MALFORMED)?;
    if export.resource_spans.is_empty() {
        return Err(NOTHING);
    }
    let sent = |of: ResourceSpans| Sent {
        resource: of.resource.unwrap_or_default().attributes,
        spans: of.scope_spans.into_iter().flat_map(|scope| scope.spans).collect(),
    };
    Ok(export.resource_spans.into_iter().map(sent).collect())
}

/// The messages of an export that have others in them.
#[derive(Clone, Copy)]
enum Kind {
    Export,
    ResourceSpans,
    Resource,
    ScopeSpans,
    Span,
    Event,
    Link,
    KeyValue,
    Any,
    Array,
    Members,
}

impl Kind {
    /// What a field of it is, if that is to be counted.
    fn within(self, field: u32) -> Option<Kind> {
        Some(match (self, field) {
            (Kind::Export, 1) => Kind::ResourceSpans,
            (Kind::ResourceSpans, 1) => Kind::Resource,
            (Kind::ResourceSpans, 2) => Kind::ScopeSpans,
            (Kind::ScopeSpans, 2) => Kind::Span,
            (Kind::Span, 11) => Kind::Event,
            (Kind::Span, 13) => Kind::Link,
            (Kind::Resource | Kind::Members, 1) | (Kind::Span, 9) | (Kind::Event, 3) | (Kind::Link, 4) => Kind::KeyValue,
            (Kind::KeyValue, 2) | (Kind::Array, 1) => Kind::Any,
            (Kind::Any, 5) => Kind::Array,
            (Kind::Any, 6) => Kind::Members,
            _ => return None,
        })
    }
}

struct Left {
    spans: usize,
    values: usize,
}

impl Left {
    fn count(&mut self, kind: Kind, mut message: &[u8], depth: usize) -> Result<(), &'static str> {
        let depth = depth.checked_sub(1).ok_or(MALFORMED)?;
        while !message.is_empty() {
            let (field, wire) = decode_key(&mut message).map_err(|_| MALFORMED)?;
            if wire != WireType::LengthDelimited {
                skip_field(wire, field, &mut message, DecodeContext::default()).map_err(|_| MALFORMED)?;
                continue;
            }
            let length = decode_varint(&mut message).map_err(|_| MALFORMED)?;
            let length = usize::try_from(length).map_err(|_| MALFORMED)?;
            let (inner, rest) = message.split_at_checked(length).ok_or(MALFORMED)?;
            message = rest;
            let Some(within) = kind.within(field) else { continue };
            let left = if matches!(within, Kind::Span) { &mut self.spans } else { &mut self.values };
            *left = left.checked_sub(1).ok_or(TOO_MANY)?;
            self.count(within, inner, depth)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub fn written(sent: &[Sent]) -> Bytes {
    let of = |sent: &Sent| ResourceSpans {
        resource: Some(Resource { attributes: sent.resource.clone() }),
        scope_spans: vec![ScopeSpans { spans: sent.spans.clone() }],
    };
    Export { resource_spans: sent.iter().map(of).collect() }.encode_to_vec().into()
}
