//! What comes from a store of MLflow, written as it was there: ids, times and states are kept. What is there already stays, so that the same rows may come again.
//!
//! Two tables exist only while an import is under way: how far it is, stored with the rows that got it there, and what it brought, to be counted at its end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;
use sqlx::query_builder::Separated;
use sqlx::{AssertSqlSafe, QueryBuilder, Sqlite};

use super::runs::stored;
use super::writer::Writer;
use super::{DEFAULT_EXPERIMENT, Tracking, own_location};
use crate::error::{Error, ErrorCode, Result};
use crate::evaluation::{EvaluationDataset, EvaluationRecord};
use crate::import::{Clashes, Kind, Names, Owned, Place, Point, Position, Read, Rows, Tally, own};
use crate::model::{Dataset, Experiment, LoggedModel, Metric, ModelVersion, Pair, RegisteredModel, RunInfo, RunModel, Stage};
use crate::otel::AnyValue;
use crate::trace::{ReadySpan, TraceInfo, TraceState, key};

type Row<'q, 'a> = Separated<'q, Sqlite, &'a str>;

const NO_EXPERIMENT: &str = "its experiment is not there";
const NO_RUN: &str = "its run is not there";
const NO_TRACE: &str = "its trace is not there";
const NO_OWNER: &str = "what it belongs to is not there";
/// Ids that one statement looks for.
const AT_ONCE: usize = 500;
/// Clashes that a refusal names.
const NAMED: usize = 20;

/// Where things of the source are here.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Numbers of experiments by those of the source; one that is left out has none.
    pub experiments: HashMap<i64, i64>,
    /// Names of those registered models that are called otherwise here, or are left out.
    pub models: HashMap<String, Option<String>>,
}

/// Rows whose files have come, and what there was of these.
#[derive(Debug)]
pub(crate) struct Brought {
    pub rows: Vec<Rows>,
    pub files: Tally,
    /// Where to go on once they are stored; none: what they are part of is not whole yet.
    pub position: Option<Position>,
}

impl Plan {
    fn model(&self, name: &str) -> Option<String> {
        self.models.get(name).cloned().unwrap_or_else(|| Some(name.to_string()))
    }
}

impl Tracking {
    /// Decides where everything goes, and stores the experiments. Answers how far an earlier import of `source` came.
    pub(crate) async fn begin_import(
        &self,
        source: String,
        experiments: Vec<Experiment>,
        models: Names,
        clashes: Clashes,
    ) -> Result<(Plan, Position, Tally)> {
        self.write(move |w| Box::pin(async move { w.begin_import(&source, experiments, models, clashes).await })).await
    }

    /// Stores rows with the place up to which the source has been read.
    pub(crate) async fn bring(&self, source: String, brought: Vec<Brought>, mut tally: Tally, plan: Arc<Plan>) -> Result<Tally> {
        self.write(move |w| {
            Box::pin(async move {
                let mut reached = None;
                for Brought { rows, files, position } in brought {
                    tally.add(files);
                    for rows in rows {
                        tally.read(rows.kind(), rows.len() as u64);
                        w.bring(rows, &plan, &mut tally).await?;
                    }
                    // What was counted goes with the place: what lies behind it is read and counted again.
                    reached = position.map(|position| (position, tally.to_json())).or(reached);
                }
                if let Some((position, tally)) = reached {
                    let sql = "INSERT INTO import_progress (source, part, place, tally) VALUES ($1, $2, $3, $4)
                               ON CONFLICT (source) DO UPDATE SET part = excluded.part, place = excluded.place, tally = excluded.tally";
                    let query = sqlx::query(sql).bind(source).bind(position.part).bind(position.place).bind(tally);
                    query.execute(&mut w.connection).await?;
                }
                Ok(tally)
            })
        })
        .await
    }

    /// What of everything is here that the import brought, or found.
    pub(crate) async fn imported(&self) -> Result<BTreeMap<Kind, u64>> {
        self.write(|w| {
            Box::pin(async move {
                let mut counts = BTreeMap::new();
                for (kind, table, owner, of) in COUNTED {
                    let sql = format!("SELECT COUNT(*) FROM {table} WHERE {owner} IN (SELECT id FROM import_seen WHERE kind = '{of}')");
                    let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut w.connection).await?;
                    counts.insert(kind, rows.unsigned_abs());
                }
                Ok(counts)
            })
        })
        .await
    }

    /// Forgets how far the import came: the next one looks at everything again.
    pub(crate) async fn end_import(&self) -> Result<()> {
        self.write(|w| {
            Box::pin(async move {
                sqlx::raw_sql("DROP TABLE IF EXISTS import_progress; DROP TABLE IF EXISTS import_seen").execute(&mut w.connection).await?;
                Ok(())
            })
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
    async fn begin_import(
        &mut self,
        source: &str,
        experiments: Vec<Experiment>,
        models: Names,
        clashes: Clashes,
    ) -> Result<(Plan, Position, Tally)> {
        let mut plan = Plan::default();
        let (mut refused, mut moved, mut made) = (Vec::new(), Vec::new(), Vec::new());
        for experiment in experiments {
            if experiment.id == DEFAULT_EXPERIMENT {
                plan.experiments.insert(DEFAULT_EXPERIMENT, DEFAULT_EXPERIMENT);
                made.push(experiment);
                continue;
            }
            if let Some(here) = self.same_experiment(&experiment).await? {
                plan.experiments.insert(experiment.id, here);
                continue;
            }
            let mut name = experiment.name.clone();
            if let Some(there) = self.experiment_named(&name).await? {
                match clashes {
                    Clashes::Refuse => refused.push(format!("experiment `{name}` ({} there) is experiment {there} here", experiment.id)),
                    Clashes::Skip => moved.push(format!("experiment `{name}` is left out: experiment {there} here has this name")),
                    Clashes::Rename => {}
                }
                if clashes != Clashes::Rename {
                    continue;
                }
                name = self.free_experiment_name(&name).await?;
                moved.push(format!("experiment `{}` is `{name}` here: experiment {there} has its name", experiment.name));
            }
            made.push(Experiment { name, ..experiment });
        }
        for (name, created) in models {
            let sql = "SELECT created FROM registered_models WHERE name = $1";
            let there: Option<i64> = sqlx::query_scalar(sql).bind(&name).fetch_optional(&mut self.connection).await?;
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
                    let here = self.free_model(&name, created).await?;
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
        let (position, mut tally) = self.progress(source).await?;
        for experiment in made {
            self.bring_experiment(experiment, &mut plan, &mut moved).await?;
        }
        let seen: Vec<i64> = plan.experiments.values().copied().collect();
        self.see("experiment", &seen).await?;
        for note in moved {
            tally.notes.insert(note, 1);
        }
        Ok((plan, position, tally))
    }

    /// How far an earlier import of the same source came; what another one left is forgotten.
    async fn progress(&mut self, source: &str) -> Result<(Position, Tally)> {
        let sql = "CREATE TABLE IF NOT EXISTS import_progress (source TEXT PRIMARY KEY, part TEXT NOT NULL, place TEXT NOT NULL, tally TEXT NOT NULL);
                   CREATE TABLE IF NOT EXISTS import_seen (kind TEXT NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID";
        sqlx::raw_sql(sql).execute(&mut self.connection).await?;
        let sql = "SELECT part, place, tally FROM import_progress WHERE source = $1";
        let row: Option<(String, String, String)> = sqlx::query_as(sql).bind(source).fetch_optional(&mut self.connection).await?;
        if let Some((part, place, tally)) = row {
            return Ok((Position { part, place }, Tally::of_json(&tally)));
        }
        sqlx::raw_sql("DELETE FROM import_progress; DELETE FROM import_seen").execute(&mut self.connection).await?;
        Ok((Position::default(), Tally::default()))
    }

    /// The number of an experiment that came from the source before: by its number or name, and the moment it was made at.
    async fn same_experiment(&mut self, of: &Experiment) -> Result<Option<i64>> {
        let sql = "SELECT id FROM experiments WHERE created = $3 AND (id = $1 AND $3 > 0 OR name = $2 OR name LIKE $4 ESCAPE '\\') ORDER BY id = $1 DESC, id LIMIT 1";
        let like = format!("{} (imported%)", of.name.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_"));
        let query = sqlx::query_scalar(sql).bind(of.id).bind(&of.name).bind(of.created).bind(like);
        Ok(query.fetch_optional(&mut self.connection).await?)
    }

    async fn experiment_named(&mut self, name: &str) -> Result<Option<i64>> {
        let sql = "SELECT id FROM experiments WHERE name = $1";
        Ok(sqlx::query_scalar(sql).bind(name).fetch_optional(&mut self.connection).await?)
    }

    async fn free_experiment_name(&mut self, name: &str) -> Result<String> {
        for renamed in renamed(name) {
            if self.experiment_named(&renamed).await?.is_none() {
                return Ok(renamed);
            }
        }
        Err(Error::invalid(format!("no name like `{name}` is free")))
    }

    /// The name of a model that came before or is to come, which is not its own.
    async fn free_model(&mut self, name: &str, created: i64) -> Result<String> {
        for renamed in renamed(name) {
            let sql = "SELECT created FROM registered_models WHERE name = $1";
            let there: Option<i64> = sqlx::query_scalar(sql).bind(&renamed).fetch_optional(&mut self.connection).await?;
            if there.is_none_or(|there| there == created) {
                return Ok(renamed);
            }
        }
        Err(Error::invalid(format!("no name like `{name}` is free")))
    }

    async fn bring_experiment(&mut self, of: Experiment, plan: &mut Plan, notes: &mut Vec<String>) -> Result<()> {
        let moves = Place::read(&of.artifact_location).moves();
        let location = |id: i64| if moves { own_location(id) } else { of.artifact_location.clone() };
        if of.id == DEFAULT_EXPERIMENT {
            // One that nobody used yet is what it was in the source.
            let sql = "UPDATE experiments SET name = $2, artifact_location = $3, created = $4, updated = $5 WHERE id = $1
                       AND NOT EXISTS (SELECT 1 FROM runs WHERE experiment = $1) AND NOT EXISTS (SELECT 1 FROM traces WHERE experiment = $1)
                       AND NOT EXISTS (SELECT 1 FROM experiments WHERE name = $2 AND id <> $1)";
            let query = sqlx::query(sql).bind(of.id).bind(&of.name).bind(location(of.id)).bind(of.created).bind(of.updated);
            query.execute(&mut self.connection).await?;
            return Ok(());
        }
        let taken: Option<String> =
            sqlx::query_scalar("SELECT name FROM experiments WHERE id = $1").bind(of.id).fetch_optional(&mut self.connection).await?;
        let id = match taken {
            None => of.id,
            Some(name) => {
                let id: i64 = sqlx::query_scalar("SELECT MAX(id) + 1 FROM experiments").fetch_one(&mut self.connection).await?;
                notes.push(format!("experiment {} (`{}`) is experiment {id} here: `{name}` has its number", of.id, of.name));
                id
            }
        };
        let sql = "INSERT INTO experiments (id, name, artifact_location, stage, created, updated) VALUES ($1, $2, $3, $4, $5, $6)";
        let query = sqlx::query(sql).bind(id).bind(&of.name).bind(location(id)).bind(of.stage.as_str()).bind(of.created).bind(of.updated);
        query.execute(&mut self.connection).await?;
        plan.experiments.insert(of.id, id);
        Ok(())
    }

    async fn see(&mut self, kind: &'static str, ids: &[i64]) -> Result<()> {
        let bind = |row: &mut Row<'_, '_>, id: &i64| {
            row.push_bind(kind).push_bind(*id);
        };
        self.insert("INSERT INTO import_seen (kind, id)", ids, "ON CONFLICT DO NOTHING", bind).await
    }

    /// The numbers of those of `names` that are there.
    async fn numbers<'a>(&mut self, table: &str, column: &str, names: impl Iterator<Item = &'a str>) -> Result<HashMap<String, i64>> {
        let names: Vec<&str> = names.collect::<HashSet<&str>>().into_iter().collect();
        let mut found = HashMap::with_capacity(names.len());
        for names in names.chunks(AT_ONCE) {
            let mut sql = QueryBuilder::<Sqlite>::new(format!("SELECT {column}, id FROM {table} WHERE {column} IN ("));
            let mut list = sql.separated(", ");
            for name in names {
                list.push_bind(*name);
            }
            sql.push(")");
            found.extend(sql.build_query_as::<(String, i64)>().persistent(false).fetch_all(&mut self.connection).await?);
        }
        Ok(found)
    }

    async fn bring(&mut self, rows: Rows, plan: &Plan, tally: &mut Tally) -> Result<()> {
        match rows {
            Rows::Left(kind, why, count) => {
                tally.read(kind, count);
                tally.left(kind, &why, count);
                Ok(())
            }
            Rows::Merged(kind, owner, why, count) => {
                let (table, column) = if kind == Kind::Points { ("runs", "run_id") } else { ("logged_models", "model_id") };
                // Rows of an owner that is not here were left out already.
                if count > 0 && !self.numbers(table, column, std::iter::once(owner.as_str())).await?.is_empty() {
                    tally.left(kind, why, count);
                }
                Ok(())
            }
            Rows::Runs(runs) => self.bring_runs(runs, plan, tally).await,
            Rows::Pairs(kind, pairs) => self.bring_pairs(kind, pairs, plan, tally).await,
            Rows::Points(points) => self.bring_points(points, tally).await,
            Rows::Datasets(datasets) => {
                let here = |(of, dataset)| Some((*plan.experiments.get(&of)?, dataset));
                let all = datasets.len();
                let datasets: Vec<_> = datasets.into_iter().filter_map(here).collect();
                tally.left(Kind::Datasets, NO_EXPERIMENT, (all - datasets.len()) as u64);
                let into = "INSERT INTO datasets (experiment, name, digest, source_type, source, schema, profile)";
                let bind = |row: &mut Row<'_, '_>, (experiment, d): &(i64, Dataset)| {
                    row.push_bind(*experiment).push_bind(&d.name).push_bind(&d.digest).push_bind(&d.source_type);
                    row.push_bind(&d.source).push_bind(&d.schema).push_bind(&d.profile);
                };
                self.insert(into, &datasets, "ON CONFLICT DO NOTHING", bind).await
            }
            Rows::Inputs(inputs) => {
                let mut here = Vec::with_capacity(inputs.len());
                for (place, ()) in self.inputs(inputs.into_iter().map(|input| (input, ())), Kind::Inputs, plan, tally).await? {
                    here.push(place);
                }
                let bind = |row: &mut Row<'_, '_>, (run, dataset): &(i64, i64)| {
                    row.push_bind(*run).push_bind(*dataset);
                };
                self.insert("INSERT INTO inputs (run, dataset)", &here, "ON CONFLICT DO NOTHING", bind).await
            }
            Rows::InputTags(tags) => {
                let here = self.inputs(tags.into_iter(), Kind::InputTags, plan, tally).await?;
                let bind = |row: &mut Row<'_, '_>, ((run, dataset), tag): &((i64, i64), Pair)| {
                    row.push_bind(*run).push_bind(*dataset).push_bind(&tag.key).push_bind(&tag.value);
                };
                self.insert("INSERT INTO input_tags (run, dataset, key, value)", &here, "ON CONFLICT DO NOTHING", bind).await
            }
            Rows::RunModels(models) => {
                let runs = self.numbers("runs", "run_id", models.iter().map(|(run, _)| run.as_str())).await?;
                let here = known(models, |(run, _)| runs.get(run).copied(), Kind::RunModels, NO_RUN, tally);
                let bind = |row: &mut Row<'_, '_>, (run, (_, model)): &(i64, (String, RunModel))| {
                    row.push_bind(*run).push_bind(i64::from(model.is_output)).push_bind(&model.model_id).push_bind(model.step);
                };
                self.insert("INSERT INTO run_models (run, is_output, model_id, step)", &here, "ON CONFLICT DO NOTHING", bind).await
            }
            Rows::LoggedModels(models) => {
                let here = known(models, |(m, _)| plan.experiments.get(&m.experiment).copied(), Kind::LoggedModels, NO_EXPERIMENT, tally);
                let into = "INSERT INTO logged_models (model_id, experiment, name, model_type, source_run_id, status, stage, created, updated, artifact_uri)";
                let bind = |row: &mut Row<'_, '_>, (experiment, (m, stage)): &(i64, (LoggedModel, Stage))| {
                    row.push_bind(&m.id).push_bind(*experiment).push_bind(&m.name).push_bind(&m.model_type).push_bind(&m.source_run);
                    row.push_bind(m.status.as_str()).push_bind(stage.as_str()).push_bind(m.created).push_bind(m.updated);
                    let layout = format!("{experiment}/models/{}/artifacts", m.id);
                    row.push_bind(moved(&m.artifact_uri, &layout));
                };
                // A model whose files were on their way may be ready by now.
                let conflict = "ON CONFLICT (model_id) DO UPDATE SET status = excluded.status, updated = excluded.updated
                                WHERE logged_models.status = 'LOGGED_MODEL_PENDING'";
                self.insert(into, &here, conflict, bind).await?;
                let ids = self.numbers("logged_models", "model_id", here.iter().map(|(_, (m, _))| m.id.as_str())).await?;
                self.see("logged", &ids.into_values().collect::<Vec<_>>()).await
            }
            Rows::LoggedPoints(points) => {
                let id = |metric: &Metric| metric.model_id.clone().unwrap_or_default();
                let names: Vec<String> = points.iter().map(|(_, metric)| id(metric)).collect();
                let models = self.numbers("logged_models", "model_id", names.iter().map(String::as_str)).await?;
                for (model, (run, metric)) in known(points, |(_, m)| models.get(&id(m)).copied(), Kind::LoggedPoints, NO_OWNER, tally) {
                    self.log_model_metrics(&run, &[(model, metric)]).await?;
                }
                Ok(())
            }
            Rows::Models(models) => {
                let here = known(models, |m| plan.model(&m.name), Kind::Models, "another one here has its name", tally);
                let bind = |row: &mut Row<'_, '_>, (name, m): &(String, RegisteredModel)| {
                    row.push_bind(name).push_bind(&m.description).push_bind(m.created).push_bind(m.updated);
                };
                let into = "INSERT INTO registered_models (name, description, created, updated)";
                self.insert(into, &here, "ON CONFLICT DO NOTHING", bind).await?;
                let ids = self.numbers("registered_models", "name", here.iter().map(|(name, _)| name.as_str())).await?;
                self.see("model", &ids.into_values().collect::<Vec<_>>()).await
            }
            Rows::Versions(versions) => self.bring_versions(versions, plan, tally).await,
            Rows::VersionTags(tags) => {
                let models = self.models_of(tags.iter().map(|(name, ..)| name.as_str()), plan).await?;
                let here = known(tags, |(name, ..)| models.get(name).copied(), Kind::VersionTags, NO_OWNER, tally);
                let bind = |row: &mut Row<'_, '_>, (model, (_, version, tag)): &(i64, (String, i64, Pair))| {
                    row.push_bind(*model).push_bind(*version).push_bind(&tag.key).push_bind(&tag.value);
                };
                self.insert("INSERT INTO model_version_tags (model, version, key, value)", &here, "ON CONFLICT DO NOTHING", bind).await
            }
            Rows::Aliases(aliases) => {
                let models = self.models_of(aliases.iter().map(|(name, ..)| name.as_str()), plan).await?;
                let here = known(aliases, |(name, ..)| models.get(name).copied(), Kind::Aliases, NO_OWNER, tally);
                let bind = |row: &mut Row<'_, '_>, (model, (_, alias, version)): &(i64, (String, String, i64))| {
                    row.push_bind(*model).push_bind(alias).push_bind(*version);
                };
                self.insert("INSERT INTO registered_model_aliases (model, alias, version)", &here, "ON CONFLICT DO NOTHING", bind).await
            }
            Rows::Traces(traces) => {
                let here = known(traces, |t| plan.experiments.get(&t.experiment).copied(), Kind::Traces, NO_EXPERIMENT, tally);
                let into = "INSERT INTO traces (trace_id, experiment, name, status, start_time, duration, client_request_id, request_preview, response_preview,
                                is_final, spans, bytes)";
                let bind = |row: &mut Row<'_, '_>, (experiment, t): &(i64, TraceInfo)| {
                    let name = t.tags.iter().find(|tag| tag.key == key::NAME).map(|tag| tag.value.clone());
                    row.push_bind(&t.id).push_bind(*experiment).push_bind(name).push_bind(t.state.as_str()).push_bind(t.start_time);
                    row.push_bind(t.duration).push_bind(&t.client_request_id).push_bind(&t.request_preview).push_bind(&t.response_preview);
                    row.push_bind(t.state != TraceState::InProgress).push_bind(0i64).push_bind(0i64);
                };
                let conflict = "ON CONFLICT (trace_id) DO UPDATE SET status = excluded.status, duration = excluded.duration, is_final = excluded.is_final,
                                    request_preview = excluded.request_preview, response_preview = excluded.response_preview
                                WHERE traces.status = 'IN_PROGRESS'";
                self.insert(into, &here, conflict, bind).await?;
                let ids = self.numbers("traces", "trace_id", here.iter().map(|(_, t)| t.id.as_str())).await?;
                // What newer schemas keep with the trace itself comes before its rows, and stands.
                let numbered = || here.iter().filter_map(|(_, t)| Some((*ids.get(&t.id)?, t)));
                let names = numbered().flat_map(|(id, t)| t.tags.iter().filter(|tag| tag.key == key::NAME).map(move |tag| (id, tag)));
                let names: Vec<(i64, &Pair)> = names.collect();
                let metadata: Vec<(i64, &Pair)> = numbered().flat_map(|(id, t)| t.metadata.iter().map(move |pair| (id, pair))).collect();
                for (table, pairs) in [("trace_tags", names), ("trace_metadata", metadata)] {
                    let bind = |row: &mut Row<'_, '_>, (trace, pair): &(i64, &Pair)| {
                        row.push_bind(*trace).push_bind(&pair.key).push_bind(&pair.value);
                    };
                    let into = format!("INSERT INTO {table} (trace, key, value)");
                    self.insert(&into, &pairs, "ON CONFLICT DO NOTHING", bind).await?;
                }
                self.see("trace", &ids.into_values().collect::<Vec<_>>()).await
            }
            Rows::Spans(spans) => self.bring_spans(spans, tally).await,
            Rows::FileSpans(trace, spans) => {
                let tag = Owned { owner: trace.clone(), pair: Pair { key: key::SPANS.into(), value: "TRACKING_STORE".into() } };
                self.bring_pairs(Kind::TraceTags, vec![tag], plan, tally).await?;
                self.bring_spans(spans.into_iter().map(|span| (trace.clone(), Some(span))).collect(), tally).await
            }
            Rows::Assessments(assessments) => {
                let traces = self.numbers("traces", "trace_id", assessments.iter().map(|a| a.trace.as_str())).await?;
                let there = self.numbers("assessments", "assessment_id", assessments.iter().map(|a| a.id.as_str())).await?;
                for (trace, one) in known(assessments, |a| traces.get(&a.trace).copied(), Kind::Assessments, NO_TRACE, tally) {
                    if !there.contains_key(&one.id) {
                        self.put_assessment(trace, &one).await?;
                    }
                }
                Ok(())
            }
            Rows::TraceRuns(links) => self.bring_links("trace_runs", "run_id", links, Kind::TraceRuns, tally).await,
            Rows::TracePrompts(links) => self.bring_links("trace_prompts", "prompt", links, Kind::TracePrompts, tally).await,
            Rows::EvaluationDatasets(datasets) => {
                let into =
                    "INSERT INTO evaluation_datasets (dataset_id, name, digest, schema, records, created, updated, created_by, updated_by)";
                let bind = |row: &mut Row<'_, '_>, d: &EvaluationDataset| {
                    row.push_bind(&d.id).push_bind(&d.name).push_bind(&d.digest).push_bind(&d.schema).push_bind(0i64);
                    row.push_bind(d.created).push_bind(d.updated).push_bind(&d.created_by).push_bind(&d.updated_by);
                };
                self.insert(into, &datasets, "ON CONFLICT DO NOTHING", bind).await?;
                let ids = self.numbers("evaluation_datasets", "dataset_id", datasets.iter().map(|d| d.id.as_str())).await?;
                self.see("evaluation", &ids.into_values().collect::<Vec<_>>()).await
            }
            Rows::EvaluationExperiments(links) => {
                let datasets = self.numbers("evaluation_datasets", "dataset_id", links.iter().map(|(id, _)| id.as_str())).await?;
                let place = |(id, experiment): &(String, i64)| Some((*datasets.get(id)?, *plan.experiments.get(experiment)?));
                let here = known(links, place, Kind::EvaluationExperiments, NO_OWNER, tally);
                let bind = |row: &mut Row<'_, '_>, ((dataset, experiment), _): &((i64, i64), (String, i64))| {
                    row.push_bind(*dataset).push_bind(*experiment);
                };
                let into = "INSERT INTO evaluation_dataset_experiments (dataset, experiment)";
                self.insert(into, &here, "ON CONFLICT DO NOTHING", bind).await
            }
            Rows::EvaluationRecords(records) => self.bring_records(records, tally).await,
            Rows::Scorers(scorers) => {
                for (experiment, s) in known(scorers, |s| plan.experiments.get(&s.experiment).copied(), Kind::Scorers, NO_EXPERIMENT, tally)
                {
                    let sql = "INSERT INTO scorers (scorer_id, experiment, name) VALUES ($1, $2, $3)
                               ON CONFLICT (experiment, name) DO UPDATE SET name = excluded.name RETURNING id";
                    let query = sqlx::query_scalar(sql).bind(&s.id).bind(experiment).bind(&s.name);
                    let id: i64 = query.fetch_one(&mut self.connection).await?;
                    let sql =
                        "INSERT INTO scorer_versions (scorer, version, serialized, created) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
                    let query = sqlx::query(sql).bind(id).bind(s.version).bind(&s.serialized).bind(s.created);
                    query.execute(&mut self.connection).await?;
                    self.see("scorer", &[id]).await?;
                }
                Ok(())
            }
        }
    }

    async fn bring_runs(&mut self, runs: Vec<RunInfo>, plan: &Plan, tally: &mut Tally) -> Result<()> {
        let here = known(runs, |run| plan.experiments.get(&run.experiment).copied(), Kind::Runs, NO_EXPERIMENT, tally);
        let into = "INSERT INTO runs (run_id, experiment, name, user_id, status, stage, start_time, end_time, artifact_uri)";
        let bind = |row: &mut Row<'_, '_>, (experiment, run): &(i64, RunInfo)| {
            row.push_bind(&run.id).push_bind(*experiment).push_bind(&run.name).push_bind(&run.user).push_bind(run.status.as_str());
            row.push_bind(run.stage.as_str()).push_bind(run.start_time).push_bind(run.end_time);
            row.push_bind(moved(&run.artifact_uri, &format!("{experiment}/{}/artifacts", run.id)));
        };
        // A run that was at work when it came the first time may have ended.
        let conflict = "ON CONFLICT (run_id) DO UPDATE SET status = excluded.status, end_time = excluded.end_time
                        WHERE runs.status IN ('RUNNING', 'SCHEDULED')";
        self.insert(into, &here, conflict, bind).await?;
        let ids = self.numbers("runs", "run_id", here.iter().map(|(_, run)| run.id.as_str())).await?;
        self.see("run", &ids.into_values().collect::<Vec<_>>()).await
    }

    async fn bring_pairs(&mut self, kind: Kind, pairs: Vec<Owned>, plan: &Plan, tally: &mut Tally) -> Result<()> {
        let owners = || pairs.iter().map(|pair| pair.owner.as_str());
        let (into, owners) = match kind {
            Kind::Params => ("INSERT INTO params (run, key, value)", self.numbers("runs", "run_id", owners()).await?),
            Kind::Tags => ("INSERT INTO tags (run, key, value)", self.numbers("runs", "run_id", owners()).await?),
            Kind::LoggedParams => {
                ("INSERT INTO logged_model_params (model, key, value)", self.numbers("logged_models", "model_id", owners()).await?)
            }
            Kind::LoggedTags => {
                ("INSERT INTO logged_model_tags (model, key, value)", self.numbers("logged_models", "model_id", owners()).await?)
            }
            Kind::ModelTags => ("INSERT INTO registered_model_tags (model, key, value)", self.models_of(owners(), plan).await?),
            Kind::TraceTags => ("INSERT INTO trace_tags (trace, key, value)", self.numbers("traces", "trace_id", owners()).await?),
            Kind::TraceMetadata => ("INSERT INTO trace_metadata (trace, key, value)", self.numbers("traces", "trace_id", owners()).await?),
            Kind::EvaluationTags => (
                "INSERT INTO evaluation_dataset_tags (dataset, key, value)",
                self.numbers("evaluation_datasets", "dataset_id", owners()).await?,
            ),
            _ => {
                let number = |owner: &str| Some((owner.to_string(), *plan.experiments.get(&owner.parse().ok()?)?));
                ("INSERT INTO experiment_tags (experiment, key, value)", owners().filter_map(number).collect())
            }
        };
        let mut here = known(pairs, |pair| owners.get(&pair.owner).copied(), kind, NO_OWNER, tally);
        if matches!(kind, Kind::Params | Kind::Tags) {
            let mut rows = Vec::with_capacity(here.len());
            for (run, Owned { pair, .. }) in here {
                rows.push((run, self.key(&pair.key).await?, pair.value));
            }
            let bind = |row: &mut Row<'_, '_>, (run, key, value): &(i64, i64, String)| {
                row.push_bind(*run).push_bind(*key).push_bind(value);
            };
            return self.insert(into, &rows, "ON CONFLICT DO NOTHING", bind).await;
        }
        if kind == Kind::TraceTags {
            for (trace, owned) in here.iter_mut().filter(|(_, owned)| owned.pair.key == key::ARTIFACTS) {
                let sql = "SELECT experiment FROM traces WHERE id = $1";
                let experiment: i64 = sqlx::query_scalar(sql).bind(*trace).fetch_one(&mut self.connection).await?;
                owned.pair.value = moved(&owned.pair.value, &format!("{experiment}/traces/{}/artifacts", owned.owner));
            }
        }
        let bind = |row: &mut Row<'_, '_>, (owner, Owned { pair, .. }): &(i64, Owned)| {
            row.push_bind(*owner).push_bind(&pair.key).push_bind(&pair.value);
        };
        self.insert(into, &here, "ON CONFLICT DO NOTHING", bind).await
    }

    async fn bring_points(&mut self, points: Vec<Point>, tally: &mut Tally) -> Result<()> {
        let runs = self.numbers("runs", "run_id", points.iter().map(|point| point.run.as_str())).await?;
        let mut rows = Vec::with_capacity(points.len());
        let mut latest: BTreeMap<(i64, i64), (i64, i64, f64, i64)> = BTreeMap::new();
        for (run, point) in known(points, |point| runs.get(&point.run).copied(), Kind::Points, NO_RUN, tally) {
            let (value, is_nan) = stored(point.value);
            let key = self.key(&point.key).await?;
            let rank = (point.step, point.timestamp, value, is_nan);
            latest.entry((run, key)).and_modify(|last| *last = if rank > *last { rank } else { *last }).or_insert(rank);
            rows.push(((run, key), rank));
        }
        let bind = |row: &mut Row<'_, '_>, ((run, key), (step, timestamp, value, is_nan)): &((i64, i64), (i64, i64, f64, i64))| {
            row.push_bind(*run).push_bind(*key).push_bind(*timestamp).push_bind(*step).push_bind(*value).push_bind(*is_nan);
        };
        let into = "INSERT INTO metrics (run, key, timestamp, step, value, is_nan)";
        self.insert(into, &rows, "ON CONFLICT DO NOTHING", bind).await?;
        let into = "INSERT INTO latest_metrics (run, key, timestamp, step, value, is_nan)";
        let conflict = "ON CONFLICT (run, key) DO UPDATE
                        SET timestamp = excluded.timestamp, step = excluded.step, value = excluded.value, is_nan = excluded.is_nan
                        WHERE (excluded.step, excluded.timestamp, excluded.value, excluded.is_nan)
                            > (latest_metrics.step, latest_metrics.timestamp, latest_metrics.value, latest_metrics.is_nan)";
        self.insert(into, &latest.into_iter().collect::<Vec<_>>(), conflict, bind).await
    }

    /// Numbers of runs and datasets, with what belongs to each pair.
    async fn inputs<T>(
        &mut self,
        inputs: impl Iterator<Item = (Read, T)>,
        kind: Kind,
        plan: &Plan,
        tally: &mut Tally,
    ) -> Result<Vec<((i64, i64), T)>> {
        let inputs: Vec<(Read, T)> = inputs.collect();
        let runs = self.numbers("runs", "run_id", inputs.iter().map(|(input, _)| input.run.as_str())).await?;
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
                    let sql = "SELECT id FROM datasets WHERE experiment = $1 AND name = $2 AND digest = $3";
                    let query = sqlx::query_scalar(sql).bind(experiment).bind(&input.name).bind(&input.digest);
                    query.fetch_optional(&mut self.connection).await?
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

    /// Numbers of registered models by their names in the source.
    async fn models_of<'a>(&mut self, names: impl Iterator<Item = &'a str>, plan: &Plan) -> Result<HashMap<String, i64>> {
        let names: HashMap<&str, String> = names.filter_map(|name| Some((name, plan.model(name)?))).collect();
        let numbers = self.numbers("registered_models", "name", names.values().map(String::as_str)).await?;
        Ok(names.into_iter().filter_map(|(name, here)| Some((name.to_string(), *numbers.get(&here)?))).collect())
    }

    async fn bring_versions(&mut self, versions: Vec<ModelVersion>, plan: &Plan, tally: &mut Tally) -> Result<()> {
        let models = self.models_of(versions.iter().map(|v| v.name.as_str()), plan).await?;
        let mut rows = Vec::with_capacity(versions.len());
        for (model, mut v) in known(versions, |v| models.get(&v.name).copied(), Kind::Versions, NO_OWNER, tally) {
            if v.stage == "Deleted_Internal" {
                tally.left(Kind::Versions, "it is deleted", 1);
                continue;
            }
            v.source = self.moved_below(v.source, tally).await?;
            v.location = self.moved_below(v.location, tally).await?;
            rows.push((model, v));
        }
        let into = "INSERT INTO model_versions (model, version, source, location, run_id, run_link, description, stage, created, updated)";
        let bind = |row: &mut Row<'_, '_>, (model, v): &(i64, ModelVersion)| {
            row.push_bind(*model).push_bind(v.version).push_bind(&v.source).push_bind(&v.location).push_bind(&v.run_id);
            row.push_bind(&v.run_link).push_bind(&v.description).push_bind(&v.stage).push_bind(v.created).push_bind(v.updated);
        };
        self.insert(into, &rows, "ON CONFLICT DO NOTHING", bind).await
    }

    /// The address here of something below the artifacts of a run or a logged model: `…/ID/artifacts/…`. Any other stays as it is.
    async fn moved_below(&mut self, uri: String, tally: &mut Tally) -> Result<String> {
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
                "SELECT artifact_uri FROM runs WHERE run_id = $1 UNION ALL SELECT artifact_uri FROM logged_models WHERE model_id = $1";
            let root: Option<String> = sqlx::query_scalar(sql).bind(owner).fetch_optional(&mut self.connection).await?;
            if let Some(root) = root {
                return Ok(format!("{root}{below}"));
            }
        }
        tally.note("addresses of model versions are kept as they are: they lie below no run or model that is here".into());
        Ok(uri)
    }

    async fn bring_spans(&mut self, spans: Vec<(String, Option<ReadySpan>)>, tally: &mut Tally) -> Result<()> {
        let traces = self.numbers("traces", "trace_id", spans.iter().map(|(trace, _)| trace.as_str())).await?;
        let mut rows = Vec::with_capacity(spans.len());
        for (trace, (_, span)) in known(spans, |(trace, _)| traces.get(trace).copied(), Kind::Spans, NO_TRACE, tally) {
            match span {
                Some(span) => rows.push((trace, span)),
                None => tally.left(Kind::Spans, "what is stored is no span", 1),
            }
        }
        let into = "INSERT INTO spans (trace, span_id, parent_id, name, type, status, start_time, duration, usage, cost, size, content)";
        let bind = |row: &mut Row<'_, '_>, (trace, s): &(i64, ReadySpan)| {
            row.push_bind(*trace).push_bind(&s.id).push_bind(&s.parent).push_bind(&s.name).push_bind(&s.kind).push_bind(s.status);
            row.push_bind(s.start).push_bind(s.duration).push_bind(&s.usage).push_bind(&s.cost).push_bind(s.size).push_bind(&s.content);
        };
        self.insert(into, &rows, "ON CONFLICT DO NOTHING", bind).await?;
        for trace in rows.iter().map(|(trace, _)| *trace).collect::<HashSet<_>>() {
            let sql = "UPDATE traces SET spans = (SELECT COUNT(*) FROM spans WHERE trace = $1),
                           bytes = (SELECT COALESCE(SUM(size), 0) FROM spans WHERE trace = $1) WHERE id = $1";
            sqlx::query(sql).bind(trace).execute(&mut self.connection).await?;
        }
        Ok(())
    }

    async fn bring_links(&mut self, table: &str, column: &str, links: Vec<(String, String)>, kind: Kind, tally: &mut Tally) -> Result<()> {
        let traces = self.numbers("traces", "trace_id", links.iter().map(|(trace, _)| trace.as_str())).await?;
        let here = known(links, |(trace, _)| traces.get(trace).copied(), kind, NO_TRACE, tally);
        let bind = |row: &mut Row<'_, '_>, (trace, (_, to)): &(i64, (String, String))| {
            row.push_bind(to).push_bind(*trace);
        };
        self.insert(&format!("INSERT INTO {table} ({column}, trace)"), &here, "ON CONFLICT DO NOTHING", bind).await
    }

    async fn bring_records(&mut self, records: Vec<(String, EvaluationRecord)>, tally: &mut Tally) -> Result<()> {
        let datasets = self.numbers("evaluation_datasets", "dataset_id", records.iter().map(|(id, _)| id.as_str())).await?;
        let here = known(records, |(id, _)| datasets.get(id).copied(), Kind::EvaluationRecords, NO_OWNER, tally);
        let text = |value: &Value| AnyValue::of_json(value).map_or_else(|| value.to_string(), |value| value.to_json());
        let object = |map: &Option<serde_json::Map<String, Value>>| map.as_ref().map(|map| text(&Value::Object(map.clone())));
        let into =
            "INSERT INTO evaluation_records (record_id, dataset, input_hash, inputs, outputs, expectations, tags, source, created, updated,
                        created_by, updated_by, size)";
        let bind = |row: &mut Row<'_, '_>, (dataset, (_, r)): &(i64, (String, EvaluationRecord))| {
            let inputs = Value::Object(r.inputs.clone());
            row.push_bind(&r.id).push_bind(*dataset).push_bind(super::evaluation::input_hash(&r.inputs)).push_bind(text(&inputs));
            row.push_bind(r.outputs.as_ref().map(text)).push_bind(object(&r.expectations)).push_bind(object(&r.tags));
            row.push_bind(r.source.as_ref().map(text)).push_bind(r.created).push_bind(r.updated);
            row.push_bind(&r.created_by).push_bind(&r.updated_by).push_bind(super::evaluation::record_size(r) as i64);
        };
        self.insert(into, &here, "ON CONFLICT DO NOTHING", bind).await?;
        for dataset in here.iter().map(|(dataset, _)| *dataset).collect::<HashSet<_>>() {
            let sql = "UPDATE evaluation_datasets SET records = (SELECT COUNT(*) FROM evaluation_records WHERE dataset = $1) WHERE id = $1";
            sqlx::query(sql).bind(dataset).execute(&mut self.connection).await?;
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

/// Where artifacts are that come over, or stay elsewhere.
fn moved(uri: &str, layout: &str) -> String {
    if Place::read(uri).moves() { own(layout) } else { uri.to_string() }
}

/// Names for what cannot have its own.
fn renamed(name: &str) -> impl Iterator<Item = String> {
    (1..1000).map(move |n| if n == 1 { format!("{name} (imported)") } else { format!("{name} (imported {n})") })
}
