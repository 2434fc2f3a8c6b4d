//! What can go wrong with the metadata store, said so that the reader can act.

use std::path::PathBuf;

/// A failed metadata operation; nothing of it was stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The file cannot be opened as a database.
    #[error("cannot open metadata {}: {source}\n  hint: check that the folder exists and is writable and that the file is a SQLite database", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The database's answer.
        source: sqlx::Error,
    },
    /// A later release of Kilter changed the file's schema.
    #[error("metadata {} has schema {found}, this program knows up to {known}\n  hint: use the kilter release that wrote it, or a newer one", path.display())]
    NewerSchema {
        /// The file.
        path: PathBuf,
        /// Schema version of the file.
        found: i64,
        /// Highest version this program knows.
        known: i64,
    },
    /// What was named does not exist.
    #[error("{what} does not exist\n  hint: {hint}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// Where to look.
        hint: &'static str,
    },
    /// The request contradicts what is stored or is out of bounds.
    #[error("{problem}\n  hint: {hint}")]
    Invalid {
        /// What is wrong.
        problem: String,
        /// What to do instead.
        hint: &'static str,
    },
    /// A stored value is not what this program writes.
    #[error("metadata is damaged: {0}\n  hint: restore the metadata file from a backup")]
    Damaged(String),
    /// The database failed.
    #[error("metadata database: {0}\n  hint: check free space and rights of the metadata file; another process may hold its lock")]
    Database(#[from] sqlx::Error),
}

impl MetadataError {
    pub(crate) fn not_found(what: String, hint: &'static str) -> Self {
        Self::NotFound { what, hint }
    }

    pub(crate) fn invalid(problem: impl Into<String>, hint: &'static str) -> Self {
        Self::Invalid { problem: problem.into(), hint }
    }
}
