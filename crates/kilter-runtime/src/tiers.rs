//! The store of a project whose state may take only so much memory: entities in use are in memory, all others on disk.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use kilter_features::{Changes, ColdStore};
use kilter_pipeline::Pipeline;
use kilter_store::StoreError;
use kilter_store::state::{StateHead, StateOptions, StateStore, StateView, ViewCommit};

/// The store, and how much may be in memory.
pub(crate) struct Tiers {
    store: StateStore,
    /// Bytes of entities in memory.
    pub hot: usize,
}

impl Tiers {
    /// Opens the store. One that is damaged is given up, and `repairs` says so: the log has everything.
    pub fn open(dir: &Path, memory: u64, repairs: &mut Vec<String>) -> Result<Tiers, StoreError> {
        let options = StateOptions::within(memory);
        let opened = StateStore::open(PathBuf::from(dir), &options).and_then(|store| store.head().map(|_| store));
        let store = match opened {
            Ok(store) => store,
            Err(e) => {
                repairs.push(format!("state: given up and computed again from the log ({e})"));
                kilter_store::state::remove(dir)?;
                StateStore::open(PathBuf::from(dir), &options)?
            }
        };
        Ok(Tiers { store, hot: options.hot_bytes as usize })
    }

    pub fn head(&self) -> Result<Option<StateHead>, StoreError> {
        self.store.head()
    }

    /// Forgets what is stored.
    pub fn clear(&self) -> Result<(), StoreError> {
        self.store.retain(&[])
    }

    /// Gives every view its store that has none yet.
    pub fn attach(&self, pipeline: &mut Pipeline) -> Result<(), StoreError> {
        for view in 0..pipeline.plan().views.len() {
            if !pipeline.engine().has_store(view) {
                let store = Shelf(self.store.view(&pipeline.plan().views[view].state_name())?);
                pipeline.engine_mut().attach(view, Box::new(store));
            }
        }
        Ok(())
    }

    /// Hands over the keys of the entities of a view that are written, until told to stop.
    pub fn keys(&self, view: &str, each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<(), StoreError> {
        self.store.view(view)?.keys(each)
    }

    /// Writes changes as one. Returns how many expired forms of each view went with them.
    pub fn write(&self, names: &[String], offset: u64, event_time: i64, hash: &str, changes: Changes) -> Result<Vec<u64>, StoreError> {
        let head = StateHead { offset, event_time, definition_hash: hash.into(), bytes: changes.head };
        let views = changes.views.into_iter().map(|change| ViewCommit {
            view: names[change.view].clone(),
            put: change.put,
            removed: change.removed,
            expired_at: change.watermark,
        });
        self.store.commit(&head, views.collect())
    }

    /// Removes the views of other definitions.
    pub fn retain(&self, names: &[String]) -> Result<(), StoreError> {
        self.store.retain(names)
    }
}

struct Shelf(StateView);

impl ColdStore for Shelf {
    fn get(&self, key: &[u8], found: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        self.0.get(key, found).map_err(|e| e.to_string())
    }

    fn scan(&self, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), String> {
        self.0.scan(each).map_err(|e| e.to_string())
    }
}
