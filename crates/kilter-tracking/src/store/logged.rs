//! Models that runs logged.

use std::collections::HashMap;

use serde_json::Value;

use super::runs::{made_up_name, new_id, number, stored};
use super::search::{self, each_of, in_list, listed};
use super::writer::Writer;
use super::{Tracking, now, settled};
use crate::db::{Db, FromRow, Row, Sql, bind};
use crate::error::{Error, Result};
use crate::grammar::{Kind, LOGGED_MODELS};
use crate::limits;
use crate::model::{LoggedModel, Metric, ModelOrder, ModelStatus, NewLoggedModel, Page, Pair, Query};
use crate::page::Pages;

/// The tag of a run that lists models beside it, and bytes of it at most.
const NOTED: &str = "mlflow.log-model.history";
const NOTED_BYTES: usize = 64 << 10;
const COLUMNS: &str = "SELECT l.id, l.model_id, l.experiment, l.name, l.model_type, l.source_run_id, l.status, l.created, l.updated, \
                       l.artifact_uri FROM logged_models l";

impl Tracking {
    /// Begins a model: its files come next, and then [`Tracking::finish_logged_model`].
    ///
    /// # Errors
    /// When its experiment is missing or deleted, or something is not as it must be.
    pub async fn create_logged_model(&self, mut new: NewLoggedModel) -> Result<LoggedModel> {
        if new.name.is_empty() {
            new.name = made_up_name();
        }
        if new.name.contains(['/', ':', '.', '%', '"', '\'']) {
            let message = format!("Invalid model name '{}'. Names cannot contain any of / : . % \" '", new.name);
            return Err(Error::invalid(message));
        }
        for (what, text) in [("name", &new.name), ("model_type", &new.model_type), ("source_run_id", &new.source_run)] {
            limits::text(what, text)?;
        }
        limits::many("params", &new.params)?;
        limits::many("tags", &new.tags)?;
        new.tags.iter().chain(&new.params).try_for_each(pair)?;
        let id = format!("m-{}", new_id());
        self.write(move |w| w.create_logged_model(id, new)).await
    }

    /// Notes with a run that a model lies beside it, in the tag in which clients of MLflow 2 look for that.
    ///
    /// # Errors
    /// When the run is missing or deleted, or has noted more models than it may.
    pub async fn note_model(&self, run_id: String, model: Value) -> Result<()> {
        self.write(move |w| w.note_model(&run_id, model)).await
    }

    /// A logged model that is not deleted.
    ///
    /// # Errors
    /// When there is none of this id.
    pub async fn logged_model(&self, model_id: &str) -> Result<LoggedModel> {
        let model_id = model_id.to_string();
        self.read(move |db| {
            let id = model_number(db, &model_id)?;
            logged_models(db, &[id])?.pop().ok_or_else(|| no_model(&model_id))
        })
        .await
    }

    /// Looks for logged models in `experiments`: newest first unless `orders` says otherwise. `datasets` (name and digest, which may be empty) narrow
    /// what comparisons of metrics look at; where there are none, a model has to have some metric on one of them.
    ///
    /// # Errors
    /// When the query makes no sense.
    pub async fn search_logged_models(
        &self,
        experiments: &[i64],
        query: &Query,
        orders: &[ModelOrder],
        datasets: &[(String, String)],
    ) -> Result<Page<LoggedModel>> {
        let filter = LOGGED_MODELS.filter(&query.filter)?;
        let keys = LOGGED_MODELS.orders(&orders.iter().map(|o| o.field.clone()).collect::<Vec<_>>())?;
        limits::experiments(experiments)?;
        if datasets.len() > 100 {
            return Err(Error::invalid("more than 100 datasets"));
        }
        let ids = listed(experiments);
        let pages = Pages::of(&["logged models", &ids, &query.filter, &format!("{orders:?}"), &format!("{datasets:?}")]);
        let from = pages.position(query.page_token.as_deref())?;
        let mut sql = Sql::new("SELECT l.id FROM logged_models l WHERE l.stage = 'active' AND l.experiment IN ");
        sql.push(in_list(&ids));
        if !datasets.is_empty() && !filter.iter().any(|comparison| comparison.kind == Kind::Metric) {
            sql.push(" AND ");
            search::measured_on(&mut sql, datasets);
        }
        for comparison in filter {
            sql.push(" AND ");
            search::of_logged_model(&mut sql, comparison, datasets);
        }
        sql.push(" ORDER BY ");
        for (order, key) in orders.iter().zip(keys) {
            if key.kind == Kind::Metric {
                search::order_by_model_metric(&mut sql, &key.key, &order.dataset, order.descending);
            } else {
                sql.push(search::logged_column(&key.key)).push(if order.descending { " DESC, " } else { ", " });
            }
        }
        let most = query.max_results;
        sql.push("l.created DESC, l.id DESC LIMIT ").bind(most as i64 + 1).push(" OFFSET ").bind(from);
        self.read(move |db| {
            let page = pages.cut(sql.rows(db)?, from, most);
            Ok(Page { items: logged_models(db, &page.items)?, next: page.next })
        })
        .await
    }

    /// Says how far a logged model is.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn finish_logged_model(&self, model_id: &str, status: ModelStatus) -> Result<LoggedModel> {
        let id = model_id.to_string();
        self.write(move |w| {
            let model = model_number(&mut w.db, &id)?;
            let sql = "UPDATE logged_models SET status = ?2, updated = ?3 WHERE id = ?1";
            w.db.execute(sql, bind![model, status.as_str(), now()])?;
            Ok(())
        })
        .await?;
        self.logged_model(model_id).await
    }

    /// Deletes a logged model; its files stay.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn delete_logged_model(&self, model_id: String) -> Result<()> {
        self.write(move |w| {
            let model = model_number(&mut w.db, &model_id)?;
            let sql = "UPDATE logged_models SET stage = 'deleted', updated = ?2 WHERE id = ?1";
            w.db.execute(sql, bind![model, now()])?;
            Ok(())
        })
        .await
    }

    /// Sets tags of a logged model.
    ///
    /// # Errors
    /// When it is missing or a tag is not as it must be.
    pub async fn set_logged_model_tags(&self, model_id: String, tags: Vec<Pair>) -> Result<()> {
        limits::many("tags", &tags)?;
        tags.iter().try_for_each(pair)?;
        self.write(move |w| {
            let model = model_number(&mut w.db, &model_id)?;
            w.set_model_pairs("logged_model_tags", model, &settled(tags))
        })
        .await
    }

    /// Adds params to a logged model; one that is there gets the new value.
    ///
    /// # Errors
    /// When it is missing or a param is not as it must be.
    pub async fn log_logged_model_params(&self, model_id: String, params: Vec<Pair>) -> Result<()> {
        limits::many("params", &params)?;
        params.iter().try_for_each(pair)?;
        self.write(move |w| {
            let model = model_number(&mut w.db, &model_id)?;
            w.set_model_pairs("logged_model_params", model, &settled(params))
        })
        .await
    }

    /// Removes a tag of a logged model.
    ///
    /// # Errors
    /// When it or the tag is missing.
    pub async fn delete_logged_model_tag(&self, model_id: String, key: String) -> Result<()> {
        self.write(move |w| {
            let model = model_number(&mut w.db, &model_id)?;
            let sql = "DELETE FROM logged_model_tags WHERE model = ?1 AND key = ?2";
            let deleted = w.db.execute(sql, bind![model, &key])?;
            let missing = || Error::missing(format!("No tag with key '{key}' found for model with ID '{model_id}'."));
            if deleted == 0 { Err(missing()) } else { Ok(()) }
        })
        .await
    }
}

/// Those that are there of `ids`, in their order.
fn logged_models(db: &mut Db, ids: &[i64]) -> Result<Vec<LoggedModel>> {
    let mut found: HashMap<i64, LoggedModel> = HashMap::with_capacity(ids.len());
    for chunk in ids.chunks(search::CHUNK) {
        each_of(db, &format!("{COLUMNS} WHERE l.id"), chunk, "", |row| {
            found.insert(row.get(0)?, LoggedModel::from_row(row)?);
            Ok(())
        })?;
        for (table, of_params) in [("logged_model_params", true), ("logged_model_tags", false)] {
            let before = format!("SELECT model, key, value FROM {table} WHERE model");
            each_of(db, &before, chunk, " ORDER BY model, key", |row| {
                let Some(model) = found.get_mut(&row.get::<i64>(0)?) else { return Ok(()) };
                let pairs = if of_params { &mut model.params } else { &mut model.tags };
                pairs.push(Pair { key: row.get(1)?, value: row.get(2)? });
                Ok(())
            })?;
        }
        let before = "SELECT model, key, timestamp, step, value, is_nan, dataset_name, dataset_digest, run_id FROM logged_model_metrics
                      WHERE model";
        each_of(db, before, chunk, " ORDER BY model, key, dataset_name, dataset_digest", |row| {
            let Some(model) = found.get_mut(&row.get::<i64>(0)?) else { return Ok(()) };
            let metric = Metric {
                key: row.get(1)?,
                timestamp: row.get(2)?,
                step: row.get(3)?,
                value: number(row.get(4)?, row.get(5)?),
                model_id: Some(model.id.clone()),
                dataset: (row.get(6)?, row.get(7)?),
            };
            model.metrics.push((metric, row.get(8)?));
            Ok(())
        })?;
    }
    Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
}

/// The number of a logged model that is not deleted.
fn model_number(db: &mut Db, model_id: &str) -> Result<i64> {
    let sql = "SELECT id FROM logged_models WHERE model_id = ?1 AND stage = 'active'";
    db.optional(sql, bind![model_id])?.ok_or_else(|| no_model(model_id))
}

impl Writer {
    fn note_model(&mut self, run_id: &str, model: Value) -> Result<()> {
        let (run, key) = (self.active_run(run_id)?, self.key(NOTED)?);
        let sql = "SELECT value FROM tags WHERE run = ?1 AND key = ?2";
        let noted: Option<String> = self.db.optional(sql, bind![run.id, key])?;
        // Whatever else the client has put there does not keep the model out.
        let mut models: Vec<Value> = noted.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        models.push(model);
        let value = Value::Array(models).to_string();
        if value.len() > NOTED_BYTES {
            return Err(Error::invalid(format!("The models noted with run {run_id} would take more than {NOTED_BYTES} bytes.")));
        }
        let sql = "INSERT INTO tags (run, key, value) VALUES (?1, ?2, ?3) ON CONFLICT (run, key) DO UPDATE SET value = excluded.value";
        self.db.execute(sql, bind![run.id, key, value])?;
        Ok(())
    }

    fn create_logged_model(&mut self, id: String, new: NewLoggedModel) -> Result<LoggedModel> {
        self.active_experiment(new.experiment)?;
        let sql = "SELECT artifact_location FROM experiments WHERE id = ?1";
        let location: String = self.db.one(sql, bind![new.experiment])?;
        let sql = "INSERT INTO logged_models (model_id, experiment, name, model_type, source_run_id, status, stage, created, updated, artifact_uri)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'active', ?7, ?7, ?8) RETURNING id";
        let created = now();
        let model = LoggedModel {
            artifact_uri: format!("{location}/models/{id}/artifacts"),
            id,
            experiment: new.experiment,
            name: new.name,
            model_type: new.model_type,
            source_run: new.source_run,
            status: ModelStatus::Pending,
            created,
            updated: created,
            params: settled(new.params),
            tags: settled(new.tags),
            metrics: Vec::new(),
        };
        let LoggedModel { id, name, model_type, source_run, artifact_uri, .. } = &model;
        let values = bind![id, model.experiment, name, model_type, source_run, model.status.as_str(), created, artifact_uri];
        let number: i64 = self.db.one(sql, values)?;
        self.set_model_pairs("logged_model_params", number, &model.params)?;
        self.set_model_pairs("logged_model_tags", number, &model.tags)?;
        Ok(model)
    }

    /// Sets pairs of different names of a model in one of the tables that hold them.
    pub fn set_model_pairs(&mut self, table: &'static str, model: i64, pairs: &[Pair]) -> Result<()> {
        let into = format!("INSERT INTO {table} (model, key, value)");
        let rows = pairs.iter().map(|pair| [model.into(), (&pair.key).into(), (&pair.value).into()]);
        self.db.insert(&into, "ON CONFLICT (model, key) DO UPDATE SET value = excluded.value", rows)
    }

    /// Those metrics that are of models, with the models' numbers.
    ///
    /// # Errors
    /// When a model is missing.
    pub fn metrics_of_models(&mut self, metrics: &[Metric]) -> Result<Vec<(i64, Metric)>> {
        let mut of_models = Vec::new();
        for metric in metrics {
            if let Some(model_id) = &metric.model_id {
                of_models.push((model_number(&mut self.db, model_id)?, metric.clone()));
            }
        }
        Ok(of_models)
    }

    pub fn log_model_metrics(&mut self, run_id: &str, metrics: &[(i64, Metric)]) -> Result<()> {
        for (model, metric) in metrics {
            let sql =
                "INSERT INTO logged_model_metrics (model, key, dataset_name, dataset_digest, run_id, timestamp, step, value, is_nan)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (model, key, dataset_name, dataset_digest) DO UPDATE
                 SET run_id = excluded.run_id, timestamp = excluded.timestamp, step = excluded.step, value = excluded.value,
                     is_nan = excluded.is_nan
                 WHERE (excluded.step, excluded.timestamp, excluded.value, excluded.is_nan)
                     > (logged_model_metrics.step, logged_model_metrics.timestamp, logged_model_metrics.value, logged_model_metrics.is_nan)";
            let (value, is_nan) = stored(metric.value);
            let Metric { key, timestamp, step, dataset: (name, digest), .. } = metric;
            self.db.execute(sql, bind![model, key, name, digest, run_id, timestamp, step, value, is_nan])?;
        }
        Ok(())
    }
}

fn pair(pair: &Pair) -> Result<()> {
    limits::length("key", 250, &pair.key)?;
    limits::length("value", 8_000, &pair.value)
}

fn no_model(model_id: &str) -> Error {
    Error::missing(format!("Logged model with ID '{model_id}' not found."))
}

/// A row of [`COLUMNS`].
impl FromRow for LoggedModel {
    fn from_row(row: &Row<'_>) -> Result<LoggedModel> {
        Ok(LoggedModel {
            id: row.get(1)?,
            experiment: row.get(2)?,
            name: row.get(3)?,
            model_type: row.get(4)?,
            source_run: row.get(5)?,
            status: ModelStatus::read(&row.get::<String>(6)?).unwrap_or(ModelStatus::Pending),
            created: row.get(7)?,
            updated: row.get(8)?,
            artifact_uri: row.get(9)?,
            params: Vec::new(),
            tags: Vec::new(),
            metrics: Vec::new(),
        })
    }
}
