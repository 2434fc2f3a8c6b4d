//! Traces: what is known of them beside their spans.

use std::collections::{BTreeMap, HashMap};

use super::search::{CHUNK, each_of, in_list, listed};
use super::spans::TraceKey;
use super::writer::Writer;
use super::{Tracking, assessments};
use crate::db::{Db, Row, Sql, bind};
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
const ID: usize = limits::ID;
/// The name of a prompt and its version.
const PROMPT: usize = 300;

impl Tracking {
    /// Notes what a trace is. It may be there already: what is said here stands, and spans that come later do not change it.
    ///
    /// # Errors
    /// When its experiment is missing or deleted, or something is not as it must be.
    pub async fn start_trace(&self, mut info: TraceInfo) -> Result<TraceInfo> {
        if info.id.is_empty() || info.id.len() > ID {
            return Err(Error::invalid(format!("Invalid trace_id: it must have 1 to {ID} characters")));
        }
        limits::moment("start time", info.start_time)?;
        limits::length("client_request_id", ID, info.client_request_id.as_deref().unwrap_or_default())?;
        info.request_preview.iter_mut().chain(&mut info.response_preview).for_each(limits::preview);
        info.tags.iter_mut().chain(&mut info.metadata).try_for_each(limits::trace_pair)?;
        info.assessments.iter().try_for_each(assessments::check)?;
        let id = info.id.clone();
        self.write(move |w| w.start_trace(&info)).await?;
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
        limits::moment("timestamp_ms", time)?;
        tags.iter_mut().chain(&mut metadata).try_for_each(limits::trace_pair)?;
        let id = trace_id.clone();
        self.write(move |w| {
            let trace = w.need_trace(&id)?;
            w.room_for_tags(Some(trace), &tags)?;
            w.room("trace_metadata", "entries of a trace's metadata", Some(trace), &metadata)?;
            let sql = "UPDATE traces SET duration = CASE WHEN ?2 > start_time THEN ?2 - start_time ELSE 0 END, status = ?3, is_final = 1
                       WHERE id = ?1";
            w.db.execute(sql, bind![trace, time, state.as_str()])?;
            w.set_trace_tags(trace, &tags)?;
            w.set_metadata(trace, &metadata)
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
        let trace_ids = trace_ids.to_vec();
        self.read(move |db| {
            let ids = trace_numbers(db, &trace_ids)?;
            Ok(all_infos(db, &ids)?.into_iter().map(|(_, info)| info).collect())
        })
        .await
    }

    /// Sets a tag of a trace.
    ///
    /// # Errors
    /// When the trace is missing or the tag is not as it must be.
    pub async fn set_trace_tag(&self, trace_id: String, mut tag: Pair) -> Result<()> {
        limits::trace_pair(&mut tag)?;
        self.write(move |w| {
            let trace = w.need_trace(&trace_id)?;
            w.room_for_tags(Some(trace), std::slice::from_ref(&tag))?;
            w.set_trace_tags(trace, [&tag])
        })
        .await
    }

    /// Removes a tag of a trace.
    ///
    /// # Errors
    /// When it or the tag is missing.
    pub async fn delete_trace_tag(&self, trace_id: String, key: String) -> Result<()> {
        self.write(move |w| {
            let trace = w.need_trace(&trace_id)?;
            let sql = "DELETE FROM trace_tags WHERE trace = ?1 AND key = ?2";
            let missing = || Error::missing(format!("No tag with name: {key} in trace with ID {trace_id}."));
            if w.db.execute(sql, bind![trace, &key])? == 0 { Err(missing()) } else { Ok(()) }
        })
        .await
    }

    /// Deletes traces of an experiment with all that belongs to them, for good. How many there were.
    ///
    /// # Errors
    /// When too many are named. Where something fails some of them may be gone, and of one some of its spans.
    pub async fn delete_traces(&self, experiment: i64, which: OldTraces) -> Result<u64> {
        let mut sql = Sql::new("SELECT id FROM traces WHERE experiment = ");
        sql.bind(experiment);
        match which {
            OldTraces::Named(trace_ids) if trace_ids.is_empty() => return Ok(0),
            OldTraces::Named(trace_ids) => {
                few(&trace_ids)?;
                sql.push(" AND trace_id IN (").bind_all(trace_ids).push(")");
            }
            OldTraces::Before(time, most) => {
                sql.push(" AND start_time <= ").bind(time).push(" ORDER BY start_time, trace_id LIMIT ");
                sql.bind(most.unwrap_or(DELETED).clamp(0, DELETED));
            }
        }
        let ids: Vec<i64> = self.read(move |db| sql.rows(db)).await?;
        let mut deleted = 0;
        for some in ids.chunks(DELETED_AT_ONCE).map(listed) {
            // A trace may have a hundred thousand spans: others write in between.
            loop {
                let list = in_list(&some);
                if let Some(gone) = self.write(move |w| w.delete_traces(&list)).await? {
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
            w.any_run(&run_id)?;
            for trace_id in trace_ids {
                if let Some(trace) = w.trace(&trace_id)? {
                    w.link_run(trace.id, &run_id)?;
                }
            }
            Ok(())
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
        prompts.iter().try_for_each(|prompt| limits::length("prompt_versions", PROMPT, prompt))?;
        self.write(move |w| {
            let trace = w.need_trace(&trace_id)?;
            let rows = prompts.iter().map(|prompt| [prompt.into(), trace.into()]);
            w.db.insert("INSERT INTO trace_prompts (prompt, trace)", "ON CONFLICT DO NOTHING", rows)
        })
        .await
    }
}

impl Writer {
    fn start_trace(&mut self, info: &TraceInfo) -> Result<()> {
        self.active_experiment(info.experiment)?;
        let there = self.trace(&info.id)?.map(|trace| trace.id);
        self.room_for_tags(there, &info.tags)?;
        self.room("trace_metadata", "entries of a trace's metadata", there, &info.metadata)?;
        self.room_for_assessments(there, &info.assessments)?;
        let name = info.tags.iter().find(|t| t.key == key::NAME).map(|t| &t.value);
        let sql = "INSERT INTO traces (trace_id, experiment, name, status, start_time, duration, client_request_id, request_preview, response_preview,
                       is_final, spans, bytes)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 1, 0, 0)
                   ON CONFLICT (trace_id) DO UPDATE SET experiment = excluded.experiment, name = COALESCE(excluded.name, traces.name),
                       status = excluded.status, start_time = excluded.start_time, duration = excluded.duration,
                       client_request_id = COALESCE(excluded.client_request_id, traces.client_request_id),
                       request_preview = COALESCE(excluded.request_preview, traces.request_preview),
                       response_preview = COALESCE(excluded.response_preview, traces.response_preview), is_final = 1
                   RETURNING id";
        let values = bind![
            &info.id,
            info.experiment,
            name,
            info.state.as_str(),
            info.start_time,
            info.duration,
            &info.client_request_id,
            &info.request_preview,
            &info.response_preview
        ];
        let trace: i64 = self.db.one(sql, values)?;
        let place = self.place_of_trace(info.experiment, &info.id)?;
        let own = |key: &str, value: &str| Pair { key: key.into(), value: value.into() };
        self.set_trace_tags(trace, info.tags.iter().chain([&own(key::ARTIFACTS, &place)]))?;
        self.set_metadata(trace, info.metadata.iter().chain([&own(key::FINAL, "true")]))?;
        for assessment in &info.assessments {
            self.put_assessment(trace, assessment)?;
        }
        self.settle_overrides(trace)
    }

    /// Whether a trace has room for more tags; without one, whether a new one has.
    pub(super) fn room_for_tags(&mut self, trace: Option<i64>, tags: &[Pair]) -> Result<()> {
        self.room("trace_tags", "tags of a trace", trace, tags)
    }

    fn room(&mut self, table: &'static str, what: &str, trace: Option<i64>, new: &[Pair]) -> Result<()> {
        let there: Vec<(String, i64)> = match trace {
            Some(trace) if !new.is_empty() => {
                self.db.rows(&format!("SELECT key, octet_length(value) FROM {table} WHERE trace = ?1"), bind![trace])?
            }
            _ => Vec::new(),
        };
        limits::room(what, &there, new)
    }

    /// Where the client puts files of a trace.
    pub(super) fn place_of_trace(&mut self, experiment: i64, trace_id: &str) -> Result<String> {
        let location: String = self.db.one("SELECT artifact_location FROM experiments WHERE id = ?1", bind![experiment])?;
        Ok(format!("{location}/traces/{trace_id}/artifacts"))
    }

    pub(super) fn trace(&mut self, trace_id: &str) -> Result<Option<TraceKey>> {
        let sql = "SELECT id, spans, bytes FROM traces WHERE trace_id = ?1";
        let row: Option<(i64, i64, i64)> = self.db.optional(sql, bind![trace_id])?;
        Ok(row.map(|(id, spans, bytes)| TraceKey { id, spans, bytes }))
    }

    pub(super) fn need_trace(&mut self, trace_id: &str) -> Result<i64> {
        Ok(self.trace(trace_id)?.ok_or_else(|| no_trace(trace_id))?.id)
    }

    /// The tag that is the trace's name is kept with the trace as well, where searches look.
    pub(super) fn set_trace_tags<'a>(&mut self, trace: i64, tags: impl IntoIterator<Item = &'a Pair>) -> Result<()> {
        let tags = last_of_each(tags);
        self.set_trace_pairs("INSERT INTO trace_tags (trace, key, value)", trace, &tags)?;
        if let Some(name) = tags.get(key::NAME) {
            self.db.execute("UPDATE traces SET name = ?2 WHERE id = ?1", bind![trace, *name])?;
        }
        Ok(())
    }

    pub(super) fn set_metadata<'a>(&mut self, trace: i64, pairs: impl IntoIterator<Item = &'a Pair>) -> Result<()> {
        self.set_trace_pairs("INSERT INTO trace_metadata (trace, key, value)", trace, &last_of_each(pairs))
    }

    fn set_trace_pairs(&mut self, into: &str, trace: i64, pairs: &BTreeMap<&str, &str>) -> Result<()> {
        let rows = pairs.iter().map(|(key, value)| [trace.into(), (*key).into(), (*value).into()]);
        self.db.insert(into, "ON CONFLICT (trace, key) DO UPDATE SET value = excluded.value", rows)
    }

    pub(super) fn link_run(&mut self, trace: i64, run_id: &str) -> Result<()> {
        let sql = "INSERT INTO trace_runs (run_id, trace) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
        self.db.execute(sql, bind![run_id, trace]).map(drop)
    }

    /// Deletes some spans of traces, or the traces once they have none: how many.
    fn delete_traces(&mut self, list: &str) -> Result<Option<u64>> {
        let some = format!("DELETE FROM spans WHERE id IN (SELECT id FROM spans WHERE trace IN {list} LIMIT {SPANS_AT_ONCE})");
        if Sql::new(some).execute(&mut self.db)? as i64 == SPANS_AT_ONCE {
            return Ok(None);
        }
        for table in ["trace_tags", "trace_metadata", "trace_runs", "trace_prompts", "assessments"] {
            Sql::new(format!("DELETE FROM {table} WHERE trace IN {list}")).execute(&mut self.db)?;
        }
        Sql::new(format!("DELETE FROM traces WHERE id IN {list}")).execute(&mut self.db).map(Some)
    }
}

/// The numbers of those that are there, in the order they are named.
pub(super) fn trace_numbers(db: &mut Db, trace_ids: &[String]) -> Result<Vec<i64>> {
    few(trace_ids)?;
    if let [trace_id] = trace_ids {
        return Ok(trace_number(db, trace_id)?.into_iter().collect());
    }
    if trace_ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut sql = Sql::new("SELECT trace_id, id FROM traces WHERE trace_id IN (");
    sql.bind_all(trace_ids.iter().cloned()).push(")");
    let mut found: HashMap<String, i64> = sql.rows(db)?.into_iter().collect();
    // One that is named twice is answered once.
    Ok(trace_ids.iter().filter_map(|id| found.remove(id)).collect())
}

pub(super) fn trace_number(db: &mut Db, trace_id: &str) -> Result<Option<i64>> {
    db.optional("SELECT id FROM traces WHERE trace_id = ?1", bind![trace_id])
}

/// How many of the first of some traces fit into an answer, with what is known of them beside their spans: one at least.
pub(super) fn fitting_traces(db: &mut Db, ids: &[i64]) -> Result<usize> {
    if ids.len() <= 1 {
        return Ok(ids.len());
    }
    let mut left = ANSWERED;
    for (chunk_at, chunk) in ids.chunks(CHUNK).enumerate() {
        let list = in_list(&listed(chunk));
        let pairs = |table| format!("SELECT trace, octet_length(key) + octet_length(value) AS size FROM {table} WHERE trace IN {list}");
        let text = format!(
            "SELECT trace, CAST(SUM(size) AS BIGINT) FROM (
                 {} UNION ALL {} UNION ALL SELECT trace, size FROM assessments WHERE trace IN {list} UNION ALL
                 SELECT id, COALESCE(octet_length(request_preview), 0) + COALESCE(octet_length(response_preview), 0) FROM traces WHERE id IN {list}
             ) AS sizes GROUP BY trace",
            pairs("trace_tags"),
            pairs("trace_metadata")
        );
        let sizes: HashMap<i64, i64> = Sql::new(text).rows(db)?.into_iter().collect();
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
pub(super) fn all_infos(db: &mut Db, ids: &[i64]) -> Result<Vec<(i64, TraceInfo)>> {
    if fitting_traces(db, ids)? < ids.len() {
        return Err(Error::invalid(format!("What is known of these traces is more than {ANSWERED} bytes: ask for fewer at once.")));
    }
    infos(db, ids)
}

/// What is known of those traces that are there, in the order of their numbers given.
pub(super) fn infos(db: &mut Db, ids: &[i64]) -> Result<Vec<(i64, TraceInfo)>> {
    let mut found: HashMap<i64, TraceInfo> = HashMap::with_capacity(ids.len());
    for chunk in ids.chunks(CHUNK) {
        let columns = "id, trace_id, experiment, status, start_time, duration, client_request_id, request_preview, response_preview";
        each_of(db, &format!("SELECT {columns} FROM traces WHERE id"), chunk, "", |row| {
            found.insert(row.get(0)?, read(row)?);
            Ok(())
        })?;
        for (table, is_tag) in [("trace_tags", true), ("trace_metadata", false)] {
            each_of(db, &format!("SELECT trace, key, value FROM {table} WHERE trace"), chunk, " ORDER BY trace, key", |row| {
                if let Some(info) = found.get_mut(&row.get(0)?) {
                    let pair = Pair { key: row.get(1)?, value: row.get(2)? };
                    if is_tag { info.tags.push(pair) } else { info.metadata.push(pair) }
                }
                Ok(())
            })?;
        }
        each_of(db, &format!("{} WHERE a.trace", assessments::COLUMNS), chunk, " ORDER BY a.id", |row| {
            if let Some(info) = found.get_mut(&row.get(0)?) {
                info.assessments.push(assessments::read(row, &info.id)?);
            }
            Ok(())
        })?;
    }
    Ok(ids.iter().filter_map(|id| Some((*id, found.remove(id)?))).collect())
}

/// Pairs as they are once all are set: of each name the last.
fn last_of_each<'a>(pairs: impl IntoIterator<Item = &'a Pair>) -> BTreeMap<&'a str, &'a str> {
    pairs.into_iter().map(|pair| (pair.key.as_str(), pair.value.as_str())).collect()
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

fn read(row: &Row<'_>) -> Result<TraceInfo> {
    Ok(TraceInfo {
        id: row.get(1)?,
        experiment: row.get(2)?,
        state: TraceState::read(&row.get::<String>(3)?),
        start_time: row.get(4)?,
        duration: row.get(5)?,
        client_request_id: row.get(6)?,
        request_preview: row.get(7)?,
        response_preview: row.get(8)?,
        ..TraceInfo::default()
    })
}
