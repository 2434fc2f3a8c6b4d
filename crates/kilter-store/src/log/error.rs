//! What can go wrong with a log, said so that the reader can act.

use std::io;
use std::path::{Path, PathBuf};

/// A failed log operation. The text ends with a hint where there is something to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The operating system refused a file operation; the log is as it was before the call.
    #[error("cannot {action} {}: {source}\n  hint: {hint}", path.display())]
    Io {
        /// What was tried, as in "open" or "write to".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
        /// What to do about it.
        hint: &'static str,
    },
    /// No space (or quota, or file-size limit) for the batch; nothing of it was kept, earlier records are intact and
    /// appends work again once there is space.
    #[error(
        "no space to write {bytes} bytes to {}: {source}\n  hint: free space or raise the quota on that disk; earlier records are intact and appends resume by themselves",
        path.display()
    )]
    DiskFull {
        /// The segment that could not grow.
        path: PathBuf,
        /// Size of the refused batch in bytes.
        bytes: u64,
        /// The operating system's answer.
        source: io::Error,
    },
    /// Stored bytes are not what was written, at a place where that is not explained by an interrupted write.
    #[error("log is damaged: {}, byte {position}, record {offset}: {detail}\n  hint: {hint}", segment.display())]
    Corrupt {
        /// The damaged file.
        segment: PathBuf,
        /// Byte position in the file.
        position: u64,
        /// Offset of the record expected at that position.
        offset: u64,
        /// What was found.
        detail: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// Another process (or another `Log` in this one) has the folder open.
    #[error("log {} is in use by another process\n  hint: stop the other kilter process, or give this one its own data folder", dir.display())]
    Locked {
        /// The log's folder.
        dir: PathBuf,
    },
    /// One record is larger than the configured limit; nothing of the batch was written.
    #[error("record of {bytes} bytes is larger than the limit of {limit} bytes\n  hint: raise max_record_bytes or send less per event")]
    RecordTooLarge {
        /// Size of the record in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// One batch is larger than the configured limit; nothing of it was written.
    #[error("batch of {bytes} bytes is larger than the limit of {limit} bytes\n  hint: append in smaller batches")]
    BatchTooLarge {
        /// Size of the batch in bytes, frames included.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Flushing to disk failed earlier, so it is unknown what the disk holds; the log takes no more writes.
    #[error(
        "log {} takes no more writes after a disk failure: {cause}\n  hint: check the disk, then restart; the log verifies itself when it opens",
        dir.display()
    )]
    Poisoned {
        /// The log's folder.
        dir: PathBuf,
        /// The first failure.
        cause: String,
    },
    /// The offset lies before the oldest record kept.
    #[error("offset {offset} is no longer in the log, which starts at {start}\n  hint: start from a newer snapshot or from {start}")]
    OffsetGone {
        /// The offset asked for.
        offset: u64,
        /// The oldest offset kept.
        start: u64,
    },
    /// The record waited for was removed by [`Log::truncate_from`](super::Log::truncate_from).
    #[error("record {offset} was removed from the end of the log while its durability was awaited\n  hint: append it again")]
    Removed {
        /// The last offset waited for.
        offset: u64,
    },
    /// The file was written by a newer format than this program knows.
    #[error("{} has log format {found}, this program knows up to {known}\n  hint: use the kilter release that wrote it, or a newer one", segment.display())]
    UnknownFormat {
        /// The file.
        segment: PathBuf,
        /// Format version in its header.
        found: u32,
        /// Highest version this program reads.
        known: u32,
    },
}

impl LogError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::PermissionDenied => "give the user that runs kilter read and write rights on the data folder",
            io::ErrorKind::NotFound => "the file was removed or the path is wrong",
            io::ErrorKind::ReadOnlyFilesystem => "the disk is mounted read-only, often after a disk error; see the system log",
            _ => "see the system log for disk errors",
        };
        Self::Io { action, path: path.to_owned(), source, hint }
    }

    pub(crate) fn write(path: &Path, bytes: u64, source: io::Error) -> Self {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match source.kind() {
            StorageFull | QuotaExceeded | FileTooLarge => Self::DiskFull { path: path.to_owned(), bytes, source },
            _ => Self::io("write to", path, source),
        }
    }

    /// Whether trying the same call again later can work without anyone's help but the disk's.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }
}
