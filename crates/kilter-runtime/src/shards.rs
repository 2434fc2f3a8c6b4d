//! Who has which shard of a project that several workers share.

use std::sync::{Arc, PoisonError, RwLock};

use kilter_core::{Offset, Value};

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
    known: RwLock<Vec<Known>>,
}

/// What is known of one shard.
#[derive(Clone, Default)]
struct Known {
    here: Option<Arc<Service>>,
    /// Who said last that it has the shard, and its address.
    said: Option<(String, String)>,
    /// Next offset of the copy that is kept here meanwhile.
    copy: Option<Offset>,
}

impl Shards {
    pub fn new(project: Arc<Project>, workers: WorkersDef, worker: String) -> Shards {
        let known = RwLock::new(vec![Known::default(); workers.shards as usize]);
        Shards { project, workers, worker, known }
    }

    /// The column of a source that says which shard an event belongs to.
    pub fn key_of(&self, source: &str) -> &str {
        self.project.definitions.shard_key(source).unwrap_or(&self.workers.key)
    }

    pub fn of_key(&self, key: &Value) -> Option<u32> {
        self.workers.shard_of(key)
    }

    /// None: there is no such shard.
    pub fn place(&self, shard: u32) -> Option<Place> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(shard as usize).map(|known| self.placed(known))
    }

    /// All of them, in order.
    pub fn places(&self) -> Vec<Place> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|known| self.placed(known)).collect()
    }

    fn placed(&self, known: &Known) -> Place {
        match (&known.here, &known.said) {
            (Some(service), _) => Place::Here(Arc::clone(service)),
            (None, Some((worker, address))) if *worker != self.worker => Place::There { worker: worker.clone(), address: address.clone() },
            _ => Place::Nobody,
        }
    }

    /// A shard has come here, or has left.
    pub fn set(&self, shard: u32, here: Option<Arc<Service>>) {
        self.change(shard, |known| known.here = here);
    }

    /// The copy of a shard that is elsewhere has come to an offset; none: it is no copy any more.
    pub fn set_copy(&self, shard: u32, next: Option<Offset>) {
        self.change(shard, |known| known.copy = next);
    }

    /// For each shard the next offset of the copy that is kept here, if there is one.
    pub fn copies(&self) -> Vec<Option<Offset>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|known| known.copy).collect()
    }

    /// A worker, this one or another, has said that it has a shard.
    pub fn hear(&self, shard: u32, worker: String, address: String) {
        self.change(shard, |known| known.said = Some((worker, address)));
    }

    fn change(&self, shard: u32, change: impl FnOnce(&mut Known)) {
        if let Some(known) = self.known.write().unwrap_or_else(PoisonError::into_inner).get_mut(shard as usize) {
            change(known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker that is fenced off hears of the next owner before it knows that the shard has left it.
    #[test]
    fn who_said_it_last_has_a_shard_that_is_not_here() {
        let text = "[project]\nname = \"p\"\n[kafka]\nbrokers = \"a:1\"\n[workers]\nkey = \"k\"\nshards = 2\n";
        let project = crate::project::check_text(text, "kilter.toml", std::path::Path::new("")).unwrap();
        let workers = project.definitions.workers.clone().unwrap();
        let shards = Shards::new(Arc::new(project), workers, "me".into());
        let said = |shard| match shards.place(shard) {
            Some(Place::There { worker, address }) => format!("{worker} at {address}"),
            Some(Place::Here(_)) => "here".into(),
            Some(Place::Nobody) => "nobody".into(),
            None => "none".into(),
        };
        assert_eq!([said(0), said(1), said(2)], ["nobody", "nobody", "none"]);
        shards.hear(0, "me".into(), "here:1".into());
        assert_eq!(said(0), "nobody");
        shards.hear(0, "other".into(), "there:1".into());
        shards.set(0, None);
        assert_eq!([said(0), said(1)], ["other at there:1", "nobody"]);
    }
}
