//! What judges the answers of models of language, in versions.

use super::runs::new_id;
use super::search::{in_list, listed};
use super::writer::Writer;
use super::{Tracking, now};
use crate::db::{FromRow, Row, Sql, bind};
use crate::error::{Error, Result};
use crate::evaluation::Scorer;
use crate::limits;

/// Characters of one, and bytes of all that are answered at once: the versions of a scorer, or the newest of each of an experiment.
const SERIALIZED: usize = 1 << 20;
const ANSWERED: i64 = 32 << 20;
const COLUMNS: &str = "SELECT s.scorer_id, s.experiment, s.name, v.version, v.serialized, v.created FROM scorers s \
                       JOIN scorer_versions v ON v.scorer = s.id";
/// Scorers of an experiment, and versions of one, at most.
const SCORERS: i64 = 10_000;
const NEWEST: &str = "v.version = (SELECT MAX(n.version) FROM scorer_versions n WHERE n.scorer = s.id)";

impl Tracking {
    /// Stores a scorer as the next version of its name.
    ///
    /// # Errors
    /// When its experiment is missing or deleted, or something is not as it must be.
    pub async fn register_scorer(&self, experiment: i64, name: String, serialized: String) -> Result<Scorer> {
        if name.trim().is_empty() {
            return Err(Error::invalid("Scorer name cannot be empty."));
        }
        limits::length("name", 256, &name)?;
        limits::length("serialized_scorer", SERIALIZED, &serialized)?;
        let of = name.clone();
        let version = self
            .write(move |w| {
                w.active_experiment(experiment)?;
                w.room_for_scorer(experiment, &name, serialized.len() as i64)?;
                let sql = "INSERT INTO scorers (scorer_id, experiment, name) VALUES (?1, ?2, ?3)
                           ON CONFLICT (experiment, name) DO UPDATE SET name = excluded.name RETURNING id";
                let scorer: i64 = w.db.one(sql, bind![uuid(), experiment, &name])?;
                let sql = "INSERT INTO scorer_versions (scorer, version, serialized, created)
                           VALUES (?1, (SELECT COALESCE(MAX(version), 0) + 1 FROM scorer_versions WHERE scorer = ?1), ?2, ?3) RETURNING version";
                w.db.one(sql, bind![scorer, &serialized, now()])
            })
            .await?;
        self.scorer(experiment, &of, Some(version)).await
    }

    /// A version of a scorer; none named: the newest.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn scorer(&self, experiment: i64, name: &str, version: Option<i64>) -> Result<Scorer> {
        let name = name.to_string();
        self.read(move |db| {
            let of = "WHERE s.experiment = ?1 AND s.name = ?2 AND (CAST(?3 AS BIGINT) IS NULL OR v.version = ?3)";
            let found = db.optional(&format!("{COLUMNS} {of} ORDER BY v.version DESC LIMIT 1"), bind![experiment, &name, version])?;
            found.ok_or_else(|| no_scorer(experiment, &name, version))
        })
        .await
    }

    /// The newest version of each scorer of some experiments: by the experiment, then by name.
    ///
    /// # Errors
    /// When they are too large together; those of one experiment never are.
    pub async fn scorers(&self, experiments: &[i64]) -> Result<Vec<Scorer>> {
        let list = in_list(&listed(experiments));
        let are_several = experiments.len() > 1;
        self.read(move |db| {
            let of = format!("WHERE s.experiment IN {list} AND {NEWEST}");
            let sizes = Sql::new(format!(
                "SELECT COALESCE(SUM(octet_length(v.serialized)), 0), COUNT(*) FROM scorers s JOIN scorer_versions v ON v.scorer = s.id {of}"
            ));
            let (bytes, count): (i64, i64) = sizes.optional(db)?.unwrap_or_default();
            if are_several && (bytes > ANSWERED || count > SCORERS) {
                return Err(Error::invalid(format!(
                    "The scorers of these experiments are more than {SCORERS}, or more than {ANSWERED} bytes: ask for fewer experiments at once."
                )));
            }
            Sql::new(format!("{COLUMNS} {of} ORDER BY s.experiment, s.name")).rows(db)
        })
        .await
    }

    /// All versions of a scorer, the oldest first.
    ///
    /// # Errors
    /// When there is none.
    pub async fn scorer_versions(&self, experiment: i64, name: &str) -> Result<Vec<Scorer>> {
        let name = name.to_string();
        self.read(move |db| {
            let sql = format!("{COLUMNS} WHERE s.experiment = ?1 AND s.name = ?2 ORDER BY v.version");
            let found: Vec<Scorer> = db.rows(&sql, bind![experiment, &name])?;
            if found.is_empty() { Err(no_scorer(experiment, &name, None)) } else { Ok(found) }
        })
        .await
    }

    /// Deletes a version of a scorer, or all of them, for good.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn delete_scorer(&self, experiment: i64, name: String, version: Option<i64>) -> Result<()> {
        self.write(move |w| {
            let sql = "SELECT id FROM scorers WHERE experiment = ?1 AND name = ?2";
            let id: Option<i64> = w.db.optional(sql, bind![experiment, &name])?;
            let id = id.ok_or_else(|| no_scorer(experiment, &name, None))?;
            let sql = "DELETE FROM scorer_versions WHERE scorer = ?1 AND (CAST(?2 AS BIGINT) IS NULL OR version = ?2)";
            if w.db.execute(sql, bind![id, version])? == 0 {
                return Err(no_scorer(experiment, &name, version));
            }
            let sql = "DELETE FROM scorers WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM scorer_versions WHERE scorer = ?1)";
            w.db.execute(sql, bind![id]).map(drop)
        })
        .await
    }
}

impl Writer {
    /// Whether one more version of a scorer can be answered with the others of it, and with the other scorers of its experiment.
    fn room_for_scorer(&mut self, experiment: i64, name: &str, size: i64) -> Result<()> {
        let of = "SELECT COALESCE(SUM(octet_length(v.serialized)), 0), COUNT(*) FROM scorers s JOIN scorer_versions v ON v.scorer = s.id";
        let versions = format!("{of} WHERE s.experiment = ?1 AND s.name = ?2");
        let others = format!("{of} WHERE s.experiment = ?1 AND s.name != ?2 AND {NEWEST}");
        for (sql, what) in [(versions, "Too many versions of a scorer"), (others, "Too many scorers of an experiment")] {
            let (bytes, count): (i64, i64) = self.db.one(&sql, bind![experiment, name])?;
            if count >= SCORERS || bytes + size > ANSWERED {
                return Err(Error::invalid(format!("{what}: there can be {SCORERS}, and {ANSWERED} bytes of them together.")));
            }
        }
        Ok(())
    }
}

fn no_scorer(experiment: i64, name: &str, version: Option<i64>) -> Error {
    let version = version.map_or_else(String::new, |version| format!(" and version {version}"));
    Error::missing(format!("Scorer with name '{name}'{version} not found for experiment {experiment}."))
}

/// In the form of a UUID, version 4.
pub(super) fn uuid() -> String {
    let id = new_id();
    format!("{}-{}-4{}-a{}-{}", &id[..8], &id[8..12], &id[13..16], &id[17..20], &id[20..])
}

/// A row of [`COLUMNS`].
impl FromRow for Scorer {
    fn from_row(row: &Row<'_>) -> Result<Scorer> {
        Ok(Scorer {
            id: row.get(0)?,
            experiment: row.get(1)?,
            name: row.get(2)?,
            version: row.get(3)?,
            serialized: row.get(4)?,
            created: row.get(5)?,
        })
    }
}
