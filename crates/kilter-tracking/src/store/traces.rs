//! Traces: what is known of them beside their spans.

use std::collections::HashMap;

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::Tracking;
use super::search::{CHUNK, in_list, listed};
use super::spans::TraceKey;
use super::writer::Writer;
use crate::error::{Error, Result};
use crate::limits;
use crate::model::Pair;
use crate::trace::{OldTraces, TraceInfo, TraceState, key};

/// Traces that one request names at most.
const NAMED: usize = 1000;
/// Traces that are linked to a run at once, and prompts to a trace.
const LINKED: usize = 100;
/// Traces that one request deletes at most, unless it says fewer; of them and of spans, so many at once.
const DELETED: i64 = 10_000;
const DELETED_AT_ONCE: usize = 50;
const SPANS_AT_ONCE: i64 = 10_000;
/// Bytes of what is known of traces in one answer at most, beside their spans; a trace alone always fits.
const ANSWERED: i64 = 32 << 20;
/// Characters of an id that the client gives.
const ID: usize = 250;

impl Tracking {
    /// Notes what a trace is. It may be there already: what is said here stands, and spans that come later do not change it.
    ///
    /// # Errors
    /// When its experiment is missing or deleted, or something is not as it must be.
    pub async fn start_trace(&self, mut info: TraceInfo) -> Result<TraceInfo> {
        if info.id.is_empty() || info.id.len() > ID {
            return Err(Error::invalid(format!("Invalid trace_id: it must have 1 to {ID} characters")));
        }
        limits::length("client_request_id", ID, info.client_request_id.as_deref().unwrap_or_default())?;
        info.request_preview.iter_mut().chain(&mut info.response_preview).for_each(limits::preview);
        info.tags.iter_mut().chain(&mut info.metadata).try_for_each(limits::trace_pair)?;
        info.assessments.iter().try_for_each(super::assessments::check)?;
        let id = info.id.clone();
        self.write(move |w| Box::pin(async move { w.start_trace(info).await })).await?;
        self.trace_info(&id).await
    }

    /// Begins a trace that is ended later, as clients of MLflow 2 do, and names it.
    ///
    /// # Errors
    /// When its experiment is missing or deleted, or something is not as it must be.
    pub async fn begin_trace(&self, experiment: i64, time: i64, metadata: Vec<Pair>, tags: Vec<Pair>) -> Result<TraceInfo> {
        let (id, state) = (super::runs::new_id(), TraceState::InProgress);
        self.start_trace(TraceInfo { id, experiment, start_time: time, state, metadata, tags, ..TraceInfo::default() }).await
    }

    /// Ends a trace that was begun. Metadata and tags are added to those that it has.
    ///
    /// # Errors
    /// When it is missing, or something is not as it must be.
    pub async fn end_trace(
        &self,
        trace_id: String,
        time: i64,
        state: TraceState,
        mut metadata: Vec<Pair>,
        mut tags: Vec<Pair>,
    ) -> Result<TraceInfo> {
        tags.iter_mut().chain(&mut metadata).try_for_each(limits::trace_pair)?;
        let id = trace_id.clone();
        self.write(move |w| {
            Box::pin(async move {
                let trace = w.need_trace(&id).await?;
                w.room_for_tags(Some(trace), &tags).await?;
                w.room("trace_metadata", "entries of a trace's metadata", Some(trace), &metadata).await?;
                let sql = "UPDATE traces SET duration = MAX($2 - start_time, 0), status = $3, is_final = 1 WHERE id = $1";
                sqlx::query(sql).bind(trace).bind(time).bind(state.as_str()).execute(&mut w.connection).await?;
                w.set_trace_tags(trace, &tags).await?;
                w.set_metadata(trace, &metadata).await
            })
        })
        .await?;
        self.trace_info(&trace_id).await
    }

    /// What is known of a trace.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn trace_info(&self, trace_id: &str) -> Result<TraceInfo> {
        self.trace_infos(&[trace_id.to_string()]).await?.pop().ok_or_else(|| no_trace(trace_id))
    }

    /// Those that are there of some traces, in their order.
    ///
    /// # Errors
    /// When too many are named, or they are too large together.
    pub async fn trace_infos(&self, trace_ids: &[String]) -> Result<Vec<TraceInfo>> {
        let ids = self.trace_numbers(trace_ids).await?;
        Ok(self.all_infos(&ids).await?.into_iter().map(|(_, info)| info).collect())
    }

    /// Sets a tag of a trace.
    ///
    /// # Errors
    /// When the trace is missing or the tag is not as it must be.
    pub async fn set_trace_tag(&self, trace_id: String, mut tag: Pair) -> Result<()> {
        limits::trace_pair(&mut tag)?;
        self.write(move |w| {
            Box::pin(async move {
                let trace = w.need_trace(&trace_id).await?;
                let tags = [tag];
                w.room_for_tags(Some(trace), &tags).await?;
                w.set_trace_tags(trace, &tags).await
            })
        })
        .await
    }

    /// Removes a tag of a trace.
    ///
    /// # Errors
    /// When it or the tag is missing.
    pub async fn delete_trace_tag(&self, trace_id: String, key: String) -> Result<()> {
        self.write(move |w| {
            Box::pin(async move {
                let trace = w.need_trace(&trace_id).await?;
                let sql = "DELETE FROM trace_tags WHERE trace = $1 AND key = $2";
                let done = sqlx::query(sql).bind(trace).bind(&key).execute(&mut w.connection).await?;
                let missing = || Error::missing(format!("No tag with name: {key} in trace with ID {trace_id}."));
                if done.rows_affected() == 0 { Err(missing()) } else { Ok(()) }
            })
        })
        .await
    }

    /// Deletes traces of an experiment with all that belongs to them, for good. How many there were.
    ///
    /// # Errors
    /// When too many are named. Where something fails some of them may be gone, and of one some of its spans.
    pub async fn delete_traces(&self, experiment: i64, which: OldTraces) -> Result<u64> {
        let mut sql = QueryBuilder::<Sqlite>::new("SELECT id FROM traces WHERE experiment = ");
        sql.push_bind(experiment);
        match which {
            OldTraces::Named(trace_ids) => {
                few(&trace_ids)?;
                sql.push(" AND trace_id IN (");
                let mut list = sql.separated(", ");
                for id in trace_ids {
                    list.push_bind(id);
                }
                sql.push(")");
            }
            OldTraces::Before(time, most) => {
                sql.push(" AND start_time <= ").push_bind(time).push(" ORDER BY start_time, trace_id LIMIT ");
                sql.push_bind(most.unwrap_or(DELETED).clamp(0, DELETED));
            }
        }
        let (mut deleted, ids) = (0, self.numbers(sql).await?);
        for some in ids.chunks(DELETED_AT_ONCE).map(listed) {
            // A trace may have a hundred thousand spans: others write in between.
            loop {
                let list = in_list(&some);
                if let Some(gone) = self.write(move |w| Box::pin(async move { w.delete_traces(&list).await })).await? {
                    deleted += gone;
                    break;
                }
            }
        }
        Ok(deleted)
    }

    /// Notes that traces belong to a run; those that are missing are passed over.
    ///
    /// # Errors
    /// When the run is missing, or too many are named.
    pub async fn link_traces_to_run(&self, trace_ids: Vec<String>, run_id: String) -> Result<()> {
        if trace_ids.len() > LINKED {
            return Err(Error::invalid(format!(
                "Cannot link more than {LINKED} traces to a run in a single request. Provided {} traces.",
                trace_ids.len()
            )));
        }
        self.write(move |w| {
            Box::pin(async move {
                w.any_run(&run_id).await?;
                for trace_id in trace_ids {
                    if let Some(trace) = w.trace(&trace_id).await? {
                        w.link_run(trace.id, &run_id).await?;
                    }
                }
                Ok(())
            })
        })
        .await
    }

    /// Notes which versions of prompts (`name/version`) a trace used.
    ///
    /// # Errors
    /// When the trace is missing, or too many are named.
    pub async fn link_prompts(&self, trace_id: String, prompts: Vec<String>) -> Result<()> {
        if prompts.len() > LINKED {
            return Err(Error::invalid(format!("Cannot link more than {LINKED} prompts to a trace in a single request.")));
        }
        prompts.iter().try_for_each(|prompt| limits::text("prompt_versions", prompt))?;
        self.write(move |w| {
            Box::pin(async move {
                let trace = w.need_trace(&trace_id).await?;
                for prompt in prompts {
                    let sql = "INSERT INTO trace_prompts (prompt, trace) VALUES ($1, $2) ON CONFLICT DO NOTHING";
                    sqlx::query(sql).bind(prompt).bind(trace).execute(&mut w.connection).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// The numbers of those that are there, in the order they are named.
    pub(super) async fn trace_numbers(&self, trace_ids: &[String]) -> Result<Vec<i64>> {
        few(trace_ids)?;
        if trace_ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = QueryBuilder::<Sqlite>::new("SELECT trace_id, id FROM traces WHERE trace_id IN (");
        let mut list = sql.separated(", ");
        for id in trace_ids {
            list.push_bind(id);
        }
        sql.push(")");
        let found: Vec<(String, i64)> = sql.build_query_as().fetch_all(self.readers()).await?;
        let mut found: HashMap<String, i64> = found.into_iter().collect();
        // One that is named twice is answered once.
        Ok(trace_ids.iter().filter_map(|id| found.remove(id)).collect())
    }

    /// How many of the first of some traces fit into an answer, with what is known of them beside their spans: one at least.
    pub(super) async fn fitting_traces(&self, ids: &[i64]) -> Result<usize> {
        let mut left = ANSWERED;
        for (chunk_at, chunk) in ids.chunks(CHUNK).enumerate() {
            let list = in_list(&listed(chunk));
            let pairs = |table| format!("SELECT trace, octet_length(key) + octet_length(value) AS size FROM {table} WHERE trace IN {list}");
            let text = format!(
                "SELECT trace, SUM(size) FROM (
                     {} UNION ALL {} UNION ALL SELECT trace, size FROM assessments WHERE trace IN {list} UNION ALL
                     SELECT id, COALESCE(octet_length(request_preview), 0) + COALESCE(octet_length(response_preview), 0) FROM traces WHERE id IN {list}
                 ) GROUP BY trace",
                pairs("trace_tags"),
                pairs("trace_metadata")
            );
            let sizes: Vec<(i64, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(text)).persistent(false).fetch_all(self.readers()).await?;
            let sizes: HashMap<i64, i64> = sizes.into_iter().collect();
            for (at, id) in (chunk_at * CHUNK..).zip(chunk) {
                left -= sizes.get(id).copied().unwrap_or(0);
                if left < 0 {
                    return Ok(at.max(1));
                }
            }
        }
        Ok(ids.len())
    }

    /// What is known of traces that an answer must have all of.
    pub(super) async fn all_infos(&self, ids: &[i64]) -> Result<Vec<(i64, TraceInfo)>> {
        if self.fitting_traces(ids).await? < ids.len() {
            return Err(Error::invalid(format!("What is known of these traces is more than {ANSWERED} bytes: ask for fewer at once.")));
        }
        self.infos(ids).await
    }

    /// What is known of those traces that are there, in the order of their numbers given.
    pub(super) async fn infos(&self, ids: &[i64]) -> Result<Vec<(i64, TraceInfo)>> {
        let mut found: HashMap<i64, TraceInfo> = HashMap::with_capacity(ids.len());
        for chunk in ids.chunks(CHUNK) {
            let ids = in_list(&listed(chunk));
            let rows = |text: String| async move { sqlx::query(sqlx::AssertSqlSafe(text)).fetch_all(self.readers()).await };
            let columns = "id, trace_id, experiment, status, start_time, duration, client_request_id, request_preview, response_preview";
            for row in rows(format!("SELECT {columns} FROM traces WHERE id IN {ids}")).await? {
                found.insert(row.try_get(0)?, read(&row)?);
            }
            for (table, is_tag) in [("trace_tags", true), ("trace_metadata", false)] {
                for row in rows(format!("SELECT trace, key, value FROM {table} WHERE trace IN {ids} ORDER BY trace, key")).await? {
                    if let Some(info) = found.get_mut(&row.try_get(0)?) {
                        let pair = Pair { key: row.try_get(1)?, value: row.try_get(2)? };
                        if is_tag { info.tags.push(pair) } else { info.metadata.push(pair) }
                    }
                }
            }
            for row in rows(format!("{} WHERE a.trace IN {ids} ORDER BY a.id", super::assessments::COLUMNS)).await? {
                if let Some(info) = found.get_mut(&row.try_get(0)?) {
                    info.assessments.push(super::assessments::read(&row, &info.id)?);
                }
            }
        }
        Ok(ids.iter().filter_map(|id| Some((*id, found.remove(id)?))).collect())
    }
}

impl Writer {
    async fn start_trace(&mut self, info: TraceInfo) -> Result<()> {
        self.active_experiment(info.experiment).await?;
        let there = self.trace(&info.id).await?.map(|trace| trace.id);
        self.room_for_tags(there, &info.tags).await?;
        self.room("trace_metadata", "entries of a trace's metadata", there, &info.metadata).await?;
        self.room_for_assessments(there, &info.assessments).await?;
        let name = info.tags.iter().find(|t| t.key == key::NAME).map(|t| t.value.clone());
        let sql = "INSERT INTO traces (trace_id, experiment, name, status, start_time, duration, client_request_id, request_preview, response_preview,
                       is_final, spans, bytes)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1, 0, 0)
                   ON CONFLICT (trace_id) DO UPDATE SET experiment = excluded.experiment, name = COALESCE(excluded.name, traces.name),
                       status = excluded.status, start_time = excluded.start_time, duration = excluded.duration,
                       client_request_id = COALESCE(excluded.client_request_id, traces.client_request_id),
                       request_preview = COALESCE(excluded.request_preview, traces.request_preview),
                       response_preview = COALESCE(excluded.response_preview, traces.response_preview), is_final = 1
                   RETURNING id";
        let query = sqlx::query_scalar(sql).bind(&info.id).bind(info.experiment).bind(name).bind(info.state.as_str());
        let query = query.bind(info.start_time).bind(info.duration).bind(&info.client_request_id);
        let trace: i64 = query.bind(&info.request_preview).bind(&info.response_preview).fetch_one(&mut self.connection).await?;
        let place = self.place_of_trace(info.experiment, &info.id).await?;
        let own = |key: &str, value: &str| Pair { key: key.into(), value: value.into() };
        self.set_trace_tags(trace, &[info.tags.as_slice(), &[own(key::ARTIFACTS, &place)]].concat()).await?;
        self.set_metadata(trace, &[info.metadata.as_slice(), &[own(key::FINAL, "true")]].concat()).await?;
        for assessment in &info.assessments {
            self.put_assessment(trace, assessment).await?;
        }
        self.settle_overrides(trace).await
    }

    /// Whether a trace has room for more tags; without one, whether a new one has.
    pub(super) async fn room_for_tags(&mut self, trace: Option<i64>, tags: &[Pair]) -> Result<()> {
        self.room("trace_tags", "tags of a trace", trace, tags).await
    }

    async fn room(&mut self, table: &'static str, what: &str, trace: Option<i64>, new: &[Pair]) -> Result<()> {
        let there: Vec<(String, i64)> = match trace {
            Some(trace) if !new.is_empty() => {
                let text = format!("SELECT key, octet_length(value) FROM {table} WHERE trace = $1");
                sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(trace).fetch_all(&mut self.connection).await?
            }
            _ => Vec::new(),
        };
        limits::room(what, &there, new)
    }

    /// Where the client puts files of a trace.
    pub(super) async fn place_of_trace(&mut self, experiment: i64, trace_id: &str) -> Result<String> {
        let sql = "SELECT artifact_location FROM experiments WHERE id = $1";
        let location: String = sqlx::query_scalar(sql).bind(experiment).fetch_one(&mut self.connection).await?;
        Ok(format!("{location}/traces/{trace_id}/artifacts"))
    }

    pub(super) async fn trace(&mut self, trace_id: &str) -> Result<Option<TraceKey>> {
        let sql = "SELECT id, spans, bytes FROM traces WHERE trace_id = $1";
        let row: Option<(i64, i64, i64)> = sqlx::query_as(sql).bind(trace_id).fetch_optional(&mut self.connection).await?;
        Ok(row.map(|(id, spans, bytes)| TraceKey { id, spans, bytes }))
    }

    pub(super) async fn need_trace(&mut self, trace_id: &str) -> Result<i64> {
        Ok(self.trace(trace_id).await?.ok_or_else(|| no_trace(trace_id))?.id)
    }

    /// The tag that is the trace's name is kept with the trace as well, where searches look.
    pub(super) async fn set_trace_tags(&mut self, trace: i64, tags: &[Pair]) -> Result<()> {
        self.set_trace_pairs("INSERT INTO trace_tags (trace, key, value)", trace, tags).await?;
        if let Some(name) = tags.iter().rfind(|tag| tag.key == key::NAME) {
            let sql = "UPDATE traces SET name = $2 WHERE id = $1";
            sqlx::query(sql).bind(trace).bind(&name.value).execute(&mut self.connection).await?;
        }
        Ok(())
    }

    pub(super) async fn set_metadata(&mut self, trace: i64, pairs: &[Pair]) -> Result<()> {
        self.set_trace_pairs("INSERT INTO trace_metadata (trace, key, value)", trace, pairs).await
    }

    /// Of each name the last counts.
    async fn set_trace_pairs(&mut self, into: &str, trace: i64, pairs: &[Pair]) -> Result<()> {
        let conflict = "ON CONFLICT (trace, key) DO UPDATE SET value = excluded.value";
        self.insert(into, pairs, conflict, |row, pair| {
            row.push_bind(trace).push_bind(pair.key.clone()).push_bind(pair.value.clone());
        })
        .await
    }

    pub(super) async fn link_run(&mut self, trace: i64, run_id: &str) -> Result<()> {
        let sql = "INSERT INTO trace_runs (run_id, trace) VALUES ($1, $2) ON CONFLICT DO NOTHING";
        sqlx::query(sql).bind(run_id).bind(trace).execute(&mut self.connection).await?;
        Ok(())
    }

    /// Deletes some spans of traces, or the traces once they have none: how many.
    async fn delete_traces(&mut self, list: &str) -> Result<Option<u64>> {
        let text = format!("DELETE FROM spans WHERE id IN (SELECT id FROM spans WHERE trace IN {list} LIMIT {SPANS_AT_ONCE})");
        let spans = sqlx::query(sqlx::AssertSqlSafe(text)).execute(&mut self.connection).await?.rows_affected();
        if spans as i64 == SPANS_AT_ONCE {
            return Ok(None);
        }
        let tables = ["trace_tags", "trace_metadata", "trace_runs", "trace_prompts", "assessments"];
        for text in tables.map(|table| format!("DELETE FROM {table} WHERE trace IN {list}")) {
            sqlx::query(sqlx::AssertSqlSafe(text)).execute(&mut self.connection).await?;
        }
        let text = format!("DELETE FROM traces WHERE id IN {list}");
        Ok(Some(sqlx::query(sqlx::AssertSqlSafe(text)).execute(&mut self.connection).await?.rows_affected()))
    }
}

pub(super) fn no_trace(trace_id: &str) -> Error {
    Error::missing(format!("Trace with ID '{trace_id}' not found."))
}

fn few(trace_ids: &[String]) -> Result<()> {
    if trace_ids.len() <= NAMED {
        return Ok(());
    }
    Err(Error::invalid(format!("A request can name at most {NAMED} traces. Got {}.", trace_ids.len())))
}

fn read(row: &SqliteRow) -> Result<TraceInfo> {
    Ok(TraceInfo {
        id: row.try_get(1)?,
        experiment: row.try_get(2)?,
        state: TraceState::read(row.try_get(3)?),
        start_time: row.try_get(4)?,
        duration: row.try_get(5)?,
        client_request_id: row.try_get(6)?,
        request_preview: row.try_get(7)?,
        response_preview: row.try_get(8)?,
        ..TraceInfo::default()
    })
}
