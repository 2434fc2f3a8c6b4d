//! Keyed state beyond memory: what is known of each entity, by view, and where in the log it stands.
//!
//! An embedded log-structured merge tree ([fjall](https://docs.rs/fjall)) keeps it. One commit holds everything that changed, the head and
//! the log offset, so after a crash the store is the whole state at one offset, and the log has the rest. Nothing here is the truth: a store
//! that is damaged, or made under other definitions, is given up and computed again from the log.
//!
//! ```text
//! keyspace "head": "head" -> version u32  offset u64  event time i64  hash length u32  definition hash  bytes
//! keyspace per view: key of an entity -> its form, which begins with the watermark (i64) from which it can be dropped
//! ```
//!
//! All integers little endian.

use crate::error::StoreError;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const VERSION: u32 = 1;
/// A start reads what the journals have that the tables have not: they are to be short. This is the least that is allowed.
const JOURNAL_BYTES: u64 = 64 << 20;
const HEAD: &str = "head";
/// Written forms looked at for expiry, for each form written: more than one, so that the look comes round.
const LOOKS_PER_WRITE: usize = 2;
const MIN_LOOKS: usize = 64;

/// Shares of the memory that a state may take, in hundredths: entities, blocks of the store, its writes to one view. The rest is for changes
/// on their way, the store's filters, and the holes that entities of changing sizes leave behind, which can be as much as the entities themselves.
const HOT: u64 = 30;
const CACHE: u64 = 12;
const BUFFER: u64 = 2;
const BUFFER_RANGE: std::ops::RangeInclusive<u64> = 1 << 20..=16 << 20;

/// How much memory a state and its store may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateOptions {
    /// Of entities held in memory, in bytes: for who holds them.
    pub hot_bytes: u64,
    /// Of blocks read, in bytes.
    pub cache_bytes: u64,
    /// Of writes to one view that are not yet in tables, in bytes.
    pub buffer_bytes: u64,
}

impl StateOptions {
    /// For a state that may take about so many bytes altogether.
    pub fn within(memory: u64) -> StateOptions {
        let part = |hundredths: u64| memory / 100 * hundredths;
        let buffer_bytes = part(BUFFER).clamp(*BUFFER_RANGE.start(), *BUFFER_RANGE.end());
        StateOptions { hot_bytes: part(HOT), cache_bytes: part(CACHE), buffer_bytes }
    }
}

/// The store of one project's state.
pub struct StateStore {
    path: PathBuf,
    buffer_bytes: u64,
    db: Database,
    head: Keyspace,
    views: Mutex<BTreeMap<String, View>>,
}

struct View {
    keyspace: Keyspace,
    /// Where the look for expired forms goes on.
    cursor: Vec<u8>,
}

/// State as it was before the event at `offset`, without its entities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateHead {
    /// Log offset of the first event that is not in the state.
    pub offset: u64,
    /// Event time reached, in microseconds UTC.
    pub event_time: i64,
    /// Hash of the definitions that the state belongs to.
    pub definition_hash: String,
    /// The rest of the state, as it was given.
    pub bytes: Vec<u8>,
}

/// What one commit does to one view.
#[derive(Debug, Default)]
pub struct ViewCommit {
    pub view: String,
    pub put: Vec<(Vec<u8>, Vec<u8>)>,
    pub removed: Vec<Vec<u8>>,
    /// Forms whose own watermark is not after this one are dropped when the look comes by.
    pub expired_at: i64,
}

/// The entities of one view, for reading.
#[derive(Clone)]
pub struct StateView {
    path: PathBuf,
    keyspace: Keyspace,
}

impl StateStore {
    /// Opens the folder, creating it when there is none.
    ///
    /// Errors: [`StoreError::State`].
    pub fn open(dir: impl Into<PathBuf>, options: &StateOptions) -> Result<StateStore, StoreError> {
        let path = dir.into();
        let failed = |e| StoreError::state("open", &path, e);
        let db = Database::builder(&path)
            .cache_size(options.cache_bytes)
            // One that flushes while the other compacts: else writes pile up in memory behind a long compaction.
            .worker_threads(2)
            .max_journaling_size(JOURNAL_BYTES)
            .open()
            .map_err(failed)?;
        let head = db.keyspace(HEAD, KeyspaceCreateOptions::default).map_err(failed)?;
        Ok(StateStore { path, buffer_bytes: options.buffer_bytes, db, head, views: Mutex::default() })
    }

    /// The head of the last commit; none: there was none.
    ///
    /// Errors: [`StoreError::State`], [`StoreError::Damaged`] when it is of another version of the format.
    pub fn head(&self) -> Result<Option<StateHead>, StoreError> {
        let stored = self.head.get(HEAD).map_err(|e| StoreError::state("read", &self.path, e))?;
        let damaged = || StoreError::Damaged { path: self.path.clone(), detail: "the head of the state cannot be read".into() };
        stored.map(|bytes| read_head(&bytes).ok_or_else(damaged)).transpose()
    }

    /// The entities of a view, none at first. The name is the view's with what makes its state another one, as a hash of its definition.
    ///
    /// Errors: [`StoreError::State`].
    pub fn view(&self, name: &str) -> Result<StateView, StoreError> {
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let keyspace = self.keyspace(&mut views, name)?.keyspace.clone();
        Ok(StateView { path: self.path.clone(), keyspace })
    }

    fn keyspace<'a>(&self, views: &'a mut BTreeMap<String, View>, name: &str) -> Result<&'a mut View, StoreError> {
        if !views.contains_key(name) {
            // Most lookups of a young state find nothing: the filters of the last level are worth their room.
            let options = || KeyspaceCreateOptions::default().expect_point_read_hits(false).max_memtable_size(self.buffer_bytes);
            let keyspace = self.db.keyspace(&key_of(name), options).map_err(|e| StoreError::state("open", &self.path, e))?;
            views.insert(name.to_owned(), View { keyspace, cursor: Vec::new() });
        }
        views.get_mut(name).ok_or_else(|| StoreError::Damaged { path: self.path.clone(), detail: format!("no view {name}") })
    }

    /// Writes a head and what changed as one, durably. Returns how many expired forms of each view went with it, in the order given.
    ///
    /// Errors: [`StoreError::State`]; the state is then what it was before.
    pub fn commit(&self, head: &StateHead, changes: Vec<ViewCommit>) -> Result<Vec<u64>, StoreError> {
        let failed = |e| StoreError::state("write", &self.path, e);
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let writes = changes.iter().map(|c| c.put.len() + c.removed.len()).sum::<usize>();
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.db.clone(), writes + 1).durability(Some(PersistMode::SyncData));
        let mut dropped = Vec::with_capacity(changes.len());
        for change in changes {
            let view = self.keyspace(&mut views, &change.view)?;
            let looks = (change.put.len() * LOOKS_PER_WRITE).max(MIN_LOOKS);
            let expired = view.expired(looks, change.expired_at).map_err(failed)?;
            dropped.push(expired.len() as u64);
            // All writes of a batch have one number, so that a key must not be among them twice.
            let mut gone: BTreeSet<Vec<u8>> = expired.into_iter().map(|key| key.to_vec()).chain(change.removed).collect();
            for (key, _) in &change.put {
                gone.remove(key);
            }
            gone.into_iter().for_each(|key| batch.remove(&view.keyspace, key));
            change.put.into_iter().for_each(|(key, form)| batch.insert(&view.keyspace, key, form));
        }
        batch.insert(&self.head, HEAD, write_head(head));
        batch.commit().map_err(failed)?;
        Ok(dropped)
    }

    /// Removes the entities of views that are not among `names`.
    ///
    /// Errors: [`StoreError::State`].
    pub fn retain(&self, names: &[String]) -> Result<(), StoreError> {
        let failed = |e| StoreError::state("tidy up", &self.path, e);
        let keep: Vec<String> = names.iter().map(|n| key_of(n)).collect();
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.retain(|name, _| names.contains(name));
        for name in self.db.list_keyspace_names() {
            if *name != *HEAD && !keep.iter().any(|k| **k == *name) {
                let keyspace = self.db.keyspace(&name, KeyspaceCreateOptions::default).map_err(failed)?;
                self.db.delete_keyspace(keyspace).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Bytes on disk.
    ///
    /// Errors: [`StoreError::State`].
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        self.db.disk_space().map_err(|e| StoreError::state("measure", &self.path, e))
    }
}

impl View {
    /// The next forms that have expired, among so many looked at.
    fn expired(&mut self, looks: usize, at: i64) -> Result<Vec<fjall::UserKey>, fjall::Error> {
        let mut expired = Vec::new();
        let mut seen = 0;
        let mut last = None;
        for entry in self.keyspace.range(self.cursor.as_slice()..).take(looks) {
            let (key, form) = entry.into_inner()?;
            if form.first_chunk::<8>().is_some_and(|own| i64::from_le_bytes(*own) <= at) {
                expired.push(key.clone());
            }
            last = Some(key);
            seen += 1;
        }
        // From behind the last one, or from the first one again.
        self.cursor.clear();
        if let Some(key) = last.filter(|_| seen == looks) {
            self.cursor.extend_from_slice(&key);
            self.cursor.push(0);
        }
        Ok(expired)
    }
}

impl StateView {
    /// Hands the form of an entity to `found`, if there is one.
    ///
    /// Errors: [`StoreError::State`].
    pub fn get(&self, key: &[u8], found: &mut dyn FnMut(&[u8])) -> Result<(), StoreError> {
        if let Some(form) = self.keyspace.get(key).map_err(|e| StoreError::state("read", &self.path, e))? {
            found(&form);
        }
        Ok(())
    }

    /// Hands every key and form to `each`, in the order of the keys' bytes.
    ///
    /// Errors: [`StoreError::State`].
    pub fn scan(&self, each: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        for entry in self.keyspace.iter() {
            let (key, form) = entry.into_inner().map_err(|e| StoreError::state("read", &self.path, e))?;
            each(&key, &form);
        }
        Ok(())
    }

    /// Hands every key to `each`, in the order of their bytes, until told to stop.
    ///
    /// Errors: [`StoreError::State`].
    pub fn keys(&self, each: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> Result<(), StoreError> {
        for entry in self.keyspace.iter() {
            let key = entry.key().map_err(|e| StoreError::state("read", &self.path, e))?;
            if each(&key).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// Removes a store from disk: for one that is given up. No store may be open there.
///
/// Errors: [`StoreError::Io`].
pub fn remove(dir: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(StoreError::io("remove", dir, e)),
        _ => Ok(()),
    }
}

/// A view's name may have any characters, a keyspace's may not.
fn key_of(view: &str) -> String {
    format!("view-{}", &blake3::hash(view.as_bytes()).to_hex()[..32])
}

fn write_head(head: &StateHead) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + head.bytes.len());
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&head.offset.to_le_bytes());
    out.extend_from_slice(&head.event_time.to_le_bytes());
    out.extend_from_slice(&(head.definition_hash.len() as u32).to_le_bytes());
    out.extend_from_slice(head.definition_hash.as_bytes());
    out.extend_from_slice(&head.bytes);
    out
}

fn read_head(bytes: &[u8]) -> Option<StateHead> {
    let (version, rest) = bytes.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION {
        return None;
    }
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let (event_time, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (hash, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some(StateHead {
        offset: u64::from_le_bytes(*offset),
        event_time: i64::from_le_bytes(*event_time),
        definition_hash: String::from_utf8(hash.to_vec()).ok()?,
        bytes: rest.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> StateStore {
        StateStore::open(dir, &StateOptions::within(16 << 20)).unwrap()
    }

    fn form(expires: i64, text: &str) -> Vec<u8> {
        [&expires.to_le_bytes(), text.as_bytes()].concat()
    }

    fn head(offset: u64) -> StateHead {
        StateHead { offset, event_time: -5, definition_hash: "abc".into(), bytes: vec![1, 2, 3] }
    }

    fn get(view: &StateView, key: &str) -> Option<Vec<u8>> {
        let mut found = None;
        view.get(key.as_bytes(), &mut |form| found = Some(form[8..].to_vec())).unwrap();
        found
    }

    fn put(view: &str, entries: &[(&str, i64, &str)]) -> ViewCommit {
        let put = entries.iter().map(|(key, expires, text)| (key.as_bytes().to_vec(), form(*expires, text))).collect();
        ViewCommit { view: view.into(), put, expired_at: i64::MIN, ..ViewCommit::default() }
    }

    #[test]
    fn what_was_committed_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        {
            let store = open(dir.path());
            assert_eq!(store.head().unwrap(), None);
            store.commit(&head(1), vec![put("a", &[("x", 9, "one"), ("y", 9, "two")]), put("b", &[("x", 9, "other")])]).unwrap();
            let removed = vec![b"x".to_vec()];
            let second = ViewCommit { removed, ..put("a", &[("y", 9, "three")]) };
            store.commit(&head(2), vec![second]).unwrap();
        }
        let store = open(dir.path());
        assert_eq!(store.head().unwrap(), Some(head(2)));
        let (a, b) = (store.view("a").unwrap(), store.view("b").unwrap());
        assert_eq!(get(&a, "x"), None);
        assert_eq!(get(&a, "y").unwrap(), b"three");
        assert_eq!(get(&b, "x").unwrap(), b"other");
        assert_eq!(get(&store.view("c").unwrap(), "x"), None);
        let mut all = Vec::new();
        let mut first = Vec::new();
        b.keys(&mut |key| {
            first.push(key.to_vec());
            ControlFlow::Break(())
        })
        .unwrap();
        b.scan(&mut |key, form| all.push((key.to_vec(), form[8..].to_vec()))).unwrap();
        assert_eq!(all, [(b"x".to_vec(), b"other".to_vec())]);
    }

    #[test]
    fn a_key_removed_and_put_in_one_commit_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.commit(&head(1), vec![put("a", &[("x", 1, "old")])]).unwrap();
        // Told as gone, expired besides, and new again.
        let both = ViewCommit { removed: vec![b"x".to_vec()], expired_at: 5, ..put("a", &[("x", 9, "new")]) };
        store.commit(&head(2), vec![both]).unwrap();
        assert_eq!(get(&store.view("a").unwrap(), "x").unwrap(), b"new");
    }

    #[test]
    fn expired_forms_go_sooner_or_later() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let keys: Vec<String> = (0..1_000).map(|i| format!("{i:04}")).collect();
        let entries: Vec<(&str, i64, &str)> = keys.iter().enumerate().map(|(i, k)| (k.as_str(), i as i64, "form")).collect();
        store.commit(&head(1), vec![put("a", &entries)]).unwrap();
        let mut gone = 0;
        for offset in 2..40 {
            let commit = ViewCommit { expired_at: 499, ..put("a", &[]) };
            gone += store.commit(&head(offset), vec![commit]).unwrap()[0];
        }
        assert_eq!(gone, 500);
        let view = store.view("a").unwrap();
        assert_eq!((get(&view, "0499"), get(&view, "0500").is_some()), (None, true));
    }

    #[test]
    fn views_that_are_no_more_take_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.commit(&head(1), vec![put("a", &[("x", 9, "one")]), put("b", &[("x", 9, "two")])]).unwrap();
        store.retain(&["b".into()]).unwrap();
        assert_eq!(get(&store.view("a").unwrap(), "x"), None);
        assert_eq!(get(&store.view("b").unwrap(), "x").unwrap(), b"two");
    }

    #[test]
    fn two_cannot_use_one_folder() {
        let dir = tempfile::tempdir().unwrap();
        let _first = open(dir.path());
        let second = StateStore::open(dir.path(), &StateOptions::within(16 << 20));
        assert!(second.err().unwrap().to_string().contains("open"), "a second store would not see what the first has in memory");
    }
}
