//! Who has which shard of a project that several workers share.

use std::sync::{Arc, PoisonError, RwLock};

use kilter_core::Value;

use crate::project::{Project, WorkersDef};
use crate::service::Service;

/// Where a shard is.
#[derive(Clone)]
pub enum Place {
    /// With no worker that this one knows of, or on its way from one to another.
    Nobody,
    /// With this worker.
    Here(Arc<Service>),
    /// With another worker, under its name, which can be reached at this address.
    There { worker: String, address: String },
}

/// The shards as one worker knows them.
pub struct Shards {
    /// The definitions, without a shard.
    pub project: Arc<Project>,
    pub workers: WorkersDef,
    /// The name of this worker.
    pub worker: String,
    places: RwLock<Vec<Place>>,
}

impl Shards {
    pub fn new(project: Arc<Project>, workers: WorkersDef, worker: String) -> Shards {
        let places = RwLock::new(vec![Place::Nobody; workers.shards as usize]);
        Shards { project, workers, worker, places }
    }

    pub fn of_key(&self, key: &Value) -> Option<u32> {
        self.workers.shard_of(key)
    }

    pub fn place(&self, shard: u32) -> Option<Place> {
        self.places.read().unwrap_or_else(PoisonError::into_inner).get(shard as usize).cloned()
    }

    /// All of them, in order.
    pub fn places(&self) -> Vec<Place> {
        self.places.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A shard has come here, or has left.
    pub fn set(&self, shard: u32, place: Place) {
        if let Some(known) = self.places.write().unwrap_or_else(PoisonError::into_inner).get_mut(shard as usize) {
            *known = place;
        }
    }

    /// A worker has said that it has a shard. What is here is known better.
    pub fn hear(&self, shard: u32, worker: String, address: String) {
        let place = if worker == self.worker { Place::Nobody } else { Place::There { worker, address } };
        if let Some(known) = self.places.write().unwrap_or_else(PoisonError::into_inner).get_mut(shard as usize)
            && !matches!(known, Place::Here(_))
        {
            *known = place;
        }
    }
}
