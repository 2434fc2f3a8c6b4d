//! The model registry: numbered versions, and aliases that say which one decides.

use super::{MAX_ROWS, Metadata, MetadataError, Result, metrics_json};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, Transaction};
use std::collections::BTreeMap;

/// The alias of the version whose decisions count.
pub const CHAMPION: &str = "champion";
/// The alias of the version that is tried beside the champion.
pub const CHALLENGER: &str = "challenger";

/// A version to be registered.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct NewModelVersion {
    /// Name of the model.
    pub model: String,
    /// The run that made it.
    pub run_id: Option<String>,
    /// Microseconds UTC.
    pub created_at: i64,
    /// Content hash of the model file.
    pub artifact: String,
    /// Kind of model, as in `gbdt`.
    pub kind: String,
    /// What it takes, as JSON.
    pub inputs: serde_json::Value,
    /// Event time of the first training row, in microseconds UTC.
    pub trained_from: Option<i64>,
    /// Event time of the last training row, in microseconds UTC.
    pub trained_to: Option<i64>,
    /// How good it was when it was made; NaN and infinities are kept.
    pub metrics: BTreeMap<String, f64>,
    /// Hash of the definitions it was trained with.
    pub definition_hash: Option<String>,
    /// For people.
    pub notes: String,
}

/// A registered version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelVersion {
    /// 1, 2, ... within the model.
    pub version: u32,
    /// What was registered.
    #[serde(flatten)]
    pub spec: NewModelVersion,
}

/// A model with its latest version and its aliases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelSummary {
    /// Name of the model.
    pub model: String,
    /// Its highest version.
    pub latest: u32,
    /// The version behind each alias.
    pub aliases: BTreeMap<String, u32>,
}

/// Who moves an alias, when and why.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AliasChange {
    /// Name of the model.
    pub model: String,
    /// The alias, as in [`CHAMPION`].
    pub alias: String,
    /// Microseconds UTC.
    pub at: i64,
    /// Event-log offset from which the change holds, where it is known.
    pub at_offset: Option<u64>,
    /// Why, for people.
    pub reason: String,
    /// Who or what decided it.
    pub actor: String,
}

/// One entry of an alias's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasRecord {
    /// The version from then on; `None` when the alias was removed.
    pub version: Option<u32>,
    /// Whether it went back by [`Metadata::rollback`].
    pub is_rollback: bool,
    /// The change.
    #[serde(flatten)]
    pub change: AliasChange,
}

impl Metadata {
    /// Registers a version under the model's next number.
    ///
    /// Errors: [`MetadataError::Invalid`] for a bad model name, [`MetadataError::NotFound`] when the run does not exist,
    /// [`MetadataError::Database`].
    pub async fn register_version(&self, spec: &NewModelVersion) -> Result<ModelVersion> {
        let next = self.register(spec, None).await?;
        Ok(ModelVersion { version: next, spec: spec.clone() })
    }

    /// Registers a version under the number that it has elsewhere, of which the log speaks. One of that number that was registered here only, and that no log speaks of,
    /// makes room for it.
    ///
    /// Errors: as [`Metadata::register_version`].
    pub async fn restore_version(&self, version: u32, spec: &NewModelVersion) -> Result<()> {
        self.register(spec, Some(version)).await.map(|_| ())
    }

    /// Under the number given, or else the next one.
    async fn register(&self, spec: &NewModelVersion, version: Option<u32>) -> Result<u32> {
        check_name("model", &spec.model)?;
        let mut tx = self.begin().await?;
        if let Some(run_id) = &spec.run_id {
            let run = sqlx::query_scalar::<_, i64>("SELECT 1 FROM runs WHERE id = $1").bind(run_id);
            if run.fetch_optional(&mut *tx).await?.is_none() {
                return Err(MetadataError::not_found(format!("run {run_id:?}"), "register the version from an existing run"));
            }
        }
        let sql = "INSERT INTO model_versions (model, version, run_id, created_at, artifact, kind, inputs, trained_from,
                       trained_to, metrics, definition_hash, notes)
                   VALUES ($1, COALESCE($12, (SELECT COALESCE(MAX(version), 0) + 1 FROM model_versions WHERE model = $1)),
                       $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
                   ON CONFLICT (model, version) DO UPDATE SET
                       run_id = excluded.run_id, created_at = excluded.created_at, artifact = excluded.artifact, kind = excluded.kind,
                       inputs = excluded.inputs, trained_from = excluded.trained_from, trained_to = excluded.trained_to,
                       metrics = excluded.metrics, definition_hash = excluded.definition_hash, notes = excluded.notes
                   RETURNING version";
        let version: i64 = sqlx::query_scalar(sql)
            .bind(&spec.model)
            .bind(&spec.run_id)
            .bind(spec.created_at)
            .bind(&spec.artifact)
            .bind(&spec.kind)
            .bind(spec.inputs.to_string())
            .bind(spec.trained_from)
            .bind(spec.trained_to)
            .bind(metrics_json::encode(&spec.metrics))
            .bind(&spec.definition_hash)
            .bind(&spec.notes)
            .bind(version.map(i64::from))
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        to_version(version)
    }

    /// All models by name.
    ///
    /// Errors: [`MetadataError::Database`].
    pub async fn models(&self) -> Result<Vec<ModelSummary>> {
        let sql = "SELECT model, MAX(version) FROM model_versions GROUP BY model ORDER BY model LIMIT $1";
        let rows: Vec<(String, i64)> = sqlx::query_as(sql).bind(i64::from(MAX_ROWS)).fetch_all(&self.readers).await?;
        let mut models = Vec::with_capacity(rows.len());
        for (model, latest) in rows {
            let aliases = self.aliases(&model).await?;
            models.push(ModelSummary { latest: to_version(latest)?, aliases, model });
        }
        Ok(models)
    }

    /// The newest 10 000 versions of a model, newest first; none for an unknown model.
    ///
    /// Errors: [`MetadataError::Database`], [`MetadataError::Damaged`].
    pub async fn versions(&self, model: &str) -> Result<Vec<ModelVersion>> {
        let sql = "SELECT * FROM model_versions WHERE model = $1 ORDER BY version DESC LIMIT $2";
        let rows = sqlx::query(sql).bind(model).bind(i64::from(MAX_ROWS)).fetch_all(&self.readers).await?;
        rows.iter().map(version_from_row).collect()
    }

    /// One version.
    ///
    /// Errors: as [`Metadata::versions`].
    pub async fn get_version(&self, model: &str, version: u32) -> Result<Option<ModelVersion>> {
        let sql = "SELECT * FROM model_versions WHERE model = $1 AND version = $2";
        let row = sqlx::query(sql).bind(model).bind(i64::from(version)).fetch_optional(&self.readers).await?;
        row.as_ref().map(version_from_row).transpose()
    }

    /// Points the alias at a version and remembers the change.
    ///
    /// Errors: [`MetadataError::NotFound`] without such a version, [`MetadataError::Invalid`] for a bad alias,
    /// [`MetadataError::Database`].
    pub async fn set_alias(&self, change: &AliasChange, version: u32) -> Result<()> {
        check_name("alias", &change.alias)?;
        let mut tx = self.begin().await?;
        move_alias(&mut tx, change, Some(version), false).await?;
        Ok(tx.commit().await?)
    }

    /// Removes the alias and remembers the change; nothing happens when it is not set.
    ///
    /// Errors: [`MetadataError::Database`].
    pub async fn clear_alias(&self, change: &AliasChange) -> Result<()> {
        let mut tx = self.begin().await?;
        let sql = "SELECT version FROM model_aliases WHERE model = $1 AND alias = $2";
        let query = sqlx::query_scalar::<_, i64>(sql).bind(&change.model).bind(&change.alias);
        if query.fetch_optional(&mut *tx).await?.is_some() {
            move_alias(&mut tx, change, None, false).await?;
        }
        Ok(tx.commit().await?)
    }

    /// The version behind the alias.
    ///
    /// Errors: [`MetadataError::Database`], [`MetadataError::Damaged`].
    pub async fn alias(&self, model: &str, alias: &str) -> Result<Option<ModelVersion>> {
        let sql = "SELECT v.* FROM model_versions v
                   JOIN model_aliases a ON a.model = v.model AND a.version = v.version
                   WHERE a.model = $1 AND a.alias = $2";
        let row = sqlx::query(sql).bind(model).bind(alias).fetch_optional(&self.readers).await?;
        row.as_ref().map(version_from_row).transpose()
    }

    /// All aliases of a model.
    ///
    /// Errors: [`MetadataError::Database`].
    pub async fn aliases(&self, model: &str) -> Result<BTreeMap<String, u32>> {
        let sql = "SELECT alias, version FROM model_aliases WHERE model = $1";
        let rows: Vec<(String, i64)> = sqlx::query_as(sql).bind(model).fetch_all(&self.readers).await?;
        rows.into_iter().map(|(alias, version)| Ok((alias, to_version(version)?))).collect()
    }

    /// Every change of the alias, oldest first.
    ///
    /// Errors: [`MetadataError::Database`], [`MetadataError::Damaged`].
    pub async fn alias_history(&self, model: &str, alias: &str) -> Result<Vec<AliasRecord>> {
        let rows = sqlx::query(HISTORY).bind(model).bind(alias).fetch_all(&self.readers).await?;
        rows.iter().map(record_from_row).collect()
    }

    /// The change by which the alias came to the version that it has: after a rollback the one that the rollback went back to. `None` when it was never set.
    ///
    /// Errors: as [`Metadata::alias_history`].
    pub async fn last_step(&self, model: &str, alias: &str) -> Result<Option<AliasRecord>> {
        let history = self.alias_history(model, alias).await?;
        Ok(steps(&history).pop().cloned())
    }

    /// Points the alias back at the version it had before, and answers that one. Called again it goes back one more: a
    /// version that was rolled back from is not returned to.
    ///
    /// Errors: [`MetadataError::Invalid`] when there is no earlier version, [`MetadataError::Database`].
    pub async fn rollback(&self, change: &AliasChange) -> Result<u32> {
        let mut tx = self.begin().await?;
        let rows = sqlx::query(HISTORY).bind(&change.model).bind(&change.alias).fetch_all(&mut *tx).await?;
        let history = rows.iter().map(record_from_row).collect::<Result<Vec<_>>>()?;
        let Some(version) = previous(&history) else {
            let problem = format!("alias {} of model {:?} has no earlier version", change.alias, change.model);
            return Err(MetadataError::invalid(problem, "set the alias to the version you want"));
        };
        move_alias(&mut tx, change, Some(version), true).await?;
        tx.commit().await?;
        Ok(version)
    }
}

const HISTORY: &str = "SELECT * FROM alias_changes WHERE model = $1 AND alias = $2 ORDER BY seq";

/// The changes that led to the version of today: each promotion is a step up, each rollback a step down.
fn steps(history: &[AliasRecord]) -> Vec<&AliasRecord> {
    let mut steps: Vec<&AliasRecord> = Vec::new();
    for record in history {
        if record.is_rollback {
            // A rollback went to the nearest different version, so everything above that one is left.
            while steps.last().is_some_and(|step| step.version != record.version) {
                steps.pop();
            }
        } else if steps.last().is_none_or(|step| step.version != record.version) {
            steps.push(record);
        }
    }
    steps
}

/// The version to go back to. With the alias removed it is the version before the removal.
fn previous(history: &[AliasRecord]) -> Option<u32> {
    let mut steps = steps(history);
    let current = steps.pop()?.version;
    steps.into_iter().rev().filter_map(|step| step.version).find(|version| Some(*version) != current)
}

async fn move_alias(tx: &mut Transaction<'_, Sqlite>, change: &AliasChange, version: Option<u32>, is_rollback: bool) -> Result<()> {
    let (model, alias) = (&change.model, &change.alias);
    match version {
        Some(version) => {
            let sql = "SELECT 1 FROM model_versions WHERE model = $1 AND version = $2";
            let query = sqlx::query_scalar::<_, i64>(sql).bind(model).bind(i64::from(version));
            if query.fetch_optional(&mut **tx).await?.is_none() {
                let what = format!("version {version} of model {model:?}");
                return Err(MetadataError::not_found(what, "list the model's versions"));
            }
            let sql = "INSERT INTO model_aliases (model, alias, version) VALUES ($1, $2, $3)
                       ON CONFLICT (model, alias) DO UPDATE SET version = excluded.version";
            sqlx::query(sql).bind(model).bind(alias).bind(i64::from(version)).execute(&mut **tx).await?;
        }
        None => {
            let sql = "DELETE FROM model_aliases WHERE model = $1 AND alias = $2";
            sqlx::query(sql).bind(model).bind(alias).execute(&mut **tx).await?;
        }
    }
    let at_offset = change.at_offset.map(i64::try_from).transpose();
    let at_offset = at_offset.map_err(|_| MetadataError::invalid("log offset is out of range", "give an offset of the log"))?;
    let sql = "INSERT INTO alias_changes (seq, model, alias, version, at, at_offset, reason, actor, is_rollback)
               VALUES ((SELECT COALESCE(MAX(seq), 0) + 1 FROM alias_changes), $1, $2, $3, $4, $5, $6, $7, $8)";
    sqlx::query(sql)
        .bind(model)
        .bind(alias)
        .bind(version.map(i64::from))
        .bind(change.at)
        .bind(at_offset)
        .bind(&change.reason)
        .bind(&change.actor)
        .bind(i32::from(is_rollback))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn version_from_row(row: &SqliteRow) -> Result<ModelVersion> {
    let (inputs, metrics): (String, String) = (row.try_get("inputs")?, row.try_get("metrics")?);
    let damaged = |what: &str| MetadataError::Damaged(format!("{what} of a model version is no JSON of ours"));
    let spec = NewModelVersion {
        model: row.try_get("model")?,
        run_id: row.try_get("run_id")?,
        created_at: row.try_get("created_at")?,
        artifact: row.try_get("artifact")?,
        kind: row.try_get("kind")?,
        inputs: serde_json::from_str(&inputs).map_err(|_| damaged("inputs"))?,
        trained_from: row.try_get("trained_from")?,
        trained_to: row.try_get("trained_to")?,
        metrics: metrics_json::decode(&metrics).ok_or_else(|| damaged("metrics"))?,
        definition_hash: row.try_get("definition_hash")?,
        notes: row.try_get("notes")?,
    };
    Ok(ModelVersion { version: to_version(row.try_get("version")?)?, spec })
}

fn record_from_row(row: &SqliteRow) -> Result<AliasRecord> {
    let at_offset = row.try_get::<Option<i64>, _>("at_offset")?.map(u64::try_from).transpose();
    let change = AliasChange {
        model: row.try_get("model")?,
        alias: row.try_get("alias")?,
        at: row.try_get("at")?,
        at_offset: at_offset.map_err(|_| MetadataError::Damaged("log offset is negative".to_owned()))?,
        reason: row.try_get("reason")?,
        actor: row.try_get("actor")?,
    };
    let version = row.try_get::<Option<i64>, _>("version")?.map(to_version).transpose()?;
    Ok(AliasRecord { version, is_rollback: row.try_get::<i32, _>("is_rollback")? != 0, change })
}

fn to_version(stored: i64) -> Result<u32> {
    u32::try_from(stored).map_err(|_| MetadataError::Damaged(format!("model version {stored}")))
}

fn check_name(what: &str, name: &str) -> Result<()> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if (1..=128).contains(&name.len()) && name.bytes().all(allowed) {
        return Ok(());
    }
    Err(MetadataError::invalid(format!("{what} name {name:?} cannot be used"), "use 1 to 128 letters, digits, '_', '-', '.'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::{NewRun, RunKind};

    fn spec(model: &str) -> NewModelVersion {
        NewModelVersion { model: model.to_owned(), artifact: "hash".to_owned(), kind: "gbdt".to_owned(), ..Default::default() }
    }

    fn change(alias: &str, at: i64) -> AliasChange {
        AliasChange { model: "m".to_owned(), alias: alias.to_owned(), at, at_offset: Some(at as u64 * 10), ..Default::default() }
    }

    async fn with_versions(count: u32) -> Metadata {
        let store = Metadata::in_memory().await.unwrap();
        for version in 1..=count {
            assert_eq!(store.register_version(&spec("m")).await.unwrap().version, version);
        }
        store
    }

    #[tokio::test]
    async fn versions_are_numbered_within_their_model_and_come_back_whole() {
        let store = with_versions(2).await;
        let run = NewRun {
            kind: RunKind::Train,
            name: "r".to_owned(),
            model: None,
            started_at: 1,
            definition_hash: None,
            data_fingerprint: None,
            seed: None,
        };
        let whole = NewModelVersion {
            run_id: Some(store.start_run(&run).await.unwrap()),
            inputs: serde_json::json!({"features": ["a", "b"]}),
            metrics: [("auc", 0.9), ("worst", f64::NEG_INFINITY), ("best", f64::INFINITY)].map(|(k, v)| (k.to_owned(), v)).into(),
            trained_from: Some(-5),
            trained_to: Some(5),
            notes: "first of its name".to_owned(),
            ..spec("other")
        };
        let registered = store.register_version(&whole).await.unwrap();
        assert_eq!((registered.version, &registered.spec), (1, &whole));
        assert_eq!(store.get_version("other", 1).await.unwrap(), Some(registered));
        let nan = NewModelVersion { metrics: BTreeMap::from([("x".to_owned(), f64::NAN)]), ..spec("nan") };
        store.register_version(&nan).await.unwrap();
        assert!(store.versions("nan").await.unwrap()[0].spec.metrics["x"].is_nan());
        assert_eq!(store.versions("m").await.unwrap().iter().map(|v| v.version).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(store.get_version("m", 3).await.unwrap(), None);
        let names: Vec<_> = store.models().await.unwrap().into_iter().map(|m| (m.model, m.latest)).collect();
        assert_eq!(names, [("m".to_owned(), 2), ("nan".to_owned(), 1), ("other".to_owned(), 1)]);
    }

    #[tokio::test]
    async fn concurrent_registrations_get_different_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta.db");
        let (a, b) = (Metadata::open(&path).await.unwrap(), Metadata::open(&path).await.unwrap());
        let register = |store: Metadata| async move {
            let mut numbers = Vec::new();
            for _ in 0..20 {
                numbers.push(store.register_version(&spec("m")).await.unwrap().version);
            }
            numbers
        };
        let (one, two) = tokio::join!(tokio::spawn(register(a)), tokio::spawn(register(b)));
        let mut all = [one.unwrap(), two.unwrap()].concat();
        all.sort_unstable();
        assert_eq!(all, (1..=40).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn an_alias_moves_and_keeps_its_history() {
        let store = with_versions(2).await;
        assert_eq!(store.alias("m", CHAMPION).await.unwrap(), None);
        store.set_alias(&change(CHAMPION, 1), 1).await.unwrap();
        store.set_alias(&change(CHALLENGER, 2), 2).await.unwrap();
        store.set_alias(&change(CHAMPION, 3), 2).await.unwrap();
        store.clear_alias(&change(CHALLENGER, 4)).await.unwrap();
        store.clear_alias(&change(CHALLENGER, 5)).await.unwrap();
        assert_eq!(store.alias("m", CHAMPION).await.unwrap().unwrap().version, 2);
        assert_eq!(store.alias("m", CHALLENGER).await.unwrap(), None);
        assert_eq!(store.models().await.unwrap()[0].aliases, BTreeMap::from([(CHAMPION.to_owned(), 2)]));
        let history = store.alias_history("m", CHAMPION).await.unwrap();
        assert_eq!(history.iter().map(|h| (h.version, h.change.at_offset)).collect::<Vec<_>>(), [(Some(1), Some(10)), (Some(2), Some(30))]);
        let history = store.alias_history("m", CHALLENGER).await.unwrap();
        assert_eq!(history.iter().map(|h| (h.version, h.change.at)).collect::<Vec<_>>(), [(Some(2), 2), (None, 4)]);
    }

    #[tokio::test]
    async fn rollback_goes_back_step_by_step() {
        let store = with_versions(4).await;
        for (at, version) in [(1, 1), (2, 2), (3, 2), (4, 3)] {
            store.set_alias(&change(CHAMPION, at), version).await.unwrap();
        }
        assert_eq!(store.rollback(&change(CHAMPION, 5)).await.unwrap(), 2);
        assert_eq!(store.rollback(&change(CHAMPION, 6)).await.unwrap(), 1);
        let error = store.rollback(&change(CHAMPION, 7)).await.unwrap_err();
        assert!(error.to_string().contains("no earlier version"), "{error}");
        store.set_alias(&change(CHAMPION, 8), 4).await.unwrap();
        assert_eq!(store.rollback(&change(CHAMPION, 9)).await.unwrap(), 1);
        assert_eq!(store.alias("m", CHAMPION).await.unwrap().unwrap().version, 1);
        let rollbacks = store.alias_history("m", CHAMPION).await.unwrap().iter().filter(|h| h.is_rollback).count();
        assert_eq!(rollbacks, 3);
        let step = store.last_step("m", CHAMPION).await.unwrap().unwrap();
        assert_eq!((step.version, step.change.at), (Some(1), 1), "the one that the rollbacks went back to");
        store.set_alias(&change(CHAMPION, 10), 2).await.unwrap();
        assert_eq!(store.last_step("m", CHAMPION).await.unwrap().unwrap().change.at, 10);
        assert_eq!(store.last_step("m", CHALLENGER).await.unwrap(), None);
        store.clear_alias(&change(CHAMPION, 11)).await.unwrap();
        assert_eq!(store.rollback(&change(CHAMPION, 12)).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn what_does_not_exist_or_is_badly_named_is_refused() {
        let store = with_versions(1).await;
        let missing = store.set_alias(&change(CHAMPION, 1), 9).await.unwrap_err();
        assert!(matches!(missing, MetadataError::NotFound { .. }), "{missing}");
        assert!(store.alias_history("m", CHAMPION).await.unwrap().is_empty());
        assert!(matches!(store.set_alias(&change("a b", 1), 1).await, Err(MetadataError::Invalid { .. })));
        assert!(matches!(store.register_version(&spec("")).await, Err(MetadataError::Invalid { .. })));
        let orphan = NewModelVersion { run_id: Some("none".to_owned()), ..spec("m") };
        assert!(matches!(store.register_version(&orphan).await, Err(MetadataError::NotFound { .. })));
    }
}
