//! What monitors raised.

use super::{MAX_ROWS, Metadata, Result};
use serde::{Deserialize, Serialize};
use sqlx::query::QueryScalar;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Row, Sqlite};

/// An alert to be kept.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct NewAlert {
    /// Microseconds UTC.
    pub at: i64,
    /// Name of the monitor.
    pub monitor: String,
    /// The model it watches, if it watches one.
    pub model: Option<String>,
    /// What was measured, as in `psi`.
    pub signal: String,
    /// On what: a feature's name, or `score`.
    pub subject: String,
    /// The measured value.
    pub value: f64,
    /// The limit it passed.
    pub threshold: f64,
    /// What was done, as in `notify` or `retrain`.
    pub action: String,
    /// In words.
    pub detail: String,
}

/// A kept alert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Ascending number.
    pub id: i64,
    /// The alert.
    #[serde(flatten)]
    pub alert: NewAlert,
}

/// Which alerts to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertFilter {
    /// Only of this model.
    pub model: Option<String>,
    /// Only of this monitor.
    pub monitor: Option<String>,
    /// Only at or after this time, in microseconds UTC.
    pub since: Option<i64>,
    /// Only before this id: the last one of the page before.
    pub before: Option<i64>,
    /// At most so many, and never more than 10 000.
    pub limit: u32,
}

impl Default for AlertFilter {
    fn default() -> Self {
        Self { model: None, monitor: None, since: None, before: None, limit: 100 }
    }
}

impl Metadata {
    /// Keeps an alert and answers its id.
    ///
    /// Errors: [`super::MetadataError::Database`].
    pub async fn insert_alert(&self, alert: &NewAlert) -> Result<i64> {
        Ok(insertion(alert).fetch_one(&self.writer).await?)
    }

    /// Keeps an alert and sets a value of the key-value table, both or neither: the value is how it is known later that the alert was given.
    ///
    /// Errors: [`super::MetadataError::Database`].
    pub async fn insert_alert_with_meta(&self, alert: &NewAlert, key: &str, value: &str) -> Result<i64> {
        let mut tx = self.begin().await?;
        let id = insertion(alert).fetch_one(&mut *tx).await?;
        super::state::meta_setting(key, value).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Alerts that match, newest first.
    ///
    /// Errors: [`super::MetadataError::Database`].
    pub async fn list_alerts(&self, filter: &AlertFilter) -> Result<Vec<Alert>> {
        let sql = "SELECT id, at, monitor, model, signal, subject, value, threshold, action, detail FROM alerts
                   WHERE (CAST($1 AS TEXT) IS NULL OR model = $1)
                     AND (CAST($2 AS TEXT) IS NULL OR monitor = $2)
                     AND at >= $3 AND id < $4
                   ORDER BY id DESC LIMIT $5";
        let rows = sqlx::query(sql)
            .bind(&filter.model)
            .bind(&filter.monitor)
            .bind(filter.since.unwrap_or(i64::MIN))
            .bind(filter.before.unwrap_or(i64::MAX))
            .bind(i64::from(filter.limit.min(MAX_ROWS)))
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(from_row).collect()
    }
}

type Insertion<'a> = QueryScalar<'a, Sqlite, i64, SqliteArguments>;

/// Answers the alert's id.
fn insertion(alert: &NewAlert) -> Insertion<'_> {
    let sql = "INSERT INTO alerts (id, at, monitor, model, signal, subject, value, threshold, action, detail)
               VALUES ((SELECT COALESCE(MAX(id), 0) + 1 FROM alerts), $1, $2, $3, $4, $5, $6, $7, $8, $9)
               RETURNING id";
    sqlx::query_scalar(sql)
        .bind(alert.at)
        .bind(&alert.monitor)
        .bind(&alert.model)
        .bind(&alert.signal)
        .bind(&alert.subject)
        .bind(alert.value)
        .bind(alert.threshold)
        .bind(&alert.action)
        .bind(&alert.detail)
}

fn from_row(row: &SqliteRow) -> Result<Alert> {
    let alert = NewAlert {
        at: row.try_get("at")?,
        monitor: row.try_get("monitor")?,
        model: row.try_get("model")?,
        signal: row.try_get("signal")?,
        subject: row.try_get("subject")?,
        value: row.try_get::<Option<f64>, _>("value")?.unwrap_or(f64::NAN),
        threshold: row.try_get::<Option<f64>, _>("threshold")?.unwrap_or(f64::NAN),
        action: row.try_get("action")?,
        detail: row.try_get("detail")?,
    };
    Ok(Alert { id: row.try_get("id")?, alert })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn alerts_are_listed_newest_first_by_filter() {
        let store = Metadata::in_memory().await.unwrap();
        for at in 1..=5 {
            let model = (at % 2 == 0).then(|| "fraud".to_owned());
            let alert = NewAlert { at, model, monitor: "drift".to_owned(), value: at as f64, ..NewAlert::default() };
            assert_eq!(store.insert_alert(&alert).await.unwrap(), at);
        }
        let ids = |alerts: Vec<Alert>| alerts.iter().map(|a| a.id).collect::<Vec<_>>();
        let all = AlertFilter::default();
        assert_eq!(ids(store.list_alerts(&all).await.unwrap()), [5, 4, 3, 2, 1]);
        let fraud = AlertFilter { model: Some("fraud".to_owned()), ..all.clone() };
        assert_eq!(ids(store.list_alerts(&fraud).await.unwrap()), [4, 2]);
        let page = AlertFilter { before: Some(4), since: Some(2), limit: 9, ..all.clone() };
        assert_eq!(ids(store.list_alerts(&page).await.unwrap()), [3, 2]);
        let none = AlertFilter { monitor: Some("other".to_owned()), ..all };
        assert!(store.list_alerts(&none).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn an_alert_is_kept_together_with_what_tells_of_it() {
        let store = Metadata::in_memory().await.unwrap();
        let alert = NewAlert { monitor: "schema".to_owned(), ..NewAlert::default() };
        assert_eq!(store.insert_alert_with_meta(&alert, "k", "v").await.unwrap(), 1);
        assert_eq!(store.meta("k").await.unwrap().as_deref(), Some("v"));
        // What keeps the value from being set keeps the alert out, too.
        sqlx::query("DROP TABLE meta").execute(&store.writer).await.unwrap();
        assert!(store.insert_alert_with_meta(&alert, "k", "w").await.is_err());
        assert_eq!(store.list_alerts(&AlertFilter::default()).await.unwrap().len(), 1);
    }
}
