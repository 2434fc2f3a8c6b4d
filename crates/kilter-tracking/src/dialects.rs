//! What other conventions for traces of models call the things that MLflow's clients look for: OpenTelemetry's own (`gen_ai.*`), OpenInference, Traceloop.

use crate::otel::{Any, AnyValue, KeyValue, KeyValueList, Span};
use crate::trace::{attribute, key};

/// One convention. Where a thing has several names, the first that is there counts.
struct Dialect {
    kind: &'static str,
    kinds: &'static [(&'static str, &'static str)],
    inputs: &'static [&'static str],
    outputs: &'static [&'static str],
    model: &'static [&'static str],
    provider: &'static str,
    /// Of input, output, both, those read from a cache, and those written to one.
    tokens: [&'static [&'static str]; 5],
}

const TOKENS: [&str; 5] = ["input_tokens", "output_tokens", "total_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"];

static DIALECTS: [Dialect; 3] = [
    Dialect {
        kind: "gen_ai.operation.name",
        kinds: &[
            ("chat", "CHAT_MODEL"),
            ("create_agent", "AGENT"),
            ("embeddings", "EMBEDDING"),
            ("execute_tool", "TOOL"),
            ("generate_content", "LLM"),
            ("invoke_agent", "AGENT"),
            ("text_completion", "LLM"),
            ("response", "LLM"),
        ],
        inputs: &["gen_ai.input.messages", "gen_ai.tool.call.arguments"],
        outputs: &["gen_ai.output.messages", "gen_ai.tool.call.result"],
        model: &["gen_ai.response.model", "gen_ai.request.model"],
        provider: "gen_ai.provider.name",
        tokens: [
            &["gen_ai.usage.input_tokens"],
            &["gen_ai.usage.output_tokens"],
            &[],
            &["gen_ai.usage.cache_read.input_tokens"],
            &["gen_ai.usage.cache_write.input_tokens", "gen_ai.usage.cache_creation.input_tokens"],
        ],
    },
    Dialect {
        kind: "openinference.span.kind",
        kinds: &[
            ("TOOL", "TOOL"),
            ("CHAIN", "CHAIN"),
            ("LLM", "LLM"),
            ("RETRIEVER", "RETRIEVER"),
            ("EMBEDDING", "EMBEDDING"),
            ("AGENT", "AGENT"),
            ("RERANKER", "RERANKER"),
            ("UNKNOWN", "UNKNOWN"),
            ("GUARDRAIL", "GUARDRAIL"),
            ("EVALUATOR", "EVALUATOR"),
        ],
        inputs: &["input.value"],
        outputs: &["output.value"],
        model: &["llm.response.model_name", "llm.model_name", "llm.request.model_name", "embedding.model_name"],
        provider: "llm.provider",
        tokens: [
            &["llm.token_count.prompt"],
            &["llm.token_count.completion"],
            &["llm.token_count.total"],
            &["llm.token_count.prompt_details.cache_read"],
            &["llm.token_count.prompt_details.cache_write"],
        ],
    },
    Dialect {
        kind: "traceloop.span.kind",
        kinds: &[("workflow", "WORKFLOW"), ("task", "TASK"), ("agent", "AGENT"), ("tool", "TOOL"), ("unknown", "UNKNOWN")],
        inputs: &["traceloop.entity.input"],
        outputs: &["traceloop.entity.output"],
        model: &[],
        provider: "gen_ai.system",
        tokens: [&["gen_ai.usage.prompt_tokens"], &["gen_ai.usage.completion_tokens"], &["llm.usage.total_tokens"], &[], &[]],
    },
];

/// One of the things in a span, as a convention has it.
type Find = fn(&Dialect, &Span) -> Option<Any>;

/// Adds what MLflow's clients look for under their own names, where a span has it under another. What is there stays.
pub(crate) fn translate(span: &mut Span) {
    let add = |span: &mut Span, name: &str, value: Option<Any>| {
        if let Some(value) = value {
            span.attributes.push(KeyValue::new(name, value));
        }
    };
    let is_open = attribute(span, key::TYPE).and_then(AnyValue::as_text).is_none_or(|t| t == "UNKNOWN");
    if let Some(found) = DIALECTS.iter().find_map(|d| d.kind_of(span)).filter(|_| is_open) {
        span.attributes.retain(|a| a.key != key::TYPE);
        add(span, key::TYPE, Some(Any::Text(found.into())));
    }
    let things: [(&str, Find); 5] = [
        (key::INPUTS, |d, span| first(span, d.inputs)),
        (key::OUTPUTS, |d, span| first(span, d.outputs)),
        (key::MODEL, |d, span| first(span, d.model)),
        (key::PROVIDER, |d, span| first(span, &[d.provider])),
        (key::USAGE, Dialect::usage),
    ];
    for (name, of) in things {
        if attribute(span, name).is_none() {
            let found = DIALECTS.iter().find_map(|dialect| of(dialect, span));
            add(span, name, found);
        }
    }
}

impl Dialect {
    fn kind_of(&self, span: &Span) -> Option<&'static str> {
        let word = attribute(span, self.kind)?.as_text()?;
        self.kinds.iter().find(|(known, _)| *known == word).map(|(_, kind)| *kind)
    }

    fn usage(&self, span: &Span) -> Option<Any> {
        let count = |names: &[&str]| names.iter().find_map(|name| attribute(span, name)?.as_integer());
        let mut counts = self.tokens.map(count);
        if let [Some(input), Some(output), None, ..] = counts {
            counts[2] = Some(input.saturating_add(output));
        }
        if counts[..3].iter().all(Option::is_none) {
            return None;
        }
        let values = TOKENS.iter().zip(counts).filter_map(|(name, count)| Some(KeyValue::new(*name, Any::Int(count?)))).collect();
        Some(Any::Members(KeyValueList { values }))
    }
}

/// The first that says something.
fn first(span: &Span, names: &[&str]) -> Option<Any> {
    let says = |value: &AnyValue| value.as_text() != Some("");
    names.iter().find_map(|name| attribute(span, name).filter(|value| says(value))?.value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_conventions_are_understood_and_what_is_said_in_mlflows_stays() {
        let text = |key: &str, value: &str| KeyValue::new(key, Any::Text(value.into()));
        let int = |key: &str, value| KeyValue::new(key, Any::Int(value));
        let check = |attributes: Vec<KeyValue>, want: [Option<&str>; 6]| {
            let mut span = Span { attributes, ..Span::default() };
            translate(&mut span);
            let names = [key::TYPE, key::INPUTS, key::OUTPUTS, key::MODEL, key::PROVIDER, key::USAGE];
            let got = names.map(|name| attribute(&span, name).map(crate::trace::plain));
            assert_eq!(got.each_ref().map(Option::as_deref), want);
        };
        check(
            vec![
                text("gen_ai.operation.name", "chat"),
                text("gen_ai.input.messages", "hi"),
                text("gen_ai.request.model", "m"),
                text("gen_ai.provider.name", "p"),
                int("gen_ai.usage.input_tokens", 3),
                int("gen_ai.usage.output_tokens", 4),
            ],
            [
                Some("CHAT_MODEL"),
                Some("hi"),
                None,
                Some("m"),
                Some("p"),
                Some(r#"{"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}"#),
            ],
        );
        check(
            vec![
                text("openinference.span.kind", "TOOL"),
                text("input.value", "a"),
                text("output.value", "b"),
                int("llm.token_count.total", 9),
            ],
            [Some("TOOL"), Some("a"), Some("b"), None, None, Some(r#"{"total_tokens": 9}"#)],
        );
        check(
            vec![
                text("traceloop.span.kind", "workflow"),
                text("traceloop.entity.input", ""),
                text("gen_ai.system", "s"),
                text(key::INPUTS, "own"),
            ],
            [Some("WORKFLOW"), Some("own"), None, None, Some("s"), None],
        );
        check(vec![text(key::TYPE, "AGENT"), text("gen_ai.operation.name", "chat")], [Some("AGENT"), None, None, None, None, None]);
    }
}
