//! SQL in this program: one engine for HTTP, PostgreSQL's protocol and Arrow Flight SQL, where it is built with the feature `sql`.

#[cfg(feature = "sql")]
mod engine;
#[cfg(feature = "sql")]
mod grants;
#[cfg(feature = "sql")]
mod protocols;
#[cfg(feature = "sql")]
mod tracking;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kilter_runtime::Service;
use kilter_server::sql::Sql;
use kilter_tracking::Tracking;

#[cfg(feature = "sql")]
pub use grants::check_grants;
#[cfg(feature = "sql")]
pub use protocols::{ServeArgs, serve};

#[cfg(not(feature = "sql"))]
pub async fn check_grants(_: Option<kilter_runtime::project::Project>, grants: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(
        grants.is_empty(),
        "this program answers no SQL, and cannot tell whether a grant fits\n  hint: make the key with one that was built with `--features sql`"
    );
    Ok(())
}

/// The store of what MLflow's clients log, once the server that has it is there.
#[derive(Clone, Default)]
pub struct Logged(Arc<OnceLock<Tracking>>);

impl Logged {
    /// Of the one server; none: it could not be opened, which the server's log tells.
    pub fn set(&self, tracking: Option<&Tracking>) {
        if let Some(tracking) = tracking {
            self.0.get_or_init(|| tracking.clone());
        }
    }
}

/// What answers questions about a project, each within so long; none: this program does not.
#[cfg(feature = "sql")]
pub fn engine(service: &Arc<Service>, time: Duration, logged: &Logged) -> anyhow::Result<Option<Arc<dyn Sql>>> {
    let limits = kilter_sql::Limits { time, ..kilter_sql::Limits::default() };
    let engine = kilter_sql::Engine::new(Arc::clone(service), limits)?.with(tracking::tables(logged));
    Ok(Some(engine::shared(Arc::new(engine), |_| ())))
}

#[cfg(not(feature = "sql"))]
pub fn engine(_: &Arc<Service>, _: Duration, _: &Logged) -> anyhow::Result<Option<Arc<dyn Sql>>> {
    Ok(None)
}
