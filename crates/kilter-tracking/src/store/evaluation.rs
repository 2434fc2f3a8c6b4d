//! Datasets that models of language are judged by, and their records.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::runs::new_id;
use super::search::{CHUNK, and_value, and_visible, compare, direction, each_of, in_list, listed, of_key};
use super::writer::Writer;
use super::{Place, Tracking, now};
use crate::db::{Db, FromRow, Row, Sql, bind};
use crate::error::{Error, Result};
use crate::evaluation::{EvaluationDataset, EvaluationRecord};
use crate::grammar::{Comparison, EVALUATION_DATASETS, Kind, Op};
use crate::limits;
use crate::model::{Page, Pair, Query};
use crate::otel::AnyValue;
use crate::page::Pages;

/// Records of a dataset, and of one request, at most; bytes of one.
const RECORDS: i64 = 1_000_000;
const AT_ONCE: usize = 50_000;
const RECORD_BYTES: usize = 4 << 20;
/// Records, and bytes of them, that are written or deleted at once.
const WRITTEN: usize = 1_000;
const WRITTEN_BYTES: usize = 4 << 20;
/// Bytes of records, or of datasets, in one answer, beyond which the next page begins.
const ANSWERED: i64 = 32 << 20;
/// Experiments of one dataset at most.
const EXPERIMENTS: usize = 1_000;
/// Fields that a dataset's schema has for each part of a record, and bytes of the name of one.
const FIELDS: usize = 1_000;
const FIELD: usize = 250;
const USER: &str = "mlflow.user";

/// A record on its way in.
struct New {
    record: EvaluationRecord,
    hash: String,
    size: usize,
}

/// What a write of records came to.
#[derive(Default)]
struct Upserted {
    inserted: i64,
    updated: i64,
    /// Why it ended before the last.
    refused: Option<Error>,
    /// What is left for the next write.
    rest: Vec<New>,
}

impl Tracking {
    /// Makes a dataset without records.
    ///
    /// # Errors
    /// When an experiment is missing or deleted, or something is not as it must be.
    pub async fn create_evaluation_dataset(&self, name: String, mut tags: Vec<Pair>, experiments: Vec<i64>) -> Result<EvaluationDataset> {
        limits::length("name", 500, &name)?;
        tags.iter_mut().try_for_each(limits::trace_pair)?;
        limits::room("tags of a dataset", &[], &tags)?;
        few(experiments.len())?;
        let id = format!("d-{}", new_id());
        let dataset_id = id.clone();
        self.write(move |w| {
            for experiment in &experiments {
                w.active_experiment(*experiment)?;
            }
            let user = tags.iter().find(|t| t.key == USER).map(|t| &t.value);
            let sql = "INSERT INTO evaluation_datasets (dataset_id, name, digest, records, created, updated, created_by, updated_by)
                       VALUES (?1, ?2, ?3, 0, ?4, ?4, ?5, ?5) RETURNING id";
            let dataset: i64 = w.db.one(sql, bind![&dataset_id, &name, digest(&name), now(), user])?;
            w.set_dataset_tags(dataset, &tags)?;
            w.add_experiments(dataset, &experiments)
        })
        .await?;
        self.evaluation_dataset(&id).await
    }

    /// A dataset without its records.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn evaluation_dataset(&self, dataset_id: &str) -> Result<EvaluationDataset> {
        let dataset_id = dataset_id.to_string();
        self.read(move |db| {
            let id = need_dataset(db, &dataset_id)?;
            datasets(db, &[id])?.pop().ok_or_else(|| no_dataset(&dataset_id))
        })
        .await
    }

    /// Looks for datasets, of `experiments` if any are named: the newest first unless the query says otherwise.
    ///
    /// # Errors
    /// When the query makes no sense.
    pub async fn search_evaluation_datasets(&self, experiments: &[i64], query: &Query) -> Result<Page<EvaluationDataset>> {
        let filter = EVALUATION_DATASETS.filter(&query.filter)?;
        let orders = EVALUATION_DATASETS.orders(&query.order_by)?;
        limits::experiments(experiments)?;
        let ids = listed(experiments);
        let pages = Pages::of(&["evaluation datasets", &ids, &query.filter, &query.order_by.join("\n"), &of_key(&query.visible)]);
        let from = pages.position(query.page_token.as_deref())?;
        let mut sql = Sql::new("SELECT d.id FROM evaluation_datasets d WHERE TRUE");
        if !experiments.is_empty() {
            sql.push(" AND d.id IN (SELECT dataset FROM evaluation_dataset_experiments WHERE experiment IN ").push(in_list(&ids)).push(")");
        }
        if let Some(visible) = &query.visible {
            // By whoever may read one of its experiments.
            sql.push(" AND (EXISTS (SELECT 1 FROM evaluation_dataset_experiments x LEFT JOIN experiments e ON e.id = x.experiment WHERE x.dataset = d.id");
            and_visible(&mut sql, &query.visible, "x.experiment", "e.name");
            sql.push(")");
            if visible.others {
                sql.push(" OR NOT EXISTS (SELECT 1 FROM evaluation_dataset_experiments x WHERE x.dataset = d.id)");
            }
            sql.push(")");
        }
        for Comparison { kind, key, op, value } in filter {
            sql.push(" AND ");
            if kind != Kind::Tag {
                compare(&mut sql, column(&key), op, value);
                continue;
            }
            sql.push(if op == Op::IsNull { "NOT EXISTS (" } else { "EXISTS (" });
            sql.push("SELECT 1 FROM evaluation_dataset_tags p WHERE p.dataset = d.id AND p.key = ").bind(key);
            and_value(&mut sql, "p.value", op, value);
            sql.push(")");
        }
        sql.push(" ORDER BY ");
        for order in &orders {
            // Who made it may be missing, which SQLite and PostgreSQL put at different ends.
            let by = column(&order.key);
            sql.push(by).push(" IS NULL, ").push(by).push(direction(order)).push(", ");
        }
        sql.push("d.created DESC, d.id DESC LIMIT ").bind(query.max_results as i64 + 1).push(" OFFSET ").bind(from);
        let limit = query.max_results;
        self.read(move |db| {
            let mut page = pages.cut(sql.rows(db)?, from, limit);
            let fitting = fitting_datasets(db, &page.items)?;
            if fitting < page.items.len() {
                page.items.truncate(fitting);
                page.next = Some(pages.token(from + fitting as i64));
            }
            Ok(Page { items: datasets(db, &page.items)?, next: page.next })
        })
        .await
    }

    /// Deletes a dataset with its records, for good.
    ///
    /// # Errors
    /// When it is missing. Where something fails some of its records may be gone.
    pub async fn delete_evaluation_dataset(&self, dataset_id: String) -> Result<()> {
        loop {
            let id = dataset_id.clone();
            // There may be a million records: others write in between.
            let done = self.write(move |w| {
                let dataset = need_dataset(&mut w.db, &id)?;
                let some = format!(
                    "DELETE FROM evaluation_records WHERE id IN (SELECT id FROM evaluation_records WHERE dataset = ?1 LIMIT {WRITTEN})"
                );
                let gone = w.db.execute(&some, bind![dataset])? as usize;
                if gone == WRITTEN {
                    w.count_records(dataset, &id, -(gone as i64))?;
                    return Ok(false);
                }
                for sql in [
                    "DELETE FROM evaluation_dataset_tags WHERE dataset = ?1",
                    "DELETE FROM evaluation_dataset_experiments WHERE dataset = ?1",
                    "DELETE FROM evaluation_datasets WHERE id = ?1",
                ] {
                    w.db.execute(sql, bind![dataset])?;
                }
                Ok(true)
            });
            if done.await? {
                return Ok(());
            }
        }
    }

    /// Sets tags of a dataset.
    ///
    /// # Errors
    /// When it is missing or a tag is not as it must be.
    pub async fn set_evaluation_dataset_tags(&self, dataset_id: String, mut tags: Vec<Pair>) -> Result<()> {
        tags.iter_mut().try_for_each(limits::trace_pair)?;
        self.write(move |w| {
            let dataset = need_dataset(&mut w.db, &dataset_id)?;
            let sql = "SELECT key, octet_length(value) FROM evaluation_dataset_tags WHERE dataset = ?1";
            let there: Vec<(String, i64)> = w.db.rows(sql, bind![dataset])?;
            limits::room("tags of a dataset", &there, &tags)?;
            w.set_dataset_tags(dataset, &tags)
        })
        .await
    }

    /// Removes a tag of a dataset, if it is there.
    ///
    /// # Errors
    /// When the dataset is missing.
    pub async fn delete_evaluation_dataset_tag(&self, dataset_id: String, key: String) -> Result<()> {
        self.write(move |w| {
            let dataset = need_dataset(&mut w.db, &dataset_id)?;
            let sql = "DELETE FROM evaluation_dataset_tags WHERE dataset = ?1 AND key = ?2";
            w.db.execute(sql, bind![dataset, &key]).map(drop)
        })
        .await
    }

    /// Adds a dataset to experiments, or takes it out of them.
    ///
    /// # Errors
    /// When it or an experiment to add it to is missing.
    pub async fn move_evaluation_dataset(&self, dataset_id: &str, experiments: Vec<i64>, is_added: bool) -> Result<EvaluationDataset> {
        few(experiments.len())?;
        let id = dataset_id.to_string();
        self.write(move |w| {
            let dataset = need_dataset(&mut w.db, &id)?;
            if is_added {
                let sql = "SELECT experiment FROM evaluation_dataset_experiments WHERE dataset = ?1";
                let there: Vec<i64> = w.db.rows(sql, bind![dataset])?;
                few(there.len() + experiments.iter().filter(|experiment| !there.contains(experiment)).count())?;
                for experiment in &experiments {
                    w.active_experiment(*experiment)?;
                }
                return w.add_experiments(dataset, &experiments);
            }
            for experiment in experiments {
                let sql = "DELETE FROM evaluation_dataset_experiments WHERE dataset = ?1 AND experiment = ?2";
                w.db.execute(sql, bind![dataset, experiment])?;
            }
            Ok(())
        })
        .await?;
        self.evaluation_dataset(dataset_id).await
    }

    /// Stores records: one whose input is there already is merged into it. How many are new, and how many were there.
    ///
    /// # Errors
    /// When the dataset is missing, or it or a record gets too large. Of many records some may be stored then.
    pub async fn upsert_records(&self, dataset_id: String, records: Vec<EvaluationRecord>) -> Result<(i64, i64)> {
        if records.len() > AT_ONCE {
            return Err(Error::invalid(format!("A request can have at most {AT_ONCE} records. Got {}.", records.len())));
        }
        let portions = tokio::task::spawn_blocking(move || portions(records)).await.map_err(|e| Error::internal(&e))??;
        let (mut inserted, mut updated) = (0, 0);
        // Others write in between.
        for mut records in portions {
            loop {
                let id = dataset_id.clone();
                let done = self.write(move |w| w.upsert_records(&id, records)).await?;
                if let Some(refused) = done.refused {
                    return Err(refused);
                }
                (inserted, updated) = (inserted + done.inserted, updated + done.updated);
                if done.rest.is_empty() {
                    break;
                }
                records = done.rest;
            }
        }
        Ok((inserted, updated))
    }

    /// Records of a dataset in the order they came in. A page of large ones has fewer than were asked for, and goes on.
    ///
    /// # Errors
    /// When the dataset is missing.
    pub async fn records(
        &self,
        dataset_id: &str,
        limit: usize,
        page_token: Option<&str>,
        _place: &Place,
    ) -> Result<Page<EvaluationRecord>> {
        let pages = Pages::of(&["records", dataset_id]);
        // The token says after which record to go on: records may be deleted in between.
        let (id, from) = (dataset_id.to_string(), pages.position(page_token));
        self.read(move |db| {
            let (dataset, from) = (need_dataset(db, &id)?, from?);
            let sql = "SELECT id, size FROM evaluation_records WHERE dataset = ?1 AND id > ?2 ORDER BY id LIMIT ?3";
            let mut some: Vec<(i64, i64)> = db.rows(sql, bind![dataset, from, limit as i64 + 1])?;
            let mut left = ANSWERED;
            let fits = |(_, size): &&(i64, i64)| {
                left -= size;
                left >= 0
            };
            let fitting = some.iter().take(limit).take_while(fits).count().max(1);
            let is_all = some.len() <= fitting;
            some.truncate(fitting);
            let Some((last, _)) = some.last() else { return Ok(Page { items: Vec::new(), next: None }) };
            let sql = format!("{RECORD} WHERE dataset = ?1 AND id > ?2 AND id <= ?3 ORDER BY id");
            let items = db.rows(&sql, bind![dataset, from, last])?;
            Ok(Page { items, next: (!is_all).then(|| pages.token(*last)) })
        })
        .await
    }

    /// Deletes records, for good. How many there were.
    ///
    /// # Errors
    /// When the dataset is missing. Of many records some may be gone then.
    pub async fn delete_records(&self, dataset_id: String, record_ids: Vec<String>) -> Result<i64> {
        if record_ids.len() > AT_ONCE {
            return Err(Error::invalid(format!("A request can name at most {AT_ONCE} records. Got {}.", record_ids.len())));
        }
        let id = dataset_id.clone();
        self.read(move |db| need_dataset(db, &id)).await?;
        let mut deleted = 0;
        for some in record_ids.chunks(WRITTEN).map(<[String]>::to_vec) {
            let dataset_id = dataset_id.clone();
            let done = self.write(move |w| {
                let dataset = need_dataset(&mut w.db, &dataset_id)?;
                let mut gone = 0;
                for id in some {
                    let sql = "DELETE FROM evaluation_records WHERE dataset = ?1 AND record_id = ?2";
                    gone += w.db.execute(sql, bind![dataset, &id])? as i64;
                }
                w.count_records(dataset, &dataset_id, -gone)?;
                Ok(gone)
            });
            deleted += done.await?;
        }
        Ok(deleted)
    }
}

impl Writer {
    fn set_dataset_tags(&mut self, dataset: i64, tags: &[Pair]) -> Result<()> {
        for tag in tags {
            let sql = "INSERT INTO evaluation_dataset_tags (dataset, key, value) VALUES (?1, ?2, ?3)
                       ON CONFLICT (dataset, key) DO UPDATE SET value = excluded.value";
            self.db.execute(sql, bind![dataset, &tag.key, &tag.value])?;
        }
        Ok(())
    }

    fn add_experiments(&mut self, dataset: i64, experiments: &[i64]) -> Result<()> {
        let rows = experiments.iter().map(|experiment| [dataset.into(), experiment.into()]);
        self.db.insert("INSERT INTO evaluation_dataset_experiments (dataset, experiment)", "ON CONFLICT DO NOTHING", rows)
    }

    fn upsert_records(&mut self, dataset_id: &str, records: Vec<New>) -> Result<Upserted> {
        let dataset = need_dataset(&mut self.db, dataset_id)?;
        let sql = "SELECT schema, records FROM evaluation_datasets WHERE id = ?1";
        let (schema, there): (Option<String>, i64) = self.db.one(sql, bind![dataset])?;
        if there + records.len() as i64 > RECORDS {
            return Err(Error::invalid(format!("A dataset has at most {RECORDS} records.")));
        }
        let mut schema = Schema::read(schema.as_deref());
        let mut done = Upserted::default();
        let (mut user, mut bytes, time) = (None, 0, now());
        let mut records = records.into_iter();
        while bytes < WRITTEN_BYTES
            && let Some(New { record: new, hash, size }) = records.next()
        {
            let sql = format!("{RECORD} WHERE dataset = ?1 AND input_hash = ?2");
            let old: Option<EvaluationRecord> = self.db.optional(&sql, bind![dataset, &hash])?;
            let Some(old) = old else {
                schema.see(&new);
                user = author(&new).or(user);
                let sql = "INSERT INTO evaluation_records (record_id, dataset, input_hash, inputs, outputs, expectations, tags, source, created, updated,
                               created_by, updated_by, size) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9, ?10, ?10, ?11)";
                let author = author(&new);
                let values = bind![
                    format!("dr-{}", new_id()),
                    dataset,
                    &hash,
                    object(Some(new.inputs)),
                    new.outputs.as_ref().map(text),
                    object(new.expectations),
                    object(new.tags),
                    new.source.as_ref().map(text),
                    time,
                    author,
                    size as i64
                ];
                self.db.execute(sql, values)?;
                done.inserted += 1;
                bytes += size;
                continue;
            };
            let seen = new.clone();
            let merged = merge(old, new);
            let size = record_size(&merged);
            if size > RECORD_BYTES {
                // Those before it are written, and counted below.
                done.refused = Some(too_large());
                break;
            }
            schema.see(&seen);
            user = author(&seen).or(user);
            let sql = "UPDATE evaluation_records SET outputs = ?2, expectations = ?3, tags = ?4, updated = ?5, updated_by = ?6, size = ?7
                       WHERE record_id = ?1";
            let values = bind![
                &merged.id,
                merged.outputs.as_ref().map(text),
                object(merged.expectations),
                object(merged.tags),
                time,
                merged.updated_by,
                size as i64
            ];
            self.db.execute(sql, values)?;
            done.updated += 1;
            // What was there is read, and written again, however little is new of it.
            bytes += 2 * size;
        }
        done.rest = records.collect();
        let sql = "UPDATE evaluation_datasets SET schema = ?2, updated_by = COALESCE(?3, updated_by) WHERE id = ?1";
        self.db.execute(sql, bind![dataset, schema.text(), user])?;
        self.count_records(dataset, dataset_id, done.inserted)?;
        Ok(done)
    }

    /// Notes that a dataset has more records, or fewer, or others.
    fn count_records(&mut self, dataset: i64, dataset_id: &str, more: i64) -> Result<()> {
        let sql = "UPDATE evaluation_datasets SET records = records + ?2, updated = ?3, digest = ?4 WHERE id = ?1";
        self.db.execute(sql, bind![dataset, more, now(), digest(dataset_id)]).map(drop)
    }
}

/// The dataset's number.
fn need_dataset(db: &mut Db, dataset_id: &str) -> Result<i64> {
    let id: Option<i64> = db.optional("SELECT id FROM evaluation_datasets WHERE dataset_id = ?1", bind![dataset_id])?;
    id.ok_or_else(|| no_dataset(dataset_id))
}

/// How many of the first of some datasets fit into an answer: one at least.
fn fitting_datasets(db: &mut Db, ids: &[i64]) -> Result<usize> {
    if ids.len() <= 1 {
        return Ok(ids.len());
    }
    let list = in_list(&listed(ids));
    let text = format!(
        "SELECT d.id, COALESCE(octet_length(d.schema), 0) + (SELECT COALESCE(SUM(octet_length(t.key) + octet_length(t.value)), 0)
             FROM evaluation_dataset_tags t WHERE t.dataset = d.id) FROM evaluation_datasets d WHERE d.id IN {list}"
    );
    let sizes: HashMap<i64, i64> = Sql::new(text).rows(db)?.into_iter().collect();
    let mut left = ANSWERED;
    let fits = |id: &&i64| {
        left -= sizes.get(*id).copied().unwrap_or(0);
        left >= 0
    };
    Ok(ids.iter().take_while(fits).count().max(1))
}

/// Those that are there of some datasets, in their order.
fn datasets(db: &mut Db, ids: &[i64]) -> Result<Vec<EvaluationDataset>> {
    let mut found: HashMap<i64, EvaluationDataset> = HashMap::with_capacity(ids.len());
    for chunk in ids.chunks(CHUNK) {
        let columns = "id, dataset_id, name, digest, schema, records, created, updated, created_by, updated_by";
        each_of(db, &format!("SELECT {columns} FROM evaluation_datasets WHERE id"), chunk, "", |row| {
            found.insert(row.get(0)?, dataset(row)?);
            Ok(())
        })?;
        let sql = "SELECT dataset, key, value FROM evaluation_dataset_tags WHERE dataset";
        each_of(db, sql, chunk, " ORDER BY dataset, key", |row| {
            if let Some(dataset) = found.get_mut(&row.get(0)?) {
                dataset.tags.push(Pair { key: row.get(1)?, value: row.get(2)? });
            }
            Ok(())
        })?;
        let sql = "SELECT dataset, experiment FROM evaluation_dataset_experiments WHERE dataset";
        each_of(db, sql, chunk, " ORDER BY experiment", |row| {
            if let Some(dataset) = found.get_mut(&row.get(0)?) {
                dataset.experiments.push(row.get(1)?);
            }
            Ok(())
        })?;
    }
    Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
}

/// Records in portions that are written at once.
fn portions(records: Vec<EvaluationRecord>) -> Result<Vec<Vec<New>>> {
    // Without records the dataset has a new digest all the same.
    let (mut portions, mut bytes) = (vec![Vec::new()], 0);
    for record in records {
        let hash = input_hash(&record.inputs);
        let size = record_size(&record);
        if size > RECORD_BYTES {
            return Err(too_large());
        }
        bytes += size;
        if portions.last().is_some_and(|portion| portion.len() == WRITTEN || bytes > WRITTEN_BYTES && !portion.is_empty()) {
            portions.push(Vec::new());
            bytes = size;
        }
        if let Some(portion) = portions.last_mut() {
            portion.push(New { record, hash, size });
        }
    }
    Ok(portions)
}

/// Bytes of all texts.
pub(super) fn record_size(r: &EvaluationRecord) -> usize {
    let map = |map: &Option<Map<String, Value>>| object(map.clone()).map_or(0, |text| text.len());
    let value = |value: &Option<Value>| value.as_ref().map_or(0, |value| text(value).len());
    object(Some(r.inputs.clone())).map_or(0, |text| text.len()) + map(&r.expectations) + map(&r.tags) + value(&r.outputs) + value(&r.source)
}

fn too_large() -> Error {
    Error::invalid(format!("A record of a dataset has at most {RECORD_BYTES} bytes"))
}

fn few(experiments: usize) -> Result<()> {
    if experiments <= EXPERIMENTS {
        return Ok(());
    }
    Err(Error::invalid(format!("A dataset belongs to at most {EXPERIMENTS} experiments. Got {experiments}.")))
}

/// The record with what is new of it.
fn merge(old: EvaluationRecord, new: EvaluationRecord) -> EvaluationRecord {
    let both = |old: Option<Map<String, Value>>, new: Option<Map<String, Value>>| match (old, new) {
        (Some(mut old), Some(new)) => {
            old.extend(new);
            Some(old)
        }
        (old, new) => new.or(old),
    };
    EvaluationRecord {
        updated_by: author(&new).or(old.updated_by),
        outputs: new.outputs.or(old.outputs),
        expectations: both(old.expectations, new.expectations),
        tags: both(old.tags, new.tags),
        ..old
    }
}

/// What a record is known by in its dataset.
pub(super) fn input_hash(inputs: &Map<String, Value>) -> String {
    blake3::hash(Value::Object(inputs.clone()).to_string().as_bytes()).to_hex().to_string()
}

fn author(record: &EvaluationRecord) -> Option<String> {
    record.tags.as_ref()?.get(USER)?.as_str().map(str::to_string)
}

/// Which fields records have, and of which type each was first.
struct Schema {
    inputs: Map<String, Value>,
    outputs: Value,
    expectations: Map<String, Value>,
}

impl Schema {
    fn read(text: Option<&str>) -> Schema {
        let known: Value = text.and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default();
        let part = |name: &str| known.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
        let outputs = known.get("outputs").cloned().unwrap_or_else(|| json!({}));
        Schema { inputs: part("inputs"), outputs, expectations: part("expectations") }
    }

    fn see(&mut self, record: &EvaluationRecord) {
        note(&mut self.inputs, &record.inputs);
        note(&mut self.expectations, record.expectations.as_ref().unwrap_or(&Map::new()));
        match (&record.outputs, &mut self.outputs) {
            (Some(Value::Object(outputs)), Value::Object(known)) => note(known, outputs),
            (None | Some(Value::Object(_)), _) => {}
            (Some(other), Value::Object(known)) if known.is_empty() => self.outputs = json!(kind(other)),
            _ => {}
        }
    }

    /// In MLflow's order.
    fn text(&self) -> String {
        let part = |map: &Map<String, Value>| text(&Value::Object(map.clone()));
        let (inputs, outputs, expectations) = (part(&self.inputs), text(&self.outputs), part(&self.expectations));
        format!(r#"{{"inputs": {inputs}, "outputs": {outputs}, "expectations": {expectations}, "version": "1.0"}}"#)
    }
}

fn note(known: &mut Map<String, Value>, seen: &Map<String, Value>) {
    for (key, value) in seen {
        if known.len() < FIELDS && key.len() <= FIELD && !known.contains_key(key) {
            known.insert(key.clone(), json!(kind(value)));
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "float",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// As Python writes it.
fn text(value: &Value) -> String {
    AnyValue::of_json(value).map_or_else(|| value.to_string(), |value| value.to_json())
}

fn object(map: Option<Map<String, Value>>) -> Option<String> {
    map.map(|map| text(&Value::Object(map)))
}

/// Eight digits that change with time.
fn digest(name: &str) -> String {
    blake3::hash(format!("{name} {} {}", now(), new_id()).as_bytes()).to_hex()[..8].to_string()
}

fn no_dataset(dataset_id: &str) -> Error {
    Error::missing(format!("Evaluation dataset with id '{dataset_id}' not found"))
}

const RECORD: &str =
    "SELECT id, record_id, inputs, outputs, expectations, tags, source, created, updated, created_by, updated_by FROM evaluation_records";

/// A row of [`RECORD`].
impl FromRow for EvaluationRecord {
    fn from_row(row: &Row<'_>) -> Result<EvaluationRecord> {
        let value =
            |at: usize| -> Result<Option<Value>> { Ok(row.get::<Option<String>>(at)?.and_then(|text| serde_json::from_str(&text).ok())) };
        let map = |at: usize| -> Result<Option<Map<String, Value>>> {
            Ok(value(at)?.and_then(|v| if let Value::Object(map) = v { Some(map) } else { None }))
        };
        Ok(EvaluationRecord {
            id: row.get(1)?,
            inputs: map(2)?.unwrap_or_default(),
            outputs: value(3)?,
            expectations: map(4)?,
            tags: map(5)?,
            source: value(6)?,
            created: row.get(7)?,
            updated: row.get(8)?,
            created_by: row.get(9)?,
            updated_by: row.get(10)?,
        })
    }
}

fn dataset(row: &Row<'_>) -> Result<EvaluationDataset> {
    Ok(EvaluationDataset {
        id: row.get(1)?,
        name: row.get(2)?,
        digest: row.get(3)?,
        schema: row.get(4)?,
        records: row.get(5)?,
        created: row.get(6)?,
        updated: row.get(7)?,
        created_by: row.get(8)?,
        updated_by: row.get(9)?,
        ..EvaluationDataset::default()
    })
}

fn column(key: &str) -> &'static str {
    match key {
        "name" => "d.name",
        "created_time" => "d.created",
        "last_update_time" => "d.updated",
        "created_by" => "d.created_by",
        _ => "d.updated_by",
    }
}
