//! What people and programs say of traces.

use std::collections::BTreeMap;

use serde_json::Value;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::runs::new_id;
use super::traces::{ASSESSMENTS, no_trace};
use super::writer::Writer;
use super::{Tracking, now};
use crate::error::{Error, Result};
use crate::limits;
use crate::otel::AnyValue;
use crate::trace::{Assessment, AssessmentChange, AssessmentKind, key};

pub(super) const COLUMNS: &str = "SELECT a.trace, a.assessment_id, a.kind, a.name, a.value, a.error, a.source_type, a.source_id, a.span_id, \
                                  a.rationale, a.metadata, a.overrides, a.is_valid, a.created, a.updated FROM assessments a";

impl Tracking {
    /// Says something of a trace. What it overrides is no longer valid.
    ///
    /// # Errors
    /// When the trace or what is overridden is missing, or something is not as it must be.
    pub async fn create_assessment(&self, assessment: Assessment) -> Result<Assessment> {
        check(&assessment)?;
        let trace_id = assessment.trace.clone();
        let id = self
            .write(move |w| {
                Box::pin(async move {
                    let trace = w.need_trace(&assessment.trace).await?;
                    let sql = "SELECT COUNT(*) FROM assessments WHERE trace = $1";
                    let there: i64 = sqlx::query_scalar(sql).bind(trace).fetch_one(&mut w.connection).await?;
                    if there >= ASSESSMENTS {
                        return Err(Error::invalid(format!("A trace has at most {ASSESSMENTS} assessments")));
                    }
                    if let Some(overridden) = &assessment.overrides {
                        let sql = "UPDATE assessments SET is_valid = 0 WHERE trace = $1 AND assessment_id = $2";
                        let done = sqlx::query(sql).bind(trace).bind(overridden).execute(&mut w.connection).await?;
                        if done.rows_affected() == 0 {
                            return Err(no_assessment(overridden, &assessment.trace));
                        }
                    }
                    w.insert_assessment(trace, assessment).await
                })
            })
            .await?;
        self.assessment(&trace_id, &id).await
    }

    /// An assessment of a trace.
    ///
    /// # Errors
    /// When it or the trace is missing.
    pub async fn assessment(&self, trace_id: &str, assessment_id: &str) -> Result<Assessment> {
        let sql = format!("{COLUMNS} JOIN traces t ON t.id = a.trace WHERE t.trace_id = $1 AND a.assessment_id = $2");
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(trace_id).bind(assessment_id);
        match query.fetch_optional(self.readers()).await? {
            Some(row) => read(&row, trace_id),
            None if self.trace_numbers(&[trace_id.to_string()]).await?.is_empty() => Err(no_trace(trace_id)),
            None => Err(no_assessment(assessment_id, trace_id)),
        }
    }

    /// Changes an assessment; what it is of and who made it stay.
    ///
    /// # Errors
    /// When it is missing or of another kind.
    pub async fn update_assessment(&self, trace_id: &str, assessment_id: &str, change: AssessmentChange) -> Result<Assessment> {
        let (trace, id) = (trace_id.to_string(), assessment_id.to_string());
        self.write(move |w| Box::pin(async move { w.update_assessment(&trace, &id, change).await })).await?;
        self.assessment(trace_id, assessment_id).await
    }

    /// Deletes an assessment, if it is there; what it overrode is valid again.
    ///
    /// # Errors
    /// When the trace is missing.
    pub async fn delete_assessment(&self, trace_id: String, assessment_id: String) -> Result<()> {
        self.write(move |w| {
            Box::pin(async move {
                let trace = w.need_trace(&trace_id).await?;
                let sql = "DELETE FROM assessments WHERE trace = $1 AND assessment_id = $2 RETURNING overrides";
                let gone: Option<Option<String>> =
                    sqlx::query_scalar(sql).bind(trace).bind(&assessment_id).fetch_optional(&mut w.connection).await?;
                if let Some(Some(overridden)) = gone {
                    let sql = "UPDATE assessments SET is_valid = 1 WHERE trace = $1 AND assessment_id = $2";
                    sqlx::query(sql).bind(trace).bind(overridden).execute(&mut w.connection).await?;
                }
                Ok(())
            })
        })
        .await
    }
}

impl Writer {
    /// Its id.
    pub(super) async fn insert_assessment(&mut self, trace: i64, a: Assessment) -> Result<String> {
        let id = if a.id.is_empty() { format!("a-{}", new_id()) } else { a.id };
        // One that comes again with its trace is the same.
        let sql = "INSERT INTO assessments (assessment_id, trace, kind, name, value, number, error, source_type, source_id, span_id, rationale,
                       metadata, run_id, overrides, is_valid, created, updated)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) ON CONFLICT (assessment_id) DO NOTHING";
        let query = sqlx::query(sql).bind(&id).bind(trace).bind(a.kind.as_str()).bind(&a.name).bind(json(&a.value)).bind(a.value.as_f64());
        let query = query.bind(a.error.as_ref().map(Value::to_string)).bind(&a.source_type).bind(&a.source_id).bind(&a.span_id);
        let query = query.bind(&a.rationale).bind(written(&a.metadata)).bind(a.metadata.get(key::ASSESSMENT_RUN)).bind(&a.overrides);
        query.bind(a.is_valid).bind(a.created).bind(a.updated).execute(&mut self.connection).await?;
        Ok(id)
    }

    async fn update_assessment(&mut self, trace_id: &str, assessment_id: &str, change: AssessmentChange) -> Result<()> {
        let trace = self.need_trace(trace_id).await?;
        let sql = format!("{COLUMNS} WHERE a.trace = $1 AND a.assessment_id = $2");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(trace).bind(assessment_id).fetch_optional(&mut self.connection).await?;
        let mut a = read(&row.ok_or_else(|| no_assessment(assessment_id, trace_id))?, trace_id)?;
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
        let sql = "UPDATE assessments SET name = $2, value = $3, number = $4, error = $5, rationale = $6, metadata = $7, run_id = $8, updated = $9
                   WHERE assessment_id = $1";
        let query = sqlx::query(sql).bind(assessment_id).bind(&a.name).bind(json(&a.value)).bind(a.value.as_f64());
        let query = query.bind(a.error.as_ref().map(Value::to_string)).bind(&a.rationale).bind(written(&a.metadata));
        query.bind(a.metadata.get(key::ASSESSMENT_RUN)).bind(now()).execute(&mut self.connection).await?;
        Ok(())
    }
}

/// What can be said of an assessment without looking at what is stored.
pub(super) fn check(a: &Assessment) -> Result<()> {
    if a.name.is_empty() {
        return Err(Error::invalid("Missing value for required parameter 'assessment.assessment_name'."));
    }
    limits::length("assessment_name", 250, &a.name)?;
    limits::length("source_id", 250, &a.source_id)?;
    limits::length("assessment_id", 250, &a.id)?;
    if a.metadata.len() > 1000 {
        return Err(Error::invalid("An assessment has at most 1000 entries of metadata"));
    }
    Ok(())
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
pub(super) fn read(row: &SqliteRow, trace_id: &str) -> Result<Assessment> {
    let parsed = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
    Ok(Assessment {
        id: row.try_get(1)?,
        trace: trace_id.into(),
        kind: AssessmentKind::read(row.try_get(2)?),
        name: row.try_get(3)?,
        value: parsed(row.try_get(4)?),
        error: row.try_get::<Option<&str>, _>(5)?.map(parsed),
        source_type: row.try_get(6)?,
        source_id: row.try_get(7)?,
        span_id: row.try_get(8)?,
        rationale: row.try_get(9)?,
        metadata: serde_json::from_str(row.try_get(10)?).unwrap_or_default(),
        overrides: row.try_get(11)?,
        is_valid: row.try_get(12)?,
        created: row.try_get(13)?,
        updated: row.try_get(14)?,
    })
}
