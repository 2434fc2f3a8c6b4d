//! Runs and what they log.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use sqlx::query_builder::Separated;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::plan::RunSearch;
use super::search::{self, in_list, listed};
use super::writer::{RunKey, Writer, no_run};
use super::{Tracking, now, settled};
use crate::error::{Error, Result};
use crate::grammar::RUNS;
use crate::limits;
use crate::model::{Batch, Dataset, DatasetInput, Metric, NewRun, Page, Pair, Query, Run, RunChange, RunInfo, RunModel, Stage, Status};
use crate::page::Pages;

/// The tag that says a run's name once more.
const RUN_NAME: &str = "mlflow.runName";
/// Tags of one batch, as which those of a new run are looked at.
const TAGS: usize = 100;
/// Bytes of datasets in one answer, and of one run, at most.
const DATASETS: i64 = 64 << 20;
const DATASET_BYTES: &str = "octet_length(d.name) + octet_length(d.digest) + octet_length(d.source_type) + octet_length(d.source) \
                             + COALESCE(octet_length(d.schema), 0) + COALESCE(octet_length(d.profile), 0)";
/// What one answer of a history holds at most.
const HISTORY: usize = 25_000;

const COLUMNS: &str =
    "SELECT r.id, r.run_id, r.experiment, r.name, r.user_id, r.status, r.stage, r.start_time, r.end_time, r.artifact_uri FROM runs r";

impl Tracking {
    /// Starts a run.
    ///
    /// # Errors
    /// When its experiment is missing or deleted, or it is given two names.
    pub async fn create_run(&self, mut new: NewRun) -> Result<Run> {
        let tagged = new.tags.iter().find(|t| t.key == RUN_NAME).map(|t| t.value.clone());
        let given = new.name.take().filter(|n| !n.is_empty());
        let name = match (given, tagged.clone()) {
            (Some(name), Some(tag)) if name != tag => {
                return Err(Error::invalid(format!(
                    "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values (run_name='{name}', \
                     mlflow.runName='{tag}')."
                )));
            }
            (given, tagged) => given.or(tagged).unwrap_or_else(made_up_name),
        };
        if tagged.is_none() {
            new.tags.push(Pair { key: RUN_NAME.into(), value: name.clone() });
        }
        limits::text("run_name", &name)?;
        limits::text("user_id", &new.user)?;
        limits::many("tags", &new.tags)?;
        // Creation takes more tags than a batch does.
        for chunk in new.tags.chunks_mut(TAGS) {
            let tags = limits::batch(Batch { tags: chunk.to_vec(), ..Batch::default() })?.tags;
            chunk.clone_from_slice(&tags);
        }
        let id = new.id.take().unwrap_or_else(new_id);
        let tags = settled(new.tags.clone());
        let info = self.write(move |w| Box::pin(async move { w.create_run(id, name, new).await })).await?;
        Ok(Run { info, metrics: Vec::new(), params: Vec::new(), tags, datasets: Vec::new(), models: Vec::new() })
    }

    /// A run, deleted or not.
    ///
    /// # Errors
    /// When there is none of this id.
    pub async fn run(&self, run_id: &str) -> Result<Run> {
        let id: Option<i64> =
            sqlx::query_scalar("SELECT id FROM runs WHERE run_id = $1").bind(run_id).fetch_optional(self.readers()).await?;
        self.runs(&[id.ok_or_else(|| no_run(run_id))?]).await?.pop().ok_or_else(|| no_run(run_id))
    }

    /// A run without what it logged, deleted or not.
    ///
    /// # Errors
    /// When there is none of this id.
    pub async fn run_info(&self, run_id: &str) -> Result<RunInfo> {
        let mut sql = QueryBuilder::<Sqlite>::new(COLUMNS);
        sql.push(" WHERE r.run_id = ").push_bind(run_id);
        let row = sql.build().fetch_optional(self.readers()).await?;
        info(&row.ok_or_else(|| no_run(run_id))?)
    }

    /// Looks for runs in `experiments`: newest first unless the query says otherwise.
    ///
    /// # Errors
    /// When the query makes no sense.
    pub async fn search_runs(&self, experiments: &[i64], query: &Query) -> Result<Page<Run>> {
        let filter = RUNS.filter(&query.filter)?;
        let orders = RUNS.orders(&query.order_by)?;
        limits::experiments(experiments)?;
        let ids = listed(experiments);
        let pages = Pages::of(&["runs", &ids, &query.filter, &query.order_by.join("\n"), &format!("{:?}", query.view)]);
        let from = pages.position(query.page_token.as_deref())?;
        if experiments.is_empty() {
            return Ok(Page { items: Vec::new(), next: None });
        }
        let search = RunSearch { experiments: ids, view: query.view, filter, orders };
        let found = self.find_runs(&search, query.max_results + 1, from).await?;
        let mut page = pages.cut(found, from, query.max_results);
        let fitting = self.fitting(&page.items).await?;
        if fitting < page.items.len() {
            page.items.truncate(fitting);
            page.next = Some(pages.token(from + fitting as i64));
        }
        Ok(Page { items: self.runs(&page.items).await?, next: page.next })
    }

    /// Changes a run.
    ///
    /// # Errors
    /// When it is missing or deleted.
    pub async fn update_run(&self, run_id: &str, change: RunChange) -> Result<RunInfo> {
        change.name.as_deref().map(|name| limits::text("run_name", name)).transpose()?;
        let id = run_id.to_string();
        self.write(move |w| Box::pin(async move { w.update_run(&id, change).await })).await?;
        self.run_info(run_id).await
    }

    /// Deletes or restores a run; one that is so already stays so. What it said of traces goes with it for good.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn set_run_stage(&self, run_id: String, stage: Stage) -> Result<()> {
        let id = run_id.clone();
        self.write(move |w| {
            Box::pin(async move {
                let run = w.any_run(&id).await?;
                let sql = "UPDATE runs SET stage = $2 WHERE id = $1";
                sqlx::query(sql).bind(run.id).bind(stage.as_str()).execute(&mut w.connection).await?;
                w.forget_run(&id);
                Ok(())
            })
        })
        .await?;
        if stage == Stage::Deleted { self.delete_assessments_of(&run_id).await } else { Ok(()) }
    }

    /// Logs a batch, all or nothing.
    ///
    /// # Errors
    /// When the run is missing or deleted, a param has another value already, or something is not as it must be.
    pub async fn log(&self, run_id: String, batch: Batch) -> Result<()> {
        let batch = limits::batch(batch)?;
        self.write(move |w| Box::pin(async move { w.log(&run_id, batch).await })).await
    }

    /// Removes a tag of a run.
    ///
    /// # Errors
    /// When there is none of this name, or the run is missing or deleted.
    pub async fn delete_tag(&self, run_id: String, key: String) -> Result<()> {
        self.write(move |w| {
            Box::pin(async move {
                let run = w.active_run(&run_id).await?;
                let missing = || Error::missing(format!("No tag with name: {key} in run with id {run_id}"));
                let number = w.known_key(&key).await?.ok_or_else(missing)?;
                let sql = "DELETE FROM tags WHERE run = $1 AND key = $2";
                let done = sqlx::query(sql).bind(run.id).bind(number).execute(&mut w.connection).await?;
                if done.rows_affected() == 0 { Err(missing()) } else { Ok(()) }
            })
        })
        .await
    }

    /// Notes which data a run read; data that is noted already stays as it is.
    ///
    /// # Errors
    /// When the run is missing or deleted, or something is not as it must be.
    pub async fn log_inputs(&self, run_id: String, inputs: Vec<DatasetInput>) -> Result<()> {
        limits::many("datasets", &inputs)?;
        for DatasetInput { dataset, tags } in &inputs {
            limits::many("tags", tags)?;
            limits::text("source_type", &dataset.source_type)?;
            limits::length("name", 500, &dataset.name)?;
            limits::length("digest", 36, &dataset.digest)?;
            limits::length("source", (64 << 10) - 1, &dataset.source)?;
            limits::length("schema", (1 << 20) - 1, dataset.schema.as_deref().unwrap_or_default())?;
            limits::length("profile", (16 << 20) - 1, dataset.profile.as_deref().unwrap_or_default())?;
            for tag in tags {
                limits::length("key", 255, &tag.key)?;
                limits::length("value", 500, &tag.value)?;
            }
        }
        self.write(move |w| Box::pin(async move { w.log_inputs(&run_id, inputs).await })).await
    }

    /// Notes which models a run read or made.
    ///
    /// # Errors
    /// When the run is missing or deleted, or there are too many.
    pub async fn log_models(&self, run_id: String, models: Vec<RunModel>) -> Result<()> {
        limits::many("models", &models)?;
        models.iter().try_for_each(|model| limits::text("model_id", &model.model_id))?;
        self.write(move |w| {
            Box::pin(async move {
                let run = w.active_run(&run_id).await?;
                let into = "INSERT INTO run_models (run, is_output, model_id, step)";
                let bind = |row: &mut Separated<'_, Sqlite, &'static str>, model: &RunModel| {
                    row.push_bind(run.id).push_bind(i64::from(model.is_output)).push_bind(&model.model_id).push_bind(model.step);
                };
                w.insert(into, &models, "ON CONFLICT DO NOTHING", bind).await
            })
        })
        .await
    }

    /// Points of a metric by (timestamp, step, value); at most 25 000 at once.
    ///
    /// # Errors
    /// When the run is missing or the token belongs to something else.
    pub async fn metric_history(&self, run_id: &str, key: &str, max_results: Option<usize>, token: Option<&str>) -> Result<Page<Metric>> {
        let pages = Pages::of(&["history", run_id, key]);
        let from = pages.position(token)?;
        let limit = max_results.unwrap_or(HISTORY).min(HISTORY);
        let run: Option<i64> =
            sqlx::query_scalar("SELECT id FROM runs WHERE run_id = $1").bind(run_id).fetch_optional(self.readers()).await?;
        let sql = "SELECT timestamp, step, value, is_nan FROM metrics WHERE run = $1 AND key = (SELECT id FROM keys WHERE name = $2)
                   ORDER BY timestamp, step, value, is_nan LIMIT $3 OFFSET $4";
        let query = sqlx::query(sql).bind(run.ok_or_else(|| no_run(run_id))?).bind(key).bind(limit as i64 + 1).bind(from);
        let rows = query.fetch_all(self.readers()).await?;
        Ok(pages.cut(rows.iter().map(|row| point(key, row)).collect::<Result<_>>()?, from, limit))
    }

    /// Points of a metric of several runs between two steps (included), each run by (step, timestamp, value): all, or those of so many steps at even distances
    /// and of each run's first and last one. Of one run there are so many points at most, its first and its last among them; runs that are missing have none.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn metric_samples(&self, run_ids: &[&str], key: &str, steps: (i64, i64), most: usize) -> Result<Vec<(String, Metric)>> {
        let key_sql = "SELECT id FROM keys WHERE name = $1";
        let number: Option<i64> = sqlx::query_scalar(key_sql).bind(key).fetch_optional(self.readers()).await?;
        let Some(number) = number else { return Ok(Vec::new()) };
        let (mut runs, mut all, mut ends, mut seen) = (Vec::new(), BTreeSet::new(), BTreeSet::new(), HashSet::new());
        for run_id in run_ids.iter().filter(|id| seen.insert(**id)) {
            let run: Option<i64> =
                sqlx::query_scalar("SELECT id FROM runs WHERE run_id = $1").bind(*run_id).fetch_optional(self.readers()).await?;
            let Some(run) = run else { continue };
            let sql =
                "SELECT step, COUNT(*) FROM metrics WHERE run = $1 AND key = $2 AND step BETWEEN $3 AND $4 GROUP BY step ORDER BY step";
            let query = sqlx::query_as(sql).bind(run).bind(number).bind(steps.0).bind(steps.1);
            let known: Vec<(i64, i64)> = query.fetch_all(self.readers()).await?;
            ends.extend(known.first().into_iter().chain(known.last()).map(|(step, _)| *step));
            all.extend(known.iter().map(|(step, _)| *step));
            runs.push((*run_id, run, known));
        }
        let (mut chosen, every) = (String::new(), all.len());
        if every > most {
            let even = all.iter().enumerate().filter(|(at, _)| at * most / every != (at + 1) * most / every);
            all = even.map(|(_, step)| *step).chain(ends).collect();
            chosen = format!("AND step IN {}", in_list(&listed(&Vec::from_iter(all.iter().copied()))));
        }
        let mut points = Vec::new();
        for (run_id, run, known) in runs {
            let there: i64 = known.iter().filter(|(step, _)| all.contains(step)).map(|(_, points)| points).sum();
            let mut sql = QueryBuilder::<Sqlite>::new(
                "SELECT timestamp, step, value, is_nan FROM (SELECT timestamp, step, value, is_nan,
                 ROW_NUMBER() OVER (ORDER BY step, timestamp, value, is_nan) - 1 AS at FROM metrics WHERE run = ",
            );
            sql.push_bind(run).push(" AND key = ").push_bind(number).push(" AND step BETWEEN ").push_bind(steps.0);
            sql.push(" AND ").push_bind(steps.1).push(" ").push(&chosen).push(")");
            let (last, kept) = (there - 1, most as i64 - 1);
            if last > kept {
                // Where the count of those kept goes up; the last one is such a place.
                sql.push(format!(" WHERE at = 0 OR at * {kept} / {last} > (at - 1) * {kept} / {last}"));
            }
            sql.push(" ORDER BY at");
            for row in self.rows(sql).await? {
                points.push((run_id.to_string(), point(key, &row)?));
            }
        }
        Ok(points)
    }

    /// Those that are there of `ids`, in their order, with what they logged.
    async fn runs(&self, ids: &[i64]) -> Result<Vec<Run>> {
        let mut found: HashMap<i64, Run> = HashMap::with_capacity(ids.len());
        let mut datasets = HashMap::new();
        for chunk in ids.chunks(search::CHUNK) {
            self.load(&in_list(&listed(chunk)), &mut found, &mut datasets).await?;
        }
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }

    /// How many of these runs, one at least, have no more of datasets together than an answer holds.
    async fn fitting(&self, ids: &[i64]) -> Result<usize> {
        let mut left = DATASETS;
        for (at, chunk) in ids.chunks(search::CHUNK).enumerate() {
            let sql = format!(
                "SELECT i.run, SUM({DATASET_BYTES}) FROM inputs i JOIN datasets d ON d.id = i.dataset WHERE i.run IN {} GROUP BY i.run",
                in_list(&listed(chunk))
            );
            let mut bytes: HashMap<i64, i64> = HashMap::new();
            for row in self.rows(QueryBuilder::new(sql)).await? {
                bytes.insert(row.try_get(0)?, row.try_get(1)?);
            }
            for (within, id) in chunk.iter().enumerate() {
                left -= bytes.get(id).copied().unwrap_or(0);
                if left < 0 {
                    return Ok((at * search::CHUNK + within).max(1));
                }
            }
        }
        Ok(ids.len())
    }

    /// One statement for each kind of belonging, however many runs there are. `datasets` are those that were read already.
    async fn load(&self, ids: &str, found: &mut HashMap<i64, Run>, datasets: &mut HashMap<i64, Dataset>) -> Result<()> {
        let rows = |text: String| self.rows(QueryBuilder::new(text));
        for row in rows(format!("{COLUMNS} WHERE r.id IN {ids}")).await? {
            let run = Run {
                info: info(&row)?,
                metrics: Vec::new(),
                params: Vec::new(),
                tags: Vec::new(),
                datasets: Vec::new(),
                models: Vec::new(),
            };
            found.insert(row.try_get(0)?, run);
        }
        let of_key = |table: &str, columns: &str| {
            format!(
                "SELECT t.run, k.name, {columns} FROM {table} t JOIN keys k ON k.id = t.key WHERE t.run IN {ids} ORDER BY t.run, k.name"
            )
        };
        for row in rows(of_key("latest_metrics", "t.timestamp, t.step, t.value, t.is_nan")).await? {
            let value = number(row.try_get(4)?, row.try_get(5)?);
            let metric = Metric { key: row.try_get(1)?, timestamp: row.try_get(2)?, step: row.try_get(3)?, value, ..Metric::default() };
            found.entry(row.try_get(0)?).and_modify(|run| run.metrics.push(metric));
        }
        for row in rows(of_key("params", "t.value")).await? {
            let pair = Pair { key: row.try_get(1)?, value: row.try_get(2)? };
            found.entry(row.try_get(0)?).and_modify(|run| run.params.push(pair));
        }
        for row in rows(of_key("tags", "t.value")).await? {
            let pair = Pair { key: row.try_get(1)?, value: row.try_get(2)? };
            found.entry(row.try_get(0)?).and_modify(|run| run.tags.push(pair));
        }
        let inputs = rows(format!(
            "SELECT i.run, i.dataset, t.key, t.value FROM inputs i
             LEFT JOIN input_tags t ON t.run = i.run AND t.dataset = i.dataset WHERE i.run IN {ids} ORDER BY i.run, i.dataset, t.key"
        ))
        .await?;
        let mut missing = BTreeSet::new();
        for row in &inputs {
            missing.insert(row.try_get::<i64, _>(1)?);
        }
        missing.retain(|id| !datasets.contains_key(id));
        for chunk in Vec::from_iter(missing).chunks(search::CHUNK) {
            let ids = in_list(&listed(chunk));
            for row in
                rows(format!("SELECT id, name, digest, source_type, source, schema, profile FROM datasets WHERE id IN {ids}")).await?
            {
                let dataset = Dataset {
                    name: row.try_get(1)?,
                    digest: row.try_get(2)?,
                    source_type: row.try_get(3)?,
                    source: row.try_get(4)?,
                    schema: row.try_get(5)?,
                    profile: row.try_get(6)?,
                };
                datasets.insert(row.try_get(0)?, dataset);
            }
        }
        let mut before = None;
        for row in inputs {
            let at: (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            let (Some(run), Some(dataset)) = (found.get_mut(&at.0), datasets.get(&at.1)) else { continue };
            if before.replace(at) != Some(at) {
                run.datasets.push(DatasetInput { tags: Vec::new(), dataset: dataset.clone() });
            }
            if let (Some(key), Some(input)) = (row.try_get::<Option<String>, _>(2)?, run.datasets.last_mut()) {
                input.tags.push(Pair { key, value: row.try_get(3)? });
            }
        }
        let models = format!("SELECT run, model_id, step, is_output FROM run_models WHERE run IN {ids} ORDER BY run, is_output, model_id");
        for row in rows(models).await? {
            let model = RunModel { model_id: row.try_get(1)?, step: row.try_get(2)?, is_output: row.try_get::<i64, _>(3)? == 1 };
            found.entry(row.try_get(0)?).and_modify(|run| run.models.push(model));
        }
        Ok(())
    }
}

impl Writer {
    async fn create_run(&mut self, id: String, name: String, new: NewRun) -> Result<RunInfo> {
        self.active_experiment(new.experiment).await?;
        let sql = "SELECT artifact_location FROM experiments WHERE id = $1";
        let location: String = sqlx::query_scalar(sql).bind(new.experiment).fetch_one(&mut self.connection).await?;
        let info = RunInfo {
            artifact_uri: format!("{location}/{id}/artifacts"),
            id,
            experiment: new.experiment,
            name,
            user: new.user,
            status: Status::Running,
            stage: Stage::Active,
            start_time: new.start_time.unwrap_or_else(now),
            end_time: None,
        };
        let sql = "INSERT INTO runs (run_id, experiment, name, user_id, status, stage, start_time, artifact_uri)
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id";
        let query = sqlx::query_scalar(sql).bind(&info.id).bind(info.experiment).bind(&info.name).bind(&info.user);
        let query = query.bind(info.status.as_str()).bind(info.stage.as_str()).bind(info.start_time).bind(&info.artifact_uri);
        let number = query.fetch_one(&mut self.connection).await?;
        self.set_pairs("tags", number, &new.tags).await?;
        Ok(info)
    }

    async fn update_run(&mut self, run_id: &str, change: RunChange) -> Result<()> {
        let run = self.active_run(run_id).await?;
        let name = change.name.filter(|n| !n.is_empty());
        let sql =
            "UPDATE runs SET status = COALESCE($2, status), end_time = COALESCE($3, end_time), name = COALESCE($4, name) WHERE id = $1";
        let query = sqlx::query(sql).bind(run.id).bind(change.status.map(Status::as_str)).bind(change.end_time).bind(&name);
        query.execute(&mut self.connection).await?;
        match name {
            Some(value) => self.set_pairs("tags", run.id, &[Pair { key: RUN_NAME.into(), value }]).await,
            None => Ok(()),
        }
    }

    async fn log(&mut self, run_id: &str, batch: Batch) -> Result<()> {
        let run = self.active_run(run_id).await?;
        let of_models = self.metrics_of_models(&batch.metrics).await?;
        let params = self.new_params(run_id, run, batch.params).await?;
        self.set_pairs("params", run.id, &params).await?;
        self.log_model_metrics(run_id, &of_models).await?;
        self.log_metrics(run, batch.metrics).await?;
        self.set_pairs("tags", run.id, &batch.tags).await?;
        if let Some(name) = batch.tags.iter().rev().find(|t| t.key == RUN_NAME) {
            let sql = "UPDATE runs SET name = $2 WHERE id = $1";
            sqlx::query(sql).bind(run.id).bind(&name.value).execute(&mut self.connection).await?;
        }
        Ok(())
    }

    /// Those params that are not there yet.
    ///
    /// # Errors
    /// When one is there with another value.
    async fn new_params(&mut self, run_id: &str, run: RunKey, params: Vec<Pair>) -> Result<Vec<Pair>> {
        let mut new = Vec::with_capacity(params.len());
        for param in params {
            let sql = "SELECT value FROM params WHERE run = $1 AND key = $2";
            let old: Option<String> = match self.known_key(&param.key).await? {
                Some(key) => sqlx::query_scalar(sql).bind(run.id).bind(key).fetch_optional(&mut self.connection).await?,
                None => None,
            };
            match old {
                Some(old) if old != param.value => {
                    return Err(Error::invalid(format!(
                        "Changing param values is not allowed. Param with key='{}' was already logged with value='{old}' for run ID='{run_id}'. \
                         Attempted logging new value '{}'.",
                        param.key, param.value
                    )));
                }
                Some(_) => {}
                None => new.push(param),
            }
        }
        Ok(new)
    }

    async fn set_pairs(&mut self, table: &'static str, run: i64, pairs: &[Pair]) -> Result<()> {
        let (into, conflict) = match table {
            "params" => ("INSERT INTO params (run, key, value)", ""),
            _ => ("INSERT INTO tags (run, key, value)", "ON CONFLICT (run, key) DO UPDATE SET value = excluded.value"),
        };
        let mut rows = Vec::with_capacity(pairs.len());
        for pair in pairs {
            rows.push((self.key(&pair.key).await?, &pair.value));
        }
        let bind = |row: &mut Separated<'_, Sqlite, &'static str>, (key, value): &(i64, &String)| {
            row.push_bind(run).push_bind(*key).push_bind(*value);
        };
        self.insert(into, &rows, conflict, bind).await
    }

    async fn log_metrics(&mut self, run: RunKey, metrics: Vec<Metric>) -> Result<()> {
        let mut points = Vec::with_capacity(metrics.len());
        // By metric: the greatest point of this batch.
        let mut latest: BTreeMap<i64, Point> = BTreeMap::new();
        for metric in metrics {
            let (value, is_nan) = stored(metric.value);
            let point = Point { key: self.key(&metric.key).await?, step: metric.step, timestamp: metric.timestamp, value, is_nan };
            latest.entry(point.key).and_modify(|l| *l = l.later(point)).or_insert(point);
            points.push(point);
        }
        let history = ("INSERT INTO metrics (run, key, timestamp, step, value, is_nan)", "ON CONFLICT DO NOTHING");
        let newest = (
            "INSERT INTO latest_metrics (run, key, timestamp, step, value, is_nan)",
            "ON CONFLICT (run, key) DO UPDATE
              SET timestamp = excluded.timestamp, step = excluded.step, value = excluded.value, is_nan = excluded.is_nan
              WHERE (excluded.step, excluded.timestamp, excluded.value, excluded.is_nan)
                  > (latest_metrics.step, latest_metrics.timestamp, latest_metrics.value, latest_metrics.is_nan)",
        );
        let bind = |row: &mut Separated<'_, Sqlite, &'static str>, point: &Point| {
            row.push_bind(run.id).push_bind(point.key).push_bind(point.timestamp).push_bind(point.step);
            row.push_bind(point.value).push_bind(point.is_nan);
        };
        self.insert(history.0, &points, history.1, bind).await?;
        self.insert(newest.0, &latest.into_values().collect::<Vec<_>>(), newest.1, bind).await
    }

    async fn log_inputs(&mut self, run_id: &str, inputs: Vec<DatasetInput>) -> Result<()> {
        let run = self.active_run(run_id).await?;
        self.room_for(run, &inputs).await?;
        for DatasetInput { dataset, tags } in inputs {
            let sql =
                "INSERT INTO datasets (experiment, name, digest, source_type, source, schema, profile) VALUES ($1, $2, $3, $4, $5, $6, $7)
                       ON CONFLICT (experiment, name, digest) DO NOTHING";
            let query = sqlx::query(sql).bind(run.experiment).bind(&dataset.name).bind(&dataset.digest).bind(&dataset.source_type);
            query.bind(&dataset.source).bind(&dataset.schema).bind(&dataset.profile).execute(&mut self.connection).await?;
            let sql = "SELECT id FROM datasets WHERE experiment = $1 AND name = $2 AND digest = $3";
            let query = sqlx::query_scalar(sql).bind(run.experiment).bind(&dataset.name).bind(&dataset.digest);
            let id: i64 = query.fetch_one(&mut self.connection).await?;
            let sql = "INSERT INTO inputs (run, dataset) VALUES ($1, $2) ON CONFLICT DO NOTHING";
            if sqlx::query(sql).bind(run.id).bind(id).execute(&mut self.connection).await?.rows_affected() == 0 {
                continue;
            }
            let into = "INSERT INTO input_tags (run, dataset, key, value)";
            let bind = |row: &mut Separated<'_, Sqlite, &'static str>, tag: &Pair| {
                row.push_bind(run.id).push_bind(id).push_bind(&tag.key).push_bind(&tag.value);
            };
            self.insert(into, &tags, "ON CONFLICT DO NOTHING", bind).await?;
        }
        Ok(())
    }

    /// A run's datasets fit into one answer, also with these.
    async fn room_for(&mut self, run: RunKey, inputs: &[DatasetInput]) -> Result<()> {
        let sql = format!("SELECT d.id, {DATASET_BYTES} FROM inputs i JOIN datasets d ON d.id = i.dataset WHERE i.run = $1");
        let there: Vec<(i64, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(run.id).fetch_all(&mut self.connection).await?;
        let mut bytes: HashMap<i64, i64> = there.into_iter().collect();
        let mut new = 0;
        let sql = format!("SELECT d.id, {DATASET_BYTES} FROM datasets d WHERE d.experiment = $1 AND d.name = $2 AND d.digest = $3");
        for DatasetInput { dataset: d, .. } in inputs {
            let query = sqlx::query_as(sqlx::AssertSqlSafe(sql.clone())).bind(run.experiment).bind(&d.name).bind(&d.digest);
            let known: Option<(i64, i64)> = query.fetch_optional(&mut self.connection).await?;
            let texts = [Some(&d.name), Some(&d.digest), Some(&d.source_type), Some(&d.source), d.schema.as_ref(), d.profile.as_ref()];
            match known {
                Some((id, size)) => drop(bytes.insert(id, size)),
                None => new += texts.into_iter().flatten().map(String::len).sum::<usize>() as i64,
            }
        }
        if bytes.values().sum::<i64>() + new <= DATASETS {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "The datasets of one run can have at most {} MiB together\n  hint: leave out their profiles",
            DATASETS >> 20
        )))
    }
}

/// A point as it is stored.
#[derive(Clone, Copy)]
struct Point {
    key: i64,
    step: i64,
    timestamp: i64,
    value: f64,
    is_nan: i64,
}

impl Point {
    fn later(self, other: Point) -> Point {
        let rank = |p: &Point| (p.step, p.timestamp, p.value, p.is_nan);
        if rank(&other) > rank(&self) { other } else { self }
    }
}

pub(super) fn stored(value: f64) -> (f64, i64) {
    if value.is_nan() { (0., 1) } else { (value.clamp(f64::MIN, f64::MAX), 0) }
}

pub(super) fn number(value: f64, is_nan: i64) -> f64 {
    if is_nan == 1 { f64::NAN } else { value }
}

/// A row of (timestamp, step, value, is_nan).
fn point(key: &str, row: &SqliteRow) -> Result<Metric> {
    let value = number(row.try_get(2)?, row.try_get(3)?);
    Ok(Metric { key: key.to_string(), timestamp: row.try_get(0)?, step: row.try_get(1)?, value, ..Metric::default() })
}

fn info(row: &SqliteRow) -> Result<RunInfo> {
    Ok(RunInfo {
        id: row.try_get(1)?,
        experiment: row.try_get(2)?,
        name: row.try_get(3)?,
        user: row.try_get(4)?,
        status: Status::read(row.try_get(5)?).unwrap_or(Status::Running),
        stage: Stage::read(row.try_get(6)?),
        start_time: row.try_get(7)?,
        end_time: row.try_get(8)?,
        artifact_uri: row.try_get(9)?,
    })
}

/// 32 hexadecimal digits. The hasher's keys differ from call to call.
pub(super) fn new_id() -> String {
    let half = || RandomState::new().hash_one(std::time::SystemTime::now());
    format!("{:016x}{:016x}", half(), half())
}

pub(super) fn made_up_name() -> String {
    const HOW: [&str; 24] = [
        "able", "bold", "brave", "bright", "calm", "clever", "eager", "fair", "fast", "fine", "free", "gentle", "glad", "grand", "keen",
        "kind", "lively", "merry", "neat", "proud", "quick", "sharp", "steady", "warm",
    ];
    const WHO: [&str; 24] = [
        "ant", "bear", "bee", "crane", "crow", "deer", "dove", "duck", "eel", "finch", "fox", "goat", "hare", "hawk", "heron", "lark",
        "lynx", "mole", "moth", "newt", "otter", "owl", "seal", "wren",
    ];
    let dice = RandomState::new().hash_one(0);
    format!("{}-{}-{}", HOW[(dice % 24) as usize], WHO[(dice / 24 % 24) as usize], dice / 576 % 1000)
}
