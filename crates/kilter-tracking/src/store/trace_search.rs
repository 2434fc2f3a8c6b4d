//! Searches for traces, which may look into their spans.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use regex::RegexBuilder;

use super::Tracking;
use super::search::{and_value, compare, direction, in_list, listed};
use super::spans::{BYTES, blocking};
use super::traces::{fitting_traces, infos};
use crate::db::{Db, Sql};
use crate::error::{Error, ErrorCode, Result};
use crate::grammar::{self, Comparison, Expression, Kind, Op, Order, TRACES, Value};
use crate::limits;
use crate::model::{Page, Pair, Query};
use crate::otel::Span;
use crate::page::Pages;
use crate::trace::{self, Assessment, AssessmentKind, TraceInfo, key, plain};

/// Traces whose spans one search reads at most, bytes of them, and how long it looks: it goes on with the next page.
const READ: usize = 5_000;
const READ_BYTES: i64 = 4 * BYTES;
const LOOKING: Duration = Duration::from_secs(20);
/// Bytes of spans of one trace that a search looks at.
const LOOKED: i64 = 16 << 20;
/// Traces whose spans are looked at one after the other, and spans that are read at once.
const AT_ONCE: usize = 100;
const SPANS_AT_ONCE: i64 = 500;
/// Bytes that a pattern of LIKE may take when it is made ready.
const PATTERN: usize = 1 << 20;

impl Tracking {
    /// Looks for traces in `experiments`: the newest first unless the query says otherwise. A page may have fewer traces than were asked for, and go on: where
    /// the query looks into spans, and where the traces say much.
    ///
    /// # Errors
    /// When the query makes no sense, or nothing can be said in time.
    pub async fn search_traces(&self, experiments: &[i64], query: &Query) -> Result<Page<TraceInfo>> {
        let until = Instant::now() + LOOKING;
        let filter = TRACES.filter(&query.filter)?;
        let orders = TRACES.orders(&query.order_by)?;
        if let Some(order) = orders.iter().find(|o| matches!(o.key.as_str(), "text" | "prompt" | "client_request_id")) {
            return Err(Error::invalid(format!("Invalid order_by clause '{}': this cannot be sorted by.", order.key)));
        }
        limits::experiments(experiments)?;
        let ids = listed(experiments);
        let pages = Pages::of(&["traces", &ids, &query.filter, &query.order_by.join("\n")]);
        let from = pages.position(query.page_token.as_deref())?;
        let looks = Looks::of(&filter)?;
        let patterns = filter.iter().filter(|c| c.op == Op::Rlike && !is_of_span(c)).map(Pattern::of).collect::<Result<Vec<_>>>()?;
        let select = |limit: usize| {
            let mut sql = Sql::new("SELECT t.id FROM traces t WHERE t.experiment IN ");
            sql.push(in_list(&ids));
            filter.iter().filter(|c| c.op != Op::Rlike && !is_of_span(c)).for_each(|c| of_trace(&mut sql, c.clone()));
            looks.somewhere(&mut sql);
            sql.push(" ORDER BY ");
            orders.iter().for_each(|order| sort(&mut sql, order));
            sql.push("t.start_time DESC, t.trace_id LIMIT ").bind(limit as i64).push(" OFFSET ").bind(from);
            sql
        };
        let limit = query.max_results;
        let is_plain = looks.into.is_empty() && patterns.is_empty();
        let sql = select(if is_plain { limit } else { READ } + 1);
        let (items, next) = if is_plain {
            self.read(move |db| {
                let some: Vec<i64> = sql.rows(db)?;
                let end = (some.len() > limit).then_some(limit);
                shown(db, Found { traces: some.into_iter().take(limit).enumerate().collect(), end })
            })
            .await?
        } else {
            let some: Vec<i64> = self.read(move |db| sql.rows(db)).await?;
            let tracking = self.clone();
            // A search goes on where its request is given up, and keeps its place.
            let looking = tokio::spawn(async move {
                let _place = tracking.place().await?;
                tracking.look(&some, limit, patterns, looks, until).await
            });
            let found = looking.await.map_err(|e| Error::internal(&e))??;
            self.read(move |db| shown(db, found)).await?
        };
        Ok(Page { items, next: next.map(|at| pages.token(from + at as i64)) })
    }

    /// Looks at candidates one after the other, until so many are found or enough was read.
    async fn look(&self, candidates: &[i64], limit: usize, patterns: Vec<Pattern>, looks: Looks, until: Instant) -> Result<Found> {
        let (patterns, looks) = (Arc::new(patterns), Arc::new(looks));
        let (mut traces, mut bytes) = (Vec::new(), 0);
        let (some, is_all) = if candidates.len() > READ { (&candidates[..READ], false) } else { (candidates, true) };
        for (chunk_at, chunk) in some.chunks(AT_ONCE).enumerate() {
            let said = self.text_fits(chunk, &patterns, until).await?;
            for (at, id) in (chunk_at * AT_ONCE..).zip(chunk) {
                let looked = match said.get(id) {
                    Some(true) => self.matching(*id, &looks, until, &mut bytes).await?,
                    Some(false) => Some(false),
                    // It is gone, unless the time is over.
                    None => (Instant::now() < until).then_some(false),
                };
                match looked {
                    None if at == 0 => return Err(too_long()),
                    None => return Ok(Found { traces, end: Some(at) }),
                    Some(is_found) => traces.extend(is_found.then_some((at, *id))),
                }
                if (traces.len() == limit || bytes >= READ_BYTES) && at + 1 < candidates.len() {
                    return Ok(Found { traces, end: Some(at + 1) });
                }
            }
        }
        Ok(Found { traces, end: (!is_all).then_some(READ) })
    }

    /// Of each trace, whether all regular expressions are found in it; of those that there was no time for, nothing.
    async fn text_fits(&self, ids: &[i64], patterns: &Arc<Vec<Pattern>>, until: Instant) -> Result<HashMap<i64, bool>> {
        if patterns.is_empty() {
            return Ok(ids.iter().map(|id| (*id, true)).collect());
        }
        let (mut fits, mut rest) = (HashMap::with_capacity(ids.len()), ids);
        while !rest.is_empty() && Instant::now() < until {
            let asked = rest.to_vec();
            let read = self.read(move |db| {
                let fitting = fitting_traces(db, &asked)?;
                Ok((fitting, infos(db, &asked[..fitting])?))
            });
            let ((fitting, infos), patterns) = (read.await?, Arc::clone(patterns));
            let look = move || -> Vec<(i64, bool)> {
                let in_time = infos.into_iter().take_while(|_| Instant::now() < until);
                in_time.map(|(id, info)| (id, patterns.iter().all(|p| p.finds(&info)))).collect()
            };
            fits.extend(blocking(look).await?);
            rest = &rest[fitting..];
        }
        Ok(fits)
    }

    /// Whether a trace has a span in which all is found; none: the time is over. Adds to the bytes that were read.
    async fn matching(&self, trace: i64, looks: &Arc<Looks>, until: Instant, bytes: &mut i64) -> Result<Option<bool>> {
        if looks.into.is_empty() {
            return Ok(Some(true));
        }
        let (mut last, mut left) = (0, LOOKED);
        while left > 0 {
            // With the sign the order is no reason to walk through the spans of all traces.
            let mut sql = Sql::new("SELECT s.id, s.content, s.size FROM spans s WHERE s.trace = ");
            sql.bind(trace).push(" AND +s.id > ").bind(last);
            looks.beside(&mut sql);
            sql.push(" ORDER BY +s.id LIMIT ").bind(SPANS_AT_ONCE);
            let rows: Vec<(i64, Vec<u8>, i64)> = self.read(move |db| sql.rows(db)).await?;
            let Some((id, ..)) = rows.last() else { return Ok(Some(false)) };
            last = *id;
            let is_last = (rows.len() as i64) < SPANS_AT_ONCE;
            let looks = Arc::clone(looks);
            let look = move || -> Result<(Option<bool>, i64)> {
                let mut read = 0;
                for (_, content, size) in rows {
                    if read >= left {
                        break;
                    }
                    read += size;
                    match looks.finds(&trace::stored(&content, size)?, until) {
                        Some(false) => {}
                        done => return Ok((done, read)),
                    }
                }
                Ok((Some(false), read))
            };
            let (found, read) = blocking(look).await??;
            *bytes += read;
            left -= read;
            if found != Some(false) || is_last {
                return Ok(found);
            }
        }
        Ok(Some(false))
    }
}

/// Traces that are found, each with its place among all candidates, and where to go on.
struct Found {
    traces: Vec<(usize, i64)>,
    end: Option<usize>,
}

/// What is known of traces that were found, as far as it fits into an answer, and where to go on.
fn shown(db: &mut Db, found: Found) -> Result<(Vec<TraceInfo>, Option<usize>)> {
    let ids: Vec<i64> = found.traces.iter().map(|(_, id)| *id).collect();
    let fitting = fitting_traces(db, &ids)?;
    let next = found.traces.get(fitting).map(|(at, _)| *at).or(found.end);
    Ok((infos(db, &ids[..fitting])?.into_iter().map(|(_, info)| info).collect(), next))
}

fn too_long() -> Error {
    let message = "the search took too long and was stopped\n  hint: look by a narrower filter, or for a plainer pattern";
    Error::new(ErrorCode::TemporarilyUnavailable, message)
}

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
    Matches(Expression),
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

    /// None: the time is over.
    fn finds(&self, span: &Span, until: Instant) -> Option<bool> {
        let holds = |look: &Look, name: &str| trace::attribute(span, name).is_some_and(|value| look.test.holds(&plain(value)));
        let mut whole = None;
        for look in &self.into {
            if Instant::now() >= until {
                return None;
            }
            let found = match &look.part {
                Part::Attribute(name) => holds(look, name),
                Part::Name => look.test.holds(&span.name),
                Part::Type => holds(look, key::TYPE),
                Part::Status => look.test.holds(trace::status(span)),
                Part::Whole => look.test.holds(whole.get_or_insert_with(|| trace::searchable(span))),
            };
            if !found {
                return Some(false);
            }
        }
        Some(true)
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
    regex: Expression,
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
fn pattern(like: &str, in_any_case: bool) -> Result<Expression> {
    let mut text = String::from("^");
    let mut chars = like.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '%' if chars.peek() == Some(&'%') => {}
            '%' => text.push_str(".*"),
            '_' => text.push('.'),
            c => text.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    text.push('$');
    let mut builder = RegexBuilder::new(&text);
    let built = Expression::new(builder.dot_matches_new_line(true).case_insensitive(in_any_case), PATTERN);
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
            sql.push(" AND a.name = ").bind(key);
            match (op, value) {
                (Op::Eq | Op::Ne, Value::Text(text)) => {
                    // A text is stored as JSON; true, false and numbers are asked for as they are written.
                    let quoted = serde_json::Value::String(text.clone()).to_string();
                    sql.push(if op == Op::Eq { " AND a.value IN (" } else { " AND a.value NOT IN (" });
                    sql.bind(text).push(", ").bind(quoted).push(")");
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
    sql.push("SELECT 1 FROM ").push(table).push(" p WHERE p.trace = t.id AND p.key = ").bind(key.to_string());
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

#[cfg(test)]
mod tests {
    use super::super::spans::tests::logged;
    use super::*;
    use crate::db::bind;

    #[tokio::test]
    async fn a_trace_that_goes_meanwhile_leaves_the_others_what_is_theirs() {
        let (_dir, tracking, ids) = logged(&["a", "b", "c"]).await;
        tracking.write(|w| w.db.execute("DELETE FROM traces WHERE name = 'b'", bind![])).await.unwrap();
        let all = ids.clone();
        let infos = tracking.read(move |db| infos(db, &all)).await.unwrap();
        let name = |info: &TraceInfo| info.tags.iter().find(|t| t.key == key::NAME).unwrap().value.clone();
        assert_eq!(infos.iter().map(|(id, info)| (*id, name(info))).collect::<Vec<_>>(), [(ids[0], "a".into()), (ids[2], "c".into())]);
        let filter = TRACES.filter("name RLIKE 'c'").unwrap();
        let patterns = Arc::new(vec![Pattern::of(&filter[0]).unwrap()]);
        let fits = tracking.text_fits(&ids, &patterns, Instant::now() + LOOKING).await.unwrap();
        assert_eq!(fits, HashMap::from([(ids[0], false), (ids[2], true)]));
    }

    #[tokio::test]
    async fn a_search_ends_when_its_time_is_over() {
        let (_dir, tracking, ids) = logged(&["a", "b"]).await;
        let filter = TRACES.filter("span.content LIKE '%a%' AND name RLIKE 'a'").unwrap();
        let looks = Arc::new(Looks::of(&filter).unwrap());
        let patterns = Arc::new(vec![Pattern::of(&filter[1]).unwrap()]);
        let (over, later) = (Instant::now(), Instant::now() + LOOKING);
        assert!(tracking.text_fits(&ids, &patterns, over).await.unwrap().is_empty());
        assert_eq!(tracking.matching(ids[0], &looks, over, &mut 0).await.unwrap(), None);
        assert_eq!(tracking.matching(ids[0], &looks, later, &mut 0).await.unwrap(), Some(true));
    }
}
