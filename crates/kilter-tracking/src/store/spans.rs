//! Spans as they come in and are read, and searches for traces, which look at spans.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use regex::RegexBuilder;

use super::search::{CHUNK, Sql, and_value, compare, direction, in_list, listed};
use super::writer::Writer;
use super::{Place, Tracking, settled};
use crate::error::{Error, ErrorCode, Result};
use crate::grammar::{self, Comparison, Expression, Kind, Op, Order, TRACES, Value};
use crate::limits;
use crate::model::{Page, Pair, Query};
use crate::otel::{AnyValue, Sent, Span};
use crate::page::Pages;
use crate::trace::{self, Assessment, AssessmentKind, Logged, Node, Ready, ReadySpan, Trace, TraceInfo, TraceState, key, plain};

/// Spans and bytes of spans that are sent to one trace at most.
const SPANS: i64 = 100_000;
const BYTES: i64 = 64 << 20;
/// Spans, traces and bytes of spans of one write at most.
const WRITTEN: usize = 1_000;
const WRITTEN_TRACES: usize = 100;
const WRITTEN_BYTES: i64 = 8 << 20;
/// Bytes of spans in one answer at most; a trace alone always fits.
const ANSWERED: i64 = 2 * BYTES;
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

/// What a write must know of a trace.
pub(super) struct TraceKey {
    pub id: i64,
    pub spans: i64,
    pub bytes: i64,
}

/// What spans of a trace used, and of which state of it: how many spans had been sent to it.
struct Total {
    trace: i64,
    spans: i64,
    pairs: Vec<Pair>,
}

impl Tracking {
    /// Stores spans; one that is there already is replaced. A trace that is not there yet begins with them. Where `run` is there, traces whose root is among
    /// them belong to it. A span that is none, or is too much for its trace, is left out, and that is answered.
    ///
    /// # Errors
    /// When the experiment is missing or deleted; some of the spans may be stored then.
    pub async fn log_spans(&self, experiment: i64, sent: Vec<Sent>, run: Option<String>) -> Result<Logged> {
        // Compressing takes its time: requests beside this one do not wait for it.
        let ready = move || {
            let (mut parts, logged) = trace::ready(sent)?;
            parts.iter_mut().for_each(|part| part.tags = settled(std::mem::take(&mut part.tags)));
            Ok::<_, Error>((parts, logged))
        };
        let (parts, mut logged) = blocking(ready).await??;
        let run: Option<Arc<str>> = run.map(Into::into);
        let mut used = HashSet::new();
        // Others write in between.
        for parts in portions(parts) {
            let run = run.clone();
            let done = self.write(move |w| Box::pin(async move { w.log_spans(experiment, parts, run.as_deref()).await })).await?;
            logged.stored += done.logged.stored;
            logged.refused += done.logged.refused;
            logged.why = logged.why.or(done.logged.why);
            used.extend(done.used);
        }
        self.sum_up(used.into_iter().collect()).await?;
        Ok(logged)
    }

    /// Sums up what the spans of traces used. They are read beside the task that writes, so each sum is kept with the state of its trace that it is of.
    async fn sum_up(&self, traces: Vec<i64>) -> Result<()> {
        for traces in traces.chunks(WRITTEN_TRACES) {
            let mut totals = Vec::with_capacity(traces.len());
            for trace in traces {
                totals.extend(self.total(*trace).await?);
            }
            self.write(move |w| Box::pin(async move { w.keep_totals(totals).await })).await?;
        }
        Ok(())
    }

    async fn total(&self, trace: i64) -> Result<Option<Total>> {
        let sql = "SELECT s.span_id, s.parent_id, s.usage, s.cost, t.spans FROM traces t JOIN spans s ON s.trace = t.id WHERE t.id = $1 ORDER BY s.id";
        type Row = (String, Option<String>, Option<String>, Option<String>, i64);
        let rows: Vec<Row> = sqlx::query_as(sql).bind(trace).fetch_all(self.readers()).await?;
        let Some(spans) = rows.first().map(|row| row.4) else { return Ok(None) };
        let pairs = blocking(move || {
            let read = |text: &Option<String>| AnyValue::of_json(&serde_json::from_str(text.as_ref()?).ok()?);
            let nodes = |of: fn(&Row) -> &Option<String>| -> Vec<Node> {
                rows.iter().map(|row| Node { id: row.0.clone(), parent: row.1.clone(), used: read(of(row)) }).collect()
            };
            let usage = trace::total(&nodes(|row| &row.2), trace::TOKENS, true).map(|value| (key::TRACE_USAGE, value));
            let cost = trace::total(&nodes(|row| &row.3), trace::COSTS, false).map(|value| (key::TRACE_COST, value));
            usage.into_iter().chain(cost).map(|(name, value)| Pair { key: name.into(), value }).collect()
        });
        Ok(Some(Total { trace, spans, pairs: pairs.await? }))
    }

    /// Those that are there of some traces, with their spans.
    ///
    /// # Errors
    /// When too many are named, or they are too large together.
    pub async fn traces(&self, trace_ids: &[String], _place: &Place) -> Result<Vec<Trace>> {
        let ids = self.trace_numbers(trace_ids).await?;
        let mut size = 0;
        for chunk in ids.chunks(CHUNK) {
            let text = format!("SELECT COALESCE(SUM(size), 0) FROM spans WHERE trace IN {}", in_list(&listed(chunk)));
            size += sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(text)).fetch_one(self.readers()).await?;
        }
        if ids.len() > 1 && size > ANSWERED {
            return Err(Error::invalid(format!("These traces have more than {ANSWERED} bytes of spans: ask for fewer at once.")));
        }
        let infos = self.all_infos(&ids).await?;
        let mut spans = self.spans_of(&ids).await?;
        Ok(infos.into_iter().map(|(id, info)| Trace { info, spans: spans.remove(&id).unwrap_or_default() }).collect())
    }

    /// A trace with its spans.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn trace(&self, trace_id: &str, place: &Place) -> Result<Trace> {
        self.traces(&[trace_id.to_string()], place).await?.pop().ok_or_else(|| super::traces::no_trace(trace_id))
    }

    async fn spans_of(&self, ids: &[i64]) -> Result<HashMap<i64, Vec<Span>>> {
        let mut found: HashMap<i64, Vec<Span>> = HashMap::with_capacity(ids.len());
        for id in ids {
            let sql = "SELECT content, size FROM spans WHERE trace = $1 ORDER BY start_time, id";
            let rows: Vec<(Vec<u8>, i64)> = sqlx::query_as(sql).bind(id).fetch_all(self.readers()).await?;
            let read = move || rows.iter().map(|(content, size)| trace::stored(content, *size)).collect::<Result<_>>();
            found.insert(*id, blocking(read).await??);
        }
        Ok(found)
    }

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
            sql.push("t.start_time DESC, t.trace_id LIMIT ").push_bind(limit as i64).push(" OFFSET ").push_bind(from);
            sql
        };
        let found = if looks.into.is_empty() && patterns.is_empty() {
            let some = self.numbers(select(query.max_results + 1)).await?;
            let end = (some.len() > query.max_results).then_some(query.max_results);
            Found { traces: some.into_iter().take(query.max_results).enumerate().collect(), end }
        } else {
            let some = self.numbers(select(READ + 1)).await?;
            let (tracking, limit) = (self.clone(), query.max_results);
            // A search goes on where its request is given up, and keeps its place.
            let looking = tokio::spawn(async move {
                let _place = tracking.place().await?;
                tracking.look(&some, limit, patterns, looks, until).await
            });
            looking.await.map_err(|e| Error::internal(&e))??
        };
        // What is known of traces may be more than fits into an answer.
        let ids: Vec<i64> = found.traces.iter().map(|(_, id)| *id).collect();
        let fitting = self.fitting_traces(&ids).await?;
        let next = found.traces.get(fitting).map(|(at, _)| *at).or(found.end);
        let items = self.infos(&ids[..fitting]).await?.into_iter().map(|(_, info)| info).collect();
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
            let (some, later) = rest.split_at(self.fitting_traces(rest).await?);
            let (infos, patterns) = (self.infos(some).await?, Arc::clone(patterns));
            let look = move || -> Vec<(i64, bool)> {
                let in_time = infos.into_iter().take_while(|_| Instant::now() < until);
                in_time.map(|(id, info)| (id, patterns.iter().all(|p| p.finds(&info)))).collect()
            };
            fits.extend(blocking(look).await?);
            rest = later;
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
            sql.push_bind(trace).push(" AND +s.id > ").push_bind(last);
            looks.beside(&mut sql);
            sql.push(" ORDER BY +s.id LIMIT ").push_bind(SPANS_AT_ONCE);
            let rows: Vec<(i64, Vec<u8>, i64)> = sql.build_query_as().persistent(false).fetch_all(self.readers()).await?;
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

/// What takes its time goes where nobody waits for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(&e))
}

fn too_long() -> Error {
    let message = "the search took too long and was stopped\n  hint: look by a narrower filter, or for a plainer pattern";
    Error::new(ErrorCode::TemporarilyUnavailable, message)
}

/// Parts in portions that are written at once.
fn portions(parts: Vec<Ready>) -> Vec<Vec<Ready>> {
    let (mut portions, mut spans, mut size) = (Vec::<Vec<Ready>>::new(), 0, 0);
    for part in parts {
        spans += part.spans.len();
        size += part.size;
        match portions.last_mut() {
            Some(portion) if spans <= WRITTEN && size <= WRITTEN_BYTES && portion.len() < WRITTEN_TRACES => portion.push(part),
            _ => {
                (spans, size) = (part.spans.len(), part.size);
                portions.push(vec![part]);
            }
        }
    }
    portions
}

/// What a write of spans came to.
struct Written {
    logged: Logged,
    /// Traces whose spans say what they used.
    used: Vec<i64>,
}

impl Writer {
    async fn log_spans(&mut self, experiment: i64, parts: Vec<Ready>, run: Option<&str>) -> Result<Written> {
        self.active_experiment(experiment).await?;
        let run = match run {
            None => None,
            Some(run_id) => match self.any_run(run_id).await {
                Ok(_) => Some(run_id),
                Err(e) if e.code == ErrorCode::ResourceDoesNotExist => None,
                Err(e) => return Err(e),
            },
        };
        let mut written = Written { logged: Logged::default(), used: Vec::new() };
        for mut part in parts {
            let there = self.trace(&part.trace_id).await?;
            let (spans, bytes) = there.as_ref().map_or((0, 0), |t| (t.spans, t.bytes));
            if spans + part.spans.len() as i64 > SPANS || bytes + part.size > BYTES {
                let why = || format!("trace '{}' would have been sent more than {SPANS} spans or {BYTES} bytes", part.trace_id);
                written.logged.refuse(part.spans.len(), why);
                continue;
            }
            if let Err(e) = self.room_for_tags(there.as_ref().map(|t| t.id), &part.tags).await {
                if e.code != ErrorCode::InvalidParameterValue {
                    return Err(e);
                }
                part.tags.clear();
                written.logged.refuse(0, || format!("tags of trace '{}' are left out: {}", part.trace_id, e.message));
            }
            let trace = self.upsert_trace(experiment, &part, there.as_ref()).await?;
            self.upsert_spans(trace, &part.spans).await?;
            for (name, value) in [(key::SESSION, &part.session), (key::USER, &part.user)] {
                if let Some(value) = value {
                    let sql = "INSERT INTO trace_metadata (trace, key, value) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
                    sqlx::query(sql).bind(trace).bind(name).bind(limits::tag_value(value)).execute(&mut self.connection).await?;
                }
            }
            if let (Some(run_id), Some(_)) = (run, &part.root) {
                self.link_run(trace, run_id).await?;
            }
            written.logged.stored += part.spans.len();
            written.used.extend(part.spans.iter().any(|s| s.usage.is_some() || s.cost.is_some()).then_some(trace));
        }
        Ok(written)
    }

    /// The trace's number.
    async fn upsert_trace(&mut self, experiment: i64, part: &Ready, there: Option<&TraceKey>) -> Result<i64> {
        let Ready { root, start, end, size, .. } = part;
        let name = root.as_ref().map(|r| r.name.as_str());
        let (request, response) = root.as_ref().map_or((None, None), |r| (r.request.as_deref(), r.response.as_deref()));
        let spans = part.spans.len() as i64;
        let mut tags = vec![Pair { key: key::SPANS.into(), value: "TRACKING_STORE".into() }];
        let trace = match there {
            None => {
                let sql = "INSERT INTO traces (trace_id, experiment, name, status, start_time, duration, request_preview, response_preview, is_final, spans, bytes)
                           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9, $10) RETURNING id";
                let state = root.as_ref().map_or(TraceState::InProgress, |r| r.state);
                let query = sqlx::query_scalar(sql).bind(&part.trace_id).bind(experiment).bind(name).bind(state.as_str()).bind(start);
                let query = query.bind(end.map(|end| (end - start).max(0))).bind(request).bind(response).bind(spans).bind(size);
                let trace = query.fetch_one(&mut self.connection).await?;
                let value = self.place_of_trace(experiment, &part.trace_id).await?;
                tags.push(Pair { key: key::ARTIFACTS.into(), value });
                tags.extend(part.resource.iter().cloned());
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
        tags.extend(part.tags.iter().cloned());
        self.set_trace_tags(trace, &tags).await?;
        if let Some(name) = name {
            let sql = "INSERT INTO trace_tags (trace, key, value) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
            sqlx::query(sql).bind(trace).bind(key::NAME).bind(name).execute(&mut self.connection).await?;
        }
        Ok(trace)
    }

    async fn upsert_spans(&mut self, trace: i64, spans: &[ReadySpan]) -> Result<()> {
        let into = "INSERT INTO spans (trace, span_id, parent_id, name, type, status, start_time, duration, usage, cost, size, content)";
        let conflict = "ON CONFLICT (trace, span_id) DO UPDATE SET parent_id = excluded.parent_id, name = excluded.name, type = excluded.type,
                            status = excluded.status, start_time = excluded.start_time, duration = excluded.duration, usage = excluded.usage,
                            cost = excluded.cost, size = excluded.size, content = excluded.content";
        self.insert(into, spans, conflict, |row, span| {
            row.push_bind(trace).push_bind(span.id.clone()).push_bind(span.parent.clone()).push_bind(span.name.clone());
            row.push_bind(span.kind.clone()).push_bind(span.status).push_bind(span.start).push_bind(span.duration);
            row.push_bind(span.usage.clone()).push_bind(span.cost.clone()).push_bind(span.size).push_bind(span.content.clone());
        })
        .await
    }

    /// Keeps each sum, unless one of a later state of its trace is there, or the client said what it used.
    async fn keep_totals(&mut self, totals: Vec<Total>) -> Result<()> {
        for Total { trace, spans, mut pairs } in totals {
            let sql = "UPDATE traces SET summed = $2 WHERE id = $1 AND summed < $2 RETURNING is_final";
            let is_final: Option<bool> = sqlx::query_scalar(sql).bind(trace).bind(spans).fetch_optional(&mut self.connection).await?;
            let Some(is_final) = is_final else { continue };
            if is_final {
                let sql = "SELECT key FROM trace_metadata WHERE trace = $1 AND key IN ($2, $3)";
                let query = sqlx::query_scalar(sql).bind(trace).bind(key::TRACE_USAGE).bind(key::TRACE_COST);
                let said: Vec<String> = query.fetch_all(&mut self.connection).await?;
                pairs.retain(|pair| !said.contains(&pair.key));
            }
            self.set_metadata(trace, &pairs).await?;
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otel::KeyValue;

    async fn logged(names: &[&str]) -> (tempfile::TempDir, Tracking, Vec<i64>) {
        let dir = tempfile::tempdir().unwrap();
        let tracking = Tracking::open(dir.path()).await.unwrap();
        let span = |(at, name): (usize, &&str)| Span {
            trace_id: vec![at as u8 + 1; 16],
            span_id: vec![1; 8],
            name: (*name).into(),
            attributes: vec![KeyValue::new(key::USAGE, crate::otel::Any::Text(r#"{"input_tokens": 1}"#.into()))],
            ..Span::default()
        };
        let spans = names.iter().enumerate().map(span).collect();
        tracking.log_spans(0, vec![Sent { resource: Vec::new(), spans }], None).await.unwrap();
        let ids = sqlx::query_scalar("SELECT id FROM traces ORDER BY trace_id").fetch_all(tracking.readers()).await.unwrap();
        (dir, tracking, ids)
    }

    #[tokio::test]
    async fn a_trace_that_goes_meanwhile_leaves_the_others_what_is_theirs() {
        let (_dir, tracking, ids) = logged(&["a", "b", "c"]).await;
        tracking
            .write(|w| Box::pin(async move { Ok(sqlx::query("DELETE FROM traces WHERE name = 'b'").execute(&mut w.connection).await?) }))
            .await
            .unwrap();
        let infos = tracking.infos(&ids).await.unwrap();
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

    #[tokio::test]
    async fn a_sum_of_an_earlier_state_is_not_kept_over_a_later_one() {
        let (_dir, tracking, ids) = logged(&["a"]).await;
        let of =
            |spans, value: &str| Total { trace: ids[0], spans, pairs: vec![Pair { key: key::TRACE_USAGE.into(), value: value.into() }] };
        let (late, early) = (of(9, "late"), of(5, "early"));
        tracking.write(|w| Box::pin(async move { w.keep_totals(vec![late, early]).await })).await.unwrap();
        let info = tracking.infos(&ids).await.unwrap().remove(0).1;
        assert_eq!(info.metadata.iter().find(|p| p.key == key::TRACE_USAGE).unwrap().value, "late");
    }
}
