//! A segmented, checksummed, append-only log of byte records with dense offsets: the truth that everything else in
//! Kilter is computed from. Also used for decisions and for dead letters.
//!
//! ```text
//! append -> one write(2) -> "appended" (survives kill -9)
//!                        -> committer thread: fdatasync -> "durable" (survives power loss)
//! ```
//! A folder holds `00000000000000000000.klog`, `00000000000000184467.klog`, ... each named by its first offset, and a
//! `lock`. The bytes are described in `log/frame.rs`. Opening verifies every record of the last segment and cuts off what
//! an interrupted write left at its end; earlier segments must end with an intact seal and are verified as they are read.
//! Nothing that could have been acknowledged is ever removed silently; [`Log::truncate_from`] removes on request.

mod committer;
mod error;
mod frame;
mod reader;
mod rewrite;
mod segment;
mod storage;

pub use error::LogError;
pub use reader::LogReader;
pub use storage::{LogFile, OsStorage, Storage};

use bytes::Bytes;
use committer::{Commit, Progress, Undurable};
use frame::{HEADER_BYTES, IndexEntry};
use segment::{INDEX_EVERY, Segment, SegmentEnd};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use tokio::sync::watch;

/// Reads of a sequential reader, in bytes.
const READ_CHUNK: usize = 1 << 20;
/// Reads of a single-record lookup, in bytes; a quarter of the distance of two index entries, to read little past the record.
const LOOKUP_CHUNK: usize = 16 << 10;
/// Batch buffers above this size are given back after use, in bytes.
const KEEP_BUFFER: usize = 8 << 20;

/// An open log. Share it by `Arc`; all methods take `&self`.
///
/// Dropping it flushes what is not durable yet and ends the commit thread.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    committer: Option<JoinHandle<()>>,
    _lock: DirLock,
}

/// Limits and behaviour of a log.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// A new segment file begins when the next batch would make the current one larger than this, in bytes.
    pub segment_bytes: u64,
    /// Largest record to accept, in bytes; at most 1 GiB. Stored records stay readable when it is lowered.
    pub max_record_bytes: u64,
    /// Largest batch of one append, in bytes with 12 bytes of frame per record. A batch is never split over segments.
    pub max_batch_bytes: u64,
    /// Offset of the first record of a log that is made anew; one that is there begins where it begins.
    pub first_offset: u64,
    /// What to do with damage in the middle of the last segment.
    pub on_damage: OnDamage,
    /// Where the files live; tests put a faulty one here.
    pub storage: Arc<dyn Storage>,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 256 << 20,
            max_record_bytes: 64 << 20,
            max_batch_bytes: 512 << 20,
            first_offset: 0,
            on_damage: OnDamage::Refuse,
            storage: Arc::new(OsStorage),
        }
    }
}

/// What opening does when the last segment has bad bytes with valid records after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDamage {
    /// Open fails with [`LogError::Corrupt`] and changes nothing.
    #[default]
    Refuse,
    /// The rest of the segment from the damage on is copied to `<segment>.<position>.damaged` and cut off.
    SetAside,
}

/// What opening found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Offset that the next appended record gets.
    pub next_offset: u64,
    /// Bytes cut off the end of the last segment.
    pub truncated_bytes: u64,
    /// Why they were cut off; `None` after a clean stop.
    pub truncated_reason: Option<String>,
    /// Number of segment files.
    pub segments: usize,
}

/// The offsets given to one batch: `first..next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendedRange {
    /// Offset of the first record of the batch.
    pub first: u64,
    /// Offset after the last record; what to pass to [`Log::durable`].
    pub next: u64,
}

impl Log {
    /// Opens the log in `dir`, creating it when there is none.
    ///
    /// Errors: [`LogError::Locked`] while another one has it open, [`LogError::Corrupt`] when stored data are damaged other
    /// than by an interrupted write at the end, [`LogError::UnknownFormat`], [`LogError::Io`].
    pub fn open(dir: impl Into<PathBuf>, options: LogOptions) -> Result<(Self, Recovery), LogError> {
        let dir = dir.into();
        fs::create_dir_all(&dir).map_err(|e| LogError::io("create", &dir, e))?;
        let lock = DirLock::take(&dir)?;
        let (segments, writer, recovery) = recover(&dir, &options)?;
        let commit = Commit::new(writer.next);
        let appended = watch::Sender::new(writer.next);
        let shared = Arc::new(Shared {
            dir,
            options,
            writer: Mutex::new(writer),
            segments: RwLock::new(segments),
            appended,
            commit,
            truncations: AtomicU64::new(0),
        });
        let committer = Some(committer::spawn(Arc::clone(&shared))?);
        Ok((Self { shared, committer, _lock: lock }, recovery))
    }

    /// Appends a batch with one write and answers its offsets, which are dense and in the order of the batch.
    ///
    /// On return the records are in the hands of the operating system: they outlive this process, and power loss once
    /// [`Log::durable_offset`] has passed them. On an error nothing of the batch is in the log.
    ///
    /// Errors: [`LogError::RecordTooLarge`], [`LogError::BatchTooLarge`], [`LogError::DiskFull`] (later appends work once
    /// there is space), [`LogError::Io`], [`LogError::Poisoned`].
    pub fn append<R: AsRef<[u8]>>(&self, records: &[R]) -> Result<AppendedRange, LogError> {
        self.shared.append(records)
    }

    /// Offset after the last durable record: everything before it survives power loss.
    pub fn durable_offset(&self) -> u64 {
        self.shared.commit.progress.borrow().durable
    }

    /// Blocks until every record before `offset` (see [`AppendedRange::next`]) is durable.
    ///
    /// Errors: [`LogError::Poisoned`] when the disk could not be flushed; the records may or may not survive.
    /// [`LogError::Removed`] when [`Log::truncate_from`] took one of them away meanwhile.
    pub fn wait_durable(&self, offset: u64) -> Result<(), LogError> {
        self.shared.commit.wait(offset).map_err(|why| self.shared.undurable(&why, offset))
    }

    /// [`Log::wait_durable`] for async callers. Needs no particular runtime.
    pub async fn durable(&self, offset: u64) -> Result<(), LogError> {
        let mut progress = self.shared.commit.progress.subscribe();
        let truncations = progress.borrow().truncations;
        if committer::reached(&progress.borrow(), offset, truncations).is_none() {
            self.shared.commit.hurry();
        }
        let reached = progress.wait_for(|p| committer::reached(p, offset, truncations).is_some()).await;
        let outcome = match reached {
            Ok(progress) => committer::reached(&progress, offset, truncations).unwrap_or(Ok(())),
            Err(_) => Err(Undurable::Failed("the log was closed".into())),
        };
        outcome.map_err(|why| self.shared.undurable(&why, offset))
    }

    /// Makes everything appended so far durable, and blocks until it is.
    ///
    /// Errors: [`LogError::Poisoned`].
    pub fn sync(&self) -> Result<(), LogError> {
        self.wait_durable(self.next_offset())
    }

    /// A reader that starts at `from`. It may start at or beyond the end and wait there for records to come.
    pub fn reader(&self, from: u64) -> LogReader {
        LogReader::new(Arc::clone(&self.shared), from, READ_CHUNK)
    }

    /// One record, or `None` when it is not appended yet.
    ///
    /// Errors: as [`LogReader::next_record`].
    pub fn read(&self, offset: u64) -> Result<Option<Bytes>, LogError> {
        let mut reader = LogReader::new(Arc::clone(&self.shared), offset, LOOKUP_CHUNK);
        Ok(reader.next_record()?.map(|(_, payload)| Bytes::copy_from_slice(payload)))
    }

    /// Offset of the oldest record kept.
    pub fn start_offset(&self) -> u64 {
        self.shared.start_offset()
    }

    /// Offset that the next appended record gets.
    pub fn next_offset(&self) -> u64 {
        self.shared.next_offset()
    }

    /// Follows [`Log::next_offset`]; what a tailing task awaits before it reads on.
    pub fn watch_appended(&self) -> watch::Receiver<u64> {
        self.shared.appended.subscribe()
    }

    /// Removes whole segments whose records all lie before `offset`, and answers the new start. The segment being written
    /// stays. Readers inside a removed segment finish it.
    ///
    /// Errors: [`LogError::Io`]; segments are removed oldest first, so the log stays whole.
    pub fn remove_before(&self, offset: u64) -> Result<u64, LogError> {
        self.shared.remove_before(offset)
    }

    /// Removes every record at or after `offset`, durably, and answers how many; the next append gets `offset`. At or past
    /// the end it does nothing.
    ///
    /// Meant for start-up, when records turn out to speak of something that did not survive. Safe at any other time too, but
    /// then [`Log::watch_appended`] and [`Log::durable_offset`] go back, and a waiter for a removed record gets
    /// [`LogError::Removed`]. A crash on the way leaves a log that ends somewhere between `offset` and its old end, all
    /// records before there intact; so does [`LogError::Io`], and the call may be repeated.
    ///
    /// Errors: [`LogError::OffsetGone`] before the start; [`LogError::Corrupt`] when the place to cut cannot be found for
    /// damage just before it, and nothing was changed; [`LogError::Io`]; [`LogError::Poisoned`] when the disk could not be
    /// flushed.
    pub fn truncate_from(&self, offset: u64) -> Result<u64, LogError> {
        self.shared.truncate_from(offset)
    }

    /// Replaces stored records by others, and answers how many were: `replace` is asked for each of `offsets` (ascending) that the log
    /// holds, and leaves a record as it is by `None`. Offsets stay, and so does the place of every other record.
    ///
    /// For what has to be forgotten, not for ordinary work: each segment with such a record is written anew and renamed over the old one,
    /// durably, and appends wait meanwhile. A crash on the way, or an error, leaves every segment wholly as it was or wholly new, so the
    /// call may be repeated. Readers go on after the record they have read last.
    ///
    /// Errors: [`LogError::Corrupt`] when a segment with such a record is damaged; [`LogError::DiskFull`], for want of room for one more
    /// segment; [`LogError::Io`]; [`LogError::Poisoned`] when the disk could not be flushed.
    pub fn rewrite(&self, offsets: &[u64], mut replace: impl FnMut(u64, &[u8]) -> Option<Vec<u8>>) -> Result<u64, LogError> {
        self.shared.rewrite(offsets, &mut replace)
    }

    /// The log's folder.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.commit.stop();
        if let Some(committer) = self.committer.take()
            && committer.join().is_err()
        {
            tracing::error!(dir = %self.shared.dir.display(), "log commit thread panicked");
        }
    }
}

/// What the log, its readers and its commit thread have in common.
///
/// Locks are taken in the order writer, flush right, the others.
#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    options: LogOptions,
    writer: Mutex<Writer>,
    /// By first offset; the last one is being written. Never empty.
    segments: RwLock<Vec<Arc<Segment>>>,
    appended: watch::Sender<u64>,
    commit: Commit,
    /// How often the end of the log moved back, or a segment was written anew. Changed under the writer lock, the flush right and the segments lock.
    truncations: AtomicU64,
}

/// The end of the log, where records are added.
#[derive(Debug)]
struct Writer {
    segment: Arc<Segment>,
    file: Arc<dyn LogFile>,
    next: u64,
    position: u64,
    indexed: u64,
    /// The current segment got its seal; the next append starts a new one.
    sealed: bool,
    buffer: Vec<u8>,
    entries: Vec<IndexEntry>,
}

impl Shared {
    fn append(&self, records: &[impl AsRef<[u8]>]) -> Result<AppendedRange, LogError> {
        let limit = self.options.max_record_bytes.min(frame::MAX_RECORD_BYTES);
        let mut bytes = 0;
        for record in records {
            let len = record.as_ref().len() as u64;
            if len > limit {
                return Err(LogError::RecordTooLarge { bytes: len, limit });
            }
            bytes += len + frame::FRAME_BYTES as u64;
        }
        if bytes > self.options.max_batch_bytes {
            return Err(LogError::BatchTooLarge { bytes, limit: self.options.max_batch_bytes });
        }
        let mut guard = lock(&self.writer);
        let writer = &mut *guard;
        self.check_writable()?;
        if records.is_empty() {
            return Ok(AppendedRange { first: writer.next, next: writer.next });
        }
        let has_records = writer.position > HEADER_BYTES as u64;
        if writer.sealed || (has_records && writer.position + bytes > self.options.segment_bytes) {
            self.roll(writer)?;
        }
        writer.frame(records);
        if let Err(source) = storage::write_all_at(&*writer.file, &writer.buffer, writer.position) {
            self.cut_back(writer)?;
            return Err(LogError::write(&writer.segment.path, bytes, source));
        }
        let first = writer.next;
        writer.next += records.len() as u64;
        writer.position += bytes;
        if let Some(last) = writer.entries.last() {
            writer.indexed = last.position;
        }
        writer.segment.extend_index(&writer.entries);
        writer.segment.set_end(SegmentEnd { offset: writer.next, position: writer.position, sealed: false });
        if writer.buffer.capacity() > KEEP_BUFFER {
            writer.buffer = Vec::new();
        }
        let next = writer.next;
        self.appended.send_replace(next);
        drop(guard);
        self.commit.request();
        Ok(AppendedRange { first, next })
    }

    /// Removes a partly written batch or seal from the file.
    fn cut_back(&self, writer: &Writer) -> Result<(), LogError> {
        writer.file.set_len(writer.position).map_err(|error| {
            let cause = format!("a partly written batch could not be removed: {error}");
            self.commit.fail(&cause);
            self.poisoned(&cause)
        })
    }

    /// Ends the current segment and starts the next one.
    fn roll(&self, writer: &mut Writer) -> Result<(), LogError> {
        if !writer.sealed {
            let mut seal = Vec::new();
            frame::push_seal(&mut seal, &writer.segment.index_snapshot(), writer.position, writer.next);
            if let Err(source) = storage::write_all_at(&*writer.file, &seal, writer.position) {
                self.cut_back(writer)?;
                return Err(LogError::write(&writer.segment.path, seal.len() as u64, source));
            }
            // The new segment must not reach the disk before the end of this one.
            self.flush_file(&*writer.file, writer.next, self.truncations.load(Acquire))?;
            writer.sealed = true;
        }
        let (file, path) = (self.options.storage.as_ref(), segment::path(&self.dir, writer.next));
        let file = match create_segment(file, &self.dir, &path, writer.next) {
            Ok(file) => file,
            Err(error) => {
                // Best effort: an empty file that stays is emptied again by the next attempt.
                let _ = self.options.storage.remove(&path);
                return Err(error);
            }
        };
        let end = SegmentEnd { offset: writer.next, position: HEADER_BYTES as u64, sealed: false };
        let next = Arc::new(Segment::new(&self.dir, writer.next, end, Some(Vec::new())));
        self.segments.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&next));
        let mut old_end = writer.segment.end();
        old_end.sealed = true;
        writer.segment.set_end(old_end);
        writer.segment = next;
        writer.file = Arc::from(file);
        writer.position = HEADER_BYTES as u64;
        writer.indexed = writer.position;
        writer.sealed = false;
        Ok(())
    }

    /// Makes durable what was appended before the call.
    fn flush(&self) -> Result<(), LogError> {
        let (file, next, truncations) = {
            let writer = lock(&self.writer);
            (Arc::clone(&writer.file), writer.next, self.truncations.load(Acquire))
        };
        if self.commit.progress.borrow().durable >= next {
            return Ok(());
        }
        self.flush_file(&*file, next, truncations)
    }

    /// `next` and `file` are the end of the log after so many truncations.
    fn flush_file(&self, file: &dyn LogFile, next: u64, truncations: u64) -> Result<(), LogError> {
        let _right = self.commit.flush_right();
        // After a failed flush the kernel may have dropped the dirty pages, so a later success would prove nothing.
        self.check_writable()?;
        // A truncation has flushed what it left, and whatever was appended since asks for a flush of its own.
        if self.truncations.load(Acquire) != truncations {
            return Ok(());
        }
        self.flushed(file.sync_data())?;
        self.commit.publish(next);
        Ok(())
    }

    /// Ends all writing after a failed flush.
    fn flushed(&self, outcome: io::Result<()>) -> Result<(), LogError> {
        outcome.map_err(|error| {
            let cause = error.to_string();
            self.commit.fail(&cause);
            self.poisoned(&cause)
        })
    }

    fn check_writable(&self) -> Result<(), LogError> {
        let Progress { failed, .. } = &*self.commit.progress.borrow();
        failed.as_ref().map_or(Ok(()), |cause| Err(self.poisoned(cause)))
    }

    fn poisoned(&self, cause: &str) -> LogError {
        LogError::Poisoned { dir: self.dir.clone(), cause: cause.to_owned() }
    }

    fn undurable(&self, why: &Undurable, offset: u64) -> LogError {
        match why {
            Undurable::Failed(cause) => self.poisoned(cause),
            Undurable::Removed => LogError::Removed { offset: offset.saturating_sub(1) },
        }
    }

    fn next_offset(&self) -> u64 {
        *self.appended.borrow()
    }

    fn start_offset(&self) -> u64 {
        self.segments.read().unwrap_or_else(PoisonError::into_inner).first().map_or(0, |s| s.first)
    }

    fn segment_of(&self, offset: u64) -> Result<Arc<Segment>, LogError> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        let after = segments.partition_point(|s| s.first <= offset);
        match after.checked_sub(1) {
            Some(at) => Ok(Arc::clone(&segments[at])),
            None => Err(LogError::OffsetGone { offset, start: segments.first().map_or(0, |s| s.first) }),
        }
    }

    fn remove_before(&self, offset: u64) -> Result<u64, LogError> {
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let storage = self.options.storage.as_ref();
        while segments.len() > 1 && segments[1].first <= offset {
            let path = &segments[0].path;
            storage.remove(path).map_err(|e| LogError::io("remove", path, e))?;
            // A removal that reaches the disk before an older one would leave a gap, which opening must refuse.
            storage.sync_dir(&self.dir).map_err(|e| LogError::io("flush", &self.dir, e))?;
            segments.remove(0);
        }
        Ok(segments.first().map_or(0, |s| s.first))
    }

    /// Every step leaves, on disk and in memory, a log that just ends earlier than before.
    fn truncate_from(&self, offset: u64) -> Result<u64, LogError> {
        let mut guard = lock(&self.writer);
        let writer = &mut *guard;
        self.check_writable()?;
        let holder = self.segment_of(offset)?;
        let end = writer.next;
        if offset >= end {
            return Ok(0);
        }
        let position = reader::position_of(&*self.options.storage, holder, offset, LOOKUP_CHUNK)?;
        let _right = self.commit.flush_right();
        self.check_writable()?;
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        // The oldest segments may have been removed since the position was looked up.
        if let Some(start) = segments.first().map(|s| s.first).filter(|start| offset < *start) {
            return Err(LogError::OffsetGone { offset, start });
        }
        while let [.., previous, last] = segments.as_slice()
            && last.first > offset
        {
            let file = self.options.storage.open(&previous.path).map_err(|e| LogError::io("open", &previous.path, e))?;
            self.options.storage.remove(&last.path).map_err(|e| LogError::io("remove", &last.path, e))?;
            self.end_with(writer, Arc::clone(previous), Arc::from(file));
            segments.pop();
            // A removal that reaches the disk before a newer one would leave a gap, which opening must refuse.
            self.flushed(self.options.storage.sync_dir(&self.dir))?;
        }
        let (file, old) = (Arc::clone(&writer.file), Arc::clone(&writer.segment));
        file.set_len(position).map_err(|e| LogError::io("cut", &old.path, e))?;
        let cut = Arc::new(old.cut(SegmentEnd { offset, position, sealed: false }));
        self.end_with(writer, Arc::clone(&cut), Arc::clone(&file));
        segments.pop();
        segments.push(cut);
        self.flushed(file.sync_data())?;
        self.commit.publish(offset);
        Ok(end - offset)
    }

    /// Makes `segment` the one being written, after everything past its end has been removed.
    fn end_with(&self, writer: &mut Writer, segment: Arc<Segment>, file: Arc<dyn LogFile>) {
        let SegmentEnd { offset, position, sealed } = segment.end();
        (writer.next, writer.position, writer.sealed) = (offset, position, sealed);
        writer.indexed = segment.last_indexed();
        (writer.segment, writer.file) = (segment, file);
        self.truncations.fetch_add(1, AcqRel);
        self.appended.send_replace(offset);
        self.commit.truncated(offset);
    }

    /// The number of truncations once none is under way.
    fn settled_truncations(&self) -> u64 {
        let _writer = lock(&self.writer);
        self.truncations.load(Acquire)
    }
}

impl Writer {
    fn frame(&mut self, records: &[impl AsRef<[u8]>]) {
        self.buffer.clear();
        self.entries.clear();
        let mut indexed = self.indexed;
        for (offset, record) in (self.next..).zip(records) {
            let position = self.position + self.buffer.len() as u64;
            if position - indexed >= INDEX_EVERY {
                self.entries.push(IndexEntry { offset, position });
                indexed = position;
            }
            frame::push_record(&mut self.buffer, offset, record.as_ref());
        }
    }
}

/// Keeps every other opener out of the folder until it is dropped.
#[derive(Debug)]
struct DirLock(File);

impl DirLock {
    fn take(dir: &Path) -> Result<Self, LogError> {
        let path = dir.join("lock");
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).map_err(|e| LogError::io("open", &path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(LogError::Locked { dir: dir.to_owned() }),
            Err(TryLockError::Error(e)) => Err(LogError::io("lock", &path, e)),
        }
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing is not enough: a process being started by this one may hold a copy of the file for a moment.
        let _ = self.0.unlock();
    }
}

/// Brings the folder into a state that can be appended to.
fn recover(dir: &Path, options: &LogOptions) -> Result<(Vec<Arc<Segment>>, Writer, Recovery), LogError> {
    let storage = options.storage.as_ref();
    let names = storage.list(dir).map_err(|e| LogError::io("list", dir, e))?;
    for name in names.iter().filter(|name| rewrite::is_unfinished(name)) {
        let path = dir.join(name);
        storage.remove(&path).map_err(|e| LogError::io("remove", &path, e))?;
    }
    let firsts = segment::first_offsets(&names);
    let mut segments = Vec::with_capacity(firsts.len() + 1);
    for pair in firsts.windows(2) {
        segments.push(Arc::new(segment::open_sealed(storage, dir, pair[0], pair[1])?));
    }
    let mut recovery = Recovery { next_offset: 0, truncated_bytes: 0, truncated_reason: None, segments: 0 };
    let first = firsts.last().copied().unwrap_or(options.first_offset);
    let path = segment::path(dir, first);
    let mut end = SegmentEnd { offset: first, position: HEADER_BYTES as u64, sealed: false };
    let mut index = Vec::new();
    let file = if firsts.is_empty() {
        create_segment(storage, dir, &path, first)?
    } else {
        let file = storage.open(&path).map_err(|e| LogError::io("open", &path, e))?;
        let scan = segment::scan_last(&*file, &path, first)?;
        recovery.truncated_reason = scan.torn;
        if let Some(damage) = scan.damage {
            if options.on_damage == OnDamage::Refuse {
                return Err(damage);
            }
            set_aside(storage, dir, &path, &*file, scan.end.position, scan.file_len)?;
            recovery.truncated_reason = Some(damage.to_string());
        }
        if recovery.truncated_reason.is_some() {
            recovery.truncated_bytes = scan.file_len - scan.end.position.min(scan.file_len);
            file.set_len(scan.end.position.min(scan.file_len)).map_err(|e| LogError::io("cut", &path, e))?;
            tracing::warn!(
                segment = %path.display(), bytes = recovery.truncated_bytes, reason = recovery.truncated_reason,
                "cut an interrupted write off the log"
            );
        }
        (end, index) = (scan.end, scan.index);
        if scan.unborn {
            drop(file);
            create_segment(storage, dir, &path, first)?
        } else {
            // After a kill the records may be in the page cache only; they count as durable from here on.
            file.sync_data().map_err(|e| LogError::io("flush", &path, e))?;
            file
        }
    };
    let indexed = index.last().map_or(HEADER_BYTES as u64, |e: &IndexEntry| e.position);
    let segment = Arc::new(Segment::new(dir, first, end, Some(index)));
    segments.push(Arc::clone(&segment));
    recovery.next_offset = end.offset;
    recovery.segments = segments.len();
    let writer = Writer {
        segment,
        file: Arc::from(file),
        next: end.offset,
        position: end.position,
        indexed,
        sealed: end.sealed,
        buffer: Vec::new(),
        entries: Vec::new(),
    };
    Ok((segments, writer, recovery))
}

/// Makes a segment file whose header and name are durable before any record can be written to it.
fn create_segment(storage: &dyn Storage, dir: &Path, path: &Path, first: u64) -> Result<Box<dyn LogFile>, LogError> {
    let header = frame::header(first);
    let file = storage.create(path).map_err(|e| LogError::write(path, header.len() as u64, e))?;
    storage::write_all_at(&*file, &header, 0).map_err(|e| LogError::write(path, header.len() as u64, e))?;
    file.sync_data().map_err(|e| LogError::io("flush", path, e))?;
    storage.sync_dir(dir).map_err(|e| LogError::io("flush", dir, e))?;
    Ok(file)
}

fn set_aside(storage: &dyn Storage, dir: &Path, segment: &Path, file: &dyn LogFile, from: u64, to: u64) -> Result<(), LogError> {
    let path = PathBuf::from(format!("{}.{from}.damaged", segment.display()));
    let copy = || -> io::Result<()> {
        let aside = storage.create(&path)?;
        let mut chunk = vec![0; READ_CHUNK];
        let mut at = from;
        while at < to {
            let read = storage::read_full_at(file, &mut chunk, at)?;
            if read == 0 {
                break;
            }
            storage::write_all_at(&*aside, &chunk[..read], at - from)?;
            at += read as u64;
        }
        aside.sync_data()?;
        storage.sync_dir(dir)
    };
    copy().map_err(|e| LogError::write(&path, to - from, e))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
