//! One file of the log, and what opening it finds.

use super::error::LogError;
use super::frame::{self, HEADER_BYTES, HeaderFault, IndexEntry, Item, TRAILER_BYTES, Trailer};
use super::storage::{LogFile, Storage, read_full_at};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

/// Distance between two entries of the sparse index, in bytes.
pub(crate) const INDEX_EVERY: u64 = 64 * 1024;

const SUFFIX: &str = ".klog";
const SCAN_CHUNK: usize = 1 << 20;
const RESTORE_HINT: &str = "restore this file from a backup or a replica; nothing was changed on disk";
const DAMAGE_HINT: &str = "valid data exist after the damage, so nothing was removed; restore the file from a backup, \
     or run `kilter repair`, which keeps what lies before the damage and sets the rest aside in a file of its own";

/// A segment as readers and the writer share it.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    pub(crate) path: PathBuf,
    end: Mutex<SegmentEnd>,
    /// `None` until a sealed segment is first sought in.
    index: RwLock<Option<Vec<IndexEntry>>>,
}

/// How far a segment is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentEnd {
    /// Offset after the last record.
    pub(crate) offset: u64,
    /// Byte position after the last record.
    pub(crate) position: u64,
    /// Whether no record will follow in this file.
    pub(crate) sealed: bool,
}

impl Segment {
    pub(crate) fn new(dir: &Path, first: u64, end: SegmentEnd, index: Option<Vec<IndexEntry>>) -> Self {
        Self { first, path: path(dir, first), end: Mutex::new(end), index: RwLock::new(index) }
    }

    pub(crate) fn end(&self) -> SegmentEnd {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_end(&self, end: SegmentEnd) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = end;
    }

    pub(crate) fn extend_index(&self, entries: &[IndexEntry]) {
        if !entries.is_empty() {
            self.index.write().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().extend_from_slice(entries);
        }
    }

    /// The segment as it is once it ends at `end`, before where it ended so far. Readers of this one are not touched.
    pub(crate) fn cut(&self, end: SegmentEnd) -> Self {
        let mut index = self.index_snapshot();
        index.retain(|e| e.offset < end.offset);
        Self { first: self.first, path: self.path.clone(), end: Mutex::new(end), index: RwLock::new(Some(index)) }
    }

    /// The last entry of the index in memory, or the start of the segment.
    pub(crate) fn last_indexed(&self) -> u64 {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        index.as_deref().and_then(<[_]>::last).map_or(HEADER_BYTES as u64, |e| e.position)
    }

    pub(crate) fn index_snapshot(&self) -> Vec<IndexEntry> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    /// The last known record boundary at or before `offset`; reads the index from the seal on first use.
    pub(crate) fn seek(&self, offset: u64, file: &dyn LogFile) -> IndexEntry {
        let mut guard = self.index.read().unwrap_or_else(PoisonError::into_inner);
        if guard.is_none() {
            drop(guard);
            let loaded = self.load_index(file);
            *self.index.write().unwrap_or_else(PoisonError::into_inner) = Some(loaded);
            guard = self.index.read().unwrap_or_else(PoisonError::into_inner);
        }
        let entries = guard.as_deref().unwrap_or_default();
        let after = entries.partition_point(|e| e.offset <= offset);
        match after.checked_sub(1) {
            Some(at) => entries[at],
            None => IndexEntry { offset: self.first, position: HEADER_BYTES as u64 },
        }
    }

    // The index only saves reading; without it a seek walks the segment from its start, checking every record.
    fn load_index(&self, file: &dyn LogFile) -> Vec<IndexEntry> {
        let end = self.end().position;
        let load = || {
            let len = file.len().ok()?;
            let mut seal = vec![0; usize::try_from(len.checked_sub(end)?).ok()?];
            let filled = read_full_at(file, &mut seal, end).ok()?;
            frame::parse_seal(&seal[..filled], len)
        };
        load().map(|(_, index)| index).unwrap_or_else(|| {
            tracing::warn!(segment = %self.path.display(), "segment index is damaged; seeking in it is slow");
            Vec::new()
        })
    }
}

pub(crate) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}{SUFFIX}"))
}

/// First offsets of the segments in `names`, ascending; other files are ignored.
pub(crate) fn first_offsets(names: &[String]) -> Vec<u64> {
    let parse = |name: &String| {
        let digits = name.strip_suffix(SUFFIX)?;
        (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok()).flatten()
    };
    let mut firsts: Vec<u64> = names.iter().filter_map(parse).collect();
    firsts.sort_unstable();
    firsts
}

/// Opens a segment that another one follows: it must be sealed and end where `next_first` begins. Records are verified
/// when they are read.
pub(crate) fn open_sealed(storage: &dyn Storage, dir: &Path, first: u64, next_first: u64) -> Result<Segment, LogError> {
    let path = path(dir, first);
    let file = storage.open_read(&path).map_err(|e| LogError::io("open", &path, e))?;
    let len = file.len().map_err(|e| LogError::io("measure", &path, e))?;
    let mut head = [0; HEADER_BYTES];
    let read = read_full_at(&*file, &mut head, 0).map_err(|e| LogError::io("read", &path, e))?;
    frame::check_header(&head[..read], first).map_err(|fault| header_error(&path, first, fault))?;
    let mut tail = [0; TRAILER_BYTES];
    let at = len.saturating_sub(TRAILER_BYTES as u64);
    let read = read_full_at(&*file, &mut tail, at).map_err(|e| LogError::io("read", &path, e))?;
    let corrupt = |position, offset, detail| LogError::Corrupt { segment: path.clone(), position, offset, detail, hint: RESTORE_HINT };
    let Some(trailer) = frame::parse_trailer(&tail[..read], len) else {
        let detail = format!("the file lacks its proper end although segment {next_first:020} follows; it was cut or overwritten");
        return Err(corrupt(len, next_first, detail));
    };
    if trailer.next_offset != next_first {
        let detail = format!("records {} to {} are missing: a segment file was removed", trailer.next_offset, next_first.saturating_sub(1));
        return Err(corrupt(trailer.data_end, trailer.next_offset, detail));
    }
    let end = SegmentEnd { offset: trailer.next_offset, position: trailer.data_end, sealed: true };
    Ok(Segment::new(dir, first, end, None))
}

/// What a full scan of the last segment found.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) end: SegmentEnd,
    pub(crate) index: Vec<IndexEntry>,
    pub(crate) file_len: u64,
    /// Why bytes after `end` are not part of the log.
    pub(crate) torn: Option<String>,
    /// Set when valid data follow the bad bytes.
    pub(crate) damage: Option<LogError>,
    /// The header was never completed, so the file holds nothing.
    pub(crate) unborn: bool,
}

/// Verifies every record of the last segment and tells an interrupted write from damage.
pub(crate) fn scan_last(file: &dyn LogFile, path: &Path, first: u64) -> Result<Scan, LogError> {
    let read_error = |e| LogError::io("read", path, e);
    let file_len = file.len().map_err(read_error)?;
    let mut scan = Scan {
        end: SegmentEnd { offset: first, position: HEADER_BYTES as u64, sealed: false },
        index: Vec::new(),
        file_len,
        torn: None,
        damage: None,
        unborn: false,
    };
    let mut head = [0; HEADER_BYTES];
    let read = read_full_at(file, &mut head, 0).map_err(read_error)?;
    if let Err(fault) = frame::check_header(&head[..read], first) {
        // The header is durable before the first record is written, so a short or blank file never held any.
        if file_len <= HEADER_BYTES as u64 && (read < HEADER_BYTES || head.iter().all(|b| *b == 0)) {
            scan.unborn = true;
            scan.torn = Some("creation of the segment was interrupted".to_owned());
            return Ok(scan);
        }
        return Err(header_error(path, first, fault));
    }
    let mut buffer = vec![0; SCAN_CHUNK];
    let (mut at, mut filled) = (0, 0);
    let mut indexed = scan.end.position;
    let fault = loop {
        match frame::parse(&buffer[at..filled], scan.end.offset) {
            Item::Record(payload) => {
                if scan.end.position - indexed >= INDEX_EVERY {
                    indexed = scan.end.position;
                    scan.index.push(IndexEntry { offset: scan.end.offset, position: indexed });
                }
                let whole = frame::FRAME_BYTES + payload.len();
                at += whole;
                scan.end.offset += 1;
                scan.end.position += whole as u64;
            }
            Item::Need(need) => {
                let left = file_len - scan.end.position;
                if left == 0 {
                    return Ok(scan);
                }
                if need as u64 > left {
                    break "the last record is incomplete";
                }
                buffer.copy_within(at..filled, 0);
                filled -= at;
                at = 0;
                if buffer.len() < need {
                    buffer.resize(need, 0);
                }
                let got = read_full_at(file, &mut buffer[filled..], scan.end.position + filled as u64).map_err(read_error)?;
                filled += got;
                if filled < need {
                    break "the file ends earlier than its length says";
                }
            }
            Item::Seal => break "the end mark of the segment is incomplete",
            Item::Bad(detail) => break detail,
        }
    };
    judge_rest(file, path, fault, scan)
}

fn judge_rest(file: &dyn LogFile, path: &Path, fault: &str, mut scan: Scan) -> Result<Scan, LogError> {
    let read_error = |e| LogError::io("read", path, e);
    let SegmentEnd { offset, position, .. } = scan.end;
    let mut rest = vec![0; usize::try_from(scan.file_len - position).unwrap_or(usize::MAX)];
    let read = read_full_at(file, &mut rest, position).map_err(read_error)?;
    rest.truncate(read);
    if let Some((Trailer { data_end, next_offset, .. }, index)) = frame::parse_seal(&rest, scan.file_len)
        && (data_end, next_offset) == (position, offset)
    {
        scan.end.sealed = true;
        scan.index = index;
        return Ok(scan);
    }
    if rest.iter().all(|b| *b == 0) {
        scan.torn = Some("the file ends in zeros, as after a power loss".to_owned());
        return Ok(scan);
    }
    match frame::find_later_item(&rest, offset, scan.file_len) {
        None => scan.torn = Some(fault.to_owned()),
        Some(later) => {
            let detail = format!("{fault}, and valid data follow at byte {}", position + later as u64);
            scan.damage = Some(LogError::Corrupt { segment: path.to_owned(), position, offset, detail, hint: DAMAGE_HINT });
        }
    }
    Ok(scan)
}

/// The error of a reader that meets bytes which are not the record it expects.
pub(crate) fn read_damage(path: &Path, position: u64, offset: u64, detail: &str) -> LogError {
    LogError::Corrupt { segment: path.to_owned(), position, offset, detail: detail.to_owned(), hint: RESTORE_HINT }
}

fn header_error(path: &Path, first: u64, fault: HeaderFault) -> LogError {
    match fault {
        HeaderFault::Damaged(detail) => read_damage(path, 0, first, detail),
        HeaderFault::Version(found) => LogError::UnknownFormat { segment: path.to_owned(), found, known: frame::FORMAT_VERSION },
    }
}
