//! Reading in offset order, with large reads, while the writer goes on.

use super::Shared;
use super::error::LogError;
use super::frame::{FRAME_BYTES, Item, parse, parse_unchecked};
use super::segment::{Segment, SegmentEnd, read_damage};
use super::storage::{LogFile, Storage, read_full_at};
use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;

const SHORT_SEGMENT: &str = "the segment ends before its last record";

/// A position in the log that moves forward record by record.
///
/// At the end of what is appended it answers `None`; asking again later goes on with records appended since, so a
/// follower tails the log with one reader. Every record is checked against its checksum. When records are removed from
/// the end of the log, a reader that was past the new end keeps its place and waits for the log to get there again.
#[derive(Debug)]
pub struct LogReader {
    shared: Arc<Shared>,
    next: u64,
    chunk: usize,
    cursor: Option<Cursor>,
    buffer: Vec<u8>,
    /// Truncations of the log when the cursor was made; after another one its segment and its buffer are stale.
    truncations: u64,
}

/// Where the reader stands in one file. `at..filled` of the buffer are the bytes not consumed yet.
#[derive(Debug)]
struct Cursor {
    segment: Arc<Segment>,
    file: Box<dyn LogFile>,
    end: SegmentEnd,
    offset: u64,
    position: u64,
    at: usize,
    filled: usize,
}

impl LogReader {
    pub(super) fn new(shared: Arc<Shared>, from: u64, chunk: usize) -> Self {
        Self { shared, next: from, chunk, cursor: None, buffer: Vec::new(), truncations: 0 }
    }

    /// Offset of the record that the next call answers.
    pub fn next_offset(&self) -> u64 {
        self.next
    }

    /// The next record, or `None` at the end of what is appended so far.
    ///
    /// Errors: [`LogError::OffsetGone`] before the start of the log, [`LogError::Corrupt`] where stored bytes are damaged,
    /// [`LogError::Io`]. The reader stays where it was.
    pub fn next_record(&mut self) -> Result<Option<(u64, &[u8])>, LogError> {
        loop {
            match self.advance() {
                Ok(None) => return Ok(None),
                // The payload lies in the buffer; borrowing it here rather than in the loop satisfies the borrow checker.
                Ok(Some((offset, range))) => return Ok(Some((offset, &self.buffer[range]))),
                // A truncation may have pulled the bytes away during the read.
                Err(_) if self.shared.settled_truncations() != self.truncations => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next record as a range of the buffer.
    fn advance(&mut self) -> Result<Option<(u64, Range<usize>)>, LogError> {
        loop {
            let truncations = self.shared.truncations.load(Acquire);
            if truncations != self.truncations {
                self.truncations = truncations;
                self.cursor = None;
            }
            let Some(cursor) = self.cursor.as_mut() else {
                if !self.locate()? {
                    return Ok(None);
                }
                continue;
            };
            if cursor.offset >= cursor.end.offset {
                let was = cursor.end;
                cursor.end = cursor.segment.end();
                if cursor.end.offset == was.offset {
                    if !cursor.end.sealed || self.next >= self.shared.next_offset() {
                        return Ok(None);
                    }
                    self.cursor = None;
                }
                continue;
            }
            let bytes = &self.buffer[cursor.at..cursor.filled];
            // Records between the index entry and the start asked for are only passed over.
            let wanted = cursor.offset >= self.next;
            match if wanted { parse(bytes, cursor.offset) } else { parse_unchecked(bytes, cursor.offset) } {
                Item::Record(payload) => {
                    let len = payload.len();
                    cursor.pass(len);
                    if wanted {
                        self.next += 1;
                        return Ok(Some((cursor.offset - 1, cursor.at - len..cursor.at)));
                    }
                }
                Item::Need(need) => {
                    if let Err(error) = cursor.fill(&mut self.buffer, need, self.chunk) {
                        self.cursor = None;
                        return Err(error);
                    }
                }
                Item::Seal => return Err(self.damage(SHORT_SEGMENT)),
                Item::Bad(detail) => return Err(self.damage(detail)),
            }
        }
    }

    fn damage(&mut self, detail: &str) -> LogError {
        match self.cursor.take() {
            Some(c) => read_damage(&c.segment.path, c.position, c.offset, detail),
            None => read_damage(&self.shared.dir, 0, self.next, detail),
        }
    }

    /// Opens the segment that holds the next record; false when it is not appended yet.
    fn locate(&mut self) -> Result<bool, LogError> {
        if self.next >= self.shared.next_offset() {
            return Ok(false);
        }
        let segment = self.shared.segment_of(self.next)?;
        self.cursor = Some(Cursor::near(&*self.shared.options.storage, segment, self.next)?);
        Ok(true)
    }
}

/// Byte position of record `offset` in `segment`. Checks the records on the way there from the nearest index entry, but
/// not the record itself.
pub(super) fn position_of(storage: &dyn Storage, segment: Arc<Segment>, offset: u64, chunk: usize) -> Result<u64, LogError> {
    let mut cursor = Cursor::near(storage, segment, offset)?;
    let mut buffer = Vec::new();
    while cursor.offset < offset {
        let detail = match parse(&buffer[cursor.at..cursor.filled], cursor.offset) {
            Item::Record(payload) => {
                cursor.pass(payload.len());
                continue;
            }
            Item::Need(need) => {
                cursor.fill(&mut buffer, need, chunk)?;
                continue;
            }
            Item::Seal => SHORT_SEGMENT,
            Item::Bad(detail) => detail,
        };
        return Err(read_damage(&cursor.segment.path, cursor.position, cursor.offset, detail));
    }
    Ok(cursor.position)
}

/// Every record of a segment, checked.
pub(super) fn each_record(
    storage: &dyn Storage,
    segment: &Arc<Segment>,
    chunk: usize,
    mut visit: impl FnMut(u64, &[u8]) -> Result<(), LogError>,
) -> Result<(), LogError> {
    let mut cursor = Cursor::near(storage, Arc::clone(segment), segment.first)?;
    let mut buffer = Vec::new();
    while cursor.offset < cursor.end.offset {
        let detail = match parse(&buffer[cursor.at..cursor.filled], cursor.offset) {
            Item::Record(payload) => {
                visit(cursor.offset, payload)?;
                let len = payload.len();
                cursor.pass(len);
                continue;
            }
            Item::Need(need) => {
                cursor.fill(&mut buffer, need, chunk)?;
                continue;
            }
            Item::Seal => SHORT_SEGMENT,
            Item::Bad(detail) => detail,
        };
        return Err(read_damage(&cursor.segment.path, cursor.position, cursor.offset, detail));
    }
    Ok(())
}

impl Cursor {
    /// Stands at the last known record boundary at or before `offset`.
    fn near(storage: &dyn Storage, segment: Arc<Segment>, offset: u64) -> Result<Self, LogError> {
        let file = storage.open_read(&segment.path).map_err(|e| LogError::io("open", &segment.path, e))?;
        let entry = segment.seek(offset, &*file);
        let end = segment.end();
        Ok(Self { segment, file, end, offset: entry.offset, position: entry.position, at: 0, filled: 0 })
    }

    /// Moves past the record at the front of the buffer.
    fn pass(&mut self, payload: usize) {
        let whole = FRAME_BYTES + payload;
        self.at += whole;
        self.position += whole as u64;
        self.offset += 1;
    }

    /// Brings at least `need` unconsumed bytes into the buffer.
    fn fill(&mut self, buffer: &mut Vec<u8>, need: usize, chunk: usize) -> Result<(), LogError> {
        let available = self.end.position - self.position;
        if need as u64 > available {
            return Err(read_damage(&self.segment.path, self.position, self.offset, "the record reaches past the end of the data"));
        }
        buffer.copy_within(self.at..self.filled, 0);
        self.filled -= self.at;
        self.at = 0;
        let want = usize::try_from(available).unwrap_or(usize::MAX).min(chunk.max(need));
        if buffer.len() < want {
            buffer.resize(want, 0);
        }
        if self.filled < want {
            let read = read_full_at(&*self.file, &mut buffer[self.filled..want], self.position + self.filled as u64)
                .map_err(|e| LogError::io("read", &self.segment.path, e))?;
            self.filled += read;
        }
        if self.filled < need {
            return Err(read_damage(&self.segment.path, self.position, self.offset, "the file is shorter than what was written to it"));
        }
        Ok(())
    }
}

/// Records until the end of what is appended; copies each payload. An error is answered again if asked again. [`LogReader::next_record`] does not copy.
impl Iterator for LogReader {
    type Item = Result<(u64, Bytes), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_record().map(|found| found.map(|(offset, payload)| (offset, Bytes::copy_from_slice(payload)))).transpose()
    }
}
