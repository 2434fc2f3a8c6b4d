//! What monitors of models saw, bucket by bucket.

use std::collections::BTreeSet;

use super::{MAX_ROWS, Metadata, MetadataError, Result};
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

/// Buckets that are kept of each monitor, the newest ones.
pub const READINGS_KEPT: u32 = 2000;

/// The value of a monitor at the close of a bucket.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MonitorReading {
    /// Name of the monitor.
    pub monitor: String,
    /// The end of the bucket, in microseconds UTC.
    pub at: i64,
    /// The model it watches.
    pub model: String,
    /// The version in service then.
    pub version: Option<u32>,
    /// What it watched.
    pub signal: String,
    /// The time that the value is made of, in microseconds.
    pub window: i64,
    /// The length of the bucket, in microseconds.
    pub every: i64,
    /// What moved the most, or the metric's name.
    pub subject: String,
    /// Its value.
    pub value: f64,
    /// Decisions it was made of.
    pub rows: u64,
    /// The limits then.
    pub above: Option<f64>,
    /// The limits then.
    pub below: Option<f64>,
    /// Whether one was crossed.
    pub crossed: bool,
    /// Everything it looked at.
    pub subjects: Vec<ReadingSubject>,
}

/// What a monitor saw of one input, of the score, or by its one metric.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ReadingSubject {
    /// The input's name, `score`, or the metric's name.
    pub subject: String,
    /// None: not defined.
    pub value: Option<f64>,
    /// What the value was made of; none of a metric, and where it was not asked for.
    pub counts: Option<ReadingCounts>,
}

/// Values in the window of a reading.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReadingCounts {
    /// By bin of the version's reference.
    pub bins: Vec<u64>,
    /// Missing ones.
    pub missing: u64,
}

/// Which readings to list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadingFilter {
    /// Of this monitor.
    pub monitor: String,
    /// Only made by this signal.
    pub signal: Option<String>,
    /// Only at or after this time, in microseconds UTC.
    pub from: Option<i64>,
    /// Only before this time.
    pub before: Option<i64>,
    /// At most so many, and never more than 10 000.
    pub limit: u32,
    /// With the counts of each subject, which are the most of it.
    pub counts: bool,
}

impl Metadata {
    /// Keeps readings, all or none; one of the same monitor and time replaces the former. Of each monitor the newest [`READINGS_KEPT`] stay.
    ///
    /// Errors: [`MetadataError::Database`].
    pub async fn keep_readings(&self, readings: &[MonitorReading]) -> Result<()> {
        let mut tx = self.begin().await?;
        for r in readings {
            let sql = "INSERT INTO readings
                       (monitor, at, model, version, signal, span, every, subject, value, sample, above, below, crossed, subjects, counts)
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
                       ON CONFLICT (monitor, at) DO UPDATE SET model = excluded.model, version = excluded.version, signal = excluded.signal,
                           span = excluded.span, every = excluded.every, subject = excluded.subject, value = excluded.value,
                           sample = excluded.sample, above = excluded.above, below = excluded.below, crossed = excluded.crossed,
                           subjects = excluded.subjects, counts = excluded.counts";
            let subjects: Vec<(&str, Option<f64>)> = r.subjects.iter().map(|s| (s.subject.as_str(), s.value)).collect();
            let counts: Vec<Option<&ReadingCounts>> = r.subjects.iter().map(|s| s.counts.as_ref()).collect();
            sqlx::query(sql)
                .bind(&r.monitor)
                .bind(r.at)
                .bind(&r.model)
                .bind(r.version.map(i64::from))
                .bind(&r.signal)
                .bind(r.window)
                .bind(r.every)
                .bind(&r.subject)
                .bind(r.value)
                .bind(i64::try_from(r.rows).unwrap_or(i64::MAX))
                .bind(r.above)
                .bind(r.below)
                .bind(i64::from(r.crossed))
                // Texts and numbers: serialising them cannot fail.
                .bind(serde_json::to_string(&subjects).unwrap_or_default())
                .bind(serde_json::to_string(&counts).unwrap_or_default())
                .execute(&mut *tx)
                .await?;
        }
        let monitors: BTreeSet<&String> = readings.iter().map(|r| &r.monitor).collect();
        for monitor in monitors {
            let sql = "DELETE FROM readings WHERE monitor = $1
                       AND at <= (SELECT at FROM readings WHERE monitor = $1 ORDER BY at DESC LIMIT 1 OFFSET $2)";
            sqlx::query(sql).bind(monitor).bind(i64::from(READINGS_KEPT)).execute(&mut *tx).await?;
        }
        Ok(tx.commit().await?)
    }

    /// Readings of a monitor, newest first.
    ///
    /// Errors: [`MetadataError::Database`], [`MetadataError::Damaged`].
    pub async fn readings(&self, filter: &ReadingFilter) -> Result<Vec<MonitorReading>> {
        let sql = "SELECT monitor, at, model, version, signal, span, every, subject, value, sample, above, below, crossed, subjects,
                          CASE WHEN $6 = 1 THEN counts END AS counts
                   FROM readings WHERE monitor = $1 AND at >= $2 AND at < $3 AND ($4 IS NULL OR signal = $4) ORDER BY at DESC LIMIT $5";
        let rows = sqlx::query(sql)
            .bind(&filter.monitor)
            .bind(filter.from.unwrap_or(i64::MIN))
            .bind(filter.before.unwrap_or(i64::MAX))
            .bind(&filter.signal)
            .bind(i64::from(filter.limit.min(MAX_ROWS)))
            .bind(i64::from(filter.counts))
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(from_row).collect()
    }

    /// Forgets the readings of all monitors but these, and answers how many they were.
    ///
    /// Errors: [`MetadataError::Database`].
    pub async fn forget_readings_but(&self, monitors: &[&str]) -> Result<u64> {
        let mut tx = self.begin().await?;
        let known: Vec<String> = sqlx::query_scalar("SELECT DISTINCT monitor FROM readings").fetch_all(&mut *tx).await?;
        let mut forgotten = 0;
        for monitor in known.iter().filter(|monitor| !monitors.contains(&monitor.as_str())) {
            let gone = sqlx::query("DELETE FROM readings WHERE monitor = $1").bind(monitor).execute(&mut *tx).await?;
            forgotten += gone.rows_affected();
        }
        tx.commit().await?;
        Ok(forgotten)
    }
}

fn from_row(row: &SqliteRow) -> Result<MonitorReading> {
    let damaged = |what: &str| MetadataError::Damaged(format!("a reading has {what}"));
    let unreadable = |e: serde_json::Error| damaged(&format!("subjects that cannot be read: {e}"));
    let version = row.try_get::<Option<i64>, _>("version")?;
    let subjects: Vec<(String, Option<f64>)> = serde_json::from_str(row.try_get("subjects")?).map_err(unreadable)?;
    let counts: Vec<Option<ReadingCounts>> = match row.try_get::<Option<&str>, _>("counts")? {
        Some(text) => serde_json::from_str(text).map_err(unreadable)?,
        None => Vec::new(),
    };
    let counts = counts.into_iter().chain(std::iter::repeat(None));
    Ok(MonitorReading {
        monitor: row.try_get("monitor")?,
        at: row.try_get("at")?,
        model: row.try_get("model")?,
        version: version.map(u32::try_from).transpose().map_err(|_| damaged("no number of a version"))?,
        signal: row.try_get("signal")?,
        window: row.try_get("span")?,
        every: row.try_get("every")?,
        subject: row.try_get("subject")?,
        value: row.try_get::<Option<f64>, _>("value")?.unwrap_or(f64::NAN),
        rows: u64::try_from(row.try_get::<i64, _>("sample")?).map_err(|_| damaged("no number of decisions"))?,
        above: row.try_get("above")?,
        below: row.try_get("below")?,
        crossed: row.try_get::<i64, _>("crossed")? != 0,
        subjects: subjects.into_iter().zip(counts).map(|((subject, value), counts)| ReadingSubject { subject, value, counts }).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(monitor: &str, at: i64) -> MonitorReading {
        let subjects = vec![
            ReadingSubject {
                subject: "amount".into(),
                value: Some(at as f64),
                counts: Some(ReadingCounts { bins: vec![1, 2], missing: 3 }),
            },
            ReadingSubject { subject: "score".into(), ..ReadingSubject::default() },
        ];
        let signal = "psi".to_string();
        MonitorReading {
            monitor: monitor.into(),
            at,
            version: Some(2),
            signal,
            window: 7,
            every: 1,
            value: at as f64,
            subjects,
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn readings_are_listed_newest_first_and_the_same_one_replaces_itself() {
        let store = Metadata::in_memory().await.unwrap();
        let all: Vec<MonitorReading> = (1..=5).map(|at| reading("drift", at)).collect();
        store.keep_readings(&all).await.unwrap();
        let changed = MonitorReading { crossed: true, ..reading("drift", 5) };
        store.keep_readings(&[changed.clone(), reading("other", 1)]).await.unwrap();
        let filter = ReadingFilter { monitor: "drift".into(), limit: 100, counts: true, ..ReadingFilter::default() };
        let listed = store.readings(&filter).await.unwrap();
        assert_eq!(listed.iter().map(|r| r.at).collect::<Vec<_>>(), [5, 4, 3, 2, 1]);
        assert_eq!((&listed[0], &listed[4]), (&changed, &all[0]));
        let some = ReadingFilter { from: Some(2), before: Some(4), counts: false, ..filter };
        let listed = store.readings(&some).await.unwrap();
        assert_eq!(listed.iter().map(|r| r.at).collect::<Vec<_>>(), [3, 2]);
        assert_eq!((listed[0].subjects[0].value, &listed[0].subjects[0].counts), (Some(3.0), &None), "counts are not asked for");
    }

    #[tokio::test]
    async fn readings_of_other_signals_are_apart_and_those_of_other_monitors_can_be_forgotten() {
        let store = Metadata::in_memory().await.unwrap();
        let other = MonitorReading { signal: "auc".into(), ..reading("drift", 2) };
        store.keep_readings(&[reading("drift", 1), other, reading("gone", 1), reading("gone", 2)]).await.unwrap();
        let of = |monitor: &str, signal: Option<&str>| ReadingFilter {
            monitor: monitor.into(),
            signal: signal.map(str::to_string),
            limit: 10,
            ..ReadingFilter::default()
        };
        let times = async |filter: ReadingFilter| store.readings(&filter).await.unwrap().iter().map(|r| r.at).collect::<Vec<_>>();
        assert_eq!((times(of("drift", Some("psi"))).await, times(of("drift", None)).await), (vec![1], vec![2, 1]));
        assert_eq!(store.forget_readings_but(&["drift"]).await.unwrap(), 2);
        assert_eq!((times(of("gone", None)).await.len(), times(of("drift", None)).await.len()), (0, 2));
        assert_eq!(store.forget_readings_but(&[]).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn only_the_newest_stay() {
        let store = Metadata::in_memory().await.unwrap();
        let many: Vec<MonitorReading> = (0..i64::from(READINGS_KEPT) + 7).map(|at| reading("drift", at)).collect();
        store.keep_readings(&[reading("other", 1)]).await.unwrap();
        store.keep_readings(&many).await.unwrap();
        let filter = |monitor: &str| ReadingFilter { monitor: monitor.into(), limit: 10_000, ..ReadingFilter::default() };
        let left = store.readings(&filter("drift")).await.unwrap();
        assert_eq!((left.len(), left[left.len() - 1].at), (READINGS_KEPT as usize, 7));
        assert_eq!(store.readings(&filter("other")).await.unwrap().len(), 1);
    }
}
