//! Registered models, their versions and aliases.

mod kept;

use std::collections::HashMap;

use super::search::{self, PROMPT, each_of};
use super::writer::Writer;
use super::{Tracking, now, settled};
use crate::artifacts::ArtifactPath;
use crate::db::{Db, FromRow, Row, Sql, bind};
use crate::error::{Error, ErrorCode, Result};
use crate::grammar::{Kind, MODEL_VERSIONS, REGISTERED_MODELS};
use crate::limits;
use crate::model::{ModelVersion, NewModelVersion, Page, Pair, Query, RegisteredModel};
use crate::page::Pages;
use crate::webhook::Change;

const STAGES: [&str; 4] = ["None", "Staging", "Production", "Archived"];
const VERSIONS: &str = "SELECT v.model, v.version, m.name, v.source, v.location, v.run_id, v.run_link, v.description, v.stage, v.created, \
                        v.updated FROM model_versions v JOIN registered_models m ON m.id = v.model";

impl Tracking {
    /// Makes a name for models.
    ///
    /// # Errors
    /// When it is taken, or something is not as it must be.
    pub async fn create_registered_model(&self, name: &str, description: &str, tags: Vec<Pair>) -> Result<RegisteredModel> {
        model_name(name)?;
        limits::description(description)?;
        limits::many("tags", &tags)?;
        tags.iter().try_for_each(tag)?;
        let new = (name.to_string(), description.to_string());
        self.write(move |w| {
            let ((name, description), created) = (new, now());
            w.free_model_name(&name)?;
            let sql = "INSERT INTO registered_models (name, description, created, updated) VALUES (?1, ?2, ?3, ?3) RETURNING id";
            let id: i64 = w.db.one(sql, bind![&name, &description, created])?;
            let tags = settled(tags);
            w.set_model_pairs("registered_model_tags", id, &tags)?;
            w.announce(id, Change::Model { name: &name, tags: &tags, description: &description })?;
            Ok(RegisteredModel { name, description, created, updated: created, tags, aliases: Vec::new(), latest: Vec::new() })
        })
        .await
    }

    /// A registered model with its aliases and the newest version of each stage.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn registered_model(&self, name: &str) -> Result<RegisteredModel> {
        let name = name.to_string();
        self.read(move |db| {
            let id = model_number(db, &name)?;
            registered_models(db, &[id])?.pop().ok_or_else(|| no_model(&name))
        })
        .await
    }

    /// Changes the description or the name of a registered model.
    ///
    /// # Errors
    /// When it is missing or the new name is taken.
    pub async fn update_registered_model(
        &self,
        name: &str,
        new_name: Option<String>,
        description: Option<String>,
    ) -> Result<RegisteredModel> {
        new_name.as_deref().map(model_name).transpose()?;
        description.as_deref().map(limits::description).transpose()?;
        let (old, new, words) = (name.to_string(), new_name.clone(), description);
        self.write(move |w| {
            let id = model_number(&mut w.db, &old)?;
            if let Some(new) = &new {
                w.free_model_name(new)?;
            }
            let sql = "UPDATE registered_models SET name = COALESCE(?2, name), description = COALESCE(?3, description), updated = ?4 WHERE id = ?1";
            w.db.execute(sql, bind![id, &new, &words, now()])?;
            Ok(())
        })
        .await?;
        self.registered_model(new_name.as_deref().unwrap_or(name)).await
    }

    /// Deletes a registered model with all that belongs to it.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn delete_registered_model(&self, name: String) -> Result<()> {
        self.write(move |w| {
            let id = model_number(&mut w.db, &name)?;
            for sql in [
                "DELETE FROM model_version_tags WHERE model = ?1",
                "DELETE FROM model_versions WHERE model = ?1",
                "DELETE FROM registered_model_aliases WHERE model = ?1",
                "DELETE FROM registered_model_tags WHERE model = ?1",
                "DELETE FROM kept_models WHERE model = ?1",
                "DELETE FROM removed_versions WHERE model = ?1",
                "DELETE FROM registered_models WHERE id = ?1",
            ] {
                w.db.execute(sql, bind![id])?;
            }
            Ok(())
        })
        .await
    }

    /// Looks for registered models: by name unless the query says otherwise. Prompts are found only when the filter speaks of the tag that makes them so.
    ///
    /// # Errors
    /// When the query makes no sense.
    pub async fn search_registered_models(&self, query: &Query) -> Result<Page<RegisteredModel>> {
        let filter = REGISTERED_MODELS.filter(&query.filter)?;
        let pages = Pages::of(&["registered models", &query.filter, &query.order_by.join("\n"), &search::of_key(&query.visible)]);
        let from = pages.position(query.page_token.as_deref())?;
        let mut sql = Sql::new("SELECT m.id FROM registered_models m WHERE TRUE");
        search::and_visible(&mut sql, &query.visible, "m.id", "m.name");
        if !filter.iter().any(|c| c.kind == Kind::Tag && c.key == PROMPT) {
            sql.push(" AND NOT EXISTS (SELECT 1 FROM registered_model_tags t WHERE t.model = m.id AND t.value = 'true' AND t.key = ");
            sql.bind(PROMPT).push(")");
        }
        for comparison in filter {
            sql.push(" AND ");
            search::of_registered_model(&mut sql, comparison);
        }
        sql.push(" ORDER BY ");
        for order in REGISTERED_MODELS.orders(&query.order_by)? {
            search::order_registry(&mut sql, "m", &order);
        }
        let most = query.max_results;
        sql.push("m.name LIMIT ").bind(most as i64 + 1).push(" OFFSET ").bind(from);
        self.read(move |db| {
            let page = pages.cut(sql.rows(db)?, from, most);
            let mut items = registered_models(db, &page.items)?;
            // Newest first, as MLflow's server lists them in searches.
            items.iter_mut().for_each(|model| model.latest.sort_by_key(|v| std::cmp::Reverse(v.version)));
            Ok(Page { items, next: page.next })
        })
        .await
    }

    /// Sets a tag of a registered model, or of a version of it.
    ///
    /// # Errors
    /// When the model or version is missing, or the tag not as it must be.
    pub async fn set_model_tag(&self, name: String, version: Option<i64>, new: Pair) -> Result<()> {
        tag(&new)?;
        self.write(move |w| {
            let tags = std::slice::from_ref(&new);
            let id = match version {
                None => {
                    let id = model_number(&mut w.db, &name)?;
                    w.set_model_pairs("registered_model_tags", id, tags)?;
                    id
                }
                Some(version) => {
                    let id = w.model_of(&name, version)?;
                    w.set_version_tags(id, version, tags)?;
                    id
                }
            };
            w.announce(id, Change::TagSet { name: &name, version, tag: &new })
        })
        .await
    }

    /// Removes a tag of a registered model, or of a version of it; one that is not there is as good as removed.
    ///
    /// # Errors
    /// When the model or version is missing.
    pub async fn delete_model_tag(&self, name: String, version: Option<i64>, key: String) -> Result<()> {
        self.write(move |w| {
            let id = match version {
                None => {
                    let id = model_number(&mut w.db, &name)?;
                    let sql = "DELETE FROM registered_model_tags WHERE model = ?1 AND key = ?2";
                    w.db.execute(sql, bind![id, &key])?;
                    id
                }
                Some(version) => {
                    let id = w.model_of(&name, version)?;
                    let sql = "DELETE FROM model_version_tags WHERE model = ?1 AND version = ?2 AND key = ?3";
                    w.db.execute(sql, bind![id, version, &key])?;
                    id
                }
            };
            w.announce(id, Change::TagDeleted { name: &name, version, key: &key })
        })
        .await
    }

    /// Lets an alias name a version; it names one at a time.
    ///
    /// # Errors
    /// When the version is missing or the alias is none.
    pub async fn set_alias(&self, name: String, alias: String, version: i64) -> Result<()> {
        alias_name(&alias)?;
        self.write(move |w| {
            let id = w.model_of(&name, version)?;
            let sql = "INSERT INTO registered_model_aliases (model, alias, version) VALUES (?1, ?2, ?3)
                       ON CONFLICT (model, alias) DO UPDATE SET version = excluded.version";
            w.db.execute(sql, bind![id, &alias, version])?;
            w.announce(id, Change::AliasSet { name: &name, alias: &alias, version })
        })
        .await
    }

    /// Removes an alias; one that is not there is as good as removed.
    ///
    /// # Errors
    /// When the model is missing.
    pub async fn delete_alias(&self, name: String, alias: String) -> Result<()> {
        self.write(move |w| {
            let id = model_number(&mut w.db, &name)?;
            let sql = "DELETE FROM registered_model_aliases WHERE model = ?1 AND alias = ?2";
            w.db.execute(sql, bind![id, &alias])?;
            w.announce(id, Change::AliasDeleted { name: &name, alias: &alias })
        })
        .await
    }

    /// The version that an alias names.
    ///
    /// # Errors
    /// When the model or the alias is missing.
    pub async fn version_by_alias(&self, name: &str, alias: &str) -> Result<ModelVersion> {
        let (name, alias) = (name.to_string(), alias.to_string());
        self.read(move |db| {
            let named = "JOIN registered_model_aliases a ON a.model = v.model AND a.version = v.version WHERE m.name = ?1 AND a.alias = ?2";
            let found = db.rows(&format!("{VERSIONS} {named}"), bind![&name, &alias])?;
            if let Some(version) = with_belongings(db, found)?.pop() {
                return Ok(version);
            }
            model_number(db, &name)?;
            Err(Error::invalid(format!("Registered model alias {alias} not found.")))
        })
        .await
    }

    /// Makes a version of a registered model.
    ///
    /// # Errors
    /// When the model is missing, or the source is one that this server may not vouch for.
    pub async fn create_model_version(&self, mut new: NewModelVersion) -> Result<ModelVersion> {
        for (what, text) in [("source", &new.source), ("run_link", &new.run_link)] {
            limits::text(what, text)?;
        }
        for (what, text) in [("run_id", &new.run_id), ("model_id", &new.model_id)] {
            limits::length(what, limits::ID, text)?;
        }
        limits::description(&new.description)?;
        limits::many("tags", &new.tags)?;
        new.tags.iter().try_for_each(tag)?;
        new.source = plain_scheme(&new.source);
        let location = self.location_of(&new).await?;
        if new.run_id.is_empty() {
            // The run that made the logged model is the run that made the version.
            let named = new.source.strip_prefix("models:/").filter(|id| !id.contains('/'));
            let model = named.or(Some(new.model_id.as_str()).filter(|id| !id.is_empty()));
            if let Some(model) = model {
                new.run_id = self.logged_model(model).await?.source_run;
            }
        }
        self.write(move |w| {
            let id = model_number(&mut w.db, &new.name)?;
            let sql = "SELECT COALESCE(MAX(version), 0) + 1 FROM (SELECT version FROM model_versions WHERE model = ?1
                       UNION ALL SELECT version FROM removed_versions WHERE model = ?1) AS given";
            let version: i64 = w.db.one(sql, bind![id])?;
            let created = now();
            let made = ModelVersion {
                name: new.name,
                version,
                source: new.source,
                location,
                run_id: new.run_id,
                run_link: new.run_link,
                description: new.description,
                stage: STAGES[0].into(),
                created,
                updated: created,
                tags: settled(new.tags),
                aliases: Vec::new(),
            };
            let sql =
                "INSERT INTO model_versions (model, version, source, location, run_id, run_link, description, stage, created, updated)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?9)";
            let ModelVersion { source, location, run_id, run_link, description, stage, .. } = &made;
            w.db.execute(sql, bind![id, version, source, location, run_id, run_link, description, stage, created])?;
            w.set_version_tags(id, version, &made.tags)?;
            w.touch_model(id)?;
            w.announce(id, Change::Version(&made))?;
            Ok(made)
        })
        .await
    }

    /// Where the files of a version to be made are, once its source has been looked at.
    async fn location_of(&self, new: &NewModelVersion) -> Result<String> {
        let source = new.source.as_str();
        let refuse = |why: &str| Err(Error::invalid(format!("Invalid model version source: '{source}'. {why}")));
        // A prompt is in its tags; clients name something without meaning as its source.
        let is_prompt = new.tags.iter().any(|tag| tag.key == PROMPT && tag.value == "true");
        if is_prompt && !source.contains(['/', ':']) {
            return Ok(source.to_string());
        }
        if climbs(source) {
            return refuse(
                "If supplying a source as an http, https, local file path, ftp, objectstore, or mlflow-artifacts uri, an absolute path must \
                 be provided without relative path references present. Please provide an absolute path.",
            );
        }
        if let Some(named) = source.strip_prefix("models:/") {
            return match named.trim_start_matches('/').split_once('/') {
                None => Ok(self.logged_model(named).await?.artifact_uri),
                Some((name, version)) => match version.parse() {
                    Ok(version) => Ok(self.model_version(name, version).await?.location),
                    Err(_) => refuse("It names no version by its number."),
                },
            };
        }
        let model_root = if new.model_id.is_empty() { None } else { Some(self.logged_model(&new.model_id).await?.artifact_uri) };
        if let Some(below) = source.strip_prefix("runs:/") {
            let (run, path) = below.split_once('/').unwrap_or((below, ""));
            if !new.run_id.is_empty() && new.run_id != run {
                return refuse("It is not of the run that run_id names.");
            }
            return match self.run_info(run).await {
                Ok(run) => Ok(format!("{}/{path}", run.artifact_uri)),
                Err(error) if error.code == ErrorCode::ResourceDoesNotExist && !new.run_id.is_empty() => Ok(source.to_string()),
                Err(error) => Err(error),
            };
        }
        let is_local = source.starts_with("file:") || !source.contains(":/");
        let is_own = source.starts_with("mlflow-artifacts:");
        if !is_local && !is_own {
            // It may be of a run of another server, so the run need not be here.
            return Ok(source.to_string());
        }
        let run_root = if new.run_id.is_empty() { None } else { Some(self.run_info(&new.run_id).await?.artifact_uri) };
        let below = |root: &Option<String>| {
            root.as_ref()
                .is_some_and(|root| source.strip_prefix(root.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
        };
        let named = run_root.is_some() || model_root.is_some();
        if (is_local || named) && !below(&run_root) && !below(&model_root) {
            return refuse(
                "To use a local path as a model version source, the run_id request parameter has to be specified and the local path has to be \
                 contained within the artifact directory of the run specified by the run_id.",
            );
        }
        Ok(source.to_string())
    }

    /// A version of a registered model.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn model_version(&self, name: &str, version: i64) -> Result<ModelVersion> {
        let name = name.to_string();
        self.read(move |db| model_version(db, &name, version)).await
    }

    /// The newest version of each stage in `stages`, or of every stage.
    ///
    /// # Errors
    /// When the model is missing or a word names no stage.
    pub async fn latest_versions(&self, name: &str, stages: &[&str]) -> Result<Vec<ModelVersion>> {
        let stages = stages.iter().map(|s| stage(s)).collect::<Result<Vec<_>>>()?;
        let latest = self.registered_model(name).await?.latest;
        Ok(latest.into_iter().filter(|v| stages.is_empty() || stages.contains(&v.stage.as_str())).collect())
    }

    /// Changes the description of a version.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn describe_version(&self, name: &str, version: i64, description: String) -> Result<ModelVersion> {
        limits::description(&description)?;
        let model = name.to_string();
        self.write(move |w| {
            let id = w.model_of(&model, version)?;
            let sql = "UPDATE model_versions SET description = ?3, updated = ?4 WHERE model = ?1 AND version = ?2";
            w.db.execute(sql, bind![id, version, &description, now()])?;
            Ok(())
        })
        .await?;
        self.model_version(name, version).await
    }

    /// Moves a version to a stage; `archive` moves those that are there to `Archived`.
    ///
    /// # Errors
    /// When it is missing, the word names no stage, or the stage is one that nothing is archived from.
    pub async fn set_version_stage(&self, name: &str, version: i64, to: &str, archive: bool) -> Result<ModelVersion> {
        let to = stage(to)?;
        if archive && !matches!(to, "Staging" | "Production") {
            return Err(Error::invalid(format!(
                "Model version transition cannot archive existing model versions because '{to}' is not an Active stage. Valid stages are \
                 Staging, Production"
            )));
        }
        let model = name.to_string();
        self.write(move |w| {
            let id = w.model_of(&model, version)?;
            if archive {
                let sql = "UPDATE model_versions SET stage = 'Archived', updated = ?4 WHERE model = ?1 AND version <> ?2 AND stage = ?3";
                w.db.execute(sql, bind![id, version, to, now()])?;
            }
            let sql = "UPDATE model_versions SET stage = ?3, updated = ?4 WHERE model = ?1 AND version = ?2";
            w.db.execute(sql, bind![id, version, to, now()])?;
            w.touch_model(id)
        })
        .await?;
        self.model_version(name, version).await
    }

    /// Deletes a version, and the aliases that name it.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn delete_model_version(&self, name: String, version: i64) -> Result<()> {
        self.write(move |w| {
            let id = w.model_of(&name, version)?;
            for sql in [
                "DELETE FROM model_version_tags WHERE model = ?1 AND version = ?2",
                "DELETE FROM registered_model_aliases WHERE model = ?1 AND version = ?2",
                "DELETE FROM model_versions WHERE model = ?1 AND version = ?2",
            ] {
                w.db.execute(sql, bind![id, version])?;
            }
            w.remove_number(id, version)?;
            w.touch_model(id)
        })
        .await
    }

    /// Looks for versions: those changed last first, unless the query says otherwise.
    ///
    /// # Errors
    /// When the query makes no sense.
    pub async fn search_model_versions(&self, query: &Query) -> Result<Page<ModelVersion>> {
        let filter = MODEL_VERSIONS.filter(&query.filter)?;
        let pages = Pages::of(&["versions", &query.filter, &query.order_by.join("\n"), &search::of_key(&query.visible)]);
        let from = pages.position(query.page_token.as_deref())?;
        let mut sql = Sql::new(VERSIONS);
        sql.push(" WHERE TRUE");
        search::and_visible(&mut sql, &query.visible, "m.id", "m.name");
        for comparison in filter {
            sql.push(" AND ");
            search::of_version(&mut sql, comparison);
        }
        sql.push(" ORDER BY ");
        for order in MODEL_VERSIONS.orders(&query.order_by)? {
            search::order_registry(&mut sql, "v", &order);
        }
        if query.order_by.is_empty() {
            sql.push("v.updated DESC, ");
        }
        let most = query.max_results;
        sql.push("m.name, v.version DESC LIMIT ").bind(most as i64 + 1).push(" OFFSET ").bind(from);
        self.read(move |db| {
            let found = sql.rows(db)?;
            Ok(pages.cut(with_belongings(db, found)?, from, most))
        })
        .await
    }
}

fn model_number(db: &mut Db, name: &str) -> Result<i64> {
    db.optional("SELECT id FROM registered_models WHERE name = ?1", bind![name])?.ok_or_else(|| no_model(name))
}

fn model_version(db: &mut Db, name: &str, version: i64) -> Result<ModelVersion> {
    let found = db.rows(&format!("{VERSIONS} WHERE m.name = ?1 AND v.version = ?2"), bind![name, version])?;
    with_belongings(db, found)?.pop().ok_or_else(|| no_version(name, version))
}

/// A version without what belongs to it, and the number of its model.
struct Bare(i64, ModelVersion);

/// The versions in their order, with their tags and aliases.
fn with_belongings(db: &mut Db, found: Vec<Bare>) -> Result<Vec<ModelVersion>> {
    let at: HashMap<(i64, i64), usize> = found.iter().enumerate().map(|(at, Bare(model, v))| ((*model, v.version), at)).collect();
    let mut found: Vec<ModelVersion> = found.into_iter().map(|Bare(_, version)| version).collect();
    let numbers = Vec::from_iter(at.keys().copied());
    for chunk in numbers.chunks(search::CHUNK) {
        let wanted: Vec<String> = chunk.iter().map(|(model, version)| format!("({model},{version})")).collect();
        // The order of the join is said, so that tags of other versions of the model are not read.
        let tags = Sql::new(format!(
            "WITH wanted (model, version) AS (VALUES {}) SELECT t.model, t.version, t.key, t.value FROM wanted w{}
             model_version_tags t ON t.model = w.model AND t.version = w.version ORDER BY t.model, t.version, t.key",
            wanted.join(","),
            search::join_in_order(db.dialect())
        ));
        tags.each(db, |row| {
            if let Some(at) = at.get(&(row.get(0)?, row.get(1)?)) {
                found[*at].tags.push(Pair { key: row.get(2)?, value: row.get(3)? });
            }
            Ok(())
        })?;
    }
    let mut models: Vec<i64> = at.keys().map(|(model, _)| *model).collect();
    models.sort_unstable();
    models.dedup();
    for chunk in models.chunks(search::CHUNK) {
        let before = "SELECT model, version, alias FROM registered_model_aliases WHERE model";
        each_of(db, before, chunk, " ORDER BY model, alias", |row| {
            if let Some(at) = at.get(&(row.get(0)?, row.get(1)?)) {
                found[*at].aliases.push(row.get(2)?);
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// Those that are there of `ids`, in their order.
fn registered_models(db: &mut Db, ids: &[i64]) -> Result<Vec<RegisteredModel>> {
    let mut found: HashMap<i64, RegisteredModel> = HashMap::with_capacity(ids.len());
    for chunk in ids.chunks(search::CHUNK) {
        let mut by_name: HashMap<String, i64> = HashMap::new();
        each_of(db, "SELECT id, name, description, created, updated FROM registered_models WHERE id", chunk, "", |row| {
            let model = RegisteredModel {
                name: row.get(1)?,
                description: row.get(2)?,
                created: row.get(3)?,
                updated: row.get(4)?,
                tags: Vec::new(),
                aliases: Vec::new(),
                latest: Vec::new(),
            };
            by_name.insert(model.name.clone(), row.get(0)?);
            found.insert(row.get(0)?, model);
            Ok(())
        })?;
        let before = "SELECT model, key, value FROM registered_model_tags WHERE model";
        each_of(db, before, chunk, " ORDER BY model, key", |row| {
            let Some(model) = found.get_mut(&row.get::<i64>(0)?) else { return Ok(()) };
            model.tags.push(Pair { key: row.get(1)?, value: row.get(2)? });
            Ok(())
        })?;
        let before = "SELECT model, alias, version FROM registered_model_aliases WHERE model";
        each_of(db, before, chunk, " ORDER BY model, alias", |row| {
            let Some(model) = found.get_mut(&row.get::<i64>(0)?) else { return Ok(()) };
            model.aliases.push((row.get(1)?, row.get(2)?));
            Ok(())
        })?;
        let before =
            format!("{VERSIONS} WHERE (v.model, v.stage, v.version) IN (SELECT model, stage, MAX(version) FROM model_versions WHERE model");
        let mut latest = Vec::new();
        each_of(db, &before, chunk, " GROUP BY model, stage) ORDER BY v.model, v.version", |row| {
            latest.push(Bare::from_row(row)?);
            Ok(())
        })?;
        for version in with_belongings(db, latest)? {
            if let Some(model) = by_name.get(&version.name).and_then(|id| found.get_mut(id)) {
                model.latest.push(version);
            }
        }
    }
    Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
}

impl Writer {
    /// Notes that a version of this number was there: none is made again that has it.
    pub(super) fn remove_number(&mut self, model: i64, version: i64) -> Result<()> {
        let sql = "INSERT INTO removed_versions (model, version) VALUES (?1, ?2)
                   ON CONFLICT (model) DO UPDATE SET version = excluded.version WHERE excluded.version > removed_versions.version";
        self.db.execute(sql, bind![model, version]).map(drop)
    }

    /// The number of the model that has this version.
    fn model_of(&mut self, name: &str, version: i64) -> Result<i64> {
        let id = model_number(&mut self.db, name)?;
        let sql = "SELECT version FROM model_versions WHERE model = ?1 AND version = ?2";
        let known: Option<i64> = self.db.optional(sql, bind![id, version])?;
        known.map(|_| id).ok_or_else(|| no_version(name, version))
    }

    fn free_model_name(&mut self, name: &str) -> Result<()> {
        match model_number(&mut self.db, name) {
            Ok(_) => Err(Error::new(ErrorCode::ResourceAlreadyExists, format!("Registered Model (name={name}) already exists."))),
            Err(e) if e.code == ErrorCode::ResourceDoesNotExist => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Sets tags of different names.
    fn set_version_tags(&mut self, model: i64, version: i64, tags: &[Pair]) -> Result<()> {
        let into = "INSERT INTO model_version_tags (model, version, key, value)";
        let rows = tags.iter().map(|tag| [model.into(), version.into(), (&tag.key).into(), (&tag.value).into()]);
        self.db.insert(into, "ON CONFLICT (model, version, key) DO UPDATE SET value = excluded.value", rows)
    }

    fn touch_model(&mut self, id: i64) -> Result<()> {
        self.db.execute("UPDATE registered_models SET updated = ?2 WHERE id = ?1", bind![id, now()])?;
        Ok(())
    }
}

fn model_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid("Registered model name cannot be empty."));
    }
    if name.contains(['/', ':']) {
        return Err(Error::invalid(format!("Invalid model name '{name}'. Names cannot contain '/' or ':'.")));
    }
    limits::length("name", 256, name)
}

fn tag(tag: &Pair) -> Result<()> {
    limits::key("Tag", "key", &tag.key)?;
    limits::length("value", 100_000, &tag.value)
}

fn alias_name(alias: &str) -> Result<()> {
    let fits = !alias.is_empty() && alias.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-'));
    if !fits {
        return Err(Error::invalid(format!(
            "Invalid alias name: '{alias}'. Names may only contain alphanumerics, underscores (_), and dashes (-)."
        )));
    }
    if alias.eq_ignore_ascii_case("latest") {
        return Err(Error::invalid("'latest' alias name (case insensitive) is reserved."));
    }
    let is_version = alias.strip_prefix(['v', 'V']).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    if is_version {
        return Err(Error::invalid(format!("Version alias name '{alias}' is reserved.")));
    }
    limits::length("alias", 255, alias)
}

fn stage(word: &str) -> Result<&'static str> {
    STAGES
        .into_iter()
        .find(|s| s.eq_ignore_ascii_case(word))
        .ok_or_else(|| Error::invalid(format!("Invalid Model Version stage: {word}. Value must be one of {}.", STAGES.join(", "))))
}

/// A source with its scheme in small letters: `FILE:` is no less a file.
fn plain_scheme(source: &str) -> String {
    match source.split_once(':') {
        // One letter is a drive.
        Some((scheme, rest)) if scheme.len() > 1 && !scheme.contains('/') => format!("{}:{rest}", scheme.to_ascii_lowercase()),
        _ => source.to_string(),
    }
}

/// Whether a source has parts that lead upwards, plain or encoded.
fn climbs(source: &str) -> bool {
    let path = source.split_once(":/").map_or(source, |(_, path)| path);
    let parts = path.split('/').filter(|part| !part.is_empty());
    parts.clone().any(|part| part == "..") || parts.clone().any(|part| part.contains('%') && ArtifactPath::parse(part).is_err())
}

fn no_model(name: &str) -> Error {
    Error::missing(format!("Registered Model with name={name} not found"))
}

fn no_version(name: &str, version: i64) -> Error {
    Error::missing(format!("Model Version (name={name}, version={version}) not found"))
}

/// A row of [`VERSIONS`].
impl FromRow for Bare {
    fn from_row(row: &Row<'_>) -> Result<Bare> {
        let version = ModelVersion {
            version: row.get(1)?,
            name: row.get(2)?,
            source: row.get(3)?,
            location: row.get(4)?,
            run_id: row.get(5)?,
            run_link: row.get(6)?,
            description: row.get(7)?,
            stage: row.get(8)?,
            created: row.get(9)?,
            updated: row.get(10)?,
            tags: Vec::new(),
            aliases: Vec::new(),
        };
        Ok(Bare(row.get(0)?, version))
    }
}
