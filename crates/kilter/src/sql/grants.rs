//! Holds what a key is to see against the tables of the project, before the key is made.

use std::sync::Arc;

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
    // The definitions are written there, and may say what sources are opened with: nobody else reads it.
    let folder =
        tempfile::Builder::new().prefix("kilter-grants-").tempdir().context("cannot make a folder where the tables are looked at")?;
    project.definitions.server.data = folder.path().display().to_string();
    (project.definitions.lake, project.shard) = (None, None);
    let service = Service::start(project, StartOptions { schedules: false, ..StartOptions::default() }).await?;
    let engine = Engine::new(Arc::clone(&service), Limits::default()).map(|engine| engine.with(tracking::tables(&Logged::default())));
    let checked = engine.and_then(|engine| Ok(engine.check_grants(grants)?));
    service.shutdown().await?;
    checked
}
