//! Runs: one training, backtest or evaluation each, with what went in and what came out.

use super::{MAX_ROWS, Metadata, MetadataError, Result, owner};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, Transaction};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunKind {
    /// Fits a model.
    Train,
    /// Replays a history through a pipeline.
    Backtest,
    /// Judges a model on labelled data.
    Evaluate,
    /// Takes in a model trained elsewhere.
    Import,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunStatus {
    /// At work.
    Running,
    /// Done as intended.
    Finished,
    /// Ended with an error.
    Failed,
    /// Its process died, or it was stopped by hand.
    Killed,
}

/// A run as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Sorts by start time.
    pub id: String,
    /// What it does.
    pub kind: RunKind,
    /// Its name, for people.
    pub name: String,
    /// The model it is about.
    pub model: Option<String>,
    /// How far it is.
    pub status: RunStatus,
    /// Microseconds UTC.
    pub started_at: i64,
    /// Microseconds UTC.
    pub ended_at: Option<i64>,
    /// What it was told.
    pub params: BTreeMap<String, String>,
    /// The latest value of each metric; [`Metadata::metric_history`] has all points.
    pub metrics: BTreeMap<String, f64>,
    /// Free marks.
    pub tags: BTreeMap<String, String>,
    /// Hash of the definitions it used.
    pub definition_hash: Option<String>,
    /// Fingerprint of the data it read.
    pub data_fingerprint: Option<String>,
    /// Seed of its randomness.
    pub seed: Option<i64>,
    /// Why it failed.
    pub error: Option<String>,
}

/// What is known when a run starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRun {
    /// What it does.
    pub kind: RunKind,
    /// Its name, for people.
    pub name: String,
    /// The model it is about.
    pub model: Option<String>,
    /// Microseconds UTC.
    pub started_at: i64,
    /// Hash of the definitions it uses.
    pub definition_hash: Option<String>,
    /// Fingerprint of the data it reads.
    pub data_fingerprint: Option<String>,
    /// Seed of its randomness.
    pub seed: Option<i64>,
}

/// One value of a metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MetricPoint {
    /// The metric's name.
    pub key: String,
    /// Its value; NaN and infinities are kept.
    pub value: f64,
    /// Where in the run, as in the number of trees.
    pub step: i64,
    /// Microseconds UTC.
    pub at: i64,
}

/// Which runs to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFilter {
    /// Only of this kind.
    pub kind: Option<RunKind>,
    /// Only of this model.
    pub model: Option<String>,
    /// Only with this status.
    pub status: Option<RunStatus>,
    /// At most so many, and never more than 10 000.
    pub limit: u32,
    /// Pass over so many.
    pub offset: u32,
}

impl Default for RunFilter {
    fn default() -> Self {
        Self { kind: None, model: None, status: None, limit: 100, offset: 0 }
    }
}

impl Metadata {
    /// Starts a run and answers its id. If this process dies, [`Metadata::mark_orphans`] will find the run.
    ///
    /// Errors: [`MetadataError::Database`].
    pub async fn start_run(&self, run: &NewRun) -> Result<String> {
        let id = run_id(run.started_at);
        let sql = "INSERT INTO runs (id, kind, name, model, status, started_at, definition_hash, data_fingerprint, seed, owner)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
        sqlx::query(sql)
            .bind(&id)
            .bind(run.kind.as_str())
            .bind(&run.name)
            .bind(&run.model)
            .bind(RunStatus::Running.as_str())
            .bind(run.started_at)
            .bind(&run.definition_hash)
            .bind(&run.data_fingerprint)
            .bind(run.seed)
            .bind(&self.owner)
            .execute(&self.writer)
            .await?;
        Ok(id)
    }

    /// Adds parameters; one logged before gets the new value.
    ///
    /// Errors: [`MetadataError::NotFound`] without such a run, [`MetadataError::Database`].
    pub async fn log_params(&self, run_id: &str, params: &BTreeMap<String, String>) -> Result<()> {
        let sql = "INSERT INTO run_params (run_id, key, value) VALUES ($1, $2, $3)
                   ON CONFLICT (run_id, key) DO UPDATE SET value = excluded.value";
        self.put_pairs(sql, run_id, params).await
    }

    /// Adds tags; one set before gets the new value.
    ///
    /// Errors: as [`Metadata::log_params`].
    pub async fn set_tags(&self, run_id: &str, tags: &BTreeMap<String, String>) -> Result<()> {
        let sql = "INSERT INTO run_tags (run_id, key, value) VALUES ($1, $2, $3)
                   ON CONFLICT (run_id, key) DO UPDATE SET value = excluded.value";
        self.put_pairs(sql, run_id, tags).await
    }

    /// Remembers what the data looked like, once that is known.
    ///
    /// Errors: as [`Metadata::log_params`].
    pub async fn set_data_fingerprint(&self, run_id: &str, fingerprint: &str) -> Result<()> {
        let sql = "UPDATE runs SET data_fingerprint = $2 WHERE id = $1";
        let done = sqlx::query(sql).bind(run_id).bind(fingerprint).execute(&self.writer).await?;
        if done.rows_affected() == 0 { Err(no_run(run_id)) } else { Ok(()) }
    }

    /// Adds points to the history of metrics, all or none. The latest value of a metric is that of the highest step, then
    /// of the latest time.
    ///
    /// Errors: as [`Metadata::log_params`].
    pub async fn log_metrics(&self, run_id: &str, points: &[MetricPoint]) -> Result<()> {
        let history = "INSERT INTO run_metric_points (run_id, key, step, at, value) VALUES ($1, $2, $3, $4, $5)
                       ON CONFLICT (run_id, key, step, at) DO UPDATE SET value = excluded.value";
        let latest = "INSERT INTO run_metrics (run_id, key, step, at, value) VALUES ($1, $2, $3, $4, $5)
                      ON CONFLICT (run_id, key) DO UPDATE
                      SET step = excluded.step, at = excluded.at, value = excluded.value
                      WHERE (excluded.step, excluded.at) >= (run_metrics.step, run_metrics.at)";
        let mut tx = self.begin().await?;
        require_run(&mut tx, run_id).await?;
        for point in points {
            for sql in [history, latest] {
                let query = sqlx::query(sql).bind(run_id).bind(&point.key).bind(point.step).bind(point.at);
                query.bind(point.value).execute(&mut *tx).await?;
            }
        }
        Ok(tx.commit().await?)
    }

    /// Points of one metric by step and time, those behind `after` (a step and a time); at most `limit`, and never more than 10 000, the first ones.
    ///
    /// Errors: [`MetadataError::Database`].
    pub async fn metric_history(&self, run_id: &str, key: &str, after: Option<(i64, i64)>, limit: u32) -> Result<Vec<MetricPoint>> {
        let sql = "SELECT key, value, step, at FROM run_metric_points
                   WHERE run_id = $1 AND key = $2 AND (step, at) > ($3, $4) ORDER BY step, at LIMIT $5";
        let (step, at) = after.unwrap_or((i64::MIN, i64::MIN));
        let query = sqlx::query(sql).bind(run_id).bind(key).bind(step).bind(at).bind(i64::from(limit.min(MAX_ROWS)));
        let rows = query.fetch_all(&self.readers).await?;
        let point = |row: &SqliteRow| {
            Ok(MetricPoint { key: row.try_get("key")?, value: number(row, "value")?, step: row.try_get("step")?, at: row.try_get("at")? })
        };
        rows.iter().map(point).collect()
    }

    /// Ends a run that is at work. `ended_at` in microseconds UTC; `error` says why it failed.
    ///
    /// Errors: [`MetadataError::NotFound`], [`MetadataError::Invalid`] when it has ended already or `status` is
    /// `Running`, [`MetadataError::Database`].
    pub async fn finish_run(&self, run_id: &str, status: RunStatus, ended_at: i64, error: Option<&str>) -> Result<()> {
        if status == RunStatus::Running {
            return Err(MetadataError::invalid("a run cannot end as running", "give finished, failed or killed"));
        }
        let mut tx = self.begin().await?;
        require_run(&mut tx, run_id).await?;
        let sql = "UPDATE runs SET status = $2, ended_at = $3, error = $4 WHERE id = $1 AND status = 'running'";
        let query = sqlx::query(sql).bind(run_id).bind(status.as_str()).bind(ended_at).bind(error);
        if query.execute(&mut *tx).await?.rows_affected() == 0 {
            let problem = format!("run {run_id} has ended already");
            return Err(MetadataError::invalid(problem, "a run ends once; start a new one"));
        }
        Ok(tx.commit().await?)
    }

    /// Marks runs left at work by processes that are gone as killed at `now` (microseconds UTC), and answers their ids.
    ///
    /// Errors: [`MetadataError::Database`].
    pub async fn mark_orphans(&self, now: i64) -> Result<Vec<String>> {
        let mut tx = self.begin().await?;
        let sql = "SELECT id, owner FROM runs WHERE status = 'running' ORDER BY id";
        let rows: Vec<(String, String)> = sqlx::query_as(sql).fetch_all(&mut *tx).await?;
        let orphans: Vec<_> = rows.into_iter().filter(|(_, owner)| !owner::is_alive(owner)).map(|(id, _)| id).collect();
        for id in &orphans {
            let sql = "UPDATE runs SET status = 'killed', ended_at = $2, error = $3 WHERE id = $1";
            sqlx::query(sql).bind(id).bind(now).bind("its process ended before it did").execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(orphans)
    }

    /// One run with its params, latest metrics and tags.
    ///
    /// Errors: [`MetadataError::Database`], [`MetadataError::Damaged`].
    pub async fn get_run(&self, run_id: &str) -> Result<Option<Run>> {
        let query = sqlx::query("SELECT * FROM runs WHERE id = $1").bind(run_id);
        match query.fetch_optional(&self.readers).await? {
            Some(row) => Ok(Some(self.with_details(&row).await?)),
            None => Ok(None),
        }
    }

    /// Runs that match, newest first, each with its params, latest metrics and tags.
    ///
    /// Errors: as [`Metadata::get_run`].
    pub async fn list_runs(&self, filter: &RunFilter) -> Result<Vec<Run>> {
        let sql = "SELECT * FROM runs
                   WHERE (CAST($1 AS TEXT) IS NULL OR kind = $1)
                     AND (CAST($2 AS TEXT) IS NULL OR model = $2)
                     AND (CAST($3 AS TEXT) IS NULL OR status = $3)
                   ORDER BY started_at DESC, id DESC LIMIT $4 OFFSET $5";
        let rows = sqlx::query(sql)
            .bind(filter.kind.map(RunKind::as_str))
            .bind(&filter.model)
            .bind(filter.status.map(RunStatus::as_str))
            .bind(i64::from(filter.limit.min(MAX_ROWS)))
            .bind(i64::from(filter.offset))
            .fetch_all(&self.readers)
            .await?;
        let mut runs = Vec::with_capacity(rows.len());
        for row in &rows {
            runs.push(self.with_details(row).await?);
        }
        Ok(runs)
    }

    async fn put_pairs(&self, sql: &'static str, run_id: &str, pairs: &BTreeMap<String, String>) -> Result<()> {
        let mut tx = self.begin().await?;
        require_run(&mut tx, run_id).await?;
        for (key, value) in pairs {
            sqlx::query(sql).bind(run_id).bind(key).bind(value).execute(&mut *tx).await?;
        }
        Ok(tx.commit().await?)
    }

    async fn with_details(&self, row: &SqliteRow) -> Result<Run> {
        let id: String = row.try_get("id")?;
        let params = self.pairs("SELECT key, value FROM run_params WHERE run_id = $1", &id).await?;
        let tags = self.pairs("SELECT key, value FROM run_tags WHERE run_id = $1", &id).await?;
        let sql = "SELECT key, value FROM run_metrics WHERE run_id = $1";
        let rows = sqlx::query(sql).bind(&id).fetch_all(&self.readers).await?;
        let metrics = rows.iter().map(|row| Ok((row.try_get("key")?, number(row, "value")?))).collect::<Result<_>>()?;
        Ok(Run {
            kind: RunKind::parse(row.try_get("kind")?)?,
            name: row.try_get("name")?,
            model: row.try_get("model")?,
            status: RunStatus::parse(row.try_get("status")?)?,
            started_at: row.try_get("started_at")?,
            ended_at: row.try_get("ended_at")?,
            definition_hash: row.try_get("definition_hash")?,
            data_fingerprint: row.try_get("data_fingerprint")?,
            seed: row.try_get("seed")?,
            error: row.try_get("error")?,
            id,
            params,
            metrics,
            tags,
        })
    }

    async fn pairs(&self, sql: &'static str, run_id: &str) -> Result<BTreeMap<String, String>> {
        let rows: Vec<(String, String)> = sqlx::query_as(sql).bind(run_id).fetch_all(&self.readers).await?;
        Ok(rows.into_iter().collect())
    }
}

impl RunKind {
    /// Its name in the store and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Backtest => "backtest",
            Self::Evaluate => "evaluate",
            Self::Import => "import",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let all = [Self::Train, Self::Backtest, Self::Evaluate, Self::Import];
        all.into_iter().find(|k| k.as_str() == text).ok_or_else(|| MetadataError::Damaged(format!("run kind {text:?}")))
    }
}

impl RunStatus {
    /// Its name in the store and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Killed => "killed",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let all = [Self::Running, Self::Finished, Self::Failed, Self::Killed];
        let found = all.into_iter().find(|s| s.as_str() == text);
        found.ok_or_else(|| MetadataError::Damaged(format!("run status {text:?}")))
    }
}

async fn require_run(tx: &mut Transaction<'_, Sqlite>, run_id: &str) -> Result<()> {
    let query = sqlx::query_scalar::<_, i64>("SELECT 1 FROM runs WHERE id = $1").bind(run_id);
    match query.fetch_optional(&mut **tx).await? {
        Some(_) => Ok(()),
        None => Err(no_run(run_id)),
    }
}

fn no_run(run_id: &str) -> MetadataError {
    MetadataError::not_found(format!("run {run_id:?}"), "list the runs to see their ids")
}

/// Microseconds in 13 hex digits (enough until the year 2112), then 40 random bits.
fn run_id(started_at: i64) -> String {
    // Seeded by the operating system and different at every call.
    let random = RandomState::new().hash_one(started_at) >> 24;
    format!("{:013x}{random:010x}", started_at.max(0))
}

/// NULL stands for NaN.
fn number(row: &SqliteRow, column: &str) -> Result<f64> {
    Ok(row.try_get::<Option<f64>, _>(column)?.unwrap_or(f64::NAN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_run(kind: RunKind, model: &str, started_at: i64) -> NewRun {
        NewRun {
            kind,
            name: format!("{model} {started_at}"),
            model: Some(model.to_owned()),
            started_at,
            definition_hash: Some("d".to_owned()),
            data_fingerprint: None,
            seed: Some(-7),
        }
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn point(key: &str, value: f64, step: i64) -> MetricPoint {
        MetricPoint { key: key.to_owned(), value, step, at: 1_000 + step }
    }

    #[tokio::test]
    async fn a_run_is_kept_from_start_to_end() {
        let dir = tempfile::tempdir().unwrap();
        let store = Metadata::open(dir.path().join("meta.db")).await.unwrap();
        let id = store.start_run(&new_run(RunKind::Train, "fraud", 1_700_000_000_000_000)).await.unwrap();
        store.log_params(&id, &map(&[("trees", "100"), ("depth", "6")])).await.unwrap();
        store.log_params(&id, &map(&[("trees", "300")])).await.unwrap();
        store.set_tags(&id, &map(&[("by", "schedule")])).await.unwrap();
        store.set_data_fingerprint(&id, "f").await.unwrap();
        store.log_metrics(&id, &[point("auc", 0.8, 1), point("auc", 0.9, 2), point("loss", 0.5, 1)]).await.unwrap();
        store.log_metrics(&id, &[point("auc", 0.7, 0)]).await.unwrap();
        store.finish_run(&id, RunStatus::Finished, 1_700_000_001_000_000, None).await.unwrap();
        let run = store.get_run(&id).await.unwrap().unwrap();
        assert_eq!((run.kind, run.status, run.seed), (RunKind::Train, RunStatus::Finished, Some(-7)));
        assert_eq!(run.params, map(&[("trees", "300"), ("depth", "6")]));
        assert_eq!(run.tags, map(&[("by", "schedule")]));
        assert_eq!(run.metrics, BTreeMap::from([("auc".to_owned(), 0.9), ("loss".to_owned(), 0.5)]));
        assert_eq!((run.ended_at, run.data_fingerprint.as_deref()), (Some(1_700_000_001_000_000), Some("f")));
        let history = store.metric_history(&id, "auc", None, 100).await.unwrap();
        assert_eq!(history, [point("auc", 0.7, 0), point("auc", 0.8, 1), point("auc", 0.9, 2)]);
        let behind = store.metric_history(&id, "auc", Some((0, history[0].at)), 1).await.unwrap();
        assert_eq!(behind, [point("auc", 0.8, 1)]);
        let again = store.finish_run(&id, RunStatus::Failed, 1, None).await.unwrap_err();
        assert!(again.to_string().contains("has ended already"), "{again}");
    }

    #[tokio::test]
    async fn metrics_that_are_no_finite_numbers_come_back() {
        let store = Metadata::in_memory().await.unwrap();
        let id = store.start_run(&new_run(RunKind::Evaluate, "m", 1)).await.unwrap();
        let values = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.1 + 0.2, 5e-324, f64::MAX, 3.0];
        let points: Vec<_> = (0..).zip(values).map(|(step, value)| point("x", value, step)).collect();
        store.log_metrics(&id, &points).await.unwrap();
        let back = store.metric_history(&id, "x", None, 100).await.unwrap();
        for (back, value) in back.iter().zip(values) {
            assert!(back.value == value || (back.value.is_nan() && value.is_nan()), "{value} came back as {back:?}");
        }
        assert_eq!(back.len(), values.len());
        store.log_metrics(&id, &[point("x", f64::NAN, 99)]).await.unwrap();
        assert!(store.get_run(&id).await.unwrap().unwrap().metrics["x"].is_nan());
    }

    #[tokio::test]
    async fn runs_are_listed_newest_first_by_filter_and_page() {
        let store = Metadata::in_memory().await.unwrap();
        for at in 1..=6 {
            let kind = if at % 2 == 0 { RunKind::Train } else { RunKind::Backtest };
            let id = store.start_run(&new_run(kind, if at < 4 { "a" } else { "b" }, at)).await.unwrap();
            if at == 5 {
                store.finish_run(&id, RunStatus::Failed, 9, Some("no data")).await.unwrap();
            }
        }
        let starts = |runs: Vec<Run>| runs.iter().map(|r| r.started_at).collect::<Vec<_>>();
        let all = RunFilter::default();
        assert_eq!(starts(store.list_runs(&all).await.unwrap()), [6, 5, 4, 3, 2, 1]);
        let page = RunFilter { limit: 2, offset: 1, ..all.clone() };
        assert_eq!(starts(store.list_runs(&page).await.unwrap()), [5, 4]);
        let train_a = RunFilter { kind: Some(RunKind::Train), model: Some("a".to_owned()), ..all.clone() };
        assert_eq!(starts(store.list_runs(&train_a).await.unwrap()), [2]);
        let failed = store.list_runs(&RunFilter { status: Some(RunStatus::Failed), ..all }).await.unwrap();
        assert_eq!((failed.len(), failed[0].error.as_deref()), (1, Some("no data")));
    }

    #[tokio::test]
    async fn runs_of_dead_processes_are_marked_and_others_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta.db");
        let store = Metadata::open(&path).await.unwrap();
        let dead_store = Metadata { owner: "an-earlier-boot/17/4".to_owned(), ..store.clone() };
        let dead = dead_store.start_run(&new_run(RunKind::Train, "m", 1)).await.unwrap();
        let alive = store.start_run(&new_run(RunKind::Train, "m", 2)).await.unwrap();
        assert_eq!(store.mark_orphans(50).await.unwrap(), std::slice::from_ref(&dead));
        let run = store.get_run(&dead).await.unwrap().unwrap();
        assert_eq!((run.status, run.ended_at), (RunStatus::Killed, Some(50)));
        assert_eq!(store.get_run(&alive).await.unwrap().unwrap().status, RunStatus::Running);
        assert!(store.mark_orphans(60).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_unknown_run_is_said_to_be_unknown() {
        let store = Metadata::in_memory().await.unwrap();
        assert_eq!(store.get_run("x").await.unwrap(), None);
        let is_unknown = |e: MetadataError| matches!(e, MetadataError::NotFound { .. });
        assert!(is_unknown(store.log_params("x", &map(&[("a", "b")])).await.unwrap_err()));
        assert!(is_unknown(store.log_metrics("x", &[point("a", 1., 1)]).await.unwrap_err()));
        assert!(is_unknown(store.set_data_fingerprint("x", "f").await.unwrap_err()));
        assert!(is_unknown(store.finish_run("x", RunStatus::Finished, 1, None).await.unwrap_err()));
    }

    #[test]
    fn ids_sort_by_time_and_differ() {
        let ids: Vec<_> = (0..100).map(|_| run_id(1_700_000_000_000_000)).collect();
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), 100);
        assert!(ids.iter().all(|id| id.len() == 23 && *id < run_id(1_700_000_000_000_001)));
    }
}
