//! The project's models in the registry that MLflow's clients see: each version with a folder that they load, and the aliases that say what is in service.
//!
//! They go one way. What decides is `kilter.db` and the log; a client that wants to change it is told how (`registry.rs`).

use std::collections::{HashMap, HashSet};

use kilter_core::EventTime;
use kilter_store::metadata::{CHALLENGER, CHAMPION, ModelSummary, ModelVersion};
use kilter_tracking::{ArtifactPath, Error, ErrorCode, KeptVersion, Pair, Result};

use super::super::artifacts::OWN;
use super::super::package;
use super::{Copied, Own, internal, millis};

/// The aliases that are the project's own; others of its models are the clients' to set.
pub const ALIASES: [&str; 2] = [CHAMPION, CHALLENGER];
/// Where versions lie whose run is not among those that clients see.
const WITHOUT_RUN: &str = "mlflow-artifacts:/models";

/// How far the models are copied.
#[derive(Default)]
pub struct Models {
    /// As they were when they were copied whole.
    copied: HashMap<String, ModelSummary>,
    /// The newest version in the clients' registry, of models that are kept there.
    newest: HashMap<String, i64>,
    /// Names that a client has taken, which was told.
    theirs: HashSet<String>,
}

impl Own {
    /// Takes the names, before anything that may take long; those models that have changed since they were copied.
    pub(super) async fn reserve(&self, state: &mut Copied) -> Result<Vec<ModelSummary>> {
        let state = &mut state.models;
        let mut changed = Vec::new();
        for model in self.metadata.models().await.map_err(internal)? {
            let name = &model.model;
            if state.copied.get(name) == Some(&model) {
                continue;
            }
            if !state.newest.contains_key(name) {
                // Their model is there still: nothing to write.
                if state.theirs.contains(name) && self.tracking.registered_model(name).await.is_ok() {
                    continue;
                }
                let about = format!(
                    "A model of the project {}. `kilter promote` and `kilter rollback` say which version is in service.",
                    self.project
                );
                let tags = vec![Pair { key: "kilter.project".into(), value: self.project.clone() }];
                match self.tracking.keep_model(name, &about, tags).await? {
                    Some(newest) => {
                        state.theirs.remove(name);
                        state.newest.insert(name.clone(), newest);
                    }
                    None => {
                        if state.theirs.insert(name.clone()) {
                            tracing::warn!(
                                model = name,
                                "a client of MLflow registered a model of this name first: the project's own is not shown there; rename or delete the other to see it"
                            );
                        }
                        continue;
                    }
                }
            }
            changed.push(model);
        }
        Ok(changed)
    }

    /// Brings models up to date that [`Own::reserve`] named.
    pub(super) async fn copy_models(&self, state: &mut Copied, changed: Vec<ModelSummary>) -> Result<()> {
        let state = &mut state.models;
        for model in changed {
            let name = &model.model;
            let newest = state.newest.entry(name.clone()).or_default();
            if i64::from(model.latest) > *newest {
                let mut versions = self.metadata.versions(name).await.map_err(internal)?;
                versions.retain(|version| i64::from(version.version) > *newest);
                for version in versions.iter().rev() {
                    self.copy_version(version).await?;
                    *newest = i64::from(version.version);
                }
            }
            let there = self.tracking.registered_model(name).await?.aliases;
            for alias in ALIASES {
                let wanted = model.aliases.get(alias).map(|version| i64::from(*version));
                let found = there.iter().find(|(known, _)| known == alias).map(|(_, version)| *version);
                match wanted {
                    Some(version) if found != wanted => self.tracking.set_alias(name.clone(), alias.into(), version).await?,
                    None if found.is_some() => self.tracking.delete_alias(name.clone(), alias.into()).await?,
                    _ => {}
                }
            }
            state.copied.insert(name.clone(), model);
        }
        Ok(())
    }

    /// Its files, and then the version itself: one that is there can be loaded.
    async fn copy_version(&self, version: &ModelVersion) -> Result<()> {
        let (spec, number) = (&version.spec, version.version);
        let source = self.place_of(version).await;
        let (service, asked) = (self.service.current(), version.clone());
        let packed = tokio::task::spawn_blocking(move || {
            let created = EventTime(asked.spec.created_at).to_string();
            service.packed(&asked).map(|packed| package::files(&asked, packed, &created))
        });
        match packed.await.map_err(|e| Error::new(ErrorCode::InternalError, e.to_string()))? {
            Ok(files) => {
                let folder = ArtifactPath::parse(source.trim_start_matches(OWN))?;
                for (path, bytes) in files {
                    let mut upload = self.tracking.artifacts().upload(&folder.join(&ArtifactPath::parse(&path)?)).await?;
                    upload.write(&bytes).await?;
                    upload.finish().await?;
                }
            }
            // The versions behind it must not wait for a file that will not come back.
            Err(error) => {
                tracing::warn!(model = spec.model, version = number, error = ?error, "a version is shown to MLflow's clients without its files");
            }
        }
        let known = [
            ("kind", Some(spec.kind.clone())),
            ("artifact", Some(spec.artifact.clone())),
            ("definitions", spec.definition_hash.clone()),
            ("trained_from", spec.trained_from.map(|at| EventTime(at).to_string())),
            ("trained_to", spec.trained_to.map(|at| EventTime(at).to_string())),
        ];
        let tags = known.into_iter().filter_map(|(key, value)| Some(Pair { key: format!("kilter.{key}"), value: value? }));
        let new = KeptVersion {
            name: spec.model.clone(),
            version: i64::from(number),
            source,
            run_id: spec.run_id.clone().unwrap_or_default(),
            description: spec.notes.clone(),
            created: millis(spec.created_at),
            tags: tags.collect(),
        };
        self.tracking.keep_version(new).await
    }

    /// The folder of a version: below its run's, where that is this server's.
    async fn place_of(&self, version: &ModelVersion) -> String {
        let run = match &version.spec.run_id {
            Some(run) => self.tracking.run_info(run).await.ok(),
            None => None,
        };
        match run {
            Some(run) if run.artifact_uri.starts_with(OWN) => format!("{}/model", run.artifact_uri),
            _ => format!("{WITHOUT_RUN}/{}/{}", version.spec.model, version.version),
        }
    }
}
