//! Spans: how they come in and are read.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::search::{CHUNK, in_list, listed};
use super::traces::{all_infos, no_trace, trace_numbers};
use super::writer::Writer;
use super::{Place, Tracking, settled};
use crate::db::{Db, Sql, bind};
use crate::error::{Error, ErrorCode, Result};
use crate::limits;
use crate::model::Pair;
use crate::otel::{AnyValue, Sent, Span};
use crate::trace::{self, Logged, Node, Ready, ReadySpan, Trace, TraceState, key};

/// Spans and bytes of spans that are sent to one trace at most.
const SPANS: i64 = 100_000;
pub(super) const BYTES: i64 = 64 << 20;
/// Spans, traces and bytes of spans of one write at most.
const WRITTEN: usize = 1_000;
const WRITTEN_TRACES: usize = 100;
const WRITTEN_BYTES: i64 = 8 << 20;
/// Spans whose use is summed up by one read, after which it takes no further trace.
const SUMMED: usize = 10_000;
/// Bytes of spans in one answer at most; a trace alone always fits.
const ANSWERED: i64 = 2 * BYTES;

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
            let done = self.write(move |w| w.log_spans(experiment, parts, run.as_deref())).await?;
            logged.stored += done.logged.stored;
            logged.refused += done.logged.refused;
            logged.why = logged.why.or(done.logged.why);
            used.extend(done.used);
        }
        self.sum_up(used.into_iter().collect()).await?;
        Ok(logged)
    }

    /// Sums up what the spans of traces used. They are read beside the thread that writes, so each sum is kept with the state of its trace that it is of.
    async fn sum_up(&self, mut traces: Vec<i64>) -> Result<()> {
        while !traces.is_empty() {
            let (totals, rest) = self
                .read(move |db| {
                    let (mut totals, mut spans) = (Vec::new(), 0);
                    while totals.len() < WRITTEN_TRACES
                        && spans < SUMMED
                        && let Some(trace) = traces.pop()
                    {
                        let total = total(db, trace)?;
                        spans += total.as_ref().map_or(0, |total| total.spans as usize);
                        totals.extend(total);
                    }
                    Ok((totals, traces))
                })
                .await?;
            self.write(move |w| w.keep_totals(totals)).await?;
            traces = rest;
        }
        Ok(())
    }

    /// Those that are there of some traces, with their spans.
    ///
    /// # Errors
    /// When too many are named, or they are too large together.
    pub async fn traces(&self, trace_ids: &[String], _place: &Place) -> Result<Vec<Trace>> {
        let trace_ids = trace_ids.to_vec();
        let infos = self
            .read(move |db| {
                let ids = trace_numbers(db, &trace_ids)?;
                if ids.len() > 1 && size_of(db, &ids)? > ANSWERED {
                    return Err(Error::invalid(format!("These traces have more than {ANSWERED} bytes of spans: ask for fewer at once.")));
                }
                all_infos(db, &ids)
            })
            .await?;
        let mut traces = Vec::with_capacity(infos.len());
        for (id, info) in infos {
            traces.push(Trace { info, spans: self.spans_of(id).await? });
        }
        Ok(traces)
    }

    /// A trace with its spans.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn trace(&self, trace_id: &str, place: &Place) -> Result<Trace> {
        self.traces(&[trace_id.to_string()], place).await?.pop().ok_or_else(|| no_trace(trace_id))
    }

    async fn spans_of(&self, trace: i64) -> Result<Vec<Span>> {
        let sql = "SELECT content, size FROM spans WHERE trace = ?1 ORDER BY start_time, id";
        let rows: Vec<(Vec<u8>, i64)> = self.read(move |db| db.rows(sql, bind![trace])).await?;
        blocking(move || rows.iter().map(|(content, size)| trace::stored(content, *size)).collect()).await?
    }
}

/// What takes its time goes where nobody waits for it.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(&e))
}

/// What the spans of a trace used, if it has any.
fn total(db: &mut Db, trace: i64) -> Result<Option<Total>> {
    let sql = "SELECT s.span_id, s.parent_id, s.usage, s.cost, t.spans FROM traces t JOIN spans s ON s.trace = t.id WHERE t.id = ?1 ORDER BY s.id";
    type Row = (String, Option<String>, Option<String>, Option<String>, i64);
    let rows: Vec<Row> = db.rows(sql, bind![trace])?;
    let Some(spans) = rows.first().map(|row| row.4) else { return Ok(None) };
    let read = |text: &Option<String>| AnyValue::of_json(&serde_json::from_str(text.as_ref()?).ok()?);
    let nodes = |of: fn(&Row) -> &Option<String>| -> Vec<Node> {
        rows.iter().map(|row| Node { id: row.0.clone(), parent: row.1.clone(), used: read(of(row)) }).collect()
    };
    let usage = trace::total(&nodes(|row| &row.2), trace::TOKENS, true).map(|value| (key::TRACE_USAGE, value));
    let cost = trace::total(&nodes(|row| &row.3), trace::COSTS, false).map(|value| (key::TRACE_COST, value));
    let pairs = usage.into_iter().chain(cost).map(|(name, value)| Pair { key: name.into(), value }).collect();
    Ok(Some(Total { trace, spans, pairs }))
}

/// Bytes of all spans of some traces.
fn size_of(db: &mut Db, ids: &[i64]) -> Result<i64> {
    let mut size = 0;
    for chunk in ids.chunks(CHUNK) {
        let text = format!("SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) FROM spans WHERE trace IN {}", in_list(&listed(chunk)));
        size += Sql::new(text).optional(db)?.unwrap_or(0);
    }
    Ok(size)
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
    fn log_spans(&mut self, experiment: i64, parts: Vec<Ready>, run: Option<&str>) -> Result<Written> {
        self.active_experiment(experiment)?;
        let run = match run {
            None => None,
            Some(run_id) => match self.any_run(run_id) {
                Ok(_) => Some(run_id),
                Err(e) if e.code == ErrorCode::ResourceDoesNotExist => None,
                Err(e) => return Err(e),
            },
        };
        let mut written = Written { logged: Logged::default(), used: Vec::new() };
        for mut part in parts {
            let there = self.trace(&part.trace_id)?;
            let (spans, bytes) = there.as_ref().map_or((0, 0), |t| (t.spans, t.bytes));
            if spans + part.spans.len() as i64 > SPANS || bytes + part.size > BYTES {
                let why = || format!("trace '{}' would have been sent more than {SPANS} spans or {BYTES} bytes", part.trace_id);
                written.logged.refuse(part.spans.len(), why);
                continue;
            }
            if let Err(e) = self.room_for_tags(there.as_ref().map(|t| t.id), &part.tags) {
                if e.code != ErrorCode::InvalidParameterValue {
                    return Err(e);
                }
                part.tags.clear();
                written.logged.refuse(0, || format!("tags of trace '{}' are left out: {}", part.trace_id, e.message));
            }
            let trace = self.upsert_trace(experiment, &part, there.as_ref())?;
            self.upsert_spans(trace, &part.spans)?;
            for (name, value) in [(key::SESSION, &part.session), (key::USER, &part.user)] {
                if let Some(value) = value {
                    let sql = "INSERT INTO trace_metadata (trace, key, value) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
                    self.db.execute(sql, bind![trace, name, limits::tag_value(value)])?;
                }
            }
            if let (Some(run_id), Some(_)) = (run, &part.root) {
                self.link_run(trace, run_id)?;
            }
            written.logged.stored += part.spans.len();
            written.used.extend(part.spans.iter().any(|s| s.usage.is_some() || s.cost.is_some()).then_some(trace));
        }
        Ok(written)
    }

    /// The trace's number.
    fn upsert_trace(&mut self, experiment: i64, part: &Ready, there: Option<&TraceKey>) -> Result<i64> {
        let Ready { root, start, end, size, .. } = part;
        let name = root.as_ref().map(|r| r.name.as_str());
        let (request, response) = root.as_ref().map_or((None, None), |r| (r.request.as_deref(), r.response.as_deref()));
        let spans = part.spans.len() as i64;
        let own = |key: &str, value: String| Pair { key: key.into(), value };
        let kept = own(key::SPANS, "TRACKING_STORE".into());
        let trace = match there {
            None => {
                let sql = "INSERT INTO traces (trace_id, experiment, name, status, start_time, duration, request_preview, response_preview, is_final, spans, bytes)
                           VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, ?9, ?10) RETURNING id";
                let state = root.as_ref().map_or(TraceState::InProgress, |r| r.state).as_str();
                let duration = end.map(|end| (end - start).max(0));
                let values = bind![&part.trace_id, experiment, name, state, start, duration, request, response, spans, size];
                let trace = self.db.one(sql, values)?;
                let place = own(key::ARTIFACTS, self.place_of_trace(experiment, &part.trace_id)?);
                self.set_trace_tags(trace, [&kept, &place].into_iter().chain(part.resource.iter()).chain(&part.tags))?;
                trace
            }
            Some(there) => {
                let sql = "UPDATE traces SET
                               start_time = CASE WHEN is_final = 0 AND ?2 < start_time THEN ?2 ELSE start_time END,
                               duration = CASE WHEN is_final = 1 OR CAST(?3 AS BIGINT) IS NULL THEN duration
                                               ELSE CASE WHEN start_time + COALESCE(duration, 0) > ?3 THEN start_time + COALESCE(duration, 0) ELSE ?3 END
                                                    - CASE WHEN ?2 < start_time THEN ?2 ELSE start_time END END,
                               status = CASE WHEN status IN ('IN_PROGRESS', 'STATE_UNSPECIFIED') THEN COALESCE(?4, status) ELSE status END,
                               name = COALESCE(name, ?5), request_preview = COALESCE(request_preview, ?6), response_preview = COALESCE(response_preview, ?7),
                               spans = spans + ?8, bytes = bytes + ?9
                           WHERE id = ?1";
                let state = root.as_ref().map(|r| r.state.as_str());
                self.db.execute(sql, bind![there.id, start, *end, state, name, request, response, spans, size])?;
                self.set_trace_tags(there.id, [&kept].into_iter().chain(&part.tags))?;
                there.id
            }
        };
        if let Some(name) = name {
            let sql = "INSERT INTO trace_tags (trace, key, value) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
            self.db.execute(sql, bind![trace, key::NAME, name])?;
        }
        Ok(trace)
    }

    /// Of each id the last counts, in the place of the first.
    fn upsert_spans(&mut self, trace: i64, spans: &[ReadySpan]) -> Result<()> {
        let mut places: HashMap<&str, usize> = HashMap::with_capacity(spans.len());
        let mut distinct: Vec<&ReadySpan> = Vec::with_capacity(spans.len());
        for span in spans {
            let at = *places.entry(&span.id).or_insert(distinct.len());
            if at < distinct.len() { distinct[at] = span } else { distinct.push(span) }
        }
        let into = "INSERT INTO spans (trace, span_id, parent_id, name, type, status, start_time, duration, usage, cost, model, provider, size, content)";
        let conflict = "ON CONFLICT (trace, span_id) DO UPDATE SET parent_id = excluded.parent_id, name = excluded.name, type = excluded.type,
                            status = excluded.status, start_time = excluded.start_time, duration = excluded.duration, usage = excluded.usage,
                            cost = excluded.cost, model = excluded.model, provider = excluded.provider, size = excluded.size, content = excluded.content";
        let rows = distinct.into_iter().map(|span| {
            [
                trace.into(),
                (&span.id).into(),
                (&span.parent).into(),
                (&span.name).into(),
                (&span.kind).into(),
                span.status.into(),
                span.start.into(),
                span.duration.into(),
                (&span.usage).into(),
                (&span.cost).into(),
                (&span.model).into(),
                (&span.provider).into(),
                span.size.into(),
                (&span.content).into(),
            ]
        });
        self.db.insert(into, conflict, rows)
    }

    /// Keeps each sum, unless one of a later state of its trace is there, or the client said what it used.
    fn keep_totals(&mut self, totals: Vec<Total>) -> Result<()> {
        for Total { trace, spans, mut pairs } in totals {
            let sql = "UPDATE traces SET summed = ?2 WHERE id = ?1 AND summed < ?2 RETURNING is_final";
            let is_final: Option<bool> = self.db.optional(sql, bind![trace, spans])?;
            let Some(is_final) = is_final else { continue };
            if is_final {
                let sql = "SELECT key FROM trace_metadata WHERE trace = ?1 AND key IN (?2, ?3)";
                let said: Vec<String> = self.db.rows(sql, bind![trace, key::TRACE_USAGE, key::TRACE_COST])?;
                pairs.retain(|pair| !said.contains(&pair.key));
            }
            self.set_metadata(trace, &pairs)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::traces::infos;
    use super::*;
    use crate::otel::KeyValue;

    /// A store with a trace of one span for each name, and the traces' numbers.
    pub async fn logged(names: &[&str]) -> (tempfile::TempDir, Tracking, Vec<i64>) {
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
        let ids = tracking.read(|db| db.rows("SELECT id FROM traces ORDER BY trace_id", bind![])).await.unwrap();
        (dir, tracking, ids)
    }

    #[tokio::test]
    async fn a_sum_of_an_earlier_state_is_not_kept_over_a_later_one() {
        let (_dir, tracking, ids) = logged(&["a"]).await;
        let of =
            |spans, value: &str| Total { trace: ids[0], spans, pairs: vec![Pair { key: key::TRACE_USAGE.into(), value: value.into() }] };
        let (late, early) = (of(9, "late"), of(5, "early"));
        tracking.write(|w| w.keep_totals(vec![late, early])).await.unwrap();
        let info = tracking.read(move |db| infos(db, &ids)).await.unwrap().remove(0).1;
        assert_eq!(info.metadata.iter().find(|p| p.key == key::TRACE_USAGE).unwrap().value, "late");
    }
}
