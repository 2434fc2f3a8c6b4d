//! SQL in this program: one engine for HTTP and PostgreSQL's protocol, where it is built with the feature `sql`.

#[cfg(feature = "sql")]
mod engine;
#[cfg(feature = "sql")]
mod postgres;

use std::sync::Arc;
use std::time::Duration;

use kilter_runtime::Service;
use kilter_server::sql::Sql;

#[cfg(feature = "sql")]
pub use postgres::{ServeArgs, serve};

/// What answers questions about a project, each within so long; none: this program does not.
#[cfg(feature = "sql")]
pub fn engine(service: &Arc<Service>, time: Duration) -> anyhow::Result<Option<Arc<dyn Sql>>> {
    let limits = kilter_sql::Limits { time, ..kilter_sql::Limits::default() };
    let engine = kilter_sql::Engine::new(Arc::clone(service), limits)?;
    Ok(Some(engine::shared(Arc::new(engine), |_| ())))
}

#[cfg(not(feature = "sql"))]
pub fn engine(_: &Arc<Service>, _: Duration) -> anyhow::Result<Option<Arc<dyn Sql>>> {
    Ok(None)
}
