//! Spans as they come in and are read, and searches for traces, which look at spans.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use sqlx::Row;

use super::Tracking;
use super::search::{CHUNK, Sql, and_value, compare, direction, in_list, listed};
use super::writer::Writer;
use crate::error::{Error, ErrorCode, Result};
use crate::grammar::{self, Comparison, Kind, Op, Order, TRACES, Value};
use crate::limits;
use crate::model::{Page, Pair, Query};
use crate::otel::{KeyValue, Span};
use crate::page::Pages;
use crate::trace::{self, Assessment, AssessmentKind, Node, Ready, ReadySpan, Trace, TraceInfo, TraceState, key, plain};

/// Spans and bytes of spans that are sent to one trace at most.
const SPANS: i64 = 100_000;
const BYTES: i64 = 64 << 20;
/// Bytes of spans in one answer at most; a trace alone always fits.
const ANSWERED: i64 = 2 * BYTES;
/// Traces whose spans one search reads at most, and bytes of them: it goes on with the next page.
const READ: usize = 5_000;
const READ_BYTES: i64 = 4 * BYTES;
/// Traces whose spans are read at once.
const AT_ONCE: usize = 100;

/// What a write must know of a trace.
pub(super) struct TraceKey {
    pub id: i64,
    pub is_final: bool,
    pub spans: i64,
    pub bytes: i64,
}

impl Tracking {
    /// Stores spans, each with what is known of its sender; one that is there already is replaced. A trace that is not there yet begins with them. Where
    /// `run` is there, traces whose root is among them belong to it. How many spans there were.
    ///
    /// # Errors
    /// When the experiment is missing or deleted, a span has no id, or a trace gets too large.
    pub async fn log_spans(&self, experiment: i64, spans: Vec<(Span, Arc<[KeyValue]>)>, run: Option<String>) -> Result<usize> {
        let count = spans.len();
        // Compressing takes its time: requests beside this one do not wait for it.
        let ready = tokio::task::spawn_blocking(move || trace::ready(spans)).await.map_err(|e| Error::internal(&e))?;
        let mut ready = ready?;
        for one in &mut ready {
            one.tags.retain_mut(|tag| limits::trace_pair(tag).is_ok());
        }
        self.write(move |w| Box::pin(async move { w.log_spans(experiment, ready, run.as_deref()).await })).await?;
        Ok(count)
    }

    /// Those that are there of some traces, with their spans.
    ///
    /// # Errors
    /// When too many are named, or they are too large together.
    pub async fn traces(&self, trace_ids: &[String]) -> Result<Vec<Trace>> {
        let ids = self.trace_numbers(trace_ids).await?;
        let mut size = 0;
        for chunk in ids.chunks(CHUNK) {
            let text = format!("SELECT COALESCE(SUM(size), 0) FROM spans WHERE trace IN {}", in_list(&listed(chunk)));
            size += sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(text)).fetch_one(self.readers()).await?;
        }
        if ids.len() > 1 && size > ANSWERED {
            return Err(Error::invalid(format!("These traces have more than {ANSWERED} bytes of spans: ask for fewer at once.")));
        }
        let mut spans = self.spans_of(&ids).await?;
        let infos = self.infos(&ids).await?;
        Ok(ids.iter().zip(infos).map(|(id, info)| Trace { info, spans: spans.remove(id).unwrap_or_default() }).collect())
    }

    /// A trace with its spans.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn trace(&self, trace_id: &str) -> Result<Trace> {
        self.traces(&[trace_id.to_string()]).await?.pop().ok_or_else(|| super::traces::no_trace(trace_id))
    }

    async fn spans_of(&self, ids: &[i64]) -> Result<HashMap<i64, Vec<Span>>> {
        let mut found: HashMap<i64, Vec<Span>> = HashMap::with_capacity(ids.len());
        for chunk in ids.chunks(CHUNK) {
            let text =
                format!("SELECT trace, content, size FROM spans WHERE trace IN {} ORDER BY trace, start_time, id", in_list(&listed(chunk)));
            for row in sqlx::query(sqlx::AssertSqlSafe(text)).fetch_all(self.readers()).await? {
                found.entry(row.try_get(0)?).or_default().push(trace::stored(row.try_get(1)?, row.try_get(2)?)?);
            }
        }
        Ok(found)
    }

    /// Looks for traces in `experiments`: the newest first unless the query says otherwise. Where the query looks into spans, a page may have fewer traces than
    /// were asked for, and go on.
    ///
    /// # Errors
    /// When the query makes no sense.
    pub async fn search_traces(&self, experiments: &[i64], query: &Query) -> Result<Page<TraceInfo>> {
        let filter = TRACES.filter(&query.filter)?;
        let orders = TRACES.orders(&query.order_by)?;
        if let Some(order) = orders.iter().find(|o| matches!(o.key.as_str(), "text" | "prompt" | "client_request_id")) {
            return Err(Error::invalid(format!("Invalid order_by clause '{}': this cannot be sorted by.", order.key)));
        }
        limits::experiments(experiments)?;
        let ids = listed(experiments);
        let pages = Pages::of(&["traces", &ids, &query.filter, &query.order_by.join("\n")]);
        let mut from = pages.position(query.page_token.as_deref())?;
        let looks = Looks::of(&filter)?;
        let patterns = filter.iter().filter(|c| c.op == Op::Rlike && !is_of_span(c)).map(Pattern::of).collect::<Result<Vec<_>>>()?;
        let select = |from: i64, limit: usize| {
            let mut sql = Sql::new("SELECT t.id FROM traces t WHERE t.experiment IN ");
            sql.push(in_list(&ids));
            filter.iter().filter(|c| c.op != Op::Rlike && !is_of_span(c)).for_each(|c| of_trace(&mut sql, c.clone()));
            looks.somewhere(&mut sql);
            sql.push(" ORDER BY ");
            orders.iter().for_each(|order| sort(&mut sql, order));
            sql.push("t.start_time DESC, t.trace_id LIMIT ").push_bind(limit as i64).push(" OFFSET ").push_bind(from);
            sql
        };
        if looks.into.is_empty() && patterns.is_empty() {
            let found: Vec<i64> = select(from, query.max_results + 1).build_query_scalar().fetch_all(self.readers()).await?;
            let page = pages.cut(found, from, query.max_results);
            return Ok(Page { items: self.infos(&page.items).await?, next: page.next });
        }
        let (mut found, mut read, mut bytes) = (Vec::new(), 0, 0);
        loop {
            let some: Vec<i64> = select(from, AT_ONCE).build_query_scalar().fetch_all(self.readers()).await?;
            let fitting = self.text_fits(&some, &patterns).await?;
            let (matching, size) = self.matching(&fitting, &looks).await?;
            (read, bytes) = (read + some.len(), bytes + size);
            for (at, id) in some.iter().enumerate() {
                if matching.contains(id) {
                    found.push(*id);
                    if found.len() == query.max_results {
                        let items = self.infos(&found).await?;
                        return Ok(Page { items, next: Some(pages.token(from + at as i64 + 1)) });
                    }
                }
            }
            from += some.len() as i64;
            let is_last = some.len() < AT_ONCE;
            if is_last || read >= READ || bytes >= READ_BYTES {
                return Ok(Page { items: self.infos(&found).await?, next: (!is_last).then(|| pages.token(from)) });
            }
        }
    }

    /// Those traces that all regular expressions are found in.
    async fn text_fits(&self, ids: &[i64], patterns: &[Pattern]) -> Result<Vec<i64>> {
        if patterns.is_empty() {
            return Ok(ids.to_vec());
        }
        let infos = self.infos(ids).await?;
        let fits = |(id, info): (&i64, &TraceInfo)| patterns.iter().all(|p| p.finds(info)).then_some(*id);
        Ok(ids.iter().zip(&infos).filter_map(fits).collect())
    }

    /// Those traces that have a span in which all is found, and the bytes that were read.
    async fn matching(&self, ids: &[i64], looks: &Looks) -> Result<(HashSet<i64>, i64)> {
        if looks.into.is_empty() {
            return Ok((ids.iter().copied().collect(), 0));
        }
        let (mut matching, mut bytes) = (HashSet::new(), 0);
        for id in ids {
            let mut sql = Sql::new("SELECT s.content, s.size FROM spans s WHERE s.trace = ");
            sql.push_bind(*id);
            looks.beside(&mut sql);
            for row in sql.build().fetch_all(self.readers()).await? {
                let size: i64 = row.try_get(1)?;
                bytes += size;
                if looks.finds(&trace::stored(row.try_get(0)?, size)?) {
                    matching.insert(*id);
                    break;
                }
            }
        }
        Ok((matching, bytes))
    }
}

impl Writer {
    async fn log_spans(&mut self, experiment: i64, traces: Vec<Ready>, run: Option<&str>) -> Result<()> {
        self.active_experiment(experiment).await?;
        let mut known = Vec::with_capacity(traces.len());
        for ready in &traces {
            let there = self.trace(&ready.trace_id).await?;
            let (spans, bytes) = there.as_ref().map_or((0, 0), |t| (t.spans, t.bytes));
            let size: i64 = ready.spans.iter().map(|s| s.size).sum();
            if spans + ready.spans.len() as i64 > SPANS || bytes + size > BYTES {
                let message = format!("Trace '{}' gets more than {SPANS} spans or {BYTES} bytes.", ready.trace_id);
                return Err(Error::invalid(message));
            }
            known.push((there, size));
        }
        let run = match run {
            None => None,
            Some(run_id) => match self.any_run(run_id).await {
                Ok(_) => Some(run_id),
                Err(e) if e.code == ErrorCode::ResourceDoesNotExist => None,
                Err(e) => return Err(e),
            },
        };
        for (ready, (there, size)) in traces.into_iter().zip(known) {
            let trace = self.upsert_trace(experiment, &ready, there.as_ref(), size).await?;
            for span in &ready.spans {
                self.upsert_span(trace, span).await?;
            }
            self.sum_up(trace, &ready, there.is_some_and(|t| t.is_final)).await?;
            if let (Some(run_id), Some(_)) = (run, &ready.root) {
                self.link_run(trace, run_id).await?;
            }
        }
        Ok(())
    }

    /// The trace's number.
    async fn upsert_trace(&mut self, experiment: i64, ready: &Ready, there: Option<&TraceKey>, size: i64) -> Result<i64> {
        let Ready { root, start, end, .. } = ready;
        let name = root.as_ref().map(|r| r.name.as_str());
        let (request, response) = root.as_ref().map_or((None, None), |r| (r.request.as_deref(), r.response.as_deref()));
        let spans = ready.spans.len() as i64;
        let trace = match there {
            None => {
                let sql = "INSERT INTO traces (trace_id, experiment, name, status, start_time, duration, request_preview, response_preview, is_final, spans, bytes)
                           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9, $10) RETURNING id";
                let state = root.as_ref().map_or(TraceState::InProgress, |r| r.state);
                let query = sqlx::query_scalar(sql).bind(&ready.trace_id).bind(experiment).bind(name).bind(state.as_str()).bind(start);
                let query = query.bind(end.map(|end| (end - start).max(0))).bind(request).bind(response).bind(spans).bind(size);
                let trace = query.fetch_one(&mut self.connection).await?;
                let value = self.place_of_trace(experiment, &ready.trace_id).await?;
                self.set_trace_tags(trace, &[Pair { key: key::ARTIFACTS.into(), value }]).await?;
                trace
            }
            Some(there) => {
                let sql = "UPDATE traces SET
                               start_time = CASE WHEN is_final = 0 AND $2 < start_time THEN $2 ELSE start_time END,
                               duration = CASE WHEN is_final = 1 OR $3 IS NULL THEN duration
                                               ELSE CASE WHEN start_time + COALESCE(duration, 0) > $3 THEN start_time + COALESCE(duration, 0) ELSE $3 END
                                                    - CASE WHEN $2 < start_time THEN $2 ELSE start_time END END,
                               status = CASE WHEN status IN ('IN_PROGRESS', 'STATE_UNSPECIFIED') THEN COALESCE($4, status) ELSE status END,
                               name = COALESCE(name, $5), request_preview = COALESCE(request_preview, $6), response_preview = COALESCE(response_preview, $7),
                               spans = spans + $8, bytes = bytes + $9
                           WHERE id = $1";
                let state = root.as_ref().map(|r| r.state.as_str());
                let query = sqlx::query(sql).bind(there.id).bind(start).bind(end).bind(state).bind(name).bind(request).bind(response);
                query.bind(spans).bind(size).execute(&mut self.connection).await?;
                there.id
            }
        };
        self.set_trace_tags(trace, &[Pair { key: key::SPANS.into(), value: "TRACKING_STORE".into() }]).await?;
        self.set_trace_tags(trace, &ready.tags).await?;
        if let Some(name) = name {
            let sql = "INSERT INTO trace_tags (trace, key, value) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
            sqlx::query(sql).bind(trace).bind(key::NAME).bind(name).execute(&mut self.connection).await?;
        }
        Ok(trace)
    }

    async fn upsert_span(&mut self, trace: i64, span: &ReadySpan) -> Result<()> {
        let sql = "INSERT INTO spans (trace, span_id, parent_id, name, type, status, start_time, duration, usage, cost, size, content)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
                   ON CONFLICT (trace, span_id) DO UPDATE SET parent_id = excluded.parent_id, name = excluded.name, type = excluded.type,
                       status = excluded.status, start_time = excluded.start_time, duration = excluded.duration, usage = excluded.usage,
                       cost = excluded.cost, size = excluded.size, content = excluded.content";
        let query = sqlx::query(sql).bind(trace).bind(&span.id).bind(&span.parent).bind(&span.name).bind(&span.kind).bind(span.status);
        let query = query.bind(span.start).bind(span.duration).bind(&span.usage).bind(&span.cost).bind(span.size);
        query.bind(&span.content).execute(&mut self.connection).await?;
        Ok(())
    }

    /// What the spans of a trace used together, and whose they are.
    async fn sum_up(&mut self, trace: i64, ready: &Ready, is_final: bool) -> Result<()> {
        for (name, value) in [(key::SESSION, &ready.session), (key::USER, &ready.user)] {
            if let Some(value) = value {
                let mut pair = Pair { key: name.into(), value: value.clone() };
                limits::trace_pair(&mut pair)?;
                let sql = "INSERT INTO trace_metadata (trace, key, value) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
                sqlx::query(sql).bind(trace).bind(name).bind(pair.value).execute(&mut self.connection).await?;
            }
        }
        let (usage, cost) = (ready.spans.iter().any(|s| s.usage.is_some()), ready.spans.iter().any(|s| s.cost.is_some()));
        for (any, name, column, always, sometimes) in
            [(usage, key::TRACE_USAGE, "usage", TOKENS, CACHED), (cost, key::TRACE_COST, "cost", COSTS, &[][..])]
        {
            if !any || (is_final && self.has_metadata(trace, name).await?) {
                continue;
            }
            let text = format!("SELECT span_id, parent_id, {column} FROM spans WHERE trace = $1 ORDER BY id");
            let rows: Vec<(String, Option<String>, Option<String>)> =
                sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(trace).fetch_all(&mut self.connection).await?;
            let read = |text: String| crate::otel::AnyValue::of_json(&serde_json::from_str(&text).ok()?);
            let node = |(id, parent, used): (String, Option<String>, Option<String>)| Node { id, parent, used: used.and_then(read) };
            let nodes: Vec<Node> = rows.into_iter().map(node).collect();
            if let Some(value) = trace::total(&nodes, always, sometimes, column == "usage") {
                self.set_metadata(trace, &[Pair { key: name.into(), value }]).await?;
            }
        }
        Ok(())
    }

    async fn has_metadata(&mut self, trace: i64, key: &str) -> Result<bool> {
        let sql = "SELECT COUNT(*) FROM trace_metadata WHERE trace = $1 AND key = $2";
        Ok(sqlx::query_scalar::<_, i64>(sql).bind(trace).bind(key).fetch_one(&mut self.connection).await? > 0)
    }
}

const TOKENS: &[&str] = &["input_tokens", "output_tokens", "total_tokens"];
const CACHED: &[&str] = &["cache_read_input_tokens", "cache_creation_input_tokens"];
const COSTS: &[&str] = &["input_cost", "output_cost", "total_cost"];

fn is_of_span(comparison: &Comparison) -> bool {
    comparison.kind == Kind::Span || (comparison.kind == Kind::Attribute && comparison.key == "text")
}

/// What is looked for in spans: all of it in one.
struct Looks {
    /// By what stands beside the content.
    beside: Vec<Comparison>,
    /// In the content.
    into: Vec<Look>,
}

struct Look {
    part: Part,
    test: Test,
}

/// Of a span.
enum Part {
    Attribute(String),
    Name,
    Type,
    Status,
    Whole,
}

enum Test {
    Matches(Regex),
    Is(String),
    IsNot(String),
    Among(Vec<String>),
    NotAmong(Vec<String>),
}

impl Looks {
    fn of(filter: &[Comparison]) -> Result<Looks> {
        let mut looks = Looks { beside: Vec::new(), into: Vec::new() };
        for comparison in filter.iter().filter(|c| is_of_span(c)) {
            let part = match (comparison.key.strip_prefix("attributes."), comparison.key.as_str()) {
                (Some(name), _) => Part::Attribute(name.into()),
                (None, "content" | "text") => Part::Whole,
                (None, "name") => Part::Name,
                (None, "type") => Part::Type,
                (None, _) => Part::Status,
            };
            if matches!(part, Part::Name | Part::Type | Part::Status) && comparison.op != Op::Rlike {
                looks.beside.push(comparison.clone());
                continue;
            }
            let test = match (comparison.op, comparison.value.clone()) {
                (Op::In, Value::Texts(texts)) => Test::Among(texts),
                (Op::NotIn, Value::Texts(texts)) => Test::NotAmong(texts),
                (Op::Ne, Value::Text(text)) => Test::IsNot(text),
                (Op::Rlike, Value::Text(text)) => Test::Matches(grammar::regex(&text)?),
                (op @ (Op::Like | Op::Ilike), Value::Text(text)) => Test::Matches(pattern(&text, op == Op::Ilike)?),
                (_, Value::Text(text)) => Test::Is(text),
                _ => return Err(Error::invalid(format!("Invalid comparator '{}' for span.{}", comparison.op.as_str(), comparison.key))),
            };
            looks.into.push(Look { part, test });
        }
        Ok(looks)
    }

    /// That there is a span at all that may be it.
    fn somewhere(&self, sql: &mut Sql) {
        if !self.beside.is_empty() || !self.into.is_empty() {
            sql.push(" AND EXISTS (SELECT 1 FROM spans s WHERE s.trace = t.id");
            self.beside(sql);
            sql.push(")");
        }
    }

    fn beside(&self, sql: &mut Sql) {
        for Comparison { key, op, value, .. } in &self.beside {
            let column = match key.as_str() {
                "name" => "s.name",
                "type" => "s.type",
                _ => "s.status",
            };
            and_value(sql, column, *op, value.clone());
        }
    }

    fn finds(&self, span: &Span) -> bool {
        let holds = |look: &Look, name: &str| trace::attribute(span, name).is_some_and(|value| look.test.holds(&plain(value)));
        self.into.iter().all(|look| match &look.part {
            Part::Attribute(name) => holds(look, name),
            Part::Name => look.test.holds(&span.name),
            Part::Type => holds(look, key::TYPE),
            Part::Status => look.test.holds(trace::status(span)),
            Part::Whole => look.test.holds(&trace::searchable(span)),
        })
    }
}

impl Test {
    fn holds(&self, text: &str) -> bool {
        match self {
            Test::Matches(regex) => regex.is_match(text),
            Test::Is(wanted) => text == wanted,
            Test::IsNot(wanted) => text != wanted,
            Test::Among(texts) => texts.iter().any(|t| t == text),
            Test::NotAmong(texts) => !texts.iter().any(|t| t == text),
        }
    }
}

/// A regular expression and what of a trace it is to be found in: the database knows none.
struct Pattern {
    kind: Kind,
    key: String,
    regex: Regex,
}

impl Pattern {
    fn of(comparison: &Comparison) -> Result<Pattern> {
        let text = if let Value::Text(text) = &comparison.value { text.as_str() } else { "" };
        Ok(Pattern { kind: comparison.kind, key: comparison.key.clone(), regex: grammar::regex(text)? })
    }

    fn finds(&self, info: &TraceInfo) -> bool {
        let found = |text: &str| self.regex.is_match(text);
        let within = |pairs: &[Pair], key: &str| pairs.iter().any(|p| p.key == key && found(&p.value));
        match (self.kind, self.key.as_str()) {
            (Kind::Tag, key) => within(&info.tags, key),
            (Kind::Metadata, key) => within(&info.metadata, key),
            (Kind::Attribute, "name") => within(&info.tags, key::NAME),
            (Kind::Attribute, "run_id") => within(&info.metadata, key::RUN),
            (Kind::Attribute, "status") => found(info.state.as_str()),
            (Kind::Attribute, "request_id") => found(&info.id),
            (Kind::Attribute, _) => info.client_request_id.as_deref().is_some_and(found),
            (kind, name) => {
                let of = if kind == Kind::Feedback { AssessmentKind::Feedback } else { AssessmentKind::Expectation };
                let said = |a: &&Assessment| a.is_valid && a.kind == of && a.name == name;
                info.assessments.iter().filter(said).any(|a| found(&a.value.to_string()))
            }
        }
    }
}

/// What LIKE means, as a regular expression.
fn pattern(like: &str, in_any_case: bool) -> Result<Regex> {
    let mut text = String::from("^");
    for c in like.chars() {
        match c {
            '%' => text.push_str(".*"),
            '_' => text.push('.'),
            c => text.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    text.push('$');
    let built = RegexBuilder::new(&text).dot_matches_new_line(true).case_insensitive(in_any_case).size_limit(8 << 20).build();
    built.map_err(|_| Error::invalid("Invalid filter string: the pattern is too large"))
}

fn of_trace(sql: &mut Sql, comparison: Comparison) {
    let Comparison { kind, key, op, value } = comparison;
    sql.push(" AND ");
    match kind {
        Kind::Attribute if key == "prompt" => {
            sql.push("t.id IN (SELECT trace FROM trace_prompts WHERE TRUE");
            and_value(sql, "prompt", op, value);
            sql.push(")");
        }
        Kind::Attribute if key == "run_id" => {
            sql.push("(");
            of_pairs(sql, "trace_metadata", self::key::RUN, op, value.clone());
            if matches!(op, Op::Eq | Op::In) {
                sql.push(" OR t.id IN (SELECT trace FROM trace_runs WHERE TRUE");
                and_value(sql, "run_id", op, value);
                sql.push(")");
            }
            sql.push(")");
        }
        Kind::Attribute => compare(sql, column(&key), op, value),
        Kind::Tag => of_pairs(sql, "trace_tags", &key, op, value),
        Kind::Metadata => of_pairs(sql, "trace_metadata", &key, op, value),
        Kind::Issue => {
            sql.push("EXISTS (SELECT 1 FROM assessments a WHERE a.trace = t.id AND a.kind = 'issue'");
            and_value(sql, "a.name", op, value);
            sql.push(")");
        }
        _ => {
            sql.push(if op == Op::IsNull { "NOT EXISTS (" } else { "EXISTS (" });
            sql.push("SELECT 1 FROM assessments a WHERE a.trace = t.id AND a.is_valid = 1 AND a.kind = ");
            sql.push(if kind == Kind::Feedback { "'feedback'" } else { "'expectation'" });
            sql.push(" AND a.name = ").push_bind(key);
            match (op, value) {
                (Op::Eq | Op::Ne, Value::Text(text)) => {
                    // A text is stored as JSON; true, false and numbers are asked for as they are written.
                    let quoted = serde_json::Value::String(text.clone()).to_string();
                    sql.push(if op == Op::Eq { " AND a.value IN (" } else { " AND a.value NOT IN (" });
                    sql.push_bind(text).push(", ").push_bind(quoted).push(")");
                }
                (op, value @ Value::Number(_)) => and_value(sql, "a.number", op, value),
                (op, value) => and_value(sql, "a.value", op, value),
            }
            sql.push(")");
        }
    }
}

fn of_pairs(sql: &mut Sql, table: &'static str, key: &str, op: Op, value: Value) {
    sql.push(if op == Op::IsNull { "NOT EXISTS (" } else { "EXISTS (" });
    sql.push("SELECT 1 FROM ").push(table).push(" p WHERE p.trace = t.id AND p.key = ").push_bind(key.to_string());
    and_value(sql, "p.value", op, value);
    sql.push(")");
}

fn sort(sql: &mut Sql, order: &Order) {
    let column = match order.key.as_str() {
        "experiment_id" => "t.experiment",
        "run_id" => "(SELECT value FROM trace_metadata WHERE trace = t.id AND key = 'mlflow.sourceRun')",
        key => column(key),
    };
    sql.push(column).push(" IS NULL, ").push(column).push(direction(order)).push(", ");
}

fn column(key: &str) -> &'static str {
    match key {
        "request_id" => "t.trace_id",
        "timestamp_ms" => "t.start_time",
        "execution_time_ms" => "t.duration",
        "end_time_ms" => "(t.start_time + COALESCE(t.duration, 0))",
        "status" => "t.status",
        "name" => "t.name",
        _ => "t.client_request_id",
    }
}
