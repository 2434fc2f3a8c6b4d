//! What comes from a store of MLflow, written as it was there: ids, times and states are kept. What is there already stays, so that the same rows may come
//! again; a value that is not the same is counted, or taken where that is wished.
//!
//! One table exists only while an import is under way: of what it brought, to be counted at its end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::runs::stored;
use super::writer::Writer;
use super::{DEFAULT_EXPERIMENT, Tracking, own_location};
use crate::db::{Db, Dialect, Sql, Value, bind, definition};
use crate::error::{Error, ErrorCode, Result};
use crate::evaluation::EvaluationRecord;
use crate::import::{Clashes, Differences, Kind, Names, Owned, Place, Point, Read, Rows, Tally, own};
use crate::model::{Experiment, Metric, ModelVersion, Pair, RunInfo};
use crate::otel::AnyValue;
use crate::trace::{ReadySpan, TraceState, key};

const NOTHING: &str = "ON CONFLICT DO NOTHING";
const NO_EXPERIMENT: &str = "its experiment is not there";
const NO_RUN: &str = "its run is not there";
const NO_TRACE: &str = "its trace is not there";
const OTHER_MODEL: &str = "another one here has its name";
const NO_OWNER: &str = "what it belongs to is not there";
/// Ids that one statement looks for.
const AT_ONCE: usize = 500;
/// Clashes that a refusal names.
const NAMED: usize = 20;

/// Of tags and metadata: those of a trace that was not finished here become those of the source.
const GROWN: &str = "ON CONFLICT (trace, key) DO UPDATE SET value = excluded.value
                     WHERE EXISTS (SELECT 1 FROM import_seen WHERE kind = 'growing' AND id = excluded.trace)";
/// Metadata of traces that newer schemas keep with the trace itself: that comes first, and may be written in another way.
const GIVEN: [&str; 3] = [key::SESSION, key::TRACE_USAGE, key::TRACE_COST];

/// What is to come, as far as it is known at the beginning.
#[derive(Debug)]
pub(crate) struct Coming {
    pub experiments: Vec<Experiment>,
    /// Ids of runs, of those experiments that do not say when they were made.
    pub runs: HashMap<i64, Vec<String>>,
    pub models: Names,
    pub clashes: Clashes,
    pub differences: Differences,
}

/// Where things of the source are here.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Numbers of experiments by those of the source; one that is left out has none.
    pub experiments: HashMap<i64, i64>,
    /// Names of those registered models that are called otherwise here, or are left out.
    pub models: HashMap<String, Option<String>>,
    pub differences: Differences,
    /// Experiment 0 there and experiment 0 here are two, which become this one.
    pub is_merged: bool,
}

/// Who has artifacts here.
#[derive(Debug)]
pub(crate) struct Owner {
    /// Their address.
    pub artifacts: String,
    /// Nothing more is expected of it.
    pub is_finished: bool,
}

/// Rows that may be here with other values than in the source.
struct Changing {
    kind: Kind,
    table: &'static str,
    /// All that are given.
    columns: &'static str,
    keys: &'static [&'static str],
    /// What is compared, and what is taken with it.
    values: &'static [&'static str],
    with: &'static [&'static str],
}

const fn tags(kind: Kind, table: &'static str, columns: &'static str, keys: &'static [&'static str]) -> Changing {
    Changing { kind, table, columns, keys, values: &["value"], with: &[] }
}

impl Plan {
    fn model(&self, name: &str) -> Option<String> {
        self.models.get(name).cloned().unwrap_or_else(|| Some(name.to_string()))
    }
}

/// Whoever holds it brings a store of MLflow into a database that several processes have open.
const IMPORTING: i64 = 0x696d_706f_7274;
/// How long another import waits, and how often it looks.
const PATIENCE: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(200);

/// Keeps other imports out of a database.
#[derive(Debug)]
pub(crate) struct Alone(Option<Db>);

impl Drop for Alone {
    fn drop(&mut self) {
        let db = self.0.take();
        // Ending a connection to PostgreSQL blocks, which tasks must not.
        std::thread::spawn(move || drop(db));
    }
}

impl Tracking {
    /// Waits some seconds for another import to end. A folder keeps others out by itself.
    pub(crate) async fn lock_imports(&self) -> Result<Alone> {
        if !self.is_shared() {
            return Ok(Alone(None));
        }
        let source = self.source().clone();
        let locked = tokio::task::spawn_blocking(move || {
            let mut db = source.connect()?;
            let until = Instant::now() + PATIENCE;
            while !db.one::<bool>("SELECT pg_try_advisory_lock(?1)", bind![IMPORTING])? {
                if Instant::now() > until {
                    let busy = "another import into this database is under way\n  hint: run this one when it has ended";
                    return Err(Error::new(ErrorCode::TemporarilyUnavailable, busy));
                }
                std::thread::sleep(AGAIN);
            }
            Ok(Alone(Some(db)))
        });
        locked.await.map_err(|e| Error::internal(&e))?
    }

    /// Decides where everything goes, and stores the experiments.
    pub(crate) async fn begin_import(&self, coming: Coming) -> Result<(Plan, Tally)> {
        self.write(move |w| w.begin_import(coming)).await
    }

    /// Stores rows, and counts them.
    pub(crate) async fn bring(&self, rows: Vec<Rows>, mut tally: Tally, plan: Arc<Plan>) -> Result<Tally> {
        self.write(move |w| {
            for rows in rows {
                tally.read(rows.kind(), rows.len() as u64);
                w.bring(rows, &plan, &mut tally)?;
            }
            Ok(tally)
        })
        .await
    }

    /// Those runs, logged models or traces that are here.
    pub(crate) async fn owners(&self, kind: Kind, ids: Vec<String>) -> Result<HashMap<String, Owner>> {
        let select = match kind {
            Kind::Runs => "SELECT run_id, artifact_uri, status NOT IN ('RUNNING', 'SCHEDULED') FROM runs WHERE run_id IN (",
            Kind::LoggedModels => "SELECT model_id, artifact_uri, status <> 'LOGGED_MODEL_PENDING' FROM logged_models WHERE model_id IN (",
            _ => {
                "SELECT trace_id, COALESCE((SELECT value FROM trace_tags WHERE trace = t.id AND key = 'mlflow.artifactLocation'),
                     'mlflow-artifacts:/' || experiment || '/traces/' || trace_id || '/artifacts'), is_final FROM traces t WHERE trace_id IN ("
            }
        };
        self.write(move |w| {
            let mut owners = HashMap::with_capacity(ids.len());
            for ids in ids.chunks(AT_ONCE) {
                let mut sql = Sql::new(select);
                sql.bind_all(ids.iter().map(|of| of.to_string())).push(")");
                let found: Vec<(String, String, bool)> = sql.rows(&mut w.db)?;
                owners.extend(found.into_iter().map(|(id, artifacts, is_finished)| (id, Owner { artifacts, is_finished })));
            }
            Ok(owners)
        })
        .await
    }

    /// What of everything is here that the import brought, or found. It takes long where much is here: beside the writer, which servers wait for, and over a
    /// connection of its own, as readers have some seconds only.
    pub(crate) async fn imported(&self) -> Result<BTreeMap<Kind, u64>> {
        let source = self.source().clone();
        let counted = tokio::task::spawn_blocking(move || {
            let (mut db, mut counts) = (source.connect()?, BTreeMap::new());
            for (kind, table, owner, of) in COUNTED {
                let sql = format!("SELECT COUNT(*) FROM {table} WHERE {owner} IN (SELECT id FROM import_seen WHERE kind = '{of}')");
                let rows: i64 = db.one(&sql, bind![])?;
                counts.insert(kind, rows.unsigned_abs());
            }
            Ok(counts)
        });
        counted.await.map_err(|e| Error::internal(&e))?
    }

    /// Forgets what the import brought.
    pub(crate) async fn end_import(&self) -> Result<()> {
        self.write(|w| {
            w.db.execute("DROP TABLE IF EXISTS import_seen", bind![])?;
            Ok(())
        })
        .await
    }
}

/// Of each kind its table, the column that names its owner, and which owners count.
const COUNTED: [(Kind, &str, &str, &str); 31] = [
    (Kind::Experiments, "experiments", "id", "experiment"),
    (Kind::ExperimentTags, "experiment_tags", "experiment", "experiment"),
    (Kind::Runs, "runs", "id", "run"),
    (Kind::Params, "params", "run", "run"),
    (Kind::Tags, "tags", "run", "run"),
    (Kind::Points, "metrics", "run", "run"),
    (Kind::Datasets, "datasets", "experiment", "experiment"),
    (Kind::Inputs, "inputs", "run", "run"),
    (Kind::InputTags, "input_tags", "run", "run"),
    (Kind::RunModels, "run_models", "run", "run"),
    (Kind::LoggedModels, "logged_models", "id", "logged"),
    (Kind::LoggedParams, "logged_model_params", "model", "logged"),
    (Kind::LoggedTags, "logged_model_tags", "model", "logged"),
    (Kind::LoggedPoints, "logged_model_metrics", "model", "logged"),
    (Kind::Models, "registered_models", "id", "model"),
    (Kind::ModelTags, "registered_model_tags", "model", "model"),
    (Kind::Versions, "model_versions", "model", "model"),
    (Kind::VersionTags, "model_version_tags", "model", "model"),
    (Kind::Aliases, "registered_model_aliases", "model", "model"),
    (Kind::Traces, "traces", "id", "trace"),
    (Kind::TraceTags, "trace_tags", "trace", "trace"),
    (Kind::TraceMetadata, "trace_metadata", "trace", "trace"),
    (Kind::Spans, "spans", "trace", "trace"),
    (Kind::Assessments, "assessments", "trace", "trace"),
    (Kind::TraceRuns, "trace_runs", "trace", "trace"),
    (Kind::TracePrompts, "trace_prompts", "trace", "trace"),
    (Kind::EvaluationDatasets, "evaluation_datasets", "id", "evaluation"),
    (Kind::EvaluationTags, "evaluation_dataset_tags", "dataset", "evaluation"),
    (Kind::EvaluationExperiments, "evaluation_dataset_experiments", "dataset", "evaluation"),
    (Kind::EvaluationRecords, "evaluation_records", "dataset", "evaluation"),
    (Kind::Scorers, "scorer_versions", "scorer", "scorer"),
];

impl Writer {
    fn begin_import(&mut self, coming: Coming) -> Result<(Plan, Tally)> {
        let Coming { experiments, runs, models, clashes, differences } = coming;
        let (mut plan, mut tally) = (Plan { differences, ..Plan::default() }, Tally::default());
        let (mut refused, mut moved, mut made, mut matched) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let theirs: HashSet<String> = experiments.iter().map(|e| e.name.clone()).collect();
        // Names of those that come, and the one that experiment 0 gives up.
        let (mut names, mut freed) = (HashMap::new(), None);
        let (default, others): (Vec<_>, Vec<_>) = experiments.into_iter().partition(|e| e.id == DEFAULT_EXPERIMENT);
        for experiment in default {
            plan.experiments.insert(DEFAULT_EXPERIMENT, DEFAULT_EXPERIMENT);
            let sql = "SELECT created = ?2, name = 'Default' AND stage = 'active' AND created = updated
                           AND NOT EXISTS (SELECT 1 FROM experiment_tags WHERE experiment = ?1), name FROM experiments WHERE id = ?1";
            let (mut is_same, is_as_made, name): (bool, bool, String) = self.db.one(sql, bind![DEFAULT_EXPERIMENT, experiment.created])?;
            let is_unused = self.is_unused(DEFAULT_EXPERIMENT)?;
            if is_same && experiment.created <= 0 && !is_unused {
                let runs = runs.get(&DEFAULT_EXPERIMENT).map_or(&[][..], Vec::as_slice);
                is_same = self.experiment_of(runs)? == Some(DEFAULT_EXPERIMENT);
            }
            let holder = self.experiment_named(&experiment.name)?;
            // One that nobody used yet becomes what it was in the source.
            if !is_same && is_as_made && is_unused && holder.is_none_or(|id| id == DEFAULT_EXPERIMENT) {
                freed = (name != experiment.name).then_some(name);
                names.insert(experiment.name.clone(), DEFAULT_EXPERIMENT);
                made.push(experiment);
            } else if is_same {
                matched.push((experiment, DEFAULT_EXPERIMENT));
            } else {
                plan.is_merged = true;
                moved.push(format!(
                    "what is in experiment 0 there comes into experiment 0 here, which is another one: its name `{name}`, stage and tags stay"
                ));
            }
        }
        for experiment in others {
            let known: HashSet<i64> = matched.iter().map(|(_, here)| *here).collect();
            if let Some(here) = self.same_experiment(&experiment, runs.get(&experiment.id), &known)? {
                plan.experiments.insert(experiment.id, here);
                matched.push((experiment, here));
                continue;
            }
            let mut name = experiment.name.clone();
            let here = self.experiment_named(&name)?.filter(|_| freed.as_ref() != Some(&name));
            let holder = names.get(&name).map(|id| format!("experiment {id} there")).or(here.map(|id| format!("experiment {id} here")));
            if let Some(holder) = holder {
                match clashes {
                    Clashes::Refuse => refused.push(format!("experiment `{name}` ({} there) is {holder}", experiment.id)),
                    Clashes::Skip => {
                        moved.push(format!("experiment `{name}` ({} there) is left out: {holder} has this name", experiment.id))
                    }
                    Clashes::Rename => {}
                }
                if clashes != Clashes::Rename {
                    continue;
                }
                name = self.free_experiment_name(&name, &names, &theirs)?;
                moved.push(format!("experiment `{}` is `{name}` here: {holder} has its name", experiment.name));
            }
            names.insert(name.clone(), experiment.id);
            made.push(Experiment { name, ..experiment });
        }
        let model_names: HashSet<String> = models.iter().map(|(name, _)| name.clone()).collect();
        for (name, created) in models {
            let sql = "SELECT created FROM registered_models WHERE name = ?1";
            let there: Option<i64> = self.db.optional(sql, bind![&name])?;
            if there.is_none_or(|there| there == created) {
                continue;
            }
            match clashes {
                Clashes::Refuse => refused.push(format!("registered model `{name}` is another one here")),
                Clashes::Skip => {
                    moved.push(format!("registered model `{name}` is left out: another one here has this name"));
                    plan.models.insert(name, None);
                }
                Clashes::Rename => {
                    let here = self.free_model(&name, created, &model_names)?;
                    moved.push(format!("registered model `{name}` is `{here}` here: another one has its name"));
                    plan.models.insert(name, Some(here));
                }
            }
        }
        if !refused.is_empty() {
            let more = refused.len().saturating_sub(NAMED);
            refused.truncate(NAMED);
            let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
            return Err(Error::new(
                ErrorCode::ResourceAlreadyExists,
                format!(
                    "names that are taken here; nothing was brought over:\n  {}{more}\n  hint: rename them on one side, or choose `--clashes rename` or `--clashes skip`",
                    refused.join("\n  ")
                ),
            ));
        }
        // Of an import that was ended, traces are known whose spans may still be those of before.
        let sql = "CREATE TABLE IF NOT EXISTS import_seen (kind TEXT NOT NULL, id INTEGER NOT NULL, part INTEGER NOT NULL, PRIMARY KEY (kind, id, part)) WITHOUT ROWID;
                   DELETE FROM import_seen WHERE kind <> 'growing'";
        match self.db.dialect() {
            Dialect::Sqlite => self.db.script(sql)?,
            Dialect::Postgres => self.db.script(&definition(sql))?,
        }
        for experiment in made {
            self.bring_experiment(experiment, &mut plan, &mut moved)?;
        }
        for (experiment, here) in matched {
            self.compare_experiment(&experiment, here, &plan, &mut tally)?;
        }
        let seen: Vec<(i64, i64)> = plan.experiments.values().map(|id| (*id, 0)).collect();
        self.see("experiment", &seen)?;
        for note in moved {
            tally.notes.insert(note, 1);
        }
        Ok((plan, tally))
    }

    /// The number of an experiment that came from the source before, but for those that another one is known to be: by its number or name, and the moment it
    /// was made at. Where that is not known (stores of MLflow 1), by a run of it, whatever its name is by now; one in which nothing lies may be it as well.
    fn same_experiment(&mut self, of: &Experiment, runs: Option<&Vec<String>>, known: &HashSet<i64>) -> Result<Option<i64>> {
        let is_other = |id: &i64| *id != DEFAULT_EXPERIMENT && !known.contains(id);
        if of.created <= 0
            && let Some(here) = self.experiment_of(runs.map_or(&[], Vec::as_slice))?.filter(is_other)
        {
            return Ok(Some(here));
        }
        let sql = "SELECT id FROM experiments WHERE created = ?3 AND (id = ?1 AND ?3 > 0 OR name = ?2 OR name LIKE ?4 ESCAPE '\\') ORDER BY id = ?1 DESC, id";
        let like = format!("{} (imported%)", of.name.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_"));
        let found: Vec<i64> = self.db.rows(sql, bind![of.id, &of.name, of.created, like])?;
        for id in found.into_iter().filter(is_other) {
            if of.created > 0 || self.is_unused(id)? {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    fn is_unused(&mut self, experiment: i64) -> Result<bool> {
        let sql = "SELECT NOT EXISTS (SELECT 1 FROM runs WHERE experiment = ?1) AND NOT EXISTS (SELECT 1 FROM traces WHERE experiment = ?1)
                       AND NOT EXISTS (SELECT 1 FROM logged_models WHERE experiment = ?1)";
        self.db.one(sql, bind![experiment])
    }

    /// The experiment in which most of these runs lie.
    fn experiment_of(&mut self, runs: &[String]) -> Result<Option<i64>> {
        let mut found: BTreeMap<i64, usize> = BTreeMap::new();
        for experiment in self.experiments_of(runs.iter().map(String::as_str))?.into_values() {
            *found.entry(experiment).or_default() += 1;
        }
        Ok(found.into_iter().max_by_key(|(_, runs)| *runs).map(|(experiment, _)| experiment))
    }

    /// In which experiments those runs lie that are here.
    fn experiments_of<'a>(&mut self, runs: impl Iterator<Item = &'a str>) -> Result<HashMap<String, i64>> {
        let (runs, mut found): (Vec<&str>, _) = (runs.collect(), HashMap::new());
        for runs in runs.chunks(AT_ONCE) {
            let mut sql = Sql::new("SELECT run_id, experiment FROM runs WHERE run_id IN (");
            sql.bind_all(runs.iter().map(|of| of.to_string())).push(")");
            found.extend(sql.rows::<(String, i64)>(&mut self.db)?);
        }
        Ok(found)
    }

    fn experiment_named(&mut self, name: &str) -> Result<Option<i64>> {
        let sql = "SELECT id FROM experiments WHERE name = ?1";
        self.db.optional(sql, bind![name])
    }

    /// A name that none here has, none in the source, and none of those that come.
    fn free_experiment_name(&mut self, name: &str, names: &HashMap<String, i64>, theirs: &HashSet<String>) -> Result<String> {
        for renamed in renamed(name) {
            if !names.contains_key(&renamed) && !theirs.contains(&renamed) && self.experiment_named(&renamed)?.is_none() {
                return Ok(renamed);
            }
        }
        Err(Error::invalid(format!("no name like `{name}` is free")))
    }

    /// An experiment that was here before may have another name or stage than in the source.
    fn compare_experiment(&mut self, of: &Experiment, here: i64, plan: &Plan, tally: &mut Tally) -> Result<()> {
        let sql = "SELECT name, stage FROM experiments WHERE id = ?1";
        let (name, stage): (String, String) = self.db.one(sql, bind![here])?;
        // A name that was given because its own was taken is as it should be.
        let is_named = name == of.name || name.starts_with(&format!("{} (imported", of.name));
        if is_named && stage == of.stage.as_str() {
            return Ok(());
        }
        let is_free = is_named || self.experiment_named(&of.name)?.is_none();
        if plan.differences == Differences::Keep || !is_free {
            tally.differ(Kind::Experiments, 1);
            return Ok(());
        }
        let sql = "UPDATE experiments SET name = ?2, stage = ?3, updated = ?4 WHERE id = ?1";
        self.db.execute(sql, bind![here, if is_named { &name } else { &of.name }, of.stage.as_str(), of.updated])?;
        tally.take(Kind::Experiments, 1);
        Ok(())
    }

    /// The name of a model that came before or is to come, which is not its own, and none of the source's.
    fn free_model(&mut self, name: &str, created: i64, theirs: &HashSet<String>) -> Result<String> {
        for renamed in renamed(name).filter(|renamed| !theirs.contains(renamed)) {
            let sql = "SELECT created FROM registered_models WHERE name = ?1";
            let there: Option<i64> = self.db.optional(sql, bind![&renamed])?;
            if there.is_none_or(|there| there == created) {
                return Ok(renamed);
            }
        }
        Err(Error::invalid(format!("no name like `{name}` is free")))
    }

    fn bring_experiment(&mut self, of: Experiment, plan: &mut Plan, notes: &mut Vec<String>) -> Result<()> {
        let moves = Place::read(&of.artifact_location).moves();
        let location = |id: i64| if moves { own_location(id) } else { of.artifact_location.clone() };
        if of.id == DEFAULT_EXPERIMENT {
            let sql = "UPDATE experiments SET name = ?2, artifact_location = ?3, stage = ?4, created = ?5, updated = ?6 WHERE id = ?1";
            self.db.execute(sql, bind![of.id, &of.name, location(of.id), of.stage.as_str(), of.created, of.updated])?;
            return Ok(());
        }
        let taken: Option<String> = self.db.optional("SELECT name FROM experiments WHERE id = ?1", bind![of.id])?;
        let id = match taken {
            None => of.id,
            Some(name) => {
                let id: i64 = self.db.one("SELECT MAX(id) + 1 FROM experiments", bind![])?;
                notes.push(format!("experiment {} (`{}`) is experiment {id} here: `{name}` has its number", of.id, of.name));
                id
            }
        };
        let sql = "INSERT INTO experiments (id, name, artifact_location, stage, created, updated) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        self.db.execute(sql, bind![id, &of.name, location(id), of.stage.as_str(), of.created, of.updated])?;
        plan.experiments.insert(of.id, id);
        Ok(())
    }

    /// Notes what belongs to the import: numbers, and those of parts.
    fn see(&mut self, kind: &'static str, ids: &[(i64, i64)]) -> Result<()> {
        let rows: Vec<_> = ids.iter().map(|(id, part)| [Value::from(kind), Value::from(*id), Value::from(*part)]).collect();
        self.db.insert("INSERT INTO import_seen (kind, id, part)", NOTHING, rows)
    }

    fn see_all(&mut self, kind: &'static str, ids: HashMap<String, i64>) -> Result<()> {
        self.see(kind, &ids.into_values().map(|id| (id, 0)).collect::<Vec<_>>())
    }

    /// Those versions of registered models that came, or are the same here.
    fn versions_seen(&mut self, models: &HashMap<String, i64>) -> Result<HashSet<(i64, i64)>> {
        let mut seen = HashSet::new();
        for model in models.values().collect::<HashSet<_>>() {
            let sql = "SELECT id, part FROM import_seen WHERE kind = 'version' AND id = ?1";
            seen.extend(self.db.rows::<(i64, i64)>(sql, bind![model])?);
        }
        Ok(seen)
    }

    /// Inserts rows; of those that are here with other values, these are counted or taken.
    fn put<const N: usize>(
        &mut self,
        of: &Changing,
        rows: &[[Value<'_>; N]],
        conflict: &str,
        (plan, tally): (&Plan, &mut Tally),
    ) -> Result<()> {
        self.db.insert(&format!("INSERT INTO {} ({})", of.table, of.columns), conflict, rows.iter().cloned())?;
        let list = |columns: &[&str], of: &str| columns.iter().map(|c| format!("{of}.{c}")).collect::<Vec<_>>().join(", ");
        let keys = of.keys.iter().map(|c| format!("t.{c} = s.{c}")).collect::<Vec<_>>().join(" AND ");
        let differ = format!("{keys} AND ({}) IS DISTINCT FROM ({})", list(of.values, "t"), list(of.values, "s"));
        let set = of.values.iter().chain(of.with).map(|c| format!("{c} = s.{c}")).collect::<Vec<_>>().join(", ");
        for some in rows.chunks(AT_ONCE) {
            let mut sql = Sql::new(format!("WITH s ({}) AS (VALUES ", of.columns));
            if self.db.dialect() == Dialect::Postgres {
                // Says of which types they are; without keys, it is like no row.
                let none = of.columns.split(", ").map(|column| format!("(NULL::{}).{column}", of.table)).collect::<Vec<_>>();
                sql.push(format!("({}), ", none.join(", ")));
            }
            for (at, row) in some.iter().enumerate() {
                sql.push(if at == 0 { "(" } else { ", (" }).bind_all(row.iter().cloned().map(Value::into_owned)).push(")");
            }
            if plan.differences == Differences::Keep {
                // Crossed, so that each row that came looks for its own.
                sql.push(format!(") SELECT COUNT(*) FROM s CROSS JOIN {} AS t WHERE {differ}", of.table));
                tally.differ(of.kind, sql.optional::<i64>(&mut self.db)?.unwrap_or(0).unsigned_abs());
            } else {
                sql.push(format!(") UPDATE {} AS t SET {set} FROM s WHERE {differ}", of.table));
                tally.take(of.kind, sql.execute(&mut self.db)?);
            }
        }
        Ok(())
    }

    /// The numbers of those of `names` that are there.
    fn numbers<'a>(&mut self, table: &str, column: &str, names: impl Iterator<Item = &'a str>) -> Result<HashMap<String, i64>> {
        let names: Vec<&str> = names.collect::<HashSet<&str>>().into_iter().collect();
        let mut found = HashMap::with_capacity(names.len());
        for names in names.chunks(AT_ONCE) {
            let mut sql = Sql::new(format!("SELECT {column}, id FROM {table} WHERE {column} IN ("));
            sql.bind_all(names.iter().map(|of| of.to_string())).push(")");
            found.extend(sql.rows::<(String, i64)>(&mut self.db)?);
        }
        Ok(found)
    }

    fn bring(&mut self, rows: Rows, plan: &Plan, tally: &mut Tally) -> Result<()> {
        match rows {
            Rows::Left(kind, why, count) => {
                tally.read(kind, count);
                tally.left(kind, &why, count);
                Ok(())
            }
            Rows::Unreadable(kind, path, why) => {
                tally.unread(kind, &path, &why);
                Ok(())
            }
            Rows::Damaged(kind, count) => {
                tally.damaged(kind, count);
                Ok(())
            }
            Rows::Merged(kind, owner, why, count) => {
                let (table, column) = if kind == Kind::Points { ("runs", "run_id") } else { ("logged_models", "model_id") };
                // Rows of an owner that is not here were left out already.
                if count > 0 && !self.numbers(table, column, std::iter::once(owner.as_str()))?.is_empty() {
                    tally.left(kind, why, count);
                }
                Ok(())
            }
            Rows::Runs(runs) => self.bring_runs(runs, plan, tally),
            Rows::Pairs(kind, pairs) => self.bring_pairs(kind, pairs, plan, tally),
            Rows::Points(points) => self.bring_points(points, tally),
            Rows::Datasets(datasets) => {
                let here = |(of, dataset)| Some((*plan.experiments.get(&of)?, dataset));
                let all = datasets.len();
                let datasets: Vec<_> = datasets.into_iter().filter_map(here).collect();
                tally.left(Kind::Datasets, NO_EXPERIMENT, (all - datasets.len()) as u64);
                let into = "INSERT INTO datasets (experiment, name, digest, source_type, source, schema, profile)";
                let rows: Vec<_> = datasets
                    .iter()
                    .map(|(experiment, d)| {
                        [
                            Value::from(*experiment),
                            Value::from(&d.name),
                            Value::from(&d.digest),
                            Value::from(&d.source_type),
                            Value::from(&d.source),
                            Value::from(&d.schema),
                            Value::from(&d.profile),
                        ]
                    })
                    .collect();
                self.db.insert(into, NOTHING, rows)
            }
            Rows::Inputs(inputs) => {
                let mut here = Vec::with_capacity(inputs.len());
                for (place, ()) in self.inputs(inputs.into_iter().map(|input| (input, ())), Kind::Inputs, plan, tally)? {
                    here.push(place);
                }
                let rows: Vec<_> = here.iter().map(|(run, dataset)| [Value::from(*run), Value::from(*dataset)]).collect();
                self.db.insert("INSERT INTO inputs (run, dataset)", NOTHING, rows)
            }
            Rows::InputTags(of) => {
                let here = self.inputs(of.into_iter(), Kind::InputTags, plan, tally)?;
                let rows: Vec<_> = here
                    .iter()
                    .map(|((run, dataset), tag)| [Value::from(*run), Value::from(*dataset), Value::from(&tag.key), Value::from(&tag.value)])
                    .collect();
                let of = tags(Kind::InputTags, "input_tags", "run, dataset, key, value", &["run", "dataset", "key"]);
                self.put(&of, &rows, NOTHING, (plan, tally))
            }
            Rows::RunModels(models) => {
                let runs = self.numbers("runs", "run_id", models.iter().map(|(run, _)| run.as_str()))?;
                let here = known(models, |(run, _)| runs.get(run).copied(), Kind::RunModels, NO_RUN, tally);
                let rows: Vec<_> = here
                    .iter()
                    .map(|(run, (_, model))| {
                        [Value::from(*run), Value::from(i64::from(model.is_output)), Value::from(&model.model_id), Value::from(model.step)]
                    })
                    .collect();
                self.db.insert("INSERT INTO run_models (run, is_output, model_id, step)", NOTHING, rows)
            }
            Rows::LoggedModels(models) => {
                let here = known(models, |(m, _)| plan.experiments.get(&m.experiment).copied(), Kind::LoggedModels, NO_EXPERIMENT, tally);
                let here = first_of_each(here, |(_, (model, _))| model.id.clone());
                let of = Changing {
                    kind: Kind::LoggedModels,
                    table: "logged_models",
                    columns: "model_id, experiment, name, model_type, source_run_id, status, stage, created, updated, artifact_uri",
                    keys: &["model_id"],
                    values: &["name", "status", "stage"],
                    with: &["updated"],
                };
                let rows: Vec<_> = here
                    .iter()
                    .map(|(experiment, (m, stage))| {
                        let layout = format!("{experiment}/models/{}/artifacts", m.id);
                        [
                            Value::from(&m.id),
                            Value::from(*experiment),
                            Value::from(&m.name),
                            Value::from(&m.model_type),
                            Value::from(&m.source_run),
                            Value::from(m.status.as_str()),
                            Value::from(stage.as_str()),
                            Value::from(m.created),
                            Value::from(m.updated),
                            Value::from(moved(&m.artifact_uri, &layout)),
                        ]
                    })
                    .collect();
                // A model whose files were on their way may be ready by now.
                let conflict = "ON CONFLICT (model_id) DO UPDATE SET status = excluded.status, updated = excluded.updated
                                WHERE logged_models.status = 'LOGGED_MODEL_PENDING'";
                self.put(&of, &rows, conflict, (plan, tally))?;
                let ids = self.numbers("logged_models", "model_id", here.iter().map(|(_, (m, _))| m.id.as_str()))?;
                self.see_all("logged", ids)
            }
            Rows::LoggedPoints(points) => {
                let id = |metric: &Metric| metric.model_id.clone().unwrap_or_default();
                let names: Vec<String> = points.iter().map(|(_, metric)| id(metric)).collect();
                let models = self.numbers("logged_models", "model_id", names.iter().map(String::as_str))?;
                for (model, (run, metric)) in known(points, |(_, m)| models.get(&id(m)).copied(), Kind::LoggedPoints, NO_OWNER, tally) {
                    self.log_model_metrics(&run, &[(model, metric)])?;
                }
                Ok(())
            }
            Rows::Models(models) => {
                let mut here = known(models, |m| plan.model(&m.name), Kind::Models, OTHER_MODEL, tally);
                for at in (0..here.len()).rev() {
                    let sql = "SELECT created FROM registered_models WHERE name = ?1";
                    let there: Option<i64> = self.db.optional(sql, bind![&here[at].0])?;
                    if there.is_some_and(|there| there != here[at].1.created) {
                        // One that was made there after the names were compared.
                        here.swap_remove(at);
                        tally.left(Kind::Models, OTHER_MODEL, 1);
                    }
                }
                let rows: Vec<_> = here
                    .iter()
                    .map(|(name, m)| [Value::from(name), Value::from(&m.description), Value::from(m.created), Value::from(m.updated)])
                    .collect();
                let of = Changing {
                    kind: Kind::Models,
                    table: "registered_models",
                    columns: "name, description, created, updated",
                    keys: &["name"],
                    values: &["description"],
                    with: &["updated"],
                };
                self.put(&of, &rows, NOTHING, (plan, tally))?;
                let ids = self.numbers("registered_models", "name", here.iter().map(|(name, _)| name.as_str()))?;
                self.see_all("model", ids)
            }
            Rows::Versions(versions) => self.bring_versions(versions, plan, tally),
            Rows::VersionTags(pairs) => {
                let models = self.models_of(pairs.iter().map(|(name, ..)| name.as_str()), plan)?;
                let seen = self.versions_seen(&models)?;
                let version = |name: &str, version: i64| models.get(name).copied().filter(|model| seen.contains(&(*model, version)));
                let here = known(pairs, |(name, number, _)| version(name, *number), Kind::VersionTags, NO_OWNER, tally);
                let rows: Vec<_> = here
                    .iter()
                    .map(|(model, (_, version, tag))| {
                        [Value::from(*model), Value::from(*version), Value::from(&tag.key), Value::from(&tag.value)]
                    })
                    .collect();
                let of = tags(Kind::VersionTags, "model_version_tags", "model, version, key, value", &["model", "version", "key"]);
                self.put(&of, &rows, NOTHING, (plan, tally))
            }
            Rows::Aliases(aliases) => {
                let models = self.models_of(aliases.iter().map(|(name, ..)| name.as_str()), plan)?;
                let seen = self.versions_seen(&models)?;
                let version = |name: &str, version: i64| models.get(name).copied().filter(|model| seen.contains(&(*model, version)));
                let here = known(aliases, |(name, _, number)| version(name, *number), Kind::Aliases, NO_OWNER, tally);
                let rows: Vec<_> = here
                    .iter()
                    .map(|(model, (_, alias, version))| [Value::from(*model), Value::from(alias), Value::from(*version)])
                    .collect();
                let of = Changing {
                    kind: Kind::Aliases,
                    table: "registered_model_aliases",
                    columns: "model, alias, version",
                    keys: &["model", "alias"],
                    values: &["version"],
                    with: &[],
                };
                self.put(&of, &rows, NOTHING, (plan, tally))
            }
            Rows::Traces(traces) => {
                let here = known(traces, |t| plan.experiments.get(&t.experiment).copied(), Kind::Traces, NO_EXPERIMENT, tally);
                let here = first_of_each(here, |(_, trace)| trace.id.clone());
                let into = "INSERT INTO traces (trace_id, experiment, name, status, start_time, duration, client_request_id, request_preview, response_preview,
                                is_final, spans, bytes)";
                let rows: Vec<_> = here
                    .iter()
                    .map(|(experiment, t)| {
                        let name = t.tags.iter().find(|tag| tag.key == key::NAME).map(|tag| tag.value.clone());
                        [
                            Value::from(&t.id),
                            Value::from(*experiment),
                            Value::from(name),
                            Value::from(t.state.as_str()),
                            Value::from(t.start_time),
                            Value::from(t.duration),
                            Value::from(&t.client_request_id),
                            Value::from(&t.request_preview),
                            Value::from(&t.response_preview),
                            Value::from(t.state != TraceState::InProgress),
                            Value::from(0i64),
                            Value::from(0i64),
                        ]
                    })
                    .collect();
                let conflict = "ON CONFLICT (trace_id) DO UPDATE SET status = excluded.status, duration = excluded.duration, is_final = excluded.is_final,
                                    request_preview = excluded.request_preview, response_preview = excluded.response_preview,
                                    name = COALESCE(excluded.name, traces.name), start_time = excluded.start_time,
                                    client_request_id = COALESCE(excluded.client_request_id, traces.client_request_id)
                                WHERE traces.status = 'IN_PROGRESS'";
                let before = self.numbers("traces", "trace_id", here.iter().map(|(_, t)| t.id.as_str()))?;
                for trace in before.into_values() {
                    let sql = "INSERT INTO import_seen (kind, id, part) SELECT 'growing', id, 0 FROM traces WHERE id = ?1 AND is_final = 0 ON CONFLICT DO NOTHING";
                    self.db.execute(sql, bind![trace])?;
                }
                self.db.insert(into, conflict, rows)?;
                let ids = self.numbers("traces", "trace_id", here.iter().map(|(_, t)| t.id.as_str()))?;
                // What newer schemas keep with the trace itself comes before its rows, and stands.
                let numbered = || here.iter().filter_map(|(_, t)| Some((*ids.get(&t.id)?, t)));
                let names = numbered().flat_map(|(id, t)| t.tags.iter().filter(|tag| tag.key == key::NAME).map(move |tag| (id, tag)));
                let names: Vec<(i64, &Pair)> = names.collect();
                let metadata: Vec<(i64, &Pair)> = numbered().flat_map(|(id, t)| t.metadata.iter().map(move |pair| (id, pair))).collect();
                let row = |(trace, pair): &(i64, &Pair)| [(*trace).into(), pair.key.clone().into(), pair.value.clone().into()];
                self.db.insert("INSERT INTO trace_metadata (trace, key, value)", GROWN, metadata.iter().map(row))?;
                let given = |(trace, pair): &(i64, &Pair)| Some((*trace, GIVEN.iter().position(|key| *key == pair.key)? as i64));
                let given: Vec<(i64, i64)> = metadata.iter().filter_map(given).collect();
                self.see("given", &given)?;
                let of = tags(Kind::TraceTags, "trace_tags", "trace, key, value", &["trace", "key"]);
                self.put(&of, &names.iter().map(row).collect::<Vec<_>>(), GROWN, (plan, tally))?;
                if plan.differences == Differences::Take {
                    for (trace, name) in names {
                        let sql = "UPDATE traces SET name = ?2 WHERE id = ?1 AND name IS DISTINCT FROM ?2";
                        self.db.execute(sql, bind![trace, &name.value])?;
                    }
                }
                self.see_all("trace", ids)
            }
            Rows::Spans(spans) => self.bring_spans(spans, tally),
            Rows::FileSpans(trace, spans) | Rows::ArchivedSpans(trace, spans) => {
                let sql = "INSERT INTO trace_tags (trace, key, value) SELECT id, ?2, 'TRACKING_STORE' FROM traces WHERE trace_id = ?1
                           ON CONFLICT (trace, key) DO UPDATE SET value = excluded.value";
                self.db.execute(sql, bind![&trace, key::SPANS])?;
                self.bring_spans(spans.into_iter().map(|span| (trace.clone(), Some(span))).collect(), tally)
            }
            Rows::Assessments(assessments) => {
                let traces = self.numbers("traces", "trace_id", assessments.iter().map(|a| a.trace.as_str()))?;
                for (trace, one) in known(assessments, |a| traces.get(&a.trace).copied(), Kind::Assessments, NO_TRACE, tally) {
                    let sql = "SELECT updated = ?2 AND is_valid = ?3 FROM assessments WHERE assessment_id = ?1";
                    let is_same: Option<bool> = self.db.optional(sql, bind![&one.id, one.updated, one.is_valid])?;
                    match is_same {
                        Some(true) => continue,
                        Some(false) if plan.differences == Differences::Keep => {
                            tally.differ(Kind::Assessments, 1);
                            continue;
                        }
                        Some(false) => tally.take(Kind::Assessments, 1),
                        None => {}
                    }
                    self.put_assessment(trace, &one)?;
                }
                Ok(())
            }
            Rows::TraceRuns(links) => self.bring_links("trace_runs", "run_id", links, Kind::TraceRuns, tally),
            Rows::TracePrompts(links) => self.bring_links("trace_prompts", "prompt", links, Kind::TracePrompts, tally),
            Rows::EvaluationDatasets(datasets) => {
                let of = Changing {
                    kind: Kind::EvaluationDatasets,
                    table: "evaluation_datasets",
                    columns: "dataset_id, name, digest, schema, records, created, updated, created_by, updated_by",
                    keys: &["dataset_id"],
                    values: &["name", "digest", "schema"],
                    with: &["updated", "updated_by"],
                };
                let rows: Vec<_> = datasets
                    .iter()
                    .map(|d| {
                        [
                            Value::from(&d.id),
                            Value::from(&d.name),
                            Value::from(&d.digest),
                            Value::from(&d.schema),
                            Value::from(0i64),
                            Value::from(d.created),
                            Value::from(d.updated),
                            Value::from(&d.created_by),
                            Value::from(&d.updated_by),
                        ]
                    })
                    .collect();
                self.put(&of, &rows, NOTHING, (plan, tally))?;
                let ids = self.numbers("evaluation_datasets", "dataset_id", datasets.iter().map(|d| d.id.as_str()))?;
                self.see_all("evaluation", ids)
            }
            Rows::EvaluationExperiments(links) => {
                let datasets = self.numbers("evaluation_datasets", "dataset_id", links.iter().map(|(id, _)| id.as_str()))?;
                let place = |(id, experiment): &(String, i64)| Some((*datasets.get(id)?, *plan.experiments.get(experiment)?));
                let here = known(links, place, Kind::EvaluationExperiments, NO_OWNER, tally);
                let rows: Vec<_> =
                    here.iter().map(|((dataset, experiment), _)| [Value::from(*dataset), Value::from(*experiment)]).collect();
                let into = "INSERT INTO evaluation_dataset_experiments (dataset, experiment)";
                self.db.insert(into, NOTHING, rows)
            }
            Rows::EvaluationRecords(records) => self.bring_records(records, plan, tally),
            Rows::Scorers(scorers) => {
                for (experiment, s) in known(scorers, |s| plan.experiments.get(&s.experiment).copied(), Kind::Scorers, NO_EXPERIMENT, tally)
                {
                    let sql = "INSERT INTO scorers (scorer_id, experiment, name) VALUES (?1, ?2, ?3)
                               ON CONFLICT (experiment, name) DO UPDATE SET name = excluded.name RETURNING id";
                    let id: i64 = self.db.one(sql, bind![&s.id, experiment, &s.name])?;
                    let sql =
                        "INSERT INTO scorer_versions (scorer, version, serialized, created) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
                    self.db.execute(sql, bind![id, s.version, &s.serialized, s.created])?;
                    self.see("scorer", &[(id, 0)])?;
                }
                Ok(())
            }
        }
    }

    fn bring_runs(&mut self, runs: Vec<RunInfo>, plan: &Plan, tally: &mut Tally) -> Result<()> {
        let here = known(runs, |run| plan.experiments.get(&run.experiment).copied(), Kind::Runs, NO_EXPERIMENT, tally);
        let here = first_of_each(here, |(_, run)| run.id.clone());
        let before = self.experiments_of(here.iter().map(|(_, run)| run.id.as_str()))?;
        let elsewhere = here.iter().filter(|(experiment, run)| before.get(&run.id).is_some_and(|before| before != experiment));
        if plan.differences == Differences::Take {
            // A run is not moved.
            tally.differ(Kind::Runs, elsewhere.count() as u64);
        }
        let of = Changing {
            kind: Kind::Runs,
            table: "runs",
            columns: "run_id, experiment, name, user_id, status, stage, start_time, end_time, artifact_uri",
            keys: &["run_id"],
            values: match plan.differences {
                Differences::Keep => &["name", "status", "stage", "end_time", "experiment"],
                Differences::Take => &["name", "status", "stage", "end_time"],
            },
            with: &[],
        };
        let rows: Vec<_> = here
            .iter()
            .map(|(experiment, run)| {
                [
                    Value::from(&run.id),
                    Value::from(*experiment),
                    Value::from(&run.name),
                    Value::from(&run.user),
                    Value::from(run.status.as_str()),
                    Value::from(run.stage.as_str()),
                    Value::from(run.start_time),
                    Value::from(run.end_time),
                    Value::from(moved(&run.artifact_uri, &format!("{experiment}/{}/artifacts", run.id))),
                ]
            })
            .collect();
        // A run that was at work when it came the first time may have ended.
        let conflict = "ON CONFLICT (run_id) DO UPDATE SET status = excluded.status, end_time = excluded.end_time
                        WHERE runs.status IN ('RUNNING', 'SCHEDULED')";
        self.put(&of, &rows, conflict, (plan, tally))?;
        if plan.differences == Differences::Take {
            // What is remembered of runs is no longer true where their stage was taken.
            self.forget();
        }
        let ids = self.numbers("runs", "run_id", here.iter().map(|(_, run)| run.id.as_str()))?;
        self.see_all("run", ids)
    }

    fn bring_pairs(&mut self, kind: Kind, mut pairs: Vec<Owned>, plan: &Plan, tally: &mut Tally) -> Result<()> {
        if kind == Kind::ExperimentTags && plan.is_merged {
            let (all, merged) = (pairs.len(), DEFAULT_EXPERIMENT.to_string());
            pairs.retain(|pair| pair.owner != merged);
            tally.left(kind, "experiment 0 here is another one", (all - pairs.len()) as u64);
        }
        let owners = || pairs.iter().map(|pair| pair.owner.as_str());
        let number = |owner: &str| Some((owner.to_string(), *plan.experiments.get(&owner.parse().ok()?)?));
        let (table, columns, keys, owners): (_, _, &'static [&'static str], _) = match kind {
            Kind::Params => ("params", "run, key, value", &["run", "key"], self.numbers("runs", "run_id", owners())?),
            Kind::Tags => ("tags", "run, key, value", &["run", "key"], self.numbers("runs", "run_id", owners())?),
            Kind::LoggedParams | Kind::LoggedTags => {
                let table = if kind == Kind::LoggedTags { "logged_model_tags" } else { "logged_model_params" };
                (table, "model, key, value", &["model", "key"], self.numbers("logged_models", "model_id", owners())?)
            }
            Kind::ModelTags => ("registered_model_tags", "model, key, value", &["model", "key"], self.models_of(owners(), plan)?),
            Kind::TraceTags | Kind::TraceMetadata => {
                let table = if kind == Kind::TraceTags { "trace_tags" } else { "trace_metadata" };
                (table, "trace, key, value", &["trace", "key"], self.numbers("traces", "trace_id", owners())?)
            }
            Kind::EvaluationTags => {
                let numbers = self.numbers("evaluation_datasets", "dataset_id", owners())?;
                ("evaluation_dataset_tags", "dataset, key, value", &["dataset", "key"], numbers)
            }
            _ => ("experiment_tags", "experiment, key, value", &["experiment", "key"], owners().filter_map(number).collect()),
        };
        let of = tags(kind, table, columns, keys);
        let mut here = known(pairs, |pair| owners.get(&pair.owner).copied(), kind, NO_OWNER, tally);
        if matches!(kind, Kind::Params | Kind::Tags) {
            let mut rows = Vec::with_capacity(here.len());
            for (run, Owned { pair, .. }) in here {
                rows.push((run, self.key(&pair.key)?, pair.value));
            }
            let rows: Vec<_> = rows.iter().map(|(run, key, value)| [Value::from(*run), Value::from(*key), Value::from(value)]).collect();
            return self.put(&of, &rows, NOTHING, (plan, tally));
        }
        fn row((owner, Owned { pair, .. }): &(i64, Owned)) -> [Value<'_>; 3] {
            [owner.into(), Value::from(&pair.key), Value::from(&pair.value)]
        }
        if matches!(kind, Kind::TraceTags | Kind::TraceMetadata) {
            for (trace, owned) in here.iter_mut().filter(|(_, owned)| owned.pair.key == key::ARTIFACTS) {
                let sql = "SELECT experiment FROM traces WHERE id = ?1";
                let experiment: i64 = self.db.one(sql, bind![*trace])?;
                owned.pair.value = moved(&owned.pair.value, &format!("{experiment}/traces/{}/artifacts", owned.owner));
            }
            let (mut settled, mut others) = (Vec::new(), Vec::with_capacity(here.len()));
            for (trace, owned) in here {
                let is_settled = match GIVEN.iter().position(|key| kind == Kind::TraceMetadata && *key == owned.pair.key) {
                    Some(at) => {
                        let sql = "SELECT EXISTS (SELECT 1 FROM import_seen WHERE kind = 'given' AND id = ?1 AND part = ?2)";
                        self.db.one(sql, bind![trace, at as i64])?
                    }
                    // The name came with the trace, and where spans lie is another place here than there.
                    None => kind == Kind::TraceTags && matches!(owned.pair.key.as_str(), key::NAME | key::SPANS),
                };
                if is_settled { settled.push((trace, owned)) } else { others.push((trace, owned)) }
            }
            self.db.insert(&format!("INSERT INTO {table} ({columns})"), NOTHING, settled.iter().map(row))?;
            here = others;
        }
        let conflict = if kind == Kind::TraceMetadata { GROWN } else { NOTHING };
        self.put(&of, &here.iter().map(row).collect::<Vec<_>>(), conflict, (plan, tally))
    }

    fn bring_points(&mut self, points: Vec<Point>, tally: &mut Tally) -> Result<()> {
        let runs = self.numbers("runs", "run_id", points.iter().map(|point| point.run.as_str()))?;
        let mut rows = Vec::with_capacity(points.len());
        let mut latest: BTreeMap<(i64, i64), (i64, i64, f64, i64)> = BTreeMap::new();
        for (run, point) in known(points, |point| runs.get(&point.run).copied(), Kind::Points, NO_RUN, tally) {
            let (value, is_nan) = stored(point.value);
            let key = self.key(&point.key)?;
            let rank = (point.step, point.timestamp, value, is_nan);
            latest.entry((run, key)).and_modify(|last| *last = if rank > *last { rank } else { *last }).or_insert(rank);
            rows.push(((run, key), rank));
        }
        let rows: Vec<_> = rows
            .iter()
            .map(|((run, key), (step, timestamp, value, is_nan))| {
                [
                    Value::from(*run),
                    Value::from(*key),
                    Value::from(*timestamp),
                    Value::from(*step),
                    Value::from(*value),
                    Value::from(*is_nan),
                ]
            })
            .collect();
        let into = "INSERT INTO metrics (run, key, timestamp, step, value, is_nan)";
        self.db.insert(into, NOTHING, rows)?;
        let into = "INSERT INTO latest_metrics (run, key, timestamp, step, value, is_nan)";
        let conflict = "ON CONFLICT (run, key) DO UPDATE
                        SET timestamp = excluded.timestamp, step = excluded.step, value = excluded.value, is_nan = excluded.is_nan
                        WHERE (excluded.step, excluded.timestamp, excluded.value, excluded.is_nan)
                            > (latest_metrics.step, latest_metrics.timestamp, latest_metrics.value, latest_metrics.is_nan)";
        let rows = latest.into_iter().map(|((run, key), (step, timestamp, value, is_nan))| {
            [run.into(), key.into(), timestamp.into(), step.into(), value.into(), is_nan.into()]
        });
        self.db.insert(into, conflict, rows)
    }

    /// Numbers of runs and datasets, with what belongs to each pair.
    fn inputs<T>(
        &mut self,
        inputs: impl Iterator<Item = (Read, T)>,
        kind: Kind,
        plan: &Plan,
        tally: &mut Tally,
    ) -> Result<Vec<((i64, i64), T)>> {
        let inputs: Vec<(Read, T)> = inputs.collect();
        let runs = self.numbers("runs", "run_id", inputs.iter().map(|(input, _)| input.run.as_str()))?;
        let (mut here, mut datasets) = (Vec::with_capacity(inputs.len()), HashMap::new());
        for (input, of) in inputs {
            let experiment = plan.experiments.get(&input.experiment);
            let (Some(run), Some(experiment)) = (runs.get(&input.run), experiment) else {
                tally.left(kind, NO_OWNER, 1);
                continue;
            };
            let known = datasets.get(&(*experiment, input.name.clone(), input.digest.clone())).copied();
            let dataset: Option<i64> = match known {
                Some(known) => Some(known),
                None => {
                    let sql = "SELECT id FROM datasets WHERE experiment = ?1 AND name = ?2 AND digest = ?3";
                    self.db.optional(sql, bind![experiment, &input.name, &input.digest])?
                }
            };
            let Some(dataset) = dataset else {
                tally.left(kind, NO_OWNER, 1);
                continue;
            };
            datasets.insert((*experiment, input.name, input.digest), dataset);
            here.push(((*run, dataset), of));
        }
        Ok(here)
    }

    /// Numbers of those registered models that came, or are the same here, by their names in the source.
    fn models_of<'a>(&mut self, names: impl Iterator<Item = &'a str>, plan: &Plan) -> Result<HashMap<String, i64>> {
        let names: HashMap<&str, String> = names.filter_map(|name| Some((name, plan.model(name)?))).collect();
        let mut numbers = self.numbers("registered_models", "name", names.values().map(String::as_str))?;
        let sql = "SELECT id FROM import_seen WHERE kind = 'model'";
        let seen: HashSet<i64> = self.db.rows(sql, bind![])?.into_iter().collect();
        numbers.retain(|_, model| seen.contains(model));
        Ok(names.into_iter().filter_map(|(name, here)| Some((name.to_string(), *numbers.get(&here)?))).collect())
    }

    fn bring_versions(&mut self, versions: Vec<ModelVersion>, plan: &Plan, tally: &mut Tally) -> Result<()> {
        let models = self.models_of(versions.iter().map(|v| v.name.as_str()), plan)?;
        let mut rows = Vec::with_capacity(versions.len());
        for (model, mut v) in known(versions, |v| models.get(&v.name).copied(), Kind::Versions, NO_OWNER, tally) {
            if v.stage == "Deleted_Internal" {
                tally.left(Kind::Versions, "it is deleted", 1);
                self.remove_number(model, v.version)?;
                continue;
            }
            let sql = "SELECT created FROM model_versions WHERE model = ?1 AND version = ?2";
            let there: Option<i64> = self.db.optional(sql, bind![model, v.version])?;
            if there.is_some_and(|there| there != v.created) {
                // Another one has its number: it stays, and what belongs to the one that comes does not become its own.
                tally.differ(Kind::Versions, 1);
                continue;
            }
            v.source = self.moved_below(v.source, tally)?;
            v.location = self.moved_below(v.location, tally)?;
            rows.push((model, v));
        }
        let of = Changing {
            kind: Kind::Versions,
            table: "model_versions",
            columns: "model, version, source, location, run_id, run_link, description, stage, created, updated",
            keys: &["model", "version"],
            values: &["description", "stage"],
            with: &["updated"],
        };
        let values: Vec<_> = rows
            .iter()
            .map(|(model, v)| {
                [
                    Value::from(*model),
                    Value::from(v.version),
                    Value::from(&v.source),
                    Value::from(&v.location),
                    Value::from(&v.run_id),
                    Value::from(&v.run_link),
                    Value::from(&v.description),
                    Value::from(&v.stage),
                    Value::from(v.created),
                    Value::from(v.updated),
                ]
            })
            .collect();
        self.put(&of, &values, NOTHING, (plan, tally))?;
        self.see("version", &rows.iter().map(|(model, v)| (*model, v.version)).collect::<Vec<_>>())
    }

    /// The address here of something below the artifacts of a run or a logged model: `…/ID/artifacts/…`. Any other stays as it is.
    fn moved_below(&mut self, uri: String, tally: &mut Tally) -> Result<String> {
        if !Place::read(&uri).moves() || !uri.contains('/') {
            return Ok(uri);
        }
        for (at, _) in uri.match_indices("/artifacts") {
            let (before, below) = (&uri[..at], &uri[at + "/artifacts".len()..]);
            if !below.is_empty() && !below.starts_with('/') {
                continue;
            }
            let owner = before.rsplit('/').next().unwrap_or_default();
            let sql =
                "SELECT artifact_uri FROM runs WHERE run_id = ?1 UNION ALL SELECT artifact_uri FROM logged_models WHERE model_id = ?1";
            let root: Option<String> = self.db.optional(sql, bind![owner])?;
            if let Some(root) = root {
                return Ok(format!("{root}{below}"));
            }
        }
        tally.kept.insert(uri.clone());
        Ok(uri)
    }

    fn bring_spans(&mut self, spans: Vec<(String, Option<ReadySpan>)>, tally: &mut Tally) -> Result<()> {
        let traces = self.numbers("traces", "trace_id", spans.iter().map(|(trace, _)| trace.as_str()))?;
        let mut rows = Vec::with_capacity(spans.len());
        for (trace, (name, span)) in known(spans, |(trace, _)| traces.get(trace).copied(), Kind::Spans, NO_TRACE, tally) {
            if let Some(span) = span {
                rows.push((trace, span));
                continue;
            }
            // Those of a trace that was archived after it had come are here.
            let sql =
                "SELECT spans > 0 AND NOT EXISTS (SELECT 1 FROM import_seen WHERE kind = 'growing' AND id = ?1) FROM traces WHERE id = ?1";
            let is_here: bool = self.db.one(sql, bind![trace])?;
            if !is_here && !tally.unpacked.contains(&name) {
                tally.left(Kind::Spans, "its trace is archived, and the archive was not read", 1);
                tally.archived.insert(name);
            }
        }
        let rows = first_of_each(rows, |(trace, span)| (*trace, span.id.clone()));
        let into = "INSERT INTO spans (trace, span_id, parent_id, name, type, status, start_time, duration, usage, cost, model, provider, size, content)";
        let values = rows.iter().map(|(trace, s)| {
            [
                Value::from(*trace),
                Value::from(&s.id),
                Value::from(&s.parent),
                Value::from(&s.name),
                Value::from(&s.kind),
                Value::from(s.status),
                Value::from(s.start),
                Value::from(s.duration),
                Value::from(&s.usage),
                Value::from(&s.cost),
                Value::from(&s.model),
                Value::from(&s.provider),
                Value::from(s.size),
                Value::from(&s.content),
            ]
        });
        // Those of a trace that was not finished here may have ended since.
        let conflict = "ON CONFLICT (trace, span_id) DO UPDATE SET parent_id = excluded.parent_id, name = excluded.name, type = excluded.type,
                            status = excluded.status, start_time = excluded.start_time, duration = excluded.duration, usage = excluded.usage,
                            cost = excluded.cost, model = excluded.model, provider = excluded.provider, size = excluded.size, content = excluded.content
                        WHERE EXISTS (SELECT 1 FROM import_seen WHERE kind = 'growing' AND id = excluded.trace)";
        self.db.insert(into, conflict, values)?;
        for trace in rows.iter().map(|(trace, _)| *trace).collect::<HashSet<_>>() {
            let sql = "UPDATE traces SET spans = (SELECT COUNT(*) FROM spans WHERE trace = ?1),
                           bytes = (SELECT COALESCE(SUM(size), 0) FROM spans WHERE trace = ?1) WHERE id = ?1";
            self.db.execute(sql, bind![trace])?;
        }
        Ok(())
    }

    fn bring_links(&mut self, table: &str, column: &str, links: Vec<(String, String)>, kind: Kind, tally: &mut Tally) -> Result<()> {
        let traces = self.numbers("traces", "trace_id", links.iter().map(|(trace, _)| trace.as_str()))?;
        let here = known(links, |(trace, _)| traces.get(trace).copied(), kind, NO_TRACE, tally);
        let rows: Vec<_> = here.iter().map(|(trace, (_, to))| [Value::from(to), Value::from(*trace)]).collect();
        self.db.insert(&format!("INSERT INTO {table} ({column}, trace)"), NOTHING, rows)
    }

    fn bring_records(&mut self, records: Vec<(String, EvaluationRecord)>, plan: &Plan, tally: &mut Tally) -> Result<()> {
        let datasets = self.numbers("evaluation_datasets", "dataset_id", records.iter().map(|(id, _)| id.as_str()))?;
        let here = known(records, |(id, _)| datasets.get(id).copied(), Kind::EvaluationRecords, NO_OWNER, tally);
        let text = |value: &Json| AnyValue::of_json(value).map_or_else(|| value.to_string(), |value| value.to_json());
        let object = |map: &Option<serde_json::Map<String, Json>>| map.as_ref().map(|map| text(&Json::Object(map.clone())));
        let of = Changing {
            kind: Kind::EvaluationRecords,
            table: "evaluation_records",
            columns: "record_id, dataset, input_hash, inputs, outputs, expectations, tags, source, created, updated, created_by, updated_by, size",
            keys: &["dataset", "input_hash"],
            values: &["outputs", "expectations", "tags"],
            with: &["updated", "updated_by", "size"],
        };
        let rows: Vec<_> = here
            .iter()
            .map(|(dataset, (_, r))| {
                let inputs = Json::Object(r.inputs.clone());
                [
                    Value::from(&r.id),
                    Value::from(*dataset),
                    Value::from(super::evaluation::input_hash(&r.inputs)),
                    Value::from(text(&inputs)),
                    Value::from(r.outputs.as_ref().map(text)),
                    Value::from(object(&r.expectations)),
                    Value::from(object(&r.tags)),
                    Value::from(r.source.as_ref().map(text)),
                    Value::from(r.created),
                    Value::from(r.updated),
                    Value::from(&r.created_by),
                    Value::from(&r.updated_by),
                    Value::from(super::evaluation::record_size(r) as i64),
                ]
            })
            .collect();
        self.put(&of, &rows, NOTHING, (plan, tally))?;
        for dataset in here.iter().map(|(dataset, _)| *dataset).collect::<HashSet<_>>() {
            let sql = "UPDATE evaluation_datasets SET records = (SELECT COUNT(*) FROM evaluation_records WHERE dataset = ?1) WHERE id = ?1";
            self.db.execute(sql, bind![dataset])?;
        }
        Ok(())
    }
}

/// Those rows whose owner is here, with it; the others are counted.
fn known<T, O>(rows: Vec<T>, owner: impl Fn(&T) -> Option<O>, kind: Kind, why: &str, tally: &mut Tally) -> Vec<(O, T)> {
    let all = rows.len();
    let here: Vec<(O, T)> = rows.into_iter().filter_map(|row| Some((owner(&row)?, row))).collect();
    tally.left(kind, why, (all - here.len()) as u64);
    here
}

/// Rows without those of an id that came before: a damaged source may have some twice, and PostgreSQL does not replace a row twice in one statement.
fn first_of_each<T, K: Eq + Hash>(mut rows: Vec<T>, id: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = HashSet::with_capacity(rows.len());
    rows.retain(|row| seen.insert(id(row)));
    rows
}

/// Where artifacts are that come over, or stay elsewhere.
fn moved(uri: &str, layout: &str) -> String {
    if Place::read(uri).moves() { own(layout) } else { uri.to_string() }
}

/// Names for what cannot have its own.
fn renamed(name: &str) -> impl Iterator<Item = String> {
    (1..1000).map(move |n| if n == 1 { format!("{name} (imported)") } else { format!("{name} (imported {n})") })
}
