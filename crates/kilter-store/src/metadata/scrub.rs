//! Forgetting: texts made unreadable, and nothing of what was deleted left in the file.

use super::{Metadata, Result};
use sqlx::Row;

/// Columns that people and errors write free text into.
const TEXTS: [(&str, &str); 9] = [
    ("runs", "name"),
    ("runs", "error"),
    ("run_params", "value"),
    ("run_tags", "value"),
    ("model_versions", "notes"),
    ("alias_changes", "reason"),
    ("alias_changes", "actor"),
    ("alerts", "detail"),
    ("meta", "value"),
];

impl Metadata {
    /// Replaces every appearance of a text in the free texts by `by`, and answers the number of rows changed.
    ///
    /// Errors: [`super::MetadataError::Database`].
    pub async fn redact(&self, text: &str, by: &str) -> Result<u64> {
        let mut tx = self.begin().await?;
        let mut rows = 0;
        for (table, column) in TEXTS {
            let sql = format!("UPDATE {table} SET {column} = replace({column}, $1, $2) WHERE instr({column}, $1) > 0");
            rows += sqlx::query(sqlx::AssertSqlSafe(sql)).bind(text).bind(by).execute(&mut *tx).await?.rows_affected();
        }
        tx.commit().await?;
        Ok(rows)
    }

    /// How many rows hold a text in their free texts.
    ///
    /// Errors: [`super::MetadataError::Database`].
    pub async fn mentions(&self, text: &str) -> Result<u64> {
        let mut rows = 0;
        for (table, column) in TEXTS {
            let sql = format!("SELECT COUNT(*) AS n FROM {table} WHERE instr({column}, $1) > 0");
            let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(text).fetch_one(&self.readers).await?;
            rows += row.try_get::<i64, _>("n")? as u64;
        }
        Ok(rows)
    }

    /// Writes the file anew without the pages of what was deleted or replaced, and empties the write-ahead log.
    ///
    /// Errors: [`super::MetadataError::Database`].
    pub async fn vacuum(&self) -> Result<()> {
        sqlx::raw_sql("VACUUM").execute(&self.writer).await?;
        sqlx::raw_sql("PRAGMA wal_checkpoint(TRUNCATE)").execute(&self.writer).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::metadata::{Metadata, NewAlert};

    #[tokio::test]
    async fn what_is_redacted_is_in_no_byte_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kilter.db");
        let store = Metadata::open(&path).await.unwrap();
        for n in 0..200 {
            let detail = format!("{n}: because of {} and others", if n == 77 { "ann-unmistakable" } else { "many" });
            store.insert_alert(&NewAlert { detail, ..NewAlert::default() }).await.unwrap();
        }
        store.set_meta("note", "asked for by ann-unmistakable").await.unwrap();
        assert_eq!(store.mentions("ann-unmistakable").await.unwrap(), 2);
        let holds = || {
            let files = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path());
            files.filter(|f| String::from_utf8_lossy(&std::fs::read(f).unwrap()).contains("ann-unmistakable")).count()
        };
        assert!(holds() > 0);
        assert_eq!(store.redact("ann-unmistakable", "[erased]").await.unwrap(), 2);
        store.vacuum().await.unwrap();
        assert_eq!((holds(), store.mentions("ann-unmistakable").await.unwrap()), (0, 0));
        assert_eq!(store.meta("note").await.unwrap().as_deref(), Some("asked for by [erased]"));
        assert_eq!(store.redact("ann-unmistakable", "[erased]").await.unwrap(), 0);
    }
}
