//! Registered models whose versions somebody else numbers: a project's own, shown beside what clients register.

use super::{STAGES, model_name, model_number, tag};
use crate::db::bind;
use crate::error::{ErrorCode, Result};
use crate::limits;
use crate::model::{KeptVersion, Pair};
use crate::store::{Tracking, now, settled};

impl Tracking {
    /// Makes a registered model that is kept by the caller, and answers the newest version that it has (0: none), as it does for one made before. None: a model of
    /// this name is there that a client made.
    ///
    /// # Errors
    /// When something is not as it must be.
    pub async fn keep_model(&self, name: &str, description: &str, tags: Vec<Pair>) -> Result<Option<i64>> {
        model_name(name)?;
        limits::description(description)?;
        tags.iter().try_for_each(tag)?;
        let (name, description) = (name.to_string(), description.to_string());
        self.write(move |w| {
            match model_number(&mut w.db, &name) {
                Ok(id) => {
                    let kept: i64 = w.db.one("SELECT COUNT(*) FROM kept_models WHERE model = ?1", bind![id])?;
                    let newest: i64 = w.db.one("SELECT COALESCE(MAX(version), 0) FROM model_versions WHERE model = ?1", bind![id])?;
                    return Ok((kept > 0).then_some(newest));
                }
                Err(e) if e.code == ErrorCode::ResourceDoesNotExist => {}
                Err(e) => return Err(e),
            }
            let sql = "INSERT INTO registered_models (name, description, created, updated) VALUES (?1, ?2, ?3, ?3) RETURNING id";
            let id: i64 = w.db.one(sql, bind![&name, &description, now()])?;
            w.db.execute("INSERT INTO kept_models (model) VALUES (?1)", bind![id])?;
            w.set_model_pairs("registered_model_tags", id, &settled(tags))?;
            Ok(Some(0))
        })
        .await
    }

    /// Whether a registered model is one that [`Tracking::keep_model`] made.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn is_kept(&self, name: &str) -> Result<bool> {
        let sql = "SELECT COUNT(*) FROM kept_models k JOIN registered_models m ON m.id = k.model WHERE m.name = ?1";
        let name = name.to_string();
        self.read(move |db| Ok(db.one::<i64>(sql, bind![&name])? > 0)).await
    }

    /// Adds a version to a registered model that is kept. One of its number that is there stays as it is.
    ///
    /// # Errors
    /// When the model is missing, or something is not as it must be.
    pub async fn keep_version(&self, new: KeptVersion) -> Result<()> {
        limits::text("source", &new.source)?;
        limits::description(&new.description)?;
        new.tags.iter().try_for_each(tag)?;
        self.write(move |w| {
            let id = model_number(&mut w.db, &new.name)?;
            if w.model_of(&new.name, new.version).is_ok() {
                return Ok(());
            }
            let sql =
                "INSERT INTO model_versions (model, version, source, location, run_id, run_link, description, stage, created, updated)
                       VALUES (?1, ?2, ?3, ?3, ?4, '', ?5, ?6, ?7, ?7)";
            w.db.execute(sql, bind![id, new.version, &new.source, &new.run_id, &new.description, STAGES[0], new.created])?;
            w.set_version_tags(id, new.version, &settled(new.tags))?;
            w.touch_model(id)
        })
        .await
    }
}
