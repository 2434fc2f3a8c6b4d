//! Traces: what is known of one, what its spans say of it, and what people and programs say of it afterwards.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use prost::Message;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::grammar::SEARCHED;
use crate::limits;
use crate::model::Pair;
use crate::otel::{Any, AnyValue, KeyValue, KeyValueList, Sent, Span, quote, write_member};

/// Characters of what went in and came out, as it is shown beside a trace.
const PREVIEW: usize = 1000;
/// How much of a span's name and type is looked at in searches.
const EXTRACT: usize = 500;
/// Traces that the spans of one request may belong to.
const TRACES: usize = 1_000;
/// Attributes of a sender that become tags of its traces, and bytes of them: every trace gets them all.
const RESOURCE: usize = 128;
const RESOURCE_BYTES: usize = 16 << 10;
/// Spans of one trace, and bytes of them, that are written at once; more become several.
const PART: usize = 1_000;
const PART_BYTES: i64 = 4 << 20;
/// What a value takes in memory beside its bytes, roughly.
const VALUE: usize = 64;
/// JSON within a text is taken out where the text is no larger than this, and as long as the request's values are no more than these.
const JSON: usize = 1 << 20;
const JSON_VALUES: usize = 200_000;

/// What a trace used is said under these names: those that are always answered, and the others.
pub(crate) const TOKENS: (&[&str], &[&str]) =
    (&["input_tokens", "output_tokens", "total_tokens"], &["cache_read_input_tokens", "cache_creation_input_tokens"]);
pub(crate) const COSTS: (&[&str], &[&str]) = (&["input_cost", "output_cost", "total_cost"], &[]);

/// How far a trace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TraceState {
    /// Nobody said.
    #[default]
    Unspecified,
    /// Done as intended.
    Ok,
    /// Ended with an error.
    Error,
    /// Its root has not come yet.
    InProgress,
}

impl TraceState {
    /// As it is stored and answered.
    pub fn as_str(self) -> &'static str {
        match self {
            TraceState::Unspecified => "STATE_UNSPECIFIED",
            TraceState::Ok => "OK",
            TraceState::Error => "ERROR",
            TraceState::InProgress => "IN_PROGRESS",
        }
    }

    /// A word that names none is [`TraceState::Unspecified`].
    pub fn read(text: &str) -> TraceState {
        let known = [TraceState::Ok, TraceState::Error, TraceState::InProgress];
        known.into_iter().find(|s| s.as_str() == text).unwrap_or_default()
    }
}

/// What is known of a trace beside its spans.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TraceInfo {
    /// Its id: `tr-` and 32 hexadecimal digits where MLflow's client made it.
    pub id: String,
    /// The experiment it belongs to.
    pub experiment: i64,
    /// How far it is.
    pub state: TraceState,
    /// Milliseconds UTC.
    pub start_time: i64,
    /// Milliseconds.
    pub duration: Option<i64>,
    /// The id that the client's own client gave.
    pub client_request_id: Option<String>,
    /// What went in, shortened.
    pub request_preview: Option<String>,
    /// What came out, shortened.
    pub response_preview: Option<String>,
    /// By name; `mlflow.traceName` is the trace's own name.
    pub tags: Vec<Pair>,
    /// By name.
    pub metadata: Vec<Pair>,
    /// In the order they came in.
    pub assessments: Vec<Assessment>,
}

/// A trace with its spans.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// What is known of it.
    pub info: TraceInfo,
    /// By their start.
    pub spans: Vec<Span>,
}

/// What an assessment is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AssessmentKind {
    /// A judgement of what came out.
    #[default]
    Feedback,
    /// What should have come out.
    Expectation,
    /// A known problem that it shows.
    Issue,
}

impl AssessmentKind {
    /// As it is stored and answered.
    pub fn as_str(self) -> &'static str {
        match self {
            AssessmentKind::Feedback => "feedback",
            AssessmentKind::Expectation => "expectation",
            AssessmentKind::Issue => "issue",
        }
    }

    pub(crate) fn read(text: &str) -> AssessmentKind {
        match text {
            "expectation" => AssessmentKind::Expectation,
            "issue" => AssessmentKind::Issue,
            _ => AssessmentKind::Feedback,
        }
    }
}

/// What somebody says of a trace.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Assessment {
    /// Its id; empty in one to be made: one is made up.
    pub id: String,
    /// The trace's id.
    pub trace: String,
    /// What it is.
    pub kind: AssessmentKind,
    /// What it is about.
    pub name: String,
    /// Any JSON; of an issue its name.
    pub value: Value,
    /// Why there is no value.
    pub error: Option<Value>,
    /// `HUMAN`, `LLM_JUDGE` or `CODE`.
    pub source_type: String,
    /// Who.
    pub source_id: String,
    /// The span it is about.
    pub span_id: Option<String>,
    /// Why.
    pub rationale: Option<String>,
    /// By name.
    pub metadata: BTreeMap<String, String>,
    /// The assessment that it stands in place of.
    pub overrides: Option<String>,
    /// Whether none stands in its place.
    pub is_valid: bool,
    /// Milliseconds UTC.
    pub created: i64,
    /// Milliseconds UTC.
    pub updated: i64,
}

/// What changes of an assessment; what is left out stays.
#[derive(Debug, Clone, Default)]
pub struct AssessmentChange {
    /// What it is about.
    pub name: Option<String>,
    /// Of which kind the value is, the value, and why there is none.
    pub value: Option<(AssessmentKind, Value, Option<Value>)>,
    /// Why.
    pub rationale: Option<String>,
    /// Added to what is there.
    pub metadata: BTreeMap<String, String>,
}

/// Which traces are deleted.
#[derive(Debug, Clone)]
pub enum OldTraces {
    /// These.
    Named(Vec<String>),
    /// The oldest that are not younger than a time in milliseconds UTC; so many at most.
    Before(i64, Option<i64>),
}

/// Names of attributes with a meaning of their own.
pub(crate) mod key {
    pub const TYPE: &str = "mlflow.spanType";
    pub const INPUTS: &str = "mlflow.spanInputs";
    pub const OUTPUTS: &str = "mlflow.spanOutputs";
    pub const USAGE: &str = "mlflow.chat.tokenUsage";
    pub const COST: &str = "mlflow.llm.cost";
    pub const MODEL: &str = "mlflow.llm.model";
    pub const PROVIDER: &str = "mlflow.llm.provider";
    pub const REQUEST: &str = "mlflow.traceRequestId";
    pub const TAG: &str = "mlflow.traceTag.";
    pub const NAME: &str = "mlflow.traceName";
    pub const SESSION: &str = "mlflow.trace.session";
    pub const USER: &str = "mlflow.trace.user";
    pub const TRACE_USAGE: &str = "mlflow.trace.tokenUsage";
    pub const TRACE_COST: &str = "mlflow.trace.cost";
    pub const FINAL: &str = "mlflow.trace.infoFinalized";
    pub const SPANS: &str = "mlflow.trace.spansLocation";
    pub const ARTIFACTS: &str = "mlflow.artifactLocation";
    pub const RUN: &str = "mlflow.sourceRun";
    pub const ASSESSMENT_RUN: &str = "mlflow.assessment.sourceRunId";
}

/// What came of spans that were sent. What is refused is not worth sending again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Logged {
    /// Spans that are stored.
    pub stored: usize,
    /// Spans that are not.
    pub refused: usize,
    /// Why not, of the first; or what was left out of spans that are stored.
    pub why: Option<String>,
}

impl Logged {
    pub(crate) fn refuse(&mut self, spans: usize, why: impl FnOnce() -> String) {
        self.refused += spans;
        self.why.get_or_insert_with(why);
    }
}

/// Spans of one trace as they came in, made ready to be stored. Many of one trace are made ready in several parts.
#[derive(Debug)]
pub(crate) struct Ready {
    pub trace_id: String,
    pub spans: Vec<ReadySpan>,
    /// What they take together.
    pub size: i64,
    /// What they say of their trace.
    pub start: i64,
    pub end: Option<i64>,
    pub root: Option<Root>,
    /// Who sent the first of them.
    pub resource: Arc<[Pair]>,
    pub tags: Vec<Pair>,
    pub session: Option<String>,
    pub user: Option<String>,
}

/// What the span without a parent says.
#[derive(Debug)]
pub(crate) struct Root {
    pub name: String,
    pub state: TraceState,
    pub request: Option<String>,
    pub response: Option<String>,
}

/// A span as it is stored.
#[derive(Debug)]
pub(crate) struct ReadySpan {
    pub id: String,
    pub parent: Option<String>,
    pub name: String,
    pub kind: Option<String>,
    pub status: &'static str,
    /// Nanoseconds UTC.
    pub start: i64,
    /// Nanoseconds.
    pub duration: i64,
    pub usage: Option<String>,
    pub cost: Option<String>,
    /// Which model of language it called, and whose.
    pub model: Option<String>,
    pub provider: Option<String>,
    pub size: i64,
    pub content: Vec<u8>,
}

/// Makes spans ready, by trace, and says which are none.
///
/// # Errors
/// When they cannot be compressed.
pub(crate) fn ready(sent: Vec<Sent>) -> Result<(Vec<Ready>, Logged)> {
    let mut compressor = zstd::bulk::Compressor::new(1).map_err(|e| Error::internal(&e))?;
    let (mut parts, mut logged) = (Vec::<Ready>::new(), Logged::default());
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut json_values = JSON_VALUES;
    for Sent { resource, spans } in sent {
        let resource: Arc<[Pair]> = resource_tags(&resource).into();
        for span in spans {
            let Some(trace_id) = hex(&span.trace_id, 16).map(|digits| format!("tr-{digits}")) else {
                logged.refuse(1, || "a span has no trace id of 16 bytes".into());
                continue;
            };
            let Some(id) = hex(&span.span_id, 8) else {
                logged.refuse(1, || "a span has no id of 8 bytes".into());
                continue;
            };
            let place = places.get(&trace_id).copied();
            if place.is_none() && places.len() == TRACES {
                logged.refuse(1, || format!("a request can have spans of at most {TRACES} traces"));
                continue;
            }
            let at = match place.filter(|at| parts[*at].spans.len() < PART && parts[*at].size < PART_BYTES) {
                Some(at) => at,
                None => {
                    let resource = if place.is_none() { Arc::clone(&resource) } else { Arc::default() };
                    parts.push(Ready::new(trace_id.clone(), resource));
                    places.insert(trace_id, parts.len() - 1);
                    parts.len() - 1
                }
            };
            parts[at].add(id, span, &mut json_values, &mut compressor)?;
        }
    }
    Ok((parts, logged))
}

/// Makes one span ready whose trace is known by another id than the span says.
///
/// # Errors
/// When it has no id.
pub(crate) fn ready_alone(trace_id: &str, span: Span) -> Result<ReadySpan> {
    let mut compressor = zstd::bulk::Compressor::new(1).map_err(|e| Error::internal(&e))?;
    let id = hex(&span.span_id, 8).ok_or_else(|| Error::invalid("a span has no id of 8 bytes"))?;
    let (mut ready, mut json_values) = (Ready::new(trace_id.into(), Arc::default()), JSON_VALUES);
    ready.add(id, span, &mut json_values, &mut compressor)?;
    ready.spans.pop().ok_or_else(|| Error::internal(&"a span is gone"))
}

impl Ready {
    fn new(trace_id: String, resource: Arc<[Pair]>) -> Ready {
        let (spans, tags) = (Vec::new(), Vec::new());
        Ready { trace_id, spans, size: 0, start: i64::MAX, end: None, root: None, resource, tags, session: None, user: None }
    }

    fn add(&mut self, id: String, mut span: Span, json_values: &mut usize, compressor: &mut zstd::bulk::Compressor) -> Result<()> {
        let parent = hex(&span.parent_span_id, 8).filter(|p| p.bytes().any(|b| b != b'0'));
        if parent.is_none() {
            span.parent_span_id.clear();
        }
        let values = span.attributes.iter_mut().chain(span.events.iter_mut().flat_map(|e| &mut e.attributes));
        let values = values.chain(span.links.iter_mut().flat_map(|l| &mut l.attributes)).filter_map(|a| a.value.as_mut());
        for deep in values.filter(|v| !v.is_shallow()) {
            deep.value = Some(Any::Text(deep.to_json()));
        }
        // The type as it was sent: what is looked for is the word that the sender wrote.
        let kind = text(&span, key::TYPE).map(|t| shortened(t, EXTRACT));
        decode(&mut span.attributes, &self.trace_id, json_values);
        crate::dialects::translate(&mut span);
        let kind = kind.filter(|k| k != "UNKNOWN").or_else(|| text(&span, key::TYPE).map(|t| shortened(t, EXTRACT)));
        let nanos = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let (start, end) = (nanos(span.start_time_unix_nano), nanos(span.end_time_unix_nano));
        let status = status(&span);
        self.start = self.start.min(start / 1_000_000);
        self.end = self.end.max((end > 0).then_some(end / 1_000_000));
        let first = |names: &[&str]| names.iter().find_map(|name| attribute(&span, name)).map(plain).filter(|t| !t.is_empty());
        self.session = self.session.take().or_else(|| first(&["session.id", "gen_ai.conversation.id"]));
        self.user = self.user.take().or_else(|| first(&["user.id"]));
        if parent.is_none() {
            self.root = Some(Root {
                name: limits::tag_value(&span.name),
                state: if status == "ERROR" { TraceState::Error } else { TraceState::Ok },
                request: attribute(&span, key::INPUTS).map(|v| preview(v, "user")),
                response: attribute(&span, key::OUTPUTS).map(|v| preview(v, "assistant")),
            });
            let tags = span.attributes.iter().filter_map(|a| Some((a.key.strip_prefix(key::TAG)?, a.value.as_ref()?)));
            let tags = tags.map(|(name, value)| Pair { key: name.into(), value: plain(value) });
            self.tags.extend(tags.filter_map(|mut tag| limits::trace_pair(&mut tag).is_ok().then_some(tag)));
        }
        let (usage, cost) = (used(&span, key::USAGE, TOKENS), used(&span, key::COST, COSTS));
        let (model, provider) = (named(&span, key::MODEL), named(&span, key::PROVIDER));
        let bytes = span.encode_to_vec();
        let size = (bytes.len() + VALUE * span.values()) as i64;
        self.size += size;
        let content = compressor.compress(&bytes).map_err(|e| Error::internal(&e))?;
        self.spans.push(ReadySpan {
            id,
            parent,
            name: shortened(&span.name, EXTRACT),
            kind,
            status,
            start,
            duration: if end > 0 { (end - start).max(0) } else { 0 },
            usage,
            cost,
            model,
            provider,
            size,
            content,
        });
        Ok(())
    }
}

/// A span out of what was stored of it.
pub(crate) fn stored(content: &[u8], size: i64) -> Result<Span> {
    let bytes = zstd::bulk::decompress(content, usize::try_from(size).unwrap_or_default()).map_err(|e| Error::internal(&e))?;
    Span::decode(bytes.as_slice()).map_err(|e| Error::internal(&e))
}

/// What of a text is looked at in searches at most.
fn searched(text: &str) -> &str {
    &text[..text.floor_char_boundary(SEARCHED)]
}

/// Everything of a span that can be looked for, as one text. It ends somewhere beyond what is looked at.
pub(crate) fn searchable(span: &Span) -> String {
    let mut text = String::with_capacity(256);
    text.push_str("{\"name\": ");
    quote(&mut text, searched(&span.name));
    text.push_str(", \"attributes\": ");
    write_some(&mut text, &span.attributes);
    for event in span.events.iter() {
        if text.len() > SEARCHED {
            break;
        }
        text.push_str(", ");
        quote(&mut text, searched(&event.name));
        text.push_str(": ");
        write_some(&mut text, &event.attributes);
    }
    if let Some(status) = span.status.as_ref().filter(|s| !s.message.is_empty()) {
        text.push_str(", \"status\": ");
        quote(&mut text, searched(&status.message));
    }
    text.push('}');
    text
}

/// Names and values as an object, as far as they are looked at.
fn write_some(text: &mut String, members: &[KeyValue]) {
    text.push('{');
    for (at, member) in members.iter().enumerate() {
        if text.len() > SEARCHED {
            break;
        }
        text.push_str(if at == 0 { "" } else { ", " });
        write_member(text, member);
    }
    text.push('}');
}

/// Clients send values as they are, or as JSON, or as JSON of JSON: what is a text, a list or an object within a text is taken out. A number within a text
/// may be a text that was meant.
fn decode(attributes: &mut Vec<KeyValue>, trace_id: &str, json_values: &mut usize) {
    for value in attributes.iter_mut().filter_map(|a| a.value.as_mut()) {
        let Some(text) = value.as_text().filter(|t| t.starts_with(['"', '[', '{']) && t.len() < JSON) else { continue };
        // As many as there are or more: what is read takes a hundred times of memory what the text takes.
        let count = text.bytes().filter(|byte| matches!(byte, b',' | b'{' | b'[')).count();
        if count > *json_values {
            continue;
        }
        if let Some(read) = serde_json::from_str::<Value>(text).ok().and_then(|json| AnyValue::of_json(&json)) {
            *json_values -= read.values().min(count);
            *value = read;
        }
    }
    attributes.retain(|a| a.key != key::REQUEST);
    attributes.push(KeyValue::new(key::REQUEST, Any::Text(trace_id.into())));
}

/// The numbers under known names.
fn used(span: &Span, key: &str, (always, sometimes): (&[&str], &[&str])) -> Option<String> {
    let said = attribute(span, key).filter(|v| matches!(v.value, Some(Any::Members(_))))?;
    let number = |name: &&str| said.member(name).filter(|v| v.as_number().is_some_and(f64::is_finite)).cloned();
    let member = |name: &&str| Some(KeyValue { key: (*name).into(), value: Some(number(name)?) });
    let values = always.iter().chain(sometimes).filter_map(member).collect();
    Some(AnyValue { value: Some(Any::Members(KeyValueList { values })) }.to_json())
}

/// What a span is told apart by in metrics.
fn named(span: &Span, key: &str) -> Option<String> {
    text(span, key).map(|text| shortened(text, EXTRACT))
}

pub(crate) fn attribute<'a>(span: &'a Span, key: &str) -> Option<&'a AnyValue> {
    span.attributes.iter().find(|a| a.key == key)?.value.as_ref()
}

/// How a span ended, as it is looked for.
pub(crate) fn status(span: &Span) -> &'static str {
    match span.status.as_ref().map_or(0, |s| s.code) {
        1 => "OK",
        2 => "ERROR",
        _ => "UNSET",
    }
}

fn text<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    attribute(span, key)?.as_text()
}

/// A text as it is, anything else as JSON.
pub(crate) fn plain(value: &AnyValue) -> String {
    value.as_text().map_or_else(|| value.to_json(), str::to_string)
}

/// Who sent the spans, as tags of their trace; what goes beyond the limits is left out.
fn resource_tags(resource: &[KeyValue]) -> Vec<Pair> {
    let of = |a: &KeyValue| {
        let mut tag = Pair { key: a.key.clone(), value: plain(a.value.as_ref()?) };
        limits::trace_pair(&mut tag).is_ok().then_some(tag)
    };
    let told = resource.iter().filter(|a| !a.key.starts_with("telemetry.sdk.") && !a.key.starts_with("mlflow."));
    let mut left = RESOURCE_BYTES;
    let mut fits = |tag: &Pair| {
        let rest = left.checked_sub(tag.key.len() + tag.value.len());
        left = rest.unwrap_or(left);
        rest.is_some()
    };
    told.take(RESOURCE).filter_map(of).filter(|tag| fits(tag)).collect()
}

/// The last message of `role` where there are messages, else the whole.
fn preview(value: &AnyValue, role: &str) -> String {
    let messages = value.member("messages").map_or(&[][..], AnyValue::items);
    let choices = value.member("choices").map_or(&[][..], AnyValue::items);
    let is_message = |m: &&AnyValue| m.member("content").is_some();
    let mut said: Vec<&AnyValue> = messages.iter().filter(is_message).collect();
    said.extend(choices.first().and_then(|c| c.member("message")).filter(is_message));
    let of_role = said.iter().rev().find(|m| m.member("role").and_then(AnyValue::as_text) == Some(role));
    let content = of_role.or(said.last()).and_then(|m| m.member("content")).map(content).filter(|t| !t.is_empty());
    let whole = content.unwrap_or_else(|| value.to_json());
    if whole.chars().count() <= PREVIEW { whole } else { shortened(&whole, PREVIEW - 3) + "..." }
}

/// The text of a message, which may be in parts.
fn content(value: &AnyValue) -> String {
    match value.as_text() {
        Some(text) => text.to_string(),
        None => value.items().iter().find_map(|part| part.member("text")?.as_text()).unwrap_or_default().to_string(),
    }
}

fn shortened(text: &str, limit: usize) -> String {
    text.char_indices().nth(limit).map_or(text, |(at, _)| &text[..at]).to_string()
}

/// Hexadecimal digits of an id of `width` bytes; shorter ones get zeros in front.
fn hex(bytes: &[u8], width: usize) -> Option<String> {
    if bytes.is_empty() || bytes.len() > width {
        return None;
    }
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(format!("{digits:0>width$}", width = width * 2))
}

/// A span's place among others, and what it used.
pub(crate) struct Node {
    pub id: String,
    pub parent: Option<String>,
    pub used: Option<AnyValue>,
}

/// What a trace used: what a span says of itself stands for all below it. As JSON; none where nobody said anything.
pub(crate) fn total(nodes: &[Node], (always, sometimes): (&[&str], &[&str]), is_whole: bool) -> Option<String> {
    let known: HashSet<&str> = nodes.iter().map(|n| n.id.as_str()).collect();
    let mut below: HashMap<&str, Vec<&Node>> = HashMap::new();
    let mut next: Vec<&Node> = Vec::new();
    for node in nodes {
        match node.parent.as_deref().filter(|p| known.contains(p)) {
            Some(parent) => below.entry(parent).or_default().push(node),
            None => next.push(node),
        }
    }
    let mut sums: BTreeMap<&str, f64> = always.iter().map(|name| (*name, 0.)).collect();
    let mut any = false;
    while let Some(node) = next.pop() {
        match &node.used {
            Some(used) => {
                any = true;
                for name in always.iter().chain(sometimes) {
                    if let Some(number) = used.member(name).and_then(AnyValue::as_number).filter(|x| x.is_finite()) {
                        *sums.entry(name).or_default() += number;
                    }
                }
            }
            // Of spans whose parents run in a circle none is reached.
            None => next.extend(below.remove(node.id.as_str()).unwrap_or_default()),
        }
    }
    let shown = |name: &str, sum: &f64| if is_whole { format!("\"{name}\": {}", *sum as i64) } else { format!("\"{name}\": {sum:?}") };
    let members: Vec<String> = always.iter().chain(sometimes).filter_map(|name| Some(shown(name, sums.get(name)?))).collect();
    any.then(|| format!("{{{}}}", members.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, parent: Option<&str>, tokens: Option<i64>) -> Node {
        let used =
            tokens.map(|n| AnyValue::of_json(&serde_json::json!({"input_tokens": n, "output_tokens": 1, "total_tokens": n + 1})).unwrap());
        Node { id: id.into(), parent: parent.map(Into::into), used }
    }

    #[test]
    fn what_a_span_used_stands_for_all_below_it() {
        let sum = |nodes: &[Node]| total(nodes, TOKENS, true);
        let tree = [
            node("a", None, None),
            node("b", Some("a"), Some(10)),
            node("c", Some("b"), Some(9)),
            node("d", Some("a"), None),
            node("e", Some("d"), Some(5)),
            node("f", Some("not here"), Some(1)),
        ];
        assert_eq!(sum(&tree).unwrap(), r#"{"input_tokens": 16, "output_tokens": 3, "total_tokens": 19}"#);
        assert_eq!(sum(&[node("a", None, None)]), None);
        assert_eq!(sum(&[node("a", Some("b"), Some(1)), node("b", Some("a"), Some(1))]), None);
    }

    #[test]
    fn of_what_a_span_used_the_numbers_under_known_names_are_kept() {
        let usage = r#"{"input_tokens": 3, "output_tokens": "4", "a": {"deep": [1]}, "cache_read_input_tokens": 2}"#;
        let attributes = vec![KeyValue::new(key::USAGE, Any::Text(usage.into()))];
        let span = Span { trace_id: vec![1; 16], span_id: vec![1; 8], attributes, ..Span::default() };
        let (parts, logged) = ready(vec![Sent { resource: Vec::new(), spans: vec![span] }]).unwrap();
        assert_eq!((logged, parts[0].spans[0].cost.as_deref()), (Logged::default(), None));
        assert_eq!(parts[0].spans[0].usage.as_deref(), Some(r#"{"input_tokens": 3, "cache_read_input_tokens": 2}"#));
    }

    #[test]
    fn json_within_a_text_is_taken_out_as_long_as_there_is_room() {
        let read = |text: String| {
            let (mut attributes, mut left) = (vec![KeyValue::new("k", Any::Text(text))], 10);
            decode(&mut attributes, "tr-1", &mut left);
            (attributes[0].value.as_ref().unwrap().as_text().is_none(), left)
        };
        assert_eq!(read("[1, 2, 3]".into()), (true, 7));
        assert_eq!(read(format!("[{}1]", "1,".repeat(20))), (false, 10));
        assert_eq!(read(format!("[\"{}\"]", "x".repeat(JSON))), (false, 10));
    }

    #[test]
    fn many_spans_of_a_trace_are_several_parts_and_the_first_has_its_sender() {
        let span = |n: u64| Span { trace_id: vec![1; 16], span_id: n.to_be_bytes().to_vec(), ..Span::default() };
        let resource = vec![KeyValue::new("r", Any::Int(1))];
        let (parts, _) = ready(vec![Sent { resource, spans: (1..=2500).map(span).collect() }]).unwrap();
        assert_eq!(parts.iter().map(|part| (part.spans.len(), part.resource.len())).collect::<Vec<_>>(), [(1000, 1), (1000, 0), (500, 0)]);
    }

    #[test]
    fn a_span_is_made_a_text_as_far_as_it_is_looked_at() {
        let many = (0..100).map(|_| KeyValue::new("k", Any::Text("x".repeat(1 << 16)))).collect();
        let text = searchable(&Span { attributes: many, ..Span::default() });
        assert!((SEARCHED..SEARCHED + (1 << 17)).contains(&text.len()), "{}", text.len());
        assert_eq!(searched(&"ä".repeat(SEARCHED)).len(), SEARCHED);
    }

    #[test]
    fn previews_are_the_last_word_of_their_side() {
        let of = |json: Value, role| preview(&AnyValue::of_json(&json).unwrap(), role);
        let talk = serde_json::json!({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}]},
            {"role": "assistant", "content": "c"}]});
        assert_eq!(of(talk, "user"), "b");
        assert_eq!(of(serde_json::json!({"q": 1}), "user"), r#"{"q": 1}"#);
        assert_eq!(of(serde_json::json!("ä".repeat(2000)), "user").chars().count(), 1000);
    }
}
