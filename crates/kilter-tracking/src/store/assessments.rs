//! What people and programs say of traces.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::runs::new_id;
use super::traces::{no_trace, trace_number};
use super::writer::Writer;
use super::{Tracking, now};
use crate::db::{Db, Row, bind};
use crate::error::{Error, ErrorCode, Result};
use crate::limits;
use crate::otel::AnyValue;
use crate::trace::{Assessment, AssessmentChange, AssessmentKind, key};

pub(super) const COLUMNS: &str = "SELECT a.trace, a.assessment_id, a.kind, a.name, a.value, a.error, a.source_type, a.source_id, a.span_id, \
                                  a.rationale, a.metadata, a.overrides, a.is_valid, a.created, a.updated FROM assessments a";

/// Assessments that are deleted at once.
const DELETED: usize = 1000;
/// Assessments of a trace at most, bytes of one and of all.
const ASSESSMENTS: usize = 1000;
const BYTES: usize = 1 << 20;
const ALL_BYTES: usize = 16 << 20;

impl Tracking {
    /// Says something of a trace. What it overrides is no longer valid.
    ///
    /// # Errors
    /// When the trace or what is overridden is missing, the id is taken, or something is not as it must be.
    pub async fn create_assessment(&self, assessment: Assessment) -> Result<Assessment> {
        check(&assessment)?;
        let trace_id = assessment.trace.clone();
        let id = self
            .write(move |w| {
                let trace = w.need_trace(&assessment.trace)?;
                if let Some(overridden) = &assessment.overrides {
                    let sql = "SELECT COUNT(*) FROM assessments WHERE trace = ?1 AND assessment_id = ?2";
                    if w.db.one::<i64>(sql, bind![trace, overridden])? == 0 {
                        return Err(no_assessment(overridden, &assessment.trace));
                    }
                }
                w.free_assessment(&assessment.id)?;
                w.room_for_assessments(Some(trace), std::slice::from_ref(&assessment))?;
                let id = w.put_assessment(trace, &assessment)?;
                w.settle_overrides(trace)?;
                Ok(id)
            })
            .await?;
        self.assessment(&trace_id, &id).await
    }

    /// An assessment of a trace.
    ///
    /// # Errors
    /// When it or the trace is missing.
    pub async fn assessment(&self, trace_id: &str, assessment_id: &str) -> Result<Assessment> {
        let (trace_id, id) = (trace_id.to_string(), assessment_id.to_string());
        self.read(move |db| {
            let trace = trace_number(db, &trace_id)?.ok_or_else(|| no_trace(&trace_id))?;
            find(db, trace, &trace_id, &id)
        })
        .await
    }

    /// Changes an assessment; what it is of and who made it stay.
    ///
    /// # Errors
    /// When it is missing or of another kind.
    pub async fn update_assessment(&self, trace_id: &str, assessment_id: &str, change: AssessmentChange) -> Result<Assessment> {
        let (trace, id) = (trace_id.to_string(), assessment_id.to_string());
        self.write(move |w| w.update_assessment(&trace, &id, change)).await?;
        self.assessment(trace_id, assessment_id).await
    }

    /// Deletes an assessment, if it is there; what it overrode is valid again.
    ///
    /// # Errors
    /// When the trace is missing.
    pub async fn delete_assessment(&self, trace_id: String, assessment_id: String) -> Result<()> {
        self.write(move |w| {
            let trace = w.need_trace(&trace_id)?;
            let sql = "DELETE FROM assessments WHERE trace = ?1 AND assessment_id = ?2 RETURNING trace, overrides";
            let gone = w.db.rows(sql, bind![trace, &assessment_id])?;
            w.restore(gone)
        })
        .await
    }

    /// Deletes what a run said of traces; what that overrode is valid again.
    pub(super) async fn delete_assessments_of(&self, run_id: &str) -> Result<()> {
        loop {
            let run_id = run_id.to_string();
            let done = self.write(move |w| {
                let text = format!(
                    "DELETE FROM assessments WHERE id IN (SELECT id FROM assessments WHERE run_id = ?1 LIMIT {DELETED}) RETURNING trace, overrides"
                );
                let gone = w.db.rows(&text, bind![&run_id])?;
                let is_last = gone.len() < DELETED;
                w.restore(gone)?;
                Ok(is_last)
            });
            if done.await? {
                return Ok(());
            }
        }
    }
}

impl Writer {
    /// Whether a trace has room for assessments, without one whether a new one has, and whether their ids are free: those of its own are replaced.
    pub(super) fn room_for_assessments(&mut self, trace: Option<i64>, new: &[Assessment]) -> Result<()> {
        let mut sizes: HashMap<String, usize> = HashMap::new();
        if let Some(trace) = trace.filter(|_| !new.is_empty()) {
            let there: Vec<(String, i64)> = self.db.rows("SELECT assessment_id, size FROM assessments WHERE trace = ?1", bind![trace])?;
            sizes.extend(there.into_iter().map(|(id, size)| (id, size as usize)));
        }
        let mut nameless = 0;
        for a in new {
            if a.id.is_empty() {
                nameless += 1;
                sizes.insert(format!(" {nameless}"), size(a));
                continue;
            }
            if sizes.insert(a.id.clone(), size(a)).is_none() {
                self.free_assessment(&a.id)?;
            }
        }
        let bytes: usize = sizes.values().sum();
        if sizes.len() > ASSESSMENTS || bytes > ALL_BYTES {
            return Err(Error::invalid(format!("A trace has at most {ASSESSMENTS} assessments and {ALL_BYTES} bytes of them")));
        }
        Ok(())
    }

    /// That no assessment has an id yet.
    fn free_assessment(&mut self, id: &str) -> Result<()> {
        let there: i64 = self.db.one("SELECT COUNT(*) FROM assessments WHERE assessment_id = ?1", bind![id])?;
        if there > 0 { Err(taken(id)) } else { Ok(()) }
    }

    /// Stores an assessment, in place of the one with its id. Its id.
    pub(super) fn put_assessment(&mut self, trace: i64, a: &Assessment) -> Result<String> {
        let id = if a.id.is_empty() { format!("a-{}", new_id()) } else { a.id.clone() };
        let sql = "INSERT INTO assessments (assessment_id, trace, size, kind, name, value, number, error, source_type, source_id, span_id, rationale,
                       metadata, run_id, overrides, is_valid, created, updated)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)
                   ON CONFLICT (assessment_id) DO UPDATE SET size = excluded.size, kind = excluded.kind, name = excluded.name, value = excluded.value,
                       number = excluded.number, error = excluded.error, source_type = excluded.source_type, source_id = excluded.source_id,
                       span_id = excluded.span_id, rationale = excluded.rationale, metadata = excluded.metadata, run_id = excluded.run_id,
                       overrides = excluded.overrides, is_valid = excluded.is_valid, created = excluded.created, updated = excluded.updated";
        let values = bind![
            &id,
            trace,
            size(a) as i64,
            a.kind.as_str(),
            &a.name,
            json(&a.value),
            a.value.as_f64(),
            a.error.as_ref().map(Value::to_string),
            &a.source_type,
            &a.source_id,
            &a.span_id,
            &a.rationale,
            written(&a.metadata),
            a.metadata.get(key::ASSESSMENT_RUN),
            &a.overrides,
            a.is_valid,
            a.created,
            a.updated
        ];
        self.db.execute(sql, values)?;
        Ok(id)
    }

    /// What is overridden within a trace is not valid.
    pub(super) fn settle_overrides(&mut self, trace: i64) -> Result<()> {
        let sql = "UPDATE assessments SET is_valid = 0 WHERE trace = ?1 AND assessment_id IN
                       (SELECT o.overrides FROM assessments o WHERE o.trace = ?1 AND o.overrides IS NOT NULL)";
        self.db.execute(sql, bind![trace]).map(drop)
    }

    /// What assessments overrode that are gone, each with its trace, is valid again unless another overrides it.
    pub(super) fn restore(&mut self, gone: Vec<(i64, Option<String>)>) -> Result<()> {
        for (trace, overridden) in gone {
            let Some(overridden) = overridden else { continue };
            let sql = "UPDATE assessments SET is_valid = 1 WHERE trace = ?1 AND assessment_id = ?2
                           AND NOT EXISTS (SELECT 1 FROM assessments o WHERE o.trace = ?1 AND o.overrides = ?2)";
            self.db.execute(sql, bind![trace, &overridden])?;
        }
        Ok(())
    }

    fn update_assessment(&mut self, trace_id: &str, assessment_id: &str, change: AssessmentChange) -> Result<()> {
        let trace = self.need_trace(trace_id)?;
        let mut a = find(&mut self.db, trace, trace_id, assessment_id)?;
        if let Some((kind, value, error)) = change.value {
            if kind != a.kind {
                return Err(Error::invalid(format!("Cannot update {} value on a {} assessment.", kind.as_str(), a.kind.as_str())));
            }
            (a.value, a.error) = (value, error);
        }
        a.name = change.name.unwrap_or(a.name);
        a.rationale = change.rationale.or(a.rationale);
        a.metadata.extend(change.metadata);
        check(&a)?;
        self.room_for_assessments(Some(trace), std::slice::from_ref(&a))?;
        let sql =
            "UPDATE assessments SET size = ?2, name = ?3, value = ?4, number = ?5, error = ?6, rationale = ?7, metadata = ?8, run_id = ?9,
                       updated = ?10 WHERE assessment_id = ?1";
        let values = bind![
            assessment_id,
            size(&a) as i64,
            &a.name,
            json(&a.value),
            a.value.as_f64(),
            a.error.as_ref().map(Value::to_string),
            &a.rationale,
            written(&a.metadata),
            a.metadata.get(key::ASSESSMENT_RUN),
            now()
        ];
        self.db.execute(sql, values).map(drop)
    }
}

/// An assessment of a trace, which is given by its number and its id.
fn find(db: &mut Db, trace: i64, trace_id: &str, assessment_id: &str) -> Result<Assessment> {
    let mut found = None;
    db.each(&format!("{COLUMNS} WHERE a.trace = ?1 AND a.assessment_id = ?2"), bind![trace, assessment_id], |row| {
        found = Some(read(row, trace_id)?);
        Ok(())
    })?;
    found.ok_or_else(|| no_assessment(assessment_id, trace_id))
}

/// What can be said of an assessment without looking at what is stored.
pub(super) fn check(a: &Assessment) -> Result<()> {
    if a.name.is_empty() {
        return Err(Error::invalid("Missing value for required parameter 'assessment.assessment_name'."));
    }
    limits::length("assessment_name", 250, &a.name)?;
    limits::length("source_id", 250, &a.source_id)?;
    limits::length("assessment_id", 250, &a.id)?;
    limits::length("span_id", 250, a.span_id.as_deref().unwrap_or_default())?;
    let run = a.metadata.iter().find(|(name, _)| *name == key::ASSESSMENT_RUN);
    limits::length(key::ASSESSMENT_RUN, limits::ID, run.map_or("", |(_, run)| run))?;
    limits::length("overrides", 250, a.overrides.as_deref().unwrap_or_default())?;
    if a.overrides.as_ref().is_some_and(|overridden| *overridden == a.id) {
        return Err(Error::invalid("An assessment cannot override itself"));
    }
    if size(a) > BYTES {
        return Err(Error::invalid(format!("An assessment has at most {BYTES} bytes")));
    }
    Ok(())
}

/// Bytes of all texts.
fn size(a: &Assessment) -> usize {
    let error = a.error.as_ref().map_or(0, |error| error.to_string().len());
    a.name.len()
        + a.source_id.len()
        + json(&a.value).len()
        + error
        + a.rationale.as_ref().map_or(0, String::len)
        + written(&a.metadata).len()
}

fn taken(assessment_id: &str) -> Error {
    Error::new(ErrorCode::ResourceAlreadyExists, format!("There is an assessment with ID '{assessment_id}' already"))
}

/// As Python writes it: searches compare it to what a filter says.
fn json(value: &Value) -> String {
    AnyValue::of_json(value).map_or_else(|| value.to_string(), |value| value.to_json())
}

fn written(metadata: &BTreeMap<String, String>) -> String {
    // Texts by texts are always JSON.
    serde_json::to_string(metadata).unwrap_or_else(|_| "{}".into())
}

fn no_assessment(assessment_id: &str, trace_id: &str) -> Error {
    Error::missing(format!("Assessment with ID '{assessment_id}' not found for trace '{trace_id}'"))
}

/// A row of [`COLUMNS`].
pub(super) fn read(row: &Row<'_>, trace_id: &str) -> Result<Assessment> {
    let parsed = |text: String| serde_json::from_str(&text).unwrap_or(Value::Null);
    Ok(Assessment {
        id: row.get(1)?,
        trace: trace_id.into(),
        kind: AssessmentKind::read(&row.get::<String>(2)?),
        name: row.get(3)?,
        value: parsed(row.get(4)?),
        error: row.get::<Option<String>>(5)?.map(parsed),
        source_type: row.get(6)?,
        source_id: row.get(7)?,
        span_id: row.get(8)?,
        rationale: row.get(9)?,
        metadata: serde_json::from_str(&row.get::<String>(10)?).unwrap_or_default(),
        overrides: row.get(11)?,
        is_valid: row.get(12)?,
        created: row.get(13)?,
        updated: row.get(14)?,
    })
}
