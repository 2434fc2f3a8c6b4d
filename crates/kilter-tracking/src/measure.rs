//! Metrics of traces: which there are, what may be asked of each, and what is to be counted.

use crate::error::{Error, Result};
use crate::model::Pair;
use crate::trace::key;

/// Seconds of a step in time at most.
const STEP: i64 = 3_153_600_000;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsOf {
    /// Traces.
    Traces,
    /// Their spans.
    Spans,
    /// What is said of them.
    Assessments,
}

/// What becomes of the values of a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aggregation {
    /// How many there are.
    Count,
    /// All together.
    Sum,
    /// Their mean.
    Avg,
    /// The least.
    Min,
    /// The greatest.
    Max,
    /// The value below which so many in a hundred lie, between two of them where it falls there.
    Percentile(f64),
}

/// Which metric of traces is asked for, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceMetrics {
    /// Of traces in these experiments.
    pub experiments: Vec<i64>,
    /// What is measured.
    pub of: MetricsOf,
    /// The metric's name.
    pub metric: String,
    /// What is answered of each group.
    pub aggregations: Vec<Aggregation>,
    /// What groups are made by.
    pub dimensions: Vec<String>,
    /// What must hold, such as `trace.status = 'OK'`: all of it.
    pub filters: Vec<String>,
    /// Groups of so many seconds.
    pub step: Option<i64>,
    /// From this moment on, in milliseconds UTC.
    pub from: Option<i64>,
    /// Up to this moment, with it.
    pub to: Option<i64>,
    /// Groups that are answered, the first of them in the order of their times and dimensions.
    pub max_results: usize,
}

/// A group and what its values come to.
#[derive(Debug, Clone, PartialEq)]
pub struct DataPoint {
    /// When the step in time begins, in milliseconds UTC.
    pub time: Option<i64>,
    /// What it was made by.
    pub dimensions: Vec<Pair>,
    /// By the names of the aggregations.
    pub values: Vec<(String, f64)>,
}

/// How a metric is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measured {
    /// Each row counts.
    Rows,
    /// Each text counts once.
    Distinct(&'static str),
    /// A whole number.
    Number(&'static str),
    /// A member of an object in JSON.
    Member(&'static str, &'static str),
    /// A judgement in JSON.
    Judgement(&'static str),
}

/// A metric.
#[derive(Debug)]
pub(crate) struct Known {
    of: MetricsOf,
    name: &'static str,
    aggregations: &'static [&'static str],
    dimensions: &'static [&'static str],
    pub measured: Measured,
    /// When it took place is when its span began, not its trace.
    pub by_span: bool,
}

/// What a filter asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    Column(&'static str),
    Tag(String),
    Metadata(String),
}

/// A filter: something is a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    pub of: Wanted,
    pub value: String,
}

const COUNT: &[&str] = &["COUNT"];
const LATENCY: &[&str] = &["AVG", "MAX", "MIN", "PERCENTILE"];
const AMOUNT: &[&str] = &["AVG", "MAX", "MIN", "PERCENTILE", "SUM"];
const MODEL: &[&str] = &["span_model_name", "span_model_provider"];
const USAGE: &str = "(SELECT value FROM trace_metadata WHERE trace = t.id AND key = 'mlflow.trace.tokenUsage')";

const fn tokens(name: &'static str) -> Known {
    let measured = Measured::Member(USAGE, name);
    Known { of: MetricsOf::Traces, name, aggregations: AMOUNT, dimensions: &["trace_name"], measured, by_span: false }
}

const fn cost(name: &'static str) -> Known {
    let measured = Measured::Member("s.cost", name);
    Known { of: MetricsOf::Spans, name, aggregations: AMOUNT, dimensions: MODEL, measured, by_span: true }
}

const fn other(
    of: MetricsOf,
    name: &'static str,
    aggregations: &'static [&'static str],
    dimensions: &'static [&'static str],
    measured: Measured,
) -> Known {
    Known { of, name, aggregations, dimensions, measured, by_span: false }
}

/// Dimensions and aggregations are in alphabetic order, as refusals name them.
static KNOWN: [Known; 15] = [
    other(MetricsOf::Traces, "trace_count", COUNT, &["trace_name", "trace_status"], Measured::Rows),
    other(
        MetricsOf::Traces,
        "session_count",
        COUNT,
        &[],
        Measured::Distinct("(SELECT value FROM trace_metadata WHERE trace = t.id AND key = 'mlflow.trace.session')"),
    ),
    other(MetricsOf::Traces, "latency", LATENCY, &["trace_name"], Measured::Number("t.duration")),
    tokens("input_tokens"),
    tokens("output_tokens"),
    tokens("total_tokens"),
    tokens("cache_read_input_tokens"),
    tokens("cache_creation_input_tokens"),
    other(
        MetricsOf::Spans,
        "span_count",
        COUNT,
        &["span_model_name", "span_model_provider", "span_name", "span_status", "span_type"],
        Measured::Rows,
    ),
    other(MetricsOf::Spans, "latency", LATENCY, &["span_name", "span_status"], Measured::Number("s.duration / 1000000")),
    cost("input_cost"),
    cost("output_cost"),
    cost("total_cost"),
    other(MetricsOf::Assessments, "assessment_count", COUNT, &["assessment_name", "assessment_value"], Measured::Rows),
    other(MetricsOf::Assessments, "assessment_value", LATENCY, &["assessment_name"], Measured::Judgement("a.value")),
];

impl MetricsOf {
    /// Reads the name of what is measured.
    pub fn read(name: &str) -> Option<MetricsOf> {
        match name {
            "TRACES" => Some(MetricsOf::Traces),
            "SPANS" => Some(MetricsOf::Spans),
            "ASSESSMENTS" => Some(MetricsOf::Assessments),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            MetricsOf::Traces => "TRACES",
            MetricsOf::Spans => "SPANS",
            MetricsOf::Assessments => "ASSESSMENTS",
        }
    }
}

impl Aggregation {
    /// Reads an aggregation, which has a percentile or none.
    ///
    /// # Errors
    /// When there is none of this name, or with such a percentile.
    pub fn read(name: &str, percentile: Option<f64>) -> Result<Aggregation> {
        let plain = match (name, percentile) {
            ("PERCENTILE", None) => return Err(Error::invalid("Percentile value is required for PERCENTILE aggregation")),
            ("PERCENTILE", Some(of)) if (0. ..=100.).contains(&of) => return Ok(Aggregation::Percentile(of)),
            ("PERCENTILE", Some(of)) => return Err(Error::invalid(format!("Percentile value must be between 0 and 100, got {of}"))),
            ("COUNT", _) => Aggregation::Count,
            ("SUM", _) => Aggregation::Sum,
            ("AVG", _) => Aggregation::Avg,
            ("MIN", _) => Aggregation::Min,
            ("MAX", _) => Aggregation::Max,
            _ => return Err(Error::invalid(format!("'{name}' is not a valid AggregationType"))),
        };
        match percentile {
            None => Ok(plain),
            Some(_) => Err(Error::invalid(format!("Percentile value is only allowed for PERCENTILE aggregation type, got {name}"))),
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Aggregation::Count => "COUNT",
            Aggregation::Sum => "SUM",
            Aggregation::Avg => "AVG",
            Aggregation::Min => "MIN",
            Aggregation::Max => "MAX",
            Aggregation::Percentile(_) => "PERCENTILE",
        }
    }

    /// As it stands in an answer.
    pub(crate) fn name(self) -> String {
        match self {
            Aggregation::Percentile(of) => format!("P{of:?}"),
            plain => plain.kind().into(),
        }
    }

    /// Of values in their order, each with how often it is there; none where there are no values.
    pub(crate) fn of(self, values: &[(f64, u64)]) -> Option<f64> {
        let count = values.iter().map(|(_, times)| times).sum::<u64>();
        let sum = || values.iter().map(|(value, times)| value * *times as f64).sum::<f64>();
        let first = values.first()?.0;
        Some(match self {
            Aggregation::Count => count as f64,
            Aggregation::Sum => sum(),
            Aggregation::Avg => sum() / count as f64,
            Aggregation::Min => first,
            Aggregation::Max => values.last()?.0,
            Aggregation::Percentile(of) => {
                let at = of / 100. * (count - 1) as f64;
                let (low, high) = (nth(values, at as u64)?, nth(values, (at as u64 + 1).min(count - 1))?);
                low + at.fract() * (high - low)
            }
        })
    }
}

fn nth(values: &[(f64, u64)], at: u64) -> Option<f64> {
    let mut before = 0;
    values
        .iter()
        .find(|(_, times)| {
            before += times;
            before > at
        })
        .map(|(value, _)| *value)
}

impl TraceMetrics {
    /// The metric, if all that is asked of it can be.
    pub(crate) fn known(&self) -> Result<&'static Known> {
        let of_view = || KNOWN.iter().filter(|known| known.of == self.of);
        let Some(known) = of_view().find(|known| known.name == self.metric) else {
            let names: Vec<&str> = of_view().map(|known| known.name).collect();
            return Err(Error::invalid(format!("metric_name must be one of {}, got '{}'", quoted(&names), self.metric)));
        };
        let kinds: Vec<&str> = self.aggregations.iter().map(|one| one.kind()).collect();
        if let Some(wrong) = beyond(&kinds, known.aggregations) {
            let supported = quoted(known.aggregations);
            return Err(Error::invalid(format!("Found invalid aggregation_type(s): {wrong}. Supported aggregation types: {supported}")));
        }
        let dimensions: Vec<&str> = self.dimensions.iter().map(String::as_str).collect();
        if let Some(wrong) = beyond(&dimensions, known.dimensions) {
            let supported = quoted(known.dimensions);
            return Err(Error::invalid(format!("Found invalid dimension(s): {wrong}. Supported dimensions: {supported}")));
        }
        if self.step.is_some() && (self.from.is_none() || self.to.is_none()) {
            return Err(Error::invalid("start_time_ms and end_time_ms are required if time_interval_seconds is set"));
        }
        if let Some(step) = self.step.filter(|step| !(1..=STEP).contains(step)) {
            return Err(Error::invalid(format!("time_interval_seconds must be between 1 and {STEP}, got {step}")));
        }
        Ok(known)
    }

    /// What all filters ask for.
    pub(crate) fn wanted(&self) -> Result<Vec<Filter>> {
        self.filters.iter().map(|text| Filter::read(text, self.of)).collect()
    }
}

/// Those that are not supported, as Python writes a list of them.
fn beyond(asked: &[&str], supported: &[&str]) -> Option<String> {
    let mut wrong: Vec<&str> = asked.iter().copied().filter(|one| !supported.contains(one)).collect();
    wrong.sort_unstable();
    wrong.dedup();
    (!wrong.is_empty()).then(|| quoted(&wrong))
}

fn quoted(words: &[&str]) -> String {
    format!("[{}]", words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(", "))
}

impl Filter {
    fn read(text: &str, view: MetricsOf) -> Result<Filter> {
        let wrong = |what: String| Err(Error::invalid(what));
        let (name, rest) = split_name(text.trim());
        let operator: String = rest.chars().take_while(|c| "=!<>".contains(*c) || c.is_alphabetic()).collect();
        if name.is_empty() || operator.is_empty() {
            return wrong(format!("Invalid clause(s) in filter string: {text}"));
        }
        let mut parts = name.splitn(3, '.');
        let (of, Some(entity), key) = (bare(parts.next().unwrap_or_default()), parts.next(), parts.next()) else {
            return wrong(format!(
                "Invalid identifier '{name}'. Columns should be specified as 'trace.<key>', 'span.<key>', 'assessment.<key>'."
            ));
        };
        let entities: &[&str] = match of {
            "trace" => &["status", "tag", "metadata"],
            "span" => &["name", "status", "type"],
            "assessment" => &["name", "type"],
            _ => return wrong(format!("Invalid view type '{of}'. Valid values are ['trace', 'span', 'assessment']")),
        };
        let column = match (of, entity, key) {
            ("trace", "tag" | "metadata", None) => {
                return wrong(format!("Filtering by {entity} requires a key, e.g. '{of}.{entity}.<key> = <value>'"));
            }
            ("trace", "tag", Some(key)) => Wanted::Tag(bare(key).into()),
            ("trace", "metadata", Some(key)) => Wanted::Metadata(bare(key).into()),
            _ if !entities.contains(&entity) => {
                let valid = quoted(entities);
                return wrong(format!("Invalid entity '{entity}' specified for view type '{of}'. Valid entities are {valid}"));
            }
            (_, _, Some(_)) => {
                return wrong(format!("Filtering by {entity} does not require a key, use '{of}.{entity}' instead"));
            }
            ("trace", ..) => Wanted::Column("t.status"),
            ("span", "name", _) => Wanted::Column("s.name"),
            ("span", "status", _) => Wanted::Column("s.status"),
            ("span", ..) => Wanted::Column("s.type"),
            (_, "name", _) => Wanted::Column("a.name"),
            _ => Wanted::Column("a.kind"),
        };
        if operator != "=" {
            return wrong(format!("Invalid comparator: '{operator}', only '=' operator is supported"));
        }
        let needs = match of {
            "span" => Some(MetricsOf::Spans),
            "assessment" => Some(MetricsOf::Assessments),
            _ => None,
        };
        if let Some(needs) = needs.filter(|needs| *needs != view) {
            let needs = needs.as_str();
            return wrong(format!("Filtering by {of} is only supported for {needs} view type, got {}", view.as_str()));
        }
        let value = rest[operator.len()..].trim();
        let Some((quote, inner)) = value.chars().next().filter(|c| "'\"".contains(*c)).map(|quote| (quote, &value[1..])) else {
            return wrong(format!("Expected a quoted string value for {entity} value (e.g. 'my-value'). Got value {value}"));
        };
        match inner.split_once(quote) {
            Some((value, rest)) if rest.trim().is_empty() => Ok(Filter { of: column, value: value.into() }),
            Some(_) => wrong(format!("Invalid filter: '{text}'. Expected one filter clause.")),
            None => wrong(format!("Invalid clause(s) in filter string: {text}")),
        }
    }

    /// A trace may belong to a run by what is known of it, or because it was linked.
    pub(crate) fn is_of_run(&self) -> bool {
        self.of == Wanted::Metadata(key::RUN.into())
    }
}

/// What is compared, in which keys may be quoted, and the rest.
fn split_name(text: &str) -> (&str, &str) {
    let mut quote = None;
    let end = text.char_indices().find(|(_, c)| {
        match quote {
            Some(open) if open == *c => quote = None,
            None if "`\"".contains(*c) => quote = Some(*c),
            None => return c.is_whitespace() || "=!<>".contains(*c),
            Some(_) => {}
        }
        false
    });
    let (name, rest) = text.split_at(end.map_or(text.len(), |(at, _)| at));
    (name, rest.trim_start())
}

fn bare(word: &str) -> &str {
    let within = |quote: char| word.strip_prefix(quote)?.strip_suffix(quote);
    within('`').or_else(|| within('"')).unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_one_equality_each() {
        let read = |text: &str| Filter::read(text, MetricsOf::Spans);
        let is = |of, value: &str| Ok(Filter { of, value: value.into() });
        assert_eq!(read("trace.status = 'OK'"), is(Wanted::Column("t.status"), "OK"));
        assert_eq!(read(" span.name=\"a = b\" "), is(Wanted::Column("s.name"), "a = b"));
        assert_eq!(read("trace.tag.mlflow.traceName = 'x'"), is(Wanted::Tag("mlflow.traceName".into()), "x"));
        assert_eq!(read("trace.metadata.`my = key` = 'x'"), is(Wanted::Metadata("my = key".into()), "x"));
        for (text, why) in [
            ("", "Invalid clause(s)"),
            ("trace.status", "Invalid clause(s)"),
            ("status = 'OK'", "Invalid identifier 'status'"),
            ("run.name = 'x'", "Invalid view type 'run'"),
            ("trace.name = 'x'", "Invalid entity 'name' specified for view type 'trace'"),
            ("trace.tag = 'x'", "Filtering by tag requires a key"),
            ("span.name.x = 'x'", "Filtering by name does not require a key"),
            ("trace.status != 'OK'", "Invalid comparator: '!='"),
            ("trace.status LIKE 'OK'", "Invalid comparator: 'LIKE'"),
            ("trace.status = OK", "Expected a quoted string value"),
            ("trace.status = 'OK", "Invalid clause(s)"),
            ("trace.status = 'OK' AND span.name = 'x'", "Expected one filter clause"),
            ("assessment.name = 'x'", "Filtering by assessment is only supported for ASSESSMENTS view type, got SPANS"),
        ] {
            let error = read(text).unwrap_err().message;
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn percentiles_lie_between_values() {
        let values = [(1., 2), (3., 1), (10., 1)];
        let of = |percentile| Aggregation::Percentile(percentile).of(&values).unwrap();
        assert_eq!([0., 25., 50., 75., 100.].map(of), [1., 1., 2., 4.75, 10.]);
        assert_eq!(Aggregation::Percentile(99.9).name(), "P99.9");
        assert_eq!(Aggregation::Percentile(50.).name(), "P50.0");
        assert_eq!((Aggregation::Avg.of(&values), Aggregation::Sum.of(&[])), (Some(3.75), None));
    }
}
