//! Forward migrations: each runs once, in order, in one transaction with the version it leads to.

use super::{MetadataError, Result};
use sqlx::sqlite::SqlitePool;
use std::path::Path;

/// A new migration is appended; one that was released is never changed.
const MIGRATIONS: [&str; 2] = [include_str!("migrations/0001_initial.sql"), include_str!("migrations/0002_readings.sql")];

pub(super) async fn migrate(writer: &SqlitePool, path: &Path) -> Result<()> {
    let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)").execute(&mut *tx).await?;
    let version: Option<i64> = sqlx::query_scalar("SELECT version FROM schema_version").fetch_optional(&mut *tx).await?;
    let known = MIGRATIONS.len() as i64;
    let found = version.unwrap_or(0);
    if found > known {
        return Err(MetadataError::NewerSchema { path: path.to_owned(), found, known });
    }
    let done = usize::try_from(found).map_err(|_| MetadataError::Damaged(format!("schema version is {found}")))?;
    for migration in &MIGRATIONS[done..] {
        sqlx::raw_sql(*migration).execute(&mut *tx).await?;
    }
    let record = match version {
        Some(_) => "UPDATE schema_version SET version = $1",
        None => "INSERT INTO schema_version (version) VALUES ($1)",
    };
    sqlx::query(record).bind(known).execute(&mut *tx).await?;
    Ok(tx.commit().await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Metadata;

    #[tokio::test]
    async fn a_file_opens_again_and_a_newer_one_is_refused_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta.db");
        let store = Metadata::open(&path).await.unwrap();
        store.set_meta("k", "v").await.unwrap();
        store.close().await;
        let store = Metadata::open(&path).await.unwrap();
        assert_eq!(store.meta("k").await.unwrap().as_deref(), Some("v"));
        sqlx::query("UPDATE schema_version SET version = 99").execute(&store.writer).await.unwrap();
        store.close().await;
        let error = Metadata::open(&path).await.unwrap_err();
        assert!(matches!(error, MetadataError::NewerSchema { found: 99, known: 2, .. }), "{error}");
        assert!(error.to_string().contains("hint: use the kilter release"));
    }

    #[tokio::test]
    async fn a_file_of_the_first_release_keeps_its_rows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let old = SqlitePool::connect_with(options).await.unwrap();
        let begin = "CREATE TABLE schema_version (version BIGINT NOT NULL); INSERT INTO schema_version (version) VALUES (1);";
        sqlx::raw_sql(begin).execute(&old).await.unwrap();
        sqlx::raw_sql(MIGRATIONS[0]).execute(&old).await.unwrap();
        sqlx::query("INSERT INTO meta (key, value) VALUES ('k', 'v')").execute(&old).await.unwrap();
        old.close().await;
        let store = Metadata::open(&path).await.unwrap();
        assert_eq!(store.meta("k").await.unwrap().as_deref(), Some("v"));
        let filter = crate::metadata::ReadingFilter { monitor: "drift".into(), limit: 1, ..Default::default() };
        assert_eq!(store.readings(&filter).await.unwrap(), []);
    }

    #[tokio::test]
    async fn what_is_no_database_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta.db");
        std::fs::write(&path, "certainly not a database, but long enough to look at ".repeat(40)).unwrap();
        assert!(Metadata::open(&path).await.is_err());
        assert!(Metadata::open(dir.path().join("no/such/folder/meta.db")).await.is_err());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 8)]
    async fn any_number_may_open_a_new_file_at_once() {
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("meta.db");
            let opened: Vec<_> = (0..8).map(|_| tokio::spawn(Metadata::open(path.clone()))).collect();
            for store in opened {
                store.await.unwrap().unwrap().close().await;
            }
        }
    }

    #[tokio::test]
    async fn two_openers_share_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta.db");
        let (a, b) = tokio::join!(Metadata::open(&path), Metadata::open(&path));
        let (a, b) = (a.unwrap(), b.unwrap());
        let write = |store: Metadata, name: &'static str| async move {
            for i in 0..50 {
                store.set_meta(&format!("{name}{i}"), "x").await.unwrap();
            }
        };
        tokio::join!(write(a.clone(), "a"), write(b, "b"));
        assert_eq!(a.meta("b49").await.unwrap().as_deref(), Some("x"));
    }
}
