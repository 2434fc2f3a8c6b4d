//! Holds what a key is to see against the tables of the project, before the key is made.

use std::path::PathBuf;

use anyhow::Context;
use kilter_runtime::project::Project;
use kilter_runtime::{Service, StartOptions};
use kilter_sql::{Engine, Grant, Limits};

use super::{Logged, tracking};

/// Refuses grants that make no sense, or that the tables under the project's definitions do not fit. Without a project it is their text alone that is looked at.
///
/// # Errors
/// With the first that is wrong.
pub async fn check_grants(project: Option<Project>, grants: &[String]) -> anyhow::Result<()> {
    for text in grants {
        Grant::parse(text).with_context(|| format!("the grant `{text}`"))?;
    }
    let Some(mut project) = project else { return Ok(()) };
    if grants.is_empty() {
        return Ok(());
    }
    // The tables are those of a project without data: a server may have the data open, and it is not asked for.
    let folder = Folder::new()?;
    project.definitions.server.data = folder.0.display().to_string();
    (project.definitions.lake, project.shard) = (None, None);
    let service = Service::start(project, StartOptions { schedules: false, ..StartOptions::default() }).await?;
    let engine = Engine::new(std::sync::Arc::clone(&service), Limits::default())?.with(tracking::tables(&Logged::default()));
    let checked = engine.check_grants(grants);
    drop(engine);
    service.shutdown().await?;
    Ok(checked?)
}

/// A folder that goes.
struct Folder(PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Folder> {
        let path = std::env::temp_dir().join(format!("kilter-grants-{}", std::process::id()));
        // One that is there is somebody else's.
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}, where the tables are looked at", path.display()))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "a folder of the moment stays behind");
        }
    }
}
