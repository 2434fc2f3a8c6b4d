//! Runs and what they log.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use super::plan::RunSearch;
use super::search::{self, each_of, in_list, listed};
use super::writer::{RunKey, Writer, no_run};
use super::{Tracking, now, settled};
use crate::db::{Db, FromRow, Row, Sql, bind};
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
        new.tags = settled(new.tags);
        self.write(move |w| w.create_run(id, name, new)).await
    }

    /// A run, deleted or not.
    ///
    /// # Errors
    /// When there is none of this id.
    pub async fn run(&self, run_id: &str) -> Result<Run> {
        let run_id = run_id.to_string();
        self.read(move |db| {
            let id = run_number(db, &run_id)?.ok_or_else(|| no_run(&run_id))?;
            runs(db, &[id])?.pop().ok_or_else(|| no_run(&run_id))
        })
        .await
    }

    /// A run without what it logged, deleted or not.
    ///
    /// # Errors
    /// When there is none of this id.
    pub async fn run_info(&self, run_id: &str) -> Result<RunInfo> {
        let run_id = run_id.to_string();
        self.read(move |db| run_info(db, &run_id)).await
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
        let most = query.max_results;
        self.read(move |db| {
            let mut page = pages.cut(search.find(db, most + 1, from)?, from, most);
            let fitting = fitting(db, &page.items)?;
            if fitting < page.items.len() {
                page.items.truncate(fitting);
                page.next = Some(pages.token(from + fitting as i64));
            }
            Ok(Page { items: runs(db, &page.items)?, next: page.next })
        })
        .await
    }

    /// Changes a run.
    ///
    /// # Errors
    /// When it is missing or deleted.
    pub async fn update_run(&self, run_id: &str, change: RunChange) -> Result<RunInfo> {
        change.name.as_deref().map(|name| limits::text("run_name", name)).transpose()?;
        let id = run_id.to_string();
        self.write(move |w| {
            w.update_run(&id, change)?;
            run_info(&mut w.db, &id)
        })
        .await
    }

    /// Deletes or restores a run; one that is so already stays so. What it said of traces goes with it for good.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn set_run_stage(&self, run_id: String, stage: Stage) -> Result<()> {
        let id = run_id.clone();
        self.write(move |w| {
            let run = w.any_run(&id)?;
            w.db.execute("UPDATE runs SET stage = ?2 WHERE id = ?1", bind![run.id, stage.as_str()])?;
            w.forget_run(&id);
            Ok(())
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
        self.write(move |w| w.log(&run_id, batch)).await
    }

    /// Removes a tag of a run.
    ///
    /// # Errors
    /// When there is none of this name, or the run is missing or deleted.
    pub async fn delete_tag(&self, run_id: String, key: String) -> Result<()> {
        self.write(move |w| {
            let run = w.active_run(&run_id)?;
            let missing = || Error::missing(format!("No tag with name: {key} in run with id {run_id}"));
            let number = w.known_key(&key)?.ok_or_else(missing)?;
            let deleted = w.db.execute("DELETE FROM tags WHERE run = ?1 AND key = ?2", bind![run.id, number])?;
            if deleted == 0 { Err(missing()) } else { Ok(()) }
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
            limits::length("name", limits::DATASET, &dataset.name)?;
            limits::length("digest", limits::DATASET_DIGEST, &dataset.digest)?;
            limits::length("source", (64 << 10) - 1, &dataset.source)?;
            limits::length("schema", (1 << 20) - 1, dataset.schema.as_deref().unwrap_or_default())?;
            limits::length("profile", (16 << 20) - 1, dataset.profile.as_deref().unwrap_or_default())?;
            for tag in tags {
                limits::length("key", 255, &tag.key)?;
                limits::length("value", 500, &tag.value)?;
            }
        }
        self.write(move |w| w.log_inputs(&run_id, &inputs)).await
    }

    /// Notes which models a run read or made.
    ///
    /// # Errors
    /// When the run is missing or deleted, or there are too many.
    pub async fn log_models(&self, run_id: String, models: Vec<RunModel>) -> Result<()> {
        limits::many("models", &models)?;
        models.iter().try_for_each(|model| limits::length("model_id", limits::ID, &model.model_id))?;
        self.write(move |w| {
            let run = w.active_run(&run_id)?;
            let into = "INSERT INTO run_models (run, is_output, model_id, step)";
            let rows = models.iter().map(|m| [run.id.into(), m.is_output.into(), (&m.model_id).into(), m.step.into()]);
            w.db.insert(into, "ON CONFLICT DO NOTHING", rows)
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
        let (run_id, key) = (run_id.to_string(), key.to_string());
        self.read(move |db| {
            let run = run_number(db, &run_id)?.ok_or_else(|| no_run(&run_id))?;
            let sql = "SELECT timestamp, step, value, is_nan FROM metrics WHERE run = ?1 AND key = (SELECT id FROM keys WHERE name = ?2)
                       ORDER BY timestamp, step, value, is_nan LIMIT ?3 OFFSET ?4";
            let mut points = Vec::new();
            db.each(sql, bind![run, &key, limit as i64 + 1, from], |row| {
                points.push(point(&key, row)?);
                Ok(())
            })?;
            Ok(pages.cut(points, from, limit))
        })
        .await
    }

    /// Points of a metric of several runs between two steps (included), each run by (step, timestamp, value): all, or those of so many steps at even distances
    /// and of each run's first and last one. Of one run there are so many points at most, its first and its last among them; runs that are missing have none.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn metric_samples(&self, run_ids: &[&str], key: &str, steps: (i64, i64), most: usize) -> Result<Vec<(String, Metric)>> {
        let run_ids: Vec<String> = run_ids.iter().map(ToString::to_string).collect();
        let key = key.to_string();
        self.read(move |db| metric_samples(db, &run_ids, &key, steps, most)).await
    }
}

fn metric_samples(db: &mut Db, run_ids: &[String], key: &str, steps: (i64, i64), most: usize) -> Result<Vec<(String, Metric)>> {
    let number: Option<i64> = db.optional("SELECT id FROM keys WHERE name = ?1", bind![key])?;
    let Some(number) = number else { return Ok(Vec::new()) };
    let (mut runs, mut all, mut ends, mut seen) = (Vec::new(), BTreeSet::new(), BTreeSet::new(), HashSet::new());
    for run_id in run_ids.iter().filter(|id| seen.insert(id.as_str())) {
        let Some(run) = run_number(db, run_id)? else { continue };
        let sql = "SELECT step, COUNT(*) FROM metrics WHERE run = ?1 AND key = ?2 AND step BETWEEN ?3 AND ?4 GROUP BY step ORDER BY step";
        let known: Vec<(i64, i64)> = db.rows(sql, bind![run, number, steps.0, steps.1])?;
        ends.extend(known.first().into_iter().chain(known.last()).map(|(step, _)| *step));
        all.extend(known.iter().map(|(step, _)| *step));
        runs.push((run_id, run, known));
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
        let mut sql = Sql::new(
            "SELECT timestamp, step, value, is_nan FROM (SELECT timestamp, step, value, is_nan,
             ROW_NUMBER() OVER (ORDER BY step, timestamp, value, is_nan) - 1 AS place FROM metrics WHERE run = ",
        );
        sql.bind(run).push(" AND key = ").bind(number).push(" AND step BETWEEN ").bind(steps.0);
        sql.push(" AND ").bind(steps.1).push(" ").push(&chosen).push(") AS places");
        let (last, kept) = (there - 1, most as i64 - 1);
        if last > kept {
            // Where the count of those kept goes up; the last one is such a place.
            sql.push(format!(" WHERE place = 0 OR place * {kept} / {last} > (place - 1) * {kept} / {last}"));
        }
        sql.push(" ORDER BY place").each(db, |row| {
            points.push((run_id.clone(), point(key, row)?));
            Ok(())
        })?;
    }
    Ok(points)
}

fn run_number(db: &mut Db, run_id: &str) -> Result<Option<i64>> {
    db.optional("SELECT id FROM runs WHERE run_id = ?1", bind![run_id])
}

fn run_info(db: &mut Db, run_id: &str) -> Result<RunInfo> {
    db.optional(&format!("{COLUMNS} WHERE r.run_id = ?1"), bind![run_id])?.ok_or_else(|| no_run(run_id))
}

/// Those that are there of `ids`, in their order, with what they logged.
fn runs(db: &mut Db, ids: &[i64]) -> Result<Vec<Run>> {
    let mut found: HashMap<i64, Run> = HashMap::with_capacity(ids.len());
    let mut datasets = HashMap::new();
    for chunk in ids.chunks(search::CHUNK) {
        load(db, chunk, &mut found, &mut datasets)?;
    }
    Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
}

/// How many of these runs, one at least, have no more of datasets together than an answer holds.
fn fitting(db: &mut Db, ids: &[i64]) -> Result<usize> {
    let before =
        format!("SELECT i.run, CAST(SUM({DATASET_BYTES}) AS BIGINT) FROM inputs i JOIN datasets d ON d.id = i.dataset WHERE i.run");
    let mut left = DATASETS;
    for (at, chunk) in ids.chunks(search::CHUNK).enumerate() {
        let mut bytes: HashMap<i64, i64> = HashMap::new();
        each_of(db, &before, chunk, " GROUP BY i.run", |row| {
            bytes.insert(row.get(0)?, row.get(1)?);
            Ok(())
        })?;
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
fn load(db: &mut Db, ids: &[i64], found: &mut HashMap<i64, Run>, datasets: &mut HashMap<i64, Dataset>) -> Result<()> {
    each_of(db, &format!("{COLUMNS} WHERE r.id"), ids, "", |row| {
        found.insert(row.get(0)?, alone(RunInfo::from_row(row)?));
        Ok(())
    })?;
    let of_key =
        |table: &str, columns: &str| format!("SELECT t.run, k.name, {columns} FROM {table} t JOIN keys k ON k.id = t.key WHERE t.run");
    let in_order = " ORDER BY t.run, k.name";
    each_of(db, &of_key("latest_metrics", "t.timestamp, t.step, t.value, t.is_nan"), ids, in_order, |row| {
        let Some(run) = found.get_mut(&row.get::<i64>(0)?) else { return Ok(()) };
        let value = number(row.get(4)?, row.get(5)?);
        run.metrics.push(Metric { key: row.get(1)?, timestamp: row.get(2)?, step: row.get(3)?, value, ..Metric::default() });
        Ok(())
    })?;
    each_of(db, &of_key("params", "t.value"), ids, in_order, |row| {
        let Some(run) = found.get_mut(&row.get::<i64>(0)?) else { return Ok(()) };
        run.params.push(Pair { key: row.get(1)?, value: row.get(2)? });
        Ok(())
    })?;
    each_of(db, &of_key("tags", "t.value"), ids, in_order, |row| {
        let Some(run) = found.get_mut(&row.get::<i64>(0)?) else { return Ok(()) };
        run.tags.push(Pair { key: row.get(1)?, value: row.get(2)? });
        Ok(())
    })?;
    let before = "SELECT i.run, i.dataset, t.key, t.value FROM inputs i
                  LEFT JOIN input_tags t ON t.run = i.run AND t.dataset = i.dataset WHERE i.run";
    let mut inputs: Vec<(i64, i64, Option<String>, Option<String>)> = Vec::new();
    each_of(db, before, ids, " ORDER BY i.run, i.dataset, t.key", |row| {
        inputs.push(FromRow::from_row(row)?);
        Ok(())
    })?;
    let mut missing: BTreeSet<i64> = inputs.iter().map(|(_, dataset, ..)| *dataset).collect();
    missing.retain(|id| !datasets.contains_key(id));
    for chunk in Vec::from_iter(missing).chunks(search::CHUNK) {
        each_of(db, "SELECT id, name, digest, source_type, source, schema, profile FROM datasets WHERE id", chunk, "", |row| {
            let dataset = Dataset {
                name: row.get(1)?,
                digest: row.get(2)?,
                source_type: row.get(3)?,
                source: row.get(4)?,
                schema: row.get(5)?,
                profile: row.get(6)?,
            };
            datasets.insert(row.get(0)?, dataset);
            Ok(())
        })?;
    }
    let mut before = None;
    for (run, dataset, key, value) in inputs {
        let (Some(of), Some(data)) = (found.get_mut(&run), datasets.get(&dataset)) else { continue };
        if before.replace((run, dataset)) != Some((run, dataset)) {
            of.datasets.push(DatasetInput { tags: Vec::new(), dataset: data.clone() });
        }
        if let (Some(key), Some(value), Some(input)) = (key, value, of.datasets.last_mut()) {
            input.tags.push(Pair { key, value });
        }
    }
    let before = "SELECT run, model_id, step, is_output FROM run_models WHERE run";
    each_of(db, before, ids, " ORDER BY run, is_output, model_id", |row| {
        let Some(run) = found.get_mut(&row.get::<i64>(0)?) else { return Ok(()) };
        run.models.push(RunModel { model_id: row.get(1)?, step: row.get(2)?, is_output: row.get(3)? });
        Ok(())
    })
}

/// A run that has logged nothing.
fn alone(info: RunInfo) -> Run {
    Run { info, metrics: Vec::new(), params: Vec::new(), tags: Vec::new(), datasets: Vec::new(), models: Vec::new() }
}

impl Writer {
    fn create_run(&mut self, id: String, name: String, new: NewRun) -> Result<Run> {
        let location = self.active_place(new.experiment)?;
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
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING id";
        let (status, stage) = (info.status.as_str(), info.stage.as_str());
        let values = bind![&info.id, info.experiment, &info.name, &info.user, status, stage, info.start_time, &info.artifact_uri];
        let number = self.db.one(sql, values)?;
        self.set_tags(number, &new.tags)?;
        Ok(Run { tags: new.tags, ..alone(info) })
    }

    fn update_run(&mut self, run_id: &str, change: RunChange) -> Result<()> {
        let run = self.active_run(run_id)?;
        let name = change.name.filter(|n| !n.is_empty());
        let sql =
            "UPDATE runs SET status = COALESCE(?2, status), end_time = COALESCE(?3, end_time), name = COALESCE(?4, name) WHERE id = ?1";
        self.db.execute(sql, bind![run.id, change.status.map(Status::as_str), change.end_time, &name])?;
        match name {
            Some(value) => self.set_tags(run.id, &[Pair { key: RUN_NAME.into(), value }]),
            None => Ok(()),
        }
    }

    fn log(&mut self, run_id: &str, batch: Batch) -> Result<()> {
        let run = self.active_run(run_id)?;
        let of_models = self.metrics_of_models(&batch.metrics)?;
        let params = self.new_params(run_id, run, batch.params)?;
        self.add_params(run.id, &params)?;
        self.log_model_metrics(run_id, &of_models)?;
        self.log_metrics(run, &batch.metrics)?;
        let tags = settled(batch.tags);
        self.set_tags(run.id, &tags)?;
        if let Some(name) = tags.iter().find(|t| t.key == RUN_NAME) {
            self.db.execute("UPDATE runs SET name = ?2 WHERE id = ?1", bind![run.id, &name.value])?;
        }
        Ok(())
    }

    /// Those params that are not there yet.
    ///
    /// # Errors
    /// When one is there with another value.
    fn new_params(&mut self, run_id: &str, run: RunKey, params: Vec<Pair>) -> Result<Vec<Pair>> {
        let mut new = Vec::with_capacity(params.len());
        for param in params {
            let old: Option<String> = match self.known_key(&param.key)? {
                Some(key) => self.db.optional("SELECT value FROM params WHERE run = ?1 AND key = ?2", bind![run.id, key])?,
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

    /// Adds params of different names that are not there.
    fn add_params(&mut self, run: i64, params: &[Pair]) -> Result<()> {
        let keys = self.keys_of(params)?;
        let rows = params.iter().zip(keys).map(|(param, key)| [run.into(), key.into(), (&param.value).into()]);
        self.db.insert("INSERT INTO params (run, key, value)", "", rows)
    }

    /// Sets tags of different names.
    fn set_tags(&mut self, run: i64, tags: &[Pair]) -> Result<()> {
        let keys = self.keys_of(tags)?;
        let rows = tags.iter().zip(keys).map(|(tag, key)| [run.into(), key.into(), (&tag.value).into()]);
        self.db.insert("INSERT INTO tags (run, key, value)", "ON CONFLICT (run, key) DO UPDATE SET value = excluded.value", rows)
    }

    fn keys_of(&mut self, pairs: &[Pair]) -> Result<Vec<i64>> {
        pairs.iter().map(|pair| self.key(&pair.key)).collect()
    }

    fn log_metrics(&mut self, run: RunKey, metrics: &[Metric]) -> Result<()> {
        let mut points = Vec::with_capacity(metrics.len());
        // By metric: the greatest point of this batch.
        let mut latest: BTreeMap<i64, Point> = BTreeMap::new();
        for metric in metrics {
            let (value, is_nan) = stored(metric.value);
            let point = Point { key: self.key(&metric.key)?, step: metric.step, timestamp: metric.timestamp, value, is_nan };
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
        // In the order of the index, which is then gone through once.
        points.sort_unstable_by_key(|p| (p.key, p.timestamp, p.step));
        let row = |p: &Point| [run.id.into(), p.key.into(), p.timestamp.into(), p.step.into(), p.value.into(), p.is_nan.into()];
        self.db.insert(history.0, history.1, points.iter().map(row))?;
        self.db.insert(newest.0, newest.1, latest.values().map(row))
    }

    fn log_inputs(&mut self, run_id: &str, inputs: &[DatasetInput]) -> Result<()> {
        let run = self.active_run(run_id)?;
        self.room_for(run, inputs)?;
        for DatasetInput { dataset: d, tags } in inputs {
            let sql = "INSERT INTO datasets (experiment, name, digest, source_type, source, schema, profile)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (experiment, name, digest) DO NOTHING";
            let values = bind![run.experiment, &d.name, &d.digest, &d.source_type, &d.source, &d.schema, &d.profile];
            self.db.execute(sql, values)?;
            let sql = "SELECT id FROM datasets WHERE experiment = ?1 AND name = ?2 AND digest = ?3";
            let id: i64 = self.db.one(sql, bind![run.experiment, &d.name, &d.digest])?;
            let sql = "INSERT INTO inputs (run, dataset) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
            if self.db.execute(sql, bind![run.id, id])? == 0 {
                continue;
            }
            let into = "INSERT INTO input_tags (run, dataset, key, value)";
            let rows = tags.iter().map(|tag| [run.id.into(), id.into(), (&tag.key).into(), (&tag.value).into()]);
            self.db.insert(into, "ON CONFLICT DO NOTHING", rows)?;
        }
        Ok(())
    }

    /// A run's datasets fit into one answer, also with these.
    fn room_for(&mut self, run: RunKey, inputs: &[DatasetInput]) -> Result<()> {
        let sql = format!("SELECT d.id, {DATASET_BYTES} FROM inputs i JOIN datasets d ON d.id = i.dataset WHERE i.run = ?1");
        let there: Vec<(i64, i64)> = self.db.rows(&sql, bind![run.id])?;
        let mut bytes: HashMap<i64, i64> = there.into_iter().collect();
        let mut new = 0;
        let sql = format!("SELECT d.id, {DATASET_BYTES} FROM datasets d WHERE d.experiment = ?1 AND d.name = ?2 AND d.digest = ?3");
        for DatasetInput { dataset: d, .. } in inputs {
            let known: Option<(i64, i64)> = self.db.optional(&sql, bind![run.experiment, &d.name, &d.digest])?;
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
fn point(key: &str, row: &Row<'_>) -> Result<Metric> {
    let value = number(row.get(2)?, row.get(3)?);
    Ok(Metric { key: key.to_string(), timestamp: row.get(0)?, step: row.get(1)?, value, ..Metric::default() })
}

/// A row of [`COLUMNS`].
impl FromRow for RunInfo {
    fn from_row(row: &Row<'_>) -> Result<RunInfo> {
        Ok(RunInfo {
            id: row.get(1)?,
            experiment: row.get(2)?,
            name: row.get(3)?,
            user: row.get(4)?,
            status: Status::read(&row.get::<String>(5)?).unwrap_or(Status::Running),
            stage: Stage::read(&row.get::<String>(6)?),
            start_time: row.get(7)?,
            end_time: row.get(8)?,
            artifact_uri: row.get(9)?,
        })
    }
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
