//! Files that are either wholly there or not at all, also after power loss.

use crate::error::StoreError;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const UNFINISHED: &str = ".unfinished";
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Writes `parts` one after the other to a new file that replaces `path` at once.
pub fn write_whole(path: &Path, parts: &[&[u8]]) -> Result<(), StoreError> {
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_file_name(format!(
        "{}.{}.{serial}{UNFINISHED}",
        path.file_name().unwrap_or_default().to_string_lossy(),
        std::process::id()
    ));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|e| {
        // Best effort; what stays is removed when the folder is opened next.
        let _ = fs::remove_file(&temporary);
        StoreError::io("write", path, e)
    })
}

/// Makes the folder, and removes what a [`write_whole`] that was interrupted long ago left in it.
pub fn prepare_dir(dir: &Path) -> Result<(), StoreError> {
    make_dir(dir)?;
    for name in names(dir)? {
        let path = dir.join(&name);
        // A young one may be another process's, about to get its name.
        let age = || fs::metadata(&path).and_then(|m| m.modified()).ok()?.elapsed().ok();
        if name.ends_with(UNFINISHED) && age().is_some_and(|age| age > ABANDONED_AFTER) {
            fs::remove_file(&path).map_err(|e| StoreError::io("remove", &path, e))?;
        }
    }
    Ok(())
}

/// Makes the folder durably if there is none.
pub(crate) fn make_dir(dir: &Path) -> Result<(), StoreError> {
    if dir.is_dir() {
        return Ok(());
    }
    let make = || -> std::io::Result<()> {
        fs::create_dir_all(dir)?;
        match dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    make().map_err(|e| StoreError::io("create", dir, e))
}

/// Names in a folder, sorted.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let list = || -> std::io::Result<Vec<String>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    let mut names = list().map_err(|e| StoreError::io("list", dir, e))?;
    names.sort_unstable();
    Ok(names)
}
