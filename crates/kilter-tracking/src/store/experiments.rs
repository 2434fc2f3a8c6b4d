//! Experiments and their tags.

use std::collections::HashMap;

use super::search::{self, each_of};
use super::writer::Writer;
use super::{Tracking, now, own_location};
use crate::db::{Db, FromRow, Row, Sql, bind};
use crate::error::{Error, ErrorCode, Result};
use crate::grammar::EXPERIMENTS;
use crate::limits;
use crate::model::{Experiment, NewExperiment, Page, Pair, Query, Stage};
use crate::page::Pages;

const COLUMNS: &str = "SELECT id, name, artifact_location, stage, created, updated FROM experiments";

impl Tracking {
    /// Makes an experiment and answers its number.
    ///
    /// # Errors
    /// When the name is taken, by a deleted one too, or something is not as it must be.
    pub async fn create_experiment(&self, new: NewExperiment) -> Result<i64> {
        limits::experiment_name(&new.name)?;
        limits::many("tags", &new.tags)?;
        new.tags.iter().try_for_each(limits::experiment_tag)?;
        let location = new.artifact_location.as_deref().filter(|l| !l.is_empty()).map(limits::artifact_location).transpose()?;
        self.write(move |w| w.create_experiment(&new, location)).await
    }

    /// An experiment, deleted or not.
    ///
    /// # Errors
    /// When there is none of this number.
    pub async fn experiment(&self, id: i64) -> Result<Experiment> {
        self.read(move |db| experiment(db, id)).await
    }

    /// An experiment by its name, deleted or not.
    ///
    /// # Errors
    /// When there is none of this name.
    pub async fn experiment_by_name(&self, name: &str) -> Result<Experiment> {
        let name = name.to_string();
        self.read(move |db| {
            let id: Option<i64> = db.optional("SELECT id FROM experiments WHERE name = ?1", bind![&name])?;
            let missing = || Error::missing(format!("Could not find experiment with name '{name}'"));
            experiment(db, id.ok_or_else(missing)?)
        })
        .await
    }

    /// Experiments whose artifacts this server keeps in another folder than that of their number, deleted or not, without their tags.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn experiments_elsewhere(&self) -> Result<Vec<Experiment>> {
        let sql = format!(
            "{COLUMNS} WHERE LOWER(artifact_location) LIKE 'mlflow-artifacts:%' AND artifact_location <> 'mlflow-artifacts:/' || CAST(id AS TEXT)"
        );
        self.read(move |db| db.rows(&sql, bind![])).await
    }

    /// Looks for experiments: newest first unless the query says otherwise.
    ///
    /// # Errors
    /// When the query makes no sense.
    pub async fn search_experiments(&self, query: &Query) -> Result<Page<Experiment>> {
        let filter = EXPERIMENTS.filter(&query.filter)?;
        let orders = EXPERIMENTS.orders(&query.order_by)?;
        let visible = search::of_key(&query.visible);
        let pages = Pages::of(&["experiments", &query.filter, &query.order_by.join("\n"), &format!("{:?}", query.view), &visible]);
        let from = pages.position(query.page_token.as_deref())?;
        let mut sql = Sql::new("SELECT e.id FROM experiments e WHERE ");
        search::of_view(&mut sql, "e.stage", query.view);
        search::and_visible(&mut sql, &query.visible, "e.id", "e.name");
        for comparison in filter {
            sql.push(" AND ");
            search::of_experiment(&mut sql, comparison);
        }
        sql.push(" ORDER BY ");
        for order in &orders {
            search::order_experiments(&mut sql, order);
            sql.push(", ");
        }
        if orders.is_empty() {
            sql.push("e.created DESC, ");
        }
        let most = query.max_results;
        sql.push("e.id LIMIT ").bind(most as i64 + 1).push(" OFFSET ").bind(from);
        self.read(move |db| {
            let page = pages.cut(sql.rows(db)?, from, most);
            Ok(Page { items: experiments(db, &page.items)?, next: page.next })
        })
        .await
    }

    /// Gives an experiment another name.
    ///
    /// # Errors
    /// When the name is taken or the experiment deleted.
    pub async fn rename_experiment(&self, id: i64, name: String) -> Result<()> {
        limits::experiment_name(&name)?;
        self.write(move |w| {
            if w.experiment_stage(id)? == Stage::Deleted {
                return Err(Error::new(ErrorCode::InvalidState, "Cannot rename a non-active experiment."));
            }
            w.free_name(&name, Some(id))?;
            let sql = "UPDATE experiments SET name = ?2, updated = ?3 WHERE id = ?1";
            w.db.execute(sql, bind![id, &name, now()])?;
            Ok(())
        })
        .await
    }

    /// Deletes or restores an experiment, and its runs with it.
    ///
    /// # Errors
    /// When there is none that is not so already.
    pub async fn set_experiment_stage(&self, id: i64, stage: Stage) -> Result<()> {
        self.write(move |w| {
            if w.experiment_stage(id)? == stage {
                return Err(no_experiment(id));
            }
            let sql = "UPDATE experiments SET stage = ?2, updated = ?3 WHERE id = ?1";
            w.db.execute(sql, bind![id, stage.as_str(), now()])?;
            let sql = "UPDATE runs SET stage = ?2 WHERE experiment = ?1";
            w.db.execute(sql, bind![id, stage.as_str()])?;
            w.forget();
            Ok(())
        })
        .await
    }

    /// Sets a tag of an experiment.
    ///
    /// # Errors
    /// When the experiment is missing or deleted, or the tag is not as it must be.
    pub async fn set_experiment_tag(&self, id: i64, tag: Pair) -> Result<()> {
        limits::experiment_tag(&tag)?;
        self.write(move |w| {
            w.active_experiment(id)?;
            w.set_experiment_tag(id, &tag)
        })
        .await
    }

    /// Removes a tag of an experiment.
    ///
    /// # Errors
    /// When there is none of this name, or the experiment is missing or deleted.
    pub async fn delete_experiment_tag(&self, id: i64, key: String) -> Result<()> {
        self.write(move |w| {
            w.active_experiment(id)?;
            let sql = "DELETE FROM experiment_tags WHERE experiment = ?1 AND key = ?2";
            let deleted = w.db.execute(sql, bind![id, &key])?;
            let missing = || Error::missing(format!("No tag with name: {key} in experiment with id {id}"));
            if deleted == 0 { Err(missing()) } else { Ok(()) }
        })
        .await
    }
}

fn experiment(db: &mut Db, id: i64) -> Result<Experiment> {
    experiments(db, &[id])?.pop().ok_or_else(|| no_experiment(id))
}

/// Those that are there of `ids`, in their order.
fn experiments(db: &mut Db, ids: &[i64]) -> Result<Vec<Experiment>> {
    let mut found: HashMap<i64, Experiment> = HashMap::with_capacity(ids.len());
    for chunk in ids.chunks(search::CHUNK) {
        each_of(db, &format!("{COLUMNS} WHERE id"), chunk, "", |row| {
            let experiment = Experiment::from_row(row)?;
            found.insert(experiment.id, experiment);
            Ok(())
        })?;
        let before = "SELECT experiment, key, value FROM experiment_tags WHERE experiment";
        each_of(db, before, chunk, " ORDER BY experiment, key", |row| {
            let Some(experiment) = found.get_mut(&row.get::<i64>(0)?) else { return Ok(()) };
            experiment.tags.push(Pair { key: row.get(1)?, value: row.get(2)? });
            Ok(())
        })?;
    }
    Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
}

impl Writer {
    fn create_experiment(&mut self, new: &NewExperiment, location: Option<String>) -> Result<i64> {
        self.free_name(&new.name, None)?;
        let id: i64 = self.db.one("SELECT MAX(id) + 1 FROM experiments", bind![])?;
        let sql = "INSERT INTO experiments (id, name, artifact_location, stage, created, updated) VALUES (?1, ?2, ?3, 'active', ?4, ?4)";
        self.db.execute(sql, bind![id, &new.name, location.unwrap_or_else(|| own_location(id)), now()])?;
        for tag in &new.tags {
            self.set_experiment_tag(id, tag)?;
        }
        Ok(id)
    }

    fn set_experiment_tag(&mut self, id: i64, tag: &Pair) -> Result<()> {
        let sql = "INSERT INTO experiment_tags (experiment, key, value) VALUES (?1, ?2, ?3)
                   ON CONFLICT (experiment, key) DO UPDATE SET value = excluded.value";
        self.db.execute(sql, bind![id, &tag.key, &tag.value])?;
        Ok(())
    }

    fn free_name(&mut self, name: &str, of: Option<i64>) -> Result<()> {
        let sql = "SELECT id, stage FROM experiments WHERE name = ?1";
        let taken: Option<(i64, String)> = self.db.optional(sql, bind![name])?;
        match taken {
            Some((id, stage)) if Some(id) != of => {
                let hint = if stage == "deleted" { "; it is deleted: restore it, or choose another name" } else { "" };
                let message = format!("Experiment(name={name}) already exists, as experiment {id}{hint}.");
                Err(Error::new(ErrorCode::ResourceAlreadyExists, message))
            }
            _ => Ok(()),
        }
    }

    fn experiment_stage(&mut self, id: i64) -> Result<Stage> {
        self.stage_and_place(id).map(|(stage, _)| stage)
    }

    fn stage_and_place(&mut self, id: i64) -> Result<(Stage, String)> {
        let sql = "SELECT stage, artifact_location FROM experiments WHERE id = ?1";
        let found: Option<(String, String)> = self.db.optional(sql, bind![id])?;
        found.map(|(stage, place)| (Stage::read(&stage), place)).ok_or_else(|| no_experiment(id))
    }

    /// The experiment may be written to.
    pub fn active_experiment(&mut self, id: i64) -> Result<()> {
        self.active_place(id).map(drop)
    }

    /// Where artifacts are of an experiment that may be written to.
    pub fn active_place(&mut self, id: i64) -> Result<String> {
        match self.stage_and_place(id)? {
            (Stage::Active, place) => Ok(place),
            (Stage::Deleted, _) => {
                Err(Error::invalid(format!("The experiment {id} must be in the 'active' state. Current state is deleted.")))
            }
        }
    }
}

fn no_experiment(id: i64) -> Error {
    Error::missing(format!("No Experiment with id={id} exists"))
}

/// A row of [`COLUMNS`].
impl FromRow for Experiment {
    fn from_row(row: &Row<'_>) -> Result<Experiment> {
        Ok(Experiment {
            id: row.get(0)?,
            name: row.get(1)?,
            artifact_location: row.get(2)?,
            stage: Stage::read(&row.get::<String>(3)?),
            created: row.get(4)?,
            updated: row.get(5)?,
            tags: Vec::new(),
        })
    }
}
