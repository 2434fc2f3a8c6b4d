//! Experiments and their tags.

use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::search::{self, listed};
use super::writer::Writer;
use super::{Tracking, now, own_location};
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
        self.write(move |w| Box::pin(async move { w.create_experiment(new, location).await })).await
    }

    /// An experiment, deleted or not.
    ///
    /// # Errors
    /// When there is none of this number.
    pub async fn experiment(&self, id: i64) -> Result<Experiment> {
        self.experiments(&[id]).await?.pop().ok_or_else(|| no_experiment(id))
    }

    /// An experiment by its name, deleted or not.
    ///
    /// # Errors
    /// When there is none of this name.
    pub async fn experiment_by_name(&self, name: &str) -> Result<Experiment> {
        let sql = "SELECT id FROM experiments WHERE name = $1";
        let id: Option<i64> = sqlx::query_scalar(sql).bind(name).fetch_optional(self.readers()).await?;
        let missing = || Error::missing(format!("Could not find experiment with name '{name}'"));
        self.experiment(id.ok_or_else(missing)?).await
    }

    /// Looks for experiments: newest first unless the query says otherwise.
    ///
    /// # Errors
    /// When the query makes no sense.
    pub async fn search_experiments(&self, query: &Query) -> Result<Page<Experiment>> {
        let filter = EXPERIMENTS.filter(&query.filter)?;
        let orders = EXPERIMENTS.orders(&query.order_by)?;
        let pages = Pages::of(&["experiments", &query.filter, &query.order_by.join("\n"), &format!("{:?}", query.view)]);
        let from = pages.position(query.page_token.as_deref())?;
        let mut sql = QueryBuilder::<Sqlite>::new("SELECT e.id FROM experiments e WHERE ");
        search::of_view(&mut sql, "e.stage", query.view);
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
        sql.push("e.id LIMIT ").push_bind(query.max_results as i64 + 1).push(" OFFSET ").push_bind(from);
        let page = pages.cut(self.numbers(sql).await?, from, query.max_results);
        Ok(Page { items: self.experiments(&page.items).await?, next: page.next })
    }

    /// Gives an experiment another name.
    ///
    /// # Errors
    /// When the name is taken or the experiment deleted.
    pub async fn rename_experiment(&self, id: i64, name: String) -> Result<()> {
        limits::experiment_name(&name)?;
        self.write(move |w| {
            Box::pin(async move {
                if w.experiment_stage(id).await? == Stage::Deleted {
                    return Err(Error::new(ErrorCode::InvalidState, "Cannot rename a non-active experiment."));
                }
                w.free_name(&name, Some(id)).await?;
                let sql = "UPDATE experiments SET name = $2, updated = $3 WHERE id = $1";
                sqlx::query(sql).bind(id).bind(&name).bind(now()).execute(&mut w.connection).await?;
                Ok(())
            })
        })
        .await
    }

    /// Deletes or restores an experiment, and its runs with it.
    ///
    /// # Errors
    /// When there is none that is not so already.
    pub async fn set_experiment_stage(&self, id: i64, stage: Stage) -> Result<()> {
        self.write(move |w| {
            Box::pin(async move {
                if w.experiment_stage(id).await? == stage {
                    return Err(no_experiment(id));
                }
                let sql = "UPDATE experiments SET stage = $2, updated = $3 WHERE id = $1";
                sqlx::query(sql).bind(id).bind(stage.as_str()).bind(now()).execute(&mut w.connection).await?;
                let sql = "UPDATE runs SET stage = $2 WHERE experiment = $1";
                sqlx::query(sql).bind(id).bind(stage.as_str()).execute(&mut w.connection).await?;
                w.forget();
                Ok(())
            })
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
            Box::pin(async move {
                w.active_experiment(id).await?;
                w.set_experiment_tag(id, &tag).await
            })
        })
        .await
    }

    /// Removes a tag of an experiment.
    ///
    /// # Errors
    /// When there is none of this name, or the experiment is missing or deleted.
    pub async fn delete_experiment_tag(&self, id: i64, key: String) -> Result<()> {
        self.write(move |w| {
            Box::pin(async move {
                w.active_experiment(id).await?;
                let sql = "DELETE FROM experiment_tags WHERE experiment = $1 AND key = $2";
                let done = sqlx::query(sql).bind(id).bind(&key).execute(&mut w.connection).await?;
                let missing = || Error::missing(format!("No tag with name: {key} in experiment with id {id}"));
                if done.rows_affected() == 0 { Err(missing()) } else { Ok(()) }
            })
        })
        .await
    }

    /// Those that are there of `ids`, in their order.
    async fn experiments(&self, ids: &[i64]) -> Result<Vec<Experiment>> {
        let mut found = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(search::CHUNK) {
            let ids = listed(chunk);
            let rows = self.rows(QueryBuilder::new(format!("{COLUMNS} WHERE id IN ({ids})"))).await?;
            found.extend(rows.iter().map(read).collect::<Result<Vec<_>>>()?);
            let tags = format!("SELECT experiment, key, value FROM experiment_tags WHERE experiment IN ({ids}) ORDER BY experiment, key");
            let tags = self.rows(QueryBuilder::new(tags)).await?;
            let at: std::collections::HashMap<i64, usize> =
                found.iter().enumerate().map(|(at, e): (usize, &Experiment)| (e.id, at)).collect();
            for row in &tags {
                let id: i64 = row.try_get(0)?;
                if let Some(at) = at.get(&id) {
                    found[*at].tags.push(Pair { key: row.try_get(1)?, value: row.try_get(2)? });
                }
            }
        }
        let place: std::collections::HashMap<i64, usize> = ids.iter().enumerate().map(|(at, id)| (*id, at)).collect();
        found.sort_by_key(|e| place.get(&e.id).copied());
        Ok(found)
    }
}

impl Writer {
    async fn create_experiment(&mut self, new: NewExperiment, location: Option<String>) -> Result<i64> {
        self.free_name(&new.name, None).await?;
        let id: i64 = sqlx::query_scalar("SELECT MAX(id) + 1 FROM experiments").fetch_one(&mut self.connection).await?;
        let sql = "INSERT INTO experiments (id, name, artifact_location, stage, created, updated) VALUES ($1, $2, $3, 'active', $4, $4)";
        let query = sqlx::query(sql).bind(id).bind(&new.name).bind(location.unwrap_or_else(|| own_location(id))).bind(now());
        query.execute(&mut self.connection).await?;
        for tag in &new.tags {
            self.set_experiment_tag(id, tag).await?;
        }
        Ok(id)
    }

    async fn set_experiment_tag(&mut self, id: i64, tag: &Pair) -> Result<()> {
        let sql = "INSERT INTO experiment_tags (experiment, key, value) VALUES ($1, $2, $3)
                   ON CONFLICT (experiment, key) DO UPDATE SET value = excluded.value";
        sqlx::query(sql).bind(id).bind(&tag.key).bind(&tag.value).execute(&mut self.connection).await?;
        Ok(())
    }

    async fn free_name(&mut self, name: &str, of: Option<i64>) -> Result<()> {
        let sql = "SELECT id, stage FROM experiments WHERE name = $1";
        let taken: Option<(i64, String)> = sqlx::query_as(sql).bind(name).fetch_optional(&mut self.connection).await?;
        match taken {
            Some((id, stage)) if Some(id) != of => {
                let hint = if stage == "deleted" { "; it is deleted: restore it, or choose another name" } else { "" };
                let message = format!("Experiment(name={name}) already exists, as experiment {id}{hint}.");
                Err(Error::new(ErrorCode::ResourceAlreadyExists, message))
            }
            _ => Ok(()),
        }
    }

    async fn experiment_stage(&mut self, id: i64) -> Result<Stage> {
        let sql = "SELECT stage FROM experiments WHERE id = $1";
        let stage: Option<String> = sqlx::query_scalar(sql).bind(id).fetch_optional(&mut self.connection).await?;
        stage.map(|s| Stage::read(&s)).ok_or_else(|| no_experiment(id))
    }

    /// The experiment may be written to.
    pub async fn active_experiment(&mut self, id: i64) -> Result<()> {
        match self.experiment_stage(id).await? {
            Stage::Active => Ok(()),
            Stage::Deleted => Err(Error::invalid(format!("The experiment {id} must be in the 'active' state. Current state is deleted."))),
        }
    }
}

fn no_experiment(id: i64) -> Error {
    Error::missing(format!("No Experiment with id={id} exists"))
}

fn read(row: &SqliteRow) -> Result<Experiment> {
    Ok(Experiment {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        artifact_location: row.try_get(2)?,
        stage: Stage::read(row.try_get(3)?),
        created: row.try_get(4)?,
        updated: row.try_get(5)?,
        tags: Vec::new(),
    })
}
