//! Replacing stored records by others, for what has to be forgotten.
//!
//! The log only grows, with this one exception. A segment is written anew beside the old one with everything else as it was, made
//! durable, and renamed over it: at every moment the name leads to a whole segment, the old one or the new one. Offsets stay.

use super::error::LogError;
use super::frame::{self, HEADER_BYTES, IndexEntry};
use super::reader::each_record;
use super::segment::{INDEX_EVERY, Segment, SegmentEnd};
use super::storage::{self, LogFile};
use super::{READ_CHUNK, Shared, lock};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::AcqRel;
use std::sync::{Arc, PoisonError};

/// What stands in a record's place, by its offset and bytes; none: the record stays.
type Replace<'a> = dyn FnMut(u64, &[u8]) -> Option<Vec<u8>> + 'a;

/// What a segment is called until it is whole.
const UNFINISHED: &str = ".klog.new";

impl Shared {
    /// See [`super::Log::rewrite`].
    pub(super) fn rewrite(&self, offsets: &[u64], replace: &mut Replace<'_>) -> Result<u64, LogError> {
        let mut guard = lock(&self.writer);
        let writer = &mut *guard;
        let _right = self.commit.flush_right();
        self.check_writable()?;
        let mut segments = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let last = segments.len() - 1;
        let mut replaced = 0;
        for (at, slot) in segments.iter_mut().enumerate() {
            let (first, end) = (slot.first, slot.end());
            let from = offsets.partition_point(|o| *o < first);
            let wanted = &offsets[from..offsets.partition_point(|o| *o < end.offset).max(from)];
            if wanted.is_empty() {
                continue;
            }
            let path = unfinished(&slot.path);
            let written = self.write_anew(slot, &path, wanted, replace);
            let fresh = match written {
                Ok(fresh) if fresh.replaced > 0 => fresh,
                nothing => {
                    // Best effort: what stays is removed when the log is opened next.
                    let _ = self.options.storage.remove(&path);
                    nothing?;
                    continue;
                }
            };
            self.options.storage.rename(&path, &slot.path).map_err(|e| LogError::io("rename", &path, e))?;
            replaced += fresh.replaced;
            *slot = Arc::new(Segment::new(&self.dir, first, fresh.end, Some(fresh.index)));
            // Readers and flushes of the old file must not take it for this one.
            self.truncations.fetch_add(1, AcqRel);
            if at == last {
                writer.position = fresh.end.position;
                writer.indexed = slot.last_indexed();
                (writer.segment, writer.file) = (Arc::clone(slot), Arc::from(fresh.file));
                self.commit.publish(end.offset);
            }
            self.flushed(self.options.storage.sync_dir(&self.dir))?;
        }
        Ok(replaced)
    }

    /// The segment with some records replaced, durable under another name.
    fn write_anew(&self, segment: &Arc<Segment>, path: &Path, wanted: &[u64], replace: &mut Replace<'_>) -> Result<Fresh, LogError> {
        let storage = &*self.options.storage;
        let (first, old) = (segment.first, segment.end());
        let failed = |e| LogError::write(path, old.position, e);
        let mut fresh = Fresh {
            file: storage.create(path).map_err(failed)?,
            end: SegmentEnd { position: HEADER_BYTES as u64, ..old },
            index: Vec::new(),
            replaced: 0,
        };
        let mut buffer = frame::header(first).to_vec();
        let (mut flushed, mut indexed, mut wanted) = (0, HEADER_BYTES as u64, wanted.iter().peekable());
        each_record(storage, segment, READ_CHUNK, |offset, payload| {
            let position = flushed + buffer.len() as u64;
            if position - indexed >= INDEX_EVERY {
                fresh.index.push(IndexEntry { offset, position });
                indexed = position;
            }
            while wanted.next_if(|w| **w < offset).is_some() {}
            match wanted.next_if(|w| **w == offset).and_then(|_| replace(offset, payload)) {
                Some(other) => {
                    fresh.replaced += 1;
                    frame::push_record(&mut buffer, offset, &other);
                }
                None => frame::push_record(&mut buffer, offset, payload),
            }
            if buffer.len() >= READ_CHUNK {
                storage::write_all_at(&*fresh.file, &buffer, flushed).map_err(failed)?;
                flushed += buffer.len() as u64;
                buffer.clear();
            }
            Ok(())
        })?;
        fresh.end.position = flushed + buffer.len() as u64;
        if old.sealed {
            frame::push_seal(&mut buffer, &fresh.index, fresh.end.position, old.offset);
        }
        storage::write_all_at(&*fresh.file, &buffer, flushed).map_err(failed)?;
        fresh.file.sync_data().map_err(|e| LogError::io("flush", path, e))?;
        Ok(fresh)
    }
}

/// A segment written anew.
struct Fresh {
    file: Box<dyn LogFile>,
    end: SegmentEnd,
    index: Vec<IndexEntry>,
    replaced: u64,
}

fn unfinished(segment: &Path) -> PathBuf {
    segment.with_extension(UNFINISHED.trim_start_matches('.'))
}

/// Whether a file is what an interrupted rewriting left.
pub(super) fn is_unfinished(name: &str) -> bool {
    name.ends_with(UNFINISHED)
}
