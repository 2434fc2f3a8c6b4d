//! Spans as OpenTelemetry writes them: the messages of its protocol that are kept, and what their values look like as JSON.

/// Values within values at most. Reading a message back goes no deeper than a hundred messages, of which each level is three.
const DEPTH: usize = 30;

/// Spans of one sender.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sent {
    /// What is known of the sender.
    pub resource: Vec<KeyValue>,
    /// Of any traces.
    pub spans: Vec<Span>,
}

/// A span, as `opentelemetry.proto.trace.v1.Span` has it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Span {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    /// 8 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    /// As W3C has it.
    #[prost(string, tag = "3")]
    pub trace_state: String,
    /// Empty: it has none.
    #[prost(bytes = "vec", tag = "4")]
    pub parent_span_id: Vec<u8>,
    /// What it is called.
    #[prost(string, tag = "5")]
    pub name: String,
    /// Server, client and the like, as a number.
    #[prost(int32, tag = "6")]
    pub kind: i32,
    /// Nanoseconds UTC.
    #[prost(fixed64, tag = "7")]
    pub start_time_unix_nano: u64,
    /// Nanoseconds UTC; 0: it has not ended.
    #[prost(fixed64, tag = "8")]
    pub end_time_unix_nano: u64,
    /// What is known of it.
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<KeyValue>,
    /// What happened in it.
    #[prost(message, repeated, tag = "11")]
    pub events: Vec<Event>,
    /// Spans of other traces that it has to do with.
    #[prost(message, repeated, tag = "13")]
    pub links: Vec<Link>,
    /// How it ended.
    #[prost(message, optional, tag = "15")]
    pub status: Option<SpanStatus>,
}

/// A moment within a span.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Event {
    /// Nanoseconds UTC.
    #[prost(fixed64, tag = "1")]
    pub time_unix_nano: u64,
    /// What happened.
    #[prost(string, tag = "2")]
    pub name: String,
    /// What is known of it.
    #[prost(message, repeated, tag = "3")]
    pub attributes: Vec<KeyValue>,
}

/// A span elsewhere.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Link {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    /// 8 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    /// What is known of it.
    #[prost(message, repeated, tag = "4")]
    pub attributes: Vec<KeyValue>,
}

/// How a span ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SpanStatus {
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
    /// 1: well, 2: with an error.
    #[prost(int32, tag = "3")]
    pub code: i32,
}

/// A name and its value.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValue {
    /// The name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

/// A value, or none.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AnyValue {
    /// The value.
    #[prost(oneof = "Any", tags = "1, 2, 3, 4, 5, 6, 7")]
    pub value: Option<Any>,
}

/// Every kind of value.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Any {
    /// A text.
    #[prost(string, tag = "1")]
    Text(String),
    /// True or false.
    #[prost(bool, tag = "2")]
    Bool(bool),
    /// A whole number.
    #[prost(int64, tag = "3")]
    Int(i64),
    /// A number.
    #[prost(double, tag = "4")]
    Double(f64),
    /// A list.
    #[prost(message, tag = "5")]
    Array(ArrayValue),
    /// Names and values.
    #[prost(message, tag = "6")]
    Members(KeyValueList),
    /// Bytes.
    #[prost(bytes = "vec", tag = "7")]
    Bytes(Vec<u8>),
}

/// A list.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ArrayValue {
    /// What is in it.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<AnyValue>,
}

/// Names and values.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValueList {
    /// What is in it.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<KeyValue>,
}

/// Who sent spans.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// What is known of it.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

impl Span {
    /// Attributes, events, links and all values within them: what takes more room in memory than on the wire.
    pub(crate) fn values(&self) -> usize {
        let of = |attributes: &[KeyValue]| attributes.iter().map(KeyValue::values).sum::<usize>();
        let events: usize = self.events.iter().map(|event| 1 + of(&event.attributes)).sum();
        let links: usize = self.links.iter().map(|link| 1 + of(&link.attributes)).sum();
        of(&self.attributes) + events + links
    }
}

impl KeyValue {
    fn values(&self) -> usize {
        1 + self.value.as_ref().map_or(0, AnyValue::values)
    }

    /// A name with its value.
    pub fn new(key: impl Into<String>, value: Any) -> KeyValue {
        KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }) }
    }
}

impl AnyValue {
    /// The same value, of JSON; none where it nests too deep to be kept.
    pub fn of_json(json: &serde_json::Value) -> Option<AnyValue> {
        AnyValue::of_json_within(json, DEPTH)
    }

    fn of_json_within(json: &serde_json::Value, depth: usize) -> Option<AnyValue> {
        use serde_json::Value;
        let depth = depth.checked_sub(1)?;
        let value = match json {
            Value::Null => None,
            Value::Bool(flag) => Some(Any::Bool(*flag)),
            Value::Number(number) => Some(number.as_i64().map_or_else(|| Any::Double(number.as_f64().unwrap_or(f64::NAN)), Any::Int)),
            Value::String(text) => Some(Any::Text(text.clone())),
            Value::Array(list) => {
                let values = list.iter().map(|value| AnyValue::of_json_within(value, depth)).collect::<Option<_>>()?;
                Some(Any::Array(ArrayValue { values }))
            }
            Value::Object(map) => {
                let member = |(key, value): (&String, &Value)| {
                    Some(KeyValue { key: key.clone(), value: Some(AnyValue::of_json_within(value, depth)?) })
                };
                Some(Any::Members(KeyValueList { values: map.iter().map(member).collect::<Option<_>>()? }))
            }
        };
        Some(AnyValue { value })
    }

    pub(crate) fn values(&self) -> usize {
        match &self.value {
            Some(Any::Array(list)) => list.values.iter().map(|value| 1 + value.values()).sum(),
            Some(Any::Members(list)) => list.values.iter().map(KeyValue::values).sum(),
            _ => 0,
        }
    }

    /// Whether it can be read again once it is written.
    pub(crate) fn is_shallow(&self) -> bool {
        self.fits(DEPTH)
    }

    fn fits(&self, depth: usize) -> bool {
        let Some(depth) = depth.checked_sub(1) else { return false };
        match &self.value {
            Some(Any::Array(list)) => list.values.iter().all(|value| value.fits(depth)),
            Some(Any::Members(list)) => list.values.iter().all(|member| member.value.as_ref().is_none_or(|value| value.fits(depth))),
            _ => true,
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Some(Any::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The whole number, if it is one or is written as one.
    pub fn as_integer(&self) -> Option<i64> {
        match &self.value {
            Some(Any::Int(n)) => Some(*n),
            Some(Any::Double(x)) if x.fract() == 0. && x.abs() < 9e15 => Some(*x as i64),
            Some(Any::Text(text)) => text.parse().ok(),
            _ => None,
        }
    }

    /// The number, if it is one.
    pub(crate) fn as_number(&self) -> Option<f64> {
        match &self.value {
            Some(Any::Int(n)) => Some(*n as f64),
            Some(Any::Double(x)) => Some(*x),
            _ => None,
        }
    }

    /// A member of names and values.
    pub(crate) fn member(&self, key: &str) -> Option<&AnyValue> {
        match &self.value {
            Some(Any::Members(list)) => list.values.iter().find(|m| m.key == key)?.value.as_ref(),
            _ => None,
        }
    }

    /// What is in a list.
    pub(crate) fn items(&self) -> &[AnyValue] {
        match &self.value {
            Some(Any::Array(list)) => &list.values,
            _ => &[],
        }
    }

    /// JSON as Python's `json.dumps` spaces it: MLflow's clients compare such texts.
    pub fn to_json(&self) -> String {
        let mut text = String::new();
        self.write_json(&mut text);
        text
    }

    pub(crate) fn write_json(&self, text: &mut String) {
        match &self.value {
            None => text.push_str("null"),
            Some(Any::Text(value)) => quote(text, value),
            Some(Any::Bool(flag)) => text.push_str(if *flag { "true" } else { "false" }),
            Some(Any::Int(n)) => text.push_str(&n.to_string()),
            Some(Any::Double(x)) if x.is_nan() => text.push_str("NaN"),
            Some(Any::Double(x)) if x.is_infinite() => text.push_str(if *x > 0. { "Infinity" } else { "-Infinity" }),
            Some(Any::Double(x)) => text.push_str(&format!("{x:?}")),
            Some(Any::Array(list)) => {
                text.push('[');
                for (at, value) in list.values.iter().enumerate() {
                    text.push_str(if at == 0 { "" } else { ", " });
                    value.write_json(text);
                }
                text.push(']');
            }
            Some(Any::Members(list)) => write_members(text, &list.values),
            Some(Any::Bytes(bytes)) => {
                text.push('"');
                bytes.iter().for_each(|byte| text.push_str(&format!("{byte:02x}")));
                text.push('"');
            }
        }
    }
}

/// Names and values as an object.
fn write_members(text: &mut String, members: &[KeyValue]) {
    text.push('{');
    for (at, member) in members.iter().enumerate() {
        text.push_str(if at == 0 { "" } else { ", " });
        write_member(text, member);
    }
    text.push('}');
}

pub(crate) fn write_member(text: &mut String, member: &KeyValue) {
    quote(text, &member.key);
    text.push_str(": ");
    match &member.value {
        Some(value) => value.write_json(text),
        None => text.push_str("null"),
    }
}

pub(crate) fn quote(text: &mut String, value: &str) {
    // A text is always JSON.
    text.push_str(&serde_json::to_string(value).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    fn nested(levels: usize) -> serde_json::Value {
        (0..levels).fold(serde_json::json!(1), |inner, _| serde_json::json!({ "a": inner }))
    }

    #[test]
    fn what_is_kept_can_be_read_again_and_what_nests_deeper_is_not_kept() {
        let value = AnyValue::of_json(&nested(DEPTH - 1)).unwrap();
        let span = Span { attributes: vec![KeyValue { key: "k".into(), value: Some(value.clone()) }], ..Span::default() };
        let event = Event { attributes: span.attributes.clone(), ..Event::default() };
        let span = Span { events: vec![event], ..span };
        assert_eq!(Span::decode(span.encode_to_vec().as_slice()).unwrap(), span);
        assert!(value.is_shallow() && AnyValue::of_json(&nested(DEPTH)).is_none());
    }

    #[test]
    fn all_values_of_a_span_are_counted() {
        let attribute = KeyValue { key: "k".into(), value: AnyValue::of_json(&serde_json::json!({"a": [1, 2], "b": 3})) };
        let attributes = vec![attribute, KeyValue::default()];
        let event = Event { attributes: attributes.clone(), ..Event::default() };
        assert_eq!(Span { attributes, events: vec![event], links: vec![Link::default()], ..Span::default() }.values(), 6 + 7 + 1);
    }

    #[test]
    fn json_is_spaced_as_python_spaces_it() {
        let json = serde_json::json!({"a": [1, 2.0, "x\"ä"], "b": {"c": null, "d": true}});
        assert_eq!(AnyValue::of_json(&json).unwrap().to_json(), r#"{"a": [1, 2.0, "x\"ä"], "b": {"c": null, "d": true}}"#);
    }
}
