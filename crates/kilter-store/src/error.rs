//! What can go wrong with snapshots, artifacts and dead letters.

use crate::log::LogError;
use std::io;
use std::path::{Path, PathBuf};

/// A failed file operation of the store. The text ends with a hint where there is something to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused; what was stored before is as it was.
    #[error("cannot {action} {}: {source}\n  hint: {}", path.display(), hint(source))]
    Io {
        /// What was tried, as in "write".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// Stored bytes are not what was written.
    #[error("{} is damaged: {detail}\n  hint: restore the file from a backup, or produce it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Nothing is stored under that name.
    #[error("{what} is not stored\n  hint: {hint}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// Where to look.
        hint: &'static str,
    },
    /// A name or hash that the store does not accept.
    #[error("{what} {name:?} cannot be used\n  hint: {rule}")]
    BadName {
        /// What the name stands for.
        what: &'static str,
        /// The name given.
        name: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// Larger than the configured limit; nothing was stored.
    #[error("{what} has {size}, the limit is {limit}\n  hint: raise the limit in the configuration or store less")]
    TooLarge {
        /// What was to be stored, with its unit.
        what: &'static str,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The store of keyed state failed. What it held before is intact, and the log has everything.
    #[error("cannot {action} the state in {}: {source}\n  hint: free space on that disk, or remove the folder: it is computed again from the log", path.display())]
    State {
        /// What was tried, as in "write".
        action: &'static str,
        /// The folder.
        path: PathBuf,
        /// The store's answer.
        source: Box<fjall::Error>,
    },
    /// The underlying log failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn state(action: &'static str, path: &Path, source: fjall::Error) -> Self {
        Self::State { action, path: path.to_owned(), source: Box::new(source) }
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free space on that disk; what was stored before is intact",
        io::ErrorKind::PermissionDenied => "give the user that runs kilter read and write rights on the data folder",
        io::ErrorKind::ReadOnlyFilesystem => "the disk is mounted read-only, often after a disk error; see the system log",
        _ => "check the path; see the system log for disk errors",
    }
}
