//! The tables, and how those of an earlier release become those of this one.

use super::{DEFAULT_EXPERIMENT, now, own_location};
use crate::db::{Db, Dialect, SCHEMA, Source, bind, definition};
use crate::error::{Error, ErrorCode, Result};

/// Each runs once, in order; one that was released is never changed.
pub(super) const MIGRATIONS: [&str; 8] = [
    include_str!("migrations/0001_runs.sql"),
    include_str!("migrations/0002_models.sql"),
    include_str!("migrations/0003_traces.sql"),
    include_str!("migrations/0004_evaluation.sql"),
    include_str!("migrations/0005_webhooks.sql"),
    include_str!("migrations/0006_kept_models.sql"),
    include_str!("migrations/0007_removed_versions.sql"),
    include_str!("migrations/0008_span_models.sql"),
];
/// Whoever holds it changes the tables of a database that several processes have open.
const MIGRATING: i64 = 0x6b69_6c74_6572;
/// What PostgreSQL has besides: who wrote last, locked by whoever writes.
const POSTGRES: &str = "CREATE TABLE last_writer (id BIGINT NOT NULL); INSERT INTO last_writer (id) VALUES (0);";

pub(super) fn migrate(db: &mut Db, source: &Source) -> Result<()> {
    match db.dialect() {
        Dialect::Sqlite => {
            db.script("PRAGMA journal_mode = WAL")?;
            db.script("BEGIN IMMEDIATE")?;
        }
        Dialect::Postgres => {
            db.script("BEGIN")?;
            db.each("SELECT pg_advisory_xact_lock(?1)", bind![MIGRATING], |_| Ok(()))?;
            let encoding: String = db.one("SELECT current_setting('server_encoding')", bind![])?;
            if encoding != "UTF8" {
                let what = format!(
                    "{source} has the encoding {encoding}\n  hint: make one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
                );
                return Err(Error::new(ErrorCode::InternalError, what));
            }
            // Making what is there already wants rights that only the first start needs.
            if !db.one::<bool>("SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = ?1)", bind![SCHEMA])? {
                db.script(&format!("CREATE SCHEMA {SCHEMA}"))?;
            }
            let made = "SELECT EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = ?1 AND tablename = 'schema_version')";
            if !db.one::<bool>(made, bind![SCHEMA])? {
                db.script("CREATE TABLE schema_version (version BIGINT NOT NULL)")?;
            }
        }
    }
    let version = version(db)?;
    let known = MIGRATIONS.len();
    let Some(missing) = usize::try_from(version).ok().and_then(|done| MIGRATIONS.get(done..)) else {
        let what = format!(
            "{source} has schema {version}, this program knows up to {known}\n  hint: use the kilter release that wrote it, or a newer one"
        );
        return Err(Error::new(ErrorCode::InternalError, what));
    };
    if db.dialect() == Dialect::Postgres && version > 0 && !missing.is_empty() {
        // Nobody writes meanwhile.
        db.script("LOCK TABLE last_writer IN ACCESS EXCLUSIVE MODE")?;
    }
    for migration in missing {
        match db.dialect() {
            Dialect::Sqlite => db.script(migration)?,
            Dialect::Postgres => db.script(&definition(migration))?,
        }
    }
    match db.dialect() {
        Dialect::Sqlite => db.script(&format!("PRAGMA user_version = {known}"))?,
        Dialect::Postgres if version == 0 => db.script(&format!("{POSTGRES} INSERT INTO schema_version (version) VALUES ({known})"))?,
        Dialect::Postgres => db.script(&format!("UPDATE schema_version SET version = {known}"))?,
    }
    if version == 0 {
        let default =
            "INSERT INTO experiments (id, name, artifact_location, stage, created, updated) VALUES (?1, 'Default', ?2, 'active', ?3, ?3)";
        db.execute(default, bind![DEFAULT_EXPERIMENT, own_location(DEFAULT_EXPERIMENT), now()])?;
    }
    db.script("COMMIT")
}

fn version(db: &mut Db) -> Result<i64> {
    match db.dialect() {
        Dialect::Sqlite => db.one("PRAGMA user_version", bind![]),
        Dialect::Postgres => Ok(db.optional("SELECT version FROM schema_version", bind![])?.unwrap_or(0)),
    }
}
