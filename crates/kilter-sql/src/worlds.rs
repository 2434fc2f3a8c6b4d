//! What there is to ask for: the tables and functions under one set of definitions, as those with the same rights see them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider, TableFunctionImpl};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;
use kilter_runtime::Service;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use crate::catalogue::{Catalogue, SCHEMAS};
use crate::error::Result;
use crate::functions;
use crate::partials::{ByPieces, Partials};
use crate::rights::{self, Rights};
use crate::scan::Provider;
use crate::sealed::Sealed;
use crate::tables::{self, Placed, Remembered, SEARCH_PATH};
use crate::utc;
use crate::work::Threads;

/// Worlds of those who may not see everything that are kept when nobody uses them.
const WORLDS: usize = 16;

/// What there is under one set of definitions, for those who have the same rights.
pub struct World {
    pub service: Sealed<Arc<Service>>,
    pub rights: Rights,
    pub state: Sealed<SessionState>,
    /// The schema in which each name without one is found.
    pub schemas: BTreeMap<String, &'static str>,
    pub placed: Vec<Placed>,
    /// Grants of which the log was told that they cannot be given.
    told: Mutex<BTreeSet<String>>,
    pub catalogue: Catalogue,
}

/// The worlds under the definitions in force.
pub struct Worlds {
    means: Means,
    remembered: Remembered,
    /// What else there is, whatever the definitions.
    more: Vec<Placed>,
    made: Mutex<Made>,
}

/// What worlds are made with.
#[derive(Clone)]
pub struct Means {
    pub database: String,
    /// That compute at a time.
    pub threads: usize,
    pub memory: Arc<RuntimeEnv>,
    pub partials: Arc<Partials>,
}

#[derive(Default)]
struct Made {
    /// Of those who may see everything.
    whole: Option<Arc<World>>,
    /// Of those who may see what grants say, as long as somebody has one: who asks first makes it, and others with the same rights wait.
    parts: HashMap<Rights, Arc<AsyncMutex<Weak<World>>>>,
    /// Those that stay when nobody has them; who was asked about lately comes last.
    kept: Vec<Arc<World>>,
}

impl Made {
    fn keep(&mut self, part: &Arc<World>) {
        let is_current = |whole: &Arc<World>| Arc::ptr_eq(&whole.service.plan, &part.service.plan);
        if self.whole.as_ref().is_some_and(is_current) {
            self.kept.retain(|world| !Arc::ptr_eq(world, part));
            if self.kept.len() == WORLDS {
                self.kept.remove(0);
            }
            self.kept.push(Arc::clone(part));
        }
    }
}

impl Worlds {
    pub fn new(means: Means) -> Worlds {
        Worlds { means, remembered: Remembered::default(), more: Vec::new(), made: Mutex::default() }
    }

    /// Has these tables as well, beside those of the project.
    pub fn with(mut self, tables: Vec<Placed>) -> Worlds {
        self.more = tables;
        self
    }

    /// How many there are of those who may not see everything.
    pub fn parts(&self) -> usize {
        let made = self.made();
        made.parts.values().filter(|part| part.try_lock().is_ok_and(|world| world.strong_count() > 0)).count()
    }

    /// Everything.
    pub fn whole(&self, service: &Arc<Service>) -> Result<Arc<World>> {
        let service = service.current();
        let mut made = self.made();
        // The same hash may have other comments, and whoever asks is known by the plan itself.
        if let Some(whole) = made.whole.as_ref().filter(|world| Arc::ptr_eq(&world.service.plan, &service.plan)) {
            return Ok(Arc::clone(whole));
        }
        let mut placed = tables::all(&service, &self.remembered);
        placed.extend(self.more.iter().cloned());
        let whole = Arc::new(World::of(&service, &self.means, Rights::Everything, placed, tables::functions(&service, None))?);
        *made = Made { whole: Some(Arc::clone(&whole)), ..Made::default() };
        Ok(whole)
    }

    /// What there is for whoever has these rights.
    pub async fn of(&self, service: &Arc<Service>, rights: &Rights, threads: &Threads, until: Instant) -> Result<Arc<World>> {
        let whole = self.whole(service)?;
        let Rights::Granted(grants) = rights else { return Ok(whole) };
        let part = {
            let mut made = self.made();
            // What nobody has or waits for any more.
            made.parts.retain(|_, part| Arc::strong_count(part) > 1 || part.try_lock().is_ok_and(|world| world.strong_count() > 0));
            Arc::clone(made.parts.entry(rights.clone()).or_default())
        };
        let mut known = part.lock().await;
        if let Some(world) = known.upgrade().filter(|world| Arc::ptr_eq(&world.service.plan, &whole.service.plan)) {
            self.made().keep(&world);
            return Ok(world);
        }
        let (grants, means) = (Arc::clone(grants), self.means.clone());
        let world = Arc::new(threads.run(until, async move { World::part(&whole, &grants, &means) }).await?);
        *known = Arc::downgrade(&world);
        self.made().keep(&world);
        Ok(world)
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    /// What grants show of the whole one.
    fn part(whole: &World, grants: &Arc<[String]>, means: &Means) -> Result<World> {
        let shown = rights::shown(&whole.placed, grants, &whole.state, &mut |grant, e| {
            if whole.told.lock().unwrap_or_else(PoisonError::into_inner).insert(grant.to_owned()) {
                tracing::warn!(grant, reason = e.message, "a grant of a key cannot be given: its table is refused");
            }
        });
        let views = shown.iter().filter(|shown| shown.placed.schema == "features");
        let views = views.map(|shown| (shown.placed.name.clone(), shown.veil.clone())).collect();
        let functions = tables::functions(&whole.service, Some(views));
        let placed = shown.into_iter().map(|shown| shown.placed).collect();
        World::of(&whole.service, means, Rights::Granted(Arc::clone(grants)), placed, functions)
    }

    fn of(
        service: &Arc<Service>,
        means: &Means,
        rights: Rights,
        placed: Vec<Placed>,
        functions: Vec<(&'static str, Arc<dyn TableFunctionImpl>)>,
    ) -> Result<World> {
        let database = means.database.as_str();
        let catalog = Arc::new(MemoryCatalogProvider::new());
        let mut names = BTreeMap::new();
        for (_, schema) in SCHEMAS {
            let tables = MemorySchemaProvider::new();
            for placed in placed.iter().filter(|placed| placed.schema == schema) {
                tables.register_table(placed.name.clone(), Arc::new(Provider(Arc::clone(&placed.table))))?;
                if SEARCH_PATH.contains(&schema) {
                    names.entry(placed.name.clone()).or_insert(schema);
                }
            }
            catalog.register_schema(schema, Arc::new(tables))?;
        }
        let mut config = SessionConfig::new()
            .with_default_catalog_and_schema(database, SEARCH_PATH[0])
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(false)
            .with_target_partitions(means.threads);
        // Moments are in UTC and say so.
        config.options_mut().execution.time_zone = Some("UTC".into());
        let mut state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(Arc::clone(&means.memory))
            .with_default_features()
            .with_physical_optimizer_rule(Arc::new(ByPieces(Arc::clone(&means.partials))))
            .build();
        for (name, function) in functions {
            state.register_udtf(name, function);
        }
        functions::bound(&mut state)?;
        utc::without_zones(&mut state)?;
        state.catalog_list().register_catalog(database.to_owned(), catalog);
        let catalogue = Catalogue::new(database, &placed)?;
        let state = Sealed::new(state);
        let service = Sealed::new(Arc::clone(service));
        Ok(World { service, rights, state, schemas: names, placed, told: Mutex::default(), catalogue })
    }

    /// Every table: its schema, its name, and what its rows are.
    pub fn tables(&self) -> impl Iterator<Item = (&'static str, &str, &SchemaRef)> {
        self.placed.iter().map(|placed| (placed.schema, placed.name.as_str(), placed.table.schema()))
    }
}
