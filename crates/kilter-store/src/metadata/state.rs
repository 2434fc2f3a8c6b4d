//! Small state: how far each schedule has come, and key-value pairs.

use super::{Metadata, Result};
use sqlx::Sqlite;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;

impl Metadata {
    /// Event time (microseconds UTC) of the last tick that the schedule has done; `None` before its first.
    ///
    /// Errors: [`super::MetadataError::Database`].
    pub async fn schedule_state(&self, name: &str) -> Result<Option<i64>> {
        let query = sqlx::query_scalar("SELECT last_tick FROM schedule_state WHERE name = $1").bind(name);
        Ok(query.fetch_optional(&self.readers).await?)
    }

    /// Remembers the last tick done (event time, microseconds UTC).
    ///
    /// Errors: [`super::MetadataError::Database`].
    pub async fn set_schedule_state(&self, name: &str, last_tick: i64) -> Result<()> {
        let sql = "INSERT INTO schedule_state (name, last_tick) VALUES ($1, $2)
                   ON CONFLICT (name) DO UPDATE SET last_tick = excluded.last_tick";
        sqlx::query(sql).bind(name).bind(last_tick).execute(&self.writer).await?;
        Ok(())
    }

    /// A value of the key-value table.
    ///
    /// Errors: [`super::MetadataError::Database`].
    pub async fn meta(&self, key: &str) -> Result<Option<String>> {
        let query = sqlx::query_scalar("SELECT value FROM meta WHERE key = $1").bind(key);
        Ok(query.fetch_optional(&self.readers).await?)
    }

    /// Sets a value of the key-value table.
    ///
    /// Errors: [`super::MetadataError::Database`].
    pub async fn set_meta(&self, key: &str, value: &str) -> Result<()> {
        meta_setting(key, value).execute(&self.writer).await?;
        Ok(())
    }
}

/// Sets a value of the key-value table.
pub(super) fn meta_setting<'a>(key: &'a str, value: &'a str) -> Query<'a, Sqlite, SqliteArguments> {
    let sql = "INSERT INTO meta (key, value) VALUES ($1, $2)
               ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    sqlx::query(sql).bind(key).bind(value)
}

#[cfg(test)]
mod tests {
    use crate::metadata::Metadata;

    #[tokio::test]
    async fn state_is_set_and_replaced() {
        let store = Metadata::in_memory().await.unwrap();
        assert_eq!(store.schedule_state("nightly").await.unwrap(), None);
        store.set_schedule_state("nightly", 1_000).await.unwrap();
        store.set_schedule_state("nightly", 2_000).await.unwrap();
        assert_eq!(store.schedule_state("nightly").await.unwrap(), Some(2_000));
        assert_eq!(store.meta("k").await.unwrap(), None);
        store.set_meta("k", "1").await.unwrap();
        store.set_meta("k", "2").await.unwrap();
        assert_eq!(store.meta("k").await.unwrap().as_deref(), Some("2"));
    }
}
