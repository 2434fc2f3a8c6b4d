//! What MLflow's `filter` and `order_by` say, read into comparisons.
//!
//! Comparisons are joined by AND and by nothing else. What each search knows is a table ([`Search`]); the store makes SQL of what was read.

use regex::{Regex, RegexBuilder};

use crate::error::{Error, Result};

/// Comparisons in one filter at most, bytes of a pattern, texts of a list and of all lists, keys to sort by: what the database takes without complaint,
/// and in a time that a client waits.
const COMPARISONS: usize = 100;
const PATTERN: usize = 500;
const LIST: usize = 1_000;
const LISTED: usize = 10_000;
const ORDERS: usize = 20;
/// Bytes that a regular expression may take when it is made ready.
const REGEX: usize = 1 << 19;
/// Bytes up to which an expression is a small one, and bytes of a text that small ones and larger ones look at.
const SMALL: usize = 1 << 16;
pub(crate) const SEARCHED: usize = 1 << 20;
const SEARCHED_BY_LARGE: usize = 1 << 16;

/// One search: which entities it knows, and which attributes.
pub(crate) struct Search {
    entities: &'static [Entity],
    attributes: &'static [Attribute],
    /// Attributes that can be sorted by and not compared.
    sorts: &'static [&'static str],
    /// What can be sorted by beside attributes.
    sorted: &'static [Kind],
}

struct Entity {
    kind: Kind,
    name: &'static str,
    aliases: &'static [&'static str],
}

/// What a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Metric,
    Param,
    Tag,
    Attribute,
    Dataset,
    /// Of a trace, what is not to be changed later.
    Metadata,
    Span,
    Feedback,
    Expectation,
    Issue,
}

struct Attribute {
    name: &'static str,
    aliases: &'static [&'static str],
    takes: Takes,
}

/// What an attribute is compared to.
#[derive(Clone, Copy, PartialEq)]
enum Takes {
    Number,
    Text,
    /// A text, or a list of them.
    Texts,
}

const TAG: Entity = Entity { kind: Kind::Tag, name: "tag", aliases: &["tags"] };
const ATTRIBUTE: Entity = Entity { kind: Kind::Attribute, name: "attribute", aliases: &["attributes", "attr", "run"] };

pub(crate) static RUNS: Search = Search {
    entities: &[
        Entity { kind: Kind::Metric, name: "metric", aliases: &["metrics"] },
        Entity { kind: Kind::Param, name: "parameter", aliases: &["parameters", "param", "params"] },
        TAG,
        ATTRIBUTE,
        Entity { kind: Kind::Dataset, name: "dataset", aliases: &["datasets"] },
    ],
    attributes: &[
        Attribute { name: "run_id", aliases: &[], takes: Takes::Texts },
        Attribute { name: "run_name", aliases: &["run name", "Run name", "Run Name"], takes: Takes::Text },
        Attribute { name: "status", aliases: &[], takes: Takes::Text },
        Attribute { name: "artifact_uri", aliases: &[], takes: Takes::Text },
        Attribute { name: "user_id", aliases: &[], takes: Takes::Text },
        Attribute { name: "start_time", aliases: &["created", "Created"], takes: Takes::Number },
        Attribute { name: "end_time", aliases: &[], takes: Takes::Number },
    ],
    sorts: &[],
    sorted: &[Kind::Metric, Kind::Param, Kind::Tag],
};

pub(crate) static EXPERIMENTS: Search = Search {
    entities: &[ATTRIBUTE, TAG],
    attributes: &[
        Attribute { name: "name", aliases: &[], takes: Takes::Text },
        Attribute { name: "experiment_id", aliases: &[], takes: Takes::Texts },
        Attribute { name: "creation_time", aliases: &[], takes: Takes::Number },
        Attribute { name: "last_update_time", aliases: &[], takes: Takes::Number },
    ],
    sorts: &[],
    sorted: &[],
};

pub(crate) static LOGGED_MODELS: Search = Search {
    entities: &[
        Entity { kind: Kind::Attribute, name: "attributes", aliases: &[] },
        Entity { kind: Kind::Metric, name: "metrics", aliases: &[] },
        Entity { kind: Kind::Param, name: "params", aliases: &[] },
        Entity { kind: Kind::Tag, name: "tags", aliases: &[] },
    ],
    attributes: &[
        Attribute { name: "name", aliases: &[], takes: Takes::Texts },
        Attribute { name: "model_id", aliases: &[], takes: Takes::Texts },
        Attribute { name: "model_type", aliases: &[], takes: Takes::Texts },
        Attribute { name: "status", aliases: &[], takes: Takes::Texts },
        Attribute { name: "source_run_id", aliases: &[], takes: Takes::Texts },
        Attribute { name: "creation_timestamp", aliases: &["creation_timestamp_ms", "creation_time"], takes: Takes::Number },
        Attribute { name: "last_updated_timestamp", aliases: &["last_updated_timestamp_ms"], takes: Takes::Number },
    ],
    sorts: &[],
    sorted: &[Kind::Metric],
};

pub(crate) static REGISTERED_MODELS: Search = Search {
    entities: &[ATTRIBUTE, TAG],
    attributes: &[Attribute { name: "name", aliases: &[], takes: Takes::Texts }],
    sorts: &["creation_timestamp", "last_updated_timestamp"],
    sorted: &[],
};

pub(crate) static MODEL_VERSIONS: Search = Search {
    entities: &[ATTRIBUTE, TAG],
    attributes: &[
        Attribute { name: "name", aliases: &[], takes: Takes::Texts },
        Attribute { name: "version_number", aliases: &[], takes: Takes::Number },
        Attribute { name: "run_id", aliases: &[], takes: Takes::Texts },
        Attribute { name: "source_path", aliases: &[], takes: Takes::Text },
    ],
    sorts: &["creation_timestamp", "last_updated_timestamp"],
    sorted: &[],
};

pub(crate) static TRACES: Search = Search {
    entities: &[
        TAG,
        Entity { kind: Kind::Metadata, name: "request_metadata", aliases: &["metadata"] },
        Entity { kind: Kind::Attribute, name: "attribute", aliases: &["attributes", "trace"] },
        Entity { kind: Kind::Span, name: "span", aliases: &[] },
        Entity { kind: Kind::Feedback, name: "feedback", aliases: &[] },
        Entity { kind: Kind::Expectation, name: "expectation", aliases: &[] },
        Entity { kind: Kind::Issue, name: "issue", aliases: &[] },
    ],
    attributes: &[
        Attribute { name: "request_id", aliases: &[], takes: Takes::Texts },
        Attribute { name: "timestamp_ms", aliases: &["timestamp"], takes: Takes::Number },
        Attribute { name: "execution_time_ms", aliases: &["execution_time"], takes: Takes::Number },
        Attribute { name: "end_time_ms", aliases: &["end_time"], takes: Takes::Number },
        Attribute { name: "status", aliases: &[], takes: Takes::Texts },
        Attribute { name: "name", aliases: &[], takes: Takes::Texts },
        Attribute { name: "run_id", aliases: &[], takes: Takes::Texts },
        Attribute { name: "client_request_id", aliases: &[], takes: Takes::Texts },
        Attribute { name: "prompt", aliases: &[], takes: Takes::Text },
        Attribute { name: "text", aliases: &[], takes: Takes::Text },
    ],
    sorts: &["experiment_id"],
    sorted: &[],
};

pub(crate) static EVALUATION_DATASETS: Search = Search {
    entities: &[ATTRIBUTE, TAG],
    attributes: &[
        Attribute { name: "name", aliases: &[], takes: Takes::Texts },
        Attribute { name: "created_time", aliases: &[], takes: Takes::Number },
        Attribute { name: "last_update_time", aliases: &[], takes: Takes::Number },
        Attribute { name: "created_by", aliases: &[], takes: Takes::Text },
        Attribute { name: "last_updated_by", aliases: &[], takes: Takes::Text },
    ],
    sorts: &[],
    sorted: &[],
};

/// What of a span is compared beside `attributes.NAME`.
const SPAN_KEYS: [&str; 4] = ["name", "type", "status", "content"];
const DATASET_KEYS: [&str; 3] = ["name", "digest", "context"];

/// One comparison of a filter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Comparison {
    pub kind: Kind,
    /// Of an attribute, the name it has in the table.
    pub key: String,
    pub op: Op,
    pub value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Like,
    Ilike,
    /// A regular expression, found anywhere; traces only.
    Rlike,
    In,
    NotIn,
    IsNull,
    IsNotNull,
}

impl Op {
    /// As it stands in a filter, and in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Op::Eq => "=",
            Op::Ne => "!=",
            Op::Lt => "<",
            Op::Le => "<=",
            Op::Gt => ">",
            Op::Ge => ">=",
            Op::Like => "LIKE",
            Op::Ilike => "ILIKE",
            Op::Rlike => "RLIKE",
            Op::In => "IN",
            Op::NotIn => "NOT IN",
            Op::IsNull => "IS NULL",
            Op::IsNotNull => "IS NOT NULL",
        }
    }

    fn is_of_numbers(self) -> bool {
        matches!(self, Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge)
    }

    fn is_of_texts(self) -> bool {
        matches!(self, Op::Eq | Op::Ne | Op::Like | Op::Ilike)
    }

    fn is_of_order(self) -> bool {
        matches!(self, Op::Lt | Op::Le | Op::Gt | Op::Ge)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Number(f64),
    Text(String),
    Texts(Vec<String>),
    None,
}

/// One key to sort by.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Order {
    pub kind: Kind,
    pub key: String,
    pub descending: bool,
}

impl Search {
    /// Reads a filter; an empty one is no comparison.
    pub fn filter(&self, text: &str) -> Result<Vec<Comparison>> {
        let mut reader = Reader { rest: text.trim() };
        let (mut comparisons, mut listed) = (Vec::new(), 0);
        while !reader.rest.is_empty() {
            if !comparisons.is_empty() {
                let joint = reader.clause();
                if !reader.keyword("AND") || reader.rest.is_empty() {
                    return Err(Error::invalid(format!("Invalid clause(s) in filter string: '{joint}'")));
                }
            }
            if comparisons.len() == COMPARISONS {
                return Err(Error::invalid(format!("Invalid filter string: more than {COMPARISONS} comparisons")));
            }
            let comparison = self.comparison(&mut reader)?;
            if let Value::Texts(texts) = &comparison.value {
                listed += texts.len();
            }
            if listed > LISTED {
                return Err(Error::invalid(format!("Invalid filter string: lists of more than {LISTED} values together")));
            }
            comparisons.push(comparison);
        }
        Ok(comparisons)
    }

    fn comparison(&self, reader: &mut Reader) -> Result<Comparison> {
        let clause = reader.rest;
        let nonsense = || Error::invalid(format!("Invalid clause(s) in filter string: '{}'", first(clause)));
        let name = reader.name().ok_or_else(nonsense)?;
        let op = reader.op().ok_or_else(nonsense)?;
        let (kind, key) = self.key(name)?;
        let value = if matches!(op, Op::IsNull | Op::IsNotNull) { Value::None } else { reader.value()? };
        self.check(kind, &key, op, &value)?;
        Ok(Comparison { kind, key, op, value })
    }

    /// Whether this may be compared so.
    fn check(&self, kind: Kind, key: &str, op: Op, value: &Value) -> Result<()> {
        if matches!(value, Value::Texts(texts) if texts.len() > LIST) {
            return Err(Error::invalid(format!("Invalid filter string: a list of more than {LIST} values")));
        }
        if matches!((op, value), (Op::Like | Op::Ilike, Value::Text(text)) if text.len() > PATTERN) {
            return Err(Error::invalid(format!("Invalid filter string: a pattern of more than {PATTERN} bytes")));
        }
        if let (Op::Rlike, Value::Text(text)) = (op, value) {
            regex(text)?;
        }
        let takes = match kind {
            Kind::Metric => {
                let Value::Number(_) = value else {
                    return Err(Error::invalid(format!("Expected numeric value type for metric. Found {}", value.shown())));
                };
                Takes::Number
            }
            Kind::Feedback | Kind::Expectation if op.is_of_order() => Takes::Number,
            Kind::Param | Kind::Tag | Kind::Metadata | Kind::Feedback | Kind::Expectation | Kind::Issue => Takes::Text,
            Kind::Dataset | Kind::Span => Takes::Texts,
            Kind::Attribute => self.attributes.iter().find(|a| a.name == key).map_or(Takes::Text, |a| a.takes),
        };
        let what = match kind {
            Kind::Param => "parameter",
            Kind::Tag => "tag",
            Kind::Metric => "metric",
            Kind::Dataset => "dataset attribute",
            Kind::Attribute => "attribute",
            Kind::Metadata => "metadata",
            Kind::Span => "span",
            Kind::Feedback => "feedback",
            Kind::Expectation => "expectation",
            Kind::Issue => "issue",
        };
        let listed = matches!(value, Value::Texts(_));
        let fits = match (op, takes) {
            _ if kind == Kind::Issue || (kind == Kind::Attribute && key == "prompt") => op == Op::Eq,
            _ if (kind, key) == (Kind::Span, "content") || (kind, key) == (Kind::Attribute, "text") => {
                matches!(op, Op::Like | Op::Ilike)
            }
            (Op::In | Op::NotIn, Takes::Texts) => listed,
            (Op::IsNull | Op::IsNotNull, _) => {
                matches!(kind, Kind::Param | Kind::Tag | Kind::Metadata | Kind::Feedback | Kind::Expectation)
            }
            (op, Takes::Number) => op.is_of_numbers(),
            (Op::Rlike, _) => self.entities.iter().any(|e| e.kind == Kind::Span),
            (op, _) => op.is_of_texts() && !listed,
        };
        let quoted = || Error::invalid(format!("Expected a quoted string value for {what} (e.g. 'my-value'). Got value {}", value.shown()));
        match (takes, value) {
            (Takes::Text, Value::Texts(_)) if kind == Kind::Attribute => {
                let listed: Vec<String> =
                    self.attributes.iter().filter(|a| a.takes == Takes::Texts).map(|a| format!("'{}'", a.name)).collect();
                Err(Error::invalid(format!(
                    "Only [{}] attributes support comparison with a list of quoted string values.",
                    listed.join(", ")
                )))
            }
            (Takes::Number, Value::Text(_) | Value::Texts(_)) if kind != Kind::Attribute => Err(Error::invalid(format!(
                "Expected a numeric value for {what} when using comparator '{}'. Got value {}",
                op.as_str(),
                value.shown()
            ))),
            (Takes::Number, Value::Text(_) | Value::Texts(_)) => {
                Err(Error::invalid(format!("Expected numeric value type for numeric attribute: {key}. Found {}", value.shown())))
            }
            (Takes::Text | Takes::Texts, Value::Number(_)) => Err(quoted()),
            (_, Value::Texts(_)) if !matches!(op, Op::In | Op::NotIn) => Err(quoted()),
            _ if !fits => Err(Error::invalid(format!("Invalid comparator '{}' for {what} '{key}'", op.as_str()))),
            _ => Ok(()),
        }
    }

    /// Reads `order_by`.
    pub fn orders(&self, texts: &[String]) -> Result<Vec<Order>> {
        if texts.len() > ORDERS {
            return Err(Error::invalid(format!("Invalid order_by: more than {ORDERS} keys")));
        }
        texts.iter().map(|text| self.order(text)).collect()
    }

    /// Reads one key to sort by.
    pub fn order(&self, text: &str) -> Result<Order> {
        let mut reader = Reader { rest: text.trim() };
        let bad = || Error::invalid(format!("Invalid order_by clause '{text}'. Could not be parsed."));
        let name = reader.name().ok_or_else(bad)?;
        let descending = reader.keyword("DESC");
        if !descending {
            reader.keyword("ASC");
        }
        if !reader.rest.is_empty() {
            return Err(Error::invalid(format!("Invalid ordering key in order_by clause '{text}'.")));
        }
        let (kind, key) = match &name {
            Name { entity: None, key } if self.sorts.contains(&key.as_str()) => (Kind::Attribute, key.clone()),
            _ => self.key(name)?,
        };
        if kind != Kind::Attribute && !self.sorted.contains(&kind) {
            return Err(Error::invalid(format!("Invalid order_by clause '{text}': this cannot be sorted by.")));
        }
        Ok(Order { kind, key, descending })
    }

    /// What a name means in this search.
    fn key(&self, name: Name) -> Result<(Kind, String)> {
        let Some(entity) = &name.entity else { return Ok((Kind::Attribute, self.attribute(&name.key)?)) };
        let found = self.entities.iter().find(|e| e.name == entity || e.aliases.contains(&entity.as_str()));
        let kind = found.map(|e| e.kind).ok_or_else(|| {
            let names: Vec<String> = self.entities.iter().map(|e| format!("'{}'", e.name)).collect();
            Error::invalid(format!("Invalid entity type '{entity}'. Valid values are [{}]", names.join(", ")))
        })?;
        match kind {
            Kind::Attribute => Ok((kind, self.attribute(&name.key)?)),
            Kind::Span if name.key.strip_prefix("attributes.").is_none_or(str::is_empty) && !SPAN_KEYS.contains(&name.key.as_str()) => {
                Err(Error::invalid(format!(
                    "Invalid span attribute '{}'. Supported attributes: {}, attributes.<attribute_name>.",
                    name.key,
                    SPAN_KEYS.join(", ")
                )))
            }
            Kind::Issue if name.key != "id" => {
                Err(Error::invalid(format!("Invalid issue attribute '{}'. Supported attributes: id", name.key)))
            }
            Kind::Dataset if !DATASET_KEYS.contains(&name.key.as_str()) => {
                Err(Error::invalid(format!("Invalid dataset key '{}' specified. Valid keys are '{}'", name.key, DATASET_KEYS.join(", "))))
            }
            _ => Ok((kind, name.key)),
        }
    }

    fn attribute(&self, key: &str) -> Result<String> {
        let found = self.attributes.iter().find(|a| a.name == key || a.aliases.contains(&key));
        found.map(|a| a.name.to_string()).ok_or_else(|| {
            let names: Vec<String> = self
                .attributes
                .iter()
                .flat_map(|a| [a.name].into_iter().chain(a.aliases.iter().copied()))
                .map(|n| format!("'{n}'"))
                .collect();
            Error::invalid(format!("Invalid attribute key '{key}' specified. Valid keys are '{{{}}}'", names.join(", ")))
        })
    }
}

impl Value {
    fn shown(&self) -> String {
        match self {
            Value::Number(x) => x.to_string(),
            Value::Text(text) => format!("'{text}'"),
            Value::Texts(_) => "a list".into(),
            Value::None => "nothing".into(),
        }
    }
}

/// `entity.key`, or a key alone.
struct Name {
    entity: Option<String>,
    key: String,
}

/// Reads from the front; `rest` never begins with a space.
struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn advance(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest.trim_start();
        taken
    }

    /// The word at the front, as it is shown where it makes no sense.
    fn clause(&self) -> &'a str {
        first(self.rest)
    }

    fn keyword(&mut self, word: &str) -> bool {
        let found =
            self.rest.get(..word.len()).is_some_and(|w| w.eq_ignore_ascii_case(word)) && !self.rest[word.len()..].starts_with(is_word);
        if found {
            self.advance(word.len());
        }
        found
    }

    /// A text in one of `quotes`; the quote twice is the quote itself. None, too, where it does not end.
    fn quoted(&mut self, quotes: &[char]) -> Option<String> {
        let quote = self.rest.chars().next().filter(|c| quotes.contains(c))?;
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            if c != quote {
                text.push(c);
            } else if chars.next_if(|(_, next)| *next == quote).is_some() {
                text.push(quote);
            } else {
                self.advance(at + quote.len_utf8());
                return Some(text);
            }
        }
        None
    }

    fn name(&mut self) -> Option<Name> {
        const QUOTES: [char; 2] = ['"', '`'];
        if let Some(key) = self.quoted(&QUOTES) {
            return Some(Name { entity: None, key });
        }
        let word = &self.rest[..self.rest.find(|c| !is_word(c) && c != '.').unwrap_or(self.rest.len())];
        let bare = self.rest[word.len()..].chars().next();
        match word.split_once('.') {
            Some((entity, within)) if word.ends_with('.') && bare.is_some_and(|c| QUOTES.contains(&c)) => {
                self.rest = &self.rest[word.len()..];
                Some(Name { entity: Some(entity.to_string()), key: format!("{within}{}", self.quoted(&QUOTES)?) })
            }
            Some((entity, key)) if !entity.is_empty() && !key.is_empty() => {
                self.advance(word.len());
                Some(Name { entity: Some(entity.to_string()), key: key.to_string() })
            }
            None if !word.is_empty() => {
                self.advance(word.len());
                Some(Name { entity: None, key: word.to_string() })
            }
            _ => None,
        }
    }

    fn op(&mut self) -> Option<Op> {
        const SIGNS: [(&str, Op); 7] =
            [(">=", Op::Ge), ("<=", Op::Le), ("!=", Op::Ne), ("<>", Op::Ne), ("=", Op::Eq), (">", Op::Gt), ("<", Op::Lt)];
        if let Some((sign, op)) = SIGNS.into_iter().find(|(sign, _)| self.rest.starts_with(sign)) {
            self.advance(sign.len());
            return Some(op);
        }
        if self.keyword("LIKE") {
            return Some(Op::Like);
        }
        if self.keyword("ILIKE") {
            return Some(Op::Ilike);
        }
        if self.keyword("RLIKE") {
            return Some(Op::Rlike);
        }
        if self.keyword("IN") {
            return Some(Op::In);
        }
        if self.keyword("NOT") {
            return self.keyword("IN").then_some(Op::NotIn);
        }
        if self.keyword("IS") {
            let not = self.keyword("NOT");
            return self.keyword("NULL").then_some(if not { Op::IsNotNull } else { Op::IsNull });
        }
        None
    }

    fn value(&mut self) -> Result<Value> {
        if let Some(text) = self.quoted(&['\'', '"']) {
            return Ok(Value::Text(text));
        }
        if self.rest.starts_with('(') {
            return self.list();
        }
        let word = &self.rest[..self.rest.find(|c: char| c.is_whitespace() || c == ')').unwrap_or(self.rest.len())];
        let is_number = word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
        if let (true, Ok(number)) = (is_number, word.parse::<f64>())
            && number.is_finite()
        {
            self.advance(word.len());
            return Ok(Value::Number(number));
        }
        Err(Error::invalid(format!(
            "Parameter value is either not quoted or unidentified quote types used for string value {word}. Use either single or double \
             quotes."
        )))
    }

    fn list(&mut self) -> Result<Value> {
        let bad = || {
            Error::invalid(
                "While parsing a list in the query, expected a non-empty list of string values, separated by commas and in parentheses",
            )
        };
        self.advance(1);
        let mut texts = Vec::new();
        loop {
            texts.push(self.quoted(&['\'', '"']).ok_or_else(bad)?);
            match self.rest.chars().next() {
                Some(',') => drop(self.advance(1)),
                Some(')') => break,
                _ => return Err(bad()),
            }
            // Python writes a list of one as ('a',).
            if self.rest.starts_with(')') {
                break;
            }
        }
        self.advance(1);
        Ok(Value::Texts(texts))
    }
}

/// What texts are tried by. A match takes as long as the expression is large and the text is long, so a large one looks at the beginning of a text only.
#[derive(Debug, Clone)]
pub(crate) struct Expression {
    regex: Regex,
    /// Bytes of a text that are looked at.
    most: usize,
}

impl Expression {
    pub fn new(pattern: &mut RegexBuilder, largest: usize) -> std::result::Result<Expression, regex::Error> {
        if let Ok(regex) = pattern.size_limit(SMALL.min(largest)).build() {
            return Ok(Expression { regex, most: SEARCHED });
        }
        Ok(Expression { regex: pattern.size_limit(largest).build()?, most: SEARCHED_BY_LARGE })
    }

    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(&text[..text.floor_char_boundary(self.most)])
    }
}

/// A regular expression of bounded size.
pub(crate) fn regex(pattern: &str) -> Result<Expression> {
    if pattern.len() > PATTERN {
        return Err(Error::invalid(format!("Invalid filter string: a pattern of more than {PATTERN} bytes")));
    }
    Expression::new(&mut RegexBuilder::new(pattern), REGEX)
        .map_err(|e| Error::invalid(format!("Invalid regular expression '{pattern}': {}", e.to_string().replace('\n', " "))))
}

fn first(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(filter: &str, words: &str) {
        let error = RUNS.filter(filter).unwrap_err();
        assert!(error.message.contains(words), "{filter}: {}", error.message);
    }

    #[test]
    fn a_large_expression_looks_at_the_beginning_of_a_text() {
        let text = format!("{}end", " ".repeat(SEARCHED_BY_LARGE));
        assert!(regex("end$").unwrap().is_match(&text));
        let large = regex(r"end$|\w{8}").unwrap();
        assert!(large.is_match("the end") && !large.is_match(&text));
        assert!(!regex("end").unwrap().is_match(&format!("{}end", "ä".repeat(SEARCHED))));
        assert!(regex(r"\w{500}").is_err());
    }

    #[test]
    fn every_form_of_key_and_value_is_read() {
        let of = |kind, key: &str, op, value| Comparison { kind, key: key.into(), op, value };
        let text = |t: &str| Value::Text(t.into());
        for (filter, want) in [
            ("metrics.acc > 0.6", of(Kind::Metric, "acc", Op::Gt, Value::Number(0.6))),
            ("metric.a.b<=-1e3", of(Kind::Metric, "a.b", Op::Le, Value::Number(-1000.))),
            ("metrics.`a b` <> 5", of(Kind::Metric, "a b", Op::Ne, Value::Number(5.))),
            ("params.\"q\"='it''s'", of(Kind::Param, "q", Op::Eq, text("it's"))),
            ("tags.mlflow.source.name like \"x%\"", of(Kind::Tag, "mlflow.source.name", Op::Like, text("x%"))),
            ("`Run Name` ILIKE 'a and b'", of(Kind::Attribute, "run_name", Op::Ilike, text("a and b"))),
            ("attr.created >= 5", of(Kind::Attribute, "start_time", Op::Ge, Value::Number(5.))),
            ("run_id NOT IN ('a', \"b\",)", of(Kind::Attribute, "run_id", Op::NotIn, Value::Texts(vec!["a".into(), "b".into()]))),
            ("tag.b is not null", of(Kind::Tag, "b", Op::IsNotNull, Value::None)),
            ("datasets.digest IN ('abc')", of(Kind::Dataset, "digest", Op::In, Value::Texts(vec!["abc".into()]))),
        ] {
            assert_eq!(RUNS.filter(filter).unwrap(), [want], "{filter}");
        }
        assert_eq!(RUNS.filter("metrics.a > 1 and params.b = 'x'  AND status = 'FINISHED'").unwrap().len(), 3);
        assert!(RUNS.filter("  ").unwrap().is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_mlflows_words() {
        refused("metrics.acc > 0.6 OR metrics.acc < 0", "Invalid clause(s) in filter string: 'OR'");
        refused("metrics.acc", "Invalid clause(s) in filter string: 'metrics.acc'");
        refused("(metrics.acc > 1)", "Invalid clause(s)");
        refused("metrics.acc > 1 AND", "Invalid clause(s)");
        refused("foo.bar = 'x'", "Invalid entity type 'foo'. Valid values are ['metric', 'parameter', 'tag', 'attribute', 'dataset']");
        refused("attributes.nope = 'x'", "Invalid attribute key 'nope'");
        refused("metrics.acc > '0.6'", "Expected numeric value type for metric. Found '0.6'");
        refused("params.p = 1", "Expected a quoted string value for parameter (e.g. 'my-value'). Got value 1");
        refused("tags.b = c", "quote types used for string value c. Use either");
        refused("status IN ('FINISHED')", "Only ['run_id'] attributes support comparison with a list of quoted string values.");
        refused("metrics.a IS NULL", "metric");
        refused("status IS NULL", "Invalid comparator");
        for listed in
            ["run_id = ('a', 'b')", "run_id LIKE ('a')", "params.p != ('a', 'b')", "datasets.name LIKE ('a')", "tags.t ILIKE ('a')"]
        {
            refused(listed, "Expected a quoted string value for");
        }
        refused("params.p IN ('a')", "Invalid comparator 'IN'");
        refused("run_id IN 5", "Expected a quoted string value");
        refused(&format!("tags.a LIKE '{}'", "x".repeat(501)), "more than 500 bytes");
        refused("params.a > 'x'", "Invalid comparator '>'");
        refused("run_id IN ()", "non-empty list");
        refused("tags.a = 'open", "not quoted");
        refused(&"x = 1 AND ".repeat(200), "Invalid attribute key");
        refused(&format!("run_id IN ({}'x')", "'x',".repeat(1000)), "more than 1000 values");
        let list = format!("run_id IN ({}'x')", "'x',".repeat(999));
        refused(&format!("{}{list}", format!("{list} AND ").repeat(10)), "more than 10000 values");
        assert!(RUNS.orders(&vec!["status".to_string(); 21]).is_err() && RUNS.orders(&vec!["status".to_string(); 20]).is_ok());
        refused(&format!("{}status = 'A'", "status = 'A' AND ".repeat(100)), "more than 100");
        assert!(EXPERIMENTS.filter("metrics.a > 1").unwrap_err().message.contains("Valid values are ['attribute', 'tag']"));
    }

    #[test]
    fn orders_are_read() {
        let of = |kind, key: &str, descending| Order { kind, key: key.into(), descending };
        assert_eq!(RUNS.order("metrics.`a b` DESC").unwrap(), of(Kind::Metric, "a b", true));
        assert_eq!(RUNS.order("attribute.start_time desc").unwrap(), of(Kind::Attribute, "start_time", true));
        assert_eq!(RUNS.order("params.p").unwrap(), of(Kind::Param, "p", false));
        for bad in ["nope.x ASC", "metrics.acc SIDEWAYS", "", "dataset.name", "metrics.a ASC DESC"] {
            assert!(RUNS.order(bad).is_err(), "{bad}");
        }
        assert!(EXPERIMENTS.order("tags.a").is_err() && EXPERIMENTS.order("name ASC").is_ok());
    }

    fn written(c: &Comparison) -> String {
        let entity = ["metrics", "params", "tags", "attributes", "datasets"][c.kind as usize];
        let quoted = |t: &String| format!("'{}'", t.replace('\'', "''"));
        let value = match &c.value {
            Value::Number(x) => format!("{x:?}"),
            Value::Text(text) => quoted(text),
            Value::Texts(texts) => format!("({})", texts.iter().map(quoted).collect::<Vec<_>>().join(", ")),
            Value::None => String::new(),
        };
        format!("{entity}.`{}` {} {value}", c.key.replace('`', "``"), c.op.as_str())
    }

    fn comparison() -> impl Strategy<Value = Comparison> {
        let metric = (".{1,9}", prop::sample::select(vec![Op::Eq, Op::Ne, Op::Lt, Op::Le, Op::Gt, Op::Ge]), -1e9..1e9_f64)
            .prop_map(|(key, op, x)| Comparison { kind: Kind::Metric, key, op, value: Value::Number(x) });
        let pair = (".{1,9}", prop::sample::select(vec![Op::Eq, Op::Ne, Op::Like, Op::Ilike]), ".{0,9}", any::<bool>()).prop_map(
            |(key, op, text, is_tag)| Comparison { kind: if is_tag { Kind::Tag } else { Kind::Param }, key, op, value: Value::Text(text) },
        );
        let list = prop::collection::vec(".{0,9}", 1..4).prop_map(|texts| Comparison {
            kind: Kind::Dataset,
            key: "digest".into(),
            op: Op::NotIn,
            value: Value::Texts(texts),
        });
        prop_oneof![metric, pair, list]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(comparisons in prop::collection::vec(comparison(), 0..6)) {
            let text: Vec<String> = comparisons.iter().map(written).collect();
            prop_assert_eq!(RUNS.filter(&text.join(" AND ")).unwrap(), comparisons);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,60}", words in prop::collection::vec(
            prop::sample::select(vec!["metrics.", "a", "`", "'", "\"", "=", "!", "<", "IN", "NOT", "(", ")", ",", "AND", " ", "é", "IS", "NULL", ".", "1e9"]), 0..20)) {
            for text in [text, words.concat(), words.join(" ")] {
                let _ = RUNS.filter(&text);
                let _ = RUNS.order(&text);
                let _ = EXPERIMENTS.filter(&text);
            }
        }
    }
}
